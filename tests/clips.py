"""Small video files of moving waves and a sine."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest


def waves(frames, width, height) -> np.ndarray:
    """Return a moving clip (T, H, W, 3) of uint16, in colours that every format has."""
    y, x = np.mgrid[:height, :width] / 6
    shades = [np.stack([np.sin(x + y + t / 2), np.cos(x - y - t / 3), np.sin(2 * x - t)], -1) for t in range(frames)]
    return (32768 + 16000 * np.stack(shades)).astype(np.uint16)


def make(path, codec="libx264", size=(64, 48), frames=10, rate=25, form="yuv420p", audio="aac", times=None, **colour):
    """Write a file of waves. `times` are in milliseconds; without them there are `rate` frames per second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = *size, form
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        for name, value in colour.items():
            setattr(video.codec_context, name, value)
        sound = out.add_stream(audio, rate=48000) if audio else None
        for number, shades in enumerate(waves(frames, *size)):
            frame = av.VideoFrame.from_ndarray(shades, format="rgb48le")
            frame = frame.reformat(
                format=form, dst_colorspace=colour.get("colorspace"), dst_color_range=colour.get("color_range")
            )
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), times[number]
            out.mux(video.encode(frame))
        if sound is not None:
            out.mux(_sine(av, sound, frames / rate))
        out.mux(video.encode(None))
        if sound is not None:
            out.mux(sound.encode(None))
    return path


def turned_copy(path, target) -> None:
    """Copy the video of a file with metadata as of a phone, to be shown turned by 90 degrees."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("needs PyAV 18")
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def _sine(av, stream, seconds):
    source = av.open(f"sine=frequency=440:sample_rate=48000:duration={seconds}", format="lavfi")
    return [packet for frame in source.decode(audio=0) for packet in stream.encode(frame)]


def streams(path) -> dict:
    """Return for each kind of stream of a file a list of (codec, packets as (seconds, bytes))."""
    av = pytest.importorskip("av")
    found: dict = {}
    with av.open(str(path)) as container:
        parts = {s.index: [] for s in container.streams}
        for packet in container.demux():
            if packet.size:
                parts[packet.stream.index].append((float((packet.pts or 0) * packet.time_base), bytes(packet)))
        for s in container.streams:
            found.setdefault(s.type, []).append((s.codec_context.codec.canonical_name, parts[s.index]))
    return found


def decoded(path) -> list:
    """Return the frames of PyAV."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def psnr(a, b) -> float:
    """Return the PSNR of arrays of one integer dtype."""
    square = np.mean((a.astype(float) - b) ** 2)
    return float("inf") if square == 0 else 10 * np.log10(np.iinfo(a.dtype).max ** 2 / square)
