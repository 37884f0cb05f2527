"""Files of any origin: only named files are opened, data of frames is kept or reported, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import decoded, make, streams, waves

from shiftsearch import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.io import whole as files
from shiftsearch.video.io.ends import cut_off

av = pytest.importorskip("av")


def frames_of(path, span=(0, None), **options):
    with io.read(path, span, **options) as clip:
        return np.stack(list(clip))


def through(source, target, span=(0, None), **options):
    with io.read(source, span) as clip, io.write(target, clip, **options) as out:
        for frame in clip:
            out.write(frame)
    return out


# --- lists of files ---------------------------------------------------------------------------------
_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\n{}\n#EXT-X-ENDLIST\n"
_DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" '
    'profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet mimeType="video/mp2t">'
    '<Representation id="1" bandwidth="9"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
LISTS = {
    "hls": ("list.m3u8", _HLS),
    "concat": ("clip.mp4", "ffconcat version 1.0\nfile {}\n"),
    "sdp": ("clip.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n"),
    "vobsub": ("clip.idx", "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 000000000\n"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_other_files_is_refused_before_they_are_opened(tmp_path, kind):
    name, text = LISTS[kind]
    make(tmp_path / "secret.ts")
    (tmp_path / "clip.sub").write_bytes(bytes(99))
    (tmp_path / name).write_text(text.format("secret.ts"))
    level = av.logging.get_level()
    for _ in range(2):  # FFmpeg does not repeat what it says, unless it is asked to
        with pytest.raises(
            ShiftsearchError, match=rf"is a list of other files or addresses \({kind}\).*--format {kind}"
        ):
            io.read(tmp_path / name)
    assert av.logging.get_level() == level
    assert sorted(os.listdir(tmp_path)) == sorted({name, "secret.ts", "clip.sub"})


def test_a_list_for_dash_opens_no_file(tmp_path):
    """FFmpeg in PyAV does not know this format; where it does, it is refused as other lists are."""
    make(tmp_path / "a.ts")
    (tmp_path / "clip.mpd").write_text(_DASH.format("a.ts"))
    with pytest.raises(ShiftsearchError, match=r"cannot be read as a video|\(dash\)"):
        io.read(tmp_path / "clip.mpd")


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:{port}/a.ts",
        "tcp://127.0.0.1:{port}",
        "rtsp://127.0.0.1:{port}/a",
        "file:{folder}/a.ts",
        "concat:{folder}/a.ts|{folder}/a.ts",
        "subfile,,start,0,end,0,,:{folder}/a.ts",
        "cache:{folder}/a.ts",
        "crypto:{folder}/a.ts",
        "data:video/mp2t;base64,Rw==",
        "pipe:0",
        "fd:0",
        "lavfi:testsrc",
        "async:file:{folder}/a.ts",
    ],
)
def test_a_name_is_that_of_a_file_and_of_no_protocol(tmp_path, name):
    """Also for what is written: each protocol of FFmpeg has a name that could begin a file's."""
    make(tmp_path / "a.ts", frames=2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = name.format(port=server.getsockname()[1], folder=tmp_path)
        with pytest.raises(ShiftsearchError, match="does not exist, expected a video file"):
            io.read(name)
        with pytest.raises(ShiftsearchError), io.write(f"{name}.mkv" if "/" in name else f"/no/{name}.mkv", rate=25):
            pass
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert os.listdir(tmp_path) == ["a.ts"]


@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_a_list_is_read_if_its_format_is_named(tmp_path, kind):
    name, text = LISTS[kind]
    expected = frames_of(make(tmp_path / "part.ts", audio=None))
    (tmp_path / name).write_text(text.format("part.ts"))
    np.testing.assert_array_equal(frames_of(tmp_path / name, format=kind), expected)
    with pytest.raises(ShiftsearchError, match="no container format 'nonsense'"):
        frames_of(tmp_path / name, format="nonsense")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{}/a.ts", "tcp://127.0.0.1:{}", "crypto+http://127.0.0.1:{}/a.ts"]
)
@pytest.mark.parametrize("kind", ["hls", "concat"])
def test_no_address_is_opened_even_if_the_format_is_named(tmp_path, kind, address):
    visits = []

    def serve():
        with suppress(OSError):  # until it is shut down
            while True:
                visits.append(server.accept()[0])
                visits[-1].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        name, text = LISTS[kind]
        (tmp_path / name).write_text(text.format(address.format(server.getsockname()[1])))
        with pytest.raises(ShiftsearchError, match=name):
            frames_of(tmp_path / name, format=kind)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert visits == []


