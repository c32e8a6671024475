"""What a pipeline leaves beside its scores: masks of what it flagged or kept, and tiles whose colours it changed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.text import shortened
from deeplrhe_utils.evaluation.audits.recovery import filter_performance, site_agreement, truth_at
from deeplrhe_utils.evaluation.judging.answers import (
    AREAS_OF,
    missing_note,
    pictures_of,
    raster_and_tiles,
    slide_and_word,
)
from deeplrhe_utils.evaluation.judging.planted_cohort import PlantedCohort, box_means, truth_places
from deeplrhe_utils.evaluation.quality.stain_metrics import mean_colours
from deeplrhe_utils.slides.outlines.find import box_fractions
from deeplrhe_utils.slides.outlines.geojson import read_objects
from deeplrhe_utils.stain.methods.reference import slide_colour
from deeplrhe_utils.synthetic.plan import ARTEFACTS

TISSUE_SHARE: Final = 0.5
"""Tiles of the truth count in the judgement of a filter from this share of tissue on: glass is no artefact."""
_KEPT: Final = ("kept", "tissue")
ANY_REASON: Final = "any"
_DROPPED: Final = 0.5  # a tile is lost from this share on


def judge_masks(folder: Path, cohort: PlantedCohort) -> tuple[pd.DataFrame, list[str]]:
    """Precision and recall of a pipeline's masks by kind of artefact, tile of the truth by tile.

    Parameters
    ----------
    folder : of masks named after slides: pictures (0 is not flagged) or GeoJSON. Names or classes of an artefact
        (``SLIDE+pen.png``, class ``Artefact: pen``) are that kind, ``kept`` or ``tissue`` is what was kept; any other
        is flagged for a reason that nobody tells.

    Returns the table of `filter_performance`, with a row ``any`` (whatever the reason), and notes.
    Raises InputError: no mask of a slide of the cohort; as the readers.
    """
    shares: dict[str, dict[str, np.ndarray]] = {}
    unknown = []
    for file in pictures_of(folder):
        slide, word = slide_and_word(file, cohort.slides.index, (*ARTEFACTS, *_KEPT))
        if slide not in cohort.slides.index:
            unknown.append(file.name)
            continue
        own = shares.setdefault(slide, {})
        for name, share in _shares(file, cohort, slide, word).items():
            kind = name if name in ARTEFACTS else ANY_REASON
            if name in _KEPT:  # what is not kept of the tile's tissue; glass and lumina are nobody's fault
                there = cohort.tiles.loc[cohort.tiles["slide_id"] == slide, "tissue_fraction"].to_numpy(float)
                share = np.clip(1 - share / np.maximum(there, 1e-6), 0, 1)
            own[kind] = np.maximum(own.get(kind, 0), share)
    if not shares:
        raise InputError(f"{folder} holds no mask of a slide of this cohort", got=shortened(unknown, 3) or "no mask",
                         expected=f"PNG, TIFF or GeoJSON, such as {cohort.slides.index[0]}+pen.png")  # fmt: skip
    kinds = [kind for kind in ARTEFACTS if any(kind in own for own in shares.values())]
    places = truth_places(cohort)
    parts = []
    for slide, own in shares.items():
        part = places.loc[places["slide_id"] == slide, ["tile_id"]]
        named = {f"{kind}_fraction": own.get(kind, 0.0) for kind in kinds}
        parts.append(part.assign(**named, **{f"{ANY_REASON}_fraction": np.max(list(own.values()), axis=0)}))
    flagged = pd.concat(parts, ignore_index=True)
    truth = truth_at(places[places["slide_id"].isin(shares)], cohort.outlines, cohort.tiles)
    truth[f"{ANY_REASON}_fraction"] = truth[[f"{kind}_fraction" for kind in ARTEFACTS]].sum(axis=1).clip(upper=1)
    tissue = cohort.tiles.loc[cohort.tiles["tissue_fraction"] >= TISSUE_SHARE, "tile_id"]
    flagged = flagged[flagged["tile_id"].isin(tissue)].assign(kept=lambda f: f[f"{ANY_REASON}_fraction"] < _DROPPED)
    notes = [f"{len(unknown)} masks belong to no slide of this cohort: {shortened(unknown, 3)}."] if unknown else []
    return filter_performance(flagged, truth, (*kinds, ANY_REASON)), [*notes, *missing_note(cohort, shares, "a mask")]


def _shares(path: Path, cohort: PlantedCohort, slide: str, word: str) -> dict[str, np.ndarray]:
    """What a mask flags (or keeps) of each tile of the truth of a slide, by the name that it gives."""
    if path.suffix.lower() not in AREAS_OF:
        values, low, high = raster_and_tiles(path, cohort, slide)
        return {word: box_means(values != 0, low, high)}
    own = truth_places(cohort, slide)
    boxes = np.asarray(shapely.box(own["x"], own["y"], own["x"] + own["width"], own["y"] + own["height"]))
    areas: dict[str, list[BaseGeometry]] = {word: []}
    for region, _ in read_objects(path):
        areas.setdefault(word or region.classification.removeprefix("Artefact: "), []).append(region.geometry)
    return {name: box_fractions(shapely.union_all(parts), boxes) for name, parts in areas.items()}


def judge_colours(folder: Path, cohort: PlantedCohort) -> tuple[dict[str, float], list[str]]:
    """How far sites differ in the mean tissue colour of tiles: `site_agreement`, and notes.

    Parameters
    ----------
    folder : pictures of tiles, in a folder named after the slide or with names that begin with it

    Raises InputError: no tile of a slide of the cohort, or one that cannot be read.
    """
    tiles: dict[str, list[Path]] = {}
    for file in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff")):
        slide = next((s for s in cohort.slides.index if file.parent.name == s or file.name.startswith(s)), "")
        tiles.setdefault(slide, []).append(file)
    strange = tiles.pop("", [])
    if not tiles:
        got = shortened([path.name for path in strange], 3) or "no picture"
        raise InputError(f"{folder} holds no tile of a slide of this cohort", got=got,
                         expected=f"pictures such as {cohort.slides.index[0]}/0.png")  # fmt: skip
    tumours = [slide for slide in tiles if cohort.slides.loc[slide, "subtype"] != "normal"]  # lung has other colours
    found = mean_colours({slide: slide_colour([_pixels(p) for p in tiles[slide]]) for slide in tumours})
    who = cohort.slides.loc[found["unit"]]
    agreement = site_agreement(found[["red", "green", "blue"]].to_numpy(), who["site_id"].to_numpy(str),
                               who["patient_id"].to_numpy(str))  # fmt: skip
    notes = [f"{len(strange)} tiles in {folder} belong to no slide of this cohort."] if strange else []
    return agreement, [*notes, *missing_note(cohort, tiles, f"a tile in {folder}")]


def _pixels(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path} cannot be read as a picture")
    return np.ascontiguousarray(picture[..., ::-1])
