"""Cross-fitted scores of cohorts whose truth is known: what do intervals and p-values promise there, and keep?

Each patient is scored by a reader that learned from the other folds, so that every patient is both judged and learned
from, and the folds' AUCs are correlated. ``docs/cross-fitting.md`` says by how much, and what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import (
    CROSS_FITTED,
    DELONG,
    INFLATION,
    NEWCOMBE,
    cross_fitted_p,
    delong_many,
    newcombe_interval,
)
from deeplrhe_utils.evaluation.precision.coverage import Ends, coverage_rows

_Floats = NDArray[np.float64]

_HIDDEN, _STEPS, _RATE, _MOMENTUM = 8, 40, 0.5, 0.9
_BLOCK: Final = 250


@dataclass(frozen=True)
class Design:
    """A kind of cohort, and the reader that is cross-fitted on it.

    Attributes
    ----------
    n_pos, n_neg : patients of each class
    folds : each with its share of both classes
    features : normal and independent
    aim : AUC that the reader reaches about, in [0.5, 1); the planted effect follows from it, 0 at 0.5
    decay : variance of feature j is j^(−decay): few directions dominate
    spread : standard deviation of mutated patients in those of the others
    reader : "ridge" (least squares with a penalty of the mean eigenvalue) or "network" (one hidden layer)
    """

    n_pos: int
    n_neg: int
    folds: int = 2
    features: int = 100
    aim: float = 0.5
    decay: float = 0.0
    spread: float = 1.0
    reader: str = "ridge"

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= min(self.n_pos, self.n_neg):
            got = f"{self.folds} folds of {self.n_pos} and {self.n_neg}"
            raise ParameterError("No such folds", got=got, expected="two or more, with a patient of each class")
        if self.reader not in ("ridge", "network") or not 0.5 <= self.aim < 1:
            got = f"{self.reader}, {self.aim}"
            raise ParameterError("No such reader or aim", got=got, expected="ridge | network, [0.5, 1)")

    @property
    def fold(self) -> NDArray[np.intp]:
        """Fold of each patient, mutated ones first, (n_pos + n_neg,)."""
        return np.r_[np.arange(self.n_pos), self.n_pos + np.arange(self.n_neg)] % self.folds

    @property
    def effect(self) -> float:
        """Distance of the classes at which a nearest mean of so many patients reaches `aim` [standard deviations]."""
        reached = 2 * stats.norm.ppf(self.aim) ** 2
        error = self.features * (1 / self.n_pos + 1 / self.n_neg) * self.folds / (self.folds - 1)
        return float(np.sqrt((reached + np.sqrt(reached**2 + 4 * reached * error)) / 2))


def cohorts(design: Design, draws: int, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (draws, patients, features), mutated patients first, and their planted shift (draws, 1, features)."""
    features = random.standard_normal((draws, design.n_pos + design.n_neg, design.features), np.float32)
    features[:, : design.n_pos] *= np.float32(design.spread)
    way = random.standard_normal((draws, 1, design.features), np.float32)
    shift = np.float32(design.effect) * way / np.linalg.norm(way, axis=2, keepdims=True)
    features[:, : design.n_pos] += shift
    scale = np.arange(1, design.features + 1, dtype=np.float32) ** np.float32(-design.decay / 2)
    return features * scale, shift * scale


def ridge_scores(gram: NDArray[np.float32], label: NDArray[np.float32], fold: NDArray[np.intp]) -> _Floats:
    """Held-out scores of a ridge regression.

    Parameters
    ----------
    gram : (b, n, n) inner products of the patients
    label : (b, n, p): p labellings, 0 and 1
    fold : (n,)

    Returns (b, n, p): comparable within a fold.
    """
    scores = np.empty(label.shape)
    for number in np.unique(fold):
        own, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        known = gram[:, others[:, None], others]
        known = known - known.mean(1, keepdims=True)
        known -= known.mean(2, keepdims=True)
        penalty = np.trace(known, axis1=1, axis2=2) / len(others)
        known += penalty[:, None, None] * np.eye(len(others), dtype=np.float32)
        target = label[:, others]
        weight = np.linalg.solve(known, target - target.mean(1, keepdims=True))
        scores[:, own] = gram[:, own[:, None], others] @ (weight - weight.mean(1, keepdims=True))
    return scores


