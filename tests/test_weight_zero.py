"""Values of weight 0 are not read: every op, forward and backward, with infinite values and NaN at weights of 0."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from backends import Run
from cases import Case, row
from test_ops import close, on_each_backend, sums

import shiftsearch as ss
from shiftsearch import _arrays, definition

pytestmark = pytest.mark.usefixtures("poisoned")

_ODD = [np.nan, np.inf, -np.inf]


def _sprinkled(rng, array, kinds, share=0.06):
    """Return the array with some numbers replaced by `kinds`."""
    return np.where(rng.random(array.shape) < share, rng.choice(kinds, array.shape), array).astype(array.dtype)


@dataclass(frozen=True)
class Sprinkled(Case):
    """A case whose values are not all finite, and whose weights are often 0."""

    finite_weights: bool = False

    def arrays(self, dtype):
        rng, found = np.random.default_rng(zlib.crc32(self.name.encode())), super().arrays(dtype)
        for name in self.op.values:
            if name == "weights" and name in found:
                weights = _sprinkled(rng, found[name], [0.0, -0.0], 0.4)
                found[name] = weights if self.finite_weights else _sprinkled(rng, weights, _ODD, 0.03)
            elif name in found:
                found[name] = _sprinkled(rng, found[name], _ODD)
        if self.op.name == "chain_flow":
            found = {name: _sprinkled(rng, array, _ODD) for name, array in found.items()}
        return found

    def grads(self, outputs, dtype):
        """Return gradients of the outputs: some are 0, and some are not finite."""
        rng, found = np.random.default_rng(1), {}
        for name, output in outputs.items():
            if name != "seed" and (name != "offsets" or self.spec.subpixel):
                grad = _sprinkled(rng, rng.standard_normal(output.shape).astype(np.float32), [0.0, -0.0], 0.4)
                grad = grad if self.finite_weights else _sprinkled(rng, grad, _ODD, 0.03)
                kind = np.dtype(dtype) if self.op.outputs[name] == "value" else sums(dtype)
                found[name] = grad.astype(kind)
        return found


def _rows():
    """Yield cases with the channels and patches of the table of cases, for which kernels are compiled already."""
    kinds = [
        ("int", 3, True),
        ("int", 3, False),
        ("halves", 3, False),
        ("quarters", 1, False),
    ]  # halves: one axis whole
    for (offsets, patch, finite), border in product(kinds, ("reflect", "zeros")):
        for op in ("score dot", "score l2", "aggregate", "scatter", "stack", "gather", "fold"):
            op, *metric = op.split()
            options = {
                "offsets": offsets,
                "border": border,
                "patch": patch,
                **({"metric": metric[0]} if metric else {}),
            }
            name = f"{op}: {', '.join([*metric, offsets, border, 'finite weights' if finite else 'any weights'])}"
            size = (1, 3, 3, 6, 7) if patch == 3 else (1, 2, 3, 1, 5)  # or an axis of one pixel
            yield Sprinkled(**vars(row(name, size, **options)), finite_weights=finite)
    for op, metric, border, subpixel in product(
        ("search", "refine"), ("l2", "dot"), ("reflect", "zeros"), (False, True)
    ):
        kinds = {"flow": "halves"} if op == "search" else {"offsets": "halves"}
        name = f"{op}: {metric}, {border}{', subpixel' * subpixel}"
        options = {"window": 3, "patch": 2, "topk": None, "metric": metric, "border": border, "subpixel": subpixel}
        yield Sprinkled(**vars(row(name, (1, 3, 3, 6, 7), **kinds, **options)))
    yield Sprinkled(
        **vars(row("search: many channels", (1, 3, 16, 5, 6), window=3, topk=None, subpixel=True, flow="halves"))
    )
    for kind in ("wild", "whole"):
        yield Sprinkled(**vars(row(f"chain_flow: {kind}", (1, 5, 1, 5, 6), flow=kind, radius=2)))


ROWS = list(_rows())


def _exact(case: Case, dtype):
    """Return the results of the definition for the same numbers."""
    arrays = {n: a if a.dtype.kind == "i" else a.astype(float) for n, a in case.arrays(dtype).items()}
    outputs = case.op.forward(definition, case.spec, **arrays)
    grads = case.grads(outputs, dtype)
    there = {name: grad.astype(float) for name, grad in grads.items()}
    return outputs, grads, case.op.backward(definition, case.spec, arrays, outputs, there, arrays.keys())


@pytest.mark.full
@on_each_backend(ROWS, halves=False)
def test_the_rule_holds(case, run: Run):
    with np.errstate(all="ignore"):
        _check(case, run)


def _check(case: Case, run: Run):
    outputs, grads, slopes = _exact(case, run.dtype)
    found = run.forward(case)
    for name, output in found.items():
        if output.dtype.kind == "i":
            np.testing.assert_array_equal(output, outputs[name], name)
        else:
            close(output, outputs[name], case, name)
    kept = {name: output.astype(found[name].dtype) for name, output in outputs.items()}
    back = run.backward(case, kept, grads)
    assert back.keys() == slopes.keys()
    for name, grad in back.items():
        dtype = run.dtype if case.op.name in ("aggregate", "stack", "fold") else None
        close(grad, slopes[name], case, f"gradient of {name}", dtype)


# --- the rule itself, without the definition ------------------------------------------------------------
@dataclass(frozen=True)
class Strange(Case):
    """All values are NaN, and all weights the same number."""

    weight: float = 0.0
    away: bool = False  # all places are far outside of the frame

    def arrays(self, dtype):
        found = super().arrays(dtype)
        for name in self.op.values:
            if name in found:
                found[name] = np.full_like(found[name], self.weight if name == "weights" else np.nan)
        if self.away:
            found["offsets"][..., 1:] += 1000
        return found


_WEIGHTED = {
    "score": "q k offsets",
    "aggregate": "v offsets",
    "scatter": "v offsets",
    "stack": "v offsets",
    "fold": "patches offsets",
}


def _strange(name: str, weight: float = 0.0, away: bool = False, **options) -> Strange:
    return Strange(**vars(row(name, patch=2, **options)), weight=weight, away=away)


_FRACTIONS = ("int", "wild")
_NOTHING = [_strange(f"{op}: nothing, {offsets}", offsets=offsets) for op in _WEIGHTED for offsets in _FRACTIONS]
_OUTSIDE = [
    _strange(f"{op}: {weight} outside, {offsets}, {options}", weight, True, offsets=offsets, border="zeros", **options)
    for op, options in [*((op, {}) for op in _WEIGHTED), ("score", {"metric": "dot"})]
    for weight in (np.nan, np.inf)
    for offsets in _FRACTIONS
]


@on_each_backend(_NOTHING)
def test_pairs_of_weight_0_add_nothing(case, run: Run):
    op = case.op.name
    found = run.forward(case)
    grads = {name: np.full_like(output, 0 if op == "score" else np.nan) for name, output in found.items()}
    if op != "score":
        for name, output in found.items():
            assert (output == 0).all(), name
    with np.errstate(invalid="ignore"):
        back = run.backward(case, found, grads)
    for name in _WEIGHTED[op].split():
        assert (back.get(name, 0) == np.float32(0)).all(), name  # whole offsets have no gradient


@on_each_backend(_OUTSIDE)
def test_pixels_outside_a_border_of_zeros_are_not_read(case, run: Run):
    found = run.forward(case)
    grads = {name: np.full_like(output, case.weight) for name, output in found.items()}
    with np.errstate(invalid="ignore"):
        back = run.backward(case, found, grads)
    for name, output in [*found.items(), *back.items()]:
        assert (output == np.float32(0)).all(), name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("op", ["score", "aggregate", "fold", "refine"])
def test_gradients_of_values_are_silent(op):
    case = Sprinkled(**vars(row(f"{op}: silent", offsets="halves", **({"subpixel": True} if op == "refine" else {}))))
    arrays = case.arrays(np.float32)
    outputs = _arrays.forward(case.op, case.spec, arrays)
    grads = case.grads(outputs, np.float32)
    assert _arrays.backward(case.op, case.spec, arrays, outputs, grads, frozenset(arrays)).keys() == arrays.keys()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_parts_of_many_rows_follow_it_too(metric, threads, monkeypatch):
    """Patches at whole places that lie across the parts of several threads."""
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", str(threads))
    case = Sprinkled(
        **vars(row(f"score: many rows, {metric}", (1, 2, 2, 70, 5), patch=3, metric=metric)), finite_weights=True
    )
    with np.errstate(all="ignore"):
        _check(case, Run("cpu", "double"))


@pytest.mark.parametrize("fraction", [(0.5, 0), (0, 0.5)])
def test_a_search_between_pixels_along_one_axis_does_not_read_beside_it(fraction):
    """The candidates of every query lie between its pixel and a finite one, and there is NaN beside both."""
    v = np.zeros((1, 1, 4, 4), np.float32)
    k = v.copy()
    beside = k if fraction[1] else k.swapaxes(-1, -2)
    beside[..., 1::2, :] = np.nan  # every second row or column is a query
    offsets = np.zeros((1, 1, 2, 2, 1, 3), np.float32)
    offsets[..., 1:] = fraction
    scores, _ = ss.refine(v, k, offsets, window=1, stride=2, subpixel=True, topk=1)
    assert (scores == 0).all()
