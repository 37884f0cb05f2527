"""Alignment: exact where motion is known, better than flow under noise, and the same in tiles, streams and libraries."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch._geometry import reflect
from shiftsearch.video.align import choice, clips, finer, pair, spec
from shiftsearch.video.align.tiles import Box, tiles
from shiftsearch.video.flow import arrays, pyramid


def texture(size, shift=(0.0, 0.0), channels=3, seed=0, waves=60):
    """Return smooth noise (H, W, C), 0..1, moved by `shift` = (dx, dy) pixels or fractions of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    out = np.full((*size, channels), 0.5)
    for _ in range(waves):
        fx, fy = rng.normal(0, 0.05, 2)
        along = fx * (x - shift[0]) + fy * (y - shift[1])
        out += 0.04 * np.cos(2 * np.pi * along[..., None] + rng.uniform(0, 2 * np.pi, channels))
    return out.astype(np.float32)


def noisy(frame, sigma=15, seed=1):
    return frame + np.float32(sigma / 255) * np.random.default_rng(seed).standard_normal(frame.shape, np.float32)


def constant(dx, dy, size):
    return np.full((2, *size), [[[dx]], [[dy]]], np.float32)


def error(a, b, border=12):
    """Return the root mean squared difference inside, of 255."""
    inner = np.s_[..., border:-border, border:-border, :]
    return 255 * np.sqrt(np.mean((a[inner] - b[inner]) ** 2))


SIZE = (72, 90)


