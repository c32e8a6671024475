"""Splits by patient: stratified for several genes at once, seeded, hashed.

Source: DeepLRHE section "Performance Evaluation" splits 1,800 tiles two-fold at random, which puts tiles of one
patient on both sides. Here the unit that is never divided is the patient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.core.seeds import generator

if TYPE_CHECKING:
    import pandas as pd


def patient_folds(labels: pd.DataFrame, n_folds: int = 2, seed: int = 0) -> pd.DataFrame:
    """Assign every labelled patient to one test fold, balancing the positives of all genes.

    Parameters
    ----------
    labels : DataFrame
        The labels table (patient × gene).
    n_folds, seed : int

    Returns
    -------
    DataFrame
        The splits table, scheme "patient": each patient is "test" in one fold and "train" in the others.

    Notes
    -----
    Iterative stratification (Sechidis 2011): genes are dealt from the rarest to the commonest, each positive
    patient to the fold that lacks most positives of that gene; then the rest, to the smallest fold.
    """
    import pandas as pd

    if n_folds < 2:
        raise ParameterError("Cross-validation needs at least two folds", got=n_folds, expected="n_folds of 2 or more")
    wide = labels.pivot(index="patient_id", columns="gene", values="status").sort_index()
    if len(wide) < n_folds:
        raise CohortError(
            f"{n_folds}-fold cross-validation by patient needs at least {n_folds} labelled patients", got=len(wide),
            fix="Give labels for more patients, or run without labels and with a trained model",
        )  # fmt: skip
    order = generator(seed, "patient-folds").permutation(len(wide))
    positive = (wide == 1).fillna(False).to_numpy(dtype=bool)[order]
    fold = _deal(positive, [1.0] * n_folds)
    patients = wide.index.to_numpy()[order]
    rows = [
        {"scheme": "patient", "fold": f, "unit_id": p, "role": "test" if own == f else "train", "seed": seed}
        for f in range(n_folds)
        for p, own in sorted(zip(patients, fold, strict=True))
    ]
    frame = pd.DataFrame(rows)
    frame["hash"] = frame.groupby("fold")["unit_id"].transform(lambda units: _hash(frame.loc[units.index]))
    return frame


def with_validation(splits: pd.DataFrame, labels: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """Turn a share of every fold's training patients into validation patients, balancing the positives of all genes.

    Parameters
    ----------
    splits, labels : DataFrame
        Tables SPLITS (units are patients) and LABELS.
    share : float
        Of the training patients of each fold, above 0 and at most 0.5. DeepPATH's 70 / 15 / 15 is 0.15 / 0.85.

    Returns
    -------
    DataFrame
        Table SPLITS with the roles train, valid and test, and new hashes; nobody changes sides otherwise.

    Raises
    ------
    ParameterError
        An illegal share.
    CohortError
        A fold has too few training patients to set one aside.
    """
    if not 0 < share <= 0.5:
        raise ParameterError("Illegal share of validation patients", got=share, expected="above 0, at most 0.5")
    wide = labels.pivot(index="patient_id", columns="gene", values="status")
    frame = splits.copy()
    for fold, rows in splits[splits["role"] == "train"].groupby("fold"):
        own = wide.reindex(rows["unit_id"].sort_values())
        if round(share * len(own)) < 1:
            raise CohortError(f"Fold {fold} has too few training patients to set a share of {share:g} aside",
                              got=len(own), expected=f"{int(np.ceil(0.5 / share))} or more")  # fmt: skip
        order = generator(seed, "validation", int(fold)).permutation(len(own))
        dealt = _deal((own == 1).fillna(False).to_numpy(dtype=bool)[order], [share, 1 - share])
        aside = set(own.index.to_numpy()[order][dealt == 0])
        frame.loc[(frame["fold"] == fold) & frame["unit_id"].isin(aside), "role"] = "valid"
    frame["hash"] = frame.groupby("fold")["unit_id"].transform(lambda units: _hash(frame.loc[units.index]))
    return frame


def _deal(positive: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Fold of each patient, (n,), from the positives (n, genes); folds are as large as their `shares` ask."""
    fold = np.full(len(positive), -1)
    for gene in np.argsort(positive.sum(0), kind="stable"):
        for patient in np.flatnonzero(positive[:, gene] & (fold < 0)):
            have = [(positive[fold == f, gene].sum() / s, (fold == f).sum() / s, f) for f, s in enumerate(shares)]
            fold[patient] = min(have)[2]
    for patient in np.flatnonzero(fold < 0):
        fold[patient] = min(((fold == f).sum() / s, f) for f, s in enumerate(shares))[1]
    return fold


def _hash(rows: pd.DataFrame) -> str:
    text = "\n".join(f"{u}\t{r}" for u, r in sorted(zip(rows["unit_id"], rows["role"], strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_split(splits: pd.DataFrame) -> None:
    """Raise :class:`CohortError` when a unit has two roles in one fold, or is tested never or twice."""
    if (roles := splits.groupby(["scheme", "fold", "unit_id"])["role"].nunique()).gt(1).any():
        raise CohortError(f"Unit {roles.idxmax()} is on both sides of a fold")
    tested = splits[splits["role"] == "test"].groupby(["scheme", "unit_id"])["fold"].nunique()
    expected = splits.groupby("scheme")["unit_id"].nunique()
    if tested.gt(1).any() or tested.groupby("scheme").size().ne(expected).any():
        raise CohortError("The folds do not test every unit exactly once")