def test_a_percent_sign_means_a_number_only_where_there_is_one(tmp_path):
    with io.write(tmp_path / "50%.png", rate=25) as out:
        out.write(np.full((8, 8), 50, np.uint8))
    os.rename(tmp_path / "50%.png", tmp_path / "a%03d.png")  # a file whose name is the pattern
    with io.write(tmp_path / "a002.png", rate=25) as out:
        out.write(np.full((8, 8), 2, np.uint8))
    assert frames_of(tmp_path / "a%03d.png").max() == 50
    folder = tmp_path / "100%d"
    folder.mkdir()
    for number in (1001, 1002):
        with io.write(folder / f"b.{number}.png", rate=25) as out:
            out.write(np.full((8, 8), number - 1000, np.uint8))
    assert frames_of(folder / "b.%04d.png")[:, 0, 0].tolist() == [1, 2]
    with pytest.raises(ShiftsearchError, match=r"does not exist, expected .* pictures with numbers"):
        io.read(folder / "c.%04d.png")


def test_pictures_have_the_numbers_of_frames_in_the_source(tmp_path):
    source = make(tmp_path / "a.mkv", "ffv1", form="bgr0", audio=None)
    for span in ((0, 4), (4, 7), (7, None)):
        through(source, tmp_path / "p.%03d.png", span)
    assert sorted(path.name for path in tmp_path.glob("p.*")) == [f"p.{n:03d}.png" for n in range(10)]
    np.testing.assert_array_equal(frames_of(tmp_path / "p.%03d.png"), frames_of(source))
    for n in range(10):
        os.rename(tmp_path / f"p.{n:03d}.png", tmp_path / f"q.{1001 + n}.png")
    through(tmp_path / "q.%04d.png", tmp_path / "r.%04d.png", (8, 10))
    assert sorted(path.name for path in tmp_path.glob("r.*")) == ["r.1009.png", "r.1010.png"]


# --- files that are written -------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o440])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, mode):
    source, old = make(tmp_path / "a.mkv", audio=None), tmp_path / "old.mkv"
    old.write_text("older")
    old.chmod(mode)
    (tmp_path / "link.mkv").symlink_to(old)
    before = os.umask(0o027)
    try:
        through(source, tmp_path / "link.mkv")
        through(source, tmp_path / "new.mkv")
        through(source, tmp_path / "p.%d.png")
    finally:
        os.umask(before)
    assert (tmp_path / "link.mkv").is_symlink()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old.mkv", "new.mkv", "p.3.png")]
    assert modes == [mode, 0o640, 0o640]
    assert len(frames_of(old)) == 10


@pytest.mark.parametrize(
    "name", ["b.srt", "b.ass", "b.vtt", "b.wav", "b.mp3", "b.flac", "b.mka", "b.ffmeta", "b.txt", "b.null"]
)
@pytest.mark.parametrize("codec", [None, "png", "h264"])
def test_kinds_of_files_without_frames_are_refused_before_work_begins(tmp_path, name, codec):
    source = make(tmp_path / "a.mov", "png", form="rgb24", audio=None)
    with (
        io.read(source) as clip,
        pytest.raises(ShiftsearchError, match=r"holds no video|does not know this kind"),
        io.write(tmp_path / name, clip, codec=codec),
    ):
        raise AssertionError("there is a writer")
    assert os.listdir(tmp_path) == ["a.mov"]