# --- right ------------------------------------------------------------------------------------------
@pytest.mark.xdist_group("motion is undone")  # by kernels that take long to compile
@pytest.mark.parametrize("output", ["patch", "pixel"])
@pytest.mark.parametrize("interp", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_whole_pixel_motion_is_undone_exactly(dtype, interp, output, rng):
    white = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    still = (white * rng.random((40, 50, 3))).astype(dtype)
    moved = np.roll(still, (2, -3), (0, 1))
    aligned, offsets = ss.align(still, moved, flow=None, sigma=0, interp=interp, output=output, return_offsets=True)
    assert aligned.dtype == still.dtype
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(aligned[inner].astype(float), still[inner], rtol=1e-5)
    assert (offsets[:, 8:-8, 8:-8] == constant(-3, 2, (24, 34))).all()


def test_offsets_lead_from_the_reference_as_flow_does():
    here, there = texture(SIZE), texture(SIZE, (3, -2))
    _, offsets = ss.align(here, there, flow=None, sigma=0, return_offsets=True)
    assert (np.abs(offsets - constant(3, -2, SIZE)) < 1e-6)[:, 12:-12, 12:-12].all()


def test_the_fraction_of_the_flow_is_kept():
    here, there = texture(SIZE), texture(SIZE, (3.4, -1.7))
    off = constant(5.4, -3.7, SIZE)  # by whole pixels
    aligned, offsets = ss.align(here, there, off, sigma=0, return_offsets=True)
    np.testing.assert_allclose(offsets[:, 12:-12, 12:-12], constant(3.4, -1.7, (48, 66)), atol=1e-4)
    assert error(aligned, here) < 0.3
    whole, offsets = ss.align(here, there, off, sigma=0, subpixel=False, return_offsets=True)
    assert (offsets == np.rint(offsets)).all()
    assert error(whole, here) > 1


def test_bicubic_is_closer_than_bilinear_and_both_keep_constants():
    here, there = texture(SIZE), texture(SIZE, (1.5, 0.5))
    flow = constant(1.5, 0.5, SIZE)
    errors = {i: error(ss.align(here, there, flow, window=1, interp=i), here) for i in ("bilinear", "bicubic")}
    assert errors["bicubic"] < 0.5 * errors["bilinear"]
    for interp in errors:
        flat = np.full((9, 8, 3), 77, np.uint8)
        assert (ss.align(flat, flat, constant(0.3, 5.6, (9, 8)), interp=interp) == 77).all()


@pytest.mark.parametrize("wrong", [0.0, 1.5, 3.0])
def test_search_under_noise_is_never_below_its_flow(wrong):
    """The result stays at flow that is nearly right, and leaves flow that is far off nearly everywhere."""
    here, there = texture(SIZE), texture(SIZE, (2.3, -1.2))
    flow = constant(2.3 + wrong, -1.2 - wrong, SIZE)
    _, offsets = ss.align(noisy(here, seed=1), noisy(there, seed=2), flow, return_offsets=True)
    searched = ss.align(there, there, offsets, window=1)
    followed = ss.align(there, there, flow, window=1)
    assert error(searched, here) <= 1.1 * error(followed, here) + 0.1
    if wrong == 3:
        assert error(searched, here) < 0.3 * error(followed, here)


def test_without_contrast_noise_moves_nothing(rng):
    flat = np.full((2, *SIZE, 3), 0.5, np.float32)
    flat += np.float32(15 / 255) * rng.standard_normal(flat.shape, np.float32)
    _, kept = ss.align(*flat, flow=None, return_offsets=True)
    _, moved = ss.align(*flat, flow=None, sigma=0, return_offsets=True)
    assert (kept == 0).all(0).mean() > 0.6
    assert (moved == 0).all(0).mean() < 0.2


def test_values_beyond_all_measure_are_no_error(rng):
    clip = rng.standard_normal((3, 24, 30))
    for scale, dtype in ((1e300, "float64"), (1e37, "float32"), (6e4, "float16")):
        found = ss.align_clip((scale * clip.clip(-1, 1)).astype(dtype), "next")
        assert found.dtype == dtype
    with pytest.raises(ShiftsearchError, match="align_clip: sigma is 1e"):
        ss.align_clip(clip, sigma=1e300)


def test_sigma_is_of_255_for_whole_numbers_and_of_1_for_floats():
    here, there = noisy(texture(SIZE), seed=1), noisy(texture(SIZE, (1, 0)), seed=2)
    bytes_ = [np.clip(np.rint(255 * x), 0, 255).astype(np.uint8) for x in (here, there)]
    words = [x.astype(np.uint16) * 257 for x in bytes_]
    floats = [x / np.float32(255) for x in bytes_]
    results = [
        ss.align(*frames, flow=None, sigma=15 * scale, return_offsets=True)[1]
        for frames, scale in ((bytes_, 1), (words, 1), (floats, 1 / 255))
    ]
    assert (results[0] == results[1]).all(0).mean() > 0.999  # the same up to rounding
    assert (results[0] == results[2]).all(0).mean() > 0.999


@pytest.mark.parametrize("factor", [2, 8])
def test_coarse_flow_is_as_good(factor):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    flow = np.stack([2 + 0.01 * (x - 45), -1 + 0.01 * (y - 36)]).astype(np.float32)
    there = texture(SIZE)
    here = ss.align(there, there, flow, window=1, output="pixel")
    fine, coarse = (ss.align(here, there, f, sigma=0) for f in (flow, ss.flow.coarse(flow, factor)))
    assert error(coarse, here) < error(fine, here) + 1


# --- kinds of input ---------------------------------------------------------------------------------
def test_frames_and_clips_in_all_combinations(rng):
    clip = rng.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
    flow = rng.normal(0, 2, (3, 2, 20, 24)).astype(np.float32)
    each = [ss.align(clip[0], clip[t], flow[t], return_offsets=True) for t in range(3)]
    aligned, offsets = ss.align(clip[0], clip, flow, return_offsets=True)
    np.testing.assert_array_equal(aligned, [frame for frame, _ in each])
    np.testing.assert_array_equal(offsets, [offset for _, offset in each])
    np.testing.assert_array_equal(ss.align(clip, clip[1], flow[0])[2], ss.align(clip[2], clip[1], flow[0]))
    np.testing.assert_array_equal(ss.align(clip[::-1], clip, flow)[0], ss.align(clip[2], clip[0], flow[0]))
    assert ss.align(clip[0, ..., 0], clip[..., 0], None).shape == (3, 20, 24)
    assert ss.align(clip[:1], clip[:1], None).shape == (1, 20, 24, 3)


def test_torch_gives_the_numbers_of_numpy(rng):
    torch = pytest.importorskip("torch")
    clip = rng.integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    flow = rng.normal(0, 2, (2, 20, 24)).astype(np.float32)
    expected = ss.align(clip[0], clip, flow, return_offsets=True)
    found = ss.align(*map(torch.from_numpy, (clip[0], clip, flow)), return_offsets=True)
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, torch.Tensor)
        np.testing.assert_array_equal(a.numpy(), b)
    with pytest.raises(ShiftsearchError, match="requires a gradient"):
        ss.align(torch.zeros(8, 8), torch.zeros(8, 8), torch.zeros(2, 8, 8, requires_grad=True))


