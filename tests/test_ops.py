"""Every op equals its definition on every case and every backend, forward and backward."""

from __future__ import annotations

import math
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from backends import RUNS, Run
from cases import CASES, Case
from quick import cover, options

from shiftsearch import definition
from shiftsearch._geometry import Patches

pytestmark = pytest.mark.usefixtures("poisoned")

WITH_OFFSETS = [case for case in CASES if case.op.outputs.keys() >= {"scores", "offsets"}]


def each(cases):
    """Parametrize by cases; one process runs all tests of a case, so that its reference is computed once."""
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=_together(c)) for c in cases])


def _together(case: Case):
    return pytest.mark.xdist_group(case.name)


def on_each_backend(cases: list[Case], halves: bool = True):
    """Each case on each backend: emulated in single precision, and in other dtypes where it shows there what is new.

    A kernel is another text in each dtype, and all are compiled: with all of them this would take twice the time. Without
    `halves` no option is new in a half: what runs backward reads and rounds them by the functions of what runs forward.
    """
    new = _shown_in_other_dtypes(cases, halves)
    return pytest.mark.parametrize(
        ("case", "run"),
        [
            pytest.param(case, run, id=f"{case.name}-{parameter.id}", marks=[*parameter.marks, _together(case)])
            for case in cases
            for parameter in RUNS
            for run in parameter.values
            if run.backend != "emulated" or run.precision == "single" or (case, run.precision) in new
        ],
    )


def _shown_in_other_dtypes(cases: list[Case], halves: bool) -> set[tuple[Case, str]]:
    """Choose pairs that show each option in doubles and in a half, each op in both halves, and rounding everywhere."""
    pairs = [(case, dtype) for i, case in enumerate(cases) for dtype in ("double", ("half", "bfloat")[i % 2])]
    shown = [{(case.op.name, dtype)} for case, dtype in pairs]
    for (case, dtype), facts in zip(pairs, shown, strict=True):
        if halves or dtype == "double":
            facts |= {(dtype == "double", *option) for option in options(case)}
    rounded = {(case, dtype) for case in cases if case.exact for dtype in ("double", "half", "bfloat")}
    return rounded | {pairs[place] for place in cover(shown)}


_TIES = 0.02  # share of kept candidates that may be replaced by others of the same score but for rounding


def tolerance(dtype, terms: int, reference) -> float:
    """How far a sum of `terms` in `dtype` may be from the definition: the one rule for all comparisons.

    Rounding errors of n terms grow like sqrt(n); 4 covers the largest of some thousand outputs.
    """
    finite = reference[np.isfinite(reference)]
    return 4 * float(ml_dtypes.finfo(dtype).eps) * np.sqrt(terms) * max(1.0, np.abs(finite).max(initial=0))


def terms(case: Case) -> int:
    kept = case.spec.kept(case.spec.search_slots()) if case.op.name == "attend" else case.kept
    return getattr(case.spec, "patch", 1) ** 2 * case.size[2] * kept + 4


def close(found, expected, case, what, dtype=None, times=1):
    """Compare to the precision of the dtype found: sums of halves are float32, and only videos are halves."""
    assert found.shape == expected.shape, what
    if found.dtype.kind == "i":
        np.testing.assert_array_equal(found, expected, what)
        return
    atol = tolerance(dtype or found.dtype, terms(case) * times, expected)
    np.testing.assert_allclose(found.astype(float), expected, rtol=0, atol=atol, err_msg=what)


def inputs(case: Case, dtype) -> dict:
    """Return inputs for the definition: the values rounded to `dtype`, in float64."""
    arrays = case.arrays(dtype if np.dtype(dtype).itemsize == 2 else np.float64)
    return {name: array if array.dtype.kind == "i" else array.astype(float) for name, array in arrays.items()}


@cache
def expected(case: Case, dtype) -> dict:
    return case.op.forward(definition, case.spec, **inputs(case, dtype))


@cache
def gradients(case: Case, dtype) -> dict:
    arrive = {name: grad.astype(float) for name, grad in loss(case, dtype).items()}
    arrays = inputs(case, dtype)
    return case.op.backward(definition, case.spec, arrays, expected(case, dtype), arrive, arrays.keys())


def reference(case: Case, dtype):
    """Return the outputs of the definition: one for half precision, one for single and double."""
    dtype = np.dtype(dtype) if np.dtype(dtype).itemsize == 2 else np.dtype(np.float64)
    return expected(case, dtype), gradients(case, dtype)


