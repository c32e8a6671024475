"""Train one fold and score tiles: plain, seeded, resumable fold by fold.

Source: DeepLRHE sections "Convolutional Neural Network" and "Adjustment of Hyperparameters" name the loss, the
batch size and the learning rate as tuned but give no values; the defaults here are ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deeplrhe_utils.core.errors import CohortError, ModelError
from deeplrhe_utils.core.files import sha256_file, sha256_text
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.learning.models import DeepLrhe, NetworkConfig, load_model, read_card, save_model
from deeplrhe_utils.learning.store import TileStore


@dataclass(frozen=True)
class TrainConfig:
    """Recipe of one training run.

    Attributes
    ----------
    epochs, batch_size : passes over the training tiles, tiles per step
    learning_rate, weight_decay : AdamW, one-cycle schedule with this peak
    crop_px : side of the random crop used in training [stored px]; scoring sees the whole tile
    max_positive_weight : ceiling of the class weight (negatives / positives) in the loss; 1 leaves classes unweighted.
        Weights make the rarest genes, of which least can be learned, the loudest; an AUC does not need them.
    """

    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    crop_px: int = 128
    max_positive_weight: float = 1.0


def trainable_targets(targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which columns of (n, T) labels (1, 0, NaN) hold both classes, so that a fold can learn them."""
    return np.asarray((np.nansum(targets == 1, axis=0) > 0) & (np.nansum(targets == 0, axis=0) > 0))


def device_of(name: str = "auto") -> torch.device:
    """Torch device: "auto" takes CUDA when it is there, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _loss(logits: Tensor, targets: Tensor, positive_weight: Tensor, use: Tensor, head: str) -> Tensor:
    if head == "softmax":
        return F.cross_entropy(logits, targets.argmax(1))
    known = ~targets.isnan() & use
    raw = F.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(0.0), pos_weight=positive_weight, reduction="none"
    )
    return (raw * known).sum() / known.sum().clamp_min(1)


def _positive_weight(targets: NDArray[np.float32], ceiling: float) -> Tensor:
    positive, negative = np.nansum(targets == 1, axis=0), np.nansum(targets == 0, axis=0)
    return torch.from_numpy(np.clip(negative / np.maximum(positive, 1), 1.0, ceiling).astype(np.float32))


def _augmented(tiles: NDArray[np.uint8], crop_px: int, random: np.random.Generator) -> Tensor:
    """(n, H, W, 3) uint8 → (n, 3, crop, crop) float in [0, 1]: one random crop, flip and turn per tile."""
    side = min(crop_px, tiles.shape[1])
    crops = []
    for tile in tiles:
        top, left = random.integers(0, tiles.shape[1] - side + 1), random.integers(0, tiles.shape[2] - side + 1)
        crop = np.rot90(tile[top : top + side, left : left + side], int(random.integers(4)))
        crops.append(crop[::-1] if random.random() < 0.5 else crop)
    return as_input(np.stack(crops))


def as_input(tiles: NDArray[np.uint8]) -> Tensor:
    """(n, H, W, 3) uint8 → (n, 3, H, W) float32 in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).float().div_(255.0)


