"""What is read from machine code and what a model makes of it: of code written by hand, and of known kernels."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import modelled
import nvrtc
import pytest
import sass
from gpu_cases import Case
from gpu_goals import GOALS
from modelled import Modelled, Spent, spent
from owners import OWNERS, WITHIN, Role

from shiftsearch import _source
from shiftsearch._op import OPS
from shiftsearch.backends.cuda import KERNELS

_MISSING = nvrtc.available() or sass.available()
needs_tools = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

SOURCE = """\
outer 4 times
inner 10 times
seldom
always
"""
SHOWN = """
\t//## File "/somewhere/hand.cu", line 4
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
\t//## File "/somewhere/hand.cu", line 1
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0020*/              @!P0 BRA `(.L_x_2) ;
\t//## File "/somewhere/hand.cu", line 3
        /*0030*/                   LDG.E R4, [R2] ;
        /*0040*/                   STL [R1], R4 ;
.L_x_2:
.L_x_1:
\t//## File "/somewhere/hand.cu", line 2
        /*0050*/                   FFMA R3, R3, R4, R5 ;
        /*0060*/                   LDS.128 R8, [R2] ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
\t//## File "/somewhere/hand.cu", line 1
        /*0080*/               @P2 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "hand.cu").write_text(SOURCE)
    monkeypatch.setattr(_source, "directory", lambda: tmp_path)
    sass.source.cache_clear()
    yield sass._program(SHOWN)
    sass.source.cache_clear()


def test_loops_are_found_with_their_lines(program):
    assert [loop.source for loop in program.loops] == ["outer 4 times", "inner 10 times"]
    outer, inner = program.loops
    assert inner.blocks < outer.blocks
    assert [each.name for each in program.of(inner)] == ["FFMA", "LDS", "BRA"]
    assert [each.name for each in program.own(outer)] == ["IADD3", "BRA", "LDG", "STL", "BRA"]


def test_local_memory_in_loops_is_found(program):
    assert not program.local()  # the loop that has another in it does no arithmetic: it is not hot
    local = [replace(each, text="LDL R3, [R1]") if each.name == "LDS" else each for each in program.instructions]
    assert [each.name for each in sass.Program(local, program.labels).local()] == ["LDL"]


def test_the_share_of_arithmetic_is_that_of_the_busiest_loop(program):
    assert program.useful() == 1 / 3


def test_a_path_is_the_shortest_through_what_is_named(program):
    trips = {"outer": (4, 0), "inner": (10, 0)}
    done = spent(program, 16, Role(trips))
    assert done.pipes == {"compare": 1 + 4, "other": 2 * 4 + 40 + 1, "float": 40, "memory": 40}
    assert done.cache == 40 * 4  # 16 bytes of each thread are 512 of a warp
    assert done.instructions == 1 + 4 * (3 + 10 * 3) + 1
    more = spent(program, 16, Role(trips, lines=("seldom",)))
    assert more.pipes["memory"] == 40 + 4 * 2
    assert more.cache == done.cache + 4 * (16 + 1)


def test_a_loop_may_be_known_by_what_it_is_in(program):
    outer, inner = program.loops
    trips = {"inner within inner": (1, 0), "inner within outer": (2, 0), "inner": (3, 0)}
    assert modelled.known(program, inner, trips) == "inner within outer"
    assert modelled.known(program, inner, {"inner within seldom": (1, 0), "inn": (3, 0)}) == "inn"
    assert modelled.known(program, outer, trips) is None


def test_a_loop_that_is_unrolled_has_fewer_turns(program):
    role = Role({"outer": (1, 0), "inner": (10, 1)})
    assert spent(program, 16, role).pipes["float"] == 10
    program.instructions[5:6] *= 2  # twice the arithmetic: two turns in one
    twice = sass.Program(program.instructions, {k: n + (n > 5) for k, n in program.labels.items()})
    assert spent(twice, 16, role).pipes["float"] == 10


def test_the_slowest_pipe_decides():
    assert Spent(Counter(compare=10, float=5)).cycles == 20
    assert Spent(Counter(compare=10, float=50)).cycles == 60
    assert Spent(Counter(special=10, float=50)).cycles == 80


def test_milliseconds_are_those_of_issue_or_of_the_cache():
    assert math.isclose(Modelled("k", issue=7, cache=2).ms, 10)
    assert Modelled("k", issue=7, cache=20).ms == 20


def small(case: Case) -> Case:
    """The same programs are launched for fewer pixels."""
    return replace(case, frames=3, height=64, width=64)


def test_every_kernel_that_a_goal_launches_has_an_owner_who_knows_its_loops():
    """A part of a line that is in no file any more would count a loop once, as if nobody knew it."""
    lines = {line for kernel in KERNELS.values() for line in _source.read(kernel.file).splitlines()}
    for case in {goal.name: small(goal.case) for goal in GOALS if goal.case.op in OPS}.values():
        for program, blocks in modelled.launches(case, "both ways"):
            roles = OWNERS[program.kernel.name].roles(program.constants, case, blocks)
            assert sum(role.share for role in roles) == 1
            named = [part for role in roles for part in (*role.trips, *role.lines)]
            for part in [each for parts in named for each in parts.split(WITHIN)]:
                assert any(part in line for line in lines), (program.kernel.name, part)


@needs_tools
def test_a_known_kernel_does_what_its_source_says():
    text = """
#line 1 "hand.cu"
extern "C" __global__ void sums(const float* x, float* out, int n) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < n; ++i) sum += x[i * 32 + threadIdx.x] * x[i];
    out[threadIdx.x] = sum;
}
"""
    program = sass.disassemble(nvrtc.cubin(text, 90, nvrtc.LINES))["sums"]
    (loop,) = program.loops
    assert loop.line[1] == 4
    assert sum(each.name == "FFMA" for each in program.of(loop)) == 1
    assert sum(each.name == "LDG" for each in program.of(loop)) == 2


def test_code_goes_on_behind_a_branch_for_threads_that_have_gone_apart():
    assert not sass.Instruction("BRA.DIV UR4, `(.L_x_1)", ("", 0)).ends
    assert sass.Instruction("BRA `(.L_x_1)", ("", 0)).ends


@needs_tools
def test_spilled_registers_are_seen_in_loops():
    text = """
extern "C" __global__ void spills(float* x, int n) {
    float many[64];
    for (int i = 0; i < 64; ++i) many[i] = x[i * 1024 + threadIdx.x];
    for (int step = 0; step < n; ++step) many[step % 64] += many[(step * 7) % 64];
    for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = many[i];
}
"""
    assert sass.disassemble(nvrtc.cubin(text, 90))["spills"].local()


@pytest.mark.full
@needs_tools
def test_goals_of_each_kind_have_a_figure(monkeypatch):
    names = {"patch 7, zero flow", "twice the pixels, patch 7", "memory of patch 7, planar", "aggregate patch 7"}
    some = [replace(goal, case=small(goal.case)) for goal in GOALS if goal.name in names]
    monkeypatch.setattr(modelled, "GOALS", some)
    found = modelled.modelled_goals()
    assert set(found) == names
    assert all(row["value"] > 0 for row in found.values())
    assert 1 < found["twice the pixels, patch 7"]["value"] < 2.5
