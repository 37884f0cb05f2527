"""Launches on a GPU. CuPy compiles the text of a kernel once for each device. No other file imports CuPy, and this one
does when the first CUDA array arrives.

CuPy keeps compiled kernels on disk (~/.cupy/kernel_cache or CUPY_CACHE_DIR), by a hash of text, options, architecture and
compiler. Each file contains a hash of itself and is renamed into place, so that a damaged file is compiled again, and
several processes may compile the same text at once.

CuPy always adds the option -ftz=true: in single precision, numbers below 1.2e-38 become zero. Double precision does not
change, nor does the rounding of division and square root.
"""

from __future__ import annotations

from typing import Any

from shiftsearch.backends.cuda import kernels
from shiftsearch.errors import ShiftsearchError

OPTIONS = ("-std=c++17",)
_ALWAYS_ALLOWED = 48 * 1024  # bytes of shared memory of a block, on every device; more must be asked for
_LOG_LINES = 12

_NO_DRIVER_OR_OLD, _NO_DEVICE = 35, 100  # error codes of CUDA's runtime
_DOES_NOT_LOAD = (200, 209, 222)  # error codes of its driver: no binary, none for this device, one of a later compiler


class Gpu:
    """CuPy's current device and stream, whichever they are at each launch."""

    xp: Any

    def __init__(self):
        self.xp = _cupy()
        self._function = self.xp.memoize(for_each_device=True)(self._compile)
        self._most_shared = self.xp.memoize(for_each_device=True)(self._ask_most_shared)

    @property
    def most_shared(self) -> int:
        """The most bytes of shared memory that a block may have on the current device."""
        return self._most_shared()

    def _ask_most_shared(self) -> int:
        return self.xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]

    def address(self, array: Any) -> int:
        return array.data.ptr

    def launch(self, program: kernels.Program, blocks: int, values: tuple[Any, ...], *, shared: int = 0) -> None:
        """Start a kernel on bound arguments, with `shared` bytes of dynamic shared memory for each block.

        It is not waited for.
        """
        kernel = program.kernel
        if blocks > kernels.MOST_BLOCKS:
            raise ShiftsearchError(
                f"{kernel.name}: {blocks} blocks, expected at most {kernels.MOST_BLOCKS}: split the arrays"
            )
        if blocks == 0:
            return
        function = self._function(program)
        if shared > function.allowed:
            self._allow(kernel.name, function, shared)
        function.run((blocks,), (program.threads,), values, shared_mem=shared)

    def _compile(self, program: kernels.Program) -> _Function:
        file, constants = program.kernel.file, program.spelled
        try:
            return _Function(self.xp.RawModule(code=program.text, options=OPTIONS).get_function(program.kernel.name))
        except self.xp.cuda.compiler.CompileException as error:
            raise _not_compiled(self.xp, file, constants, str(error)) from None
        except self.xp.cuda.runtime.CUDARuntimeError:  # the device failed, perhaps in an earlier kernel
            raise
        except self.xp.cuda.driver.CUDADriverError as error:
            if error.status not in _DOES_NOT_LOAD:
                raise
            raise _not_loaded(self.xp, file, error) from None
        except RuntimeError as error:  # headers or libraries are missing
            raise _no_compiler(self.xp, error) from None
        except OSError as error:
            raise _no_cache(error) from None

    def _allow(self, name: str, function: _Function, shared: int) -> None:
        available = self.most_shared - function.fixed
        if shared > available:
            raise ShiftsearchError(
                f"{name}: a block needs {shared} bytes of dynamic shared memory, expected at most {available}: this "
                f"device allows {available + function.fixed}, and {function.fixed} of these are static"
            )
        function.run.max_dynamic_shared_size_bytes = shared
        function.allowed = shared


class _Function:
    """A kernel on one device, and how much dynamic shared memory it may have there."""

    def __init__(self, run):
        self.run = run
        self.fixed = run.shared_size_bytes
        self.allowed = _ALWAYS_ALLOWED - self.fixed


