"""Real video, where pip can download it: a few clips confirm what the benchmarks measure at length."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shiftsearch
from shiftsearch.__main__ import main
from shiftsearch.video import io

pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")
metrics = pytest.importorskip("skimage.metrics")
sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))
import align  # noqa: E402
import denoise  # noqa: E402
import real_clips  # noqa: E402

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("real clips")]  # which are fetched once


@pytest.fixture(scope="module")
def folder():
    try:
        return real_clips.fetch()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the clips cannot be fetched: {error}")


# --- alignment --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("sigma", "least"), [(align.SIGMA, 2.9), (0, 3.5)])
def test_alignment_gains_over_flow_on_every_clip(folder, sigma, least):
    gains, losses = [], []
    for name in list(align.CLIPS)[:5]:
        frames = align.clip(folder, *align.CLIPS[name])[:2]
        noise = np.random.default_rng(0).standard_normal(frames.shape, np.float32)
        seen, inner = frames + np.float32(sigma / 255) * noise, np.s_[8:-8, 8:-8]
        flow = shiftsearch.flow.dis(*seen)
        rows = (
            align.remap(frames[1], flow, cv2.INTER_LINEAR),
            align.found(*seen, frames[1]),
            align.found(*seen, frames[1], flow=shiftsearch.flow.coarse(shiftsearch.flow.dis(*seen, sigma=sigma / 255))),
        )
        by_flow, aligned, coarse = (
            metrics.peak_signal_noise_ratio(frames[0][inner], found[inner], data_range=1) for found in rows
        )
        assert aligned > by_flow, name
        gains.append(aligned - by_flow)
        losses.append(aligned - coarse)
    assert np.mean(gains) > least
    if sigma:
        assert np.mean(losses) < 0.15


# --- denoising --------------------------------------------------------------------------------------
@functools.cache
def denoised(folder, name, sigma, quality="fast", colour=False):
    """Return the PSNR of a denoised clip."""
    frames = denoise.clip(folder, *denoise.TUNED[name])
    return denoise.measured(denoise.ours(quality=quality), frames if colour else denoise.grey(frames), sigma)["psnr"]


@pytest.mark.parametrize(
    ("sigma", "carphone", "bbb", "bikes2"),
    [(10, 36.78, 39.61, 36.82), (20, 32.99, 35.75, 32.97), (50, 27.18, 30.35, 27.31)],
)
def test_fast_denoising_is_better_than_v_bm3d(folder, sigma, carphone, bbb, bikes2):
    """The PSNR of V-BM3D is by the same protocol, with its defaults "np" and 2 frames each way."""
    assert denoised(folder, "carphone", sigma) > carphone
    assert denoised(folder, "bbb", sigma) > bbb
    assert denoised(folder, "bikes2", sigma) > bikes2


def test_high_quality_is_better_by_far(folder):
    assert denoised(folder, "bikes2", 20, "high") > denoised(folder, "bikes2", 20) + 1.2


def test_colours_gain_from_each_other(folder):
    assert denoised(folder, "bbb", 20, colour=True) > max(38, denoised(folder, "bbb", 20) + 1)


# --- command line -----------------------------------------------------------------------------------
@pytest.mark.parametrize("file", ["carphone_pristine.mp4", "bikes.mp4", "cityCC0.mpg"])
def test_files_are_aligned_and_denoised(folder, file, tmp_path, capsys):
    source = folder / file
    outputs = [tmp_path / name for name in ("clean.mkv", "steady.mp4", "motion.mkv")]
    for command, output in zip(("denoise", "align", "flow"), outputs, strict=True):
        preview = [] if command == "flow" else ["--preview", str(tmp_path / f"{command}.png")]
        assert main([command, str(source), "-o", str(output), "--frames", "3:7", *preview]) == 0
    assert [path.name for path in sorted(tmp_path.glob("*.png")) if path.stat().st_size > 1000] == [
        "align.png",
        "denoise.png",
    ]
    assert [len(real_clips.frames(output, 0, 99, False)) for output in outputs] == [4, 4, 3]
    clean = real_clips.frames(outputs[0], 0, 4, False)
    assert metrics.peak_signal_noise_ratio(real_clips.frames(source, 3, 4, False), clean) > 32  # there was hardly noise
    capsys.readouterr()
    assert main(["compare", str(outputs[0]), str(outputs[1])]) == 0
    assert "PSNR" in capsys.readouterr().out


def test_the_planes_of_a_file_are_denoised_as_they_are_stored(folder, tmp_path, capsys):
    """For comparison: denoised as RGB, 31.9, 35.8 and 34.9 dB; each plane alone, 33.2, 39.7 and 37.7 dB."""
    rng, clean = np.random.default_rng(1), []
    with io.read(folder / "cityCC0.mpg", (20, 28)) as clip, io.write(tmp_path / "noisy.mkv", clip, codec="ffv1") as out:
        for planes in clip.planes():
            clean.append(planes)
            noisy = (np.rint(plane + 15 * rng.standard_normal(plane.shape)) for plane in planes)
            out.write(tuple(np.clip(plane, 0, 255).astype(np.uint8) for plane in noisy))
    assert main(["denoise", str(tmp_path / "noisy.mkv"), "-o", str(tmp_path / "clean.mkv"), "--codec", "ffv1"]) == 0
    with io.read(tmp_path / "clean.mkv") as clip:
        found = [np.stack(plane) for plane in zip(*clip.planes(), strict=True)]
    scores = [
        metrics.peak_signal_noise_ratio(np.stack(a), b) for a, b in zip(zip(*clean, strict=True), found, strict=True)
    ]
    assert (np.array(scores) > (33.1, 40.2, 38.0)).all(), scores
    told = [float(part.split()[-1]) for part in capsys.readouterr().err.split("noise found: ")[1].split(",")]
    np.testing.assert_allclose(told, 15, atol=0.03 * 15 + 0.05)  # 3 %, and what is rounded


def test_scenes_are_found(folder):
    assert list(shiftsearch.scene_cuts(real_clips.frames(folder / "bikes.mp4", 0, 140, False))) == [30, 76, 137]
