"""How much of an AUC comes from choosing settings on the patients that it is reported for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc import weighted_auc
from deeplrhe_utils.evaluation.units import align_folds, with_labels

MACRO = "mean over genes"


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
    counts = generator(seed, "optimism").multinomial(
        len(patients), np.full(len(patients), 1 / len(patients)), resamples
    )
    weight = np.vstack([np.ones(len(patients)), counts])
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
        raise CohortError("No gene has both classes, so there is no AUC", fix="Give labels for more patients")
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
