"""The emulated kernels in single precision, under the compiler's own checks: for undefined behaviour in all cases, for
races in every kernel. The other dtypes run under the first of these everywhere: see backends.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import emulate
import pytest
from cases import CASES

pytestmark = [
    pytest.mark.full,
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
_FILES = {name: Path(__file__).with_name(f"test_{name}.py") for name in ("ops", "large", "search_tiles")}
# every kernel, and every way in which one keeps its best candidates
_KINDS = (
    "plain or registers or (anchor and strange) or (skip and per) or (candidates and infinite) or (score and fraction)"
)


@pytest.mark.parametrize("op", [*sorted({case.op.name for case in CASES}), "kept"])
def test_no_case_does_what_is_undefined(op):
    """Also not with many kept candidates, which are in other memory."""
    file = _FILES["large" if op == "kept" else "ops"]
    _is_defined(str(file), "-k", f"emulated and single and {op}")


def test_no_tile_does_what_is_undefined():
    _is_defined(str(_FILES["search_tiles"]), "-k", "bits_of_the_direct")


def _is_defined(*tests: str) -> None:
    command = [sys.executable, "-m", "pytest", "--full", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "SHIFTSEARCH_EMULATOR_MODE": "ubsan"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(("file", "kinds"), [("ops", _KINDS), ("large", "(kept and not fractions) or share")])
def test_no_kernel_has_a_race(file, kinds):
    _has_no_race(file, f"emulated and single and ({kinds})")


def test_no_tile_has_a_race():
    _has_no_race("search_tiles", "race or (bits_of_the_direct and (penalty or little))")


def _has_no_race(file: str, chosen: str) -> None:
    command = ["-q", "-x", "-p", "no:cacheprovider", str(_FILES[file]), "-k", chosen]
    done = emulate.run_under_tsan(command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
