"""Train one denoiser five times, alike but for where it looks in neighbouring frames: does search beat prediction?

python examples/train_denoiser.py --minutes 60 --checkpoint runs/denoiser --out denoiser.jsonl         two CPU cores
python examples/train_denoiser.py --minutes 8 --size large --checkpoint runs/denoiser --out denoiser.jsonl     a GPU
python examples/train_denoiser.py --minutes 60 --clips DIR --out denoiser.jsonl            frames of your own videos

All networks have one layer of guided attention, which attends to nine points of each neighbour. All arms of a seed begin
with the same weights, and see the same clips under the same noise and the same flow, for the same number of steps. Clips
are textures, or frames of videos, that known flow bends: in training the flow given is this flow plus a smooth error, or
for every other clip what DIS measures on the noisy frames. The test is on other clips.

The number of steps is set by timing a few of them at the start. FILE gets a line of JSON for what was set, and one for each
network trained: run it again with the same FILE, and it goes on. It needs torch, tqdm and OpenCV, and PyAV for videos.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from training import Recipe, each_seed, machine, options, positive, run, small, split, train, videos

from shiftsearch import flow as measured
from shiftsearch.nn import GuidedDeformableAttention
from shiftsearch.video import io

SIGMA = 30 / 255  # of the noise
ERROR = 1.5  # standard deviation of the error of the flow in training, in pixels
ERRORS = 0.0, 1.5, 3.0  # in the test
DRIFT, BEND = 6.0, 1.5  # the motion: at most so many pixels a frame, and the standard deviation of what bends it
RECIPE = Recipe(rate=2e-3, warm_up=0.05, decay=1e-4)

_GRID = {"offsets": "search", "window": 3, "step": 1.0, "patch": 1, "compare": "keys"}  # of 9 places, the best 9
_SEARCH = {"offsets": "search", "window": 9, "step": 1.0}
ARMS: dict[str, dict[str, Any]] = {
    "fixed grid": _GRID,
    "predicted": {"offsets": "predict"},
    "searched": {**_SEARCH, "compare": "shared", "patch": 5},
    "exact flow": _GRID,
    "searched by q and k": {**_SEARCH, "compare": "keys", "patch": 1},
}
EXACT = "exact flow"
Line = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The sizes of the network and of its clips."""

    channels: int
    heads: int
    neighbours: int
    side: int  # of clips in training
    tested: tuple[int, int]  # clips of the test, and their side


SIZES = {
    "tiny": Size(4, 2, 2, 16, (2, 16)),
    "small": Size(16, 2, 2, 48, (20, 80)),
    "large": Size(64, 8, 4, 128, (40, 128)),
}


# --- clips ------------------------------------------------------------------------------------------
class Batch(NamedTuple):
    """Clips of a middle frame and its neighbours, and the flow from it to each of them in pixels."""

    clean: Tensor  # (N, 3, H, W)
    noisy: Tensor  # (N, 1 + S, 3, H, W), the middle frame first
    exact: Tensor  # (N, S, 2, H, W)
    error: Tensor  # the same shape, smooth, of standard deviation 1
    dis: Tensor  # the same shape, measured on the noisy frames

    def wrong(self, by: float) -> Tensor:
        """Return the exact flow plus so much error."""
        return self.exact + by * self.error


def texture(random: torch.Generator, size: int) -> Tensor:
    """Return an image (3, size, size): 1/f noise, half of its contrast in flat regions with sharp edges."""
    f = torch.fft.fftfreq(size)
    spectrum = (torch.hypot(f[:, None], f) + 1 / size) ** -1.8
    grey, colour = torch.randn(1, size, size, generator=random), torch.randn(3, size, size, generator=random)
    smooth = torch.fft.ifft2(torch.fft.fft2(grey + 0.3 * colour) * spectrum).real
    smooth = smooth / smooth.std()
    return (0.5 + 0.1 * smooth + 0.1 * (1.5 * smooth).round()).clamp(0, 1)


def field(random: torch.Generator, count: int, side: int, width: int) -> Tensor:
    """Return smooth fields (count, 2, side, side) of standard deviation 1, alike within some `width` pixels."""
    found = torch.randn(count, 2, side + 2 * width, side + 2 * width, generator=random)
    for _ in range(2):
        found = F.avg_pool2d(found, width + 1, 1)
    return found / found.std((1, 2, 3), keepdim=True)


