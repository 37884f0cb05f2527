"""Frames in every layout, dtype and library: results have those of the frames that were given."""

from __future__ import annotations

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch._arrays import transform
from shiftsearch.video import frames
from shiftsearch.video.noise import noise_level

SHAPES = {
    "grey frame": ((6, 7), (1, 1, 6, 7)),
    "colour frame": ((6, 7, 3), (1, 3, 6, 7)),
    "grey clip": ((5, 6, 7), (5, 1, 6, 7)),
    "colour clip": ((5, 6, 7, 3), (5, 3, 6, 7)),
    "one channel": ((5, 6, 7, 1), (5, 1, 6, 7)),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1)),
    "one grey pixel": ((1, 1), (1, 1, 1, 1)),
}


def clip_of(shape, dtype, rng):
    if dtype in frames.WHITE:
        return rng.integers(0, frames.WHITE[dtype] + 1, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def through(function, **clips):
    """Return `function(xp, *planes)` of clips, in the layout of the first of them."""

    def natively(xp, *arrays):
        found = function(xp, *(frames.planar("op", name, array) for name, array in zip(clips, arrays, strict=True)))
        several = tuple(frames.restored(xp, x, arrays[0]) for x in (found if isinstance(found, tuple) else (found,)))
        return several if isinstance(found, tuple) else several[0]

    return transform("op", natively, frames.DTYPES, **clips)


@pytest.mark.parametrize("dtype", frames.DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_is_the_same(name, dtype, rng):
    shape, planar = SHAPES[name]
    clip, seen = clip_of(shape, dtype, rng), []

    def function(xp, array):
        seen.append((xp, array.shape, array.dtype.name))
        return array

    result = through(function, frames=clip)
    assert seen == [(np, planar, "float64" if dtype == "float64" else "float32")]
    assert (type(result), result.dtype, result.flags.c_contiguous) == (np.ndarray, clip.dtype, True)
    np.testing.assert_array_equal(result, clip)
    assert not np.shares_memory(result, clip)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_whole_number_survives(dtype):
    levels = np.arange(frames.WHITE[dtype] + 1, dtype=dtype).reshape(1, 16, -1)
    np.testing.assert_array_equal(through(lambda xp, x: x, frames=levels), levels)
    black, white = through(lambda xp, x: x, frames=np.array([[[0, frames.WHITE[dtype]] * 4]], dtype))[0, 0, :2]
    assert (black, white) == (0, frames.WHITE[dtype])


def test_the_scale_is_0_to_1_and_channels_are_planes():
    clip = np.zeros((2, 3, 8, 3), np.uint8)
    clip[1, 2, 5] = 0, 51, 255
    through(lambda xp, x: np.testing.assert_allclose(x[1, :, 2, 5], [0, 0.2, 1]) or x, frames=clip)


def test_whole_numbers_are_rounded_and_clipped_and_floats_are_neither():
    values = np.array([-0.1, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.1, np.inf, -np.inf, np.nan])
    clip = np.zeros((1, 1, 8), np.uint8)
    result = through(lambda xp, x: values.reshape(1, 1, 1, 8), frames=clip)
    assert result.tolist() == [[[0, 0, 1, 255, 255, 255, 0, 0]]]
    result = through(lambda xp, x: values.reshape(1, 1, 1, 8), frames=clip.astype(np.float32))
    np.testing.assert_array_equal(result[0, 0], values.astype(np.float32))


def test_results_may_be_several_with_other_lengths_and_channels(rng):
    clip = clip_of((5, 6, 7), "uint8", rng)
    shorter, colour, one = through(lambda xp, x: (x[:2], x.repeat(3, 1), x[:1]), frames=clip)
    assert (shorter.shape, colour.shape, one.shape) == ((2, 6, 7), (5, 6, 7, 3), (1, 6, 7))
    several = through(lambda xp, x: x.repeat(4, 0), frames=clip[0])
    assert several.shape == (4, 6, 7)


def test_clips_keep_their_own_dtype_and_the_first_decides(rng):
    first, second = clip_of((2, 6, 7), "uint16", rng), clip_of((2, 6, 7), "float64", rng)
    result = through(lambda xp, x, y: x + 0 * y, first=first, second=second)
    np.testing.assert_array_equal(result, first)


def test_any_strides_are_allowed(rng):
    whole = clip_of((4, 12, 14, 3), "uint8", rng)
    for view in (whole[::-1, ::2, ::-2], whole.transpose(0, 2, 1, 3), whole[..., ::-1], whole[..., 0]):
        np.testing.assert_array_equal(through(lambda xp, x: x, frames=view), view)


def test_input_is_not_written(rng):
    clip = clip_of((2, 6, 7), "float32", rng)
    clip.flags.writeable = False
    assert through(lambda xp, x: x, frames=clip).flags.writeable


@pytest.mark.parametrize("dtype", frames.DTYPES)
def test_torch_gives_torch(dtype, rng):
    torch = pytest.importorskip("torch")
    clip = clip_of((2, 6, 7, 3), dtype, rng)
    result = through(lambda xp, x: x, frames=torch.from_numpy(clip))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), clip)


