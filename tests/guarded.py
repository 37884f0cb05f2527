"""`python guarded.py cases` or `random start|end first last`: the CPU backend with guard pages around every array.

A read or write beside an array ends the process. Each call is printed before it is made, so that the last line
says which one it was.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np

_SOURCE = Path(__file__).parent / "guard" / "pages.c"
_DEFAULT_HANDLER = 306  # number of PyDataMem_DefaultHandler in NumPy's table of C functions
_ALLOCATOR = 128  # where its functions begin, behind a name and a version


def unavailable() -> str | None:
    """Return the reason why there are no guard pages here, or None."""
    if not sys.platform.startswith("linux"):
        return "guard pages need Linux"
    return None if shutil.which("cc") or shutil.which("gcc") else "guard pages need a C compiler"


def install(end: str) -> Callable[[str], None]:
    """Put guard pages around all new arrays of all threads; arrays touch the one at their `end`.

    Return a function that changes the end for those that are made later.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "pages.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", _SOURCE, "-o", library], check=True)
        pages = ctypes.CDLL(str(library))
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = ctypes.cast(pointer(np._core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    handler = ctypes.cast(table[_DEFAULT_HANDLER], ctypes.POINTER(ctypes.py_object))[0]
    allocator = ctypes.c_void_p(pointer(handler, b"mem_handler") + _ALLOCATOR)
    if pages.guard(allocator):
        raise MemoryError("no addresses for guard pages")

    def touch(end: str) -> None:
        pages.lie_at_end(int(end == "end"))

    touch(end)
    return touch


def tighten() -> None:
    """Make mistakes visible: memory without the room that alignment takes, and threads for small calls, too."""
    from shiftsearch.backends.cpu import margin, memory, pool, whole_places
    from shiftsearch.video.denoise import components, spectra

    pool._SMALL = 0
    # cpu.search and cpu.attend are primitives
    attend, search = (import_module(f"shiftsearch.backends.cpu.{name}") for name in ("attend", "search"))
    for module in (attend, components, margin, search, spectra, whole_places):
        assert module.aligned is memory.aligned
        module.aligned = lambda size, dtype, new=np.zeros: new(size, dtype)


def main(what: str, end: str = "start", first: str = "0", last: str = "0") -> None:
    faulthandler.enable()
    touch = install(end)
    tighten()
    from backends import Run
    from cases import CASES
    from random_calls import call_frames, grads_for, random_case, shuffled

    def run(case, precision: str, seed: int) -> None:
        print(f"{case.name}, {precision}, {end}", flush=True)
        os.environ["SHIFTSEARCH_NUM_THREADS"] = "13"[seed // 2 % 2]  # three threads for small calls, too
        rng, on = np.random.default_rng(seed), Run("cpu", precision)
        arrays = {
            name: shuffled(rng, array) if seed % 2 else array.copy() for name, array in case.arrays(on.dtype).items()
        }
        outputs = on.forward(case, arrays)
        on.backward(case, outputs, grads_for(rng, outputs), arrays)

    if what == "cases":
        for number, case in enumerate(CASES):
            for end, precision in product(("start", "end"), ("single", "double")):
                touch(end)
                run(case, precision, number)
    else:
        for seed in range(int(first), int(last)):
            run(random_case(seed), ("single", "double")[seed % 3 == 0], seed)
            if seed % 20 == 0:
                print(f"frames: random {seed}", flush=True)
                call_frames(seed)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
