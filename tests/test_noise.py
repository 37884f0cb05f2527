"""The noise that nobody names is found: its strength, its spectrum, and that there is none."""

from __future__ import annotations

import numpy as np
import pytest
from test_chunks import texture_and_grain
from test_denoise import motion, psnr, scene, with_noise

import shiftsearch as ss
from shiftsearch.backends.cpu import simd
from shiftsearch.video.denoise import denoise_planes
from shiftsearch.video.denoise.estimate import differences, of_flat
from shiftsearch.video.denoise.model import Noise, level_and_shape, resized, strength_of_shades
from shiftsearch.video.denoise.motion import _even
from shiftsearch.video.denoise.passes import Frame, Pass

FLOW = [way[0] for way in motion()]


def blurred(frames, seed=1):
    """Return noise that is blurred over a square of 2 pixels, with a standard deviation of 1."""
    white = np.random.default_rng(seed).standard_normal((len(frames), *(n + 1 for n in frames.shape[1:3])))
    return (white[:, 1:, 1:] + white[:, :-1, 1:] + white[:, 1:, :-1] + white[:, :-1, :-1]) / 2


def found(clip, flow=FLOW[0], level=1.0):
    """Return what two frames tell of their noise: standard deviation and shape. `level` is that of a single frame."""
    a, b = np.float32(clip[:2, None])
    return level_and_shape(differences(np, a, b, flow, [level]).variances[0])


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_white_noise_is_white(sigma):
    level, shape = found(with_noise(scene(), sigma))
    assert shape is None
    assert abs(level - sigma) < 0.1 * sigma


def test_correlated_noise_has_the_spectrum_of_its_blur():
    clip = scene(8, 144, 176)
    level, shape = found(clip + 0.05 * blurred(clip), motion(2, 144, 176)[0][0])
    assert abs(level - 0.05) < 0.1 * 0.05
    response = 2 * np.cos(np.pi * np.arange(8) / 16) ** 2  # variance at the frequencies of a row
    wanted = np.sqrt(np.outer(response, response))
    np.testing.assert_allclose(shape[1:5, 1:5], wanted[1:5, 1:5], rtol=0.25)
    assert shape[7, 7] < 0.3


def test_low_frequencies_of_noise_are_found_under_texture_that_hides_them(rng):
    """Texture has a hundred times the power of the noise there. It moves by whole pixels."""
    f = np.hypot(np.fft.fftfreq(176)[:, None], np.fft.fftfreq(208))
    spectrum = np.fft.fft2(rng.standard_normal((176, 208))) * (f < 0.1) / (f + 0.02)
    texture = np.fft.ifft2(spectrum).real
    clip = np.stack([texture[t : t + 144, 2 * t : 2 * t + 176] for t in (0, 1)]) / texture.std() * 0.5
    flow = np.broadcast_to(np.float32([-2, -1])[:, None, None], (2, 144, 176))
    level, shape = found(clip + 0.05 * blurred(clip), flow, 0.01)
    wanted = 2 * 0.05 * np.cos(np.pi / 16)
    np.testing.assert_allclose(level * np.array([shape[0, 1], shape[1, 0], shape[1, 1]]), wanted, rtol=0.25)


def photons(clip, seed=1):
    """Return a clip with noise whose variance grows with brightness, as that of photons."""
    return clip + np.sqrt(0.0005 + 0.02 * clip.clip(0)) * np.random.default_rng(seed).standard_normal(clip.shape)


def test_noise_of_photons_is_found_for_each_brightness():
    clip, flow = scene(2, 144, 176), motion(2, 144, 176)[0][0]
    a, b = np.float32(photons(clip)[:, None])
    told = differences(np, a, b, flow, [1.0])
    wanted = 0.0005 + 0.02 * told.shades
    assert wanted[-1] > 1.8 * wanted[0]
    np.testing.assert_allclose(told.of_shades[0], wanted, rtol=0.2)
    strengths = strength_of_shades(told.of_shades[0])
    np.testing.assert_allclose(strengths**2, told.of_shades[0] / told.of_shades[0].mean())


