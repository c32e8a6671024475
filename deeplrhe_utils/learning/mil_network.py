"""The bag network: gated attention over a patient's tiles, one per gene; its scores, its file and its card.

Source: Ilse, Tomczak & Welling 2018 (ICML), "Attention-based Deep Multiple Instance Learning", equation 9 (gated
attention); one attention per gene, the shared projection and the defaults are ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deeplrhe_utils.core.errors import CohortError, ModelError, ParameterError
from deeplrhe_utils.core.files import atomic_path, sha256_file
from deeplrhe_utils.learning.models import hash_patient, refuse_leak

_KIND: Final = "deeplrhe-mil"


@dataclass(frozen=True)
class MilConfig:
    """Architecture and recipe of a bag network.

    Attributes
    ----------
    pooling : "gated" (attention) or "mean" (the control: every tile counts the same)
    embed : width of the projection that all genes share; 0 takes the features as they are
    hidden : units of each gene's attention
    dropout : share of the projection left out in training [0–1)
    learning_rate, weight_decay : AdamW, one-cycle schedule with this peak
    epochs, patients_per_step : passes over the training patients, patients per step
    tiles_per_bag : most tiles of a patient in one training pass, drawn anew each time; 0 takes all
    """

    pooling: str = "gated"
    embed: int = 64
    hidden: int = 64
    dropout: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    epochs: int = 60
    patients_per_step: int = 16
    tiles_per_bag: int = 0

    def __post_init__(self) -> None:
        if self.pooling not in ("gated", "mean"):
            raise ParameterError("Illegal pooling", got=self.pooling, expected="gated or mean")
        wrong = min(self.hidden, self.epochs, self.patients_per_step) < 1 or min(self.embed, self.tiles_per_bag) < 0
        if wrong or not 0 <= self.dropout < 1:
            raise ParameterError("A number of the bag network is out of range", got=asdict(self),
                                 expected="hidden, epochs, patients_per_step ≥ 1; dropout < 1; none < 0")  # fmt: skip


class GatedAttention(nn.Module):
    """Bags of tile features → one logit per gene, and how much each tile counted.

    With tile embeddings h: a = softmax over tiles of wᵀ(tanh(V h) ⊙ σ(U h)), z = Σ a h, logit = cᵀz + b; V, U, w, c
    and b are the gene's own. Features are standardised by mean and spread of the training tiles, which are part of
    the model.

    Parameters
    ----------
    inputs, targets : number of features D and of genes T
    """

    def __init__(self, inputs: int, targets: int, config: MilConfig) -> None:
        super().__init__()
        self.config, self.inputs, self.targets = config, inputs, targets
        width = config.embed or inputs
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.project = nn.Sequential(nn.Linear(inputs, width), nn.ReLU()) if config.embed else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(width, targets)
        if config.pooling == "gated":
            self.content = nn.Linear(width, targets * config.hidden)
            self.gate = nn.Linear(width, targets * config.hidden)
            self.weigh = nn.Parameter(torch.randn(targets, config.hidden) / config.hidden**0.5)

    def embeddings(self, x: Tensor) -> Tensor:
        """(B, K, D) features → (B, K, E) tile embeddings, E = ``embed`` or D."""
        return self.dropout(self.project((x - self.mean) / self.spread))

    def _attention(self, h: Tensor, mask: Tensor) -> Tensor:
        if self.config.pooling == "mean":
            return (mask / mask.sum(1, keepdim=True)).unsqueeze(1).expand(-1, self.targets, -1)
        gated = torch.tanh(self.content(h)) * torch.sigmoid(self.gate(h))
        scores = torch.einsum("bkth,th->btk", gated.unflatten(2, self.weigh.shape), self.weigh)
        return scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(2)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T) and attention (B, T, K) of bags (B, K, D); `mask` (B, K), bool, is false on padding.

        The attention sums to 1 over a bag's tiles and is 0 on padding.

        Raises ModelError: a bag holds no tile.
        """
        if not bool(mask.any(1).all()):
            raise ModelError("A bag holds no tile", expected="at least one per patient")
        h = self.embeddings(x)
        attention = self._attention(h, mask)
        pooled = attention @ h
        return (pooled * self.classify.weight).sum(2) + self.classify.bias, attention


