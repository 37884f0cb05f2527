"""Every kernel compiles for every architecture and dtype, within its limit of registers. This needs no GPU."""

from __future__ import annotations

import re

import pytest
import sass
from nvrtc import (
    ARCHITECTURES,
    DTYPES,
    MIXED,
    Cost,
    available,
    compile,
    constants,
    cubin,
    layout_checks,
    programs,
    resident_blocks,
)

from shiftsearch.backends.cuda import KERNELS, kernels

_ALL = 90  # for this architecture everything is compiled, for others one instance of a kernel
_ENDS = (ARCHITECTURES[0], ARCHITECTURES[-1])  # these not only in single precision

_MOST_CODE = 128 * 1024  # bytes: what an H100 keeps of a program, and what compiles in some seconds
_USEFUL = {  # share of arithmetic in the busiest loop, where loads or another pipe take longer than arithmetic would
    # each number that is loaded, by an address of its own, is used once: these are what tiles leave, or cannot do
    "search": 0.15,
    "attend_best": 0.07,
    "aggregate": 0.09,
    "scatter": 0.09,
    "fold": 0.08,
    "gather": 0.4,
    "slope": 0.4,
    "attend_slopes": 0.3,
    "attend_landed": 0.2,
    # the loop is that of a division of indices
    "settle": 0.35,
    "descent": 0.35,
    "fill_up": 0.35,
    "warp": 0.25,
    "resample": 0.14,
    "mean_down": 0.1,
    "chain_flow": 0.01,
    "chain_flow_backward": 0.03,
    # tensor cores have multiplied: what is left is to find the few that are scored
    "search_points": 0.18,
    "attend_points": 0.22,
    # an exponential for each candidate
    "attend": 0.45,
}

needs_nvrtc = pytest.mark.skipif(available() is not None, reason=str(available()))


def _dtypes(file: str, arch: int) -> list[str]:
    """Return the dtypes to compile a file in. The others than single precision take turns."""
    if arch == _ALL:
        return [*DTYPES]
    files = sorted({kernel.file for kernel in KERNELS.values()})
    others = [dtype for dtype in DTYPES if dtype != "float32"]
    return ["float32", *(others[(files.index(file) + end) % len(others)] for end in range(2) if _ENDS[end] == arch)]


_COMPILED = [
    pytest.param(kernel.name, dtype, arch, marks=pytest.mark.xdist_group(kernel.file))
    for kernel in KERNELS.values()
    for arch in ARCHITECTURES
    for dtype in _dtypes(kernel.file, arch)
]


@needs_nvrtc
@pytest.mark.parametrize(("name", "dtype", "arch"), _COMPILED)
def test_a_kernel_compiles_within_its_limits(name, dtype, arch):
    kernel, found = KERNELS[name], []
    texts = list(enumerate(programs(kernel, dtype)))
    if texts and (arch != _ALL or dtype == "bfloat16"):  # which is loaded and stored otherwise than halves, and no more
        texts = [texts[(ARCHITECTURES.index(arch) + list(DTYPES).index(dtype)) % len(texts)]]
    for number, text in texts:
        cost = compile(text, arch, (name,))[name]
        if cost.registers > kernel.registers or cost.frame > kernel.frame or cost.shared > 48 * 1024:
            found.append(
                f"instance {number}: {cost}, expected at most {kernel.registers} registers, frame {kernel.frame}"
            )
        threads = kernel.instances[number].get("THREADS", kernel.threads)
        assert cost.registers * threads <= 65536, "no block fits on a multiprocessor"
        assert cost.code <= _MOST_CODE
    assert not found, "\n".join(found)


@needs_nvrtc
@pytest.mark.skipif(sass.available() is not None, reason=str(sass.available()))
@pytest.mark.parametrize(
    "name", [pytest.param(k.name, marks=pytest.mark.xdist_group(k.file)) for k in KERNELS.values()]
)
def test_hot_loops_use_no_local_memory_and_are_mostly_arithmetic(name):
    """At least half of the instructions of the first instance are arithmetic, except where listed."""
    program = sass.disassemble(cubin(programs(KERNELS[name], "float32")[0], 90))[name]
    assert not program.local()
    few = (
        "attend_reach",
        "number_places",
        "fill_places",
        "coarser",
    )  # the last has loops only where it divides indices
    counts_and_sorts = KERNELS[name].file in ("landing.cu", "cells.cu", "weigh.cu") or name in few
    if not counts_and_sorts:
        assert program.useful() >= _USEFUL.get(name, 0.5)


