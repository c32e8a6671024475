"""The vectors of a cohort as tables: slides, patients and tiles, an input kind of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.barcodes import SlideName, parse_name
from deeplrhe_utils.acquisition.features.neutral import SlideVectors
from deeplrhe_utils.acquisition.features.tables import find_vectors
from deeplrhe_utils.acquisition.labels.labels import with_label_patients
from deeplrhe_utils.acquisition.services.tcga_slides import NORMAL_CODE, tumour_of_site
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import SLIDES, TILES
from deeplrhe_utils.core.text import shortened


class FeatureFiles(NamedTuple):
    """What was read.

    Attributes
    ----------
    slides, tiles : tables SLIDES and TILES; a tile is a vector, whose place is not known. Slides of normal tissue, by
        their TCGA barcode, are excluded, and none of their vectors is selected.
    vectors : float32, a row per tile_id and a column per feature
    note : a sentence on what was found
    """

    slides: pd.DataFrame
    tiles: pd.DataFrame
    vectors: pd.DataFrame
    note: str


def read_features(path: Path, owners: Path | None = None) -> FeatureFiles:
    """Read the vectors of a cohort.

    Parameters
    ----------
    path : as for `find_vectors`
    owners : a table of labels, whose column slide_id tells patients

    Slides are named as files are: the hospital is that of a TCGA barcode, and so is the patient that `owners` does not
    tell; else the slide is its own patient. Raises InputError: as `find_vectors`; a number that is not finite.
    """
    found = find_vectors(path)
    parts = {one.slide_id: one.read() for one in found}
    if wrong := [name for name, array in parts.items() if not _finite(array)]:
        raise InputError(f"{len(wrong)} slides of {path} have a vector of no finite numbers: {shortened(wrong, 3)}",
                         fix="Leave these slides out, or make their features again")  # fmt: skip
    vectors, width = np.concatenate([array.astype(np.float32) for array in parts.values()]), found[0].width
    counts = [one.count for one in found]
    owner = np.repeat(list(parts), counts)
    place = np.concatenate([np.arange(n) for n in counts])
    tile_ids = [f"{slide}_{i}" for slide, i in zip(owner, place, strict=True)]
    slides = vector_slides(found)
    slides = slides if owners is None else with_label_patients(slides, owners)[0]
    patients = dict(zip(slides["slide_id"], slides["patient_id"], strict=True))
    usable = np.isin(owner, slides.loc[slides["status"] == "ok", "slide_id"].to_numpy(str))
    tiles = pd.DataFrame({"tile_id": tile_ids, "slide_id": owner, "patient_id": [patients[s] for s in owner],
                          "kept": usable, "selected": usable})  # fmt: skip
    people = slides["patient_id"].nunique()
    note = (f"{len(vectors):,} vectors of {width} numbers, {len(parts)} slides, {people} patients; "
            "a run places them on no slide, so it draws no heat maps.")  # fmt: skip
    table = pd.DataFrame(vectors, index=pd.Index(tile_ids, name="tile_id"), columns=[f"f{i}" for i in range(width)])
    return FeatureFiles(slides, conform(tiles, TILES), table, note)


def _finite(array: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return array.dtype.kind in "fiu" and bool(np.isfinite(array.astype(np.float32)).all())


def vector_slides(found: list[SlideVectors]) -> pd.DataFrame:
    """Table SLIDES of files of vectors: patient and hospital by their names; normal tissue is excluded."""
    told = {one.slide_id: parse_name(one.slide_id) for one in found}
    hashed = {file: sha256_file(file) for file in {one.path for one in found}}
    rows = [{"slide_id": name, "patient_id": told[name].patient_id or name, "site_id": told[name].site_id,
             "site_code": told[name].site_code, "path": str(file), "sha256": hashed[file], "bytes": file.stat().st_size,
             "mpp_source": "not-needed", "sample_type": told[name].sample_type,
             **_kind(told[name])} for name, file in ((one.slide_id, one.path) for one in found)]  # fmt: skip
    return conform(pd.DataFrame(rows), SLIDES)


def _kind(told: SlideName) -> dict[str, str | None]:
    if told.sample_code != NORMAL_CODE:
        return {"status": "ok", "subtype": tumour_of_site(told.site_code)}
    return {"status": "excluded", "subtype": "normal", "reason": "normal tissue: it would be averaged with the tumour"}
