"""CUDA's compiler without a GPU: it compiles kernels for each architecture, and their costs are read from the binaries.

NVRTC comes from the wheels nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12 (or nvidia-cuda-nvrtc and
nvidia-cuda-runtime for CUDA 13), is called by ctypes, and makes the very binary that CuPy would load.
`python tests/nvrtc.py` prints what every kernel costs, how much of an H100 it fills, and what the goals would take there.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from shiftsearch import _source
from shiftsearch.backends.cuda import KERNELS, device, kernels

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
DTYPES = {  # of the values, as SS_SCALAR and SS_ACC spell them
    "float32": {"SCALAR": "float", "ACC": "float"},
    "float64": {"SCALAR": "double", "ACC": "double"},
    "float16": {"SCALAR": "__half", "ACC": "float"},
    "bfloat16": {"SCALAR": "__nv_bfloat16", "ACC": "float"},
}
# What CuPy adds to ours, besides folders of headers: test_device.py compares.
OPTIONS = (*device.OPTIONS, "-ftz=true", "--device-as-default-execution-space")
LINES = "-lineinfo"  # adds the source line of each instruction, and changes none

_WHEELS = (  # folders below site-packages/nvidia: the library, the headers
    ("cuda_nvrtc/lib/libnvrtc.so.12", "cuda_runtime/include"),
    ("cu13/lib/libnvrtc.so.13", "cu13/include"),
)


@dataclass(frozen=True)
class Cost:
    """Resources of one thread or block of a kernel on one architecture."""

    registers: int  # of a thread
    frame: int  # bytes of a thread in local memory: spilled registers, and arrays with a variable index
    shared: int  # bytes of a block, those of fixed size
    code: int  # bytes


# --- NVRTC --------------------------------------------------------------------------------------------
def available() -> str | None:
    """Return the reason why nothing can be compiled here, or None."""
    if _wheels() is None:
        return "needs nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12"
    return None


@cache
def _wheels() -> tuple[Path, Path] | None:
    """Return the paths of the library and of the headers that belong to it."""
    for folder in map(Path, sys.path):
        for library, headers in _WHEELS:
            found = folder / "nvidia" / library, folder / "nvidia" / headers
            if all(path.exists() for path in found):
                return found
    return None


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_wheels()[0]))


def compile(text: str, arch: int, kernel_names: tuple[str, ...]) -> dict[str, Cost]:
    """Return the costs of kernels of a program, or raise RuntimeError with the compiler's log."""
    costs = _costs(text, arch)
    return {name: costs[name] for name in kernel_names}


@cache
def _costs(text: str, arch: int) -> dict[str, Cost]:
    """Return the costs of all kernels of a program, which is compiled once."""
    return read_costs(cubin(text, arch))


