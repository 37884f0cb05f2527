"""Write the tables of quality and speed into README and the pages of docs, from the results that are committed.

python examples/benchmarks/tables.py

A table lies between two marks, such as `<!-- noise: written by examples/benchmarks/tables.py -->` and `<!-- /noise -->`.
Some tables have a report of their own: their marks name it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, median
from typing import Any

from gpu_goals import GOALS
from report import marks, write_between

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALIGN = {
    "no alignment": "no alignment",
    "DIS flow, bilinear": "DIS flow, bilinear (OpenCV's remap)",
    "DIS flow, bicubic": "DIS flow, bicubic (OpenCV's remap)",
    "align": "`align`",
    "align, flow of a 1/8 grid": "`align`, flow of a grid of 1/8",
    "align, bilinear": "`align`, bilinear",
}
DENOISE = {
    "OpenCV NLM multi": "OpenCV, fastNlMeansDenoisingMulti",
    "scikit-image NLM": "scikit-image, denoise_nl_means",
    "fast, one frame": '"fast", radius=0',
    "fast, no flow": '"fast", flow=None',
    "V-BM3D": "V-BM3D",
    "fast": '`denoise`, "fast"',
    "VNLB": "VNLB",
    "high": '`denoise`, "high"',
}
STARRED = {"carphone80": "carphone*", "bbb90": "bbb*", "bikes150": "bikes*", "city": "city*"}
NOISE = {
    "white 5": "white, 5",
    "white 20": "white, 20",
    "upscaled 15": "upscaled",
    "blurred 15": "blurred",
    "Bayer 15": "Bayer filter, demosaiced",
    "JPEG": "before JPEG of quality 75",
    "H.264": "before H.264 of crf 23",
    "grain": "film grain",
    "Poisson": "of photons (Poisson)",
    "white 2": "white, 2",
    "none": "none",
}
ON_A_GPU = (
    "patch 7, smooth flow",
    "patch 7, wild flow",
    "patch 7, subpixel",
    "patch 1",
    "attend patch 1, half, both ways",
)
Row = dict[str, Any]


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    heads = list(heads)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- alignment ------------------------------------------------------------------------------------
def align(methods: Iterable[str] = ALIGN) -> str:
    rows = read("align")["search in frames with noise of sigma 15"]
    unseen = slice(10, 15)
    names = "; ".join(name for name in list(rows["align"])[unseen])
    groups = {"five clips, tuned on": slice(0, 5), f"five unseen scenes: {names}": unseen, "all fifteen": slice(None)}
    heads = ["PSNR in dB of the aligned clean frame, noise 15 of 255", *groups]
    means = {name: [fmean(list(rows[name].values())[part]) for part in groups.values()] for name in methods}
    return markdown(heads, ([ALIGN[name], *(f"{mean:.2f}" for mean in found)] for name, found in means.items()))


def align_pairs() -> str:
    """Return what each pair has with its flow and with `align`, given the same flow, and means of those unseen."""
    rows = read("align_pairs")["rows"]
    pairs = {row["pair"]: row["pair"] + "*" * row["seen"] for row in rows}
    lines = [[name, *pair_cells([row for row in rows if row["pair"] == pair])] for pair, name in pairs.items()]
    lines.append(["mean of those without a star", *pair_cells([row for row in rows if not row["seen"]])])
    heads = [f"{what}, {kind}" for what in ("dB", "EPE") for kind in ("noise 15", "clean")]
    return markdown(["DIS bilinear / bicubic / `align`; EPE of DIS / `align`", *heads], lines)


def pairs_gained(sigma: int, value: str, given: str = "DIS") -> list[float]:
    """Return for each pair how many dB `align` is above the flow that it is given, or how much smaller its EPE is."""
    rows = [row["methods"] for row in read("align_pairs")["rows"] if row["sigma"] == sigma]
    ours, theirs = f"align, given {given}", [f"{given}, {how}" for how in ("bilinear", "bicubic")]
    rows = [row for row in rows if value in row[ours]]
    sign = 1 if value == "dB" else -1
    return [sign * row[ours][value] - max(sign * row[name][value] for name in theirs) for row in rows]


def pair_cells(rows: list[Row]) -> list[str]:
    """Return the numbers of pairs, or their means: dB and EPE, each with noise and without."""
    names = "DIS, bilinear", "DIS, bicubic", "align, given DIS"
    cells = []
    for value, methods in (("dB", names), ("EPE", names[1:])):
        for sigma in (15, 0):
            here = [row["methods"] for row in rows if row["sigma"] == sigma and value in row["methods"][names[0]]]
            digits = 2 if value == "dB" else 3
            cells.append(" / ".join(f"{fmean(r[m][value] for r in here):.{digits}f}" for m in methods) if here else "")
    return cells


# --- denoising ------------------------------------------------------------------------------------
def of(rows: list[Row], kind: str, sigma: int, method: str) -> dict[str, Row]:
    """Return what was measured with one method, by clip."""
    return {r["clip"]: r for r in rows if (r["kind"], r["sigma"], r["method"]) == (kind, sigma, method)}


def mean(rows: dict[str, Row], value: str, clips: Iterable[str] | None = None) -> float:
    """Return the mean of a value over clips, of those where there is one."""
    found = [row[value] for clip, row in rows.items() if clips is None or clip in clips]
    return fmean(number for number in found if number is not None)


def methods(rows: list[Row]) -> list[str]:
    return [name for name in DENOISE if any(row["method"] == name for row in rows)]


def by_clip(file: str) -> str:
    rows = read(file)["rows"]
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    lines = []
    for method in methods(rows):
        here = of(rows, "grey", 20, method)
        lines.append([DENOISE[method], *(f"{here[clip]['psnr']:.2f}" for clip in clips)])
    return markdown(["PSNR in dB, grey, noise 20 of 255", *(STARRED.get(clip, clip) for clip in clips)], lines)


def denoise_means() -> str:
    rows = read("denoise")["rows"]
    kinds = [("grey", 10), ("grey", 20), ("grey", 50), ("colour", 20)]
    lines = []
    for method in methods(rows):
        cells = [f"{mean(of(rows, *kind, method), 'psnr'):.2f}" for kind in kinds]
        lines.append([DENOISE[method], *cells, f"{mean(of(rows, 'grey', 20, method), 'ssim'):.3f}"])
    heads = [f"{kind} {sigma}" for kind, sigma in kinds]
    return markdown(["mean PSNR in dB of the eight clips", *heads, "SSIM, grey 20"], lines)


KINDS = tuple((kind, sigma) for kind in ("grey", "colour") for sigma in (10, 20, 50))
PEERS = {"fast": "V-BM3D", "high": "VNLB"}


def peers_means() -> str:
    rows = read("denoise_peers")["rows"]
    lines = []
    for method in methods(rows):
        here = [of(rows, *kind, method) for kind in KINDS]
        parts = [("psnr", 2, here[:3]), ("ssim", 3, here[:3]), ("flicker", 2, here[:3]), ("psnr", 2, here[3:])]
        cells = [
            " / ".join(f"{mean(each, value):.{digits}f}" for each in of_kinds) for value, digits, of_kinds in parts
        ]
        per_megapixel = median(row["cpu_s_per_mpixel"] for row in of(rows, "grey", 20, method).values())
        lines.append([DENOISE[method], *cells, f"{per_megapixel:.1f}"])
    heads = (
        "PSNR, grey 10 / 20 / 50",
        "SSIM, the same",
        "flicker, the same",
        "PSNR, colour 10 / 20 / 50",
        "s/MPixel, grey 20",
    )
    return markdown(["mean of the twelve clips", *heads], lines)


def above_peers(ours: str, kind: str, sigma: int) -> dict[str, float]:
    """Return how many dB one of ours is above its peer, by clip."""
    rows = read("denoise_peers")["rows"]
    here, there = (of(rows, kind, sigma, method) for method in (ours, PEERS[ours]))
    return {clip: here[clip]["psnr"] - there[clip]["psnr"] for clip in here}


def peers_ahead() -> str:
    lines = []
    for ours, theirs in PEERS.items():
        for kind, sigma in KINDS:
            above = above_peers(ours, kind, sigma)
            cells = [f"{value:+.2f}" for value in (*above.values(), fmean(above.values()))]
            lines.append([f'"{ours}" above {theirs}, {kind}, {sigma}', *cells])
    return markdown(["dB", *above, "mean"], lines)


def pans() -> str:
    rows = read("pans")["rows"]
    clips = list(dict.fromkeys((row["clip"], row["pan"]) for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        name, *flow = method.split(", ")
        here = {(row["clip"], row["pan"]): row["psnr"] for row in rows if row["method"] == method}
        lines.append([", ".join([DENOISE[name], *flow]), *(f"{here[clip]:.2f}" for clip in clips)])
    return markdown(["PSNR in dB, grey, noise 20 of 255", *map(", ".join, clips)], lines)


def noise() -> str:
    rows = [row for row in read("noise")["rows"] if row["clip"] != "texture"]
    lines = []
    for kind, name in NOISE.items():
        cells = [name]
        for colour in ("grey", "colour"):
            here = [row for row in rows if (row["kind"], row["noise"]) == (colour, kind)]
            cells.append(" / ".join(_mean(here, value) for value in ("noisy", "found", "by hand")))
        lines.append(cells)
    return markdown(
        ["mean PSNR in dB of three clips: noisy / `denoise` / best single strength by hand", "grey", "colour"], lines
    )


def _mean(rows: list[Row], value: str) -> str:
    found = [row[value] for row in rows]
    return "-" if None in found else f"{fmean(found):.2f}"


def denoise_speed() -> str:
    names = {name: DENOISE[name.removeprefix("shiftsearch, ")] for name in seconds()}
    lines = [[names[method], *(f"{each:.2f}" for each in both)] for method, both in seconds().items()]
    return markdown(["seconds for a frame of 854 x 480, one thread", "grey", "colour"], lines)


def seconds() -> dict[str, list[float]]:
    """Return the seconds of one thread for a frame, grey and in colour, the slowest first."""
    found: dict[str, list[float]] = {}
    for row in sorted(read("denoise_speed")["rows"], key=lambda row: (row["colour"], -row["cpu_s"])):
        if row["threads"] == 1:
            found.setdefault(row["method"], []).append(row["cpu_s"])
    return found


# --- README ---------------------------------------------------------------------------------------
def aligned() -> str:
    return align(["no alignment", "DIS flow, bilinear", "align"])


def denoised() -> str:
    """Return means of both sets of clips: no method of others was measured on both."""
    eight, twelve = (read(name)["rows"] for name in ("denoise", "denoise_peers"))
    lines = []
    for method in DENOISE:
        if not method.startswith("fast,"):
            found = [of(rows, "grey", 20, method) for rows in (eight, twelve)]
            lines.append([DENOISE[method], *(f"{mean(here, 'psnr'):.2f}" if here else "" for here in found)])
    half, none = ", ".join(STARRED.values()), ", ".join(of(twelve, "grey", 20, "fast"))
    heads = f"8 clips, four not tuned on: {half}", f"12 clips, none tuned on: {none}"
    return markdown(["mean PSNR in dB, grey, noise 20 of 255", *heads], lines)


def speed() -> str:
    """Return times of one thread beside those of others for the same work."""
    lines = []
    for name, case in {
        "search patches of 7 x 7 in 5 frames of 128 x 128, on a grid of 4": "search C=16 patch=7 rand stride=4",
        "add what was found": "aggregate C=16 patch=7",
        "its gradients": "backward C=16 patch=7",
    }.items():
        row = next(row for row in read("cpu")["cases"] if row["case"] == case)
        others = [f"C++ by hand {row['C++ ms']:.0f} ms", f"torch {row['torch ms']:.0f} ms"]
        lines.append([name, f"{row['ours ms']:.0f} ms", ", ".join(others)])
    (opencv, _), (skimage, _), (ours, _) = (
        seconds()[n] for n in ("OpenCV NLM multi", "scikit-image NLM", "shiftsearch, fast")
    )
    others = f"OpenCV {opencv:.2f} s, scikit-image {skimage:.2f} s"
    lines.append(['denoise a grey frame of 854 x 480, "fast" (on an EPYC)', f"{ours:.2f} s", others])
    return markdown(["one thread of a Xeon of 2.8 GHz", "shiftsearch", "others"], lines)


def modelled() -> str:
    """Return modelled times of a few goals, until a GPU has measured them."""
    found, cases = read("gpu_modelled")["goals"], {goal.name: goal for goal in GOALS}
    lines = []
    for name in ON_A_GPU:
        unit = cases[name].unit
        lines.append([name, f"{cases[name].must:g} {unit}", f"{found[name]['value']:.3g} {unit}"])
    return markdown(["modelled for an H100, measured on no GPU", "goal", "model"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "align": align,
    "align pairs": align_pairs,
    "denoise by clip": lambda: by_clip("denoise"),
    "denoise means": denoise_means,
    "peers by clip": lambda: by_clip("denoise_peers"),
    "peers means": peers_means,
    "peers ahead": peers_ahead,
    "pans": pans,
    "noise": noise,
    "denoise speed": denoise_speed,
    "aligned": aligned,
    "denoised": denoised,
    "speed of all": speed,
    "speed on a GPU": modelled,
}


def main() -> None:
    for name, table in TABLES.items():
        between = marks(name, "tables.py")
        for page in PAGES:
            if between[0] in page.read_text(encoding="utf-8"):
                write_between(page, between, table())


if __name__ == "__main__":
    main()
