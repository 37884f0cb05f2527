"""What the package logs, shown by a command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def notices() -> Iterator[None]:
    """Show what the package logs on the standard error, one line each."""
    log, shown = logging.getLogger("shiftsearch"), _AboveBars()
    log.addHandler(shown)
    try:
        yield
    finally:
        log.removeHandler(shown)


class _AboveBars(logging.Handler):
    """Lines on the standard error, above the progress bars if there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        try:
            if tqdm is None:
                print(self.format(record), file=sys.stderr, flush=True)
            else:
                tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # as other handlers do: what cannot be printed stops no work
            self.handleError(record)
