"""Scores that somebody else's model gave, read from a table so that the same statistics can be made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from deeplrhe_utils.acquisition.barcodes import patients_note, patients_of
from deeplrhe_utils.acquisition.labels.labels import label_values, with_patient_column
from deeplrhe_utils.core.errors import InputError, LabelError, ParameterError
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import UNKNOWN_WORD
from deeplrhe_utils.evaluation.auc.units import with_labels

OUTCOMES: Final = {"classification": ("label",), "regression": ("value",), "survival": ("time", "event")}
"""Task → the columns of what became of a patient."""
OPTIONAL: Final = ("gene", "slide_id", "tile_id", "fold")
ONE_TARGET: Final = "target"
"""Gene of a table that has no column of genes."""
_SHOWN: Final = 3
_LEAST: Final = 10
_UNLIKE: Final = 0.1
INDEPENDENT: Final = (
    "Without folds the interval and p assume independent scores, as of one model on patients that it never saw. Scores "
    "of cross-validation are not: name their fold, or read the interval as too narrow."
)
DEPENDENT: Final = (
    "With several folds every patient is scored and also learned from, so the folds are correlated: the interval "
    "and p of patients take twice the variance of independent scores. The usual 95 % interval contains chance in about "
    "85 % of cohorts without any effect (docs/cross-fitting.md)."
)


@dataclass(frozen=True)
class Scores:
    """A table of scores, checked.

    Attributes
    ----------
    predictions : tile_id, slide_id, patient_id, gene, fold, score: one row per row that counts
    labels : patient_id, gene, and status (1, 0), value, or time and event; patients without are in `ledger` only
    units : what the table can be counted by: patient, and slide and tile where it names them
    ledger : outcome, rows, examples: "used" and every reason for which a row was set aside; rows add up to the file's
    probabilities : whether all scores lie in [0, 1]; else they can be ranked but not calibrated
    notes : what a reader should know
    cross_fitted : whether models that scored a patient learned from others of them
    task : of `OUTCOMES`
    """

    predictions: pd.DataFrame
    labels: pd.DataFrame
    units: tuple[str, ...]
    ledger: pd.DataFrame
    probabilities: bool
    notes: tuple[str, ...] = ()
    cross_fitted: bool = False
    task: str = "classification"


@dataclass
class _Ledger:
    """Rows set aside, by reason."""

    rows: list[tuple[str, int, str]] = field(default_factory=list)

    def take(self, table: pd.DataFrame, aside: pd.Series, reason: str) -> pd.DataFrame:
        """`table` without the rows of `aside`, which are written down."""
        if aside.any():
            lines = table.index[aside][:_SHOWN].tolist()
            self.rows.append((reason, int(aside.sum()), "rows " + ", ".join(map(str, lines))))
        return table[~aside]


def read_scores(
    path: Path, *, columns: Mapping[str, str] | None = None, positive: str = "", negative: Sequence[str] = (),
    labels: pd.DataFrame | None = None, a_row: str = "", any_scale: bool = False, table: pd.DataFrame | None = None,
    task: str = "classification",
) -> Scores:  # fmt: skip
    """Read scores and labels from a CSV and check them.

    Parameters
    ----------
    path : CSV (`read_foreign`), one row per patient, slide or tile and gene: patient_id, `OUTCOMES`, score, optionally
        gene, slide_id, tile_id (names within its slide) and fold (of cross-validation; any names). Without a column
        patient_id every row is a patient of its own, and that is noted. TCGA barcodes count as their patient
        (`patient_of`).
    columns : name here → name in the file
    positive, negative : words for 1 and 0, see `label_values`
    a_row : "slide" or "tile": what a row is, where no column names it; each is then one of its own
    labels : patient_id, gene, status instead of the file's own labels
    any_scale : take scores outside [0, 1]; they are ranked, and never read as probabilities
    table : texts by line, as `read_foreign` gives them, where `path` is no CSV or more was done to it
    task : of `OUTCOMES`; events are labels

    Returns Scores.

    Raises InputError: missing or unreadable file, no row, missing columns, scores that are no numbers or outside [0,
    1], rows that contradict each other, tile names or folds on some rows only, a patient in two folds. LabelError:
    labels that are neither 0 nor 1, or a patient with two labels for one gene. ParameterError: a column in `columns`
    that does not exist.
    """
    outcome = OUTCOMES[task]
    table, notes = _named(
        read_foreign(path, InputError) if table is None else table, dict(columns or {}), path,
        () if labels is not None else outcome, outcome,
    )  # fmt: skip
    ledger = _Ledger()
    for name in [name for name in outcome if name in table]:
        if labels is not None:
            notes.append("The file has labels of its own; those of --labels count.")
            del table[name]
        elif name in ("label", "event"):
            cells = pd.DataFrame({"line": table.index, "column": name, "text": table[name]}, index=table.index)
            table[name], said = label_values(cells, path, positive=positive, negative=negative)
            notes += said
        else:
            table[name] = _numbers(table[name], path)
    if "time" in table and (past := table["time"].lt(0)).any():
        raise InputError(f"{path}, line {past.idxmax()}: the time is below 0", got=f"{table['time'].min():g}")
    table["score"] = _numbers(table["score"], path)
    table["fold"] = _folds(table, path)
    if a_row and f"{a_row}_id" not in table:
        table[f"{a_row}_id"] = table.index.astype("string")
    units = _units(table, path)
    if labels is None:
        _one_label(table.dropna(subset=list(outcome)), outcome, path)
    table = ledger.take(table, table["score"].isna(), "no score")
    table = _once(table, units, ledger, path)
    probabilities = bool(table["score"].between(0, 1).all())
    if not probabilities and not any_scale and task == "classification":
        wrong = table[~table["score"].between(0, 1)]
        raise InputError(f"{path}: {len(wrong)} scores are no probabilities",
                         got=f"{wrong['score'].iloc[0]:g} in line {wrong.index[0]}", expected="0 to 1",
                         fix="Give --any-scale to rank them all the same")  # fmt: skip
    if labels is None:
        table = ledger.take(table, table[list(outcome)].isna().any(axis=1), f"no {' or '.join(outcome)}")
        known = _one_label(table, outcome, path)
    else:
        known, table, more = _joined(labels, table, ledger)
        notes += more
    if table.empty:
        raise InputError(f"{path} has no row with a score and a label", got="; ".join(r for r, _, _ in ledger.rows))
    rows = [("used", len(table), ""), *ledger.rows]
    keep = ["tile_id", "slide_id", "patient_id", "gene", "fold", "score"]
    return Scores(table[keep].reset_index(drop=True), known, units, pd.DataFrame(rows, columns=["outcome", "rows",
                  "examples"]), probabilities, tuple(notes), table["fold"].nunique() > 1, task)  # fmt: skip


def _named(
    table: pd.DataFrame, columns: dict[str, str], path: Path, needed: Sequence[str], known: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The table with our column names, and what was assumed."""
    ours = ["patient_id", *known, "score", *OPTIONAL]
    if unknown := sorted(set(columns) - set(ours)):
        raise ParameterError("There is no such column to name", got=", ".join(unknown),
                             expected=", ".join(ours))  # fmt: skip
    if absent := [theirs for theirs in columns.values() if theirs not in table]:
        raise ParameterError(f"{path} has no column {', '.join(absent)}", expected=", ".join(table.columns))
    table = table.drop(columns=[c for c in columns if c in table and c not in columns.values()])
    table = table.rename(columns={theirs: ours for ours, theirs in columns.items()})
    notes: list[str] = []
    found = ", ".join(table.columns)
    table = with_patient_column(table)
    if "patient_id" not in table:
        table["patient_id"] = [f"row {i}" for i in table.index]
        notes.append("The table names no patients: every row counts as a patient of its own.")
    if missing := [c for c in (*needed, "score") if c not in table]:
        raise InputError(f"{path} lacks the column {', '.join(missing)}", got=found,
                         fix=f"Name it: --columns {missing[0]}=NAME")  # fmt: skip
    if "gene" not in table:
        table["gene"] = ONE_TARGET
    for name in ("patient_id", "gene"):
        if (empty := table[name].eq("")).any():
            raise InputError(f"{path}, line {empty.idxmax()}: the {name} is empty")
    kept = [c for c in ours if c in table]
    if others := [c for c in table if c not in kept]:
        notes.append(f"Columns that were not read: {', '.join(others)}.")
    notes += patients_note(table["patient_id"].unique(), "patient_id")
    if (own := patients_of(table["patient_id"])).ne(table["patient_id"]).any():
        if "slide_id" not in table and own.str.len().lt(table["patient_id"].str.len()).any():
            table["slide_id"] = table["patient_id"]
            kept.append("slide_id")
        table["patient_id"] = own
    return table[kept], notes


