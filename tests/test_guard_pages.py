"""The CPU backend reads and writes nothing outside its arrays: guard pages check code that no sanitizer does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import guarded
import pytest

pytestmark = pytest.mark.skipif(guarded.unavailable() is not None, reason=str(guarded.unavailable()))

_TOUCH = """
import ctypes, sys
import guarded, numpy as np
guarded.install({end!r})
array = np.ones({size}, np.uint8)
ctypes.string_at(array.ctypes.data, {size})
print("inside", flush=True)
ctypes.string_at(array.ctypes.data + {at}, 1)
"""


def _python(*arguments: str) -> subprocess.CompletedProcess:
    folder = Path(__file__).parent
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize(("end", "at"), [("start", -1), ("end", 5000)])
def test_a_byte_beside_an_array_ends_the_process(end, at):
    done = _python("-c", _TOUCH.format(end=end, at=at, size=5000))
    assert done.stdout == "inside\n"
    assert done.returncode < 0


@pytest.mark.full
@pytest.mark.parametrize("asked", ["cases", "random start 0 75", "random end 75 150"])
def test_no_call_touches_memory_outside_its_arrays(asked):
    done = _python("guarded.py", *asked.split())
    assert done.stdout.endswith("done\n"), f"in: {done.stdout.splitlines()[-1:]}\n{done.stderr[-3000:]}"
