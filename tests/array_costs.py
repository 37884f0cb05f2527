"""What array code would take on a GPU, where each operation is a launch of its own that reads and writes memory.

Arrays are NumPy's, taken for CuPy's, and write down what is done with them. Nothing is fused, and nothing stays in a cache.
Views are free. So are kernels of ours: `modelled.py` says what these take. What they would find is computed on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from shiftsearch import _homes
from shiftsearch._primitive import primitives
from shiftsearch.backends import cpu, cuda

LAUNCH = 5e-6  # seconds of an operation, however small: what CuPy needs to start it
WAIT = 2e-5  # seconds until the host has a number that it asks for, and goes on
BANDWIDTH = 3e12  # bytes a second: nine tenths of what an H100's memory has
_CALL = 2  # launches that last as long as Python does in a call of ours: host.py measures it
_PASSES = {"sort": 8, "argsort": 8, "partition": 8, "median": 8, "quantile": 8, "unique": 8}  # of a radix sort
_EACH = ("stack", "concatenate")  # one launch for each of their arrays
_BORDERS = 5  # launches of pad: the middle, and what lies around it
_FREE = ("empty", "empty_like", "shares_memory", "may_share_memory", "result_type", "ndim", "shape", "size")
_PACKAGE = str(Path(cuda.__file__).parents[2])


@dataclass(frozen=True)
class Operation:
    name: str
    where: str  # file and function of the package
    launches: int
    bytes: int  # that are read and written
    waits: bool = False  # for a number that the host asks for

    @property
    def seconds(self) -> float:
        return self.waits * WAIT + max(self.launches * LAUNCH, self.bytes / BANDWIDTH)


_done: list[Operation] = []


@contextmanager
def counted(device: Any) -> Iterator[list[Operation]]:
    """Give the operations that arrays do which `device` is to compute. What it launches is its own."""
    device.xp = Namespace()
    backend = cuda.Cuda(device)
    for name, function in primitives(cpu.__name__).items():
        setattr(backend, name, partial(_found, getattr(backend, name), function))
    _done.clear()
    with (
        mock.patch.object(cuda, "load", return_value=backend),
        mock.patch.dict(_homes._LIBRARIES, {Counted: "cupy"}),
        np.errstate(all="ignore"),
    ):
        yield _done


def _found(launched: Any, on_cpu: Any, *arguments: Any, **options: Any) -> Any:
    """Launch a primitive on a device that computes nothing, and return what the CPU finds."""
    launched(*arguments, **options)
    count("call", launches=_CALL)
    return _marked(on_cpu(*(_plain(x) for x in arguments), **{name: _plain(x) for name, x in options.items()}))


def count(name: str, reads: Any = (), writes: Any = (), *, launches: int = 1, waits: bool = False) -> None:
    moved = _PASSES.get(name, 1) * (sum(map(nbytes, reads)) + sum(map(nbytes, writes)))
    _done.append(Operation(name, _where(), launches, moved, waits))


def nbytes(array: Any) -> int:
    """Return the bytes of memory that an array has: what is broadcast has them once."""
    if not isinstance(array, np.ndarray):
        return 0
    return array.itemsize * int(np.prod([n for n, stride in zip(array.shape, array.strides, strict=True) if stride]))


def _where() -> str:
    frame = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(_PACKAGE)}:{frame.f_code.co_name}" if frame else ""


class Counted(np.ndarray):
    """An array that is taken for one of CuPy's."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        found = getattr(ufunc, method)(*map(_plain, inputs), **options)
        count(ufunc.__name__, inputs, found if isinstance(found, tuple) else (found,))
        return _marked(found) if out is None else out[0] if len(out) == 1 else out

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return _called(function.__name__, function, arguments, options)

    def __getitem__(self, index: Any) -> Any:
        found = np.asarray(_plain(self)[_plain(index)])
        if found.ndim and not _is_view(found, self):  # a number is a view, too
            count("take", (found, *_arrays(index)), (found,))
        return _marked(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        plain, value = _plain(self), _plain(value)
        plain[_plain(index)] = value
        written = plain[_plain(index)]
        if not _is_view(value, written):  # `a[i] += b` writes what is there already
            count("put", (value, *_arrays(index)), (written,))

    def __float__(self) -> float:
        return float(self._asked())

    def __int__(self) -> int:
        return int(self._asked())

    def __bool__(self) -> bool:
        return bool(self._asked())

    __index__ = __int__

    def tolist(self) -> Any:
        return self._asked().tolist()

    def get(self) -> np.ndarray:
        """Return the same array in main memory."""
        return self._asked()

    def _asked(self) -> np.ndarray:
        count("wait", (self,), launches=0, waits=True)
        return self.view(np.ndarray)


def _method(name: str) -> Any:
    def method(self: Counted, *arguments: Any, **options: Any) -> Any:
        return _called(name, getattr(np.ndarray, name), (self, *arguments), options)

    return method


for _name in (
    "astype",
    "copy",
    "take",
    "repeat",
    "reshape",
    "ravel",
    "flatten",
    "argsort",
    "argmin",
    "argmax",
    "round",
):
    setattr(Counted, _name, _method(_name))


class Namespace:
    """NumPy, taken for CuPy, whose operations are written down."""

    __name__ = "cupy"
    cuda = SimpleNamespace(
        Device=lambda *_: nullcontext(), runtime=SimpleNamespace(memGetInfo=lambda: (80 << 30, 80 << 30))
    )

    @staticmethod
    def asnumpy(array: Any) -> np.ndarray:
        return array.get()

    @staticmethod
    def empty(shape: Any, dtype: Any = float, **options: Any) -> Counted:
        return np.zeros(shape, dtype, **options).view(Counted)  # takes no memory before it is written

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments, **options: _called(name, found, arguments, options)


def _called(name: str, function: Any, arguments: Any, options: Any) -> Any:
    """Call a function of NumPy, and write down what it did unless it is a view."""
    reads = _arrays([*arguments, *options.values()])
    found = function(*(_plain(x) for x in arguments), **{key: _plain(x) for key, x in options.items()})
    made = [
        x for x in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(x, (np.ndarray, np.generic))
    ]
    if name not in _FREE and not all(any(_is_view(x, of) for of in reads) for x in made):
        launches = len(reads) if name in _EACH else _BORDERS if name == "pad" else 1
        if name in ("take", "repeat"):  # reads only what it writes
            reads = [*reads[1:], *made]
        count(name, reads, made, launches=launches)
    return _marked(found)


def _is_view(found: Any, of: Any) -> bool:
    return isinstance(found, np.ndarray) and isinstance(of, np.ndarray) and np.may_share_memory(found, of)


def _arrays(values: Any) -> list[np.ndarray]:
    """Return the arrays among values, and in lists of them."""
    values = values if isinstance(values, (list, tuple)) else [values]
    return [
        a for x in values for a in (_arrays(x) if isinstance(x, (list, tuple)) else [x]) if isinstance(a, np.ndarray)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(x) for x in value)
    return value.view(np.ndarray) if isinstance(value, Counted) else value


def _marked(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_marked(x) for x in value) if not hasattr(value, "_fields") else value
    if isinstance(value, np.generic):  # of CuPy it is an array
        value = np.asarray(value)
    return value.view(Counted) if isinstance(value, np.ndarray) else value
