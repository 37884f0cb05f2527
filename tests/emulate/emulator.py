"""Build kernels with g++ and launch them on NumPy arrays.

Every array is copied to pages of its own, before or behind which there is no memory; constant arrays cannot be written.
machine.cpp runs the threads, and cuda_emu.h defines CUDA's names.

Environment: SHIFTSEARCH_EMULATOR_MODE is the mode of an `Emulator()`, SHIFTSEARCH_EMULATOR_CACHE the folder for
compiled kernels. Kernels that were not used for two weeks are deleted from it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from shiftsearch.backends.cuda import kernels

_COMPILER = "g++"
_HERE = Path(__file__).resolve().parent
_HEADERS = (*sorted(_HERE.glob("*.h")), *sorted((_HERE / "include").glob("*.h")))
_LANGUAGE = ["-std=c++17", "-fno-exceptions", "-fno-strict-aliasing", "-ffp-contract=off"]
_FLAGS = [*_LANGUAGE, "-w", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-plt"]
# a null pointer for an option that is left out may be moved, if it is not used
_UBSAN = [
    "-fsanitize=undefined,float-cast-overflow",
    "-fno-sanitize=vptr,pointer-overflow",
    "-fno-sanitize-recover=all",
]
_TRAPS = "-fsanitize-undefined-trap-on-error"  # compiles in four fifths of the time, and says nothing but where
# -Og compiles in three quarters of the time of -O1, which is most of what a small launch takes
_MODES = {"fast": ["-Og"], "ubsan": ["-Og", *_UBSAN, _TRAPS], "tsan": ["-Og", "-fsanitize=thread"]}
_EXPLAINS = "ubsan that explains"
_BUILDS = {**_MODES, _EXPLAINS: ["-Og", *_UBSAN]}
_TSAN_OPTIONS = "exitcode=0 suppress_equal_stacks=0 suppress_equal_addresses=0 report_signal_unsafe=0"
_STATIC_SHARED = 48 << 10  # also dynamic shared memory, for a launch that does not opt in to more
_SPARE_BUFFERS = 64
_UNUSED_AFTER = 14 * 86400  # seconds

_lock = threading.RLock()  # of the machine, which is one


class EmulatorError(RuntimeError):
    """A fault of a kernel or of its launch."""


class _Trapped(EmulatorError):
    """Undefined behaviour, of which only the place is known."""


@functools.cache
def available() -> str | None:
    """Return the reason why kernels cannot run here, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the emulator switches threads on x86-64 Linux only, this is {platform.machine()} {sys.platform}"
    if shutil.which(_COMPILER) is None:
        return f"the emulator compiles kernels with {_COMPILER}, which is not here"
    return None


class Emulator:
    """A device that runs kernels on the CPU.

    mode: "ubsan"; "fast", which does not find signed overflow, misalignment and wrong indices of small arrays; "tsan",
        which finds every race, in a Python that `run_under_tsan` started.
    seed: decides the order of blocks, warps and lanes; 0 runs them in turn.
    guard: whether arrays "end" or "start" at missing memory. With "end" they are aligned only as their elements are, like
        views of a caller's arrays. None: arrays of gigabytes are used as they are and not copied.
    last: runs only this many blocks, at the end of each grid, for arrays that are too large to compute.
    """

    xp = np
    seconds = 60.0  # of CPU time for a launch: more is an endless loop
    most_shared = 227 << 10  # bytes of shared memory of a block

    def __init__(self, mode: str | None = None, seed: int = 0, guard: str | None = "end", last: int = 0):
        self.mode = mode or os.environ.get("SHIFTSEARCH_EMULATOR_MODE", "ubsan")
        if self.mode not in _MODES or guard not in ("end", "start", None):
            raise ValueError(
                f"mode {self.mode!r} or guard {guard!r}: expected one of {[*_MODES]} and end, start or None"
            )
        self.seed = seed
        self.guard = guard
        self.last = last

    def __repr__(self) -> str:
        return f"Emulator({self.mode!r}, seed={self.seed}, guard={self.guard!r})"

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def launch(self, program: kernels.Program, blocks: int, values: tuple, *, shared: int = 0) -> None:
        """Run a kernel in a grid of `blocks` on bound arguments, with `shared` bytes of dynamic shared memory."""
        self._run(_registered(self.mode, program), blocks, program.threads, values, shared)

    def launch_text(
        self,
        text: str,
        name: str,
        blocks: int,
        threads: int,
        arguments: list,
        *,
        shared: int = 0,
        opted_in: bool = True,
    ) -> None:
        """Run function `name` of a text. `opted_in` allows more than 48 KB of dynamic shared memory."""
        if shared > _STATIC_SHARED and not opted_in:
            raise EmulatorError(f"{name}: {shared} bytes of dynamic shared memory, above 48 KB a launch must opt in")
        self._run(_load(self.mode, text)[name], blocks, threads, arguments, shared)

    def _run(self, function: _Function, blocks: int, threads: int, values: tuple | list, shared: int) -> None:
        if not 1 <= blocks < 2**31:
            raise EmulatorError(f"{function.name}: {blocks} blocks, expected 1 to 2**31 - 1")
        if function.bound and threads > function.bound:
            raise EmulatorError(f"{function.name}: {threads} threads, its __launch_bounds__ are {function.bound}")
        function.check(values)
        try:
            self._run_once(function, blocks, threads, values, shared)
        except _Trapped:
            self._run_once(function.that_explains(), blocks, threads, values, shared)
            raise

    def _run_once(self, function: _Function, blocks: int, threads: int, values: tuple | list, shared: int) -> None:
        with _lock, _Arguments(function, values, self.guard) as passed:
            asked = _Launch(
                blocks, threads, self.last, shared, self.seed, int(self.seconds * 1000), self.guard != "start"
            )
            failure = function.run(ctypes.byref(asked), passed.pointers)
            if self.mode == "tsan":
                _raise_races(function.name)
            if failure:
                error = _Trapped if failure[0].trapped else EmulatorError
                raise error(f"{function.name}: {_explain(failure[0], function, passed)}")
            if strayed := passed.strayed():
                raise EmulatorError(f"{function.name}: write just outside of {strayed[0]}")
            passed.take_back()


