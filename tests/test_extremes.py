"""Extreme calls that are allowed: infinite values and NaN, parameters at their limits, memory that runs out."""

from __future__ import annotations

import numpy as np
import pytest
from test_ops import tolerance

import shiftsearch as ss
from shiftsearch import ShiftsearchError, definition
from shiftsearch._geometry import Patches
from shiftsearch.backends import cpu
from shiftsearch.ops.search import SEARCH

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.filterwarnings("error")]

BACKENDS = pytest.mark.parametrize("backend", [definition, cpu], ids=["definition", "cpu"])
NONE = {"nan": np.nan, "inf": np.inf, "huge": 3e38}


# --- values -----------------------------------------------------------------------------------------
@pytest.mark.full
@BACKENDS
@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("fraction", [0, 0.25])
def test_a_nan_reaches_only_the_results_that_read_it(backend, border, fraction):
    """Pixels of weight 0 do not reach a result, and with a border of zeros neither do pixels outside the frame."""
    v = np.ones((1, 1, 1, 5, 6))
    v[0, 0, 0, 2, 3] = v[0, 0, 0, 0, 0] = np.nan
    offsets = np.full((1, 1, 1, 5, 6, 1, 3), [0, 0, fraction])
    offsets[0, 0, 0, 4, 5, 0] = 0, 3, 3  # far outside: (7, 8), which mirrors (1, 2)
    p = Patches(border=border, query_border="zeros")
    read = np.isnan(backend.gather(v, offsets, p)[0, 0, 0, :, :, 0, 0, 0, 0])
    expected = np.zeros((5, 6), bool)
    expected[2, 3] = expected[0, 0] = True
    expected[2, 2] = fraction > 0
    np.testing.assert_array_equal(read, expected)
    ones, c = np.ones_like(v), np.ones(offsets.shape[:-1])
    np.testing.assert_array_equal(
        np.isnan(backend.aggregate(None, v, c, offsets, p, size=(1, 1, 5, 6)))[0, 0, 0], expected
    )
    spread = np.isnan(backend.scatter(v, None, c, offsets, p, size=(1, 1, 5, 6)))[0, 0, 0]
    expected[2, 4], expected[2, 2], expected[0, 1] = fraction > 0, False, fraction > 0
    np.testing.assert_array_equal(spread, expected)
    assert np.isfinite(backend.scatter(ones, None, c, offsets, p, size=(1, 1, 5, 6))).all()


@pytest.mark.full
@BACKENDS
def test_pairs_with_a_member_outside_hold_nothing_even_beside_a_nan(backend):
    q = np.full((1, 1, 1, 1, 4), np.nan)
    offsets = np.array([0, 0, 9.5]) * np.ones((1, 1, 1, 1, 4, 1, 1))
    c, p = np.ones(offsets.shape[:-1]), Patches(border="zeros", query_border="zeros")
    assert (backend.score(q, q, offsets, p) == 0).all()
    for gradient in (backend.aggregate, backend.scatter, backend.slope):
        assert (gradient(q, q, c, offsets, p) == 0).all(), gradient


@pytest.mark.xdist_group("nothing warns")  # of kernels that take long to compile
@pytest.mark.parametrize("value", NONE.values(), ids=NONE)
def test_nothing_warns_of_values(value, rng, monkeypatch):
    """On either backend: values that are not finite give such results, or count as no motion."""
    v, flow = rng.standard_normal((2, 3, 2, 5, 6)).astype(np.float32)
    v[1, 0, 2, 3] = flow[0, 1, 2, 2] = flow[2, 0, 0, 0] = value
    coordinates = np.zeros((1, 3, 5, 6, 2, 3), np.float32)
    coordinates[0, 1, :, 2, 0] = value
    weights = np.ones(coordinates.shape[:-1], np.float32)
    results = []
    for backend in (cpu, definition):
        monkeypatch.setattr(
            ss._homes.Cpu, "__init__", lambda self, _, backend=backend: vars(self).update(backend=backend)
        )
        chained = ss.chain_flow(flow, flow, radius=1)
        patches = ss.gather(v, coordinates, patch=2)
        results.append(
            [
                ss.search(v, v, (flow, flow), window=3, topk=27)[1],
                ss.search(v, v, chained, window=3, patch=2, subpixel=True, topk=1)[1],
                ss.score(v, v, coordinates),
                ss.refine(v, v, coordinates, window=2, topk=1)[0],
                ss.aggregate(v, weights, coordinates),
                ss.scatter(v, weights, coordinates, patch=2),
                patches,
                *ss.fold(patches, coordinates, weights.astype(patches.dtype), size=(3, 5, 6)),
                ss.stack(v, coordinates, border="zeros"),
            ]
        )
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
    assert ss.upsample_flow(flow, (50, 60)).shape == (3, 2, 50, 60)


def test_upsampled_flow_is_not_finite_where_the_coarse_one_is_not():
    flow = np.ones((2, 3, 4), np.float32)
    flow[0, 0, 0], flow[1, 2, 3] = np.inf, 3e38
    fine = ss.upsample_flow(flow, (12, 16))
    assert np.isinf(fine[0, 0, 0])
    assert np.isinf(fine[1, -1, -1])
    assert (fine[0, -4:, -8:] == 4).all()


