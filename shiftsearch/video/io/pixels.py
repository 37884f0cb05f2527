"""Pixel formats of FFmpeg, and their samples as arrays."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.ffmpeg import library
from shiftsearch.video.io.yuv import Form

RGB = ("rgb", "bgr", "gbr", "pal", "argb", "abgr", "0rgb", "0bgr")  # how names of such formats begin
LAYOUTS = {(2, 8): "gray", (2, 16): "gray16le", (3, 8): "rgb24", (3, 16): "rgb48le"}  # by axes and bits
# how FFmpeg converts samples from format to format: it neither averages nor dithers, and rounds exactly. In one thread,
# as some of its code writes beyond the ends of rows, into those of another thread
EXACT = {"interpolation": 0x10 | 0x40000, "threads": 1}


def is_planar(name: str) -> bool:
    """Return whether this pixel format stores each plane of YUV separately, with alpha last."""
    return re.fullmatch(r"yuv[aj]?4\d\dp(\d+le)?", name) is not None


def form_of(name: str, matrix: int, range_: int, turned: bool = False) -> Form | None:
    """Return how the YUV samples of a pixel format are to be read, or None if it is no YUV."""
    known = library().VideoFormat(name, 16, 16)
    if known.is_rgb or known.has_palette or len(known.components) < 3:
        return None
    down, across = (16 // n for n in (known.components[1].height, known.components[1].width))
    bits = max(part.bits for part in known.components)
    full = range_ == 2 or name.startswith("yuvj")
    return Form.of(min(bits, 16), *((across, down) if turned else (down, across)), int(matrix), full)


def samples_of(frame: Any, form: Form) -> list[np.ndarray]:
    """Return Y, U and V of a frame of PyAV as arrays on its memory."""
    kind = np.uint8 if form.bits == 8 else np.uint16
    planes = list(frame.planes)[:3]
    return [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in planes]


def layout_of(path: Any, frame: Any) -> str:
    """Return FFmpeg's name for an array of grey or RGB, or raise an error that names the file to be written."""
    kind = getattr(frame, "dtype", None)
    bits = {"uint8": 8, "uint16": 16}.get(getattr(kind, "name", ""))
    shape: tuple[int, ...] = getattr(frame, "shape", ())
    if bits is None or len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] != 3):
        raise ShiftsearchError(
            f"{path}: a frame is {getattr(frame, 'dtype', type(frame).__name__)} {tuple(shape)}, "
            "expected uint8 or uint16 (H, W) or (H, W, 3)"
        )
    return LAYOUTS[len(shape), bits]