# ---- Launching ----


class _Launch(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("last", ctypes.c_uint),
        ("shared_bytes", ctypes.c_ulonglong),
        ("seed", ctypes.c_ulonglong),
        ("limit_ms", ctypes.c_ulonglong),
        ("guard_at_end", ctypes.c_int),
        ("filled_by_the_library", ctypes.c_void_p * 3),
    )


class _Failure(ctypes.Structure):
    _fields_ = (
        ("message", ctypes.c_char * 1024),
        ("instruction", ctypes.c_ulonglong),
        ("address", ctypes.c_void_p),
        ("writes", ctypes.c_int),
        ("trapped", ctypes.c_int),
    )


class _Function:
    """A kernel of a text, in a loaded library."""

    def __init__(self, library: ctypes.CDLL, path: Path, text: str, name: str):
        self.path, self.text, self.name = path, text, name
        self.run = library[f"emu_launch_{name}"]
        self.run.restype = ctypes.POINTER(_Failure)
        describe = library[f"emu_signature_{name}"]
        describe.restype = ctypes.c_char_p
        self.parameters = [(word[0], word[1:]) for word in describe().decode().split()]
        self.bound = ctypes.c_uint.in_dll(library, f"emu_bound_{name}").value
        self.names = [f"argument {i}" for i in range(len(self.parameters))]

    def that_explains(self) -> _Function:
        """Return the same, but that it says what was undefined."""
        explains = _load(_EXPLAINS, self.text)[self.name]
        explains.names = self.names
        return explains

    def check(self, values: tuple | list) -> None:
        """Refuse arguments that do not have the types of the C++ signature: a launch itself would take anything."""
        if len(values) != len(self.parameters):
            raise EmulatorError(f"{self.name} takes {len(self.parameters)} arguments, not {len(values)}")
        for (kind, wanted), value, name in zip(self.parameters, values, self.names, strict=True):
            if value is None and kind != "v":
                continue
            fits = _is_value(value) if kind == "v" else isinstance(value, np.ndarray)
            got = _code(value.dtype) if fits else None
            if got != wanted:
                what = "a NumPy scalar or struct" if kind == "v" else "an array"
                seen = type(value).__name__ if got is None else f"{type(value).__name__} of {value.dtype}"
                raise EmulatorError(f"{self.name}: {name} is {seen}, expected {what} of {wanted}")
            if kind == "w" and not value.flags.c_contiguous:
                raise EmulatorError(f"{self.name}: {name} is not contiguous")
            if kind == "w" and not value.flags.writeable:
                raise EmulatorError(f"{self.name}: {name} can not be written, and the kernel does")


def _is_value(value) -> bool:
    """Say whether CuPy passes it by value: a number, or a struct as an array of shape ()."""
    if isinstance(value, np.ndarray):
        return value.shape == () and value.dtype.names is not None
    return isinstance(value, np.generic) and not isinstance(value, np.void)


