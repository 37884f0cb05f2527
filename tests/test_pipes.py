"""Video in pipes: Y4M from the standard input, and to the standard output."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from clips import decoded, make

from shiftsearch import ShiftsearchError
from shiftsearch.__main__ import main
from shiftsearch.video import io

av = pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("tqdm")

RUN = [sys.executable, "-W", "error", "-m", "shiftsearch"]
# what stands in for vspipe and ffmpeg: programs that write Y4M to a pipe, and read it from there
PRODUCE = """
import sys, av
with av.open(sys.argv[1]) as old, av.open("pipe:1", "w", format="yuv4mpegpipe") as new:
    like = old.streams.video[0]
    stream = new.add_stream("rawvideo", rate=like.average_rate)
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, like.format.name
    for frame in old.decode(like):
        new.mux(stream.encode(frame))
    new.mux(stream.encode(None))
"""
CONSUME = """
import sys, av
with av.open("pipe:0") as old, av.open(sys.argv[1], "w") as new:
    like = old.streams.video[0]
    stream = new.add_stream("ffv1", rate=like.average_rate)
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, like.format.name
    for frame in old.decode(like):
        new.mux(stream.encode(frame))
    new.mux(stream.encode(None))
"""
SCRIPT = """
import numpy as np, vapoursynth as vs
plain = vs.core.std.BlankClip(width=64, height=48, format=vs.YUV420P8, length=6, fpsnum=25, color=[90, 100, 140])
def shaded(n, f):
    out = f.copy()
    for p in range(3):
        plane = np.asarray(out[p])
        y, x = np.mgrid[:plane.shape[0], :plane.shape[1]]
        plane[...] = 100 + 60 * np.sin((x + y + n) / 5)
    return out
