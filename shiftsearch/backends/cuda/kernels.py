"""Every CUDA kernel, registered once: where it stands, how it is launched, what it may cost.

A kernel's text is its file with the options of a call in front, as prefixed constants; sizes are arguments, so that a
new resolution compiles nothing. Arguments are bound by the names in the kernel's own signature: there is no
second list of them. No array library is imported here, and no CUDA: the tests run the same text without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from shiftsearch import _source

_DTYPES = {"float": "float32", "double": "float64", "__half": "float16", "__nv_bfloat16": "bfloat16", "int": "int32",
           "long long": "int64", "unsigned char": "uint8"}  # fmt: skip
CTYPES = {dtype: ctype for ctype, dtype in _DTYPES.items()}
MOST_BLOCKS = 2**31 - 1
WARPS = 4  # of a block of `search`, a query each
_CANDIDATE = {"float": 12, "double": 24}  # bytes of one in a bag, by the type of sums


def _bags(constants: dict) -> int:
    """Of the best candidates of each warp of `search`, where they are too many for registers: see topk.cuh."""
    return constants["SHARED"] * WARPS * bag_size(constants)


def bag_size(constants: dict) -> int:
    return constants["ROOM"] * _CANDIDATE[constants["ACC"]]


@dataclass(frozen=True)
class Kernel:
    """`extern "C" __global__ void ss_<name>` in a file of cuda_src."""

    name: str
    file: str
    threads: int = 128  # of a block
    registers: int = 64  # the most that it may use on any architecture
    dynamic: Callable[[dict], int] = field(
        default=lambda constants: 0, compare=False
    )  # bytes of shared memory of a block
    # options that it is compiled with where no GPU is there to try it; dtypes come on top
    instances: tuple[dict, ...] = field(default=(), compare=False)

    def parameters(self, constants: dict[str, str | int]) -> tuple[Parameter, ...]:
        """Its parameters as the signature spells them, types that are constants replaced by their values."""
        return _parameters(self.file, self.name, tuple(sorted(constants.items())))


_PLACES = {"OFFSET": "float", "WHOLE": 0, "ZEROS": 0, "QUERY_ZEROS": 0, "PATCH": 7, "DILATION": 1, "STRIDE": 1, "SCALE": 1,
           "L2": 1}  # fmt: skip
_WHOLE = {**_PLACES, "OFFSET": "int", "WHOLE": 1, "L2": 0, "QUERY_ZEROS": 1}
_ZEROS = {**_PLACES, "ZEROS": 1, "QUERY_ZEROS": 1, "PATCH": 3, "DILATION": 2, "STRIDE": 2}
_SEARCH = {**_PLACES, "AROUND": "float", "PLACE": "int", "WHOLE": 1, "WINDOW": 9, "STEP": 1.0, "RADIUS": 1, "FIRST_SLOT": 0,
           "SLIDE": 1, "SUBPIXEL": 0, "PENALTY": 0.0, "TOPK": 10, "PER_FRAME": 0, "REGISTERS": 1, "ROOM": 0, "SHARED": 0,
           "PIXELS": 49, "CHUNK": 16, "ANCHOR": 0, "SKIP": 0, "SEEDS": 0}  # fmt: skip
_FRACTIONS = {
    **_SEARCH,
    "PLACE": "float",
    "WHOLE": 0,
    "SUBPIXEL": 1,
    "STEP": 0.5,
    "TOPK": 100,
    "REGISTERS": 4,
    "SEEDS": 1,
}


def _with(sets: tuple[dict, ...], **more) -> tuple[dict, ...]:
    return tuple({**constants, **more} for constants in sets)


_ALL = (_PLACES, _WHOLE, _ZEROS)
KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("score", registers=128, file="score.cu", instances=_ALL),
        Kernel("slope", registers=152, file="slope.cu", instances=(*_with(_ALL, PATCHES=0), *_with(_ALL, PATCHES=1))),
        Kernel("gather", registers=72, file="gather.cu", instances=_ALL),
        Kernel("aggregate", registers=144, file="aggregate.cu", instances=_ALL),
        Kernel("cells", registers=40, file="scatter.cu", instances=_with(_ALL, REACH=4, PATCHES=0, WEIGHTED=1)),
        Kernel("scatter", registers=128, file="scatter.cu", instances=(*_with(_ALL, REACH=4, PATCHES=0, WEIGHTED=1),
                                             *_with(_ALL, REACH=4, PATCHES=1, WEIGHTED=1))),
        Kernel("chain_flow", registers=80, file="chain_flow.cu", instances=({"RADIUS": 2, "STRIDE": 1, "SCALE": 1},)),
        Kernel("chain_flow_backward", registers=112, file="chain_flow.cu", instances=({"RADIUS": 2, "STRIDE": 1, "SCALE": 1},)),
        Kernel("search", registers=192, file="search.cu", dynamic=_bags,
               instances=(_SEARCH, _FRACTIONS, {**_SEARCH, "TOPK": 0, "REGISTERS": 0, "ANCHOR": 1},
                          {**_SEARCH, "TOPK": 200, "REGISTERS": 0, "ROOM": 300, "SHARED": 1, "PATCH": 65,
                           "PIXELS": 1024, "CHUNK": 1},
                          {**_SEARCH, "TOPK": 500, "REGISTERS": 0, "ROOM": 750, "ZEROS": 1, "QUERY_ZEROS": 1})),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    name: str
    ctype: str
    pointer: bool

    @property
    def dtype(self) -> str:
        return _DTYPES[self.ctype]


def text(file: str, constants: dict[str, str | int]) -> str:
    """The source of `file` for one choice of options."""
    defines = [f"#define SS_{name} {value}" for name, value in sorted(constants.items())]
    return "\n".join([*defines, _source.read(file), ""])


@cache
def _parameters(file: str, name: str, constants: tuple[tuple[str, str | int], ...]) -> tuple[Parameter, ...]:
    signature = rf"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?ss_{name}\s*\(([^)]*)\)"
    found = re.search(signature, _source.read(file))
    types = {f"SS_{key}": value for key, value in constants}
    return tuple(_parameter(written, types) for written in re.sub(r"//[^\n]*", "", found[1]).split(","))


def _parameter(written: str, types: dict) -> Parameter:
    *ctype, name = written.replace("*", " * ").replace("__restrict__", " ").split()
    pointer = "*" in ctype
    ctype = " ".join(word for word in ctype if word not in ("const", "*"))
    return Parameter(name, str(types.get(ctype, ctype)), pointer)


def bind(kernel: Kernel, constants: dict[str, str | int], given: dict) -> list:
    """The values of `given` in the order of the kernel's parameters: arrays as they are, numbers as NumPy scalars."""
    wanted = kernel.parameters(constants)
    missing = [p.name for p in wanted if p.name not in given]
    if missing or len(wanted) != len(given):
        left = sorted(set(given) - {p.name for p in wanted})
        raise TypeError(f"kernel {kernel.name} lacks {missing} and has no parameter {left}")
    return [_bound(kernel, p, given[p.name]) for p in wanted]


def _bound(kernel: Kernel, p: Parameter, value):
    if not p.pointer:
        return np.dtype(p.dtype).type(value)
    if value is None:  # an option left it out, and the kernel does not look at it
        return None
    if value.dtype.name != p.dtype:
        raise TypeError(f"kernel {kernel.name}: {p.name} is {value.dtype}, expected {p.dtype}")
    if not value.flags.c_contiguous:
        raise TypeError(f"kernel {kernel.name}: {p.name} is not contiguous")
    return value
