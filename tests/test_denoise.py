"""Denoising removes noise and nothing else, and the result does not depend on how it is computed."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch.backends.cpu import simd
from shiftsearch.video.denoise import (
    Noise,
    bands,
    components,
    denoise_planes,
    direct,
    groups,
    memory,
    passes,
    qualities,
    running,
    shrink,
    spare,
    spec,
    streams,
)

QUALITIES = "fast", "high"
SIZES = {"fast": (8, 64, 80), "high": (6, 40, 48)}  # frames, rows and columns: high quality takes long


@functools.cache
def scene(frames=8, height=64, width=80, channels=1, seed=0):
    """Return a smooth texture with edges, 0..1, that moves by (1, 2) pixels a frame, (T, H, W, C) or (T, H, W)."""
    rng = np.random.default_rng(seed)
    H, W = height + frames, width + 2 * frames
    f = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.fftfreq(W)) + 0.01
    noise = rng.standard_normal((channels, H, W))
    still = np.real(np.fft.ifft2(np.fft.fft2(noise) / f**1.6))
    still = (
        0.5
        + 0.13 * still / still.std((1, 2), keepdims=True)
        + 0.2 * (np.hypot(*np.mgrid[-H // 2 : H // 2, -W // 2 : W // 2][:, :H, :W]) < 20)
    )
    clip = np.stack([still[:, t : t + height, 2 * t : 2 * t + width] for t in range(frames)])
    return clip.transpose(0, 2, 3, 1) if channels > 1 else clip[:, 0]


def with_noise(clip, sigma, seed=1):
    return clip + sigma * np.random.default_rng(seed).standard_normal(clip.shape)


def psnr(a, b):
    return -10 * np.log10(((a - b) ** 2).mean())


@functools.cache
def motion(frames=8, height=64, width=80):
    """Return the motion of the frames of a scene, as (forward, backward)."""
    forward = np.broadcast_to(np.float32([-2, -1])[:, None, None], (frames, 2, height, width))
    return forward, -forward


# --- quality ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("quality", "gain"), [("fast", 8.5), ("high", 8)])
def test_noise_goes(quality, gain):
    clip = scene(*SIZES[quality])
    noisy = with_noise(clip, 0.1)
    assert psnr(ss.denoise(noisy, 0.1, quality=quality), clip) > psnr(noisy, clip) + gain


def test_a_preview_is_between_the_noise_and_the_result():
    clip = scene()
    noisy = with_noise(clip, 0.1)
    preview, found = (psnr(ss.denoise(noisy, 0.1, quality=quality), clip) for quality in ("preview", "fast"))
    assert psnr(noisy, clip) + 7 < preview < found
    assert ss.denoise_overlap(quality="preview", radius=2) == 5


def test_edges_of_patches_lie_elsewhere_in_each_pass(monkeypatch):
    clip = scene(1).repeat(8, 0)
    noisy = with_noise(clip, 0.1)
    found = psnr(ss.denoise(noisy, 0.1), clip)
    aligned = tuple(replace(pass_, begin=0) for pass_ in qualities.PASSES["fast"])
    monkeypatch.setitem(qualities.PASSES, "fast", aligned)
    assert found > psnr(ss.denoise(noisy, 0.1), clip) + 0.1


@pytest.mark.full
@pytest.mark.parametrize("quality", QUALITIES)
def test_frames_around_help_and_so_does_flow(quality):
    clip = scene(*SIZES[quality])
    noisy = with_noise(clip, 0.1)
    alone, still, led = (
        psnr(ss.denoise(noisy, 0.1, quality=quality, radius=radius, flow=flow), clip)
        for radius, flow in ((0, None), (2, None), (2, motion(*SIZES[quality])))
    )
    assert still > alone + 0.3
    assert led > alone + 1


@pytest.mark.full
@pytest.mark.parametrize("quality", QUALITIES)
def test_measured_flow_is_as_good_as_the_true_one(quality):
    pytest.importorskip("cv2")
    clip = scene(*SIZES[quality])
    noisy = with_noise(clip, 0.1)
    measured, true = (
        psnr(ss.denoise(noisy, 0.1, quality=quality, flow=flow), clip) for flow in ("dis", motion(*SIZES[quality]))
    )
    assert measured > true - 0.3


@pytest.mark.full
@pytest.mark.parametrize("quality", QUALITIES)
def test_colours_help_each_other(quality):
    grey = scene(*SIZES[quality])[:5]
    clip = np.stack([grey, 0.8 * grey + 0.1, 0.5 * grey + 0.2], -1)
    noisy = with_noise(clip, 0.1)
    apart = [ss.denoise(noisy[..., c], 0.1, quality=quality, flow=None) for c in range(3)]
    assert psnr(ss.denoise(noisy, 0.1, quality=quality, flow=None), clip) > psnr(np.stack(apart, -1), clip) + 1


@pytest.mark.parametrize("quality", QUALITIES)
def test_detail_is_kept_where_there_is_no_noise(quality):
    clip = scene(5, 40, 48)
    np.testing.assert_allclose(ss.denoise(clip, 0, quality=quality, flow=None), clip, atol=2e-5)
    assert psnr(ss.denoise(with_noise(clip, 0.01), 0.01, quality=quality, flow=None), clip) > 40


@pytest.mark.full
@pytest.mark.parametrize("quality", QUALITIES)
def test_a_frame_of_another_thing_does_no_harm(quality):
    """Patches of other things are not filtered together: a white flash between frames leaves no ghost."""
    clip = scene(7, 48, 56).copy()
    clip[3, 10:22, 10:22] = np.random.default_rng(3).random((12, 12)) > 0.5
    noisy, around = with_noise(clip, 0.05), [1, 2, 4, 5]
    assert not list(ss.scene_cuts(noisy))
    changed = ss.denoise(noisy, 0.05, quality=quality, flow=None)[around]
    as_it_was = ss.denoise(with_noise(scene(7, 48, 56), 0.05), 0.05, quality=quality, flow=None)[around]
    assert psnr(changed, clip[around]) > psnr(as_it_was, clip[around]) - 0.5


# --- passes -----------------------------------------------------------------------------------------
def one_pass(shrink, **options):
    """Return a pass that groups the same place of all frames."""
    return passes.Pass(shrink, groups.of_all_frames, window=1, guided=False, count=9, **options)


def test_a_patch_may_span_frames(monkeypatch):
    """Each span is averaged over its two frames. A frame is in one span or two; a frame in none is left unchanged."""

    def flattened(xp, noisy, guide, sigma, shape):
        spans = noisy.reshape(*noisy.shape[:2], 2, -1)
        return (spans - spans.mean(2, keepdims=True)).reshape(noisy.shape), np.ones(len(noisy))

    monkeypatch.setitem(qualities.PASSES, "fast", (one_pass(flattened, depth=2, worst=0.2),))
    still = np.random.default_rng(0).random((20, 24, 3))
    clip = still + np.arange(4)[:, None, None, None] / 100
    steps = np.array([0.5, 1, 2, 2.5])[:, None, None, None] / 100
    np.testing.assert_allclose(ss.denoise(clip, 0.1, radius=3, flow=None), still + steps, atol=1e-6)
    np.testing.assert_allclose(ss.denoise(clip, 0.1, radius=0, flow=None), clip, atol=1e-6)
    np.testing.assert_allclose(ss.denoise(clip, 0.01, radius=3, flow=None), clip, atol=1e-6)  # more than noise differs


def test_results_of_two_kinds_of_groups_are_added(monkeypatch):
    def constant(value, weight):
        return lambda xp, noisy, guide, sigma, shape: (
            noisy - np.float32(value),
            np.full(len(noisy), weight, np.float32),
        )

    both = one_pass(constant(0, 1), beside=one_pass(constant(1, 3)))
    monkeypatch.setitem(qualities.PASSES, "fast", (both,))
    np.testing.assert_array_equal(ss.denoise(np.zeros((3, 20, 24)), 0.1, flow=None), 0.75)


def test_weights_do_not_depend_on_the_size_of_patches():
    """If no frequency exceeds the threshold, the mean of 10 patches has a tenth of the noise's variance."""
    for pixels in (4, 16, 64, 256):
        flat, guide = np.ones((2, 1, 10, pixels), np.float32)
        removed, weight = qualities._BAYES(np, flat, guide, 0.1, None)
        np.testing.assert_allclose(removed, 0, atol=1e-6)
        np.testing.assert_allclose(weight, 10, rtol=1e-6)


