"""The CUDA backend on emulated kernels: public functions with a stand-in for CuPy, structs, stacked queries, geometry."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import emulate
import numpy as np
import pytest
from device_arrays import Namespace, OnDevice
from nvrtc import MIXED, layout_checks

import shiftsearch as ss
from shiftsearch import ShiftsearchError, _geometry, _source, definition
from shiftsearch._geometry import Patches
from shiftsearch.backends import cuda
from shiftsearch.backends.cuda import Cuda, kernels

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]


class Array:
    """An array of some library on device 1, which is not the current one."""

    def __init__(self, array):
        self.native = np.asarray(array).view(OnDevice)
        self.shape, self.ndim, self.dtype = self.native.shape, self.native.ndim, self.native.dtype

    def __dlpack_device__(self):
        return 2, 1

    def __dlpack__(self, **_):
        raise BufferError("what reads it here is no CuPy, and takes its memory otherwise")

    def __array_namespace__(self, **_):
        return SimpleNamespace(from_dlpack=Array)

    def __getitem__(self, where):
        return Array(self.native[where])

    def __neg__(self):
        return Array(-self.native)

    def get(self):
        return self.native.get()


@pytest.fixture
def pretend(monkeypatch):
    """Install a module `cupy` whose kernels run on this machine; return the devices that were made current."""
    entered = []

    @contextmanager
    def device(index):
        entered.append(index)
        with np.errstate(all="ignore"):  # CuPy warns of nothing
            yield

    xp = Namespace()
    xp.from_dlpack = lambda array: array.native
    xp.cuda = SimpleNamespace(Device=device, runtime=SimpleNamespace(memGetInfo=lambda: (2**40, 2**40)))
    emulator = emulate.Emulator()
    emulator.xp = xp
    monkeypatch.setattr(cuda, "load", lambda: Cuda(emulator))
    return entered


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, Array)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.get().astype(float), b.astype(float), rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_op_gives_the_results_of_main_memory(pretend, rng, dtype):
    video = rng.standard_normal((3, 2, 5, 6)).astype(np.float16).astype(dtype)
    flow = rng.integers(-3, 4, (3, 2, 5, 6)).astype(np.float32)
    gpu, gpu_flow = Array(video), Array(flow)
    options = {"window": 3, "topk": 4, "patch": 2}
    here = ss.search(video, video, (flow, -flow), **options)
    found = ss.search(gpu, gpu, (gpu_flow, -gpu_flow), **options)
    same(found, here)
    offsets, gpu_offsets = here[1], Array(here[1])
    same(ss.refine(gpu, gpu, gpu_offsets, topk=2), ss.refine(video, video, offsets, topk=2))
    same(ss.match(gpu[0], gpu[1], gpu_flow[0], **options), ss.match(video[0], video[1], flow[0], **options))
    same([ss.score(gpu, gpu, gpu_offsets)], [ss.score(video, video, offsets)])
    weights = rng.random(here[0].shape).astype(np.float16).astype(dtype)
    gpu_weights = Array(weights)
    half = 1 if dtype == np.float32 else 0  # the CPU backend rounds halves once more
    for op in (ss.aggregate, ss.scatter):
        on_gpu, on_cpu = op(gpu, gpu_weights, gpu_offsets), op(video, weights, offsets)
        np.testing.assert_allclose(
            on_gpu.get().astype(float), on_cpu.astype(float), rtol=0, atol=1e-5 if half else 1e-2
        )
    if half:
        same([ss.stack(gpu, gpu_offsets, gpu_weights)], [ss.stack(video, offsets, weights)])
        patches = ss.gather(gpu, gpu_offsets, patch=2)
        same([patches], [ss.gather(video, offsets, patch=2)])
        folded = ss.fold(patches, gpu_offsets, gpu_weights, size=(3, 5, 6))
        same(folded, ss.fold(patches.get(), offsets, weights, size=(3, 5, 6)))
    same([ss.chain_flow(gpu_flow, -gpu_flow, radius=1)], [ss.chain_flow(flow, -flow, radius=1)])
    same([ss.upsample_flow(gpu_flow, (10, 18))], [ss.upsample_flow(flow, (10, 18))])
    assert set(pretend) == {1}


def test_whole_numbers_of_any_width_are_places(pretend, rng):
    video = Array(rng.standard_normal((3, 2, 5, 6)).astype(np.float32))
    offsets = rng.integers(-3, 4, (1, 3, 5, 6, 2, 3))
    wide, narrow = (ss.score(video, video, Array(offsets.astype(dtype))) for dtype in (np.int64, np.int8))
    np.testing.assert_array_equal(wide.get(), narrow.get())


def test_results_too_large_for_the_device_are_an_error(pretend):
    video = Array(np.zeros((3, 1, 4, 4), np.float32))
    cuda.load().xp.cuda.runtime.memGetInfo = lambda: (0, 1000)
    with pytest.raises(ShiftsearchError, match=r"search: scores of shape .* takes .* expected at most"):
        ss.search(video, video)


def test_a_missing_gpu_is_an_error_that_names_the_device_of_the_arrays(monkeypatch):
    def missing():
        raise ShiftsearchError("arrays on a GPU need CuPy")

    monkeypatch.setattr(cuda, "load", missing)
    video = Array(np.zeros((3, 1, 4, 4), np.float32))
    with pytest.raises(ShiftsearchError, match="search: the arrays are on cuda:1, and arrays on a GPU need CuPy"):
        ss.search(video, video)


# --- structs ------------------------------------------------------------------------------------------
_STRUCTS = (
    MIXED
    + """