@needs_nvrtc
@pytest.mark.skipif(sass.available() is not None, reason=str(sass.available()))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_search_of_points_multiplies_by_tensor_cores(dtype):
    program = sass.disassemble(cubin(programs(KERNELS["search_points"], dtype)[0], 80))["search_points"]
    assert [each.name for each in program.instructions].count("HMMA") >= (12 if dtype == "float32" else 4)


def _mixed(name: str) -> kernels.Parameter:
    return kernels.Parameter("mixed", name, fields=kernels._fields(name, re.sub("//.*", "", MIXED)))


@needs_nvrtc
@pytest.mark.parametrize("kernel", [KERNELS["search"], KERNELS["chain_flow"]], ids=lambda kernel: kernel.name)
def test_structs_lie_as_numpy_lays_them_out(kernel):
    """For CUDA's compiler; for g++ see test_cuda.py."""
    options = constants(kernel.instances[0], "float32")
    structs = [parameter for parameter in kernel.parameters(options) if parameter.fields]
    source = kernels.text(kernel.file, options)
    cubin("\n".join([source, *map(layout_checks, structs)]), 75)


@needs_nvrtc
def test_a_struct_that_lies_otherwise_does_not_compile():
    checks = "\n".join([layout_checks(_mixed("Mixed")), layout_checks(_mixed("Two"))])
    cubin(MIXED + checks, 75)
    with pytest.raises(RuntimeError, match="static assertion failed"):
        cubin(MIXED.replace("int a, b", "int b, a") + checks, 75)


# --- the check itself -------------------------------------------------------------------------------------
_KNOWN = """
extern "C" __global__ void plain(float* x) { x[threadIdx.x] += 1; }
extern "C" __global__ void shares(float* x) {
    __shared__ float kept[300];
    kept[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = kept[299 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024) spills(float* x) {
    float many[64];
    for (int i = 0; i < 64; ++i) many[i] = x[i * 1024 + threadIdx.x];
    for (int step = 0; step < 9; ++step) {
        for (int i = 0; i < 64; ++i) many[i] = many[i] * many[(i * 7 + 1) % 64] + step;
    }
    for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = many[i];
}
"""


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_costs_of_known_kernels(arch):
    costs = compile(_KNOWN, arch, ("plain", "shares", "spills"))
    assert costs["plain"].frame == costs["plain"].shared == costs["shares"].frame == 0
    assert costs["plain"].registers < 16
    assert costs["shares"].shared == 1200
    assert costs["spills"].registers == 64  # as many as a block of 1024 threads leaves each
    assert costs["spills"].frame > 0
    assert costs["spills"].code > costs["plain"].code > 0


@needs_nvrtc
def test_errors_name_the_line():
    with pytest.raises(RuntimeError, match=r'op\.cu\(7\): error: identifier "gone" is undefined'):
        compile('#line 7 "op.cu"\nextern "C" __global__ void f() { gone(); }', 90, ("f",))


@needs_nvrtc
def test_both_half_precisions_compile():
    text = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n" + (
        'extern "C" __global__ void f(__half* a, __nv_bfloat16* b) { *a = __float2half(__bfloat162float(*b)); }'
    )
    assert isinstance(compile(text, 75, ("f",))["f"], Cost)


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "blocks"),
    [
        (32, 128, 0, 16),  # all 64 warps
        (33, 128, 0, 12),  # counted as 40 registers
        (64, 128, 0, 8),
        (168, 128, 0, 3),
        (255, 1024, 0, 0),
        (16, 32, 0, 32),
        (32, 128, 48 * 1024, 4),
        (32, 128, 227 * 1024, 1),
    ],
)
def test_blocks_on_a_multiprocessor(registers, threads, shared, blocks):
    assert resident_blocks(registers, threads, shared) == blocks
