"""Video files as iterators of frames, and frames as video files: the only module that knows PyAV, and so FFmpeg.

One frame is in memory at a time. What is not looked at is kept: times, colour properties, sound and subtitles.
"""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.files import check_there, cut_off, first_number, numbered, whole
from shiftsearch.video.planes import Form

_RGB = ("rgb", "bgr", "gbr", "pal", "argb", "abgr", "0rgb", "0bgr")
_LAYOUTS = {(2, 8): "gray", (2, 16): "gray16le", (3, 8): "rgb24", (3, 16): "rgb48le"}  # by axes and bits
_WHITE = {8: np.uint8(255), 16: np.uint16(65535)}
# how FFmpeg moves samples from format to format: it takes no means and rounds exactly; in one thread, as some of its code
# writes beyond the ends of rows, where another thread may have been
_EXACT = {"interpolation": 0x10 | 0x40000, "threads": 1}


def read(path, frames=(0, None), *, overlap=0, format=None, progressive=False, salvage=False) -> Reader:
    """The frames of a video file, one by one.

    Files of 8 bits give uint8, deeper ones uint16 at full range: 65535 is white. Colour is RGB, (H, W, 3), grey is
    (H, W); an alpha channel is left out. Frames are upright: what a phone notes as a rotation is done.

    Grey and RGB are the file's to the bit. YUV is computed, U and V repeated where they are coarser, and `write` gets back
    the file's own Y, U and V of all colours that RGB has; those outside of it are clipped. `planes` of what is given are
    the file's own in any case.

    Args:
        path: a file that FFmpeg can read, a picture, or pictures by number as "shot.%04d.png"
        frames: (first, end) of the frames to take, counted from 0; None is the end of the file
        overlap: how many frames before and after those are given too, as far as there are any; `kept` takes them away
        format: FFmpeg's name of what the file is; without it FFmpeg finds that out. A list of other files or addresses
            ("hls", "concat") is only read if it is named, and what it leads to must be files
        progressive: takes frames that are interlaced as whole ones; False refuses them
        salvage: ends the frames where the file is broken, which `broken` tells then; False raises an error there

    Returns:
        Reader, which is iterated once, best in a `with` statement, over frames or over `planes()`. It has `width`,
        `height`, `rate` (frames per second, a fraction), `length` (how many frames, as far as the file says, or None),
        `bits`, `grey`, `damaged` (how many frames the decoder had to patch up so far), `broken` (where the file is, as
        text, or None)

    Example:
        >>> with read("clip.mp4") as clip:  # doctest: +SKIP
        ...     frames = np.stack(list(clip))
    """
    return Reader(path, frames, overlap, format, progressive, salvage)


