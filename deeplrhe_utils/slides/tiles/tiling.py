"""From a slide to its candidate tiles: lay the grid, find tissue, draw a sample.

The functions here run in worker processes: their arguments can be pickled, and nothing is shared. Every
candidate tile keeps its row; a tile that was dropped carries the first reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import TILES
from deeplrhe_utils.core.text import shortened
from deeplrhe_utils.slides.outlines.find import (
    check_no_nuclei,
    read_annotation,
    told_classes,
    tumour_fractions,
    tumour_outline,
)
from deeplrhe_utils.slides.outlines.regions import Regions
from deeplrhe_utils.slides.quality.artefacts import SURVEY_MPP, SurveyRules
from deeplrhe_utils.slides.quality.survey import glass_of, survey
from deeplrhe_utils.slides.quality.tissue import background_mask
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.grid import INSIDE, make_grid
from deeplrhe_utils.slides.tiles.pixels import open_row

SLIDE_FRAME, BOUNDS_FRAME = "slide", "bounds"
NO_GLASS = "no glass was found; a white level of {:.0f} is assumed"
FINER = "tiles at {:.4g} µm/px are finer than the slide ({:.4g} µm/px): they are magnified and show no more than it"
MPP_TOLERANCE = 0.02
"""Share of the resolution asked for, from which on another one is told."""


@dataclass(frozen=True)
class TilingRules:
    """Grid and tissue rules of notebook 02.

    Attributes
    ----------
    target_mpp : resolution of the tiles [µm/px]
    tile_px, stride_px : side of the tiles and distance of their corners [px]; a stride of 0 is the side
    edge : see `make_grid`
    max_background : tiles with a larger share without tissue are dropped [0–1]
    min_tumour : tiles with a smaller share inside the outline are dropped, where there is one [0–1]
    outline_frame : frame of the outlines: ``slide`` (level 0) or ``bounds`` (counted from the scanned area, as QuPath
        does for formats that tell one)
    tumour_classes : classes of outlines that are the tumour; empty: words decide (`is_tumour`)
    survey_mpp : resolution at which tissue is looked for [µm/px]
    survey : what counts as background
    """

    target_mpp: float = 0.5
    tile_px: int = 512
    stride_px: int = 0
    edge: str = INSIDE
    max_background: float = 0.75
    min_tumour: float = 0.5
    outline_frame: str = SLIDE_FRAME
    tumour_classes: Sequence[str] = ()
    survey_mpp: float = SURVEY_MPP
    survey: SurveyRules = field(default_factory=SurveyRules)


def tile_slide(slide_row: Mapping[str, Any], rules: TilingRules | None = None) -> pd.DataFrame:
    """Every candidate tile of one slide, kept or dropped with its reason.

    Parameters
    ----------
    slide_row : one row of table SLIDES; its path (and annotation) must lead to the files from here
    rules : grid and tissue rules

    Returns rows of table TILES. Reasons in order of precedence: unreadable, background, outside-tumour. Its
    ``attrs["notes"]`` lists the outlines' classes, what was repaired in or left out of them, and whether no glass was
    found; ``attrs["tissue_l0_px2"]`` is the tissue of the whole slide [level-0 px²], also where no tile lies.
    Raises SlideError, AnnotationError, InputError: the slide cannot be opened or changed meanwhile, its outline cannot
    be read, no tile fits. A tile that cannot be decoded is not an error: it stays in the table as ``unreadable``.
    """
    rules = rules or TilingRules()
    slide_id = str(slide_row["slide_id"])
    with open_row(slide_row) as slide:
        regions = regions_of(slide_row, slide, rules.outline_frame, rules.tumour_classes)
        tiles = make_grid(
            *slide.dimensions, slide.mpp, rules.target_mpp, rules.tile_px, slide_id,
            stride_px=rules.stride_px, edge=rules.edge,
        )  # fmt: skip
        glass, belts = glass_of(slide), _belts(tiles, *slide.dimensions)
        places = pd.concat([tiles.assign(width_l0_px=tiles["size_l0_px"]), belts])
        found = survey(
            slide, places,
            lambda rgb, mpp: {"background": background_mask(rgb, glass=glass, mpp=mpp, rules=rules.survey)},
            context_um=rules.survey.clean_um, survey_mpp=rules.survey_mpp,
        )  # fmt: skip
        slide.check_unchanged()
    tiles["slide_id"], tiles["patient_id"] = slide_id, str(slide_row["patient_id"])
    tiles["tile_id"] = [f"{slide_id}_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)]
    tiles["background_fraction"] = found["background"].loc[tiles.index].astype("Float64")
    tiles["tumour_fraction"] = pd.array(_tumour_fractions(tiles, regions), dtype="Float64")
    tiles["reason"] = _tiling_reasons(tiles, rules)
    tiles["kept"] = tiles["reason"].isna()
    tiles["selected"] = False
    tiles = conform(tiles, TILES)
    tiles.attrs["tissue_l0_px2"] = _tissue_of_belts(belts, found["background"], tiles)
    tiles.attrs["notes"] = [*_notes(regions), *([] if glass.found else [NO_GLASS.format(glass.level[0])])]
    if rules.target_mpp < slide.mpp * (1 - MPP_TOLERANCE):
        tiles.attrs["notes"].append(FINER.format(rules.target_mpp, slide.mpp))
    return tiles


def _belts(tiles: pd.DataFrame, width: int, height: int) -> pd.DataFrame:
    """The slide in belts over its whole width, each from a row of tiles to the next, the last to the lower edge."""
    tops = tiles.groupby("row")["y_l0_px"].first()
    high = tops.shift(-1, fill_value=height) - tops
    belts = pd.DataFrame({"row": tops.index, "x_l0_px": 0, "y_l0_px": tops.to_numpy(),
                          "size_l0_px": high.to_numpy(float), "width_l0_px": float(width)})  # fmt: skip
    return belts.set_index(len(tiles) + belts.index)


def _tissue_of_belts(belts: pd.DataFrame, background: pd.Series, tiles: pd.DataFrame) -> float:
    """Tissue of the whole slide [level-0 px²]; of a belt that cannot be decoded in full, that of its tiles."""
    whole = (1 - background.loc[belts.index]) * belts["size_l0_px"] * belts["width_l0_px"]
    for i in whole.index[whole.isna()]:
        whole[i] = tissue_l0_px2(tiles[tiles["row"] == belts.loc[i, "row"]])
    return float(whole.sum())


def tissue_l0_px2(tiles: pd.DataFrame) -> float:
    """Tissue under tiles of one slide [level-0 px²]; where some overlap it counts once, by their mean share."""
    known = tiles[tiles["background_fraction"].notna()]
    columns = ("x_l0_px", "y_l0_px", "size_l0_px", "background_fraction")
    x, y, side, background = (known[c].to_numpy(float) for c in columns)
    xs, ys = (np.unique(np.concatenate([start, start + side])) for start in (x, y))
    tissue, times = (np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0))) for _ in range(2))
    ends = (np.searchsorted(to, at) for to, at in ((ys, y), (ys, y + side), (xs, x), (xs, x + side)))
    for top, bottom, left, right, empty in zip(*ends, background, strict=True):
        tissue[top:bottom, left:right] += 1 - empty
        times[top:bottom, left:right] += 1
    return float((tissue / np.maximum(times, 1) * np.outer(np.diff(ys), np.diff(xs))).sum())


def tissue_share(tiles: pd.DataFrame, whole_l0_px2: float) -> float:
    """Share of a slide's tissue that lies in `tiles` [0–1]; NaN where the slide has none, or nobody measured it."""
    return min(1.0, tissue_l0_px2(tiles) / whole_l0_px2) if whole_l0_px2 > 0 else float("nan")


