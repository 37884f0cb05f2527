"""Frames that are given: each frame looks at them, in its own clip or in another one."""

from __future__ import annotations

import numpy as np
import pytest

import shiftsearch as ss

OPTIONS = [
    {"window": 5},
    {"window": (1, 4), "even": "before", "patch": 3, "subpixel": True, "step": 0.5},
    {"stride": 2, "anchor": "flow", "topk": 2, "slide": False},
    {"heads": 2, "border": "zeros", "metric": "dot", "per_frame": True, "topk": 3},
]
FRAMES = [[0, 1, 1], [3, 0, 2], [2, 2, 2]]  # of 4, for each of 3


@pytest.fixture
def clips(rng):
    return tuple(rng.standard_normal((T, C, 6, 7)) for T, C in ((3, 4), (4, 4), (4, 6)))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_frames_around_are_those_that_are_looked_at_without_a_word(options, rng):
    q, k = rng.standard_normal((2, 4, 4, 8, 9))
    around, at = ss.neighbours(4, 1), np.s_[..., :: options.get("stride", 1), :: options.get("stride", 1)]
    flow = 3 * rng.standard_normal((4, 3, 2, 8, 9))[at]
    flow[:, 0] = 0  # a search follows none in the own frame
    for given, usual in ((flow, flow[:, 1:]), (None, None)):
        found = ss.search(q, k, given, frames=around, **options)
        for one, other in zip(found, ss.search(q, k, usual, **options), strict=True):
            np.testing.assert_array_equal(one, other)


def all_pairs(q, k, v, frames, window, flow=None):
    """Dot-product attention by loops: each pixel to the window around where the flow leads in each of its frames."""
    (T, C, H, W), out = q.shape, np.zeros((len(q), v.shape[1], *q.shape[2:]))
    for t, y, x in np.ndindex(T, H, W):
        pixels = []
        for s, frame in enumerate(frames[t]):
            dx, dy = (0, 0) if flow is None else flow[t, s, :, y, x]
            rows, columns = (
                range(max(0, min(at + d - n // 2, size - n)), max(0, min(at + d - n // 2, size - n)) + n)
                for at, d, n, size in zip((y, x), (int(dy), int(dx)), window, (H, W), strict=True)
            )
            pixels += [(frame, i, j) for i in rows for j in columns]
        logits = np.array([q[t, :, y, x] @ k[f, :, i, j] for f, i, j in pixels]) / np.sqrt(C)
        weights = np.exp(logits - logits.max())
        values = [v[f, :, i, j] for f, i, j in pixels]
        out[t, :, y, x] = weights @ values / weights.sum()
    return out


@pytest.mark.parametrize("moves", [False, True])
def test_attention_between_clips_is_that_of_all_pairs(clips, moves, rng):
    q, k, v = clips
    flow = None
    if moves:  # that stays inside
        y, x = np.indices((6, 7))
        flow = np.stack([rng.integers(-x, 7 - x, (3, 3, 6, 7)), rng.integers(-y, 6 - y, (3, 3, 6, 7))], 2).astype(float)
    out = ss.attend(q, k, v, flow, frames=FRAMES, window=(3, 1), topk=None, metric="dot")
    np.testing.assert_allclose(out, all_pairs(q, k, v, FRAMES, (3, 1), flow), rtol=1e-12)


def test_time_of_an_offset_is_counted_from_the_number_of_the_query(clips):
    q, k, v = clips
    scores, offsets = ss.search(q, k, frames=FRAMES, window=1, topk=None)
    assert scores.shape == (1, 3, 6, 7, 3)
    assert (offsets[..., 0] == (np.array(FRAMES) - np.arange(3)[:, None])[:, None, None]).all()
    t, y, x = (i[..., None] for i in np.indices((3, 6, 7)))
    there = k[t + offsets[0, ..., 0], :, y, x]
    np.testing.assert_allclose(scores[0], ((q[t, :, y, x] - there) ** 2).sum(-1))
    np.testing.assert_allclose(ss.score(q, k, offsets), scores)
    for op in (ss.gather, ss.stack):
        assert np.isin(op(v, offsets), v).all()
    weights = np.ones_like(scores) / 3
    expected = v[FRAMES].mean(1)
    np.testing.assert_allclose(ss.aggregate(v, weights, offsets), expected)


def test_tensors_have_the_gradients_of_what_was_looked_at(clips, rng):
    torch = pytest.importorskip("torch")
    q, k, v = (torch.tensor(clip[:, :2, :3, :4], requires_grad=True) for clip in clips)
    flow = torch.tensor(rng.uniform(0.1, 0.4, (3, 3, 2, 3, 4)), requires_grad=True)
    scales = torch.tensor([0.7, 1.2], dtype=torch.float64, requires_grad=True)
    options = {"window": (1, 2), "topk": 4, "subpixel": True, "heads": 2, "patch": 2}

    def attended(q, k, v, flow, scales):
        return ss.attend(q, k, v, flow, scales, frames=torch.tensor(FRAMES), **options)

    assert torch.autograd.gradcheck(attended, (q, k, v, flow, scales), fast_mode=True)
    numpy = ss.attend(*(x.detach().numpy() for x in (q, k, v, flow, scales)), frames=FRAMES, **options)
    np.testing.assert_allclose(attended(q, k, v, flow, scales).detach().numpy(), numpy)
    compiled = torch.compile(attended, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, flow, scales), attended(q, k, v, flow, scales))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([[0]], r"int64 of shape \(1, 1\), expected whole numbers of shape \(3, S\)"),
        ([[0.5]] * 3, "float64 of shape"),
        ([[True]] * 3, "bool of shape"),
        ([[]] * 3, r"of shape \(3, 0\)"),
        ([[0], [1, 2], [0]], "expected whole numbers"),
        ([[0], [1], [4]], "are 0 to 4, expected some of 0 to 3, as k has 4"),
        ([[0], [-1], [3]], "are -1 to 3"),
    ],
)
def test_frames_that_are_not_there_are_refused(frames, expected, clips):
    with pytest.raises(ss.ShiftsearchError, match=f"^search: frames .*{expected}"):
        ss.search(*clips[:2], frames=frames)


def test_other_mistakes_are_told(clips):
    q, k, v = clips
    flow = np.zeros((3, 2, 2, 6, 7))
    for call, expected in (
        (lambda: ss.search(q, k), r"k has shape \(4, 4, 6, 7\), expected \(T=3"),
        (lambda: ss.search(q, k, flow, frames=FRAMES), r"flow has shape .*, expected \(3, 3, 2, 6, 7\)"),
        (lambda: ss.search(q, k, (flow, flow), frames=FRAMES), "flow is a tuple, expected an array"),
        (lambda: ss.search(q, k, frames=FRAMES, skip="own_frame"), "skip is 'own_frame', expected one of None, 'self'"),
        (lambda: ss.attend(q, k, v[:3], frames=FRAMES), "v has shape .*, expected .* as k"),
        (lambda: ss.attend(q, k, v, frames=FRAMES, scale="1"), "scale is '1', expected a number"),
    ):
        with pytest.raises(ss.ShiftsearchError, match=expected):
            call()
