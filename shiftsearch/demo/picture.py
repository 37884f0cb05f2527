"""The picture of the demo: six panels with captions, in two rows."""

from __future__ import annotations

from typing import Any

import numpy as np

import shiftsearch
from shiftsearch.demo.jobs import Work
from shiftsearch.demo.lettering import written
from shiftsearch.demo.scene import HEIGHT, WIDTH, Scene

SHADES = 36  # of each colour: nobody sees that there are no more, and the file is a third smaller
LONGEST = 5.0  # pixels: motion in full colour
TITLE: dict[str, Any] = {"colour": "#1c2733", "size": 10.5, "pen": 1.7}
ABOUT: dict[str, Any] = {"colour": "#66727f", "size": 8.5, "pen": 1.15}

_PAPER = 252
_MARGIN, _GAP, _CAPTION, _BELOW = 20, 18, 46, 10  # pixels: around, between columns, above a panel and between rows
_DETAIL = (195, 94, 31, 60)  # left, top, width and height of what is shown 3 times as large
_LARGER = 3
_GAIN = 2  # of differences
_RADIUS = 27  # of the wheel of colours, with its white rim


def picture(film: Scene, done: Work) -> np.ndarray:
    """Return the picture (H, W, 3) of uint8."""
    true = film.frames[done.t]
    panels = [
        done.noisy,
        done.clean,
        _details(done.noisy, done.clean, true),
        _motion(done.forward),
        _difference(done.there, true),
        _difference(done.aligned, true),
    ]
    rows, columns = place(len(panels) - 1)
    out = np.full((rows.stop + _MARGIN, columns.stop + _MARGIN, 3), _PAPER, np.uint8)
    for number, (panel, (title, about)) in enumerate(zip(panels, captions(done), strict=True)):
        rows, columns = place(number)
        out[rows, columns] = panel
        written(out, title, columns.start - 2, rows.start - 27, **TITLE)
        written(out, about, columns.start - 2, rows.start - 9, **ABOUT)
    return np.rint(np.rint(out / 255 * SHADES) * (255 / SHADES)).astype(np.uint8)


def place(number: int) -> tuple[slice, slice]:
    """Return the rows and columns of a panel."""
    row, column = divmod(number, 3)
    top, left = _MARGIN // 2 + _CAPTION + row * (_CAPTION + HEIGHT + _BELOW), _MARGIN + column * (WIDTH + _GAP)
    return slice(top, top + HEIGHT), slice(left, left + WIDTH)


def captions(done: Work) -> list[tuple[str, str]]:
    """Return the title of each panel, and what is said about it."""
    _, search, align, again = done.jobs
    return [
        ("Before: a frame with noise", f"{again.before:.1f} dB"),
        ("After: denoise", f"{again.after:.1f} dB, {again.times:.1f} x less noise"),
        ("A detail, 3 x as large", "noisy, denoised, and as it was drawn"),
        ("Motion found by search", f"hue: direction, pale: slow, {search.after:.1f} pixels off"),
        ("Before: next frame - this one", f"grey is no difference, {align.before:.1f} dB"),
        ("After: align", f"the next frame moved onto this, {align.after:.1f} dB"),
    ]


def wheel(radius: int) -> np.ndarray:
    """Return the colours of all directions: of motion away from the middle, that of the rim being `LONGEST`."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1] * (LONGEST / radius)
    return shiftsearch.flow.to_color(np.stack([x, y]).astype(np.float32), longest=LONGEST)


def _details(*frames: np.ndarray) -> np.ndarray:
    """Return the same detail of three frames, enlarged, side by side."""
    left, top, width, height = _DETAIL
    out = np.full((HEIGHT, WIDTH, 3), _PAPER, np.uint8)
    for frame, at in zip(frames, np.linspace(0, WIDTH - _LARGER * width, len(frames)).astype(int), strict=True):
        part = frame[top : top + height, left : left + width]
        out[:, at : at + _LARGER * width] = part.repeat(_LARGER, 0).repeat(_LARGER, 1)
    return out


def _difference(frame: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the difference of two frames in shades of grey."""
    grey = np.clip(128 + _GAIN * (frame.astype(float) - true).mean(-1, keepdims=True), 0, 255)
    return np.rint(grey).astype(np.uint8).repeat(3, -1)


def _motion(flow: np.ndarray) -> np.ndarray:
    """Return motion in colours, with the wheel that explains them in a corner."""
    out = shiftsearch.flow.to_color(flow, longest=LONGEST)
    y, x = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]
    corner = out[-len(y) - 6 : -6, -len(x) - 6 : -6]
    for radius, colour in ((_RADIUS, np.array(_PAPER)), (_RADIUS - 3, wheel(_RADIUS))):
        cover = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)[..., None]
        corner[:] = np.rint(corner + cover * (colour - corner.astype(float)))
    return out
