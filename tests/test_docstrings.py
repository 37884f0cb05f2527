"""The examples in docstrings are true. They see NumPy and the public functions, those of torch a video too."""

import doctest
import importlib

import numpy as np
import pytest

import shiftsearch


@pytest.mark.parametrize(
    "name",
    ["ops.aggregate", "ops.flow", "ops.gather", "ops.score", "ops.search", "video.align", "video.chunks", "video.flow"],
)
def test_examples_of(name):
    if name in ("video.align", "video.flow"):
        pytest.importorskip("cv2")
    module = importlib.import_module(f"shiftsearch.{name}")
    seen = {"np": np, **{public: getattr(shiftsearch, public) for public in shiftsearch.__all__}}
    result = doctest.testmod(module, extraglobs=seen)
    assert result.attempted > 0
    assert result.failed == 0


def test_examples_of_modules():
    torch = pytest.importorskip("torch")
    module = importlib.import_module("shiftsearch.nn")
    result = doctest.testmod(module, extraglobs={"video": torch.randn(3, 4, 16, 24)})
    assert result.attempted > 0
    assert result.failed == 0
