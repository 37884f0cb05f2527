"""The exception that every function of this package raises for bad input, and the warning of input that looks bad."""

from __future__ import annotations

import sys
import warnings


class ShiftsearchError(ValueError):
    """Bad input. The message names the op, the argument, what it was and what was expected."""


def warn(text: str) -> None:
    """Warn that input looks bad, at the line outside this package that gave it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "shiftsearch":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