def train_fold(
    store: TileStore,
    indices: NDArray[np.int64],
    targets: NDArray[np.float32],
    network: NetworkConfig,
    recipe: TrainConfig,
    *,
    seed: int,
    fold: int,
    device: torch.device | None = None,
    report: Callable[[str], None] = print,
) -> tuple[DeepLrhe, list[float]]:
    """Train a fresh network on the tiles of one fold's training patients.

    Parameters
    ----------
    store : TileStore
    indices : int, (n,)
        Training tiles in the store.
    targets : float32, (n, T)
        Label of each of those tiles: 1, 0 or NaN (not profiled), the patient's label repeated.
    seed, fold : int
        Together fix the weights, the order and the augmentation.
    report : callable
        Receives one line per epoch.

    Returns
    -------
    model in evaluation mode on the CPU, mean loss per epoch

    Raises
    ------
    CohortError
        No tile, or no target with both classes.
    ModelError
        The loss is not finite; the message names fold, epoch and batch.
    """
    usable = trainable_targets(targets)
    if len(indices) == 0 or not usable.any():
        raise CohortError(f"Fold {fold} has no target with both classes among its {len(indices)} training tiles",
                          fix="Give more patients, or other targets")  # fmt: skip
    device = device or device_of()
    torch.manual_seed(integer_seed(seed, "network", fold))
    model = DeepLrhe(network).to(device).to(memory_format=torch.channels_last).train()
    random = generator(seed, "batches", fold)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = max(1, round(len(indices) / recipe.batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.learning_rate, total_steps=recipe.epochs * batches
    )
    weight, use = _positive_weight(targets, recipe.max_positive_weight).to(device), torch.from_numpy(usable).to(device)
    history = []
    for epoch in range(recipe.epochs):
        total = 0.0
        for batch in np.array_split(random.permutation(len(indices)), batches):
            x = _augmented(store.read(indices[batch]), recipe.crop_px, random).to(device)
            loss = _loss(model(x), torch.from_numpy(targets[batch]).to(device), weight, use, network.head)
            if not torch.isfinite(loss):
                where = f"fold {fold}, epoch {epoch + 1}, tile {indices[batch][0]} …"
                raise ModelError(f"The loss is {float(loss)} in {where}", fix="Lower learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        history.append(total / len(indices))
        report(f"fold {fold}  epoch {epoch + 1:3d}/{recipe.epochs}  loss {history[-1]:.4f}")
    return model.to("cpu").eval(), history


def _silent(line: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Fitted:
    """One fold's network: `usable` says which targets it could learn, `history` is the loss per epoch."""

    model: DeepLrhe
    usable: NDArray[np.bool_]
    history: list[float]
    model_hash: str


def fit_or_load(
    file: Path,
    store: TileStore,
    indices: NDArray[np.int64],
    targets: NDArray[np.float32],
    network: NetworkConfig,
    recipe: TrainConfig,
    *,
    patients: Iterable[str],
    score_patients: Sequence[str],
    seed: int,
    fold: int,
    view: dict[str, Any],
    device: str = "auto",
    quiet: bool = False,
) -> Fitted:
    """Train one fold, or take the finished one when pixels, labels, recipe and seed are the same.

    Parameters
    ----------
    file : Path
        Model file of the fold; written atomically when training ends.
    patients, score_patients : patient identifiers
        Trained on (stored hashed on the model card), and about to be scored: an overlap is a
        :class:`ModelError`.
    view : dict
        What the network was shown: `input_mpp` [µm/px] and `normalization`; goes on the card, so that the
        network is not used at another magnification or in other colours.
    quiet : bool
        Print no line per epoch.
    others
        As in :func:`train_fold`.
    """
    usable = trainable_targets(targets)
    facts = [store.fingerprint(), indices.tolist(), np.nan_to_num(targets, nan=-1).tolist(), asdict(network)]
    fingerprint = sha256_text(json.dumps([*facts, asdict(recipe), seed, fold, view, torch.get_num_threads()]))
    if not (file.is_file() and read_card(file).get("fingerprint") == fingerprint):
        model, history = train_fold(
            store,
            indices,
            targets,
            network,
            recipe,
            seed=seed,
            fold=fold,
            device=device_of(device),
            report=_silent if quiet else print,
        )
        card = {"fingerprint": fingerprint, "fold": fold, "seed": seed, "history": history, "recipe": asdict(recipe),
                "usable": usable.tolist(), "input_px": store.side_px, **view}  # fmt: skip
        save_model(model, file, trained_on=set(patients), card=card)
    model, card = load_model(file, score_patients=score_patients)
    return Fitted(model, usable, card["history"], sha256_file(file)[:16])


def score_arrays(
    model: DeepLrhe,
    batches: Callable[[Sequence[int]], NDArray[np.uint8]],
    count: int,
    *,
    batch_size: int = 32,
    device: str = "auto",
) -> NDArray[np.float32]:
    """Probabilities (count, T) of `count` tiles that `batches(indices)` delivers as uint8 (n, H, W, 3)."""
    place = device_of(device)
    model = model.to(place).to(memory_format=torch.channels_last).eval()
    scores = []
    with torch.inference_mode():
        for start in range(0, count, batch_size):
            logits = model(as_input(batches(range(start, min(start + batch_size, count)))).to(place))
            scores.append((logits.softmax(1) if model.config.head == "softmax" else logits.sigmoid()).cpu().numpy())
    return np.concatenate(scores) if scores else np.zeros((0, len(model.config.targets)), np.float32)
