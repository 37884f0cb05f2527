"""Streams, devices, and libraries that share the memory of a GPU. `pytest --full -m gpu` also tests the ops on it."""

from __future__ import annotations

import numpy as np
import pytest
from backends import NO_GPU, _gpu
from cases import CASES

import shiftsearch as ss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))]

# Waits until the host sets a flag, or for some seconds, and then copies.
_LATE = r"""
extern "C" __global__ void late(const volatile int* released, int* seen, const float* from, float* to, int n) {
    const long long start = clock64();
    while (!*released && clock64() - start < 20000000000LL) { }
    *seen = *released;
    for (int i = 0; i < n; ++i) to[i] = from[i];
}
"""


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def video(rng):
    return rng.integers(-3, 4, (3, 2, 12, 13)).astype(np.float32)  # sums are exact


def _results(video):
    """Return the results of several ops, one after another, for arrays of any library."""
    scores, offsets = ss.search(video, video, window=5, patch=3, topk=6)
    weights = scores * 0 + 1
    return scores, offsets, ss.aggregate(video, weights, offsets, patch=3), ss.scatter(video, weights, offsets)


def _same(found, video, to_host):
    for a, b in zip(found, _results(video), strict=True):
        np.testing.assert_allclose(to_host(a), b, rtol=1e-5)


def test_results_are_cupy_arrays(cupy, video):
    found = _results(cupy.asarray(video))
    assert all(isinstance(array, cupy.ndarray) for array in found)
    _same(found, video, cupy.asnumpy)


def test_any_strides(cupy, video):
    turned = cupy.asarray(video.transpose(3, 2, 1, 0)[::-1]).transpose(3, 2, 1, 0)[..., ::-1]
    _same(_results(turned), video, cupy.asnumpy)


def test_work_is_on_the_current_stream_and_does_not_wait(cupy, video):
    """The values arrive late on another stream. If a call waited for it, the kernel there would never be released."""
    import cupyx

    late = cupy.RawKernel(_LATE, "late")
    released, seen = cupyx.zeros_pinned((1,), np.int32), cupy.zeros(1, np.int32)
    values, arrived = cupy.asarray(video), cupy.zeros_like(cupy.asarray(video))
    stream = cupy.cuda.Stream(non_blocking=True)

    def launch():
        late((1,), (1,), (np.uint64(released.ctypes.data), seen, values, arrived, np.int32(arrived.size)))
        return ss.search(arrived, arrived, window=5, patch=3, topk=6)

    released[0] = 1
    with stream:
        launch()  # compiles
    stream.synchronize()
    released[0], arrived[...], seen[...] = 0, 0, 0
    cupy.cuda.Device().synchronize()
    with stream:
        found = launch()
    released[0] = 1
    stream.synchronize()
    assert int(seen[0]) == 1
    for a, b in zip(found, ss.search(video, video, window=5, patch=3, topk=6), strict=True):
        np.testing.assert_allclose(cupy.asnumpy(a), b, rtol=1e-5)


_PLAIN, _FRACTION = ("score", "aggregate", "scatter", "stack", "chain_flow"), ("score", "aggregate", "fold")


@pytest.mark.parametrize("name", [*(f"{op}: plain" for op in _PLAIN), *(f"{op}: fraction" for op in _FRACTION)])
def test_forward_and_backward_are_captured_in_a_graph(cupy, name):
    """No call waits for the device. When launched again, the graph uses the new contents of the arrays."""
    case, backend = next(case for case in CASES if case.name == name), _gpu()
    arrays = {name: cupy.asarray(array) for name, array in case.arrays(np.float32).items()}

    def both():
        outputs = case.op.forward(backend, case.spec, **arrays)
        grads = {name: output + 1 for name, output in outputs.items()}
        return [outputs, case.op.backward(backend, case.spec, arrays, outputs, grads, arrays.keys())]

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(2):  # compiles, and leaves its memory to the pool of this stream
            both()
        stream.synchronize()
        stream.begin_capture()
        found = both()
        graph = stream.end_capture()
        for name in case.op.values:
            arrays[name] *= 2
        graph.launch(stream)
        stream.synchronize()
        for captured, now in zip(found, both(), strict=True):
            for name, array in now.items():
                np.testing.assert_array_equal(cupy.asnumpy(captured[name]), cupy.asnumpy(array))


def test_arrays_stay_on_their_device(cupy, video):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs a second device")
    with cupy.cuda.Device(1):
        there = cupy.asarray(video)
    with cupy.cuda.Device(0):
        found = _results(there)
        assert {array.device.id for array in found} == {1}
        _same(found, video, cupy.asnumpy)
        here = cupy.asarray(video)
        with pytest.raises(ss.ShiftsearchError, match="different kinds"):
            ss.search(here, there)


def test_tensors_on_their_stream(video):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs torch with CUDA")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = torch.from_numpy(video).to("cuda", non_blocking=True)
        found = _results(there)
    stream.synchronize()
    assert all(isinstance(tensor, torch.Tensor) and tensor.is_cuda for tensor in found)
    _same(found, video, lambda tensor: tensor.cpu().numpy())


def test_bags_of_the_best_in_shared_and_in_global_memory(cupy, video):
    """In shared memory a block needs more than the 48 KB that it has by default."""
    double = np.repeat(np.repeat(video, 2, 2), 2, 3).astype(np.float64)
    for topk in (200, 700):
        options = {"window": 17, "patch": 9, "topk": topk, "stride": 5}
        found = ss.search(cupy.asarray(double), cupy.asarray(double), **options)
        for a, b in zip(found, ss.search(double, double, **options), strict=True):
            np.testing.assert_array_equal(cupy.asnumpy(a), b)
