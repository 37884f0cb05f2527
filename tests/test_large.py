"""Large windows and patches, many kept candidates, and arrays of more than 2**31 elements.

All values are small whole numbers, so that sums are exact and even the order of equal candidates is known.
"""

from __future__ import annotations

import mmap
from math import prod

import emulate
import numpy as np
import pytest
from backends import RUNS

from shiftsearch import ShiftsearchError, definition
from shiftsearch._geometry import Patches
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import KERNELS, Cuda, search
from shiftsearch.backends.cuda.call import Call, sizes_of
from shiftsearch.backends.cuda.flow import CHAIN_FLOW_BACKWARD, _chained, launch_chain
from shiftsearch.backends.cuda.patches import GATHER
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.search import SEARCH

pytestmark = pytest.mark.full

_ON_CUDA = [run for run in RUNS if run.values[0].backend != "cpu"]
WIDE = pytest.mark.parametrize("run", [run for run in _ON_CUDA if run.values[0].precision in ("single", "double")])
GPU = pytest.mark.parametrize("run", [run for run in _ON_CUDA if run.values[0].backend == "gpu"])
SINGLE = pytest.mark.parametrize("run", [run for run in _ON_CUDA if run.values[0].precision == "single"])


def finds_what_the_cpu_finds(run, size, whole=True, **options):
    rng, spec = np.random.default_rng(0), SEARCH.specify(**options)
    h, w = ((n - 1) // spec.stride + 1 for n in size[-2:])
    q, k = rng.integers(-3, 4, (2, *size)).astype(run.dtype)
    flow = rng.integers(-16, 17, (size[0], 1, size[1], 2 * spec.radius, 2, h, w)).astype(np.float32) / (
        1 if whole else 4
    )
    there = run._load().xp
    found = SEARCH.forward(
        run._load(), spec, **{name: there.asarray(a) for name, a in (("q", q), ("k", k), ("flow", flow))}
    )
    wide = np.float32 if np.dtype(run.dtype).itemsize == 2 else run.dtype
    wanted = SEARCH.forward(cpu, spec, q=q.astype(wide), k=k.astype(wide), flow=flow)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name].get(), array, err_msg=name)


# --- many kept ------------------------------------------------------------------------------------
_BUFFERS = {
    # of 240: seven times 32 are in it before it is cut, and an eighth time would not fit
    "as a buffer is nearly full": ((1, 1, 1, 18, 19), {"window": 17, "radius": 0, "topk": 160, "stride": 9}),
    "per frame": ((1, 3, 1, 14, 13), {"window": 13, "topk": 140, "per_frame": True, "stride": 4}),
    "in global memory": ((1, 1, 1, 34, 35), {"window": 33, "radius": 0, "topk": 470, "stride": 9}),
    "nearly all": ((1, 1, 2, 34, 35), {"window": 33, "radius": 0, "topk": 1088, "stride": 30, "skip": "self"}),
    "of fractions": (
        (1, 3, 1, 9, 8),
        {"window": 17, "step": 0.25, "subpixel": True, "topk": 500, "stride": 7, "whole": False, "anchor": "self"},
    ),
}


@WIDE
@pytest.mark.parametrize("case", _BUFFERS)
def test_many_are_kept_in_order(run, case):
    size, options = _BUFFERS[case]
    finds_what_the_cpu_finds(run, size, **options)


@SINGLE
def test_warps_share_the_memory_for_buffers(run, monkeypatch):
    """One block of four warps has twenty queries."""
    monkeypatch.setattr(search, "_BUFFERS", 1)
    finds_what_the_cpu_finds(run, (1, 1, 1, 34, 43), window=33, radius=0, topk=470, stride=9)


def test_a_block_of_search_fits_on_every_device():
    """Shared memory: 64 KB with opt-in on Turing, the least of all. Larger buffers are in global memory."""
    for dtype, ctype in ((np.float32, "float"), (np.float64, "double")):
        for topk in (1, 128, 129, 227, 228, 455, 456, 10**6):
            constants = {"ACC": ctype, **search._kept_in(topk, np.dtype(dtype))}
            assert KERNELS["search"].shared(constants) <= 64 * 1024
            assert bool(constants["REGISTERS"]) == (topk <= 128)
            assert constants["SHARED"] == (128 < topk <= (455 if dtype is np.float32 else 227))
            assert constants["ROOM"] >= topk + 32 or topk <= 128


