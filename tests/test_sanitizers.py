"""Every emulated kernel in single precision under the compiler's check for races.

Its check for undefined behaviour is on wherever kernels are emulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import emulate
import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
# every kernel, at whole pixels and between them, and every way in which one keeps its best candidates
_KINDS = """plain or (score and fraction and not (heads or stride or zeros)) or (not gradients and (
    registers or strange or (candidates and infinite) or (per and (self or seed or all))))""".replace("\n", " ")


@pytest.mark.parametrize(
    ("file", "kinds"), [("ops", _KINDS), ("large", "(kept and not fractions) or share")], ids=["ops", "large"]
)
def test_no_kernel_has_a_race(file, kinds):
    _has_no_race([file], f"emulated and single and ({kinds})")


def test_no_tile_has_a_race():
    searches = ("search_tiles", "search_points", "search_subpixel", "search_windows", "search_weighed")
    _has_no_race((*searches, "attend_best", "warp", "shrink"), "race")


def _has_no_race(names: Sequence[str], chosen: str) -> None:
    files = [str(Path(__file__).with_name(f"test_{name}.py")) for name in names]
    command = ["-q", "-x", "-p", "no:cacheprovider", *files, "-k", chosen]
    done = emulate.run_under_tsan(command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
