"""The demo's film moves as it says, its numbers are those of the jobs, and its picture shows them."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import shiftsearch
from shiftsearch.demo import jobs, lettering, picture
from shiftsearch.demo.run import NOISE, run, table
from shiftsearch.demo.scene import HEIGHT, LAYERS, WIDTH, scene, visible, with_noise
from shiftsearch.errors import ShiftsearchError

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.xdist_group("demo")  # the jobs are done once


@pytest.fixture(scope="module")
def film():
    return scene()


@pytest.fixture(scope="module")
def done(film):
    return jobs.work(film, with_noise(film.frames, NOISE))


def pixels(data: bytes) -> np.ndarray:
    """Return the pixels of a PNG file as this package writes it."""
    parts, at = {}, 8
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        (length,), name = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        parts[name] = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + parts[name]),)
        at += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


# --- the film ---------------------------------------------------------------------------------------
def moved(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return a frame (H, W, C) read where a flow leads, bilinearly: an independent, plain form."""
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    y, x = (np.clip(at, 0, n - 1) for at, n in zip((y + flow[1], x + flow[0]), frame.shape, strict=False))
    top, left = (np.minimum(np.floor(at).astype(int), n - 2) for at, n in zip((y, x), frame.shape, strict=False))
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = (1 - right) * frame[top, left] + right * frame[top, left + 1]
    lower = (1 - right) * frame[top + 1, left] + right * frame[top + 1, left + 1]
    return (1 - down) * upper + down * lower


@pytest.mark.parametrize("t", [0, 2, 3])
def test_the_motion_is_true(film, t):
    """Two steps are whole pixels for all layers: they bring every pixel back, but for edges over what moves otherwise."""
    seen = visible(film, t)
    there = moved(film.frames[t + 1].astype(float), film.forward[t])
    assert jobs.decibels(film.frames[t], there, seen) > jobs.decibels(film.frames[t], film.frames[t + 1], seen) + 8
    if t + 2 < len(film.frames):
        twice = abs(moved(film.frames[t + 2].astype(float), 2 * film.forward[t]) - film.frames[t])[seen].max(-1)
        assert (twice < 1).mean() > 0.85


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_each_layer_moves_as_it_says(film, number):
    inside = film.layers[0] == number
    assert inside.sum() > 300
    motion = np.array(LAYERS[number].motion)
    np.testing.assert_array_equal(film.forward[0][:, inside], np.broadcast_to(motion[:, None], (2, inside.sum())))
    middle = [np.argwhere(layers == number).mean(0)[::-1] for layers in film.layers[::2]]
    if number in (4, 8):  # the boat and the balloon, which nothing hides and which stay inside
        np.testing.assert_allclose(np.diff(middle, axis=0), [2 * motion, 2 * motion], atol=1e-9)


def test_what_is_visible_is_inside_and_of_the_same_layer(film):
    seen = visible(film, 0)
    assert 0.9 < seen.mean() < 0.99
    assert not seen[HEIGHT - 1, :4].any()  # the meadow moves by 4.5 pixels to the left
    assert seen[HEIGHT - 1, 5:].all()


def test_the_noise_is_as_strong_as_it_says(film):
    flat = np.full((400, 400), 128, np.uint8)
    assert abs((with_noise(flat, NOISE) - flat.astype(float)).std() / NOISE - 1) < 0.01


# --- the jobs ---------------------------------------------------------------------------------------
def test_each_job_brings_frames_and_motion_closer_to_the_truth(done):
    denoise, search, align, again = done.jobs
    assert denoise.after > denoise.before + 7
    assert again.after > denoise.after + 1  # along the motion that was found
    assert search.after < 0.3 * search.before
    assert align.after > align.before + 10


def test_the_numbers_are_those_of_what_was_found(film, done):
    def psnr(frame):
        return 10 * np.log10(255**2 / np.mean((frame.astype(float) - film.frames[2]) ** 2))

    assert done.t == 2
    denoise, search, _, again = done.jobs
    assert denoise.before == again.before == pytest.approx(psnr(done.noisy))
    assert again.after == pytest.approx(psnr(done.clean))
    errors = np.sqrt(((done.forward - film.forward[2]) ** 2).sum(0))[visible(film, 2)]
    assert search.after == pytest.approx(errors.mean(), rel=1e-5)
    assert again.times == pytest.approx(10 ** ((again.after - again.before) / 20))
    assert search.times == pytest.approx(search.before / search.after)


@pytest.mark.full
def test_the_jobs_see_no_truth(film, done):
    """Other frames of truth change the judgement, not what is found."""
    other = film._replace(frames=255 - film.frames, forward=film.forward + 1)
    again = jobs.work(other, with_noise(film.frames, NOISE))
    np.testing.assert_array_equal(again.clean, done.clean)
    np.testing.assert_array_equal(again.aligned, done.aligned)
    np.testing.assert_array_equal(again.forward, done.forward)
    assert again.jobs[0].after < 15
    assert again.jobs[1].after > done.jobs[1].after + 0.5


def test_the_table_has_a_line_for_each_job(done):
    head, *lines = table(done.jobs)
    assert head.split() == ["before", "after", "time"]
    for job, line in zip(done.jobs, lines, strict=True):
        unit, digits = ("dB", 1) if job.unit == "dB" else ("px", 2)
        assert line.startswith(job.name)
        assert f"{job.before:.{digits}f} {unit} " in line
        assert f"{job.after:.{digits}f} {unit} " in line
        assert f"{job.times:.1f} x less error" in line
        assert len(line) == len(lines[0]) <= 88


