"""torch: gradients, transforms, autocast, and tensors of every layout."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from device_arrays import Namespace
from torch_calls import CALLS, OPTIONS, each_call, each_op, gradients, loss

import shiftsearch as ss
from shiftsearch import ShiftsearchError, _homes
from shiftsearch.backends.cuda import Cuda

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("poisoned")


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
def test_gradients_that_arrive_may_lie_in_memory_in_any_way(name):
    tensors = CALLS[name].tensors()
    first = CALLS[name](tensors)[0]
    grad = torch.randn(first.shape, dtype=torch.float64)
    spread = torch.stack((grad, grad), -1)[..., 0]  # with gaps
    turned = grad.transpose(0, -1).contiguous().transpose(0, -1)
    given = list(tensors.values())
    expected = torch.autograd.grad(first, given, grad, retain_graph=True, allow_unused=True)
    for other in (spread, turned):
        found = torch.autograd.grad(first, given, other, retain_graph=True, allow_unused=True)
        for one, wanted in zip(found, expected, strict=True):
            assert torch.equal(one, wanted)


@each_op
def test_only_inputs_and_kept_offsets_are_saved(name):
    tensors, saved = CALLS[name].tensors(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        outputs = CALLS[name](tensors)
    known = {tensor.data_ptr() for tensor in tensors.values()}
    known |= {out.data_ptr() for out in outputs[1:]} if name in ("search", "match", "refine") else set()
    known |= {outputs[0].data_ptr()} if name == "attend" else set()
    others = [tensor for tensor in saved if tensor.numel() and tensor.data_ptr() not in known]
    assert len(others) == (1 if name == "refine" else 0)  # the seed that each kept offset came from
    assert all(tensor.dtype == torch.int32 for tensor in others)


@pytest.mark.parametrize("name", ["score", "aggregate", "stack", "scatter", "gather", "fold", "refine"])
def test_offsets_of_one_head_are_those_of_all(name):
    call = CALLS[name]
    tensors = call.tensors()
    tensors["offsets"] = tensors["offsets"][:, :1].detach().requires_grad_()
    every = {**tensors, "offsets": tensors["offsets"].repeat_interleave(2, 1)}
    for found, expected in zip(call(tensors), call(every), strict=True):
        assert torch.equal(found, expected)
    found = torch.autograd.grad(loss(call, tensors), list(tensors.values()))
    for grad, expected in zip(found, torch.autograd.grad(loss(call, every), list(tensors.values())), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def test_offsets_of_half_as_many_heads_are_each_of_two_in_a_row():
    q, k = torch.randn(2, 3, 8, 4, 5)
    offsets = torch.randint(-2, 3, (2, 3, 4, 5, 2, 3), dtype=torch.int32)
    offsets[..., 0] = 0
    expected = ss.score(q, k, offsets.repeat_interleave(2, 0), heads=4)
    assert torch.equal(ss.score(q, k, offsets, heads=4), expected)
    assert np.array_equal(ss.score(q.numpy(), k.numpy(), offsets.numpy(), heads=4), expected)
    three = offsets[[0, 1, 1]]
    with pytest.raises(ShiftsearchError, match=r"score: offsets has shape .*, expected \(B=1, a divisor of G=4, T=3"):
        ss.score(q[None], k[None], three[None], heads=4)


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
