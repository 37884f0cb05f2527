"""From a user's arrays to results of the same library. The only module that tells array libraries apart.

Where an array lives decides what runs: arrays in main memory run on the CPU backend, arrays on a
CUDA device on the CUDA backend, and nothing moves silently from one to the other.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._op import REMEMBERED, Bound, Input, Op, Spec
from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32", "float64")
_WHOLE = ("int8", "int16", "int32", "int64")


def forward(op: Op, spec: Spec, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of `op`, hidden ones too, as arrays of the library of its inputs."""
    home = _home(spec.caller, arrays)
    with home.current():
        native = _taken(spec.caller, home, arrays)
        plan = _plan(op, spec, home, native)
        if plan.bound.sizes["B"] == 0:
            outputs = {name: home.backend.xp.empty(shape, np.float32) for name, shape in plan.shapes.items()}
        else:
            with np.errstate(all="ignore"), _Room(spec.caller, native):
                outputs = op.forward(home.backend, spec, **_inputs(op, home, plan, native))
        contiguous, batched = home.backend.xp.ascontiguousarray, plan.bound.batched
        for name, output in outputs.items():
            output = _rounded(output, plan.dtypes[name])
            outputs[name] = home.give(contiguous(output if batched else output[0]))
        return outputs


def backward(
    op: Op,
    spec: Spec,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    grads: Mapping[str, Any],
    wanted: Set[str],
) -> dict[str, Any]:
    """Return the gradients of the `wanted` inputs, as arrays like those; zeros for an input that has none."""
    home = _home(spec.caller, inputs)
    with home.current():
        xp, native = home.backend.xp, _taken(spec.caller, home, inputs)
        plan = _plan(op, spec, home, native)
        found: dict[str, Native] = {}
        if plan.bound.sizes["B"]:
            axis = slice(None) if plan.bound.batched else None
            kept, arrived = ({n: a[axis] for n, a in _taken(spec.caller, home, of).items()} for of in (outputs, grads))
            whole = _inputs(op, home, plan, native)
            compute = whole[op.values[0]].dtype
            arrived = {n: g.astype(compute) if op.outputs[n] == "value" else g for n, g in arrived.items()}
            first = next(iter(op.outputs))
            arrived.setdefault(first, xp.zeros(plan.shapes[first], op.dtype(first, spec, compute.name)))
            with np.errstate(all="ignore"), _Room(spec.caller, native):
                found = op.backward(home.backend, spec, whole, kept, arrived, wanted)
        return {name: home.give(_gradient(xp, found.get(name), native[name])) for name in wanted}


# --- what a call decides before it computes ---------------------------------------------------------
class _Plan(NamedTuple):
    """What follows from the options of a call and the shapes and dtypes of its arrays, all of them checked."""

    bound: Bound
    shapes: dict[str, tuple[int, ...]]  # of the outputs
    dtypes: dict[str, np.dtype[Any]]  # in which they are given back
    compute: np.dtype[Any]  # in which values are computed


def _plan(op: Op, spec: Spec, home: _Home, arrays: Mapping[str, Native]) -> _Plan:
    given = tuple([(name, array.shape, array.dtype) for name, array in arrays.items()])
    return _planned(op, spec, given, home.widens, home.memory())


@lru_cache(REMEMBERED)
def _planned(op: Op, spec: Spec, given: tuple[tuple[Any, ...], ...], widens: bool, memory: float) -> _Plan:
    names = {name: _name(dtype) for name, _, dtype in given}
    check_dtypes(op, spec.caller, names)
    bound = op.bind(spec, {name: shape for name, shape, _ in given})
    shapes = op.shapes(spec, bound.sizes)
    for name, shape in shapes.items():
        _check_room(spec.caller, name, shape, 4, memory)
    value = names[op.values[0]]
    dtypes = {name: native_dtype(op.dtype(name, spec, value)) for name in op.outputs}
    return _Plan(bound, shapes, dtypes, native_dtype("float32" if value in _HALF and widens else value))


def _inputs(op: Op, home: _Home, plan: _Plan, arrays: dict[str, Native]) -> dict[str, Native]:
    """Return arrays as a backend takes them: values in the dtype to compute in, places in 32 or 64 bits, all aligned.

    They have all their axes.
    """
    whole = plan.bound.whole(arrays)
    return {name: _prepare(array, plan.compute, op.inputs[name], home.widens) for name, array in whole.items()}


