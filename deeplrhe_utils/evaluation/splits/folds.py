"""Splits: stratified for several genes at once, seeded, hashed.

Source: DeepLRHE section "Performance Evaluation" splits 1,800 tiles two-fold at random, which puts tiles of one
patient on both sides. Here the unit that is never divided is the patient; splits by tile and by slide exist as
exhibits of what that costs. Splits that keep sites whole are in `evaluation.splits.sites`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from deeplrhe_utils.acquisition.barcodes import person_of
from deeplrhe_utils.core.errors import CohortError, ParameterError, SmallCohortError
from deeplrhe_utils.core.seeds import generator

UNIT_COLUMNS: Final = {"tile": "tile_id", "slide": "slide_id", "patient": "patient_id", "site": "patient_id"}
"""Scheme → the column of `unit_id`. Of a site split it is the patient, because patients are trained on and scored."""
PARTS: Final = ("train", "valid", "test")


def patient_folds(labels: pd.DataFrame, n_folds: int = 2, seed: int = 0) -> pd.DataFrame:
    """Assign every labelled patient to one test fold, balancing the positives of all genes.

    Parameters
    ----------
    labels : the labels table (patient × gene)

    Returns DataFrame: the splits table, scheme "patient": each patient is "test" in one fold and "train" in the others.

    Iterative stratification (Sechidis 2011): genes are dealt from the rarest to the commonest, each positive
    patient to the fold that lacks most positives of that gene; then the rest, to the smallest fold. Where targets
    belong to samples (a tumour and normal tissue of one TCGA patient, ``TCGA-05-4244-01`` and ``-11``), all samples of
    a patient go together.
    """
    check_folds(n_folds)
    wide = labels.pivot(index="patient_id", columns="gene", values="status").sort_index()
    person, positive = _people(wide)
    if len(positive) < n_folds:
        raise SmallCohortError(
            f"{n_folds}-fold cross-validation by patient needs at least {n_folds} labelled patients",
            got=len(positive), fix="Give labels for more patients, or run without labels and with a trained model",
        )  # fmt: skip
    order = generator(seed, "patient-folds").permutation(len(positive))
    dealt = np.empty(len(positive), int)
    dealt[order] = _deal(positive[order], [1.0] * n_folds)
    patients, fold = wide.index.to_numpy(), dealt[person]
    rows = [
        {"scheme": "patient", "fold": f, "unit_id": p, "role": "test" if own == f else "train", "seed": seed}
        for f in range(n_folds)
        for p, own in sorted(zip(patients, fold, strict=True))
    ]
    return hashed(pd.DataFrame(rows))


def unit_folds(
    members: pd.DataFrame, labels: pd.DataFrame, scheme: str, n_folds: int = 2, seed: int = 0, *, stratify: bool = True
) -> pd.DataFrame:
    """Assign every tile, slide or patient to one test fold.

    Parameters
    ----------
    members : patient_id and the scheme's own column (tile_id, slide_id); one row per unit, repetitions are merged
    labels : the labels table; every patient of `members` must stand in it
    scheme : {"tile", "slide", "patient"}
        The unit that is never divided. Below the patient it leaks, and is meant as an exhibit.
    stratify : balance the positives of all genes; otherwise deal at random, as both papers do

    Returns DataFrame: the splits table. Patients, stratified, are divided as by :func:`patient_folds`.

    Raises CohortError: fewer units than folds, a unit of two patients, or a patient without a row in `labels`.
    ParameterError: an unknown scheme, or fewer than two folds.

    Source: DeepLRHE "Performance Evaluation": scheme "tile", two folds, not stratified.
    """
    check_folds(n_folds)
    units, positive = _units(members, labels, scheme, n_folds)
    if scheme == "patient" and stratify:
        return patient_folds(labels[labels["patient_id"].isin(units)], n_folds, seed)
    order = generator(seed, f"{scheme}-folds").permutation(len(units))
    shares = [1.0] * n_folds
    dealt = _deal(positive[order], shares) if stratify else np.arange(len(units)) % n_folds
    return splits_table(scheme, units[order], dealt, n_folds, seed)


def unit_shares(
    members: pd.DataFrame, labels: pd.DataFrame, scheme: str, shares: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> pd.DataFrame:
    """Divide tiles, slides or patients once, into train, valid and test.

    Parameters
    ----------
    members, labels, scheme, seed : as for :func:`unit_folds`
    shares : three numbers: of train, valid and test, adding up to 1; valid may be 0

    Returns DataFrame: the splits table with one fold, 0. Check it with ``check_split(splits, once=False)``.

    Raises CohortError, ParameterError: as :func:`unit_folds`; illegal shares.

    Source: Coudray 2018 divides slides 70 / 15 / 15.
    """
    wanted = checked_shares(shares)
    units, positive = _units(members, labels, scheme, sum(share > 0 for share in wanted))
    order = generator(seed, f"{scheme}-shares").permutation(len(units))
    used = [i for i, share in enumerate(wanted) if share > 0]
    dealt = _deal(positive[order], [wanted[i] for i in used])
    return parts_table(scheme, units[order], np.asarray(used)[dealt], seed)


def checked_shares(shares: Sequence[float]) -> tuple[float, float, float]:
    """Shares of train, valid and test as they are, or ParameterError: three, adding up to 1, only valid may be 0."""
    values = [float(share) for share in shares]
    legal = len(values) == 3 and abs(sum(values) - 1) < 1e-9 and min(values) >= 0 and values[0] > 0 and values[2] > 0
    if not legal:
        raise ParameterError("Illegal shares of train, valid and test", got=" / ".join(f"{v:g}" for v in values),
                             expected="three that add up to 1, as 0.7 / 0.15 / 0.15; valid may be 0")  # fmt: skip
    return values[0], values[1], values[2]


def _units(members: pd.DataFrame, labels: pd.DataFrame, scheme: str, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Names of the units, sorted, (n,), and whether their patients are positive, (n, genes)."""
    if scheme not in ("tile", "slide", "patient"):
        raise ParameterError("Unknown unit of a split", got=scheme, expected="tile | slide | patient")
    column = UNIT_COLUMNS[scheme]
    pairs = members[list(dict.fromkeys([column, "patient_id"]))].drop_duplicates().sort_values(column)
    if len(torn := pairs.loc[pairs[column].duplicated(), column]):
        raise CohortError(f"A {scheme} belongs to two patients", got=", ".join(map(str, torn[:5])))
    wide = labels.pivot(index="patient_id", columns="gene", values="status")
    if len(strange := sorted(set(pairs["patient_id"]) - set(wide.index))):
        raise CohortError(f"{len(strange)} patients have no row in the labels", got=", ".join(map(str, strange[:5])),
                          fix="Leave them out, or give labels (null where not profiled)")  # fmt: skip
    if len(pairs) < least:
        raise SmallCohortError(f"A split into {least} by {scheme} needs at least {least} units", got=len(pairs))
    own = (wide.reindex(pairs["patient_id"]) == 1).fillna(False).to_numpy(dtype=bool)
    return pairs[column].to_numpy(), own


