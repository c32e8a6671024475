"""Mutation labels from a table that users bring: strict, and with errors that name the cell."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import patients_note, patients_of
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.tables.schemas import LABELS
from deeplrhe_utils.core.text import UNKNOWN_WORD, counted, shortened

_STATUS: Final = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_LONG: Final = {"gene", "status"}
_OWNERS: Final = ("patient_id", "slide_id", "tile_id")
PATIENT_NAMES: Final = ("patient_id", "case_id", "patient", "PATIENT", "submitter_id", "case_submitter_id")
"""What programs call the patient; the first that is there counts."""
FILE_ENDING: Final = re.compile(r"\.(svs|tiff?|ndpi|mrxs|scn|h5|pt)$", re.IGNORECASE)
"""Of a file, which is no part of a slide's name."""
IDENTIFIERS: Final = (*_OWNERS, "site_id")
"""Columns of a table of labels that name what a row is, and are no targets."""
_SYMBOL: Final = re.compile(r"[A-Z][A-Z0-9-]*(orf[0-9]+)?")
_CLINICAL: Final = frozenset([
    "age", "sex", "gender", "race", "ethnicity", "stage", "grade", "histology", "subtype", "type", "diagnosis",
    "smoking", "smoker", "vital_status", "dead", "event", "os", "dfs", "dss", "pfs", "pfi", "dfi", "time", "t",
    "n", "m", "pt", "pn", "pm", "bmi", "tmb", "msi", "purity", "ecog", "kps", "treatment", "project", "study",
    "cohort", "site", "center", "centre", "hospital", "batch", "scanner", "fold", "split", "label", "score",
    "status", "id", "case", "case_id", "sample", "sample_id", "patient", "slide",
])  # fmt: skip
"""Names, in small letters, of usual columns that are no genes."""


class LabelMatch(NamedTuple):
    """How labels and slides meet: patients and slides left over, and a sentence for the report."""

    unknown_patients: list[str]
    unlabelled_slides: list[str]
    sentence: str


class LabelTable(NamedTuple):
    """A table of labels: `labels` (table LABELS), `members` (identifiers) and `others` (what is no target), by line."""

    labels: pd.DataFrame
    members: pd.DataFrame
    others: pd.DataFrame
    notes: list[str]


def read_label_table(path: Path, genes: Sequence[str] = (), *, also: Collection[str] = ()) -> LabelTable:
    """Read labels with their identifiers.

    Parameters
    ----------
    path : CSV (`read_foreign`) with patient_id, slide_id or tile_id, optionally site_id. Long: gene, status and nothing
        else but identifiers. Wide: a column per gene. Values: :func:`label_values`. The patient is what a TCGA barcode
        says (`patient_of`), where patient_id is missing that of the slide's or the tile's.
    genes : to read. Empty: the columns whose names look like gene symbols, or the only one; the notes name the others.
    also : columns that are no targets, as they were asked for otherwise

    Returns labels (rows that agree are merged), members: patient_id and the other identifiers, others, and notes.
    Raises LabelError: names file, line, column: nobody named, no such gene, two names of one gene, a value that is no
    label, rows that contradict each other, a slide or tile of two patients.
    """
    table = with_patient_column(read_foreign(path))
    members = _members(table, path)
    others = [c for c in table.columns if c not in (*IDENTIFIERS, *also)]
    long = bool(_LONG & set(others)) and not (genes and set(genes) <= set(others))
    if long and set(others) != _LONG:
        raise LabelError(f"{path} looks long, but its columns do not fit", got=", ".join(table.columns),
                         expected="gene and status beside identifiers, or one column per gene",
                         fix=f"Add or remove: {', '.join(sorted(set(others) ^ _LONG))}")  # fmt: skip
    names = list(table["gene"].unique()) if long else others
    own = _genes(names, list(genes), path, long)
    parts = [("status", table["gene"], table["status"])] if long else [(g, g, table[g]) for g in own]
    cells = pd.concat([
        pd.DataFrame({"patient_id": members["patient_id"], "gene": gene, "column": column, "text": text})
        for column, gene, text in parts
    ]).sort_index(kind="stable").rename_axis("line").reset_index()  # fmt: skip
    cells = cells[cells["gene"].isin(own) | cells["gene"].eq("")].reset_index(drop=True)
    if len(empty := cells[cells["gene"].eq("")]):
        raise LabelError(f"{path}, line {empty['line'].iloc[0]}, column gene: the gene is empty")
    aliases = _alias_notes(own, names, path)
    cells["status"], notes = label_values(cells, path, fix="If this column is no gene, name those that are")
    _refuse_contradictions(cells, path)
    labels = cells[["patient_id", "gene", "status"]].drop_duplicates().assign(source=Path(path).name)
    notes += aliases
    if not long and (left := [c for c in others if c not in own]) and not genes:
        notes.append(f"Columns that are not taken as genes: {', '.join(left)}. Name the genes to change that.")
    if "patient_id" in table:
        notes += patients_note(table["patient_id"].unique(), "patient_id")
    others_by_line = table.drop(columns=[*members, *own], errors="ignore")
    return LabelTable(conform(labels, LABELS), members, others_by_line, notes)


