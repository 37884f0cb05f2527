"""Sizes that users have: hundreds of rows, large after small in one process, many threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SEARCH = """
import numpy as np, shiftsearch as ss
for frames, height, width in {sizes}:
    video = np.zeros((frames, 3, height, width), np.float32)
    scores, offsets = ss.search(video, video, window=9, patch=3, topk=5)
    assert not scores.any(), "equal patches differ"
    assert abs(offsets[..., 1:]).max() <= 8, "a window ends 8 pixels away at the most"
"""


def _run(text: str) -> None:
    """In a process of its own, as what is tested here may end one, and small must come before large."""
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", text], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(
    "sizes",
    [[(3, 40, 50), (3, 256, 256)], [(3, 480, 854)], [(8, 400, 500)], [(3, 9, 9), (3, 720, 33), (3, 33, 720), (3, 70, 1280)]],
    ids=str,
)
def test_a_search_of_any_size_stays_in_its_memory(sizes):
    _run(_SEARCH.format(sizes=sizes))
