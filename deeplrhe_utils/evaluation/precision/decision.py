"""What a score is good for: operating points chosen honestly, net benefit, and the tests that it could save."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.resampling import redraw
from deeplrhe_utils.evaluation.precision.calibration import checked_columns, other_folds
from deeplrhe_utils.evaluation.precision.power import wilson

_Floats = NDArray[np.float64]
_Labels = NDArray[np.int64]

IN_SAMPLE: Final = "on the same patients (optimistic)"
HONEST: Final = "in the other folds"
_MEASURES: Final = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Attributes
    ----------
    aim : {"youden", "sensitivity", "specificity"}
        The largest sensitivity + specificity; or the best other one while this one is at least `least`.
    least : in (0, 1]; unused for "youden"
    """

    aim: str = "youden"
    least: float = 0.0

    def __post_init__(self) -> None:
        known = ("youden", "sensitivity", "specificity")
        if self.aim not in known or (self.aim != "youden" and not 0 < self.least <= 1):
            got = f"{self.aim} at {self.least}"
            raise ParameterError(
                "Unknown rule for a threshold", got=got, expected=f"{' | '.join(known)}; least in (0, 1]"
            )

    def __str__(self) -> str:
        return "Youden" if self.aim == "youden" else f"{self.aim} ≥ {self.least:g}"


def choose_threshold(label: _Labels, score: _Floats, rule: Rule) -> float:
    """The threshold that `rule` takes on these units; a unit is called positive at or above it.

    Parameters
    ----------
    label, score : (n,): both classes must be there

    Returns float: one of the scores, or infinity where nobody may be called positive. Of equally good ones the highest.
    """
    fpr, tpr, threshold = roc_curve(label, score, drop_intermediate=False)
    if rule.aim == "youden":
        return float(threshold[np.argmax(np.round(tpr - fpr, 12))])
    if rule.aim == "sensitivity":
        return float(threshold[np.flatnonzero(tpr >= rule.least - 1e-12)[0]])
    allowed = np.flatnonzero(1 - fpr >= rule.least - 1e-12)
    return float(threshold[allowed[np.argmax(tpr[allowed])]])


def thresholds_by_fold(scored: pd.DataFrame, rule: Rule) -> _Floats:
    """Each patient's threshold (n,), chosen on the patients of the other folds.

    Parameters
    ----------
    scored : fold, label, score; held-out probabilities of one gene, one row per patient

    Raises CohortError: the other folds lack a class.
    """
    fold, label, score = checked_columns(scored, "A decision")
    chosen = np.empty(len(score))
    for other in other_folds(fold, label, "A threshold"):
        chosen[~other] = choose_threshold(label[other], score[other], rule)
    return chosen