# --- runs that were killed --------------------------------------------------------------------------
_STOPPED = """if True:
    import sys, time
    from shiftsearch.video.io.whole import whole
    with whole(sys.argv[1]) as part:
        part.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


def test_folders_of_killed_runs_are_removed_and_those_in_use_are_not(tmp_path):
    target, other = tmp_path / "a.txt", tmp_path / "b.txt"
    with subprocess.Popen([sys.executable, "-c", _STOPPED, target], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "ready\n"
        (folder,) = os.listdir(tmp_path)
        with files.whole(other) as part:
            part.write_text("whole")
        assert sorted(os.listdir(tmp_path)) == sorted([folder, "b.txt"])
        assert (tmp_path / folder / "a.txt").read_text() == "half"
        run.send_signal(signal.SIGKILL)
    assert folder in os.listdir(tmp_path)
    with files.whole(other) as part:
        part.write_text("whole")
    assert os.listdir(tmp_path) == ["b.txt"]


def test_only_folders_of_this_machine_and_user_are_removed(tmp_path, monkeypatch):
    prefix, elsewhere = files._prefix(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{prefix}link").write_text("kept")
    (tmp_path / f"{prefix}link").symlink_to(elsewhere)  # a link may lead to another user's folder
    (tmp_path / f"{prefix}empty").mkdir()  # killed before there was a lock
    (tmp_path / f"{prefix}full").mkdir()  # from a system without locks
    (tmp_path / f"{prefix}full" / "x").write_text("kept")
    for name in (f".shiftsearch-another{prefix[12:]}x", f"{prefix}theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    there = set(os.listdir(tmp_path)) - {f"{prefix}empty"}
    lstat = Path.lstat

    def of_somebody(self):
        found = list(lstat(self))
        found[stat.ST_UID] += self.name.endswith("theirs")
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", of_somebody)
    files._remove_left(tmp_path)
    assert set(os.listdir(tmp_path)) == there
    monkeypatch.undo()
    files._remove_left(tmp_path)
    assert set(os.listdir(tmp_path)) == there - {f"{prefix}theirs"}


def test_a_folder_that_another_run_took_for_left_behind_is_made_anew(tmp_path, monkeypatch):
    hold, taken = files._hold, []

    def too_late(lock):
        if not taken:
            taken.append(Path(lock.name).parent)
            shutil.rmtree(taken[0])
        hold(lock)

    monkeypatch.setattr(files, "_hold", too_late)
    with files.whole(tmp_path / "a.txt") as part:
        part.write_text("whole")
    assert taken
    assert os.listdir(tmp_path) == ["a.txt"]


def test_many_runs_at_once_do_not_take_each_others_folders(tmp_path):
    code = (
        "import sys; from shiftsearch.video.io.whole import whole\n"
        "for n in range(60):\n"
        "    with whole(f'{sys.argv[1]}-{n}') as part: part.write_text('whole')"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path / str(n)]) for n in range(3)]
    assert [run.wait() for run in runs] == [0] * 3
    assert len(os.listdir(tmp_path)) == 180
    assert not any(name.startswith(".") for name in os.listdir(tmp_path))


# --- files that end early ---------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "codec", "audio"), [("a.avi", "mpeg4", "mp2"), ("a.ogv", "libvpx", "libopus")])
def test_a_missing_end_is_told_wherever_it_begins(tmp_path, name, codec, audio):
    data = make(tmp_path / name, codec, frames=100, audio=audio).read_bytes()
    assert len(frames_of(tmp_path / name)) == 100
    mark = b"OggS" if name == "a.ogv" else b"00dc"
    ends = [at for at in range(len(data) // 2, len(data)) if data.startswith(mark, at)]  # at the end of a complete part
    assert len(ends) > 3
    for end in (*ends[:: len(ends) // 4], ends[-1], len(data) - 1):
        (tmp_path / f"cut-{name}").write_bytes(data[:end])
        with pytest.raises(ShiftsearchError, match=r"is broken after|cannot be read"):
            frames_of(tmp_path / f"cut-{name}")


def test_where_riff_and_ogg_end(tmp_path):
    def riff(name, length, content):
        return b"RIFF" + length.to_bytes(4, "little") + name + content

    def page(flags, segments, stream=1):
        return (
            b"OggS\0"
            + bytes([flags])
            + bytes(8)
            + bytes([stream])
            + bytes(11)
            + bytes([len(segments), *segments])
            + bytes(sum(segments))
        )

    ends = {
        riff(b"AVI ", 8, b"abcd"): False,
        riff(b"AVI ", 9, b"abcd"): True,
        riff(b"AVI ", 7, b"abc"): False,  # padded by a byte, which may be missing at the end
        riff(b"AVI ", 0, b"abcd"): False,  # not stated
        riff(b"AVI ", 7, b"abc\0") + riff(b"AVIX", 8, b"abcd"): False,
        riff(b"AVI ", 8, b"abcd") + riff(b"AVIX", 8, b"abc"): True,
        page(2, [9]) + page(4, [7, 255]): False,
        page(2, [9]) + page(4, [7, 255])[:-1]: True,
        page(2, [9]) + page(0, [9]): True,
        page(2, [9])[:20]: True,
        page(2, [9], 1) + page(2, [9], 2) + page(4, [9], 1) + page(4, [9], 2): False,
        page(2, [9], 1) + page(2, [9], 2) + page(4, [9], 1): True,
        page(2, [9], 2) + page(4, [9], 2) + page(0, [255] * 255, 1) * 3 + page(4, [9], 1): False,
    }
    for data, cut in ends.items():
        (tmp_path / "a").write_bytes(data)
        assert cut_off(tmp_path / "a", 0) == cut, data


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_frames_of_a_broken_file_are_kept_as_far_as_they_are_whole(tmp_path, name):
    source = make(tmp_path / name, "mpeg4", (128, 96), frames=40, audio="mp2")
    data = source.read_bytes()
    (tmp_path / f"cut-{name}").write_bytes(data[: len(data) * 6 // 10])
    with (
        io.read(tmp_path / f"cut-{name}", salvage=True) as clip,
        io.write(tmp_path / "b.mkv", clip, codec="ffv1") as out,
    ):
        for planes in clip.planes():
            out.write(planes)
    assert f"is broken after {out.count} frames" in clip.broken
    assert 5 < out.count < 40
    np.testing.assert_array_equal(frames_of(tmp_path / "b.mkv"), frames_of(source)[: out.count])
    with av.open(str(tmp_path / "b.mkv")) as found:  # sound and pictures end together
        last = max(packet.pts * packet.time_base for packet in found.demux(audio=0) if packet.pts is not None)
    assert last <= Fraction(out.count, 25)
    with pytest.raises(ShiftsearchError, match="is broken after"):
        frames_of(tmp_path / f"cut-{name}", (35, None), salvage=True)


# --- what belongs to frames -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("b.mp4", "libx264", "yuv420p"),
        ("b.mkv", "libx264", "yuv420p"),
        ("b.mov", "prores_ks", "yuv422p10le"),
        ("b.avi", "mpeg4", "yuv420p"),
        ("b.ts", "mpeg2video", "yuv420p"),
        ("b.mkv", "libx265", "yuv420p"),
        ("b.mov", "png", "rgb24"),
        ("b.mkv", "ffv1", "yuv420p"),
        ("b.webm", "libvpx-vp9", "yuv420p"),
        ("b.avi", "ffv1", "yuv420p"),
        ("b.png", "png", "rgb24"),
    ],
)
def test_the_shape_of_pixels_is_kept_or_told(tmp_path, name, codec, form):
    """Here the file stores the shape, and the codec does not."""
    source = make(tmp_path / "a.mov", "prores_ks", form="yuv422p10le", audio=None, sample_aspect_ratio=Fraction(16, 11))
    with av.open(str(source)) as found:
        assert not found.streams.video[0].codec_context.sample_aspect_ratio
    left = through(source, tmp_path / name, (0, 1), codec=codec if name != "b.png" else None).left_out
    with av.open(str(tmp_path / name)) as found:
        shape = found.streams.video[0].sample_aspect_ratio
    assert left == ([] if shape == Fraction(16, 11) else ["pixels of 16:11"])


@pytest.mark.parametrize(("shape", "kept"), [(Fraction(16, 15), True), (Fraction(12, 11), False)])
def test_mpeg2_knows_few_shapes(tmp_path, shape, kept):
    source = make(tmp_path / "a.mov", "prores_ks", (90, 72), form="yuv422p10le", audio=None, sample_aspect_ratio=shape)
    assert (through(source, tmp_path / "b.mpg").left_out == []) == kept
    with av.open(str(tmp_path / "b.mpg")) as found:
        assert (found.streams.video[0].sample_aspect_ratio == shape) == kept


def test_sound_that_comes_later_in_the_file_goes_along_with_a_part(tmp_path):
    make(tmp_path / "a.mkv", "ffv1", frames=50, audio="flac")
    late = {"max_interleave_delta": "1"}  # microseconds
    with (
        av.open(str(tmp_path / "a.mkv")) as old,
        av.open(str(tmp_path / "late.mkv"), "w", container_options=late) as new,
    ):
        copies = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        packets = sorted((p for p in old.demux() if p.dts is not None), key=lambda p: (p.stream.type == "audio", p.dts))
        for packet in packets:
            packet.stream = copies[packet.stream.index]
            new.mux(packet)
    with av.open(str(tmp_path / "late.mkv")) as found:
        kinds = [packet.stream.type for packet in found.demux() if packet.size]
    assert kinds.index("audio") > 40
    through(tmp_path / "late.mkv", tmp_path / "b.mkv", (5, 35))
    kept, (_, whole) = streams(tmp_path / "b.mkv")["audio"][0][1], streams(tmp_path / "a.mkv")["audio"][0]
    assert [data for _, data in kept] == [data for time, data in whole if 0.2 <= time < 1.4]


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [("a.mkv", "libx264", "yuv420p"), ("a.mpg", "mpeg2video", "yuv420p"), ("a.mov", "prores_ks", "yuv422p10le")],
)
def test_interlaced_frames_are_refused_unless_they_are_whole_ones(tmp_path, name, codec, form):
    source = tmp_path / name
    with av.open(str(source), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, form
        stream.codec_context.options = {"flags": "+ildct+ilme"}
        for shades in waves(4, 96, 64):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shades, format="rgb48le").reformat(format=form)))
        out.mux(stream.encode(None))
    with pytest.raises(
        ShiftsearchError, match=r"is interlaced, expected progressive frames: deinterlace it first.*--progressive"
    ):
        io.read(source)
    assert len(frames_of(source, progressive=True)) == 4


@pytest.mark.parametrize(
    ("name", "kept"), [("b.mkv", True), ("b.mp4", True), ("b.mov", True), ("b.webm", True), ("b.avi", False)]
)
def test_chapters_are_kept_or_told(tmp_path, name, kept):
    source, seconds = make(tmp_path / "plain.mp4", frames=50, audio=None), Fraction(1)
    with av.open(str(source)) as old, av.open(str(tmp_path / "a.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        new.set_chapters(
            [
                {"id": n + 1, "start": n, "end": n + 1, "time_base": seconds / 2, "metadata": {"title": f"number {n}"}}
                for n in range(4)
            ]
        )
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    left = through(tmp_path / "a.mp4", tmp_path / name, (20, 30), codec="vp9" if name == "b.webm" else None).left_out
    assert left == ([] if kept else ["chapters"])
    with av.open(str(tmp_path / name)) as found:
        chapters = [
            (chapter["metadata"]["title"], *(chapter[at] * chapter["time_base"] for at in ("start", "end")))
            for chapter in found.chapters()
        ]
    ends = [("number 1", 0, Fraction(1, 5)), ("number 2", Fraction(1, 5), Fraction(2, 5))]  # 0.8 to 1.2 seconds
    assert chapters == (ends if kept else [])


def test_data_of_frames_unknown_to_pyav_is_ignored(tmp_path):
    data = make(tmp_path / "a.jpg", "mjpeg", frames=1, form="yuvj420p", audio=None).read_bytes()
    notes = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"  # as every camera writes
    (tmp_path / "b.jpg").write_bytes(data[:2] + b"\xff\xe1" + (2 + len(notes)).to_bytes(2, "big") + notes + data[2:])
    np.testing.assert_array_equal(frames_of(tmp_path / "b.jpg"), frames_of(tmp_path / "a.jpg"))


def test_data_that_cannot_be_kept_is_reported(tmp_path):
    source = tmp_path / "hdr.mkv"
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        stream.codec_context.options = {"x265-params": f"log-level=error:hdr10=1:{light}"}
        for shades in waves(2, 96, 64):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shades, format="rgb48le").reformat(format="yuv420p10le")))
        out.mux(stream.encode(None))
    assert through(source, tmp_path / "b.mkv").left_out == ["HDR metadata"]
    clear = make(tmp_path / "clear.mkv", "ffv1", form="yuva420p", audio=None)
    assert through(clear, tmp_path / "c.mkv").left_out == ["alpha"]
    with av.open(str(tmp_path / "font.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.add_attachment("font.ttf", "font/ttf", bytes(99))
        out.mux(stream.encode(decoded(make(tmp_path / "a.mkv", "ffv1", frames=1, audio=None))[0]) + stream.encode(None))
    assert through(tmp_path / "font.mkv", tmp_path / "d.mkv").left_out == ["attachment of stream 1"]
