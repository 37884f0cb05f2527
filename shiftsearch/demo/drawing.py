"""What the film shows: each function paints one layer, where it is at time 0."""

from __future__ import annotations

import numpy as np

from shiftsearch.demo.brush import Brush, grain

_SHORE = 112  # where the lake begins


def sky(b: Brush) -> None:
    """Blue above, warm near the mountains, with clouds and a low sun."""
    b.fill(-1, b.mix("#3f7fc4", "#ffe3bd", np.clip(b.y / 105, 0, 1) ** 1.2))
    sun = np.hypot(b.x - 78, b.y - 62)
    b.fill(-1, "#fff1c9", np.clip(1 - sun / 70, 0, 1) ** 2 * 0.8)
    b.fill(sun - 9, "#fffbe8")
    clouds = b.grain(46, 13, 4) - 0.52 + 0.0012 * (40 - abs(b.y - 40))
    b.fill(-1, b.mix("#f6c9b4", "#ffffff", 6 * clouds), np.clip(7 * clouds, 0, 0.9))


def mountains(b: Brush) -> None:
    """A chain of peaks with snow on the sides that face the sun."""
    rough = 9 * (grain(b.x / 13, 0 * b.y) - 0.5)
    ridge = 88 - 40 * (0.5 + 0.5 * np.sin(b.x / 31 + 1.1)) ** 1.3 - 16 * (0.5 + 0.5 * np.sin(b.x / 12.3)) + rough
    depth = b.y - ridge
    light = grain((b.x + 0.55 * depth) / 8, depth / 26, 3)
    rock = b.mix("#4a5578", "#a9a2b8", 2.6 * (light - 0.3))
    snow = np.clip((23 - depth + 26 * (light - 0.5) - 0.2 * (ridge - 34)) / 5, 0, 1)
    snow_colour = b.mix("#8fa6d3", "#fffaf2", 3.2 * (light - 0.34))
    haze = np.clip((b.y - 62) / 80, 0, 0.55)
    b.fill(-depth, b.mix(b.mix(rock, snow_colour, snow), "#c9c6d8", haze))


def hills(b: Brush) -> None:
    """Woods in front of the mountains."""
    crowns = 2.6 * abs(np.sin(b.x / 2.9 + 3 * grain(b.x / 9, 0 * b.y))) * grain(b.x / 4, 0 * b.y + 3)
    ridge = 97 - 9 * np.sin(b.x / 47 + 2.2) - 4 * np.sin(b.x / 19) - crowns
    leaves = b.grain(3.2, 3.2, 2) + 0.25 * np.clip((ridge + 7 - b.y) / 9, 0, 1)
    b.fill(ridge - b.y, b.mix("#1d4a3a", "#74a05a", 2.2 * (leaves - 0.32)))
    b.fill(_SHORE - 3 - b.y + 1.5 * b.grain(9, 2), "#d8c79b")


def lake(b: Brush) -> None:
    """Water that mirrors the sky, with waves that are longer where it is near."""
    deep = np.clip((b.y - _SHORE) / 34, 0, 1)
    near = 1 + 2 * deep
    waves = grain(b.x / (9 * near), (b.y - _SHORE) / (1.1 * near), 2)
    water = b.mix("#f3d9bb", "#2d6fa6", 0.15 + 0.9 * deep)
    water = b.mix(water, "#173f6b", 2.4 * (0.44 - waves))
    b.fill(_SHORE - b.y, b.mix(water, "#fff4da", 2.4 * (waves - 0.62)))


def boat(b: Brush) -> None:
    """A sailing boat and what the water mirrors of it."""
    b.fill(b.disc(128, 128, 17, 0.14) + 3 * (b.grain(6, 1.2, 2) - 0.5), "#143a60", 0.55)
    b.fill(b.line((127, 84), (127, 122), 1.3), "#5c3a21")
    b.fill(b.polygon((129, 84), (147, 117), (129, 118)), b.mix("#ffffff", "#e9dfd0", b.grain(3, 9)))
    b.fill(b.polygon((125, 88), (125, 118), (112, 117)), b.mix("#e4572e", "#c23b1c", b.grain(3, 9)))
    stripes = (b.y - 84) % 11 - 9
    b.fill(np.maximum(b.polygon((129, 84), (147, 117), (129, 118)), -stripes), "#e4572e")
    b.fill(b.polygon((108, 119), (150, 119), (143, 127), (114, 127)), b.mix("#7a3e1d", "#a35a2c", b.grain(9, 1.6, 2)))
    b.fill(b.line((108, 119.5), (150, 119.5), 1.6), "#f6ead2")
    b.fill(b.line((127, 84), (134, 82), 2.4), "#f2c230")


def meadow(b: Brush) -> None:
    """Grass with flowers, and a path to the house."""
    edge = 141 + 6 * np.sin(b.x / 60 + 0.5) + 2 * b.grain(14, 99)
    blades = b.grain(1.6, 6, 2)
    tone = b.mix("#3c7a2c", "#a9c94f", 2 * (blades - 0.25) + 0.4 * (b.grain(40, 12) - 0.5))
    b.fill(edge - b.y, tone)
    path = abs(b.x - 236 + 0.55 * (b.y - 150)) - 3 - 0.22 * (b.y - 150)
    b.fill(np.maximum(path + 1.5 * b.grain(4, 2), 152 - b.y), b.mix("#b39566", "#e4cf9d", b.grain(3, 2)))
    for x, y, colour in _flowers():
        b.fill(b.disc(x, y, 1.5), colour)
        b.fill(b.disc(x, y, 0.5), "#ffe9a0")


