"""What each system says of its attention: who sees whom, what changes nothing, and what plain loops give."""

from __future__ import annotations

import itertools
import math

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")

from shiftsearch import models  # noqa: E402
from shiftsearch.models import _swin  # noqa: E402

VIT = {"size": 16, "patch": 8, "dim": 12, "depth": 2, "heads": 2}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomly(network):
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def heads_of(layer, x):
    """q, k, v of tokens (N, dim), each as lists [head][token] of vectors."""
    dim = x.shape[-1]
    parts = [x @ layer.weight[n * dim : (n + 1) * dim].T for n in range(3)]
    if layer.bias is not None:
        parts = [part + layer.bias[n * dim : (n + 1) * dim] for n, part in enumerate(parts)]
    return parts


def attention(attn, queries, tokens):
    """What queries (M, dim) get of tokens (N, dim), one head and one query at a time."""
    q, (_, k, v) = heads_of(attn.qkv, queries)[0], heads_of(attn.qkv, tokens)
    d = q.shape[-1] // attn.heads
    out = torch.zeros_like(queries)
    for h in range(attn.heads):
        own = slice(h * d, (h + 1) * d)
        for n, query in enumerate(q[:, own]):
            weights = torch.stack([(query * key).sum() / math.sqrt(d) for key in k[:, own]]).softmax(0)
            out[n, own] = sum(w * value for w, value in zip(weights, v[:, own], strict=True))
    return attn.proj(out)


def sees(network, video, output, where):
    """Whether each frame and pixel of a clip changes a part of the result."""
    video = video.clone().requires_grad_()
    (grad,) = torch.autograd.grad(output(network, video)[where].sum(), video)
    return grad.abs().sum(2)[0] > 0


# --- TimeSformer ------------------------------------------------------------------------------------
def timesformer(attention="divided", frames=3, **more):
    return randomly(models.TimeSformer(frames, classes=4, attention=attention, **{**VIT, **more}))


def test_divided_attention_is_over_time_at_a_place_then_over_space_in_a_frame():
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


def test_joint_attention_is_among_all_tokens():
    block, x = timesformer("joint").blocks[0], torch.randn(13, 12)
    z = block.norm1(x)
    y = x + attention(block.attn, z, z)
    same(block(x[None])[0], y + block.mlp(block.norm2(y)))


@pytest.mark.parametrize("attention", ["joint", "divided", "space"])
def test_without_positions_in_time_the_order_of_frames_says_nothing(attention):
    network, video = timesformer(attention), torch.randn(1, 3, 3, 16, 16)
    shuffled = video[:, [2, 0, 1]]
    if network.time_embed is not None:
        assert (network(video) - network(shuffled)).abs().max() > 1e-3
        torch.nn.init.zeros_(network.time_embed)
    same(network(shuffled), network(video))


def image_of(network):
    """The same network of images: spatial attention of one frame alone."""
    image = models.TimeSformer(classes=4, attention="space", **VIT).eval()
    own = image.state_dict()
    image.load_state_dict({name: value for name, value in network.state_dict().items() if name in own})
    return image


def test_a_frame_that_stands_still_gets_what_an_image_gets_before_training_over_time():
    network, frame = timesformer(), torch.randn(1, 1, 3, 16, 16)
    for block in network.blocks:
        for parameter in block.temporal_fc.parameters():
            torch.nn.init.zeros_(parameter)
    torch.nn.init.zeros_(network.time_embed)
    same(network(frame.expand(-1, 3, -1, -1, -1)), image_of(network)(frame))
    fresh = models.TimeSformer(classes=4, **VIT).eval()
    assert all((block.temporal_fc.weight == 0).all() and (block.temporal_fc.bias == 0).all() for block in fresh.blocks)
    assert (fresh.time_embed == 0).all()


def test_one_frame_is_an_image_to_joint_attention():
    network, frame = timesformer("joint", frames=1), torch.randn(1, 1, 3, 16, 16)
    torch.nn.init.zeros_(network.time_embed)
    same(network(frame), image_of(network)(frame))


