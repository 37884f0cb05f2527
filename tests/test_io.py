"""Video files: frames are read and written unchanged with all their data, and files appear complete or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from clips import decoded, make, psnr, streams, turned_copy

from shiftsearch import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.io.ends import cut_off

av = pytest.importorskip("av")


def frames_of(path, span=(0, None)):
    with io.read(path, span) as clip:
        return np.stack(list(clip))


def through(source, target, span=(0, None), change=lambda frame: frame, **options):
    with io.read(source, span) as clip, io.write(target, clip, **options) as out:
        for frame in clip:
            out.write(change(frame))
    return out


# --- frames -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("codec", "form", "dtype", "axes"),
    [
        ("libx264", "yuv420p", "uint8", 4),
        ("libx264", "yuv420p10le", "uint16", 4),
        ("ffv1", "gray", "uint8", 3),
        ("ffv1", "gray10le", "uint16", 3),
        ("ffv1", "gray16le", "uint16", 3),
        ("ffv1", "yuv444p12le", "uint16", 4),
        ("ffv1", "bgr0", "uint8", 4),
        ("ffv1", "yuva420p", "uint8", 4),
    ],
)
def test_depth_and_colour_decide_dtype_and_shape(tmp_path, codec, form, dtype, axes):
    frames = frames_of(make(tmp_path / "a.mkv", codec, form=form, audio=None))
    assert frames.dtype == dtype
    assert frames.shape == ((10, 48, 64), (10, 48, 64, 3))[axes - 3]
    white = np.iinfo(dtype).max
    assert frames.mean() == pytest.approx(white / 2, rel=0.02)  # the full range, whatever the file has
    assert frames.max() > 0.65 * white


@pytest.mark.parametrize(
    "form", ["yuv420p", "yuv422p10le", "yuv444p", "gray", "gray10le", "gbrp12le", "bgr0", "yuv420p12le"]
)
@pytest.mark.parametrize("size", [(64, 48), (37, 23)])
def test_reading_and_writing_without_loss_changes_nothing(tmp_path, form, size):
    source = make(tmp_path / "a.mkv", "ffv1", size, frames=2, form=form, audio=None)
    through(source, tmp_path / "b.mkv")
    for a, b in zip(decoded(source), decoded(tmp_path / "b.mkv"), strict=True):
        assert (a.format.name, a.width, a.height) == (b.format.name, b.width, b.height) == (form, *size)
        kind = np.uint8 if a.format.components[0].bits == 8 else np.uint16
        for one, other in zip(a.planes, b.planes, strict=True):
            samples = [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in (one, other)]
            np.testing.assert_array_equal(*samples)


@pytest.mark.parametrize(("matrix", "range_"), [(1, 1), (5, 1), (9, 1), (1, 2)])
def test_colours_mean_the_same_before_and_after(tmp_path, matrix, range_):
    colour = {"colorspace": matrix, "color_range": range_, "color_primaries": 1, "color_trc": 1}
    source = make(tmp_path / "a.mp4", form="yuv444p", audio=None, **colour)
    through(source, tmp_path / "b.mp4", crf=1)
    for path in (source, tmp_path / "b.mp4"):
        context = av.open(str(path)).streams.video[0].codec_context
        assert {name: getattr(context, name) for name in colour} == colour
    assert psnr(frames_of(source), frames_of(tmp_path / "b.mp4")) > 38


def test_a_pixel_of_known_colour(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    for name in ("a.png", "a.mkv", "a.mp4"):
        with io.write(tmp_path / name, rate=25) as out:
            out.write(red)
        (found,) = frames_of(tmp_path / name)
        assert abs(found.astype(int) - red).max() <= 3


def test_frames_are_counted_from_zero_and_the_end_is_not_taken(tmp_path):
    source = make(tmp_path / "a.mp4")
    whole = frames_of(source)
    for first, end in [(0, 1), (3, 7), (9, None), (4, 100), (0, None)]:
        np.testing.assert_array_equal(frames_of(source, (first, end)), whole[first:end])
    with io.read(source, (3, 7)) as clip:
        assert (clip.length, clip.rate, clip.width, clip.height, clip.bits, clip.grey) == (4, 25, 64, 48, 8, False)


@pytest.mark.parametrize("span", [(-1, None), (3, 3), (5, 2)])
def test_spans_without_frames_are_refused(tmp_path, span):
    with pytest.raises(ShiftsearchError, match="expected first < end"):
        io.read(make(tmp_path / "a.mp4"), span)


def test_a_span_after_the_end_is_an_error(tmp_path):
    with pytest.raises(ShiftsearchError, match="has 10 frames, expected more than 10"):
        frames_of(make(tmp_path / "a.mp4"), (10, None))


def test_upright(tmp_path):
    """A phone stores frames that lie on their side, with metadata that says so."""
    make(tmp_path / "a.mp4", audio=None)
    turned_copy(tmp_path / "a.mp4", tmp_path / "turned.mp4")
    (angle,) = {frame.rotation for frame in decoded(tmp_path / "turned.mp4")}
    turned = frames_of(tmp_path / "turned.mp4")
    np.testing.assert_array_equal(turned, np.rot90(frames_of(tmp_path / "a.mp4"), angle // 90, axes=(1, 2)))
    with io.read(tmp_path / "turned.mp4") as clip:
        assert (clip.width, clip.height) == (48, 64)
    through(tmp_path / "turned.mp4", tmp_path / "b.mp4", crf=1)
    assert psnr(frames_of(tmp_path / "b.mp4"), turned) > 30


# --- what belongs to them ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "codec", "audio"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mkv", "libx265", "flac"),
        ("a.avi", "mpeg4", "libmp3lame"),
        ("a.mov", "prores_ks", "pcm_s16le"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.ts", "libx264", "aac"),
        ("a.mpg", "mpeg2video", "mp2"),
    ],
)
def test_codec_rate_times_and_sound_are_kept(tmp_path, name, codec, audio):
    form = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    source = make(tmp_path / name, codec, form=form, audio=audio)
    assert through(source, tmp_path / f"out-{name}").left_out == []
    before, after = streams(source), streams(tmp_path / f"out-{name}")
    assert before["video"][0][0] == after["video"][0][0]
    assert [b for _, b in before["audio"][0][1]] == [b for _, b in after["audio"][0][1]]  # bit for bit
    start = [min(frame.time for frame in decoded(path)) for path in (source, tmp_path / f"out-{name}")]
    sound = [found["audio"][0][1][0][0] for found in (before, after)]
    assert sound[0] - start[0] == pytest.approx(sound[1] - start[1], abs=0.05)  # the delay is unchanged
    times = [[f.time for f in decoded(path)] for path in (source, tmp_path / f"out-{name}")]
    np.testing.assert_allclose(np.diff(times[0]), np.diff(times[1]), atol=2e-3)
    assert [f.format.name for f in decoded(tmp_path / f"out-{name}")] == [form] * 10


def test_times_that_vary_are_kept(tmp_path):
    times = [0, 40, 50, 133, 134, 500, 505, 900, 1000, 2500]
    source = make(tmp_path / "a.mkv", times=times, audio=None)
    through(source, tmp_path / "b.mp4")
    assert [round(1000 * frame.time) for frame in decoded(tmp_path / "b.mp4")] == times
    through(source, tmp_path / "c.mkv", (4, 8))
    assert [round(1000 * frame.time) for frame in decoded(tmp_path / "c.mkv")] == [0, 366, 371, 766]


def test_a_span_takes_its_sound_along(tmp_path):
    source = make(tmp_path / "a.mp4", frames=50)
    through(source, tmp_path / "b.mp4", (10, 30))
    (_, before), (_, after) = streams(source)["audio"][0], streams(tmp_path / "b.mp4")["audio"][0]
    kept = [(time - 0.4, data) for time, data in before if 0.4 <= time < 1.2]
    assert [data for _, data in after] == [data for _, data in kept]
    np.testing.assert_allclose([time for time, _ in after], [time for time, _ in kept], atol=1e-3)
    assert decoded(tmp_path / "b.mp4")[0].time == 0


@pytest.mark.parametrize("ending", ["y4m", "ts", "mpg", "mov", "ogv", "mxf", "3gp", "flv", "webm", "wmv", "vob"])
def test_a_codec_that_the_file_cannot_hold_is_replaced_by_one_that_it_can(tmp_path, ending):
    """Some of FFmpeg's writers take any codec, and would make a file that no player can read."""
    for name, codec, form in (
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("b.mkv", "ffv1", "yuv422p10le"),
        ("c.avi", "png", "rgb24"),
    ):
        source = make(
            tmp_path / name, codec, (96, 64), frames=2, form=form, audio="libopus" if name == "a.webm" else "mp2"
        )
        target = tmp_path / f"out-{name}.{ending}"
        through(source, target)
        before, after = (
            (clip >> 8 if clip.dtype == np.uint16 else clip).astype(np.uint8)
            for clip in map(frames_of, (source, target))
        )
        assert psnr(before, after) > 27
        with pytest.raises(ShiftsearchError, match=r"cannot hold|does not support"):
            through(source, target, codec="gif" if ending != "mov" else "vp9")


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1", "mpeg4"])
def test_one_and_two_frames_have_their_times(tmp_path, codec):
    source = make(tmp_path / "a.mkv", "ffv1", frames=2, audio=None)
    for count in (1, 2, 2, 2, 2):
        through(source, tmp_path / "b.mkv", (0, count), codec=codec)
        assert [frame.time for frame in decoded(tmp_path / "b.mkv")] == [0, 0.04][:count]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("b.avi", "ffv1"),
        ("b.avi", "mpeg4"),
        ("b.avi", "mjpeg"),
        ("b.mpg", None),
        ("b.mov", "prores"),
        ("b.webm", "vp8"),
        ("b.mkv", "mpeg4"),
        ("b.flv", "flv"),
        ("b.mov", "dnxhd"),
    ],
)
@pytest.mark.parametrize(("matrix", "range_"), [(1, 1), (1, 2), (9, 1)])
def test_colours_are_kept_if_the_file_does_not_say_how_they_are_coded(tmp_path, name, codec, matrix, range_):
    source = make(tmp_path / "a.mkv", "ffv1", (256, 128), frames=2, audio=None, colorspace=matrix, color_range=range_)
    through(source, tmp_path / name, codec=codec)
    before, after = frames_of(source), frames_of(tmp_path / name)
    after = (after >> 8).astype(np.uint8) if after.dtype == np.uint16 else after
    assert psnr(before, after) > 36


