"""Chunks put together are the clip, and scenes begin where the content changes and nowhere else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch.video.scenes import with_scenes


# --- chunks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("frames", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("cuts", [(), (1,), (4, 5), (7, 3, 3)])
def test_every_result_is_kept_once_and_its_inputs_are_read(frames, size, overlap, cuts):
    cuts = [cut for cut in cuts if cut < frames]
    ends = sorted({0, frames, *cuts})
    found = ss.chunks(frames, size, overlap, cuts)
    assert [n for c in found for n in range(c.keep_start, c.keep_stop)] == list(range(frames))
    for c in found:
        assert 1 <= c.keep_stop - c.keep_start <= size
        begin, end = next(pair for pair in itertools.pairwise(ends) if pair[0] <= c.keep_start < pair[1])
        assert c.keep_stop <= end
        assert (c.start, c.stop) == (max(begin, c.keep_start - overlap), min(end, c.keep_stop + overlap))
        numbers = np.arange(frames)
        np.testing.assert_array_equal(numbers[c.read][c.keep], numbers[c.keep_start : c.keep_stop])


def test_chunks_of_a_scene_have_equal_sizes():
    assert {c.keep_stop - c.keep_start for c in ss.chunks(100, 11, 2)} == {10}


def test_a_search_over_chunks_is_the_search_over_the_clip(rng):
    clip = rng.standard_normal((9, 2, 8, 9)).astype(np.float32)
    whole = ss.search(clip, clip, window=3, topk=2, radius=1)
    parts = []
    for c in ss.chunks(9, 1, overlap=2):
        piece = ss.search(clip[c.read], clip[c.read], window=3, topk=2, radius=1)
        parts.append([array[:, c.keep] for array in piece])
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts], 1), whole[i])


def test_no_frames_are_no_chunks():
    assert ss.chunks(0, 4, 1) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((-1, 4, 1), "chunks: frames is -1, expected a whole number from 0"),
        ((10, 0, 1), "chunks: size is 0, expected a whole number from 1"),
        ((10, 4, -1), "chunks: overlap is -1"),
        ((10.0, 4, 1), "chunks: frames is 10.0"),
        ((10, True, 1), "chunks: size is True"),
        ((10, 4, 1, [10]), "chunks: cuts has 10, expected numbers of frames from 1 to 9"),
        ((10, 4, 1, [0]), "chunks: cuts has 0"),
        ((10, 4, 1, [2.0]), r"chunks: cuts has 2\.0"),
        ((10, 4, 1, 3), "chunks: cuts is 3, expected"),
    ],
)
def test_bad_chunks_are_clear_errors(arguments, said):
    with pytest.raises(ShiftsearchError, match=said):
        ss.chunks(*arguments)


# --- scenes -----------------------------------------------------------------------------------------
def scene(rng, frames, height, width, speed=(1.7, -0.6), channels=3, brightness=0.5):
    """Return a texture of waves that moves `speed` pixels (x, y) per frame, 0..1."""
    x, y = np.arange(width), np.arange(height)[:, None]
    out = np.full((frames, height, width, channels), brightness)
    for _ in range(40):
        fx, fy = rng.normal(0, 0.04, 2)
        phase = rng.uniform(0, 2 * np.pi, channels)
        for t in range(frames):
            along = fx * (x - speed[0] * t) + fy * (y - speed[1] * t)
            out[t] += 0.05 * np.cos(2 * np.pi * along[..., None] + phase)
    return out.astype(np.float32)


def cuts_of(clip):
    return list(ss.scene_cuts(clip))


@pytest.mark.full
@pytest.mark.parametrize("sigma", [0, 15, 40])
@pytest.mark.parametrize("size", [(48, 64), (144, 176), (97, 131)])
def test_cuts_are_found_under_noise(sigma, size, rng):
    clip = np.concatenate([scene(rng, n, *size) for n in (4, 1, 3, 5)])
    clip += sigma / 255 * rng.standard_normal(clip.shape, np.float32)
    assert cuts_of(clip) == [4, 5, 8]
    assert cuts_of(np.clip(np.rint(255 * clip), 0, 255).astype(np.uint8)) == [4, 5, 8]
    assert cuts_of(clip[..., 0]) == [4, 5, 8]


@pytest.mark.full
@pytest.mark.parametrize("speed", [(0, 0), (12, 0), (-7, 7)])
def test_fast_motion_is_no_cut(speed, rng):
    assert cuts_of(scene(rng, 8, 144, 176, speed)) == []


def test_exposure_and_noise_of_a_flat_scene_are_no_cuts(rng):
    clip = scene(rng, 6, 64, 80)
    clip *= np.linspace(1, 0.6, 6, dtype=np.float32)[:, None, None, None]
    assert cuts_of(clip) == []
    flat = np.full((5, 144, 176, 3), 0.2) + 50 / 255 * rng.standard_normal((5, 144, 176, 3))
    assert cuts_of(flat) == []
    assert cuts_of(np.zeros((5, 40, 40))) == []


def texture_and_grain(rng, frames, size=144):
    """Return a fine texture, another one in each colour, that moves by fractions of a pixel, and grain of all colours."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)
    f = np.hypot(fy, fx)
    waves = np.fft.fft2(rng.standard_normal((3, size, size))) * (f < 0.4) / np.sqrt(f + 0.05)
    texture = np.stack(
        [np.fft.ifft2(waves * np.exp(2j * np.pi * t * (0.6 * fy + 1.3 * fx))).real for t in range(frames)]
    )
    blurred = np.fft.fft2(rng.standard_normal((frames, 1, size, size))) * np.exp(-20 * f**2)
    grain = np.fft.ifft2(blurred).real
    return 0.5 + (0.12 * texture / texture.std()).transpose(0, 2, 3, 1), (0.055 * grain / grain.std()).transpose(
        0, 2, 3, 1
    )


