"""The VapourSynth functions agree with those for arrays in every format, with VapourSynth and with a stand-in."""

from __future__ import annotations

import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import shiftsearch
from shiftsearch.vapoursynth import Align, Denoise
from shiftsearch.video.denoise import denoise_planes

pytest.importorskip("cv2")


# --- a stand-in: as much of VapourSynth as the functions use -----------------------------------------
class Frame:
    def __init__(self, known, planes, props):
        self.format, self.planes, self.props = known, planes, props

    def __getitem__(self, plane):
        return self.planes[plane]

    def copy(self):
        return Frame(self.format, [plane.copy() for plane in self.planes], dict(self.props))


class Clip:
    """A stand-in for VideoNode: frames by number, slices, + and *."""

    def __init__(self, frame, num_frames, known, height, width, fps=Fraction(25)):
        self._frame, self.num_frames, self.fps = frame, num_frames, fps
        self.format, self.height, self.width = known, height, width

    def _like(self, frame, num_frames, fps=None):
        assert num_frames > 0
        return Clip(frame, num_frames, self.format, self.height, self.width, fps or self.fps)

    def get_frame(self, n):
        assert 0 <= n < self.num_frames
        return self._frame(n)

    def __getitem__(self, part):
        there = range(self.num_frames)[part]
        return self._like(lambda n: self.get_frame(there[n]), len(there))

    def __add__(self, other):
        first = self.num_frames
        return self._like(
            lambda n: self.get_frame(n) if n < first else other.get_frame(n - first), first + other.num_frames
        )

    def __mul__(self, times):
        assert times > 0
        return self._like(lambda n: self.get_frame(n % self.num_frames), self.num_frames * times)


