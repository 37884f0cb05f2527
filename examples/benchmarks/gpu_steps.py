"""The steps of gpu.py in their order, each a list of rows: a name, and a function that measures it."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import gpu_ops
import gpu_peers
import gpu_warm
import host
import numpy as np
from gpu_cases import Case, align, floors, nbytes, prepare
from gpu_goals import GOALS, HD, Goal

from shiftsearch import doctor

Row = dict[str, Any]
Rows = Iterator[tuple[str, Callable[[], Row]]]
H100 = {  # where a device was not asked
    "bytes a second": 3.0e12,
    "float32 instructions a second": 2.97e13,
    "half operations a second": 8.0e14,
}


@dataclass(frozen=True)
class Bench:
    """What a step measures on and with."""

    device: Any
    ceilings: dict[str, float]
    folder: Path  # for logs
    processes: int = 16  # that compile and test at a time
    limit: float = 100  # seconds for what a row starts


@dataclass(frozen=True)
class Step:
    name: str
    groups: str  # options of gpu.py that ask for it
    seconds: float  # at most for all of it
    each: float  # and for a row: what takes longer is ended, and the next row begins in a new process
    rows: Callable[[Bench], Rows]


# --- machine and tests ----------------------------------------------------------------------------
def machine(bench: Bench) -> Rows:
    yield "machine", bench.device.about
    yield "ceilings", bench.device.ceilings


def warm(bench: Bench) -> Rows:
    cases = {"cases of the goals": _all_cases(), "cases of the tests": None}
    for name, asked in cases.items():
        yield name, partial(gpu_warm.compile_all, asked, bench.processes)


def _all_cases() -> list[Case]:
    compared = [case for _, case in equal_cases()]
    swept = [case for _, _, case in swept_cases()]
    return [*(goal.case for goal in GOALS), *compared, *swept]


def tests(bench: Bench) -> Rows:
    yield "doctor", partial(_doctor, bench)
    yield "pytest --full -m gpu", partial(_pytest, bench)


def _doctor(bench: Bench) -> Row:
    with (bench.folder / "gpu_doctor.log").open("w") as log:
        return {"passed": int(doctor.examine(log)), "log": log.name}


_GPU = re.compile(r"\b(RUNS|on_each_backend|mark\.gpu)\b")  # what a file has whose tests run on one


def _pytest(bench: Bench) -> Row:
    """Run the tests that need a GPU; what has passed and failed counts, also if time ends."""
    root = Path(__file__).parents[2]
    files = [str(file) for file in sorted((root / "tests").glob("test_*.py")) if _GPU.search(file.read_text())]
    log = bench.folder / "gpu_tests.log"
    command = [sys.executable, "-m", "pytest", "--full", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-n", str(bench.processes), "--dist", "loadgroup", "-o", "filterwarnings=default"]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    ended = "complete"
    with log.open("w") as out:
        try:
            subprocess.run([*command, *files], stdout=out, stderr=out, cwd=root, env=here, timeout=bench.limit)
        except subprocess.TimeoutExpired:
            ended = f"stopped after {bench.limit:.0f} s"
    return {**outcomes(log.read_text(errors="replace")), "ended": ended, "log": str(log)}


def outcomes(log: str) -> Row:
    """Return how many tests passed and failed, by what pytest -v says of each, and the first that failed."""
    said = [line.split() for line in log.splitlines() if line.startswith("[gw")]
    found = {word: [words[-1] for words in said if word in words] for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    return {
        "passed": len(found["PASSED"]),
        "failed": len(found["FAILED"]),
        "errors": len(found["ERROR"]),
        "skipped tests": len(found["SKIPPED"]),
        "first failures": [*found["FAILED"], *found["ERROR"]][:20],
    }


# --- fast and direct form -------------------------------------------------------------------------
_PATCHES, _FLOWS, _SMALL = (1, 3, 7), ("zero", "smooth", "random", "wild"), ((3, 67, 45), (4, 33, 130))
_DTYPES = (("float32", "l2"), ("float16", "dot"), ("bfloat16", "l2"))


def equal_cases() -> list[tuple[str, Case]]:
    """Return small cases of no whole number of tiles in every dtype, then large ones in single precision."""
    found = []
    for T, H, W in (*_SMALL, (5, 256, 256)):
        at = Case(frames=T, height=H, width=W)
        for dtype, metric in _DTYPES if H < 256 else _DTYPES[:1]:
            here = replace(at, dtype=dtype)
            for flow, patch in product(_FLOWS, _PATCHES):
                found.append(replace(here, options={"patch": patch, "metric": metric}, flow=flow))
    return [(_name(case), case) for case in found]


def _name(case: Case) -> str:
    options = " ".join(f"{name}={value}" for name, value in case.options.items())
    return f"{case.op} {options} {case.dtype} {case.flow} {case.frames}x{case.height}x{case.width}"


def equal(bench: Bench) -> Rows:
    for name, case in equal_cases():
        yield name, partial(_compare, bench, case.resized(bench.device.size))


def _compare(bench: Bench, case: Case) -> Row:
    fast = prepare(bench.device.backend, case)
    direct = replace(fast, backend=bench.device.direct())
    differ = _differing(fast.forward(), direct.forward())
    return {"equal": not differ, **({"differ": differ} if differ else {})}


def _differing(found: Row, wanted: Row) -> list[str]:
    """Return the names of the arrays that differ in a bit."""
    return [name for name, array in found.items() if not _same_bits(array, wanted[name])]


def _same_bits(a: Any, b: Any) -> bool:
    """Of results, which are contiguous."""
    return a.dtype == b.dtype and bool((a.reshape(-1).view(np.uint8) == b.reshape(-1).view(np.uint8)).all())


# --- time and memory ------------------------------------------------------------------------------
def timed(bench: Bench, case: Case, run: Callable[[], Any], moved: int, ways: str = "forward") -> Row:
    """Return the median of a run with the middle half of its times, and which share of it each floor is."""
    times = bench.device.times(run)
    ms = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (ms, ms, ms)
    shares = {f"share of {floor}": least / ms for floor, least in floors(case, moved, bench.ceilings, ways).items()}
    return {"ms": ms, "from": low, "to": high, "runs": len(times), **shares}


def forward(bench: Bench, case: Case) -> Row:
    call = prepare(bench.device.backend, case)
    given, made = nbytes(call.inputs), nbytes(call.forward())
    taken = bench.device.peak(call.forward)
    row = timed(bench, case, call.forward, given + made)
    return {**row, "value": row["ms"], "memory": (given + taken) / (given + made), "MB": (given + taken) / 1e6}


def both_ways(bench: Bench, case: Case) -> Row:
    call = prepare(bench.device.backend, case)

    def run() -> Row:
        outputs = call.forward()
        return call.backward(outputs, call.ones(outputs), call.differentiable())

    moved = 2 * nbytes(call.inputs) + 2 * nbytes(call.forward())
    row = timed(bench, case, run, moved, "both ways")
    return {**row, "value": row["ms"]}


def backward_over_forward(bench: Bench, case: Case) -> Row:
    call = prepare(bench.device.backend, case)
    outputs = call.forward()
    grads, names = call.ones(outputs), call.differentiable()
    moved = nbytes(call.inputs, outputs)
    ahead = timed(bench, case, call.forward, moved)["ms"]
    row = timed(
        bench,
        case,
        lambda: call.backward(outputs, grads, names),
        moved + nbytes(call.inputs) - nbytes(outputs),
        "backward",
    )
    return {**row, "forward ms": ahead, "value": row["ms"] / ahead}


def memory(bench: Bench, case: Case) -> Row:
    row = forward(bench, case)
    return {**row, "value": row["memory"]}


def twice_the_pixels(bench: Bench, case: Case) -> Row:
    once, twice = (forward(bench, replace(case, height=n * case.height)) for n in (1, 2))
    return {**twice, "ms of half": once["ms"], "value": twice["ms"] / once["ms"]}


def aligned(bench: Bench, case: Case) -> Row:
    times = bench.device.times(align(bench.device.xp, case), 5)
    return {"ms": statistics.median(times), "runs": len(times), "value": statistics.median(times) / 1e3}


MEASURES = {
    "forward": forward,
    "both ways": both_ways,
    "backward over forward": backward_over_forward,
    "memory": memory,
    "twice the pixels": twice_the_pixels,
    "align": aligned,
}


def _reach(bench: Bench, goal: Goal) -> Row:
    row = MEASURES[goal.measure](bench, goal.case.resized(bench.device.size))
    return {**row, "unit": goal.unit, "must": goal.must, "stretch": goal.stretch, "over": row["value"] / goal.must}


def goals(bench: Bench) -> Rows:
    for goal in GOALS:
        yield goal.name, partial(_reach, bench, goal)


def full_hd(bench: Bench) -> Rows:
    yield HD.name, partial(_reach, bench, HD)


# --- beside others, and against sizes --------------------------------------------------------------
def peers(bench: Bench) -> Rows:
    yield from gpu_ops.rows(bench.device)
    yield from gpu_peers.rows(bench.device)


def swept_cases() -> list[tuple[str, int, Case]]:
    """Return what is drawn: along which axis, where on it, and the case."""
    of = partial(Case, flow="smooth")
    found = [("window", n, of(options={"patch": 7, "window": n})) for n in (3, 5, 9, 13, 17, 25)]
    found += [("patch", n, of(options={"patch": n})) for n in (1, 3, 5, 7, 11, 15)]
    found += [("channels", n, of(options={"patch": 7}, channels=n)) for n in (4, 8, 16, 32, 64)]
    return found + [("pixels", n * n, of(options={"patch": 7}, height=n, width=n)) for n in (64, 128, 256, 512)]


def sweep(bench: Bench) -> Rows:
    for axis, at, case in swept_cases():
        yield f"{axis} {at}", partial(_swept, bench, axis, at, case.resized(bench.device.size))


def _swept(bench: Bench, axis: str, at: int, case: Case) -> Row:
    return {**forward(bench, case), "axis": axis, "at": at}


# --- host and graphs ------------------------------------------------------------------------------
def captured(bench: Bench) -> Rows:
    for op, options in (
        ("search", {"patch": 7}),
        ("score", {"patch": 7}),
        ("aggregate", {"patch": 7}),
        ("scatter", {}),
    ):
        for ways in ("forward", "backward"):
            yield (
                f"{op} {ways}",
                partial(_captured, bench, Case(op=op, options=options).resized(bench.device.size), ways),
            )


def _captured(bench: Bench, case: Case, ways: str) -> Row:
    """Replay a graph on other inputs than it was captured with, and compare."""
    call = prepare(bench.device.backend, case)
    outputs = call.forward()
    grads = call.ones(outputs)

    def run() -> Row:
        return call.forward() if ways == "forward" else call.backward(outputs, grads, call.differentiable())

    results, replay = bench.device.capture(run)
    for name in call.inputs:
        if name not in ("flow", "offsets"):
            call.inputs[name] += 1
    replay()
    return {"equal": not _differing(results, run())}


def host_time(bench: Bench) -> Rows:
    yield "microseconds of Python alone", lambda: dict(host.measure())
    yield "microseconds with CuPy", partial(_host_time, bench.device.xp.asarray)


def _host_time(array: Callable[[Any], Any]) -> Row:
    return {name: host.microseconds(call) for name, call in host.calls(array).items()}


STEPS = (
    Step("machine", "check goals peers", 40, 25, machine),
    Step("warm", "warm", 130, 120, warm),
    Step("tests", "check", 150, 130, tests),
    Step("equal", "check", 60, 20, equal),
    Step("goals", "goals", 80, 20, goals),
    Step("peers", "peers", 70, 30, peers),
    Step("sweep", "goals", 50, 15, sweep),
    Step("host", "goals", 40, 30, host_time),
    Step("captured", "check", 30, 15, captured),
    Step("full hd", "goals", 40, 35, full_hd),
)
