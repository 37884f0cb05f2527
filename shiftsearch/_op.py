"""What an op is: data that the rest of the package reads. No array library is imported here."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real

from shiftsearch.errors import ShiftsearchError


@dataclass(frozen=True)
class Spec:
    """The hyper-parameters of a call, checked once, in `__post_init__`. A new array size changes nothing in it."""

    op: str

    def check(self, ok: bool, name: str, expected: str) -> None:
        if not ok:
            raise ShiftsearchError(f"{self.op}: {name} is {getattr(self, name)!r}, expected {expected}")

    def whole(self, *names: str, least: int = 1, most: int = 2**31 - 1) -> None:
        """Checks that fields are whole numbers in a range and makes them Python ints."""
        for name in names:
            value = getattr(self, name)
            try:
                number = operator.index(value) if not isinstance(value, bool) else None
            except TypeError:
                number = None
            self.check(number is not None and least <= number <= most, name, f"a whole number from {least} to {most}")
            object.__setattr__(self, name, number)

    def real(self, name: str, least: float = 0, most: float = 1e6) -> None:
        """Checks that a field is a finite number in a range and makes it a float."""
        value = getattr(self, name)
        fits = isinstance(value, Real) and not isinstance(value, bool) and least <= value <= most
        self.check(fits, name, f"a number from {least:g} to {most:g}")
        object.__setattr__(self, name, float(value))

    def memory(self, name: str) -> None:
        """Checks that a field is a number of bytes, or text such as "2GiB", and makes it a float."""
        value = getattr(self, name)
        text = f"{value}B" if type(value) is int else value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)(i?)B", text) if isinstance(text, str) else None
        self.check(found is not None, name, 'a number of bytes, or text such as "500MB" or "2GiB"')
        object.__setattr__(self, name, float(found[1]) * (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " "))

    def choice(self, name: str, *choices) -> None:
        value = getattr(self, name)
        fits = any(type(value) is type(c) and value == c for c in choices)
        self.check(fits, name, "one of " + ", ".join(map(repr, choices)))

    def switch(self, *names: str) -> None:
        for name in names:
            self.check(isinstance(getattr(self, name), bool), name, "True or False")


OPS: dict[str, Op] = {}  # all ops by name


@dataclass(frozen=True)
class Op:
    """One op: its arrays with their shapes in letters, and what it does in terms of a backend's primitives.

    A letter is bound by the first array that has it; every later one must agree. `B` may be missing
    in all arrays of a call, a letter with "?" in one of them; both are then added with length 1.
    `forward(backend, spec, **inputs)` gives a dict of outputs; `backward(backend, spec, inputs,
    outputs, grads, wanted)` a dict of gradients, for those of the `wanted` inputs that have one.
    Of `grads`, which arrive at the outputs, only the first must be there; of `outputs`, those in `keeps`.
    """

    name: str
    spec: type[Spec]
    inputs: dict[str, str]
    outputs: dict[str, str]  # what kind of number: value, score, offset or index
    shapes: Callable  # of the outputs by name, from spec and sizes
    forward: Callable
    backward: Callable
    sizes: Callable = lambda spec, sizes: {}  # letters that the spec decides, from those bound so far
    values: tuple[str, ...] = ()  # inputs that share one dtype; the others are coordinates
    optional: tuple[str, ...] = ()  # inputs that may be None
    keeps: tuple[str, ...] = ()  # outputs that backward reads
    hidden: tuple[str, ...] = ()  # outputs that only backward reads
    check: Callable = field(default=lambda spec, sizes: None)  # what a spec asks of the sizes

    def __post_init__(self):
        OPS[self.name] = self

    def bind(self, spec: Spec, arrays: dict) -> tuple[dict, dict, bool]:
        """(arrays with all their axes, sizes of all letters, whether `B` was given), or an error that says what is wrong."""
        sizes: dict[str, int] = {}
        batched, whole = True, {}
        for name, array in arrays.items():
            letters = self.inputs[name].split()
            if not whole:
                batched = array.ndim >= len(letters)
            wanted = letters if batched or letters[0] != "B" else letters[1:]
            if array.ndim == len(wanted) - 1:
                wanted = [x for x in wanted if not x.endswith("?")]
            self._match(spec.op, name, array.shape, wanted, sizes)
            sizes.update(self.sizes(spec, sizes))
            missing = [i for i, letter in enumerate(letters) if letter not in wanted]
            for axis in missing:
                array = array[(slice(None),) * axis + (None,)]
            sizes.setdefault("B", 1)
            whole[name] = array
        self.check(spec, sizes)
        return whole, sizes, batched

    def dtype(self, output: str, spec: Spec, value: str) -> str:
        """Of an output, where values have the dtype `value`: sums of halves are floats."""
        wide = "float64" if value == "float64" else "float32"
        offset = wide if getattr(spec, "subpixel", False) else "int32"
        return {"value": value, "score": wide, "offset": offset, "index": "int32"}[self.outputs[output]]

    def _match(self, caller: str, name: str, shape: tuple, wanted: list[str], sizes: dict[str, int]) -> None:
        known = dict(sizes)  # from the arrays before
        fits = len(shape) == len(wanted) and all(_fits(n, x, sizes) for n, x in zip(shape, wanted, strict=True))
        if not fits:
            expected = ", ".join(x if x.isdigit() else _bound(x, known) for x in wanted)
            raise ShiftsearchError(f"{caller}: {name} has shape {tuple(shape)}, expected ({expected})")
        empty = [letter for n, letter in zip(shape, wanted, strict=True) if n == 0 and letter not in "BS"]
        if empty:  # S may be 0: a search with radius 0 follows no flow; and no clip at all gives no result at all
            raise ShiftsearchError(f"{caller}: {name} has shape {tuple(shape)}, expected at least 1 along {empty[0]}")


def _fits(n: int, letter: str, sizes: dict[str, int]) -> bool:
    if letter.endswith("?"):
        return n in (1, sizes[letter[:-1]])
    return n == (int(letter) if letter.isdigit() else sizes.setdefault(letter, n))


def _bound(letter: str, sizes: dict[str, int]) -> str:
    if letter.endswith("?"):
        return f"1 or {sizes[letter[:-1]]}" if sizes[letter[:-1]] > 1 else "1"
    return f"{letter}={sizes[letter]}" if letter in sizes else letter