def test_flat_groups_keep_their_slope_alone():
    """Noise of the mean of a group is dropped, and what stands out of it is kept, in patches of one frame and of two."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 64, 512)).astype(np.float32)
    slope = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32), (32, 16)).ravel()
    stripes = np.broadcast_to(np.float32([1, -1]), (256, 2)).ravel()
    for depth in (1, 2):
        for signal in (slope, stripes):
            signal, sigma = signal[: 256 * depth], np.float32(0.5)
            noisy = signal + sigma * noise[..., : 256 * depth]
            shrink = functools.partial(qualities._BAYES, least=30, depth=depth)  # all but the mean is noise
            removed, _ = shrink(np, noisy.copy(), noisy.copy(), sigma, None)
            assert (noisy - removed - signal).std() < 0.3 * sigma / np.sqrt(64)  # the noise of the mean of 64 patches


# --- the same, however it is computed ---------------------------------------------------------------
@functools.cache
def example(frames=11, quality="fast"):
    height, width = {"fast": (40, 52), "high": (19, 26)}[quality]
    return (255 * with_noise(scene(frames, height, width, 3), 0.1).clip(0, 1)).astype(np.uint8)


def test_candidates_that_are_as_good_are_taken_of_all_frames(rng):
    scores = np.sort(rng.random((2, 3, 5, 48)), axis=3)  # five frames, the best of each first
    least = np.float64([[0.3] * 3, [0.0] * 3])
    found = scores.copy()
    for frame in range(5):
        groups._scatter(np, found[:, :, frame : frame + 1], 48 * frame, least)
    np.testing.assert_array_equal(found[1], scores[1])
    far = scores >= least[..., None, None]
    np.testing.assert_array_equal(found[far], scores[far])
    assert (scores[0] < 0.3).sum((1, 2)).min() > 60
    some = np.argsort(found[0].reshape(3, -1), 1)[:, :60]
    assert min((some // 48 == frame).sum(1).min() for frame in range(5)) >= 8


def test_patches_are_as_good_up_to_errors_of_the_plane_that_is_searched(rng):
    last = qualities.PASSES["high"][-1]
    frame = passes.Frame(rng.random((1, 64, 80), np.float32), Noise.white([0.1]), [False])
    frame.guide = frame.noisy + np.float32(np.where(np.arange(80) < 16, 0.5, 0.02))  # not the same on the left
    found = groups._equal(np, frame, last), groups._equal(np, frame, replace(last, depth=2))
    np.testing.assert_allclose(found, [last.alike * 256 * 0.02**2, last.alike * 512 * 0.02**2], rtol=1e-3)
    frame.noise = Noise.white([0])
    assert groups._equal(np, frame, last) == 0


@pytest.mark.parametrize("pass_", qualities.PASSES["high"])
def test_means_are_those_of_the_patches_that_are_filtered(rng, pass_):
    plane = rng.random((41, 53), np.float32)
    found = passes.of_patches(np, plane, pass_)
    rows, columns = (np.arange(0, n, pass_.stride) + pass_.begin - pass_.patch // 2 for n in plane.shape)
    for n, y in enumerate(rows):
        for m, x in enumerate(columns):
            inside = plane[max(y, 0) : y + pass_.patch, max(x, 0) : x + pass_.patch]
            np.testing.assert_allclose(found[n, m], inside.mean(), rtol=1e-5)


@pytest.mark.full
def test_errors_of_a_guide_do_not_choose_the_patches_of_flat_areas(monkeypatch):
    y, x = np.mgrid[:48, :64]
    clip = np.repeat((0.1 + 0.0005 * x + 0.0003 * y)[None], 8, 0)
    noisy = with_noise(clip, 0.1)
    found = psnr(ss.denoise(noisy, 0.1, quality="high", flow=None), clip)
    *others, last = qualities.PASSES["high"]
    last = replace(last, alike=0, beside=replace(last.beside, alike=0))
    monkeypatch.setitem(qualities.PASSES, "high", (*others, last))
    assert found > psnr(ss.denoise(noisy, 0.1, quality="high", flow=None), clip) + 1


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_stream_gives_the_same(quality):
    clip = example(8, quality)
    found = list(ss.denoise_stream(iter(clip), 25, quality=quality, radius=1))
    np.testing.assert_array_equal(found, ss.denoise(clip, 25, quality=quality, radius=1))


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("threads", ["1", "3"])
def test_threads_give_the_same(quality, threads, monkeypatch):
    monkeypatch.setattr(bands, "_BAND", {"numpy": 20_000})  # many bands, some of which are parts of rows
    clip = example(5, quality)
    few = ss.denoise(clip, 25, quality=quality, radius=1)
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", threads)
    np.testing.assert_array_equal(ss.denoise(clip, 25, quality=quality, radius=1), few)
    least = int(memory.held(spec.spec_of("denoise", clip[0], [25], quality=quality, radius=1), (clip[0],))) + 1
    np.testing.assert_array_equal(ss.denoise(clip, 25, quality=quality, radius=1, max_memory=least), few)
    with pytest.raises(
        ShiftsearchError, match=r"max_memory is .*, expected at least .* frames of \(.*a smaller radius"
    ):
        ss.denoise(clip, 25, quality=quality, radius=1, max_memory=least - 2)


_PEAK = """
import re, numpy as np, shiftsearch as ss
from pathlib import Path
from shiftsearch.video.denoise import memory, spec

