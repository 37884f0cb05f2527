"""Calls of ops as data, their inputs, and the least that any kernel could take for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import shiftsearch
from shiftsearch import ShiftsearchError
from shiftsearch._op import OPS

SEARCH = {"window": 9, "patch": 1, "topk": 10, "radius": 1, "heads": 2}
_FLOWS = {"zero": 0, "fraction": 0, "smooth": 1, "random": 16, "wild": math.inf}  # by how much they differ in a patch
_BOX = 3  # additions a pixel that sum a patch along one axis, however long it is


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of an op."""

    op: str = "search"
    options: dict[str, Any] = field(default_factory=dict)  # beside SEARCH; an op has those of them that it knows
    dtype: str = "float32"
    flow: str = "zero"
    frames: int = 5
    height: int = 256
    width: int = 256
    channels: int = 16  # of a head
    layout: str = "planar"  # in memory; or "channels last", or "strided"

    def resized(self, size: int | None) -> Case:
        """Return the same with few frames of another size, few channels and places, for what stands in for a GPU."""
        if size is None:
            return self
        options = {**self.options, "window": 2, "topk": 2, "patch": min(2, self.search["patch"])}
        height, width = (size * n // 256 for n in (self.height, self.width))
        return replace(self, options=options, frames=3, height=height, width=width, channels=2)

    @property
    def search(self) -> dict[str, Any]:
        return {**SEARCH, **self.options}

    @property
    def queries(self) -> int:
        """Return how many there are of each head."""
        return self.frames * self.height * self.width


# --- inputs ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Call:
    """A case with its arrays on a backend."""

    backend: Any
    op: Any
    spec: Any
    inputs: dict[str, Any]

    def forward(self) -> dict[str, Any]:
        return self.op.forward(self.backend, self.spec, **self.inputs)

    def backward(self, outputs: dict[str, Any], grads: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
        return self.op.backward(self.backend, self.spec, self.inputs, outputs, grads, wanted)

    def ones(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return gradients of 1 for the outputs that have one."""
        moves = getattr(self.spec, "subpixel", True)
        kinds = ("value", "score", "offset") if moves else ("value", "score")
        return {n: self.backend.xp.ones_like(a) for n, a in outputs.items() if self.op.outputs[n] in kinds}

    def differentiable(self) -> set[str]:
        return {name for name, array in self.inputs.items() if array.dtype.kind == "f" and name != "flow"}


def prepare(backend: Any, case: Case) -> Call:
    """Put random inputs of a case on a backend."""
    if case.op not in OPS:
        raise ShiftsearchError(f"there is no op {case.op}")
    op, rng = OPS[case.op], np.random.default_rng(0)
    spec = op.specify(**{name: value for name, value in case.search.items() if name in op.options})
    names = [name for name, given in op.inputs.items() if not given.optional or name in ("flow", "weights")]
    inputs = {name: _on(backend.xp, case, name, _drawn(rng, case, name)) for name in names}
    return Call(backend, op, spec, inputs)


def _drawn(rng: np.random.Generator, case: Case, name: str) -> np.ndarray:
    T, H, W, s = case.frames, case.height, case.width, case.search
    C, kept = case.channels * s["heads"], (1, s["heads"], T, H, W, s["topk"])
    if name == "flow":
        return flow_of(rng, case)
    if name == "offsets":
        return _found(rng, case, kept)
    if name == "weights":
        return rng.random(kept, np.float32)
    return rng.standard_normal((1, T, C, H, W), np.float32)


def flow_of(rng: np.random.Generator, case: Case) -> np.ndarray:
    """Return flow (1, 1, T, 2 * radius, 2, H, W) of the case's kind."""
    shape = (1, 1, case.frames, 2 * case.search["radius"], 2, case.height, case.width)
    if case.flow == "smooth":  # of neighbours it differs by whole pixels here and there
        y, x = np.ogrid[: case.height, : case.width]
        wave = 3 * np.sin(2 * np.pi * y / 128) * np.cos(2 * np.pi * x / 128)
        return np.broadcast_to(np.rint(wave), shape).astype(np.float32)
    if case.flow == "random":
        return rng.integers(-8, 9, shape).astype(np.float32)
    if case.flow == "wild":
        half = max(1, min(case.height, case.width) // 2)
        return rng.integers(-half, half + 1, shape).astype(np.float32)
    return np.full(shape, 0.375 if case.flow == "fraction" else 0, np.float32)


def _found(rng: np.random.Generator, case: Case, kept: tuple[int, ...]) -> np.ndarray:
    """Return offsets (dt, dy, dx) to places in the windows of a search, as it returns them."""
    half = case.search["window"] // 2
    offsets = rng.integers(-half, half + 1, (*kept, 3), np.int32)
    offsets[..., 0] = rng.integers(-1, 2, kept, np.int32)
    return offsets + 0.375 * np.array([0, 1, 1]) if case.flow == "fraction" else offsets


def _dtype(case: Case) -> Any:
    if case.dtype != "bfloat16":
        return case.dtype
    import ml_dtypes  # in which NumPy has it

    return ml_dtypes.bfloat16


def _on(xp: Any, case: Case, name: str, array: np.ndarray) -> Any:
    if array.dtype.kind == "f":
        values = name not in ("flow", "offsets")
        array = array.astype(_dtype(case) if values else np.float32, copy=False)
    there = xp.asarray(array)
    if array.ndim != 5 or case.layout == "planar":
        return there
    if case.layout == "channels last":
        return xp.ascontiguousarray(there.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
    return xp.ascontiguousarray(there.transpose(4, 3, 2, 1, 0)[::-1]).transpose(4, 3, 2, 1, 0)[..., ::-1]


def align(xp: Any, case: Case) -> Callable[[], Any]:
    """Return the call that aligns a clip of 8 bits with flow that is given."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (case.height, case.width, 3), np.uint8)
    clip = xp.asarray(np.stack([np.roll(frame, (t, 2 * t), (0, 1)) for t in range(case.frames)]))
    flow = xp.asarray(np.ones((case.frames, 2, case.height, case.width), np.float32))
    return lambda: shiftsearch.align_clip(clip, flow=flow, sigma=0)


def nbytes(*groups: dict[str, Any]) -> int:
    """Return how many bytes arrays have."""
    return sum(array.nbytes for arrays in groups for array in arrays.values())


# --- floors ---------------------------------------------------------------------------------------
def instructions(case: Case, ways: str = "forward") -> float:
    """Return the fewest instructions in float32, a thread's each, that a kernel could need with exact reuse.

    Two pixels are compared once for each channel, however many patches they are in: by subtracting and multiplying
    and adding for "l2", by multiplying and adding for "dot". A patch is summed along its rows and columns by three
    additions a pixel at most.
    """
    forward, backward = _of_query(case)
    each = {"forward": forward, "backward": backward, "both ways": forward + backward}[ways]
    return case.queries * case.search["heads"] * each


def _of_query(case: Case) -> tuple[float, float]:
    """Return those for one query and head, forward and backward."""
    s, K, C = case.search, case.search["topk"], case.channels
    kept = _distinct(case, K * s["patch"] ** 2) * C
    if case.op == "gather":
        return 0, kept
    if case.op in ("aggregate", "scatter", "stack"):
        return kept, 2 * kept  # by the values and by the weights
    pair = 1 if s.get("metric") == "dot" else 2
    if case.op == "score":
        return kept * pair, kept * (pair + 1)  # both gradients share the difference
    found = _of_search(case, pair)
    return (found + K * C, 4 * K * C) if case.op == "attend" else (found, kept * (pair + 1))


def _of_search(case: Case, pair: int) -> float:
    s, slots = case.search, 2 * case.search["radius"] + 1
    candidates = slots * s["window"] ** 2
    between = bool(s.get("subpixel"))  # made of whole places, of which there is one more along each axis
    compared = _distinct(case, slots * (s["window"] + between) ** 2 * s["patch"] ** 2) * case.channels * pair
    sums = candidates * 2 * min(s["patch"] - 1, _BOX)
    return compared + sums + between * candidates * (4 if pair == 1 else 10)


def _distinct(case: Case, most: int) -> float:
    """Return how many pixels of the keys one pixel of a query meets, each counted once: neighbours share windows."""
    s = case.search
    side = s["window"] + bool(s.get("subpixel")) + _FLOWS[case.flow]
    return min(most, (2 * s["radius"] + 1) * side**2)


def floors(case: Case, moved: int, ceilings: dict[str, float], ways: str = "forward") -> dict[str, float]:
    """Return the milliseconds that moving so many bytes takes on a device, and those that the arithmetic takes."""
    return {
        "traffic": 1e3 * moved / ceilings["bytes a second"],
        "arithmetic": 1e3 * instructions(case, ways) / ceilings["float32 instructions a second"],
    }
