"""Iterators of frames of any length, denoised while only the frames that a result depends on are held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.memory import room
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.pairs import as_numbered
from shiftsearch.video.denoise.passes import Frame
from shiftsearch.video.denoise.pictures import given, noise_of, taken
from shiftsearch.video.denoise.scene import Scene
from shiftsearch.video.denoise.spare import reused
from shiftsearch.video.denoise.spec import DenoiseSpec, method_of, pair_of, spec_of
from shiftsearch.video.denoise.threads import Threads
from shiftsearch.video.device import Place, on_device
from shiftsearch.video.flow.arrays import checked
from shiftsearch.video.forms import Each
from shiftsearch.video.frames import DTYPES, planar
from shiftsearch.video.scale import scaled
from shiftsearch.video.scenes import with_scenes
from shiftsearch.video.streams import check_planes, iterated, peeked
from shiftsearch.video.types import METHOD, AnyArray, AnyFrame, Flows, Measure, Method, Planes, Quality, Sigma, Strength


def denoise_stream(
    frames: Iterable[AnyFrame],
    sigma: Sigma | Sequence[float] | AnyArray | Noise = None,
    *,
    quality: Quality = DenoiseSpec.quality,
    radius: int | None = DenoiseSpec.radius,
    flow: Method | Measure | Flows | None = METHOD,
    strength: Strength = 1.0,
    mix: float = DenoiseSpec.mix,
    temporal_only: bool = DenoiseSpec.temporal_only,
    white: float | None = None,
    bits: int | None = None,
    max_memory: int | str | None = DenoiseSpec.max_memory,
    device: str | None = None,
) -> Iterator[AnyFrame]:
    """Run `denoise` on a clip of any length. It holds only the few frames that a result depends on.

    Args:
        frames: an iterator over frames, (H, W) or (H, W, C), as `denoise` takes them
        flow: as in `denoise`. A pair (forward, backward) is read frame by frame: so it may be files that
            `np.load(..., mmap_mode="r")` opened. If `frames` has no length, a pair has T - 1 flows each if each
            backward[n] undoes forward[n]
        sigma, quality, radius, strength, mix, temporal_only, white, bits, max_memory: as in `denoise`
        device: where frames of main memory are computed: "cpu", "cuda:0" or another number, or "auto" for the first GPU
            if there is one. Each frame goes there once, and its result comes back once, while others are computed. None
            computes where the frames are

    Returns:
        iterator over the denoised frames, in order, equal to those of `denoise` bit for bit

    Example:
        >>> clip = (np.full((48, 64), 100 + t, np.uint8) for t in range(9))
        >>> [int(frame[0, 0]) for frame in denoise_stream(clip, 10, radius=0)]
        [100, 101, 102, 103, 104, 105, 106, 107, 108]
    """
    frames, flow = as_numbered("denoise_stream", frames, pair_of("denoise_stream", flow))
    each = Each("denoise_stream", iterated("denoise_stream", frames))
    if device is not None:
        more: dict[str, Any] = {"quality": quality, "radius": radius, "mix": mix, "temporal_only": temporal_only}
        more |= {"strength": strength, "white": white, "bits": bits, "max_memory": max_memory}

        def there(frames: Iterator[Planes], place: Place) -> Iterator[Planes]:
            single = (frame for (frame,) in frames)
            return ((frame,) for frame in denoise_stream(single, sigma, flow=place.flow(flow), **more))

        single = ((frame,) for frame in each)
        return (each.give(frame) for (frame,) in on_device("denoise_stream", device, single, there))
    before, frames = peeked("denoise_stream", each)
    options = {"quality": quality, "radius": radius, "mix": mix, "temporal_only": temporal_only}
    spec = spec_of("denoise_stream", before, [sigma], strength, white, bits, max_memory=max_memory, **options)
    return (each.give(frame) for (frame,) in denoised(spec, ((frame,) for frame in frames), flow))


def denoise_planes(
    frames: Iterable[Planes],
    sigma: Sigma | Sequence[Sigma] | AnyArray | Noise = None,
    *,
    quality: Quality = DenoiseSpec.quality,
    radius: int | None = DenoiseSpec.radius,
    flow: Method | Measure | Flows | None = METHOD,
    strength: Strength = 1.0,
    mix: float = DenoiseSpec.mix,
    temporal_only: bool = DenoiseSpec.temporal_only,
    white: float | None = None,
    bits: int | None = None,
    max_memory: int | str | None = DenoiseSpec.max_memory,
    noted: Callable[[list[float]], object] | None = None,
    device: str | None = None,
) -> Iterator[Planes]:
    """Run `denoise_stream` on frames whose planes differ in noise, and perhaps in size, as those of YUV.

    All planes have the motion of the first. Patches of the others are searched in their sum with the first plane, which
    is averaged to their size.

    Args:
        frames: an iterator over tuples of arrays: planes (H, W). Those after the first share one size. It is that of the
            first or, along an axis, a half or a quarter of it, rounded up. A tuple of one array holds a frame as
            `denoise` takes it
        sigma: standard deviation of the noise as in `denoise`, or one for each of the arrays; one for each pixel of the
            first plane, or what `estimate_noise` found for such frames
        strength: as in `denoise`; one for each of the arrays, if there are several
        quality, radius, flow, mix, temporal_only, white, bits, max_memory, device: as in `denoise_stream`
        noted: a function that is called for each frame with a list of the standard deviations, on the scale 0..1

    Returns:
        iterator over tuples of denoised arrays, in order

    Example:
        >>> planes = np.full((48, 64), 100, np.uint8), np.full((24, 32), 50, np.uint8), np.full((24, 32), 60, np.uint8)
        >>> [[int(plane[0, 0]) for plane in frame] for frame in denoise_planes([planes], (10, 5, 5))]
        [[100, 50, 60]]
    """
    frames, flow = as_numbered("denoise_planes", frames, pair_of("denoise_planes", flow))
    if device is not None:
        more: dict[str, Any] = {"quality": quality, "radius": radius, "mix": mix, "temporal_only": temporal_only}
        more |= {"strength": strength, "white": white, "bits": bits, "max_memory": max_memory, "noted": noted}

        def there(frames: Iterator[Planes], place: Place) -> Iterator[Planes]:
            return denoise_planes(frames, sigma, flow=place.flow(flow), **more)

        return on_device("denoise_planes", device, iterated("denoise_planes", frames), there)
    before, frames = peeked("denoise_planes", frames)
    if before is None:
        return iter(())
    frames = check_planes("denoise_planes", frames, before)
    sigmas: Any = sigma if isinstance(sigma, (list, tuple)) else [sigma] * len(before)
    if len(sigmas) != len(before):
        raise ShiftsearchError(
            f"denoise_planes: sigma has {len(sigmas)} numbers, expected one, or one for each of the {len(before)} "
            "arrays of a frame"
        )
    options = {"quality": quality, "radius": radius, "mix": mix, "temporal_only": temporal_only}
    spec = spec_of("denoise_planes", before[0], sigmas, strength, white, bits, max_memory=max_memory, **options)
    return denoised(spec, frames, flow, noted)


def denoised(
    spec: DenoiseSpec, frames: Iterable[Planes], flow: Any, noted: Callable[[list[float]], object] | None = None
) -> Iterator[Planes]:
    """Yield denoised frames, which are tuples of arrays.

    `flow` may also be a tuple (forward, backward), of which each has a flow for each frame.
    """
    method = method_of(spec.caller, flow)
    frames = scaled(spec.caller, frames, spec.white)
    stages: _Stages | None = None
    with Threads() as pool, reused():
        for number, (frame, begins) in enumerate(with_scenes(spec.caller, frames, lambda frame: frame[0], spec.white)):
            if stages is None or begins:
                if stages is not None:
                    yield from stages.finish()
                pool.most = room(spec, frame)
                scene = Scene(spec, method, pool.in_order, len({tuple(array.shape) for array in frame}))
                stages = _Stages(spec, scene, flow, noted)
            yield from stages.push(number, frame)
        if stages is not None:
            yield from stages.finish()


class _Stages:
    """A scene whose frames are given and returned in the caller's form."""

    def __init__(self, spec: DenoiseSpec, scene: Scene, flow: Any, noted: Callable[[list[float]], object] | None):
        self._op, self._spec, self._scene, self._flow, self._noted = spec.caller, spec, scene, flow, noted
        self._names = [f"plane {n}" for n in range(len(spec.sigma))] if len(spec.sigma) > 1 else ["frames"]
        self._last: Planes = ()

    def push(self, number: int, frame: Planes) -> Iterator[Planes]:
        """Take a frame and yield those that are ready."""
        flow = self._flow_between(number, self._last[0], frame[0]) if self._last else {}
        self._last = frame
        return self._whole(transform(self._op, self._push, DTYPES, **self._named(frame), **flow))

    def finish(self) -> Iterator[Planes]:
        """Yield the remaining frames, in the form of the last one."""
        return self._whole(transform(self._op, self._finish, DTYPES, **self._named(self._last)))

    def _flow_between(self, number: int, before: Any, frame: Any) -> dict[str, Any]:
        """Return the flow from the frame before to frame `number`, and back, if it is the caller's."""
        if isinstance(self._flow, tuple):
            try:
                return {"forward": self._flow[0][number - 1], "backward": self._flow[1][number]}
            except IndexError:
                raise ShiftsearchError(f"{self._op}: flow ends before frame {number}, expected one for each") from None
        if callable(self._flow):
            return {"forward": self._flow(before, frame), "backward": self._flow(frame, before)}
        return {}

    def _push(self, xp: Any, *arrays: Any) -> tuple[Any, ...]:
        count = len(self._names)
        frame, flow = arrays[:count], arrays[count:]
        natives = [planar(self._op, name, array, self._spec.white)[0] for name, array in self._named(frame).items()]
        for name, array in zip(("forward", "backward"), flow, strict=False):
            _check_flow(self._op, name, array, natives[0].shape[1:])
        picture = taken(xp, natives, self._spec.sigma, self._spec.strength)
        del natives  # frames are large
        return self._given(xp, self._scene.push(xp, picture, flow), frame)

    def _finish(self, xp: Any, *frame: Any) -> tuple[Any, ...]:
        return self._given(xp, self._scene.finish(xp), frame)

    def _given(self, xp: Any, pictures: Iterable[tuple[Frame, ...]], frame: Any) -> tuple[Any, ...]:
        found: list[Any] = []
        for picture in pictures:
            if self._noted is not None:
                self._noted(list(noise_of(picture).sigma[: len(self._names)]))
            found += given(xp, picture, frame, self._spec.mix, self._spec.white)
            del picture  # frames are large, and the next ones are yet to be computed
        return tuple(found)

    def _named(self, frame: Planes) -> dict[str, Any]:
        return dict(zip(self._names, frame, strict=True))

    def _whole(self, arrays: Iterable[Any]) -> Iterator[Planes]:
        return zip(*[iter(arrays)] * len(self._names), strict=True)


def _check_flow(op: str, name: str, flow: Any, size: tuple[int, int]) -> None:
    if checked(op, name, flow).ndim != 3 or flow.shape[1] > size[0] or flow.shape[2] > size[1]:
        raise ShiftsearchError(
            f"{op}: {name} has shape {tuple(flow.shape)}, expected (2, {size[0]}, {size[1]}) or coarser"
        )
