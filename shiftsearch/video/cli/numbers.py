"""Files of numbers: the motion between frames, as `shiftsearch flow` writes it to a .npy file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.paths import flow_at
from shiftsearch.video.flow.measure import METHODS
from shiftsearch.video.io.whole import whole

_ROUNDS = 4  # in which a motion is followed back to where it came from


def motion_of(flow: str, first: int) -> Any:
    """Return the method of this name, None for "none", or else what a file has, from frame `first` on.

    That is a pair (forward, backward) for `denoise_planes`, of which nothing is read before it is needed.
    """
    if flow in (*METHODS, "none"):
        return None if flow == "none" else flow
    names = ", ".join([*METHODS, "none"])
    try:
        motion = np.load(flow, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ShiftsearchError(f"{flow}: expected {names}, or a .npy file of `shiftsearch flow` ({error})") from None
    if not isinstance(motion, np.ndarray) or motion.dtype.kind != "f" or motion.ndim != 4 or motion.shape[1] != 2:
        about = f"{motion.dtype} {motion.shape}" if isinstance(motion, np.ndarray) else "several arrays"
        raise ShiftsearchError(f"{flow}: has {about}, expected floats (T - 1, 2, H, W) of `shiftsearch flow`")
    return motion[first:], _Back(motion[first:])


class _Back:
    """The motion from each frame to the one before, which follows from that to the next."""

    def __init__(self, forward: np.ndarray):
        self._forward = forward

    def __getitem__(self, frame: int) -> np.ndarray:
        return _inverse(np.asarray(self._forward[frame - 1]))


def _inverse(flow: np.ndarray) -> np.ndarray:
    """Return the flow (2, h, w) that leads back: at each place that of where it leads to, turned around."""
    places = np.stack(np.meshgrid(*map(np.arange, flow.shape[:0:-1]))).astype(np.float32)
    back = -flow
    for _ in range(_ROUNDS):
        back = -flow_at(np, flow, places + back, flow.shape[1:])
    return back


@contextmanager
def npy(path: str, read: Path) -> Iterator[Npy]:
    """Open a .npy file to write arrays of one shape to, however many there will be."""
    with whole(path, read) as part, part.open("wb") as file:
        out = Npy(path, file)
        yield out
        out.finish()


class Npy:
    """A .npy file whose first axis grows with each array."""

    left_out = ()
    about = ", numbers"

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
