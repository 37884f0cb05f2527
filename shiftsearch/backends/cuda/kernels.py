"""Every CUDA kernel, registered once: its file, how it is launched, and what it may cost.

The text of a kernel is its file with the options of a call in front, as constants with the prefix SS_. Sizes of arrays
are arguments, so that a new resolution compiles nothing. Arguments are bound by the names in the kernel's own signature
and in the structs that it takes: there is no second list of them.

This module imports no array library but NumPy, and no CUDA: the tests run the same text without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

from shiftsearch import _source

Constants = dict[str, Any]  # names and numbers that are written into a text

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "__half": "float16",
    "__nv_bfloat16": "bfloat16",
    "int": "int32",
    "long long": "int64",
    "unsigned char": "uint8",
}
CTYPES = {dtype: ctype for ctype, dtype in _DTYPES.items()}
MOST_BLOCKS = 2**31 - 1
WARPS = 4  # of a block of `search`, a query each
_CANDIDATE = {"float": 12, "double": 24}  # bytes of a candidate in topk.cuh, by the type of sums


def buffer_size(constants: Constants) -> int:
    """Return how many bytes a warp of `search` needs for the best candidates that do not fit into registers."""
    return constants["ROOM"] * _CANDIDATE[constants["ACC"]]


def _shared_buffers(constants: Constants) -> int:
    return constants["SHARED"] * WARPS * buffer_size(constants)


def _no_shared_memory(constants: Constants) -> int:
    return 0


@dataclass(frozen=True)
class Kernel:
    """`extern "C" __global__ void <name>` in a file of cuda_src."""

    name: str
    file: str
    threads: int = 128  # of a block
    registers: int = 64  # the most that it may use on any architecture
    shared: Callable[[Constants], int] = field(default=_no_shared_memory, compare=False)  # dynamic bytes of a block
    instances: tuple[Constants, ...] = field(default=(), compare=False)  # what tests compile, for each dtype

    def parameters(self, constants: Constants) -> tuple[Parameter, ...]:
        """Return its parameters as the signature spells them, with types in place of the constants that name them."""
        return _parameters(self.file, self.name, tuple(sorted(constants.items())))

    def names(self, constants: Constants) -> list[str]:
        """Return the names of the arguments that a launch needs: parameters, and fields of structs."""
        return [name for parameter in self.parameters(constants) for name in parameter.names]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel, or a field of a struct that is passed by value."""

    name: str
    ctype: str
    pointer: bool = False
    fields: tuple[Parameter, ...] = ()  # of a struct

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields) or (self.name,)

    @cached_property
    def dtype(self) -> str | np.dtype:
        """The name of a number's dtype, or the dtype of a struct as C lays it out."""
        if self.fields:
            return np.dtype([(f.name, f.dtype) for f in self.fields], align=True)
        return _DTYPES[self.ctype]


# --- the kernels ----------------------------------------------------------------------------------
_ARRAYS: Constants = {"OFFSET": "float", "WHOLE": 0, "ZEROS": 0, "QUERY_ZEROS": 0, "STACKED": 0}
_FRACTION = _ARRAYS | {"PATCH": 7, "DILATION": 1, "STRIDE": 1, "SCALE": 1, "L2": 1}
_WHOLE = {**_FRACTION, "OFFSET": "int", "WHOLE": 1, "L2": 0, "QUERY_ZEROS": 1}
_ZEROS = {**_FRACTION, "ZEROS": 1, "QUERY_ZEROS": 1, "PATCH": 3, "DILATION": 2, "STRIDE": 2}
_STACKED = {**_FRACTION, "QUERY_ZEROS": 1, "STACKED": 1, "PATCH": 3, "L2": 0}
_PLACES = (_FRACTION, _WHOLE, _ZEROS)

_WINDOWS = {"AROUND": "float", "SEEDS": 0, "WINDOW": 9, "STEP": 1.0, "RADIUS": 1, "FIRST_SLOT": 0, "SLIDE": 1}
_BEST = {"PLACE": "int", "SUBPIXEL": 0, "PENALTY": 0.0, "TOPK": 10, "PER_FRAME": 0, "ANCHOR": 0, "SKIP": 0}
_MEMORY = {"REGISTERS": 1, "ROOM": 0, "SHARED": 0, "PIXELS": 49, "CHUNK": 16}
_SEARCH = _FRACTION | {"WHOLE": 1} | _WINDOWS | _BEST | _MEMORY
_SUBPIXEL = {"PLACE": "float", "WHOLE": 0, "SUBPIXEL": 1, "STEP": 0.5, "TOPK": 100, "REGISTERS": 4, "SEEDS": 1}
_IN_SHARED = {"TOPK": 200, "REGISTERS": 0, "ROOM": 300, "SHARED": 1, "PATCH": 65, "PIXELS": 1024, "CHUNK": 1}
_IN_GLOBAL = {"TOPK": 500, "REGISTERS": 0, "ROOM": 750, "ZEROS": 1, "QUERY_ZEROS": 1}
_SEARCHES = (
    _SEARCH,
    {**_SEARCH, **_SUBPIXEL},
    {**_SEARCH, "TOPK": 0, "REGISTERS": 0, "ANCHOR": 1},
    {**_SEARCH, **_IN_SHARED},
    {**_SEARCH, **_IN_GLOBAL},
)


