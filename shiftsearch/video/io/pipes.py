"""The standard input and the standard output as video, and Y4M, the format that programs send each other there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from shiftsearch.errors import ShiftsearchError

PIPE = "-"  # the name of the standard input, and of the standard output
Y4M = "yuv4mpegpipe"  # FFmpeg's name of it
_MAGIC = b"YUV4MPEG2 "
_LONGEST = 1024  # bytes of a first line
_SITING = {b"420jpeg": "center", b"420": "center", b"420mpeg2": "left", b"420paldv": "topleft"}  # FFmpeg's names


class Input:
    """The standard input, which can be read once. FFmpeg reads from it as from a file."""

    def __init__(self) -> None:
        self._file = _buffer("stdin", "video")
        self._first = self._file.read1(_LONGEST)
        self._head = self._first
        self.count = 0  # of bytes that were read
        if not self._first:
            raise ShiftsearchError(f"{PIPE}: is empty, expected video on the standard input")

    def read(self, most: int) -> bytes:
        """Return some bytes, none at the end."""
        part, self._first = self._first[:most], self._first[most:]
        part = part or self._file.read1(most)
        self.count += len(part)
        return part

    def cut_off(self, used: int) -> bool:
        """Return whether the last frame of Y4M, which ends at `used`, is followed by a part of one."""
        return self._head.startswith(_MAGIC) and used < self.count

    @property
    def siting(self) -> str | None:
        """Where the first line of Y4M says that U and V lie."""
        return siting_of(self._head)


def siting_of(head: bytes) -> str | None:
    """Return FFmpeg's name of where U and V lie, if this is the beginning of Y4M that says it."""
    found = re.match(re.escape(_MAGIC) + rb"[^\n]*?\bC(\S+)", head)
    return _SITING.get(found[1]) if found else None


def head_of(path: Path) -> bytes:
    """Return the beginning of a file, nothing if it cannot be read as one."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except OSError:
        return b""


class Output:
    """A file that Y4M is written to. FFmpeg leaves the shape of pixels out of the first line; here it is put in."""

    shape = Fraction(0)  # of pixels, 0 if it is not known

    def __init__(self, file: BinaryIO):
        self._file, self._begun = file, False

    def write(self, data: Any) -> int:
        """Write all bytes."""
        part = bytes(data)
        if not self._begun:
            self._begun = True
            part = part.replace(b" A0:0 ", b" A%d:%d " % self.shape.as_integer_ratio(), 1) if self.shape else part
        self._file.write(part)
        return len(data)


@contextmanager
def standard_output() -> Iterator[Output]:
    """Yield the standard output, to write to; whatever is still on its way is written at the end."""
    file = _buffer("stdout", "a pipe or a file")
    yield Output(file)
    file.flush()


def _buffer(name: str, expected: str) -> Any:
    stream = getattr(sys, name)
    if not hasattr(stream, "buffer"):
        raise ShiftsearchError(f"{PIPE}: the standard {name[3:]}put is closed, expected {expected}")
    if stream.isatty():
        raise ShiftsearchError(f"{PIPE}: the standard {name[3:]}put is a terminal, expected {expected}")
    return stream.buffer
