"""From the user's arrays to the user's kind of result. The only module that tells array libraries apart.

Where an array lives decides what runs: arrays in main memory run on the CPU backend, arrays on a
CUDA device on the CUDA backend, and nothing moves silently from one to the other.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from contextlib import contextmanager, nullcontext

import numpy as np

from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32", "float64")
_WHOLE = ("int8", "int16", "int32", "int64")


def run(op: Op, spec: Spec, **arrays) -> tuple:
    """Runs `op` where its arrays live; the outputs are the same kind of array."""
    arrays = {name: array for name, array in arrays.items() if array is not None or name not in op.optional}
    home = _home(op.name, arrays)
    with home.current():
        native = _taken(op.name, home, arrays)
        given = {name: _dtype(array) for name, array in native.items()}
        _check_dtypes(op, given)
        native, sizes, batched = op.bind(spec, native)
        for name, shape in op.large(spec, sizes).items():
            _check_room(op.name, name, shape, 4, home.memory())
        value = given[op.values[0]]
        compute = "float32" if value in _HALF and home.widens else value
        with _room(op.name, native):
            native = {name: _prepare(array, given[name], compute, name in op.values) for name, array in native.items()}
            outputs = op.forward(home.backend, spec, **native)
        results = []
        for name, output in outputs.items():
            if op.outputs[name] == "value" and value in _HALF:
                output = output.astype(native_dtype(value), copy=False)
            results.append(home.give(output if batched else output[0]))
        return tuple(results)


def transform(op: str, function, dtypes=None, **arrays):
    """`function(xp, *arrays)` of arrays of any library, in the array module of where they live.

    Arrays have one of `dtypes`, by default floats; an array or a tuple of them comes back as the same kind.
    """
    dtypes = dtypes or _FLOATS
    home = _home(op, arrays)
    with home.current():
        native = _taken(op, home, arrays)
        for name, array in native.items():
            if _dtype(array) not in dtypes:
                raise ShiftsearchError(f"{op}: {name} is {_dtype(array)}, expected one of {', '.join(dtypes)}")
        with _room(op, native):
            found = function(home.backend.xp, *native.values())
        return tuple(map(home.give, found)) if isinstance(found, tuple) else home.give(found)


def check_room(op: str, name: str, shape: tuple[int, ...], each: int) -> None:
    """Refuses a result that no memory holds, before a system that promises more than it has ends the process."""
    _check_room(op, name, shape, each, _memory())


def _check_room(op: str, name: str, shape: tuple[int, ...], each: int, there: float) -> None:
    needed = each * math.prod(shape)
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


def _check_dtypes(op: Op, given: dict[str, str]) -> None:
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


def _prepare(array, dtype: str, compute: str, is_value: bool):
    """Values in the dtype to compute in; coordinates as 32-bit integers, float32 or float64; all at addresses that fit."""
    if not getattr(array.flags, "aligned", True):
        array = array.copy()
    if is_value:
        return array.astype(native_dtype(compute), copy=False)
    if dtype in _WHOLE:
        return array if dtype == "int32" else np.clip(array, -(2**30), 2**30).astype(np.int32)
    return array.astype("float32") if dtype in _HALF else array


# --- homes: an array library on a device ------------------------------------------------------------
class _Cpu:
    """Arrays in main memory, which the CPU backend reads as NumPy arrays."""

    widens = True  # halves are computed as float32
    memory = staticmethod(_memory)
    current = staticmethod(nullcontext)

    def __init__(self, first):
        self.backend = importlib.import_module("shiftsearch.backends.cpu")
        self.first = first


class _NumPy(_Cpu):
    @staticmethod
    def take(op, name, array):
        if isinstance(array, np.ma.MaskedArray):
            raise ShiftsearchError(f"{op}: {name} is a masked array, expected one without a mask")
        return np.asarray(array)

    @staticmethod
    def give(array):
        return array


class _Torch(_Cpu):
    @staticmethod
    def take(op, name, tensor):
        return _from_torch(np, op, name, tensor)

    @staticmethod
    def give(array):
        torch = sys.modules["torch"]
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


class _Other(_Cpu):
    """Any other library of the array API standard, by DLPack."""

    @staticmethod
    def take(op, name, array):
        return np.from_dlpack(array)

    def give(self, array):
        return self.first.__array_namespace__().from_dlpack(array)


class _Cuda:
    """Arrays on a CUDA device, which the CUDA backend reads as CuPy arrays, on their device and their library's stream."""

    widens = False

    def __init__(self, op, library, device, first):
        self.library, self.device, self.first = library, int(device.partition(":")[2]), first
        try:
            self.backend = importlib.import_module("shiftsearch.backends.cuda").load()
        except ShiftsearchError as error:
            raise ShiftsearchError(f"{op}: the arrays are on {device}, and {error}") from None
        self.cuda = self.backend.xp.cuda

    def memory(self):
        return self.cuda.runtime.memGetInfo()[1]

    @contextmanager
    def current(self):
        with self.cuda.Device(self.device):
            if self.library != "torch":
                yield
                return
            stream = sys.modules["torch"].cuda.current_stream(self.device).cuda_stream
            with self.cuda.ExternalStream(stream, self.device):
                yield

    def take(self, op, name, array):
        if self.library == "torch":
            return _from_torch(self.backend.xp, op, name, array)
        return array if self.library == "cupy" else self.backend.xp.from_dlpack(array)

    def give(self, array):
        if self.library == "cupy":
            return array
        if self.library != "torch":
            return self.first.__array_namespace__().from_dlpack(array)
        torch = sys.modules["torch"]
        if array.dtype.name == "bfloat16":
            return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(array)


def _from_torch(xp, op: str, name: str, tensor):
    torch = sys.modules["torch"]
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ShiftsearchError(
            f"{op}: {name} requires a gradient, which torch cannot have from here: "
            f"pass {name}.detach() or call under torch.no_grad()"
        )
    if tensor.dtype == torch.bfloat16:  # array libraries disagree about this type: it travels as whole numbers
        words = tensor.detach().contiguous().view(torch.int16)
        return xp.from_dlpack(words).view(native_dtype("bfloat16"))
    return xp.from_dlpack(tensor.detach())


def _home(op: str, arrays: dict):
    """Where all arrays of a call live."""
    kinds = {name: _kind(op, name, array) for name, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} from {library} on {device}" for name, (library, device) in kinds.items())
        raise ShiftsearchError(f"{op}: arrays are of different kinds ({found}), expected one library and device")
    (library, device), first = next(iter(kinds.values())), next(iter(arrays.values()))
    if device != "cpu":
        return _Cuda(op, library, device, first)
    return {"numpy": _NumPy, "torch": _Torch}.get(library, _Other)(first)


def _taken(op: str, home, arrays: dict) -> dict:
    """The arrays as the backend sees them, without a copy."""
    native, name = {}, next(iter(arrays))
    try:
        for name, array in arrays.items():
            native[name] = home.take(op, name, array)
    except ShiftsearchError:
        raise
    except Exception as error:  # libraries say it with errors of many kinds
        raise ShiftsearchError(
            f"{op}: {name} is an array that its library does not hand out ({error}), expected one that DLPack can share"
        ) from None
    return native


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