def _folds(table: pd.DataFrame, path: Path) -> pd.Series | int:
    """Number of each row's fold; every patient in one."""
    if "fold" not in table or table["fold"].eq("").all():
        return 0
    if (empty := table["fold"].eq("")).any():
        raise InputError(f"{path}: {int(empty.sum())} of {len(table)} rows name no fold, the others do",
                         got=f"line {empty.idxmax()}", fix="Name the fold of every row, or of none")  # fmt: skip
    many = table.groupby("patient_id")["fold"].nunique()
    if (torn := many.gt(1)).any():
        raise InputError(f"{path}: {int(torn.sum())} patients are in two folds", got=str(many.idxmax()),
                         expected="one fold per patient", fix="Leave the column out")  # fmt: skip
    return table["fold"].factorize(sort=True)[0]


def _numbers(values: pd.Series, path: Path) -> pd.Series:
    text = values.where(~values.isin([word for word in values.unique() if UNKNOWN_WORD.fullmatch(word)]))
    number = pd.to_numeric(text, errors="coerce").astype(float)
    if (wrong := number.isna() & text.notna()).any():
        raise InputError(f"{path}, line {wrong.idxmax()}: the {values.name} is no number", got=text[wrong].iloc[0])
    if (endless := np.isinf(number)).any():
        raise InputError(f"{path}, line {endless.idxmax()}: the {values.name} is infinite")
    return number