@functools.cache
def _code(dtype: np.dtype) -> str:
    return "b2" if dtype.name == "bfloat16" else f"{dtype.kind}{dtype.itemsize}"


class _Arguments:
    """The arguments of a launch: pointers to values, and copies of arrays."""

    def __init__(self, function: _Function, values: tuple | list, guard: str | None):
        self.copies: list[tuple[str, _Copy]] = []
        self.pointers = (ctypes.c_void_p * len(values))()
        self._kept = []
        places = {}
        for i, ((kind, _), value, name) in enumerate(zip(function.parameters, values, function.names, strict=True)):
            if kind == "v":
                value = np.asarray(value)
                self._kept.append(value)
                self.pointers[i] = value.ctypes.data
                continue
            address = None
            if value is not None:
                address = value.ctypes.data
                first, behind = _extent(value)
                places[i] = (first, behind, kind, name)
            if value is not None and guard is not None:
                copy = _Copy(value, first, behind - first, kind == "w", guard == "end")
                self.copies.append((name, copy))
                address += copy.address - first
            pointer = ctypes.c_void_p(address)
            self._kept.append(pointer)
            self.pointers[i] = ctypes.addressof(pointer)
        self._refuse_overlaps(function.name, sorted(places.values()))

    def _refuse_overlaps(self, function: str, places: list) -> None:
        """Refuse arrays that share memory if one is written: copies would hide that a kernel reads what it writes."""
        end, before, written = 0, "", False
        for start, stop, kind, name in places:
            if start < end and (written or kind == "w"):
                self.__exit__()
                raise EmulatorError(f"{function}: {before} and {name} overlap, and one of them is written")
            if stop > end:
                end, before, written = stop, name, kind == "w"

    def __enter__(self) -> _Arguments:
        return self

    def __exit__(self, *_) -> None:
        for _, copy in self.copies:
            copy.release()

    def strayed(self) -> list[str]:
        """Return the arrays beside which the kernel wrote, at the end that is not guarded."""
        return [name for name, copy in self.copies if copy.strayed()]

    def take_back(self) -> None:
        for _, copy in self.copies:
            copy.take_back()

    def locate(self, address: int, writes: bool) -> str:
        for name, copy in self.copies:
            if copy.buffer.low - mmap.PAGESIZE <= address < copy.buffer.high + mmap.PAGESIZE:
                if writes and not copy.written and 0 <= address - copy.address < copy.size:
                    return f": {name} is constant"
                return f": {name}, byte {address - copy.address} of {copy.size}"
        return ""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_READ, _READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
# Bytes beside arrays. Those that may be read are not numbers, and differ from those that show whether a kernel wrote.
_UNREADABLE, _UNTOUCHED = 0xFF, 0xA5
_UNWRITTEN = ctypes.create_string_buffer(bytes([_UNTOUCHED]) * mmap.PAGESIZE)
_unwritten = ctypes.addressof(_UNWRITTEN)


def _protect(address: int, size: int, access: int) -> None:
    if _libc.mprotect(address, size, access):
        raise OSError(ctypes.get_errno(), "mprotect")


class _Buffer:
    """Pages between two that are not there."""

    def __init__(self, pages: int):
        self.pages = pages
        self._memory = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.low = start + mmap.PAGESIZE
        self.high = self.low + pages * mmap.PAGESIZE
        _protect(start, mmap.PAGESIZE, 0)
        _protect(self.high, mmap.PAGESIZE, 0)


_spare: dict[int, list[_Buffer]] = {}  # by pages: making one takes longer than most launches


def _extent(array: np.ndarray) -> tuple[int, int]:
    """Return where the memory begins and ends in which a view with any strides has its elements."""
    first = behind = array.ctypes.data
    if not array.size:
        return first, first
    reaches = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    return first + sum(r for r in reaches if r < 0), behind + sum(r for r in reaches if r > 0) + array.itemsize


