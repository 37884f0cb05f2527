"""Parts of long files: the frames before them are not decoded, and those that are read are the same."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from clips import make, streams

from shiftsearch import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.io import reader

av = pytest.importorskip("av")

SPANS = [(150, 160), (99, 103), (60, 61), (196, None)]
# options of the encoder make B-frames, and groups of frames that refer to those before (open)
KINDS = [
    ("a.mp4", "libx264", {"x264-params": "keyint=24:bframes=3"}),
    ("open.mp4", "libx264", {"x264-params": "keyint=24:bframes=3:open-gop=1:scenecut=0"}),
    ("a.mkv", "libx264", {"x264-params": "keyint=24:bframes=3:b-pyramid=normal"}),
    ("a.ts", "libx264", {"x264-params": "keyint=24:bframes=3"}),
    ("open.ts", "libx264", {"x264-params": "keyint=24:bframes=3:open-gop=1:scenecut=0"}),
    ("hevc.mkv", "libx265", {"x265-params": "keyint=24:bframes=4:log-level=error:open-gop=1"}),
    ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
    ("a.webm", "libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
    ("ffv1.mkv", "ffv1", {}),
    ("a.avi", "mjpeg", {}),
]


@pytest.fixture
def begun(monkeypatch):
    """Note for each file that is opened how many of its frames were decoded up to the first one wanted."""
    seen = []
    reached = reader.Decoder.reached

    def noted(self, place, wanted):
        frames = reached(self, place, wanted)
        seen.append(None if frames is None else wanted - place.number)
        return frames

    monkeypatch.setattr(reader.Decoder, "reached", noted)
    return seen


def long(path, codec, options, frames=200, times=None, audio=None):
    form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    more = {"color_range": 2} if codec == "mjpeg" else {}
    return make(path, codec, (96, 64), frames, form=form, audio=audio, times=times, options=options, **more)


def planes(path, span):
    with io.read(path, span, overlap=2) as clip:
        return [np.concatenate([plane.ravel() for plane in frame]) for frame in clip.planes()], clip.begin


def decoded_from_the_start(monkeypatch, path, span):
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_NEAR", 10**9)
        return planes(path, span)


@pytest.mark.parametrize(("name", "codec", "options"), KINDS)
def test_frames_after_a_jump_are_those_of_the_whole(tmp_path, monkeypatch, begun, name, codec, options):
    source = long(tmp_path / name, codec, options)
    for span in SPANS:
        expected, begin = decoded_from_the_start(monkeypatch, source, span)
        found, at = planes(source, span)
        assert at == begin
        assert len(found) > 0
        np.testing.assert_array_equal(found, expected)
    near = [count for count in begun if count is not None and count <= 2 * 24]
    assert len(near) >= len(SPANS) - (name == "a.mpg")  # where FFmpeg finds no place near the end


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_are_counted_where_times_vary(tmp_path, monkeypatch, begun, name):
    times = np.cumsum(np.random.default_rng(0).integers(1, 90, 200)).tolist()
    times = [time - times[0] for time in times]
    source = long(tmp_path / name, "libx264", {"x264-params": "keyint=24:bframes=3"}, times=times)
    for span in SPANS:
        expected, begin = decoded_from_the_start(monkeypatch, source, span)
        found, at = planes(source, span)
        assert at == begin == Fraction(times[span[0]], 1000)
        np.testing.assert_array_equal(found, expected)
    assert None not in begun
    assert begun


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_goes_along_after_a_jump(tmp_path, monkeypatch, begun, name):
    source = long(tmp_path / name, "libx264", {"x264-params": "keyint=24:bframes=3"}, audio="aac")
    kept = []
    for near in (32, 10**9):
        monkeypatch.setattr(reader, "_NEAR", near)
        with io.read(source, (100, 150)) as clip, io.write(tmp_path / "b.mkv", clip) as out:
            for frame in clip:
                out.write(frame)
        kept.append(streams(tmp_path / "b.mkv")["audio"][0][1])
    assert len(kept[0]) > 90
    assert kept[0] == kept[1]
    assert begun != [None]
    assert len(begun) == 1


def test_an_index_that_lies_is_not_believed(tmp_path, monkeypatch, begun):
    """Here an MP4 tells frames to be key frames that come three after those that are."""
    source = long(tmp_path / "a.mp4", "libx264", {"x264-params": "keyint=24:bframes=0:scenecut=0"})
    data = bytearray(source.read_bytes())
    place = data.index(b"stss") + 12
    keys = np.frombuffer(data, ">u4", 9, place).copy()
    assert keys.tolist() == [*range(1, 200, 24)]
    data[place + 4 : place + 36] = (keys[1:] + 3).astype(">u4").tobytes()
    source.write_bytes(data)
    expected, _ = decoded_from_the_start(monkeypatch, source, (150, 160))
    np.testing.assert_array_equal(planes(source, (150, 160))[0], expected)
    assert [count for count in begun if count is not None] == []


def test_recordings_that_begin_within_a_group_are_decoded_from_the_start(tmp_path, monkeypatch, begun):
    source = long(tmp_path / "a.ts", "libx264", {"x264-params": "keyint=24:bframes=3"})
    data = source.read_bytes()
    (tmp_path / "b.ts").write_bytes(data[188 * (len(data) // 188 // 10) :])
    expected, _ = decoded_from_the_start(monkeypatch, tmp_path / "b.ts", (100, 110))
    np.testing.assert_array_equal(planes(tmp_path / "b.ts", (100, 110))[0], expected)


def test_a_part_after_the_end_says_how_many_frames_there_are(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        source = long(tmp_path / name, "libx264", {"x264-params": "keyint=24"}, frames=60)
        with io.read(source, (90, None)) as clip, pytest.raises(ShiftsearchError, match="has 60 frames, expected more"):
            list(clip)
