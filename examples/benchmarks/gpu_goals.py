"""The goals: what each case is to take on an H100."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_cases import Case

UNITS = {  # of what is measured: gpu_steps.py has a function for each
    "forward": "ms",
    "both ways": "ms",
    "backward over forward": "x forward",
    "memory": "x inputs + outputs",
    "twice the pixels": "x the time",
    "align": "s",
}


@dataclass(frozen=True)
class Goal:
    name: str
    must: float
    stretch: float
    case: Case
    measure: str = "forward"

    @property
    def unit(self) -> str:
        return UNITS[self.measure]


_P1, _P3, _P7 = ({"patch": patch} for patch in (1, 3, 7))
_ATTEND = Case(op="attend", options=_P1, dtype="float16")
GOALS = (
    Goal("patch 7, zero flow", 1.0, 0.8, Case(options=_P7)),
    Goal("patch 7, smooth flow", 1.3, 1.0, Case(options=_P7, flow="smooth")),
    Goal("patch 7, dot", 0.8, 0.6, Case(options={**_P7, "metric": "dot"})),
    Goal("patch 7, half", 1.0, 0.5, Case(options=_P7, dtype="float16")),
    Goal("patch 7, random flow, 8 px", 6, 4.5, Case(options=_P7, flow="random")),
    Goal("patch 7, wild flow", 20, 12, Case(options=_P7, flow="wild")),
    Goal("patch 3", 0.9, 0.7, Case(options=_P3)),
    Goal("patch 1", 0.65, 0.45, Case(options=_P1)),
    Goal("patch 1, half, dot", 0.35, 0.2, Case(options={**_P1, "metric": "dot"}, dtype="float16")),
    Goal("patch 7, subpixel", 1.5, 1.0, Case(options={**_P7, "subpixel": True}, flow="fraction")),
    Goal("score patch 7, backward to q and k", 2, 1, Case(op="score", options=_P7), "backward over forward"),
    Goal("aggregate patch 7", 0.5, 0.3, Case(op="aggregate", options=_P7)),
    Goal("attend patch 1, half", 0.4, 0.25, _ATTEND),
    Goal("attend patch 1, half, both ways", 1.2, 0.8, _ATTEND, "both ways"),
    Goal("memory of patch 7, planar", 1.1, 1.05, Case(options=_P7), "memory"),
    Goal("memory of patch 7, strided", 1.1, 1.05, Case(options=_P7, layout="strided"), "memory"),
    Goal("twice the pixels, patch 7", 2.1, 2.0, Case(options=_P7), "twice the pixels"),
)
HD = Goal("60 frames of 1080p aligned, flow given", 1, 0.5, Case(frames=60, height=1080, width=1920), "align")
