"""Tensors on a GPU: numbers, streams, memory, graphs and devices."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from torch_calls import CALLS, each_call, gradients

import shiftsearch as ss
from shiftsearch import _homes
from shiftsearch.backends import cuda as cuda_backend

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("poisoned")


def test_a_call_is_on_the_device_and_stream_of_its_tensors_in_memory_of_torch(monkeypatch):
    """The order of calls, with stand-ins for CuPy and for torch's CUDA."""
    done = []

    @contextmanager
    def entered(*what):
        done.append(what)
        yield
        done.append(("end", what[0]))

    class Cuda(SimpleNamespace):
        __hash__ = object.__hash__

    cuda = Cuda(
        Device=lambda index: entered("device", index),
        ExternalStream=lambda stream, index: entered("stream", stream, index),
        using_allocator=lambda take: entered("memory", take(64, 1)),
        PythonFunctionAllocator=lambda take, put_back: SimpleNamespace(malloc=take),
    )
    monkeypatch.setattr(cuda_backend, "load", lambda: SimpleNamespace(xp=SimpleNamespace(cuda=cuda)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=f"stream of {index}"))
    monkeypatch.setattr(
        torch.cuda, "caching_allocator_alloc", lambda size, index, stream: (size, index, stream.cuda_stream)
    )
    with _homes.Cuda("search", "torch", "cuda:1", None).current():
        done.append("work")
    assert done == [
        ("device", 1),
        ("stream", "stream of 1", 1),
        ("memory", (64, 1, "stream of 1")),
        "work",
        ("end", "memory"),
        ("end", "stream"),
        ("end", "device"),
    ]


def _on_gpus(devices):
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    skipped = pytest.mark.skipif(there < devices, reason=f"needs {devices} GPUs, {there} are here")
    return lambda test: pytest.mark.gpu(skipped(test))


on_gpu, on_two_gpus = _on_gpus(1), _on_gpus(2)


def near(found, expected):
    torch.testing.assert_close(found.cpu().double(), expected.double(), rtol=1e-4, atol=1e-4)


@on_gpu
@each_call
def test_a_gpu_gives_the_numbers_of_the_cpu(call):
    for found, wanted in zip(call(call.tensors(device="cuda")), call(call.tensors()), strict=True):
        near(found, wanted)
    grads = gradients(call, call.tensors())
    for name, grad in gradients(call, call.tensors(device="cuda")).items():
        near(grad, grads[name])


@on_gpu
def test_work_waits_for_the_current_stream_and_nothing_else():
    """Inputs are written late on a side stream: a read on another stream would find the old values."""
    call, side = CALLS["search"], torch.cuda.Stream()
    expected = call(call.tensors(height=64, width=64))
    source = call.tensors(device="cuda", height=64, width=64)
    late = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    call(source)  # compiled
    torch.cuda.synchronize()
    with torch.cuda.stream(side), torch.no_grad():
        torch.cuda._sleep(100_000_000)
        for name, tensor in source.items():
            late[name].copy_(tensor)
        found = call(late)
    side.synchronize()
    for result, wanted in zip(found, expected, strict=True):
        near(result, wanted)


@on_gpu
def test_memory_is_that_of_torch():
    import cupy

    call = CALLS["search"]
    tensors = call.tensors(device="cuda", height=64, width=64)
    call(tensors)
    cupy_before, before = cupy.get_default_memory_pool().used_bytes(), torch.cuda.memory_allocated()
    found = call(tensors)
    assert torch.cuda.memory_allocated() - before >= sum(out.numel() * out.element_size() for out in found)
    assert cupy.get_default_memory_pool().used_bytes() == cupy_before
    del found
    assert torch.cuda.memory_allocated() == before


@on_gpu
@pytest.mark.parametrize("name", ["search", "score", "aggregate", "gather"])
def test_forward_is_captured_in_cuda_graphs(name):
    call = CALLS[name]
    tensors = {key: tensor.detach() for key, tensor in call.tensors(device="cuda").items()}
    call(tensors)  # compiled before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call(tensors)
    others = call.tensors(seed=5)
    for key, tensor in tensors.items():
        tensor.copy_(others[key])
    graph.replay()
    torch.cuda.synchronize()
    for result, wanted in zip(found, call(others), strict=True):
        near(result, wanted)


@on_gpu
def test_autocast_on_a_gpu():
    tensors = CALLS["search"].tensors(torch.float32, device="cuda")
    with torch.autocast("cuda", torch.float16):
        scores, offsets = CALLS["search"](tensors)
        out = ss.aggregate(tensors["k"], torch.softmax(-scores, -1), offsets, patch=2)
    assert (scores.dtype, out.dtype) == (torch.float32, torch.float16)
    grads = torch.autograd.grad(out.float().sum(), list(tensors.values()))
    assert all(grad.isfinite().all() for grad in grads)


@on_two_gpus
@pytest.mark.parametrize("current", [0, 1])
def test_arrays_on_another_device_are_computed_there(current):
    call = CALLS["search"]
    with torch.cuda.device(current):
        found = call(call.tensors(device="cuda:1"))
        grads = gradients(call, call.tensors(device="cuda:1"))
        assert torch.cuda.current_device() == current
    assert all(out.device == torch.device("cuda:1") for out in (*found, *grads.values()))
    for result, wanted in zip(found, call(call.tensors()), strict=True):
        near(result, wanted)


@on_two_gpus
def test_data_parallel_on_two_devices():
    from shiftsearch.nn import ShiftedAttention

    layer, video = ShiftedAttention(8, heads=2, window=3, topk=4), torch.randn(4, 3, 8, 9, 10)
    expected = layer(video)
    near(torch.nn.DataParallel(layer.cuda())(video.cuda()), expected)
