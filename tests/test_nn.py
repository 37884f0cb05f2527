"""Modules: what they compute, that everything in them learns, and that they do what modules of torch do."""

from __future__ import annotations

import copy
import inspect

import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402 - torch may be missing

from shiftsearch import nn  # noqa: E402

B, T, C, H, W = 2, 3, 8, 6, 7


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def video():
    return torch.randn(B, T, C, H, W)


@pytest.fixture
def flow():
    return 4 * torch.rand(B, T, 2, 2, H, W) - 2


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)


# --- ops as modules ---------------------------------------------------------------------------------
def test_modules_are_their_ops(video, flow):
    options = {"window": 3, "topk": 4, "patch": 2, "subpixel": True}
    scores, offsets = nn.ShiftedSearch(**options)(video, video, flow=flow)
    expected = ss.search(video, video, flow, **options)
    assert torch.equal(scores, expected[0])
    assert torch.equal(offsets, expected[1])
    fine = {"topk": 2, "step": 0.5, "subpixel": True}
    assert torch.equal(nn.Refine(**fine)(video, video, offsets)[1], ss.refine(video, video, offsets, **fine)[1])
    weights = torch.softmax(-scores, -1)
    assert torch.equal(nn.Aggregate(patch=2)(video, weights, offsets), ss.aggregate(video, weights, offsets, patch=2))
    assert torch.equal(nn.Stack(patch=2)(video, offsets, weights=weights), ss.stack(video, offsets, weights, patch=2))


@pytest.mark.parametrize("module", [nn.ShiftedSearch, nn.Refine, nn.Aggregate, nn.Stack])
def test_modules_have_the_options_of_their_ops_and_show_them(module):
    parameters = inspect.signature(module.op.function).parameters
    options = {n: p.default for n, p in parameters.items() if n in module.op.options}
    assert {n: p.default for n, p in inspect.signature(module).parameters.items()} == options
    made = module(patch=5)
    assert made.options == {**options, "patch": 5}
    for name, value in made.options.items():
        assert f"{name}={value!r}" in repr(made)
    assert not made.state_dict()


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.ShiftedSearch, {"window": 0}, "search: window is 0"),
        (nn.Stack, {"windows": 3}, "Stack: windows is no option, expected some of patch"),
        (nn.ShiftedAttention, {"dim": 8, "heads": 3}, "dim is 8, expected a multiple of heads, which is 3"),
        (nn.ShiftedAttention, {"dim": 8, "heads": 2, "key_dim": 5}, "ShiftedAttention: key_dim is 5"),
        (nn.ShiftedAttention, {"dim": 8, "heads": True}, "ShiftedAttention: heads is True"),
        (nn.ShiftedAttention, {"dim": 8, "topk": None, "conv": True}, "ShiftedAttention: topk is None"),
        (nn.ShiftedAttention, {"dim": 8, "per_frame": True, "conv": True}, "topk is 10, expected .* neither"),
        (nn.ShiftedAttention, {"dim": 8, "scale": 0}, "ShiftedAttention: scale is 0"),
        (nn.ShiftedAttention, {"dim": 8, "scale": float("nan")}, "ShiftedAttention: scale is nan"),
        (nn.ShiftedAttention, {"dim": 8, "scale": "big"}, "ShiftedAttention: scale is 'big'"),
        (nn.ShiftedAttention, {"dim": 8, "compare": "q"}, "compare is 'q', expected one of 'shared', 'keys'"),
        (nn.GuidedDeformableAttention, {"dim": 12, "offsets": "guess"}, "offsets is 'guess', expected one of"),
        (nn.GuidedDeformableAttention, {"dim": 12, "compare": None}, "compare is None, expected one of"),
        (nn.GuidedDeformableAttention, {"dim": 12, "patch": 0}, "patch is 0"),
        (
            nn.GuidedDeformableAttention,
            {"dim": 12, "points": 8, "offsets": "predict"},
            "points is 8, expected a square",
        ),
        (nn.GuidedDeformableAttention, {"dim": 12, "points": 10, "window": 3}, "points is 10, expected at most the 9"),
        (nn.GuidedDeformableAttention, {"dim": 12, "points": 9.0}, "points is 9.0"),
        (nn.GuidedDeformableAttention, {"dim": 12, "hidden": 0}, "hidden is 0"),
        (nn.GuidedDeformableAttention, {"dim": 12, "reach": "far"}, "reach is 'far'"),
    ],
)
def test_wrong_options_are_errors_when_a_module_is_made(module, options, message):
    with pytest.raises(ShiftsearchError, match=message):
        module(**options)


