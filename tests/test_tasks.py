"""The examples of single systems train, go on where they were interrupted, and read clips from a folder."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")
pytest.importorskip("tqdm")
from clips import make  # noqa: E402 - torch may be missing

ROOT = Path(__file__).parent.parent
TINY = ["--batch", "2", "--test", "6"]
NAMES = ["anticipate", "quality", "where_and_when"]
pytestmark = pytest.mark.full


@pytest.fixture
def example(monkeypatch):
    """Return a function that imports an example."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


@pytest.fixture(params=NAMES)
def each(request, example):
    if request.param == "quality":
        pytest.importorskip("skimage")
    return example(request.param)


def test_training_that_was_interrupted_goes_on_as_if_it_had_not_been(each, example, tmp_path, monkeypatch, capsys):
    arguments = [*TINY, "--steps", "3", "--save-every", "1"]
    whole = each.main([*arguments, "--out", str(tmp_path / "result.json")])
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == whole["steps"] == 3
    assert each.table(whole) in capsys.readouterr().out

    training, calls = example("training"), []
    step = training._step

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        each.main([*arguments, "--checkpoint", str(tmp_path)])
    assert each.main([*arguments, "--checkpoint", str(tmp_path)]) == whole
    assert len(calls) == 4  # two, the one that was interrupted, and that one again


def test_tables_of_the_page_are_those_of_the_results(each):
    result = json.loads((ROOT / "examples" / "benchmarks" / "results" / f"{each.__name__}.json").read_text())
    assert each.table(result) in (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")


# --- clips of a folder ------------------------------------------------------------------------------
def test_actions_of_a_table_are_anticipated(example, tmp_path):
    for name in ("one.mp4", "two.mp4"):
        make(tmp_path / name, frames=24, rate=2, audio=None)  # 12 seconds
    rows = ["one.mp4,0,5,cut", "one.mp4,9,11,stir", "two.mp4,2.2,7.9,stir", "two.mp4,8,10,cut", "two.mp4,10,12,pour"]
    (tmp_path / "actions.csv").write_text("\n".join(["clip,start,stop,action", *rows]))
    anticipate = example("anticipate")
    names, learnt, held = anticipate.recorded(tmp_path, 16)
    assert names == ["cut", "pour", "stir"]
    past, future = held.take(held.ends)[1:]
    assert (past.tolist(), future.tolist()) == ([[0, 0, 0, 0, -1, -1, -1, -1]], [2])  # seconds 1 to 8
    past, future = learnt.take(learnt.ends)[1:]
    assert past.tolist() == [[-1, -1, 2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 0, 0]]
    assert future.tolist() == [0, 1]
    result = anticipate.main([*TINY, "--steps", "1", "--side", "16", "--clips", str(tmp_path)])
    assert result["accuracy"].keys() == {"best guess from the last frame", "AVT"}

    for text, message in {
        "clip,start,action\none.mp4,1,cut": "expected a table with the columns clip, start, stop, action; KeyError.'stop'",
        "clip,start,stop,action\none.mp4,1,soon,cut": "ValueError.*soon",
        "clip,start,stop,action\n": "has no rows",
        "clip,start,stop,action\none.mp4,0,12,cut": "must begin after the first 8 seconds",
    }.items():
        (tmp_path / "actions.csv").write_text(text)
        with pytest.raises(SystemExit, match=message):
            anticipate.recorded(tmp_path, 16)


def test_quality_of_clips_is_learnt_by_their_scores_or_by_distortions(example, tmp_path):
    for name in ("one.mp4", "two.mp4", "three.mp4"):
        make(tmp_path / name, frames=6, size=(96, 80), audio=None)
    quality = example("quality")
    arguments = [*TINY, "--steps", "1", "--clips", str(tmp_path)]
    assert "SROCC of noise" in quality.main(arguments)["agreement"]
    (tmp_path / "scores.csv").write_text("clip,score\none.mp4,1.5\ntwo.mp4,4\nthree.mp4,2\n")
    learnt, held = quality.recorded(tmp_path)
    assert (learnt.scores, held.scores) == ([2, 2, 4, 4], [1.5, 1.5])
    assert quality.main(arguments)["agreement"].keys() == {"SROCC", "PLCC", "error", "error of the mean"}
    (tmp_path / "scores.csv").write_text("clip,score\none.mp4,1.5\n")
    with pytest.raises(SystemExit, match=r"scores.csv has no score of three.mp4, two.mp4"):
        quality.recorded(tmp_path)


def test_sound_of_clips_lies_beside_their_frames(example, tmp_path):
    for name in ("hum", "speech"):
        (tmp_path / name).mkdir()
        for file in ("one.mp4", "two.mp4"):
            make(tmp_path / name / file, frames=50, size=(48, 48))  # 2 seconds: one clip of 8 frames, 4 a second
    sounding = example("where_and_when")
    learnt, held = sounding.recorded(tmp_path)
    assert learnt.names == ("hum", "speech")
    assert learnt.video.shape == held.video.shape == (2, 8, 3, sounding.SIDE, sounding.SIDE)
    tone = sounding.spectrum(held.sound)[:, 10:-10].mean(1)
    assert (tone.argmax(1) == 14).all()  # 440 Hz, of 31.25 each
    result = sounding.main([*TINY, "--steps", "1", "--clips", str(tmp_path)])
    assert "pointing game" not in result["found"]

    make(tmp_path / "hum" / "two.mp4", frames=50, size=(48, 48), audio=None)
    with pytest.raises(SystemExit, match=r"two\.mp4 has no sound"):
        sounding.recorded(tmp_path)


# --- what is generated ------------------------------------------------------------------------------
def test_the_last_action_says_nothing_and_the_last_two_say_most(example):
    anticipate = example("anticipate")
    source = anticipate.Generated.by(torch.Generator().manual_seed(3), 24)
    past, future = source.actions(torch.Generator().manual_seed(4), 40_000)
    counts = torch.zeros(8, 8).index_put_((past[:, -1], future), torch.ones(40_000), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True)
    assert (shares.diagonal() == 0).all()
    assert (shares[~torch.eye(8, dtype=torch.bool)] - 1 / 7).abs().max() < 0.03
    known = source.known(anticipate.Sequences(past, past, future))
    assert known == pytest.approx(0.9 + 0.1 / 7, abs=0.01)
    same = past[:, 1:] == past[:, :-1]
    assert same.any(0).all()
    assert not (same[:, 1:] & same[:, :-1]).any()  # no action lasts longer than two frames


def test_distortions_do_more_with_their_strength(example):
    quality = example("quality")
    random = torch.Generator().manual_seed(0)
    clip = quality.cut(random, quality.stills(True).scenes[0])
    for distort in quality.DISTORTIONS.values():
        apart = [(distort(random, clip, s) - clip).square().mean() for s in (0, 0.1, 0.4, 1)]
        assert apart[0] < 1e-4 < apart[3]
        assert apart == sorted(apart)
    flat = torch.full((3, 3, 64, 64), 0.5)
    torch.testing.assert_close(quality.blur(random, flat, 1.0), flat)
    dot = torch.zeros(3, 3, 64, 64)
    dot[..., 30, 40] = 1
    spread = quality.blur(random, dot, 1.0)[0, 0, 21:40, 31:50]  # a Gaussian of 3 pixels, 9 each way
    bell = torch.exp(-((torch.arange(-9, 10) / 3) ** 2) / 2)
    torch.testing.assert_close(spread, torch.outer(bell, bell) / bell.sum() ** 2)
    block = torch.cos(torch.pi / 8 * (torch.arange(64) % 8 + 0.5) * 7).expand(3, 3, 64, 64) / 20
    assert quality.compression(random, block, 1.0).abs().max() < 1e-6  # the highest frequency is rounded to nothing


def test_correlations_are_those_of_scipy(example):
    stats = pytest.importorskip("scipy.stats")
    quality = example("quality")
    x, y = torch.randn(30).round(decimals=1), torch.randn(30)
    assert quality.correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, rel=1e-5)
    ranked = quality.correlation(quality.ranks(x), quality.ranks(y))
    assert ranked == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-5)