def _prepare(array: Native, compute: np.dtype[Any], given: Input, widens: bool) -> Native:
    if not getattr(array.flags, "aligned", True):
        array = array.copy()
    if given.kind.value:
        return array if array.dtype == compute else array.astype(compute)
    if _dtype(array) in _WHOLE:
        return _whole(array, widens)
    return array.astype("float32") if _dtype(array) in _HALF else array


def _whole(array: Native, widens: bool) -> Native:
    """Return whole numbers in 32 bits, or as float64 where that is too few: positions are float64 everywhere."""
    if _dtype(array) == "int32" or (_dtype(array) == "int64" and not widens):  # kernels for a GPU read both
        return array
    narrow = array.astype(np.int32)
    return narrow if _dtype(array) != "int64" or (narrow == array).all() else array.astype(np.float64)


def _gradient(xp: Any, found: Native, of: Native) -> Native:
    """Return a gradient as an array like the input `of` which it is."""
    if found is None:
        return xp.zeros(of.shape, of.dtype)
    return xp.ascontiguousarray(_rounded(found, of.dtype).reshape(of.shape))


def _rounded(array: Native, dtype: np.dtype[Any]) -> Native:
    """Return an array in this dtype. What is too large for it becomes infinite, without a warning."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def transform(caller: str, function: Callable[..., Any], dtypes: Collection[str] | None = None, **arrays: Any) -> Any:
    """Return `function(xp, *arrays)` of arrays of any library, with the array module of where they live.

    Arrays have one of `dtypes`, by default floats. The function returns an array or a tuple of them, which are arrays of
    the same library then. There is no gradient.
    """
    dtypes = dtypes or _FLOATS
    home = _home(caller, arrays)
    for name, array in arrays.items():
        if getattr(array, "requires_grad", False) and sys.modules["torch"].is_grad_enabled():
            raise ShiftsearchError(
                f"{caller}: {name} requires a gradient, but this function has none: pass {name}.detach() or call under "
                "torch.no_grad()"
            )
    with home.current():
        native = _taken(caller, home, arrays)
        for name, array in native.items():
            if _dtype(array) not in dtypes:
                raise ShiftsearchError(f"{caller}: {name} is {_dtype(array)}, expected one of {', '.join(dtypes)}")
        with _Room(caller, native):
            found = function(home.backend.xp, *native.values())
        return tuple(map(home.give, found)) if isinstance(found, tuple) else home.give(found)


def check_room(caller: str, name: str, shape: tuple[int, ...], each: int) -> None:
    """Raise an error for a result that no memory holds: some systems would promise it, and then end the process."""
    _check_room(caller, name, shape, each, _memory())


def _check_room(caller: str, name: str, shape: tuple[int, ...], each: int, there: float) -> None:
    needed = each * math.prod(shape)
    if needed > there:
        raise ShiftsearchError(
            f"{caller}: {name} of shape {shape} takes {needed / 2**30:.3g} GiB, expected at most the "
            f"{there / 2**30:.3g} GiB of memory that there are"
        )


@cache
def _memory() -> float:
    """Return the bytes of main memory, or as many as may be addressed where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