# --- attention --------------------------------------------------------------------------------------
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_to_the_whole_frame_is_that_of_torch(video, heads):
    """A window over the whole frame, all of it kept: what is outside has weight 0."""
    q, k, v = video, torch.randn_like(video), torch.randn(B, T, 2 * heads, H, W)

    def tokens(x):
        return x.unflatten(2, (heads, -1)).flatten(-2).transpose(-1, -2)  # (B, T, heads, H W, channels)

    dense = F.scaled_dot_product_attention(*map(tokens, (q, k, v))).transpose(-1, -2).reshape(v.shape)
    close(nn.attend(q, k, v, window=2 * W, topk=None, radius=0, heads=heads, metric="dot", subpixel=True), dense)


def test_l2_weighs_keys_of_one_length_as_the_dot_product_does(video):
    unit = F.normalize(video, dim=2)
    options = {"window": 3, "topk": None}
    close(nn.attend(unit, unit, video, **options), nn.attend(unit, unit, video, metric="dot", **options))


def test_more_scale_trusts_the_best_more(video, flow):
    options = {"window": 3, "topk": 4, "return_attention": True}
    _, mild, _ = nn.attend(video, video, video, flow, scale=0.01, **options)
    _, sharp, offsets = nn.attend(video, video, video, flow, scale=torch.tensor([100.0]), **options)
    assert (sharp[..., 0] > 0.99).all()
    assert (mild[..., 0] < 0.5).all()
    assert (offsets[..., 0, :] == 0).all()


def test_candidates_outside_have_no_weight_and_break_no_gradient(video):
    layer = nn.ShiftedAttention(C, heads=2, window=5, topk=None, slide=False, metric="dot")
    out, weights, _ = layer(video, return_attention=True)
    assert (weights == 0).any()
    close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("options", [{}, {"conv": True}, {"metric": "dot", "patch": 3, "stride": 2}, {"key_dim": 4}])
def test_everything_in_attention_learns(video, flow, options):
    layer = nn.ShiftedAttention(C, heads=2, window=3, topk=4, **options)
    h, w = (H - 1) // layer.find.options["stride"] + 1, (W - 1) // layer.find.options["stride"] + 1
    flow = flow[..., :h, :w].clone().requires_grad_()
    out = layer(video, flow)
    assert out.shape == video.shape
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in [*layer.named_parameters(), ("flow", flow)]:
        if name == "k.bias" and options.get("metric") == "dot":
            continue  # adds the same to all scores of a query
        assert parameter.grad.abs().max() > 0, name


def test_attention_is_made_of_its_parts(video, flow):
    layer = nn.ShiftedAttention(C, heads=2, window=3, topk=4, patch=3, learn_scale=False, scale=0.3)
    q, k, v = (
        F.conv2d(video.flatten(0, 1), m.weight[..., None, None], m.bias).view(B, T, -1, H, W)
        for m in (layer.q, layer.k, layer.v)
    )
    scores, offsets = ss.search(q, k, flow, window=3, topk=4, patch=3, heads=2, subpixel=True)
    found = ss.aggregate(v, torch.softmax(-0.3 * scores, -1), offsets, patch=3)
    expected = F.conv2d(found.flatten(0, 1), layer.out.weight[..., None, None], layer.out.bias).view(video.shape)
    close(layer(video, flow), expected, atol=1e-4)


@pytest.mark.parametrize("options", [{"patch": 3, "skip": "own_frame"}, {"metric": "dot", "anchor": "self"}])
def test_a_shared_map_decides_where_to_look_and_q_and_k_score_it(video, flow, options):
    layer = nn.ShiftedAttention(C, heads=2, window=3, topk=4, compare="shared", **options)
    patch, metric = options.get("patch", 1), options.get("metric", "l2")
    q, k = (m(video.movedim(2, -1)).movedim(-1, 2) for m in (layer.q, layer.k))
    flow = flow.clone().requires_grad_()
    out, weights, offsets = layer(video, flow, return_attention=True)
    expected = ss.search(q, q, flow, window=3, topk=4, heads=2, subpixel=True, **options)[1]
    assert torch.equal(offsets, expected)
    scores = ss.score(q, k, offsets, patch=patch, heads=2, metric=metric)
    sign = 1 if metric == "dot" else -1
    close(weights, torch.softmax(sign * layer.log_scale.exp().view(-1, 1, 1, 1, 1) * scores, -1), 1e-4)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in [*layer.named_parameters(), ("flow", flow)]:
        assert name == "k.bias" or parameter.grad.abs().max() > 0, name