def test_a_function_gives_flow_pair_by_pair(rng):
    clip, seen = rng.random((3, 20, 24)), []

    def flow(reference, frame):
        seen.append((reference, frame))
        return constant(1, 0, (20, 24))

    found = ss.align_clip(clip, to=1, flow=flow)
    assert [(a.tolist(), b.tolist()) for a, b in seen] == [(clip[1].tolist(), clip[t].tolist()) for t in (0, 2)]
    np.testing.assert_array_equal(found[2], ss.align(clip[1], clip[2], constant(1, 0, (20, 24))))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 4), (33, 17)])
@pytest.mark.parametrize("options", [{}, {"window": 1}, {"patch": 1}, {"window": 4, "patch": 4, "interp": "bilinear"}])
def test_tiny_and_odd_sizes(size, options, rng):
    clip = rng.integers(0, 256, (2, *size, 1)).astype(np.uint8)
    for flow in (None, constant(300, -1e9, size)):
        assert ss.align(clip[0], clip, flow, **options).shape == clip.shape


def test_flow_that_is_not_finite_is_no_motion(rng):
    clip = rng.random((2, 24, 32, 3))
    flow = rng.normal(0, 1, (2, 24, 32))
    flow[0, 3:5, 7:9], flow[1, 20, 20] = np.nan, -np.inf
    np.testing.assert_array_equal(ss.align(*clip, flow), ss.align(*clip, np.where(np.isfinite(flow), flow, 0)))


def test_pixels_that_are_not_finite_make_no_warning(rng):
    clip = rng.random((2, 24, 32, 3))
    clip[:, 5, 6] = np.nan
    clip[1, 15, 20] = np.inf
    assert np.isfinite(ss.align(*clip, None)[:, 28:]).all()


def test_frames_are_not_written_and_results_are_our_own(rng):
    clip = rng.random((3, 24, 32))
    before = clip.copy()
    clip.flags.writeable = False
    for result in (ss.align(clip[0], clip, None), ss.align_clip(clip, flow=None), *ss.align_stream(clip, flow=None)):
        assert result.flags.writeable
        assert not np.shares_memory(result, clip)
    np.testing.assert_array_equal(clip, before)


def test_arrays_on_a_device_stay_on_it(on_device, rng):
    clip, motion = rng.random((2, 40, 50, 3)), rng.normal(0, 2, (2, 40, 50))
    expected = [ss.align(clip[0], clip, motion, interp=i, return_offsets=True) for i in ("bicubic", "bilinear")]
    for module in (clips, pair, spec, choice, finer, arrays, pyramid):
        on_device(module)
    for interp, wanted in zip(("bicubic", "bilinear"), expected, strict=True):
        given = map(on_device.put, (clip[0], clip, motion))
        found = ss.align(*given, interp=interp, return_offsets=True, max_memory=1)
        for a, b in zip(found, wanted, strict=True):
            assert isinstance(a, type(on_device.put(clip)))
            np.testing.assert_array_equal(a.get(), b)


# --- beyond the flow ----------------------------------------------------------------------------------
def end_point(offsets, truth, inner=np.s_[..., 12:-12, 12:-12]):
    return float(np.hypot(*(offsets - truth)[inner]).mean())


@pytest.mark.parametrize(("wrong", "sigma"), [(2, 0), (2, 15), (30, 0), (30, 15)])
def test_flow_that_is_wrong_is_mended(wrong, sigma):
    size = (96, 128)
    clean = [texture(size, shift, channels=1) for shift in ((0, 0), (3.4, -1.7))]
    frames = [noisy(frame, sigma, seed=s) for s, frame in enumerate(clean)]
    truth, given = constant(3.4, -1.7, size), constant(3.4 - wrong, -1.7 + wrong, size)
    _, offsets = ss.align(*frames, given, return_offsets=True)
    assert end_point(offsets, truth) < min(0.6 * end_point(given, truth), 2)


