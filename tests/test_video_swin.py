"""Video Swin: windows and their shift against loops, receptive fields, merging, and inflation of image weights."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")
from loops import heads_of, randomly, same, sees  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402
from shiftsearch.models import _swin  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


SWIN = {"dim": 4, "depths": (2,), "heads": (2,), "window": (2, 3, 4), "patch": (1, 1, 1)}


def windows(size, window, shifted):
    """Return the window of each place of a clip: along each axis, floor((p - shift) / window)."""
    parts = []
    for n, w in zip(size, window, strict=True):
        shift = w // 2 if shifted and n > w else 0
        parts.append([(p - shift) // min(w, n) for p in range(-(-n // min(n, w)) * min(n, w))])
    return parts


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 6, 8), (3, 7, 5), (1, 2, 9)])  # whole windows, padded ones, smaller than a window
def test_attention_equals_loops_over_the_tokens_of_a_window(size, shifted):
    layer = randomly(_swin.WindowAttention(4, 2, (2, 3, 4), shifted=shifted, exact=True))
    x, (T, H, W) = torch.randn(1, *size, 4), size
    groups = windows(size, (2, 3, 4), shifted)
    filled = torch.zeros(*map(len, groups), 4)
    filled[:T, :H, :W] = x[0]
    q, k, v = (part.unflatten(-1, (2, 2)) for part in heads_of(layer.qkv, filled))
    table, places = layer.relative_position_bias_table, list(itertools.product(*(range(len(one)) for one in groups)))
    out = layer(x)[0]
    for at in places[:: 1 + len(places) // 40]:
        if any(p >= n for p, n in zip(at, size, strict=True)):
            continue
        group = [one[p] for one, p in zip(groups, at, strict=True)]
        seen = [b for b in places if [one[p] for one, p in zip(groups, b, strict=True)] == group]
        found = torch.zeros(2, 2)
        for h in range(2):
            logits = []
            for b in seen:
                dt, dy, dx = (i - j for i, j in zip(at, b, strict=True))
                bias = table[((dt + 1) * 5 + dy + 2) * 7 + dx + 3, h]
                logits.append(q[at][h] @ k[b][h] / math.sqrt(2) + bias)
            found[h] = sum(w * v[b][h] for w, b in zip(torch.stack(logits).softmax(0), seen, strict=True))
        same(out[at], layer.proj(found.flatten()))


def test_receptive_fields_are_windows_and_shifted_windows():
    network, video = randomly(models.VideoSwin(classes=3, **SWIN)), torch.randn(1, 4, 3, 6, 8)
    seen = sees(network, video, lambda net, clip: net.layers[0].blocks[0](net.patch_embed(clip)), (0, 1, 1, 2))
    expected = torch.zeros(4, 6, 8, dtype=torch.bool)
    expected[:2, :3, :4] = True
    assert (seen == expected).all()
    seen = sees(network, video, lambda net, clip: net.layers[0].blocks[1](net.patch_embed(clip)), (0, 1, 1, 2))
    expected[:] = False
    expected[1:3, 1:4, 2:6] = True
    assert (seen == expected).all()


def test_patch_merging_joins_two_by_two_tokens():
    layer, x = randomly(_swin.Merging(2)), torch.randn(1, 2, 3, 4, 2)
    out = layer(x)
    assert out.shape == (1, 2, 2, 2, 4)
    places = [(2, 2), (3, 2), (2, 3), (3, 3)]  # rows after the last are 0
    four = torch.cat([x[0, 1, y, z] if y < 3 else torch.zeros(2) for y, z in places])
    same(out[0, 1, 1, 1], layer.reduction(layer.norm(four)))


def test_inflated_weights_give_a_static_clip_what_they_gave_its_frame():
    image = randomly(models.VideoSwin(classes=3, **{**SWIN, "window": (1, 4, 4), "patch": (1, 2, 2)}))
    state = image.state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    network = models.VideoSwin(classes=3, **{**SWIN, "window": (2, 4, 4), "patch": (2, 2, 2)}).eval()
    models.load(network, state)
    frame = torch.randn(1, 1, 3, 18, 14)
    still = network.features(frame.expand(-1, 8, -1, -1, -1))
    same(still, image.features(frame).expand_as(still))


def test_position_tables_of_smaller_windows_are_interpolated():
    image = randomly(models.VideoSwin(classes=3, **{**SWIN, "window": (1, 3, 3), "patch": (1, 2, 2)}))
    state = image.state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    network = models.load(models.VideoSwin(classes=3, **{**SWIN, "window": (2, 5, 5), "patch": (2, 2, 2)}), state)
    name = "layers.0.blocks.1.attn.relative_position_bias_table"
    small, large = (net.state_dict()[name] for net in (image, network))
    large = large.unflatten(0, (3, 9, 9))
    assert (large == large[:1]).all()
    corners = torch.nn.functional.interpolate(small.T.unflatten(1, (5, 5))[None], (9, 9), mode="bicubic")[0]
    torch.testing.assert_close(large[0].movedim(-1, 0), corners, rtol=1e-5, atol=1e-5)