def test_small_differences_of_shades_are_none():
    assert strength_of_shades(np.array([1.0, 1.3, 1.1])) is None
    assert strength_of_shades(np.zeros(3)) is None


def test_texture_that_repeats_is_no_noise():
    """It moves by a fraction of a pixel, and is too fine for any estimate from one frame."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:72, :88]
    waves = [(*rng.uniform(0.4, 2.4, 2), rng.uniform(0, 6)) for _ in range(60)]
    clip = np.stack([sum(np.cos(a * (y - 0.4 * t) + b * (x + 0.3 * t) + c) for a, b, c in waves) for t in (0, 1)]) / 50
    flow = np.broadcast_to(np.float32([-0.3, 0.4])[:, None, None], (2, 72, 88))
    assert found(0.5 + clip, flow)[0] < 0.08 * clip.std()
    assert abs(found(with_noise(0.5 + clip, 0.016), flow)[0] - 0.016) < 0.003


def test_texture_where_flow_errs_by_a_fraction_is_no_noise(rng):
    """All that it shows is finer than a third of the sampling rate."""
    f = np.hypot(np.fft.fftfreq(72)[:, None], np.fft.fftfreq(88))
    spectrum = np.fft.fft2(rng.standard_normal((72, 88))) * (f < 0.35)
    shift = np.exp(2j * np.pi * (0.4 * np.fft.fftfreq(72)[:, None] - 0.3 * np.fft.fftfreq(88)))
    clip = np.stack([np.fft.ifft2(spectrum * by).real for by in (1, shift)]) / 20
    flow = np.broadcast_to(np.float32([0.3 + 0.15, -0.4 - 0.1])[:, None, None], (2, 72, 88))
    assert found(0.5 + clip, flow)[0] < 0.03 * clip.std()
    assert abs(found(with_noise(0.5 + clip, 0.008), flow)[0] - 0.008) < 0.001


def test_noise_is_found_where_most_of_a_frame_has_lost_its_motion():
    """More than half of it shows something else, so that these places differ many times as much."""
    clip = scene(2).copy()
    clip[1, :, 40:] = scene(1, seed=5)[0, :, 40:]
    assert abs(found(with_noise(clip, 0.04))[0] - 0.04) < 0.1 * 0.04


def test_what_has_lost_its_motion_is_no_noise():
    """An eighth of the frame shows something else in the next one."""
    clip = scene(2).copy()
    clip[1, :, 70:] = scene(1, seed=5)[0, :, 70:]
    assert found(clip)[0] < 0.004
    assert abs(found(with_noise(clip, 0.016))[0] - 0.016) < 0.003


def test_foliage_that_twinkles_is_no_noise_of_bright_places(rng):
    """Nothing repeats in the bright third of the frame, whose contrast is 15 times that of the noise elsewhere."""
    clip = 0.2 + 0.2 * scene(2)
    clip[:, :, 54:] = 0.7 + 0.12 * rng.standard_normal(clip[:, :, 54:].shape)
    assert found(with_noise(clip, 0.008))[0] < 0.015


def test_what_differs_unlike_in_all_shades_is_doubted(rng):
    """It is a tenth of the texture everywhere, and so much more in bright places: as where no motion was found well."""
    f = np.hypot(np.fft.fftfreq(144)[:, None], np.fft.fftfreq(176))
    texture, other = (np.fft.ifft2(np.fft.fft2(rng.standard_normal((144, 176))) * (f < 0.2)).real for _ in "ab")
    shade = np.broadcast_to(np.linspace(0.1, 0.9, 176), (144, 176))
    clip = np.stack([shade + 0.06 * shade * t / texture.std() for t in (texture, 0.95 * texture + 0.3 * other)])
    assert found(with_noise(clip, 0.002), np.zeros((2, 144, 176), np.float32), 0.004)[0] < 0.003


def test_black_bars_hide_no_noise():
    """They are half of the frame, and some of them do not quite repeat."""
    noisy = with_noise(scene(2), 0.04)
    noisy[:, :16] = 0
    noisy[:, -16:] = 0.0005 * np.random.default_rng(0).standard_normal(noisy[:, -16:].shape)
    level = differences(np, *np.float32(noisy[:, None]), FLOW[0], [1.0]).of_shades[0]
    assert abs(np.sqrt(level[3:].mean()) - 0.04) < 0.1 * 0.04


def test_noise_of_colour_that_is_gone_from_most_flat_places_is_taken_for_more():
    """As codecs leave it: all of it in some squares, nothing in others. By its mean it would be a third."""
    rng = np.random.default_rng(0)
    there = np.kron(rng.random((8, 8)) < 0.5, np.ones((16, 16)))
    frames = [np.float32([0.1 * y, 0.03 * there * c]) for y, c in rng.standard_normal((2, 2, 128, 128))]
    told = differences(np, *frames, np.zeros((2, 128, 128), np.float32), [0.1, 0.03])
    assert 0.5 * 0.03**2 < told.variances[1].mean() < 1.0 * 0.03**2
    assert abs(told.variances[0].mean() - 0.1**2) < 0.1 * 0.1**2


def test_frames_that_are_smaller_than_a_patch_tell_nothing():
    assert differences(np, np.zeros((1, 7, 30)), np.zeros((1, 7, 30)), np.zeros((2, 7, 30)), [1.0]) is None


def test_a_shape_is_resized():
    shape = np.arange(8)[:, None] + 10 * np.arange(8.0)
    np.testing.assert_array_equal(resized(shape, 8), shape)
    np.testing.assert_array_equal(resized(shape, 16)[::2, ::2], shape)
    assert resized(shape, 6).shape == (6, 6)


# --- denoising --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("quality", "least"), [("fast", 0.2), pytest.param("high", 0.2, marks=pytest.mark.full)])
def test_correlated_noise_goes_as_well_as_by_hand(quality, least):
    clip, flow = scene(5, 48, 56), motion(5, 48, 56)
    noisy = clip + 0.07 * blurred(clip)
    by_hand = [ss.denoise(noisy, sigma, quality=quality, flow=flow) for sigma in (0.07, 0.1, 0.14)]
    automatic = ss.denoise(noisy, quality=quality, flow=flow)
    assert psnr(automatic, clip) > max(psnr(result, clip) for result in by_hand) + least


@pytest.mark.parametrize("quality", ["fast", pytest.param("high", marks=pytest.mark.full)])
def test_noise_of_photons_goes_better_than_by_hand(quality):
    clip, flow = scene(5, 48, 56).clip(0, 1), motion(5, 48, 56)
    noisy = photons(clip)
    by_hand = [ss.denoise(noisy, sigma, quality=quality, flow=flow) for sigma in (0.08, 0.1, 0.12)]
    assert psnr(ss.denoise(noisy, quality=quality, flow=flow), clip) > max(psnr(r, clip) for r in by_hand)


@pytest.mark.parametrize("sigma", [0.002, 0.008])
def test_fine_texture_with_little_noise_stays(sigma, rng):
    pytest.importorskip("cv2")
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)
    spectrum = np.fft.fft2(rng.standard_normal((128, 128))) * (np.hypot(fy, fx) < 0.4)
    clip = [np.fft.ifft2(spectrum * np.exp(2j * np.pi * t * (0.6 * fy + 1.3 * fx))).real[:96, :96] for t in range(5)]
    clip = 0.5 + np.stack(clip) / 8
    noisy = with_noise(clip, sigma)
    assert psnr(ss.denoise(noisy), clip) > psnr(noisy, clip)


def test_grain_that_flow_would_follow_goes(rng):
    """It is as strong as the texture, which all moves alike: where flow errs, texture would be taken for noise."""
    texture, grain = (part[..., :1] for part in texture_and_grain(rng, 4))
    assert psnr(ss.denoise(texture + grain), texture) > psnr(texture + grain, texture) + 2


@pytest.mark.parametrize("sigma", [0, 0.1])
def test_flow_is_made_even_only_where_noise_misleads_it(sigma):
    plane = scene(1)[0]
    flow = 0.01 * np.random.default_rng(0).standard_normal((2, *plane.shape), np.float32)
    here, there = np.float32(with_noise(np.stack([plane, plane]), sigma))
    assert (_even(np, flow, here, there) == flow).all() == (sigma == 0)


def test_a_copy_of_a_frame_hides_no_noise():
    """As where 12 frames a second are shown as 24: between copies nothing differs."""
    clip = scene(8)
    noisy = with_noise(clip, 0.1)[[0, 0, 1, 1, 2, 2, 3, 3]]
    flow = [way[[0] * 8].copy() for way in motion()]
    flow[0][::2], flow[1][1::2] = 0, 0
    assert psnr(ss.denoise(noisy, flow=tuple(flow)), clip[[0, 0, 1, 1, 2, 2, 3, 3]]) > 20 + 5


def test_noise_is_found_under_a_flash():
    clip = scene(5).copy()
    clip[2] = 0.6 * clip[2] + 0.1
    told = []
    frames = [(frame,) for frame in with_noise(clip, 0.1)]
    ways = iter([0, 1] * 4)
    list(ss.video.denoise.denoise_planes(frames, flow=lambda a, b: FLOW[next(ways)], noted=told.append))
    np.testing.assert_allclose(np.ravel(told), 0.1, rtol=0.1)


@pytest.mark.full
def test_chunks_find_the_same_noise():
    clip = scene(15, 40, 52)
    noisy, flow = clip + 0.07 * blurred(clip), motion(15, 40, 52)
    chunks = ss.chunks(15, 8, ss.denoise_overlap(radius=1))
    parts = [ss.denoise(noisy[c.read], radius=1, flow=tuple(way[c.read] for way in flow))[c.keep] for c in chunks]
    np.testing.assert_array_equal(np.concatenate(parts), ss.denoise(noisy, radius=1, flow=flow))


def test_noise_counts_as_often_as_a_pass_says():
    """Levels are those of white, whatever the planes; between those that are named, times change with their logarithm."""

    def times(level, planes=1, **options):
        noise = Noise.white([np.sqrt(planes) * level] * planes)
        frame = Frame(np.zeros((planes, 8, 8), np.float32), noise, [False], white=np.sqrt(planes))
        return Pass(lambda *_: None, lambda *_: None, window=1, guided=False, **options).times_noise(frame)

    options = {"times": ((0.01, 0.04), (1.2, 1.0))}
    assert [times(level, **options) for level in (0, 0.01, 0.04, 1)] == [1.2, 1.2, 1, 1]
    assert times(0.02, **options) == pytest.approx(1.1)
    assert times(0.02, planes=3, **options) == pytest.approx(1.1)
    assert times(0.02) == 1


# --- noise that is known ----------------------------------------------------------------------------
def test_noise_that_is_found_once_is_given_to_denoise():
    cv2 = pytest.importorskip("cv2")
    assert cv2
    clip = scene(6, 64, 80)
    noisy = clip + 0.07 * blurred(clip)
    noise = ss.estimate_noise(noisy)
    assert str(noise).startswith("Y: noise of 1")
    assert "low" in str(noise)
    assert abs(psnr(ss.denoise(noisy, noise), clip) - psnr(ss.denoise(noisy), clip)) < 0.1
    eight = (255 * noisy.clip(0, 1)).round().astype(np.uint8)
    assert ss.denoise(eight, noise).dtype == np.uint8
    assert noise.plot().dtype == np.uint8
    assert noise.plot()[4, 4] > 1.5 * float(noise.plot()[4, 100])


def test_noise_of_a_flat_box_is_that_of_the_clip():
    clip = np.stack([scene(3, 48, 64)] * 3, -1)
    clip[:, 8:40, 8:40] = 0.4
    noise = ss.estimate_noise(with_noise(clip, 0.05), box=(8, 8, 32, 32))
    np.testing.assert_allclose(noise.sigma, 0.05, rtol=0.1)
    assert noise.shapes == (None, None, None)


def yuv(frames=6, seed=1):
    """Return pictures of planes, of which U and V are coarser and dimmer, and the same under noise."""
    rng, y = np.random.default_rng(seed), scene(frames, 96, 112)
    clean = [(a, 0.5 * a[::2, ::2] + 0.2, 0.8 - 0.5 * a[::2, ::2]) for a in y]
    noise = 0.07 * blurred(y)
    sizes = [plane.shape for plane in clean[0]]
    noisy = [
        (a + n, u + 0.05 * rng.standard_normal(sizes[1]), v + 0.08 * rng.standard_normal(sizes[2]))
        for (a, u, v), n in zip(clean, noise, strict=True)
    ]
    return clean, noisy


def test_noise_of_planes_is_that_which_denoise_planes_finds():
    pytest.importorskip("cv2")
    clean, noisy = yuv()
    noise = ss.estimate_noise(iter(noisy))
    assert [line.partition(":")[0] for line in str(noise).splitlines()] == ["Y", "U", "V"]
    np.testing.assert_allclose(noise.sigma, [0.07, 0.05, 0.08], rtol=0.1)
    assert [shape is None for shape in noise.shapes] == [False, True, True]

    def scores(sigma):
        found = denoise_planes(noisy, sigma)
        return np.array([[psnr(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(found, clean, strict=True)])

    given, found, by_hand = (scores(sigma).mean(0) for sigma in (noise, None, noise.sigma))
    np.testing.assert_allclose(given, found, atol=0.1)
    assert given[0] > by_hand[0] + 1
    assert (given[1:] > by_hand[1:] - 0.3).all()


def test_a_map_is_that_of_all_planes():
    clean, _ = yuv(3)
    strength = np.full((96, 112), 0.01)
    strength[:, 56:] = 0.1
    rng = np.random.default_rng(1)
    noisy = [
        tuple(p + strength[:: 96 // len(p), :: 96 // len(p)] * rng.standard_normal(p.shape) for p in c) for c in clean
    ]
    level = float(np.sqrt((strength**2).mean()))
    mapped, even = (list(denoise_planes(noisy, s, flow=None)) for s in (strength, level))
    for plane in range(3):
        assert psnr(mapped[0][plane], clean[0][plane]) > psnr(even[0][plane], clean[0][plane]) + 0.5


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_noise_of_means_follows_from_that_of_pixels(factors):
    """The spectrum of correlated noise is measured before and after its pixels are averaged."""
    still = np.zeros((40, 256, 256))

    def measured(planes):
        return Noise.of(*of_flat(np, np.float32(planes)))

    planes = 0.05 * blurred(still)[:1]
    down, across = factors
    averaged = planes.reshape(1, 256 // down, down, 256 // across, across).mean((2, 4))
    told, wanted = measured(planes).coarsened(factors), measured(averaged)
    np.testing.assert_allclose(told.sigma, wanted.sigma, rtol=0.1)
    shapes = [np.ones((8, 8)) if noise.shapes[0] is None else noise.shapes[0] for noise in (told, wanted)]
    np.testing.assert_allclose(shapes[0][:4, :4], shapes[1][:4, :4], rtol=0.25)


def test_a_box_lies_in_every_plane():
    rng = np.random.default_rng(0)
    y, u, v = (0.4 + s * rng.standard_normal(n) for s, n in ((0.1, (64, 80)), (0.05, (32, 40)), (0.02, (32, 40))))
    y[:, :32] = u[:, :16] = v[:, :16] = rng.random((1, 1))
    noise = ss.estimate_noise([(y, u, v)] * 2, box=(8, 32, 48, 48))
    np.testing.assert_allclose(noise.sigma, [0.1, 0.05, 0.02], rtol=0.1)
    eight = [tuple(np.rint(1023 * p.clip(0, 1)).astype(np.uint16) for p in (y, u, v))]
    ten = ss.estimate_noise(eight, box=(8, 32, 48, 48), white=1023)
    np.testing.assert_allclose(ten.sigma, noise.sigma, rtol=0.02)


def test_strength_may_differ_by_channel(monkeypatch):
    monkeypatch.setattr(simd, "has_halves", lambda: False)
    clip, flow = np.stack([scene(5)] * 3, -1), motion(5)
    noisy = clip + np.array([0.02, 0.05, 0.15]) * np.random.default_rng(1).standard_normal(clip.shape)
    same, each = (ss.denoise(noisy, s, flow=flow) for s in (0.0917, (0.02, 0.05, 0.15)))
    assert psnr(each, clip) > psnr(same, clip)
    np.testing.assert_allclose(ss.denoise(noisy, (0.09,) * 3, flow=flow), ss.denoise(noisy, 0.09, flow=flow), atol=1e-5)


@pytest.mark.parametrize("quality", ["fast", pytest.param("high", marks=pytest.mark.full)])
def test_strength_may_differ_by_pixel(quality):
    clip, flow = scene(5, 48, 56), motion(5, 48, 56)
    strength = np.full((48, 56), 0.02)
    strength[:, 28:] = 0.12
    noisy = clip + strength * np.random.default_rng(1).standard_normal(clip.shape)
    even, mapped = (
        ss.denoise(noisy, s, flow=flow, quality=quality) for s in (float(np.sqrt((strength**2).mean())), strength)
    )
    assert psnr(mapped, clip) > psnr(even, clip) + 0.5
    np.testing.assert_array_equal(ss.denoise(noisy, np.zeros((48, 56)), flow=flow), ss.denoise(noisy, 0, flow=flow))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ss.denoise(np.zeros((3, 9, 9)), np.zeros((4, 4))), r"denoise: sigma has shape \(4, 4\), expected"),
        (lambda: ss.denoise(np.zeros((3, 9, 9, 3)), [0.1, 0.1, -1]), "denoise: sigma is -1"),
        (
            lambda: ss.denoise(np.zeros((3, 9, 9, 3)), ss.estimate_noise(np.zeros((9, 9)))),
            "denoise: sigma is the noise of 1",
        ),
        (lambda: ss.estimate_noise(np.zeros((9, 9)), box=(0, 0, 9, 10)), "estimate_noise: box is"),
        (lambda: ss.estimate_noise(np.zeros((9, 9)), box=(0, 0, 7, 9)), "estimate_noise: box is"),
        (lambda: ss.estimate_noise(np.zeros((9, 9)), flow="raft"), "estimate_noise: flow is"),
        (lambda: ss.estimate_noise(3), "estimate_noise: frames"),
        (lambda: ss.estimate_noise([]), "estimate_noise: frames has none"),
        (lambda: ss.estimate_noise([(np.zeros((16, 16)), np.zeros((8, 8)))], box=(0, 0, 9, 9)), "estimate_noise: box"),
        (lambda: ss.estimate_noise([(np.zeros((16, 16)), np.zeros((3, 8)))]), "estimate_noise: planes of a frame"),
        (
            lambda: list(denoise_planes([(np.zeros((9, 9)),) * 3], ss.estimate_noise(np.zeros((9, 9))))),
            "denoise_planes: sigma is the noise of 1 planes, expected 3",
        ),
        (lambda: list(denoise_planes([(np.zeros((9, 9)),) * 3], np.zeros((4, 4)))), "denoise_planes: sigma has shape"),
    ],
)
def test_noise_that_does_not_fit_is_one_clear_error(call, said):
    with pytest.raises(ss.ShiftsearchError, match=said):
        call()


def test_threads_that_share_a_frame_see_strengths_only_when_these_are_whole():
    """What another thread sees while this one computes is nothing, and then the strength of each patch."""
    noise = Noise((0.1,), (None,), np.array([0.0, 1.0]), (np.array([0.5, 1.5]),))
    frame, seen = Frame(np.random.default_rng(0).random((1, 24, 20)), noise, [False]), []

    class Watched:
        def __getattr__(self, name):
            seen.append(dict(frame._relative))
            return getattr(np, name)

    found = frame.relative(Watched(), 0, Pass(shrink=None, find=None, window=1, guided=False))
    assert seen
    assert not any(seen)
    assert found.ndim == 2
    assert frame.relative(np, 0, Pass(shrink=None, find=None, window=1, guided=False)) is found
