"""Measure the time and memory that `shiftsearch.denoise` and others take for frames of 854 x 480.

python examples/benchmarks/denoise_speed.py [--quick] [--json FILE]

The clip is a texture that moves by (1, 2) pixels a frame, with noise of sigma 20, grey and in colour, of 8 bits as the
others need it. All methods run in turn, twice, and the better time counts: seconds for each frame on the clock, and of
all cores together. OpenCV's fastNlMeansDenoisingMulti looks at 5 frames, scikit-image's denoise_nl_means at one; both use
the windows that they suggest (21 and 19 pixels, patches of 7 and 5). Memory is the peak of a separate process while it
denoises a stream of a given length, beyond what it held before. It needs shiftsearch[video] and scikit-image.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from skimage.restoration import denoise_nl_means

import shiftsearch
from shiftsearch.threads import get_num_threads

SIGMA = 20


def clip(frames: int, height: int, width: int, colour: bool):
    """Yield noisy frames, uint8 (H, W) or (H, W, 3)."""
    rng = np.random.default_rng(0)
    H, W, channels = height + 16, width + 32, 3 if colour else 1
    frequency = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W)) + 0.01
    texture = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((channels, H, W))) / frequency**1.6, (H, W))
    texture = 128 + 33 * texture / texture.std((1, 2), keepdims=True)
    for t in range(frames):
        top, left = t % 16, 2 * (t % 16)
        frame = texture[:, top : top + height, left : left + width].transpose(1, 2, 0)
        noisy = np.clip(np.rint(frame + SIGMA * rng.standard_normal(frame.shape)), 0, 255).astype(np.uint8)
        yield noisy if colour else noisy[..., 0]


# --- methods: from a list of frames to the number of those that were denoised -----------------------
def ours(frames) -> int:
    return sum(1 for _ in shiftsearch.denoise_stream(iter(frames), SIGMA))


def opencv(frames) -> int:
    middle = frames[:5]
    if middle[0].ndim == 3:
        cv2.fastNlMeansDenoisingColoredMulti(middle, 2, 5, None, SIGMA, SIGMA, 7, 21)
    else:
        cv2.fastNlMeansDenoisingMulti(middle, 2, 5, None, SIGMA, 7, 21)
    return 1


def skimage(frames) -> int:
    axis = -1 if frames[0].ndim == 3 else None
    options = {"patch_size": 5, "patch_distance": 9, "fast_mode": True, "preserve_range": True}
    denoise_nl_means(frames[0], h=0.8 * SIGMA, sigma=SIGMA, channel_axis=axis, **options)
    return 1


METHODS = {"shiftsearch, fast": ours, "OpenCV NLM multi": opencv, "scikit-image NLM": skimage}


# --- measuring --------------------------------------------------------------------------------------
def timed(method, frames) -> tuple[float, float]:
    """Return seconds for each frame: on the clock, and of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = method(frames)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def speeds(size, colour: bool, count: int, turns: int):
    """Return a row for each method and number of threads."""
    frames = list(clip(count, *size, colour))
    rows = []
    for number in sorted({1, get_num_threads()}):
        os.environ["SHIFTSEARCH_NUM_THREADS"] = str(number)
        cv2.setNumThreads(number)
        ours(frames[:6])  # compiles
        found = {name: [] for name in METHODS}
        for _ in range(turns):
            for name, method in METHODS.items():
                found[name].append(timed(method, frames))
        for name, seconds in found.items():
            wall, cpu = (round(min(s), 3) for s in zip(*seconds, strict=True))
            rows.append({"method": name, "colour": colour, "threads": number, "wall_s": wall, "cpu_s": cpu})
            print(
                f"{'colour' if colour else 'grey':8}{number} threads  {name:20} {wall:8.3f} s {cpu:8.3f} s of cores",
                flush=True,
            )
        del os.environ["SHIFTSEARCH_NUM_THREADS"]
    return rows


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def held(size, count: int) -> float:
    """Return the MiB that a separate process needs for a colour clip of so many frames."""
    command = [sys.executable, __file__, "--hold", str(count), *map(str, size)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def hold(count: int, height: int, width: int) -> None:
    ours(list(clip(6, 48, 64, True)))  # compiles
    before = peak()
    for _ in shiftsearch.denoise_stream(clip(count, height, width, True), SIGMA):
        pass
    print(round(peak() - before, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller frame, one turn")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--hold", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        hold(*arguments.hold)
        return
    size, turns = ((96, 128), 1) if arguments.quick else ((480, 854), 2)
    memory = {
        count: held(size, count) for count in (8, 24, 48)
    }  # before all else, as a process starts with the peak of its parent
    print(", ".join(f"{count} frames in colour: {found} MiB" for count, found in memory.items()))
    rows = [row for colour in (False, True) for row in speeds(size, colour, 8, turns)]
    libraries = ("numpy", "numba", "opencv-python-headless", "scikit-image")
    versions = {name: importlib.metadata.version(name) for name in libraries} | {"python": platform.python_version()}
    result = {
        "protocol": __doc__,
        "size": size,
        "threads": get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"shiftsearch": shiftsearch.__version__, **versions},
        "rows": rows,
        "peak_MiB": memory,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
