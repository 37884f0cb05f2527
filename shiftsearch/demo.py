"""`shiftsearch demo`: search repairs flow that is a little off, on a clip with known motion.

A search by whole pixels in a window around the flow is followed by one by half pixels, in a small window around the
best places of the first. Both see noisy frames. Their results are judged by the distance to the true motion, and by the
clean frames at the places that were found.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import shiftsearch
from shiftsearch.threads import get_num_threads
from shiftsearch.video.io.pictures import eight_bits, png, row
from shiftsearch.video.io.whole import whole

_LIMITS = 0.25, 0.5, 1, 2  # pixels


def moving_clip(frames: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a texture (T, 3, H, W) that turns, grows and drifts, and its flow to neighbours (T, 2, 2, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = (x - width / 2) + 1j * (y - height / 2)
    turn, drift = 1.01 * np.exp(0.02j), 1.3 - 0.7j  # per frame
    frequency = 10 ** rng.uniform(-2, -0.6, 150) * np.exp(2j * np.pi * rng.random(150))
    amplitude = (0.01 / abs(frequency)) ** 0.4
    phase = rng.uniform(0, 2 * np.pi, (3, 150))  # one texture per channel
    clip = np.zeros((frames, 3, height, width))
    for t in range(frames):
        place = (pixels - drift * t) / turn**t  # of the pixels of frame t in the texture
        for f, a, p in zip(frequency, amplitude, phase.T, strict=True):
            clip[t] += a * np.cos(2 * np.pi * (f.conjugate() * place).real + p[:, None, None])
    order = shiftsearch.neighbours(frames, 1)
    flow = np.empty((frames, 2, 2, height, width))
    for t, slot in np.ndindex(frames, 2):
        there = order[t, slot + 1]
        moved = (pixels - drift * t) / turn**t * turn**there + drift * there - pixels
        flow[t, slot] = moved.real, moved.imag  # dx, dy
    return (clip / clip.std()).astype(np.float32), flow.astype(np.float32)


def a_little_off(flow: np.ndarray, size: float = 1.2, seed: int = 1) -> np.ndarray:
    """Return flow with an error that varies slowly: `size` is its root mean square, in pixels."""
    height, width = flow.shape[-2:]
    coarse = np.random.default_rng(seed).standard_normal((*flow.shape[:-2], 5, 7))
    error = shiftsearch.upsample_flow(coarse, (height, width))
    return flow + (error * size / error.std()).astype(np.float32)


def as_offsets(flow: np.ndarray) -> np.ndarray:
    """Return flow (T, S, 2, h, w) to all neighbours as offsets (1, T, h, w, S, 3): (dt, dy, dx)."""
    frames, slots = flow.shape[:2]
    order = shiftsearch.neighbours(frames, slots // 2)
    offsets = np.empty((1, frames, *flow.shape[-2:], slots, 3), np.float32)
    offsets[0, ..., 0] = (order[:, 1:] - order[:, :1])[:, None, None]
    offsets[0, ..., :0:-1] = np.moveaxis(flow, (1, 2), (-2, -1))
    return offsets


def run(picture: str | Path, frames: int = 5, height: int = 96, width: int = 128) -> dict[str, tuple[float, float]]:
    """Print the table, write the picture and return {row: (mean end-point error in pixels, PSNR in dB)}."""
    with whole(picture) as part:
        clean, truth = moving_clip(frames, height, width)
        noisy = clean + np.float32(0.1) * np.random.default_rng(2).standard_normal(clean.shape, np.float32)
        print(f"{frames} frames of {width} x {height}, noise 10 %, {get_num_threads()} threads", flush=True)

        given = a_little_off(truth)
        shared: dict[str, Any] = {"patch": 7, "topk": 1, "per_frame": True, "penalty": 0.05}
        start = time.perf_counter()
        _, there = shiftsearch.search(noisy, noisy, given, window=9, skip="own_frame", **shared)
        _, finer = shiftsearch.refine(noisy, noisy, there, window=3, step=0.5, subpixel=True, **shared)
        seconds = time.perf_counter() - start

        found = {"flow alone": as_offsets(given), "search, 9 x 9 pixels": there, "refine, 3 x 3 half pixels": finer}
        rows = {name: _judged(clean, truth, offsets) for name, offsets in found.items()}
        _print_table(rows)
        print(f"\nThe searches took {seconds:.1f} s; the first run of a kernel also compiles it.")
        part.write_bytes(png(_picture(clean, truth, found["flow alone"], finer)))
    print(f"{picture}: a frame | the next one moved onto it by flow | by search | error of the flow | of the search")
    return {name: (float(errors.mean()), float(psnr)) for name, (errors, psnr) in rows.items()}


def _judged(clean: np.ndarray, truth: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, float]:
    """Return end-point errors where the motion stays inside, and the PSNR of clean neighbours moved onto each frame."""
    errors = _errors(truth, offsets)
    difference = _moved(clean, offsets) - clean
    inside = np.isfinite(errors)
    square = np.mean(np.moveaxis(difference**2, 2, -1)[np.moveaxis(inside, 1, 0)])
    return errors[inside], 10 * np.log10((clean.max() - clean.min()) ** 2 / square)


def _errors(truth: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return end-point errors (T, S, h, w), NaN where the motion leads outside."""
    height, width = truth.shape[-2:]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = x + truth[:, :, 0], y + truth[:, :, 1]
    seen = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    found = np.moveaxis(offsets[0, ..., :0:-1], (-2, -1), (1, 2))
    return np.where(seen, np.hypot(*np.moveaxis(found - truth, 2, 0)), np.nan)


def _moved(clip: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the neighbours of each frame, moved onto it: (S, T, C, H, W)."""
    return shiftsearch.stack(clip, offsets)


def _print_table(rows: dict[str, tuple[np.ndarray, float]]) -> None:
    print(f"\n{'':26} end-point error in pixels             moved onto the frame")
    print(f"{'':26} mean  " + " ".join(f"<{limit:<5g}" for limit in _LIMITS) + " PSNR in dB")
    for name, (errors, psnr) in rows.items():
        shares = " ".join(f"{(errors < limit).mean():<6.0%}" for limit in _LIMITS)
        print(f"{name:26} {errors.mean():.2f}  {shares} {psnr:<11.1f}" + "#" * round(psnr))


def _picture(clean: np.ndarray, truth: np.ndarray, given: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return a frame, the next one moved onto it in both ways, and the errors of both (white is 3 pixels)."""
    t = len(clean) // 2
    shades = [clean[t], _moved(clean, given)[0, t], _moved(clean, found)[0, t]]
    frames = [np.clip(128 + 50 * frame.transpose(1, 2, 0), 0, 255).astype(np.uint8) for frame in shades]
    errors = [np.nan_to_num(_errors(truth, offsets)[t, 0]) for offsets in (given, found)]
    maps = [eight_bits(np.clip(85 * error, 0, 255).astype(np.uint8)) for error in errors]
    return row(*frames, *maps).repeat(2, axis=0).repeat(2, axis=1)
