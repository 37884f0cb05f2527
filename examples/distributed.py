"""Align or denoise a long video, or a folder of them, on many processes and machines.

python examples/distributed.py noisy/ clean/ --sigma 20

Videos are split by scene and time into chunks, which overlap by the frames that results depend on. Each chunk is
computed to a file of its own, and the files are joined in order. The result equals that of a single process bit for bit,
if the machines are of one kind. All machines must see the same folders. After an interruption, run the same command
again: it goes on where it was.

Ray's actors compute the chunks, each with the threads or the GPU that it was given; an actor that dies is restarted. As
`compute` is a plain function of a number, any other way to run many processes works, too, such as xargs:

python examples/distributed.py noisy/ clean/ --sigma 20 --plan  # prints the number of chunks: 42
export SHIFTSEARCH_NUM_THREADS=1
seq 0 41 | xargs -P 8 -n 1 python examples/distributed.py noisy/ clean/ --chunk
python examples/distributed.py noisy/ clean/ --join

In a SLURM array (`sbatch --array=0-41`) use `--chunk $SLURM_ARRAY_TASK_ID`, with Dask
`client.gather(client.map(partial(compute, "clean/"), range(42), pure=False))`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import shutil
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import shiftsearch
from shiftsearch import ShiftsearchError
from shiftsearch.video.chunks import Chunk
from shiftsearch.video.io.whole import whole


def plan(source, target, work="denoise", sigma=None, size=64) -> int:
    """Write down what to compute, in a folder beside `target`, and return the number of chunks."""
    source, target = Path(source).resolve(), Path(target).resolve()
    sources = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    found = {"work": work, "sigma": sigma, "changed": [path.stat().st_mtime_ns for path in sources], "chunks": []}
    overlap = 1 if work == "align" else shiftsearch.denoise_overlap()
    for path in sources:
        to = target / path.name if source.is_dir() else target
        if to == path:
            raise ShiftsearchError(f"{to}: is the source, expected another name for the result")
        if path.suffix == ".npy" != to.suffix:
            raise ShiftsearchError(f"{to}: expected a name that ends in .npy as that of {path}")
        numbers = itertools.count()
        with _frames(path) as frames:
            cuts = list(shiftsearch.scene_cuts(frame for frame, _ in zip(frames, numbers, strict=False)))
        found["chunks"] += [[str(path), str(to), *c] for c in shiftsearch.chunks(next(numbers), size, overlap, cuts)]
    if not found["chunks"]:
        raise ShiftsearchError(f"{source}: has no frames, expected a video, an .npy file, or a folder of such files")
    file = _parts(target) / "plan.json"
    if file.exists() and json.loads(file.read_text()) != found:
        raise ShiftsearchError(f"{file.parent}: has chunks of another plan or source; remove it, or join them first")
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as unfinished:
        unfinished.write_text(json.dumps(found))
    return len(found["chunks"])


def compute(target, number: int, xp=np) -> None:
    """Compute a chunk to a file, unless it is there. This may run anywhere, in any order, and twice at the same time."""
    found, part = _planned(target), _part(target, number)
    if not 0 <= number < len(found["chunks"]):
        raise ShiftsearchError(f"{target}: chunk is {number}, expected 0 to {len(found['chunks']) - 1}")
    if part.exists():
        return
    source, _, *numbers = found["chunks"][number]
    chunk, work = Chunk(*numbers), getattr(shiftsearch, f"{found['work']}_stream")
    flow = "dis" if xp is np else lambda *pair: xp.asarray(shiftsearch.flow.dis(*(frame.get() for frame in pair)))
    with _frames(Path(source), chunk.read) as frames:
        results = work(map(xp.asarray, frames), sigma=found["sigma"], flow=flow)
        kept = list(itertools.islice(results, chunk.keep.start, chunk.keep.stop))
    with whole(part) as unfinished:
        np.save(unfinished, np.stack([frame if xp is np else frame.get() for frame in kept]))


def missing(target) -> list[int]:
    """Return the numbers of the chunks that are not computed yet."""
    return [number for number in range(len(_planned(target)["chunks"])) if not _part(target, number).exists()]


def join(target) -> None:
    """Join the chunks to the results, and remove the chunks."""
    if left := missing(target):
        raise ShiftsearchError(f"{target}: chunks {left} are missing, expected all: compute them first")
    chunks = enumerate(_planned(target)["chunks"])
    for (source, to), of_clip in itertools.groupby(chunks, lambda numbered: numbered[1][:2]):
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        _write(Path(source), Path(to), [np.load(_part(target, number), mmap_mode="r") for number, _ in of_clip])
    shutil.rmtree(_parts(target))


# --- files ------------------------------------------------------------------------------------------
def _parts(target) -> Path:
    return Path(f"{Path(target).resolve()}.parts")


def _part(target, number: int) -> Path:
    return _parts(target) / f"{number:06}.npy"


def _planned(target) -> dict:
    file = _parts(target) / "plan.json"
    if not file.exists():
        raise ShiftsearchError(f"{target}: there is no {file}, expected a plan: run --plan first")
    return json.loads(file.read_text())


@contextmanager
def _frames(path: Path, part=slice(0, None)):
    if path.suffix == ".npy":
        yield np.load(path, mmap_mode="r")[part]
    else:
        with importlib.import_module("shiftsearch.video.io").read(path, (part.start, part.stop)) as frames:
            yield frames


def _write(source: Path, target: Path, parts: list) -> None:
    if target.suffix == ".npy":
        with whole(target) as unfinished:
            shape = sum(map(len, parts)), *parts[0].shape[1:]
            np.concatenate(parts, out=np.lib.format.open_memmap(unfinished, "w+", parts[0].dtype, shape))
    else:
        with _frames(source) as clip, importlib.import_module("shiftsearch.video.io").write(target, like=clip) as out:
            for _, frame in zip(clip, itertools.chain.from_iterable(parts), strict=True):
                out.write(frame)


# --- Ray --------------------------------------------------------------------------------------------
class Worker:
    """An actor with `cpus` threads, and on a GPU, or a share of one, if `gpus` is not 0."""

    def __init__(self, target: str, cpus: int, gpus: float):
        os.environ.update(SHIFTSEARCH_NUM_THREADS=str(cpus), OPENCV_FOR_THREADS_NUM=str(cpus))
        self.compute = partial(compute, target, xp=importlib.import_module("cupy" if gpus else "numpy"))

    def __call__(self, batch):
        for number in batch["number"].tolist():
            self.compute(number)
        return batch


def compute_by_ray(target, cpus=1, gpus=0.0, worker=Worker) -> None:
    """Compute the missing chunks on a Ray cluster: that of RAY_ADDRESS, or else one on this machine."""
    import ray

    if not (numbers := [{"number": number} for number in missing(target)]):
        return
    ray.init(ignore_reinit_error=True)
    there = ray.cluster_resources()
    actors = int(min(there.get("CPU", 0) / cpus, there.get("GPU", 0) / gpus if gpus else len(numbers), len(numbers)))
    if not actors:
        raise ShiftsearchError(f"a worker has {cpus} CPUs and {gpus} GPUs, expected no more than Ray has: {there}")
    ray.data.DataContext.get_current().actor_task_retry_on_errors = [OSError]  # shared folders may fail for a moment
    ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        worker,
        fn_constructor_args=(str(target), cpus, gpus),
        batch_size=1,
        num_cpus=cpus,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        max_restarts=-1,
        max_task_retries=3,  # a chunk that kills every worker is an error in the end
    ).materialize()


def main(arguments=None) -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", help="a video, or an array (T, H, W) or (T, H, W, C) as .npy, or a folder of such files"
    )
    parser.add_argument("target", help="the result: a file, or a folder")
    parser.add_argument("--work", choices=("denoise", "align"), default="denoise")
    parser.add_argument(
        "--sigma", type=float, help="standard deviation of the noise, as in shiftsearch.denoise (default: estimated)"
    )
    parser.add_argument(
        "--size", type=int, default=64, help="the most frames of a chunk; a chunk is in memory as a whole"
    )
    parser.add_argument("--cpus", type=int, default=1, help="CPUs and threads of each worker of Ray")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a worker of Ray: 0, 1, or a share of one")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--plan", action="store_true", help="only print the number of chunks")
    only.add_argument("--chunk", type=int, help="only compute this chunk of the plan")
    only.add_argument("--join", action="store_true", help="only join the chunks to the result")
    given = parser.parse_args(arguments)
    everything = given.chunk is None and not given.plan and not given.join
    try:
        if given.plan or everything:
            print(plan(given.source, given.target, given.work, given.sigma, given.size), "chunks")
        if everything:
            compute_by_ray(given.target, given.cpus, given.gpus)
        if given.chunk is not None:
            compute(given.target, given.chunk)
        if given.join or everything:
            join(given.target)
    except (ValueError, EOFError, OSError) as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
