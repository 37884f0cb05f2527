"""The site: every public name is in its reference, and figures, plots, pictures, messages and notebooks are current."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import emulate
import numpy as np
import pytest
from device_arrays import OnDevice
from test_gpu_video import gpu as gpu

from shiftsearch.__main__ import _parser

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS / "make"))
figures, notebooks, pages, plots = map(importlib.import_module, ("figures", "notebooks", "pages", "plots"))

PARTS = ["shiftsearch", "shiftsearch.flow", "shiftsearch.nn", "shiftsearch.models"]
PARTS += ["shiftsearch.video.io", "shiftsearch.video.align", "shiftsearch.video.denoise"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_is_in_the_reference(part):
    pytest.importorskip("torch")
    blocks = re.split(r"\.\. currentmodule:: (.*)\n", read(DOCS / "reference.md"))[1:]
    described = [
        getattr(importlib.import_module(module), name)
        for module, text in zip(blocks[::2], blocks[1::2], strict=True)
        for name in re.findall(r"\.\. auto\w+:: (\w+)", text)
    ]
    home = importlib.import_module(part)
    for name in set(home.__all__) - {"flow"}:  # a module, whose own names follow
        assert any(getattr(home, name) is one for one in described), name


def test_the_pages_of_commands_have_every_command_and_option():
    text = read(DOCS / "command_line.md") + read(DOCS / "batch.md")
    commands = next(action.choices for action in _parser()._actions if action.dest == "command")
    for name, command in commands.items():
        assert f"\n    shiftsearch {name}" in text, name
        for options in (action.option_strings for action in command._actions if action.dest != "help"):
            assert not options or any(re.search(rf"{option}\b", text) for option in options), (name, options)


DRAWINGS = [pytest.param(*figure, marks=pytest.mark.full, id=figure[0]) for figure in figures.FIGURES.items()]
DRAWINGS += [pytest.param(*plot, id=plot[0]) for plot in plots.PLOTS.items()]


@pytest.mark.parametrize(("name", "draw"), DRAWINGS)
def test_drawings_are_current(name, draw):
    drawn = draw()
    ElementTree.fromstring(drawn)
    assert drawn == read(DOCS / "pictures" / f"{name}.svg")


def test_every_drawing_is_shown():
    text = "".join(map(read, [DOCS.parent / "README.md", *DOCS.glob("**/*.md")]))
    assert all(f"pictures/{path.name}" in text for path in (DOCS / "pictures").iterdir())


def test_the_contents_have_every_page():
    listed = re.findall(
        r"^([\w/]+)$", "".join(re.findall(r"```{toctree}(.*?)```", read(DOCS / "index.md"), re.S)), re.M
    )
    assert sorted([*listed, "index"]) == sorted(page.relative_to(DOCS).as_posix()[:-3] for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", pages.TUTORIALS, ids=lambda page: page.stem)
def test_notebooks_are_made_of_the_tutorials(page):
    assert read(DOCS / "notebooks" / f"{page.stem}.ipynb") == notebooks.notebook(read(page))
    assert f"/docs/notebooks/{page.stem}.ipynb" in read(page)


@pytest.mark.full
@pytest.mark.parametrize("page", pages.TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run_print_what_they_say_and_draw_their_pictures(page, tmp_path, monkeypatch, capsys):
    for library in ("matplotlib", "skimage", "torch", "vapoursynth"):
        if f"import {library}" in read(page) or f"from {library}" in read(page):
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pages.run(page)
    said = re.findall(r"^print\(.*\)  # (.*)", read(page), re.MULTILINE)
    lines = capsys.readouterr().out.splitlines()
    assert said
    assert [line for line in lines if line in said] == said
    for name in pages.drawn(page):
        import matplotlib.image

        drawn, kept = (matplotlib.image.imread(folder / name) / 255 for folder in (tmp_path, DOCS / "pictures"))
        assert drawn.shape == kept.shape
        assert np.abs(drawn - kept).mean() < 0.01


@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
def test_the_tutorial_of_gpus_runs_on_one(gpu, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(asarray=lambda array: array.view(OnDevice)))
    block = next(code for code in pages.BLOCK.findall(read(DOCS / "tutorials" / "gpu.md")) if "cupy" in code)
    exec(
        compile(block, "gpu.md", "exec"),
        shared := {"device": "cuda", "shiftsearch": importlib.import_module("shiftsearch")},
    )
    assert isinstance(shared["clean"], OnDevice)
    assert capsys.readouterr().out == "True\n"


def test_messages_are_those_that_the_library_gives():
    pytest.importorskip("torch")
    pytest.importorskip("av")
    page = read(pages.ERRORS)
    assert pages.with_messages(page) == page
    assert all(block["text"] for block in pages.SAYS.finditer(page))


def test_names_that_others_are_led_to_exist():
    pytest.importorskip("torch")
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", read(DOCS / "coming_from.md"), re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`((?:nn|flow|models|vapoursynth)\.\w+|\w+(?=\())", row)}
    assert len(names) >= 20
    for name in names:
        home, _, last = f"shiftsearch.{name}".rpartition(".")
        assert hasattr(importlib.import_module(home), last), name
