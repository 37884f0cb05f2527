"""Frames moved by flow, and means around pixels: all backends do what the definition says."""

from __future__ import annotations

from functools import partial

import emulate
import numpy as np
import pytest
from test_search_tiles import under_tsan
from test_settle import device

from shiftsearch import definition
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
SIZES = [(2, 3, 5, 7), (1, 1, 1, 6), (3, 2, 6, 1), (1, 1, 1, 1), (1, 2, 13, 31)]
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


def _moved(size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return frames and flow that leads far out of them, here and there by whole pixels."""
    rng, (T, _, H, W) = np.random.default_rng(0), size
    target, flow = rng.random(size), rng.normal(0, 1, (T, 2, H, W)) * [[[[2 * W]], [[H]]]]
    flow[..., ::2] = np.rint(flow[..., ::2])
    flow[0, 1, 0, 0] = np.inf
    return target, flow


def _on_kernels(primitive: str, *arrays: np.ndarray, fault: tuple[str, str] = ("", ""), **options: int) -> np.ndarray:
    there = device(fault)
    return getattr(Cuda(there), primitive)(*(there.xp.asarray(array) for array in arrays), **options).get()


_BACKENDS = [
    pytest.param(lambda primitive, *arrays, **options: getattr(cpu, primitive)(*arrays, **options), id="cpu"),
    pytest.param(_on_kernels, id="cuda", marks=[on_kernels, pytest.mark.emulated]),
]
each_way = pytest.mark.parametrize("run", _BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES)


def _close(found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCES[dtype])


@each_way
@each_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frames_are_moved_as_the_definition_says(run, dtype, size):
    target, flow = (np.asfortranarray(array.astype(dtype)) for array in _moved(size))
    wide = (array.astype(float) for array in (target, flow))
    _close(run("warp", target, flow), definition.warp(*wide), dtype)


def test_flow_leads_to_pixels_and_their_mirror_images():
    frame = np.arange(6.0).reshape(1, 1, 2, 3)
    flow = np.zeros((1, 2, 2, 3))
    flow[0, 0] = [[1, 0.5, 1], [-1, -2, 0]]
    flow[0, 1] = [[1, 0.5, 0], [0, 0, 1]]
    assert definition.warp(frame, flow).tolist() == [[[[4, 3, 1], [4, 4, 2]]]]


@each_way
def test_flow_that_is_no_number_gives_none(run):
    target, flow = (array.astype("float32") for array in _moved((2, 3, 5, 7)))
    flow[1, 0, 2, 3] = np.nan
    with np.errstate(invalid="ignore"):  # as for all array code
        found = run("warp", target, flow)
    assert np.isnan(found[1, :, 2, 3]).all()
    assert np.isnan(found).sum() == 3


@each_way
@each_dtype
@pytest.mark.parametrize("by", [1, 2, 4, 12])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_means_around_are_what_the_definition_says(run, dtype, by, size):
    frames = _moved(size)[0][:, 0]
    _close(
        run("mean_around", np.asfortranarray(frames.astype(dtype)), by=by), definition.mean_around(frames, by), dtype
    )


def test_means_are_of_fewer_pixels_at_the_border():
    assert definition.mean_around(np.arange(6.0).reshape(1, 2, 3), 1).tolist() == [[[2, 2.5, 3], [2, 2.5, 3]]]


_FAULTS = [
    ("warp", "(SS_ACC)(-2.0 * n)", "(SS_ACC)(-1.0 * n)"),
    ("warp", "n - 1 - abs(n - 1 - abs(at))", "n - 1 - abs(n - 1 - at)"),
    ("warp", "(int)whole + 1", "(int)whole"),
    ("warp", "2 * plane * frame", "plane * frame"),
    ("warp", "(frame * s.channels + c)", "(frame + c)"),
    ("warp", "y.share *", "x.share *"),
    ("mean_around", "max(first + SS_RUN - 1, 0)", "max(first + SS_RUN, 0)"),
    ("mean_around", "row <= end", "row < end"),
    ("mean_around", "row >= 0 && row < h ?", "row > 0 && row < h ?"),
    ("mean_around", "row >= 0 && row < h ?", "true ?"),
    ("mean_around", "+ column(first + i)", ""),
    ("mean_around", "if (i) after", "after"),
    ("mean_around", "max(first + i, 0)", "(first + i)"),
    ("mean_around", "min(left + lane, s.w - 1)", "(left + lane)"),
    ("mean_around", "blockIdx.x / across / down", "blockIdx.x / across"),
    ("mean_around", "left + i < s.w && ", ""),
]


@on_kernels
@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.parametrize(("primitive", "right", "wrong"), _FAULTS, ids=str)
def test_fault_is_caught(primitive, right, wrong):
    assert kernels.text("warp.cu" if primitive == "warp" else "mean_down.cu", {}).count(right) == 1
    target, flow = (array.astype("float32") for array in _moved((2, 3, 5, 37)))
    arrays, options = ((target, flow), {}) if primitive == "warp" else ((target[:, 0],), {"by": 4})
    run = partial(_on_kernels, primitive, *arrays, **options)
    _close(run(), run(), "float32")
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _close(run(fault=(right, wrong)), run(), "float32")
    assert ": error: " not in str(caught.value), "does not compile"


@under_tsan
@pytest.mark.emulated
def test_means_have_no_race():
    frames = _moved((2, 1, 5, 37))[0][:, 0].astype("float32")
    _close(_on_kernels("mean_around", frames, by=4), definition.mean_around(frames, 4), "float32")


@under_tsan
@pytest.mark.emulated
def test_a_race_is_seen():
    frames = _moved((2, 1, 5, 37))[0][:, 0].astype("float32")
    with pytest.raises(emulate.EmulatorError, match="data race"):
        _on_kernels("mean_around", frames, by=4, fault=("__syncthreads();", ""))
