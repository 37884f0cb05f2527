"""What reports share: pictures as SVG, and tables between two marks of a page."""

from __future__ import annotations

import math
from pathlib import Path


def picture(width: int, height: int, parts: list[str]) -> str:
    """Return a picture of so many pixels with a white ground."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Return words at a place of a picture."""
    safe = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{safe}</text>'


class Scale:
    """Where values lie between two places of a picture, on a logarithmic scale."""

    def __init__(self, values: list[float], start: float, end: float):
        self.least, self.most = min(values), max(values)
        if self.least == self.most:
            self.least, self.most = self.least / 2, self.most * 2
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = math.log(value / self.least) / math.log(self.most / self.least)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return 1, 2 and 5 times the powers of ten in its range."""
        powers = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
        each = (step * 10.0**power for power in powers for step in (1, 2, 5))
        return [tick for tick in each if self.least <= tick <= self.most]


def marks(name: str, script: str) -> tuple[str, str]:
    """Return the marks between which a script writes a table."""
    return f"<!-- {name}: written by examples/benchmarks/{script} -->", f"<!-- /{name} -->"


def write_between(path: Path, marks: tuple[str, str], words: str) -> None:
    """Put a text between two marks of a file."""
    whole = path.read_text(encoding="utf-8")
    if any(mark not in whole for mark in marks):
        raise SystemExit(f"{path} has no marks {' and '.join(marks)}")
    head, tail = whole.split(marks[0])[0], whole.split(marks[1])[1]
    path.write_text(f"{head}{marks[0]}\n{words}\n{marks[1]}{tail}", encoding="utf-8")
