"""The end of a video file: most formats store where it should be."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")


def cut_off(path: str | Path, used: int) -> bool:
    """Return whether a video file is shorter than its header says.

    Matroska, MP4, AVI, Ogg, GIF and Y4M store their length. MPEG-TS does not, but has packets of one size.

    Args:
        path: the file
        used: the position in the file where the last frame ends
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(1024)
        if head.startswith(b"\x1aE\xdf\xa3"):
            return size < _end_of_matroska(file)
        if head[4:8] in _BOXES:
            return size < _end_of_boxes(file)
        if head.startswith(b"RIFF"):
            return size < _end_of_riff(file)
        if head.startswith(b"OggS"):
            return not _last_of_ogg(file, size)
        if head.startswith(b"GIF8"):
            file.seek(-1, os.SEEK_END)
            return file.read() != b";"
        if head.startswith(b"YUV4MPEG2"):
            return used < size
        for first, packet in ((0, 188), (4, 192), (0, 204)):  # each packet of MPEG-TS begins with a G
            if set(head[first::packet]) == {ord("G")}:
                return size % packet > 0
    return False


def _end_of_boxes(file: BinaryIO) -> int:
    """Return where the boxes of an MP4 end. Each begins with its size and name."""
    start = end = 0
    while True:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the size follows the name
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # the last one may have no size
            return end
        start += length
        if head[4:8] in _BOXES:  # other data may be appended to a file
            end = start


def _end_of_matroska(file: BinaryIO) -> int:
    """Return where the second element ends, which holds everything; 0 if it has no size, as in live recordings."""
    end = 0
    for _ in range(2):
        file.seek(end)
        first = file.read(4)  # the name: 4 bytes for both
        mark = file.read(1)
        if len(first) < 4 or not mark or not mark[0]:
            return 0
        more = 8 - mark[0].bit_length()  # as many bytes as there are zeros before the first set bit
        length = int.from_bytes(bytes([mark[0] - (1 << 7 - more)]) + file.read(more), "big")
        if length == (1 << 7 * (more + 1)) - 1:
            return 0
        end = file.tell() + length
    return end


def _end_of_riff(file: BinaryIO) -> int:
    """Return where the parts end, of which large AVI files have several; 0 if the size is not stated."""
    start = end = 0
    while True:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8 or not head.startswith(b"RIFF"):
            return end
        length = int.from_bytes(head[4:], "little")
        if length in (0, (1 << 32) - 1):
            return 0
        end = start + 8 + length
        start = end + length % 2


def _last_of_ogg(file: BinaryIO, size: int) -> bool:
    """Return whether the last page is complete, and every stream with a page near the end has its last one there."""
    file.seek(max(0, size - (1 << 17)))  # a page is at most half as long
    ended, page = {}, b""
    for page in re.split(b"(?=OggS)", file.read())[1:]:
        ended[page[14:18]] = len(page) > 5 and page[5] & 4
    return len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]]) and all(ended.values())
