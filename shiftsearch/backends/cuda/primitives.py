"""The primitives of `definition` as launches of CUDA kernels. What a launch is, the device decides: a GPU, or its stand-in
in the tests.

Kernels read videos channels last: who has them so pays nothing for it, others one copy.
"""

from __future__ import annotations

import numpy as np

from shiftsearch._geometry import Patches, query_grid
from shiftsearch.backends.cuda.kernels import CTYPES, KERNELS, WARPS, bag_size
from shiftsearch.errors import ShiftsearchError

_STAGED = 8 * 1024  # bytes of shared memory of a warp for its query's patch
_BAG = 8 * 1024  # and for its best candidates: with the rest of the block's this fits on every device
_IN_REGISTERS = 4 * 32  # candidates that a warp keeps in registers
_BAGS = 2**28  # bytes of global memory for all bags that do not fit there: as many warps run at a time


class Cuda:
    """`device` has the array module `xp` and `launch(kernel, constants, blocks, arguments)`."""

    def __init__(self, device):
        self.device, self.xp = device, device.xp

    # --- the comparison and its derivatives -------------------------------------------------------
    def score(self, q, k, offsets, p: Patches):
        if q.ndim == 6:
            parts = [self.score(q[:, n], k, offsets[..., n : n + 1, :], p) for n in range(q.shape[1])]
            return self.xp.concatenate(parts, -1)
        call = self._call(p, q=q, k=k, offsets=offsets)
        scores = self.xp.empty(offsets.shape[:-1], call.sums)
        call.run("score", scores.size, {"scores": scores})
        return scores

    def aggregate(self, q, k, c, offsets, p: Patches, *, size=None, stacked=False):
        if stacked:
            each = [(c[..., n : n + 1], offsets[..., n : n + 1, :]) for n in range(offsets.shape[-2])]
            return self.xp.stack([self.aggregate(q, k, *one, p, size=size) for one in each], 1)
        shape = (k.shape[0], *size) if q is None else q.shape
        call = self._call(p, q=q, k=k, offsets=offsets, c=c, q_shape=shape)
        out = self.xp.empty(shape, k.dtype)
        call.run("aggregate", out.size, {"out": out})
        return out

    def scatter(self, q, k, c, offsets, p: Patches, *, size=None):
        if q.ndim == 6:
            each = [(c[..., n : n + 1], offsets[..., n : n + 1, :]) for n in range(q.shape[1])]
            return sum(self.scatter(q[:, n], k, *one, p, size=size) for n, one in enumerate(each))
        shape = (q.shape[0], *size) if k is None else k.shape
        call = self._call(p, q=q, k=k, offsets=offsets, c=c, k_shape=shape)
        return self._collect(call, q.dtype, {"patches": None}, {"PATCHES": 0, "WEIGHTED": 1})

    def aggregate_and_scatter(self, q, k, c, offsets, p: Patches):
        return self.aggregate(q, k, c, offsets, p), self.scatter(q, k, c, offsets, p)

    def slope(self, q, k, c, offsets, p: Patches, *, patches=None):
        if patches is not None:
            return self._slope_of_patches(k, patches, offsets, p)
        if q.ndim == 6:
            each = [(c[..., n : n + 1], offsets[..., n : n + 1, :]) for n in range(q.shape[1])]
            return self.xp.concatenate([self.slope(q[:, n], k, *one, p) for n, one in enumerate(each)], -2)
        call = self._call(p, q=q, k=k, offsets=offsets, c=c)
        slopes = self.xp.empty(offsets.shape, call.sums)
        call.run("slope", slopes.size // 3, {"patches": None, "slopes": slopes}, {"PATCHES": 0})
        return slopes

    # --- patches as arrays ------------------------------------------------------------------------
    def gather(self, v, offsets, p: Patches):
        call = self._call(p, k=v, offsets=offsets)
        patches = self.xp.empty((*offsets.shape[:-1], call.sizes["F"], p.patch, p.patch), v.dtype)
        call.run("gather", patches.size, {"patches": patches})
        return patches

    def fold(self, patches, c, offsets, p: Patches, *, size):
        B, G, F = *offsets.shape[:2], patches.shape[-3]
        shape = (B, size[0], G * F, *size[1:])
        call = self._call(p, offsets=offsets, c=c, k_shape=shape, dtype=patches.dtype)
        constants = {"PATCHES": 1, "WEIGHTED": int(c is not None)}
        return self._collect(call, patches.dtype, {"patches": self.xp.ascontiguousarray(patches)}, constants)

    def _slope_of_patches(self, v, patches, offsets, p: Patches):
        call = self._call(p, k=v, offsets=offsets)
        slopes = self.xp.empty(offsets.shape, call.sums)
        arguments = {"patches": self.xp.ascontiguousarray(patches), "slopes": slopes}
        call.run("slope", slopes.size // 3, arguments, {"PATCHES": 1})
        return slopes

    def _collect(self, call, dtype, arguments, constants):
        """Adds at the places of the candidates, sorted by where they lie: see scatter.cu."""
        xp, p, s = self.xp, call.patches, call.sizes
        reach = p.dilation * (p.patch // 2 + 1) + 1
        cells = s["B"] * s["G"] * s["frames"] * (s["H"] + 2 * reach) * (s["W"] + 2 * reach)
        constants = {**constants, "REACH": reach}
        lies_in = xp.empty(s["count"], np.int64)
        call.run("cells", lies_in.size, {"cells": lies_in, "nowhere": cells}, constants)
        order = xp.argsort(lies_in, kind="stable")
        first = xp.searchsorted(lies_in[order], xp.arange(cells + 1))
        out = xp.empty((s["B"], s["frames"], s["G"] * s["F"], s["H"], s["W"]), dtype)
        call.run("scatter", out.size, {**arguments, "order": order, "first": first, "out": out}, constants)
        return out

    # --- search -----------------------------------------------------------------------------------
    def search(self, q, k, spec, p: Patches, *, flow=None, seeds=None):
        xp, (B, T, C, H, W) = self.xp, k.shape
        h, w = query_grid(H, W, p.stride)
        slots = spec.search_slots() if seeds is None else seeds.shape[-2]
        kept, sums = spec.kept(slots), _sums(k.dtype)
        around = seeds if flow is None else flow
        around = xp.zeros((B, 1, T, 0, 2, h, w), np.float32) if around is None else around
        lists = slots if spec.per_frame and spec.topk is not None else 1
        topk = 0 if spec.topk is None else kept // lists
        if slots * spec.window**2 >= 2**31:
            raise ShiftsearchError(
                f"{spec.caller}: window is {spec.window} in {slots} places, expected fewer than 2**31 candidates"
            )
        constants = {
            **_of_patches(p, k.dtype, whole=not spec.subpixel), "AROUND": _ctype(around), "WINDOW": spec.window,
            "STEP": float(spec.step), "RADIUS": spec.radius, "FIRST_SLOT": int(spec.skip == "own_frame"),
            "SLIDE": int(spec.slide), "SUBPIXEL": int(spec.subpixel), "PENALTY": float(spec.penalty), "TOPK": topk,
            "PER_FRAME": int(lists > 1), **_kept_in(topk, sums), **_staged(p.patch, sums),
            "ANCHOR": {None: 0, "self": 1, "flow": 2}[spec.anchor], "SEEDS": int(seeds is not None),
            "SKIP": 1 if spec.removes_self else 2 if spec.skip == "self" else 0,
            "PLACE": CTYPES[sums.name] if spec.subpixel else "int",
        }  # fmt: skip
        constants["OFFSET"] = constants["AROUND"]
        count = B * spec.heads * T * h * w
        shape = (B, spec.heads, T, h, w, kept)
        scores, origin = xp.empty(shape, sums), xp.empty(shape, np.int32)
        offsets = xp.empty((*shape, 3), sums if spec.subpixel else np.int32)
        blocks, memory = -(-count // WARPS), None
        if constants["ROOM"] and not constants["SHARED"]:
            bags = WARPS * bag_size(constants)
            blocks = min(blocks, max(1, _BAGS // bags))
            memory = xp.empty(blocks * bags, np.uint8)
        kernel = KERNELS["search"]
        self.device.launch(kernel, constants, blocks, {
            "q": _channels_last(xp, q), "k": _channels_last(xp, k), "around": xp.ascontiguousarray(around),
            "scores": scores, "offsets": offsets, "origin": origin, "memory": memory, "G": spec.heads,
            "groups": around.shape[1], "T": T, "F": C // spec.heads, "H": H, "W": W, "h": h, "w": w,
            "S": slots if seeds is not None else around.shape[3], "slots": slots, "kept": kept, "count": count,
        }, shared=kernel.dynamic(constants))  # fmt: skip
        return scores, offsets, origin

    # --- flow -------------------------------------------------------------------------------------
    def chain_flow(self, forward, backward, *, radius, stride):
        return self._chained(forward, backward, radius, stride).astype(forward.dtype)

    def _chained(self, forward, backward, radius, stride):
        B, T, _, H, W = forward.shape
        h, w = query_grid(H, W, stride)
        chained = self.xp.empty((B, T, 2 * radius, 2, h, w), np.float64)
        self._along("chain_flow", forward, backward, radius, stride, {"chained": chained})
        return chained

    def _along(self, kernel, forward, backward, radius, stride, arguments):
        B, T, _, H, W = forward.shape
        h, w = query_grid(H, W, stride)
        constants = {**_numbers(forward.dtype), "RADIUS": radius, "STRIDE": stride, "SCALE": 1}
        flows = {"forward": self.xp.ascontiguousarray(forward), "backward": self.xp.ascontiguousarray(backward)}
        sizes = {"frames": T, "H": H, "W": W, "h": h, "w": w, "count": B * T * h * w}
        blocks = -(-sizes["count"] // KERNELS[kernel].threads)
        self.device.launch(KERNELS[kernel], constants, blocks, {**flows, **arguments, **sizes})

    def chain_flow_backward(self, grad, forward, backward, *, radius, stride):
        xp, (B, T, _, H, W) = self.xp, forward.shape
        h, w = query_grid(H, W, stride)
        shape = (B, 1, T, h, w, 2 * radius)
        places, arrived = xp.empty((*shape, 3), np.float64), xp.empty((*shape, 2, 1, 1), np.float64)
        parts = {"forwards": xp.empty(shape, np.float64), "backwards": xp.empty(shape, np.float64)}
        arguments = {
            "grad": xp.ascontiguousarray(grad.astype(forward.dtype)), "places": places, "arrived": arrived, **parts,
            "chained": self._chained(forward, backward, radius, stride),
        }  # fmt: skip
        self._along("chain_flow_backward", forward, backward, radius, stride, arguments)
        p = Patches(stride=stride)
        found = (self.fold(arrived, part, places, p, size=(T, H, W)) for part in parts.values())
        return tuple(gradient.astype(forward.dtype) for gradient in found)

    def _call(self, p: Patches, *, offsets, q=None, k=None, c=None, q_shape=None, k_shape=None, dtype=None):
        return _Call(self.device, p, offsets, q, k, c, q_shape, k_shape, dtype)


class _Call:
    """What the kernels of one primitive have in common: constants, arrays as they read them, and sizes."""

    def __init__(self, device, p: Patches, offsets, q, k, c, q_shape, k_shape, dtype):
        xp, self.device, self.patches = device.xp, device, p
        dtype = np.dtype(dtype or (k if k is not None else q).dtype)
        q_shape = q.shape if q is not None else q_shape
        k_shape = k.shape if k is not None else k_shape
        B, G, T, h, w, K = offsets.shape[:-1]
        _, frames, C, H, W = k_shape
        qT, qH, qW = (q_shape[1], *q_shape[3:]) if q_shape is not None else (0, 0, 0)
        t0, y0, x0 = p.origin
        self.sums = _sums(dtype)
        self.sizes = {"B": B, "G": G, "T": T, "h": h, "w": w, "K": K, "F": C // G, "qT": qT, "qH": qH, "qW": qW,
                      "frames": frames, "H": H, "W": W, "t0": t0, "y0": y0, "x0": x0, "count": offsets.size // 3}  # fmt: skip
        self.constants = {**_of_patches(p, dtype, whole=offsets.dtype.kind == "i"), "OFFSET": _ctype(offsets)}
        self.arrays = {
            "q": _channels_last(xp, q), "k": _channels_last(xp, k), "offsets": xp.ascontiguousarray(offsets),
            "c": None if c is None else xp.ascontiguousarray(c.astype(self.sums, copy=False)),
        }  # fmt: skip

    def run(self, name: str, count: int, arguments: dict, constants: dict | None = None) -> None:
        """One thread for each of `count` numbers."""
        if count == 0:
            return
        kernel, constants = KERNELS[name], {**self.constants, **(constants or {})}
        known = {**self.arrays, **self.sizes, **arguments, "count": count}
        taken = kernel.parameters(constants)
        self.device.launch(kernel, constants, -(-count // kernel.threads), {p.name: known[p.name] for p in taken})


def _channels_last(xp, video):
    return None if video is None else xp.ascontiguousarray(video.transpose(0, 1, 3, 4, 2))


def _sums(dtype) -> np.dtype:
    return np.dtype("float64") if dtype == np.float64 else np.dtype("float32")


def _kept_in(topk: int, sums) -> dict:
    """Registers of a lane for the best candidates; or the size of a bag, half of which is for more, and where it is."""
    if topk <= _IN_REGISTERS:
        return {"REGISTERS": -(-topk // 32), "ROOM": 0, "SHARED": 0}
    room = topk + topk // 2
    return {"REGISTERS": 0, "ROOM": room, "SHARED": int(bag_size({"ROOM": room, "ACC": CTYPES[sums.name]}) <= _BAG)}


def _staged(patch: int, sums) -> dict:
    """How many channels and pixels of a query's patch are in shared memory at a time: rather all pixels than all channels."""
    there = _STAGED // sums.itemsize
    channels = max(1, min(16, there // patch**2))
    return {"CHUNK": channels, "PIXELS": min(patch**2, there // channels)}


def _ctype(array) -> str:
    return CTYPES[array.dtype.name]


def _numbers(dtype) -> dict:
    return {"SCALAR": CTYPES[np.dtype(dtype).name], "ACC": CTYPES[_sums(dtype).name]}


def _of_patches(p: Patches, dtype, whole: bool) -> dict:
    return {
        **_numbers(dtype), "PATCH": p.patch, "STRIDE": p.stride, "DILATION": p.dilation, "SCALE": p.scale,
        "ZEROS": int(p.border == "zeros"), "QUERY_ZEROS": int(p.query_border == "zeros"), "L2": int(p.metric == "l2"),
        "WHOLE": int(whole),
    }  # fmt: skip
