"""gather and fold: the patches themselves, and back. What group filters are made of."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from shiftsearch._call import run
from shiftsearch._geometry import Patches, query_grid
from shiftsearch._op import Op, Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.search import check_heads


@dataclass(frozen=True)
class GatherSpec(Spec):
    patch: int = 1
    heads: int = 1
    stride: int = 1
    dilation: int = 1
    border: str = "reflect"
    queries: tuple = ()
    size: tuple = ()

    def __post_init__(self):
        self.whole("patch", most=129)
        self.whole("heads", "stride")
        self.whole("dilation", most=4096)
        self.choice("border", "reflect", "zeros")
        object.__setattr__(self, "queries", self._slices())

    def _slices(self) -> tuple[slice, slice, slice]:
        """`queries` as slices of frames, rows and columns of the query grid."""
        given = self.queries if isinstance(self.queries, tuple) else () if self.queries is None else (self.queries,)
        whole = slice(None)
        full = {0: (whole,) * 3, 1: (whole, *given, whole), 2: (whole, *given), 3: given}.get(len(given))
        expected = "None, a slice of rows, (rows, columns) or (frames, rows, columns), in steps of 1"
        self.check(full is not None and all(map(_in_steps_of_one, full)), "queries", expected)
        return full

    def part(self, grid: tuple[int, int, int]) -> tuple[slice, ...]:
        """`queries` with ends, for a query grid of so many frames, rows and columns."""
        try:
            part = tuple(slice(*s.indices(n)) for s, n in zip(self.queries, grid, strict=True))
        except TypeError:
            part = ()
        self.check(bool(part) and all(s.start < s.stop for s in part), "queries", f"a part of the {grid} queries that is not empty")
        return part

    def patches(self, part) -> Patches:
        origin = tuple(s.start for s in part)
        return Patches(self.patch, self.stride, self.dilation, self.border, origin=origin)


def _in_steps_of_one(part) -> bool:
    return isinstance(part, slice) and (part.step is None or (isinstance(part.step, Integral) and part.step == 1))


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
    spec = GatherSpec("gather", patch, heads, stride, dilation, border, queries)
    return run(GATHER, spec, v=v, offsets=offsets)[0]


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


def _gather_backward(backend, spec, inputs, outputs, grads):
    v, offsets, g = inputs["v"], inputs["offsets"], grads["patches"]
    part = spec.part(offsets.shape[2:5])
    here, p = offsets[(slice(None), slice(None), *part)], spec.patches(part)
    found = {"v": backend.fold(g, None, here, p, size=(v.shape[1], *v.shape[-2:]))}
    if np.issubdtype(offsets.dtype, np.floating):
        found["offsets"] = _whole(backend, backend.fold_slope(v, g, here, p), offsets.shape, part)
    return found


def _whole(backend, values, shape, part):
    """Gradients of a part of the queries as gradients of all."""
    out = backend.xp.zeros(shape, values.dtype)
    out[(slice(None), slice(None), *part)] = values
    return out


GATHER = Op(
    name="gather",
    inputs={"v": "B T C H W", "offsets": "B G T h w K 3"},
    outputs={"patches": "value"},
    values=("v",),
    sizes=_gather_sizes,
    check=_gather_check,
    large=_gather_results,
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
    spec = FoldSpec("fold", _patch_of(patches), 1, stride, dilation, border, queries, size)
    return run(FOLD, spec, patches=patches, offsets=offsets, weights=weights)


def _patch_of(patches) -> int:
    shape = getattr(patches, "shape", ())
    return int(shape[-1]) if len(shape) and shape[-1] else 1


class FoldSpec(GatherSpec):
    def __post_init__(self):
        super().__post_init__()
        try:
            T, H, W = (operator.index(n) for n in self.size if not isinstance(n, bool))
        except (TypeError, ValueError):
            T = H = W = 0
        self.check(min(T, H, W) > 0 and max(T, H, W) < 2**31, "size", "(frames, height, width), each at least 1")
        object.__setattr__(self, "size", (T, H, W))


def _fold_sizes(spec, sizes):
    T, h, w = _grid(spec, *spec.size)
    part = spec.part((T, h, w))
    for letter, s in zip("tyx", part, strict=True):
        if sizes[letter] != s.stop - s.start:
            shape = tuple(sizes[i] for i in "tyx")
            expected = tuple(s.stop - s.start for s in part)
            raise ShiftsearchError(f"fold: patches are of {shape} queries (frames, rows, columns), expected {expected}")
    return {"T": T, "h": h, "w": w}


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


def _fold_backward(backend, spec, inputs, outputs, grads):
    """`fold` is linear in patches and weights: their gradients are `gather`s of the sums' gradient."""
    patches, offsets, weights, xp = inputs["patches"], inputs["offsets"], inputs.get("weights"), backend.xp
    part = spec.part(offsets.shape[2:5])
    here, p = offsets[(slice(None), slice(None), *part)], spec.patches(part)
    c = xp.ones((), patches.dtype) if weights is None else weights[(slice(None), slice(None), *part)][..., None, None, None]
    g, g_cover = grads["sums"], grads.get("coverage")
    read = backend.gather(g, here, p)
    found = {"patches": c * read}
    read_cover = None if g_cover is None else backend.gather(g_cover, here, p)
    if weights is not None:
        by_weight = (patches * read).sum((-1, -2, -3), dtype=np.result_type(read.dtype, np.float32))
        if read_cover is not None:
            by_weight = by_weight + read_cover.sum((-1, -2, -3))
        found["weights"] = _whole(backend, by_weight, weights.shape, part)
    if np.issubdtype(offsets.dtype, np.floating):
        moved = backend.fold_slope(g, (c * patches).astype(g.dtype), here, p)
        if g_cover is not None:
            moved = moved + backend.fold_slope(g_cover, xp.broadcast_to(c.astype(g_cover.dtype), read_cover.shape), here, p)
        found["offsets"] = _whole(backend, moved, offsets.shape, part)
    return found


FOLD = Op(
    name="fold",
    inputs={"patches": "B G t y x K F P P", "offsets": "B G T h w K 3", "weights": "B G T h w K"},
    outputs={"sums": "value", "coverage": "score"},
    values=("patches", "weights"),
    sizes=_fold_sizes,
    optional=("weights",),
    large=lambda spec, sizes: {"sums": (sizes["B"], spec.size[0], sizes["G"] * sizes["F"], *spec.size[1:])},
    forward=_fold_forward,
    backward=_fold_backward,
)
