"""`shiftsearch warm`: compile the kernels of common calls ahead, so that nobody waits for them at the first call.

Each task makes small calls, as users make large ones: kernels do not depend on the sizes of arrays. On the CPU they do not
depend on most options either, so that these calls need nearly all kernels in single precision. On a GPU each choice of
options is a kernel: those are compiled that tasks with video need, and the options of the examples of the ops.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import shiftsearch as ss
from shiftsearch import _arrays, flow
from shiftsearch._op import OPS, Op
from shiftsearch.backends import cuda
from shiftsearch.backends.cpu import disk
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.qualities import PASSES

_Put = Callable[[np.ndarray], Any]  # an array of NumPy to one on a device


def warm(device: str = "auto", out: TextIO | None = None) -> None:
    """Compile for a device, or for all that are there with "auto", and print what takes how long and where it is kept."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ShiftsearchError(f"warm: device is {device!r}, expected auto, cpu, cuda or cuda:N")
    places, start = [], time.perf_counter()
    if device in ("auto", "cpu"):
        _compile("cpu", lambda array: array, out)
        places.append(f"{disk.folder()} for this processor")
    if device != "cpu" and (gpus := _gpus(device, out)):
        for number, xp in gpus:
            with xp.cuda.Device(number):
                _compile(f"cuda:{number}", xp.asarray, out)
        places.append(f"{os.environ.get('CUPY_CACHE_DIR', '~/.cupy/kernel_cache')} for GPUs")
    print(f"{time.perf_counter() - start:.1f} s; kernels are kept in {' and in '.join(places)}", file=out)


def _gpus(device: str, out: TextIO | None) -> list[tuple[int, Any]]:
    """Return the numbers of the GPUs that are asked for, each with its array module; "auto" takes any number of them."""
    try:
        xp = cuda.load().xp
    except ShiftsearchError as error:
        if device != "auto":
            raise ShiftsearchError(f"warm: device is {device}, and {error}") from None
        print(f"no GPU: {error}", file=out)
        return []
    count = xp.cuda.runtime.getDeviceCount()
    numbers = [int(device[5:])] if ":" in device else [*range(count)]
    if numbers[-1] >= count:
        raise ShiftsearchError(f"warm: device is {device}, expected at most cuda:{count - 1}")
    return [(number, xp) for number in numbers]


def _compile(device: str, put: _Put, out: TextIO | None) -> None:
    if device == "cpu":
        _check_folder(disk.folder())
    tasks = _tasks()
    for number, (name, task) in enumerate(tasks.items(), 1):
        start = time.perf_counter()
        task(put)
        print(
            f"{device:7} {number:2}/{len(tasks)}  {name:24} {time.perf_counter() - start:6.1f} s", file=out, flush=True
        )


def _check_folder(folder: Path) -> None:
    """Raise an error if nothing can be kept: calls go on without, but nothing would be warm."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ShiftsearchError(
            f"warm: {folder} cannot be written ({error.strerror}), expected a folder that can: set NUMBA_CACHE_DIR"
        ) from None


# --- what is called ---------------------------------------------------------------------------------
def _tasks() -> dict[str, Callable[[_Put], object]]:
    """Return what is done on each device, by name."""
    ops = {f"op {op.name}": partial(_example, op) for op in OPS.values()}
    denoise = {f"denoise, {quality}": partial(_denoise, quality) for quality in PASSES}
    return {**ops, "whole pixels": _whole_pixels, "flow.match": _match, "align": _align, **denoise}


def _example(op: Op, put: _Put) -> None:
    """Call an op as its example does, at fractional places, and ask for all gradients."""
    spec = op.specify(**op.example.options)
    arrays = {n: put(array.astype(np.float32)) for n, array in op.example_arrays(np.random.default_rng(0)).items()}
    outputs = _arrays.forward(op, spec, arrays)
    arrive = {n: put(np.ones(array.shape, np.float32)) for n, array in outputs.items() if op.outputs[n] != "index"}
    _arrays.backward(op, spec, arrays, outputs, arrive, arrays.keys())


def _whole_pixels(put: _Put) -> None:
    """Search, and read and add at what was found."""
    rng = np.random.default_rng(0)
    video = put(rng.standard_normal((1, 3, 8, 24, 28), np.float32))
    motion = put(rng.integers(-2, 3, (1, 3, 2, 2, 24, 28)).astype(np.float32))
    for patch in (1, 3, 7):
        scores, offsets = ss.search(video, video, motion, window=9, patch=patch, topk=4)
        ss.refine(video, video, offsets, window=3, patch=patch, topk=4)
        ss.score(video, video, offsets, patch=patch)
        ss.aggregate(video, scores, offsets, patch=patch)
        ss.scatter(video, scores, offsets, patch=patch)
        ss.fold(ss.gather(video, offsets, patch=patch), offsets, scores, size=(3, 24, 28))
        ss.search(video, video, motion, window=9, patch=patch)
    ss.stack(video, offsets, scores)
    ss.attend(video, video, video, motion, window=9, topk=4)
    ss.attend(video, video, video, motion, window=9, topk=None)


def _match(put: _Put) -> None:
    clip = _clip(put, 12)  # large frames, which are searched from coarse to fine
    flow.match(clip[0], clip[1])
    flow.match(clip[0, ..., 0], clip[1, ..., 0])


def _align(put: _Put) -> None:
    for return_mask in (False, True):
        ss.align_clip(_clip(put), flow="match", return_mask=return_mask)
    ss.align(_clip(put)[0], _clip(put), flow="match")


def _denoise(quality: Any, put: _Put) -> None:
    ss.denoise(_clip(put), quality=quality, flow="match")
    ss.denoise(_clip(put)[..., 0], 10, quality=quality, flow="match")


def _clip(put: _Put, size: int = 4) -> Any:
    """Return a clip in colour that moves, and in which the passes of each quality reach all frames that they look for."""
    still = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8).repeat(size, 0).repeat(size, 1)
    return put(np.stack([np.roll(still, (t, 2 * t), (0, 1)) for t in range(14)]))
