"""Find where and when a clip shows what it sounds like: audio-visual attention on planted cues.

python examples/where_and_when.py                less than a minute on two cores
python examples/where_and_when.py --clips DIR    your own clips, with sound

In a generated clip four squares light up, each for half a second, and three tones sound. Every colour has its own tone. The
class is the colour of the square that is lit while its tone sounds, or "none". The other tones sound at the wrong time, so
that neither sound nor sight alone tells the class. The network learns from the classes only, and is tested on where it
looks: in the pointing game, its largest weight must lie on that square while it is lit. In the deletion test, pixels are
deleted in the order of their weights: the probability of the class must fall faster than with a random order.

DIR holds a folder for each class, with video files that have sound. Where their cues are is not known: the pointing game is
left out. Every fifth file of a class is for the test.
"""

from __future__ import annotations

import argparse
import math
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import training
from torch import Tensor, nn
from torch.nn import functional as F

from shiftsearch.models import AudioVisualAttention, Explanation
from shiftsearch.video import io

FRAMES, SIDE, SQUARE = 8, 36, 10  # the last two in pixels
RATE, SAMPLES = 4, 1000  # frames of a second, samples of the sound of a frame
BIN, SILENCE = 125, 0.01  # samples of a bin of sound, and the level below which it is silent
COLOURS = torch.tensor([[1, 0.1, 0.1], [0.1, 1, 0.1], [0.2, 0.2, 1], [1, 1, 0.1], [1, 0.1, 1], [0.1, 1, 1]])
NONE = len(COLOURS)  # the class of clips without a cue
PITCHES = 250 * 2 ** (torch.arange(NONE) / 2)  # in Hz
SCALE = 3  # of the picture
DELETED = (0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)  # shares of the pixels


class Heard(NamedTuple):
    """Clips (N, FRAMES, 3, SIDE, SIDE), their sound (N, samples), their classes (N,), and which pixels are the cue."""

    video: Tensor
    sound: Tensor
    classes: Tensor
    cue: Tensor | None


# --- generated clips --------------------------------------------------------------------------------
def below(random: torch.Generator, limit: int) -> int:
    return int(torch.randint(limit, (), generator=random))


def planted(random: torch.Generator) -> tuple[Tensor, Tensor, int, Tensor]:
    """Return video, sound, class and cue of a clip."""
    coarse = torch.rand(1, 3, 5, 5, generator=random)
    video = (0.35 + 0.3 * F.interpolate(coarse, size=SIDE, mode="bilinear")).repeat(FRAMES, 1, 1, 1)
    sound, cue = torch.zeros(FRAMES, SAMPLES), torch.zeros(FRAMES, SIDE, SIDE, dtype=torch.bool)
    colours, places = (torch.randperm(n, generator=random)[:4].tolist() for n in (NONE, 9))
    agrees = below(random, NONE + 1) < NONE
    for n, (colour, place) in enumerate(zip(colours, places, strict=True)):
        half = below(random, 4)
        lit = slice(2 * half, 2 * half + 2)
        top, left = (12 * at + below(random, 3) for at in divmod(place, 3))
        here = lit, slice(top, top + SQUARE), slice(left, left + SQUARE)
        video.movedim(1, -1)[here] = COLOURS[colour]
        is_cue = n == 0 and agrees
        cue[here] |= is_cue
        if n < 3:
            other = half if is_cue else (half + 1 + below(random, 3)) % 4
            sound[2 * other : 2 * other + 2] += tone(random, colour)
    video = (video + 0.03 * torch.randn(video.shape, generator=random)).clamp(0, 1)
    hiss = 0.002 * torch.randn(sound.numel(), generator=random)
    return video, sound.flatten() + hiss, colours[0] if agrees else NONE, cue


def tone(random: torch.Generator, colour: int) -> Tensor:
    """Return the tone of a colour for two frames."""
    seconds = torch.arange(2 * SAMPLES) / (RATE * SAMPLES)
    phase = torch.rand((), generator=random)
    return 0.3 * torch.sin(2 * math.pi * (PITCHES[colour] * seconds + phase)).view(2, SAMPLES)