def _units(table: pd.DataFrame, path: Path) -> tuple[str, ...]:
    """What rows can be counted by; fills slide_id and tile_id where the table does not name them."""
    units = ["patient"]
    for unit in ("slide", "tile"):
        name = f"{unit}_id"
        if name not in table:
            continue
        empty = table[name].eq("")
        if empty.any() and not empty.all():
            raise InputError(f"{path}: {int(empty.sum())} of {len(table)} rows name no {unit}, the others do",
                             got=f"line {empty.idxmax()}", expected="one unit in one file",
                             fix="Divide the file by unit")  # fmt: skip
        if empty.all():
            del table[name]
        else:
            units.append(unit)
    if "slide" not in units:
        table["slide_id"] = table["patient_id"]
    if "tile" not in units:
        table["tile_id"] = table["slide_id"]
    elif "slide" in units:
        table["tile_id"] = table["slide_id"] + " " + table["tile_id"]  # tiles may be numbered slide by slide
    return tuple(units)


def _once(table: pd.DataFrame, units: tuple[str, ...], ledger: _Ledger, path: Path) -> pd.DataFrame:
    """Each unit once per gene; a row that repeats another is set aside, one that contradicts it is an error."""
    key = [f"{units[-1]}_id", "gene"]
    again = table.duplicated(key, keep=False)
    if not again.any():
        return table
    differ = table[again & ~table.duplicated(keep=False)]
    if len(differ):
        first = differ.iloc[0]
        unit, smaller = units[-1], [name for name in ("slide", "tile") if name not in units]
        said = "has several rows of one" if smaller else "contradicts itself in rows of one"
        ways = " or ".join(f"--rows {name}, or name it in a column {name}_id" for name in smaller)
        raise InputError(f"{path} {said} {unit}, such as line {differ.index[0]}",
                         got=f"{first[key[0]]}, {first['gene']}: {len(differ)} rows", expected=f"one per {unit}",
                         fix=f"Say what a row is: {ways}" if smaller else "Keep the right row")  # fmt: skip
    return ledger.take(table, table.duplicated(), "repeats another row")


