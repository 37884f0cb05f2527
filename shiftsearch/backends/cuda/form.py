"""The form and its derivatives."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from shiftsearch._geometry import Patches
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cuda import tiles
from shiftsearch.backends.cuda.call import MOST_PLANS, PLACES, STACKED, Call, Options, for_video
from shiftsearch.backends.cuda.kernels import Kernel, Plan, each_with
from shiftsearch.backends.cuda.patches import collect

_OF_FORM, _OF_PATCHES = each_with((*PLACES, STACKED), PATCHES=0), each_with(PLACES, PATCHES=1)
SCORE = Kernel("score", "score.cu", registers=192, instances=(*PLACES, STACKED))
AGGREGATE = Kernel("aggregate", "aggregate.cu", registers=192, instances=each_with((*PLACES, STACKED), MEAN=1))
SLOPE = Kernel("slope", "slope.cu", registers=208, instances=(*_OF_FORM, *_OF_PATCHES))


@primitive
def score(device: Any, q: Native, k: Native, offsets: Native, p: Patches) -> Native:
    call = Call(device, p, offsets, k.dtype, q=q, k=k).with_channels_last()
    scores = call.arrays["scores"] = device.xp.empty(offsets.shape[:-1], call.sums)
    call.run_for_each(SCORE)
    return scores


@primitive
def aggregate(
    device: Any,
    q: Native | None,
    k: Native,
    weights: Native,
    offsets: Native,
    p: Patches,
    *,
    size: tuple[int, ...] = (),
    stacked: bool = False,
    averaged: bool = False,
) -> Native:
    each = (offsets.shape[-2],) if stacked else ()
    shape = (k.shape[0], *each, *size) if q is None else q.shape
    call = Call(device, p, offsets, k.dtype, q=q, k=k, weights=weights, q_shape=shape)
    out = call.arrays["out"] = device.xp.empty(shape, k.dtype)
    on_tiles, rest = plans_of_sum(call.options, shape, averaged, device.most_shared)
    if on_tiles is None:
        call.with_channels_last()
        _, rest = plans_of_sum(call.options, shape, averaged, device.most_shared)
    tiles.launch(on_tiles, device, call.arrays)
    rest.launch(device, call.arrays)
    return out


@lru_cache(MOST_PLANS)
def plans_of_sum(options: Options, shape: tuple[int, ...], averaged: bool, memory: int) -> tuple[Plan | None, Plan]:
    """Return how a video of this shape is summed on tiles, if it can be, and how what they leave is."""
    mean, candidates = ("MEAN", int(averaged)), 1 if options.stacked else options.sizes["K"]
    on_tiles = tiles.plan(options, tiles.AGGREGATE_TILES, candidates, (mean,), shape, memory)
    summed = on_tiles.program.constants["CHANNELS"] if on_tiles else 0
    return on_tiles, for_video(AGGREGATE, options, shape, (("REPAIR", summed), mean))


@primitive
def scatter(
    device: Any,
    q: Native,
    k: Native | None,
    weights: Native,
    offsets: Native,
    p: Patches,
    *,
    size: tuple[int, ...] = (),
) -> Native:
    shape = (q.shape[0], *size) if k is None else k.shape
    return collect(Call(device, p, offsets, q.dtype, q=q, k=k, weights=weights, k_shape=shape))


@primitive
def aggregate_and_scatter(
    device: Any, q: Native, k: Native, weights: Native, offsets: Native, p: Patches
) -> tuple[Native, Native]:
    return aggregate(device, q, k, weights, offsets, p), scatter(device, q, k, weights, offsets, p)


@primitive
def slope(
    device: Any,
    q: Native | None,
    k: Native,
    weights: Native | None,
    offsets: Native,
    p: Patches,
    *,
    patches: Native | None = None,
) -> Native:
    call = Call(device, p, offsets, k.dtype, q=q, k=k, weights=weights, patches=patches).with_channels_last()
    slopes = call.arrays["slopes"] = device.xp.empty(offsets.shape, call.sums)
    call.run_for_each(SLOPE)
    return slopes