def bent(random: torch.Generator, image: Tensor, side: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Return a clip (1 + S, 3, side, side) of a larger image, the middle frame first, and its exact flow (S, 2, side, side).

    Neighbours are the image, drifting; the middle frame is bent, so that its flow is known at each of its pixels.
    """
    margin = (image.shape[-1] - side) // 2
    drift = DRIFT * (2 * torch.rand(2, 1, 1, generator=random) - 1)
    bend = BEND * field(random, 1, side, 16)[0]
    rows, columns = torch.meshgrid(*2 * [torch.arange(side) + float(margin)], indexing="ij")
    middle = torch.stack((columns, rows))
    times = [t for t in range(-(neighbours // 2), neighbours // 2 + 1) if t]
    at = torch.stack([middle + bend, *(middle - t * drift for t in times)]).movedim(1, -1)
    images = image.expand(len(at), -1, -1, -1)
    clip = F.grid_sample(images, 2 * at / (image.shape[-1] - 1) - 1, mode="bicubic", align_corners=True)
    return clip.clamp(0, 1), torch.stack([bend + t * drift for t in times])


def dis(noisy: Tensor) -> Tensor:
    """Return the flow (S, 2, H, W) that OpenCV measures from the first frame of (1 + S, 3, H, W) to the others."""
    frames = noisy.movedim(1, -1).contiguous()
    return measured.dis(frames[0], frames[1:], sigma=SIGMA)


class Clips(Dataset):
    """Batches by the seed that draws them: the same on every machine, whoever prepares them."""

    def __init__(self, size: Size, count: int, side: int, stills: list[Tensor]) -> None:
        self.count, self.side, self.stills, self.neighbours = count, side, stills, size.neighbours
        self.margin = int(size.neighbours // 2 * DRIFT + 5 * BEND)

    def __getitem__(self, seed: int) -> Batch:
        random = torch.Generator().manual_seed(seed)
        clips = [bent(random, self._image(random), self.side, self.neighbours) for _ in range(self.count)]
        frames, exact = (torch.stack(part) for part in zip(*clips, strict=True))
        noisy = frames + SIGMA * torch.randn(frames.shape, generator=random)
        error = torch.stack([field(random, self.neighbours, self.side, 10) for _ in clips])
        return Batch(frames[:, 0], noisy, exact, error, torch.stack([dis(clip) for clip in noisy]))

    def _image(self, random: torch.Generator) -> Tensor:
        """Return a part of a still, or else a texture."""
        size = self.side + 2 * self.margin
        if not self.stills:
            return texture(random, size)
        still = self.stills[_below(random, len(self.stills))]
        top, left = (_below(random, length - size + 1) for length in still.shape[1:])
        part = still[:, top : top + size, left : left + size] / 255
        return part.flip(-1) if _below(random, 2) else part


def _below(random: torch.Generator, limit: int) -> int:
    return int(torch.randint(limit, (), generator=random))


def stills_of(folder: Path | None, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return a frame of every second of videos, (3, size, size) of uint8: to train on, and of other videos to test with."""
    if folder is None:
        return [], []
    learnt, held = ([still for file in files for still in _stills(file, size)] for files in split(folder))
    return learnt, held


def _stills(path: Path, size: int) -> list[Tensor]:
    with io.read(path) as video:
        return [small(frame, size) for frame in islice(video, 0, None, 25)]


def prepared(clips: Clips, workers: int, pinned: bool) -> Callable[[Iterable[int]], Iterable[Batch]]:
    """Return what yields the batches of seeds, which other processes prepare meanwhile."""
    return lambda seeds: DataLoader(clips, batch_size=None, sampler=seeds, num_workers=workers, pin_memory=pinned)


# --- the network ------------------------------------------------------------------------------------
class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Denoiser(nn.Module):
    """Features of each frame, attention of the middle frame to its neighbours, and a correction of the middle frame."""

    def __init__(self, size: Size, **offsets: Any) -> None:
        super().__init__()
        dim, wide = size.channels, size.channels * 3 // 2
        self.features = nn.Sequential(nn.Conv2d(3, dim, 3, padding=1), Residual(dim), Residual(dim))
        self.body = nn.Sequential(nn.Conv2d(2 * dim, wide, 1), *(Residual(wide) for _ in range(3)))
        self.tail = nn.Conv2d(wide, 3, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)
        # last, so that what is drawn before does not depend on it
        self.attention = GuidedDeformableAttention(dim, heads=size.heads, points=9, **offsets)

    def forward(self, noisy: Tensor, flow: Tensor) -> Tensor:
        """Return the middle frame (N, 3, H, W) of (N, 1 + S, 3, H, W), by the flow (N, S, 2, H, W)."""
        x = self.features(noisy.flatten(0, 1)).unflatten(0, noisy.shape[:2])
        found = self.attention(x[:, :1], x[:, 1:], flow[:, None])[:, 0]
        return noisy[:, 0] + self.tail(self.body(torch.cat((x[:, 0], found), 1)))


def build(arm: str, seed: int, size: Size, device: torch.device) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(size, **ARMS[arm]).to(device)


def denoised(network: nn.Module, batch: Batch, flow: Tensor) -> Tensor:
    """Return the middle frames; on a GPU what may be computed in bfloat16 is."""
    kind = flow.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        return network(batch.noisy, flow).float()


def on(device: torch.device, batch: Batch) -> Batch:
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


def loss_of(arm: str, device: torch.device) -> Callable[[nn.Module, Batch], Tensor]:
    """Return the loss of an arm: every other clip is given flow that DIS measured, unless it is given exact flow."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        batch = on(device, batch)
        flow = batch.exact if arm == EXACT else batch.wrong(ERROR)
        if arm != EXACT:
            flow[::2] = batch.dis[::2]
        return torch.sqrt((denoised(network, batch, flow) - batch.clean).square() + 1e-6).mean()

    return loss


# --- measuring --------------------------------------------------------------------------------------
@torch.no_grad()
def test(arm: str, network: nn.Module, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Return the mean PSNR by what the flow was: its error in pixels, or DIS."""
    sums: dict[str, list[float]] = {}
    for given in batches:
        batch = on(device, given)
        flows = {f"{by:g}": batch.wrong(by) for by in ERRORS} | {"DIS": batch.dis}
        for name, flow in flows.items():
            found = denoised(network, batch, batch.exact if arm == EXACT else flow).clamp(0, 1)
            squares = (found - batch.clean).square().flatten(1).mean(1)
            sums.setdefault(name, []).extend((-10 * squares.log10()).tolist())
    return {name: sum(values) / len(values) for name, values in sums.items()}


class Timing(NamedTuple):
    wall: float  # seconds of a step, its clips prepared
    busy: float  # of all threads together; on a GPU the same as wall


def timings(arms: list[str], batch: Batch, size: Size, device: torch.device, rounds: int = 8) -> dict[str, Timing]:
    """Return the least time of a step. Arms take turns, so that other work of the machine disturbs all alike."""
    networks = {arm: build(arm, 0, size, device) for arm in arms}
    optimizers = {arm: torch.optim.AdamW(network.parameters()) for arm, network in networks.items()}
    found: dict[str, list[Timing]] = {arm: [] for arm in arms}
    for _ in range(rounds + 1):
        for arm, network in networks.items():
            wall, busy = time.perf_counter(), time.process_time()
            optimizers[arm].zero_grad()
            loss = loss_of(arm, device)(network, batch)
            loss.backward()
            optimizers[arm].step()
            loss.item()  # waits for a GPU
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            found[arm].append(Timing(wall, wall if device.type == "cuda" else busy))
    return {arm: Timing(*map(min, zip(*taken[1:], strict=True))) for arm, taken in found.items()}


def steps_for(given: argparse.Namespace, taken: dict[str, Timing], preparing: float) -> int:
    """Return how many steps each training may take. A tenth of the time is for the tests."""
    if given.minutes is None:
        return given.steps
    waiting = preparing / max(given.workers, 1)
    one_of_each = sum(max(t.wall, waiting) if given.workers else t.wall + waiting for t in taken.values())
    return max(1, int(0.9 * 60 * given.minutes * given.jobs / given.seeds / one_of_each))


# --- running ----------------------------------------------------------------------------------------
class Rows:
    """A file of a line of JSON for the settings and one for each network trained, or none, if no file is asked for."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[Line] = []
        if path is not None and path.exists():
            self.lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def settings(self, asked: Line, set_now: Callable[[], Line]) -> Line:
        """Return what was asked for and what was set by it, now or when the file was begun."""
        if not self.lines:
            self.add({"asked": asked, **set_now()})
        if self.lines[0]["asked"] != asked:
            raise SystemExit(f"{self.path} was written with other settings: choose another --out, or delete it")
        return self.lines[0]

    def has(self, arm: str, seed: int) -> bool:
        return any((row["arm"], row["seed"]) == (arm, seed) for row in self.lines[1:])

    def add(self, line: Line) -> None:
        self.lines.append(line)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text("".join(json.dumps(one) + "\n" for one in self.lines), encoding="utf-8")
            os.replace(unfinished, self.path)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, 500, "videos, whose frames take the place of textures")
    parser.set_defaults(batch=4, seeds=3)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--jobs", type=positive(int), help="networks trained at a time (default: one for each core; one on a GPU)"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that prepare clips for each (default: none; on a GPU one for each core)"
    )
    given = parser.parse_args(arguments)
    cuda, cores = given.device.type == "cuda", torch.get_num_threads()
    given.jobs = given.jobs or (1 if cuda else cores)
    given.workers = given.workers if given.workers is not None else cores * cuda
    return given


def clips_of(given: argparse.Namespace) -> tuple[Clips, list[Batch]]:
    """Return batches to train on, and those of the test, which are the same for all."""
    size = SIZES[given.size]
    count, side = size.tested
    learnt, tested = Clips(size, given.batch, size.side, []), Clips(size, 2, side, [])
    learnt.stills, tested.stills = stills_of(given.clips, 2 * (max(size.side, side) + learnt.margin))
    return learnt, [tested[2**40 + n] for n in range(count // 2)]


def trained(given: argparse.Namespace) -> Line:
    """Return what one training gives."""
    arm, device = given.arm, given.device
    learnt, tested = clips_of(given)
    network = build(arm, given.seed, SIZES[given.size], device)
    batches = prepared(learnt, given.workers, device.type == "cuda")
    done = train(f"{arm} {given.seed}", network, loss_of(arm, device), given, RECIPE, batches)
    return {"arm": arm, "seed": given.seed, "psnr": test(arm, network, tested, device), **done._asdict()}


def each_trained(left: list[argparse.Namespace], jobs: int) -> Iterator[Line]:
    """Yield what trainings give, so many at a time."""
    if jobs == 1:
        yield from map(trained, left)
        return
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        for done in as_completed([pool.submit(trained, one) for one in left]):
            yield done.result()


def main(arguments: list[str] | None = None) -> list[Line]:
    given = parsed(arguments)
    size, device = SIZES[given.size], given.device
    if given.jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // given.jobs))
    rows = Rows(given.out)

    def set_now() -> Line:
        learnt, _ = clips_of(given)
        learnt[0]  # loads OpenCV
        start = time.perf_counter()
        batch = learnt[1]
        preparing = time.perf_counter() - start
        taken = timings(given.arms, batch, size, device)
        weights = {arm: sum(p.numel() for p in build(arm, 0, size, device).parameters()) for arm in taken}
        of_arms = {arm: {"weights": weights[arm], "seconds": taken[arm].busy} for arm in taken}
        return {"steps": steps_for(given, taken, preparing), "arms": of_arms, **machine(device)}

    asked = {name: getattr(given, name) for name in ("minutes", "size", "batch", "arms", "seed", "seeds")}
    asked |= {"clips": given.clips and [path.name for path in videos(given.clips)]}
    steps = rows.settings(asked | ({} if given.minutes else {"steps": given.steps}), set_now)["steps"]
    each = [
        argparse.Namespace(**{**vars(one), "arm": arm, "steps": steps, "minutes": None})
        for one in each_seed(given)
        for arm in given.arms
    ]
    for row in each_trained([one for one in each if not rows.has(one.arm, one.seed)], given.jobs):
        print(json.dumps(row), flush=True)
        rows.add(row)
    return rows.lines


if __name__ == "__main__":
    run(main)
