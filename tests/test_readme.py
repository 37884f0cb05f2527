"""Statements of README, CONTRIBUTING and the pages in docs are true."""

import importlib.util
import re
from pathlib import Path

import pytest

import shiftsearch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run_and_print_what_their_comments_say(capsys):
    shared, said = {}, []
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        if "import torch" in block and importlib.util.find_spec("torch") is None:
            continue
        exec(compile(block, "README.md", "exec"), shared)
        said += re.findall(r"^print\(.*\)  # ([^:\n]*)", block, re.MULTILINE)
    assert len(said) == 4
    assert capsys.readouterr().out.splitlines() == [text.strip() for text in said]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_the_examples_of_pages_run(page):
    pytest.importorskip("torch")
    shared: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, page.name, "exec"), shared)
    assert shared


def test_the_table_of_ops_is_the_package():
    tables = README.split("## Frames of video")[1].split("## ")[0] + README.split("## Ops")[1].split("## ")[0]
    tables += README.split("## Environment")[1]  # has the threads
    named = set(re.findall(r"`(\w+)", tables))  # flow by its functions, as in `flow.dis`
    assert set(shiftsearch.__all__) - {"ShiftsearchError"} <= named


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "command", ["pip install . && shiftsearch demo", 'pip install ".[test]" && pytest -n auto --dist loadgroup']
)
def test_ci_runs_the_commands_that_the_readme_gives(command):
    script = ROOT / ".ci" / "run"
    if not script.exists():  # an sdist
        pytest.skip("there is no CI here")
    assert f"\n    {command}\n" in README
    assert f"bash -c '{command}'" in script.read_text(encoding="utf-8")


def test_ci_runs_everything():
    script = ROOT / ".ci" / "run"
    if not script.exists():  # an sdist
        pytest.skip("there is no CI here")
    assert "\npytest --rest -n auto --dist loadgroup\n" in script.read_text(encoding="utf-8")


def test_contributing_leads_somewhere():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for file in re.findall(r"`((?:shiftsearch|tests|examples|cuda_src)/[\w./]*)`", text):
        assert (ROOT / file).exists(), file
