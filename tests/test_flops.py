"""torch's FLOP counter: two operations for each multiply-add of plain loops that give the same results and gradients."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch._geometry import reflect

torch = pytest.importorskip("torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 - torch may be missing

T, C, V, H, W, HEADS = 3, 4, 2, 4, 5, 2


class Loops:
    """The form of q (T, C, H, W), k and offsets by loops over pairs of pixels, which count their multiply-adds."""

    def __init__(self, q, k, offsets, metric="dot", patch=1, query_border="reflect"):
        self.q, self.k, self.offsets, self.l2 = q, k, offsets[0], metric == "l2"
        self.pixels, self.query_border, self.count = np.arange(patch) - patch // 2, query_border, 0
        self.fractions = np.issubdtype(offsets.dtype, np.floating)

    def pairs(self):
        """Yield, of each pair, (place, channels, pixel of q or None, its four corners in k or the one pixel)."""
        heads, each = self.offsets.shape[0], self.q.shape[1] // self.offsets.shape[0]
        for at in np.ndindex(*self.offsets.shape[:-1]):
            g, t, y, x, _ = at
            dt, dy, dx = self.offsets[at]
            channels = slice(g * each, (g + 1) * each)
            assert g < heads
            for u, v in np.array(np.meshgrid(self.pixels, self.pixels, indexing="ij")).reshape(2, -1).T:
                inside = 0 <= y + u < H and 0 <= x + v < W
                pixel = (t, channels, int(reflect(y + u, H)), int(reflect(x + v, W)))
                dropped = self.query_border == "zeros" and not inside
                place = reflect(y + dy, H), reflect(x + dx, W)
                yield at, channels, None if dropped else pixel, self.corners(int(t + dt), channels, place, (u, v))

    def corners(self, t, channels, place, u):
        """Return pixels with their weights, and the derivatives of these by row and column, of a place in the frame."""
        (y0, x0), (fy, fx) = np.floor(place).astype(int), place - np.floor(place)
        if not self.fractions:
            return [((t, channels, int(reflect(y0 + u[0], H)), int(reflect(x0 + u[1], W))), 1.0, 0.0, 0.0)]
        found = []
        for i, j in np.ndindex(2, 2):
            wy, wx = (fy if i else 1 - fy), (fx if j else 1 - fx)
            pixel = (t, channels, int(reflect(y0 + i + u[0], H)), int(reflect(x0 + j + u[1], W)))
            found.append((pixel, wy * wx, (2 * i - 1) * wx, (2 * j - 1) * wy))
        return found

    def times(self, a, b):
        self.count += np.size(b)
        return a * b

    def read(self, corners, of=1):
        """Return k between pixels, or with `of` 2 or 3 its slope by row or column."""
        if not self.fractions:
            return self.k[corners[0][0]]
        return sum(self.times(corner[of], self.k[corner[0]]) for corner in corners)

    def spread(self, out, corners, value):
        for corner in corners:
            out[corner[0]] += self.times(corner[1], value) if self.fractions else value

    def weights(self):
        out = np.zeros(self.offsets.shape[:-1])
        for at, _, pixel, corners in self.pairs():
            b = self.read(corners)
            a = np.zeros_like(b) if pixel is None else self.q[pixel]
            pair = self.times(a - b, a - b) if self.l2 else self.times(a, b)
            out[at] += 0 if pixel is None else pair.sum()
        return out[None]

    def q_and_k(self, weights, wanted="qk"):
        """Return both derivatives, or the one that is wanted; what a patch has outside of the frame is dropped."""
        q_out, k_out = np.zeros_like(self.q), np.zeros_like(self.k)
        for at, channels, pixel, corners in self.pairs():
            b = self.read(corners) if self.l2 or "q" in wanted else None
            here = (pixel or (at[1], channels, 0, 0)) if pixel is None else pixel
            a, weight = self.q[here], weights[0][at] * (pixel is not None)
            if "q" in wanted:
                q_out[here] += self.times(weight, 2 * (a - b) if self.l2 else b)
            if "k" in wanted:
                self.spread(k_out, corners, self.times(weight, -2 * (a - b) if self.l2 else a))
        return q_out, k_out

    def slopes(self, weights):
        out = np.zeros(self.offsets.shape)
        for at, _, pixel, corners in self.pairs():
            factor = -2 * (self.q[pixel] - self.read(corners)) if self.l2 else self.q[pixel]
            for axis in (1, 2):
                out[at][axis] += weights[0][at] * self.times(self.read(corners, axis + 1), factor).sum()
        return out[None]


def counted(function, *tensors, wanted=None):
    """Return what a function gives, the gradients of its first result's sum with fixed weights, and FLOPs of both."""
    tensors = [
        x.detach().requires_grad_(x.is_floating_point() and (wanted is None or n in wanted))
        for n, x in enumerate(tensors)
    ]
    with FlopCounterMode(display=False) as forward:
        found = function(*tensors)
    first = found[0] if isinstance(found, tuple) else found
    arrives = torch.linspace(-1, 1, first.numel(), dtype=torch.float64).reshape(first.shape)
    moving = [x for x in tensors if x.requires_grad]
    with FlopCounterMode(display=False) as backward:
        grads = torch.autograd.grad(first, moving, arrives)
    return found, arrives.numpy(), [g.numpy() for g in grads], forward.get_total_flops(), backward.get_total_flops()


