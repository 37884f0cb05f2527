"""Milliseconds that a kernel would take on an H100, by its machine code. Nothing here is measured.

A program is followed along the shortest path that takes the loops and lines of the source that owners.py names. Each of a
multiprocessor's four schedulers starts one instruction of a warp in a cycle, and some pipes take longer for one.

`python tests/modelled.py [FILE]` prints the goals of examples/benchmarks/gpu_goals.py, and writes them as JSON.
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import nvrtc
import sass
from owners import OWNERS, WITHIN, Role, Trips

from shiftsearch._op import OPS
from shiftsearch.backends.cuda import Cuda, kernels

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))

import gpu_goals
from gpu_cases import Case, nbytes, prepare
from gpu_goals import Goal
from gpu_warm import Recorder

GOALS = (*gpu_goals.GOALS, gpu_goals.HD)
MULTIPROCESSORS, SCHEDULERS, HERTZ = 132, 4, 1.755e9
BUSY = 0.7  # share of the cycles in which a scheduler has something to start
_CYCLES = {"compare": 2, "special": 8, "double": 2, "tensor": 16}  # of a pipe for an instruction; 1 for others
_DETOUR = 10**6  # instructions, more than any that a loop or line that is named is not worth


# --- a path through a program -----------------------------------------------------------------------------
@dataclass
class Spent:
    """What a warp does on a path."""

    pipes: Counter = field(default_factory=Counter)  # instructions
    cache: float = 0  # cycles of the L1 cache
    named: int = 0  # loops and lines that its owner names

    def add(self, other: Spent, times: float = 1) -> None:
        for pipe, count in other.pipes.items():
            self.pipes[pipe] += count * times
        self.cache += other.cache * times
        self.named += other.named if times else 0

    @property
    def instructions(self) -> float:
        return sum(self.pipes.values())

    @property
    def cycles(self) -> float:
        """Of a scheduler: it starts one instruction at a time, and no pipe does two at once."""
        return max(self.instructions, *(count * _CYCLES.get(pipe, 1) for pipe, count in self.pipes.items()))

    @property
    def worth(self) -> float:
        return _DETOUR * self.named - self.instructions


def spent(program: sass.Program, load: int, role: Role) -> Spent:
    """Return what a warp does from the beginning of a program to its end."""
    everything = frozenset(range(len(program.blocks)))
    ends = {n for n, following in enumerate(program.after) if not following}
    return _Followed(program, load, role).through(everything, 0, ends)


@dataclass(frozen=True, eq=False)
class _Followed:
    program: sass.Program
    load: int
    role: Role

    def through(self, region: frozenset[int], head: int, ends: set[int]) -> Spent:
        """Return what the best path from a block of a region to one of its ends does."""
        within = self._within(region)
        home = {n: loop.head for loop in within for n in loop.blocks}
        inner = {loop.head: spent for loop, spent in zip(within, self._repeated(within), strict=True)}
        following: dict[int, set[int]] = {}
        for n in region:
            node = home.get(n, n)
            to = {home.get(m, m) for m in self.program.after[n] if m in region and m != head}
            following.setdefault(node, set()).update(to - {node})
        best: dict[int, Spent | None] = {}
        goals = {home.get(n, n) for n in ends}
        for node in _backwards(home.get(head, head), following):
            ways = [best[m] for m in following[node] if best.get(m) is not None]
            if not ways and node not in goals:
                best[node] = None
                continue
            here = Spent()
            here.add(inner[node] if node in inner else self._block(node))
            if ways and node not in goals:
                here.add(max(ways, key=lambda way: way.worth))
            best[node] = here
        return best[home.get(head, head)] or Spent()

    def _within(self, region: frozenset[int]) -> list[sass.Loop]:
        """Return the outermost loops of a region, without the region itself."""
        found: list[sass.Loop] = []
        for loop in self.program.loops:
            if loop.blocks < region and not any(loop.blocks <= other.blocks for other in found):
                found.append(loop)
        return found

    def _repeated(self, loops: list[sass.Loop]) -> list[Spent]:
        """Return what each of these loops does, all its turns together."""
        found = []
        for loop, times in zip(loops, self._times(loops), strict=True):
            ends = {n for n in loop.blocks if loop.head in self.program.after[n]}
            total = Spent()
            if times > 0:
                total.add(self.through(loop.blocks, loop.head, ends), times)
                total.named += self.role.of_loop * (self._known(loop) is not None)
            found.append(total)
        return found

    def _times(self, loops: list[sass.Loop]) -> list[float]:
        """Return how often each runs: a loop of the source may be several, each with so many of its turns in one."""
        return [self._turns(loop, loops) for loop in loops]

    def _turns(self, loop: sass.Loop, loops: list[sass.Loop]) -> float:
        part = self._known(loop)
        if part is None:
            return 1
        left, floats = self.role.trips[part]
        if not floats:
            return left
        mine = self._unrolled(loop, floats)
        others = {self._unrolled(other, floats) for other in loops if self._known(other) == part}
        for unrolled in sorted(others, reverse=True):
            turns, left = divmod(left, unrolled)
            if unrolled == mine:
                return turns
        return 0

    def _known(self, loop: sass.Loop) -> str | None:
        return known(self.program, loop, self.role.trips)

    def _unrolled(self, loop: sass.Loop, floats: int) -> int:
        return max(1, round(sum(each.pipe in sass.ARITHMETIC for each in self.program.of(loop)) / floats))

    def _block(self, n: int) -> Spent:
        block = self.program.blocks[n]
        named = sum(any(part in each.source for part in self.role.lines) for each in block)
        cache = sum(_cache_cycles(each, self.load) for each in block)
        return Spent(Counter(each.pipe for each in block), cache, named)


def known(program: sass.Program, loop: sass.Loop, trips: Trips) -> str | None:
    """Return the part of its line by which the owner of its kernel knows a loop."""
    around = [other for other in program.loops if other.blocks > loop.blocks]
    for part in trips:
        inner, _, outer = part.partition(WITHIN)
        if inner in loop.source and (not outer or any(outer in other.source for other in around)):
            return part
    return None


def _backwards(head: int, following: dict[int, set[int]]) -> list[int]:
    """Return what is reached from `head`, each behind all that may follow it."""
    order: list[int] = []
    seen, waiting = {head}, [(head, iter(following[head]))]
    while waiting:
        node, rest = waiting[-1]
        new = next((m for m in rest if m not in seen), None)
        if new is None:
            order.append(node)
            waiting.pop()
        else:
            seen.add(new)
            waiting.append((new, iter(following.get(new, ()))))
    return order


def _cache_cycles(each: sass.Instruction, load: int) -> float:
    """Return how long the L1 cache, or shared memory, is busy with an instruction of a warp: 128 bytes a cycle at best."""
    if each.name in ("LDG", "STG", "LD", "ST"):
        return max(load, each.bytes / 4)
    if each.name in ("LDS", "STS"):
        return each.bytes / 4
    return 1 if each.pipe == "memory" else 0


# --- goals --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Modelled:
    """Milliseconds of one launch."""

    kernel: str
    issue: float  # if a scheduler starts an instruction in every cycle that the pipes allow
    cache: float

    @property
    def ms(self) -> float:
        return max(self.issue / BUSY, self.cache)


def launches(case: Case, ways: str = "forward") -> list[tuple[kernels.Program, int]]:
    """Return the programs and numbers of blocks of what a case launches, forward, backward or both ways."""
    recorder = Recorder()
    call = prepare(Cuda(recorder), case)
    outputs = call.forward()
    ahead = len(recorder.launches)
    if ways != "forward":
        call.backward(outputs, call.ones(outputs), call.differentiable())
    return recorder.launches[ahead if ways == "backward" else 0 :]


def model(launched: kernels.Program, blocks: int, case: Case) -> Modelled:
    kernel = launched.kernel
    owner = OWNERS[kernel.name]
    code, done = program(launched.text, kernel.name), Spent()
    load = owner.load if launched.constants.get("VECTORS") else owner.planar
    for role in owner.roles(launched.constants, case, blocks):
        done.add(spent(code, load, role), role.share)
    warps = blocks * launched.threads / 32
    second = MULTIPROCESSORS * HERTZ
    return Modelled(kernel.name, 1e3 * warps * done.cycles / SCHEDULERS / second, 1e3 * warps * done.cache / second)


@cache
def program(text: str, name: str, arch: int = 90) -> sass.Program:
    return sass.disassemble(nvrtc.cubin(text, arch, nvrtc.LINES))[name]


def modelled_goals() -> dict[str, dict[str, Any]]:
    """Return the figure of each goal that has kernels here, and the launches that it is the sum of."""
    found = {}
    for goal in GOALS:
        if goal.case.op in OPS:
            found[goal.name] = _modelled(goal)
    return found


_WAYS = {"forward": "forward", "both ways": "both ways", "backward over forward": "backward"}


def _modelled(goal: Goal) -> dict[str, Any]:
    if goal.measure == "memory":
        return {"value": memory(goal.case)}
    if goal.measure == "align":
        import modelled_video  # which needs this module

        parts = modelled_video.align(goal.case).seconds
        return {"value": sum(parts.values()), "s": parts}
    if goal.measure == "twice the pixels":
        once, twice = (_milliseconds(replace(goal.case, height=n * goal.case.height)) for n in (1, 2))
        return {"value": twice / once}
    found = [model(*launch, goal.case) for launch in launches(goal.case, _WAYS[goal.measure])]
    value = ms = sum(each.ms for each in found)
    if goal.measure == "backward over forward":
        value = ms / _milliseconds(goal.case)
    parts = [{"kernel": each.kernel, "issue": each.issue, "cache": each.cache} for each in found]
    return {"value": value, "ms": ms, "launches": parts}


def _milliseconds(case: Case) -> float:
    return sum(model(*launch, case).ms for launch in launches(case))


def memory(case: Case) -> float:
    """Return the peak of a call over its inputs and outputs: NumPy tells what a GPU would have to hold."""
    call = prepare(Cuda(Recorder()), case)
    tracemalloc.start()
    outputs = call.forward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (nbytes(call.inputs) + peak) / nbytes(call.inputs, outputs)


def print_goals(goals: dict[str, dict[str, Any]]) -> None:
    print(
        "\nmodelled for an H100, not measured          goal   figure  of it, by kernel: ms to issue, ms of the L1 cache"
    )
    for goal in GOALS:
        if found := goals.get(goal.name):
            parts = found.get("launches", [])
            shown = [f"{part['kernel']} {part['issue']:.3g} {part['cache']:.3g}" for part in parts]
            shown = ", ".join([*shown, *(f"{name} {s:.3g} s" for name, s in found.get("s", {}).items())])
            print(f"{goal.name:40} {goal.must:7g} {found['value']:8.3g}  {shown}".rstrip())


if __name__ == "__main__":
    found = modelled_goals()
    print_goals(found)
    for file in sys.argv[1:]:
        about = {"modelled for": "H100", "compiler": nvrtc.version(), "goals": found}
        Path(file).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
