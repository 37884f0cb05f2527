"""The command compare: PSNR and SSIM of one file against another."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.cli.likeness import WINDOW, psnr, ssim
from shiftsearch.video.cli.report import set_threads, shown
from shiftsearch.video.device import place_of
from shiftsearch.video.io.pipes import PIPE

_LEAST = 3  # rows and columns of a frame, for SSIM


def compare(args: Namespace) -> int:
    """Run `shiftsearch compare`."""
    if args.a == args.b == PIPE:
        raise ShiftsearchError(f"{PIPE}: is read only once, expected a file beside it")
    set_threads(args.threads)
    options = {"format": args.format, "progressive": True}
    with io.read(args.a, args.frames, **options) as a, io.read(args.b, args.frames, **options) as b:
        if (a.width, a.height) != (b.width, b.height):
            raise ShiftsearchError(f"{b.path}: is {b.width} x {b.height}, expected {a.width} x {a.height} as {a.path}")
        if min(a.width, a.height) < _LEAST:
            raise ShiftsearchError(
                f"{a.path}: is {a.width} x {a.height}, expected at least {_LEAST} x {_LEAST} pixels for SSIM"
            )
        pairs = place_of("compare", args.device).up(_pairs(a, b))
        scores = [_score(*pair) for pair in shown(pairs, a.length, args.quiet)]
    print(_as_json(a, scores) if args.json else _as_table(a, scores))
    return 0


def _pairs(a: io.Reader, b: io.Reader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number, (one, other) in enumerate(zip_longest(a, b)):
        if one is None or other is None:
            short, long = (a, b) if one is None else (b, a)
            raise ShiftsearchError(
                f"{short.path}: ends after {number} frames, expected as many as {long.path}, or --frames :{number}"
            )
        yield one, other


def _score(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return PSNR and SSIM of two frames, which may have other depths, and be grey or in colour."""
    one, other = (frame / np.float32(np.iinfo(frame.dtype).max) for frame in (one, other))
    if one.ndim != other.ndim:
        one, other = (frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1) for frame in (one, other))
    side = min(one.shape[:2])
    return psnr(one, other), ssim(one, other, min(WINDOW, side - 1 + side % 2))


def _as_table(clip: io.Reader, scores: list[tuple[float, float]]) -> str:
    lines = [
        f"{len(scores)} frames of {clip.width} x {clip.height}",
        "",
        f"{'':10} {'mean':>8} {'least':>8}   in frame",
    ]
    for name, values, digits in zip(("PSNR in dB", "SSIM"), np.transpose(scores), (2, 4), strict=True):
        worst = int(values.argmin())
        lines.append(f"{name:10} {values.mean():8.{digits}f} {values[worst]:8.{digits}f}   {worst + clip.first}")
    return "\n".join(lines)


def _as_json(clip: io.Reader, scores: list[tuple[float, float]]) -> str:
    """Return the same for programs, and the values of each frame; null stands for the PSNR of equal frames."""
    found: dict[str, Any] = {"frames": len(scores), "first": clip.first, "width": clip.width, "height": clip.height}
    for name, values in zip(("psnr", "ssim"), np.transpose(scores), strict=True):
        worst = int(values.argmin())
        each = [value if np.isfinite(value) else None for value in (values.mean(), values[worst], *values)]
        found[name] = {"mean": each[0], "least": each[1], "in_frame": worst + clip.first, "of_frames": each[2:]}
    return json.dumps(found)
