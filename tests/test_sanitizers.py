"""Every emulated kernel in single precision under the compiler's check for races.

Its check for undefined behaviour is on wherever kernels are emulated.
"""

from __future__ import annotations

from pathlib import Path

import emulate
import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
_FILES = {
    name: Path(__file__).with_name(f"test_{name}.py")
    for name in ("ops", "large", "search_tiles", "search_points", "search_subpixel")
}
# every kernel, and every way in which one keeps its best candidates
_KINDS = (
    "plain or registers or (anchor and strange) or (skip and per) or (candidates and infinite) or (score and fraction)"
)


@pytest.mark.parametrize(("file", "kinds"), [("ops", _KINDS), ("large", "(kept and not fractions) or share")])
def test_no_kernel_has_a_race(file, kinds):
    _has_no_race(file, f"emulated and single and ({kinds})")


def test_no_tile_has_a_race():
    _has_no_race("search_tiles", "race or (bits_of_the_direct and (penalty or little))")
    _has_no_race("search_points", "bits_of_the_direct and per")


def test_no_blend_has_a_race():
    _has_no_race("search_subpixel", "right_to_the_tolerance and smooth")


def _has_no_race(file: str, chosen: str) -> None:
    command = ["-q", "-x", "-p", "no:cacheprovider", str(_FILES[file]), "-k", chosen]
    done = emulate.run_under_tsan(command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
