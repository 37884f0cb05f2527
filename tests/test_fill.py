"""Planes of half the size, and gaps that are filled from them: all backends do what the definition says."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from test_settle import device

from shiftsearch import definition
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
SIZES = [(2, 5, 7), (1, 1, 6), (3, 6, 1), (1, 1, 1), (2, 13, 31), (1, 64, 32)]
TOLERANCES = {"float32": 1e-6, "float64": 1e-14}


def _planes(size: tuple[int, int, int], seen: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Return what is found and its weight, which most pixels do not have, or hardly; of several planes, one has none."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.01, 2, size) * (rng.random(size) < seen) * np.where(rng.random(size) < 0.2, 1e-20, 1)
    weight[1:2] = 0
    return rng.normal(0, 1, size), weight


def _on_kernels(primitive: str, *arrays: np.ndarray, fault: tuple[str, str] = ("", ""), **options: float) -> np.ndarray:
    there = device(fault)
    return getattr(Cuda(there), primitive)(*(there.xp.asarray(array) for array in arrays), **options).get()


each_way = pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda primitive, *arrays, **options: getattr(cpu, primitive)(*arrays, **options), id="cpu"),
        pytest.param(_on_kernels, id="cuda", marks=[on_kernels, pytest.mark.emulated]),
    ],
)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES)
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def _close(found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCES[dtype])


@each_way
@each_dtype
@each_size
def test_planes_are_halved_as_the_definition_says(run, dtype, size):
    planes = _planes(size)[0]
    _close(run("coarser", np.asfortranarray(planes.astype(dtype))), definition.coarser(planes), dtype)


@each_way
@each_dtype
@each_size
@pytest.mark.parametrize("seen", [0.3, 0.02, 0])
def test_gaps_are_filled_as_the_definition_says(run, dtype, size, seen):
    found, weight = (np.asfortranarray(each.astype(dtype)) for each in _planes(size, seen))
    wide = (each.astype(float) for each in (found, weight))
    _close(run("fill", found, weight, known=0.05), definition.fill(*wide, known=0.05), dtype)


def test_halves_are_means_of_what_lies_in_the_plane():
    planes = np.array([[[1.0, 3, 5], [5, 7, 9], [2, 4, 6]]])
    assert definition.coarser(planes).tolist() == [[[4, 7], [3, 6]]]


def test_gaps_take_the_mean_of_what_is_nearest():
    found, weight = np.array([[[1.0, 9, 5, 9]]]), np.array([[[1.0, 0, 3, 0]]])
    assert definition.fill(found, weight, known=0.05).tolist() == [[[1, 1, 5, 5]]]
    assert definition.fill(found, weight, known=0.6).tolist() == [[[1, 4, 5, 5]]]  # (1 + 3 * 5) / (1 + 3)


_FAULTS = [
    ("coarser", "y + 1 < s.h ? above + s.w : above", "above + s.w"),
    ("coarser", "x + 1 < s.w", "1"),
    ("coarser", "above[next] + below[next]", "above[next] + above[next]"),
    ("coarser", "number / across / down * s.h", "number / across / down"),
    ("fill", "share > least", "share >= least"),
    ("fill", " || !coarse", ""),
    ("fill", "found ? found[number] :", ""),
    ("fill", "fmax(share, (SS_ACC)1e-12)", "share"),
    ("fill", "y / 2)", "y)"),
    ("fill", "plane * ((s.h + 1) / 2)", "plane * (s.h / 2)"),
    ("fill", "level[s.count + number]", "level[number]"),
]


@on_kernels
@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.parametrize(("primitive", "right", "wrong"), _FAULTS, ids=str)
def test_fault_is_caught(primitive, right, wrong):
    assert kernels.text("fill.cu", {}).count(right) == 1
    found, weight = (each.astype("float32") for each in _planes((3, 13, 31), 0.02))
    arrays, options = ((found,), {}) if primitive == "coarser" else ((found, weight), {"known": 0.05})
    expected = getattr(definition, primitive)(*(each.astype(float) for each in arrays), **options)
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _close(_on_kernels(primitive, *arrays, fault=(right, wrong), **options), expected, "float32")
    assert ": error: " not in str(caught.value), "does not compile"
