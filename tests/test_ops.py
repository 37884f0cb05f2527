"""Every op on every case: the backend computes what the definition says, forward and backward."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from cases import CASES, Case

from shiftsearch import definition
from shiftsearch._geometry import Patches
from shiftsearch.backends import cpu

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [np.float64, np.float32]
WITH_OFFSETS = [case for case in CASES if "offsets" in case.op.outputs]
_TIES = 0.02  # of the kept candidates may be others that score the same but for rounding


def tolerance(dtype, terms: int, reference) -> float:
    """How far a sum of `terms` in `dtype` may be from the definition: the one rule for all comparisons.

    Rounding errors of n terms grow like sqrt(n); 4 covers the largest of some thousand outputs.
    """
    finite = reference[np.isfinite(reference)]
    return 4 * np.finfo(dtype).eps * np.sqrt(terms) * max(1.0, np.abs(finite).max(initial=0))


def terms(case: Case) -> int:
    return getattr(case.spec, "patch", 1) ** 2 * case.size[2] * case.kept + 4


def close(found, expected, case, dtype, what):
    assert found.shape == expected.shape, what
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, terms(case), expected), err_msg=what)


@cache
def expected(case: Case) -> dict:
    return case.op.forward(definition, case.spec, **case.arrays(np.float64))


@cache
def gradients(case: Case) -> dict:
    return case.op.backward(definition, case.spec, case.arrays(np.float64), expected(case), loss(case, np.float64))


def loss(case: Case, dtype) -> dict:
    """Gradients that arrive at the outputs."""
    rng = np.random.default_rng(1)
    arrive = {name: rng.standard_normal(out.shape).astype(np.float32) for name, out in expected(case).items()}
    if not getattr(case.spec, "subpixel", True):
        arrive.pop("offsets", None)
    return {name: grad.astype(dtype) for name, grad in arrive.items() if name != "seed"}


@pytest.mark.parametrize("dtype", DTYPES, ids=["double", "single"])
@pytest.mark.parametrize("case", [c for c in CASES if c not in WITH_OFFSETS], ids=lambda c: c.name)
def test_outputs_are_those_of_the_definition(case, dtype):
    found = case.op.forward(cpu, case.spec, **case.arrays(dtype))
    assert found.keys() == expected(case).keys()
    for name, output in found.items():
        assert cpu is definition or cpu.correlate is definition.correlate or output.dtype == dtype, name
        close(output, expected(case)[name], case, dtype, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=["double", "single"])
@pytest.mark.parametrize("case", WITH_OFFSETS, ids=lambda c: c.name)
def test_kept_candidates_are_those_of_the_definition(case, dtype):
    inputs, wanted = case.arrays(dtype), expected(case)
    found = case.op.forward(cpu, case.spec, **inputs)
    assert found["offsets"].dtype == wanted["offsets"].dtype
    assert found["offsets"].shape == wanted["offsets"].shape
    same = (found["offsets"] == wanted["offsets"]).all(-1)
    if "seed" in wanted:
        same &= found["seed"] == wanted["seed"]
    ties = np.count_nonzero(~same)
    assert ties <= (0 if case.exact else _TIES * same.size), f"{ties} of {same.size} candidates are others"
    scores = np.where(same | (case.spec.penalty == 0), wanted["scores"], found["scores"])
    close(found["scores"], scores, case, dtype, "scores")
    if ties:
        others = np.where(same, found["scores"], _scores_at(case, found["offsets"]))
        close(found["scores"], others, case, dtype, "scores at the other offsets")


def _scores_at(case: Case, offsets):
    """What the definition scores at `offsets`."""
    q, k = (case.arrays(np.float64)[name] for name in "qk")
    p = case.spec.patches()
    if case.op.name == "match":
        q, k, offsets = q[:, None], k[:, None], offsets[:, :, None]
        offsets = np.concatenate([np.zeros_like(offsets[..., :1]), offsets], -1)
        scores = definition.correlate(q, k, offsets, Patches(**{**vars(p), "scale": case.scale}))
        return scores[:, :, 0]
    return definition.correlate(q, k, offsets, p)


@pytest.mark.parametrize("dtype", DTYPES, ids=["double", "single"])
@pytest.mark.parametrize("case", [c for c in CASES if c.values != "nan"], ids=lambda c: c.name)
def test_gradients_are_those_of_the_definition(case, dtype):
    """Both at the outputs of the definition, so that it does not matter which of two equal candidates was kept."""
    outputs = {
        name: output.astype(dtype) if output.dtype == np.float64 else output for name, output in expected(case).items()
    }
    found = case.op.backward(cpu, case.spec, case.arrays(dtype), outputs, loss(case, dtype))
    assert found.keys() == gradients(case).keys()
    for name, grad in found.items():
        close(grad, gradients(case)[name], case, dtype, f"gradient of {name}")


@pytest.mark.parametrize("op", sorted({case.op.name for case in CASES}))
def test_every_input_has_a_gradient_unless_it_is_whole(op):
    case = next(c for c in CASES if c.op.name == op and (c.flow == "wild" or c.offsets == "wild"))
    inputs = case.arrays(np.float64)
    if hasattr(case.spec, "subpixel"):
        case = next(c for c in CASES if c.op.name == op and c.spec.subpixel and (c.flow or c.offsets == "wild"))
        inputs = case.arrays(np.float64)
    assert gradients(case).keys() == inputs.keys()
    for name, grad in gradients(case).items():
        assert grad.shape == inputs[name].shape, name