@pytest.fixture
def draw():
    random = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=random, dtype=torch.float64)


def drawn_places(fractions, K=2):
    """Offsets to places inside of the frames, between their pixels if `fractions`."""
    rng = np.random.default_rng(0)
    t, y, x = (a[None, None, ..., None] for a in np.meshgrid(*map(np.arange, (T, H, W)), indexing="ij"))
    to = rng.integers(0, (T, H - 1, W - 1), (1, HEADS, T, H, W, K, 3)) + fractions * np.array([0, 0.3, 0.6])
    return torch.from_numpy(to - np.stack(np.broadcast_arrays(t, y, x), -1)).to(
        torch.float64 if fractions else torch.int32
    )


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fractions", [False, True])
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_of_scores_and_their_gradients(draw, metric, fractions):
    q, k, offsets = draw(T, C, H, W), draw(T, C, H, W), drawn_places(fractions)
    options = {"patch": 2, "heads": HEADS, "metric": metric}
    found, arrives, grads, forward, backward = counted(lambda *a: ss.score(*a, **options), q, k, offsets[0])
    loops = Loops(q.numpy(), k.numpy(), offsets.numpy(), metric, 2)
    close(found[None].detach(), loops.weights())
    assert forward == 2 * loops.count > 0
    loops.count = 0
    for grad, expected in zip(grads[:2], loops.q_and_k(arrives[None]), strict=True):
        close(grad, expected)
    if fractions:
        close(grads[2][None], loops.slopes(arrives[None]))
    assert backward == 2 * loops.count > 0


def test_of_one_gradient_alone(draw):
    q, k, offsets = draw(T, C, H, W), draw(T, C, H, W), drawn_places(True)
    for slot, name in enumerate("qk"):
        _, arrives, _, _, backward = counted(lambda *a: ss.score(*a, heads=HEADS), q, k, offsets[0], wanted={slot})
        loops = Loops(q.numpy(), k.numpy(), offsets.numpy(), "l2")
        loops.q_and_k(arrives[None], name)
        assert backward == 2 * loops.count > 0


@pytest.mark.parametrize("fractions", [False, True])
def test_of_sums_and_their_gradients(draw, fractions):
    v, weights, offsets = draw(T, C, H, W), draw(HEADS, T, H, W, 2), drawn_places(fractions)
    found, arrives, grads, forward, backward = counted(ss.aggregate, v, weights, offsets[0])
    loops = Loops(np.zeros((T, C, H, W)), v.numpy(), offsets.numpy())
    close(found.detach(), loops.q_and_k(weights[None].numpy(), "q")[0])
    assert forward == 2 * loops.count > 0
    loops = Loops(arrives, v.numpy(), offsets.numpy())
    close(grads[0], loops.q_and_k(weights[None].numpy(), "k")[1])
    close(grads[1][None], loops.weights())
    if fractions:
        close(grads[2][None], loops.slopes(weights[None].numpy()))
    assert backward == 2 * loops.count > 0
    stacked = counted(lambda v, w, o: ss.stack(v, o, w), v, weights, offsets[0])
    assert stacked[3:] == (forward, backward)
    scattered = counted(ss.scatter, v, weights, offsets[0], wanted={0, 1})
    loops = Loops(v.numpy(), np.zeros((T, C, H, W)), offsets.numpy())
    close(scattered[0].detach(), loops.q_and_k(weights[None].numpy(), "k")[1])
    assert scattered[3] == 2 * loops.count > 0


@pytest.mark.parametrize("subpixel", [False, True])
def test_of_search_are_all_candidates_and_back_those_kept(draw, subpixel):
    q, k, flow = draw(T, C, H, W), draw(T, C, H, W), draw(T, 2, 2, H, W)
    options = {"window": 3, "heads": HEADS, "subpixel": subpixel, "skip": "self"}
    every, places = ss.search(q, k, flow, topk=None, **options)
    loops = Loops(q.numpy(), k.numpy(), places[None].numpy(), "l2")
    close(every[None], loops.weights())
    (_, kept), arrives, grads, forward, backward = counted(lambda *a: ss.search(*a, topk=2, **options), q, k, flow)
    assert forward == 2 * loops.count > 0
    loops = Loops(q.numpy(), k.numpy(), kept[None].detach().numpy(), "l2")
    close(grads[1], loops.q_and_k(arrives[None])[1])
    if subpixel:
        loops.slopes(arrives[None])
    assert backward == 2 * loops.count > 0
    seeds = kept.detach()
    fine = counted(
        lambda *a: ss.refine(*a, window=1, topk=2, heads=HEADS, subpixel=subpixel), q, k, seeds, wanted={0, 1}
    )
    loops = Loops(q.numpy(), k.numpy(), seeds[None].numpy(), "l2")
    loops.weights()
    assert fine[3] == 2 * loops.count
    loops.count = 0
    loops.q_and_k(arrives[None])
    assert fine[4] == 2 * loops.count
    two = counted(lambda *a: ss.match(*a, window=3, topk=2, heads=HEADS, subpixel=subpixel), q[0], k[0], wanted={0, 1})
    assert two[3] == forward / (27 - 1) * 9 / T
    assert two[4] == fine[4] / T


