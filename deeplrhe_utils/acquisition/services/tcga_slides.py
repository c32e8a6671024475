"""TCGA's slides as others list them: what a file name tells, as table SLIDE_FILES."""

from __future__ import annotations

from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import hospitals, parse_name
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import SLIDE_FILES
from deeplrhe_utils.core.text import shortened

SUBTYPES: Final = {
    "TCGA-LUAD": "adenocarcinoma", "TCGA-LUSC": "squamous", "CPTAC-LUAD": "adenocarcinoma", "CPTAC-LSCC": "squamous",
}  # fmt: skip
"""Tissue class of a tumour by project."""
NORMAL_CODE: Final = "11"
_FIELDS: Final = ("patient_id", "site_id", "site_code", "sample_code", "slide_type", "sample_type")


def tumour_of_site(site_code: str | None) -> str | None:
    """Tissue class of the tumours under a TCGA code, each of which belongs to one project; None for another code.

    >>> tumour_of_site("05"), tumour_of_site("18"), tumour_of_site("02")
    ('adenocarcinoma', 'squamous', None)
    """
    return SUBTYPES.get(hospitals().get(site_code or "", ("", ""))[1])


def subtype_of(sample_code: str | None, project_id: str | None) -> str | None:
    """Tissue class: normal by the sample's code, else the project's tumour; None where neither tells.

    >>> subtype_of("11", "TCGA-LUSC"), subtype_of("02", "TCGA-LUAD"), subtype_of("01", None)
    ('normal', 'adenocarcinoma', None)
    """
    if sample_code == NORMAL_CODE:
        return "normal"
    return SUBTYPES.get(project_id or "") if (sample_code or "").startswith("0") else None


def add_fields(files: pd.DataFrame) -> pd.DataFrame:
    """Table SLIDE_FILES, in the order of `files` (file_id, file_name, md5, bytes, project_id, optionally access).

    The fields of a barcode and the subtype are null where the name, or the project, does
    not tell them. Raises SchemaError for a repeated file_id, or a value that does not fit.
    """
    names = [parse_name(str(name)) for name in files["file_name"]]
    told = pd.DataFrame([[getattr(n, f) for f in _FIELDS] for n in names], columns=list(_FIELDS), dtype="string",
                        index=files.index)  # fmt: skip
    frame = files.assign(**{field: told[field] for field in _FIELDS})
    pairs = zip(frame["sample_code"], frame["project_id"], strict=True)
    frame["subtype"] = [subtype_of(*(None if pd.isna(v) else str(v) for v in pair)) for pair in pairs]
    return conform(frame, SLIDE_FILES)


def notes_of(files: pd.DataFrame) -> list[str]:
    """What a list of slides lacks, a sentence each: malformed names, tumours without a subtype, names in two rows."""
    notes = []
    lacking = files[["patient_id", "sample_code", "slide_type"]].isna().any(axis=1)
    if wrong := files.loc[lacking, "file_name"].astype(str).tolist():
        notes.append(f"{len(wrong)} of {len(files)} names are no barcodes of slides: {shortened(wrong)}.")
    vague = files["subtype"].isna() & files["patient_id"].notna()
    if count := int(vague.sum()):
        patients = sorted(files.loc[vague, "patient_id"].unique())
        notes.append(f"{count} files have no subtype, of patients such as {shortened(patients, 3)}.")
    if (again := files["file_name"].duplicated()).any():
        names = sorted(files.loc[again, "file_name"].unique())
        notes.append(f"{len(names)} names stand for more than one file: {shortened(names, 3)}.")
    return notes