def test_what_a_shared_map_finds_outside_has_no_weight(video):
    options = {"heads": 2, "window": 5, "topk": 60, "slide": False, "compare": "shared"}
    out, weights, offsets = nn.ShiftedAttention(C, **options)(video, return_attention=True)
    rows = torch.arange(H)[:, None, None] + offsets[..., 1]
    assert (weights[(rows < 0) | (rows >= H)] == 0).all()
    assert (weights == 0).any()
    assert out.isfinite().all()


def test_where_all_are_attended_to_nothing_is_compared(video):
    layer = nn.ShiftedAttention(C, heads=2, window=3, topk=None, compare="shared")
    other = nn.ShiftedAttention(C, heads=2, window=3, topk=None, compare="keys")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(video), other(video))


def test_a_layer_that_refines_looks_around_what_was_found(video, flow):
    first = nn.ShiftedAttention(C, heads=2, window=3, topk=4, subpixel=False)
    again = nn.ShiftedAttention(C, heads=2, window=1, topk=None, refine=True, subpixel=False)
    again.load_state_dict(first.state_dict())
    found, _, offsets = first(video, flow, return_attention=True)
    close(again(video, offsets), found)


def test_the_scale_is_learnt_or_fixed(video):
    learnt, fixed = nn.ShiftedAttention(C, heads=2), nn.ShiftedAttention(C, heads=2, learn_scale=False)
    assert torch.equal(learnt.log_scale.exp(), torch.full((2,), fixed.scale))
    keys = {f"{name}.{kind}" for name in ("q", "k", "v", "out") for kind in ("weight", "bias")}
    assert set(fixed.state_dict()) == keys
    assert set(learnt.state_dict()) == keys | {"log_scale"}
    with torch.no_grad():
        learnt.log_scale += 3
    learnt.scale = fixed.scale = 1e-3  # the learnt one does not look at it
    assert not torch.equal(learnt(video), fixed(video))