def frames(count, *size):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 255, size, np.uint8) for _ in range(count))

def peak():  # of this process alone: that of getrusage begins with its parent's
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

for frame in ss.denoise_stream(frames(4, 48, 64, 3), 20, radius=1):
    pass
before = peak()
first = next(frames(1, 480, 640, 3))
least = memory.held(spec.spec_of("denoise", first, [20], radius=1), (first,))
for frame in ss.denoise_stream(frames(8, 480, 640, 3), 20, radius=1, max_memory=int(least) + 1):
    pass
print((peak() - before) / least)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_max_memory_counts_the_frames_that_are_held():
    """Measured in a process of its own. The frames do take most of what is said, so that the limit is no guess."""
    done = subprocess.run([sys.executable, "-c", _PEAK], check=True, stdout=subprocess.PIPE, text=True)
    assert 0.6 < float(done.stdout) <= 1


def test_memory_of_frames_is_used_again_and_given_back(rng):
    with spare.reused():
        first = spare.zeros((4, 5))
        address, part = first.ctypes.data, first[1:]
        first[...] = 1
        del first
        assert spare.zeros((4, 5)).ctypes.data != address
        del part
        again = spare.zeros((4, 5))
        assert again.ctypes.data == address
        assert not again.any()
    memory = weakref.ref(again.base)
    del again
    assert memory() is None


