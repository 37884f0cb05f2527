"""Measure `shiftsearch.denoise` on fast pans, beside the same with true flow and the programs of the authors of its peers.

python examples/benchmarks/pans.py [--json FILE] [--vnlb FOLDER] [--vbm3d FILE] [--clips FOLDER] [--quick]

Each clip is 7 frames of 144 x 176, grey, cut from one frame of a clip of `denoise_peers.py` ever further to the right and
down; white noise of 20 is added (seed 1) and not clipped. PSNR in dB, of results clipped to 0..255. Programs are those of
`denoise_peers.py`, in which nothing was tuned for these clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import denoise as protocol
import denoise_peers as peers
import numpy as np
import real_clips

import shiftsearch

FRAMES, HEIGHT, WIDTH = 7, 144, 176
PICTURES = ("apple", "cockatoo", "sintel")
SPEEDS = {"30 px": (30, 2), "60 px": (60, 3)}  # right and down, a frame
SIGMA = 20


def picture(folder: Path, name: str) -> np.ndarray:
    """Return the first frame that the clip of this name has, whole and grey."""
    repository, path, first, _ = peers.CLIPS[name]
    return protocol.grey(peers.frames(folder, repository, path, first, 1))[0]


def pan(whole: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return a clip that moves over a picture."""
    moved = [(FRAMES - 1) * step for step in (down, right)]
    top, left = (whole.shape[0] - HEIGHT - moved[0]) // 2, (whole.shape[1] - WIDTH - moved[1]) // 2
    corners = [(top + t * down, left + t * right) for t in range(FRAMES)]
    return np.stack([whole[y : y + HEIGHT, x : x + WIDTH] for y, x in corners])


def true_flow(right: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the flow of such a clip, forward and backward."""
    forward = np.broadcast_to(np.float32([-right, -down])[:, None, None], (FRAMES, 2, HEIGHT, WIDTH))
    return forward, -forward


def ours(quality: str, flow):
    return lambda noisy, sigma: 255 * shiftsearch.denoise(noisy / 255, sigma / 255, quality=quality, flow=flow)


def table(rows) -> str:
    """Return Markdown with a row for each method, and a column for each pan."""
    clips = list(dict.fromkeys((row["pan"], row["clip"]) for row in rows))
    heads = [f"{clip}, {by}" for by, clip in clips]
    lines = ["| PSNR in dB, grey, noise 20 of 255 | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for method in dict.fromkeys(row["method"] for row in rows):
        here = {(row["pan"], row["clip"]): row["psnr"] for row in rows if row["method"] == method}
        lines.append(f"| {method} | " + " | ".join(f"{here[clip]:.2f}" for clip in clips) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--vnlb", type=Path, help="folder of vnlbayes and tvl1flow")
    parser.add_argument("--vbm3d", type=Path, help="VBM3Ddenoising")
    parser.add_argument("--clips", type=Path, default=real_clips.FOLDER, help="folder for the clips")
    parser.add_argument("--quick", action="store_true", help="one picture, one speed")
    arguments = parser.parse_args()
    arguments.clips.mkdir(parents=True, exist_ok=True)
    names, speeds = (PICTURES[:1], ["30 px"]) if arguments.quick else (PICTURES, list(SPEEDS))
    rows = []
    for by in speeds:
        for name in names:
            clean, flow = pan(picture(arguments.clips, name), *SPEEDS[by]), true_flow(*SPEEDS[by])
            methods = {} if arguments.vbm3d is None else {"V-BM3D": peers.vbm3d(arguments.vbm3d)}
            methods |= {"fast": ours("fast", "auto"), "fast, true flow": ours("fast", flow)}
            methods |= {} if arguments.vnlb is None else {"VNLB": peers.vnlb(arguments.vnlb)}
            methods |= {"high": ours("high", "auto"), "high, true flow": ours("high", flow)}
            for method, denoise in methods.items():
                numbers, _ = peers.measured(denoise, clean, SIGMA)
                rows.append({"pan": by, "clip": name, "method": method, "psnr": numbers["psnr"]})
                print(*rows[-1].values(), flush=True)
    print(table(rows))
    if arguments.json:
        result = {"protocol": __doc__, "version": shiftsearch.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