def test_a_patch_sees_all_frames_at_its_place_only_through_attention_over_time():
    """Attention over space mixes what is in one frame: without it a token knows the frames at its own place."""
    network, video = timesformer(depth=1), torch.randn(1, 3, 3, 16, 16)
    torch.nn.init.zeros_(network.blocks[0].attn.proj.weight)

    def tokens(net, clip):
        x = net.tokens(clip)
        return net.through(torch.cat((x[:, 0, :1], x[:, :, 1:].flatten(1, 2)), 1), frames=3)

    seen = sees(network, video, tokens, (0, 1 + 1 * 4 + 2))  # frame 1, patch 2: the lower left
    expected = torch.zeros(3, 16, 16, dtype=torch.bool)
    expected[:, 8:, :8] = True
    assert (seen == expected).all()
    assert not sees(network, video, tokens, (0, 0)).any()  # the class token, which attention over time leaves out


# --- X-ViT ------------------------------------------------------------------------------------------
def xvit(frames=4, **options):
    return randomly(models.XViT(frames, classes=4, **{**VIT, "n_div": 4, **options}))


def borrowing(x, layout, n_div, heads):
    """Keys or values (T, N, dim) of each frame, channel by channel."""
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
def test_frames_attend_to_keys_and_values_with_channels_of_their_neighbours(layout, n_div, summary):
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
def test_each_block_sees_one_frame_further(depth):
    network, video = xvit(frames=5, depth=depth), torch.randn(1, 5, 3, 16, 16)
    frames = sees(network, video, lambda net, clip: net.features(clip), (0, 2)).flatten(1).any(1)
    assert frames.tolist() == [abs(t - 2) <= depth for t in range(5)]


def test_segments_see_nothing_of_each_other():
    network, video = xvit(frames=6, segments=2), torch.randn(1, 6, 3, 16, 16)
    frames = sees(network, video, lambda net, clip: net.features(clip), (0, 2)).flatten(1).any(1)
    assert frames.tolist() == [True, True, True, False, False, False]
    with pytest.raises(ShiftsearchError, match="frames of video is 5, expected a multiple of seg"):
        network(video[:, :5])


def test_a_summary_of_each_frame_shows_the_whole_clip():
    network, video = xvit(frames=5, depth=1, summary=True, n_div=None), torch.randn(1, 5, 3, 16, 16)
    assert sees(network, video, lambda net, clip: net.features(clip), (0, 0)).flatten(1).any(1).all()


def test_a_head_without_neighbours_adds_nothing():
    """Zero keys are no mask: attention is uniform, to values that are 0."""
    layer = xvit(n_div=2, layout="flat").blocks[0].attn  # with one frame, all channels are from outside the clip
    x = torch.randn(1, 1, 5, 12)
    same(layer(x, mix=xvit(n_div=2).mix), layer.proj.bias.expand(1, 1, 5, 12))


def test_without_mixing_frames_are_images_and_a_still_clip_differs_at_its_ends_only():
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


def test_positions_in_time_repeat():
    network, video = xvit(frames=2, depth=1, temporal="mean"), torch.randn(1, 4, 3, 16, 16)
    twice = xvit(frames=4, depth=1, temporal="mean")
    twice.load_state_dict({**network.state_dict(), "temp_embed": network.temp_embed.repeat(1, 2, 1, 1)})
    same(network(video), twice(video))


def test_the_mean_over_frames_is_the_mean():
    network, video = xvit(temporal="mean"), torch.randn(2, 4, 3, 16, 16)
    same(network(video), network.features(video).mean(1) @ network.head.weight.T + network.head.bias)


def test_a_token_that_attends_to_the_frames_knows_no_order():
    head, x = xvit().head, torch.randn(2, 4, 12)
    same(head(x[:, [3, 1, 0, 2]]), head(x))
    tokens = torch.cat((head.cls_token[0], x[0]))
    z = head.block.norm1(tokens)
    y = tokens[:1] + attention(head.block.attn, z[:1], z)
    y = y + head.block.mlp(head.block.norm2(y))
    same(head(x)[:1], head.fc2(torch.nn.functional.gelu(head.fc1(head.norm(y)))))


# --- Video Swin -------------------------------------------------------------------------------------
SWIN = {"dim": 4, "depths": (2,), "heads": (2,), "window": (2, 3, 4), "patch": (1, 1, 1)}


def windows(size, window, shifted):
    """For each place of a clip the part of a window in which it lies; along each axis floor((p - shift) / window)."""
    parts = []
    for n, w in zip(size, window, strict=True):
        shift = w // 2 if shifted and n > w else 0
        parts.append([(p - shift) // min(w, n) for p in range(-(-n // min(n, w)) * min(n, w))])
    return parts


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 6, 8), (3, 7, 5), (1, 2, 9)])  # whole windows, filled up, smaller than one
def test_two_tokens_attend_to_each_other_where_their_groups_agree_along_each_axis(size, shifted):
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


