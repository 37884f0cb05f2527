"""Measure quality and speed of `shiftsearch.denoise`, OpenCV's and scikit-image's non-local means.

python examples/benchmarks/denoise.py [--quick] [--sigma 20] [--cache FOLDER] [--json FILE] [--table FILE] [--picture FILE]

Real clips are fetched by pip, see `real_clips.py`. 8 frames of 176 x 144 are taken of each; white noise is added (seed
1) and not clipped; PSNR and SSIM are means over all pixels and frames, of results clipped to 0..255. The parameters of
shiftsearch were chosen on the clips "carphone", "bbb", "bikes2" and "bikes1", and not on those of the second group.
OpenCV and scikit-image get the sigma of the noise, and the best of several strengths for each clip. OpenCV takes 8 bits:
its frames are rounded and clipped. Seconds are those of all cores together. It needs shiftsearch[video], scikit-image and
pip.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path

import cv2
import numpy as np
import real_clips
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import denoise_nl_means

import shiftsearch
from shiftsearch.threads import get_num_threads

FRAMES, HEIGHT, WIDTH = 8, 144, 176
TUNED = {  # file, first frame, halved, top, left
    "carphone": ("carphone_pristine.mp4", 0, False, 0, 0),
    "bbb": ("bigbuckbunny.mp4", 30, True, 120, 90),
    "bikes2": ("bikes.mp4", 190, False, 70, 240),
    "bikes1": ("bikes.mp4", 104, False, 70, 240),
}
NEW = {
    "carphone80": ("carphone_pristine.mp4", 80, False, 0, 0),
    "bbb90": ("bigbuckbunny.mp4", 90, True, 60, 200),
    "bikes150": ("bikes.mp4", 150, False, 70, 100),
    "city": ("cityCC0.mpg", 20, True, 20, 80),
}


# --- clips ------------------------------------------------------------------------------------------
def clip(folder: Path, file, first, halved, top, left) -> np.ndarray:
    """Return a clip (8, 144, 176, 3), uint8."""
    return real_clips.frames(folder / file, first, FRAMES, halved)[:, top : top + HEIGHT, left : left + WIDTH]


def grey(frames):
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


# --- methods: (noisy float32 0..255, sigma) to the best of several results, each as a function -------
def ours(**options):
    return lambda noisy, sigma: [lambda: 255 * shiftsearch.denoise(noisy / 255, sigma / 255, **options)]


def opencv(noisy, sigma):
    clip = [np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame in noisy]
    padded = clip[2:0:-1] + clip + clip[-2:-4:-1]  # mirrored in time

    def run(strength):
        if noisy.ndim == 4:
            call = lambda n: cv2.fastNlMeansDenoisingColoredMulti(padded, n, 5, None, strength, strength, 7, 21)  # noqa: E731
        else:
            call = lambda n: cv2.fastNlMeansDenoisingMulti(padded, n, 5, None, strength, 7, 21)  # noqa: E731
        return np.stack([call(n + 2) for n in range(len(clip))]).astype(np.float32)

    return [lambda s=s: run(s * sigma) for s in (0.5, 0.7, 0.9, 1.1)]


def skimage(noisy, sigma):
    axis = -1 if noisy.ndim == 4 else None

    def run(h):
        options = {"patch_size": 5, "patch_distance": 9, "fast_mode": True, "channel_axis": axis}
        return np.stack([denoise_nl_means(frame, h=h * sigma, sigma=sigma, **options) for frame in noisy])

    return [lambda h=h: run(h) for h in (0.6, 0.8, 1.0)]


METHODS = {
    "OpenCV NLM multi": opencv,
    "scikit-image NLM": skimage,
    "fast, one frame": ours(radius=0),
    "fast, no flow": ours(flow=None),
    "fast": ours(),
    "high": ours(quality="high"),
}


# --- measuring --------------------------------------------------------------------------------------
def measured(method, clean, sigma):
    noise = np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32)
    noisy = clean + np.float32(sigma) * noise
    best = None
    for run in method(noisy, sigma):
        start = time.process_time()
        result = np.clip(run(), 0, 255)
        seconds = time.process_time() - start
        axis = -1 if clean.ndim == 4 else None
        psnr = peak_signal_noise_ratio(clean.astype(np.float32), result, data_range=255)
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        pairs = zip(clean.astype(np.float32), result, strict=True)
        ssim = np.mean([structural_similarity(a, b, data_range=255, channel_axis=axis, **window) for a, b in pairs])
        if best is None or psnr > best["psnr"]:
            pixels = np.prod(clean.shape[:3]) / 1e6
            best = {
                "psnr": round(float(psnr), 2),
                "ssim": round(float(ssim), 4),
                "cpu_s_per_mpixel": round(seconds / pixels, 2),
            }
    return best


def table(rows) -> str:
    """Return Markdown with a row for each kind, sigma and method, and a column for each clip, in dB."""
    names = [*TUNED, *NEW]
    lines = [
        "| | sigma | method | " + " | ".join(names) + " | CPU s / MPixel |",
        "| --- | ---: | --- |" + " ---: |" * (len(names) + 1),
    ]
    keys = list(dict.fromkeys((row["kind"], row["sigma"], row["method"]) for row in rows))
    for key in keys:
        here = {row["clip"]: row for row in rows if (row["kind"], row["sigma"], row["method"]) == key}
        cells = [f"{here[name]['psnr']:.2f}" if name in here else "" for name in names]
        seconds = np.median([row["cpu_s_per_mpixel"] for row in here.values()])
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | " + " | ".join(cells) + f" | {seconds:.1f} |")
    return "\n".join(lines)


def picture(frames, path: Path) -> None:
    """Return the middle frame in colour: clean, noisy with sigma 20, OpenCV's best, "fast" and "high"."""
    noisy = frames + 20 * np.random.default_rng(1).standard_normal(frames.shape).astype(np.float32)
    theirs = max((run() for run in opencv(noisy, 20)), key=lambda found: -((found - frames) ** 2).mean())
    shown = [frames, noisy, theirs, *(METHODS[quality](noisy, 20)[0]() for quality in ("fast", "high"))]
    row = np.concatenate([np.clip(np.rint(clip[FRAMES // 2]), 0, 255).astype(np.uint8) for clip in shown], axis=1)
    cv2.imwrite(str(path), cv2.cvtColor(row.repeat(2, 0).repeat(2, 1), cv2.COLOR_RGB2BGR))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="sigma 20 of two clips, without high quality")
    parser.add_argument("--sigma", type=int, nargs="+", default=(10, 20, 50), help="noise of grey clips")
    parser.add_argument("--cache", type=Path, default=real_clips.FOLDER, help="folder for the clips")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--table", type=Path, help="where to write the table")
    parser.add_argument("--picture", type=Path, help="where to write a picture of one clip; nothing is measured then")
    arguments = parser.parse_args()
    folder = real_clips.fetch(arguments.cache)
    scenes = {name: clip(folder, *where) for name, where in {**TUNED, **NEW}.items()}
    if arguments.picture:
        picture(scenes["city"], arguments.picture)
        return
    methods = dict(METHODS)
    sigmas = arguments.sigma
    if arguments.quick:
        scenes, sigmas = {name: scenes[name] for name in ("carphone", "city")}, [20]
        del methods["high"]
    shiftsearch.denoise(grey(scenes["carphone"])[:2], 20)  # compiles
    rows = []
    for kind, convert in (("grey", grey), ("colour", lambda frames: frames)):
        for sigma in sigmas if kind == "grey" else (20,):
            for label, method in methods.items():
                for name, frames in scenes.items():
                    row = {
                        "kind": kind,
                        "sigma": sigma,
                        "method": label,
                        "clip": name,
                        **measured(method, convert(frames), sigma),
                    }
                    rows.append(row)
                    print(*row.values(), flush=True)
    print(table(rows))
    libraries = ("numpy", "numba", "opencv-python-headless", "scikit-image")
    versions = {name: importlib.metadata.version(name) for name in libraries} | {"python": platform.python_version()}
    result = {
        "protocol": __doc__,
        "threads": get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"shiftsearch": shiftsearch.__version__, **versions},
        "tuned_on": list(TUNED),
        "rows": rows,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.table:
        arguments.table.write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
