"""Type checkers find no error in the package, none in a program that uses it, and types on all that is public."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import shiftsearch

TESTS = Path(__file__).parent
ROOT = TESTS.parent
HOME = Path(shiftsearch.__file__).parent.parent  # the checkout, or where packages are installed
LEAST_COMPLETE = 0.95


def check(module: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, **options)


def test_a_program_that_uses_the_package_runs():
    pytest.importorskip("torch")
    runpy.run_path(str(TESTS / "consumer.py"), run_name="__main__")


@pytest.mark.full
def test_the_package_and_a_program_that_uses_it_have_no_type_error():
    """The program in the checker's strict mode."""
    pytest.importorskip("torch")
    if not (ROOT / "shiftsearch").exists():
        pytest.skip("needs a checkout")
    done = check("mypy", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
def test_public_names_have_types(tmp_path):
    command = ["--pythonpath", sys.executable, "--verifytypes", "shiftsearch", "--ignoreexternal", "--outputjson"]
    done = check("pyright", *command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HOME)})
    found = json.loads(done.stdout)["typeCompleteness"]
    untyped = [symbol["name"] for symbol in found["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert found["completenessScore"] >= LEAST_COMPLETE, untyped
