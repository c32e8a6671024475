"""What a score says of a value or of survival, under many weightings of the patients at once.

`weight` is (b, n): how often each of n patients counts in each of b resamples; every function returns (b,), NaN where a
resample leaves nothing to compare. `event` is true where the end was seen, false where the patient was censored.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.evaluation.auc.delong import weighted_auc

_Floats = NDArray[np.float64]
_Flags = NDArray[np.bool_]
_CELLS: Final = 1 << 22


def weighted_correlation(x: _Floats, y: _Floats, weight: _Floats, *, ranks: bool = False) -> _Floats:
    """Pearson's correlation of x and y, each (n,), or with `ranks` Spearman's: of their ranks, ties at the mean."""
    columns = [_ranks(z, weight) if ranks else z - z.mean() for z in (x, y)]
    total = weight.sum(1, keepdims=True)
    dx, dy = (z - (weight * z).sum(1, keepdims=True) / total for z in columns)
    with np.errstate(invalid="ignore"):
        product = (weight * dx * dy).sum(1) / np.sqrt((weight * dx**2).sum(1) * (weight * dy**2).sum(1))
    return np.asarray(np.clip(product, -1, 1))


def _ranks(values: _Floats, weight: _Floats) -> _Floats:
    """Ranks (b, n), less one half, of values (n,) that stand as often as `weight` says."""
    order, starts = _groups(values)
    size = np.add.reduceat(weight[:, order], starts, axis=1)
    group = np.unique(values, return_inverse=True)[1]
    return np.asarray((np.cumsum(size, axis=1) - size / 2)[:, group])


def _groups(values: _Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """An order that sorts (n,), and where each group of equal values starts in it."""
    order = np.argsort(values, kind="stable")
    return order, np.flatnonzero(np.r_[True, np.diff(values[order]) > 0])


def weighted_r2(value: _Floats, score: _Floats, weight: _Floats) -> _Floats:
    """1 − Σ(value − score)² / Σ(value − mean)²: the score taken for the value; below 0 if the mean is better."""
    mean = (weight * value).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 1 - (weight * (value - score) ** 2).sum(1) / (weight * (value - mean) ** 2).sum(1)
    return np.where(np.isfinite(found), found, np.nan)


def weighted_concordance(time: _Floats, event: _Flags, score: _Floats, weight: _Floats) -> _Floats:
    """Harrell's C: of the pairs whose order is known, the share in which the one who ends first has the higher score.

    A pair is known if the earlier one ended, or if at one time one ended and the other was censored; two that ended at
    one time are no pair. Equal scores count one half. So do lifelines and scikit-survival.
    """
    won, pairs = np.zeros(len(weight)), np.zeros(len(weight))
    ended = np.flatnonzero(event)
    step = max(1, _CELLS // len(time))
    for first in range(0, len(ended), step):
        own = ended[first : first + step]
        known = (time > time[own, None]) | ((time == time[own, None]) & ~event)
        wins = known * ((score[own, None] > score) + (score[own, None] == score) / 2)
        won += ((weight[:, own] @ wins) * weight).sum(1)
        pairs += ((weight[:, own] @ known.astype(np.float64)) * weight).sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(won / pairs)


def censoring_survival(time: _Floats, event: _Flags, weight: _Floats) -> _Floats:
    """Kaplan–Meier's probability (b, n) of not being censored up to and at each patient's time.

    Who ends at a time leaves before those who are censored at it.
    """
    order, starts = _groups(time)
    ended, left = (np.add.reduceat(weight[:, order] * own[order], starts, axis=1) for own in (event, ~event))
    total = ended + left
    at_risk = np.cumsum(total[:, ::-1], axis=1)[:, ::-1] - ended
    stay = 1 - np.divide(left, at_risk, out=np.zeros_like(left), where=at_risk > 0)
    return np.asarray(np.cumprod(stay, axis=1)[:, np.unique(time, return_inverse=True)[1]])


def weighted_auc_until(time: _Floats, event: _Flags, score: _Floats, weight: _Floats, until: float) -> _Floats:
    """Cumulative/dynamic AUC at a time: who ended by then against who is known to have lasted longer.

    Cases count 1 / `censoring_survival`, for those who were censored before they could be one (Uno 2007; as
    scikit-survival's ``cumulative_dynamic_auc``).
    """
    case = event & (time <= until)
    kept = censoring_survival(time, event, weight)
    counts = np.where(case, np.divide(weight, kept, out=np.zeros_like(kept), where=kept > 0), weight)
    used = case | (time > until)
    return weighted_auc(case[used].astype(np.int64), score[used], counts[:, used])
