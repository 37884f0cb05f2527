"""Frames warped onto another frame: flow leads there roughly, a search around it finds the place.

Under noise a search finds what noise makes look alike. Two terms keep it where the flow leads unless it pays, both in
units of what noise of standard deviation sigma does to a comparison of the N = channels * patch**2 values of two
patches:

    1. a candidate o pixels from where the flow leads ranks by its distance + penalty * N * sigma**2 * |o|**2
    2. the best of them is taken if its distance is smaller than that of the flow's own place by 4 * sigma**2 * (2 * N)**0.5,
       which is twice the standard deviation that a distance of equal patches has

Without noise both are 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.search import match
from shiftsearch.video import flow as flows
from shiftsearch.video.chunks import peeked, with_scenes
from shiftsearch.video.frames import DTYPES, check_planes, coarsened, layout, noise_level, planar, restored, watched


@dataclass(frozen=True)
class AlignSpec(Spec):
    window: int = 9
    patch: int = 3
    penalty: float = 0.05
    sigma: float | None = None
    subpixel: bool = True
    output: str = "patch"
    interp: str = "bicubic"
    max_memory: int | str = "1GiB"

    def __post_init__(self):
        self.whole("window", most=1025)
        self.whole("patch", most=129)
        self.real("penalty")
        self.switch("subpixel")
        self.choice("output", "patch", "pixel")
        self.choice("interp", "bilinear", "bicubic")
        self.memory("max_memory")


def align(
    reference, frames, flow="dis", *, window=9, patch=3, penalty=0.05, sigma=None, subpixel=True, output="patch",
    interp="bicubic", return_offsets=False, max_memory="1GiB", progress=None,
):  # fmt: skip
    """Frames warped onto a reference: each pixel shows what the frame has where the reference's pixel went.

    Args:
        reference: a frame (H, W) or (H, W, C), or a clip with one for each of the frames; uint8, uint16 or floats,
            whose white is 1. See `shiftsearch.video.frames`
        frames: a frame, or a clip, each of whose frames is warped
        flow: where to search: "dis" and "farneback" measure flow (with OpenCV, on frames in main memory); None is no
            motion; an array (2, H, W), or (T, 2, H, W) with one for each frame, in pixels, channel 0 = dx, 1 = dy,
            from reference to frame, or a coarser one (2, h, w), as `flow.coarse` gives; or a function of
            (reference, frames) that gives such an array
        window: candidates per side around where the flow leads; 1 warps by the flow alone
        patch: pixels per side that are compared
        penalty: how much noise speaks against leaving the flow, see the module
        sigma: standard deviation of the noise of 255 for whole numbers, of 1 for floats, 0 to trust the frames;
            None estimates it for each pair of frames, see `shiftsearch.video.frames.noise_level`
        subpixel: keeps the fraction of the flow; False searches and shows whole pixels only
        output: "patch" shows the mean of the patches that overlap at a pixel, "pixel" the pixel alone
        interp: "bicubic" or "bilinear", of what is shown; searched is bilinearly
        return_offsets: gives where pixels were found, too
        max_memory: of what is computed at a time beside the frames: a number of bytes, or text such as "500MB". Larger
            frames are done in tiles. The result does not depend on it
        progress: shows how far it is: a function such as tqdm, called with what to iterate over and `total`

    Returns:
        the frames as they came, warped; with `return_offsets` also a flow to the places that were found, float32
        (2, H, W) for one frame, (T, 2, H, W) for a clip

    Example:
        >>> rng = np.random.default_rng(0)
        >>> still = (200 * rng.random((12, 16, 3))).repeat(5, 0).repeat(5, 1).astype(np.uint8)
        >>> clip = np.stack([np.roll(still, (2 * t, -t), (0, 1)) for t in range(4)])
        >>> aligned = align(clip[0], clip, flow=None, window=13)
        >>> aligned.shape, aligned.dtype
        ((4, 60, 80, 3), dtype('uint8'))
        >>> bool((aligned == still)[:, 10:-10, 10:-10].all())
        True
    """
    spec = _spec(
        "align", frames, sigma, window=window, patch=patch, penalty=penalty, subpixel=subpixel, output=output,
        interp=interp, max_memory=max_memory,
    )  # fmt: skip
    of_reference, of_frames = _lengths(spec, reference, frames)
    if None not in (of_reference, of_frames) and of_reference != of_frames:
        raise ShiftsearchError(f"align: reference has {of_reference} frames, expected 1, or {of_frames} as frames has")
    if of_reference is None and of_frames is None:
        found = _pair(spec, reference, frames, _flow_at(spec, flow, 0, None))
        return found if return_offsets else found[0]
    count = of_frames or of_reference
    pairs = (
        (reference if of_reference is None else reference[t], frames if of_frames is None else frames[t])
        for t in range(count)
    )
    numbered = enumerate(watched("align", progress, pairs, count))
    found = [_pair(spec, *pair, _flow_at(spec, flow, t, count)) for t, pair in numbered]
    return _stacked(spec, found, return_offsets)


def align_clip(frames, to="previous", flow="dis", *, return_offsets=False, progress=None, **options):
    """Each frame of a clip warped onto the one before it, the one after it, or onto one frame of the clip.

    With "previous" and "next", a frame that has none in its scene stays as it is: see `scene_cuts`.

    Args:
        frames: a clip, (T, H, W) or (T, H, W, C)
        to: "previous", "next" or the number of a frame
        flow: as in `align`; an array has a flow for each frame, which leads to it from the frame that it is warped onto
        return_offsets, progress: as in `align`
        options: as in `align`

    Returns:
        as `align`

    Example:
        >>> still = np.random.default_rng(0).random((12, 16)).repeat(5, 0).repeat(5, 1)
        >>> clip = np.stack([np.roll(still, 3 * t, 1) for t in range(3)])
        >>> steady = align_clip(clip, to=0, flow=None, window=13, sigma=0)
        >>> bool(np.abs(steady - still)[:, :, 10:-20].max() < 1e-6)
        True
    """
    spec = _spec("align_clip", frames, **options)
    whole = isinstance(to, (int, np.integer)) and not isinstance(to, bool)
    if not whole and not (isinstance(to, str) and to in ("previous", "next")):
        raise ShiftsearchError(f'align_clip: to is {to!r}, expected "previous", "next" or the number of a frame')
    count, _ = _lengths(spec, frames, frames)
    if count is None:
        raise ShiftsearchError(
            f"align_clip: frames has shape {tuple(frames.shape)}, expected (T, H, W) or (T, H, W, C)"
        )
    if whole:
        if not -count <= to < count:
            raise ShiftsearchError(f"align_clip: to is {to}, expected the number of one of the {count} frames")
        onto = [None if t == to % count else to % count for t in range(count)]
    else:
        begins = [begins for _, begins in with_scenes("align_clip", frames)]
        before = [None if begins[t] else t - 1 for t in range(count)]
        after = [None if t + 1 == count or begins[t + 1] else t + 1 for t in range(count)]
        onto = before if to == "previous" else after
    found = [
        _pair(spec, None if r is None else frames[r], frames[t], _flow_at(spec, flow, t, count))
        for t, r in enumerate(watched("align_clip", progress, onto, count))
    ]
    return _stacked(spec, found, return_offsets)


def align_stream(frames: Iterable, to="previous", flow="dis", *, return_offsets=False, **options) -> Iterator:
    """`align_clip` of any iterable of frames, of any length: two frames are kept at a time.

    Args:
        frames: frames (H, W) or (H, W, C), all of one kind, each an array of its own
        to: "previous" or "next"
        flow: "dis", "farneback", None or a function, as in `align`
        return_offsets: as in `align`, and then (frame, offsets) are given
        options: as in `align`

    Returns:
        iterator over the frames, warped: the same bits that `align_clip` gives

    Example:
        >>> clip = np.random.default_rng(0).random((5, 12, 16)).repeat(4, 1).repeat(4, 2)
        >>> sum(1 for frame in align_stream(iter(clip), flow=None))
        5
    """
    if not (isinstance(to, str) and to in ("previous", "next")):
        raise ShiftsearchError(f'align_stream: to is {to!r}, expected "previous" or "next"')
    if not _is_method("align_stream", flow):
        raise ShiftsearchError(
            f'align_stream: flow is a {type(flow).__qualname__}, expected "dis", "farneback", None or a function'
        )
    _spec("align_stream", None, **options)  # options that do not fit are told here, not at the first frame

    def pair(reference, frame):
        found = _pair(_spec("align_stream", frame, **options), reference, frame, flow)
        return found if return_offsets else found[0]

    return _streamed(pair, with_scenes("align_stream", frames), to)


def align_planes(frames: Iterable, to="previous", flow="dis", **options) -> Iterator[tuple]:
    """`align_stream` for frames of planes that may have sizes of their own, as those of YUV.

    The first is searched, and the others go where it went.

    Args:
        frames: an iterator over tuples of planes (H, W) as in `denoise_planes`, or of one frame each as in `align`
        to: "previous", "next", or a tuple that all frames are warped onto
        flow, options: as in `align_stream`

    Returns:
        iterator over tuples of warped arrays, in order

    Example:
        >>> planes = np.full((48, 64), 100, np.uint8), np.full((24, 32), 50, np.uint8), np.full((24, 32), 60, np.uint8)
        >>> [[int(plane[0, 0]) for plane in frame] for frame in align_planes([planes, planes], flow=None)]
        [[100, 50, 60], [100, 50, 60]]
    """
    _spec("align_planes", None, **options)
    first, frames = peeked("align_planes", frames)
    if first is None:
        return iter(())
    frames = check_planes("align_planes", frames, first)

    def pair(reference, frame):
        spec = _spec("align_planes", frame[0], **options)
        reference = (None,) * len(frame) if reference is None else reference
        moved, offsets = _pair(spec, reference[0], frame[0], flow)
        follow = _spec("align_planes", frame[0], **{**options, "window": 1, "sigma": 0})
        others = zip(reference[1:], frame[1:], strict=True)
        return (moved, *(_pair(follow, r, plane, _coarser(offsets, plane.shape))[0] for r, plane in others))

    if not isinstance(to, str):
        return (pair(to, frame) for frame in frames)
    return _streamed(pair, with_scenes("align_planes", frames, lambda frame: frame[0]), to)


def _coarser(offsets, size):
    """Offsets (2, H, W) as a plane of this size has them, in its own pixels."""

    def natively(xp, offsets):
        found, factors = coarsened(xp, offsets, size)
        return found / xp.asarray(factors[::-1], "float32")[:, None, None]

    return transform("align_planes", natively, flow=offsets)


def _streamed(pair, frames, to) -> Iterator:
    before = None
    for frame, begins in frames:
        if to == "previous":
            yield pair(None if begins else before, frame)
        elif before is not None:
            yield pair(None if begins else frame, before)
        before = frame
    if to == "next" and before is not None:
        yield pair(None, before)


# --- arguments --------------------------------------------------------------------------------------
def _spec(op: str, frames, sigma=None, **options) -> AlignSpec:
    known = [field.name for field in fields(AlignSpec)][1:]
    for name in options:
        if name not in known:
            raise ShiftsearchError(f"{op}: there is no argument {name!r}, expected one of {', '.join(known)}")
    level = None if sigma is None else flows.noise_scale(op, sigma, frames)
    return AlignSpec(op, sigma=level, **options)


def _lengths(spec, reference, frames) -> list[int | None]:
    """How many frames each is, None if it is one without an axis of time."""
    found = []

    def natively(xp, *arrays):
        for name, array in zip(("frames", "reference"), arrays, strict=True):
            found.append(len(array) if layout(spec.op, name, array.shape)[1] else None)
        return ()

    transform(spec.op, natively, DTYPES, frames=frames, reference=reference)
    return found[::-1]


def _is_method(op: str, flow) -> bool:
    """Whether flow is found for each pair of frames, and not given."""
    if isinstance(flow, str) and flow not in flows.METHODS:
        names = ", ".join(map(repr, flows.METHODS))
        raise ShiftsearchError(f"{op}: flow is {flow!r}, expected one of {names}, None, an array or a function")
    return flow is None or isinstance(flow, str) or callable(flow)


def _flow_at(spec, flow, t: int, count: int | None):
    """What `flow` says of frame t of a clip of `count`, or of the one frame."""
    if _is_method(spec.op, flow):
        return flow

    def natively(xp, array):
        flows.checked(spec.op, "flow", array)
        return ()

    transform(spec.op, natively, ("float16", "float32", "float64"), flow=flow)
    if len(flow.shape) == 3:
        return flow
    if count is None or len(flow) != count:
        expected = "(2, H, W)" if count is None else f"(2, H, W) or ({count}, 2, H, W)"
        raise ShiftsearchError(f"{spec.op}: flow has shape {tuple(flow.shape)}, expected {expected}")
    return flow[t]


def _stacked(spec, found, return_offsets: bool):
    """Frames and offsets of a clip, from those of its frames."""
    each = [
        dict(zip((f"frame {t}" for t in range(len(found))), part, strict=True)) for part in zip(*found, strict=True)
    ]
    frames, offsets = (transform(spec.op, lambda xp, *arrays: xp.stack(arrays), DTYPES, **part) for part in each)
    return (frames, offsets) if return_offsets else frames


# --- a pair of frames -------------------------------------------------------------------------------
def _pair(spec, reference, frame, flow):
    """A frame, (H, W) or (H, W, C), warped onto a reference, or as it is if there is none; and its offsets (2, H, W)."""
    arrays = {"frames": frame}
    if reference is not None:
        arrays["reference"] = reference
        if callable(flow):
            arrays["flow"] = flow(reference, frame)
        elif not (flow is None or isinstance(flow, str)):
            arrays["flow"] = flow

    def natively(xp, frame, reference=None, given=flow):
        target = planar(spec.op, "frames", frame)[0]
        if reference is None:
            return frame.copy(), xp.zeros((2, *target.shape[1:]), "float32")
        wanted = planar(spec.op, "reference", reference)[0]
        if wanted.shape != target.shape:
            raise ShiftsearchError(
                f"{spec.op}: reference has frames of shape {tuple(reference.shape)}, expected {tuple(frame.shape)} as those "
                "of frames"
            )
        common = np.promote_types(wanted.dtype, target.dtype)
        with np.errstate(all="ignore"):  # frames that are not finite
            found, offsets = _aligned(spec, xp, wanted.astype(common), target.astype(common), given)
        return restored(xp, found[None], frame), offsets

    return transform(spec.op, natively, DTYPES, **arrays)


def _aligned(spec, xp, reference, target, flow):
    """(C, H, W) and the offsets (2, H, W) by which it was made of target."""
    level = spec.sigma
    if level is None:
        level = float(np.hypot(noise_level(xp, reference), noise_level(xp, target)) / 2**0.5)
    if isinstance(flow, str):
        flow = flows.measure(spec.op, xp, flow, reference, target, level)
    height, width = target.shape[1:]
    flow = xp.zeros((2, height, width)) if flow is None else _on_grid(spec, xp, flow, (height, width))
    out, offsets = xp.empty_like(target), xp.empty((2, height, width), "float32")
    for keep, box in _tiles(spec, xp, flow, len(target), _Box(0, height, 0, width)):
        found = _aligned_box(spec, xp, reference[box.of], target[box.of], flow[box.of], level)
        for whole, part in zip((out, offsets), found, strict=True):
            whole[keep.of] = part[keep.within(box).of]
    return out, offsets


def _on_grid(spec, xp, flow, size):
    """Flow (2, h, w) for each pixel, in float64: that of the cell it lies in, which keeps edges; 0 if not finite.

    Vectors are rounded to 2**-16 pixels: their sums with pixel numbers are then exact, wherever a tile begins.
    """
    flow = flows.checked(spec.op, "flow", flow)
    (h, w), (H, W) = flow.shape[-2:], size
    if flow.ndim != 3 or h > H or w > W:
        raise ShiftsearchError(f"{spec.op}: flow has shape {tuple(flow.shape)}, expected (2, {H}, {W}) or coarser")
    rows, columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in ((H, h), (W, w)))
    flow = flow.astype("float64")[:, xp.asarray(rows)][:, :, xp.asarray(columns)]
    flow = xp.where(xp.isfinite(flow), flow, 0) * xp.asarray([W / w, H / h])[:, None, None]
    return xp.rint(xp.clip(flow, -_FAR, _FAR) * 2**16) / 2**16


_FAR = 2.0**14  # pixels; a vector longer than a frame leads anywhere


def _aligned_box(spec, xp, reference, target, flow, level: float):
    values = len(reference) * spec.patch**2
    scores, places = match(
        reference, target, flow, window=spec.window, patch=spec.patch, topk=min(2, spec.window**2), anchor="flow",
        subpixel=spec.subpixel, penalty=min(spec.penalty * values * level**2, 1e6),
    )  # fmt: skip
    leaves = scores[0, :, :, -1:] + 4 * level**2 * (2 * values) ** 0.5 < scores[0, :, :, :1]
    offsets = xp.where(leaves, places[0, :, :, -1], places[0, :, :, 0]).astype("float32")  # dy, dx
    return _warped(spec, xp, target, offsets), xp.moveaxis(offsets, -1, 0)[::-1]


def _warped(spec, xp, target, offsets):
    """`aggregate` of one place per pixel: bilinear, or as 16 whole-pixel places with cubic weights."""
    taps = np.arange(-1, 3, dtype=np.int32) if spec.interp == "bicubic" else np.zeros(1, np.int32)
    places = xp.zeros((*offsets.shape[:2], len(taps), len(taps), 3), "int32" if len(taps) > 1 else "float32")
    weights = xp.ones(places.shape[:-1], target.dtype)
    for axis, shape in ((0, (-1, 1)), (1, (1, -1))):
        at, steps = offsets[:, :, axis, None, None], xp.asarray(taps.reshape(shape))
        if spec.interp == "bicubic":
            low = xp.floor(at)
            weights *= _cubic(xp, at - low - steps.astype("float32"))
            at = low.astype("int32")
        places[..., axis + 1] = at + steps
    places, weights = (x.reshape(1, 1, *offsets.shape[:2], len(taps) ** 2, *x.shape[4:]) for x in (places, weights))
    patch = spec.patch if spec.output == "patch" else 1
    return aggregate(target[None], weights, places, patch=patch)[0]


def _cubic(xp, x):
    """Keys' cubic convolution kernel, a = -1/2."""
    x = xp.abs(x)
    return xp.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, xp.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))


