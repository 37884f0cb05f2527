"""Vectors that pull at each other: all backends do what the definition says, and a step makes its sum smaller."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from device_arrays import Namespace

from shiftsearch import definition
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
OPTIONS = {"stiff": 1.5, "held": 1e-3, "steps": 5, "renewed": 2}
SIZES = [(2, 5, 7), (1, 1, 6), (1, 6, 1), (3, 1, 1), (1, 13, 31)]


class _Device(emulate.Emulator):
    """Runs kernels with a fault."""

    xp = Namespace()

    def __init__(self, fault: tuple[str, str]):
        super().__init__(seed=1)
        self.fault = fault

    def launch(self, program, blocks, values, *, shared=0):
        text = program.text.replace(*self.fault) if self.fault[0] else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)


def device(fault: tuple[str, str] = ("", "")) -> emulate.Emulator:
    return _Device(fault)


def _field(n: int, h: int, w: int) -> list[np.ndarray]:
    """Return flow and data, which at some pixels say nothing."""
    rng = np.random.default_rng(0)
    flow, across, down = rng.normal(0, 2, (n, 2, h, w)), *rng.normal(0, 1, (2, n, 3, h, w))
    xx, xy, yy = (across**2).sum(1), (across * down).sum(1), (down**2).sum(1)
    x, y = rng.normal(0, 2, (2, n, h, w))
    known = rng.random((n, h, w)) < 0.7
    return [flow, *(known * each for each in (xx, xy, yy, x, y))]


def _on_kernels(field: list[np.ndarray], fault: tuple[str, str] = ("", "")) -> np.ndarray:
    there = device(fault)
    return Cuda(there).settle(*(there.xp.asarray(each) for each in field), **OPTIONS).get()


def _sum(flow, before, xx, xy, yy, x, y, stiff, held):
    """Return what a step makes smallest at each pixel, as the definition says."""
    (dx, dy), found = (flow[:, 0], flow[:, 1]), held * ((flow - before) ** 2).sum(1)
    found += xx * dx**2 + 2 * xy * dx * dy + yy * dy**2 - 2 * (x * dx + y * dy)
    for axis, step in ((2, 1), (2, -1), (1, 1), (1, -1)):
        there = np.roll(before, -step, axis + 1)
        exists = np.ones_like(found, bool)
        np.moveaxis(exists, axis, 0)[-1 if step > 0 else 0] = False
        bond = stiff / (1 + ((before - there) ** 2).sum(1))
        found += exists * bond * ((flow - there) ** 2).sum(1)
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_step_finds_what_is_smallest(size):
    before, *data = _field(*size)
    stiff, held = 1.5, 1e-3
    found = definition.settle(before, *data, stiff=stiff, held=held, steps=1, renewed=4)
    least = _sum(found, before, *data, stiff, held)
    for way in np.random.default_rng(1).normal(0, 1e-3, (8, 2, 1, 1)):
        assert (_sum(found + way, before, *data, stiff, held) >= least - 1e-9).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_cpu_does_what_the_definition_says(size, dtype):
    field = _field(*size)
    found = cpu.settle(*(each.astype(dtype) for each in field), **OPTIONS)
    assert found.dtype == dtype
    atol = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(found, definition.settle(*field, **OPTIONS), atol=atol)


@on_kernels
@pytest.mark.emulated
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_do_what_the_definition_says(size, dtype):
    field = [np.asfortranarray(each.astype(dtype)) for each in _field(*size)]
    kept = field[0].copy()
    found = _on_kernels(field)
    assert found.dtype == dtype
    np.testing.assert_array_equal(field[0], kept)
    atol = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(found, definition.settle(*_field(*size), **OPTIONS), atol=atol)


_FAULTS = [
    ("column + 1 < s.w", "true"),
    ("column > 0", "column >= 0"),
    ("row + 1 < s.h", "true"),
    ("row > 0", "row >= 0"),
    ("number / plane * plane", "0"),
    ("total += bond,", ""),
    ("bonded[here]", "flow[here]"),
    ("c * dx - b * dy", "c * dx + b * dy"),
    ("if (number >= s.count) return;", ""),
]


@on_kernels
@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.parametrize("fault", _FAULTS, ids=str)
def test_fault_is_caught(fault):
    assert kernels.text("settle.cu", {}).count(fault[0]) == 1
    field = [each.astype("float32") for each in _field(2, 5, 7)]
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        np.testing.assert_allclose(_on_kernels(field, fault), definition.settle(*field, **OPTIONS), atol=1e-4)
    assert ": error: " not in str(caught.value), "does not compile"
