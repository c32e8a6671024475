"""What a number of patients allows: width of an AUC's interval, patients needed for a width, null band."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import SmallCohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import INFLATION, TAIL, Z, delong_many, hanley_mcneil, null_error

_Floats = NDArray[np.float64]

PRECISION_COLUMNS: Final = (
    "gene", "auc", "n_pos", "n_neg", "half_width", "ci_low", "ci_high", "half_width_delong", "patients_needed",
    "null_low", "null_high", "reason",
)  # fmt: skip
"""Columns of :func:`precision_table`."""


EXACT_PAIRS: Final = 20_000
"""Pairs of patients up to which the null band is computed exactly; more take minutes."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's interval for a share.

    Parameters
    ----------
    count, total : `count` of `total` independent units

    Returns low, high: in [0, 1]; NaN twice when `total` is 0. Source: Wilson 1927, from SciPy.
    """
    if total == 0:
        return float("nan"), float("nan")
    ends = stats.binomtest(count, total).proportion_ci(0.95, "wilson")
    return float(ends.low), float(ends.high)


def binormal(
    auc: float, n_pos: int, n_neg: int, draws: int, random: np.random.Generator, tiles: int = 1, within: float = 0.0,
    spread: float = 1.0,
) -> tuple[_Floats, _Floats]:  # fmt: skip
    """Scores whose true AUC is known: normal in both classes, their means √(1 + spread²) Φ⁻¹(AUC) apart.

    Parameters
    ----------
    auc : true AUC of a unit (a tile, if there are several per patient), strictly between 0 and 1
    n_pos, n_neg, draws : patients of each class and data sets
    tiles : tiles per patient
    within : correlation of two tiles of one patient, in [0, 1]
    spread : standard deviation of positive scores in those of negative ones, above 0

    Returns (draws, n_pos · tiles) and (draws, n_neg · tiles): a patient's tiles are neighbours.
    """
    shift = float(np.sqrt(1 + spread**2) * stats.norm.ppf(auc))
    positive = shift + spread * _clustered(n_pos, draws, random, tiles, within)
    return positive, _clustered(n_neg, draws, random, tiles, within)


def _clustered(n: int, draws: int, random: np.random.Generator, tiles: int, within: float) -> _Floats:
    """Standard normal values, `tiles` neighbours sharing the part `within` of their variance."""
    own = random.standard_normal((draws, n, tiles))
    if tiles == 1:
        return own[..., 0]
    shared = random.standard_normal((draws, n, 1))
    return np.asarray(np.sqrt(within) * shared + np.sqrt(1 - within) * own).reshape(draws, n * tiles)


def half_width(auc: float, n_pos: float, n_neg: float) -> float:
    """Half the width that an AUC's interval has with these counts, from Hanley & McNeil's standard error [AUC].

    Normal approximation; with few patients its ends can leave [0, 1], which says that they are too few.
    """
    _check_counts(n_pos, n_neg)
    return Z * hanley_mcneil(auc, n_pos, n_neg)


def simulated_half_width(auc: float, n_pos: int, n_neg: int, *, draws: int = 500, seed: int = 0) -> float:
    """Mean half-width of DeLong's 95 % interval over `draws` binormal data sets of these counts [AUC].

    Ours: Hanley & McNeil assume exponential scores and give a number without scores; this asks what the interval of
    the metrics table would show.

    Raises CohortError: fewer than two patients of a class.
    """
    _check_counts(n_pos, n_neg, 2)
    positive, negative = binormal(auc, n_pos, n_neg, draws, generator(seed, "half-width", n_pos, n_neg))
    _, low, high = delong_many(positive, negative)
    return float((high - low).mean() / 2)


def patients_needed(auc: float, prevalence: float, half: float = 0.05) -> int:
    """Least number of patients at which Hanley & McNeil's interval is no wider than ± `half`.

    Parameters
    ----------
    auc : in (0, 1)
    prevalence : share of mutated patients, in (0, 1); the cohort is taken to have exactly this share

    Returns int: root of a quadratic equation, rounded up.
    """
    first, second = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    both = prevalence * (1 - prevalence)
    a = both * (half / Z) ** 2
    b = prevalence * first + (1 - prevalence) * second
    c = auc * (1 - auc) - first - second
    return int(np.ceil((b + np.sqrt(b**2 + 4 * a * c)) / (2 * a)))


def null_band(n_pos: int, n_neg: int, cross_fitted: bool = False) -> tuple[float, float]:
    """Central range of AUCs that scores without any information reach with these counts.

    Cross-fitted scores scatter more (`INFLATION`): their band is the normal one, so much wider. Of independent scores:

    Returns low, high: the least AUC that 97.5 % of all rankings does not exceed, and its mirror image; for scores
    without ties. Exact tails from SciPy's Mann–Whitney test (Mann & Whitney 1947), but for more than
    :data:`EXACT_PAIRS` pairs and at least 20 patients of each class the normal approximation, which then differs by
    less than 0.002.

    Raises CohortError: a class without patients.
    """
    _check_counts(n_pos, n_neg)
    total = n_pos * n_neg
    if cross_fitted or (total > EXACT_PAIRS and min(n_pos, n_neg) >= 20):
        half = Z * null_error(n_pos, n_neg, INFLATION if cross_fitted else 1.0)
        return max(0.0, 0.5 - half), min(1.0, 0.5 + half)
    below, reached = total // 2 - 1, total  # P(U > below) exceeds the tail, P(U > reached) does not
    while reached - below > 1:
        middle = (below + reached) // 2
        if _exceeds(middle, n_pos, n_neg) <= TAIL:
            reached = middle
        else:
            below = middle
    return 1 - reached / total, reached / total


def with_null_bands(rows: pd.DataFrame, cross_fitted: bool = False) -> pd.DataFrame:
    """`rows` (auc, n_pos, n_neg) with null_low and null_high of :func:`null_band`; null where the AUC is."""
    none = (float("nan"), float("nan"))
    bands = [none if pd.isna(row.auc) else null_band(int(row.n_pos), int(row.n_neg), cross_fitted)
             for row in rows.itertuples()]  # fmt: skip
    return rows.assign(null_low=[low for low, _ in bands], null_high=[high for _, high in bands])


def _exceeds(wins: int, n_pos: int, n_neg: int) -> float:
    """Exact chance that positive units win more than so many of the n_pos · n_neg pairs, under no difference."""
    if wins >= n_pos * n_neg:
        return 0.0
    full, rest = divmod(wins + 1, n_neg)
    positive = np.full(n_pos, 0.5)  # below all negative ones, which are 1, 2, … n_neg
    positive[:full] = n_neg + 0.5
    positive[full : full + (rest > 0)] = rest + 0.5
    test = stats.mannwhitneyu(positive, np.arange(1, n_neg + 1), alternative="greater", method="exact")
    return float(test.pvalue)


def precision_table(
    genes: pd.DataFrame, *, half: float = 0.05, draws: int = 500, seed: int = 0, cross_fitted: bool = False
) -> pd.DataFrame:
    """What the counts of each gene allow, if its AUC were what is given.

    Parameters
    ----------
    genes : gene, auc (null where there is none), n_pos, n_neg: patients
    half : wanted half-width
    draws, seed : of the simulated half-width
    cross_fitted : whether patients are scored by readers that learned from the others: all errors are then larger by
        `INFLATION`, but half_width_delong's, which is what the usual interval would show

    Returns DataFrame: :data:`PRECISION_COLUMNS`, a row per gene. half_width, ci_low, ci_high: Hanley & McNeil, cut to
    [0, 1]. half_width_delong: simulated. patients_needed: for ± `half` at the gene's share among these patients.
    null_low, null_high: :func:`null_band`. A gene with fewer than two patients in a class, or without an AUC, says so
    in `reason`, and the rest is null. There is no power at these AUCs: at an observed one it is the p in other words.
    """
    rows = [_precision(str(row.gene), row.auc, int(row.n_pos), int(row.n_neg), half, draws, seed, cross_fitted)
            for row in genes.itertuples()]  # fmt: skip
    return pd.DataFrame(rows, columns=list(PRECISION_COLUMNS))


def _precision(
    gene: str, auc: object, n_pos: int, n_neg: int, half: float, draws: int, seed: int, cross_fitted: bool
) -> dict[str, object]:
    row: dict[str, object] = {"gene": gene, "n_pos": n_pos, "n_neg": n_neg, "reason": ""}
    if min(n_pos, n_neg) < 2:
        return row | {"reason": "fewer than two patients in a class"}
    row |= dict(zip(("null_low", "null_high"), null_band(n_pos, n_neg, cross_fitted), strict=True))
    value = float(auc) if isinstance(auc, (int, float, np.floating)) else float("nan")  # pandas' NA is neither
    if not 0 < value < 1:
        return row | {"reason": "no AUC strictly between 0 and 1"}
    factor = INFLATION if cross_fitted else 1.0
    width = factor * half_width(value, n_pos, n_neg)
    return row | {
        "auc": value, "half_width": width, "ci_low": max(0.0, value - width), "ci_high": min(1.0, value + width),
        "half_width_delong": simulated_half_width(value, n_pos, n_neg, draws=draws, seed=seed),
        "patients_needed": patients_needed(value, n_pos / (n_pos + n_neg), half / factor),
    }  # fmt: skip


def expected_counts(prevalence: float, patients: int) -> tuple[int, int]:
    """Mutated and wild-type patients that a prevalence makes likely, rounded.

    >>> expected_counts(0.122, 180)
    (22, 158)
    """
    n_pos = round(prevalence * patients)
    return n_pos, patients - n_pos


def _check_counts(n_pos: float, n_neg: float, least: int = 1) -> None:
    if min(n_pos, n_neg) < least:
        got = f"{n_pos} positive, {n_neg} negative"
        raise SmallCohortError("Too few patients of a class", got=got, expected=f"{least} or more of each")
