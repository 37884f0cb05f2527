"""The launch path to a GPU, with a stand-in for CuPy where none is installed and no GPU is there."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from shiftsearch import ShiftsearchError, _source
from shiftsearch.backends.cuda import KERNELS, device
from shiftsearch.backends.cuda.kernels import MOST_BLOCKS, Kernel, Plan, Program

SOURCE = """
struct Sizes {
    int rows, columns;
    double scale;
};
extern "C" __global__ void twice(const SS_SCALAR* x, const float* weights, float* out, int n, const Sizes s) { }
"""
TWICE = Kernel("twice", "device_test.cu", threads=64)


class FakeError(RuntimeError):
    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class RuntimeFailure(FakeError):
    pass


class DriverFailure(FakeError):
    pass


class CompileFailure(Exception):
    pass


class FakeFunction:
    """The result of RawModule.get_function."""

    def __init__(self, cupy, name: str):
        self.cupy, self.name = cupy, name
        self.shared_size_bytes, self.max_dynamic_shared_size_bytes = 1000, 48 * 1024

    def __call__(self, grid, block, arguments, *, shared_mem):
        self.cupy.launches.append((self.name, self.cupy.current, grid, block, arguments, shared_mem))


class FakeCupy(SimpleNamespace):
    """The parts of CuPy that a launch needs. `fails` names the step that raises, and the error."""

    def __init__(self, fails: dict[str, Exception] | None = None, versions=(13020, 13020)):
        self.current, self.compiled, self.launches, self.functions = 0, [], [], []
        self.fails = fails or {}
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                CUDARuntimeError=RuntimeFailure,
                getDeviceCount=lambda: self.step("device", 2),
                runtimeGetVersion=lambda: versions[0],
                driverGetVersion=lambda: versions[1],
            ),
            driver=SimpleNamespace(CUDADriverError=DriverFailure),
            compiler=SimpleNamespace(CompileException=CompileFailure),
            nvrtc=SimpleNamespace(getVersion=lambda: self.step("nvrtc", (13, 0))),
            Device=lambda: SimpleNamespace(
                attributes={"MaxSharedMemoryPerBlockOptin": 100_000}, compute_capability="61"
            ),
        )

    def step(self, name: str, result):
        if name in self.fails:
            raise self.fails[name]
        return result

    def memoize(self, *, for_each_device):
        assert for_each_device

        def decorate(function):
            memo = {}

            def remembered(*key):
                if (self.current, key) not in memo:
                    memo[self.current, key] = function(*key)
                return memo[self.current, key]

            return remembered

        return decorate

    def RawModule(self, *, code, options):
        self.compiled.append((code, options))
        return self

    def get_function(self, name):
        self.functions.append(self.step("compile", FakeFunction(self, name)))
        return self.functions[-1]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Return a folder of sources to be used instead of cuda_src."""
    (tmp_path / TWICE.file).write_text(SOURCE)
    monkeypatch.setattr(_source, "directory", lambda: tmp_path)
    _source.read.cache_clear()
    yield
    _source.read.cache_clear()


@pytest.fixture
def pretend(monkeypatch, source):
    """Replace CuPy by a stand-in and return it."""

    def put(fails=None, **options):
        cupy = FakeCupy(fails, **options)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return cupy

    return put


def launch(gpu, blocks=3, *, scalar="float", step=1, shared=0, **arguments):
    given = {"x": np.zeros(5, {"float": "f4", "double": "f8"}[scalar]), "weights": None, "out": np.zeros(5, "f4")}
    program = Program(TWICE, {"SCALAR": scalar, "STEP": step})
    known = {**given, "n": 5, "rows": 3, "columns": 4, "scale": 2, **arguments}
    gpu.launch(program, blocks, Plan(program, blocks, known).bind(known), shared=shared)


# --- launches -------------------------------------------------------------------------------------------
def test_arguments_come_in_the_order_of_the_signature(pretend):
    cupy = pretend()
    x, out = np.zeros(5, "f4"), np.ones(5, "f4")
    launch(device.Gpu(), 7, scale=0.5, out=out, x=x, shared=96)
    ((name, _, grid, block, arguments, shared),) = cupy.launches
    assert (name, grid, block, shared) == ("twice", (7,), (64,), 96)
    assert arguments[0] is x
    assert arguments[1] is None, "a null pointer"
    assert arguments[2] is out
    assert (type(arguments[3]), arguments[3]) == (np.int32, 5)  # CuPy would pass a bare number as 8 bytes
    struct = arguments[4]
    assert (type(struct), struct.shape) == (np.ndarray, ())  # CuPy passes an array of size 1 by value, and no np.void
    assert struct.item() == (3, 4, 0.5)
    assert struct.nbytes == 16
    ((text, options),) = cupy.compiled
    assert "#define SS_SCALAR float\n" in text
    assert options == ("-std=c++17",)


