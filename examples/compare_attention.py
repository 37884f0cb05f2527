"""Compare systems of attention over space and time, on clips that only their motion tells apart.

python examples/compare_attention.py                                    all systems, about a minute each on two cores
python examples/compare_attention.py --systems TimeSformer XViT --steps 1000 --device cuda
python examples/compare_attention.py --clips DIR --size 64 --frames 16  videos of your own, a sub-folder for each class
python examples/compare_attention.py --checkpoint DIR --out FILE.json   goes on from what is in DIR; writes the result

In generated clips a disc with a texture of its own moves in one of eight directions, before a background with a motion of
its own. What leaves the frame on one side comes back on the other: whichever way it moves, the disc is as likely to be
anywhere in each frame. That a single frame says nothing is tested, by a network that sees one at a time.

All networks have about a million weights, begin at random, see the same clips in the same order, and have one recipe.
`python examples/benchmarks/attention_report.py` draws the result and writes it into a page of docs.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from training import Clips, budget, each_seed, folder_of_clips, machine, options, positive, train, write

from shiftsearch import models
from shiftsearch.nn import ShiftedAttention

DIRECTIONS = torch.tensor([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])  # (y, x)


# --- clips ------------------------------------------------------------------------------------------
def texture(random: torch.Generator, count: int, size: int) -> Tensor:
    """Return images (count, 3, size, size) of noise that goes on at the opposite side."""
    coarse = F.pad(torch.randn(count, 3, size // 4, size // 4, generator=random), (1, 1, 1, 1), mode="circular")
    return F.interpolate(coarse, scale_factor=4, mode="bilinear")[..., 4:-4, 4:-4]


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Return clips (N, T, C, H, W) of images (N, C, H, W) moved by whole pixels (N, T, 2)."""
    (N, C, H, W), T = images.shape, by.shape[1]
    rows, columns = ((torch.arange(n) - by[..., axis, None]) % n for axis, n in enumerate((H, W)))
    pixels = (rows[..., :, None] * W + columns[..., None, :]).reshape(N, T, 1, H * W).expand(-1, -1, C, -1)
    return images.flatten(2)[:, None].expand(-1, T, -1, -1).gather(3, pixels).unflatten(3, (H, W))


