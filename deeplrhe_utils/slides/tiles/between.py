"""Windows between the tiles of a grid, for maps finer than the grid."""

from __future__ import annotations

import pandas as pd

from deeplrhe_utils.core.errors import ParameterError

_MOST_STEPS = 8
"""Finest subdivision: 64 windows for each tile."""


def windows_between(kept: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Windows that lie between kept tiles, at 1 / `steps` of their distance.

    A window is taken when kept tiles cover all of it: both neighbours of one that is moved along a row or column, all
    four of one that is moved along both; tiles that lie apart cover nothing between them. So it holds nothing that a
    filter has refused, and it needs no filter.

    Parameters
    ----------
    kept : kept rows of table TILES of one slide; columns tile_id, column, row, x_l0_px, y_l0_px, size_l0_px are used
    steps : 1 (none) to :data:`_MOST_STEPS`; 2 is half a tile

    Returns the same columns, one row per window, in order of tile and offset; x_l0_px and y_l0_px are whole level-0
    pixels, rounded down; the other columns are those of the tile to the upper left. tile_id is that tile's with the
    offset in steps, ``~column.row/steps``.
    Raises ParameterError: `steps` is out of range.
    """
    if not 1 <= steps <= _MOST_STEPS:
        raise ParameterError("A grid cannot be divided so", got=f"{steps} steps", expected=f"1 to {_MOST_STEPS}")
    offsets = [(a, b) for b in range(steps) for a in range(steps) if a or b]
    parts = [_moved(kept.reset_index(drop=True), a, b, steps) for a, b in offsets]
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True) if parts else kept.iloc[:0].copy()


def _moved(kept: pd.DataFrame, right: int, down: int, steps: int) -> pd.DataFrame:
    """The windows moved by `right` and `down` steps; the index is that of their tiles."""
    places = kept.set_index(["column", "row"])[["x_l0_px", "y_l0_px"]]
    to_right, below = int(right > 0), int(down > 0)
    needed = {(c, r) for c in (0, to_right) for r in (0, below)} - {(0, 0)}
    covered = pd.Series(True, index=kept.index)
    for c, r in needed:
        wanted = pd.MultiIndex.from_arrays([kept["column"] + c, kept["row"] + r])
        covered &= wanted.isin(places.index)
    found = kept[covered]
    neighbours = pd.MultiIndex.from_arrays([found["column"] + to_right, found["row"] + below])
    near = found[["x_l0_px", "y_l0_px"]].astype("int64")
    gap = places.loc[neighbours].set_axis(found.index).astype("int64") - near
    touching = (gap.max(axis=1) <= found["size_l0_px"] + 1).to_numpy(bool)  # tiles apart leave something uncovered
    found, near, gap = found[touching], near[touching], gap[touching]
    return found.assign(
        x_l0_px=near["x_l0_px"] + gap["x_l0_px"] * right // steps,
        y_l0_px=near["y_l0_px"] + gap["y_l0_px"] * down // steps,
        tile_id=found["tile_id"].astype(str) + f"~{right}.{down}/{steps}",
    )