# --- tiles ------------------------------------------------------------------------------------------
class _Box(NamedTuple):
    """Rows top to bottom and columns left to right of a frame."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def of(self):
        """Index of these pixels in an array (..., H, W)."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def within(self, box):
        return _Box(self.top - box.top, self.bottom - box.top, self.left - box.left, self.right - box.left)

    def grown(self, by: int, size):
        """With a margin, from and to multiples of the 8 pixels that the search takes at a time, in a frame of `size`."""
        top, left = (max(0, (n - by) // 8 * 8) for n in (self.top, self.left))
        bottom, right = (min(n, -(-(m + by) // 8) * 8) for n, m in zip(size, (self.bottom, self.right), strict=True))
        return _Box(top, bottom, left, right)


_SMALLEST = 64  # pixels per side of a tile; what it reaches is computed, whatever memory that takes


def _tiles(spec, xp, flow, channels: int, keep: _Box) -> Iterator[tuple[_Box, _Box]]:
    """Tiles that make up `keep`, each with the box of all pixels that decide its result.

    The pixels of a tile are means over the patches of queries around; their windows lie where flow leads, and decide what
    is read of target.
    """
    size = flow.shape[-2:]
    queries = keep.grown(spec.patch, size)
    margin = spec.window + spec.patch + 2  # a window may slide by its size; interpolation reads two more
    box = _joined(queries.grown(spec.patch, size), _reached(xp, flow, queries).grown(margin, size))
    each = 4 * (8 * channels + (110 if spec.interp == "bicubic" else 30))  # bytes per pixel, roughly
    tall = keep.bottom - keep.top >= keep.right - keep.left
    first, last = (keep.top, keep.bottom) if tall else (keep.left, keep.right)
    if box.area * each <= spec.max_memory or last - first <= _SMALLEST:
        yield keep, box
        return
    middle = (first + last) // 16 * 8
    halves = (keep._replace(bottom=middle), keep._replace(top=middle)) if tall else (
        keep._replace(right=middle), keep._replace(left=middle)
    )  # fmt: skip
    for half in halves:
        yield from _tiles(spec, xp, flow, channels, half)


def _reached(xp, flow, queries: _Box) -> _Box:
    """The pixels that flow leads these queries to, mirrored into the frame."""
    ends = []
    for axis, n, first, last in ((1, flow.shape[1], *queries[:2]), (0, flow.shape[2], *queries[2:])):
        at = xp.arange(first, last, dtype="float64")
        at = flow[axis][queries.of] + (at[:, None] if axis else at)
        folded = xp.abs(at) % (2 * max(n - 1, 1))
        folded = xp.minimum(folded, 2 * max(n - 1, 1) - folded)
        ends += [int(xp.floor(folded.min())), min(n, int(xp.ceil(folded.max())) + 1)]
    return _Box(*ends)


def _joined(a: _Box, b: _Box) -> _Box:
    return _Box(min(a.top, b.top), max(a.bottom, b.bottom), min(a.left, b.left), max(a.right, b.right))
