"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from shiftsearch.batch.schedule import Outcome, Task, attempt

_GRACE = 10.0  # seconds to end in


class Processes:
    """A pool of processes. One that dies is replaced."""

    def __init__(self, environments: Sequence[dict[str, str]]):
        """Have a process for each of these, with these variables in its environment. It starts when it has a task."""
        self._waiting = list(environments)
        self._idle: list[_Process] = []
        self._busy: dict[Connection, tuple[Task, _Process]] = {}

    @property
    def idle(self) -> int:
        """How many workers have no task."""
        return len(self._idle) + len(self._waiting)

    def start(self, task: Task) -> None:
        """Give a task to an idle worker."""
        with _undisturbed():
            process = self._idle.pop() if self._idle else _Process(self._waiting.pop(0))
            process.send(task)
            self._busy[process.connection] = task, process

    def ended(self) -> list[tuple[Task, Outcome]]:
        """Wait until there are outcomes, and return them."""
        found = []
        ready: list[Any] = wait(list(self._busy))
        for task, process in map(self._busy.pop, ready):
            outcome = process.outcome()
            if outcome is None:
                outcome = Outcome(error=process.died())
                self._waiting.append(process.environment)
            else:
                self._idle.append(process)
            found.append((task, outcome))
        return found

    def close(self) -> None:
        """End the workers, whatever they do."""
        busy = [process for _, process in self._busy.values()]
        for process in busy:
            process.interrupt()
        for process in [*busy, *self._idle]:
            process.connection.close()  # a process without a task ends by itself
        for process in [*busy, *self._idle]:
            process.end()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait until a process is started and known: half of one would complain, and nothing would end it."""
    usual, came = signal.getsignal(signal.SIGINT), []
    if not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *about: came.append(about))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        usual(*came[0])


class _Process:
    def __init__(self, environment: dict[str, str]):
        context = multiprocessing.get_context("spawn")  # threads and locks of this process are not copied
        self.environment = environment
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, environment), daemon=True)
        self._process.start()
        other.close()  # else its end would not be seen here

    def send(self, task: Task) -> None:
        """Begin a task. If the process is dead, `outcome` will tell."""
        with suppress(OSError):
            self.connection.send((task.function, task.arguments))

    def outcome(self) -> Outcome | None:
        """Return what came of the task, or None if the process has died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def died(self) -> str:
        """Return how the process has died."""
        self.connection.close()
        self.end()
        code = self._process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        return f"a worker died of {how}, perhaps for lack of memory"

    def interrupt(self) -> None:
        """Let the process leave its task."""
        self._process.terminate()

    def end(self) -> None:
        """Wait until the process has ended, and end it the hard way if it does not."""
        self._process.join(_GRACE)
        self._process.kill()
        self._process.join()


def _work(connection: Connection, environment: dict[str, str]) -> None:
    """Run tasks until the other process wants no more or is gone."""
    os.environ.update(environment)  # before libraries are imported that read it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which ends this one
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            connection.send(attempt(*connection.recv()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already


def _end_with(parent: Any) -> None:
    """End this process at once when its parent is gone: what is computed would be computed again."""
    wait([parent.sentinel])
    os._exit(1)
