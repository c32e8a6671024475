"""The table of a score of a value or of survival: every estimate with its counts and intervals of patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from deeplrhe_utils.core.text import with_ends
from deeplrhe_utils.evaluation.auc.delong import INFLATION, bound
from deeplrhe_utils.evaluation.auc.resampling import BCA, PERCENTILE, bootstrap_statistic
from deeplrhe_utils.evaluation.auc.units import aggregate, align_folds
from deeplrhe_utils.evaluation.referee.weighted import (
    weighted_auc_until,
    weighted_concordance,
    weighted_correlation,
    weighted_r2,
)

_Floats = NDArray[np.float64]

SPEARMAN: Final = "Spearman's correlation"
EXPLAINED: Final = "R² of the score as a prediction"
SQUARED: Final = "R², Pearson's correlation squared"
CONCORDANCE: Final = "Harrell's C"
AUC_UNTIL: Final = "AUC of ending until"
DOUBLED: Final = f"{BCA}, variance doubled for cross-fitting"
OUTCOME_COLUMNS: Final = [
    "gene", "metric", "time", "estimate", "ci_low", "ci_high", "ci_method", "n", "n_events", "status", "reason",
]  # fmt: skip
_FEWEST: Final = 10
"""Patients below which a correlation is not estimated."""


def patient_outcomes(predictions: pd.DataFrame, labels: pd.DataFrame, rule: str = "mean") -> pd.DataFrame:
    """One row per patient and gene: score, `ranked` (within the fold, in (0, 1)), and the outcome of `labels`."""
    scores = aggregate(predictions, "patient", rule)
    return scores.assign(ranked=align_folds(scores)["score"]).merge(labels, on=["patient_id", "gene"])


def outcome_metrics(
    patients: pd.DataFrame, *, times: Sequence[float] = (), own_scale: bool = True, least: int = 5,
    resamples: int = 2000, seed: int = 0, cross_fitted: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Correlation and explained share of values, or concordance and AUC over time of survival.

    Parameters
    ----------
    patients : of :func:`patient_outcomes`, with value, or with time and event
    times : at which to give the cumulative/dynamic AUC; empty: the quartiles of the times of events
    own_scale : whether scores are on the scale of the values; else R² is Pearson's correlation squared
    least : events, and patients who lasted longer, that an estimate needs; correlations need `_FEWEST` patients
    cross_fitted : whether who scores a patient learned from the others

    Returns DataFrame: `OUTCOME_COLUMNS`; per estimate a row per interval, or one that says why there is none. The first
    is to be read: BCa, or of cross-fitted scores `DOUBLED`, BCa √2 times as far from the estimate (on the logit scale,
    Spearman's on Fisher's). Folds are compared by ranks, except for R². A perfect order ends as an AUC of 0 or 1 does
    (`bound`).
    """
    rows: list[dict[str, Any]] = []
    for gene, own in patients.groupby("gene", sort=False):
        ends = own["event"].to_numpy(bool) if "event" in own else np.ones(len(own), bool)
        base = {"gene": gene, "n": len(own), "n_events": int(ends.sum()) if "event" in own else None}
        asked = _survival(own, ends, times, least) if "event" in own else _values(own, own_scale)
        for metric, time, fewest, reason, statistic in asked:
            place = base | {"metric": metric, "time": time}
            if not reason:
                value, found = bootstrap_statistic(statistic, len(own), resamples=resamples, seed=seed)
                reason = "" if np.isfinite(value) else "no two patients can be compared"
            if reason:
                rows.append({**place, "status": "not estimable", "reason": reason, "ci_method": "none"})
                continue
            if metric in (CONCORDANCE, AUC_UNTIL) and value in (0, 1):
                found = dict.fromkeys(found, bound(value, fewest))
            if metric == SPEARMAN and abs(value) == 1:
                low, high = bound((value + 1) / 2, fewest)
                found = dict.fromkeys(found, (2 * low - 1, 2 * high - 1))
            found = {BCA: found[BCA], PERCENTILE: found[PERCENTILE]}
            if cross_fitted:
                found = {
                    DOUBLED: (_widened(metric, value, found[BCA][0]), _widened(metric, value, found[BCA][1]))
                } | found
            rows += [{**place, "estimate": value, "ci_low": low, "ci_high": high, "ci_method": how,
                      "status": "estimated"} for how, (low, high) in found.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=OUTCOME_COLUMNS)


