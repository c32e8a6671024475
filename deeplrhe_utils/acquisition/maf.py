"""Tab-separated files of mutations as they arrive: compressed or not, with comments, damaged or not a table at all."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.calls import VARIANT_COLUMNS, sample_of_barcode
from deeplrhe_utils.acquisition.labels import patient_of_slide
from deeplrhe_utils.core.errors import LabelError

MAF_COLUMNS: Final = ("Hugo_Symbol", "Tumor_Sample_Barcode", "Variant_Classification")
PROTEIN_COLUMNS: Final = ("HGVSp_Short", "Protein_Change", "Amino_Acid_Change", "amino_acid_change")
"""Names under which MAFs give the protein change; the first that is there is read."""
_MOST_BYTES: Final = 4 << 30
_GZIP: Final = b"\x1f\x8b"
_EXPECTED: Final = "a tab-separated table"


def read_tsv_text(path: Path) -> str:
    r"""Text of a plain or gzip-compressed table, lines ending in ``\n``, leading lines with ``#`` left out.

    Raises
    ------
    LabelError
        No such file, empty, truncated or damaged gzip, more than 4 GiB, not UTF-8, a binary file, a web page.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise LabelError(f"{path} is not UTF-8 text ({cause})", fix="Save it as UTF-8, tab-separated") from cause
    if "\0" in text:
        raise LabelError(f"{path} is not a text file", expected=_EXPECTED)
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    while text.startswith("#"):
        text = text.partition("\n")[2].lstrip("\n")
    if not text.strip():
        raise LabelError(f"{path} is empty", expected=_EXPECTED)
    if text[:200].lstrip().lower().startswith(("<!doctype", "<html", "<?xml", "<head", "{", "[")):
        raise LabelError(f"{path} holds a web page or a service's answer, not a table", got=repr(text[:60]),
                         fix="Fetch the file again")  # fmt: skip
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == _GZIP
        with gzip.open(path, "rb") if compressed else open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as cause:
        raise LabelError(f"{path} is not there", fix="Check the path") from cause
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise LabelError(f"{path} is a damaged or unfinished gzip file ({cause})", fix="Fetch it again") from cause
    except OSError as cause:
        raise LabelError(f"{path} cannot be read ({cause})") from cause
    if len(data) > _MOST_BYTES:
        raise LabelError(f"{path} holds more than {_MOST_BYTES >> 30} GiB", expected=_EXPECTED)
    return data


def table_of(text: str, path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Columns of a tab-separated table as stripped text.

    Raises
    ------
    LabelError
        Columns missing or repeated, rows of another length, no rows.
    """
    header = text.split("\n", 1)[0].split("\t")
    if missing := [c for c in columns if c not in header]:
        raise LabelError(f"{path} lacks columns", got=", ".join(missing), expected=", ".join(columns))
    wanted = [c for c in header if c in {*columns, *optional}]
    if len(set(wanted)) < len(wanted):
        raise LabelError(f"{path} repeats a column", got=", ".join(wanted))
    _check_lengths(text, path, len(header))
    keep = sorted(header.index(c) for c in wanted)
    table = pd.read_csv(
        io.StringIO(text), sep="\t", header=None, skiprows=1, names=range(len(header)), usecols=keep, dtype="object",
        keep_default_na=False, quoting=csv.QUOTE_NONE, index_col=False,
    )  # fmt: skip
    frame = pd.DataFrame({header[i]: table[i].str.strip() for i in keep})
    return frame[[*columns, *(c for c in optional if c in frame)]]


def _check_lengths(text: str, path: Path, columns: int) -> None:
    """Every row is as long as the header: a file that was cut off ends in a short one."""
    cells = [line.count("\t") + 1 for line in io.StringIO(text) if line != "\n"][1:]
    if not cells:
        raise LabelError(f"{path} has a header and no rows")
    if wrong := [(number, count) for number, count in enumerate(cells, start=1) if count != columns]:
        raise LabelError(
            f"{path}: {len(wrong)} rows are shorter or longer than the header",
            got=f"{wrong[0][1]} cells in row {wrong[0][0]} of {len(cells)}", expected=f"{columns} cells",
            fix="Fetch the file again: it may be unfinished",
        )  # fmt: skip


def maf_variants(text: str, path: Path) -> pd.DataFrame:
    """Variants of a MAF or of cBioPortal's data_mutations.txt.

    Parameters
    ----------
    text : str
        As :func:`read_tsv_text`.
    path : Path
        For messages.

    Returns
    -------
    DataFrame
        `VARIANT_COLUMNS`; the sample is the first 15 characters of a TCGA barcode, the patient its first 12.

    Raises
    ------
    LabelError
        As :func:`table_of`; a row without gene or sample.
    """
    table = table_of(text, path, MAF_COLUMNS, (*PROTEIN_COLUMNS, "cbp_driver", "Mutation_Status"))
    if (empty := table["Hugo_Symbol"].eq("") | table["Tumor_Sample_Barcode"].eq("")).any():
        raise LabelError(f"{path}: {int(empty.sum())} rows name no gene or no sample", got=f"row {empty.argmax() + 2}")
    samples = table["Tumor_Sample_Barcode"].map(sample_of_barcode)
    change = next((table[c] for c in PROTEIN_COLUMNS if c in table), None)
    return pd.DataFrame({
        "sample_id": samples,
        "patient_id": samples.map(patient_of_slide),
        "gene": table["Hugo_Symbol"],
        "protein_change": None if change is None else change.str.removeprefix("p."),
        "variant_class": table["Variant_Classification"],
        "driver": table.get("cbp_driver"),
        "origin": table.get("Mutation_Status"),
    })[[*VARIANT_COLUMNS]]  # fmt: skip
