"""Features of tiles from a frozen network."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplrhe_utils.core.errors import InputError, ModelError
from deeplrhe_utils.core.text import told
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork
from deeplrhe_utils.learning.recipes.recipe import device_of
from deeplrhe_utils.learning.recipes.scoring import Batches, as_input, ready_network
from deeplrhe_utils.slides.tiles.pixels import read_ahead

FEATURE_BATCH: Final = 32


def tile_features(network: TileNetwork, batches: Batches, count: int, *, device: str = "auto") -> NDArray[np.float32]:
    """What a network sees in each tile, before its last layer; the next batch is read while this one is computed.

    Parameters
    ----------
    network : its ``features``: float (n, 3, H, W) in [0, 1] → float (n, D). It is moved to `device` and left there, in
        evaluation mode.
    batches : ``batches(indices)`` delivers those tiles as uint8 RGB (n, H, W, 3)
    count : number of tiles
    device : torch device name, or "auto"

    Returns float32, (count, D).

    Raises InputError: no tile. ModelError: a feature is not finite.
    """
    if count < 1:
        raise InputError("There is no tile to take features of", got=count, fix="Loosen the filters of the tiles")
    place, network = device_of(device), ready_network(network, device)
    runs = [range(start, min(start + FEATURE_BATCH, count)) for start in range(0, count, FEATURE_BATCH)]
    parts = []
    with torch.inference_mode():
        for run, tiles in zip(told("batches of features", runs), read_ahead(batches, runs), strict=True):
            parts.append(_checked(network.features(as_input(tiles).to(place)), run))
    return np.concatenate(parts)


def _checked(features: Tensor, wanted: range) -> NDArray[np.float32]:
    found = features.float().cpu().numpy()
    if len(wrong := np.flatnonzero(~np.isfinite(found).all(axis=1))):
        raise ModelError(f"The features of tile {wanted[wrong[0]]} are not finite", fix="Set precision to float32")
    return found
