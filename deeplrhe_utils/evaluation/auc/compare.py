"""Methods compared on the same patients: AUC of each, and what it gains over a base.

Every comparison resamples patients, the same ones for all that is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, ParameterError, SmallCohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import weighted_auc
from deeplrhe_utils.evaluation.auc.resampling import bootstrap_aucs, redraw
from deeplrhe_utils.evaluation.auc.units import aggregate, align_folds, place_among_negatives, with_labels

_Floats = NDArray[np.float64]

MACRO: Final = "mean over genes"
_CELLS: Final = 1 << 22


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
    labels : the labels table
    base : the arm the others are compared with
    min_positives : least number of patients of each class

    Returns DataFrame: gene, arm, auc, difference, ci_low, ci_high, n_pos, n_neg for every gene that all arms could
    score. The interval is that of the difference: percentile, 95 %, patients resampled within each class, the same ones
    in both arms.
    """
    frames = {name: with_labels(align_folds(aggregate(found)), labels) for name, found in arms.items()}
    rows = []
    for gene in labels["gene"].drop_duplicates():
        own = _common({n: f[f["gene"] == gene] for n, f in frames.items()})
        label = own[base]["label"].to_numpy(np.int64)
        n_pos, n_neg = int((label == 1).sum()), int((label == 0).sum())
        if min(n_pos, n_neg) >= min_positives:
            drawn = {n: bootstrap_aucs(f, resamples=resamples, seed=seed) for n, f in own.items()}
            auc = {n: float(roc_auc_score(label, f["score"])) for n, f in own.items()}
            rows += [{"gene": gene, **row, "n_pos": n_pos, "n_neg": n_neg} for row in _gains(auc, drawn, base)]
    columns = ["gene", "arm", "auc", "difference", "difference_low", "difference_high", "n_pos", "n_neg"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.rename(columns={"difference_low": "ci_low", "difference_high": "ci_high"})


def _gains(auc: Mapping[str, float], drawn: Mapping[str, _Floats], base: str) -> Iterator[dict[str, Any]]:
    """Per arm its AUC, its difference from `base`, and the 95 % percentile intervals of both from paired resamples."""
    for name, values in drawn.items():
        low, high = np.nanquantile(values, [0.025, 0.975])
        gain_low, gain_high = np.nanquantile(values - drawn[base], [0.025, 0.975])
        yield {"arm": name, "auc": auc[name], "ci_low": low, "ci_high": high, "difference": auc[name] - auc[base],
               "difference_low": gain_low, "difference_high": gain_high}  # fmt: skip


def optimism(
    flat: pd.DataFrame, nested: pd.DataFrame, labels: pd.DataFrame, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Patient-level AUC of flat and of nested selection, per gene and on average, and what separates them.

    Parameters
    ----------
    flat, nested, labels, resamples, seed : as for :func:`mean_difference`
        Held-out patient scores of the settings that were chosen on the same folds, and of settings that were chosen
        without the patient.

    Returns DataFrame: gene, auc_flat, auc_nested, optimism (flat minus nested), ci_low, ci_high, n_pos, n_neg, as
    :func:`mean_difference`. The interval holds for the settings that were chosen and does not repeat the choice.
    """
    found = mean_difference(flat, nested, labels, resamples=resamples, seed=seed)
    return found.rename(columns={"auc_first": "auc_flat", "auc_second": "auc_nested", "difference": "optimism"})


def mean_difference(
    first: pd.DataFrame, second: pd.DataFrame, labels: pd.DataFrame, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Patient-level AUC of two methods on the same patients, per gene and on average over genes, and the difference.

    Parameters
    ----------
    first, second : patient_id, gene, fold, score: held-out patient scores; a null score is one that the fold could not
        give
    labels : table LABELS

    Returns DataFrame: gene, auc_first, auc_second, difference (first minus second), ci_low, ci_high, n_pos, n_neg; the
    last row is the mean over genes (counts there are patients). A gene's row is of the patients that both methods
    scored for it, and counts those. Interval: percentile, 95 %, patients resampled, the same ones for all genes and
    both methods.

    Raises CohortError: the two methods are of other patients, scored nobody in common for a gene, or no gene has both
    classes.
    """
    if differ := set(first["patient_id"]) ^ set(second["patient_id"]):
        raise CohortError("The two methods scored other patients", got=f"{len(differ)} differ")
    key = ["patient_id", "gene"]
    common = first.dropna(subset=["score"])[key].merge(second.dropna(subset=["score"])[key], on=key)
    if lost := sorted((set(first["gene"]) | set(second["gene"])) - set(common["gene"])):
        raise CohortError("The two methods scored no patient in common", got=", ".join(lost),
                          fix="Leave out genes that a fold cannot learn")  # fmt: skip
    # ranked among the common patients: a rank among others as well would be of another group in each arm
    arms = {name: with_labels(align_folds(frame.merge(common, on=key)), labels)
            for name, frame in (("first", first), ("second", second))}  # fmt: skip
    patients = sorted(arms["first"]["patient_id"].unique())
    weight = redraw(generator(seed, "optimism"), len(patients), resamples)
    rows, means = [], []
    for gene in labels["gene"].drop_duplicates():
        own = {n: f[f["gene"] == gene].set_index("patient_id").reindex(patients).dropna() for n, f in arms.items()}
        label = own["first"]["label"].to_numpy(np.int64)
        if len(np.unique(label)) < 2:
            continue
        held = weight[:, np.searchsorted(patients, own["first"].index.to_numpy())]
        with np.errstate(invalid="ignore"):  # a resample without one class has no AUC, and is left out below
            auc = [weighted_auc(label, own[n]["score"].to_numpy(np.float64), held) for n in ("first", "second")]
        means.append(auc)
        rows.append(_row(str(gene), auc[0], auc[1], int(label.sum()), int((1 - label).sum())))
    if not rows:
        raise SmallCohortError("No gene has both classes, so there is no AUC", fix="Give labels for more patients")
    both = np.mean(means, axis=0)
    return pd.DataFrame([*rows, _row(MACRO, both[0], both[1], len(patients), 0)])


def judging_genes(labels: pd.DataFrame, folds: Sequence[pd.DataFrame], least: int) -> list[str]:
    """Genes by which settings can be judged on all of these folds, so that every trial is a mean over the same genes.

    Parameters
    ----------
    labels : table LABELS; missing labels count for neither class
    folds : columns fold, unit_id, role: outer folds, inner folds; none checks the counts alone
    least : patients in each class, over all folds

    Returns Genes, in the labels' order, with `least` patients in each class and both classes in every train and test
    part.
    """
    known = labels.dropna(subset=["status"])
    genes = _in_both(known, least)
    for splits in folds:
        for _, part in splits[splits["role"].isin(["train", "test"])].groupby(["fold", "role"]):
            genes &= _in_both(known[known["patient_id"].isin(part["unit_id"])], 1)
    return [str(gene) for gene in labels["gene"].drop_duplicates() if gene in genes]


def _in_both(known: pd.DataFrame, least: int) -> set[str]:
    """Genes with `least` patients of either class."""
    sizes = known.groupby(["gene", "status"])["patient_id"].nunique().unstack(fill_value=0)
    rarer = sizes.reindex(columns=[0, 1], fill_value=0).min(axis=1)
    return set(rarer.index[rarer >= least])


def _row(
    gene: str, flat: NDArray[np.float64], nested: NDArray[np.float64], n_pos: int, n_neg: int
) -> dict[str, object]:
    gain = flat - nested
    low, high = np.nanquantile(gain[1:], [0.025, 0.975])
    return {"gene": gene, "auc_first": flat[0], "auc_second": nested[0], "difference": gain[0], "ci_low": low,
            "ci_high": high, "n_pos": n_pos, "n_neg": n_neg}  # fmt: skip


def unit_scores(predictions: pd.DataFrame, labels: pd.DataFrame, unit: str) -> pd.DataFrame:
    """One score per tile or patient and gene, comparable between splits of any unit.

    Tile scores become places among the wild-type tiles of their fold and gene
    (`place_among_negatives`), because each fold has another network, and folds
    of whole sites differ in prevalence; a patient's score is the mean over their tiles, of whichever folds. (Where
    patients are divided, averaging before placing is possible, too; where tiles are divided it is not.)

    Parameters
    ----------
    predictions, labels : tables PREDICTIONS and LABELS; null scores and unknown labels are left out
    unit : {"patient", "tile"}

    Returns DataFrame: unit_id, patient_id, gene, score, label.
    """
    if unit not in ("patient", "tile"):
        raise ParameterError("Schemes are compared by patient or by tile", got=unit, expected="patient | tile")
    placed = place_among_negatives(predictions.dropna(subset=["score"]), labels).dropna(subset=["score"])
    keys = ["patient_id"] if unit == "patient" else ["tile_id", "patient_id"]
    mean = placed.groupby([*keys, "gene", "label"], as_index=False)["score"].mean()
    return mean.assign(unit_id=mean[keys[0]])[["unit_id", "patient_id", "gene", "score", "label"]]


def inflation(
    arms: Mapping[str, pd.DataFrame],
    labels: pd.DataFrame,
    base: str = "patient",
    *,
    units: Sequence[str] = ("patient", "tile"),
    min_positives: int = 5,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC of the same network under several splits, and what each gains over one of them.

    Parameters
    ----------
    arms : scheme → predictions: of the same tiles; patients as they are
    labels : the labels table
    base : the arm that the others are compared with
    units : of "patient", "tile"
    min_positives : least number of patients of each class, of those that all arms scored

    Returns DataFrame: gene, unit, scheme, auc, ci_low, ci_high, inflation (auc − that of `base`), inflation_low,
    inflation_high, n_pos, n_neg (patients). Intervals: percentile, 95 %, patients resampled, the same in all arms:
    within each class for a gene; from all patients for the last rows, the mean over the genes above. They hold for the
    networks that were trained; another seed trains others.

    Raises ParameterError: no such base.
    """
    if base not in arms:
        raise ParameterError("The arm to compare with is missing", got=base, expected=", ".join(arms))
    rows: list[dict[str, object]] = []
    for unit in units:
        frames = {name: unit_scores(found, labels, unit) for name, found in arms.items()}
        genes = {}
        for gene in labels["gene"].drop_duplicates():
            own = _common({n: f[f["gene"] == gene] for n, f in frames.items()})
            classes = own[base].drop_duplicates("patient_id")["label"].value_counts()
            if min(classes.get(0, 0), classes.get(1, 0)) >= min_positives:
                genes[str(gene)] = own
        for gene, own in genes.items():
            drawn = {n: bootstrap_aucs(f, resamples=resamples, seed=seed) for n, f in own.items()}
            classes = own[base].drop_duplicates("patient_id")["label"].value_counts()
            place = {"gene": gene, "unit": unit, "n_pos": int(classes.get(1, 0)), "n_neg": int(classes.get(0, 0))}
            rows += [place | row for row in _gains({n: _auc(f) for n, f in own.items()}, drawn, base)]
        if len(genes) > 1:
            rows += [{"unit": unit} | row for row in _macro(genes, base, resamples, seed)]
    names = {"arm": "scheme", "difference": "inflation", "difference_low": "inflation_low",
             "difference_high": "inflation_high"}  # fmt: skip
    columns = ["gene", "unit", "scheme", "auc", "ci_low", "ci_high", "inflation", "inflation_low", "inflation_high",
               "n_pos", "n_neg"]  # fmt: skip
    return pd.DataFrame(rows).rename(columns=names).reindex(columns=columns)


def _common(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The rows whose unit every arm scored, in one order."""
    shared = sorted(set.intersection(*(set(f["unit_id"]) for f in frames.values())))
    return {n: f.set_index("unit_id").loc[shared].reset_index() for n, f in frames.items()}


def _auc(frame: pd.DataFrame) -> float:
    label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
    return float(weighted_auc(label, score, np.ones((1, len(label))))[0])


def _macro(
    genes: Mapping[str, Mapping[str, pd.DataFrame]], base: str, resamples: int, seed: int
) -> list[dict[str, object]]:
    """Rows of the mean over genes; patients are drawn once for all genes, whatever their labels."""
    patients = sorted(set().union(*(own[base]["patient_id"] for own in genes.values())))
    n = len(patients)
    counts = redraw(generator(seed, "inflation"), n, resamples)[1:]
    drawn = {name: np.mean([_weighted(own[name], patients, counts) for own in genes.values()], axis=0)
             for name in next(iter(genes.values()))}  # fmt: skip
    auc = {name: float(np.mean([_auc(own[name]) for own in genes.values()])) for name in drawn}
    place = {"gene": MACRO, "n_pos": n, "n_neg": 0}
    return [place | row for row in _gains(auc, drawn, base)]


def _weighted(frame: pd.DataFrame, patients: list[str], counts: _Floats) -> _Floats:
    """AUC in every resample, (b,); NaN where it lacks a class."""
    label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
    code = np.searchsorted(patients, frame["patient_id"].to_numpy(str))
    step = max(1, _CELLS // max(1, len(label)))
    parts = [weighted_auc(label, score, counts[i : i + step, code]) for i in range(0, len(counts), step)]
    return np.concatenate(parts)
