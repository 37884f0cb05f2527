"""Arrays that no backend takes, and what to do about them: those of other devices, and those without numbers."""

from __future__ import annotations

import sys
from typing import Any

from shiftsearch.errors import ShiftsearchError

_PLACES: dict[int | str, str] = {  # by DLPack's number of the device, or torch's name: it does not export all of them
    4: "an OpenCL device",
    7: "a Vulkan device",
    8: "Apple's GPU (MPS)",
    10: "an AMD GPU (ROCm)",
    14: "an Intel GPU (oneAPI)",
    15: "a WebGPU device",
    "mps": "Apple's GPU (MPS)",
    "xpu": "an Intel GPU (oneAPI)",
}
_TO_MAIN_MEMORY = {
    "cupy": "{}.get()",
    "dpctl": "dpctl.tensor.asnumpy({})",
    "dpnp": "{}.asnumpy()",
    "jaxlib": 'jax.device_put({}, jax.devices("cpu")[0])',
    "mlx": "numpy.array({})",
    "torch": "{}.cpu()",
}


def check_traced(caller: str, name: str, array: Any) -> None:
    """Raise an error if JAX traces a function, in which arrays have no numbers yet."""
    jax = sys.modules.get("jax")  # without it there is no tracer
    if jax is not None and isinstance(array, jax.core.Tracer):
        raise ShiftsearchError(
            f"{caller}: {name} is traced by JAX and has no numbers yet, expected an array: call it outside of jax.jit, "
            "grad and vmap, or in jax.pure_callback"
        )


def elsewhere(
    caller: str, name: str, library: str, array: Any, kind: int | None, error: Any = None
) -> ShiftsearchError:
    """Return the error about an array on a device where no backend computes, as DLPack or its library calls it."""
    own = array.device.type if library == "torch" else None
    if own == "meta":
        return ShiftsearchError(
            f"{caller}: {name} is on torch's device meta, which holds no numbers, expected an array"
        )
    place = _PLACES.get(own or kind or "")
    if place is None:
        place = f"device type {kind}" if error is None else f"no device that DLPack knows ({error})"
    move = _TO_MAIN_MEMORY.get(library)
    how = f"pass {move.format(name)}" if move else "move it to main memory"
    return ShiftsearchError(f"{caller}: {name} is on {place}, expected the CPU or a CUDA device: {how}")
