"""Search repairs flow that is a little off: a clip with known motion, before and after.

First a whole-pixel search in a window around the flow, then a half-pixel one in a small window around its best places.

python examples/demo.py
"""

import time

import numpy as np

import shiftsearch
from shiftsearch.backends.cpu.pool import threads

LIMITS = 0.25, 0.5, 1, 2  # pixels


def moving_clip(frames, height, width, noise=0.1, seed=0):
    """A texture that turns, grows and drifts, under noise, and its flow between neighbouring frames."""
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
    clip = clip / clip.std() + noise * rng.standard_normal(clip.shape)
    order = shiftsearch.neighbours(frames, 1)
    flow = np.empty((frames, 2, 2, height, width))
    for t, slot in np.ndindex(frames, 2):
        there = order[t, slot + 1]
        moved = (pixels - drift * t) / turn**t * turn**there + drift * there - pixels
        flow[t, slot] = moved.real, moved.imag  # dx, dy
    return clip.astype(np.float32), flow.astype(np.float32)


def a_little_off(flow, size=1.2, seed=1):
    """A prediction of the flow: its error varies slowly and is some pixels long."""
    height, width = flow.shape[-2:]
    coarse = np.random.default_rng(seed).standard_normal((*flow.shape[:-2], 5, 7))
    error = shiftsearch.upsample_flow(coarse, (height, width))
    return flow + (error * size / error.std()).astype(np.float32)


def flow_of(offsets):
    """(dt, dy, dx) of the best place in each neighbour frame, (1, T, h, w, S, 3), as flow (T, S, 2, h, w)."""
    return np.moveaxis(offsets[0, ..., :0:-1], (-2, -1), (1, 2)).astype(np.float32)


def timed(function, *args, **options):
    """The offsets that are found, the seconds that the first call took, and those of the second."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        _, offsets = function(*args, **options)
        seconds.append(time.perf_counter() - start)
    return offsets, *seconds


def main(frames=5, height=96, width=128):
    """Prints the table and returns {row: (mean end-point error, seconds per megapixel or None)}."""
    clip, truth = moving_clip(frames, height, width)
    y, x = np.mgrid[:height, :width]
    to_x, to_y = x + truth[:, :, 0], y + truth[:, :, 1]
    seen = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)

    def errors(flow):
        return np.hypot(*np.moveaxis(flow - truth, 2, 0))[seen]

    print(f"{frames} frames of {width} x {height}, noise 10 %, {threads()} threads")
    given = a_little_off(truth)
    shared = {"patch": 7, "topk": 1, "per_frame": True, "penalty": 0.05}
    whole, *first = timed(shiftsearch.search, clip, clip, given, window=9, skip="own_frame", **shared)
    half, *second = timed(shiftsearch.refine, clip, clip, whole, window=3, step=0.5, subpixel=True, **shared)
    rows = {"given flow": (given, None)}
    for name, offsets, (cold, warm) in (("search, 9 x 9 pixels", whole, first), ("refine, 3 x 3 half pixels", half, second)):
        rows[name] = flow_of(offsets), warm / (clip[:, 0].size / 1e6)
        print(f"{name}: the first call took {cold:.1f} s, the second {warm:.2f} s")
    print(f"\n{'end-point error in pixels':28} mean  " + " ".join(f"<{limit:<5g}" for limit in LIMITS) + " s / Mpixel")
    for name, (flow, seconds) in rows.items():
        error = errors(flow)
        shares = " ".join(f"{(error < limit).mean():<6.0%}" for limit in LIMITS)
        print(f"{name:28} {error.mean():.2f}  {shares} {'' if seconds is None else f'{seconds:.2f}':10} "
              + "#" * round(20 * error.mean()))  # fmt: skip
    return {name: (errors(flow).mean(), seconds) for name, (flow, seconds) in rows.items()}


if __name__ == "__main__":
    main()