def test_windows_see_what_is_in_them_and_shifted_ones_see_across():
    network, video = randomly(models.VideoSwin(classes=3, **SWIN)), torch.randn(1, 4, 3, 6, 8)
    seen = sees(network, video, lambda net, clip: net.layers[0].blocks[0](net.patch_embed(clip)), (0, 1, 1, 2))
    expected = torch.zeros(4, 6, 8, dtype=torch.bool)
    expected[:2, :3, :4] = True
    assert (seen == expected).all()
    seen = sees(network, video, lambda net, clip: net.layers[0].blocks[1](net.patch_embed(clip)), (0, 1, 1, 2))
    expected[:] = False
    expected[1:3, 1:4, 2:6] = True
    assert (seen == expected).all()


def test_four_neighbours_in_space_become_one_token():
    layer, x = randomly(_swin.Merging(2)), torch.randn(1, 2, 3, 4, 2)
    out = layer(x)
    assert out.shape == (1, 2, 2, 2, 4)
    places = [(2, 2), (3, 2), (2, 3), (3, 3)]  # beyond the last row there is nothing
    four = torch.cat([x[0, 1, y, z] if y < 3 else torch.zeros(2) for y, z in places])
    same(out[0, 1, 1, 1], layer.reduction(layer.norm(four)))


def test_a_clip_that_stands_still_gets_from_inflated_weights_what_they_gave_its_frame():
    image = randomly(models.VideoSwin(classes=3, **{**SWIN, "window": (1, 4, 4), "patch": (1, 2, 2)}))
    state = image.state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    network = models.VideoSwin(classes=3, **{**SWIN, "window": (2, 4, 4), "patch": (2, 2, 2)}).eval()
    models.load(network, state)
    frame = torch.randn(1, 1, 3, 18, 14)
    still = network.features(frame.expand(-1, 8, -1, -1, -1))
    same(still, image.features(frame).expand_as(still))


def test_tables_of_smaller_windows_are_made_larger():
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


# --- StarVQA ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("anchors", [range(6), (0, 2.5, 5), [n / 4 for n in range(21)], (-1, 0.5, 1, 7)])
def test_scores_become_vectors_and_come_back_exactly(anchors):
    codebook, scores = models.Codebook(anchors, scores=(1, 5)), torch.linspace(1, 5, 23)
    vectors = codebook.encode(scores)
    m = anchors[0] + (scores - 1) / 4 * (anchors[-1] - anchors[0])
    expected = torch.stack([torch.exp(-((m - b) ** 2)) for b in anchors], -1)
    same(vectors, expected / expected.sum(-1, keepdim=True))
    same(codebook.decode(vectors), scores)
    for i in range(1, len(anchors)):  # each pair of neighbours says it alone, too
        a, b = anchors[i - 1], anchors[i]
        same(((vectors[:, i] / vectors[:, i - 1]).log() / (b - a) + a + b) / 2, m)


def test_the_mean_anchor_is_wrong_at_the_ends():
    codebook = models.Codebook()
    means = (codebook.encode(torch.tensor([0.0, 50, 100])) * torch.arange(6)).sum(-1)
    torch.testing.assert_close(means, torch.tensor([0.292, 2.5, 4.708]), rtol=0, atol=5e-4)


def test_single_precision_and_vectors_of_no_score_are_decoded():
    codebook, scores = models.Codebook(), torch.linspace(0, 100, 11, dtype=torch.float32)
    torch.testing.assert_close(codebook.decode(codebook.encode(scores)), scores, rtol=0, atol=1e-3)
    assert codebook.decode(torch.eye(6)).tolist() == pytest.approx([0, 20, 40, 60, 80, 100])
    assert models.Codebook((0, 1, 5)).decode(torch.eye(3)).tolist() == pytest.approx([0, 20, 100])
    assert codebook.encode(torch.tensor([3, 4])).dtype == torch.float64  # the default, of whole numbers


def test_the_loss_of_vectors_is_that_of_their_angles():
    codebook, vectors, scores = models.Codebook(), torch.rand(4, 6).softmax(-1), torch.tensor([3.0, 40, 77, 100])
    expected = torch.nn.CosineEmbeddingLoss()(vectors, codebook.encode(scores), torch.ones(4))
    same(codebook.loss(vectors, scores), expected)
    assert codebook.loss(codebook.encode(scores), scores).abs() < 1e-12


