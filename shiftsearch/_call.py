"""The one path of a call: through torch's operators, which know gradients, or straight to where the arrays are."""

from __future__ import annotations

import sys

from shiftsearch import _arrays
from shiftsearch._op import Op


def are_tensors(*arrays) -> bool:
    """Whether all are torch's. Who never imported torch holds none."""
    torch = sys.modules.get("torch")
    return torch is not None and all(isinstance(array, torch.Tensor) for array in arrays)


def run(op: Op, options: tuple, caller: str | None = None, **arrays) -> tuple:
    """The outputs of `op`, as the kind of array that comes in. `options` are the fields of its spec; errors name the `caller`."""
    options = (caller or op.name, *options)
    arrays = {name: array for name, array in arrays.items() if array is not None or name not in op.optional}
    if are_tensors(*arrays.values()):
        from shiftsearch import _torch

        return _torch.run(op, options, arrays)
    found = _arrays.forward(op, op.spec(*options), arrays)
    return tuple(array for name, array in found.items() if name not in op.hidden)
