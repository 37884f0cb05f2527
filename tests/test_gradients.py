"""Every gradient against finite differences in float64, transposes against each other, and what must be zero."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, example, row

from shiftsearch import coverage, definition
from shiftsearch._op import OPS
from shiftsearch.backends import cpu

pytestmark = pytest.mark.usefixtures("poisoned")

BACKENDS = pytest.mark.parametrize("backend", [definition, cpu], ids=["definition", "cpu"])
STEP = 1e-5  # far less than the distance to the next whole place, where bilinear sampling has a kink
SMALL = (1, 3, 2, 4, 5)
MOVED = {"flow": "wild", "subpixel": True, "window": 2, "topk": 5, "patch": 2}

CASES = [
    *map(example, OPS.values()),
    row("search: l2", SMALL, **MOVED),
    row("search: dot", SMALL, **MOVED, metric="dot"),
    row("search: zeros", SMALL, **MOVED, border="zeros"),
    row("search: zeros, dot", SMALL, **MOVED, border="zeros", metric="dot"),
    row("search: dilation and stride", SMALL, **MOVED, dilation=2, stride=2),
    row("search: flow per head", (2, 3, 4, 3, 4), heads=2, flow_heads=2, **MOVED),
    row("search: shared flow", (2, 3, 4, 3, 4), heads=2, **MOVED),
    row("search: window stays, penalty", SMALL, **{**MOVED, "topk": 12}, slide=False, penalty=0.1),
    row("search: anchored", SMALL, **{**MOVED, "topk": 2}, anchor="flow", step=1.3),
    row("search: one row", (1, 3, 2, 1, 7), **MOVED),
    row("search: whole", SMALL, window=3, topk=4, patch=3, flow="whole"),
    row("search: whole, zeros", SMALL, window=3, topk=4, patch=3, flow="far", border="zeros", metric="dot"),
    row("match: subpixel", (1, 1, 2, 4, 5), **{**MOVED, "topk": 3}),
    row("match: shared flow, dot", (2, 1, 4, 4, 5), heads=2, **{**MOVED, "topk": 3}, metric="dot"),
    row("match: fine queries", (1, 1, 2, 4, 5), scale=2, **{**MOVED, "topk": 3}, stride=2),
    row("match: fine queries, zeros", (1, 1, 2, 4, 5), scale=2, **{**MOVED, "topk": 3}, border="zeros"),
    row("refine: subpixel", SMALL, offsets="wild", window=2, topk=4, subpixel=True, patch=2),
    row(
        "refine: zeros, dot, per seed",
        SMALL,
        offsets="wild",
        window=2,
        topk=2,
        subpixel=True,
        border="zeros",
        metric="dot",
        per_frame=True,
    ),
    row("refine: whole", SMALL, window=2, topk=4),
    *(
        row(
            f"{op}: {border}{', ' + more if more else ''}",
            size,
            heads=heads,
            offsets="wild",
            border=border,
            patch=2,
            **options,
        )
        for op in ("score", "aggregate", "stack", "scatter", "gather", "fold")
        for border in ("reflect", "zeros")
        for more, size, heads, options in (
            ("", (1, 3, 3, 4, 5), 1, {}),
            ("stride, dilation, heads", (2, 2, 4, 5, 4), 2, {"stride": 2, "dilation": 2}),
        )
    ),
    row("score: dot", SMALL, offsets="wild", metric="dot", patch=3),
    row("score: dot, zeros", SMALL, offsets="wild", metric="dot", patch=3, border="zeros"),
    row("score: whole", SMALL, patch=3),
    row("aggregate: stride larger than the patch", SMALL, offsets="wild", stride=2),
    row("stack: without weights", SMALL, offsets="wild", weighted=False, patch=2),
    row("fold: without weights", SMALL, offsets="wild", weighted=False, patch=2),
    row("gather: some queries", SMALL, offsets="wild", patch=2, queries=slice(1, 3)),
    row("fold: some queries", SMALL, offsets="wild", patch=2, queries=(slice(1, 3), slice(2, 4))),
    row("chain_flow: radius 1", (2, 3, 1, 4, 5), flow="wild", radius=1),
    row("chain_flow: radius 2, stride 2", (1, 5, 1, 4, 5), flow="wild", radius=2, stride=2),
]

_ALL = [
    pytest.param(
        backend,
        case,
        id=f"{case.name}-{backend.__name__.rpartition('.')[-1]}",
        marks=pytest.mark.full if backend is definition and case.op.name == "attend" else (),  # half a minute
    )
    for backend in (definition, cpu)
    for case in CASES
]


def losses(case: Case, outputs):
    """Return random weights of all outputs that a user gets, except of integers."""
    rng, seen = np.random.default_rng(2), outputs.keys() - case.op.hidden
    return {n: rng.standard_normal(out.shape) for n, out in outputs.items() if n in seen and out.dtype.kind == "f"}


@pytest.mark.xdist_group("finite differences")  # which share kernels that take long to compile
@pytest.mark.options_on
@pytest.mark.parametrize(("backend", "case"), _ALL)
def test_gradients_are_finite_differences(case, backend):
    op, spec, inputs = case.op, case.spec, case.arrays(np.float64)
    outputs = op.forward(backend, spec, **inputs)
    rng, steps = np.random.default_rng(3), {}
    for name, array in inputs.items():
        if array.dtype.kind == "f":
            direction = rng.standard_normal(array.shape)
            if name == "offsets":
                direction[..., 0] = 0  # frames are whole numbers
            moved = ({**inputs, name: array + s * STEP * direction} for s in (1, -1))
            steps[name] = direction, *(op.forward(backend, spec, **given) for given in moved)
    weights = losses(case, outputs)
    if outputs.keys() >= {"scores", "offsets"}:
        counted = _counted(outputs, [out for _, *both in steps.values() for out in both])
        weights = {
            name: np.where(counted[..., None] if name == "offsets" else counted, w, 0) for name, w in weights.items()
        }
    gradients = op.backward(backend, spec, inputs, outputs, weights, inputs.keys())

    def loss(outputs):
        return sum((np.where(w != 0, outputs[name], 0) * w).sum() for name, w in weights.items())

    for name, gradient in gradients.items():
        direction, ahead, behind = steps[name]
        slope = (gradient * direction).sum()
        scale = np.abs(gradient * direction).sum() + 1
        assert abs((loss(ahead) - loss(behind)) / (2 * STEP) - slope) < 1e-7 * scale, f"gradient of {name}"
        assert name != "offsets" or (gradient[..., 0] == 0).all()


def _counted(outputs, others):
    """Return which kept candidates a loss may depend on: none outside, and none that a small step may replace."""
    same = [(np.abs(other["offsets"] - outputs["offsets"]) < 100 * STEP).all(-1) for other in others]
    kept = np.all(same, 0)
    assert kept.mean() > 0.99
    return kept & np.isfinite(outputs["scores"])


@BACKENDS
@pytest.mark.parametrize("border", ["reflect", "zeros"])
def test_kept_offsets_follow_the_flow_that_led_there(backend, border):
    """With one candidate per frame no other can be kept: offsets move with the flow, mirrored where it is mirrored."""
    case = row("search: ", SMALL, flow="wild", subpixel=True, window=1, topk=1, per_frame=True, border=border)
    inputs, move = case.arrays(np.float64), 2**-10
    outputs = case.op.forward(backend, case.spec, **inputs)
    e = np.random.default_rng(0).standard_normal(outputs["offsets"].shape)
    nothing = np.zeros(outputs["scores"].shape)
    gradient = case.op.backward(backend, case.spec, inputs, outputs, {"scores": nothing, "offsets": e}, {"flow"})[
        "flow"
    ]
    moved = case.op.forward(backend, case.spec, **{**inputs, "flow": inputs["flow"] + move})["offsets"]
    sign = (moved - outputs["offsets"]).astype(float)[..., 1:, 1:] / move  # (B, G, T, h, w, slots, (dy, dx))
    assert set(np.unique(sign)) == ({-1, 1} if border == "reflect" else {1})
    by_slot = np.moveaxis((e[..., 1:, 1:] * sign)[..., ::-1], (-2, -1), (3, 4))
    np.testing.assert_allclose(gradient, by_slot, rtol=0, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("offsets", ["whole", "wild", "far"])
def test_fold_is_the_transpose_of_gather(backend, border, offsets):
    options = {"size": (2, 3, 4, 5, 6), "heads": 2, "offsets": offsets, "border": border, "patch": 3, "stride": 2}
    read, write = row("gather: ", **options), row("fold: ", **options, weighted=False)
    v, y = read.arrays(np.float64)["v"], write.arrays(np.float64)["patches"]
    places = read.arrays(np.float64)["offsets"]
    patches = read.op.forward(backend, read.spec, v=v, offsets=places)["patches"]
    sums = write.op.forward(backend, write.spec, patches=y, offsets=places)["sums"]
    np.testing.assert_allclose((patches * y).sum(), (v * sums).sum(), rtol=1e-11)


@BACKENDS
@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("offsets", ["whole", "wild", "far"])
def test_scatter_is_the_transpose_of_aggregate_times_coverage(backend, border, offsets, rng):
    options = {"size": (2, 3, 4, 5, 6), "heads": 2, "offsets": offsets, "border": border, "patch": 3, "stride": 2}
    down, up = row("aggregate: ", **options), row("scatter: ", **options)
    inputs, y = down.arrays(np.float64), rng.standard_normal((2, 3, 4, 5, 6))
    mean = down.op.forward(backend, down.spec, **inputs)["out"]
    spread = up.op.forward(backend, up.spec, **{**inputs, "v": y})["out"]
    covered = coverage((5, 6), patch=3, stride=2)
    np.testing.assert_allclose((mean * covered * y).sum(), (inputs["v"] * spread).sum(), rtol=1e-11)


@pytest.mark.full
@BACKENDS
@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("flow", ["zero", "wild", "whole"])
def test_flow_has_no_gradient_in_a_constant_image(backend, metric, flow):
    """Also in the last row and column, where the next pixel is a mirror image."""
    case = row("search: ", (1, 3, 2, 4, 5), flow=flow, subpixel=True, window=3, topk=20, patch=3, metric=metric)
    inputs = case.arrays(np.float64)
    inputs["k"] = np.full_like(inputs["k"], 1.5)
    outputs = case.op.forward(backend, case.spec, **inputs)
    grads = {"scores": np.ones(outputs["scores"].shape)}
    gradient = case.op.backward(backend, case.spec, inputs, outputs, grads, {"flow"})["flow"]
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("arriving", [1.0, np.nan, np.inf])
def test_infinite_candidates_carry_no_gradient(backend, arriving):
    case = row("search: ", SMALL, flow="wild", subpixel=True, window=3, topk=None, slide=False)
    inputs = case.arrays(np.float64)
    outputs = case.op.forward(backend, case.spec, **inputs)
    out = np.isinf(outputs["scores"])
    assert 0.1 < out.mean() < 0.9
    grads = {"scores": np.where(out, arriving, 0), "offsets": np.where(out[..., None], arriving, 0)}
    for name, gradient in case.op.backward(backend, case.spec, inputs, outputs, grads, inputs.keys()).items():
        assert (gradient == 0).all(), name


@BACKENDS
@pytest.mark.parametrize("op", ["score", "aggregate", "stack", "scatter", "gather", "fold", "refine"])
def test_whole_offsets_have_no_gradient(backend, op):
    case = row(f"{op}: ", SMALL, **({"window": 1, "topk": None} if op == "refine" else {}))
    inputs = case.arrays(np.float64)
    outputs = case.op.forward(backend, case.spec, **inputs)
    found = case.op.backward(backend, case.spec, inputs, outputs, losses(case, outputs), inputs.keys())
    assert found.keys() == inputs.keys() - {"offsets"}


@BACKENDS
def test_slope_at_whole_places_is_towards_the_next_pixel(backend):
    """In the last column the next pixel is a mirror image: 16 - 25 for x**2."""
    case = row("aggregate: ", (1, 1, 1, 1, 6), kept=1, offsets="zero")
    inputs = {
        "v": np.arange(6.0).reshape(1, 1, 1, 1, 6) ** 2,
        "weights": np.ones((1, 1, 1, 1, 6, 1)),
        "offsets": np.zeros((1, 1, 1, 1, 6, 1, 3)),
    }
    found = case.op.backward(backend, case.spec, inputs, {}, {"out": np.ones((1, 1, 1, 1, 6))}, {"offsets"})["offsets"]
    np.testing.assert_array_equal(found[0, 0, 0, 0, :, 0], [[0, 0, d] for d in (1, 3, 5, 7, 9, -9)])
