"""The ops as torch operators with gradients, made for each op from its `Op`.

Each op is two operators, `shiftsearch::<op>` and `shiftsearch::<op>_backward`, whose arguments are its arrays and the
fields of its spec. To torch.compile and torch.export they are single nodes with known shapes: of this package, only the
public functions are traced. Backward needs the inputs and the outputs that the op `keeps`, and nothing else is saved.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import register_flop_formula

from shiftsearch import _arrays
from shiftsearch._geometry import along_flow
from shiftsearch._op import Op, Spec, for_each_op, specified
from shiftsearch.errors import ShiftsearchError

_OPERATORS: dict[str, Operators] = {}  # by name of the op


def run(op: Op, arrays: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return the outputs of an op. `options` are all fields of its spec."""
    compiled = torch.compiler.is_compiling()
    spec = None if compiled else specified(op.spec, options)
    for name, array in arrays.items():
        if hasattr(array, "to_local"):
            expected = f"what this process has of it, {name}.to_local(), or all of it, {name}.full_tensor()"
            raise ShiftsearchError(f"{options['caller']}: {name} is a {type(array).__name__}, expected {expected}")
    arrays = _under_autocast(op, arrays)
    operators, tensors = _OPERATORS[op.name], [arrays.get(name) for name in op.inputs]
    if compiled:  # compilers see the operator
        found = operators.seen(*tensors, *(options[name] for name in op.options))
    else:
        found = operators.call(*tensors, spec)
    return _several(found)[: len(op.outputs) - len(op.hidden)]


