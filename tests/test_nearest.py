"""Vector code finds the same groups as `match`: where flow of any kind leads, and where it leads to other things."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch.backends.cpu import simd
from shiftsearch.video.denoise import Noise, direct, groups, memory, nearest, passes, qualities, spectra
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


@pytest.mark.full
def test_candidates_of_large_groups_take_what_max_memory_counts(rng, monkeypatch):
    """However many frames they come from. What does not grow with the frame, as that of each thread, is counted elsewhere."""
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "1")
    one, peaks = qualities.PASSES["high"][2], []
    for height in (96, 192):
        frames = clip_with_flow(rng, "none", 13, (height, 128))
        groups.of_all_frames(np, frames, 6, one)  # compiles
        tracemalloc.start()
        try:
            groups.of_all_frames(np, frames, 6, one)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    counted = 4 * memory._candidates(one) * 96 * 128
    assert 0.6 * counted < peaks[1] - peaks[0] <= counted


@pytest.mark.full
@pytest.mark.parametrize("register", [16, 32, 64])
def test_vectors_of_any_length_give_the_same(register, monkeypatch, rng):
    """Groups lie side by side in long vectors, and alone in short ones, which any processor has."""
    clip = rng.random((5, 21, 27, 3), np.float32)
    monkeypatch.setattr(simd, "has_halves", lambda: False)
    known = ss.denoise(clip, 0.1, flow=None, radius=2)
    if register > simd.register_bytes():
        pytest.skip("this processor has none as long")
    monkeypatch.setattr(simd, "register_bytes", lambda: register)
    caches = spectra.compiled, nearest.compiled
    try:
        for cache in caches:
            cache.cache_clear()
        np.testing.assert_allclose(ss.denoise(clip, 0.1, flow=None, radius=2), known, atol=1e-5)
    finally:
        for cache in caches:
            cache.cache_clear()
