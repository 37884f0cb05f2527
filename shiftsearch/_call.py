"""From the user's arrays to the user's kind of result. The only module that tells array libraries apart.

Where an array lives decides what runs: arrays in main memory run on the CPU backend, arrays on a
CUDA device on the CUDA backend, and nothing moves silently from one to the other.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from contextlib import contextmanager

import numpy as np

from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32", "float64")
_WHOLE = ("int8", "int16", "int32", "int64")


def run(op: Op, spec: Spec, **arrays) -> tuple:
    """Runs `op` where its arrays live; the outputs are the same kind of array."""
    arrays = {name: array for name, array in arrays.items() if array is not None or name not in op.optional}
    library, native = _take(op.name, arrays)
    backend = _backend(op.name, library)
    given = {name: _dtype(array) for name, array in native.items()}
    compute = _check_dtypes(op, given)
    native, sizes, batched = op.bind(spec, native)
    for name, shape in op.large(spec, sizes).items():
        check_room(op.name, name, shape, 4)
    with _room(op.name, native):
        native = {name: _prepare(array, given[name], compute, name in op.values) for name, array in native.items()}
        outputs = op.forward(backend, spec, **native)
    value = given[op.values[0]]
    results = []
    for name, output in outputs.items():
        if op.outputs[name] == "value" and value in _HALF:
            output = output.astype(native_dtype(value))
        results.append(library.give(output if batched else output[0]))
    return tuple(results)


def transform(op: str, function, **arrays):
    """`function` of NumPy arrays of floats, applied to arrays in main memory of any library."""
    library, native = _take(op, arrays)
    _backend(op, library)
    for name, array in native.items():
        if _dtype(array) not in _FLOATS:
            raise ShiftsearchError(f"{op}: {name} is {_dtype(array)}, expected one of {', '.join(_FLOATS)}")
    with _room(op, native):
        return library.give(function(*native.values()))


def check_room(op: str, name: str, shape: tuple[int, ...], each: int) -> None:
    """Refuses a result that no memory holds, before a system that promises more than it has ends the process."""
    needed, there = each * math.prod(shape), _memory()
    if needed > there:
        raise ShiftsearchError(
            f"{op}: {name} of shape {shape} takes {needed / 2**30:.3g} GiB, expected at most the {there / 2**30:.3g} GiB "
            "of memory that there are"
        )


def _memory() -> float:
    """Bytes of main memory, as many as may be addressed where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


@contextmanager
def _room(op: str, arrays: dict):
    """Says it as this package does if memory runs out."""
    try:
        yield
    except MemoryError as error:
        found = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
        raise ShiftsearchError(f"{op}: no memory for what comes of {found}, expected less ({error})") from None


def native_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    return np.dtype(name)


def _dtype(array) -> str:
    return array.dtype.name if array.dtype.isnative else str(array.dtype.str)


def _check_dtypes(op: Op, given: dict[str, str]) -> str:
    """The dtype to compute in, once all dtypes are known to fit."""
    first = op.values[0]
    for name, dtype in given.items():
        if name not in op.values:
            allowed = _FLOATS + _WHOLE if name == "offsets" else _FLOATS
            if dtype not in allowed:
                raise ShiftsearchError(f"{op.name}: {name} is {dtype}, expected one of {', '.join(allowed)}")
        elif dtype not in _FLOATS:
            raise ShiftsearchError(f"{op.name}: {name} is {dtype}, expected one of {', '.join(_FLOATS)}")
        elif dtype != given[first] and not (name == "weights" and given[first] in _HALF and dtype == "float32"):
            raise ShiftsearchError(f"{op.name}: {name} is {dtype}, expected {given[first]} as {first} is")
    return "float32" if given[first] in _HALF else given[first]


def _prepare(array, dtype: str, compute: str, is_value: bool):
    """Values in the dtype to compute in; coordinates as 32-bit integers, float32 or float64; all at addresses that fit."""
    if not getattr(array.flags, "aligned", True):
        array = array.copy()
    if is_value:
        return array.astype(compute, copy=False)
    if dtype in _WHOLE:
        return array if dtype == "int32" else np.clip(array, -(2**30), 2**30).astype(np.int32)
    return array.astype("float32") if dtype in _HALF else array


