"""Subpixel search on tiles: the scores of the definition, to the tolerance that is promised, and its order."""

from __future__ import annotations

from dataclasses import dataclass, field

import emulate
import ml_dtypes
import numpy as np
import pytest
from device_arrays import Namespace, OnDevice
from quick import shown_by
from test_search_tiles import under_tsan

from shiftsearch.backends import cpu
from shiftsearch.backends.cuda import Cuda, kernels, search, search_subpixel, search_tiles
from shiftsearch.ops.search import SEARCH

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available())),
]
_TOLERANCE, _FLOAT = 2.0**-12, 2.0**-24
_MEMORY = 227 << 10
_DTYPES = {"single": np.float32, "half": np.float16, "bfloat": ml_dtypes.bfloat16}
_SIZE = (1, 3, 3, 13, 37)  # B, T, C, H, W: a tile, and the rest of another


@dataclass(frozen=True)
class Form:
    """A program: what is compiled once for all data."""

    name: str
    dtype: str = "single"
    channels: int = 3
    options: dict = field(default_factory=dict)

    @property
    def spec(self):
        usual = {"window": 4, "patch": 3, "topk": 5, "radius": 1, "subpixel": True}
        return SEARCH.specify(**{**usual, **self.options})


USUAL = Form("l2, patch 3")
FORMS = [
    USUAL,
    Form(
        "half, dot, zeros, heads",
        "half",
        4,
        {"metric": "dot", "border": "zeros", "heads": 2, "skip": "self", "window": (2, 5), "even": "before"},
    ),
    Form(
        "bfloat, even patch, stays, per frame",
        "bfloat",
        8,
        {"patch": 4, "slide": False, "per_frame": True, "topk": 2, "window": (5, 1)},
    ),
    Form("patch 7, two runs of channels", "single", 17, {"patch": 7, "window": 5, "topk": 10, "skip": "own_frame"}),
]


def _between(video, fy, fx):
    """The same between pixels."""
    right = np.concatenate([video[..., 1:], video[..., -2:-1]], -1)
    video = (1 - fx) * video + fx * right
    below = np.concatenate([video[..., 1:, :], video[..., -2:-1, :]], -2)
    return (1 - fy) * video + fy * below


def _constant(shape, dy, dx):
    flow = np.empty(shape, np.float32)
    flow[..., 0, :, :], flow[..., 1, :, :] = dx, dy
    return flow


