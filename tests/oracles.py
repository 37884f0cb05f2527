"""Other libraries' models of the same systems, for tests that compare with them. A test is skipped where one is missing."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest
import torch


def library(name: str) -> ModuleType:
    """Import a library, or skip the test with the reason."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what these libraries do when they are imported
        patch.setattr(torch.library, "register_fake", _but_for_torchvision)
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"needs {name}: {error}")


_register_fake = torch.library.register_fake


def _but_for_torchvision(op, *arguments, **options):
    """Register nothing of the operators that torchvision lacks beside a torch for CPUs: models do not need them."""
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(op, *arguments, **options)
