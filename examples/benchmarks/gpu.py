"""Measure the speed of the CUDA kernels, and of the same in CuPy without kernels (baselines.py).

python examples/benchmarks/gpu.py [--quick] [--size N] [--json FILE]

Times are medians between CUDA events, after a warm-up; memory is what CuPy's pool took beyond the inputs. Every result
of a baseline is compared with that of the kernels before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from baselines import MaterialiseAndSort, UnfoldAndMultiply

import shiftsearch
from shiftsearch import ShiftsearchError
from shiftsearch.backends import cuda
from shiftsearch.ops.aggregate import AGGREGATE, STACK
from shiftsearch.ops.flow import CHAIN_FLOW
from shiftsearch.ops.fold import FOLD
from shiftsearch.ops.gather import GATHER
from shiftsearch.ops.match import MATCH
from shiftsearch.ops.refine import REFINE
from shiftsearch.ops.scatter import SCATTER
from shiftsearch.ops.score import SCORE
from shiftsearch.ops.search import SEARCH

FRAMES, WINDOW, TOPK, MOTION = 5, 9, 10, 8
REPEATS, LONG = 15, 0.5  # runs of each, and milliseconds/1000 of one from which 5 are enough
SIDES = ("shiftsearch", "sort", "unfold")


# --- problems -------------------------------------------------------------------------------------
def problems(backend, size, channels, patch, dtype):
    """Yield (name, {side: function that returns arrays}) of every op, forward and backward."""
    xp, rng = backend.xp, np.random.default_rng(0)
    T, H, W = FRAMES, size, size
    q, k = (xp.asarray(rng.standard_normal((1, T, channels, H, W)).astype(dtype)) for _ in "qk")
    flow = xp.asarray(inside_flow(rng, T, H, W))
    options = {"window": WINDOW, "patch": patch, "topk": TOPK}
    search = SEARCH.specify(**options)
    offsets = SEARCH.forward(backend, search, q=q, k=k, flow=flow)["offsets"]
    weights = xp.asarray(rng.random(offsets.shape[:-1]).astype(dtype))
    sort, unfold = MaterialiseAndSort(xp), UnfoldAndMultiply(xp)
    v, places, w = q[0], offsets[0, 0], weights[0, 0]
    arrive = xp.ones(places.shape[:-1], "float32")  # what `_both` sends backward

    yield from _both(backend, SEARCH, search, {"q": q, "k": k, "flow": flow}, {
        "sort": lambda: sort.search(v, k[0], flow[0, 0], **options),
        "unfold": lambda: unfold.search(v, k[0], flow[0, 0], **options),
    })  # fmt: skip
    yield from _both(backend, MATCH, MATCH.specify(**options),
                     {"q": q[:, 0], "k": k[:, 1], "flow": flow[:, :, 0, 0]})  # fmt: skip
    yield from _both(backend, REFINE, REFINE.specify(patch=patch, topk=TOPK), {"q": q, "k": k, "offsets": offsets})
    yield from _both(backend, SCORE, SCORE.specify(patch=patch), {"q": q, "k": k, "offsets": offsets},
                     {"unfold": lambda: (unfold.score(v, k[0], places, patch),)},
                     {"unfold": lambda: unfold.score_backward(v, k[0], places, arrive, patch)})  # fmt: skip
    given = {"v": q, "weights": weights, "offsets": offsets}
    yield from _both(backend, AGGREGATE, AGGREGATE.specify(patch=patch), given,
                     {"unfold": lambda: (unfold.aggregate(v, w, places, patch),)},
                     {"unfold": lambda: unfold.aggregate_backward(v, w, places, xp.ones_like(v), patch)})  # fmt: skip
    yield from _both(backend, SCATTER, SCATTER.specify(patch=patch), given)
    yield from _both(backend, STACK, STACK.specify(patch=patch), given)
    few = offsets[..., :2, :]  # the baselines' patches of more would not fit on small devices
    yield from _both(backend, GATHER, GATHER.specify(patch=patch), {"v": q, "offsets": few},
                     {"unfold": lambda: (unfold.gather(v, few[0, 0], patch),)})  # fmt: skip
    patches = GATHER.forward(backend, GATHER.specify(patch=patch), v=q, offsets=few)["patches"]
    yield from _both(backend, FOLD, FOLD.specify(size=(T, H, W)),
                     {"patches": patches, "offsets": few, "weights": weights[..., :2]})  # fmt: skip
    forward = flow[:, 0, :, 0].astype(dtype)
    yield from _both(backend, CHAIN_FLOW, CHAIN_FLOW.specify(radius=1), {"forward": forward, "backward": -forward})


def inside_flow(rng, T, H, W):
    """Return flow by whole pixels, random for each query, to places inside of the frame, (1, 1, T, 2, 2, H, W)."""
    y, x = np.mgrid[:H, :W]
    dx, dy = rng.integers(-MOTION, MOTION + 1, (2, 1, 1, T, 2, H, W))
    dx, dy = np.clip(dx + x, 0, W - 1) - x, np.clip(dy + y, 0, H - 1) - y
    return np.stack([dx, dy], 4).astype(np.float32)


def _both(backend, op, spec, inputs, rivals=None, rivals_backward=None):
    """Return forward and backward of an op, with gradients of 1 for its outputs."""
    outputs = op.forward(backend, spec, **inputs)
    moves = getattr(spec, "subpixel", True)
    arrive = {name: backend.xp.ones_like(array) for name, array in outputs.items()
              if op.outputs[name] != "index" and (moves or op.outputs[name] != "offset")}  # fmt: skip

    def forward():
        return tuple(op.forward(backend, spec, **inputs).values())

    def backward():
        return tuple(op.backward(backend, spec, inputs, outputs, arrive, inputs.keys()).values())

    yield op.name, {"shiftsearch": forward, **(rivals or {})}
    yield f"{op.name} backward", {"shiftsearch": backward, **(rivals_backward or {})}


def check(name, found, ours):
    """Raise unless a baseline agrees with the kernels, apart from axes of batch and heads. Equal scores may change places."""
    for a, b in zip(found, ours, strict=False):  # a search returns more arrays than its baseline
        b = b.reshape(a.shape)
        if b.dtype.kind == "i":
            share = float((a == b).all(-1).mean())
            if share < 0.99:
                raise SystemExit(f"{name}: only {share:.1%} of the places agree; nothing was timed")
        else:
            error = float(abs(a - b).max() / abs(b).max())
            if not error < 1e-5:
                raise SystemExit(f"{name}: differs by {error:.1e} of the largest value; nothing was timed")


# --- measuring ------------------------------------------------------------------------------------
class Clock:
    """A clock for functions on CuPy's current device, which also measures their memory."""

    def __init__(self, cupy):
        self.cupy, self.pool = cupy, cupy.get_default_memory_pool()

    def measure(self, run) -> dict[str, float]:
        """Return the median milliseconds of `run`, and its peak in megabytes, results included."""
        run()  # compiles
        self.pool.free_all_blocks()
        before = self.pool.total_bytes()
        first = self._milliseconds(run)
        memory = self.pool.total_bytes() - before
        times = [self._milliseconds(run) for _ in range(REPEATS if first < 1000 * LONG else 5)]
        return {"ms": statistics.median(times), "MB": memory / 1e6}

    def _milliseconds(self, run) -> float:
        start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record()
        run()
        end.record()
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end)


