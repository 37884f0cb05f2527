"""Interrupts calls that would take minutes to hours, and prints what happened.

Each is first made on small arrays, which compiles its kernels.
"""

from __future__ import annotations

import os
import signal
import threading

import numpy as np

import shiftsearch as ss


def calls(side: int, window: int, kept: int, patch: int, times: int):
    rng = np.random.default_rng(0)
    v = rng.random((1, 64, side, side), np.float32)
    offsets = rng.integers(-5, 5, (1, 1, side, side, kept, 3)).astype(np.int32)
    weights = rng.random(offsets.shape[:-1], np.float32)
    flow = rng.random((9, 2, side, side), np.float32)
    options = {"radius": 0, "topk": 1}
    yield "search, boxes", lambda: [ss.search(v, v, window=5, patch=7, **options) for _ in range(times)]
    yield "search, fractions", lambda: ss.search(v, v, window=window, patch=15, step=1 / 8, subpixel=True, **options)
    yield "search, plain", lambda: ss.search(v, v, window=window, patch=patch, border="zeros", **options)
    for kind, at in (("whole", offsets), ("fractions", offsets + np.float32(0.5))):
        yield f"score, {kind}", lambda at=at: ss.score(v, v, at, patch=patch)
        yield f"aggregate, {kind}", lambda at=at: ss.aggregate(v, weights, at, patch=patch)
        yield f"scatter, {kind}", lambda at=at: ss.scatter(v, weights, at, patch=patch)
        yield f"gather, {kind}", lambda at=at: [ss.gather(v[:, :2], at[..., :2, :], patch=9) for _ in range(times)]
    yield "chain_flow", lambda: [ss.chain_flow(flow, flow, radius=4) for _ in range(times)]


def interrupt(call) -> str:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        call()
        return "finished"
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        timer.join()


def _arrays(found) -> list:
    """Return the arrays that one or several calls returned."""
    return [found] if isinstance(found, np.ndarray) else [array for part in found for array in _arrays(part)]


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run, it may be ignored
    small, large = calls(20, 9, 2, 3, 1), calls(300, 128, 60, 129, 10**6)
    for (name, on_little), (_, on_much) in zip(small, large, strict=True):
        before = on_little()
        came = interrupt(on_much)
        after = on_little()
        same = all(map(np.array_equal, _arrays(before), _arrays(after)))
        print(name, came, "then right" if same else "then wrong", flush=True)


if __name__ == "__main__":
    main()
