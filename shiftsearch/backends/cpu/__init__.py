"""The CPU backend: numba and vector code, on all cores that the process may use."""

import numpy as xp

from shiftsearch.backends.cpu.chain import chain_flow, chain_flow_backward
from shiftsearch.backends.cpu.places import correlate, fold, fold_slope, gather, pull, pull_push, push, slope
from shiftsearch.backends.cpu.pool import threads
from shiftsearch.backends.cpu.search import select
from shiftsearch.backends.cpu.simd import register_bytes

__all__ = [
    "chain_flow",
    "chain_flow_backward",
    "correlate",
    "describe",
    "fold",
    "fold_slope",
    "gather",
    "pull",
    "pull_push",
    "push",
    "select",
    "slope",
    "xp",
]


def describe() -> str:
    return f"{threads()} threads, vector registers of {register_bytes()} bytes"