def _widened(metric: str, value: float, end: float) -> float:
    """An end of an interval `INFLATION` times as far away, on the scale on which its metric has no limits."""
    if metric in (EXPLAINED, SQUARED):
        return max(value + INFLATION * (end - value), 0.0 if metric == SQUARED else -np.inf)
    lift, drop = (logit, expit) if metric in (CONCORDANCE, AUC_UNTIL) else (np.arctanh, np.tanh)
    with np.errstate(divide="ignore"):
        middle, far = lift(value), lift(end)
    return float(drop(middle + INFLATION * (far - middle))) if np.isfinite(middle) else end


_Asked = tuple[str, float | None, int, str, Callable[[_Floats], _Floats]]


def _values(own: pd.DataFrame, own_scale: bool) -> Iterator[_Asked]:
    value, score, ranked = (own[name].to_numpy(np.float64) for name in ("value", "score", "ranked"))
    reason = f"{len(own)} patients; at least {_FEWEST} are needed" if len(own) < _FEWEST else ""
    if not reason and min(np.ptp(value), np.ptp(score)) == 0:
        reason = "all patients have the same value, or the same score"
    yield SPEARMAN, None, len(own), reason, partial(weighted_correlation, value, ranked, ranks=True)
    if own_scale:
        yield EXPLAINED, None, len(own), reason, partial(weighted_r2, value, score)
    else:
        yield SQUARED, None, len(own), reason, lambda weight: weighted_correlation(value, score, weight) ** 2


def _survival(own: pd.DataFrame, event: NDArray[np.bool_], times: Sequence[float], least: int) -> Iterator[_Asked]:
    time, ranked = own["time"].to_numpy(np.float64), own["ranked"].to_numpy(np.float64)
    count, reason = int(event.sum()), ""
    if count < least:
        reason = f"{count} of {len(own)} patients had the event; at least {least} are needed"
    elif np.ptp(own["score"].to_numpy(np.float64)) == 0:
        reason = "every patient has the same score, which says nothing of any of them"
    yield CONCORDANCE, None, count, reason, partial(weighted_concordance, time, event, ranked)
    for at in times or (np.unique(np.quantile(time[event], [0.25, 0.5, 0.75])) if count else ()):
        cases, longer = int((event & (time <= at)).sum()), int((time > at).sum())
        few = f"{cases} patients had the event by then and {longer} lasted longer; at least {least} of each are needed"
        yield (AUC_UNTIL, float(at), min(cases, longer), reason or (few if min(cases, longer) < least else ""),
               partial(weighted_auc_until, time, event, ranked, until=float(at)))  # fmt: skip


def turned(metrics: pd.DataFrame) -> list[str]:
    """A sentence for each interval of :func:`outcome_metrics` that lies on the wrong side of chance as a whole."""
    chance = metrics["metric"].map({SPEARMAN: 0.0, CONCORDANCE: 0.5})
    rows = metrics[metrics["ci_high"].astype(float) < chance].drop_duplicates(["gene", "metric"])
    what = {SPEARMAN: "lower the value. Nothing was turned: check what it means",
            CONCORDANCE: "later the event. Nothing was turned: check --higher-is"}  # fmt: skip
    return [f"{row['gene']}: {row['metric']} {with_ends(row, 'estimate')} is clearly below chance: the higher the "
            f"score, the {what[row['metric']]}." for row in rows.to_dict("records")]  # fmt: skip
