"""Fields of vectors that pull at each other."""

from __future__ import annotations

import numpy as np

from shiftsearch._primitive import primitive
from shiftsearch._types import Native
from shiftsearch.definition.places import silent


@primitive
@silent()
def settle(
    flow: Native,
    xx: Native,
    xy: Native,
    yy: Native,
    x: Native,
    y: Native,
    *,
    stiff: float,
    held: float,
    steps: int,
    renewed: int,
) -> Native:
    """Return flow f (n, 2, h, w) after steps that fit it to data, each (n, h, w), and to its neighbours g.

    A step makes the following smallest at each pixel, where neighbours, and itself e, stay as they were before it:

        f' [[xx, xy], [xy, yy]] f - 2 [x, y] f + sum over g of bond * (f - g)**2 + held * (f - e)**2

    The bonds, stiff / (1 + (e - g)**2), are those of the flow at the beginning, and at the end of each `renewed` steps.
    """
    for step in range(steps):
        if step % renewed == 0:
            bonds = _bonds(flow, stiff)
        pull, total = held * flow, held + np.zeros_like(xx)
        for bond, here, there in zip(bonds, _HERE, _THERE, strict=True):
            pull[here] += bond[:, None] * flow[there]
            total[here[0], *here[2:]] += bond
        a, c, right = xx + total, yy + total, np.stack((x, y), 1) + pull
        scale = 1 / np.maximum(a * c - xy**2, held**2)
        dx, dy = right[:, 0], right[:, 1]
        flow = np.stack(((c * dx - xy * dy) * scale, (a * dy - xy * dx) * scale), 1)
    return flow


_FIRST, _LAST = slice(None, -1), slice(1, None)
_HERE = np.s_[:, :, :, _FIRST], np.s_[:, :, :, _LAST], np.s_[:, :, _FIRST, :], np.s_[:, :, _LAST, :]
_THERE = _HERE[1], _HERE[0], _HERE[3], _HERE[2]


def _bonds(flow: Native, stiff: float) -> list[Native]:
    """Return how strongly the neighbours to the right, left, below and above pull at each pixel that has one."""
    return [stiff / (1 + ((flow[there] - flow[here]) ** 2).sum(1)) for here, there in zip(_HERE, _THERE, strict=True)]
