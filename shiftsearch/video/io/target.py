"""The file to be written: its kind, encoder and pixel format."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.ffmpeg import library, opened
from shiftsearch.video.io.formats import (
    EVEN,
    NOTE_COLOURS,
    Y4M_FORMATS,
    check_held,
    options_of,
    picture_codec,
    usual_codec,
)
from shiftsearch.video.io.header import Header
from shiftsearch.video.io.names import numbered
from shiftsearch.video.io.pipes import Y4M, Output
from shiftsearch.video.io.pixels import RGB


class Target:
    """A container with an encoder and a stream of video."""

    path: Path
    container: Any  # PyAV's, as are the encoder and the stream
    encoder: Any
    stream: Any
    kind: str  # FFmpeg's name of the kind of file
    single: bool  # whether the file is one picture
    y4m: Output | None = None  # what is written to, for Y4M

    def __init__(
        self,
        path: str | Path,
        part: Path | Output,
        header: Header | None,
        first: int,
        rate: Fraction,
        codec: str | None,
        crf: int | None,
    ):
        self.path, self._header = Path(path), header
        if isinstance(part, Output):
            self.y4m = part
            alone, options = True, {"strict": "-1"}  # for more than 8 bits
            self.container = opened(part, "w", format=Y4M, container_options=options)
        else:
            alone = not numbered(part)  # for pictures: write a single one, whose name has no number
            options = {"update": "1"} if alone else {"start_number": str(first)}
            try:
                self.container = opened(part, "w", container_options=options)
            except ValueError:
                raise ShiftsearchError(
                    f'{path}: FFmpeg does not know this kind of file, expected a name such as "{part.stem}.mp4"'
                ) from None
        self.kind = self.container.format.name
        self.single = alone and self.kind == "image2"
        self.encoder, self.stream = self._chosen(rate, codec, crf)

    def _chosen(self, rate: Fraction, codec: str | None, crf: int | None) -> tuple[Any, Any]:
        """Return the first of the wanted encoders that works, and its stream."""
        if self.container.default_video_codec in ("none", "png"):  # sound with a cover
            raise ShiftsearchError(
                f'{self.path}: this kind of file holds no video, expected a name such as "{self.path.stem}.mp4"'
            )
        reasons = []
        for name in self._wanted(codec):
            try:
                encoder = library().Codec(name, "w")
                if encoder.type != "video":
                    raise ValueError(f"{name} is for {encoder.type}")
                check_held(self.kind, encoder.canonical_name)
                stream = self.container.add_stream(encoder.name, rate=rate)
            except library().codec.codec.UnknownCodecError:
                reasons.append(f"there is no encoder {name}")
            except ValueError as error:
                reasons.append(str(error))
            else:
                stream.codec_context.options = options_of(self.path, encoder.name, crf)
                return encoder, stream
        raise ShiftsearchError(
            f"{self.path}: {' and '.join(reasons)}, expected another codec, such as h264, or another kind of file"
        )

    def _wanted(self, codec: str | None) -> list[str]:
        """Return the wanted codec, or else that of the source and the usual one for this kind of file."""
        if codec is not None:
            return [codec]
        if self.kind == "image2":
            return [picture_codec(self.path.suffix[1:].lower())]
        of_source = self._header.codec if self._header is not None else None
        return [name for name in (of_source, usual_codec(self.container)) if name is not None]

    def notes(self, names: set[str]) -> bool:
        """Return whether the codec or the kind of file is among these."""
        fixed = self.encoder.name in ("libvpx", "mjpeg")  # VP8 and JPEG have only one kind of colours
        return not fixed and (self.encoder.name in names or self.kind in names)

    def pixels(self, width: int, height: int, form: str) -> str:
        """Return the pixel format: that of the source if the encoder takes it, or else the nearest to it.

        `form` is the format of the frames that are written. It decides if there is no source, or the source is grey
        and these are not.
        """
        header = self._header
        if header is None or (header.grey and not form.startswith("gray")):
            wanted, deep = form, form.endswith("le")
        else:
            wanted, deep = header.format, header.bits > 8
        offered = [offer.name for offer in self.encoder.video_formats or ()] if self.y4m is None else Y4M_FORMATS
        if self.encoder.name == "mjpeg":
            offered = [name for name in offered if name.startswith("yuvj")]
        elif not self.notes(NOTE_COLOURS):
            wanted = wanted.replace("yuvj", "yuv")
        if wanted.startswith(RGB) and self.y4m is not None:
            wanted = "yuv444p16le" if deep else "yuv444p"
        if wanted not in offered and wanted.startswith(RGB) and self.encoder.lossy:
            plain = "yuv420p10le" if deep else "yuv420p"  # which every player can show
            wanted = plain if plain in offered else wanted
        if self.encoder.name in EVEN and (width % 2 or height % 2):
            offered = [name for name in offered if "444" in name or name.startswith(("gray", *RGB))] or offered
        if wanted in offered or not offered:
            return wanted
        nearest, _ = library().codec.codec.find_best_pix_fmt_of_list(offered, wanted)
        return nearest.name if nearest is not None else offered[0]
