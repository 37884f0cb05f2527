"""X-ViT: keys and values with channels of neighbouring frames, receptive fields, segments and heads."""

from __future__ import annotations

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from loops import VIT, attention, heads_of, randomly, same, sees  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def xvit(frames=4, **options):
    return randomly(models.XViT(frames, classes=4, **{**VIT, "n_div": 4, **options}))


def borrowing(x, layout, n_div, heads):
    """Return keys or values (T, N, dim) with channels of neighbouring frames, one channel at a time."""
    T, _, dim = x.shape
    d = dim // heads
    out = x.clone()
    for t in range(T):
        for c in range(dim):
            place, part = (c, dim // n_div) if layout == "flat" else (c % d, d // n_div)
            source = t + 1 if place < part else t - 1 if place < 2 * part else t
            out[t, :, c] = x[source, :, c] if 0 <= source < T else 0
    return out


@pytest.mark.parametrize("layout", ["flat", "per_head"])
@pytest.mark.parametrize("n_div", [2, 3, 4])  # of 12 channels in two heads: with 4, half a head moves
@pytest.mark.parametrize("summary", [False, True])
def test_attention_equals_loops_over_shifted_keys_and_values(layout, n_div, summary):
    network, x = xvit(layout=layout, n_div=n_div, summary=summary), torch.randn(4, 5, 12)
    layer = network.blocks[0].attn
    q, k, v = heads_of(layer.qkv, x)
    mixed_k, mixed_v = (borrowing(part, layout, n_div, 2) for part in (k, v))
    for t in range(4):
        out = torch.zeros(5, 12)
        keys, values = mixed_k[t], mixed_v[t]
        if summary:
            of_means = heads_of(layer.qkv, x.mean(1))
            keys, values = torch.cat((keys, of_means[1])), torch.cat((values, of_means[2]))
        for h in (slice(0, 6), slice(6, 12)):
            out[:, h] = (q[t, :, h] @ keys[:, h].T / 6**0.5).softmax(-1) @ values[:, h]
        same(layer(x[None], mix=network.mix)[0, t], layer.proj(out))


@pytest.mark.parametrize("depth", [1, 2])
def test_each_block_widens_the_receptive_field_by_one_frame(depth):
    network, video = xvit(frames=5, depth=depth), torch.randn(1, 5, 3, 16, 16)
    frames = sees(network, video, lambda net, clip: net.features(clip), (0, 2)).flatten(1).any(1)
    assert frames.tolist() == [abs(t - 2) <= depth for t in range(5)]


def test_segments_are_independent():
    network, video = xvit(frames=6, segments=2), torch.randn(1, 6, 3, 16, 16)
    frames = sees(network, video, lambda net, clip: net.features(clip), (0, 2)).flatten(1).any(1)
    assert frames.tolist() == [True, True, True, False, False, False]
    with pytest.raises(ShiftsearchError, match="frames of video is 5, expected a multiple of seg"):
        network(video[:, :5])


def test_with_summary_tokens_every_frame_sees_the_whole_clip():
    network, video = xvit(frames=5, depth=1, summary=True, n_div=None), torch.randn(1, 5, 3, 16, 16)
    assert sees(network, video, lambda net, clip: net.features(clip), (0, 0)).flatten(1).any(1).all()


def test_a_fully_shifted_head_contributes_zero_at_the_end_of_a_clip():
    """Keys of 0 are not masked: attention to them is uniform, and their values are 0."""
    layer = xvit(n_div=2, layout="flat").blocks[0].attn  # of one frame, all channels come from outside the clip
    x = torch.randn(1, 1, 5, 12)
    same(layer(x, mix=xvit(n_div=2).mix), layer.proj.bias.expand(1, 1, 5, 12))


def test_without_shift_it_is_an_image_network_and_on_a_static_clip_only_the_ends_differ():
    network, frame = xvit(depth=1, n_div=None), torch.randn(1, 1, 3, 16, 16)
    torch.nn.init.zeros_(network.temp_embed)
    image = models.load(
        models.ViT(**{**VIT, "depth": 1}),
        {k: v for k, v in network.state_dict().items() if "head" not in k and k != "temp_embed"},
    )
    still = frame.expand(-1, 4, -1, -1, -1)
    same(network.features(still), image(still))
    network.n_div = 4
    same(network.features(still)[:, 1:3], image(still)[:, 1:3])
    assert (network.features(still)[:, 0] - image(still)[:, 0]).abs().max() > 1e-3


def test_temporal_positions_are_periodic():
    network, video = xvit(frames=2, depth=1, temporal="mean"), torch.randn(1, 4, 3, 16, 16)
    twice = xvit(frames=4, depth=1, temporal="mean")
    twice.load_state_dict({**network.state_dict(), "temp_embed": network.temp_embed.repeat(1, 2, 1, 1)})
    same(network(video), twice(video))


def test_the_mean_head_averages_the_class_tokens():
    network, video = xvit(temporal="mean"), torch.randn(2, 4, 3, 16, 16)
    same(network(video), network.features(video).mean(1) @ network.head.weight.T + network.head.bias)


def test_the_temporal_attention_head_ignores_the_order_of_frames():
    head, x = xvit().head, torch.randn(2, 4, 12)
    same(head(x[:, [3, 1, 0, 2]]), head(x))
    tokens = torch.cat((head.cls_token[0], x[0]))
    z = head.block.norm1(tokens)
    y = tokens[:1] + attention(head.block.attn, z[:1], z)
    y = y + head.block.mlp(head.block.norm2(y))
    same(head(x)[:1], head.fc2(torch.nn.functional.gelu(head.fc1(head.norm(y)))))
