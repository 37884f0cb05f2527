"""The examples in docstrings are true. They see NumPy and the public functions, and a video where torch is installed."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import numpy as np
import pytest

import shiftsearch

_OPTIONAL = ("av", "cupy", "cv2", "skimage", "torch", "tqdm", "vapoursynth")
# skipped modules: what follows `_` is not public, and `__main__` runs when it is imported
MODULES = ["shiftsearch"] + [
    module.name
    for module in pkgutil.walk_packages(shiftsearch.__path__, "shiftsearch.")
    if not any(part.startswith("_") for part in module.name.split("."))
]


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")


def _visible() -> dict:
    seen = {"np": np, **{public: getattr(shiftsearch, public) for public in shiftsearch.__all__}}
    if importlib.util.find_spec("torch"):
        import torch

        seen["video"] = torch.randn(3, 4, 16, 24)
    return seen


def _examples(module) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=_visible())
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    for example in _examples(_import(name)):
        result = doctest.DocTestRunner().run(example)
        assert result.failed == 0, example.name


def test_the_examples_of_every_public_function_are_among_them():
    functions = [value for value in map(vars(shiftsearch).get, shiftsearch.__all__) if inspect.isfunction(value)]
    homes = {function.__module__ for function in functions}
    assert homes <= set(MODULES)
    found = {example.name for home in homes for example in _examples(importlib.import_module(home))}
    assert {f"{function.__module__}.{function.__qualname__}" for function in functions} <= found
