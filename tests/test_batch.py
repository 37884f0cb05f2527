"""Videos made by parts equal those of the ordinary commands, and nothing is made twice."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction

import numpy as np
import pytest
from batches import alone, assert_same, films, here
from clips import make

from shiftsearch.__main__ import main
from shiftsearch.batch import progress, steps
from shiftsearch.video.io.exact import grey, layout_like, read_exact, write_exact

pytest.importorskip("cv2")
pytest.importorskip("tqdm")
av = pytest.importorskip("av")


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- the result -------------------------------------------------------------------------------------
def test_a_folder_is_as_by_the_command_and_a_second_run_does_nothing(tmp_path, monkeypatch, capsys):
    films(tmp_path / "in", a=9)
    films(tmp_path / "in" / "sub", b=3)
    (tmp_path / "in" / "notes.txt").write_text("no video")
    options = ["--sigma", 5, "--radius", 1, "--codec", "mpeg4"]
    asked = [tmp_path / "in", tmp_path / "out", *options, "--part", 4]
    code, ran = here(monkeypatch, *asked)
    assert (code, sorted(ran)) == (0, ["compute"] * 4 + ["join"] * 2 + ["plan"] * 2)
    said = capsys.readouterr().err
    assert f"written: {tmp_path / 'out' / 'a.mp4'}, 9 frames" in said
    assert said.endswith("2 videos: 2 written\n")
    for name in ("a.mp4", "sub/b.mp4"):
        one = alone(tmp_path / "in" / name, tmp_path / "one" / name, "denoise", *options)
        assert (tmp_path / "out" / name).read_bytes() == one.read_bytes()
    made = names(tmp_path / "out")
    assert made == ["a.mp4", "a.mp4.batch.json", "sub/b.mp4", "sub/b.mp4.batch.json"]
    times = [(tmp_path / "out" / name).stat().st_mtime_ns for name in made]
    assert here(monkeypatch, *asked) == (0, [])
    assert capsys.readouterr().err == "2 videos: 2 there already\n"
    assert [(tmp_path / "out" / name).stat().st_mtime_ns for name in made] == times


CASES = {
    "yuv": ({}, ["denoise", "--radius", 1]),
    "deep to less": (
        {"codec": "ffv1", "form": "yuv422p10le", "audio": None},
        ["denoise", "--sigma", 9, "--codec", "mpeg4"],
    ),
    "deep to another form": ({"codec": "ffv1", "form": "yuv420p10le"}, ["denoise", "--sigma", 9, "--codec", "prores"]),
    "rgb": ({"codec": "ffv1", "form": "bgr0"}, ["denoise", "--sigma", 9]),
    "deep rgb": ({"codec": "ffv1", "form": "gbrp16le"}, ["align"]),
    "grey": ({"codec": "ffv1", "form": "gray16le"}, ["denoise", "--sigma", 9]),
    "a part of it": ({}, ["denoise", "--sigma", 9, "--frames", "2:9"]),
    "varying rate": ({"times": [0, 7, 40, 41, 90, 300, 301, 302, 400, 990]}, ["denoise", "--sigma", 9]),
    "previous": ({}, ["align", "--window", 5]),
    "next": ({}, ["align", "--to", "next", "--patch", 1]),
    "a part of previous": ({}, ["align", "--frames", "2:9"]),
    "one": ({}, ["align", "--to", 3, "--flow", "none", "--frames", "1:8"]),
    "plenty": (
        {},
        ["denoise", "--sigma", "9,5,5", "--strength", "1,2,2", "--mix", 0.1, "--temporal-only", "--crf", 30],
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_video_and_option_is_as_by_the_command(tmp_path, monkeypatch, case):
    about, (work, *options) = CASES[case]
    source = make(tmp_path / "a.mkv", **about)
    options += [] if {"--codec", "--crf"} & set(options) else ["--codec", "ffv1"]
    beside = ["--mask", tmp_path / "b.npy"] if work == "align" else []
    asked = ["--work", work, "--part", 3, *options, *beside, "--preview", tmp_path / "b.png"]
    code, ran = here(monkeypatch, source, tmp_path / "b.mkv", *asked)
    assert (code, ran.count("join")) == (0, 1)
    assert ran.count("compute") > 2
    mask = ["--mask", tmp_path / "one" / "b.npy"] if work == "align" else []
    preview = ["--preview", tmp_path / "one" / "b.png"]
    assert_same(tmp_path / "b.mkv", alone(source, tmp_path / "one" / "b.mkv", work, *options, *mask, *preview))
    for path in (tmp_path / "one").glob("b.[np]*"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert here(monkeypatch, source, tmp_path / "b.mkv", *asked) == (0, [])


LINES = """1
00:00:00,080 --> 00:00:00,180
a line