def network_scores(features: NDArray[np.float32], design: Design, random: np.random.Generator) -> _Floats:
    """Held-out scores (b, n) of a network per fold: one hidden layer, gradient descent over all its patients."""
    b, n, d = features.shape
    fold, label = design.fold, (np.arange(n) < design.n_pos).astype(np.float32)
    share = (fold != np.arange(design.folds)[:, None]).astype(np.float32)
    share /= share.sum(1, keepdims=True)
    x = (features / features.std())[:, None]
    inner = random.standard_normal((b, design.folds, d, _HIDDEN), np.float32) / np.float32(np.sqrt(d))
    outer = random.standard_normal((b, design.folds, _HIDDEN, 1), np.float32) / np.float32(np.sqrt(_HIDDEN))
    moves = [np.zeros_like(inner), np.zeros_like(outer)]
    start = np.float32(np.log(design.n_pos / design.n_neg))
    for _ in range(_STEPS):
        hidden = np.tanh(x @ inner)
        error = (1 / (1 + np.exp(-(hidden @ outer + start))) - label[:, None]) * share[..., None]
        back = x.swapaxes(2, 3) @ (error * outer.swapaxes(2, 3) * (1 - hidden**2))
        moves = [_MOMENTUM * move + slope
                 for move, slope in zip(moves, (back, hidden.swapaxes(2, 3) @ error), strict=True)]  # fmt: skip
        inner, outer = inner - _RATE * moves[0], outer - _RATE * moves[1]
    return (np.tanh(x @ inner) @ outer)[..., 0][:, fold, np.arange(n)].astype(np.float64)


def simulated_scores(design: Design, draws: int, seed: int = 0) -> _Floats:
    """Cross-fitted scores (draws, patients) of new cohorts, mutated patients first."""
    parts = []
    for number, first in enumerate(range(0, draws, _BLOCK)):
        random = generator(seed, "cross-fitting", str(design), number)
        features, _ = cohorts(design, min(_BLOCK, draws - first), random)
        if design.reader == "network":
            parts.append(network_scores(features, design, random))
        else:
            gram = features @ features.swapaxes(1, 2)
            label = np.zeros((*gram.shape[:2], 1), np.float32)
            label[:, : design.n_pos] = 1
            parts.append(ridge_scores(gram, label, design.fold)[..., 0])
    return np.concatenate(parts)


def within_folds(scores: _Floats, design: Design) -> tuple[_Floats, _Floats]:
    """Ranks within folds in (0, 1), as `align_folds`, (b, patients), and the AUC of each fold, (b, folds)."""
    ranks, aucs, fold = np.empty_like(scores), [], design.fold
    for number in range(design.folds):
        own = np.flatnonzero(fold == number)
        rank = stats.rankdata(scores[:, own], axis=1)
        ranks[:, own] = (rank - 0.5) / len(own)
        m = int((own < design.n_pos).sum())
        aucs.append((rank[:, :m].sum(1) - m * (m + 1) / 2) / (m * (len(own) - m)))
    return ranks, np.stack(aucs, axis=1)


def target_auc(design: Design, fold_aucs: _Floats) -> float:
    """What an interval should contain: the expected AUC of readers trained on so many patients.

    A fold's AUC is of patients that its reader never saw, so the mean over folds and draws estimates it without bias;
    without a planted effect it is 0.5 exactly.
    """
    return 0.5 if design.aim == 0.5 else float(fold_aucs.mean())


def cross_fitting_trial(design: Design, draws: int = 500, seed: int = 0) -> pd.DataFrame:
    """What the usual and the chosen interval and p of the pooled AUC keep of their promise.

    Returns DataFrame: `COVERAGE_COLUMNS`, a row per method, and rejected: share of cohorts with p ≤ 0.05, which is the
    false-alarm rate where no effect is planted, and else the power; auc: :func:`target_auc`.
    """
    ranks, fold_aucs = within_folds(simulated_scores(design, draws, seed), design)
    m, n = design.n_pos, design.n_neg
    auc, low, high = delong_many(ranks[:, :m], ranks[:, m:])
    usual = stats.mannwhitneyu(ranks[:, :m], ranks[:, m:], axis=1).pvalue
    found = {DELONG: ((low, high), usual), NEWCOMBE: (newcombe_interval(auc, m, n), usual),
             CROSS_FITTED: (newcombe_interval(auc, m, n, INFLATION), cross_fitted_p(auc, m, n))}  # fmt: skip
    return trial_rows(design, found, target_auc(design, fold_aucs))


def trial_rows(design: Design, found: dict[str, tuple[Ends, _Floats]], truth: float) -> pd.DataFrame:
    """Rows of :func:`cross_fitting_trial`, from each method's ends and p, each (b,)."""
    n = design.n_pos + design.n_neg
    base = {"design": design.reader, "auc": truth, "patients": n, "prevalence": design.n_pos / n, "n_pos": design.n_pos,
            "n_neg": design.n_neg, "tiles": 1, "within": 0.0, "spread": design.spread}  # fmt: skip
    table = coverage_rows(base, {name: ends for name, (ends, _) in found.items()}, truth)
    return table.assign(folds=design.folds, features=design.features, decay=design.decay, aim=design.aim,
                        rejected=[float((p <= 0.05).mean()) for _, p in found.values()])  # fmt: skip
