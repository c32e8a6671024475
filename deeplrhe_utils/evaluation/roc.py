"""ROC curves and AUCs whose unit is the patient, each with an interval that says how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.core.schemas import METRICS
from deeplrhe_utils.core.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

DELONG: Final = "DeLong, logit scale"
BOOTSTRAP: Final = "bootstrap of patients (of tissue fields in tile folders), percentile, stratified by label"
_UNITS: Final = {"tile": ["tile_id", "patient_id"], "slide": ["slide_id", "patient_id"], "patient": ["patient_id"]}


def aggregate(predictions: pd.DataFrame, unit: str = "patient") -> pd.DataFrame:
    """Mean tile probability per unit and gene (the paper's rule: average over the image's tiles).

    Parameters
    ----------
    predictions : DataFrame
        The predictions table.
    unit : {"tile", "slide", "patient"}

    Returns
    -------
    DataFrame
        Columns unit_id, patient_id, gene, fold, score; units without any score are absent.
    """
    if unit not in _UNITS:
        raise CohortError("Unknown unit", got=unit, expected=" | ".join(_UNITS))
    keys = _UNITS[unit]
    scored = predictions.dropna(subset=["score"])
    mean = scored.groupby([*keys, "gene", "fold"], as_index=False)["score"].mean()
    return mean.assign(unit_id=mean[keys[0]])[["unit_id", "patient_id", "gene", "fold", "score"]]


def align_folds(scores: pd.DataFrame) -> pd.DataFrame:
    """Put the folds on one scale: within fold and gene, `score` becomes its rank in (0, 1), ties at their mean.

    Each fold is scored by another network, and two networks need not agree on what 0.6 means; pooling their
    probabilities would let a mere offset between networks change the AUC. Ranks keep the order inside each fold.
    It assumes folds of similar class mix, which stratified folds have.
    """
    by = scores.groupby(["gene", "fold"])["score"]
    return scores.assign(score=(by.rank() - 0.5) / by.transform("size"))


def with_labels(scores: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Join scores with known labels (null labels are left out); adds the integer column `label`."""
    known = labels.dropna(subset=["status"])[["patient_id", "gene", "status"]].rename(columns={"status": "label"})
    return scores.merge(known, on=["patient_id", "gene"], how="inner", validate="many_to_one")


def delong(label: NDArray[np.int64], score: NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """AUC with its DeLong interval on the logit scale.

    Parameters
    ----------
    label, score : (n,)
        0/1 labels of independent units (patients) and their scores; ties count one half.
    level : float

    Returns
    -------
    auc, low, high
        At an AUC of exactly 0 or 1 the variance estimate is 0; the interval then ends at 0.025^(1/k) (or one
        minus it), k the size of the smaller class: a convention of ours, because zero width would be absurd.

    Source: DeLong 1988; fast ranks after Sun & Xu 2014.
    """
    positive, negative = score[label == 1], score[label == 0]
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        raise CohortError("A DeLong interval needs two units of each class", got=f"{m} positive, {n} negative")
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    v10 = (ranks[:m] - stats.rankdata(positive)) / n
    v01 = 1.0 - (ranks[m:] - stats.rankdata(negative)) / m
    auc = float(v10.mean())
    if auc in (0.0, 1.0):
        bound = float(((1 - level) / 2) ** (1 / min(m, n)))
        return (auc, bound, 1.0) if auc == 1.0 else (auc, 0.0, 1.0 - bound)
    variance = v10.var(ddof=1) / m + v01.var(ddof=1) / n
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (auc * (1 - auc))
    logit = np.log(auc / (1 - auc))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-half, half]))))
    return auc, float(low), float(high)


