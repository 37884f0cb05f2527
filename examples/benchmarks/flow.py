"""Measure our own flow beside OpenCV's DIS: alone, in `align` and in `denoise`, in dB and in seconds.

python examples/benchmarks/flow.py [--clips FOLDER] [--table FILE]

Flow alone and `align` follow the protocol of `align.py`: fifteen pairs of real clips, colour, 208 x 272; the flow is
measured in frames with noise of sigma 15 of 255, or in clean ones; it then warps the clean frame, by bicubic interpolation,
and its PSNR to the clean reference is taken without a border of 8 pixels. `denoise` follows that of `denoise.py`: eight
clips of 8 frames of 176 x 144, grey, noise 20, "fast" with the true sigma. Seconds are those of the processor, all threads
together, for one megapixel; methods take turns. The parameters of "match" were chosen on the fifteen pairs, not on the clips
of `denoise` that `denoise.py` calls new.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import align
import cv2
import denoise
import numpy as np
import real_clips

import shiftsearch
from shiftsearch import flow
from shiftsearch.threads import get_num_threads

METHODS = "dis", "match"
RESULTS = Path(__file__).parent / "results" / "flow.json"
SIGMA = 20


def psnr(found, clean) -> float:
    return float(-10 * np.log10(np.mean((np.asarray(found, np.float64) - clean) ** 2)))


def timed(function):
    start = time.process_time()
    return function(), time.process_time() - start


def of_pairs(folder: Path, sigma: int) -> dict[str, dict[str, float]]:
    """Return {method: {what: dB, or seconds a megapixel}} of flow alone, and of align with it, as means of all pairs."""
    rows: dict = {name: [] for name in METHODS}
    inner = np.s_[8:-8, 8:-8]
    for where in align.CLIPS.values():
        frames, rng = align.clip(folder, *where), np.random.default_rng(0)
        seen = frames + np.float32(sigma / 255) * rng.standard_normal(frames.shape, np.float32)
        for t in align.FRAMES:
            here, there, clean = seen[t], seen[t + 1], frames[t + 1]
            pixels = np.prod(here.shape[:2]) / 1e6
            for name in METHODS:
                found, alone = timed(lambda: getattr(flow, name)(here, there, sigma=sigma / 255 or None))  # noqa: B023
                warped = align.remap(clean, found, cv2.INTER_CUBIC)
                aligned, whole = timed(lambda: align.found(here, there, clean, flow=name))  # noqa: B023
                each = psnr(warped[inner], frames[t][inner]), psnr(aligned[inner], frames[t][inner])
                rows[name].append((*each, alone / pixels, whole / pixels))
    names = "flow alone", "align", "flow alone, s", "align, s"
    return {name: dict(zip(names, np.mean(cells, 0).tolist(), strict=True)) for name, cells in rows.items()}


def of_clips(folder: Path) -> dict[str, dict[str, float]]:
    """Return {method: {what: dB, or seconds a megapixel}} of denoise, as means of clips."""
    rows: dict = {name: {"denoise": [], "denoise, new clips": [], "denoise, s": []} for name in METHODS}
    for group in (denoise.TUNED, denoise.NEW):
        for where in group.values():
            clean = denoise.grey(denoise.clip(folder, *where)) / np.float32(255)
            noise = np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32)
            noisy, pixels = clean + np.float32(SIGMA / 255) * noise, clean.size / 1e6
            for name, cells in rows.items():
                found, seconds = timed(lambda: shiftsearch.denoise(noisy, SIGMA / 255, flow=name))  # noqa: B023
                cells["denoise"].append(psnr(found, clean))
                if group is denoise.NEW:
                    cells["denoise, new clips"].append(psnr(found, clean))
                cells["denoise, s"].append(seconds / pixels)
    return {name: {what: float(np.mean(each)) for what, each in cells.items()} for name, cells in rows.items()}


def table(results: dict) -> str:
    """Return a table in Markdown: a row for each measure, a column for each method."""
    lines = ["| | " + " | ".join(METHODS) + " |", "| --- |" + " ---: |" * len(METHODS)]
    for title, rows in results.items():
        for what in rows[METHODS[0]]:
            unit = "s/MPixel" if what.endswith(", s") else "dB"
            cells = " | ".join(f"{rows[method][what]:.2f}" for method in METHODS)
            lines.append(f"| {what.removesuffix(', s')}, {title}, {unit} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, default=real_clips.FOLDER)
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    folder = real_clips.fetch(args.clips)
    shiftsearch.align(np.zeros((64, 64)), np.zeros((64, 64)), "match")  # compiles
    results = {f"noise {sigma}": of_pairs(folder, sigma) for sigma in (15, 0)} | {f"noise {SIGMA}": of_clips(folder)}
    machine = {"processor": platform.processor() or platform.machine(), "threads": get_num_threads()}
    RESULTS.write_text(json.dumps({"machine": machine, "results": _rounded(results)}, indent=1) + "\n")
    print(table(results))
    if args.table:
        args.table.write_text(table(results))


def _rounded(results: dict) -> dict:
    return {
        title: {method: {what: round(value, 2) for what, value in cells.items()} for method, cells in rows.items()}
        for title, rows in results.items()
    }


if __name__ == "__main__":
    main()
