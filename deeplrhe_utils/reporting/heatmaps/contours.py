"""Outlines of where a heat map is high: along the windows themselves, or along the pixels of a drawn map.

Source: ours. Outlines of windows are exact level sets of the paper's map (mean of the windows that cover a place): the
map is constant between the edges of windows, so it is computed once for each field of that irregular grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.reporting.heatmaps.bands import Frame
from deeplrhe_utils.slides.outlines.masks import trace_edges

_MOST_FIELDS: Final = 50_000_000
"""Fields between the edges of windows that are computed one by one; windows on a grid have far fewer."""


class Contour(NamedTuple):
    """Where a map is at least `threshold`: ``geometry``, a MultiPolygon [level-0 px], empty where it is nowhere."""

    threshold: float
    geometry: shapely.MultiPolygon


def window_contours(tiles: pd.DataFrame, scores: NDArray[np.float64], thresholds: Sequence[float]) -> list[Contour]:
    """Exact outlines of where the mean of the covering windows reaches each threshold.

    Parameters
    ----------
    tiles : columns x_l0_px, y_l0_px, size_l0_px [level-0 px]
    scores : (n,): score of each window; NaN windows are left out
    thresholds : from 0 to 1, each once

    Returns list of Contour: one per threshold, from the lowest. Edges that are less than a level-0 pixel apart are one
    (tiles of fractional size begin at whole pixels), so an outline is displaced by less than one level-0 pixel.

    Raises ParameterError: a threshold is not from 0 to 1 or stands twice; the windows lie on no grid, and there are too
    many. AnnotationError: an outline has too many corners.
    """
    known = ~np.isnan(scores)
    x, y, size = (tiles[c].to_numpy(float)[known] for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    levels = _checked(thresholds)
    if not len(x):
        return [Contour(level, shapely.MultiPolygon()) for level in levels]
    across, columns = _fields(x, x + size)
    down, rows = _fields(y, y + size)
    if len(across) * len(down) > _MOST_FIELDS:
        raise ParameterError("The windows lie on no grid, and are too many for exact outlines", got=len(x),
                             fix="Take the outlines of the map (map_contours)")  # fmt: skip
    total, count = np.zeros((len(down) - 1, len(across) - 1)), np.zeros((len(down) - 1, len(across) - 1), np.int64)
    for (top, below), (left, right), score in zip(rows.T, columns.T, scores[known], strict=True):
        total[top:below, left:right] += score
        count[top:below, left:right] += 1
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return [Contour(level, _outline(mean >= level, across, down)) for level in levels]


def map_contours(mean: NDArray[np.floating], frame: Frame, thresholds: Sequence[float]) -> list[Contour]:
    """Outlines of the pixels of a map that reach each threshold; exact to a map pixel.

    Parameters
    ----------
    mean : (rows, columns): the map, NaN where nothing was measured

    Returns list of Contour, from the lowest threshold; cut at the slide's edge.
    """
    across = np.minimum(np.arange(frame.columns + 1) * frame.step_x, frame.width_l0_px)
    down = np.minimum(np.arange(frame.rows + 1) * frame.step_y, frame.height_l0_px)
    return [Contour(level, _outline(mean >= level, across, down)) for level in _checked(thresholds)]


def _checked(thresholds: Sequence[float]) -> list[float]:
    levels = sorted(float(t) for t in thresholds)
    if not all(0 <= t <= 1 for t in levels) or len(set(levels)) < len(levels):
        raise ParameterError("Thresholds of a map must be probabilities, each once", got=list(thresholds),
                             expected="0 to 1")  # fmt: skip
    return levels


def _fields(first: NDArray[np.float64], last: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Edges of the irregular grid, and the first and last edge of every window."""
    edges = np.unique(np.concatenate([first, last]))
    kept = [edges[0]]
    for edge in edges[1:]:
        if edge - kept[-1] >= 1:
            kept.append(edge)
    grid = np.array(kept)
    return grid, np.stack([np.searchsorted(grid, one, side="right") - 1 for one in (first, last)])


def _outline(inside: NDArray[np.bool_], across: NDArray[np.float64], down: NDArray[np.float64]) -> shapely.MultiPolygon:
    if not inside.any():
        return shapely.MultiPolygon()

    def to_l0(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        column, row = corners.T.astype(np.intp)
        return np.column_stack([across[column], down[row]])

    traced = shapely.transform(trace_edges(inside, "of a heat map"), to_l0)
    return traced if isinstance(traced, shapely.MultiPolygon) else shapely.MultiPolygon([traced])