class _Room:
    """A context that turns running out of memory into an error that names the arrays of the call."""

    def __init__(self, caller: str, arrays: Mapping[str, Native]):
        self.caller, self.arrays = caller, arrays

    def __enter__(self) -> None:
        """Begin to compute."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, MemoryError):
            found = ", ".join(f"{name} {tuple(array.shape)}" for name, array in self.arrays.items())
            raise ShiftsearchError(
                f"{self.caller}: no memory for the results of {found}, expected less ({error})"
            ) from None


@cache
def native_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    return np.dtype(name)


def _dtype(array: Native) -> str:
    return _name(array.dtype)


@cache
def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else str(dtype.str)


def check_dtypes(op: Op, caller: str, dtypes: Mapping[str, str]) -> None:
    """Check the dtypes of the inputs of a call, given by name."""
    first = op.values[0]
    for name, dtype in dtypes.items():
        kind = op.inputs[name].kind
        allowed = _FLOATS + _WHOLE if kind.whole else _FLOATS
        if dtype not in allowed:
            raise ShiftsearchError(f"{caller}: {name} is {dtype}, expected one of {', '.join(allowed)}")
        beside = kind.beside and dtypes[first] in _HALF and dtype == "float32"
        if kind.value and dtype != dtypes[first] and not beside:
            raise ShiftsearchError(f"{caller}: {name} is {dtype}, expected {dtypes[first]} as {first} is")


# --- homes: an array library on a device ------------------------------------------------------------
class _Home:
    """A library's arrays on a device: the backend that computes there, and how arrays get to it and back."""

    widens: bool  # whether halves are computed as float32
    backend: Any

    def memory(self) -> float:
        """Return the bytes of memory of the device."""
        raise NotImplementedError

    def current(self) -> AbstractContextManager[None]:
        """Return a context in which work is done on the device."""
        raise NotImplementedError

    def take(self, caller: str, name: str, array: Any) -> Native:
        """Return an array as the backend reads it, without a copy."""
        raise NotImplementedError

    def give(self, array: Native) -> Any:
        """Return an array of the backend as one of the library."""
        raise NotImplementedError


class _Cpu(_Home):
    """Arrays in main memory, which the CPU backend reads as NumPy arrays."""

    widens = True

    def __init__(self, first: Any):
        from shiftsearch.backends import cpu

        self.backend, self.first = cpu, first

    def memory(self) -> float:
        return _memory()

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()


class _NumPy(_Cpu):
    def take(self, caller: str, name: str, array: Any) -> Native:
        if isinstance(array, np.ma.MaskedArray):
            raise ShiftsearchError(f"{caller}: {name} is a masked array, expected one without a mask")
        return np.asarray(array)

    def give(self, array: Native) -> Any:
        return array


class _Torch(_Cpu):
    def take(self, caller: str, name: str, array: Any) -> Native:
        return _from_torch(sys.modules["torch"].Tensor.numpy, array)

    def give(self, array: Native) -> Any:
        torch = sys.modules["torch"]
        if _dtype(array) == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


class _Other(_Cpu):
    """Any other library of the array API standard, by DLPack."""

    def take(self, caller: str, name: str, array: Any) -> Native:
        return np.from_dlpack(array)

    def give(self, array: Native) -> Any:
        return self.first.__array_namespace__().from_dlpack(array)


class _Cuda(_Home):
    """Arrays on a CUDA device, which the CUDA backend reads as CuPy arrays, on their device and their library's stream."""

    widens = False

    def __init__(self, caller: str, library: str, device: str, first: Any):
        self.library, self.device, self.first = library, int(device.partition(":")[2]), first
        from shiftsearch.backends import cuda

        try:
            self.backend = cuda.load()
        except ShiftsearchError as error:
            raise ShiftsearchError(f"{caller}: the arrays are on {device}, and {error}") from None
        self.cuda = self.backend.xp.cuda

    def memory(self) -> float:
        return _memory_of_device(self.backend, self.device)

    def current(self) -> AbstractContextManager[Any]:
        return self._of_torch() if self.library == "torch" else self.cuda.Device(self.device)

    @contextmanager
    def _of_torch(self) -> Iterator[None]:
        with self.cuda.Device(self.device):
            stream = sys.modules["torch"].cuda.current_stream(self.device).cuda_stream
            with self.cuda.ExternalStream(stream, self.device), self.cuda.using_allocator(_memory_of_torch(self.cuda)):
                yield

    def take(self, caller: str, name: str, array: Any) -> Native:
        if self.library == "torch":
            return _from_torch(self.backend.xp.from_dlpack, array)
        return array if self.library == "cupy" else self.backend.xp.from_dlpack(array)

    def give(self, array: Native) -> Any:
        if self.library == "cupy":
            return array
        if self.library != "torch":
            return self.first.__array_namespace__().from_dlpack(array)
        torch = sys.modules["torch"]
        if _dtype(array) == "bfloat16":
            return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(array)


@cache
def _memory_of_device(backend: Any, device: int) -> float:
    """Return the bytes of memory of the current device, which has this number: CUDA takes long to say."""
    return backend.xp.cuda.runtime.memGetInfo()[1]


