"""torch: gradients, compilation, export, autocast, and tensors of every layout."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import emulate
import numpy as np
import pytest
from device_arrays import Namespace

import shiftsearch as ss
from shiftsearch import ShiftsearchError, _homes
from shiftsearch.backends import cuda as cuda_backend
from shiftsearch.backends.cuda import Cuda

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("poisoned")

OPTIONS = {"window": 3, "patch": 2, "topk": 3, "heads": 2}


@dataclass(frozen=True)
class Call:
    """A public function, and tensors of its arguments for frames of a size."""

    function: object
    takes: str

    def tensors(self, dtype=torch.float64, batch=1, height=4, width=5, device="cpu", seed=0):
        random = torch.Generator().manual_seed(seed)
        T, C, K, G, h, w = 3, 4, 2, 2, height, width
        shapes = {
            "q": (batch, T, C, h, w),
            "k": (batch, T, C, h, w),
            "v": (batch, T, C, h, w),
            "flow": (batch, T, 2, 2, h, w),
            "offsets": (batch, G, T, h, w, K, 3),
            "weights": (batch, G, T, h, w, K),
            "frame": (batch, C, h, w),
            "other": (batch, C, h, w),
            "motion": (batch, 2, h, w),
            "patches": (batch, G, T, h, w, K, C // G, 2, 2),
            "forward": (batch, T, 2, h, w),
            "backward": (batch, T, 2, h, w),
            "coarse": (batch, T, 2, h, w),
        }
        found = {}
        for name in self.takes.split():
            found[name] = torch.randn(shapes[name], generator=random, dtype=torch.float64)
            if name in ("flow", "offsets", "motion", "forward", "backward"):  # not near whole pixels, where slopes jump
                whole, part = (
                    torch.randint(-2, 3, shapes[name], generator=random),
                    torch.rand(shapes[name], generator=random),
                )
                found[name] = whole + 0.2 + 0.6 * part.double()
                if name == "offsets":
                    found[name][..., 0] = whole[..., 0]  # frames do not move
        floats = {name: tensor.to(dtype=dtype, device=device) for name, tensor in found.items()}
        return {name: tensor.requires_grad_() for name, tensor in floats.items()}

    def __call__(self, tensors) -> tuple:
        found = self.function(**tensors)
        return found if isinstance(found, tuple) else (found,)


def _fold(patches, offsets, weights):
    return ss.fold(patches, offsets, weights, size=offsets.shape[-5:-2])


CALLS = {
    "search": Call(lambda q, k, flow: ss.search(q, k, flow, subpixel=True, **OPTIONS), "q k flow"),
    "whole search": Call(lambda q, k: ss.search(q, k, **OPTIONS), "q k"),
    "chained search": Call(
        lambda q, k, forward, backward: ss.search(q, k, (forward, backward), subpixel=True, **OPTIONS),
        "q k forward backward",
    ),
    "match": Call(
        lambda frame, other, motion: ss.match(frame, other, motion, subpixel=True, **OPTIONS), "frame other motion"
    ),
    "refine": Call(lambda q, k, offsets: ss.refine(q, k, offsets, subpixel=True, **OPTIONS), "q k offsets"),
    "attend": Call(
        lambda q, k, v, flow: ss.attend(q, k, v, flow, subpixel=True, **{**OPTIONS, "topk": None}), "q k v flow"
    ),
    "attend to a few": Call(lambda q, k, v: ss.attend(q, k, v, return_attention=True, **OPTIONS), "q k v"),
    "score": Call(lambda q, k, offsets: ss.score(q, k, offsets, patch=2, heads=2), "q k offsets"),
    "aggregate": Call(lambda v, weights, offsets: ss.aggregate(v, weights, offsets, patch=2), "v weights offsets"),
    "stack": Call(lambda v, offsets, weights: ss.stack(v, offsets, weights, patch=2), "v offsets weights"),
    "plain stack": Call(lambda v, offsets: ss.stack(v, offsets), "v offsets"),
    "scatter": Call(lambda v, weights, offsets: ss.scatter(v, weights, offsets, patch=2), "v weights offsets"),
    "gather": Call(lambda v, offsets: ss.gather(v, offsets, patch=2, heads=2, queries=slice(1, 3)), "v offsets"),
    "fold": Call(_fold, "patches offsets weights"),
    "chain_flow": Call(lambda forward, backward: ss.chain_flow(forward, backward, radius=1), "forward backward"),
    "upsample_flow": Call(
        lambda coarse: ss.upsample_flow(coarse, (coarse.shape[-2] * 2, coarse.shape[-1] * 3)), "coarse"
    ),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
each_op = pytest.mark.parametrize(
    "name",
    ["search", "match", "refine", "attend", "score", "aggregate", "stack", "scatter", "gather", "fold", "chain_flow"],
)


def loss(call, tensors):
    """Return a number that depends on every output."""
    random = torch.Generator().manual_seed(7)
    floats = [out for out in call(tensors) if out.is_floating_point()]
    return sum((out * torch.randn(out.shape, generator=random, dtype=torch.float64).to(out)).sum() for out in floats)


def gradients(call, tensors) -> dict:
    grads = torch.autograd.grad(loss(call, tensors), list(tensors.values()))
    return dict(zip(tensors, grads, strict=True))


# --- gradients --------------------------------------------------------------------------------------
@each_call
def test_gradients_are_finite_differences(call):
    tensors = call.tensors()

    def function(*given):
        return tuple(out for out in call(dict(zip(tensors, given, strict=True))) if out.is_floating_point())

    fast = call is not CALLS["score"]
    assert torch.autograd.gradcheck(function, tuple(tensors.values()), fast_mode=fast, check_batched_grad=True)


@each_call
def test_gradients_of_many_vectors_at_once_are_those_of_each(call):
    tensors = call.tensors(height=3, width=4)

    def first(*given):
        return call(dict(zip(tensors, given, strict=True)))[0].flatten()[5:8]

    given = tuple(tensors.values())
    found, vectors = first(*given), torch.eye(3, dtype=torch.float64)
    many = torch.autograd.grad(found, given, vectors, is_grads_batched=True, retain_graph=True)
    mapped = torch.func.vmap(lambda vector: torch.autograd.grad(found, given, vector, retain_graph=True))(vectors)
    at_once = torch.autograd.functional.jacobian(first, given, vectorize=True)
    by_function = torch.func.jacrev(first, tuple(range(len(given))))(*(tensor.detach() for tensor in given))
    expected = torch.autograd.functional.jacobian(first, given)
    for slopes in (many, mapped, at_once, by_function):
        for slope, wanted in zip(slopes, expected, strict=True):
            torch.testing.assert_close(slope, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.full
def test_gradients_flow_through_offsets_that_were_found():
    """From the average of the places found to the flow that led there."""
    tensors = CALLS["search"].tensors(height=3, width=4)

    def function(q, k, flow):
        scores, offsets = ss.search(q, k, flow, subpixel=True, **OPTIONS)
        return ss.aggregate(k, torch.softmax(-scores, -1), offsets, patch=2)

    assert torch.autograd.gradcheck(function, tuple(tensors.values()))


@each_call
def test_only_wanted_gradients_are_computed_and_are_the_same(call):
    tensors = call.tensors()
    together = gradients(call, tensors)
    for name in tensors:
        alone = {key: tensor.detach().requires_grad_(key == name) for key, tensor in tensors.items()}
        (found,) = torch.autograd.grad(loss(call, alone), [alone[name]])
        torch.testing.assert_close(found, together[name], rtol=1e-12, atol=1e-12)


def test_unused_outputs_cost_nothing_and_change_nothing():
    tensors = CALLS["search"].tensors()
    for used in (0, 1):
        found = CALLS["search"](tensors)[used].sum()
        grads = torch.autograd.grad(found, list(tensors.values()))
        assert (grads[0] == 0).all() == (used == 1)  # offsets do not move with q
    tensors = CALLS["fold"].tensors()
    _, coverage = CALLS["fold"](tensors)
    (grad,) = torch.autograd.grad(coverage.sum(), [tensors["weights"]])
    expected = torch.full_like(grad, 4)
    torch.testing.assert_close(grad, expected)


@each_op
def test_second_derivatives_are_refused(name):
    tensors = CALLS[name].tensors()
    grads = torch.autograd.grad(loss(CALLS[name], tensors), list(tensors.values()), create_graph=True)
    with pytest.raises(ShiftsearchError, match=f"{name}: .*differentiated again"):
        sum(grad.sum() for grad in grads).backward()


@each_call
def test_gradients_are_the_same_in_every_run(call):
    tensors = call.tensors(torch.float32, height=9, width=11)
    torch.use_deterministic_algorithms(True)
    try:
        first, again = gradients(call, tensors), gradients(call, tensors)
    finally:
        torch.use_deterministic_algorithms(False)
    for name in tensors:
        assert torch.equal(first[name], again[name]), name


@each_op
def test_only_inputs_and_kept_offsets_are_saved(name):
    tensors, saved = CALLS[name].tensors(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        outputs = CALLS[name](tensors)
    known = {tensor.data_ptr() for tensor in tensors.values()}
    known |= {out.data_ptr() for out in outputs[1:]} if name in ("search", "match", "refine") else set()
    known |= {outputs[0].data_ptr()} if name == "attend" else set()
    others = [tensor for tensor in saved if tensor.numel() and tensor.data_ptr() not in known]
    # the seed that each kept offset came from; the largest of the exponents of a query, and the sum of its weights
    assert len(others) == (1 if name in ("refine", "attend") else 0)
    assert all(tensor.dtype == torch.int32 or (name == "attend" and tensor.shape[-1] == 2) for tensor in others)


def test_whole_results_have_no_gradient_and_rounded_flow_a_gradient_of_zero():
    tensors = CALLS["search"].tensors()
    scores, offsets = ss.search(tensors["q"], tensors["k"], tensors["flow"], **OPTIONS)
    assert scores.requires_grad
    assert not offsets.requires_grad
    (grad,) = torch.autograd.grad(scores.sum(), [tensors["flow"]])
    assert (grad == 0).all()


def test_offsets_have_a_gradient_only_if_flow_or_seeds_have_one():
    tensors = CALLS["search"].tensors()
    assert CALLS["search"](tensors)[1].requires_grad
    tensors["flow"] = tensors["flow"].detach()
    scores, offsets = CALLS["search"](tensors)
    assert scores.requires_grad
    assert not offsets.requires_grad


def test_without_gradients_nothing_is_recorded():
    tensors = CALLS["aggregate"].tensors()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert not CALLS["aggregate"](tensors)[0].requires_grad
    assert not CALLS["aggregate"]({name: tensor.detach() for name, tensor in tensors.items()})[0].requires_grad


# --- torch.func ---------------------------------------------------------------------------------------
@each_call
def test_transforms_of_functions_give_the_same(call):
    """Gradients, vmap over an axis, and per-sample gradients."""
    tensors = call.tensors()
    expected, grads = call(tensors), gradients(call, tensors)
    single = {name: tensor.detach() for name, tensor in tensors.items()}
    both = tuple(torch.stack((tensor, 2 * tensor), 1) for tensor in single.values())

    def named(given):
        return dict(zip(tensors, given, strict=True))

    def outputs(*given):
        return call(named(given))

    slopes = torch.func.grad(lambda *given: loss(call, named(given)), tuple(range(len(tensors))))
    mapped = torch.func.vmap(outputs, in_dims=1)(*both)
    each = torch.func.vmap(slopes, in_dims=1, randomness="same")(*both)
    for found, wanted in zip(mapped, expected, strict=True):
        assert torch.equal(found[0], wanted)
    for name, alone, one in zip(tensors, slopes(*single.values()), each, strict=True):
        torch.testing.assert_close(alone, grads[name], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one[0], grads[name], rtol=1e-12, atol=1e-12)


def _mapped(call):
    """Return a function of tensors and the axis of each that is mapped over: the first one only if there is no other."""
    tensors = call.tensors()

    def function(*given):
        return tuple(out for out in call(dict(zip(tensors, given, strict=True))) if out.is_floating_point())

    axes = (None, -1, 2, 0)[: len(tensors)] if len(tensors) > 1 else (3,)
    given = [tensor.detach() for tensor in tensors.values()]
    return function, axes, [x if d is None else torch.stack((x, 0.9 * x), d) for x, d in zip(given, axes, strict=True)]


@each_call
def test_any_axis_of_any_of_the_inputs_is_mapped_over(call):
    """Alone, nested in another vmap, and with gradients."""
    function, axes, given = _mapped(call)

    def each(*given):
        found = (
            function(*(x if d is None else x.select(d, n) for x, d in zip(given, axes, strict=True))) for n in range(2)
        )
        return tuple(map(torch.stack, zip(*found, strict=True)))

    def slopes(function):
        wanted = [tensor.clone().requires_grad_() for tensor in given]
        return torch.autograd.grad([out.sin().sum() for out in function(*wanted)], wanted)

    mapped = torch.func.vmap(function, axes, out_dims=-1)
    for found, wanted in zip(mapped(*given), each(*given), strict=True):
        assert torch.equal(found.movedim(-1, 0), wanted)
    for found, wanted in zip(slopes(mapped), slopes(each), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    twice = torch.func.vmap(torch.func.vmap(function, axes), (0, *(None for _ in axes[1:])))
    for found, wanted in zip(twice(torch.stack((given[0], given[0])), *given[1:]), each(*given), strict=True):
        assert torch.equal(found[1], wanted)


@each_call
def test_an_axis_of_nothing_is_mapped_to_nothing(call):
    function, axes, given = _mapped(call)
    nothing = [x if d is None else x.narrow(d, 0, 0).requires_grad_() for x, d in zip(given, axes, strict=True)]
    found, expected = torch.func.vmap(function, axes)(*nothing), torch.func.vmap(function, axes)(*given)
    assert [out.shape for out in found] == [(0, *wanted.shape[1:]) for wanted in expected]
    wanted = [tensor for tensor in nothing if tensor.requires_grad]
    assert [grad.shape for grad in torch.autograd.grad(found[0].sum(), wanted)] == [tensor.shape for tensor in wanted]


@pytest.mark.full
@each_call
def test_compiled_functions_are_mapped_over_without_a_word(call, capfd):
    function, axes, given = _mapped(call)
    mapped = torch.func.vmap(function, axes)
    torch._dynamo.reset()
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(*given), mapped(*given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)
    assert "performance drop" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # which torch itself calls
@each_op
def test_derivatives_in_forward_mode_are_refused(name):
    tensors = {key: tensor.detach() for key, tensor in CALLS[name].tensors().items()}
    given = tuple(tensors.values())

    def function(*given):
        return loss(CALLS[name], dict(zip(tensors, given, strict=True)))

    refused = pytest.raises(ShiftsearchError, match=f"{name}: has no derivative in forward mode")
    with refused:
        torch.func.jvp(function, given, given)
    with refused:
        torch.func.hessian(function)(*given)
    with torch.autograd.forward_ad.dual_level(), refused:
        function(*(torch.autograd.forward_ad.make_dual(tensor, tensor) for tensor in given))
    with pytest.raises(ShiftsearchError, match=f"{name}: .*differentiated again"):
        torch.func.grad(lambda *given: torch.func.grad(function)(*given).sum())(*given)


# --- torch.library, torch.compile, torch.export -----------------------------------------------------
def _operator_arguments(call, monkeypatch, **sizes):
    """Return the arguments of a public function's operator, and of the operator of its gradient."""
    from shiftsearch import _torch

    tensors, seen = call.tensors(**sizes), []
    operators = next(each for name, each in _torch._OPERATORS.items() if CALLS.get(name) is call)
    usual = operators.call
    monkeypatch.setattr(operators, "call", lambda *given: seen.append(given) or usual(*given))
    outputs = call(tensors)
    return operators.seen, seen[0], outputs


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


