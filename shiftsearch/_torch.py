"""The ops as operators of torch, with gradients: registered once for all of them, from what an `Op` says of itself.

Each op is two operators, `shiftsearch::<op>` and `shiftsearch::<op>_backward`, whose arguments are its arrays and the
fields of its spec. To torch.compile and torch.export they are single nodes with known shapes, so that nothing in
this package is traced but the public functions. What backward needs are inputs and kept offsets, nothing else is saved.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from shiftsearch import _arrays
from shiftsearch._op import OPS, Op, Spec
from shiftsearch.errors import ShiftsearchError

_TYPES = {"int": "int", "int | None": "int?", "float": "float", "bool": "bool", "str": "str", "str | None": "str?",
          "tuple": "SymInt[]"}  # fmt: skip
_AS_THEY_ARE = ("weights", "forward", "backward")  # values that are as precise under autocast as without
_OPERATORS = {}  # by name of the op
_FUNCTIONS = {}  # the same, as functions of autograd


def run(op: Op, options: tuple, arrays: dict) -> tuple:
    """What the public functions call. `options` are the fields of the op's spec."""
    options = checked(op.spec, options)
    arrays = _autocast(op, arrays)
    call = _FUNCTIONS[op.name].apply if _transformed() else _OPERATORS[op.name]
    found = call(*(arrays.get(name) for name in op.inputs), *options)
    found = found if isinstance(found, tuple) else (found,)
    return found[: len(op.outputs) - len(op.hidden)]


def checked(spec: type[Spec], options: tuple) -> tuple:
    """The fields of a spec, once it has checked them. A compiler, to which sizes are symbols, does so with shapes."""
    return options if torch.compiler.is_compiling() else dataclasses.astuple(spec(*options))


def _autocast(op: Op, arrays: dict) -> dict:
    """Within torch.autocast, values are in its dtype, as they are for matrix products. Coordinates and flow stay as
    they are, and so do weights in single precision, which a softmax gives."""
    kind = arrays[op.values[0]].device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return arrays
    dtype = torch.get_autocast_dtype(kind)
    values = [name for name in op.values if name not in _AS_THEY_ARE and name in arrays]
    values = [name for name in values if arrays[name].is_floating_point() and arrays[name].dtype != torch.float64]
    return {name: array.to(dtype) if name in values else array for name, array in arrays.items()}


def _transformed() -> bool:
    """Whether torch.func or derivatives in forward mode are at work, which do not see the gradients of operators."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _function(op: str, operator, setup_context, backward):
    """An operator as a function of autograd, which torch.func can differentiate and map over an axis."""

    def jvp(ctx, *_):
        raise ShiftsearchError(f"{op}: has no derivative in forward mode, expected backward, torch.func.grad or vjp")

    def vmap(*arguments):
        return _one_by_one(function.apply, *arguments)

    parts = {"forward": operator, "setup_context": setup_context, "backward": backward, "jvp": jvp, "vmap": vmap}
    function = type(op, (torch.autograd.Function,), {name: staticmethod(part) for name, part in parts.items()})
    return function


def _one_by_one(call, info, in_dims, *arguments):
    """What `call` gives along an axis that is mapped over."""

    def mapped(function):
        return [function(x, d) if isinstance(d, int) else x for x, d in zip(arguments, in_dims, strict=True)]

    if info.batch_size == 0:  # what one of zeros gives has the shapes of what there is none of
        arguments = mapped(lambda x, d: x.sum(d, keepdim=True, dtype=x.dtype))
    found = [call(*mapped(lambda x, d, n=n: x.select(d, n))) for n in range(max(info.batch_size, 1))]
    if isinstance(found[0], torch.Tensor):
        return torch.stack(found)[: info.batch_size], 0
    return tuple(torch.stack(each)[: info.batch_size] for each in zip(*found, strict=True)), (0,) * len(found[0])


def upsample_flow(flow, height: int, width: int):
    """The public function of this name, in torch's own words and so with its gradients."""
    if not flow.is_floating_point():
        raise ShiftsearchError(
            f"upsample_flow: flow is {_name(flow.dtype)}, expected float16, bfloat16, float32 or float64"
        )
    h, w = flow.shape[-2:]
    wide = flow if flow.dtype == torch.float64 else flow.float()
    frames = torch.nn.functional.interpolate(
        wide.reshape(-1, 2, h, w), (height, width), mode="bilinear", align_corners=False
    )
    fine, coarse = (torch.stack([frames.new_full((), n) for n in size]) for size in ((width, height), (w, h)))
    return (frames * (fine / coarse)[:, None, None]).reshape(*flow.shape[:-2], height, width).to(flow.dtype)


