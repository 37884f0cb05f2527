"""CUDA sources as text: one string per .cu file, with its local includes put in their place.

CuPy's disk cache hashes the text that it compiles, but not the files which that text includes. If headers
were included by the compiler, a changed header would leave an old binary in the cache.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from shiftsearch.errors import ShiftsearchError

_PACKAGE = Path(__file__).resolve().parent
_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')


def directory() -> Path:
    """Return `cuda_src/`: inside an installed wheel, beside the package in a checkout, an editable install or an sdist."""
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / "cuda_src").is_dir():
            return parent / "cuda_src"
    raise ShiftsearchError(
        f"this installation has no folder cuda_src, expected in {_PACKAGE} or beside it: install again"
    )


@functools.cache
def read(file: str) -> str:
    """Return the text of `file`, with each local header in place of its first include.

    `#line` makes the compiler's messages name the right file and line. A header is put in only once, so
    includes must not stand inside `#if`.
    """
    return _splice(file, set())


def _splice(file: str, seen: set[str]) -> str:
    seen.add(file)
    path = directory() / file
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in directory().iterdir()))
        raise ShiftsearchError(f"CUDA source {file} is not in {directory()}, expected one of {there}")
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
