"""`shiftsearch demo`: search repairs flow that is a little off. A clip with known motion, a table and a picture.

First a whole-pixel search in a window around the flow, then a half-pixel one in a small window around its best places.
Both see noisy frames. What they found is judged by where it leads, and by what the clean frames look like there.
"""

from __future__ import annotations

import time

import numpy as np

import shiftsearch
from shiftsearch.backends.cpu.pool import threads
from shiftsearch.video.io.pictures import eight_bits, png, row
from shiftsearch.video.io.whole import whole

_LIMITS = 0.25, 0.5, 1, 2  # pixels


def moving_clip(frames, height, width, seed=0):
    """A texture (T, 3, H, W) that turns, grows and drifts, and its flow to neighbours (T, 2, 2, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = (x - width / 2) + 1j * (y - height / 2)
    turn, drift = 1.01 * np.exp(0.02j), 1.3 - 0.7j  # per frame
    frequency = 10 ** rng.uniform(-2, -0.6, 150) * np.exp(2j * np.pi * rng.random(150))
    amplitude = (0.01 / abs(frequency)) ** 0.4
    phase = rng.uniform(0, 2 * np.pi, (3, 150))  # one texture per channel
    clip = np.zeros((frames, 3, height, width))
    for t in range(frames):
        place = (pixels - drift * t) / turn**t  # where in the texture a pixel of frame t lies
        for f, a, p in zip(frequency, amplitude, phase.T, strict=True):
            clip[t] += a * np.cos(2 * np.pi * (f.conjugate() * place).real + p[:, None, None])
    order = shiftsearch.neighbours(frames, 1)
    flow = np.empty((frames, 2, 2, height, width))
    for t, slot in np.ndindex(frames, 2):
        there = order[t, slot + 1]
        moved = (pixels - drift * t) / turn**t * turn**there + drift * there - pixels
        flow[t, slot] = moved.real, moved.imag  # dx, dy
    return (clip / clip.std()).astype(np.float32), flow.astype(np.float32)


def a_little_off(flow, size=1.2, seed=1):
    """A prediction of the flow: its error varies slowly and is some pixels long."""
    height, width = flow.shape[-2:]
    coarse = np.random.default_rng(seed).standard_normal((*flow.shape[:-2], 5, 7))
    error = shiftsearch.upsample_flow(coarse, (height, width))
    return flow + (error * size / error.std()).astype(np.float32)


def as_offsets(flow):
    """Flow (T, S, 2, h, w) to all neighbours as offsets (1, T, h, w, S, 3): (dt, dy, dx)."""
    frames, slots = flow.shape[:2]
    order = shiftsearch.neighbours(frames, slots // 2)
    offsets = np.empty((1, frames, *flow.shape[-2:], slots, 3), np.float32)
    offsets[0, ..., 0] = (order[:, 1:] - order[:, :1])[:, None, None]
    offsets[0, ..., :0:-1] = np.moveaxis(flow, (1, 2), (-2, -1))
    return offsets


def run(picture, frames=5, height=96, width=128) -> dict[str, tuple[float, float]]:
    """Prints the table, writes the picture and returns {row: (mean end-point error in pixels, PSNR in dB)}."""
    with whole(picture) as part:
        clean, truth = moving_clip(frames, height, width)
        noisy = clean + np.float32(0.1) * np.random.default_rng(2).standard_normal(clean.shape, np.float32)
        print(f"{frames} frames of {width} x {height}, noise 10 %, {threads()} threads", flush=True)

        given = a_little_off(truth)
        shared = {"patch": 7, "topk": 1, "per_frame": True, "penalty": 0.05}
        start = time.perf_counter()
        _, there = shiftsearch.search(noisy, noisy, given, window=9, skip="own_frame", **shared)
        _, finer = shiftsearch.refine(noisy, noisy, there, window=3, step=0.5, subpixel=True, **shared)
        seconds = time.perf_counter() - start

        found = {"flow alone": as_offsets(given), "search, 9 x 9 pixels": there, "refine, 3 x 3 half pixels": finer}
        rows = {name: _judged(clean, truth, offsets) for name, offsets in found.items()}
        _print_table(rows)
        print(f"\nThe searches took {seconds:.1f} s; kernels are compiled when they run the first time.")
        part.write_bytes(png(_picture(clean, truth, found["flow alone"], finer)))
    print(f"{picture}: a frame | the next one moved onto it by flow | by search | how far off is the flow | the search")
    return {name: (float(errors.mean()), float(psnr)) for name, (errors, psnr) in rows.items()}


def _judged(clean, truth, offsets):
    """End-point errors where the motion stays inside, and the PSNR of the clean neighbours moved onto each frame."""
    errors = _errors(truth, offsets)
    difference = _moved(clean, offsets) - clean
    inside = np.isfinite(errors)
    square = np.mean(np.moveaxis(difference**2, 2, -1)[np.moveaxis(inside, 1, 0)])
    return errors[inside], 10 * np.log10((clean.max() - clean.min()) ** 2 / square)


def _errors(truth, offsets):
    """(T, S, h, w); NaN where the motion leads outside."""
    height, width = truth.shape[-2:]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = x + truth[:, :, 0], y + truth[:, :, 1]
    seen = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    found = np.moveaxis(offsets[0, ..., :0:-1], (-2, -1), (1, 2))
    return np.where(seen, np.hypot(*np.moveaxis(found - truth, 2, 0)), np.nan)


def _moved(clip, offsets):
    """The neighbours of each frame, moved onto it: (S, T, C, H, W)."""
    return shiftsearch.stack(clip, offsets)


def _print_table(rows):
    print(f"\n{'':26} end-point error in pixels             moved onto the frame")
    print(f"{'':26} mean  " + " ".join(f"<{limit:<5g}" for limit in _LIMITS) + " PSNR in dB")
    for name, (errors, psnr) in rows.items():
        shares = " ".join(f"{(errors < limit).mean():<6.0%}" for limit in _LIMITS)
        print(f"{name:26} {errors.mean():.2f}  {shares} {psnr:<11.1f}" + "#" * round(psnr))


def _picture(clean, truth, given, found):
    """A frame, the next one moved onto it in both ways, and how far off both are (white: 3 pixels)."""
    t = len(clean) // 2
    shades = [clean[t], _moved(clean, given)[0, t], _moved(clean, found)[0, t]]
    frames = [np.clip(128 + 50 * frame.transpose(1, 2, 0), 0, 255).astype(np.uint8) for frame in shades]
    errors = [np.nan_to_num(_errors(truth, offsets)[t, 0]) for offsets in (given, found)]
    maps = [eight_bits(np.clip(85 * error, 0, 255).astype(np.uint8)) for error in errors]
    return row(*frames, *maps).repeat(2, axis=0).repeat(2, axis=1)
