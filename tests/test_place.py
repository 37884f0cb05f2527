"""Work on a device that is chosen by name, with a stand-in for CuPy: what goes up and comes down, and how often.

Copies of the stand-in are as late as they may be: they are made when somebody waits for them, and until then their targets
hold nonsense. So a copy that is not waited for, or whose source is changed too early, shows.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from clips import decoded, make
from device_arrays import Namespace, OnDevice

import shiftsearch as ss
from shiftsearch import ShiftsearchError
from shiftsearch.__main__ import main
from shiftsearch.video import device
from shiftsearch.video.align import align_planes
from shiftsearch.video.denoise import denoise_planes, direct

MODULES = ["align.choice", "align.clips", "align.pair", "align.spec", "align.streams", "flow.arrays", "flow.pyramid"]
MODULES += ["flow.color", "scenes", "denoise.streams", "denoise.motion", "denoise.bands", "denoise.passes"]
MODULES += ["denoise.running", "denoise.groups", "denoise.paths", "denoise.estimate", "denoise.scene"]


class Stream:
    """Copies in order, made when they are waited for. What is computed is computed at once."""

    def __init__(self, non_blocking=False):
        assert non_blocking, "a stream that waits for computations would not work beside them"
        self.late = []

    def record(self):
        return Recorded(self, len(self.late))

    def wait_event(self, event):
        event.synchronize()


class Recorded:
    def __init__(self, stream, count):
        self.stream, self.count = stream, count

    def synchronize(self):
        for number in range(self.count):
            copy = self.stream.late[number]
            self.stream.late[number] = None
            if copy is not None:
                copy()


class Copied(OnDevice):
    """Arrays of a device with CuPy's ways to and from them."""

    moved: ClassVar[Counter] = Counter()

    def set(self, host, stream):
        assert self.flags.c_contiguous
        self.moved["up"] += 1
        stream.late.append(lambda: np.copyto(self.view(np.ndarray), host))

    def get(self, stream=None, out=None, blocking=True):
        if out is None:
            return self.view(np.ndarray)
        assert not blocking
        self.moved["down"] += 1
        stream.late.append(lambda: np.copyto(out, self.view(np.ndarray)))
        return out


class Cupy(Namespace):
    """What CuPy has for a device with number 0 or 1."""

    def __init__(self):
        now = SimpleNamespace(record=lambda: Recorded(None, 0), wait_event=lambda event: event.synchronize())
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=lambda: 2),
            Device=lambda number: threading.Lock(),  # a context
            Stream=Stream,
            get_current_stream=lambda: now,
            alloc_pinned_memory=lambda size: bytearray(b"\x7f" * size),
        )

    def empty(self, shape, dtype):
        return np.full(shape, 0x7F, dtype).view(Copied)

    def asarray(self, array, *rest):
        return np.asarray(array, *rest).view(Copied)

    def ascontiguousarray(self, array):
        return np.ascontiguousarray(array).view(Copied)


@pytest.fixture
def gpu(monkeypatch, on_device):
    """Put the stand-in where CuPy would be, and count what is copied."""
    for name in MODULES:
        on_device(importlib.import_module(f"shiftsearch.video.{name}"))
    monkeypatch.setattr(device, "gpu_arrays", Cupy)
    Copied.moved.clear()
    return Copied.moved


@pytest.fixture
def clip(rng):
    still = rng.random((12, 20, 3)).repeat(4, 0).repeat(4, 1)
    moving = [np.roll(still, (t, 2 * t), (0, 1)) + rng.normal(0, 0.02, still.shape) for t in range(6)]
    return np.float32(moving)


# --- streams ----------------------------------------------------------------------------------------
def test_each_frame_goes_up_once_and_each_result_comes_down_once(gpu, clip):
    expected = list(ss.align_stream(clip, flow="match"))
    found = list(ss.align_stream(iter(clip), device="cuda:1"))
    np.testing.assert_array_equal(found, expected)
    assert all(type(frame) is np.ndarray for frame in found)
    assert gpu == {"up": 6, "down": 6}


def test_offsets_and_masks_come_down_too(gpu, clip):
    options = {"return_offsets": True, "return_mask": True}
    expected = list(ss.align_stream(clip, "next", "match", **options))
    found = list(ss.align_stream(clip, "next", "match", device="cuda:0", **options))
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert gpu == {"up": 6, "down": 18}


