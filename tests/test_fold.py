"""Patches added square by square: what the definition says, at borders, with places of one head or of each."""

from __future__ import annotations

from dataclasses import dataclass

import emulate
import numpy as np
import pytest
from device_arrays import Namespace

from shiftsearch import definition
from shiftsearch._geometry import Patches
from shiftsearch.backends.cuda import Cuda, kernels

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
_NOTHING = ("", "")
TOLERANCES = {"float32": 1e-5, "float64": 1e-13, "float16": 2e-2}


class _Device(emulate.Emulator):
    """Remembers which kernels were launched, and may have a fault in one of them."""

    xp = Namespace()

    def __init__(self, fault: tuple[str, str]):
        super().__init__(seed=1)
        self.fault, self.launched = fault, []

    def launch(self, program, blocks, values, *, shared=0):
        self.launched.append(program.kernel.name)
        text = program.text.replace(*self.fault) if self.fault[0] and program.kernel.name == "fold" else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)


@dataclass(frozen=True)
class Folded:
    name: str
    patch: int
    size: tuple[int, int, int] = (2, 19, 23)  # frames, rows and columns
    heads: int = 1
    channels: int = 1
    batch: int = 1
    stride: int = 4
    kept: int = 2
    border: str = "reflect"
    shared: bool = False  # whether all heads have the places of the first
    weighted: bool = True
    crowded: bool = False  # whether all patches lie at one place
    dtype: str = "float32"

    def arrays(self):
        """Return patches, weights, of which some are 0, and offsets, some of which lead out of the frames."""
        rng, (T, H, W), s = np.random.default_rng(0), self.size, self.stride
        shape = (self.batch, self.heads, T, -(-H // s), -(-W // s), self.kept)
        patches = rng.normal(0, 1, (*shape, self.channels, self.patch, self.patch)).astype(self.dtype)
        weights = rng.random(shape) * (rng.random(shape) < 0.8)
        patches[weights == 0] = np.nan  # what has no weight is not added, whatever it is
        apart = rng.integers(-9, 10, (*shape, 3)) // [[3, 1, 1]]
        if self.crowded:
            y, x = np.arange(shape[3])[:, None, None] * s, np.arange(shape[4])[:, None] * s
            apart[..., 1], apart[..., 2] = 1 - y, 2 - x
        weights = weights.astype(np.result_type(self.dtype, "float32")) if self.weighted else None
        apart = apart.astype("int32")
        if self.shared:
            apart = np.broadcast_to(apart[:, :1], apart.shape)
        return np.nan_to_num(patches) if weights is None else patches, weights, apart

    def layout(self) -> Patches:
        return Patches(self.patch, self.stride, border=self.border)


CASES = [
    Folded("as the denoiser", 8, heads=3, shared=True, kept=3),
    Folded("places of each head", 8, heads=3, kept=3),
    Folded("zeros", 5, border="zeros", size=(2, 19, 17)),
    Folded("shared, zeros, channels", 3, heads=2, channels=3, batch=2, shared=True, border="zeros", stride=2),
    Folded("many heads share", 2, heads=8, channels=2, shared=True),
    Folded("without weights", 4, weighted=False, heads=2, shared=True),
    Folded("all at one place", 7, stride=2, crowded=True),
    Folded("hardly larger than a patch", 6, size=(3, 7, 8), stride=1),
    Folded("the largest patch", 15, size=(1, 16, 33)),
    Folded("a pixel", 1, stride=3, channels=9),
    Folded("doubles", 8, dtype="float64", heads=2, shared=True),
    Folded("halves", 8, dtype="float16"),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _run(case: Folded, fault: tuple[str, str] = _NOTHING) -> tuple[list[np.ndarray], list[str]]:
    device = _Device(fault)
    patches, weights, offsets = (None if each is None else device.xp.asarray(each) for each in case.arrays())
    found = Cuda(device).fold_and_cover(patches, weights, offsets, case.layout(), size=case.size)
    return [each.get() for each in found], device.launched


def _check(found: list[np.ndarray], case: Folded) -> None:
    patches, weights, offsets = case.arrays()
    if weights is None:
        weights = np.ones(offsets.shape[:-1])
    expected = definition.fold_and_cover(
        patches.astype(float), weights.astype(float), offsets, case.layout(), size=case.size
    )
    atol = TOLERANCES[case.dtype] * np.abs(expected[1]).max()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@each_case
def test_sums_are_those_of_the_definition(case):
    found, launched = _run(case)
    assert "fold" in launched
    assert "scatter" not in launched
    assert found[0].dtype == case.dtype
    _check(found, case)


@each_case
def test_sums_alone_are_the_same(case):
    device = _Device(_NOTHING)
    patches, weights, offsets = (None if each is None else device.xp.asarray(each) for each in case.arrays())
    found = Cuda(device).fold(patches, weights, offsets, case.layout(), size=case.size)
    np.testing.assert_array_equal(found.get(), _run(case)[0][0])


def test_places_of_all_heads_are_sorted_once():
    shared = CASES[0]
    patches, weights, offsets = shared.arrays()
    assert offsets.strides[1] == 0
    apart = np.ascontiguousarray(offsets)
    device = _Device(_NOTHING)
    given = (device.xp.asarray(each) for each in (patches, weights, apart))
    found = Cuda(device).fold_and_cover(*given, shared.layout(), size=shared.size)
    for one, other in zip(found, _run(shared)[0], strict=True):
        np.testing.assert_array_equal(one.get(), other)


@pytest.mark.parametrize("case", [Folded("small", 8, size=(1, 8, 30)), Folded("large", 16)], ids=lambda case: case.name)
def test_what_squares_cannot_do_is_scattered(case):
    found, launched = _run(case)
    assert "fold" not in launched
    assert "scatter" in launched
    _check(found, case)


_FAULTS = [
    ("y > 0 && y <= SS_ABOVE", "y >= 0 && y <= SS_ABOVE", 0),
    ("y <= SS_ABOVE", "y < SS_ABOVE", 0),
    ("y < n - 1 && ", "", 0),
    ("y >= n - 1 - SS_BELOW", "y > n - 1 - SS_BELOW", 0),
    ("top + SS_SIDE >= n - SS_BELOW", "top + SS_SIDE > n", 0),
    ("!SS_ZEROS && (top", "(top", 2),
    ("within_reach(y, s.kH) && ", "", 0),
    (" && within_reach(x, s.kW)", "", 2),
    ("if (SS_WEIGHTED && weight == 0) continue;", "", 0),
    ("(head - q.b) * of_head", "q.g * of_head", 3),
    ("candidate += given.of_head", "candidate += 0", 0),
    ("(candidate * F + f)", "(candidate * F)", 9),
    ("(unsigned)b >= SS_PATCH", "false", 0),
    ("row >= s.kH || ", "", 0),
    ("a * SS_PATCH + b", "b * SS_PATCH + a", 0),
    ("SS_SHARED ? q.b : head", "head", 4),
    ("at < last; ++at", "at < last; at = last", 6),
    ("some &= some - 1", "some = 0", 0),
]


@pytest.mark.full
@pytest.mark.parametrize(("right", "wrong", "case"), _FAULTS, ids=str)
def test_fault_is_caught(right, wrong, case):
    assert kernels.text("fold.cu", {}).count(right) == 1
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _check(_run(CASES[case], (right, wrong))[0], CASES[case])
    assert ": error: " not in str(caught.value), "does not compile"
