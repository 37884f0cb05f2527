"""Shifted non-local search in video: where are the pixels that belong to this one, how alike, and what to make of them."""

import importlib
import sys

from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import aggregate, coverage, scatter, stack
from shiftsearch.ops.flow import chain_flow, neighbours, upsample_flow
from shiftsearch.ops.gather import fold, gather
from shiftsearch.ops.score import score
from shiftsearch.ops.search import match, refine, search
from shiftsearch.video import flow  # noqa: F401 (a module, shiftsearch.flow)
from shiftsearch.video.align import align, align_clip, align_stream
from shiftsearch.video.chunks import chunks, scene_cuts
from shiftsearch.video.denoise import denoise, denoise_overlap, denoise_stream

if sys.modules.get("torch"):  # its saved programs call the ops by name
    from shiftsearch import _torch as _torch

__version__ = "0.1.0"

__all__ = [
    "ShiftsearchError",
    "aggregate",
    "align",
    "align_clip",
    "align_stream",
    "chain_flow",
    "chunks",
    "coverage",
    "denoise",
    "denoise_overlap",
    "denoise_stream",
    "fold",
    "gather",
    "match",
    "neighbours",
    "refine",
    "scatter",
    "scene_cuts",
    "score",
    "search",
    "stack",
    "upsample_flow",
]


def __getattr__(name):
    """`shiftsearch.nn` and `shiftsearch.models`, which need torch, when they are first asked for."""
    if name in ("nn", "models"):
        return importlib.import_module(f"shiftsearch.{name}")
    raise AttributeError(f"module 'shiftsearch' has no attribute {name!r}")
