"""Faults planted in the kernels, each with the case that catches it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import emulate
import pytest
import test_cuda
import test_ops
from backends import Run
from cases import CASES
from device_arrays import Namespace

from shiftsearch import _source
from shiftsearch._geometry import Patches
from shiftsearch.backends.cuda import Cuda

pytestmark = [
    pytest.mark.full,
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


@dataclass(frozen=True)
class Fault:
    file: str
    right: str
    wrong: str
    case: str
    precision: str = "single"

    @property
    def name(self) -> str:
        return f"{self.file}: {self.wrong or 'without ' + self.right} - {self.case}"


_TOWARDS_ZERO = "__float2{}_rn(__uint_as_float(__float_as_uint(x) & 0xffff{}u))"
_DT = "return __float2int_rn(dt);"
_FAR_DT = "rint(finite_or_zero((double)dt))"
_FOLLOWED = "fmin(fmax(finite_or_zero((double)way), -SS_MOST), SS_MOST)"
_NEAREST = "rintf(fminf(fmaxf(isfinite(x) ? x : 0, (float)-SS_MOST), (float)SS_MOST))"
FAULTS = [
    # numbers
    *(
        Fault("number.cuh", "__float2half_rn(x)", _TOWARDS_ZERO.format("half", "e000"), f"{op}: rounds", "half")
        for op in ("gather", "aggregate", "scatter")
    ),
    Fault("number.cuh", "__float2bfloat16_rn(x)", _TOWARDS_ZERO.format("bfloat16", "0000"), "fold: rounds", "bfloat"),
    # frames
    *(
        Fault("place.cuh", _DT, wrong, f"{op}: fraction")
        for op in ("score", "aggregate", "gather", "fold", "scatter", "stack")
        for wrong in ("return (int)floorf(dt + 0.5f);", "return (int)truncf(dt);")
    ),
    Fault("candidates.cuh", _FAR_DT, "floor(finite_or_zero((double)dt) + 0.5)", "refine: fractional seeds"),
    Fault("candidates.cuh", _FAR_DT, "trunc(finite_or_zero((double)dt))", "refine: fractional seeds"),
    Fault("candidates.cuh", _FAR_DT, "rint((double)dt)", "refine: seeds not finite"),
    Fault("place.cuh", _FAR_DT, "rint((double)dt)", "gather: not finite"),
    Fault(
        "grid.cuh",
        "return t + slot <= last ? t + slot : last - slot;",
        "return t + slot < last ? t + slot : last - slot;",
        "search: plain",
    ),
    # places
    Fault("whole.cuh", _NEAREST, "rintf(isfinite(x) ? x : 0)", "search: flow farther than it is followed"),
    Fault("axis.cuh", _FOLLOWED, "finite_or_zero((double)way)", "search: fractional flow farther than it is followed"),
    Fault("whole.cuh", _NEAREST, "rintf(isfinite(x) ? x : 0)", "refine: seeds farther than they are followed"),
    Fault("whole.cuh", _NEAREST, _NEAREST.replace("rintf(", "floorf(0.5f + "), "search: flow of halves"),
    Fault(
        "whole.cuh",
        "return (int)(x < n ? x : period - x);",
        "return (int)(x < n ? x : period - x - 1);",
        "search: plain",
    ),
    Fault(
        "grid.cuh",
        "if (mirrored && (y == 0 || y == n - 1)) return false;",
        "if (mirrored && y == 0) return false;",
        "scatter: fraction",
    ),
    Fault("grid.cuh", "return x < n ? x : period - x;", "return x < n ? x : period - x - 1;", "score: plain"),
    Fault("place.cuh", "past = -past, sign = -1;", "past = -past;", "score: fraction"),
    Fault("place.cuh", "past = -past, sign = -1;", "sign = -1;", "score: fraction"),
    Fault("place.cuh", "x >= 0 && x < n ? x : -1", "x >= 0 && x < n - 1 ? x : -1", "score: zeros, fraction"),
    Fault("landing.cuh", "y < n + SS_REACH", "y < n", "scatter: zeros, fraction"),
    Fault("aggregate.cu", "(v - top) % apart == 0 ?", "true ?", "aggregate: stride 3, fraction"),
    Fault("aggregate_tiles.cu", "at % SS_STRIDE == 0 && ", "", "aggregate: stride 2"),
    # tiles
    Fault("images.cuh", "(straight < mirrored ? straight : mirrored)", "straight", "score: plain"),
    Fault("tiles.cuh", "a.next < b.next ? a.next : b.next", "a.next", "aggregate: plain"),
    Fault("tiles.cuh", "a.present | b.present", "a.present", "score: plain"),
    Fault("tiles.cuh", "top + y < H &&", "", "aggregate: plain"),
    Fault("tiles.cuh", "mine - theirs", "theirs - mine", "score: plain"),
    Fault("box.cuh", "before = x[i] + before", "before = x[i]", "aggregate: patch 7"),
    Fault("dense.cuh", "step.t == t && ", "", "aggregate: plain"),
    Fault("dense.cuh", "next - (step.dx - x - shift)", "next", "aggregate: plain"),
    Fault("scatter_tiles.cu", "weights[order[at[home]]]", "weights[at[home]]", "scatter: plain"),
    # heads and channels
    Fault("clip.cuh", " + (long long)g * s.F * m.k_c", "", "score: batch, heads, many channels"),
    Fault("clip.cuh", " + (long long)g * s.F * m.q_c", "", "score: batch, heads, many channels"),
    Fault("candidates.cuh", "a.groups > 1 ? r.g : 0", "0", "search: flow per head"),
    Fault(
        "scatter.cu",
        "((long long)c * s.F + p.f) * SS_PATCH",
        "((long long)c * s.F) * SS_PATCH",
        "fold: odd channels",
    ),
    Fault("channels.cuh", "p->g = (int)(i % s.G)", "p->g = 0", "scatter: batch, heads, many channels"),
    Fault("window_scores.cuh", "exists && f + i < F", "exists && f + i <= F", "search: five channels"),
    Fault("window_scores.cuh", "plus(first == 0 ? 0 : *row,", "plus(0,", "search: more channels than a vector"),
    Fault("attend.cuh", "a.groups > 1 ? share.g : 0", "0", "attend: pixels, heads, dot"),
    Fault("attend.cuh", "channel_of(n) < F", "channel_of(n) <= F", "attend: pixels, many channels"),
    # attention
    Fault("attend.cu", "total *= rest, most = logit", "most = logit", "attend: plain"),
    Fault("softmax.cuh", "mine[e] *= found.share", "", "attend: a few"),
    Fault("mean.cuh", "query % SS_STRIDE == 0", "true", "aggregate: stride 2"),
    Fault("mean.cuh", "max(before - (n - 1 - at) / SS_DILATION, 0)", "0", "aggregate: patch 7"),
    Fault("weigh.cu", "most = most_of_lanes(most);", "", "attend: patches, flow"),
    Fault("weigh.cu", "mean = sum_of_lanes(mean);", "", "attend: all that is asked for"),
    Fault("attend_keys.cu", "way % (Whole)SS_STEP == 0", "true", "attend: pixels outside"),
    Fault("attend_keys.cu", "share.t + 2 * SS_RADIUS", "share.t + SS_RADIUS", "attend: pixels, heads, dot"),
    Fault("attend_keys.cu", "first + __ffs(some) - 1", "first", "attend: pixels, more rectangles than a crowd"),
    # the best
    Fault(
        "candidates.cuh",
        "(SS_ACC)(task.penalty * ((double)",
        "(SS_ACC)((float)task.penalty * (float)((double)",
        "search: penalty of more digits than a single has",
    ),
    Fault("topk.cuh", "kept[r].rank <= c.rank", "kept[r].rank < c.rank", "search: ties"),
    Fault(
        "topk.cuh",
        "a.rank == b.rank && a.number < b.number",
        "a.rank == b.rank && a.number > b.number",
        "search: more kept than a warp has registers for",
    ),
    Fault("topk.cuh", "count > SS_ROOM - 32", "count > SS_ROOM", "search: more kept than a warp has registers for"),
    Fault("candidates.cuh", "if (SS_SKIP == 1 && found.itself) found.there = false;", "", "search: skip self"),
    Fault("candidates.cuh", "out.seed[to] = slot;", "out.seed[to] = 0;", "refine: fractional seeds"),
    # flow
    Fault(
        "chain_flow.cu",
        "step.frame = step.ahead ? to - 1 : to + 1;",
        "step.frame = step.ahead ? t : to + 1;",
        "chain_flow: two frames each way",
    ),
    Fault("chain_flow.cu", "if (step.first) dy = dx = 0;", "", "chain_flow: plain"),
]


_VIDEO = "SS_STACKED ? r.b * s.K + n : r.b"
IN_STACKED = [  # and the primitive that catches it
    *(Fault("place.cuh", _VIDEO, "SS_STACKED ? r.b * s.K : r.b", each) for each in ("score", "scatter", "slope")),
    Fault("aggregate.cu", "end = SS_STACKED ? first + 1 : s.K;", "end = s.K;", "aggregate"),
    Fault("aggregate.cu", "SS_STACKED ? p.video % s.K : 0", "0", "aggregate"),
]
RACES = [
    Fault("topk.cuh", "            __syncwarp();\n", "", "search: more kept than a warp has registers for"),
    Fault("topk.cuh", "    }\n    __syncwarp();\n}", "    }\n}", "search: more kept than a warp has registers for"),
    Fault("attend_keys.cu", "                __syncwarp();\n", "", "attend: plain"),
]


class _Faulty(emulate.Emulator):
    def __init__(self, fault: Fault):
        super().__init__(seed=1)
        self.fault, self.xp = fault, Namespace()

    def launch(self, program, blocks, values, *, shared=0):
        text = program.text.replace(self.fault.right, self.fault.wrong)
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)


@dataclass(frozen=True)
class _FaultyRun(Run):
    fault: Fault

    def _load(self):
        return Cuda(_Faulty(self.fault))


def _check_planted(fault: Fault) -> None:
    text = (_source.directory() / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.right) == 1, "not in the file any more"


def _run(fault: Fault) -> None:
    case, run = next(c for c in CASES if c.name == fault.case), _FaultyRun("emulated", fault.precision, fault)
    forward = (
        test_ops.test_kept_candidates_are_those_of_the_definition
        if case in test_ops.WITH_OFFSETS
        else test_ops.test_outputs_are_those_of_the_definition
    )
    forward(case, run)
    test_ops.test_gradients_are_those_of_the_definition(case, run)


@pytest.mark.parametrize("fault", FAULTS, ids=Fault.name.fget)
def test_fault_is_caught(fault):
    _check_planted(fault)
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _run(fault)
    assert ": error: " not in str(caught.value), "does not compile"


@pytest.mark.parametrize("fault", IN_STACKED, ids=Fault.name.fget)
def test_fault_in_stacked_queries_is_caught(fault):
    _check_planted(fault)
    found, expected = test_cuda.stacked(Cuda(_Faulty(fault)), fault.case, Patches(3))
    assert (found != expected).any()


@pytest.mark.parametrize("fault", [FAULTS[0], FAULTS[-1]], ids=Fault.name.fget)
def test_kernels_without_the_fault_pass(fault):
    _run(replace(fault, wrong=fault.right))


def test_races_are_caught():
    done = emulate.run_under_tsan(["-q", "-p", "no:cacheprovider", __file__, "-k", "race_is_seen"])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert f"{2 * len(RACES)} passed" in done.stdout


@pytest.mark.skipif(os.environ.get("SHIFTSEARCH_EMULATOR_MODE") != "tsan", reason="run by test_races_are_caught")
@pytest.mark.parametrize("fault", RACES, ids=lambda fault: fault.case)
@pytest.mark.parametrize("planted", [False, True])
def test_race_is_seen(fault, planted):
    if not planted:
        _run(replace(fault, wrong=fault.right))
        return
    _check_planted(fault)
    with pytest.raises(emulate.EmulatorError, match="data race"):
        _run(fault)