def read_labels(labels_csv: Path, genes: Sequence[str] = (), *, also: Collection[str] = ()) -> pd.DataFrame:
    """Table LABELS of :func:`read_label_table`, whose notes are in ``frame.attrs["notes"]``; raises the same."""
    found = read_label_table(labels_csv, genes, also=also)
    found.labels.attrs["notes"] = found.notes
    return found.labels


def label_values(
    cells: pd.DataFrame, path: Path, *, positive: str = "", negative: Sequence[str] = (), fix: str = ""
) -> tuple[pd.Series, list[str]]:
    """What words say: 1, 0 or null; one rule for every table.

    Without `positive` 1, 1.0 and true are 1; 0, 0.0 and false are 0. Words are compared without regard to capitals;
    those of `UNKNOWN_WORD` and empty cells are null, unless they are named.

    Parameters
    ----------
    cells : columns line, column, text
    positive : word that counts as 1
    negative : words that count as 0; empty: the only other one

    Returns the statuses, by the index of `cells`, and notes: which words count as 0 or are unknown, and how often.
    Raises LabelError: another word, with all that were seen; nobody is `positive`.
    """
    text, values = cells["text"].str.casefold(), cells["text"]
    words = {**dict.fromkeys((w.casefold() for w in negative), 0), positive.casefold(): 1} if positive else _STATUS
    known = pd.Series(text.map(words), index=text.index).astype("Int64")
    unknown = known.isna() & text.isin([word for word in text.unique() if UNKNOWN_WORD.fullmatch(word)])
    rest = known.isna() & ~unknown
    if positive and not known.eq(1).any():
        raise LabelError(f"{path}: no label is {positive!r}", got=", ".join(sorted(values.unique())[:5]),
                         fix="Check --positive")  # fmt: skip
    if positive and not negative and text[rest].nunique() == 1:
        known, rest = known.mask(rest, 0), rest & False
    if rest.any():
        first = cells[rest].iloc[0]
        raise LabelError(
            f"{path}, line {first['line']}, column {first['column']}: {int(rest.sum())} labels are neither "
            f"{'of the words that were named' if positive else '0 nor 1'}",
            got=_counted_words(values[rest]), expected="0 (wild type), 1 (mutated) or empty (not profiled)",
            fix=fix or "Name the words that count as 1 and as 0: --positive WORD --negative WORD[,WORD]",
        )  # fmt: skip
    notes = [f"These labels count as 0: {_counted_words(values[known.eq(0).fillna(False)])}."] if positive else []
    said = values[unknown & values.ne("")]
    return known, notes + ([f"These labels are unknown: {_counted_words(said)}."] if len(said) else [])


def _counted_words(values: pd.Series) -> str:
    return shortened([f"{word} ({counted(n, 'row')})" for word, n in values.value_counts().items()]) or "none"


def _genes(names: list[str], genes: list[str], path: Path, long: bool) -> list[str]:
    """The targets among the columns (or, long, the genes) of a table."""
    if missing := [g for g in genes if g not in names and names]:
        raise LabelError(f"{path} has no column for {', '.join(missing)}", got=", ".join(names),
                         fix="Add the column or leave the gene out of `genes`")  # fmt: skip
    if names and (genes or long):
        return genes or names
    candidates = [name for name in names if name.casefold() not in _CLINICAL]
    own = [name for name in candidates if _SYMBOL.fullmatch(name)]
    if not own and len(candidates) == 1 and not candidates[0].startswith("("):
        own = candidates
    if not own:
        raise LabelError(f"{path} has no gene column", got=", ".join(names) or "identifiers alone",
                         expected="columns named like gene symbols", fix="Name the genes")  # fmt: skip
    return own


@cache
def _aliases() -> dict[str, str]:
    """Other names of the genes used here → their symbols, as HGNC and NCBI Gene list them."""
    table = pd.read_csv(REFERENCE_DATA / "gene_aliases.csv", dtype=str)
    return dict(zip(table["alias"], table["symbol"], strict=True))


