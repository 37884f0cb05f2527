"""The experiment on search and prediction: its flow is exact, its arms are alike, it goes on after interruptions."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path += [str(EXAMPLES), str(EXAMPLES / "benchmarks")]
torch = pytest.importorskip("torch")
pytest.importorskip("tqdm")
pytest.importorskip("av")
pytest.importorskip("cv2")

import denoiser_report as report  # noqa: E402 - torch may be missing
import train_denoiser as experiment  # noqa: E402
import training  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from shiftsearch.video import io  # noqa: E402

CPU = torch.device("cpu")
TINY = experiment.SIZES["tiny"]


@pytest.fixture
def batch():
    return experiment.Clips(TINY, 4, 48, [])[0]


# --- clips ------------------------------------------------------------------------------------------
def test_exact_flow_leads_to_what_the_middle_frame_shows():
    random = torch.Generator().manual_seed(0)
    image = F.avg_pool2d(torch.rand(1, 3, 90, 90, generator=random), 5, 1, 2)[0]
    for neighbours in (2, 4):
        clip, flow = experiment.bent(random, image, 40, neighbours)
        rows, columns = torch.meshgrid(*2 * [torch.arange(40.0)], indexing="ij")
        at = torch.stack((columns, rows)) + flow
        there = F.grid_sample(clip[1:], at.movedim(1, -1) / 19.5 - 1, mode="bicubic", align_corners=True)
        inside = ((at > 1) & (at < 38)).all(1)
        apart = (there - clip[0]).abs().mean(1)
        assert inside.float().mean() > 0.5
        assert apart[inside].max() < 0.02
        assert (clip[1:] - clip[0]).abs().mean() > 0.03  # and it does move


def test_flow_is_wrong_by_as_much_as_is_said(batch):
    off = batch.wrong(1.5) - batch.exact
    assert math.isclose(off.std().item(), 1.5, rel_tol=0.15)
    assert (off[..., 1:] - off[..., :-1]).std() < 0.3  # smooth
    assert torch.equal(batch.wrong(0), batch.exact)


def test_flow_is_measured_on_the_noisy_frames(batch):
    apart = (batch.dis - batch.exact).norm(dim=2).mean()
    assert 0.1 < apart < 3
    assert apart < 0.5 * batch.exact.norm(dim=2).mean()
    assert math.isclose((batch.noisy[:, 0] - batch.clean).std().item(), experiment.SIGMA, rel_tol=0.02)


def test_frames_of_videos_take_the_place_of_textures(tmp_path):
    for n in range(3):
        with io.write(tmp_path / f"{n}.mkv", rate=25, codec="ffv1") as out:
            for _ in range(26):
                out.write(np.full((24, 40, 3), 100 + n, np.uint8))
    learnt, held = experiment.stills_of(tmp_path, 80)
    assert [still.shape for still in learnt + held] == 6 * [(3, 80, 80)]
    assert [int(still[0, 0, 0]) for still in learnt + held] == [101, 101, 102, 102, 100, 100]
    clean = experiment.Clips(TINY, 2, 16, learnt)[3].clean
    assert {round(255 * value.item()) for value in clean[:, 0, 0, 0]} <= {101, 102}


# --- arms -------------------------------------------------------------------------------------------
def test_arms_begin_alike(batch):
    networks = {arm: experiment.build(arm, 3, TINY, CPU) for arm in experiment.ARMS}
    first = networks["fixed grid"].state_dict()
    for arm, network in networks.items():
        own = network.state_dict()
        assert all(torch.equal(own[name], weight) for name, weight in first.items()), arm
    for network in networks.values():
        torch.nn.init.normal_(network.tail.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = {  # of pixels so far inside that no grid slides
            arm: network(batch.noisy, batch.exact)[..., 14:-14, 14:-14] for arm, network in networks.items()
        }
    torch.testing.assert_close(found["predicted"], found["fixed grid"], rtol=1e-4, atol=1e-4)  # until it predicts
    assert not torch.allclose(found["searched"], found["fixed grid"], atol=1e-2)


def test_each_arm_is_given_its_flow(batch):
    seen = []

    def network(noisy, flow):
        seen.append(flow)
        return noisy[:, 0]

    for arm in experiment.ARMS:
        experiment.loss_of(arm, CPU)(network, batch)
    given = batch.wrong(experiment.ERROR)
    given[::2] = batch.dis[::2]
    for arm, flow in zip(experiment.ARMS, seen, strict=True):
        assert torch.equal(flow, batch.exact if arm == "exact flow" else given), arm


def test_the_time_there_is_is_shared_out():
    given = experiment.parsed(["--minutes", "10", "--seeds", "2", "--jobs", "2", "--workers", "0"])
    taken = {"a": experiment.Timing(1.0, 2.0), "b": experiment.Timing(2.0, 3.0)}
    assert experiment.steps_for(given, taken, 0.5) == int(0.9 * 600 * 2 / 2 / 4)
    given.workers = 2  # prepare clips meanwhile
    assert experiment.steps_for(given, taken, 0.5) == int(0.9 * 600 * 2 / 2 / 3)
    assert experiment.steps_for(given, taken, 3) == int(0.9 * 600 * 2 / 2 / 3.5)
    assert experiment.steps_for(experiment.parsed(["--steps", "7"]), taken, 0.5) == 7


# --- running ----------------------------------------------------------------------------------------
def test_an_experiment_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "timings", lambda arms, *_: {arm: experiment.Timing(1.0, 1.0) for arm in arms})
    asked = ["--size", "tiny", "--steps", "2", "--seeds", "2", "--jobs", "1", "--arms", "predicted", "searched"]
    file, calls = tmp_path / "rows.jsonl", []

    def trained(given):
        calls.append((given.arm, given.seed, given.steps))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"arm": given.arm, "seed": given.seed, "psnr": {"0": 20.0 + given.seed}}

    monkeypatch.setattr(experiment, "trained", trained)
    with pytest.raises(KeyboardInterrupt):
        experiment.main([*asked, "--out", str(file)])
    assert calls == [("predicted", 0, 2), ("searched", 0, 2), ("predicted", 1, 2)]
    lines = report.read(file)
    assert [(row["arm"], row["seed"]) for row in lines[1:]] == [("predicted", 0), ("searched", 0)]
    assert report.table(lines).count("\n| ") == 3  # what is there can be shown
    assert experiment.main([*asked, "--out", str(file)]) == report.read(file)
    assert calls[3:] == [("predicted", 1, 2), ("searched", 1, 2)]
    with pytest.raises(SystemExit, match="other settings"):
        experiment.main([*asked, "--out", str(file), "--seed", "1"])


@pytest.mark.full
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    given = experiment.parsed(["--size", "tiny", "--steps", "3", "--batch", "2", "--save-every", "1", "--workers", "0"])
    given.arm = "searched"
    whole = experiment.trained(given)
    step, calls = training._step, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    given.checkpoint = tmp_path
    monkeypatch.setattr(training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.trained(given)
    resumed = experiment.trained(given)
    assert len(calls) == 3 + 1
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


# --- what was found ---------------------------------------------------------------------------------
def test_differences_are_of_pairs():
    rows = [
        {"arm": arm, "seed": seed, "psnr": {"0": value}}
        for arm, values in {"predicted": (20, 30, 25), "searched": (21, 31.5, 25.5, 99)}.items()
        for seed, value in enumerate(values)
    ]
    better, error = report.difference(rows, "searched", "0")
    assert math.isclose(better, 1.0)
    assert math.isclose(error, 0.5 / math.sqrt(3))


def test_the_page_has_the_table():
    lines = report.read()
    page = (EXAMPLES.parent / "docs" / "denoiser.md").read_text(encoding="utf-8")
    begin, end = report.MARKS
    assert page.split(begin)[1].split(end)[0].strip() == report.table(lines)
    assert {row["arm"] for row in lines[1:]} == set(experiment.ARMS)
    assert all(set(row["psnr"]) == {"0", "1.5", "3", "DIS"} and row["steps"] == lines[0]["steps"] for row in lines[1:])
    assert json.dumps(lines).count("NaN") == 0
