"""Files that `shiftsearch batch` reads and writes by address: in memory, and on a server like S3 of this machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest
from batches import alone, assert_same, done, films, here

from shiftsearch.batch import storage
from shiftsearch.batch.jobs import Job, State
from shiftsearch.video.io.whole import whole

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("cv2")
pytest.importorskip("tqdm")
pytest.importorskip("av")

WORK = ["--sigma", 9, "--radius", 1, "--codec", "ffv1"]


@pytest.fixture
def memory():
    """Return fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True) if system.ls("/") else None
    yield system
    system.store.clear()


@pytest.fixture(params=["memory", "path"])
def folder(request, tmp_path, memory):
    """Return the name of a folder to write to."""
    return "memory://films" if request.param == "memory" else str(tmp_path / "films")


# --- files ------------------------------------------------------------------------------------------
def test_files_are_written_whole_listed_and_removed(folder):
    assert storage.stamps(folder) == {}
    assert storage.text(f"{folder}/none") is None
    assert storage.stamp(f"{folder}/a/b") is None
    storage.write(f"{folder}/a/b", "text")
    storage.write(f"{folder}/c", "more")
    assert storage.text(f"{folder}/a/b") == "text"
    found = storage.stamps(folder)
    assert found == {name: storage.stamp(f"{folder}/{name}") for name in ("a/b", "c")}
    assert storage.stamp(f"{folder}/a") is None  # a folder is no file
    with pytest.raises(RuntimeError):
        interrupted(f"{folder}/c")
    assert storage.text(f"{folder}/c") == "more"
    storage.write(f"{folder}/c", "other")
    assert storage.stamps(folder)["c"] != found["c"]
    with storage.fetched(f"{folder}/c") as path:
        assert path.read_text() == "other"
    storage.remove(f"{folder}/a")
    storage.remove(f"{folder}/a")
    assert list(storage.stamps(folder)) == ["c"]