@contextmanager
def write(path, like=None, *, rate=None, codec=None, crf=None) -> Iterator[Writer]:
    """A video file to write frames to, for a `with` statement. It is there when it is complete, or not at all.

    Args:
        path: its ending says which kind of file it becomes; a file of this name is replaced at the end. Pictures by
            number as "shot.%04d.png" are possible: the number is that of the frame in the source, from 0 on
        like: the Reader that the frames come from. Then times, rate, colour properties, sound, subtitles and, where the
            file can hold it, the codec are as there; frames are written in the order they were read
        rate: frames per second, needed without `like`
        codec: how frames are coded: "h264", "hevc", "vp9", "av1", "prores", "ffv1" (without loss) and others of FFmpeg
        crf: quality of h264, hevc, vp9 and av1: 0 is best; about 20 by default

    Returns:
        Writer with `write(frame)` for frames as `read` gives them, `count` of these, and `left_out`: what the source has
        and this file has not, of sound, subtitles, chapters, alpha and the like

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
        import av.logging
    except ImportError as error:
        raise ShiftsearchError(f'video files need PyAV: pip install "shiftsearch[video]" ({error})') from None
    return av


# kinds of files that lead to others, to addresses or to programs
_LEADING = {
    "applehttp",
    "avisynth",
    "concat",
    "dash",
    "hls",
    "imf",
    "rtp",
    "rtsp",
    "sap",
    "sdp",
    "vapoursynth",
    "vobsub",
}


def _opened_to_read(path, format):
    """A container, from which FFmpeg opens no other file, unless its format is one that leads to others and is named."""
    options = {"protocol_whitelist": "file,pipe"}
    if numbered(path) and not path.exists():
        options["start_number"] = str(first_number(path))
        name = f"{str(path.parent).replace('%', '%%')}/{path.name}"
    else:
        check_there(path)
        name, options["pattern_type"] = path, "none"
    if format is None:
        every = {name for names in _av().formats_available for name in names.split(",")}
        options["format_whitelist"] = ",".join(sorted(every - _LEADING))
    try:
        return _opened(name, format=format, container_options=options)
    except _av().ArgumentError:
        kind = _refused(name, options)
        if kind is None:
            raise
        raise ShiftsearchError(
            f"{path}: is a list of other files or addresses ({kind}), which are not opened, expected a video file; if they "
            f'shall be, --format {kind}, or format="{kind}" in Python'
        ) from None


def _refused(name, options) -> str | None:
    """The format for which FFmpeg did not open a file; only its log tells."""
    log, level = _av().logging, _av().logging.get_level()
    log.set_level(log.ERROR)
    try:
        with log.Capture() as said, suppress(_av().FFmpegError):
            _opened(name, container_options=options).close()
    finally:
        log.set_level(level)
    return next((kind for _, kind, text in said if text.startswith("Format not on whitelist")), None)


def _opened(path, mode="r", **options):
    """A container. Before version 19, PyAV must be told that metadata need not be text."""
    if int(_av().__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    return _av().open(f"file:{path}", mode, **options)


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
        if getattr(error, "errno", None) == errno.EBUSY:  # what some of FFmpeg's functions say of headers
            reason = "Invalid data found when processing input"
        raise ShiftsearchError(f"{path}: {what}: {' '.join(reason.split())}") from None


# --- reading ----------------------------------------------------------------------------------------
class Reader:
    """See `read`."""

    def __init__(self, path, frames, overlap, format, progressive, salvage):
        self.path = Path(path)
        self.first, self.end = _span(frames)
        self.before, self._after = min(overlap, self.first), overlap
        self._salvage, self.broken = salvage, None
        self.damaged = self._count = self._used = 0
        self._torn = False  # whether the last frame may be a part of one
        self.interlaced = 0  # how many frames are, and were taken as whole ones
        self.begin = Fraction(0)  # the time in the file that becomes 0 of what is written
        self.until = None  # when the last frame that is wanted ends
        self.times = deque()  # of frames that were given out and are not written yet
        self.packets = deque()  # of sound and subtitles, not written yet
        self.followed = False  # whether there is somebody who writes those
        with _said(self.path, "cannot be read as a video"):
            self._container = _opened_to_read(self.path, format)
        try:
            self._open()
            self._look(progressive)
        except BaseException:
            self.close()
            raise

    def _open(self):
        container = self._container
        self._covers = [s for s in container.streams.video if s.disposition & s.disposition.attached_pic]
        moving = [s for s in container.streams.video if s not in self._covers]
        if not moving:
            raise ShiftsearchError(f"{self.path}: has no video, expected a video file")
        self.stream = moving[0]
        if self.stream.codec_context is None:
            raise ShiftsearchError(f"{self.path}: its video has a format that FFmpeg does not know")
        self.stream.thread_type = "AUTO"
        self.others = [s for s in container.streams if s.type in ("audio", "subtitle")]
        pictures = container.format.name == "image2" or container.format.name.endswith("_pipe")
        self.number = first_number(self.path) if numbered(self.path) and not self.path.exists() else 0
        self.codec = None if pictures else self.stream.codec_context.codec.canonical_name
        self.metadata = dict(container.metadata)
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.length = self._expected()
        self._packets = container.demux([self.stream, *self.others])
        self._frames = self._decoded()
        self._head = next(self._frames, None)  # says more than the file's header does
        if self._head is None:
            raise ShiftsearchError(f"{self.path}: no frame can be decoded, expected a whole video file")
        form = self._head.format
        self.format = form.name
        self.bits = max(part.bits for part in form.components)
        self.grey = form.name.startswith(("gray", "mono", "ya"))
        context = self.stream.codec_context
        self.matrix = context.colorspace if self._head.colorspace == 2 else self._head.colorspace  # 2: not specified
        self.range = self._head.color_range or context.color_range
        self._turns = round(self._head.rotation / 90) % 4 if self._head.rotation % 90 == 0 else 0
        self.turned = self._turns % 2 == 1  # columns become rows
        size = self._head.width, self._head.height
        self.width, self.height = size[::-1] if self.turned else size
        self.form = _form(form.name, self.matrix, self.range, self.turned)

    def _look(self, progressive: bool):
        """At what frames are beside pixels of equal size and of one time."""
        order = getattr(self.stream.codec_context, "field_order", 0)  # PyAV 18 has it; 2 and more are interlaced
        if (self._head.interlaced_frame or order > 1) and not progressive:
            raise ShiftsearchError(
                f"{self.path}: is interlaced, expected whole frames: deinterlace it first, as with ffmpeg -i in -vf bwdif out, "
                "or take its frames as whole ones with --progressive, progressive=True in Python"
            )
        shape = Fraction(self.stream.sample_aspect_ratio or self.stream.codec_context.sample_aspect_ratio or 1)
        self.shape = 1 / shape if self.turned else shape  # of pixels, width by height
        self.chapters = self._container.chapters()
        self.apart = []  # what comes with frames and is not kept
        if any(part.is_alpha for part in self._head.format.components):
            self.apart.append("alpha")
        with suppress(ValueError):  # PyAV knows not all kinds of what comes with frames, and then tells none
            if _HDR & {part.type.name for part in self._head.side_data}:
                self.apart.append("HDR metadata")
        for stream in self._container.streams:
            if (
                stream is not self.stream
                and stream not in self.others
                and not (stream.type == "data" and self.chapters)
            ):
                self.apart.append("a cover" if stream in self._covers else f"{stream.type} of stream {stream.index}")

    def _expected(self) -> int | None:
        total = self.stream.frames or round((self._container.duration or 0) * self.rate / 1_000_000)
        if not total:
            return None
        return max(0, min(total, self.end if self.end is not None else total) - self.first)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.picture(planes) for planes in self.planes())

    def picture(self, planes) -> np.ndarray:
        """A frame of what `planes` gives."""
        if self.form is None:
            return planes[0]
        white = _WHITE[8 if self.form.bits == 8 else 16]
        picture = np.empty((*planes[0].shape, 3), white.dtype)
        for n, colour in enumerate(self.form.colours(planes)):
            colour *= np.float32(white)
            picture[..., n] = np.rint(np.clip(colour, 0, white, out=colour), out=colour)
        return picture

    def planes(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Frames as the file has them: tuples of one array, grey or RGB, or of (Y, U, V), see `shiftsearch.video.planes`."""
        last = None
        for number, frame in enumerate(self._whole_ones()):
            time = last = self._time(frame, last)
            if number < self.first - self.before:
                continue
            if number >= self.first and (self.end is None or number < self.end):
                self._follow(number, time)
            yield self._planes(frame, number)
            if self.end is not None and number + 1 == self.end + self._after:
                return
        if self.broken and self.until is None:
            self.until = last + 1 / self.rate
        if self._count <= self.first:
            raise ShiftsearchError(f"{self.path}: has {self._count} frames, expected more than {self.first}")

    def kept(self, results) -> Iterator:
        """Of what was made of all frames that were given, one for each, what belongs to those of `frames`."""
        count = None if self.end is None else self.end - self.first
        return islice(results, self.before, None if count is None else self.before + count)

    def _follow(self, number: int, time: Fraction):
        """Notes when a frame is shown that shall be written."""
        if number == self.first and self.first:
            self.begin = time
        if self.followed:
            self.times.append(time)
        if number + 1 == self.end:
            self.until = time + 1 / self.rate

    def _whole_ones(self):
        """All frames; if that is wanted, up to where the file is broken."""
        try:
            yield from chain([self._head], self._frames)
        except ShiftsearchError as error:
            if not self._salvage or self._count <= self.first:
                raise
            self.broken = str(error)

    def _decoded(self):
        """Frames in order, after a look whether the next is there: the last of a file that is cut off may be a part of one."""
        frames, held, error = self._all_decoded(), None, None
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

    def _all_decoded(self):
        """What is broken before the first whole frame is skipped, as recordings begin anywhere."""
        frame = None
        for packet in self._demuxed():
            try:
                with _said(self.path, self._broken()):
                    found = packet.decode()
            except ShiftsearchError:
                if self._count:
                    raise
                continue
            for frame in found:
                self.damaged += frame.is_corrupt
                self.interlaced += frame.interlaced_frame
                self._count += 1
                yield frame
        self._torn = frame is not None and frame.is_corrupt
        if self._torn or (self.path.is_file() and cut_off(self.path, self._used)):  # numbered pictures are no file
            self._torn, self._count = True, max(0, self._count - 1)
            raise ShiftsearchError(f"{self.path}: {self._broken(': its end is missing')}")

    def _demuxed(self):
        """Packets of the video; those of the other streams are put aside."""
        while True:
            with _said(self.path, self._broken()):
                packet = next(self._packets, None)
            if packet is None:
                return
            if packet.is_corrupt and self._count:
                raise ShiftsearchError(f"{self.path}: {self._broken()}")
            if packet.stream is self.stream:
                self._used = max(self._used, (packet.pos or 0) + packet.size)
                yield packet
            elif packet.dts is not None:
                self._put_aside(packet)

    def _broken(self, where: str = "") -> str:
        whole = f"; frames {self.first}:{self._count} can be read" if self._count > self.first else ""
        return f"is broken after {self._count} frames{where}{whole}"

    def _put_aside(self, packet):
        if self.followed or self._count <= 1:  # who writes is there before the third frame is read
            self.packets.append(packet)

    def rest_of_sound(self):
        """Sound comes a little later in a file than the frames that it belongs to."""
        if self.until is None or self.broken or not self.others:
            return
        with suppress(_av().FFmpegError):  # what is broken after those frames does not matter
            for packet in self._packets:
                if packet.dts is None or packet.dts * packet.time_base > self.until + 1:
                    return
                if packet.stream is not self.stream:
                    self._put_aside(packet)

    def _time(self, frame, last) -> Fraction:
        """When a frame is shown; frames follow one another even where a file says otherwise."""
        if frame.pts is None:
            return last + 1 / self.rate if last is not None else Fraction(0)
        time = frame.pts * Fraction(frame.time_base)
        return time if last is None or time > last else last + Fraction(frame.time_base)

    def _planes(self, frame, number: int) -> tuple[np.ndarray, ...]:
        size = self._head.width, self._head.height
        with _said(self.path, f"frame {number} cannot be converted"):
            if self.form is None:
                layout = _LAYOUTS[2 if self.grey else 3, 16 if self.bits > 8 else 8]
                found = [frame.to_ndarray(width=size[0], height=size[1], format=layout, **_EXACT)]
            else:
                if (frame.width, frame.height, frame.format.name) != (*size, self.format) or not _PLANAR(self.format):
                    name = _form(self.format, self.matrix, self.range).name
                    frame = frame.reformat(*size, name, **_EXACT)
                found = [self.form.plane(samples) for samples in _samples(frame, self.form)]
        return tuple(np.rot90(array, self._turns).copy() for array in found)  # not in the decoder's memory

    def close(self):
        self._container.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


