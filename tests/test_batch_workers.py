"""Workers of `shiftsearch batch`, processes and actors of Ray, do their tasks though they are killed; so does the driver."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import batches
import pytest
from batches import HOME, alone, assert_same, children, done, driven, films, here, runs, wait_for, writing

from shiftsearch.batch import processes
from shiftsearch.batch.cluster import Cluster
from shiftsearch.batch.processes import Processes
from shiftsearch.batch.schedule import Task, run
from shiftsearch.errors import ShiftsearchError

pytestmark = [
    pytest.mark.xdist_group("batch"),  # one Ray at a time
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look into /proc and kill processes as Linux does"),
]
pytest.importorskip("cv2")
pytest.importorskip("tqdm")
pytest.importorskip("av")

_RAY = """
import sys
import ray

ray.init(
    address="local", num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=80 * 1024**2,
    log_to_driver=False, _temp_dir=sys.argv[1],
)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="session")
def ray_address():
    """Start a Ray cluster of two CPUs and two GPUs, which it is told of and need not be there; return its address."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is missing: pip install ray")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": f"{HOME}:{Path(__file__).parent}", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # sockets want short names
        command = [sys.executable, "-c", _RAY, folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as cluster:
            yield cluster.stdout.readline().strip()
            cluster.stdin.close()


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.full)])
def workers(request):
    """Return the options of two workers of a kind."""
    if request.param == "processes":
        return ["--workers", 2, "--device", "cpu"]
    return ["--workers", 2, "--device", "cpu", "--ray", request.getfixturevalue("ray_address")]


# --- tasks ------------------------------------------------------------------------------------------
@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.full)])
def pool(request, tmp_path):
    """Return two workers of a kind, which have two GPUs."""
    if request.param == "processes":
        environments = [{"SHIFTSEARCH_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": str(n)} for n in range(2)]
        with closing(Processes(environments)) as pool:
            assert pool.idle == 2
            yield pool
        return
    with closing(in_this_process(request.getfixturevalue("ray_address"))) as pool:
        pool.grow(2, 1, 1, {"SHIFTSEARCH_NUM_THREADS": "1"})
        yield pool


def in_this_process(address) -> Cluster:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own
        return Cluster(address)


def outcomes(pool, *tasks) -> list:
    found = {}
    run(
        pool,
        [Task((n,), *task, about=n) for n, task in enumerate(tasks)],
        lambda t, o: found.update({t.about: o}) or [],
    )
    return [found[n] for n in range(len(tasks))]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.full
def test_each_worker_has_its_own_gpu_and_threads_and_tasks_survive_their_deaths(pool, tmp_path):
    (tmp_path / "marks").mkdir()
    first, second = outcomes(pool, (batches.who, (2.0,)), (batches.who, (2.0,)))
    assert (first.error, second.error) == (None, None)
    assert first.result[0] != second.result[0] != os.getpid()
    assert {found.result[1]["CUDA_VISIBLE_DEVICES"] for found in (first, second)} == {"0", "1"}
    assert {found.result[1]["SHIFTSEARCH_NUM_THREADS"] for found in (first, second)} == {"1"}

    def fresh(name):
        (tmp_path / name).mkdir()
        return str(tmp_path / name)

    twice, thrice, other = outcomes(
        pool, (batches.die, (fresh("a"), 2)), (batches.die, (fresh("b"), 3)), (batches.who, ())
    )
    assert twice.result == 3
    assert "a worker died" in thrice.error
    assert other.error is None
    failed, refused = outcomes(
        pool, (batches.fail, (fresh("c"), 2, OSError)), (batches.fail, (fresh("d"), 2, ShiftsearchError))
    )
    assert failed.result == 3  # storage may fail for a moment
    assert refused.error == "no luck"  # and what is wrong stays wrong
    assert len(list((tmp_path / "d").iterdir())) == 1


def test_urgent_tasks_go_first():
    pool, order = batches.Here(), []

    def then(task, outcome):
        order.append(task.about)
        return [Task((0,), batches.who, (), "urgent"), Task((5,), batches.who, (), "last")] if task.about == "a" else []

    run(pool, [Task((2,), batches.who, (), "b"), Task((1,), batches.who, (), "a")], then)
    assert order == ["a", "urgent", "b", "last"]


# --- the command ------------------------------------------------------------------------------------
# a lossless codec: bits of libx264 depend on what its memory held before, which the tests fill
WORK = ["--sigma", 9, "--radius", 2, "--codec", "ffv1"]
OPTIONS = [*WORK, "--suffix", ".mkv", "--part", 4]


def test_a_worker_that_is_killed_changes_nothing(tmp_path, workers):
    source = films(tmp_path / "in", a=24, b=5)
    one = [alone(source / f"{name}.mp4", tmp_path / "one" / f"{name}.mkv", "denoise", *WORK) for name in "ab"]
    process = driven(source, tmp_path / "out", *OPTIONS, *workers)
    parts = tmp_path / "out" / "a.mkv.parts"
    os.kill(writing(parts), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.endswith("2 videos: 2 written\n")
    for path in one:
        assert_same(tmp_path / "out" / path.name, path)
    assert not list((tmp_path / "out").rglob("*.parts"))
    again = done(source, tmp_path / "out", *OPTIONS, *workers)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "2 videos: 2 there already\n")


def test_a_driver_that_is_killed_leaves_no_worker_and_goes_on_where_it_was(tmp_path, workers, monkeypatch):
    source = films(tmp_path / "in", a=40)
    process = driven(source, tmp_path / "out", *OPTIONS, *workers)
    parts = tmp_path / "out" / "a.mkv.parts"
    wait_for(lambda: len(list(parts.glob("*.mkv"))) >= 2)
    busy = writing(parts)
    started = children(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(runs, [busy, *started])))
    there = len(list(parts.glob("*.mkv")))
    assert 2 <= there < 10
    assert not (tmp_path / "out" / "a.mkv").exists()
    code, ran = here(monkeypatch, source, tmp_path / "out", *OPTIONS)
    assert (code, ran) == (0, ["compute"] * (10 - there) + ["join"])
    assert_same(tmp_path / "out" / "a.mkv", alone(source / "a.mp4", tmp_path / "one.mkv", "denoise", *WORK))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mkv", "a.mkv.batch.json"]


def test_ctrl_c_waits_until_a_worker_is_known(monkeypatch, request):
    """Half of a process would complain, and nothing would end it."""
    started = []

    class Interrupted:
        connection = "its"

        def __init__(self, environment):
            signal.raise_signal(signal.SIGINT)
            started.append(self)

        def send(self, task):
            self.task = task

    monkeypatch.setattr(processes, "_Process", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run, it may be ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    pool, task = Processes([{}]), Task((0,), batches.who, ())
    with pytest.raises(KeyboardInterrupt):
        pool.start(task)
    assert pool._busy == {"its": (task, started[0])}
    assert started[0].task is task
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.full
def test_ctrl_c_ends_the_workers(tmp_path):
    source = films(tmp_path / "in", a=200)
    process = driven(source, tmp_path / "out", *OPTIONS, "--workers", 2, "--device", "cpu")
    writing(tmp_path / "out" / "a.mkv.parts")
    started = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "shiftsearch batch: interrupted; run it again to go on\n")
    wait_for(lambda: not any(map(runs, started)))


@pytest.mark.full
def test_a_cluster_that_is_too_small_is_told(tmp_path, ray_address):
    found = done(films(tmp_path / "in", a=2), tmp_path / "out", "--ray", ray_address, "--threads", 3)
    assert found.returncode == 1
    assert "a worker has 3 CPUs and 0 GPUs, expected no more than Ray has" in found.stderr
