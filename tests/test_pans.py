"""Long pans: the shift is found, no cut is seen, and frames help each other as they do along the true motion."""

from __future__ import annotations

import numpy as np
import pytest
from test_denoise import psnr, scene, with_noise

import shiftsearch as ss
from shiftsearch.video.denoise import motion
from shiftsearch.video.denoise.paths import warped
from shiftsearch.video.pans import overlap, shift_between, shifted


def panned(dx, dy=0, frames=4, height=96, width=160):
    """Return a clip of a still scene, of which each frame shows what lies further right and down."""
    still = scene(1, height + frames * abs(dy), width + frames * abs(dx), seed=3)[0]
    return np.stack([still[dy * t : dy * t + height, dx * t : dx * t + width] for t in range(frames)])


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-7, 3), (40, -21), (-70, 0), (0, 45)])
def test_a_shift_is_found_under_noise_and_in_other_light(shift):
    a, b = panned(*map(abs, shift), frames=2)
    dx, dy = shift
    a, b = (plane[:: -1 if dy > 0 else 1, :: -1 if dx > 0 else 1] for plane in (a, b))  # which way it goes
    assert shift_between(with_noise(a, 0.1), with_noise(0.5 * b + 0.2, 0.05, seed=2)) == shift
    found = motion._pan(*map(np.float32, (with_noise(a, 0.1), with_noise(0.5 * b + 0.2, 0.05, seed=2))))
    assert found == (shift if max(map(abs, shift)) >= 4 else (0, 0))  # flow finds short ones
    np.testing.assert_array_equal(*overlap(a, b, shift))
    inner = slice(abs(dy), 96 - abs(dy)), slice(abs(dx), 160 - abs(dx))
    np.testing.assert_array_equal(shifted(b, shift)[inner], a[inner])


def test_flat_frames_have_no_shift():
    assert shift_between(np.full((24, 32), 0.5), np.full((24, 32), 0.7)) == (0, 0)
    assert shift_between(np.ones((1, 1)), np.ones((1, 1))) == (0, 0)


def dark(frames=6, height=64, width=96):
    """Return a still clip of dark slopes, in which noise has more to show than the scene."""
    y, x = np.mgrid[:height, :width]
    return np.repeat((0.08 + 0.0006 * x + 0.0004 * y)[None], frames, 0)


def test_in_noise_some_shift_is_best_and_none_is_taken():
    a, b = np.float32(with_noise(dark(2), 0.1))
    assert shift_between(a, b) != (0, 0)
    assert motion._pan(a, b) == (0, 0)


def test_flow_is_kept_where_things_move_alone(rng):
    still, moved = (scene(1, 64, 100, seed=seed)[0] for seed in (3, 4))
    pair = [np.hstack([still[:, :48], moved[:, dx : dx + 48]]) for dx in (0, 5)]
    here, there = (motion._smooth(np, with_noise(plane, 0.05, seed)) for seed, plane in enumerate(pair))
    flow = rng.normal(0, 0.3, (2, 64, 96)).astype(np.float32)  # errors of its own
    flow[0, :, 48:] -= 5
    found = motion._chosen(np, [flow], [np.zeros((2, 1, 1), np.float32)], here, there)
    assert (found[:, :, :40] == 0).mean() > 0.9
    assert (found == flow)[:, 8:-8, 56:-8].mean() > 0.9


def test_a_plane_is_interpolated_where_flow_leads(rng):
    y, x = np.mgrid[:12, :14].astype(float)
    flow = rng.uniform(-2, 2, (2, 12, 14))
    wanted = 3 * np.clip(x + flow[0], 0, 13) - np.clip(y + flow[1], 0, 11)
    np.testing.assert_allclose(warped(np, 3 * x - y, flow), wanted)


@pytest.mark.parametrize("pan", [(8, 5), (10, 10), (-11, 2)])
def test_fine_texture_is_followed_by_a_short_pan(pan, rng):
    """There is nothing coarse that would lead from a coarse scale to the next finer one."""
    pytest.importorskip("cv2")
    (dx, dy), f = pan, np.hypot(np.fft.fftfreq(160)[:, None], np.fft.fftfreq(160))
    still = np.fft.ifft2(np.fft.fft2(rng.standard_normal((160, 160))) * (f < 0.25)).real
    clip = 0.5 + np.stack([np.roll(still, (dy * t, dx * t), (0, 1))[:96, :112] for t in range(5)]) / 6
    noisy = with_noise(clip, 0.01)
    assert psnr(ss.denoise(noisy), clip) > psnr(noisy, clip) + 1


@pytest.mark.parametrize("pan", [(30, 0), (60, 0), (-60, 0), (0, 36)])
def test_a_pan_is_no_cut(pan):
    clip = panned(*map(abs, pan))[:: -1 if min(pan) < 0 else 1]
    for sigma in (0, 0.08):
        assert list(ss.scene_cuts(with_noise(clip, sigma))) == []
    assert list(ss.scene_cuts(np.concatenate([clip, scene(2, 96, 160, seed=8)]))) == [4]


@pytest.mark.parametrize("dx", [30, 60])
def test_a_pan_is_denoised_as_along_the_true_motion(dx):
    pytest.importorskip("cv2")
    clip = panned(dx)
    noisy = with_noise(clip, 0.08)
    there = np.broadcast_to(np.float32([-dx, 0])[:, None, None], (4, 2, 96, 160))
    found, wanted, without = (psnr(ss.denoise(noisy, 0.08, flow=f), clip) for f in ("dis", (there, -there), None))
    assert found > wanted - 0.3
    assert wanted > without + 0.5
