"""Calls of an op on a user's arrays: they are checked and converted, and the results are arrays of the same library."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Set
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._homes import Home, dtype_name, dtype_of, home_of, main_memory, native_dtype, take_all
from shiftsearch._op import REMEMBERED, Bound, Input, Op, Spec
from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError, warn

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32", "float64")
_WIDE = 32  # pixels, which a frame has and channels are seldom
_WHOLE = ("int8", "int16", "int32", "int64")


def forward(op: Op, spec: Spec, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of `op`, hidden ones too, as arrays of the library of its inputs."""
    home = home_of(spec.caller, arrays)
    with home.current():
        native = take_all(spec.caller, home, arrays)
        plan = _plan(op, spec, home, native)
        if plan.bound.sizes["B"] == 0:
            outputs = {name: home.backend.xp.empty(shape, np.float32) for name, shape in plan.shapes.items()}
        else:
            try:
                outputs = op.forward(home.backend, spec, **_inputs(plan, native))
            except MemoryError as error:
                raise _no_room(spec.caller, native, error) from None
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
    """Return the gradients of the `wanted` inputs, each an array like its input; zeros where there is no gradient."""
    home = home_of(spec.caller, inputs)
    with home.current():
        xp, native = home.backend.xp, take_all(spec.caller, home, inputs)
        plan = _plan(op, spec, home, native)
        found: dict[str, Native] = {}
        if plan.bound.sizes["B"]:
            axis = slice(None) if plan.bound.batched else None
            kept, arrived = (
                {n: a[axis] for n, a in take_all(spec.caller, home, of).items()} for of in (outputs, grads)
            )
            whole = _inputs(plan, native)
            compute = whole[op.values[0]].dtype
            arrived = {n: _written(g, compute) if op.outputs[n] == "value" else g for n, g in arrived.items()}
            first = next(iter(op.outputs))
            if first not in arrived:
                arrived[first] = xp.zeros(plan.shapes[first], op.dtype(first, spec, compute.name))
            try:
                found = op.backward(home.backend, spec, whole, kept, arrived, wanted)
            except MemoryError as error:
                raise _no_room(spec.caller, native, error) from None
        found = {name: plan.bound.summed(name, gradient) for name, gradient in found.items()}
        return {name: home.give(_gradient(xp, found.get(name), native[name])) for name in wanted}


# --- what a call decides before it computes ---------------------------------------------------------
class _Plan(NamedTuple):
    """A checked call: the sizes of its axes, what becomes of its inputs, and the shapes and dtypes of its outputs."""

    bound: Bound
    converts: dict[str, Callable[[Native], Native]]  # the inputs whose dtype is none that backends take
    shapes: dict[str, tuple[int, ...]]  # of the outputs
    dtypes: dict[str, np.dtype[Any]]  # in which the outputs are returned


def _plan(op: Op, spec: Spec, home: Home, arrays: Mapping[str, Native]) -> _Plan:
    given = tuple([(name, array.shape, array.dtype) for name, array in arrays.items()])
    return _planned(op, spec.planned, given, home.widens, home.memory())


@lru_cache(REMEMBERED)
def _planned(op: Op, spec: Spec, given: tuple[tuple[Any, ...], ...], widens: bool, memory: float) -> _Plan:
    names = {name: dtype_name(dtype) for name, _, dtype in given}
    check_dtypes(op, spec.caller, names)
    bound = op.bind(spec, {name: shape for name, shape, _ in given})
    _doubt_layout(spec.caller, op.values[0], next(shape for name, shape, _ in given if name == op.values[0]))
    shapes = op.shapes(spec, bound.sizes)
    for name, shape in shapes.items():
        _check_room(spec.caller, name, shape, 4, memory)
    value = names[op.values[0]]
    dtypes = {name: native_dtype(op.dtype(name, spec, value)) for name in op.outputs}
    compute = "float32" if value in _HALF and widens else value
    converts = {name: _converter(names[name], compute, op.inputs[name], widens) for name in names}
    return _Plan(bound, {name: convert for name, convert in converts.items() if convert}, shapes, dtypes)


def _doubt_layout(caller: str, name: str, shape: tuple[int, ...]) -> None:
    """Warn if frames look as if their channels came last: many channels of frames as narrow as a colour is deep."""
    if len(shape) > 2 and shape[-1] in (1, 3, 4) and min(shape[-3:-1]) >= _WIDE:
        C, H, W = shape[-3:]
        warn(
            f"{caller}: {name} has shape {shape}, which is {C} channels of {H} x {W} pixels. If its channels come last, "
            f"pass np.moveaxis({name}, -1, -3), or {name}.movedim(-1, -3) of a tensor"
        )


