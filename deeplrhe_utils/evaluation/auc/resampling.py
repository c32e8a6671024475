"""Patients drawn with replacement: intervals for AUCs whose tiles are not independent.

An AUC over tiles is a ratio of sums over pairs of *patients*: how many tile pairs patient i wins against patient j. The
sums are counted once, exactly, and every resample is then one product of matrices, however many tiles there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from deeplrhe_utils.core.errors import CohortError, SmallCohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import TAIL, bound, delong_components, weighted_auc

_Floats = NDArray[np.float64]

PERCENTILE: Final = "bootstrap of patients, percentile"
BCA: Final = "bootstrap of patients, BCa"

_BLOCK: Final = 250
_CELLS: Final = 1 << 22
"""Cells of a work array; bounds the memory of a table of a million tiles to some tens of megabytes."""


@dataclass(frozen=True)
class Pairs:
    """Who beats whom, patient by patient.

    Attributes
    ----------
    wins : (p, n): tile pairs that positive patient i wins against negative patient j; ties count one half
    tiles_pos, tiles_neg : (p,) and (n,): tiles of each patient
    """

    wins: _Floats
    tiles_pos: _Floats
    tiles_neg: _Floats

    def auc(self, weight_pos: _Floats, weight_neg: _Floats) -> _Floats:
        """AUC (b,) of patients taken so many times: weights (b, p) and (b, n); NaN where a class is empty."""
        won = ((weight_pos @ self.wins) * weight_neg).sum(1)
        with np.errstate(invalid="ignore"):
            return np.asarray(won / ((weight_pos @ self.tiles_pos) * (weight_neg @ self.tiles_neg)))


def count_pairs(score: _Floats, rows: NDArray[np.intp], columns: NDArray[np.intp], shape: tuple[int, int]) -> _Floats:
    """Tile pairs in which a tile of a row patient has the higher score than a tile of a column patient.

    Parameters
    ----------
    score : (t,)
    rows, columns : (t,): patient of the tile among the row patients and among the column patients, −1 where it is none
    shape : (r, c)

    Returns (r, c): ties count one half. Exact: counts stay below 2^53. Takes O(t · c) time in pieces of bounded memory.
    """
    _, level = np.unique(score, return_inverse=True)
    order = np.argsort(level, kind="stable")
    level, rows, columns = level[order], rows[order], columns[order]
    wins, below = np.zeros(shape), np.zeros(shape[1])
    borders = np.flatnonzero(np.r_[True, np.diff(level) > 0, True])
    step = max(1, _CELLS // max(1, shape[1]))
    first = 0
    while first < len(borders) - 1:
        last = min(first + step, len(borders) - 1)
        part = slice(borders[first], borders[last])
        at, row, column = level[part] - level[borders[first]], rows[part], columns[part]
        size = last - first
        here = _counts(column, at, (shape[1], size)).toarray().T
        rank = np.cumsum(here, axis=0)
        wins += _counts(row, at, (shape[0], size)) @ (below + rank - here / 2)
        below += rank[-1]
        first = last
    return wins


def _counts(patient: NDArray[np.intp], level: NDArray[np.intp], shape: tuple[int, int]) -> sparse.csr_matrix:
    known = patient >= 0
    return sparse.csr_matrix((np.ones(int(known.sum())), (patient[known], level[known])), shape=shape)


@dataclass(frozen=True)
class _Patients:
    """A table of scores, patient by patient: codes (t,) among all patients, and each patient's class."""

    label: NDArray[np.int64]
    score: _Floats
    code: NDArray[np.intp]
    is_positive: NDArray[np.bool_]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Patients:
        """From columns patient_id, label, score; raises CohortError for a patient of two classes, or one class only."""
        label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
        code, names = frame["patient_id"].factorize(sort=True)
        total, positive = np.bincount(code), np.bincount(code, weights=label)
        if len(torn := names[(positive > 0) & (positive < total)]):
            raise CohortError("Patients carry both labels for one gene", got=", ".join(map(str, torn[:5])),
                              fix="Give each patient one label per gene")  # fmt: skip
        is_positive = positive > 0
        if is_positive.all() or not is_positive.any():
            got = f"{int(is_positive.sum())} positive, {int((~is_positive).sum())} negative patients"
            raise SmallCohortError("An AUC needs patients of both classes", got=got)
        return cls(label, score, code, is_positive)

    @property
    def place(self) -> NDArray[np.intp]:
        """Number of each patient within its class, (patients,)."""
        return np.where(self.is_positive, np.cumsum(self.is_positive), np.cumsum(~self.is_positive)) - 1

    def pairs(self) -> Pairs:
        """Pairs of a positive and a negative patient."""
        place, own = self.place[self.code], self.is_positive[self.code]
        counts = int(self.is_positive.sum()), int((~self.is_positive).sum())
        wins = count_pairs(self.score, np.where(own, place, -1), np.where(own, -1, place), counts)
        tiles = np.bincount(self.code).astype(np.float64)
        return Pairs(wins, tiles[self.is_positive], tiles[~self.is_positive])

    def draws(self, resamples: int, seed: int) -> Iterator[tuple[_Floats, _Floats]]:
        """How often each positive and each negative patient is drawn, (b, p) and (b, n), in blocks of resamples.

        The size of a block depends on the number of patients alone; each has a generator of its own.
        """
        step = min(_BLOCK, max(1, _CELLS // len(self.is_positive)))
        for number, first in enumerate(range(0, resamples, step)):
            random = generator(seed, "bootstrap", number)
            some = min(step, resamples - first)
            negative, positive = (_drawn(random, int(k.sum()), some) for k in (~self.is_positive, self.is_positive))
            yield positive, negative

    def weights(self, resamples: int, seed: int) -> Iterator[_Floats]:
        """The same draws, all patients in one array (b, patients)."""
        for positive, negative in self.draws(resamples, seed):
            weight = np.empty((len(positive), len(self.is_positive)))
            weight[:, self.is_positive], weight[:, ~self.is_positive] = positive, negative
            yield weight

    @property
    def few(self) -> bool:
        """Whether pairs of patients are cheaper, in time and memory, than sorting the rows for every resample."""
        positive = int(self.is_positive.sum())
        return positive * (len(self.is_positive) - positive) <= 30 * len(self.score)


def _drawn(random: np.random.Generator, n: int, resamples: int) -> _Floats:
    chosen = random.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(chosen.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def redraw(random: np.random.Generator, n: int, resamples: int) -> _Floats:
    """How often each of `n` patients is drawn, (1 + resamples, n); the first row is everybody once."""
    return np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), resamples)])