def test_candidates_that_have_no_number_are_an_error():
    spec = REFINE.specify(window=1025, topk=10)
    v, seeds = np.zeros((1, 1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 2, 2, 2045, 3), np.int32)
    with pytest.raises(
        ShiftsearchError, match=r"refine: window is \(1025, 1025\) in 2045 places, expected fewer than 2\*\*31"
    ):
        Cuda(emulate.Emulator()).search(v, v, spec, spec.patches(), seeds=seeds)


def test_indices_beyond_32_bits_are_an_error():
    long, p = (1, 1, 1, 1, 2**29 + 1), Patches()
    with pytest.raises(ShiftsearchError, match=r"frames of 1 x 536870913 pixels, expected sides of at most 2\*\*29"):
        sizes_of(p, (1, 1, 1, 1, 1, 1), long, long)
    v, at = np.zeros((1, 1, 1, 1, 130000), np.float16), np.broadcast_to(np.int32(0), (1, 1, 1, 1, 130000, 1, 3))
    call = Call(emulate.Emulator(), Patches(129), at, v.dtype, k=v)
    with pytest.raises(ShiftsearchError, match=r"gather: 2163460000 results in a row"):
        call.run_for_each(GATHER, 129**2 + 1)


# --- large windows and patches ----------------------------------------------------------------------
@SINGLE
@pytest.mark.parametrize("topk", [None, 3000])
def test_the_largest_window_and_patch_of_many_channels(run, topk):
    finds_what_the_cpu_finds(run, (1, 1, 70, 66, 70), window=65, patch=15, radius=0, topk=topk, stride=69)


@WIDE
@pytest.mark.parametrize("patch", [33, 60, 129])
def test_the_largest_patches(run, patch):
    finds_what_the_cpu_finds(run, (1, 1, 3, 7, 8), window=6, patch=patch, radius=0, topk=None, stride=7)


@GPU
def test_a_large_video(run):
    finds_what_the_cpu_finds(run, (2, 5, 16, 90, 131), window=9, patch=7, topk=10, heads=2)
    finds_what_the_cpu_finds(run, (1, 3, 8, 120, 97), window=25, patch=3, topk=600, stride=3)
    finds_what_the_cpu_finds(run, (1, 3, 3, 70, 80), window=65, patch=15, topk=5000, stride=16)


