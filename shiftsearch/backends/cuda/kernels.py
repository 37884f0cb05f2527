"""What a CUDA kernel is: its file, how it is launched, and what it may cost.

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


def each_with(instances: tuple[Constants, ...], **more: Any) -> tuple[Constants, ...]:
    return tuple({**constants, **more} for constants in instances)


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
