"""Do probabilities mean what they say? Reliability, Brier score, calibration slope, and recalibration inside folds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from deeplrhe_utils.core.errors import CohortError, SmallCohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import Z
from deeplrhe_utils.evaluation.precision.power import wilson

_Floats = NDArray[np.float64]
_Labels = NDArray[np.int64]

AS_IS: Final = "as the network says"
EDGE: Final = 1e-6
"""Scores nearer than this to 0 or 1 are moved here before their logit is taken; they are counted."""
CALIBRATION_COLUMNS: Final = (
    "gene", "version", "n_pos", "n_neg", "brier", "brier_scaled", "miscalibration", "discrimination", "uncertainty",
    "ece", "ece_if_calibrated", "intercept", "intercept_low", "intercept_high", "slope", "slope_low", "slope_high",
    "n_edge", "reason",
)  # fmt: skip


def check_scores(label: _Labels, score: _Floats, what: str = "Calibration") -> None:
    """Raise :class:`CohortError` unless scores are probabilities and labels are 0 and 1, both of them."""
    if not (np.isfinite(score).all() and (score >= 0).all() and (score <= 1).all()):
        bad = int((~((score >= 0) & (score <= 1))).sum())
        raise SmallCohortError(
            f"{what} needs probabilities", got=f"{bad} of {len(score)} scores outside [0, 1] or not finite"
        )
    if set(np.unique(label)) != {0, 1}:
        raise SmallCohortError(f"{what} needs units of both classes", got=f"labels {sorted(set(label.tolist()))}")


def checked_columns(scored: pd.DataFrame, what: str) -> tuple[NDArray[np.int64], _Labels, _Floats]:
    """Columns fold, label and score of one gene; raises as :func:`check_scores`, also for a patient twice."""
    label, score = scored["label"].to_numpy(np.int64), scored["score"].to_numpy(np.float64)
    check_scores(label, score, what)
    if len(twice := scored.loc[scored["patient_id"].duplicated(), "patient_id"]):
        raise CohortError(f"{what} takes one score per patient", got=f"{twice.iloc[0]} stands there twice")
    return scored["fold"].to_numpy(np.int64), label, score


def other_folds(fold: NDArray[np.int64], label: _Labels, what: str) -> Iterator[NDArray[np.bool_]]:
    """For every fold the patients of the others, (n,); raises CohortError where these lack a class."""
    for own in np.unique(fold):
        other = fold != own
        if set(label[other]) != {0, 1}:
            got = f"{int(label[other].sum())} positive of {int(other.sum())} patients outside fold {own}"
            raise SmallCohortError(f"{what} needs both classes in the other folds", got=got)
        yield other


def reliability(label: _Labels, score: _Floats, bins: int = 10) -> pd.DataFrame:
    """Observed share of mutated units against their mean score, in bins of equal counts.

    Parameters
    ----------
    label, score : (n,): independent units (patients); probabilities
    bins : at most so many. Equal scores are never divided, so bins can be fewer and counts can differ.

    Returns DataFrame: bin, n, positives, mean_score, observed, ci_low, ci_high (Wilson, 95 %).

    Raises CohortError: scores that are no probabilities, or one class only.
    """
    check_scores(label, score)
    rows = []
    for number, part in enumerate(_bins(score, bins)):
        positives, n = int(label[part].sum()), len(part)
        low, high = wilson(positives, n)
        rows.append({"bin": number, "n": n, "positives": positives, "mean_score": float(score[part].mean()),
                     "observed": positives / n, "ci_low": low, "ci_high": high})  # fmt: skip
    return pd.DataFrame(rows)


def _bins(score: _Floats, bins: int) -> list[NDArray[np.intp]]:
    """Places of the units of every bin, low scores first; ties stay together."""
    order = np.argsort(score, kind="stable")
    # a border that falls among equal scores moves to the first of them
    borders = np.searchsorted(score[order], score[order][np.arange(1, bins) * len(score) // bins])
    return [part for part in np.split(order, np.unique(borders)) if len(part)]


def expected_calibration_error(label: _Labels, score: _Floats, bins: int = 10) -> float:
    """Mean distance of observed share and mean score over the bins of :func:`reliability`, weighted by count [0-1].

    Biased upwards: a perfectly calibrated score has a positive one too, because shares of few units scatter, and it
    depends on the bins. Compare with :func:`calibrated_error`. Source: Naeini 2015, with bins of equal counts.
    """
    return float(sum(abs(label[p].mean() - score[p].mean()) * len(p) for p in _bins(score, bins)) / len(score))


def calibrated_error(score: _Floats, bins: int = 10, *, seed: int = 0) -> float:
    """Mean expected calibration error of these scores if they were true: labels drawn from them (n,), 1,000 times.

    Source: consistency resampling, Bröcker & Smith 2007.
    """
    label = generator(seed, "calibrated").random((1000, len(score))) < score
    return float(sum(np.abs(label[:, p].mean(1) - score[p].mean()).mean() * len(p) for p in _bins(score, bins))
                 / len(score))  # fmt: skip


def brier(label: _Labels, score: _Floats) -> dict[str, float]:
    """Brier score and where it comes from.

    Parameters
    ----------
    label, score : (n,)

    Returns dict: brier: mean squared distance of score and label. brier_scaled: 1 − brier / uncertainty; 0 is what the
    prevalence alone would reach. miscalibration, discrimination, uncertainty: brier = miscalibration − discrimination +
    uncertainty, exactly and without bins, by isotonic regression (CORP, Dimitriadis 2021). With few units
    miscalibration is overestimated, because the isotonic curve follows chance.

    Raises CohortError: scores that are no probabilities, or one class only.
    """
    check_scores(label, score)
    own = float(((score - label) ** 2).mean())
    best = float(((IsotonicRegression().fit_transform(score, label) - label) ** 2).mean())
    uncertainty = float(label.mean() * (1 - label.mean()))
    return {"brier": own, "brier_scaled": 1 - own / uncertainty, "miscalibration": own - best,
            "discrimination": uncertainty - best, "uncertainty": uncertainty}  # fmt: skip


def logits(score: _Floats) -> _Floats:
    """Log odds of probabilities, those within :data:`EDGE` of 0 or 1 moved there."""
    return np.asarray(special.logit(np.clip(score, EDGE, 1 - EDGE)))


def intercept_and_slope(label: _Labels, score: _Floats) -> dict[str, float]:
    """Calibration intercept and slope.

    Parameters
    ----------
    label, score : (n,)

    Returns dict: slope: coefficient of the score's log odds in a logistic regression of the label; 1 is right, below 1
    the scores are too extreme. intercept: what must be added to the log odds if the slope is left at 1; 0 is right,
    below 0 the scores are too high. Each with `_low` and `_high` (Wald). NaN where the maximum likelihood is not
    finite: classes that the score separates, or a constant score. Source: Van Calster 2019.

    Raises CohortError: scores that are no probabilities, or one class only.
    """
    check_scores(label, score)
    x, z = logits(score), Z
    shift = float(optimize.brentq(lambda a: special.expit(a + x).sum() - label.sum(), -60, 60))
    fitted = special.expit(shift + x)
    error = 1 / np.sqrt((fitted * (1 - fitted)).sum())
    found = {"intercept": shift, "intercept_low": shift - z * error, "intercept_high": shift + z * error}
    positive, negative = x[label == 1], x[label == 0]
    apart = positive.min() >= negative.max() or positive.max() <= negative.min()
    if apart:
        return found | dict.fromkeys(("slope", "slope_low", "slope_high"), float("nan"))
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x[:, None], label)
    slope, fitted = float(model.coef_[0, 0]), model.predict_proba(x[:, None])[:, 1]
    design, weight = np.column_stack([np.ones_like(x), x]), fitted * (1 - fitted)
    error = np.sqrt(np.linalg.inv((design * weight[:, None]).T @ design)[1, 1])
    return found | {"slope": slope, "slope_low": slope - z * error, "slope_high": slope + z * error}


def recalibrate(scored: pd.DataFrame, method: str = "Platt") -> pd.DataFrame:
    """Probabilities of one gene, recalibrated by patients of other folds.

    Parameters
    ----------
    scored : patient_id, fold, label, score: held-out probabilities, one row per patient
    method : one of :data:`RECALIBRATIONS`
        "Platt": logistic regression on the log odds, targets as Platt 1999. "isotonic": the best rising step function.

    Returns DataFrame: `scored` with new scores. The map that a patient meets was fitted on the held-out scores of the
    *other* folds: with two folds, on scores of the other network. Platt's slope can be negative, where the other folds
    rank in reverse; it is kept, because hiding it would hide that the network does not generalise.

    Raises CohortError: a patient twice, fewer than two folds, or other folds that lack a class.
    """
    fold, label, score = checked_columns(scored, "Recalibration")
    new = np.full(len(score), np.nan)
    for other in other_folds(fold, label, "Recalibration"):
        new[~other] = RECALIBRATIONS[method](label[other], score[other], score[~other])
    return scored.assign(score=new)


def _platt(label: _Labels, score: _Floats, new: _Floats) -> _Floats:
    positives = int(label.sum())
    target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (len(label) - positives + 2))
    twice, both = np.tile(logits(score), 2)[:, None], np.repeat([1, 0], len(label))
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(twice, both, sample_weight=np.r_[target, 1 - target])
    return np.asarray(model.predict_proba(logits(new)[:, None])[:, 1])


def _isotonic(label: _Labels, score: _Floats, new: _Floats) -> _Floats:
    return np.asarray(IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1).fit(score, label).predict(new))


RECALIBRATIONS: Final = {"Platt": _platt, "isotonic": _isotonic}


def score_versions(scored: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores as they are and recalibrated, gene by gene.

    Parameters
    ----------
    scored : patient_id, gene, fold, label, score

    Returns
    -------
    rows : DataFrame
        The same columns and `version`: :data:`AS_IS`, then :data:`RECALIBRATIONS`.
    missing : DataFrame
        gene, version, reason: what could not be recalibrated, and why.
    """
    parts, missing = [scored.assign(version=AS_IS)], []
    for gene, own in scored.groupby("gene", sort=False):
        for method in RECALIBRATIONS:
            try:
                parts.append(recalibrate(own, method).assign(version=method))
            except CohortError as error:
                missing.append({"gene": gene, "version": method, "reason": str(error)})
    rows = pd.concat(parts, ignore_index=True)
    return rows, pd.DataFrame(missing, columns=["gene", "version", "reason"])