class Generated:
    names = "red", "green", "blue", "yellow", "magenta", "cyan", "none"

    def draw(self, random: torch.Generator, count: int) -> Heard:
        video, sound, classes, cue = zip(*(planted(random) for _ in range(count)), strict=True)
        return Heard(torch.stack(video), torch.stack(sound), torch.tensor(classes), torch.stack(cue))


# --- clips of a folder ------------------------------------------------------------------------------
class Recorded(NamedTuple):
    """All clips of some files, video as uint8."""

    names: tuple[str, ...]
    video: Tensor
    sound: Tensor
    classes: Tensor

    def draw(self, random: torch.Generator, count: int) -> Heard:
        return self.take(torch.randint(len(self.video), (count,), generator=random))

    def take(self, chosen: Tensor | slice) -> Heard:
        return Heard(self.video[chosen] / 255, self.sound[chosen], self.classes[chosen], None)


def recorded(folder: Path) -> tuple[Recorded, Recorded]:
    """Return the clips of a folder: to train on and to test with."""
    classes = training.classes_of(folder)
    found: tuple[list, list] = [], []
    for label, path in enumerate(classes):
        for part, files in zip(found, training.split(path), strict=True):
            for file in files:
                video, sound = pieces(file)
                part.append((video, sound, torch.full((len(video),), label)))
    return tuple(
        Recorded(tuple(path.name for path in classes), *map(torch.cat, zip(*part, strict=True))) for part in found
    )


def pieces(path: Path) -> tuple[Tensor, Tensor]:
    """Return the clips into which a file falls, (N, FRAMES, 3, SIDE, SIDE) of uint8, and the sound of each."""
    with io.read(path) as video:
        frames = islice(video, 0, None, max(round(video.rate / RATE), 1))
        small = torch.stack([training.small(frame, SIDE) for frame in frames])
    count = len(small) // FRAMES
    length = FRAMES * SAMPLES
    sound = torch.from_numpy(sound_of(path))[: count * length]
    sound = F.pad(sound, (0, count * length - len(sound)))  # silence, where there is no more
    return small[: count * FRAMES].unflatten(0, (count, FRAMES)), sound.view(count, length)


def sound_of(path: Path) -> np.ndarray:
    import av

    with av.open(str(path)) as file:
        if not file.streams.audio:
            raise SystemExit(f"{path} has no sound")
        resampler = av.AudioResampler("flt", "mono", RATE * SAMPLES)
        parts = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate([part.to_ndarray()[0] for part in (*parts, *resampler.resample(None))])


