"""What a command prints: a progress bar, remarks and a summary, all to the standard error."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.threads import get_num_threads, set_num_threads
from shiftsearch.video.device import place_of
from shiftsearch.video.flow.measure import set_opencv_threads
from shiftsearch.video.io import Reader


def report(args: Namespace, clip: Reader, out: Any, watch: Watch, noise: Any = "") -> int:
    """Print remarks and a summary, and return the exit code: 1 if a part of the input is missing from the result."""
    remarks = []
    if clip.damaged:
        remarks.append(f"{clip.path}: damaged frames, taken as the decoder mended them: {clip.damaged}")
    if clip.interlaced and not args.progressive:
        remarks.append(f"{clip.path}: interlaced frames, taken as whole ones: {clip.interlaced}")
    if out.left_out:
        remarks.append(f"{out.path}: left out: {', '.join(out.left_out)}")
    if clip.broken:
        remarks.append(f"shiftsearch {args.command}: {clip.broken}; the result ends there")
    if not args.quiet:
        remarks.append(f"written: {out.path}, {out.count} frame{'s' * (out.count != 1)}, {watch}{noise}")
    for remark in remarks:
        print(remark, file=sys.stderr)
    return int(clip.broken is not None)


def set_threads(number: int | None) -> None:
    """Let this many threads compute, here and in OpenCV; None leaves that to each."""
    if number is None:
        return
    set_num_threads(number)
    set_opencv_threads(number)


def say_what(args: Namespace, clip: Reader, out: Any) -> None:
    """Print what is read and written, with --verbose."""
    if not getattr(args, "verbose", False):
        return
    header, length = clip.header, "" if clip.length is None else f", {clip.length} frames"
    kind = f"{header.codec or 'pictures'}, {header.format}, {float(clip.rate):g} per second{length}"
    print(f"read: {clip.path}, {clip.width} x {clip.height}, {kind}", file=sys.stderr)
    print(f"write: {out.path}{out.about}", file=sys.stderr)
    place = place_of(args.command, args.device).name
    print(f"compute: {place}, {get_num_threads()} threads", file=sys.stderr)


class Watch:
    """How long a command takes, and how much of that only its first run. As a string it is a text for the summary."""

    def __init__(self) -> None:
        self._begin, self._before = time.monotonic(), self._compiling()

    def __str__(self) -> str:
        seconds = self._compiling() - self._before
        once = f", of which compiling kernels took {seconds:.1f} s, once" if seconds else ""
        return f"{time.monotonic() - self._begin:.1f} s{once}"

    @staticmethod
    def _compiling() -> float:
        jit = sys.modules.get("shiftsearch.backends.cpu.jit")  # not imported if nothing was searched
        return jit.compiling() if jit is not None else 0.0


class Noise:
    """The mean standard deviation of the noise found in each plane. As a string it is a text for the summary."""

    def __init__(self) -> None:
        self._total: Any = 0.0
        self._count = 0

    def add(self, levels: list[float]) -> None:
        """Add the standard deviations of a frame, one for each plane, on the scale 0..1."""
        self._total, self._count = self._total + 255 * np.array(levels), self._count + 1

    def join(self, other: Noise) -> None:
        """Add the frames of another part."""
        if other._count:
            self._total, self._count = self._total + other._total, self._count + other._count

    def __str__(self) -> str:
        if not self._count:
            return ""
        names = ("Y ", "U ", "V ") if len(self._total) == 3 else ("",)
        means = zip(names, self._total / self._count, strict=True)
        return ", noise found: " + ", ".join(f"{name}{level:.1f}" for name, level in means)


def shown(items: Iterable[Any], total: int | None, quiet: bool) -> Iterable[Any]:
    """Return the items with a progress bar, which is only drawn on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise ShiftsearchError('the progress bar needs tqdm: pip install "shiftsearch[video]"') from None
    return tqdm(items, total=total, unit="frame", disable=True if quiet else None)  # None: unless it is a terminal
