"""The command compare: PSNR and SSIM of one file against another."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.cli.report import shown
from shiftsearch.video.io.pipes import PIPE


def compare(args: Namespace) -> int:
    """Run `shiftsearch compare`."""
    if args.a == args.b == PIPE:
        raise ShiftsearchError(f"{PIPE}: is read only once, expected a file beside it")
    options = {"format": args.format, "progressive": True}
    with io.read(args.a, args.frames, **options) as a, io.read(args.b, args.frames, **options) as b:
        if (a.width, a.height) != (b.width, b.height):
            raise ShiftsearchError(f"{b.path}: is {b.width} x {b.height}, expected {a.width} x {a.height} as {a.path}")
        scores = [_score(*pair) for pair in shown(_pairs(a, b), a.length, args.quiet)]
    print(f"{len(scores)} frames of {a.width} x {a.height}\n\n{'':10} {'mean':>8} {'least':>8}   in frame")
    for name, values, digits in zip(("PSNR in dB", "SSIM"), np.transpose(scores), (2, 4), strict=True):
        worst = int(values.argmin())
        print(f"{name:10} {values.mean():8.{digits}f} {values[worst]:8.{digits}f}   {worst + a.first}")
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
    """Return PSNR in dB, infinite for equal frames, and SSIM."""
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError as error:
        raise ShiftsearchError(f'compare needs scikit-image: pip install "shiftsearch[video]" ({error})') from None
    one, other = (frame / np.float32(np.iinfo(frame.dtype).max) for frame in (one, other))
    if one.ndim != other.ndim:  # a grey frame against one in colour
        one, other = (frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1) for frame in (one, other))
    side = min(one.shape[:2])
    if side < 3:
        raise ShiftsearchError(f"frames have {one.shape[1]} x {one.shape[0]} pixels, expected at least 3 x 3 for SSIM")
    with np.errstate(divide="ignore"):
        psnr = peak_signal_noise_ratio(one, other, data_range=1)
    window, channels = min(7, side - 1 + side % 2), -1 if one.ndim == 3 else None
    return psnr, structural_similarity(one, other, data_range=1, win_size=window, channel_axis=channels)
