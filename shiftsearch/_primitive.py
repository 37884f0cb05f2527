"""Primitives: the functions that ops are composed of.

`definition` says what each of them means, and every backend computes it, under the same name. Any function marked
`@primitive` in a file of one of these packages is one: no list names them, nor their files.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FOUND: dict[str, dict[str, Any]] = {}  # by package and name


def primitive(function: _Function) -> _Function:
    """Mark a function as a primitive of the package that its file is in."""
    package = _FOUND.setdefault(function.__module__.rpartition(".")[0], {})
    home = package.setdefault(function.__name__, function).__module__
    if home != function.__module__:
        raise ImportError(f"{home} and {function.__module__} both define the primitive {function.__name__}")
    return function


def primitives(package: str) -> dict[str, Any]:
    """Return the primitives of a package by name."""
    modules(package)
    return dict(sorted(_FOUND[package].items()))


def modules(package: str) -> list[ModuleType]:
    """Import all modules of a package that is being imported itself, in the order of their names."""
    names = sorted(found.name for found in pkgutil.iter_modules(importlib.import_module(package).__path__))
    return [importlib.import_module(f"{package}.{name}") for name in names]
