"""Names of what is read: a file, or pictures by number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shiftsearch.errors import ShiftsearchError

_NUMBER = re.compile(r"([^%]*)%(?:0(\d+))?d([^%]*)")


def check_there(path: str | Path) -> None:
    """Raise an error unless there is a file with something in it."""
    with _told(path):
        size = os.stat(path).st_size
    if not os.path.isfile(path):
        raise ShiftsearchError(f"{path}: is not a file, expected a video file")
    if not size:
        raise ShiftsearchError(f"{path}: is empty, expected a video file")


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ShiftsearchError(f"{path}: does not exist, expected a video file") from None
    except (OSError, ValueError) as error:  # no permission, or not a valid name
        raise ShiftsearchError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def numbered(path: str | Path) -> bool:
    """Return whether a name is one of pictures by number, such as "shot.%04d.png"."""
    return _NUMBER.fullmatch(Path(path).name) is not None


def first_number(path: str | Path) -> int:
    """Return the smallest number of such pictures that are there."""
    match = _NUMBER.fullmatch(Path(path).name)
    assert match is not None, "only for names that are `numbered`"
    before, digits, after = match.groups()
    with _told(path):
        names = os.listdir(Path(path).parent)
    found = (re.fullmatch(f"{re.escape(before)}(\\d+){re.escape(after)}", name) for name in names)
    texts = [match[1] for match in found if match]
    numbers = [int(text) for text in texts if text == f"{int(text):0{int(digits or 0)}d}"]
    if not numbers:
        raise ShiftsearchError(f"{path}: does not exist, expected a video file, or pictures with numbers in its place")
    return min(numbers)
