"""Frames written to a video file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.decoder import time_of
from shiftsearch.video.io.ffmpeg import library, told
from shiftsearch.video.io.formats import STEADY
from shiftsearch.video.io.keep import keep_chapters, keep_colours, keep_places, keep_shape, keep_streams
from shiftsearch.video.io.pipes import PIPE, Output, standard_output
from shiftsearch.video.io.pixels import EXACT, form_of, layout_of, samples_of
from shiftsearch.video.io.reader import Reader
from shiftsearch.video.io.target import Target
from shiftsearch.video.io.whole import whole
from shiftsearch.video.types import Planes


@contextmanager
def write(
    path: str | Path,
    like: Reader | None = None,
    *,
    rate: float | Fraction | None = None,
    codec: str | None = None,
    crf: int | None = None,
) -> Iterator[Writer]:
    """Open a video file to write frames to, in a `with` statement. The file appears when it is complete, or not at all.

    Args:
        path: its ending decides the kind of file; a file of this name is replaced at the end. Pictures by
            number such as "shot.%04d.png" are possible: the number is that of the frame in the source, from 0 on. "-" is
            the standard output, where Y4M is written to as it becomes ready
        like: the Reader that the frames come from. Times, rate, colour properties, sound, subtitles and, where the file
            can hold it, the codec are then kept; frames must be written in the order they were read
        rate: frames per second, required without `like`
        codec: how frames are coded: "h264", "hevc", "vp9", "av1", "prores", "ffv1" (lossless) and others of FFmpeg
        crf: quality of h264, hevc, vp9 and av1: 0 is best; about 20 by default

    Returns:
        Writer with `write(frame)` for frames as `read` gives them, `count` of these, and `left_out`: which sound,
        subtitles, chapters, alpha and the like the source has and this file cannot hold

    Example:
        >>> with read("in.mp4") as clip, write("out.mkv", like=clip) as out:  # doctest: +SKIP
        ...     for frame in clip:
        ...         out.write(255 - frame)
    """
    if like is not None:
        rate = like.rate
    elif rate is None or not 0 < rate < float("inf"):
        raise ShiftsearchError(
            f"{path}: rate is {rate}, expected frames per second, or like=, a Reader that has a rate"
        )
    with _place(path, like) as part:
        with told(path, "cannot be written"):
            writer = Writer(path, part, like, Fraction(rate), codec, crf)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abandon()
            raise


@contextmanager
def _place(path: str | Path, like: Reader | None) -> Iterator[Path | Output]:
    """Yield what to write to: a name beside `path`, or a file for Y4M."""
    if path == PIPE:
        with standard_output() as out:
            yield out
        return
    with whole(path, like.path if like is not None else None) as part:
        if part.suffix.lower() != ".y4m":
            yield part
            return
        with part.open("wb") as file:
            yield Output(file)


class Writer:
    """A video file that frames are written to, see `write`."""

    path: Path
    count: int  # of frames that were written
    left_out: list[str]  # parts of the source that this file cannot hold

    def __init__(
        self,
        path: str | Path,
        part: Path | Output,
        like: Reader | None,
        rate: Fraction,
        codec: str | None,
        crf: int | None,
    ):
        self.path = Path(path)
        self._like: Any = like
        self._rate = rate
        self.left_out = []
        self.count, self._last = 0, float("-inf")
        first = like.header.number + like.first if like is not None else 0
        header = like.header if like is not None else None
        self._target = Target(path, part, header, first, self._rate, codec, crf)  # before the first frame is computed
        if like is not None:
            like.follow()

    @property
    def about(self) -> str:
        """What kind of file it is, for messages."""
        return f", {self._target.encoder.name} in {self._target.kind}"

    def write(self, frame: np.ndarray | Planes) -> None:
        """Add a frame: uint8 or uint16, (H, W) or (H, W, 3), as from `read`; or a tuple, as from `like.planes()`."""
        planes = frame if isinstance(frame, tuple) else (frame,)
        form = layout_of(self.path, planes[0] if planes else frame)
        if len(planes) > 1:
            self._check_planes(planes)
        size = planes[0].shape[1], planes[0].shape[0]
        stream = self._target.stream
        if not self.count:
            self._start(*size, form)
        elif self._target.single:
            raise ShiftsearchError(f'{self.path}: is one picture, expected a video, or a name such as "name.%04d.png"')
        elif size != (stream.width, stream.height):
            raise ShiftsearchError(
                f"{self.path}: frame {self.count} is {size[0]} x {size[1]}, expected "
                f"{stream.width} x {stream.height} as frame 0"
            )
        with told(self.path, "cannot be written"):
            picture = self._picture(planes)
            time = self._like.times.popleft() if self._like is not None else self.count / self._rate
            begin = self._like.begin if self._like is not None else 0
            self._last = max(self._last + 1, round((time - begin) / self._tick))  # counts on if ticks are too coarse
            picture.time_base, picture.pts = self._tick, self._last
            self._target.container.mux(stream.encode(picture))
            self._copy_packets(time)
        self.count += 1

    def _check_planes(self, planes: Planes) -> None:
        form = self._like.header.form if self._like is not None else None
        found = [(getattr(plane, "shape", None), getattr(plane, "dtype", None)) for plane in planes]
        if form is None or found != form.kinds(planes[0].shape):
            raise ShiftsearchError(
                f"{self.path}: a frame is a tuple of {len(planes)}, expected one such as those of like.planes()"
            )

    def _picture(self, planes: Planes) -> Any:
        """Return the samples to encode: those of the planes if they have the file's form, else converted ones."""
        source: Any = self._like.header.form if self._like is not None else None
        form, name = self._form, self._target.stream.pix_fmt
        if form is None:
            array = planes[0] if len(planes) == 1 else self._like.picture(planes)
            if array.dtype == np.uint16 and all(part.bits <= 8 for part in library().VideoFormat(name).components):
                array = np.rint(array / np.float32(257)).astype(np.uint8)  # FFmpeg would divide by 256
            picture = library().VideoFrame.from_ndarray(np.ascontiguousarray(array), format=layout_of(self.path, array))
            return picture.reformat(format=name, **EXACT)
        if len(planes) == 1:
            colours = np.moveaxis(planes[0], -1, 0) if planes[0].ndim == 3 else planes * 3
            planes = form.planes([colour / np.float32(np.iinfo(colour.dtype).max) for colour in colours])
        elif form != source:
            planes = form.planes(source.colours(planes))
        picture = library().VideoFrame(*planes[0].shape[::-1], form.name)
        picture.colorspace, picture.color_range = self._matrix, self._range
        for samples, plane in zip(samples_of(picture, form), planes, strict=True):
            samples[...] = form.samples(plane)
        return picture.reformat(format=name, dst_color_range=self._range, **EXACT)

    def _start(self, width: int, height: int, form: str) -> None:
        """Open the encoder, once the size and form of frames are known."""
        target, stream, context = self._target, self._target.stream, self._target.stream.codec_context
        encoder = target.encoder.name
        stream.width, stream.height = width, height
        stream.pix_fmt = target.pixels(width, height, form)
        varies = int(target.container.format.flags) & library().format.Flags.variable_fps.value
        counted = self._like is None or not varies or encoder in STEADY
        self._tick = 1 / self._rate if counted else Fraction(self._like.stream.time_base)
        context.time_base = self._tick
        self._matrix, self._range = 2, 0  # not specified: FFmpeg takes its defaults
        self._copies: dict[int, Any] = {}
        if self._like is not None:
            self._keep(self._like)
        if encoder == "dnxhd":  # these profiles take any size; and no matrix means BT.709 there
            profiles = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx"}
            context.options = {"profile": profiles.get(stream.pix_fmt, "dnxhr_444")}
            self._matrix = context.colorspace = 1 if self._matrix == 2 else self._matrix
        with told(self.path, f"{encoder} cannot write {width} x {height} pixels as {stream.pix_fmt} here"):
            target.container.start_encoding()
        self._form = form_of(stream.pix_fmt, self._matrix, self._range)

    def _keep(self, like: Reader) -> None:
        """Take over the properties of the source."""
        self._matrix, self._range = keep_colours(self._target, like)
        places = keep_places(self._target, like)
        shape, chapters = keep_shape(self._target, like), keep_chapters(self._target, like)
        self._copies, others = keep_streams(self._target, like)
        self.left_out += [*like.header.apart, *places, *shape, *chapters, *others]

    def _copy_packets(self, end: Fraction | float) -> None:
        """Copy sound and subtitles up to a time of the source."""
        like = self._like
        if like is None:
            return
        for packet in like.packets(end):
            stream = self._copies.get(packet.stream.index)
            if stream is None or (like.first and time_of(packet) < like.begin):
                continue
            shift = round(like.begin / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = stream
            self._target.container.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds, and the rest of the sound."""
        if not self.count:
            raise ShiftsearchError(f"{self.path}: no frame was written, expected at least one")
        with told(self.path, "cannot be written"):
            rest = self._target.stream.encode(None)
            for packet in rest if self.count <= 2 else ():  # so few are in order; libx265 gives them any dts
                packet.dts = packet.pts
            self._target.container.mux(rest)
            until = self._like.until if self._like is not None else None
            if self._like is not None:
                self._like.finish_sound()
            self._copy_packets(float("inf") if until is None else until)
            self._target.container.close()

    def abandon(self) -> None:
        """Close the file, whatever is in it."""
        with suppress(Exception):  # the disk may be full
            self._target.container.close()
