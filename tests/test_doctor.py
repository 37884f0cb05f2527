"""`shiftsearch doctor` prints what is installed, and notices wrong results."""

from __future__ import annotations

import io
import subprocess
import sys

import emulate
import numpy as np
import pytest
from device_arrays import Namespace

from shiftsearch import ShiftsearchError, __version__, doctor
from shiftsearch.backends import cpu, cuda
from shiftsearch.backends.cuda import Cuda
from shiftsearch.doctor import examine


def examined(monkeypatch, load) -> tuple[bool, str]:
    monkeypatch.setattr(cuda, "load", load)
    out = io.StringIO()
    return examine(out), out.getvalue()


@pytest.fixture
def few_ops(monkeypatch):
    """Have only those ops examined that a test looks at, and one that is right beside them."""
    monkeypatch.setattr(doctor, "OPS", {name: doctor.OPS[name] for name in ("score", "aggregate", "gather")})


def missing():
    raise ShiftsearchError("arrays on a GPU need CuPy")


@pytest.mark.full
def test_the_command_ends_well_and_says_so():
    done = subprocess.run([sys.executable, "-m", "shiftsearch", "doctor"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"shiftsearch  {__version__}" in done.stdout
    assert done.stdout.count("cpu   ") >= 10
    assert done.stdout.rstrip().splitlines()[-1].startswith("all well on cpu")


@pytest.mark.usefixtures("few_ops")
def test_missing_parts_are_reported_and_are_no_fault(monkeypatch):
    well, said = examined(monkeypatch, missing)
    assert well
    assert "cuda         not here: arrays on a GPU need CuPy" in said


@pytest.mark.usefixtures("few_ops")
@pytest.mark.parametrize("wrong", ["value", "error"])
def test_an_op_that_is_wrong_is_named(monkeypatch, wrong):
    right = cpu.gather

    def gather(*arguments):
        if wrong == "error":
            raise RuntimeError("out of order")
        return right(*arguments) * np.float32(1.01)

    monkeypatch.setattr(cpu, "gather", gather)
    well, said = examined(monkeypatch, missing)
    assert not well
    assert "cpu   gather      WRONG" in said
    assert "cpu   score       ok" in said
    assert ("out of order" in said) == (wrong == "error")
    assert said.rstrip().endswith("wrong on cpu")


@pytest.mark.usefixtures("few_ops")
def test_nan_is_wrong(monkeypatch):
    """Also in the gradients, which are compared last."""
    right = cpu.scatter
    monkeypatch.setattr(cpu, "scatter", lambda *arguments, **options: right(*arguments, **options) * np.float32(np.nan))
    well, said = examined(monkeypatch, missing)
    assert not well
    assert "cpu   aggregate   WRONG is off by nan" in said


def emulated(compiler=lambda: (13, 0)):
    emulator = emulate.Emulator()
    emulator.xp = Namespace()
    emulator.xp.cuda = _Devices()
    emulator.xp.cuda.getVersion = compiler
    return Cuda(emulator)


@pytest.mark.full
@pytest.mark.emulated
@pytest.mark.skipif(emulate.available() is not None, reason=str(emulate.available()))
def test_each_backend_is_examined(monkeypatch):
    well, said = examined(monkeypatch, emulated)
    assert well, said
    assert "cuda:0       Emulated, 1 GiB, compute capability 9.0" in said
    assert "cuda         driver for CUDA 13.2, runtime 12.9, NVRTC 13.0" in said
    assert said.count("cuda  ") >= 10
    assert said.rstrip().endswith("all well on cpu and cuda")


@pytest.mark.usefixtures("few_ops")
def test_a_missing_compiler_is_reported(monkeypatch):
    def gone(*_, **__):
        raise RuntimeError("libnvrtc.so")

    backend = emulated(gone)
    monkeypatch.setattr(backend.device, "launch", gone)
    well, said = examined(monkeypatch, lambda: backend)
    assert not well
    assert "runtime 12.9, no NVRTC" in said
    assert "cuda  score       WRONG RuntimeError: libnvrtc.so" in said
    assert said.rstrip().endswith("wrong on cuda")


class _Devices:
    """CuPy's functions about devices that the doctor calls."""

    @property
    def runtime(self):
        return self

    nvrtc = runtime

    def getDeviceCount(self):
        return 1

    def getDeviceProperties(self, index):
        return {"name": b"Emulated", "totalGlobalMem": 2**30, "major": 9, "minor": 0}

    def driverGetVersion(self):
        return 13020

    def runtimeGetVersion(self):
        return 12090
