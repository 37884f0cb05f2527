"""What it takes to add an op: `halve`, which everything in the package knows once it is made.

That is nine files. Four have what is new: the op and its public function (`shiftsearch/ops/halve.py`), its meaning
(a file in `shiftsearch/definition/`), its loops (a file in `shiftsearch/backends/cpu/`) and its kernel (`cuda_src/halve.cu`).
Five get an entry: `__init__.py` of the package, of `definition` and of `backends/cpu`, and in `backends/cuda` `kernels.py`
and `primitives.py`. torch's operators, `doctor`, the table of cases and the tests of layers, gradients and docstrings are not among them.
Here all of it stands in one file, and is put in its place after torch and the package were imported.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass

import emulate
import numpy as np
import pytest
from cases import example
from test_doctor import emulated

from shiftsearch import ShiftsearchError, _source, definition
from shiftsearch._call import run
from shiftsearch._op import OPS, WEIGHT, Example, Input, Op, Spec
from shiftsearch.backends import cpu, cuda
from shiftsearch.backends.cpu.jit import kernel
from shiftsearch.backends.cuda.kernels import CTYPES, KERNELS, Kernel
from shiftsearch.backends.cuda.primitives import Cuda
from shiftsearch.doctor import examine


# --- shiftsearch/ops/halve.py -----------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class HalveSpec(Spec):
    times: int

    def __post_init__(self):
        self.whole("times", least=0, most=9)


def halve(v, factor, *, times=1):
    """Return factor * v, halved some times."""
    return run(OPS["halve"], {"v": v, "factor": factor}, times=times)[0]


def _forward(backend, spec, v, factor):
    return {"out": backend.halve(v, factor, spec.times)}


def _backward(backend, spec, inputs, outputs, grads, wanted):
    v, factor = inputs["v"], inputs["factor"]
    found = {"v": backend.halve(grads["out"], factor, spec.times)}
    found["factor"] = (backend.halve(grads["out"], factor * 0 + 1, spec.times) * v).sum(-1)
    return {name: found[name] for name in wanted}


def _made() -> Op:  # at the end of its file, HALVE = Op(...)
    return Op(
        function=halve,
        spec=HalveSpec,
        inputs={"v": Input("B N W"), "factor": Input("B N", WEIGHT)},
        outputs={"out": "value"},
        shapes=lambda spec, sizes: {"out": (sizes["B"], sizes["N"], sizes["W"])},
        forward=_forward,
        backward=_backward,
        example=Example({"times": 2}, sizes={"N": 3}),
    )


# --- shiftsearch/definition/halve.py ----------------------------------------------------------------
def _defined(v, factor, times):
    return np.asarray(v, float) * np.asarray(factor, float)[..., None] / 2**times


# --- shiftsearch/backends/cpu/halve.py --------------------------------------------------------------
@kernel("out")
def _rows(v, factor, out, times):
    for b in range(v.shape[0]):
        for n in range(v.shape[1]):
            for x in range(v.shape[2]):
                out[b, n, x] = v[b, n, x] * factor[b, n]
                for _ in range(times):
                    out[b, n, x] /= 2


def _on_cpu(v, factor, times):
    out = np.empty(v.shape, v.dtype)
    _rows(v, factor, out, times)
    return out


# --- cuda_src/halve.cu, and its entry in shiftsearch/backends/cuda/ ---------------------------------
_TEXT = """
extern "C" __global__ void halve(const SS_SCALAR* v, const SS_SCALAR* factor, SS_SCALAR* out, int width, long long count) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    out[i] = v[i] * factor[i / width];
    for (int n = 0; n < SS_TIMES; ++n) out[i] /= 2;
}
"""
_KERNEL = Kernel("halve", file="halve.cu")


def _on_cuda(self, v, factor, times):
    out, constants = self.xp.empty(v.shape, v.dtype), {"SCALAR": CTYPES[v.dtype.name], "TIMES": times}
    factor = factor.astype(v.dtype)
    arguments = {"v": v, "factor": factor, "out": out, "width": v.shape[-1], "count": out.size}
    self.device.launch(_KERNEL, constants, -(-out.size // _KERNEL.threads), arguments)
    return out


# --- tests ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def op():
    """The op, made when everything else was."""
    if importlib.util.find_spec("torch"):
        importlib.import_module("shiftsearch._torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definition, "halve", _defined, raising=False)
        patch.setattr(cpu, "halve", _on_cpu, raising=False)
        patch.setattr(Cuda, "halve", _on_cuda, raising=False)
        patch.setitem(KERNELS, "halve", _KERNEL)
        yield _made()
        del OPS["halve"]


def test_arrays_and_messages(op):
    v, factor = np.ones((2, 3, 5), np.float32), np.full((2, 3), 4, np.float32)
    np.testing.assert_array_equal(halve(v, factor), 2 * v)
    np.testing.assert_array_equal(halve(v[0].astype(np.float16), factor[0], times=3), np.full((3, 5), 0.5, np.float16))
    with pytest.raises(ShiftsearchError, match="halve: times is 10, expected a whole number from 0 to 9"):
        halve(v, factor, times=10)
    with pytest.raises(ShiftsearchError, match=r"halve: factor has shape \(2, 2\), expected \(B=2, N=3\)"):
        halve(v, factor[:, :2])


def test_it_is_in_the_table_of_cases(op):
    case = example(op)
    arrays = case.arrays(np.float64)
    assert {name: array.shape for name, array in arrays.items()} == {"v": (1, 3, 8), "factor": (1, 3)}
    found = op.forward(cpu, case.spec, **arrays)["out"]
    np.testing.assert_allclose(found, op.forward(definition, case.spec, **arrays)["out"], rtol=1e-15)


def test_gradients_and_compilers(op):
    torch = pytest.importorskip("torch")
    inputs = op.example_arrays(np.random.default_rng(0))
    given = tuple(torch.from_numpy(array).requires_grad_() for array in inputs.values())
    assert torch.autograd.gradcheck(lambda v, factor: halve(v, factor, times=2), given)
    torch._dynamo.reset()
    compiled = torch.compile(lambda v, factor: halve(v, factor, times=2), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), halve(*given, times=2))
    slopes = (
        torch.autograd.grad(call(*given).square().sum(), given) for call in (compiled, lambda *a: halve(*a, times=2))
    )
    for found, wanted in zip(*slopes, strict=True):
        assert torch.equal(found, wanted)
    mapped = torch.func.vmap(halve)(*(torch.stack((x, 2 * x)) for x in given))
    assert torch.equal(mapped[1], halve(2 * given[0], 2 * given[1]))
    with torch.autocast("cpu", torch.bfloat16):
        assert halve(given[0].float(), given[1].float()).dtype == torch.bfloat16


@pytest.mark.emulated
@pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
def test_doctor_examines_it_on_both_backends(op, monkeypatch):
    read = _source.read
    monkeypatch.setattr(_source, "read", lambda file: _TEXT if file == "halve.cu" else read(file))
    for name in OPS.keys() - {"halve"}:
        monkeypatch.delitem(OPS, name)
    monkeypatch.setattr(cuda, "load", emulated)
    out = io.StringIO()
    assert examine(out), out.getvalue()
    assert "cpu   halve       ok" in out.getvalue()
    assert "cuda  halve       ok" in out.getvalue()