def test_frames_that_are_ready_are_not_kept_while_the_next_are_computed(monkeypatch):
    ready, kept, given, ask = [], [], streams.given, running.Running._ask

    def noted(xp, picture, *options):
        ready.extend(map(weakref.ref, picture))
        return given(xp, picture, *options)

    def counted(self, *options):
        kept.append(sum(frame() is not None for frame in ready))
        return ask(self, *options)

    monkeypatch.setattr(streams, "given", noted)
    monkeypatch.setattr(running.Running, "_ask", counted)
    list(ss.denoise_stream(iter(example(12)), 25, radius=1))
    assert len(ready) == 12
    assert not any(kept)


@pytest.mark.full
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("radius", [0, 1])
def test_chunks_give_the_same(quality, radius):
    clip, overlap = example(19, quality), ss.denoise_overlap(quality=quality, radius=radius)
    chunks = ss.chunks(19, 10, overlap)
    parts = [ss.denoise(clip[c.read], 25, quality=quality, radius=radius)[c.keep] for c in chunks]
    np.testing.assert_array_equal(np.concatenate(parts), ss.denoise(clip, 25, quality=quality, radius=radius))


def test_a_band_that_is_a_whole_frame_needs_no_look_at_its_offsets():
    """On a GPU a look waits for all that was asked of it before."""

    class Unseen(np.ndarray):
        def min(self, *_, **__):
            raise AssertionError("looked at")

        max = min

    one, frames = one_pass(None), [passes.Frame(np.zeros((1, 20, 24), np.float32), Noise.white([0.1]), [False])] * 3
    offsets = np.zeros((5, 6, 3, 3), np.int32).view(Unseen)
    band = bands._Band.of(np, frames, 1, offsets, one, (slice(0, 5), slice(0, 6)))
    assert (band.top, band.bottom) == (0, 20)
    with pytest.raises(AssertionError, match="looked at"):
        bands._Band.of(np, frames, 1, offsets, one, (slice(0, 4), slice(0, 6)))