# --- the picture ------------------------------------------------------------------------------------
def test_the_picture_shows_what_was_found(film, done):
    out = picture.picture(film, done)
    coarse = 255 / picture.SHADES
    for number, shown in enumerate((done.noisy, done.clean)):
        panel = out[picture.place(number)]
        assert panel.shape == (HEIGHT, WIDTH, 3)
        assert abs(panel - shown.astype(float)).max() <= coarse / 2 + 0.5
    before, after = (out[picture.place(number)].astype(float) for number in (4, 5))
    assert after.std() < 0.5 * before.std()
    assert abs(after.mean() - 128) < 4
    motion = shiftsearch.flow.to_color(done.forward, longest=picture.LONGEST)
    assert abs(out[picture.place(3)][:100] - motion[:100].astype(float)).max() <= coarse / 2 + 0.5


def test_captions_have_the_numbers_and_stay_within_their_columns(film, done):
    captions = picture.captions(done)
    assert len(captions) == 6
    for job, number in zip(done.jobs[1:], (3, 5, 1), strict=True):
        assert f"{job.after:.1f}" in captions[number][1]
    for texts in captions:
        for text, style in zip(texts, (picture.TITLE, picture.ABOUT), strict=True):
            assert lettering.lettered(text, style["size"], style["pen"]).shape[1] <= WIDTH
    out = picture.picture(film, done)
    for number in range(6):
        rows, columns = picture.place(number)
        above = out[rows.start - 46 : rows.start, columns]
        assert (above.min(-1) < 120).sum() > 100  # ink
        assert (out[rows.start - 3 : rows.start, columns] > 245).all()
    assert out[:, :10].min() > 245  # margins
    assert out[-10:].min() > 245


def test_the_wheel_explains_the_colours():
    wheel, r = picture.wheel(10), 10
    assert wheel[r, r].tolist() == [255, 255, 255]
    assert wheel[r, 2 * r].tolist() == [255, 0, 0]  # to the right
    longest = np.array([0, -picture.LONGEST], np.float32)[:, None, None]
    assert wheel[0, r].tolist() == shiftsearch.flow.to_color(longest, longest=picture.LONGEST)[0, 0].tolist()


def test_each_letter_is_drawn_within_its_line():
    for letter in lettering.GLYPHS:
        ink = lettering.lettered(letter, size=14, pen=2)
        assert ink.max() <= 1
        assert (ink.max() > 0.9) == (letter != " "), letter
        assert not ink[[0, -1]].any(), letter
        assert not ink[:, [0, -1]].any(), letter


def test_no_two_letters_look_alike():
    inks = {letter: lettering.lettered(letter, size=21, pen=2) for letter in lettering.GLYPHS}
    for one, ink in inks.items():
        for other, another in inks.items():
            assert one == other or ink.shape != another.shape or abs(ink - another).sum() > 5, (one, other)


def test_a_letter_is_where_it_belongs():
    ink = lettering.lettered("L", size=14, pen=2)  # 2 pixels to a unit
    corner = int(2 * 8.7), int(2 * 1.75)
    for up, right in ((0, 0), (8, 0), (0, 5)):
        assert ink[corner[0] - up, corner[1] + right] == 1
    assert not ink[: corner[0] - 3, corner[1] + 3 :].any()


# --- the command ------------------------------------------------------------------------------------
_ALONE = """if True:
    import sys
    for name in ("av", "cv2", "tqdm", "skimage", "scipy", "torch", "PIL", "matplotlib", "cupy"):
        sys.modules[name] = None
    from shiftsearch.__main__ import main
    sys.exit(main(["demo", *sys.argv[1:]]))"""


def test_the_command_needs_numpy_and_numba_only(tmp_path):
    command = [sys.executable, "-W", "error", "-c", _ALONE, "--out", "look.png", "--json", "numbers.json"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert sorted(os.listdir(tmp_path)) == ["look.png", "numbers.json"]
    rows = [jobs.Job(**row) for row in json.loads((tmp_path / "numbers.json").read_text())]
    assert "\n".join(table(rows)) in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("Next, with your own video: pip install")
    data = (tmp_path / "look.png").read_bytes()
    assert len(data) < 300_000
    assert pixels(data).shape[1] > 3 * WIDTH


def test_nothing_is_computed_for_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ShiftsearchError, match="there is no folder"):
        run(tmp_path / "missing" / "look.png")
    with pytest.raises(ShiftsearchError, match="there is no folder"):
        run(tmp_path / "look.png", tmp_path / "missing" / "numbers.json")
    assert not os.listdir(tmp_path)


# --- what README shows ------------------------------------------------------------------------------
def test_readme_has_the_table_of_this_demo(done):
    """All but the times, and but for the last digit, which may differ between processors."""
    lines = table(done.jobs)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text[text.index(lines[0]) :].splitlines()[: len(lines)]
    for line, expected in zip(shown[1:], lines[1:], strict=True):
        assert line[:39] == expected[:39]
        numbers = [[float(n) for n in re.findall(r"\d+\.\d+", row)][:-1] for row in (line, expected)]
        np.testing.assert_allclose(*numbers, atol=0.1001)


def test_readme_has_the_picture_of_this_demo(film, done):
    path = ROOT / "docs" / "pictures" / "demo.png"
    assert "](docs/pictures/demo.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert path.stat().st_size < 300_000
    shown, expected = pixels(path.read_bytes()), picture.picture(film, done)
    assert shown.shape == expected.shape
    assert (shown != expected).mean() < 0.02  # roundings differ between processors
