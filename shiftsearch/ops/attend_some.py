"""Attention to the places that a search has found, whose weights and offsets are in memory."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from shiftsearch._types import Native
from shiftsearch.ops.attention import AttendSpec, Softmax, averaged
from shiftsearch.ops.form import differentiate, pairs
from shiftsearch.ops.form import multiply_adds as of_form
from shiftsearch.ops.search import SEARCH


def forward(
    backend: Any, spec: AttendSpec, softmax: Softmax, q: Native, k: Native, v: Native, flow: Native
) -> dict[str, Native]:
    out, weights, offsets = backend.attend_some(q, k, v, spec, softmax.factor, scales=softmax.scales, flow=flow)
    return {"out": out, "weights": weights, "offsets": offsets}


def backward(
    backend: Any,
    spec: AttendSpec,
    softmax: Softmax,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    weights, offsets, arrive = outputs["weights"], outputs["offsets"], averaged(backend.xp, spec, grads["out"])
    form = {"q": arrive, "k": inputs["v"], "weights": weights, "offsets": offsets}
    of_values = differentiate(backend, spec.of_values().patches(), {"k", "weights", "offsets"}, **form)
    by_weights, scores = of_values["weights"], None
    if "weights" in grads:
        by_weights = by_weights + grads["weights"]
    if "scales" in wanted:
        scores = backend.score(inputs["q"], inputs["k"], offsets, spec.patches())
    by_scores, by_scales = softmax.differentiate(weights, by_weights, scores)
    found, on = {"v": of_values["k"]}, {"scores": by_scores}
    if scores is not None:
        found["scales"] = by_scales
    if "offsets" in of_values:
        on["offsets"] = of_values["offsets"] + grads.get("offsets", 0)
    searched = {name: inputs[name] for name in ("q", "k", "flow") if name in inputs}
    return found | SEARCH.backward(backend, spec, searched, outputs, on, wanted & searched.keys())


def multiply_adds(spec: AttendSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    """Return how many the formulas have: those of the search, and those of the sum over what it found."""
    slots = spec.search_slots()
    values = pairs(spec, sizes, spec.kept(slots), sizes["V"])
    if wanted is None:
        return SEARCH.multiply_adds(spec, sizes, fractions, None) + values * of_form({"q"}, fractions)
    count = SEARCH.multiply_adds(spec, sizes, fractions, wanted & SEARCH.inputs.keys())
    if "scales" in wanted:
        count += pairs(spec, sizes, spec.kept(slots), sizes["C"]) * of_form({"weights"}, fractions)
    return count + values * of_form({"k", "weights", "offsets"}, fractions)
