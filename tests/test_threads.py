"""Threads, forks, and the cache of compiled kernels: everything that could go wrong around a call."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch.backends.cpu import pool

CAN_FORK = "fork" in multiprocessing.get_all_start_methods()
_ANNOUNCED = "shiftsearch compiles its CPU kernels for this machine, which takes some seconds and happens once\n"


@pytest.fixture
def several_threads(monkeypatch):
    """Use several threads, also for arrays that are too small for them."""
    monkeypatch.setattr(pool, "_SMALL", 0)
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "2")


def results(seed=0):
    """Return results of several ops."""
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((2, 2, 3, 4, 11, 13), np.float32)
    flow = rng.standard_normal((2, 3, 2, 2, 11, 13), np.float32)
    found = *ss.search(q, k, flow, window=5, patch=3, topk=5), *ss.search(q, k, flow, window=3, topk=4, subpixel=True)
    weights = np.exp(-found[0] / 50)
    return [
        *found,
        ss.aggregate(k, weights, found[1], patch=3),
        ss.scatter(k, weights, found[1], patch=3),
        ss.fold(ss.gather(k, found[1], patch=3), found[1], size=(3, 11, 13))[0],
        ss.chain_flow(flow[:, :, 0], flow[:, :, 1], radius=1),
    ]


def same(found, expected) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("several_threads")
def test_concurrent_calls_equal_serial_calls():
    serial = [results(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(3):
            assert all(map(same, callers.map(results, range(8)), serial))


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(pool, "_SMALL", 0)
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "1")
    one = results()
    for number in "23":
        monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", number)
        assert same(results(), one)


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none_is_an_error(number, monkeypatch):
    monkeypatch.setattr(pool, "_SMALL", 0)
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", number)
    with pytest.raises(
        ss.ShiftsearchError, match=f"SHIFTSEARCH_NUM_THREADS is '{number}', expected a whole number from 1"
    ):
        pool.spread(lambda stop, first, last: None, 10, 1)


def test_an_error_in_a_thread_reaches_the_caller(several_threads):
    def fails(stop, first, last):
        raise KeyError(first)

    with pytest.raises(KeyError):
        pool.spread(fails, 10, 1)


def _send(connection, seed):
    connection.send(results(seed))


def _from_child(context, seed):
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(theirs, seed))
    child.start()
    theirs.close()
    assert ours.poll(60), "the child hangs"
    found = ours.recv()
    child.join(10)
    return found


@pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python warns of forks beside threads; this is what we test
@pytest.mark.usefixtures("several_threads")
def test_a_forked_child_computes_the_same():
    expected, context = [results(seed) for seed in range(2)], multiprocessing.get_context("fork")
    assert same(_from_child(context, 0), expected[0])
    with ThreadPoolExecutor(2) as loaders:  # like the workers of a data loader, while the parent continues
        children = loaders.map(lambda seed: _from_child(context, seed), range(2))
        assert same(results(0), expected[0])
        assert all(map(same, children, expected))


_FORK = """
import multiprocessing, threading, numpy as np, shiftsearch
from numba.core import event

class Begins(event.Listener):
    def on_start(self, _):
        begun.set()
    def on_end(self, _):
        pass

def compute(dtype):
    frame, here = np.ones((1, 2, 7, 9), dtype), np.zeros((1, 1, 7, 9, 1, 3), np.int32)
    assert (shiftsearch.gather(frame, here, patch=3) == 1).all()

begun = threading.Event()
with event.install_listener("numba:compile", Begins()):
    thread = threading.Thread(target=compute, args=(np.float32,))
    thread.start()
    begun.wait()
    child = multiprocessing.get_context("fork").Process(target=compute, args=(np.float64,))
    child.start()
child.join(60)
child.kill()
thread.join()
print(child.exitcode)
"""


@pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_shares_no_frames_of_a_stream(rng, monkeypatch):
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "1")
    scene = 100 * rng.random((1, 6, 8)).repeat(8, 1).repeat(8, 2)
    clip = (scene + rng.normal(80, 20, (20, 48, 64))).clip(0, 255).astype(np.uint8)
    stream, wanted = (ss.denoise_stream(iter(clip), 25, radius=1, flow=None) for _ in range(2))
    found = list(itertools.islice(stream, 3))
    child = multiprocessing.get_context("fork").Process(target=list, args=(stream,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal([*found, *stream], list(wanted))


@pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")
def test_a_child_that_is_forked_while_a_kernel_is_compiled_compiles_its_own(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _FORK]
    where = Path(ss.__file__).parent.parent
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout == "0\n", done.stderr


# --- the cache of compiled kernels --------------------------------------------------------------------
# two kernels that compile in a second each
_PROGRAM = """
import numpy as np, shiftsearch
frame = np.random.default_rng(0).standard_normal((1, 2, 7, 9), np.float32)
here = np.zeros((1, 1, 7, 9, 1, 3), np.int32)
sums, counts = shiftsearch.fold(shiftsearch.gather(frame, here, patch=3), here, size=(1, 7, 9))
assert (abs(sums / counts - frame) < 1e-5).all()
print("right")
"""


def program(cache: Path | str, folder: Path | None = None, **more):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **more}
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        cwd=folder or Path(ss.__file__).parent.parent,  # where the package lies that is tested here
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "right\n"), error
    return error


_SHARED_CACHE = pytest.mark.xdist_group("cache of kernels")  # which one process fills


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a cache that one process has filled, and its output."""
    folder = tmp_path_factory.mktemp("kernels")
    return folder, finished(program(folder))