def bootstrap_aucs(frame: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> _Floats:
    """AUCs (b,) of `frame` with its patients redrawn within each class.

    Parameters
    ----------
    frame : columns patient_id, label (0/1, one per patient), score: one row per unit (tile, slide or patient)
    resamples, seed : the same patients and the same seed give the same draws, whatever the scores: two arms are thereby
        paired

    Raises CohortError: a patient with both labels, or one class only.
    """
    patients = _Patients.of(frame)
    return _redrawn(patients, patients.pairs() if patients.few else None, resamples, seed)


def _redrawn(patients: _Patients, pairs: Pairs | None, resamples: int, seed: int) -> _Floats:
    if pairs is not None:
        return np.concatenate([pairs.auc(*drawn) for drawn in patients.draws(resamples, seed)])
    step = max(1, _CELLS // len(patients.score))
    return np.concatenate([weighted_auc(patients.label, patients.score, weight[i : i + step, patients.code])
                           for weight in patients.weights(resamples, seed)
                           for i in range(0, len(weight), step)])  # fmt: skip


def row_weights(frame: pd.DataFrame, resamples: int, seed: int) -> _Floats:
    """How often each row's patient is drawn, (resamples, rows), in the draws of :func:`bootstrap_aucs`."""
    patients = _Patients.of(frame)
    return np.concatenate([weight[:, patients.code] for weight in patients.weights(resamples, seed)])


def bootstrap(frame: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Intervals of the AUC from resampling patients within each class.

    Parameters
    ----------
    frame, resamples, seed : as for :func:`bootstrap_aucs`

    Returns dict: :data:`PERCENTILE` and :data:`BCA` → low, high. BCa corrects bias and skewness with a jackknife over
    patients (Efron 1987; strata as Davison & Hinkley 1997). At an AUC of 0 or 1, where every resample agrees, both end
    as DeLong's interval does (`bound`), k being patients.

    Raises CohortError: as :func:`bootstrap_aucs`.
    """
    patients = _Patients.of(frame)
    pairs = patients.pairs() if patients.few else None
    aucs = _redrawn(patients, pairs, resamples, seed)
    auc, fewest = _jackknife(patients, pairs)[1], min(patients.is_positive.sum(), (~patients.is_positive).sum())
    if auc in (0.0, 1.0):
        return dict.fromkeys((PERCENTILE, BCA), bound(auc, int(fewest)))
    return _ends(aucs, *_jackknife(patients, pairs))


def _ends(aucs: _Floats, left_out: Sequence[_Floats], auc: float) -> dict[str, tuple[float, float]]:
    """Both intervals of a value, from its resamples and from its values without each patient, class by class."""
    tails = np.array([TAIL, (1 + 0.95) / 2])
    ends = np.quantile(aucs, [tails, _bca_tails(aucs, left_out, auc, tails)])
    return {name: (float(low), float(high)) for name, (low, high) in zip((PERCENTILE, BCA), ends, strict=True)}


def bootstrap_statistic(
    statistic: Callable[[_Floats], _Floats], n: int, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, dict[str, tuple[float, float]]]:
    """A statistic of `n` patients and its intervals from resampling all of them alike.

    Parameters
    ----------
    statistic : weights (b, n) → values (b,), NaN where a resample has none

    Returns the value with everybody once, and as :func:`bootstrap`. Resamples without a value are left out; where half
    of them are, the ends are NaN.
    """
    step = max(1, _CELLS // n)
    draws = redraw(generator(seed, "bootstrap"), n, resamples)
    values = np.concatenate([statistic(draws[i : i + step]) for i in range(0, len(draws), step)])
    value, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    if len(drawn) <= resamples / 2:
        return value, dict.fromkeys((PERCENTILE, BCA), (np.nan, np.nan))
    without = np.concatenate([statistic(1 - np.eye(min(step, n - i), n, i)) for i in range(0, n, step)])
    return value, _ends(drawn, [without[np.isfinite(without)]], value)


def _bca_tails(aucs: _Floats, left_out: Sequence[_Floats], auc: float, tails: _Floats) -> _Floats:
    """The quantiles of `aucs` that BCa takes for `tails`."""
    below = np.mean(aucs < auc) + np.mean(aucs == auc) / 2
    if not 0 < below < 1 or np.ptp(aucs) == 0:
        return tails  # every resample agrees: there is no skewness to correct
    cubes = squares = 0.0
    for values in left_out:
        n = len(values)
        influence = (n - 1) * (values.mean() - values) / n
        cubes, squares = cubes + (influence**3).sum(), squares + (influence**2).sum()
    bias, speed = stats.norm.ppf(below), cubes / (6 * squares**1.5) if squares > 0 else 0.0
    z = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + z / (1 - speed * z)))


def _jackknife(patients: _Patients, pairs: Pairs | None) -> tuple[tuple[_Floats, _Floats], float]:
    """AUCs without each positive and without each negative patient, and with all; a class of one cannot lose it."""
    if pairs is not None:
        of_row, of_column = pairs.wins.sum(1), pairs.wins.sum(0)
    else:  # tile by tile: the share of the other class that it beats, or that beats it
        own = patients.label == 1
        beaten, beating = delong_components(patients.score[own], patients.score[~own])
        wins = np.zeros(len(own))
        wins[own], wins[~own] = beaten * (~own).sum(), beating * own.sum()
        of_patient = np.bincount(patients.code, weights=wins)
        of_row, of_column = of_patient[patients.is_positive], of_patient[~patients.is_positive]
    tiles = np.bincount(patients.code).astype(np.float64)
    tiles_pos, tiles_neg = tiles[patients.is_positive], tiles[~patients.is_positive]
    won, all_pos, all_neg = of_row.sum(), tiles_pos.sum(), tiles_neg.sum()
    auc = float(won / (all_pos * all_neg))
    without_pos = (won - of_row) / ((all_pos - tiles_pos) * all_neg) if len(of_row) > 1 else np.array([auc])
    without_neg = (won - of_column) / (all_pos * (all_neg - tiles_neg)) if len(of_column) > 1 else np.array([auc])
    return (without_pos, without_neg), auc
