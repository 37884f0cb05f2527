"""Offsets of any dtype lead to the same places, however far away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from backends import RUNS, Run
from cases import Case, row
from test_ops import close, each

from shiftsearch import _arrays, definition

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("poisoned"), pytest.mark.filterwarnings("error")]

_SIZE = (1, 4, 2, 5, 7)
_FAR = (2**31 - 1, -(2**31), 2**31, 2**40 + 1, -(2**40) - 3, 2**62, -(2**62))
_OPS = ("score", "aggregate", "stack", "scatter", "gather", "fold", "refine")


@dataclass(frozen=True)
class Far(Case):
    """A case with some offsets that lead far away along each axis."""

    far: tuple[int, ...] = _FAR
    as_dtype: str = "int64"

    def arrays(self, dtype):
        found, rng = super().arrays(dtype), np.random.default_rng(0)
        near = found["offsets"].astype(np.int64)
        offsets = np.where(rng.random(near.shape) < 0.3, rng.choice(self.far, near.shape), near)
        return {**found, "offsets": offsets.astype(self.as_dtype)}


def _case(op, border, dtype="int64", far=_FAR) -> Far:
    options = {"window": 2, "topk": 3} if op == "refine" else {}
    return Far(
        **vars(row(f"{op}: far, {border}", _SIZE, offsets="int", border=border, patch=2, **options)),
        far=far,
        as_dtype=dtype,
    )


def _wanted(case: Far):
    """Return, for float offsets, the outputs of the definition, random gradients there, and those of the inputs."""
    arrays = {name: array.astype(float) for name, array in case.arrays(np.float64).items()}
    outputs = case.op.forward(definition, case.spec, **arrays)
    rng = np.random.default_rng(1)
    grads = {name: rng.standard_normal(out.shape) for name, out in outputs.items() if name not in ("seed", "offsets")}
    return outputs, grads, case.op.backward(definition, case.spec, arrays, outputs, grads, set(case.op.values))


def _compare(case, found, wanted):
    for name, output in found.items():
        if output.dtype.kind == "i":
            np.testing.assert_array_equal(output, wanted[name], name)
        else:
            close(output, wanted[name], case, name)


def _public(case: Far, arrays: dict, kind=lambda array: array):
    """Return the results of the public function, with the gradients of the values."""
    outputs, grads, _ = _wanted(case)
    arrays = {name: kind(array) for name, array in arrays.items()}
    found = _arrays.forward(case.op, case.spec, arrays)
    kept = {name: kind(outputs[name].astype(np.int32)) for name in case.op.keeps}
    back = _arrays.backward(
        case.op, case.spec, arrays, kept, {n: kind(g) for n, g in grads.items()}, frozenset(case.op.values)
    )
    return (*({name: np.asarray(array) for name, array in of.items()} for of in (found, back)),)


@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("op", _OPS)
def test_whole_numbers_of_64_bits_lead_where_floats_lead(op, border):
    case = _case(op, border)
    outputs, _, slopes = _wanted(case)
    for dtype in ("int64", "float64"):
        found, back = _public(case, _case(op, border, dtype).arrays(np.float64))
        _compare(case, found, outputs)
        _compare(case, back, slopes)


@pytest.mark.parametrize("op", _OPS)
def test_torch_raises_the_same_errors(op):
    torch = pytest.importorskip("torch")
    case = _case(op, "reflect")
    expected = _public(case, case.arrays(np.float64))
    for found, wanted in zip(_public(case, case.arrays(np.float64), torch.from_numpy), expected, strict=True):
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name], name)


@pytest.mark.parametrize(
    ("far", "dtypes"),
    [
        ((127, -128), ("int8", "int16", "int32", "int64", "float16", "float32", "float64")),
        ((2**15 - 1, -(2**15)), ("int16", "int32", "int64", "float32", "float64")),
        ((2**31 - 1, -(2**31), 2**30 + 1), ("int32", "int64", "float64")),
        ((2**40, -(2**62)), ("int64", "float32", "float64")),
    ],
)
@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("op", _OPS)
def test_every_dtype_that_holds_a_number_means_it(op, border, far, dtypes):
    outputs, _, slopes = _wanted(_case(op, border, far=far))
    for dtype in dtypes:
        case = _case(op, border, dtype, far)
        found, back = _public(case, case.arrays(np.float64))
        _compare(case, found, outputs)
        _compare(case, back, slopes)


@pytest.mark.parametrize("op", ["score", "aggregate", "scatter", "gather", "fold"])
def test_far_places_are_mirrored_exactly(op):
    """Compare with Python's integers, as far as float64 is exact."""
    case = _case(op, "reflect", far=(2**31 - 1, -(2**31), 2**40 + 1, -(2**51)))
    arrays = case.arrays(np.float64)
    queries = np.indices(arrays["offsets"].shape[2:5])[:, None, None, ..., None]
    near = np.empty_like(arrays["offsets"])
    for axis, (at, n) in enumerate(zip(queries, (4, 5, 7), strict=True)):
        place = (at + arrays["offsets"][..., axis]) % (2 * (n - 1))
        near[..., axis] = np.where(place < n, place, 2 * (n - 1) - place) - at
    expected = _public(case, {**arrays, "offsets": near.astype(np.int32)})
    for found, wanted in zip(_public(case, arrays), expected, strict=True):
        _compare(case, found, wanted)


# places of halves are found as those of single precision
@pytest.mark.parametrize("run", [run for run in RUNS if run.values[0].precision in ("single", "double")])
@each([_case(op, border) for op in _OPS for border in ("reflect", "zeros")])
def test_backends_agree_on_far_places(case, run: Run):
    for dtype in ("int64", "float64"):
        case = replace(case, as_dtype=dtype)
        arrays = {n: a.astype(float) for n, a in case.arrays(run.dtype).items()}
        outputs = case.op.forward(definition, case.spec, **arrays)
        for name, output in run.forward(case).items():
            if output.dtype.kind == "i":  # sums that round to the same number may change places
                assert (output == outputs[name]).mean() > 0.98, name
            else:
                close(output, outputs[name], case, name)