# --- the network ------------------------------------------------------------------------------------
class Network(nn.Module):
    """Small convolutions that see, a linear layer that hears a spectrum, and attention between them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(3, 24, 4, 4), nn.GELU(), nn.Conv2d(24, 48, 1), nn.GELU())
        self.ear = nn.Sequential(nn.Linear(65, 48), nn.GELU())
        self.attention = AudioVisualAttention(48, 48, classes, dim=48, heads=4)

    def forward(self, video: Tensor, sound: Tensor) -> Explanation:
        seen = self.eye(2 * video.flatten(0, 1) - 1).unflatten(0, video.shape[:2])
        heard = self.ear((spectrum(sound) + 0.01).log())
        level = sound.unflatten(1, (-1, BIN)).square().mean(2).sqrt()
        return self.attention(seen, heard, level > SILENCE)


def spectrum(sound: Tensor) -> Tensor:
    """Return how strong each frequency is in each bin, (N, bins, 65)."""
    window = torch.hann_window(128, device=sound.device)
    return torch.stft(sound, 128, BIN, window=window, return_complex=True).abs()[..., :-1].mT


# --- what is measured -------------------------------------------------------------------------------
def pointing(found: Explanation, cue: Tensor) -> float:
    """Return how often the largest evidence is on the cue, in clips that have one."""
    largest = found.enlarged(SIDE, SIDE).flatten(1).argmax(1, keepdim=True)
    return cue.flatten(1).gather(1, largest)[cue.flatten(1).any(1)].double().mean().item()


def deletion(network: Network, held: Heard, order: Tensor) -> list[float]:
    """Return the probability of the class after each share of the pixels is deleted, those first that are largest in `order`."""
    mean = held.video.mean((1, 3, 4), keepdim=True)
    ranks = order.flatten(1).argsort(1, descending=True).argsort(1).view_as(order) / order[0].numel()
    curve = []
    for share in DELETED:
        left = torch.where((ranks < share)[:, :, None], mean, held.video)
        probabilities = network(left, held.sound).joint.softmax(1)
        curve.append(probabilities.gather(1, held.classes[:, None]).double().mean().item())
    return curve


@torch.no_grad()
def measure(network: Network, held: Heard, seed: int) -> dict[str, float | list[float]]:
    found = network(held.video, held.sound)
    random = torch.rand(found.evidence.shape, generator=torch.Generator().manual_seed(seed)).to(found.evidence)
    orders = {"evidence": found, "random": found._replace(evidence=random)}
    curves = {name: deletion(network, held, order.enlarged(SIDE, SIDE)) for name, order in orders.items()}
    values: dict[str, float | list[float]] = {
        "accuracy": (found.joint.argmax(1) == held.classes).double().mean().item(),
        **{
            f"deletion, {name}": torch.trapezoid(torch.tensor(curve), torch.tensor(DELETED)).item()
            for name, curve in curves.items()
        },
        **{f"curve, {name}": curve for name, curve in curves.items()},
    }
    return values if held.cue is None else {"pointing game": pointing(found, held.cue), **values}


# --- the picture ------------------------------------------------------------------------------------
def picture(network: Network, held: Heard, curves: dict[str, list[float]], path: Path) -> None:
    """Draw the sound, the frames and the evidence of a clip whose cue is framed, and the curves of deletion."""
    import cv2

    with torch.no_grad():
        weights = network(held.video, held.sound).enlarged(SCALE * SIDE, SCALE * SIDE)[0].numpy()
    frames = (255 * held.video[0].movedim(1, -1)).byte().numpy().repeat(SCALE, 1).repeat(SCALE, 2)
    share = (weights / weights.max())[..., None]
    shown = (frames * 0.3 * (1 - share) + share * np.array([255, 255, 255])).astype(np.uint8)
    for frame, cue in zip(shown, held.cue[0].numpy().repeat(SCALE, 1).repeat(SCALE, 2), strict=True):
        outside = cv2.dilate(cue.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~cue
        frame[outside] = 255, 160, 0
    rows = {"sound": coloured(held.sound), "frames": strip(frames), "evidence": strip(shown)}
    lines = [np.concatenate((titled(name, len(row)), row, blank(len(row), 12)), 1) for name, row in rows.items()]
    left = np.concatenate([part for line in lines for part in (line, blank(8, line.shape[1]))])
    whole = np.concatenate((left, plot(curves, len(left))), 1)
    cv2.imwrite(str(path), whole[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def strip(frames: np.ndarray) -> np.ndarray:
    """Return frames side by side."""
    return np.concatenate([np.pad(frame, ((0, 0), (1, 1), (0, 0)), constant_values=255) for frame in frames], 1)


def titled(words: str, height: int) -> np.ndarray:
    import cv2

    return cv2.putText(blank(height, 84), words, (6, height // 2 + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, 16)


def coloured(sound: Tensor) -> np.ndarray:
    """Return the spectrum of sound, low tones below, each in the colour that it belongs to."""
    strength = spectrum(sound)[0].T[4:54].flip(0)
    pitches = torch.arange(53, 3, -1) * RATE * SAMPLES / 128
    nearest = (pitches[:, None] / PITCHES).log().abs().argmin(1)
    shown = (255 * COLOURS[nearest][:, None] * (strength / strength.max()).sqrt()[..., None]).byte().numpy()
    width = (SCALE * SIDE + 2) * FRAMES
    return shown.repeat(2, 0)[:, np.arange(width) * strength.shape[1] // width]


def plot(curves: dict[str, list[float]], height: int) -> np.ndarray:
    """Draw the probability of the class over the share of the pixels that is deleted."""
    import cv2

    drawn, width, side = blank(height, 300), 300, 210
    low, left = height - 46, 52

    def write(words: str, x: int, y: int, colour: tuple[int, ...] = (0, 0, 0)) -> None:
        cv2.putText(drawn, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

    cv2.rectangle(drawn, (left, low - side), (left + side, low), (120, 120, 120), 1)
    for n, (name, curve) in enumerate(curves.items()):
        colour = ((220, 90, 0), (90, 90, 90))[n]
        points = [(round(left + side * x), round(low - side * y)) for x, y in zip(DELETED, curve, strict=True)]
        cv2.polylines(drawn, [np.array(points)], False, colour, 2, cv2.LINE_AA)
        write(f"order: {name}", left + 24, low - side // 2 + 18 * n, colour)
    write("probability of the class", left, low - side - 10)
    write("1", left - 14, low - side + 8)
    write("0", left - 14, low)
    write("0 %", left, low + 18)
    write("100 %", width - 60, low + 18)
    write("of the pixels deleted", left + 30, low + 36)
    return drawn


# --- training and its result ------------------------------------------------------------------------
def compare(given: argparse.Namespace, drawn: Path | None) -> dict[str, float | list[float]]:
    """Train with one seed, return what is measured, and draw a picture if a file is given for it."""
    if given.clips:
        learnt, kept = recorded(given.clips)
        held = kept.take(slice(None))
    else:
        learnt = Generated()
        held = learnt.draw(torch.Generator().manual_seed(-1 - given.seed), given.test)
    torch.manual_seed(given.seed)
    network = Network(len(learnt.names)).to(given.device)

    def loss_of(network: Network, random: torch.Generator) -> Tensor:
        video, sound, classes, _ = learnt.draw(random, given.batch)
        found = network(video.to(given.device), sound.to(given.device))
        return network.attention.loss(found, classes.to(given.device))

    training.train(f"where-and-when-{given.seed}", network, loss_of, given, training.Recipe(rate=5e-3))
    network.cpu()
    values = measure(network, held, given.seed)
    if drawn is not None and held.cue is not None:
        first = int(held.cue.flatten(1).any(1).int().argmax())
        one = Heard(*(part[first : first + 1] for part in held))
        picture(network, one, {name: values[f"curve, {name}"] for name in ("evidence", "random")}, drawn)
    return values


def table(result: dict) -> str:
    """Return a result as Markdown."""
    found = result["found"]
    rows = [("class", found["accuracy"], 1 / result["classes"])]
    if "pointing game" in found:
        rows.append(("pointing game: the cue is hit", found["pointing game"], 2 * SQUARE**2 / (FRAMES * SIDE**2)))
    lines = [f"| planted cues, held-out clips | mean of {len(found['accuracy'])} | worst | at random |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, each, chance in rows:
        lines.append(f"| {name} | {100 * np.mean(each):.1f} % | {100 * min(each):.1f} % | {100 * chance:.1f} % |")
    areas, random = found["deletion, evidence"], found["deletion, random"]
    lines.append(f"| area under the deletion curve | {np.mean(areas):.2f} | {max(areas):.2f} | {np.mean(random):.2f} |")
    return "\n".join(lines)


def setting(arguments: list[str] | None) -> argparse.Namespace:
    parser = training.options(__doc__, steps=500, clips="train on the clips in this folder, which have sound")
    parser.add_argument("--test", type=training.positive(int), default=300, help="clips to test with (default: 300)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw a clip of the test here")
    parser.set_defaults(batch=16)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict:
    given = setting(arguments)
    found = [compare(one, given.picture if one.seed == given.seed else None) for one in training.each_seed(given)]
    classes = len(training.classes_of(given.clips)) if given.clips else len(Generated.names)
    result = {
        "found": {name: [one[name] for one in found] for name in found[0]},
        "deleted": DELETED,
        "classes": classes,
        "parameters": sum(p.numel() for p in Network(classes).parameters()),
        **training.budget(given),
        "machine": training.machine(given.device),
    }
    print(table(result))
    training.write(given.out, result)
    return result


if __name__ == "__main__":
    training.run(main)
