"""Video files as iterators of frames, and frames as video files: the only module that knows PyAV, and so FFmpeg.

One frame is in memory at a time. What is not looked at is kept: times of frames, colour properties, sound and subtitles.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.files import whole

_LATE = 0.5  # seconds that a file may end before it says
_STATES_LENGTH = ("matroska", "mov")  # formats that write their length down; others have FFmpeg guess it


def read(path, frames=(0, None)) -> Reader:
    """The frames of a video file, one by one.

    Files of 8 bits give uint8, deeper ones uint16 at full range: 65535 is white. Colour is RGB, (H, W, 3), grey is
    (H, W); an alpha channel is left out. Frames are upright: what a phone notes as a rotation is done.

    Args:
        path: a file that FFmpeg can read, a picture, or pictures by number as "shot.%04d.png"
        frames: (first, end) of the frames to take, counted from 0; None is the end of the file

    Returns:
        Reader, which is iterated once, best in a `with` statement. It has `width`, `height`, `rate` (frames per second,
        a fraction), `length` (how many frames, as far as the file says, or None), `bits`, `grey`, `damaged` (how many
        frames the decoder had to patch up so far)

    Example:
        >>> with read("clip.mp4") as clip:  # doctest: +SKIP
        ...     frames = np.stack(list(clip))
    """
    return Reader(path, frames)


@contextmanager
def write(path, like=None, *, rate=None, codec=None, crf=None) -> Iterator[Writer]:
    """A video file to write frames to, for a `with` statement. It is there when it is complete, or not at all.

    Args:
        path: its ending says which kind of file it becomes; a file of this name is replaced at the end. Pictures by
            number as "shot.%04d.png" are possible
        like: the Reader that the frames come from. Then times, rate, colour properties, sound, subtitles and, where the
            file can hold it, the codec are as there; frames are written in the order they were read
        rate: frames per second, needed without `like`
        codec: how frames are coded: "h264", "hevc", "vp9", "av1", "prores", "ffv1" (without loss) and others of FFmpeg
        crf: quality of h264, hevc, vp9 and av1: 0 is best; about 20 by default

    Returns:
        Writer with `write(frame)` for frames as `read` gives them, and `left_out`, what of the sound and subtitles this
        kind of file cannot hold

    Example:
        >>> with read("in.mp4") as clip, write("out.mkv", like=clip) as out:  # doctest: +SKIP
        ...     for frame in clip:
        ...         out.write(255 - frame)
    """
    if like is None and (rate is None or rate <= 0):
        raise ShiftsearchError(f"{path}: rate is {rate}, expected frames per second, or like, a Reader")
    with whole(path, like.path if like is not None else None) as part:
        with _said(path, "cannot be written"):
            writer = Writer(path, part, like, rate, codec, crf)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abandon()
            raise


def _av():
    try:
        import av
        import av.codec.codec
    except ImportError as error:
        raise ShiftsearchError(f'video files need PyAV: pip install "shiftsearch[video]" ({error})') from None
    return av


@contextmanager
def _said(path, what: str):
    """FFmpeg's errors as this package says them, on one line."""
    av = _av()
    try:
        yield
    except ShiftsearchError:
        raise
    except (av.FFmpegError, OSError, MemoryError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ShiftsearchError(f"{path}: {what}: {' '.join(reason.split())}") from None


def _quality() -> tuple[int, int]:
    """How to scale colour planes up and down so that a frame that is read and written comes out as it was."""
    flags = _av().video.reformatter.Interpolation
    exact = flags.ACCURATE_RND | flags.FULL_CHR_H_INT | flags.FULL_CHR_H_INP
    return int(flags.POINT | exact), int(flags.AREA | exact)


# --- reading ----------------------------------------------------------------------------------------
class Reader:
    """See `read`."""

    def __init__(self, path, frames=(0, None)):
        self.path = Path(path)
        self.first, self.end = _span(frames)
        _check_there(self.path)
        av = _av()
        with _said(self.path, "cannot be read"):
            self._container = av.open(f"file:{self.path}", metadata_errors="replace")
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self.damaged = 0
        self.times = deque()  # of frames that were given out and not written yet, in seconds
        self.packets = None  # of sound and subtitles, if somebody wants them
        self.until = None  # the time when the last frame that is wanted ends
        self.begin = Fraction(0)  # the time that becomes 0
        self.turned = False  # columns have become rows
        self._last_time = None

    def _open(self):
        pictures = [s for s in self._container.streams.video if not s.disposition & s.disposition.attached_pic]
        if not pictures:
            raise ShiftsearchError(f"{self.path}: has no video, expected a video file")
        self.stream = pictures[0]
        self.stream.thread_type = "AUTO"
        context = self.stream.codec_context
        if not context.width or not context.height or context.format is None:
            raise ShiftsearchError(f"{self.path}: the video has no size, expected a whole video file")
        self.format = context.format.name
        self.bits = max(part.bits for part in context.format.components)
        self.grey = self.format.startswith(("gray", "mono", "ya"))
        self.width, self.height = context.width, context.height
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.metadata = dict(self._container.metadata)
        self.length = self._expected()
        self.others = [s for s in self._container.streams if s.type in ("audio", "subtitle")]

    def _expected(self) -> int | None:
        total = self.stream.frames
        if not total and self._container.duration:
            total = round(self._container.duration * self.rate / 1_000_000)
        if not total:
            return None
        return max(0, min(total, self.end if self.end is not None else total) - self.first)

    def __iter__(self) -> Iterator[np.ndarray]:
        count = 0
        for frame in self._decoded():
            array, time = self._array(frame, count), self._time(frame)
            count += 1
            if count <= self.first:
                continue
            if count == self.first + 1 and self.first:
                self.begin = time
            self.times.append(time)
            if count == self.end:
                self.until = time + 1 / self.rate
            yield array
            if count == self.end:
                self._rest_of_sound()
                return
        if count <= self.first:
            raise ShiftsearchError(f"{self.path}: has {count} frames, expected more than {self.first} of them")

    def _decoded(self):
        """Frames in order. What is broken before the first whole one is skipped, as recordings begin anywhere."""
        av, count = _av(), 0
        for packet in self._demuxed(lambda: count):
            with _said(self.path, self._broken(count)):
                try:
                    found = packet.decode()
                except av.error.InvalidDataError:
                    if count:
                        raise
                    continue
            for frame in found:
                self.damaged += frame.is_corrupt
                yield frame
                count += 1
        if not count:
            raise ShiftsearchError(f"{self.path}: no frame can be decoded, expected a whole video file")

    def _demuxed(self, count):
        """Packets of the video; those of the other streams are put aside."""
        stated, ended = self._stated_length(), 0
        self._demuxer = self._container.demux([self.stream, *self.others])
        while True:
            with _said(self.path, self._broken(count())):
                packet = next(self._demuxer, None)
            if packet is None:
                break
            if packet.dts is not None:
                ended = max(ended, _at(packet) + (packet.duration or 0) * packet.time_base)
            if packet.is_corrupt and count():
                raise ShiftsearchError(f"{self.path}: {self._broken(count())}")
            if packet.stream is self.stream:
                yield packet
            elif self.packets is not None and packet.dts is not None:
                self.packets.append(packet)
        if ended + _LATE < stated:
            raise ShiftsearchError(f"{self.path}: {self._broken(count(), f', {float(ended):.1f} of {stated:.1f} s')}")

    def _stated_length(self) -> float:
        states = self._container.format.name.startswith(_STATES_LENGTH)
        return self._container.duration / 1e6 if states and self._container.duration else 0.0

    def _broken(self, count: int, where: str = "") -> str:
        whole = f"; frames {self.first}:{count} can be read" if count > self.first else ""
        return f"is broken after {count} frames{where}{whole}"

    def _rest_of_sound(self):
        """Sound comes a little later in a file than the frames that it belongs to."""
        for packet in self._demuxer if self.packets is not None and self.others else ():
            if packet.dts is None or packet.dts * packet.time_base > self.until + 1:
                return
            if packet.stream is not self.stream:
                self.packets.append(packet)

    def _array(self, frame, count: int) -> np.ndarray:
        deep, (up, _) = self.bits > 8, _quality()
        form = ("gray16le" if deep else "gray") if self.grey else ("rgb48le" if deep else "rgb24")
        with _said(self.path, f"frame {count} cannot be converted"):
            array = frame.to_ndarray(format=form, width=self.width, height=self.height, interpolation=up)
        turns = round(frame.rotation / 90) % 4 if frame.rotation % 90 == 0 else 0
        self.turned = bool(turns % 2)
        return np.ascontiguousarray(np.rot90(array, turns))

    def _time(self, frame) -> Fraction:
        """When a frame is shown; frames follow one another even where a file says otherwise."""
        time = None if frame.pts is None else frame.pts * Fraction(frame.time_base)
        last = self._last_time
        if time is None:
            time = last + 1 / self.rate if last is not None else Fraction(0)
        elif last is not None and time <= last:
            time = last + Fraction(frame.time_base)
        self._last_time = time
        return time

    def close(self):
        self._container.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _span(frames) -> tuple[int, int | None]:
    first, end = frames
    if first < 0 or (end is not None and end <= first):
        raise ShiftsearchError(f"frames are {first}:{'' if end is None else end}, expected first < end, counted from 0")
    return first, end


def _check_there(path: Path):
    if "%" in path.name:  # numbered pictures, FFmpeg finds them
        return
    if not path.exists():
        raise ShiftsearchError(f"{path}: does not exist, expected a video file")
    if not path.is_file():
        raise ShiftsearchError(f"{path}: is no file, expected a video file")
    if not path.stat().st_size:
        raise ShiftsearchError(f"{path}: is empty, expected a video file")


# --- writing ----------------------------------------------------------------------------------------
_CRF = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24}  # hardly visible losses
_QUIET = {"libx265": {"x265-params": "log-level=error"}}
_SCALED = {"mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "msmpeg4", "wmv2", "h263p"}  # their quality is a number 1..31
_EVEN = {"libx264", "libx265", "libsvtav1"}  # take no odd sizes with coarser colour planes
_STEADY = {"mpeg1video", "mpeg2video", "mpeg4"}  # know few time scales, so that frames are counted
_PICTURES = {"jpg": "mjpeg", "jpeg": "mjpeg", "tif": "tiff"}  # codecs that have another name than their files


class Writer:
    """See `write`."""

    def __init__(self, path, part: Path, like: Reader | None, rate, codec: str | None, crf: int | None):
        self.path, self._like, self._codec, self._crf = Path(path), like, codec, crf
        self._rate = Fraction(rate) if like is None else like.rate
        self.left_out: list[str] = []
        self._count, self._last = 0, None
        options = {} if "%" in part.name else {"update": "1"}  # for pictures: there is one, its name has no number
        self._container = _av().open(f"file:{part}", "w", container_options=options, metadata_errors="replace")
        self._format = self._container.format
        self._single = bool(options) and self._format.name == "image2"
        self._encoder = self._choose()  # before the first frame is computed
        if like is not None:
            like.packets = deque()

    def _choose(self):
        if self._codec is not None:
            wanted = [self._codec]
        elif self._container.format.name == "image2":
            ending = self.path.suffix[1:].lower()
            wanted = [_PICTURES.get(ending, ending)]
        else:
            source = [] if self._like is None else [self._like.stream.codec_context.codec.canonical_name]
            wanted = [*source, self._container.default_video_codec]
        reasons = []
        for name in wanted:
            try:
                codec = _av().Codec(name, "w")
                if codec.type != "video":
                    raise ValueError(f"{name} is for {codec.type}")
                self._stream = self._container.add_stream(codec.name, rate=self._rate, options=self._options(codec.name))
                return codec
            except _av().codec.codec.UnknownCodecError:
                reasons.append(f"there is no encoder for {name}")
            except ValueError as error:
                reasons.append(str(error))
        raise ShiftsearchError(f"{self.path}: {' and '.join(reasons)}, expected another codec, as h264 or ffv1, or another kind of file")

    def _options(self, encoder: str) -> dict[str, str]:
        if self._crf is not None and encoder not in _CRF:
            raise ShiftsearchError(f"{self.path}: {encoder} has no crf, expected one of {', '.join(_CRF)}, or no crf")
        os.environ.setdefault("SVT_LOG", "1")  # or libsvtav1 prints its settings
        options = dict(_QUIET.get(encoder, {}))
        if encoder in _CRF:
            options["crf"] = str(_CRF[encoder] if self._crf is None else self._crf)
        elif encoder in _SCALED:
            options |= {"flags": "+qscale", "global_quality": str(2 * 118)}  # 118 is FFmpeg's unit
        if encoder == "libvpx-vp9":
            options["b"] = "0"
        return options

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame: uint8 or uint16, (H, W) or (H, W, 3), as `read` gives them."""
        form = _form(self.path, frame)
        if self._count == 0:
            self._start(*frame.shape[:2])
        elif frame.shape[:2] != (self._stream.height, self._stream.width):
            raise ShiftsearchError(
                f"{self.path}: frame {self._count} has shape {frame.shape}, expected "
                f"{self._stream.height} x {self._stream.width} pixels as frame 0 has"
            )
        elif self._single:
            raise ShiftsearchError(f'{self.path}: is one picture, expected a video, or a name as "name.%04d.png"')
        with _said(self.path, "cannot be written"):
            picture = _av().VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=form)
            picture = picture.reformat(
                format=self._stream.pix_fmt, interpolation=_quality()[1], dst_colorspace=self._matrix, dst_color_range=self._range
            )
            picture.time_base, picture.pts = self._tick, self._stamp()
            self._container.mux(self._stream.encode(picture))
            self._count += 1
            self._copy_packets(self._time)

    def _stamp(self) -> int:
        """The time of a frame in ticks; it counts on where ticks are too coarse."""
        if self._like is None:
            self._time = self._count / self._rate
            return self._count
        self._time = self._like.times.popleft()
        ticks = round((self._time - self._like.begin) / self._tick)
        self._last = ticks if self._last is None else max(self._last + 1, ticks)
        return self._last

    def _start(self, height: int, width: int):
        stream, like = self._stream, self._like
        context = stream.codec_context
        stream.width, stream.height = width, height
        stream.pix_fmt = self._pixels(width, height)
        steady = self._encoder.name in _STEADY or not int(self._format.flags) & _av().format.Flags.variable_fps.value
        self._tick = 1 / self._rate if steady or like is None else Fraction(like.stream.time_base)
        context.time_base = self._tick
        self._matrix = self._range = None
        rgb = stream.pix_fmt.startswith(("rgb", "bgr", "gbr", "pal"))
        if stream.pix_fmt.startswith("yuvj"):
            context.color_range = self._range = 2
        elif like is not None and not rgb:
            source = like.stream.codec_context
            context.color_range = self._range = source.color_range
            context.colorspace = self._matrix = source.colorspace
        if like is not None:
            source = like.stream.codec_context
            context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
            shape = source.sample_aspect_ratio
            if shape:
                stream.sample_aspect_ratio = 1 / shape if like.turned else shape
            self._container.metadata.update({k: v for k, v in like.metadata.items() if k in ("title", "comment", "artist", "date")})
        self._copies = {}
        for other in () if like is None else like.others:
            try:
                self._copies[other.index] = self._container.add_stream_from_template(other)
                self._copies[other.index].metadata.update(other.metadata)
            except (ValueError, _av().FFmpegError):
                self.left_out.append(f"{other.type} ({other.codec_context.name if other.codec_context else 'unknown'})")
        with _said(self.path, f"{self._encoder.name} cannot write {width} x {height} pixels as {stream.pix_fmt} here"):
            self._container.start_encoding()

    def _pixels(self, width: int, height: int) -> str:
        """The pixel format: that of the source if the encoder takes it, or else the nearest to it."""
        offered = [form.name for form in self._encoder.video_formats or ()]
        if self._encoder.name == "mjpeg":
            offered = [name for name in offered if name.startswith("yuvj")]
        wanted = self._like.format if self._like is not None else "yuv420p"
        deep = self._like is not None and self._like.bits > 8
        if wanted not in offered and wanted.startswith(("rgb", "bgr", "gbr", "pal", "0", "a")):
            plain = "yuv420p10le" if deep else "yuv420p"  # what every player shows
            wanted = plain if plain in offered else wanted
        if self._encoder.name in _EVEN and (width % 2 or height % 2):
            offered = [name for name in offered if "444" in name or name.startswith(("gray", "gbr"))] or offered
        if wanted in offered or not offered:
            return wanted
        nearest, _ = _av().codec.codec.find_best_pix_fmt_of_list(offered, wanted)
        return nearest.name if nearest is not None else offered[0]

    def _copy_packets(self, end):
        """Sound and subtitles from `begin` to `end`, in seconds of the source."""
        like = self._like
        while like is not None and like.packets and _at(like.packets[0]) < end:
            packet = like.packets.popleft()
            stream = self._copies.get(packet.stream.index)
            if stream is None or _at(packet) < like.begin:
                continue
            shift = round(like.begin / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = stream
            self._container.mux(packet)

    def finish(self):
        """Writes what the encoder still holds, and the rest of the sound."""
        if not self._count:
            raise ShiftsearchError(f"{self.path}: no frame was written, expected at least one")
        with _said(self.path, "cannot be written"):
            self._container.mux(self._stream.encode(None))
            until = self._like.until if self._like is not None else None
            self._copy_packets(float("inf") if until is None else until)
            self._container.close()

    def abandon(self):
        with suppress(Exception):  # the trailer, which may not fit on the disk
            self._container.close()


def _at(packet) -> Fraction:
    return (packet.dts if packet.pts is None else packet.pts) * Fraction(packet.time_base)


def _form(path, frame) -> str:
    kind = getattr(frame, "dtype", None)
    kind = {"uint8": 8, "uint16": 16}.get(getattr(kind, "name", ""))
    shape = getattr(frame, "shape", ())
    if kind is None or len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] != 3):
        raise ShiftsearchError(
            f"{path}: a frame is {getattr(frame, 'dtype', type(frame).__name__)} {tuple(shape)}, expected uint8 or uint16 (H, W) or (H, W, 3)"
        )
    return {(2, 8): "gray", (2, 16): "gray16le", (3, 8): "rgb24", (3, 16): "rgb48le"}[len(shape), kind]
