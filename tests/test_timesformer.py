"""TimeSformer: each kind of attention against loops, receptive fields and invariances."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from loops import VIT, attention, randomly, same, sees  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def timesformer(attention="divided", frames=3, **more):
    return randomly(models.TimeSformer(frames, classes=4, attention=attention, **{**VIT, **more}))


def test_divided_attention_equals_loops_over_time_then_space():
    block = timesformer(depth=1).blocks[0]
    T, N, x = 3, 4, torch.randn(13, 12)
    cls, patches = x[:1], x[1:].reshape(T, N, 12).clone()
    z = block.temporal_norm1(patches)
    for n in range(N):
        patches[:, n] += block.temporal_fc(attention(block.temporal_attn, z[:, n], z[:, n]))
    of_cls = 0
    for t in range(T):
        tokens = block.norm1(torch.cat((cls, patches[t])))
        out = attention(block.attn, tokens, tokens)
        patches[t] += out[1:]
        of_cls += out[:1] / T
    y = torch.cat((cls + of_cls, patches.flatten(0, 1)))
    same(block(x[None], frames=T)[0], y + block.mlp(block.norm2(y)))


def test_joint_attention_equals_loops_over_all_tokens():
    block, x = timesformer("joint").blocks[0], torch.randn(13, 12)
    z = block.norm1(x)
    y = x + attention(block.attn, z, z)
    same(block(x[None])[0], y + block.mlp(block.norm2(y)))


@pytest.mark.parametrize("attention", ["joint", "divided", "space"])
def test_without_temporal_positions_the_order_of_frames_does_not_matter(attention):
    network, video = timesformer(attention), torch.randn(1, 3, 3, 16, 16)
    shuffled = video[:, [2, 0, 1]]
    if network.time_embed is not None:
        assert (network(video) - network(shuffled)).abs().max() > 1e-3
        torch.nn.init.zeros_(network.time_embed)
    same(network(shuffled), network(video))


def image_of(network):
    """Return the image network with the same weights: spatial attention only."""
    image = models.TimeSformer(classes=4, attention="space", **VIT).eval()
    own = image.state_dict()
    image.load_state_dict({name: value for name, value in network.state_dict().items() if name in own})
    return image


def test_a_new_network_gives_a_static_clip_what_the_image_network_gives_its_frame():
    network, frame = timesformer(), torch.randn(1, 1, 3, 16, 16)
    for block in network.blocks:
        for parameter in block.temporal_fc.parameters():
            torch.nn.init.zeros_(parameter)
    torch.nn.init.zeros_(network.time_embed)
    same(network(frame.expand(-1, 3, -1, -1, -1)), image_of(network)(frame))
    fresh = models.TimeSformer(classes=4, **VIT).eval()
    assert all((block.temporal_fc.weight == 0).all() and (block.temporal_fc.bias == 0).all() for block in fresh.blocks)
    assert (fresh.time_embed == 0).all()


def test_joint_attention_of_one_frame_equals_the_image_network():
    network, frame = timesformer("joint", frames=1), torch.randn(1, 1, 3, 16, 16)
    torch.nn.init.zeros_(network.time_embed)
    same(network(frame), image_of(network)(frame))


def test_temporal_attention_sees_only_the_same_place_in_other_frames():
    """With spatial attention switched off, a token depends on its own place in all frames and on nothing else."""
    network, video = timesformer(depth=1), torch.randn(1, 3, 3, 16, 16)
    torch.nn.init.zeros_(network.blocks[0].attn.proj.weight)

    def tokens(net, clip):
        x = net.tokens(clip)
        return net.through(torch.cat((x[:, 0, :1], x[:, :, 1:].flatten(1, 2)), 1), frames=3)

    seen = sees(network, video, tokens, (0, 1 + 1 * 4 + 2))  # frame 1, patch 2: the lower left
    expected = torch.zeros(3, 16, 16, dtype=torch.bool)
    expected[:, 8:, :8] = True
    assert (seen == expected).all()
    assert not sees(network, video, tokens, (0, 0)).any()  # the class token takes no part in temporal attention


def test_a_dropped_temporal_path_still_adds_the_bias_of_its_last_layer():
    block = timesformer(drop_path=0.999, depth=2).blocks[1].train()
    x = torch.randn(1, 1 + 3 * 4, 12)
    out = block(x, frames=3)
    same(out[:, :1], x[:, :1])
    same(out[:, 1:], x[:, 1:] + block.temporal_fc.bias)
