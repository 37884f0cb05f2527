"""Alignment finds fractions of pixels, leaves flow that is right, and keeps places that others around them support."""

from __future__ import annotations

import numpy as np
import pytest
from test_align import SIZE, constant, end_point, error, noisy, texture

import shiftsearch as ss
from shiftsearch.video.align import choice, finer

SHIFT = 2.3, -1.2
INNER = np.s_[..., 12:-12, 12:-12]


def frames(sigma, channels=3):
    clean = [texture(SIZE, shift, channels) for shift in ((0, 0), SHIFT)]
    return clean, [noisy(frame, sigma, seed) for seed, frame in enumerate(clean, 1)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("sigma", "left"), [(0, 0.3), (15, 0.7)])
def test_flow_that_is_a_fraction_off_is_mended(sigma, left, channels):
    clean, seen = frames(sigma, channels)
    flow = constant(SHIFT[0] + 0.3, SHIFT[1] - 0.25, SIZE)
    _, offsets = ss.align(*seen, flow, sigma=sigma / 255, return_offsets=True)
    assert end_point(offsets, constant(*SHIFT, SIZE)) < left * end_point(flow, constant(*SHIFT, SIZE))
    aligned, followed = (ss.align(clean[1], clean[1], where, window=1) for where in (offsets, flow))
    assert error(aligned, clean[0]) < left * error(followed, clean[0])


def test_a_step_is_right_in_size_and_direction():
    here, there = (texture(SIZE, shift, channels=1)[..., 0] for shift in ((0, 0), SHIFT))
    flow = constant(SHIFT[0] + 0.2, SHIFT[1] - 0.1, SIZE)
    step = finer.finer(np, here, there, flow, 0.0, around=4, likely=0.3) - flow
    np.testing.assert_allclose(np.median(step[INNER], axis=(1, 2)), [-0.2, 0.1], atol=0.05)
    lit = finer.finer(np, here, there + np.float32(0.1), flow, 0.0, around=4, likely=0.3) - flow
    np.testing.assert_allclose(*(np.median(each[INNER], axis=(1, 2)) for each in (lit, step)), atol=0.05)


def test_a_step_is_not_taken_where_noise_explains_it(rng):
    here = texture(SIZE, channels=1)[..., 0]
    noise = np.float32(0.06) * rng.standard_normal((2, *SIZE), np.float32)
    stays = constant(0, 0, SIZE)
    taken, held = (finer.finer(np, *(here + noise), stays, level, around=8, likely=0.3) for level in (1e-3, 0.06))
    assert abs(held[INNER]).mean() < 0.3 * abs(taken[INNER]).mean()


def test_flow_without_a_fraction_has_none_where_subpixel_is_off():
    _, seen = frames(0)
    _, offsets = ss.align(*seen, constant(2.6, -1.4, SIZE), subpixel=False, return_offsets=True)
    assert (offsets == np.rint(offsets)).all()


def kept(far, gain, alone, level=0.0):
    """Return which pixels leave 0 for `far` pixels, where this takes `gain` from a squared difference of 1."""
    begun = np.zeros((2, 32, 32), np.float32)
    moves = np.zeros((32, 32), bool)
    moves[(16, 16) if alone else np.s_[12:20, 12:20]] = True
    found = np.where(moves, np.float32([far, 0])[:, None, None], begun)
    differ = np.where(moves, np.array([1, 1 - gain])[:, None, None], np.full((2, 1, 1), 0.1))
    spec = choice.AlignSpec(caller="align")
    return (choice.kept(spec, np, begun, found, moves | True, differ, 27, level, led=True) != 0).any(0)[moves].mean()


def test_a_place_needs_others_that_are_alike_or_a_great_gain():
    assert kept(2, 0.3, alone=False) > 0.9
    assert kept(2, 0.3, alone=True) < 0.1
    assert kept(2, 0.7, alone=True) == 1
    assert kept(8, 0.7, alone=True) == 0  # the farther, the greater
    assert kept(2, 0.7, alone=True, level=0.15) == 0  # noise may gain as much


def test_what_is_not_seen_in_both_frames_stays():
    begun, found = np.zeros((2, 24, 24), np.float32), np.full((2, 24, 24), 2, np.float32)
    seen = np.arange(24) < 12
    differ = np.stack([np.ones((24, 24)), np.zeros((24, 24))])
    spec = choice.AlignSpec(caller="align")
    stays = (choice.kept(spec, np, begun, found, seen[None].repeat(24, 0), differ, 27, 0.0, led=True) == 0).all(0)
    assert stays[:, 12:].all()
    assert not stays[:, :10].any()


@pytest.mark.parametrize("sigma", [0, 15])
def test_rough_flow_is_never_made_worse(sigma, rng):
    clean, seen = frames(sigma)
    rough = ss.upsample_flow(rng.normal(0, 0.03, (2, 9, 12)).astype(np.float32), SIZE)
    flow = constant(*SHIFT, SIZE) + rough
    _, offsets = ss.align(*seen, flow, sigma=sigma / 255, return_offsets=True)
    assert end_point(offsets, constant(*SHIFT, SIZE)) < end_point(flow, constant(*SHIFT, SIZE))
    aligned, followed = (ss.align(clean[1], clean[1], where, window=1) for where in (offsets, flow))
    assert error(aligned, clean[0]) < error(followed, clean[0])