def test_planes_go_with_what_they_are_aligned_to(gpu, clip):
    frames = [(frame[..., 0], frame[::2, ::2, 1].copy(), frame[::2, ::2, 2].copy()) for frame in clip]
    for to in ("previous", frames[2]):
        masks, seen = [], []
        expected = list(align_planes(frames, to, "match", noted=masks.append))
        found = list(align_planes(frames, to, device="cuda:0", noted=seen.append))
        for one, other in zip(found, expected, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(seen, masks)
        assert gpu == {"up": 18, "down": 18}
        gpu.clear()


def test_denoise_goes_up_and_down_once(gpu, clip, monkeypatch):
    found = list(ss.denoise_stream(clip, 5 / 255, radius=1, device="cuda:0"))
    assert gpu == {"up": 6, "down": 6}
    monkeypatch.setattr(direct, "covers", lambda *_: False)  # sums of another order bring a frequency over a threshold
    expected = list(ss.denoise_stream(clip, 5 / 255, radius=1, flow="match"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(np.subtract(expected, clip)).mean() > 1e-3


def test_devices_that_are_none(gpu, clip, monkeypatch):
    for name, said in [
        ("gpu", "device is 'gpu', expected auto, cpu, or cuda:0"),
        (0, "device is 0"),
        ("cuda:2", "device is 'cuda:2', expected auto, cpu or one that is there: cuda:0, cuda:1"),
    ]:
        for stream in (ss.align_stream, ss.denoise_stream):
            with pytest.raises(ShiftsearchError, match=said):
                stream(clip, device=name)

    def missing():
        raise ShiftsearchError('arrays on a GPU need CuPy: pip install "shiftsearch[cuda13]"')

    monkeypatch.setattr(device, "gpu_arrays", missing)
    with pytest.raises(ShiftsearchError, match=r"denoise_stream: device is 'cuda:0', and .* pip install"):
        ss.denoise_stream(clip, device="cuda:0")
    expected = list(ss.denoise_stream(clip, 5 / 255, radius=1))
    for name in ("cpu", "auto"):
        np.testing.assert_array_equal(list(ss.denoise_stream(clip, 5 / 255, radius=1, device=name)), expected)
    frames = [(frame,) for frame in clip]
    np.testing.assert_array_equal([f for (f,) in denoise_planes(frames, 5 / 255, radius=1, device="auto")], expected)
    assert not gpu


def test_a_machine_without_a_gpu_says_what_to_install(clip):
    try:
        importlib.import_module("shiftsearch.backends.cuda").load()
    except ShiftsearchError as error:
        said = str(error)
    else:
        pytest.skip("there is a GPU")
    with pytest.raises(ShiftsearchError) as told:
        ss.align_stream(clip, device="cuda:0")
    assert str(told.value) == f"align_stream: device is 'cuda:0', and {said}"


# --- frames that are got meanwhile ------------------------------------------------------------------
def test_frames_are_got_while_others_are_computed():
    got, gone = [], threading.Event()

    def frames():
        for n in range(9):
            got.append((n, threading.current_thread() is threading.main_thread()))
            yield n
        gone.set()

    found = device.prefetched(frames())
    assert next(found) == 0
    end = time.monotonic() + 30
    while len(got) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(got) == 4, "one that was taken, two that wait, and one in hand: no more"
    assert [*found] == [*range(1, 9)]
    assert gone.is_set()
    assert not any(main for _, main in got)


def test_errors_and_leaving_early_end_the_thread():
    def failing():
        yield 1
        raise ValueError("after one")

    found = device.prefetched(failing())
    assert next(found) == 1
    with pytest.raises(ValueError, match="after one"):
        next(found)
    endless = device.prefetched(iter(int, 1))
    next(endless)
    endless.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "shiftsearch-frames"]


# --- commands ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["align", "flow", "compare"])
def test_commands_compute_there(gpu, tmp_path, command, capsys):
    pytest.importorskip("cv2")
    pytest.importorskip("tqdm")
    source = str(make(tmp_path / "a.mkv", "ffv1", (64, 48), 4, audio=None))
    results = []
    for name in ("cpu", "cuda:0"):
        target = tmp_path / f"{name[:3]}.mkv"
        more = [source] if command == "compare" else ["--flow", "match", "--codec", "ffv1", "-o", str(target), "-v"]
        assert main([command, source, *more, "--device", name, "--quiet"]) == 0
        said = capsys.readouterr()
        results.append(said.out if command == "compare" else [frame.to_ndarray() for frame in decoded(target)])
        assert command == "compare" or f"compute: {name}, " in said.err
    np.testing.assert_equal(*results)
    each = {"align": (3, 3), "flow": (1, 1), "compare": (2, 0)}[command]
    assert gpu["up"] == 4 * each[0]
    assert gpu["down"] == (4 - (command == "flow")) * each[1]


def test_parts_of_a_batch_are_computed_there(gpu, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    pytest.importorskip("tqdm")
    batches = pytest.importorskip("batches")
    source, options = make(tmp_path / "a.mkv", "ffv1", (64, 48), 10, audio=None), ["--flow", "match", "--part", 4]
    work = ["--work", "align", *options, "--codec", "ffv1"]
    for name in ("cpu", "cuda:0"):
        ran = batches.here(monkeypatch, source, tmp_path / f"{name[:3]}.mkv", *work, device=name)
        assert ran == (0, ["plan", "compute", "compute", "compute", "join"])
        moved = 3 * (10 + 4)  # planes: four frames are beside the parts that end there
        assert gpu == ({} if name == "cpu" else {"up": moved, "down": moved})
    batches.assert_same(tmp_path / "cud.mkv", tmp_path / "cpu.mkv")


def test_a_command_says_what_a_gpu_needs(tmp_path, capsys, monkeypatch):
    source = str(make(tmp_path / "a.mkv", frames=2, audio=None))

    def missing():
        raise ShiftsearchError('arrays on a GPU need CuPy: pip install "shiftsearch[cuda13]"')

    monkeypatch.setattr(device, "gpu_arrays", missing)
    run = ["align", source, "-o", str(tmp_path / "b.mkv"), "--flow", "none", "--device"]
    assert main([*run, "cuda:0"]) == 1
    assert "device is 'cuda:0', and arrays on a GPU need CuPy: pip install" in capsys.readouterr().err
    assert not (tmp_path / "b.mkv").exists()
    assert main([*run, "auto"]) == 0
    with pytest.raises(SystemExit):
        main([*run, "gpu"])
    assert "'gpu' is not auto, cpu, or cuda:0" in capsys.readouterr().err
