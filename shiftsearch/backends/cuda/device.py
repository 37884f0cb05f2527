"""The way to a GPU: CuPy compiles a kernel's text once per device and launches it. The only file that imports CuPy, and
only when the first CUDA array arrives.

CuPy keeps the binaries on disk (~/.cupy/kernel_cache or CUPY_CACHE_DIR) under a hash of text, options, architecture and
compiler. Each carries a hash of itself and is renamed into place: a damaged one is compiled again, and processes that
compile the same at once do not disturb each other.

CuPy compiles with -ftz=true behind whatever is asked for: single precision takes numbers below 1.2e-38 for zero.
Division and square root stay correctly rounded otherwise, and double precision is not concerned.
"""

from __future__ import annotations

from shiftsearch.backends.cuda import kernels
from shiftsearch.errors import ShiftsearchError

OPTIONS = ("-std=c++17",)
_UNASKED = 48 * 1024  # bytes of shared memory that a block may have on every device; more must be asked for
_LOG_LINES = 12

_NO_DRIVER_OR_OLD, _NO_DEVICE = 35, 100  # status of CUDA's runtime
_DOES_NOT_LOAD = (200, 209, 222)  # status of CUDA's driver: not an image, none for this device, of a later compiler


class Gpu:
    """Whichever device and stream are CuPy's current ones at each launch."""

    def __init__(self):
        self.xp = _cupy()
        self._function = self.xp.memoize(for_each_device=True)(self._compile)

    def launch(self, kernel: kernels.Kernel, constants: dict, blocks: int, arguments: dict, *, shared: int = 0) -> None:
        """Starts `kernel` with `shared` bytes of dynamic shared memory a block, and does not wait for it."""
        values = kernels.bind(kernel, constants, arguments)
        if blocks > kernels.MOST_BLOCKS:
            raise ShiftsearchError(
                f"{kernel.name}: {blocks} blocks, expected at most {kernels.MOST_BLOCKS}: split the arrays"
            )
        if blocks == 0:
            return
        # numbers as the text spells them: 1 and 1.0 are one key and two programs
        spelled = tuple(sorted((name, str(value)) for name, value in constants.items()))
        function = self._function(kernel.file, kernel.name, spelled)
        if shared > function.allowed:
            self._allow(kernel.name, function, shared)
        function.run((blocks,), (kernel.threads,), tuple(values), shared_mem=shared)

    def _compile(self, file: str, name: str, constants: tuple[tuple[str, str], ...]) -> _Function:
        text = kernels.text(file, dict(constants))
        try:
            return _Function(self.xp.RawModule(code=text, options=OPTIONS).get_function(name))
        except self.xp.cuda.compiler.CompileException as error:
            raise _not_compiled(self.xp, file, constants, str(error)) from None
        except self.xp.cuda.runtime.CUDARuntimeError:  # trouble of a device that was there: say, of an earlier kernel
            raise
        except self.xp.cuda.driver.CUDADriverError as error:
            if error.status not in _DOES_NOT_LOAD:
                raise
            raise _not_loaded(self.xp, file, error) from None
        except RuntimeError as error:  # a plain one for headers, and of many kinds for libraries
            raise _no_compiler(self.xp, error) from None
        except OSError as error:
            raise _no_cache(error) from None

    def _allow(self, name: str, function: _Function, shared: int) -> None:
        there = self.xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"] - function.fixed
        if shared > there:
            raise ShiftsearchError(
                f"{name}: {shared} bytes of shared memory for a block, expected at most the {there} that this device "
                f"has beside the kernel's own {function.fixed}"
            )
        function.run.max_dynamic_shared_size_bytes = shared
        function.allowed = shared


class _Function:
    """A kernel on one device, and how much dynamic shared memory it may have there."""

    def __init__(self, run):
        self.run = run
        self.fixed = run.shared_size_bytes
        self.allowed = _UNASKED - self.fixed