extern "C" __global__ void fields(double* out, const Mixed m, int between, const Two t) {
    out[0] = m.a, out[1] = m.b, out[2] = m.wide, out[3] = m.small, out[4] = m.whole, out[5] = m.last;
    out[6] = between, out[7] = t.x, out[8] = t.y;
}
"""
)


def test_structs_are_filled_by_the_names_of_their_fields(tmp_path, monkeypatch):
    """With any padding between the fields: g++ agrees here, and CUDA's compiler in test_nvrtc.py."""
    (tmp_path / "fields.cu").write_text(_STRUCTS)
    monkeypatch.setattr(_source, "directory", lambda: tmp_path)
    _source.read.cache_clear()
    kernel, out = kernels.Kernel("fields", "fields.cu", threads=1), np.zeros(9)
    values = {"b": 2, "a": 1, "wide": 0.5, "small": 200, "whole": 2**40, "last": 0.25, "between": 7, "y": 9, "x": 8}
    kernels.Plan(kernels.Program(kernel, {}), 1, values).launch(emulate.Emulator(), {"out": out})
    assert out.tolist() == [1, 2, 0.5, 200, 2**40, 0.25, 7, 8, 9]
    structs = [parameter for parameter in kernel.parameters({}) if parameter.fields]
    assert [struct.dtype.itemsize for struct in structs] == [40, 2]
    emulate.Emulator().launch_text(
        "\n".join([_STRUCTS, *map(layout_checks, structs)]),
        "fields",
        1,
        1,
        [out, *(np.zeros((), struct.dtype) if struct.fields else np.int32(0) for struct in kernel.parameters({})[1:])],
    )
    _source.read.cache_clear()


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_a_size_that_is_too_large_for_its_field_is_an_error(value):
    kernel = cuda.KERNELS["gather"]
    program = kernels.Program(kernel, kernel.instances[0] | {"SCALAR": "float", "ACC": "float"})
    numbers = {name: 1 for p in program.parameters for name in p.names}
    kernels.Plan(program, 1, numbers)
    with pytest.raises(OverflowError, match="gather: s does not hold its numbers"):
        kernels.Plan(program, 1, {**numbers, "kW": value})