# --- more than 2**31 elements -----------------------------------------------------------------------
class _Untouched:
    """NumPy whose new arrays are zeros that take memory only where they are written."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype):
        size = prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype).reshape(shape)


_FEW = 40  # queries at the end of the last row that are computed
_H, _W, _C, _K = 32768, 32800, 2, 2  # more than 2**31 candidates and values


@pytest.fixture
def huge():
    """A backend that computes only the end, and makers of arrays with random ends."""
    if emulate.available() is not None:
        pytest.skip(emulate.available())
    xp, rng = _Untouched(), np.random.default_rng(0)

    def video(T, C, H, W):
        """As kernels want it: no copy is made. Its last rows and columns are random."""
        array = xp.empty((1, T, H, W, C), np.float16)
        rows, columns, channels = min(H, 8), min(W, 2 * _FEW), min(C, 200)
        array[0, :, -rows:, -columns:, -channels:] = rng.integers(-3, 4, (T, rows, columns, channels))
        return array.transpose(0, 1, 4, 2, 3)

    def places(*shape):
        array = xp.empty((*shape, 3), np.float32)
        array[0, 0, -1, -1, -_FEW:] = rng.integers(-8, 9, (min(_FEW, shape[4]), shape[5], 3)) / 4
        return array

    device = emulate.Emulator(guard=None, last=2)
    device.xp = xp
    return Cuda(device), video, places


def _end(array):
    """Return the end of a video, near its last pixel."""
    return array[..., -200:, -8:, -2 * _FEW :].astype(float)


@pytest.mark.emulated
def test_more_candidates_than_32_bits_count(huge):
    backend, video, places = huge
    q, k, offsets = video(2, _C, _H, _W), video(2, _C, _H, _W), places(1, 1, 1, _H, _W, _K)
    weights = backend.xp.empty(offsets.shape[:-1], np.float32)
    weights[0, 0, 0, -1, -_FEW:] = np.random.default_rng(1).integers(-2, 3, (_FEW, _K))
    assert min(q.size, weights.size) > 2**31
    last, near = np.s_[:, :, :, -1:, -_FEW:], (_end(q), _end(k))
    at, few = offsets[last].astype(float), weights[last]
    p, here = (Patches(patch=2, metric="l2", origin=origin) for origin in ((1, 0, 0), (1, 7, _FEW)))
    np.testing.assert_array_equal(backend.score(q, k, offsets, p)[last], definition.score(*near, at, here))
    np.testing.assert_array_equal(
        backend.slope(q, k, weights, offsets, p)[last], definition.slope(*near, few, at, here)
    )
    one, one_here = (Patches(origin=of.origin) for of in (p, here))
    np.testing.assert_array_equal(backend.gather(k, offsets, one)[last], definition.gather(near[1], at, one_here))
    own = np.s_[:, 1, :, -1, -_FEW + 1 :]
    aggregated = definition.aggregate(*near, few, at, here)[own]
    np.testing.assert_array_equal(backend.aggregate(q, k, weights, offsets, p)[own], aggregated.astype(np.float16))
    spec = SEARCH.specify(window=3, radius=0, topk=_K)
    scores, found, _ = backend.search(q, k, spec, spec.patches())
    wanted, there, _ = definition.search(*near, spec, spec.patches())
    own = np.s_[:, :, 1, -1, -8:]  # a block has four queries
    np.testing.assert_array_equal(scores[own], wanted[own])
    np.testing.assert_array_equal(found[own], there[own])


@pytest.mark.emulated
def test_more_channels_than_32_bits_count_go_to_their_places(huge):
    """Of `scatter` only indices are checked: its list of pixels would take too much memory."""
    backend, video, places = huge
    q, k, offsets = (
        video(1, 2**31 // 1600 + 999, 40, 40),
        video(1, 2**31 // 1600 + 999, 40, 40),
        places(1, 1, 1, 40, 40, _K),
    )
    weights = np.ones(offsets.shape[:-1], np.float32)
    p = Patches(patch=2, metric="l2")
    assert q.size > 2**31
    end = np.s_[..., -8:, -2:, :]  # a block has eight channels of a row
    found = backend.scatter(q, k, weights, offsets, p)[end]
    near = (v[:, :, -8:].astype(float) for v in (q, k))
    wanted = definition.scatter(*near, weights, offsets.astype(float), p)[end]
    assert wanted.any()
    np.testing.assert_array_equal(found, wanted.astype(np.float16))


@pytest.mark.emulated
def test_more_flow_than_32_bits_count(huge):
    backend, _, _ = huge
    shape, rng = (1, 3, 2, _H, _W), np.random.default_rng(0)
    flows = [backend.xp.empty(shape, np.float32) for _ in range(2)]
    for flow in flows:
        flow[..., -8:, -2 * _FEW :] = rng.integers(-8, 9, (1, 3, 2, 8, 2 * _FEW)) / 4
    assert flows[0].size > 2**31
    chained = _chained(backend.device, *flows, 1, 1)[..., -1, -_FEW:]
    wanted = definition.chain_flow(*(flow[..., -8:, -2 * _FEW :] for flow in flows), radius=1, stride=1)[
        ..., -1, -_FEW:
    ]
    np.testing.assert_array_equal(chained[0, 2], wanted[0, 2])  # of the last frame, which is computed

    def arrives(backend, forward, backward):
        """At each step of the trajectory of the last queries."""
        B, T, _, H, W = forward.shape
        grad, chained = (backend.xp.empty((B, T, 2, 2, H, W), dtype) for dtype in (np.float32, np.float64))
        grad[..., -1, -_FEW:] = 1
        chained[..., -1, -_FEW:] = wanted
        each = {"offsets": (3,), "arrived": (2,), "forwards": (), "backwards": ()}
        out = {name: backend.xp.empty((B, T, H, W, 2, *more), np.float64) for name, more in each.items()}
        arguments = {"grad": grad, "chained": chained, **out}
        launch_chain(backend.device, CHAIN_FLOW_BACKWARD, forward, backward, 1, 1, arguments)
        return [array[0, -1, -1, -_FEW:] for array in out.values()]

    small = Cuda(emulate.Emulator())
    small.xp = _Untouched()
    near = (np.ascontiguousarray(flow[..., -8:, -2 * _FEW :]) for flow in flows)
    for found, expected in zip(arrives(backend, *flows), arrives(small, *near), strict=True):
        np.testing.assert_array_equal(found, expected)