def _alias_notes(own: list[str], names: list[str], path: Path) -> list[str]:
    """What is known of a target under another name; LabelError where two targets are one gene."""
    symbols = pd.Series({name: _aliases().get(name, name) for name in names}, dtype=object)
    read = symbols[list(dict.fromkeys(own))]
    if (twice := read[read.duplicated(keep=False)]).size:
        gene = twice.iloc[0]
        raise LabelError(f"{path} names one gene twice", got=f"{' and '.join(read.index[read.eq(gene)])}, both {gene}",
                         expected="one name per gene", fix="Name the genes to be read, or remove one")  # fmt: skip
    taken = dict(zip(read, read.index, strict=True))
    return [f"{name} is another name of {gene}"
            + ("." if name in own else f", and {taken[gene]} is read: check which of them holds the calls.")
            for name, gene in symbols.items() if name != gene and gene in taken]  # fmt: skip


def with_patient_column(table: pd.DataFrame) -> pd.DataFrame:
    """The table with patient_id under this name, where it has one of :data:`PATIENT_NAMES`."""
    theirs = next((c for c in PATIENT_NAMES if c in table), "")
    return table.rename(columns={theirs: "patient_id"}) if theirs else table


def _members(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """patient_id and the other identifiers of every row, by line."""
    owners = [c for c in _OWNERS if c in table]
    if not owners:
        raise LabelError(f"{path} names no patients", got=", ".join(table.columns), expected="patient_id or slide_id")
    name = table[owners[0]]
    for other in owners[1:]:
        name = name.where(name.ne(""), table[other])
    if (empty := name.eq("")).any():
        verb = "is" if len(owners) == 1 else "are"
        raise LabelError(f"{path}, line {empty.idxmax()}: {' and '.join(owners)} {verb} empty",
                         expected="an identifier in every row")  # fmt: skip
    members = table[[c for c in IDENTIFIERS if c in table]].assign(patient_id=patients_of(name))
    for unit in (c for c in owners if c != "patient_id"):
        pairs = members[members[unit].ne("")].drop_duplicates([unit, "patient_id"])
        if len(torn := pairs[pairs.duplicated(unit)]):
            row = torn.iloc[0]
            first = pairs.loc[pairs[unit].eq(row[unit]), "patient_id"].iloc[0]
            raise LabelError(f"{path}, line {torn.index[0]}: {unit.removesuffix('_id')} {row[unit]} belongs to {first} "
                             f"and to {row['patient_id']}")  # fmt: skip
    return members


def _refuse_contradictions(cells: pd.DataFrame, path: Path) -> None:
    key = ["patient_id", "gene"]
    each = cells.drop_duplicates([*key, "status"])
    if len(torn := each[each.duplicated(key)]):
        row = torn.iloc[0]
        first = each[each[key].eq(row[key]).all(axis=1)].iloc[0]
        raise LabelError(
            f"{path}, line {row['line']}, column {row['column']}: patient {row['patient_id']} contradicts line "
            f"{first['line']}", got=f"{row['text'] or 'empty'} after {first['text'] or 'empty'}",
            expected="one value per patient and gene",
        )  # fmt: skip


def with_label_patients(slides: pd.DataFrame, labels_csv: Path) -> tuple[pd.DataFrame, list[str]]:
    """`slides` (table SLIDES) with the patients that a labels file gives them, and notes.

    Slides are met by slide_id, or by the name of a file (``S1.tif``), also of one that is not here.
    Raises LabelError: as `read_label_table`.
    """
    members = _members(with_patient_column(read_foreign(labels_csv)), Path(labels_csv))
    if "slide_id" not in members:
        return slides, []
    owner = dict(zip(members["slide_id"], members["patient_id"], strict=True))
    files = slides["path"].map(lambda path: Path(path).name)
    known = {*slides["slide_id"], *files}
    short = {FILE_ENDING.sub("", name): who for name, who in owner.items() if name not in known}
    owner = {name: who for name, who in short.items() if name in known} | owner
    by_file = ~slides["slide_id"].isin(owner) & files.isin(owner)
    names = files.where(by_file, slides["slide_id"])
    met = set(names)
    gone = sorted({name if name in met else FILE_ENDING.sub("", name) for name in owner} - met - {""})
    notes = [f"labels_csv names slides that were not found: {shortened(gone)}"] if gone else []
    if by_file.any():
        notes.append(f"{int(by_file.sum())} slides of labels_csv are named with the ending of their file, such as "
                     f"{files[by_file].iloc[0]}: they were met by it.")  # fmt: skip
    return slides.assign(patient_id=names.map(owner).fillna(slides["patient_id"])), notes


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
            fix="Give patient_id as it is here, or name the slides in a column slide_id",
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
