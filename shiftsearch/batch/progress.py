"""What is to be done for each job after what is done, and what the user is told of it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from shiftsearch.batch import storage
from shiftsearch.batch.jobs import Job, Part, State
from shiftsearch.batch.schedule import Outcome, Task
from shiftsearch.batch.steps import compute, join, plan
from shiftsearch.video.cli.report import Noise, shown


class _Step(NamedTuple):
    job: Job
    state: State | None = None  # once it is planned
    part: Part | None = None  # to compute


class Progress:
    """The jobs of a run. As a context it shows a progress bar, if there is a terminal."""

    def __init__(self, quiet: bool, verbose: bool):
        self._quiet, self._verbose = quiet, verbose
        self._bar: Any = shown((), 0, quiet)
        self._missing: dict[str, int] = {}  # parts, by output
        self._noise: dict[str, Noise] = {}  # that this run has found, by output
        self._there = self._written = 0
        self._broken: list[str] = []  # lines
        self._failed: dict[str, str] = {}  # errors, by output

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def note(self, job: Job, found: State | str | None) -> bool:
        """Note what `look` found of a job; return whether there is something to do."""
        if isinstance(found, State):
            self._there += 1
            self._note_broken(found)
        elif found is not None:
            self._fail(job, found)
        return found is None

    def first(self, job: Job) -> list[Task]:
        """Return the tasks of a job to begin with."""
        state = State.of(job)
        if state is None or not state.planned(job):
            return [Task((2,), plan, (job,), _Step(job))]
        names = storage.stamps(job.folder)
        return self._planned(
            job, state, [part for part in state.parts if job.part(part).rpartition("/")[2] not in names]
        )

    def then(self, task: Task, outcome: Outcome) -> list[Task]:
        """Return what follows from the outcome of a task."""
        job, state, part = task.about
        if outcome.error is not None:
            self._tell(outcome.trace)
            self._fail(job, outcome.error if outcome.final else f"{job.source}: {outcome.error}")
            return []
        if part is not None:
            self._tell(f"computed: {job.source}, frames {part[0]}:{part[1]}")
            self._noise[job.output].join(outcome.result)
            self._bar.update(part[1] - part[0])
            self._missing[job.output] -= 1
            return self._joins(job, state)
        if state is None:
            self._tell(f"planned: {job.source}, parts: {len(outcome.result.parts)}")
            return self._planned(job, outcome.result, outcome.result.parts)
        self._finish(job, outcome.result)
        return []

    def report(self) -> int:
        """Tell what is missing, and how many videos there are; return the exit code."""
        for line in [*self._broken, *(f"shiftsearch batch: {error}" for error in self._failed.values())]:
            print(line, file=sys.stderr)
        if not self._quiet:
            counts = {"written": self._written, "there already": self._there, "not made": len(self._failed)}
            total = sum(counts.values())
            told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            print(f"{total} video{'s' * (total != 1)}: {told}", file=sys.stderr)
        return int(bool(self._broken or self._failed))

    def _planned(self, job: Job, state: State, missing: list[Part]) -> list[Task]:
        self._missing[job.output], self._noise[job.output] = len(missing), Noise()
        self._bar.total += sum(end - first for first, end in missing)
        self._bar.refresh()
        tasks = [Task((1, part[0]), compute, (job, part), _Step(job, state, part)) for part in missing]
        return tasks or self._joins(job, state)

    def _joins(self, job: Job, state: State) -> list[Task]:
        return [] if self._missing[job.output] else [Task((0,), join, (job, state), _Step(job, state))]

    def _finish(self, job: Job, state: State) -> None:
        self._written += 1
        self._note_broken(state)
        if not self._quiet:
            frames = state.parts[-1][1] - state.parts[0][0]
            said = [] if state.broken else state.said  # `report` tells
            for line in [*said, f"written: {job.output}, {frames} frame{'s' * (frames != 1)}{self._noise[job.output]}"]:
                self._bar.write(line, file=sys.stderr)

    def _tell(self, text: str) -> None:
        if self._verbose and text:
            self._bar.write(text, file=sys.stderr)

    def _note_broken(self, state: State) -> None:
        if state.broken:
            self._broken += state.said

    def _fail(self, job: Job, error: str) -> None:
        self._failed.setdefault(job.output, error)