# --- queries of their own for each kept candidate -----------------------------------------------------
class Counting(emulate.Emulator):
    """Counts launches."""

    def __init__(self):
        super().__init__("ubsan", seed=1)
        self.xp, self.launched = Namespace(), []

    def launch(self, program, *arguments, **options):
        self.launched.append(program.kernel.name)
        super().launch(program, *arguments, **options)


def test_a_call_is_planned_once_for_its_options_shapes_and_dtypes(rng):
    """A plan is used for other arrays, too; other shapes and options of the same dtypes have separate plans."""
    backend = Cuda(Counting())
    for size, patch in (((1, 1, 2, 5, 6), 1), ((1, 1, 2, 6, 5), 1), ((1, 1, 2, 5, 6), 3), ((1, 1, 2, 5, 6), 1)):
        spec = ss._op.OPS["search"].specify(window=3, radius=0, topk=4, patch=patch)
        for _ in range(2):
            q, k = (rng.integers(-3, 4, size).astype(float) for _ in "qk")
            found = backend.search(*map(backend.xp.asarray, (q, k)), spec, spec.patches())
            wanted = definition.search(q, k, spec, spec.patches())
            assert found[2] is wanted[2] is None, "nobody asks for the seeds of candidates where there are none"
            for a, b in zip(found[:2], wanted[:2], strict=True):
                np.testing.assert_array_equal(a.get(), b)
    assert backend.device.launched == [*["search"] * 4, *["search_windows"] * 2, *["search"] * 2]


def test_an_argument_that_is_missing_or_of_another_dtype_is_an_error():
    kernel = cuda.KERNELS["gather"]
    program = kernels.Program(kernel, kernel.instances[0] | {"SCALAR": "float", "ACC": "float"})
    numbers = {name: 1 for p in program.parameters for name in p.names}
    arrays = {p.name: np.zeros(4, p.dtype) for p in program.parameters if p.pointer}
    plan, name = kernels.Plan(program, 1, numbers), "patches"  # whose strides are not passed
    with pytest.raises(TypeError, match=r"gather lacks '\w+'"):
        plan.bind({})
    with pytest.raises(TypeError, match=r"gather lacks '\w+'"):
        kernels.Plan(program, 1, {})
    with pytest.raises(TypeError, match=f"{name} is complex64, expected float32"):
        plan.bind({**arrays, name: np.zeros(4, np.complex64)})
    with pytest.raises(TypeError, match=f"{name} is not contiguous"):
        plan.bind({**arrays, name: np.zeros(8, np.float32)[::2]})
    assert [type(value) for value in plan.bind(arrays)].count(np.ndarray) > len(arrays), "a struct is one, too"


def stacked(backend, primitive: str, p: Patches, both_known: bool = True):
    """Return what a primitive and its definition give for K videos of queries. All sums are exact."""
    rng, (B, G, T, K, H, W) = np.random.default_rng(3), (2, 2, 3, 3, 5, 7)
    h, w = _geometry.query_grid(H, W, p.stride)
    k = rng.integers(-3, 4, (B, T, 2 * G, H, W)).astype(float)
    q = rng.integers(-3, 4, (B, K, *k.shape[1:])).astype(float)
    weights = rng.integers(-2, 3, (B, G, T, h, w, K)).astype(float)
    offsets = rng.integers(-9, 10, (*weights.shape, 3)) / 4
    arrays = (backend.xp.asarray(array) for array in (q, k, weights, offsets))
    found = _derivative(backend, primitive, p, both_known, *arrays)
    return found.get(), _derivative(definition, primitive, p, both_known, q, k, weights, offsets)


def _derivative(backend, primitive, p, both_known, q, k, weights, offsets):
    size = k.shape[1:]
    match primitive:
        case "score":
            return backend.score(q, k, offsets, p)
        case "aggregate":
            return backend.aggregate(q if both_known else None, k, weights, offsets, p, size=size, stacked=True)
        case "scatter":
            return backend.scatter(q, k if both_known else None, weights, offsets, p, size=size)
        case "slope":
            return backend.slope(q, k, weights, offsets, p)


