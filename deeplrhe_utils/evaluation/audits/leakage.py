"""What leaks: patients on both sides of a split, how much it inflates an AUC, and two published cases.

Source: ours. Bussola 2021 measured the inflation for tiles; DeepLRHE divides tiles, DeepPATH slides.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.evaluation.splits.folds import UNIT_COLUMNS, roles_of

_Floats = NDArray[np.float64]


def shared_patients(splits: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """Patients of the test side who are also trained on.

    Parameters
    ----------
    splits : table SPLITS of one scheme
    members : patient_id and the scheme's own column, such as table TILES; what the split does not list is not counted

    Returns DataFrame: a row per fold: scheme, fold, patients (tested), shared (of them in training), units (tested rows
    of `members`), leaked (of them, of shared patients), share (leaked / units, 0–1).
    """
    rows = []
    for fold, part in roles_of(splits, members).groupby("fold"):
        test = part[part["role"] == "test"]
        both = test["patient_id"].isin(part.loc[part["role"] == "train", "patient_id"])
        rows.append({"scheme": splits["scheme"].iloc[0], "fold": fold, "patients": test["patient_id"].nunique(),
                     "shared": test.loc[both, "patient_id"].nunique(), "units": len(test), "leaked": int(both.sum()),
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