def calibration_table(rows: pd.DataFrame, *, bins: int = 10, seed: int = 0) -> pd.DataFrame:
    """How well each gene's probabilities are calibrated, version by version.

    Parameters
    ----------
    rows : patient_id, gene, version, label, score, as :func:`score_versions` returns
    bins, seed : of the expected calibration error

    Returns DataFrame: `CALIBRATION_COLUMNS`; `n_edge` counts scores moved to `EDGE` before the logarithm. A gene that
    cannot be judged says so in `reason`, and the rest is null.
    """
    found = []
    for (gene, version), own in rows.groupby(["gene", "version"], sort=False):
        label, score = own["label"].to_numpy(np.int64), own["score"].to_numpy(np.float64)
        n_pos = int(label.sum())
        row = {"gene": gene, "version": version, "n_pos": n_pos, "n_neg": len(label) - n_pos, "reason": ""}
        try:
            found.append(row | _judged(label, score, bins, seed))
        except CohortError as error:
            found.append(row | {"reason": str(error)})
    return pd.DataFrame(found, columns=list(CALIBRATION_COLUMNS))


def _judged(label: _Labels, score: _Floats, bins: int, seed: int) -> dict[str, float]:
    return {
        **brier(label, score), **intercept_and_slope(label, score),
        "ece": expected_calibration_error(label, score, bins),
        "ece_if_calibrated": calibrated_error(score, bins, seed=seed),
        "n_edge": int(((score < EDGE) | (score > 1 - EDGE)).sum()),
    }  # fmt: skip
