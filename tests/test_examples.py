"""The examples with torch do what they say. Those with several processes run as a user runs them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
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
