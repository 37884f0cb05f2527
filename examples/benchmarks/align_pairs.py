"""Measure `align` beside the flow that it starts from, on pairs of many kinds: in dB, and in pixels where the truth is known.

python examples/benchmarks/align_pairs.py [--clips FOLDER] [--only NAME ...]

The pairs are 240 x 320 at most, in colour. Some are still, some are pans of pictures: crops of a larger picture, made smaller
afterwards, so that the truth is exact and nothing is interpolated. Others are views of a plane (Oxford's affine regions, with
their homographies), Middlebury's pairs with their flow, a stereo pair with its disparity, and frames of clips. Git fetches
the files from public repositories; the others are in scikit-image.

White noise of sigma 15 of 255 is added to both frames (seed 0), or none. Flow and search see these frames. What they find
warps the clean frame, whose PSNR to the clean reference is taken without a border of 8 pixels and what is out of the frame,
100 dB at most. Where the light changes, gain and offset of each channel are fitted before. EPE is the mean distance to the true
end point, of the same pixels. The flow is DIS: as it is, and, under noise, of frames that are blurred by the true sigma. `align`
is given the flow, or finds it itself. TV-L1 is that of scikit-image with its defaults, of grey frames.

`align` was improved on the pairs of SEEN. The others were measured when all was decided but the sharpness of bicubic
interpolation, which three of them also told (two pans, and the bikes).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import denoise_peers as peers
import numpy as np
import real_clips
from align import remap
from skimage import data
from skimage.registration import optical_flow_tvl1

import shiftsearch

RESULTS = Path(__file__).parent / "results" / "align_pairs.json"
SIGMAS = 15, 0
SIZE = 240, 320
BORDER = 8
BEST = 100.0  # dB: what is nearer is the same
_OXFORD, _MIDDLEBURY, _PICTURES = "muratkacmaz/AV-feature-detection", "vmlane/6.869Project", "imageio/imageio-binaries"
_STREET = "ivashmak/vsac", "samples/data/leuvenA.jpg"


class Pair(NamedTuple):
    """Two frames (H, W, 3), 0..1, and the true flow (2, H, W), if it is known, NaN where it is not."""

    reference: np.ndarray
    frame: np.ndarray
    truth: np.ndarray | None = None
    lit: bool = False  # whether the light of the two is another


# --- pairs --------------------------------------------------------------------------------------------
def read(folder: Path, repository: str, path: str) -> np.ndarray:
    """Return a picture, RGB, uint8, of a repository, or of scikit-image."""
    if repository == "scikit-image":
        return getattr(data, path)()
    return cv2.imread(str(named(folder, repository, path)))[..., ::-1]


def named(folder: Path, repository: str, path: str) -> Path:
    """Return a file, whose name alone does not tell which it is."""
    return peers.file_of(folder, repository, path, "-".join(Path(path).parts[-2:]))


def smaller(frame: np.ndarray, factor: float) -> np.ndarray:
    size = tuple(round(n / factor) for n in frame.shape[1::-1])
    return frame if factor == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def middle(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return the middle of frames (H, W, 3), as floats."""
    corners = [[(n - min(n, most)) // 2 for n, most in zip(a.shape, SIZE, strict=False)] for a in arrays]
    cut = [a[y : y + SIZE[0], x : x + SIZE[1]] for a, (y, x) in zip(arrays, corners, strict=True)]
    return [np.float32(a) / 255 if a.dtype == np.uint8 else a for a in cut]


def pan(repository: str, path: str, factor: int, dx: int, dy: int) -> Callable[[Path], Pair]:
    """Return a pair whose flow is (dx, dy) / factor everywhere: crops of a picture, made smaller by a whole factor."""

    def made(folder: Path) -> Pair:
        whole = read(folder, repository, path)
        size = [
            min(most * factor, (n - abs(d)) // factor * factor)
            for n, most, d in zip(whole.shape, SIZE, (dy, dx), strict=False)
        ]
        y, x = ((n - m - abs(d)) // 2 + max(d, 0) for n, m, d in zip(whole.shape, size, (dy, dx), strict=False))
        cut = (whole[b : b + size[0], a : a + size[1]] for b, a in ((y, x), (y - dy, x - dx)))
        frames = middle(*(smaller(frame, factor) for frame in cut))
        return Pair(*frames, np.full((2, *frames[0].shape[:2]), [[[dx / factor]], [[dy / factor]]]))

    return made


def tilted(repository: str, path: str, factor: int, matrix: tuple) -> Callable[[Path], Pair]:
    """Return a pair of a picture, and of the same seen through a homography of its fine pixels about their middle."""

    def made(folder: Path) -> Pair:
        whole = read(folder, repository, path)
        to_middle = np.eye(3)
        to_middle[:2, 2] = (np.array(whole.shape[1::-1]) - 1) / 2
        there = to_middle @ np.array(matrix) @ np.linalg.inv(to_middle)
        frame = cv2.warpPerspective(whole, there, whole.shape[1::-1], flags=cv2.INTER_CUBIC)
        return seen_by(*(smaller(each, factor) for each in (whole, frame)), there, factor)

    return made


def plane(name: str, first: int, second: int, kind: str = "ppm", factor: int = 2, lit: bool = False):
    """Return a pair of Oxford's views of a plane, as it is and with its homography."""

    def made(folder: Path) -> Pair:
        path = f"Codes/data_set/{name}"
        views = (read(folder, _OXFORD, f"{path}/img{n}.{kind}") for n in (first, second))
        there = np.loadtxt(named(folder, _OXFORD, f"{path}/H{first}to{second}p"))
        return seen_by(*(smaller(view, factor) for view in views), there, factor)._replace(lit=lit)

    return made


def seen_by(reference: np.ndarray, frame: np.ndarray, there: np.ndarray, factor: int) -> Pair:
    """Return the middle of the reference, what the frame shows there, and the flow of a homography of fine pixels."""
    fine = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    there = np.linalg.inv(fine) @ there @ fine
    corner = [(n - most) // 2 for n, most in zip(reference.shape, SIZE, strict=False)][::-1]
    x, y = (g + c for g, c in zip(np.meshgrid(*map(np.arange, SIZE[::-1])), corner, strict=True))
    ends = np.einsum("ij,jyx->iyx", there, np.stack([x, y, np.ones_like(x)]))
    flow = ends[:2] / ends[2] - [x, y]
    shift = np.rint(flow[:, SIZE[0] // 2, SIZE[1] // 2]).astype(int)
    cut = (a[v : v + SIZE[0], u : u + SIZE[1]] for a, (u, v) in ((reference, corner), (frame, corner + shift)))
    return Pair(*(np.float32(a) / 255 for a in cut), flow - shift[:, None, None])


def middlebury(name: str, known: bool = True) -> Callable[[Path], Pair]:
    def made(folder: Path) -> Pair:
        frames = middle(*(read(folder, _MIDDLEBURY, f"other-data/{name}/frame{n}.png") for n in (10, 11)))
        if not known:
            return Pair(*frames)
        raw = named(folder, _MIDDLEBURY, f"other-gt-flow/{name}/flow10.flo").read_bytes()
        width, height = np.frombuffer(raw, np.int32, 2, 4)
        (flow,) = middle(np.frombuffer(raw, np.float32, offset=12).reshape(height, width, 2))
        return Pair(*frames, np.where(abs(flow) < 1e9, flow, np.nan).transpose(2, 0, 1))

    return made


def stereo(folder: Path) -> Pair:
    left, right, disparity = (view[:, :740] for view in data.stereo_motorcycle())
    across = -np.where(np.isfinite(disparity), disparity, np.nan)[::2, ::2] / 2
    (truth,) = middle(np.stack([across, 0 * across], -1))
    return Pair(*middle(smaller(left, 2), smaller(right, 2)), truth.transpose(2, 0, 1))


def frames_of(name: str) -> Callable[[Path], Pair]:
    """Return two frames of a clip that `denoise_peers.py` lists."""

    def made(folder: Path) -> Pair:
        repository, path, first, factor = peers.CLIPS[name]
        if "{}" in path:
            both = [read(folder, repository, path.format(n)) for n in (first, first + 1)]
        else:
            both = list(real_clips.frames(peers.file_of(folder, repository, path), first, 2, False))
        return Pair(*middle(*(smaller(frame, 1 / factor) for frame in both)))

    return made


HOMOGRAPHY = (1.02, 0.03, 9), (-0.025, 0.98, -6), (1e-5, -6e-6, 1)
SEEN = {
    "cat of scikit-image, still": pan("scikit-image", "chelsea", 1, 0, 0),
    "astronaut, pan": pan("scikit-image", "astronaut", 2, 5, -3),
    "rocket, pan of 30 px": pan("scikit-image", "rocket", 2, 60, 0),
    "hats, pan of 30 px": pan(_PICTURES, "images/kodim03.png", 1, -30, 12),
    "graf, views 1 and 2": plane("graf", 1, 2),
    "leuven, views 1 and 2": plane("leuven", 1, 2, lit=True),
    "RubberWhale": middlebury("RubberWhale"),
    "Grove3": middlebury("Grove3"),
    "Urban2": middlebury("Urban2"),
    "motorcycle, stereo": stereo,
    "apple": frames_of("apple"),
    "cat": frames_of("cat"),
    "car": frames_of("car"),
    "parkjoy": frames_of("parkjoy"),
}
UNSEEN = {
    "hats, still": pan(_PICTURES, "images/kodim03.png", 1, 0, 0),
    "street, still": pan(*_STREET, 4, 0, 0),
    "coffee, pan": pan("scikit-image", "coffee", 2, 7, 5),
    "portrait, pan": pan(_PICTURES, "images/rommel.jpg", 4, -9, 6),
    "street, pan": pan(*_STREET, 4, 13, -7),
    "portrait, pan of 30 px": pan(_PICTURES, "images/rommel.jpg", 4, 120, 0),
    "street, pan of 37 px": pan(*_STREET, 4, 121, -83),
    "street, tilted": tilted(*_STREET, 4, HOMOGRAPHY),
    "portrait, tilted": tilted(_PICTURES, "images/rommel.jpg", 4, HOMOGRAPHY),
    "bikes of Oxford, blurred": plane("bikes", 1, 2),
    "boat, views 1 and 2": plane("boat", 1, 2, "pgm"),
    "leuven, views 1 and 4": plane("leuven", 1, 4, lit=True),
    **{name: middlebury(name) for name in ("Dimetrodon", "Hydrangea", "Venus", "Grove2", "Urban3")},
    **{name: middlebury(name, known=False) for name in ("Beanbags", "DogDance", "MiniCooper", "Walking")},
    **{name: frames_of(name) for name in ("backpack", "paragliding", "launch", "teddy")},
    **{name: frames_of(name) for name in ("bottle", "cockatoo", "seeking", "sintel")},
}
PAIRS = SEEN | UNSEEN


# --- methods ------------------------------------------------------------------------------------------
def flows(reference: np.ndarray, frame: np.ndarray, sigma: int) -> dict[str, np.ndarray]:
    found = {"DIS": shiftsearch.flow.dis(reference, frame)}
    return found | ({"blurred DIS": shiftsearch.flow.dis(reference, frame, sigma=sigma / 255)} if sigma else {})


def methods(pair: Pair, sigma: int):
    """Yield (method, the clean frame aligned, where its pixels were found)."""
    rng = np.random.default_rng(0)
    noise = np.float32(sigma / 255) * rng.standard_normal((2, *pair.frame.shape), np.float32)
    seen = pair.reference + noise[0], pair.frame + noise[1]
    for name, flow in flows(*seen, sigma).items():
        yield f"{name}, bilinear", remap(pair.frame, flow, cv2.INTER_LINEAR), flow
        yield f"{name}, bicubic", remap(pair.frame, flow, cv2.INTER_CUBIC), flow
        yield f"align, given {name}", *aligned(pair, *seen, flow=flow)
    yield "align", *aligned(pair, *seen)
    tvl1 = np.stack(optical_flow_tvl1(*(each.mean(-1) for each in seen)))[::-1].astype(np.float32)
    yield "TV-L1, bicubic", remap(pair.frame, tvl1, cv2.INTER_CUBIC), tvl1


def aligned(pair: Pair, reference: np.ndarray, frame: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return the clean frame as a search in noisy ones aligns it, and where its pixels were found."""
    _, offsets = shiftsearch.align(reference, frame, return_offsets=True, **options)
    return shiftsearch.align(pair.frame, pair.frame, offsets, window=1), offsets


def measured(pair: Pair, sigma: int) -> dict[str, dict[str, float]]:
    """Return {method: {"dB": ..., "EPE": ...}}, the second where the truth is known."""
    counts = inner(pair)
    rows: dict[str, dict[str, float]] = {}
    for name, found, flow in methods(pair, sigma):
        rows[name] = {"dB": round(psnr(found[counts], pair.reference[counts], pair.lit), 3)}
        if pair.truth is not None:
            rows[name]["EPE"] = round(float(np.nanmean(np.hypot(*(flow - pair.truth)[:, counts]))), 3)
    return rows


def inner(pair: Pair) -> np.ndarray:
    """Return which pixels count, (H, W): none at the border, and none that are out of the frame."""
    height, width = pair.reference.shape[:2]
    y, x = np.mgrid[:height, :width]
    counts = (np.minimum(y, height - 1 - y) >= BORDER) & (np.minimum(x, width - 1 - x) >= BORDER)
    if pair.truth is not None:
        x, y = (np.nan_to_num(at) for at in (x + pair.truth[0], y + pair.truth[1]))
        counts &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return counts


def psnr(found: np.ndarray, wanted: np.ndarray, lit: bool) -> float:
    """Return the PSNR of pixels (n, 3), in their own light or in that of the wanted ones."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    if lit:
        found = np.stack(
            [np.polyval(np.polyfit(*both, 1), both[0]) for both in zip(found.T, wanted.T, strict=True)], -1
        )
    return float(min(BEST, -10 * np.log10(max(((found - wanted) ** 2).mean(), 1e-99))))


# --- results ------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, default=real_clips.FOLDER, help="folder for the files")
    parser.add_argument("--only", nargs="+", choices=[*PAIRS], metavar="NAME", help="measure these, and write nothing")
    arguments = parser.parse_args()
    arguments.clips.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in arguments.only or PAIRS:
        pair = PAIRS[name](arguments.clips)
        for sigma in SIGMAS:
            found = measured(pair, sigma)
            rows.append({"pair": name, "seen": name in SEEN, "sigma": sigma, "methods": found})
            print(
                name,
                sigma,
                *(f"{method} {list(values.values())}" for method, values in found.items()),
                sep="; ",
                flush=True,
            )
    if not arguments.only:
        RESULTS.write_text(json.dumps({"protocol": __doc__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
