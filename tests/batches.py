"""What the tests of `shiftsearch batch` share: a pool without processes, tasks for workers, and looks at what runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from clips import make, streams

import shiftsearch
from shiftsearch.__main__ import main
from shiftsearch.batch import command
from shiftsearch.batch.schedule import attempt

HOME = Path(shiftsearch.__file__).parent.parent


class Here:
    """A pool of one worker, which is this process. It keeps the names of its tasks."""

    def __init__(self):
        self.ran, self.idle, self.closed = [], 1, False

    def start(self, task):
        self.idle, self._task = 0, task
        self.ran.append(task.function.__name__)

    def ended(self):
        self.idle = 1
        return [(self._task, attempt(self._task.function, self._task.arguments))]

    def close(self):
        self.closed = True


def here(monkeypatch, *arguments, device="cpu") -> tuple[int, list[str]]:
    """Run the command in this process; return its exit code and the names of its tasks."""
    pool = Here()
    monkeypatch.setattr(command, "_workers", lambda args: (pool, device))
    return main(["batch", *map(str, arguments)]), pool.ran


def alone(source, target, *arguments) -> Path:
    """Run the ordinary command, and return its output."""
    work, *options = map(str, arguments)
    target.parent.mkdir(exist_ok=True, parents=True)
    assert main([work, str(source), "-o", str(target), "--quiet", *options]) == 0
    return target


def assert_same(found, expected) -> None:
    """Check that all packets of two files are the same, bit for bit, and shown at the same times."""
    assert streams(found) == streams(expected)


def driven(*arguments, **environment) -> subprocess.Popen:
    """Start the command as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "shiftsearch", "batch", *map(str, arguments)],
        env={"PYTHONWARNINGS": "error", **os.environ, "PYTHONPATH": str(HOME), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear if os.name == "posix" else None,
    )


def _hear() -> None:
    """Let Ctrl-C end a process: where tests run, it may be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def done(*arguments, **environment) -> subprocess.CompletedProcess:
    """Run the command as a user does."""
    process = driven(*arguments, **environment)
    out, error = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def films(folder, **lengths) -> Path:
    """Make small videos of so many frames, with sound."""
    folder.mkdir(exist_ok=True)
    for name, frames in lengths.items():
        make(folder / f"{name}.mp4", frames=frames, size=(64, 48))
    return folder


def writing(folder, but=()) -> int:
    """Wait until a process, other than these, has a file open in this folder, and return its number."""
    for _ in range(3000):
        for process in Path("/proc").glob("[0-9]*"):
            try:
                names = [os.readlink(file) for file in (process / "fd").iterdir()]
            except OSError:  # it is gone, or another user's
                continue
            if any(name.startswith(f"{folder}/") for name in names) and int(process.name) not in but:
                return int(process.name)
        time.sleep(0.02)
    raise AssertionError(f"nothing is written to {folder}")


def wait_for(happened) -> None:
    """Wait until a function returns something true."""
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it does not happen")


def children(process) -> list[int]:
    """Return the numbers of the processes that a process has started."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for file in files for number in file.read_text().split()]


def runs(process) -> bool:
    """Return whether a process runs, and does not only wait to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- tasks for workers ------------------------------------------------------------------------------
def who(seconds=0.0) -> tuple[int, dict[str, str]]:
    """Return the number of the worker, and what its environment limits it to."""
    time.sleep(seconds)
    names = ("SHIFTSEARCH_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "CUDA_VISIBLE_DEVICES")
    return os.getpid(), {name: os.environ[name] for name in names if name in os.environ}


def die(marks, times) -> int:
    """Kill the worker the first so many times; then return how often it was tried."""
    tried = len(list(Path(marks).iterdir())) + 1
    Path(marks, str(tried)).touch()
    if tried <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tried


def fail(marks, times, kind) -> int:
    """Raise an error the first so many times; then return how often it was tried."""
    tried = len(list(Path(marks).iterdir())) + 1
    Path(marks, str(tried)).touch()
    if tried <= times:
        raise kind("no luck")
    return tried
