"""AVT: causality, the cache, and the losses."""

from __future__ import annotations

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from loops import VIT, attention, randomly, same, sees  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


def avt_head(**options):
    return randomly(models.AVTHead(**{"features": 6, "dim": 8, "depth": 2, "heads": 2, "positions": 9, **options}))


def avt(**options):
    return randomly(models.AVT(4, features=6, head={"dim": 8, "depth": 2, "heads": 2, "positions": 9}, **options))


def test_the_head_is_causal_and_the_backbone_sees_single_frames():
    head, x = avt_head(), torch.randn(1, 5, 6, requires_grad=True)
    for t in range(5):
        (grad,) = torch.autograd.grad(head(x)[0, t].sum(), x)
        assert (grad[0].abs().sum(1) > 0).tolist() == [n <= t for n in range(5)]
    frames = sees(randomly(models.ViT(**VIT)), torch.randn(1, 3, 3, 16, 16), lambda net, clip: net(clip), (0, 1))
    assert frames.flatten(1).any(1).tolist() == [False, True, False]


def test_a_causal_block_equals_attention_computed_by_loops():
    block, x = avt_head().blocks[0], torch.randn(5, 8)
    z = block.norm1(x)
    y = x + torch.cat([attention(block.attn, z[t : t + 1], z[: t + 1]) for t in range(5)])
    hidden = y + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(y)), approximate="tanh"))
    same(block(x[None], causal=True)[0], hidden)


@pytest.mark.parametrize("frames", [1, 4])
def test_roll_out_with_a_cache_equals_that_without(frames):
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


def test_one_classifier_serves_past_and_future():
    network, z = avt(), torch.randn(2, 3, 6)
    found = network(z)
    predicted = network.head(z)
    same(found.past[:, 0], network.classifier(z[:, 0]))
    same(found.past[:, 2], network.classifier(predicted[:, 1]))
    same(found.future, network.classifier(predicted[:, 2]))
    same(network.roll_out(z, 2)[:, 0], found.future)


@pytest.mark.parametrize("frames", [3, 1])
def test_the_three_losses_equal_their_formulas(frames):
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


def test_the_feature_loss_has_gradients_to_its_target():
    network, z = avt(), torch.randn(1, 2, 6, requires_grad=True)
    losses = network.losses(network(z), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    (grad,) = torch.autograd.grad(losses["feature"], z)
    assert (grad[0, 1].abs() > 0).all()  # the last feature is never an input of a prediction, only a target
