"""Tests that test_emulator.py runs under ThreadSanitizer: it finds these bugs, and raises no false alarm."""

from __future__ import annotations

import re

import pytest

from emulate.planted import BUGS

_SEEN = [bug for bug in BUGS if "tsan" in bug.seen]


@pytest.mark.parametrize("bug", _SEEN, ids=lambda bug: bug.name)
def test_seen(bug):
    for _ in range(2):  # the second time too: a test that fails is run again, smaller
        said = bug.said("tsan", seed=1)
        assert re.search(bug.seen["tsan"], said), said


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_no_false_alarm(bug):
    for seed in (0, 1):
        assert (bug.run("tsan", False, seed) == bug.expected).all()
