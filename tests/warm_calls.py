"""What users call first, in single precision and on frames of 8 bits: `shiftsearch warm` compiles all that it needs.

As a program it makes these calls and prints the names of the compiled kernels that it looks for on disk. With `warm` as its
argument it does the same for `shiftsearch warm --device cpu`.
"""

from __future__ import annotations

import sys

import numpy as np

import shiftsearch as ss
from shiftsearch import flow


def call_all(put) -> None:
    """Call with arrays that `put` makes of those of NumPy. Sizes differ from those of `warm`."""
    rng = np.random.default_rng(1)
    video = put(rng.standard_normal((1, 3, 12, 32, 40), np.float32))
    whole = rng.integers(-3, 4, (1, 3, 2, 2, 32, 40)).astype(np.float32)
    for motion in (put(whole), put(whole + np.float32(0.3)), None):
        scores, offsets = ss.search(video, video, motion, window=9, patch=7, topk=10)
        out = ss.aggregate(video, scores, offsets, patch=7)
        ss.attend(video, video, video, motion, window=9, topk=10, heads=2)
    ss.search(video, video, None, window=9, patch=7, topk=None)
    ss.search(video, video, put(whole + np.float32(0.3)), window=9, patch=3, topk=5, subpixel=True)
    ss.refine(video, video, offsets, window=3, patch=7, step=0.5, subpixel=True, topk=1)
    ss.fold(ss.gather(out, offsets, patch=7), offsets, scores, size=(3, 32, 40))
    ss.match(video[:, 0], video[:, 1], window=9, patch=7, topk=1)
    ss.scatter(video, scores, offsets, patch=7)
    ss.stack(video, offsets)
    on_frames(put)


def on_frames(put) -> None:
    still = (200 * np.random.default_rng(2).random((13, 17, 3))).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    clip = put(np.stack([np.roll(still, (t, 2 * t), (0, 1)) for t in range(8)]))
    flow.match(clip[0], clip[1])
    ss.align(clip[0], clip, flow="match")
    ss.align_clip(clip, flow="match")
    for quality in ("preview", "fast"):
        ss.denoise(clip, quality=quality, flow="match")
    ss.denoise(clip[..., 0], 20, flow="match")
    noise = 0.1 * np.random.default_rng(3).standard_normal((14, 24, 33), np.float32)
    ss.denoise(put(noise + np.linspace(0, 1, 33, dtype=np.float32)), quality="high", flow="match")
    list(ss.scene_cuts(clip))
    ss.estimate_noise(clip, flow=None)


if __name__ == "__main__":
    from shiftsearch import __main__
    from shiftsearch.backends.cpu import disk
    from shiftsearch.demo.run import run

    named, path_of = set(), disk.OnDisk._path

    def noted(self, *about):
        path = path_of(self, *about)
        named.add(path.name)
        return path

    disk.OnDisk._path = noted
    if sys.argv[1:] == ["warm"]:
        __main__.main(["warm", "--device", "cpu"])
    else:
        call_all(lambda array: array)
        run(sys.argv[1])
    print("\n".join(named))
