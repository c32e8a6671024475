"""Multiple-instance learning: one label per patient, learned from all of the patient's tiles at once.

The papers give every tile its patient's label and average the tile probabilities. Here a patient is a bag of tiles,
and an attention learned per gene says which tiles count. Input are features of a frozen network
(`learning.scoring.features`); patients and folds are those of the papers' method, and so is the table
that comes out.

Source: Ilse, Tomczak & Welling 2018 (ICML), "Attention-based Deep Multiple Instance Learning", equation 9 (gated
attention); one attention per gene, the shared projection and the defaults are ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from deeplrhe_utils.core.errors import CohortError, InputError, LabelError, ModelError, ParameterError, SmallCohortError
from deeplrhe_utils.core.files import atomic_path, safe_name, sha256_file, sha256_text
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.learning.networks.cards import hash_patient, read_file, refuse_leak
from deeplrhe_utils.learning.recipes.losses import trainable_targets
from deeplrhe_utils.learning.recipes.processes import torch_threads

_DEAD: Final = 1e-6  # a feature of smaller spread is constant: dividing by it would blow up rounding


def _drawn(
    rows: NDArray[np.int64], mask: NDArray[np.bool_], most: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """At most `most` tiles of each bag, at random; 0 takes all."""
    if not 0 < most < mask.shape[1]:
        return rows, mask
    order = np.argsort(np.where(mask, random.random(mask.shape), 2.0), axis=1)[:, :most]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(mask, order, 1)


def _fresh(
    features: NDArray[np.float32], targets: int, config: MilConfig, seed: int, fold: int
) -> tuple[GatedAttention, torch.optim.AdamW]:
    torch.manual_seed(integer_seed(seed, "bags", fold))
    model = GatedAttention(features.shape[1], targets, config)
    spread = features.std(axis=0)
    model.mean.copy_(torch.from_numpy(features.mean(axis=0)))
    model.spread.copy_(torch.from_numpy(np.where(spread > _DEAD, spread, 1.0).astype(np.float32)))
    return model, torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def fit_bags(
    features: NDArray[np.float32],
    bags: NDArray[np.int64],
    targets: NDArray[np.float32],
    config: MilConfig,
    *,
    seed: int,
    fold: int,
    report: Callable[[str], None] = print,
) -> tuple[GatedAttention, list[float], NDArray[np.bool_]]:
    """Train a fresh bag network on the patients of one fold.

    Parameters
    ----------
    features : float32, (n_tiles, D)
    bags : int, (n_tiles,): index of each tile's patient in `targets`; every patient has a tile
    targets : float32, (n_patients, T): 1, 0 or NaN (not profiled; takes no part in the loss)
    seed, fold : together fix the weights, the order and the dropout
    report : receives one line when training ends

    Returns model in evaluation mode, mean loss per epoch, usable (T,) bool: genes with both classes, which the loss
    held.

    Raises CohortError: a patient without a tile, or no gene with both classes. ModelError: the loss is not finite; the
    message names fold, epoch and batch.
    """
    usable = trainable_targets(targets)
    if not usable.any():
        raise SmallCohortError(f"Fold {fold} has no gene with both classes among its {len(targets)} training patients",
                          fix="Give more patients, or other genes")  # fmt: skip
    rows, mask = padded(bags, len(targets))
    model, optimiser = _fresh(features, targets.shape[1], config, seed, fold)
    known = ~np.isnan(targets) & usable
    patients = np.flatnonzero(known.any(axis=1))
    x, y, use = torch.from_numpy(features), torch.from_numpy(np.nan_to_num(targets)), torch.from_numpy(known)
    steps = max(1, round(len(patients) / config.patients_per_step))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.learning_rate, total_steps=config.epochs * steps
    )
    random, history = generator(seed, "bags", fold), []
    for epoch in range(config.epochs):
        seen, real = _drawn(rows, mask, config.tiles_per_bag, random)
        total = 0.0
        for number, batch in enumerate(np.array_split(random.permutation(patients), steps)):
            logits, _ = model(x[torch.from_numpy(seen[batch])], torch.from_numpy(real[batch]))
            loss = F.binary_cross_entropy_with_logits(logits[use[batch]], y[batch][use[batch]])
            if not torch.isfinite(loss):
                where = f"fold {fold}, epoch {epoch + 1}, batch {number + 1}"
                what = f"The loss is {float(loss.detach())} in {where}"
                raise ModelError(what, fix="Check the features; lower learning_rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        history.append(total / len(patients))
    report(f"fold {fold}  {len(patients)} patients  {config.epochs} epochs  loss {history[0]:.4f} → {history[-1]:.4f}")
    return model.eval(), history, usable


@dataclass
class BagFit:
    """What came of a cross-fit of bag networks.

    Attributes
    ----------
    scores : patient_id, gene, fold, method, score, model_hash: every tested patient and gene once. The score is a
        probability, or null where the fold cannot learn the gene or the patient has no tile.
    attention : tile_id, gene, fold, weight: every tested tile and gene once; sums to 1 over a patient's tiles, null as
        above
    history : fold name → mean loss per epoch
    files : model files, one per trained fold
    untrained : folds whose training patients are all of one class, in every gene
    """

    scores: pd.DataFrame
    attention: pd.DataFrame
    history: dict[str, list[float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Bags:
    """Tiles of some patients: `names` in sorted order, `index` of each tile's patient, `labels` of each patient."""

    names: list[str]
    index: NDArray[np.int64]
    features: NDArray[np.float32]
    labels: NDArray[np.float32]


