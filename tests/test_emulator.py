"""The emulator finds the kinds of bugs that it is made for, and raises no false alarm."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emulate
import ml_dtypes
import numpy as np
import pytest
from emulate import Emulator, EmulatorError
from emulate.planted import BUGS, text

pytestmark = pytest.mark.skipif(bool(emulate.available()), reason=str(emulate.available()))
_MODES = ("fast", "ubsan")
_SEEN = [pytest.param(bug, mode, id=f"{mode}-{bug.name}") for mode in _MODES for bug in BUGS if mode in bug.seen]
_FILL = 'extern "C" __global__ void fill(float* y, int n) { if (threadIdx.x < n) y[threadIdx.x] = 1; }'


def launch(name, blocks, threads, *arguments, mode="fast", seed=0):
    Emulator(mode, seed).launch_text(text(bug=False), name, blocks, threads, list(arguments))


@pytest.mark.parametrize(("bug", "mode"), _SEEN)
def test_bug_is_seen(bug, mode):
    for seed in range(3):
        said = bug.said(mode, seed)
        assert re.search(bug.seen[mode], said), said


@pytest.mark.full
@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_no_false_alarm(bug, mode):
    for seed in range(5):
        for guard in ("end", "start"):
            assert (bug.run(mode, False, seed, guard) == bug.expected).all()


@pytest.mark.full
def test_races():
    """All under ThreadSanitizer, by one process."""
    done = emulate.run_under_tsan(["-q", "-p", "no:cacheprovider", str(Path(emulate.__file__).parent / "races.py")])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_tsan_needs_its_python():
    with pytest.raises(EmulatorError, match="run_under_tsan"):
        Emulator("tsan").launch_text(_FILL, "fill", 1, 32, [np.zeros(1, np.float32), np.int32(1)])


def test_mode_of_the_environment(monkeypatch):
    monkeypatch.setenv("SHIFTSEARCH_EMULATOR_MODE", "ubsan")
    assert Emulator().mode == "ubsan"
    assert Emulator("fast").mode == "fast"
    with pytest.raises(ValueError, match="asan"):
        Emulator("asan")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(8), np.int32(8)), "argument 0 is ndarray of float64, expected an array of f4"),
        ((np.zeros(8, np.float32), 8), "argument 1 is int, expected a NumPy scalar or struct of i4"),
        ((np.zeros(8, np.float32), np.int64(8)), "argument 1 is int64 of int64"),
        ((np.zeros(8, np.float32),), "takes 2 arguments, not 1"),
        ((np.float32(8), np.int32(8)), "argument 0 is float32, expected an array of f4"),
        ((np.zeros(16, np.float32)[::2], np.int32(8)), "argument 0 is not contiguous"),
        ((np.broadcast_to(np.float32(0), 1), np.int32(1)), "argument 0 can not be written"),
        ((None, np.int32(1)), r"thread 0: write outside of any array at \(nil\)"),
        ((np.zeros(0, np.float32), np.int32(1)), "argument 0, byte 0 of 0"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(EmulatorError, match=message):
        Emulator("fast").launch_text(_FILL, "fill", 1, 32, list(arguments))


_PAIR = """
struct Pair { int a; double b; };
extern "C" __global__ void pair(double* y, const Pair p) { *y = p.a + p.b; }
"""


def test_structs_are_passed_by_value():
    y, pair = np.zeros(1), np.array((1, 0.5), np.dtype([("a", "i4"), ("b", "f8")], align=True))
    Emulator("ubsan").launch_text(_PAIR, "pair", 1, 1, [y, pair])
    assert y[0] == 1.5
    packed = pair.astype([("a", "i4"), ("b", "f8")])
    for wrong in (packed, pair[()], pair[None], np.float64(2)):  # CuPy takes no np.void either
        with pytest.raises(EmulatorError, match=r"argument 1 is .*, expected a NumPy scalar or struct of V16"):
            Emulator().launch_text(_PAIR, "pair", 1, 1, [y, wrong])


def test_null_pointers_may_be_passed():
    Emulator("ubsan").launch_text(_FILL, "fill", 1, 32, [None, np.int32(0)])


def test_overlapping_arguments():
    memory = np.zeros(200, np.float32)
    with pytest.raises(EmulatorError, match="argument 0 and argument 1 overlap"):
        launch("missing_barrier", 1, 128, memory[:128], memory[64:192])


@pytest.mark.parametrize(("name", "guard"), [("write_before", "end"), ("write_outside", "start")])
def test_writes_at_the_end_that_is_not_guarded(name, guard):
    bug = next(bug for bug in BUGS if bug.name == name)
    with pytest.raises(EmulatorError, match="write just outside of argument 1"):
        bug.run("fast", True, 0, guard)


def test_what_was_read_outside_is_seen_when_it_is_written_outside():
    kernel = 'extern "C" __global__ void copy(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }'
    x, y = np.ones(4, np.float32), np.zeros(4, np.float32)
    with pytest.raises(EmulatorError, match="write just outside of argument 1"):
        Emulator(guard="start").launch_text(kernel, "copy", 1, 5, [x, y])


def test_outputs_stay_when_a_launch_fails():
    y = np.zeros(4, np.float32)
    with pytest.raises(EmulatorError, match="byte 16 of 16"):
        Emulator().launch_text(_FILL, "fill", 1, 32, [y, np.int32(5)])
    assert (y == 0).all()


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "opted_in", "message"),
    [
        (0, 32, 0, True, "0 blocks"),
        (2**31, 32, 0, True, "2147483648 blocks"),
        (1, 0, 0, True, "0 threads"),
        (1, 1025, 0, True, "1025 threads"),
        (1, 32, 48 * 1024 + 1, False, "must opt in"),
        (1, 32, 227 * 1024 + 1, True, "232449 bytes of dynamic shared memory"),
    ],
)
def test_launch_limits(blocks, threads, shared, opted_in, message):
    arguments = [np.zeros(1, np.float32), np.int32(1)]
    with pytest.raises(EmulatorError, match=message):
        Emulator().launch_text(_FILL, "fill", blocks, threads, arguments, shared=shared, opted_in=opted_in)


def _shared_kernel(size: int, bounds: int = 64) -> str:
    return f"""
        extern "C" __global__ void __launch_bounds__({bounds}, 1) shared(float* y) {{
            __shared__ __align__(16) char part[{size}];  // __shared__ in a comment
            extern __shared__ float rest[];
            part[threadIdx.x] = 1;
            rest[threadIdx.x] = threadIdx.x;
            __syncthreads();
            y[threadIdx.x] = rest[63 - threadIdx.x] + part[threadIdx.x];
        }}"""


def test_shared_memory_limits():
    y = np.zeros(64, np.float32)
    Emulator().launch_text(_shared_kernel(48 * 1024), "shared", 2, 64, [y], shared=179 * 1024)
    assert (y == np.arange(63, -1, -1) + 1).all()
    Emulator().launch_text(_shared_kernel(64), "shared", 1, 64, [y], shared=48 * 1024, opted_in=False)
    with pytest.raises(EmulatorError, match="49153 bytes of static shared memory"):
        Emulator().launch_text(_shared_kernel(48 * 1024 + 1), "shared", 1, 64, [y], shared=256)
    with pytest.raises(EmulatorError, match="49152 static and 183297 dynamic bytes"):
        Emulator().launch_text(_shared_kernel(48 * 1024), "shared", 1, 64, [y], shared=179 * 1024 + 1)
    with pytest.raises(EmulatorError, match="64 threads, its __launch_bounds__ are 32"):
        Emulator().launch_text(_shared_kernel(64, 32), "shared", 1, 64, [y], shared=256)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("void k(float* y) {\n *y = INFINITY; }", r"kernel\.cu:8:.*INFINITY"),
        ("void k(__half* y) { *y = 0; }", "__half"),  # which is in a header
        ("void k(float* y) { __shared__ float a[1], b[1]; *y = *a + *b; }", "a statement"),
    ],
)
def test_what_does_not_compile(kernel, message):
    with pytest.raises(EmulatorError, match=message):
        Emulator().launch_text(f'#line 7 "kernel.cu"\nextern "C" __global__ {kernel}', "k", 1, 1, [None])


def test_huge_arrays(tmp_path):
    """An array that is not copied may be larger than memory, with indices that are too large for an int."""
    kernel = """extern "C" __global__ void read(const unsigned char* x, int* y, int width) {
        *y = x[(WIDE)(width - 1) * width + width - 1]; }"""
    x, y = np.memmap(tmp_path / "zeros", np.uint8, "w+", shape=2**32), np.full(1, -1, np.int32)  # none are on the disk
    emulator, arguments = Emulator("ubsan", guard=None), [x, y, np.int32(2**16)]
    emulator.launch_text(kernel.replace("WIDE", "long long"), "read", 1, 1, arguments)
    assert y[0] == 0
    with pytest.raises(EmulatorError, match="signed integer overflow"):
        emulator.launch_text(kernel.replace("WIDE", "int"), "read", 1, 1, arguments)


def test_what_is_undefined_only_once_is_seen():
    """What is undefined is named by a second launch, which finds nothing where the first one has changed its arrays."""
    kernel = """extern "C" __global__ void once(int* y, int most) {
        const int first = y[0];
        y[0] = 0;
        y[0] = first ? most + first : 5; }"""
    y = np.ones(1, np.int32)
    with pytest.raises(EmulatorError, match=r"^once: block 0, thread 0: undefined behaviour, at \S+:4$"):
        Emulator("ubsan", guard=None).launch_text(kernel, "once", 1, 1, [y, np.int32(2**31 - 1)])
    assert y[0] == 5


def test_launches_by_several_threads():
    together = threading.Barrier(4)
    bug = next(bug for bug in BUGS if bug.name == "write_after_read")

    def work(seed):
        together.wait()
        return all((bug.run(mode, False, seed) == bug.expected).all() for mode in _MODES for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("seed", range(4))
def test_warp_intrinsics(rng, mode, seed):
    x = rng.integers(1, 9, 64).astype(np.int32)
    y = np.zeros((16, 64), np.int32)
    launch("warp", 1, 64, x, y, np.int32(64), mode=mode, seed=seed)
    warps, lane = x.reshape(2, 32), np.arange(32)

    def bits(sets):
        return (sets.astype(np.int64) << lane).sum(-1).astype(np.uint32).view(np.int32)

    def each(values):
        return np.repeat(values, 32)

    eighth = lane % 8
    down = warps[:, np.minimum(lane + 1, 31)]
    halves = [np.r_[np.repeat(w[:16].sum(), 16), np.repeat(w[16:].max(), 16)] for w in warps]
    expected = [
        warps[:, (lane + 5) % 32],
        warps[:, np.where(lane >= 3, lane - 3, lane)],
        warps[:, np.where(lane % 16 + 3 < 16, lane + 3, lane)],
        warps[:, lane ^ 9],
        each(bits(warps & 1)),
        each((warps == 7).any(1) * 2 + (warps >= 1).all(1)),
        each(warps.sum(1)),
        each(warps.min(1)),
        bits((warps[:, :, None] & 3) == (warps[:, None, :] & 3)),
        np.full(64, (x & 1).sum()),
        np.concatenate(halves),
        warps[:, lane ^ 1],
        down * 2 + 1,
        warps[:, np.where(eighth, lane - 1, lane)] * 4 + 1,
        [bin(v).count("1") * 100 + ((v & -v).bit_length()) * 10 + 32 - v.bit_length() for v in x.tolist()],
        np.full(64, (x == 8).any() * 2 + (x < 9).all()),
    ]
    for got, wanted in zip(y, expected, strict=True):
        np.testing.assert_array_equal(got, np.ravel(wanted))


def test_sixteen_bit_floats(rng):
    bits = np.arange(65536, dtype=np.uint16)
    a, c = bits.view(np.float16), bits.view(ml_dtypes.bfloat16)
    b, d = np.roll(a, 12345), np.roll(c, 23456)
    with np.errstate(all="ignore"):
        # Just beside half way between two: rounded to float first they would be half way.
        aside = 0.5 + rng.choice([-1, 1], 65536) / 2**30
        wide = a.astype(np.float64) + np.spacing(np.abs(a)).astype(np.float64) * aside
        half, bfloat = np.zeros((5, 65536), np.float16), np.zeros((4, 65536), ml_dtypes.bfloat16)
        launch("sixteen_bits", 256, 256, a, b, half, c, d, bfloat, wide)
        np.testing.assert_array_equal(half, [a + b, a * b, a / b, a - b, wide.astype(np.float16)])
        e, f = c.astype(np.float32), d.astype(np.float32)
        expected = np.array([e + f, e * f, e / f, e - f]).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(bfloat.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("mode", _MODES)
def test_arithmetic(rng, mode):
    special = np.array([0.5, 1.5, 2.5, -0.5, -2.5, np.inf, -np.inf, np.nan, 1e30, -1e30, 2.0**31, -(2.0**31) - 1])
    a = np.concatenate([special, rng.standard_normal(500) * 100])
    b = rng.standard_normal(a.size) + 3
    y, whole = np.zeros((8, a.size)), np.zeros((4, a.size), np.int64)
    launch("arithmetic", 4, 128, a, b, y, whole, np.int32(a.size), mode=mode)
    single, double = a.astype(np.float32), b.astype(np.float32)

    def clamped(values, least, most, nan):
        exact = [nan if np.isnan(v) else least if v <= least else most if v >= most else int(v) for v in values]
        return np.array(exact, np.int64)

    with np.errstate(all="ignore"):
        finite = np.isfinite(a)
        np.testing.assert_array_equal(y[0], a * b + a)
        assert (y[1][finite] != (a * b + a)[finite]).any()  # rounded once
        np.testing.assert_allclose(y[1], a * b + a, rtol=1e-13, atol=1e-12)
        np.testing.assert_array_equal(y[2], (a - b) / b)
        np.testing.assert_array_equal(y[3], np.rint(a) + np.floor(b) * 3 + np.ceil(a) * 7)
        np.testing.assert_array_equal(y[4], np.fmod(a, b))
        np.testing.assert_array_equal(y[5], finite * 4 + np.isnan(a) * 2 + np.isinf(a))
        np.testing.assert_array_equal(y[6], single + double * np.float32(3))
        np.testing.assert_array_equal(y[7], np.fmin(single, double))
        np.testing.assert_array_equal(whole[0], clamped(np.rint(a), -(2**63), 2**63 - 1, -(2**63)))
        np.testing.assert_array_equal(whole[1], clamped(np.floor(a), -(2**31), 2**31 - 1, -(2**31)))
        np.testing.assert_array_equal(whole[2], clamped(np.rint(single), -(2**31), 2**31 - 1, 0))
    assert (whole[3][~np.isnan(a)] == 0x7FF0000000000000).all()
