"""Measure the alignment of real clips under noise: search, flow alone, and no alignment.

python examples/benchmarks/align.py [folder for the clips]

Protocol. Colour, crops of 208 x 272 from the middle; frame t + 1 is aligned to frame t, for two t of each clip. Gaussian
noise of sigma 15 (of 255) is added to both; flow and search see only these noisy frames (or the clean ones, in the
second table). The places that were found then warp the clean frame, and its PSNR to the clean reference is measured,
without a border of 8 pixels, as a mean over clips. Parameters were chosen on the first five clips, and the threshold for
leaving the flow on the next five too; the last five are scenes that were first measured when all was decided.
"""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import real_clips
from skimage.metrics import peak_signal_noise_ratio

import shiftsearch
from shiftsearch import flow

CLIPS = {  # name: (file, first frame, whether to halve the size, which hides traces of compression)
    "carphone": ("carphone_pristine.mp4", 0, False),
    "bbb": ("bigbuckbunny.mp4", 30, True),
    "bikes": ("bikes.mp4", 104, False),
    "bikes, walkers": ("bikes.mp4", 190, False),
    "city": ("cityCC0.mpg", 20, True),
    "bikes, street": ("bikes.mp4", 140, False),
    "bikes, start": ("bikes.mp4", 2, False),
    "carphone, later": ("carphone_pristine.mp4", 75, False),
    "bbb, later": ("bigbuckbunny.mp4", 95, True),
    "city, later": ("cityCC0.mpg", 130, True),
    "carphone, middle": ("carphone_pristine.mp4", 40, False),
    "bbb, middle": ("bigbuckbunny.mp4", 60, True),
    "bikes, pan": ("bikes.mp4", 80, False),
    "bikes, end": ("bikes.mp4", 220, False),
    "city, middle": ("cityCC0.mpg", 70, True),
}
GROUPS = {"first five": slice(0, 5), "next five": slice(5, 10), "unseen five": slice(10, 15), "all": slice(None)}
FRAMES = 0, 6  # t
SIGMA = 15
RESULTS = Path(__file__).parent / "results" / "align.json"


def clip(folder: Path, file: str, first: int, halved: bool) -> np.ndarray:
    """Return frames of at most (T, 208, 272, 3), float32, 0..1."""
    whole = real_clips.frames(folder / file, first, FRAMES[-1] + 2, halved)
    top, left = (max(0, (n - most) // 2) for n, most in zip(whole.shape[1:3], (208, 272), strict=True))
    return np.float32(whole[:, top : top + 208, left : left + 272]) / 255


def remap(frame, moved, how):
    """Return a frame warped by flow alone, by OpenCV."""
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    return cv2.remap(frame, x + moved[0], y + moved[1], how, borderMode=cv2.BORDER_REFLECT_101)


def found(reference, frame, clean, **options):
    """Return the clean frame, warped to the places that a search in the noisy frames found."""
    _, offsets = shiftsearch.align(reference, frame, return_offsets=True, **options)
    shown = {name: options[name] for name in ("output", "interp") if name in options}
    return shiftsearch.align(clean, clean, offsets, window=1, **shown)


def methods(reference, frame, clean):
    """Return {row: the clean frame aligned}, by what reference and frame show."""
    dis, farneback = flow.dis(reference, frame), flow.farneback(reference, frame)
    coarse = flow.coarse(flow.dis(reference, frame, sigma=SIGMA / 255), 8)
    back = shiftsearch.upsample_flow(coarse, clean.shape[:2])
    return {
        "no alignment": clean,
        "DIS flow, nearest": remap(clean, dis, cv2.INTER_NEAREST),
        "DIS flow, bilinear": remap(clean, dis, cv2.INTER_LINEAR),
        "DIS flow, bicubic": remap(clean, dis, cv2.INTER_CUBIC),
        "DIS flow of a 1/8 grid, bilinear": remap(clean, back, cv2.INTER_LINEAR),
        "Farneback flow, bilinear": remap(clean, farneback, cv2.INTER_LINEAR),
        "align": found(reference, frame, clean),
        "align, window 11": found(reference, frame, clean, window=11),
        "align, bilinear": found(reference, frame, clean, interp="bilinear"),
        "align, pixel by pixel": found(reference, frame, clean, output="pixel"),
        "align, penalty 0": found(reference, frame, clean, penalty=0),
        "align, sigma 0": found(reference, frame, clean, sigma=0),
        "align, flow of a 1/8 grid": found(reference, frame, clean, flow=coarse),
        "align, Farneback flow": found(reference, frame, clean, flow="farneback"),
        "align, no flow": found(reference, frame, clean, flow=None),
    }


def table(scenes, sigma):
    """Return {row: {clip: dB}}."""
    rows = {}
    for name, frames in scenes.items():
        rng = np.random.default_rng(0)
        seen = frames + np.float32(sigma / 255) * rng.standard_normal(frames.shape, np.float32)
        for t in FRAMES:
            inner = np.s_[8:-8, 8:-8]
            for row, aligned in methods(seen[t], seen[t + 1], frames[t + 1]).items():
                score = peak_signal_noise_ratio(frames[t][inner], aligned[inner], data_range=1)
                rows.setdefault(row, {}).setdefault(name, []).append(score)
    return {row: {name: float(np.mean(scores)) for name, scores in cells.items()} for row, cells in rows.items()}


def show(rows, title):
    base = rows["DIS flow, bilinear"]
    names = list(base)
    means = {group: names[part] for group, part in GROUPS.items()}
    print(f"\n{title}; gain over DIS flow, bilinear, in brackets\n")
    print("| PSNR in dB, mean over | " + " | ".join(means) + " | worst gain of a clip |")
    print("| --- |" + " ---: |" * (len(means) + 1))
    for row, cells in rows.items():
        gains = {name: cells[name] - base[name] for name in names}
        text = [f"{mean(cells, some):.2f} ({mean(gains, some):+.2f})" for some in means.values()]
        print(f"| {row} | " + " | ".join(text) + f" | {min(gains.values()):+.2f} |")


def mean(cells, names):
    return float(np.mean([cells[name] for name in names]))


def main():
    try:
        folder = real_clips.fetch(*map(Path, sys.argv[1:2]))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: the clips cannot be fetched ({error})")
        return
    scenes = {name: clip(folder, *where) for name, where in CLIPS.items()}
    results = {}
    for title, sigma in ((f"search in frames with noise of sigma {SIGMA}", SIGMA), ("search in clean frames", 0)):
        results[title] = table(scenes, sigma)
        show(results[title], title)
    RESULTS.parent.mkdir(exist_ok=True)
    rounded = {t: {r: {n: round(v, 2) for n, v in c.items()} for r, c in rows.items()} for t, rows in results.items()}
    RESULTS.write_text(json.dumps(rounded, indent=1) + "\n")
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()
