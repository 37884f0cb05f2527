"""A user's program, for type checkers: test_types.py checks that they report no error, and runs it.

A line with `type: ignore` is a mistake that a checker must find: mypy reports comments that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import shiftsearch
import shiftsearch.models
import shiftsearch.nn

Array = npt.NDArray[Any]


def denoised(video: Array) -> Array:
    """Return a video that is the mean of the places found, with NumPy arrays only."""
    scores, offsets = shiftsearch.search(video, video, window=3, patch=3, topk=4, metric="l2", border="reflect")
    weights: Array = np.exp(-scores)
    refined, places = shiftsearch.refine(video, video, offsets, window=1)
    again: Array = shiftsearch.score(video, video, places, patch=3)
    assert again.shape == refined.shape
    mean: Array = shiftsearch.aggregate(video, weights / weights.sum(-1, keepdims=True), offsets)
    return mean


def patches(video: Array, offsets: Array) -> Array:
    """Return patches that are gathered and added back."""
    found: Array = shiftsearch.gather(video, offsets, patch=2)
    sums, coverage = shiftsearch.fold(found, offsets, size=(video.shape[-4], video.shape[-2], video.shape[-1]))
    assert coverage.shape[-2:] == sums.shape[-2:]
    stacked: Array = shiftsearch.stack(video, offsets)
    added: Array = shiftsearch.scatter(video, np.ones(offsets.shape[:-1], video.dtype), offsets)
    total: Array = sums + added + 0 * stacked.sum()
    return total


def moved(here: Array, there: Array) -> tuple[Array, Array]:
    """Return the places of one frame in another."""
    return shiftsearch.match(here, there, window=(1, 3), topk=1)


def motion(forward: Array, backward: Array) -> Array:
    """Return flow to the frames around, on a finer grid."""
    numbers: Array = shiftsearch.neighbours(forward.shape[0], 1)
    chained: Array = shiftsearch.chain_flow(forward, backward, radius=1)
    assert chained.shape[1] == numbers.shape[1] - 1
    counts: Array = shiftsearch.coverage((8, 8), patch=2)
    assert counts.min() > 0
    return shiftsearch.upsample_flow(chained, (2 * forward.shape[-2], 2 * forward.shape[-1]))


def learned(video: torch.Tensor) -> torch.Tensor:
    """Return the loss of a layer and a network, whose gradients are finite, with tensors only."""
    scores, offsets = shiftsearch.search(video, video, window=3, topk=2, subpixel=True)
    mean: torch.Tensor = shiftsearch.aggregate(video, torch.softmax(-scores, -1), offsets)
    layer = shiftsearch.nn.ShiftedAttention(video.shape[-3], window=3, topk=2)
    out: torch.Tensor = layer(mean)
    out, weights, places = layer(out, return_attention=True)
    assert weights.shape == places.shape[:-1]
    attended: torch.Tensor = shiftsearch.nn.attend(out, out, out, window=3, topk=2)
    network = shiftsearch.models.ShiftedUNet(depths=(1,), heads=(1,), channels=attended.shape[-3])
    loss: torch.Tensor = network(attended).square().mean()
    gradients = torch.autograd.grad(loss, list(layer.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    return loss.detach()


def of_a_list(frames: list[Array], noise: float) -> list[Array]:
    """Return the frames of a list, aligned and denoised."""
    aligned: list[Array] = shiftsearch.align_clip(frames, flow=None)
    motion: Array = shiftsearch.flow.match(frames[0], frames[1:])
    assert motion.shape == (len(frames) - 1, 2, *frames[0].shape[:2])
    return shiftsearch.denoise(aligned, noise, flow=None)


def frames(clip: Array) -> Array:
    """Return a clip, aligned and denoised."""
    aligned: Array = shiftsearch.align(clip[0], clip[1], flow=None)
    warped, offsets = shiftsearch.align(clip[0], clip[1], flow=None, return_offsets=True)
    assert (warped == aligned).all()
    assert offsets.shape == (2, *warped.shape)
    steady: Array = shiftsearch.align_clip(clip, to="next", flow=None)
    held, followed = shiftsearch.align_clip(clip, to=0, flow=None, return_offsets=True)
    assert followed.shape[0] == held.shape[0]
    return shiftsearch.denoise(steady, sigma=10, flow=None)


def streams(clip: Iterator[Array]) -> Iterator[Array]:
    """Yield frames that are aligned and denoised as they come."""
    yield from shiftsearch.denoise_stream(shiftsearch.align_stream(clip, flow=None), sigma=10, flow=None)


def pieces(clip: Array) -> list[slice]:
    """Return the frames that each machine reads."""
    cuts: list[int] = list(shiftsearch.scene_cuts(clip))
    overlap: int = shiftsearch.denoise_overlap(quality="fast")
    return [piece.read for piece in shiftsearch.chunks(len(clip), 2, overlap, cuts)]


def trusted(forward: Array, backward: Array) -> Array:
    """Return where a flow can be trusted, as a picture of it."""
    both: Array = shiftsearch.flow.consistency(forward, backward)
    picture: Array = shiftsearch.flow.to_color(forward)
    return picture * both[..., None]


def mistakes(video: Array) -> int:
    """Return how many mistakes are errors when they are run."""
    found = 0
    calls: list[Callable[[], object]] = [
        lambda: shiftsearch.search(video, video, metric="l3"),  # type: ignore[arg-type]
        lambda: shiftsearch.search(video, video, windows=3),  # type: ignore[call-arg]
        lambda: shiftsearch.denoise(video, quality="best"),  # type: ignore[arg-type]
    ]
    for mistake in calls:
        try:
            mistake()
        except (shiftsearch.ShiftsearchError, TypeError):
            found += 1
    return found


def main() -> None:
    rng = np.random.default_rng(0)
    video: npt.NDArray[np.float32] = rng.standard_normal((3, 4, 8, 9), np.float32)
    assert denoised(video).shape == video.shape
    offsets = np.zeros((1, 3, 8, 9, 2, 3), np.int32)
    assert patches(video, offsets).shape == video.shape
    assert moved(video[0], video[1])[1].shape == (1, 8, 9, 1, 2)
    flow: npt.NDArray[np.float32] = np.zeros((3, 2, 8, 9), np.float32)
    assert motion(flow, flow).shape == (3, 2, 2, 16, 18)
    assert learned(torch.from_numpy(video)).ndim == 0
    clip: npt.NDArray[np.uint8] = rng.integers(0, 255, (3, 32, 40), np.uint8)
    assert frames(clip).shape == clip.shape
    assert len(of_a_list([*clip], 10.0)) == len(clip)
    assert len(list(streams(iter(clip)))) == len(clip)
    assert len(pieces(clip)) > 0
    assert trusted(flow, flow).shape == (3, 8, 9, 3)
    assert mistakes(video) == 3


if __name__ == "__main__":
    main()
