"""A stand-in for the Imaging Data Commons: an index with the published columns and types, and series for its bucket.

Columns, types and words are those of ``idc_index.parquet`` in idc-index-data 25.0.5; rows are made up.
"""

from __future__ import annotations

import uuid
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.dicom_slides import write_series
from tests.stand_ins.gdc import Offered
from tests.tiff_slides import tissue_like

TEXTS = (
    "collection_id", "analysis_result_id", "PatientID", "SeriesInstanceUID", "StudyInstanceUID", "source_DOI",
    "PatientAge", "PatientSex", "StudyDate", "StudyDescription", "BodyPartExamined", "Modality", "SOPClassUID",
    "sop_class_name", "TransferSyntaxUID", "transfer_syntax_name", "PhotometricInterpretation", "PixelRepresentation",
    "Manufacturer", "ManufacturerModelName", "SeriesDate", "SeriesDescription", "SeriesNumber",
)  # fmt: skip
SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in TEXTS]
    + [("instanceCount", pa.int64()), ("license_short_name", pa.large_string())]
    + [("series_init_idc_version", pa.int64()), ("series_revised_idc_version", pa.int64())]
    + [(name, pa.large_string()) for name in ("aws_bucket", "crdc_series_uuid", "series_aws_url")]
    + [("series_size_MB", pa.float64())],
    metadata={"idc_index_data_version": "25.0.5-0-gstandin"},
)
USUAL = {
    "source_DOI": "10.5281/zenodo.0", "PatientAge": "061Y", "PatientSex": "F", "StudyDescription": "Histopathology",
    "Modality": "SM", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6", "PixelRepresentation": "0",
    "sop_class_name": "VL Whole Slide Microscopy Image Storage", "transfer_syntax_name": "JPEG Baseline",
    "TransferSyntaxUID": "1.2.840.10008.1.2.4.50", "PhotometricInterpretation": "RGB", "SeriesNumber": "1",
    "Manufacturer": "Leica Biosystems", "SeriesDescription": "HE tumor", "license_short_name": "CC BY 4.0",
    "series_init_idc_version": 7, "series_revised_idc_version": 10, "aws_bucket": "idc-open-data",
}  # fmt: skip


def name_of(text: str) -> str:
    """A UUID that follows from a text."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def make_series(folder: Path, patient: str, number: int, *, levels: int = 2, part: int = 0, **more: Any) -> tuple:
    """One slide: its row of the index, and its files as the bucket offers them."""
    series = f"1.3.6.1.4.1.5962.99.1.{name_of(patient + str(number))[:8].translate(str.maketrans('abcdef', '123456'))}"
    crdc = name_of(f"{patient}/{number}")
    names = [f"{name_of(f'{crdc}/{i}')}.dcm" for i in range(levels)]
    picture = tissue_like(300, 280, number + sum(map(ord, patient)))
    paths = write_series(
        folder / crdc, picture, names, series=series, patient=patient, container=f"{patient}-2{number}"
    )
    files = [Offered(crdc, path.name, path, part=part) for path in paths]
    size = sum(f.size for f in files)
    row = {**USUAL, "PatientID": patient, "SeriesInstanceUID": series, "StudyInstanceUID": f"2.25.{number}",
           "crdc_series_uuid": crdc, "series_aws_url": f"s3://idc-open-data/{crdc}/*", "instanceCount": len(files),
           "series_size_MB": size / 1e6, "collection_id": "cptac_luad", **more}  # fmt: skip
    return row, files


def write_index(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> Path:
    """The index as Parquet, or inside a wheel where the name says so."""
    columns = {name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in schema.names}
    table = pa.table(columns, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix(".parquet")
    pq.write_table(table, plain)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.write(plain, "idc_index_data/idc_index.parquet")
            about = "idc_index_data-25.0.5.dist-info"
            wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: idc-index-data\nVersion: 25.0.5\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        plain.unlink()
    return path
