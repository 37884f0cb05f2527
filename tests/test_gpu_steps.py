"""What the benchmark measures on a GPU: its floors, and a dry run of each step on what stands in for a GPU."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import emulate
import numpy as np
import pytest
from device_arrays import Namespace

from shiftsearch import definition
from shiftsearch.backends.cuda import Cuda

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))

import gpu
import gpu_cases
import gpu_ops
import gpu_peers
import gpu_steps
import gpu_warm
import host
from gpu_cases import Case
from gpu_device import Device
from gpu_steps import Bench, Step


# --- floors -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("case", "ways", "each"),
    [
        # of one query and head: 3 windows of 81, 16 channels, subtract and multiply-add
        (Case(options={"patch": 1}), "forward", 3 * 81 * 16 * 2),
        (Case(options={"patch": 1, "metric": "dot"}), "forward", 3 * 81 * 16),
        # and three additions along each axis of a patch, two where it is 3 pixels long
        (Case(options={"patch": 7}), "forward", 3 * 81 * (16 * 2 + 2 * 3)),
        (Case(options={"patch": 3}), "forward", 3 * 81 * (16 * 2 + 2 * 2)),
        # motion that differs by 16 pixels within a patch: 25 x 25 places meet each pixel
        (Case(options={"patch": 7}, flow="random"), "forward", 3 * (25**2 * 32 + 81 * 6)),
        # and where it differs by any, each candidate has its own
        (Case(options={"patch": 3}, flow="wild"), "forward", 3 * 81 * (9 * 32 + 4)),
        # 10 x 10 whole places, and ten operations for each candidate between them
        (Case(options={"patch": 7, "subpixel": True}, flow="fraction"), "forward", 3 * (100 * 32 + 81 * (6 + 10))),
        (Case(op="score", options={"patch": 1}), "forward", 10 * 32),
        (Case(op="score", options={"patch": 1}), "backward", 10 * 48),
        (Case(op="score", options={"patch": 7}), "forward", 3 * 81 * 32),
        (Case(op="aggregate", options={"patch": 7}), "forward", 3 * 81 * 16),
        (Case(op="attend", options={"patch": 1}), "forward", 3 * 81 * 32 + 160),
        (Case(op="gather", options={"patch": 7}), "forward", 0),
    ],
)
def test_the_least_arithmetic_of_a_case(case, ways, each):
    assert gpu_cases.instructions(case, ways) == 2 * 5 * 256 * 256 * each


def test_floors_are_times():
    case = Case(options={"patch": 1}, frames=1, height=10, width=10)
    ceilings = {"bytes a second": 2e9, "float32 instructions a second": 1e9}
    found = gpu_cases.floors(case, 1000, ceilings)
    assert math.isclose(found["traffic"], 0.0005)
    assert math.isclose(found["arithmetic"], 2 * 100 * 3 * 81 * 32 / 1e9 * 1e3)


_UNFUSED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


# --- a dry run ----------------------------------------------------------------------------------------------
class StandIn:
    """A device that runs what it is to time, once."""

    size, torch = 8, "cpu"

    def __init__(self, backend):
        self.backend, self.xp, self.ran = backend, backend.xp, 0

    def direct(self):
        return self.backend

    def times(self, run, seconds=0.5):
        run()
        self.ran += 1
        return [1.0, 2.0, 4.0]

    def peak(self, run):
        run()
        return 1000

    def capture(self, run):
        results = run()

        def replay():
            for name, array in run().items():
                results[name][...] = array

        return results, replay

    def about(self):
        return {"device": "none"}

    def ceilings(self):
        return gpu_steps.H100


@pytest.fixture
def bench(tmp_path):
    return Bench(StandIn(definition), gpu_steps.H100, tmp_path, 2, 60)


@pytest.fixture
def emulated(tmp_path):
    if emulate.available() is not None:
        pytest.skip(emulate.available())
    emulator = emulate.Emulator()
    emulator.xp = Namespace()
    return Bench(StandIn(Cuda(emulator)), gpu_steps.H100, tmp_path, 2, 60)


_EACH = ["bench", pytest.param("emulated", marks=[pytest.mark.full, pytest.mark.emulated])]
on_each = pytest.mark.parametrize("name", _EACH)


def served(bench, name, most=None):
    """The rows of a step by their names, in as many processes as it would need."""
    whole = next(step for step in gpu_steps.STEPS if step.name == name)
    rows = list(whole.rows(bench))[:most]
    said, done = [], set()
    while gpu.serve(Step(name, "", 1, 1, lambda bench: iter(rows)), bench, done, said.append):
        done = {row["begun"] for row in said if "begun" in row}
    return {row["row"]: row for row in said if "row" in row}


def test_a_dry_run_of_the_machine(bench):
    rows = served(bench, "machine")
    assert rows["machine"]["device"] == "none"
    assert rows["ceilings"]["bytes a second"] == 3.0e12


@on_each
def test_a_dry_run_of_the_goals(name, request):
    rows = served(request.getfixturevalue(name), "goals")
    assert len(rows) == 17
    for goal in gpu_steps.GOALS:
        row = rows[goal.name]
        if "attend" in goal.name:
            continue
        assert (row["must"], row["stretch"], row["unit"]) == (goal.must, goal.stretch, goal.unit)
        assert row["over"] == row["value"] / goal.must
        assert row["ms"] == 2
        assert 0 < row["share of arithmetic"] < 1
        assert 0 < row["share of traffic"] < 1
    assert rows["score patch 7, backward to q and k"]["value"] == rows["twice the pixels, patch 7"]["value"] == 1


@on_each
def test_a_dry_run_of_fast_against_direct(name, request):
    rows = served(request.getfixturevalue(name), "equal", 14)
    assert len(rows) == 14
    assert all(row["equal"] for row in rows.values())


def test_a_form_that_differs_is_noticed(bench, monkeypatch):
    class Differs:
        xp = bench.device.xp

        def __getattr__(self, name):
            def changed(*arguments, **options):
                found = getattr(bench.device.backend, name)(*arguments, **options)
                scores = found[0].copy()
                scores.reshape(-1)[0] += 1e-3
                return scores, *found[1:]

            return changed

    monkeypatch.setattr(bench.device, "direct", Differs, raising=False)
    row = next(iter(served(bench, "equal", 1).values()))
    assert row["equal"] is False
    assert row["differ"] == ["scores"]


@pytest.mark.full
@pytest.mark.emulated
def test_a_dry_run_of_what_is_drawn(emulated):
    rows = served(emulated, "sweep")
    assert {row["axis"] for row in rows.values()} == {"window", "patch", "channels", "pixels"}
    assert all(row["ms"] == 2 for row in rows.values())


def test_a_dry_run_of_graphs(bench):
    rows = served(bench, "captured")
    assert len(rows) == 8
    assert all(row["equal"] for row in rows.values())


def test_a_dry_run_of_the_time_of_the_host(bench, monkeypatch):
    monkeypatch.setattr(host, "CALLS", 1)
    monkeypatch.setattr(host, "ROUNDS", 1)
    monkeypatch.setattr(host, "measure", lambda: [("search", 30.0)])  # of which test_benchmarks.py runs each
    monkeypatch.setattr(host, "calls", lambda array: {"search": lambda: array(np.zeros(1))})
    rows = served(bench, "host")
    assert rows["microseconds of Python alone"]["search"] == 30
    assert rows["microseconds with CuPy"]["search"] > 0


@_UNFUSED
@pytest.mark.filterwarnings("ignore:return_lse is deprecated")  # by NATTEN
def test_a_dry_run_of_the_peers(bench, monkeypatch):
    monkeypatch.setattr(gpu_ops, "rows", lambda device: iter(()))  # of which test_benchmarks.py runs each
    bench.device.size = 16  # the width of FlexAttention's tiles
    rows = served(bench, "peers")
    assert set(rows) == set(gpu_peers.PEERS)
    assert all("skipped" in row or any(key.endswith(" ms") for key in row) for row in rows.values())


@_UNFUSED
def test_tiles_touch_those_that_windows_reach():
    """FlexAttention's blocks leave out no pair of pixels, and its result is that of attention to a window."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention.flex_attention import flex_attention

    T, H, W = 3, 24, 48
    mask = gpu_peers._blocks(T, H, W, "cpu")
    n = T * H * W
    t, y, x = np.indices((T, H, W))
    order = [a.reshape(T, H // 8, 8, W // 16, 16).transpose(0, 1, 3, 2, 4).reshape(-1) for a in (t, y, x)]
    near = (abs(order[0][:, None] - order[0]) <= 1) & (abs(order[1][:, None] - order[1]) <= 4)
    near &= abs(order[2][:, None] - order[2]) <= 4
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 16) for _ in "qkv")
    found = flex_attention(q, k, v, block_mask=mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=torch.from_numpy(near))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_a_dry_run_of_full_hd(bench):
    assert served(bench, "full hd")["60 frames of 1080p aligned, flow given"]["unit"] == "s"


