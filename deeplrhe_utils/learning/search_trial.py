"""One trial of a search: two-fold cross-validation of one configuration, within some patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, ModelError
from deeplrhe_utils.learning.launch import fold_parts
from deeplrhe_utils.learning.losses import trainable_targets
from deeplrhe_utils.learning.models import NetworkConfig
from deeplrhe_utils.learning.recipe import TrainConfig
from deeplrhe_utils.learning.scoring import patient_means, score_arrays
from deeplrhe_utils.learning.store import TileStore
from deeplrhe_utils.learning.trainer import Part
from deeplrhe_utils.learning.training import train_fold


@dataclass(frozen=True)
class Study:
    """What all trials of one search share; small enough to be sent to another process.

    Attributes
    ----------
    stores : fold → folder of that fold's tiles
    tiles : tile_id, slide_id, patient_id of the selected tiles, in the stores' order
    targets : float32 (n_tiles, T)
    splits : columns fold, unit_id, role: the folds that this search is judged by
    use : bool (n_tiles,): tiles that take part
    network, recipe : what a trial starts from; its parameters replace some fields
    seed, threads : of every trial, so that the number of workers changes nothing
    """

    stores: Mapping[int, Path]
    tiles: pd.DataFrame
    targets: NDArray[np.float32]
    splits: pd.DataFrame
    use: NDArray[np.bool_]
    network: NetworkConfig
    recipe: TrainConfig
    seed: int
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes
    ----------
    value : mean over folds and targets of the patient-level AUC on held-out patients; NaN where none can be had
    folds : the same per fold
    scores : patient_id, gene, fold, score: held-out patients, mean over their tiles; null for a gene that the fold
        could not learn
    note : why there is no value ("" when there is one)
    """

    value: float
    folds: tuple[float, ...]
    scores: pd.DataFrame = field(repr=False)
    note: str = ""


def configured(study: Study, parameters: Mapping[str, Any]) -> tuple[NetworkConfig, TrainConfig]:
    """Network and recipe of a trial: fields of either, by name."""
    names = set(NetworkConfig.__dataclass_fields__)
    network = replace(study.network, **{k: v for k, v in parameters.items() if k in names})
    return network, replace(study.recipe, **{k: v for k, v in parameters.items() if k not in names})


@contextmanager
def own_threads(study: Study) -> Iterator[None]:
    """Compute with the study's number of threads: rounding, and so what is chosen, depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(study.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate(study: Study, parameters: Mapping[str, Any]) -> Outcome:
    """Train and score the study's folds with these parameters; a run that diverges has no value, and says so."""
    network, recipe = configured(study, parameters)
    try:
        with own_threads(study):
            parts = [_one_fold(study, network, recipe, f) for f in sorted(study.splits["fold"].unique().tolist())]
    except ModelError as error:
        return Outcome(float("nan"), (), pd.DataFrame(columns=["patient_id", "gene", "fold", "score"]), str(error))
    values = tuple(value for value, _ in parts)
    return Outcome(float(np.mean(values)), values, pd.concat([rows for _, rows in parts], ignore_index=True))


@lru_cache(maxsize=4)
def _store(folder: Path, tiles: tuple[tuple[str, str], ...]) -> TileStore:
    return TileStore(folder, pd.DataFrame(tiles, columns=["tile_id", "slide_id"]))


def open_store(study: Study, fold: int) -> TileStore:
    """The tiles of a fold; kept open between the trials of a process."""
    names = study.tiles[["tile_id", "slide_id"]].itertuples(index=False, name=None)
    return _store(study.stores[fold], tuple(names))


def _one_fold(study: Study, network: NetworkConfig, recipe: TrainConfig, fold: int) -> tuple[float, pd.DataFrame]:
    parts = fold_parts(study.tiles, study.targets, study.splits, fold, study.use)
    store = open_store(study, fold)
    trained = train_fold(store, parts["train"], network, recipe, seed=study.seed, fold=fold, report=lambda _: None)
    at = parts["test"].indices
    scores = score_arrays(trained.model, lambda i: store.read(at[list(i)]), len(at), precision=recipe.precision)
    usable = trainable_targets(parts["train"].targets)
    if not np.isfinite(scores).all():
        raise ModelError(f"The network of fold {fold} gives scores that are not finite")
    rows = patient_scores(parts["test"], scores, network.targets, fold, usable)
    return macro_auc(parts["test"], scores, usable, fold), rows


def patient_scores(
    part: Part, scores: NDArray[np.float32], genes: tuple[str, ...], fold: int, usable: NDArray[np.bool_]
) -> pd.DataFrame:
    """patient_id, gene, fold, score: the mean over each patient's tiles, null for genes that are not `usable`."""
    frame = pd.DataFrame(np.where(usable, scores.astype(np.float64), np.nan), columns=list(genes))
    mean = frame.groupby(np.asarray(part.patients)).mean()
    rows = mean.rename_axis("patient_id").reset_index().melt("patient_id", var_name="gene", value_name="score")
    return rows.assign(fold=fold)


def macro_auc(part: Part, scores: NDArray[np.float32], usable: NDArray[np.bool_], fold: int) -> float:
    """Mean patient-level AUC over the targets that were learned and have both classes here.

    Raises CohortError: there is no such target.
    """
    mean, truth = patient_means(scores, part.targets, part.patients)
    found = []
    for column in np.flatnonzero(usable):
        known = ~np.isnan(truth[:, column])
        if len(np.unique(truth[known, column])) == 2:
            found.append(roc_auc_score(truth[known, column], mean[known, column]))
    if not found:
        raise CohortError(f"No target has both classes on both sides of fold {fold}, so trials cannot be compared",
                          fix="Search over commoner genes, or give more patients")  # fmt: skip
    return float(np.mean(found))
