"""Numbers that may follow from pixels, a penalty and a scale: they are passed to what is compiled and planned without them."""

from __future__ import annotations

import sys
from types import MethodType

import emulate
import numpy as np
import pytest
from device_arrays import Namespace
from test_ops import tolerance

import shiftsearch as ss
from shiftsearch import definition
from shiftsearch._op import OPS
from shiftsearch.backends.cpu import jit
from shiftsearch.backends.cuda import Cuda, attend_best, attend_some, search, search_tiles

on_kernels = pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
_NUMBERS = [n / 8 for n in range(1, 11)]  # of which sums are exact
_RANKED = {"window": 3, "topk": 4, "radius": 0}


class _Noting(emulate.Emulator):
    """Notes the programs that are launched."""

    xp = Namespace()

    def __init__(self):
        super().__init__(seed=1)
        self.programs = set()
        self.most_shared = 227 << 10

    def launch(self, program, *arguments, **options):
        self.programs.add(program)
        super().launch(program, *arguments, **options)


def _all(part: str) -> list:
    """Return what the modules of a part of the package have by name."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"shiftsearch.{part}")]
    return [*{id(value): value for module in modules for value in vars(module).values()}.values()]


def _planned(part: str) -> int:
    """Return how often something was planned that was not known."""
    return sum(value.cache_info().misses for value in _all(part) if hasattr(value, "cache_info"))


def _compiled() -> int:
    owners = {value.__self__ for value in _all("backends.cpu") if isinstance(value, MethodType)}
    return sum(len(owner.compiled) for owner in owners if isinstance(owner, jit.kernel))


def _arrays_of(op: str, channels: int):
    """Return whole numbers, of which a penalty decides which are best."""
    rng = np.random.default_rng(5)
    names = "qkv" if op == "attend" else "qk"
    return {name: rng.integers(0, 2, (1, 1, channels, 6, 7)).astype(np.float32) for name in names}


def _both_ways(backend, op, spec, arrays):
    """Return what a backend finds, and the gradients of attention."""
    there = {name: backend.xp.asarray(array) for name, array in arrays.items()}
    found = op.forward(backend, spec, **there)
    if op.name == "attend":
        arrive = {"out": backend.xp.asarray(np.ones_like(arrays["v"]))}
        found |= {f"{n} grad": g for n, g in op.backward(backend, spec, there, found, arrive, there.keys()).items()}
    return {name: array.get() if hasattr(array, "get") else array for name, array in found.items()}


def _same(found, wanted):
    for name in found.keys() & wanted.keys() - {"sums", "places"}:  # which kernels keep for gradients
        atol = 0 if name == "offsets" else tolerance(np.float32, 64, wanted[name])
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=atol, err_msg=name)


@on_kernels
@pytest.mark.emulated
@pytest.mark.parametrize(
    ("op", "number", "options", "kernels"),
    [
        ("search", "penalty", {}, ("search",)),
        ("search", "penalty", {"patch": 3}, ("search_windows",)),
        pytest.param("search", "penalty", {"patch": 3, "tiles": True}, ("search_tiles",), marks=pytest.mark.full),
        pytest.param("attend", "penalty", {}, ("attend_best", "attend_slopes"), marks=pytest.mark.full),
        pytest.param("attend", "scale", {"tiles": True}, ("attend_points", "attend_best"), marks=pytest.mark.full),
        pytest.param("attend", "scale", {"topk": None}, ("attend_queries", "attend_keys"), marks=pytest.mark.full),
        pytest.param("attend", "scale", {"patch": 3}, ("search_windows", "weigh_backward"), marks=pytest.mark.full),
    ],
    ids=str,
)
def test_kernels_are_passed_numbers(op, number, options, kernels, monkeypatch):
    """Ten penalties, or a few scales, share the programs and plans of the first."""
    options = {**_RANKED, **options}
    monkeypatch.setattr(search_tiles, "_FEWEST", 1 if options.pop("tiles", False) else 10**9)
    for plan in (search.plan_of_search, attend_some._plan, attend_best._plan):
        plan.cache_clear()
    backend, arrays, known, places = Cuda(_Noting()), _arrays_of(op, 4), set(), set()
    for value in _NUMBERS if op == "search" else _NUMBERS[:3]:
        spec = OPS[op].specify(**options, **{number: value})
        found, wanted = (_both_ways(each, OPS[op], spec, arrays) for each in (backend, definition))
        _same(found, wanted)
        places.add(found["scores" if op == "search" else "out"].tobytes())
        known.add((_planned("backends.cuda"), frozenset(backend.device.programs)))
    assert len(places) > 1, "the number does nothing"
    assert len(known) == 1, "something was planned or compiled again"
    assert {*kernels} <= {program.kernel.name for program in backend.device.programs}


@on_kernels
@pytest.mark.emulated
def test_no_penalty_is_a_program_of_its_own():
    backend, op = Cuda(_Noting()), OPS["search"]
    for penalty in (0, 0.5, 0, 2):
        _both_ways(backend, op, op.specify(**_RANKED, penalty=penalty), _arrays_of("search", 4))
    assert sorted(program.constants["PENALTY"] for program in backend.device.programs) == [0, 1]


def test_the_cpu_is_passed_numbers():
    """Ten penalties and scales share the compiled code and the plans of calls of the first."""
    arrays, known, places = _arrays_of("attend", 4), set(), set()
    q, k, v = (arrays[name] for name in "qkv")
    for number in _NUMBERS:
        _, offsets = ss.search(q, k, **_RANKED, penalty=number)
        ss.attend(q, k, v, **_RANKED, penalty=number, scale=number)
        places.add(offsets.tobytes())
        known.add((_compiled(), _planned("_arrays")))
    assert len(places) > 2, "the penalty does nothing"
    assert _compiled()
    assert len(known) == 1, "something was planned or compiled again"