def test_one_square_only_is_lit_while_its_tone_sounds(example):
    w = example("where_and_when")
    held = w.Generated().draw(torch.Generator().manual_seed(0), 40)
    level = w.spectrum(held.sound).unflatten(1, (w.FRAMES, -1))[:, :, 2:-2].mean(2)  # (N, frames, frequencies)
    heard = level[:, :, (w.PITCHES * 128 / w.RATE / w.SAMPLES).round().long()] > 3  # (N, frames, colours)
    near = (held.video[:, :, None] - w.COLOURS[:, :, None, None]).abs().amax(3) < 0.2  # (N, frames, colours, H, W)
    lit = near.sum((3, 4)) > w.SQUARE**2 / 2
    for n, kind in enumerate(held.classes.tolist()):
        both = (heard[n] & lit[n]).any(0).nonzero()[:, 0].tolist()
        assert both == ([kind] if kind < w.NONE else [])
        assert held.cue[n].sum() == (2 * w.SQUARE**2 if kind < w.NONE else 0)
        if kind < w.NONE:
            assert near[n, :, kind][held.cue[n]].double().mean() > 0.9
            assert heard[n, held.cue[n].flatten(1).any(1), kind].all()


def test_pointing_and_deletion_reward_evidence_on_the_cue(example):
    w = example("where_and_when")
    held = w.Generated().draw(torch.Generator().manual_seed(0), 9)
    held = w.Heard(*(part[held.classes < w.NONE] for part in held))
    cells = torch.nn.functional.avg_pool2d(held.cue.float(), 4)
    weights = {"evidence": cells, **dict.fromkeys(("joint", "audio", "visual", "where", "when_heard", "when_seen"))}
    assert w.pointing(w.Explanation(**weights), held.cue) == 1
    assert w.pointing(w.Explanation(**{**weights, "evidence": 1 - cells}), held.cue) == 0

    def sees(video, sound):
        """Tell the class as far as the cue is there."""
        left = ((video - held.video).abs().amax(2) < 1e-6) & held.cue
        logits = 20 * torch.nn.functional.one_hot(held.classes, 7) * left.flatten(1).double().mean(1, keepdim=True)
        return w.Explanation(**{**weights, "joint": 100 * logits})

    first, last = (
        w.deletion(sees, held, order.repeat_interleave(4, 2).repeat_interleave(4, 3)) for order in (cells, -cells)
    )
    assert first[0] == last[0] == pytest.approx(1, abs=1e-3)
    assert first[-1] == last[-1] == pytest.approx(1 / 7, abs=1e-3)
    assert first[w.DELETED.index(0.05)] < 0.2  # of the pixels, of which the cue are 1 %
    assert last[w.DELETED.index(0.8)] > 0.99