def _register(op: Op) -> None:
    """Both operators of `op`."""
    name, fields = f"shiftsearch::{op.name}", dataclasses.fields(op.spec)
    arrays = [f"Tensor{'?' if key in op.optional else ''} {key}" for key in op.inputs]
    options = [f"{_TYPES[field.type]} {field.name}" for field in fields]
    results = ", ".join("Tensor" for _ in op.outputs)
    kept = [f"Tensor kept_{key}" for key in op.keeps]
    grads = [f"Tensor? grad_{key}" for key in op.outputs if key not in op.hidden]

    def split(arguments):
        """Inputs, kept outputs, gradients and spec of a call of backward."""
        ends = [len(arrays), len(arrays) + len(kept), len(arrays) + len(kept) + len(grads)]
        return (
            _given(op.inputs, arguments[: ends[0]]),
            _given(op.keeps, arguments[ends[0] : ends[1]]),
            _given((key for key in op.outputs if key not in op.hidden), arguments[ends[1] : ends[2]]),
            _spec(op, arguments[ends[2] : -1]),
        )

    # --- forward ---
    def forward(*arguments):
        found = _arrays.forward(op, _spec(op, arguments[len(arrays) :]), _given(op.inputs, arguments))
        return _as_returned(found)

    def forward_shapes(*arguments):
        spec, inputs = _spec(op, arguments[len(arrays) :]), _given(op.inputs, arguments)
        _check(op, spec, inputs)
        _, sizes, batched = op.bind(spec, inputs)
        first = inputs[op.values[0]]
        return _as_returned({
            key: first.new_empty(shape if batched else shape[1:], dtype=_dtype(op.dtype(key, spec, _name(first.dtype))))
            for key, shape in op.shapes(spec, sizes).items()
        })  # fmt: skip

    def save(ctx, inputs, output):
        outputs = dict(zip(op.outputs, output if isinstance(output, tuple) else (output,), strict=True))
        ctx.set_materialize_grads(False)
        if not any(
            needed for key, needed in zip(op.inputs, ctx.needs_input_grad, strict=False) if key not in op.values
        ):
            ctx.mark_non_differentiable(*(outputs[key] for key, kind in op.outputs.items() if kind == "offset"))
        ctx.save_for_backward(*inputs[: len(arrays)], *(outputs[key] for key in op.keeps))
        ctx.options = inputs[len(arrays) :]

    def slope(ctx, *grads):
        wanted = [bool(needed) for needed in ctx.needs_input_grad[: len(arrays)]]
        nothing = [None] * len(ctx.options)
        grads = grads[: len(op.outputs) - len(op.hidden)]
        if all(grad is None for grad in grads):
            return (*(None for _ in wanted), *nothing)
        call = backwards_function.apply if _transformed() else backwards
        found = call(*ctx.saved_tensors, *grads, *ctx.options, wanted)
        return (*(grad if needed else None for grad, needed in zip(found, wanted, strict=True)), *nothing)

    # --- backward ---
    def backward(*arguments):
        inputs, outputs, grads, spec = split(arguments)
        wanted = [key for key, needed in zip(op.inputs, arguments[-1], strict=True) if needed]
        found = _arrays.backward(op, spec, inputs, outputs, grads, frozenset(wanted))
        return tuple(found[key] if key in wanted else arguments[0].new_empty(0) for key in op.inputs)

    def backward_shapes(*arguments):
        return tuple(
            array.new_empty(array.shape) if needed else arguments[0].new_empty(0)
            for array, needed in zip(arguments, arguments[-1], strict=False)
        )

    def no_second(ctx, *grads):
        raise ShiftsearchError(
            f"{op.name}: its gradient was differentiated again, which is not supported, expected create_graph=False"
        )

    forwards = torch.library.custom_op(
        name, forward, mutates_args=(), schema=f"({', '.join([*arrays, *options])}) -> ({results})"
    )
    backwards = torch.library.custom_op(
        f"{name}_backward", backward, mutates_args=(),
        schema=f"({', '.join([*arrays, *kept, *grads, *options])}, bool[] wanted) -> ({', '.join('Tensor' for _ in op.inputs)})",
    )  # fmt: skip
    forwards.register_fake(forward_shapes)
    forwards.register_autograd(slope, setup_context=save)
    backwards.register_fake(backward_shapes)
    backwards.register_autograd(no_second)
    for operator in (forwards, backwards):
        if hasattr(operator, "register_vmap"):  # torch 2.4 does so by itself, with a warning
            operator.register_vmap(partial(_one_by_one, operator))
    backwards_function = _function(op.name, backwards, lambda ctx, inputs, output: None, no_second)
    _OPERATORS[op.name] = getattr(torch.ops.shiftsearch, op.name)
    _FUNCTIONS[op.name] = _function(op.name, _OPERATORS[op.name], save, slope)


def _check(op: Op, spec: Spec, tensors: dict) -> None:
    """What a compiler would not notice: operators run where their first tensor is."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ShiftsearchError(f"{spec.op}: arrays are of different kinds ({found}), expected one library and device")
    _arrays.check_dtypes(op, spec.op, {name: _name(tensor.dtype) for name, tensor in tensors.items()})


def _given(names, arguments) -> dict:
    return {name: array for name, array in zip(names, arguments, strict=False) if array is not None}


def _spec(op: Op, options) -> Spec:
    return op.spec(*(tuple(value) if isinstance(value, list) else value for value in options))


def _as_returned(found: dict):
    found = tuple(found.values())
    return found if len(found) > 1 else found[0]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


for _op in OPS.values():
    _register(_op)