# --- dtypes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_op
def test_gradients_of_halves_are_halves_near_those_of_singles(name, dtype):
    """Both use the offsets that were found in half precision."""
    call = CALLS[{"search": "score", "match": "score", "refine": "score"}.get(name, name)]
    tensors = call.tensors(dtype)
    singles = {key: tensor.detach().float().requires_grad_() for key, tensor in tensors.items()}
    expected = gradients(call, singles)
    for key, grad in gradients(call, tensors).items():
        assert grad.dtype == dtype
        rough = 16 * torch.finfo(dtype).eps * expected[key].abs().max()
        assert (grad.float() - expected[key]).abs().max() <= rough, key


def test_under_autocast_values_are_halves_and_scores_singles():
    tensors = CALLS["search"].tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores, offsets = CALLS["search"](tensors)
        out = ss.aggregate(tensors["k"], torch.softmax(-scores, -1), offsets, patch=2)
    assert (scores.dtype, offsets.dtype, out.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    halves = [tensors[name].to(torch.bfloat16) for name in "qk"]
    expected = ss.search(*halves, tensors["flow"], subpixel=True, **OPTIONS)
    assert torch.equal(scores, expected[0])
    assert torch.equal(offsets, expected[1])
    grads = torch.autograd.grad(out.float().sum() + scores.sum(), list(tensors.values()))
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", ["aggregate", "stack", "scatter", "fold"])
def test_under_autocast_weights_stay_singles(name):
    """Half precision would round weights: outputs and all gradients are those of unrounded ones."""
    call = CALLS[name]
    tensors = call.tensors(torch.float32)
    rounded = {key: x.detach().bfloat16() if key in ("v", "patches") else x.detach() for key, x in tensors.items()}
    halves = {key: tensor.requires_grad_() for key, tensor in rounded.items()}
    expected, grads = call(halves), gradients(call, halves)
    with torch.autocast("cpu", torch.bfloat16):
        found, slopes = call(tensors), gradients(call, tensors)
    for result, wanted in zip(found, expected, strict=True):
        assert torch.equal(result, wanted)
    for key, slope in slopes.items():
        assert slope.dtype == torch.float32
        assert torch.equal(slope, grads[key].float()), key


def test_under_autocast_flow_keeps_its_dtype():
    tensors = CALLS["chain_flow"].tensors(torch.float32)
    expected = CALLS["chain_flow"](tensors)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CALLS["chain_flow"](tensors)[0], expected)


