"""A clip computed in chunks by many processes, some of which die, equals the clip computed by one process."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shiftsearch as ss

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "distributed.py"
WORKS = ["align", "denoise"]

pytestmark = pytest.mark.xdist_group("distributed")  # one Ray at a time
pytest.importorskip("cv2", reason="the example measures flow with OpenCV")


@pytest.fixture(scope="module")
def example():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def clip_of(rng, frames, cut=None, shape=(9, 11), by=4):
    """Return a noisy clip that moves; at `cut` another scene begins."""
    scenes = [rng.integers(0, 256, shape).repeat(by, 0).repeat(by, 1) for _ in range(2)]
    moved = [np.roll(scenes[cut is not None and t >= cut], (t, -2 * t), (0, 1)) for t in range(frames)]
    noise = rng.normal(0, 5, np.shape(moved))
    return (moved + noise).clip(0, 255).astype(np.uint8)


def by_one_process(work, clip, sigma):
    return ss.align_clip(clip, sigma=sigma) if work == "align" else ss.denoise(clip, sigma)


def save(path, clip):
    path.parent.mkdir(exist_ok=True)
    np.save(path, clip)
    return path


# --- without Ray ------------------------------------------------------------------------------------
@pytest.mark.full
@pytest.mark.parametrize("work", WORKS)
def test_chunks_in_any_order_are_the_clips(example, work, rng, tmp_path, capsys):
    clips = {"a.npy": clip_of(rng, 13, cut=6), "b.npy": clip_of(rng, 5, shape=(9, 11, 3)), "c.npy": clip_of(rng, 1)}
    for name, clip in clips.items():
        save(tmp_path / "in" / name, clip)
    folders = [str(tmp_path / "in"), str(tmp_path / "out")]
    options = ["--work", work, "--sigma", "5", "--size", "4"]
    assert example.main([*folders, *options, "--plan"]) == 0
    assert capsys.readouterr().out == "7 chunks\n"  # of 3 + 3, 3 + 4, 2 + 3 and 1 frames
    for number in (5, 0, 6, 2, 4, 1, 3, 3):
        assert example.main([*folders, "--chunk", str(number)]) == 0
    assert example.main([*folders, *options, "--plan"]) == 0  # the same plan again: what is computed stays
    assert example.main([*folders, "--join"]) == 0
    for name, clip in clips.items():
        found = np.load(tmp_path / "out" / name)
        assert found.dtype == clip.dtype
        np.testing.assert_array_equal(found, by_one_process(work, clip, 5.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]  # nothing else is left
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(clips)


def test_a_chunk_that_is_there_is_not_computed_again(example, rng, tmp_path):
    example.plan(save(tmp_path / "a.npy", clip_of(rng, 3)), tmp_path / "b.npy", "align", size=2)
    marked = np.full((1, 36, 44), 7, np.uint8)
    for number in example.missing(tmp_path / "b.npy"):
        np.save(tmp_path / "b.npy.parts" / f"{number:06}.npy", marked)
        example.compute(tmp_path / "b.npy", number)
    example.join(tmp_path / "b.npy")
    assert (np.load(tmp_path / "b.npy") == 7).all()


def test_mistakes_are_told_in_one_line(example, rng, tmp_path):
    source, empty = save(tmp_path / "a.npy", clip_of(rng, 3)), save(tmp_path / "empty.npy", np.zeros((0, 8, 8)))
    target = tmp_path / "b.npy"

    def said(*arguments):
        text = example.main([*map(str, arguments), "--work", "align"])
        assert "\n" not in text
        return text

    assert "there is no" in said(source, target, "--chunk", 0)
    assert "there is no" in said(source, target, "--join")
    assert "expected another name" in said(source, source, "--plan")
    assert "ends in .npy" in said(source, tmp_path / "b.mp4", "--plan")
    assert "has no frames" in said(empty, target, "--plan")
    assert "No such file" in said(tmp_path / "none.npy", target, "--plan")
    assert not target.with_name("b.npy.parts").exists()
    assert example.plan(source, target, "align", size=2) == 2
    assert "chunk is 2, expected 0 to 1" in said(source, target, "--chunk", 2)
    assert "chunk is -1, expected 0 to 1" in said(source, target, "--chunk=-1")
    assert "of another plan" in said(source, target, "--size", 1, "--plan")
    example.compute(target, 0)
    assert "chunks [1] are missing" in said(source, target, "--join")
    save(source, clip_of(rng, 3))
    os.utime(source, ns=(0, 0))
    assert "of another plan or source" in said(source, target, "--size", 2, "--plan")
    assert not target.exists()


def test_frames_of_a_gpu_worker_are_on_the_gpu(example, rng, tmp_path, on_device):
    clip = clip_of(rng, 4)
    for name in ("align.choice", "align.clips", "align.pair", "align.spec", "flow.arrays", "flow.pyramid", "scenes"):
        on_device(importlib.import_module(f"shiftsearch.video.{name}"))
    target = tmp_path / "b.npy"
    for number in range(example.plan(save(tmp_path / "a.npy", clip), target, "align", 5, size=2)):
        example.compute(target, number, SimpleNamespace(asarray=on_device.put))
    example.join(target)
    np.testing.assert_array_equal(np.load(target), ss.align_clip(clip, flow=ss.flow.dis, sigma=5))


def test_video_files(example, rng, tmp_path):
    pytest.importorskip("av")
    io = pytest.importorskip("shiftsearch.video.io")
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    clip = clip_of(rng, 7, cut=4, shape=(9, 11, 3))
    with io.write(source, rate=25, codec="ffv1") as file:
        for frame in clip:
            file.write(frame)
    with io.read(source) as file:
        clip = np.stack(list(file))
    for number in range(example.plan(source, target, "align", 5, size=2)):
        example.compute(target, number)
    example.join(target)
    with io.write(tmp_path / "whole.mkv", rate=25, codec="ffv1") as file:
        for frame in ss.align_clip(clip, sigma=5):
            file.write(frame)
    with io.read(target) as found, io.read(tmp_path / "whole.mkv") as whole:
        np.testing.assert_array_equal(np.stack(list(found)), np.stack(list(whole)))


# --- with Ray ---------------------------------------------------------------------------------------
_DRIVER = """
import os, runpy, signal, sys, time
from pathlib import Path
from types import SimpleNamespace

