"""Threads share the output by bands of rows and parts of clips: at their borders nothing is lost or done twice."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from backends import Run
from cases import CASES, row
from random_calls import grads_for
from test_ops import close, each, loss, reference

from shiftsearch.backends.cpu import chain, pool, visit, whole_patches, whole_places

pytestmark = pytest.mark.full
_ON = Run("cpu", "single")
_LEAST = [
    (chain, "_BAND"),
    (visit, "_BAND"),
    (whole_patches, "_BAND"),
    (whole_places, "_LEAST_ROWS"),
    (import_module("shiftsearch.backends.cpu.search"), "_AT_A_TIME"),  # cpu.search is the primitive
]


@pytest.fixture
def threads(monkeypatch):
    """Return a function that sets the number of threads, which share even small calls, row by row if `narrow`."""

    def share(number: int, narrow: bool = False):
        monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", str(number))
        monkeypatch.setattr(pool, "_SMALL", 0)
        for module, least in _LEAST if narrow else ():
            monkeypatch.setattr(module, least, 1)

    return share


def _results(case) -> dict:
    outputs = _ON.forward(case)
    grads = _ON.backward(case, outputs, grads_for(np.random.default_rng(0), outputs))
    return {**outputs, **{f"gradient of {name}": grad for name, grad in grads.items()}}


@each(CASES)
def test_bands_of_one_row_equal_one_thread(case, threads):
    threads(1)
    wanted = _results(case)
    for number in (2, 5):
        threads(number, narrow=True)
        for name, found in _results(case).items():
            np.testing.assert_array_equal(found, wanted[name], f"{name}, {number} threads")


_OPTIONS = [
    {"patch": 3},
    {"patch": 4, "stride": 3},
    {"patch": 3, "dilation": 2, "border": "zeros"},
    {"patch": 7, "border": "zeros"},
]
_TALL = [
    *(
        row(f"{op}: tall, {offsets} offsets, {options}", (1, 2, 2, 75, 6), offsets=offsets, kept=2, **options)
        for op in ("score", "aggregate", "scatter", "stack", "gather", "fold")
        for offsets in ("whole", "wild", "far", "astray")
        for options in _OPTIONS
    ),
    *(
        row(f"search: tall, {flow}", (1, 3, 2, 75, 9), window=5, patch=3, topk=3, flow=flow)
        for flow in ("smooth", "wild")
    ),
    row("search: tall, between pixels", (1, 3, 2, 75, 9), window=3, patch=3, topk=3, flow="smooth", subpixel=True),
    row("chain_flow: tall", (1, 4, 1, 75, 6), flow="wild", radius=1),
]


@each(_TALL)
def test_gradients_and_results_of_many_rows_are_those_of_the_definition(case, threads):
    threads(3)
    outputs, slopes = reference(case, np.float32)
    kept = {n: a.astype(np.float32) if a.dtype == float else a for n, a in outputs.items()}
    for name, found in _ON.forward(case).items():
        if case.op.name != "search":  # rounding decides which of two equal candidates is kept
            close(found, outputs[name], case, name)
    for name, found in _ON.backward(case, kept, loss(case, np.float32)).items():
        close(found, slopes[name], case, f"gradient of {name}")
