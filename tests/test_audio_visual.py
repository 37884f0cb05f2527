"""Audio-visual attention: its equations, maps that sum to one, masks of silence, and planted cues."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from loops import randomly, same  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def audio_visual(**options):
    return randomly(models.AudioVisualAttention(4, 5, 3, **{"dim": 6, "heads": 2, **options}))


def test_the_result_equals_the_equations_computed_by_loops():
    network, video, audio = audio_visual(), torch.randn(1, 3, 4, 2, 3), torch.randn(1, 6, 5)
    found = network(video, audio)
    a = [network.audio_norm(network.audio(audio[0, 2 * t : 2 * t + 2].mean(0))) for t in range(3)]
    v = [
        [network.video_norm(network.video(video[0, t, :, y, x])) for y in range(2) for x in range(3)] for t in range(3)
    ]
    where, when, evidence, sound = torch.zeros(3, 6), torch.zeros(2, 3), torch.zeros(3, 6), []
    for own in (slice(0, 3), slice(3, 6)):  # the channels of each head
        S = [
            torch.stack([network.where.q(a[t])[own] @ network.where.k(p)[own] for p in v[t]]) / 3**0.5 for t in range(3)
        ]
        S = torch.stack([one.softmax(0) for one in S])
        values = [[network.where.v(p) for p in v[t]] for t in range(3)]
        s = [sum(S[t, p] * values[t][p][own] for p in range(6)) for t in range(3)]
        where += S / 2
        sound.append((own, S, s, values))
    all_s = [torch.cat([s[t] for _, _, s, _ in sound]) for t in range(3)]
    mean_s, mean_a = sum(all_s) / 3, sum(a) / 3
    pooled_a, pooled_v = [], []
    for own, S, _, values in sound:
        heard = torch.stack(
            [network.when.q(mean_s)[own] @ network.when.k(a[t])[own] / 3**0.5 for t in range(3)]
        ).softmax(0)
        seen = torch.stack(
            [network.when.q(mean_a)[own] @ network.when.k(all_s[t])[own] / 3**0.5 for t in range(3)]
        ).softmax(0)
        when += torch.stack((heard, seen)) / 2
        evidence += seen[:, None] * S / 2
        pooled_a.append(sum(heard[t] * network.when.v(a[t])[own] for t in range(3)))
        pooled_v.append(sum(seen[t] * S[t, p] * values[t][p][own] for t in range(3) for p in range(6)))
    pooled_a, pooled_v = torch.cat(pooled_a), torch.cat(pooled_v)
    same(found.where[0].flatten(1), where)
    same(torch.cat((found.when_heard, found.when_seen)), when)
    same(found.evidence[0].flatten(1), evidence)
    same(found.audio[0], network.cls_a(pooled_a))
    same(found.visual[0], network.cls_v(pooled_v))
    same(found.joint[0], network.cls_av(torch.cat((pooled_a, pooled_v))))


def test_the_state_dict_has_these_names():
    layers = {"video", "audio", "video_norm", "audio_norm", "where.q", "where.v", "when.q", "when.v", "cls_a", "cls_v"}
    layers |= {"cls_av.fc1", "cls_av.fc2"}
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(audio_visual().state_dict()) == names | {"where.k.weight", "when.k.weight"}


@pytest.mark.parametrize("heads", [1, 2])
def test_maps_sum_to_one_and_silent_frames_have_weight_zero(heads):
    network, video, audio = audio_visual(heads=heads), torch.randn(3, 4, 4, 2, 3), torch.randn(3, 8, 5)
    sounds = torch.tensor([[1] * 8, [1, 0, 0, 0, 0, 1, 1, 1], [0] * 8]).bool()
    there = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]])
    found = network(video.requires_grad_(), audio.requires_grad_(), sounds)
    same(found.where.sum((2, 3)), there.double())
    for weights in (found.when_heard, found.when_seen, found.evidence.flatten(2).sum(2)):
        assert (weights[there == 0] == 0).all()
        same(weights.sum(1), torch.tensor([1.0, 1, 0]))
    network.loss(found, torch.tensor([0, 1, 2])).backward()
    assert video.grad.isfinite().all()
    assert (audio.grad[~sounds] == 0).all()
    assert (video.grad[there == 0] == 0).all()
    alone = network(video[1:2, [0, 2, 3]], audio[1:2, [0, 1, 4, 5, 6, 7]], sounds[1:2, [0, 1, 4, 5, 6, 7]])
    same(alone.joint, found.joint[1:2])  # the same as without the silent frame


def test_permuted_places_and_frames_permute_the_maps():
    network, video, audio = audio_visual(), torch.randn(1, 3, 4, 2, 3), torch.randn(1, 3, 5)
    found, turned = network(video, audio), network(video.flip(1, 3, 4), audio.flip(1))
    same(turned.joint, found.joint)
    same(turned.evidence, found.evidence.flip(1, 2, 3))
    same(turned.when_heard, found.when_heard.flip(1))


def test_the_evidence_is_largest_at_a_planted_cue():
    """The sound matches the video in one frame and at one place only."""
    network = audio_visual(heads=1)
    for layer in (network.where.q, network.where.k, network.when.q, network.when.k):
        layer.weight.data = 6 * torch.eye(6)
        if layer.bias is not None:
            layer.bias.data.zero_()
    network.where.v.weight.data, network.where.v.bias.data = torch.eye(6), torch.zeros(6)
    video, audio = torch.zeros(1, 5, 4, 3, 4), torch.zeros(1, 5, 5)
    network.video.weight.data, network.audio.weight.data = torch.eye(6, 4), torch.eye(6, 5)
    network.video.bias.data, network.audio.bias.data = 0.01 * torch.randn(6), 0.01 * torch.randn(6)
    for norm in (network.video_norm, network.audio_norm):
        norm.weight.data, norm.bias.data = torch.ones(6), torch.zeros(6)
    video[:, :, 3], audio[:, :, 4] = 1, 1  # features elsewhere match no others
    video[0, 2, :, 1, 3], audio[0, 2] = torch.eye(4)[0], torch.eye(5)[0]
    found = network(video, audio)
    at = found.evidence.argmax().item()
    assert (at // 12, at // 4 % 3, at % 4) == (2, 1, 3)
    assert found.where[0, 2, 1, 3] > 0.99
    large = found.enlarged(9, 16)
    assert divmod(large[0, 2].argmax().item() // 16, 3)[0] == 1