@pytest.mark.parametrize("form", ["yuv422p", "yuv422p10le", "yuv444p10le"])
def test_a_codec_that_wants_a_profile_gets_one(tmp_path, form):
    source = make(tmp_path / "a.mkv", "ffv1", (256, 128), frames=2, form=form, audio=None)
    through(source, tmp_path / "b.mov", codec="dnxhd")
    assert {frame.format.name for frame in decoded(tmp_path / "b.mov")} == {form}
    assert psnr(frames_of(source), frames_of(tmp_path / "b.mov")) > 40


def test_colours_without_a_matrix_get_one_that_is_noted(tmp_path):
    source = make(tmp_path / "a.mov", "png", form="rgb24", audio=None)
    through(source, tmp_path / "b.mkv", crf=1)
    context = av.open(str(tmp_path / "b.mkv")).streams.video[0].codec_context
    assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 6, 1)


def test_sound_that_the_file_cannot_hold_is_named(tmp_path):
    assert through(make(tmp_path / "a.mp4"), tmp_path / "b.gif").left_out == ["audio (aac)"]


def test_ten_bits_stay_ten_bits(tmp_path):
    source = make(tmp_path / "a.mkv", form="yuv420p10le")
    through(source, tmp_path / "b.mp4", codec="hevc", crf=4)
    assert {frame.format.name for frame in decoded(tmp_path / "b.mp4")} == {"yuv420p10le"}
    assert psnr(frames_of(source), frames_of(tmp_path / "b.mp4")) > 30


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.avi", "b.webm", "b.gif", "b.mov"])
def test_odd_sizes(tmp_path, name):
    source = make(tmp_path / "a.mkv", "ffv1", (37, 23), audio=None)
    through(source, tmp_path / name)
    assert frames_of(tmp_path / name).shape == (10, 23, 37, 3)


