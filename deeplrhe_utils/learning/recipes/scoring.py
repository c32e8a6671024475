"""Tile scores from a trained network, and what validation makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplrhe_utils.core.errors import SmallCohortError
from deeplrhe_utils.core.text import told
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork
from deeplrhe_utils.learning.recipes.recipe import device_of, uses_bfloat16
from deeplrhe_utils.slides.tiles.pixels import read_ahead

Batches = Callable[[Sequence[int]], NDArray[np.uint8]]
"""From running numbers of tiles to their pixels, uint8 RGB (n, H, W, 3)."""


def as_input(tiles: NDArray[np.uint8]) -> Tensor:
    """(n, H, W, 3) uint8 → (n, 3, H, W) float32 in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).float().div_(255.0)


def score_arrays(
    model: TileNetwork,
    batches: Batches,
    count: int,
    *,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "float32",
) -> NDArray[np.float32]:
    """Probabilities (count, T) of `count` tiles; the next batch is read while this one is scored.

    Parameters
    ----------
    precision : as in `TrainConfig`; the classifier itself is always float32
    """
    model = ready_network(model, device)
    low = uses_bfloat16(precision, device_of(device))
    runs = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    pairs = zip(told("batches scored", runs), read_ahead(batches, runs), strict=True)
    scores = [probabilities(model, tiles, low) for _, tiles in pairs]
    return np.concatenate(scores) if scores else np.zeros((0, len(model.config.targets)), np.float32)


def ready_network(model: TileNetwork, device: str = "auto") -> TileNetwork:
    """The network in evaluation mode on its device, its weights laid out as :func:`as_input` lays out pixels."""
    return model.to(device_of(device)).to(memory_format=torch.channels_last).eval()


def probabilities(model: TileNetwork, tiles: NDArray[np.uint8], low: bool = False) -> NDArray[np.float32]:
    """Probabilities (n, T) of one batch.

    Parameters
    ----------
    model : as :func:`ready_network` leaves it
    tiles : uint8 RGB (n, H, W, 3)
    low : whether convolutions run in bfloat16
    """
    place = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=low):
        logits = model(as_input(tiles).to(place)).float()
        return (logits.softmax(1) if model.config.head == "softmax" else logits.sigmoid()).cpu().numpy()


def patient_means(
    scores: NDArray[np.float32], targets: NDArray[np.float32], patients: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Mean over each patient's tiles (P, T), and the patient's labels (P, T), patients in sorted order."""
    _, first, member = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
    sums = np.zeros((len(first), scores.shape[1]))
    np.add.at(sums, member, scores.astype(np.float64))
    return sums / np.bincount(member)[:, None], targets[first]


def patient_log_loss(
    scores: NDArray[np.float32], targets: NDArray[np.float32], patients: Sequence[str], usable: NDArray[np.bool_]
) -> float:
    """Mean −log probability of the known labels, each patient's probability being the mean over their tiles [nats].

    Parameters
    ----------
    scores, targets : (n, T) probabilities, and labels 1, 0 or NaN, of tiles
    usable : bool (T,)

    Raises CohortError: no patient has a known label of a usable target.
    """
    mean, truth = patient_means(scores, targets, patients)
    mean = np.clip(mean, 1e-6, 1 - 1e-6)
    known = ~np.isnan(truth) & usable
    if not known.any():
        raise SmallCohortError("No validation patient has a known label of a target that can be learned",
                          fix="Set valid_share higher, or 0")  # fmt: skip
    right = np.where(truth == 1, mean, 1 - mean)
    return float(-np.log(right[known]).mean())