2
00:00:00,250 --> 00:00:00,390
another
"""


def with_everything(path, plain) -> None:
    """Copy a video with sound, and add subtitles, chapters and a title."""
    text = path.with_suffix(".srt")
    text.write_text(LINES)
    with av.open(str(plain)) as source, av.open(str(text)) as lines, av.open(str(path), "w") as out:
        parts = [*source.streams, *lines.streams]
        copies = {id(part): out.add_stream_from_template(part) for part in parts}
        out.metadata["title"] = "waves"
        chapter = {"time_base": Fraction(1, 1000), "metadata": {"title": "a chapter"}}
        out.set_chapters([{**chapter, "id": n, "start": 100 * n, "end": 100 * n + 100} for n in range(4)])
        for packet in [p for file in (lines, source) for p in file.demux() if p.size]:  # FFmpeg puts them in order
            packet.stream = copies[id(packet.stream)]
            out.mux(packet)


@pytest.mark.full
def test_sound_subtitles_chapters_and_title_are_as_by_the_command(tmp_path, monkeypatch):
    with_everything(tmp_path / "a.mkv", make(tmp_path / "plain.mkv"))
    options = ["--sigma", 9, "--frames", "1:9", "--codec", "ffv1"]
    assert here(monkeypatch, tmp_path / "a.mkv", tmp_path / "b.mkv", *options, "--part", 3)[0] == 0
    one = alone(tmp_path / "a.mkv", tmp_path / "one" / "b.mkv", "denoise", *options)
    assert_same(tmp_path / "b.mkv", one)
    with av.open(str(tmp_path / "b.mkv")) as found, av.open(str(one)) as expected:
        assert sorted(s.type for s in found.streams) == ["audio", "subtitle", "video"]
        assert len(found.chapters()) == 4
        assert found.chapters() == expected.chapters()
        assert found.metadata["title"] == "waves"


def test_parts_are_lossless_video(tmp_path, rng):
    for kind in (np.uint8, np.uint16):
        shapes = [(17, 20), (9, 10), (9, 10, 3)]
        clip = [
            tuple(rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True) for shape in shapes) for _ in range(5)
        ]
        with write_exact(tmp_path / "a.mkv") as out:
            for frame in clip:
                out.write(frame)
        with av.open(str(tmp_path / "a.mkv")) as file:
            assert [s.codec_context.name for s in file.streams] == ["ffv1"] * 5
        for found, frame in zip(read_exact(tmp_path / "a.mkv"), clip, strict=True):
            assert len(found) == len(grey(frame)) == 5
            for a, b in zip(layout_like(found, frame), frame, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


# --- what is there, and what is not -----------------------------------------------------------------
@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command on `tmp_path / "in"`, which has one video, as had its first run."""
    films(tmp_path / "in", a=5)

    def run(*more, source=tmp_path / "in"):
        code, ran = here(monkeypatch, source, tmp_path / "out", "--work", "align", "--part", 3, *more)
        return code, sorted(ran), capsys.readouterr().err

    assert run()[:2] == (0, ["compute", "compute", "join", "plan"])
    return run


ALL = ["compute", "compute", "join", "plan"]


def test_a_file_that_is_added_is_made_alone(made, tmp_path):
    films(tmp_path / "in", b=2)
    assert made() == (
        0,
        ["compute", "join", "plan"],
        f"written: {tmp_path / 'out' / 'b.mp4'}, 2 frames\n2 videos: 1 written, 1 there already\n",
    )


def test_a_source_or_options_that_change_make_it_anew(made, tmp_path):
    assert made("--window", 5)[:2] == (0, ALL)
    assert made("--window", 5)[:2] == (0, [])
    os.utime(tmp_path / "in" / "a.mp4", ns=(1, 1))
    assert made("--window", 5)[:2] == (0, ALL)


