"""What an op is: data that the rest of the package reads. No array library is imported here."""

from __future__ import annotations

import operator
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

    def choice(self, name: str, *choices) -> None:
        value = getattr(self, name)
        fits = any(type(value) is type(c) and value == c for c in choices)
        self.check(fits, name, "one of " + ", ".join(map(repr, choices)))

    def switch(self, *names: str) -> None:
        for name in names:
            self.check(isinstance(getattr(self, name), bool), name, "True or False")


@dataclass(frozen=True)
class Op:
    """One op: its arrays with their shapes in letters, and what it does in terms of a backend's primitives.

    A letter is bound by the first array that has it; every later one must agree. `B` may be missing
    in all arrays of a call, a letter with "?" in one of them; both are then added with length 1.
    `forward(backend, spec, **inputs)` gives a dict of outputs; `backward(backend, spec, inputs,
    outputs, grads)` a dict of gradients, for the inputs that have one.
    """

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    forward: Callable
    backward: Callable
    sizes: Callable = lambda spec, sizes: {}  # letters that the spec decides, from those bound so far
    values: tuple[str, ...] = ()  # inputs that share one dtype; the others are coordinates
    optional: tuple[str, ...] = ()  # inputs that may be None
    check: Callable = field(default=lambda spec, sizes: None)  # what a spec asks of the sizes
    large: Callable = lambda spec, sizes: {}  # shapes of outputs that may be far larger than the inputs

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
            self._match(name, array.shape, wanted, sizes)
            sizes.update(self.sizes(spec, sizes))
            missing = [i for i, letter in enumerate(letters) if letter not in wanted]
            for axis in missing:
                array = array[(slice(None),) * axis + (None,)]
            sizes.setdefault("B", 1)
            whole[name] = array
        self.check(spec, sizes)
        return whole, sizes, batched

    def _match(self, name: str, shape: tuple, wanted: list[str], sizes: dict[str, int]) -> None:
        known = dict(sizes)  # from the arrays before
        fits = len(shape) == len(wanted) and all(_fits(n, x, sizes) for n, x in zip(shape, wanted, strict=True))
        if not fits:
            expected = ", ".join(x if x.isdigit() else _bound(x, known) for x in wanted)
            raise ShiftsearchError(f"{self.name}: {name} has shape {tuple(shape)}, expected ({expected})")
        empty = [letter for n, letter in zip(shape, wanted, strict=True) if n == 0 and letter != "S"]
        if empty:  # S may be 0: a search with radius 0 follows no flow
            raise ShiftsearchError(f"{self.name}: {name} has shape {tuple(shape)}, expected at least 1 along {empty[0]}")


def _fits(n: int, letter: str, sizes: dict[str, int]) -> bool:
    if letter.endswith("?"):
        return n in (1, sizes[letter[:-1]])
    return n == (int(letter) if letter.isdigit() else sizes.setdefault(letter, n))


def _bound(letter: str, sizes: dict[str, int]) -> str:
    if letter.endswith("?"):
        return f"1 or {sizes[letter[:-1]]}" if sizes[letter[:-1]] > 1 else "1"
    return f"{letter}={sizes[letter]}" if letter in sizes else letter
