"""Vector code finds the same groups as `match`: where flow of any kind leads, and where it leads to other things."""

from __future__ import annotations

import numpy as np
import pytest

from shiftsearch.video.denoise import Noise, direct, groups, passes, qualities
from shiftsearch.video.denoise.margins import with_margins, zeros_with_margins

FLOWS = {
    "none": lambda rng, size: None,
    "far": lambda rng, size: 30 * rng.standard_normal((2, *size)).astype(np.float32),
    "one for all": lambda rng, size: np.broadcast_to(np.float32(rng.normal(0, 9, (2, 1, 1))), (2, *size)),
    "coarse, of doubles": lambda rng, size: 5 * rng.standard_normal((2, *(n // 2 for n in size))),
    "channels last": lambda rng, size: 5 * rng.standard_normal((*size, 2), np.float32).transpose(2, 0, 1),
    "no numbers": lambda rng, size: rng.choice(np.float32([1, np.nan, np.inf, -3e9]), (2, *size)),
}


def clip_with_flow(rng, kind, n, size):
    """Return frames that are alike, so that some patches show the same thing and some do not."""
    still, frames = rng.random(size), []
    for _ in range(n):
        plane = (still + 0.3 * rng.standard_normal((1, *size))).astype(np.float32)
        frames.append(passes.Frame(with_margins(np, plane), Noise.white([0.33]), [False]))
        frames[-1].forward, frames[-1].backward = (FLOWS[kind](rng, size) for _ in range(2))
    return frames


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize(("n", "here"), [(1, 0), (2, 1), (7, 3), (12, 11)])
@pytest.mark.parametrize(("size", "temporal"), [((29, 38), False), ((8, 9), False), ((21, 9), True)])
def test_groups_are_those_of_match(kind, n, here, size, temporal, rng):
    frames = clip_with_flow(rng, kind, n, size)
    for one in qualities.passes_of("fast", temporal):
        assert direct.covers(np, frames, one)
        wanted = groups.of_each_frame(np, frames, here, one)
        found = direct._found(frames, here, one, lambda work, parts, each: map(work, parts))
        np.testing.assert_array_equal(found, wanted)
    assert n == 1 or (found[..., 0] != np.arange(n) - here).any() or kind == "none"


def test_frames_smaller_than_a_patch_are_left_to_match(rng):
    for one in qualities.passes_of("fast", False):
        assert direct.covers(np, clip_with_flow(rng, "none", 3, (8, 20)), one)
        assert not direct.covers(np, clip_with_flow(rng, "none", 3, (7, 20)), one)


def test_margins_stay_with_the_planes_of_an_array_and_their_sums(rng):
    planes = with_margins(np, rng.random((3, 9, 11), np.float32))
    assert with_margins(np, planes[1][None]).base is planes.base
    for part in (planes[:, 1:], planes[:, :, ::2], planes.copy()):
        assert with_margins(np, part).base is not part.base
    frame = passes.Frame(planes, Noise.white([0.1] * 3), [False] * 3, weights=(1, 2, 3))
    whole = zeros_with_margins(np, (1, 9, 11))
    whole.base[...] = (planes.base * np.float32([1, 2, 3])[:, None, None]).sum(0)
    np.testing.assert_allclose(with_margins(np, frame.searched[None]).base, whole.base, rtol=1e-6)
    assert with_margins(np, frame.searched[None]).base is frame.searched.base