@_SHARED_CACHE
@pytest.mark.full
def test_the_first_process_reports_compiling_and_the_second_is_silent(cache):
    folder, said = cache
    assert said == _ANNOUNCED
    assert finished(program(folder)) == ""


@_SHARED_CACHE
@pytest.mark.full
def test_a_damaged_cache_does_not_matter(cache):
    folder, _ = cache
    whole = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert whole
    for damages in ((_flipped, _flipped), (lambda content: b"nonsense", lambda content: content[: len(content) // 2])):
        for number, (file, content) in enumerate(whole.items()):
            file.write_bytes(damages[number % 2](content))
        assert finished(program(folder)) == _ANNOUNCED  # compiled again, and not run
        assert {file: file.read_bytes() for file in whole}.keys() == whole.keys()
    assert finished(program(folder)) == ""


def _flipped(content: bytes) -> bytes:
    """Flip one bit of the machine code."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


@_SHARED_CACHE
@pytest.mark.full
def test_unused_kernels_are_removed(cache):
    folder, _ = cache
    (file, *_), old = folder.rglob("*-*"), folder / "shiftsearch" / "of-another-version"
    old.write_bytes(file.read_bytes())
    for path, days in ((old, 91), (file, 89)):
        os.utime(path, (time.time() - days * 24 * 3600,) * 2)
    file.write_bytes(b"damaged")  # so that one is written
    os.utime(file, (time.time() - 89 * 24 * 3600,) * 2)
    finished(program(folder))
    assert file.exists()
    assert not old.exists()


@pytest.mark.full
def test_kernels_are_kept_outside_of_the_package(tmp_path):
    """Uninstalling removes what was installed: a folder with kernels would stay, as an empty namespace to import."""
    package = tmp_path / "shiftsearch"
    shutil.copytree(Path(ss.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(package.rglob("*"))
    home = tmp_path / "home"
    more = {"HOME": str(home), "XDG_CACHE_HOME": "", "LOCALAPPDATA": str(home), "PYTHONPATH": str(tmp_path)}
    finished(program("", tmp_path, **more, PYTHONDONTWRITEBYTECODE="1"))
    assert sorted(package.rglob("*")) == before
    assert any(file.is_file() for file in home.rglob("*"))


@pytest.mark.full
def test_a_process_killed_while_it_compiles_does_not_matter(tmp_path):
    process = program(tmp_path)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if any(file.is_file() for file in tmp_path.rglob("*")):  # the process has begun to write
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished(program(tmp_path))


@pytest.mark.full
def test_nowhere_to_write_a_cache_does_not_matter(tmp_path):
    """Files stand where the folders of the cache should be, so that root cannot write there either."""
    package = Path(ss.__file__).parent
    shutil.copytree(package, tmp_path / "shiftsearch", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("backends/cpu", "."):
        (tmp_path / "shiftsearch" / folder / "__pycache__").write_text("")
    nowhere = str(tmp_path / "shiftsearch" / "errors.py")
    more = {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert finished(program(f"{nowhere}/cache", tmp_path, **more)) == _ANNOUNCED


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_cache_does_not_matter(tmp_path):
    tmp_path.chmod(0o500)
    finished(program(tmp_path))


# --- how many -----------------------------------------------------------------------------------------
@pytest.fixture
def many_cores(monkeypatch):
    """As on a machine with eight cores, where nothing says how many threads there should be."""
    for name in ("SHIFTSEARCH_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    yield
    ss.set_num_threads(None)


def test_threads_follow_what_was_set_then_the_environment_then_torch(many_cores, monkeypatch):
    torch = pytest.importorskip("torch")
    usual = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    try:
        for number in (3, 1, 100):
            torch.set_num_threads(number)
            assert ss.get_num_threads() == min(number, 8)
    finally:
        torch.set_num_threads(usual)
    monkeypatch.setenv("SHIFTSEARCH_NUM_THREADS", "5")
    assert ss.get_num_threads() == 5
    ss.set_num_threads(6)
    assert ss.get_num_threads() == 6
    ss.set_num_threads(None)
    assert ss.get_num_threads() == 5


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), ("99", 8), ("", 8), ("all", 8), ("0", 8)])
def test_without_torch_threads_follow_openmp(many_cores, monkeypatch, said, threads):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert ss.get_num_threads() == threads


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", True])
def test_only_whole_numbers_of_threads_are_set(number):
    with pytest.raises(ss.ShiftsearchError, match=f"set_num_threads: number is {number!r}, expected"):
        ss.set_num_threads(number)


def test_no_more_threads_work_than_are_allowed_whatever_the_pool_has(many_cores, monkeypatch):
    monkeypatch.setattr(pool, "_SMALL", 0)
    for number in (4, 2, 1):
        ss.set_num_threads(number)
        now, most, lock = 0, 0, threading.Lock()

        def work(stop, first, last, lock=lock):
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1

        pool.spread(work, 24, 1)
        assert most <= number


class _Threads:
    """A data set of how many threads its worker may use."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return ss.get_num_threads()


@pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_worker_of_a_data_loader_has_one_thread(many_cores):
    torch = pytest.importorskip("torch")
    ss.set_num_threads(4)
    loader = torch.utils.data.DataLoader(_Threads(), num_workers=1, multiprocessing_context="fork")
    assert torch.cat(list(loader)).tolist() == [1, 1]
