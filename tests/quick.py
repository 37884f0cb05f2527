"""The quick run: a choice of the parameters of each test that still has each of their values at least once.

The choice is computed, so that an option or a case that is added is in the quick run without being listed here.
A case of the table shows its op with every option, and it must do so on each backend; each op runs in each dtype of a backend.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import fields
from functools import cache
from heapq import heapify, heappop, heappush

import pytest
from backends import Run
from cases import Case


def facts(parameters: dict[str, object], options_on: Collection[str] | None = None) -> set[Hashable]:
    """Return what a test covers with these parameters; values are compared by identity.

    `options_on` names the backends on which the test must cover every option, None for all. On others it covers the op.
    """
    run, case = (parameters.get(name) for name in ("run", "case"))
    where = run.backend if isinstance(run, Run) else id(parameters.get("backend"))
    if not isinstance(case, Case):
        return {(where if value is not run else None, name, id(value)) for name, value in parameters.items()}
    others = {(case.op.name, name, id(value)) for name, value in parameters.items() if value is not case}
    everything = options_on is None or where in options_on
    return {(where, case.op.name)} | {(where, *option) for option in options(case) if everything} | others


@cache
def options(case: Case) -> set[tuple[str, str, Hashable]]:
    """Return (op, option, value) of all options of a case; its name and size are none."""
    chosen = {f.name: getattr(case, f.name) for f in fields(case) if f.name not in ("name", "size", "options")}
    chosen |= {f"option {f.name}": getattr(case.spec, f.name) for f in fields(case.spec)}
    return {(case.op.name, name, kind(value)) for name, value in chosen.items()}


def kind(value: object) -> str:
    """Return what counts as the value of an option: numbers above 3 are alike, but for even and odd ones."""
    if isinstance(value, tuple):
        return str(tuple(map(kind, value)))
    if isinstance(value, (int, float)) and value > 3:
        return "an even number" if value % 2 == 0 else "a number"
    return str(value)


def shown_by(cases: Sequence[object], *places: int) -> list[object]:
    """Return parameters of which only those at these places are in the quick run."""
    marks = {place: pytest.mark.full for place in range(len(cases)) if place not in places}
    names = [getattr(case, "name", str(case)) for case in cases]
    return [
        pytest.param(case, id=name, marks=marks.get(i, ()))
        for i, (case, name) in enumerate(zip(cases, names, strict=True))
    ]


def cover(shown: Sequence[set[Hashable]]) -> list[int]:
    """Return indices into `shown` that together cover everything: each time the first of those that add most."""
    missing, chosen = set().union(*shown), []
    waiting = [(-len(each), place) for place, each in enumerate(shown)]
    heapify(waiting)
    while missing:
        _, place = heappop(waiting)
        adds = (-len(shown[place] & missing), place)
        if waiting and waiting[0] < adds:  # it added more before others were chosen
            heappush(waiting, adds)
            continue
        chosen.append(place)
        missing -= shown[place]
    return sorted(chosen)
