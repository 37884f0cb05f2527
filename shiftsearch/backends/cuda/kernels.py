"""What a CUDA kernel is: its file, how it is launched, and what it may cost.

The text of a kernel is its file with the options of a call in front, as constants with the prefix SS_. Sizes of arrays
are arguments, and so are numbers that may follow from pixels: a new resolution or penalty compiles nothing. Arguments are
bound by name: the names are read from the kernel's signature and from the structs that it takes, and are written nowhere
else.

This module imports no array library but NumPy, and no CUDA: the tests run the same text without a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from struct import Struct
from struct import error as StructError
from typing import Any

import numpy as np

from shiftsearch import _source

Constants = dict[str, Any]  # names and numbers that are written in front of a text

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "__half": "float16",
    "__nv_bfloat16": "bfloat16",
    "int": "int32",
    "long long": "int64",
    "unsigned char": "uint8",
}
_LETTERS = {"float32": "f", "float64": "d", "int32": "i", "int64": "q", "uint8": "B"}  # of `struct`
CTYPES = {dtype: ctype for ctype, dtype in _DTYPES.items()}
MOST_BLOCKS = 2**31 - 1


def _no_shared_memory(constants: Constants) -> int:
    return 0


@dataclass(frozen=True, eq=False)
class Kernel:
    """`extern "C" __global__ void <name>` in a file of cuda_src."""

    name: str
    file: str
    threads: int = 128  # of a block, unless there is a constant THREADS
    registers: int = 64  # the most that it may use on any architecture
    frame: int = 0  # the most bytes of local memory, likewise
    dtypes: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")  # of the values
    shared: Callable[[Constants], int] = _no_shared_memory  # dynamic bytes of a block
    instances: tuple[Constants, ...] = ()  # what tests compile, for each dtype

    def parameters(self, constants: Constants) -> tuple[Parameter, ...]:
        """Return the parameters in the signature, with types for the constants that stand for them."""
        return _parameters(self.file, self.name, tuple(sorted(constants.items())))


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel, or a field of a struct that is passed by value."""

    name: str
    ctype: str
    pointer: bool = False
    fields: tuple[Parameter, ...] = ()  # of a struct

    @property
    def is_float(self) -> bool:
        """Whether it is a single number that is no whole one."""
        return not self.pointer and self.ctype in ("float", "double")

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


# --- launches -------------------------------------------------------------------------------------
class Program:
    """A kernel with the options of a call. Equal programs have equal texts."""

    def __init__(self, kernel: Kernel, constants: Constants):
        self.kernel, self.constants, self.shared = kernel, constants, kernel.shared(constants)
        self.threads: int = constants.get("THREADS", kernel.threads)
        # as the text spells them: 1 and 1.0 are equal as keys, but make two programs
        self.spelled = tuple(sorted((name, str(value)) for name, value in constants.items()))
        self._hash = hash((kernel.file, kernel.name, self.spelled))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Program)
            and (self.kernel.file, self.kernel.name, self.spelled)
            == (other.kernel.file, other.kernel.name, other.spelled)
        )

    @property
    def text(self) -> str:
        return text(self.kernel.file, self.constants)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.kernel.parameters(self.constants)


class Plan:
    """A launch of a program whose blocks and sizes are known, and only arrays and floats, as NumPy scalars, are missing.

    Floats may follow from pixels: with them a plan would be of no use to the next call.
    """

    def __init__(self, program: Program, blocks: int, numbers: Mapping[str, Any]):
        """Bind those of the `numbers` that the kernel has, as NumPy scalars, and structs as arrays of shape ()."""
        self.program, self.blocks, self._name, self._shared = program, blocks, program.kernel.name, program.shared
        parameters = program.parameters
        self._given = [*(p for p in parameters if p.pointer), *(p for p in parameters if p.is_float)]
        others = [p for p in parameters if not (p.pointer or p.is_float)]
        if [*self._given, *others] != [*parameters]:
            raise TypeError(f"kernel {self._name} has other parameters first, expected arrays, then floats, then sizes")
        self._require((name for p in others for name in p.names), numbers)
        self._numbers = tuple([_struct(self._name, p, numbers) if p.fields else _number(p, numbers) for p in others])
        # one more, because itemgetter of a single name returns no tuple
        self._take = itemgetter(*(p.name for p in self._given), self._given[0].name)
        self._checked = False

    def bind(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arguments of a launch in the order of the parameters. What it does not have is ignored.

        They are checked once: the code that makes those of a first launch makes those of others.
        """
        if not self._checked:
            self._check(given)
        return self._take(given)[:-1] + self._numbers

    def launch(self, device: Any, given: Mapping[str, Any]) -> None:
        if self.blocks:
            device.launch(self.program, self.blocks, self.bind(given), shared=self._shared)

    def _check(self, given: Mapping[str, Any]) -> None:
        """Check dtypes, and that arrays are contiguous unless their strides are passed, too."""
        self._require((p.name for p in self._given), given)
        named = {name for p in self.program.parameters for name in p.names}
        for p in self._given:
            array = given[p.name]
            if array is None:  # the options leave it out, and the kernel does not read it
                continue
            if array.dtype.name != p.dtype:
                raise TypeError(f"kernel {self._name}: {p.name} is {array.dtype}, expected {p.dtype}")
            if f"{p.name}_x" not in named and not array.flags.c_contiguous:
                raise TypeError(f"kernel {self._name}: {p.name} is not contiguous")
        self._checked = True

    def _require(self, names: Iterable[str], known: Mapping[str, Any]) -> None:
        lacking = [name for name in names if name not in known]
        if lacking:
            raise TypeError(f"kernel {self._name} lacks {lacking[0]!r}")


def _number(p: Parameter, numbers: Mapping[str, Any]) -> Any:
    return np.dtype(p.dtype).type(numbers[p.name])


def _struct(kernel: str, p: Parameter, numbers: Mapping[str, Any]) -> Any:
    dtype = np.dtype(p.dtype)
    try:
        return np.ndarray((), dtype, Struct(_format(dtype)).pack(*(numbers[name] for name in p.names)))
    except StructError as error:
        raise OverflowError(f"kernel {kernel}: {p.name} does not hold its numbers: {error}") from None


def _format(dtype: np.dtype[Any]) -> str:
    """Return the layout of a struct as the module `struct` spells it."""
    written, end = "=", 0
    for field_dtype, offset, *_ in (dtype.fields or {}).values():
        written += f"{offset - end}x{_LETTERS[field_dtype.name]}"
        end = offset + field_dtype.itemsize
    return f"{written}{dtype.itemsize - end}x"
