"""How fast the CPU kernels are, against hand-written C++ and torch on the same machine in the same run.

python examples/benchmarks/cpu.py [--quick] [--size N] [--json FILE] [--page docs/speed_cpu.md]

The main measure is process CPU time on one thread: the candidates take turns, and the fastest of at least 7
repetitions counts, so that other work on the machine disturbs little. Every result is checked before it is timed.
The C++ yardstick (yardstick.cpp beside this file) needs g++ and a CPU with AVX-512, and is left out without them;
so is torch if it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

os.environ["SHIFTSEARCH_NUM_THREADS"] = "1"

import numpy as np
from others import TOPK, WINDOW, T, Torch, Yardstick, as_flow, as_places
from report import write_between

import shiftsearch

HERE = Path(__file__).resolve().parent
SEARCH_TARGET = {7: 1.2, 3: 1.35, 1: 1.6}
AGGREGATE_TARGET, BACKWARD_TARGET = 1.5, 1.3


# --- problems -------------------------------------------------------------------------------------
def texture_video(C, H, W, seed=0):
    """Return a 1/f texture that moves by (1, 2) pixels a frame, with noise."""
    rng = np.random.default_rng(seed)
    n = 2 * max(H, W)
    f = np.fft.fftfreq(n)
    spectrum = 1 / (np.hypot(f[:, None], f) + 1 / n) ** 1.2
    base = np.real(np.fft.ifft2(np.fft.fft2(rng.standard_normal((C, n, n))) * spectrum))
    base /= base.std(axis=(1, 2), keepdims=True)
    video = np.stack([base[:, t : t + H, 2 * t : 2 * t + W] for t in range(T)])
    return (video + 0.1 * rng.standard_normal(video.shape)).astype(np.float32)


def whole_flow(kind, H, W, stride, seed=1):
    """Flow (T, 2, 2, h, w) in whole pixels that leads to places inside the frame, where all agree what a window is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:H:stride, :W:stride]
    shape = (T, 2, 2, *y.shape)
    if kind == "rand":  # each query its own
        flow = rng.integers(-8, 9, shape)
    elif kind == "block":  # constant in blocks of 8 x 8 queries
        h, w = shape[-2:]
        flow = rng.integers(-8, 9, (*shape[:-2], -(-h // 8), -(-w // 8))).repeat(8, -2).repeat(8, -1)[..., :h, :w]
    else:  # "smooth": changes by about 0.06 pixels a pixel
        a, b = rng.uniform(0, 2 * np.pi, (2, T, 2, 2, 1, 1))
        l1, l2 = rng.uniform(60, 120, (2, T, 2, 2, 1, 1))
        flow = np.rint(4 * np.sin(y / l1 + a) + 3 * np.cos(x / l2 + b)).clip(-8, 8)
    dx, dy = np.clip(flow[:, :, 0] + x, 0, W - 1) - x, np.clip(flow[:, :, 1] + y, 0, H - 1) - y
    return np.stack([dx, dy], 2).astype(np.float32)


# --- one op on all sides --------------------------------------------------------------------------
# Each gives {side: function}, and a check that raises if a side's result is not ours.
def search_case(C, patch, kind, stride, size, others):
    video = texture_video(C, size, size)
    flow = whole_flow(kind, size, size, stride)
    theirs = as_flow(flow)
    options = {"window": WINDOW, "patch": patch, "topk": TOPK, "stride": stride}
    sides = {"ours": lambda: shiftsearch.search(video, video, flow, **options)}
    for name, other in others.items():
        sides[name] = lambda other=other: other.search(video, video, theirs, stride, patch)

    def check(name, ours, result):
        scores, places = result
        close(name, scores, ours[0][0])
        same = (places == as_places(ours[1], stride)).all(-1).mean()
        if same < 0.999:  # sums that round to the same number may change places
            raise SystemExit(f"{name}: only {same:.2%} of the places are ours")

    return sides, check


def found(C, patch, size):
    video = texture_video(C, size, size)
    flow = whole_flow("smooth", size, size, 1)
    scores, offsets = shiftsearch.search(video, video, flow, window=WINDOW, patch=patch, topk=TOPK)
    weights = np.random.default_rng(0).random(scores.shape, np.float32)
    return video, weights, offsets, as_places(offsets, 1)


def aggregate_case(C, patch, size, others):
    video, weights, offsets, places = found(C, patch, size)
    sides = {"ours": lambda: shiftsearch.aggregate(video, weights, offsets, patch=patch)}
    for name, other in others.items():
        sides[name] = lambda other=other: other.aggregate(video, weights[0], places, patch)
    return sides, lambda name, ours, result: close(name, result, ours)


def backward_case(C, patch, size, others):
    from shiftsearch.backends import cpu
    from shiftsearch.ops.score import SCORE

    video, grad, offsets, places = found(C, patch, size)
    keys = texture_video(C, size, size, seed=5)
    inputs = {"q": video[None], "k": keys[None], "offsets": offsets[None]}
    spec = SCORE.specify(patch=patch)
    sides = {"ours": lambda: SCORE.backward(cpu, spec, inputs, {}, {"scores": grad[None]}, {"q", "k"})}
    for name, other in others.items():
        sides[name] = lambda other=other: other.backward(video, keys, grad[0], places, patch)

    def check(name, ours, result):
        for key, gradient in zip("qk", result, strict=True):
            close(f"{name}, gradient of {key}", gradient, ours[key][0])

    return sides, check


def close(name, found, expected):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error < 1e-5:
        raise SystemExit(f"{name}: differs from shiftsearch by {error:.1e} of the largest value; nothing was timed")


# --- measuring ------------------------------------------------------------------------------------
def race(sides, check, repeats=7, most=60.0):
    """Smallest CPU seconds of each side, taking turns; torch has two turns, for it takes long."""
    results = {name: run() for name, run in sides.items()}
    for name, result in results.items():
        if name != "ours":
            check(name, results["ours"], result)
    best = dict.fromkeys(sides, float("inf"))
    start = time.perf_counter()
    for turn in range(3 * repeats):
        if turn >= repeats and time.perf_counter() - start > 1:  # short ones have more turns
            break
        for name, run in sides.items():
            if name == "torch" and turn >= 2:
                continue
            before = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - before)
        if time.perf_counter() - start > most:
            break
    return best


def cases(quick):
    """(name, arguments of search_case or None, op, C, patch, target, beside torch)."""
    flows = ("rand", "smooth") if quick else ("rand", "block", "smooth")
    patches, stride4 = ((7, 1), ()) if quick else ((7, 3, 1), (7, 3, 1))
    torch_too = {(3, 7, 4)} if quick else {(16, 7, 4), (3, 7, 4), (16, 3, 4), (3, 3, 4), (3, 1, 1)}
    for C in (16, 3):
        for patch in patches:
            for kind, stride in [(kind, 1) for kind in flows] + [("rand", 4)] * (patch in stride4 or quick):
                name = f"search C={C} patch={patch} {kind}" + (f" stride={stride}" if stride > 1 else "")
                torch = kind == "rand" and (C, patch, stride) in torch_too
                yield name, search_case, (C, patch, kind, stride), SEARCH_TARGET[patch], torch
    torch_too = {(3, 1)} if quick else {(16, 7), (3, 7), (16, 3), (3, 1)}
    for op, case, target in (
        ("aggregate", aggregate_case, AGGREGATE_TARGET),
        ("backward", backward_case, BACKWARD_TARGET),
    ):
        for C in (16, 3):
            for patch in patches:
                yield f"{op} C={C} patch={patch}", case, (C, patch), target, (C, patch) in torch_too


def time_cases(quick, size, others):
    rows = []
    print(
        f"{'CPU ms on one thread':32} {'ours':>8} {'C++':>8} {'ratio':>6} {'target':>7}   {'torch':>8} {'by ours':>8}"
    )
    for name, case, arguments, target, with_torch in cases(quick):
        here = {key: other for key, other in others.items() if key != "torch" or with_torch}
        sides, check = case(*arguments, size, here)
        best = race(sides, check)
        ratio = best["ours"] / best["C++"] if "C++" in best else None
        row = {"case": name, **{f"{side} ms": 1e3 * s for side, s in best.items()}, "ratio": ratio, "target": target}
        rows.append(row)
        print(_line(row), flush=True)
    return rows


def _line(row):
    def number(value, form):
        return "" if value is None else format(value, form)

    ratio, torch = row["ratio"], row.get("torch ms")
    verdict = "" if ratio is None else "ok" if ratio <= row["target"] else "OVER"
    text = f"{row['case']:32} {row['ours ms']:8.1f} {number(row.get('C++ ms'), '.1f'):>8}"
    text += f" {number(ratio, '.2f'):>6} {row['target']:5.2f} {verdict:4}"
    if torch is not None:
        text += f" {torch:8.0f} {torch / row['ours ms']:6.0f}x"
    return text.rstrip()


def compare_flows(rows):
    """Return what a box filter over a tile of queries gains: smooth against wild flow, patch 7."""
    ms = {row["case"]: row["ours ms"] for row in rows}
    found = []
    for C, target in ((16, 3.0), (3, None)):
        gain = ms[f"search C={C} patch=7 rand"] / ms[f"search C={C} patch=7 smooth"]
        found.append({"case": f"smooth over wild flow, C={C} patch=7", "value": gain, "target": target})
    return found


def two_threads(size):
    """Wall time of one thread over that of two; means little while the machine is busy."""
    sides, _ = search_case(16, 7, "rand", 1, size, {})
    best = {1: float("inf"), 2: float("inf")}
    for _ in range(7):
        for threads in best:
            os.environ["SHIFTSEARCH_NUM_THREADS"] = str(threads)
            start = time.perf_counter()
            sides["ours"]()
            best[threads] = min(best[threads], time.perf_counter() - start)
    os.environ["SHIFTSEARCH_NUM_THREADS"] = "1"
    return [{"case": "two threads over one, wall, search C=16 patch=7", "value": best[1] / best[2], "target": 1.7}]


# --- in processes of their own --------------------------------------------------------------------
def probe_first_call(op, C):
    """CPU and wall seconds of the first call in this process, the import of numba included."""
    C, size = int(C), 64
    if op == "search":
        sides, _ = search_case(C, 7, "smooth", 1, size, {})
        run = sides["ours"]
    else:
        video = texture_video(C, size, size)
        offsets = np.zeros((1, T, size, size, TOPK, 3), np.int32)
        weights = np.ones(offsets.shape[:-1], np.float32)
        if op == "aggregate":

            def run():
                shiftsearch.aggregate(video, weights, offsets, patch=7)
        else:

            def run():
                from shiftsearch.backends import cpu
                from shiftsearch.ops.score import SCORE

                inputs = {"q": video[None], "k": video[None], "offsets": offsets[None]}
                SCORE.backward(cpu, SCORE.specify(patch=7), inputs, {}, {"scores": weights[None]}, {"q", "k"})

    cpu_before, before = time.process_time(), time.perf_counter()
    run()
    return {"cpu": time.process_time() - cpu_before, "wall": time.perf_counter() - before}


def probe_memory(C, size, threads):
    """Peak of this process during a search, above what it held before, beside what the search needs."""
    C, size = int(C), int(size)
    os.environ["SHIFTSEARCH_NUM_THREADS"] = threads
    search_case(C, 7, "smooth", 1, 32, {})[0]["ours"]()  # compiled, or read from disk
    rng = np.random.default_rng(0)
    before = _memory("VmRSS")
    inputs = [rng.standard_normal((T, C, size, size), np.float32) for _ in "qk"]
    inputs.append(np.full((T, 2, 2, size, size), 2, np.float32))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    outputs = shiftsearch.search(*inputs, window=WINDOW, patch=7, topk=TOPK)
    peak = _memory("VmHWM") - before
    inputs, outputs = (sum(a.nbytes for a in arrays) for arrays in (inputs, outputs))
    return {"peak": peak, "inputs": inputs, "outputs": outputs, "padded": 2 * T * C * (size + 6) ** 2 * 4}


def probe_attend(how, patch):
    """CPU seconds of attention to all places, and the peak of this process above what it held before."""
    video = np.random.default_rng(0).standard_normal((T, 16, 128, 128), np.float32)
    options, scale = {"patch": int(patch), "window": WINDOW, "topk": None}, 0.5 / (16 * int(patch) ** 2) ** 0.5

    def run(v):
        if how == "op":
            return shiftsearch.attend(v, v, v, **options)
        scores, offsets = shiftsearch.search(v, v, **options)
        weights = np.exp(-scale * scores)
        weights /= weights.sum(-1, keepdims=True)
        return shiftsearch.aggregate(v, weights, offsets, patch=int(patch))

    run(video[..., :32, :32])  # compiled, or read from disk
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.process_time()
    run(video)
    return {"cpu": time.process_time() - start, "peak": _memory("VmHWM") - before}


def _memory(name):
    return int(re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


PROBES = {"first_call": probe_first_call, "memory": probe_memory, "attend": probe_attend}


def in_new_process(probe, *arguments, cache):
    """Return what a probe prints in a separate process, and the stderr of that."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, "--probe", probe, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.strip()


def first_calls(quick, folder):
    found = []
    for op, C in [("search", 16)] if quick else [("search", 16), ("search", 3), ("aggregate", 16), ("backward", 16)]:
        cache = Path(folder) / f"{op}{C}"
        for state, target in (("cold", 8.0), ("from disk", 1.0)):
            times, said = in_new_process("first_call", op, C, cache=cache)
            row = {"case": f"first call {state}, {op} C={C} patch=7: CPU s", "value": times["cpu"], "target": target}
            found.append({**row, "wall s": times["wall"], "stderr": said})
    return found


def memory(folder):
    if not Path("/proc/self/clear_refs").exists():
        return []
    found = []
    for threads in (1, 2):
        used, _ = in_new_process("memory", 16, 256, threads, cache=Path(folder) / "search16")
        allowed = used["inputs"] + used["outputs"] + used["padded"]
        case = f"peak memory over inputs + outputs + 2 padded copies, {threads} thread" + "s" * (threads > 1)
        found.append({"case": case, "value": used["peak"] / allowed, "target": 1.0, "bytes": used})
    return found


def attention(folder):
    """Return the costs of `attend` to all places, and of search, softmax and aggregate, which keep them in memory."""
    found = []
    for patch in (1, 3) if Path("/proc/self/clear_refs").exists() else ():
        op, ops = (in_new_process("attend", how, patch, cache=Path(folder) / "attend")[0] for how in ("op", "ops"))
        used = {"attend": op["peak"], "search, softmax, aggregate": ops["peak"]}
        case = f"attend to all places, C=16 patch={patch}: "
        found.append(
            {"case": case + "CPU time over that of its parts", "value": op["cpu"] / ops["cpu"], "target": None}
        )
        value = op["peak"] / ops["peak"]
        found.append({"case": case + "peak memory over theirs", "value": value, "target": None, "bytes": used})
    return found


def print_facts(rows):
    for row in rows:
        higher = row["case"].startswith(("smooth", "two"))
        target = row["target"]
        met = target is None or (row["value"] >= target if higher else row["value"] <= target)
        wanted = "" if target is None else f"{'>=' if higher else '<='} {target:g} {'ok' if met else 'OVER'}"
        extra = f"   wall {row['wall s']:.2f} s" if "wall s" in row else ""
        extra += f"   stderr: {row['stderr']!r}" if "stderr" in row else ""
        if "bytes" in row:
            extra = "   " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in row["bytes"].items())
        print(f"{row['case']:66} {row['value']:6.2f} {wanted:12}{extra}".rstrip(), flush=True)


# --- report ---------------------------------------------------------------------------------------
def machine(others):
    import numba

    def output(*command):
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.splitlines()[0] if done.stdout else None

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        cpu = names[0] if names else cpu
    versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
    if "torch" in others:
        versions["torch"] = others["torch"].torch.__version__
    if "C++" in others:
        versions["g++"] = output("g++", "-dumpfullversion")
    versions["shiftsearch"] = shiftsearch.__version__
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    commit = output("git", "rev-parse", "--short", "HEAD")
    return {"cpu": cpu, "cores": os.cpu_count(), "load": load, "commit": commit, **versions}


def write_page(path, rows, facts, about):
    """Write the table between the two `speed` marks of a page."""
    shown = ["patch=7 rand", "patch=7 smooth", "patch=3 smooth", "patch=1 smooth"]
    pick = [f"search C={C} {rest}" for C in (16, 3) for rest in shown]
    pick += [f"{op} C={C} patch=7" for op in ("aggregate", "backward") for C in (16, 3)]
    table = ["| 5 frames of 128 x 128, one thread | ms | against C++ | against torch |", "| --- | ---: | ---: | ---: |"]
    torch_at = {row["case"]: row["torch ms"] / row["ours ms"] for row in rows if "torch ms" in row}
    for row in rows:
        if row["case"] in pick or row["case"] in torch_at:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} x the time"
            gain = f"{torch_at[row['case']]:.0f} x faster" if row["case"] in torch_at else ""
            table.append(f"| {row['case']} | {row['ours ms']:.1f} | {ratio} | {gain} |")
    first = {row["case"].split(",")[0]: row["value"] for row in facts if "search C=16" in row["case"]}
    versions = [f"{name} {about[name]}" for name in ("python", "numpy", "numba", "torch", "g++") if name in about]
    note = (
        f"Process CPU time on {about['cpu']} with {about['cores']} cores; {', '.join(versions)}. The first search of a "
        f"process takes {first['first call cold']:.1f} s while its kernels are compiled, and "
        f"{first['first call from disk']:.1f} s once they are on disk."
    )
    text = "\n".join([*table, "", *textwrap.wrap(note, 119)])
    marks = "<!-- speed: written by examples/benchmarks/cpu.py -->", "<!-- /speed -->"
    write_between(Path(path), marks, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases")
    parser.add_argument("--size", type=int, default=128, help="rows and columns of the frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as data")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the results into the table of a page")
    parser.add_argument("--probe", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        name, *arguments = given.probe
        print(json.dumps(PROBES[name](*arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        others, why = {}, Yardstick.missing()
        if why is None:
            others["C++"] = Yardstick(folder)
        else:
            print(f"without the C++ yardstick: {why}")
        try:
            others["torch"] = Torch()
        except ImportError:
            print("without torch: it is not installed")
        about = machine(others)
        print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
        rows = time_cases(given.quick, given.size, others)
        print()
        facts = []
        for measure in (
            lambda: compare_flows(rows),
            lambda: two_threads(given.size),
            lambda: first_calls(given.quick, folder),
            lambda: memory(folder),
            lambda: attention(folder),
        ):
            more = measure()
            print_facts(more)
            facts += more
    if given.json:
        given.json.write_text(
            json.dumps({"machine": about, "size": given.size, "cases": rows, "facts": facts}, indent=1)
        )
    if given.page:
        write_page(given.page, rows, facts, about)


if __name__ == "__main__":
    main()
