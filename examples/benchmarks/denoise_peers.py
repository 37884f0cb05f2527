"""Measure `shiftsearch.denoise` beside the programs of the authors of VNLB and V-BM3D, on clips that nothing was tuned on.

python examples/benchmarks/denoise_peers.py --json FILE [--vnlb FOLDER] [--vbm3d FILE] [--clips FOLDER] [--kind grey]
                                            [--sigma 20] [--picture FILE]

The sources are github.com/pariasm/vnlb and github.com/pariasm/vbm3d: FOLDER has the programs vnlbayes and tvl1flow, FILE
is VBM3Ddenoising. They run as their authors run them, with default parameters and one thread. The clips are files of public
repositories, which git fetches. 9 frames of 96 x 112 are taken of each, scaled down, which hides traces of compression;
white noise is added (seed 1) and not clipped. PSNR, SSIM and seconds are those of `denoise.py`. Flicker is the standard
deviation over time of the error of pixels around which nothing moves. Results that are in the JSON file are not computed
again. It needs shiftsearch[video], scikit-image and git.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import tempfile
from pathlib import Path

import cv2
import denoise as protocol
import numpy as np
import real_clips

import shiftsearch

FRAMES, HEIGHT, WIDTH = 9, 96, 112
_TRACKER, _STORED, _RESOURCE = "facebookresearch/co-tracker", "intel-iot-devkit/sample-videos", "Netflix/vmaf_resource"
CLIPS = {  # repository, file, first frame, scale
    "apple": (_TRACKER, "gradio_demo/videos/apple.mp4", 5, 0.25),
    "backpack": (_TRACKER, "gradio_demo/videos/backpack.mp4", 10, 0.5),
    "paragliding": (_TRACKER, "gradio_demo/videos/paragliding.mp4", 10, 0.4),
    "launch": (_TRACKER, "gradio_demo/videos/paragliding-launch.mp4", 10, 0.4),
    "teddy": (_TRACKER, "gradio_demo/videos/teddy.mp4", 20, 0.5),
    "cat": (_TRACKER, "gradio_demo/videos/cat.mp4", 10, 0.5),
    "bottle": (_STORED, "bottle-detection.mp4", 300, 0.5),
    "car": (_STORED, "car-detection.mp4", 100, 0.5),
    "cockatoo": ("imageio/imageio-binaries", "images/cockatoo.mp4", 50, 0.25),
    "seeking": (_RESOURCE, "python/test/resource/mp4/Seeking_30_480_1050.mp4", 40, 0.5),
    "parkjoy": (_RESOURCE, "python/test/resource/y4m/park_joy_420_720p50_frm0to9_480x270.y4m", 0, 1),
    "sintel": ("princeton-vl/RAFT", "demo-frames/frame_00{}.png", 16, 0.5),
}


# --- clips ------------------------------------------------------------------------------------------
def file_of(folder: Path, repository: str, path: str, name: str | None = None) -> Path:
    """Return a file of a repository, which is fetched if need be, and kept as `name`."""
    file = folder / (name or Path(path).name)
    if not file.exists():
        copy = folder / repository.replace("/", "+")
        if not copy.exists():
            source = f"https://github.com/{repository}"
            command = ["git", "clone", "--quiet", "--no-checkout", "--depth=1", "--filter=blob:none", source, str(copy)]
            subprocess.run(command, check=True)
        file.write_bytes(subprocess.check_output(["git", "-C", str(copy), "show", f"HEAD:{path}"]))
    return file


def frames(folder: Path, repository: str, path: str, first: int, count: int) -> np.ndarray:
    """Return some frames (count, H, W, 3) of a file of a repository, uint8."""
    if "{}" not in path:
        return np.stack(real_clips.frames(file_of(folder, repository, path), first, count, False))
    files = [file_of(folder, repository, path.format(n)) for n in range(first, first + count)]
    return np.stack([cv2.imread(str(file))[..., ::-1] for file in files])


def clip(folder: Path, repository: str, path: str, first: int, scale: float) -> np.ndarray:
    """Return a clip (9, 96, 112, 3), uint8."""
    whole = frames(folder, repository, path, first, FRAMES)
    if scale != 1:
        size = tuple(round(n * scale) for n in whole.shape[2:0:-1])
        whole = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in whole]
    top, left = (whole[0].shape[0] - 144) // 2, (whole[0].shape[1] - 176) // 2
    return np.stack([frame[top : top + HEIGHT, left : left + WIDTH] for frame in whole])


# --- methods: (noisy float32 0..255, sigma) to the result -------------------------------------------
def write(path: str, frame: np.ndarray) -> None:
    """Write a frame as floats, from the top down as these programs read it."""
    height, width = frame.shape[:2]
    header = f"P{'F' if frame.ndim == 3 else 'f'}\n{width} {height}\n-1\n"
    Path(path).write_bytes(header.encode() + np.ascontiguousarray(frame, np.float32).tobytes())


def read(path: str, shape) -> np.ndarray:
    return np.frombuffer(Path(path).read_bytes()[-4 * int(np.prod(shape)) :], np.float32).reshape(shape)


def run(*command) -> None:
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([str(part) for part in command], check=True, capture_output=True, env=alone)


def with_files(program):
    """Return a method that gives `program` (folder, number of frames, sigma) its frames as files."""

    def method(noisy, sigma):
        with tempfile.TemporaryDirectory() as folder:
            for n, frame in enumerate(noisy):
                write(f"{folder}/noisy_{n:03d}.pfm", frame)
                write(f"{folder}/grey_{n:03d}.pfm", frame if frame.ndim == 2 else frame.mean(-1))
            program(folder, len(noisy), sigma)
            return np.stack([read(f"{folder}/deno_{n:03d}.pfm", frame.shape) for n, frame in enumerate(noisy)])

    return method


def vnlb(programs: Path):
    """Return the method that its script vnlb.sh runs: flow both ways, and two steps."""

    def program(folder, count, sigma):
        for way, step in (("b", -1), ("f", 1)):
            for n in range(count):  # flow of the last frame is not used, and has to be there
                there = n + step if 0 <= n + step < count else n
                pair = (f"{folder}/grey_{m:03d}.pfm" for m in (n, there))
                flow = f"{folder}/{way}_{n:03d}.flo"
                run(programs / "tvl1flow", *pair, flow, 0, 0.25, 0.2, 0.3, 100, 1, 0.5, 5, 0.01, 0)
        frames = {name: f"{folder}/{name}_%03d.pfm" for name in ("noisy", "basic", "again", "deno")}
        flows = "-fof", f"{folder}/f_%03d.flo", "-bof", f"{folder}/b_%03d.flo"
        whole = ["-f", 0, "-l", count - 1, "-sigma", sigma, *flows, "-verbose", 0]
        given = [programs / "vnlbayes", "-i", frames["noisy"], *whole]
        run(*given, "-px2", 0, "-bsic", frames["basic"])
        run(*given, "-px1", 0, "-b", frames["basic"], "-bsic", frames["again"], "-deno", frames["deno"])

    return with_files(program)


def vbm3d(program: Path):
    def called(folder, count, sigma):
        whole = ["-i", f"{folder}/noisy_%03d.pfm", "-f", 0, "-l", count - 1, "-sigma", sigma, "-add", "false"]
        run(program, *whole, "-deno", f"{folder}/deno_%03d.pfm", "-meas", f"{folder}/measures", "-verbose", "false")

    return with_files(called)


def ours(quality):
    return lambda noisy, sigma: 255 * shiftsearch.denoise(noisy / 255, sigma / 255, quality=quality)


# --- measuring --------------------------------------------------------------------------------------
def flicker(clean, result):
    """Return the standard deviation of the error over time where nothing moves, or None if all moves."""
    grey = clean if clean.ndim == 3 else clean.mean(-1)
    still = np.max([cv2.blur(abs(a - b), (5, 5)) for a, b in itertools.pairwise(grey)], axis=0) < 1.5
    variance = (result - clean).var(0).reshape(*still.shape, -1).mean(-1)
    return round(float(np.sqrt(variance[still].mean())), 2) if still.mean() >= 0.01 else None


def seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(method, clean, sigma):
    """Return the numbers of a method and its result."""
    kept = []

    def once(noisy, sigma):
        return [lambda: kept.append(method(noisy, sigma)) or kept[0]]

    before = seconds_of_children()
    row = protocol.measured(once, clean, sigma)
    row["cpu_s_per_mpixel"] += round((seconds_of_children() - before) / np.prod(clean.shape[:3]) * 1e6, 2)
    return row | {"flicker": flicker(clean.astype(np.float32), kept[0])}, np.clip(kept[0], 0, 255)


def table(rows) -> str:
    """Return Markdown with a row for each kind, sigma and method, and a column for each clip, in dB."""
    lines = [
        "| | sigma | method | " + " | ".join(CLIPS) + " | mean | SSIM | flicker | CPU s / MPixel |",
        "| --- | ---: | --- |" + " ---: |" * (len(CLIPS) + 4),
    ]
    for kind, sigma, method in dict.fromkeys((row["kind"], row["sigma"], row["method"]) for row in rows):
        here = {row["clip"]: row for row in rows if (row["kind"], row["sigma"], row["method"]) == (kind, sigma, method)}
        cells = [f"{here[name]['psnr']:.2f}" if name in here else "" for name in CLIPS]
        psnr, ssim, seconds = (
            np.mean([row[key] for row in here.values()]) for key in ("psnr", "ssim", "cpu_s_per_mpixel")
        )
        still = [row["flicker"] for row in here.values() if row["flicker"] is not None]
        cells += [f"{psnr:.2f}", f"{ssim:.4f}", f"{np.mean(still):.2f}" if still else "", f"{seconds:.1f}"]
        lines.append(f"| {kind} | {sigma} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="results, to which new ones are added")
    parser.add_argument("--vnlb", type=Path, help="folder of vnlbayes and tvl1flow")
    parser.add_argument("--vbm3d", type=Path, help="VBM3Ddenoising")
    parser.add_argument("--clips", type=Path, default=real_clips.FOLDER, help="folder for the clips")
    parser.add_argument("--kind", nargs="+", choices=("grey", "colour"), default=("grey", "colour"))
    parser.add_argument("--sigma", type=int, nargs="+", default=(10, 20, 50))
    parser.add_argument("--only", nargs="+", choices=[*CLIPS], default=[*CLIPS], help="clips to measure on")
    parser.add_argument("--picture", type=Path, help="where to write a frame of each: clean, noisy, and the results")
    arguments = parser.parse_args()
    methods = {} if arguments.vbm3d is None else {"V-BM3D": vbm3d(arguments.vbm3d)}
    methods |= {"fast": ours("fast")}
    methods |= {} if arguments.vnlb is None else {"VNLB": vnlb(arguments.vnlb)}
    methods |= {"high": ours("high")}
    rows = json.loads(arguments.json.read_text())["rows"] if arguments.json.exists() else []
    done = {(row["kind"], row["sigma"], row["method"], row["clip"]) for row in rows}
    arguments.clips.mkdir(parents=True, exist_ok=True)
    for quality in ("fast", "high"):
        shiftsearch.denoise(np.zeros((2, 48, 48), np.float32), 0.1, quality=quality)  # compiles
    for kind, sigma, name in itertools.product(arguments.kind, arguments.sigma, arguments.only):
        clean = clip(arguments.clips, *CLIPS[name])
        clean = protocol.grey(clean) if kind == "grey" else clean
        for label, method in methods.items():
            if (kind, sigma, label, name) not in done:
                numbers, _ = measured(method, clean, sigma)
                rows.append({"kind": kind, "sigma": sigma, "method": label, "clip": name, **numbers})
                print(*rows[-1].values(), flush=True)
                result = {"protocol": __doc__, "version": shiftsearch.__version__, "rows": rows}
                arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))
    if arguments.picture:
        picture(arguments, methods)


def picture(arguments, methods) -> None:
    """Write the middle frame of each clip: clean, noisy, and as the methods leave it."""
    kind, sigma = arguments.kind[0], arguments.sigma[0]
    lines = []
    for name in arguments.only:
        clean = clip(arguments.clips, *CLIPS[name])
        clean = protocol.grey(clean) if kind == "grey" else clean
        noisy = clean + np.float32(sigma) * np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32)
        shown = [clean, noisy, *(method(noisy, sigma) for method in methods.values())]
        lines.append(np.concatenate([video[FRAMES // 2] for video in shown], axis=1))
    whole = np.clip(np.rint(np.concatenate(lines)), 0, 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    cv2.imwrite(str(arguments.picture), whole if kind == "grey" else whole[..., ::-1])


if __name__ == "__main__":
    main()
