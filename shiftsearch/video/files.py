"""Files that are there when they are complete, and not before."""

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
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise ShiftsearchError(f"{path}: is no file, expected the name of one")
    if not target.parent.is_dir():
        raise ShiftsearchError(f"{path}: there is no folder {target.parent}, expected one that exists")
    if read is not None and _same(target, Path(read).resolve()):
        raise ShiftsearchError(f"{path}: is the file that is read, expected another name")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".shiftsearch-", dir=target.parent))
        try:
            yield folder / target.name
            for part in sorted(folder.iterdir()):
                os.replace(part, target.parent / part.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ShiftsearchError(f"{path}: cannot be written: {error.strerror or error}") from None


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))
