"""Show what train_denoiser.py found, as a table, also in a page.

python examples/benchmarks/denoiser_report.py [FILE.jsonl] [--page docs/denoiser.md]

FILE is what `train_denoiser.py --out` wrote; without it, the results that lie beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from report import write_between

FOUND = Path(__file__).parent / "results" / "train_denoiser.jsonl"
MARKS = "<!-- trained: written by examples/benchmarks/denoiser_report.py -->", "<!-- /trained -->"
BASE = "predicted"
Line = dict[str, Any]


def read(path: Path = FOUND) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def difference(rows: list[Line], arm: str, flow: str) -> tuple[float, float]:
    """Return by how many dB an arm is better than prediction, on average over seeds that have both, and the standard error."""
    of = {(row["arm"], row["seed"]): row["psnr"][flow] for row in rows}
    found = [value - of[BASE, seed] for (name, seed), value in of.items() if name == arm and (BASE, seed) in of]
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return statistics.fmean(found) if found else math.nan, error


def table(lines: list[Line]) -> str:
    """Return the results as a table of Markdown."""
    setting, *rows = lines
    flows = list(rows[0]["psnr"]) if rows else []
    titles = " | ".join("DIS flow" if flow == "DIS" else f"flow off by {flow} px" for flow in flows)
    shown = [f"| where it looks | {titles} | weights | s a step |", "| --- |" + " ---: |" * (len(flows) + 2)]
    for arm, costs in setting["arms"].items():
        cells = [_cell(rows, arm, flow) for flow in flows]
        cells += [f"{costs['weights'] / 1000:.1f} k", f"{costs['seconds']:.3f}"]
        shown.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(shown)


def _cell(rows: list[Line], arm: str, flow: str) -> str:
    """Return the mean PSNR, and by how much it is better than that of prediction."""
    found = [row["psnr"][flow] for row in rows if row["arm"] == arm]
    if not found:
        return ""
    mean = f"{statistics.fmean(found):.2f}"
    if arm == BASE:
        return mean
    better, error = difference(rows, arm, flow)
    return f"{mean} ({better:+.2f}{'' if math.isnan(error) else f' ± {error:.2f}'})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FOUND, help="what train_denoiser.py --out wrote")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table into a page")
    given = parser.parse_args(arguments)
    found = table(read(given.file))
    print(found)
    if given.page:
        write_between(given.page, MARKS, found)


if __name__ == "__main__":
    main()
