from __future__ import annotations

import ctypes
from collections import Counter, defaultdict

import numpy as np
import pytest

from shiftsearch import _arrays

_M_PERTURB = -6  # glibc: fill memory from malloc, also in kernels
_BYTE = 0x7F  # floats become huge, whole numbers too

_LEFT_OUT = pytest.StashKey[dict[str, int]]()  # how many tests the quick run leaves out, by file


def pytest_addoption(parser):
    runs = parser.getgroup("shiftsearch").addoption
    runs("--full", action="store_true", help="run everything: without it some minutes' worth of it")
    runs("--rest", action="store_true", help="run what is left out without --full")


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.get_closest_marker("full") is None)  # the longest first: processes end together
    if config.getoption("full") or any("::" in asked for asked in config.args):
        return
    quick = _quick([item for item in items if not item.get_closest_marker("full")])
    chosen, left_out = [item for item in items if item in quick], [item for item in items if item not in quick]
    if config.getoption("rest"):
        items[:] = left_out
        config.hook.pytest_deselected(items=chosen)
        return
    items[:] = chosen
    config.hook.pytest_deselected(items=left_out)
    by_file = dict(Counter(item.path.name for item in left_out))
    config.stash[_LEFT_OUT] = by_file
    if hasattr(config, "workeroutput"):  # with pytest-xdist, the process that reports does not collect tests
        config.workeroutput["left_out"] = by_file


def _quick(items) -> set:
    """Of each test one item for every value of its parameters."""
    import quick  # builds the table of cases

    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    chosen = set()
    for same in tests.values():
        mark = same[0].get_closest_marker("options_on")
        on = None if mark is None else mark.args
        shown = [quick.facts(item.callspec.params, on) if hasattr(item, "callspec") else {None} for item in same]
        chosen |= {same[place] for place in quick.cover(shown)}
    return chosen


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter, config):
    left_out = config.stash.get(_LEFT_OUT, {})
    if left_out:
        files = ", ".join(f"{file} {n}" for file, n in sorted(left_out.items(), key=lambda each: -each[1]))
        terminalreporter.write_line(
            "This was the quick run: each op in each dtype, and each option, once on each backend."
        )
        terminalreporter.write_line(f"pytest --full adds {sum(left_out.values())} tests: {files}.")


@pytest.fixture(scope="session", autouse=True)
def _poisoned_memory():
    """Fill new memory with huge numbers, so that an output that is not written is wrong."""
    try:
        ctypes.CDLL(None).mallopt(_M_PERTURB, _BYTE ^ 0xFF)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: the tests are a little weaker


@pytest.fixture
def poisoned():
    """The same for the small blocks that NumPy keeps for reuse."""
    kept = [np.full(size, _BYTE, np.uint8) for size in range(4, 1024, 4) for _ in range(7)]
    kept.clear()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def in_doubles():
    """Let torch make tensors of float64, the same ones each time."""
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def on_device(monkeypatch):
    """Return a function that gives a module `on_device.put`, whose arrays cannot be mixed with others, as on a GPU."""
    from device_arrays import Namespace, OnDevice

    def through(op):
        def call(*arrays, **options):
            if not any(isinstance(a, OnDevice) for a in arrays):
                return op(*arrays, **options)
            results = op(*(a.get() if isinstance(a, OnDevice) else a for a in arrays), **options)
            return tuple(map(put, results)) if isinstance(results, tuple) else put(results)

        return call

    def put(array):
        return array.view(OnDevice)

    def enter(module):
        transform = getattr(module, "transform", None)

        def called(op, function, dtypes=None, **arrays):
            if not any(isinstance(array, OnDevice) for array in arrays.values()):
                return transform(op, function, dtypes, **arrays)
            return function(Namespace(), *arrays.values())

        if transform is not None:
            monkeypatch.setattr(module, "transform", called)
        for name in (
            "match",
            "search",
            "refine",
            "score",
            "aggregate",
            "gather",
            "fold",
            "chain_flow",
            "upsample_flow",
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, through(getattr(module, name)))

    monkeypatch.setattr(_arrays, "computed", through(_arrays.computed))
    enter.put = put
    return enter