# --- a device -----------------------------------------------------------------------------------------------
class FakeCupy:
    """As much of CuPy as a benchmark needs, on NumPy: events are a millisecond apart."""

    __version__ = "14"

    def __init__(self):
        self.log, self.held = [], 0
        properties = {"name": b"Fake", "multiProcessorCount": 2, "l2CacheSize": 1000}
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(id=0, compute_capability="90", synchronize=lambda: self.log.append("wait")),
            runtime=SimpleNamespace(
                getDeviceProperties=lambda device: properties,
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 13000,
            ),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            Event=lambda: SimpleNamespace(record=lambda: self.log.append("event"), synchronize=lambda: None),
            get_elapsed_time=lambda start, end: 1.0,
            Stream=lambda non_blocking: FakeStream(self),
        )

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: None, total_bytes=lambda: self.held)

    def RawModule(self, code):
        return SimpleNamespace(get_function=lambda name: lambda grid, block, arguments: self.log.append(name))

    def __getattr__(self, name):
        return getattr(np, name)


class FakeStream:
    def __init__(self, cupy):
        self.cupy = cupy

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass

    def begin_capture(self):
        self.cupy.log.append("begin")

    def end_capture(self):
        self.cupy.log.append("end")
        return SimpleNamespace(launch=lambda stream: self.cupy.log.append("replay"))


