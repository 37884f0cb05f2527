"""Several inputs of a command, and older results."""

from __future__ import annotations

import cv2
import pytest
from clips import decoded, make

import shiftsearch
from shiftsearch.__main__ import main

pytest.importorskip("av")
pytest.importorskip("tqdm")

RUN = ["align", "--flow", "none", "--window", "1", "--patch", "1"]


def films(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name, frames=2, audio=None)
    return folder


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(*arguments):
    return main([*RUN, *map(str, arguments)])


# --- several inputs ---------------------------------------------------------------------------------
def test_files_folders_and_patterns_go_to_a_folder(tmp_path, monkeypatch):
    films(tmp_path, "a.mkv", "in/b.mp4", "in/deep/c.mkv", "in/.hidden/d.mkv", "more/e.mp4", "more/f.mkv")
    (tmp_path / "in" / "notes.txt").write_text("no video")
    monkeypatch.chdir(tmp_path)
    assert run("a.mkv", "in", "more/*.mp4", "-o", "out") == 0
    assert below(tmp_path / "out") == ["a.mkv", "b.mp4", "deep/c.mkv", "e.mp4"]
    assert run("in", "-o", "in/done/", "--suffix", ".avi", "--codec", "ffv1") == 0
    assert below(tmp_path / "in" / "done") == ["b.avi", "deep/c.avi"]
    assert run("in", "-o", "in/done", "--suffix", ".avi", "--overwrite") == 0  # results are no inputs
    assert below(tmp_path / "in" / "done") == ["b.avi", "deep/c.avi"]


def test_one_file_goes_into_a_folder_that_is_there_or_ends_with_a_slash(tmp_path):
    films(tmp_path, "a.mkv")
    (tmp_path / "there").mkdir()
    assert run(tmp_path / "a.mkv", "-o", tmp_path / "there") == 0
    assert run(tmp_path / "a.mkv", "-o", f"{tmp_path}/new/") == 0
    assert below(tmp_path) == ["a.mkv", "new/a.mkv", "there/a.mkv"]


def test_a_bad_file_harms_no_other_and_is_named_at_the_end(tmp_path, capsys):
    films(tmp_path, "in/a.mkv", "in/d.mkv")
    (tmp_path / "in" / "b.mkv").write_text("no video")
    cut = (tmp_path / "in" / "a.mkv").read_bytes()
    make(tmp_path / "long.mkv", frames=60)
    (tmp_path / "in" / "c.mkv").write_bytes((tmp_path / "long.mkv").read_bytes()[: -len(cut)])
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"shiftsearch align: 2 of 4 failed: {tmp_path}/in/b.mkv, {tmp_path}/in/c.mkv"
    assert sum("cannot be read as a video" in line for line in said) == 1
    assert below(tmp_path / "out") == ["a.mkv", "c.mkv", "d.mkv"]  # c up to where it is broken
    assert len(decoded(tmp_path / "out" / "d.mkv")) == 2


def test_an_unexpected_error_of_one_harms_no_other(tmp_path, capsys, monkeypatch):
    films(tmp_path, "in/a.mkv", "in/b.mkv")
    opened = shiftsearch.video.cli.convert.opened

    def failing(args, *rest):
        if args.input.endswith("a.mkv"):
            raise RuntimeError("a defect")
        return opened(args, *rest)

    monkeypatch.setattr(shiftsearch.video.cli.convert, "opened", failing)
    for more in ([], ["-v", "--overwrite"]):
        assert run(tmp_path / "in", "-o", tmp_path / "out", *more) == 1
        said = capsys.readouterr().err
        assert f"shiftsearch align: {tmp_path}/in/a.mkv: RuntimeError: a defect\n" in said
        assert ("Traceback" in said) == bool(more)
        assert said.endswith(f"1 of 2 failed: {tmp_path}/in/a.mkv\n")
        assert below(tmp_path / "out") == ["b.mkv"]


