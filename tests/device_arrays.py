"""NumPy arrays that, like those of a GPU, cannot be mixed with arrays in main memory.

The emulated CUDA backend computes with them, so that an op which mixes the two fails here and not first on a GPU.
"""

from __future__ import annotations

import numpy as np


class OnDevice(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        _refuse_mixed(ufunc.__name__, inputs)
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        return _marked(getattr(ufunc, method)(*map(_plain, inputs), **options))

    def __array_function__(self, function, types, arguments, options):
        _refuse_mixed(function.__name__, [*arguments, *options.values()])
        return _marked(function(*_plain(arguments), **{name: _plain(value) for name, value in options.items()}))

    def get(self):
        """Return the same array in main memory."""
        return self.view(np.ndarray)


class Namespace:
    """NumPy whose arrays are on the device. `asarray` is the one way there, and `asnumpy` the one back."""

    @staticmethod
    def asnumpy(array):
        return array.get()

    def __getattr__(self, name):
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments, **options: self._called(name, found, arguments, options)

    @staticmethod
    def _called(name, function, arguments, options):
        if name != "asarray":
            _refuse_mixed(name, [*arguments, *options.values()])
        return _marked(function(*_plain(arguments), **{key: _plain(value) for key, value in options.items()}))


def _refuse_mixed(name: str, values) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _refuse_mixed(name, value)
        elif isinstance(value, np.ndarray) and not isinstance(value, OnDevice) and value.ndim:
            raise TypeError(f"{name} of an array in main memory: a GPU has no such array")


def _plain(value):
    if isinstance(value, (list, tuple)) and any(isinstance(x, (np.ndarray, list, tuple)) for x in value):
        return type(value)(_plain(x) for x in value)
    return value.view(np.ndarray) if isinstance(value, OnDevice) else value


def _marked(value):
    if isinstance(value, tuple):
        return tuple(_marked(x) for x in value)
    return value.view(OnDevice) if isinstance(value, np.ndarray) else value
