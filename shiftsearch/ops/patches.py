"""Options that all ops on patches share."""

from __future__ import annotations

from dataclasses import dataclass

from shiftsearch._geometry import query_grid
from shiftsearch._op import Spec
from shiftsearch._types import Border
from shiftsearch.errors import ShiftsearchError

MOST_PATCH = 129  # pixels per side


@dataclass(frozen=True, kw_only=True)
class GridSpec(Spec):
    """Which pixels are queries, and the layout of a patch."""

    stride: int
    dilation: int
    border: Border

    def __post_init__(self) -> None:
        self.whole("stride")
        self.whole("dilation", most=4096)
        self.choice("border", "reflect", "zeros")


@dataclass(frozen=True, kw_only=True)
class PatchSpec(GridSpec):
    """The grid and layout, and the size of a patch."""

    patch: int

    def __post_init__(self) -> None:
        self.whole("patch", most=MOST_PATCH)
        super().__post_init__()


def grid_of(spec: GridSpec, sizes: dict[str, int]) -> dict[str, int]:
    """Return the sizes h and w of the query grid."""
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"h": h, "w": w}


def check_divides(spec: Spec, heads: int, channels: int, named: str = "heads is {}") -> None:
    """Check that `heads` divides the channels; `named` is how the message names it."""
    if channels % heads:
        said = named.format(heads)
        raise ShiftsearchError(f"{spec.caller}: {said}, expected a divisor of the {channels} channels")
