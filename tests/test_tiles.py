"""Derivatives at whole places in tiles: the same bits however steps are cut, and the order in which candidates land."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial, reduce

import emulate
import numpy as np
import pytest
from backends import RUNS
from device_arrays import Namespace

from shiftsearch import definition
from shiftsearch._geometry import Patches, patch_offsets, query_grid, reflect
from shiftsearch.backends.cuda import Cuda, form, tiles
from shiftsearch.backends.cuda.call import Call
from shiftsearch.backends.cuda.landing import sort_by_landing

ON_CUDA = pytest.mark.parametrize(
    "run", [run for run in RUNS if run.values[0].backend != "cpu" and run.values[0].precision == "single"]
)


@dataclass(frozen=True)
class Problem:
    """Videos of more than one tile, full and cut, and offsets of which some candidates of a query have the same."""

    size: tuple[int, int, int, int, int] = (1, 2, 3, 16, 37)
    patches: Patches = field(default_factory=partial(Patches, 3))
    kept: int = 4
    most: int = 3  # pixels of an offset
    wild: float = 0  # of the offsets lead anywhere

    def arrays(self) -> list[np.ndarray]:
        rng, (B, T, _, H, W) = np.random.default_rng(5), self.size
        q, k = rng.standard_normal((2, *self.size)).astype(np.float32)
        grid = query_grid(H, W, self.patches.stride)
        weights = rng.standard_normal((B, 1, T, *grid, self.kept)).astype(np.float32)
        weights[rng.random(weights.shape) < 0.1] = 0
        offsets = rng.integers(-self.most, self.most + 1, (*weights.shape, 3))
        far = rng.random(weights.shape) < self.wild
        offsets[far] = rng.integers(-50, 51, (far.sum(), 3))
        offsets[..., 1, :] = offsets[..., 0, :]
        return [q, k, weights, offsets.astype(np.int32)]


PROBLEMS = {
    "smooth": Problem(most=1),
    "wild": Problem(most=60),
    "mixed": Problem(most=1, wild=0.05, patches=Patches(3, query_border="zeros")),
    "some images": Problem((1, 2, 3, 21, 69), Patches(6), kept=2),
    "some images, l2": Problem((1, 1, 4, 19, 67), Patches(4, metric="l2"), kept=3),
    "zeros": Problem(patches=Patches(5, border="zeros", query_border="zeros"), kept=3),
    "dilation": Problem(patches=Patches(3, dilation=3, query_border="zeros"), kept=2),
    "stride": Problem((1, 2, 3, 17, 37), Patches(5, stride=2, query_border="zeros"), kept=3),
    "stride, some images": Problem((1, 1, 2, 20, 45), Patches(4, stride=3), kept=2),
    "one row": Problem((1, 3, 2, 1, 40), Patches(7)),
    "one column": Problem((2, 2, 1, 19, 1), Patches(2, metric="l2")),
    "two pixels": Problem((1, 1, 1, 2, 1), Patches(15)),
}


def _both(backend, problem: Problem) -> list[np.ndarray]:
    q, k, weights, offsets = (backend.xp.asarray(array) for array in problem.arrays())
    p = problem.patches
    averaged = backend.aggregate(q, k, weights, offsets, p, averaged=True)
    return [averaged.get(), backend.scatter(q, k, weights, offsets, p).get()]


def _laid_out(monkeypatch, steps: int, channels: int, dense: bool) -> None:
    """Let tiles be summed so many steps and channels at a time, in the form of dense.cuh where that is possible."""
    find = tiles._layout

    def layout(options, kernel, candidates, memory):
        found = dict(find(options, kernel, candidates, memory))
        wanted = {"STEPS": steps, "CHANNELS": channels, "DENSE": int(dense and found["DENSE"])}
        return tuple({**found, **wanted}.items())

    monkeypatch.setattr(tiles, "_layout", layout)
    for module, name in ((tiles, "plan"), (form, "plans_of_sum")):  # they remember others
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)


@pytest.mark.full
@ON_CUDA
@pytest.mark.parametrize("name", PROBLEMS)
def test_bits_do_not_depend_on_the_form_nor_on_how_many_steps_are_taken_at_a_time(run, name, monkeypatch):
    """The other tiles of a mirrored frame are summed pixel by pixel in any case."""
    problem, found = PROBLEMS[name], []
    for steps, channels, dense in ((9, problem.size[2], True), (5, 1, True), (9, problem.size[2], False)):
        with monkeypatch.context() as patched:
            _laid_out(patched, steps, channels, dense)
            found.append(_both(run._load(), problem))
    wanted = [
        of(*(array.astype(float) for array in problem.arrays()), problem.patches)
        for of in (partial(definition.aggregate, averaged=True), definition.scatter)
    ]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))
    for a, b in zip(found[0], wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


@ON_CUDA
@pytest.mark.parametrize("patch", [1, 3])  # without tiles, and in tiles
def test_videos_may_have_any_strides(run, patch):
    problem, xp = Problem((2, 2, 4, 9, 10), Patches(patch, metric="l2")), run._load().xp
    q, k, weights, offsets = (xp.asarray(array) for array in problem.arrays())
    turned = k.transpose(4, 3, 2, 1, 0)[::-1].copy().transpose(4, 3, 2, 1, 0)[..., ::-1]
    last = xp.ascontiguousarray(q.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
    for name in ("aggregate", "scatter"):
        of = getattr(run._load(), name)
        found = of(last, turned, weights, offsets, problem.patches).get()
        np.testing.assert_array_equal(found, of(q, k, weights, offsets, problem.patches).get())


# --- the sum, in NumPy ----------------------------------------------------------------------------------
_NOTHING = np.float32(-0.0)


def _summed(weights, other, p: Patches, shape) -> np.ndarray:
    """The sums of tiles.cuh in their order, from the weights (step, home) of patches that stay in the frame."""
    out, around = np.zeros(shape, np.float32), patch_offsets(p.patch, p.dilation)[::-1]
    for t, y, x in np.ndindex(shape[0], *shape[2:]):
        for step in sorted({step for step, home in weights if home[0] == t}):
            rows = [[weights.get((step, (t, y - dy, x - dx)), _NOTHING) for dx in around] for dy in around]
            weight = _of_side([_of_side(row, x % 4) for row in rows], y % 4)
            if weight.tobytes() != _NOTHING.tobytes():
                frame, dy, dx = step
                out[t, :, y, x] += weight * other[frame, :, y + dy, x + dx]
    return out


def _of_side(numbers, in_four: int) -> np.float32:
    """What all pixels of a four have, what is before that from its end on, and what comes after it."""
    if len(numbers) < 4:
        return reduce(np.add, numbers)
    first, last = 3 - in_four, len(numbers) - in_four
    parts = numbers[:first][::-1], numbers[first:last], numbers[last:]
    before, common, after = (reduce(np.add, part, _NOTHING) for part in parts)
    return before + common + after


def _inside(problem: Problem):
    """The arrays of a problem, with weights only where whole patches stay in the frame."""
    (q, k, weights, offsets), reach = problem.arrays(), problem.patches.patch // 2
    for axis, n in ((1, q.shape[-2]), (2, q.shape[-1])):
        at = np.indices(weights.shape[2:5])[axis][..., None]
        offsets[..., axis] = np.clip(at + offsets[..., axis], reach, n - 1 - reach) - at
        weights[..., (at[..., 0] < reach) | (at[..., 0] > n - 1 - reach), :] = 0
    return q, k, weights, offsets


@pytest.mark.emulated
@pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
@pytest.mark.parametrize("patch", [3, 6])
@pytest.mark.parametrize("slot", ["aggregate", "scatter"])
def test_sums_are_added_in_the_order_that_is_written_down(patch, slot):
    p = Patches(patch, query_border="zeros")
    q, k, weights, offsets = _inside(Problem((1, 2, 2, 9, 33), p, most=2))
    planes = {}
    for (_, _, t, y, x, n), weight in np.ndenumerate(weights):
        dt, dy, dx = offsets[0, 0, t, y, x, n]
        frame = int(reflect(t + dt, 2))
        home, step = ((t, y, x), (frame, dy, dx)) if slot == "aggregate" else ((frame, y + dy, x + dx), (t, -dy, -dx))
        if weight != 0:
            planes[step, home] = planes[step, home] + weight if (step, home) in planes else weight
    device = emulate.Emulator("ubsan", seed=2)
    device.xp = Namespace()
    found = getattr(Cuda(device), slot)(*(device.xp.asarray(array) for array in (q, k, weights, offsets)), p).get()
    np.testing.assert_array_equal(found[0], _summed(planes, k[0] if slot == "aggregate" else q[0], p, q.shape[1:]))


# --- where candidates land --------------------------------------------------------------------------------
def _landed(backend, size, offsets, weights, p: Patches):
    """The candidates in the order of `sort_by_landing`, as far as they land anywhere."""
    q = backend.xp.asarray(np.zeros(size, np.float32))
    given = {name: backend.xp.asarray(array) for name, array in (("offsets", offsets), ("weights", weights))}
    call = Call(backend.device, p, dtype=q.dtype, q=q, k=q, **given)
    sort_by_landing(call)
    order, ends, counts = (call.arrays[name].get() for name in ("order", "ends", "counts"))
    return np.concatenate([order[end - count : end] for end, count in zip(ends, counts[:-1], strict=True)])


@ON_CUDA
@pytest.mark.parametrize("where", ["anywhere", "one pixel", "two rows", "far outside"])
def test_candidates_are_in_order_of_their_places_and_numbers(run, where):
    rng, (B, T, H, W) = np.random.default_rng(0), (2, 2, 13, 21)
    offsets = rng.integers(-9, 10, (B, 1, T, H, W, 3, 3)).astype(np.int32)
    weights = rng.integers(0, 3, offsets.shape[:-1]).astype(np.float32)
    at = np.moveaxis(np.indices((T, H, W)), 0, -1)[..., None, :]
    if where == "one pixel":  # so many that a block sorts them
        offsets[...] = [0, 5, 6] - at
    elif where == "two rows":
        offsets[..., 1] = rng.integers(3, 5, offsets.shape[:-1]) - at[..., 1]
    elif where == "far outside":
        offsets[..., 1] += 1000
    p = Patches(2, border="zeros" if where == "far outside" else "reflect")
    found = _landed(run._load(), (B, T, 1, H, W), offsets, weights, p)
    t, y, x = (reflect((at + offsets)[..., axis], n) for axis, n in ((0, T), (1, H), (2, W)))
    cells = (np.arange(B).reshape(-1, 1, 1, 1, 1, 1) * T + t) * H * W + y * W + x
    wanted = np.argsort(cells.ravel(), kind="stable")
    wanted = wanted[weights.ravel()[wanted] != 0]
    np.testing.assert_array_equal(found, [] if where == "far outside" else wanted)
