"""Compiling kernels: numba functions that are compiled when first called, once per dtype, and kept on disk."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import numba
import numpy as np
from numba import types
from numba.core import config, event
from numba.core.compiler_lock import global_compiler_lock

from shiftsearch.backends.cpu.disk import OnDisk
from shiftsearch.backends.cpu.pool import aside

# NaN and inf mean something here, so fast-math must not assume them away
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_LOCK = threading.Lock()
_LOG = logging.getLogger("shiftsearch")


def _compile_no_more() -> None:
    _LOCK.acquire()
    global_compiler_lock.acquire()


def _compile_again() -> None:
    global_compiler_lock.release()
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    # A fork waits for what is being compiled: the child would wait for ever, as it has not the thread that does it.
    os.register_at_fork(before=_compile_no_more, after_in_parent=_compile_again, after_in_child=_compile_again)

_P = ParamSpec("_P")
_R = TypeVar("_R", covariant=True)


class Compiled(Protocol[_P, _R]):
    """A function that numba compiles where a kernel calls it, and the same in Python."""

    @property
    def py_func(self) -> Callable[_P, _R]: ...

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...


class Compile(Protocol):
    """A decorator that has numba compile a function."""

    def __call__(self, function: Callable[_P, _R], /) -> Compiled[_P, _R]: ...


_HELPER = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
helper: Compile = numba.njit(**_HELPER)  # for functions that kernels call
# for functions called for each query: a call would pass every field of a record
inline: Compile = numba.njit(forceinline=True, **_HELPER)
# for positions, which are the same bit for bit on every backend
exact: Compile = numba.njit(forceinline=True, **{**_HELPER, "fastmath": False})


class kernel:
    """`@kernel("out")`: a function over arrays, numbers and records of both that numba compiles once for their dtypes.

    The arrays named, those of one dimension and those in records belong to the backend: contiguous and writable. All
    others are the user's: strided and read-only, so that every layout shares one compilation.
    Kernels that only call vector code compile faster if LLVM does not search them for loops to turn into vectors.
    """

    packed: tuple[str, ...]
    quick: bool
    compiled: dict[tuple[Any, ...], Any]
    owners: list[Any]  # of what is compiled
    function: Callable[..., None]
    parameters: list[str]

    def __init__(self, *packed: str, calls_vector_code: bool = False):
        self.packed, self.quick = packed, calls_vector_code
        self.compiled = {}
        self.owners = []

    def __call__(self, function: Callable[..., None]) -> Callable[..., None]:
        self.function, self.parameters = function, list(inspect.signature(function).parameters)
        return self._run

    def _run(self, *arguments: Any) -> None:
        key = _key(arguments)
        ready = self.compiled.get(key)
        if ready is None:  # in another thread: in this one, numba's callbacks would swallow a Ctrl-C
            ready = aside(self._ready, key, arguments)
        return ready(*arguments)

    def _ready(self, key, arguments):
        with _LOCK:
            if key not in self.compiled:
                self.compiled[key] = self._compile(arguments)
            return self.compiled[key]

    def _compile(self, arguments):
        signature = tuple(_type(a, n in self.packed) for n, a in zip(self.parameters, arguments, strict=True))
        with _announced(), _quickly() if self.quick else contextlib.nullcontext():
            found = numba.njit(**_OPTIONS)(self.function)
            found._cache = OnDisk(f"{self.function.__module__.rpartition('.')[2]}-{self.function.__name__.strip('_')}")
            found.compile(signature)
        self.owners.append(found)
        (only,) = found.overloads.values()
        return (
            only.entry_point
        )  # numba's own dispatcher looks at all types at each call, which takes longer than `_key`


_ALIKE: dict[type, bool] = {}  # whether all records of a class have fields of the same types, being of numbers only


def _key(argument):
    """Return the key of an argument by which the compiled kernel is found. Every call needs it: microseconds count."""
    kind = type(argument)
    if kind is np.ndarray:
        return argument.dtype.char, argument.ndim
    if not isinstance(argument, tuple):
        return kind
    alike = _ALIKE.get(kind)
    if alike is None:
        alike = _ALIKE[kind] = kind is not tuple and _has_only_numbers(argument)
    return kind if alike else (kind, *[p.dtype.char if type(p) is np.ndarray else _key(p) for p in argument])


def _has_only_numbers(record) -> bool:
    return all(isinstance(p, (int, float)) or (isinstance(p, tuple) and _has_only_numbers(p)) for p in record)


def _type(argument, packed: bool):
    """Return the numba type of an argument of a kernel."""
    if isinstance(argument, tuple):
        return types.BaseTuple.from_types([_type(part, True) for part in argument], type(argument))
    if not isinstance(argument, np.ndarray):
        return numba.typeof(argument)
    dtype = numba.np.numpy_support.from_dtype(argument.dtype)
    layout: Literal["C", "A"] = "C" if packed or argument.ndim == 1 else "A"
    return types.Array(dtype, argument.ndim, layout, readonly=layout == "A")


@contextlib.contextmanager
def _quickly():
    """Compile with fewer optimisations: numba reads these settings while it compiles, which is under this lock."""
    hasty = {"OPT": type(config.OPT)(1), "LOOP_VECTORIZE": 0, "SLP_VECTORIZE": 0}
    with global_compiler_lock:
        before = {name: getattr(config, name) for name in hasty}
        try:
            vars(config).update(hasty)
            yield
        finally:
            vars(config).update(before)


_SECONDS = [0.0]


def compiling() -> float:
    """Return the seconds that went into compiling in this process."""
    return _SECONDS[0]


class _Announce(event.Listener):
    """A listener that says once per process that kernels are being compiled; reading them from disk is silent."""

    said = False

    def __init__(self):
        self.begin = None

    def on_start(self, event):
        self.begin = self.begin or time.monotonic()
        if not _Announce.said:
            _Announce.said = True
            _LOG.warning(  # without logging set up, Python prints warnings only
                "shiftsearch compiles its CPU kernels for this machine, which takes some seconds and happens once"
            )

    def on_end(self, event):
        pass


@contextlib.contextmanager
def _announced():
    listener = _Announce()
    with event.install_listener("numba:compile", listener):
        yield
    if listener.begin is not None:
        _SECONDS[0] += time.monotonic() - listener.begin