class _Copy:
    """A copy of an array's memory, in pages of its own."""

    def __init__(self, array: np.ndarray, source: int, size: int, written: bool, at_end: bool):
        self.array, self.source, self.size, self.written = array, source, size, written
        pages = max(1, -(-self.size // mmap.PAGESIZE))
        spare = _spare.get(pages)
        self.buffer = buffer = spare.pop() if spare else _Buffer(pages)
        # an empty array lies where every access fails
        self.address = buffer.high - self.size if at_end or not self.size else buffer.low
        self._slack = buffer.low if at_end else buffer.low + self.size
        self._slack_size = buffer.high - buffer.low - self.size
        ctypes.memset(self._slack, _UNTOUCHED if written else _UNREADABLE, self._slack_size)
        ctypes.memmove(self.address, source, self.size)
        if not written:
            _protect(buffer.low, buffer.high - buffer.low, _READ)

    def strayed(self) -> bool:
        return self.written and _libc.memcmp(self._slack, _unwritten, self._slack_size) != 0

    def take_back(self) -> None:
        if self.written:
            ctypes.memmove(self.source, self.address, self.size)

    def release(self) -> None:
        buffer = self.buffer
        if not self.written:
            _protect(buffer.low, buffer.high - buffer.low, _READ_WRITE)
        spare = _spare.setdefault(buffer.pages, [])
        if len(spare) < _SPARE_BUFFERS and buffer.pages < 1024:
            spare.append(buffer)


def _explain(failure: _Failure, function: _Function, passed: _Arguments) -> str:
    text = failure.message.decode(errors="replace")
    if failure.address:
        text += passed.locate(failure.address, bool(failure.writes))
    if failure.instruction:
        text += _source_line(function.path, failure.instruction)
    return text


def _source_line(library: Path, instruction: int) -> str:
    command = ["addr2line", "-e", str(library), hex(instruction)]
    place = subprocess.run(command, capture_output=True, text=True, env=_environment()).stdout.strip()
    return f", at {Path(place).name.split()[0]}" if place and not place.startswith("?") else ""


# ---- Building ----

# No macro can declare shared memory: `__shared__ float x[N];` becomes a reference to memory of the machine, on the same
# line.
_SHARED = re.compile(
    r"(?P<extern>extern\s+)?__shared__\s+(?:(?:__align__|alignas)\s*\((?P<alignment>[^()]*)\)\s*)?"
    r"(?P<type>(?:unsigned\s+|long\s+)*\w+)\s+(?P<name>\w+)\s*(?P<sizes>(?:\[[^\]]*\]\s*)*);"
)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\(([^()]*)\)\s*)?(\w+)\s*\(")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def _without_comments(text: str) -> str:
    return _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), text)


def _declare_shared(found: re.Match) -> str:
    ctype, name = found["type"], found["name"]
    if found["extern"]:
        return f"{ctype}* const {name} = static_cast<{ctype}*>(emu::dynamic_shared());"
    return (
        f"static emu::Shared emu_{name}; using emu_type_{name} = {ctype}{found['sizes']}; "
        f'auto& {name} = emu::shared<emu_type_{name}, {found["alignment"] or 1}>(emu_{name}, "{name}");'
    )


def _translate(text: str) -> str:
    """Return the C++ file for a kernel's text."""
    text = _without_comments(text)
    exported = "".join(f"EMU_EXPORT({name}, {bound or '0'})\n" for bound, name in _KERNEL.findall(text))
    text = _SHARED.sub(_declare_shared, text)
    if "__shared__" in text:
        raise EmulatorError("the emulator wants one `__shared__ type name[size];` a statement")
    return f'#include "cuda_emu.h"\n#line 1 "text"\n{text}\n{exported}'


@functools.cache
def _registered(mode: str, program: kernels.Program) -> _Function:
    function = _load(mode, program.text)[program.kernel.name]
    function.names = [p.name for p in program.parameters]
    return function


@functools.cache
def _load(mode: str, text: str) -> dict[str, _Function]:
    """Build a text and return its kernels by name."""
    if available():
        raise EmulatorError(available())
    if mode == "tsan":
        _find_tsan()
    with _lock:
        source = _translate(text)
        machine, prelude = _machine(), _prelude(mode)
        command = [_COMPILER, *_FLAGS, *_BUILDS[mode], f"-I{prelude}", f"-I{_HERE / 'include'}", "-I", str(_HERE)]
        # Without g++'s own libraries the sanitizers' are left out too: machine.cpp and LD_PRELOAD have their functions.
        command += ["-shared", "-nostdlib", "-Wl,-rpath,$ORIGIN", "-x", "c++", "-", "-x", "none", str(machine)]
        path = _build(mode, ".so", [*command, "-lm", "-lc", "-lgcc"], source)
        library = ctypes.CDLL(str(path))
        return {name: _Function(library, path, text, name) for _, name in _KERNEL.findall(source)}