class MovingDiscs:
    """Generated clips: a bright disc that moves in one of eight directions, before a faint background that moves, too."""

    def __init__(self, frames: int, size: int) -> None:
        self.frames, self.size = frames, size

    def draw(self, random: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Return clips (count, T, 3, H, W), and the number of their direction."""
        size, times = self.size, torch.arange(self.frames)[:, None]
        ways = torch.randint(len(DIRECTIONS), (count,), generator=random)
        start = torch.randint(size, (count, 1, 2), generator=random)
        drift = torch.randint(-2, 3, (count, 1, 2), generator=random)
        at = torch.arange(size) - size // 2
        disc = (at[:, None] ** 2 + at**2 < (size * 3 // 16) ** 2).float()
        images = torch.cat(((1.5 + 0.5 * texture(random, count, size)) * disc, disc.expand(count, 1, -1, -1)), 1)
        seen = moved(images, start + size // 8 * times * DIRECTIONS[ways][:, None])
        behind = moved(0.2 * texture(random, count, size), drift * times)
        return behind * (1 - seen[:, :, 3:]) + seen[:, :, :3], ways


# --- networks ---------------------------------------------------------------------------------------
class EachFrame(nn.Module):
    """A vision transformer that says of each frame what it shows, without having seen the others."""

    def __init__(self, classes: int, **sizes: Any) -> None:
        super().__init__()
        self.vit, self.head = models.ViT(**sizes), nn.Linear(sizes["dim"], classes)

    def forward(self, video: Tensor) -> Tensor:
        """Return logits (B, T, classes)."""
        return self.head(self.vit(video))


class WithATone(nn.Module):
    """`AudioVisualAttention` for clips without sound: it hears one tone in all of them, which says nothing.

    It takes features, not frames. Here these are two convolutions, the first of which sees two frames: what places and frames
    show is pooled in no order, so that motion has to be in the features, as it is in those of networks for video.
    """

    def __init__(self, classes: int, dim: int = 320) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv3d(3, 64, (2, 4, 4), (1, 4, 4)), nn.GELU(), nn.Conv3d(64, 128, (1, 2, 2), (1, 2, 2))
        )
        self.attention = models.AudioVisualAttention(128, 1, classes, dim=dim, heads=8)

    def forward(self, video: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        seen = self.see(video.transpose(1, 2)).transpose(1, 2)
        return self.attention(seen, seen.new_ones(*seen.shape[:2], 1)).joint


class Shifted(nn.Module):
    """A classifier of clips by shifted search: each patch attends to those most like it in the frames before and after.

    Where they lie is motion: the mean of their offsets is added to what is found there.
    """

    def __init__(self, classes: int, dim: int = 64, last: int = 192, heads: int = 4) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, dim, 4, 4), nn.GroupNorm(1, dim)
        search = {"window": 3, "topk": 1, "per_frame": True, "skip": "own_frame", "subpixel": False}
        self.attention = ShiftedAttention(dim, heads, **search)
        self.motion = nn.Conv2d(2 * heads, dim, 1)
        self.join = nn.Conv2d(dim, last, 4, 4)
        self.think = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(last), nn.Linear(last, 4 * last), nn.GELU(), nn.Linear(4 * last, last))
            for _ in range(2)
        )
        self.head = nn.Sequential(nn.LayerNorm(last), nn.Linear(last, classes))

    def forward(self, video: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        x = self.patches(video.flatten(0, 1))
        found, weights, offsets = self.attention(self.norm(x).unflatten(0, video.shape[:2]), return_attention=True)
        speed = (weights[..., None] * offsets[..., :1] * offsets[..., 1:]).sum(-2)  # (B, heads, T, h, w, 2)
        speed = speed.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)
        x = self.join(x + found.flatten(0, 1) + self.motion(speed)).flatten(2).transpose(1, 2)
        for layer in self.think:
            x = x + layer(x)
        return self.head(x.unflatten(0, video.shape[:2]).mean((1, 2)))


class System(NamedTuple):
    """A network for a number of classes, frames and pixels along a side, and the sets of logits in what it returns."""

    make: Callable[[int, int, int], nn.Module]
    logits: Callable[[Any], Iterable[Tensor]] = lambda found: [found]


def vit(size: int, depth: int) -> dict[str, Any]:
    return {"size": size, "patch": 16, "dim": 128, "depth": depth, "heads": 4, "drop_path": 0.0}


def avt_head(frames: int) -> dict[str, Any]:
    return {"dim": 128, "depth": 2, "heads": 4, "positions": max(64, frames), "dropout": 0.0}


SWIN = {"dim": 32, "depths": (2, 2, 4), "heads": (2, 4, 8), "drop_path": 0.0}

SYSTEMS = {
    "EachFrame": System(lambda classes, frames, size: EachFrame(classes, **vit(size, 4))),
    "TimeSformer": System(lambda classes, frames, size: models.TimeSformer(frames, classes=classes, **vit(size, 3))),
    "StarVQA": System(  # an anchor for each class; its vector has the probability of each
        lambda classes, frames, size: models.StarVQA(frames, anchors=range(classes), **vit(size, 3)),
        lambda vectors: [vectors.clamp_min(1e-30).log()],
    ),
    "XViT": System(
        lambda classes, frames, size: models.XViT(
            frames, classes=classes, layout="per_head", n_div=4, temporal="mean", **vit(size, 4)
        )
    ),
    "AVT": System(  # it foretells the motion of each frame, from at least two before it, and of what follows
        lambda classes, frames, size: models.AVT(classes, head=avt_head(frames), dropout=0.0, **vit(size, 2)),
        lambda found: [found.future, *found.past[:, 2:].unbind(1)],
    ),
    "VideoSwin": System(lambda classes, frames, size: models.VideoSwin(classes=classes, window=(4, 4, 4), **SWIN)),
    "SIFATransformer": System(lambda classes, frames, size: models.SIFATransformer(classes=classes, window=4, **SWIN)),
    "SIFANet": System(lambda classes, frames, size: models.SIFANet(classes=classes, width=10), tuple),
    "AudioVisualAttention": System(lambda classes, frames, size: WithATone(classes)),
    "ShiftedAttention": System(lambda classes, frames, size: Shifted(classes)),
}
AFTER_IMAGES = "temporal_fc", "between.norm", "between.conv"


@torch.no_grad()
def begun(network: nn.Module, frames: int) -> nn.Module:
    """Let all of a network begin at random, and strongly; positions in time begin as waves that pass once through a clip.

    Published networks begin with weights of images, and with nothing where images have none: positions in time, or what
    attention over time adds. From there, and with small weights everywhere, networks that know the order of frames by such
    positions only are slow to find out that it matters: they soon tell along which line the disc moves, and long not whither.
    """
    for name, part in network.named_modules():
        if name.endswith(AFTER_IMAGES):
            part.reset_parameters()
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight)
    for name, weight in network.named_parameters():
        if name.endswith(("time_embed", "temp_embed")):
            times = torch.arange(weight.numel() // weight.shape[-1])
            phases = 2 * torch.pi * (times[:, None] / frames + torch.rand(weight.shape[-1]))
            weight.copy_(phases.cos().view_as(weight))
        if name.endswith("cls_token"):
            nn.init.zeros_(weight)
        if name.endswith("positions"):
            nn.init.normal_(weight, std=0.5)
        if name.endswith("pos_embed"):
            nn.init.normal_(weight[:, 1:], std=0.5)
            nn.init.zeros_(weight[:, 0])  # of the class token
    return network


# --- measuring --------------------------------------------------------------------------------------
def error(logits: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Return the cross-entropy, summed over sets of logits (B, classes), or (B, T, classes) of single frames."""
    return sum(F.cross_entropy(each.flatten(0, -2), _of_each(each, labels).flatten()) for each in logits)


def _of_each(logits: Tensor, labels: Tensor) -> Tensor:
    return labels if logits.ndim == 2 else labels[:, None].expand(logits.shape[:2])


@torch.no_grad()
def accuracy(system: System, network: nn.Module, clips: Tensor, labels: Tensor, given: argparse.Namespace) -> float:
    """Return the share of clips that are told right, by the mean of the probabilities of all sets of logits."""
    right = []
    for part, wanted in zip(clips.split(given.batch), labels.split(given.batch), strict=True):
        found = sum(logits.softmax(-1) for logits in system.logits(network(part.to(given.device))))
        right.append((found.argmax(-1).cpu() == _of_each(found, wanted)).float().flatten())
    return torch.cat(right).mean().item()


def operations(network: nn.Module, clip: Tensor) -> int:
    """Return the operations that torch counts for a clip: two for each product that is added."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clip)
    return counter.get_total_flops()


def seconds(run: Callable[[], None], device: torch.device, repeats: int = 5) -> float:
    """Return the least time that it takes: on a GPU, or else of the CPU, whatever else this machine does."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return min(times)


def memory(run: Callable[[], None], device: torch.device) -> int | None:
    """Return the bytes that it takes beyond those in use before; None where this system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # gives back what earlier networks have left
    reset.write_text("5")
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


# --- running ----------------------------------------------------------------------------------------
def compared(name: str, given: argparse.Namespace, classes: int, learnt: Any, held: Clips) -> dict[str, Any]:
    """Train one of the systems, with each seed, and return what is found of it."""
    system, device, accuracies = SYSTEMS[name], given.device, []

    def loss_of(network: nn.Module, random: torch.Generator) -> Tensor:
        clips, labels = learnt.draw(random, given.batch)
        return error(system.logits(network(clips.to(device))), labels.to(device))

    def step() -> None:
        network.zero_grad()
        loss_of(network, torch.Generator().manual_seed(0)).backward()

    for one in each_seed(given):
        torch.manual_seed(one.seed)
        network = begun(system.make(classes, given.frames, given.size), given.frames).to(device)
        flops = operations(network.eval(), held.clips[:1].to(device))
        trained = train(f"{name} {one.seed}", network, loss_of, one)
        accuracies.append(accuracy(system, network, held.clips, held.labels, given))
    network.train()
    weights = sum(weight.numel() for weight in network.parameters())
    row = {"accuracy": sum(accuracies) / len(accuracies), "accuracies": accuracies, "steps": trained.steps}
    row |= {"weights": weights, "flops": flops}
    return {**row, "seconds_per_step": seconds(step, device), "memory": memory(step, device)}


def clips_for(given: argparse.Namespace) -> tuple[int, Any, Clips]:
    """Return the number of classes, what draws clips to train on, and the clips to test with."""
    if given.clips is None:
        learnt = MovingDiscs(given.frames, given.size)
        return (
            len(DIRECTIONS),
            learnt,
            Clips(*learnt.draw(torch.Generator().manual_seed(-1 - given.seed), given.tested)),
        )
    names, learnt, held = folder_of_clips(given.clips, given.frames, given.size)
    return len(names), learnt, Clips(held.clips / 255, held.labels)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, 300, "train on the videos here, which lie in a sub-folder for each class")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help=f"of {', '.join(SYSTEMS)}"
    )
    parser.add_argument("--frames", type=positive(int), default=8, help="of a clip, a multiple of 4 (default: 8)")
    parser.add_argument(
        "--size", type=positive(int), default=32, help="pixels along a side, a multiple of 32 (default: 32)"
    )
    parser.add_argument(
        "--tested", type=positive(int), default=1024, help="generated clips to test with (default: 1024)"
    )
    given = parser.parse_args(arguments)
    if given.frames % 4 or given.frames < 8:
        parser.error(f"--frames is {given.frames}, expected a multiple of 4, at least 8")
    if given.size % 32:
        parser.error(f"--size is {given.size}, expected a multiple of 32")
    return given


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    given = parsed(arguments)
    classes, learnt, held = clips_for(given)
    setting = {name: getattr(given, name) for name in ("batch", "frames", "size", "seed", "seeds")}
    result = {
        **budget(given),
        **setting,
        "tested": len(held.clips),
        "chance": 1 / classes,
        **machine(given.device),
        "systems": {},
    }
    for name in given.systems:
        row = result["systems"][name] = compared(name, given, classes, learnt, held)
        print(
            f"{name}: {row['accuracy']:.1%} right, {row['weights'] / 1e6:.2f} M weights, {row['flops'] / 1e6:.0f} MFLOP"
        )
        write(given.out, result)
    return result


if __name__ == "__main__":
    main()
