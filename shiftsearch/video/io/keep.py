"""What a written file keeps of its source besides the frames."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from shiftsearch.video.io.ffmpeg import library
from shiftsearch.video.io.formats import (
    MPEG2_SHAPES,
    NOTE_CHAPTERS,
    NOTE_COLOURS,
    NOTE_MATRIX,
    NOTE_SHAPE,
    NOTE_SITING,
    SITED_LEFT,
    check_held,
)
from shiftsearch.video.io.pixels import RGB
from shiftsearch.video.io.reader import Reader
from shiftsearch.video.io.target import Target

_ORDERS = {2: "tt", 3: "bb", 4: "tb", 5: "bt"}  # of fields: FFmpeg's names by its numbers
_METADATA = ("title", "artist", "date", "comment", "copyright")


def keep_colours(target: Target, like: Reader) -> tuple[int, int]:
    """Store the colour properties of the source, as far as the file can; return the matrix and range that are written.

    These are FFmpeg's numbers; (2, 0) stands for not specified.
    """
    context, source = target.stream.codec_context, like.stream.codec_context
    context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
    if context.pix_fmt.startswith(RGB):
        return 2, 0
    matrix, range_ = like.header.matrix, like.header.range
    if target.y4m is not None and not like.header.format.startswith(RGB):  # samples stay, and the range is noted
        range_ = 2 if like.header.form is not None and like.header.form.full else range_
    elif like.header.format.startswith(RGB) or not (
        target.notes(NOTE_COLOURS | NOTE_MATRIX) or (matrix, range_) == (2, 0)
    ):
        matrix, range_ = 6, 1  # BT.601 and limited range, which players assume if a file stores neither
    elif not target.notes(NOTE_COLOURS) and range_:
        range_ = 1
    if context.pix_fmt.startswith("yuvj"):
        range_ = 2
    context.colorspace, context.color_range = matrix, range_
    return matrix, range_


def keep_places(target: Target, like: Reader) -> list[str]:
    """Store where U and V lie, and the order of fields in Y4M; return what of colours Y4M cannot store."""
    options: dict[str, str] = {}
    siting = like.siting or ("left" if target.y4m is not None and like.header.codec in SITED_LEFT else None)
    if siting is not None and {target.encoder.name, target.kind} & NOTE_SITING:
        options["chroma_sample_location"] = siting
    order = like.stream.codec_context.field_order
    if target.y4m is not None and order in _ORDERS:
        options["field_order"] = _ORDERS[order]
    target.stream.codec_context.options = {**target.stream.codec_context.options, **options}
    told = target.y4m is None or like.header.matrix in (2, 5, 6) or like.header.form is None
    return [] if told else ["which matrix the colours have"]


def keep_shape(target: Target, like: Reader) -> list[str]:
    """Store the shape of pixels; return it as left out if the file cannot store it."""
    shape = like.header.shape
    notes = bool({target.encoder.name, target.kind} & NOTE_SHAPE)
    if target.encoder.name == "mpeg2video":
        notes = shape * target.stream.width / target.stream.height in MPEG2_SHAPES
    if notes:
        target.stream.codec_context.sample_aspect_ratio = shape
        if target.y4m is not None:
            target.y4m.shape = shape
        return []
    return [f"pixels of {shape.numerator}:{shape.denominator}"] if shape != 1 else []


def keep_chapters(target: Target, like: Reader) -> list[str]:
    """Copy the chapters of the frames that are written; return them as left out if the file cannot store chapters."""
    begin = like.begin
    end = float("inf") if like.end is None else begin + (like.end - like.first) / like.rate
    kept = []
    for chapter in like.header.chapters:
        start, stop = (chapter[name] * Fraction(chapter["time_base"]) for name in ("start", "end"))
        if start < end and stop > begin:
            start, stop = (round(1000 * (min(max(at, begin), end) - begin)) for at in (start, stop))
            kept.append({**chapter, "start": start, "end": stop, "time_base": Fraction(1, 1000)})
    if kept and target.kind not in NOTE_CHAPTERS:
        return ["chapters"]
    if kept:
        target.container.set_chapters(kept)
    return []


def keep_streams(target: Target, like: Reader) -> tuple[dict[int, Any], list[str]]:
    """Add streams for sound and subtitles, and copy the title and other metadata.

    Returns the new streams by the index of those of the source, and what is left out.
    """
    copies, left_out = {}, []
    target.container.metadata.update(
        {key: like.header.metadata[key] for key in _METADATA if key in like.header.metadata}
    )
    for other in like.others:
        codec = other.codec_context.codec.canonical_name if other.codec_context is not None else "unknown"
        try:
            check_held(target.kind, codec)
            copy = copies[other.index] = target.container.add_stream_from_template(other)
            copy.metadata.update(other.metadata)
        except (ValueError, library().FFmpegError):
            left_out.append(f"{other.type} ({codec})")
    return copies, left_out