_STACKED_LAYOUTS = {
    "reflect": Patches(3, stride=2),
    "zeros": Patches(2, dilation=2, border="zeros", query_border="zeros"),
    "l2": Patches(2, metric="l2", query_border="zeros"),
}


@pytest.mark.parametrize("layout", _STACKED_LAYOUTS)
@pytest.mark.parametrize("primitive", ["score", "aggregate", "scatter", "slope"])
def test_videos_of_queries_take_one_launch(primitive, layout):
    backend = Cuda(Counting())
    for both_known in (True, False) if layout != "l2" else (True,):
        np.testing.assert_array_equal(*stacked(backend, primitive, _STACKED_LAYOUTS[layout], both_known))
        assert backend.device.launched.count(primitive) == 1
        backend.device.launched.clear()


# --- geometry: written once for Python and once for CUDA --------------------------------------------
_GEOMETRY = (
    _source.read("grid.cuh")
    + """
extern "C" __global__ void geometry(const int* x, const double* p, int n, int* whole, double* any, int* sign) {
    const int i = threadIdx.x;
    whole[i] = reflect(x[i], n);
    any[i] = mirror(p[i], n, sign + i);
}
extern "C" __global__ void images(int n, int zeros, int first, int count, int* found) {
    for (int which = 0; which < 2; ++which) {
        int position = -1000;
        const bool there = image(threadIdx.x, n, zeros, which, first, first + count - 1, &position);
        found[2 * threadIdx.x + which] = there ? position : -1000;
    }
}
extern "C" __global__ void order(int radius, int* frames) {
    const int slots = 2 * radius + 1;
    for (int s = 0; s < slots; ++s) frames[threadIdx.x * slots + s] = frame_of_slot(threadIdx.x, s, blockDim.x, radius);
}
"""
)


def _run(name, threads, *arguments):
    emulate.Emulator().launch_text(_GEOMETRY, name, 1, threads, list(arguments))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_positions_are_mirrored_as_the_definition_does(n):
    x = np.r_[-30:31, 1 - 2**30, 2**30 - 1].astype(np.int32)
    far = np.where(np.abs(x) < 2**29, x, x * 1001.0)
    p = far + np.resize([0, 0.25, 0.5, 1e-9], x.shape)
    whole, signs, mirrored = np.zeros(x.shape, np.int32), np.zeros(x.shape, np.int32), np.zeros(x.shape)
    _run("geometry", len(x), x, p, np.int32(n), whole, mirrored, signs)
    np.testing.assert_array_equal(whole, _geometry.reflect(x, n))
    np.testing.assert_array_equal(mirrored, _geometry.reflect(p, n))
    np.testing.assert_array_equal(signs, _geometry.mirror_sign(p, n))


@pytest.mark.parametrize("zeros", [0, 1])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_images_of_a_pixel_are_all_that_mirror_to_it(n, zeros):
    for first in range(-20, 21):
        found = np.zeros((n, 2), np.int32)
        _run("images", n, np.int32(n), np.int32(zeros), np.int32(first), np.int32(n), found)
        for y in range(n):
            inside = range(first, first + n)
            wanted = [x for x in inside if x == y] if zeros else [x for x in inside if _geometry.reflect(x, n) == y]
            assert sorted(x for x in found[y].tolist() if x != -1000) == wanted, (first, y)


def test_frames_are_in_the_same_order():
    for frames in range(1, 9):
        for radius in range((frames - 1) // 2 + 1):
            found = np.zeros((frames, 2 * radius + 1), np.int32)
            _run("order", frames, np.int32(radius), found)
            np.testing.assert_array_equal(found, _geometry.frame_order(frames, radius))
