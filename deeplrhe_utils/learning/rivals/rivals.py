"""Other methods on the same folds: claims switched off, DeepPATH's network, attention over frozen features.

Every method ends in the same rows, one score per held-out patient and gene, so that one table can hold them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CohortError, ModelError, ParameterError
from deeplrhe_utils.core.files import safe_name, sha256_file
from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, TileNetwork, build_network, load_model
from deeplrhe_utils.learning.networks.weights import weights_digest
from deeplrhe_utils.learning.recipes.recipe import DEEPPATH, DEEPPATH_NETWORK, TrainConfig
from deeplrhe_utils.learning.rivals.mil import MilConfig, cross_fit_bags
from deeplrhe_utils.learning.scoring.features import cached_features, tile_features
from deeplrhe_utils.learning.tiles.store import TileStore, patient_rows
from deeplrhe_utils.learning.training.crossfit import CrossFit, cross_fit

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

    def fit(
        self, name: str, network: NetworkConfig, recipe: TrainConfig, use: NDArray[np.bool_] | None = None
    ) -> CrossFit:
        """A quiet cross-fit of one method; its targets are those of `network`, which `self.targets` must match."""
        return cross_fit(self.stores, self.tiles, self.targets, self.splits, network, recipe, seed=self.seed, use=use,
                         folder=self.folder / safe_name(name), view=self.view, device=self.device, stains=self.stains,
                         quiet=True)  # fmt: skip


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
    use = (ground.tiles.groupby("patient_id").cumcount() < tiles_each).to_numpy(dtype=bool)
    network = NetworkConfig(tuple(genes), head, **DEEPPATH_NETWORK)
    fits = _attempt("Inception v3", partial(ground.fit, "inception v3", network, recipe, use))
    return _together([] if fits is None else [patient_rows(fits.predictions, "Inception v3 (short)")])


def attention(
    ground: Ground, genes: Sequence[str], networks: Mapping[int, Path] | NetworkConfig, label: str, config: MilConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Attention, and mean pooling as its control, over frozen features of every tile.

    Parameters
    ----------
    networks : fold → model file, or NetworkConfig
        Whose features: the network that each fold trained (it saw training patients only), or one for all folds with
        weights from elsewhere.
    label : name of the features in the method's name

    Returns rows of table RIVALS; tile_id, gene, fold, weight of the attention.
    """
    features, rows, weights = _Features(ground, networks), [], pd.DataFrame()
    seen = {fold: features.seen(fold) for fold in features}
    for pooling in ("gated", "mean"):
        name = f"{'attention' if pooling == 'gated' else 'mean'} over {label}"
        fits = cross_fit_bags(features, ground.tiles, ground.targets, ground.splits, list(genes),
                              replace(config, pooling=pooling), folder=ground.folder / "mil", seed=ground.seed,
                              name=name, seen=seen, quiet=True)  # fmt: skip
        rows.append(fits.scores)
        weights = fits.attention if pooling == "gated" else weights
    return _together(rows), weights


class _Features(Mapping[int, NDArray[np.float32]]):
    """Frozen features fold by fold, made when they are asked for: all at once they may not fit into memory."""

    def __init__(self, ground: Ground, networks: Mapping[int, Path] | NetworkConfig) -> None:
        self.ground, self.networks = ground, networks

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.ground.stores))

    def __len__(self) -> int:
        return len(self.ground.stores)

    def _network(self, fold: int) -> tuple[TileNetwork, str, list[str]]:
        """The network, what identifies it, and the hashed patients that it has seen."""
        if not isinstance(self.networks, NetworkConfig):
            network, card = load_model(self.networks[fold])
            return network, sha256_file(self.networks[fold]), card["patients"]
        seed = integer_seed(self.ground.seed, "backbone")  # matters where there are no weights to start from
        torch.manual_seed(seed)
        network = build_network(self.networks)
        start = weights_digest(self.networks.weights, self.networks.architecture)
        return network, f"{replace(self.networks, weights=start)} {seed}", list(network.loaded.patients)

    def seen(self, fold: int) -> list[str]:
        """Hashed patients whom the fold's network has seen."""
        return self._network(fold)[2]

    def __getitem__(self, fold: int) -> NDArray[np.float32]:
        network, identity, _ = self._network(fold)
        store = self.ground.stores[fold]

        def compute() -> NDArray[np.float32]:
            return tile_features(network, lambda i: store.read(list(i)), len(store), device=self.ground.device)

        file = self.ground.folder / "features" / f"fold-{fold}.safetensors"
        return cached_features(file, f"{identity} {store.fingerprint()}", compute)


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
