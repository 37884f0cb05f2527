"""Samples of files: they change only where a command changes them, and each plane is processed as it is stored."""

from __future__ import annotations

import numpy as np
import pytest
from clips import decoded, turned_copy

import shiftsearch
from shiftsearch import ShiftsearchError
from shiftsearch.__main__ import main
from shiftsearch.video import io
from shiftsearch.video.align import align_planes
from shiftsearch.video.denoise import denoise_planes
from shiftsearch.video.io.yuv import Form

av = pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("tqdm")

YUV = [f"yuv{size}p{depth}" for size in ("420", "422", "444") for depth in ("", "10le", "12le")]
OTHERS = [
    "gray",
    "gray10le",
    "gray12le",
    "gray16le",
    "bgr0",
    "rgb48le",
    "gbrp9le",
    "gbrp10le",
    "gbrp12le",
    "gbrp14le",
    "gbrp16le",
]


def samples(frame) -> list[np.ndarray]:
    """Return the samples of each plane, without padding."""
    bits = max(part.bits for part in frame.format.components)
    each = {"bgr0": 4, "rgb48le": 3, "yuyv422": 2}.get(frame.format.name, 1)
    found = []
    for plane in frame.planes:
        numbers = np.frombuffer(plane, np.uint8 if bits == 8 else "<u2").reshape(plane.height, -1)
        chroma = 2 if frame.format.name in ("nv12", "p010le") and found else 1  # U and V in turn
        found.append(numbers[:, : each * chroma * plane.width])
    return [found[0].reshape(frame.height, -1, 4)[..., :3]] if frame.format.name == "bgr0" else found[:3]


def all_samples(path) -> list[list[np.ndarray]]:
    return [[plane.copy() for plane in samples(frame)] for frame in decoded(path)]


