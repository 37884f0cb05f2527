"""Denoising without training: groups of patches that are alike are found by search, filtered together, and put back.

A pass goes through the frames in order and holds no more of them than a group may reach: frames come in by `push`, and
go out when no later group can reach them any more. All that is added to a pixel is added in the order of frames and
bands of queries, whose size only depends on the frame's. So a result does not depend on how many frames
follow, on threads, or on memory.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch._geometry import dct, query_grid
from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.gather import fold, gather
from shiftsearch.ops.search import match
from shiftsearch.video import flow as flows
from shiftsearch.video.chunks import iterated, with_scenes
from shiftsearch.video.frames import DTYPES, layout, noise_level, planar, restored, watched


# --- one pass over a scene ------------------------------------------------------------------------
class _Frame:
    """A frame on its way through the passes. Planes are (C, H, W), the first is what is searched."""

    def __init__(self, noisy, alpha, sigma, flow):
        self.noisy, self.alpha, self.sigma, self.flow = noisy, alpha, sigma, flow
        self.guide = None  # what the pass before made of it
        self.searched = noisy[0]  # where patches are compared
        self.forward = self.backward = None  # flow to the next frame and to the one before
        self.ways: dict = {}  # from its queries to other frames, as `_flow_to` found them
        self.sums = self.coverage = self.small = None


@dataclass(frozen=True)
class _Pass:
    """What is searched and how it is filtered."""

    shrink: Callable  # (xp, noisy, guide, sigma) of groups (q, n, pixels) to estimates and weights (q)
    find: Callable  # (xp, frames, here, this) to offsets (n, h, w, 3) of groups of n patches
    window: int
    guided: bool  # whether the guide is filtered with, or only searched in
    worst: float = math.inf  # mean square difference of patches, in variances of noise, of what is not the same thing
    searched: bool = True  # whether the next pass searches in what this one made
    count: int = 0  # patches of a group, if that is not the number of frames
    patch: int = 8
    stride: int = 4
    depth: int = 1  # frames that a patch spans, where they show the same thing at the same place
    beside: _Pass | None = None  # filters other groups of the same frames; what both give is added up


class _Running:
    """A pass in the middle of a scene."""

    def __init__(self, what: _Pass, radius: int, in_order):
        self.what, self.radius, self.in_order = what, radius, in_order
        self.held: dict[int, _Frame] = {}
        self.arrived = self.asked = self.done = 0

    def push(self, xp, frame: _Frame) -> Iterator[_Frame]:
        """Takes the next frame of the scene, gives those that are ready."""
        self.held[self.arrived] = frame
        frame.sums, frame.coverage = xp.zeros_like(frame.noisy), xp.zeros_like(frame.noisy)
        self.arrived += 1
        ahead = 2 * self.radius + 1
        while self.arrived >= ahead and self.asked + self.radius < self.arrived:
            first = max(self.asked - self.radius, 0)
            self._ask(xp, range(first, first + ahead))
        # the last frames of a scene look back 2 * radius frames: those from here on may still be the last
        while self.done + ahead < self.arrived:
            yield self._ready(xp)

    def finish(self, xp) -> Iterator[_Frame]:
        """The scene has ended."""
        ahead = 2 * self.radius + 1
        while self.asked < self.arrived:
            first = max(min(self.asked - self.radius, self.arrived - ahead), 0)
            self._ask(xp, range(first, min(first + ahead, self.arrived)))
        while self.done < self.arrived:
            yield self._ready(xp)

    def _ready(self, xp):
        frame = self.held.pop(self.done)
        self.done += 1
        hit = frame.coverage > 0  # everywhere, unless a pixel is no number
        frame.guide = xp.where(hit, frame.sums / xp.where(hit, frame.coverage, 1), frame.noisy)
        frame.sums = frame.coverage = None
        if self.what.searched:
            frame.searched = frame.guide[0]
        return frame

    def _ask(self, xp, numbers: range):
        """The groups of the next frame of queries, among frames of these numbers."""
        frames, here = [self.held[n] for n in numbers], self.asked - numbers.start
        self.asked += 1
        for what in (self.what, self.what.beside):
            if what is not None and here + what.depth <= len(frames):
                self._add(xp, frames, here, what)

    def _add(self, xp, frames: list[_Frame], here: int, what: _Pass):
        offsets = what.find(xp, frames, here, what)
        offsets = xp.ascontiguousarray(offsets.transpose(1, 2, 0, 3))  # (h, w, n, 3)
        work = partial(_filter_band, xp, frames, here, offsets, _still(xp, frames, here, what), what)
        bands = _bands(xp, offsets, what)
        groups = math.prod(part.stop for part in bands[0])
        each = 24 * groups * offsets.shape[2] * what.depth * what.patch**2 * len(frames[here].noisy)
        with _blas_alone():
            for (top, bottom), sums, coverage in self.in_order(work, bands, each):
                for first, c in enumerate(coverage):
                    for frame, s in zip(frames[first : first + what.depth], sums[first], strict=True):
                        frame.sums[:, top:bottom] += s
                        frame.coverage[:, top:bottom] += c


def _candidates(xp, frames: list[_Frame], here: int, there: list[int], what: _Pass, topk: int):
    """The best `topk` of each frame `there` for each query of frame `here`: scores (n, k, h, w), offsets (n, k, h, w, 3)."""
    own, *keys = (xp.stack([frame.searched for frame in frames[s : s + what.depth]]) for s in [here, *there])
    flow = _flow_to(xp, frames, here, there, query_grid(*own.shape[1:], what.stride), what.stride)
    options = {"window": what.window, "patch": what.patch, "stride": what.stride}
    scores, places = match(xp.broadcast_to(own, (len(keys), *own.shape)), xp.stack(keys), flow, topk=topk, **options)
    offsets = xp.empty((len(keys), topk, *scores.shape[2:4], 3), xp.int32)
    offsets[..., 0] = (xp.asarray(there, xp.int32) - here)[:, None, None, None]
    offsets[..., 1:] = places[:, 0].transpose(0, 3, 1, 2, 4)
    return scores[:, 0].transpose(0, 3, 1, 2), offsets


def _of_each_frame(xp, frames, here, what: _Pass):
    """The best patch of each frame, (n, h, w, 3), the own first.

    Where that is not the same thing, the next best of the own frame takes its place.
    """
    others = [s for s in range(len(frames) - what.depth + 1) if s != here]
    _, (own,) = _candidates(xp, frames, here, [here], what, min(len(frames), what.window**2))
    if not others:
        return own[:1]
    scores, found = _candidates(xp, frames, here, others, what, 1)
    good = scores[:, 0] <= what.worst * what.depth * (frames[here].sigma * what.patch) ** 2
    rank = xp.minimum(xp.cumsum(~good, axis=0), len(own) - 1)
    spare = own[rank, xp.arange(rank.shape[1])[:, None], xp.arange(rank.shape[2])]
    return xp.concatenate([own[:1], xp.where(good[..., None], found[:, 0], spare)])


def _of_all_frames(xp, frames, here, what: _Pass):
    """The best `what.count` patches of all frames, (n, h, w, 3)."""
    each = min(what.count, _EACH, what.window**2)
    scores, offsets = _candidates(xp, frames, here, list(range(len(frames) - what.depth + 1)), what, each)
    scores, offsets = scores.reshape(-1, *scores.shape[2:]), offsets.reshape(-1, *offsets.shape[2:])
    if len(scores) <= what.count:
        return offsets
    best = xp.argpartition(scores, what.count, axis=0)[: what.count]
    return xp.take_along_axis(offsets, best[..., None], axis=0)


def _still(xp, frames, here, what: _Pass):
    """Where the frames that a patch spans show the same thing, (h, w)."""
    own, *later = (frame.searched for frame in frames[here : here + what.depth])
    if not later:
        return xp.ones(query_grid(*own.shape, what.stride), bool)
    later = xp.stack(later)[:, None]
    scores, _ = match(xp.broadcast_to(own, later.shape), later, window=1, patch=what.patch, stride=what.stride, topk=1)
    return (scores <= what.worst * (frames[here].sigma * what.patch) ** 2).all((0, 1, 4))


_EACH = 48  # candidates of a frame among which groups of many are chosen


# --- bands of queries -----------------------------------------------------------------------------
_BAND = {"numpy": 1 << 20, "cupy": 1 << 28}  # pixels of a band's patches: enough to be worth a call
_AT_ONCE = {"numpy": 1280, "cupy": 1 << 22}  # of them filtered at once: what fits the cache, what fills the device


def _bands(xp, offsets, what: _Pass):
    """Rows and columns of queries: a few whole rows, or a part of one."""
    h, w, n = offsets.shape[:3]
    queries = max(1, _BAND[xp.__name__] // (n * what.depth * what.patch**2))
    tall, wide = max(1, queries // w), min(queries, w)
    parts = itertools.product(range(0, h, tall), range(0, w, wide))
    return [(slice(y, min(y + tall, h)), slice(x, min(x + wide, w))) for y, x in parts]


def _filter_band(xp, frames, here, offsets, still, what: _Pass, part: tuple[slice, slice]):
    """Filters the groups of a band: the rows (top, bottom) that it reaches, and what it adds to them.

    These are sums (S, depth, C, bottom - top, W) and coverage (S, C, bottom - top, W) of the S spans of frames.
    """
    spans = [frames[s : s + what.depth] for s in range(len(frames) - what.depth + 1)]
    patch, stride, (channels, H, W), sigma = what.patch, what.stride, frames[here].noisy.shape, frames[here].sigma
    rows, columns = part
    at = xp.arange(rows.start, rows.stop)[:, None, None] * stride + offsets[part][..., 1]
    first = min(rows.start, max(int(at.min()) - patch, 0) // stride)  # row of queries where what is read begins
    top, bottom = first * stride, min(max(int(at.max()), rows.stop * stride) + patch + 1, H)
    band = slice(here, here + 1), slice(rows.start - first, rows.stop - first), columns
    places = offsets[first : first + query_grid(bottom - top, W, stride)[0]]  # of these, those of the band are read
    places = xp.broadcast_to(places, (channels, len(spans), *places.shape))  # the same for each channel
    options = {"stride": stride, "queries": band}

    def groups(name):
        planes = xp.stack([xp.stack([getattr(frame, name)[:, top:bottom] for frame in span], axis=1) for span in spans])
        planes = planes.reshape(len(spans), channels * what.depth, *planes.shape[-2:])
        patches = gather(planes, places, patch=patch, heads=channels, **options)
        return patches.reshape(channels, -1, offsets.shape[2], what.depth * patch * patch), patches.shape

    noisy, shape = groups("noisy")
    guide = groups("guide")[0] if what.guided else noisy
    weights = xp.empty(noisy.shape[:2], noisy.dtype)
    some = max(1, _AT_ONCE[xp.__name__] // noisy.shape[2])
    for n in range(0, noisy.shape[1], some):
        for c in range(channels):
            few = c, slice(n, n + some)
            noisy[few], weights[few] = what.shrink(xp, noisy[few], guide[few], sigma)
    all_weights = xp.zeros((channels, *places.shape[2:4], 1), weights.dtype)
    all_weights[:, band[1], columns] = weights.reshape(channels, *shape[2:4], 1) * still[part][..., None]
    all_weights = xp.broadcast_to(all_weights[:, None], places.shape[:-1])
    size = len(spans), bottom - top, W
    sums, coverage = fold(noisy.reshape(shape), places, all_weights, size=size, **options)
    return (top, bottom), sums.reshape(len(spans), channels, what.depth, *size[1:]).swapaxes(1, 2), coverage


# --- shrinking ------------------------------------------------------------------------------------
@cache
def _bases(xp, n: int, pixels: int):
    """(along, within, their transposes): groups (n, pixels) become along @ (groups @ within)."""
    of_patch = dct(math.isqrt(pixels))
    along, within = dct(n), np.kron(of_patch, of_patch).T
    return [xp.asarray(np.ascontiguousarray(basis)) for basis in (along, within, along.T, within.T)]


def _spectra(xp, groups):
    """Vector code that does the same, or None; it overwrites groups."""
    vectors = importlib.import_module("shiftsearch.backends.cpu.spectra") if xp is np else None  # loads numba
    return vectors if vectors and vectors.covers(groups) else None


def _threshold(xp, noisy, guide, sigma, *, factor):
    """Keeps the frequencies of a group that stand out of the noise."""
    if _spectra(xp, noisy):
        return _spectra(xp, noisy).threshold(noisy, factor * sigma)
    along, within, along_back, within_back = _bases(xp, *noisy.shape[-2:])
    spectrum = along @ (noisy @ within)
    keep = xp.abs(spectrum) > factor * sigma
    keep[..., 0, 0] = True
    spectrum *= keep
    return (along_back @ spectrum) @ within_back, 1 / keep.sum((-2, -1), dtype=np.float32)


def _wiener(xp, noisy, guide, sigma):
    """Weighs each frequency of a group by how much of it is signal, as the guide says."""
    if _spectra(xp, noisy):
        return _spectra(xp, noisy).wiener(noisy, guide, sigma * sigma + 1e-20)
    along, within, along_back, within_back = _bases(xp, *noisy.shape[-2:])
    gain = along @ (guide @ within)
    gain *= gain
    gain /= gain + (sigma * sigma + 1e-20)
    spectrum = along @ (noisy @ within)
    spectrum *= gain
    gain *= gain
    return (along_back @ spectrum) @ within_back, 1 / (1 + gain.sum((-2, -1)))


_ROUNDING = 1e-6  # of a group's largest variance, below which single precision knows no components


def _principal(xp, noisy, guide, sigma, *, least, gain):
    """Projects a group onto its principal components, those of the guide, and weighs each by its variance.

    Non-local Bayes: `gain` of a component's variance, in variances of the noise, if it is at least `least`.
    """
    if sigma == 0:  # all of it is signal, and the smallest components are what rounding made of it
        return noisy, xp.ones(len(noisy), noisy.dtype)
    n, pixels = guide.shape[-2:]
    mean = guide.mean(-2, keepdims=True)
    guide, noisy = guide - mean, noisy - mean
    back = xp.ascontiguousarray(guide.transpose(0, 2, 1))
    if pixels <= n:
        variances, axes = xp.linalg.eigh((back @ guide) * np.float32(1 / n))
    else:  # fewer patches than pixels: the components follow from products of patches with each other
        variances, axes = xp.linalg.eigh((guide @ back) * np.float32(1 / n))
    relative = variances / (sigma * sigma + 1e-20)
    stands_out = (relative >= least) & (variances > _ROUNDING * variances[:, -1:])
    gains = xp.where(stands_out, gain(xp.maximum(relative, least)), 0)
    if pixels <= n:
        shrunk = noisy @ ((axes * gains[:, None]) @ axes.transpose(0, 2, 1))
    else:
        scaled = gains / xp.maximum(n * variances, 1e-20)
        shrunk = (noisy @ back) @ ((axes * scaled[:, None]) @ axes.transpose(0, 2, 1)) @ guide
    return shrunk + mean, 1 / (1 / n + gains.sum(-1) / pixels)  # what is left of a pixel's noise, at any size of patch


@cache
def _blas():
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None


def _blas_alone():
    """Keeps NumPy's BLAS from starting threads beside ours, for which it would wait longer than it computes."""
    return _blas().limit(limits=1, user_api="blas") if _blas() else nullcontext()


