"""Files that are written are there when they are complete, and not before; files that are read say when they are not."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shiftsearch.errors import ShiftsearchError

try:
    import fcntl
except ImportError:  # where there are no such locks, nothing is taken for left behind
    fcntl = None


@contextmanager
def whole(path, read=None) -> Iterator[Path]:
    """Where to write what shall become the file `path`: it replaces a file of that name when the block ends well.

    It lies in a folder beside its target, under the target's name, so that moving it is one step. Several files may be
    written there. An error, Ctrl-C too, leaves nothing, and an older file as it was. A file that is replaced leaves its
    permissions to the new one. What a run left that was killed is removed by the next one that writes beside it.

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
        with _folder(target.parent) as folder:
            yield folder / target.name
            for part in sorted(folder.iterdir()):
                if part != _lock(folder):
                    _replace(part, target.parent / part.name)
    except BrokenPipeError:  # of what is printed meanwhile
        raise
    except OSError as error:
        raise ShiftsearchError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def _folder(beside: Path) -> Iterator[Path]:
    """A new folder. Who writes there holds a lock on a file in it, and loses that even by a kill."""
    _remove_left(beside)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=beside))
        try:
            lock = _lock(folder).open("w")
        except FileNotFoundError:  # it was taken for left behind
            continue
        _hold(lock)
        if _lock(folder).exists():
            break
        lock.close()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _remove_left(beside: Path) -> None:
    """Removes folders of runs that were killed: on this machine, as others may not see each other's locks."""
    for folder in beside.glob(f"{_prefix()}*") if fcntl is not None else ():
        with suppress(OSError):
            about = folder.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                continue
            try:
                with _lock(folder).open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            except FileNotFoundError:  # killed before there was a lock: then it is empty
                folder.rmdir()


def _prefix() -> str:
    return f".shiftsearch-{re.sub('[^A-Za-z0-9.-]', '_', platform.node())}-"


def _lock(folder: Path) -> Path:
    return folder / folder.name


def _hold(lock) -> None:
    with suppress(OSError, AttributeError):  # of file systems without locks, where nobody will get one either
        fcntl.flock(lock, fcntl.LOCK_EX)


def _replace(part: Path, target: Path) -> None:
    with suppress(OSError):  # nothing is there, or the file system knows no permissions
        part.chmod(stat.S_IMODE(target.stat().st_mode))
    os.replace(part, target)


def same(one, other) -> bool:
    """Whether two names are of one file, or will be."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def check_there(path) -> None:
    """That there is something to read."""
    with _told(path):
        size = os.stat(path).st_size
    if not os.path.isfile(path):
        raise ShiftsearchError(f"{path}: is no file, expected a video file")
    if not size:
        raise ShiftsearchError(f"{path}: is empty, expected a video file")


@contextmanager
def _told(path):
    try:
        yield
    except FileNotFoundError:
        raise ShiftsearchError(f"{path}: does not exist, expected a video file") from None
    except (OSError, ValueError) as error:  # no permission, or no name at all
        raise ShiftsearchError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


# --- pictures by number -----------------------------------------------------------------------------
_NUMBER = re.compile(r"([^%]*)%(?:0(\d+))?d([^%]*)")


def numbered(path) -> bool:
    """Whether a name is one of pictures by number, as "shot.%04d.png"."""
    return _NUMBER.fullmatch(Path(path).name) is not None


def first_number(path) -> int:
    """The least number of such pictures that are there."""
    before, digits, after = _NUMBER.fullmatch(Path(path).name).groups()
    with _told(path):
        names = os.listdir(Path(path).parent)
    found = (re.fullmatch(f"{re.escape(before)}(\\d+){re.escape(after)}", name) for name in names)
    numbers = [match[1] for match in found if match]
    numbers = [int(number) for number in numbers if number == f"{int(number):0{int(digits or 0)}d}"]
    if not numbers:
        raise ShiftsearchError(f"{path}: does not exist, nor pictures with numbers in this place")
    return min(numbers)


# --- the end of a file ------------------------------------------------------------------------------
def cut_off(path, used: int) -> bool:
    """Whether a video file is shorter than it says itself.

    Matroska, MP4, AVI, Ogg, GIF and Y4M do. MPEG-TS does not, but is made of packets of one size.

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
        if head.startswith(b"RIFF"):
            return size < _end_of_riff(file)
        if head.startswith(b"OggS"):
            return not _last_of_ogg(file, size)
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


def _end_of_riff(file) -> int:
    """Where its parts end, of which large AVI files have several; 0 if the size is not stated."""
    start = end = 0
    while True:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8 or not head.startswith(b"RIFF"):
            return end
        length = int.from_bytes(head[4:], "little")
        if length in (0, (1 << 32) - 1):
            return 0
        end = start + 8 + length
        start = end + length % 2


def _last_of_ogg(file, size: int) -> bool:
    """Whether its last page is whole, and each stream that is there at the end says that it ends."""
    file.seek(max(0, size - (1 << 17)))  # a page is half as long at most
    ended, page = {}, b""
    for page in re.split(b"(?=OggS)", file.read())[1:]:
        ended[page[14:18]] = len(page) > 5 and page[5] & 4
    return len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]]) and all(ended.values())
