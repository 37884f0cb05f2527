"""The command flow: the motion between neighbouring frames, as colours in a video or as numbers in a .npy file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.cli.convert import opened
from shiftsearch.video.cli.numbers import Npy, npy
from shiftsearch.video.cli.report import Watch, report, say_what, shown
from shiftsearch.video.device import Place, on_device
from shiftsearch.video.flow.color import to_color
from shiftsearch.video.flow.measure import auto, dis, farneback, match, none
from shiftsearch.video.types import Planes

_METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "auto": auto,
    "match": match,
    "dis": dis,
    "farneback": farneback,
    "none": none,
}


def flow(args: Namespace) -> int:
    """Run `shiftsearch flow`."""
    watch = Watch()
    with ExitStack() as stack:
        clip = stack.enter_context(opened(args, args.frames))
        out: Any
        if Path(args.output).suffix.lower() == ".npy":
            out = stack.enter_context(npy(args.output, clip.path))
        else:
            out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        say_what(args, clip, out)
        longest = clip.width / 32 if args.longest is None else args.longest

        def measured(frames: Iterator[Planes], place: Place) -> Iterator[Planes]:
            method = _METHODS[args.flow]
            for (one,), (other,) in pairwise(frames):
                motion = method(one, other)
                yield (motion if isinstance(out, Npy) else to_color(motion, longest=longest),)

        found = on_device("flow", args.device, ((frame,) for frame in clip), measured)
        for (result,) in shown(found, clip.length and clip.length - 1, args.quiet):
            out.write(result)
        if not out.count:
            raise ShiftsearchError(f"{clip.path}: has one frame, expected at least two, as flow is between frames")
    return report(args, clip, out, watch)