def _flowers() -> list[tuple[float, float, str]]:
    random = np.random.default_rng(5)
    places = np.stack([random.uniform(-30, 320, 110), random.uniform(152, 184, 110)], 1)
    colours = ("#f4493f", "#ffffff", "#f6c935", "#d95fb4")
    return [(x, y, colours[i % 4]) for i, (x, y) in enumerate(places.tolist()) if abs(x - 236 + 0.55 * (y - 150)) > 14]


def house(b: Brush) -> None:
    """A house with a roof of tiles, four windows and a chimney."""
    b.fill(b.box(247, 82, 255, 104), b.mix("#8c4a38", "#b5654d", ((b.y % 4 < 1) * 1.0 + b.grain(3, 2)) / 2))
    planks = ((b.y % 4) < 0.9) * 0.45 + 0.9 * b.grain(5, 1.8, 2) - 0.15
    b.fill(b.box(198, 112, 264, 156), b.mix("#fff6e0", "#c99f6b", planks))
    b.fill(b.box(198, 112, 264, 116), "#7a5a3c", 0.35)
    row = np.floor((b.y - 90) / 5)
    column = np.floor((b.x + 3.5 * (row % 2)) / 7)
    gaps = np.maximum((b.y - 90) % 5 < 1.2, (b.x + 3.5 * (row % 2)) % 7 < 1)
    tiles = b.mix("#d9573a", "#8e2a1e", 1.6 * (grain(0.71 * column, 0.83 * row, 1) - 0.2))
    b.fill(b.polygon((208, 90), (254, 90), (270, 114), (192, 114)), b.mix(tiles, "#6b1a14", 0.7 * gaps))
    b.fill(b.line((192, 114), (270, 114), 2), "#5b1a13")
    for x in (204, 245):
        _window(b, x, 121)
    b.fill(b.box(224, 126, 238, 156), b.mix("#2f6f6a", "#245652", ((b.x % 3) < 0.8) * 1.0))
    b.fill(b.disc(235, 142, 1.1), "#f2c230")
    b.fill(b.box(222, 124, 240, 127), "#ffffff")
    _window(b, 226, 97, 10, 9)
    b.fill(b.box(196, 154, 266, 158), b.mix("#8d8577", "#b9b1a1", b.grain(4, 2)))


def _window(b: Brush, left: float, top: float, width: float = 13, height: float = 17) -> None:
    b.fill(b.box(left - 1.5, top - 1.5, left + width + 1.5, top + height + 1.5), "#ffffff")
    glass = b.mix("#2b4f7d", "#9cc7ea", (b.x - left + top + height - b.y) / (width + height))
    b.fill(b.box(left, top, left + width, top + height), glass)
    b.fill(b.box(left + width / 2 - 0.6, top, left + width / 2 + 0.6, top + height), "#ffffff")
    b.fill(b.box(left, top + height / 2 - 0.6, left + width, top + height / 2 + 0.6), "#ffffff")


def tree(b: Brush) -> None:
    """An old tree on the left."""
    bark = b.mix("#4b2f1c", "#8a6240", b.grain(1.6, 9, 2))
    b.fill(b.polygon((38, 112), (47, 112), (52, 166), (33, 166)), bark)
    b.fill(b.line((42, 124), (57, 106), 4), bark)
    leaves = b.grain(3.4, 3.4, 3)
    crown = np.min([b.disc(*each) for each in ((40, 84, 21), (25, 97, 16), (57, 95, 17), (42, 106, 17))], axis=0)
    light = 2.4 * (leaves - 0.42) + 0.016 * (98 - b.y) + 0.008 * (40 - b.x) + 0.4
    b.fill(crown + 6 * (leaves - 0.5), b.mix("#1f5a24", "#b4cf4a", light))


def balloon(b: Brush) -> None:
    """A hot-air balloon with stripes."""
    x, y, radius = 165, 31, 22
    b.fill(b.line((153, 47), (161, 71), 0.8), "#4b3a2a")
    b.fill(b.line((177, 47), (169, 71), 0.8), "#4b3a2a")
    skin = np.minimum(b.disc(x, y, radius), b.polygon((144.5, 38), (185.5, 38), (171, 60), (159, 60)))
    across = (b.x - x) / np.clip(radius * 1.03 - 0.012 * np.maximum(b.y - y, 0) ** 2, 6, None)
    stripe = np.arcsin(np.clip(across, -1, 1)) / np.pi * 7
    kind = np.floor(stripe + 0.5).astype(int) % 3
    colours = np.array([[0.90, 0.20, 0.18], [0.98, 0.80, 0.22], [0.15, 0.40, 0.72]], np.float32)[kind]
    shade = 1.06 - 0.42 * np.clip(((b.x - x + 6) ** 2 + (b.y - y + 8) ** 2) / radius**2 / 2.2, 0, 1)
    b.fill(skin, colours * shade[..., None])
    b.fill(np.maximum(skin, abs(b.y - 34 - 2.2 * np.cos(3 * stripe)) - 2.6), "#ffffff", 0.85)
    b.fill(b.box(159.5, 70, 170.5, 79), b.mix("#6b4423", "#b98a4e", ((b.x + b.y) % 3 < 1.5) * 1.0))