def _with(instances: tuple[Constants, ...], **more) -> tuple[Constants, ...]:
    return tuple({**constants, **more} for constants in instances)


_OF_FORM, _OF_PATCHES = _with((*_PLACES, _STACKED), PATCHES=0), _with(_PLACES, PATCHES=1)
_SCATTERED = _with((*_OF_FORM, *_OF_PATCHES), REACH=4, WEIGHTED=1)
_CHAINS: tuple[Constants, ...] = ({"RADIUS": 2, "STRIDE": 1},)
_KERNELS = (
    Kernel("score", "score.cu", registers=128, instances=(*_PLACES, _STACKED)),
    Kernel("aggregate", "aggregate.cu", registers=144, instances=(*_PLACES, _STACKED)),
    Kernel("landing", "scatter.cu", registers=40, instances=_with(_PLACES, PATCHES=0, REACH=4, WEIGHTED=1)),
    Kernel("scatter", "scatter.cu", registers=128, instances=_SCATTERED),
    Kernel("slope", "slope.cu", registers=152, instances=(*_OF_FORM, *_OF_PATCHES)),
    Kernel("gather", "gather.cu", registers=72, instances=_PLACES),
    Kernel("search", "search.cu", registers=192, shared=_shared_buffers, instances=_SEARCHES),
    Kernel("chain_flow", "chain_flow.cu", registers=88, instances=_CHAINS),
    Kernel("chain_flow_backward", "chain_flow.cu", registers=128, instances=_CHAINS),
)
KERNELS = {kernel.name: kernel for kernel in _KERNELS}


# --- what a text says of its kernels --------------------------------------------------------------
def text(file: str, constants: Constants) -> str:
    """Return the source of `file` for one choice of options."""
    defines = [f"#define SS_{name} {value}" for name, value in sorted(constants.items())]
    return "\n".join([*defines, _source.read(file), ""])


@cache
def _parameters(file: str, name: str, constants: tuple[tuple[str, Any], ...]) -> tuple[Parameter, ...]:
    source = re.sub(r"//[^\n]*", "", _source.read(file))
    found = re.search(rf"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?{name}\s*\(([^)]*)\)", source)
    if found is None:
        raise LookupError(f"{file} has no kernel {name}")
    types = {f"SS_{key}": str(value) for key, value in constants}
    return tuple(_parameter(declared, types, source) for declared in found[1].split(","))


def _parameter(declared: str, types: dict[str, str], source: str) -> Parameter:
    """Read a declaration such as `const SS_SCALAR* q` or `const Sizes s`."""
    *words, name = declared.replace("*", " * ").split()
    ctype = " ".join(word for word in words if word not in ("const", "*"))
    ctype = types.get(ctype, ctype)
    fields = () if ctype in _DTYPES else _fields(ctype, source)
    return Parameter(name, ctype, "*" in words, fields)


def _fields(struct: str, source: str) -> tuple[Parameter, ...]:
    """Read the fields of a struct, such as `int T, H, W;`."""
    body = source.split(f"struct {struct} {{", 1)[1].split("}", 1)[0]
    declarations = re.findall(r"(\w[\w ]*?)\s+(\w+(?:\s*,\s*\w+)*);", body)
    return tuple(Parameter(name.strip(), ctype) for ctype, names in declarations for name in names.split(","))


# --- arguments ------------------------------------------------------------------------------------
def bind(kernel: Kernel, constants: Constants, given: dict[str, Any]) -> list[Any]:
    """Return the values of `given` as the kernel's arguments, in the order of its parameters.

    Arrays stay as they are, numbers become NumPy scalars, and structs become arrays of shape ().
    """
    names = kernel.names(constants)
    missing = [name for name in names if name not in given]
    if missing or len(names) != len(given):
        raise TypeError(f"kernel {kernel.name} lacks {missing} and has no parameter {sorted({*given} - {*names})}")
    return [_bound(kernel, parameter, given) for parameter in kernel.parameters(constants)]


def _bound(kernel: Kernel, p: Parameter, given: dict[str, Any]):
    if p.fields:
        return np.array(tuple(given[name] for name in p.names), p.dtype)
    if p.pointer:
        return _array(kernel, p, given[p.name])
    return np.dtype(p.dtype).type(given[p.name])


def _array(kernel: Kernel, p: Parameter, array):
    if array is None:  # an option left it out, and the kernel does not look at it
        return None
    if array.dtype.name != p.dtype:
        raise TypeError(f"kernel {kernel.name}: {p.name} is {array.dtype}, expected {p.dtype}")
    if not array.flags.c_contiguous:
        raise TypeError(f"kernel {kernel.name}: {p.name} is not contiguous")
    return array
