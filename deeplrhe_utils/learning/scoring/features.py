"""Features of tiles from a frozen network, computed once and kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from deeplrhe_utils.core.errors import InputError, ModelError
from deeplrhe_utils.core.files import atomic_path
from deeplrhe_utils.learning.networks.cards import read_file
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork
from deeplrhe_utils.learning.recipes.recipe import device_of
from deeplrhe_utils.learning.recipes.scoring import Batches, as_input, ready_network
from deeplrhe_utils.slides.tiles.pixels import read_ahead

_KIND: Final = "tile-features"
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

    Raises InputError: no tile, or `batches` delivers another number than asked for. ModelError: the features are no
    table of finite numbers with one row per tile.
    """
    if count < 1:
        raise InputError("There is no tile to take features of", got=count, fix="Loosen the filters of the tiles")
    place, network = device_of(device), ready_network(network, device)
    runs = [range(start, min(start + FEATURE_BATCH, count)) for start in range(0, count, FEATURE_BATCH)]
    parts = []
    with torch.inference_mode():
        for run, tiles in zip(runs, read_ahead(batches, runs), strict=True):
            if len(tiles) != len(run):
                what = f"The tiles from {run.start} on are incomplete"
                raise InputError(what, got=f"{len(tiles)} tiles", expected=f"{len(run)} tiles")
            parts.append(_checked(network.features(as_input(tiles).to(place)), run))
    return np.concatenate(parts)


def _checked(features: Tensor, wanted: range) -> NDArray[np.float32]:
    found = features.float().cpu().numpy()
    if found.ndim != 2 or len(found) != len(wanted):
        expected = f"({len(wanted)}, D)"
        raise ModelError("The network's features have another shape", got=tuple(found.shape), expected=expected)
    if len(wrong := np.flatnonzero(~np.isfinite(found).all(axis=1))):
        raise ModelError(f"The features of tile {wanted[wrong[0]]} are not finite", fix="Set precision to float32")
    return found


def cached_features(file: Path, fingerprint: str, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Features from `file`, or computed and written there (safetensors, atomically).

    Parameters
    ----------
    file : read when it is whole and carries the same `fingerprint`; else it is replaced
    fingerprint : names all that the features depend on: network, pixels, order of the tiles, precision
    compute : delivers float32 (count, D)

    Returns float32, (count, D).

    Raises ModelError: `compute` delivers something else than a float32 table.
    """
    if (kept := _stored(file, fingerprint)) is not None:
        return kept
    features = np.ascontiguousarray(compute())
    if features.ndim != 2 or features.dtype != np.float32:
        raise ModelError("These are no features", got=f"{features.dtype} {features.shape}", expected="float32 (n, D)")
    card = {"kind": _KIND, "fingerprint": fingerprint, **_facts(features)}
    with atomic_path(file) as part:
        part.write_bytes(save({"features": features}, metadata={"card": json.dumps(card, sort_keys=True)}))
    return features


def _facts(features: NDArray[np.float32]) -> dict[str, Any]:
    """What the card says about the numbers; the digest finds damage that leaves the file readable."""
    digest = hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
    return {"count": len(features), "dim": features.shape[1], "sha256": digest}


def _stored(file: Path, fingerprint: str) -> NDArray[np.float32] | None:
    """The features in `file`, or None when there are none, they are damaged, or they are of something else."""
    try:
        card, tensors = read_file(file, "features", _KIND, "np")
    except ModelError:
        return None
    features: NDArray[np.float32] | None = tensors.get("features")
    if features is None or card.get("fingerprint") != fingerprint:
        return None
    return features if all(card.get(name) == value for name, value in _facts(features).items()) else None