def _cupy():
    """CuPy, once it has found a device."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise ShiftsearchError(f"CuPy does not start: {error}") from None
        raise ShiftsearchError(
            'arrays on a GPU need CuPy: pip install "shiftsearch[cuda13]", or "shiftsearch[cuda12]" if nvidia-smi says '
            "CUDA 12"
        ) from None
    except ImportError as error:
        raise ShiftsearchError(f"CuPy does not start: {error}") from None
    except OSError as error:
        raise _no_cache(error) from None
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise _no_device(cupy, error) from None
    return cupy


# --- what is missing, and what mends it -------------------------------------------------------------
def _install(cupy) -> str:
    return f'pip install "shiftsearch[cuda{_major(cupy.cuda.runtime.runtimeGetVersion())}]"'


def _major(version: int) -> int:
    """13 of 13020, which is how CUDA writes 13.2."""
    return version // 1000


def _no_device(cupy, error) -> ShiftsearchError:
    if error.status == _NO_DEVICE:
        return ShiftsearchError("no CUDA device is seen: check nvidia-smi and CUDA_VISIBLE_DEVICES")
    if error.status != _NO_DRIVER_OR_OLD:
        return ShiftsearchError(f"CUDA does not start ({error}): check nvidia-smi")
    runtime = cupy.cuda.runtime
    needed, there = _major(runtime.runtimeGetVersion()), _major(runtime.driverGetVersion())
    if there == 0:
        return ShiftsearchError(
            "there is no NVIDIA driver: install the one for this system, until nvidia-smi shows a GPU"
        )
    older = f', or pip uninstall cupy-cuda{needed}x and pip install "shiftsearch[cuda{there}]"' if there >= 12 else ""
    return ShiftsearchError(
        f"the NVIDIA driver is for CUDA {there} and this CuPy for CUDA {needed}: update the driver{older}"
    )


def _no_compiler(cupy, error) -> ShiftsearchError:
    lacks = f"CuPy cannot compile ({str(error).strip()})"
    try:
        cupy.cuda.nvrtc.getVersion()
        if "header" in str(error) or "cannot open source file" in str(error):
            lacks = "CuPy does not find the headers of CUDA"
    except RuntimeError:
        lacks = "CuPy does not find NVRTC, the compiler of CUDA"
    return ShiftsearchError(f"{lacks}: {_install(cupy)}")


def _no_cache(error) -> ShiftsearchError:
    return ShiftsearchError(
        f"CuPy cannot write its folder of compiled kernels ({error}): set CUPY_CACHE_DIR to one where it may"
    )


def _not_loaded(cupy, file: str, error) -> ShiftsearchError:
    version = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    wheel = "nvidia-cuda-nvrtc-cu12" if version.startswith("12.") else "nvidia-cuda-nvrtc"
    return ShiftsearchError(
        f"{file} does not load on this device ({error}): NVRTC {version} is older than the device or later than the "
        f"driver: pip install -U {wheel}, or update the driver"
    )


def _not_compiled(cupy, file: str, constants: tuple[tuple[str, str], ...], log: str) -> ShiftsearchError:
    if 'cannot open source file "cuda_' in log:  # CuPy 13 looks for them no earlier
        return _no_compiler(cupy, log.splitlines()[0])
    if "invalid value for --gpu-architecture" in log:
        version = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
        capability = cupy.cuda.Device().compute_capability
        return ShiftsearchError(
            f"NVRTC {version} does not compile for compute capability {capability[:-1]}.{capability[-1]}: "
            f'devices before 7.5 need pip install "shiftsearch[cuda12]", later ones a later NVRTC'
        )
    lines = log.splitlines()
    first = next((number for number, line in enumerate(lines) if "error" in line), 0)  # warnings may come before
    shown = "\n".join(lines[first : first + _LOG_LINES])
    options = ", ".join(f"{name}={value}" for name, value in constants)
    return ShiftsearchError(f"{file} does not compile with {options}, which is a fault of this package:\n{shown}")
