"""Drop-ins are what they replace: against all pairs, sampling by torch, and the libraries themselves where they run."""

from __future__ import annotations

import math

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from oracles import library, torchvision_operators  # noqa: E402 - torch may be missing
from torch.nn import functional as F  # noqa: E402

from shiftsearch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def same(ours, theirs, *inputs):
    """Two functions give the same, forward and backward."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    found, expected = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    for one, other in zip(*(torch.autograd.grad(out, inputs, grad) for out in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def sampled(frame, y, x):
    """A frame (N, C, H, W) at places (N, h, w), 0 outside."""
    H, W = frame.shape[-2:]
    at = torch.stack((2 * x / (W - 1) - 1, 2 * y / (H - 1) - 1), -1)
    return F.grid_sample(frame, at, align_corners=True)


def grid_at(n, step=1):
    return torch.arange(n) * step


# --- attend_at and places ---------------------------------------------------------------------------
def attention_by_sampling(q, k, v, moves, v_moves, frames, flow=None, heads=2, groups=2, v_groups=1):
    """Attention to 2 x 3 points of the frames that each frame looks at; (B, T, C, H, W), offsets in channels."""
    B, T, _, H, W = q.shape
    S, P, out = frames.shape[1], 6, torch.zeros(B, T, *v.shape[2:])
    rows, columns = torch.meshgrid(grid_at(H), grid_at(W), indexing="ij")
    for t in range(T):
        scores, values = torch.zeros(B, heads, S * P, H, W), []
        for n in range(S * P):
            s, p = divmod(n, P)
            y, x = rows - 1 * 2 + p // 3 * 2, columns - 1 + p % 3
            if flow is not None:
                y, x = y + flow[:, t, s, 1], x + flow[:, t, s, 0]
            read = []
            for video, moved, parts in ((k, moves, groups), (v, v_moves, v_groups)):
                moved = moved[:, t].unflatten(1, (S, parts, P, 2))[:, s, :, p]
                chunks = video[:, frames[t, s]].chunk(parts, 1)
                read.append(
                    torch.cat([sampled(c, y + moved[:, g, 0], x + moved[:, g, 1]) for g, c in enumerate(chunks)], 1)
                )
            scores[:, :, n] = (q[:, t] * read[0]).unflatten(1, (heads, -1)).sum(2)
            values.append(read[1])
        weights = (scores * 0.4).softmax(2)
        each = torch.stack(values, 2).unflatten(1, (heads, -1)) * weights[:, :, None]
        out[:, t] = each.sum(3).flatten(1, 2)
    return out


@pytest.mark.parametrize(("heads", "groups", "v_groups"), [(2, 2, 2), (2, 1, 4), (4, 2, 1), (2, 4, 2), (2, 3, 3)])
def test_attention_at_places_is_sampling(heads, groups, v_groups):
    B, T, C, H, W = 2, 3, 12, 4, 5
    frames = torch.tensor([[0, 1], [0, 2], [2, 1]])
    q, k, v, flow = (*torch.randn(3, B, T, C, H, W), torch.randn(B, T, 2, 2, H, W))
    moves, v_moves = (1.5 * torch.randn(B, T, 2 * g * 12, H, W) for g in (groups, v_groups))
    layout = {"frames": frames, "grid": (2, 3), "dilation": (2, 1)}

    def ours(q, k, v, moves, v_moves, flow):
        at, v_at = (nn.places(m, groups=g, flow=flow, **layout) for m, g in ((moves, groups), (v_moves, v_groups)))
        return nn.attend_at(q, k, v, at, v_offsets=v_at, heads=heads, scale=0.4, border="zeros")

    def theirs(q, k, v, moves, v_moves, flow):
        return attention_by_sampling(q, k, v, moves, v_moves, frames, flow, heads, groups, v_groups)

    same(ours, theirs, q, k, v, moves, v_moves, flow)


@pytest.mark.parametrize("frames", [[[0, 3], [2, 1]], [[1, 0], [0, 1], [1, 1]]])  # of four, and of two
def test_clips_that_are_looked_at_may_be_longer_or_shorter(frames):
    frames = torch.tensor(frames)
    q, moves = torch.randn(1, len(frames), 4, 4, 5), 1.5 * torch.randn(1, len(frames), 48, 4, 5)
    k, v = torch.randn(2, 1, int(frames.max()) + 1, 4, 4, 5)

    def ours(q, k, v, moves):
        offsets = nn.places(moves, groups=2, frames=frames, grid=(2, 3), dilation=(2, 1))
        out, weights = nn.attend_at(q, k, v, offsets, heads=2, scale=0.4, border="zeros", return_attention=True)
        assert weights.shape == (1, 2, len(frames), 4, 5, 12)
        return out

    def theirs(q, k, v, moves):
        return attention_by_sampling(q, k, v, moves, moves, frames, v_groups=2)

    same(ours, theirs, q, k, v, moves)


def test_attention_at_the_places_of_a_search_is_attend():
    q, k, v = torch.randn(3, 3, 4, 6, 7)
    for options in ({"metric": "dot"}, {"metric": "l2", "patch": 3}):
        expected = nn.attend(q, k, v, window=3, topk=5, heads=2, return_attention=True, **options)
        scale = torch.tensor([0.3, 2.0]) if "patch" in options else None
        if scale is not None:
            expected = nn.attend(q, k, v, window=3, topk=5, heads=2, scale=scale, return_attention=True, **options)
        found = nn.attend_at(q, k, v, expected[2], heads=2, scale=scale, return_attention=True, **options)
        for one, other in zip(found, expected, strict=False):
            torch.testing.assert_close(one, other)


def test_places_lie_on_the_grid_that_the_flow_moves():
    moves, flow = torch.zeros(1, 2, 2 * 4 * 2, 3, 4), torch.zeros(1, 2, 1, 2, 3, 4)
    flow[:, 0, :, 0], moves[0, 1, 2 * 4 + 1] = 5, 0.25  # dx in frame 0; dx of the first point of the second group
    found = nn.places(moves, groups=2, frames=[[1], [1]], grid=2, dilation=3, flow=flow)
    near = [[-3, -3], [-3, 0], [0, -3], [0, 0]]
    for n, (dy, dx) in enumerate(near):
        assert (found[0, 0, 0, :, :, n] == torch.tensor([1.0, dy, dx + 5])).all()
        moved = 0.25 if n == 0 else 0
        assert (found[0, 1, 1, :, :, n] == torch.tensor([0.0, dy, dx + moved])).all()
    assert torch.equal(nn.places(moves[0], groups=2, frames=[[1], [1]], grid=2, dilation=3, flow=flow[0]), found[0])
    assert nn.places(moves.half(), groups=2, grid=2).dtype == torch.float32


# --- RVRT -------------------------------------------------------------------------------------------
def rvrt(q, kv, offset, kernel_h, kernel_w, stride=1, padding=0, dilation=1, heads=1, groups=1, clip=1):
    """RVRT's op, query by query of a clip and channel by channel of its groups, by sampling."""
    N, _, C2, H, W = kv.shape
    C, P, out = C2 // 2, kernel_h * kernel_w, torch.zeros_like(q)
    rows, columns = torch.meshgrid(grid_at(H), grid_at(W), indexing="ij")
    for c in range(clip):
        moved = offset.reshape(N, clip, clip, groups, P, 2, H, W)[:, c]
        scores, values = torch.zeros(N, heads, clip * P, H, W), []
        for n in range(clip * P):
            s, p = divmod(n, P)
            y = stride * rows - padding + p // kernel_w * dilation + moved[:, s, :, p, 0].movedim(1, 0)
            x = stride * columns - padding + p % kernel_w * dilation + moved[:, s, :, p, 1].movedim(1, 0)
            chunks = kv[:, (s + c) % clip].chunk(groups, 1)
            k, v = torch.cat([sampled(chunk, y[g], x[g]) for g, chunk in enumerate(chunks)], 1).chunk(2, 1)
            scores[:, :, n] = (q.reshape(N, clip, C, H, W)[:, c] * k).unflatten(1, (heads, -1)).sum(2)
            values.append(v)
        weights = (scores / math.sqrt(C // heads)).softmax(2)
        each = torch.stack(values, 2).unflatten(1, (heads, -1)) * weights[:, :, None]
        out.view(N, clip, C, H, W)[:, c] = each.sum(3).flatten(1, 2)
    return out


@pytest.mark.parametrize(
    ("clip", "heads", "groups", "kernel", "stride", "padding", "dilation"),
    [
        (2, 4, 4, (3, 3), 1, 1, 1),
        (1, 2, 1, (3, 3), 1, 1, 1),
        (3, 2, 12, (1, 2), 1, 0, 1),
        (2, 6, 3, (2, 3), 1, 2, 2),
        (2, 1, 2, (3, 1), 1, 1, 1),
        (2, 2, 4, (2, 4), 2, 3, 1),
        (1, 1, 1, (3, 2), 3, 0, 2),
    ],
)
def test_deform_attn_is_rvrts(clip, heads, groups, kernel, stride, padding, dilation):
    N, C, H, W = 2, 6 if groups != 4 else 8, 5, 6
    q, kv = torch.randn(N * clip, 1, C, H, W), torch.randn(N, clip, 2 * C, H, W)
    offset = 1.5 * torch.randn(N * clip, clip * groups * math.prod(kernel) * 2, H, W)
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "heads": heads,
        "groups": groups,
        "clip": clip,
    }
    same(*(lambda *a, f=f: f(*a, *kernel, **options) for f in (nn.deform_attn, rvrt)), q, kv, offset)


def test_deform_attn_has_a_result_for_each_pixel_of_q_whatever_the_stride():
    q, kv = torch.randn(1, 1, 1, 4, 5), torch.randn(1, 1, 2, 4, 5)
    found = nn.deform_attn(q, kv, torch.zeros(1, 2, 4, 5), 1, 1, stride=2, padding=1)  # one point at 2 * r - 1
    expected = torch.zeros(1, 1, 1, 4, 5)
    expected[..., 1:3, 1:3] = kv[:, :, 1:, 1::2, 1::2]
    torch.testing.assert_close(found, expected)


# --- deformable convolution -------------------------------------------------------------------------
def convolution_by_sampling(x, offset, weight, bias, mask, stride, padding, dilation):
    C, (_, each, m, n), (h, w) = x.shape[1], weight.shape, offset.shape[2:]
    groups = offset.shape[1] // (2 * m * n)
    moved = offset.unflatten(1, (groups, m * n, 2))
    rows, columns = torch.meshgrid(grid_at(h, stride[0]), grid_at(w, stride[1]), indexing="ij")
    cells = []
    for p in range(m * n):
        y, z = rows - padding[0] + p // n * dilation[0], columns - padding[1] + p % n * dilation[1]
        parts = [sampled(c, y + moved[:, g, p, 0], z + moved[:, g, p, 1]) for g, c in enumerate(x.chunk(groups, 1))]
        if mask is not None:
            parts = [part * mask.unflatten(1, (groups, -1))[:, g, p, None] for g, part in enumerate(parts)]
        cells.append(torch.cat(parts, 1))
    parts = torch.stack(cells, -1).chunk(C // each, 1)
    kernels = weight.flatten(2).chunk(C // each)
    found = torch.cat(
        [torch.einsum("nchwp,ocp->nohw", part, kernel) for part, kernel in zip(parts, kernels, strict=True)], 1
    )
    return found if bias is None else found + bias[:, None, None]


CONVOLUTIONS = [  # kernel, stride, padding, dilation, groups of offsets and of weights, with bias, with mask
    ((3, 3), 1, 1, 1, 2, 1, True, True),
    ((3, 3), 2, 1, 1, 1, 2, True, False),
    ((2, 3), (2, 1), (0, 2), (1, 2), 4, 4, False, True),
    ((1, 1), 3, 0, 1, 1, 1, False, False),
    ((3, 2), 1, 3, 2, 2, 2, True, True),
    ((3, 3), (3, 3), 0, 1, 1, 1, True, True),
]


def convolution(kernel, stride, padding, dilation, groups, weight_groups, bias, mask):
    (s, p, d) = ((n, n) if isinstance(n, int) else n for n in (stride, padding, dilation))
    h, w = ((n + 2 * p[i] - d[i] * (kernel[i] - 1) - 1) // s[i] + 1 for i, n in enumerate((7, 8)))
    cells = math.prod(kernel)
    shapes = [(2, 4, 7, 8), (2, 2 * groups * cells, h, w), (8, 4 // weight_groups, *kernel)]
    tensors = [torch.randn(shape) for shape in shapes]
    tensors += [torch.randn(8)] * bias + [torch.rand(2, groups * cells, h, w)] * mask

    def named(x, offset, weight, *rest):
        return x, offset, weight, rest[0] if bias else None, rest[-1] if mask else None

    return tensors, named, {"stride": s, "padding": p, "dilation": d}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_deformable_convolution_is_sampling(case):
    tensors, named, options = convolution(*case)

    def ours(*given):
        *first, mask = named(*given)
        return nn.deform_conv2d(*first, mask=mask, **options)

    same(ours, lambda *given: convolution_by_sampling(*named(*given), **options), *tensors)


def test_deformable_convolution_without_offsets_is_a_convolution():
    tensors, named, options = convolution(*CONVOLUTIONS[1])
    x, offset, weight, bias, _ = named(*tensors)
    expected = F.conv2d(x, weight, bias, groups=2, **options)
    torch.testing.assert_close(nn.deform_conv2d(x, 0 * offset, weight, bias, **options), expected)


@pytest.mark.full
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_deformable_convolution_is_torchvisions(case, tmp_path):
    operators = torchvision_operators(tmp_path)
    tensors, named, options = convolution(*case)
    x, offset, weight, bias, mask = named(*(tensor.requires_grad_() for tensor in tensors))
    found = nn.deform_conv2d(x, offset, weight, bias, mask=mask, **options)
    grad = torch.randn_like(found)

    steps = [*options["stride"], *options["padding"], *options["dilation"], case[5], case[4], mask is not None]
    with torch.no_grad():
        given = (x, weight, offset, *(torch.zeros(n) if t is None else t for t, n in ((mask, (2, 1)), (bias, 8))))
        expected = operators.deform_conv2d(*given, *steps)
        grads = operators._deform_conv2d_backward(grad, *given, *steps)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(found, (x, weight, offset, *(t for t in (mask, bias) if t is not None)), grad)
    theirs = [*grads[:3], *(g for g, t in zip(grads[3:], (mask, bias), strict=True) if t is not None)]
    torch.testing.assert_close(list(ours), theirs, rtol=1e-9, atol=1e-9)


# --- neighbourhood attention ------------------------------------------------------------------------
def all_pairs(q, k, v, kernel, dilation, causal, scale):
    """Attention of all cells to all, but for those outside of windows; NATTEN's rule is along each axis."""
    size, n = q.shape[1:-2], q.ndim - 3
    masks = []
    for axis, (length, w, step, back) in enumerate(zip(size, kernel, dilation, causal, strict=True)):
        mask = torch.zeros(length, length, dtype=torch.bool)
        for i in range(length):
            group = list(range(i % step, length, step))
            at = group.index(i)
            first = max(0, at - w + 1) if back else min(max(0, at - w // 2), len(group) - w)
            mask[i, group[first : at + 1 if back else first + w]] = True
        shape = [1] * (2 * n)
        shape[axis], shape[n + axis] = length, length
        masks.append(mask.reshape(shape).expand(*size, *size))
    mask = torch.stack(masks).all(0).reshape(math.prod(size), -1)
    q, k, v = (x.flatten(1, -3).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.transpose(1, 2).unflatten(1, size)


NEIGHBOURS = [  # cells, kernel, dilation, causal
    ((9,), 3, 1, False),
    ((9,), (4,), 2, False),
    ((9,), 3, 2, True),
    ((6, 7), 3, 1, False),
    ((6, 8), 2, 1, False),
    ((6, 8), (4, 3), 1, False),
    ((8, 9), 3, 2, False),
    ((6, 6), 3, 2, False),
    ((6, 7), 6, 1, False),
    ((6, 7), (3, 5), (2, 1), False),
    ((6, 7), (3, 2), 1, (True, False)),
    ((3, 4, 5), 3, 1, False),
    ((5, 4, 6), (5, 2, 2), (1, 1, 1), False),
    ((4, 4, 5), (2, 3, 3), (2, 1, 1), False),
    ((4, 4, 5), (3, 3, 3), 1, (True, False, False)),
]


@pytest.mark.parametrize(("size", "kernel", "dilation", "causal"), NEIGHBOURS)
def test_neighbourhoods_are_all_pairs_within_windows(size, kernel, dilation, causal):
    q, k, v = (torch.randn(2, *size, 2, 3) for _ in range(3))
    v = torch.randn(2, *size, 2, 4) if len(size) == 2 else v
    each = [option if isinstance(option, tuple) else (option,) * len(size) for option in (kernel, dilation, causal)]
    scale = None if len(size) == 2 else 0.3

    def ours(q, k, v):
        return nn.neighborhood_attention(q, k, v, kernel, dilation=dilation, is_causal=causal, scale=scale)

    same(ours, lambda q, k, v: all_pairs(q, k, v, *each, scale), q, k, v)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of what it calls
def test_neighbourhoods_are_nattens():
    natten = library("natten")
    q, k, v = torch.randn(3, 1, 6, 8, 2, 8, dtype=torch.float32)
    for options in (
        {"kernel_size": 3},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 4},
        {"kernel_size": (2, 5)},
        {"kernel_size": 3, "is_causal": True},
    ):
        torch.testing.assert_close(nn.neighborhood_attention(q, k, v, **options), natten.na2d(q, k, v, **options))


# --- good manners -----------------------------------------------------------------------------------
def calls():
    """Small calls of each, by name: a function and its tensors."""
    C, H, W = 4, 3, 4
    video, moves = torch.randn(3, 2, C, H, W), 0.4 + 0.2 * torch.rand(2, 2 * 4 * 2, H, W)
    kv, offset = torch.randn(1, 2, 2 * C, H, W), 0.4 + 0.2 * torch.rand(2, 2 * 4 * 4 * 2, H, W)
    cells = torch.randn(3, 1, 4, 5, 2, 2)
    return {
        "attend_at": (
            lambda q, k, v, m: nn.attend_at(q, k, v, nn.places(m, groups=2, grid=2), heads=4),
            [*video, moves],
        ),
        "deform_attn": (
            lambda q, kv, o: nn.deform_attn(q, kv, o, 2, 2, padding=1, heads=2, groups=4, clip=2),
            [video[0][:, None], kv, offset],
        ),
        "deform_conv2d": (
            lambda x, o, w, b, m: nn.deform_conv2d(x, o, w, b, padding=1, mask=m),
            [
                video[0],
                0.4 + 0.2 * torch.rand(2, 8, 4, 5),
                torch.randn(3, C, 2, 2),
                torch.randn(3),
                torch.rand(2, 4, 4, 5),
            ],
        ),
        "neighborhood_attention": (lambda q, k, v: nn.neighborhood_attention(q, k, v, 3), list(cells)),
        "by places": (lambda q, k, v: nn.neighborhood_attention(q, k, v, (2, 3), is_causal=(True, False)), list(cells)),
    }


CALLS = ["attend_at", "deform_attn", "deform_conv2d", "neighborhood_attention", "by places"]


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_finite_differences(name):
    function, tensors = calls()[name]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in tensors], fast_mode=True)


@pytest.mark.full
def test_all_of_them_compile_into_one_graph():
    functions, given = zip(*calls().values(), strict=True)
    given = [[x.requires_grad_() for x in tensors] for tensors in given]

    def every(given):
        return [function(*tensors) for function, tensors in zip(functions, given, strict=True)]

    found, expected = torch.compile(every, fullgraph=True, backend="aot_eager")(given), every(given)
    torch.testing.assert_close(found, expected)
    tensors = [x for each in given for x in each]
    slopes = (torch.autograd.grad(sum(out.sum() for out in outs), tensors) for outs in (found, expected))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", CALLS)
def test_half_precision_is_near(name):
    function, tensors = calls()[name]
    found = function(*(x.half() for x in tensors))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), function(*tensors), rtol=0.05, atol=0.05)


x, y, z = torch.zeros(1, 1, 4, 5, 6), torch.zeros(1, 4, 5, 6), torch.zeros(1, 5, 6, 2, 3)
o, w = torch.zeros(1, 18, 5, 6), torch.zeros(3, 4, 3, 3)


BAD = [  # calls, and how their messages begin
    (lambda: nn.places(o, groups=2), "places: moves has 18 channels, expected 1 * 2 * 9 * 2 channels"),
    (lambda: nn.places(o.int(), groups=1), "places: moves is torch.int32, expected floats"),
    (lambda: nn.places(o[0], groups=1), "places: moves has shape"),
    (lambda: nn.places(o, groups=0), "places: groups is 0"),
    (lambda: nn.places(o, groups=1, grid=(3, 3, 3)), "places: grid is (3, 3, 3)"),
    (lambda: nn.places(o, groups=1, frames=[0]), "places: frames is int64 of shape (1,)"),
    (lambda: nn.places(o, groups=1, flow=o), "places: flow has shape"),
    (lambda: nn.attend_at(x, x, x, o), "attend_at: offsets has shape"),
    (lambda: nn.attend_at(x, x, x, x.numpy()), "attend_at: offsets has type ndarray"),
    (lambda: nn.attend_at(x, x, x[0, 0], o), "attend_at: v has shape"),
    (lambda: nn.attend_at(x, x[..., 1:], x, o), "attend_at: k has shape (1, 1, 4, 5, 5), expected (1, 1, 4, 5, 6)"),
    (lambda: nn.attend_at(x, x, x[:, [0, 0]], o), "attend_at: v has shape (1, 2, 4, 5, 6), expected (1, 1, 4, 5, 6)"),
    (
        lambda: nn.attend_at(x, x, x, torch.zeros(1, 3, 1, 5, 6, 2, 3), heads=2),
        "attend_at: there are 2 heads and 3 groups",
    ),
    (lambda: nn.attend_at(x, x, x, torch.zeros(1, 1, 1, 5, 6, 2, 3), scale="1"), "attend_at: scale is '1'"),
    (
        lambda: nn.deform_attn(x, x, o, 3, 3, heads=3),
        "deform_attn: q has shape (1, 1, 4, 5, 6), expected (1, 1, 2, 5, 6)",
    ),
    (lambda: nn.deform_attn(x[:, :, :2], x, o, 3, 3, heads=3), "deform_attn: heads is 3"),
    (lambda: nn.deform_attn(x[:, :, :2], x, o, 3, 2), "deform_attn: offset has shape"),
    (lambda: nn.deform_attn(x[:, :, :2], x, o, 3, 3, stride=0), "deform_attn: stride is 0, expected a whole number"),
    (lambda: nn.deform_attn(x[:, :, :2], x, o, 3, 3, clip=2), "deform_attn: kv has shape"),
    (lambda: nn.deform_conv2d(x, o, w), "deform_conv2d: x has shape"),
    (lambda: nn.deform_conv2d(y, o, w), "deform_conv2d: offset has shape (1, 18, 5, 6), expected (1, 18, 3, 4)"),
    (lambda: nn.deform_conv2d(y, o[:, 1:], w), "deform_conv2d: offset has shape"),
    (lambda: nn.deform_conv2d(y, o, w[:, 1:], padding=1), "deform_conv2d: weight has shape"),
    (lambda: nn.deform_conv2d(y, o, w, padding=1, mask=o), "deform_conv2d: mask has shape"),
    (lambda: nn.deform_conv2d(y, o, w.half(), padding=1), "deform_conv2d: weight is torch.float16, expected"),
    (lambda: nn.deform_conv2d(y, o, w, dilation=9), "deform_conv2d: the result would be"),
    (lambda: nn.deform_conv2d(y, o, w, padding=-1), "deform_conv2d: padding is -1"),
    (lambda: nn.neighborhood_attention(z, z, z, 6), "neighborhood_attention: kernel_size is 6"),
    (lambda: nn.neighborhood_attention(z, z, z, (3, 3, 3)), "neighborhood_attention: kernel_size is (3, 3, 3)"),
    (lambda: nn.neighborhood_attention(z, z, z[:, 1:], 3), "neighborhood_attention: k and v have shapes"),
    (lambda: nn.neighborhood_attention(z, z, z, 3, is_causal=1), "neighborhood_attention: is_causal is 1"),
    (lambda: nn.neighborhood_attention(z[0, 0], z, z, 3), "neighborhood_attention: q has shape"),
]


def test_bad_input_is_one_clear_error():
    for call, said in BAD:
        with pytest.raises(ShiftsearchError) as raised:
            call()
        assert str(raised.value).startswith(said)
