"""The benchmark that runs on a GPU where nobody can look twice: its order, its bounds and what it keeps."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))

import gpu
from gpu_goals import GOALS
from gpu_steps import Step

FOLDER = Path(gpu.__file__).parent


# --- order and bounds -------------------------------------------------------------------------------
class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeChild:
    """Says what a script has: rows, seconds that pass before the next one, or how it ends."""

    def __init__(self, clock, script):
        self.clock, self.script, self.ended, self.killed = clock, list(script), None, False

    def next(self, seconds):
        while self.script:
            said = self.script.pop(0)
            if isinstance(said, dict):
                return said
            if isinstance(said, str):
                self.ended = said
                return None
            if said > seconds:
                self.clock.now += seconds
                raise TimeoutError
            self.clock.now += said
            seconds -= said
        return None

    def failure(self):
        return self.ended

    def kill(self):
        self.killed = True


def step(name="goals", seconds=100.0, each=10.0):
    return Step(name, "goals", seconds, each, lambda bench: iter(()))


def watched(scripts, steps=None, budget=1000.0):
    """The rows that are written when children follow these scripts, what each was told is done, and the clock."""
    clock, rows, started = Clock(), [], []
    scripts = iter(scripts)

    def start(step, done, left):
        started.append((step.name, list(done), left))
        return FakeChild(clock, next(scripts))

    gpu.run(steps or [step()], start, rows.append, budget, clock)
    return rows, started, clock


def begun(name, *rest):
    return [{"begun": name}, *rest]


def test_rows_are_written_as_they_come():
    rows, started, _ = watched([[*begun("a", 2, {"row": "a", "ms": 1}), *begun("b", {"row": "b", "ms": 2})]])
    assert rows == [{"step": "goals", "row": "a", "ms": 1}, {"step": "goals", "row": "b", "ms": 2}]
    assert started == [("goals", [], 100.0)]


def test_a_row_that_hangs_is_ended_and_the_next_one_has_a_new_process():
    hangs = [*begun("a", 1, {"row": "a"}), *begun("b", 50)]
    rows, started, clock = watched([hangs, begun("c", {"row": "c"})])
    assert [row["row"] for row in rows] == ["a", "b", "c"]
    assert rows[1]["error"] == "no answer within 10 s"
    assert started[1] == ("goals", ["a", "b"], 89.0)
    assert clock.now == 11


def test_a_row_that_breaks_the_process_is_left_out_of_the_next():
    rows, started, _ = watched([begun("a", "exit code -11"), begun("b", {"row": "b"})])
    assert rows[0] == {"step": "goals", "row": "a", "error": "exit code -11"}
    assert rows[1]["row"] == "b"
    assert started[1][1] == ["a"]


def test_a_row_that_breaks_the_device_has_its_error_once():
    rows, started, _ = watched([begun("a", {"row": "a", "error": "broken"}, "exit code 3"), []])
    assert rows == [{"step": "goals", "row": "a", "error": "broken"}]
    assert len(started) == 2


def test_a_step_that_cannot_begin_is_not_tried_again():
    rows, started, _ = watched([["exit code 1"], begun("x", {"row": "x"})], [step(), step("peers")])
    assert rows[0] == {"step": "goals", "row": "the rest", "error": "exit code 1"}
    assert [name for name, *_ in started] == ["goals", "peers"]


def test_a_step_ends_with_its_time_and_a_run_with_its_budget():
    slow = [part for n in range(20) for part in begun(str(n), 9, {"row": str(n)})]
    rows, started, clock = watched([list(slow), list(slow)], [step(), step("peers"), step("sweep")], budget=150.0)
    assert clock.now == 150
    assert [row["row"] for row in rows if row["step"] == "goals"][-1] == "11"
    assert [row["error"] for row in rows if "error" in row] == ["time is over"] * 2
    assert rows[-1] == {"step": "sweep", "row": "all", "skipped": "no time is left"}
    assert started[1] == ("peers", [], 50.0)


def test_steps_are_chosen_and_ordered():
    def names(*arguments):
        return [step.name for step in gpu.chosen(gpu.parse(list(arguments)))]

    everything = names()
    assert (
        everything.index("machine") < everything.index("tests") < everything.index("equal") < everything.index("goals")
    )
    assert "warm" not in everything
    assert names("--warm", "16")[1] == "warm"
    assert {*names("--check"), *names("--goals"), *names("--peers")} == {*everything}
    assert names("--peers") == ["machine", "peers"]


def test_all_steps_fit_into_nine_minutes():
    """By the budget, whatever their own bounds are; and what matters most comes before it can be over."""
    assert gpu.parse([]).budget <= 540
    first = [
        step
        for step in gpu.chosen(gpu.parse(["--warm", "16"]))
        if step.name in ("machine", "warm", "tests", "equal", "goals")
    ]
    assert sum(step.seconds for step in first) <= gpu.parse([]).budget


# --- processes ----------------------------------------------------------------------------------------
_CHILD = """
import json, os, sys, time
for row in json.loads(sys.argv[1]):
    if row == "crash": os.abort()
    if row == "hang": time.sleep(60)
    if row == "noise": print("a warning", file=sys.stderr, flush=True)
    else: print(json.dumps(row), flush=True)
