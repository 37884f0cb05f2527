"""StarVQA: the code of scores, its exact inverse, and its loss."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from loops import VIT, randomly, same  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_doubles")


@pytest.mark.parametrize("anchors", [range(6), (0, 2.5, 5), [n / 4 for n in range(21)], (-1, 0.5, 1, 7)])
def test_decode_is_the_exact_inverse_of_encode(anchors):
    codebook, scores = models.Codebook(anchors, scores=(1, 5)), torch.linspace(1, 5, 23)
    vectors = codebook.encode(scores)
    m = anchors[0] + (scores - 1) / 4 * (anchors[-1] - anchors[0])
    expected = torch.stack([torch.exp(-((m - b) ** 2)) for b in anchors], -1)
    same(vectors, expected / expected.sum(-1, keepdim=True))
    same(codebook.decode(vectors), scores)
    for i in range(1, len(anchors)):  # any pair of neighbouring anchors determines the score
        a, b = anchors[i - 1], anchors[i]
        same(((vectors[:, i] / vectors[:, i - 1]).log() / (b - a) + a + b) / 2, m)


def test_the_expected_anchor_is_biased_at_both_ends():
    codebook = models.Codebook()
    means = (codebook.encode(torch.tensor([0.0, 50, 100])) * torch.arange(6)).sum(-1)
    torch.testing.assert_close(means, torch.tensor([0.292, 2.5, 4.708]), rtol=0, atol=5e-4)


def test_decode_takes_single_precision_and_one_hot_vectors():
    codebook, scores = models.Codebook(), torch.linspace(0, 100, 11, dtype=torch.float32)
    torch.testing.assert_close(codebook.decode(codebook.encode(scores)), scores, rtol=0, atol=1e-3)
    assert codebook.decode(torch.eye(6)).tolist() == pytest.approx([0, 20, 40, 60, 80, 100])
    assert models.Codebook((0, 1, 5)).decode(torch.eye(3)).tolist() == pytest.approx([0, 20, 100])
    assert (
        codebook.encode(torch.tensor([3, 4])).dtype == torch.float64
    )  # scores that are integers have codes of the default dtype


def test_the_loss_is_one_minus_the_cosine():
    codebook, vectors, scores = models.Codebook(), torch.rand(4, 6).softmax(-1), torch.tensor([3.0, 40, 77, 100])
    expected = torch.nn.CosineEmbeddingLoss()(vectors, codebook.encode(scores), torch.ones(4))
    same(codebook.loss(vectors, scores), expected)
    assert codebook.loss(codebook.encode(scores), scores).abs() < 1e-12


def test_predicted_probabilities_sum_to_one_and_score_decodes_them():
    network = randomly(models.StarVQA(3, **VIT))
    video = torch.randn(2, 3, 3, 16, 16)
    same(network(video).sum(-1), torch.ones(2))
    same(network.score(video), network.codebook.decode(network(video)))
