"""Laws that hold for all sizes, options and memory layouts, which hypothesis draws."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ops import tolerance

import shiftsearch as ss
from shiftsearch import _homes, definition
from shiftsearch._geometry import query_grid
from shiftsearch.backends.cuda import Cuda
from shiftsearch.ops.aggregate import AGGREGATE
from shiftsearch.ops.gather import GATHER
from shiftsearch.ops.search import SEARCH

pytestmark = pytest.mark.usefixtures("poisoned")

_EMULATED = pytest.param(
    "emulated",
    marks=[pytest.mark.emulated, pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))],
)


@pytest.fixture(params=["cpu", _EMULATED], autouse=True)
def _backend(request, monkeypatch):
    """Return the backend for arrays in main memory: the CPU backend, or the emulated CUDA kernels instead."""
    if request.param == "emulated":
        emulated = Cuda(emulate.Emulator(seed=1))
        monkeypatch.setattr(
            _homes.Cpu, "__init__", lambda self, first: vars(self).update(backend=emulated, first=first)
        )


examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


def numbers(rng, shape, dtype):
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


@st.composite
def places(draw):
    """Options of all ops that read at given offsets, and (B, G, T, C, H, W, K)."""
    options = {
        "patch": draw(st.integers(1, 4)),
        "stride": draw(st.integers(1, 4)),
        "dilation": draw(st.integers(1, 2)),
        "border": draw(st.sampled_from(["reflect", "zeros"])),
    }
    G = draw(st.integers(1, 3))
    size = [draw(st.integers(1, n)) for n in (2, 3, 3, 8, 8, 4)]
    return options, (size[0], G, size[1], G * size[2], *size[3:])


def offsets_of(draw, rng, B, G, T, h, w, K, dtype):
    reach = draw(st.sampled_from([1, 5, 300]))
    found = rng.integers(-64 * reach, 64 * reach + 1, (B, G, T, h, w, K, 3)) / 64
    return np.rint(found).astype(np.int32) if draw(st.booleans()) else found.astype(dtype)


@pytest.mark.full
@examples
@given(st.data(), places(), dtypes, seeds)
def test_aggregate_and_gather_are_their_definition(data, places, dtype, seed):
    (options, (B, G, T, C, H, W, K)), rng = places, np.random.default_rng(seed)
    offsets = offsets_of(data.draw, rng, B, G, T, *query_grid(H, W, options["stride"]), K, dtype)
    v, weights = numbers(rng, (B, T, C, H, W), dtype), numbers(rng, offsets.shape[:-1], dtype)
    terms = K * options["patch"] ** 2
    expected = AGGREGATE.forward(definition, AGGREGATE.specify(**options), v=v, weights=weights, offsets=offsets)["out"]
    found = ss.aggregate(v, weights, offsets, **options)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, terms, expected))
    expected = GATHER.forward(definition, GATHER.specify(heads=G, **options), v=v, offsets=offsets)["patches"]
    found = ss.gather(v, offsets, heads=G, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, 4, expected))


@st.composite
def searches(draw):
    """Options of a search and (B, T, C, H, W)."""
    subpixel = draw(st.booleans())
    options = {
        "window": draw(st.integers(1, 4)),
        "patch": draw(st.integers(1, 3)),
        "radius": draw(st.integers(0, 1)),
        "heads": draw(st.integers(1, 2)),
        "stride": draw(st.integers(1, 3)),
        "step": draw(st.sampled_from([0.5, 1, 1.25] if subpixel else [1, 2])),
        "dilation": draw(st.integers(1, 2)),
        "metric": draw(st.sampled_from(["l2", "dot"])),
        "border": draw(st.sampled_from(["reflect", "zeros"])),
        "subpixel": subpixel,
        "slide": draw(st.booleans()),
        "penalty": draw(st.sampled_from([0.0, 0.5])),
        "anchor": draw(st.sampled_from([None, "self", "flow"])),
        "per_frame": draw(st.booleans()),
    }
    if options["anchor"] != "self":
        options["skip"] = draw(st.sampled_from([None, "self", "own_frame"] if options["radius"] else [None, "self"]))
    skip, each = options.get("skip"), options["per_frame"] or options["anchor"] == "flow"
    slots = 2 * options["radius"] + (skip != "own_frame")
    most = options["window"] ** 2 * (1 if each else slots) - (skip == "self")
    options["topk"] = draw(st.none() | st.integers(1, most)) if most else None
    B, T, C, H, W = (draw(st.integers(1, n)) for n in (2, 2, 2, 6, 7))
    return options, (B, T + 2 * options["radius"], C * options["heads"], H, W)


@pytest.mark.full
@examples
@given(searches(), dtypes, seeds, st.booleans(), st.booleans())
def test_search_is_its_definition(search, dtype, seed, whole, followed):
    """On small whole numbers, and places at multiples of a quarter, where sums are exact and ties many."""
    (options, (B, T, C, H, W)), rng = search, np.random.default_rng(seed)
    q, k = rng.integers(-2, 3, (2, B, T, C, H, W)).astype(dtype) if whole else numbers(rng, (2, B, T, C, H, W), dtype)
    flow = rng.integers(-20, 21, (B, T, 2 * options["radius"], 2, *query_grid(H, W, options["stride"]))) / 4
    flow = flow.astype(dtype) if followed else None
    if (
        options["skip" if "skip" in options else "anchor"] == "self"
        and options["window"] == 1
        and options["radius"] == 0
    ):
        return  # the only candidate is left out
    scores, offsets = ss.search(q, k, flow, **options)
    native = {"q": q, "k": k} | ({} if flow is None else {"flow": flow[:, None]})
    expected = SEARCH.forward(definition, SEARCH.specify(**options), **native)
    close = tolerance(dtype, options["patch"] ** 2 * C, expected["scores"])
    assert scores.dtype == dtype
    assert offsets.dtype == (dtype if options["subpixel"] else np.int32)
    same = (offsets == expected["offsets"].astype(offsets.dtype)).all(-1)
    assert np.count_nonzero(~same) <= (0 if whole else 0.02 * same.size)
    known = same | (options["penalty"] == 0)
    np.testing.assert_allclose(scores, np.where(known, expected["scores"], scores), rtol=0, atol=close)
    _check_kept(scores, offsets, options, H, W)


def _check_kept(scores, offsets, options, H, W):
    """Check what holds for every result of a search."""
    stride, finite = options["stride"], np.isfinite(scores)
    if options["border"] == "reflect":
        h, w = scores.shape[3:5]
        y, x = np.arange(h)[:, None, None] * stride + offsets[..., 1], np.arange(w)[:, None] * stride + offsets[..., 2]
        inside = (y >= -1e-5) & (y <= H - 1 + 1e-5) & (x >= -1e-5) & (x <= W - 1 + 1e-5)
        assert inside[finite].all()
    each = options["per_frame"] or options["anchor"] == "flow"
    if options["topk"] and not options["penalty"] and not options["anchor"]:
        parts = scores.shape[-1] // options["topk"] if each else 1
        ranks = (scores if options["metric"] == "l2" else -scores).reshape(*scores.shape[:-1], parts, -1)
        assert (ranks[..., 1:] >= ranks[..., :-1]).all()


def layouts(array):
    """Draw a layout in memory for the same numbers."""
    reverse = (slice(None, None, -1),) * array.ndim
    spaced = np.zeros([2 * n for n in array.shape], array.dtype)[(slice(None, None, 2),) * array.ndim]
    spaced[...] = array
    frozen = array.copy()
    frozen.flags.writeable = False
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    swapped = array.T.copy().T
    shifted = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return {
        "reversed": array[reverse].copy()[reverse],
        "spaced": spaced,
        "read-only": frozen,
        "channels last": last,
        "Fortran": np.asfortranarray(array),
        "transposed": swapped,
        "unaligned": shifted,
    }


LAYOUTS = sorted(layouts(np.zeros((1, 1))))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_do_not_depend_on_the_layout(layout, dtype, rng):
    q, k = rng.standard_normal((2, 2, 3, 4, 6, 7)).astype(dtype)
    flow = (rng.integers(-9, 10, (2, 3, 2, 2, 6, 7)) / 4).astype(dtype)
    a, b, c = (layouts(array)[layout] for array in (q, k, flow))
    for options in ({}, {"patch": 3, "metric": "dot"}, {"subpixel": True}, {"heads": 2, "stride": 2}):
        options = {"window": 3, "topk": 4, **options}
        flows = (flow[..., ::2, ::2], c[..., ::2, ::2]) if "stride" in options else (flow, c)
        expected, found = ss.search(q, k, flows[0], **options), ss.search(a, b, flows[1], **options)
        for e, f in zip(expected, found, strict=True):
            np.testing.assert_array_equal(f, e)
    scores, offsets = ss.search(q, k, flow, window=3, topk=4, heads=2)
    weights = scores / 10
    given = [layouts(array)[layout] for array in (k, weights, offsets)]
    patches = ss.gather(k, offsets, patch=3, heads=2)
    calls = [
        (lambda v, w, o: ss.aggregate(v, w, o, patch=3), (k, weights, offsets), given),
        (lambda v, w, o: ss.scatter(v, w, o, patch=3), (k, weights, offsets), given),
        (lambda v, w, o: ss.stack(v, o, w), (k, weights, offsets), given),
        (lambda v, w, o: ss.gather(v, o, patch=3, heads=2), (k, weights, offsets), given),
        (
            lambda p, w, o: ss.fold(p, o, w, size=(3, 6, 7))[0],
            (patches, weights, offsets),
            (layouts(patches)[layout], *given[1:]),
        ),
        (lambda v, w, o: ss.score(v, v, o, heads=2), (k, weights, offsets), given),
        (lambda v, w, o: ss.refine(v, v, o, heads=2, topk=3)[0], (k, weights, offsets), given),
        (lambda v, w, o: ss.chain_flow(v[:, :, :2], v[:, :, 2:], radius=1), (k, weights, offsets), given),
    ]
    for call, plain, laid in calls:
        np.testing.assert_array_equal(call(*laid), call(*plain))


def test_broadcast_arrays_equal_their_copies(rng):
    frame = rng.standard_normal((1, 1, 2, 5, 6)).astype(np.float32)
    video, flow = np.broadcast_to(frame, (2, 3, 2, 5, 6)), np.broadcast_to(np.float32(1.5), (2, 3, 2, 2, 5, 6))
    options = {"window": 3, "topk": 4}
    for f, e in zip(
        ss.search(video, video, flow, **options),
        ss.search(video.copy(), video.copy(), flow.copy(), **options),
        strict=True,
    ):
        np.testing.assert_array_equal(f, e)
    offsets = np.broadcast_to(np.array([1, -1, 2], np.int32), (2, 1, 3, 5, 6, 2, 3))
    weights = np.broadcast_to(np.float32(0.5), offsets.shape[:-1])
    found = ss.aggregate(video, weights, offsets, patch=3)
    np.testing.assert_array_equal(found, ss.aggregate(video.copy(), weights.copy(), offsets.copy(), patch=3))
    for repeated in ((-1,), (-2,), (-2, -1), (-3, -1), (4, 5)):  # axes of patches
        shape = (2, 1, 3, 5, 6, 2, 2, 3, 3)
        few = [1 if axis in repeated or axis - len(shape) in repeated else n for axis, n in enumerate(shape)]
        patches = np.broadcast_to(rng.standard_normal(few).astype(np.float32), shape)
        wanted = ss.fold(patches.copy(), offsets.copy(), weights.copy(), size=(3, 5, 6))[0]
        np.testing.assert_allclose(
            ss.fold(patches, offsets, weights, size=(3, 5, 6))[0],
            wanted,
            rtol=0,
            atol=tolerance(np.float32, 36, wanted),
        )
