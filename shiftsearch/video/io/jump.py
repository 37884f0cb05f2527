"""Where to begin to decode so that some frame of a file comes soon: at a key frame whose number is known.

The number of a key frame is how many packets come before it, and how many of those after it are shown before it. Packets are
counted by the index of an MP4, or by reading them without decoding. Both may be wrong about a file, so whoever begins
there checks what comes out, and decodes from the start if it is not as told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.io.ffmpeg import library, opened_to_read, told
from shiftsearch.video.io.header import Tracks

_EACH_A_FRAME = {"h264", "hevc", "av1", "vp9", "mpeg1video", "mpeg2video", "ffv1"}  # whose packets are each a frame
_ORDERED = 32  # packets after which the order in which frames are shown is settled; H.264 and HEVC need 16
_TRIES = 3


class Jump(NamedTuple):
    """A place in a file from which frames can be decoded."""

    number: int  # of its first frame
    pts: int  # of that frame, which is a key frame
    packets: Iterator[Any]  # from there on


class _Packet(NamedTuple):
    """What is known of a packet of video without decoding it."""

    dts: int | None  # Matroska has none at the beginning
    pts: int | None  # the index of MP4 has none
    key: bool
    heard: float = float("-inf")  # until when sound and subtitles came before it in the file, in seconds


def jump(path: Path, format: str | None, container: Any, tracks: Tracks, wanted: int) -> Jump | None:
    """Move the container to the last key frame from which frame `wanted` can be decoded; None if there is no such way."""
    codec = tracks.video.codec_context.codec
    if not (codec.intra_only or codec.canonical_name in _EACH_A_FRAME) or not tracks.video.time_base:
        return None
    try:
        packets = _indexed(container, tracks.video) or _counted(path, format, wanted + _ORDERED)
    except (ShiftsearchError, library().FFmpegError, TypeError, ValueError):  # broken, or without times: decoding tells
        return None
    if not packets or not packets[0].key:
        return None
    time = _time(packets, wanted, tracks.video.time_base)
    keys = [n for n, packet in enumerate(packets[: wanted + 1]) if packet.key and packet.heard < time]
    for number in keys[: -_TRIES - 1 : -1]:
        found = _landed(container, tracks, packets[number], number)
        if found is not None and found.number <= wanted:
            return found
    return None


def _indexed(container: Any, video: Any) -> list[_Packet]:
    """Return the packets by the index of an MP4 or MOV, nothing if it has none of all packets."""
    entries = getattr(video, "index_entries", ())
    if "mp4" not in container.format.name or not entries or len(entries) != video.frames:
        return []
    container.seek(entries[0].timestamp, stream=video)
    begin = list(islice(container.demux(video), _ORDERED))
    if any(packet.is_discard for packet in begin) or any(p.pts < begin[0].pts for p in begin if p.size):
        return []
    return [_Packet(entry.timestamp, None, entry.is_keyframe) for entry in entries]


def _counted(path: Path, format: str | None, count: int) -> list[_Packet]:
    """Return the first packets of a file, nothing if any of them is not plain."""
    packets: list[_Packet] = []
    with told(path, "cannot be read"), opened_to_read(path, format) as container:
        tracks = Tracks.of(path, container)
        heard = float("-inf")
        for packet in container.demux([tracks.video, *tracks.others]):
            if packet.stream is not tracks.video:
                heard = max(heard, float((packet.dts or 0) * packet.time_base))
                continue
            if packet.pts is None and not packet.size:  # the end
                break
            if packet.pts is None or packet.is_corrupt or packet.is_discard:
                return []
            packets.append(_Packet(packet.dts, packet.pts, packet.is_keyframe, heard))
            if len(packets) == count:
                break
    times: list[Any] = [packet.pts for packet in packets]
    return packets if len(set(times)) == len(times) and not any(time < times[0] for time in times) else []


def _time(packets: list[_Packet], wanted: int, base: Any) -> float:
    """Return when frame `wanted` is shown, in seconds; infinity if the packets do not tell."""
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    return float(times[wanted] * base) if wanted < len(times) else float("inf")


def _landed(container: Any, tracks: Tracks, key: _Packet, before: int) -> Jump | None:
    """Move the container to a key frame that `before` packets come before; None if it is not there."""
    for place in dict.fromkeys((key.dts, key.pts)):
        with suppress(library().FFmpegError):
            packets = _from(container, tracks, key, place)
            ahead = list(islice(packets, 4 * _ORDERED))  # with sound between them
            shown = [packet.pts for packet in ahead if packet.stream is tracks.video and packet.size]
            if shown and None not in shown:
                earlier = sum(pts < shown[0] for pts in shown)
                return Jump(before + earlier, shown[0], chain(ahead, packets))
    return None


def _from(container: Any, tracks: Tracks, key: _Packet, place: int | None) -> Iterator[Any]:
    """Move the container to a time, and yield its packets from a key frame on; nothing if that does not follow."""
    if place is None:
        return
    container.seek(place, stream=tracks.video)
    there = False
    for packet in container.demux([tracks.video, *tracks.others]):
        if not there and packet.stream is tracks.video:
            there = packet.is_keyframe and (packet.dts == key.dts if key.pts is None else packet.pts == key.pts)
            if not there and (packet.is_keyframe or not packet.size) and _is_later(packet, key):
                return
            if not there:
                continue
        yield packet


def _is_later(packet: Any, key: _Packet) -> bool:
    one, other = (packet.dts, key.dts) if key.pts is None else (packet.pts, key.pts)
    return one is None or one > other
