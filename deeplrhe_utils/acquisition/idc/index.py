"""The index of the Imaging Data Commons (IDC): which series of slides there are, whose, of which tissue, how large.

The index is a Parquet file, a row per DICOM series, that the IDC publishes with every version of its data: inside the
wheel of the Python package ``idc-index-data``, and beside it at
``github.com/ImagingDataCommons/idc-index-data/releases/download/<version>/idc_index.parquet``. Pinned is the wheel of
version 25.0.5 (data release 25, October 2026), whose columns, types and CPTAC rows this module was written against.
The package itself is not installed: only its file is read. A series is versioned by its ``crdc_series_uuid``, which
changes with any of its files.
Source: the wheel's ``idc_index_schema.json`` and ``idc_index.sql``.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deeplrhe_utils.acquisition.services.tcga_slides import NORMAL_CODE, subtype_of
from deeplrhe_utils.acquisition.services.web import shown
from deeplrhe_utils.core.errors import InputError, RunError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import CLINICAL, SLIDE_FILES
from deeplrhe_utils.core.text import shortened


class PinnedIndex(NamedTuple):
    """A published index: a version of the package, and the wheel it comes in."""

    version: str
    sha256: str

    @property
    def name(self) -> str:
        """File name of the wheel."""
        return f"idc_index_data-{self.version}-py3-none-any.whl"


IDC_INDEX: Final = PinnedIndex("25.0.5", "1ea4ec812688759b71798249b6488eb2bce7178aabb3dccb00366b7a555de25c")
CPTAC_COLLECTIONS: Final = {"cptac_luad": "CPTAC-LUAD", "cptac_lscc": "CPTAC-LSCC"}
"""Project of a series by the IDC's name of its collection."""
_MEMBER: Final = "idc_index_data/idc_index.parquet"
_LARGEST: Final = 1 << 30  # bytes; version 25 has 74 million
_SAMPLE_CODES: Final = {"HE tumor": "01", "HE normal": NORMAL_CODE}
_SEXES: Final = {"F": "female", "M": "male"}
_COLUMNS: Final = (
    "collection_id", "analysis_result_id", "PatientID", "SeriesInstanceUID", "PatientAge", "PatientSex", "Modality",
    "PhotometricInterpretation", "SeriesDescription", "instanceCount", "license_short_name", "aws_bucket",
    "crdc_series_uuid", "series_size_MB",
)  # fmt: skip


class IdcSeries(NamedTuple):
    """What an index says of collections of slides.

    `files` table SLIDE_FILES, a row per series, without MD5; `instances` number of files by file_id; `clinical` table
    CLINICAL: age, sex, tumour; `release` of the index; `sha256` of the file it was read from; `notes` sentences.
    """

    files: pd.DataFrame
    instances: dict[str, int]
    clinical: pd.DataFrame
    release: str
    sha256: str
    notes: list[str]


def fetch_index(folder: Path, pinned: PinnedIndex = IDC_INDEX) -> Path:
    """The pinned index in a folder that all runs share; if it is not there, pip fetches it from where it has packages.

    Raises RunError: pip could not have it. InputError: another file came, or lies there.
    """
    path, asked = folder / pinned.name, f"idc-index-data=={pinned.version}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".index-") as aside:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run(
                [*pip, "--only-binary", ":all:", "--dest", aside, asked], capture_output=True, text=True
            )
            if done.returncode or not (Path(aside) / pinned.name).is_file():
                said = shown(done.stderr.strip().rpartition("\n")[2])
                raise RunError(f"pip could not fetch {asked}, which holds the index of the Imaging Data Commons",
                               got=said, fix=f"Fetch {pinned.name} elsewhere, and give it with --index")  # fmt: skip
            (Path(aside) / pinned.name).replace(path)
    if (found := sha256_file(path)) != pinned.sha256:
        raise InputError(f"{path} is not the index of the IDC that is pinned", got=f"SHA-256 {found}",
                         expected=pinned.sha256, fix="Move it away, and repeat the command")  # fmt: skip
    return path


