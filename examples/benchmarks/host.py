"""Measure the host time of calls: what Python does from the public function until a kernel is launched.

python examples/benchmarks/host.py [--json FILE]

It is the time that this thread computes. Arrays are NumPy's, which stand for CuPy's, and the device launches nothing, so that no GPU is needed. What allocates and
copies is then NumPy instead of CuPy, and CuPy's own launch, some microseconds, is not in it. The last row is a call
on the CPU backend, with its work: one pixel.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

import shiftsearch as ss
from shiftsearch import _homes
from shiftsearch.backends import cuda

CALLS, ROUNDS = 100, 30
SIZE = (1, 3, 4, 6, 8)  # B, T, C, H, W


class Array(np.ndarray):
    """An array that is taken for one of CuPy's."""

    def __dlpack_device__(self):
        return 2, 0


class Idle:
    """A device that launches nothing."""

    most_shared = 99 * 1024  # bytes of shared memory of a block

    def __init__(self):
        self.xp = ModuleType("numpy, which stands for cupy")
        vars(self.xp).update({name: value for name, value in vars(np).items() if not name.startswith("__")})
        runtime = SimpleNamespace(memGetInfo=lambda: (2**36, 2**36))
        self.xp.cuda = SimpleNamespace(Device=nullcontext, runtime=runtime)

    def address(self, array):
        return 0

    def launch(self, *arguments, **options):
        """Launch nothing."""


def calls(array=np.asarray):
    """Return a call of each op by name, on arrays that `array` makes."""
    rng = np.random.default_rng(0)
    B, T, _, H, W = SIZE
    v = array(rng.standard_normal(SIZE).astype(np.float32))
    flow, forward = (array(rng.random(shape).astype(np.float32)) for shape in ((B, T, 2, 2, H, W), (B, T, 2, H, W)))
    offsets = array(np.zeros((B, 1, T, H, W, 4, 3), np.int32))
    weights, patches = (array(np.ones((*offsets.shape[:-1], *more), np.float32)) for more in ((), (4, 3, 3)))
    return {
        "search": lambda: ss.search(v, v, flow, patch=7),
        "search, subpixel": lambda: ss.search(v, v, flow, patch=7, subpixel=True),
        "match": lambda: ss.match(v[:, 0], v[:, 1], patch=7),
        "refine": lambda: ss.refine(v, v, offsets, topk=4),
        "attend": lambda: ss.attend(v, v, v, flow, patch=7),
        "score": lambda: ss.score(v, v, offsets, patch=7),
        "aggregate": lambda: ss.aggregate(v, weights, offsets),
        "stack": lambda: ss.stack(v, offsets, weights),
        "scatter": lambda: ss.scatter(v, weights, offsets),
        "gather": lambda: ss.gather(v, offsets, patch=3),
        "fold": lambda: ss.fold(patches, offsets, weights, size=(T, H, W)),
        "chain_flow": lambda: ss.chain_flow(forward, forward, radius=1),
    }


def microseconds(call) -> float:
    """Return the time of a call: the least of some rounds, as whatever else runs only adds to it."""
    call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.thread_time() - start) / CALLS * 1e6)
    return min(rounds)


@contextmanager
def idle() -> Iterator[dict[str, Callable[[], object]]]:
    """Give a call of each op by name, on arrays of a device that launches nothing."""
    load, backend = cuda.load, cuda.Cuda(Idle())
    cuda.load, _homes._LIBRARIES[Array] = (lambda: backend), "cupy"
    try:
        with np.errstate(all="ignore"):  # CuPy warns of nothing
            yield calls(lambda array: array.view(Array))
    finally:
        cuda.load = load
        del _homes._LIBRARIES[Array]


def measure():
    """Yield the name of each call and its host time in microseconds."""
    with idle() as of_ops:
        for name, call in of_ops.items():
            yield name, microseconds(call)
    pixel = np.zeros((1, 1, 1, 1, 1), np.float32)
    yield "search of a pixel on the CPU", microseconds(lambda: ss.search(pixel, pixel, window=1, radius=0, topk=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options, found = parser.parse_args(), {}
    for name, us in measure():
        found[name] = round(us, 1)
        print(f"{name:30} {us:7.1f} us", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
