"""Show what compare_attention.py found: its table in a page, and a picture of accuracy against operations.

python examples/benchmarks/attention_report.py [FILE] [--plot FILE.svg] [--page docs/systems.md]

FILE is what `compare_attention.py --out` wrote; without it, the results that lie beside this file.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from report import Scale, picture, text, write_between

FOUND = Path(__file__).parent / "results" / "compare_attention.json"
MARKS = "<!-- compared: written by examples/benchmarks/attention_report.py -->", "<!-- /compared -->"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 400, 56, 48, 40, 24
Row = dict[str, Any]


def table(result: Row) -> str:
    """Return the results as a table of Markdown."""
    lines = [f"| system | accuracy | weights | MFLOP a clip | ms a step of {result['batch']} | memory of a step |"]
    lines.append("| --- |" + " ---: |" * 5)
    for name, row in result["systems"].items():
        cells = [
            f"{row['accuracy']:.1%}".replace("%", " %"),
            f"{row['weights'] / 1e6:.2f} M",
            f"{row['flops'] / 1e6:.0f}",
        ]
        cells += [f"{1000 * row['seconds_per_step']:.0f}", f"{row['memory'] / 1e6:.0f} MB" if row["memory"] else ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(result: Row) -> str:
    """Draw accuracy against operations as SVG, with a logarithmic scale of operations."""
    rows = result["systems"]
    xs = Scale([row["flops"] / 1e6 for row in rows.values()], _LEFT + 40, _WIDTH - _RIGHT - 110)
    parts = [text(_WIDTH / 2, 20, "systems of attention, on clips that they were not trained on", "middle")]
    parts.append(text(_WIDTH / 2, _HEIGHT - 8, "million operations for a clip", "middle"))
    parts.append(f'<g transform="rotate(-90 14 {_HEIGHT / 2})">{text(14, _HEIGHT / 2, "accuracy in %", "middle")}</g>')
    parts += [text(xs(tick), _HEIGHT - _BOTTOM + 16, f"{tick:g}", "middle") for tick in xs.ticks()]
    for percent in range(0, 101, 20):
        parts += [_line(_up(percent), "#ddd"), text(_LEFT - 6, _up(percent) + 4, str(percent), "end")]
    parts += [
        _line(_up(100 * result["chance"]), "#c33"),
        text(_LEFT + 4, _up(100 * result["chance"]) - 4, "chance", "start"),
    ]
    places = [(xs(row["flops"] / 1e6), _up(100 * row["accuracy"])) for row in rows.values()]
    for name, (x, y), label in zip(rows, places, _apart([x for x, _ in places]), strict=True):
        down = 1 if y < _up(50) else -1
        at = f"{label:.1f} {y + 28 * down:.1f}"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1f6fb4"/>')
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{label:.1f}" y2="{y + 24 * down:.1f}" stroke="#1f6fb4"/>')
        parts.append(f'<g transform="rotate({60 * down} {at})">{text(label, y + 28 * down + 4, name, "start")}</g>')
    return picture(_WIDTH, _HEIGHT, parts)


def _up(percent: float) -> float:
    return _HEIGHT - _BOTTOM - percent / 100 * (_HEIGHT - _BOTTOM - _TOP)


def _line(y: float, colour: str) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>'


def _apart(places: list[float], least: float = 18) -> list[float]:
    """Return places moved to the right so far that no two are nearer than this, in their order, around the same middle."""
    moved = list(places)
    order = sorted(range(len(places)), key=places.__getitem__)
    for before, n in pairwise(order):
        moved[n] = max(moved[n], moved[before] + least)
    back = sum(moved[n] - places[n] for n in order) / max(len(order), 1)
    return [place - back for place in moved]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FOUND, help="what compare_attention.py --out wrote")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the picture there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table into a page")
    given = parser.parse_args(arguments)
    result = json.loads(given.file.read_text())
    print(table(result))
    if given.page:
        write_between(given.page, MARKS, table(result))
    if given.plot:
        given.plot.write_text(plot(result), encoding="utf-8")


if __name__ == "__main__":
    main()
