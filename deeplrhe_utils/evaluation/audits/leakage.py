"""What leaks: patients on both sides of a split of any origin, how labels are dealt, and how much it inflates an AUC.

Source: ours. Bussola 2021 measured the inflation for tiles; DeepLRHE divides tiles, DeepPATH slides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import CohortError, InputError, LabelError
from deeplrhe_utils.core.text import UNKNOWN_WORD, counted, p_text, said, shortened
from deeplrhe_utils.evaluation.auc.delong import holm
from deeplrhe_utils.evaluation.splits.folds import PARTS, UNIT_COLUMNS, roles_of

_Floats = NDArray[np.float64]
_MOST_VALUES: Final = 12


def shared_patients(
    splits: pd.DataFrame, members: pd.DataFrame, holder: str = "patient_id", role: str = "train"
) -> pd.DataFrame:
    """Patients of the test side who are also trained on.

    Parameters
    ----------
    splits : table SPLITS of one scheme
    members : patient_id and the scheme's own column, such as table TILES; what the split does not list is not counted
    holder, role : ``"site_id"`` asks for sites, ``"valid"`` for the validating side; who has no `holder` is not counted

    Returns DataFrame: a row per fold: scheme, fold, patients (tested), shared (of them in training), units (tested rows
    of `members`), leaked (of them, of shared patients), share (leaked / units, 0–1).
    """
    rows = []
    for fold, part in roles_of(splits, members).groupby("fold"):
        test = part[part["role"].eq("test") & part[holder].notna()]
        both = test[holder].isin(part.loc[part["role"] == role, holder])
        rows.append({"scheme": splits["scheme"].iloc[0], "fold": fold, "patients": test[holder].nunique(),
                     "shared": test.loc[both, holder].nunique(), "units": len(test), "leaked": int(both.sum()),
                     "share": float(both.mean()) if len(both) else np.nan})  # fmt: skip
    columns = ["scheme", "fold", "patients", "shared", "units", "leaked", "share"]
    return pd.DataFrame(rows, columns=columns)


def as_units(tiles: pd.DataFrame, scheme: str) -> pd.DataFrame:
    """`tiles` with the unit of `scheme` in place of the patient, for training that is meant to leak.

    A cross-fit divides by patient_id, and its networks refuse to score a patient they were trained on. An exhibit that
    divides tiles or slides must say so in what it hands over: here every unit counts as a patient of its own. Models
    trained on this frame know units, not patients, so they cannot refuse anybody: keep them out of ``models``.

    Parameters
    ----------
    tiles : tile_id, slide_id, patient_id
    scheme : {"tile", "slide", "patient", "site"}
    """
    return tiles.assign(patient_id=tiles[UNIT_COLUMNS[scheme]])


def with_patients(predictions: pd.DataFrame, tiles: pd.DataFrame) -> pd.DataFrame:
    """`predictions` of a frame made by :func:`as_units`, with the true patients again.

    Raises CohortError: a tile is not in `tiles`.
    """
    patients = tiles.set_index("tile_id")["patient_id"]
    own = predictions["tile_id"].map(patients)
    if own.isna().any():
        raise CohortError("A scored tile is not in the tiles table", got=predictions.loc[own.isna(), "tile_id"].iloc[0])
    return predictions.assign(patient_id=own)


def card_drop(card: pd.DataFrame) -> dict[str, float]:
    """How far test AUCs lie below the validation AUCs by which the checkpoint was chosen.

    Parameters
    ----------
    card : gene, auc_valid, auc_test

    Returns dict: mean, low, high (t interval over genes, as if they were independent: they share slides, so it is too
    narrow), genes, lower (genes whose test AUC is the lower one).
    """
    drop = (card["auc_valid"] - card["auc_test"]).to_numpy(np.float64)
    n = len(drop)
    half = float(stats.t.ppf(0.5 + 0.95 / 2, n - 1) * drop.std(ddof=1) / np.sqrt(n))
    mean = float(drop.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half, "genes": n, "lower": int((drop > 0).sum())}


class SplitAudit(NamedTuple):
    """What was found.

    Attributes
    ----------
    folds : a row per fold: units and patients by role; share (0–1) of the test units whose patient is in train, in
        valid, whose site is in train (null where sites are unknown); units twice, with two roles, and without a role
    labels : a row per fold, label and value: patients with it and with a known label, by role; how many of the tested
        were expected and with which standard deviation (hypergeometric); p (Fisher's, of test against the rest), p_holm
    findings : sentences
    leaks : whether a patient of the test side also trains or validates
    """

    folds: pd.DataFrame
    labels: pd.DataFrame
    findings: list[str]
    leaks: bool


def check_owners(units: pd.DataFrame) -> None:
    """Raise InputError, unless the patient of every unit (of `read_any_split`) is known."""
    if (lost := units["patient_id"].isna()).any():
        raise InputError(f"The patient of {int(lost.sum())} of {len(units)} units is unknown",
                         got=shortened([said(name) for name in units.loc[lost].iloc[:, 0]]),
                         fix="Give a table of slide_id and patient_id as --labels")  # fmt: skip


def audit_split(splits: pd.DataFrame, units: pd.DataFrame, targets: Sequence[str] = ()) -> SplitAudit:
    """Audit a split.

    Parameters
    ----------
    splits, units : as of `read_any_split`; units may have a column site_id
    targets : columns of `units` that are labels; empty: those with 2 to 12 different values

    Raises InputError: the patient of a unit is unknown. LabelError: no such target.
    """
    check_owners(units)
    scheme = str(splits["scheme"].iloc[0])
    key = ["fold", "unit_id", "role"]
    once = splits.drop_duplicates(key)
    placed = roles_of(once, units)
    rows = {}
    for fold, part in splits.groupby("fold"):
        here, own = once[once["fold"] == fold], placed[placed["fold"] == fold]
        sizes = {role: int(here["role"].eq(role).sum()) for role in PARTS}
        people = {f"{role}_patients": own.loc[own["role"] == role, "patient_id"].nunique() for role in PARTS}
        rows[fold] = {"fold": fold, **sizes, **people, "twice": int(part.duplicated(key).sum()),
                      "two_roles": int(here["unit_id"].duplicated().sum()),
                      "without_role": len(units) - here["unit_id"].nunique()}  # fmt: skip
    folds = pd.DataFrame(rows.values())
    holders = [("in_train", "patient_id", "train"), ("in_valid", "patient_id", "valid")]
    holders += [("site_in_train", "site_id", "train")] if "site_id" in units else []
    shared = {name: shared_patients(once, units, holder, role) for name, holder, role in holders}
    for name, _, _ in holders:
        folds[f"{name}_share"] = shared[name]["share"].to_numpy()
    balance = _balance(placed, units, _targets(units, targets))
    findings = [_said_sharing(shared[name], scheme, holder.removesuffix("_id"), role) for name, holder, role in holders]
    findings += [*_said_units(folds, splits, scheme), *_said_patients(placed), _said_balance(balance)]
    leaks = any(shared[name]["leaked"].gt(0).any() for name in ("in_train", "in_valid"))
    return SplitAudit(folds, balance, findings, leaks)


def _targets(units: pd.DataFrame, targets: Sequence[str]) -> list[str]:
    if missing := [name for name in targets if name not in units]:
        raise LabelError(f"Neither the split nor the labels have a column {', '.join(missing)}", got=", ".join(units))
    most = min(_MOST_VALUES, units["patient_id"].nunique() // 2)
    names = [name for name in units if name not in (*UNIT_COLUMNS.values(), "site_id")]
    return list(targets) or [name for name in names if 2 <= len(_values(units, name)["value"].unique()) <= most]


def _values(units: pd.DataFrame, name: str) -> pd.DataFrame:
    """patient_id and value, once each; unknown ones left out."""
    own = units[["patient_id", name]].set_axis(["patient_id", "value"], axis=1).dropna().astype("string")
    return own[~own["value"].str.fullmatch(UNKNOWN_WORD)].drop_duplicates()


def _balance(placed: pd.DataFrame, units: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    sides = {fold: {role: set(part.loc[part["role"] == role, "patient_id"]) for role in PARTS}
             for fold, part in placed.groupby("fold")}  # fmt: skip
    rows = []
    for name in targets:
        values = _values(units, name)
        levels = sorted(values["value"].unique())
        known = set(values["patient_id"])
        for value in levels[1:] if len(levels) == 2 else levels:
            with_it = set(values.loc[values["value"] == value, "patient_id"])
            for fold, side in sides.items():
                sizes = {role: len(own & known) for role, own in side.items()}
                counts = {role: len(own & with_it) for role, own in side.items()}
                everybody = set().union(*side.values()) & known
                n, total, positive = sizes["test"], len(everybody), len(everybody & with_it)
                share = positive / total if total else np.nan
                table = [[counts["test"], n - counts["test"]],
                         [positive - counts["test"], total - n - positive + counts["test"]]]  # fmt: skip
                rows.append({"fold": fold, "label": name, "value": value, **counts,
                             **{f"{role}_known": size for role, size in sizes.items()}, "expected": n * share,
                             "expected_sd": np.sqrt(n * share * (1 - share) * (total - n) / max(total - 1, 1)),
                             "p": float(stats.fisher_exact(table).pvalue)})  # fmt: skip
    columns = ["fold", "label", "value", *PARTS, *(f"{role}_known" for role in PARTS), "expected", "expected_sd", "p"]
    found = pd.DataFrame(rows, columns=columns)
    return found.assign(p_holm=holm(found["p"].to_numpy(float)))


def _said_sharing(found: pd.DataFrame, scheme: str, holder: str, role: str) -> str:
    does = {"train": "in training", "valid": "in validation"}[role]
    torn = found[found["leaked"] > 0]
    if torn.empty:
        return f"No {holder} of the test side is also {does}."
    worst = torn.loc[torn["share"].idxmax()]
    noun = "slides" if scheme == "slide" else "patients"
    where = (f"{100 * found['share'].min():.1f} to {100 * found['share'].max():.1f} % in {len(found)} folds; most in "
             f"fold {worst['fold']}: " if len(found) > 1 else "")  # fmt: skip
    return (f"{'WARNING: ' if holder == 'patient' else ''}{100 * found['share'].mean():.1f} % of the test {noun} are "
            f"of a {holder} that is also {does} ({where}{worst['leaked']} of {worst['units']}, of "
            f"{counted(worst['shared'], holder)}).")  # fmt: skip


def _said_units(folds: pd.DataFrame, splits: pd.DataFrame, scheme: str) -> list[str]:
    found = []
    for name, does in (("two_roles", "with two roles"), ("twice", "named twice"), ("without_role", "without a role")):
        if (torn := folds[folds[name] > 0]).size:
            each = shortened([f"{n} in fold {fold}" for fold, n in zip(torn["fold"], torn[name], strict=True)])
            found.append(f"Units {does}: {each}.")
    if (empty := folds.loc[folds["test"].eq(0) | folds["train"].eq(0), "fold"]).size:
        found.append(f"Nothing is trained on, or nothing tested, in fold {shortened(list(map(str, empty)))}.")
    never = splits["unit_id"].nunique() - splits.loc[splits["role"] == "test", "unit_id"].nunique()
    if len(folds) > 1 and never:
        found.append(f"{counted(never, scheme)} of {splits['unit_id'].nunique()} are never tested.")
    return found


def _said_patients(placed: pd.DataFrame) -> list[str]:
    tested = placed[placed["role"] == "test"].groupby("patient_id")["fold"].nunique()
    if not (again := int(tested.gt(1).sum())):
        return []
    return [f"{again} of {counted(len(tested), 'tested patient')} are tested in more than one fold, one of them in "
            f"{tested.max()}: scores of folds are not one per patient."]  # fmt: skip


def _said_balance(labels: pd.DataFrame) -> str:
    if labels.empty:
        return "No label is known, so how labels are dealt was not looked at."
    row = labels.loc[labels["p"].idxmin()]
    verdict = "more than chance deals" if row["p_holm"] < 0.05 else "as chance deals"
    return (f"Labels are dealt {verdict}: furthest off is {said(row['label'])} = {said(row['value'])} in fold "
            f"{row['fold']}, {row['test']} of {row['test_known']} tested patients where {row['expected']:.1f} ± "
            f"{row['expected_sd']:.1f} are expected (p {p_text(row['p'])}, after Holm {p_text(row['p_holm'])}, "
            f"{counted(len(labels), 'comparison')}).")  # fmt: skip
