"""What the examples that train have in common: options, clips from a folder, training that may be interrupted, results.

Each step of training draws its clips by a generator that is seeded with the number of the step, so that training that was
interrupted goes on as if it had not been. It needs torch and tqdm, and PyAV for clips from a folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io


# --- options ----------------------------------------------------------------------------------------
def options(about: str | None, steps: int, clips: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all examples have; `clips` says what a folder of clips holds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=positive(int), default=steps, help=f"of training (default: {steps})")
    budget.add_argument("--minutes", type=positive(float), help="of training, in place of a number of steps")
    parser.add_argument("--batch", type=positive(int), default=32, help="clips of a step (default: 32)")
    parser.add_argument("--clips", type=Path, metavar="DIR", help=clips)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="keep training here, and go on from what is here"
    )
    parser.add_argument("--save-every", type=positive(int), default=50, metavar="STEPS")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=positive(int), default=1, help="trainings, each with the next seed (default: 1)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the result here")
    return parser


def each_seed(given: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the options of each training."""
    return (argparse.Namespace(**{**vars(given), "seed": given.seed + n}) for n in range(given.seeds))


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return what reads a number above 0."""

    def read(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise ValueError(text)
        return value

    read.__name__ = f"positive {kind.__name__}"  # argparse shows it
    return read


# --- training ---------------------------------------------------------------------------------------
class Trained(NamedTuple):
    """What training took, interruptions left out."""

    steps: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, its rate first rising, then falling to 0 along a cosine."""

    rate: float = 1e-3
    warm_up: float = 0.1  # share of the training in which the rate rises
    decay: float = 0.05
    clip: float = 1.0  # the most that the norm of a gradient is

    def rate_at(self, share: float) -> float:
        """Return the rate after this share of the training."""
        if share < self.warm_up:
            return self.rate * (share + 0.01) / (self.warm_up + 0.01)
        return self.rate * 0.5 * (1 + math.cos(math.pi * (share - self.warm_up) / (1 - self.warm_up)))


def train(
    name: str,
    network: nn.Module,
    loss_of: Callable[[nn.Module, Any], Tensor],
    given: argparse.Namespace,
    recipe: Recipe = Recipe(),
    prepared: Callable[[Iterable[int]], Iterable[Any]] | None = None,
) -> Trained:
    """Train a network, and leave it ready to be tested.

    Args:
        name: of the checkpoint, and before the bar that shows progress
        network: on its device; it is changed
        loss_of: the loss of the network on a batch that it draws by the generator
        given: what the parser of `options` returned
        recipe: rates and their like
        prepared: batches, given the seeds of the steps, in place of generators: they may be prepared in advance
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    kept = Checkpoint(name, network, optimizer, given, recipe)
    done = kept.load()
    network.train()
    seeds = (given.seed * 1_000_003 + step for step in count(done.steps))
    batches = iter(map(torch.Generator().manual_seed, seeds) if prepared is None else prepared(seeds))
    with tqdm(
        total=given.steps if given.minutes is None else None, initial=done.steps, desc=name, mininterval=1
    ) as bar:
        while (share := _share(done, given)) < 1:
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at(share)
            batch = next(batches)
            torch.manual_seed(given.seed * 1_000_003 + done.steps)  # of dropout
            loss = _step(network, optimizer, loss_of, batch, recipe.clip)
            done = Trained(done.steps + 1, done.seconds + time.perf_counter() - start, loss)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if done.steps % given.save_every == 0 or _share(done, given) >= 1:
                kept.save(done)
    network.eval()
    return done


def _share(done: Trained, given: argparse.Namespace) -> float:
    """Return how much of the training is done."""
    return done.steps / given.steps if given.minutes is None else done.seconds / (60 * given.minutes)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable, batch: Any, clip: float) -> float:
    loss = loss_of(network, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    return loss.item()


class Checkpoint:
    """The state of a training in a file, or nowhere if no folder is given."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        given: argparse.Namespace,
        recipe: Recipe,
    ) -> None:
        self.parts = {"network": network, "optimizer": optimizer}
        self.path = given.checkpoint and given.checkpoint / f"{name.replace(' ', '-')}.pt"
        budget = {name: getattr(given, name) for name in ("steps", "minutes", "batch", "seed")}
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self.setting = {**budget, "clips": str(given.clips), "recipe": vars(recipe), "shapes": shapes}

    def load(self) -> Trained:
        """Go on from the file, if there is one, and return how far it is."""
        if self.path is None or not self.path.exists():
            return Trained(0, 0.0, math.nan)
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["setting"] != self.setting:
            raise SystemExit(f"{self.path} was written with other settings: choose another --checkpoint, or delete it")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return Trained(*state["done"])

    def save(self, done: Trained) -> None:
        if self.path is not None:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            save(self.path, {"setting": self.setting, "done": tuple(done), **states})


