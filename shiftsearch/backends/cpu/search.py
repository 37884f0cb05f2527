"""search on the CPU: from a call to its heads, and what their threads need.

Tiles of 8 x 8 queries are searched by vector code, see `tiles`. What that does not cover - dilation, borders of zeros,
very large windows and patches - is done by plain loops, see `plain`. Which form is taken depends on the options and on
the flow around the tile, never on the size of the call, so that a part of a video gets the results of the whole.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from shiftsearch._geometry import Patches, frame_order, reflect
from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.backends.cpu import patch, search_code, simd, topk, topk_code
from shiftsearch.backends.cpu.choose import Options, Results
from shiftsearch.backends.cpu.layout import channels_last
from shiftsearch.backends.cpu.memory import aligned
from shiftsearch.backends.cpu.plain import search_plainly
from shiftsearch.backends.cpu.pool import spread
from shiftsearch.backends.cpu.search_code import ROW
from shiftsearch.backends.cpu.tiles import Shape, Strides, Videos, box_is_cheaper, packing, search_tiles
from shiftsearch.backends.cpu.topk_code import FEW
from shiftsearch.backends.cpu.visit import Clip
from shiftsearch.backends.cpu.windows import TILE, Task, room_for, windows_of_flow, windows_of_seeds

_LARGEST_WINDOW = 16  # of the vector code: its accumulators live in registers
_AT_A_TIME = 8192  # windows that are placed at a time, or those of one row of tiles, which bounds scratch memory


class Codes(NamedTuple):
    """Addresses of the vector code; 0 where it does not apply."""

    topk: topk.Codes
    copy: int
    wide: int = 0
    small: int = 0
    interpolate: int = 0
    boxes: int = 0
    pick: int = 0


class Scratch(NamedTuple):
    """Scratch memory of one thread."""

    keys: np.ndarray  # by which the candidates of a query are ranked
    part: np.ndarray  # the keys of one frame, the scores of a part of a window
    scores: np.ndarray  # of all queries of a tile
    q_planes: np.ndarray  # the pixels of a tile: [row, channel, column]
    q_last: np.ndarray  # and [row, column, channel]
    sums: np.ndarray
    near: np.ndarray  # an interpolated neighbourhood
    fractions: np.ndarray
    pixels: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray
    topk: topk.Scratch
    workspace: patch.Scratch  # of plain loops
    most: int  # displacements that fit


@primitive
def search(
    q: Native, k: Native, spec: Any, p: Patches, *, flow: Native | None = None, seeds: Native = None
) -> tuple[Native, Native, Native | None]:
    """Return what `definition.search` does."""
    if any(stride % q.itemsize for stride in q.strides):
        q = np.ascontiguousarray(q)
    T, (B, kT, C, H, W) = q.shape[1], k.shape
    if B > 1 and T == 1 and seeds is None:  # many clips of one frame are searched like one of many frames
        flow = None if flow is None else flow.swapaxes(0, 2)
        scores, offsets, _ = search(q.swapaxes(0, 1), k.swapaxes(0, 1), spec, p, flow=flow)
        return scores.swapaxes(0, 2), offsets.swapaxes(0, 2), None
    slots = spec.search_slots() if seeds is None else seeds.shape[-2]
    task = task_of(spec, p, (T, kT, C // spec.heads, H, W), slots, seeds is not None, q.dtype.name)
    shape = (B, spec.heads, T, task.rows, task.columns, task.kept)
    scores = np.empty(shape, q.dtype)
    offsets = np.empty((*shape, 3), q.dtype if spec.subpixel else np.int32)
    words = np.int64 if offsets.itemsize == 8 else np.int32
    slots = np.empty(shape if task.seeds else (B, spec.heads, 0), np.int32)
    if flow is None:
        flow = np.zeros((B, 1, T, 0, 2, task.rows, task.columns), np.float32)
    order, form = frame_order(T, spec.radius), patch.form(p, task.channels)
    codes, options = _codes(task, q.dtype.name, p.metric), _options(spec, task)
    for b, g in np.ndindex(B, spec.heads):
        channels = slice(g * task.channels, (g + 1) * task.channels)
        around = seeds[b, g] if task.seeds else flow[b, g % flow.shape[1]]
        results = Results(scores[b, g].reshape(-1), offsets[b, g].reshape(-1).view(words), slots[b, g].reshape(-1))
        _search(q[b, :, channels], k[b, :, channels], around, order, task, form, options, codes, results)
    return scores, offsets, slots if task.seeds else None


def task_of(spec, p: Patches, size, slots: int, seeds: bool, dtype: str) -> Task:
    T, kT, C, H, W = size
    overhangs = p.border == "reflect" and not spec.stays_inside(H, W)
    down, across = spec.window
    phases = [min(round(1 / spec.step), n) if 1 / spec.step in (1, 2, 4, 8) else n for n in spec.window]
    return Task(
        frames=T,
        frames_of_k=kT,
        height=H,
        width=W,
        rows=(H - 1) // p.stride + 1,
        columns=(W - 1) // p.stride + 1,
        slots=slots,
        first_slot=int(spec.skip == "own_frame"),
        down=down,
        across=across,
        each=down * across,
        above=spec.before[0],
        left=spec.before[1],
        patch=p.patch,
        stride=p.stride,
        scale=p.scale,
        dilation=p.dilation,
        channels=C,
        kept=spec.kept(slots),
        step=float(spec.step),
        whole_step=int(spec.step),
        dot=p.metric == "dot",
        zeros=p.border == "zeros",
        slide=spec.slide,
        subpixel=spec.subpixel,
        seeds=seeds,
        overhangs=overhangs,
        phases_down=phases[0],
        phases_across=phases[1],
        part_down=-(-down // phases[0]),
        part_across=-(-across // phases[1]),
        wide=C % simd.lanes(dtype) == 0,
    )


def _options(spec, task: Task) -> Options | None:
    removes, hides = spec.removes_self, spec.skip == "self" and not spec.removes_self
    ranks, candidates = spec.penalty > 0 or bool(spec.anchor) or removes, task.slots * task.each
    simple = not (ranks or hides or spec.per_frame or task.overhangs)
    if simple and task.kept <= FEW and candidates >= 2 * FEW and spec.topk is not None:
        return None
    return Options(
        topk=spec.topk or task.kept,
        all=spec.topk is None,
        per_frame=spec.per_frame,
        penalty=float(spec.penalty),
        anchor_self=spec.anchor == "self",
        anchor_centre=spec.anchor == "flow",
        removes_self=removes,
        hides_self=hides,
        finds_self=removes or hides or spec.anchor == "self",
        ranks=ranks,
    )


def _by_vectors(task: Task) -> bool:
    """Return whether the vector code covers these options."""
    return (
        task.dilation == 1
        and not task.zeros
        and max(task.part_down, task.part_across) <= _LARGEST_WINDOW
        and task.patch <= ROW
    )


def _codes(task: Task, dtype: str, metric: str) -> Codes:
    for_topk = topk.Codes(*(getattr(topk_code, f"build_{name}")(dtype) for name in topk.Codes._fields))
    built: dict[str, Any] = {"topk": for_topk, "copy": search_code.build_copy(dtype)}
    if _by_vectors(task):
        built["interpolate"] = search_code.build_interpolate(dtype, metric)
        if task.wide:
            built["wide"] = search_code.build_wide(dtype, metric, task.part_down, task.part_across)
        else:
            built["small"] = search_code.build_small(dtype, metric, task.part_down, task.part_across, task.patch)
        if task.step == 1 and task.stride * task.scale == 1 and task.patch <= ROW - TILE + 1:
            built["boxes"] = search_code.build_boxes(dtype, metric, task.patch, min(task.channels, 5))
            built["pick"] = search_code.build_pick(dtype, task.down, task.across)
    return Codes(**built)


def _search(q, k, around, order, task: Task, form: patch.Form, options: Options | None, codes: Codes, results: Results):
    """Search one head of one clip."""
    place = windows_of_seeds if task.seeds else windows_of_flow
    tiles, cells = _by_vectors(task), _cells(task)
    run = search_tiles if tiles else search_plainly
    videos = _in_memory(q, k, task, codes) if tiles else (_clip(q), _clip(k), form)
    most = _most_boxes(task, k.dtype) if tiles else 0
    rows = max(1, _AT_A_TIME // (TILE * task.columns * task.slots))

    def some_rows(stop, first, last):
        scratch = _scratch(task, form, tiles, most, k.dtype)
        windows = room_for(rows * TILE * task.columns * task.slots)
        for start in range(first, max(last, first + 1), rows):
            end = min(last, start + rows)
            if stop[0]:
                return
            place(start, end, around, order, task, windows)
            run(videos, windows, task, options, codes, scratch, cells, results, stop, start, end)

    cost = task.frames * task.rows * task.columns * task.slots * task.each * task.patch**2 * task.channels
    spread(some_rows, task.frames * -(-task.rows // TILE), cost)


def _cells(task: Task):
    """Return a table of the slot, row and column of each candidate: looking them up is faster than dividing."""
    return np.moveaxis(np.indices((task.slots, task.down, task.across), np.int32), 0, -1).reshape(-1)


# --- scratch memory -------------------------------------------------------------------------------
def _most_boxes(task: Task, dtype) -> int:
    """Return the most displacements for which box sums can be cheaper than comparing each query."""
    most, lanes = 16, simd.lanes(dtype.name)
    while most < 4096 and box_is_cheaper.py_func(most, TILE * TILE, task, lanes):
        most += 16
    return most


def _scratch(task: Task, form: patch.Form, tiles: bool, most: int, dtype) -> Scratch:
    """Return new scratch memory of a thread, all numbers in one piece and all whole numbers in another."""
    each, C, pack = task.each, task.channels, packing.py_func(task)
    tall, wide = task.down + task.patch - 1, task.across + task.patch - 1
    rows, stride = TILE + task.patch - 1, pack.stride
    numbers = {
        "keys": stride,
        "part": each + 2 * FEW,
        "found": stride,
        "scores": stride * (TILE * TILE if tiles else 1),
    }
    for_tiles = {
        "q_planes": pack.side * C * pack.length,
        "q_last": pack.side**2 * C if task.wide else 0,
        "sums": each * ROW,
        "near": tall * (wide + ROW) * C + 4 * ROW if task.subpixel else 0,
        "fractions": 2,
        "pixels": most * rows * ROW,
        "boxes": most * TILE * TILE,
    }
    numbers |= for_tiles if tiles else dict.fromkeys(for_tiles, 0)
    integers = {"positions": stride, "ranks": stride, "kept": task.kept + stride}
    parts = _divided(numbers, aligned, dtype) | _divided(integers, np.empty, np.int32)
    for_topk = topk.Scratch(*map(parts.pop, topk.Scratch._fields))
    return Scratch(topk=for_topk, workspace=patch.scratch(form, dtype), **parts, most=most)


def _divided(sizes: dict[str, int], new, dtype) -> dict[str, np.ndarray]:
    """Return parts of one piece of memory, each of whole vectors."""
    starts, end = {}, 0
    for name, size in sizes.items():
        starts[name] = end
        end += -(-size // ROW) * ROW
    memory = new(end, dtype)
    return {name: memory[start:] for name, start in starts.items()}


# --- videos in memory -----------------------------------------------------------------------------
def _in_memory(q, k, task: Task, codes: Codes) -> Videos:
    """Return q as it is laid out, and copies of k. Strides of q are multiples of its size, see `search`."""
    strides = Strides(*(stride // q.itemsize for stride in q.strides), *q.shape[2:])
    return Videos(q, strides, *_padded(k, task, codes))


def _padded(k, task: Task, codes: Codes):
    """Return k as the vector code reads it, in flat memory: planes for boxes and few channels, channels last for many.

    Mirrored as far as the patches of windows in the frame reach, and where a fraction reads one pixel more. Beside
    them is memory of any content: vectors read beyond the end of a run, and box sums as far as other queries of the
    tile would look, up to TILE - 1 numbers before the first row.
    """
    _, C, H, W = k.shape
    overhang = 0 if task.slide and task.down <= H and task.across <= W else max(task.down, task.across)
    pad = task.patch // 2 + task.subpixel + overhang
    rows, width, planes, lasts = H + 2 * pad, W + 2 * pad, np.empty(0, k.dtype), np.empty(0, k.dtype)
    if codes.boxes or not task.wide:
        planes = _mirrored_copy(k, pad, channels_last=False)
    if task.wide:
        lasts = _mirrored_copy(k, pad, channels_last=True)
    shape = Shape(pad, rows, C * width, width, rows * C * width, width * C, rows * width * C, simd.lanes(k.dtype.name))
    return planes, lasts, shape


def _mirrored_copy(k, pad: int, channels_last: bool):
    """Return the rows of k one behind the other, mirrored `pad` pixels beyond their border."""
    T, C, H, W = k.shape
    height, width = H + 2 * pad, W + 2 * pad
    shape = (T, height, width, C) if channels_last else (T, height, C, width)
    size = math.prod(shape)
    out = aligned(ROW + size + 4 * ROW, k.dtype, np.empty)[ROW:]
    rows = out[:size].reshape(shape)
    columns = rows.swapaxes(2, 3) if channels_last else rows
    down, across = (reflect(np.arange(-pad, n + pad), n).astype(int) + pad for n in (H, W))

    def some_rows(stop, first, last):
        some = columns[:, pad + first : pad + last]
        some[..., pad : pad + W] = k[:, :, first:last].swapaxes(1, 2)
        some[..., :pad], some[..., pad + W :] = some[..., across[:pad]], some[..., across[pad + W :]]

    spread(some_rows, H, 4 * out.size)
    for frame in rows:
        frame[:pad], frame[pad + H :] = frame[down[:pad]], frame[down[pad + H :]]
    return out


def _clip(video) -> Clip:
    """Return a video [T, row, column, channel] in flat memory."""
    turned = channels_last(video)
    frames, rows, columns, channels = turned.shape
    return Clip(turned.reshape(-1), frames, rows, columns, columns * channels)
