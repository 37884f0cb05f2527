"""Which videos to make: each is a job, and the file beside its output tells how far it is."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import shiftsearch
from shiftsearch.batch import storage
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.cli.several import ENDINGS

_BESIDE = ("preview", "mask")  # options that name a further output
_FREE = {"device", "quiet", "threads", "verbose", *_BESIDE}  # options on which no frame depends

Part = tuple[int, int]  # first and end of its frames


@dataclass(frozen=True)
class Job:
    """A video to make.

    Attributes:
        source: the name of the video to take
        stamp: what tells its contents from others
        output: the name of the video to make
        command: whose work it is: "denoise" or "align"
        options: those of that command, by the names that argparse has for them
        size: the most frames of a part
    """

    source: str
    stamp: str
    output: str
    command: str
    options: dict[str, Any]
    size: int

    @property
    def key(self) -> str:
        """What the result follows from: another source or other options have another key."""
        options = {name: value for name, value in self.options.items() if name not in _FREE}
        flow = storage.stamp(self.options["flow"]) if str(self.options["flow"]).endswith(".npy") else None
        return _digest([self.stamp, self.command, sorted(self.outputs), options, flow])

    @property
    def outputs(self) -> dict[str, str]:
        """The names of all files to make, by the option that names them."""
        more = {option: self.options.get(option) for option in _BESIDE}
        return {"output": self.output} | {option: name for option, name in more.items() if name is not None}

    @property
    def folder(self) -> str:
        """Where the parts are until they are joined."""
        return f"{self.output}.parts"

    def part(self, part: Part) -> str:
        """Return the name of a part. Another version of this package, or another device, may compute others."""
        key = _digest([self.key, shiftsearch.__version__, self.options["device"]])
        return f"{self.folder}/{key}-{part[0]:08}-{part[1]:08}.mkv"

    def arguments(self, **changes: Any) -> Namespace:
        """Return what the command takes, with changes."""
        return Namespace(**{**self.options, "command": "batch", "quiet": True, "verbose": False, **changes})


@dataclass(frozen=True)
class State:
    """How far a job is, as it is written beside the output.

    Attributes:
        key: of the job
        version: of this package
        parts: what is computed one by one
        written: stamps of the outputs, by option; nothing before they are there
        broken: whether the source is broken, and the output ends there
        said: remarks on the source and the output
    """

    key: str
    version: str
    parts: list[Part]
    written: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> State | None:
        """Read the state of a job, or return None if there is none that can be read."""
        try:
            found = json.loads(storage.text(_state(job)) or "null")
            return found and cls(**{**found, "parts": [(first, end) for first, end in found["parts"]]})
        except (ValueError, TypeError, KeyError):
            return None

    def save(self, job: Job) -> None:
        """Write the state beside the output of a job."""
        storage.write(_state(job), json.dumps(asdict(self), indent=1))

    def planned(self, job: Job) -> bool:
        """Return whether the parts are those of this job as it is now."""
        sizes = [end - first for first, end in self.parts]
        return (self.key, self.version) == (job.key, shiftsearch.__version__) and max(sizes) <= job.size


def look(job: Job, overwrite: bool) -> State | str | None:
    """Return the state of a job if it is finished, an error if its outputs are not to be replaced, else None."""
    state, now = State.of(job), {option: storage.stamp(name) for option, name in job.outputs.items()}
    if state is not None and (state.key, state.written) == (job.key, now):
        storage.remove(job.folder)  # a run that was killed may have left it
        return state
    for option, stamp in now.items() if not overwrite else ():
        if stamp is not None and (state is None or state.written.get(option, stamp) != stamp):
            return f"{job.outputs[option]}: is not as batch wrote it: remove it, or add --overwrite"
    return None


def _state(job: Job) -> str:
    return f"{job.output}.batch.json"


def _digest(facts: Any) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


# --- what is there ----------------------------------------------------------------------------------
def videos(sources: Iterable[str], target: str) -> Iterator[tuple[str, str, str]]:
    """Yield for each video its name, what tells its contents from others, and its name within `target`.

    A source is a file, a folder whose videos are taken at any depth, or a pattern for files.
    """
    for source in map(storage.canonical, sources):
        stamp = storage.stamp(source)
        if stamp is not None:
            yield source, stamp, PurePosixPath(source).name
            continue
        folder, pattern = (source, "") if storage.is_folder(source) else _split(source)
        found = storage.matches(folder, pattern) if pattern else storage.stamps(folder)
        inside = target.startswith(f"{folder}/")  # results are not taken for inputs
        names = [n for n in sorted(found) if _is_video(n) and not (inside and f"{folder}/{n}".startswith(f"{target}/"))]
        if not names:
            raise ShiftsearchError(f"{source}: has no video, expected a video, a folder of videos, or a pattern")
        yield from ((f"{folder}/{name}", found[name], name) for name in names)


def _split(source: str) -> tuple[str, str]:
    """Return the folder before the first part of a name that is a pattern, and the pattern."""
    parts = source.split("/")
    first = next((n for n, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _is_video(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part.endswith(".parts") for part in path.parts)
    return not hidden and path.suffix[1:].lower() in ENDINGS
