"""Other methods on the same folds: claims switched off, DeepPATH's network, readers of label-free features.

Every method ends in the same rows, one score per held-out patient and gene, so that one table can hold them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CohortError, ModelError, ParameterError
from deeplrhe_utils.core.files import safe_name
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.probes.readers import means_by_patient, ridge_held_out, standardized
from deeplrhe_utils.learning.recipes.recipe import DEEPPATH, DEEPPATH_NETWORK, TrainConfig
from deeplrhe_utils.learning.rivals.mil import MilConfig, cross_fit_bags
from deeplrhe_utils.learning.tiles.store import TileStore, patient_rows
from deeplrhe_utils.learning.training.crossfit import CrossFit, cross_fit
from deeplrhe_utils.slides.tiles.tiling import select_tiles

ABLATIONS: Final[dict[str, dict[str, Any]]] = {
    "same, short": {},
    "no shortcuts": {"residual": False},
    "no batch norm": {"batch_norm": False},
}
"""Changes of the network; "same, short" is what the others are compared with, trained as briefly as they are."""


@dataclass(frozen=True)
class Ground:
    """What all methods share; as the arguments of `cross_fit`.

    `folder` receives a folder per method.
    """

    stores: Mapping[int, TileStore]
    tiles: pd.DataFrame
    targets: NDArray[np.float32]
    splits: pd.DataFrame
    folder: Path
    seed: int
    view: dict[str, Any]
    device: str = "auto"
    stains: Mapping[int, str] | None = None
    abreast: int = 0

    def fit(
        self, name: str, network: NetworkConfig, recipe: TrainConfig, use: NDArray[np.bool_] | None = None
    ) -> CrossFit:
        """A quiet cross-fit of one method; its targets are those of `network`, which `self.targets` must match."""
        return cross_fit(self.stores, self.tiles, self.targets, self.splits, network, recipe, seed=self.seed, use=use,
                         folder=self.folder / safe_name(name), view=self.view, device=self.device, stains=self.stains,
                         abreast=self.abreast, quiet=True)  # fmt: skip


def other_seeds(
    train: Callable[..., CrossFit], first: CrossFit, folder: Path, seed: int, count: int
) -> tuple[list[pd.DataFrame], pd.DataFrame, list[Path]]:
    """The same folds from other seeds: rows of table RIVALS, how scores agree with those of `first`, and files.

    Agreement: gene, tiles, "rank correlation"; a row per gene and seed. `train` takes folder, seed and quiet.
    """
    rows, agree, files = [], pd.DataFrame(columns=["gene", "tiles", "rank correlation"]), []
    for k in range(1, count):
        again = train(folder=folder.with_name(f"{folder.name}-seed-{k + 1}"), seed=seed + k, quiet=True)
        files += again.files
        rows.append(patient_rows(again.predictions, f"same, seed {seed + k}"))
        both = first.predictions.merge(again.predictions, on=["tile_id", "gene"], suffixes=("", "_again")).dropna()
        for gene, own in both.groupby("gene"):
            agree.loc[len(agree)] = [gene, len(own), own["score"].corr(own["score_again"], "spearman")]
    return rows, agree, files


def on_arms(grounds: Mapping[str, Ground], network: NetworkConfig, recipe: TrainConfig) -> dict[str, pd.DataFrame]:
    """Tile scores of one network trained on the tiles of each arm; an arm that cannot be trained is left out."""
    fits = {arm: _attempt(arm, partial(ground.fit, arm, network, recipe)) for arm, ground in grounds.items()}
    return {arm: fit.predictions for arm, fit in fits.items() if fit is not None}


def ablations(
    ground: Ground, network: NetworkConfig, recipe: TrainConfig
) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """The paper's two claims, switched off one at a time, everything else equal.

    Returns rows of table RIVALS, and "method, fold n" → mean loss per epoch.
    """
    rows: list[pd.DataFrame] = []
    curves: dict[str, list[float]] = {}
    for name, change in ABLATIONS.items():
        fits = _attempt(name, partial(ground.fit, name, replace(network, **change), recipe))
        if fits is None:
            continue
        rows.append(patient_rows(fits.predictions, name))
        curves |= {f"{name}, {fold}": losses for fold, losses in fits.history.items()}
    return _together(rows), curves


def one_by_one(ground: Ground, network: NetworkConfig, recipe: TrainConfig, genes: Sequence[str]) -> pd.DataFrame:
    """One network per gene (DeepPATH's authors came to favour it); rows of table RIVALS.

    A gene that no fold can learn gives no rows, and a line that says so.
    """
    rows = []
    for gene in genes:
        if gene not in network.targets:
            raise ParameterError("There is no such gene to train for", got=gene, expected=", ".join(network.targets))
        column = network.targets.index(gene)
        own = replace(ground, targets=ground.targets[:, column : column + 1], folder=ground.folder / "one by one")
        alone = replace(network, targets=(gene,))
        fits = _attempt(f"one network for {gene}", partial(own.fit, gene, alone, recipe))
        if fits is not None:
            rows.append(patient_rows(fits.predictions, "one network per gene"))
    return _together(rows)


def inception(
    ground: Ground, genes: Sequence[str], head: str, *, epochs: int, batch_size: int, tiles_each: int,
    precision: str = "auto",
) -> pd.DataFrame:  # fmt: skip
    """DeepPATH's Inception v3 with its published recipe, from scratch, for as long as asked; rows of table RIVALS.

    Parameters
    ----------
    epochs, batch_size, tiles_each : published: about 100 epochs of 400 tiles a step, all tiles of a patient
    precision : as in TrainConfig
    """
    recipe = replace(DEEPPATH, epochs=epochs, batch_size=batch_size, precision=precision)
    use = select_tiles(ground.tiles.assign(kept=True), tiles_each, ground.seed, "patient_id")["selected"].to_numpy(bool)
    network = NetworkConfig(tuple(genes), head, **DEEPPATH_NETWORK)
    fits = _attempt("Inception v3", partial(ground.fit, "inception v3", network, recipe, use))
    return _together([] if fits is None else [patient_rows(fits.predictions, "Inception v3 (short)")])


def attention(
    ground: Ground, genes: Sequence[str], features: pd.DataFrame, label: str, config: MilConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Attention, and mean pooling as its control, over features of every tile that know no label.

    Parameters
    ----------
    features : a row per tile of `ground.tiles`, in its order; standardized here, by each fold's training patients.
        Features that a network learned from their labels would be in-sample for them, and attention trusts these.
    label : name of the features in the method's name

    Returns rows of table RIVALS; tile_id, gene, fold, weight of the attention.
    """
    learned = ground.splits[ground.splits["role"] == "train"].groupby("fold")["unit_id"].agg(set)
    x = {fold: standardized(features.to_numpy(np.float64), ground.tiles["patient_id"].isin(own).to_numpy(bool))
         .astype(np.float32) for fold, own in learned.items()}  # fmt: skip
    rows, weights = [], pd.DataFrame()
    for pooling in ("gated", "mean"):
        name = f"{'attention' if pooling == 'gated' else 'mean'} over {label}"
        fits = cross_fit_bags(x, ground.tiles, ground.targets, ground.splits, list(genes),
                              replace(config, pooling=pooling), folder=ground.folder / "mil", seed=ground.seed,
                              name=name, quiet=True)  # fmt: skip
        rows.append(fits.scores)
        weights = fits.attention if pooling == "gated" else weights
    return _together(rows), weights


def ridge(ground: Ground, genes: Sequence[str], features: pd.DataFrame, label: str) -> pd.DataFrame:
    """Ridge regression on patients' means of label-free features, on the same folds; rows of table RIVALS.

    The score is the rank within a fold, in (0, 1): a ridge's own numbers are no probabilities.
    """
    means = means_by_patient(features, ground.tiles["patient_id"])
    target = pd.DataFrame(ground.targets).groupby(ground.tiles["patient_id"].to_numpy(str)).first().loc[means.index]
    test = ground.splits[ground.splits["role"] == "test"].set_index("unit_id")["fold"].reindex(means.index)
    rows = []
    for column, gene in enumerate(genes):
        known = (target[column].notna() & test.notna()).to_numpy()
        fold = test[known].to_numpy(int)
        label_of = target.loc[known, column].to_numpy(np.float64)
        held_out = ridge_held_out(means.to_numpy(np.float64)[known], label_of[:, None], fold)[:, 0]
        found = pd.Series(held_out).groupby(fold)
        score = ((found.rank() - 0.5) / found.transform("size")).to_numpy()
        rows.append(pd.DataFrame({"patient_id": means.index[known], "gene": gene, "fold": fold, "score": score,
                                  "method": f"ridge on {label}", "model_hash": "closed form"}))  # fmt: skip
    return _together(rows)


def _attempt(name: str, fit: Callable[[], CrossFit]) -> CrossFit | None:
    """What `fit` gives, or None and a printed line: one method that fails must not cost the others."""
    try:
        return fit()
    except (CohortError, ModelError) as error:
        print(f"{name} gives no result: {error}")
        return None


def _together(rows: list[pd.DataFrame]) -> pd.DataFrame:
    columns = ["patient_id", "gene", "fold", "method", "score", "model_hash"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)