def padded(bags: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Bags of different sizes as one rectangle.

    Parameters
    ----------
    bags : int, (n_tiles,): index of each tile's patient
    count : number of patients P

    Returns
    -------
    rows : int, (P, K), tiles of each patient in their order; padding points at tile 0
    mask : bool, (P, K), false on padding

    Raises CohortError: a patient without a tile, or a tile of no patient.
    """
    sizes = np.bincount(bags, minlength=count)
    if len(sizes) != count or not sizes.all():
        raise CohortError("Bags and patients do not match", got=f"{np.count_nonzero(sizes)} bags with tiles",
                          expected=f"{count} patients, each with a tile")  # fmt: skip
    mask = np.arange(sizes.max(initial=0)) < sizes[:, None]
    rows = np.zeros(mask.shape, np.int64)
    rows[mask] = np.argsort(bags, kind="stable")
    return rows, mask


def score_bags(
    model: GatedAttention, features: NDArray[np.float32], bags: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities of patients, and how much each tile counted.

    Parameters
    ----------
    features : float32, (n_tiles, D)
    bags : int, (n_tiles,): index of each tile's patient, from 0 and without gaps

    Returns
    -------
    scores : float32, (n_patients, T), in [0, 1]
        One patient at a time: a score does not depend on who else is scored.
    attention : float32, (n_tiles, T), sums to 1 over each patient's tiles

    Raises CohortError: a patient index without a tile. ModelError: other features than the model was trained on, or
    features that are not finite.
    """
    if features.shape[1] != model.inputs or not np.isfinite(features).all():
        raise ModelError("The features do not fit the model", got=f"{features.shape[1]} features",
                         expected=f"{model.inputs} features, all finite")  # fmt: skip
    rows, mask = padded(bags, int(bags.max(initial=-1)) + 1)
    scores = np.empty((len(rows), model.targets), np.float32)
    attention = np.empty((len(features), model.targets), np.float32)
    model.eval()
    with torch.inference_mode():
        for i, own in enumerate(row[real] for row, real in zip(rows, mask, strict=True)):
            x = torch.from_numpy(features[own]).unsqueeze(0)
            logits, weights = model(x, torch.ones(x.shape[:2], dtype=torch.bool))
            scores[i], attention[own] = logits[0].sigmoid().numpy(), weights[0].T.numpy()
    return scores, attention


def save_mil(
    model: GatedAttention, path: Path, *, trained_on: Iterable[str], card: dict[str, Any], seen: Iterable[str] = ()
) -> str:
    """Write weights and model card as one safetensors file, atomically.

    Parameters
    ----------
    trained_on : patient identifiers (stored hashed)
    seen : hashed patients that the network behind the features had seen
    card : any further JSON-able facts (fold, seed, genes, usable …)

    Returns str: first 16 hex characters of the file's SHA-256, the `model_hash` of score tables.
    """
    full = {**card, "kind": _KIND, "config": asdict(model.config), "inputs": model.inputs, "targets": model.targets,
            "patients": sorted({*map(hash_patient, trained_on), *seen})}  # fmt: skip
    with atomic_path(path) as part:
        part.write_bytes(save(model.state_dict(), metadata={"card": json.dumps(full, sort_keys=True)}))
    return sha256_file(path)[:16]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as stream:
            card: dict[str, Any] = json.loads((stream.metadata() or {}).get("card", "{}"))
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"The bag network {path} cannot be read ({error})",
                         expected="a .safetensors file written by save_mil",
                         fix="Delete it and train again; pickled checkpoints are never opened") from error  # fmt: skip
    if card.get("kind") != _KIND:
        raise ModelError(f"{path} holds no bag network", got=card.get("kind"), expected=_KIND)
    return card, weights


def load_mil(path: Path, *, score_patients: Sequence[str] = ()) -> tuple[GatedAttention, dict[str, Any]]:
    """Read a bag network; refuse it when it was trained on a patient it is asked to score (leak alarm).

    Returns model in evaluation mode, card.

    Raises ModelError: missing, damaged, of another kind, or its weights do not fit its card. LeakError: it saw one of
    `score_patients`.
    """
    card, weights = _read(path)
    refuse_leak(card, score_patients, path.name)
    model = GatedAttention(card["inputs"], card["targets"], MilConfig(**card["config"]))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit the architecture on their card ({error})") from error
    return model.eval(), card