def test_a_program_is_compiled_once_for_each_device_and_text(pretend):
    cupy = pretend()
    gpu = device.Gpu()
    for cupy.current in (0, 1, 0, 1):
        for scalar in ("float", "double", "float"):
            launch(gpu, scalar=scalar)
    assert len(cupy.launches) == 12
    assert len(cupy.compiled) == 4


def test_equal_numbers_that_are_spelled_differently_are_different_programs(pretend):
    cupy = pretend()
    gpu = device.Gpu()
    for step in (1, 1.0, True, 1):
        launch(gpu, step=step)
    assert [text.split("SS_STEP ")[1].split("\n")[0] for text, _ in cupy.compiled] == ["1", "1.0", "True"]


def test_no_blocks_launch_nothing(pretend):
    cupy = pretend()
    launch(device.Gpu(), 0)
    assert cupy.compiled == cupy.launches == []


def test_as_many_blocks_as_a_grid_has(pretend):
    cupy = pretend()
    launch(device.Gpu(), MOST_BLOCKS)
    with pytest.raises(ShiftsearchError, match="twice: 2147483648 blocks, expected at most 2147483647"):
        launch(device.Gpu(), MOST_BLOCKS + 1)
    assert len(cupy.launches) == 1


def test_much_shared_memory_is_asked_for_once(pretend):
    cupy = pretend()
    gpu = device.Gpu()
    asked = []
    for shared in (0, 48 * 1024 - 1000, 60_000, 50_000, 99_000):
        launch(gpu, shared=shared)
        asked.append(cupy.functions[0].max_dynamic_shared_size_bytes)
    assert asked == [48 * 1024, 48 * 1024, 60_000, 60_000, 99_000]
    assert [shared for *_, shared in cupy.launches] == [0, 48 * 1024 - 1000, 60_000, 50_000, 99_000]


def test_each_device_is_asked_for_shared_memory(pretend):
    cupy = pretend()
    gpu = device.Gpu()
    for cupy.current in (0, 1):
        launch(gpu, shared=60_000)
    assert [function.max_dynamic_shared_size_bytes for function in cupy.functions] == [60_000, 60_000]


def test_more_shared_memory_than_the_device_has(pretend):
    cupy = pretend()
    with pytest.raises(
        ShiftsearchError,
        match=r"twice: a block needs 99001 bytes .* at most 99000: .* allows 100000, and 1000 of these",
    ):
        launch(device.Gpu(), shared=99_001)
    assert cupy.launches == []


# --- what is missing ------------------------------------------------------------------------------------
def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ShiftsearchError, match=r'need CuPy: pip install "shiftsearch\[cuda13\]"'):
        device.Gpu()


@pytest.mark.parametrize(
    ("status", "versions", "message"),
    [
        (35, (13020, 0), "there is no NVIDIA driver"),
        (35, (13020, 12040), r'pip uninstall cupy-cuda13x and pip install "shiftsearch\[cuda12\]"'),
        (35, (12090, 11080), "is for CUDA 11, but CuPy is built for CUDA 12: update the driver$"),
        (100, (13020, 13020), "CUDA finds no device"),
        (803, (13020, 13020), r"CUDA does not start \(cudaErrorX\)"),
    ],
)
def test_without_a_device(pretend, status, versions, message):
    pretend({"device": RuntimeFailure("cudaErrorX", status)}, versions=versions)
    with pytest.raises(ShiftsearchError, match=message):
        device.Gpu()


