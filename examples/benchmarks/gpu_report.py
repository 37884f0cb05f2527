"""Show what gpu.py measured: pictures, and the table of the goals in a page.

python examples/benchmarks/gpu_report.py [FILE] [--plots FOLDER] [--page docs/speed_gpu.md]

FILE is what `gpu.py --json` wrote; without it the table has what the machine code says (results/gpu_modelled.json, written by
tests/modelled.py), and says that nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpu_goals import GOALS, HD
from report import Scale, picture, text, write_between

MODELLED = Path(__file__).parent / "results" / "gpu_modelled.json"
MARKS = "<!-- gpu: written by examples/benchmarks/gpu_report.py -->", "<!-- /gpu -->"
_AXES = {
    "window": "candidates along a side of the window",
    "patch": "pixels along a side of a patch",
    "channels": "channels of a head",
    "pixels": "pixels of a frame",
}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 480, 320, 64, 48, 32
Row = dict[str, Any]
Points = list[tuple[float, float]]


# --- pictures -------------------------------------------------------------------------------------
def plots(rows: list[Row], device: str) -> dict[str, str]:
    """Return pictures by the names of their files: time along each axis, and memory against the window."""
    swept = [row for row in rows if row.get("step") == "sweep" and "ms" in row]
    found = {}
    for axis, label in _AXES.items():
        here = sorted((row for row in swept if row["axis"] == axis), key=lambda row: row["at"])
        if here:
            times = [(row["at"], row["ms"]) for row in here]
            found[f"gpu_time_{axis}.svg"] = chart(f"search on {device}", label, "milliseconds", times)
    window = sorted((row["at"], row["MB"]) for row in swept if row["axis"] == "window")
    if window:
        found["gpu_memory_window.svg"] = chart(f"search on {device}", _AXES["window"], "megabytes", window)
    return found


def chart(title: str, across: str, up: str, points: Points) -> str:
    """Draw points and the line through them as SVG, with a logarithmic scale on both axes."""
    xs, ys = Scale([x for x, _ in points], _LEFT, _WIDTH - 16), Scale([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [text(_WIDTH / 2, 18, title, "middle"), text(_WIDTH / 2, _HEIGHT - 8, across, "middle")]
    parts.append(f'<g transform="rotate(-90 14 {_HEIGHT / 2})">{text(14, _HEIGHT / 2, up, "middle")}</g>')
    for x, _ in points:
        parts.append(text(xs(x), _HEIGHT - _BOTTOM + 16, f"{x:g}", "middle"))
    for y in ys.ticks():
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 16}" y1="{ys(y):.1f}" y2="{ys(y):.1f}" stroke="#ddd"/>')
        parts.append(text(_LEFT - 6, ys(y) + 4, f"{y:g}", "end"))
    line = " ".join(f"{xs(x):.1f},{ys(y):.1f}" for x, y in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f6fb4" stroke-width="2"/>')
    parts += [f'<circle cx="{xs(x):.1f}" cy="{ys(y):.1f}" r="3" fill="#1f6fb4"/>' for x, y in points]
    return picture(_WIDTH, _HEIGHT, parts)


# --- the table ------------------------------------------------------------------------------------
def table(rows: list[Row], modelled: dict[str, Row]) -> str:
    """Return the goals as a table of Markdown, with what was measured or the words that nothing was."""
    measured = {row["row"]: row for row in rows if row.get("step") in ("goals", "full hd")}
    device = next((row["device"] for row in rows if row.get("row") == "machine" and "device" in row), None)
    lines = [f"| case | goal | hoped for | modelled | {device or 'measured'} |", "| --- | ---: | ---: | ---: | ---: |"]
    for goal in (*GOALS, HD):
        cells = [f"{goal.must:g} {goal.unit}", f"{goal.stretch:g}"]
        cells += [_figure(modelled.get(goal.name)), _figure(measured.get(goal.name), "not measured")]
        lines.append(f"| {goal.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(row: Row | None, missing: str = "") -> str:
    if row is None:
        return missing
    if "value" not in row:
        return str(row.get("error", missing))
    return f"{row['value']:.0f}" if row["value"] >= 100 else f"{row['value']:.3g}"


def main(arguments: list[str] | None = None) -> int:
    from gpu import read

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", help="what gpu.py --json wrote")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw pictures (SVG) there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table into a page")
    given = parser.parse_args(arguments)
    rows = read(given.file)
    words = table(rows, json.loads(MODELLED.read_text())["goals"])
    print(words)
    if given.page:
        write_between(given.page, MARKS, words)
    if given.plots:
        given.plots.mkdir(parents=True, exist_ok=True)
        device = next((row["device"] for row in rows if row.get("row") == "machine"), "a GPU")
        for name, drawn in plots(rows, device).items():
            (given.plots / name).write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