def test_pictures_by_number_and_single_ones(tmp_path):
    source = make(tmp_path / "a.mp4")
    through(source, tmp_path / "p.%03d.png")
    assert sorted(p.name for p in tmp_path.glob("p.*")) == [f"p.{n:03d}.png" for n in range(10)]
    np.testing.assert_array_equal(frames_of(tmp_path / "p.%03d.png"), frames_of(source))
    through(tmp_path / "p.%03d.png", tmp_path / "b.mp4")
    assert streams(tmp_path / "b.mp4")["video"][0][0] == "h264"
    through(source, tmp_path / "one.png", (4, 5))
    np.testing.assert_array_equal(frames_of(tmp_path / "one.png"), frames_of(source)[4:5])
    with pytest.raises(ShiftsearchError, match="is one picture"):
        through(source, tmp_path / "two.png")
    assert not list(tmp_path.glob("two*"))


def test_without_a_clip_a_rate_is_needed(tmp_path):
    frames = np.random.default_rng(0).integers(0, 65536, (3, 20, 30), np.uint16)
    with io.write(tmp_path / "a.mkv", rate=Fraction(30000, 1001), codec="ffv1") as out:
        for frame in frames:
            out.write(frame)
    with io.read(tmp_path / "a.mkv") as clip:
        assert clip.rate == pytest.approx(29.97, abs=0.01)
    with pytest.raises(ShiftsearchError, match="rate is None"), io.write(tmp_path / "b.mkv"):
        pass


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(3, 20, 30), (3, 19, 31, 3)])
def test_arrays_are_kept_to_the_bit_without_loss(tmp_path, dtype, shape):
    frames = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    with io.write(tmp_path / "a.mkv", rate=25, codec="ffv1") as out:
        for frame in frames:
            out.write(frame)
    found = frames_of(tmp_path / "a.mkv")
    assert (found.dtype, found.shape) == (frames.dtype, frames.shape)
    np.testing.assert_array_equal(found, frames)


