"""The tile grid: non-overlapping squares of a fixed physical size, laid by exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.units import exact_ratio


def make_grid(
    width_l0_px: int, height_l0_px: int, mpp: float, target_mpp: float, tile_px: int, slide_id: str = ""
) -> pd.DataFrame:
    """Lay non-overlapping tiles of `tile_px` at `target_mpp` from the top left corner.

    A tile's side in level-0 pixels, ``tile_px · target_mpp / mpp``, is an exact fraction; corners are
    rounded down to whole pixels one by one, so that the error never grows along the slide and two
    neighbours neither overlap nor gap by a whole pixel. Squares that would reach over the right or
    lower edge are left out.

    Parameters
    ----------
    width_l0_px, height_l0_px : int
        Slide size [level-0 px].
    mpp, target_mpp : float
        Resolution of level 0 and of the tiles [µm/px].
    tile_px : int
        Tile side [px at `target_mpp`].
    slide_id : str
        For the message.

    Returns
    -------
    DataFrame
        column, row (int64, from 0), x_l0_px, y_l0_px (int64), size_l0_px (float64), row by row.

    Raises
    ------
    ParameterError
        A size or resolution is not positive, or the tiles would be finer than one level-0 pixel.
    InputError
        Not one tile fits.

    Examples
    --------
    >>> make_grid(2100, 1100, 0.25, 0.5, 512)[["x_l0_px", "size_l0_px"]].values.tolist()
    [[0.0, 1024.0], [1024.0, 1024.0]]
    """
    if min(width_l0_px, height_l0_px, mpp, target_mpp, tile_px) <= 0:
        sizes = f"{width_l0_px} × {height_l0_px} px, {mpp} and {target_mpp} µm/px, tile {tile_px} px"
        raise ParameterError("Sizes and resolutions of a grid must be positive", got=sizes)
    ratio = exact_ratio(target_mpp, mpp)
    side = tile_px * ratio
    if side < 1:
        raise ParameterError("Tiles would be smaller than one level-0 pixel", got=f"{float(side):g} px")
    columns, rows = int(width_l0_px / side), int(height_l0_px / side)
    if columns < 1 or rows < 1:
        raise _nothing_fits(width_l0_px, height_l0_px, ratio, target_mpp, tile_px, slide_id)
    x = np.array([int(i * side) for i in range(columns)], dtype=np.int64)
    y = np.array([int(i * side) for i in range(rows)], dtype=np.int64)
    row, column = np.divmod(np.arange(rows * columns, dtype=np.int64), columns)
    return pd.DataFrame(
        {"column": column, "row": row, "x_l0_px": x[column], "y_l0_px": y[row], "size_l0_px": float(side)}
    )


def _nothing_fits(
    width: int, height: int, ratio: Fraction, target_mpp: float, tile_px: int, slide_id: str
) -> InputError:
    target = (int(width / ratio), int(height / ratio))
    largest = min(target)
    fix = f"Choose tile_px of at most {largest}" if largest >= 1 else "Leave the slide out"
    return InputError(
        f"No tile fits on slide {slide_id or '(unnamed)'}: at {target_mpp:g} µm/px it has {target[0]} × {target[1]} px",
        got=f"tile_px = {tile_px}",
        expected=f"at most {largest}",
        fix=fix,
    )