def weighted_auc(
    label: NDArray[np.int64], score: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUC under many weightings at once, ties exact.

    Parameters
    ----------
    label, score : (n,)
    weight : (b, n)
        Multiplicity of each unit in each resample.

    Returns
    -------
    (b,)
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    weight, is_positive = weight[:, order], label[order] == 1
    positive = np.add.reduceat(weight * is_positive, starts, axis=1)
    negative = np.add.reduceat(weight * ~is_positive, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return np.asarray((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))


def bootstrap(frame: pd.DataFrame, *, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the AUC, resampling patients within each label class.

    Parameters
    ----------
    frame : DataFrame
        Columns patient_id, label, score: one row per unit (tile, slide or patient).

    Returns
    -------
    low, high
    """
    weight = _patient_weights(frame, resamples, seed)
    label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
    auc = weighted_auc(label, score, weight)
    low, high = np.quantile(auc, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _patient_weights(frame: pd.DataFrame, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each row's patient is drawn, (resamples, rows)."""
    random = generator(seed, "bootstrap")
    codes, patients = frame["patient_id"].factorize(sort=True)
    first = frame.groupby("patient_id", sort=True)["label"].first().to_numpy()
    drawn = np.zeros((resamples, len(patients)))
    for value in (0, 1):
        members = np.flatnonzero(first == value)
        drawn[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return np.asarray(drawn[:, codes])


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
    for weight in _patient_weights(frame, resamples, seed):
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
) -> pd.DataFrame:
    """The metrics table: AUC per gene and unit, or "not estimable" with the reason.

    Scores of several folds are aligned first (:func:`align_folds`). `min_positives`, at least 2, is the least number
    of patients in *each* class. Patient-level rows carry the DeLong and the
    bootstrap interval; slide and tile rows the bootstrap of patients only, because their units are not independent.
    p (Mann–Whitney, patients) is Holm-adjusted over the estimable genes.
    """
    import pandas as pd

    if min_positives < 2:
        raise ParameterError("min_positives is too small for an interval", got=min_positives, expected="2 or more")
    rows = []
    for unit in units:
        joined = with_labels(align_folds(aggregate(predictions, unit)), labels)
        for gene in labels["gene"].drop_duplicates():
            one = joined[joined["gene"] == gene]
            known = labels.loc[labels["gene"] == gene, "status"].value_counts()
            labelled = f"{known.get(1, 0)} positive and {known.get(0, 0)} negative patients are labelled"
            rows += _rows(one, str(gene), unit, min_positives, resamples, seed, labelled)
    frame = pd.DataFrame(rows, columns=[column.name for column in METRICS.columns])
    first = frame[(frame["unit"] == "patient") & (frame["ci_method"] == DELONG)]
    adjusted = dict(zip(first["gene"], holm(first["p"].to_numpy(np.float64)), strict=True))
    frame["p_holm"] = [
        adjusted.get(g) if u == "patient" else None for g, u in zip(frame["gene"], frame["unit"], strict=True)
    ]
    return frame


def _rows(
    one: pd.DataFrame, gene: str, unit: str, least: int, resamples: int, seed: int, labelled: str
) -> list[dict[str, object]]:
    label, score = one["label"].to_numpy(np.int64), one["score"].to_numpy(np.float64)
    n_pos, n_neg = int((label == 1).sum()), int((label == 0).sum())
    per_class = one.groupby("label")["patient_id"].nunique()
    fewest = min(int(per_class.get(0, 0)), int(per_class.get(1, 0)))
    base: dict[str, object] = {"gene": gene, "unit": unit, "scheme": "patient", "n_pos": n_pos, "n_neg": n_neg}
    if fewest < least:
        counts = f"{int(per_class.get(1, 0))} positive and {int(per_class.get(0, 0))} negative patients could be scored"
        reason = f"{labelled}; {counts}; at least {least} of each are needed"
        return [{**base, "status": "not estimable", "reason": reason, "ci_method": "none"}]
    estimated = {**base, "status": "estimated", "auc": float(roc_auc_score(label, score))}
    low, high = bootstrap(one, resamples=resamples, seed=seed)
    rows = [{**estimated, "ci_low": low, "ci_high": high, "ci_method": BOOTSTRAP}]
    if unit == "patient":
        _, low, high = delong(label, score)
        p = float(stats.mannwhitneyu(score[label == 1], score[label == 0]).pvalue)
        rows.insert(0, {**estimated, "ci_low": low, "ci_high": high, "ci_method": DELONG, "p": p})
    return rows


def paired_differences(
    arms: Mapping[str, pd.DataFrame],
    labels: pd.DataFrame,
    base: str,
    *,
    min_positives: int = 5,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Patient-level AUC of every arm, and its difference from one of them on the same patients.

    Parameters
    ----------
    arms : name → predictions table
    labels : DataFrame
        The labels table.
    base : the arm the others are compared with
    min_positives : least number of patients of each class

    Returns
    -------
    DataFrame
        gene, arm, auc, difference, ci_low, ci_high, n_pos, n_neg for every gene that all arms could score. The interval
        is that of the difference: percentile, 95 %, patients resampled within each class, the same ones in both arms.
    """
    import pandas as pd

    frames = {name: with_labels(align_folds(aggregate(found)), labels) for name, found in arms.items()}
    rows = []
    for gene in labels["gene"].drop_duplicates():
        own = {n: f[f["gene"] == gene].set_index("patient_id", drop=False).sort_index() for n, f in frames.items()}
        shared = sorted(set.intersection(*(set(f.index) for f in own.values())))
        first = own[base].loc[shared].reset_index(drop=True)
        label = first["label"].to_numpy(np.int64)
        if min((label == 1).sum(), (label == 0).sum()) < min_positives:
            continue
        weight = np.vstack([np.ones(len(first)), _patient_weights(first, resamples, seed)])
        auc = {n: weighted_auc(label, f.loc[shared, "score"].to_numpy(np.float64), weight) for n, f in own.items()}
        for name, values in auc.items():
            gain = values - auc[base]
            low, high = np.quantile(gain[1:], [0.025, 0.975])
            rows.append({"gene": gene, "arm": name, "auc": values[0], "difference": gain[0], "ci_low": low,
                         "ci_high": high, "n_pos": int(label.sum()), "n_neg": int((1 - label).sum())})  # fmt: skip
    columns = ["gene", "arm", "auc", "difference", "ci_low", "ci_high", "n_pos", "n_neg"]
    return pd.DataFrame(rows, columns=columns)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down adjustment of p-values (n,)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
