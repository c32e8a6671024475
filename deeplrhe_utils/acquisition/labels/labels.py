"""Mutation labels from a CSV that users write by hand: strict, and with errors that name the cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS
from deeplrhe_utils.core.text import read_csv_text, shortened

_STATUS: Final = {"0": 0, "1": 1, "": None}
_IDENTIFIERS: Final = ("patient_id", "slide_id")
_PATIENT_CHARACTERS: Final = 12
BARCODE: Final = re.compile(r"^([A-Z0-9]{4}-([A-Z0-9]{2})-[A-Z0-9]{4})(?![A-Z0-9])")
"""Structure of a TCGA barcode: group 1 the patient, group 2 the tissue source site."""
_SAMPLE_UNIT: Final = re.compile(r"([A-Z0-9]{4}-[A-Z0-9]{2}-[A-Z0-9]{4})-[0-9]{2}")


class LabelMatch(NamedTuple):
    """How labels and slides meet: patients and slides left over, and a sentence for the report."""

    unknown_patients: list[str]
    unlabelled_slides: list[str]
    sentence: str


def read_labels(labels_csv: Path, genes: Sequence[str] = ()) -> pd.DataFrame:
    """Read mutation labels.

    Parameters
    ----------
    labels_csv : CSV with the column patient_id or slide_id (or both) and one column per gene; values are exactly 0, 1
        or empty (not profiled). With slide_id alone, the patient is the first 12 characters of a TCGA-structured
        barcode, else the slide itself.
    genes : genes to read; empty reads every other column as a gene

    Returns table LABELS; rows of one patient that agree are merged.
    Raises LabelError: names file, row (the header is row 1), column and value: missing file, no identifier, a missing
    gene column, another value, rows of one patient that contradict each other.
    """
    path = Path(labels_csv)
    table = read_csv_text(path)
    genes = _gene_columns(table, list(genes), path)
    rows = enumerate(zip(_patients(table, path), table.to_dict("records"), strict=True), start=2)
    return labels_of_cells(((n, patient, gene, row[gene], gene) for n, (patient, row) in rows for gene in genes), path)


def labels_of_cells(cells: Iterable[tuple[int, str, str, str, str]], path: Path) -> pd.DataFrame:
    """Table LABELS of cells (row, patient, gene, text, column) of a file; cells that agree are merged.

    Raises LabelError: an empty gene, a text other than 0, 1 or empty, cells of one patient and gene that contradict
    each other.
    """
    calls: dict[tuple[str, str], tuple[str, int]] = {}
    for number, patient, gene, text, column in cells:
        where = f"{path}, row {number}, column {column}"
        if not gene:
            raise LabelError(f"{where}: the gene is empty")
        if text not in _STATUS:
            raise LabelError(f"{where}: the value is not a label", got=repr(text),
                             expected="0 (wild type), 1 (mutated) or empty (not profiled)",
                             fix="If this column is no gene, remove it")  # fmt: skip
        earlier, row = calls.setdefault((patient, gene), (text, number))
        if earlier != text:
            raise LabelError(f"{where}: patient {patient} contradicts row {row}",
                             got=f"{text or 'empty'} after {earlier or 'empty'}",
                             expected="one value per patient and gene")  # fmt: skip
    rows = [(p, g, _STATUS[text], path.name) for (p, g), (text, _) in calls.items()]
    frame = pd.DataFrame(rows, columns=["patient_id", "gene", "status", "source"]).astype({"status": "Int64"})
    return conform(frame, LABELS)


def _gene_columns(table: pd.DataFrame, genes: list[str], path: Path) -> list[str]:
    present = [c for c in table.columns if c not in _IDENTIFIERS]
    if not set(_IDENTIFIERS) & set(table.columns):
        raise LabelError(f"{path} names no patients", got=", ".join(table.columns), expected="patient_id or slide_id")
    if not present:
        raise LabelError(f"{path} has no gene column", got=", ".join(table.columns))
    if missing := [g for g in genes if g not in present]:
        raise LabelError(
            f"{path} has no column for {', '.join(missing)}",
            got=", ".join(present),
            fix="Add the column or leave the gene out of `genes`",
        )
    return genes or present


def _patients(table: pd.DataFrame, path: Path) -> list[str]:
    """Patient of every row; an empty identifier is an error, a slide of two patients as well."""
    own = table["patient_id"] if "patient_id" in table else [""] * len(table)
    slides = table["slide_id"] if "slide_id" in table else [""] * len(table)
    patients: list[str] = []
    seen: dict[str, str] = {}
    for number, (patient, slide) in enumerate(zip(own, slides, strict=True), start=2):
        if not (patient or slide):
            raise LabelError(f"{path}, row {number}: neither patient_id nor slide_id is given")
        patients.append(patient or patient_of_slide(slide))
        if slide and seen.setdefault(slide, patients[-1]) != patients[-1]:
            raise LabelError(f"{path}, row {number}: slide {slide} belongs to {seen[slide]} and to {patients[-1]}")
    return patients


def patient_of_slide(slide_id: str) -> str:
    """First 12 characters of a TCGA-structured barcode, else the slide_id.

    >>> patient_of_slide("TCGA-21-5784-01Z-00-DX1"), patient_of_slide("case 7")
    ('TCGA-21-5784', 'case 7')
    """
    return slide_id[:_PATIENT_CHARACTERS] if BARCODE.match(slide_id) else slide_id


def person_of(unit: str) -> str:
    """The patient behind a unit of prediction: of a TCGA sample (patient and two digits) the patient, else the unit.

    >>> person_of("TCGA-05-4244-11"), person_of("TCGA-05-4244"), person_of("TCGA-05-4244-01Z-00-DX1_3_4")
    ('TCGA-05-4244', 'TCGA-05-4244', 'TCGA-05-4244-01Z-00-DX1_3_4')
    """
    match = _SAMPLE_UNIT.fullmatch(unit)
    return match[1] if match else unit


def patients_of(labels_csv: Path) -> dict[str, str]:
    """Which patient each slide belongs to, as the labels file says.

    Returns patient_id by slide_id; empty when the file has no column slide_id.
    Raises LabelError: as :func:`read_labels`.
    """
    path = Path(labels_csv)
    table = read_csv_text(path)
    patients = _patients(table, path)
    if "slide_id" not in table:
        return {}
    return {s: p for s, p in zip(table["slide_id"], patients, strict=True) if s}


def attach_labels(slides: pd.DataFrame, labels: pd.DataFrame) -> LabelMatch:
    """Compare the patients of slides and labels; nothing is dropped.

    Parameters
    ----------
    slides : table SLIDES; only rows with status ``ok`` count
    labels : table LABELS

    Returns labelled patients without a usable slide, usable slides without a label, and a sentence.
    Raises LabelError: not one patient is in both.
    """
    usable = slides[slides["status"] == "ok"]
    labelled, seen = set(labels["patient_id"]), set(usable["patient_id"])
    unknown = sorted(labelled - seen)
    without = sorted(usable.loc[~usable["patient_id"].isin(labelled), "slide_id"])
    if not labelled & seen:
        raise LabelError(
            "No label belongs to a usable slide",
            got=f"patients such as {shortened(unknown)}; slides such as {shortened(without)}",
            expected="the same patient_id in both",
            fix="Add a column slide_id to the labels",
        )
    sentence = (
        f"{len(labelled & seen)} of {len(labelled)} labelled patients have a usable slide"
        + (f" (not: {shortened(unknown)})" if unknown else "")
        + f"; {len(without)} of {len(usable)} usable slides have no label"
        + (f" ({shortened(without)})." if without else ".")
    )
    return LabelMatch(unknown, without, sentence)


def joined_labels(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables LABELS of several files as one: a patient and gene is 1 if any says so, else 0 if any does, else null."""
    every = pd.concat(parts, ignore_index=True).sort_values("status", ascending=False, kind="stable")
    first = every.drop_duplicates(["patient_id", "gene"])
    return conform(first.sort_values(["patient_id", "gene"]), LABELS)


def wide_labels(labels: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """patient_id and a column per gene, as :func:`read_labels` takes it."""
    wide = labels.pivot(index="patient_id", columns="gene", values="status")[list(genes)]
    return wide.rename_axis(columns=None).reset_index()
