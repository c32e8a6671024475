"""Cross-fit: train one network per fold and score each patient with the network that never saw them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import SmallCohortError
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.checkpoints import stop_signal
from deeplrhe_utils.learning.recipes.losses import trainable_targets
from deeplrhe_utils.learning.recipes.processes import ALONE
from deeplrhe_utils.learning.recipes.recipe import TrainConfig, device_of, scoring_precision
from deeplrhe_utils.learning.recipes.scoring import score_arrays
from deeplrhe_utils.learning.tiles.normalizing import single_threads
from deeplrhe_utils.learning.tiles.store import TileStore, prediction_rows
from deeplrhe_utils.learning.training.fold import Fitted, Job, fit_part
from deeplrhe_utils.learning.training.launch import fold_parts, hold, run_elsewhere, write_job
from deeplrhe_utils.learning.training.trainer import Epoch

_Done = TypeVar("_Done")


@dataclass
class CrossFit:
    """What came of a cross-fit.

    Attributes
    ----------
    predictions : rows of table PREDICTIONS for every tile of a tested patient
    history, valid : fold name → mean training loss, and validation loss, per epoch
    files : model files, one per trained fold
    untrained : folds whose training patients are all of one class, in every target
    """

    predictions: pd.DataFrame
    history: dict[str, list[float]] = field(default_factory=dict)
    valid: dict[str, list[float]] = field(default_factory=dict)
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
    launch: str = "",
    abreast: int = 0,
    quiet: bool = False,
    watch: Callable[[Epoch], None] | None = None,
) -> CrossFit:
    """Train and score fold by fold; finished folds are kept, so an interrupted run goes on with the next one.

    Parameters
    ----------
    stores : fold → TileStore
        Pixels of `tiles`, in the same order, normalized by what was fitted on that fold's training patients.
    tiles : selected rows of table TILES
    targets : float32, (n_tiles, n_targets): 1, 0 or NaN, in the order of `tiles` and of ``network.targets``
    splits : table SPLITS, units are patients; patients in no role are neither trained on nor scored. Patients of role
        "valid" choose the epoch.
    folder : receives ``fold-<n>.safetensors``; one process at a time
    stains : fold → digest of its normalizer, optional
        Goes on the model's card, so that the network is not shown tiles of another.
    use : bool, (n_tiles,), optional: tiles that take part, in training and in scoring; default all
    launch : command that starts the training processes, for example ``torchrun --standalone --nproc-per-node 2``; empty
        trains in this process. Scores are always computed here.
    abreast : on a CPU: folds trained at a time, each by one thread of torch, which is faster than one fold with two
        threads; their number changes no result. 0 trains one after the other with all threads.
    quiet, watch : no line per epoch; a function that receives every epoch
    seed, view, device :
        As in `fit_part`.

    Raises CohortError: no fold has a target with both classes among its training patients. RunError: another process is
    training into `folder`, or the launched processes failed.
    """
    job = Job(network, recipe, seed, view, dict(stains or {}), device, launch)
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        if launch:
            write_job(folder / "job", job, stores, tiles, targets, splits, use)
            run_elsewhere(launch, folder / "job", quiet=quiet)
        fits, rows = CrossFit(pd.DataFrame()), []

        def one(fold: int) -> tuple[NDArray[np.int64], Path, Fitted | None, NDArray[np.float32]]:
            parts = fold_parts(tiles, targets, splits, fold, use)
            test, file = parts["test"].indices, folder / f"fold-{fold}.safetensors"
            scores = np.full((len(test), len(job.network.targets)), np.nan, np.float32)
            if not trainable_targets(parts["train"].targets).any():
                return test, file, None, scores
            fitted = fit_part(job, stores[fold], parts, file, fold, quiet=quiet, watch=watch, finished=bool(job.launch))
            return test, file, fitted, _scored(fitted, stores[fold], test, job)

        folds = sorted(splits["fold"].unique().tolist())
        beside = abreast if device_of(device).type == "cpu" and not launch else 0
        for fold, (test, file, fitted, scores) in zip(folds, _side_by_side(one, folds, beside), strict=True):
            usable, model_hash = np.zeros(len(job.network.targets), bool), "none"
            if fitted is not None:
                usable, model_hash = fitted.usable, fitted.model_hash
                fits.history[f"fold {fold}"] = fitted.history
                if fitted.valid:
                    fits.valid[f"fold {fold}"] = fitted.valid
                fits.files.append(file)
            else:
                fits.untrained.append(fold)
            rows.append(prediction_rows(tiles.iloc[test], job.network.targets, scores, usable, fold, model_hash))
        if not fits.files:
            raise SmallCohortError(
                "No fold has patients of both classes to train on", fix="Give labels for more patients"
            )
        fits.predictions = pd.concat(rows, ignore_index=True)
        return fits


def _side_by_side(one: Callable[[int], _Done], folds: Sequence[int], abreast: int) -> Iterator[_Done]:
    if not abreast:
        yield from map(one, folds)
        return
    with single_threads(abreast) as pool, stop_signal(True, ALONE):  # who is stopped waits until all folds have left
        yield from pool.map(one, folds)


def _scored(fitted: Fitted, store: TileStore, test: NDArray[np.int64], job: Job) -> NDArray[np.float32]:
    return score_arrays(fitted.model, lambda i: store.read(test[list(i)]), len(test), device=job.device,
                        precision=scoring_precision(job.recipe.precision))  # fmt: skip
