"""The command batch: videos in, videos out, and workers between."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from shiftsearch.batch import storage
from shiftsearch.batch.cluster import Cluster
from shiftsearch.batch.jobs import Job, look, videos
from shiftsearch.batch.processes import Processes
from shiftsearch.batch.progress import Progress
from shiftsearch.batch.schedule import Pool, run
from shiftsearch.errors import ShiftsearchError
from shiftsearch.threads import get_num_threads
from shiftsearch.video.cli import commands as ordinary
from shiftsearch.video.cli.several import ENDINGS
from shiftsearch.video.denoise import denoise_overlap
from shiftsearch.video.flow.measure import METHODS

_EXAMPLES = (
    "shiftsearch batch films/ clean/",
    "shiftsearch batch 'films/*.mov' clean/ --suffix .mkv --codec ffv1 --sigma 12",
    "shiftsearch batch films/ steady/ --work align --to next",
    "shiftsearch batch s3://bucket/films s3://bucket/clean --ray auto --device cuda",
)
_ABOUT = (
    "Denoise or align many videos, or long ones. Long videos are split into parts. The parts are computed on the\n"
    "processes of this machine, or on a Ray cluster.\n\n"
    "Run it again after an interruption: it goes on where it was. It makes only what is new or changed."
)
_OTHER = {"align": "denoise", "denoise": "align"}
_OWN = {"command", "run", "sources", "target", "work", "suffix", "overwrite", "ray", "workers", "threads", "part"}
_DEVICES = ("cpu", "cuda:0")  # a worker with a GPU sees no other
_AT_ONCE = 16  # outputs that are looked at
_LEAST = 64  # frames of a part
_OVERLAPS = 8  # of which a part has as many frames: the rest is computed twice


def add_command(commands: Any) -> None:
    """Add the command to argparse's `commands`."""
    text = "denoise or align many videos, on many processes or machines"
    described = ordinary.texts(text, _EXAMPLES) | {"description": _ABOUT}
    parser = commands.add_parser("batch", conflict_handler="resolve", **described)
    sources = "a video, a folder of videos at any depth, or a pattern. Give a path, or an address that fsspec knows"
    parser.add_argument("sources", nargs="+", metavar="IN", help=sources)
    parser.add_argument("target", metavar="OUT", help="the folder to write to. If IN is one video, it may be a file")
    parser.add_argument(
        "--work", choices=("denoise", "align"), default="denoise", help="what to do (default %(default)s)"
    )
    align = parser.add_argument_group("options of --work align")
    ordinary.align_options(align)
    denoise = parser.add_argument_group("options of --work denoise")
    ordinary.denoise_options(denoise)  # its --flow takes all that align's takes
    _add_files(parser.add_argument_group("options of each video"))
    _add_workers(parser.add_argument_group("options of the workers"))
    own = {"align": _names(align) | {"flow"}, "denoise": _names(denoise)}
    foreign = {
        work: {name: parser.get_default(name) for name in own[other] - own[work]} for work, other in _OTHER.items()
    }
    parser.set_defaults(run=partial(batch, foreign=foreign))


def _add_files(group: Any) -> None:
    ordinary.input_options(group)
    ordinary.output_options(group)
    beside = "also write pictures of the middle frames to this folder. If OUT is a file, this is one, too"
    group.add_argument("--preview", metavar="NAME", help=beside)
    ordinary.suffix_option(group)
    ordinary.quiet_option(group)
    changed = "also replace outputs that batch did not write, or that were changed since"
    group.add_argument("--overwrite", action="store_true", help=changed)
    group.add_argument(
        "-v", "--verbose", action="store_true", help="also tell of each part, and where an error came from"
    )


def _add_workers(group: Any) -> None:
    ray = (
        'use the Ray cluster at this address; "auto" is that of this machine. Without it and RAY_ADDRESS, workers are '
        "processes of this machine (default: RAY_ADDRESS)"
    )
    group.add_argument("--ray", metavar="ADDRESS", default=os.environ.get("RAY_ADDRESS"), help=ray)
    device = "cuda has a worker for each GPU. auto is cuda if there is a GPU, else cpu (default %(default)s)"
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=device)
    workers = "run this many workers (default: as many as there are GPUs, or as there are cores for)"
    group.add_argument("--workers", type=_count, metavar="N", help=workers)
    group.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="threads of each worker (default %(default)s)"
    )
    size = (
        f"a part has at most this many frames (default: {_OVERLAPS} times those that a result depends on, and at least "
        f"{_LEAST})"
    )
    group.add_argument("--part", type=_count, metavar="FRAMES", help=size)


def _names(group: Any) -> set[str]:
    return {action.dest for action in group._group_actions}


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