def test_grain_that_colours_share_is_no_cut(rng):
    assert cuts_of(np.concatenate([sum(texture_and_grain(rng, frames)) for frames in (3, 2)])) == [3]


def test_black_to_white_is_a_cut():
    assert cuts_of(np.repeat(np.uint8([0, 255]), 3)[:, None, None] * np.ones((16, 16), np.uint8)) == [3]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (33, 1)])
def test_tiny_frames_have_scenes_too(size):
    clip = np.zeros((4, *size, 3))
    clip[2:] = 1
    assert cuts_of(clip) == [2]


def test_frames_are_read_one_at_a_time_and_come_back(rng):
    clip, read = scene(rng, 4, 48, 64), []

    def frames():
        for n, frame in enumerate(clip):
            read.append(n)
            yield frame

    for n, (frame, begins) in enumerate(with_scenes("op", frames())):
        assert read == list(range(n + 1))
        assert np.shares_memory(frame, clip[n])
        assert begins == (n == 0)
    assert cuts_of([]) == []
    assert cuts_of(clip[:1]) == []


def test_nan_makes_no_warning_and_no_cut(rng):
    clip = scene(rng, 4, 48, 64)
    clip[2, 20:23, 5:9] = np.nan
    clip[3, 4, 5] = np.inf
    assert cuts_of(clip) == []


def test_frames_of_two_libraries_are_no_clip():
    torch = pytest.importorskip("torch")
    frame = np.zeros((9, 9))
    for function in (ss.scene_cuts, ss.align_stream, ss.denoise_stream):
        with pytest.raises(
            ShiftsearchError, match=rf"{function.__name__}: arrays are of different kinds \(frame from torch"
        ):
            list(function([frame, torch.from_numpy(frame)]))


def test_torch_frames_have_the_same_scenes(rng):
    torch = pytest.importorskip("torch")
    clip = np.concatenate([scene(rng, 3, 48, 64), scene(rng, 3, 48, 64)])
    assert cuts_of(torch.from_numpy(clip)) == [3]


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (3, "scene_cuts: frames is a int, expected a clip or an iterator over frames"),
        (
            [np.zeros((4, 5)), np.zeros((5, 4))],
            r"scene_cuts: frame 1 is float64 \(5, 4\), expected float64 \(4, 5\) as frame 0",
        ),
        (
            [np.zeros((4, 5)), np.zeros((4, 5), np.uint8)],
            r"scene_cuts: frame 1 is uint8 \(4, 5\), expected float64 \(4, 5\) as frame 0",
        ),
        ([np.zeros((4, 9, 9, 3))], r"scene_cuts: frame has shape \(4, 9, 9, 3\), expected \(H, W\) or \(H, W, C\)"),
        ([None], "scene_cuts: frame is None"),
        ("clip.mp4", "scene_cuts: frame is a str"),
    ],
)
def test_arrays_that_are_no_frames_are_one_clear_error(frames, said):
    with pytest.raises(ShiftsearchError, match=said):
        cuts_of(frames)