def _bags(patients: pd.Series, features: NDArray[np.float32], targets: NDArray[np.float32]) -> _Bags:
    names, first, index = np.unique(patients.to_numpy(str), return_index=True, return_inverse=True)
    own, repeated = np.nan_to_num(targets, nan=-1), np.nan_to_num(targets[first], nan=-1)[index]
    if len(wrong := np.flatnonzero((own != repeated).any(axis=1))):
        raise LabelError(f"The tiles of patient {names[index[wrong[0]]]} carry different labels",
                         expected="the patient's label, repeated")  # fmt: skip
    return _Bags(names.tolist(), index, np.ascontiguousarray(features, np.float32), targets[first])


def _long(
    keys: pd.DataFrame, genes: Sequence[str], values: NDArray[np.float32], usable: NDArray[np.bool_], name: str
) -> pd.DataFrame:
    """One row per row of `keys` and gene, with its value (n, T); null where the gene is not usable."""
    known = np.where(usable, values, np.nan).astype(np.float64)
    return pd.concat([keys.assign(gene=gene, **{name: known[:, i]}) for i, gene in enumerate(genes)])


def _fit_or_load(
    file: Path, train: _Bags, genes: Sequence[str], config: MilConfig, held_out: Sequence[str], seed: int, fold: int,
    report: Callable[[str], None],
) -> tuple[GatedAttention, list[float]]:  # fmt: skip
    """One fold's network: trained, or the finished one when nothing that it depends on has changed."""
    digests = [hashlib.sha256(a.data).hexdigest() for a in (train.features, train.index, train.labels)]
    facts = [*digests, train.features.shape, train.names, list(genes), asdict(config), seed, fold]
    fingerprint = sha256_text(json.dumps([*facts, torch.get_num_threads()]))
    if not (file.is_file() and load_mil(file)[1].get("fingerprint") == fingerprint):
        model, history, usable = fit_bags(
            train.features, train.index, train.labels, config, seed=seed, fold=fold, report=report
        )
        card = {"fingerprint": fingerprint, "fold": fold, "seed": seed, "history": history, "genes": list(genes),
                "usable": usable.tolist()}  # fmt: skip
        save_mil(model, file, trained_on=train.names, card=card)
    model, card = load_mil(file, score_patients=held_out)
    return model, card["history"]


def _silent(line: str) -> None:
    """Report nothing."""