# --- array libraries ------------------------------------------------------------------------------
class _NumPy:
    device = "cpu"

    @staticmethod
    def take(op, name, array):
        if isinstance(array, np.ma.MaskedArray):
            raise ShiftsearchError(f"{op}: {name} is a masked array, expected one without a mask")
        return np.asarray(array)

    @staticmethod
    def give(array):
        return array


class _Torch:
    device = "cpu"

    @staticmethod
    def take(op, name, tensor):
        torch = sys.modules["torch"]
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ShiftsearchError(
                f"{op}: {name} requires a gradient, which torch cannot have from here: "
                f"pass {name}.detach() or call under torch.no_grad()"
            )
        if tensor.dtype == torch.bfloat16:  # NumPy has no such type
            words = tensor.detach().contiguous().view(torch.int16)
            return np.from_dlpack(words).view(native_dtype("bfloat16"))
        return np.from_dlpack(tensor.detach())

    @staticmethod
    def give(array):
        torch = sys.modules["torch"]
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


class _Namespace:
    """Any other library of the array API standard, by DLPack."""

    device = "cpu"

    def __init__(self, namespace):
        self.give = namespace.from_dlpack

    @staticmethod
    def take(op, name, array):
        return np.from_dlpack(array)


def _take(op: str, arrays: dict) -> tuple:
    """The library that all arrays come from, and the arrays as the backend sees them, without a copy."""
    kinds = {name: _kind(op, name, array) for name, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} from {library} on {device}" for name, (library, device) in kinds.items())
        raise ShiftsearchError(f"{op}: arrays are of different kinds ({found}), expected one library and device")
    (library, device), first = next(iter(kinds.values())), next(iter(arrays.values()))
    if device != "cpu":
        return _Elsewhere(library, device), arrays
    name = next(iter(arrays))
    try:
        adapter = {"numpy": _NumPy, "torch": _Torch}.get(library) or _Namespace(first.__array_namespace__())
        native = {}
        for name, array in arrays.items():
            native[name] = adapter.take(op, name, array)
    except ShiftsearchError:
        raise
    except Exception as error:  # libraries say it with errors of many kinds
        raise ShiftsearchError(
            f"{op}: {name} is an array that {library} does not hand out ({error}), expected one that DLPack can share"
        ) from None
    return adapter, native


class _Elsewhere:
    def __init__(self, library, device):
        self.library, self.device = library, device


def _kind(op: str, name: str, array) -> tuple[str, str]:
    """(library, device) of an array."""
    if array is None:
        raise ShiftsearchError(f"{op}: {name} is None, expected a NumPy, CuPy or torch array")
    if isinstance(array, np.ndarray):
        return "numpy", "cpu"
    library = type(array).__module__.partition(".")[0]
    torch = sys.modules.get("torch")  # who never imported torch holds no tensor
    if torch is not None and isinstance(array, torch.Tensor):
        library = "torch"
    if not hasattr(array, "__dlpack_device__"):
        raise ShiftsearchError(f"{op}: {name} is a {type(array).__qualname__}, expected a NumPy, CuPy or torch array")
    try:
        kind, index = array.__dlpack_device__()
    except Exception as error:  # whatever a library raises here, it is not an array we can use
        raise ShiftsearchError(f"{op}: {name} is on no device that DLPack knows ({error}), expected the CPU or CUDA") from None
    device = {1: "cpu", 2: f"cuda:{index}", 3: "cpu", 13: f"cuda:{index}"}.get(int(kind))
    if device is None:
        raise ShiftsearchError(f"{op}: {name} is on device type {int(kind)}, expected the CPU or a CUDA device")
    if library not in ("torch", "cupy") and not hasattr(array, "__array_namespace__"):
        raise ShiftsearchError(f"{op}: {name} is a {library} array, expected NumPy, CuPy, torch or the array API")
    return library, device


def _backend(op: str, library):
    if library.device != "cpu":
        raise ShiftsearchError(
            f"{op}: the arrays are on {library.device}, and this version has kernels for the CPU only: "
            "move them there first, nothing is moved silently"
        )
    return importlib.import_module("shiftsearch.backends.cpu")