def test_under_autocast_mixed_values_and_doubles_are_taken():
    video = torch.randn(3, 2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        scores, _ = ss.search(video.bfloat16(), video, window=3, topk=2)
        assert torch.equal(scores, ss.search(video, video, window=3, topk=2)[0])
        assert ss.search(video.double(), video.double(), window=3, topk=2)[0].dtype == torch.float64
    with pytest.raises(ShiftsearchError, match="search: k is float32, expected bfloat16 as q is"):
        ss.search(video.bfloat16(), video)


# --- layouts ----------------------------------------------------------------------------------------
@each_call
def test_any_layout_gives_the_same(call):
    tensors = call.tensors()

    def permuted(tensor):
        return tensor.detach().transpose(-1, -2).contiguous().transpose(-1, -2)

    def sliced(tensor):
        return torch.stack((tensor.detach(), torch.full_like(tensor, torch.nan)), -1)[..., 0]

    expected, grads = call(tensors), gradients(call, tensors)
    for layout in (permuted, sliced):
        laid_out = {name: layout(tensor).requires_grad_() for name, tensor in tensors.items()}
        for found, wanted in zip(call(laid_out), expected, strict=True):
            assert torch.equal(found, wanted)
        for name, grad in gradients(call, laid_out).items():
            torch.testing.assert_close(grad, grads[name], rtol=1e-12, atol=1e-12)


@each_call
def test_expanded_batches_are_copies(call):
    one = call.tensors()
    many = {name: tensor.detach().expand(3, *tensor.shape[1:]).requires_grad_() for name, tensor in one.items()}
    for found, wanted in zip(call(many), call(one), strict=True):
        assert torch.equal(found, wanted.expand(3, *wanted.shape[1:]))
    (grad,) = torch.autograd.grad(call(many)[0].sum(), [next(iter(many.values()))])
    (wanted,) = torch.autograd.grad(call(one)[0].sum(), [next(iter(one.values()))])
    torch.testing.assert_close(grad, wanted.expand_as(grad))


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_batch_gives_an_empty_result(name):
    call = CALLS[name]
    whole, empty = call.tensors(), call.tensors(batch=0)
    for found, wanted in zip(call(empty), call(whole), strict=True):
        assert found.shape == (0, *wanted.shape[1:])
        assert found.dtype == wanted.dtype
    for key, grad in gradients(call, empty).items():
        assert grad.shape == empty[key].shape


@each_call
def test_without_a_batch_there_is_none_in_the_results(call):
    one = call.tensors()
    single = {name: tensor.detach()[0].requires_grad_() for name, tensor in one.items()}
    for found, wanted in zip(call(single), call(one), strict=True):
        assert torch.equal(found, wanted[0])
    grads = gradients(call, one)
    for name, grad in gradients(call, single).items():
        torch.testing.assert_close(grad, grads[name][0], rtol=1e-12, atol=1e-12)


def test_errors_are_ours_and_name_the_op():
    video = torch.randn(3, 4, 5, 6)
    with pytest.raises(ShiftsearchError, match="search: window is 0"):
        ss.search(video, video, window=0)
    with pytest.raises(ShiftsearchError, match="search: k has shape"):
        ss.search(video, video[:, :, 1:])
    with pytest.raises(ShiftsearchError, match="different kinds"):
        ss.search(video, video.numpy())
    with pytest.raises(ShiftsearchError, match="different kinds"):
        ss.search(video, video.to("meta"))


# --- the same numbers everywhere --------------------------------------------------------------------
@pytest.mark.emulated
@pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
@each_op
def test_tensors_on_the_kernels_give_the_numbers_of_the_cpu(name, monkeypatch):
    """Outputs and gradients, by the whole path except the launch on a GPU."""
    call = CALLS[name]
    tensors = call.tensors()
    expected, grads = call(tensors), gradients(call, tensors)
    device = emulate.Emulator()
    device.xp = Namespace()
    backend = Cuda(device)
    monkeypatch.setattr(_homes.Cpu, "__init__", lambda self, first: vars(self).update(backend=backend, first=first))
    monkeypatch.setattr(
        _homes.Torch,
        "take",
        staticmethod(lambda op, name, tensor: device.xp.asarray(np.from_dlpack(tensor.detach()))),
    )
    monkeypatch.setattr(_homes.Torch, "give", staticmethod(lambda array: torch.from_numpy(array.get())))
    for found, wanted in zip(call(tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for key, grad in gradients(call, tensors).items():
        torch.testing.assert_close(grad, grads[key], rtol=1e-11, atol=1e-11)


# --- on a GPU ---------------------------------------------------------------------------------------
def test_a_call_is_on_the_device_and_stream_of_its_tensors_in_memory_of_torch(monkeypatch):
    """The order of calls, with stand-ins for CuPy and for torch's CUDA."""
    done = []

    @contextmanager
    def entered(*what):
        done.append(what)
        yield
        done.append(("end", what[0]))

    class Cuda(SimpleNamespace):
        __hash__ = object.__hash__

    cuda = Cuda(
        Device=lambda index: entered("device", index),
        ExternalStream=lambda stream, index: entered("stream", stream, index),
        using_allocator=lambda take: entered("memory", take(64, 1)),
        PythonFunctionAllocator=lambda take, put_back: SimpleNamespace(malloc=take),
    )
    monkeypatch.setattr(cuda_backend, "load", lambda: SimpleNamespace(xp=SimpleNamespace(cuda=cuda)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=f"stream of {index}"))
    monkeypatch.setattr(
        torch.cuda, "caching_allocator_alloc", lambda size, index, stream: (size, index, stream.cuda_stream)
    )
    with _homes.Cuda("search", "torch", "cuda:1", None).current():
        done.append("work")
    assert done == [
        ("device", 1),
        ("stream", "stream of 1", 1),
        ("memory", (64, 1, "stream of 1")),
        "work",
        ("end", "memory"),
        ("end", "stream"),
        ("end", "device"),
    ]


def _on_gpus(devices):
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    skipped = pytest.mark.skipif(there < devices, reason=f"needs {devices} GPUs, {there} are here")
    return lambda test: pytest.mark.gpu(skipped(test))


on_gpu, on_two_gpus = _on_gpus(1), _on_gpus(2)


def near(found, expected):
    torch.testing.assert_close(found.cpu().double(), expected.double(), rtol=1e-4, atol=1e-4)


@on_gpu
@each_call
def test_a_gpu_gives_the_numbers_of_the_cpu(call):
    for found, wanted in zip(call(call.tensors(device="cuda")), call(call.tensors()), strict=True):
        near(found, wanted)
    grads = gradients(call, call.tensors())
    for name, grad in gradients(call, call.tensors(device="cuda")).items():
        near(grad, grads[name])


@on_gpu
def test_work_waits_for_the_current_stream_and_nothing_else():
    """Inputs are written late on a side stream: a read on another stream would find the old values."""
    call, side = CALLS["search"], torch.cuda.Stream()
    expected = call(call.tensors(height=64, width=64))
    source = call.tensors(device="cuda", height=64, width=64)
    late = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    call(source)  # compiled
    torch.cuda.synchronize()
    with torch.cuda.stream(side), torch.no_grad():
        torch.cuda._sleep(100_000_000)
        for name, tensor in source.items():
            late[name].copy_(tensor)
        found = call(late)
    side.synchronize()
    for result, wanted in zip(found, expected, strict=True):
        near(result, wanted)


@on_gpu
def test_memory_is_that_of_torch():
    import cupy

    call = CALLS["search"]
    tensors = call.tensors(device="cuda", height=64, width=64)
    call(tensors)
    cupy_before, before = cupy.get_default_memory_pool().used_bytes(), torch.cuda.memory_allocated()
    found = call(tensors)
    assert torch.cuda.memory_allocated() - before >= sum(out.numel() * out.element_size() for out in found)
    assert cupy.get_default_memory_pool().used_bytes() == cupy_before
    del found
    assert torch.cuda.memory_allocated() == before


@on_gpu
@pytest.mark.parametrize("name", ["search", "score", "aggregate", "gather"])
def test_forward_is_captured_in_cuda_graphs(name):
    call = CALLS[name]
    tensors = {key: tensor.detach() for key, tensor in call.tensors(device="cuda").items()}
    call(tensors)  # compiled before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call(tensors)
    others = call.tensors(seed=5)
    for key, tensor in tensors.items():
        tensor.copy_(others[key])
    graph.replay()
    torch.cuda.synchronize()
    for result, wanted in zip(found, call(others), strict=True):
        near(result, wanted)


@on_gpu
def test_autocast_on_a_gpu():
    tensors = CALLS["search"].tensors(torch.float32, device="cuda")
    with torch.autocast("cuda", torch.float16):
        scores, offsets = CALLS["search"](tensors)
        out = ss.aggregate(tensors["k"], torch.softmax(-scores, -1), offsets, patch=2)
    assert (scores.dtype, out.dtype) == (torch.float32, torch.float16)
    grads = torch.autograd.grad(out.float().sum(), list(tensors.values()))
    assert all(grad.isfinite().all() for grad in grads)


@on_two_gpus
@pytest.mark.parametrize("current", [0, 1])
def test_arrays_on_another_device_are_computed_there(current):
    call = CALLS["search"]
    with torch.cuda.device(current):
        found = call(call.tensors(device="cuda:1"))
        grads = gradients(call, call.tensors(device="cuda:1"))
        assert torch.cuda.current_device() == current
    assert all(out.device == torch.device("cuda:1") for out in (*found, *grads.values()))
    for result, wanted in zip(found, call(call.tensors()), strict=True):
        near(result, wanted)


@on_two_gpus
def test_data_parallel_on_two_devices():
    from shiftsearch.nn import ShiftedAttention

    layer, video = ShiftedAttention(8, heads=2, window=3, topk=4), torch.randn(4, 3, 8, 9, 10)
    expected = layer(video)
    near(torch.nn.DataParallel(layer.cuda())(video.cuda()), expected)
