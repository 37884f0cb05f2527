"""What array code would take on a GPU: operations are counted, views are free, and bytes are those that are there."""

from __future__ import annotations

import array_costs
import modelled_video
import numpy as np
import nvrtc
import pytest
import sass
from array_costs import BANDWIDTH, LAUNCH, WAIT, Operation, counted

import shiftsearch as ss

needs_tools = pytest.mark.skipif(
    bool(nvrtc.available() or sass.available()), reason=str(nvrtc.available() or sass.available())
)


@pytest.fixture
def device():
    return modelled_video.Device()


def _done(device, function) -> list[tuple[str, int, int]]:
    """Names, launches and bytes of what a function does with the array module of a device."""
    with counted(device) as operations:
        a = device.xp.asarray(np.ones((4, 6), np.float32))
        operations.clear()
        function(device.xp, a)
        return [(each.name, each.launches, each.bytes) for each in operations]


def _added_in_place(xp, a):
    a[1:] += a[:1]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda xp, a: a + a, [("add", 1, 3 * 96)]),
        (lambda xp, a: a + a[:1], [("add", 1, 2 * 96 + 24)]),
        (lambda xp, a: a.sum(1), [("add", 1, 96 + 16)]),
        (lambda xp, a: xp.broadcast_to(a[0], (9, 6)) * 2, [("multiply", 1, 24 + 9 * 24)]),
        (lambda xp, a: a[1:].T.reshape(6, 3)[:, None], []),
        (lambda xp, a: a.T.reshape(24), [("reshape", 1, 2 * 96)]),
        (lambda xp, a: xp.stack([a, a, a]), [("stack", 3, 6 * 96)]),
        (lambda xp, a: a.astype("float32", copy=False), []),
        (lambda xp, a: a.astype("float64"), [("astype", 1, 96 + 192)]),
        (lambda xp, a: a.take(xp.empty(2, np.int64), axis=0), [("take", 1, 16 + 2 * 48)]),
        (lambda xp, a: a.__setitem__(slice(0, 2), a[2:]), [("put", 1, 96)]),
        (lambda xp, a: a.__iadd__(a), [("add", 1, 3 * 96)]),
        (_added_in_place, [("add", 1, 2 * 72 + 24)]),
        (lambda xp, a: float(a[0, 0]), [("wait", 0, 4)]),
    ],
)
def test_operations_are_counted_with_the_bytes_that_they_move(device, function, expected):
    assert _done(device, function) == expected


def test_an_operation_takes_what_a_launch_or_its_bytes_take():
    assert Operation("add", "", 3, 10).seconds == 3 * LAUNCH
    assert Operation("add", "", 1, 10**9).seconds == 10**9 / BANDWIDTH
    assert Operation("wait", "", 0, 4, waits=True).seconds == pytest.approx(WAIT, rel=1e-6)


def test_results_are_those_of_the_cpu_and_launches_those_of_a_gpu(device):
    frame = np.random.default_rng(0).random((3, 16, 20), np.float32)
    with counted(device):
        there = device.xp.asarray(frame)
        _, found = ss.match(there, there, window=3, topk=1)
    _, expected = ss.match(frame, frame, window=3, topk=1)
    assert isinstance(found, array_costs.Counted)
    np.testing.assert_array_equal(found.get(), expected)
    assert [program.kernel.name for program, *_ in device.launches]
    _, _, case = device.launches[-1]
    assert (case.height, case.width, case.channels, case.search["window"]) == (16, 20, 3, 3)


@pytest.mark.full
@needs_tools
def test_denoising_has_a_cost_in_kernels_and_in_array_code_of_a_gpu():
    found = modelled_video.denoise("fast", 1, 48, 64)
    assert all(seconds > 0 for seconds in found.seconds.values())
    names = [name for name, _ in found.most]
    assert "fold" in names
    assert "video/denoise/bands.py:_shrink" in names