def cross_fit_bags(
    features_of: Mapping[int, NDArray[np.float32]],
    tiles: pd.DataFrame,
    targets: NDArray[np.float32],
    splits: pd.DataFrame,
    genes: Sequence[str],
    config: MilConfig,
    *,
    folder: Path,
    seed: int,
    name: str,
    quiet: bool = False,
) -> BagFit:
    """Train and score fold by fold; finished folds are kept, so an interrupted run goes on with the next one.

    Parameters
    ----------
    features_of : fold → float32, (n_tiles, D)
        Features of `tiles`, in the same order; they know no label of the fold's test patients.
    tiles : tile_id and patient_id
    targets : float32, (n_tiles, T)
        1, 0 or NaN, as from `tile_targets`, in the order of `genes`.
    splits : fold, unit_id (patient) and role; patients in no role are neither trained on nor scored
    genes : names of the targets
    folder : receives ``<name>-fold-<n>.safetensors``
    name : of the method; goes into the table and the file names
    quiet : print no line per fold

    Raises CohortError: no fold has a gene with both classes among its training patients. InputError: features, tiles,
    targets and genes do not match. LabelError: tiles of one patient carry different labels.
    """
    fits, scores, attention = BagFit(pd.DataFrame(), pd.DataFrame()), [], []
    roles = splits.set_index(["fold", "unit_id"])["role"]
    for fold in sorted(splits["fold"].unique().tolist()):
        features = _matching(features_of, fold, tiles, targets, genes)
        role = tiles["patient_id"].map(roles[fold]).astype("string").fillna("none").to_numpy(str)
        train, test = (
            _bags(tiles.loc[where, "patient_id"], features[where], targets[where])
            for where in (role == "train", role == "test")
        )
        usable, model_hash = trainable_targets(train.labels), "none"
        found = np.full((len(test.names), len(genes)), np.nan, np.float32)
        weights = np.full((len(test.index), len(genes)), np.nan, np.float32)
        if usable.any():
            file = folder / f"{safe_name(name)}-fold-{fold}.safetensors"
            report = _silent if quiet else print
            with torch_threads(1):  # small matrices make two wait for one another: 59 CPU seconds in place of 7
                model, history = _fit_or_load(file, train, genes, config, test.names, seed, fold, report)
                found, weights = score_bags(model, test.features, test.index)
            model_hash = sha256_file(file)[:16]
            fits.history[f"fold {fold}"] = history
            fits.files.append(file)
        else:
            fits.untrained.append(fold)
        tested = pd.DataFrame({"patient_id": sorted(roles[fold].index[roles[fold] == "test"])})
        everybody = pd.DataFrame(found, test.names).reindex(tested["patient_id"]).to_numpy(np.float32)
        keys = tested.assign(fold=fold, method=name, model_hash=model_hash)
        scores.append(_long(keys, genes, everybody, usable, "score"))
        keys = tiles.loc[role == "test", ["tile_id"]].assign(fold=fold)
        attention.append(_long(keys, genes, weights, usable, "weight"))
    if not fits.files:
        raise SmallCohortError("No fold has patients of both classes to train on", fix="Give labels for more patients")
    columns = ["patient_id", "gene", "fold", "method", "score", "model_hash"]
    fits.scores = pd.concat(scores, ignore_index=True)[columns]
    fits.attention = pd.concat(attention, ignore_index=True)[["tile_id", "gene", "fold", "weight"]]
    return fits


def _matching(
    features_of: Mapping[int, NDArray[np.float32]],
    fold: int,
    tiles: pd.DataFrame,
    targets: NDArray[np.float32],
    genes: Sequence[str],
) -> NDArray[np.float32]:
    """The fold's features, if all inputs speak of the same tiles and genes."""
    features = features_of.get(fold)
    if features is None:
        raise InputError(f"Fold {fold} has no features", got=sorted(features_of), fix="Give features for every fold")
    if not len(features) == len(targets) == len(tiles) or targets.shape[1] != len(genes):
        got = f"features {features.shape}, targets {targets.shape}"
        raise InputError(f"Features, tiles and targets of fold {fold} do not match", got=got,
                         expected=f"{len(tiles)} tiles and {len(genes)} genes")  # fmt: skip
    return features


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

    def of_targets(self, targets: Sequence[int]) -> GatedAttention:
        """The same network for some of its targets alone, in evaluation mode."""
        own, chosen = GatedAttention(self.inputs, len(targets), self.config), torch.tensor(list(targets))
        state = dict(self.state_dict())
        for name, value in state.items():
            if name.split(".")[0] in ("classify", "weigh"):
                state[name] = value[chosen]
            elif name.split(".")[0] in ("content", "gate"):
                state[name] = value.unflatten(0, (self.targets, self.config.hidden))[chosen].flatten(0, 1)
        own.load_state_dict(state)
        return own.eval()

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


def save_mil(model: GatedAttention, path: Path, *, trained_on: Iterable[str], card: dict[str, Any]) -> str:
    """Write weights and model card as one safetensors file, atomically.

    Parameters
    ----------
    trained_on : patient identifiers (stored hashed)
    card : any further JSON-able facts (fold, seed, genes, usable …)

    Returns str: first 16 hex characters of the file's SHA-256, the `model_hash` of score tables.
    """
    full = {**card, "kind": _KIND, "config": asdict(model.config), "inputs": model.inputs, "targets": model.targets,
            "patients": sorted({*map(hash_patient, trained_on)})}  # fmt: skip
    with atomic_path(path) as part:
        part.write_bytes(save(model.state_dict(), metadata={"card": json.dumps(full, sort_keys=True)}))
    return sha256_file(path)[:16]


def load_mil(path: Path, *, score_patients: Sequence[str] = ()) -> tuple[GatedAttention, dict[str, Any]]:
    """Read a bag network; refuse it when it was trained on a patient it is asked to score (leak alarm).

    Returns model in evaluation mode, card.

    Raises ModelError: missing, damaged, of another kind, or its weights do not fit its card. LeakError: it saw one of
    `score_patients`.
    """
    card, weights = read_file(path, "bag network", _KIND, "pt")
    refuse_leak(card, score_patients, path.name)
    model = GatedAttention(card["inputs"], card["targets"], MilConfig(**card["config"]))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit the architecture on their card ({error})") from error
    return model.eval(), card
