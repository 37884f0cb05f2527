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
from functools import cache

import numpy as np

from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32", "float64")
_WHOLE = ("int8", "int16", "int32", "int64")


def forward(op: Op, spec: Spec, arrays: dict) -> dict:
    """The outputs of `op`, hidden ones too, as the kind of array that comes in."""
    home = _home(spec.op, arrays)
    with home.current():
        native = _taken(spec.op, home, arrays)
        given = {name: _dtype(array) for name, array in native.items()}
        check_dtypes(op, spec.op, given)
        whole, sizes, batched = op.bind(spec, native)
        shapes = op.shapes(spec, sizes)
        for name, shape in shapes.items():
            _check_room(spec.op, name, shape, 4, home.memory())
        if sizes["B"] == 0:
            outputs = {name: home.backend.xp.empty(shape, np.float32) for name, shape in shapes.items()}
        else:
            with np.errstate(all="ignore"), _room(spec.op, native):
                outputs = op.forward(home.backend, spec, **_inputs(op, home, whole))
        for name, output in outputs.items():
            output = _rounded(output, op.dtype(name, spec, given[op.values[0]]))
            outputs[name] = home.give(home.backend.xp.ascontiguousarray(output if batched else output[0]))
        return outputs


def backward(op: Op, spec: Spec, inputs: dict, outputs: dict, grads: dict, wanted: frozenset[str]) -> dict:
    """Gradients of the `wanted` inputs, as the kind and dtype of those; 0 where it is 0 everywhere."""
    home = _home(spec.op, inputs)
    with home.current():
        xp, native = home.backend.xp, _taken(spec.op, home, inputs)
        whole, sizes, batched = op.bind(spec, native)
        found = {}
        if sizes["B"]:
            axis = slice(None) if batched else None
            kept, arrived = ({n: a[axis] for n, a in _taken(spec.op, home, of).items()} for of in (outputs, grads))
            whole = _inputs(op, home, whole)
            compute = whole[op.values[0]].dtype
            arrived = {n: g.astype(compute) if op.outputs[n] == "value" else g for n, g in arrived.items()}
            first = next(iter(op.outputs))
            arrived.setdefault(first, xp.zeros(op.shapes(spec, sizes)[first], op.dtype(first, spec, compute.name)))
            with np.errstate(all="ignore"), _room(spec.op, native):
                found = op.backward(home.backend, spec, whole, kept, arrived, wanted)
        return {name: home.give(_gradient(xp, found.get(name), native[name])) for name in wanted}


def _inputs(op: Op, home, arrays: dict) -> dict:
    """As a backend takes them: values in the dtype to compute in, coordinates in 32 or 64 bits, all at addresses that fit."""
    value = _dtype(arrays[op.values[0]])
    compute = "float32" if value in _HALF and home.widens else value
    return {name: _prepare(array, compute, name in op.values, home.widens) for name, array in arrays.items()}


def _prepare(array, compute: str, is_value: bool, widens: bool):
    if not getattr(array.flags, "aligned", True):
        array = array.copy()
    if is_value:
        return array.astype(native_dtype(compute), copy=False)
    if _dtype(array) in _WHOLE:
        return _whole(array, widens)
    return array.astype("float32") if _dtype(array) in _HALF else array


def _whole(array, widens: bool):
    """Whole numbers in 32 bits. Where that is too few they are what float64 makes of them, as positions are everywhere."""
    if _dtype(array) == "int32" or (_dtype(array) == "int64" and not widens):  # kernels for a GPU read both
        return array
    narrow = array.astype(np.int32)
    return narrow if _dtype(array) != "int64" or (narrow == array).all() else array.astype(np.float64)


def _gradient(xp, found, of):
    """As an array like the input that it is a gradient of."""
    if found is None:
        return xp.zeros(of.shape, of.dtype)
    return xp.ascontiguousarray(_rounded(found, _dtype(of)).reshape(of.shape))


def _rounded(array, dtype: str):
    """In this dtype. What is too large for it becomes infinite, silently."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(native_dtype(dtype), copy=False)


def transform(op: str, function, dtypes=None, **arrays):
    """`function(xp, *arrays)` of arrays of any library, in the array module of where they live.

    Arrays have one of `dtypes`, by default floats; an array or a tuple of them comes back as the same kind. What is
    done so has no gradient.
    """
    dtypes = dtypes or _FLOATS
    home = _home(op, arrays)
    for name, array in arrays.items():
        if getattr(array, "requires_grad", False) and sys.modules["torch"].is_grad_enabled():
            raise ShiftsearchError(
                f"{op}: {name} requires a gradient, which there is none of here: pass {name}.detach() or call under "
                "torch.no_grad()"
            )
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
    return _name(array.dtype)


@cache
def _name(dtype) -> str:
    return dtype.name if dtype.isnative else str(dtype.str)


def check_dtypes(op: Op, caller: str, given: dict[str, str]) -> None:
    first = op.values[0]
    for name, dtype in given.items():
        if name not in op.values:
            allowed = _FLOATS + _WHOLE if name == "offsets" else _FLOATS
            if dtype not in allowed:
                raise ShiftsearchError(f"{caller}: {name} is {dtype}, expected one of {', '.join(allowed)}")
        elif dtype not in _FLOATS:
            raise ShiftsearchError(f"{caller}: {name} is {dtype}, expected one of {', '.join(_FLOATS)}")
        elif dtype != given[first] and not (name == "weights" and given[first] in _HALF and dtype == "float32"):
            raise ShiftsearchError(f"{caller}: {name} is {dtype}, expected {given[first]} as {first} is")


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
        return _from_torch(np, tensor)

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
            with self.cuda.ExternalStream(stream, self.device), self.cuda.using_allocator(_memory_of_torch(self.cuda)):
                yield

    def take(self, op, name, array):
        if self.library == "torch":
            return _from_torch(self.backend.xp, array)
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


@cache
def _memory_of_torch(cuda):
    """CuPy's arrays in memory of torch's allocator: one pool for both, that CUDA graphs know."""
    memory = sys.modules["torch"].cuda

    def take(size, device):
        return memory.caching_allocator_alloc(size, device, memory.current_stream(device))

    def put_back(pointer, device):
        memory.caching_allocator_delete(pointer)

    return cuda.PythonFunctionAllocator(take, put_back).malloc


def _from_torch(xp, tensor):
    torch = sys.modules["torch"]
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
    native, name = {}, ""
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
        raise ShiftsearchError(
            f"{op}: {name} is on no device that DLPack knows ({error}), expected the CPU or CUDA"
        ) from None
    device = {1: "cpu", 2: f"cuda:{index}", 3: "cpu", 13: f"cuda:{index}"}.get(int(kind))
    if device is None:
        raise ShiftsearchError(f"{op}: {name} is on device type {int(kind)}, expected the CPU or a CUDA device")
    if library not in ("torch", "cupy") and not hasattr(array, "__array_namespace__"):
        raise ShiftsearchError(f"{op}: {name} is a {library} array, expected NumPy, CuPy, torch or the array API")
    return library, device
