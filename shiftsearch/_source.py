"""CUDA sources as text: one string per .cu file, with its local includes spliced in.

CuPy's disk cache hashes the text that it is given, not what that text includes: a changed header
would leave a stale binary behind.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from shiftsearch.errors import ShiftsearchError

_PACKAGE = Path(__file__).resolve().parent
_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')


def directory() -> Path:
    """`cuda_src/` inside an installed wheel, or beside the package in a checkout, an editable install or an sdist."""
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / "cuda_src").is_dir():
            return parent / "cuda_src"
    raise ShiftsearchError(f"this installation has no cuda_src, expected it in {_PACKAGE} or beside it: install again")


@functools.cache
def read(file: str) -> str:
    """Text of `file` with each local header in place of its first include.

    `#line` keeps the compiler's messages at the lines of the file they are about. Includes stand
    outside of `#if`: the first is the one that counts.
    """
    return _splice(file, set())


def _splice(file: str, seen: set[str]) -> str:
    seen.add(file)
    path = directory() / file
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in directory().iterdir()))
        raise ShiftsearchError(f"CUDA source {file} is missing in {directory()}, expected one of {there}")
    lines = [f'#line 1 "{file}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append(line)
        elif include[1] in seen:
            lines.append("")
        else:
            lines += [_splice(include[1], seen), f'#line {number + 1} "{file}"']
    return "\n".join(lines)
