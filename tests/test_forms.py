"""Frames may be given as a list, or as pictures of PIL, and come back in the same form with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError, flow


def moving(*channels: int, dtype=np.uint8) -> np.ndarray:
    """Return a clip (5, 36, 48, *channels) that moves."""
    still = np.random.default_rng(0).integers(0, 256, (12, 16, *channels)).repeat(3, 0).repeat(3, 1)
    clip = np.stack([np.roll(still, (t, 2 * t), (0, 1)) for t in range(5)])
    return (257 * clip if dtype == np.uint16 else clip).astype(dtype)


@pytest.fixture
def pil():
    return pytest.importorskip("PIL.Image")


def same(found, expected) -> None:
    """Check that frames have these numbers and this dtype."""
    for frame, wanted in zip(found, expected, strict=True):
        assert np.asarray(frame).dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(frame), wanted)


OF_CLIPS = {
    "align": lambda frames: ss.align(frames[1], frames, flow="match"),
    "align_clip": lambda frames: ss.align_clip(frames, flow=None),
    "denoise": lambda frames: ss.denoise(frames, 10, flow=None, quality="preview"),
}
OF_STREAMS = {
    "align_stream": lambda frames: ss.align_stream(frames, flow=None),
    "denoise_stream": lambda frames: ss.denoise_stream(frames, 10, flow=None, quality="preview"),
}


@pytest.mark.parametrize("form", [list, tuple])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("name", OF_CLIPS)
def test_a_list_of_arrays_gives_a_list_of_arrays(name, channels, form):
    clip = moving(*channels)
    found = OF_CLIPS[name](form(clip))
    assert type(found) is form
    assert all(type(frame) is np.ndarray for frame in found)
    same(found, OF_CLIPS[name](clip))


@pytest.mark.parametrize("name", OF_CLIPS)
def test_tensors_give_tensors(name):
    torch = pytest.importorskip("torch")
    clip = moving(3)
    found = OF_CLIPS[name]([*torch.from_numpy(clip)])
    assert all(isinstance(frame, torch.Tensor) for frame in found)
    same(found, OF_CLIPS[name](clip))


@pytest.mark.parametrize(("mode", "channels"), [("L", ()), ("LA", (2,)), ("RGB", (3,)), ("RGBA", (4,)), ("I;16", ())])
@pytest.mark.parametrize("name", [*OF_CLIPS, *OF_STREAMS])
def test_pictures_give_pictures(pil, name, mode, channels):
    clip = moving(*channels, dtype=np.uint16 if mode == "I;16" else np.uint8)
    pictures = [*map(pil.fromarray, clip)]
    assert pictures[0].mode == mode
    call = {**OF_CLIPS, **OF_STREAMS}[name]
    found = [*call(pictures)]
    assert all(isinstance(frame, pil.Image) and frame.mode == mode for frame in found)
    same(found, [*call(clip)])


def test_one_picture_gives_one_picture_or_one_for_each_reference(pil):
    clip = moving(3)
    first, second = map(pil.fromarray, clip[:2])
    aligned, offsets, mask = ss.align(first, second, flow="match", return_offsets=True, return_mask=True)
    assert isinstance(aligned, pil.Image)
    expected = ss.align(clip[0], clip[1], flow="match", return_offsets=True, return_mask=True)
    same((aligned, offsets, mask), expected)
    found = ss.align(clip, second, flow=None)
    assert all(isinstance(frame, pil.Image) for frame in found)
    same(found, ss.align(clip, clip[1], flow=None))
    same([ss.denoise(first, 10)], [ss.denoise(clip[0], 10)])


def test_what_is_no_frame_comes_back_as_an_array(pil):
    clip = moving(3)
    pictures = [*map(pil.fromarray, clip)]
    for frames in (pictures, [*clip]):
        _, offsets, mask = ss.align_clip(frames, flow=None, return_offsets=True, return_mask=True)
        assert (offsets.shape, mask.shape) == ((5, 2, 36, 48), (5, 36, 48))
        found = flow.match(frames, frames[0])
        np.testing.assert_array_equal(found, flow.match(clip, clip[0]))
        assert str(flow.check(frames[0], frames[1], found[1])) == str(flow.check(clip[0], clip[1], found[1]))
        assert ss.estimate_noise(frames, flow=None).sigma == ss.estimate_noise(clip, flow=None).sigma
        assert [*ss.scene_cuts(frames)] == []
    assert flow.match(pictures[0], pictures[1], sigma=5).shape == (2, 36, 48)
    cut = [*pictures, *(pil.fromarray(255 - frame[::-1]) for frame in clip)]
    assert [*ss.scene_cuts(cut)] == [5]


def test_frames_that_look_like_colours_are_grey_frames_in_a_list():
    """As an array of three axes, whose last has length 4, they would be one frame in colour."""
    clip = np.random.default_rng(0).random((9, 40, 4), np.float32)
    found = ss.denoise([*clip], 0.1, flow=None, quality="preview")
    assert [frame.shape for frame in found] == [(40, 4)] * 9
    same(found, [*ss.denoise_stream(iter(clip), 0.1, flow=None, quality="preview")])


class Bare:
    """An array that can be exported and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("name", OF_CLIPS)
def test_arrays_that_can_only_be_exported_give_those_of_numpy(name):
    clip = moving(3)
    expected = OF_CLIPS[name](clip)
    found = OF_CLIPS[name]([*map(Bare, clip)])
    assert all(type(frame) is np.ndarray for frame in found)
    same(found, expected)
    if name != "align":  # this one takes a frame out of the clip first
        same(OF_CLIPS[name](Bare(clip)), expected)


A = np.zeros((36, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "frames is empty, expected at least one frame"),
        ([A, A[:35]], r"frames\[1\] is ndarray of uint8 \(35, 48, 3\), expected ndarray of uint8 \(36, 48, 3\)"),
        ([A, A.astype(np.uint16)], r"frames\[1\] is ndarray of uint16 \(36, 48, 3\), expected ndarray of uint8"),
        ((A, A[..., 0]), r"frames\[1\] is ndarray of uint8 \(36, 48\), expected .* as frames\[0\]"),
        ([A[None]], r"frames\[0\] has shape \(1, 36, 48, 3\), expected \(H, W\) or \(H, W, C\)"),
        ([A, "b.png"], r"frames\[1\] is a str, expected an array or a picture"),
        ([[1, 2], [3, 4]], r"frames\[0\] is a list, expected an array or a picture"),
    ],
)
def test_lists_that_are_no_clip_are_an_error(frames, said):
    with pytest.raises(ShiftsearchError, match=f"denoise: {said}"):
        ss.denoise(frames, 10)
    with pytest.raises(ShiftsearchError, match=f"align: {said}"):
        ss.align(A, frames)


def test_pictures_of_other_modes_and_sizes_are_an_error(pil):
    palette = pil.new("P", (48, 36))
    said = r"denoise: frames is a picture of mode P, expected L, LA, RGB, RGBA, I;16: try .convert\(\"RGB\"\)"
    with pytest.raises(ShiftsearchError, match=said):
        ss.denoise(palette)
    with pytest.raises(ShiftsearchError, match="denoise_stream: a frame is a picture of mode P"):
        ss.denoise_stream([palette])
    with pytest.raises(ShiftsearchError, match=r"flow.match: target is a picture of mode P"):
        flow.match(pil.new("L", (48, 36)), palette)
    with pytest.raises(ShiftsearchError, match=r"align: frames\[1\] is ndarray of uint8 \(36, 47\), expected"):
        ss.align(A[..., 0], [pil.new("L", (48, 36)), pil.new("L", (47, 36))])
