"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import logging
import os
from typing import Any

from shiftsearch.batch.schedule import Outcome, Task, attempt
from shiftsearch.errors import ShiftsearchError

_GRACE = 10.0  # seconds to end in
_MOST_LOST = 5


class Cluster:
    """A pool of actors, each with its own CPUs, or its own GPU. One that dies is started again where there is room."""

    def __init__(self, address: str):
        """Connect to the cluster at this address; "local" is one of this machine and this run."""
        try:
            import ray
        except ImportError as error:
            raise ShiftsearchError(f'Ray is missing: pip install "shiftsearch[distributed]" ({error})') from None
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ShiftsearchError(f"no Ray cluster is found at {address!r}: {error}") from None
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Task | None, Any]] = {}
        self._lost = 0  # actors that died before they had a task, one after another

    def room(self, cpus: int, gpus: int) -> int:
        """Return how many workers with so many CPUs and GPUs the cluster has room for."""
        there = self._ray.cluster_resources()
        wanted = {"CPU": cpus, "GPU": gpus}
        return int(min(there.get(name, 0) / number for name, number in wanted.items() if number))

    def grow(self, count: int, cpus: int, gpus: int, environment: dict[str, str]) -> None:
        """Start so many actors, each with these variables in its environment."""
        kind = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1)(_Actor)
        for _ in range(count):
            self._ask_if_there(kind.remote(environment))

    @property
    def idle(self) -> int:
        """How many actors run and have no task."""
        return len(self._idle)

    def start(self, task: Task) -> None:
        """Give a task to an idle actor."""
        actor = self._idle.pop()
        self._busy[actor.run.remote(task.function, task.arguments)] = task, actor

    def ended(self) -> list[tuple[Task, Outcome]]:
        """Wait until there are outcomes, or more idle actors, and return those outcomes."""
        found = []
        for answer in self._ray.wait(list(self._busy))[0]:
            task, actor = self._busy.pop(answer)
            try:
                outcome = self._ray.get(answer)
                self._idle.append(actor)
                self._lost = 0
            except self._ray.exceptions.RayError as error:
                outcome = Outcome(error=f"a worker died: {' '.join(str(error).split())}")
                self._count_lost(task, outcome)
                self._ask_if_there(actor)
            if task is not None:
                found.append((task, outcome))
        return found

    def close(self) -> None:
        """End the actors, whatever they do."""
        self._ray.wait([actor.__ray_terminate__.remote() for actor in self._idle] or [self._ray.put(0)], timeout=_GRACE)
        self._ray.shutdown()

    def _count_lost(self, task: Task | None, outcome: Outcome) -> None:
        self._lost = 0 if task is not None else self._lost + 1
        if self._lost > _MOST_LOST:
            raise ShiftsearchError(f"workers of Ray do not start, is shiftsearch installed there? {outcome.error}")

    def _ask_if_there(self, actor: Any) -> None:
        """Take an actor for busy until it runs: the cluster may have no room for it now, or it starts again."""
        self._busy[actor.run.options(max_task_retries=-1).remote(_nothing, ())] = None, actor


class _Actor:
    def __init__(self, environment: dict[str, str]):
        os.environ.update(environment)  # before libraries are imported that read it

    def run(self, function: Any, arguments: tuple[Any, ...]) -> Outcome:
        return attempt(function, arguments)


def _nothing() -> None:
    """Do nothing."""