def _data(name: str, form: Form):
    rng, (B, T, _, H, W) = np.random.default_rng(3), _SIZE
    shape, of_flow = (B, T, form.channels, H, W), (B, 1, T, 2, 2, H, W)
    q, k = rng.standard_normal((2, *shape))
    smooth = np.cumsum(rng.uniform(-0.3, 0.3, of_flow), -1)
    flow = smooth.astype(np.float32)
    match name:
        case "pixels":
            flow = np.rint(flow)
        case "one fraction":
            flow = _constant(of_flow, 0.25, -0.625)
        case "matches":  # its best are nearly equal: what is subtracted is nearly all
            k = np.repeat(k[:, :1], T, 1)
            q, flow = _between(k, 0.3, 0.7), _constant(of_flow, 0.3, 0.7)
            q += 1e-3 * rng.standard_normal(shape)
        case "matches, far from 0":
            k = np.repeat(k[:, :1], T, 1)
            q, k, flow = _between(k, 0.3, 0.7) + 1000, k + 1000, _constant(of_flow, 0.3, 0.7)
        case "little contrast":
            q, k = 1 + 1e-4 * q, 1 + 1e-4 * k
        case "equal patches":
            k = np.tile(k[..., :3, :3], (5, 13))[..., :H, :W]
            q, flow = k[:, ::-1], _constant(of_flow, 0.3, 0.7)
        case "flat":
            k[..., W // 2 :], q[..., W // 3 :] = 2, 2
        case "wild in a corner":
            flow[..., : H // 2, W - 5 :] *= 40
        case "wild everywhere":
            flow = 40 * rng.uniform(-1, 1, of_flow).astype(np.float32)
        case "pixels beside no numbers":
            k[0, :, 0, 5::11, 6::13], k[0, 1, -1, 2, 30] = np.nan, np.inf
            flow = np.rint(flow)
        case "strange":
            k[0, 1, 0, 5, 6], k[0, 2, 0, 9, 30], q[0, 0, 0, 3, 2] = np.nan, np.inf, np.inf
            k[0, 0, 0, 11, 20] = ml_dtypes.finfo(_DTYPES[form.dtype]).max
            flow[..., 0, 0], flow[..., 1, 1], flow[..., 2, 2] = np.nan, np.inf, 1e30
    return *(a.astype(_DTYPES[form.dtype]) for a in (q, k)), flow


DATA = [
    "smooth",
    "pixels",
    "one fraction",
    "matches",
    "matches, far from 0",
    "little contrast",
    "equal patches",
    "flat",
]
DATA += ["wild in a corner", "wild everywhere"]


class _Device(emulate.Emulator):
    """Counts what tiles left, and may have a fault in their kernel."""

    xp = Namespace()
    most_shared = _MEMORY

    def __init__(self, fault: tuple[str, str] = ("", "")):
        super().__init__(seed=1)
        self.left, self.tiles, self.fault = None, None, fault

    def launch(self, program, blocks, values, *, shared=0):
        if program.kernel is not search_subpixel.BLENDS:
            super().launch(program, blocks, values, shared=shared)
            return
        text = program.text.replace(*self.fault) if self.fault[0] else program.text
        self.launch_text(text, program.kernel.name, blocks, program.threads, values, shared=shared)
        wild = next(v for p, v in zip(program.parameters, values, strict=True) if p.name == "wild").get()
        self.left, self.tiles = int(wild[0]), wild[1:]


@pytest.fixture
def searched(monkeypatch):
    """Search data by a form, with `least` pixels of a frame for tiles; give scores, offsets and the device."""

    def run(form, arrays, least: int = 0, fault: tuple[str, str] = ("", "")):
        search.plan_of_search.cache_clear()
        monkeypatch.setattr(search_tiles, "_FEWEST", least)
        device, spec = _Device(fault), form.spec
        q, k, flow = (a.view(OnDevice) for a in arrays)
        scores, offsets, _ = Cuda(device).search(q, k, spec, spec.patches(), flow=flow)
        return scores.get(), offsets.get(), device

    yield run
    search.plan_of_search.cache_clear()


_DIRECTLY = 10**9


def agrees(form, arrays, scores, offsets):
    """With the definition in float64, to the tolerance of tiles and what the direct form itself rounds."""
    q, k, flow = (a.astype(float) for a in arrays)
    spec, p = form.spec, form.spec.patches()
    best, _, _ = cpu.search(q, k, spec, p, flow=flow)
    there = cpu.score(q, k, offsets.astype(float), p)
    n, size = p.patch**2 * q.shape[2] // spec.heads, np.abs(k).max()
    for exact in (best, there):
        if p.metric == "dot":
            allowed = 64 * _FLOAT * n * size * np.abs(q).max()
        else:
            sample = 16 * _FLOAT * size  # by how much a pixel between four is rounded
            allowed = _TOLERANCE * exact + 2 * sample * np.sqrt(n * exact) + n * sample**2
        finite = np.isfinite(best)
        np.testing.assert_array_equal(np.isfinite(scores), finite)
        assert (np.abs(scores - exact) <= allowed)[finite].all()


def same_bits(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0].view(np.int32), expected[0].view(np.int32))


@pytest.mark.parametrize("data", shown_by(DATA, 0, 3, 8))
def test_scores_are_right_to_the_tolerance(data, searched):
    arrays = _data(data, USUAL)
    scores, offsets, device = searched(USUAL, arrays)
    left = {"wild in a corner": 0 < device.tiles.mean() < 1, "wild everywhere": device.tiles.all()}
    assert left.get(data, not device.tiles.any())
    assert device.left == device.tiles.sum() or data.startswith("matches")
    agrees(USUAL, arrays, scores, offsets)
    directly = searched(USUAL, arrays, _DIRECTLY)
    assert directly[2].left is None
    if data in ("pixels", "equal patches", "wild everywhere"):
        np.testing.assert_array_equal(offsets, directly[1])  # of equal ones the first
    if data in ("pixels", "wild everywhere"):
        same_bits((scores, offsets), directly)


@under_tsan
def test_blends_have_no_race(searched):
    assert not searched(USUAL, _data("smooth", USUAL))[2].tiles.any()


@pytest.mark.full
@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
def test_every_form_is_right_to_the_tolerance(form, searched):
    for data in ("smooth", "wild in a corner"):
        arrays = _data(data, form)
        scores, offsets, device = searched(form, arrays)
        assert device.tiles.any() == (data != "smooth")
        assert not device.tiles.all()
        agrees(form, arrays, scores, offsets)


@pytest.mark.full
@pytest.mark.parametrize("form", FORMS[:3], ids=lambda form: form.name)
def test_numbers_that_are_not_finite_are_those_of_the_direct_form(form, searched):
    arrays = _data("strange", form)
    found, directly = searched(form, arrays), searched(form, arrays, _DIRECTLY)
    assert found[2].left > 0
    finite = np.isfinite(directly[0])
    np.testing.assert_array_equal(found[1], directly[1])
    np.testing.assert_array_equal(found[0][~finite], directly[0][~finite])
    np.testing.assert_allclose(found[0][finite], directly[0][finite], rtol=_TOLERANCE, atol=1e-4)


def test_whole_places_beside_no_numbers_have_the_bits_of_the_direct_form(searched):
    arrays = _data("pixels beside no numbers", USUAL)
    found, directly = searched(USUAL, arrays), searched(USUAL, arrays, _DIRECTLY)
    assert not found[2].tiles.any()
    same_bits(found, directly)


def test_what_matches_is_scored_directly(searched):
    """A few of the best are open: they have the bits of the direct form, and their queries are not searched again."""
    arrays = _data("matches", USUAL)
    found, directly = searched(USUAL, arrays), searched(USUAL, arrays, _DIRECTLY)
    assert found[2].left == 0
    same = found[0][..., 0] == directly[0][..., 0]
    assert same[np.abs(directly[0][..., 0]) < 1e-3].all()


def test_a_budget_of_nothing_leaves_all_tiles(searched, monkeypatch):
    arrays = _data("smooth", USUAL)
    directly = searched(USUAL, arrays, _DIRECTLY)
    monkeypatch.setattr(search_tiles, "_BUDGET", 0)
    none = searched(USUAL, arrays)
    assert none[2].tiles.all()
    same_bits(none[:2], directly)


# --- faults planted in the kernel ---------------------------------------------------------------------
_FAULTS = [  # with the data that shows them
    (
        "matches",
        "if (open) score -= (float)SS_ROUNDING",
        "open = false;\n    if (open) score -= (float)SS_ROUNDING",
    ),
    ("one fraction", "right_below = along * (y * y)", "right_below = along * (up * up)"),
    ("one fraction", "blended.between = on_left + weights.below_right * sums.y", "blended.between = on_left"),
    ("one fraction", "waits[i * SS_QUERIES] = across;", "waits[i * SS_QUERIES] = 0;"),
    ("smooth", "both(reaches, {down.displacement - (down.share < 1)", "both(reaches, {down.displacement"),
    ("strange", "if (!(score < last)) return false;", ""),
    ("strange", "if (places[SS_TOPK - 1] & SS_OPEN) return false;", ""),
    ("pixels beside no numbers", "if (open && !(score < infinite())) score = -infinite();", ""),
]


@pytest.mark.full
@pytest.mark.parametrize(("data", "right", "wrong"), _FAULTS, ids=str)
def test_fault_is_caught(data, right, wrong, searched):
    assert kernels.text("search_subpixel.cu", {}).count(right) == 1
    with pytest.raises((AssertionError, emulate.EmulatorError)) as caught:
        _check_with_fault(data, searched, (right, wrong))
    assert ": error: " not in str(caught.value), "does not compile"


def _check_with_fault(data, searched, fault):
    arrays = _data(data, USUAL)
    found = searched(USUAL, arrays, fault=fault)
    if data in ("strange", "pixels beside no numbers"):
        same_bits(found, searched(USUAL, arrays, _DIRECTLY))
    else:
        agrees(USUAL, arrays, *found[:2])


# --- which searches are on tiles ------------------------------------------------------------------
def _is_blended(**options) -> bool:
    spec = SEARCH.specify(**{"subpixel": True, **options})
    video = (1, 3, 16, 64, 64)
    layout = search.Layout(video, video, (16,) * 5, (16,) * 5, True)
    around = (1, 1, 3, 2, 2, 64, 64)
    plan = search.plan_of_search(spec, spec.patches(), layout, np.float32, around, np.dtype(np.float32), False, _MEMORY)
    return plan.on_tiles is not None and plan.on_tiles.program.kernel is search_subpixel.BLENDS


@pytest.mark.parametrize("patch", range(1, 16))
@pytest.mark.parametrize(("metric", "border"), [("l2", "reflect"), ("dot", "reflect"), ("dot", "zeros")])
def test_patches_of_every_size_are_blended(patch, metric, border):
    assert _is_blended(patch=patch, metric=metric, border=border)


@pytest.mark.parametrize("options", [{"border": "zeros"}, {"step": 0.5}, {"penalty": 1}, {"anchor": "flow"}], ids=str)
def test_what_has_no_blend_is_searched_directly(options):
    assert not _is_blended(**options)