@functools.cache
def _machine() -> Path:
    source = _HERE / "machine.cpp"
    command = [_COMPILER, "-std=c++17", "-O3", "-g1", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti", str(source)]
    return _build("machine", ".so", command, source.read_text(encoding="utf-8"))


@functools.cache
def _prelude(mode: str) -> Path:
    """Return a folder with cuda_emu.h, compiled: with it, a kernel takes a third of the time."""
    command = [_COMPILER, *_FLAGS, *_BUILDS[mode], "-x", "c++-header", str(_HERE / "cuda_emu.h")]
    return _build(f"{mode}-prelude", "", command, file="cuda_emu.h.gch").parent


def _build(name: str, suffix: str, command: list[str], source: str = "", file: str = "") -> Path:
    """Return the file that `command` makes of `source`, and keep it in the cache.

    Several processes may do so at once: each writes to a place of its own, and all of them write the same.
    """
    said = "\0".join([_toolchain(), *command, source])
    path = _cache() / f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:24]}{suffix}"
    wanted = path / file
    if wanted.exists():
        os.utime(path)
        return wanted
    with tempfile.TemporaryDirectory(dir=_cache(), prefix="building-") as folder:
        made = Path(folder) / "made"
        if file:
            made.mkdir()
        command = [*command, "-o", str(made / file)]
        done = subprocess.run(command, input=source, capture_output=True, text=True, env=_environment())
        if done.returncode:
            raise EmulatorError(done.stderr[:4000])
        try:
            made.rename(path)
        except OSError:
            if not wanted.exists():
                raise
    return wanted


def _environment() -> dict[str, str]:
    """Return the environment of programs that we start: without the sanitizer that we may run under."""
    return {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | {"LC_ALL": "C"}


@functools.cache
def _toolchain() -> str:
    """Return everything but their text that compiled kernels depend on."""
    version = subprocess.run([_COMPILER, "--version"], capture_output=True, text=True, env=_environment()).stdout
    return "\0".join([version, *(header.read_text(encoding="utf-8") for header in _HEADERS)])


@functools.cache
def _cache() -> Path:
    given = os.environ.get("SHIFTSEARCH_EMULATOR_CACHE")
    homes = [given] if given else [os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", tempfile.gettempdir()]
    for home in homes:
        folder = Path(home) if given else Path(home) / "shiftsearch-emulator"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            _forget_unused(folder)
            return folder
    raise EmulatorError(f"no folder for compiled kernels: {homes} can not be written")


def _forget_unused(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime > time.time() - _UNUSED_AFTER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError:
            continue  # another process deleted it first


# ---- ThreadSanitizer ----


def run_under_tsan(pytest_args: list[str], timeout: float = 600) -> subprocess.CompletedProcess:
    """Run pytest in a Python with ThreadSanitizer, in which `Emulator()` has mode "tsan"."""
    if available():
        raise EmulatorError(available())
    command = [_COMPILER, "-print-file-name=libtsan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # The machine comes first: its __tsan_on_report ends a launch at its first race.
    command = ["env", f"LD_PRELOAD={_machine()} {library}", sys.executable, "-m", "pytest", "--full", *pytest_args]
    if _addresses_too_random():
        command = ["setarch", platform.machine(), "-R", *command]
    settings = {"TSAN_OPTIONS": _TSAN_OPTIONS, "SHIFTSEARCH_EMULATOR_MODE": "tsan"}
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=timeout)


def _addresses_too_random() -> bool:
    """Say whether the kernel spreads addresses further than ThreadSanitizer before gcc 14 can bear."""
    try:
        return int(Path("/proc/sys/vm/mmap_rnd_bits").read_text()) > 28 and shutil.which("setarch") is not None
    except (OSError, ValueError):
        return False


@functools.cache
def _find_tsan() -> None:
    if not hasattr(_libc, "__tsan_init"):
        raise EmulatorError('mode "tsan" needs a Python started by emulate.run_under_tsan')
    _libc.__sanitizer_set_report_path(str(_reports()).removesuffix(f".{os.getpid()}").encode())


@functools.cache
def _reports() -> Path:
    return Path(tempfile.mkdtemp(prefix="shiftsearch-races-")) / f"tsan.{os.getpid()}"


_reports_read = 0


def _raise_races(name: str) -> None:
    """Raise what ThreadSanitizer has reported since the last launch."""
    global _reports_read
    if not _reports().exists() or _reports().stat().st_size == _reports_read:
        return
    report = _reports().read_text(errors="replace")[_reports_read:]
    _reports_read = _reports().stat().st_size
    places = re.findall(r"^  (\S.*?) of size (\d+) at .*\n    #0 \S+ (?:\S*/)?(\S+:\d+)", report, re.MULTILINE)
    said = "; ".join(dict.fromkeys(f"{what.lower()} of {size} bytes at {place}" for what, size, place in places))
    raise EmulatorError(f"{name}: data race: {said}\n{report[:4000]}")
