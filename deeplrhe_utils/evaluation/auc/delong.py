"""The AUC and what theory says of its precision: exact with ties, float64, for one score or two on the same units."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import SmallCohortError

_Floats = NDArray[np.float64]

DELONG: Final = "DeLong, logit scale"
NEWCOMBE: Final = "Newcombe, method 5"
CROSS_FITTED: Final = "Newcombe, variance doubled for cross-fitting"
INFLATION: Final = 2**0.5
"""Standard error of a cross-fitted AUC in that of as many independent scores; why: docs/cross-fitting.md."""
FEW: Final = 20
"""Patients of a class below which DeLong's interval is too narrow, also for independent scores (notebook 12)."""
TAIL: Final = (1 - 0.95) / 2
"""Probability beyond either end of an interval; all of this room are of 95 %."""
Z: Final = float(stats.norm.ppf(0.5 + 0.95 / 2))


def delong_components(positive: _Floats, negative: _Floats) -> tuple[_Floats, _Floats]:
    """DeLong's structural components.

    Parameters
    ----------
    positive, negative : (..., m) and (..., n)
        Scores of the units with and without the mutation; leading axes are data sets.

    Returns (..., m) and (..., n): for each positive unit the share of negative ones that it outranks, for each negative
    one the share of positive ones that outrank it, ties one half. The mean of either is the AUC.

    Source: DeLong 1988; computed from mid-ranks after Sun & Xu 2014.
    """
    m, n = positive.shape[-1], negative.shape[-1]
    ranks = stats.rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)
    v10 = (ranks[..., :m] - stats.rankdata(positive, axis=-1)) / n
    v01 = 1.0 - (ranks[..., m:] - stats.rankdata(negative, axis=-1)) / m
    return np.asarray(v10), np.asarray(v01)


def delong(label: NDArray[np.int64], score: _Floats) -> tuple[float, float, float]:
    """AUC with its DeLong interval on the logit scale.

    Parameters
    ----------
    label, score : (n,): 0/1 labels of independent units (patients) and their scores; ties count one half

    Returns auc, low, high: at an AUC of exactly 0 or 1 the variance estimate is 0; the interval then ends as
    :func:`bound` says.

    Raises CohortError: fewer than two units of a class.
    """
    positive, negative = score[label == 1], score[label == 0]
    if min(len(positive), len(negative)) < 2:
        got = f"{len(positive)} positive, {len(negative)} negative"
        raise SmallCohortError("A DeLong interval needs two units of each class", got=got)
    auc, low, high = delong_many(positive[None], negative[None])
    return float(auc[0]), float(low[0]), float(high[0])


