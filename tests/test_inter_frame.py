"""SIFA: inter-frame attention against grid_sample, forward and backward, its properties, and its two networks."""

from __future__ import annotations

import re

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402
from shiftsearch.nn import InterFrameAttention, inter_frame  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def sampled(frame, y, x):
    """Sample a frame (B, C, H, W) at places (B, H, W), with zeros outside."""
    H, W = frame.shape[-2:]
    at = torch.stack((2 * x / (W - 1) - 1, 2 * y / (H - 1) - 1), -1)
    return F.grid_sample(frame, at, align_corners=True)


def by_sampling(x, offsets, kernel=3, dilation=1, weights="dot", scale=None):
    _, T, C, H, W = x.shape
    back, frames = (dilation * (kernel - 1) + 1) // 2, list(x.unbind(1))
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    for t in range(T - 1):
        cells, products = [], []
        for n in range(kernel**2):
            y = rows - back + n // kernel * dilation + offsets[:, t + 1, 2 * n]
            z = columns - back + n % kernel * dilation + offsets[:, t + 1, 2 * n + 1]
            cells.append(sampled(x[:, t + 1], y, z))
            products.append((x[:, t] * cells[-1]).sum(1, keepdim=True))
        products = torch.stack(products)
        weight = products / C if weights == "dot" else (products * (scale or C**-0.5)).softmax(0)
        frames[t] = x[:, t] + (weight * torch.stack(cells)).sum(0)
    return torch.stack(frames, 1)


