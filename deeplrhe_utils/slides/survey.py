"""Survey a slide at low resolution: what can be decided on a coarse picture is decided before any tile is decoded.

The slide is walked in bands of tile rows. Each band is read once, at about 2 µm/px, from the level and at the
JPEG scale where that is cheapest, with a margin of context; masks are laid over it, and every tile gets its
share of each mask. Memory is that of one band, whatever the size of the slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.artefacts import SURVEY_MPP
from deeplrhe_utils.slides.reader import Slide
from deeplrhe_utils.slides.sampling import Rgb, Square, Strip
from deeplrhe_utils.slides.tissue import Glass, glass_level, shares

Mask = NDArray[np.bool_]
Masks = Callable[[Rgb, float], Mapping[str, Mask]]
"""From a picture and its resolution [µm/px] to named masks of its size."""

OVERVIEW_PX: Final = 512
"""Longer side of the picture in which glass is looked for [px], about."""
_BAND_PX: Final = 3_000_000  # survey pixels of one band, margins included: some 100 MB with all its masks


def glass_of(slide: Slide) -> Glass:
    """White level of a slide's glass, from a small picture of it; places that cannot be decoded count as no glass."""
    width, height = slide.dimensions
    try:
        picture = slide.read_band(0, height, max(1.0, max(width, height) / OVERVIEW_PX)).pixels
    except SlideError:
        picture = slide.thumbnail(OVERVIEW_PX, damaged=(0, 0, 0))
    return glass_level(picture)


def survey(
    slide: Slide, tiles: pd.DataFrame, masks: Masks, *, context_um: float, survey_mpp: float = SURVEY_MPP
) -> pd.DataFrame:
    """Share of every tile that each mask covers.

    Parameters
    ----------
    slide : Slide
        The slide.
    tiles : DataFrame
        row, x_l0_px, y_l0_px, size_l0_px of the tiles, any subset of a grid, sorted by row.
    masks : callable
        ``masks(rgb, mpp)`` gives named boolean masks of a picture (height, width, 3).
    context_um : float
        How far around a tile the masks need to see [µm].
    survey_mpp : float
        Resolution at which the slide is looked at [µm/px]; the nearest one that is cheap is taken, never finer
        than the slide.

    Returns
    -------
    DataFrame
        One column per mask, indexed like `tiles`, in [0, 1]. A band that cannot be decoded is looked at tile by
        tile, without context; tiles that cannot be decoded are null.
    """
    margin = context_um / slide.mpp
    factor = max(1.0, survey_mpp / slide.mpp)
    parts = [_survey_band(slide, band, masks, margin, factor) for band in _bands(slide, tiles, margin, factor)]
    return pd.concat(parts) if parts else pd.DataFrame(index=tiles.index)


def _bands(slide: Slide, tiles: pd.DataFrame, margin: float, factor: float) -> Iterator[pd.DataFrame]:
    """Neighbouring rows of tiles together, as many as fit a band; a gap of more than a margin begins a new one."""
    limit = _BAND_PX * factor**2 / slide.dimensions[0] - 2 * margin
    band: list[pd.DataFrame] = []
    top = bottom = 0.0
    for _, row in tiles.groupby("row", sort=True):
        first, last = float(row["y_l0_px"].iloc[0]), float(row["y_l0_px"].iloc[0] + row["size_l0_px"].iloc[0])
        if band and (last - top > limit or first - bottom > margin):
            yield pd.concat(band)
            band = []
        top = top if band else first
        bottom = last
        band.append(row)
    if band:
        yield pd.concat(band)


def _survey_band(slide: Slide, band: pd.DataFrame, masks: Masks, margin: float, factor: float) -> pd.DataFrame:
    top = band["y_l0_px"].min()
    bottom = (band["y_l0_px"] + band["size_l0_px"]).max()
    start = max(0.0, top - margin)
    try:
        strip = slide.read_band(start, bottom + margin - start, factor)
    except SlideError:
        return _one_by_one(slide, band, masks, factor)
    boxes = boxes_on(strip, band)
    found = masks(strip.pixels, slide.mpp * strip.step_l0_px)
    return pd.DataFrame({name: shares(mask, boxes) for name, mask in found.items()}, index=band.index)


def boxes_on(strip: Strip, tiles: pd.DataFrame) -> NDArray[np.float64]:
    """Left, top, right and bottom of tiles on a strip [px of the strip], shape (n, 4)."""
    left, top, side = (tiles[c].to_numpy(np.float64) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    corners = np.stack([left, top - strip.top_l0_px, left + side, top + side - strip.top_l0_px], axis=1)
    return corners / strip.step_l0_px


def _one_by_one(slide: Slide, band: pd.DataFrame, masks: Masks, factor: float) -> pd.DataFrame:
    size = float(band["size_l0_px"].iloc[0])
    out_px = max(1, round(size / factor))
    squares = [Square(int(t.x_l0_px), int(t.y_l0_px), size) for t in band.itertuples()]
    rows: list[dict[str, float]] = []
    for picture in slide.read_tiles(squares, out_px):
        found = {} if isinstance(picture, SlideError) else masks(picture, slide.mpp * size / out_px)
        rows.append({name: float(mask.mean()) for name, mask in found.items()})
    names = list(masks(np.full((out_px, out_px, 3), 255, np.uint8), slide.mpp * size / out_px))
    return pd.DataFrame(rows, index=band.index, columns=names, dtype=float)
