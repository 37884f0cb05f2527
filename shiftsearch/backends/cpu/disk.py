"""Compiled kernels on disk, in the user's cache folder: one file each, named by a hash of all that it depends on.

numba's own cache would lie inside the package, where uninstalling leaves it. It would not notice when a function that a
kernel calls has changed, and would run a damaged file, which ends the process. Here each file begins with a checksum of
the rest. The folder only saves time: it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

_LENGTH = hashlib.sha256().digest_size
_UNUSED = 90 * 24 * 3600  # seconds without use, after which a file is taken to belong to an older version


def folder() -> Path:
    """Return where kernels are kept: $NUMBA_CACHE_DIR/shiftsearch, or else the system's place for caches."""
    asked: str = config.CACHE_DIR  # type: ignore[attr-defined]  # numba sets it when it is imported
    if asked:
        return Path(asked) / "shiftsearch"
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "shiftsearch" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "shiftsearch"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "shiftsearch"


@functools.cache
def _sources() -> bytes:
    """Return this package's code for the CPU, and the versions of what compiles it."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    about = repr((numba.__version__, sys.implementation.cache_tag))
    return b"".join(file.read_bytes() for file in files) + about.encode()


class OnDisk:
    """The cache that numba reads a compiled kernel from, and writes it to."""

    def __init__(self, name: str):
        self._name = name

    def _path(self, signature, codegen) -> Path:
        about = _sources() + repr((self._name, signature, codegen.magic_tuple())).encode()
        return folder() / f"{self._name}-{hashlib.sha256(about).hexdigest()[:32]}"

    def load_overload(self, signature: Any, context: Any) -> CompileResult | None:
        context.refresh()
        with contextlib.suppress(Exception):  # no file, or one that is damaged: it is compiled anew
            path = self._path(signature, context.codegen())
            content = path.read_bytes()
            if hashlib.sha256(content[_LENGTH:]).digest() == content[:_LENGTH]:
                os.utime(path)  # it is in use
                return CompileResult._rebuild(context, *pickle.loads(content[_LENGTH:]))
        return None

    def save_overload(self, signature: Any, result: CompileResult) -> None:
        with contextlib.suppress(OSError):  # nowhere to write, or a full disk
            path, content = self._path(signature, result.codegen), dumps(result._reduce())
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, hashlib.sha256(content).digest() + content)
            for other in path.parent.iterdir():
                if other.stat().st_mtime < time.time() - _UNUSED:
                    other.unlink()


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, so that no other process reads a part of it."""
    handle, part = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
