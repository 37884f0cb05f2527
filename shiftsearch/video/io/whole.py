"""Files that appear only when they are complete."""

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
from typing import IO, Any

from shiftsearch.errors import ShiftsearchError

fcntl: Any
try:
    import fcntl
except ImportError:  # on systems without such locks, folders of killed runs stay
    fcntl = None


@contextmanager
def whole(path: str | Path, read: str | Path | None = None) -> Iterator[Path]:
    """Yield the name to write to: the file there becomes `path` if the block ends without an error.

    It lies in a folder beside the target, under the target's name, so that moving it is one step. Several files may be
    written there. After an error or Ctrl-C nothing is left, and an older file stays as it was. A file that is replaced
    leaves its permissions to the new one. The next run that writes beside it removes what a killed run left.

    Args:
        path: the name of the file
        read: an input file that is read meanwhile, and so must be another one
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(target) and not os.path.isfile(target):
        raise ShiftsearchError(f"{path}: is not a file, expected a file to replace, or a new name")
    if not os.path.isdir(target.parent):
        raise ShiftsearchError(f"{path}: there is no folder {target.parent}, expected one that exists")
    if read is not None and same(path, read):
        raise ShiftsearchError(f"{path}: is the input file, expected another name")
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


def same(one: str | Path, other: str | Path) -> bool:
    """Return whether two names are of the same file, or will be."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def _folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder. While it is in use, a file in it is locked; a process that is killed loses the lock."""
    _remove_left(beside)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=beside))
        try:
            lock = _lock(folder).open("w")
        except FileNotFoundError:  # another run removed it, as if it had been left behind
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
    """Remove folders of killed runs of this machine: the locks of others may not be visible."""
    for folder in beside.glob(f"{_prefix()}*") if fcntl is not None else ():
        with suppress(OSError):
            about = folder.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
                continue
            try:
                with _lock(folder).open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            except FileNotFoundError:  # killed before there was a lock: the folder is empty
                folder.rmdir()


def _prefix() -> str:
    return f".shiftsearch-{re.sub('[^A-Za-z0-9.-]', '_', platform.node())}-"


def _lock(folder: Path) -> Path:
    return folder / folder.name


def _hold(lock: IO[str]) -> None:
    with suppress(OSError, AttributeError):  # a file system without locks, where no other run gets one either
        fcntl.flock(lock, fcntl.LOCK_EX)


def _replace(part: Path, target: Path) -> None:
    with suppress(OSError):  # there is no older file, or the file system has no permissions
        part.chmod(stat.S_IMODE(target.stat().st_mode))
    os.replace(part, target)