def _converter(dtype: str, compute: str, given: Input, widens: bool) -> Callable[[Native], Native] | None:
    """Return what makes of an input what backends take: values in the dtype to compute in, places of 32 or 64 bits."""
    if not given.kind.value and dtype in _WHOLE:
        return None if dtype == "int32" or (dtype == "int64" and not widens) else _narrow  # CUDA kernels read both
    wanted = compute if given.kind.value else "float32" if dtype in _HALF else dtype
    return None if dtype == wanted else partial(_rounded, dtype=native_dtype(wanted))


def _inputs(plan: _Plan, arrays: dict[str, Native]) -> dict[str, Native]:
    """Return the arrays as backends take them, with all their axes."""
    whole = plan.bound.whole(arrays) if plan.bound.missing or plan.bound.several else arrays
    return (
        {**whole, **{name: convert(whole[name]) for name, convert in plan.converts.items()}} if plan.converts else whole
    )


def _written(array: Native, dtype: np.dtype[Any]) -> Native:
    """Return a gradient in this dtype, with a place in memory for each number: that of a sum has one for all."""
    return array.astype(dtype, copy=0 in array.strides)


def _narrow(array: Native) -> Native:
    """Return integers as int32, or as float64 if they are too large for it: positions are float64 everywhere."""
    narrow = array.astype(np.int32)
    return narrow if dtype_of(array) != "int64" or (narrow == array).all() else array.astype(np.float64)


def _gradient(xp: Any, found: Native, of: Native) -> Native:
    """Return a gradient with the shape and dtype of its input `of`, zeros if there is none."""
    if found is None:
        return xp.zeros(of.shape, of.dtype)
    return xp.ascontiguousarray(_rounded(found, of.dtype).reshape(of.shape))


def _rounded(array: Native, dtype: np.dtype[Any]) -> Native:
    """Return an array in this dtype. Values too large for it become infinite, without a warning."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def transform(caller: str, function: Callable[..., Any], dtypes: Collection[str] | None = None, **arrays: Any) -> Any:
    """Return `function(xp, *arrays)`, where xp is the array module of the device that the arrays are on.

    The arrays, of any library, have one of `dtypes`, by default floats. The function returns one array or a tuple of them,
    which become arrays of the same library. There is no gradient.
    """
    dtypes = dtypes or _FLOATS
    home = home_of(caller, arrays)
    for name, array in arrays.items():
        if getattr(array, "requires_grad", False) and sys.modules["torch"].is_grad_enabled():
            raise ShiftsearchError(
                f"{caller}: {name} requires a gradient, but this function has none: pass {name}.detach() or call under "
                "torch.no_grad()"
            )
    with home.current():
        native = take_all(caller, home, arrays)
        for name, array in native.items():
            if dtype_of(array) not in dtypes:
                raise ShiftsearchError(f"{caller}: {name} is {dtype_of(array)}, expected one of {', '.join(dtypes)}")
        try:
            found = function(home.backend.xp, *native.values())
        except MemoryError as error:
            raise _no_room(caller, native, error) from None
        return tuple(map(home.give, found)) if isinstance(found, tuple) else home.give(found)


def computed(primitive: str, *arrays: Native, **options: Any) -> Any:
    """Return what a primitive makes of a backend's own arrays, as array code has them."""
    return getattr(home_of(primitive, {"the first": arrays[0]}).backend, primitive)(*arrays, **options)


def shaped(caller: str, name: str, array: Any) -> Any:
    """Return the array, or if it has no shape and can only be exported, an array of NumPy or CuPy of its numbers."""
    if hasattr(array, "shape") or not hasattr(array, "__dlpack__"):
        return array
    home = home_of(caller, {name: array})
    with home.current():
        return take_all(caller, home, {name: array})[name]


def check_room(caller: str, name: str, shape: tuple[int, ...], each: int) -> None:
    """Raise an error if a result is larger than memory: some systems would grant it, and kill the process later."""
    _check_room(caller, name, shape, each, main_memory())


def _check_room(caller: str, name: str, shape: tuple[int, ...], each: int, there: float) -> None:
    needed = each * math.prod(shape)
    if needed > there:
        raise ShiftsearchError(
            f"{caller}: {name} of shape {shape} takes {needed / 2**30:.3g} GiB, expected at most "
            f"{there / 2**30:.3g} GiB, the size of the memory"
        )


def _no_room(caller: str, arrays: Mapping[str, Native], error: MemoryError) -> ShiftsearchError:
    """Return the error of a call for whose results there is no memory: it names the arrays."""
    found = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
    return ShiftsearchError(f"{caller}: no memory for the results of {found}, expected less ({error})")


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