def test_less_overlap_does_not():
    clip = example(15) / 255
    chunks = ss.chunks(15, 8, ss.denoise_overlap(radius=1) - 1)
    parts = [ss.denoise(clip[c.read], 0.1, radius=1)[c.keep] for c in chunks]
    assert (np.concatenate(parts) != ss.denoise(clip, 0.1, radius=1)).any()


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(("n", "temporal"), [(1, False), (2, False), (5, False), (17, False), (5, True)])
def test_vector_code_equals_array_code(n, passes, temporal, monkeypatch, rng):
    """Array operations do the same, on a GPU and for groups of many patches: in odd sizes, any noise and changing light."""
    frames = scene(n, 13, 18, 3) * np.where(np.arange(n) % 4 == 1, 1.4, 1)[:, None, None, None]
    clip = (frames + 0.02 * rng.standard_normal(frames.shape)).astype(np.float32)
    shapes, strengths = tuple(0.2 + rng.random((3, 8, 8))), tuple(0.5 + rng.random((3, 4)))
    noise = Noise((0.02, 0.03, 0.01), shapes, np.linspace(0, 2, 4), strengths)
    monkeypatch.setitem(qualities.PASSES, "fast", qualities.PASSES["fast"][:passes])
    monkeypatch.setattr(simd, "has_halves", lambda: False)
    results, covers = [], direct.covers
    for vectors in (covers, lambda *_: False):
        monkeypatch.setattr(direct, "covers", vectors)
        results.append(ss.denoise(clip, noise, radius=n // 2, flow=None, temporal_only=temporal))
    np.testing.assert_allclose(*results, atol=2e-4)
    assert (abs(results[0] - results[1]) < 1e-5).mean() > 0.995  # a frequency is kept or not by a hair


@pytest.mark.parametrize("unit", [1e-6, 1])
def test_sums_in_half_precision_err_by_little_of_the_noise(unit, monkeypatch):
    """However little there is: half precision has few small numbers."""
    clip, found = unit * np.float32(with_noise(scene(7, 40, 52), 0.1)), []
    for halves in (True, False):
        monkeypatch.setattr(simd, "has_halves", lambda halves=halves: halves)
        found.append(ss.denoise(clip, 0.1 * unit, quality="preview", flow=None, white=1) / unit)
    apart = abs(found[0] - found[1])
    assert 0 < apart.max() < 1e-3
    assert np.sqrt((apart**2).mean()) < 1e-4


@pytest.mark.parametrize(("m", "rotations"), [(1, 3), (2, 3), (5, 3), (36, 3), (36, 0.5)])
def test_components_are_those_of_numpy(m, rotations, rng, monkeypatch):
    """Also of matrices of nothing, of equal values, in blocks, of less rank than they have rows, and if rotations are many."""
    monkeypatch.setattr(components, "_ROTATIONS", rotations)
    monkeypatch.setattr(components, "_KEPT", threading.local())
    patches = rng.standard_normal((37, m, 50), np.float32)
    matrices = patches @ patches.swapaxes(1, 2) / 50
    matrices[1], matrices[2] = 0, np.eye(m)
    matrices[3, : m // 2, m // 2 :] = matrices[3, m // 2 :, : m // 2] = 0
    patches[4:9, m // 3 + 1 :] = patches[4:9, :1]
    matrices[4:9] = 1e4 * patches[4:9] @ patches[4:9].swapaxes(1, 2)
    values, vectors = components.largest(matrices, 0.5, 0)
    wanted = np.linalg.eigvalsh(matrices.astype(float))[:, ::-1]
    scale = wanted[:, :1] + 1e-30
    assert values.shape == (37, (wanted > 0.5).sum(1).max())
    shown = np.maximum(wanted, 0)[:, : values.shape[1]]
    np.testing.assert_allclose(
        np.where(shown > 0.5, values, 0) / scale, np.where(shown > 0.5, shown, 0) / scale, atol=3e-6
    )
    errors = matrices @ vectors - vectors * values[:, None]
    assert (abs(errors) < 1e-5 * scale[..., None] + 1e-12).all()
    rough, _ = components.largest(matrices, 0.5, 0.02)
    assert (abs(rough - values[:, : rough.shape[1]])[:, 0] < 0.03 + 1e-5 * scale[:, 0]).all()


def test_scenes_are_kept_apart():
    one, other = scene(6, seed=0), 1 - scene(6, seed=5)
    clip = with_noise(np.concatenate([one, other]), 0.05)
    assert list(ss.scene_cuts(clip)) == [6]
    apart = [ss.denoise(part, 0.05) for part in (clip[:6], clip[6:])]
    np.testing.assert_array_equal(ss.denoise(clip, 0.05), np.concatenate(apart))


def test_a_stream_holds_few_frames():
    """It requests a frame only when it needs one, and returns one for each."""
    asked = 0

    def frames():
        nonlocal asked
        for frame in np.tile(example(4), (10, 1, 1, 1)):
            asked += 1
            yield frame

    for given, _ in enumerate(ss.denoise_stream(frames(), 25, radius=1, flow=None)):
        assert asked <= given + ss.denoise_overlap(radius=1) + 3
    assert asked == 40


# --- frames of all kinds ----------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_dtypes_mean_the_same(dtype):
    clip = with_noise(scene(3, 32, 40), 0.05).clip(0, 1)
    whole = np.issubdtype(dtype, np.integer)
    given = (clip * np.iinfo(dtype).max).round().astype(dtype) if whole else clip.astype(dtype)
    found = ss.denoise(given, 12.75 if whole else 0.05, flow=None)
    assert found.dtype == dtype
    assert found.shape == given.shape
    np.testing.assert_allclose(
        found / (np.iinfo(dtype).max if whole else 1), ss.denoise(clip, 0.05, flow=None), atol=0.02
    )


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 5),
        (2, 3, 5),
        (3, 9, 7),
        (1, 30, 31),
        (4, 17, 5),
        (2, 1, 40, 3),
        (5, 6, 6, 2),
        (4, 9, 8, 4),
        (7, 5),
        (7, 9, 3),
        (6, 2, 2, 3),
    ],
)
def test_any_size_is_allowed(quality, shape):
    clip = np.random.default_rng(0).random(shape, np.float32)
    found = ss.denoise(clip, 0.1, quality=quality)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert abs(found.mean() - clip.mean()) < 0.1


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("value", [0, 3, 255])
@pytest.mark.parametrize("sigma", [0, 20, None])
def test_constant_frames_are_unchanged(quality, value, sigma):
    clip = np.full((4, 20, 24, 3), value, np.uint8)
    np.testing.assert_array_equal(ss.denoise(clip, sigma, quality=quality), clip)


def test_alpha_stays():
    clip = example(3)
    alpha = np.arange(clip[..., 0].size).astype(np.uint8).reshape(*clip.shape[:3], 1)
    alpha[1:] = alpha[0]  # alpha that changes from frame to frame would begin a new scene
    found = ss.denoise(np.concatenate([clip, alpha], -1), 25, flow=None)
    np.testing.assert_array_equal(found[..., 3:], alpha)
    np.testing.assert_array_equal(found[..., :3], ss.denoise(clip, 25, flow=None))


@pytest.mark.full
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_count_as_black(quality, bad):
    clip = with_noise(scene(5, 40, 48), 0.05)
    holed, black = clip.copy(), clip.copy()
    holed[2, 20, 20], black[2, 20, 20] = bad, 0
    np.testing.assert_array_equal(*(ss.denoise(x, 0.05, quality=quality, flow=None) for x in (holed, black)))


def test_the_input_is_not_written_to():
    clip = example(3).copy()
    clip.flags.writeable = False
    ss.denoise(clip, 25)


def test_any_strides():
    clip = with_noise(scene(4, 40, 48), 0.05)
    wanted = ss.denoise(clip, 0.05, flow=None)
    np.testing.assert_array_equal(ss.denoise(np.asfortranarray(clip), 0.05, flow=None), wanted)
    np.testing.assert_array_equal(ss.denoise(np.repeat(clip, 2, 2)[..., ::2], 0.05, flow=None), wanted)


def test_torch_tensors_come_back():
    torch = pytest.importorskip("torch")
    clip = example(4)
    found = ss.denoise(torch.from_numpy(clip), 25, flow=tuple(map(torch.from_numpy, flow_of(clip))))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), ss.denoise(clip, 25, flow=flow_of(clip)))
    streamed = list(ss.denoise_stream(torch.from_numpy(clip), 25, flow=None))
    np.testing.assert_array_equal(torch.stack(streamed).numpy(), ss.denoise(clip, 25, flow=None))


