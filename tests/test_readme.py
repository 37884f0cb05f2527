"""Statements of README, CONTRIBUTING, CITATION.cff and the pages in docs are true."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from pathlib import Path
from statistics import fmean

import clips
import pytest

import shiftsearch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "examples" / "benchmarks"))
tables = importlib.import_module("tables")

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in tables.PAGES}
README = PAGES["README.md"]
CI = ROOT / ".ci" / "run"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and page != "docs/errors.md"])
def test_the_examples_run_and_print_what_their_comments_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "noisy.mp4" in PAGES[page]:
        clips.make("noisy.mp4", frames=4)
    if "torch" in PAGES[page]:
        pytest.importorskip("torch")
    shared: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), shared)
        said = re.findall(r"^print\(.*\)  # ([^:\n]*)", block, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == [text.strip() for text in said]


def test_the_readme_is_short_and_its_examples_have_ten_lines():
    assert len(README.splitlines()) <= 150
    assert len(blocks("README.md")) == 3
    assert all(len(block.splitlines()) <= 10 for block in blocks("README.md"))


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables_are_those_of_the_results(name):
    begin, end = tables.marks(name, "tables.py")
    found = [page for page in PAGES.values() if begin in page]
    assert found
    assert all(page.split(begin)[1].split(end)[0].strip() == tables.TABLES[name]() for page in found)


def test_what_the_page_of_quality_says_is_in_the_results():
    said = " ".join(PAGES["docs/quality.md"].split())

    rows = tables.read("align")
    noisy, clean = rows["search in frames with noise of sigma 15"], rows["search in clean frames"]
    groups = (slice(0, 5), slice(10, 15), slice(None))
    gains = [
        fmean(list(clean["align"].values())[g]) - fmean(list(clean["DIS flow, bilinear"].values())[g]) for g in groups
    ]
    assert "are {:.1f}, {:.1f} and {:.1f} dB, in the order of the columns".format(*gains) in said
    least = re.search(r"on every scene, `align` is at least ([\d.]+) dB above", said, re.IGNORECASE)
    assert least
    assert all(db - noisy["DIS flow, bilinear"][clip] >= float(least[1]) for clip, db in noisy["align"].items())

    for ours, theirs in tables.PEERS.items():
        above = [list(tables.above_peers(ours, *kind).values()) for kind in tables.KINDS]
        means = [fmean(each) for each in above]
        assert f'"{ours}" is {min(means):.1f} to {max(means):.1f} dB above {theirs} in the mean' in said
    losses = {
        ours: {
            (kind, clip): -value
            for kind in tables.KINDS
            for clip, value in tables.above_peers(ours, *kind).items()
            if value < 0
        }
        for ours in tables.PEERS
    }
    grey, colour = (losses["high"].pop(((kind, 10), "car")) for kind in ("grey", "colour"))
    assert (
        f"below it by {grey:.2f} dB on car, which is nearly flat, with noise 10 in grey, and in colour by {colour:.2f}"
        in said
    )
    assert {clip for _, clip in losses["high"]} == {"parkjoy", "seeking"}
    assert f"below it by at most {max(losses['high'].values()):.2f} dB on parkjoy and seeking" in said
    seeking = losses["fast"].pop((("grey", 50), "seeking"))
    assert f"and by {seeking:.2f} dB on seeking with noise 50 in grey" in said
    assert {clip for _, clip in losses["fast"]} == {"parkjoy", "teddy"}
    assert {kind for kind, _ in losses["fast"]} == {("grey", 10), ("colour", 10), ("grey", 20)}
    assert f"below it by at most {max(losses['fast'].values()):.2f} dB, on parkjoy and teddy, with noise 10 and" in said

    cells = re.findall(r"^\| (.*?) \| .*? / (.*?) / (\d.*?) \| .*? / (.*?) / (\d.*?) \|", tables.noise(), re.MULTILINE)
    above = {(kind, n): float(row[n]) - float(row[n + 1]) for kind, *row in cells for n in (0, 2)}
    assert f"at most {-min(above.values()):.2f} dB behind the best" in said
    coarse = [gain for (kind, _), gain in above.items() if kind in ("upscaled", "blurred", "film grain")]
    assert len(coarse) == 6
    assert f"{min(coarse):.1f} to {max(coarse):.1f} dB above" in said
    photons = [row for row in tables.read("noise")["rows"] if row["noise"] == "Poisson" and row["clip"] != "texture"]
    more = max(row["known"] - row["found"] for row in photons)
    assert f"true parameters of the noise of photons give at most {more:.2f} dB more" in said


def test_what_the_page_of_quality_says_of_pans_is_in_the_results():
    said = " ".join(PAGES["docs/quality.md"].split())
    found = {(row["clip"], row["pan"], row["method"]): row["psnr"] for row in tables.read("pans")["rows"]}
    clips = dict.fromkeys(key[:2] for key in found)
    lost = {
        (clip, ours): found[*clip, f"{ours}, true flow"] - found[*clip, ours] for clip in clips for ours in tables.PEERS
    }
    most = max(lost, key=lost.get)
    others = max(loss for (clip, _), loss in lost.items() if clip[0] != most[0][0])
    assert f"at most {lost[most]:.2f} dB below what it is with true flow, on {most[0][0]}" in said
    assert f"elsewhere at most {others:.2f} dB" in said
    for ours, theirs in tables.PEERS.items():
        above = [found[*clip, ours] - found[*clip, theirs] for clip in clips]
        assert f'"{ours}" {min(above):.1f} to {max(above):.1f} dB above {theirs}' in said.replace("is ", "")


def test_what_the_page_of_quality_says_of_pairs_is_in_the_results():
    said = " ".join(PAGES["docs/quality.md"].split())
    gained = {
        (value, sigma): tables.pairs_gained(sigma, value) for value, sigma in itertools.product(("dB", "EPE"), (15, 0))
    }
    won = [f"{sum(gain >= 0 for gain in gains)} of {len(gains)}" for gains in gained.values()]
    told = "not below its flow on {} pairs with noise 15, and on {} clean ones. Its EPE is not larger on {} with noise, and on {}"
    assert told.format(*won) in said
    decibels, pixels = (-min(*gained[value, 15], *gained[value, 0]) for value in ("dB", "EPE"))
    assert f"The most that it loses is {decibels:.2f} dB, and {pixels:.2f} pixels" in said
    rows = [row["methods"] for row in tables.read("align_pairs")["rows"] if row["pair"].startswith("leuven")]
    ahead = [row["align, given DIS"]["dB"] - row["TV-L1, bicubic"]["dB"] for row in rows]
    assert f"TV-L1 of scikit-image is {min(ahead):.1f} to {max(ahead):.1f} dB behind it there" in said


def test_marks_name_a_table_and_the_script_that_writes_it():
    for page in PAGES.values():
        for name, script in re.findall(r"<!-- ([\w ]+): written by (\S+) -->", page):
            assert f"<!-- /{name} -->" in page
            text = (ROOT / script).read_text(encoding="utf-8")
            assert f"<!-- {name}:" in text or f'"{name}"' in text


def test_the_tables_of_functions_are_the_package():
    named = {
        name for page in ("frames", "ops", "environment") for name in re.findall(r"`(\w+)", PAGES[f"docs/{page}.md"])
    }
    assert set(shiftsearch.__all__) - {"ShiftsearchError"} <= named


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert "://" in target or (folder / target).exists(), target


def test_the_index_has_every_page():
    linked = re.findall(r"\]\(([^)]+)\.md\)", PAGES["docs/index.md"])
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {*linked, "index"} == pages


@pytest.mark.parametrize(
    "command", ["pip install . && shiftsearch demo", 'pip install ".[test]" && pytest -n auto --dist loadgroup']
)
def test_ci_runs_the_commands_that_the_readme_gives(command):
    if not CI.exists():  # an sdist
        pytest.skip("there is no CI here")
    assert f"\n    {command}\n" in README
    assert f"bash -c '{command}'" in CI.read_text(encoding="utf-8")


def test_ci_runs_everything():
    if not CI.exists():  # an sdist
        pytest.skip("there is no CI here")
    assert "\npytest --rest -n auto --dist loadgroup\n" in CI.read_text(encoding="utf-8")


def test_ci_builds_the_site_with_warnings_as_errors():
    if not CI.exists():  # an sdist
        pytest.skip("there is no CI here")
    assert "\nsphinx-build -W " in CI.read_text(encoding="utf-8")


def test_contributing_leads_somewhere():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for file in re.findall(r"`((?:shiftsearch|tests|examples|cuda_src|docs)/[\w./]*)`", text):
        assert (ROOT / file).exists(), file


def test_the_citation_has_what_its_format_asks_for_and_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^([\w-]+):[ \n](.*)", text, re.MULTILINE))
    assert {"cff-version", "message", "title", "authors"} <= set(keys)
    assert keys["cff-version"] == "1.2.0"
    assert keys["version"] == shiftsearch.__version__
    assert keys["license"] == "BSD-3-Clause"
    paper = text.split("references:")[1]
    assert "Gauen" in paper
    assert "2309.16849" in paper
    assert "2309.16849" in README
