"""The demo shows what it says it does."""

import runpy
from pathlib import Path

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


def test_search_makes_the_error_of_the_flow_smaller_each_time(capsys):
    table = runpy.run_path(str(DEMO))["main"](frames=3, height=40, width=56)
    given, whole, half = (error for error, _ in table.values())
    assert given > 1.2
    assert whole < 0.4 * given
    assert half < 0.8 * whole
    assert "s / Mpixel" in capsys.readouterr().out


def test_the_flow_of_the_clip_leads_to_the_same_texture():
    clip, flow = runpy.run_path(str(DEMO))["moving_clip"](3, 24, 40, noise=0)
    dx, dy = flow[0, 0, :, 12, 20]
    y, x = 12 + dy, 20 + dx
    top, left, fy, fx = int(y), int(x), y % 1, x % 1
    rows = clip[1, :, top : top + 2, left : left + 2]
    there = (1 - fy) * (rows[:, 0] @ [1 - fx, fx]) + fy * (rows[:, 1] @ [1 - fx, fx])
    assert abs(there - clip[0, :, 12, 20]).max() < 0.2  # clip has standard deviation 1
