"""Measure the CUDA kernels on a GPU: whether they are right, how fast they are, beside what and how near to what is possible.

PYTHONPATH=. python examples/benchmarks/gpu.py [--check] [--goals] [--peers] [--warm N] [--budget SECONDS] [--json FILE]

Without --check, --goals and --peers it does all three. It is made to be run where nobody can look twice: the steps come in
the order of what matters, each with a bound of its own and all within the budget. Each step runs in a process of its own,
so that a kernel that hangs or breaks the device costs its row and nothing else. FILE gets a line of JSON after each row.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_steps import H100, STEPS, Bench, Step

from shiftsearch import ShiftsearchError
from shiftsearch.backends import cuda

NO_GPU = 2  # exit codes
AGAIN = 3  # of a process whose device may be broken: what is left is for a new one
_TO_END = 10  # seconds for a process to end
Row = dict[str, Any]


# --- in a process of its own: a step ----------------------------------------------------------------
def serve(step: Step, bench: Bench, done: set[str], say: Callable[[Row], None]) -> int:
    """Measure the rows that are not done, and say each before it begins and when it is there."""
    for name, measure in step.rows(bench):
        if name in done:
            continue
        say({"begun": name})
        start = time.monotonic()
        try:
            found, code = measure(), 0
        except ShiftsearchError as error:
            found, code = {"error": str(error)}, 0
        except Exception as error:  # of the device, of a compiler, of another library
            found, code = {"error": f"{type(error).__name__}: {error}"[:1000]}, AGAIN
        say({"row": name, **found, "seconds": round(time.monotonic() - start, 2)})
        if code:
            return code
    return 0


def _serve(given: argparse.Namespace) -> int:
    from gpu_device import Device

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not read as rows

    def say(row: Row) -> None:
        out.write(json.dumps(row, default=float) + "\n")
        out.flush()

    step = next(step for step in STEPS if step.name == given.step)
    ceilings = {**H100, **next((row for row in read(given.json) if row.get("row") == "ceilings"), {})}
    folder = given.json.parent if given.json else Path(tempfile.gettempdir())
    bench = Bench(Device(cuda.load()), ceilings, folder, given.warm or os.cpu_count() or 1, given.left)
    return serve(step, bench, set(given.done), say)


# --- the process that watches ---------------------------------------------------------------------
class Child:
    """A process that says rows, a line of JSON each."""

    def __init__(self, command: list[str]):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, **pipes, text=True, errors="replace", start_new_session=True)
        self._rows: queue.Queue[Row | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=3)  # last of what was no row
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_rows, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_rows(self) -> None:
        with self._process.stdout as out:
            for line in out:
                try:
                    self._rows.put(json.loads(line))
                except json.JSONDecodeError:  # by a library when it was imported, or cut off by a kill
                    self._said.append(line.strip())
        self._rows.put(None)

    def _read_errors(self) -> None:
        with self._process.stderr as out:
            self._said.extend(line.strip() for line in out)

    def next(self, seconds: float) -> Row | None:
        """Return what it says next, or None when it has ended. Raises TimeoutError."""
        try:
            return self._rows.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError from None

    def failure(self) -> str | None:
        """Return why it ended, unless all went well."""
        try:
            code = self._process.wait(_TO_END)
        except subprocess.TimeoutExpired:
            return "it does not end"
        self._readers[-1].join(1)  # what it started may still hold its pipe
        return None if code == 0 else " / ".join([f"exit code {code}", *self._said])

    def kill(self) -> None:
        """End it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a driver may hold it: that must not hold up the others
            self._process.wait(_TO_END)
        for reader in self._readers:
            reader.join(1)


def watch(step: Step, start: Callable, write: Callable[[Row], None], seconds: float, now=time.monotonic) -> None:
    """Run a step in as many processes as it breaks, until all of its rows are there or its time is over."""
    done: list[str] = []
    end = now() + min(step.seconds, seconds)
    while True:
        before, begun = len(done), None
        child = start(step, done, end - now())
        try:
            while (row := child.next(min(step.each, end - now()))) is not None:
                if "begun" in row:
                    begun = row["begun"]
                    done.append(begun)
                else:
                    begun = None
                    write({"step": step.name, **row})
            failure = child.failure()
        except TimeoutError:
            failure = f"no answer within {step.each:g} s" if now() < end else "time is over"
        finally:
            child.kill()
        if failure is None:
            return
        if begun is not None or now() >= end or before == len(done):
            write({"step": step.name, "row": begun or "the rest", "error": failure})
        if now() >= end or before == len(done):  # it would break at the same place
            return


def run(steps: list[Step], start: Callable, write: Callable[[Row], None], budget: float, now=time.monotonic) -> None:
    """Run the steps in their order while there is time."""
    end = now() + budget
    for step in steps:
        if now() >= end:
            write({"step": step.name, "row": "all", "skipped": "no time is left"})
        else:
            watch(step, start, write, end - now(), now)


def chosen(given: argparse.Namespace) -> list[Step]:
    asked = {group for group in ("check", "goals", "peers") if getattr(given, group)} or {"check", "goals", "peers"}
    return [step for step in STEPS if (given.warm if step.groups == "warm" else asked & set(step.groups.split()))]


# --- rows -----------------------------------------------------------------------------------------
def read(file: Path | None) -> list[Row]:
    """Return the rows of a file, without one that was cut off when its run was killed."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
    return list(_whole(lines))


def _whole(lines: list[str]) -> Iterator[Row]:
    for line in lines:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def writer(file: Path | None) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        print(line(row), flush=True)
        if file is not None:
            with file.open("a", encoding="utf-8") as out:
                out.write("\n" * cut_off(file) + json.dumps(row) + "\n")
                out.flush()
                os.fsync(out.fileno())

    return write


def cut_off(file: Path) -> bool:
    """Return whether the last line of a file has no end."""
    return file.stat().st_size > 0 and file.read_bytes()[-1:] != b"\n"


def line(row: Row) -> str:
    """Return a row as people read it."""
    cells = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()]
    return f"{row['step']:9} {row['row']:40} {', '.join(cells[2:])}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="tests, fast against direct forms, CUDA graphs")
    parser.add_argument("--goals", action="store_true", help="times and memory, beside the goals")
    parser.add_argument("--peers", action="store_true", help="the same work by others")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="first compile everything, in N processes")
    parser.add_argument("--budget", type=float, default=520, metavar="SECONDS", help="for all of it; 520")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add a line of JSON for each row")
    for hidden, kind in (("step", str), ("left", float)):
        parser.add_argument(f"--{hidden}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--done", nargs="*", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    if given.step:
        return _serve(given)
    try:
        cuda.load()
    except ShiftsearchError as error:
        print(f"nothing is measured without a GPU: {error}", file=sys.stderr)
        return NO_GPU
    passed = ["--warm", str(given.warm), *(["--json", str(given.json)] if given.json else [])]

    def start(step: Step, done: list[str], left: float) -> Child:
        own = ["--step", step.name, "--left", str(max(1, min(left, step.each) - 5)), "--done", *done]
        return Child([sys.executable, __file__, *passed, *own])

    run(chosen(given), start, writer(given.json), given.budget)
    return 0


if __name__ == "__main__":
    sys.exit(main())
