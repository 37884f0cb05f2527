"""The demo shows that search improves flow, and its table and picture are right."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib

import numpy as np

from shiftsearch import demo


def pixels(path) -> np.ndarray:
    """Return the pixels of a PNG file as this package writes it."""
    data, parts, at = path.read_bytes(), {}, 8
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        (length,), name = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        parts[name] = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + parts[name]),)
        at += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_search_brings_frames_closer_each_time(tmp_path, capsys):
    table = demo.run(tmp_path / "look.png", frames=3, height=40, width=56)
    given, whole, half = table.values()
    assert given[0] > 1.2
    assert whole[0] < 0.4 * given[0]
    assert half[0] < 0.8 * whole[0]
    assert given[1] + 8 < whole[1] < half[1] - 2
    said = capsys.readouterr().out
    assert all(f"{psnr:.1f} " in said for _, psnr in table.values())
    assert pixels(tmp_path / "look.png").shape == (80, 2 * (5 * 56 + 4 * 4), 3)


def test_the_flow_of_the_clip_leads_to_the_same_texture():
    clip, flow = demo.moving_clip(3, 24, 40)
    dx, dy = flow[0, 0, :, 12, 20]
    y, x = 12 + dy, 20 + dx
    top, left, fy, fx = int(y), int(x), y % 1, x % 1
    rows = clip[1, :, top : top + 2, left : left + 2]
    there = (1 - fy) * (rows[:, 0] @ [1 - fx, fx]) + fy * (rows[:, 1] @ [1 - fx, fx])
    assert abs(there - clip[0, :, 12, 20]).max() < 0.2  # clip has standard deviation 1


def test_offsets_of_flow_lead_to_the_neighbours():
    flow = np.arange(3 * 2 * 2 * 4 * 5, dtype=np.float32).reshape(3, 2, 2, 4, 5)
    offsets = demo.as_offsets(flow)
    assert offsets.shape == (1, 3, 4, 5, 2, 3)
    assert offsets[0, 0, 0, 0, :, 0].tolist() == [1, 2]  # the first frame only has later neighbours
    np.testing.assert_array_equal(offsets[0, 2, 3, 4, 1, 1:], flow[2, 1, ::-1, 3, 4])


def test_the_command_needs_numpy_and_numba_only(tmp_path):
    code = """if True:
        import sys
        for name in ("av", "cv2", "tqdm", "skimage", "scipy", "torch"):
            sys.modules[name] = None
        from shiftsearch.__main__ import main
        sys.exit(main(["demo", "-o", "look.png"]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "flow alone" in done.stdout
    assert os.listdir(tmp_path) == ["look.png"]
