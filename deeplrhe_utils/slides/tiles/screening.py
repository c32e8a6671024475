"""From candidate tiles to tiles one may learn from: ink, folds, bubbles, blank and blurred areas, compression damage.

The functions here run in worker processes: their arguments can be pickled, and nothing is shared. Every tile
keeps its row; a tile that was dropped carries the first reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError, SlideError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import TILES
from deeplrhe_utils.slides.decoding.sampling import Rgb, reduce_whole
from deeplrhe_utils.slides.quality.artefacts import (
    ARTEFACT_MPP,
    CONTEXT_UM,
    SURVEY_MPP,
    SurveyRules,
    artefact_masks,
)
from deeplrhe_utils.slides.quality.blocks import JPEG_PX, LEAST_BLOCK_PX, jpeg_damage, mean_grey
from deeplrhe_utils.slides.quality.blur import BLUR_CUT, noise_ratio
from deeplrhe_utils.slides.quality.survey import glass_of, survey
from deeplrhe_utils.slides.quality.tissue import SlideGlass, background_mask
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.pixels import open_row, squares_of

_CLEAN: Final = 0.05
_MOST_BLANK: Final = 0.5


@dataclass(frozen=True)
class ScreenRules:
    """Quality rules of notebook 03; a share above its largest value drops a tile [0–1].

    Attributes
    ----------
    target_mpp, tile_px : as tiled
    max_pen, max_fold, max_bubble : shares seen in the survey
    max_noise : noise ratio, (blank + blurred area) / total area
    max_jpeg : share damaged by compression
    blur_cut : sharpness below which a block counts as blurred (`BLUR_CUT`)
    survey_mpp : resolution of the mask of blank areas in the noise ratio [µm/px]
    artefact_mpp : resolution at which ink, folds and bubbles are looked for [µm/px]
    survey : what counts as background, ink, fold and bubble
    """

    target_mpp: float = 0.5
    tile_px: int = 512
    max_pen: float = 0.1
    max_fold: float = 0.25
    max_bubble: float = 0.25
    max_noise: float = 0.75
    max_jpeg: float = 0.25
    blur_cut: float = BLUR_CUT
    survey_mpp: float = SURVEY_MPP
    artefact_mpp: float = ARTEFACT_MPP
    survey: SurveyRules = field(default_factory=SurveyRules)


def screen_slide(slide_row: Mapping[str, Any], tiles: pd.DataFrame, rules: ScreenRules | None = None) -> pd.DataFrame:
    """Look at a slide's kept tiles for ink, folds, bubbles, blur, blank areas and compression damage.

    First at low resolution; what is dropped there is never decoded at full size, and its noise stays null.

    Parameters
    ----------
    slide_row : one row of table SLIDES
    tiles : its rows of table TILES (:func:`tile_slide`)
    rules : quality rules

    Returns the same rows in the same order; tiles dropped before keep their reason. Reasons in order of precedence:
    unreadable, pen, fold, bubble, noise, jpeg.
    Raises SlideError: the slide cannot be opened any more, or was changed while it was read. ParameterError: `tiles`
    holds rows of another slide.
    """
    rules = rules or ScreenRules()
    tiles = tiles.reset_index(drop=True).copy()
    slide_id = str(slide_row["slide_id"])
    if len(foreign := tiles.loc[tiles["slide_id"] != slide_id, "slide_id"]):
        raise ParameterError(f"Tiles of another slide were given with slide {slide_id}", got=foreign.iloc[0])
    with open_row(slide_row) as slide:
        glass = glass_of(slide)
        _survey_artefacts(slide, tiles, glass, rules)
        _look_closely(slide, tiles, glass, rules)
        slide.check_unchanged()
    return conform(tiles, TILES)


def _survey_artefacts(slide: Slide, tiles: pd.DataFrame, glass: SlideGlass, rules: ScreenRules) -> None:
    """Fill the shares under pen, folds and bubbles of the kept tiles, in place, and drop."""
    kept = tiles[tiles["kept"]]
    if kept.empty:
        return
    found = survey(
        slide, kept, lambda rgb, mpp: artefact_masks(rgb, mpp, glass, rules.survey),
        context_um=CONTEXT_UM, survey_mpp=rules.artefact_mpp,
    )  # fmt: skip
    for name in found:
        tiles.loc[kept.index, f"{name}_fraction"] = found[name].astype("Float64")
    _drop(tiles, found.index[found.isna().any(axis=1)], "unreadable")
    for name, largest in (("pen", rules.max_pen), ("fold", rules.max_fold), ("bubble", rules.max_bubble)):
        _drop(tiles, found.index[found[name] > largest], name)


def _look_closely(slide: Slide, tiles: pd.DataFrame, glass: SlideGlass, rules: ScreenRules) -> None:
    """Decode the tiles that are left, fill noise and compression damage, in place, and drop."""
    kept = tiles[tiles["kept"]]
    squares, block_px = squares_of(kept), _block_px(slide, rules.target_mpp)
    measured, reasons = np.full((len(kept), 3), np.nan), np.full(len(kept), "", object)
    for i, pixels in enumerate(slide.read_tiles(squares, rules.tile_px)):
        if isinstance(pixels, SlideError):
            reasons[i] = "unreadable"
            continue
        grey, blank = mean_grey(pixels), blank_of(pixels, glass, rules)
        noise = noise_ratio(pixels, rules.target_mpp, rules.blur_cut, blank=blank, grey=grey)
        # In scans much finer than the tile the blocks of JPEG are too small to be seen: not assessed is null.
        damage = jpeg_damage(grey, block_px) if block_px >= LEAST_BLOCK_PX else np.nan
        measured[i] = noise.blur_fraction, noise.ratio, damage
        reasons[i] = "noise" if noise.ratio > rules.max_noise else "jpeg" if damage > rules.max_jpeg else ""
    for column, name in enumerate(("blur_fraction", "noise_ratio", "jpeg_fraction")):
        tiles.loc[kept.index, name] = pd.array(measured[:, column], dtype="Float64")
    for reason in ("unreadable", "noise", "jpeg"):
        _drop(tiles, kept.index[reasons == reason], reason)


def _block_px(slide: Slide, mpp: float) -> float:
    """Side of a JPEG block in a picture of `mpp` [px]: smaller than as stored, because the picture is reduced."""
    return JPEG_PX * slide.source_mpp(mpp / slide.mpp) / mpp


def blank_of(pixels: Rgb, glass: SlideGlass, rules: ScreenRules) -> NDArray[np.bool_]:
    """Blank areas of a tile, found at survey resolution: bool, shape (height, width)."""
    side = max(1, round(pixels.shape[0] * rules.target_mpp / max(rules.survey_mpp, rules.target_mpp)))
    small = pixels
    while small.shape[0] % 2 == 0 and small.shape[0] > 2 * side:  # halving is three times as fast as quartering
        small = reduce_whole(small, 2)
    small = np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    mpp = rules.target_mpp * pixels.shape[0] / side
    blank = background_mask(small, glass=glass, mpp=mpp, rules=rules.survey)
    return cv2.resize(blank.astype(np.uint8), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _drop(tiles: pd.DataFrame, which: Iterable[int], reason: str) -> None:
    """Drop tiles that are still kept, in place: the first reason stays."""
    which = tiles.index[tiles.index.isin(list(which)) & tiles["kept"].to_numpy(bool)]
    tiles.loc[which, ["kept", "selected"]] = False
    tiles.loc[which, "reason"] = reason


class Field(NamedTuple):
    """A square of a slide.

    ``picture`` : RGB, uint8, (side, side, 3). ``mpp`` : its resolution [µm/px]. ``glass`` : white level of its slide.
    ``block_px`` : side of a JPEG block in it [px].
    """

    picture: Rgb
    mpp: float
    glass: SlideGlass
    block_px: float


def surroundings(slide_row: Mapping[str, Any], tile: Mapping[str, Any], mpp: float, width_um: float = 1024) -> Field:
    """The square around a tile's centre, moved inside the slide.

    Parameters
    ----------
    slide_row, tile : a row of table SLIDES and one of table TILES
    mpp : resolution of the picture, not finer than the slide's [µm/px]
    width_um : side of the square, at most the slide's [µm]
    """
    with open_row(slide_row) as slide:
        side = int(min(width_um / slide.mpp, *slide.dimensions))
        centres = (float(tile[c]) + float(tile["size_l0_px"]) / 2 for c in ("x_l0_px", "y_l0_px"))
        x, y = (int(np.clip(c - side / 2, 0, d - side)) for c, d in zip(centres, slide.dimensions, strict=True))
        out_px = max(1, round(side * slide.mpp / max(mpp, slide.mpp)))
        picture, true_mpp = slide.read_tile(x, y, side, out_px), slide.mpp * side / out_px
        return Field(picture, true_mpp, glass_of(slide), _block_px(slide, true_mpp))


def clean_tiles(tiles: pd.DataFrame, n: int, seed: int, reach: float = 0.0) -> pd.DataFrame:
    """Kept tiles, half tissue or more, in which nothing was found (shares below 5 %), drawn at random, slide by slide.

    Parameters
    ----------
    tiles : table TILES after screening
    n : largest number of tiles
    reach : how far around a tile nothing should have been found, either [tile sides]; where no tile is that clear, this
        is not asked for
    """
    names = ["pen_fraction", "fold_fraction", "bubble_fraction", "blur_fraction", "jpeg_fraction"]
    found = (tiles[names].fillna(0.0) >= _CLEAN).any(axis=1) | (tiles["reason"] == "unreadable").fillna(False)
    tissue = (tiles["background_fraction"] <= _MOST_BLANK).fillna(False)
    clean = tiles[tiles["kept"] & ~found & tissue].sort_values("tile_id")
    drawn = clean.iloc[generator(seed, "clean tiles").permutation(len(clean))].reset_index(drop=True)
    turn = drawn.groupby("slide_id").cumcount()  # one of every slide before a second of any
    drawn = drawn.loc[turn.sort_values(kind="stable").index]
    around = dict(iter(tiles[found].groupby("slide_id")))
    far = (
        tile.Index
        for tile in drawn.itertuples()
        if tile.slide_id not in around or not _is_near(tile, around[tile.slide_id], reach)
    )
    clear = list(islice(far, n))
    return drawn.loc[clear] if clear else drawn.head(n)


def _is_near(tile: Any, others: pd.DataFrame, reach: float) -> bool:
    apart = [(others[c] - getattr(tile, c)).abs() for c in ("x_l0_px", "y_l0_px")]
    least = (1 + reach) * tile.size_l0_px - 1  # corners are whole pixels: neighbours may be one closer than their side
    return bool(((apart[0] < least) & (apart[1] < least)).any())


SlideTiles = tuple[Mapping[str, Any], pd.DataFrame]
"""A row of table SLIDES and its rows of table TILES: one item for an engine that hands over single ones."""


def screen_or_reason(pair: SlideTiles, rules: ScreenRules | None = None) -> tuple[pd.DataFrame, str]:
    """:func:`screen_slide` of one slide, or its tiles as unreadable and the reason when the slide fails."""
    try:
        return screen_slide(*pair, rules), ""
    except SlideError as error:
        return not_screened(pair, str(error))


def not_screened(pair: SlideTiles, reason: str) -> tuple[pd.DataFrame, str]:
    """What :func:`screen_or_reason` gives for a slide that failed: its kept tiles are dropped as ``unreadable``."""
    tiles = pair[1].reset_index(drop=True).copy()
    _drop(tiles, tiles.index[tiles["kept"]], "unreadable")
    return conform(tiles, TILES), reason