def checked(spec: type[Spec], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a spec, once it has checked them.

    While a function is compiled, sizes are symbols, and they are checked with the shapes instead.
    """
    return options if torch.compiler.is_compiling() else vars(specified(spec, options))


def _under_autocast(op: Op, arrays: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return the inputs; under torch.autocast, those for which its dtype is precise enough are cast to it."""
    kind = arrays[op.values[0]].device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return arrays
    dtype = torch.get_autocast_dtype(kind)
    names = [name for name, array in arrays.items() if op.inputs[name].kind.halves and array.is_floating_point()]
    names = [name for name in names if arrays[name].dtype != torch.float64]
    return {name: array.to(dtype) if name in names else array for name, array in arrays.items()}


class Operators:
    """Both operators of an op, and the functions of autograd around them, by which torch.func sees their gradients."""

    def __init__(self, op: Op):
        self.op = op
        self.returned = [name for name in op.outputs if name not in op.hidden]
        arrays = [f"Tensor{'?' if given.optional else ''} {name}" for name, given in op.inputs.items()]
        kept = [f"Tensor kept_{name}" for name in op.keeps]
        grads = [f"Tensor? grad_{name}" for name in self.returned]
        hints = typing.get_type_hints(op.spec)
        types = {name: _schema_type(hints[name]) for name in op.options}
        self.lists = [name for name, kind in types.items() if "[" in kind]  # options that are tuples in a spec
        options = [f"{kind} {name}" for name, kind in types.items()]
        forward = ", ".join((*arrays, *options)), len(op.outputs)
        backward = ", ".join((*arrays, *kept, *grads, *options, "bool[] wanted")), len(op.inputs)
        # operators as compilers see them
        self.seen = _operator(op.name, *forward, self._forward, self._forward_shapes, self._slope, self._save)
        self.seen_backward = _operator(
            f"{op.name}_backward", *backward, self._backward, self._backward_shapes, self._refuse_second, _save_nothing
        )
        self.differentiable = self._function(self._forward, self.seen, self._save, self._slope)
        self.differentiable_backward = self._function(
            self._backward, self.seen_backward, _save_nothing, self._refuse_second
        )

    def count(self) -> None:
        """Have torch's FLOP counter count the multiply-adds of both operators, as two operations each."""
        for operator, formula in ((self.seen, self._flops), (self.seen_backward, self._flops_of_backward)):
            register_flop_formula(operator, get_raw=True)(formula)
            for mode in _get_current_dispatch_mode_stack():  # counters have a copy of what was registered before them
                getattr(getattr(mode, "counter", mode), "flop_registry", {})[operator] = formula

    def _flops(self, *arguments: Any, out_val: Any = None, wanted: frozenset[str] | None = None) -> int:
        op, inputs = self.op, self._inputs(arguments)
        spec = self._spec(arguments[len(arguments) - len(op.options) :])
        sizes = op.bind(spec, {name: tensor.shape for name, tensor in inputs.items()}).sizes
        places = inputs.get("offsets")
        fractions = getattr(spec, "subpixel", places is not None and places.is_floating_point())
        return 2 * op.multiply_adds(spec, sizes, fractions, wanted)

    def _flops_of_backward(self, *arguments: Any, out_val: Any = None) -> int:
        return self._flops(*arguments[:-1], wanted=self._wanted(arguments))

    def call(self, *arguments: Any) -> Any:
        """Return what the forward operator gives for tensors and a spec. torch.func sees the function around it."""
        if _needs_gradients(arguments) or _is_watched(arguments):
            return self.differentiable.apply(*arguments)
        return self._forward(*arguments)

    # --- forward ---
    def _forward(self, *arguments: Any) -> Any:
        inputs, spec = self._inputs(arguments), self._spec(arguments[len(self.op.inputs) :])
        _refuse_onnx(self.op, spec)
        found = _arrays.forward(self.op, spec, inputs)
        # NumPy gives an empty array other strides
        return _returned({n: x if x.numel() else x.new_empty(x.shape) for n, x in found.items()})

    def _forward_shapes(self, *arguments: Any) -> Any:
        op, inputs, spec = self.op, self._inputs(arguments), self._spec(arguments[len(self.op.inputs) :])
        _refuse_onnx(op, spec)
        _check(op, spec, inputs)
        bound = op.bind(spec, {name: tensor.shape for name, tensor in inputs.items()})
        first = inputs[op.values[0]]
        dtypes = {name: _dtype(op.dtype(name, spec, _name(first.dtype))) for name in op.outputs}
        shapes = {name: shape if bound.batched else shape[1:] for name, shape in op.shapes(spec, bound.sizes).items()}
        return _returned({name: first.new_empty(shape, dtype=dtypes[name]) for name, shape in shapes.items()})

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        op, count = self.op, len(self.op.inputs)
        if not any(ctx.needs_input_grad):
            return
        outputs = dict(zip(op.outputs, _several(output), strict=True))
        ctx.set_materialize_grads(False)
        moving = [name for name, needed in zip(op.inputs, ctx.needs_input_grad, strict=False) if needed]
        if all(name in op.values for name in moving):  # offsets of whole pixels do not change when only values do
            ctx.mark_non_differentiable(*(outputs[name] for name, kind in op.outputs.items() if kind == "offset"))
        spared = op.spares(self._spec(inputs[count:])) if op.keeps else ()
        kept = (outputs[name].new_empty(0) if name in spared else outputs[name] for name in op.keeps)
        ctx.save_for_backward(*inputs[:count], *kept)
        ctx.options = inputs[count:]

    def _slope(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        wanted = [bool(needed) for needed in ctx.needs_input_grad[: len(self.op.inputs)]]
        nothing = [None] * len(ctx.options)
        grads = grads[: len(self.returned)]
        if all(grad is None for grad in grads):
            return (*(None for _ in wanted), *nothing)
        arguments = (*ctx.saved_tensors, *grads, *ctx.options, wanted)
        if torch.compiler.is_compiling():
            found = self.seen_backward(*arguments)
        elif torch.is_grad_enabled() or _is_watched(arguments):
            found = self.differentiable_backward.apply(*arguments)
        else:
            found = self._backward(*arguments)
        return (*(grad if needed else None for grad, needed in zip(_several(found), wanted, strict=True)), *nothing)

    # --- backward ---
    def _backward(self, *arguments: Any) -> Any:
        op, inputs = self.op, self._inputs(arguments)
        rest = arguments[len(op.inputs) : -1]
        outputs, rest = _given(op.keeps, rest), rest[len(op.keeps) :]
        grads, options = _given(self.returned, rest), rest[len(self.returned) :]
        wanted = self._wanted(arguments)
        found = _arrays.backward(op, self._spec(options), inputs, outputs, grads, wanted)
        return _returned({name: found[name] if name in wanted else _nothing(arguments) for name in op.inputs})

    def _backward_shapes(self, *arguments: Any) -> Any:
        shapes = {}
        for name, array, needed in zip(self.op.inputs, arguments, arguments[-1], strict=False):
            shapes[name] = array.new_empty(array.shape) if needed else _nothing(arguments)
        return _returned(shapes)

    def _refuse_second(self, ctx: Any, *grads: Any) -> Any:
        raise ShiftsearchError(
            f"{self.op.name}: its gradient was differentiated again, which is not supported, expected create_graph=False"
        )

    # --- arguments ---
    def _wanted(self, arguments: tuple[Any, ...]) -> frozenset[str]:
        """Return the inputs whose gradients the backward operator is asked for."""
        return frozenset(name for name, needed in zip(self.op.inputs, arguments[-1], strict=True) if needed)

    def _inputs(self, arguments: tuple[Any, ...]) -> dict[str, torch.Tensor]:
        return _given(self.op.inputs, arguments)

    def _spec(self, options: tuple[Any, ...]) -> Spec:
        """Return the spec of options as operators have them, or of a call that went through none, which has the spec."""
        if isinstance(options[0], Spec):
            return options[0]
        named = dict(zip(self.op.options, options, strict=True))
        for name in self.lists:
            named[name] = None if named[name] is None else tuple(named[name])
        return specified(self.op.spec, named)

    def _function(
        self, function: Callable[..., Any], operator: Any, save: Callable[..., None], slope: Callable[..., Any]
    ) -> Any:
        """Return an operator as a function of autograd, which torch.func can differentiate and map over an axis.

        Its arguments are those of the operator, with a spec in place of all options. `function` does the same at once.
        """

        def refuse(ctx: Any, *_: Any) -> None:
            raise ShiftsearchError(
                f"{self.op.name}: has no derivative in forward mode, expected backward, torch.func.grad or vjp"
            )

        def each(*arguments: Any) -> Any:
            return _one_by_one(made[0].apply, *arguments)

        def forward(*arguments: Any) -> Any:
            return operator(*self._in_full(arguments)) if _is_watched(arguments) else function(*arguments)

        forward.__signature__ = _Signature()  # type: ignore[attr-defined]
        parts = {"forward": forward, "setup_context": save, "backward": slope, "jvp": refuse, "vmap": each}
        named = {part: staticmethod(of) for part, of in parts.items()}
        made: list[Any] = [type(self.op.name, (torch.autograd.Function,), named)]
        return made[0]

    def _in_full(self, arguments: tuple[Any, ...]) -> Iterable[Any]:
        """Yield the arguments of an operator, with each option in place of the spec."""
        for argument in arguments:
            if isinstance(argument, Spec):
                yield from (getattr(argument, name) for name in self.op.options)
            else:
                yield argument


_LIBRARY = torch.library.Library("shiftsearch", "FRAGMENT")


def _operator(
    name: str,
    arguments: str,
    results: int,
    function: Callable[..., Any],
    shapes: Callable[..., Any],
    slope: Callable[..., Any],
    save: Callable[..., None],
) -> Any:
    """Return a new operator. `torch.library.custom_op` would make the same, and take 9 us of each call for itself."""
    qualified, schema = f"shiftsearch::{name}", f"{name}({arguments}) -> ({', '.join(['Tensor'] * results)})"
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, shapes, lib=_LIBRARY)
    torch.library.register_autograd(qualified, slope, setup_context=save, lib=_LIBRARY)
    operator = getattr(torch.ops.shiftsearch, name)
    if hasattr(torch.library, "register_vmap"):  # behind torch 2.4
        torch.library.register_vmap(qualified, partial(_one_by_one, operator), lib=_LIBRARY)
    return operator


def _schema_type(hint: Any) -> str:
    """Return a type as the schemas of operators spell it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (one,) = (argument for argument in arguments if argument is not types.NoneType)
        return f"{_schema_type(one)}?"
    if origin is tuple:
        return "SymInt[]" if Ellipsis in arguments else f"int[{len(arguments)}]"
    return "str" if origin is typing.Literal else hint.__name__


class _Signature(inspect.Signature):
    """A signature that takes arguments as they are: torch binds one at each call, which takes 10 us with those of others."""

    def bind(self, *arguments: Any, **options: Any) -> Any:
        return _Bound(arguments, options)


class _Bound(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def apply_defaults(self) -> None:
        """Add nothing: all arguments are there."""


_PLAIN = {torch.Tensor, torch.nn.Parameter}


def _is_watched(arguments: Iterable[Any]) -> bool:
    """Return whether an operator must go through torch, which takes longer than all that we do.

    So must one that a mode, a transform, a tracer or a profiler watches, or a subclass of tensors.
    """
    return bool(
        _get_current_dispatch_mode_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or torch.autograd.profiler._is_profiler_enabled
        or any(isinstance(x, torch.Tensor) and not _is_plain(x) for x in arguments)
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is no subclass, has numbers, and is not one of those that autograd maps over at once."""
    of_torch = type(tensor) in _PLAIN and not tensor.is_meta
    return of_torch and not torch._C._functorch.is_legacy_batchedtensor(tensor)


def _needs_gradients(arguments: Iterable[Any]) -> bool:
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Save nothing: a gradient is not differentiated again."""


def _one_by_one(call: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
    """Return what `call` gives along an axis that is mapped over."""

    def mapped(function: Callable[[Any, int], Any]) -> list[Any]:
        return [function(x, d) if isinstance(d, int) else x for x, d in zip(arguments, in_dims, strict=True)]

    if info.batch_size == 0:  # no call is made: results have the shapes of one of zeros
        arguments = tuple(mapped(lambda x, d: x.sum(d, keepdim=True, dtype=x.dtype)))
    found = [call(*mapped(partial(_selected, n))) for n in range(max(info.batch_size, 1))]
    if isinstance(found[0], torch.Tensor):
        return torch.stack(found)[: info.batch_size], 0
    return tuple(torch.stack(each)[: info.batch_size] for each in zip(*found, strict=True)), (0,) * len(found[0])


def _selected(n: int, x: torch.Tensor, d: int) -> torch.Tensor:
    return x.select(d, n)


def upsample_flow(flow: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Upsample flow like the public function of this name, with torch functions, which have gradients."""
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


def padded(flow: torch.Tensor, at_end: bool) -> torch.Tensor:
    """Return flow (..., T - 1, 2, H, W) with one more of no motion, at the end or at the beginning."""
    none = torch.zeros_like(flow[..., :1, :, :, :])
    return torch.cat((flow, none) if at_end else (none, flow), -4)


def frames_ahead(caller: str, frames: Any, T: int, most: int | None, device: torch.device) -> torch.Tensor:
    """Return how many frames ahead of each frame those lie that it looks at, (T, S), where there are `most` of them."""
    found = torch.as_tensor(frames, device=device)
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.ndim != 2 or len(found) != T or not found.shape[1] or not whole:
        told = f"{_name(found.dtype)} of shape {tuple(found.shape)}"
        raise ShiftsearchError(f"{caller}: frames is {told}, expected whole numbers of shape ({T}, S)")
    if (
        most is not None and device.type == "cpu" and not torch.compiler.is_compiling()
    ):  # elsewhere it would have to wait
        least, last = (int(x) for x in found.aminmax())
        if least < 0 or last >= most:
            raise ShiftsearchError(
                f"{caller}: frames are {least} to {last}, expected some of 0 to {most - 1}, as k has {most}"
            )
    return found - torch.arange(T, device=device)[:, None]


def seeds(ahead: torch.Tensor, flow: torch.Tensor | None, shape: tuple[int, ...], heads: bool) -> torch.Tensor:
    """Return the offsets that lead along a flow, of this shape but for heads, so many frames ahead."""
    if flow is None:
        flow = torch.zeros(shape, dtype=torch.int32, device=ahead.device)
    elif flow.dtype in (torch.float16, torch.bfloat16):
        flow = flow.float()
    flow = flow if heads else flow.unsqueeze(-6)
    return along_flow(torch, ahead.to(flow.dtype), flow)


def _check(op: Op, spec: Spec, tensors: dict[str, torch.Tensor]) -> None:
    """Check devices and dtypes: an operator runs on the device of its first tensor, and a compiler accepts others."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ShiftsearchError(
            f"{spec.caller}: arrays are of different kinds ({found}), expected one library and device"
        )
    _arrays.check_dtypes(op, spec.caller, {name: _name(tensor.dtype) for name, tensor in tensors.items()})


def _refuse_onnx(op: Op, spec: Spec) -> None:
    if torch.onnx.is_in_onnx_export():
        raise ShiftsearchError(
            f"{spec.caller}: ONNX has no such operator, expected torch.export.export, whose programs are saved by "
            "torch.export.save and compiled by torch._inductor.aoti_compile_and_package. torch.onnx.export takes such a "
            f"program, too, after program.run_decompositions({{torch.ops.shiftsearch.{op.name}.default: function}}), with "
            "a function of the same arguments made of operators that ONNX has"
        )


def _given(names: Iterable[str], arguments: Iterable[Any]) -> dict[str, Any]:
    return {name: array for name, array in zip(names, arguments, strict=False) if array is not None}


def _returned(found: dict[str, Any]) -> Any:
    """Return tensors as an operator does: a single one without a tuple."""
    results = tuple(found.values())
    return results if len(results) > 1 else results[0]


def _several(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _nothing(arguments: tuple[Any, ...]) -> torch.Tensor:
    """Return the result for an input whose gradient is not wanted."""
    return arguments[0].new_empty(0)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def _register(op: Op) -> None:
    _OPERATORS[op.name] = Operators(op)
    _OPERATORS[op.name].count()


for_each_op(_register)
