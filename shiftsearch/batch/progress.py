"""What is to be done for each job after what is done, and what the user is told of it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from shiftsearch.batch import storage
from shiftsearch.batch.jobs import Job, Part, State
from shiftsearch.batch.schedule import Outcome, Task
from shiftsearch.batch.steps import compute, join, plan
from shiftsearch.video.cli.report import shown


class _Step(NamedTuple):
    job: Job
    state: State | None = None  # once it is planned
    part: Part | None = None  # to compute


class Progress:
    """The jobs of a run. As a context it shows a progress bar, if there is a terminal."""

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._bar: Any = shown((), 0, quiet)
        self._missing: dict[str, int] = {}  # parts, by output
        self._there = self._written = 0
        self._broken: list[str] = []  # lines
        self._failed: dict[str, str] = {}  # errors, by output

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def first(self, job: Job, overwrite: bool) -> list[Task]:
        """Return the tasks of a job to begin with: none if it is finished."""
        state, now = State.of(job), {option: storage.stamp(name) for option, name in job.outputs.items()}
        if state is not None and (state.key, state.written) == (job.key, now):
            storage.remove(job.folder)  # a run that was killed may have left it
            self._there += 1
            self._note_broken(state)
            return []
        for option, stamp in now.items() if not overwrite else ():
            if stamp is not None and (state is None or state.written.get(option, stamp) != stamp):
                self._fail(job, f"{job.outputs[option]}: is not as batch wrote it: remove it, or add --overwrite")
                return []
        if state is not None and state.planned(job):
            names = storage.stamps(job.folder)
            missing = [part for part in state.parts if job.part(part).rpartition("/")[2] not in names]
            return self._planned(job, state, missing)
        return [Task((2,), plan, (job,), _Step(job))]

    def then(self, task: Task, outcome: Outcome) -> list[Task]:
        """Return what follows from the outcome of a task."""
        job, state, part = task.about
        if outcome.error is not None:
            self._fail(job, outcome.error)
            return []
        if part is not None:
            self._bar.update(part[1] - part[0])
            self._missing[job.output] -= 1
            return self._joins(job, state)
        if state is None:
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
        self._missing[job.output] = len(missing)
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
            for line in [*said, f"written: {job.output}, {frames} frames"]:
                self._bar.write(line, file=sys.stderr)

    def _note_broken(self, state: State) -> None:
        if state.broken:
            self._broken += state.said

    def _fail(self, job: Job, error: str) -> None:
        self._failed.setdefault(job.output, error)
