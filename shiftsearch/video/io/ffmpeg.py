"""FFmpeg through PyAV: imported when first needed, kept from opening other files, its errors in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.names import check_there, first_number, numbered
from shiftsearch.video.io.pipes import Input

# formats that lead to other files, to addresses or to programs
_LEADING = {
    "applehttp",
    "avisynth",
    "concat",
    "dash",
    "hls",
    "imf",
    "rtp",
    "rtsp",
    "sap",
    "sdp",
    "vapoursynth",
    "vobsub",
}


def library() -> Any:
    """Return PyAV, or raise an error that says how to install it."""
    try:
        import av
        import av.codec.codec
        import av.logging
    except ImportError as error:
        raise ShiftsearchError(f'video files need PyAV: pip install "shiftsearch[video]" ({error})') from None
    return av


@contextmanager
def told(path: Any, what: str) -> Iterator[None]:
    """Turn FFmpeg's errors into one line that begins with the path and `what`."""
    av = library()
    try:
        yield
    except (ShiftsearchError, BrokenPipeError):  # the reader of a pipe may leave early
        raise
    except (av.FFmpegError, OSError, MemoryError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if getattr(error, "errno", None) == errno.EBUSY:  # some of FFmpeg's functions return this for bad headers
            reason = "Invalid data found when processing input"
        raise ShiftsearchError(f"{path}: {what}: {' '.join(reason.split())}") from None


def opened(place: Any, mode: str = "r", **options: Any) -> Any:
    """Return a container at a path, or one that is read from or written to an object.

    Before version 19, PyAV must be told that metadata need not be text.
    """
    if int(library().__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    return library().open(f"file:{place}" if isinstance(place, (str, Path)) else place, mode, **options)


def opened_to_read(path: Path, format: str | None, pipe: Input | None = None) -> Any:
    """Return a container from which FFmpeg opens no other file, unless `format` names one that leads to others.

    Args:
        path: the name, for errors if there is a pipe
        format: FFmpeg's name of the format, None if FFmpeg is to find out
        pipe: what is read instead of a file
    """
    options = {"protocol_whitelist": "file,pipe"}
    name: Any = path if pipe is None else pipe
    if pipe is not None:
        pass
    elif numbered(path) and not path.exists():
        options["start_number"] = str(first_number(path))
        name = f"{str(path.parent).replace('%', '%%')}/{path.name}"
    else:
        check_there(path)
        options["pattern_type"] = "none"
    if format is None:
        every = {name for names in library().formats_available for name in names.split(",")}
        options["format_whitelist"] = ",".join(sorted(every - _LEADING))
    try:
        return opened(name, format=format, container_options=options)
    except library().ArgumentError:
        kind = _refused(name, options) if pipe is None else None  # a pipe cannot be opened again
        if kind is None:
            raise
        raise ShiftsearchError(
            f"{path}: is a list of other files or addresses ({kind}), expected a video file; to open what it lists, "
            f'pass --format {kind}, or format="{kind}" in Python'
        ) from None


def _refused(name: Any, options: dict[str, str]) -> str | None:
    """Return the format that made FFmpeg refuse to open a file, which only its log says."""
    log = library().logging
    level, skips = log.get_level(), log.get_skip_repeated()
    log.set_level(log.ERROR)
    log.set_skip_repeated(False)  # else what was said of the file before would not be said again
    try:
        with log.Capture() as said, suppress(library().FFmpegError):
            opened(name, container_options=options).close()
    finally:
        log.set_level(level)
        log.set_skip_repeated(skips)
    found = [kind for _, kind, text in said if text.startswith("Format not on whitelist")]
    return found[-1] if found else None  # before it may come what was skipped until now
