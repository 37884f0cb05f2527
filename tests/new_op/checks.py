"""What tests/test_new_op.py asks of `halve` beside the tests of all ops, in a package that has it."""

from __future__ import annotations

import io

import emulate
import numpy as np
import pytest
from test_doctor import emulated

import shiftsearch as ss
from shiftsearch import definition
from shiftsearch._op import OPS
from shiftsearch.backends import cpu, cuda
from shiftsearch.doctor import examine

OP = OPS["halve"]


def test_halve_has_files_of_its_own():
    assert definition.halve.__module__ == "shiftsearch.definition.halve"
    assert cpu.halve.__module__ == "shiftsearch.backends.cpu.halve"
    assert cuda.KERNELS["halve"].file == "halve.cu"


def test_halve_takes_arrays_and_says_what_is_wrong():
    v, factor = np.ones((2, 3, 5), np.float32), np.full((2, 3), 4, np.float32)
    np.testing.assert_array_equal(ss.halve(v, factor), 2 * v)
    np.testing.assert_array_equal(
        ss.halve(v[0].astype(np.float16), factor[0], times=3), np.full((3, 5), 0.5, np.float16)
    )
    with pytest.raises(ss.ShiftsearchError, match="halve: times is 10, expected a whole number from 0 to 9"):
        ss.halve(v, factor, times=10)
    with pytest.raises(ss.ShiftsearchError, match=r"halve: factor has shape \(2, 2\), expected \(B=2, N=3\)"):
        ss.halve(v, factor[:, :2])


def test_halve_has_gradients_and_compiles():
    torch = pytest.importorskip("torch")
    inputs = OP.example_arrays(np.random.default_rng(0))
    given = tuple(torch.from_numpy(array).requires_grad_() for array in inputs.values())
    assert torch.autograd.gradcheck(lambda v, factor: ss.halve(v, factor, times=2), given)
    compiled = torch.compile(lambda v, factor: ss.halve(v, factor, times=2), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), ss.halve(*given, times=2))
    slopes = (
        torch.autograd.grad(call(*given).square().sum(), given)
        for call in (compiled, lambda *arrays: ss.halve(*arrays, times=2))
    )
    for found, wanted in zip(*slopes, strict=True):
        assert torch.equal(found, wanted)
    mapped = torch.func.vmap(ss.halve)(*(torch.stack((x, 2 * x)) for x in given))
    assert torch.equal(mapped[1], ss.halve(2 * given[0], 2 * given[1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert ss.halve(given[0].float(), given[1].float()).dtype == torch.bfloat16


@pytest.mark.emulated
@pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
def test_doctor_examines_halve_on_both_backends(monkeypatch):
    for name in OPS.keys() - {"halve"}:
        monkeypatch.delitem(OPS, name)
    monkeypatch.setattr(cuda, "load", emulated)
    out = io.StringIO()
    assert examine(out), out.getvalue()
    assert "cpu   halve       ok" in out.getvalue()
    assert "cuda  halve       ok" in out.getvalue()
