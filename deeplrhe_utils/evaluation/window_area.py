"""Windows as areas: what they cover together, what they share with an outline, how far neighbours agree.

Source: ours; Moran's I after Moran 1950 (Biometrika 37:17).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

Floats = NDArray[np.float64]
FEWEST: Final = 3
"""Fewer windows with neighbours say nothing about agreement."""
MOST_FIELDS: Final = 50_000_000
"""Fields between the edges of windows that are counted at once; windows on a grid have far fewer."""
TOUCHING_PX: Final = 1.0
"""Windows of a fractional pitch begin at whole pixels, so neighbours lie up to one level-0 pixel apart."""


def disjoint(x: Floats, y: Floats, size: Floats) -> NDArray[np.object_]:
    """What squares cover together, as areas that do not overlap: so that nothing is counted twice.

    Parameters
    ----------
    x, y, size : (n,): top left corners and sides [level-0 px]; they may overlap

    Returns ndarray of shapely geometries [level-0 px]: rectangles, one per run along x; the same place is in one of
    them at most.
    """
    if not len(x):
        return np.array([], dtype=object)
    across, down = np.unique([x, x + size]), np.unique([y, y + size])
    if len(across) * len(down) > MOST_FIELDS:  # windows on no grid: the same areas, but slower
        return np.asarray(shapely.get_parts(shapely.union_all(shapely.box(x, y, x + size, y + size))))
    change = np.zeros((len(down), len(across)), np.int32)
    first, last = np.searchsorted(across, x), np.searchsorted(across, x + size)
    top, below = np.searchsorted(down, y), np.searchsorted(down, y + size)
    for row, column, sign in ((top, first, 1), (below, last, 1), (top, last, -1), (below, first, -1)):
        np.add.at(change, (row, column), sign)
    covered = np.pad(_summed(change) > 0, ((0, 0), (1, 0)))
    edge = np.diff(covered.astype(np.int8), axis=1)
    (rows, begin), end = np.nonzero(edge == 1), np.nonzero(edge == -1)[1]
    return np.asarray(shapely.box(across[begin], down[rows], across[end], down[rows + 1]))


def _summed(change: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sums along both axes, in place: NumPy's own would be of 64 bits, twice."""
    for axis in (0, 1):
        np.cumsum(change, axis=axis, dtype=np.int32, out=change)
    return change


def shared_area(areas: NDArray[np.object_], outline: BaseGeometry) -> float:
    """Area that areas which do not overlap (of :func:`disjoint`) share with an outline [px²]."""
    shapely.prepare(outline)
    within = shapely.contains_properly(outline, areas)
    across = areas[~within & shapely.intersects(outline, areas)]
    return float(shapely.area(areas[within]).sum() + shapely.area(shapely.intersection(across, outline)).sum())


def morans_i(x: Floats, y: Floats, size: Floats, score: Floats) -> float:
    """Moran's I of window scores: agreement of windows that touch, at sides or corners, or overlap.

    Parameters
    ----------
    x, y, size : (n,): top left corners and sides [level-0 px]. Windows at most one pixel apart touch.
    score : (n,): finite

    Returns float: about 1 where neighbours agree, −1 / (n − 1) on average where scores are laid out by chance, below it
    where neighbours differ more than others. Each pair of neighbours has weight 1; windows without neighbours are left
    out. NaN where fewer than :data:`FEWEST` windows have neighbours, or all of these have one score.
    """
    half = TOUCHING_PX / 2
    wider = shapely.box(x - half, y - half, x + size + half, y + size + half)
    first, second = shapely.STRtree(wider).query(wider, predicate="intersects")
    first, second = first[first != second], second[first != second]
    several = np.bincount(first, minlength=len(x)) > 0
    z = score - score[several].mean() if several.any() else score
    spread = float((z[several] ** 2).sum())
    if several.sum() < FEWEST or np.ptp(score[several]) == 0:
        return float("nan")
    return float(several.sum() / len(first) * (z[first] * z[second]).sum() / spread)