def interrupted(name):
    with storage.placed(name) as path, whole(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError


def test_a_copy_is_kept_until_another_is_asked_for_or_the_file_changes(memory):
    storage.write("memory://a", "first")
    storage.write("memory://b", "other")
    first = storage.kept("memory://a", "1")
    assert storage.kept("memory://a", "1") == first
    storage.write("memory://a", "second")
    second = storage.kept("memory://a", "2")
    assert (second.read_text(), first.exists()) == ("second", False)
    storage.kept("memory://b", "1")
    assert not second.exists()
    storage.forget()
    assert not list(second.parent.parent.glob(f"{second.parent.name}*"))


def test_where_uploads_do_not_appear_whole_they_get_their_name_at_the_end(memory, monkeypatch):
    names = []
    monkeypatch.setattr(storage, "_WHOLE", set())
    monkeypatch.setattr(memory, "mv", lambda a, b: names.append((memory.exists(a), memory.exists(b), a, b)))
    storage.write("memory://films/a", "text")
    ((hidden, there, name, target),) = names
    assert (hidden, there, target) == (True, False, "/films/a")
    assert name.startswith("/films/.a.")


def test_addresses_that_cannot_be_read_are_told(monkeypatch, capsys, memory):
    code, _ = here(monkeypatch, "nowhere://films", "memory://out")
    assert code == 1
    assert capsys.readouterr().err == (
        "shiftsearch batch: nowhere://films: cannot be opened: Protocol not known: nowhere\n"
    )
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert here(monkeypatch, "s3://films", "memory://out")[0] == 1
    assert 's3://films: addresses need fsspec: pip install "shiftsearch[distributed]"' in capsys.readouterr().err


# --- videos -----------------------------------------------------------------------------------------
def test_videos_in_memory_are_made_as_on_a_disk(tmp_path, memory, monkeypatch, capsys):
    source = films(tmp_path / "in", a=5)
    memory.put(str(source / "a.mp4"), "/films/sub/a.mp4")
    memory.pipe("/films/b.mp4", b"no video")
    beside = ["--work", "align", "--mask", "memory://out", "--preview", "memory://out", "--codec", "ffv1"]
    asked = ["memory://films", "memory://out", *beside, "--suffix", ".mkv", "--part", 2]
    code, ran = here(monkeypatch, *asked)
    said = capsys.readouterr().err
    assert (code, ran.count("compute"), ran.count("join")) == (1, 3, 1)
    assert "memory://films/b.mp4: cannot be read as a video" in said
    assert tempfile.gettempdir() not in said
    found = memory.find("/out")
    assert found == [f"/out/sub/a.{ending}" for ending in ("mkv", "mkv.batch.json", "npy", "png")]
    memory.get("/out/sub", str(tmp_path / "out"), recursive=True)
    one = tmp_path / "one"
    one.mkdir()
    beside = ["--mask", one / "a.npy", "--preview", one / "a.png", "--codec", "ffv1"]
    assert_same(tmp_path / "out" / "a.mkv", alone(source / "a.mp4", one / "a.mkv", "align", *beside))
    for name in ("a.npy", "a.png"):
        assert (tmp_path / "out" / name).read_bytes() == (one / name).read_bytes()
    assert here(monkeypatch, *asked) == (1, ["plan"])  # of the one that is broken
    memory.pipe("/out/sub/a.mkv", b"mine")
    assert here(monkeypatch, "memory://films/sub/a.mp4", "memory://out/sub", *asked[2:]) == (1, [])
    assert memory.cat("/out/sub/a.mkv") == b"mine"


def test_the_state_says_where_the_parts_are(memory):
    job = Job("a.mp4", "1", "memory://out/a.mp4", "align", {"flow": "dis", "frames": (0, None), "device": "cpu"}, 8)
    state = State(job.key, "0.1.0", [(0, 5)])
    state.save(job)
    assert State.of(job) == state
    assert job.part((0, 5)).startswith("memory://out/a.mp4.parts/")
    storage.write("memory://out/a.mp4.batch.json", "[1]")
    assert State.of(job) is None


_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def s3():
    """Start a server like S3, and return the environment in which its addresses are understood."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _SERVER], text=True, **pipes) as server:
        host, port = server.stdout.readline().split()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        server.stdin.close()


@pytest.fixture
def bucket(s3):
    """Return a client of the server for its bucket "films", which is new."""
    boto3 = pytest.importorskip("boto3")
    secrets = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    bucket = boto3.resource("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], **secrets).Bucket("films")
    bucket.create()
    return bucket


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of boto3
def test_videos_on_a_server_like_s3(tmp_path, s3, bucket):
    source = films(tmp_path / "in", a=9)
    bucket.upload_file(str(source / "a.mp4"), "in/a.mp4")
    bucket.put_object(Key="in/broken.mp4", Body=b"no video" * 99)
    workers = ["--workers", 2, "--device", "cpu"]
    asked = ["s3://films/in", "s3://films/out", *WORK, "--suffix", ".mkv", "--part", 5, *workers]
    first = done(*asked, **s3, PYTHONWARNINGS="ignore")
    assert first.returncode == 1
    assert first.stderr.splitlines() == [
        "written: s3://films/out/a.mkv, 9 frames",
        "shiftsearch batch: s3://films/in/broken.mp4: cannot be read as a video: Invalid data found when processing input",
        "2 videos: 1 written, 1 not made",
    ]
    assert [each.key for each in bucket.objects.filter(Prefix="out")] == ["out/a.mkv", "out/a.mkv.batch.json"]
    bucket.download_file("out/a.mkv", str(tmp_path / "a.mkv"))
    assert_same(tmp_path / "a.mkv", alone(source / "a.mp4", tmp_path / "one.mkv", "denoise", *WORK))
    bucket.Object("in/broken.mp4").delete()
    again = done(*asked, **s3, PYTHONWARNINGS="ignore")
    assert (again.returncode, again.stderr) == (0, "1 video: 1 there already\n")
    bucket.put_object(Key="in/a.mp4", Body=films(tmp_path / "in", b=2).joinpath("b.mp4").read_bytes())
    changed = done(*asked, **s3, PYTHONWARNINGS="ignore")
    assert (changed.returncode, changed.stderr.splitlines()[0]) == (0, "written: s3://films/out/a.mkv, 2 frames")
