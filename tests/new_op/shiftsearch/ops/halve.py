"""The op of tests/test_new_op.py."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from shiftsearch._call import run
from shiftsearch._op import WEIGHT, Example, Input, Op, Spec
from shiftsearch._types import Array, Native


@dataclass(frozen=True, kw_only=True)
class HalveSpec(Spec):
    times: int

    def __post_init__(self) -> None:
        self.whole("times", least=0, most=9)


def halve(v: Array, factor: Array, *, times: int = 1) -> Array:
    """Multiply values by factors and halve them.

        out[b, n, x] = factor[b, n] * v[b, n, x] / 2**times

    Args:
        v: values, (B, N, W), or (N, W).
        factor: one for each row, (B, N).
        times: how often to halve.

    Returns:
        An array like v.

    Example:
        >>> import numpy as np
        >>> halve(np.full((1, 3), 8.0), np.ones(1), times=2)
        array([[2., 2., 2.]])
    """
    return run(HALVE, {"v": v, "factor": factor}, times=times)[0]


def _forward(backend: Any, spec: HalveSpec, v: Native, factor: Native) -> dict[str, Native]:
    return {"out": backend.halve(v, factor, spec.times)}


def _backward(
    backend: Any,
    spec: HalveSpec,
    inputs: dict[str, Native],
    outputs: dict[str, Native],
    grads: dict[str, Native],
    wanted: Set[str],
) -> dict[str, Native]:
    v, factor = inputs["v"], inputs["factor"]
    found = {"v": backend.halve(grads["out"], factor, spec.times)}
    found["factor"] = (backend.halve(grads["out"], factor * 0 + 1, spec.times) * v).sum(-1)
    return {name: found[name] for name in wanted}


def _multiply_adds(spec: HalveSpec, sizes: dict[str, int], fractions: bool, wanted: Set[str] | None) -> int:
    return sizes["B"] * sizes["N"] * sizes["W"] * (1 if wanted is None else len(wanted))


HALVE = Op(
    function=halve,
    spec=HalveSpec,
    inputs={"v": Input("B N W"), "factor": Input("B N", WEIGHT)},
    outputs={"out": "value"},
    shapes=lambda spec, sizes: {"out": (sizes["B"], sizes["N"], sizes["W"])},
    forward=_forward,
    backward=_backward,
    multiply_adds=_multiply_adds,
    example=Example({"times": 2}, sizes={"N": 3}),
)
