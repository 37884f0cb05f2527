"""gather and fold: the patches themselves, and back. What group filters are made of."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import Patches, query_grid
from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.score import check_heads


@dataclass(frozen=True)
class GatherSpec(Spec):
    patch: int = 1
    heads: int = 1
    stride: int = 1
    dilation: int = 1
    border: str = "reflect"
    queries: tuple = ()  # first and last + 1 of frames, rows and columns, as `bounds` writes them

    def __post_init__(self):
        self.whole("patch", most=129)
        self.whole("heads", "stride")
        self.whole("dilation", most=4096)
        self.choice("border", "reflect", "zeros")

    def part(self, grid: tuple[int, int, int]) -> tuple[slice, ...]:
        """`queries` in a query grid of so many frames, rows and columns."""
        if not self.queries:
            return tuple(slice(0, n) for n in grid)
        ends = [_inside(end, n) for end, n in zip(self.queries, (n for n in grid for _ in range(2)), strict=True)]
        part = tuple(map(slice, ends[::2], ends[1::2]))
        self.check(all(s.start < s.stop for s in part), "queries", f"a part of the {grid} queries that is not empty")
        return part

    def patches(self, part) -> Patches:
        origin = tuple(s.start for s in part)
        return Patches(self.patch, self.stride, self.dilation, self.border, origin=origin)


_END = 2**62  # a slice that names no end


def bounds(op: str, queries) -> tuple[int, ...]:
    """First and last + 1 of the frames, rows and columns of `queries`, or nothing for all of them."""
    given = queries if isinstance(queries, tuple) else () if queries is None else (queries,)
    if not given:
        return ()
    whole = slice(None)
    full = {1: (whole, *given, whole), 2: (whole, *given), 3: given}.get(len(given), ())
    if not full or not all(isinstance(part, slice) and _in_steps_of_one(part) for part in full):
        expected = "None, a slice of rows, (rows, columns) or (frames, rows, columns), in steps of 1"
        raise ShiftsearchError(f"{op}: queries is {queries!r}, expected {expected}")
    return tuple(
        default if end is None else end
        for part in full
        for end, default in ((part.start, 0), (part.stop, _END))
    )  # fmt: skip


def _in_steps_of_one(part: slice) -> bool:
    ends = all(end is None or isinstance(end, Integral) for end in (part.start, part.stop))
    return ends and (part.step is None or (isinstance(part.step, Integral) and part.step == 1))


def _inside(end: int, n: int) -> int:
    """As slices mean it: negative ones count from the end, and none is outside."""
    if end == _END:
        return n
    end = end + n if end < 0 else end
    return n if end > n else max(end, 0)


def _grid(spec, T, H, W):
    return (T, *query_grid(H, W, spec.stride))


# --- gather ---------------------------------------------------------------------------------------
def gather(v, offsets, *, patch=1, heads=1, stride=1, dilation=1, border="reflect", queries=None):
    """The patches of v at the places that were found, as an array.

    Args:
        v: values (B, T, C, H, W)
        offsets: (B, heads, T, h, w, K, 3), (dt, dy, dx) from query to place; floats sample v bilinearly
        patch, heads, stride, dilation, border: as in `search`
        queries: only this part of the query grid, to bound memory: a slice of rows, (rows, columns) or
            (frames, rows, columns); `offsets` are still those of all queries

    Returns:
        patches (B, heads, T, h, w, K, C / heads, patch, patch), with T, h, w those of the part

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> _, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> gather(video, offsets, patch=3, queries=slice(0, 8)).shape
        (1, 3, 8, 24, 4, 4, 3, 3)
    """
    options = patch, heads, stride, dilation, border, bounds("gather", queries)
    return run(GATHER, options, v=v, offsets=offsets)[0]


def _gather_sizes(spec, sizes):
    h, w = query_grid(sizes["H"], sizes["W"], spec.stride)
    return {"G": spec.heads, "h": h, "w": w}


def _gather_check(spec, sizes):
    check_heads(spec, sizes)
    spec.part((sizes["T"], sizes["h"], sizes["w"]))


def _gather_results(spec, sizes):
    part = [s.stop - s.start for s in spec.part((sizes["T"], sizes["h"], sizes["w"]))]
    return {"patches": (sizes["B"], spec.heads, *part, sizes["K"], sizes["C"] // spec.heads, spec.patch, spec.patch)}


def _gather_forward(backend, spec, v, offsets):
    part = spec.part(offsets.shape[2:5])
    return {"patches": backend.gather(v, offsets[(slice(None), slice(None), *part)], spec.patches(part))}


def _gather_backward(backend, spec, inputs, outputs, grads, wanted):
    v, offsets, g = inputs["v"], inputs["offsets"], grads["patches"]
    part = spec.part(offsets.shape[2:5])
    here, p = offsets[(slice(None), slice(None), *part)], spec.patches(part)
    found = {"v": backend.fold(g, None, here, p, size=(v.shape[1], *v.shape[-2:]))} if "v" in wanted else {}
    if "offsets" in wanted and np.issubdtype(offsets.dtype, np.floating):
        found["offsets"] = _whole(backend, backend.slope(None, v, None, here, p, patches=g), offsets.shape, part)
    return found


def _whole(backend, values, shape, part):
    """Gradients of a part of the queries as gradients of all."""
    out = backend.xp.zeros(shape, values.dtype)
    out[(slice(None), slice(None), *part)] = values
    return out


GATHER = Op(
    name="gather",
    spec=GatherSpec,
    inputs={"v": "B T C H W", "offsets": "B G T h w K 3"},
    outputs={"patches": "value"},
    shapes=_gather_results,
    values=("v",),
    sizes=_gather_sizes,
    check=_gather_check,
    forward=_gather_forward,
    backward=_gather_backward,
)


# --- fold -----------------------------------------------------------------------------------------
def fold(patches, offsets, weights=None, *, size, stride=1, dilation=1, border="reflect", queries=None):
    """Patches added back where they came from: the transpose of `gather`, and how often each pixel was hit.

    sums / coverage is the weighted mean of all patches at each pixel. Parts of the query grid may be
    folded one by one, and the results added.

    Args:
        patches: (B, heads, T, h, w, K, C / heads, patch, patch), with T, h, w those of `queries`
        offsets: (B, heads, T, h, w, K, 3) of all queries
        weights: (B, heads, T, h, w, K) of all queries, or None for 1
        size: (T, H, W) of the video to come
        stride, dilation, border, queries: as in `gather`

    Returns:
        sums (B, T, C, H, W), and coverage (B, T, heads, H, W): the sum of the weights at each pixel

    Example:
        >>> video = np.random.default_rng(0).standard_normal((3, 4, 16, 24), np.float32)
        >>> _, offsets = search(video, video, window=5, patch=3, topk=4)
        >>> sums, coverage = fold(gather(video, offsets, patch=3), offsets, size=(3, 16, 24))
        >>> hit = coverage[:, 0] > 0
        >>> np.allclose((sums / coverage)[:, 0][hit], video[:, 0][hit], atol=1e-5)
        True
    """
    options = _patch_of(patches), 1, stride, dilation, border, bounds("fold", queries), size
    return run(FOLD, options, patches=patches, offsets=offsets, weights=weights)


def _patch_of(patches) -> int:
    shape = getattr(patches, "shape", ())
    return int(shape[-1]) if len(shape) and shape[-1] else 1


@dataclass(frozen=True)
class FoldSpec(GatherSpec):
    size: tuple = ()

    def __post_init__(self):
        super().__post_init__()
        try:
            size = tuple(map(_whole_number, self.size))
        except TypeError:
            size = ()
        self.check(len(size) == 3 and all(n > 0 for n in size), "size", "(frames, height, width), each at least 1")
        object.__setattr__(self, "size", size)


def _whole_number(n):
    """`n` as an int, 0 if it is none. A size that a compiler has not fixed yet stays as it is."""
    if isinstance(n, Integral):
        return int(n) if not isinstance(n, bool) and n < 2**31 else 0
    return n if hasattr(n, "__index__") else 0


def _fold_sizes(spec, sizes):
    T, h, w = _grid(spec, *spec.size)
    part = spec.part((T, h, w))
    for letter, s in zip("tyx", part, strict=True):
        if sizes[letter] != s.stop - s.start:
            shape = tuple(sizes[i] for i in "tyx")
            expected = tuple(s.stop - s.start for s in part)
            raise ShiftsearchError(f"fold: patches are of {shape} queries (frames, rows, columns), expected {expected}")
    return {"T": T, "h": h, "w": w}


def _fold_results(spec, sizes):
    (T, H, W), B, G = spec.size, sizes["B"], sizes["G"]
    return {"sums": (B, T, G * sizes["F"], H, W), "coverage": (B, T, G, H, W)}


def _fold_forward(backend, spec, patches, offsets, weights=None):
    part = spec.part(offsets.shape[2:5])
    here, p = offsets[(slice(None), slice(None), *part)], spec.patches(part)
    c = None if weights is None else weights[(slice(None), slice(None), *part)]
    sums = np.result_type(patches.dtype, np.float32)  # a half counts to 2048 only
    ones = backend.xp.broadcast_to(backend.xp.ones((), sums), (*here.shape[:-1], 1, p.patch, p.patch))
    return {
        "sums": backend.fold(patches, c, here, p, size=spec.size),
        "coverage": backend.fold(ones, c, here, p, size=spec.size),
    }


def _fold_backward(backend, spec, inputs, outputs, grads, wanted):
    """`fold` is linear in patches and weights: their gradients are `gather`s of the sums' gradient."""
    patches, offsets, weights, xp = inputs["patches"], inputs["offsets"], inputs.get("weights"), backend.xp
    part = spec.part(offsets.shape[2:5])
    here, p = offsets[(slice(None), slice(None), *part)], spec.patches(part)
    c = (
        xp.ones((), patches.dtype)
        if weights is None
        else weights[(slice(None), slice(None), *part)][..., None, None, None]
    )
    g, g_cover = grads["sums"], grads.get("coverage")
    read, there = backend.gather(g, here, p), True
    if spec.border == "zeros":
        B, G, (T, H, W) = *offsets.shape[:2], spec.size
        there = backend.gather(xp.ones((B, T, G, H, W), g.dtype), here, p) > 0
    found = {"patches": xp.where(there & (c != 0), c * read, 0)} if "patches" in wanted else {}
    read_cover = None if g_cover is None else backend.gather(g_cover, here, p)
    if "weights" in wanted and weights is not None:
        by_weight = patches * read if there is True else xp.where(there, patches * read, 0)
        by_weight = by_weight.sum((-1, -2, -3), dtype=np.result_type(read.dtype, np.float32))
        if read_cover is not None:
            by_weight = by_weight + read_cover.sum((-1, -2, -3))
        found["weights"] = _whole(backend, by_weight, weights.shape, part)
    if "offsets" in wanted and np.issubdtype(offsets.dtype, np.floating):
        moved = backend.slope(None, g, None, here, p, patches=(c * patches).astype(g.dtype))
        if g_cover is not None:
            ones = xp.broadcast_to(c.astype(g_cover.dtype), read_cover.shape)
            moved = moved + backend.slope(None, g_cover, None, here, p, patches=ones)
        moved = moved if weights is None else xp.where(c[..., 0, 0] == 0, 0, moved)
        found["offsets"] = _whole(backend, moved, offsets.shape, part)
    return found


FOLD = Op(
    name="fold",
    spec=FoldSpec,
    inputs={"patches": "B G t y x K F P P", "offsets": "B G T h w K 3", "weights": "B G T h w K"},
    outputs={"sums": "value", "coverage": "score"},
    shapes=_fold_results,
    values=("patches", "weights"),
    sizes=_fold_sizes,
    optional=("weights",),
    forward=_fold_forward,
    backward=_fold_backward,
)