# --- flow -------------------------------------------------------------------------------------------
def flow_of(clip):
    forward = np.broadcast_to(np.float32([-2, -1])[:, None, None], (len(clip), 2, *clip.shape[1:3])).copy()
    return forward, -forward


def test_flow_may_be_arrays_or_a_function_or_coarse():
    clip = example(5)
    wanted = ss.denoise(clip, 25, flow=flow_of(clip))
    coarse = tuple(np.ascontiguousarray(flow[..., :10, :13] / 4) for flow in flow_of(clip))
    np.testing.assert_array_equal(ss.denoise(clip, 25, flow=coarse), wanted)

    def function(reference, target):
        here, there = (next(n for n, f in enumerate(clip) if (f == x).all()) for x in (reference, target))
        assert abs(here - there) == 1
        return flow_of(clip)[0 if there > here else 1][here]

    np.testing.assert_array_equal(ss.denoise(clip, 25, flow=function), wanted)


def test_flow_that_is_no_number_is_no_motion():
    clip = example(4)
    forward, backward = (np.full_like(flow, np.nan) for flow in flow_of(clip))
    backward[:, 1] = np.inf
    np.testing.assert_array_equal(ss.denoise(clip, 25, flow=(forward, backward)), ss.denoise(clip, 25, flow=None))
    wild = tuple(1e9 * flow for flow in flow_of(clip))
    assert ss.denoise(clip, 25, flow=wild).shape == clip.shape


@pytest.mark.parametrize("quality", ["fast", "high"])
def test_values_beyond_all_measure_are_no_error(quality, rng):
    clip = rng.standard_normal((3, 24, 30))
    for scale, dtype in ((1e300, "float64"), (3e38, "float32"), (6e4, "float16")):
        found = ss.denoise((scale * clip.clip(-1, 1)).astype(dtype), quality=quality, radius=1)
        assert found.dtype == dtype
        assert np.isfinite(found).all()


# --- the noise --------------------------------------------------------------------------------------
def test_noise_that_is_not_given_is_found():
    clip = scene(5)
    noisy = with_noise(clip, 0.1)
    given, found, auto = (ss.denoise(noisy, sigma, flow=None) for sigma in (0.1, None, "auto"))
    np.testing.assert_array_equal(found, auto)
    assert abs(psnr(found, clip) - psnr(given, clip)) < 0.3


