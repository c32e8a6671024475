"""TCGA's slides as others list them: what a file name tells, as table SLIDE_FILES.

Source of the barcode's structure: the GDC's documentation of TCGA barcodes. Of a sample's code the first digit tells
tumour (0) from normal (1); slides are DX (diagnostic, formalin-fixed) or TS, MS, BS (top, middle, bottom of a frozen
sample).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.labels.labels import BARCODE
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import SLIDE_FILES
from deeplrhe_utils.core.text import shortened

SUBTYPES: Final = {"TCGA-LUAD": "adenocarcinoma", "TCGA-LUSC": "squamous"}
"""Tissue class of a tumour by project."""
NORMAL_CODE: Final = "11"
_SAMPLE: Final = re.compile(r"^-([0-9]{2})[A-Z]?(?![A-Z0-9])")
_SLIDE: Final = re.compile(r"-(DX|TS|BS|MS)[A-Z0-9]*(?![A-Z0-9])")
_FIELDS: Final = ("patient_id", "site_id", "sample_code", "slide_type", "sample_type")


class SlideName(NamedTuple):
    """What a slide's name tells; None where it does not."""

    patient_id: str | None = None
    site_id: str | None = None
    sample_code: str | None = None
    slide_type: str | None = None

    @property
    def sample_type(self) -> str | None:
        """``frozen`` or ``diagnostic``."""
        return None if self.slide_type is None else "diagnostic" if self.slide_type == "DX" else "frozen"


def parse_name(name: str) -> SlideName:
    """Fields of a TCGA slide's name; anything may follow the barcode.

    >>> parse_name("TCGA-05-4244-01A-01-BS1.90f043f6-e8d5-4cfd-b4e7-84207bc499a6.svs")
    SlideName(patient_id='TCGA-05-4244', site_id='05', sample_code='01', slide_type='BS')
    >>> parse_name("CMU-1-Small-Region.svs").patient_id is None
    True
    """
    match = BARCODE.match(name)
    if match is None:
        return SlideName()
    rest = name[match.end() :]
    sample, slide = _SAMPLE.match(rest), _SLIDE.search(rest)
    return SlideName(match[1], match[2], sample and sample[1], slide and slide[1])


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

    patient_id, site_id, sample_code, slide_type, sample_type and subtype are null where the name, or the project, does
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
