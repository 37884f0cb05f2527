"""Groups of patches filtered in their spectrum: all backends do what the definition says."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from test_search_tiles import under_tsan
from test_settle import device

from shiftsearch import definition
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
SIZES = [(5, 7, 8), (1, 1, 8), (3, 17, 8), (7, 4, 5), (131, 2, 1), (2, 3, 16)]  # groups, their patches, and their sides
TOLERANCES = {"float32": 3e-6, "float64": 1e-13}


def _groups(size: tuple[int, int, int], *, guided: bool) -> list[np.ndarray]:
    """Return what `threshold` or `wiener` takes. No frequency is so near its level that rounding decides."""
    rng, (q, n, side) = np.random.default_rng(0), size
    groups, guide = rng.normal(0, 1, (2, q, n, side**2)) * rng.uniform(0.2, 3, (q, 1, 1))
    levels, powers = rng.uniform(0.5, 1.5, (2, side**2))
    if guided:
        return [groups, guide, levels, powers]
    spectrum = np.abs(_spectrum(groups))
    levels *= 0.9 + 0.2 * (np.abs(spectrum / levels - 1).min((0, 1)) > 1e-4)
    return [groups, levels, powers]


def _spectrum(groups: np.ndarray) -> np.ndarray:
    """Return the spectrum by sums of cosines, one frequency after the other."""
    q, n, pixels = groups.shape
    side = round(pixels**0.5)
    cubes, found = groups.reshape(q, n, side, side), np.zeros((q, n, side, side))
    waves = [np.cos(np.pi * np.outer(np.arange(m), np.arange(m) + 0.5) / m) for m in (n, side, side)]
    for k, wave in enumerate(waves[0]):
        for y, down in enumerate(waves[1]):
            for x, across in enumerate(waves[2]):
                basis = wave[:, None, None] * down[:, None] * across
                found[:, k, y, x] = (cubes * basis).sum((1, 2, 3)) / np.sqrt((basis**2).sum())
    return found.reshape(groups.shape)


def _on_kernels(primitive: str, *arrays: np.ndarray, fault: tuple[str, str] = ("", "")) -> list[np.ndarray]:
    there = device(fault)
    found = getattr(Cuda(there), primitive)(*(there.xp.asarray(array) for array in arrays))
    return [each.get() for each in found]


_BACKENDS = [
    pytest.param(lambda primitive, *arrays: getattr(cpu, primitive)(*arrays), id="cpu"),
    pytest.param(_on_kernels, id="cuda", marks=[on_kernels, pytest.mark.emulated]),
]
each_way = pytest.mark.parametrize("run", _BACKENDS)
each_filter = pytest.mark.parametrize("primitive", ["threshold", "wiener"])


def _check(primitive: str, arrays: list[np.ndarray], found: list[np.ndarray], dtype: str) -> None:
    wide = (np.asarray(each, float) for each in arrays)
    for one, other in zip(found, getattr(definition, primitive)(*wide), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCES[dtype] * np.abs(other).max())


@each_way
@each_filter
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_groups_are_filtered_as_the_definition_says(run, primitive, size, dtype):
    arrays = [np.asfortranarray(each.astype(dtype)) for each in _groups(size, guided=primitive == "wiener")]
    kept = arrays[0].copy()
    found = run(primitive, *arrays)
    np.testing.assert_array_equal(arrays[0], kept)
    _check(primitive, arrays, found, dtype)


@pytest.mark.parametrize("size", [(2, 3, 4), (1, 5, 3), (2, 1, 2)], ids=str)
def test_spectra_are_sums_of_cosines(size):
    groups, levels, powers = _groups(size, guided=False)
    spectrum = _spectrum(groups)
    keep = np.abs(spectrum) > levels
    keep[:, 0, 0] = True
    found, weights = definition.threshold(groups, levels, powers)
    np.testing.assert_allclose(_spectrum(found), spectrum * keep, atol=1e-12)
    np.testing.assert_allclose(weights, 1 / (keep * powers).sum((1, 2)))
    found, weights = definition.wiener(groups, groups[::-1], levels, powers)
    gain = spectrum[::-1] ** 2 / (spectrum[::-1] ** 2 + levels)
    np.testing.assert_allclose(_spectrum(found), spectrum * gain, atol=1e-12)
    np.testing.assert_allclose(weights, 1 / (1 + (gain**2 * powers).sum((1, 2))))


def test_the_lowest_frequency_is_kept():
    groups = np.full((1, 2, 4), 3.0)
    found, weights = definition.threshold(groups, np.full(4, 100.0), np.full(4, 0.5))
    np.testing.assert_allclose(found, groups)
    assert weights == 2


@on_kernels
@pytest.mark.emulated
@each_filter
@pytest.mark.parametrize("size", [(2, 18, 8), (1, 2, 17)], ids=str)
def test_larger_groups_are_left_to_array_code(primitive, size):
    arrays = [each.astype("float32") for each in _groups(size, guided=primitive == "wiener")]
    there = device(("__global__", "no kernel"))
    found = getattr(Cuda(there), primitive)(*(there.xp.asarray(each) for each in arrays))
    _check(primitive, arrays, [each.get() for each in found], "float32")


_FAULTS = [
    ("threshold", "min(SS_GROUPS, left)", "SS_GROUPS"),
    ("threshold", "group * (SS_COUNT * SS_SIZE)", "group * SS_SIZE"),
    ("threshold", "lowest || fabs(number) > level", "fabs(number) > level"),
    ("threshold", "fabs(number) > level", "number > level"),
    ("threshold", "patch % SS_COUNT == 0 && x == 0", "x == 0"),
    ("threshold", "patch % SS_COUNT == 0 && x == 0", "patch == 0 && x == 0"),
    ("threshold", "first && n == 0", "first"),
    ("threshold", "keep ? power : 0", "keep ? 1 : 0"),
    ("threshold", "levels[n * SS_PATCH]", "levels[0]"),
    ("threshold", "powers[n * SS_PATCH]", "powers[0]"),
    ("threshold", "sum += noise[group * SS_COUNT * SS_PATCH + i]", "sum += noise[i]"),
    ("threshold", "k % 2 ? apart[i] : sums[i]", "sums[i]"),
    ("threshold", "i == n / 2 ? x[i] :", ""),
    ("threshold", "found[n - 1 - i] = even - odd", "found[n - 1 - i] = even + odd"),
    ("threshold", "(k ? 2.0 : 1.0)", "2.0"),
    ("threshold", "part > 2 * n ? 4 * n - part : part", "part % (2 * n)"),
    ("wiener", "(guide * guide + level)", "(guide + level)"),
    ("wiener", "gain * gain * power", "gain * power"),
    ("wiener", "1 / (SS_GUIDED + sum)", "1 / sum"),
    ("wiener", "read(guide + begin, guiding, here)", "read(groups + begin, guiding, here)"),
]


@on_kernels
@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.parametrize(("primitive", "right", "wrong"), _FAULTS, ids=str)
def test_fault_is_caught(primitive, right, wrong):
    assert kernels.text("shrink.cu", {}).count(right) == 1
    arrays = [each.astype("float32") for each in _groups((5, 7, 8), guided=primitive == "wiener")]
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _check(primitive, arrays, _on_kernels(primitive, *arrays, fault=(right, wrong)), "float32")
    assert ": error: " not in str(caught.value), "does not compile"


@under_tsan
@pytest.mark.emulated
@each_filter
def test_groups_have_no_race(primitive):
    arrays = [each.astype("float32") for each in _groups((3, 7, 8), guided=primitive == "wiener")]
    _check(primitive, arrays, _on_kernels(primitive, *arrays), "float32")


@under_tsan
@pytest.mark.emulated
@pytest.mark.parametrize("before", ["// rows\n", "// columns\n", "// rows again\n", "i < here * SS_PIXELS"], ids=str)
def test_a_race_is_seen(before):
    text = kernels.text("shrink.cu", {})
    end = text.index(before)
    start = text.rindex("__syncthreads();", 0, end)
    fault = text[start:end], text[start:end].removeprefix("__syncthreads();")
    arrays = [each.astype("float32") for each in _groups((3, 7, 8), guided=True)]
    with pytest.raises(emulate.EmulatorError, match="data race"):
        _on_kernels("wiener", *arrays, fault=fault)
