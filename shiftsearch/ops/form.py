"""One form, S(q, k, weights, offsets) = sum of weights * phi(q(r + u), k(r + offset + u)), and its derivatives.

`score` is dS/dweights, `aggregate` dS/dq, `scatter` dS/dk: each is the derivative by the slot of S that is missing among
its inputs. Its gradients need no further formulas: sum(output * incoming gradient) is S again, with the incoming
gradient in the missing slot, and the gradients of the other slots are the derivatives of S by them.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch._types import Native


def differentiate(
    backend: Any,
    p: Patches,
    wanted: Set[str],
    *,
    q: Native = None,
    k: Native = None,
    weights: Native = None,
    offsets: Native = None,
    stacked: bool = False,
    averaged: bool = False,
    frames: int | None = None,
) -> dict[str, Native]:
    """Return dS/dslot for each of the `wanted` slots, but none for offsets that are whole.

    If S is linear in a slot, that slot may be None when only its derivative is wanted. q then has so many `frames`, or as
    many as k, and else both have one size.
    With `stacked` the derivative by q is returned separately for each of the offsets of a query, and with `averaged` the
    mean over the patches that cover a pixel.
    """
    found = {}
    if wanted >= {"q", "k"}:  # they share their work
        found["q"], found["k"] = backend.aggregate_and_scatter(q, k, weights, offsets, p)
    elif "q" in wanted:
        T, *size = (k if q is None else q).shape[-4:]
        size = T if q is not None or frames is None else frames, *size
        found["q"] = backend.aggregate(
            _read(q, p), k, weights, offsets, p, size=size, stacked=stacked, averaged=averaged
        )
    elif "k" in wanted:
        size = (q if k is None else k).shape[-4:]
        found["k"] = backend.scatter(q, _read(k, p), weights, offsets, p, size=size)
    if "weights" in wanted:
        found["weights"] = backend.score(q, k, offsets, p)
    if "offsets" in wanted and np.issubdtype(offsets.dtype, np.floating):
        found["offsets"] = backend.slope(q, k, weights, offsets, p)
    return found


def mean_of_patches(xp: Any, p: Patches, sums: Native) -> Native:
    """Return the mean over the patches that cover a pixel, from their sum."""
    height, width = sums.shape[-2:]
    return sums if p.patch == 1 else sums / p.covered(height, width, xp).astype(sums.dtype)


def _read(video: Native, p: Patches) -> Native:
    """Return the video if its own derivative depends on it: "dot" is linear in both videos."""
    return video if p.metric == "l2" else None


_READ = 4  # multiply-adds to read, or to add to, a place between pixels


def multiply_adds(wanted: Set[str], fractions: bool, metric: str = "dot") -> int:
    """Return how many multiply-adds `differentiate` has for each channel of each pair of pixels.

    A pair has one for each derivative, and those that read k at its place, or add there. The derivative by offsets has
    two, by row and by column, and the slopes of what is read, which are differences of the same four pixels.
    """
    read, l2 = _READ * fractions, metric == "l2"
    count = (1 + read) * len(wanted & {"weights", "q", "k"})
    if l2 and "k" in wanted and "q" not in wanted:
        count += read  # of k, which else is read for q
    if "offsets" in wanted and fractions:
        count += 2 * (1 + _READ) + _READ * l2
    return count


def pairs(spec: Any, sizes: dict[str, int], places: int, channels: int) -> int:
    """Return how many numbers of q meet one of k, where each query has so many places."""
    queries = math.prod(sizes.get(axis, 1) for axis in "BThw")
    return queries * places * channels * getattr(spec, "patch", 1) ** 2


@dataclass(frozen=True)
class Derivative:
    """An op that is the derivative of S by the slot `by`. `slots` says which slot each of its inputs is."""

    by: str
    slots: dict[str, str]
    output: str
    averaged: bool = False  # over the patches that cover a pixel
    stacked: bool = False

    def forward(self, backend: Any, spec: Any, **inputs: Native) -> dict[str, Native]:
        given, p = self._given(backend.xp, inputs), spec.patches()
        how = {"stacked": self.stacked, "averaged": self.averaged and p.patch > 1}
        found = differentiate(backend, p, {self.by}, **given, **how, frames=given["offsets"].shape[2])
        return {self.output: found[self.by]}

    def backward(
        self,
        backend: Any,
        spec: Any,
        inputs: dict[str, Native],
        outputs: dict[str, Native],
        grads: dict[str, Native],
        wanted: Set[str],
    ) -> dict[str, Native]:
        given, p, arrives = self._given(backend.xp, inputs), spec.patches(), grads[self.output]
        given[self.by] = mean_of_patches(backend.xp, p, arrives) if self.averaged else arrives
        names = [name for name in self.slots if name in wanted and name in inputs]
        found = differentiate(backend, p, {self.slots[name] for name in names}, **given)
        return {name: found[self.slots[name]] for name in names if self.slots[name] in found}

    def multiply_adds(self, spec: Any, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
        slots = {self.by} if wanted is None else {self.slots[name] for name in wanted}
        return pairs(spec, sizes, sizes["K"], sizes["C"]) * multiply_adds(slots, fractions, spec.patches().metric)

    def _given(self, xp: Any, inputs: dict[str, Native]) -> dict[str, Native]:
        """Return the slots that are given; missing weights are 1."""
        given = {self.slots[name]: array for name, array in inputs.items()}
        if self.by != "weights" and "weights" not in given:
            values = given["k" if self.by == "q" else "q"]
            given["weights"] = xp.broadcast_to(xp.ones((), values.dtype), given["offsets"].shape[:-1])
        return given
