"""Changes of light are no cuts, and frames of different brightness are denoised together."""

from __future__ import annotations

import numpy as np
import pytest
from test_chunks import cuts_of, scene
from test_denoise import psnr, with_noise

import shiftsearch as ss
from shiftsearch.video.light import Light, of_places, of_quantiles


def flash(clip):
    lit = clip.copy()
    lit[3] = 1.4 * lit[3] + 0.12
    return lit


def fade(clip):
    return clip * np.linspace(1, 0, len(clip)).reshape(-1, *[1] * (clip.ndim - 1))


CHANGES = {
    "flash": flash,
    "clipped flash": lambda clip: np.where(np.arange(len(clip)).reshape(-1, 1, 1, 1) == 3, 2.2 * clip, clip).clip(0, 1),
    "dark": lambda clip: np.where(np.arange(len(clip)).reshape(-1, 1, 1, 1) == 3, 0.3 * clip, clip),
    "fade to black": fade,
    "fade to white": lambda clip: 1 - fade(1 - clip),
    "fade in": lambda clip: fade(clip[::-1])[::-1],
}


# --- cuts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("sigma", [0, 0.08])
def test_changes_of_light_are_no_cuts(change, sigma, rng):
    clip = CHANGES[change](scene(rng, 8, 96, 128, (2, 1)))
    assert cuts_of(with_noise(clip, sigma)) == []


def test_a_cut_to_a_darker_scene_is_still_one(rng):
    clip = np.concatenate([scene(rng, 3, 96, 128), 0.4 * scene(rng, 3, 96, 128)])
    assert cuts_of(clip) == [3]


# --- fits -------------------------------------------------------------------------------------------
def test_a_light_is_found_among_outliers(rng):
    before = rng.random((2, 500))
    after = np.stack([1.3 * before[0] + 0.1, 1.3 * before[1] - 0.2])
    after[:, :60] = rng.random((2, 60))
    found = of_places(before, after)
    np.testing.assert_allclose([found.gain, *found.offsets], [1.3, 0.1, -0.2], atol=1e-6)


def test_clipped_values_say_nothing_of_light(rng):
    before = np.sort(rng.random(65))
    found = of_quantiles(before.tolist(), np.clip(2 * before - 0.3, 0, 1).tolist())
    np.testing.assert_allclose([found.gain, *found.offsets], [2, -0.3], atol=1e-6)


def test_flat_values_change_by_an_offset():
    found = of_quantiles([0.5] * 9, [0.7] * 9)
    assert [found.gain, *found.offsets] == pytest.approx([1, 0.2])


def test_lights_are_joined_and_undone():
    one, other = Light(2.0, (0.1, 0.2)), Light(0.5, (0.3, 0.0))
    assert one.then(other) == Light(1.0, (0.35, 0.1))
    assert one.then(one.undone()) == Light(1.0, (0.0, 0.0))


# --- denoising --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("colour", "flow"), [(True, None), (False, "dis")])
def test_frames_in_other_light_are_denoised_with_the_others(rng, colour, flow):
    if flow:
        pytest.importorskip("cv2")
    clip = scene(rng, 7, 64, 80, (0, 0) if flow is None else (2, 1))
    clip = clip if colour else clip[..., 0]
    lit = flash(clip)
    noisy = with_noise(lit, 0.08)
    whole = ss.denoise(noisy, 0.08, flow=flow)
    alone = ss.denoise(noisy[3:4], 0.08, flow=flow)
    assert psnr(whole[3:4], lit[3:4]) > psnr(alone, lit[3:4]) + 1.5
    constant = ss.denoise(with_noise(clip, 0.08), 0.08, flow=flow)
    assert psnr(whole[[2, 4]], lit[[2, 4]]) > psnr(constant[[2, 4]], clip[[2, 4]]) - 0.1


FADE = np.linspace(1, 0.2, 7)


def fine(rng, colour):
    """Return a clip (7, 64, 80) or (7, 64, 80, 3) of fine texture, which fades to a fifth."""
    still = rng.random((32, 40, 3) if colour else (32, 40)).repeat(2, 0).repeat(2, 1)
    return still * FADE.reshape(-1, *[1] * still.ndim)


@pytest.mark.parametrize("colour", [False, True])
def test_dim_frames_of_a_fade_do_not_spoil_the_bright_ones(rng, colour):
    """In the light of a bright frame, the noise of a dim one is five times as strong. So it tells little."""
    faded = fine(rng, colour)
    bright = faded[:1].repeat(7, 0)
    found, constant = (ss.denoise(with_noise(clip, 0.08), 0.08, flow=None) for clip in (faded, bright))
    less = 10 * np.log10(7 / (FADE**2).sum())  # the best mean of all frames is that much noisier in a fade
    assert psnr(found[:1], faded[:1]) > psnr(constant[:1], bright[:1]) - less - 0.5
    assert psnr(found[-1:], faded[-1:]) > psnr(constant[-1:], bright[-1:]) + 1


def test_planes_of_their_own_size_change_their_light_too(rng):
    clip = flash(scene(rng, 7, 64, 80))
    frames = [(frame[..., 0], frame[::2, ::2, 1], frame[::2, ::2, 2]) for frame in with_noise(clip, 0.08)]
    found = list(ss.video.denoise.denoise_planes(frames, 0.08, flow=None))
    for plane, clean in enumerate((clip[3, ..., 0], clip[3, ::2, ::2, 1], clip[3, ::2, ::2, 2])):
        assert psnr(found[3][plane], clean) > psnr(frames[3][plane], clean) + 7


@pytest.mark.full
def test_chunks_of_a_fade_give_the_same(rng):
    noisy = with_noise(fade(scene(rng, 15, 40, 52)[..., 0]), 0.05)
    chunks = ss.chunks(15, 8, ss.denoise_overlap(radius=1))
    parts = [ss.denoise(noisy[c.read], 0.05, radius=1)[c.keep] for c in chunks]
    np.testing.assert_array_equal(np.concatenate(parts), ss.denoise(noisy, 0.05, radius=1))
