"""Usual sizes: hundreds of rows, large after small in one process, many threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import shiftsearch as ss

pytestmark = pytest.mark.full
_SEARCH = """
import sys, numpy as np, shiftsearch as ss
for frames, height, width in {sizes}:
    print(frames, height, width, file=sys.stderr)
    video = np.zeros((frames, 3, height, width), np.float32)
    scores, offsets = ss.search(video, video, window=9, patch=3, topk=5)
    assert not scores.any(), "equal patches differ"
    assert abs(offsets[..., 1:]).max() <= 8, "a window ends 8 pixels away at the most"
"""


def _run(text: str) -> None:
    """Run in a separate process, as an error may end it, and a new one has seen no size before."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", text], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(
    "sizes",
    [
        [(3, 9, 9), (3, 40, 50), (3, 256, 256), (8, 400, 500)],
        [(3, 480, 854), (3, 720, 33), (3, 33, 720), (3, 70, 1280)],
    ],
    ids=str,
)
def test_a_search_of_any_size_stays_in_its_memory(sizes):
    _run(_SEARCH.format(sizes=sizes))


def _mixed(seed: int) -> list:
    """Return the results of several ops at one of several sizes."""
    rng = np.random.default_rng(seed)
    height, width, channels = *rng.integers(9, 200, 2), int(rng.choice([3, 4, 16]))
    video, flow = rng.random((3, channels, height, width), np.float32), rng.random((3, 2, 2, height, width), np.float32)
    window, patch = int(rng.choice([3, 5, 9])), int(rng.choice([1, 3, 7]))
    scores, offsets = ss.search(video, video, 16 * flow - 8, window=window, patch=patch, topk=4)
    weights, best = np.exp(-scores), offsets[..., :1, :]
    patches = ss.gather(video, best, patch=3)
    return [
        scores,
        offsets,
        ss.aggregate(video, weights, offsets, patch=patch),
        ss.scatter(video, weights, offsets, patch=3),
        *ss.fold(patches, best, size=(3, height, width)),
        *ss.refine(video, video, best, window=3, topk=2),
        ss.score(video[:, :3], video[:, :3], best + np.float32(0.25), patch=3),
    ]


def test_many_threads_equal_one():
    wanted = [_mixed(seed) for seed in range(16)]
    with ThreadPoolExecutor(64) as threads:
        for found, right in zip(threads.map(_mixed, [*range(16)] * 4), wanted * 4, strict=True):
            assert all(map(np.array_equal, found, right))