def save(path: Path, state: Any) -> None:
    """Save a checkpoint as a whole, or not at all if it is interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


# --- results ----------------------------------------------------------------------------------------
def machine(device: torch.device) -> dict[str, Any]:
    """Return what results depend on beside the settings."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def budget(given: argparse.Namespace) -> dict[str, Any]:
    """Return how long training was to take, in steps or minutes."""
    return {"steps": given.steps} if given.minutes is None else {"minutes": given.minutes}


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON, if a file is asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


# --- clips ------------------------------------------------------------------------------------------
ENDINGS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".y4m", ".gif", ".ts", ".wmv", ".ogv"}


def run(main: Callable[[], Any]) -> None:
    """Run an example, which ends with one line if its clips cannot be read."""
    try:
        main()
    except ShiftsearchError as error:
        raise SystemExit(str(error)) from None


def rows(path: Path, **columns: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Return the rows of a CSV file that has these columns, each value read by the function of its column."""
    expected = f"expected a table with the columns {', '.join(columns)}"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [{name: read(row[name]) for name, read in columns.items()} for row in csv.DictReader(file)]
    except OSError:
        raise SystemExit(f"{path} cannot be read: {expected}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise SystemExit(f"{path}: {expected}; {error!r}") from None
    if not found:
        raise SystemExit(f"{path} has no rows: {expected}")
    return found


def videos(folder: Path) -> list[Path]:
    """Return the video files directly in a folder."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def clips_of(path: Path, frames: int, size: int) -> Tensor:
    """Return the clips (N, frames, 3, size, size) of uint8 into which a video falls: the middle square of its frames.

    What is left at the end is left out; a video that is too short has no clip.
    """
    found = []
    with io.read(path) as video:
        pictures = iter(video)
        while len(part := [small(frame, size) for frame in islice(pictures, frames)]) == frames:
            found.append(torch.stack(part))
    return torch.stack(found) if found else torch.zeros(0, frames, 3, size, size, dtype=torch.uint8)


def small(frame: Any, size: int) -> Tensor:
    """Return the middle square (3, size, size) of a frame, uint8, whatever its depth and colours."""
    picture = torch.from_numpy(frame.astype("float32") / (257 if frame.dtype.itemsize == 2 else 1))
    picture = picture.movedim(-1, 0) if picture.ndim == 3 else picture.expand(3, -1, -1)
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[None, :, top : top + side, left : left + side]
    return F.interpolate(square, (size, size), mode="bilinear", antialias=True)[0].round().byte()


@dataclass(frozen=True)
class Clips:
    """Clips (N, T, 3, H, W) of uint8 and the numbers of their classes."""

    clips: Tensor
    labels: Tensor

    def draw(self, random: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Return clips from 0 to 1, and their classes."""
        chosen = torch.randint(len(self.clips), (count,), generator=random)
        return self.clips[chosen] / 255, self.labels[chosen]


def folder_of_clips(folder: Path, frames: int, size: int) -> tuple[list[str], Clips, Clips]:
    """Return the names of classes, one for each sub-folder, clips to train on and clips to test with.

    Every fifth file of a class is for the test, and at least one: clips of one file are too much alike to be in both.
    """
    classes = classes_of(folder)
    parts: tuple[list[Clips], list[Clips]] = [], []
    for label, path in enumerate(classes):
        for part, files in zip(parts, split(path), strict=True):
            part.append(_read(files, label, frames, size))
    learnt, held = (Clips(*map(torch.cat, zip(*((p.clips, p.labels) for p in part), strict=True))) for part in parts)
    return [path.name for path in classes], learnt, held


def classes_of(folder: Path) -> list[Path]:
    """Return the sub-folders, one for each class."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(classes) < 2:
        raise SystemExit(f"{folder} has {len(classes)} sub-folders, expected one for each of at least two classes")
    return classes


def split(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the videos of a class: to train on, and to test with."""
    files = videos(folder)
    if len(files) < 2:
        raise SystemExit(f"{folder} has {len(files)} videos, expected at least two: one to train on, one to test with")
    held = set(files[::5])
    return [file for file in files if file not in held], sorted(held)


def _read(files: list[Path], label: int, frames: int, size: int) -> Clips:
    try:
        clips = torch.cat([clips_of(file, frames, size) for file in tqdm(files, files[0].parent.name, leave=False)])
    except ShiftsearchError as error:
        raise SystemExit(str(error)) from None
    if not len(clips):
        raise SystemExit(f"{files[0].parent}: no video of {', '.join(f.name for f in files)} has {frames} frames")
    return Clips(clips, torch.full((len(clips),), label))
