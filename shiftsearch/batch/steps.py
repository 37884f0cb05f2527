"""Plan, compute the parts, join: three steps, each of which may run anywhere, twice, and again after it was killed.

What they have done is in storage, and is there as a whole or not at all.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import shiftsearch
from shiftsearch.batch import storage
from shiftsearch.batch.jobs import Job, Part, State
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.chunks import chunks
from shiftsearch.video.cli.convert import Work, align_work, convert, denoise_work, is_estimated, opened
from shiftsearch.video.cli.numbers import npy
from shiftsearch.video.cli.report import Noise
from shiftsearch.video.io.exact import layout_like, read_exact, write_exact
from shiftsearch.video.io.whole import whole
from shiftsearch.video.types import Planes


def plan(job: Job) -> State:
    """Find out how many frames a video has, and whether the output can be written. Write and return the first state."""
    with _source(job) as path:
        args = job.arguments(input=str(path))
        first = args.frames[0]
        _try(job, path, first)
        with opened(args, args.frames) as clip:
            count = sum(1 for _ in clip.planes())
    storage.remove(job.folder)  # parts of other plans
    kept = [(first + chunk.keep_start, first + chunk.keep_stop) for chunk in chunks(count, job.size, 0)]
    state = State(job.key, shiftsearch.__version__, kept)
    state.save(job)
    return state


def compute(job: Job, part: Part) -> Noise:
    """Compute a part to a file of its own, unless it is there. Return the noise that was found."""
    name, noise = job.part(part), Noise()
    if storage.stamp(name) is not None:
        return noise
    with _source(job) as path, storage.placed(name) as place, whole(place) as unfinished:
        args = job.arguments(input=str(path), frames=part)
        masks: deque[Any] = deque()
        work = _work(job, args, masks.append, noise.add)
        with opened(args, part, work.overlap) as clip, write_exact(unfinished) as out:
            for frame in clip.kept(_with_masks(work.function(clip.planes()), masks)):
                out.write(frame)
        if out.count != part[1] - part[0]:
            raise ShiftsearchError(f"{job.source}: gives {out.count} of frames {part[0]}:{part[1]}, expected all")
    return noise


def join(job: Job, state: State) -> State:
    """Join the parts to the output, and remove them. Write and return the last state."""
    with _source(job) as path, ExitStack() as stack:
        places = {option: stack.enter_context(storage.placed(name)) for option, name in job.outputs.items()}
        said = stack.enter_context(redirect_stderr(StringIO()))
        stack.enter_context(_naming({places["output"]: job.output}))
        args = job.arguments(input=str(path), **{option: str(place) for option, place in places.items()})
        masks: deque[Any] = deque(maxlen=1)
        work = _joining(job, state, args, masks.append)
        written: Callable[[], object] = lambda: None  # noqa: E731
        if "mask" in places:
            file = stack.enter_context(npy(args.mask, path))
            written = lambda: file.write(masks[0])  # noqa: E731
        broken = bool(convert(args, work, written=written))
    remarks = _named(said.getvalue(), {path: job.source, places["output"]: job.output}).splitlines()
    stamps = {option: storage.stamp(name) or "" for option, name in job.outputs.items()}
    done = replace(state, written=stamps, broken=broken, said=remarks)
    done.save(job)
    storage.remove(job.folder)
    return done


def _try(job: Job, path: Path, first: int) -> None:
    """Write one frame as it is, to find out now whether the output can hold it."""
    with tempfile.TemporaryDirectory(prefix="shiftsearch-") as folder:
        place = Path(folder, Path(job.output).name)
        args = job.arguments(input=str(path), output=str(place), frames=(first, first + 1), preview=None)
        with _naming({place: job.output}), redirect_stderr(StringIO()):
            convert(args, Work(lambda frames: frames, 0))


def _work(
    job: Job, args: Namespace, masked: Callable[[Any], object], noted: Callable[[list[float]], object] | None = None
) -> Work:
    """Return the work of the command. `masked` is called with masks, `noted` with noise that is estimated."""
    if job.command == "denoise":
        return denoise_work(args, noted if is_estimated(args.sigma) else None)
    return align_work(args, masked if args.mask is not None else None)


def _with_masks(results: Iterable[Planes], masks: deque[Any]) -> Iterator[Planes]:
    """Yield results with their masks, if there are any: those of a GPU are known some frames ahead."""
    for result in results:
        yield (*result, masks.popleft().astype(np.uint8)) if masks else result


def _joining(job: Job, state: State, args: Namespace, masked: Callable[[Any], object]) -> Work:
    """Return the work that gives the frames of the parts for those of the source. `masked` is called with masks."""
    work = _work(job, args, masked)
    before, count = min(work.overlap, args.frames[0]), state.parts[-1][1] - state.parts[0][0]

    def function(frames: Iterator[Planes]) -> Iterator[Planes]:
        yield from islice(frames, before)
        results = (result for part in state.parts for result in _computed(job, part))
        for frame, result in zip(islice(frames, count), results, strict=True):
            if args.mask is not None:
                masked(result[-1].astype(bool))
            yield layout_like(result, frame)
        yield from frames

    return replace(work, function=function)


def _computed(job: Job, part: Part) -> Iterable[Planes]:
    with storage.fetched(job.part(part)) as path:
        yield from read_exact(path)


@contextmanager
def _source(job: Job) -> Iterator[Path]:
    """Yield the path of the source, or of a copy, after a check that it has not changed."""
    if storage.stamp(job.source) != job.stamp:
        raise ShiftsearchError(f"{job.source}: has changed since this run began, expected it to stay: run it again")
    path = storage.kept(job.source, job.stamp)
    with _naming({path: job.source}):
        yield path


@contextmanager
def _naming(names: dict[Path, str]) -> Iterator[None]:
    """Name files in errors as the caller does: a path may be that of a copy."""
    try:
        yield
    except ShiftsearchError as error:
        raise ShiftsearchError(_named(str(error), names)) from None


def _named(text: str, names: dict[Path, str]) -> str:
    for path, name in names.items():
        text = text.replace(str(path), name)
    return text
