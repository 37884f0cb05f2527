"""The primitives of `definition` as launches of CUDA kernels, by a device: a GPU, or its stand-in in the tests.

Kernels read videos with channels last: those that already lie in memory like that are not copied.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from shiftsearch._geometry import Patches, query_grid
from shiftsearch._types import Native
from shiftsearch.backends.cuda.kernels import CTYPES, KERNELS, WARPS, Constants, buffer_size
from shiftsearch.errors import ShiftsearchError

_STAGED = 8 * 1024  # bytes of shared memory that a warp has for its query's patch
_BUFFER = 8 * 1024  # and for its best candidates: with the rest of the block's this fits on every device
_BUFFERS = 2**28  # bytes of global memory for larger buffers: as many warps run at a time
_IN_REGISTERS = 4 * 32  # candidates that a warp keeps in registers


class Cuda:
    """The backend on a `device`, which has the array module `xp` and launches kernels."""

    device: Any
    xp: Any

    def __init__(self, device: Any):
        self.device, self.xp = device, device.xp

    # --- the form and its derivatives -------------------------------------------------------------
    def score(self, q: Native, k: Native, offsets: Native, p: Patches) -> Native:
        call = _Call(self.device, p, offsets, k.dtype, q=q, k=k)
        scores = self.xp.empty(offsets.shape[:-1], call.sums)
        call.run("score", scores.size, scores=scores)
        return scores

    def aggregate(
        self,
        q: Native | None,
        k: Native,
        weights: Native,
        offsets: Native,
        p: Patches,
        *,
        size: tuple[int, ...] = (),
        stacked: bool = False,
    ) -> Native:
        each = (offsets.shape[-2],) if stacked else ()
        shape = (k.shape[0], *each, *size) if q is None else q.shape
        call = _Call(self.device, p, offsets, k.dtype, q=q, k=k, weights=weights, q_shape=shape)
        out = self.xp.empty(shape, k.dtype)
        call.run("aggregate", out.size, out=out)
        return out

    def scatter(
        self, q: Native, k: Native | None, weights: Native, offsets: Native, p: Patches, *, size: tuple[int, ...] = ()
    ) -> Native:
        shape = (q.shape[0], *size) if k is None else k.shape
        call = _Call(self.device, p, offsets, q.dtype, q=q, k=k, weights=weights, k_shape=shape)
        return self._sort_and_scatter(call)

    def aggregate_and_scatter(
        self, q: Native, k: Native, weights: Native, offsets: Native, p: Patches
    ) -> tuple[Native, Native]:
        return self.aggregate(q, k, weights, offsets, p), self.scatter(q, k, weights, offsets, p)

    def slope(
        self,
        q: Native | None,
        k: Native,
        weights: Native | None,
        offsets: Native,
        p: Patches,
        *,
        patches: Native | None = None,
    ) -> Native:
        call = _Call(self.device, p, offsets, k.dtype, q=q, k=k, weights=weights, patches=patches)
        slopes = self.xp.empty(offsets.shape, call.sums)
        call.run("slope", slopes.size // 3, slopes=slopes)
        return slopes

    # --- patches as arrays ------------------------------------------------------------------------
    def gather(self, v: Native, offsets: Native, p: Patches) -> Native:
        call = _Call(self.device, p, offsets, v.dtype, k=v)
        patches = self.xp.empty((*offsets.shape[:-1], call.sizes["F"], p.patch, p.patch), v.dtype)
        call.run("gather", patches.size, patches=patches)
        return patches

    def fold(
        self, patches: Native, weights: Native | None, offsets: Native, p: Patches, *, size: tuple[int, int, int]
    ) -> Native:
        """Scatter of patches that are given."""
        T, H, W = size
        shape = (offsets.shape[0], T, offsets.shape[1] * patches.shape[-3], H, W)
        call = _Call(self.device, p, offsets, patches.dtype, weights=weights, patches=patches, k_shape=shape)
        return self._sort_and_scatter(call)

    def _sort_and_scatter(self, call: _Call):
        """Sort the candidates by the pixel that each lands at, and let each pixel collect its own: see scatter.cu."""
        xp, p, s = self.xp, call.patches, call.sizes
        reach = p.dilation * (p.patch // 2 + 1) + 1
        call.constants |= {"REACH": reach, "WEIGHTED": int(call.arrays["weights"] is not None)}
        padded = s["B"] * s["G"] * s["kT"] * (s["kH"] + 2 * reach) * (s["kW"] + 2 * reach)
        pixels = xp.empty(call.candidates, np.int64)
        call.run("landing", pixels.size, pixels=pixels, behind=padded)
        order = xp.argsort(pixels, kind="stable")
        begins = xp.searchsorted(pixels[order], xp.arange(padded + 1))
        out = xp.empty((s["B"], s["kT"], s["G"] * s["F"], s["kH"], s["kW"]), call.dtype)
        call.run("scatter", out.size, order=order, begins=begins, out=out)
        return out

    # --- search -----------------------------------------------------------------------------------
    def search(
        self, q: Native, k: Native, spec: Any, p: Patches, *, flow: Native | None = None, seeds: Native | None = None
    ) -> tuple[Native, Native, Native]:
        around = self._around(k, p, flow, seeds)
        windows = spec.search_slots() if seeds is None else seeds.shape[-2]
        constants = _search_constants(spec, p, k.dtype, around, windows, seeds is not None)
        B, T, _, H, W = k.shape
        queries = (B, spec.heads, T, *query_grid(H, W, p.stride))
        shape = (*queries, spec.kept(windows))
        scores, origin = self.xp.empty(shape, _sums(k.dtype)), self.xp.empty(shape, np.int32)
        offsets = self.xp.empty((*shape, 3), scores.dtype if spec.subpixel else np.int32)
        blocks, buffers = self._buffers(constants, prod(queries))
        known = {
            **_sizes(p, shape, q.shape, k.shape),
            "groups": around.shape[1],
            "slots": around.shape[3] if seeds is None else windows,
            "windows": windows,
            "count": prod(queries),
            "q": _channels_last(self.xp, q),
            "k": _channels_last(self.xp, k),
            "around": around,
            "scores": scores,
            "offsets": offsets,
            "origin": origin,
            "buffers": buffers,
        }
        _launch(self.device, "search", constants, blocks, known)
        return scores, offsets, origin

    def _around(self, k, p: Patches, flow, seeds):
        """Return what the windows lie around: flow or seeds, or flow that leads to no frame."""
        if flow is None and seeds is None:
            B, T, _, H, W = k.shape
            return self.xp.zeros((B, 1, T, 0, 2, *query_grid(H, W, p.stride)), np.float32)
        return self.xp.ascontiguousarray(seeds if flow is None else flow)

    def _buffers(self, constants: Constants, queries: int):
        """Return how many blocks search `queries`, and global memory for their best candidates where it is needed."""
        blocks = -(-queries // WARPS)
        if not constants["ROOM"] or constants["SHARED"]:
            return blocks, None
        of_block = WARPS * buffer_size(constants)
        blocks = min(blocks, max(1, _BUFFERS // of_block))
        return blocks, self.xp.empty(blocks * of_block, np.uint8)

    # --- flow -------------------------------------------------------------------------------------
    def chain_flow(self, forward: Native, backward: Native, *, radius: int, stride: int) -> Native:
        return self._chained(forward, backward, radius, stride).astype(forward.dtype)

    def chain_flow_backward(
        self, grad: Native, forward: Native, backward: Native, *, radius: int, stride: int
    ) -> tuple[Native, ...]:
        xp, (B, T, _, H, W) = self.xp, forward.shape
        h, w = query_grid(H, W, stride)
        shape = (B, 1, T, h, w, 2 * radius)
        offsets, arrived = xp.empty((*shape, 3), np.float64), xp.empty((*shape, 2, 1, 1), np.float64)
        parts = {"forwards": xp.empty(shape, np.float64), "backwards": xp.empty(shape, np.float64)}
        grad = xp.ascontiguousarray(grad.astype(forward.dtype))
        chained = self._chained(forward, backward, radius, stride)
        arguments = {"grad": grad, "chained": chained, "offsets": offsets, "arrived": arrived, **parts}
        self._launch_chain("chain_flow_backward", forward, backward, radius, stride, arguments)
        p = Patches(stride=stride)
        found = (self.fold(arrived, part, offsets, p, size=(T, H, W)) for part in parts.values())
        return tuple(gradient.astype(forward.dtype) for gradient in found)

    def _chained(self, forward, backward, radius: int, stride: int):
        B, T, _, H, W = forward.shape
        chained = self.xp.empty((B, T, 2 * radius, 2, *query_grid(H, W, stride)), np.float64)
        self._launch_chain("chain_flow", forward, backward, radius, stride, {"chained": chained})
        return chained

    def _launch_chain(self, name: str, forward, backward, radius: int, stride: int, arguments: dict) -> None:
        B, T, _, H, W = forward.shape
        h, w = query_grid(H, W, stride)
        constants = {**_numbers(forward.dtype), "RADIUS": radius, "STRIDE": stride}
        flows = {"forward": self.xp.ascontiguousarray(forward), "backward": self.xp.ascontiguousarray(backward)}
        sizes = {"T": T, "H": H, "W": W, "h": h, "w": w, "count": B * T * h * w}
        blocks = -(-sizes["count"] // KERNELS[name].threads)
        _launch(self.device, name, constants, blocks, {**flows, **arguments, **sizes})


class _Call:
    """What the kernels of one primitive have in common: constants, arrays as they read them, and sizes."""

    def __init__(self, device, p: Patches, offsets, dtype, *, q_shape=None, k_shape=None, **arrays):
        """Prepare a call on `arrays` q, k, weights and patches, as far as there are any."""
        q, k, weights, patches = (arrays.get(name) for name in ("q", "k", "weights", "patches"))
        xp = device.xp
        self.device, self.patches, self.dtype, self.sums = device, p, dtype, _sums(dtype)
        q_shape = q_shape if q is None else q.shape
        k_shape = k_shape if k is None else k.shape
        self.sizes = _sizes(p, offsets.shape[:-1], q_shape, k_shape)
        self.candidates = offsets.size // 3
        self.constants = {
            **_of_patches(p, dtype, whole=offsets.dtype.kind == "i"),
            "OFFSET": _ctype(offsets),
            "PATCHES": int(patches is not None),
            "STACKED": int(q_shape is not None and len(q_shape) == 6),
        }
        self.arrays = {
            "q": _channels_last(xp, q),
            "k": _channels_last(xp, k),
            "offsets": xp.ascontiguousarray(offsets),
            "weights": None if weights is None else xp.ascontiguousarray(weights.astype(self.sums, copy=False)),
            "patches": None if patches is None else xp.ascontiguousarray(patches),
        }

    def run(self, name: str, count: int, **arguments) -> None:
        """Launch a kernel that has one thread for each of `count` numbers."""
        if count == 0:
            return
        known = {**self.arrays, **self.sizes, **arguments, "count": count}
        _launch(self.device, name, self.constants, -(-count // KERNELS[name].threads), known)


def _launch(device, name: str, constants: Constants, blocks: int, known: dict) -> None:
    """Launch a kernel with those of the `known` arguments that it has."""
    kernel = KERNELS[name]
    arguments = {name: known[name] for name in kernel.names(constants)}
    device.launch(kernel, constants, blocks, arguments, shared=kernel.shared(constants))


def _sizes(p: Patches, scores: tuple, q: tuple | None, k: tuple) -> dict[str, int]:
    """Return the sizes of a call by their names in video.cuh, and the batch, from the shapes of its arrays."""
    B, G, T, h, w, K = scores
    kT, C, kH, kW = k[-4:]
    qT, _, qH, qW = (0, 0, 0, 0) if q is None else q[-4:]
    t0, y0, x0 = p.origin
    queries = {"B": B, "G": G, "F": C // G, "K": K, "T": T, "h": h, "w": w, "t0": t0, "y0": y0, "x0": x0}
    return queries | {"qT": qT, "qH": qH, "qW": qW, "kT": kT, "kH": kH, "kW": kW}


def _channels_last(xp, video):
    if video is None:
        return None
    leading = range(video.ndim - 3)
    return xp.ascontiguousarray(video.transpose(*leading, -2, -1, -3))


# --- constants ------------------------------------------------------------------------------------
def _sums(dtype) -> np.dtype:
    return np.dtype("float64") if dtype == np.float64 else np.dtype("float32")


def _ctype(array) -> str:
    return CTYPES[array.dtype.name]


def _numbers(dtype) -> Constants:
    return {"SCALAR": CTYPES[np.dtype(dtype).name], "ACC": CTYPES[_sums(dtype).name]}


def _of_patches(p: Patches, dtype, whole: bool) -> Constants:
    borders = {"ZEROS": int(p.border == "zeros"), "QUERY_ZEROS": int(p.query_border == "zeros")}
    layout = {"PATCH": p.patch, "STRIDE": p.stride, "DILATION": p.dilation, "SCALE": p.scale}
    return {**_numbers(dtype), **borders, **layout, "L2": int(p.metric == "l2"), "WHOLE": int(whole)}


def _search_constants(spec, p: Patches, dtype, around, windows: int, seeds: bool) -> Constants:
    if windows * spec.window**2 >= 2**31:
        raise ShiftsearchError(
            f"{spec.caller}: window is {spec.window} in {windows} places, expected fewer than 2**31 candidates"
        )
    sums = _sums(dtype)
    per_frame = spec.per_frame and spec.topk is not None
    topk = 0 if spec.topk is None else spec.kept(windows) // (windows if per_frame else 1)
    return {
        **_of_patches(p, dtype, whole=not spec.subpixel),
        "STACKED": 0,
        "AROUND": _ctype(around),
        "OFFSET": _ctype(around),
        "PLACE": CTYPES[sums.name] if spec.subpixel else "int",
        "SEEDS": int(seeds),
        "RADIUS": spec.radius,
        "FIRST_SLOT": int(spec.skip == "own_frame"),
        "WINDOW": spec.window,
        "STEP": float(spec.step),
        "SLIDE": int(spec.slide),
        "SUBPIXEL": int(spec.subpixel),
        "PENALTY": float(spec.penalty),
        "ANCHOR": {None: 0, "self": 1, "flow": 2}[spec.anchor],
        "SKIP": 1 if spec.removes_self else 2 if spec.skip == "self" else 0,
        "TOPK": topk,
        "PER_FRAME": int(per_frame and windows > 1),
        **_kept_in(topk, sums),
        **_staged(p.patch, sums),
    }


def _kept_in(topk: int, sums: np.dtype) -> Constants:
    """Return where a warp keeps its best candidates: registers of a lane, or the room of a buffer, a third of it spare."""
    if topk <= _IN_REGISTERS:
        return {"REGISTERS": -(-topk // 32), "ROOM": 0, "SHARED": 0}
    room = topk + topk // 2
    in_shared = buffer_size({"ROOM": room, "ACC": CTYPES[sums.name]}) <= _BUFFER
    return {"REGISTERS": 0, "ROOM": room, "SHARED": int(in_shared)}


def _staged(patch: int, sums: np.dtype) -> Constants:
    """Return how many channels and pixels of a query's patch are in shared memory at a time: many pixels come first."""
    there = _STAGED // sums.itemsize
    channels = max(1, min(16, there // patch**2))
    return {"CHUNK": channels, "PIXELS": min(patch**2, there // channels)}
