"""Ops as data that the rest of the package reads. No array library is imported here."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from shiftsearch._types import Native
from shiftsearch.errors import ShiftsearchError

if TYPE_CHECKING:
    from typing import Self


# --- options --------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Spec:
    """The options of a call, checked once, in `__post_init__`. Array sizes are not among them.

    `caller` is the name of the function in messages, and has no other effect.
    """

    caller: str

    passed: ClassVar[tuple[str, ...]] = ()  # fields of numbers of which plans only know whether they are 0

    @property
    def planned(self) -> Self:
        """These options as plans know them: 1 stands for any number of a field that is `passed`, but for 0.

        Such numbers may follow from pixels: with them a plan would be of no use to the next call.
        """
        found = getattr(self, "_planned", None)
        if found is None:
            known: dict[str, Any] = {name: float(bool(getattr(self, name))) for name in self.passed}
            found = replace(self, **known) if known else self
            object.__setattr__(self, "_planned", found)  # a cached_property makes all attributes slow
        return found

    def check(self, ok: bool, name: str, expected: str) -> None:
        if not ok:
            raise ShiftsearchError(f"{self.caller}: {name} is {getattr(self, name)!r}, expected {expected}")

    def whole(self, *names: str, least: int = 1, most: int = 2**31 - 1) -> None:
        """Check that fields are whole numbers in a range, and make them Python ints."""
        for name in names:
            number = _whole(getattr(self, name), least, most)
            self.check(number is not None, name, f"a whole number from {least} to {most}")
            object.__setattr__(self, name, number)

    def pair(self, name: str, least: int = 1, most: int = 2**31 - 1) -> tuple[int, int]:
        """Check that a field is a whole number in a range, or two, (rows, columns), and make it two, which are returned."""
        value = getattr(self, name)
        both = value if isinstance(value, (tuple, list)) else (value, value)
        numbers = [number for each in both if (number := _whole(each, least, most)) is not None]
        fits = len(numbers) == len(both) == 2
        self.check(fits, name, f"a whole number from {least} to {most}, or two of them, (rows, columns)")
        rows, columns = numbers
        object.__setattr__(self, name, (rows, columns))
        return rows, columns

    def real(self, name: str, least: float = 0, most: float = 1e6) -> None:
        """Check that a field is a finite number in a range, and make it a float."""
        value: Any = getattr(self, name)
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        fits = is_real and bool(least <= float(value) <= most)
        self.check(fits, name, f"a number from {least:g} to {most:g}")
        object.__setattr__(self, name, float(value))

    def memory(self, name: str) -> None:
        """Check that a field is a number of bytes, or text such as "2GiB", and make it a float."""
        value = getattr(self, name)
        text = f"{value}B" if type(value) is int else value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)(i?)B", text) if isinstance(text, str) else None
        self.check(found is not None, name, 'a number of bytes, or text such as "500MB" or "2GiB"')
        assert found is not None
        object.__setattr__(self, name, float(found[1]) * (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " "))

    def choice(self, name: str, *choices: object) -> None:
        """Check that a field is one of some values."""
        value = getattr(self, name)
        fits = any(type(value) is type(c) and value == c for c in choices)
        self.check(fits, name, "one of " + ", ".join(map(repr, choices)))

    def switch(self, *names: str) -> None:
        """Check that fields are True or False."""
        for name in names:
            self.check(isinstance(getattr(self, name), bool), name, "True or False")


def _whole(value: Any, least: int, most: int) -> int | None:
    """Return a value as a Python int, if it is a whole number in a range."""
    try:
        number = operator.index(value) if not isinstance(value, bool) else None
    except TypeError:
        return None
    return number if number is not None and least <= number <= most else None


REMEMBERED = 1024  # how many different options, and how many plans of calls, are kept
_PLAIN = {int, float, bool, str, type(None)}  # immutable types of options, which can be looked up by value


def specified(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Return the spec of these options. Those that have been checked before are not checked again."""
    values = options.values()
    plain = _PLAIN.issuperset(map(type, values)) or all(map(_is_plain, values))
    return _remembered(kind, **options) if plain else kind(**options)


def _is_plain(value: Any) -> bool:
    """Return whether a value is found again by value: in a tuple, True would be taken for 1."""
    return type(value) in _PLAIN or (type(value) is tuple and all(type(each) is int for each in value))


@lru_cache(REMEMBERED, typed=True)  # 1 is a valid window, True and 1.0 are not
def _remembered(kind: Callable[..., Any], /, **options: Any) -> Any:
    return kind(**options)


# --- arrays ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kind:
    """What the numbers of an input mean, and so which dtypes it may have."""

    draw: Callable[[Any, tuple[int, ...]], Any]  # examples of such numbers, from a generator and a shape
    value: bool = True  # has the dtype of the other values, in which the op computes; otherwise it may have any
    halves: bool = False  # cast to half precision under torch.autocast, like the inputs of a matrix product
    beside: bool = False  # may be float32 where the other values are halves
    whole: bool = False  # may be whole numbers