def test_inputs_that_do_not_fit_together_are_said_before_work_begins(tmp_path, capsys, monkeypatch):
    films(tmp_path, "a/x.mkv", "b/x.mkv")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for inputs, more, said in [
        (["a", "b"], ["-o", "out"], "would be the result of a/x.mkv and of b/x.mkv"),
        (["a"], ["-o", "b/x.mkv"], "is the name of a file, expected a folder"),
        (["a", "b"], ["-o", "c.mp4"], "is the name of a file, expected a folder"),
        (["empty"], ["-o", "out"], "empty: has no video"),
        (["none/*.mkv"], ["-o", "out"], "none/*.mkv: has no video"),
        (["a", "-"], ["-o", "out"], "-: is one input"),
        (["a"], ["-o", "out", "--preview", "look.png"], "--preview is for one input"),
        (["a"], ["-o", "out", "--mask", "seen.npy"], "--mask is for one input"),
    ]:
        assert run(*inputs, *more) == 1
        assert said in capsys.readouterr().err
    assert below(tmp_path) == ["a/x.mkv", "b/x.mkv"]


def test_a_name_with_brackets_is_a_file_if_it_is_there(tmp_path):
    films(tmp_path, "a[1].mkv")
    assert run(tmp_path / "a[1].mkv", "-o", tmp_path / "b.mkv") == 0
    assert below(tmp_path) == ["a[1].mkv", "b.mkv"]


# --- older results ----------------------------------------------------------------------------------
def test_an_older_file_stays_unless_it_may_be_replaced(tmp_path, capsys):
    films(tmp_path, "a.mkv")
    for name in ("b.mkv", "look.png"):
        (tmp_path / name).write_text("older")
        again = [tmp_path / "a.mkv", "-o", tmp_path / "b.mkv", "--preview", tmp_path / "look.png"]
        assert run(*again) == 1
        assert f"{tmp_path}/{name}: exists, expected a new name, --overwrite" in capsys.readouterr().err
        assert run(*again, "--no-clobber") == 0
        assert capsys.readouterr().err == f"left as it is: {tmp_path}/{name}\n"
        assert (tmp_path / name).read_text() == "older"
        assert run(*again, "--overwrite") == 0
        assert (tmp_path / name).stat().st_size > 100
        (tmp_path / "b.mkv").unlink()
    with pytest.raises(SystemExit):
        run(*again, "--overwrite", "--no-clobber")


def test_a_second_run_makes_what_is_missing(tmp_path, capsys):
    films(tmp_path, "in/a.mkv", "in/b.mkv")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    (tmp_path / "out" / "a.mkv").unlink()
    before = (tmp_path / "out" / "b.mkv").stat().st_mtime_ns
    capsys.readouterr()
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--no-clobber") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"written: {tmp_path}/out/a.mkv")
    assert said[1:] == [f"left as it is: {tmp_path}/out/b.mkv"]
    assert (tmp_path / "out" / "b.mkv").stat().st_mtime_ns == before
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "2 of 2 failed" in capsys.readouterr().err


def test_pictures_of_other_parts_may_be_there(tmp_path, capsys):
    source = make(tmp_path / "a.mkv", frames=6, audio=None)
    for span, code in [("0:3", 0), ("3:", 0), ("3:", 1)]:
        assert run(source, "-o", tmp_path / "p.%03d.png", "--frames", span) == code
    assert "p.003.png: exists" in capsys.readouterr().err
    assert below(tmp_path) == ["a.mkv", *(f"p.{n:03d}.png" for n in range(6))]


# --- how it is computed and told --------------------------------------------------------------------
def test_threads_and_what_is_read_and_written(tmp_path, capsys):
    films(tmp_path, "a.mkv")
    before = shiftsearch.get_num_threads(), cv2.getNumThreads()
    try:
        assert run(tmp_path / "a.mkv", "-o", tmp_path / "b.avi", "--codec", "ffv1", "-v", "--threads", "3") == 0
        assert (shiftsearch.get_num_threads(), cv2.getNumThreads()) == (3, 3)
    finally:
        shiftsearch.set_num_threads(None)
        cv2.setNumThreads(before[1])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"read: {tmp_path}/a.mkv, 64 x 48, h264, yuv420p, 25 per second, 2 frames"
    assert said[1:3] == [f"write: {tmp_path}/b.avi, ffv1 in avi", "compute: cpu, 3 threads"]
    for wrong in ("0", "x", "-1"):
        with pytest.raises(SystemExit):
            run(tmp_path / "a.mkv", "-o", tmp_path / "c.mkv", f"--threads={wrong}")
        assert "is not a whole number from 1" in capsys.readouterr().err
