"""The comparison of systems, and what the examples that train have in common: they go on after interruptions, and read clips."""

from __future__ import annotations

import json
import math
import re
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path += [str(EXAMPLES), str(EXAMPLES / "benchmarks")]
torch = pytest.importorskip("torch")
pytest.importorskip("tqdm")
pytest.importorskip("av")

import attention_report  # noqa: E402 - torch may be missing
import compare_attention  # noqa: E402
import training  # noqa: E402

from shiftsearch.video import io  # noqa: E402


# --- training ---------------------------------------------------------------------------------------
def trained(*arguments: str) -> tuple[training.Trained, torch.nn.Module]:
    """Train a small network with dropout on a batch drawn in each step."""
    given = training.options("a test", 12, "none").parse_args(arguments)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def loss_of(network, random):
        return network(torch.randn(5, 4, generator=random)).square().mean()

    return training.train("small", network, loss_of, given), network


def test_training_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole, network = trained()
    step, calls = training._step, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "_step", interrupted)
    options = ("--checkpoint", str(tmp_path), "--save-every", "5")
    with pytest.raises(KeyboardInterrupt):
        trained(*options)
    resumed, other = trained(*options)
    assert len(calls) == 8 + 7  # it went on after 5 steps
    assert (resumed.steps, resumed.loss) == (12, whole.loss)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    assert trained(*options)[0] == resumed  # nothing is left to do
    with pytest.raises(SystemExit, match="other settings"):
        trained(*options, "--seed", "1")


def test_training_takes_the_minutes_that_it_is_given():
    found, _ = trained("--minutes", "0.001")
    assert found.seconds >= 0.06
    assert found.steps > 0


def test_the_rate_rises_and_falls():
    recipe = training.Recipe(rate=1.0, warm_up=0.1)
    rates = [recipe.rate_at(n / 100) for n in range(101)]
    assert rates[0] > 0
    assert rates.index(max(rates)) == 10
    assert max(rates) == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert math.isclose(rates[100], 0, abs_tol=1e-12)


# --- clips of a folder ------------------------------------------------------------------------------
def video(path: Path, frames: int, grey: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with io.write(path, rate=25, codec="ffv1") as out:
        for _ in range(frames):
            out.write(np.full((24, 40, 3), grey, np.uint8))


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("falls", "rises")):
        for n, frames in enumerate((9, 17, 3)):
            video(tmp_path / name / f"{n}.mkv", frames, 100 * label + 10 * n)
    return tmp_path


def test_clips_of_a_folder_are_for_training_or_for_the_test(folder):
    names, learnt, held = training.folder_of_clips(folder, 8, 32)
    assert names == ["falls", "rises"]
    assert learnt.clips.shape == (4, 8, 3, 32, 32)  # two of each second file; the third is too short
    assert learnt.labels.tolist() == [0, 0, 1, 1]
    assert learnt.clips[:, 0, 0, 0, 0].tolist() == [10, 10, 110, 110]
    assert held.clips[:, 0, 0, 0, 0].tolist() == [0, 100]
    clips, labels = learnt.draw(torch.Generator().manual_seed(0), 50)
    assert torch.equal(clips[:, 0, 0, 0, 0], (10 + 100 * labels) / 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "rises" / "0.mkv").write_bytes(b"no video"), "cannot be read as a video"),
        (lambda folder: [(folder / "rises" / f"{n}.mkv").unlink() for n in (1, 2)], "1 videos, expected at least two"),
        (lambda folder: (folder / "rises").rename(folder.parent / "elsewhere"), "1 sub-folders, expected one for each"),
        (lambda folder: video(folder / "falls" / "0.mkv", 7, 0), "no video of 0.mkv has 8 frames"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(folder, change, message):
    change(folder)
    with pytest.raises(SystemExit, match=message):
        training.folder_of_clips(folder, 8, 32)


# --- the comparison ---------------------------------------------------------------------------------
def test_each_frame_of_a_clip_shows_the_disc_anywhere_and_only_motion_tells_where_it_goes():
    clips, ways = compare_attention.MovingDiscs(8, 32).draw(torch.Generator().manual_seed(0), 40)
    bright = clips.mean(2) > 0.9
    for clip, way in zip(bright, ways, strict=True):
        by = tuple((4 * compare_attention.DIRECTIONS[way]).tolist())
        for before, after in pairwise(clip):
            assert before.any()
            same = (before.roll(by, (0, 1)) == after).float().mean()
            assert same > 0.97  # but for what the background adds


@pytest.mark.full
def test_every_system_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_attention, "seconds", partial(compare_attention.seconds, repeats=1))  # is enough here
    file = tmp_path / "result.json"
    tiny = ["--steps", "1", "--batch", "2", "--tested", "4", "--out", str(file)]
    result = compare_attention.main(tiny)
    assert json.loads(file.read_text()) == result
    assert list(result["systems"]) == list(compare_attention.SYSTEMS)
    for row in result["systems"].values():
        assert 0 <= row["accuracy"] <= 1
        assert 0.7e6 < row["weights"] < 1.3e6
        assert row["flops"] > 1e6
        assert row["seconds_per_step"] > 0


@pytest.mark.full
def test_videos_of_a_folder_are_compared(folder, capsys):
    compare_attention.main(["--clips", str(folder), "--steps", "1", "--batch", "2", "--systems", "EachFrame", "XViT"])
    assert re.findall(r"^(\w+): \d+\.\d% right", capsys.readouterr().out, re.MULTILINE) == ["EachFrame", "XViT"]


@pytest.mark.parametrize("wrong", [("--frames", "6"), ("--frames", "4"), ("--size", "48"), ("--steps", "0")])
def test_sizes_that_do_not_fit_are_told_before_anything_is_trained(wrong, capsys):
    with pytest.raises(SystemExit):
        compare_attention.main(list(wrong))
    assert wrong[0] in capsys.readouterr().err


# --- what was found ---------------------------------------------------------------------------------
FOUND = json.loads(attention_report.FOUND.read_text(encoding="utf-8"))


def test_motion_is_needed_and_seen():
    accuracies = {name: row["accuracy"] for name, row in FOUND["systems"].items()}
    assert set(accuracies) == set(compare_attention.SYSTEMS)
    assert accuracies.pop("EachFrame") < 0.2
    assert min(accuracies.values()) >= 0.9


def test_the_page_has_the_table_and_the_picture():
    page = (EXAMPLES.parent / "docs" / "systems.md").read_text(encoding="utf-8")
    begin, end = attention_report.MARKS
    assert page.split(begin)[1].split(end)[0].strip() == attention_report.table(FOUND)
    drawn = (attention_report.FOUND.with_suffix(".svg")).read_text(encoding="utf-8")
    assert drawn == attention_report.plot(FOUND)
    names = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert set(FOUND["systems"]) <= set(names)
