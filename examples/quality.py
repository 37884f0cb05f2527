"""Judge the quality of clips: StarVQA on distorted stills, against always saying the mean.

python examples/quality.py                       less than a minute on two cores
python examples/quality.py --clips DIR           your own clips

A clip is a window that moves over a photograph of scikit-image. Noise, blur or the compression of JPEG is added, with a random
strength s from 0 to 1. No person judged these clips: the score to be predicted is 100 (1 - s) by definition, where the
strongest noise has a standard deviation of 0.2, the strongest blur one of 3 pixels, and the strongest compression a step of
0.1 for the lowest frequency. Every fourth still is for the test, so that what is in the pictures cannot help.

DIR holds video files, which are distorted in the same way. If there is a table scores.csv, with the columns clip (a file's
name) and score, they are not distorted and these scores are learnt. Every fifth file is for the test.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import training
from torch import Tensor
from torch.nn import functional as F

from shiftsearch.models import StarVQA

FRAMES, SIDE = 3, 64
STILLS = [
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "text",
]


class Judged(NamedTuple):
    """Clips (N, FRAMES, 3, SIDE, SIDE), their scores (N,) and the numbers (N,) of their distortions, -1 for none."""

    video: Tensor
    scores: Tensor
    kinds: Tensor


# --- distortions of a strength from 0 to 1 ----------------------------------------------------------
def noise(random: torch.Generator, clip: Tensor, strength: float) -> Tensor:
    return clip + 0.2 * strength * torch.randn(clip.shape, generator=random)


def blur(random: torch.Generator, clip: Tensor, strength: float) -> Tensor:
    sigma = 0.3 + 2.7 * strength
    kernel = torch.exp(-((torch.arange(-9, 10) / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    for along in (kernel, kernel.mT):
        above, aside = along.shape[-2] // 2, along.shape[-1] // 2
        clip = F.conv2d(F.pad(clip, (aside, aside, above, above), mode="reflect"), along, groups=3)
    return clip


def compression(random: torch.Generator, clip: Tensor, strength: float) -> Tensor:
    """Round the cosines of which blocks of 8 x 8 pixels are made, high frequencies in larger steps."""
    n = torch.arange(8.0)
    cosines = torch.cos(math.pi / 8 * (n + 0.5) * n[:, None]) / 2
    cosines[0] /= 2**0.5
    steps = 0.1 * strength * (1 + n + n[:, None]) + 1e-4
    blocks = clip.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    rounded = (cosines @ blocks @ cosines.T / steps).round() * steps
    return (cosines.T @ rounded @ cosines).transpose(-3, -2).flatten(-2).flatten(-3, -2)


DISTORTIONS: dict[str, Callable[[torch.Generator, Tensor, float], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "compression": compression,
}


# --- clips ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scenes:
    """Scenes (T, 3, H, W) of uint8, of which clips are cut, and what people think of each, or None to distort them."""

    scenes: list[Tensor]
    scores: list[float] | None = None

    def draw(self, random: torch.Generator, count: int) -> Judged:
        clips, scores, kinds = zip(*(self._one(random) for _ in range(count)), strict=True)
        return Judged(torch.stack(clips), torch.tensor(scores), torch.tensor(kinds))

    def _one(self, random: torch.Generator) -> tuple[Tensor, float, int]:
        number = below(random, len(self.scenes))
        clip = cut(random, self.scenes[number])
        if self.scores is not None:
            return clip, self.scores[number], -1
        kind, strength = below(random, len(DISTORTIONS)), torch.rand((), generator=random).item()
        distort = list(DISTORTIONS.values())[kind]
        return distort(random, clip, strength).clamp(0, 1), 100 * (1 - strength), kind


def below(random: torch.Generator, limit: int) -> int:
    return int(torch.randint(limit, (), generator=random))


def cut(random: torch.Generator, scene: Tensor) -> Tensor:
    """Return a clip of a window that moves by up to two pixels a frame, the most detailed of four."""
    dy, dx = below(random, 5) - 2, below(random, 5) - 2
    room = 2 * (FRAMES - 1)
    windows = []
    for _ in range(4):
        t = below(random, len(scene) - FRAMES + 1)
        y, x = (below(random, side - SIDE - 2 * room + 1) + room for side in scene.shape[2:])
        parts = [scene[t + n, :, y + n * dy :, x + n * dx :][:, :SIDE, :SIDE] for n in range(FRAMES)]
        windows.append(torch.stack(parts) / 255)
    return max(windows, key=lambda window: window[0].std().item())


def stills(test: bool) -> Scenes:
    """Return photographs at half of their size, which hides that some were compressed."""
    from skimage import data

    scenes = []
    for n, name in enumerate(STILLS):
        if (n % 4 == 2) == test:
            pixels = torch.from_numpy(getattr(data, name)().copy())
            pixels = pixels[..., :3].movedim(-1, 0) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
            scenes.append(F.avg_pool2d(pixels.float(), 2).round().byte().expand(FRAMES, -1, -1, -1))
    return Scenes(scenes)


def recorded(folder: Path) -> tuple[Scenes, Scenes]:
    """Return the clips of a folder: to train on and to test with."""
    files = training.videos(folder)
    scores = scores_of(folder / "scores.csv", files)
    parts = Scenes([], scores and []), Scenes([], scores and [])
    for n, file in enumerate(files):
        part = parts[n % 5 == 0]
        scenes = training.clips_of(file, FRAMES, 4 * SIDE)
        part.scenes.extend(scenes)
        if scores is not None:
            part.scores.extend(len(scenes) * [scores[n]])
    if not all(part.scenes for part in parts):
        raise SystemExit(f"{folder} has {len(files)} videos, expected at least two of {FRAMES} frames")
    return parts


def scores_of(path: Path, files: list[Path]) -> list[float] | None:
    """Return the scores of files, or None if there is no table of them."""
    if not path.exists():
        return None
    scores = {row["clip"]: row["score"] for row in training.rows(path, clip=str, score=float)}
    missing = [file.name for file in files if file.name not in scores]
    if missing:
        raise SystemExit(f"{path} has no score of {', '.join(missing)}")
    return [scores[file.name] for file in files]


# --- the network ------------------------------------------------------------------------------------
def seen(video: Tensor) -> Tensor:
    """Return what the network is given of each frame: brightness, and the logarithms of fine and of coarse detail."""
    grey = video.mean(2)
    fine, coarse = grey - mean_around(grey, 3), mean_around(grey, 3) - mean_around(grey, 9)
    return torch.stack((2 * grey - 1, *((detail.abs() + 1e-3).log10() + 2 for detail in (fine, coarse))), 2)


def mean_around(grey: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(F.pad(grey, 4 * [side // 2], mode="replicate"), side, 1)


def network_of(scores: tuple[float, float]) -> StarVQA:
    return StarVQA(FRAMES, size=SIDE, patch=16, dim=64, depth=2, heads=4, drop_path=0.0, scores=scores)


# --- training and its result ------------------------------------------------------------------------
@torch.no_grad()
def judged(network: StarVQA, video: Tensor, device: torch.device) -> Tensor:
    return torch.cat([network.score(seen(part.to(device))).cpu() for part in video.split(100)])


def ranks(x: Tensor) -> Tensor:
    """Return the place of each in order, equal ones at the mean of theirs."""
    return (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2


def correlation(x: Tensor, y: Tensor) -> float:
    """Return Pearson's correlation (PLCC); that of ranks is Spearman's (SROCC)."""
    return torch.corrcoef(torch.stack((x.double(), y.double())))[0, 1].item()


def agreement(found: Tensor, held: Judged) -> dict[str, float]:
    of_ranks = {"SROCC": (ranks(found), ranks(held.scores)), "PLCC": (found, held.scores)}
    values = {name: correlation(*both) for name, both in of_ranks.items()}
    for n, name in enumerate(DISTORTIONS):
        if (own := held.kinds == n).sum() > 1:
            values[f"SROCC of {name}"] = correlation(ranks(found[own]), ranks(held.scores[own]))
    return values


def compare(given: argparse.Namespace) -> dict[str, float]:
    """Train with one seed and return how the scores of the network agree with the true ones."""
    learnt, kept = recorded(given.clips) if given.clips else (stills(False), stills(True))
    scores = (min(learnt.scores), max(learnt.scores)) if learnt.scores else (0, 100)
    held = kept.draw(torch.Generator().manual_seed(-1 - given.seed), given.test)
    torch.manual_seed(given.seed)
    network = network_of(scores).to(given.device)

    def loss_of(network: StarVQA, random: torch.Generator) -> Tensor:
        video, scores, _ = (part.to(given.device) for part in learnt.draw(random, given.batch))
        return network.codebook.loss(network(seen(video)), scores)

    training.train(f"star-vqa-{given.seed}", network, loss_of, given, training.Recipe(rate=2e-3))
    found = judged(network, held.video, given.device)
    mean = torch.tensor(learnt.scores).mean() if learnt.scores else 50
    errors = {"error": (found - held.scores), "error of the mean": mean - held.scores}
    return {**agreement(found, held), **{name: each.square().mean().sqrt().item() for name, each in errors.items()}}


def table(result: dict) -> str:
    """Return a result as Markdown."""
    found = result["agreement"]
    mean = {name: sum(each) / len(each) for name, each in found.items()}
    worst = {name: max(each) if name.startswith("error") else min(each) for name, each in found.items()}
    columns = [name for name in found if name.startswith("SROCC")] + ["PLCC"]
    lines = [
        f"| quality of clips of unseen stills | {' | '.join(columns)} | RMSE |",
        "| --- |" + " ---: |" * (len(columns) + 1),
    ]
    lines.append(f"| always the mean |{' none |' * len(columns)} {mean['error of the mean']:.1f} |")
    for name, values in {f"StarVQA, mean of {len(found['PLCC'])}": mean, "the worst of each": worst}.items():
        lines.append(
            f"| {name} | {' | '.join(f'{values[column]:.2f}' for column in columns)} | {values['error']:.1f} |"
        )
    return "\n".join(lines)


def setting(arguments: list[str] | None) -> argparse.Namespace:
    parser = training.options(__doc__, steps=600, clips="train on the clips in this folder, and on its scores.csv")
    parser.add_argument("--test", type=training.positive(int), default=400, help="clips to test with (default: 400)")
    parser.set_defaults(batch=16)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict:
    given = setting(arguments)
    found = [compare(one) for one in training.each_seed(given)]
    result = {
        "agreement": {name: [one[name] for one in found] for name in found[0]},
        "parameters": sum(p.numel() for p in network_of((0, 100)).parameters()),
        **training.budget(given),
        "stills of the test": STILLS[2::4],
        "machine": training.machine(given.device),
    }
    print(table(result))
    training.write(given.out, result)
    return result


if __name__ == "__main__":
    training.run(main)
