"""torch.library, torch.compile and torch.export: operators, compiled functions and saved programs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch_calls import CALLS, Call, each_call, each_op, gradients

import shiftsearch as ss

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("poisoned")


def _operator_arguments(call, monkeypatch, **sizes):
    """Return the arguments of a public function's operator, and of the operator of its gradient."""
    from shiftsearch import _torch

    tensors, seen = call.tensors(**sizes), []
    operators = next(each for name, each in _torch._OPERATORS.items() if CALLS.get(name) is call)
    usual = operators.call
    monkeypatch.setattr(operators, "call", lambda *given: seen.append([*operators._in_full(given)]) or usual(*given))
    outputs = call(tensors)
    return operators.seen, tuple(seen[0]), outputs


@each_op
def test_operators_pass_the_checks_of_torch(name, monkeypatch):
    operator, arguments, _ = _operator_arguments(CALLS[name], monkeypatch)
    torch.library.opcheck(operator, arguments)


def _backward_arguments(name, operator, arguments):
    """Return the arguments of the operator of the gradient, for a constant gradient of every output."""
    from shiftsearch._op import OPS

    op = OPS[name]
    inputs = [None if tensor is None else tensor.detach() for tensor in arguments[: len(op.inputs)]]
    options = arguments[len(op.inputs) :]
    outputs = dict(zip(op.outputs, _several(operator(*inputs, *options)), strict=True))
    kept = [outputs[key] for key in op.keeps]
    grads = [
        torch.ones((), dtype=outputs[key].dtype).expand_as(outputs[key]) for key in op.outputs if key not in op.hidden
    ]
    return getattr(torch.ops.shiftsearch, f"{name}_backward"), (
        *inputs,
        *kept,
        *grads,
        *options,
        [x is not None for x in inputs],
    )


def _several(found):
    return found if isinstance(found, tuple) else (found,)


@each_op
def test_operators_of_gradients_pass_the_checks_of_torch(name, monkeypatch):
    operator, arguments, _ = _operator_arguments(CALLS[name], monkeypatch)
    backward, arguments = _backward_arguments(name, operator, arguments)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(backward, arguments, test_utils=tests)


@each_op
def test_operators_are_mapped_over_without_a_word(name, monkeypatch, capfd):
    operator, arguments, _ = _operator_arguments(CALLS[name], monkeypatch)
    here = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    for called, given in ((operator, here), _backward_arguments(name, operator, here)):
        tensors = [isinstance(x, torch.Tensor) for x in given]
        both = [torch.stack((2 * x, x), -1) if tensor else x for x, tensor in zip(given, tensors, strict=True)]
        mapped = torch.func.vmap(called, tuple(-1 if tensor else None for tensor in tensors))(*both)
        for found, wanted in zip(_several(mapped), _several(called(*given)), strict=True):
            assert torch.equal(found[1], wanted)
    assert "performance drop" not in capfd.readouterr().err


def _channels_last(tensor):
    return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)


LAYOUTS = {
    "plain": lambda tensor: tensor,
    "permuted": lambda tensor: tensor.mT.contiguous().mT,
    "channels last": _channels_last,
    "expanded": lambda tensor: tensor.expand(2, *tensor.shape[1:]),
    "one of many": lambda tensor: torch.stack((tensor, tensor), -1)[..., 0],
    "without a batch": lambda tensor: _channels_last(tensor)[0],
}


@pytest.mark.parametrize("width", [5, 1])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@each_op
def test_shapes_and_strides_are_known_before(name, layout, width, monkeypatch):
    """For outputs and gradients: a compiler knows only these, and not the numbers."""

    def without_memory(x):
        here = isinstance(x, torch.Tensor)
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if here else x

    def laid_out(tensors):
        return [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in _several(tensors)]

    operator, arguments, _ = _operator_arguments(CALLS[name], monkeypatch, width=width)
    for dtype in (torch.float64, torch.bfloat16):
        here = [layout(x.detach().to(dtype)) if isinstance(x, torch.Tensor) else x for x in arguments]
        for called, given in ((operator, here), _backward_arguments(name, operator, here)):
            assert laid_out(called(*map(without_memory, given))) == laid_out(called(*given))


