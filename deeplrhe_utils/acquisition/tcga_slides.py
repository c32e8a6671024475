"""TCGA's slides as others list them: what a file name tells, and published lists as table SLIDE_FILES.

Source of the barcode's structure: the GDC's documentation of TCGA barcodes. Of a sample's code the first digit tells
tumour (0) from normal (1); slides are DX (diagnostic, formalin-fixed) or TS, MS, BS (top, middle, bottom of a frozen
sample).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.labels import BARCODE, shortened
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.schemas import SLIDE_FILES
from deeplrhe_utils.core.tables import conform

SUBTYPES: Final = {"TCGA-LUAD": "adenocarcinoma", "TCGA-LUSC": "squamous"}
"""Tissue class of a tumour by project."""
NORMAL_CODE: Final = "11"
_SAMPLE: Final = re.compile(r"^-([0-9]{2})[A-Z]?(?![A-Z0-9])")
_SLIDE: Final = re.compile(r"-(DX|TS|BS|MS)[A-Z0-9]*(?![A-Z0-9])")
_JOIN: Final = {"file_id": "file_id", "file_name": "file_name", "md5sum": "md5", "file_size": "bytes"}
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


class SlideList(NamedTuple):
    """Table SLIDE_FILES, and a sentence for everything in the list that is not as it should be."""

    files: pd.DataFrame
    notes: list[str]


def parse_name(name: str) -> SlideName:
    """Fields of a TCGA slide's name; anything may follow the barcode.

    Examples
    --------
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


def add_fields(files: pd.DataFrame, projects: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Table SLIDE_FILES with what names tell.

    Parameters
    ----------
    files : DataFrame
        file_id, file_name, md5, bytes [bytes]; optionally access and project_id.
    projects : patient → project, optional
        For files whose project_id is null.

    Returns
    -------
    DataFrame
        Table SLIDE_FILES in the order of `files`; patient_id, site_id, sample_code, slide_type, sample_type and subtype
        are null where the name, or the project, does not tell them.

    Raises
    ------
    SchemaError
        A repeated file_id, or a value that does not fit.
    """
    names = [parse_name(str(name)) for name in files["file_name"]]
    told = pd.DataFrame([[getattr(n, f) for f in _FIELDS] for n in names], columns=list(_FIELDS), dtype="string",
                        index=files.index)  # fmt: skip
    frame = files.assign(**{field: told[field] for field in _FIELDS})
    own = frame["project_id"].astype("string") if "project_id" in frame else pd.Series(pd.NA, frame.index, "string")
    frame["project_id"] = own.fillna(frame["patient_id"].map(dict(projects or {})).astype("string"))
    pairs = zip(frame["sample_code"], frame["project_id"], strict=True)
    frame["subtype"] = [subtype_of(*(None if pd.isna(v) else str(v) for v in pair)) for pair in pairs]
    return conform(frame, SLIDE_FILES)


def malformed(files: pd.DataFrame) -> list[str]:
    """Names of table SLIDE_FILES that lack a patient, a sample's code or a slide's type, in order."""
    lacking = files[["patient_id", "sample_code", "slide_type"]].isna().any(axis=1)
    return files.loc[lacking, "file_name"].astype(str).tolist()


def from_manifest(manifest: pd.DataFrame, projects: Mapping[str, str] | None = None) -> SlideList:
    """Slides of a manifest.

    Parameters
    ----------
    manifest : DataFrame
        As :func:`~deeplrhe_utils.acquisition.manifest.read_manifest` returns it.
    projects : patient → project, optional
        A manifest does not tell; without it tumours have no subtype.

    Returns
    -------
    SlideList
        Files that are no slides (``.svs``) are listed too; their names have no slide type. Who may fetch a file is not
        known from a manifest: `access` is null.
    """
    renamed = manifest.rename(columns={"id": "file_id", "filename": "file_name", "size": "bytes"})
    files = add_fields(renamed[["file_id", "file_name", "md5", "bytes"]], projects)
    return SlideList(files, notes_of(files))


def read_join(path: Path, projects: Mapping[str, str] | None = None) -> SlideList:
    """Slides of the published table that joins TCGA's lung slides to mutation calls.

    Parameters
    ----------
    path : Path
        Tab-separated: file_id, file_name, md5sum, file_size, project, and more that is ignored (calls are read from
        where they were published, by :mod:`~deeplrhe_utils.acquisition.tcga_tables`).
    projects : patient → project, optional
        For rows whose project is empty.

    Returns
    -------
    SlideList
        A row per file, in the order of the table.

    Raises
    ------
    InputError
        No such file, other columns, a size that is no number, a repeated file, a project that contradicts `projects`.
    """
    table = _read(path, (*_JOIN, "project"))
    sizes = table["file_size"].str.fullmatch(r"[0-9]{1,15}")
    if not sizes.all():
        row = table[~sizes].iloc[0]
        raise InputError(f"{path}: the size of {row['file_name'][:80]} is no number", got=repr(row["file_size"][:40]))
    if (again := table["file_id"].duplicated()).any():
        raise InputError(f"{path} repeats the file {table.loc[again, 'file_id'].iloc[0][:60]}")
    frame = table.rename(columns=_JOIN)[list(_JOIN.values())]
    frame = frame.assign(bytes=frame["bytes"].astype("int64"), project_id=table["project"].replace("", pd.NA))
    files = add_fields(frame, projects)
    _check_projects(path, files, projects or {})
    own = int(table["project"].eq("").sum())
    filled = [f"{own} files of {Path(path).name} have no project there; {files['project_id'].isna().sum()} still have "
              "none."] if own else []  # fmt: skip
    return SlideList(files, filled + notes_of(files))


def notes_of(files: pd.DataFrame) -> list[str]:
    """What a list of slides lacks, a sentence each: malformed names, tumours without a subtype, names in two rows."""
    notes = []
    if wrong := malformed(files):
        notes.append(f"{len(wrong)} of {len(files)} names are no barcodes of slides: {shortened(wrong)}.")
    vague = files["subtype"].isna() & files["patient_id"].notna()
    if count := int(vague.sum()):
        patients = sorted(files.loc[vague, "patient_id"].unique())
        notes.append(f"{count} files have no subtype, of patients such as {shortened(patients, 3)}.")
    if (again := files["file_name"].duplicated()).any():
        names = sorted(files.loc[again, "file_name"].unique())
        notes.append(f"{len(names)} names stand for more than one file: {shortened(names, 3)}.")
    return notes


def _read(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t", dtype="str", keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as cause:
        raise InputError(f"{path} cannot be read ({cause})", expected="a tab-separated table") from cause
    if lost := [c for c in columns if c not in table]:
        raise InputError(f"{path} lacks columns", got=", ".join(lost), expected=", ".join(columns))
    return table


def _check_projects(path: Path, files: pd.DataFrame, projects: Mapping[str, str]) -> None:
    other = files["patient_id"].map(dict(projects)).astype("string")
    wrong = (other != files["project_id"]).fillna(False)
    if wrong.any():
        row = files[wrong].iloc[0]
        raise InputError(f"{path}: the project of {row['file_name'][:80]} contradicts the clinical table",
                         got=row["project_id"], expected=other[wrong].iloc[0])  # fmt: skip
