"""A synthetic cohort as a judge reads it: labels, clinical table and truth, from the folder that one command wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.acquisition.clinical_file import read_clinical
from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.tables.contract import read_table
from deeplrhe_utils.core.tables.truth import TRUTH_GENES, TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES
from deeplrhe_utils.slides.outlines.geojson import read_objects

_NAMES: Final = {"Tumor": "tumour", "Subclone": "subclone"}
_ARTEFACT: Final = "Artefact: "


@dataclass(frozen=True)
class PlantedCohort:
    """What `read_planted` found: the truth, LABELS, CLINICAL, and in `genes` what readers can expect.

    `slides`, `clinical` and `genes` have their identifier as index; `outlines`: slide → name → area [level-0 px].
    """

    patients: pd.DataFrame
    slides: pd.DataFrame
    tiles: pd.DataFrame
    genes: pd.DataFrame
    labels: pd.DataFrame
    clinical: pd.DataFrame
    outlines: Mapping[str, Mapping[str, BaseGeometry]]


def read_planted(folder: Path) -> PlantedCohort:
    """Read the folder that ``deeplrhe synth`` wrote. Raises InputError: there is none, or not with all of its truth."""
    truth = folder / "truth"
    tables = (TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES, TRUTH_GENES)
    needed = [*(truth / f"{t.name}.parquet" for t in tables), folder / "labels.csv", folder / "clinical.csv"]
    if missing := [path for path in needed if not path.is_file()]:
        raise InputError(f"{folder} is no synthetic cohort with its truth, or an older version wrote it",
                         got=f"no {missing[0].relative_to(folder)}", expected="the folder that `deeplrhe synth` wrote",
                         fix="Write it again: `deeplrhe synth demo --out DIR`, and name DIR with --truth")  # fmt: skip
    patients, slides, tiles, genes = (read_table(path, table) for path, table in zip(needed, tables, strict=False))
    genes = genes.set_index("gene")
    labels = read_labels(folder / "labels.csv", list(genes.index))
    outlines = {name: _outlines(truth / "slides" / f"{name}.geojson") for name in slides["slide_id"]}
    clinical = read_clinical(folder / "clinical.csv").set_index("patient_id")
    return PlantedCohort(patients, slides.set_index("slide_id"), tiles, genes, labels, clinical, outlines)


def _outlines(path: Path) -> dict[str, BaseGeometry]:
    parts: dict[str, list[BaseGeometry]] = {}
    for region, _ in read_objects(path):
        name = region.classification
        parts.setdefault(_NAMES.get(name, name.removeprefix(_ARTEFACT)), []).append(region.geometry)
    return {name: shapely.union_all(own) for name, own in parts.items()}


def truth_places(cohort: PlantedCohort, slide: str = "") -> pd.DataFrame:
    """The truth's own tiles (of one slide): tile_id, slide_id, x, y, width, height [level-0 px]."""
    own = cohort.tiles[cohort.tiles["slide_id"] == slide] if slide else cohort.tiles
    side = own["size_l0_px"].to_numpy(float)
    x, y = (own[name].to_numpy(float) * side for name in ("column", "row"))
    return own[["tile_id", "slide_id"]].assign(x=x, y=y, width=side, height=side)


def box_means(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Exact means of a picture (rows, columns) over boxes with corners `low` and `high`, (n, 2) as x, y [its px].

    Outside the picture there is nothing: 0.
    """
    across, down = (
        np.clip(np.minimum(high[:, axis, None], edge + 1) - np.maximum(low[:, axis, None], edge), 0, 1)
        for axis, edge in ((0, np.arange(values.shape[1])), (1, np.arange(values.shape[0])))
    )
    return np.asarray(((down @ values.astype(float)) * across).sum(axis=1) / (high - low).prod(axis=1))
