"""Denoising without training: groups of patches that are alike are found by search, filtered together, and put back.

Frames go through stages one after another: motion first, then one pass after the other, each of which filters groups
(`groups`, `shrink`) and gives its result to the next as a guide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import flow as flows
from shiftsearch.video.chunks import iterated, with_scenes
from shiftsearch.video.frames import DTYPES, layout, noise_level, planar, restored, watched
from shiftsearch.video.groups import Frame, Pass, Running, Threads, of_all_frames, of_each_frame
from shiftsearch.video.shrink import principal, threshold, wiener


# --- motion ---------------------------------------------------------------------------------------
class _Motion:
    """Gives each frame its flow to the next and to the one before, when both are there."""

    def __init__(self, op: str, method: str | None):
        self.op, self.method, self.before = op, method, None

    def push(self, xp, frame: Frame) -> Iterator[Frame]:
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

    def finish(self, xp) -> Iterator[Frame]:
        if self.before is not None:
            yield self.before

    def _between(self, xp, reference, target):
        return flows.measure(self.op, xp, self.method, reference.small, target.small, min(reference.sigma / 2, _BLURRED))


_BLURRED = 0.2  # more noise than this is not blurred more


def _small(xp, frame: Frame):
    """The plane that is searched as a grey image (1, h, w) of half the resolution, which halves the noise, too."""
    small = frame.noisy[:1] / math.sqrt(len(frame.noisy))
    for axis in (1, 2):
        n = small.shape[axis]
        first = 2 * xp.arange((n + 1) // 2)
        small = (small.take(first, axis=axis) + small.take(xp.minimum(first + 1, n - 1), axis=axis)) / 2
    return small


# --- a scene --------------------------------------------------------------------------------------
_FAST = (
    Pass(partial(threshold, factor=2.85), of_each_frame, window=3, guided=False, worst=4.5),
    Pass(wiener, of_each_frame, window=5, guided=True, worst=1.0),
)
_BAYES = partial(principal, least=1.5, gain=lambda v: v / (v + 1))
_LAST = Pass(_BAYES, of_all_frames, window=11, guided=True, count=64, patch=16, stride=8)
_HIGH = (
    Pass(
        partial(principal, least=2.7, gain=lambda v: 1 - 1 / v), of_all_frames,
        window=11, guided=False, searched=False, count=50, patch=6, stride=3,
    ),
    replace(_LAST, beside=replace(_LAST, depth=2, worst=0.2)),
)  # fmt: skip
_PASSES = {"fast": _FAST, "high": _FAST + _HIGH}


class _Scene:
    """Frames through all stages, one after another."""

    def __init__(self, spec, method, in_order):
        self.stages = [_Motion(spec.op, method)]
        self.stages += [Running(what, spec.radius, in_order) for what in _PASSES[spec.quality]]

    def push(self, xp, frame: Frame) -> list[Frame]:
        return self._through(xp, [frame], 0)

    def finish(self, xp) -> list[Frame]:
        return [ready for n, stage in enumerate(self.stages, 1) for ready in self._through(xp, stage.finish(xp), n)]

    def _through(self, xp, frames: Iterable[Frame], first: int) -> list[Frame]:
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


def _taken(xp, spec, native, flow) -> Frame:
    """A frame (C, H, W) on the scale 0..1, as the passes want it. What is no number is black."""
    native = xp.where(xp.isfinite(native), xp.clip(native, -_FAR, _FAR), 0).astype(np.float32, copy=False)
    colours = len(native) - 1 + len(native) % 2  # an even number of channels has alpha last
    planes = xp.ascontiguousarray(_turned(xp, native[:colours], _OPPONENT))
    return Frame(planes, native[colours:], noise_level(xp, planes[:1]) if spec.sigma is None else spec.sigma, flow)


def _given(xp, op: str, ready: list[Frame], like) -> tuple:
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
            in two more passes. It takes some 60 times as long
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
    with Threads(spec.max_memory) as pool:
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