@pytest.fixture
def device():
    xp = FakeCupy()
    return Device(SimpleNamespace(xp=xp, device=SimpleNamespace(xp=xp)))


def test_the_properties_of_a_device_are_reported(device):
    assert device.about()["device"] == "Fake"
    assert device.about()["numpy"] == np.__version__


def test_each_run_has_an_empty_cache_and_waits_for_the_host(device):
    device.xp.log.clear()
    assert device.times(lambda: device.xp.log.append("run"), 0) == [1.0] * 1
    assert device.xp.log == ["run", "wait", "hold", "event", "run", "event"]
    assert len(device.times(lambda: None, 10)) == 40


def test_the_peak_of_a_run_is_what_the_pool_took(device):
    def run():
        device.xp.held = 100

    device.xp.held = 100
    assert device.peak(run) == 0
    device.xp.held = 30
    assert device.peak(lambda: setattr(device.xp, "held", device.xp.held + 70)) == 70


def test_a_captured_run_is_replayed(device):
    device.xp.log.clear()
    results, replay = device.capture(lambda: "results")
    replay()
    assert results == "results"
    assert device.xp.log == ["wait", "begin", "end", "wait", "replay"]


def test_a_capture_that_fails_is_ended(device):
    runs = iter([None])
    with pytest.raises(StopIteration):
        device.capture(lambda: next(runs))
    assert device.xp.log[-1] == "end"


def test_ceilings_are_rates(device, monkeypatch):
    monkeypatch.setattr(device, "_multiplied", lambda: 5.0)
    monkeypatch.setattr(device.xp, "ones", lambda shape, dtype: np.ones(1000, dtype), raising=False)
    found = device.ceilings()
    assert found["bytes a second"] == 2 * 4000 * 1000
    assert found["float32 instructions a second"] == 8 * 4096 * 256 * 16 * 1000
    assert found["half operations a second"] == 5


def test_the_direct_form_has_no_tiles_and_stages_nothing():
    case, recorder = Case(options={"patch": 7}, frames=3, height=32, width=32), gpu_warm.Recorder()
    for backend in (Cuda(recorder), gpu_warm.direct(recorder)):
        gpu_cases.prepare(backend, case).forward()
    assert [program.kernel.name for program, _ in recorder.launches] == ["search_tiles", "search_windows", "search"]
    assert [program.constants["MARKED"] for program, _ in recorder.launches[1:]] == [1, 0]


# --- compiling ahead ----------------------------------------------------------------------------------------
def test_programs_of_a_case_are_found_without_a_launch():
    programs = gpu_warm.of_case(Case(op="score", options={"patch": 3}))
    assert {name for _, name in programs} >= {"score", "aggregate", "scatter"}
    assert all("#define SS_PATCH 3" in text for text, name in programs if name in ("score", "aggregate", "scatter"))


def test_programs_of_the_tests_are_found_in_parts():
    found = [gpu_warm.of_tests(part, 400) for part in (0, 1)]
    assert all(found)
    assert found[0] != found[1]


def test_the_output_of_pytest_is_counted():
    log = """
[gw0] [  1%] PASSED tests/test_ops.py::test_a[one]
[gw1] [  2%] FAILED tests/test_ops.py::test_a[two]
[gw1] [  2%] ERROR tests/test_ops.py::test_b
[gw2] [  3%] SKIPPED tests/test_ops.py::test_c
tests/test_ops.py::test_d
"""
    assert gpu_steps.outcomes(log) == {
        "passed": 1,
        "failed": 1,
        "errors": 1,
        "skipped tests": 1,
        "first failures": ["tests/test_ops.py::test_a[two]", "tests/test_ops.py::test_b"],
    }
