"""attend: the same as search, softmax and aggregate, without their memory."""

from __future__ import annotations

import tracemalloc

import emulate
import numpy as np
import pytest
from backends import Run
from cases import Case
from quick import shown_by

import shiftsearch as ss
from shiftsearch import _arrays, definition
from shiftsearch._op import OPS
from shiftsearch.backends import cpu
from shiftsearch.errors import ShiftsearchError

torch = pytest.importorskip("torch")

CALLS = [
    {},
    {"patch": 3, "heads": 2, "metric": "dot", "skip": "self"},
    {"heads": 2, "stride": 2, "subpixel": True, "border": "zeros"},
    {"patch": 3, "subpixel": True, "slide": False, "skip": "own_frame", "step": 0.5},
    {"patch": 2, "stride": 3, "slide": False, "skip": "self", "step": 2},
    {"radius": 2, "subpixel": True, "step": 1.3, "metric": "dot"},
    {"heads": 2, "metric": "dot", "skip": "self"},
    {"border": "zeros", "slide": False, "step": 2, "stride": 2, "skip": "own_frame"},
]


def composed(q, k, v, flow, scales, **options):
    """What `attend` is said to be, by ops that keep the scores of all places."""
    spec = {"patch": 1, "heads": 1, "metric": "l2", **options}
    scores, offsets = ss.search(q, k, flow, topk=None, **options)
    scale = (1 if spec["metric"] == "dot" else -0.5) / (q.shape[-3] // spec["heads"] * spec["patch"] ** 2) ** 0.5
    weights = torch.softmax(scores.clamp(-1e30, 1e30) * scale * scales.reshape(-1, 1, 1, 1, 1), -1)
    shared = {name: options[name] for name in ("patch", "stride", "border") if name in options}
    return ss.aggregate(v, weights, offsets, **shared)


@pytest.mark.parametrize("options", shown_by(CALLS, 0, 1))
def test_it_is_search_and_softmax_and_aggregate(options):
    random, heads, stride = torch.Generator().manual_seed(0), options.get("heads", 1), options.get("stride", 1)
    options = {"window": 4, **options}
    shapes = [(2, 5, 4, 9, 11), (2, 5, 4, 9, 11), (2, 5, 6, 9, 11)]
    shapes += [(2, heads, 5, 2 * options.get("radius", 1), 2, 8 // stride + 1, 10 // stride + 1), (heads,)]
    given = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    given[3], given[4] = 3 * given[3], given[4].abs()
    tensors = [tensor.requires_grad_() for tensor in given]
    expected = composed(*tensors, **options)
    arrive = torch.randn(expected.shape, generator=random, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, tensors, arrive, allow_unused=True)
    for asked in (False, True):
        found = ss.attend(*tensors, topk=None, return_attention=asked, **options)
        found = found[0] if asked else found
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        for grad, one in zip(torch.autograd.grad(found, tensors, arrive), wanted, strict=True):
            torch.testing.assert_close(grad, torch.zeros_like(grad) if one is None else one, rtol=0, atol=1e-12)


def test_numpy_gets_what_torch_gets(rng):
    q, k, v = (rng.standard_normal((3, 4, 7, 9), np.float32) for _ in range(3))
    for topk in (3, None):
        found = ss.attend(q, k, v, window=3, topk=topk, return_attention=True)
        wanted = ss.attend(*map(torch.from_numpy, (q, k, v)), window=3, topk=topk, return_attention=True)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other.numpy())
        np.testing.assert_allclose(found[1].sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_what_has_no_weight_is_not_there(backend):
    """The first place that most queries look at is infinitely far, and has no value."""
    if backend == "emulated" and emulate.available() is not None:
        pytest.skip(str(emulate.available()))
    run, op = Run(backend, "single"), OPS["attend"]
    case = Case("attend: endless", (1, 1, 2, 6, 7), weighted=False, options={"window": 3, "radius": 0, "topk": None})
    inputs = case.arrays(np.float32)
    inputs["k"][..., 2, 3], inputs["v"][..., 2, 3] = np.inf, np.nan
    arrive = {"out": np.ones_like(inputs["v"])}
    outputs = run.forward(case, inputs)
    found = {**outputs, **run.backward(case, outputs, arrive, inputs)}
    wanted = op.forward(definition, case.spec, **inputs)
    wanted |= op.backward(definition, case.spec, inputs, wanted, arrive, inputs.keys())
    assert np.isfinite(found["out"]).all()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name].astype(float), array, rtol=1e-4, atol=1e-5, err_msg=name)


def _peak(window: int) -> int:
    """The most bytes that a call and its gradient hold at once."""
    inputs = {name: np.random.default_rng(0).standard_normal((1, 1, 4, 24, 24), np.float32) for name in "qkv"}
    op, spec = OPS["attend"], OPS["attend"].specify(window=window, radius=0, topk=None, patch=3)
    tracemalloc.start()
    outputs = op.forward(cpu, spec, **inputs)
    op.backward(cpu, spec, inputs, outputs, {"out": outputs["out"]}, inputs.keys())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_window():
    """With all scores and offsets it would be 9 times as much."""
    for window in (7, 21):
        _peak(window)  # kernels are compiled, and what calls remember is in memory
    assert _peak(21) < 1.2 * _peak(7)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_to_all_takes_ten_mebibytes_beside_its_arrays(heads):
    """Offsets of 3 x 7 x 7 places for each pixel would be 144 MiB, and weights 48; each video is 5."""
    rng, op = np.random.default_rng(0), OPS["attend"]
    q, k, v, grad = rng.standard_normal((4, 1, 5, 64, 64, 64), np.float32)
    inputs, spec = {"q": q, "k": k, "v": v}, op.specify(window=7, topk=None, heads=heads, metric="dot")
    outputs = _arrays.forward(op, spec, inputs)
    kept = {name: outputs[name] for name in op.keeps}
    for call in (
        lambda: _arrays.forward(op, spec, inputs),
        lambda: _arrays.backward(op, spec, inputs, kept, {"out": grad}, inputs.keys()),
    ):
        call()  # kernels are compiled
        tracemalloc.start()
        results = sum(array.nbytes for array in call().values())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < results + 10 * 2**20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": -1.0}, "scale is -1.0, expected a number from 0"),
        ({"scale": "much"}, "scale is 'much'"),
        ({"topk": 28}, "topk is 28, expected at most 27"),
        ({"heads": 3}, "heads is 3, expected a divisor of the 4 channels"),
        ({"scales": np.ones(2, np.float32)}, r"scales has shape \(2,\), expected \(G=1\)"),
        ({"v": np.zeros((3, 4, 7, 8), np.float32)}, "v has shape"),
        ({"flow": np.zeros(3)}, "flow has shape"),
        ({"return_attention": 1}, "return_attention is 1"),
    ],
)
def test_errors_name_what_is_wrong(options, said):
    video = np.zeros((3, 4, 7, 9), np.float32)
    with pytest.raises(ShiftsearchError, match=f"^attend: {said}"):
        ss.attend(**{"q": video, "k": video, "v": video, "window": 3, "topk": 4, **options})
