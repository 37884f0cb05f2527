"""RVRT's layer: equal to its formula by sampling, with the names and shapes of its released files, which it loads."""

from __future__ import annotations

import math

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from test_drop_ins import rvrt  # noqa: E402 - torch may be missing
from torch.nn import functional as F  # noqa: E402

from shiftsearch.models import RVRTAttention, load  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def published(dim, groups=12, points=9):
    """Names and shapes of a layer in the files that RVRT's authors released."""
    shapes = {"conv_offset.0.weight": (64, 3 * dim + 4, 1, 1, 1), "conv_offset.0.bias": (64,)}
    for n in (2, 4, 6, 8):
        shapes |= {f"conv_offset.{n}.weight": (64, 64, 1, 3, 3), f"conv_offset.{n}.bias": (64,)}
    shapes |= {
        "conv_offset.10.weight": (4 * groups * points, 64, 1, 1, 1),
        "conv_offset.10.bias": (4 * groups * points,),
    }
    for name in ("q", "k", "v"):
        shapes |= {f"proj_{name}.1.weight": (2 * dim, dim), f"proj_{name}.1.bias": (2 * dim,)}
    shapes |= {"proj.1.weight": (dim, 2 * dim), "proj.1.bias": (dim,)}
    shapes |= {"mlp.1.fc1.weight": (2 * dim, dim), "mlp.1.fc1.bias": (2 * dim,)}
    return shapes | {"mlp.1.fc2.weight": (dim, 2 * dim), "mlp.1.fc2.bias": (dim,)}


def drawn(dim, **options):
    """Random weights, with which most points stay in the frame."""

    def spread(shape):
        return math.prod(shape[1:]) ** -0.5

    weights = {name: torch.randn(shape) * spread(shape) for name, shape in published(dim, **options).items()}
    return {name: 0.1 * value if ".10." in name else value for name, value in weights.items()}


def clips(dim, B=2):
    q, k, v, one, two = torch.randn(5, B, 2, dim, 4, 5)
    return q, k, v, [one, two], [torch.randn(B, 2, 2, 4, 5) for _ in range(2)]


def by_sampling(weights, q, k, v, warped, flows, heads, groups):
    """The layer as the paper has it, from the weights of a file; each frame of two looks at itself, then at the other."""
    B, T, _, H, W = q.shape
    seen = torch.cat((q, *warped, *flows), 2).flatten(0, 1)
    for n in range(0, 12, 2):
        seen = F.conv2d(
            seen, weights[f"conv_offset.{n}.weight"][:, :, 0], weights[f"conv_offset.{n}.bias"], padding="same"
        )
        seen = F.leaky_relu(seen, 0.1) if n < 10 else 10 * seen.tanh()
    moves = seen.reshape(B * T, 2, -1, 2, H, W)
    for s, flow in enumerate(flows):
        moves[:, s] += flow.flatten(0, 1).flip(1)[:, None]

    def linear(name, x):
        return F.linear(x.movedim(2, -1), weights[f"{name}.weight"], weights[f"{name}.bias"]).movedim(-1, 2)

    query = linear("proj_q.1", q).flatten(0, 1)[:, None]
    kv = torch.cat((linear("proj_k.1", k), linear("proj_v.1", v)), 2)
    found = rvrt(query, kv, moves.flatten(1, 3), 3, 3, padding=1, heads=heads, groups=groups, clip=2)
    found = linear("proj.1", found.reshape(B, T, -1, H, W))
    found = found + linear("mlp.1.fc2", F.gelu(linear("mlp.1.fc1", found)))
    mean = moves.reshape(B, T, 2, -1, 2, H, W).mean(3).flip(3)
    return found, mean[:, :, 0], mean[:, :, 1]


def test_the_layer_is_its_formula_with_the_weights_of_a_file():
    options = {"heads": 2, "groups": 4}
    weights, given = drawn(6, groups=4), clips(6)
    layer = load(RVRTAttention(6, **options), weights)
    found = layer(*given, True)
    assert found[0].square().mean() > 0.01
    for one, other in zip(found, by_sampling(weights, *given, **options), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer(*given), found[0])
    found[0].square().sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_names_and_shapes_are_those_of_released_files():
    with torch.device("meta"):
        state = RVRTAttention(144).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published(144)


def test_a_layer_takes_its_part_of_a_whole_network(tmp_path):
    layers = {part: drawn(12) for part in ("deform_align.backward_1", "deform_align.forward_1")}
    network = {f"{part}.{name}": value for part, layer in layers.items() for name, value in layer.items()}
    torch.save({"params": {**network, "conv_last.weight": torch.zeros(3, 3)}}, tmp_path / "network.pth")
    for part, weights in layers.items():
        state = load(RVRTAttention(12), tmp_path / "network.pth", part=part).state_dict()
        assert all(torch.equal(state[name], value) for name, value in weights.items())
    with pytest.raises(ShiftsearchError, match=r"load: part is 'deform', expected .*deform_align\.backward_1"):
        load(RVRTAttention(12), tmp_path / "network.pth", part="deform")
    with pytest.raises(ShiftsearchError, match="of RVRT, does not fit RVRTAttention; 13 of another shape"):
        load(RVRTAttention(24), tmp_path / "network.pth", part="deform_align.forward_1")


def test_before_training_points_lie_on_the_grid_around_the_flow():
    layer = RVRTAttention(12)
    q, k, v, warped, flows = clips(12)
    for found, flow in zip(layer(q, k, v, warped, flows, True)[1:], flows, strict=True):
        torch.testing.assert_close(found, flow)


def test_bad_input_is_one_clear_error():
    q, k, v, warped, flows = clips(12)
    layer = RVRTAttention(12)
    for call, said in (
        (lambda: RVRTAttention(5, heads=4), "RVRTAttention: 2 * dim is 10, expected a multiple of heads, which is 4"),
        (lambda: RVRTAttention(12, reach=-1), "RVRTAttention: reach is -1, expected"),
        (lambda: layer(q[:, :1], k, v, warped, flows), "RVRTAttention: q is torch.float64 of shape"),
        (lambda: layer(q, k[0], v, warped, flows), "RVRTAttention: k is torch.float64 of shape"),
        (lambda: layer(q, k, v, warped, flows[:1]), "RVRTAttention: flows is a list, expected a list of 2 tensors"),
        (lambda: layer(q, k, v, warped, warped), "RVRTAttention: flows[0] is torch.float64 of shape"),
    ):
        with pytest.raises(ShiftsearchError) as raised:
            call()
        assert str(raised.value).startswith(said)
