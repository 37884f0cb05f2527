"""The examples with torch do what they say. Those with several processes, or that are killed, run as a user runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.append(str(EXAMPLES))
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full
one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "SHIFTSEARCH_NUM_THREADS": "1"}


def run(*command):
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def main(name, *arguments):
    """Return what `main` of an example returns."""
    torch.manual_seed(0)
    return runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def test_flow_is_learnt_by_gradient_descent():
    before, after = main("align_autograd.py", 48, 56, 60)
    assert before > 2
    assert after < 0.3


def test_attention_is_replaced_and_trained():
    before, after = main("replace_attention.py", 15)
    assert 0 < before < 0.1
    assert 0 < after < 0.1


def test_attention_is_compiled_and_exported():
    for difference in main("compile_export.py", "aot_eager"):
        assert difference < 1e-5


def test_libraries_agree():
    assert main("interchange.py", 3, 16, 20)["torch"] < 1e-5


def test_processes_stay_one_network():
    done = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, EXAMPLES / "ddp.py")
    assert done.stdout.count("weights differ by") == 2


# --- training ---------------------------------------------------------------------------------------
needs_tqdm = pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="the training example needs tqdm")
TRAIN = EXAMPLES / "train_denoiser.py"


def started(out, *options):
    return [TRAIN, "--size", "tiny", "--save-every", 1, "--out", out, *options]


@needs_tqdm
def test_training_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    whole = run(*started(tmp_path / "whole"))
    table = [line for line in whole.stdout.splitlines() if line.startswith("| ")]
    rows = ["| noisy", "| no motion", "| predicted offsets", "| shifted search"]
    assert [line.split(" |")[0] for line in table[2:]] == rows

    second = tmp_path / "killed" / "predicted-offsets" / "last.pt"
    killed = subprocess.Popen(
        [sys.executable, *map(str, started(tmp_path / "killed"))],
        env=one_thread,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 200
    while not second.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert second.exists()
    assert not (tmp_path / "killed" / "result.json").exists()
    run(*started(tmp_path / "killed"))
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    assert results[0]["psnr"] == results[1]["psnr"]
    assert results[0]["weights"] == results[1]["weights"]

    with pytest.raises(SystemExit, match="other settings"):
        main("train_denoiser.py", list(map(str, started(tmp_path / "whole", "--seed", 1)[1:])))


@needs_tqdm
def test_training_on_two_processes_without_tensorboard(tmp_path):
    code = "import runpy, sys; sys.modules['tensorboard'] = None; "
    code += f"sys.path.append({str(EXAMPLES)!r}); runpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    (tmp_path / "train.py").write_text(code)
    options = started(tmp_path / "out", "--steps", 2, "--autocast")[1:]
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, tmp_path / "train.py", *options)
    assert (tmp_path / "out" / "no-motion" / "log.csv").read_text().startswith("2,loss,")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["setting"]["world"] == 2
