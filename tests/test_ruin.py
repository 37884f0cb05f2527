"""What newcomers get wrong: each is an error or a warning that says what to type instead, and that then works."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from test_align import texture

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch.video.align import align_planes
from shiftsearch.video.denoise import denoise_planes

SIZE = (48, 64)
CLEAN = np.stack([texture(SIZE, (t, -t)) for t in range(4)]).astype(np.float32)  # (T, H, W, 3), 0..1
NOISY = CLEAN + np.float32(20 / 255) * np.random.default_rng(0).standard_normal(CLEAN.shape, np.float32)
BYTES = 255 * NOISY
TEN = np.clip(1023 * NOISY, 0, 1023).astype(np.uint16)
VIDEO = np.ascontiguousarray(np.moveaxis(NOISY, -1, 1))  # (T, C, H, W)
FLOW = np.zeros((4, 2, *SIZE), np.float32)
FLOW[:, 0], FLOW[:, 1] = 1, -1


def psnr(found, white=1.0):
    return float(-10 * np.log10(np.mean((found / white - CLEAN) ** 2)))


# --- the scale of values ----------------------------------------------------------------------------------
def dn(frames, sigma=None, **options):
    return ss.denoise(frames, sigma, flow=None, radius=1, **options)


def stream(frames, sigma=None, **options):
    return np.stack(list(ss.denoise_stream(iter(frames), sigma, flow=None, radius=1, **options)))


def planes(frames, sigma=None, **options):
    found = denoise_planes([(frame,) for frame in frames], sigma, flow=None, radius=1, **options)
    return np.stack([frame for (frame,) in found])


DENOISE = {"denoise": dn, "denoise_stream": stream, "denoise_planes": planes}


@pytest.mark.parametrize("name", DENOISE)
def test_denoise_says_what_to_type_when_the_scale_is_wrong(name):
    """The cures are those of the messages, and they denoise."""
    call = DENOISE[name]
    with pytest.raises(
        ShiftsearchError, match=rf"^{name}: sigma is 20, expected at most 1, .*sigma=20 / 255 for .*white=255"
    ):
        call(NOISY, sigma=20)
    assert psnr(call(NOISY, sigma=20 / 255)) > psnr(NOISY) + 6
    with pytest.warns(UserWarning, match=rf"^{name}: frames are floats around 1\d\d.*, and 1 is white: pass white=255"):
        call(BYTES)
    assert psnr(call(BYTES, sigma=20, white=255), 255) > psnr(NOISY) + 6
    with pytest.warns(
        UserWarning, match=rf"^{name}: frames have values up to 1023 in uint16, as of 10 bits.*pass bits=10"
    ):
        call(TEN, sigma=20)
    assert psnr(call(TEN, sigma=20, bits=10), 1023) > psnr(NOISY) + 6
    np.testing.assert_array_equal(call(TEN, sigma=20, bits=10), call(TEN, sigma=20, white=1023))


ALIGN = {
    "align": lambda frames, **options: ss.align(frames[0], frames, "match", **options),
    "align_clip": lambda frames, **options: ss.align_clip(frames, 0, "match", **options),
    "align_stream": lambda frames, **options: list(ss.align_stream(frames, flow="match", **options)),
    "align_planes": lambda frames, **options: list(align_planes([(f,) for f in frames], flow="match", **options)),
}


@pytest.mark.parametrize("name", ALIGN)
def test_align_says_what_to_type_when_the_scale_is_wrong(name):
    call, few = ALIGN[name], slice(0, 2)
    with pytest.raises(ShiftsearchError, match=rf"^{name}: sigma is 20, expected at most 1, .*sigma=20 / 255"):
        call(NOISY[few], sigma=20)
    with pytest.warns(UserWarning, match=rf"^{name}: frames are floats around 1\d\d.*: pass white=255"):
        call(BYTES[few])
    with pytest.warns(UserWarning, match=rf"^{name}: frames have values up to 1023.*pass bits=10"):
        call(TEN[few])
    shown = np.float32(call(TEN[few], bits=10)) / 1023
    np.testing.assert_allclose(shown, np.clip(call(np.float32(TEN[few]) / 1023), 0, 1), atol=1.1 / 1023)


@pytest.mark.parametrize("name", ["match", "pair"])
def test_flow_says_what_to_type_when_the_scale_is_wrong(name):
    measure = ss.flow.pair if name == "pair" else lambda frames, **options: ss.flow.match(frames, frames, **options)
    options = {"method": "match"} if name == "pair" else {}
    with pytest.raises(ShiftsearchError, match=rf"^flow\.{name}: sigma is 20, expected at most 1.*frames / 255"):
        measure(NOISY, sigma=20, **options)
    with pytest.warns(UserWarning, match=rf"^flow\.{name}: frames are floats around .*pass frames / 255"):
        measure(BYTES, **options)
    with pytest.warns(UserWarning, match=rf"^flow\.{name}: frames have values up to 1023.*pass frames \* 64"):
        measure(TEN, **options)


@pytest.mark.parametrize("name", [*DENOISE, "align_stream", "align_planes"])
@pytest.mark.parametrize(("frames", "cure"), [(BYTES, "white=255"), (TEN, "bits=10")])
def test_clips_that_begin_black_are_told_too(name, frames, cure):
    leader = np.zeros_like(frames[:1]).repeat(3, 0)
    with pytest.warns(UserWarning, match=cure) as told:
        (DENOISE | ALIGN)[name](np.concatenate([leader, frames]))
    assert len(told) == 1


@pytest.mark.parametrize("name", [*DENOISE, *ALIGN])
def test_values_above_the_bits_are_an_error_that_names_the_largest(name):
    """They would be cut to white without a word."""
    frames, call = TEN[:2] * 4, (DENOISE | ALIGN)[name]
    most = int(frames.max())
    with pytest.raises(
        ShiftsearchError, match=rf"^{name}: \w+ has values up to {most}, expected at most 1023, .*: pass bits=12, or"
    ):
        call(frames, bits=10)
    with pytest.raises(ShiftsearchError, match=rf"up to {most}, expected at most 1000, .*: pass white={most}, or"):
        call(frames, white=1000)
    np.testing.assert_array_equal(call(frames, bits=12), call(frames, white=4095))
    call(frames.clip(max=1023), bits=10)


def test_integers_of_torch_are_looked_at():
    torch = pytest.importorskip("torch")
    with pytest.warns(UserWarning, match=r"pass bits=10"):
        ss.denoise(torch.from_numpy(TEN[:2]), flow=None, radius=0)
    with pytest.raises(ShiftsearchError, match=r"^denoise: frames has values up to 1023, expected at most 511"):
        ss.denoise(torch.from_numpy(TEN[:2]), flow=None, radius=0, bits=9)


def test_the_warning_is_of_the_line_that_made_the_call():
    with pytest.warns(UserWarning, match="white=255") as told:
        ss.denoise(BYTES, flow=None, radius=0)
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("frames", "options"),
    [
        (np.clip(BYTES, 0, 255).astype(np.uint8), {}),
        (np.clip(65535 * NOISY, 0, 65535).astype(np.uint16), {}),
        (TEN // 64, {"bits": 10}),  # dark, and said to be
        (TEN, {"bits": 16}),
        (TEN, {"white": 65535}),
        (np.zeros((2, *SIZE), np.uint16), {}),  # black
        (np.random.default_rng(0).integers(0, 90, (2, *SIZE)).astype(np.uint16), {}),  # black with noise
        (NOISY * 1.9, {}),  # brighter than white
        (np.where(np.arange(64)[:, None] > 50, 100, NOISY).astype(np.float32), {}),  # a few lights far above white
        (BYTES, {"white": 1}),
        (np.full((2, *SIZE), np.nan, np.float32), {}),
    ],
)
def test_right_frames_are_taken_without_a_word(frames, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ss.denoise(frames[:2], 0, flow=None, radius=0, **options)
        ss.align(frames[0], frames[1], None, window=1, **options)


def test_bits_are_those_of_integers_that_have_room_for_them():
    for bits in (0, 17, 10.0, True):
        with pytest.raises(ShiftsearchError, match=r"denoise: bits is .*, expected a whole number from 1 to 16"):
            ss.denoise(TEN, bits=bits)
    with pytest.raises(ShiftsearchError, match=r"denoise: bits is 10, expected a whole number from 1 to 8"):
        ss.denoise(np.zeros((2, *SIZE), np.uint8), bits=10)
    with pytest.raises(ShiftsearchError, match=r"align: bits is 10 for frames of float32, expected white="):
        ss.align(NOISY[0], NOISY[1], None, bits=10)
    with pytest.raises(ShiftsearchError, match=r"align_clip: bits is 10 and white is 1023, expected one of them"):
        ss.align_clip(TEN, bits=10, white=1023)


# --- shapes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_come_last_are_told_to_the_ops(channels):
    q = np.zeros((3, 40, 48, channels), np.float32)
    last = rf"40, 48, {channels}\), .* pass np\.moveaxis\(q, -1, -3\)"
    for call, given, shape in ((ss.search, q, r"\(3, "), (ss.match, q, r"\(3, "), (ss.match, q[0], r"\(")):
        with pytest.warns(UserWarning, match=rf"^{call.__name__}: q has shape {shape}{last}"):
            call(given, given, window=1, topk=1)
        first = np.moveaxis(given, -1, -3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(first, first, window=1, topk=1)


TAKES_FRAMES = {
    "denoise": lambda f: ss.denoise(f, 0, flow=None, radius=0),
    "align": lambda f: ss.align(f, f, None, window=1),
    "align_clip": lambda f: ss.align_clip(f, 0, None, window=1),
    "estimate_noise": lambda f: ss.estimate_noise(f, flow=None),
    "flow.pair": lambda f: ss.flow.pair(f, method="dis"),
    "flow.dis": lambda f: ss.flow.dis(f, f),
}


@pytest.mark.parametrize("name", TAKES_FRAMES)
@pytest.mark.parametrize("channels", [3, 4])
def test_a_frame_whose_channels_come_first_is_told_from_a_grey_clip(name, channels):
    call, frame = TAKES_FRAMES[name], np.full((channels, 100, 120), 0.5, np.float32)
    cure = (
        r"np\.moveaxis\(\w+, 0, -1\), or \w+\.permute\(1, 2, 0\) of a tensor; if they are frames, \w+\[\.\.\., None\]"
    )
    with pytest.warns(UserWarning, match=rf"^{name}: .* is a grey clip of {channels} frames\. .*{cure}"):
        call(frame)
    single = name not in ("align_clip", "flow.pair")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for right in (frame[..., None], list(frame), np.full((5, 100, 120), 0.5, np.float32), frame[:, :40]):
            call(right)
        if single:
            call(np.moveaxis(frame, 0, -1))
            call(frame[:1])


def test_tensors_whose_channels_come_first_are_told_too():
    torch = pytest.importorskip("torch")
    frame = torch.zeros(3, 100, 120)
    with pytest.warns(UserWarning, match=r"^denoise: .*permute"):
        ss.denoise(frame, 0, flow=None, radius=0)
    assert ss.denoise(frame.permute(1, 2, 0), 0, flow=None).shape == (100, 120, 3)


@pytest.mark.parametrize("stream", [lambda f: ss.denoise([f], 0), lambda f: list(ss.denoise_stream([f], 0))])
def test_channels_that_come_first_are_an_error_in_lists_and_streams(stream):
    with pytest.raises(
        ShiftsearchError, match=r"expected \(H, W\) or \(H, W, C\): channels come last, as in np\.moveaxis"
    ):
        stream(np.zeros((3, 48, 64), np.float32))


@pytest.mark.parametrize("function", [ss.denoise, lambda v: ss.align(v, v), ss.align_clip, ss.flow.pair])
def test_channels_that_come_second_are_an_error_with_frames(function):
    with pytest.raises(ShiftsearchError, match=r"channels come last, as in frames\.transpose\(0, 2, 3, 1\)"):
        function(VIDEO)
    assert VIDEO.transpose(0, 2, 3, 1).shape == NOISY.shape


@pytest.mark.parametrize("flow", [FLOW, FLOW[1:]])
@pytest.mark.parametrize("op", ["search", "attend", "denoise"])
def test_one_flow_where_a_pair_is_expected_is_told_the_pair(op, flow):
    given = {"denoise": (NOISY,), "search": (VIDEO, VIDEO), "attend": (VIDEO, VIDEO, VIDEO)}[op]
    with pytest.raises(ShiftsearchError, match=rf"^{op}: flow has shape .*flow=\(forward, backward\).*flow\.pair"):
        getattr(ss, op)(*given, flow=flow)


@pytest.mark.parametrize("op", ["search", "attend"])
@pytest.mark.parametrize("batched", [False, True])
def test_a_pair_of_a_flow_network_has_one_flow_less(op, batched):
    """The flow from each frame but the last to the next, and to each but the last from the next."""
    there = FLOW + np.random.default_rng(0).random(FLOW.shape, np.float32)
    clip, flows = (VIDEO[None], there[None]) if batched else (VIDEO, there)
    given = [clip] * {"search": 2, "attend": 3}[op]
    cut = flows[..., :-1, :, :, :], -flows[..., 1:, :, :, :]
    for found, expected in zip(
        getattr(ss, op)(*given, cut, window=3, topk=2),
        getattr(ss, op)(*given, (flows, -flows), window=3, topk=2),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_tensors_of_a_flow_network_keep_their_gradients():
    torch = pytest.importorskip("torch")
    clip, there = torch.from_numpy(VIDEO), torch.from_numpy(FLOW[1:] + 0.3).requires_grad_()
    _, offsets = ss.search(clip, clip, (there, -there), window=3, topk=2, subpixel=True)
    offsets[..., 1:].sum().backward()
    assert there.grad.abs().sum() > 0


def test_denoise_and_align_clip_take_what_a_flow_network_gives():
    there = FLOW + np.random.default_rng(0).random(FLOW.shape, np.float32)
    np.testing.assert_array_equal(
        ss.denoise(NOISY, 0.08, radius=1, flow=(there[:-1], -there[1:])),
        ss.denoise(NOISY, 0.08, radius=1, flow=(there, -there)),
    )
    for to, cut in (("previous", there[1:]), ("next", there[:-1])):
        np.testing.assert_array_equal(ss.align_clip(NOISY, to, cut), ss.align_clip(NOISY, to, there))
    with pytest.raises(ShiftsearchError, match=r"align_clip: flow has shape \(3, 2, 48, 64\), expected"):
        ss.align_clip(NOISY, 0, there[1:])
    with pytest.raises(
        ShiftsearchError, match=r"denoise: backward has shape \(2, .* expected \(4, 2, H, W\) .*or one flow less"
    ):
        ss.denoise(NOISY, flow=(there, there[2:]))


def one_less(speeds):
    """A pair of four flows each for four frames of these speeds, and the same as flow networks give it."""
    there = FLOW * np.float32([*speeds, 0]).reshape(4, 1, 1, 1)
    back = -np.roll(there, 1, axis=0)
    return (there, back), (there[:-1], back[1:])


@pytest.mark.parametrize("speeds", [(1, 3, -2), (1, 1, 1), (0, 0, 0), (0, 0, 2), (2, 0, 0)])
@pytest.mark.parametrize("form", [iter, list])
def test_streams_take_what_a_flow_network_gives(form, speeds):
    whole, cut = one_less(speeds)
    expected = ss.denoise(NOISY, 0.08, radius=1, flow=whole)
    for pair in (whole, cut):
        found = ss.denoise_stream(form(NOISY), 0.08, radius=1, flow=pair)
        np.testing.assert_array_equal(np.stack(list(found)), expected)
        found = denoise_planes(form([(frame,) for frame in NOISY]), 0.08, radius=1, flow=pair)
        np.testing.assert_array_equal(np.stack([frame for (frame,) in found]), expected)


def test_a_stream_counts_the_frames_of_a_pair_that_it_takes_for_one_less():
    there, back = one_less((1, 3, -2))[0]
    back += 0.25
    back[0] = -there[0]  # leads to no frame, but undoes the first flow better than the second does
    with pytest.raises(ShiftsearchError, match=r"^denoise_stream: flow has 4 flows each way .* 4, expected 5\..*to 0"):
        list(ss.denoise_stream(iter(NOISY), 0.08, radius=1, flow=(there, back)))
    assert len(list(ss.denoise_stream(NOISY, 0.08, radius=1, flow=(there, back)))) == 4
    with pytest.raises(ShiftsearchError, match="flow ends before frame"):
        list(ss.denoise_stream(iter(NOISY), 0.08, radius=1, flow=(there[:2], back[:2])))


def test_two_frames_are_told_how_they_are_searched():
    two = VIDEO[:2]
    with pytest.raises(
        ShiftsearchError, match=r"search: radius is 1, .*match\(q\[0\], k\[1\]\), or by search\(q, k, frames="
    ):
        ss.search(two, two)
    with pytest.raises(ShiftsearchError, match=r"attend: radius is 1, .*frames=\[\[1\], \[0\]\]"):
        ss.attend(two, two, two)
    assert ss.match(two[0], two[1])[0].shape == (1, *SIZE, 10)
    assert ss.search(two, two, frames=[[1], [0]])[0].shape == (1, 2, *SIZE, 10)
    assert ss.attend(two, two, two, frames=[[0, 1], [1, 0]]).shape == two.shape


# --- what is kept ---------------------------------------------------------------------------------------
def grain(step, noise=0.0):
    """A clip (5, 72, 80) of grain that moves by so many pixels a frame: in one frame nothing tells it from noise."""
    rng = np.random.default_rng(0)
    still = 0.5 + 0.08 * rng.standard_normal((80, 120))
    clip = np.stack([still[4:76, 8 + step * t : 88 + step * t] for t in range(5)])
    return clip, (clip + noise * rng.standard_normal(clip.shape)).astype(np.float32)


@pytest.mark.parametrize(("step", "flow"), [(1, "auto"), (3, "match"), (0, None)])
def test_texture_that_looks_like_noise_is_kept(step, flow):
    clip, seen = grain(step)
    assert -10 * np.log10(np.mean((ss.denoise(seen, radius=2, flow=flow) - clip) ** 2)) > 45


@pytest.mark.parametrize(("step", "frames", "flow"), [(0, 1, "auto"), (3, 5, None)])
def test_frames_that_show_nothing_but_noise_or_texture_are_kept_with_a_warning(step, frames, flow):
    """Without motion nothing tells which of the two it is."""
    _, seen = grain(step)
    with pytest.warns(
        UserWarning,
        match=r"^denoise: frames show nothing but noise or fine texture.* pass sigma=2\d.* for integers, or sigma=0\.08\d? times white",
    ) as told:
        kept = ss.denoise(seen[:frames], flow=flow, radius=1)
    assert len(told) == 1
    np.testing.assert_allclose(kept, seen[:frames], atol=1e-6)
    assert ss.estimate_noise(seen[0]).sigma[0] > 0.07  # a flat patch of noise, as far as this can know
    smooth = ss.denoise(seen[:frames], 0.08, flow=flow, radius=1)  # the cure, if it is noise
    assert smooth.std() < kept.std() / 2


def test_a_picture_of_texture_and_flat_parts_has_the_noise_of_its_flat_parts():
    """The texture covers most of it, and looks like noise."""
    rng = np.random.default_rng(0)
    clean = 0.5 + np.where(np.arange(256) < 192, 0.08, 0) * rng.standard_normal((192, 256))
    for noise in (0.01, 0.03):
        seen = (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
        assert abs(ss.estimate_noise(seen).sigma[0] / noise - 1) < 0.25
        assert ((ss.denoise(seen) - clean) ** 2).mean() < 1.3 * noise**2  # the texture is kept, and its noise with it


def test_noise_that_black_and_white_cut_off_is_not_taken_for_that_of_the_rest():
    rng = np.random.default_rng(0)
    clean = np.where(np.arange(256) < 100, 0, np.linspace(0.3, 0.6, 192)[:, None]) * np.ones((192, 1))
    seen = np.clip(clean + 0.05 * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)
    assert 0.04 < ss.estimate_noise(seen).sigma[0] < 0.053


def test_noise_on_still_grain_is_found_without_flow():
    clip, seen = grain(0, 0.02)
    assert abs(ss.estimate_noise(seen, flow=None).sigma[0] - 0.02) < 0.002
    kept, noise = (np.mean((frames - clip) ** 2) for frames in (ss.denoise(seen, radius=2, flow=None), seen))
    assert kept < noise / 3
    moving, _ = grain(3)  # what differs there is no noise, and tells nothing
    assert ss.estimate_noise(moving, flow=None).sigma[0] > 0.06


def test_floats_beyond_white_and_alpha_are_kept():
    bright = np.concatenate([4 * CLEAN, CLEAN[..., :1]], -1)
    found = ss.denoise(bright, 0.01, flow=None, radius=1)
    assert abs(found[..., :3] - bright[..., :3]).mean() < 0.01
    assert found[..., :3].max() > 3
    np.testing.assert_array_equal(found[..., 3], bright[..., 3])
    moved = ss.align(bright[0], bright[0], None)
    np.testing.assert_allclose(moved, bright[0], atol=1e-5)