def _normal(rng: Any, shape: tuple[int, ...]) -> Any:
    return rng.standard_normal(shape)


def _positive(rng: Any, shape: tuple[int, ...]) -> Any:
    return rng.random(shape)


def _moves(rng: Any, shape: tuple[int, ...]) -> Any:
    return rng.uniform(-3, 3, shape)


VALUE = Kind(_normal, halves=True)  # pixels
WEIGHT = Kind(_positive, beside=True)  # as a softmax returns them: float32 under torch.autocast
MOTION = Kind(_moves)  # flow that the op computes with
FLOW = Kind(_moves, value=False)  # flow that leads to places
OFFSET = Kind(_moves, value=False, whole=True)


@dataclass(frozen=True)
class Input:
    """An array that an op takes.

    The first array with a letter sets its size, and every later one must agree. `B` may be missing from all arrays of a
    call, and a letter with "?" from any one of them. A missing axis is added with length 1. A letter with "/" may be any
    divisor of the size: each along this axis then stands for several in a row.
    """

    axes: str  # a letter, word or number for each
    kind: Kind = VALUE
    optional: bool = False  # whether it may be None

    @cached_property
    def letters(self) -> tuple[str, ...]:
        return tuple(self.axes.split())

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return its shape for sizes of the letters; an axis that may be missing has length 1."""
        return tuple(int(x) if x.isdigit() else 1 if x.endswith("?") else sizes[x.rstrip("/")] for x in self.letters)


@dataclass(frozen=True)
class Bound:
    """The sizes that the shapes of a call's arrays give."""

    sizes: dict[str, int]  # of all letters
    batched: bool  # whether `B` was given
    missing: dict[str, tuple[Any, ...]]  # for an array that lacks an axis, the index that adds it
    several: dict[
        str, tuple[int, int]
    ]  # for an array of which each stands for several, along which axis and for how many

    def whole(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays with all their axes, in full length."""
        found = {name: array[self.missing[name]] if name in self.missing else array for name, array in arrays.items()}
        for name, (axis, times) in self.several.items():
            found[name] = found[name].repeat(times, axis)
        return found

    def summed(self, name: str, gradient: Any) -> Any:
        """Return the gradient of an array that was given, from that of the one in full length."""
        if name not in self.several:
            return gradient
        axis, times = self.several[name]
        shape = gradient.shape
        return gradient.reshape(*shape[:axis], shape[axis] // times, times, *shape[axis + 1 :]).sum(axis + 1)


_SIZES = {"B": 1, "T": 3, "kT": 3, "vT": 3, "C": 4, "H": 7, "W": 8, "G": 2, "K": 2}


@dataclass(frozen=True)
class Example:
    """A small call of an op, for `doctor` and the tests: its options, and sizes of letters that are not in `_SIZES`.

    Places are fractional, so that every input has a gradient.
    """

    options: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)


# --- ops ------------------------------------------------------------------------------------------
OPS: dict[str, Op] = {}  # all ops by name
_WATCHERS: list[Callable[[Op], None]] = []


def for_each_op(do: Callable[[Op], None]) -> None:
    """Call `do` with every op that exists, and with every one that is made later."""
    _WATCHERS.append(do)
    for op in OPS.values():
        do(op)


@dataclass(frozen=True, kw_only=True, eq=False)
class Op:
    """One op: its arrays with their shapes in letters, and what it does in terms of a backend's primitives.

    `forward(backend, spec, **inputs)` returns a dict of outputs. `backward(backend, spec, inputs, outputs, grads,
    wanted)` returns a dict of gradients, for those of the `wanted` inputs that have one. Of `grads`, the gradients
    that arrive at the outputs, only the first must be there; of `outputs`, those in `keeps`.
    `multiply_adds(spec, sizes, fractions, wanted)` is the number of them in the op's formula, or in those of the `wanted`
    gradients; with `fractions` places lie between pixels. No way to compute less of them has an effect on it.
    """

    function: Callable[..., Any]  # what users call: the op has its name, and its options have their defaults there
    spec: type[Spec]
    inputs: dict[str, Input]
    outputs: dict[str, str]  # what kind of number: value, score, offset or index
    shapes: Callable[[Any, dict[str, int]], dict[str, tuple[int, ...]]]  # of the outputs, from spec and sizes
    forward: Callable[..., dict[str, Native]]
    backward: Callable[..., dict[str, Native]]
    multiply_adds: Callable[[Any, dict[str, int], bool, Set[str] | None], int]  # how many the formulas have
    example: Example
    sizes: Callable[[Any, dict[str, int]], dict[str, int]] = lambda spec, sizes: {}  # of letters that the spec decides
    check: Callable[[Any, dict[str, int]], None] = lambda spec, sizes: None  # checks the sizes against the spec
    keeps: tuple[str, ...] = ()  # outputs that backward reads
    hidden: tuple[str, ...] = ()  # outputs that only backward reads
    spares: Callable[[Any], Set[str]] = lambda spec: frozenset()  # of `keeps`, what backward with them does not read
    # derived from the fields above; plain fields rather than properties, so that torch.compile can read them
    name: str = field(init=False)
    values: tuple[str, ...] = field(init=False)  # inputs that share one dtype, in which the op computes
    options: tuple[str, ...] = field(init=False)  # fields of the spec

    def __post_init__(self) -> None:
        known = {
            "name": self.function.__name__,
            "values": tuple(name for name, given in self.inputs.items() if given.kind.value),
            "options": tuple(f.name for f in fields(self.spec)),
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)
        OPS[self.name] = self
        for do in _WATCHERS:
            do(self)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The options of the public function that have a default."""
        parameters = inspect.signature(self.function).parameters.values()
        known = (p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in self.options)
        return {p.name: p.default for p in known if p.default is not p.empty}

    def specify(self, **options: Any) -> Any:
        """Return the spec of these options, with the defaults of the public function for others."""
        return self.spec(**{"caller": self.name, **self.defaults, **options})

    def example_sizes(self) -> dict[str, int]:
        """Return the sizes of the letters in the example."""
        sizes = {**_SIZES, **self.example.sizes}
        return {**sizes, **self.sizes(self.specify(**self.example.options), sizes)}

    def example_arrays(self, rng: Any) -> dict[str, Any]:
        """Return random inputs of the example, in float64."""
        sizes = self.example_sizes()
        return {name: given.kind.draw(rng, given.shape(sizes)) for name, given in self.inputs.items()}

    def bind(self, spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> Bound:
        """Check the shapes of arrays, and return what they say."""
        sizes: dict[str, int] = {}
        missing: dict[str, tuple[Any, ...]] = {}
        several: dict[str, tuple[int, int]] = {}
        first = next(iter(shapes))
        batched = len(shapes[first]) >= len(self.inputs[first].letters)
        for name, shape in shapes.items():
            letters = self.inputs[name].letters
            wanted = letters if batched or letters[0] != "B" else letters[1:]
            if len(shape) == len(wanted) - 1:
                wanted = tuple(x for x in wanted if not x.endswith("?"))
            _match(spec.caller, name, shape, wanted, sizes)
            sizes.update(self.sizes(spec, sizes))
            if len(wanted) < len(letters):
                missing[name] = tuple(slice(None) if letter in wanted else None for letter in letters)
            for letter, n in zip(wanted, shape, strict=True):
                if letter.endswith("/") and n != sizes[letter[:-1]]:
                    several[name] = letters.index(letter), sizes[letter[:-1]] // n
            sizes.setdefault("B", 1)
        self.check(spec, sizes)
        return Bound(sizes, batched, missing, several)

    def dtype(self, output: str, spec: Spec, value: str) -> str:
        """Return the dtype of an output where values have the dtype `value`: sums of halves are floats."""
        wide = "float64" if value == "float64" else "float32"
        offset = wide if getattr(spec, "subpixel", False) else "int32"
        return {"value": value, "score": wide, "offset": offset, "index": "int32"}[self.outputs[output]]


def _match(caller: str, name: str, shape: tuple[int, ...], wanted: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Bind the letters that are new, and check those that are known."""
    known = dict(sizes)  # from the arrays before
    fits = len(shape) == len(wanted) and all(_fits(n, x, sizes) for n, x in zip(shape, wanted, strict=True))
    if not fits:
        expected = ", ".join(_expected(wanted, known))
        raise ShiftsearchError(f"{caller}: {name} has shape {tuple(shape)}, expected ({expected})")
    empty = [letter for n, letter in zip(shape, wanted, strict=True) if n == 0 and letter not in "BS"]
    if empty:  # S may be 0, as a search with radius 0 follows no flow, and so may B
        raise ShiftsearchError(f"{caller}: {name} has shape {tuple(shape)}, expected at least 1 along {empty[0]}")


def _fits(n: int, letter: str, sizes: dict[str, int]) -> bool:
    if letter.endswith("?"):
        return n in (1, sizes[letter[:-1]])
    if letter.endswith("/"):
        return n > 0 and sizes.setdefault(letter[:-1], n) % n == 0
    return n == (int(letter) if letter.isdigit() else sizes.setdefault(letter, n))


def _expected(wanted: Iterable[str], sizes: dict[str, int]) -> Iterable[str]:
    """Yield each axis as a message spells it, with its length where that is known."""
    for letter in wanted:
        if letter.endswith("?"):
            n = sizes[letter[:-1]]
            yield f"1 or {n}" if n > 1 else "1"
        elif letter.endswith("/") and sizes.get(letter[:-1], 1) > 1:
            yield f"a divisor of {letter[:-1]}={sizes[letter[:-1]]}"
        else:
            letter = letter.rstrip("/")
            yield f"{letter}={sizes[letter]}" if letter in sizes else letter
