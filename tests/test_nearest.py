"""Vector code finds the same groups as `match`: where flow of any kind leads, and where it leads to other things."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch.backends.cpu import pool, simd
from shiftsearch.video.denoise import (
    Noise,
    closest,
    direct,
    groups,
    halves,
    memory,
    nearest,
    passes,
    qualities,
    spec,
    spectra,
)
from shiftsearch.video.denoise.margins import with_margins, zeros_with_margins

FLOWS = {
    "none": lambda rng, size: None,
    "far": lambda rng, size: 30 * rng.standard_normal((2, *size)).astype(np.float32),
    "one for all": lambda rng, size: np.broadcast_to(np.float32(rng.normal(0, 9, (2, 1, 1))), (2, *size)),
    "coarse, of doubles": lambda rng, size: 5 * rng.standard_normal((2, *(n // 2 for n in size))),
    "of halves": lambda rng, size: (5 * rng.standard_normal((2, *size))).astype(np.float16),
    "channels last": lambda rng, size: 5 * rng.standard_normal((*size, 2), np.float32).transpose(2, 0, 1),
    "no numbers": lambda rng, size: rng.choice(np.float32([1, np.nan, np.inf, -3e9]), (2, *size)),
}


def clip_with_flow(rng, kind, n, size):
    """Return frames that are alike, so that some patches show the same thing and some do not."""
    still, frames = rng.random(size), []
    for _ in range(n):
        plane = (still + 0.3 * rng.standard_normal((1, *size))).astype(np.float32)
        frames.append(passes.Frame(with_margins(np, plane), Noise.white([0.22]), [False]))
        frames[-1].forward, frames[-1].backward = (FLOWS[kind](rng, size) for _ in range(2))
    return frames


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize(("n", "here"), [(1, 0), (2, 1), (7, 3), (12, 11)])
@pytest.mark.parametrize(("size", "temporal"), [((29, 38), False), ((8, 9), False), ((21, 9), True)])
def test_groups_are_those_of_match(kind, n, here, size, temporal, rng):
    frames, others = clip_with_flow(rng, kind, n, size), 0
    for one in qualities.passes_of("fast", temporal):
        assert direct.covers(np, size, n, one)
        wanted = groups.of_each_frame(np, frames, here, one)
        found = direct._found(frames, here, one, lambda work, parts, each: map(work, parts))
        np.testing.assert_array_equal(found, wanted)
        others += np.count_nonzero(found[..., 0] != np.arange(n) - here)
    assert n == 1 or others or kind == "none"


@pytest.mark.parametrize("n", [2, 7])
def test_patches_of_the_same_frame_that_are_much_nearer_are_taken(n, rng):
    y, x = np.mgrid[:48, :60]
    shade = np.sin(x / 3) * np.sin(y / 3) * np.where(y < 24, 0.6, 0.01)
    planes = [((1 + t % 2) * shade + 0.01 * rng.standard_normal(x.shape)).astype(np.float32) for t in range(n)]
    frames = [passes.Frame(with_margins(np, plane[None]), Noise.white([0.3]), [False]) for plane in planes]
    one = qualities.PASSES["fast"][1]
    found = direct._found(frames, n // 2, one, lambda work, parts, each: map(work, parts))
    np.testing.assert_array_equal(found, groups.of_each_frame(np, frames, n // 2, one))
    others = replace(one, close=one.worst)
    kept = direct._found(frames, n // 2, others, lambda work, parts, each: map(work, parts))
    np.testing.assert_array_equal(kept, groups.of_each_frame(np, frames, n // 2, others))
    changed = (found != kept).any((2, 3))
    assert changed[:5].mean() > 0.3
    assert not changed[8:].any()  # where the frame is flat


def test_frames_smaller_than_a_patch_are_left_to_match(rng):
    for one in qualities.passes_of("fast", False):
        assert direct.covers(np, (8, 20), 3, one)
        assert not direct.covers(np, (7, 20), 3, one)


def test_margins_stay_with_the_planes_of_an_array_and_their_sums(rng):
    planes = with_margins(np, rng.random((3, 9, 11), np.float32))
    assert with_margins(np, planes[1][None]).base is planes.base
    for part in (planes[:, 1:], planes[:, :, ::2], planes.copy()):
        assert with_margins(np, part).base is not part.base
    frame = passes.Frame(planes, Noise.white([0.1] * 3), [False] * 3, weights=(1, 2, 3))
    whole = zeros_with_margins(np, (1, 9, 11))
    whole.base[...] = (planes.base * np.float32([1, 2, 3])[:, None, None]).sum(0)
    np.testing.assert_allclose(with_margins(np, frame.searched[None]).base, whole.base, rtol=1e-6)
    assert with_margins(np, frame.searched[None]).base is frame.searched.base


def apart(monkeypatch):
    """Have candidates of each frame listed, as where arrays are not in main memory."""
    for module in (groups, memory):
        monkeypatch.setattr(module, "at_once", lambda *_: False)


def places(offsets):
    """Return offsets (h, w, n, 3) as one number each, in order."""
    return np.sort(offsets.astype(np.int64) @ [1_000_000, 1000, 1], axis=-1)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize(("n", "here"), [(1, 0), (2, 1), (13, 6)])
@pytest.mark.parametrize("size", [(11, 12), (30, 37)])
def test_the_best_of_all_frames_are_those_of_each(kind, n, here, size, rng, monkeypatch):
    """But for those that are worse by rounding only."""
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "2")
    monkeypatch.setattr(pool, "_SMALL", 0)
    frames, one = clip_with_flow(rng, kind, n, size), qualities.PASSES["high"][2]
    found = groups.of_all_frames(np, frames, here, one)
    apart(monkeypatch)
    wanted = groups.of_all_frames(np, frames, here, one)
    assert found.shape == wanted.shape
    assert (places(found) == places(wanted)).mean() > 0.999


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_candidates_that_are_equal_or_no_numbers_are_taken_once(value, rng):
    frames, one = clip_with_flow(rng, "none", 4, (24, 31)), qualities.PASSES["high"][2]
    for frame in frames:
        frame.searched.base[...] = value
    found = groups.of_all_frames(np, frames, 1, one)
    at = np.stack(np.meshgrid(*(3 * np.arange(n) for n in found.shape[:2]), indexing="ij"), -1)[:, :, None]
    assert np.isin(found[..., 0], range(-1, 3)).all()
    assert (abs(found[..., 1:]) <= 10).all()
    assert ((at + found[..., 1:] >= 0) & (at + found[..., 1:] < (24, 31))).all()
    assert (np.diff(places(found)) > 0).all()


def test_of_candidates_that_are_equal_none_takes_the_place_of_a_better_one():
    """Two shades give few scores; those that are read first are not the best."""
    planes = np.where(np.arange(40)[:, None] < [[[20]], [[14]]], 0.6, 0.5) + np.zeros((2, 40, 30))
    frames = [passes.Frame(with_margins(np, np.float32(plane[None])), Noise.white([0.2]), [False]) for plane in planes]
    found = groups.of_all_frames(np, frames, 0, qualities.PASSES["high"][2])
    whole = np.pad(planes, ((0, 0), (3, 3), (3, 3)), mode="reflect")
    patches = np.lib.stride_tricks.sliding_window_view(whole, (6, 6), (1, 2))
    for y, x in np.ndindex(found.shape[:2]):
        frame, down, across = (found[y, x] + [0, 3 * y, 3 * x]).T
        top, left = (min(max(3 * at - 5, 0), n - 11) for at, n in ((y, 40), (x, 30)))
        scores = ((patches - patches[0, 3 * y, 3 * x]) ** 2).sum((3, 4))[:, top : top + 11, left : left + 11]
        taken = ((patches[frame, down, across] - patches[0, 3 * y, 3 * x]) ** 2).sum((1, 2))
        np.testing.assert_allclose(np.sort(taken), np.sort(scores.ravel())[:50], atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("together", [True, False])
def test_candidates_of_large_groups_take_what_max_memory_counts(together, rng, monkeypatch):
    """However many frames they come from. What does not grow with the frame, as that of each thread, is counted elsewhere."""
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "1")
    one, peaks = qualities.PASSES["high"][2], []
    if not together:
        apart(monkeypatch)
    for height in (96, 192):
        frames = clip_with_flow(rng, "none", 13, (height, 128))
        groups.of_all_frames(np, frames, 6, one)  # compiles
        tracemalloc.start()
        try:
            groups.of_all_frames(np, frames, 6, one)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    high = spec.spec_of("denoise", None, [20], quality="high", radius=6)
    counted = 4 * memory._candidates(high, (np.zeros((192, 128)),), one) * 96 * 128
    assert 0.6 * counted < peaks[1] - peaks[0] <= counted


@pytest.mark.full
@pytest.mark.parametrize("register", [16, 32, 64])
def test_vectors_of_any_length_give_the_same(register, monkeypatch, rng):
    """Groups lie side by side in long vectors, and alone in short ones, which any processor has."""
    clip = rng.random((5, 21, 27, 3), np.float32)
    monkeypatch.setattr(simd, "has_halves", lambda: False)
    known, frames = ss.denoise(clip, 0.1, flow=None, radius=2), clip_with_flow(rng, "far", 5, (21, 27))
    of_all = places(groups.of_all_frames(np, frames, 2, qualities.PASSES["high"][2]))
    if register > simd.register_bytes():
        pytest.skip("this processor has none as long")
    monkeypatch.setattr(simd, "register_bytes", lambda: register)
    caches = spectra.compiled, nearest.compiled, halves._compiled, halves._covering, closest._compiled
    try:
        for cache in caches:
            cache.cache_clear()
        np.testing.assert_allclose(ss.denoise(clip, 0.1, flow=None, radius=2), known, atol=1e-5)
        found = groups.of_all_frames(np, frames, 2, qualities.PASSES["high"][2])
        np.testing.assert_array_equal(places(found), of_all)
    finally:
        for cache in caches:
            cache.cache_clear()
