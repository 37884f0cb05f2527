"""Denoising without training: groups of patches that are alike are found by search, filtered together, and put back.

Frames go through stages one after another: motion first, then one pass after the other, each of which filters groups
(`groups`, `shrink`) and gives its result to the next as a guide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import flow as flows
from shiftsearch.video.chunks import peeked, with_scenes
from shiftsearch.video.frames import (
    DTYPES,
    check_planes,
    coarsened,
    halved,
    layout,
    noise_level,
    planar,
    restored,
    watched,
)
from shiftsearch.video.groups import Frame, Pass, Running, Threads, of_all_frames, of_each_frame
from shiftsearch.video.shrink import principal, threshold, wiener


# --- motion ---------------------------------------------------------------------------------------
class _Motion:
    """Gives the frames of each picture its flow to the next one and to the one before, when both are there."""

    def __init__(self, op: str, method: str | None):
        self.op, self.method, self.before = op, method, None

    def push(self, xp, picture: list[Frame], flow) -> Iterator[list[Frame]]:
        """`flow` is what the caller measured: from the picture before to this one, and back."""
        before, self.before = self.before, picture
        if self.method is not None:
            picture[0].small = _small(xp, picture[0])
        if before is not None:
            if self.method is not None:
                flow = [self._between(xp, *pair) for pair in ((before[0], picture[0]), (picture[0], before[0]))]
                before[0].small = None
            for one, other in zip(before, picture, strict=True):
                one.forward, other.backward = flow or (None, None)
            yield before

    def finish(self, xp) -> Iterator[list[Frame]]:
        if self.before is not None:
            yield self.before

    def _between(self, xp, reference, target):
        blurred = min(reference.sigma[0] / 2, _BLURRED)
        return flows.measure(self.op, xp, self.method, reference.small, target.small, blurred)


_BLURRED = 0.2  # more noise than this is not blurred more


def _small(xp, frame: Frame):
    """The first plane as a grey image (1, h, w) of half the resolution, which halves the noise, too."""
    return halved(xp, halved(xp, frame.noisy[:1] / frame.white, 1), 2)


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
    """Pictures through all stages. Frames of one picture have passes of their own, which keep step."""

    def __init__(self, spec, method, in_order, frames: int):
        self.motion = _Motion(spec.op, method)
        self.chains = [[Running(what, spec.radius, in_order) for what in _PASSES[spec.quality]] for _ in range(frames)]

    def push(self, xp, picture: list[Frame], flow) -> list[tuple[Frame, ...]]:
        return self._passed(xp, self.motion.push(xp, picture, flow))

    def finish(self, xp) -> list[tuple[Frame, ...]]:
        ready = self._passed(xp, self.motion.finish(xp))
        return ready + list(zip(*(_finished(xp, chain) for chain in self.chains), strict=True))

    def _passed(self, xp, pictures) -> list[tuple[Frame, ...]]:
        ways = [zip(self.chains, picture, strict=True) for picture in pictures]
        return [ready for way in ways for ready in zip(*(_through(xp, chain, [f]) for chain, f in way), strict=True)]


def _through(xp, stages, frames: Iterable[Frame]) -> list[Frame]:
    for stage in stages:
        frames = [ready for frame in frames for ready in stage.push(xp, frame)]
    return list(frames)


def _finished(xp, stages) -> list[Frame]:
    return [ready for n, stage in enumerate(stages, 1) for ready in _through(xp, stages[n:], stage.finish(xp))]


# --- frames in and out ----------------------------------------------------------------------------
@dataclass(frozen=True)
class DenoiseSpec(Spec):
    sigma: tuple[float | None, ...] = (None,)  # of each array of a frame, on the scale 0..1
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


_BESIDE = 0.5  # weight of U and V in what is searched, beside Y: more helps them, and costs Y


def _taken(xp, spec, natives) -> list[Frame]:
    """A picture of arrays (C, H, W) on the scale 0..1, as the passes want it. What is no number is black.

    Planes of one size are one frame; their sum is searched for all. If those after the first are coarser, they are a
    frame of their own, with the first made as coarse.
    """
    natives = [xp.where(xp.isfinite(a), xp.clip(a, -_FAR, _FAR), 0).astype(np.float32, copy=False) for a in natives]
    first, *others = natives
    if not others:
        colours = len(first) - 1 + len(first) % 2  # an even number of channels has alpha last
        planes = xp.ascontiguousarray(_turned(xp, first[:colours], _OPPONENT))
        level = noise_level(xp, planes[:1]) if spec.sigma[0] is None else spec.sigma[0]
        return [Frame(planes, [level] * colours, white=math.sqrt(colours), kept=first[colours:])]
    levels = [noise_level(xp, a) if s is None else s for a, s in zip(natives, spec.sigma, strict=True)]
    if others[0].shape == first.shape:
        return [Frame(xp.concatenate(natives), levels, (1, *[_BESIDE] * len(others)))]
    seen, factors = coarsened(xp, first, others[0].shape[1:])
    level = noise_level(xp, seen) if spec.sigma[0] is None else levels[0] / math.sqrt(math.prod(factors))
    coarse = Frame(xp.concatenate([seen, *others]), [level, *levels[1:]], (1,) * len(natives))
    return [Frame(first, levels[:1]), coarse]


def _given(xp, pictures: list[tuple[Frame, ...]], likes) -> tuple:
    """The arrays of all pictures, one picture after another, as the caller's are."""
    found = []
    for picture in pictures:
        first, *others = (frame.guide for frame in picture)
        if len(likes) == 1:
            planes = [xp.concatenate([_turned(xp, first, _OPPONENT.T), picture[0].kept])]
        else:
            planes = [plane[None] for frame in (first, *(other[1:] for other in others)) for plane in frame]
        found += [restored(xp, plane[None], like) for plane, like in zip(planes, likes, strict=True)]
    return tuple(found)


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
    spec = DenoiseSpec("denoise_overlap", (None,), quality, radius)
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
    spec = _spec("denoise", [sigma], frames, quality, radius, max_memory)
    pair = flow if isinstance(flow, (tuple, list)) else ()
    if hasattr(flow, "shape") or (flow is pair and len(pair) != 2):
        found = (
            f"has shape {tuple(flow.shape)}" if hasattr(flow, "shape") else f"is a {type(flow).__name__} of {len(pair)}"
        )
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
        found = _stream(spec, ((frame,) for frame in source), both or flow)
        for n, (frame,) in enumerate(watched("denoise", progress, found, len(source))):
            done[n] = frame
        return out

    return transform("denoise", whole, DTYPES, frames=frames, **dict(zip(("forward", "backward"), pair, strict=False)))


