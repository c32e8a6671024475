"""The tile grid: squares of a fixed physical size, laid by exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.units import exact_ratio

INSIDE, COVER = "inside", "cover"
EDGES: Final = (INSIDE, COVER)
"""What happens at the right and lower edge: squares that would hang over are left out, or moved inside."""


def _corners(length: int, side: Fraction, step: Fraction, edge: str) -> NDArray[np.int64]:
    """First level-0 pixels of tiles along one side of a slide: each exact place is rounded down by itself, so that
    nothing adds up; with edge ``cover`` one more may be moved inside.
    """
    regular = 0 if side > length else 1 + int((length - side) / step)
    moved = edge == COVER and regular > 0 and length - (regular - 1) * step - side > 0
    return np.array([*(int(i * step) for i in range(regular)), *[int(length - side)] * moved], np.int64)


def make_grid(
    width_l0_px: int, height_l0_px: int, mpp: float, target_mpp: float, tile_px: int, slide_id: str = "",
    *, stride_px: int = 0, edge: str = INSIDE,
) -> pd.DataFrame:  # fmt: skip
    """Lay tiles of `tile_px` at `target_mpp` from the top left corner.

    A tile's side in level-0 pixels, ``tile_px · target_mpp / mpp``, is an exact fraction; corners are
    rounded down to whole pixels one by one, so that the error never grows along the slide and two
    neighbours neither overlap nor gap by a whole pixel.

    Parameters
    ----------
    width_l0_px, height_l0_px : slide size [level-0 px]
    mpp, target_mpp : resolution of level 0 and of the tiles [µm/px]
    tile_px : tile side [px at `target_mpp`]
    slide_id : for the message
    stride_px : distance between corners [px at `target_mpp`]; smaller than `tile_px` the tiles overlap; 0 is `tile_px`
    edge : ``inside``: squares that would reach over the right or lower edge are left out; ``cover``: one more column
        and row is moved inside, so that every pixel lies in a tile

    Returns column, row (int64, from 0), x_l0_px, y_l0_px (int64), size_l0_px (float64), row by row.
    Raises ParameterError: a size or resolution is not positive, `edge` is unknown, or the tiles would be finer than one
    level-0 pixel. InputError: not one tile fits.

    >>> make_grid(2100, 1100, 0.25, 0.5, 512)[["x_l0_px", "size_l0_px"]].values.tolist()
    [[0.0, 1024.0], [1024.0, 1024.0]]
    >>> make_grid(2100, 1100, 0.25, 0.5, 512, edge="cover")["x_l0_px"].tolist()
    [0, 1024, 1076, 0, 1024, 1076]
    """
    if min(width_l0_px, height_l0_px, mpp, target_mpp, tile_px) <= 0 or stride_px < 0:
        sizes = f"{width_l0_px} × {height_l0_px} px, {mpp} and {target_mpp} µm/px, tile {tile_px} px"
        got = f"{sizes}, stride {stride_px} px"
        raise ParameterError("Sizes and resolutions of a grid must be positive", got=got)
    if edge not in EDGES:
        raise ParameterError("There is no such rule for the edge", got=edge, expected=" or ".join(EDGES))
    ratio = exact_ratio(target_mpp, mpp)
    side, step = tile_px * ratio, (stride_px or tile_px) * ratio
    if min(side, step) < 1:
        raise ParameterError(
            "Tiles would be smaller, or closer, than one level-0 pixel", got=f"{float(min(side, step)):g} px"
        )
    x, y = (_corners(length, side, step, edge) for length in (width_l0_px, height_l0_px))
    if not len(x) or not len(y):
        raise _nothing_fits(width_l0_px, height_l0_px, ratio, target_mpp, tile_px, slide_id)
    row, column = np.divmod(np.arange(len(x) * len(y), dtype=np.int64), len(x))
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
