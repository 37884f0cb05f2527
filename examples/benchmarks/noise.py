"""Measure `shiftsearch.denoise` on noise as cameras, codecs and film make it, and under changes of light.

python examples/benchmarks/noise.py [--quick] [--kinds KIND ...] [--quality fast] [--cache FOLDER] [--json FILE] [--table FILE]

Clips are those of `denoise.py` that nothing was tuned on: 8 frames of 176 x 144, grey or in colour. For each kind of noise
the table has the PSNR in dB of the noisy clip, of the result with the strength that `denoise` finds, and of the best of
several single strengths set by hand. For noise of photons, JSON also has that of the true parameters. "light" are clips with
white noise of 20 whose brightness changes; their PSNR is that of the frames that changed, and they are compared with the
same frames of a clip of constant brightness. A flash has 1.4 times the contrast, and with the same noise: so frame 4 of that
clip has less noise, and is then brightened as the flash.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import av
import cv2
import denoise as protocol
import numpy as np
import real_clips

import shiftsearch
from shiftsearch.video.denoise import Noise

CLIPS = ("carphone80", "bikes150", "city")
STRENGTHS = (2, 4, 6, 8, 11, 14, 18, 23, 29, 36)  # set by hand


# --- kinds of noise: (clean float32 0..255, generator) to noisy ---------------------------------------
def white(sigma):
    return lambda clean, rng: clean + sigma * rng.standard_normal(clean.shape, np.float32)


def each(change, sigma):
    """Return noise of white noise, frame by frame, changed by `change` and then scaled to `sigma`."""

    def noisy(clean, rng):
        noise = np.stack([change(rng.standard_normal(frame.shape, np.float32)) for frame in clean])
        return clean + sigma * noise / noise.std()

    return noisy


def upscaled(frame):
    return cv2.resize(frame[::2, ::2], frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def blurred(frame):
    return cv2.GaussianBlur(frame, (0, 0), 0.7)


def bayer(clean, rng):
    """Return frames seen through a Bayer filter with noise of 15, and demosaiced."""
    colour = clean if clean.ndim == 4 else clean[..., None].repeat(3, -1)
    found = []
    for frame in colour:
        mosaic = frame[..., 1].copy()
        mosaic[::2, ::2], mosaic[1::2, 1::2] = frame[::2, ::2, 0], frame[1::2, 1::2, 2]
        mosaic = mosaic + 15 * rng.standard_normal(mosaic.shape, np.float32)
        found.append(cv2.cvtColor(eight_bits(mosaic), cv2.COLOR_BAYER_BG2RGB))
    found = np.stack(found)
    return np.float32(found if clean.ndim == 4 else protocol.grey(found))


def jpeg(clean, rng):
    """Return frames with noise of 15 after JPEG of quality 75."""
    flags = cv2.IMREAD_UNCHANGED
    coded = [cv2.imencode(".jpg", eight_bits(f), [cv2.IMWRITE_JPEG_QUALITY, 75])[1] for f in white(15)(clean, rng)]
    return np.float32([cv2.imdecode(data, flags) for data in coded])


def h264(clean, rng):
    """Return frames with noise of 15 after H.264 of crf 23."""
    noisy = [eight_bits(frame) for frame in white(15)(clean, rng)]
    colour = [frame if frame.ndim == 3 else frame[..., None].repeat(3, -1) for frame in noisy]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "23", "preset": "medium"})
        stream.height, stream.width, stream.pix_fmt = *colour[0].shape[:2], "yuv420p"
        for frame in colour:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as video:
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    return np.float32(found if clean.ndim == 4 else protocol.grey(found))


def grain(clean, rng):
    """Return frames with film grain: blurred noise that is strongest in middle tones, the same in all channels."""
    shade = clean if clean.ndim == 3 else clean.mean(-1)
    noise = np.stack([cv2.GaussianBlur(rng.standard_normal(f.shape, np.float32), (0, 0), 1.0) for f in shade])
    noise *= 14 / noise.std() * (0.3 + 0.7 * np.sin(np.pi * np.clip(shade, 0, 255) / 255))
    return clean + (noise if clean.ndim == 3 else noise[..., None])


def poisson(clean, rng):
    """Return frames with the noise of photons, whose variance is 3 per unit of 255, and of 5 by readout."""
    return np.float32(3 * rng.poisson(np.clip(clean, 0, None) / 3) + 5 * rng.standard_normal(clean.shape))


def of_photons(clean):
    """Return that noise, as `estimate_noise` would tell it that knew all."""
    channels, shades = 1 if clean.ndim == 3 else clean.shape[-1], np.linspace(0, 1, 18)
    strength = np.sqrt(3 * 255 * shades + 5**2) / 255
    planes = [strength.mean()] * channels, [None] * channels, [strength / strength.mean()] * channels
    return Noise(planes[0], planes[1], np.sqrt(channels) * shades, planes[2])


def eight_bits(frame):
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)


KINDS = {
    "white 5": white(5),
    "white 20": white(20),
    "upscaled 15": each(upscaled, 15),
    "blurred 15": each(blurred, 15),
    "Bayer 15": bayer,
    "JPEG": jpeg,
    "H.264": h264,
    "grain": grain,
    "Poisson": poisson,
}


# --- little or no noise -----------------------------------------------------------------------------
def texture(colour):
    """Return a fine texture that moves by a fraction of a pixel, without noise."""
    rng, size = np.random.default_rng(5), 256
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    spectrum = np.fft.fft2(rng.standard_normal((3 if colour else 1, size, size))) * (f < 0.4) / (f + 0.05) ** 0.5
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)
    moved = [np.fft.ifft2(spectrum * np.exp(2j * np.pi * t * (0.6 * fy + 1.3 * fx))).real for t in range(8)]
    frames = np.stack(moved)[:, :, :144, :176]
    frames = np.float32(128 + 30 * frames / frames.std())
    return frames.transpose(0, 2, 3, 1) if colour else frames[:, 0]


# --- changes of light: frames to frames --------------------------------------------------------------
FLASH, GAIN = 4, 1.4


def flash(frames):
    out = frames.copy()
    out[FLASH] = GAIN * out[FLASH] + 30
    return out


def fade(frames):
    return frames * np.linspace(1, 0.2, len(frames), dtype=np.float32).reshape(-1, *[1] * (frames.ndim - 1))


LIGHT = {
    "flash": (flash, slice(FLASH, FLASH + 1)),
    "beside a flash": (flash, np.r_[FLASH - 1, FLASH + 1]),
    "fade": (fade, slice(None)),
}


# --- measuring --------------------------------------------------------------------------------------
def psnr(clean, found):
    return float(10 * np.log10(255**2 / max(np.mean((np.clip(found, 0, 255) - np.clip(clean, 0, 255)) ** 2), 1e-6)))


def denoised(noisy, strength, **options):
    return 255 * shiftsearch.denoise(noisy / np.float32(255), strength and strength / 255, **options)


def row_of_noise(clean, noisy, strengths, options):
    by_hand = {s: psnr(clean, denoised(noisy, s, **options)) for s in strengths}
    best = max(by_hand, key=by_hand.get, default=None)
    return {
        "noisy": psnr(clean, noisy),
        "found": psnr(clean, denoised(noisy, None, **options)),
        "by hand": by_hand.get(best),
        "strength": best,
    }


def row_of_light(clean, change, part, options):
    """The strength is that of the noise. Beside it: the same frames of a clip whose light does not change."""
    noise = 20 * np.random.default_rng(1).standard_normal(clean.shape, np.float32)
    lit = change(clean)
    noisy = lit + noise
    found = denoised(noisy, 20, **options)
    if change is flash:
        noise[FLASH] /= GAIN
        wanted, constant = lit, flash(denoised(clean + noise, 20, **options))
    else:
        wanted, constant = clean, denoised(clean + noise, 20, **options)
    scores = psnr(lit[part], noisy[part]), psnr(lit[part], found[part]), psnr(wanted[part], constant[part])
    return dict(zip(("noisy", "found", "by hand"), scores, strict=True)) | {"strength": 20}


def rows(scenes, kinds, strengths, options):
    for name, clean in scenes.items():
        for kind in kinds:
            rng = np.random.default_rng(1)
            if kind in LIGHT:
                found = row_of_light(clean, *LIGHT[kind], options)
            elif kind == "none":
                found = row_of_noise(clean, clean, (), options)
            elif kind == "white 2":
                found = row_of_noise(clean, white(2)(clean, rng), (1, 1.5, 2), options)
            else:
                noisy = KINDS[kind](clean, rng)
                found = row_of_noise(clean, noisy, strengths, options)
                if kind == "Poisson":
                    known = shiftsearch.denoise(noisy / np.float32(255), of_photons(clean), **options)
                    found["known"] = psnr(clean, 255 * known)
            yield {"noise": kind, "clip": name, **{k: v if v is None else round(v, 2) for k, v in found.items()}}


def table(found) -> str:
    names = list(dict.fromkeys((row["kind"], row["clip"]) for row in found))
    heads = [f"{clip}, {kind}" for kind, clip in names]
    lines = ["| noise, as noisy / found / by hand | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(names)]
    for noise in dict.fromkeys(row["noise"] for row in found):
        here = {(row["kind"], row["clip"]): row for row in found if row["noise"] == noise}
        cells = [
            " / ".join(_shown(here[n].get(k)) for k in ("noisy", "found", "by hand")) if n in here else ""
            for n in names
        ]
        lines.append(f"| {noise} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(value) -> str:
    return "-" if value is None else f"{value:.2f}"


def main():
    every = [*KINDS, "white 2", "none", *LIGHT]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two kinds of one clip")
    parser.add_argument("--kinds", nargs="+", choices=every, default=every, help="kinds of noise")
    parser.add_argument("--clips", nargs="+", default=[*CLIPS, "texture"], help="names of clips")
    parser.add_argument("--only", choices=("grey", "colour"), help="not both")
    parser.add_argument("--found", action="store_true", help="no strengths by hand")
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--cache", type=Path, default=real_clips.FOLDER, help="folder for the clips")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--table", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kinds, arguments.clips, arguments.only = ["blurred 15", "flash"], ["city"], "grey"
    folder = real_clips.fetch(arguments.cache)
    found = []
    for kind in ("grey", "colour"):
        if arguments.only in (kind, None):
            scenes = {}
            for name in arguments.clips:
                if name == "texture":
                    scenes[name] = texture(kind == "colour")
                else:
                    frames = protocol.clip(folder, *{**protocol.TUNED, **protocol.NEW}[name])
                    scenes[name] = np.float32(frames if kind == "colour" else protocol.grey(frames))
            strengths = () if arguments.found else STRENGTHS
            for row in rows(scenes, arguments.kinds, strengths, {"quality": arguments.quality}):
                found.append({"kind": kind, **row})
                print(*found[-1].values(), flush=True)
    print(table(found))
    if arguments.json:
        result = {"protocol": __doc__, "version": shiftsearch.__version__, "quality": arguments.quality, "rows": found}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.table:
        arguments.table.write_text(table(found) + "\n")


if __name__ == "__main__":
    main()
