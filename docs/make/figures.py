"""Draw the figures of docs/concepts.md: frames, flow, window, patch and what is returned, as the library computes them.

python docs/make/figures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import shiftsearch
from shiftsearch._geometry import patch_offsets

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "examples" / "benchmarks"))

from report import picture, text  # noqa: E402 - the folder is known only now

PICTURES = ROOT / "docs" / "pictures"
CELL = 20  # pixels of a picture for a pixel of a frame
QUERY, FOUND, SEEN, OWN, LINE = "#1f6fb4", "#d9480f", "#cfe3f5", "#7db5e8", "#bbb"
Place = tuple[float, float]  # row, column


class Frame:
    """A frame of so many rows and columns at a place of a picture, of which pixels can be marked."""

    def __init__(self, left: float, top: float, rows: int, columns: int, title: str):
        self.left, self.top = left, top
        right, bottom = left + columns * CELL, top + rows * CELL
        lines = [(left, top + n * CELL, right, top + n * CELL) for n in range(rows + 1)]
        lines += [(left + n * CELL, top, left + n * CELL, bottom) for n in range(columns + 1)]
        self.parts = [line(*ends, LINE) for ends in lines]
        self.parts.append(text((left + right) / 2, top - 8, title, "middle"))

    def middle(self, place: Place) -> tuple[float, float]:
        """Return x and y of the middle of a pixel."""
        return self.left + (place[1] + 0.5) * CELL, self.top + (place[0] + 0.5) * CELL

    def fill(self, place: Place, colour: str, label: str = "") -> None:
        x, y = self.middle(place)
        half = CELL / 2 - 1
        box = f'x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half}" height="{2 * half}"'
        self.parts.append(f'<rect {box} fill="{colour}"/>')
        if label:
            self.parts.append(text(x, y + 4, label, "middle"))

    def outline(self, top: float, left: float, rows: float, columns: float, colour: str) -> None:
        x, y = self.left + left * CELL, self.top + top * CELL
        box = f'x="{x:.1f}" y="{y:.1f}" width="{columns * CELL:.1f}" height="{rows * CELL:.1f}"'
        self.parts.append(f'<rect {box} fill="none" stroke="{colour}" stroke-width="2"/>')

    def dot(self, place: Place, colour: str, radius: float = 3) -> None:
        x, y = self.middle(place)
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def arrow(start: tuple[float, float], end: tuple[float, float], colour: str) -> list[str]:
    """Return a line with a head at its end."""
    (x1, y1), (x2, y2) = start, end
    along = np.arctan2(y2 - y1, x2 - x1)
    heads = [(x2 - 9 * np.cos(along + turn), y2 - 9 * np.sin(along + turn)) for turn in (-0.4, 0.4)]
    return [line(x1, y1, x2, y2, colour, 2), *(line(x2, y2, x, y, colour, 2) for x, y in heads)]


# --- the figures ----------------------------------------------------------------------------------
def frames(count: int = 6, radius: int = 1) -> str:
    """Draw which frames each frame is searched in, with the number of its slot."""
    grid = Frame(190, 60, count, count, "frame that is searched")
    for t, order in enumerate(shiftsearch.neighbours(count, radius)):
        grid.parts.append(text(grid.left + (t + 0.5) * CELL, grid.top + count * CELL + 16, str(t), "middle"))
        grid.parts.append(text(grid.left - 8, grid.middle((t, 0))[1] + 4, f"queries of frame {t}", "end"))
        for slot, there in enumerate(order):
            grid.fill((t, int(there)), OWN if slot == 0 else SEEN, str(slot))
    words = "0 is the slot of the frame itself; the others lead forward, then back"
    return picture(520, 220, [*grid.parts, text(260, 24, f"radius={radius}: {words}", "middle")])


def flow() -> str:
    """Draw a pixel, and where its flow of (dx, dy) = (4, 2) leads."""
    (y, x), (dx, dy) = (3, 3), (4, 2)
    here, there = Frame(30, 60, 9, 11, "frame t"), Frame(300, 60, 9, 11, "frame t + 1")
    here.fill((y, x), QUERY)
    there.fill((y + dy, x + dx), FOUND)
    there.fill((y, x), SEEN)
    parts = [*here.parts, *there.parts]
    corner = there.middle((y, x + dx))
    parts += arrow(there.middle((y, x)), corner, QUERY) + arrow(corner, there.middle((y + dy - 0.5, x + dx)), QUERY)
    parts += [text(*_moved(there.middle((y, x + dx / 2)), 0, -8), "dx = 4", "middle")]
    parts += [
        text(*_moved(corner, 8, 24), "dy = 2", "start"),
        text(*_moved(here.middle((y, x)), 0, -14), "r", "middle"),
    ]
    parts += [text(*_moved(there.middle((y + dy, x + dx)), 0, 26), "a = r + flow", "middle")]
    return picture(
        550, 260, [*parts, text(275, 24, "flow has two channels: 0 is dx, to the right, and 1 is dy, down", "middle")]
    )


def window() -> str:
    """Draw the candidates of windows of 5 x 5: inside, slid inside at a border, and on half pixels."""
    parts = []
    cases = [
        ("in the middle", (4, 4), {}),
        ("at the border: slide=True", (4, 0), {}),
        ("at the border: slide=False", (4, 0), {"slide": False}),
        ("step=0.5", (4, 4), {"step": 0.5, "subpixel": True}),
    ]
    for n, (title, place, options) in enumerate(cases):
        frame = Frame(30 + 215 * n, 60, 8, 8, title)
        frame.fill(place, SEEN)
        for candidate in candidates(place, (8, 8), window=5, **options):
            frame.dot(candidate, FOUND)
        frame.dot(place, QUERY, 5)
        parts += frame.parts
    words = "window=5: 25 candidates around where the flow leads (blue)"
    return picture(860, 240, [*parts, text(430, 24, words, "middle")])


def candidates(place: tuple[int, int], size: tuple[int, int], **options) -> np.ndarray:
    """Return the rows and columns of all places that a search compares with one pixel, where it has no flow."""
    image = np.zeros((1, *size))
    _, offsets = shiftsearch.match(image, image, topk=None, **options)
    return np.asarray(offsets[0, place[0], place[1]], float) + place


def patch() -> str:
    """Draw the pixels that are compared for one pair: patches of odd and even size, and with dilation."""
    parts = []
    for n, (size, dilation) in enumerate([(3, 1), (4, 1), (3, 2)]):
        frame = Frame(30 + 200 * n, 60, 7, 7, f"patch={size}" + (f", dilation={dilation}" if dilation > 1 else ""))
        pixels = np.asarray(patch_offsets(size, dilation))
        for dy in pixels:
            for dx in pixels:
                frame.fill((3 + dy, 3 + dx), SEEN)
        frame.fill((3, 3), QUERY)
        parts += frame.parts
    words = "a score sums over these pixels of both frames, and over channels"
    return picture(640, 230, [*parts, text(320, 24, words, "middle")])


def returned() -> str:
    """Draw the three best places of one pixel of a clip that moves by 2 rows and 3 columns per frame."""
    still = np.random.default_rng(0).standard_normal((1, 9, 11))
    clip = np.stack([np.roll(still, (2 * t, 3 * t), (1, 2)) for t in range(-1, 2)])
    guess = np.stack([np.full((3, 9, 11), 2.0), np.full((3, 9, 11), 1.0)], 1)  # a little off: dx 3, dy 2 are true
    scores, offsets = shiftsearch.search(clip, clip, (guess, -guess), window=3, topk=3, patch=1)
    y, x = 4, 5
    parts = []
    boxes = {dt: Frame(30 + 260 * (dt + 1), 60, 9, 11, f"frame t {dt:+d}" if dt else "frame t") for dt in (-1, 0, 1)}
    boxes[0].fill((y, x), QUERY)
    for n, (dt, dy, dx) in enumerate(offsets[0, 1, y, x].tolist()):
        box = boxes[dt]
        if dt:
            box.outline(y + dt - 1, x + 2 * dt - 1, 3, 3, QUERY)
            box.dot((y, x), QUERY)
            box.parts += arrow(box.middle((y, x)), box.middle((y + dy, x + dx)), FOUND)
        box.parts.append(text(box.left + 110, 262, f"offsets[..., {n}, :] = ({dt}, {dy}, {dx})", "middle"))
        box.parts.append(text(box.left + 110, 280, f"score {abs(scores[0, 1, y, x, n]):.1f}", "middle"))
    for box in boxes.values():
        parts += box.parts
    words = "topk=3: the best places, as (dt, dy, dx) from the query (blue); its windows lie around a flow that is a little off"
    return picture(810, 300, [*parts, text(405, 24, words, "middle")])


def _moved(place: tuple[float, float], x: float, y: float) -> tuple[float, float]:
    return place[0] + x, place[1] + y


FIGURES = {"frames": frames, "flow": flow, "window": window, "patch": patch, "returned": returned}


def main() -> None:
    for name, draw in FIGURES.items():
        (PICTURES / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