# --- what it does -----------------------------------------------------------------------------------
def batch(args: Namespace, foreign: dict[str, dict[str, Any]]) -> int:
    """Run `shiftsearch batch`. `foreign` has the options, with their defaults, that a work does not have."""
    _check(args, foreign[args.work])
    try:
        jobs = list(_jobs(args))
        with Progress(args.quiet, args.verbose) as progress:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                found = list(threads.map(partial(look, overwrite=args.overwrite), jobs))
            if left := [job for job, state in zip(jobs, found, strict=True) if progress.note(job, state)]:
                pool, device = _workers(args)
                with closing(pool):
                    left = [replace(job, options=job.options | {"device": device}) for job in left]
                    run(pool, [task for job in left for task in progress.first(job)], progress.then)
        return progress.report()
    except BrokenPipeError:
        raise
    except OSError as error:  # of storage, which says all in its message
        raise ShiftsearchError(str(error)) from None
    except KeyboardInterrupt:
        print("shiftsearch batch: interrupted; run it again to go on", file=sys.stderr)
        return 130


def _check(args: Namespace, foreign: dict[str, Any]) -> None:
    for name, default in foreign.items():
        if getattr(args, name) != default:
            option = f"--{name.replace('_', '-')}"
            raise ShiftsearchError(
                f"{option} is an option of --work {_OTHER[args.work]}, expected those of {args.work}"
            )


def _jobs(args: Namespace) -> Iterator[Job]:
    overlap = denoise_overlap(quality=args.quality, radius=args.radius) if args.work == "denoise" else 1
    size = args.part or max(_LEAST, _OVERLAPS * overlap)
    found = list(videos(args.sources, storage.canonical(args.target)))
    alone = len(found) == 1 and found[0][0] == storage.canonical(args.sources[0]) and _is_file(args.target)
    sources: dict[str, str] = {}
    for source, stamp, name in found:
        outputs = _outputs(args, None if alone else name)
        output = outputs.pop("output")
        if output == source:
            raise ShiftsearchError(f"{output}: is the input, expected another folder or name")
        if sources.setdefault(output, source) != source:
            both = f"{sources[output]} and of {source}"
            raise ShiftsearchError(f"{output}: would be that of {both}, expected inputs of different names")
        options = {option: value for option, value in vars(args).items() if option not in _OWN} | outputs
        if args.flow not in (*METHODS, "none"):
            options["flow"] = storage.canonical(args.flow)
        yield Job(source, stamp, output, args.work, options, size)


def _outputs(args: Namespace, name: str | None) -> dict[str, str]:
    """Return the names of the files to write, by option: as they are given, or with this name in the folders given."""
    given = {"output": args.target, "preview": args.preview, "mask": args.mask}
    folders = {option: storage.canonical(folder) for option, folder in given.items() if folder is not None}
    if name is None:
        return folders
    path = PurePosixPath(name)
    endings = {"output": args.suffix or path.suffix, "preview": ".png", "mask": ".npy"}
    return {option: f"{folder}/{path.with_suffix(endings[option])}" for option, folder in folders.items()}


def _is_file(target: str) -> bool:
    """Return whether a name is that of a video to write, and not of a folder."""
    return (
        PurePosixPath(target).suffix[1:].lower() in ENDINGS and not target.endswith("/") and not os.path.isdir(target)
    )


def _workers(args: Namespace) -> tuple[Pool, str]:
    """Return the workers, and the device on which each computes."""
    limits = {"SHIFTSEARCH_NUM_THREADS": str(args.threads), "OPENCV_FOR_THREADS_NUM": str(args.threads)}
    if args.ray is not None:
        cluster = Cluster(args.ray)
        gpu = int(args.device == "cuda" or (args.device == "auto" and cluster.room(args.threads, 1) > 0))
        count = args.workers or cluster.room(args.threads, gpu)
        if not count:
            cluster.close()
            raise ShiftsearchError(f"a worker has {args.threads} CPUs and {gpu} GPUs, expected no more than Ray has")
        cluster.grow(count, args.threads, gpu, limits)
        return cluster, _DEVICES[gpu]
    gpus = 0 if args.device == "cpu" else _gpus(needed=args.device == "cuda")
    count = args.workers or gpus or max(1, get_num_threads() // args.threads)
    own = [{"CUDA_VISIBLE_DEVICES": _visible(n % gpus)} if gpus else {} for n in range(count)]
    return Processes([limits | each for each in own]), _DEVICES[gpus > 0]


def _gpus(needed: bool) -> int:
    """Return how many GPUs this machine has."""
    from shiftsearch.backends import cuda

    try:
        return int(cuda.load().xp.cuda.runtime.getDeviceCount())
    except ShiftsearchError:
        if needed:
            raise
        return 0


def _visible(number: int) -> str:
    """Return what CUDA shall call a GPU of this process."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return given.split(",")[number] if given else str(number)
