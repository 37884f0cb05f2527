"""Several inputs: files, folders and patterns, whose results go to a folder; a bad one harms no other."""

from __future__ import annotations

import glob
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.cli.report import set_threads
from shiftsearch.video.io.names import first_number, numbered
from shiftsearch.video.io.pipes import PIPE

# the endings of what is taken from a folder
ENDINGS = {"3gp", "avi", "flv", "gif", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg"}
ENDINGS |= {"mts", "mxf", "nut", "ogv", "ts", "vob", "webm", "wmv", "y4m"}


class Job(NamedTuple):
    """What is read, and where its result goes."""

    input: str
    output: str


def each(run: Callable[[Namespace], int], args: Namespace) -> int:
    """Run a command for its input, or for each of several; return the exit code: 1 if any of them is bad."""
    set_threads(args.threads)
    if not _is_several(args):
        job = Job(args.inputs[0], args.output)
        return 0 if _is_left(args, job) else run(_for(args, job))
    jobs, bad = _jobs(args), []
    for job in jobs:
        try:
            if _is_left(args, job):
                continue
            os.makedirs(Path(job.output).parent, exist_ok=True)
            code = run(_for(args, job))
        except BrokenPipeError:  # of what is printed
            raise
        except Exception as error:
            code = 1
            what = (
                str(error) if isinstance(error, ShiftsearchError) else f"{job.input}: {type(error).__name__}: {error}"
            )
            print(f"shiftsearch {args.command}: {what}", file=sys.stderr)
            if args.verbose and not isinstance(error, ShiftsearchError):
                traceback.print_exc()
        if code:
            bad.append(job.input)
    if bad:
        print(f"shiftsearch {args.command}: {len(bad)} of {len(jobs)} failed: {', '.join(bad)}", file=sys.stderr)
    return int(bool(bad))


def _for(args: Namespace, job: Job) -> Namespace:
    return Namespace(**{**vars(args), "input": job.input, "output": job.output})


def _is_several(args: Namespace) -> bool:
    (first, *others), output = args.inputs, args.output
    folder = os.path.isdir(output) or output.endswith(("/", os.sep))
    return bool(others) or folder or (first != PIPE and (os.path.isdir(first) or _is_pattern(first)))


def _is_pattern(name: str) -> bool:
    return glob.has_magic(name) and not os.path.exists(name)


def _jobs(args: Namespace) -> list[Job]:
    """Return all jobs, in order, after a check that no two results have one name."""
    for option in ("preview", "mask"):
        if getattr(args, option, None) is not None:
            raise ShiftsearchError(f"--{option} is for one input, expected one that is a file, and -o with a name")
    named = Path(args.output).suffix[1:].lower() in ENDINGS and not args.output.endswith(("/", os.sep))
    if not os.path.isdir(args.output) and (named or args.output == PIPE or os.path.exists(args.output)):
        raise ShiftsearchError(
            f"{args.output}: is the name of a file, expected a folder for the results of several inputs"
        )
    jobs: list[Job] = []
    of: dict[str, str] = {}
    for name in args.inputs:
        for path, below in _found(name, args.output):
            job = Job(str(path), str(Path(args.output) / (below.with_suffix(args.suffix) if args.suffix else below)))
            if of.setdefault(os.path.realpath(job.output), job.input) != job.input:
                raise ShiftsearchError(
                    f"{job.output}: would be the result of {of[os.path.realpath(job.output)]} and of {job.input}, "
                    "expected inputs of different names"
                )
            jobs.append(job)
    return list(dict.fromkeys(jobs))


def _found(name: str, output: str) -> Iterator[tuple[Path, Path]]:
    """Yield the files of an input, each with its name below the folder of results."""
    if name == PIPE:
        raise ShiftsearchError(f"{PIPE}: is one input, expected no others beside it, and -o with the name of a file")
    if os.path.isdir(name):
        paths = [Path(folder) / file for folder, _, files in os.walk(name) for file in files]
        paths = [path for path in paths if _is_video(path.relative_to(name)) and not _is_below(path, output)]
        yield from ((path, path.relative_to(name)) for path in sorted(paths))
    elif _is_pattern(name):
        paths = [Path(found) for found in glob.glob(name, recursive=True) if os.path.isfile(found)]
        yield from ((path, Path(path.name)) for path in sorted(paths))
    else:
        paths = [Path(name)]
        yield Path(name), Path(Path(name).name)
    if not paths:
        raise ShiftsearchError(f"{name}: has no video, expected files that end in {', '.join(sorted(ENDINGS))}")


def _is_video(path: Path) -> bool:
    return path.suffix[1:].lower() in ENDINGS and not any(part.startswith(".") for part in path.parts)


def _is_below(path: Path, folder: str) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


# --- older files ------------------------------------------------------------------------------------
def _is_left(args: Namespace, job: Job) -> bool:
    """Return whether the result is there and to be left as it is; raise an error if it is there and may not be replaced."""
    names = [job.output, *(getattr(args, option, None) for option in ("preview", "mask"))]
    firsts = [_first(args, job, name) for name in names if name not in (None, PIPE)]
    there = [name for name in firsts if os.path.lexists(name)]
    if not there or args.overwrite:
        return False
    if args.no_clobber:
        if not args.quiet:
            print(f"left as it is: {there[0]}", file=sys.stderr)
        return True
    raise ShiftsearchError(
        f"{there[0]}: exists, expected a new name, --overwrite to replace it, or --no-clobber to leave it as it is"
    )


def _first(args: Namespace, job: Job, name: str) -> str:
    """Return the name of the first file that is written: of pictures, the first one."""
    if not numbered(name):
        return name
    before = first_number(job.input) if numbered(job.input) and not os.path.exists(job.input) else 0
    return name % (before + args.frames[0])
