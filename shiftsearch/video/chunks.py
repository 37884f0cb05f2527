"""A long clip in pieces: which frames to read for each piece, and which results to keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from shiftsearch._op import Spec
from shiftsearch.errors import ShiftsearchError


class Chunk(NamedTuple):
    """A piece of a clip: read frames `start` to `stop`, keep the results of `keep_start` to `keep_stop`."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def read(self) -> slice:
        """The frames to read, as a slice of the clip."""
        return slice(self.start, self.stop)

    @property
    def keep(self) -> slice:
        """The results to keep, as a slice of those of the frames that were read."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


@dataclass(frozen=True)
class _ChunksSpec(Spec):
    frames: int
    size: int
    overlap: int

    def __post_init__(self) -> None:
        self.whole("frames", "overlap", least=0)
        self.whole("size")


def chunks(frames: int, size: int, overlap: int, cuts: Iterable[int] = ()) -> list[Chunk]:
    """Return how to compute a long clip in pieces, in any order and on any number of machines.

    Join the kept results of all chunks in order: they equal those of the whole clip. For that, each result may depend on
    at most `overlap` frames before and after its own, and on none beyond a cut.

    Args:
        frames: how many frames the clip has
        size: the most results to keep of a chunk. The sizes of the chunks of a scene differ by at most one
        overlap: how many frames to read before and after those that are kept, where the scene has them. Searches with a
            `radius` read up to 2 * radius frames back at the end of a clip, and ahead at its start
        cuts: numbers of the frames that begin a scene, as `scene_cuts` finds them: no chunk reads across one

    Returns:
        list of (start, stop, keep_start, keep_stop): read frames start to stop, and keep the results of frames
        keep_start to keep_stop. `chunk.read` is a slice of the clip, and `chunk.keep` one of the results of the chunk

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
    spec = _ChunksSpec(caller="chunks", frames=frames, size=size, overlap=overlap)
    found = []
    for begin, end in pairwise(_scene_ends(spec.frames, cuts)):
        parts = -(-(end - begin) // spec.size)
        kept = [begin + (end - begin) * i // parts for i in range(parts + 1)]
        found += [
            Chunk(max(begin, first - spec.overlap), min(end, last + spec.overlap), first, last)
            for first, last in pairwise(kept)
        ]
    return found


def _scene_ends(frames: int, cuts: Iterable[int]) -> list[int]:
    ends = {0, frames}
    if not isinstance(cuts, Iterable):
        raise ShiftsearchError(f"chunks: cuts is {cuts!r}, expected numbers of frames, as scene_cuts gives them")
    for cut in cuts:
        if isinstance(cut, bool) or not hasattr(cut, "__index__") or not 0 < cut < frames:
            raise ShiftsearchError(f"chunks: cuts has {cut!r}, expected numbers of frames from 1 to {frames - 1}")
        ends.add(int(cut))
    return sorted(ends)
