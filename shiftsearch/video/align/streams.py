"""Iterators of frames of any length, warped onto their neighbours while two frames are held at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.align.pair import warp_pair
from shiftsearch.video.align.spec import ONTO, AlignOptions, Onto, is_method, spec_of, wanted
from shiftsearch.video.device import Place, on_device
from shiftsearch.video.forms import Each, first
from shiftsearch.video.frames import coarsened
from shiftsearch.video.scale import scaled
from shiftsearch.video.scenes import with_scenes
from shiftsearch.video.streams import check_planes, iterated, peeked
from shiftsearch.video.types import METHOD, AnyFrame, Measure, Method, Planes

if TYPE_CHECKING:
    from typing_extensions import Unpack


@overload
def align_stream(
    frames: Iterable[AnyFrame],
    to: Onto = ONTO,
    flow: Method | Measure | None = METHOD,
    *,
    return_offsets: Literal[False] = False,
    return_mask: Literal[False] = False,
    device: str | None = None,
    **options: Unpack[AlignOptions],
) -> Iterator[AnyFrame]: ...
@overload
def align_stream(
    frames: Iterable[AnyFrame],
    to: Onto = ONTO,
    flow: Method | Measure | None = METHOD,
    *,
    return_offsets: Literal[True],
    return_mask: Literal[False] = False,
    device: str | None = None,
    **options: Unpack[AlignOptions],
) -> Iterator[tuple[AnyFrame, Any]]: ...
@overload
def align_stream(
    frames: Iterable[AnyFrame],
    to: Onto = ONTO,
    flow: Method | Measure | None = METHOD,
    *,
    return_offsets: bool,
    return_mask: Literal[False] = False,
    device: str | None = None,
    **options: Unpack[AlignOptions],
) -> Iterator[AnyFrame] | Iterator[tuple[AnyFrame, Any]]: ...
@overload
def align_stream(
    frames: Iterable[AnyFrame],
    to: Onto = ONTO,
    flow: Method | Measure | None = METHOD,
    *,
    return_offsets: bool = False,
    return_mask: bool,
    device: str | None = None,
    **options: Unpack[AlignOptions],
) -> Iterator[Any]: ...


def align_stream(
    frames: Iterable[Any],
    to: Onto = ONTO,
    flow: Method | Measure | None = METHOD,
    *,
    return_offsets: bool = False,
    return_mask: bool = False,
    device: str | None = None,
    **options: Unpack[AlignOptions],
) -> Iterator[Any]:
    """Run `align_clip` on an iterable of frames of any length. It holds two frames at a time.

    Args:
        frames: frames (H, W) or (H, W, C) of one shape and dtype, each a separate array
        to: "previous" or "next"
        flow: "auto", "match", "dis", "farneback", None or a function, as in `align`
        return_offsets, return_mask: as in `align`. The iterator then gives tuples (frame, offsets, mask) of what is wanted
        device: where frames of main memory are computed, as in `denoise_stream`
        options: as in `align`

    Returns:
        iterator over the warped frames, equal to those of `align_clip` bit for bit

    Example:
        >>> clip = np.random.default_rng(0).random((5, 12, 16)).repeat(4, 1).repeat(4, 2)
        >>> sum(1 for frame in align_stream(iter(clip), flow=None))
        5
    """
    each = Each("align_stream", iterated("align_stream", frames))
    if device is not None:
        several = return_offsets or return_mask

        def there(frames: Iterator[Planes], place: Place) -> Iterator[Planes]:
            more: dict[str, Any] = {"return_offsets": return_offsets, "return_mask": return_mask, **options}
            found = align_stream((frame for (frame,) in frames), to, place.flow(flow), **more)
            return found if several else ((frame,) for frame in found)

        found = on_device("align_stream", device, ((frame,) for frame in each), there)
        return (first(each.give, frame if several else frame[0]) for frame in found)
    if not (isinstance(to, str) and to in ("previous", "next")):
        raise ShiftsearchError(f'align_stream: to is {to!r}, expected "previous" or "next"')
    if not is_method("align_stream", flow):
        raise ShiftsearchError(
            f'align_stream: flow is a {type(flow).__qualname__}, expected "auto", "match", "dis", "farneback", None or '
            "a function"
        )
    white = spec_of("align_stream", None, **options).white  # wrong options raise an error here, not at the first frame

    def pair(reference: Any, frame: Any) -> Any:
        found = warp_pair(spec_of("align_stream", frame, **options), reference, frame, flow, mask=return_mask)
        return wanted(found, return_offsets)

    checked = (frame for (frame,) in scaled("align_stream", ((frame,) for frame in each), white))
    scenes = with_scenes("align_stream", checked, white=white)
    return (first(each.give, found) for found in _streamed(pair, scenes, to))


def align_planes(
    frames: Iterable[Planes],
    to: Onto | Planes = ONTO,
    flow: Method | Measure | None = METHOD,
    *,
    noted: Callable[[Any], object] | None = None,
    device: str | None = None,
    **options: Unpack[AlignOptions],
) -> Iterator[Planes]:
    """Run `align_stream` on frames whose planes may differ in size, like those of YUV.

    Only the first plane is searched, and the others are moved by the same offsets.

    Args:
        frames: an iterator over tuples of planes (H, W), as for `denoise_planes`, or over tuples of one frame each, as
            for `align`
        to: "previous", "next", or a tuple of planes that all frames are warped onto
        noted: called with the mask of each frame, as `return_mask` of `align_stream` gives it
        flow, device, options: as in `align_stream`

    Returns:
        iterator over tuples of warped arrays, in order

    Example:
        >>> planes = np.full((48, 64), 100, np.uint8), np.full((24, 32), 50, np.uint8), np.full((24, 32), 60, np.uint8)
        >>> [[int(plane[0, 0]) for plane in frame] for frame in align_planes([planes, planes], flow=None)]
        [[100, 50, 60], [100, 50, 60]]
    """
    if device is not None:

        def there(frames: Iterator[Planes], place: Place) -> Iterator[Planes]:
            onto: Any = to if isinstance(to, str) else tuple(map(place.put, to))
            seen = None if noted is None else lambda mask: noted(place.get(mask))
            return align_planes(frames, onto, place.flow(flow), noted=seen, **options)

        return on_device("align_planes", device, iterated("align_planes", frames), there)
    white = spec_of("align_planes", None, **options).white
    first, frames = peeked("align_planes", frames)
    if first is None:
        return iter(())
    frames = scaled("align_planes", check_planes("align_planes", frames, first), white)

    def pair(reference: Planes | None, frame: Planes) -> Planes:
        spec = spec_of("align_planes", frame[0], **options)
        reference = (None,) * len(frame) if reference is None else reference
        moved, offsets, *mask = warp_pair(spec, reference[0], frame[0], flow, mask=noted is not None)
        if noted is not None:
            noted(*mask)
        follow = spec_of("align_planes", frame[0], **{**options, "window": 1, "sigma": 0})
        others = zip(reference[1:], frame[1:], strict=True)
        return (moved, *(warp_pair(follow, r, plane, _coarser(offsets, plane.shape))[0] for r, plane in others))

    if not isinstance(to, str):
        return (pair(to, frame) for frame in frames)
    return _streamed(pair, with_scenes("align_planes", frames, lambda frame: frame[0], white), to)


def _coarser(offsets: Any, size: tuple[int, ...]) -> Any:
    """Return offsets (2, H, W) for a plane of this size, in pixels of that plane."""

    def natively(xp: Any, offsets: Any) -> Any:
        found, factors = coarsened(xp, offsets, size)
        return found / xp.asarray(factors[::-1], "float32")[:, None, None]

    return transform("align_planes", natively, flow=offsets)


def _streamed(pair: Callable[[Any, Any], Any], frames: Iterable[tuple[Any, bool]], to: Onto) -> Iterator[Any]:
    before = None
    for frame, begins in frames:
        if to == "previous":
            yield pair(None if begins else before, frame)
        elif before is not None:
            yield pair(None if begins else frame, before)
        before = frame
    if to == "next" and before is not None:
        yield pair(None, before)
