"""`shiftsearch demo`: a drawn film with noise is denoised, searched and aligned. A table and a picture show the result.

Every number is computed in this run: the film is drawn, so its frames without noise and its motion are known.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from shiftsearch.demo.jobs import Job, compiling, work
from shiftsearch.demo.picture import picture
from shiftsearch.demo.scene import scene, with_noise
from shiftsearch.threads import get_num_threads
from shiftsearch.video.io.pictures import png
from shiftsearch.video.io.whole import whole

NOISE = 20  # standard deviation; white is 255
_NEXT = 'Next, with your own video: pip install "shiftsearch[video]" && shiftsearch denoise VIDEO -o clean.mkv'


def run(output: str | Path, numbers: str | Path | None = None) -> list[Job]:
    """Do the jobs, print the table and write the picture. With `numbers` also write the table there, as JSON."""
    with whole(output) as part, contextlib.nullcontext() if numbers is None else whole(numbers) as file:
        film = scene()
        count, height, width = film.layers.shape
        print(f"A drawn film: {count} frames of {width} x {height} pixels, noise {NOISE} (white is 255)\n", flush=True)
        done = work(film, with_noise(film.frames, NOISE))
        print("\n".join(table(done.jobs)), flush=True)
        part.write_bytes(png(picture(film, done)))
        if file is not None:
            file.write_text(json.dumps([job._asdict() for job in done.jobs], indent=1) + "\n", encoding="utf-8")
    once = f", and {compiling():.0f} s to compile the kernels, once" if compiling() else ""
    print(f"\nThis took {sum(job.seconds for job in done.jobs):.1f} s on {get_num_threads()} threads{once}.")
    print(f"The picture is in {output}.\n{_NEXT}")
    return done.jobs


def table(jobs: list[Job]) -> list[str]:
    """Return the lines of the table."""
    lines = [f"{'':39}{'before':>10}{'after':>10}   {'':18}{'time':>6}"]
    for job in jobs:
        figures = [f"{value:.1f} dB" if job.unit == "dB" else f"{value:.2f} px" for value in (job.before, job.after)]
        gain = f"{job.times:.1f} x less error"
        lines.append(f"{job.name:8}{job.does:31}{figures[0]:>10}{figures[1]:>10}   {gain:18}{job.seconds:4.1f} s")
    return lines
