"""One pass of the denoiser: patches that are alike are found, filtered as a group, and put back.

A pass goes through the frames in order and holds no more of them than a group may reach: frames come in by `push`, and
go out when no later group can reach them any more. All that is added to a pixel is added in the order of frames and
bands of queries, whose size only depends on the frame's. So a result does not depend on how many frames follow, on
threads, or on memory.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from shiftsearch._geometry import query_grid
from shiftsearch.ops.gather import fold, gather
from shiftsearch.ops.search import match


# --- one pass over a scene ------------------------------------------------------------------------
class Frame:
    """A frame on its way through the passes. Planes are (C, H, W)."""

    def __init__(self, noisy, sigma, mix=(1,), white=1.0, kept=None):
        self.noisy, self.sigma = noisy, sigma  # the standard deviation of each plane's noise
        self.mix = mix  # weights of the planes in what is searched, or 1 for the first alone
        self.white = white  # in the first plane
        self.kept = kept  # planes that go around the passes
        self.guide = None  # what the pass before made of it
        self.searched = self.mixed(noisy)  # where patches are compared
        self.level = math.hypot(*(m * s for m, s in zip(mix, sigma, strict=False)))  # of the noise there
        self.forward = self.backward = None  # flow to the next frame and to the one before
        self.ways: dict = {}  # from its queries to other frames, as `_flow_to` found them
        self.sums = self.coverage = self.small = None

    def mixed(self, planes):
        return planes[0] if len(self.mix) == 1 else sum(m * plane for m, plane in zip(self.mix, planes, strict=True))


@dataclass(frozen=True)
class Pass:
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
    beside: Pass | None = None  # filters other groups of the same frames; what both give is added up


class Running:
    """A pass in the middle of a scene."""

    def __init__(self, what: Pass, radius: int, in_order):
        self.what, self.radius, self.in_order = what, radius, in_order
        self.held: dict[int, Frame] = {}
        self.arrived = self.asked = self.done = 0

    def push(self, xp, frame: Frame) -> Iterator[Frame]:
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

    def finish(self, xp) -> Iterator[Frame]:
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
            frame.searched = frame.mixed(frame.guide)
        return frame

    def _ask(self, xp, numbers: range):
        """The groups of the next frame of queries, among frames of these numbers."""
        frames, here = [self.held[n] for n in numbers], self.asked - numbers.start
        self.asked += 1
        for what in (self.what, self.what.beside):
            if what is not None and here + what.depth <= len(frames):
                self._add(xp, frames, here, what)

    def _add(self, xp, frames: list[Frame], here: int, what: Pass):
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


# --- groups ---------------------------------------------------------------------------------------
def _candidates(xp, frames: list[Frame], here: int, there: list[int], what: Pass, topk: int):
    """The best `topk` of each frame `there` for each query of frame `here`: scores (n, k, h, w), offsets (n, k, h, w, 3)."""
    own, *keys = (xp.stack([frame.searched for frame in frames[s : s + what.depth]]) for s in [here, *there])
    flow = _flow_to(xp, frames, here, there, query_grid(*own.shape[1:], what.stride), what.stride)
    options = {"window": what.window, "patch": what.patch, "stride": what.stride}
    scores, places = match(xp.broadcast_to(own, (len(keys), *own.shape)), xp.stack(keys), flow, topk=topk, **options)
    offsets = xp.empty((len(keys), topk, *scores.shape[2:4], 3), xp.int32)
    offsets[..., 0] = (xp.asarray(there, xp.int32) - here)[:, None, None, None]
    offsets[..., 1:] = places[:, 0].transpose(0, 3, 1, 2, 4)
    return scores[:, 0].transpose(0, 3, 1, 2), offsets


def of_each_frame(xp, frames, here, what: Pass):
    """The best patch of each frame, (n, h, w, 3), the own first.

    Where that is not the same thing, the next best of the own frame takes its place.
    """
    others = [s for s in range(len(frames) - what.depth + 1) if s != here]
    _, (own,) = _candidates(xp, frames, here, [here], what, min(len(frames), what.window**2))
    if not others:
        return own[:1]
    scores, found = _candidates(xp, frames, here, others, what, 1)
    good = scores[:, 0] <= what.worst * what.depth * (frames[here].level * what.patch) ** 2
    rank = xp.minimum(xp.cumsum(~good, axis=0), len(own) - 1)
    spare = own[rank, xp.arange(rank.shape[1])[:, None], xp.arange(rank.shape[2])]
    return xp.concatenate([own[:1], xp.where(good[..., None], found[:, 0], spare)])


def of_all_frames(xp, frames, here, what: Pass):
    """The best `what.count` patches of all frames, (n, h, w, 3)."""
    each = min(what.count, _EACH, what.window**2)
    scores, offsets = _candidates(xp, frames, here, list(range(len(frames) - what.depth + 1)), what, each)
    scores, offsets = scores.reshape(-1, *scores.shape[2:]), offsets.reshape(-1, *offsets.shape[2:])
    if len(scores) <= what.count:
        return offsets
    best = xp.argpartition(scores, what.count, axis=0)[: what.count]
    return xp.take_along_axis(offsets, best[..., None], axis=0)


def _still(xp, frames, here, what: Pass):
    """Where the frames that a patch spans show the same thing, (h, w)."""
    own, *later = (frame.searched for frame in frames[here : here + what.depth])
    if not later:
        return xp.ones(query_grid(*own.shape, what.stride), bool)
    later = xp.stack(later)[:, None]
    scores, _ = match(xp.broadcast_to(own, later.shape), later, window=1, patch=what.patch, stride=what.stride, topk=1)
    return (scores <= what.worst * (frames[here].level * what.patch) ** 2).all((0, 1, 4))


_EACH = 48  # candidates of a frame among which groups of many are chosen


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


# --- bands of queries -----------------------------------------------------------------------------
_BAND = {"numpy": 1 << 20, "cupy": 1 << 28}  # pixels of a band's patches: enough to be worth a call
_AT_ONCE = {"numpy": 1280, "cupy": 1 << 22}  # of them filtered at once: what fits the cache, what fills the device


def _bands(xp, offsets, what: Pass):
    """Rows and columns of queries: a few whole rows, or a part of one."""
    h, w, n = offsets.shape[:3]
    queries = max(1, _BAND[xp.__name__] // (n * what.depth * what.patch**2))
    tall, wide = max(1, queries // w), min(queries, w)
    parts = itertools.product(range(0, h, tall), range(0, w, wide))
    return [(slice(y, min(y + tall, h)), slice(x, min(x + wide, w))) for y, x in parts]


def _filter_band(xp, frames, here, offsets, still, what: Pass, part: tuple[slice, slice]):
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
            noisy[few], weights[few] = what.shrink(xp, noisy[few], guide[few], sigma[c])
    all_weights = xp.zeros((channels, *places.shape[2:4], 1), weights.dtype)
    all_weights[:, band[1], columns] = weights.reshape(channels, *shape[2:4], 1) * still[part][..., None]
    all_weights = xp.broadcast_to(all_weights[:, None], places.shape[:-1])
    size = len(spans), bottom - top, W
    sums, coverage = fold(noisy.reshape(shape), places, all_weights, size=size, **options)
    return (top, bottom), sums.reshape(len(spans), channels, what.depth, *size[1:]).swapaxes(1, 2), coverage


# --- threads --------------------------------------------------------------------------------------
@cache
def _blas():
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None


def _blas_alone():
    """Keeps NumPy's BLAS from starting threads beside ours, for which it would wait longer than it computes."""
    return _blas().limit(limits=1, user_api="blas") if _blas() else nullcontext()


class Threads:
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
