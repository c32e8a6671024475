"""ROC curves and the metrics table: every AUC with its unit, its counts and intervals that say how they were made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.tables.schemas import METRICS
from deeplrhe_utils.core.text import listed, with_ends
from deeplrhe_utils.evaluation.auc.delong import (
    DELONG,
    NEWCOMBE,
    delong,
    false_discovery,
    headline_interval,
    holm,
    newcombe_interval,
)
from deeplrhe_utils.evaluation.auc.resampling import bootstrap, row_weights
from deeplrhe_utils.evaluation.auc.units import aggregate, align_folds, with_labels


@dataclass(frozen=True)
class Curve:
    """A ROC curve with a pointwise 95 % band: `fpr` (grid), `tpr`, `low`, `high`, all in [0, 1]."""

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def curve(frame: pd.DataFrame, *, resamples: int = 300, seed: int = 0) -> Curve:
    """ROC curve of `frame` (patient_id, label, score) with a patient-bootstrap band."""
    label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
    grid = np.linspace(0, 1, 101)
    lines = []
    for weight in row_weights(frame, resamples, seed):
        keep = weight > 0
        lines.append(_on_grid(label[keep], score[keep], weight[keep], grid))
    low, high = np.quantile(lines, [0.025, 0.975], axis=0)
    return Curve(grid, _on_grid(label, score, np.ones(len(label)), grid), low, high)


def _on_grid(
    label: NDArray[np.int64], score: NDArray[np.float64], weight: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    fpr, tpr, _ = roc_curve(label, score, sample_weight=weight)
    line = np.interp(grid, fpr, tpr)
    line[0] = 0.0
    return np.asarray(line)


def gene_metrics(
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    units: tuple[str, ...] = ("patient", "slide", "tile"),
    min_positives: int = 5,
    resamples: int = 2000,
    seed: int = 0,
    scheme: str = "patient",
    rule: str = "mean",
    cross_fitted: bool | None = None,
) -> pd.DataFrame:
    """The metrics table: AUC per gene and unit, or "not estimable" with the reason.

    Parameters
    ----------
    predictions, labels : tables PREDICTIONS and LABELS
    units : of "patient", "slide", "tile"
    min_positives : least number of patients in *each* class; at least 2
    resamples : draws of the bootstrap
    scheme : what the split never divided; it is only written down
    rule : how tiles become a unit's score, as in `aggregate`
    cross_fitted : whether who scores a patient learned from the others; None: where there are several folds

    Returns DataFrame: table METRICS. Scores of several folds are aligned first (`align_folds`). Patient rows carry
    several intervals, first the headline (:func:`headline_rows`): of cross-fitted scores `CROSS_FITTED`; of independent
    ones DeLong's, and Newcombe's with fewer than `FEW` patients in a class. Slide and tile rows have bootstraps of
    patients only, because their units are not independent. Holm and Benjamini and Hochberg adjust the headline's p over
    the estimable genes; two classes that exclude each other, with equal p, are one test. All but the headline take the
    scores for independent.

    Raises ParameterError: `min_positives` below 2.
    """
    if min_positives < 2:
        raise ParameterError("min_positives is too small for an interval", got=min_positives, expected="2 or more")
    rows = []
    for unit in units:
        joined = with_labels(align_folds(aggregate(predictions, unit, rule)), labels)
        for gene in labels["gene"].drop_duplicates():
            one = joined[joined["gene"] == gene]
            known = labels.loc[labels["gene"] == gene, "status"].value_counts()
            labelled = f"{known.get(1, 0)} positive and {known.get(0, 0)} negative patients are labelled"
            base = {"gene": str(gene), "unit": unit, "scheme": scheme}
            dependent = predictions["fold"].nunique() > 1 if cross_fitted is None else cross_fitted
            rows += [base | row for row in _rows(one, unit, min_positives, resamples, seed, labelled, dependent)]
    frame = pd.DataFrame(rows, columns=[column.name for column in METRICS.columns])
    first = frame[(frame["unit"] == "patient") & (frame["status"] == "estimated")].drop_duplicates("gene")
    p = first["p"].astype(float).round(12)
    tests = p.drop_duplicates() if _is_one_test(labels, first["gene"]) else p
    for name, adjust in (("p_holm", holm), ("p_fdr", false_discovery)):
        adjusted = adjust(first.loc[tests.index, "p"].to_numpy(np.float64))
        frame.loc[first.index, name] = adjusted[0] if len(tests) < len(p) else adjusted
    return frame


def headline_rows(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of a metrics table that are read first: per gene its patients, with the interval that has a p.

    A gene that is not estimable has one row, which says why. Several tables in one keep theirs.
    """
    first = metrics["p"].notna() | (metrics["status"] == "not estimable")
    return metrics[(metrics["unit"] == "patient") & first]