vs.core.std.ModifyFrame(plain, plain, shaded).set_output()
"""


@pytest.fixture
def piped(monkeypatch):
    """Return a function that makes bytes the standard input, and returns what the standard output gets."""

    def put(data=b""):
        out = BytesIO()
        for name, file in (("stdin", BytesIO(data)), ("stdout", out)):
            monkeypatch.setattr(sys, name, SimpleNamespace(buffer=file, isatty=lambda: False, flush=lambda: None))
        return out

    return put


def y4m(kind, frames=3, size=(20, 12), more="Ip A1:1", end=""):
    """Return Y4M of random samples."""
    bits = int(found[1]) if (found := re.search(r"(?:p|mono)(\d+)$", kind)) else 8
    width, height = size
    across, down = {"420": (2, 2), "422": (2, 1), "411": (4, 1), "444": (1, 1)}.get(kind[:3], (0, 0))
    count = width * height + (2 * -(-width // across) * -(-height // down) if across else 0)
    kind_of = np.uint8 if bits == 8 else np.dtype("<u2")
    samples = np.random.default_rng(0).integers(0, 1 << bits, (frames, count), dtype=kind_of)
    head = f"YUV4MPEG2 W{width} H{height} F30000:1001 {more} C{kind}{end}\n".encode()
    return head + b"".join(b"FRAME\n" + each.tobytes() for each in samples)


def through(span=(0, None), **options):
    with io.read("-", span, **options) as clip, io.write("-", clip) as out:
        for planes in clip.planes():
            out.write(planes)
    return out


# --- the format -------------------------------------------------------------------------------------
DEEP = [f"{chroma}p{bits}" for chroma in ("420", "422", "444") for bits in (9, 10, 12, 14, 16)]
DEEP += [f"mono{bits}" for bits in (9, 10, 12, 16)]


@pytest.mark.parametrize("kind", ["420jpeg", "420mpeg2", "420paldv", "422", "444", "411", "mono", *DEEP])
@pytest.mark.parametrize("size", [(20, 12), (19, 11)])
def test_every_kind_passes_unchanged(piped, kind, size):
    """Depth, places of U and V, shape of pixels, rate and range are in the first line; samples follow."""
    sent = y4m(kind, size=size, more="Ip A16:15", end=" XCOLORRANGE=FULL")
    out = piped(sent)
    assert through().left_out == []
    head, _, rest = out.getvalue().partition(b"\n")
    assert re.sub(rb" XYSCSS=\S+", b"", head) == sent.partition(b"\n")[0]
    assert rest == sent.partition(b"\n")[2]


@pytest.mark.parametrize("order", ["t", "b"])
def test_fields_keep_their_order_if_frames_are_taken_as_whole_ones(piped, order):
    sent = y4m("420jpeg", more=f"I{order} A1:1")
    piped(sent)
    with pytest.raises(ShiftsearchError, match="is interlaced, expected progressive frames"):
        io.read("-")
    out = piped(sent)
    through(progressive=True)
    assert f" I{order} ".encode() in out.getvalue().partition(b"\n")[0]


@pytest.mark.parametrize(
    ("end", "noted"), [(" XCOLORRANGE=LIMITED", b"LIMITED"), (" XCOLORRANGE=FULL", b"FULL"), ("", b"")]
)
def test_the_range_stays(piped, tmp_path, end, noted):
    """Into a file and out of it again, too."""
    out = piped(y4m("420jpeg", end=end))
    with io.read("-") as clip, io.write(tmp_path / "a.y4m", clip) as file:
        for planes in clip.planes():
            file.write(planes)
    with io.read(tmp_path / "a.y4m") as clip, io.write("-", clip) as file:
        for planes in clip.planes():
            file.write(planes)
    assert out.getvalue() == (tmp_path / "a.y4m").read_bytes()
    assert (out.getvalue().partition(b"\n")[0].partition(b"XCOLORRANGE=")[2]) == noted


def test_places_of_u_and_v_reach_a_coded_file(piped, tmp_path):
    """PyAV does not tell them, so the bytes of files that differ in nothing else are compared."""
    coded = []
    for kind in ("420jpeg", "420mpeg2", "420paldv"):
        piped(y4m(kind))
        with io.read("-") as clip, io.write(tmp_path / "a.mp4", clip, codec="h264") as out:
            for planes in clip.planes():
                out.write(planes)
        coded.append((tmp_path / "a.mp4").read_bytes())
    assert len(set(coded)) == 3


def test_samples_of_a_file_stay_and_what_y4m_cannot_say_is_told(piped, tmp_path):
    source = make(tmp_path / "a.mp4", form="yuv420p10le", colorspace=1, color_range=1)
    out = piped()
    with io.read(source) as clip, io.write("-", clip) as file:
        for planes in clip.planes():
            file.write(planes)
    assert file.left_out == ["which matrix the colours have", "audio (aac)"]
    piped(out.getvalue())
    with io.read(source) as before, io.read("-") as after:
        pairs = list(zip(before.planes(), after.planes(), strict=True))
    assert len(pairs) == 10
    for one, other in pairs:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("form", "kept"), [("bgr0", "444"), ("yuv440p", "444"), ("yuv410p", "42"), ("yuva420p", "420jpeg")]
)
def test_what_y4m_has_no_name_for_becomes_what_is_nearest(piped, tmp_path, form, kept):
    source = make(tmp_path / "a.mkv", "ffv1", form=form, audio=None)
    out = piped()
    with io.read(source) as clip, io.write("-", clip) as file:
        for frame in clip:
            file.write(frame)
    assert f" C{kept}".encode() in out.getvalue().partition(b"\n")[0]


# --- what cannot be ---------------------------------------------------------------------------------
def test_an_end_within_a_frame_is_noticed(piped):
    sent = y4m("420jpeg", frames=5)
    piped(sent[:-7])
    with io.read("-") as clip, pytest.raises(ShiftsearchError, match="its end is missing; frames 0:3 can be read"):
        list(clip)
    piped(sent)
    with io.read("-") as clip:
        assert len(list(clip)) == 5


def test_standard_streams_that_are_none(monkeypatch, piped, tmp_path):
    piped(b"")
    with pytest.raises(ShiftsearchError, match="-: is empty"):
        io.read("-")
    piped(b"no video\n" * 99)
    with pytest.raises(ShiftsearchError, match="-: cannot be read as a video"):
        io.read("-")
    mine, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(mine):
        for name, action in (("stdin", io.read), ("stdout", lambda path: io.write(path, rate=25).__enter__())):
            for stream, said in ((terminal, "is a terminal"), (None, "is closed")):
                monkeypatch.setattr(sys, name, stream)
                with pytest.raises(ShiftsearchError, match=f"the standard {name[3:]}put {said}"):
                    action("-")


def test_a_list_in_a_pipe_opens_no_file(piped, tmp_path):
    make(tmp_path / "a.mp4", audio=None)
    piped(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n".encode())
    with pytest.raises(ShiftsearchError, match="-: cannot be read as a video"):
        io.read("-")


@pytest.mark.parametrize(("to", "span"), [("1", ":"), ("3", "2:"), ("next", "1:4")])
def test_align_from_a_pipe_is_that_from_a_file(piped, tmp_path, to, span):
    (tmp_path / "a.y4m").write_bytes(y4m("420jpeg", 5, (64, 48)))
    run = ["-o", "-", "--to", to, "--frames", span, "--flow", "none", "--quiet"]
    results = []
    for name in (str(tmp_path / "a.y4m"), "-"):
        results.append(piped((tmp_path / "a.y4m").read_bytes()))
        assert main(["align", name, *run]) == 0
    assert results[0].getvalue() == results[1].getvalue() != b""


def test_a_frame_of_a_pipe_that_is_not_read_cannot_be_aligned_to(piped, capfd):
    for to, span in (("0", "2:"), ("9", ":")):
        piped(y4m("420jpeg", 5, (64, 48)))
        assert main(["align", "-", "-o", "-", "--to", to, "--frames", span, "--flow", "none"]) == 1
        assert f"--to is {to}, expected one of the frames that are read" in capfd.readouterr().err
    piped(y4m("420jpeg"))
    assert main(["compare", "-", "-"]) == 1
    assert "is read only once" in capfd.readouterr().err


# --- real pipes -------------------------------------------------------------------------------------
def vspipe(tmp_path):
    _needed("vspipe")
    runs = subprocess.run(["vspipe", "--version"], capture_output=True, text=True)
    if runs.returncode:
        pytest.skip(f"vspipe does not run here: {runs.stderr or runs.stdout}")
    (tmp_path / "s.vpy").write_text(SCRIPT)
    return f"vspipe -c y4m {tmp_path}/s.vpy - 2> {tmp_path}/frames"  # which it counts there


def ffmpeg(tmp_path):
    _needed("ffmpeg")
    return f"ffmpeg -v error -i - -c:v ffv1 {tmp_path}/out.mkv"


def producer(tmp_path):
    make(tmp_path / "a.mkv", "ffv1", frames=6, form="yuv422p", audio=None)
    (tmp_path / "produce.py").write_text(PRODUCE)
    return f"{sys.executable} {tmp_path}/produce.py {tmp_path}/a.mkv"


def consumer(tmp_path):
    (tmp_path / "consume.py").write_text(CONSUME)
    return f"{sys.executable} {tmp_path}/consume.py {tmp_path}/out.mkv"


def _needed(name):
    if shutil.which(name) is None:
        pytest.skip(f"there is no program {name}")


@pytest.mark.parametrize(
    ("before", "after"), [(producer, consumer), (vspipe, consumer), (producer, ffmpeg), (vspipe, ffmpeg)]
)
def test_denoise_between_two_programs(tmp_path, before, after):
    """The real ones where they are, and stand-ins for either."""
    before, after = before(tmp_path), after(tmp_path)
    ours = f"{' '.join(RUN)} denoise - -o - --radius 1 --sigma 0"
    line = f"set -o pipefail; {before} | tee {tmp_path}/in.y4m | {ours} 2> {tmp_path}/said | {after}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    said = (tmp_path / "said").read_text()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), said
    assert re.search(r"written: -, 6 frames, \d+\.\d s", said)
    with io.read(tmp_path / "in.y4m") as one, io.read(tmp_path / "out.mkv") as other:
        for a, b in zip(one.planes(), other.planes(), strict=True):  # with sigma 0, nothing changes
            np.testing.assert_array_equal(
                np.concatenate([p.ravel() for p in a]), np.concatenate([p.ravel() for p in b])
            )


def test_ffmpeg_takes_what_is_written(tmp_path):
    """The real program, where it is, reads each kind from our pipe."""
    _needed("ffmpeg")
    source = make(tmp_path / "a.mkv", "ffv1", frames=3, form="yuv420p10le", audio=None)
    line = f"{' '.join(RUN)} align {source} -o - --flow none --quiet | ffmpeg -v error -i - -c:v ffv1 {tmp_path}/b.mkv"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [frame.format.name for frame in decoded(tmp_path / "b.mkv")] == ["yuv420p10le"] * 3


@pytest.mark.full
def test_a_reader_that_leaves_early_is_no_error_message(tmp_path):
    (tmp_path / "a.y4m").write_bytes(y4m("444", 40, (96, 64)))
    line = f"{' '.join(RUN)} align - -o - --flow none < {tmp_path}/a.y4m | head -c 100 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["100", "1"], "")


def test_a_pipe_that_ends_too_early_is_an_error_and_what_came_is_written(tmp_path):
    (tmp_path / "a.y4m").write_bytes(y4m("444", 6, (96, 64))[:-50])
    run = [*RUN, "align", "-", "-o", "-", "--flow", "none"]
    with (tmp_path / "a.y4m").open("rb") as file:
        done = subprocess.run(run, stdin=file, capture_output=True)
    assert done.returncode == 1
    assert b"shiftsearch align: -: is broken after 4 frames: its end is missing" in done.stderr
    assert done.stdout.count(b"FRAME\n") == 4