# --- errors -----------------------------------------------------------------------------------------
CLIP = np.zeros((3, 16, 16), np.float32)
FLOW = np.zeros((3, 2, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sigma": -1}, "sigma"),
        ({"sigma": np.nan}, "sigma"),
        ({"sigma": "much"}, "sigma"),
        ({"sigma": True}, "sigma"),
        ({"sigma": np.inf}, "sigma"),
        ({"sigma": [1, 2]}, "sigma"),
        ({"quality": "best"}, "quality"),
        ({"radius": -1}, "radius"),
        ({"radius": 1.5}, "radius"),
        ({"radius": 10**9}, "radius"),
        ({"flow": "raft"}, "flow"),
        ({"flow": 3}, "flow"),
        ({"flow": (FLOW,)}, "flow"),
        ({"flow": ()}, "flow"),
        ({"flow": FLOW}, "flow"),
        ({"flow": (FLOW, FLOW[:2])}, "backward"),
        ({"flow": (FLOW[0], FLOW[0])}, "forward"),
        ({"flow": (FLOW.astype(int), FLOW)}, "forward"),
        ({"flow": (FLOW.repeat(2, 2), FLOW)}, "forward"),
        ({"flow": lambda a, b: None}, "forward"),
        ({"flow": lambda a, b: np.zeros((3, 4))}, "forward"),
        ({"strength": -1}, "strength is -1, expected a number from 0 to 100"),
        ({"strength": np.nan}, "strength"),
        ({"strength": "strong"}, "strength"),
        ({"strength": (1, 1)}, "strength has 2 numbers, expected one, or one for each of 1 planes"),
        ({"mix": 1.1}, "mix is 1.1, expected a number from 0 to 1"),
        ({"mix": None}, "mix"),
        ({"temporal_only": 1}, "temporal_only"),
        ({"temporal_only": True, "quality": "high"}, "temporal_only is True, expected quality 'fast'"),
        ({"white": 0}, "white is 0, expected a number above 0"),
        ({"white": np.inf}, "white"),
        ({"white": 256, "frames": CLIP.astype(np.uint8)}, "white is 256, expected a number above 0, up to 255"),
        ({"max_memory": 0.5}, "max_memory"),
        ({"max_memory": "much"}, "max_memory"),
        ({"frames": CLIP.astype(int)}, "frames"),
        ({"frames": None}, "frames"),
        ({"frames": [CLIP]}, "frames"),
        ({"frames": CLIP[:0]}, "frames"),
        ({"frames": np.zeros((2, 5, 5, 9))}, "frames"),
        ({"frames": CLIP[0, 0]}, "frames"),
    ],
)
def test_errors_name_the_wrong_argument(arguments, named):
    arguments = {"frames": CLIP, "sigma": 0.1, "flow": None, **arguments}
    with pytest.raises(ShiftsearchError, match=rf"^denoise: .*{named}") as raised:
        ss.denoise(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"frames": 3}, "frames"),
        ({"frames": iter([1])}, "frame"),
        ({"frames": iter([CLIP])}, "frame"),
        ({"frames": iter([CLIP[0], CLIP[0, :8]])}, "frame 1"),
        ({"flow": (FLOW, FLOW[:2])}, "flow ends before frame 2"),
        ({"flow": FLOW}, "flow"),
        ({"sigma": -1}, "sigma"),
    ],
)
def test_errors_of_streams_do_too(arguments, named):
    with pytest.raises(ShiftsearchError, match=rf"^denoise_stream: .*{named}"):
        list(ss.denoise_stream(**{"frames": iter(CLIP), "sigma": 0.1, **arguments}))


# --- how much goes ----------------------------------------------------------------------------------
def test_mix_is_the_share_of_the_grain_that_stays():
    noisy, flow = with_noise(scene(5), 0.1), motion(5)
    clean, half, whole = (ss.denoise(noisy, 0.1, flow=flow, mix=mix) for mix in (0, 0.5, 1))
    np.testing.assert_allclose(half, (clean + noisy) / 2, atol=2**-12)  # the noise is held in half precision
    np.testing.assert_allclose(whole, noisy, atol=2**-12)


def test_strength_is_that_of_so_many_times_the_noise():
    noisy, flow = with_noise(scene(5), 0.1), motion(5)
    np.testing.assert_allclose(ss.denoise(noisy, 0.1, flow=flow, strength=0), noisy, atol=1e-5)
    weak, right, strong = (ss.denoise(noisy, 0.1, flow=flow, strength=s) for s in (0.5, 1, 1.5))
    assert abs(weak - noisy).mean() < abs(right - noisy).mean() < abs(strong - noisy).mean()
    assert psnr(right, scene(5)) > max(psnr(weak, scene(5)), psnr(strong, scene(5)))


def test_colours_have_a_strength_of_their_own():
    clip = np.stack([scene(5)] * 3, -1)
    noisy, flow = with_noise(clip, 0.1), motion(5)
    found = ss.denoise(noisy, 0.1, flow=flow, strength=(0, 1, 1))
    np.testing.assert_allclose(found.sum(-1), noisy.sum(-1), atol=1e-5)  # brightness
    assert psnr(found[..., 0] - found[..., 2], 0) > psnr(noisy[..., 0] - noisy[..., 2], 0) + 5