def make(path, form, drawn=None, size=(38, 26), matrix=2, range_=0, codec="ffv1"):
    """Write a lossless file of the samples in `drawn`, or of three frames of random ones, of which a tenth change."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, form
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, range_
        for planes in drawn or any_samples(form, size):
            frame = av.VideoFrame(*size, form)
            for plane, values in zip(samples(frame), planes, strict=True):
                plane[...] = values
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def any_samples(form, size, least=0.0, most=1.0) -> list[list[np.ndarray]]:
    """Return random samples from `least` to `most`, as shares of the largest one."""
    rng = np.random.default_rng(0)
    frame = av.VideoFrame(*size, form)
    top = (1 << max(part.bits for part in frame.format.components)) - 1
    least, most = round(least * top), round(most * top)
    clip = [[rng.integers(least, most, plane.shape, endpoint=True) for plane in samples(frame)]]
    for _ in range(2):
        new = [rng.integers(least, most, plane.shape, endpoint=True) for plane in clip[0]]
        clip.append([np.where(rng.random(a.shape) < 0.1, b, a) for a, b in zip(clip[-1], new, strict=True)])
    return clip


def assert_same(source, target):
    for a, b in zip(decoded(source), decoded(target), strict=True):
        assert a.format.name == b.format.name
        assert (a.colorspace, a.color_range) == (b.colorspace, b.color_range)
        for one, other in zip(samples(a), samples(b), strict=True):
            np.testing.assert_array_equal(one, other)


# --- what nobody touches ----------------------------------------------------------------------------
COMMANDS = {
    "denoise": ["denoise", "--sigma", "0"],
    "align": ["align", "--window", "1", "--flow", "none"],
    "align to one": ["align", "--window", "1", "--flow", "none", "--to", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("matrix", "range_"), [(1, 1), (9, 2), (2, 0)])
@pytest.mark.parametrize("form", YUV)
def test_commands_that_do_nothing_keep_all_samples_of_yuv(tmp_path, form, matrix, range_, command):
    """This holds for samples that no RGB colour has, too."""
    source = make(tmp_path / "a.mkv", form, matrix=matrix, range_=range_)
    assert main([*COMMANDS[command], str(source), "-o", str(tmp_path / "b.mkv")]) == 0
    assert_same(source, tmp_path / "b.mkv")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", OTHERS)
def test_commands_that_do_nothing_keep_all_samples_of_grey_and_rgb(tmp_path, form, command):
    source = make(tmp_path / "a.mkv", form)
    assert main([*COMMANDS[command], str(source), "-o", str(tmp_path / "b.mkv")]) == 0
    assert_same(source, tmp_path / "b.mkv")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("range_", [1, 2])
@pytest.mark.parametrize(
    "form", ["nv12", "p010le", "yuyv422", "yuv411p", "yuv410p", "yuv440p10le", "yuv420p16le", "yuvj422p"]
)
def test_commands_that_do_nothing_keep_all_samples_however_they_lie(tmp_path, form, range_, command):
    source = make(tmp_path / "a.nut", form, size=(40, 28), range_=range_, codec="rawvideo")
    assert main([*COMMANDS[command], str(source), "-o", str(tmp_path / "b.nut")]) == 0
    for one, other in zip(all_samples(source), all_samples(tmp_path / "b.nut"), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_commands_meet_frames_of_one_scene_in_these_files(tmp_path):
    """Otherwise the commands would do nothing, and the tests above could not fail."""
    source = make(tmp_path / "a.mkv", "yuv420p")
    with io.read(source) as clip:
        assert list(shiftsearch.scene_cuts(planes[0] for planes in clip.planes())) == []


def test_planes_are_turned_and_kept(tmp_path):
    make(tmp_path / "a.mp4", "yuv420p", size=(40, 24), codec="libx264")
    turned_copy(tmp_path / "a.mp4", tmp_path / "turned.mp4")
    arguments = [*COMMANDS["denoise"], str(tmp_path / "turned.mp4"), "-o", str(tmp_path / "b.mkv"), "--codec", "ffv1"]
    assert main(arguments) == 0
    turns = {frame.rotation // 90 for frame in decoded(tmp_path / "turned.mp4")}.pop()
    for one, other in zip(all_samples(tmp_path / "a.mp4"), all_samples(tmp_path / "b.mkv"), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(np.rot90(a, turns), b)


# --- colours ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("matrix", "range_"), [(1, 1), (6, 1), (9, 1), (1, 2), (2, 0)])
@pytest.mark.parametrize("form", [*YUV, "yuv440p", "yuv411p", "yuv420p16le", "yuva420p"])
def test_colours_are_read_and_written_to_the_bit(tmp_path, form, matrix, range_):
    size = (36 if form == "yuv411p" else 37, 23)  # FFmpeg's FFV1 loses a column of that one
    drawn = any_samples("yuv420p" if form == "yuva420p" else form, size, 0.42, 0.58)  # inside of RGB
    source = make(tmp_path / "a.mkv", form, drawn, size, matrix, range_)
    with io.read(source) as clip, io.write(tmp_path / "b.mkv", clip) as out:
        for frame in clip:
            assert 0 < frame.min() < frame.max() < np.iinfo(frame.dtype).max
            out.write(frame)
    assert_same(source, tmp_path / "b.mkv")


def test_black_grey_and_white_keep_their_values(tmp_path):
    for form, range_, black, grey, white in [
        ("yuv420p", 1, 16, 128, 235),
        ("yuv444p", 2, 0, 128, 255),
        ("yuv422p10le", 1, 64, 512, 940),
        ("yuv420p12le", 2, 0, 2048, 4095),
    ]:
        drawn = [[np.full(p.shape, grey) for p in samples(av.VideoFrame(16, 16, form))]]
        luma = np.linspace(black, white, 16).round().astype(int)
        drawn[0][0][:] = luma[:, None]
        with io.read(make(tmp_path / "a.mkv", form, drawn, (16, 16), range_=range_)) as clip:
            (frame,) = clip
        most = np.iinfo(frame.dtype).max
        shades = np.rint((luma - black) / (white - black) * most)
        assert (shades[0], shades[-1]) == (0, most)
        np.testing.assert_array_equal(frame, np.broadcast_to(shades[:, None, None], frame.shape))


@pytest.mark.parametrize(
    ("matrix", "name"), [(1, "ITU709"), (6, "ITU601"), (9, "BT2020"), (7, "SMPTE240M"), (4, "FCC")]
)
@pytest.mark.parametrize("range_", [1, 2])
def test_colours_are_those_of_ffmpeg(matrix, name, range_):
    form = Form.of(8, 1, 1, matrix, range_ == 2)
    frame = av.VideoFrame(64, 32, "yuv444p")
    frame.colorspace, frame.color_range = matrix, range_
    planes = [np.frombuffer(plane, np.uint8).reshape(32, -1)[:, :64] for plane in frame.planes]
    for plane, values in zip(planes, any_samples("yuv444p", (64, 32), 0.3, 0.7)[0], strict=True):
        plane[...] = values
    theirs = frame.to_ndarray(format="rgb24", interpolation=0x10 | 0x40000 | 0x2000)
    ours = np.stack([np.clip(255 * colour, 0, 255) for colour in form.colours(planes)], -1)
    assert abs(ours - theirs).max() < 3  # FFmpeg computes with few bits
    assert abs((ours - theirs).mean()) < 1


def test_coarser_planes_are_means(rng):
    colours = rng.random((3, 23, 37)).astype(np.float32)
    (_, *fine), (_, *coarse) = (Form.of(8, down, down, 6, False).planes(colours) for down in (1, 2))
    for a, b in zip(coarse, fine, strict=True):
        for y, x in ((0, 0), (4, 7), (11, 3), (5, 18), (11, 18)):  # also at the ends, which have fewer
            assert a[y, x] == pytest.approx(b[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(), abs=1e-3)


def test_a_file_of_another_kind_gets_the_same_colours(tmp_path):
    """There is no step in between that clips or rounds them."""
    drawn = any_samples("yuv444p10le", (38, 26), 0.1, 0.9)
    source = make(tmp_path / "a.mkv", "yuv444p10le", drawn, matrix=1, range_=1)
    form, other = Form.of(10, 1, 1, 1, False), Form.of(10, 1, 1, 6, False)
    with io.read(source) as clip, io.write(tmp_path / "b.avi", clip) as out:  # AVI stores no matrix
        for planes in clip.planes():
            out.write(planes)
    for before, after in zip(drawn, all_samples(tmp_path / "b.avi"), strict=True):
        planes = [form.plane(plane.astype(np.uint16)) for plane in before]
        exact = other.planes([colour.astype(float) for colour in form.colours(planes)])
        for a, b in zip(after, exact, strict=True):
            assert abs(a - np.clip(b / 64, 0, 1023)).max() <= 0.51


def test_planes_are_written_like_those_of_a_clip_only(tmp_path):
    source = make(tmp_path / "a.mkv", "yuv420p")
    make(tmp_path / "grey.mkv", "gray")
    with io.read(source) as clip:
        y, u, v = next(clip.planes())
    for bad in [(y, u), (y, u, v, v), (y, y, y), (y, u, v.astype(np.uint16)), (y, u, None), (y[..., None], u, v), ()]:
        with (
            pytest.raises(ShiftsearchError, match=r"b.mkv: a frame is .*, expected"),
            io.read(source) as clip,
            io.write(tmp_path / "b.mkv", clip) as out,
        ):
            out.write(bad)
    with io.read(tmp_path / "grey.mkv") as grey:
        for options in ({"rate": 25}, {"like": grey}):
            with (
                pytest.raises(ShiftsearchError, match="a tuple of 3, expected"),
                io.write(tmp_path / "b.mkv", **options) as out,
            ):
                out.write((y, u, v))


def test_writing_into_planes_does_not_change_the_next_frames(tmp_path):
    """Decoders keep frames to predict others, so the planes must be copies."""
    drawn = any_samples("yuv420p", (256, 64)) * 12  # more frames than decoders hold, of a width that they do not pad
    source = make(tmp_path / "a.mp4", "yuv420p", drawn, size=(256, 64), codec="libx264")
    with io.read(source) as clip:
        expected = [[plane.copy() for plane in planes] for planes in clip.planes()]
    with io.read(source) as clip:
        for found, wanted in zip(clip.planes(), expected, strict=True):
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(a, b)
                a[...] = 0


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
def test_deep_grey_and_rgb_become_the_nearest_of_8_bits(tmp_path, shape):
    bright = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    frame = bright if len(shape) == 2 else np.stack([bright] * 3, -1)
    for change in (-128, 0, 128):
        with io.write(tmp_path / "a.bmp", rate=25) as out:
            out.write(np.clip(frame.astype(int) + change, 0, 65535).astype(np.uint16))
        with io.read(tmp_path / "a.bmp") as clip:
            (found,) = clip
        np.testing.assert_array_equal(found.reshape(16, 16, -1)[..., 0], bright // 257)


# --- noise ------------------------------------------------------------------------------------------
def noisy(form="yuv420p", sigmas=(12, 5, 8), frames=6, size=(160, 112)):
    """Return moving waves, and the same with noise, as samples."""
    rng, unit = np.random.default_rng(0), 1 << av.VideoFormat(form, 16, 16).components[0].bits - 8
    clean, seen = [], []
    for t in range(frames):
        clean.append([])
        for p, like in enumerate(samples(av.VideoFrame(*size, form))):
            y, x = np.mgrid[: like.shape[0], : like.shape[1]] * (size[1] / like.shape[0] / 9)
            clean[-1].append((128 + 45 * np.sin(x + t / 4 + p) * np.cos(y - t / 5)) * unit)
        noise = (
            sigma * unit * rng.standard_normal(plane.shape) for sigma, plane in zip(sigmas, clean[-1], strict=True)
        )
        seen.append([np.rint(plane + n).astype(int) for plane, n in zip(clean[-1], noise, strict=True)])
    return clean, seen


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p10le", "yuv444p", "yuv420p12le"])
def test_each_plane_is_denoised_with_its_own_noise_which_is_reported(tmp_path, capsys, form):
    clean, seen = noisy(form)
    source = make(tmp_path / "a.mkv", form, seen, (160, 112), range_=1)
    assert main(["denoise", str(source), "-o", str(tmp_path / "b.mkv")]) == 0
    told = capsys.readouterr().err.split("noise found: ")[1].splitlines()
    assert len(told) == 1
    numbers = [float(part.split()[-1]) for part in told[0].split(",")]
    np.testing.assert_allclose(numbers, (12, 5, 8), rtol=0.08)
    found = all_samples(tmp_path / "b.mkv")
    for p in range(3):
        before, after = (
            np.mean([(a[p] - b[p]) ** 2.0 for a, b in zip(clip, clean, strict=True)]) for clip in (seen, found)
        )
        assert after < before / 12


def test_sigma_is_that_of_the_planes_one_or_one_each(tmp_path, capsys):
    _, seen = noisy(frames=3)
    source = make(tmp_path / "a.mkv", "yuv420p", seen, (160, 112))
    given = {"6": 6, "12,5,8": (12, 5, 8), "12,auto,8": (12, None, 8)}
    for text, sigma in given.items():
        assert main(["denoise", str(source), "--overwrite", "-o", str(tmp_path / "b.mkv"), "--sigma", text]) == 0
        expected = denoise_planes([[p.astype(np.uint8) for p in frame] for frame in seen], sigma)
        for wanted, found in zip(expected, all_samples(tmp_path / "b.mkv"), strict=True):
            for a, b in zip(wanted, found, strict=True):
                np.testing.assert_array_equal(a, b)
        assert ("noise found" in capsys.readouterr().err) == ("auto" in text)
    for text, said in [
        ("12,5", "sigma has 2 numbers, expected one, or one for each of the 3"),
        ("1,-2,1", "sigma is -2.0"),
    ]:
        assert main(["denoise", str(source), "-o", str(tmp_path / "c.mkv"), "--sigma", text]) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["denoise", str(source), "-o", str(tmp_path / "c.mkv"), "--sigma", "1,x,1"])
    clip = [tuple(p.astype(np.uint8) for p in frame) for frame in seen]
    (one, *_), (other, *_) = denoise_planes(clip, (12, 5, 8)), denoise_planes(clip, (12, 20, 8))
    assert (one[0] == other[0]).all()
    assert (one[1] != other[1]).mean() > 0.2
    assert not (tmp_path / "c.mkv").exists()


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p10le"])
def test_a_plane_without_noise_is_unchanged(tmp_path, form):
    _, seen = noisy(form, frames=3)
    source = make(tmp_path / "a.mkv", form, seen, (160, 112))
    assert main(["denoise", str(source), "-o", str(tmp_path / "b.mkv"), "--sigma", "0,9,0"]) == 0
    for before, after in zip(seen, all_samples(tmp_path / "b.mkv"), strict=True):
        assert [bool((a == b).all()) for a, b in zip(before, after, strict=True)] == [True, False, True]


# --- the functions ----------------------------------------------------------------------------------
def test_the_first_plane_is_denoised_and_aligned_as_if_it_were_alone(rng):
    _, seen = noisy(frames=5)
    clip = [tuple(plane.astype(np.uint8) for plane in frame) for frame in seen]
    luma = [frame[0] for frame in clip]
    found = list(denoise_planes(clip, (12, 5, 8), radius=1))
    np.testing.assert_array_equal([frame[0] for frame in found], list(shiftsearch.denoise_stream(luma, 12, radius=1)))
    for to in ("previous", "next"):
        found = [frame[0] for frame in align_planes(clip, to)]
        np.testing.assert_array_equal(found, list(shiftsearch.align_stream(luma, to)))
    found = [frame[0] for frame in align_planes(clip, clip[2])]
    np.testing.assert_array_equal(found, shiftsearch.align(luma[2], np.stack(luma)))


@pytest.mark.parametrize("size", [(112, 160), (56, 80)])
def test_all_planes_are_denoised_along_the_motion_of_the_first(rng, size):
    """The motion is longer than the window of the search."""
    still = rng.integers(0, 2, (28, 60)).repeat(4, 0).repeat(4, 1) * 100 + 70
    y = [np.roll(still, 12 * t, 1)[:, :160] for t in range(5)]
    step = 112 // size[0]
    clean = [(plane, plane[::step, ::step], 255 - plane[::step, ::step]) for plane in y]
    seen = [tuple((p + 20 * rng.standard_normal(p.shape)).astype(np.float32) / 255 for p in planes) for planes in clean]
    with_motion, without = (list(denoise_planes(seen, 20 / 255, flow=flow)) for flow in ("dis", None))
    for p in range(3):
        errors = [
            np.mean([(255 * a[p] - b[p])[:, 20:-20] ** 2 for a, b in zip(found, clean, strict=True)])
            for found in (with_motion, without)
        ]
        assert errors[0] < 0.6 * errors[1]


def test_one_array_is_a_frame(rng):
    clip = rng.integers(0, 256, (3, 24, 32, 3), np.uint8)
    found = [frame for (frame,) in denoise_planes([(frame,) for frame in clip], 10)]
    np.testing.assert_array_equal(found, shiftsearch.denoise(clip, 10))
    assert list(denoise_planes([])) == list(align_planes([])) == []


def test_coarser_planes_go_where_the_first_one_went(rng):
    still = rng.integers(0, 256, (60, 80)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    colour = rng.integers(0, 256, (60, 80), np.uint8)
    clip = [
        (np.roll(still, (4 * t, -2 * t), (0, 1)), *(np.roll(c, (2 * t, -t), (0, 1)) for c in (colour, 255 - colour)))
        for t in range(3)
    ]
    for first, *others in align_planes(clip, clip[0], None, window=19, sigma=0):
        np.testing.assert_array_equal(first[20:-20, 20:-20], still[20:-20, 20:-20])
        for found, plane in zip(others, clip[0][1:], strict=True):
            np.testing.assert_array_equal(found[12:-12, 12:-12], plane[12:-12, 12:-12])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 7)])
@pytest.mark.parametrize("down", [1, 2, 4])
@pytest.mark.parametrize("across", [1, 2, 4])
def test_tiny_frames(size, down, across):
    coarse = -(-size[0] // down), -(-size[1] // across)
    frame = tuple(np.full(s, 77, np.uint16) for s in (size, coarse, coarse))
    for function in (denoise_planes, align_planes):
        for found in function([frame] * 3):
            for a, b in zip(found, frame, strict=True):
                np.testing.assert_array_equal(a, b)


def test_tensors_are_tensors():
    torch = pytest.importorskip("torch")
    _, seen = noisy(frames=3)
    clip = [tuple(plane.astype(np.uint8) for plane in frame) for frame in seen]
    for function in (lambda frames: denoise_planes(frames, 9), align_planes):
        for found, wanted in zip(
            function([tuple(map(torch.from_numpy, frame)) for frame in clip]), function(clip), strict=True
        ):
            for a, b in zip(found, wanted, strict=True):
                assert isinstance(a, torch.Tensor)
                np.testing.assert_array_equal(a.numpy(), b)


def test_arguments_that_are_no_planes_are_an_error():
    y, u = np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)
    for function in (denoise_planes, align_planes):
        for frames, said in [
            ([y], "a frame is a ndarray, expected a tuple of arrays"),
            ([()], "a frame is a tuple"),
            ([("y",)], "a frame is a tuple"),
            ([(y, u, y)], r"have shapes \(8, 8\), \(4, 4\), \(8, 8\), expected"),
            ([(y, u[:3], u[:3])], "expected .* a half or a quarter"),
            ([(y, u, u), (y, y, y)], "frame 1 has .*, expected .* as frame 0"),
            ([(y, u, u), (y,)], "frame 1 has"),
        ]:
            with pytest.raises(ShiftsearchError, match=f"^{function.__name__}: .*{said}"):
                list(function(frames))
    with pytest.raises(
        ShiftsearchError, match="denoise_planes: sigma has 2 numbers, expected one, or one for each of the 3"
    ):
        list(denoise_planes([(y, u, u)], (1, 2)))
