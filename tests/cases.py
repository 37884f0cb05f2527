"""The table of cases that every backend is tested on. A row added here is tested everywhere.

Its first rows are the examples of the ops, as they are when this is imported. Nothing here knows a backend. Values and
coordinates are representable in float32, so that the reference is the same for both dtypes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

import shiftsearch  # noqa: F401 (which makes the ops)
from shiftsearch._geometry import query_grid
from shiftsearch._op import FLOW, MOTION, OFFSET, OPS, WEIGHT, Op, Spec
from shiftsearch.ops.queries import bounds


@dataclass(frozen=True)
class Case:
    name: str  # the op, a colon, and what is special
    size: tuple[int, int, int, int, int] = (1, 3, 3, 5, 7)  # B, T, C, H, W
    heads: int = 1
    flow: str | None = None  # a kind of coordinates, see `_coordinates`
    flow_heads: int = 1
    offsets: str = "whole"  # likewise, where the op takes offsets
    kept: int = 3  # offsets per query, where the op takes offsets
    values: str = "normal"
    weighted: bool = True
    scale: int = 1  # resolution of match's q
    options: dict = field(default_factory=dict, hash=False)
    letters: dict = field(default_factory=dict, hash=False)  # sizes that do not follow from the others

    @property
    def op(self) -> Op:
        return OPS[self.name.split(":")[0]]

    @property
    def spec(self) -> Spec:
        _, T, _, H, W = self.size
        options = {"heads": self.heads, "size": (T, H, W), **self.options}
        if "queries" in options:
            options["queries"] = bounds(self.op.name, options["queries"])
        return self.op.specify(**{name: value for name, value in options.items() if name in self.op.options})

    @property
    def exact(self) -> bool:
        """Whether all values are small whole numbers and all places multiples of a quarter: sums are then exact."""
        return self.values in ("whole", "wide", "constant")

    def sizes(self) -> dict[str, int]:
        """The sizes of all letters of the inputs."""
        (B, T, C, H, W), spec, patch = self.size, self.spec, self.options.get("patch", 1)
        found = {
            "B": B,
            "T": T,
            "kT": T,
            "vT": T,
            "C": C,
            "H": H,
            "W": W,
            "G": self.heads,
            "F": C // self.heads,
            "P": patch,
        }
        found |= {"K": self.kept, "seeds": self.kept, "qH": H * self.scale, "qW": W * self.scale}
        found["V"] = C + self.heads
        if hasattr(spec, "part"):
            part = spec.part((T, *query_grid(H, W, spec.stride)))
            found |= {letter: s.stop - s.start for letter, s in zip("tyx", part, strict=True)}
        found |= self.letters
        return found | self.op.sizes(spec, found)

    def arrays(self, dtype) -> dict[str, np.ndarray]:
        """The inputs by name, with all axes."""
        rng, sizes, found = np.random.default_rng(zlib.crc32(self.name.encode())), self.sizes(), {}
        places = np.dtype(np.float32 if np.dtype(dtype).itemsize == 2 else dtype)  # halves are too coarse
        for name, given in self.op.inputs.items():
            shape = given.shape(sizes)
            if given.kind == OFFSET:
                found[name] = self._offsets(rng, shape, places)
            elif given.kind == FLOW:
                if self.flow:
                    shape = tuple(
                        self.flow_heads if x.endswith("?") else n for x, n in zip(given.letters, shape, strict=True)
                    )
                    found[name] = _coordinates(rng, self.flow, shape).astype(places)
            elif given.kind == MOTION:  # gradients of flow that is far off are too large for half precision
                found[name] = _coordinates(rng, self.flow, shape).astype(places if self.flow == "astray" else dtype)
            elif given.kind != WEIGHT or self.weighted:
                found[name] = _values(rng, self.values, shape).astype(dtype)
        return found

    def _offsets(self, rng, shape, dtype):
        found = _coordinates(rng, self.offsets, shape)
        found = found.astype(np.int32 if self.offsets in ("whole", "far", "int") else dtype)
        T = self.size[1]
        frames = rng.integers(-T - 1, T + 2, found.shape[:-1])
        if found.dtype.kind == "f":  # rounded, half to even
            frames = frames - rng.integers(0, 4, frames.shape) / 4
        found[..., 0] = np.where(np.isfinite(found[..., 0]), frames, found[..., 0])
        return found


def _values(rng, kind, shape):
    found = rng.standard_normal(shape).astype(np.float32)
    match kind:
        case "whole":
            return rng.integers(-2, 3, shape)
        case "wide":  # numbers that both half types hold, but not their products
            return rng.integers(-200, 201, shape)
        case "constant":
            return np.full(shape, 2)
        case "nan":
            return np.where(rng.random(shape) < 0.02, np.nan, found)
    return found


def _coordinates(rng, kind, shape):
    match kind:
        case "zero":
            return np.zeros(shape)
        case "whole" | "int":
            return rng.integers(-4, 5, shape)
        case "far":
            return rng.integers(-1000, 1001, shape)
        case "quarters":
            return rng.integers(-12, 13, shape) / 4
        case "halves":  # rounds half to even
            return rng.integers(-8, 9, shape) / 2
        case "smooth":  # neighbours move alike
            return (
                np.broadcast_to(rng.integers(-48, 49, (*shape[:-2], 1, 1)) / 16, shape) + rng.integers(0, 2, shape) / 16
            )
        case "wild":  # never whole
            return rng.integers(-5, 5, shape) + rng.integers(1, 64, shape) / 64
        case "astray":
            return rng.integers(-64000, 64001, shape) / 64
        case "endless":  # around the limit of how far a search follows flow
            return rng.choice([-1, 1], shape) * rng.integers(2**23, 2**24, shape) * 2.0 ** rng.integers(5, 99, shape)
        case "nan":
            found = _coordinates(rng, "wild", shape)
            return np.where(rng.random(shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf], shape), found)
    raise KeyError(kind)


def row(
    name,
    size=(1, 3, 3, 5, 7),
    *,
    heads=1,
    flow=None,
    flow_heads=1,
    offsets="whole",
    kept=3,
    values="normal",
    weighted=True,
    scale=1,
    letters=(),
    **options,
):
    others = weighted, scale, options, dict(letters)
    return Case(name, size, heads, flow, flow_heads, offsets, kept, values, *others)


def example(op: Op) -> Case:
    """The example of an op, at fractional places, as a row."""
    options, letters = dict(op.example.options), op.example_sizes()
    size, heads = tuple(letters[x] for x in "BTCHW"), options.pop("heads", letters["G"])
    given = {"flow": "wild", "offsets": "wild", "kept": letters["K"], "letters": op.example.sizes}
    return Case(f"{op.name}: example", size, heads, options=options, **given)


_SEARCH = [
    row("search: plain", window=3, patch=3, topk=4),
    row("search: one pixel", (1, 1, 1, 1, 1), window=1, radius=0, topk=1),
    row("search: one pixel, larger window", (1, 1, 2, 1, 1), window=3, patch=3, radius=0, topk=4),
    row("search: one row", (1, 3, 2, 1, 9), window=3, patch=3, topk=5, flow="wild"),
    row("search: one column", (1, 3, 2, 9, 1), window=3, patch=2, topk=5, flow="wild"),
    row("search: one frame", (1, 1, 3, 7, 9), window=5, radius=0, topk=7),
    row("search: two rows", (1, 3, 1, 2, 11), window=5, topk=3, flow="wild"),
    row("search: batch", (2, 3, 2, 5, 6), window=3, topk=4, flow="wild"),
    row("search: clip longer than it looks", (1, 6, 2, 4, 5), window=3, topk=4, flow="wild"),
    row("search: two frames each way", (1, 6, 2, 4, 5), window=2, radius=2, topk=6, flow="wild"),
    row("search: as many channels as a vector", (1, 3, 16, 5, 4), window=3, topk=4),
    row("search: more channels than a vector", (1, 3, 33, 4, 5), window=3, patch=2, topk=4, flow="smooth"),
    row("search: five channels", (1, 3, 5, 4, 5), window=3, patch=3, topk=4, flow="whole"),
    row("search: two heads", (1, 3, 6, 4, 5), heads=2, window=3, topk=4, flow="wild"),
    row("search: three heads of one channel", (1, 3, 3, 5, 4), heads=3, window=3, patch=3, topk=3),
    row("search: flow per head", (1, 3, 4, 5, 6), heads=2, flow="wild", flow_heads=2, window=3, topk=4),
    row(
        "search: fractional flow per head",
        (2, 3, 4, 4, 5),
        heads=2,
        flow="wild",
        flow_heads=2,
        window=3,
        topk=4,
        subpixel=True,
    ),
    row("search: even window", window=4, topk=5, flow="wild"),
    row("search: even window, before", window=(4, 2), even="before", patch=2, topk=5, flow="wild", slide=False),
    row("search: window of one row", window=(1, 6), patch=3, topk=4, flow="wild"),
    row("search: window of one column, stays", window=(5, 1), slide=False, topk=6, anchor="self", flow="wild"),
    row("search: tall window, penalty, zeros", window=(5, 2), topk=4, penalty=0.5, border="zeros", flow="wild"),
    row("search: wide window, half steps", window=(2, 5), topk=4, step=0.5, subpixel=True, patch=2, flow="wild"),
    row("search: wide window, all per frame", window=(2, 3), topk=None, skip="self", per_frame=True, flow="whole"),
    row("search: window of one", window=1, topk=3, flow="wild", patch=3),
    row("search: large window", (1, 1, 2, 19, 23), window=17, radius=0, topk=10),
    row("search: large window, many kept", (1, 3, 1, 6, 20), window=11, topk=40, flow="wild"),
    row(
        "search: more kept than a warp has registers for",
        (1, 1, 1, 18, 7),
        window=17,
        radius=0,
        topk=130,
        values="whole",
    ),
    row(
        "search: more kept per frame than a warp has registers for",
        (1, 3, 1, 3, 4),
        window=12,
        topk=130,
        per_frame=True,
        values="whole",
    ),
    row("search: window larger than the frame", (1, 3, 2, 4, 5), window=9, topk=12, flow="whole"),
    row("search: all candidates", window=3, topk=None, flow="wild"),
    row("search: all candidates, infinite ones too", window=3, topk=None, flow="wild", slide=False, metric="dot"),
    row("search: as many as there are", window=3, topk=27, flow="wild"),
    row("search: the best one", window=5, topk=1, patch=2),
    *(row(f"search: patch {p}", (1, 1, 2, 8, 9), window=3, radius=0, patch=p, topk=4) for p in (2, 4, 7, 10)),
    row("search: patch 10 in a wide frame", (1, 1, 1, 4, 22), window=2, radius=0, patch=10, topk=3),
    row("search: patch 7 along smooth flow", (1, 3, 2, 8, 9), window=2, patch=7, topk=3, flow="smooth"),
    row("search: patch 7 along wild flow", (1, 3, 1, 7, 8), window=2, patch=7, topk=3, flow="wild"),
    row("search: patch larger than the frame", (1, 1, 2, 3, 4), window=3, radius=0, patch=10, topk=4),
    *(row(f"search: stride {s}", (1, 3, 2, 7, 9), window=3, patch=3, stride=s, topk=4, flow="wild") for s in (2, 3, 4)),
    row("search: stride larger than the frame", (1, 3, 2, 3, 4), window=3, stride=9, topk=4, flow="wild"),
    row("search: step 2", (1, 3, 2, 9, 11), window=4, step=2, topk=4, flow="wild"),
    row("search: step larger than the frame", (1, 1, 2, 4, 5), window=3, radius=0, step=50, topk=9),
    row("search: dilation 2", (1, 3, 2, 7, 8), window=3, patch=3, dilation=2, topk=4, flow="wild"),
    row("search: dilation 3, even patch", (1, 1, 2, 5, 6), window=3, radius=0, patch=4, dilation=3, topk=4),
    row("search: dot", window=3, patch=3, metric="dot", topk=4, flow="wild"),
    row("search: dot, patch 7", (1, 3, 3, 7, 6), window=2, patch=7, metric="dot", topk=4, flow="smooth"),
    row("search: zeros", window=3, patch=3, border="zeros", topk=4, flow="wild"),
    row("search: zeros and dot, far away", window=3, patch=2, border="zeros", metric="dot", topk=4, flow="far"),
    row("search: window stays", window=3, slide=False, topk=6, flow="wild"),
    row("search: window stays, dot, stride 2", (1, 3, 3, 6, 7), window=4, slide=False, topk=6, metric="dot", stride=2),
    row("search: penalty", window=5, penalty=0.5, topk=4, flow="wild"),
    row(
        "search: penalty of more digits than a single has",
        (1, 1, 1, 9, 9),
        window=5,
        radius=0,
        slide=False,
        topk=20,
        values="whole",
        penalty=1.8000001274049282,
    ),
    row("search: penalty on dot", window=3, penalty=0.25, topk=4, flow="wild", metric="dot", patch=2),
    row(
        "search: penalty on half steps",
        window=4,
        even="before",
        penalty=2,
        topk=4,
        flow="wild",
        subpixel=True,
        step=0.5,
    ),
    row("search: penalty on steps of 2", (1, 3, 2, 7, 8), window=3, penalty=0.2, topk=4, flow="whole", step=2),
    row("search: anchor self", window=3, anchor="self", topk=4, patch=2),
    row("search: anchor self in a strange video", window=3, anchor="self", topk=None, flow="wild"),
    row("search: anchor self per frame", window=3, anchor="self", per_frame=True, topk=2, flow="wild"),
    row("search: anchor flow", window=3, anchor="flow", topk=2, flow="wild"),
    row("search: anchor flow of all", window=3, anchor="flow", topk=None, flow="wild", metric="dot"),
    row("search: skip self", window=3, skip="self", topk=4),
    row("search: skip self, all", window=3, skip="self", topk=None, flow="wild"),
    row("search: skip self per frame", window=3, skip="self", topk=8, per_frame=True),
    row("search: skip own frame", window=3, skip="own_frame", topk=4, flow="wild"),
    row("search: skip own frame, anchored", window=3, skip="own_frame", anchor="flow", topk=2, flow="wild"),
    row("search: per frame", window=3, per_frame=True, topk=3, flow="wild", patch=3),
    row("search: subpixel", window=3, patch=3, subpixel=True, topk=4, flow="wild"),
    row("search: subpixel without flow", window=3, subpixel=True, topk=4),
    row(
        "search: subpixel along smooth flow", (1, 3, 2, 9, 10), window=5, patch=5, subpixel=True, topk=4, flow="smooth"
    ),
    row("search: subpixel dot", window=3, patch=2, subpixel=True, topk=4, flow="wild", metric="dot"),
    row("search: half steps", window=5, step=0.5, subpixel=True, topk=4, flow="wild"),
    row("search: odd steps", (1, 3, 2, 6, 7), window=4, step=1.3, subpixel=True, topk=4, flow="wild", patch=3),
    row("search: subpixel zeros", window=3, patch=3, subpixel=True, topk=4, flow="wild", border="zeros"),
    row("search: subpixel far away", window=3, subpixel=True, topk=4, flow="astray"),
    row(
        "search: subpixel, window stays, penalty",
        window=3,
        subpixel=True,
        slide=False,
        penalty=0.1,
        topk=9,
        flow="wild",
    ),
    row(
        "search: subpixel, dilation, stride, heads",
        (1, 3, 4, 7, 6),
        heads=2,
        window=3,
        patch=2,
        dilation=2,
        stride=2,
        subpixel=True,
        topk=4,
        flow="wild",
    ),
    row("search: flow far outside", window=3, topk=4, flow="far"),
    row("search: flow farther than it is followed", (1, 3, 2, 6, 7), window=3, topk=4, flow="endless"),
    row(
        "search: fractional flow farther than it is followed",
        (1, 3, 2, 6, 7),
        window=3,
        topk=4,
        flow="endless",
        subpixel=True,
    ),
    row(
        "search: flow farther than it is followed, zeros",
        (1, 3, 2, 6, 7),
        window=3,
        topk=4,
        flow="endless",
        border="zeros",
    ),
    row("search: flow not finite", window=3, topk=4, flow="nan", patch=2),
    row("search: fractional flow not finite", window=3, topk=4, flow="nan", subpixel=True),
    row("search: flow of halves", window=3, topk=4, flow="halves"),
    row("search: ties", (1, 3, 1, 6, 7), window=3, patch=2, topk=20, flow="whole", values="whole"),
    row("search: ties of dot", (1, 3, 2, 6, 7), window=5, topk=12, flow="whole", values="whole", metric="dot"),
    row("search: ties of patch 7", (1, 3, 1, 7, 9), window=2, patch=7, topk=12, flow="whole", values="whole"),
    row("search: fractional ties", (1, 3, 2, 6, 5), window=3, topk=20, flow="quarters", values="whole", subpixel=True),
    row("search: constant", window=3, patch=3, topk=11, flow="wild", values="constant"),
    row(
        "search: constant, dot, per frame",
        window=4,
        topk=5,
        flow="wild",
        values="constant",
        metric="dot",
        per_frame=True,
    ),
    row("search: constant, window stays", window=3, topk=15, flow="wild", values="constant", slide=False),
    row("search: values that are not numbers", (1, 3, 2, 6, 7), window=3, topk=20, values="nan"),
]

_MATCH = [
    row("match: plain", (1, 1, 3, 7, 9), window=5, topk=4),
    row("match: one pixel", (1, 1, 1, 1, 1), window=1, topk=1),
    row(
        "match: all options",
        (2, 1, 4, 6, 7),
        heads=2,
        flow="wild",
        flow_heads=2,
        window=(4, 3),
        even="before",
        patch=3,
        topk=4,
        stride=2,
        step=2,
        dilation=2,
        metric="dot",
        slide=False,
        penalty=0.2,
        anchor="flow",
    ),
    row("match: subpixel", (1, 1, 3, 6, 7), flow="wild", window=3, patch=3, topk=4, subpixel=True),
    row("match: shared flow", (2, 1, 4, 5, 6), heads=2, flow="wild", window=3, topk=4, subpixel=True, step=0.5),
    row("match: zeros", (1, 1, 3, 6, 7), flow="wild", window=3, patch=3, topk=4, border="zeros"),
    row("match: queries at twice the resolution", (1, 1, 3, 5, 6), scale=2, window=3, patch=3, topk=4, flow="wild"),
    row(
        "match: fine queries, subpixel, stride",
        (1, 1, 2, 6, 5),
        scale=3,
        window=3,
        patch=2,
        topk=4,
        flow="wild",
        stride=2,
        subpixel=True,
        border="zeros",
    ),
    row("match: skip self", (1, 1, 2, 5, 6), window=3, skip="self", topk=9),
    row("match: all candidates per frame", (1, 1, 2, 5, 6), window=3, per_frame=True, topk=None),
]

_REFINE = [
    row("refine: plain", window=3, patch=3, topk=4),
    row("refine: one pixel", (1, 1, 1, 1, 1), window=1, topk=None),
    row("refine: keeps its seeds", window=1, patch=2, topk=None),
    row("refine: fractional seeds", window=3, offsets="wild", topk=5, subpixel=True),
    row("refine: half steps", window=3, offsets="wild", topk=5, subpixel=True, step=0.5, patch=2),
    row("refine: rounds fractional seeds", window=3, offsets="halves", topk=5),
    row("refine: seeds far outside", window=3, offsets="far", topk=5),
    row("refine: fractional seeds far outside, dot", window=3, offsets="astray", topk=5, subpixel=True, metric="dot"),
    row("refine: seeds farther than they are followed", (1, 3, 2, 6, 7), window=3, offsets="endless", topk=5),
    row("refine: seeds not finite", window=3, offsets="nan", topk=5, subpixel=True),
    row("refine: per seed", window=3, offsets="wild", topk=2, per_frame=True),
    row("refine: anchor flow", window=3, offsets="wild", topk=2, anchor="flow", slide=False),
    row("refine: anchor self", window=5, topk=4, anchor="self"),
    row("refine: skip self", window=5, topk=4, skip="self"),
    row(
        "refine: heads, stride, batch",
        (2, 3, 4, 5, 7),
        heads=2,
        window=(2, 3),
        even="before",
        stride=2,
        topk=3,
        penalty=0.3,
    ),
    row(
        "refine: zeros and dot", window=3, offsets="wild", topk=4, border="zeros", metric="dot", subpixel=True, patch=3
    ),
    row("refine: ties", (1, 3, 1, 5, 6), window=3, topk=15, values="whole"),
]

_GIVEN = [  # ops at given offsets, all with the same options
    row("plain", patch=3),
    row("one pixel", (1, 1, 1, 1, 1), kept=1),
    row("one pixel of a patch", (1, 1, 2, 1, 1), patch=3, offsets="wild"),
    row("batch, heads, many channels", (2, 3, 16, 4, 5), heads=2, kept=2),
    row("odd channels", (1, 2, 33, 3, 5), kept=2, offsets="wild"),
    row("fraction", patch=3, offsets="wild"),
    row("fraction, heads", (1, 2, 6, 5, 4), heads=3, offsets="wild"),
    row("stride 2", (1, 2, 3, 6, 7), patch=3, stride=2),
    row("stride 3, fraction", (1, 2, 3, 7, 8), patch=2, stride=3, offsets="wild"),
    row("stride 4", (1, 2, 3, 9, 7), patch=4, stride=4, dilation=2),
    row("dilation", (1, 2, 2, 7, 6), patch=3, dilation=2, offsets="wild"),
    row("zeros", patch=3, border="zeros"),
    row("zeros, fraction", patch=3, border="zeros", offsets="wild"),
    row("far outside", patch=2, offsets="far"),
    row("astray", patch=2, offsets="astray"),
    row("astray, zeros", patch=2, offsets="astray", border="zeros"),
    row("not finite", offsets="nan"),
    row("patch 7", (1, 1, 2, 8, 9), patch=7, kept=2),
]


def _at_given(op: str, *rows: Case) -> list[Case]:
    return [Case(**{**vars(row), "name": f"{op}: {row.name}"}) for row in rows]


_FROM_OTHERS = [  # offsets into clips of more or fewer frames
    row("score: another clip", (1, 2, 3, 5, 7), patch=3, letters={"kT": 4}),
    row("score: a frame, fraction", (1, 3, 3, 5, 7), patch=3, offsets="wild", letters={"kT": 1}),
    row("aggregate: another clip", (2, 3, 4, 5, 6), patch=3, letters={"vT": 2}),
    row("aggregate: another clip, fraction", (1, 1, 3, 5, 7), patch=3, offsets="wild", letters={"vT": 4}),
    row("stack: another clip", (1, 1, 3, 5, 7), patch=3, letters={"vT": 3}),
    row("gather: another clip", (1, 2, 3, 5, 7), patch=3, letters={"vT": 4}),
    row("refine: another clip", (1, 2, 3, 5, 7), window=3, patch=3, topk=4, letters={"kT": 4}),
    row(
        "refine: a frame, half steps",
        window=3,
        offsets="wild",
        topk=5,
        subpixel=True,
        step=0.5,
        patch=2,
        letters={"kT": 1},
    ),
]

_OTHERS = [
    *_at_given("score", *_GIVEN),
    row("score: dot", metric="dot", patch=3),
    row("score: dot, zeros, fraction", metric="dot", border="zeros", offsets="wild", patch=2),
    row("score: heads, dot, fraction", (1, 2, 4, 5, 4), heads=2, metric="dot", offsets="wild", patch=2),
    *_at_given("aggregate", *_GIVEN),
    *_at_given("scatter", *_GIVEN),
    row(
        "scatter: patches that reach farther up than down",
        (1, 3, 1, 12, 2),
        patch=4,
        dilation=2,
        offsets="zero",
        kept=1,
    ),
    *_at_given("stack", _GIVEN[0], _GIVEN[3], _GIVEN[5], _GIVEN[8], _GIVEN[12]),
    row("stack: without weights", weighted=False, patch=3, offsets="wild"),
    *_at_given("gather", *_GIVEN),
    row("aggregate: rounds", values="wide", offsets="quarters", kept=2),
    row("scatter: rounds", values="wide", offsets="quarters", kept=2),
    row("stack: rounds", values="wide", offsets="quarters", kept=2),
    row("gather: rounds", values="wide", offsets="quarters", patch=2),
    row("fold: rounds", values="wide", offsets="quarters", weighted=False),
    row("gather: some rows", patch=3, queries=slice(1, 4), offsets="wild"),
    *_at_given("fold", *_GIVEN),
    row("fold: patches that reach farther up than down", (1, 3, 1, 12, 2), patch=4, dilation=2, offsets="zero", kept=1),
    row("fold: without weights", weighted=False, patch=3, offsets="wild"),
    row("fold: some queries", patch=3, stride=2, queries=(slice(1, 3), slice(0, 2), slice(2, 4)), offsets="wild"),
    row("chain_flow: plain", (1, 3, 1, 5, 7), flow="wild", radius=1),
    row("chain_flow: two frames each way", (2, 6, 1, 4, 5), flow="wild", radius=2),
    row("chain_flow: stride 3", (1, 5, 1, 7, 8), flow="wild", radius=2, stride=3),
    row("chain_flow: one pixel", (1, 3, 1, 1, 1), flow="wild", radius=1),
    row("chain_flow: no neighbour", (1, 2, 1, 4, 3), flow="wild", radius=0),
    row("chain_flow: whole", (1, 5, 1, 5, 6), flow="whole", radius=2),
    row("chain_flow: far outside", (1, 5, 1, 5, 6), flow="astray", radius=2),
    row("chain_flow: not finite", (1, 5, 1, 5, 6), flow="nan", radius=2),
]

_ATTEND = [
    row("attend: plain", window=3, topk=None, weighted=False),
    row("attend: more than are in memory at a time", (1, 1, 2, 6, 5), window=5, radius=0, topk=None),
    row("attend: one pixel", (1, 1, 1, 1, 1), window=1, radius=0, topk=None),
    row("attend: patches, flow", window=3, patch=3, topk=None, flow="wild"),
    row("attend: dot, zeros", window=3, metric="dot", border="zeros", flow="wild", subpixel=True, topk=None),
    row("attend: heads", (2, 3, 4, 4, 5), heads=2, flow="wild", flow_heads=2, window=3, topk=None, subpixel=True),
    row("attend: stride, dilation, step", (1, 3, 2, 6, 7), window=2, patch=2, stride=2, dilation=2, step=2, topk=None),
    row(
        "attend: window stays",
        window=(2, 3),
        even="before",
        step=0.5,
        slide=False,
        flow="wild",
        subpixel=True,
        topk=None,
    ),
    row("attend: window is larger than the frame", (1, 1, 2, 2, 3), window=4, radius=0, topk=None, patch=2),
    row("attend: skip self", window=3, skip="self", topk=None, stride=3),
    row("attend: skip own frame", window=2, skip="own_frame", flow="far", topk=None),
    row("attend: flow not finite", window=2, flow="nan", topk=None, subpixel=True),
    row("attend: values that are not numbers", window=3, topk=None, values="nan"),
    row(
        "attend: pixels, heads, dot",
        (2, 3, 4, 5, 6),
        heads=2,
        window=(3, 2),
        metric="dot",
        flow="wild",
        flow_heads=2,
        topk=None,
    ),
    row(
        "attend: pixels outside",
        window=4,
        even="before",
        border="zeros",
        slide=False,
        flow="far",
        step=2,
        topk=None,
        skip="self",
    ),
    row("attend: pixels, many channels", (1, 1, 70, 4, 5), window=2, radius=0, topk=None, stride=2),
    row(
        "attend: pixels that are not numbers",
        (1, 1, 3, 5, 6),
        window=3,
        radius=0,
        border="zeros",
        topk=None,
        values="nan",
    ),
    row("attend: pixels, more rectangles than a crowd", (1, 1, 1, 34, 42), window=3, radius=0, topk=None),
    row("attend: a few", window=3, patch=3, topk=4, flow="wild", subpixel=True),
    row("attend: a few whole ones, dot", (2, 3, 4, 4, 5), heads=2, window=3, topk=3, metric="dot", flow="wild"),
    row(
        "attend: best pixels, outside",
        (1, 3, 5, 5, 6),
        window=4,
        border="zeros",
        slide=False,
        flow="far",
        step=2,
        topk=9,
    ),
    row(
        "attend: best pixels, a grid",
        (2, 3, 4, 7, 9),
        heads=2,
        flow="wild",
        flow_heads=2,
        window=(2, 4),
        even="before",
        topk=5,
        stride=2,
        skip="self",
        step=2,
    ),
    row("attend: best pixels, many channels", (1, 1, 18, 6, 7), window=3, radius=0, topk=3, skip="self"),
    row("attend: best pixels that are not numbers", (1, 1, 3, 5, 6), window=3, radius=0, topk=9, values="nan"),
    row("attend: best pixels by rank", window=3, topk=2, penalty=0.3, anchor="flow", per_frame=True, flow="wild"),
    row("attend: best fractions", (1, 3, 4, 5, 6), heads=2, window=3, topk=4, flow="wild", subpixel=True, metric="dot"),
    row("attend: many fractions, zeros", (1, 1, 2, 5, 6), window=7, radius=0, topk=40, border="zeros", subpixel=True),
    row("attend: pixels that are asked for", window=3, topk=2, return_attention=True, flow="wild", skip="self"),
    row("attend: all that is asked for", window=2, topk=None, return_attention=True, flow="wild", subpixel=True),
]

CASES = [*map(example, OPS.values()), *_SEARCH, *_MATCH, *_REFINE, *_FROM_OTHERS, *_OTHERS, *_ATTEND]