def test_planes_have_a_strength_of_their_own():
    y = with_noise(scene(3), 0.1)
    frames = [(frame, frame[::2, ::2], frame[1::2, ::2]) for frame in y]
    for found, frame in zip(denoise_planes(frames, 0.1, flow=None, strength=(0, 1, 0)), frames, strict=True):
        near = [bool(abs(a - b).max() < 1e-5) for a, b in zip(found, frame, strict=True)]
        assert near == [True, False, True]


def test_time_alone_averages_what_stands_still():
    """White noise that changes every frame goes by as many frames as there are, and what one frame shows stays."""
    still = scene(1).repeat(7, 0)
    noisy = with_noise(still, 0.08)
    found = ss.denoise(noisy, 0.08, flow=None, radius=3, temporal_only=True)
    gain = psnr(found, still) - psnr(noisy, still)
    assert 10 * np.log10(7) - 1 < gain < 10 * np.log10(7) + 0.3
    alone = ss.denoise(noisy[0], 0.08, temporal_only=True)
    np.testing.assert_allclose(alone, noisy[0], atol=1e-6)


def test_white_may_be_any_value():
    noisy, flow = with_noise(scene(5), 0.05).clip(0, 1), motion(5)
    wanted = ss.denoise(np.float32(noisy), 0.05, flow=flow)
    of_256 = ss.denoise(256 * np.float32(noisy), 0.05 * 256, flow=flow, white=256)
    np.testing.assert_array_equal(of_256 / 256, wanted)
    ten_bits = np.rint(1023 * noisy).astype(np.uint16)
    found = ss.denoise(ten_bits, 0.05 * 255, flow=flow, white=1023)
    assert found.dtype == np.uint16
    assert found.max() <= 1023
    assert abs(found / 1023 - wanted.clip(0, 1)).max() < 0.02
    assert str(ss.estimate_noise(ten_bits, flow=None, white=1023)) == str(ss.estimate_noise(noisy, flow=None))


def test_scenes_of_another_white_are_the_same():
    first, second = (255 * scene(4, seed=seed).astype(np.float32) for seed in (0, 1))
    clip = np.concatenate([first, second])
    parts = [ss.denoise(part, 10.0, white=255, flow=None) for part in (first, second)]
    np.testing.assert_array_equal(ss.denoise(clip, 10.0, white=255, flow=None), np.concatenate(parts))


def test_a_stream_takes_flow_that_is_read_frame_by_frame(tmp_path):
    noisy, flow = example(6), motion(6, 40, 52)
    np.save(tmp_path / "flow.npy", flow[0])
    read = np.load(tmp_path / "flow.npy", mmap_mode="r")
    found = np.stack(list(ss.denoise_stream(iter(noisy), 25, radius=1, flow=(read, flow[1]))))
    np.testing.assert_array_equal(found, ss.denoise(noisy, 25, radius=1, flow=flow))


def test_a_stream_of_nothing_gives_nothing():
    assert list(ss.denoise_stream(iter(()))) == []


def test_a_stream_that_is_left_leaves_no_threads(monkeypatch, rng):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("shiftsearch-denoise")]

    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "2")
    monkeypatch.setattr(bands, "_BAND", {"numpy": 1 << 18})
    clip = rng.integers(0, 256, (1, 208, 224), np.uint8).repeat(8, 0)
    stream = ss.denoise_stream(clip, 25, radius=1, flow=None)
    next(stream)
    assert threads()
    stream.close()
    assert not threads()

    def breaks_off():
        yield from clip
        raise RuntimeError("the camera is gone")

    stream = ss.denoise_stream(breaks_off(), 25, radius=1, flow=None)
    with pytest.raises(RuntimeError, match="the camera is gone"):
        list(stream)
    assert not threads()


def test_overlap():
    assert [ss.denoise_overlap(radius=r) for r in (0, 1, 2)] == [1, 5, 9]
    assert ss.denoise_overlap(quality="high", radius=1) == 9
    for quality, radius in (("fast", 3), ("high", 6)):
        assert ss.denoise_overlap(quality=quality) == ss.denoise_overlap(quality=quality, radius=radius)
    with pytest.raises(ShiftsearchError, match="denoise_overlap: quality"):
        ss.denoise_overlap(quality="best")


@pytest.mark.full
def test_groups_that_no_span_of_frames_shows_are_not_filtered(monkeypatch):
    """Patches of two frames at one place show the same thing only where nothing moves: others would get no weight."""
    filtered = []
    known = shrink._components

    def counted(xp, matrices, *options):
        filtered.append(len(matrices))
        return known(xp, matrices, *options)

    monkeypatch.setattr(shrink, "_components", counted)
    for clip in (scene(3, 48, 56), np.repeat(scene(1, 48, 56), 3, 0)):
        ss.denoise(with_noise(clip, 0.05), 0.05, quality="high", radius=1, flow=None)
        filtered.append(0)
    moved, still = (sum(part) for part in (filtered[: filtered.index(0)], filtered[filtered.index(0) :]))
    assert moved < still