def test_what_stands_still_is_not_interpolated():
    still = texture((64, 80))
    frames = noisy(still, seed=1), noisy(still, seed=2)
    shaky = np.random.default_rng(0).normal(0, 0.2, (2, 64, 80)).astype(np.float32)
    _, offsets = ss.align(*frames, shaky, return_offsets=True)
    assert (offsets == 0).mean() > 0.9


def test_light_that_changes_does_not_move_anything():
    size = (72, 96)
    reference, frame = texture(size), 0.6 * texture(size, (3, -2)) + 0.1
    _, offsets = ss.align(reference, frame, constant(2, -1, size), return_offsets=True)
    assert end_point(offsets, constant(3, -2, size)) < 0.3


@pytest.mark.parametrize("flow", ["match", "function", "array", None])
def test_the_mask_shows_what_is_seen_in_both_frames(flow):
    behind, front = texture((64, 96), seed=1), texture((64, 96), seed=2)
    frames = [behind.copy(), behind.copy()]
    frames[0][20:44, 30:60], frames[1][20:44, 36:66] = front[20:44, 30:60], front[20:44, 30:60]
    there = constant(0, 0, (64, 96))
    there[0, 20:44, 30:60] = 6
    back = constant(0, 0, (64, 96))
    back[0, 20:44, 36:66] = -6
    way = {"function": lambda a, b: there if (a == frames[0]).all() else back, "array": there}.get(flow, flow)
    *_, mask = ss.align(*frames, way, return_mask=True, window=15, sigma=0)
    assert (mask.dtype, mask.shape) == (bool, (64, 96))
    hidden = np.zeros((64, 96), bool)
    hidden[20:44, 60:66] = True
    assert mask[hidden].mean() < 0.4
    assert mask[~hidden][::3].mean() > 0.85
    clip = np.stack(frames)
    streamed = [found[-1] for found in ss.align_stream(iter(clip), flow=None, return_offsets=True, return_mask=True)]
    np.testing.assert_array_equal(streamed, ss.align_clip(clip, flow=None, return_mask=True)[1])