def _cupy():
    """Import CuPy and check that it finds a device."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise ShiftsearchError(f"CuPy cannot be imported: {error}") from None
        raise ShiftsearchError(
            'arrays on a GPU need CuPy: pip install "shiftsearch[cuda13]", or "shiftsearch[cuda12]" if nvidia-smi shows '
            "CUDA 12"
        ) from None
    except ImportError as error:
        raise ShiftsearchError(f"CuPy cannot be imported: {error}") from None
    except OSError as error:
        raise _no_cache(error) from None
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise _no_device(cupy, error) from None
    return cupy


# --- what is missing, and how to install it ---------------------------------------------------------
def _install(cupy) -> str:
    return f'pip install "shiftsearch[cuda{_major(cupy.cuda.runtime.runtimeGetVersion())}]"'


def _major(version: int) -> int:
    """Return 13 for 13020, which is how CUDA writes 13.2."""
    return version // 1000


def _no_device(cupy, error) -> ShiftsearchError:
    if error.status == _NO_DEVICE:
        return ShiftsearchError("CUDA finds no device: check nvidia-smi and CUDA_VISIBLE_DEVICES")
    if error.status != _NO_DRIVER_OR_OLD:
        return ShiftsearchError(f"CUDA does not start ({error}): check nvidia-smi")
    runtime = cupy.cuda.runtime
    needed, there = _major(runtime.runtimeGetVersion()), _major(runtime.driverGetVersion())
    if there == 0:
        return ShiftsearchError("there is no NVIDIA driver: install the one for this system, then try nvidia-smi")
    older = f', or pip uninstall cupy-cuda{needed}x and pip install "shiftsearch[cuda{there}]"' if there >= 12 else ""
    return ShiftsearchError(
        f"the NVIDIA driver is for CUDA {there}, but CuPy is built for CUDA {needed}: update the driver{older}"
    )


def _no_compiler(cupy, error) -> ShiftsearchError:
    problem = f"CuPy cannot compile ({str(error).strip()})"
    try:
        cupy.cuda.nvrtc.getVersion()
        if "header" in str(error) or "cannot open source file" in str(error):
            problem = "CuPy does not find the headers of CUDA"
    except RuntimeError:
        problem = "CuPy does not find NVRTC, the compiler of CUDA"
    return ShiftsearchError(f"{problem}: {_install(cupy)}")


def _no_cache(error) -> ShiftsearchError:
    return ShiftsearchError(
        f"CuPy cannot write to its folder of compiled kernels ({error}): set CUPY_CACHE_DIR to a folder it can write to"
    )


def _not_loaded(cupy, file: str, error) -> ShiftsearchError:
    version = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    wheel = "nvidia-cuda-nvrtc-cu12" if version.startswith("12.") else "nvidia-cuda-nvrtc"
    return ShiftsearchError(
        f"{file} does not load on this device ({error}): NVRTC {version} is older than the device or newer than the "
        f"driver: pip install -U {wheel}, or update the driver"
    )


def _not_compiled(cupy, file: str, constants: tuple[tuple[str, str], ...], log: str) -> ShiftsearchError:
    if 'cannot open source file "cuda_' in log:  # headers are missing, which CuPy 13 does not check
        return _no_compiler(cupy, log.splitlines()[0])
    if "invalid value for --gpu-architecture" in log:
        version = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
        capability = cupy.cuda.Device().compute_capability
        return ShiftsearchError(
            f"NVRTC {version} does not compile for compute capability {capability[:-1]}.{capability[-1]}: "
            f'below 7.5, pip install "shiftsearch[cuda12]"; otherwise install a newer NVRTC'
        )
    lines = log.splitlines()
    first = next((number for number, line in enumerate(lines) if "error" in line), 0)  # warnings may come before
    shown = "\n".join(lines[first : first + _LOG_LINES])
    options = ", ".join(f"{name}={value}" for name, value in constants)
    return ShiftsearchError(f"{file} does not compile with {options}; please report this:\n{shown}")
