"""Frames kept bit for bit in a file, whatever their layout: each plane is a grey stream of FFV1 in Matroska."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.ffmpeg import library, opened, told
from shiftsearch.video.types import Planes

_FORMATS = {"uint8": "gray", "uint16": "gray16le"}
_OPTIONS = {"level": "3", "slicecrc": "1"}  # each slice has a checksum: what is damaged is not read
_TICK = Fraction(1, 25)  # without a meaning: frames are counted


@contextmanager
def write_exact(path: Path) -> Iterator[ExactWriter]:
    """Open a file to write frames to, tuples of arrays (H, W) or (H, W, C), uint8 or uint16."""
    with told(path, "cannot be written"):
        container = opened(path, "w", format="matroska")
    try:
        out = ExactWriter(path, container)
        yield out
        out.finish()
    finally:
        container.close()


class ExactWriter:
    """See `write_exact`."""

    count: int  # of frames that were written

    def __init__(self, path: Path, container: Any):
        self.count = 0
        self._path, self._container = path, container
        self._streams: list[Any] = []

    def write(self, frame: Planes) -> None:
        """Add a frame."""
        planes = grey(frame)
        if not self.count:
            self._streams = [self._stream(plane) for plane in planes]
        with told(self._path, "cannot be written"):
            for stream, plane in zip(self._streams, planes, strict=True):
                picture = library().VideoFrame.from_ndarray(np.ascontiguousarray(plane), stream.pix_fmt)
                picture.pts, picture.time_base = self.count, _TICK
                self._container.mux(stream.encode(picture))
        self.count += 1

    def finish(self) -> None:
        """Write what the encoders still hold."""
        with told(self._path, "cannot be written"):
            for stream in self._streams:
                self._container.mux(stream.encode(None))

    def _stream(self, plane: np.ndarray) -> Any:
        stream = self._container.add_stream("ffv1", rate=1 / _TICK, options=_OPTIONS)
        stream.height, stream.width = plane.shape
        stream.pix_fmt = _FORMATS[plane.dtype.name]
        stream.codec_context.time_base = _TICK
        return stream


def read_exact(path: Path) -> Iterator[Planes]:
    """Yield the frames of such a file, as tuples of arrays (H, W): colours are planes, too."""
    with told(path, "cannot be read"), opened(path) as container:
        streams = container.streams.video
        held: dict[int, deque[Any]] = {stream.index: deque() for stream in streams}
        for packet in container.demux(streams):
            held[packet.stream.index].extend(packet.decode())
            while all(held.values()):
                yield tuple(queue.popleft().to_ndarray() for queue in held.values())
    if any(held.values()):
        raise ShiftsearchError(f"{path}: has planes of different lengths, expected a complete file")


def grey(frame: Planes) -> list[np.ndarray]:
    """Return the planes (H, W) of a frame."""
    return [plane for array in frame for plane in (np.moveaxis(array, -1, 0) if array.ndim == 3 else [array])]


def layout_like(planes: Planes, frame: Planes) -> Planes:
    """Return the first of these planes (H, W) in the layout of a frame, whose arrays may have colours."""
    rest, found = iter(planes), []
    for array in frame:
        part = [next(rest) for _ in range(array.shape[2] if array.ndim == 3 else 1)]
        found.append(np.stack(part, -1) if array.ndim == 3 else part[0])
    return tuple(found)
