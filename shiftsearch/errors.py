"""The exception that every function of this package raises for bad input."""

from __future__ import annotations


class ShiftsearchError(ValueError):
    """Bad input. The message names the op, the argument, what it was and what was expected."""
