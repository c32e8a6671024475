"""From a slide to its tiles: lay the grid, judge every candidate, screen for ink and noise, draw a sample.

The functions here run in worker processes: their arguments can be pickled, and nothing is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import InputError, ParameterError, SlideError
from deeplrhe_utils.core.schemas import TILES, conform
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.slides.annotations import read_geojson, tumour_fraction, tumour_outline
from deeplrhe_utils.slides.grid import make_grid
from deeplrhe_utils.slides.pixels import open_row
from deeplrhe_utils.slides.quality import noise_ratio, pen_fraction
from deeplrhe_utils.slides.reader import Slide
from deeplrhe_utils.slides.tissue import background_fraction


def tile_slide(
    slide_row: Mapping[str, Any],
    *,
    target_mpp: float,
    tile_px: int,
    max_background: float,
    intensity_cut: float,
    min_tumour: float,
) -> pd.DataFrame:
    """Every candidate tile of one slide, kept or dropped with its reason.

    Parameters
    ----------
    slide_row : mapping
        One row of table SLIDES; its path (and annotation) must lead to the files from here.
    target_mpp : float
        Resolution of the tiles [µm/px].
    tile_px : int
        Side of the tiles [px].
    max_background : float
        Tiles with a larger share of background are dropped [0–1].
    intensity_cut : float
        Grey value from which a pixel is background [0–255].
    min_tumour : float
        Tiles with a smaller share inside the tumour outline are dropped, where there is one [0–1].

    Returns
    -------
    DataFrame
        Rows of table TILES. Reasons in order of precedence: unreadable, background, outside-tumour.

    Raises
    ------
    SlideError, AnnotationError, InputError
        The slide cannot be opened, its outline cannot be read, no tile fits. A tile that cannot be
        decoded is not an error: it stays in the table as ``unreadable``.
    """
    slide_id = str(slide_row["slide_id"])
    outline = _outline(slide_row)
    with open_row(slide_row) as slide:
        tiles = make_grid(*slide.dimensions, slide.mpp, target_mpp, tile_px, slide_id)
        background = [_background(slide, tile, tile_px, intensity_cut) for tile in tiles.itertuples()]
    tiles["slide_id"], tiles["patient_id"] = slide_id, str(slide_row["patient_id"])
    tiles["tile_id"] = [f"{slide_id}_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)]
    tiles["background_fraction"] = pd.array(background, dtype="Float64")
    tiles["tumour_fraction"] = pd.array(_tumour_fractions(tiles, outline), dtype="Float64")
    tiles["reason"] = _reasons(tiles, max_background, min_tumour)
    tiles["kept"] = tiles["reason"].isna()
    tiles["selected"] = False
    return conform(tiles, TILES)


def _outline(slide_row: Mapping[str, Any]) -> BaseGeometry | None:
    annotation = slide_row.get("annotation")
    if annotation is None or pd.isna(annotation) or not str(annotation):
        return None
    outline = tumour_outline(read_geojson(Path(str(annotation))))
    shapely.prepare(outline)
    return outline


def _background(slide: Slide, tile: Any, tile_px: int, intensity_cut: float) -> float | None:
    """Background of one tile; None when it cannot be decoded."""
    try:
        pixels = slide.read_tile(tile.x_l0_px, tile.y_l0_px, tile.size_l0_px, tile_px)
    except SlideError:
        return None
    return background_fraction(pixels, intensity_cut)


def _tumour_fractions(tiles: pd.DataFrame, outline: BaseGeometry | None) -> list[float | None]:
    if outline is None:
        return [None] * len(tiles)
    places = zip(tiles["x_l0_px"], tiles["y_l0_px"], tiles["size_l0_px"], strict=True)
    return [tumour_fraction(outline, *place) for place in places]


def _reasons(tiles: pd.DataFrame, max_background: float, min_tumour: float) -> pd.Series:
    reason = pd.Series(pd.NA, index=tiles.index, dtype="string")
    reason[(tiles["tumour_fraction"] < min_tumour).fillna(False)] = "outside-tumour"
    reason[(tiles["background_fraction"] > max_background).fillna(False)] = "background"
    reason[tiles["background_fraction"].isna()] = "unreadable"
    return reason


def screen_slide(
    slide_row: Mapping[str, Any],
    tiles: pd.DataFrame,
    *,
    target_mpp: float,
    tile_px: int,
    blur_cut: float,
    max_noise: float,
    max_pen: float,
    intensity_cut: float,
) -> pd.DataFrame:
    """Fill the pen and blur fractions and the noise ratio of a slide's kept tiles; drop the inked and the noisy ones.

    Parameters
    ----------
    slide_row : mapping
        One row of table SLIDES.
    tiles : DataFrame
        Its rows of table TILES (:func:`tile_slide`).
    target_mpp, tile_px : float, int
        As for :func:`tile_slide`.
    blur_cut : float
        Sharpness below which a block counts as blurred (:data:`~deeplrhe_utils.slides.quality.BLUR_CUT`).
    max_noise : float
        Tiles with a larger noise ratio are dropped, reason ``noise`` [0–1].
    max_pen : float
        Tiles with a larger share under felt-pen ink are dropped, reason ``pen`` [0–1].
    intensity_cut : float
        Grey value from which a pixel is blank [0–255].

    Returns
    -------
    DataFrame
        The same rows in the same order; tiles dropped before keep their reason and null noise. Reasons in
        order of precedence: unreadable, pen, noise. Pen comes before noise because ink on glass has no
        detail and looks blurred; the noise ratio itself is the paper's and knows nothing of ink.

    Raises
    ------
    SlideError
        The slide cannot be opened any more.
    ParameterError
        `tiles` holds rows of another slide.
    """
    tiles = tiles.reset_index(drop=True).copy()
    slide_id = str(slide_row["slide_id"])
    if len(foreign := tiles.loc[tiles["slide_id"] != slide_id, "slide_id"]):
        raise ParameterError(f"Tiles of another slide were given with slide {slide_id}", got=foreign.iloc[0])
    with open_row(slide_row) as slide:
        for index in tiles.index[tiles["kept"]]:
            tile = tiles.loc[index]
            try:
                pixels = slide.read_tile(tile.x_l0_px, tile.y_l0_px, tile.size_l0_px, tile_px)
            except SlideError:
                tiles.loc[index, ["kept", "reason"]] = [False, "unreadable"]
                continue
            noise = noise_ratio(pixels, target_mpp, blur_cut, intensity_cut)
            tiles.loc[index, "blur_fraction"] = noise.blur_fraction
            tiles.loc[index, "noise_ratio"] = noise.ratio
            tiles.loc[index, "pen_fraction"] = pen_fraction(pixels, target_mpp)
    # The later one overwrites: pen comes before noise.
    for column, reason, cut in (("noise_ratio", "noise", max_noise), ("pen_fraction", "pen", max_pen)):
        tiles.loc[(tiles[column] > cut).fillna(False), ["kept", "reason"]] = [False, reason]
    return conform(tiles, TILES)


def tile_or_reason(slide_row: Mapping[str, Any], **rules: Any) -> tuple[pd.DataFrame, str]:
    """:func:`tile_slide`, or no rows and the reason when the slide is too small, unreadable or badly annotated."""
    try:
        return tile_slide(slide_row, **rules), ""
    except InputError as error:
        return conform(pd.DataFrame(columns=[column.name for column in TILES.columns]), TILES), str(error)


def screen_pair(pair: tuple[Mapping[str, Any], pd.DataFrame], **cuts: Any) -> pd.DataFrame:
    """:func:`screen_slide` of one (slide row, its tiles) pair, for engines that hand over single items."""
    return screen_slide(*pair, **cuts)


def select_tiles(tiles: pd.DataFrame, max_per_slide: int, seed: int) -> pd.DataFrame:
    """Draw at most `max_per_slide` kept tiles of each slide.

    The draw of a slide depends on the seed, its name and its kept tiles alone: neither other slides nor
    the order of rows change it.

    Parameters
    ----------
    tiles : DataFrame
        Table TILES.
    max_per_slide : int
        Largest number of tiles per slide; 0 selects every kept tile.
    seed : int
        Seed.

    Returns
    -------
    DataFrame
        The same rows with `selected` set.
    """
    if max_per_slide < 0:
        raise ParameterError("The number of tiles per slide cannot be negative", got=max_per_slide, expected="0 = all")
    tiles = tiles.copy()
    kept = tiles.loc[tiles["kept"], ["slide_id", "tile_id"]]
    chosen: list[str] = []
    for slide_id, group in kept.groupby("slide_id", sort=True):
        names = np.sort(group["tile_id"].to_numpy(dtype=str))
        if max_per_slide:
            names = generator(seed, "select tiles", str(slide_id)).permutation(names)[:max_per_slide]
        chosen += names.tolist()
    tiles["selected"] = tiles["tile_id"].isin(chosen).astype("boolean")
    return tiles
