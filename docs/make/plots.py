"""Draw the plots of quality and speed, from the results that are committed.

python docs/make/plots.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "examples" / "benchmarks"))

import tables  # noqa: E402 - the folder is known only now
from gpu_goals import GOALS  # noqa: E402
from report import Scale, picture, text  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
OURS, OTHERS = "#1f6fb4", "#aaa"
LEFT, WIDTH, STEP = 260, 300, 26
Values = dict[str, float]


def bars(title: str, values: Values, unit: str, start: float = 0, digits: int = 1) -> str:
    """Draw values as bars that begin at `start`. Names of functions, which are in quotes of code, are ours."""
    parts, most = [text(LEFT + WIDTH / 2, 22, title, "middle")], max(values.values())
    for n, (name, value) in enumerate(values.items()):
        y, length = 40 + n * STEP, max((value - start) / (most - start) * WIDTH, 1)
        box = f'x="{LEFT}" y="{y}" width="{length:.1f}" height="18"'
        parts.append(f'<rect {box} fill="{OURS if "`" in name else OTHERS}"/>')
        parts.append(text(LEFT - 8, y + 14, name.replace("`", ""), "end"))
        parts.append(text(LEFT + length + 6, y + 14, f"{value:.{digits}f} {unit}", "start"))
    height = 48 + len(values) * STEP
    if start:
        parts.append(text(LEFT, height + 4, f"bars begin at {start:g} {unit}", "start"))
    return picture(LEFT + WIDTH + 110, height + 16, parts)


def dots(title: str, across: str, up: str, points: dict[str, tuple[float, float]]) -> str:
    """Draw named points, with a logarithmic scale across."""
    left, bottom, top, right = 60, 270, 40, 500
    xs, ys = Scale([x for x, _ in points.values()], left + 30, right - 60), [y for _, y in points.values()]
    least, most = int(min(ys)), int(max(ys)) + 1
    parts = [text((left + right) / 2, 22, title, "middle"), text((left + right) / 2, bottom + 38, across, "middle")]
    parts.append(f'<g transform="rotate(-90 16 155)">{text(16, 155, up, "middle")}</g>')
    height = {
        value: bottom - (value - least) / (most - least) * (bottom - top) for value in (*range(least, most + 1), *ys)
    }
    for value in range(least, most + 1):
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{height[value]:.1f}" y2="{height[value]:.1f}" stroke="#ddd"/>'
        )
        parts.append(text(left - 6, height[value] + 4, str(value), "end"))
    parts += [text(xs(tick), bottom + 18, f"{tick:g}", "middle") for tick in xs.ticks()]
    for name, (x, y) in points.items():
        colour = OURS if "`" in name else OTHERS
        parts.append(f'<circle cx="{xs(x):.1f}" cy="{height[y]:.1f}" r="6" fill="{colour}"/>')
        parts.append(text(xs(x), height[y] - 12, name.replace("`", ""), "middle"))
    return picture(right + 20, bottom + 50, parts)


# --- what is drawn --------------------------------------------------------------------------------
def aligned() -> str:
    rows = tables.read("align")["search in frames with noise of sigma 15"]
    means = {name: tables.fmean(list(rows[key].values())[10:]) for key, name in tables.ALIGN.items()}
    return bars("aligned frames of five unseen scenes, noise 15 of 255", means, "dB", start=20)


def denoised() -> str:
    rows = tables.read("denoise")["rows"]
    means = {tables.DENOISE[name]: _psnr(rows, name) for name in tables.methods(rows)}
    means = {name.replace('"fast", ', '`denoise`, "fast", '): mean for name, mean in means.items()}
    return bars("eight denoised clips, grey, noise 20 of 255", means, "dB", start=20)


def quality_and_time() -> str:
    """Draw PSNR of twelve clips against the time that the methods take."""
    rows = tables.read("denoise_peers")["rows"]
    found = {}
    for name in tables.methods(rows):
        seconds = median(row["cpu_s_per_mpixel"] for row in tables.of(rows, "grey", 20, name).values())
        found[tables.DENOISE[name]] = (seconds, _psnr(rows, name))
    return dots("twelve denoised clips, grey, noise 20 of 255", "seconds of CPU for a megapixel", "PSNR in dB", found)


def noise() -> str:
    """Draw what `denoise` gains under each kind of noise that it has to find."""
    rows = [row for row in tables.read("noise")["rows"] if row["clip"] != "texture" and row["kind"] == "grey"]
    gains = {}
    for kind, name in tables.NOISE.items():
        here = [row["found"] - row["noisy"] for row in rows if row["noise"] == kind]
        if kind != "none":
            gains[f"`{name}`"] = tables.fmean(here)
    return bars("gain of denoise, which finds the noise itself, grey", gains, "dB")


def denoise_speed() -> str:
    seconds = {tables.DENOISE[name.removeprefix("shiftsearch, ")]: both[0] for name, both in tables.seconds().items()}
    return bars("a grey frame of 854 x 480, one thread", seconds, "s", digits=2)


def faster_than_torch() -> str:
    cases = [row for row in tables.read("cpu")["cases"] if "torch ms" in row]
    times = {f"`{row['case']}`": row["torch ms"] / row["ours ms"] for row in cases}
    return bars("how many times faster than torch's own operators, one thread", times, "x", digits=0)


def gpu() -> str:
    found = tables.read("gpu_modelled")["goals"]
    times = {f"`{goal.name}`": found[goal.name]["value"] for goal in GOALS if goal.unit == "ms" and goal.name in found}
    return bars("modelled for an H100, not measured", times, "ms", digits=2)


def _psnr(rows: list[tables.Row], method: str) -> float:
    return tables.mean(tables.of(rows, "grey", 20, method), "psnr")


PLOTS = {
    "aligned": aligned,
    "denoised": denoised,
    "quality_and_time": quality_and_time,
    "noise": noise,
    "denoise_speed": denoise_speed,
    "faster_than_torch": faster_than_torch,
    "gpu": gpu,
}


def main() -> None:
    for name, draw in PLOTS.items():
        (PICTURES / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