def check_folds(n_folds: int) -> None:
    """Raise :class:`ParameterError` for fewer than two folds."""
    if n_folds < 2:
        raise ParameterError("Cross-validation needs at least two folds", got=n_folds, expected="n_folds of 2 or more")


def splits_table(scheme: str, units: np.ndarray, fold: np.ndarray, n_folds: int, seed: int) -> pd.DataFrame:
    """The splits table of units (n,) that are "test" in their `fold` (n,) and "train" in the others."""
    order = np.argsort(units.astype(str), kind="stable")
    parts = [
        pd.DataFrame({"scheme": scheme, "fold": f, "unit_id": units[order],
                      "role": np.where(fold[order] == f, "test", "train"), "seed": seed})
        for f in range(n_folds)
    ]  # fmt: skip
    return hashed(pd.concat(parts, ignore_index=True))


def parts_table(scheme: str, units: np.ndarray, part: np.ndarray, seed: int) -> pd.DataFrame:
    """The splits table of one division: units (n,), each with the number (n,) of its role in :data:`PARTS`."""
    order = np.argsort(units.astype(str), kind="stable")
    role = np.asarray(PARTS, object)[part[order]]
    return hashed(pd.DataFrame({"scheme": scheme, "fold": 0, "unit_id": units[order], "role": role, "seed": seed}))


def hashed(splits: pd.DataFrame) -> pd.DataFrame:
    """`splits` with the hash of every fold."""
    frame = splits.copy()
    frame["hash"] = frame.groupby("fold")["unit_id"].transform(lambda units: _hash(frame.loc[units.index]))
    return frame


