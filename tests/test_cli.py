"""The command line on real files, as users run it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from fractions import Fraction
from io import StringIO

import numpy as np
import pytest
from clips import decoded, make, psnr, streams

import shiftsearch
from shiftsearch.__main__ import main
from shiftsearch.video import io
from shiftsearch.video.align import align_planes
from shiftsearch.video.cli import likeness, report
from shiftsearch.video.cli.notices import notices

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("tqdm")

RUN = [sys.executable, "-W", "error", "-m", "shiftsearch"]
MAIN = "from shiftsearch.__main__ import main; sys.exit(main(sys.argv[1:]))"


def frames_of(path, span=(0, None)):
    with io.read(path, span) as clip:
        return np.stack(list(clip))


def noisy(path, frames=6, sigma=20, codec="ffv1", form="yuv444p", **options):
    """Write a file of waves under noise; return its path and the clean waves."""
    clean = make(path.with_name("clean.mkv"), "ffv1", (80, 56), frames, form=form, audio=None)
    rng = np.random.default_rng(0)
    with io.read(clean) as clip, io.write(path, clip, codec=codec, **options) as out:
        for frame in clip:
            out.write(np.clip(frame + sigma * rng.standard_normal(frame.shape), 0, 255).astype(np.uint8))
    return path, frames_of(clean)


# --- what commands do -------------------------------------------------------------------------------
@pytest.mark.parametrize(("quality", "frames"), [("fast", 6), ("high", 1)])
def test_denoise(tmp_path, quality, frames):
    source, clean = noisy(tmp_path / "a.mkv", frames, form="bgr0")
    before = frames_of(source)
    arguments = ["denoise", source, "-o", tmp_path / "b.mkv", "--sigma", 20, "--quality", quality, "--radius", 1]
    assert main(list(map(str, arguments))) == 0
    after = frames_of(tmp_path / "b.mkv")
    assert psnr(after, clean) > psnr(before, clean) + 4
    np.testing.assert_array_equal(after, shiftsearch.denoise(before, 20, quality=quality, radius=1))


def test_sigma_is_on_the_scale_of_8_bits_whatever_the_depth(tmp_path):
    source, clean = noisy(tmp_path / "a.mkv")
    with io.read(source) as clip, io.write(tmp_path / "deep.mkv", rate=25, codec="ffv1") as out:
        for frame in clip:
            out.write(frame * np.uint16(257))
    assert main(["denoise", str(tmp_path / "deep.mkv"), "-o", str(tmp_path / "b.mkv"), "--sigma", "20"]) == 0
    found = frames_of(tmp_path / "b.mkv")
    assert found.dtype == np.uint16
    assert psnr(found, clean * np.uint16(257)) > psnr(frames_of(source), clean) + 5


@pytest.mark.parametrize("to", ["previous", "next", "2"])
def test_align(tmp_path, to):
    source = make(tmp_path / "a.mkv", "ffv1", (80, 56), 4, form="bgr0", audio=None)
    assert main(["align", str(source), "-o", str(tmp_path / "b.mkv"), "--to", to, "--window", "5", "--patch", "1"]) == 0
    expected = shiftsearch.align_clip(frames_of(source), int(to) if to == "2" else to, window=5, patch=1)
    np.testing.assert_array_equal(frames_of(tmp_path / "b.mkv"), expected)


def test_align_writes_a_mask_of_the_frames_that_it_writes(tmp_path):
    source, mask = make(tmp_path / "a.mkv", "ffv1", (80, 56), 5, form="gray", audio=None), tmp_path / "seen.npy"
    run = ["align", str(source), "-o", str(tmp_path / "b.mkv"), "--flow", "none", "--mask"]
    assert main([*run, str(mask), "--frames", "1:4"]) == 0
    masks = []
    with io.read(source) as clip:
        list(align_planes(clip.planes(), flow=None, noted=masks.append))
    np.testing.assert_array_equal(np.load(mask), masks[1:4])
    assert main([*run, "seen.png"]) == 1


def test_align_without_flow_is_a_search_around_each_pixel(tmp_path):
    source = make(tmp_path / "a.mkv", "ffv1", (80, 56), 3, form="bgr0", audio=None)
    assert main(["align", str(source), "-o", str(tmp_path / "b.mkv"), "--flow", "none"]) == 0
    np.testing.assert_array_equal(frames_of(tmp_path / "b.mkv"), shiftsearch.align_clip(frames_of(source), flow=None))


def test_flow_in_colours_and_as_numbers(tmp_path):
    source = make(tmp_path / "a.mkv", "ffv1", (80, 56), 12, form="bgr0", audio=None)
    for name in ("b.npy", "b.mkv"):
        assert main(["flow", str(source), "-o", str(tmp_path / name), "--longest", "4"]) == 0
    frames, found = frames_of(source), np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(found, shiftsearch.flow.dis(frames[:-1], frames[1:]))
    np.testing.assert_array_equal(frames_of(tmp_path / "b.mkv"), shiftsearch.flow.to_color(found, longest=4))


def test_frames_take_their_sound_along_and_ten_bits_stay(tmp_path):
    source = make(tmp_path / "a.mkv", size=(80, 56), frames=30, form="yuv420p10le")
    assert main(["align", str(source), "-o", str(tmp_path / "b.mp4"), "--frames", "10:16", "--flow", "none"]) == 0
    found = decoded(tmp_path / "b.mp4")
    assert [frame.format.name for frame in found] == ["yuv420p10le"] * 6
    assert [frame.time for frame in found] == pytest.approx([n / 25 for n in range(6)])
    (kept,), (all_,) = streams(tmp_path / "b.mp4")["audio"], streams(source)["audio"]
    assert [data for _, data in kept[1]] == [data for time, data in all_[1] if 0.4 <= time < 0.64]


def test_preview(tmp_path):
    source, _ = noisy(tmp_path / "a.mkv", frames=3)
    arguments = ["denoise", str(source), "-o", str(tmp_path / "b.mkv"), "--preview", str(tmp_path / "look.png")]
    assert main(arguments) == 0
    (picture,) = frames_of(tmp_path / "look.png")
    assert picture.shape == (56, 4 * 80 + 12, 3)
    np.testing.assert_array_equal(picture[:, :80], frames_of(source)[1])
    assert abs(picture[:, 84:164].astype(int) - frames_of(tmp_path / "b.mkv")[1]).max() <= 2
    gray = 128 + 4 * (picture[:, 84:164].astype(int) - picture[:, :80])
    np.testing.assert_array_equal(picture[:, 168:248], np.clip(gray, 0, 255))


@pytest.mark.parametrize("to", ["previous", "next", "0"])
@pytest.mark.parametrize("span", ["0:5", "1:5"])
def test_preview_of_align_shows_the_difference_from_its_reference(tmp_path, to, span):
    source = make(tmp_path / "a.mkv", "ffv1", (80, 56), 5, form="bgr0", audio=None)
    first = int(span[0])
    arguments = [
        "align",
        source,
        "-o",
        tmp_path / "b.mkv",
        "--to",
        to,
        "--preview",
        tmp_path / "look.png",
        "--frames",
        span,
    ]
    assert main(list(map(str, arguments))) == 0
    middle = first + (5 - first) // 2
    beside = middle + {"previous": -1, "next": 1}[to] if to != "0" else 0
    (picture,) = frames_of(tmp_path / "look.png")
    before, moved = frames_of(source), frames_of(tmp_path / "b.mkv")[middle - first]
    np.testing.assert_array_equal(picture[:, :80], before[middle])
    np.testing.assert_array_equal(picture[:, 84:164], moved)
    left = 128 + 4 * (moved.astype(int) - before[beside])
    np.testing.assert_array_equal(picture[:, 168:248], np.clip(left, 0, 255))
    flow = shiftsearch.flow.to_color(shiftsearch.flow.dis(before[beside], before[middle]))
    np.testing.assert_array_equal(picture[:, 252:], flow)


# --- parts of a file --------------------------------------------------------------------------------
def two_scenes(path, form="yuv420p"):
    """Write a file of 26 frames under noise, with a cut at frame 13."""
    rng = np.random.default_rng(0)
    still = [rng.integers(40, 210, (9, 12)).repeat(8, 0).repeat(8, 1) for _ in range(2)]
    shades = [np.roll(still[t // 13], (t, 2 * t), (0, 1))[:64, :80] for t in range(26)]
    with io.write(path, rate=25, codec="ffv1") as out:
        for shade in shades:
            colours = np.stack([shade, 255 - shade, shade // 2], -1) if form != "gray" else shade
            out.write(np.clip(colours + 8 * rng.standard_normal(colours.shape), 0, 255).astype(np.uint8))
    if form != "yuv420p":
        return path
    coded = path.with_name(f"coded-{path.name}")
    with io.read(path) as clip, io.write(coded, clip, codec="h264", crf=8) as out:
        for frame in clip:
            out.write(frame)
    return coded


def samples(path):
    with io.read(path) as clip:
        return [np.concatenate([plane.ravel() for plane in planes]) for planes in clip.planes()]


@pytest.mark.full
@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (["denoise", "--radius", "1"], "yuv420p"),
        (["denoise", "--sigma", "8"], "gray"),
        (["align"], "yuv420p"),
        (["align", "--to", "next"], "yuv420p"),
        (["align", "--to", "20", "--flow", "none"], "gray"),
    ],
)
def test_parts_make_up_the_whole_to_the_bit(tmp_path, arguments, form):
    """This holds next to a cut, too, and for parts shorter than the overlap that their results need."""
    source = two_scenes(tmp_path / "a.mkv", form)
    run = [*arguments, str(source), "--codec", "ffv1", "--quiet", "--overwrite", "-o"]
    assert main([*run, str(tmp_path / "whole.mkv")]) == 0
    whole = samples(tmp_path / "whole.mkv")
    parts = []
    for span in ("0:8", "8:12", "12:14", "14:25", "25:"):
        assert main([*run, str(tmp_path / "part.mkv"), "--frames", span]) == 0
        parts += samples(tmp_path / "part.mkv")
    assert len(parts) == len(whole) == 26
    np.testing.assert_array_equal(parts, whole)


def test_parts_are_numbered_as_in_the_source(tmp_path):
    source = two_scenes(tmp_path / "a.mkv", "gray")
    for name, spans in (("whole", [":"]), ("parts", ["0:8", "8:15", "15:"])):
        (tmp_path / name).mkdir()
        for span in spans:
            arguments = [
                "denoise",
                str(source),
                "-o",
                str(tmp_path / name / "p.%03d.png"),
                "--frames",
                span,
                "--radius",
                "1",
            ]
            assert main(arguments) == 0
    names = sorted(os.listdir(tmp_path / "whole"))
    assert names == sorted(os.listdir(tmp_path / "parts")) == [f"p.{n:03d}.png" for n in range(26)]
    for name in names:
        np.testing.assert_array_equal(*(frames_of(tmp_path / folder / name) for folder in ("whole", "parts")))


def test_parts_have_their_sound_whole(tmp_path):
    source = make(tmp_path / "a.mp4", size=(80, 56), frames=60)
    run = ["align", str(source), "--flow", "none", "--quiet", "--overwrite", "-o"]
    kept = []
    for span in (":20", "20:45", "45:"):
        assert main([*run, str(tmp_path / "b.mp4"), "--frames", span]) == 0
        kept += [data for _, data in streams(tmp_path / "b.mp4")["audio"][0][1]]
    assert kept == [data for _, data in streams(source)["audio"][0][1]]


def test_compare(tmp_path, capsys):
    skimage = pytest.importorskip("skimage.metrics")
    source, _ = noisy(tmp_path / "a.mkv", frames=3)
    a, b = frames_of(tmp_path / "clean.mkv"), frames_of(source)
    assert main(["compare", str(tmp_path / "clean.mkv"), str(source)]) == 0
    said = capsys.readouterr().out.splitlines()
    scores = [psnr(*pair) for pair in zip(a, b, strict=True)]
    alike = [skimage.structural_similarity(*pair, channel_axis=-1) for pair in zip(a, b, strict=True)]
    assert said[0] == "3 frames of 80 x 56"
    assert said[3].split() == [
        "PSNR",
        "in",
        "dB",
        f"{np.mean(scores):.2f}",
        f"{min(scores):.2f}",
        str(np.argmin(scores)),
    ]
    assert said[4].split() == ["SSIM", f"{np.mean(alike):.4f}", f"{min(alike):.4f}", str(np.argmin(alike))]
    assert main(["compare", str(source), str(source), "--frames", "1:2"]) == 0
    assert capsys.readouterr().out.splitlines()[3].split()[3:] == ["inf", "inf", "1"]
    assert main(["compare", str(tmp_path / "clean.mkv"), str(source), "--json", "--frames", "1:"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in ("frames", "first", "width", "height")} == {
        "frames": 2,
        "first": 1,
        "width": 80,
        "height": 56,
    }
    for name, values in (("psnr", scores[1:]), ("ssim", alike[1:])):
        assert found[name]["of_frames"] == pytest.approx(values, rel=1e-6)
        assert found[name]["mean"] == pytest.approx(np.mean(values), rel=1e-6)
        assert (found[name]["least"], found[name]["in_frame"]) == (min(found[name]["of_frames"]), 1 + np.argmin(values))
    assert main(["compare", str(source), str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["psnr"]["of_frames"] == [None] * 3


@pytest.mark.parametrize("shape", [(3, 3), (7, 9), (41, 30), (40, 31, 3)])
def test_psnr_and_ssim_are_those_of_scikit_image(shape):
    skimage = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    one = (rng.random(shape).cumsum(0) / shape[0]).astype("f4")
    other = one + rng.normal(0, 0.05, shape).astype("f4")
    channel, window = (-1 if len(shape) == 3 else None), min(7, shape[0])
    expected = skimage.structural_similarity(
        one.astype(float), other.astype(float), data_range=1, win_size=window, channel_axis=channel
    )
    assert likeness.ssim(one, other, window) == pytest.approx(expected, abs=1e-12)
    assert likeness.psnr(one, other) == pytest.approx(skimage.peak_signal_noise_ratio(one, other, data_range=1))


def test_compare_of_files_that_do_not_fit(tmp_path, capsys):
    for name, size, frames in [
        ("a.mkv", (64, 48), 4),
        ("b.mkv", (48, 64), 4),
        ("c.mkv", (64, 48), 3),
        ("d.mkv", (2, 2), 3),
    ]:
        make(tmp_path / name, "ffv1", size, frames, audio=None)
    for one, other, said in [
        ("a", "b", "is 48 x 64, expected 64 x 48"),
        ("a", "c", "ends after 3 frames"),
        ("d", "d", "at least 3 x 3"),
    ]:
        assert main(["compare", str(tmp_path / f"{one}.mkv"), str(tmp_path / f"{other}.mkv")]) == 1
        assert said in capsys.readouterr().err
    make(tmp_path / "grey.mkv", "ffv1", frames=4, form="gray16le", audio=None)
    assert main(["compare", str(tmp_path / "a.mkv"), str(tmp_path / "grey.mkv")]) == 0  # of other depth and colours


# --- what is said -----------------------------------------------------------------------------------
def test_a_pipe_gets_results_only_and_a_terminal_a_bar(tmp_path, capfd, monkeypatch):
    arguments = ["flow", str(make(tmp_path / "a.mkv", audio=None)), "--overwrite", "-o", str(tmp_path / "b.mkv")]
    assert main([*arguments, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"written: {re.escape(str(tmp_path / 'b.mkv'))}, 9 frames, \d+\.\d s\n", err)
    for quiet in ([], ["--quiet"]):
        mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 99, 0, 0))
        with monkeypatch.context() as patch, open(theirs, "w") as terminal:
            patch.setattr(sys, "stderr", terminal)
            assert main([*arguments, *quiet]) == 0
        said = b""
        try:
            while part := os.read(mine, 9999):
                said += part
        except OSError:  # Linux reports a closed other end so
            pass
        os.close(mine)
        assert (b"9/9" in said and b"frame/s" in said) != bool(quiet)


def test_the_notice_of_compiling_does_not_break_the_bar_and_is_printed_once(tmp_path, monkeypatch):
    import tqdm
    from numba.core import config

    from shiftsearch.backends.cpu import jit

    @jit.kernel()
    def twice(a):
        for n in range(len(a)):
            a[n] *= 2

    said = StringIO()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit._Announce, "said", False)
    monkeypatch.setattr(sys, "stderr", said)
    watch = report.Watch()
    with notices():
        for kind in tqdm.tqdm(["f4", "f8", "f8"], unit="frame"):
            twice(np.ones(3, kind))
    assert said.getvalue().count("compiles") == 1
    # the bar was cleared, and is drawn again
    assert re.search(r"\rshiftsearch compiles .* once\n\r +0%", said.getvalue())
    assert re.fullmatch(r"\d+\.\d s, of which compiling kernels took \d+\.\d s, once", str(watch))
    again = report.Watch()
    twice(np.ones(3))
    assert re.fullmatch(r"\d+\.\d s", str(again))


def test_grain_may_stay_and_each_plane_has_its_strength(tmp_path):
    source, _ = noisy(tmp_path / "a.mkv", frames=3)
    out = str(tmp_path / "b.mkv")
    for more, same in [(["--mix", "1"], [1, 1, 1]), (["--strength", "0,1,0", "--temporal-only"], [1, 0, 1])]:
        assert main(["denoise", str(source), "--overwrite", "-o", out, "--codec", "ffv1", "--sigma", "20", *more]) == 0
        with io.read(source) as a, io.read(out) as b:
            for one, other in zip(a.planes(), b.planes(), strict=True):
                assert [int(np.array_equal(x, y)) for x, y in zip(one, other, strict=True)] == same


def test_denoise_along_the_motion_of_a_file(tmp_path, capsys):
    """The motion back is that forth, turned around; a part is denoised as the whole."""
    rng, source = np.random.default_rng(0), make(tmp_path / "a.mkv", "ffv1", (80, 56), 8, form="yuv444p", audio=None)
    still = rng.integers(0, 2, (14, 40, 1)).repeat(4, 0).repeat(4, 1) * np.full(3, 100) + 70
    clean = np.stack([still[:, 10 * t : 10 * t + 80] for t in range(8)])
    moving, motion, out, part = (str(tmp_path / name) for name in ("moving.mkv", "flow.npy", "b.mkv", "c.mkv"))
    with io.read(source) as like, io.write(moving, like, codec="ffv1") as file:
        for frame, _ in zip(clean, like, strict=True):
            file.write(np.clip(frame + 20 * rng.standard_normal(frame.shape), 0, 255).astype(np.uint8))
    np.save(motion, np.float32([-10, 0]).reshape(1, 2, 1, 1).repeat(7, 0).repeat(56, 2).repeat(80, 3))
    run, found = ["denoise", moving, "--codec=ffv1", "--sigma=20", "--radius=1", "--overwrite", "--flow"], []
    for method in ("none", motion):
        assert main([*run, method, "-o", out]) == 0
        found.append(psnr(frames_of(out), clean))
    assert found[1] > found[0] + 1.5
    assert main([*run, motion, "-o", part, "--frames", "6:8"]) == 0
    np.testing.assert_array_equal(frames_of(part), frames_of(out)[6:])
    np.save(motion, np.load(motion)[:3])
    for wrong, said in [
        (motion, "flow ends before frame"),
        (moving, "expected auto, match, dis, farneback, none, or a .npy"),
    ]:
        capsys.readouterr()
        assert main([*run, wrong, "-o", str(tmp_path / "d.mkv")]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "d.mkv").exists()


def test_the_estimated_noise_is_printed(tmp_path, capsys):
    source, _ = noisy(tmp_path / "a.mkv", frames=3, form="bgr0")
    for more in ([], ["--sigma", "20"]):
        assert main(["denoise", str(source), "--overwrite", "-o", str(tmp_path / "b.mkv"), *more]) == 0
        found = re.search(
            r"written: .*/b.mkv, 3 frames, \d+\.\d s.*?(?:, noise found: (.*))?\n$", capsys.readouterr().err
        )
        assert (found[1] is None) == bool(more)
        assert more or float(found[1]) == pytest.approx(20, abs=2)


def test_a_list_of_files_is_refused_unless_it_is_named(tmp_path, capsys):
    make(tmp_path / "part.mp4", audio=None)
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile part.mp4\n")
    run = ["align", str(tmp_path / "a.mp4"), "--flow", "none", "-o", str(tmp_path / "b.mkv")]
    assert main(run) == 1
    assert "(concat), expected a video file" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "part.mp4"]
    assert main([*run, "--format", "concat"]) == 0
    assert len(decoded(tmp_path / "b.mkv")) == 10


def test_sound_that_cannot_be_kept_is_reported(tmp_path, capsys):
    assert main(["flow", str(make(tmp_path / "a.mp4")), "-o", str(tmp_path / "b.gif")]) == 0
    said = f"{tmp_path / 'b.gif'}: left out: audio (aac)\nwritten: {tmp_path / 'b.gif'}, 9 frames, "
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("command", ["align", "denoise", "flow", "compare"])
def test_bad_files_are_one_line_and_no_output(tmp_path, capsys, command):
    (tmp_path / "text.mp4").write_text("no video\n" * 999)
    (tmp_path / "empty.mp4").touch()
    there = sorted(os.listdir(tmp_path))
    for name, said in [
        ("text.mp4", "cannot be read"),
        ("empty.mp4", "is empty"),
        ("none.mp4", "does not exist"),
        (".", "is not a file" if command == "compare" else "is the name of a file, expected a folder"),
    ]:
        rest = [tmp_path / name] if command == "compare" else ["-o", tmp_path / "out.mkv"]
        assert main([command, *map(str, [tmp_path / name, *rest])]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"shiftsearch {command}: {tmp_path}")
        assert said in err
        assert len(err.splitlines()) == 1
        assert sorted(os.listdir(tmp_path)) == there


@pytest.mark.parametrize("command", ["align", "denoise", "flow"])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_frames_before_a_broken_end_are_kept(tmp_path, capsys, command, name):
    source = make(tmp_path / name, size=(80, 56), frames=60)
    (tmp_path / f"cut-{name}").write_bytes(source.read_bytes()[: source.stat().st_size // 2 + 5])
    target = tmp_path / "b.mkv"
    target.write_text("older")
    run = [command, str(tmp_path / f"cut-{name}"), "--overwrite", "-o", str(target), "--codec", "ffv1"]
    assert main(run) == 1
    said = capsys.readouterr().err.splitlines()
    count = int(
        re.search(rf"^shiftsearch {command}: .*: is broken after (\d+) frames.*; the result ends there$", said[-2])[1]
    )
    made = count - (command == "flow")
    assert said[-1].startswith(f"written: {target}, {made} frames, ")
    assert 3 < count < 60
    assert len(decoded(target)) == made
    whole = [command, str(source), "-o", str(tmp_path / "whole.mkv"), "--codec", "ffv1", "--frames", f":{count}"]
    assert main(whole) == 0
    near = 0 if command == "flow" else shiftsearch.denoise_overlap()  # the last frames have no neighbours after them
    for one, other in zip(decoded(target)[: made - near], decoded(tmp_path / "whole.mkv"), strict=False):
        np.testing.assert_array_equal(one.to_ndarray(), other.to_ndarray())
    assert main([*run, "--frames", "50:"]) == 1  # none of these frames exists
    assert len(decoded(target)) == made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "5"], "'5' is not A:B"),
        (["--frames", "7:3"], "expected first < end"),
        (["--frames", "90:"], "has 10 frames"),
        (["--codec", "nonsense"], "no encoder nonsense"),
        (["--window", "-1"], "window"),
        (["--to", "99"], "has 10 frames"),
        (["--to", "sideways"], "'sideways' is not previous"),
        (["--crf", "x"], "invalid int"),
        (["--crf", "52"], "expected 0 to 51"),
        (["--format", "nonsense"], "no container format 'nonsense'"),
        (["--preview", "/no/x.png"], "no folder"),
        (["--preview", "b.mp4"], "ends in .png"),
    ],
)
def test_bad_options_are_said_and_leave_nothing(tmp_path, capsys, monkeypatch, arguments, said):
    source = make(tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["align", str(source), "-o", "b.mp4", "--flow", "none", *arguments])
    except SystemExit as left:  # argparse
        code = left.code
    assert code in (1, 2)
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(("missing", "command"), [("av", "flow"), ("cv2", "flow"), ("tqdm", "flow"), ("av", "compare")])
def test_errors_name_a_missing_package_and_how_to_install_it(tmp_path, capsys, monkeypatch, missing, command):
    source = str(make(tmp_path / "a.mkv", frames=2, audio=None))
    monkeypatch.setitem(sys.modules, missing, None)
    rest = [source] if command == "compare" else ["-o", str(tmp_path / "b.mkv"), "--flow", "dis"]
    assert main([command, source, *rest]) == 1
    said = capsys.readouterr().err
    assert 'pip install "shiftsearch[video]"' in said
    assert len(said.splitlines()) == 1
    assert os.listdir(tmp_path) == ["a.mkv"]


@pytest.mark.parametrize("option", ["--sigma", "--longest", "--strength", "--mix"])
@pytest.mark.parametrize("number", ["-1", "nan", "1e300", "x", "0"])
def test_numbers_that_mean_nothing_are_said(tmp_path, capsys, option, number):
    command = "flow" if option == "--longest" else "denoise"
    source = str(make(tmp_path / "a.mkv", frames=2, audio=None))
    try:
        code = main([command, source, "-o", str(tmp_path / "b.mkv"), f"{option}={number}"])
    except SystemExit as left:
        code = left.code
    fine = number == "0" if option != "--longest" else number == "1e300"
    assert bool(code) != fine
    assert capsys.readouterr().err.startswith("written:") == fine


def test_help_has_examples_and_loads_nothing_heavy(capsys):
    for command in ("align", "denoise", "flow", "compare"):
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        assert f"shiftsearch {command} " in capsys.readouterr().out.split("examples:")[1]
    code = (
        "import sys; from shiftsearch.__main__ import _parser; _parser();"
        "print([m for m in ('av', 'cv2', 'tqdm', 'skimage', 'numba', 'torch', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- stopped ----------------------------------------------------------------------------------------
def test_files_of_a_killed_run_are_removed_by_the_next(tmp_path):
    source = make(tmp_path / "a.mkv", size=(160, 120), frames=100)
    with subprocess.Popen([*RUN, "align", source, "-o", tmp_path / "b.mkv"], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not any(name.startswith(".shiftsearch") for name in os.listdir(tmp_path)) and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
    assert any(name.startswith(".shiftsearch") for name in os.listdir(tmp_path))
    assert main(["flow", str(source), "-o", str(tmp_path / "c.mkv"), "--frames", ":3"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["a.mkv", "c.mkv"]


@pytest.mark.full
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_older_files_unchanged(tmp_path, how):
    source = make(tmp_path / "a.mkv", size=(160, 120), frames=100)
    (tmp_path / "b.mkv").write_text("older")
    # the tests themselves may run with the signal ignored
    usual = f"import signal, sys; signal.signal({how:d}, signal.default_int_handler)"
    # an interrupted import leaves its file to Python's garbage collector, which warns
    warnings = ("-W", "error", "-W", "ignore:unclosed file <_io.BufferedReader:ResourceWarning")
    command = [
        sys.executable,
        *warnings,
        "-c",
        f"{usual}; {MAIN}",
        "align",
        source,
        "--overwrite",
        "-o",
        tmp_path / "b.mkv",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not any(name.startswith(".shiftsearch") for name in os.listdir(tmp_path)) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "shiftsearch align: interrupted, nothing was written"
    assert "Traceback" not in err
    assert out == ""
    assert sorted(os.listdir(tmp_path)) == ["a.mkv", "b.mkv"]
    assert (tmp_path / "b.mkv").read_text() == "older"


def test_a_full_disk(tmp_path):
    source = make(tmp_path / "a.mkv", "ffv1", (320, 240), frames=4, audio=None)
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)); {MAIN}"
    done = subprocess.run(  # -B: a Python that is stopped may leave bytecode cut off, and would read it the next time
        [sys.executable, "-B", "-c", limited, "flow", source, "-o", tmp_path / "b.mkv"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"shiftsearch flow: {tmp_path / 'b.mkv'}: cannot be written: File too large\n",
    )
    assert os.listdir(tmp_path) == ["a.mkv"]


@pytest.mark.full
def test_results_that_cannot_be_printed_are_no_traceback(tmp_path):
    """Neither a reader that closes its end early nor a full disk causes one."""
    source = make(tmp_path / "a.mkv", frames=2, audio=None)
    script = f"run() {{ {' '.join(RUN)} compare {source} {source}; }}; run | true; run > /dev/full; echo $?"
    done = subprocess.run(script, shell=True, capture_output=True, text=True)
    assert done.stderr == "shiftsearch compare: cannot print: No space left on device\n"
    assert done.stdout == "1\n"


def test_nothing_is_printed_without_a_standard_error(tmp_path, monkeypatch):
    source = str(make(tmp_path / "a.mkv", frames=2, audio=None))
    monkeypatch.setattr(sys, "stdout", None)  # as in Python started with >&- in a shell
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["compare", source, source]) == 0
    assert main(["flow", source, "-o", str(tmp_path / "b.mkv")]) == 0
    assert main(["flow", str(tmp_path / "none.mkv"), "-o", str(tmp_path / "b.mkv")]) == 1


def test_times_that_vary_survive_the_command(tmp_path):
    times = [0, 40, 50, 133, 500, 505]
    source = make(tmp_path / "a.mkv", frames=6, times=times, audio=None)
    assert main(["align", str(source), "-o", str(tmp_path / "b.mp4"), "--flow", "none"]) == 0
    assert [Fraction(round(1000 * frame.time)) for frame in decoded(tmp_path / "b.mp4")] == times