def regions_of(
    slide_row: Mapping[str, Any], slide: Slide, frame: str = SLIDE_FRAME, tumour_classes: Sequence[str] = ()
) -> Regions | None:
    """What is drawn on a slide [level-0 px]; None where it has no annotation.

    Raises AnnotationError: the file cannot be read, or shows nuclei (`check_no_nuclei`). ParameterError: there is no
    such frame.
    """
    if frame not in (SLIDE_FRAME, BOUNDS_FRAME):
        raise ParameterError("There is no such frame of outlines", got=frame, expected="slide or bounds")
    annotation = slide_row.get("annotation")
    if annotation is None or pd.isna(annotation) or not str(annotation):
        return None
    x, y, width, height = slide.bounds_l0_px if frame == BOUNDS_FRAME else (0, 0, *slide.dimensions)
    path, place = Path(str(annotation)), {"offset_l0_px": (x, y), "slide_px": (width, height)}
    regions = read_annotation(path, **place, tumour_classes=tumour_classes)
    check_no_nuclei(regions, slide.mpp, path.name)
    return regions


def outlines_of(
    rows: Mapping[str, Mapping[str, Any]], names: Iterable[str], frame: str, tumour_classes: Sequence[str]
) -> tuple[dict[str, Regions | None], list[str]]:
    """:func:`regions_of` of the slides `names`, and why some are left out; `rows` have absolute paths."""
    found: dict[str, Regions | None] = {}
    notes = []
    for name in names:
        try:
            with open_row(rows[name]) as slide:
                found[name] = regions_of(rows[name], slide, frame, tumour_classes)
        except CompendiumError as error:
            notes.append(f"{name}: its outline is left out: {error}")
    return found, notes


