"""Pairs of flow (forward, backward) with one flow less than there are frames, as flow networks give them, in streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.flow.arrays import checked, finite, warped

_KINDS = "float16", "float32", "float64"


def as_numbered(op: str, frames: Any, flow: Any) -> tuple[Any, Any]:
    """Return frames, and a pair whose flows have the numbers of the frames that they lead from; other flow as it is.

    The length of frames tells whether there is one flow less. Where an iterator has none, the flows tell; the frames are
    then counted, so that a wrong guess is an error.
    """
    if not isinstance(flow, tuple) or not all(hasattr(part, "__len__") for part in flow):
        return frames, flow
    count = len(flow[1])
    if len(flow[0]) != count or not hasattr(frames, "__iter__"):
        return frames, flow
    backward = _Backward(op, *flow)
    if not hasattr(frames, "__len__"):
        return _counted(op, frames, backward, count), (flow[0], backward)
    backward.first = int(len(frames) == count + 1)
    return frames, (flow[0], backward)


class _Backward:
    """The flow backward, whose `first` flow is that of frame 0 or 1; None as long as it makes no difference."""

    first: int | None = None

    def __init__(self, op: str, forward: Any, backward: Any):
        self._op, self._forward, self._backward = op, forward, backward

    def __getitem__(self, frame: int) -> Any:
        if self.first is None:
            either = self._backward[frame - 1 : frame + 1]
            if len(either) == 1 or self._ask(_same, *either):
                return either[-1]
            self.first = int(self._begins_late(frame))
        return self._backward[frame - self.first]

    def _begins_late(self, frame: int) -> bool:
        """Return whether the flow from this frame to the one before is that of the number before."""
        ends = self._forward[-1], self._backward[0]  # which lead to no frame if each frame has its flow
        if self._ask(_nothing, *ends):
            return False
        return self._ask(_undone, self._forward[frame - 1], self._backward[frame - 1], self._backward[frame])

    def _ask(self, question: Callable[..., Any], *flows: Any) -> bool:
        found: list[bool] = []

        def natively(xp: Any, *arrays: Any) -> tuple[()]:
            arrays = tuple(finite(xp, checked(self._op, "flow", array)) for array in arrays)
            found.append(bool(question(xp, *arrays)))
            return ()

        transform(self._op, natively, _KINDS, **{f"flow {n}": flow for n, flow in enumerate(flows)})
        return found[0]


def _same(xp: Any, a: Any, b: Any) -> Any:
    return a.shape == b.shape and (a == b).all()


def _nothing(xp: Any, a: Any, b: Any) -> Any:
    return not a.any() and not b.any()


def _undone(xp: Any, there: Any, first: Any, second: Any) -> Any:
    """Return whether flow is undone by the first of two rather than by the second."""
    if not there.shape == first.shape == second.shape:
        return False
    apart = [((there + warped(back[None], there[None])[0]) ** 2).mean() for back in (first, second)]
    return apart[0] < apart[1]


def _counted(op: str, frames: Iterable[Any], backward: _Backward, flows: int) -> Iterator[Any]:
    count = 0
    for frame in frames:
        count += 1
        yield frame
    if backward.first == 1 and count != flows + 1:
        raise ShiftsearchError(
            f"{op}: flow has {flows} flows each way and frames has {count}, expected {flows + 1}. If there is one for each "
            "frame, set those that lead to no frame to 0: forward[-1] and backward[0]"
        )
