"""Files by name: paths of this machine, or addresses such as s3://bucket/films that fsspec knows."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.whole import whole

_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}  # where an upload appears when it is complete
_TOLD = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")  # when or what, by file system


def is_address(name: str) -> bool:
    """Return whether a name is an address and no path of this machine."""
    return "://" in name


def canonical(name: str) -> str:
    """Return the one name of a file that any process on any machine understands."""
    if name.startswith("file://"):
        name = name.removeprefix("file://")
    return name.rstrip("/") if is_address(name) else Path(os.path.abspath(name)).as_posix()


def is_folder(name: str) -> bool:
    """Return whether there is a folder of this name."""
    if not is_address(name):
        return os.path.isdir(name)
    with _told(name, "be found"):
        system, path = _system(name)
        return bool(system.isdir(path))


def matches(folder: str, pattern: str) -> dict[str, str]:
    """Return for each file in a folder that fits a pattern, as of the shell, what tells its contents from others."""
    if not is_address(folder):
        names = glob.glob(pattern, root_dir=folder, recursive=True)
        return {Path(n).as_posix(): found for n in names if (found := stamp(f"{folder}/{n}"))}
    system, root = _system(folder)
    with _told(folder, "be listed"):
        system.invalidate_cache()
        found = system.glob(f"{root}/{pattern}", detail=True)
    return {_below(root, name): _stamp(about) for name, about in found.items() if about["type"] == "file"}


def stamps(folder: str) -> dict[str, str]:
    """Return for each file in a folder, at any depth, what tells its contents from others. There need be no folder."""
    if not is_address(folder):
        paths = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
        return {path.relative_to(folder).as_posix(): found for path in paths if (found := stamp(str(path)))}
    system, root = _system(folder)
    files: dict[str, Any] = {}
    with _told(folder, "be listed"), suppress(FileNotFoundError):
        system.invalidate_cache()
        files = system.find(root, detail=True)
    return {_below(root, name): _stamp(about) for name, about in files.items()}


def stamp(name: str) -> str | None:
    """Return what tells the contents of a file from others: its size, and its time or checksum; None without a file."""
    with _told(name, "be found"):
        if not is_address(name):
            with suppress(FileNotFoundError, NotADirectoryError):
                about = os.stat(name)
                return f"{about.st_size} {about.st_mtime_ns}" if os.path.isfile(name) else None
            return None
        system, path = _system(name)
        system.invalidate_cache()
        with suppress(FileNotFoundError):
            about = system.info(path)
            return _stamp(about) if about["type"] == "file" else None
        return None


def text(name: str) -> str | None:
    """Return the text of a file, or None if there is no such file."""
    with _told(name, "be read"), suppress(FileNotFoundError, NotADirectoryError):
        if not is_address(name):
            return Path(name).read_text(encoding="utf-8")
        system, path = _system(name)
        return system.cat_file(path).decode()
    return None


def write(name: str, text: str) -> None:
    """Write the text of a file, which appears whole."""
    with placed(name) as path, whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def placed(name: str) -> Iterator[Path]:
    """Yield the path to write a file to, by a function that writes it whole; it is uploaded at the end if need be."""
    if not is_address(name):
        with _told(name, "be written"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="shiftsearch-") as folder:
        path = Path(folder, name.rpartition("/")[2])
        yield path
        with _told(name, "be written"):
            _upload(path, name)


def _upload(path: Path, name: str) -> None:
    system, target = _system(name)
    if name.partition("://")[0] in _WHOLE:
        system.put_file(str(path), target)
        return
    folder, _, last = target.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    hidden = f"{folder}/.{last}.{os.getpid()}"
    system.put_file(str(path), hidden)
    system.mv(hidden, target)


@contextmanager
def fetched(name: str) -> Iterator[Path]:
    """Yield the path of a file: its own, or that of a copy which is removed at the end."""
    if not is_address(name):
        yield Path(name)
        return
    copy = _Copy(name)
    yield copy.path


def kept(name: str, stamp: str) -> Path:
    """Return the path of a file, or of a copy. This process keeps the copy until it asks for another one or ends."""
    return _last(name, stamp).path if is_address(name) else Path(name)


def forget() -> None:
    """Remove the copy that this process keeps."""
    _last.cache_clear()


class _Copy:
    """A copy on this machine, which is removed with this object."""

    def __init__(self, name: str, stamp: str = ""):
        folder = tempfile.mkdtemp(prefix="shiftsearch-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder, name.rpartition("/")[2])
        system, source = _system(name)
        with _told(name, "be read"):
            system.get_file(source, str(self.path))


_last = lru_cache(maxsize=1)(_Copy)


def remove(folder: str) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if not is_address(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    system, path = _system(folder)
    with _told(folder, "be removed"), suppress(FileNotFoundError):
        system.rm(path, recursive=True)


def _below(root: str, name: str) -> str:
    return name.removeprefix(root).lstrip("/")


def _stamp(about: Mapping[str, Any]) -> str:
    told = next((about[key] for key in _TOLD if about.get(key)), "")
    return f"{about['size']} {told.timestamp() if isinstance(told, datetime) else told}"


def _system(name: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path there."""
    try:
        import fsspec
    except ImportError:
        raise ShiftsearchError(f'{name}: addresses need fsspec: pip install "shiftsearch[distributed]"') from None
    try:
        return fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:  # fsspec says what to install for this kind of address
        raise ShiftsearchError(f"{name}: cannot be opened: {error}") from None


@contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"{name}: cannot {what}: {error.strerror or error}") from None
