"""Memory as kernels see it: pointers in the place of arrays, and what is read and written there.

numba counts references to arrays that are passed around, with atomic operations, and tests each index for being
negative. A pointer is one number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, cast

import numpy as np
import numpy.typing as npt
from numba import extending, types
from numba.core import cgutils

Pointer = Any  # memory in a kernel, see `pointer`; in Python an array
Intrinsic = tuple[Any, Callable[..., Any]]  # its signature, and what generates its code
_P = ParamSpec("_P")


class _Declare(Protocol):
    """A decorator that makes a function of a typing context and types one of values, for kernels."""

    def __call__(self, function: Callable[Concatenate[Any, _P], Intrinsic], /) -> Callable[_P, Any]: ...


intrinsic: _Declare = cast(Any, extending.intrinsic)


def _element(context, builder, kinds, values):
    return builder.gep(values[0], [context.cast(builder, values[1], kinds[1], types.intp)])


@intrinsic
def pointer(context: Any, array: Any) -> Intrinsic:
    """Return the memory of an array, without its owner: the caller keeps the array alive."""

    def generate(context, builder, signature, values):
        return cgutils.create_struct_proxy(signature.args[0])(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def pointers(context: Any, record: Any) -> Intrinsic:
    """Return the same record with a `pointer` in the place of each array, in records that are part of it, too."""

    def opened(kind):
        if isinstance(kind, types.Array):
            return types.CPointer(kind.dtype)
        if isinstance(kind, types.BaseTuple):
            return types.BaseTuple.from_types(list(map(opened, kind.types)), getattr(kind, "instance_class", None))
        return kind

    def convert(context, builder, kind, value):
        if isinstance(kind, types.Array):
            return cgutils.create_struct_proxy(kind)(context, builder, value).data
        if isinstance(kind, types.BaseTuple):
            parts = cgutils.unpack_tuple(builder, value, len(kind.types))
            parts = [convert(context, builder, *part) for part in zip(kind.types, parts, strict=True)]
            return context.make_tuple(builder, opened(kind), parts)
        return value

    return opened(record)(record), lambda c, b, s, values: convert(c, b, record, values[0])


@intrinsic
def get(context: Any, memory: Any, index: Any) -> Intrinsic:
    """Return memory[index]."""
    return memory.dtype(memory, index), lambda c, b, s, v: b.load(_element(c, b, s.args, v))


@intrinsic
def put(context: Any, memory: Any, index: Any, value: Any) -> Intrinsic:
    """Write memory[index] = value."""

    def generate(context, builder, signature, values):
        value = context.cast(builder, values[2], signature.args[2], signature.args[0].dtype)
        builder.store(value, _element(context, builder, signature.args, values))
        return context.get_dummy_value()

    return types.void(memory, index, value), generate


@intrinsic
def like(context: Any, memory: Any, value: Any) -> Intrinsic:
    """Return `value` as a number of the kind that `memory` holds."""
    return memory.dtype(memory, value), lambda c, b, s, v: c.cast(b, v[1], s.args[1], s.return_type)


@intrinsic
def put_fraction(context: Any, memory: Any, index: Any, value: Any) -> Intrinsic:
    """Write memory[index] = the bits of `value`, as a float of as many bits as the whole numbers of `memory`."""
    fraction = types.float64 if memory.dtype.bitwidth == 64 else types.float32

    def generate(context, builder, signature, values):
        value = context.cast(builder, values[2], signature.args[2], fraction)
        bits = builder.bitcast(value, context.get_value_type(signature.args[0].dtype))
        builder.store(bits, _element(context, builder, signature.args, values))
        return context.get_dummy_value()

    return types.void(memory, index, value), generate


@intrinsic
def stopped(context: Any, stop: Any) -> Intrinsic:
    """Return whether stop[0] is set, which the waiting main thread does: see `pool.spread`."""

    def generate(context, builder, signature, values):
        memory = cgutils.create_struct_proxy(signature.args[0])(context, builder, values[0]).data
        asked = builder.load_atomic(memory, "monotonic", stop.dtype.bitwidth // 8)  # which is read anew each time
        return builder.icmp_signed("!=", asked, asked.type(0))

    return types.boolean(stop), generate


@intrinsic
def after(context: Any, memory: Any, index: Any) -> Intrinsic:
    """Return the memory from an index on."""
    return memory(memory, index), lambda c, b, s, v: _element(c, b, s.args, v)


def aligned(size: int, dtype: npt.DTypeLike, new: Callable[..., np.ndarray] = np.zeros) -> np.ndarray:
    """Return memory that begins where a vector may: one that crosses a cache line costs two."""
    memory = new(size + 16, dtype)
    return memory[-memory.ctypes.data % 64 // memory.itemsize :][:size]