@cache
def cubin(text: str, arch: int, *more: str) -> bytes:
    """Return the binary that CuPy would make of `text` on a device of this architecture, with more options if any."""
    nvrtc, program = _library(), ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None):
        raise MemoryError("NVRTC makes no program")
    options = [option.encode() for option in (*OPTIONS, *more, f"-I{_wheels()[1]}", f"-arch=sm_{arch}")]
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if failed:
            log = _fetch(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise RuntimeError(log.rstrip(b"\0\n").decode())
        return _fetch(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"NVRTC {major.value}.{minor.value}"


def _fetch(size_of, copy_of, program) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    copy_of(program, content)
    return content.raw


def workers() -> ProcessPoolExecutor:
    """Return processes that compile: threads of one process would wait for each other inside NVRTC."""
    return ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=get_context("spawn"))


# --- costs in a binary -----------------------------------------------------------------------------------
class _FileHeader(ctypes.LittleEndianStructure):
    _fields_ = (
        ("identification", ctypes.c_char * 16),
        ("type", ctypes.c_uint16),
        ("machine", ctypes.c_uint16),
        ("version", ctypes.c_uint32),
        ("entry", ctypes.c_uint64),
        ("programs_at", ctypes.c_uint64),
        ("sections_at", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("header_size", ctypes.c_uint16),
        ("program_size", ctypes.c_uint16),
        ("programs", ctypes.c_uint16),
        ("section_size", ctypes.c_uint16),
        ("sections", ctypes.c_uint16),
        ("names_section", ctypes.c_uint16),
    )


class _Section(ctypes.LittleEndianStructure):
    _fields_ = (
        ("name_at", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("at", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("link", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("alignment", ctypes.c_uint64),
        ("entry_size", ctypes.c_uint64),
    )


class _Symbol(ctypes.LittleEndianStructure):
    _fields_ = (
        ("name_at", ctypes.c_uint32),
        ("info", ctypes.c_uint8),
        ("other", ctypes.c_uint8),
        ("section", ctypes.c_uint16),
        ("value", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    )


class _Record(ctypes.LittleEndianStructure):
    """A record of the section .nv.info; behind those about a function are a symbol and a value."""

    _fields_ = (("format", ctypes.c_uint8), ("attribute", ctypes.c_uint8), ("size", ctypes.c_uint16))


_SIZED = 4  # the format of records that are followed by `size` bytes; the others hold their value in place of it
_FRAME_SIZE, _REGISTERS = 0x11, 0x2F  # attributes
_RESERVED = 1024  # bytes of shared memory for the system in each block, from sm_90 on counted as the kernel's


def read_costs(binary: bytes) -> dict[str, Cost]:
    """Return the costs of the kernels in a cubin, an ELF file with a section .text.<name> for each."""
    header = _FileHeader.from_buffer_copy(binary)
    assert header.identification.startswith(b"\x7fELF"), "not a cubin"
    sections = _table(_Section, binary, header.sections_at, header.sections)
    names = sections[header.names_section]
    named = {_string(binary, names, section.name_at): section for section in sections}

    table = named[".symtab"]
    symbols = _table(_Symbol, binary, table.at, table.size // table.entry_size)
    functions = [_string(binary, sections[table.link], symbol.name_at) for symbol in symbols]
    told = {(functions[symbol], attribute): value for attribute, symbol, value in _records(binary, named[".nv.info"])}
    reserved = _RESERVED if ".nv.shared.reserved.0" in named else 0
    costs = {}
    for name, section in named.items():
        if name.startswith(".text."):
            kernel = name.removeprefix(".text.")
            shared = named.get(f".nv.shared.{kernel}")
            costs[kernel] = Cost(
                registers=told[kernel, _REGISTERS],
                frame=told[kernel, _FRAME_SIZE],
                shared=max(shared.size - reserved, 0) if shared else 0,
                code=section.size,
            )
    return costs


def _table(kind, binary: bytes, at: int, count: int) -> list:
    return list((kind * count).from_buffer_copy(binary, at))


def _string(binary: bytes, strings: _Section, at: int) -> str:
    start = strings.at + at
    return binary[start : binary.index(b"\0", start)].decode()


def _records(binary: bytes, info: _Section):
    """Yield (attribute, symbol, value) of each record about a function."""
    at = info.at
    while at < info.at + info.size:
        record = _Record.from_buffer_copy(binary, at)
        at += ctypes.sizeof(record)
        if record.format == _SIZED:
            if record.attribute in (_FRAME_SIZE, _REGISTERS):
                symbol, value = _table(ctypes.c_uint32, binary, at, 2)
                yield record.attribute, symbol, value
            at += record.size


# --- how much of a multiprocessor of an H100 or H200 (sm_90) is filled --------------------------------------
def resident_blocks(registers: int, threads: int, shared: int) -> int:
    """Return how many blocks one multiprocessor runs at a time, from the resources of compute capability 9.0."""
    warps = -(-threads // 32)
    registers_of_warp = -(-registers * 32 // 256) * 256  # they are allocated 256 at a time
    warps_in_registers = 4 * (65536 // 4 // registers_of_warp)  # four quarters, and a warp lives in one
    return min(32, 64 // warps, warps_in_registers // warps, 228 * 1024 // (shared + _RESERVED))


def constants(instance: dict, dtype: str) -> dict:
    """Return the options of an instance for values of a dtype; fractional offsets are as wide as sums."""
    wide = {"PLACE": DTYPES[dtype]["ACC"]} if instance.get("SUBPIXEL") else {}
    return {**instance, **DTYPES[dtype], **wide}


def programs(kernel: kernels.Kernel, dtype: str) -> list[str]:
    """Return the texts of a kernel that are compiled without a GPU: none for a dtype that it is not for."""
    instances = kernel.instances if dtype in kernel.dtypes else ()
    return [kernels.text(kernel.file, constants(instance, dtype)) for instance in instances]


MIXED = """
struct Mixed {
    int a, b;  // two of a declaration
    double wide;
    unsigned char small;
    long long whole;
    float last;
};
struct Two {
    unsigned char x, y;
};
"""


def layout_checks(parameter: kernels.Parameter) -> str:
    """Return a text that compiles only if C++ reads each field of a struct where NumPy has written it."""
    dtype, ctype = parameter.dtype, parameter.ctype
    values = range(1, len(dtype.names) + 1)
    written = ", ".join(map(str, np.array(tuple(values), dtype).tobytes()))
    checks = [f"sizeof({ctype}) == {dtype.itemsize}", f"alignof({ctype}) == {dtype.alignment}"]
    checks += [f"read_{ctype}.{name} == {value}" for name, value in zip(dtype.names, values, strict=True)]
    return "\n".join(
        [
            f"struct Bytes_{ctype} {{ unsigned char bytes[{dtype.itemsize}]; }};",
            f"constexpr {ctype} read_{ctype} = __builtin_bit_cast({ctype}, Bytes_{ctype}{{{{{written}}}}});",
            *(f'static_assert({check}, "{ctype}");' for check in checks),
        ]
    )


def lines(kernel: kernels.Kernel) -> int:
    """Return the lines of the function that is launched, without the functions that it calls."""
    function = re.search(rf'^extern "C"[^\n]*\n{kernel.name}\(.*?^}}', _source.read(kernel.file), re.M | re.S)[0]
    return len(function.splitlines())


def _print_table(names: list[str]) -> None:
    unknown = set(names) - KERNELS.keys()
    if unknown:
        sys.exit(f"no kernel {', '.join(sorted(unknown))}, expected some of {', '.join(KERNELS)}")
    chosen = [KERNELS[name] for name in names or KERNELS]
    with workers() as pool:
        rows = [
            (kernel, dtype, number, pool.submit(_timed, text, kernel.name))
            for kernel in chosen
            for dtype in DTYPES
            for number, text in enumerate(programs(kernel, dtype))
        ]
        print(
            "sm_90              dtype     instance registers frame shared dynamic    code blocks  filled  lines seconds"
        )
        for kernel, dtype, number, found in rows:
            cost, seconds = found.result()
            dynamic = kernel.shared(constants(kernel.instances[number], dtype))
            threads = kernel.instances[number].get("THREADS", kernel.threads)
            blocks = resident_blocks(cost.registers, threads, cost.shared + dynamic)
            print(
                f"{kernel.name:19}{dtype:9}{number:9}{cost.registers:10}{cost.frame:6}{cost.shared:7}{dynamic:8}"
                f"{cost.code:8}{blocks:7}{blocks * threads / 2048:8.0%}{lines(kernel):7}{seconds:8.1f}"
            )


def _timed(text: str, name: str) -> tuple[Cost, float]:
    """Return the costs of a kernel and the seconds of compiling it, which are meaningful only on an idle machine."""
    start = time.monotonic()
    return compile(text, 90, (name,))[name], time.monotonic() - start


if __name__ == "__main__":
    if available() is not None:
        sys.exit(available())
    _print_table(sys.argv[1:])
    if not sys.argv[1:]:
        import modelled  # which needs this module

        modelled.print_goals(modelled.modelled_goals())
