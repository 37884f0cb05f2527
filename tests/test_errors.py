"""Bad input: one kind of error that names op, argument, what was found and what was expected; and never anything else."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from test_ops import tolerance

import shiftsearch as ss
from shiftsearch import ShiftsearchError, _homes, definition

V = np.zeros((1, 3, 4, 5, 6), np.float32)
FLOW = np.zeros((1, 3, 2, 2, 5, 6), np.float32)
OFFSETS = np.zeros((1, 2, 3, 5, 6, 2, 3), np.int32)
WEIGHTS = np.zeros(OFFSETS.shape[:-1], np.float32)
PATCHES = np.zeros((1, 2, 3, 5, 6, 2, 2, 3, 3), np.float32)
EMPTY = np.zeros((1, 3, 4, 0, 6), np.float32)
MOTION = np.zeros((1, 3, 2, 5, 6), np.float32)

_TABLE = [
    # wrong number of axes, shapes that disagree
    (lambda: ss.search(V[0, 0], V[0, 0]), "search: q has shape (4, 5, 6), expected (T, C, H, W)"),
    (lambda: ss.search(V[None], V[None]), "search: q has shape (1, 1, 3, 4, 5, 6), expected (B, T, C, H, W)"),
    (lambda: ss.search(V, V[0]), "search: k has shape (3, 4, 5, 6), expected (B=1, T=3, C=4, H=5, W=6)"),
    (lambda: ss.search(V, V[..., :5]), "search: k has shape (1, 3, 4, 5, 5), expected (B=1, T=3, C=4, H=5, W=6)"),
    (
        lambda: ss.search(V, V, FLOW[..., :3]),
        "search: flow has shape (1, 3, 2, 2, 5, 3), expected (B=1, T=3, S=2, 2, h=5, w=6)",
    ),
    (
        lambda: ss.search(V, V, FLOW[:, :, :1]),
        "search: flow has shape (1, 3, 1, 2, 5, 6), expected (B=1, T=3, S=2, 2, h=5, w=6)",
    ),
    (
        lambda: ss.search(V, V, FLOW, stride=2),
        "search: flow has shape (1, 3, 2, 2, 5, 6), expected (B=1, T=3, S=2, 2, h=3, w=3)",
    ),
    (
        lambda: ss.search(V, V, np.zeros((1, 3, *FLOW.shape[1:]), np.float32), heads=2),
        "search: flow has shape (1, 3, 3, 2, 2, 5, 6), expected (B=1, 1 or 2, T=3, S=2, 2, h=5, w=6)",
    ),
    (lambda: ss.search(V, V, (MOTION, MOTION, MOTION)), "search: flow is a tuple of 3, expected (forward, backward)"),
    (
        lambda: ss.search(V, V, (MOTION, MOTION[:, :2])),
        "search: backward has shape (1, 2, 2, 5, 6), expected (1, 3, 2, 5, 6) for q of (1, 3, 4, 5, 6)",
    ),
    (
        lambda: ss.search(V, V, (MOTION[0], MOTION[0])),
        "search: forward has shape (3, 2, 5, 6), expected (1, 3, 2, 5, 6)",
    ),
    (lambda: ss.search(V[0, 0, 0], V, (MOTION, MOTION)), "search: q has shape (5, 6), expected (T, C, H, W)"),
    (
        lambda: ss.match(V[:, 0], V[:, 0, :, :4]),
        "match: q has frames of (5, 6), expected an integer multiple of k's (4, 6)",
    ),
    (
        lambda: ss.match(V[:, 0], V[:, 0], FLOW[:, 0, 0, :, ::2]),
        "match: flow has shape (1, 2, 3, 6), expected (B=1, 2, h=5, w=6)",
    ),
    (lambda: ss.match(V[:, 0], V[:, 0, :3]), "match: k has shape (1, 3, 5, 6), expected (B=1, C=4, H, W)"),
    (
        lambda: ss.refine(V, V, OFFSETS),
        "refine: offsets has shape (1, 2, 3, 5, 6, 2, 3), expected (B=1, G=1, T=3, h=5, w=6, seeds, 3)",
    ),
    (
        lambda: ss.score(V, V, OFFSETS[..., :2], heads=2),
        "score: offsets has shape (1, 2, 3, 5, 6, 2, 2), expected (B=1, a divisor of G=2, T=3, h=5, w=6, K, 3)",
    ),
    (
        lambda: ss.aggregate(V, WEIGHTS, OFFSETS[..., :1, :]),
        "aggregate: offsets has shape (1, 2, 3, 5, 6, 1, 3), expected (B=1, a divisor of G=2, T=3, h=5, w=6, K=2, 3)",
    ),
    (lambda: ss.aggregate(V[:, :, :3], WEIGHTS, OFFSETS), "aggregate: .*2 heads, expected a divisor of the 3 channels"),
    (lambda: ss.stack(V, OFFSETS, WEIGHTS[:, :1]), "stack: .* has shape"),
    (
        lambda: ss.scatter(V, WEIGHTS, OFFSETS, stride=2),
        "scatter: weights has shape (1, 2, 3, 5, 6, 2), expected (B=1, G, T=3, h=3, w=3, K)",
    ),
    (
        lambda: ss.gather(V, OFFSETS, heads=1),
        "gather: offsets has shape (1, 2, 3, 5, 6, 2, 3), expected (B=1, G=1, T, h=5, w=6, K, 3)",
    ),
    (
        lambda: ss.fold(PATCHES, OFFSETS, size=(3, 5, 7)),
        "fold: patches are of (3, 5, 6) queries (frames, rows, columns), expected",
    ),
    (lambda: ss.fold(PATCHES[..., :2, :], OFFSETS, size=(3, 5, 6)), "fold: patches has shape"),
    (
        lambda: ss.chain_flow(MOTION, MOTION[:, :2], radius=1),
        "chain_flow: backward has shape (1, 2, 2, 5, 6), expected",
    ),
    (
        lambda: ss.chain_flow(V, V, radius=1),
        "chain_flow: forward has shape (1, 3, 4, 5, 6), expected (B, T, 2, H, W)",
    ),
    (lambda: ss.upsample_flow(V, (9, 9)), "upsample_flow: flow has shape (1, 3, 4, 5, 6), expected (..., 2, h, w)"),
    # dtypes
    (lambda: ss.search(V, V.astype(float)), "search: k is float64, expected float32 as q is"),
    (
        lambda: ss.search(V.astype(int), V.astype(int)),
        "search: q is int64, expected one of float16, bfloat16, float32, float64",
    ),
    (lambda: ss.search(V.astype(complex), V.astype(complex)), "search: q is complex128, expected one of"),
    (lambda: ss.search(V, V, FLOW.astype(np.int32)), "search: flow is int32, expected one of"),
    (lambda: ss.search(V.astype(object), V.astype(object)), "search: q is object, expected one of"),
    (lambda: ss.search(V > 0, V > 0), "search: q is bool, expected one of"),
    (lambda: ss.search(V.astype(">f4"), V.astype(">f4")), "search: q is >f4, expected one of"),
    (lambda: ss.score(V, V, OFFSETS.astype(np.uint8), heads=2), "score: offsets is uint8, expected one of"),
    (
        lambda: ss.aggregate(V, WEIGHTS.astype(np.float16), OFFSETS),
        "aggregate: weights is float16, expected float32 as v is",
    ),
    (lambda: ss.fold(PATCHES.astype(int), OFFSETS, size=(3, 5, 6)), "fold: patches is int64, expected one of"),
    (lambda: ss.upsample_flow(FLOW.astype(int), (9, 9)), "upsample_flow: flow is int64, expected one of"),
    (lambda: ss.search(V.tolist(), V), "search: q is a list, expected a NumPy, CuPy or torch array"),
    *(
        (lambda call=call: call(None), f"{name} is None, expected a NumPy, CuPy or torch array")
        for name, call in (
            ("search: q", lambda a: ss.search(a, V)),
            ("search: k", lambda a: ss.search(V, a)),
            ("search: backward", lambda a: ss.search(V, V, (MOTION, a))),
            ("match: q", lambda a: ss.match(a, a)),
            ("refine: offsets", lambda a: ss.refine(V, V, a)),
            ("score: k", lambda a: ss.score(V, a, OFFSETS)),
            ("aggregate: v", lambda a: ss.aggregate(a, WEIGHTS, OFFSETS)),
            ("aggregate: weights", lambda a: ss.aggregate(V, a, OFFSETS)),
            ("stack: offsets", lambda a: ss.stack(V, a)),
            ("scatter: weights", lambda a: ss.scatter(V, a, OFFSETS)),
            ("gather: offsets", lambda a: ss.gather(V, a)),
            ("fold: patches", lambda a: ss.fold(a, OFFSETS, size=(3, 5, 6))),
            ("chain_flow: forward", lambda a: ss.chain_flow(a, MOTION, radius=1)),
            ("upsample_flow: flow", lambda a: ss.upsample_flow(a, (9, 9))),
        )
    ),
    *(
        (lambda value=value: ss.aggregate(V, value, OFFSETS), f"aggregate: weights is a {name}, expected a NumPy, CuPy")
        for name, value in (
            ("list", [1.0]),
            ("tuple", ()),
            ("float", 1.0),
            ("str", "weights"),
            ("dict", {}),
            ("type", int),
            ("float32", np.float32(1)),
        )
    ),
    (lambda: ss.search(V, V, (MOTION, [1.0])), "search: backward is a list, expected"),
    (lambda: ss.match(V[:, 0], V[:, 0], (MOTION[:, 0], MOTION[:, 0])), "match: flow is a tuple, expected"),
    (lambda: ss.search(np.zeros((), np.float32), V), "search: q has shape (), expected (T, C, H, W)"),
    (lambda: ss.search(np.ndarray, V), "search: q is a type, expected a NumPy, CuPy or torch array"),
    # empty
    (lambda: ss.search(EMPTY, EMPTY), "search: q has shape (1, 3, 4, 0, 6), expected at least 1 along H"),
    (lambda: ss.aggregate(V, WEIGHTS[..., :0], OFFSETS[..., :0, :]), "aggregate: .* expected at least 1 along K"),
    (lambda: ss.upsample_flow(FLOW[..., :0], (9, 9)), "upsample_flow: flow has shape (1, 3, 2, 2, 5, 0), expected"),
    # parameters
    *(
        (
            lambda name=name, value=value: ss.search(V, V, **{name: value}),
            f"search: {name} is {value!r}, expected {expected}",
        )
        for name, values, expected in (
            (
                "window",
                (0, -3, 1.5, None, "9", True, 10**9, 2.0, (3,), (1, 2, 3), (0, 3), [3, 2.0]),
                "a whole number from 1 to 1025",
            ),
            ("patch", (0, -1, 130, 0.5), "a whole number from 1 to 129"),
            ("radius", (-1, 0.5, None), "a whole number from 0 to"),
            ("topk", (0, -1, 1.5, "all", False), "a whole number from 1 to"),
            ("heads", (0, -1, 2.0), "a whole number from 1 to"),
            ("stride", (0, -2, 10**12), "a whole number from 1 to"),
            ("dilation", (0, 5000), "a whole number from 1 to 4096"),
            (
                "step",
                (0, -1, 1e-300, 1e7, float("nan"), float("inf"), "1", None, np.ones(1), 1j),
                "a number from 1e-06 to 1e+06",
            ),
            ("penalty", (-1, float("nan"), None, 1e300), "a number from 0 to 1e+06"),
            ("metric", ("L2", None, 2), "one of 'l2', 'dot'"),
            ("border", ("wrap", None), "one of 'reflect', 'zeros'"),
            ("even", ("up", None), "one of 'after', 'before'"),
            ("anchor", ("own", False), "one of None, 'self', 'flow'"),
            ("skip", ("frame", 0), "one of None, 'self', 'own_frame'"),
            ("subpixel", (1, None), "True or False"),
            ("slide", ("yes",), "True or False"),
            ("per_frame", (0,), "True or False"),
        )
        for value in values
    ),
    (lambda: ss.search(V, V, step=0.5), "search: step is 0.5, expected a whole number unless subpixel=True"),
    (
        lambda: ss.search(V, V, radius=2),
        "search: radius is 2, expected at most 1 for 3 frames: a clip needs 2 * radius + 1 = 5",
    ),
    (lambda: ss.search(V, V, heads=3), "search: heads is 3, expected a divisor of the 4 channels"),
    (lambda: ss.search(V, V, window=3, topk=28), "search: topk is 28, expected at most 27, the number of candidates"),
    (
        lambda: ss.search(V, V, window=3, topk=10, per_frame=True),
        "search: topk is 10, expected at most 9, the number of candidates in each frame",
    ),
    (lambda: ss.search(V, V, window=3, topk=27, skip="self"), "search: topk is 27, expected at most 26"),
    (lambda: ss.search(V, V, window=3, topk=19, skip="own_frame"), "search: topk is 19, expected at most 18"),
    (lambda: ss.search(V, V, skip="own_frame", radius=0), "search: skip is 'own_frame', expected another frame"),
    (
        lambda: ss.search(V, V, skip="self", anchor="self"),
        "search: skip is 'self', expected None beside anchor=\"self\"",
    ),
    (lambda: ss.match(V[:, 0], V[:, 0], anchor="self"), "match: anchor is 'self', expected one of None, 'flow'"),
    (lambda: ss.match(V[:, 0], V[:, 0], window=3), "match: topk is 10, expected at most 9"),
    (lambda: ss.refine(V, V, OFFSETS[:, :1], topk=19), "refine: topk is 19, expected at most 18"),
    (lambda: ss.score(V, V, OFFSETS, metric="cos"), "score: metric is 'cos', expected one of 'l2', 'dot'"),
    (
        lambda: ss.aggregate(V, WEIGHTS, OFFSETS, patch=0),
        "aggregate: patch is 0, expected a whole number from 1 to 129",
    ),
    (lambda: ss.stack(V, OFFSETS, border="same"), "stack: border is 'same', expected one of 'reflect', 'zeros'"),
    (lambda: ss.scatter(V, WEIGHTS, OFFSETS, stride=0), "scatter: stride is 0, expected a whole number from 1"),
    (
        lambda: ss.gather(V, OFFSETS, heads=2, queries=slice(9, 12)),
        "gather: queries is .*, expected a part of the (3, 5, 6) queries",
    ),
    (
        lambda: ss.gather(V, OFFSETS, heads=2, queries=slice(None, None, 2)),
        "gather: queries is .*, expected None, a slice of rows",
    ),
    *(
        (lambda queries=queries: ss.gather(V, OFFSETS, heads=2, queries=queries), "gather: queries is .*, expected")
        for queries in (
            3,
            np.zeros(2),
            (np.zeros(2),),
            (None,),
            [slice(None)],
            (slice(None),) * 4,
            "rows",
            slice(1, 1),
            slice("a", None),
            slice(0, 1.5),
            slice(0, 3, np.ones(2)),
            slice(3, 0, -1),
            slice(0, 2, True + 1),
        )
    ),
    (lambda: ss.fold(PATCHES, OFFSETS, size=(3, 5)), "fold: size is (3, 5), expected (frames, height, width)"),
    (lambda: ss.fold(PATCHES, OFFSETS, size=(3, 0, 6)), "fold: size is (3, 0, 6), expected (frames, height, width)"),
    *(
        (lambda size=size: ss.fold(PATCHES, OFFSETS, size=size), "fold: size is .*, expected (frames, height, width)")
        for size in (None, 3, "356", (3, 5, 6, 7), (True, 5, 6), (3.0, 5, 6), (3, 5, 2**31), np.zeros(3), {})
    ),
    (lambda: ss.fold(PATCHES, OFFSETS, size=(3, 5, 6), queries=np.array([0.0, 0.0])), "fold: queries is .*, expected"),
    (lambda: ss.fold(3.0, OFFSETS, size=(3, 5, 6)), "fold: patches is a float, expected"),
    (lambda: ss.chain_flow(MOTION, MOTION, radius=2), "chain_flow: radius is 2, expected at most 1 for 3 frames"),
    (lambda: ss.chain_flow(MOTION, MOTION, radius=-1), "chain_flow: radius is -1, expected a whole number from 0"),
    (lambda: ss.neighbours(2, 1), "neighbours: radius is 1, expected at most 0 for 2 frames"),
    (lambda: ss.neighbours(0, 0), "neighbours: frames is 0, expected a whole number from 1"),
    (lambda: ss.neighbours("5", 0), "neighbours: frames is '5', expected a whole number from 1"),
    (lambda: ss.coverage((3, 0)), "coverage: width is 0, expected a whole number from 1"),
    (lambda: ss.coverage(5), "coverage: size is 5, expected (height, width)"),
    (lambda: ss.upsample_flow(FLOW, 5), "upsample_flow: size is 5, expected (height, width)"),
    (lambda: ss.upsample_flow(FLOW, (5, 1.5)), "upsample_flow: width is 1.5, expected a whole number"),
    # more than fits in memory, which is an error at once
    (lambda: ss.coverage((2**31 - 1,) * 2), "coverage: the result of shape (2147483647, 2147483647) takes"),
    (
        lambda: ss.coverage((2**31 - 1, 2**20), stride=2**31 - 1),
        "coverage: the result of shape .*, expected at most .* GiB, the size of the memory",
    ),
    (lambda: ss.neighbours(10**7, 10**6), "neighbours: the result of shape (10000000, 2000001) takes"),
    (
        lambda: ss.upsample_flow(FLOW, (2**31 - 1, 2**20)),
        "upsample_flow: the result of shape (1, 3, 2, 2, 2147483647, 1048576)",
    ),
    (lambda: ss.fold(PATCHES, OFFSETS, size=(10**6,) * 3), "fold: patches are of (3, 5, 6) queries"),
    (
        lambda: ss.fold(PATCHES[:, :, :, :1, :1], OFFSETS[:, :, :, :1, :1], size=(3, 10**6, 10**8), stride=10**8),
        "fold: sums of shape (1, 3, 4, 1000000, 100000000) takes",
    ),
    (
        lambda: ss.gather(V, np.broadcast_to(OFFSETS[..., :1, :], (1, 2, 3, 5, 6, 10**8, 3)), heads=2, patch=129),
        "gather: patches of shape .* GiB, expected at most .* GiB, the size of the memory",
    ),
    (
        lambda: ss.stack(np.zeros((1, 1, 1, 999, 999)), np.broadcast_to(0, (1, 1, 1, 1, 1, 10**7, 3)), stride=999),
        "stack: out of shape (1, 10000000, 1, 1, 999, 999) takes",
    ),
    (
        lambda: ss.search(*(np.zeros((5, 1, 999, 999), np.float32),) * 2, window=1025, topk=None),
        "search: scores of shape (1, 1, 5, 999, 999, 3151875) takes",
    ),
]


@pytest.mark.parametrize(("call", "message"), _TABLE, ids=[message[:70] for _, message in _TABLE])
def test_bad_input_is_an_error_that_names_what_was_expected(call, message):
    with pytest.raises(ShiftsearchError, match=re.escape(message).replace(r"\.\*", ".*")):
        call()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda: ss.search(V, V, window=1, topk=1), lambda: ss.search(V, V, window=True, topk=1)),
        (lambda: ss.search(V, V, window=1, topk=1), lambda: ss.search(V, V, window=1.0, topk=1)),
        (lambda: ss.search(V, V, subpixel=True), lambda: ss.search(V, V, subpixel=1)),
        (lambda: ss.search(V, V, penalty=0), lambda: ss.search(V, V, penalty=False)),
        (lambda: ss.fold(PATCHES, OFFSETS, size=(3, 5, 6)), lambda: ss.fold(PATCHES, OFFSETS, size=(3.0, 5, 6))),
        tuple(lambda n=n: ss.fold(PATCHES[:, :, :1], OFFSETS[:, :, :1], size=(n, 5, 6)) for n in (1, True)),
        (lambda: ss.search(V, V, radius=1), lambda: ss.search(V[:, :2], V[:, :2], radius=1)),
        (lambda: ss.search(V, V), lambda: ss.search(V, V.astype(float))),
        (lambda: ss.search(V, V, FLOW), lambda: ss.search(V, V, FLOW[..., :-1])),
    ],
)
def test_a_wrong_call_that_resembles_a_checked_one_is_an_error(right, wrong):
    """Checked calls are cached: those equal as keys, or different only in arrays, must still be told apart."""
    right()
    for _ in range(2):
        with pytest.raises(ShiftsearchError, match="expected"):
            wrong()
    right()


def test_an_option_that_changes_is_checked_each_time():
    class Window:
        value = 3

        def __index__(self):
            return self.value

    window = Window()
    assert ss.search(V, V, window=window, topk=None, radius=0)[0].shape[-1] == 9
    window.value = 5
    assert ss.search(V, V, window=window, topk=None, radius=0)[0].shape[-1] == 25


def test_numbers_of_numpy_are_numbers():
    found = ss.search(
        V, V, window=np.int64(3), topk=np.uint8(2), radius=np.int32(1), step=np.float32(1), penalty=np.float64(0)
    )
    assert found[0].shape == (1, 1, 3, 5, 6, 2)


def test_there_is_one_way_to_name_an_option():
    with pytest.raises(TypeError):
        ss.search(V, V, None, 9)
    with pytest.raises(TypeError):
        ss.search(V, V, ws=9)


# --- ten thousand calls -----------------------------------------------------------------------------
_STRANGE = (0, -1, 2.5, None, "x", True, 10**10, -(10**10), np.nan, [], np.float32(2), np.zeros(2), 2000, b"l2", ())
_ODD_DTYPES = (np.int32, np.uint8, np.complex64, bool, object, ">f4", ">f8", "U3", "M8[s]", np.float64, np.float32)
_WEIRD = (np.nan, np.inf, -np.inf, 1e12, -3e38, 1e-40)


def _pick(rng, values):
    return values[rng.integers(len(values))]


_SEARCHES = "search", "search", "match", "refine"
_FORMS = "score", "aggregate", "stack", "scatter", "gather", "fold"
_OTHERS = "chain_flow", "upsample_flow", "neighbours", "coverage"


def _good_call(rng):
    """Return a random call that is mostly right: (name, arrays, options)."""
    dtype = _pick(rng, (np.float32, np.float32, np.float64))
    G, radius = int(rng.integers(1, 3)), int(rng.integers(0, 2))
    B, T, F, H, W, K = (int(n) for n in rng.integers(1, (3, 3, 3, 6, 6, 4)))
    T, C, stride = T + 2 * radius, G * F, int(rng.integers(1, 4))
    h, w = (H - 1) // stride + 1, (W - 1) // stride + 1

    def values(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def offsets():
        found = rng.integers(-3, 4, (B, G, T, h, w, K, 3))
        return found.astype(np.int32) if rng.random() < 0.5 else (found + rng.random(found.shape)).astype(dtype)

    shared = {"stride": stride, "dilation": int(rng.integers(1, 3)), "border": _pick(rng, ("reflect", "zeros"))}
    patch = int(rng.integers(1, 4))
    subpixel = bool(rng.random() < 0.5)
    searched = {
        **shared,
        "patch": patch,
        "heads": G,
        "window": int(rng.integers(1, 4)),
        "topk": _pick(rng, (None, 1, 2)),
        "metric": _pick(rng, ("l2", "dot")),
        "subpixel": subpixel,
        "step": _pick(rng, (1, 2, 0.5 if subpixel else 1)),
        "slide": bool(rng.random() < 0.7),
        "penalty": _pick(rng, (0, 0.5)),
        "anchor": _pick(rng, (None, "self", "flow")),
        "skip": _pick(rng, (None, None, "self", "own_frame")),
        "per_frame": bool(rng.random() < 0.3),
    }
    name = _pick(rng, _SEARCHES + _FORMS + _OTHERS)
    v, weights = values(B, T, C, H, W), values(B, G, T, h, w, K)
    match name:
        case "search":
            arrays = {"q": v, "k": values(*v.shape), "flow": _pick(rng, (None, 3 * values(B, T, 2 * radius, 2, h, w)))}
            if rng.random() < 0.1:
                arrays["flow"] = values(B, T, 2, H, W), values(B, T, 2, H, W)
            options = {**searched, "radius": radius}
        case "match":
            m = _pick(rng, (1, 1, 2))
            flow = _pick(rng, (None, 3 * values(B, 2, h, w)))
            arrays, options = {"q": values(B, C, m * H, m * W), "k": v[:, 0], "flow": flow}, searched
        case "refine":
            arrays, options = {"q": v, "k": values(*v.shape), "offsets": offsets()}, searched
        case "score":
            names = "patch", "heads", "metric", *shared
            arrays, options = {"q": v, "k": values(*v.shape), "offsets": offsets()}, {n: searched[n] for n in names}
        case "aggregate" | "scatter":
            arrays, options = {"v": v, "weights": weights, "offsets": offsets()}, {**shared, "patch": patch}
        case "stack":
            arrays = {"v": v, "offsets": offsets(), "weights": _pick(rng, (None, weights))}
            options = {**shared, "patch": patch}
        case "gather":
            queries = _pick(rng, (None, slice(0, 2), (slice(1, None), slice(None))))
            arrays, options = {"v": v, "offsets": offsets()}, {**shared, "patch": patch, "heads": G, "queries": queries}
        case "fold":
            arrays = {"patches": values(B, G, T, h, w, K, F, patch, patch), "offsets": offsets(), "weights": weights}
            options = {**shared, "size": (T, H, W)}
        case "chain_flow":
            arrays = {"forward": values(B, T, 2, H, W), "backward": values(B, T, 2, H, W)}
            options = {"radius": radius, "stride": stride}
        case "upsample_flow":
            arrays, options = {"flow": values(T, 2, h, w), "size": (H, W)}, {}
        case "neighbours":
            arrays, options = {"frames": T, "radius": radius}, {}
        case "coverage":
            arrays, options = {"size": (H, W)}, {"patch": patch, "stride": stride, "dilation": shared["dilation"]}
    return name, arrays, options


def _spoil(rng, arrays, options):
    """Change one thing about a call, which may make it wrong."""
    name = _pick(rng, [*arrays, *options])
    where = arrays if name in arrays else options
    array = where[name]
    if not isinstance(array, np.ndarray) or rng.random() < 0.1:
        where[name] = _pick(rng, _STRANGE)
        return
    axis, n = int(rng.integers(array.ndim)), int(rng.integers(3))
    match int(rng.integers(9)):
        case 0:
            array = array[(slice(None),) * axis + (0,)]
        case 1:
            array = np.expand_dims(array, axis)
        case 2:
            array = np.take(array, np.arange(n) % max(array.shape[axis], 1), axis) if array.shape[axis] else array
        case 3:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array = array.astype(_pick(rng, _ODD_DTYPES))
        case 4 if array.dtype.kind == "f":
            array = np.where(rng.random(array.shape) < 0.3, _pick(rng, _WEIRD), array).astype(array.dtype)
        case 5:
            array = np.swapaxes(array, axis, 0)
        case 6:
            array = array[(slice(None),) * axis + (slice(None, None, -1),)]
        case 7:
            array = np.asfortranarray(array)
            array.flags.writeable = False
        case 8:
            array = _pick(rng, (array.tolist(), np.float32(1), array.ravel(), np.ma.masked_array(array), "array"))
    where[name] = array


def _ordinary(arrays) -> bool:
    """Return whether results are finite numbers that can be compared."""
    kept = [a for value in arrays.values() for a in (value if isinstance(value, tuple) else (value,))]
    return all(
        np.abs(a).max(initial=0) < 1e6 and np.isfinite(a).all() for a in kept if isinstance(a, np.ndarray) and a.size
    )


def _same(name, found, expected, dtype):
    found, expected = (r if isinstance(r, tuple) else (r,) for r in (found, expected))
    assert [f.shape for f in found] == [e.shape for e in expected]
    if len(found) == 2 and name != "fold":
        same = (found[1] == expected[1]).all(-1)  # kept offsets: others may have the same score but for rounding
        assert np.count_nonzero(~same) <= 1 + 0.02 * same.size
        found, expected = (np.where(same, found[0], 0),), (np.where(same, expected[0], 0),)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=tolerance(dtype, 200, np.asarray(e, float)))


@pytest.mark.full
@pytest.mark.filterwarnings("error")
def test_ten_thousand_random_calls_are_right_or_say_why_not(monkeypatch):
    rng, right, wrong, compared = np.random.default_rng(2), 0, 0, 0
    for number in range(10_000):
        name, arrays, options = _good_call(rng)
        for _ in range(_pick(rng, (0, 0, 0, 1, 2))):
            _spoil(rng, arrays, options)
        function = getattr(ss, name)
        said = None
        try:
            found = function(**arrays, **options)
        except ShiftsearchError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"call {number}: {name}({_told(arrays)}, {options})") from error
        if said is not None:
            wrong += 1
            assert said.startswith(f"{name}: "), f"call {number}: {said}"
            assert "expected" in said, f"call {number}: {said}"
            continue
        right += 1
        if number % 20 or not _ordinary(arrays):
            continue
        compared += 1
        dtypes = [a.dtype for a in arrays.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        with monkeypatch.context() as patch, np.errstate(all="ignore"):
            patch.setattr(_homes.Cpu, "__init__", lambda self, _: vars(self).update(backend=definition))
            expected = function(**arrays, **options)
        _same(name, found, expected, dtypes[0] if dtypes else np.float64)
    assert min(right, wrong) > 2000
    assert compared > 150


def _told(arrays):
    return {n: f"{a.dtype}{a.shape}" if isinstance(a, np.ndarray) else repr(a)[:60] for n, a in arrays.items()}
