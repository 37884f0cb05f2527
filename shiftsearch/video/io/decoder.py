"""Frames decoded one by one, up to where a file is broken; packets of sound and subtitles put aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.ends import cut_off
from shiftsearch.video.io.ffmpeg import library, told
from shiftsearch.video.io.header import Tracks
from shiftsearch.video.io.jump import Jump
from shiftsearch.video.io.pipes import Input


class Decoder:
    """The decoded frames of a container, and counts of their kinds."""

    path: Path
    first: int  # frames before this one are not wanted
    count: int  # of decoded frames
    damaged: int
    interlaced: int
    aside: deque[Any]  # packets of sound and subtitles that are not written yet
    followed: bool = False  # whether a writer takes those packets

    def __init__(self, path: Path, container: Any, tracks: Tracks, first: int, pipe: Input | None = None):
        self.path, self.first, self._pipe = path, first, pipe
        self.count = self.damaged = self.interlaced = 0
        self.aside = deque()
        self._tracks, self._used = tracks, 0
        self._torn = False  # whether the last frame may be incomplete
        self._packets = container.demux([tracks.video, *tracks.others])
        self._begin: int | None = None  # when the first frame is shown, which is not that of the file
        self._given: list[int] = []  # when the frames of packets are to be shown, while that is checked
        self._near = 1  # while there are no more frames, a writer may still come

    def reached(self, place: Jump, wanted: int) -> Iterator[Any] | None:
        """Return the frames from `wanted` on, decoded from another place; None if they do not come from there as told."""
        self._packets, self._begin, self.count, self._near = place.packets, place.pts, place.number, wanted + 1
        frames, shown = self.frames(), []
        try:
            for frame in islice(frames, wanted + 1 - place.number):
                shown.append(frame.pts)
                if frame.is_corrupt or not (len(shown) > 1 or frame.key_frame):
                    return None
        except ShiftsearchError:
            return None
        if len(shown) <= wanted - place.number or shown != sorted(self._given)[: len(shown)]:
            return None
        self._begin = None
        return chain([frame], frames)

    def frames(self) -> Iterator[Any]:
        """Yield frames in order, each once it is known to be complete: the last one of a cut file may not be."""
        frames, held, error = self._decoded(), None, None
        while True:
            try:
                frame = next(frames, None)
            except ShiftsearchError as broken:
                frame, error = None, broken
            if held is not None and not (error is not None and self._torn):
                yield held
            if error is not None:
                raise error
            if frame is None:
                return
            held = frame

    def _decoded(self) -> Iterator[Any]:
        """Yield frames, skipping broken packets before the first one: recordings may begin anywhere."""
        frame = None
        for packet in self._demuxed():
            try:
                with told(self.path, self._broken()):
                    found = packet.decode()
            except ShiftsearchError:
                if self.count:
                    raise
                continue
            for frame in found:
                if self._begin is not None and frame.pts is not None and frame.pts < self._begin:
                    continue  # its own key frame was not read
                self.damaged += frame.is_corrupt
                self.interlaced += frame.interlaced_frame
                self.count += 1
                yield frame
        self._torn = frame is not None and frame.is_corrupt
        if self._torn or self._cut_off():
            self._torn, self.count = True, max(0, self.count - 1)
            raise ShiftsearchError(f"{self.path}: {self._broken(': its end is missing')}")

    def _cut_off(self) -> bool:
        if self._pipe is not None:
            return self._pipe.cut_off(self._used)
        return self.path.is_file() and cut_off(self.path, self._used)  # numbered pictures are not a file

    def _demuxed(self) -> Iterator[Any]:
        """Yield packets of the video; those of the other streams are put aside."""
        while True:
            with told(self.path, self._broken()):
                packet = next(self._packets, None)
            if packet is None:
                return
            if packet.is_corrupt and self.count:
                raise ShiftsearchError(f"{self.path}: {self._broken()}")
            if packet.stream is self._tracks.video:
                self._used = max(self._used, (packet.pos or 0) + packet.size)
                if self._begin is not None and packet.pts is not None and packet.pts >= self._begin:
                    self._given.append(packet.pts)
                yield packet
            elif packet.dts is not None:
                self._put_aside(packet)

    def _broken(self, where: str = "") -> str:
        whole = f"; frames {self.first}:{self.count} can be read" if self.count > self.first else ""
        return f"is broken after {self.count} frames{where}{whole}"

    def _put_aside(self, packet: Any) -> None:
        if self.followed or self.count <= self._near:  # a writer is there before the third frame is read
            self.aside.append(packet)

    def read_sound(self, until: Fraction) -> None:
        """Put aside the rest of the sound up to this time: in a file it comes a little later than its frames."""
        if not self._tracks.others:
            return
        with suppress(library().FFmpegError):  # errors after the wanted frames do not matter
            for packet in self._packets:
                if packet.dts is None or packet.dts * packet.time_base > until + 1:
                    return
                if packet.stream is not self._tracks.video:
                    self._put_aside(packet)


def time_of(packet: Any) -> Fraction:
    """Return when a packet is shown or heard."""
    return (packet.dts if packet.pts is None else packet.pts) * Fraction(packet.time_base)