def blank(clip, height, length, keep):
    def frame(_):
        planes = [np.empty((height * len(p) // clip.height, p.shape[1]), p.dtype) for p in clip.get_frame(0).planes]
        return Frame(clip.format, planes, {})

    return Clip(frame, length, clip.format, height, clip.width, clip.fps)


def modified(clip, clips, selector):
    done = {}

    def frame(n):
        if n not in done:
            done[n] = selector(n, [source.get_frame(n) for source in clips])
        return done[n]

    return clip._like(frame, clip.num_frames)


def cropped(clip, top, bottom):
    def frame(n):
        whole = clip.get_frame(n)
        rows = [slice(top * len(p) // clip.height, len(p) - bottom * len(p) // clip.height) for p in whole.planes]
        return Frame(whole.format, [p[r] for p, r in zip(whole.planes, rows, strict=True)], whole.props)

    return Clip(frame, clip.num_frames, clip.format, clip.height - top - bottom, clip.width, clip.fps)


def interleaved(clips):
    count = len(clips)
    return clips[0]._like(
        lambda n: clips[n % count].get_frame(n // count), count * clips[0].num_frames, clips[0].fps * count
    )


def with_props(clip, source):
    return clip._like(
        lambda n: Frame(clip.format, clip.get_frame(n).planes, source.get_frame(n).props), clip.num_frames
    )


STAND_IN = SimpleNamespace(
    core=SimpleNamespace(
        std=SimpleNamespace(
            BlankClip=blank,
            ModifyFrame=modified,
            Crop=cropped,
            Interleave=interleaved,
            CopyFrameProps=with_props,
            AssumeFPS=lambda clip, src: clip._like(clip.get_frame, clip.num_frames, src.fps),
        )
    )
)
FORMATS = {  # name: (floats?, bits, planes, subsampling of columns and rows)
    "GRAY8": (False, 8, 1, 0, 0),
    "GRAY10": (False, 10, 1, 0, 0),
    "GRAY32": (False, 32, 1, 0, 0),
    "GRAYH": (True, 16, 1, 0, 0),
    "YUV420P8": (False, 8, 3, 1, 1),
    "YUV420P10": (False, 10, 3, 1, 1),
    "YUV422P16": (False, 16, 3, 1, 0),
    "YUV444PS": (True, 32, 3, 0, 0),
    "RGB24": (False, 8, 3, 0, 0),
    "RGB30": (False, 10, 3, 0, 0),
    "RGBS": (True, 32, 3, 0, 0),
}


def planes_of(name, length, height=24, width=32):
    """Return a noisy moving texture as lists of planes."""
    floats, bits, count, across, down = FORMATS[name]
    rng = np.random.default_rng(0)
    still = rng.random((height // 2, width // 2)).repeat(2, 0).repeat(2, 1)
    kind = (
        {16: "float16", 32: "float32"}[bits] if floats else {8: "uint8", 10: "uint16", 16: "uint16", 32: "uint32"}[bits]
    )
    white = 1 if floats else 2**bits - 1
    clip = []
    for t in range(length):
        whole = np.roll(still, (t, -2 * t), (0, 1)) * 0.6 + 0.2 + 0.03 * rng.standard_normal(still.shape)
        planes = [
            whole if p == 0 or name.startswith("RGB") else whole[:: 1 << down, :: 1 << across] for p in range(count)
        ]
        clip.append([(plane * white).astype(kind) for plane in planes])
    return clip


def stand_in(name, length):
    floats, bits, count, across, down = FORMATS[name]
    known = SimpleNamespace(
        name=name,
        sample_type=int(floats),
        bits_per_sample=bits,
        num_planes=count,
        subsampling_w=across,
        subsampling_h=down,
    )
    frames = planes_of(name, length)
    return Clip(lambda n: Frame(known, frames[n], {"number": n}), length, known, 24, 32, Fraction(30000, 1001))


def real(name, length):
    vapoursynth = pytest.importorskip("vapoursynth")
    core, frames = vapoursynth.core, planes_of(name, length)
    floats, bits, count, across, down = FORMATS[name]
    family = vapoursynth.GRAY if count == 1 else vapoursynth.RGB if name.startswith("RGB") else vapoursynth.YUV
    known = core.query_video_format(family, vapoursynth.FLOAT if floats else vapoursynth.INTEGER, bits, across, down)
    clip = core.std.BlankClip(format=known.id, width=32, height=24, length=length, fpsnum=30000, fpsden=1001)

    def fill(n, f):
        out = f.copy()
        for p, plane in enumerate(frames[n]):
            np.asarray(out[p])[...] = plane
        out.props["number"] = n
        return out

    return core.std.ModifyFrame(clip, clip, fill)


@pytest.fixture(params=["stand-in", "VapourSynth"])
def make(request, monkeypatch):
    if request.param == "VapourSynth":
        return real
    monkeypatch.setitem(sys.modules, "vapoursynth", STAND_IN)
    return stand_in


def taken(clip, numbers=None):
    """Return the planes of frames, requested in this order; by default of all frames, backwards."""
    numbers = reversed(range(clip.num_frames)) if numbers is None else numbers
    return {n: [np.asarray(clip.get_frame(n)[p]).copy() for p in range(clip.format.num_planes)] for n in numbers}


def white(name):
    floats, bits, *_ = FORMATS[name]
    return 1.0 if floats else float(255 << bits - 8)


def stored(name, plane, like):
    """Return floats as samples of a format."""
    floats, bits, *_ = FORMATS[name]
    return (plane if floats else np.clip(np.rint(plane.astype(float) * white(name)), 0, 2**bits - 1)).astype(like.dtype)


# --- what they give ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["GRAY8", "GRAY32", "YUV420P10", "RGBS"])
def test_denoise_is_that_of_the_planes_as_a_whole(make, name):
    """The groups of frames make no difference."""
    length, source = 21, planes_of(name, 21)
    found = Denoise(make(name, length), sigma=8, radius=1)
    kind = np.float64 if name == "GRAY32" else np.float32
    planes = [np.stack(plane).astype(kind) / kind(white(name)) for plane in zip(*source, strict=True)]
    if name.startswith("RGB"):
        wanted = np.moveaxis(shiftsearch.denoise(np.stack(planes, -1), 8 / 255, radius=1), -1, 0)
    else:
        wanted = list(zip(*denoise_planes(zip(*planes, strict=True), 8 / 255, radius=1), strict=True))
    for n, got in taken(found).items():
        for p, plane in enumerate(got):
            np.testing.assert_array_equal(plane, stored(name, wanted[p][n], plane))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("to", ["previous", "next", 4])
def test_align_moves_all_planes_with_the_first(make, name, to):
    length, source = 11, planes_of(name, 11)
    got = taken(Align(make(name, length), to, window=3), (10, 7, 8, 0))
    *_, across, down = FORMATS[name]
    kind = np.float64 if name == "GRAY32" else np.float32
    clip = [[plane.astype(kind) / kind(white(name)) for plane in planes] for planes in source]
    whole = [np.stack([f[0], *(np.kron(p, np.ones((1 << down, 1 << across), kind)) for p in f[1:])], -1) for f in clip]
    for n, planes in got.items():
        at = {"previous": n - 1, "next": n + 1}.get(to, to)
        if 0 <= at < length:
            motion = shiftsearch.flow.dis(clip[at][0], clip[n][0])
            moved = np.moveaxis(shiftsearch.align(whole[at], whole[n], motion, window=3), -1, 0)
            coarse = [p.reshape(24 >> down, 1 << down, 32 >> across, 1 << across).mean((1, 3)) for p in moved[1:]]
            wanted = [stored(name, p, q) for p, q in zip([moved[0], *coarse], planes, strict=True)]
        else:
            wanted = source[n]
        for a, b in zip(planes, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_only_the_pixels_of_a_clip_change(make):
    clip = make("YUV420P8", 19)
    for found in (Denoise(clip, 5), Align(clip), Align(clip, 3)):
        assert (found.num_frames, found.fps, found.height, found.width) == (19, Fraction(30000, 1001), 24, 32)
        assert found.format.name == clip.format.name
        assert found.get_frame(17).props["number"] == 17


@pytest.mark.full
def test_the_order_of_asking_does_not_matter(make):
    orders = [range(19), [18, 3, 11, 0, 17], [5]]
    for function in (lambda clip: Denoise(clip, None, 1), Align):
        first, *others = (taken(function(make("YUV420P10", 19)), order) for order in orders)
        for other in others:
            for n, planes in other.items():
                for a, b in zip(planes, first[n], strict=True):
                    np.testing.assert_array_equal(a, b)


def test_planes_that_are_not_asked_for_stay(make):
    for name in ("YUV420P8", "RGB24"):
        source = planes_of(name, 5)
        got = taken(Denoise(make(name, 5), [30, 10, 1], radius=1, planes=[1]))
        for n in range(5):
            assert [np.array_equal(a, b) for a, b in zip(got[n], source[n], strict=True)] == [True, False, True]


def test_grain_may_stay(make):
    for name in ("YUV420P8", "RGB24"):
        source = planes_of(name, 3)
        for options in ({"mix": 1}, {"strength": 0}, {"strength": [0, 0, 0], "temporal_only": True}):
            got = taken(Denoise(make(name, 3), 20, radius=1, **options))
            for n in range(3):
                assert all(np.array_equal(a, b) for a, b in zip(got[n], source[n], strict=True))


def test_without_motion_a_still_clip_stays_to_the_bit(make):
    """Colours that are repeated and averaged again are unchanged."""
    clip = make("YUV420P10", 1)
    found = taken(Align(clip, 0, sigma=0))
    for a, b in zip(found[0], taken(clip)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_arguments_are_said(make):
    clip = make("YUV420P8", 4)
    for call, said in [
        (lambda: Denoise(clip, planes=3), "planes is 3, expected numbers from 0 to 2"),
        (lambda: Denoise(clip, strength=[1, 2]), "strength has 2 numbers, expected one, or one for each of 3"),
        (lambda: Denoise(clip, mix=2), "Denoise: mix is 2"),
        (lambda: Denoise(clip, [1, 2]), "sigma has 2 values, expected one or 3"),
        (lambda: Denoise("clip"), "expected a VideoNode"),
        (lambda: Align(clip, "sideways"), "to is 'sideways'"),
        (lambda: Align(clip, 4), "expected previous, next or a number from 0 to 3"),
        (lambda: Align(clip, flow="raft"), "flow is 'raft'"),
    ]:
        with pytest.raises(shiftsearch.ShiftsearchError, match=said):
            call()