def _one_label(table: pd.DataFrame, outcome: Sequence[str], path: Path) -> pd.DataFrame:
    known = table[["patient_id", "gene", *outcome]].drop_duplicates()
    if (torn := known.duplicated(["patient_id", "gene"])).any():
        row = known[torn].iloc[0]
        two = " or ".join(f"{name}s" for name in outcome)
        raise LabelError(f"{path}: {int(torn.sum())} patients have two {two} for one gene",
                         got=f"{row['patient_id']}, {row['gene']}", expected="one per patient and gene")  # fmt: skip
    return known.rename(columns={"label": "status"}).reset_index(drop=True)


def _joined(labels: pd.DataFrame, table: pd.DataFrame, ledger: _Ledger) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The labels that are known, the rows that have one, and who is in one of the two only."""
    known = labels.dropna(subset=["status"])[["patient_id", "gene", "status"]]
    genes = known["gene"].unique()
    notes = []
    if (table["gene"] == ONE_TARGET).all() and len(genes) == 1:
        table = table.assign(gene=genes[0])
    table = ledger.take(table, ~table["gene"].isin(genes), "the labels do not know the gene")
    both = table.merge(known[["patient_id", "gene"]], on=["patient_id", "gene"], how="left", indicator=True)
    table = ledger.take(table, (both["_merge"] == "left_only").set_axis(table.index), "no label")
    scored = table[["patient_id", "gene"]].drop_duplicates()
    missing = known.merge(scored, on=["patient_id", "gene"], how="left", indicator=True).query("_merge == 'left_only'")
    if silent := [str(gene) for gene in genes if gene not in set(table["gene"])]:
        notes.append(f"Labelled and without any score: {', '.join(silent)}.")
    missing = missing[missing["gene"].isin(table["gene"])]
    if len(missing):
        names = ", ".join(missing["patient_id"].astype(str).unique()[:_SHOWN])
        notes.append(f"{len(missing)} labels belong to patients without a score, such as {names}.")
    return known, table, notes


def pooled(scores: Scores) -> Scores:
    """The scores with their folds where these can be compared, else without; either way it is said.

    Ranks within a fold undo offsets between networks, but they lose AUC where folds differ in prevalence, and all of it
    where a fold is one patient.
    """
    scores = replace(scores, notes=(*scores.notes, DEPENDENT if scores.cross_fitted else INDEPENDENT))
    if scores.predictions["fold"].nunique() == 1:
        return scores
    who = scores.predictions[["patient_id", "gene", "fold"]].drop_duplicates()
    known = scores.labels if scores.task == "classification" else scores.labels.assign(status=0)
    by = with_labels(who, known).groupby(["gene", "fold"])["label"]
    share = by.mean().astype(float).groupby("gene")
    alike = (share.max() - share.min()).max() <= _UNLIKE
    if by.size().min() >= _LEAST and alike and (scores.task != "classification" or by.nunique().min() == 2):
        note = "Scores were ranked within their fold before they were pooled."
        return replace(scores, notes=(*scores.notes, note))
    note = (f"Folds have fewer than {_LEAST} patients, one class, or shares of positives that differ by more than "
            f"{_UNLIKE:g}: scores were pooled as they are, and an offset between folds would count.")  # fmt: skip
    return replace(scores, predictions=scores.predictions.assign(fold=0), notes=(*scores.notes, note))


def parse_columns(text: str) -> dict[str, str]:
    """``label=outcome,score=ndka`` as a mapping; ParameterError where it is none.

    >>> parse_columns("label=outcome, score=ndka")
    {'label': 'outcome', 'score': 'ndka'}
    """
    pairs = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in pairs if not re.fullmatch(r"[^=]+=[^=]+", part)]:
        raise ParameterError("This names no column", got=wrong[0], expected="label=NAME,score=NAME")
    return {ours.strip(): theirs.strip() for ours, theirs in (part.split("=") for part in pairs)}