def denoise_stream(
    frames: Iterable, sigma=None, *, quality="fast", radius=2, flow="dis", max_memory="1GiB"
) -> Iterator:
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
    before, frames = peeked("denoise_stream", frames)
    spec = _spec("denoise_stream", [sigma], before, quality, radius, max_memory)
    return _firsts(_stream(spec, ((frame,) for frame in frames), _method("denoise_stream", flow)))


def denoise_planes(
    frames: Iterable, sigma=None, *, quality="fast", radius=2, flow="dis", max_memory="1GiB", noted=None
) -> Iterator[tuple]:
    """`denoise_stream` for frames whose planes have noise, and sizes, of their own, as those of YUV.

    Motion is that of the first plane. Patches of the others are searched in their sum with it, made as coarse as they are.

    Args:
        frames: an iterator over tuples of arrays: planes (H, W), of which those after the first have one size, which is
            that of the first or, along an axis, a half of it or a quarter, rounded up. A tuple of one array is a frame
            as `denoise` takes it
        sigma: standard deviation of the noise as in `denoise`, or one for each of the arrays
        quality, radius, flow, max_memory: as in `denoise_stream`
        noted: a function that is called for each frame with a list of the standard deviations, on the scale 0..1

    Returns:
        iterator over tuples of denoised arrays, in order

    Example:
        >>> planes = np.full((48, 64), 100, np.uint8), np.full((24, 32), 50, np.uint8), np.full((24, 32), 60, np.uint8)
        >>> [[int(plane[0, 0]) for plane in frame] for frame in denoise_planes([planes], (10, 5, 5))]
        [[100, 50, 60]]
    """
    before, frames = peeked("denoise_planes", frames)
    flow = _method("denoise_planes", flow)
    if before is None:
        return iter(())
    frames = check_planes("denoise_planes", frames, before)
    sigmas = sigma if isinstance(sigma, (list, tuple)) else [sigma] * len(before)
    if len(sigmas) != len(before):
        raise ShiftsearchError(
            f"denoise_planes: sigma has {len(sigmas)} numbers, expected one, or one for each of the {len(before)} arrays of a frame"
        )
    spec = _spec("denoise_planes", sigmas, before[0], quality, radius, max_memory)
    return _stream(spec, frames, flow, noted)


