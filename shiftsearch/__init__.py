"""Find, for each pixel of a video, the patches most like its own in the frames around, and read, average or add them."""

import importlib
import sys
import typing

from shiftsearch import flow
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import aggregate, coverage, stack
from shiftsearch.ops.attend import attend
from shiftsearch.ops.flow import chain_flow, neighbours, upsample_flow
from shiftsearch.ops.fold import fold
from shiftsearch.ops.gather import gather
from shiftsearch.ops.match import match
from shiftsearch.ops.refine import refine
from shiftsearch.ops.scatter import scatter
from shiftsearch.ops.score import score
from shiftsearch.ops.search import search
from shiftsearch.threads import get_num_threads, set_num_threads
from shiftsearch.video.align import align, align_clip, align_stream
from shiftsearch.video.chunks import chunks
from shiftsearch.video.denoise import denoise, denoise_overlap, denoise_stream, estimate_noise
from shiftsearch.video.scenes import scene_cuts

if sys.modules.get("torch"):  # programs saved by torch.export call the ops by name
    from shiftsearch import _torch as _torch
if typing.TYPE_CHECKING:
    from shiftsearch import models as models
    from shiftsearch import nn as nn

__version__ = "0.1.0"

__all__ = [
    "ShiftsearchError",
    "aggregate",
    "align",
    "align_clip",
    "align_stream",
    "attend",
    "chain_flow",
    "chunks",
    "coverage",
    "denoise",
    "denoise_overlap",
    "denoise_stream",
    "estimate_noise",
    "flow",
    "fold",
    "gather",
    "get_num_threads",
    "match",
    "neighbours",
    "refine",
    "scatter",
    "scene_cuts",
    "score",
    "search",
    "set_num_threads",
    "stack",
    "upsample_flow",
]


def __dir__() -> list[str]:
    """List the public names, as an interactive shell completes them."""
    return [*__all__, "models", "nn"]


if not typing.TYPE_CHECKING:  # a checker would take any name for one of these

    def __getattr__(name):
        """Import `shiftsearch.nn` or `shiftsearch.models`, which need torch, when it is first used."""
        if name in ("nn", "models"):
            return importlib.import_module(f"shiftsearch.{name}")
        raise AttributeError(f"module 'shiftsearch' has no attribute {name!r}")
