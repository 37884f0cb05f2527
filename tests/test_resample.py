"""A frame read between its pixels: all backends do what the definition says."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from test_settle import device

from shiftsearch import definition
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
SIZES = [(3, 9, 14), (1, 1, 6), (2, 6, 1), (4, 1, 1), (1, 5, 131)]  # channels, rows and columns
TOLERANCES = {"float32": 2e-6, "float64": 1e-13}


def _read(size: tuple[int, int, int], dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Return a frame and offsets, some of which lead far out of it, and some to whole pixels."""
    rng, (_, H, W) = np.random.default_rng(0), size
    offsets = rng.normal(0, 1, (2, H, W)) * [[[W]], [[H]]]
    offsets[..., ::2] = np.rint(offsets[..., ::2])
    return rng.random(size).astype(dtype), offsets.astype("float32")


def _on_kernels(
    target: np.ndarray, offsets: np.ndarray, *, patch: int, fault: tuple[str, str] = ("", "")
) -> np.ndarray:
    there = device(fault)
    return Cuda(there).resample(there.xp.asarray(target), there.xp.asarray(offsets), patch=patch).get()


each_way = pytest.mark.parametrize(
    "run",
    [
        pytest.param(cpu.resample, id="cpu"),
        pytest.param(_on_kernels, id="cuda", marks=[on_kernels, pytest.mark.emulated]),
    ],
)


def _close(found: np.ndarray, target: np.ndarray, offsets: np.ndarray, patch: int) -> None:
    assert found.dtype == target.dtype
    expected = definition.resample(target.astype(float), offsets.astype(float), patch=patch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCES[target.dtype.name])


@each_way
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("patch", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frames_are_read_as_the_definition_says(run, dtype, patch, size):
    target, offsets = _read(size, dtype)
    _close(run(np.asfortranarray(target), np.asfortranarray(offsets), patch=patch), target, offsets, patch)


def test_whole_offsets_lead_to_pixels_and_their_mirror_images():
    target = np.arange(6.0).reshape(1, 2, 3)
    offsets = np.array([[[1, 0, 1], [-1, -2, 0]], [[0, 1, 0], [0, 0, 1]]], float)
    assert definition.resample(target, offsets, patch=1).tolist() == [[[1, 4, 1], [4, 4, 2]]]


def test_patches_that_have_a_pixel_are_averaged():
    target = np.arange(4.0).reshape(1, 1, 4) ** 2
    offsets = np.zeros((2, 1, 4))
    offsets[0, 0] = [1, 0, 0, 0]  # only the first patch is read elsewhere
    found = definition.resample(target, offsets, patch=3)
    np.testing.assert_allclose(found, [[[(1 + 0) / 2, (4 + 1 + 1) / 3, 4, 9]]])


def test_between_pixels_cubic_convolution_reads_squares_nearly_and_lines_exactly():
    line = np.arange(12.0).reshape(1, 1, 12)
    offsets = np.zeros((2, 1, 12))
    offsets[0] = 0.5
    np.testing.assert_allclose(definition.resample(line, offsets, patch=1)[0, 0, 2:9], line[0, 0, 2:9] + 0.5)


@each_way
def test_what_has_no_weight_is_not_read(run):
    target, offsets = _read((2, 9, 14), "float32")
    target[0, 4, 5] = np.nan
    offsets = np.rint(offsets)
    with np.errstate(invalid="ignore"):
        found = run(target, offsets, patch=3)
    _close(found, target, offsets, 3)
    assert 0 < np.isnan(found).sum() < found[0].size / 4


_FAULTS = [
    ("floor(offset)", "rint(offset)"),
    ("x < 1", "x < 2"),
    ("reflect(query + (int)whole + i - 1, n)", "(query + (int)whole + i - 1)"),
    ("(int)whole + i - 1", "(int)whole + i"),
    ("+ apart, n)", ", n)"),
    ("1 - share, 2 - share", "2 - share, 1 - share"),
    ("query_y < 0 || ", ""),
    (" || query_x >= s.w", ""),
    ("offset[plane]", "offset[0]"),
    ("columns.weight[i % 4]", "columns.weight[i / 4]"),
    ("weight != 0 ? value : 0", "value"),
    ("sum[c] / count", "sum[c] / (SS_PATCH * SS_PATCH)"),
    ("if (x >= s.w) return;", ""),
    ("pixel[c * plane]", "pixel[0]"),
]


@on_kernels
@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.parametrize("fault", _FAULTS, ids=str)
def test_fault_is_caught(fault):
    assert kernels.text("resample.cu", {}).count(fault[0]) == 1
    target, offsets = _read((2, 9, 14), "float32")
    target[0, 4, 5] = np.nan
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _close(_on_kernels(target, offsets, patch=3, fault=fault), target, offsets, 3)
    assert ": error: " not in str(caught.value), "does not compile"
