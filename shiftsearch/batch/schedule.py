"""Tasks on workers, the most urgent first. What the tasks do is not known here."""

from __future__ import annotations

import heapq
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

from shiftsearch.errors import ShiftsearchError

_TRIES = 3  # a task that fails as often, or kills as many workers, has failed


@dataclass(frozen=True)
class Task:
    """A call, of a function that may run twice.

    Attributes:
        urgency: tasks of a smaller one go first
        function: one that a process finds by its module and name
        arguments: those of the function
        about: what the caller wants to have back with the outcome
        tries: how often it has failed
    """

    urgency: tuple[int, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    about: Any = None
    tries: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a task: the result of the function, or an error, which is `final` if it would only come again.

    `trace` says where an unexpected error came from.
    """

    result: Any = None
    error: str | None = None
    final: bool = False
    trace: str = ""


class Pool(Protocol):
    """Workers that run one task each."""

    @property
    def idle(self) -> int:
        """How many workers have no task."""

    def start(self, task: Task) -> None:
        """Give a task to an idle worker."""

    def ended(self) -> list[tuple[Task, Outcome]]:
        """Wait until there are outcomes, or more idle workers, and return those outcomes."""

    def close(self) -> None:
        """End the workers, whatever they do."""


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Return what comes of a call."""
    try:
        return Outcome(function(*arguments))
    except ShiftsearchError as error:
        return Outcome(error=str(error), final=True)
    except OSError as error:  # of storage, which says all in its message
        return Outcome(error=str(error))
    except Exception as error:  # one video that fails must not harm the others
        return Outcome(error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def run(pool: Pool, tasks: Iterable[Task], then: Callable[[Task, Outcome], Iterable[Task]]) -> None:
    """Run tasks and those that follow from their outcomes, until there are none."""
    numbers = count()
    waiting = [(task.urgency, next(numbers), task) for task in tasks]
    heapq.heapify(waiting)
    running = 0
    while waiting or running:
        while waiting and pool.idle:
            pool.start(heapq.heappop(waiting)[2])
            running += 1
        for task, outcome in pool.ended():
            running -= 1
            again = outcome.error is not None and not outcome.final and task.tries + 1 < _TRIES
            for new in [replace(task, tries=task.tries + 1)] if again else then(task, outcome):
                heapq.heappush(waiting, (new.urgency, next(numbers), new))