# --- the same in pieces -----------------------------------------------------------------------------
@pytest.mark.parametrize("interp", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["smooth", "wild", "none", "coarse"])
@pytest.mark.parametrize(("patch", "window", "subpixel"), [(3, 9, True), (4, 5, False), (7, 3, True)])
def test_tiles_give_the_same_bits(kind, interp, patch, window, subpixel, rng):
    size = (137, 150)
    clip = [noisy(texture(size, shift, seed=3), seed=s) for s, shift in enumerate([(0, 0), (2.5, 1)])]
    flow = {
        "smooth": ss.upsample_flow(rng.normal(0, 1, (2, 4, 5)).astype(np.float32), size) / 20,
        "wild": rng.normal(0, 4, (2, *size)).astype(np.float32) + 1e-7,
        "coarse": rng.normal(0, 0.5, (2, 25, 24)),
        "none": None,
    }[kind]
    options = {"window": window, "patch": patch, "interp": interp, "subpixel": subpixel, "return_offsets": True}
    whole = ss.align(*clip, flow, **options, max_memory="1GiB")
    tiled = ss.align(*clip, flow, **options, max_memory=1)
    for a, b in zip(whole, tiled, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tiles_are_as_small_as_max_memory_requires():
    flow, frame = np.zeros((2, 480, 640)), Box(0, 480, 0, 640)
    for memory in ("1MB", "8MiB", "64MB"):
        options = spec.spec_of("align", None, max_memory=memory)
        found = list(tiles(options, np, flow, 134, frame))
        assert all(box.area * 4 * 134 <= options.max_memory or keep.area <= 128 * 64 for keep, box in found)
        seen = np.zeros((480, 640), int)
        for keep, _ in found:
            seen[keep.of] += 1
        assert (seen == 1).all()
    assert len(found) > 1


@pytest.mark.parametrize("far", [5, 30, 90])
def test_a_tile_has_all_pixels_that_flow_leads_it_to(far, rng):
    size, keep = (96, 80), Box(80, 88, 0, 8)
    options = spec.spec_of("align", None, window=1, patch=1, max_memory="1GiB")
    for _ in range(50):
        flow = rng.normal(0, far, (2, 1, 1)) + rng.normal(0, 0.1, (2, *size))
        ((_, box),) = tiles(options, np, flow, 118, keep)
        for axis, n, (first, end) in ((1, 96, (box.top, box.bottom)), (0, 80, (box.left, box.right))):
            at = np.indices(size)[1 - axis] + flow[axis]
            at = reflect(at[keep.of], n)
            assert at.min() >= first
            assert at.max() <= end - 1


def clip_with_a_cut(frames=4):
    scenes = [[texture((48, 64), (2 * t, -t), seed=seed) for t in range(frames)] for seed in (0, 1)]
    return np.stack(scenes[0] + scenes[1])


@pytest.mark.parametrize("to", ["previous", "next"])
def test_a_stream_gives_the_bits_of_the_clip_and_respects_cuts(to):
    clip = np.clip(255 * clip_with_a_cut(), 0, 255).astype(np.uint8)
    whole, offsets = ss.align_clip(clip, to, None, return_offsets=True)
    streamed = list(ss.align_stream(iter(clip), to, None, return_offsets=True))
    np.testing.assert_array_equal([frame for frame, _ in streamed], whole)
    np.testing.assert_array_equal([offset for _, offset in streamed], offsets)
    alone = {"previous": (0, 4), "next": (3, 7)}[to]
    for t in range(8):
        other = t + (-1 if to == "previous" else 1)
        expected = clip[t] if t in alone else ss.align(clip[other], clip[t], None)
        np.testing.assert_array_equal(whole[t], expected)


def test_chunks_of_a_clip_give_the_bits_of_the_clip():
    clip = clip_with_a_cut()
    whole, cuts = ss.align_clip(clip, flow=None), list(ss.scene_cuts(clip))
    assert cuts == [4]
    parts = [ss.align_clip(clip[c.read], flow=None)[c.keep] for c in ss.chunks(8, 2, overlap=1, cuts=cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_stream_keeps_two_frames_and_runs_behind_by_one():
    import gc
    import weakref

    class Frame(np.ndarray):
        pass

    alive, read = [], []

    def frames():
        for t in range(6):
            frame = np.full((16, 16), t / 6).view(Frame)
            alive.append(weakref.ref(frame))
            read.append(t)
            yield frame

    for n, _ in enumerate(ss.align_stream(frames(), "next", None)):
        gc.collect()
        assert len(read) <= n + 2
        assert sum(ref() is not None for ref in alive) <= 3


def test_empty_and_single_streams(rng):
    assert list(ss.align_stream([], flow=None)) == []
    frame = rng.random((8, 9))
    for to in ("previous", "next"):
        (same,) = ss.align_stream([frame], to, None)
        np.testing.assert_array_equal(same, frame)


@pytest.mark.parametrize("flow", ["dis", "farneback"])
def test_measured_flow_leads_the_search(flow):
    pytest.importorskip("cv2")
    clip = np.stack([texture((96, 128), (2.5 * t, -1.5 * t)) for t in range(3)])
    aligned = ss.align(clip[0], clip, flow, sigma=0)
    assert max(error(frame, clip[0], 24) for frame in aligned) < 0.1 * error(clip[2], clip[0], 24)
    np.testing.assert_array_equal(ss.align_clip(clip, 0, flow, sigma=0)[1:], aligned[1:])


def test_options_have_the_same_names_and_defaults_everywhere():
    promised = {
        name: p.default for name, p in inspect.signature(ss.align).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    shared = {
        name: value for name, value in promised.items() if name not in ("return_offsets", "return_mask", "progress")
    }
    kept = {field.name: field.default for field in dataclasses.fields(spec.AlignSpec)[1:]}
    assert kept | {"bits": None} == shared  # bits are kept as white
    assert set(spec.AlignOptions.__annotations__) == set(shared)


# --- errors -----------------------------------------------------------------------------------------
FRAME, CLIP = np.zeros((8, 9, 3)), np.zeros((4, 8, 9, 3))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: ss.align(FRAME, FRAME[:7], None),
            r"align: reference has frames of shape \(8, 9, 3\), expected \(7, 9, 3\)",
        ),
        (lambda: ss.align(CLIP[:3], CLIP, None), "align: reference has 3 frames, expected 1, or 4 as frames has"),
        (lambda: ss.align(FRAME, None), "align: frames is None"),
        (lambda: ss.align([1], FRAME), r"align: reference\[0\] is a int, expected an array or a picture"),
        (lambda: ss.align(FRAME, FRAME.astype(int)), "align: frames is int64"),
        (
            lambda: ss.align(FRAME, FRAME, "raft"),
            "align: flow is 'raft', expected one of 'auto', 'match', 'dis', 'farneback', None, an array",
        ),
        (lambda: ss.align(FRAME, FRAME, np.zeros((8, 9, 2))), r"align: flow has shape \(8, 9, 2\), .*OpenCV's"),
        (
            lambda: ss.align(FRAME, FRAME, np.zeros((2, 9, 9))),
            r"align: flow has shape \(2, 9, 9\), expected \(2, 8, 9\) or",
        ),
        (lambda: ss.align(FRAME, CLIP, np.zeros((3, 2, 8, 9))), r"expected \(2, H, W\) or \(4, 2, H, W\)"),
        (lambda: ss.align(FRAME, FRAME, np.zeros((1, 2, 8, 9))), r"expected \(2, H, W\)"),
        (
            lambda: ss.align(FRAME, FRAME, np.zeros((2, 8, 9), np.uint8)),
            "align: flow is uint8, expected one of float16, float32, float64",
        ),
        (lambda: ss.align(FRAME, FRAME, [1, 2]), "align: flow is a list"),
        (lambda: ss.align(FRAME, FRAME, lambda a, b: "no"), "align: flow is a str"),
        (lambda: ss.align(FRAME, FRAME, None, window=0), "align: window is 0"),
        (lambda: ss.align(FRAME, FRAME, None, patch=2.5), "align: patch is 2.5"),
        (lambda: ss.align(FRAME, FRAME, None, penalty=-1), "align: penalty is -1"),
        (
            lambda: ss.align_clip(CLIP, flow=None, bogus=1),
            "align_clip: there is no argument 'bogus', expected one of window, patch",
        ),
        (lambda: ss.align(FRAME, FRAME, None, sigma=-1), "align: sigma is -1"),
        (lambda: ss.align(FRAME, FRAME, None, sigma=float("nan")), "align: sigma is nan"),
        (lambda: ss.align(FRAME, FRAME, None, subpixel=1), "align: subpixel is 1"),
        (
            lambda: ss.align(FRAME, FRAME, None, output="mean"),
            "align: output is 'mean', expected one of 'patch', 'pixel'",
        ),
        (lambda: ss.align(FRAME, FRAME, None, interp="lanczos"), "align: interp is 'lanczos'"),
        (lambda: ss.align(FRAME, FRAME, None, max_memory="much"), 'align: max_memory is .much., .*"500MB"'),
        (lambda: ss.align_clip(FRAME, flow=None), r"align_clip: frames has shape \(8, 9, 3\), expected \(T, H, W\)"),
        (lambda: ss.align_clip(CLIP, 4, None), "align_clip: to is 4, expected the number of one of the 4 frames"),
        (lambda: ss.align_clip(CLIP, "first", None), 'align_clip: to is .first., expected "previous", "next" or'),
        (lambda: ss.align_clip(CLIP, np.arange(2)), r'align_clip: to is array\(\[0, 1\]\), expected "previous"'),
        (lambda: ss.align_stream(CLIP, 0), 'align_stream: to is 0, expected "previous" or "next"'),
        (lambda: ss.align_stream(CLIP, flow=np.zeros((2, 8, 9))), "align_stream: flow is a ndarray"),
        (lambda: ss.align_stream(CLIP, patch=0), "align_stream: patch is 0"),
        (lambda: list(ss.align_stream(3)), "align_stream: frames is a int"),
        (lambda: list(ss.align_stream([FRAME, FRAME[1:]], flow=None)), r"align_stream: frame 1 is float64 \(7, 9, 3\)"),
    ],
)
def test_bad_input_is_one_clear_error(call, said):
    with pytest.raises(ShiftsearchError, match=said):
        call()
