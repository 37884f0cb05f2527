"""Does this installation work here? Versions, devices, and every op on every backend against its definition.

Problems are tiny: the whole takes seconds, most of them for compiling kernels the first time.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time

import numpy as np

import shiftsearch
from shiftsearch import definition
from shiftsearch._source import directory
from shiftsearch.backends import cpu, cuda
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import AGGREGATE, SCATTER, STACK, AggregateSpec
from shiftsearch.ops.flow import CHAIN_FLOW, ChainFlowSpec
from shiftsearch.ops.gather import FOLD, GATHER, FoldSpec, GatherSpec
from shiftsearch.ops.score import SCORE, ScoreSpec
from shiftsearch.ops.search import MATCH, REFINE, SEARCH, SearchSpec

_SIZE = 3, 4, 9, 11  # frames, channels, rows, columns
_PACKAGES = (
    "numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "torch", "av", "opencv-python-headless", "scikit-image", "tqdm",
)  # fmt: skip
_TOLERANCE = 1e-4  # of the largest value, in single precision


def examine(out=sys.stdout) -> bool:
    """Prints what is found; whether all of it is well."""
    for line in _versions():
        print(line, file=out)
    backends = {"cpu": cpu}
    try:
        backends["cuda"] = cuda.load()
        for line in _devices(backends["cuda"].xp):
            print(line, file=out)
    except ShiftsearchError as error:
        print(f"cuda         not here: {error}", file=out)
    print(file=out)
    wrong = [name for name, backend in backends.items() if not _check(name, backend, out)]
    verdict = f"wrong on {' and '.join(wrong)}" if wrong else f"all well on {' and '.join(backends)}"
    print(f"\n{verdict}", file=out)
    return not wrong


def _versions():
    yield f"shiftsearch  {shiftsearch.__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages     " + ", ".join(filter(None, map(_version, _PACKAGES)))
    yield f"cpu          {cpu.describe()}"
    yield f"kernels      {directory()}, compiled ones in {os.environ.get('CUPY_CACHE_DIR', '~/.cupy/kernel_cache')}"


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _devices(xp):
    runtime = xp.cuda.runtime
    for index in range(runtime.getDeviceCount()):
        found = runtime.getDeviceProperties(index)
        memory, capability = found["totalGlobalMem"] / 2**30, f"{found['major']}.{found['minor']}"
        yield f"cuda:{index}       {found['name'].decode()}, {memory:.0f} GiB, compute capability {capability}"
    driver, there = (_dotted(version) for version in (runtime.driverGetVersion(), runtime.runtimeGetVersion()))
    yield f"cuda         driver for CUDA {driver}, runtime {there}, {_compiler(xp)}"


def _dotted(version: int) -> str:
    """13.2 for 13020, which is how CUDA writes it."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _compiler(xp) -> str:
    try:
        return "NVRTC " + ".".join(map(str, xp.cuda.nvrtc.getVersion()))
    except Exception:  # libraries that are missing are errors of many kinds; what to do is said of each op
        return "no NVRTC"


# --- every op ---------------------------------------------------------------------------------------
def _check(name: str, backend, out) -> bool:
    well = True
    for op, spec, inputs in _problems():
        start = time.perf_counter()
        try:
            error = _largest_error(backend, op, spec, inputs)
        except Exception as raised:  # whatever a driver or a compiler says
            said = f"{type(raised).__name__}: {raised}"
        else:
            said = "" if error < _TOLERANCE else f"is off by {error:.1e} of the largest value"
        verdict = f"ok  {time.perf_counter() - start:6.2f} s" if not said else f"WRONG {said}"
        print(f"{name:5} {op.name:11} {verdict}", file=out, flush=True)
        well = well and not said
    return well


def _problems():
    """(op, spec, inputs) of every op, with places that are fractions: then everything has a gradient."""
    rng = np.random.default_rng(0)
    T, C, H, W = _SIZE
    q, k = rng.standard_normal((2, 1, T, C, H, W)).astype(np.float32)
    flow = rng.uniform(-3, 3, (1, 1, T, 2, 2, H, W)).astype(np.float32)
    offsets = rng.uniform(-3, 3, (1, 2, T, H, W, 2, 3)).astype(np.float32)
    weights = rng.random(offsets.shape[:-1]).astype(np.float32)
    patches = rng.standard_normal((*offsets.shape[:-1], C // 2, 3, 3)).astype(np.float32)
    options = {"window": 5, "patch": 3, "topk": 4, "heads": 2, "subpixel": True}
    yield SEARCH, SearchSpec("search", **options), {"q": q, "k": k, "flow": flow}
    yield MATCH, SearchSpec("match", radius=0, **options), {"q": q[:, 0], "k": k[:, 1], "flow": flow[:, :, 0, 0]}
    yield REFINE, SearchSpec("refine", radius=0, **{**options, "window": 3}), {"q": q, "k": k, "offsets": offsets}
    yield SCORE, ScoreSpec("score", patch=3, heads=2), {"q": q, "k": k, "offsets": offsets}
    for op in (AGGREGATE, STACK, SCATTER):
        yield op, AggregateSpec(op.name, patch=3), {"v": q, "weights": weights, "offsets": offsets}
    yield GATHER, GatherSpec("gather", patch=3, heads=2), {"v": q, "offsets": offsets}
    yield (
        FOLD,
        FoldSpec("fold", patch=3, heads=2, size=(T, H, W)),
        {"patches": patches, "offsets": offsets, "weights": weights},
    )
    yield CHAIN_FLOW, ChainFlowSpec("chain_flow", radius=1), {"forward": flow[:, 0, :, 0], "backward": flow[:, 0, :, 1]}


def _largest_error(backend, op, spec, inputs) -> float:
    """Of outputs and gradients against the definition, relative to the largest value of each."""
    xp = backend.xp
    there = {name: xp.asarray(array) for name, array in inputs.items()}
    found = op.forward(backend, spec, **there)
    wanted = op.forward(definition, spec, **{name: array.astype(float) for name, array in inputs.items()})
    arrive = {name: np.ones(array.shape, np.float32) for name, array in wanted.items() if op.outputs[name] != "index"}
    kept = {
        name: array.astype(np.float32 if array.dtype.kind == "f" else array.dtype) for name, array in wanted.items()
    }
    there_kept, there_arrive = ({name: xp.asarray(array) for name, array in of.items()} for of in (kept, arrive))
    slopes = op.backward(backend, spec, there, there_kept, there_arrive, inputs.keys())
    wanted_slopes = op.backward(definition, spec, inputs, kept, arrive, inputs.keys())
    pairs = [(found[name], wanted[name]) for name in wanted] + [
        (slopes[name], wanted_slopes[name]) for name in wanted_slopes
    ]
    # of which one may be no number: Python's max would pass over it
    return float(np.max([_difference(a if type(a) is np.ndarray else a.get(), b) for a, b in pairs]))


def _difference(found, wanted) -> float:
    return float(np.abs(found.astype(float) - wanted).max() / max(1.0, np.abs(wanted).max()))