def sums(dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def loss(case: Case, dtype) -> dict:
    """Gradients that arrive at the outputs."""
    rng = np.random.default_rng(1)
    outputs = expected(case, np.dtype(dtype) if np.dtype(dtype).itemsize == 2 else np.dtype(np.float64))
    arrive = {name: rng.standard_normal(out.shape).astype(np.float32) for name, out in outputs.items()}
    if not getattr(case.spec, "subpixel", True):
        arrive.pop("offsets", None)
    arrive.pop("seed", None)
    return {name: grad.astype(_dtype_of(case, name, dtype)) for name, grad in arrive.items()}


def _dtype_of(case: Case, output: str, dtype) -> np.dtype:
    kind = case.op.outputs[output]
    if kind == "index" or (kind == "offset" and not case.spec.subpixel):
        return np.dtype(np.int32)
    return case.arrays(dtype)[case.op.values[0]].dtype if kind == "value" else sums(dtype)


@on_each_backend([c for c in CASES if c not in WITH_OFFSETS])
def test_outputs_are_those_of_the_definition(case, run: Run):
    found, (wanted, _) = run.forward(case), reference(case, run.dtype)
    assert found.keys() == wanted.keys()
    for name, output in found.items():
        assert output.dtype == _dtype_of(case, name, run.dtype), name
        close(output, wanted[name], case, name)
        if case.exact:
            rounded = wanted[name].astype(output.dtype)
            np.testing.assert_array_equal(output.astype(float), rounded.astype(float), f"{name}, rounded once")


@on_each_backend(WITH_OFFSETS)
def test_kept_candidates_are_those_of_the_definition(case, run: Run):
    found, (wanted, _) = run.forward(case), reference(case, run.dtype)
    assert found["offsets"].dtype == (sums(run.dtype) if case.spec.subpixel else np.int32)
    assert found["offsets"].shape == wanted["offsets"].shape
    same = (found["offsets"] == wanted["offsets"].astype(found["offsets"].dtype)).all(-1)
    if "seed" in wanted:
        same &= found["seed"] == wanted["seed"]
    ties = np.count_nonzero(~same)
    assert ties <= (0 if case.exact else _TIES * same.size), f"{ties} of {same.size} candidates are others"
    scores = np.where(same | (case.spec.penalty == 0), wanted["scores"], found["scores"])
    close(found["scores"], scores, case, "scores")
    if ties:
        others = np.where(same, found["scores"], _scores_at(case, run.dtype, found["offsets"]))
        close(found["scores"], others, case, "scores at the other offsets")


def _scores_at(case: Case, dtype, offsets):
    """Return the scores of the definition at `offsets`."""
    q, k = (inputs(case, dtype)[name] for name in "qk")
    p = case.spec.patches()
    if case.op.name == "match":
        q, k, offsets = q[:, None], k[:, None], offsets[:, :, None]
        offsets = np.concatenate([np.zeros_like(offsets[..., :1]), offsets], -1)
        scores = definition.score(q, k, offsets, Patches(**{**vars(p), "scale": case.scale}))
        return scores[:, :, 0]
    return definition.score(q, k, offsets, p)


@pytest.mark.options_on("cpu")
@on_each_backend([c for c in CASES if c.values != "nan"], halves=False)
def test_gradients_are_those_of_the_definition(case, run: Run):
    """Both take the outputs of the definition, so that it does not matter which of two equal candidates was kept."""
    wanted, slopes = reference(case, run.dtype)
    outputs = {
        name: output.astype(_dtype_of(case, name, run.dtype)) if output.dtype == np.float64 else output
        for name, output in wanted.items()
    }
    found = run.backward(case, outputs, loss(case, run.dtype))
    assert found.keys() == slopes.keys()
    for name, grad in found.items():
        # between the two, a gradient divided by the coverage is rounded to the dtype of the values
        dtype = run.dtype if case.op.name in ("aggregate", "stack", "fold", "attend") else None
        times = math.prod(wanted["sums"].shape[:-1]) if name == "scales" else 1  # queries
        close(grad, slopes[name], case, f"gradient of {name}", dtype, times)
    again = run.backward(case, outputs, loss(case, run.dtype))
    for name, grad in found.items():
        np.testing.assert_array_equal(grad, again[name], f"gradient of {name}, computed again")


@pytest.mark.parametrize("op", sorted({case.op.name for case in CASES}))
def test_every_input_has_a_gradient_unless_it_is_whole(op):
    case = next(c for c in CASES if c.op.name == op and (c.flow == "wild" or c.offsets == "wild"))
    arrays = case.arrays(np.float64)
    if hasattr(case.spec, "subpixel"):
        case = next(c for c in CASES if c.op.name == op and c.spec.subpixel and (c.flow or c.offsets == "wild"))
        arrays = case.arrays(np.float64)
    found = gradients(case, np.dtype(np.float64))
    assert found.keys() == arrays.keys()
    for name, grad in found.items():
        assert grad.shape == arrays[name].shape, name
