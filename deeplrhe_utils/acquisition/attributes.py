"""cBioPortal's clinical attributes, from its service or its study folder, as table CLINICAL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.clinical import PLACEHOLDER, age_of, stage_of, word_of
from deeplrhe_utils.acquisition.gdc_tables import Table
from deeplrhe_utils.acquisition.labels import BARCODE, shortened
from deeplrhe_utils.core.schemas import CLINICAL
from deeplrhe_utils.core.tables import conform

HISTOLOGY: Final = {"luad": "adenocarcinoma", "lusc": "squamous"}
"""cBioPortal's cancer types and acronyms, in small letters, and our histology."""
_SMOKING: Final = {
    "1": "never", "2": "current", "3": "former", "4": "former", "5": "former",
    "lifelong non-smoker": "never", "never": "never", "never smoker": "never", "current": "current",
    "current smoker": "current", "former": "former", "former smoker": "former", "current reformed smoker": "former",
}  # fmt: skip
"""Codes of TCGA's tobacco smoking history (1 lifelong non-smoker, 2 current, 3 to 5 reformed) and plain words."""
_VITAL: Final = {"0:living": "alive", "living": "alive", "alive": "alive", "1:deceased": "dead", "deceased": "dead",
                 "dead": "dead"}  # fmt: skip
_NOTHING: Final = re.compile(r"na|n/a|none|", re.IGNORECASE)


_READERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[str], object]]]] = {
    "age_years": (("AGE",), age_of),
    "sex": (("SEX", "GENDER"), lambda text: word_of(text, "female", "male")),
    "histology": (("CANCER_TYPE_ACRONYM",), lambda text: HISTOLOGY.get(text.lower())),
    "stage": (("AJCC_PATHOLOGIC_TUMOR_STAGE", "PATH_STAGE", "STAGE"), stage_of),
    "smoking": (
        ("TOBACCO_SMOKING_HISTORY_INDICATOR", "SMOKING_HISTORY", "SMOKING_STATUS"),
        lambda text: _SMOKING.get(text.lower()),
    ),
    "vital_status": (("OS_STATUS", "VITAL_STATUS"), lambda text: _VITAL.get(text.lower())),
}
ATTRIBUTES: Final = tuple(name for names, _ in _READERS.values() for name in names)
"""Patient attributes that are read; for each column of CLINICAL the first that the study has."""


def clinical_of_attributes(wide: pd.DataFrame, cancer_type: str = "") -> Table:
    """Clinical table from attributes as cBioPortal gives them.

    Parameters
    ----------
    wide : DataFrame
        Index: patients; columns: attributes, as text; null or empty where not given.
    cancer_type : str
        The study's, such as ``luad``: histology where the study has no CANCER_TYPE_ACRONYM.

    Returns
    -------
    Table
        Table CLINICAL: AGE [years, at diagnosis], SEX, stage I to IV, smoking, OS_STATUS as vital status, site from
        the TCGA barcode. Notes: attributes the study lacks, values that are not given or not understood and how often.
    """
    patients = [str(name) for name in wide.index]
    sites = [match and match.group(2) for match in map(BARCODE.match, patients)]
    frame = pd.DataFrame({"patient_id": patients, "site_id": sites}, dtype="object")
    notes = []
    for column, (names, read) in _READERS.items():
        own = next((name for name in names if name in wide), None)
        if own is None:
            known = HISTOLOGY.get(cancer_type.lower()) if column == "histology" else None
            frame[column] = known
            notes.append(f"{column}: the study has no {' or '.join(names)}; "
                         + (f"{known}, as the study's cancer type {cancer_type}." if known else "null."))  # fmt: skip
            continue
        texts = wide[own].fillna("").astype(str).str.strip()
        frame[column] = [read(text) for text in texts]
        notes += _unread(column, own, texts[frame[column].isna().to_numpy()])
    return Table(conform(frame, CLINICAL), notes)


def _unread(column: str, attribute: str, texts: pd.Series) -> list[str]:
    if texts.empty:
        return []
    empty = texts.map(lambda text: bool(_NOTHING.fullmatch(text) or PLACEHOLDER.fullmatch(text)))
    counts = texts[~empty].value_counts()
    strange = shortened([f"{text} ({n})" for text, n in counts.items()])
    said = f"; not understood: {strange}" if len(counts) else ""
    return [f"{column}: null for {len(texts)} patients ({attribute}: {int(empty.sum())} not given{said})."]
