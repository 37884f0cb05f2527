"""A device to compute on, chosen by name: each frame goes there once and comes back once, while others are computed.

A thread gets the next frame of the iterable meanwhile, which decodes a file. Copies between main memory and a GPU have streams
of their own and memory that is locked in place, so that they do not wait for what is computed: a frame is sent while the one
before is computed, and a result comes back while the next is.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np

from shiftsearch._homes import gpu_arrays
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.types import Planes

_AHEAD = 2  # frames that are ready before they are needed, on either side of the way up
_POLL = 0.1  # seconds after which a thread looks whether it is still wanted


def on_device(
    op: str, device: str | None, frames: Iterable[Planes], work: Callable[[Iterator[Planes], Place], Iterable[Planes]]
) -> Iterator[Planes]:
    """Return the results of `work(frames, place)`, computed on a device from frames in main memory.

    Args:
        device: "cpu", "cuda:0" or another number, "auto" for the first GPU or else the CPU, None for where the frames are
        frames: tuples of arrays
        work: takes such tuples on the device, and the place, and returns such tuples of results
    """
    place = place_of(op, device)
    return place.down(work(place.up(frames), place))


def place_of(op: str, device: str | None) -> Place:
    """Return the place of this name, or raise an error that says what is missing there."""
    if device is not None and not (isinstance(device, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", device)):
        raise ShiftsearchError(f"{op}: device is {device!r}, expected auto, cpu, or cuda:0 and so on")
    if device in (None, "cpu"):
        return Place()
    try:
        xp = gpu_arrays()
    except ShiftsearchError as error:
        if device == "auto":
            return Place()
        raise ShiftsearchError(f"{op}: device is {device!r}, and {error}") from None
    number = int(device.partition(":")[2] or 0) if device != "auto" else 0
    count = xp.cuda.runtime.getDeviceCount()
    if number >= count:
        there = ", ".join(f"cuda:{n}" for n in range(count))
        raise ShiftsearchError(f"{op}: device is {device!r}, expected auto, cpu or one that is there: {there}")
    return Gpu(xp, number)


class Place:
    """Where frames are already: nothing is moved."""

    name = "cpu"

    def up(self, frames: Iterable[Planes]) -> Iterator[Planes]:
        """Yield frames as arrays here."""
        return iter(frames)

    def down(self, results: Iterable[Planes]) -> Iterator[Planes]:
        """Yield results as arrays in main memory."""
        return iter(results)

    def put(self, array: Any) -> Any:
        """Return an array here."""
        return array

    def get(self, array: Any) -> Any:
        """Return an array in main memory."""
        return array

    def flow(self, flow: Any) -> Any:
        """Return flow, if it is a pair of arrays, so that it can be read here; or the method that measures it."""
        return flow


class Gpu(Place):
    """A GPU, by CuPy."""

    def __init__(self, xp: Any, number: int):
        self.name, self._xp = f"cuda:{number}", xp
        self._device = xp.cuda.Device(number)
        with self._device:
            self._rising, self._falling = (xp.cuda.Stream(non_blocking=True) for _ in range(2))

    def up(self, frames: Iterable[Planes]) -> Iterator[Planes]:
        slots, sent = [_Slot() for _ in range(_AHEAD)], deque[_Slot]()
        for number, planes in enumerate(prefetched(frames)):
            slot = slots[number % _AHEAD]
            self._send(slot, planes)
            sent.append(slot)
            if len(sent) == _AHEAD:
                yield self._taken(sent.popleft())
        while sent:
            yield self._taken(sent.popleft())

    def _send(self, slot: _Slot, planes: Planes) -> None:
        """Begin to copy a frame into a slot; what the slot held must have been taken."""
        with self._device:
            if slot.sent is not None:
                slot.sent.synchronize()  # the copy read memory that is now given back
            slot.host = tuple(map(self._locked, planes))
            if [plane.shape for plane in slot.planes] != [plane.shape for plane in planes]:
                slot.planes = tuple(self._xp.empty(plane.shape, plane.dtype) for plane in planes)
                slot.free = self._xp.cuda.get_current_stream().record()  # whoever had this memory before is done then
            self._rising.wait_event(slot.free)
            for plane, host in zip(slot.planes, slot.host, strict=True):
                plane.set(host, stream=self._rising)
            slot.sent = self._rising.record()

    def _taken(self, slot: _Slot) -> Planes:
        """Return a frame for the caller to keep: its slot takes the next one but one."""
        with self._device:
            stream = self._xp.cuda.get_current_stream()
            stream.wait_event(slot.sent)
            planes = tuple(plane.copy() for plane in slot.planes)
            slot.free = stream.record()
        return planes

    def down(self, results: Iterable[Planes]) -> Iterator[Planes]:
        coming: deque[tuple[Planes, Planes, Any]] = deque()
        for planes in results:
            coming.append(self._fetched(planes))
            if len(coming) > 1:
                yield _arrived(*coming.popleft())
        while coming:
            yield _arrived(*coming.popleft())

    def _fetched(self, planes: Planes) -> tuple[Planes, Planes, Any]:
        """Begin to copy a result to main memory; return it, the copy, and an event after which that is complete."""
        with self._device:
            planes = tuple(map(self._xp.ascontiguousarray, planes))
            self._falling.wait_event(self._xp.cuda.get_current_stream().record())
            host = tuple(self._empty(plane.shape, plane.dtype) for plane in planes)
            for plane, copy in zip(planes, host, strict=True):
                plane.get(stream=self._falling, out=copy, blocking=False)
            return planes, host, self._falling.record()

    def _locked(self, array: Any) -> np.ndarray:
        copy = self._empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array in memory that is locked in place, which a GPU reads and writes by itself."""
        kind, count = np.dtype(dtype), int(np.prod(shape))
        memory = self._xp.cuda.alloc_pinned_memory(max(1, count * kind.itemsize))
        return np.frombuffer(memory, kind, count).reshape(shape)

    def put(self, array: Any) -> Any:
        with self._device:
            return self._xp.asarray(array)

    def get(self, array: Any) -> Any:
        with self._device:
            return array.get()

    def flow(self, flow: Any) -> Any:
        return tuple(_Above(self, part) for part in flow) if isinstance(flow, tuple) else flow


class _Slot:
    """Memory of a GPU for a frame on its way."""

    planes: Planes = ()
    host: Planes = ()  # what is copied
    sent: Any = None  # an event: the copy is complete
    free: Any = None  # an event: the frame was taken


class _Above:
    """Flow in main memory, of which each frame goes to a GPU when it is needed."""

    def __init__(self, place: Place, flow: Any):
        self._place, self._flow = place, flow

    def __getitem__(self, frame: int) -> Any:
        return self._place.put(np.ascontiguousarray(self._flow[frame], np.float32))


def _arrived(_: Planes, host: Planes, event: Any) -> Planes:
    event.synchronize()
    return host


def prefetched(items: Iterable[Any]) -> Iterator[Any]:
    """Yield items that a thread gets before they are needed."""
    ready: Queue[tuple[Any, BaseException | None]] = Queue(_AHEAD)
    left, end = Event(), object()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not left.is_set():
            try:
                return ready.put((item, error), timeout=_POLL)
            except Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                put(item)
                if left.is_set():
                    return
            put(end)
        except BaseException as error:
            put(None, error)

    thread = Thread(target=fill, name="shiftsearch-frames", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        left.set()
        thread.join()