def judgeable(scored: pd.DataFrame, least: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Genes whose thresholds can be chosen in other folds, and those that cannot, with the reason.

    Parameters
    ----------
    scored : patient_id, gene, fold, label, score
    least : patients of each class, in all and also outside every fold that has to be judged (there at least 1)

    Returns
    -------
    kept : DataFrame
        The rows of the genes that can be judged.
    left_out : DataFrame
        gene, n_pos, n_neg, reason.
    """
    rows = []
    for gene, own in scored.groupby("gene", sort=False):
        counts = own.groupby("fold")["label"].agg(["sum", "size"])
        n_pos, total = int(counts["sum"].sum()), int(counts["size"].sum())
        outside = min(int((n_pos - counts["sum"]).min()), int((total - n_pos - counts["size"] + counts["sum"]).min()))
        if min(n_pos, total - n_pos) < least:
            why = f"fewer than {least} patients in a class"
        elif outside < 1:
            why = "outside one of the folds a class has no patient"
        else:
            continue
        rows.append({"gene": gene, "n_pos": n_pos, "n_neg": total - n_pos, "reason": why})
    left_out = pd.DataFrame(rows, columns=["gene", "n_pos", "n_neg", "reason"])
    return scored[~scored["gene"].isin(left_out["gene"])].reset_index(drop=True), left_out


def operating_points(scored: pd.DataFrame, rules: Iterable[Rule]) -> pd.DataFrame:
    """Sensitivity, specificity and predictive values at chosen thresholds.

    Parameters
    ----------
    scored : patient_id, fold, label, score; held-out probabilities of one gene, one row per patient

    Returns DataFrame: two rows per rule, by `chosen`: :data:`HONEST` (every patient judged by a threshold of the other
    folds) and :data:`IN_SAMPLE`. Columns rule, chosen, threshold_low, threshold_high (they differ between folds), tp,
    fp, fn, tn, and each of :data:`_MEASURES` with `_low` and `_high` (Wilson, 95 %); NaN where nobody was called so.
    Predictive values hold for the share of mutated patients in this cohort.

    Raises CohortError: scores that are no probabilities, one class only (also in the other folds), a patient twice.
    """
    _, label, score = checked_columns(scored, "A decision")
    rows = []
    for rule in rules:
        own = np.full(len(score), choose_threshold(label, score, rule))
        for where, threshold in ((HONEST, thresholds_by_fold(scored, rule)), (IN_SAMPLE, own)):
            rows.append({"rule": str(rule), "chosen": where, "threshold_low": threshold.min(),
                         "threshold_high": threshold.max(), **_measures(label == 1, score >= threshold)})  # fmt: skip
    return pd.DataFrame(rows)


def _measures(truth: NDArray[np.bool_], call: NDArray[np.bool_]) -> dict[str, float]:
    tp, fp = int((truth & call).sum()), int((~truth & call).sum())
    fn, tn = int((truth & ~call).sum()), int((~truth & ~call).sum())
    row: dict[str, float] = {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    shares = ((tp, tp + fn), (tn, tn + fp), (tp, tp + fp), (tn, tn + fn))
    for name, (count, total) in zip(_MEASURES, shares, strict=True):
        row[name] = count / total if total else float("nan")
        row[f"{name}_low"], row[f"{name}_high"] = wilson(count, total)
    return row


def decision_curve(scored: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Net benefit of testing those whose probability reaches a threshold.

    Parameters
    ----------
    scored : patient_id, fold, label, score; probabilities of one gene, one row per patient. They should be calibrated:
        a threshold is a statement about risk.
    resamples, seed : bootstrap of patients; the share of mutated ones varies too, because it enters the benefit

    Returns DataFrame: threshold (a risk at which somebody would just want the test, 0.01 to 0.99), net_benefit, ci_low,
    ci_high (pointwise, percentile, 95 %), treat_all, treat_none. Net benefit is true positives minus false positives ×
    threshold / (1 − threshold), per patient; the greatest possible is the share of mutated patients. Source: Vickers &
    Elkin 2006.

    Raises CohortError: scores that are no probabilities, one class only, a patient twice.
    """
    _, label, score = checked_columns(scored, "A decision")
    at = np.linspace(0.01, 0.99, 99)
    call, cost = (score[:, None] >= at).astype(np.float64), at / (1 - at)
    n = len(label)
    weight = redraw(generator(seed, "net benefit"), n, resamples) / n
    benefit = (weight * label) @ call - ((weight * (1 - label)) @ call) * cost
    low, high = np.quantile(benefit[1:], [0.025, 0.975], axis=0)
    share = label.mean()
    return pd.DataFrame({"threshold": at, "net_benefit": benefit[0], "ci_low": low, "ci_high": high,
                         "treat_all": share - (1 - share) * cost, "treat_none": 0.0})  # fmt: skip


def rule_out(
    scored: pd.DataFrame, least: Iterable[float] = (0.9, 0.95), *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Molecular tests that could be left out if patients below a threshold were not tested.

    Parameters
    ----------
    scored : patient_id, fold, label, score; held-out probabilities of one gene, one row per patient
    least : sensitivities that the threshold must reach where it is chosen
    resamples, seed : patients are redrawn within fold and class, and the threshold is chosen again in every resample,
        so that the interval contains the choice

    Returns DataFrame: two rows per sensitivity, by `chosen` as in :func:`operating_points`: least_sensitivity, chosen,
    avoided (share of all patients below the threshold) and sensitivity (share of mutated patients at or above it), each
    with `_low` and `_high` (percentile, 95 %), missed (mutated patients below), tests_avoided (patients below), n_pos,
    n_neg. The honest sensitivity may fall short of the aim: that is its finding.

    Raises CohortError: scores that are no probabilities, one class only (also in the other folds), a patient twice.
    ParameterError: a sensitivity outside (0, 1].
    """
    fold, label, score = checked_columns(scored, "A decision")
    weight = _drawn_within(fold, label, resamples, generator(seed, "rule-out"))
    rows = []
    for aim in least:
        rule = Rule("sensitivity", aim)
        thresholds_by_fold(scored, rule)  # names what is missing
        for where, honest in ((HONEST, True), (IN_SAMPLE, False)):
            avoided, kept = _ruled_out(fold if honest else np.zeros_like(fold), label, score, weight, aim, honest)
            rows.append({"least_sensitivity": aim, "chosen": where, **_percentiles("avoided", avoided),
                         **_percentiles("sensitivity", kept), "missed": round((1 - kept[0]) * label.sum()),
                         "tests_avoided": round(avoided[0] * len(label)), "n_pos": int(label.sum()),
                         "n_neg": int((1 - label).sum())})  # fmt: skip
    return pd.DataFrame(rows)


def _drawn_within(fold: _Labels, label: _Labels, resamples: int, random: np.random.Generator) -> _Floats:
    """How often each patient is drawn, (1 + resamples, n); the first row is everybody once."""
    weight = np.ones((1 + resamples, len(label)))
    stratum = np.unique(2 * fold + label, return_inverse=True)[1]
    for value in range(stratum.max() + 1):
        members = np.flatnonzero(stratum == value)
        weight[:, members] = redraw(random, len(members), resamples)
    return weight


def _ruled_out(
    fold: _Labels, label: _Labels, score: _Floats, weight: _Floats, least: float, honest: bool
) -> tuple[_Floats, _Floats]:
    """Share of patients below the threshold and share of positives that are not, each (b,), for every weighting."""
    below, missed = np.zeros(len(weight)), np.zeros(len(weight))
    for own in np.unique(fold):
        judged = fold == own
        choosing = (fold != own) if honest else judged
        threshold = _weighted_threshold(score[choosing & (label == 1)], weight[:, choosing & (label == 1)], least)
        under = weight[:, judged] * (score[judged] < threshold[:, None])
        below += under.sum(1)
        missed += under @ label[judged]
    return below / weight.sum(1), 1 - missed / (weight @ label)


def _weighted_threshold(positive: _Floats, weight: _Floats, least: float) -> _Floats:
    """The highest score that at least the share `least` of the weighted positives reaches, (b,)."""
    order = np.argsort(-positive, kind="stable")
    reached = np.cumsum(weight[:, order], axis=1)
    enough = reached >= least * reached[:, -1:] - 1e-9
    return np.asarray(positive[order][enough.argmax(1)])


def _percentiles(name: str, values: _Floats) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
