"""Flow: all methods follow one convention, and a check describes violations of it."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from test_align import constant, noisy, texture

import shiftsearch as ss
from shiftsearch import ShiftsearchError, flow

SIZE = (96, 120)
METHODS = ["dis", "farneback"]


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2", reason="flow is measured by OpenCV")


def pair(shift=(2.5, -1.5), size=SIZE, channels=3):
    return texture(size, channels=channels), texture(size, shift, channels=channels)


# --- measured ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_methods_find_known_motion_in_our_convention(method, cv2):
    found = getattr(flow, method)(*pair())
    assert (found.shape, found.dtype) == ((2, *SIZE), np.float32)
    assert np.abs(found - constant(2.5, -1.5, SIZE))[:, 16:-16, 16:-16].mean() < 0.15


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("sigma", "blur"), [(10, 1), (60, 3)])
def test_noise_that_is_known_is_blurred_away(method, sigma, blur, cv2):
    measure = getattr(flow, method)
    frames = [np.clip(np.rint(255 * noisy(frame, sigma)), 0, 255).astype(np.uint8)[..., 0] for frame in pair()]
    blurred = [cv2.GaussianBlur(frame, (0, 0), blur) for frame in frames]
    np.testing.assert_array_equal(measure(*frames, sigma=sigma), measure(*blurred))
    assert (measure(*frames) != measure(*blurred)).any()


@pytest.mark.parametrize("method", [*METHODS, "none"])
def test_frames_and_clips_grey_and_colour(method, cv2, rng):
    clip = rng.integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)
    measure = getattr(flow, method)
    each = [measure(clip[0], frame) for frame in clip]
    np.testing.assert_array_equal(measure(clip[0], clip), each)
    np.testing.assert_array_equal(measure(clip[:1].repeat(3, 0), clip), each)
    assert measure(clip[..., 0], clip[0, ..., 0]).shape == (3, 2, 40, 50)
    assert measure(clip[:1], clip[:1]).shape == (1, 2, 40, 50)
    assert (flow.none(clip, clip) == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (7, 5), (33, 12)])
def test_small_frames_have_flow_too(method, size, cv2, rng):
    frame = rng.random((*size, 1))
    found = getattr(flow, method)(frame, frame)
    assert found.shape == (2, *size)
    assert np.abs(found).max() < 0.5


def test_all_dtypes_of_frames_give_the_same_flow(cv2):
    here, there = (np.clip(np.rint(255 * frame), 0, 255).astype(np.uint8) for frame in pair())
    expected = flow.dis(here, there, sigma=10)
    np.testing.assert_array_equal(
        flow.dis(here.astype(np.uint16) * 257, there.astype(np.uint16) * 257, sigma=10), expected
    )
    for dtype in (np.float32, np.float64):
        frames = [frame.astype(dtype) / 255 for frame in (here, there)]
        found = flow.dis(*frames, sigma=10 / 255)
        assert np.abs(found - expected).max() < 0.1  # grey of single pixels may be rounded otherwise
    torch = pytest.importorskip("torch")
    found = flow.dis(torch.from_numpy(here), torch.from_numpy(there), sigma=10)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_flow_does_not_depend_on_the_threads_of_opencv(method, cv2):
    before, frames = cv2.getNumThreads(), [noisy(frame) for frame in pair((5, 3), (200, 240))]
    try:
        found = []
        for threads in (1, 2, 7):
            cv2.setNumThreads(threads)
            found.append(getattr(flow, method)(*frames))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (7, 5), (33, 12)])
def test_match_takes_frames_of_any_size(size, rng):
    frame = rng.random((*size, 1))
    found = flow.match(frame, frame)
    assert (found.shape, found.dtype) == ((2, *size), np.float32)
    assert np.abs(found).max() < 0.5


@pytest.mark.parametrize("sigma", [None, 15 / 255])
@pytest.mark.parametrize("shift", [(2.5, -1.5), (-30, 12)])
def test_match_finds_motion_of_any_length_under_noise_and_other_light(shift, sigma):
    size = (128, 160)
    here, there = pair(shift, size)
    frames = [here, 0.7 * there + 0.1] if sigma is None else [noisy(here, seed=1), noisy(there, seed=2)]
    apart = np.hypot(*(flow.match(*frames, sigma=sigma) - constant(*shift, size)))
    assert np.median(apart) < (0.1 if sigma is None else 0.3)
    assert apart[32:-32, 40:-40].mean() < (0.2 if sigma is None else 0.5)


def test_without_opencv_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for call in (lambda: flow.dis(*pair()), lambda: ss.align(*pair(), "farneback")):
        with pytest.raises(ShiftsearchError, match=r'OpenCV is missing .*pip install "shiftsearch\[video\]"'):
            call()


@pytest.mark.parametrize("opencv", [False, True])
def test_the_default_is_the_quicker_method_that_is_there(opencv, monkeypatch):
    if opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setitem(sys.modules, "cv2", None)
    method = "dis" if opencv else "match"
    here, there = (frame[..., 0] for frame in pair(size=(48, 64)))
    clip = np.stack([here, there])
    np.testing.assert_array_equal(flow.auto(here, there), getattr(flow, method)(here, there))
    np.testing.assert_array_equal(ss.align(here, there), ss.align(here, there, method))
    for of_clip in (ss.align_clip, ss.denoise):
        np.testing.assert_array_equal(of_clip(clip), of_clip(clip, flow=method))
    for of_stream in (ss.align_stream, ss.denoise_stream):
        np.testing.assert_array_equal(list(of_stream(clip)), list(of_stream(clip, flow=method)))


def test_the_flow_of_a_clip_is_a_pair_for_its_neighbours():
    clip = np.stack([texture(SIZE, (2.5 * t, -1.5 * t), channels=1) for t in range(3)])
    forward, backward = flow.pair(clip, method="match")
    assert forward.shape == backward.shape == (3, 2, *SIZE)
    for found, there in ((forward[:2], 1), (backward[1:], -1)):
        assert np.abs(found - there * constant(2.5, -1.5, SIZE))[..., 16:-16, 16:-16].mean() < 0.15
    assert not forward[2].any()
    assert not backward[0].any()
    np.testing.assert_array_equal(forward[0], flow.match(clip[0], clip[1]))
    assert ss.search(np.moveaxis(clip, -1, 1), np.moveaxis(clip, -1, 1), (forward, backward), topk=1)[0].max() < np.inf
    with pytest.raises(ShiftsearchError, match=r"flow\.pair: frames has shape \(96, 120\), expected a clip"):
        flow.pair(clip[0, ..., 0])
    with pytest.raises(ShiftsearchError, match=r"flow\.pair: method is 'raft', expected one of 'auto'"):
        flow.pair(clip, method="raft")


# --- adapted ----------------------------------------------------------------------------------------
def test_scikit_image_gives_rows_first():
    registration = pytest.importorskip("skimage.registration")
    here, there = pair((1.5, -1), (48, 64), channels=1)
    found = flow.from_skimage(*registration.optical_flow_ilk(here[..., 0], there[..., 0]))
    assert np.abs(found - constant(1.5, -1, (48, 64)))[:, 12:-12, 12:-12].mean() < 0.2
    with pytest.raises(ShiftsearchError, match=r"flow\.from_skimage: u has shape \(3,\), expected that of v, \(2,\)"):
        flow.from_skimage(np.zeros(2), np.zeros(3))


def test_raft_gives_a_list_of_predictions_at_its_own_size():
    torch = pytest.importorskip("torch")
    predictions = [torch.zeros(2, 2, 64, 80), torch.full((2, 2, 64, 80), 4.0)]
    found = flow.from_raft(predictions, size=(32, 120))
    assert isinstance(found, torch.Tensor)
    assert found.shape == (2, 2, 32, 120)
    assert (found[:, 0] == 6).all()
    assert (found[:, 1] == 2).all()
    assert flow.from_raft(predictions[1][0]).shape == (2, 64, 80)
    for bad in ([], np.zeros((64, 80, 2)), np.zeros((2, 64))):
        with pytest.raises(ShiftsearchError, match=r"flow\.from_raft: flow "):
            flow.from_raft(bad)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 24), (202, 33)])
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_coarse_flow_is_a_mean_and_finds_back(size, factor, rng):
    h, w = (-(-n // factor) for n in size)
    motion = rng.normal(0, 3, (3, 2, *size))
    found = flow.coarse(motion, factor)
    assert found.shape == (3, 2, h, w)
    scale = np.array([size[1] / w, size[0] / h])
    np.testing.assert_allclose(found.mean((2, 3)) * scale, motion.mean((2, 3)), atol=1e-9)
    np.testing.assert_allclose(
        ss.upsample_flow(flow.coarse(constant(3, -5, size), factor), size), constant(3, -5, size), rtol=1e-5
    )
    if factor == 1:
        np.testing.assert_allclose(found, motion, atol=1e-12)


def test_coarse_flow_of_whole_cells_is_their_mean(rng):
    motion = rng.normal(0, 3, (2, 16, 24))
    motion[0, 0, 0] = np.nan
    finite = np.nan_to_num(motion)
    finite[1, 0, 0] = 0  # a vector is finite or not
    np.testing.assert_allclose(flow.coarse(motion, 8), finite.reshape(2, 2, 8, 3, 8).mean((2, 4)) / 8)


# --- checked ----------------------------------------------------------------------------------------
def varied(size=SIZE):
    """Return two frames and the motion from the first to the second, some pixels that differ from place to place."""
    y, x = np.mgrid[: size[0], : size[1]]
    motion = np.stack([5 + 2 * np.sin(y / 20), -2 + np.cos(x / 15)]).astype(np.float32)
    there = texture(size)
    return ss.align(there, there, motion, window=1, output="pixel"), there, motion


WRONG = {
    "inverted": (lambda f: -f, "negated"),
    "transposed (dy before dx)": (lambda f: f[::-1], "swapped"),
    "transposed and inverted": (lambda f: -f[::-1], "swapped and negated"),
    "mirrored (dy upwards)": (lambda f: f * np.float32([[[1]], [[-1]]]), "dy negated"),
    "normalised to -1..1": (lambda f: f / np.float32([[[SIZE[1] / 2]], [[SIZE[0] / 2]]]), "from -1..1"),
    "normalised to 0..1": (lambda f: f / np.float32([[[SIZE[1]]], [[SIZE[0]]]]), "from 0..1"),
    "mis-scaled (vectors in pixels of another resolution): multiplying it by 8": (lambda f: f / 8, "times 8"),
    "mis-scaled (vectors in pixels of another resolution): multiplying it by 0.25": (lambda f: f * 4, "times 0.25"),
}


@pytest.mark.parametrize("looks", WRONG)
@pytest.mark.parametrize("sigma", [0, 15])
def test_the_check_of_a_flow_describes_what_is_wrong(looks, sigma):
    here, there, motion = varied()
    here, there = (noisy(frame, sigma, seed) for seed, frame in enumerate((here, there)))
    found = flow.check(here, there, motion)
    assert found.ok
    assert str(found).startswith("flow looks right: it brings the target ")
    spoil, repair = WRONG[looks]
    found = flow.check(here, there, spoil(motion))
    assert not found.ok
    assert f"flow looks {looks}" in str(found)
    assert max(found.gains, key=found.gains.get) == repair
    assert f"{found.gains[repair]:.1f} dB" in str(found)


def test_check_of_measured_coarse_and_no_flow(cv2):
    here, there, motion = varied()
    assert flow.check(here, there, flow.dis(here, there)).ok
    assert flow.check(here, there, flow.coarse(motion)).ok
    for nothing in (0 * motion, np.nan * motion):
        found = flow.check(here, there, nothing)
        assert found.ok
        assert found.message.startswith("flow cannot be told right from wrong: it brings the target 0.0 dB")
    clip = np.stack([there, there])
    assert "inverted" in flow.check(here, clip, -np.stack([motion, motion])).message
    assert flow.check(here, clip, motion).message == flow.check(here, there, motion).message
    assert not flow.check(here, here, motion[::-1] + 3).ok


@pytest.mark.parametrize("length", [1e3, 3e38])
def test_check_of_a_flow_that_leads_out_of_the_frame(length):
    here, there, motion = varied()
    found = flow.check(here, there, np.full_like(motion, length))
    assert found.message == "flow looks wrong: it leads out of the frame nearly everywhere"
    assert not found.ok


def test_check_of_a_flow_whose_rows_are_columns():
    here, there, motion = varied((64, 64))
    found = flow.check(here, there, motion.transpose(0, 2, 1))
    assert found.message.startswith("flow looks transposed (x before y in the array): swapping its rows and columns")
    here, there, motion = varied((48, 64))
    with pytest.raises(ShiftsearchError, match="its rows and columns look swapped"):
        flow.check(here, there, motion.transpose(0, 2, 1))


def test_check_copes_with_flow_that_is_not_finite_or_leads_nowhere():
    here, there, motion = varied()
    motion[0, 5:9, 5:9] = np.nan
    assert flow.check(here, there, motion).ok
    assert not flow.check(here, there, motion + 1e6).ok
    with pytest.raises(ShiftsearchError, match=r"flow\.check: flow has shape \(96, 120, 2\), .*OpenCV's \(H, W, 2\)"):
        flow.check(here, there, np.moveaxis(motion, 0, -1))


def test_consistency_is_false_where_the_ways_differ():
    forward = constant(4, 0, (20, 30))
    backward = -forward
    backward[0, 5:8, 10:12] = 3
    forward[1, 15, 3] = np.nan
    mask = flow.consistency(forward, backward)
    expected = np.ones((20, 30), bool)
    expected[:, 26:] = False  # these lead out of the frame
    expected[5:8, 6:8] = False
    expected[15, 3] = False
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == bool
    np.testing.assert_array_equal(flow.consistency(np.stack([forward] * 2), np.stack([backward] * 2)), [mask, mask])
    assert flow.consistency(forward, backward, tolerance=100)[5:8, 6:8].all()


# --- looked at --------------------------------------------------------------------------------------
def test_colors_say_direction_and_length():
    motion = np.zeros((2, 1, 7))
    motion[:, 0, :4] = [(4, -4, 0, 2), (0, 0, 4, 0)]
    motion[:, 0, 5:] = [(np.nan, 1), (0, np.inf)]
    picture = flow.to_color(motion)
    assert (picture.shape, picture.dtype) == ((1, 7, 3), np.uint8)
    right, left, down, slow, still, *not_finite = picture[0].tolist()
    assert (right, still) == ([255, 0, 0], [255, 255, 255])
    assert left == [0, round(255 * (36 - 27.5) / 11), 255]  # on a wheel of 55: cyan is 25, blue 36
    assert down == [255, round(255 * 13.75 / 15), 0]  # red is 0, yellow 15
    assert slow == [255, 128, 128]
    assert not_finite == [[0, 0, 0], [0, 0, 0]]
    assert flow.to_color(motion, longest=2)[0, 0].tolist() == [128, 0, 0]
    assert flow.to_color(np.zeros((3, 2, 4, 5), np.float32)).tolist() == np.full((3, 4, 5, 3), 255).tolist()
    assert flow.to_color(np.full((2, 4, 5), np.nan)).max() == 0


def test_arrays_on_a_device_stay_on_it(on_device, rng):
    for name in ("arrays", "check", "color", "convert", "measure", "pyramid"):
        on_device(importlib.import_module(f"shiftsearch.video.flow.{name}"))
    motion = on_device.put(rng.normal(0, 2, (3, 2, 20, 30)).astype(np.float32))
    frames = on_device.put(rng.random((3, 20, 30, 3)))
    for call in (
        lambda f, v: flow.coarse(f, 4),
        lambda f, v: flow.to_color(f),
        lambda f, v: flow.consistency(f, -f),
        lambda f, v: flow.from_raft([f]),
        lambda f, v: flow.from_skimage(f[:, 1], f[:, 0]),
        lambda f, v: flow.none(v, v),
        lambda f, v: flow.match(v, v),
    ):
        result = call(motion, frames)
        assert isinstance(result, type(motion))
        np.testing.assert_array_equal(result.get(), call(motion.get(), frames.get()))
    assert flow.check(frames, frames, motion).gains == flow.check(frames.get(), frames.get(), motion.get()).gains
    np.testing.assert_array_equal(flow.auto(frames, frames).get(), flow.match(frames.get(), frames.get()))
    with pytest.raises(ShiftsearchError, match=r"flow\.dis: the frames are on a GPU"):
        flow.dis(frames, frames)


# --- errors -----------------------------------------------------------------------------------------
FRAME, MOTION = np.zeros((8, 9, 3)), np.zeros((2, 8, 9))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: flow.none(FRAME, FRAME[:7]), r"flow\.none: target has shape \(7, 9, 3\), expected that of reference"),
        (lambda: flow.none(np.zeros((3, 8, 9)), np.zeros((2, 8, 9))), r"flow\.none: target has shape \(2, 8, 9\)"),
        (lambda: flow.dis(FRAME, [1]), r"flow\.dis: target\[0\] is a int, expected an array or a picture"),
        (lambda: flow.dis(FRAME, FRAME, sigma=-1), r"flow\.dis: sigma is -1, expected a number from 0"),
        (lambda: flow.farneback(FRAME, FRAME, sigma="auto"), r"flow\.farneback: sigma is 'auto'"),
        (lambda: flow.coarse(MOTION, 0), r"flow\.coarse: factor is 0"),
        (lambda: flow.coarse(MOTION.astype(int)), r"flow\.coarse: flow is int64, expected one of"),
        (lambda: flow.coarse(MOTION[0]), r"flow\.coarse: flow has shape \(8, 9\), expected \(2, H, W\)"),
        (lambda: flow.coarse(MOTION[:, :0]), r"flow\.coarse: flow has shape \(2, 0, 9\)"),
        (lambda: flow.consistency(MOTION, MOTION[:, 1:]), r"flow\.consistency: backward has shape \(2, 7, 9\)"),
        (lambda: flow.consistency(MOTION, MOTION, tolerance=-1), r"flow\.consistency: tolerance is -1"),
        (lambda: flow.to_color(MOTION, longest=0), r"flow\.to_color: longest is 0"),
        (lambda: flow.to_color("flow.flo"), r"flow\.to_color: flow is a str"),
        (lambda: flow.check(FRAME, FRAME, np.zeros((2, 9, 9))), r"flow\.check: flow has shape \(2, 9, 9\), expected"),
    ],
)
def test_bad_input_is_one_clear_error(call, said):
    if "dis" in said or "farneback" in said:
        pytest.importorskip("cv2")
    with pytest.raises(ShiftsearchError, match=said):
        call()
