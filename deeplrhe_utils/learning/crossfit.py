"""Cross-fit: train one network per fold and score each patient with the network that never saw them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.learning.models import NetworkConfig
from deeplrhe_utils.learning.store import TileStore
from deeplrhe_utils.learning.targets import prediction_rows
from deeplrhe_utils.learning.training import TrainConfig, fit_or_load, score_arrays, trainable_targets

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class CrossFit:
    """What came of a cross-fit.

    Attributes
    ----------
    predictions : DataFrame
        Rows of table PREDICTIONS for every tile of a tested patient.
    history : fold name → mean loss per epoch
    files : model files, one per trained fold
    untrained : folds whose training patients are all of one class, in every target
    """

    predictions: pd.DataFrame
    history: dict[str, list[float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)


def cross_fit(
    stores: Mapping[int, TileStore],
    tiles: pd.DataFrame,
    targets: NDArray[np.float32],
    splits: pd.DataFrame,
    network: NetworkConfig,
    recipe: TrainConfig,
    *,
    folder: Path,
    seed: int,
    view: dict[str, Any],
    device: str = "auto",
    stains: Mapping[int, str] | None = None,
    use: NDArray[np.bool_] | None = None,
    quiet: bool = False,
) -> CrossFit:
    """Train and score fold by fold; finished folds are kept, so an interrupted run goes on with the next one.

    Parameters
    ----------
    stores : fold → TileStore
        Pixels of `tiles`, in the same order, normalized by what was fitted on that fold's training patients.
    tiles : DataFrame
        Selected rows of table TILES.
    targets : float32, (n_tiles, n_targets)
        1, 0 or NaN, in the order of `tiles` and of ``network.targets``.
    splits : DataFrame
        Table SPLITS, units are patients; patients in no role are neither trained on nor scored.
    folder : Path
        Receives ``fold-<n>.safetensors``.
    stains : fold → digest of its normalizer, optional
        Goes on the model's card, so that the network is not shown tiles of another.
    use : bool, (n_tiles,), optional
        Tiles that take part, in training and in scoring; default all.
    quiet : bool
        Print no line per epoch.
    seed, view, device :
        As in :func:`~deeplrhe_utils.learning.training.fit_or_load`.

    Raises
    ------
    CohortError
        No fold has a target with both classes among its training patients.
    """
    import pandas as pd

    fits, rows = CrossFit(pd.DataFrame()), []
    roles = splits.set_index(["fold", "unit_id"])["role"]
    for fold in sorted(splits["fold"].unique().tolist()):
        role = tiles["patient_id"].map(roles[fold]).fillna("none")
        role = role if use is None else role.where(use, "none")
        train, test = (np.flatnonzero(role == side) for side in ("train", "test"))
        scores = np.full((len(test), len(network.targets)), np.nan, np.float32)
        usable, model_hash = np.zeros(len(network.targets), bool), "none"
        if trainable_targets(targets[train]).any():
            held_out = tiles.iloc[test]["patient_id"].unique().tolist()
            file, store = folder / f"fold-{fold}.safetensors", stores[fold]
            shown = {**view, "stain": (stains or {}).get(fold, "none")}
            fitted = fit_or_load(
                file, store, train, targets[train], network, recipe, patients=tiles.iloc[train]["patient_id"],
                score_patients=held_out, seed=seed, fold=fold, view=shown, device=device,
                quiet=quiet,
            )  # fmt: skip

            def batch(indices: Any, where: NDArray[np.int64] = test, store: TileStore = store) -> NDArray[np.uint8]:
                return store.read(where[list(indices)])

            scores = score_arrays(fitted.model, batch, len(test), device=device)
            usable, model_hash = fitted.usable, fitted.model_hash
            fits.history[f"fold {fold}"] = fitted.history
            fits.files.append(file)
        else:
            fits.untrained.append(fold)
        rows.append(prediction_rows(tiles.iloc[test], network.targets, scores, usable, fold, model_hash))
    if not fits.files:
        raise CohortError("No fold has patients of both classes to train on", fix="Give labels for more patients")
    fits.predictions = pd.concat(rows, ignore_index=True)
    return fits
