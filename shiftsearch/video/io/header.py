"""The header of a video file, and what its first frame adds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.names import first_number, numbered
from shiftsearch.video.io.pixels import form_of
from shiftsearch.video.io.yuv import Form

_HDR = {
    "MASTERING_DISPLAY_METADATA",
    "CONTENT_LIGHT_LEVEL",
    "DYNAMIC_HDR_PLUS",
    "DYNAMIC_HDR_VIVID",
    "DOVI_METADATA",
    "DOVI_RPU_BUFFER",
}


class Tracks(NamedTuple):
    """The streams of a container."""

    video: Any
    others: list[Any]  # sound and subtitles
    covers: list[Any]

    @classmethod
    def of(cls, path: Path, container: Any) -> Tracks:
        """Find the streams, or raise an error if there is no video."""
        covers = [s for s in container.streams.video if s.disposition & s.disposition.attached_pic]
        moving = [s for s in container.streams.video if s not in covers]
        if not moving:
            raise ShiftsearchError(f"{path}: has no video, expected a video file")
        if moving[0].codec_context is None:
            raise ShiftsearchError(f"{path}: its video has a format that FFmpeg does not know")
        moving[0].thread_type = "AUTO"
        return cls(moving[0], [s for s in container.streams if s.type in ("audio", "subtitle")], covers)


@dataclass(frozen=True)
class Header:
    """The properties of a video that are known before its frames are read."""

    number: int  # of the first picture, if the file is pictures by number
    codec: str | None  # None for pictures
    metadata: dict[str, str]
    rate: Fraction
    chapters: list[Any]
    format: str  # FFmpeg's name of the pixel format
    bits: int
    grey: bool
    matrix: int  # FFmpeg's number
    range: int  # FFmpeg's number: 2 is the full range
    turns: int  # quarter turns that make frames upright
    shape: Fraction  # of upright pixels, width by height
    form: Form | None  # how upright samples of YUV are to be read
    apart: list[str]  # data that comes with the frames and cannot be kept

    @classmethod
    def of(cls, path: Path, container: Any, tracks: Tracks, head: Any) -> Header:
        """Read it from a container and its first frame."""
        stream, context, form = tracks.video, tracks.video.codec_context, head.format
        pictures = container.format.name == "image2" or container.format.name.endswith("_pipe")
        matrix = context.colorspace if head.colorspace == 2 else head.colorspace  # 2: not specified
        range_ = head.color_range or context.color_range
        turns = round(head.rotation / 90) % 4 if head.rotation % 90 == 0 else 0
        shape = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        chapters = container.chapters()
        return cls(
            number=first_number(path) if numbered(path) and not path.exists() else 0,
            codec=None if pictures else context.codec.canonical_name,
            metadata=dict(container.metadata),
            rate=Fraction(stream.average_rate or stream.guessed_rate or 25),
            chapters=chapters,
            format=form.name,
            bits=max(part.bits for part in form.components),
            grey=form.name.startswith(("gray", "mono", "ya")),
            matrix=matrix,
            range=range_,
            turns=turns,
            shape=1 / shape if turns % 2 else shape,
            form=form_of(form.name, matrix, range_, turns % 2 == 1),
            apart=_apart(container, tracks, head, bool(chapters)),
        )


def _apart(container: Any, tracks: Tracks, head: Any, chapters: bool) -> list[str]:
    found = []
    if any(part.is_alpha for part in head.format.components):
        found.append("alpha")
    with suppress(ValueError):  # raised if PyAV does not know one kind of the data that comes with the frame
        if _HDR & {getattr(part, "type", part).name for part in head.side_data}:  # PyAV 19 goes through the types
            found.append("HDR metadata")
    for stream in container.streams:
        kept = stream is tracks.video or stream in tracks.others or (stream.type == "data" and chapters)
        if not kept:
            found.append("a cover" if stream in tracks.covers else f"{stream.type} of stream {stream.index}")
    return found


def check_progressive(path: Path, tracks: Tracks, head: Any) -> None:
    """Raise an error if frames are interlaced."""
    order = tracks.video.codec_context.field_order  # 2 and more are interlaced
    if head.interlaced_frame or order > 1:
        raise ShiftsearchError(
            f"{path}: is interlaced, expected progressive frames: deinterlace it first, for example with ffmpeg -i in "
            "-vf bwdif out, or take each frame as a whole with --progressive (progressive=True in Python)"
        )
