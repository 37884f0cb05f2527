"""Seconds that video would take on an H100: those of kernels, of array code between them, and of waiting for its numbers.

One comes after the other here, each kernel and each operation with what a launch takes at least. Nothing is measured.

`python tests/modelled_video.py [--whole]` prints the frames a second of "fast", and what costs most.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from array_costs import BANDWIDTH, LAUNCH, Operation, counted, nbytes
from modelled import model

import shiftsearch
from shiftsearch.backends.cuda import kernels

sys.path.append(str(Path(__file__).parent.parent / "examples" / "benchmarks"))

from gpu_cases import Case
from gpu_cases import align as call_of_align
from gpu_warm import Recorder

HEIGHT, WIDTH = 1080, 1920
_WARM, _MORE = 7, 2  # frames until a clip is as everywhere, and of which one is the mean
_SHOWN = 12  # of what takes most
_WINDOW = 12  # pixels between which places lie that were found in a window of 9, and what is read around them


@dataclass(frozen=True)
class Cost:
    """What some frames take."""

    seconds: dict[str, float]  # by kind
    most: list[tuple[str, float]]  # by kernel or function, those that take most first

    def __str__(self) -> str:
        return ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in self.seconds.items())


class Device(Recorder):
    """Also writes down the case of each launch, as far as its sizes tell."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[float] = []  # seconds of each launch until its arrays are read and written once

    def launch(self, program: kernels.Program, blocks: int, values: tuple[Any, ...], **options: Any) -> None:
        self.moved.append(sum(map(nbytes, values)) / BANDWIDTH)
        structs = (value for value in values if getattr(value, "dtype", None) is not None and value.dtype.names)
        sizes = {name: int(struct[name]) for struct in structs for name in struct.dtype.names}
        before = self.launches[-1][2] if self.launches else None
        self.launches.append((program, blocks, _case_of(program.constants, sizes, before)))


def _case_of(c: dict[str, Any], sizes: dict[str, int], before: Case | None) -> Case:
    """Return the case of a launch. Those without sizes, such as of a sort, go on with what was launched before."""
    if "by" in sizes:  # of means around pixels
        return Case(options={"window": sizes["by"]})
    if "channels" in sizes:  # of warps
        return Case(channels=sizes["channels"])
    if "F" not in sizes:
        return before or Case()
    pixels = sizes["kH"] * sizes["kW"]
    candidates = sizes["T"] * sizes["h"] * sizes["w"] * sizes["K"]
    landed = candidates / (sizes["kT"] * pixels)  # at each pixel, where kernels know their REACH
    window = c.get("WINDOW_X", _WINDOW)
    kept = landed if "REACH" in c else sizes["K"] or window**2
    options = {"patch": c["PATCH"], "window": window, "radius": 0, "heads": 1, "topk": kept}
    size = {"height": sizes["kH"], "width": sizes["kW"], "channels": sizes["F"], "frames": max(1, sizes["T"])}
    return Case(options=options, flow="fraction", **size)


def cost(device: Device, operations: list[Operation], share: float = 1) -> Cost:
    """Return a share of what kernels and operations take."""
    each: Counter[str] = Counter()
    kinds = dict.fromkeys(("kernels", "array code", "waits"), 0.0)
    for launched, moved in zip(device.launches, device.moved, strict=True):
        seconds = share * max(LAUNCH, moved, model(*launched).ms / 1e3)
        each[launched[0].kernel.name] += seconds
        kinds["kernels"] += seconds
    for operation in operations:
        each[operation.where] += share * operation.seconds
        kinds["waits" if operation.waits else "array code"] += share * operation.seconds
    return Cost(kinds, each.most_common())


def align(case: Case) -> Cost:
    """Return what a clip takes that is aligned with flow that is given, from what the second of two frames takes."""
    device = Device()
    with counted(device) as operations:
        call = call_of_align(device.xp, replace(case, frames=2))
        operations.clear()
        call()
        return cost(device, operations, case.frames - 1)


def denoise(quality: str, colours: int, height: int = HEIGHT, width: int = WIDTH) -> Cost:
    """Return what a frame takes in the middle of a clip."""
    device = Device()
    with counted(device) as operations:
        frames = (device.xp.asarray(frame) for frame in _noisy(colours, height, width))
        clean = shiftsearch.denoise_stream(frames, sigma=20, quality=quality)
        for _ in range(_WARM):
            next(clean)
        operations.clear()
        device.launches.clear()
        device.moved.clear()
        for _ in range(_MORE):
            next(clean)
        return cost(device, operations, 1 / _MORE)


def _noisy(colours: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Yield noisy frames of squares that move, (H, W) or (H, W, 3)."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (-(-height // 8), -(-width // 8), colours)).repeat(8, 0).repeat(8, 1)
    n = 0
    while True:
        moved = np.roll(squares[:height, :width], (n, 2 * n), (0, 1))
        frame = (moved + rng.normal(0, 20, moved.shape)).clip(0, 255).astype(np.uint8)
        yield frame if colours > 1 else frame[..., 0]
        n += 1


def at_full_size(quality: str, colours: int) -> Cost:
    """Return what a frame takes by what frames of a quarter and a half of its sides take: a part of it is for each pixel."""
    small, half = (denoise(quality, colours, HEIGHT // n, WIDTH // n) for n in (4, 2))
    before, most = dict(small.most), {}
    for name, seconds in half.most:
        most[name] = _extended(before.get(name, seconds), seconds)
    kinds = {name: _extended(small.seconds[name], seconds) for name, seconds in half.seconds.items()}
    return Cost(kinds, sorted(most.items(), key=lambda item: -item[1]))


def _extended(small: float, half: float) -> float:
    """Return what 16 times as many pixels take as the first, and 4 times as many as the second."""
    return half + 4 * (half - small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="run frames of full size, for minutes, not smaller ones")
    run = denoise if parser.parse_args().whole else at_full_size
    for name, colours in (("grey", 1), ("colour", 3)):
        found = run("fast", colours)
        total = sum(found.seconds.values())
        print(f'"fast", {WIDTH} x {HEIGHT}, {name}: {1 / total:.1f} frames a second; {found}')
        for where, seconds in found.most[:_SHOWN]:
            print(f"{1e3 * seconds:10.2f} ms  {where}")


if __name__ == "__main__":
    main()
