"""Letters drawn with a round pen: each is a few lines and arcs.

A letter is a text of strokes. "0,0>0,7" is a line from point to point, and "o2,2.5,2,2.5,0,180" is an arc: middle, radii,
and where it begins and ends in degrees, counterclockwise from the right, or all around without these. Numbers are in units
of which small letters are 5 high and capitals 7; y is 0 on the line and grows upwards.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

GLYPHS = {
    "a": "4,5>4,0 o2,2.5,2,2.5",
    "b": "0,7.4>0,0 o2,2.5,2,2.5",
    "c": "o2,2.5,2,2.5,45,315",
    "d": "4,7.4>4,0 o2,2.5,2,2.5",
    "e": "0.1,2.7>4,2.7 o2,2.5,2,2.5,5,318",
    "f": "1,0>1,5.8 o2.6,5.8,1.6,1.6,90,180 0,4.8>2.6,4.8",
    "g": "4,5>4,-0.2 o2,2.5,2,2.5 o2,-0.2,2,1.9,210,360",
    "h": "0,7.4>0,0 o2,3,2,2,0,180 4,3>4,0",
    "i": "0,5>0,0 0,7>0,7",
    "j": "1,5>1,-0.6 o-0.4,-0.6,1.4,1.4,270,360 1,7>1,7",
    "k": "0,7.4>0,0 3.5,5>0,1.7 1.3,2.9>3.8,0",
    "l": "0,7.4>0,0",
    "m": "0,5>0,0 o1.6,3.4,1.6,1.6,0,180 3.2,3.4>3.2,0 o4.8,3.4,1.6,1.6,0,180 6.4,3.4>6.4,0",
    "n": "0,5>0,0 o2,3,2,2,0,180 4,3>4,0",
    "o": "o2.1,2.5,2.1,2.5",
    "p": "0,5>0,-2.2 o2,2.5,2,2.5",
    "q": "4,5>4,-2.2 o2,2.5,2,2.5",
    "r": "0,5>0,0 o1.9,3,1.9,2,65,180",
    "s": "o1.65,3.75,1.55,1.25,30,270 o1.65,1.25,1.65,1.25,-150,90",
    "t": "1.1,6.7>1.1,1.4 o2.5,1.4,1.4,1.4,180,285 0,4.9>2.7,4.9",
    "u": "0,5>0,2 o2,2,2,2,180,360 4,5>4,0",
    "v": "0,5>2,0>4,5",
    "w": "0,5>1.5,0>3,5>4.5,0>6,5",
    "x": "0,5>3.8,0 3.8,5>0,0",
    "y": "0,5>2.1,0 4.2,5>1.2,-2.2",
    "z": "0,5>3.6,5>0,0>3.6,0",
    "A": "0,0>2.6,7>5.2,0 0.9,2.3>4.3,2.3",
    "B": "0,0>0,7>2.4,7 o2.4,5.3,1.7,1.7,-90,90 2.4,3.6>0,3.6 2.5,3.6>2.4,3.6 o2.5,1.8,1.9,1.8,-90,90 2.5,0>0,0",
    "C": "o3,3.5,3,3.5,45,315",
    "D": "0,0>0,7>1.8,7 o1.8,3.5,3,3.5,-90,90 1.8,0>0,0",
    "E": "4,7>0,7>0,0>4,0 0,3.6>3.4,3.6",
    "F": "4,7>0,7>0,0 0,3.5>3.4,3.5",
    "G": "o3,3.5,3,3.5,45,318 5.3,1.2>5.3,3.2>3.4,3.2",
    "H": "0,0>0,7 4.8,0>4.8,7 0,3.6>4.8,3.6",
    "I": "0,7>2,7 1,7>1,0 0,0>2,0",
    "J": "2.8,7>2.8,1.6 o1.2,1.6,1.6,1.6,190,360",
    "K": "0,0>0,7 4.4,7>0,2.6 1.5,4.1>4.6,0",
    "L": "0,7>0,0>3.8,0",
    "M": "0,0>0,7>3,2>6,7>6,0",
    "N": "0,0>0,7>4.8,0>4.8,7",
    "O": "o3.1,3.5,3.1,3.5",
    "P": "0,0>0,7>2.4,7 o2.4,5.1,1.9,1.9,-90,90 2.4,3.2>0,3.2",
    "Q": "o3.1,3.5,3.1,3.5 3.8,1.8>6,-0.4",
    "R": "0,0>0,7>2.4,7 o2.4,5.1,1.9,1.9,-90,90 2.4,3.2>0,3.2 2.2,3.2>4.4,0",
    "S": "o2.1,5.2,2,1.8,30,270 o2.1,1.7,2.2,1.7,-155,90",
    "T": "0,7>5,7 2.5,7>2.5,0",
    "U": "0,7>0,2.4 o2.4,2.4,2.4,2.4,180,360 4.8,7>4.8,2.4",
    "V": "0,7>2.6,0>5.2,7",
    "W": "0,7>1.8,0>3.6,7>5.4,0>7.2,7",
    "X": "0,7>4.8,0 4.8,7>0,0",
    "Y": "0,7>2.5,3.4>5,7 2.5,3.4>2.5,0",
    "Z": "0,7>4.6,7>0,0>4.6,0",
    "0": "o2.2,3.5,2.2,3.5",
    "1": "0.2,5.6>1.8,7>1.8,0",
    "2": "o2,5,1.9,2,-20,170 3.8,4.3>0,0>4,0",
    "3": "o1.9,5.3,1.7,1.7,-90,150 o1.9,1.8,2,1.8,-150,90",
    "4": "3.2,0>3.2,7>0,2>4.4,2",
    "5": "3.6,7>0.5,7>0.2,3.8 o1.8,2.2,2.1,2.2,-140,140",
    "6": "o2.1,2.2,2.1,2.2 0.1,2.8>2.6,7",
    "7": "0,7>4,7>1.2,0",
    "8": "o2.1,5.25,1.75,1.75 o2.1,1.75,2.1,1.75",
    "9": "o2.1,4.8,2.1,2.2 4.1,4.2>1.6,0",
    ".": "0,0>0,0",
    ",": "0.4,0.1>-0.3,-1.5",
    ":": "0,0.4>0,0.4 0,4.2>0,4.2",
    "-": "0,2.7>2.4,2.7",
    "+": "0,2.7>4,2.7 2,4.7>2,0.7",
    "/": "0,-1>3,7.6",
    "(": "o2.6,3,2.6,5,130,230",
    ")": "o-1.6,3,2.6,5,-50,50",
    "%": "4.6,7>0.6,0 o1.1,5.8,1.1,1.2 o4.1,1.2,1.1,1.2",
    "=": "0,3.7>3.6,3.7 0,1.7>3.6,1.7",
    " ": "",
}
_GAP = 1.75  # between letters
_SPACE = 2.4
_RISE, _DROP = 8.7, 3.5  # room above and below the line


def lettered(text: str, size: float = 11.0, pen: float = 1.3) -> np.ndarray:
    """Return how far ink covers each pixel, from 0 to 1, of a line of text with capitals `size` pixels high."""
    unit = size / 7
    places, at = [], _GAP
    for letter in text:
        strokes, width = _strokes(letter)
        places.append((strokes, at))
        at += width + _GAP
    ink = np.zeros((round(unit * (_RISE + _DROP)), round(unit * at) + 2), np.float32)
    for strokes, left in places:
        for stroke in strokes:
            _draw(ink, (stroke + np.array([left, 0])) * (unit, -unit) + (0, unit * _RISE), pen)
    return ink


def written(picture: np.ndarray, text: str, left: int, line: int, colour: str = "#1d2733", **style: float) -> int:
    """Write text into a picture (H, W, 3) of uint8, on a line, and return where it ends."""
    ink = lettered(text, **style)
    top = line - round(style.get("size", 11.0) / 7 * _RISE)
    part = picture[top : top + ink.shape[0], left : left + ink.shape[1]]
    inks = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    cover = ink[: part.shape[0], : part.shape[1], None]
    part[:] = np.rint(part + cover * (inks - part.astype(float)))
    return left + ink.shape[1]


@functools.cache
def _strokes(letter: str) -> tuple[list[np.ndarray], float]:
    """Return the strokes of a letter as points (n, 2), and its width."""
    strokes = [_arc(s[1:]) if s[0] == "o" else _points(s) for s in GLYPHS[letter].split()]
    return strokes, max((float(s[:, 0].max()) for s in strokes), default=_SPACE - _GAP)


def _points(text: str) -> np.ndarray:
    return np.array([[float(number) for number in point.split(",")] for point in text.split(">")])


def _arc(text: str) -> np.ndarray:
    x, y, across, up, first, last = (*map(float, text.split(",")), 0, 360)[:6]
    turn = np.radians(np.linspace(first, last, 25))
    return np.stack([x + across * np.cos(turn), y + up * np.sin(turn)], 1)


def _draw(ink: np.ndarray, points: np.ndarray, pen: float) -> None:
    """Draw lines from point to point: a pixel is covered as far as it lies within half a pen of one."""
    least, most = np.floor(points.min(0) - pen).astype(int), np.ceil(points.max(0) + pen).astype(int) + 1
    left, top, right, bottom = max(least[0], 0), max(least[1], 0), most[0], most[1]
    part = ink[top:bottom, left:right]
    y, x = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]] + 0.5
    for start, end in pairwise(points):
        along = end - start
        share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / max(along @ along, 1e-9), 0, 1)
        distance = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
        np.maximum(part, np.clip(pen / 2 + 0.5 - distance, 0, 1), out=part)