def samples_apart(labels: pd.DataFrame, splits: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`labels` of samples whose patient has a fold in `splits`, and their table SPLITS: each in its patient's fold."""
    samples = labels["patient_id"].drop_duplicates()
    fold = samples.map(person_of).map(splits[splits["role"] == "test"].set_index("unit_id")["fold"])
    known = samples[fold.notna()].to_numpy(str)
    own = labels[labels["patient_id"].isin(known)].reset_index(drop=True)
    return own, splits_table("patient", known, fold.dropna().to_numpy(int), splits["fold"].nunique(), seed)


def with_validation(splits: pd.DataFrame, labels: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """Turn a share of every fold's training patients into validation patients, balancing the positives of all genes.

    Parameters
    ----------
    splits, labels : tables SPLITS (units are patients) and LABELS
    share : of the training patients of each fold, above 0 and at most 0.5. DeepPATH's 70 / 15 / 15 is 0.15 / 0.85.

    Returns DataFrame: table SPLITS with the roles train, valid and test, and new hashes; nobody changes sides
    otherwise.

    Raises ParameterError: an illegal share. CohortError: a fold has too few training patients to set one aside.
    """
    if not 0 < share <= 0.5:
        raise ParameterError("Illegal share of validation patients", got=share, expected="above 0, at most 0.5")
    wide = labels.pivot(index="patient_id", columns="gene", values="status")
    frame = splits.copy()
    for fold, rows in splits[splits["role"] == "train"].groupby("fold"):
        own = wide.reindex(rows["unit_id"].sort_values())
        if round(share * len(own)) < 1:
            raise SmallCohortError(f"Fold {fold} has too few training patients to set a share of {share:g} aside",
                              got=len(own), expected=f"{int(np.ceil(0.5 / share))} or more")  # fmt: skip
        person, positive = _people(own)
        order = generator(seed, "validation", int(fold)).permutation(len(positive))
        dealt = _deal(positive[order], [share, 1 - share])
        aside = set(own.index.to_numpy()[np.isin(person, order[dealt == 0])])
        frame.loc[(frame["fold"] == fold) & frame["unit_id"].isin(aside), "role"] = "valid"
    return hashed(frame)


def _people(wide: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Number of the person behind each row (n,), in the order of the rows, and whether a person is positive."""
    person, names = pd.factorize(np.array([person_of(str(unit)) for unit in wide.index], object))
    positive = np.zeros((len(names), wide.shape[1]), bool)
    np.logical_or.at(positive, person, (wide == 1).fillna(False).to_numpy(dtype=bool))
    return person, positive


def _deal(positive: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Fold of each patient, (n,), from the positives (n, genes); folds are as large as their `shares` ask."""
    fold = np.full(len(positive), -1)
    have, size = np.zeros((len(shares), positive.shape[1]), int), np.zeros(len(shares), int)
    for gene in np.argsort(positive.sum(0), kind="stable"):
        for patient in np.flatnonzero(positive[:, gene] & (fold < 0)):
            f = min((have[f, gene] / s, size[f] / s, f) for f, s in enumerate(shares))[2]
            fold[patient] = f
            have[f] += positive[patient]
            size[f] += 1
    for patient in np.flatnonzero(fold < 0):
        f = min((size[f] / s, f) for f, s in enumerate(shares))[1]
        fold[patient] = f
        size[f] += 1
    return fold


def _hash(rows: pd.DataFrame) -> str:
    text = "\n".join(f"{u}\t{r}" for u, r in sorted(zip(rows["unit_id"], rows["role"], strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_split(splits: pd.DataFrame, *, once: bool = True) -> None:
    """Raise :class:`CohortError` when a unit has two roles in one fold or, with `once`, is tested never or twice.

    Folds test everybody once; a single division into train, valid and test does not: give ``once=False`` there.
    """
    if (roles := splits.groupby(["scheme", "fold", "unit_id"])["role"].nunique()).gt(1).any():
        raise CohortError(f"Unit {roles.idxmax()} is on both sides of a fold")
    tested = splits[splits["role"] == "test"].groupby(["scheme", "unit_id"])["fold"].nunique()
    expected = splits.groupby("scheme")["unit_id"].nunique()
    if tested.gt(1).any() or (once and tested.groupby("scheme").size().ne(expected).any()):
        raise CohortError("The folds do not test every unit exactly once")


def roles_of(splits: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """What every member does in every fold.

    Parameters
    ----------
    splits : table SPLITS of one scheme
    members : patient_id and the scheme's own column (tile_id, slide_id), such as table TILES

    Returns DataFrame: the rows of `members` once per fold in which their unit has a role, with the columns fold and
    role; members whose unit the split does not list are absent.

    Raises CohortError: two schemes in one table.
    """
    schemes = splits["scheme"].unique()
    if len(schemes) != 1:
        raise CohortError("Roles are those of one scheme", got=", ".join(map(str, schemes)) or "none")
    column = UNIT_COLUMNS[str(schemes[0])]
    own = splits[["fold", "unit_id", "role"]].rename(columns={"unit_id": column})
    return members.merge(own, on=column, how="inner")


def check_disjoint(splits: pd.DataFrame, members: pd.DataFrame, column: str = "patient_id") -> None:
    """Raise :class:`CohortError` when a patient (or what `column` names) has two roles in one fold.

    Parameters
    ----------
    splits, members : as for :func:`roles_of`
    column : ``"site_id"`` asks whether sites stay whole
    """
    pairs = roles_of(splits, members)[["fold", column, "role"]].drop_duplicates()
    torn = pairs[pairs.duplicated(["fold", column], keep=False)]
    if torn.empty:
        return
    names, folds = sorted(torn[column].astype(str).unique()), torn.groupby("fold")[column].nunique()
    counts = ", ".join(f"fold {fold}: {n} of {pairs.loc[pairs['fold'] == fold, column].nunique()}"
                       for fold, n in folds.items())  # fmt: skip
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    what = column.removesuffix("_id")
    raise CohortError(f"A {what} has two roles in one fold of this split by {splits['scheme'].iloc[0]}",
                      got=f"{counts}; {', '.join(names[:5])}{more}", expected=f"every {what} on one side",
                      fix="Split by patient or by site")  # fmt: skip
