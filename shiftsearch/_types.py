"""Types that the signatures of this package share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy.typing as npt

if TYPE_CHECKING:
    import torch


class AnyArray(Protocol):
    """An array of CuPy, or of another library of the array API standard."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def ndim(self) -> int: ...

    def __dlpack__(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


# Results belong to the library of the arguments, but may have another dtype: offsets may be integers.
Array = TypeVar("Array", "npt.NDArray[Any]", "torch.Tensor", AnyArray)
Native = Any  # an array of a backend's array module

Window = int | tuple[int, int]  # candidates per side, or rows and columns of them
Metric = Literal["l2", "dot"]
Border = Literal["reflect", "zeros"]
Even = Literal["after", "before"]
Anchor = Literal["self", "flow"]
Skip = Literal["self", "own_frame"]
