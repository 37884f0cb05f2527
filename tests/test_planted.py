"""Faults that stood in kernels for a moment, planted again: each is caught by a case of the table, which is named."""

from __future__ import annotations

import re
from dataclasses import dataclass

import emulate
import numpy as np
import pytest
import test_ops
from backends import Run
from cases import CASES
from emulate import EmulatorError, emulator

from shiftsearch import _source

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


@dataclass(frozen=True)
class Fault:
    what: str
    right: str  # text of a kernel
    wrong: str
    case: str  # that shows it
    precision: str = "single"


_CUT = "__uint_as_float(__float_as_uint(x) & 0xff{})"
_FAULTS = [
    Fault("halves cut off", "__float2half_rn(x)", f"__float2half_rn({_CUT.format('ffe000')})", "aggregate: rounds", "half"),
    Fault("bfloats cut off", "__float2bfloat16_rn(x)", f"__float2bfloat16_rn({_CUT.format('ff0000')})", "aggregate: rounds",
          "bfloat"),
    Fault("dt rounded half up", "rint(ss_finite((double)offset[0]))", "floor(ss_finite((double)offset[0]) + 0.5)",
          "score: fraction"),
    Fault("dt truncated", "rint(ss_finite((double)offset[0]))", "trunc(ss_finite((double)offset[0]))", "gather: zeros, fraction"),
    Fault("seed dt rounded half up", "rint(ss_finite((double)seed[0]))", "floor(ss_finite((double)seed[0]) + 0.5)",
          "refine: fractional seeds"),
    Fault("seed dt truncated", "rint(ss_finite((double)seed[0]))", "trunc(ss_finite((double)seed[0]))", "refine: half steps"),
    Fault("flow followed without end", "fmin(fmax(ss_finite(moved), -SS_MOST), SS_MOST)", "ss_finite(moved)",
          "search: flow farther than it is followed, zeros"),
    Fault("flow rounded half up", "if (!SS_SUBPIXEL) moved = rint(moved)", "if (!SS_SUBPIXEL) moved = floor(moved + 0.5)",
          "search: flow of halves"),
    Fault("penalty multiplied in single precision", "(SS_ACC)(SS_PENALTY * away)", "(SS_ACC)((float)SS_PENALTY * (float)away)",
          "search: penalty that is no single", "double"),
    Fault("ties to the greater number", "kept[r].rank <= c.rank", "kept[r].rank < c.rank", "search: ties"),
    Fault("ties of a bag to the greater number", "a.rank == b.rank && a.number < b.number",
          "a.rank == b.rank && a.number > b.number", "search: more kept than a warp has registers for"),
    Fault("mirrored one short at the far edge", "return (int)(x < n ? x : period - x);",
          "return (int)(x < n ? x : period - x - 1);", "search: patch 7"),
    Fault("the first head for all", "* t.G * t.F + t.r.g * t.F;", "* t.G * t.F;", "search: two heads"),
    Fault("a border one row wider", "(y == -1 && f == 0) || y >= n", "(y == -1 && f == 0) || y > n", "score: zeros, fraction"),
]  # fmt: skip


def _check(fault: Fault) -> None:
    case, run = next(c for c in CASES if c.name == fault.case), Run("emulated", fault.precision)
    if case in test_ops.WITH_OFFSETS:
        test_ops.test_kept_candidates_are_those_of_the_definition(case, run)
    else:
        test_ops.test_outputs_are_those_of_the_definition(case, run)
    test_ops.test_gradients_are_those_of_the_definition(case, run)


@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.what)
def test_a_planted_fault_is_caught(fault, monkeypatch):
    read, planted = _source.read, []

    def with_fault(file: str) -> str:
        planted.append(fault.right in read(file))
        return read(file).replace(fault.right, fault.wrong)

    emulator._registered.cache_clear()
    monkeypatch.setattr(_source, "read", with_fault)
    try:
        with np.errstate(all="ignore"), pytest.raises((AssertionError, EmulatorError)):
            _check(fault)
    finally:
        emulator._registered.cache_clear()
    assert any(planted), "the kernels have no such text: plant the fault where it now belongs"


# Compilers join a product and a sum into one operation that rounds once, where they may: at another place than the
# definition. What positions are made of must ask for each rounding by name.
_POSITION = r"(?:axis\.centre|moved|\bd[tyx]\b|seed\[\d\]|offset\[\d\]|SS_STEP)"
_ALLOWED = {
    "const double away = (double)SS_STEP * SS_STEP * (down * down + across * across);",  # no position
    "const long long y = p.y + dy, x = p.x + dx;",  # whole numbers
}


def test_positions_are_added_and_multiplied_by_name():
    """No + - * / stands beside a number that a position is made of."""
    found = []
    for file in ("grid.cuh", "place.cuh", "select.cu", "best.cuh"):
        for line in (_source.directory() / file).read_text(encoding="utf-8").splitlines():
            code = line.split("//")[0].strip()
            if code.startswith("#") or code in _ALLOWED:
                continue
            if re.search(rf"{_POSITION}\s*[-*/+]|[*/+]\s*(?:\(double\))?{_POSITION}", code):
                found.append(f"{file}: {code}")
    assert not found


def test_positions_are_mirrored_by_name():
    text = _source.read("grid.cuh")
    (body,) = re.findall(r"double ss_mirror\(.*?\n}", text, re.DOTALL)
    assert not re.findall(r"[^\n]*[-+*/]", body.replace("2.0 * (n - 1)", "").replace("n - 1", "").replace("*sign = -1", "")
                          .replace("int* sign", "").replace("*sign", "").replace("-x", ""))  # fmt: skip


def test_a_bag_is_not_used_again_before_all_have_read_it():
    """Today each lane happens to begin a bag anew where it has read itself, so that no schedule shows that others may
    still read, nor a race: the rule stands so that nobody relies on that.
    """
    assert re.search(r"ss_write\(t, best\.entry\(e\).*?__syncwarp\(\);\s+best\.start\(memory\);", _source.read("select.cu"), re.DOTALL)
