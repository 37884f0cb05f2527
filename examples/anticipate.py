"""Predict the next action: AVT on generated sequences of actions, against the best guess from the last frame alone.

python examples/anticipate.py                    less than a minute on two cores
python examples/anticipate.py --clips DIR        your own clips

Each generated frame shows one action by its tool, a square of its own colour at a random place before a random background.
An action lasts one or two frames. A random grammar says which action follows the last two. It is made so that the last one
alone says nothing: any other action may follow it, each as often. One in ten actions is a random one, against the grammar.

DIR holds video files and actions.csv, with the columns clip (a file's name), start and stop (in seconds) and action (any
word). Frames are read once a second, and every fifth clip is for the test. See `training.py` for what else is needed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
import training
from torch import Tensor
from torch.nn import functional as F

from shiftsearch.models import AVT
from shiftsearch.video import io

ACTIONS, FRAMES, LONGEST, SURPRISES = 8, 8, 2, 0.1
TOOL = 8  # pixels
COLOURS = torch.tensor([[red, green, blue] for red in (0.0, 1) for green in (0.0, 1) for blue in (0.0, 1)])


class Sequences(NamedTuple):
    """Clips (N, T, 3, H, W), the action of each frame (N, T), -1 for none, and the action (N,) that follows."""

    video: Tensor
    past: Tensor
    future: Tensor


# --- generated sequences ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Generated:
    """Sequences by a grammar, `follows[before, last]`, seen in frames of so many pixels."""

    follows: Tensor
    side: int

    @classmethod
    def by(cls, random: torch.Generator, side: int) -> Generated:
        """Return those of a random grammar."""
        follows = torch.zeros(ACTIONS, ACTIONS, dtype=torch.long)
        for last in range(ACTIONS):
            others = [action for action in range(ACTIONS) if action != last]
            order = torch.randperm(len(others), generator=random)
            follows[others, last] = torch.tensor(others)[order]  # each other action after one of those before
        return cls(follows, side)

    def draw(self, random: torch.Generator, count: int) -> Sequences:
        past, future = self.actions(random, count)
        return Sequences(self.seen(random, past), past, future)

    def actions(self, random: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Return the action of each frame, (count, FRAMES), and the one that follows, (count,)."""
        order = [torch.randint(ACTIONS, (count,), generator=random)]
        order.append(self._another(random, order[0]))
        for _ in range(FRAMES):
            surprise = torch.rand(count, generator=random) < SURPRISES
            by_rule = self.follows[order[-2], order[-1]]
            order.append(torch.where(surprise, self._another(random, order[-1]), by_rule))
        latest = torch.stack(order[-2::-1], 1)  # first
        ends = torch.randint(1, LONGEST + 1, latest.shape, generator=random).cumsum(1)
        at = (ends[:, None] <= torch.arange(FRAMES - 1, -1, -1)[:, None]).sum(2)
        return latest.gather(1, at), order[-1]

    @staticmethod
    def _another(random: torch.Generator, action: Tensor) -> Tensor:
        return (action + torch.randint(1, ACTIONS, action.shape, generator=random)) % ACTIONS

    def seen(self, random: torch.Generator, actions: Tensor) -> Tensor:
        """Return frames that show actions."""
        count = actions.numel()
        coarse = torch.rand(count, 3, 6, 6, generator=random)
        background = 0.25 + 0.5 * F.interpolate(coarse, size=self.side, mode="bilinear")
        top, left = torch.randint(self.side - TOOL + 1, (2, count, 1, 1), generator=random)
        here = torch.arange(self.side)
        rows, columns = here[:, None] - top, here - left
        inside = (rows >= 0) & (rows < TOOL) & (columns >= 0) & (columns < TOOL)
        frames = torch.where(inside[:, None], COLOURS[actions.flatten(), :, None, None], background)
        return (frames + 0.05 * torch.randn(frames.shape, generator=random)).unflatten(0, actions.shape)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return the last action and the one that follows, of very many sequences."""
        past, future = self.actions(torch.Generator().manual_seed(0), 50_000)
        return past[:, -1], future

    def known(self, held: Sequences) -> float:
        """Return how often the grammar itself is right."""
        last = held.past[:, -1:]
        back = (held.past != last).long() * torch.arange(FRAMES)
        before = held.past.gather(1, back.argmax(1, keepdim=True))
        return (self.follows[before, last][:, 0] == held.future).double().mean().item()


# --- clips of a folder ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Recorded:
    """Sequences that end where an action begins, in clips of which each second has a frame and an action."""

    clips: list[tuple[Tensor, Tensor]]
    ends: list[tuple[int, int, int]]  # clip, frame, and the action that begins there

    def draw(self, random: torch.Generator, count: int) -> Sequences:
        chosen = torch.randint(len(self.ends), (count,), generator=random)
        return self.take([self.ends[n] for n in chosen.tolist()])

    def take(self, ends: list[tuple[int, int, int]]) -> Sequences:
        parts = [[part[end - FRAMES : end] for part in self.clips[clip]] for clip, end, _ in ends]
        video, past = map(torch.stack, zip(*parts, strict=True))
        return Sequences(video / 255, past, torch.tensor([action for *_, action in ends]))

    def pairs(self) -> tuple[Tensor, Tensor]:
        clips, frames, actions = zip(*self.ends, strict=True)
        last = [self.clips[clip][1][frame - 1] for clip, frame in zip(clips, frames, strict=True)]
        return torch.stack(last), torch.tensor(actions)


def recorded(folder: Path, side: int) -> tuple[list[str], Recorded, Recorded]:
    """Return the names of actions, and the sequences of a folder: to train on and to test with."""
    rows = training.rows(folder / "actions.csv", clip=str, start=float, stop=float, action=str)
    names = sorted({row["action"] for row in rows})
    files = sorted({row["clip"] for row in rows})
    parts = Recorded([], []), Recorded([], [])
    for n, file in enumerate(files):
        part = parts[n % 5 == 0]
        frames = a_second_each(folder / file, side)
        labels = torch.full((len(frames),), -1)
        for start, stop, action in ((row["start"], row["stop"], row["action"]) for row in rows if row["clip"] == file):
            begin, end = round(start), round(stop)
            labels[begin:end] = names.index(action)
            if FRAMES <= begin <= len(frames):
                part.ends.append((len(part.clips), begin, names.index(action)))
        part.clips.append((frames, labels))
    if not all(part.ends for part in parts):
        raise SystemExit(f"{folder}: of two clips at least, an action must begin after the first {FRAMES} seconds")
    return names, *parts


def a_second_each(path: Path, side: int) -> Tensor:
    """Return one frame of each second of a video, (N, 3, side, side) of uint8."""
    with io.read(path) as video:
        frames = islice(video, 0, None, max(round(video.rate), 1))
        return torch.stack([training.small(frame, side) for frame in frames])


# --- training and its result ------------------------------------------------------------------------
def network_of(actions: int, side: int) -> AVT:
    head = {"dim": 64, "depth": 2, "heads": 4, "positions": FRAMES, "dropout": 0.0}
    return AVT(actions, size=side, patch=8, dim=48, depth=2, heads=4, head=head, dropout=0.0)


@torch.no_grad()
def accuracy(network: AVT, held: Sequences, device: torch.device) -> float:
    parts = [network(2 * part.to(device) - 1).future.argmax(1).cpu() for part in held.video.split(100)]
    return (torch.cat(parts) == held.future).double().mean().item()


def best_guess(pairs: tuple[Tensor, Tensor], held: Sequences, actions: int) -> float:
    """Return how often it is right to name what most often follows the action of the last frame."""
    last, future = pairs
    counts = torch.zeros(actions + 1, actions)  # -1, no action, is the last row
    counts.index_put_((last, future), torch.ones(len(future)), accumulate=True)
    return (counts[held.past[:, -1]].argmax(1) == held.future).double().mean().item()


def table(result: dict) -> str:
    """Return a result as Markdown."""
    found = result["accuracy"]
    lines = [f"| next action, held-out sequences | mean of {len(found['AVT'])} | least |", "| --- | ---: | ---: |"]
    for name, each in found.items():
        lines.append(f"| {name} | {100 * sum(each) / len(each):.1f} % | {100 * min(each):.1f} % |")
    return "\n".join(lines)


def setting(arguments: list[str] | None) -> argparse.Namespace:
    parser = training.options(__doc__, steps=800, clips="train on the clips in this folder, which has actions.csv")
    parser.add_argument("--side", type=training.positive(int), default=24, help="pixels of the frames (default: 24)")
    parser.add_argument("--test", type=training.positive(int), default=1000, help="generated sequences to test with")
    return parser.parse_args(arguments)


def compare(given: argparse.Namespace) -> dict[str, float]:
    """Train with one seed and return how often each guess is right."""
    if given.clips:
        names, source, kept = recorded(given.clips, given.side)
        actions, held, known = len(names), kept.take(kept.ends), {}
    else:
        random = torch.Generator().manual_seed(given.seed)
        source = Generated.by(random, given.side)
        actions, held = ACTIONS, source.draw(random, given.test)
        known = {"the grammar itself": source.known(held)}
    torch.manual_seed(given.seed)
    network = network_of(actions, given.side).to(given.device)

    def loss_of(network: AVT, random: torch.Generator) -> Tensor:
        video, past, future = (part.to(given.device) for part in source.draw(random, given.batch))
        return sum(network.losses(network(2 * video - 1), past, future).values())

    training.train(f"avt-{given.seed}", network, loss_of, given, training.Recipe(rate=2e-3))
    guess = best_guess(source.pairs(), held, actions)
    return {"best guess from the last frame": guess, "AVT": accuracy(network, held, given.device), **known}


def main(arguments: list[str] | None = None) -> dict:
    given = setting(arguments)
    found = [compare(one) for one in training.each_seed(given)]
    result = {
        "accuracy": {name: [one[name] for one in found] for name in found[0]},
        "parameters": sum(p.numel() for p in network_of(ACTIONS, given.side).parameters()),
        **training.budget(given),
        "machine": training.machine(given.device),
    }
    print(table(result))
    training.write(given.out, result)
    return result


if __name__ == "__main__":
    training.run(main)