_PLANAR = re.compile(r"yuv[aj]?4\d\dp(\d+le)?").fullmatch  # each plane is an array of its own, alpha the last


def _form(name: str, matrix: int, range_: int, turned: bool = False) -> Form | None:
    """How a pixel format of FFmpeg has YUV, if it has."""
    known = _av().VideoFormat(name, 16, 16)
    if known.is_rgb or known.has_palette or len(known.components) < 3:
        return None
    down, across = (16 // n for n in (known.components[1].height, known.components[1].width))
    bits = max(part.bits for part in known.components)
    full = range_ == 2 or name.startswith("yuvj")
    return Form.of(min(bits, 16), *((across, down) if turned else (down, across)), int(matrix), full)


def _samples(frame, form: Form) -> list[np.ndarray]:
    """Y, U and V of a frame as arrays, on the same memory."""
    kind = np.uint8 if form.bits == 8 else np.uint16
    planes = list(frame.planes)[:3]
    return [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in planes]


def _span(frames) -> tuple[int, int | None]:
    first, end = frames
    if first < 0 or (end is not None and end <= first):
        raise ShiftsearchError(f"frames are {first}:{'' if end is None else end}, expected first < end, counted from 0")
    return first, end


_HDR = {
    "MASTERING_DISPLAY_METADATA",
    "CONTENT_LIGHT_LEVEL",
    "DYNAMIC_HDR_PLUS",
    "DYNAMIC_HDR_VIVID",
    "DOVI_METADATA",
    "DOVI_RPU_BUFFER",
}


# --- writing ----------------------------------------------------------------------------------------
_CRF = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24, "libvpx": 8}  # hardly visible losses
_WORST = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63, "libvpx": 63}
_NOTE_COLOURS = {"libx264", "libx265", "libvpx-vp9", "libsvtav1", "matroska", "webm"}  # codecs and kinds of files
_NOTE_MATRIX = {"mpeg2video", "prores", "prores_ks", "dnxhd"}  # but not the range
_HELD = {  # what can be read again from kinds of files of which FFmpeg does not know that, the usual codec first
    "mpegts": "h264 hevc mpeg2video mpeg1video mpeg4 aac aac_latm ac3 eac3 dts truehd mp2 mp3 opus pcm_bluray s302m "
    "dvb_subtitle dvb_teletext hdmv_pgs_subtitle",
    "mpeg": "mpeg2video mpeg1video mp2 mp3 ac3 dts pcm_dvd dvd_subtitle",
    "mxf": "mpeg2video prores dnxhd pcm_s16le pcm_s24le",
    "ogg": "vp8 theora vorbis opus flac speex",
    "yuv4mpegpipe": "rawvideo wrapped_avframe",
}
_HELD |= dict.fromkeys(("vob", "svcd", "dvd", "vcd"), _HELD["mpeg"]) | {"ogv": _HELD["ogg"]}
_UNHELD = {("flv", "mpeg4")}  # what FFmpeg wrongly thinks could be
_UNHELD |= {("mov", codec) for codec in ("vp8", "vp9", "av1", "rawvideo", "opus", "flac", "truehd")}
_USUAL = {"flv": "h264", "3gp": "h264"}  # better than what FFmpeg thinks usual
_SCALED = {"mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "msmpeg4", "wmv2", "flv"}  # their quality is a number 1..31
_EVEN = {"libx264", "libx265", "libsvtav1"}  # take no odd sizes with coarser colour planes
_STEADY = {"mpeg1video", "mpeg2video", "mpeg4"}  # know few time scales, so that frames are counted
_PICTURES = {"jpg": "mjpeg", "jpeg": "mjpeg", "tif": "tiff"}  # codecs that have another name than their files
_NOTE_SHAPE = {"libx264", "libx265", "mpeg4", "mpeg2video", "mov"}  # codecs and kinds of files that keep pixels' shape
_MPEG2_SHAPES = {Fraction(4, 3), Fraction(16, 9), Fraction(221, 100)}  # of whole frames, to which it would round
_NOTE_CHAPTERS = {"matroska", "webm", "mov", "mp4", "ipod"}
_METADATA = ("title", "artist", "date", "comment", "copyright")


class Writer:
    """See `write`."""

    def __init__(self, path, part: Path, like: Reader | None, rate, codec: str | None, crf: int | None):
        self.path, self._like = Path(path), like
        self._rate = Fraction(rate) if like is None else like.rate
        self.left_out: list[str] = []
        self.count, self._last = 0, float("-inf")
        self._single = not numbered(part)  # for pictures: there is one, its name has no number
        first = like.number + like.first if like is not None else 0
        options = {"update": "1"} if self._single else {"start_number": str(first)}
        options["strict"] = "-1"  # for Y4M of more than 8 bits
        try:
            self._container = _opened(part, "w", container_options=options)
        except ValueError:
            raise ShiftsearchError(
                f'{path}: FFmpeg knows no such kind of file, expected a name as "{part.stem}.mp4"'
            ) from None
        self._single = self._single and self._container.format.name == "image2"
        self._encoder, self._stream = self._chosen(codec, crf)  # before the first frame is computed
        if like is not None:
            like.followed = True

    def _chosen(self, codec: str | None, crf: int | None):
        """The encoder that is wanted, or else that of the source, or else what is usual for this kind of file."""
        if self._container.default_video_codec in ("none", "png"):  # sound with a cover
            raise ShiftsearchError(
                f'{self.path}: such a file holds no video, expected a name as "{self.path.stem}.mp4"'
            )
        if codec is not None:
            wanted = [codec]
        elif self._container.format.name == "image2":
            ending = self.path.suffix[1:].lower()
            wanted = [_PICTURES.get(ending, ending)]
        else:
            kind = self._container.format.name
            usual = _USUAL.get(kind) or _HELD.get(kind, self._container.default_video_codec).split()[0]
            wanted = [self._like.codec if self._like is not None else None, usual]
            wanted = [name for name in wanted if name is not None]
        reasons = []
        for name in wanted:
            try:
                encoder = _av().Codec(name, "w")
                if encoder.type != "video":
                    raise ValueError(f"{name} is for {encoder.type}")
                self._check_held(encoder.canonical_name)
                stream = self._container.add_stream(encoder.name, rate=self._rate)
            except _av().codec.codec.UnknownCodecError:
                reasons.append(f"there is no encoder {name}")
            except ValueError as error:
                reasons.append(str(error))
            else:
                stream.codec_context.options = _options(self.path, encoder.name, crf)
                return encoder, stream
        raise ShiftsearchError(
            f"{self.path}: {' and '.join(reasons)}, expected another codec, as h264 or ffv1, or another kind of file"
        )

    def _notes(self, what: set[str]) -> bool:
        fixed = self._encoder.name in ("libvpx", "mjpeg")  # VP8 and JPEG know one kind of colours only
        return not fixed and (self._encoder.name in what or self._container.format.name in what)

    def _check_held(self, codec: str):
        """That what is written can be read again, where FFmpeg does not see to that."""
        kind = self._container.format.name
        if (kind, codec) in _UNHELD or (kind in _HELD and codec not in _HELD[kind].split()):
            raise ValueError(f"such a file cannot hold {codec}")

    def write(self, frame) -> None:
        """Adds a frame: uint8 or uint16, (H, W) or (H, W, 3), as `read` gives them; or a tuple, as `like.planes()` does."""
        planes = frame if isinstance(frame, tuple) else (frame,)
        form = _layout(self.path, planes[0] if planes else frame)
        if len(planes) > 1:
            self._check_planes(planes)
        size = planes[0].shape[1], planes[0].shape[0]
        if not self.count:
            self._start(*size, form)
        elif self._single:
            raise ShiftsearchError(f'{self.path}: is one picture, expected a video, or a name as "name.%04d.png"')
        elif size != (self._stream.width, self._stream.height):
            raise ShiftsearchError(
                f"{self.path}: frame {self.count} is {size[0]} x {size[1]}, expected "
                f"{self._stream.width} x {self._stream.height} as frame 0"
            )
        with _said(self.path, "cannot be written"):
            picture = self._picture(planes)
            time = self._like.times.popleft() if self._like is not None else self.count / self._rate
            begin = self._like.begin if self._like is not None else 0
            self._last = max(
                self._last + 1, round((time - begin) / self._tick)
            )  # where ticks are too coarse, it counts on
            picture.time_base, picture.pts = self._tick, self._last
            self._container.mux(self._stream.encode(picture))
            self._copy_packets(time)
        self.count += 1

    def _check_planes(self, planes):
        form = self._like.form if self._like is not None else None
        found = [(getattr(plane, "shape", None), getattr(plane, "dtype", None)) for plane in planes]
        if form is None or found != form.kinds(planes[0].shape):
            raise ShiftsearchError(
                f"{self.path}: a frame is a tuple of {len(planes)}, expected one like those of like.planes()"
            )

    def _picture(self, planes):
        """What is encoded: the samples of planes that are as the file has them, or else those of their colours."""
        source = self._like.form if self._like is not None else None
        form, name = self._form, self._stream.pix_fmt
        if form is None:
            array = planes[0] if len(planes) == 1 else self._like.picture(planes)
            if array.dtype == np.uint16 and all(part.bits <= 8 for part in _av().VideoFormat(name).components):
                array = np.rint(array / np.float32(257)).astype(np.uint8)  # FFmpeg would divide by 256
            picture = _av().VideoFrame.from_ndarray(np.ascontiguousarray(array), format=_layout(self.path, array))
            return picture.reformat(format=name, **_EXACT)
        if len(planes) == 1:
            colours = np.moveaxis(planes[0], -1, 0) if planes[0].ndim == 3 else planes * 3
            planes = form.planes([colour / np.float32(np.iinfo(colour.dtype).max) for colour in colours])
        elif form != source:
            planes = form.planes(source.colours(planes))
        picture = _av().VideoFrame(*planes[0].shape[::-1], form.name)
        picture.colorspace, picture.color_range = self._matrix, self._range
        for samples, plane in zip(_samples(picture, form), planes, strict=True):
            samples[...] = form.samples(plane)
        return picture.reformat(format=name, dst_color_range=self._range, **_EXACT)

    def _start(self, width: int, height: int, form: str):
        stream, context = self._stream, self._stream.codec_context
        stream.width, stream.height = width, height
        stream.pix_fmt = self._pixels(width, height, form)
        varies = int(self._container.format.flags) & _av().format.Flags.variable_fps.value
        counted = self._like is None or not varies or self._encoder.name in _STEADY
        self._tick = 1 / self._rate if counted else Fraction(self._like.stream.time_base)
        context.time_base = self._tick
        self._matrix, self._range = 2, 0  # not specified: what FFmpeg takes then
        self._copies = {}
        if self._like is not None:
            self._start_like(self._like)
        if self._encoder.name == "dnxhd":  # these profiles take any size; and no matrix means BT.709 there
            profiles = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx"}
            context.options = {"profile": profiles.get(stream.pix_fmt, "dnxhr_444")}
            self._matrix = context.colorspace = 1 if self._matrix == 2 else self._matrix
        with _said(self.path, f"{self._encoder.name} cannot write {width} x {height} pixels as {stream.pix_fmt} here"):
            self._container.start_encoding()
        self._form = _form(stream.pix_fmt, self._matrix, self._range)

    def _start_like(self, like: Reader):
        """What is kept: colour properties, the shape of pixels, a title, sound and subtitles."""
        context, source = self._stream.codec_context, like.stream.codec_context
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        if not context.pix_fmt.startswith(_RGB):
            matrix, range_ = like.matrix, like.range
            if like.format.startswith(_RGB) or not (
                self._notes(_NOTE_COLOURS | _NOTE_MATRIX) or (matrix, range_) == (2, 0)
            ):
                matrix, range_ = 6, 1  # BT.601 and not the full range: what is expected if nothing is noted
            elif not self._notes(_NOTE_COLOURS) and range_:
                range_ = 1
            if context.pix_fmt.startswith("yuvj"):
                range_ = 2
            self._matrix, self._range = context.colorspace, context.color_range = matrix, range_
        self.left_out += like.apart
        self._keep_shape(like.shape)
        self._keep_chapters(like)
        self._container.metadata.update({key: like.metadata[key] for key in _METADATA if key in like.metadata})
        for other in like.others:
            codec = other.codec_context.codec.canonical_name if other.codec_context is not None else "unknown"
            try:
                self._check_held(codec)
                copy = self._copies[other.index] = self._container.add_stream_from_template(other)
                copy.metadata.update(other.metadata)
            except (ValueError, _av().FFmpegError):
                self.left_out.append(f"{other.type} ({codec})")

    def _keep_shape(self, shape: Fraction):
        """Of pixels, width by height."""
        notes = bool({self._encoder.name, self._container.format.name} & _NOTE_SHAPE)
        if self._encoder.name == "mpeg2video":
            notes = shape * self._stream.width / self._stream.height in _MPEG2_SHAPES
        if notes:
            self._stream.codec_context.sample_aspect_ratio = shape
        elif shape != 1:
            self.left_out.append(f"pixels of {shape.numerator}:{shape.denominator}")

    def _keep_chapters(self, like: Reader):
        """Those that begin while frames are shown."""
        begin = like.begin
        end = float("inf") if like.end is None else begin + (like.end - like.first) / like.rate
        kept = []
        for chapter in like.chapters:
            start, stop = (chapter[name] * Fraction(chapter["time_base"]) for name in ("start", "end"))
            if start < end and stop > begin:
                start, stop = (round(1000 * (min(max(at, begin), end) - begin)) for at in (start, stop))
                kept.append({**chapter, "start": start, "end": stop, "time_base": Fraction(1, 1000)})
        if kept and self._container.format.name in _NOTE_CHAPTERS:
            self._container.set_chapters(kept)
        elif kept:
            self.left_out.append("chapters")

    def _pixels(self, width: int, height: int, form: str) -> str:
        """The pixel format: that of the source if the encoder takes it, or else the nearest to it."""
        like = self._like if self._like is not None and (form.startswith("gray") or not self._like.grey) else None
        wanted, deep = (form, form.endswith("le")) if like is None else (like.format, like.bits > 8)
        offered = [offer.name for offer in self._encoder.video_formats or ()]
        if self._encoder.name == "mjpeg":
            offered = [name for name in offered if name.startswith("yuvj")]
        elif not self._notes(_NOTE_COLOURS):
            wanted = wanted.replace("yuvj", "yuv")
        if wanted.startswith(_RGB) and self._container.format.name == "yuv4mpegpipe":
            wanted = "yuv444p16le" if deep else "yuv444p"
        if wanted not in offered and wanted.startswith(_RGB) and self._encoder.lossy:
            plain = "yuv420p10le" if deep else "yuv420p"  # what every player shows
            wanted = plain if plain in offered else wanted
        if self._encoder.name in _EVEN and (width % 2 or height % 2):
            offered = [name for name in offered if "444" in name or name.startswith(("gray", *_RGB))] or offered
        if wanted in offered or not offered:
            return wanted
        nearest, _ = _av().codec.codec.find_best_pix_fmt_of_list(offered, wanted)
        return nearest.name if nearest is not None else offered[0]

    def _copy_packets(self, end):
        """Sound and subtitles up to a time of the source."""
        like = self._like
        while like is not None and like.packets and _at(like.packets[0]) < end:
            packet = like.packets.popleft()
            stream = self._copies.get(packet.stream.index)
            if stream is None or (like.first and _at(packet) < like.begin):
                continue
            shift = round(like.begin / packet.time_base)
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = stream
            self._container.mux(packet)

    def finish(self):
        """Writes what the encoder still holds, and the rest of the sound."""
        if not self.count:
            raise ShiftsearchError(f"{self.path}: no frame was written, expected at least one")
        with _said(self.path, "cannot be written"):
            rest = self._stream.encode(None)
            for packet in rest if self.count <= 2 else ():  # so few are in order, and libx265 gives them any dts
                packet.dts = packet.pts
            self._container.mux(rest)
            until = self._like.until if self._like is not None else None
            if self._like is not None:
                self._like.rest_of_sound()
            self._copy_packets(float("inf") if until is None else until)
            self._container.close()

    def abandon(self):
        with suppress(Exception):  # the trailer, which may not fit on the disk
            self._container.close()


def _options(path, encoder: str, crf: int | None) -> dict[str, str]:
    if crf is not None and encoder not in _CRF:
        raise ShiftsearchError(f"{path}: {encoder} has no crf, expected one of {', '.join(_CRF)}, or no crf")
    if crf is not None and not 0 <= crf <= _WORST[encoder]:
        raise ShiftsearchError(f"{path}: crf is {crf}, expected 0 to {_WORST[encoder]} for {encoder}")
    os.environ.setdefault("SVT_LOG", "1")  # or libsvtav1 prints its settings
    options = {"x265-params": "log-level=error"} if encoder == "libx265" else {}
    if encoder in _CRF:
        options["crf"] = str(_CRF[encoder] if crf is None else crf)
    if encoder.startswith("libvpx"):
        options["b"] = "0" if encoder == "libvpx-vp9" else "100M"  # quality decides alone
    if encoder in _SCALED:
        options |= {"flags": "+qscale", "global_quality": str(2 * 118)}  # 118 is FFmpeg's unit
    return options


def _at(packet) -> Fraction:
    return (packet.dts if packet.pts is None else packet.pts) * Fraction(packet.time_base)


def _layout(path, frame) -> str:
    kind = getattr(frame, "dtype", None)
    kind = {"uint8": 8, "uint16": 16}.get(getattr(kind, "name", ""))
    shape = getattr(frame, "shape", ())
    if kind is None or len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] != 3):
        raise ShiftsearchError(
            f"{path}: a frame is {getattr(frame, 'dtype', type(frame).__name__)} {tuple(shape)}, "
            "expected uint8 or uint16 (H, W) or (H, W, 3)"
        )
    return _LAYOUTS[len(shape), kind]