@pytest.mark.full
def test_an_output_that_is_gone_is_made_again_from_the_same_plan(made, tmp_path):
    before = (tmp_path / "out" / "a.mp4").read_bytes()
    (tmp_path / "out" / "a.mp4").unlink()
    assert made()[:2] == (0, ["compute", "compute", "join"])
    assert (tmp_path / "out" / "a.mp4").read_bytes() == before


def test_a_file_of_others_is_not_replaced(made, tmp_path):
    output = tmp_path / "out" / "a.mp4"
    output.write_bytes(b"mine")
    code, ran, said = made()
    assert (code, ran) == (1, [])
    assert said == (
        f"shiftsearch batch: {output}: is not as batch wrote it: remove it, or add --overwrite\n1 video: 1 not made\n"
    )
    assert output.read_bytes() == b"mine"
    assert made("--overwrite")[:2] == (0, ["compute", "compute", "join"])
    assert output.read_bytes() != b"mine"
    (tmp_path / "out" / "a.mp4.batch.json").unlink()  # and without a state it may be anybody's
    assert made()[:2] == (1, [])


def test_broken_files_are_told_at_the_end_and_harm_no_other(made, tmp_path, capsys):
    whole = make(tmp_path / "whole.mkv", codec="mpeg4", frames=20, audio=None).read_bytes()
    (tmp_path / "in" / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "0.mp4").write_bytes(b"no video" * 99)
    films(tmp_path / "in", z=2)
    code, ran, said = made()
    assert (code, ran.count("join")) == (1, 2)
    *_, cut, broken, counts = said.splitlines()
    assert "cut.mkv: is broken after" in cut
    assert f"{tmp_path / 'in' / '0.mp4'}: cannot be read as a video" in broken
    assert counts == "4 videos: 2 written, 1 there already, 1 not made"
    one = tmp_path / "one.mkv"
    assert main(["align", str(tmp_path / "in" / "cut.mkv"), "-o", str(one)]) == 1
    capsys.readouterr()
    assert_same(tmp_path / "out" / "cut.mkv", one)
    code, ran, said = made()  # the same is told again, and only what could not be read is tried
    assert (code, ran) == (1, ["plan"])
    assert said.splitlines()[:2] == [cut, broken]
    assert "3 there already" in said


def test_parts_that_are_there_are_not_computed_again(made, tmp_path, monkeypatch):
    (tmp_path / "out" / "a.mp4").unlink()
    compute = steps.compute

    def interrupted(job, part):
        if part[0]:
            raise KeyboardInterrupt
        return compute(job, part)

    monkeypatch.setattr(progress, "compute", interrupted)
    code, ran, said = made()
    assert (code, ran) == (130, ["interrupted"] * 2)
    assert said == "shiftsearch batch: interrupted; run it again to go on\n"
    monkeypatch.setattr(progress, "compute", compute)
    assert made()[:2] == (0, ["compute", "join"])
    assert names(tmp_path / "out") == ["a.mp4", "a.mp4.batch.json"]


def test_a_state_that_cannot_be_read_or_is_of_another_version_is_planned_anew(made, tmp_path):
    state = tmp_path / "out" / "a.mp4.batch.json"
    (tmp_path / "out" / "a.mp4").unlink()
    state.write_text("{")
    assert made()[:2] == (0, ALL)
    (tmp_path / "out" / "a.mp4").unlink()
    state.write_text(json.dumps({**json.loads(state.read_text()), "version": "0.0.1"}))
    assert made()[:2] == (0, ALL)


# --- what cannot be done ----------------------------------------------------------------------------
def test_what_the_output_cannot_hold_is_told_before_anything_is_computed(made, tmp_path):
    for options, words in (
        (["--crf", 99], "crf is 99, expected 0 to 51"),
        (["--suffix", ".avi", "--codec", "rv20"], "expected another codec"),
        (["--suffix", ".rmvb"], "FFmpeg does not know this kind of file"),
    ):
        code, ran, said = made("--overwrite", *options)
        assert (code, ran) == (1, ["plan"])
        assert words in said
        assert str(tmp_path / "out") in said