NO_HEADERS = "Failed to find CUDA headers. Please install CUDA toolkit headers"
NO_HEADERS_13 = '/tmp/x.cu(1): catastrophic error: cannot open source file "cuda_fp16.h"\n  #include <cuda_fp16.h>'
LOG = """number.cuh(3): warning #177-D: variable "a" was declared but never referenced

device_test.cu(2): error: identifier "gone" is undefined
    gone();
    ^"""


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (
            {"nvrtc": RuntimeError("no")},
            r'does not find NVRTC, the compiler of CUDA: pip install "shiftsearch\[cuda13\]"',
        ),
        ({"compile": RuntimeError(NO_HEADERS)}, r'find the headers of CUDA: pip install "shiftsearch\[cuda13\]"'),
        ({"compile": CompileFailure(NO_HEADERS_13)}, r'find the headers of CUDA: pip install "shiftsearch\[cuda13\]"'),
        ({"compile": RuntimeError("why")}, r'cannot compile \(why\): pip install "shiftsearch\[cuda13\]"'),
        (
            {"compile": DriverFailure("CUDA_ERROR_NO_BINARY_FOR_GPU", 209)},
            r"_GPU\): NVRTC 13.0 .* -U nvidia-cuda-nvrtc,",
        ),
        ({"compile": PermissionError("home")}, "cannot write to .* CUPY_CACHE_DIR"),
        (
            {"compile": CompileFailure("nvrtc: error: invalid value for --gpu-architecture (-arch)")},
            r'NVRTC 13.0 does not compile for compute capability 6.1: .*"shiftsearch\[cuda12\]"',
        ),
        (
            {"compile": CompileFailure(LOG)},
            r'_test.cu does not compile with SCALAR=float, STEP=1; please report this:\ndevice_test.cu\(2\): error: identifier "gone"',
        ),
    ],
)
def test_errors_of_the_compiler_are_shown(pretend, fails, message):
    cupy = pretend({"compile": RuntimeError("as NVRTC is missing"), **fails})
    with pytest.raises(ShiftsearchError, match=message):
        launch(device.Gpu())
    assert cupy.launches == []


@pytest.mark.parametrize("kind", [DriverFailure, RuntimeFailure])
def test_a_failure_of_the_device_is_no_fault_of_the_arguments(pretend, kind):
    pretend({"compile": kind("an illegal address", 700)})
    with pytest.raises(kind):
        launch(device.Gpu())


# --- CuPy itself, without a driver -------------------------------------------------------------------------
@pytest.fixture
def cupy():
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        return cupy
    pytest.skip("there is a device")


def test_cupy_without_a_driver(cupy):
    with pytest.raises(ShiftsearchError, match=r"NVIDIA driver|CUDA finds no device"):
        device.Gpu()


_COMPILES = """
import sys
from types import SimpleNamespace
from cupy.cuda import compiler

compiler._get_arch = lambda: "90"
compiler._get_arch_for_options_for_nvrtc = lambda arch=None: ("-arch=sm_90", "cubin")
loaded = []
module = SimpleNamespace(load=loaded.append, _set_mapping=lambda mapping: None)
compiler.function = SimpleNamespace(Module=lambda: module)
for n in range(4):
    compiler._compile_module_with_cache(f'extern "C" __global__ void f{n}(float* x) {{ *x = {n}; }}', ("-std=c++17",))
sys.stdout.buffer.write(b"".join(loaded))
"""


def test_binaries_on_disk_survive_damage_and_several_processes(cupy, tmp_path):
    pytest.importorskip("nvrtc")

    def processes(count):
        environment = {**os.environ, "CUPY_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", _COMPILES]
        started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(count)]
        return [process.communicate()[0] for process in started]

    first, again, _ = processes(3)
    assert first == again != b""
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 4, "nothing is left over"
    for path, damaged in zip(files, (b"", b"no binary", files[min(files)][:-1], files[min(files)][::-1]), strict=True):
        path.write_bytes(damaged)
    assert processes(2) == [first, first]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_cupy_compiles_as_the_check_does(cupy, monkeypatch):
    """CuPy's options, its headers, and our messages for its errors, up to the loading of a binary."""
    nvrtc = pytest.importorskip("nvrtc")
    compiler, loaded, seen = cupy.cuda.compiler, [], []
    compile_program = compiler._NVRTCProgram.compile

    def compile(program, options=(), *rest):
        seen.append(options)
        return compile_program(program, options, *rest)

    module = SimpleNamespace(load=loaded.append, _set_mapping=lambda mapping: None)
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    monkeypatch.setattr(compiler, "_get_arch", lambda: "90")
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: ("-arch=sm_90", "cubin"))
    monkeypatch.setattr(compiler, "function", SimpleNamespace(Module=lambda: module))
    monkeypatch.setattr(compiler._NVRTCProgram, "compile", compile)
    text = nvrtc.programs(KERNELS["score"], "bfloat16")[0]
    options = cupy._core.core.assemble_cupy_compiler_options(device.OPTIONS)
    compiler._compile_module_with_cache(text, options)

    assert {option for option in seen[-1] if not option.startswith("-I")} == {*nvrtc.OPTIONS, "-arch=sm_90"}
    assert len(loaded) == 1

    with pytest.raises(compiler.CompileException) as caught:
        compiler._compile_module_with_cache('#line 7 "op.cu"\n__global__ void f() { gone(); }', options)
    error = device._not_compiled(cupy, "op.cu", (), str(caught.value))
    assert 'op.cu(7): error: identifier "gone" is undefined' in str(error)