def test_colours_from_a_grey_source_stay_colours(tmp_path):
    source = make(tmp_path / "a.mkv", "ffv1", form="gray10le", audio=None)
    through(source, tmp_path / "b.mkv", change=lambda frame: np.stack([frame, frame // 2, frame // 3], -1))
    assert frames_of(tmp_path / "b.mkv").shape == (10, 48, 64, 3)
    (colour,) = {tuple(frame[5, 7] // 1000) for frame in frames_of(tmp_path / "b.mkv", (3, 4))}
    assert colour[0] > colour[1] > colour[2]


def test_codecs_that_do_not_fit_are_named(tmp_path):
    source = make(tmp_path / "a.mp4")
    for name, codec, said in [
        ("b.mp4", "nonsense", "no encoder nonsense"),
        ("b.mp4", "aac", "is for audio"),
        ("b.webm", "h264", "expected another codec"),
    ]:
        with pytest.raises(ShiftsearchError, match=said):
            through(source, tmp_path / name, codec=codec)
    with pytest.raises(ShiftsearchError, match="mpeg4 has no crf"):
        through(source, tmp_path / "b.mp4", codec="mpeg4", crf=20)
    for crf in (-1, 52):
        with pytest.raises(ShiftsearchError, match=f"crf is {crf}, expected 0 to 51 for libx264"):
            through(source, tmp_path / "b.mp4", crf=crf)
    for name, said in [
        ("b.unknown", 'does not know this kind of file, expected a name such as "b.mp4"'),
        ("b", "does not know this kind of file"),
        ("b.wav", 'holds no video, expected a name such as "b.mp4"'),
    ]:
        with pytest.raises(ShiftsearchError, match=said):
            through(source, tmp_path / name)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_frames_of_other_kinds_are_refused(tmp_path):
    for frame in (
        np.zeros((4, 4)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        "frame",
        np.zeros((1, 4, 4, 3), np.uint8),
    ):
        with (
            pytest.raises(ShiftsearchError, match="expected uint8 or uint16"),
            io.write(tmp_path / "a.mkv", rate=25) as out,
        ):
            out.write(frame)

    def grows():
        with io.write(tmp_path / "a.mkv", rate=25) as out:
            out.write(np.zeros((16, 16), np.uint8))
            out.write(np.zeros((16, 20), np.uint8))

    with pytest.raises(ShiftsearchError, match="frame 1 is 20 x 16, expected 16 x 16"):
        grows()
    assert os.listdir(tmp_path) == []


# --- files that are no good -------------------------------------------------------------------------
def test_files_that_are_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("This is no video, only a text with the name of one.\n" * 99)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(9999))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "huge.y4m").write_bytes(b"YUV4MPEG2 W1000000 H1000000 F25:1 C420jpeg\nFRAME\n" + bytes(999))
    (tmp_path / "none.y4m").write_bytes(b"YUV4MPEG2 W4 H4 F25:1 C420jpeg\n")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\x7f\xff\xff\xff" * 2 + bytes(99))
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=48000)
        source = av.open("sine=duration=0.2:sample_rate=48000", format="lavfi")
        out.mux([packet for frame in source.decode(audio=0) for packet in stream.encode(frame)] + stream.encode(None))
    said = {
        "text.mp4": "cannot be read",
        "empty.mp4": "is empty",
        "noise.mkv": "cannot be read",
        "folder.mp4": "is not a file",
        "huge.y4m": "Invalid data",
        "none.y4m": "is broken after 0 frames|no frame",
        "huge.png": "no frame|cannot be read",
        "x" * 300: "File name too long",
        "sound.mp4": "has no video",
        "missing.mp4": "does not exist",
        "p.%03d.png": "does not exist, expected a video file, or pictures",
    }
    for name, reason in said.items():
        with pytest.raises(ShiftsearchError, match=reason) as raised:
            frames_of(tmp_path / name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4"), ("a.mp4", "libx264")]
)
def test_truncated_files_say_how_far_they_can_be_read(tmp_path, name, codec):
    source = make(tmp_path / name, codec, size=(128, 96), frames=60, audio=None)
    if name == "a.mp4":  # with its index in front
        with (
            av.open(str(source)) as old,
            av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as new,
        ):
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
        source = tmp_path / "fast.mp4"
    data = source.read_bytes()
    broken = tmp_path / f"broken-{name}"
    broken.write_bytes(data[: len(data) * 6 // 10])
    (tmp_path / f"out-{name}").write_text("older")
    with pytest.raises(ShiftsearchError, match=r"is broken after \d+ frames.*; frames 0:\d+ can be read") as raised:
        through(broken, tmp_path / f"out-{name}")
    assert (tmp_path / f"out-{name}").read_text() == "older"
    count = int(str(raised.value).split("frames 0:")[1].split()[0])
    np.testing.assert_array_equal(frames_of(broken, (0, count)), frames_of(source)[:count])


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.flv", "flv", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("a.y4m", "rawvideo", "yuv420p"),
    ],
)
def test_short_files_that_are_cut_off_are_no_whole_ones(tmp_path, name, codec, form):
    data = make(tmp_path / name, codec, frames=8, form=form, audio=None).read_bytes()
    whole = frames_of(tmp_path / name)
    for share in (0.3, 0.6, 0.8):
        (tmp_path / f"cut-{name}").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ShiftsearchError, match=r"is broken after|cannot be read|no frame can be decoded") as raised:
            frames_of(tmp_path / f"cut-{name}")
        if "frames 0:" in str(raised.value):
            count = int(str(raised.value).split("frames 0:")[1].split()[0])
            np.testing.assert_array_equal(frames_of(tmp_path / f"cut-{name}", (0, count)), whole[:count])


def test_where_an_mp4_and_a_live_matroska_end(tmp_path):
    def box(name, content, length=None):
        return (8 + len(content) if length is None else length).to_bytes(4, "big") + name + content

    long = b"\0\0\0\1mdat" + (16 + 9).to_bytes(8, "big") + bytes(9)
    ends = {
        box(b"ftyp", b"isom") + box(b"mdat", bytes(99)): False,
        box(b"ftyp", b"isom") + box(b"mdat", bytes(99), 108): True,
        box(b"ftyp", b"isom") + box(b"mdat", bytes(99), 0): False,  # to the end of the file
        box(b"ftyp", b"isom") + long: False,
        box(b"ftyp", b"isom") + long[:-1]: True,
        box(b"ftyp", b"isom") + box(b"mdat", b"") + b"what somebody appended": False,
        b"\x1aE\xdf\xa3\x82ab\x18S\x80\x67\x01" + b"\xff" * 7 + bytes(9): False,  # without a length
        b"\x1aE\xdf\xa3\x82ab\x18S\x80\x67\x40\x09" + bytes(9): False,
        b"\x1aE\xdf\xa3\x82ab\x18S\x80\x67\x40\x09" + bytes(8): True,
        b"\x1aE\xdf\xa3\x82ab": False,
        b"something else": False,
    }
    for data, cut in ends.items():
        (tmp_path / "a").write_bytes(data)
        assert cut_off(tmp_path / "a", 0) == cut, data


def test_a_file_that_lost_its_index_is_an_error(tmp_path):
    data = make(tmp_path / "a.mp4", frames=50).read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ShiftsearchError, match="cannot be read"):
        io.read(tmp_path / "b.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_bits_that_flipped_end_well_or_with_one_line(tmp_path, name):
    source = make(tmp_path / name, "mpeg4" if name == "a.avi" else "libx264", frames=30)
    data = source.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(12):
        bad = bytearray(data)
        for at in rng.integers(0, len(bad), 40):
            bad[at] = rng.integers(256)
        (tmp_path / f"bad-{name}").write_bytes(bad)
        said = None
        try:
            frames = frames_of(tmp_path / f"bad-{name}")
        except ShiftsearchError as error:
            said = str(error)
        assert frames.ndim == 4 if said is None else "\n" not in said


# --- whole or not at all ----------------------------------------------------------------------------
def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    source, target = make(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    target.write_text("older")

    def stopped(error):
        with io.read(source) as clip, io.write(target, clip) as out:
            out.write(next(iter(clip)))
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            stopped(error)
        assert target.read_text() == "older"
    with pytest.raises(ShiftsearchError, match="no frame was written"), io.write(target, rate=25):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]
    through(source, target)
    assert len(frames_of(target)) == 10
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_targets_that_cannot_be(tmp_path):
    source = make(tmp_path / "a.mp4")
    (tmp_path / "link.mp4").symlink_to(source)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    os.link(source, tmp_path / "hard.mp4")
    for target, said in [
        (source, "is the input file"),
        (tmp_path / "link.mp4", "is the input file"),
        (tmp_path / "hard.mp4", "is the input file"),
        (tmp_path, "is not a file"),
        (tmp_path / "no" / "b.mp4", "there is no folder"),
        ("/dev/null", "is not a file"),
        (tmp_path / ("b" * 300 + ".mp4"), "File name too long"),
    ]:
        with pytest.raises(ShiftsearchError, match=said):
            through(source, target)
    assert len(frames_of(source)) == 10
    through(source, tmp_path / "loop.mp4")
    assert len(frames_of(tmp_path / "loop.mp4")) == len(frames_of(source)) == 10
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "hard.mp4", "link.mp4", "loop.mp4"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    make(tmp_path / "a.mkv", "ffv1", (320, 240), frames=4)
    code = (
        "import resource, sys; from shiftsearch.video import io; from shiftsearch import ShiftsearchError\n"
        "for limit in (20_000, 100):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "    try:\n"
        "        with io.read(sys.argv[1]) as clip, io.write(sys.argv[2], clip) as out:\n"
        "            for frame in clip: out.write(frame)\n"
        "    except ShiftsearchError as error: print(error)"
    )
    done = subprocess.run(  # -B: a Python that runs out of space may leave bytecode cut off, and would read it the next time
        [sys.executable, "-B", "-c", code, tmp_path / "a.mkv", tmp_path / "b.mkv"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * f"{tmp_path / 'b.mkv'}: cannot be written: File too large\n"
    assert os.listdir(tmp_path) == ["a.mkv"]


def test_memory_does_not_grow_with_the_clip(tmp_path):
    """Only the times and the sound of a few frames wait between reading and writing."""
    source = make(tmp_path / "a.mkv", frames=120)
    with io.read(source) as clip, io.write(tmp_path / "b.mkv", clip) as out:
        most = 0
        for frame in clip:
            out.write(frame)
            most = max(most, len(clip.times) + len(clip._decoder.aside))
    assert most < 60
    with io.read(source) as clip:
        for _ in clip:
            assert len(clip.times) + len(clip._decoder.aside) < 60