@cache
def _memory_of_torch(cuda: Any) -> Any:
    """Return an allocator for CuPy that takes memory from torch's: one pool for both, which CUDA graphs know."""
    memory = sys.modules["torch"].cuda

    def take(size: int, device: int) -> int:
        return memory.caching_allocator_alloc(size, device, memory.current_stream(device))

    def put_back(pointer: int, device: int) -> None:
        memory.caching_allocator_delete(pointer)

    return cuda.PythonFunctionAllocator(take, put_back).malloc


def _from_torch(read: Callable[[Any], Native], tensor: Any) -> Native:
    torch = sys.modules["torch"]
    if tensor.dtype == torch.bfloat16:  # array libraries disagree about this type: it travels as whole numbers
        words = tensor.detach().contiguous().view(torch.int16)
        return read(words).view(native_dtype("bfloat16"))
    return read(tensor.detach())


def _home(caller: str, arrays: Mapping[str, Any]) -> _Home:
    """Return where all arrays of a call live."""
    kinds = [_kind(caller, name, array) for name, array in arrays.items()]
    if kinds.count(kinds[0]) < len(kinds):
        each = zip(arrays, kinds, strict=True)
        found = ", ".join(f"{name} from {library} on {device}" for name, (library, device) in each)
        raise ShiftsearchError(f"{caller}: arrays are of different kinds ({found}), expected one library and device")
    (library, device), first = kinds[0], next(iter(arrays.values()))
    if device != "cpu":
        return _Cuda(caller, library, device, first)
    return {"numpy": _NumPy, "torch": _Torch}.get(library, _Other)(first)


def _taken(caller: str, home: _Home, arrays: Mapping[str, Any]) -> dict[str, Native]:
    """Return the arrays as the backend reads them, without a copy."""
    native, name = {}, ""
    try:
        for name, array in arrays.items():
            native[name] = home.take(caller, name, array)
    except ShiftsearchError:
        raise
    except Exception as error:  # each library raises its own
        raise ShiftsearchError(
            f"{caller}: {name} is an array that its library does not hand out ({error}), expected one that DLPack can share"
        ) from None
    return native


_LIBRARIES: dict[type, str] = {np.ndarray: "numpy"}  # by type of array, those that are known
_DEVICES: dict[Any, str] = {}  # by torch's, those that are known: DLPack takes long to say


def _library(caller: str, name: str, array: Any) -> str:
    """Return the library of an array, and remember it for others of its type."""
    if array is None:
        raise ShiftsearchError(f"{caller}: {name} is None, expected a NumPy, CuPy or torch array")
    if not hasattr(array, "__dlpack_device__"):
        raise ShiftsearchError(
            f"{caller}: {name} is a {type(array).__qualname__}, expected a NumPy, CuPy or torch array"
        )
    torch = sys.modules.get("torch")  # without it there are no tensors
    if isinstance(array, np.ndarray):
        library = "numpy"
    elif torch is not None and isinstance(array, torch.Tensor):
        library = "torch"
    else:
        library = type(array).__module__.partition(".")[0]
    return _LIBRARIES.setdefault(type(array), library)


def _kind(caller: str, name: str, array: Any) -> tuple[str, str]:
    """Return library and device of an array."""
    library = _LIBRARIES.get(type(array)) or _library(caller, name, array)
    if library == "numpy":
        return "numpy", "cpu"
    if library == "torch" and array.device in _DEVICES:
        return "torch", _DEVICES[array.device]
    try:
        kind, index = array.__dlpack_device__()
    except Exception as error:  # each library raises its own
        raise ShiftsearchError(
            f"{caller}: {name} is on no device that DLPack knows ({error}), expected the CPU or CUDA"
        ) from None
    device = {1: "cpu", 2: f"cuda:{index}", 3: "cpu", 13: f"cuda:{index}"}.get(int(kind))
    if device is None:
        raise ShiftsearchError(f"{caller}: {name} is on device type {int(kind)}, expected the CPU or a CUDA device")
    if library not in ("torch", "cupy") and not hasattr(array, "__array_namespace__"):
        raise ShiftsearchError(f"{caller}: {name} is a {library} array, expected NumPy, CuPy, torch or the array API")
    if library == "torch":
        _DEVICES[array.device] = device
    return library, device
