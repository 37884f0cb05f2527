"""Machine code of CUDA kernels: what a disassembler shows of a binary, its blocks, and the loops of its source."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from shiftsearch import _source

_WHEEL = "nvidia/cu13/bin/nvdisasm"  # of nvidia-cuda-nvdisasm, below site-packages
_PIPES = {  # of a multiprocessor, and the instructions that they do
    "float": "FFMA FADD FMUL",
    "half": "HFMA2 HADD2 HMUL2",  # also between halves and floats
    "whole": "IMAD",
    "compare": "IADD3 VIADD LOP3 SHF ISETP SEL FSEL FSETP FMNMX PRMT LEA VIMNMX PLOP3 VIADDMNMX IABS SGXT BMSK MOV CS2R P2R "
    "R2P F2FP HSETP2 HMNMX2 LOP IADD I2FP",
    "special": "MUFU I2F F2I F2F FRND POPC FLO BREV I2I",
    "double": "DADD DMUL DFMA DSETP",
    "tensor": "HMMA IMMA HGMMA",
    "memory": "LDG STG LDS STS SHFL LDL STL LD ST LDSM ATOMG ATOMS RED LDGSTS ATOM",
}
ARITHMETIC = ("float", "tensor")
_PIPE = {name: pipe for pipe, names in _PIPES.items() for name in names.split()}


@cache
def source(line: tuple[str, int]) -> str:
    """Return a line of a file of kernels, or nothing where there is none."""
    file, number = _source.directory() / Path(line[0]).name, line[1]
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


@dataclass(frozen=True)
class Instruction:
    text: str
    line: tuple[str, int]  # file and number of the line that it was compiled from

    @cached_property
    def full_name(self) -> str:
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0]

    @cached_property
    def name(self) -> str:
        return self.full_name.split(".")[0]

    @property
    def source(self) -> str:
        return source(self.line)

    @cached_property
    def pipe(self) -> str:
        return _PIPE.get(self.name, "other")

    @cached_property
    def target(self) -> str | None:
        """The label that it jumps to."""
        found = re.search(r"BRA.*`\((\S+)\)", self.text)
        return found and found[1]

    @cached_property
    def ends(self) -> bool:
        """Whether what stands behind it is not run after it."""
        if self.full_name == "BRA.DIV":  # only if threads of a warp have gone apart
            return False
        jumps = self.name in ("BRA", "EXIT", "RET")
        return jumps and not self.text.startswith("@") and not re.search(r"BRA\S*\s+!?U?P\d", self.text)

    @cached_property
    def bytes(self) -> int:
        """How many a thread moves."""
        return next((int(n) // 8 for n in re.findall(r"\.(128|64)\b", self.full_name)), 4)


@dataclass(frozen=True, eq=False)
class Loop:
    """A natural loop: its blocks, by number, the first of which all of them are reached through."""

    head: int
    blocks: frozenset[int]
    line: tuple[str, int]

    @cached_property
    def source(self) -> str:
        """The line of its `for` or `while`."""
        return source(self.line)


@dataclass(frozen=True, eq=False)
class Program:
    """The code of one kernel."""

    instructions: list[Instruction]
    labels: dict[str, int] = field(default_factory=dict)  # number of the instruction behind each

    @cached_property
    def blocks(self) -> list[list[Instruction]]:
        """Runs of instructions that are entered and left at their ends only."""
        return [self.instructions[a:b] for a, b in zip(self._starts, [*self._starts[1:], None], strict=True)]

    @cached_property
    def _starts(self) -> list[int]:
        behind = (n + 1 for n, each in enumerate(self.instructions) if each.target or each.ends)
        return sorted({0, *self.labels.values(), *behind} - {len(self.instructions)})

    @cached_property
    def after(self) -> list[list[int]]:
        """The blocks that may follow each block."""
        number = {start: n for n, start in enumerate(self._starts)}
        found = []
        for n, block in enumerate(self.blocks):
            to = self.labels.get(block[-1].target or "")
            following = [number[to]] if to in number else []
            found.append(following + [n + 1] * (not block[-1].ends and n + 1 < len(self.blocks)))
        return found

    @cached_property
    def _above(self) -> list[int]:
        """The blocks that each block is reached through, always, as bits."""
        before: list[list[int]] = [[] for _ in self.blocks]
        for n, following in enumerate(self.after):
            for m in following:
                before[m].append(n)
        everything = (1 << len(self.blocks)) - 1
        above = [1] + [everything] * (len(self.blocks) - 1)
        changed = True
        while changed:
            changed = False
            for n in range(1, len(self.blocks)):
                through = everything
                for m in before[n]:
                    through &= above[m]
                through |= 1 << n
                changed, above[n] = changed or through != above[n], through
        return above

    @cached_property
    def loops(self) -> list[Loop]:
        """All loops, each behind those that it is in."""
        jumps: dict[int, list[int]] = {}
        for n, following in enumerate(self.after):
            for m in following:
                if self._above[n] >> m & 1 and not (m == n and self._stops(n)):
                    jumps.setdefault(m, []).append(n)
        found = [Loop(head, self._body(head, ends), self.blocks[max(ends)][-1].line) for head, ends in jumps.items()]
        return sorted(found, key=lambda loop: -len(loop.blocks))

    def _stops(self, n: int) -> bool:
        """Whether a block is where a program ends: it jumps to itself."""
        return len(self.blocks[n]) == 1

    def _body(self, head: int, ends: list[int]) -> frozenset[int]:
        before: dict[int, list[int]] = {}
        for n, following in enumerate(self.after):
            for m in following:
                before.setdefault(m, []).append(n)
        found, waiting = {head}, list(ends)
        while waiting:
            n = waiting.pop()
            if n not in found:
                found.add(n)
                waiting += before.get(n, [])
        return frozenset(found)

    def of(self, loop: Loop) -> list[Instruction]:
        return [each for n in sorted(loop.blocks) for each in self.blocks[n]]

    def own(self, loop: Loop) -> list[Instruction]:
        """Return what a loop does beside the loops in it."""
        inner = {n for other in self.loops if other.blocks < loop.blocks for n in other.blocks}
        return [each for n in sorted(loop.blocks - inner) for each in self.blocks[n]]

    def hot(self) -> list[Loop]:
        """Return the loops where time goes: those that do arithmetic, and those that have no other in them."""
        return [loop for loop in self.loops if self._floats(loop) > 3 or not self._has_loops(loop)]

    def _has_loops(self, loop: Loop) -> bool:
        return any(other.blocks < loop.blocks for other in self.loops)

    def _floats(self, loop: Loop) -> int:
        return sum(each.pipe in ARITHMETIC for each in self.own(loop))

    def local(self) -> list[Instruction]:
        """Return what hot loops do in local memory: registers that are spilled, or arrays with a variable index."""
        return [each for loop in self.hot() for each in self.own(loop) if each.name in ("LDL", "STL")]

    def useful(self) -> float | None:
        """Return the share of arithmetic in the loop that does the most of it, or None if no loop does any."""
        busiest = max(self.loops, key=self._floats, default=None)
        floats = self._floats(busiest) if busiest else 0
        return floats / len(self.own(busiest)) if floats else None


# --- the disassembler -----------------------------------------------------------------------------------
def available() -> str | None:
    """Return the reason why nothing can be disassembled here, or None."""
    return None if _tool() else "needs nvdisasm: pip install nvidia-cuda-nvdisasm"


@cache
def _tool() -> str | None:
    found = (str(Path(folder, _WHEEL)) for folder in sys.path if Path(folder, _WHEEL).exists())
    return next(found, shutil.which("nvdisasm"))


def disassemble(binary: bytes) -> dict[str, Program]:
    """Return the programs of a cubin by the names of their kernels. Lines are known if it has -lineinfo."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(binary)
        shown = subprocess.run([_tool(), "-c", "-g", file], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\.text\.(\S+):$", shown, flags=re.M)
    return {name: _program(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _program(text: str) -> Program:
    instructions: list[Instruction] = []
    labels, line = {}, ("", 0)
    for shown in text.splitlines():
        if found := re.match(r'\s*//## File "(.*)", line (\d+)', shown):
            line = found[1], int(found[2])
        elif found := re.match(r"(\.L_x_\d+|\$\S+):", shown.strip()):
            labels[found[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?);", shown):
            instructions.append(Instruction(found[1].strip(), line))
    return Program(instructions, labels)