import ray

script, target, log, temporary = sys.argv[1:]
example, log = SimpleNamespace(**runpy.run_path(script)), Path(log)


class Mortal(example.Worker):
    def __call__(self, batch):
        (log / f"{batch['number'][0]} {os.getpid()} {os.environ['SHIFTSEARCH_NUM_THREADS']}").touch()
        while len({path.name.split()[1] for path in log.iterdir()}) < 2:  # both workers are in the middle of a chunk
            time.sleep(0.05)
        if batch["number"][0] == 1 and not (log.parent / "killed").exists():
            (log.parent / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if batch["number"][0] == 3 and not (log.parent / "failed").exists():
            (log.parent / "failed").touch()
            raise OSError("stale file handle")
        return super().__call__(batch)


ray.init(
    address="local", num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=80 * 1024**2,
    log_to_driver=False, _temp_dir=temporary,
)
example.compute_by_ray(target, worker=Mortal)
example.join(target)
ray.shutdown()
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the test kills processes as Linux does")
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ray", "pyarrow"))), reason='Ray is missing: pip install "ray[data]"'
)
def test_ray_computes_the_clip_though_a_worker_is_killed_and_a_task_fails(example, rng, tmp_path, tmp_path_factory):
    work, clip, target, log = WORKS[-1], clip_of(rng, 13, cut=6), tmp_path / "b.npy", tmp_path / "log"
    expected = by_one_process(work, clip, 5.0)  # compiles what workers need, too
    assert example.plan(save(tmp_path / "a.npy", clip), target, work, 5.0, size=3) == 5
    log.mkdir()
    said = driven(target, log)
    np.testing.assert_array_equal(np.load(target), expected, err_msg=said)
    begun = [path.name.split() for path in log.iterdir()]
    assert {number for number, _, _ in begun} == set("01234")
    assert (tmp_path / "failed").exists()
    killed = (tmp_path / "killed").read_text()
    workers_of_1 = {pid for number, pid, _ in begun if number == "1"}
    assert killed in workers_of_1
    assert len(workers_of_1) == 2  # another worker did it
    assert {threads for _, _, threads in begun} == {"1"}


def driven(target, log) -> str:
    """Run Ray in a separate process: it ends with that, and its warnings do not fail the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PYTHONPATH": str(Path(ss.__file__).parent.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    with tempfile.TemporaryDirectory(
        prefix="ray-", ignore_cleanup_errors=True
    ) as temporary:  # sockets want short names
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, str(SCRIPT), str(target), str(log), temporary],
            env=environment,
            timeout=300,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    return done.stdout
