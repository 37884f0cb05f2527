"""Planes and flow of 16 bits: what they hold is as good as single precision, and code for them does what NumPy does."""

from __future__ import annotations

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch.backends.cpu import simd
from shiftsearch.video.denoise import halves, margins, passes
from shiftsearch.video.denoise.margins import zeros_with_margins
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.light import Light

SIZES = (8, 8), (9, 21), (40, 33)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("size", SIZES)
def test_patches_cover_the_pixels_from_their_places_on(size, kind, rng):
    weights, coverage = (zeros_with_margins(np, (1, *size), k).base[0] for k in (kind, np.float32))
    tall, wide = (n - halves.SIDE for n in weights.shape)
    weights[2:tall, 2:wide] = rng.integers(0, 9, (tall - 2, wide - 2))
    wanted = np.zeros_like(coverage)
    for y, x in np.ndindex(tall, wide):
        wanted[y : y + halves.SIDE, x : x + halves.SIDE] += weights[y, x]
    halves.cover(weights, coverage)
    np.testing.assert_array_equal(coverage, wanted)


@pytest.mark.parametrize("size", SIZES)
def test_noise_is_taken_where_there_are_patches(size, rng):
    noisy, sums, coverage = rng.random((3, *size), np.float32)
    coverage[::2] = sums[::2, ::2] = 0  # no patch, and sums of nothing there
    sums = sums.astype(np.float16)
    with np.errstate(all="ignore"):
        wanted = np.where(coverage > 0, noisy - 0.25 * np.float32(sums) / coverage, noisy)
    halves.settle(noisy, sums, coverage, 0.25)
    np.testing.assert_allclose(coverage, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_parts_of_a_plane_are_as_good_as_it(size, rng):
    guide = rng.uniform(-2.1, 2.1, (3, *size)).astype(np.float32)  # whole numbers of 16 bits end at 2
    noisy = guide + 0.1 * rng.standard_normal(guide.shape, np.float32)
    whole, rest = margins.parted(noisy, guide)
    joined = margins.joined(whole, rest)
    inside = abs(guide) < 2 - 2**-14
    np.testing.assert_allclose(margins.joined(whole)[inside], guide[inside], atol=2**-15)
    assert abs(joined - noisy).max() < 2**-12
    assert np.sqrt(((joined - noisy) ** 2).mean()) < 0.1 * 2**-10
    np.testing.assert_array_equal(margins.mirror(np, margins.with_margins(np, joined.copy())).base, joined.base)


@pytest.mark.parametrize("brightest", [0.5, 1e5])
def test_frames_are_held_in_16_bits_where_these_reach(brightest, monkeypatch, rng):
    """Any other frames are denoised together as they are."""
    clip = (0.5 + 0.1 * rng.standard_normal((9, 24, 32))).astype(np.float32)
    clip[4, 3, 5] = brightest
    parted, found = [], []
    narrow = passes.Frame.narrow

    def noted(frame, begin):
        narrow(frame, begin)
        parted.append(frame.parts is not None)

    monkeypatch.setattr(passes.Frame, "narrow", noted)
    for has in (True, False):
        monkeypatch.setattr(simd, "has_halves", lambda has=has: has)
        found.append(ss.denoise(clip, 0.1, radius=1, flow=None))
    assert parted == [n != 4 or brightest < 2 for n in range(9)] + 9 * [False]
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-3)
    assert np.median(abs(found[0] - found[1])) < 1e-4


@pytest.mark.parametrize("weights", [(1,), (1, 0.5, 0.5)])
def test_a_frame_in_16_bits_is_seen_in_other_light(weights, rng):
    light = Light(1.5, (0.1, -0.2, 0.3))
    noisy = margins.with_margins(np, rng.random((3, 24, 32), np.float32))
    frames = [passes.Frame(noisy, Noise.white([0.1] * 3), [False] * 3, weights) for _ in range(2)]
    for frame in frames:
        frame.guide = margins.with_margins(np, noisy + np.float32(0.01))
        frame.searched = frame.compared(frame.guide)
    frames[1].narrow(2)
    np.testing.assert_array_equal(frames[1].seen_from(np, 2), frames[0].seen_from(np, 2))
    wanted, found = (frame.lit(light) for frame in frames)
    for name in ("noisy", "guide", "searched"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-4)
    assert found.parts is None
    assert frames[1].parts is not None
