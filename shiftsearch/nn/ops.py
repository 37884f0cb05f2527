"""The ops as modules with fixed options."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch import Tensor, nn

from shiftsearch._op import Op
from shiftsearch.errors import ShiftsearchError
from shiftsearch.nn.layers import shown
from shiftsearch.ops.aggregate import AGGREGATE, STACK
from shiftsearch.ops.attend import ATTEND
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.search import SEARCH


class _Kept(nn.Module):
    """An op with fixed options. It has no parameters: its state dict is empty."""

    op: ClassVar[Op]
    __signature__: ClassVar[inspect.Signature]  # what `help` shows
    options: dict[str, Any]

    def __init_subclass__(cls) -> None:
        parameters = inspect.signature(cls.op.function).parameters.values()
        cls.__signature__ = inspect.Signature([p for p in parameters if p.name in cls.op.options])

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = self.op.defaults
        for name in options:
            if name not in known:
                raise ShiftsearchError(
                    f"{type(self).__name__}: {name} is no option, expected some of {', '.join(known)}"
                )
        self.options = {**known, **options}
        self.op.specify(**self.options)  # wrong options raise an error here, not at the first call

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        return type(self).op.function(*tensors, **named, **self.options)

    def extra_repr(self) -> str:
        return shown(self.options)


class ShiftedSearch(_Kept):
    """`shiftsearch.search` with its options: called with (q, k, flow=None), gives (scores, offsets).

    Example:
        >>> scores, offsets = ShiftedSearch(window=5, topk=4)(video, video)
        >>> offsets.shape
        torch.Size([1, 3, 16, 24, 4, 3])
    """

    op: ClassVar[Op] = SEARCH


class Refine(_Kept):
    """`shiftsearch.refine` with its options: called with (q, k, offsets), gives (scores, offsets).

    Example:
        >>> _, coarse = ShiftedSearch(window=5, topk=4)(video, video)
        >>> scores, fine = Refine(window=3, topk=2, step=0.5, subpixel=True)(video, video, coarse)
        >>> fine.shape
        torch.Size([1, 3, 16, 24, 2, 3])
    """

    op: ClassVar[Op] = REFINE


class Attend(_Kept):
    """`shiftsearch.attend` with its options: called with (q, k, v, flow=None, scales=None), gives a video.

    Example:
        >>> Attend(window=5, topk=None)(video, video, video).shape
        torch.Size([3, 4, 16, 24])
    """

    op: ClassVar[Op] = ATTEND


class Aggregate(_Kept):
    """`shiftsearch.aggregate` with its options: called with (v, weights, offsets), gives a video.

    Example:
        >>> scores, offsets = ShiftedSearch(window=5, topk=4)(video, video)
        >>> Aggregate()(video, (-scores).softmax(-1), offsets).shape
        torch.Size([3, 4, 16, 24])
    """

    op: ClassVar[Op] = AGGREGATE


class Stack(_Kept):
    """`shiftsearch.stack` with its options: called with (v, offsets, weights=None), gives K videos.

    Example:
        >>> _, offsets = ShiftedSearch(window=5, topk=4)(video, video)
        >>> Stack(patch=3)(video, offsets).shape
        torch.Size([4, 3, 4, 16, 24])
    """

    op: ClassVar[Op] = STACK
