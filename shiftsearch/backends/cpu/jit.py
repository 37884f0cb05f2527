"""Compiling kernels: numba functions that are compiled when first called, once per dtype, and kept on disk."""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading

import numba
import numpy as np
from numba import types
from numba.core import event

# NaN and inf mean something here, so fast-math must not assume them away
_OPTIONS = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_LOCK = threading.Lock()

inline = numba.njit(**_OPTIONS)  # for helpers that kernels call


class kernel:
    """`@kernel("out")`: a function over arrays of which only those named are written.

    Every array is taken as strided and, unless named, read-only, so that all layouts share one
    compilation. The function runs without the GIL.
    """

    def __init__(self, *written: str):
        self.written, self.compiled = written, {}

    def __call__(self, function):
        self.function, self.names = function, list(inspect.signature(function).parameters)
        return self._run

    def _run(self, *arguments):
        key = tuple(a.dtype.char + str(a.ndim) if isinstance(a, np.ndarray) else type(a) for a in arguments)
        ready = self.compiled.get(key)
        if ready is None:
            with _LOCK:
                ready = self.compiled.get(key) or self._compile(arguments)
                self.compiled[key] = ready
        return ready(*arguments)

    def _compile(self, arguments):
        signature = tuple(self._type(*pair) for pair in zip(self.names, arguments, strict=True))
        with _announced():
            try:
                return numba.njit(signature, cache=True, **_OPTIONS)(self.function)
            except numba.core.errors.NumbaError:
                raise
            except Exception:  # no folder to write to, a full disk, a damaged file: the cache only saves time
                return numba.njit(signature, **_OPTIONS)(self.function)

    def _type(self, name, argument):
        if not isinstance(argument, np.ndarray):
            return types.boolean if isinstance(argument, (bool, np.bool_)) else numba.typeof(argument)
        dtype = numba.np.numpy_support.from_dtype(argument.dtype)
        return types.Array(dtype, argument.ndim, "A", readonly=name not in self.written)


class _Announce(event.Listener):
    """Says once per process that kernels are being compiled; reading them from disk is silent."""

    said = False

    def on_start(self, event):
        if not _Announce.said:
            _Announce.said = True
            message = "shiftsearch: compiling its CPU kernels for this machine, which takes some seconds and happens once"
            print(message, file=sys.stderr, flush=True)

    def on_end(self, event):
        pass


@contextlib.contextmanager
def _announced():
    with event.install_listener("numba:compile", _Announce()):
        yield