def read_index(path: Path) -> IdcSeries:
    """Slides of CPTAC's lung collections in an index.

    Parameters
    ----------
    path : ``idc_index.parquet``, or a wheel of ``idc-index-data`` that holds it

    Tumour or normal is the series' description (``HE tumor``, ``HE normal``); where it says neither (``HE``), the
    sample's code is null, and rules leave the slide out. Series that others derived are passed over.
    Raises InputError: no such file, or not an index with the columns that are needed.
    """
    table, release = _read(path)
    wanted = pc.and_(pc.is_in(table["collection_id"], value_set=pa.array(list(CPTAC_COLLECTIONS))),
                     pc.and_(pc.equal(table["Modality"], "SM"), pc.is_null(table["analysis_result_id"])))  # fmt: skip
    rows = table.filter(wanted).to_pandas().reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{path} lists no slides of {' or '.join(CPTAC_COLLECTIONS)}",
                         fix="Give the index of another version with --index")  # fmt: skip
    if lacking := [c for c in ("PatientID", "SeriesInstanceUID", "crdc_series_uuid", "instanceCount", "series_size_MB")
                   if rows[c].isna().any()]:  # fmt: skip
        raise InputError(f"{path} has series without {shortened(lacking)}")
    project = rows["collection_id"].map(CPTAC_COLLECTIONS)
    code = rows["SeriesDescription"].map(_SAMPLE_CODES)
    files = pd.DataFrame({
        "file_id": rows["crdc_series_uuid"].str.lower(),
        "file_name": rows["PatientID"] + "_" + rows["SeriesInstanceUID"], "md5": None,
        "bytes": (rows["series_size_MB"] * 1e6).round().astype("int64"), "access": "open",
        "patient_id": rows["PatientID"], "sample_code": code, "project_id": project,
        "subtype": [subtype_of(None if pd.isna(c) else c, p) for c, p in zip(code, project, strict=True)],
    })  # fmt: skip
    instances = dict(zip(files["file_id"], rows["instanceCount"].astype(int), strict=True))
    return IdcSeries(conform(files, SLIDE_FILES), instances, _clinical(rows.assign(project=project)), release,
                     sha256_file(path), _notes(rows, code))  # fmt: skip


def _read(path: Path) -> tuple[pa.Table, str]:
    """The needed columns, and which release it is."""
    fix = "Give idc_index.parquet, or a wheel of idc-index-data that holds it, with --index"
    try:
        index = pq.ParquetFile(io.BytesIO(_unpacked(path)) if zipfile.is_zipfile(path) else path)
        if lacking := [name for name in _COLUMNS if name not in index.schema_arrow.names]:
            raise InputError(f"{path} is an index of another version: it lacks {shortened(lacking)}", fix=fix)
        version = (index.schema_arrow.metadata or {}).get(b"idc_index_data_version", b"of no stated version")
        return index.read(columns=list(_COLUMNS)), f"Imaging Data Commons, index {version.decode('utf-8', 'replace')}"
    except (OSError, KeyError, zipfile.BadZipFile, pa.ArrowException) as cause:
        raise InputError(f"{path} is no index of the Imaging Data Commons ({cause})", fix=fix) from cause


def _unpacked(path: Path) -> bytes:
    with zipfile.ZipFile(path) as wheel:
        if (size := wheel.getinfo(_MEMBER).file_size) > _LARGEST:
            raise InputError(f"{path}: {_MEMBER} is too large", got=f"{size} bytes", expected=f"≤ {_LARGEST}")
        return wheel.read(_MEMBER)


def _clinical(rows: pd.DataFrame) -> pd.DataFrame:
    """Table CLINICAL: a value where all series of a patient agree, else null."""
    told = pd.DataFrame({
        "patient_id": rows["PatientID"], "sex": rows["PatientSex"].map(_SEXES),
        "age_years": pd.to_numeric(rows["PatientAge"].str.extract(r"^(\d{3})Y$", expand=False)),
        "histology": [subtype_of("01", project) for project in rows["project"]],
    })  # fmt: skip
    groups = told.groupby("patient_id")
    one = groups.first().where(groups.nunique() == 1)
    return conform(one.reset_index(), CLINICAL)


def _notes(rows: pd.DataFrame, code: pd.Series) -> list[str]:
    licences = ", ".join(sorted(rows["license_short_name"].dropna().unique())) or "not stated"
    notes = [f"{len(rows)} series of {rows['PatientID'].nunique()} patients; licence: {licences}."]
    if lost := int(code.isna().sum()):
        notes.append(f"{lost} series, of {rows.loc[code.isna(), 'PatientID'].nunique()} patients, do not say whether "
                     "they show tumour or normal tissue.")  # fmt: skip
    if other := sorted(set(rows["aws_bucket"].dropna()) - {"idc-open-data"}):
        notes.append(f"Some series lie in other buckets than idc-open-data: {shortened(other)}.")
    return notes