def slide_outline(
    slide_row: Mapping[str, Any], slide: Slide, frame: str = SLIDE_FRAME, tumour_classes: Sequence[str] = ()
) -> BaseGeometry | None:
    """The tumour outline of a slide [level-0 px]; None where it has no annotation. Errors: :func:`regions_of`."""
    regions = regions_of(slide_row, slide, frame, tumour_classes)
    return None if regions is None else tumour_outline(regions)


def _notes(regions: Regions | None) -> list[str]:
    """Which classes count, what was repaired in the outlines, and what was left out of them."""
    if regions is None:
        return []
    classes = [words] if (words := told_classes(regions)) else []
    repaired = [f"{r.name or r.classification or i} ({r.note})" for i, r in enumerate(regions) if r.note]
    told = (("repaired", repaired), ("left out of the outlines", regions.left_out))
    return [*classes, *(f"{len(found)} {what}: {shortened(found, 3)}" for what, found in told if found)]


def _tumour_fractions(tiles: pd.DataFrame, regions: Regions | None) -> Any:
    if regions is None:
        return [None] * len(tiles)
    places = (tiles[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    return tumour_fractions(tumour_outline(regions), *places)


def _tiling_reasons(tiles: pd.DataFrame, rules: TilingRules) -> pd.Series:
    reason = pd.Series(pd.NA, index=tiles.index, dtype="string")
    reason[(tiles["tumour_fraction"] < rules.min_tumour).fillna(False)] = "outside-tumour"
    reason[(tiles["background_fraction"] > rules.max_background).fillna(False)] = "background"
    reason[tiles["background_fraction"].isna()] = "unreadable"
    return reason


class Tiled(NamedTuple):
    """Tiles of a slide, why there are none (empty where there are), and what else a reader should know."""

    tiles: pd.DataFrame
    reason: str
    notes: list[str]


def tile_or_reason(slide_row: Mapping[str, Any], rules: TilingRules | None = None) -> Tiled:
    """:func:`tile_slide`, or no rows and the reason when the slide is too small, unreadable or badly annotated."""
    try:
        tiles = tile_slide(slide_row, rules)
        return Tiled(tiles, "", tiles.attrs["notes"])
    except InputError as error:
        return not_tiled(slide_row, str(error))


def not_tiled(_: Mapping[str, Any], reason: str) -> Tiled:
    """What :func:`tile_or_reason` gives for a slide that failed."""
    return Tiled(conform(pd.DataFrame(columns=[column.name for column in TILES.columns]), TILES), reason, [])


def select_tiles(tiles: pd.DataFrame, max_per_slide: int, seed: int, unit: str = "slide_id") -> pd.DataFrame:
    """Draw at most `max_per_slide` kept tiles of each slide, or of each value of another column `unit`.

    The draw of a slide depends on the seed, its name and its kept tiles alone: neither other slides nor
    the order of rows change it.

    Parameters
    ----------
    tiles : table TILES
    max_per_slide : largest number of tiles per slide; 0 selects every kept tile

    Returns the same rows with `selected` set.
    """
    if max_per_slide < 0:
        raise ParameterError("The number of tiles per slide cannot be negative", got=max_per_slide, expected="0 = all")
    tiles = tiles.copy()
    kept = tiles.loc[tiles["kept"], [unit, "tile_id"]]
    chosen: list[str] = []
    for name, group in kept.groupby(unit, sort=True):
        names = np.sort(group["tile_id"].to_numpy(dtype=str))
        if max_per_slide:
            names = generator(seed, "select tiles", str(name)).permutation(names)[:max_per_slide]
        chosen += names.tolist()
    tiles["selected"] = tiles["tile_id"].isin(chosen).astype("boolean")
    return tiles


def examples(tiles: pd.DataFrame, per_outcome: int, seed: int, strata: Sequence[str] = ()) -> pd.DataFrame:
    """Up to `per_outcome` tiles of every outcome (kept, or a reason), drawn over all slides; for contact sheets.

    Of the values that the columns `strata` take together, each gives its first tile before any gives a second.
    """
    outcome = tiles["reason"].fillna("kept")
    drawn = []
    for name, group in tiles.sort_values("tile_id").groupby(outcome, sort=True):
        mixed = group.iloc[generator(seed, "examples", str(name)).permutation(len(group))]
        turn = mixed.groupby(list(strata), dropna=False).cumcount() if strata else pd.Series(0, mixed.index)
        drawn.append(mixed.loc[turn.sort_values(kind="stable").index[:per_outcome]].sort_index())
    return pd.concat(drawn) if drawn else tiles


def central_place(tiles: pd.DataFrame) -> int:
    """Which row shows the middle of its slide: the most central of the half with the least background."""
    full = tiles["background_fraction"].astype(float).rank(method="first").le(np.ceil(len(tiles) / 2)).to_numpy()
    places = tiles[["x_l0_px", "y_l0_px"]].astype(float)
    far = ((places - places.median()) ** 2).sum(axis=1).to_numpy()
    return int(np.where(full, far, np.inf).argmin())
