"""A long clip in pieces: which frames to read, which results to keep, and where scenes begin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

from shiftsearch._arrays import transform
from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.search import match
from shiftsearch.video.frames import DTYPES, layout, planar


class Chunk(NamedTuple):
    """Frames `start` to `stop` are read, the results of `keep_start` to `keep_stop` are kept: numbers in the whole clip."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def read(self) -> slice:
        """What to take of the clip."""
        return slice(self.start, self.stop)

    @property
    def keep(self) -> slice:
        """What to take of the results of those frames."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


@dataclass(frozen=True)
class _ChunksSpec(Spec):
    frames: int
    size: int
    overlap: int

    def __post_init__(self):
        self.whole("frames", "overlap", least=0)
        self.whole("size")


def chunks(frames, size, overlap, cuts=()) -> list[Chunk]:
    """How to compute a long clip in pieces, in any order and on any number of machines.

    If each result depends on at most `overlap` frames before and after its own, none of them beyond a cut, then the
    kept results of all chunks, put together in order, are those of the whole clip.

    Args:
        frames: how many there are
        size: the most results to keep of a chunk; the chunks of a scene have equal sizes, or differ by one
        overlap: frames before and after those that are kept, where the scene has them. Searches with a `radius` look
            2 * radius frames back at the end of a clip, and ahead at its start
        cuts: numbers of the frames that begin a scene, as `scene_cuts` finds them: no chunk reads across one

    Returns:
        list of (start, stop, keep_start, keep_stop): read frames start to stop, and keep the results of frames
        keep_start to keep_stop. As slices, `chunk.read` is of the clip and `chunk.keep` of what was computed from it

    Example:
        >>> for chunk in chunks(10, size=4, overlap=1, cuts=[7]):
        ...     print(chunk)
        Chunk(start=0, stop=4, keep_start=0, keep_stop=3)
        Chunk(start=2, stop=7, keep_start=3, keep_stop=7)
        Chunk(start=7, stop=10, keep_start=7, keep_stop=10)
        >>> clip = np.arange(10) ** 2
        >>> parts = [clip[chunk.read][chunk.keep] for chunk in chunks(10, size=4, overlap=1)]
        >>> bool((np.concatenate(parts) == clip).all())
        True
    """
    spec = _ChunksSpec("chunks", frames, size, overlap)
    found = []
    for begin, end in pairwise(_scene_ends(spec.frames, cuts)):
        parts = -(-(end - begin) // spec.size)
        kept = [begin + (end - begin) * i // parts for i in range(parts + 1)]
        found += [
            Chunk(max(begin, first - spec.overlap), min(end, last + spec.overlap), first, last)
            for first, last in pairwise(kept)
        ]
    return found


def _scene_ends(frames: int, cuts) -> list[int]:
    ends = {0, frames}
    if not isinstance(cuts, Iterable):
        raise ShiftsearchError(f"chunks: cuts is {cuts!r}, expected numbers of frames, as scene_cuts gives them")
    for cut in cuts:
        if isinstance(cut, bool) or not hasattr(cut, "__index__") or not 0 < cut < frames:
            raise ShiftsearchError(f"chunks: cuts has {cut!r}, expected numbers of frames from 1 to {frames - 1}")
        ends.add(int(cut))
    return sorted(ends)


# --- scenes -----------------------------------------------------------------------------------------
_SIDE = 24  # pixels of a thumbnail's shorter side
_WINDOW = 21  # half pixels of a thumbnail that are searched for a patch: motion of a fifth of its rows
_PATCH = 7
_CHANGE = 0.4  # real cuts gave 0.7 and more, motion and pans at most 0.3
_FLAT = 0.02  # of white: contrast below this is none


def scene_cuts(frames: Iterable) -> Iterator[int]:
    """Where scenes begin: the numbers of the frames whose content is not that of the frame before, moved.

    Each frame is compared with the one before it alone, as thumbnails of some 24 rows: patches of one are searched in
    the other, both ways. There is a cut where what is found differs by more than 40 % of the contrast of the frames.
    Noise, pans and fast motion are no cuts, nor are dissolves, which have no frame that begins a scene.

    Args:
        frames: a clip, or any iterable of frames (H, W) or (H, W, C), read once and not kept

    Returns:
        iterator over frame numbers, from 1 on

    Example:
        >>> rng = np.random.default_rng(0)
        >>> first, second = rng.random((2, 12, 16)).repeat(4, 1).repeat(4, 2)
        >>> clip = [np.roll(first, n, axis=1) for n in range(4)] + [np.roll(second, n, axis=0) for n in range(4)]
        >>> list(scene_cuts(clip))
        [4]
    """
    for number, (_, begins) in enumerate(with_scenes("scene_cuts", frames)):
        if begins and number:
            yield number


def with_scenes(op: str, frames: Iterable, seen=lambda frame: frame) -> Iterator[tuple]:
    """Each frame with whether it begins a scene, as the first does; `seen(frame)` is the array that is looked at."""
    before = first = None
    for number, whole in enumerate(iterated(op, frames)):
        frame = seen(whole)
        last = {} if before is None else {"the frame before": before[0]}  # of one library and device
        thumbnail = transform(op, lambda xp, array, *_: _thumbnail(op, xp, array), DTYPES, frame=frame, **last)
        first = first or (tuple(frame.shape), frame.dtype)
        if (tuple(frame.shape), frame.dtype) != first:
            raise ShiftsearchError(
                f"{op}: frame {number} is {frame.dtype} {tuple(frame.shape)}, expected {first[1]} {first[0]} as frame 0"
            )
        yield whole, before is None or _cut(before, thumbnail)
        before = thumbnail


def iterated(op: str, frames):
    try:
        return iter(frames)
    except TypeError:
        raise ShiftsearchError(
            f"{op}: frames is a {type(frames).__qualname__}, expected a clip or an iterator over frames"
        ) from None


def peeked(op: str, frames):
    """The first frame, or None, and an iterator over all."""
    rest = iterated(op, frames)
    first = next(rest, None)
    return first, rest if first is None else chain([first], rest)


def _thumbnail(op: str, xp, frame):
    """(1, h, w) of a frame, means of squares of its pixels and channels; and the variance that noise has in it, at most."""
    if layout(op, "frame", frame.shape)[1]:
        raise ShiftsearchError(f"{op}: frame has shape {tuple(frame.shape)}, expected (H, W) or (H, W, C)")
    step = max(1, min(frame.shape[:2]) // (8 * _SIDE))  # of large frames, some pixels are enough
    native = planar(op, "frame", frame[::step, ::step])
    native = xp.fmin(xp.fmax(native, 0), 1).astype("float32")  # values beyond, or that are none, say nothing of a scene
    _, channels, height, width = native.shape
    side = max(1, min(height, width) // _SIDE)
    h, w = height // side, width // side
    squares = native[0, :, : h * side, : w * side].reshape(channels, h, side, w, side)
    means = squares.mean(2).mean(-1)
    spread = (squares**2).mean() - (means**2).mean()  # the mean variance within squares
    return means.mean(0)[None], spread.reshape(1) / (channels * side**2)


def _cut(before, after) -> bool:
    """Whether too much of the contrast of two thumbnails is not found in each other, noise apart."""
    (a, noise_a), (b, noise_b) = before, after
    contrast = float(((a - a.mean()) ** 2).mean() + ((b - b.mean()) ** 2).mean()) / 2
    most = _CHANGE * (contrast + _FLAT**2) + float((noise_a + noise_b).sum())
    # a search finds what stays in its place, too, which is the same both ways: where that is enough, none is needed
    return _missed(a, b, 1) > most and max(_missed(a, b, _WINDOW), _missed(b, a, _WINDOW)) > most


def _missed(a, b, window: int) -> float:
    scores, _ = match(a, b, window=window, patch=_PATCH, topk=1, stride=4, step=0.5, subpixel=True, slide=False)
    return float(scores.mean()) / _PATCH**2
