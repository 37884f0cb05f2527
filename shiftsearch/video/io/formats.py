"""Facts about kinds of files and codecs that FFmpeg does not report, or reports wrongly."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

from shiftsearch.errors import ShiftsearchError

_CRF = {"libx264": 18, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24, "libvpx": 8}  # losses are hardly visible
_WORST = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63, "libvpx": 63}
_SCALED = {"mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "msmpeg4", "wmv2", "flv"}  # their quality is a number 1..31

# codecs that can be read again from kinds of files for which FFmpeg has no list, the usual one first
_HELD = {
    "mpegts": "h264 hevc mpeg2video mpeg1video mpeg4 aac aac_latm ac3 eac3 dts truehd mp2 mp3 opus pcm_bluray s302m "
    "dvb_subtitle dvb_teletext hdmv_pgs_subtitle",
    "mpeg": "mpeg2video mpeg1video mp2 mp3 ac3 dts pcm_dvd dvd_subtitle",
    "mxf": "mpeg2video prores dnxhd pcm_s16le pcm_s24le",
    "ogg": "vp8 theora vorbis opus flac speex",
    "yuv4mpegpipe": "rawvideo wrapped_avframe",
}
_HELD |= dict.fromkeys(("vob", "svcd", "dvd", "vcd"), _HELD["mpeg"]) | {"ogv": _HELD["ogg"]}
_UNHELD = {("flv", "mpeg4")}  # pairs that FFmpeg wrongly accepts
_UNHELD |= {("mov", codec) for codec in ("vp8", "vp9", "av1", "rawvideo", "opus", "flac", "truehd")}
_USUAL = {"flv": "h264", "3gp": "h264"}  # better than FFmpeg's defaults
_PICTURES = {"jpg": "mjpeg", "jpeg": "mjpeg", "tif": "tiff"}  # codecs that have another name than their files

# names of codecs and of kinds of files
NOTE_COLOURS = {"libx264", "libx265", "libvpx-vp9", "libsvtav1", "matroska", "webm"}
NOTE_MATRIX = {"mpeg2video", "prores", "prores_ks", "dnxhd"}  # but not the range
NOTE_SHAPE = {"libx264", "libx265", "mpeg4", "mpeg2video", "mov", "yuv4mpegpipe"}  # of pixels
NOTE_CHAPTERS = {"matroska", "webm", "mov", "mp4", "ipod"}
MPEG2_SHAPES = {Fraction(4, 3), Fraction(16, 9), Fraction(221, 100)}  # the encoder would round other shapes to these
NOTE_SITING = {"libx264", "libx265", "yuv4mpegpipe"}  # where U and V lie
SITED_LEFT = {"h264", "hevc", "mpeg2video", "mpeg4"}  # where U and V lie unless the file says otherwise, in 4:2:0
Y4M_FORMATS = ["gray", "yuv411p", "yuv420p", "yuv422p", "yuv444p"]
Y4M_FORMATS += [f"yuv{each}p{bits}le" for each in (420, 422, 444) for bits in (9, 10, 12, 14, 16)]
Y4M_FORMATS += [f"gray{bits}le" for bits in (9, 10, 12, 16)]
EVEN = {"libx264", "libx265", "libsvtav1"}  # take no odd sizes with coarser colour planes
STEADY = {"mpeg1video", "mpeg2video", "mpeg4"}  # know few time scales, so frames are counted


def check_held(kind: str, codec: str) -> None:
    """Raise ValueError unless this codec can be read again from this kind of file."""
    if (kind, codec) in _UNHELD or (kind in _HELD and codec not in _HELD[kind].split()):
        raise ValueError(f"such a file cannot hold {codec}")


def usual_codec(container: Any) -> str:
    """Return the codec that a kind of file usually has."""
    kind = container.format.name
    return _USUAL.get(kind) or _HELD.get(kind, container.default_video_codec).split()[0]


def picture_codec(ending: str) -> str:
    """Return the codec of pictures in files with this ending."""
    return _PICTURES.get(ending, ending)


def options_of(path: Any, encoder: str, crf: int | None) -> dict[str, str]:
    """Return the options of an encoder for this quality, or raise an error if it has none such."""
    if crf is not None and encoder not in _CRF:
        raise ShiftsearchError(f"{path}: {encoder} has no crf, expected one of {', '.join(_CRF)}, or no crf")
    if crf is not None and not 0 <= crf <= _WORST[encoder]:
        raise ShiftsearchError(f"{path}: crf is {crf}, expected 0 to {_WORST[encoder]} for {encoder}")
    os.environ.setdefault("SVT_LOG", "1")  # or libsvtav1 prints its settings
    options = {"x265-params": "log-level=error"} if encoder == "libx265" else {}
    if encoder in _CRF:
        options["crf"] = str(_CRF[encoder] if crf is None else crf)
    if encoder.startswith("libvpx"):
        options["b"] = "0" if encoder == "libvpx-vp9" else "100M"  # no limit of the rate: quality decides alone
    if encoder in _SCALED:
        options |= {"flags": "+qscale", "global_quality": str(2 * 118)}  # 118 is FFmpeg's unit
    return options