def drawn(kernel=3, shape=(2, 3, 4, 5, 7), spread=1.5):
    B, T, _, H, W = shape
    offsets = spread * torch.randn(B, T, 2 * kernel**2, H, W)
    return torch.randn(shape, requires_grad=True), offsets.requires_grad_()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "softmax"},
        {"weights": "softmax", "scale": 0.3},
        {"kernel": 1},
        {"kernel": 2},
        {"kernel": 2, "dilation": 3},
    ],
)
def test_it_equals_grid_sample_forward_and_backward(options):
    x, offsets = drawn(options.get("kernel", 3))
    grad = torch.randn_like(x)
    found, expected = (
        (out, *torch.autograd.grad(out, (x, offsets), grad))
        for out in (inter_frame(x, offsets, **options), by_sampling(x, offsets, **options))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", ["dot", "softmax"])  # with dot, a product of 0 has no gradient by itself
def test_offsets_of_cells_a_pixel_or_more_outside_have_gradient_zero(weights):
    """With offsets of 0 the outermost cells lie exactly one pixel outside, where the derivative from inside is not 0."""
    x, _ = drawn()
    offsets = torch.zeros(2, 3, 18, 5, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(inter_frame(x, offsets, weights=weights).square().sum(), offsets)
    grad = grad.unflatten(2, (3, 3, 2))
    assert (grad[:, :, 0, :, :, 0] == 0).all()
    assert (grad[:, :, 2, :, :, -1] == 0).all()
    assert (grad[:, :, :, 0, :, :, 0] == 0).all()
    assert (grad[:, :, :, 2, :, :, -1] == 0).all()
    assert (grad[:, 1:, 1, 1].abs().sum((2, 3)) > 0).all()
    assert (grad[:, 0] == 0).all()  # no frame comes before the first


def test_dot_weights_are_cubic_in_the_frames_and_softmax_weights_sum_to_one():
    x, offsets = drawn()
    added = inter_frame(x, offsets) - x
    torch.testing.assert_close(inter_frame(3 * x, offsets) - 3 * x, 27 * added, rtol=1e-9, atol=1e-9)
    flat = torch.ones(1, 2, 4, 5, 7)
    inner = (inter_frame(flat, torch.zeros(1, 2, 18, 5, 7), weights="softmax") - flat)[0, 0, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.ones_like(inner))


def test_a_frame_sees_the_next_and_the_last_stays_as_it_is():
    x, offsets = drawn(shape=(1, 4, 4, 5, 7))
    for t in range(4):
        (grad,) = torch.autograd.grad(inter_frame(x, offsets)[0, t].sum(), x)
        assert grad[0].flatten(1).any(1).tolist() == [n in (t, t + 1) for n in range(4)]
    assert (inter_frame(x, offsets)[:, -1] == x[:, -1]).all()
    assert inter_frame(x[:, :1], offsets[:, :1]) is not None
    assert (inter_frame(x[:, :1], offsets[:, :1]) == x[:, :1]).all()


def test_strides_do_not_matter():
    x, offsets = drawn()
    other = x.detach().permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert not other.is_contiguous()
    torch.testing.assert_close(inter_frame(other, offsets), inter_frame(x, offsets), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("gate", "still"), [("residual", 1.5), ("paper", 0.5)])
def test_offsets_are_predicted_from_the_gated_change(gate, still):
    layer, x = InterFrameAttention(4, gate=gate), torch.randn(1, 3, 4, 5, 7)
    assert (layer.offsets(x) == 0).all()
    torch.testing.assert_close(layer(x), inter_frame(x, torch.zeros(1, 3, 18, 5, 7)))
    torch.nn.init.normal_(layer.conv_offset.weight)
    s = torch.sigmoid(x[0, 2] - x[0, 1])
    seen = x[0, 2] * (1 + s if gate == "residual" else s)
    torch.testing.assert_close(layer.offsets(x)[0, 2], layer.conv_offset(seen))
    torch.testing.assert_close(layer.offsets(x)[0, 0], layer.conv_offset(still * x[0, 0]))
    layer.reset_parameters()
    assert (layer.offsets(x) == 0).all()
    assert InterFrameAttention(4, offsets=False).conv_offset is None


def test_it_compiles_to_one_graph():
    layer, x = InterFrameAttention(4), torch.randn(1, 3, 4, 5, 7)
    torch.nn.init.normal_(layer.conv_offset.weight)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


# --- the networks of it -----------------------------------------------------------------------------
def test_sifa_net_has_its_blocks_in_place_and_zero_offsets_at_first():
    network = models.SIFANet(classes=3, width=4).eval()
    at = [name for name, part in network.named_modules() if isinstance(part, InterFrameAttention)]
    blocks = ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5", "layer4.1", "layer4_dual.1"]
    assert at == [f"{block}.sifa" for block in blocks]
    assert all((network.get_submodule(name).conv_offset.weight == 0).all() for name in at)
    context = [name for name, part in network.named_modules() if getattr(part, "context", False)]
    assert len(context) == 2 + 3 + 2 + 2
    assert network.layer4[0].conv2.stride == (1, 2, 2)
    assert network.layer4_dual[0].conv2.stride == (1, 1, 1)
    found = network(torch.randn(2, 8, 3, 24, 32))
    torch.testing.assert_close(found.probabilities().sum(-1), torch.ones(2))


def names_of(network, pattern):
    """Return the names in a state dict, those of all blocks as one."""
    return {re.sub(pattern, "block.", name) for name in network.state_dict()}


def both(*layers):
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def batch_norm(name):
    return {f"{name}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def test_state_dicts_have_the_documented_names():
    network = models.SIFANet(classes=3, width=4)
    norms = [f"block.bn{n}" for n in (1, 2, 3)] + ["bn1", "block.downsample.1"]
    expected = {f"block.conv{n}.weight" for n in (1, 2, 3)} | both("fc", "fc_dual", "block.fc1", "block.fc2")
    expected |= {"conv1.weight", "block.downsample.0.weight", "block.sifa.conv_offset.weight"}
    assert names_of(network, r"layer(\d|4_dual)\.\d\.") == expected.union(*map(batch_norm, norms))
    network = models.SIFATransformer(classes=3, window=3, dim=4, depths=(2, 2), heads=(1, 2))
    layers = ["norm1", "norm2", "mlp.fc1", "mlp.fc2", "attn.qkv", "attn.proj", "between.norm"]
    single = ["attn.relative_position_bias_table", "between.attention.conv_offset.weight", "between.conv.weight"]
    expected = both("patch_embed", "norm", "head", "layers.0.downsample.norm", *(f"block.{layer}" for layer in layers))
    expected |= {"layers.0.downsample.reduction.weight", *(f"block.{name}" for name in single)}
    assert names_of(network, r"layers\.\d\.blocks\.\d\.") == expected


def test_a_block_attends_between_its_second_and_third_convolution():
    network = models.SIFANet(classes=3, width=4).eval()
    block, x = network.layer2[1], torch.randn(1, 32, 2, 5, 7)
    assert (block(x) == x.relu()).all()  # before training
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()
    y = inter_frame(y.transpose(1, 2), block.sifa.offsets(y.transpose(1, 2))).transpose(1, 2)
    torch.testing.assert_close(block(x), (block.bn3(block.conv3(y)) + x).relu())


def test_a_new_sifa_transformer_equals_the_image_swin():
    sizes = {"dim": 4, "depths": (2, 2), "heads": (1, 2)}
    network = models.SIFATransformer(classes=3, window=3, **sizes).eval()
    kinds = [[type(block.between).__name__ for block in stage.blocks] for stage in network.layers]
    assert kinds == [["_ToTheNext", "_OverTime"], ["_ToTheNext", "_ToTheNext"]]
    video = torch.randn(1, 8, 3, 24, 16)
    each = torch.stack([network(video[:, 4 * n : 4 * n + 4]) for n in range(2)])
    torch.testing.assert_close(network(video), each.mean(0))
    block = network.layers[0].blocks[0]
    x = torch.randn(1, 3, 5, 7, 4)
    torch.nn.init.normal_(block.between.norm.weight)
    frames = x.movedim(-1, 2)
    added = block.between.norm((inter_frame(frames, torch.zeros(1, 3, 18, 5, 7)) - frames).movedim(2, -1))
    torch.testing.assert_close(block.between(x), added)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 0}, "inter_frame: kernel is 0, expected a whole number of at least 1"),
        ({"kernel": 2}, r"inter_frame: offsets is .* of shape \(2, 3, 18, 5, 7\), expected .* \(2, 3, 8, 5, 7\)"),
        ({"weights": "max"}, "inter_frame: weights is 'max', expected one of 'dot', 'softmax'"),
        ({"x": torch.zeros(3, 4, 5, 7)}, r"inter_frame: x is .* expected floats of shape \(B, T, C, H, W\)"),
        ({"offsets": None}, "inter_frame: offsets is a NoneType, expected a torch tensor"),
    ],
)
def test_wrong_arguments_raise_an_error(options, message):
    x, offsets = drawn()
    with pytest.raises(ShiftsearchError, match=message):
        inter_frame(**{"x": x, "offsets": offsets, **options})
    with pytest.raises(ShiftsearchError, match=r"InterFrameAttention: x is of shape .*, expected \(B, T, 5, H, W\)"):
        InterFrameAttention(5)(x)