def test_a_tensor_that_needs_a_gradient_is_an_error():
    torch = pytest.importorskip("torch")
    with pytest.raises(ShiftsearchError, match="op: frames requires a gradient"):
        through(lambda xp, x: x, frames=torch.zeros(2, 6, 7, requires_grad=True))


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (np.zeros((2, 3, 6, 7)), r"op: frames has shape \(2, 3, 6, 7\), expected .*transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 9, 6, 7)), r"op: frames has shape \(2, 9, 6, 7\), expected .* 1 to 4 channels$"),
        (np.zeros((1, 2, 6, 7, 3)), "one clip at a time"),
        (np.zeros(5), r"op: frames has shape \(5,\), expected \(T, H, W\) or"),
        (np.zeros(()), r"op: frames has shape \(\)"),
        (np.zeros((0, 6, 7)), r"op: frames has shape \(0, 6, 7\), expected at least one frame"),
        (np.zeros((2, 0, 7, 3)), "expected at least one frame of at least one pixel"),
        (np.zeros((2, 6, 7, 0)), r"op: frames has shape \(2, 6, 7, 0\)"),
        (np.zeros((2, 6, 7), np.int32), "op: frames is int32, expected one of uint8, uint16, float16"),
        (np.zeros((2, 6, 7), bool), "op: frames is bool"),
        (np.zeros((2, 6, 7), complex), "op: frames is complex128"),
        (np.zeros((2, 6, 7), ">u2"), "op: frames is >u2"),
        (np.ma.zeros((2, 6, 7)), "op: frames is a masked array"),
        ([[1.0]], "op: frames is a list"),
        (None, "op: frames is None"),
        ("clip.mp4", "op: frames is a str"),
    ],
)
def test_arrays_that_are_no_clips_are_one_clear_error(clip, said):
    with pytest.raises(ShiftsearchError, match=said):
        through(lambda xp, x: x, frames=clip)


def test_arrays_on_a_device_stay_on_it(rng):
    from device_arrays import Namespace, OnDevice

    clip = clip_of((2, 6, 7, 3), "uint8", rng).view(OnDevice)
    result = frames.restored(Namespace(), frames.planar("op", "frames", clip), clip)
    assert isinstance(result, OnDevice)
    np.testing.assert_array_equal(result.get(), clip.get())


# --- progress ---------------------------------------------------------------------------------------
def test_progress_is_shown_by_any_function_like_tqdm(rng):
    clip = clip_of((3, 12, 16), "uint8", rng)

    def counted(items, total):
        seen.append(total)
        for item in items:
            seen.append("next")
            yield item

    calls = {
        "denoise": lambda progress: ss.denoise(clip, 5, flow=None, radius=1, progress=progress),
        "align": lambda progress: ss.align(clip[0], clip, None, progress=progress),
        "align_clip": lambda progress: ss.align_clip(clip, 0, None, progress=progress),
    }
    for name, call in calls.items():
        seen = []
        np.testing.assert_array_equal(call(counted), call(None))
        assert seen == [3, "next", "next", "next"]
        with pytest.raises(ShiftsearchError, match=f"^{name}: progress is True, expected a function such as tqdm"):
            call(True)


# --- noise ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sigma", [0, 5, 10, 20, 50])
def test_noise_is_found_and_texture_is_none(sigma, rng):
    y, x = np.mgrid[:144, :176]
    stripes = np.stack([127 + 100 * np.sin(x / 3) * np.cos(y / 4), 90 + 80 * np.cos((x + y) / 5)])
    noisy = stripes + sigma * rng.standard_normal(stripes.shape)
    assert abs(noise_level(np, noisy) - sigma) < 0.05 * sigma + 0.5


def test_no_noise_is_found_in_tiny_frames_and_without_finite_pixels():
    assert noise_level(np, np.eye(5)[None, :4]) == noise_level(np, np.eye(5)[None, :, :4]) == 0
    assert noise_level(np, np.full((1, 9, 9), np.nan)) == 0
