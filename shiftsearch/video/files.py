"""Files that are written are there when they are complete, and not before; files that are read say when they are not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shiftsearch.errors import ShiftsearchError


@contextmanager
def whole(path, read=None) -> Iterator[Path]:
    """Where to write what shall become the file `path`: it replaces a file of that name when the block ends well.

    It lies in a folder beside its target, under the target's name, so that moving it is one step. Several files may be
    written there. An error, Ctrl-C too, leaves nothing, and an older file as it was.

    Args:
        path: the name to be
        read: a file that is read meanwhile, which must be another one
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(target) and not os.path.isfile(target):
        raise ShiftsearchError(f"{path}: is no file, expected the name of one")
    if not os.path.isdir(target.parent):
        raise ShiftsearchError(f"{path}: there is no folder {target.parent}, expected one that exists")
    if read is not None and same(path, read):
        raise ShiftsearchError(f"{path}: is the file that is read, expected another name")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".shiftsearch-", dir=target.parent))
        try:
            yield folder / target.name
            for part in sorted(folder.iterdir()):
                os.replace(part, target.parent / part.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except BrokenPipeError:  # of what is printed meanwhile
        raise
    except OSError as error:
        raise ShiftsearchError(f"{path}: cannot be written: {error.strerror or error}") from None


def same(one, other) -> bool:
    """Whether two names are of one file, or will be."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def check_there(path) -> None:
    """That there is something to read."""
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise ShiftsearchError(f"{path}: does not exist, expected a video file") from None
    except (OSError, ValueError) as error:  # no permission, or no name at all
        raise ShiftsearchError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not os.path.isfile(path):
        raise ShiftsearchError(f"{path}: is no file, expected a video file")
    if not size:
        raise ShiftsearchError(f"{path}: is empty, expected a video file")


def cut_off(path, used: int) -> bool:
    """Whether a video file is shorter than it says itself. Few kinds do: Matroska, MP4, MPEG-TS, GIF, Y4M.

    Args:
        path: the file
        used: where the last frame ends in it
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(1024)
        if head.startswith(b"\x1aE\xdf\xa3"):
            return size < _end_of_matroska(file)
        if head[4:8] in _BOXES:
            return size < _end_of_boxes(file)
        if head.startswith(b"GIF8"):
            file.seek(-1, os.SEEK_END)
            return file.read() != b";"
        if head.startswith(b"YUV4MPEG2"):
            return used < size
        for first, packet in ((0, 188), (4, 192), (0, 204)):  # MPEG-TS has packets of one size that begin with a G
            if set(head[first::packet]) == {ord("G")}:
                return size % packet > 0
    return False


_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")


def _end_of_boxes(file) -> int:
    """Where an MP4's boxes end, each of which begins with its size and name."""
    start = end = 0
    while True:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the size comes after the name
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # the last one may have no size
            return end
        start += length
        if head[4:8] in _BOXES:  # whatever else may be appended to a file
            end = start


def _end_of_matroska(file) -> int:
    """Where its second element ends, in which everything is; 0 if that has no size, as of what was sent live."""
    end = 0
    for _ in range(2):
        file.seek(end)
        first = file.read(4)  # the name: 4 bytes for both
        mark = file.read(1)
        if len(first) < 4 or not mark or not mark[0]:
            return 0
        more = 8 - mark[0].bit_length()  # as many bytes as there are zeros before the first bit of them
        length = int.from_bytes(bytes([mark[0] - (1 << 7 - more)]) + file.read(more), "big")
        if length == (1 << 7 * (more + 1)) - 1:
            return 0
        end = file.tell() + length
    return end