def headline_sentence(rows: pd.DataFrame, units: str = "patients") -> str:
    """What the headline says, misses as loud as hits; `rows` as :func:`headline_rows`, with null_low and null_high."""
    done = rows[rows["status"] == "estimated"]
    above, below = done["auc"] > done["null_high"], done["auc"] < done["null_low"]
    places = {"above": above, "below": below, "inside": ~(above | below)}
    shown = pd.Series([f"{row['gene']} {with_ends(row)}" for row in done.to_dict("records")], done.index, dtype=str)
    parts = [f"{listed(shown[own])} {where} what chance reaches" for where, own in places.items() if own.any()]
    absent = list(rows.loc[rows["status"] != "estimated", "gene"])
    if not parts:
        return f"No AUC by {units[:-1]} can be estimated: {listed(absent)} have too few labelled {units}."
    n = int((done["n_pos"] + done["n_neg"]).max())
    parts += [f"{listed(absent)} not estimable"] if absent else []
    return f"AUC by {units[:-1]} [95 %], n = {n}: {'; '.join(parts)}."


def _is_one_test(labels: pd.DataFrame, genes: pd.Series) -> bool:
    """Whether two targets are two names of one question: a patient is positive for exactly one of them."""
    status = labels.pivot(index="patient_id", columns="gene", values="status")
    return len(genes) == 2 and bool((status[list(genes)].sum(axis=1, skipna=False) == 1).all())


def _rows(
    one: pd.DataFrame, unit: str, least: int, resamples: int, seed: int, labelled: str, cross_fitted: bool
) -> list[dict[str, object]]:
    label, score = one["label"].to_numpy(np.int64), one["score"].to_numpy(np.float64)
    base: dict[str, object] = {"n_pos": int((label == 1).sum()), "n_neg": int((label == 0).sum())}
    per_class = one.groupby("label")["patient_id"].nunique()
    fewest = min(int(per_class.get(0, 0)), int(per_class.get(1, 0)))
    if fewest < least:
        counts = f"{int(per_class.get(1, 0))} positive and {int(per_class.get(0, 0))} negative patients could be scored"
        reason = f"{labelled}; {counts}; at least {least} of each are needed"
        return [{**base, "status": "not estimable", "reason": reason, "ci_method": "none"}]
    if len(np.unique(score)) == 1:
        reason = "every unit has the same score, which says nothing of any of them"
        return [{**base, "status": "not estimable", "reason": reason, "ci_method": "none"}]
    estimated = {**base, "status": "estimated", "auc": float(roc_auc_score(label, score)),
                 "average_precision": float(average_precision_score(label, score))}  # fmt: skip
    ends = bootstrap(one, resamples=resamples, seed=seed)
    rows = [{**estimated, "ci_low": low, "ci_high": high, "ci_method": how} for how, (low, high) in ends.items()]
    if unit == "patient":
        how, *first = headline_interval(label, score, cross_fitted=cross_fitted)
        auc, low, high = delong(label, score)
        plain = newcombe_interval(np.array([auc]), int(label.sum()), int((1 - label).sum()))
        others = {DELONG: (low, high), NEWCOMBE: (float(plain[0][0]), float(plain[1][0]))}
        found = {how: first} | {name: pair for name, pair in others.items() if name != how}
        rows = [{**estimated, **dict(zip(("ci_low", "ci_high", "p"), row, strict=False)), "ci_method": name}
                for name, row in found.items()] + rows  # fmt: skip
    return rows
