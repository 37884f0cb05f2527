"""The commands align and denoise: a function of iterators applied to the frames of a file."""

from __future__ import annotations

from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.align import align_planes
from shiftsearch.video.cli.numbers import motion_of, npy
from shiftsearch.video.cli.report import Noise, Watch, report, say_what, shown
from shiftsearch.video.denoise import denoise_overlap, denoise_planes
from shiftsearch.video.flow.color import to_color
from shiftsearch.video.flow.measure import dis
from shiftsearch.video.io.pictures import before_and_after, png
from shiftsearch.video.io.pipes import PIPE
from shiftsearch.video.io.whole import same, whole
from shiftsearch.video.types import Planes


@dataclass(frozen=True)
class Work:
    """What a command does with the frames of a file.

    Attributes:
        function: takes an iterator of frames and returns one of as many results, each of which depends on the frames up
            to `overlap` before and after
        overlap: that number
        onto: what a frame should look like afterwards, for the preview: itself "before", the "previous" or "next" one,
            or one frame of all
    """

    function: Callable[[Iterator[Planes]], Iterator[Planes]]
    overlap: int
    onto: str | _Onto = "before"


def align(args: Namespace) -> int:
    """Run `shiftsearch align`."""
    if args.mask is None:
        return convert(args, align_work(args))
    if Path(args.mask).suffix.lower() != ".npy" or same(args.mask, args.output):
        raise ShiftsearchError(f"{args.mask}: expected a name that ends in .npy and is not that of --output")
    masks: deque[Any] = deque()  # those of a GPU are known some frames ahead
    work = align_work(args, masks.append)
    before = min(work.overlap, args.frames[0])  # frames that are not written
    with npy(args.mask, Path(args.input)) as file:

        def written() -> None:
            file.write(masks[before])
            masks.popleft()

        return convert(args, work, written=written)


def align_work(args: Namespace, noted: Callable[[Any], object] | None = None) -> Work:
    """Return the work of `shiftsearch align`. `noted` is called with the mask of each frame."""
    options = {"window": args.window, "patch": args.patch, "device": args.device}
    options["flow"] = None if args.flow == "none" else args.flow
    if isinstance(args.to, str):
        return Work(lambda frames: align_planes(frames, args.to, noted=noted, **options), 1, args.to)
    onto = _Onto(args)

    def function(frames: Iterator[Planes]) -> Iterator[Planes]:
        frames = onto.found(frames)
        return align_planes(frames, onto.planes, noted=noted, **options)

    return Work(function, 0, onto)


def denoise(args: Namespace) -> int:
    """Run `shiftsearch denoise`."""
    noise = Noise()
    return convert(args, denoise_work(args, noise.add if is_estimated(args.sigma) else None), noise=noise)


def is_estimated(sigma: Any) -> bool:
    """Return whether the noise of a plane is to be found."""
    return None in (sigma if isinstance(sigma, list) else [sigma])


def denoise_work(args: Namespace, noted: Callable[[list[float]], object] | None = None) -> Work:
    """Return the work of `shiftsearch denoise`. `noted` is called with the noise of each frame."""
    options = {"quality": args.quality, "radius": args.radius}
    more = {"strength": args.strength, "mix": args.mix, "temporal_only": args.temporal_only, "device": args.device}
    overlap = denoise_overlap(**options)
    motion = motion_of(args.flow, max(args.frames[0] - overlap, 0))

    def function(frames: Iterator[Planes]) -> Iterator[Planes]:
        return denoise_planes(frames, args.sigma, **options, **more, flow=motion, noted=noted)

    return Work(function, overlap)


def opened(args: Namespace, frames: tuple[int, int | None], overlap: int = 0) -> io.Reader:
    """Open the input, to be read up to where it is broken."""
    return io.read(args.input, frames, overlap=overlap, format=args.format, progressive=args.progressive, salvage=True)


def convert(args: Namespace, work: Work, noise: Any = "", written: Callable[[], object] = lambda: None) -> int:
    """Write the results of `work` for the frames of the input, and the preview; return the exit code.

    Args:
        noise: text for the end of the summary
        written: called after each frame that was written
    """
    watch = Watch()
    with ExitStack() as stack:
        clip = stack.enter_context(opened(args, args.frames, work.overlap))
        out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        part = stack.enter_context(whole(args.preview, clip.path)) if args.preview is not None else None
        if part is not None and (same(args.preview, args.output) or part.suffix.lower() != ".png"):
            raise ShiftsearchError(f"{args.preview}: expected a name that ends in .png and is not that of --output")
        say_what(args, clip, out)
        preview = _Preview(clip, work.onto)
        results = clip.kept(preview.after(work.function(preview.before(clip.planes()))))
        for frame in shown(results, clip.length, args.quiet):
            out.write(frame)
            written()
        if part is not None:
            part.write_bytes(png(preview.picture()))
    return report(args, clip, out, watch, noise)


class _Onto:
    """The frame of the input that all frames are moved onto."""

    planes: Planes = ()

    def __init__(self, args: Namespace):
        self._number, self._first = args.to, args.frames[0]
        if args.input != PIPE:
            with opened(args, (args.to, args.to + 1)) as clip:
                (self.planes,) = clip.planes()

    def found(self, frames: Iterator[Planes]) -> Iterator[Planes]:
        """Return the frames, once this one is known: a pipe is read only once, so all up to it are held."""
        if self.planes:
            return frames
        held = list(islice(frames, max(0, self._number + 1 - self._first)))
        if not held or len(held) <= self._number - self._first:
            raise ShiftsearchError(
                f"{PIPE}: --to is {self._number}, expected one of the frames that are read, as a pipe is read only once"
            )
        self.planes = held[-1]
        return chain(held, frames)


class _Preview:
    """The frames around the middle of a clip, kept as they pass before and after the work."""

    def __init__(self, clip: io.Reader, onto: str | _Onto):
        self._clip, self._onto = clip, onto
        self._middle = clip.before + (clip.length or 0) // 2
        self._frames: deque[tuple[int, Planes]] = deque(maxlen=3)
        self._after: Any = None
        self._number = 0

    def before(self, frames: Iterable[Planes]) -> Iterator[Planes]:
        """Yield the frames of the input, and keep the middle one and its neighbours."""
        for number, frame in enumerate(frames):
            if number <= self._middle + 1:
                self._frames.append((number, frame))
            yield frame

    def after(self, frames: Iterable[Planes]) -> Iterator[Planes]:
        """Yield the frames of the result, and keep the middle one."""
        for number, frame in enumerate(frames):
            if number <= self._middle:
                self._after, self._number = frame, number
            yield frame

    def picture(self) -> np.ndarray:
        """Return before | after | difference | flow from the frame that it is compared with, or else the one before."""
        frames = dict(self._frames)
        before = frames[self._number]
        beside = self._number + (1 if self._onto == "next" else -1)
        onto = frames.get(beside, before) if isinstance(self._onto, str) else self._onto.planes
        wanted = before if self._onto == "before" else onto
        a, b, c, d = map(self._clip.picture, (before, self._after, wanted, onto))
        return before_and_after(a, b, c, to_color(dis(d, a)))
