"""Pictures and tables of results from a GPU, made of a few rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))

import gpu_report
from gpu_goals import GOALS, HD

PAGE = Path(__file__).parent.parent / "docs" / "speed_gpu.md"
MODELLED = json.loads(gpu_report.MODELLED.read_text(encoding="utf-8"))
ROWS = [
    {"step": "machine", "row": "machine", "device": "Fake <1>"},
    *(
        {"step": "sweep", "row": f"window {n}", "axis": "window", "at": n, "ms": n * n / 10, "MB": 10.0 * n}
        for n in (3, 5, 9)
    ),
    {"step": "sweep", "row": "pixels", "axis": "pixels", "at": 4096, "ms": 0.5, "MB": 3.0},
    {"step": "sweep", "row": "patch 3", "error": "broken"},
    {"step": "goals", "row": "patch 3", "value": 0.8512, "ms": 0.8512},
    {"step": "goals", "row": "patch 1", "error": "no answer within 20 s"},
]


def test_pictures_are_drawn_of_the_rows_that_exist():
    drawn = gpu_report.plots(ROWS, "Fake <1>")
    assert set(drawn) == {"gpu_time_window.svg", "gpu_time_pixels.svg", "gpu_memory_window.svg"}
    for text in drawn.values():
        ElementTree.fromstring(text)
        assert "Fake &lt;1>" in text


def test_points_lie_where_their_values_are():
    picture = ElementTree.fromstring(gpu_report.chart("t", "x", "y", [(1, 10), (10, 100), (100, 1000)]))
    circles = picture.findall("{http://www.w3.org/2000/svg}circle")
    xs, ys = ([float(circle.get(name)) for circle in circles] for name in ("cx", "cy"))
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert ys[0] > ys[2]


def test_the_table_has_every_goal_and_marks_those_not_measured():
    text = gpu_report.table(ROWS, {"patch 3": {"value": 63.1}})
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert {goal.name for goal in (*GOALS, HD)} <= set(lines)
    assert "Fake <1>" in text.splitlines()[0]
    assert lines["patch 3"] == "| patch 3 | 0.9 ms | 0.7 | 63.1 | 0.851 |"
    assert lines["patch 1"].endswith("| no answer within 20 s |")
    assert lines["patch 7, zero flow"].endswith("| not measured |")


def test_a_page_without_marks_is_unchanged(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("nothing")
    with pytest.raises(SystemExit, match="has no marks"):
        gpu_report.write_between(file, gpu_report.MARKS, "table")
    assert file.read_text() == "nothing"


def test_the_command_writes_all_of_it(tmp_path, capsys):
    file, page = tmp_path / "gpu.json", tmp_path / "page.md"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    page.write_text("\n".join(["before", *gpu_report.MARKS, "after"]))
    assert gpu_report.main([str(file), "--plots", str(tmp_path / "plots"), "--page", str(page)]) == 0
    table = gpu_report.table(ROWS, MODELLED["goals"])
    assert page.read_text() == "\n".join(["before", gpu_report.MARKS[0], table, gpu_report.MARKS[1], "after"])
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 3
    assert "Fake" in capsys.readouterr().out


def test_the_page_has_the_table_of_the_data():
    measured = gpu_report.MODELLED.with_name("gpu.json")
    rows = [json.loads(line) for line in measured.read_text().splitlines()] if measured.exists() else []
    table = gpu_report.table(rows, MODELLED["goals"])
    assert "\n".join([gpu_report.MARKS[0], table, gpu_report.MARKS[1]]) in PAGE.read_text(encoding="utf-8")