def delong_many(positive: _Floats, negative: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """As :func:`delong` for many data sets at once: scores (b, m) and (b, n) to AUC, low and high, each (b,)."""
    return auc_interval(*delong_components(positive, negative))


def auc_interval(v10: _Floats, v01: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """AUC, low and high, each (b,), from structural components (b, m) and (b, n), on the logit scale.

    The components are those of :func:`delong_components`, or their means over what belongs together (as tiles).
    """
    m, n = v10.shape[-1], v01.shape[-1]
    auc = v10.mean(-1)
    inside = (auc > 0) & (auc < 1)
    safe = np.where(inside, auc, 0.5)
    error = np.sqrt(v10.var(-1, ddof=1) / m + v01.var(-1, ddof=1) / n)
    half = Z * error / (safe * (1 - safe))
    logit = np.log(safe / (1 - safe))
    least = bound(1.0, min(m, n))[0]
    low = np.where(inside, _expit(logit - half), np.where(auc == 1, least, 0.0))
    high = np.where(inside, _expit(logit + half), np.where(auc == 0, 1 - least, 1.0))
    return auc, low, high


def bound(auc: float, fewest: int) -> tuple[float, float]:
    """Interval for an AUC of exactly 0 or 1: it ends at 0.025^(1/k), or one minus it, k units in the smaller class.

    A convention of ours (the exact binomial bound of k successes in k), because zero width would be absurd.
    """
    least = float(TAIL ** (1 / fewest))
    return (least, 1.0) if auc == 1.0 else (0.0, 1.0 - least)


def hanley_mcneil(auc: float, n_pos: float, n_neg: float) -> float:
    """Standard error that an AUC of this height has with these counts, if scores are exponential in both classes.

    Used where there are no scores, to say what a sample size allows. Source: Hanley & McNeil 1982.
    """
    return float(np.sqrt(hanley_variance(np.asarray(auc, np.float64), n_pos, n_neg)))


def hanley_variance(auc: _Floats, n_pos: float, n_neg: float) -> _Floats:
    """The square of :func:`hanley_mcneil`, for AUCs of any shape."""
    first, second = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    total = auc * (1 - auc) + (n_pos - 1) * first + (n_neg - 1) * second
    return np.asarray(np.maximum(total, 0) / (n_pos * n_neg))


def newcombe_interval(auc: _Floats, n_pos: int, n_neg: int, factor: float | _Floats = 1.0) -> tuple[_Floats, _Floats]:
    """The true AUCs that lie within z standard errors *of their own* from the estimate.

    Parameters
    ----------
    auc : (b,): estimates in [0, 1]
    factor : of the standard error: 1 for independent scores, :data:`INFLATION` for cross-fitted ones; or (b,)

    Returns low, high : (b,) each: in [0, 1], and wider than a point also for an estimate of 0 or 1. Its coverage holds
    with few units of a class, where DeLong's is too narrow, as long as both classes scatter alike (notebook 12). The
    standard error is Hanley & McNeil's with both class sizes in its last two terms replaced by their mean. Source:
    Newcombe 2006, method 5; solved by bisection.
    """
    low, high = (_bisect(auc, np.full_like(auc, end), n_pos, n_neg, Z * factor) for end in (0.0, 1.0))
    return low, high


def null_error(n_pos: int, n_neg: int, factor: float = 1.0) -> float:
    """Standard error of an AUC of 0.5, that of ranks without ties; Newcombe's is the same at this place.

    >>> round(null_error(80, 80), 4)
    0.0458
    """
    return float(factor * np.sqrt((n_pos + n_neg + 1) / (12 * n_pos * n_neg)))


def headline_interval(
    label: NDArray[np.int64], score: _Floats, *, cross_fitted: bool
) -> tuple[str, float, float, float]:
    """The interval of an AUC of patients that is shown first, and the p that belongs to it.

    Parameters
    ----------
    label, score : (n,): as for :func:`delong`
    cross_fitted : whether who scored a patient learned from others of them

    Returns method, low, high, p: :data:`CROSS_FITTED`; for independent scores :data:`DELONG`, or :data:`NEWCOMBE` with
    fewer than :data:`FEW` patients in a class, and Mann–Whitney's p.
    """
    n_pos, n_neg = int((label == 1).sum()), int((label == 0).sum())
    auc, low, high = delong(label, score)
    if cross_fitted or min(n_pos, n_neg) < FEW:
        factor = INFLATION if cross_fitted else 1.0
        low, high = (float(end[0]) for end in newcombe_interval(np.array([auc]), n_pos, n_neg, factor))
    if cross_fitted:
        return CROSS_FITTED, low, high, float(cross_fitted_p(np.array([auc]), n_pos, n_neg)[0])
    p = float(stats.mannwhitneyu(score[label == 1], score[label == 0]).pvalue)
    return (DELONG if min(n_pos, n_neg) >= FEW else NEWCOMBE), low, high, p


def cross_fitted_p(auc: _Floats, n_pos: int, n_neg: int) -> _Floats:
    """Two-sided p of AUCs (b,) of cross-fitted scores against 0.5: below 0.05 where the interval excludes 0.5."""
    return np.asarray(2 * stats.norm.sf(np.abs(auc - 0.5) / null_error(n_pos, n_neg, INFLATION)))


def _bisect(auc: _Floats, end: _Floats, n_pos: int, n_neg: int, reach: float | _Floats) -> _Floats:
    """The value between `auc` and `end` that is `reach` of its own standard errors away from `auc`."""
    near, far = auc.copy(), end
    mean = (n_pos + n_neg) / 2 - 1
    for _ in range(50):
        middle = (near + far) / 2
        spread = 1 + mean * ((1 - middle) / (2 - middle) + middle / (1 + middle))
        error = np.sqrt(middle * (1 - middle) * spread / (n_pos * n_neg))
        beyond = np.abs(middle - auc) > reach * error
        near, far = np.where(beyond, near, middle), np.where(beyond, middle, far)
    return np.asarray((near + far) / 2)


def weighted_auc(label: NDArray[np.int64], score: _Floats, weight: _Floats) -> _Floats:
    """AUC under many weightings at once, ties exact.

    Parameters
    ----------
    label, score : (n,)
    weight : (b, n): multiplicity of each unit in each resample

    Returns (b,): NaN where a weighting leaves a class empty.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    weight, is_positive = weight[:, order], label[order] == 1
    positive = np.add.reduceat(weight * is_positive, starts, axis=1)
    negative = np.add.reduceat(weight * ~is_positive, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))


def holm(p: _Floats) -> _Floats:
    """Holm's step-down adjustment of p-values (n,): family-wise error."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def false_discovery(p: _Floats) -> _Floats:
    """Benjamini and Hochberg's adjustment of p-values (n,): false discovery rate."""
    return np.asarray(stats.false_discovery_control(p), np.float64) if len(p) else p


def _expit(x: _Floats) -> _Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