# --- parameters -------------------------------------------------------------------------------------
_LIMITS = [
    {"window": 33, "radius": 0, "topk": 5},
    {"window": 25, "radius": 0, "topk": 25 * 25},
    {"patch": 9, "dilation": 4096, "window": 2, "topk": 3},
    {"patch": 9, "dilation": 4096, "window": 2, "topk": 3, "border": "zeros"},
    {"patch": 33, "window": 1, "radius": 0, "topk": 1, "metric": "dot"},
    {"stride": 2**31 - 1, "topk": 3},
    {"stride": 2**31 - 1, "topk": 3, "subpixel": True, "border": "zeros", "patch": 3},
    {"step": 10**6, "topk": 27, "window": 3},
    {"step": 10**6, "topk": 27, "window": 3, "border": "zeros"},
    {"step": 1e6, "topk": 27, "window": 3, "subpixel": True, "slide": False},
    {"step": 1e-6, "topk": 3, "window": 3, "subpixel": True},
    {"penalty": 1e6, "topk": 3},
    {"penalty": 1e6, "step": 10**6, "topk": 3, "slide": False},
]


@pytest.mark.full
@pytest.mark.parametrize("options", _LIMITS, ids=str)
def test_parameters_at_their_limits_are_right(options, rng):
    """On whole numbers in float64, where sums are exact and the order of equal candidates is known."""
    q, k = rng.integers(-3, 4, (2, 1, 3, 2, 4, 5)).astype(float)
    scores, offsets = ss.search(q, k, **options)
    expected = SEARCH.forward(definition, SEARCH.specify(**options), q=q, k=k)
    if options.get("step") != 1e-6:  # samples of other steps lie on pixels
        np.testing.assert_array_equal(offsets, expected["offsets"])
    np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=1e-4)


@pytest.mark.full
def test_the_largest_window_equals_a_large_one(rng):
    q, k = rng.standard_normal((2, 1, 2, 2, 3))
    scores, offsets = ss.search(q, k, radius=0, window=1025, topk=6)
    expected = ss.search(q, k, radius=0, window=5, topk=6, slide=False)
    np.testing.assert_array_equal(offsets, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=0, atol=1e-12)
    assert ss.search(q, k, radius=0, window=1025, topk=None)[0].shape == (1, 1, 2, 3, 1025**2)


@pytest.mark.full
@pytest.mark.parametrize("border", ["reflect", "zeros"])
def test_extreme_patches_at_given_places_are_right(border, rng):
    v, offsets = rng.standard_normal((1, 3, 2, 4, 5)), rng.uniform(-3e9, 3e9, (1, 1, 3, 1, 1, 2, 3))
    options = {"patch": 9, "dilation": 4096, "stride": 2**31 - 1, "border": border}
    p = Patches(**options, query_border=border, metric="l2")
    scores = definition.score(v, v, offsets, p)
    np.testing.assert_allclose(ss.score(v, v, offsets, **options), scores, rtol=0, atol=tolerance(float, 200, scores))
    patches = definition.gather(v, offsets, p)
    np.testing.assert_allclose(ss.gather(v, offsets, **options), patches, rtol=0, atol=tolerance(float, 4, patches))
    covered = ss.coverage((4, 5), patch=9, stride=2**31 - 1, dilation=4096)
    assert covered.sum() == covered[0, 0] == 1


# --- memory -----------------------------------------------------------------------------------------
def test_running_out_of_memory_is_a_shiftsearch_error(monkeypatch):
    def score(*_):
        raise MemoryError("no 9 GiB")

    monkeypatch.setattr(cpu, "score", score)
    v, offsets = np.zeros((1, 2, 3, 4), np.float32), np.zeros((1, 1, 3, 4, 5, 3), np.int32)
    with pytest.raises(ShiftsearchError, match=r"score: no memory for the results of q \(1, 2, 3, 4\), .*no 9 GiB"):
        ss.score(v, v, offsets)


def test_arrays_at_odd_addresses_are_read(rng):
    v = rng.standard_normal((3, 2, 5, 6)).astype(np.float32)
    odd = np.frombuffer(b"x" + v.tobytes(), np.float32, offset=1).reshape(v.shape)
    assert not odd.flags.aligned
    assert not odd.flags.writeable
    for dtype in (np.int32, np.float32, np.int64):
        offsets = rng.integers(-2, 3, (1, 3, 5, 6, 2, 3)).astype(dtype)
        there = np.frombuffer(b"x" + offsets.tobytes(), dtype, offset=1).reshape(offsets.shape)
        np.testing.assert_array_equal(ss.score(odd, odd, there, patch=3), ss.score(v, v, offsets, patch=3))
    for found, expected in zip(ss.search(odd, odd, window=3), ss.search(v, v, window=3), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ss.chain_flow(odd, odd, radius=1), ss.chain_flow(v, v, radius=1))
