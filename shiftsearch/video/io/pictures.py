"""Pictures of a frame before and after a command, as PNG files. This needs NumPy only."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_GAP = 4  # white columns between pictures
_GAIN = 4  # of differences


def before_and_after(before: np.ndarray, after: np.ndarray, wanted: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return a frame before | after | after - wanted, times 4 around mid-grey | flow in colours: (H, 4 * W + 12, 3)."""
    before, after, wanted = map(eight_bits, (before, after, wanted))
    difference = np.clip(128 + _GAIN * (after.astype(int) - wanted), 0, 255).astype(np.uint8)
    return row(before, after, difference, eight_bits(flow))


def row(*pictures: np.ndarray) -> np.ndarray:
    """Return pictures of one height side by side."""
    gap = np.full((len(pictures[0]), _GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


def eight_bits(frame: np.ndarray) -> np.ndarray:
    """Return a frame of uint8 or uint16, grey or colour, as (H, W, 3) of uint8."""
    frame = frame if frame.dtype == np.uint8 else (frame >> 8).astype(np.uint8)
    return frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=-1)


def png(picture: np.ndarray) -> bytes:
    """Return a picture (H, W, 3) of uint8 as a PNG file."""
    height, width, _ = picture.shape
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1
    )  # 0 stands for no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + _checksum(name + body) for name, body in parts
    )


def _checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))
