"""Pixels of the tiles table, whatever they come from: whole slides or folders of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.slides.reader import Slide

if TYPE_CHECKING:
    import pandas as pd


def open_row(slide: Mapping[str, Any]) -> Slide:
    """Open the slide of one row of the slides table (absolute `path`) at the resolution the row states, if any."""
    import pandas as pd

    mpp = slide.get("mpp")
    return Slide(Path(slide["path"]), mpp=None if mpp is None or pd.isna(mpp) else float(mpp))


def read_pixels(slide: dict[str, Any], tiles: pd.DataFrame, tile_px: int) -> list[NDArray[np.uint8]]:
    """Tiles of one slide, in the order of `tiles`.

    Parameters
    ----------
    slide : dict
        The slide's row of the slides table with an absolute `path`.
    tiles : DataFrame
        Rows of the tiles table, all of this slide; rows with a `path` are image files of their own.
    tile_px : int
        Side of a tile read from a slide [px]; image files keep their size.

    Returns
    -------
    list of uint8 RGB (H, W, 3)
    """
    if tiles["path"].notna().any():
        return [read_image(Path(path)) for path in tiles["path"]]
    with open_row(slide) as opened:
        return [
            opened.read_tile(int(row.x_l0_px), int(row.y_l0_px), float(row.size_l0_px), tile_px)
            for row in tiles.itertuples()
        ]


def read_group(source: dict[str, dict[str, Any]], tile_px: int, tiles: pd.DataFrame) -> list[NDArray[np.uint8]]:
    """:func:`read_pixels` of the slide that `tiles` belongs to, looked up in `source` (slide_id → row)."""
    return read_pixels(source[str(tiles["slide_id"].iloc[0])], tiles, tile_px)


def read_image(path: Path) -> NDArray[np.uint8]:
    """A whole image file as uint8 RGB (H, W, 3)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(
            f"The tile {path} cannot be read ({error})", fix="Restore the file, or run from notebook 01 again"
        ) from error


def shrink(tile: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Area-average a square tile down to `side_px`; a smaller tile is returned as it is."""
    if tile.shape[0] <= side_px:
        return tile
    return np.asarray(cv2.resize(tile, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)
