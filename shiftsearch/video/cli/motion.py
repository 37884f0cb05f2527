"""The command flow: the motion between neighbouring frames, as colours in a video or as numbers in a .npy file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise, starmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.cli.convert import opened
from shiftsearch.video.cli.report import Watch, report, shown
from shiftsearch.video.flow.color import to_color
from shiftsearch.video.flow.measure import dis, farneback, none
from shiftsearch.video.io.whole import whole

_METHODS: dict[str, Callable[[Any, Any], Any]] = {"dis": dis, "farneback": farneback, "none": none}


def flow(args: Namespace) -> int:
    """Run `shiftsearch flow`."""
    watch = Watch()
    with ExitStack() as stack:
        clip = stack.enter_context(opened(args, args.frames))
        out: Any
        if Path(args.output).suffix.lower() == ".npy":
            out = stack.enter_context(_npy(args.output, clip.path))
        else:
            out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        longest = clip.width / 32 if args.longest is None else args.longest
        for motion in shown(starmap(_METHODS[args.flow], pairwise(clip)), clip.length and clip.length - 1, args.quiet):
            out.write(motion if isinstance(out, _Npy) else to_color(motion, longest=longest))
        if not out.count:
            raise ShiftsearchError(f"{clip.path}: has one frame, expected at least two, as flow is between frames")
    return report(args, clip, out, watch)


@contextmanager
def _npy(path: str, read: Path) -> Iterator[_Npy]:
    """Open a .npy file to write arrays of one shape to, however many there will be."""
    with whole(path, read) as part, part.open("wb") as file:
        out = _Npy(path, file)
        yield out
        out.finish()


class _Npy:
    """A .npy file whose first axis grows with each array."""

    left_out = ()

    def __init__(self, path: str, file: BinaryIO):
        self.path, self._file, self.count = path, file, 0

    def write(self, array: np.ndarray) -> None:
        """Add an array."""
        if not self.count:
            self._kind, self._shape = array.dtype.str, array.shape
            self._head()
        self.count += 1
        self._file.write(array.tobytes())

    def finish(self) -> None:
        """Write the final length."""
        self._file.seek(0)
        self._head()

    def _head(self) -> None:
        """Write the header, which has room for more digits of the first axis."""
        about = {"descr": self._kind, "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, about)
