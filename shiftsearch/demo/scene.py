"""A small drawn film: mountains, a lake, a house and a balloon, seen by a camera that pans. Its motion is known.

The film has layers, each of which moves by its own steps: what is near moves faster than what is far, and the boat and the
balloon go their own ways. Nothing turns or grows, so the motion of a pixel is that of the layer on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shiftsearch.demo import drawing
from shiftsearch.demo.brush import Brush

Painter = Callable[[Brush], None]
Part = tuple[slice, ...]

HEIGHT, WIDTH = 180, 288
_FINE = 2  # samples per pixel and axis: edges are smooth, as a lens makes them


class Layer(NamedTuple):
    """What moves together: who paints it, its motion (dx, dy) per frame in halves of pixels, and the box that it lies in."""

    paint: Painter
    motion: tuple[float, float]
    box: tuple[int, int, int, int] = (-30, 0, 320, HEIGHT)  # left, top, right, bottom


_CLOSE = (-4.5, 0.0)  # the motion of all that stands on the meadow
LAYERS = (  # from far to near
    Layer(drawing.sky, (-0.5, 0.0)),
    Layer(drawing.mountains, (-1.5, 0.0), (-30, 20, 320, 125)),
    Layer(drawing.hills, (-2.0, 0.0), (-30, 70, 320, 125)),
    Layer(drawing.lake, (-2.5, 0.0), (-30, 108, 320, 160)),
    Layer(drawing.boat, (1.5, 0.0), (98, 76, 160, 136)),
    Layer(drawing.meadow, _CLOSE, (-30, 126, 320, HEIGHT)),
    Layer(drawing.house, _CLOSE, (186, 76, 276, 162)),
    Layer(drawing.tree, _CLOSE, (4, 58, 84, 172)),
    Layer(drawing.balloon, (2.5, -1.5), (138, 4, 192, 86)),
)


class Scene(NamedTuple):
    """A film: frames (T, H, W, 3) of uint8, and of each pixel the motion (T, 2, H, W) to the next frame and its layer."""

    frames: np.ndarray
    forward: np.ndarray
    layers: np.ndarray  # (T, H, W)


def scene(frames: int = 5) -> Scene:
    """Draw the film. Time 0, at which layers are where they were painted, is in its middle."""
    fine = np.zeros((frames, HEIGHT * _FINE, WIDTH * _FINE, 3), np.float32)
    layers = np.zeros((frames, HEIGHT, WIDTH), int)
    for number, layer in enumerate(LAYERS):
        brush = _painted(layer)
        for t in range(frames):
            there, here = _shown(layer, t - frames // 2)
            fine[t][there] = brush.over(fine[t][there], here)
            cover = np.zeros(fine.shape[1:3], np.float32)
            cover[there] = brush.cover[here]
            layers[t][_means(cover) > 0.5] = number
    motions = np.array([layer.motion for layer in LAYERS], np.float32)
    shown = np.rint(255 * np.clip([_means(frame) for frame in fine], 0, 1)).astype(np.uint8)
    return Scene(shown, np.moveaxis(motions[layers], -1, 1), layers)


def visible(film: Scene, t: int) -> np.ndarray:
    """Return which pixels (H, W) of frame t are seen in the next frame, too: inside of it, and not hidden there."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    dx, dy = film.forward[t]
    inside = (x + dx >= 0) & (x + dx <= WIDTH - 1) & (y + dy >= 0) & (y + dy <= HEIGHT - 1)
    to_x, to_y = (np.clip(np.rint(at), 0, n - 1).astype(int) for at, n in ((x + dx, WIDTH), (y + dy, HEIGHT)))
    return inside & (film.layers[t + 1][to_y, to_x] == film.layers[t])


def with_noise(frames: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Return frames with noise, as of a camera in little light, on the same scale of 0 to 255."""
    noise = np.random.default_rng(seed).standard_normal(frames.shape, np.float32)
    return np.clip(np.rint(frames + sigma * noise), 0, 255).astype(np.uint8)


def _painted(layer: Layer) -> Brush:
    """Return a layer where it is at time 0, all of its box."""
    left, top, right, bottom = layer.box
    x, y = ((np.arange(_FINE * a, _FINE * b) + 0.5) / _FINE - 0.5 for a, b in ((left, right), (top, bottom)))
    brush = Brush(x.astype(np.float32)[None], y.astype(np.float32)[:, None])
    layer.paint(brush)
    return brush


def _shown(layer: Layer, time: int) -> tuple[Part, Part]:
    """Return the part of the picture that a layer lies in at a time, and what part of the layer that is, in samples."""
    there, here = [], []
    for start, end, motion, size in zip(
        layer.box[1::-1], layer.box[:1:-1], layer.motion[::-1], (HEIGHT, WIDTH), strict=True
    ):
        start, end = (round(_FINE * (at + motion * time)) for at in (start, end))
        first, last = max(start, 0), min(end, _FINE * size)
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    return tuple(there), tuple(here)


def _means(fine: np.ndarray) -> np.ndarray:
    """Return the means of the samples of each pixel."""
    height, width = (n // _FINE for n in fine.shape[:2])
    return fine.reshape(height, _FINE, width, _FINE, *fine.shape[2:]).mean((1, 3))