def test_quality_vectors_sum_to_one():
    network = randomly(models.StarVQA(3, **VIT))
    video = torch.randn(2, 3, 3, 16, 16)
    same(network(video).sum(-1), torch.ones(2))
    same(network.score(video), network.codebook.decode(network(video)))


# --- AVT --------------------------------------------------------------------------------------------
def avt_head(**options):
    return randomly(models.AVTHead(**{"features": 6, "dim": 8, "depth": 2, "heads": 2, "positions": 9, **options}))


def avt(**options):
    return randomly(models.AVT(4, features=6, head={"dim": 8, "depth": 2, "heads": 2, "positions": 9}, **options))


def test_predictions_see_their_frame_and_those_before_and_the_backbone_its_own_frame_only():
    head, x = avt_head(), torch.randn(1, 5, 6, requires_grad=True)
    for t in range(5):
        (grad,) = torch.autograd.grad(head(x)[0, t].sum(), x)
        assert (grad[0].abs().sum(1) > 0).tolist() == [n <= t for n in range(5)]
    frames = sees(randomly(models.ViT(**VIT)), torch.randn(1, 3, 3, 16, 16), lambda net, clip: net(clip), (0, 1))
    assert frames.flatten(1).any(1).tolist() == [False, True, False]


def test_a_causal_block_is_attention_to_what_came_before():
    block, x = avt_head().blocks[0], torch.randn(5, 8)
    z = block.norm1(x)
    y = x + torch.cat([attention(block.attn, z[t : t + 1], z[: t + 1]) for t in range(5)])
    hidden = y + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(y)), approximate="tanh"))
    same(block(x[None], causal=True)[0], hidden)


@pytest.mark.parametrize("frames", [1, 4])
def test_roll_out_is_what_it_is_without_a_cache(frames):
    head, x = avt_head(), torch.randn(2, frames, 6)
    seen, expected = head.encoder(x), []
    for _ in range(5):
        h = seen + head.positions[: seen.shape[1]]
        for block in head.blocks:
            h = block(h, causal=True)
        last = head.norm(h)[:, -1:]
        expected.append(head.decoder(last))
        seen = torch.cat((seen, last), 1)
    same(head.roll_out(x, 5), torch.cat(expected, 1))
    same(head.roll_out(x, 1)[:, 0], head(x)[:, -1])
    with pytest.raises(ShiftsearchError, match=f"past and predicted, is {frames + 9}, expected at most 9"):
        head.roll_out(x, 10)


def test_what_follows_is_classified_alike_in_the_past_and_in_the_future():
    network, z = avt(), torch.randn(2, 3, 6)
    found = network(z)
    predicted = network.head(z)
    same(found.past[:, 0], network.classifier(z[:, 0]))
    same(found.past[:, 2], network.classifier(predicted[:, 1]))
    same(found.future, network.classifier(predicted[:, 2]))
    same(network.roll_out(z, 2)[:, 0], found.future)


@pytest.mark.parametrize("frames", [3, 1])
def test_the_three_losses(frames):
    network, z = avt(), torch.randn(2, frames, 6, requires_grad=True)
    labels, future = torch.randint(4, (2, frames)), torch.tensor([3, 0])
    labels[0, 0] = -1
    found = network(z)
    losses = network.losses(found, labels, future)
    each = [
        -found.past[b, t].log_softmax(-1)[labels[b, t]] for b in range(2) for t in range(frames) if labels[b, t] >= 0
    ]
    same(losses["past"], sum(each) / (2 * frames))
    same(losses["next"], -found.future.log_softmax(-1)[[0, 1], future].mean())
    squares = [(found.predicted[:, t] - z[:, t + 1]) ** 2 for t in range(frames - 1)]
    same(losses["feature"], torch.stack(squares).mean() if squares else torch.tensor(0.0))
    sum(losses.values()).backward()
    assert z.grad.isfinite().all()


def test_features_learn_from_their_prediction_too():
    network, z = avt(), torch.randn(1, 2, 6, requires_grad=True)
    losses = network.losses(network(z), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    (grad,) = torch.autograd.grad(losses["feature"], z)
    assert (grad[0, 1].abs() > 0).all()  # the last feature is a target only