def test_a_layer_saves_each_array_once():
    """Its input, q, k, v and what it attends to, weights and offsets: nothing twice, and no scores."""
    layer, x = nn.ShiftedAttention(16, heads=4, window=3, topk=5), torch.randn(1, 3, 16, 8, 9, requires_grad=True)
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    weights = sum(p.numel() for p in layer.parameters()) + 4  # and the scale
    assert sum(saved.values()) <= 4 * (5 * x.numel() + 4 * (x.numel() // 16) * 5 * (1 + 3) + weights)


def test_attention_stores_neither_window_nor_values(video):
    saved = []
    q = video.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nn.attend(q, q, q, window=9, topk=2, patch=3)
    most = B * T * H * W * max(C, 2 * 3)
    assert saved
    assert max(tensor.numel() for tensor in saved) <= most


# --- guided deformable attention --------------------------------------------------------------------
def dense_guided(layer, x, support, flow, offsets):
    """Samples at offsets (B, T, S, heads, points, 2 = (dy, dx), H, W), by torch's grid_sample."""
    S, G, K = support.shape[1], layer.heads, layer.points
    q, k, v = (m(y.movedim(2, -1)).movedim(-1, 2) for m, y in ((layer.q, x), (layer.k, support), (layer.v, support)))
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    keys, values = [], []
    for s in range(S):
        for n in range(K):
            at = torch.stack((columns + offsets[:, :, s, :, n, 1], rows + offsets[:, :, s, :, n, 0]), -1)
            at = 2 * at / torch.tensor([W - 1, H - 1]) - 1  # (B, T, heads, H, W, (x, y))
            for sampled, of in ((keys, k), (values, v)):
                heads = of[:, s].unflatten(1, (G, -1))[:, None].expand(-1, x.shape[1], -1, -1, -1, -1)
                part = F.grid_sample(
                    heads.flatten(0, 2), at.flatten(0, 2), padding_mode="reflection", align_corners=True
                )
                sampled.append(part.view(*heads.shape[:3], -1, H, W))
    keys, values = torch.stack(keys, -1), torch.stack(values, -1)
    heads = q.unflatten(2, (G, -1))[..., None]
    weights = torch.softmax((heads * keys).sum(3, keepdim=True) / (C // G) ** 0.5, -1)
    found = (weights * values).sum(-1).flatten(2, 3)
    return layer.out(found.movedim(2, -1)).movedim(-1, 2)


@pytest.fixture
def guided(video):
    return video, torch.randn(B, 2, C, H, W), 3 * torch.rand(B, T, 2, 2, H, W) - 1.5


def test_predicted_points_begin_as_a_square_around_the_flow(guided):
    layer = nn.GuidedDeformableAttention(C, heads=2, offsets="predict")
    x, support, flow = guided
    grid = torch.tensor([[dy, dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    offsets = flow.flip(3)[:, :, :, None, None] + grid[:, :, None, None]
    close(
        layer(x, support, flow),
        dense_guided(layer, x, support, flow, offsets.expand(-1, -1, -1, 2, -1, -1, -1, -1)),
        1e-4,
    )


@pytest.mark.parametrize(("compare", "patch"), [("shared", 3), ("keys", 1)])
def test_searched_points_are_the_best_of_the_window(guided, compare, patch):
    layer = nn.GuidedDeformableAttention(C, heads=2, points=4, offsets="search", compare=compare, window=3, patch=patch)
    x, support, flow = guided
    other = layer.q if compare == "shared" else layer.k
    q, k = (m(y.movedim(2, -1)).movedim(-1, 2) for m, y in ((layer.q, x), (other, support)))
    offsets = torch.empty(B, T, 2, 2, 4, 2, H, W)
    for t in range(T):
        for s in range(2):
            options = {"window": 3, "step": 0.5, "topk": 4, "heads": 2, "subpixel": True, "patch": patch}
            found = ss.match(q[:, t], k[:, s], flow[:, t, s], **options)[1]
            offsets[:, t, s] = found.movedim((-2, -1), (2, 3))
    close(layer(x, support, flow), dense_guided(layer, x, support, flow, offsets), 1e-4)


def test_before_it_learns_a_shared_map_finds_what_moved(video):
    """It looks where exact flow would have led; two maps do not."""
    moved = video.roll((2, -1), (-2, -1))[:, :1]
    still, exact = torch.zeros(B, 1, 1, 2, H, W), torch.tensor([-1.0, 2.0])[:, None, None].expand(B, 1, 1, 2, H, W)
    found = {}
    for compare in ("shared", "keys"):
        torch.manual_seed(0)
        layer = nn.GuidedDeformableAttention(C, heads=2, points=1, compare=compare, window=5, step=1, patch=1)
        told = nn.GuidedDeformableAttention(C, heads=2, points=1, window=1)
        told.load_state_dict(layer.state_dict())
        of_both = (each(video[:, :1], moved, flow)[..., 2:-2, 2:-2] for each, flow in ((layer, still), (told, exact)))
        found[compare] = torch.isclose(*of_both, atol=1e-5).float().mean()
    assert found["shared"] > 0.9
    assert found["keys"] < 0.5


@pytest.mark.parametrize("offsets", ["predict", "search"])
def test_everything_in_guided_attention_learns(guided, offsets):
    layer = nn.GuidedDeformableAttention(C, heads=2, offsets=offsets, window=3)
    if layer.predict is not None:
        torch.nn.init.normal_(layer.predict[-1].weight, std=0.1)
    x, support, flow = guided
    flow = flow.requires_grad_()
    out = layer(x, support, flow)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in [*layer.named_parameters(), ("flow", flow)]:
        assert name == "k.bias" or parameter.grad.abs().max() > 0, name


@pytest.mark.full
def test_gradients_of_a_searching_layer_are_right():
    """Which points are best changes nowhere near: their scores and the flow alone have gradients."""
    layer = nn.GuidedDeformableAttention(4, heads=2, points=3, window=3, patch=3).double()
    given = [torch.randn(1, 1, 4, 5, 6), torch.randn(1, 1, 4, 5, 6), torch.rand(1, 1, 1, 2, 5, 6)]
    given = [tensor.double().requires_grad_() for tensor in given]

    def out(weight, *given):
        return torch.func.functional_call(layer, {"q.weight": weight}, given)

    assert torch.autograd.gradcheck(out, (layer.q.weight.detach().requires_grad_(), *given), fast_mode=True)


def test_both_ways_share_their_parameters(guided):
    predicted = nn.GuidedDeformableAttention(C, heads=2, offsets="predict")
    searched = nn.GuidedDeformableAttention(C, heads=2, offsets="search", window=3)
    left = searched.load_state_dict(predicted.state_dict(), strict=False)
    assert not left.missing_keys
    assert all(key.startswith("predict.") for key in left.unexpected_keys)
    x, support, flow = guided
    single = searched(x[0], support[0], flow[0])
    close(single, searched(x, support, flow)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, support, flow: (x, support, flow[:, :, :1]), r"flow has shape .*, expected"),
        (lambda x, support, flow: (x, support, None), "flow is a NoneType, expected a tensor of shape"),
        (lambda x, support, flow: (x[:, :, :4], support, flow), r"x is torch.float32 of shape .*, expected"),
        (lambda x, support, flow: (x[0, 0], support, flow), "x is torch.float32 of shape"),
        (lambda x, support, flow: (x.int(), support, flow), "x is torch.int32"),
        (lambda x, support, flow: (x.numpy(), support, flow), "x is a ndarray, expected a torch tensor"),
        (lambda x, support, flow: (x, support[..., :5], flow), "support has shape"),
        (lambda x, support, flow: (x, support[0], flow), "support has shape"),
    ],
)
def test_what_does_not_fit_is_an_error(guided, change, message):
    with pytest.raises(ShiftsearchError, match=f"GuidedDeformableAttention: {message}"):
        nn.GuidedDeformableAttention(C, heads=2)(*change(*guided))


def test_attention_says_what_does_not_fit(video):
    layer = nn.ShiftedAttention(C, heads=2)
    for wrong in (video[:, :, :4], video[0, 0], video.int(), None):
        with pytest.raises(ShiftsearchError, match="ShiftedAttention: x is"):
            layer(wrong)
    with pytest.raises(ShiftsearchError, match="attend: v is a NoneType, expected a torch tensor"):
        nn.attend(video, video, None)
    for scale in ("big", torch.ones(3)):
        with pytest.raises(ShiftsearchError, match=r"attend: scale is .* a tensor of 2, one for each head"):
            nn.attend(video, video, video, window=3, heads=2, scale=scale)


@pytest.mark.parametrize("shape", [(1, 3, C, 1, 1), (1, 3, C, 1, 9), (0, 3, C, 4, 5), (3, C, 4, 5)])
def test_any_frames_are_taken(shape):
    """Also by the convolution, whose patch is then larger than the frame."""
    options = {"heads": 2, "window": 3, "topk": 3, "patch": 5}
    for layer in (nn.ShiftedAttention(C, **options), nn.ShiftedAttention(C, conv=True, **options)):
        assert layer(torch.randn(shape), flow=None).shape == shape


# --- as modules of torch ----------------------------------------------------------------------------
def layers():
    yield (
        "attention",
        nn.ShiftedAttention(C, heads=2, window=3, topk=4),
        lambda: (torch.randn(B, T, C, H, W), torch.zeros(B, T, 2, 2, H, W)),
    )
    yield (
        "attention, shared",
        nn.ShiftedAttention(C, heads=2, window=3, topk=4, compare="shared", skip="own_frame"),
        lambda: (torch.randn(B, T, C, H, W), torch.zeros(B, T, 2, 2, H, W)),
    )
    yield (
        "conv",
        nn.ShiftedAttention(C, heads=2, window=3, topk=4, conv=True, patch=3),
        lambda: (torch.randn(B, T, C, H, W),),
    )
    for offsets in ("predict", "search"):
        yield (
            f"guided, {offsets}",
            nn.GuidedDeformableAttention(C, heads=2, offsets=offsets, window=3),
            lambda: (torch.randn(B, T, C, H, W), torch.randn(B, 2, C, H, W), torch.rand(B, T, 2, 2, H, W)),
        )


each_layer = pytest.mark.parametrize(
    ("layer", "inputs"), [case[1:] for case in layers()], ids=[case[0] for case in layers()]
)


@each_layer
def test_layers_are_saved_copied_and_converted(layer, inputs, tmp_path):
    given = inputs()
    expected = layer(*given)
    assert torch.equal(copy.deepcopy(layer)(*given), expected)
    torch.save(layer, tmp_path / "layer.pt")
    assert torch.equal(torch.load(tmp_path / "layer.pt", weights_only=False)(*given), expected)
    doubled = copy.deepcopy(layer).to(torch.float64)(*(x.double() for x in given))
    assert doubled.dtype == torch.float64
    close(doubled.float(), expected, 1e-3)
    for half in (torch.bfloat16, torch.float16):
        out = copy.deepcopy(layer).to(half)(*(x.to(half) for x in given))
        assert out.dtype == half
        assert out.isfinite().all()


@each_layer
def test_layers_are_compiled_in_one_graph(layer, inputs):
    torch._dynamo.reset()
    given = inputs()
    close(torch.compile(layer, fullgraph=True, backend="aot_eager")(*given), layer(*given))


@each_layer
def test_layers_learn_under_autocast(layer, inputs):
    layer = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(*inputs())
    out.float().pow(2).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