def test_a_source_that_changes_meanwhile_is_told(made, tmp_path, monkeypatch):
    films(tmp_path / "in", b=5)
    plan = steps.plan

    def and_changed(job):
        state = plan(job)
        os.utime(job.source, ns=(1, 1))
        return state

    monkeypatch.setattr(progress, "plan", and_changed)
    code, _, said = made()
    assert code == 1
    assert f"{tmp_path / 'in' / 'b.mp4'}: has changed since this run began" in said


def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, capsys):
    films(tmp_path / "in", a=2)
    shutil.copy(tmp_path / "in" / "a.mp4", tmp_path / "in" / "a.mov")
    (tmp_path / "empty").mkdir()

    def said(*arguments):
        code, ran = here(monkeypatch, *arguments)
        error = capsys.readouterr().err
        assert (code, ran, error.count("\n")) == (1, [], 1)
        return error

    source, out = tmp_path / "in", tmp_path / "out"
    assert "empty: has no video, expected a video, a folder" in said(tmp_path / "empty", out)
    assert "none: has no video" in said(tmp_path / "none", out)
    assert "*.avi: has no video" in said(f"{source}/*.avi", out)
    assert "a.mov: is the input, expected another folder" in said(source, source)
    assert "a.mp4: is the input" in said(source / "a.mp4", source / "a.mp4")
    assert "a.mkv: would be that of" in said(source, out, "--suffix", ".mkv")
    assert "--window is an option of --work align" in said(source, out, "--window", 5)
    assert "--temporal-only is an option of --work denoise" in said(source, out, "--work", "align", "--temporal-only")
    assert not out.exists()


def test_inputs_are_files_folders_and_patterns(tmp_path, monkeypatch):
    films(tmp_path / "in", a=2, b=2)
    films(tmp_path / "in" / "out", c=2)  # results lie within the inputs
    films(tmp_path / "[more]", d=2)
    options = [tmp_path / "in" / "out", "--work", "align", "--suffix", ".mkv"]
    joins = lambda *sources: here(monkeypatch, *sources, *options)[1].count("join")  # noqa: E731
    assert joins(f"{tmp_path}/in/a*", tmp_path / "[more]" / "d.mp4") == 2
    assert joins(tmp_path / "in") == 1
    assert joins(tmp_path / "[more]") == joins(f"{tmp_path}/*/b.mp4") - 1 == 0
    found = [name for name in names(tmp_path / "in" / "out") if name.endswith(".mkv")]
    assert found == ["a.mkv", "b.mkv", "d.mkv", "in/b.mkv"]


def test_noise_that_is_found_and_what_is_done_are_told(tmp_path, monkeypatch, capsys):
    source = films(tmp_path / "in", a=6) / "a.mp4"
    assert main(["denoise", str(source), "-o", str(tmp_path / "one.mp4"), "--quality", "preview"]) == 0
    noise = capsys.readouterr().err.partition(", noise found: ")[2]
    asked = [source, tmp_path / "b.mp4", "--quality", "preview", "--part", 3, "-v"]
    assert here(monkeypatch, *asked)[0] == 0
    assert capsys.readouterr().err.splitlines() == [
        f"planned: {source}, parts: 2",
        f"computed: {source}, frames 0:3",
        f"computed: {source}, frames 3:6",
        f"written: {tmp_path / 'b.mp4'}, 6 frames, noise found: {noise.strip()}",
        "1 video: 1 written",
    ]


def test_an_unexpected_error_is_one_of_its_video(made, tmp_path, monkeypatch):
    films(tmp_path / "in", b=2)

    def broken(*_):
        raise IndexError("a mistake")

    monkeypatch.setattr(steps, "align_work", broken)
    code, ran, said = made()
    assert (code, ran) == (1, ["compute"] * 3 + ["plan"])  # it is tried three times
    assert said.splitlines() == [
        f"shiftsearch batch: {tmp_path / 'in' / 'b.mp4'}: IndexError: a mistake",
        "2 videos: 1 there already, 1 not made",
    ]
    assert 'raise IndexError("a mistake")' in made("-v")[2]


def test_each_option_of_the_ordinary_commands_is_one_of_batch(capsys):
    def options(command):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        return {word.strip("[],") for word in capsys.readouterr().out.split() if word.strip("[").startswith("--")}

    both = options("denoise") | options("align")
    assert both - options("batch") == {"--output", "--no-clobber"}
    assert {"--sigma", "--to", "--preview"} <= both
