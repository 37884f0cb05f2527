"""A video file as an iterator of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.decoder import Decoder, time_of
from shiftsearch.video.io.ffmpeg import opened_to_read, told
from shiftsearch.video.io.header import Header, Tracks, check_progressive
from shiftsearch.video.io.jump import jump
from shiftsearch.video.io.pipes import PIPE, Input, head_of, siting_of
from shiftsearch.video.io.pixels import EXACT, LAYOUTS, form_of, is_planar, samples_of
from shiftsearch.video.types import Planes

_NEAR = 32  # frames that are decoded as fast as a place after them is found
_WHITE: dict[int, Any] = {8: np.uint8(255), 16: np.uint16(65535)}


def read(
    path: str | Path,
    frames: tuple[int, int | None] = (0, None),
    *,
    overlap: int = 0,
    format: str | None = None,
    progressive: bool = False,
    salvage: bool = False,
) -> Reader:
    """Read the frames of a video file, one by one.

    Files of 8 bits give uint8, deeper ones uint16 at full range: 65535 is white. Colour is RGB, (H, W, 3), grey is
    (H, W); an alpha channel is left out. Frames are upright: a rotation that a phone has noted is applied.

    Grey and RGB equal those of the file bit for bit. YUV is converted, with U and V repeated where they are coarser.
    `write` restores the file's own Y, U and V for all colours that RGB can express; others are clipped. `planes` of the
    reader always yields the file's own samples.

    Args:
        path: a file that FFmpeg can read, a picture, pictures by number such as "shot.%04d.png", or "-" for the standard
            input: Y4M, or another format that can be read from a pipe
        frames: (first, end) of the frames to read, counted from 0; None is the end of the file
        overlap: how many frames before and after those to read as well, where there are any; `kept` drops them again
        format: FFmpeg's name of the file format; without it FFmpeg finds it out. A list of other files or addresses
            ("hls", "concat") is only read if its format is named, and must lead to files
        progressive: take interlaced frames as whole ones; False refuses them
        salvage: where the file is broken, end the iteration and set `broken`; False raises an error there

    Returns:
        Reader, to be iterated once, best in a `with` statement, over frames or over `planes()`. It has `width`, `height`,
        `bits` and `grey`. `rate` is frames per second, a fraction. `length` is how many frames, if the file tells, or
        None. `damaged` is how many frames the decoder had to mend so far. `broken` is text that says where the file is
        broken, or None

    Example:
        >>> with read("clip.mp4") as clip:  # doctest: +SKIP
        ...     frames = np.stack(list(clip))
    """
    return Reader(path, frames, overlap, format, progressive, salvage)


class Reader:
    """The frames of a video file, see `read`. A Writer also gets their times, sound and subtitles here."""

    path: Path
    width: int
    height: int
    rate: Fraction  # frames per second
    length: int | None  # how many frames, if the file stores it
    bits: int
    grey: bool
    broken: str | None = None  # where the file is broken
    header: Header
    stream: Any  # PyAV's, of the video
    others: list[Any]  # PyAV's, of sound and subtitles
    first: int  # of the frames to read
    end: int | None
    before: int  # how many frames of overlap come first
    begin: Fraction = Fraction(0)  # the time in the file that becomes 0 in the written file
    until: Fraction | None = None  # when the last of the frames to read ends
    times: deque[Fraction]  # of frames that were yielded and are not written yet

    def __init__(
        self,
        path: str | Path,
        frames: tuple[int, int | None],
        overlap: int,
        format: str | None,
        progressive: bool,
        salvage: bool,
    ):
        self.path = Path(path)
        pipe = self._pipe = Input() if path == PIPE else None
        self.first, self.end = _span(frames)
        self.before, self._after = min(overlap, self.first), overlap
        self._salvage = salvage
        self.times = deque()
        self._open(format, progressive, jumping=pipe is None)

    def _open(self, format: str | None, progressive: bool, jumping: bool) -> None:
        with told(self.path, "cannot be read as a video"):
            self._container = opened_to_read(self.path, format, self._pipe)
        try:
            self._begin(progressive)
            if not jumping or self._jump(format):
                return
        except BaseException:
            self.close()
            raise
        self.close()
        self._open(format, progressive, jumping=False)

    def _begin(self, progressive: bool) -> None:
        """Read the header and the first frame."""
        tracks = self._tracks = Tracks.of(self.path, self._container)
        self.stream, self.others = tracks.video, tracks.others
        self._decoder = Decoder(self.path, self._container, tracks, self.first, self._pipe)
        self._frames = self._decoder.frames()
        self._head: Any = next(self._frames, None)
        if self._head is None:
            raise ShiftsearchError(f"{self.path}: no frame can be decoded, expected a complete video file")
        self.header = Header.of(self.path, self._container, tracks, self._head)
        if not progressive:
            check_progressive(self.path, tracks, self._head)
        self.rate, self.bits, self.grey = self.header.rate, self.header.bits, self.header.grey
        size = self._head.width, self._head.height
        self.width, self.height = size[::-1] if self.header.turns % 2 else size
        self.length = self._expected()
        self._number, self._frames = 0, chain([self._head], self._frames)

    def _jump(self, format: str | None) -> bool:
        """Go on near the first frame to read, if that is worth it; return False if it does not lead there."""
        wanted = self.first - self.before
        order = getattr(self.stream.codec_context, "field_order", 0)  # of two packets for a frame
        if wanted < _NEAR or order > 1 or self._head.interlaced_frame or not self.path.is_file():
            return True
        place = jump(self.path, format, self._container, self._tracks, wanted)
        if place is None:
            return False
        self._decoder = Decoder(self.path, self._container, self._tracks, self.first)
        frames = self._decoder.reached(place, wanted)
        if frames is not None:
            self._number, self._frames = wanted, frames
        return frames is not None

    @property
    def siting(self) -> str | None:
        """FFmpeg's name of where U and V lie, if this is Y4M that tells it: PyAV does not."""
        return self._pipe.siting if self._pipe is not None else siting_of(head_of(self.path))

    def _expected(self) -> int | None:
        total = self.stream.frames or round((self._container.duration or 0) * self.rate / 1_000_000)
        if not total:
            return None
        return max(0, min(total, self.end if self.end is not None else total) - self.first)

    @property
    def damaged(self) -> int:
        """How many frames the decoder had to mend so far."""
        return self._decoder.damaged

    @property
    def interlaced(self) -> int:
        """How many frames are interlaced, and were taken as whole ones."""
        return self._decoder.interlaced

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.picture(planes) for planes in self.planes())

    def picture(self, planes: Planes) -> np.ndarray:
        """Return the frame, grey or RGB, of planes that `planes` yields."""
        form = self.header.form
        if form is None:
            return planes[0]
        white = _WHITE[8 if form.bits == 8 else 16]
        picture = np.empty((*planes[0].shape, 3), white.dtype)
        for n, colour in enumerate(form.colours(planes)):
            colour *= np.float32(white)
            picture[..., n] = np.rint(np.clip(colour, 0, white, out=colour), out=colour)
        return picture

    def planes(self) -> Iterator[Planes]:
        """Yield frames as the file has them: tuples of one array, grey or RGB, or of (Y, U, V).

        See `shiftsearch.video.io.yuv` for the samples of (Y, U, V).
        """
        last: Fraction | None = None
        for number, frame in enumerate(self._readable(), self._number):
            time = last = self._time(frame, last)
            if number < self.first - self.before:
                continue
            if number >= self.first and (self.end is None or number < self.end):
                self._note(number, time)
            yield self._planes(frame, number)
            if self.end is not None and number + 1 == self.end + self._after:
                return
        if self.broken and self.until is None and last is not None:
            self.until = last + 1 / self.rate
        if self._decoder.count <= self.first:
            raise ShiftsearchError(f"{self.path}: has {self._decoder.count} frames, expected more than {self.first}")

    def kept(self, results: Iterable[Any]) -> Iterator[Any]:
        """Drop from results, one for each frame that was read, those that belong to the overlap."""
        count = None if self.end is None else self.end - self.first
        return islice(results, self.before, None if count is None else self.before + count)

    def _note(self, number: int, time: Fraction) -> None:
        """Note when a wanted frame is shown."""
        if number == self.first and self.first:
            self.begin = time
        if self._decoder.followed:
            self.times.append(time)
        if number + 1 == self.end:
            self.until = time + 1 / self.rate

    def _readable(self) -> Iterator[Any]:
        """Yield all frames, or with `salvage` those before the place where the file is broken."""
        try:
            yield from self._frames
        except ShiftsearchError as error:
            if not self._salvage or self._decoder.count <= self.first:
                raise
            self.broken = str(error)

    def _time(self, frame: Any, last: Fraction | None) -> Fraction:
        """Return when a frame is shown: after the one before, even if the file says otherwise."""
        if frame.pts is None:
            return last + 1 / self.rate if last is not None else Fraction(0)
        time = frame.pts * Fraction(frame.time_base)
        return time if last is None or time > last else last + Fraction(frame.time_base)

    def _planes(self, frame: Any, number: int) -> Planes:
        header, size = self.header, (self._head.width, self._head.height)
        with told(self.path, f"frame {number} cannot be converted"):
            if header.form is None:
                layout = LAYOUTS[2 if self.grey else 3, 16 if self.bits > 8 else 8]
                found = [frame.to_ndarray(width=size[0], height=size[1], format=layout, **EXACT)]
            else:
                if (frame.width, frame.height, frame.format.name) != (*size, header.format) or not is_planar(
                    header.format
                ):
                    lying: Any = form_of(header.format, header.matrix, header.range)  # not turned upright yet
                    frame = frame.reformat(*size, lying.name, **EXACT)
                found = [header.form.plane(samples) for samples in samples_of(frame, header.form)]
        return tuple(np.rot90(array, header.turns).copy() for array in found)  # not in the decoder's memory

    # --- for a Writer -------------------------------------------------------------------------------
    def follow(self) -> None:
        """Keep times and packets from now on, for a Writer."""
        self._decoder.followed = True

    def packets(self, end: Fraction | float) -> Iterator[Any]:
        """Yield packets of sound and subtitles up to a time, each once."""
        aside = self._decoder.aside
        while aside and time_of(aside[0]) < end:
            yield aside.popleft()

    def finish_sound(self) -> None:
        """Read the sound that belongs to the last frames."""
        if self.until is not None and not self.broken:
            self._decoder.read_sound(self.until)

    # --- as a context -------------------------------------------------------------------------------
    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _span(frames: tuple[int, int | None]) -> tuple[int, int | None]:
    first, end = frames
    if first < 0 or (end is not None and end <= first):
        raise ShiftsearchError(f"frames are {first}:{'' if end is None else end}, expected first < end, counted from 0")
    return first, end