"""


def child(*rows):
    return gpu.Child([sys.executable, "-c", _CHILD, json.dumps(rows)])


def test_a_process_prints_its_rows_and_why_it_ended():
    found = child({"begun": "a"}, "noise", "crash")
    assert found.next(30) == {"begun": "a"}
    assert found.next(30) is None
    assert found.failure() == "exit code -6 / a warning"
    found.kill()
    well = child()
    assert well.failure() is None
    well.kill()


def test_a_process_that_hangs_is_killed():
    found = child({"begun": "a"}, "hang")
    found.next(30)
    with pytest.raises(TimeoutError):
        found.next(0.1)
    found.kill()
    assert found.failure() == "exit code -9"


# --- the file ---------------------------------------------------------------------------------------------
def test_each_row_is_on_disk_before_the_next(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    write = gpu.writer(file)
    write({"step": "goals", "row": "a", "ms": 1.5})
    assert gpu.read(file) == [{"step": "goals", "row": "a", "ms": 1.5}]
    write({"step": "goals", "row": "b", "error": "broken"})
    assert [row["row"] for row in gpu.read(file)] == ["a", "b"]
    assert "ms 1.5" in capsys.readouterr().out


def test_a_row_that_a_kill_cut_off_spoils_no_other(tmp_path):
    file = tmp_path / "gpu.json"
    gpu.writer(file)({"step": "goals", "row": "a"})
    with file.open("a") as out:
        out.write('{"step": "goals", "row": "b", "m')
    assert [row["row"] for row in gpu.read(file)] == ["a"]
    gpu.writer(file)({"step": "goals", "row": "c"})
    assert [row["row"] for row in gpu.read(file)] == ["a", "c"]


def test_a_run_that_is_killed_keeps_its_rows(tmp_path):
    file = tmp_path / "gpu.json"
    code = f"""
import sys, time
sys.path[:0] = [{str(FOLDER)!r}]
import gpu
write = gpu.writer(gpu.Path({str(file)!r}))
for n in range(1000):
    write({{"step": "goals", "row": str(n)}})
    time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    while len(gpu.read(file)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert [row["row"] for row in gpu.read(file)] == [str(n) for n in range(len(gpu.read(file)))]


# --- serving ----------------------------------------------------------------------------------------------
def test_errors_of_a_row_are_rows(tmp_path):
    def refuse():
        raise gpu.ShiftsearchError("too small")

    def broken():
        raise RuntimeError("illegal address")

    rows = [("a", lambda: {"ms": 1.0}), ("b", refuse), ("c", broken), ("d", lambda: {"ms": 4.0})]
    said = []
    served = Step("goals", "goals", 1, 1, lambda bench: iter(rows))
    assert gpu.serve(served, None, set(), said.append) == gpu.AGAIN
    assert said[1]["ms"] == 1
    assert said[3]["error"] == "too small"
    assert said[5]["error"] == "RuntimeError: illegal address"
    said.clear()
    assert gpu.serve(served, None, {"a", "b", "c"}, said.append) == 0
    assert [row.get("row", row.get("begun")) for row in said] == ["d", "d"]


_WITHOUT_GPU = f"""
import sys
sys.path[:0] = {[str(FOLDER), str(Path(__file__).parent)]!r}
import gpu, gpu_device, test_gpu_steps
from shiftsearch import definition
from shiftsearch.backends import cuda
cuda.load = lambda: definition
gpu_device.Device = test_gpu_steps.StandIn
print("what a library prints is no row")
sys.exit(gpu.main(sys.argv[1:]))
"""


@pytest.mark.full
def test_steps_run_in_processes_of_their_own(tmp_path):
    """As on a GPU, but for the device: from the command to the file."""
    file = tmp_path / "gpu.json"

    def start(step, done, left):
        own = ["--json", str(file), "--step", step.name, "--left", "60", "--done", *done]
        return gpu.Child([sys.executable, "-W", "ignore", "-c", _WITHOUT_GPU, *own])

    steps = [step for step in gpu.STEPS if step.name in ("machine", "goals")]
    gpu.run(steps, start, gpu.writer(file), 100)
    rows = gpu.read(file)
    assert [row["row"] for row in rows[:2]] == ["machine", "ceilings"]
    assert [row["row"] for row in rows[2:]] == [goal.name for goal in GOALS]
    assert rows[2]["ms"] == 2


# --- the command ----------------------------------------------------------------------------------------------
def test_help_names_the_options():
    done = subprocess.run([sys.executable, str(FOLDER / "gpu.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--budget", "--check", "--goals", "--peers", "--json", "--warm"))
    assert "--step" not in done.stdout


def test_without_a_gpu_it_prints_one_line(tmp_path):
    file = tmp_path / "gpu.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--check", "--budget", "60", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert done.returncode == gpu.NO_GPU
    assert done.stderr.startswith("nothing is measured without a GPU: ")
    assert done.stderr.count("\n") == 1
    assert not file.exists()
