"""The one path of a call: through torch's operators, which know gradients, or straight to where the arrays are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from shiftsearch import _arrays
from shiftsearch._op import Op, specified


def are_tensors(*arrays: object) -> bool:
    """Return whether all arrays are torch tensors; if torch was never imported, none is."""
    torch = sys.modules.get("torch")
    return torch is not None and all(isinstance(array, torch.Tensor) for array in arrays)


def need_gradients(*arrays: Any) -> bool:
    """Return whether autograd may ask for the gradients of one of these arrays, which may be None."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.is_grad_enabled() and any(getattr(a, "requires_grad", False) for a in arrays)


def run(op: Op, arrays: Mapping[str, Any], *, caller: str | None = None, **options: Any) -> tuple[Any, ...]:
    """Return the outputs of `op`, as arrays of the library of its inputs. `options` are the fields of its spec.

    A public function passes every option: torch.compile cannot trace `locals()`, and as a spec has no defaults, a
    forgotten option is an error. Messages name the `caller`, which is the op unless another function calls it for its
    user.
    """
    options = {"caller": caller or op.name, **options}
    given = {name: array for name, array in arrays.items() if array is not None or not op.inputs[name].optional}
    if are_tensors(*given.values()):
        from shiftsearch import _torch

        return _torch.run(op, given, options)
    found = _arrays.forward(op, specified(op.spec, options), given)
    return tuple(array for name, array in found.items() if name not in op.hidden)
