"""Launches of bugs.cu: which mode finds each bug with which message, and what the kernel computes without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulate.emulator import Emulator, EmulatorError

_TEXT = (Path(__file__).resolve().parent / "bugs.cu").read_text(encoding="utf-8")
WRONG = "wrong result"


def text(bug: bool) -> str:
    return f'#define SS_BUG {int(bug)}\n#line 1 "bugs.cu"\n{_TEXT}'


@dataclass(frozen=True)
class Bug:
    """A kernel from `x` and `values` to `y`. `seen` has, for each mode, a pattern of the message or WRONG."""

    name: str
    seen: dict[str, str]
    expected: np.ndarray  # without the bug
    x: np.ndarray
    values: tuple = ()
    blocks: int = 1
    threads: int = 128
    shared: int = 0
    guard: str = "end"
    seconds: float = 60.0

    def run(self, mode: str, bug: bool, seed: int, guard: str | None = None) -> np.ndarray:
        """Return `y` of the kernel, with its bug or without."""
        emulator = Emulator(mode, seed, guard or self.guard)
        emulator.seconds = self.seconds if bug else 60.0
        y = np.zeros_like(self.expected)
        arguments = [self.x.copy(), y, *self.values]
        emulator.launch_text(text(bug), self.name, self.blocks, self.threads, arguments, shared=self.shared)
        return y

    def said(self, mode: str, seed: int) -> str:
        """Return the message that the bug causes, or WRONG if only the result shows it."""
        try:
            return WRONG if (self.run(mode, True, seed) != self.expected).any() else "nothing"
        except EmulatorError as error:
            return str(error)


def _every(message: str) -> dict[str, str]:
    return {"fast": message, "ubsan": message, "tsan": message}


def _bugs() -> list[Bug]:
    whole = np.arange(1, 257, dtype=np.float32)
    x = whole[:128]
    race = r"data race: .*bugs\.cu:\d+"
    unseen_but_race = {"tsan": race}
    mirrored = x[::-1].copy()
    neighbours = x[:100] + np.append(x[1:100], x[99])
    before = x[:100] + np.append(x[0], x[:99])
    halves = x.reshape(4, 32).copy()
    halves[:, :16] += halves[:, :16].reshape(4, 8, 2)[:, :, ::-1].reshape(4, 16)
    fifteenth = x.reshape(4, 32).copy()
    fifteenth[:, :16] = fifteenth[:, 15:16]
    outside = r"%s outside of any array at \w+: argument %d, byte %d of 400, at bugs\.cu:\d+"
    n = np.int32(100)
    per_warp = np.repeat(x[:4], 32)
    return [
        Bug(
            "missing_barrier",
            {"fast": WRONG, "ubsan": WRONG, "tsan": race},
            whole.reshape(2, 128)[:, ::-1].ravel(),
            whole,
            blocks=2,
        ),
        Bug(
            "write_after_read",
            {"fast": WRONG, "ubsan": WRONG, "tsan": race},
            np.tile(whole.reshape(8, 32).sum(0), 4),
            whole,
        ),
        Bug("read_outside", _every(outside % ("read", 0, 400)), neighbours, x[:100], (n,)),
        Bug("read_before", _every(outside % ("read", 0, -4)), before, x[:100], (n,), guard="start"),
        Bug("write_outside", _every(outside % ("write", 1, 400)), x[:100], x[:100], (n,)),
        Bug("write_before", _every(outside % ("write", 1, -4)), x[:100], x[:100], (n,), guard="start"),
        Bug("write_constant", _every("argument 0 is constant"), x, x),
        Bug(
            "shared_outside",
            {
                "fast": "write outside of the shared array parts, byte 16 of 16",
                "ubsan": "index out of bounds at bugs.cu",
                "tsan": "write outside of the shared array parts",
            },
            per_warp,
            x,
        ),
        Bug(
            "shared_before",
            {
                "fast": "write outside of the shared array parts, byte -4 of 20",
                "ubsan": "index out of bounds",
                "tsan": "write outside of the shared array parts",
            },
            per_warp,
            x,
        ),
        Bug(
            "dynamic_outside",
            _every(r"write outside of the shared array \(dynamic\), byte 512 of 512"),
            x,
            x,
            shared=512,
        ),
        Bug("unwritten_shared", _every(WRONG), x, x),
        Bug(
            "divergent_barrier",
            _every(r"__syncthreads at bugs.cu:\d+ while other threads wait at the one in bugs.cu:\d+"),
            x,
            x,
        ),
        Bug(
            "stuck",
            _every(
                r"is stuck: 16 threads at bugs.cu:\d+ \(warp, mask ffffffff\) "
                r"112 threads at bugs.cu:\d+ \(__syncthreads\)"
            ),
            mirrored,
            x,
        ),
        Bug(
            "divergent_shuffle",
            _every(r"while lanes \w+ wait in __(shfl_xor_sync|syncwarp) at bugs"),
            halves.ravel(),
            x,
        ),
        Bug(
            "lane_outside_mask",
            _every(r"calling lane is not in its mask 7fffffff|reads lane 31, which takes no part"),
            x.reshape(64, 2)[:, ::-1].ravel(),
            x,
        ),
        Bug("absent_lane", _every("reads lane 16, which takes no part"), fifteenth.ravel(), x),
        Bug(
            "early_return",
            _every(r"returned while \d+ threads wait|after \d+ threads of the block have returned"),
            np.where(np.arange(128) < 28, 0, mirrored).astype(np.float32),
            x,
            (n,),
        ),
        Bug("endless_collectives", {"fast": "endless loop", "ubsan": "endless loop"}, x, x, seconds=0.1),
        Bug(
            "endless_loop",
            {"fast": r"endless loop\?, at bugs", "ubsan": r"endless loop\?, at bugs"},
            x[:1],
            x,
            threads=1,
            seconds=0.1,
        ),
        Bug(
            "misaligned",
            {"ubsan": r"misaligned address of .*float4.* 16 bytes"},
            whole[0:128:4] + whole[3:128:4],
            x,
            threads=32,
        ),
        Bug(
            "overflow",
            {"ubsan": "signed integer overflow at bugs.cu"},
            x[np.arange(1, 129, dtype=np.int64) * 2**24 % 128],
            x,
            (np.int32(2**24),),
        ),
        Bug("shift", {"ubsan": "shift by too much"}, x + 2, x, (np.int32(33),)),
        Bug(
            "not_a_number",
            {"fast": WRONG, "ubsan": "float that the integer can not hold", "tsan": WRONG},
            x,
            x,
            (np.float32("nan"),),
        ),
        Bug(
            "deep_stack",
            _every("local variables take more than 128 KB"),
            x[np.arange(128) % 100],
            x,
            (n,),
        ),
        Bug("plain_sum", unseen_but_race, x.reshape(32, 4).sum(0), x),
        Bug("sum_of_blocks", unseen_but_race, whole.reshape(8, 32).sum(0), whole, blocks=8, threads=32),
        Bug("store_of_blocks", unseen_but_race, x[:8], x, blocks=8, threads=1),
        Bug("missing_syncwarp", {"fast": WRONG, "ubsan": WRONG, "tsan": race}, x[31::-1].copy(), x, threads=32),
        Bug("shuffle_as_barrier", unseen_but_race, x[31::-1].copy(), x, threads=32),
    ]


BUGS = _bugs()