class _Threads:
    """Works on bands at once, as many as there are cores, or as memory allows; results come in order."""

    def __init__(self, most: float):
        self.most, self.pool = most, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def in_order(self, work, bands, each: int):
        """`work` of each band, which takes `each` bytes."""
        from shiftsearch.backends.cpu.pool import threads as threads_of_a_call  # loads numba

        threads = threads_of_a_call()
        at_once = min(2 * threads, len(bands), int(self.most // each))
        if at_once < 2 or threads < 2:
            yield from map(work, bands)
            return
        self.pool = self.pool or ThreadPoolExecutor(threads, thread_name_prefix="shiftsearch-denoise")
        pending = deque()
        for band in bands:
            if len(pending) == at_once:
                yield pending.popleft().result()
            pending.append(self.pool.submit(work, band))
        while pending:
            yield pending.popleft().result()


# --- motion ---------------------------------------------------------------------------------------
class _Motion:
    """Gives each frame its flow to the next and to the one before, when both are there."""

    def __init__(self, op: str, method: str | None):
        self.op, self.method, self.before = op, method, None

    def push(self, xp, frame: _Frame) -> Iterator[_Frame]:
        """`frame.flow` is what the caller measured: from the frame before to this one, and back."""
        before, self.before = self.before, frame
        if self.method is not None:
            frame.small = _small(xp, frame)
        if before is not None:
            if self.method is not None:
                frame.flow = [self._between(xp, *pair) for pair in ((before, frame), (frame, before))]
                before.small = None
            before.forward, frame.backward = frame.flow or (None, None)
            yield before

    def finish(self, xp) -> Iterator[_Frame]:
        if self.before is not None:
            yield self.before

    def _between(self, xp, reference, target):
        return flows.measure(self.op, xp, self.method, reference.small, target.small, min(reference.sigma / 2, _BLURRED))


_BLURRED = 0.2  # more noise than this is not blurred more


def _small(xp, frame: _Frame):
    """The plane that is searched as a grey image (1, h, w) of half the resolution, which halves the noise, too."""
    small = frame.noisy[:1] / math.sqrt(len(frame.noisy))
    for axis in (1, 2):
        n = small.shape[axis]
        first = 2 * xp.arange((n + 1) // 2)
        small = (small.take(first, axis=axis) + small.take(xp.minimum(first + 1, n - 1), axis=axis)) / 2
    return small


def _flow_to(xp, frames, here, others, grid, stride):
    """Flow (n - 1, 2, h, w) from the queries of frame `here` to the other frames, step by step from frame to frame."""
    ways = frames[here].ways.setdefault((here, len(frames), stride), {})  # the same in each pass
    if not ways:
        y, x = (xp.arange(n) * stride for n in grid)
        start = xp.stack(xp.broadcast_arrays(x, y[:, None])).astype(np.float32)
        led, ways[here] = {here: start}, xp.zeros_like(start)
        for s in [*range(here + 1, len(frames)), *range(here - 1, -1, -1)]:
            before = s - 1 if s > here else s + 1
            flow = frames[before].forward if s > here else frames[before].backward
            step = 0 if flow is None else _flow_at(xp, flow, led[before], frames[here].noisy.shape[1:])
            led[s] = led[before] + step
            ways[s] = led[s] - start
    return xp.stack([ways[s] for s in others])


def _flow_at(xp, flow, places, size):
    """Flow at places (2, h, w), x first, in pixels of a frame of this size: that of the cell of its grid they are in."""
    cells = []
    for at, n, count in zip(places[::-1], size, flow.shape[1:], strict=True):
        cells.append(xp.clip(xp.floor((at + 0.5) * (count / n)), 0, count - 1).astype(np.int32))
    scale = xp.asarray([n / count for n, count in zip(size, flow.shape[1:], strict=True)][::-1], np.float32)
    found = flow[:, cells[0], cells[1]] * scale[:, None, None]
    return xp.where(abs(found) < 2**20, found, 0)  # what is no number is no motion


# --- a scene --------------------------------------------------------------------------------------
_FAST = (
    _Pass(partial(_threshold, factor=2.85), _of_each_frame, window=3, guided=False, worst=4.5),
    _Pass(_wiener, _of_each_frame, window=5, guided=True, worst=1.0),
)
_BAYES = partial(_principal, least=1.5, gain=lambda v: v / (v + 1))
_LAST = _Pass(_BAYES, _of_all_frames, window=11, guided=True, count=64, patch=16, stride=8)
_HIGH = (
    _Pass(
        partial(_principal, least=2.7, gain=lambda v: 1 - 1 / v), _of_all_frames,
        window=11, guided=False, searched=False, count=50, patch=6, stride=3,
    ),
    replace(_LAST, beside=replace(_LAST, depth=2, worst=0.2)),
)  # fmt: skip
_PASSES = {"fast": _FAST, "high": _FAST + _HIGH}


class _Scene:
    """Frames through all stages, one after another."""

    def __init__(self, spec, method, in_order):
        self.stages = [_Motion(spec.op, method)]
        self.stages += [_Running(what, spec.radius, in_order) for what in _PASSES[spec.quality]]

    def push(self, xp, frame: _Frame) -> list[_Frame]:
        return self._through(xp, [frame], 0)

    def finish(self, xp) -> list[_Frame]:
        return [ready for n, stage in enumerate(self.stages, 1) for ready in self._through(xp, stage.finish(xp), n)]

    def _through(self, xp, frames: Iterable[_Frame], first: int) -> list[_Frame]:
        for stage in self.stages[first:]:
            frames = [ready for frame in frames for ready in stage.push(xp, frame)]
        return list(frames)


# --- frames in and out ----------------------------------------------------------------------------
@dataclass(frozen=True)
class DenoiseSpec(Spec):
    sigma: float | None = None  # on the scale 0..1
    quality: str = "fast"
    radius: int = 2
    max_memory: int | str = "1GiB"

    def __post_init__(self):
        self.choice("quality", *_PASSES)
        self.whole("radius", least=0, most=32)
        self.memory("max_memory")


_OPPONENT = np.float32([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt(np.float32([[3], [2], [6]]))


def _turned(xp, planes, basis):
    """Three channels in an orthonormal basis, which leaves noise as it is."""
    if len(planes) != 3:
        return planes
    return xp.stack([sum(float(weight) * plane for weight, plane in zip(row, planes, strict=True)) for row in basis])


_FAR = 2.0**30  # times white; squares of sums of such values are still numbers


def _taken(xp, spec, native, flow) -> _Frame:
    """A frame (C, H, W) on the scale 0..1, as the passes want it. What is no number is black."""
    native = xp.where(xp.isfinite(native), xp.clip(native, -_FAR, _FAR), 0).astype(np.float32, copy=False)
    colours = len(native) - 1 + len(native) % 2  # an even number of channels has alpha last
    planes = xp.ascontiguousarray(_turned(xp, native[:colours], _OPPONENT))
    return _Frame(planes, native[colours:], noise_level(xp, planes[:1]) if spec.sigma is None else spec.sigma, flow)


def _given(xp, op: str, ready: list[_Frame], like) -> tuple:
    """Frames as the caller's are."""
    found = (xp.concatenate([_turned(xp, frame.guide, _OPPONENT.T), frame.alpha])[None] for frame in ready)
    return tuple(restored(xp, planes, like) for planes in found)


def denoise_overlap(*, quality="fast", radius=2) -> int:
    """How many frames before and after its own a result of `denoise` depends on: the `overlap` of exact `chunks`.

    Args:
        quality, radius: as in `denoise`

    Returns:
        number of frames: 2 * radius for each pass, and one

    Example:
        >>> denoise_overlap(radius=2)
        9
    """
    spec = DenoiseSpec("denoise_overlap", None, quality, radius)
    return 2 * spec.radius * len(_PASSES[spec.quality]) + 1


def denoise(frames, sigma=None, *, quality="fast", radius=2, flow="dis", max_memory="1GiB", progress=None):
    """A clip without its noise: patches that are alike are found in frames around, and filtered together.

    White noise is what this is made for: equally strong everywhere, and independent from pixel to pixel.

    Args:
        frames: a clip (T, H, W) or (T, H, W, C), or a frame; uint8, uint16, or floats whose white is 1, see
            `shiftsearch.video.frames`. Three channels are a colour, the last of two or four is alpha, which stays
        sigma: standard deviation of the noise, on the scale 0..255 for whole numbers, of the frames' own for floats;
            None or "auto" estimates it, frame by frame
        quality: "fast" filters groups of a patch of each frame in two passes, by thresholds and Wiener filters of their
            cosine transforms; "high" goes on with groups of some 50 patches and filters their principal components,
            in two more passes. It takes some 25 times as long
        radius: frames each way to look at, where the scene has them
        flow: where to search: "dis" and "farneback" measure flow (with OpenCV, on frames in main memory); None is no
            motion; a pair (forward, backward) of (T, 2, h, w), from each frame to the next and to the one before, in
            pixels of their own grid, channel 0 = dx, 1 = dy; or a function of (reference, target) that gives (2, h, w)
        max_memory: of what is computed at a time beside the frames in reach: a number of bytes, or text such as
            "500MB". The result does not depend on it
        progress: shows how far it is: a function such as tqdm, called with what to iterate over and `total`

    Returns:
        the frames as they came, without their noise. Scenes are found, and kept apart

    Example:
        >>> rng = np.random.default_rng(0)
        >>> still = rng.random((8, 12)).repeat(8, 0).repeat(8, 1)
        >>> clip = np.stack([np.roll(still, t, axis=1) for t in range(5)])
        >>> noisy = clip + 0.1 * rng.standard_normal(clip.shape)
        >>> denoised = denoise(noisy, sigma=0.1, flow=None)
        >>> bool(((denoised - clip) ** 2).mean() < ((noisy - clip) ** 2).mean() / 10)
        True
    """
    spec = _spec("denoise", sigma, frames, quality, radius, max_memory)
    pair = flow if isinstance(flow, (tuple, list)) else ()
    if hasattr(flow, "shape") or (flow is pair and len(pair) != 2):
        found = f"has shape {tuple(flow.shape)}" if hasattr(flow, "shape") else f"is a {type(flow).__name__} of {len(pair)}"
        raise ShiftsearchError(f"denoise: flow {found}, expected a pair (forward, backward) of (T, 2, h, w)")

    def whole(xp, clip, *both):
        many = layout("denoise", "frames", clip.shape)[1]
        out = xp.empty(clip.shape, clip.dtype)
        source, done = (clip, out) if many else (clip[None], out[None])
        for name, array in zip(("forward", "backward"), both, strict=False):
            if flows.checked("denoise", name, array).shape[:-3] != source.shape[:1]:
                raise ShiftsearchError(
                    f"denoise: {name} has shape {tuple(array.shape)}, expected ({len(source)}, 2, H, W) or coarser"
                )
        for n, frame in enumerate(watched("denoise", progress, _stream(spec, source, both or flow), len(source))):
            done[n] = frame
        return out

    return transform("denoise", whole, DTYPES, frames=frames, **dict(zip(("forward", "backward"), pair, strict=False)))


def denoise_stream(frames: Iterable, sigma=None, *, quality="fast", radius=2, flow="dis", max_memory="1GiB") -> Iterator:
    """`denoise` for clips of any length: holds the few frames that a result depends on.

    Args:
        frames: an iterator over frames, (H, W) or (H, W, C), as `denoise` takes them
        flow: "dis", "farneback", None or a function, as in `denoise`
        sigma, quality, radius, max_memory: as in `denoise`

    Returns:
        iterator over the denoised frames, in order: those of `denoise`, bit for bit

    Example:
        >>> clip = (np.full((48, 64), 100 + t, np.uint8) for t in range(9))
        >>> [int(frame[0, 0]) for frame in denoise_stream(clip, 10, radius=0)]
        [100, 101, 102, 103, 104, 105, 106, 107, 108]
    """
    if isinstance(flow, (tuple, list)) or hasattr(flow, "shape"):
        raise ShiftsearchError(
            f'denoise_stream: flow is a {type(flow).__qualname__}, expected "dis", "farneback", None or a function'
        )
    before, frames = _peeked("denoise_stream", frames)
    spec = _spec("denoise_stream", sigma, before, quality, radius, max_memory)
    return _stream(spec, frames, flow)


def _peeked(op: str, frames):
    """The first frame, or None, and an iterator over all."""
    rest = iterated(op, frames)
    first = next(rest, None)
    return first, rest if first is None else itertools.chain([first], rest)


def _spec(op: str, sigma, frames, quality, radius, max_memory) -> DenoiseSpec:
    estimated = sigma is None or (isinstance(sigma, str) and sigma == "auto")
    level = None if estimated else flows.noise_scale(op, sigma, frames)
    return DenoiseSpec(op, level, quality, radius, max_memory)


def _stream(spec, frames, flow):
    """Denoised frames; `flow` may also be arrays (forward, backward) of the array module that the frames are of."""
    method = flow if isinstance(flow, str) else None
    if not (flow is None or method in flows.METHODS or callable(flow) or isinstance(flow, tuple)):
        names = ", ".join(map(repr, flows.METHODS))
        also = " or a pair (forward, backward)" if spec.op == "denoise" else ""
        raise ShiftsearchError(f"{spec.op}: flow is {flow!r}, expected one of {names}, None, a function{also}")

    def measured(number, before, frame):
        """From the frame before to this one, and back, if that is the caller's."""
        if isinstance(flow, tuple):
            return {"forward": flow[0][number - 1], "backward": flow[1][number]}
        return {"forward": flow(before, frame), "backward": flow(frame, before)} if callable(flow) else {}

    def push(xp, array, *both):
        native = planar(spec.op, "frames", array)[0]
        for name, given in zip(("forward", "backward"), both, strict=False):
            _check_flow(spec.op, name, given, native.shape[1:])
        return _given(xp, spec.op, scene.push(xp, _taken(xp, spec, native, both)), array)

    def finish(xp, array):
        return _given(xp, spec.op, scene.finish(xp), array)

    scene = before = None
    with _Threads(spec.max_memory) as pool:
        for number, (frame, begins) in enumerate(with_scenes(spec.op, frames)):
            if begins and scene is not None:
                yield from transform(spec.op, finish, DTYPES, frames=before)
            if begins:
                scene = _Scene(spec, method, pool.in_order)
            yield from transform(spec.op, push, DTYPES, frames=frame, **({} if begins else measured(number, before, frame)))
            before = frame
        if scene is not None:
            yield from transform(spec.op, finish, DTYPES, frames=before)


def _check_flow(op: str, name: str, flow, size):
    if flows.checked(op, name, flow).ndim != 3 or flow.shape[1] > size[0] or flow.shape[2] > size[1]:
        raise ShiftsearchError(f"{op}: {name} has shape {tuple(flow.shape)}, expected (2, {size[0]}, {size[1]}) or coarser")
