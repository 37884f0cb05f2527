"""The code that benchmarks compare with is right, and benchmarks end without an error where nothing can be timed."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shiftsearch
from shiftsearch._op import OPS
from shiftsearch.backends import cpu

FOLDER = Path(__file__).parent.parent / "examples" / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return pytest.importorskip("gpu_ops"), pytest.importorskip("baselines")


@pytest.mark.parametrize("patch", [1, 2, 7])
@pytest.mark.parametrize("baseline", ["MaterialiseAndSort", "UnfoldAndMultiply"])
def test_a_baseline_equals_search(benchmarks, baseline, patch, rng):
    gpu, baselines = benchmarks
    q, k = rng.integers(-3, 4, (2, 5, 2, 9, 11)).astype(np.float32)  # sums are exact
    flow = gpu.inside_flow(rng, 5, 9, 11)[0, 0]
    options = {"window": 4, "patch": patch, "topk": 6}
    scores, offsets = getattr(baselines, baseline)(np).search(q, k, flow, **options)
    wanted, places = (array[0] for array in shiftsearch.search(q, k, flow, **options))
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(shiftsearch.score(q, k, offsets[None], patch=patch)[0], wanted)
    clear = (np.diff(wanted, axis=-1) > 0).all(-1)  # no two scores are equal
    np.testing.assert_array_equal(offsets[clear][:, :-1], places[clear][:, :-1])


class OnHost:
    """A stand-in for a GPU, which runs the functions that it should time."""

    def __init__(self):
        self.measured = []

    def times(self, run, seconds):
        self.measured.append(run())
        return [1.0, 3.0, 2.0]

    def peak(self, run):
        return 2_000_000


@pytest.mark.parametrize("patch", [1, 3, 4])
def test_every_case_of_the_benchmark_is_right(benchmarks, patch):
    """The functions that are timed on a GPU are run on the CPU."""
    gpu_ops, baselines = benchmarks
    baselines.CHUNK = 10_000
    device = OnHost()
    rows = [gpu_ops.compare(sides, device) for _, sides in gpu_ops.problems(cpu, 10, 2, patch, "float32")]
    assert len(rows) == 20
    assert all(row["shiftsearch ms"] == row["shiftsearch MB"] == 2 for row in rows)
    assert sum("unfold ms" in row for row in rows) == 6
    assert len(device.measured) == 20 + 7
    assert not any("is wrong" in key for row in rows for key in row)


def test_a_wrong_baseline_is_noticed(benchmarks):
    gpu_ops, _ = benchmarks
    sides = {"shiftsearch": lambda: (np.ones(3),), "sort": lambda: (np.full(3, 1.001),)}
    row = gpu_ops.compare(sides, OnHost())
    assert row["sort is wrong"] == "differs by 1.0e-03 of the largest value"
    assert "sort ms" not in row
    places = np.zeros((5, 3), int)
    sides = {"shiftsearch": lambda: (places,), "sort": lambda: (places + 1,)}
    assert gpu_ops.compare(sides, OnHost())["sort is wrong"] == "only 0.0% of the places agree"


def test_the_host_time_of_every_op_is_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    host = pytest.importorskip("host")
    monkeypatch.setattr(host, "CALLS", 1)
    monkeypatch.setattr(host, "ROUNDS", 1)
    launched = []
    monkeypatch.setattr(host.Idle, "launch", lambda self, program, *_, **__: launched.append(program.kernel.name))
    found = dict(host.measure())
    assert OPS.keys() <= found.keys()
    one_by_one = sum(name in ("search", "search_windows") for name in launched)
    assert one_by_one == 2 * 5  # of search, also subpixel, match, refine and attend, each called twice
    assert all(us > 0 for us in found.values())


def test_a_call_that_was_planned_runs_few_functions(monkeypatch):
    """Each function takes a third of a microsecond, and what Python does before a launch keeps a small call waiting."""
    monkeypatch.syspath_prepend(str(FOLDER))
    host, found = pytest.importorskip("host"), collections.Counter()
    with host.idle() as of_ops:
        for name, call in of_ops.items():
            call()
            sys.setprofile(lambda frame, event, _: found.update([name] * (event == "call")))  # noqa: B023
            call()
            sys.setprofile(None)
    assert found["aggregate"] > 20
    more = ("scatter", "fold", "attend")  # two sort, and one searches and sums; where torch is, it looks at arrays, too
    assert not {name: count for name, count in found.items() if count > (110 if name in more else 75)}


@pytest.mark.full
def test_denoising_is_timed(tmp_path):
    for library in ("cv2", "skimage"):
        pytest.importorskip(library)
    file = tmp_path / "speed.json"
    command = [sys.executable, str(FOLDER / "denoise_speed.py"), "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {row["method"] for row in found["rows"]} == {"shiftsearch, fast", "OpenCV NLM multi", "scikit-image NLM"}
    assert set(found["peak_MiB"]) == {"8", "24", "48"}
    assert found["versions"]["numpy"] == np.__version__


def test_the_true_flow_of_a_pan_leads_to_the_same_pixels(monkeypatch, rng):
    for library in ("cv2", "skimage", "av"):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(str(FOLDER))
    pans = pytest.importorskip("pans")
    clip, ways = pans.pan(rng.random((200, 600)), 60, 3), pans.true_flow(60, 3)
    for before, after, flow in ((clip[1], clip[2], ways[0][1]), (clip[2], clip[1], ways[1][2])):
        dx, dy = flow[:, 70, 90].astype(int)
        assert (after[70 + dy, 90 + dx], after.shape) == (before[70, 90], (pans.HEIGHT, pans.WIDTH))
