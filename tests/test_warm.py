"""After `shiftsearch warm`, the first call of a program compiles nothing."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm_calls
from device_arrays import Namespace, OnDevice

from shiftsearch import ShiftsearchError, _homes, warm
from shiftsearch.__main__ import main
from shiftsearch.backends import cuda
from shiftsearch.backends.cpu import disk
from shiftsearch.backends.cuda import Cuda


def missing():
    raise ShiftsearchError("arrays on a GPU need CuPy")


# --- on the CPU -------------------------------------------------------------------------------------
def looked_for(argument, **environment) -> tuple[set[str], str]:
    """Return the names of the kernels that a process looks for on disk, and its messages."""
    command = [sys.executable, Path(__file__).with_name("warm_calls.py"), argument]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return {line for line in done.stdout.splitlines() if (disk.folder() / line).is_file()}, done.stderr


@pytest.mark.full
def test_the_first_calls_of_another_process_compile_nothing(tmp_path):
    """They find what `warm` compiled, in a folder that holds nothing else."""
    there = tmp_path / "shiftsearch"
    there.mkdir()
    warmed, _ = looked_for("warm")
    assert len(warmed) > 10
    for name in warmed:
        shutil.copy2(disk.folder() / name, there)
    used, said = looked_for(tmp_path / "demo.png", NUMBA_CACHE_DIR=str(tmp_path))
    assert used <= warmed
    assert said == ""
    assert {path.name for path in there.iterdir()} == warmed


@pytest.fixture
def one_task(monkeypatch):
    """Have one task, which notes what it was called with."""
    called = []
    monkeypatch.setattr(warm, "_tasks", lambda: {"a task": called.append})
    return called


def test_it_says_what_is_done_how_long_it_took_and_where_kernels_are(one_task, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "load", missing)
    assert main(["warm"]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("cpu      1/1  a task ")
    assert second == "no GPU: arrays on a GPU need CuPy"
    assert last.endswith(f" s; kernels are kept in {disk.folder()} for this processor")
    assert len(one_task) == 1


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "warm: device is 'gpu', expected auto, cpu, cuda or cuda:N"),
        ("cuda:", "warm: device is 'cuda:', expected auto"),
        ("cuda", "warm: device is cuda, and arrays on a GPU need CuPy"),
    ],
)
@pytest.mark.usefixtures("one_task")
def test_a_device_that_is_not_there_is_an_error(device, said, monkeypatch, capsys):
    monkeypatch.setattr(cuda, "load", missing)
    assert main(["warm", "--device", device]) == 1
    assert capsys.readouterr().err.startswith(f"shiftsearch warm: {said}")


@pytest.mark.usefixtures("one_task")
def test_nowhere_to_keep_kernels_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "shiftsearch").write_text("")
    monkeypatch.setattr(disk, "folder", lambda: tmp_path / "shiftsearch")
    with pytest.raises(ShiftsearchError, match=r"shiftsearch cannot be written .*, expected .* set NUMBA_CACHE_DIR"):
        warm.warm("cpu", io.StringIO())


# --- on GPUs ----------------------------------------------------------------------------------------
class Array(OnDevice):
    """An array that says it is one of CuPy on a GPU."""

    def __dlpack_device__(self):
        return 2, 1


class Recorder:
    """A device that notes which programs it is to launch and computes nothing."""

    most_shared = 227 << 10

    def __init__(self):
        self.programs = set()

    def launch(self, program, blocks, values, *, shared=0):
        self.programs.add((program.text, program.kernel.name))

    def address(self, array):
        return 0


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are two GPUs; return what is launched on the current one, and which were made current."""
    recorder, entered = Recorder(), []

    @contextmanager
    def device(number):
        entered.append(number)
        yield

    class Zeros(Namespace):
        def empty(self, *arguments, **options):
            return self.zeros(*arguments, **options)

        def asnumpy(self, array):
            return array.get()

    recorder.xp = Zeros()
    recorder.xp.cuda = SimpleNamespace(
        Device=device, runtime=SimpleNamespace(getDeviceCount=lambda: 2, memGetInfo=lambda: (2**40, 2**40))
    )
    monkeypatch.setattr(cuda, "load", lambda: Cuda(recorder))
    for kind in (Array, OnDevice):
        monkeypatch.setitem(_homes._LIBRARIES, kind, "cupy")
    monkeypatch.setattr(OnDevice, "__dlpack_device__", Array.__dlpack_device__)
    return recorder.programs, entered


@pytest.mark.parametrize(("device", "numbers"), [("auto", [0, 1]), ("cuda", [0, 1]), ("cuda:1", [1]), ("cpu", [])])
def test_each_gpu_that_is_asked_for_has_its_turn(gpus, one_task, device, numbers):
    warm.warm(device, out := io.StringIO())
    assert gpus[1] == numbers
    assert len(one_task) == len(numbers) + (device in ("auto", "cpu"))
    assert ("for GPUs" in out.getvalue()) == bool(numbers)
    assert ("for this processor" in out.getvalue()) == (device in ("auto", "cpu"))


@pytest.mark.usefixtures("gpus", "one_task")
def test_a_gpu_beyond_those_that_are_there_is_an_error():
    with pytest.raises(ShiftsearchError, match="warm: device is cuda:2, expected at most cuda:1"):
        warm.warm("cuda:2", io.StringIO())


@pytest.mark.full
def test_programs_for_frames_are_among_those_that_it_compiles(gpus):
    """Modelled: a stand-in for CuPy notes the texts that would be compiled.

    Programs of ops depend on options that nobody can foresee.
    """
    programs, _ = gpus
    warm.warm("cuda:0", io.StringIO())
    warmed = set(programs)
    assert len(warmed) > 50
    programs.clear()
    warm_calls.on_frames(lambda array: array.view(OnDevice))
    assert programs
    assert {name for _, name in programs - warmed} == set()
