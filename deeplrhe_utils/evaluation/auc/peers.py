"""Score files of other programs, recognised by their columns, as the table that `read_scores` takes.

STAMP writes ``patient-preds.csv``: the patient's column first, then for classes TARGET, pred, TARGET_CLASS …, loss; for
values TARGET, pred, loss; for survival pred_score, time, event, ``cut_off=…`` (modeling/deploy.py). CLAM's evaluation
writes ``fold_K.csv``: slide_id, Y, Y_hat, p_0, p_1 … (utils/eval_utils.py). Slideflow's ``predictions.parquet`` holds
slide, y_true, y_pred0, y_pred1 …
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score

from deeplrhe_utils.acquisition.barcodes import patients_of, tcga_patient_of
from deeplrhe_utils.core.errors import InputError, LabelError, ParameterError
from deeplrhe_utils.core.tables.foreign import read_foreign, read_foreign_parquet
from deeplrhe_utils.core.text import UNKNOWN_WORD, listed
from deeplrhe_utils.evaluation.auc.score_file import ONE_TARGET

STAMP_FOLDS: Final = "STAMP: t over folds"
STAMP_TEST: Final = "STAMP: t-test of scores"
STAMP_WHY: Final = (
    "STAMP's interval is Student's t over its folds' results: it tells how far these few differ, not how far other "
    "patients would, and takes folds that share their training patients for independent; its p compares mean scores."
)
_FILES: Final = ("*/patient-preds.csv", "patient-preds.csv", "fold_*.csv", "predictions.parquet")
_POSITIVE: Final = frozenset({"1", "1.0", "true", "yes", "positive", "pos", "mut", "mutated", "mutant", "mt"})


@dataclass
class PeerTable:
    """Somebody's table, with our names where its layout is known.

    Attributes
    ----------
    table : texts by line; of several files "LINE of FOLD", with a column fold
    path : what messages call it
    layout, task : whose it is, and what it asks; empty: nobody's that is known
    notes : what was recognised and assumed
    a_row : what a row is, where several files score one patient
    cross_fitted : whether files share some of their patients and not all
    own : what the program itself reports: `stamp_statistics`; else empty
    """

    table: pd.DataFrame
    path: Path
    layout: str = ""
    task: str = ""
    notes: list[str] = field(default_factory=list)
    a_row: str = ""
    cross_fitted: bool = False
    own: pd.DataFrame = field(default_factory=pd.DataFrame)


def read_peer(
    paths: Sequence[Path], *, positive: str = "", classes: Sequence[str] = (), as_is: bool = False
) -> PeerTable:
    """Read one table, or one per fold.

    Parameters
    ----------
    paths : CSV or Parquet files, or a folder of `_FILES`; the fold is named by the folder, else by the file
    positive : the class whose probability is the score; empty: of two the one that reads like 1, else the rarer one; of
        more each against the rest, as a gene of its own
    classes : names of CLAM's and Slideflow's classes, by their number
    as_is : recognise nothing

    Returns PeerTable. A table with a column score is nobody's. Where files share patients, these have no fold, and each
    file's score is a row (`a_row`).

    Raises InputError: as `read_foreign`; pickles (nothing is unpickled), summaries without scores, files of other
    columns, an empty folder. LabelError: a true class without a column. ParameterError: a class that there is not.
    """
    files = [file for path in paths for file in (_folder(path) if Path(path).is_dir() else [Path(path)])]
    tables = [_raw(file) for file in files]
    found = PeerTable(tables[0], files[0])
    if len(files) > 1:
        names = _fold_names(files)
        for file, table in zip(files, tables, strict=True):
            if set(table) != set(tables[0]):
                raise InputError(f"{file} has other columns than {files[0]}", got=", ".join(table),
                                 expected=", ".join(tables[0]), fix="Score files of one model together")  # fmt: skip
        parts = [
            table.assign(**({} if "fold" in table else {"fold": name})).set_axis(
                pd.Index([f"{line} of {name}" for line in table.index])
            )
            for name, table in zip(names, tables, strict=True)
        ]
        found = PeerTable(
            pd.concat(parts).astype("string"), Path(os.path.commonpath([file.absolute() for file in files]))
        )
    if not as_is and "score" not in found.table:
        _recognise(found, positive, classes)
    if found.layout == "STAMP" and found.task != "survival":
        found.own = stamp_statistics(found.table, found.task)
    if len(files) > 1 and "patient_id" in found.table:
        _shared(found, len(files))
    return found


def _folder(path: Path) -> list[Path]:
    """The score files of a folder."""
    for pattern in _FILES:
        if files := sorted(Path(path).glob(pattern)):
            return files
    raise InputError(f"{path} holds no score file that is known", expected=listed(_FILES), fix="Name the files")


def _fold_names(files: Sequence[Path]) -> list[str]:
    same = len({file.name for file in files}) == 1
    names = [file.parent.name if same else file.stem for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _raw(path: Path) -> pd.DataFrame:
    """A table as text by line (of Parquet, by row)."""
    kind = path.suffix.lower()
    if kind in (".pkl", ".pickle"):
        raise InputError(f"{path} is a pickle, which can run code when it is opened: nothing is unpickled",
                         expected="a CSV", fix="Give the CSV: CLAM's eval.py writes fold_0.csv")  # fmt: skip
    if kind == ".json":
        raise InputError(f"{path} is JSON: summaries, as Patho-Bench's, hold no score of a patient", expected="a CSV",
                         fix="Write patient_id, label, score and fold where its experiment evaluates")  # fmt: skip
    if kind in (".parquet", ".pq"):
        table = read_foreign_parquet(path, InputError).rename(columns=str).astype("string").fillna("")
    else:
        table = read_foreign(path, InputError)
    return table.drop(columns=[name for name in table if name.startswith("cut_off=")])


def _recognise(found: PeerTable, positive: str, classes: Sequence[str]) -> None:
    """Give `found` our columns, if its own are those of a layout."""
    table = found.table
    columns = [name for name in table if not name.startswith("(column ")]  # of row names
    first = next(iter(columns), "")
    target = next((name for name in columns if sum(c.startswith(f"{name}_") for c in columns) > 1), "")
    if {"pred_score", "time", "event"} <= set(columns):
        found.layout, found.task = "STAMP", "survival"
        found.table = table.rename(columns={first: "patient_id", "pred_score": "score"})
    elif columns[2:4] == ["pred", "loss"]:
        found.layout, found.task = "STAMP", "regression"
        found.table = table.rename(columns={first: "patient_id", columns[1]: "value", "pred": "score"})
        found.table["gene"] = columns[1]
    elif "pred" in columns and target:
        scores = {name.removeprefix(f"{target}_"): name for name in columns if name.startswith(f"{target}_")}
        _classes(found, "STAMP", {"patient_id": first}, target, scores, target, positive)
    elif {"slide_id", "Y", "Y_hat", "p_0", "p_1"} <= set(columns):
        _slides(found, "CLAM", "slide_id", "Y", "p_", positive, classes)
    elif {"slide", "y_true", "y_pred0", "y_pred1"} <= set(columns):
        _slides(found, "Slideflow", "slide", "y_true", "y_pred", positive, classes)
    if found.layout:
        keep = ["patient_id", "slide_id", "gene", "label", "value", "time", "event", "score", "fold"]
        found.table = found.table[[name for name in keep if name in found.table]]
        found.notes.insert(0, f"Recognised by its columns: {found.layout}, {found.task}.")


def _slides(
    found: PeerTable, layout: str, slide: str, truth: str, prefix: str, positive: str, classes: Sequence[str]
) -> None:
    """Tables of slides whose classes are numbered."""
    numbers = sorted((name for name in found.table if re.fullmatch(rf"{prefix}\d+", name)),
                     key=lambda name: int(name.removeprefix(prefix)))  # fmt: skip
    if classes and len(classes) != len(numbers):
        raise InputError(f"{found.path} has {len(numbers)} classes", got=", ".join(classes), fix="Name them all")
    names = list(classes) or [f"class {name.removeprefix(prefix)}" for name in numbers]
    number = found.table[truth].str.replace(r"\.0$", "", regex=True)
    found.table[truth] = number.replace({str(k): name for k, name in enumerate(names)})
    patient = next((name for name in ("patient_id", "case_id") if name in found.table), slide)
    if patient == slide and not all(tcga_patient_of(name) != name for name in found.table[slide]):
        found.notes.append("Not all slides have TCGA barcodes: these count as patients of their own, unless a column "
                           "patient_id names theirs.")  # fmt: skip
    keys = {"patient_id": patient, "slide_id": slide}
    positive = positive or (names[1] if len(names) == 2 else "")
    _classes(found, layout, keys, truth, dict(zip(names, numbers, strict=True)), ONE_TARGET, positive)


def _classes(
    found: PeerTable, layout: str, keys: Mapping[str, str], truth: str, scores: Mapping[str, str], target: str,
    positive: str,
) -> None:  # fmt: skip
    """One row per row and class that is asked for, its label 1 or 0."""
    table, names = found.table, list(scores)
    told, count = table[truth], table[truth].value_counts()
    if len(wrong := told[~told.isin(names) & ~told.map(lambda text: bool(UNKNOWN_WORD.fullmatch(text)))]):
        raise LabelError(f"{found.path}, line {wrong.index[0]}, column {truth}: there is no column of this class",
                         got=wrong.iloc[0], expected=listed(names))  # fmt: skip
    asked = names
    if positive:
        asked = [name for name in names if positive.casefold() in (name.casefold(), name.removeprefix("class "))]
        if not asked:
            raise ParameterError(f"{found.path} has no class {positive!r}", expected=" | ".join(names))
    elif len(names) == 2:
        rarer = min(reversed(names), key=lambda name: count.get(name, 0))
        asked = [next((name for name in names if name.casefold() in _POSITIVE), rarer)]
    if len(names) == 2:
        found.notes.append(f"The class called {asked[0]} counts as 1; --positive names another.")
    elif len(asked) > 1:
        found.notes.append(f"Each of {len(names)} classes stands against the rest, as a gene; rows count once in each.")
    known = told.isin(names)
    own = pd.DataFrame({ours: table[theirs] for ours, theirs in keys.items()})
    if "fold" in table:
        own["fold"] = table["fold"]
    found.table = pd.concat([
        own.assign(gene=target if len(names) == 2 else name, score=table[scores[name]],
                   label=told.eq(name).map({True: "1", False: "0"}).where(known, "")).astype("string")
        for name in asked
    ])  # fmt: skip
    found.layout, found.task = layout, "classification"


def _shared(found: PeerTable, files: int) -> None:
    """Files that score the same patients are no folds: then rows of a patient become their mean, and that is said."""
    many = found.table["fold"].groupby(patients_of(found.table["patient_id"])).nunique()
    if (again := int(many.gt(1).sum())) == 0:
        return
    found.table, found.a_row, found.cross_fitted = found.table.drop(columns="fold"), "tile", bool(many.min() < files)
    said = (
        "Every patient is in all files: these are taken for models that never saw them"
        if not found.cross_fitted
        else f"{again} of {len(many)} patients are in several files, as in repeated or Monte Carlo cross-validation"
    )
    found.notes.append(f"{said}; a patient's score is the mean of its rows.")


def _t_test(one: pd.Series, zero: pd.Series) -> float:
    with warnings.catch_warnings(action="ignore"):  # of a class of one patient, or scores that are all alike
        return float(stats.ttest_ind(one, zero).pvalue)


def stamp_statistics(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """What STAMP's own statistics say of its files, per gene (statistics/categorical.py, statistics/regression.py).

    Parameters
    ----------
    table : of a `PeerTable` of STAMP, before files that share patients lost their fold
    task : "classification" (AUC) or "regression" (R² of the score as a prediction)

    Returns DataFrame: gene, estimate, ci_low, ci_high, ci_method, p, n, n_pos, n_neg: with several folds first the
    mean and Student's t interval over them, which may leave 0 to 1; then, of classes, each fold with the p of a t-test.
    """
    truth = {"classification": "label", "regression": "value"}[task]
    truths, score = (pd.to_numeric(table[name], "coerce").astype(float) for name in (truth, "score"))
    whole = table.assign(fold=table.get("fold", ""), truth=truths, score=score)[
        np.isfinite(truths) & np.isfinite(score)
    ]
    rows = []
    for gene, own in whole.groupby("gene", sort=False):
        folds = []
        for name, fold in own.groupby("fold"):
            one, zero = (fold.loc[fold["truth"] == k, "score"] for k in (1, 0))
            if task == "regression" and len(fold) > 1:
                folds.append({"estimate": r2_score(fold["truth"], fold["score"]), "n_pos": len(fold), "n_neg": 0})
            elif task == "classification" and len(one) and len(zero):
                folds.append({"estimate": roc_auc_score(fold["truth"], fold["score"]), "n_pos": len(one),
                              "n_neg": len(zero), "p": _t_test(one, zero),
                              "ci_method": STAMP_TEST + (f", {name}" if name else "")})  # fmt: skip
        if len(folds) > 1:
            values = pd.Series([fold["estimate"] for fold in folds])
            half = stats.t.ppf(0.975, len(values) - 1) * (values.sem() or np.nan)  # of folds all alike STAMP gives none
            n_pos, n_neg = (sum(fold[name] for fold in folds) for name in ("n_pos", "n_neg"))
            rows.append({"gene": gene, "estimate": values.mean(), "ci_low": values.mean() - half,
                         "ci_high": values.mean() + half, "ci_method": STAMP_FOLDS, "n": n_pos + n_neg,
                         "n_pos": n_pos, "n_neg": n_neg})  # fmt: skip
        rows += [{"gene": gene, **fold} for fold in folds] if task == "classification" else []
    return pd.DataFrame(
        rows, columns=["gene", "estimate", "ci_low", "ci_high", "ci_method", "p", "n", "n_pos", "n_neg"]
    )
