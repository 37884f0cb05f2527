"""The CPU backend: numba and vector code, on all cores that the process may use."""

import numpy as xp

from shiftsearch.backends.cpu.chain import chain_flow, chain_flow_backward
from shiftsearch.backends.cpu.places import aggregate, aggregate_and_scatter, fold, gather, scatter, score, slope
from shiftsearch.backends.cpu.pool import threads
from shiftsearch.backends.cpu.search import search
from shiftsearch.backends.cpu.simd import register_bytes

__all__ = [
    "aggregate",
    "aggregate_and_scatter",
    "chain_flow",
    "chain_flow_backward",
    "describe",
    "fold",
    "gather",
    "scatter",
    "score",
    "search",
    "slope",
    "xp",
]


def describe() -> str:
    return f"{threads()} threads, vector registers of {register_bytes()} bytes"
