"""Do nominal 95 % intervals of an AUC hold what they promise? Simulated data whose true AUC is known."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.evaluation.auc.delong import DELONG, NEWCOMBE, Z, delong_many, hanley_variance, newcombe_interval
from deeplrhe_utils.evaluation.auc.resampling import BCA, PERCENTILE, bootstrap
from deeplrhe_utils.evaluation.precision.power import binormal, expected_counts

_Floats = NDArray[np.float64]
Ends = tuple[_Floats, _Floats]

HANLEY: Final = "Hanley and McNeil, normal"
PROMISE: Final = (0.93, 0.97)
"""Coverage of a nominal 95 % interval that we accept."""
COVERAGE_COLUMNS: Final = (
    "design", "auc", "patients", "prevalence", "n_pos", "n_neg", "tiles", "within", "spread", "method", "draws",
    "coverage", "mc_error", "missed_below", "missed_above", "mean_width", "verdict",
)  # fmt: skip


def hanley_interval(auc: _Floats, n_pos: int, n_neg: int) -> Ends:
    """AUC ± z standard errors of Hanley & McNeil 1982, cut to [0, 1]: estimates (b,) to low and high, each (b,)."""
    half = Z * np.sqrt(hanley_variance(auc, n_pos, n_neg))
    return np.maximum(auc - half, 0.0), np.minimum(auc + half, 1.0)


def simulated_counts(prevalence: float, patients: int) -> tuple[int, int]:
    """Mutated and wild-type patients of a simulated data set; ParameterError for fewer than two of either."""
    n_pos, n_neg = expected_counts(prevalence, patients)
    if min(n_pos, n_neg) < 2:
        got = f"{n_pos} positive, {n_neg} negative"
        raise ParameterError("No interval can be simulated", got=got, expected="two or more patients of each class")
    return n_pos, n_neg


def closed_forms(positive: _Floats, negative: _Floats) -> dict[str, Ends]:
    """Every interval that needs no resampling, for scores (b, m) and (b, n): method to low and high, each (b,)."""
    m, n = positive.shape[1], negative.shape[1]
    auc, low, high = delong_many(positive, negative)
    return {DELONG: (low, high), HANLEY: hanley_interval(auc, m, n), NEWCOMBE: newcombe_interval(auc, m, n)}


def bootstraps(positive: _Floats, negative: _Floats, tiles: int, resamples: int, seed: int) -> dict[str, Ends]:
    """Percentile and BCa bootstrap of patients, for scores (b, m · tiles) and (b, n · tiles), one data set at a time.

    Parameters
    ----------
    positive, negative : (b, m · tiles) and (b, n · tiles): a patient's tiles are neighbours
    tiles, resamples, seed : each data set has its own draws

    Returns dict: `PERCENTILE` and BCA to low and high, each (b,).
    """
    m, n = positive.shape[1], negative.shape[1]
    frame = pd.DataFrame({"patient_id": np.arange(m + n) // tiles, "label": np.r_[np.ones(m, int), np.zeros(n, int)]})
    frame.loc[m:, "patient_id"] += m  # the classes share nobody
    found = [bootstrap(frame.assign(score=np.r_[p, q]), resamples=resamples, seed=integer_seed(seed, "data set", i))
             for i, (p, q) in enumerate(zip(positive, negative, strict=True))]  # fmt: skip
    return {how: (np.array([f[how][0] for f in found]), np.array([f[how][1] for f in found]))
            for how in (PERCENTILE, BCA)}  # fmt: skip


def coverage_of_patients(
    auc: float, patients: int, prevalence: float, *, draws: int = 2000, boots: int = 0, resamples: int = 1000,
    seed: int = 0, spread: float = 1.0,
) -> pd.DataFrame:  # fmt: skip
    """How often each interval contains the true AUC, one binormal score per patient.

    Parameters
    ----------
    auc : true AUC
    prevalence : share of mutated patients; the counts are fixed at their rounded expectation, at least 2 of each class
    draws, boots : data sets for the closed forms, and for the bootstrap (the first of the same ones; 0 leaves it out)
    spread : standard deviation of the scores of mutated patients in those of the others. Closed forms that use the AUC
        and the counts only take it for granted that both classes scatter alike.

    Returns DataFrame: :data:`COVERAGE_COLUMNS`, a row per method. coverage [0-1] with its Monte Carlo standard error;
    missed_below: share of intervals that lie wholly below the truth, missed_above: above; verdict: whether coverage is
    in :data:`PROMISE`.

    Raises ParameterError: fewer than two patients of a class.
    """
    n_pos, n_neg = simulated_counts(prevalence, patients)
    random = generator(seed, "coverage", str(auc), patients, str(prevalence))
    positive, negative = binormal(auc, n_pos, n_neg, draws, random, spread=spread)
    found = closed_forms(positive, negative)
    if boots:
        found |= bootstraps(positive[:boots], negative[:boots], 1, resamples, seed)
    base = {"design": "patients", "auc": auc, "patients": patients, "prevalence": prevalence, "n_pos": n_pos,
            "n_neg": n_neg, "tiles": 1, "within": 0.0, "spread": spread}  # fmt: skip
    return coverage_rows(base, found, auc)


def coverage_rows(base: dict[str, object], found: dict[str, Ends], truth: float) -> pd.DataFrame:
    """Rows of :data:`COVERAGE_COLUMNS`: `base`, and what each method's ends (b,) and (b,) reached of the true AUC."""
    rows = []
    for method, (low, high) in found.items():
        below, above = float((high < truth).mean()), float((low > truth).mean())
        covered, draws = 1 - below - above, len(low)
        rows.append(base | {
            "method": method, "draws": draws, "coverage": covered,
            "mc_error": float(np.sqrt(covered * (1 - covered) / draws)), "missed_below": below, "missed_above": above,
            "mean_width": float((high - low).mean()), "verdict": verdict(covered),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COVERAGE_COLUMNS))


def verdict(coverage: float) -> str:
    """Whether a coverage lies in :data:`PROMISE`.

    >>> verdict(0.9), verdict(0.95), verdict(0.99)
    ('too narrow', 'as promised', 'too wide')
    """
    return "too narrow" if coverage < PROMISE[0] else "too wide" if coverage > PROMISE[1] else "as promised"
