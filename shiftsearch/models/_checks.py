"""What every model asks of its options and of its clips."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import isfinite
from numbers import Real
from typing import Any

import torch

from shiftsearch.errors import ShiftsearchError


def expect(ok: bool, model: str, name: str, found: object, expected: str) -> None:
    """Raise an error that names the model, the argument, what it was and what was expected."""
    if not ok:
        raise ShiftsearchError(f"{model}: {name} is {found}, expected {expected}")


def whole(model: str, **options: Any) -> None:
    """Check that options are whole numbers of at least 1."""
    for name, value in options.items():
        fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
        expect(fits, model, name, repr(value), "a whole number of at least 1")


def wholes(model: str, count: int, **options: Any) -> None:
    """Check that options are so many whole numbers of at least 1."""
    for name, value in options.items():
        fits = isinstance(value, (tuple, list)) and len(value) == count
        expect(fits, model, name, repr(value), f"{count} whole numbers")
        for one in value:
            whole(model, **{name: one})


def switch(model: str, **options: Any) -> None:
    """Check that options are True or False."""
    for name, value in options.items():
        expect(isinstance(value, bool), model, name, repr(value), "True or False")


def share(model: str, **options: Any) -> None:
    """Check that options are numbers from 0 up to, but not, 1."""
    for name, value in options.items():
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
        expect(fits, model, name, repr(value), "a number from 0 to less than 1")


def choice(model: str, name: str, value: Any, *choices: object) -> None:
    """Check that an option is one of some values."""
    expect(value in choices, model, name, repr(value), "one of " + ", ".join(map(repr, choices)))


def multiple(model: str, name: str, value: int, of: str, unit: int) -> None:
    """Check that a number is a multiple of another, which has a name."""
    expect(value % unit == 0, model, name, repr(value), f"a multiple of {of}, which is {unit}")


def stages(model: str, dim: int, depths: Any, heads: Any, drop_path: float) -> None:
    """Check what says how many blocks and heads each stage has, where each has twice the channels of the one before."""
    count = len(depths) if isinstance(depths, (tuple, list)) else 1
    wholes(model, count, depths=depths, heads=heads)
    share(model, drop_path=drop_path)
    for n, own in enumerate(heads):
        multiple(model, "dim of a stage", dim * 2**n, "its heads", own)


def floats(model: str, name: str, value: Any, letters: str, **sizes: int) -> None:
    """Check that a value is a tensor of floats whose axes have these letters, and sizes where one is given for a letter.

    No axis is empty: attention to nothing has no meaning.
    """
    axes = letters.split()
    shape = "(" + ", ".join(str(sizes.get(axis, axis)) for axis in axes) + ("," if len(axes) == 1 else "") + ")"
    tensor(model, name, value)
    fits = value.is_floating_point() and value.ndim == len(axes)
    fits = fits and all(sizes.get(axis, n) == n and n > 0 for axis, n in zip(axes, value.shape, strict=True))
    found = f"{value.dtype} of shape {tuple(value.shape)}"
    expect(fits, model, name, found, f"floats of shape {shape}, none of them 0")


def tensor(model: str, name: str, value: Any, *shape: int) -> None:
    """Check that a value is a tensor, of this shape if one is given."""
    expect(isinstance(value, torch.Tensor), model, name, f"a {type(value).__name__}", "a torch tensor")
    if shape:
        expect(tuple(value.shape) == shape, model, name, f"of shape {tuple(value.shape)}", f"shape {shape}")


def labels(model: str, name: str, value: Any, *shape: int) -> None:
    """Check that a value is a tensor of the numbers of classes, of this shape."""
    tensor(model, name, value, *shape)
    expect(value.dtype == torch.int64, model, name, f"of {value.dtype}", "torch.int64")


def rising(model: str, name: str, values: Any, least: int, most: float, expected: str) -> None:
    """Check that a value is a sequence of finite numbers, each larger than the one before, neither too few nor too many."""
    known = tuple(values) if isinstance(values, Iterable) else ()
    fits = least <= len(known) <= most and all(isinstance(number, Real) and isfinite(number) for number in known)
    expect(fits and all(a < b for a, b in pairwise(known)), model, name, repr(values), expected)


def clip(model: str, video: Any, channels: int, patch: int = 1) -> None:
    """Check that a clip is (B, T, channels, H, W) of floats, and that whole patches cover its frames."""
    floats(model, "video", video, "B T C H W", C=channels)
    height, width = video.shape[-2:]
    fits = height % patch == 0 and width % patch == 0
    expect(fits, model, "video", f"of {height} x {width} pixels", f"multiples of the patch, {patch} x {patch}")
