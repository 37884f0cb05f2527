"""align and denoise with their defaults on frames on a GPU, which is emulated: arrays that main memory cannot mix with."""

from __future__ import annotations

from contextlib import nullcontext

import emulate
import numpy as np
import pytest
from backends import Run
from device_arrays import OnDevice

import shiftsearch as ss
from shiftsearch import _arrays
from shiftsearch._homes import Home

pytestmark = [
    pytest.mark.full,
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


class _Emulated(Home):
    widens = False

    def __init__(self):
        self.backend = Run("emulated", "single")._load()

    def memory(self):
        return 2.0**40

    def current(self):
        return nullcontext()

    def take(self, caller, name, array):
        return array

    def give(self, array):
        return array


@pytest.fixture
def gpu(monkeypatch):
    """Let arrays that are on the device be computed there."""
    of_main_memory = _arrays.home_of

    def home_of(caller, arrays):
        there = [isinstance(array, OnDevice) for array in arrays.values()]
        if not any(there):
            return of_main_memory(caller, arrays)
        assert all(there), f"{caller}: {arrays.keys()} are not all on the device"
        return _Emulated()

    monkeypatch.setattr(_arrays, "home_of", home_of)


@pytest.fixture(scope="module")
def clip():
    """A drift of two pixels a frame, with noise."""
    rng = np.random.default_rng(0)
    still = rng.random((10, 16)).repeat(4, 0).repeat(4, 1)
    moving = np.stack([np.roll(still, 2 * t, axis=1)[:32, :48] for t in range(4)])
    return np.float32(moving), np.float32(moving + 0.08 * rng.standard_normal(moving.shape))


def test_align_finds_the_motion_there(gpu, clip):
    _, noisy = clip
    on_device = noisy.view(OnDevice)
    found = ss.align(on_device[0], on_device[1])
    assert isinstance(found, OnDevice)
    np.testing.assert_allclose(found.get(), ss.align(noisy[0], noisy[1], "match"), atol=1e-3)


def test_denoise_finds_the_motion_there(gpu, clip):
    clean, noisy = clip
    found = ss.denoise(noisy.view(OnDevice), radius=1)
    assert isinstance(found, OnDevice)
    expected = ss.denoise(noisy, radius=1, flow="match")
    error, best = (np.mean((result - clean) ** 2) for result in (found.get(), expected))
    assert error < 1.02 * best < np.mean((noisy - clean) ** 2) / 4
