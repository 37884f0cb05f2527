"""What the launches of a primitive have in common: constants, arrays as kernels read them, and sizes.

Kernels read videos with any strides. Those that read scattered patches are much faster if the channels of a pixel are
adjacent in memory: for them, other videos are copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from shiftsearch._geometry import Patches
from shiftsearch.backends.cuda.kernels import CTYPES, Constants, Kernel, Plan, Program
from shiftsearch.errors import ShiftsearchError

MOST_SIDE = 2**29  # pixels: places in and near a frame then have indices of 32 bits, see grid.cuh
MOST_PLANS = 1024  # that are kept, by the options, shapes and dtypes of calls
Pairs = tuple[tuple[str, int], ...]  # names and numbers

# what tests compile of the kernels that are given places
_ARRAYS: Constants = {"OFFSET": "float", "WHOLE": 0, "ZEROS": 0, "QUERY_ZEROS": 0, "STACKED": 0}
_CHANNELS = {"CHANNELS": 8, "VECTORS": 1, "REPAIR": 0, "COVERS": 0}
FRACTION = _ARRAYS | _CHANNELS | {"PATCH": 7, "DILATION": 1, "STRIDE": 1, "SCALE": 1, "L2": 1}
WHOLE = {**FRACTION, "OFFSET": "int", "WHOLE": 1, "L2": 0, "QUERY_ZEROS": 1, "REPAIR": 16}
_ZEROS = {**FRACTION, "ZEROS": 1, "QUERY_ZEROS": 1, "PATCH": 3, "DILATION": 2, "STRIDE": 2, "CHANNELS": 1, "VECTORS": 0}
PLACES = (FRACTION, WHOLE, _ZEROS)
STACKED = {**FRACTION, "QUERY_ZEROS": 1, "STACKED": 1, "PATCH": 3, "L2": 0}


class Call:
    """A call of a primitive that is given places. `arrays` are those of its kernels, by the names of parameters."""

    def __init__(
        self,
        device,
        p: Patches,
        offsets,
        dtype,
        *,
        q=None,
        k=None,
        weights=None,
        patches=None,
        q_shape=None,
        k_shape=None,
    ):
        """Prepare a call on the arrays that are given."""
        contiguous = device.xp.ascontiguousarray
        self.device, self.dtype, self.sums = device, dtype, sums(dtype)
        self.candidates = offsets.size // 3
        self.arrays = {
            "q": q if q is None or q.ndim == 5 else q.reshape(-1, *q.shape[2:]),
            "k": k,
            "offsets": contiguous(offsets),
            "weights": None if weights is None else contiguous(weights.astype(self.sums, copy=False)),
            "patches": None if patches is None else contiguous(patches),
            "finite": None,
        }
        shapes = offsets.shape[:-1], q_shape if q is None else q.shape, k_shape if k is None else k.shape
        self._given = p, *shapes, dtype, offsets.dtype, patches is not None
        self._options: Options | None = None

    @property
    def options(self) -> Options:
        """What the shapes and dtypes of the arrays say, and how the videos lie in memory."""
        if self._options is None:
            heads = self._given[1][1]
            q, k = lies_of(self.device, heads, self.arrays["q"]), lies_of(self.device, heads, self.arrays["k"])
            self._options = options_of(*self._given, q, k)
        return self._options

    def with_channels_last(self) -> Call:
        """Copy videos so that the channels of a pixel are adjacent, unless they are already."""
        for video in "qk":
            given = self.arrays[video]
            found = _channels_last(self.device.xp, self._given[1][1], given)
            if found is not given:
                self.arrays[video], self._options = found, None
        return self

    def run_for_each(self, kernel: Kernel, times: int = 1) -> None:
        """Launch a kernel that has `times` threads for each kept candidate, in rows as described in video.cuh."""
        for_each(kernel, self.options, times).launch(self.device, self.arrays)

    def run_for_video(self, kernel: Kernel, constants: Pairs) -> None:
        """Launch a kernel that has a thread for each pixel of `out` and group of its channels, in the same rows.

        `constants` are those that only this kernel has.
        """
        for_video(kernel, self.options, self.arrays["out"].shape, constants).launch(self.device, self.arrays)


@dataclass(frozen=True, eq=False)
class Options:
    """What the launches of a call have in common: one object for each set of options, shapes and dtypes."""

    patches: Patches
    sizes: dict[str, int]
    constants: Constants
    stacked: bool  # whether each kept candidate has its own video of queries
    whole: bool  # whether places are at whole pixels
    vectors: int  # bytes of a number if videos are read 16 bytes at a time, else 0


@lru_cache(MOST_PLANS)
def options_of(p: Patches, scores, q, k, dtype, offsets, patches: bool, q_lies, k_lies) -> Options:
    stacked, whole = q is not None and len(q) == 6, offsets.kind == "i"
    sizes = sizes_of(p, scores, q, k) | strides_of(dtype.itemsize, q_lies.strides, k_lies.strides)
    constants = {
        "OFFSET": CTYPES[offsets.name],
        "PATCHES": int(patches),
        "STACKED": int(stacked),
        "REPAIR": 0,
        "COVERS": 0,
    }
    constants |= {"CHANNELS": channels_at_a_time(sizes["F"]), **constants_of(p, dtype, whole)}
    vectors = q_lies.in_vectors and k_lies.in_vectors
    return Options(p, sizes, constants, stacked, whole, vectors * dtype.itemsize)


def plan_of(kernel: Kernel, blocks: int, options: Options, constants: Pairs = (), numbers: Pairs = ()) -> Plan:
    """Return the plan of a launch with these `constants` and `numbers`, beside those of all launches of a call."""
    known = {**options.constants, **dict(constants)}
    known["VECTORS"] = int(options.vectors > 0 and known["CHANNELS"] * options.vectors % 16 == 0)
    return Plan(Program(kernel, known), blocks, {**options.sizes, **dict(numbers)})


@lru_cache(MOST_PLANS)
def for_each(kernel: Kernel, options: Options, times: int, constants: Pairs = ()) -> Plan:
    """Return the plan of a launch of `times` threads for each kept candidate."""
    s = options.sizes
    across = s["w"] * s["K"] * times
    if across >= 2**31:
        raise ShiftsearchError(f"{kernel.name}: {across} results in a row, expected fewer than 2**31: split the arrays")
    blocks = s["B"] * s["G"] * s["T"] * s["h"] * -(-across // kernel.threads)
    return plan_of(kernel, blocks, options, constants, (("across", across),))


@lru_cache(MOST_PLANS)
def for_video(kernel: Kernel, options: Options, shape: tuple[int, ...], constants: Pairs) -> Plan:
    """Return the plan of a launch of a thread for each pixel of a video of this shape and group of its channels."""
    *rows, W = shape
    blocks = prod(rows) // channels_at_a_time(options.sizes["F"]) * -(-W // kernel.threads)
    return plan_of(kernel, blocks, options, constants)


@cache
def channels_at_a_time(channels: int, most: int = 8) -> int:
    """Return how many channels of a head one thread computes."""
    return next(n for n in range(most, 0, -1) if channels % n == 0)


def _channels_last(xp, heads: int, video):
    """Return a video with adjacent channels of each head: the same one, or a copy."""
    if video is None or video.shape[2] == heads or video.strides[2] == video.dtype.itemsize:
        return video
    return xp.ascontiguousarray(video.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)


class Lies(NamedTuple):
    """How a video lies in memory: its strides in bytes, and whether it is read 16 bytes at a time."""

    strides: tuple[int, ...]
    in_vectors: bool


NOWHERE = Lies((0,) * 5, True)  # a video that is not there


def lies_of(device, heads: int, video) -> Lies:
    return NOWHERE if video is None else Lies(video.strides, in_vectors(device, heads, video))


def in_vectors(device, heads: int, video) -> bool:
    """Return whether the channels of a head fill units of 16 bytes, aligned to 16."""
    return not device.address(video) % 16 and _in_runs(heads, video.dtype.itemsize, video.shape, video.strides)


@lru_cache(MOST_PLANS)
def _in_runs(heads: int, size: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    (B, T, C, H, W), (b, t, channel, y, x) = shape, strides
    together = (C == 1 or channel == size) and not C // heads * size % 16
    return together and all(n == 1 or not s % 16 for n, s in ((B, b), (T, t), (H, y), (W, x)))


def strides_of(itemsize: int, q: tuple[int, ...], k: tuple[int, ...]) -> dict[str, int]:
    """Return strides of videos (B, T, C, H, W) in numbers, by their names in clip.cuh."""
    names = (f"{video}_{axis}" for video in "qk" for axis in "btcyx")
    return {name: stride // itemsize for name, stride in zip(names, (*q, *k), strict=True)}


def sizes_of(p: Patches, scores: tuple, q: tuple | None, k: tuple) -> dict[str, int]:
    """Return the sizes of a call by their names in video.cuh, and the batch, from the shapes of its arrays."""
    B, G, T, h, w, K = scores
    kT, C, kH, kW = k[-4:]
    qT, _, qH, qW = (0, 0, 0, 0) if q is None else q[-4:]
    if max(qH, qW, kH, kW) > MOST_SIDE:
        raise ShiftsearchError(f"frames of {kH} x {kW} pixels, expected sides of at most 2**29: split the arrays")
    t0, y0, x0 = p.origin
    queries = {"B": B, "G": G, "F": C // G, "K": K, "T": T, "h": h, "w": w, "t0": t0, "y0": y0, "x0": x0}
    return queries | {"qT": qT, "qH": qH, "qW": qW, "kT": kT, "kH": kH, "kW": kW}


@cache
def sums(dtype) -> np.dtype:
    """Return the dtype in which numbers of a dtype are added."""
    return np.dtype("float64") if dtype == np.float64 else np.dtype("float32")


def numbers(dtype) -> Constants:
    return {"SCALAR": CTYPES[np.dtype(dtype).name], "ACC": CTYPES[sums(dtype).name]}


def of_window(spec) -> Constants:
    rows, columns = spec.window
    return {"WINDOW_Y": rows, "WINDOW_X": columns, "EVEN_BEFORE": int(spec.even == "before")}


def constants_of(p: Patches, dtype, whole: bool) -> Constants:
    borders = {"ZEROS": int(p.border == "zeros"), "QUERY_ZEROS": int(p.query_border == "zeros")}
    layout = {"PATCH": p.patch, "STRIDE": p.stride, "DILATION": p.dilation, "SCALE": p.scale}
    return {**numbers(dtype), **borders, **layout, "L2": int(p.metric == "l2"), "WHOLE": int(whole)}
