"""Where arrays live: an array library on a device, and the backend that computes there. Nothing else tells libraries apart.

Arrays in main memory go to the CPU backend and arrays on a CUDA device to the CUDA backend. Nothing is moved from one to
the other silently.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import numpy as np

from shiftsearch._elsewhere import check_traced, elsewhere
from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError


@cache
def native_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    return np.dtype(name)


def dtype_of(array: Native) -> str:
    return dtype_name(array.dtype)


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else str(dtype.str)


@cache
def main_memory() -> float:
    """Return the bytes of main memory, or as many as may be addressed where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


class Home:
    """A library's arrays on a device: the backend that computes there, and how arrays get to it and back."""

    widens: bool  # whether halves are computed as float32
    backend: Any

    def memory(self) -> float:
        """Return the bytes of memory of the device."""
        raise NotImplementedError

    def current(self) -> AbstractContextManager[Any]:
        """Return a context in which work is done on the device, without warnings of numbers that are not finite."""
        raise NotImplementedError

    def take(self, caller: str, name: str, array: Any) -> Native:
        """Return an array as the backend reads it, without a copy."""
        raise NotImplementedError

    def give(self, array: Native) -> Any:
        """Return an array of the backend as one of the library."""
        raise NotImplementedError


class Cpu(Home):
    """Arrays in main memory, which the CPU backend reads as NumPy arrays."""

    widens = True

    def __init__(self, first: Any):
        from shiftsearch.backends import cpu

        self.backend, self.first = cpu, first

    def memory(self) -> float:
        return main_memory()

    def current(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")


class NumPy(Cpu):
    def take(self, caller: str, name: str, array: Any) -> Native:
        if isinstance(array, np.ma.MaskedArray):
            raise ShiftsearchError(f"{caller}: {name} is a masked array, expected one without a mask")
        return _aligned(np.asarray(array) if isinstance(array, np.ndarray) else np.from_dlpack(array))

    def give(self, array: Native) -> Any:
        return array


class Torch(Cpu):
    def take(self, caller: str, name: str, array: Any) -> Native:
        return _aligned(_from_torch(sys.modules["torch"].Tensor.numpy, array))

    def give(self, array: Native) -> Any:
        torch = sys.modules["torch"]
        if dtype_of(array) == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


class Other(Cpu):
    """Any other library that takes arrays, too, by DLPack."""

    def take(self, caller: str, name: str, array: Any) -> Native:
        return _aligned(np.from_dlpack(array))

    def give(self, array: Native) -> Any:
        return _given(array, self.first)


class Cuda(Home):
    """Arrays on a CUDA device, which the CUDA backend reads as CuPy arrays, on their device and their library's stream."""

    widens = False

    def __init__(self, caller: str, library: str, device: str, first: Any):
        self.library, self.device, self.first = library, _number(device), first
        try:
            self.backend = _cuda().load()
        except ShiftsearchError as error:
            raise ShiftsearchError(f"{caller}: the arrays are on {device}, and {error}") from None

    def memory(self) -> float:
        return _memory_of_device(self.backend, self.device)

    def current(self) -> AbstractContextManager[Any]:
        return self._of_torch() if self.library == "torch" else self.backend.xp.cuda.Device(self.device)

    @contextmanager
    def _of_torch(self) -> Iterator[None]:
        cuda = self.backend.xp.cuda
        with cuda.Device(self.device):
            stream = sys.modules["torch"].cuda.current_stream(self.device).cuda_stream
            with cuda.ExternalStream(stream, self.device), cuda.using_allocator(_memory_of_torch(cuda)):
                yield

    def take(self, caller: str, name: str, array: Any) -> Native:
        if self.library == "torch":
            return _from_torch(self.backend.xp.from_dlpack, array)
        return array if _LIBRARIES[type(array)] == "cupy" else self.backend.xp.from_dlpack(array)

    def give(self, array: Native) -> Any:
        if self.library == "cupy":
            return array
        if self.library != "torch":
            return _given(array, self.first)
        torch = sys.modules["torch"]
        if dtype_of(array) == "bfloat16":
            return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(array)


def _given(array: Native, like: Any) -> Any:
    """Return an array of the library of `like`, or the array itself if that library does not take it."""
    try:
        return _importer(like)(array)
    except Exception:  # each library raises its own
        _LIBRARIES[type(like)] = ""
        return array


def _importer(array: Any) -> Any:
    """Return what makes an array of the same library of another one by DLPack, or None if the library takes none."""
    library = array.__array_namespace__() if hasattr(array, "__array_namespace__") else sys.modules.get(_module(array))
    return getattr(library, "from_dlpack", None)


def _module(array: Any) -> str:
    """Return the name of the library of an array."""
    return type(array).__module__.partition(".")[0]


def _aligned(array: Native) -> Native:
    """Return the array, or a copy if its numbers begin at addresses that are no multiples of their sizes."""
    return array if array.flags.aligned else array.copy()


@cache
def _cuda() -> Any:
    """Return the package of the CUDA backend: an import at each call takes longer."""
    return importlib.import_module("shiftsearch.backends.cuda")


def gpu_arrays() -> Any:
    """Return the array module of the CUDA backend, or raise an error that says what is missing for a GPU."""
    return _cuda().load().xp


@cache
def _number(device: str) -> int:
    return int(device.partition(":")[2])


@cache
def _memory_of_device(backend: Any, device: int) -> float:
    """Return the bytes of memory of the current device, number `device`; kept, because CUDA takes long to answer."""
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
    if tensor.dtype == torch.bfloat16:  # array libraries disagree about this type, so its bits are passed as integers
        words = tensor.detach().contiguous().view(torch.int16)
        return read(words).view(native_dtype("bfloat16"))
    return read(tensor.detach())


def home_of(caller: str, arrays: Mapping[str, Any]) -> Home:
    """Return where all arrays of a call live."""
    kinds = [_kind(caller, name, array) for name, array in arrays.items()]
    if kinds.count(kinds[0]) < len(kinds):
        each = zip(arrays, kinds, strict=True)
        found = ", ".join(f"{name} from {library} on {device}" for name, (library, device) in each)
        raise ShiftsearchError(f"{caller}: arrays are of different kinds ({found}), expected one library and device")
    (library, device), first = kinds[0], next(iter(arrays.values()))
    if device != "cpu":
        return Cuda(caller, library, device, first)
    return {"numpy": NumPy, "torch": Torch}.get(library, Other)(first)


def take_all(caller: str, home: Home, arrays: Mapping[str, Any]) -> dict[str, Native]:
    """Return the arrays as the backend reads them, without a copy."""
    native, name = {}, ""
    try:
        for name, array in arrays.items():
            native[name] = home.take(caller, name, array)
    except ShiftsearchError:
        raise
    except Exception as error:  # each library raises its own
        raise ShiftsearchError(
            f"{caller}: {name} cannot be exported by its library ({error}), expected an array that supports DLPack"
        ) from None
    return native


# by type of array, filled as types are met; "" is a library that takes no arrays: its arrays go with NumPy's and CuPy's
_LIBRARIES: dict[type, str] = {np.ndarray: "numpy"}
_DEVICES: dict[Any, str] = {}  # by torch device, filled as devices are met: DLPack takes long to answer


def _library(caller: str, name: str, array: Any) -> str:
    """Return the library of an array, and remember it for others of its type."""
    if array is None:
        raise ShiftsearchError(f"{caller}: {name} is None, expected a NumPy, CuPy or torch array")
    check_traced(caller, name, array)
    if isinstance(array, type) or not hasattr(array, "__dlpack__"):
        raise ShiftsearchError(
            f"{caller}: {name} is a {type(array).__qualname__}, expected a NumPy, CuPy or torch array, or another one "
            "with __dlpack__"
        )
    torch = sys.modules.get("torch")  # without it there are no tensors
    if isinstance(array, np.ndarray):
        library = "numpy"
    elif torch is not None and isinstance(array, torch.Tensor):
        library = "torch"
    elif _importer(array) is None:
        library = ""
    else:
        library = _module(array)
    return _LIBRARIES.setdefault(type(array), library)


@cache
def _device(kind: int, index: int) -> str | None:
    """Return the name of a device that DLPack numbers, or None if no backend computes there."""
    return {1: "cpu", 2: f"cuda:{index}", 3: "cpu", 13: f"cuda:{index}"}.get(kind)


def _kind(caller: str, name: str, array: Any) -> tuple[str, str]:
    """Return library and device of an array."""
    library = _LIBRARIES.get(type(array))
    if library is None:
        library = _library(caller, name, array)
    if library == "numpy":
        return "numpy", "cpu"
    if library == "torch" and array.device in _DEVICES:
        return "torch", _DEVICES[array.device]
    kind, index = _numbered(caller, name, library, array)
    device = _device(kind, index)
    if device is None:
        raise elsewhere(caller, name, library, array, kind)
    if library == "torch":
        _DEVICES[array.device] = device
    return library or ("numpy" if device == "cpu" else "cupy"), device


def _numbered(caller: str, name: str, library: str, array: Any) -> tuple[int, int]:
    """Return the type and the number of the device of an array as DLPack counts them."""
    if not hasattr(array, "__dlpack_device__"):
        return 1, 0  # main memory: NumPy refuses what is not there
    try:
        kind, index = array.__dlpack_device__()
    except Exception as error:  # each library raises its own
        raise elsewhere(caller, name, library, array, None, error) from None
    return int(kind), index
