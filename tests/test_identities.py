"""Laws that the ops obey, small examples by hand, and a second search written from its documentation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch._op import OPS

pytestmark = pytest.mark.usefixtures("poisoned")


def close(found, expected, atol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# --- a search from the words of the specification ---------------------------------------------------
def plain_search(q, k, flow, window, patch, radius, topk):
    """l2, reflected border, whole pixels, sliding window, for one head of a clip (T, C, H, W)."""
    T, _, H, W = q.shape
    pad = 2 * patch + 1
    wide = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    q, k = np.pad(q, wide, "reflect"), np.pad(k, wide, "reflect")
    order, half = ss.neighbours(T, radius), (window - 1) // 2
    scores, offsets = np.zeros((T, H, W, topk)), np.zeros((T, H, W, topk, 3), int)

    def cut(video, t, y, x):
        y, x = y + pad - patch // 2, x + pad - patch // 2
        return video[t, :, y : y + patch, x : x + patch]

    def mirrored(a, n):
        while not 0 <= a < n:
            a = -a if a < 0 else 2 * (n - 1) - a
        return a

    def low_end(centre, n):
        low, high = centre - half, centre - half + window - 1
        if low < 0:
            return 0
        return low - (high - (n - 1)) if high > n - 1 else low

    for t, y, x in product(range(T), range(H), range(W)):
        found = []
        for slot, frame in enumerate(order[t]):
            dx, dy = (0, 0) if slot == 0 else np.rint(flow[t, slot - 1, :, y, x]).astype(int)
            top, left = low_end(mirrored(y + dy, H), H), low_end(mirrored(x + dx, W), W)
            for i, j in product(range(window), repeat=2):
                pair = cut(q, t, y, x) - cut(k, frame, top + i, left + j)
                found.append(((pair**2).sum(), (frame - t, top + i - y, left + j - x)))
        best = sorted(range(len(found)), key=lambda n: (found[n][0], n))[:topk]
        scores[t, y, x], offsets[t, y, x] = [found[n][0] for n in best], [found[n][1] for n in best]
    return scores, offsets


@pytest.mark.parametrize(("window", "patch", "radius"), [(3, 3, 1), (4, 2, 1), (5, 1, 2), (2, 4, 0), (4, 7, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_search_follows_its_documentation(window, patch, radius, dtype, rng):
    """On whole numbers, where sums are exact and ties are many."""
    q, k = rng.integers(-3, 4, (2, 5, 2, 9, 11))
    flow = rng.integers(-16, 17, (5, 2 * radius, 2, 9, 11)) / 2
    expected = plain_search(q, k, flow, window, patch, radius, 4)
    found = ss.search(
        q.astype(dtype), k.astype(dtype), flow.astype(dtype), window=window, patch=patch, radius=radius, topk=4
    )
    equal((found[0][0], found[1][0]), expected)


def test_a_window_at_the_border_slides_inward():
    """Row 0 of 7 with a window of 3 is searched in rows 0..2, row 6 in 4..6; an even window reaches further down."""
    k = np.zeros((1, 1, 7, 1))

    def rows(y, window, **options):
        _, offsets = ss.search(k, k, window=window, radius=0, topk=None, **options)
        return offsets[0, 0, y, 0, ::window, 1].tolist()

    assert rows(0, 3) == [0, 1, 2]
    assert rows(3, 3) == [-1, 0, 1]
    assert rows(6, 3) == [-2, -1, 0]
    assert rows(3, 4) == [-1, 0, 1, 2]
    assert rows(0, 4) == [0, 1, 2, 3]
    assert rows(5, 4) == [-2, -1, 0, 1]
    assert rows(3, 4, even="before") == [-2, -1, 0, 1]
    assert rows(1, 4, even="before") == rows(1, 4) == [-1, 0, 1, 2]
    assert rows(6, 4, even="before", slide=False) == [-2, -1, 0, 1]
    assert rows(3, 3, even="before") == [-1, 0, 1]
    assert rows(1, 3, step=2) == [0, 2, 4]  # by whole steps: row 1 - 2 is outside, row 1 is not
    assert rows(2, 3, step=2) == [-2, 0, 2]
    assert rows(5, 3, step=2) == [-4, -2, 0]
    assert rows(0, 3, slide=False) == [-1, 0, 1]
    assert rows(0, 9) == list(range(-2, 7))  # larger than the frame: ends with it


def test_candidates_outside_are_infinite():
    k = np.ones((1, 1, 4, 5))
    for metric, worst in (("l2", np.inf), ("dot", -np.inf)):
        scores, offsets = ss.search(k, k, window=3, radius=0, topk=None, slide=False, metric=metric)
        y, x = np.indices((4, 5))[:, None, ..., None] + np.moveaxis(offsets[0, ..., 1:], -1, 0)
        outside = (y < 0) | (y > 3) | (x < 0) | (x > 4)
        np.testing.assert_array_equal(scores[0] == worst, outside)
        assert outside.any()


def test_candidates_may_lie_outside_a_border_of_zeros():
    k = np.ones((1, 1, 4, 5))
    flow = np.full((1, 2, 4, 5), 100.0)
    scores, offsets = ss.match(k[:, 0], k[:, 0], flow, window=1, topk=1, border="zeros", metric="dot")
    assert (scores == 0).all()
    assert (offsets == 100).all()


# --- neighbours and flow ----------------------------------------------------------------------------
def test_frames_look_at_themselves_then_later_then_earlier():
    assert ss.neighbours(5, 1).tolist() == [[0, 1, 2], [1, 2, 0], [2, 3, 1], [3, 4, 2], [4, 3, 2]]
    assert ss.neighbours(5, 2)[2].tolist() == [2, 3, 4, 1, 0]
    assert ss.neighbours(3, 0).tolist() == [[0], [1], [2]]
    for T, radius in product(range(1, 9), range(4)):
        if 2 * radius < T:
            order = ss.neighbours(T, radius)
            assert all(
                len(set(line)) == 2 * radius + 1 and max(line) - min(line) == 2 * radius for line in order.tolist()
            )


def test_constant_flow_chains_to_its_multiple():
    forward = np.broadcast_to(np.array([1.25, -0.5])[:, None, None], (6, 2, 5, 7))
    backward = -forward
    flow = ss.chain_flow(forward, backward, radius=2, stride=2)
    assert flow.shape == (6, 4, 2, 3, 4)
    frames = ss.neighbours(6, 2) - np.arange(6)[:, None]
    close(flow, frames[:, 1:, None, None, None] * np.array([1.25, -0.5])[:, None, None] + np.zeros((3, 4)))


def test_chained_flow_follows_the_trajectory(rng):
    """With integer flow inside the frame, a trajectory goes from pixel to pixel."""
    forward, backward = rng.integers(-1, 2, (2, 3, 2, 9, 9)).astype(float)
    flow = ss.chain_flow(forward, backward, radius=1)
    for y, x in product(range(2, 7), repeat=2):
        dx, dy = forward[0, :, y, x].astype(int)
        close(flow[0, 1, :, y, x], [dx, dy] + forward[1, :, y + dy, x + dx])


def test_search_chains_a_pair_of_flows(rng):
    q, forward, backward = rng.standard_normal((5, 2, 6, 7)), *rng.standard_normal((2, 5, 2, 6, 7))
    options = {"window": 3, "topk": 4, "stride": 2, "radius": 2}
    chained = ss.chain_flow(forward, backward, radius=2, stride=2)
    equal(ss.search(q, q, (forward, backward), **options), ss.search(q, q, chained, **options))


def test_upsampled_flow_is_in_pixels_of_the_larger_frame(rng):
    constant = np.broadcast_to(np.array([1.0, -2.0])[:, None, None], (2, 3, 5))
    close(ss.upsample_flow(constant, (12, 10)), np.array([2.0, -8.0])[:, None, None] + np.zeros((12, 10)))
    flow = rng.standard_normal((2, 3, 2, 4, 5)).astype(np.float32)
    equal([ss.upsample_flow(flow, (4, 5))], [flow])
    torch = pytest.importorskip("torch")
    scaled = torch.nn.functional.interpolate(torch.from_numpy(flow[0]), (12, 20), mode="bilinear") * torch.tensor(
        [4.0, 3.0]
    ).reshape(2, 1, 1)
    close(ss.upsample_flow(flow, (12, 20))[0], scaled.numpy(), 1e-5)


# --- search, score and their relations --------------------------------------------------------------
@pytest.mark.parametrize("patch", [1, 3, 4])
@pytest.mark.parametrize("fraction", [0, 0.25])
def test_l2_is_squares_minus_two_dots(patch, fraction, rng):
    q, k = rng.standard_normal((2, 3, 4, 6, 7))
    offsets = rng.integers(-3, 4, (2, 3, 6, 7, 5, 3)) + fraction
    offsets[..., 0] -= fraction
    options = {"patch": patch, "heads": 2}
    at_k = ss.gather(k, offsets, **options)
    here = ss.gather(q, np.zeros_like(offsets), **options)
    squares = (at_k**2).sum((-1, -2, -3)) + (here**2).sum((-1, -2, -3))
    dots = ss.score(q, k, offsets, metric="dot", **options)
    close(ss.score(q, k, offsets, **options), squares - 2 * dots)
    close(dots, (at_k * here).sum((-1, -2, -3)))


OPTIONS = [
    {},
    {"metric": "dot", "stride": 2},
    {"subpixel": True},
    {"border": "zeros", "per_frame": True},
    {"anchor": "flow"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_heads_are_separate_searches(options, rng):
    q, k = rng.standard_normal((2, 2, 3, 6, 6, 7))
    size = (6 - 1) // options.get("stride", 1) + 1, (7 - 1) // options.get("stride", 1) + 1
    flow = rng.standard_normal((2, 3, 3, 2, 2, *size))
    options = {"window": 3, "patch": 2, "topk": 4, **options}
    together = ss.search(q, k, flow, heads=3, **options)
    for g in range(3):
        part = np.s_[:, :, 2 * g : 2 * g + 2]
        scores, offsets = ss.search(q[part], k[part], flow[:, g], **options)
        close(scores[:, 0], together[0][:, g])
        equal([offsets[:, 0]], [together[1][:, g]])


def test_flow_comes_in_many_forms(rng):
    """Per frame or as a pair, with heads or without, with a batch axis or without: the same search."""
    q, k = rng.standard_normal((2, 2, 5, 4, 6, 7))
    forward, backward = rng.standard_normal((2, 2, 5, 2, 6, 7)) * 2
    flow = ss.chain_flow(forward, backward, radius=1)
    options = {"heads": 2, "window": 3, "topk": 3}
    expected = ss.search(q, k, flow, **options)
    for form in ((forward, backward), [forward, backward], flow[:, None], np.stack([flow, flow], 1)):
        equal(ss.search(q, k, form, **options), expected)
    first = [array[0] for array in expected]
    for form in ((forward[0], backward[0]), flow[0], flow[0][None], np.stack([flow[0], flow[0]])):
        equal(ss.search(q[0], k[0], form, **options), first)
    flow = flow[:, 0, 0]
    expected = ss.match(q[:, 0], k[:, 0], flow, **options)
    for form in (flow[:, None], np.stack([flow, flow], 1)):
        equal(ss.match(q[:, 0], k[:, 0], form, **options), expected)
    first = [array[0] for array in expected]
    for form in (flow[0], flow[0][None], np.stack([flow[0], flow[0]])):
        equal(ss.match(q[0, 0], k[0, 0], form, **options), first)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_is_separate_searches(options, rng):
    q, k = rng.standard_normal((2, 2, 3, 2, 5, 6))
    options = {"window": 3, "patch": 3, "topk": 4, **options}
    together = ss.search(q, k, **options)
    for b in range(2):
        alone = ss.search(q[b], k[b], **options)
        assert alone[0].ndim == together[0].ndim - 1
        close(alone[0], together[0][b])
        equal(alone[1:], [together[1][b]])


def test_a_missing_batch_axis_is_missing_in_results(rng):
    v, offsets = rng.standard_normal((3, 4, 5, 6)), rng.integers(-2, 3, (2, 3, 5, 6, 3, 3))
    weights = rng.standard_normal(offsets.shape[:-1])
    patches = ss.gather(v, offsets, patch=2, heads=2)
    calls = {
        "gather": lambda *a: ss.gather(*a, patch=2, heads=2),
        "aggregate": lambda v, offsets: ss.aggregate(v, weights[(None,) * (v.ndim - 4)], offsets),
        "stack": ss.stack,
        "scatter": lambda v, offsets: ss.scatter(v, weights[(None,) * (v.ndim - 4)], offsets),
        "refine": lambda v, offsets: ss.refine(v, v, offsets, heads=2)[1],
        "score": lambda v, offsets: ss.score(v, v, offsets, heads=2),
        "fold": lambda v, offsets: ss.fold(patches[(None,) * (v.ndim - 4)], offsets, size=(3, 5, 6))[0],
        "chain_flow": lambda v, offsets: ss.chain_flow(v[..., :2, :, :], v[..., 2:, :, :], radius=1),
    }
    for call in calls.values():
        whole = call(v[None], offsets[None])
        assert whole.shape[0] == 1
        equal([call(v, offsets)], [whole[0]])


@pytest.mark.parametrize("options", [{}, {"patch": 3, "metric": "dot"}, {"border": "zeros"}, {"penalty": 0.5}], ids=str)
def test_whole_flow_finds_the_same_with_and_without_subpixel(options, rng):
    q, k = rng.standard_normal((2, 3, 3, 6, 7))
    flow = rng.integers(-3, 4, (3, 2, 2, 6, 7)).astype(float)
    options = {"window": 3, "topk": 5, **options}
    whole, fractional = (ss.search(q, k, flow, subpixel=subpixel, **options) for subpixel in (False, True))
    assert whole[1].dtype == np.int32
    assert fractional[1].dtype == np.float64
    close(whole[0], fractional[0])
    equal([whole[1]], [fractional[1]])


@pytest.mark.parametrize("patch", [1, 2, 5])
def test_search_finds_the_pixels_that_moved(patch, rng):
    q = rng.standard_normal((3, 2, 10, 12))
    k = np.roll(q, (1, -2), (-2, -1))
    scores, offsets = ss.search(q, k, window=5, patch=patch, topk=1)
    inside = np.s_[:, :, 3:-3, 4:-4]
    close(scores[inside], 0)
    assert (offsets[inside] == [0, 1, -2]).all()


def test_match_finds_the_pixels_that_moved_by_more_than_the_window(rng):
    q = rng.standard_normal((3, 20, 24))
    k = np.roll(q, (6, -7), (-2, -1))
    flow = np.broadcast_to(np.array([-6.0, 5.0])[:, None, None], (2, 20, 24))
    _, offsets = ss.match(q, k, flow, window=3, patch=3, topk=1)
    assert (offsets[0, 2:-9, 9:-2] == [6, -7]).all()


def test_match_is_a_search_of_one_frame(rng):
    q, k = rng.standard_normal((2, 2, 1, 4, 6, 7))
    options = {"window": 4, "patch": 3, "topk": 5, "heads": 2}
    scores, offsets = ss.search(q, k, radius=0, **options)
    equal(ss.match(q[:, 0], k[:, 0], **options), (scores[:, :, 0], offsets[:, :, 0, ..., 1:]))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("window", "topk"), [(1, 1), (3, 1), (3, 4), (4, 9), (4, 16), (5, 1), (5, 5), (6, 2), (7, 1)])
def test_a_match_of_many_pairs_is_that_of_each(window, topk, dtype, heads, rng):
    """With ties and NaN: both must rank alike, by vector code or not."""
    q, k = rng.integers(0, 2, (2, 3, 2, 12, 17)).astype(dtype)
    k[0, 0, 5, 5], k[2] = np.nan, np.inf
    flow = rng.integers(-2, 3, (3, heads, 2, 6, 9)).astype(dtype)
    options = {"window": window, "topk": topk, "patch": 2, "stride": 2, "heads": heads}
    scores, offsets = ss.match(q, k, flow, **options)
    for n in range(3):
        one, places = ss.match(q[n : n + 1], k[n : n + 1], flow[n : n + 1], **options)
        np.testing.assert_array_equal(scores[n : n + 1], one)
        np.testing.assert_array_equal(offsets[n : n + 1], places)
    every = ss.match(q, k, flow, **{**options, "topk": None})[0]
    np.testing.assert_array_equal(scores, np.sort(every, -1)[..., :topk])


def test_match_reads_fine_queries_where_coarse_ones_are(rng):
    q, k = rng.standard_normal((2, 3, 5, 6))
    fine = np.kron(q, np.ones((2, 2)))
    close(ss.match(fine, k, window=3, topk=4)[0], ss.match(q, k, window=3, topk=4)[0])


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("subpixel", [False, True])
def test_score_at_kept_offsets_is_their_score(metric, border, subpixel, rng):
    q, k = rng.standard_normal((2, 3, 4, 6, 7))
    flow = rng.integers(-200, 200, (3, 2, 2, 6, 7)) / 64
    options = {"patch": 3, "heads": 2, "dilation": 2, "metric": metric, "border": border}
    scores, offsets = ss.search(q, k, flow, window=3, topk=9, subpixel=subpixel, **options)
    close(ss.score(q, k, offsets, **options), scores)


def test_the_caller_is_named_and_decides_nothing():
    options = {"skip": "self", "window": 3}
    others, own = (OPS["search"].specify(**options, **caller) for caller in ({"caller": "attend"}, {}))
    assert (others.caller, own.caller) == ("attend", "search")
    assert others.removes_self
    assert own.removes_self
    assert others.kept(others.search_slots()) == own.kept(own.search_slots()) == 10
    with pytest.raises(ShiftsearchError, match="attend: window is 0, expected a whole number"):
        OPS["search"].specify(caller="attend", window=0)


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("topk", [1, 7, 30, 75])
def test_kept_candidates_are_different_and_best_first(metric, topk, rng):
    q, k = rng.standard_normal((2, 3, 2, 8, 7))
    scores, offsets = ss.search(q, k, window=5, topk=topk, metric=metric)
    better = np.diff(scores) if metric == "l2" else -np.diff(scores)
    assert (better >= 0).all()
    whole = ss.search(q, k, window=5, topk=None, metric=metric)[0]
    best = np.sort(whole) if metric == "l2" else -np.sort(-whole)
    close(best[..., :topk], scores)
    flat = offsets.reshape(-1, topk, 3)
    assert all(len(np.unique(places, axis=0)) == topk for places in flat)


def test_all_candidates_come_in_slot_row_column_order(rng):
    q = rng.standard_normal((3, 1, 6, 7))
    _, offsets = ss.search(q, q, window=3, topk=None)
    frames = ss.neighbours(3, 1) - np.arange(3)[:, None]
    for t in range(3):
        expected = [[dt, i, j] for dt in frames[t] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        assert offsets[0, t, 3, 3].tolist() == expected


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("options", [{}, {"patch": 3}, {"window": 4}, {"subpixel": True}, {"border": "zeros"}], ids=str)
def test_equal_candidates_come_in_the_order_of_the_window(metric, options):
    """In a constant image all places are alike, except near a border of zeros."""
    q = np.full((3, 2, 11, 12), 0.5, np.float32)
    options = {"window": 3, **options}
    whole = ss.search(q, q, topk=None, metric=metric, **options)
    inside = np.s_[:, :, 4:7, 4:8]
    for topk in (1, 5, 20):
        kept = ss.search(q, q, topk=topk, metric=metric, **options)
        equal([a[inside] for a in kept], [whole[0][inside][..., :topk], whole[1][inside][..., :topk, :]])
    by_frame = ss.search(q, q, topk=2, per_frame=True, metric=metric, **options)[1]
    n = options["window"] ** 2
    picks = [slot * n + i for slot in range(3) for i in range(2)]
    equal([by_frame[inside]], [whole[1][inside][..., picks, :]])


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_per_frame_is_a_search_in_each_frame(metric, rng):
    q, k = rng.standard_normal((2, 4, 2, 5, 6))
    flow = rng.standard_normal((4, 2, 2, 5, 6)) * 2
    scores, offsets = ss.search(q, k, flow, window=3, topk=2, per_frame=True, metric=metric)
    order = ss.neighbours(4, 1)
    for t, slot in product(range(4), range(3)):
        towards = None if slot == 0 else flow[t, slot - 1]
        alone = ss.match(q[t], k[order[t, slot]], towards, window=3, topk=2, metric=metric)
        here = np.s_[2 * slot : 2 * slot + 2]
        close(alone[0][0], scores[0, t, ..., here])
        equal([alone[1][0]], [offsets[0, t, ..., here, 1:]])
        assert (offsets[0, t, ..., here, 0] == order[t, slot] - t).all()


def test_a_penalty_keeps_the_flow_in_a_constant_image(rng):
    q = np.ones((3, 1, 7, 8))
    flow = rng.integers(-1, 2, (3, 2, 2, 7, 8)).astype(float)
    for metric in ("l2", "dot"):
        _, offsets = ss.search(q, q, flow, window=5, topk=1, per_frame=True, penalty=1e-3, metric=metric)
        inside = np.s_[:, 1:-1, 1:-1]
        np.testing.assert_array_equal(offsets[0][inside][..., 1:, :0:-1], np.moveaxis(flow, (1, 2), (3, 4))[inside])
        assert (offsets[0][..., 0, :] == 0).all()


def test_a_penalty_ranks_and_does_not_score(rng):
    q, k = rng.standard_normal((2, 1, 2, 9, 9))
    scores, offsets = ss.search(q, k, window=5, radius=0, topk=None, slide=False)
    ranks = scores + 0.3 * (offsets**2).sum(-1)
    best = np.argsort(ranks, -1, kind="stable")[..., :6]
    found = ss.search(q, k, window=5, radius=0, topk=6, slide=False, penalty=0.3)
    close(found[0], np.take_along_axis(scores, best, -1))
    equal([found[1]], [np.take_along_axis(offsets, best[..., None], -2)])


def test_anchor_self_comes_first_and_the_best_others_follow(rng):
    q, k = rng.standard_normal((2, 3, 2, 5, 6))
    scores, offsets = ss.search(q, k, window=3, topk=5, anchor="self")
    assert (offsets[..., 0, :] == 0).all()
    others = ss.search(q, k, window=3, topk=4, skip="self")
    close(scores[..., 1:], others[0])
    equal([offsets[..., 1:, :]], [others[1]])


def test_anchor_flow_puts_the_centre_of_each_frame_first(rng):
    q, k = rng.standard_normal((2, 3, 2, 7, 8))
    flow = rng.integers(-6, 7, (3, 2, 2, 7, 8)) / 2
    scores, offsets = ss.search(q, k, flow, window=3, topk=2, anchor="flow")
    assert scores.shape[-1] == 6
    y, x = np.indices((7, 8))
    reflect = lambda a, n: np.abs((a + n - 1) % (2 * n - 2) - (n - 1))  # noqa: E731
    places = reflect(y + np.rint(flow[:, :, 1]), 7) - y, reflect(x + np.rint(flow[:, :, 0]), 8) - x
    np.testing.assert_array_equal(offsets[0, ..., 2::2, 1:], np.moveaxis(np.stack(places, -1), 1, 3))
    assert (offsets[0, ..., 0, :] == 0).all()


def test_skip_self_leaves_out_only_the_query(rng):
    q, k = rng.standard_normal((2, 3, 2, 5, 6))
    scores, offsets = ss.search(q, k, window=3, topk=None, skip="self")
    whole_scores, whole_offsets = ss.search(q, k, window=3, topk=None)
    rest = (whole_offsets != 0).any(-1)
    assert rest.sum(-1).min() == rest.sum(-1).max() == scores.shape[-1] == 26
    close(scores, whole_scores[rest].reshape(scores.shape))
    equal([offsets], [whole_offsets[rest].reshape(offsets.shape)])


def test_skip_own_frame_leaves_out_the_own_frame(rng):
    q, k = rng.standard_normal((2, 3, 2, 5, 6))
    whole = ss.search(q, k, window=3, topk=None)
    equal(ss.search(q, k, window=3, topk=None, skip="own_frame"), (whole[0][..., 9:], whole[1][..., 9:, :]))


def test_refine_with_a_window_of_one_keeps_its_seeds(rng):
    q, k = rng.standard_normal((2, 3, 2, 6, 7))
    scores, seeds = ss.search(q, k, window=3, topk=4)
    found = ss.refine(q, k, seeds, window=1)
    close(found[0], scores)
    equal([found[1]], [seeds])


def test_refine_around_nothing_is_a_search_of_the_own_frame(rng):
    q, k = rng.standard_normal((2, 3, 2, 6, 7))
    seeds = np.zeros((1, 3, 6, 7, 1, 3), np.int32)
    options = {"window": 4, "patch": 2, "topk": 5}
    equal(ss.refine(q, k, seeds, **options), ss.search(q, k, radius=0, **options))


# --- aggregate and its relatives --------------------------------------------------------------------
@pytest.mark.parametrize("offsets", ["whole", "fractional", "far"])
@pytest.mark.parametrize(("patch", "stride"), [(1, 1), (3, 1), (4, 2), (3, 3), (2, 4), (7, 5)])
def test_aggregate_divides_unity(offsets, patch, stride, rng):
    """Weights that sum to 1 do not change a constant video, wherever offsets lead; uncovered pixels are 0."""
    h, w = (9 - 1) // stride + 1, (11 - 1) // stride + 1
    places = rng.uniform(-4, 4, (1, 3, h, w, 5, 3)) * (100 if offsets == "far" else 1)
    places = places.astype(np.int32) if offsets == "whole" else places
    weights = rng.uniform(0.1, 1, places.shape[:-1])
    weights /= weights.sum(-1, keepdims=True)
    out = ss.aggregate(np.full((3, 2, 9, 11), 7.0), weights, places, patch=patch, stride=stride)
    covered = ss.coverage((9, 11), patch=patch, stride=stride) > 0
    close(out, np.where(covered, 7.0, 0) + np.zeros_like(out))
    assert covered.all() or stride > (patch + 1) // 2


@pytest.mark.parametrize(("patch", "stride"), [(1, 1), (3, 2), (2, 3)])
def test_aggregate_of_the_queries_themselves_is_the_video(patch, stride, rng):
    v = rng.standard_normal((2, 3, 7, 8))
    h, w = 6 // stride + 1, 7 // stride + 1
    out = ss.aggregate(v, np.ones((1, 2, h, w, 1)), np.zeros((1, 2, h, w, 1, 3), np.int32), patch=patch, stride=stride)
    close(out, v * (ss.coverage((7, 8), patch=patch, stride=stride) > 0))


def test_coverage_counts_queries():
    for patch, stride, dilation in product((1, 2, 3, 5), (1, 2, 4), (1, 2)):
        counts = np.zeros((6, 7))
        for y, x in product(range(0, 6, stride), range(0, 7, stride)):
            for i, j in product(range(patch), repeat=2):
                at = y + dilation * (i - patch // 2), x + dilation * (j - patch // 2)
                if 0 <= at[0] < 6 and 0 <= at[1] < 7:
                    counts[at] += 1
        np.testing.assert_array_equal(ss.coverage((6, 7), patch=patch, stride=stride, dilation=dilation), counts)


@pytest.mark.parametrize("fraction", [0, 0.3])
def test_the_sum_of_stack_is_aggregate(fraction, rng):
    v, offsets = rng.standard_normal((2, 3, 4, 6, 7)), rng.integers(-3, 4, (2, 2, 3, 6, 7, 4, 3)) + fraction
    weights = rng.standard_normal(offsets.shape[:-1])
    close(ss.stack(v, offsets, weights, patch=3).sum(1), ss.aggregate(v, weights, offsets, patch=3))
    one = ss.stack(v, offsets, patch=2)[:, 1]
    close(one, ss.aggregate(v, np.ones_like(weights[..., :1]), offsets[..., 1:2, :], patch=2))


def test_aggregate_with_patch_one_reads_pixels(rng):
    v, offsets = rng.standard_normal((2, 3, 5, 6)), rng.integers(-1, 2, (1, 2, 5, 6, 3, 3))
    offsets[..., 0] = 0
    out = ss.aggregate(v, np.ones(offsets.shape[:-1]), offsets)
    for t, y, x in product(range(2), range(1, 4), range(1, 5)):
        close(out[t, :, y, x], sum(v[t, :, y + dy, x + dx] for _, dy, dx in offsets[0, t, y, x]))


def sample_with_zeros(image, y, x):
    """Bilinear at (y, x) of (C, H, W), nothing outside."""
    padded = np.pad(image, ((0, 0), (50, 50), (50, 50)))
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    fy, fx = y - y0, x - x0
    a, b, c, d = (padded[:, y0 + i + 50, x0 + j + 50] for i in (0, 1) for j in (0, 1))
    return (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * c + fx * d)


def test_a_border_of_zeros_holds_nothing(rng):
    v, offsets = rng.standard_normal((1, 2, 4, 5)), rng.uniform(-7, 7, (1, 1, 4, 5, 2, 3))
    out = ss.aggregate(v, np.ones(offsets.shape[:-1]), offsets, border="zeros")
    found = ss.gather(v, offsets, patch=3, border="zeros")
    for y, x in product(range(4), range(5)):
        places = [(y + dy, x + dx) for _, dy, dx in offsets[0, 0, y, x]]
        close(out[0, :, y, x], sum(sample_with_zeros(v[0], *place) for place in places))
        for n, i, j in product(range(2), range(3), range(3)):
            expected = sample_with_zeros(v[0], places[n][0] + i - 1, places[n][1] + j - 1)
            close(found[0, 0, y, x, n, :, i, j], expected)


def test_aggregate_with_zeros_is_grid_sample(rng):
    torch = pytest.importorskip("torch")
    v, offsets = rng.standard_normal((1, 3, 6, 7)), rng.uniform(-4, 4, (1, 1, 6, 7, 1, 3))
    out = ss.aggregate(v, np.ones((1, 1, 6, 7, 1)), offsets, border="zeros")
    y, x = np.indices((6, 7)) + np.moveaxis(offsets[0, 0, ..., 0, 1:], -1, 0)
    grid = torch.from_numpy(np.stack([2 * x / 6 - 1, 2 * y / 5 - 1], -1))[None]
    expected = torch.nn.functional.grid_sample(torch.from_numpy(v), grid, padding_mode="zeros", align_corners=True)
    close(out, expected.numpy())


def test_score_with_zeros_leaves_out_pairs_with_a_member_outside(rng):
    q, k = rng.standard_normal((2, 1, 2, 4, 5))
    offsets = rng.integers(-5, 6, (1, 1, 4, 5, 3, 3))
    scores = ss.score(q, k, offsets, patch=3, border="zeros")
    for y, x, n in product(range(4), range(5), range(3)):
        expected = 0
        for i, j in product((-1, 0, 1), repeat=2):
            a, b = (y + i, x + j), (y + i + offsets[0, 0, y, x, n, 1], x + j + offsets[0, 0, y, x, n, 2])
            if all(0 <= p[0] < 4 and 0 <= p[1] < 5 for p in (a, b)):
                expected += ((q[(0, slice(None), *a)] - k[(0, slice(None), *b)]) ** 2).sum()
        close(scores[0, 0, y, x, n], expected)


def test_gather_reads_mirrored_patches(rng):
    v, offsets = rng.standard_normal((2, 3, 4, 5)), rng.integers(-3, 4, (1, 2, 4, 5, 2, 3))
    offsets[..., 0] = 0
    padded = np.pad(v, ((0, 0), (0, 0), (9, 9), (9, 9)), "reflect")
    found = ss.gather(v, offsets, patch=3)
    for t, y, x, n in product(range(2), range(4), range(5), range(2)):
        row, column = y + offsets[0, t, y, x, n, 1], x + offsets[0, t, y, x, n, 2]
        row, column = abs((row + 3) % 6 - 3), abs((column + 4) % 8 - 4)  # the place is mirrored, then its patch read
        equal([found[0, t, y, x, n]], [padded[t, :, row + 8 : row + 11, column + 8 : column + 11]])


def test_parts_of_the_queries_make_the_whole(rng):
    v, offsets = rng.standard_normal((2, 3, 4, 8, 7)), rng.uniform(-3, 3, (2, 2, 3, 4, 4, 3, 3))
    weights = rng.standard_normal(offsets.shape[:-1])
    options, size = {"stride": 2}, (3, 8, 7)
    whole = ss.gather(v, offsets, patch=3, heads=2, **options)
    sums, covered = ss.fold(whole, offsets, weights, size=size, **options)
    parts = [slice(0, 1), slice(1, None)], [slice(None, 3), slice(3, 4)], [slice(0, 2), slice(2, 9)]
    added = 0, 0
    for frames, rows, columns in product(*parts):
        part = ss.gather(v, offsets, patch=3, heads=2, queries=(frames, rows, columns), **options)
        equal([part], [whole[:, :, frames, rows, columns]])
        folded = ss.fold(part, offsets, weights, size=size, queries=(frames, rows, columns), **options)
        added = [a + b for a, b in zip(added, folded, strict=True)]
    close(added[0], sums)
    close(added[1], covered)
    equal([ss.gather(v, offsets, patch=3, heads=2, queries=slice(1, 3), **options)], [whole[:, :, :, 1:3]])


def test_fold_of_gather_is_the_video_times_coverage(rng):
    v, offsets = rng.standard_normal((3, 4, 6, 7)), rng.integers(-3, 4, (2, 3, 6, 7, 2, 3))
    sums, covered = ss.fold(ss.gather(v, offsets, patch=3, heads=2), offsets, size=(3, 6, 7))
    assert covered.shape == (3, 2, 6, 7)
    close(sums, v * np.repeat(covered, 2, 1))
    assert covered.sum() == offsets[..., 0].size * 9