def _firsts(found):
    for (frame,) in found:
        yield frame


def _method(op: str, flow):
    if isinstance(flow, (tuple, list)) or hasattr(flow, "shape"):
        raise ShiftsearchError(
            f'{op}: flow is a {type(flow).__qualname__}, expected "dis", "farneback", None or a function'
        )
    return flow


def _spec(op: str, sigmas, frames, quality, radius, max_memory) -> DenoiseSpec:
    levels = tuple(None if _estimated(s) else flows.noise_scale(op, s, frames) for s in sigmas)
    return DenoiseSpec(op, levels, quality, radius, max_memory)


def _estimated(sigma) -> bool:
    return sigma is None or (isinstance(sigma, str) and sigma == "auto")


def _stream(spec, frames, flow, noted=None):
    """Denoised frames, tuples of arrays; `flow` may also be arrays (forward, backward) of their array module."""
    method = flow if isinstance(flow, str) else None
    if not (flow is None or method in flows.METHODS or callable(flow) or isinstance(flow, tuple)):
        names = ", ".join(map(repr, flows.METHODS))
        also = " or a pair (forward, backward)" if spec.op == "denoise" else ""
        raise ShiftsearchError(f"{spec.op}: flow is {flow!r}, expected one of {names}, None, a function{also}")
    count = len(spec.sigma)
    names = [f"plane {n}" for n in range(count)] if count > 1 else ["frames"]

    def measured(number, before, frame):
        """From the frame before to this one, and back, if that is the caller's."""
        if isinstance(flow, tuple):
            return {"forward": flow[0][number - 1], "backward": flow[1][number]}
        return {"forward": flow(before, frame), "backward": flow(frame, before)} if callable(flow) else {}

    def push(xp, *arrays):
        frame, both = arrays[:count], arrays[count:]
        natives = [planar(spec.op, name, array)[0] for name, array in zip(names, frame, strict=True)]
        for name, given in zip(("forward", "backward"), both, strict=False):
            _check_flow(spec.op, name, given, natives[0].shape[1:])
        picture = _taken(xp, spec, natives)
        if noted is not None:
            fine, *coarse = (frame.sigma for frame in picture)
            noted([*fine, *(level for levels in coarse for level in levels[1:])][:count])
        return _given(xp, scene.push(xp, picture, both), frame)

    def finish(xp, *frame):
        return _given(xp, scene.finish(xp), frame)

    def whole(found):
        return zip(*[iter(found)] * count, strict=True)

    scene = before = None
    with Threads(spec.max_memory) as pool:
        for number, (frame, begins) in enumerate(with_scenes(spec.op, frames, lambda frame: frame[0])):
            arrays = dict(zip(names, frame, strict=True))
            if begins and scene is not None:
                yield from whole(transform(spec.op, finish, DTYPES, **before))
            if begins:
                scene = _Scene(spec, method, pool.in_order, len({tuple(array.shape) for array in frame}))
            given = {} if begins else measured(number, before[names[0]], frame[0])
            yield from whole(transform(spec.op, push, DTYPES, **arrays, **given))
            before = arrays
        if scene is not None:
            yield from whole(transform(spec.op, finish, DTYPES, **before))


def _check_flow(op: str, name: str, flow, size):
    if flows.checked(op, name, flow).ndim != 3 or flow.shape[1] > size[0] or flow.shape[2] > size[1]:
        raise ShiftsearchError(
            f"{op}: {name} has shape {tuple(flow.shape)}, expected (2, {size[0]}, {size[1]}) or coarser"
        )
