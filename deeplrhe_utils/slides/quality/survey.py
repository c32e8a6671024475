"""Survey a slide at low resolution: what can be decided on a coarse picture is decided before any tile is decoded.

The slide is walked in bands of tile rows. Each band is read once, at 2 or 4 µm/px, from the level and at the
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
from deeplrhe_utils.slides.decoding.sampling import Rgb, Square, Strip
from deeplrhe_utils.slides.quality.artefacts import SURVEY_MPP
from deeplrhe_utils.slides.quality.tissue import SlideGlass, glass_level, shares
from deeplrhe_utils.slides.reading.reader import Slide

_Mask = NDArray[np.bool_]
_Masks = Callable[[Rgb, float], Mapping[str, _Mask]]
"""From a picture and its resolution [µm/px] to named masks of its size."""

OVERVIEW_PX: Final = 512
"""Longer side of the picture in which glass is looked for [px], about."""
_LOST: Final = 0.01
_WHOLE_PX: Final = 4_000_000  # of the coarsest level: more is not read for the glass alone
_BAND_PX: Final = 3_000_000  # survey pixels of one band, margins included: some 100 MB with all its masks


def glass_of(slide: Slide) -> SlideGlass:
    """White level of a slide's glass, from a small picture of it; places that cannot be decoded count as no glass.

    Of a slide without a coarse level a mosaic of squares, spread evenly, stands for the whole, which would have to be
    decoded in full.
    """
    width, height = slide.dimensions
    if width * height / slide.downsamples[-1] ** 2 > _WHOLE_PX:
        return glass_level(_mosaic(slide))
    strip = slide.read_band(0, height, max(1.0, max(width, height) / OVERVIEW_PX), tolerant=True)
    strip.pixels[strip.lost] = 0
    return glass_level(strip.pixels)


def _mosaic(slide: Slide) -> Rgb:
    """64 squares of about 128 µm, 64 px each, side by side; those that cannot be decoded are black."""
    side = min(round(128 / slide.mpp), *slide.dimensions)
    across, down = (np.linspace(0, length - side, 8).astype(int) for length in slide.dimensions)
    squares = [Square(int(x), int(y), side) for y in down for x in across]
    found = [np.zeros((64, 64, 3), np.uint8) if isinstance(t, SlideError) else t for t in slide.read_tiles(squares, 64)]
    return np.concatenate([np.concatenate(found[i : i + 8], axis=1) for i in range(0, 64, 8)])


def survey(
    slide: Slide, tiles: pd.DataFrame, masks: _Masks, *, context_um: float, survey_mpp: float = SURVEY_MPP
) -> pd.DataFrame:
    """Share of every tile that each mask covers.

    Parameters
    ----------
    tiles : row, x_l0_px, y_l0_px, size_l0_px of the tiles, any subset of a grid, sorted by row; optionally width_l0_px,
        where a place is no square and its size its height
    masks : ``masks(rgb, mpp)`` gives named boolean masks of a picture (height, width, 3)
    context_um : how far around a tile the masks need to see [µm]
    survey_mpp : resolution at which the slide is looked at [µm/px]; the nearest one that is cheap is taken, never finer
        than the slide

    Returns one column per mask, indexed like `tiles`, in [0, 1]. Tiles of which more than 1 % cannot be decoded,
    neither at the level that is read nor at level 0, are null; what is lost counts as white for the others.
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
        first, last = float(row["y_l0_px"].min()), float((row["y_l0_px"] + row["size_l0_px"]).max())
        if band and (last - top > limit or first - bottom > margin):
            yield pd.concat(band)
            band = []
        top = top if band else first
        bottom = last
        band.append(row)
    if band:
        yield pd.concat(band)


def _survey_band(slide: Slide, band: pd.DataFrame, masks: _Masks, margin: float, factor: float) -> pd.DataFrame:
    top = band["y_l0_px"].min()
    bottom = (band["y_l0_px"] + band["size_l0_px"]).max()
    start = max(0.0, top - margin)
    strip = slide.read_band(start, bottom + margin - start, factor, tolerant=True)
    boxes = boxes_on(strip, band)
    found = masks(strip.pixels, slide.mpp * strip.step_l0_px)
    frame = pd.DataFrame({name: shares(mask, boxes) for name, mask in found.items()}, index=band.index)
    frame[shares(strip.lost, boxes) > _LOST] = np.nan
    return frame


def boxes_on(strip: Strip, tiles: pd.DataFrame) -> NDArray[np.float64]:
    """Left, top, right and bottom of tiles on a strip [px of the strip], shape (n, 4)."""
    left, top, side = (tiles[c].to_numpy(np.float64) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    width = tiles["width_l0_px"].to_numpy(np.float64) if "width_l0_px" in tiles else side
    corners = np.stack([left, top - strip.top_l0_px, left + width, top + side - strip.top_l0_px], axis=1)
    return corners / strip.step_l0_px
