"""What leaks: patients on both sides of a split, how much it inflates an AUC, and two published cases.

Source: ours. Bussola 2021 measured the inflation for tiles; DeepLRHE divides tiles, DeepPATH slides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.acquisition.labels.mutation_files import read_deeppath_labels
from deeplrhe_utils.acquisition.services.manifest import read_manifest
from deeplrhe_utils.core.errors import CohortError, InputError
from deeplrhe_utils.core.seeds import generator
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

    Raises CohortError: an unknown scheme.
    """
    if scheme not in UNIT_COLUMNS:
        raise CohortError("Unknown unit of a split", got=scheme, expected=" | ".join(UNIT_COLUMNS))
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


def deeppath_slides(manifest: Path, labels: Path) -> pd.DataFrame:
    """DeepPATH's own slides: tumour slides of its manifest whose patient stands in its list of mutations.

    Parameters
    ----------
    manifest : GDC manifest: tab-separated id, filename, md5, size, state
    labels : lines "barcode, tab, gene"; they may end with CR alone

    Returns DataFrame: slide_id, patient_id, bytes; slides of normal tissue (sample codes 10–19) and of other patients
    are left out.

    Raises InputError: a file is missing, has other columns, or no slide belongs to a listed patient.
    """
    for path in (manifest, labels):
        if not Path(path).is_file():
            raise InputError(f"{path} is not there", fix="Give the folder with DeepPATH's manifest and labels_r3.txt")
    table = read_manifest(manifest)
    listed = set(read_deeppath_labels(Path(labels))["patient_id"])
    name = table["filename"].str.split(".").str[0]
    told = [parse_name(one) for one in name]
    mine = np.array([one.patient_id in listed and (one.sample_code or "9") < "10" for one in told], bool)
    if not mine.any():
        raise InputError(f"No tumour slide of {manifest} belongs to a patient of {labels}")
    slides = pd.DataFrame(
        {"slide_id": name, "patient_id": [one.patient_id for one in told], "bytes": table["size"].astype(float)}
    )
    return slides[mine].sort_values("slide_id", ignore_index=True)


def greedy_fill(weight: _Floats, random: np.random.Generator) -> NDArray[np.str_]:
    """Roles (n,) that DeepPATH's sorter gives to units of `weight` tiles (n,) when no patient is asked for.

    In shuffled order each unit goes to "test" while test holds at most 15 % of the tiles so far, else to "valid" by
    the same rule, else to "train". Source: 0d_SortTiles.py with PatientID=-1, nSplit=0, PercentTest=PercentValid=15.
    """
    role = np.empty(len(weight), "<U5")
    held, total = {"test": 0.0, "valid": 0.0}, 0.0
    for i in random.permutation(len(weight)):
        name = next((part for part, tiles in held.items() if tiles <= 0.15 * total), "train")
        role[i] = name
        total += weight[i]
        if name in held:
            held[name] += weight[i]
    return role


def manifest_leak(
    slides: pd.DataFrame,
    *,
    draws: int = 500,
    seed: int = 0,
    weight: str = "",
    rule: Callable[[_Floats, np.random.Generator], NDArray[np.str_]] = greedy_fill,
) -> pd.DataFrame:
    """Test slides whose patient is in training, in many draws of a slide-level split.

    Parameters
    ----------
    slides : slide_id, patient_id, as of :func:`deeppath_slides`
    draws, seed : the sorter is not seeded, so its own split is one unknown draw of these
    weight : column that stands for a slide's tiles (their numbers are not published), such as ``bytes``; empty: all
        alike
    rule : gives roles, as DeepPATH's :func:`greedy_fill`

    Returns DataFrame: a row per draw: test (slides), in_train (share of them whose patient is in train, 0–1), in_either
    (in train or valid, which chose the checkpoint).
    """
    tiles = slides[weight].to_numpy(np.float64) if weight else np.ones(len(slides))
    patient, names = slides["patient_id"].factorize()
    rows = []
    for draw in range(draws):
        role = rule(tiles, generator(seed, "deeppath-split", draw))
        seen = np.zeros((2, len(names)), bool)
        seen[0, patient[role == "train"]], seen[1, patient[role != "test"]] = True, True
        test = patient[role == "test"]
        rows.append({"test": len(test), "in_train": seen[0, test].mean(), "in_either": seen[1, test].mean()})
    return pd.DataFrame(rows)
