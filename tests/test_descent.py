"""How far flow is off: all backends do what the definition says, and its step leads nearer."""

from __future__ import annotations

import emulate
import numpy as np
import pytest
from test_settle import device

from shiftsearch import definition
from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
SIZES = [(2, 5, 7), (1, 1, 6), (3, 6, 1), (1, 1, 1), (2, 13, 31)]
TOLERANCES = {"float32": 1e-5, "float64": 1e-13}
SAME = 0.01


def _frames(size: tuple[int, int, int]) -> list[np.ndarray]:
    """Return frames moved, frames, and flow that here and there leads just to the border, or out of it."""
    rng, (n, h, w) = np.random.default_rng(0), size
    moved, grey = rng.random((2, *size))
    flow = rng.integers(-3, 4, (n, 2, h, w)) * rng.choice([1, 0.5], (n, 2, h, w))
    return [moved, grey, flow]


def _on_kernels(*arrays: np.ndarray, fault: tuple[str, str] = ("", "")) -> np.ndarray:
    there = device(fault)
    return Cuda(there).descent(*(there.xp.asarray(array) for array in arrays), same=SAME).get()


each_way = pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda *arrays: cpu.descent(*arrays, same=SAME), id="cpu"),
        pytest.param(_on_kernels, id="cuda", marks=[on_kernels, pytest.mark.emulated]),
    ],
)


def _close(found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCES[dtype])


@each_way
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_are_those_of_the_definition(run, dtype, size):
    frames = [np.asfortranarray(each.astype(dtype)) for each in _frames(size)]
    _close(run(*frames), definition.descent(*_frames(size), same=SAME), dtype)


def test_their_sums_lead_to_the_frame():
    y, x = np.indices((40, 50))

    def picture(dx: float, dy: float) -> np.ndarray:
        return np.sin((x + dx) / 5)[None] + np.cos((y + dy) / 7)

    flow = np.zeros((1, 2, 40, 50))
    xx, xy, yy, by_x, by_y = definition.descent(picture(0.2, -0.3), picture(0, 0), flow, same=1).sum((1, 2, 3))
    step = -np.linalg.solve([[xx, xy], [xy, yy]], [by_x, by_y])
    np.testing.assert_allclose(step, [-0.2, 0.3], atol=0.02)


_FAULTS = [
    ("x + 1 < s.w", "1"),
    ("-(x > 0)", "-1"),
    ("y + 1 < s.h ? s.w : 0", "s.w"),
    ("y > 0 ? -s.w : 0", "-s.w"),
    ("number / plane * plane", "0"),
    ("dx >= -x", "dx > -x"),
    ("dx <= s.w - 1 - x", "dx < s.w - 1 - x"),
    ("dy >= -y", "dy > -y"),
    ("dy <= s.h - 1 - y", "dy < s.h - 1 - y"),
    ("same + c * c", "same"),
    ("weight * (a * b)", "weight * (a * a)"),
    ("if (number >= s.count) return;", ""),
]


@on_kernels
@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.parametrize("fault", _FAULTS, ids=str)
def test_fault_is_caught(fault):
    assert kernels.text("descent.cu", {}).count(fault[0]) == 1
    frames = [each.astype("float32") for each in _frames((2, 5, 7))]
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _close(_on_kernels(*frames, fault=fault), definition.descent(*_frames((2, 5, 7)), same=SAME), "float32")
    assert ": error: " not in str(caught.value), "does not compile"
