"""Random calls: ops with random options at sizes that users have, and the utilities for frames."""

from __future__ import annotations

import numpy as np
from cases import Case

from shiftsearch import ShiftsearchError, align, denoise

_MOST = 3e7  # multiply-adds of a call
_OPS = (
    *["search"] * 5,
    "match",
    "match",
    "refine",
    "score",
    "aggregate",
    "stack",
    "scatter",
    "gather",
    "fold",
    "chain_flow",
)
_COORDINATES = ("zero", "whole", "quarters", "smooth", "smooth", "wild", "far", "astray", "nan")


def random_case(seed: int) -> Case:
    """Return a case with options that fit each other, and of a size that does not take long."""
    rng = np.random.default_rng(seed)
    while True:
        case = _case(rng, seed)
        try:
            case.op.bind(case.spec, {name: array.shape for name, array in case.arrays(np.float32).items()})
            return case
        except ShiftsearchError:  # such as a topk above the number of candidates
            continue


def _case(rng, seed: int) -> Case:
    usual = bool(rng.integers(2))  # half of the calls have the options that most calls have, the first of each choice

    def one_of(*choices):
        return choices[rng.integers(len(choices))]

    def rarely(*choices):
        return choices[0] if usual else one_of(*choices)

    op, heads, stride, scale, radius = one_of(*_OPS), rarely(1, 2, 3), rarely(1, 1, 2, 3, 5), 1, one_of(0, 1)
    B, T, C, kept = (
        rarely(1, 2),
        one_of(3, 4) if radius else one_of(1, 3),
        heads * one_of(1, 3, 4, 8, 16, 17),
        one_of(1, 2, 5, 11),
    )
    options, cost, slots = {"stride": stride}, B * T * C / stride**2, kept
    if op in ("search", "match", "refine"):
        more, scale = _search_options(one_of, rarely), rarely(1, 2) if op == "match" else 1
        options, cost = options | more, cost * more["window"] ** 2
        slots = kept if op == "refine" else 1 if op == "match" else 2 * radius + 1
    if op in ("search", "chain_flow"):
        options["radius"] = radius
    if op in ("search", "match", "refine", "score"):
        options["metric"] = rarely("l2", "dot")
    if op != "chain_flow":
        options |= {"patch": one_of(1, 2, 3, 3, 5, 7, 8, 11), "dilation": rarely(1, 1, 2)}
        options["border"] = rarely("reflect", "zeros")
        cost *= options["patch"] ** 2
    area = max(1, int(_MOST / (cost * slots * scale**2)))
    height = min(int(rng.integers(1, one_of(9, 80, 400))), area)
    width = min(int(rng.integers(1, one_of(9, 80, 400))), max(1, area // height))
    return Case(
        f"{op}: random {seed}",
        (B, T, C, height, width),
        heads=heads,
        flow=one_of(None, *_COORDINATES) if op != "chain_flow" else one_of("wild", "astray", "nan"),
        flow_heads=one_of(1, heads),
        offsets=one_of(*_COORDINATES),
        kept=kept,
        scale=scale,
        options=options,
    )


def _search_options(one_of, rarely) -> dict:
    subpixel = rarely(False, True)
    return {
        "window": one_of(1, 2, 3, 5, 8, 9, 9, 16, 17),
        "subpixel": subpixel,
        "topk": one_of(None, 1, 3, 10, 16, 17, 40),
        "slide": rarely(True, False),
        "penalty": rarely(0, 0.1),
        "anchor": rarely(None, "self", "flow"),
        "skip": rarely(None, "self"),
        "per_frame": rarely(False, True),
        "step": one_of(1, 1, 0.5, 0.25, 1.3) if subpixel else rarely(1, 2),
    }


def shuffled(rng, array: np.ndarray) -> np.ndarray:
    """Return the same values with a random layout in memory."""
    order = list(rng.permutation(array.ndim))
    copy = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    if rng.integers(2):
        return copy
    wide = np.empty(tuple(n + 1 for n in array.shape), array.dtype)[tuple(slice(None, n) for n in array.shape)]
    wide[...] = copy
    return wide


def grads_for(rng, outputs: dict) -> dict:
    """Return gradients of the outputs, except of indices."""
    floats = {name: output for name, output in outputs.items() if output.dtype.kind == "f"}
    return {name: rng.standard_normal(output.shape).astype(output.dtype) for name, output in floats.items()}


def call_frames(seed: int) -> None:
    """Denoise or align a random clip."""
    rng = np.random.default_rng(seed)
    frames, height, width, channels = rng.integers(1, 4), *rng.integers(8, 90, 2), rng.choice([1, 3])
    clip = rng.integers(0, 256, (frames, height, width, channels), np.uint8)
    clip = clip[..., 0] if channels == 1 else clip
    if seed % 3:
        denoise(clip, rng.choice([5.0, 25.0]), quality=str(rng.choice(["fast", "high"])), flow=None)
    else:
        align(clip[0], clip[-1], flow=None, window=int(rng.choice([3, 9])), patch=int(rng.choice([1, 3, 7])))