@pytest.mark.parametrize("topk", [None, 4])
def test_of_attention(draw, topk):
    q, k, v = draw(T, C, H, W), draw(T, C, H, W), draw(T, V, H, W)
    options = {"window": 3, "heads": HEADS, "metric": "dot", "scale": 0.7}
    every, everywhere = ss.search(q, k, topk=None, **{n: options[n] for n in ("window", "heads", "metric")})
    out, arrives, grads, forward, backward = counted(lambda *a: ss.attend(*a, topk=topk, **options), q, k, v)
    scores, places = (
        (every, everywhere) if topk is None else ss.search(q, k, topk=topk, window=3, heads=HEADS, metric="dot")
    )
    weights = torch.softmax(0.7 * scores, -1)[None].numpy()
    keys = Loops(q.numpy(), k.numpy(), everywhere[None].numpy())
    values = Loops(np.zeros((T, V, H, W)), v.numpy(), places[None].numpy())
    keys.weights()
    close(out.detach(), values.q_and_k(weights, "q")[0])
    assert forward == 2 * (keys.count + values.count) > 0
    keys = Loops(q.numpy(), k.numpy(), places[None].numpy())
    if topk is None:
        keys.weights()
    values = Loops(arrives, v.numpy(), places[None].numpy())
    by_weights = values.weights()
    slopes = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True))
    for grad, expected in zip(grads[:2], keys.q_and_k(0.7 * slopes), strict=True):
        close(grad, expected)
    close(grads[2], values.q_and_k(weights, "k")[1])
    assert backward == 2 * (keys.count + values.count) > 0


@pytest.mark.parametrize("fractions", [False, True])
def test_of_patches_read_and_added(draw, fractions):
    v, offsets, part = draw(T, C, H, W), drawn_places(fractions)[0], slice(1, 3)
    of_part = offsets[:, :, part].numpy()[None]
    read, _, _, forward, backward = counted(lambda *a: ss.gather(*a, patch=2, heads=HEADS, queries=part), v, offsets)
    terms = of_part[..., 0].size * C // HEADS * 4
    assert forward == 2 * terms * 4 * fractions
    assert backward == 2 * terms * (15 if fractions else 1)
    weights = draw(HEADS, T, H, W, 2)
    size = {"size": (T, H, W), "queries": part}
    _, _, _, forward, backward = counted(lambda *a: ss.fold(*a, **size), read.detach(), offsets, weights)
    assert forward == 2 * (terms + terms // (C // HEADS)) * (5 if fractions else 1)
    assert backward == 2 * terms * (16 if fractions else 2)


def test_of_chained_flow(draw):
    """Each step reads two channels at four corners; back, all but those from the query also move what was read before."""
    forward_flow, backward_flow = draw(5, 2, H, W), draw(5, 2, H, W)
    order = ss.neighbours(5, 2)
    steps = sum(t != other for t in range(5) for other in order[t])
    on = sum(abs(t - other) > 1 for t in range(5) for other in order[t])
    *_, forward, backward = counted(lambda *a: ss.chain_flow(*a, radius=2), forward_flow, backward_flow)
    assert (steps, on) == (20, 12)
    assert forward == 2 * steps * H * W * 2 * 4
    assert backward == forward + 2 * on * H * W * 2 * 10


@pytest.mark.full
def test_of_the_first_call_of_a_process_that_imports_torch_later():
    code = """
    import shiftsearch, torch
    from torch.utils.flop_counter import FlopCounterMode
    x = torch.zeros(1, 1, 2, 2, 2)
    with FlopCounterMode(display=False) as counter:
        shiftsearch.score(x, x, torch.zeros(1, 1, 1, 2, 2, 1, 3, dtype=torch.int32))
    print(counter.get_total_flops())"""
    found = subprocess.run([sys.executable, "-c", dedent(code)], check=True, capture_output=True, text=True)
    assert found.stdout == "16\n"


def test_a_layer_counts_its_search_and_its_linear_maps():
    layer, x = ss.nn.ShiftedAttention(4, heads=2, window=5, topk=4, subpixel=False), torch.randn(1, 3, 4, 8, 8)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    queries = 3 * 8 * 8
    assert counter.get_total_flops() == 2 * queries * (4 * 4 * 4 + 3 * 25 * 4 + 4 * 4)