def compare(name, sides, measure):
    """Return a row of the table: what each side takes, checked before it is timed."""
    ours = sides["shiftsearch"]()
    for side, run in sides.items():
        if side != "shiftsearch":
            check(f"{name}, {side}", run(), ours)
    del ours
    row = {"case": name}
    for side, run in sides.items():
        row.update({f"{side} {unit}": value for unit, value in measure(run).items()})
    return row


def line(row):
    cells = []
    for side in SIDES:
        cells += [f"{row[key]:10.2f}" if (key := f"{side} {unit}") in row else " " * 10 for unit in ("ms", "MB")]
    return f"{row['case']:34}{''.join(cells)}".rstrip()


def machine(cupy):
    runtime = cupy.cuda.runtime
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "device": runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode(),
        "driver": runtime.driverGetVersion(), "CUDA": runtime.runtimeGetVersion(),
        "NVRTC": ".".join(map(str, cupy.cuda.nvrtc.getVersion())), "cupy": cupy.__version__, "numpy": np.__version__,
        "python": platform.python_version(), "shiftsearch": shiftsearch.__version__, "commit": found.stdout.strip() or None,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="patches of 7 in single precision only")
    parser.add_argument("--size", type=int, default=256, help="rows and columns of the frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as data")
    given = parser.parse_args()
    try:
        backend = cuda.load()
    except ShiftsearchError as error:
        sys.exit(f"nothing is timed without a GPU: {error}")
    about, clock, rows = machine(backend.xp), Clock(backend.xp), []
    print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    print(f"{'':34}" + "".join(f"{f'{side} {unit}'[-10:]:>10}" for side in SIDES for unit in ("ms", "MB")))
    for dtype, patch in [("float32", 7)] if given.quick else [("float32", 7), ("float32", 1), ("float16", 7)]:
        for name, sides in problems(backend, given.size, 16, patch, dtype):
            if dtype == "float16":  # the baselines would sum in halves
                sides = {"shiftsearch": sides["shiftsearch"]}
            rows.append(compare(f"{name} patch={patch} {dtype}", sides, clock.measure))
            print(line(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"machine": about, "size": given.size, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