class Counted:
    """A compiler that counts its calls and runs graphs by AOT autograd."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)


@pytest.mark.full
@each_call
def test_compiled_functions_have_one_graph_for_all_sizes(call):
    torch._dynamo.reset()
    counted = Counted()
    compiled = Call(torch.compile(call.function, fullgraph=True, dynamic=True, backend=counted), call.takes)
    compiled(call.tensors(height=6, width=8))  # which may analyse the function twice, once with fractions as variables
    asked = counted.count
    for height, width in ((6, 8), (7, 9), (10, 5)):
        tensors = call.tensors(height=height, width=width)
        for found, expected in zip(compiled(tensors), call(tensors), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
        grads = gradients(call, tensors)
        for name, grad in gradients(compiled, tensors).items():
            torch.testing.assert_close(grad, grads[name], rtol=1e-12, atol=1e-12)
    assert counted.count == asked


@each_call
def test_tensors_without_memory_give_shapes(call):
    expected, tensors = call(call.tensors()), call.tensors(device="meta")
    for found, wanted in zip(call(tensors), expected, strict=True):
        assert (found.device.type, found.shape, found.dtype) == ("meta", wanted.shape, wanted.dtype)


def test_a_new_size_is_compiled_once_more_and_then_no_more():
    torch._dynamo.reset()
    call, counted = CALLS["search"], Counted()
    compiled = Call(torch.compile(call.function, fullgraph=True, backend=counted), call.takes)
    for height, width in ((6, 8), (7, 9), (10, 5), (8, 12)):
        compiled(call.tensors(height=height, width=width))
    assert counted.count == 2


class Module(torch.nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, *tensors):
        return self.call(dict(zip(self.call.takes.split(), tensors, strict=True)))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_call
def test_exported_programs_give_the_same(call, dynamic):
    tensors = {name: tensor.detach() for name, tensor in call.tensors(height=6, width=8).items()}
    height, width, shapes = torch.export.Dim("height", min=5), torch.export.Dim("width", min=5), None
    if dynamic:  # rows and columns stand after the frames, or behind those of a flow
        sizes = {6: height, 8: width}
        shapes = (tuple({axis: sizes[n] for axis, n in enumerate(t.shape) if n in sizes} for t in tensors.values()),)
    program = torch.export.export(
        Module(call), tuple(tensors.values()), dynamic_shapes={"tensors": shapes[0]} if dynamic else None
    )
    for sizes in ((6, 8), (7, 9)) if dynamic else ((6, 8),):
        given = {
            name: tensor.detach() for name, tensor in call.tensors(height=sizes[0], width=sizes[1], seed=3).items()
        }
        for found, expected in zip(program.module()(*given.values()), call(given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.full
@each_call
def test_compiled_and_exported_without_a_batch_there_is_none_in_the_results(call):
    tensors = {name: tensor.detach()[0].requires_grad_() for name, tensor in call.tensors().items()}
    expected, grads = call(tensors), gradients(call, tensors)
    torch._dynamo.reset()
    compiled = Call(torch.compile(call.function, fullgraph=True, backend="aot_eager"), call.takes)
    given = tuple(tensor.detach() for tensor in tensors.values())
    exported = torch.export.export(Module(call), given).module()
    for results in (compiled(tensors), exported(*given)):
        for found, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)
    for name, grad in gradients(compiled, tensors).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-12, atol=1e-12)


@pytest.mark.full
def test_saved_programs_run_in_another_process(tmp_path):
    call = CALLS["search"]
    tensors = tuple(tensor.detach() for tensor in call.tensors().values())
    torch.export.save(torch.export.export(Module(call), tensors), tmp_path / "search.pt2")
    torch.save((tensors, Module(call)(*tensors)), tmp_path / "tensors.pt")
    code = """
import sys, torch, shiftsearch
program = torch.export.load(sys.argv[1] + "/search.pt2")
given, expected = torch.load(sys.argv[1] + "/tensors.pt")
found = program.module()(*given)
assert all(map(torch.equal, found, expected))
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


@pytest.mark.full
def test_torch_may_come_after_this_package():
    code = """
import shiftsearch, sys
assert "torch" not in sys.modules
import torch
video = torch.randn(3, 2, 6, 7)
compiled = torch.compile(lambda video: shiftsearch.search(video, video, window=3, topk=2), fullgraph=True, backend="eager")
assert torch.equal(compiled(video)[1], shiftsearch.search(video, video, window=3, topk=2)[1])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is not there --------------------------------------------------------------------------------
def test_a_sharded_tensor_is_refused_with_what_to_do(tmp_path):
    from torch import distributed as dist
    from torch.distributed.tensor import DeviceMesh, Replicate, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        q = torch.randn(1, 3, 4, 6, 7)
        sharded = distribute_tensor(q, DeviceMesh("cpu", [0]), [Replicate()])
        with pytest.raises(
            ss.ShiftsearchError, match=r"search: k is a DTensor, expected .* k\.to_local\(\), or all of it"
        ):
            ss.search(q, sharded, window=3)
        assert ss.search(q, sharded.full_tensor(), window=3)[0].shape == (1, 1, 3, 6, 7, 10)
    finally:
        dist.destroy_process_group()


def test_export_to_onnx_says_what_to_do_instead(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)

    class Search(torch.nn.Module):
        def forward(self, q):
            return ss.search(q, q, window=3, topk=2)[0]

    q = torch.randn(1, 3, 4, 6, 7)
    for call in (lambda: Search()(q), lambda: torch.export.export(Search(), (q,))):
        said = (
            r"search: ONNX has no such operator, expected torch\.export\.export.*shiftsearch\.search\.default: function"
        )
        with pytest.raises(Exception, match=said):
            call()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")  # torch's own, of what it copies
def test_exported_programs_take_other_operators_for_ours_as_onnx_needs(monkeypatch):
    class Score(torch.nn.Module):
        def forward(self, q, offsets):
            return ss.score(q, q, offsets, metric="dot")

    q, offsets = torch.randn(1, 3, 4, 6, 7), torch.zeros(1, 1, 3, 6, 7, 2, 3)
    program = torch.export.export(Score(), (q, offsets))

    def products(q, k, offsets, *options):  # where all offsets are 0
        return (q * k).sum(2)[:, None, ..., None] + offsets[..., 0]

    program = program.run_decompositions({torch.ops.shiftsearch.score.default: products})
    assert "shiftsearch" not in program.graph_module.code
    torch.testing.assert_close(program.module()(q, offsets), Score()(q, offsets))
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    program.run_decompositions()  # as torch.onnx.export does
