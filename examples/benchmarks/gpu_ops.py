"""Every op beside the same in CuPy without kernels (baselines.py), forward and backward; results are compared first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from baselines import MaterialiseAndSort, UnfoldAndMultiply

from shiftsearch.ops.aggregate import AGGREGATE, STACK
from shiftsearch.ops.flow import CHAIN_FLOW
from shiftsearch.ops.fold import FOLD
from shiftsearch.ops.gather import GATHER
from shiftsearch.ops.match import MATCH
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.scatter import SCATTER
from shiftsearch.ops.score import SCORE
from shiftsearch.ops.search import SEARCH

FRAMES, WINDOW, TOPK, MOTION = 5, 9, 10, 8


# --- problems -------------------------------------------------------------------------------------
def problems(backend, size, channels, patch, dtype):
    """Yield (name, {side: function that returns arrays}) of every op, forward and backward."""
    xp, rng = backend.xp, np.random.default_rng(0)
    T, H, W = FRAMES, size, size
    q, k = (xp.asarray(rng.standard_normal((1, T, channels, H, W)).astype(dtype)) for _ in "qk")
    flow = xp.asarray(inside_flow(rng, T, H, W))
    options = {"window": WINDOW, "patch": patch, "topk": TOPK}
    search = SEARCH.specify(**options)
    offsets = SEARCH.forward(backend, search, q=q, k=k, flow=flow)["offsets"]
    weights = xp.asarray(rng.random(offsets.shape[:-1]).astype(dtype))
    sort, unfold = MaterialiseAndSort(xp), UnfoldAndMultiply(xp)
    v, places, w = q[0], offsets[0, 0], weights[0, 0]
    arrive = xp.ones(places.shape[:-1], "float32")  # what `_both` sends backward

    both = partial(_both, backend)
    rivals = {
        "sort": lambda: sort.search(v, k[0], flow[0, 0], **options),
        "unfold": lambda: unfold.search(v, k[0], flow[0, 0], **options),
    }
    yield from both(SEARCH, search, {"q": q, "k": k, "flow": flow}, rivals)
    yield from both(MATCH, MATCH.specify(**options), {"q": q[:, 0], "k": k[:, 1], "flow": flow[:, :, 0, 0]})
    given = {"q": q, "k": k, "offsets": offsets}
    yield from both(REFINE, REFINE.specify(patch=patch, topk=TOPK), given)
    rivals = {"unfold": lambda: (unfold.score(v, k[0], places, patch),)}
    rivals_backward = {"unfold": lambda: unfold.score_backward(v, k[0], places, arrive, patch)}
    yield from both(SCORE, SCORE.specify(patch=patch), given, rivals, rivals_backward)
    given = {"v": q, "weights": weights, "offsets": offsets}
    rivals = {"unfold": lambda: (unfold.aggregate(v, w, places, patch),)}
    rivals_backward = {"unfold": lambda: unfold.aggregate_backward(v, w, places, xp.ones_like(v), patch)}
    yield from both(AGGREGATE, AGGREGATE.specify(patch=patch), given, rivals, rivals_backward)
    yield from both(SCATTER, SCATTER.specify(patch=patch), given)
    yield from both(STACK, STACK.specify(patch=patch), given)
    few = offsets[..., :2, :]  # the baselines' patches of more would not fit on small devices
    rivals = {"unfold": lambda: (unfold.gather(v, few[0, 0], patch),)}
    yield from both(GATHER, GATHER.specify(patch=patch), {"v": q, "offsets": few}, rivals)
    patches = GATHER.forward(backend, GATHER.specify(patch=patch), v=q, offsets=few)["patches"]
    given = {"patches": patches, "offsets": few, "weights": weights[..., :2]}
    yield from both(FOLD, FOLD.specify(size=(T, H, W)), given)
    forward = flow[:, 0, :, 0].astype(dtype)
    yield from both(CHAIN_FLOW, CHAIN_FLOW.specify(radius=1), {"forward": forward, "backward": -forward})


def inside_flow(rng, T, H, W):
    """Return flow by whole pixels, random for each query, to places inside of the frame, (1, 1, T, 2, 2, H, W)."""
    y, x = np.mgrid[:H, :W]
    dx, dy = rng.integers(-MOTION, MOTION + 1, (2, 1, 1, T, 2, H, W))
    dx, dy = np.clip(dx + x, 0, W - 1) - x, np.clip(dy + y, 0, H - 1) - y
    return np.stack([dx, dy], 4).astype(np.float32)


def _both(backend, op, spec, inputs, rivals=None, rivals_backward=None):
    """Return forward and backward of an op, with gradients of 1 for its outputs."""
    outputs = op.forward(backend, spec, **inputs)
    moves = getattr(spec, "subpixel", True)
    arrive = {
        name: backend.xp.ones_like(array)
        for name, array in outputs.items()
        if op.outputs[name] != "index" and (moves or op.outputs[name] != "offset")
    }

    def forward():
        return tuple(op.forward(backend, spec, **inputs).values())

    def backward():
        return tuple(op.backward(backend, spec, inputs, outputs, arrive, inputs.keys()).values())

    yield op.name, {"shiftsearch": forward, **(rivals or {})}
    yield f"{op.name} backward", {"shiftsearch": backward, **(rivals_backward or {})}


def check(found: Any, ours: Any) -> str | None:
    """Return how a baseline differs from the kernels, apart from axes of batch and heads. Equal scores may change places."""
    for a, b in zip(found, ours, strict=False):  # a search returns more arrays than its baseline
        b = b.reshape(a.shape)
        if b.dtype.kind == "i":
            share = float((a == b).all(-1).mean())
            if share < 0.99:
                return f"only {share:.1%} of the places agree"
        else:
            error = float(abs(a - b).max() / abs(b).max())
            if not error < 1e-5:
                return f"differs by {error:.1e} of the largest value"
    return None


def rows(device: Any) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield a row for each op, in single precision with patches of 7."""
    for name, sides in problems(device.backend, device.size or 256, 16, 7, "float32"):
        yield f"{name} beside baselines", partial(compare, sides, device)


def compare(sides: dict[str, Callable[[], Any]], device: Any) -> dict[str, Any]:
    """Return what each side takes, or what is wrong with it."""
    ours, row = sides["shiftsearch"](), {}
    for side, run in sides.items():
        wrong = None if side == "shiftsearch" else check(run(), ours)
        row |= {f"{side} is wrong": wrong} if wrong else _measured(side, run, device)
    return row


def _measured(side: str, run: Callable[[], Any], device: Any) -> dict[str, float]:
    return {f"{side} ms": median(device.times(run, 0.3)), f"{side} MB": device.peak(run) / 1e6}
