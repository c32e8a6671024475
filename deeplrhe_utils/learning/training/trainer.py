"""One fold in training: network, optimiser, averages and counters, moved on step by step.

Every random draw is a function of (seed, fold, epoch, step) and is made for the whole step; each process takes its
part. What a run has to remember is therefore a counter, the weights and the optimiser's moments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ModelError, ParameterError, SmallCohortError
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.learning.networks.backbones import set_dropout_state
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, TileNetwork, build_network
from deeplrhe_utils.learning.recipes.checkpoints import Progress, State
from deeplrhe_utils.learning.recipes.losses import make_loss, on_device, trainable_targets
from deeplrhe_utils.learning.recipes.optimisers import (
    Ema,
    learning_rate,
    make_optimiser,
    one_cycle_beta1,
    parameter_groups,
)
from deeplrhe_utils.learning.recipes.processes import ALONE, Group, shared
from deeplrhe_utils.learning.recipes.recipe import TrainConfig, uses_bfloat16
from deeplrhe_utils.learning.recipes.scoring import patient_log_loss, score_arrays
from deeplrhe_utils.learning.tiles.augmentation import CropFlipTurn, DeepPathDistortion
from deeplrhe_utils.learning.tiles.sampling import epoch_order, epoch_size, steps_in, steps_of
from deeplrhe_utils.slides.tiles.pixels import read_ahead

if TYPE_CHECKING:
    from deeplrhe_utils.learning.tiles.store import TileStore


@dataclass(frozen=True)
class Part:
    """Tiles of one role in a fold.

    Attributes
    ----------
    indices : int64 (n,): places in the store
    targets : float32 (n, T): label of each tile: 1, 0 or NaN (not profiled), the patient's label repeated
    patients : whose tile each is; needed for balancing and validation
    slides : number of slides that the tiles are of, for the model's card
    """

    indices: NDArray[np.int64]
    targets: NDArray[np.float32]
    patients: Sequence[str] = ()
    slides: int = 0


@dataclass
class Trained:
    """What training left: the weights to use, others worth keeping, and the curves.

    Attributes
    ----------
    model : network in evaluation mode on the CPU: best epoch by validation, else moving average, else last weights
    others : "last", "ema" or "best" → weights that were not chosen
    progress : losses per epoch, best epoch
    """

    model: TileNetwork
    progress: Progress
    others: dict[str, dict[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """One line of the curve, as handed to `watch` and printed by `report`."""

    fold: int
    epoch: int
    epochs: int
    loss: float
    valid: float | None
    learning_rate: float

    def __str__(self) -> str:
        valid = "" if self.valid is None else f"  validation {self.valid:.4f}"
        return f"fold {self.fold}  epoch {self.epoch:3d}/{self.epochs}  loss {self.loss:.4f}{valid}"


_TORCH_SEED: Final = threading.Lock()


def start_at_prevalence(layer: nn.Module, targets: NDArray[np.float32], head: str) -> None:
    """Let the last layer begin with each target's share among known labels (n, T), which takes epochs to learn.

    Half a tile is added to either class, so that a target of one class stays finite.
    """
    known = (~np.isnan(targets)).sum(0)
    assert isinstance(layer, nn.Linear)
    share = torch.from_numpy((np.nansum(targets, axis=0) + 0.5) / (known + 1.0)).to(layer.bias.dtype)
    with torch.no_grad():
        layer.bias.copy_(torch.logit(share) if head == "sigmoid" else share.log())


class Run:
    """One fold in training: network, optimiser, averages, counters."""

    def __init__(
        self, store: TileStore, train: Part, network: NetworkConfig, recipe: TrainConfig, seed: int, fold: int,
        valid: Part | None, device: torch.device, group: Group = ALONE,
    ) -> None:  # fmt: skip
        _check(train, valid, recipe, fold)
        self.store, self.train, self.valid = store, train, valid
        self.recipe, self.seed, self.fold, self.device, self.group = recipe, seed, fold, device, group
        with _TORCH_SEED:  # torch's own generator is one for all threads
            torch.manual_seed(integer_seed(seed, "network", fold))
            model = build_network(network)
        start_at_prevalence(model.classify, train.targets, network.head)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.network: nn.Module = shared(self.model, group, device)
        if recipe.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        groups = parameter_groups(self.model, recipe.weight_decay)
        self.optimiser = make_optimiser(recipe.optimiser, groups, recipe.learning_rate, recipe.weight_decay)
        self.ema = Ema(self.model, recipe.ema) if recipe.ema else None
        self.best: dict[str, Tensor] = {}
        self.progress = Progress()
        limits = {"ceiling": recipe.max_positive_weight, "smoothing": recipe.label_smoothing}
        self.counted = make_loss(recipe.loss, network.head, train.targets, **limits)
        self.loss = on_device(self.counted, device)
        self.bfloat16 = uses_bfloat16(recipe.precision, device)
        self.augment = _augmentation(recipe)
        size = epoch_size(train.patients, len(train.indices), recipe.balance, recipe.tiles_per_patient)
        self.steps = steps_in(size, recipe.batch_size)
        if group.size > size // self.steps:
            raise ParameterError("There are more processes than tiles in a step", got=f"{group.size} processes",
                                 expected=f"at most {size // self.steps}")  # fmt: skip
        self.rate: Callable[[int], float] = self._scheduled
        self.pending: tuple[Tensor, int, NDArray[np.int64]] | None = None

    def finished(self) -> bool:
        """Whether the last epoch is done, or `patience` is spent."""
        done, recipe = self.progress, self.recipe
        waited = len(done.valid) - 1 - done.best_epoch
        return done.epoch >= recipe.epochs or bool(recipe.patience and done.valid and waited >= recipe.patience)

    def epoch(self, after_step: Callable[[], None]) -> Epoch:
        """Run what is left of the epoch under way, validate, and move the counters on."""
        done, recipe = self.progress, self.recipe
        random = generator(self.seed, "order", self.fold, done.epoch)
        order = epoch_order(random, self.train.targets, self.train.patients, balance=recipe.balance,
                            tiles_per_patient=recipe.tiles_per_patient)  # fmt: skip
        batches = steps_of(order, recipe.batch_size)
        self.model.train()
        rate = 0.0
        todo = range(done.step, len(batches))
        for step, (x, y) in zip(todo, read_ahead(lambda s: self.load(s, batches[s]), todo), strict=True):
            rate = self.step(step, x, y, batches[step])
            done.step = step + 1
            if done.step < len(batches):
                after_step()
        self.check_loss()
        mean = done.loss_sum / max(done.weight_sum, 1.0)
        valid = self._validate() if self.valid is not None else None
        done.history.append(mean)
        if valid is not None:
            done.valid.append(valid)
            if valid <= min(done.valid):
                done.best_epoch, self.best = done.epoch, _copied(self._judged().state_dict())
        done.epoch, done.step, done.loss_sum, done.weight_sum = done.epoch + 1, 0, 0.0, 0.0
        return Epoch(self.fold, done.epoch, recipe.epochs, mean, valid, rate)

    def load(self, step: int, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """One process's tiles of a step, augmented, and their labels; runs in a thread beside the step before."""
        mine = np.concatenate([np.arange(rows.start, rows.stop) for rows in self._parts(len(places))])
        random = generator(self.seed, "augmentation", self.fold, self.progress.epoch, step)
        draws = self.augment.draw(len(places), self.store.side_px, self.store.side_px, random)
        x = self.augment.apply(self.store.read(self.train.indices[places[mine]]), draws[mine])
        return x, torch.from_numpy(self.train.targets[places[mine]])

    def _parts(self, count: int) -> list[slice]:
        """Rows of a step of `count` that are this process's, part by part.

        The step is divided into parts first and each part among the processes, so that what batch normalization sees
        does not depend on their number; and everybody has as many parts, or they would wait for each other for ever.
        """
        cuts = max(1, min(self.recipe.accumulate, count // self.group.size))
        edges = [count * cut // cuts for cut in range(cuts + 1)]
        own = [self.group.part(high - low) for low, high in pairwise(edges)]
        return [slice(low + part.start, low + part.stop) for low, part in zip(edges, own, strict=False)]

    def step(self, step: int, x: Tensor, y: Tensor, places: NDArray[np.int64]) -> float:
        """One update of the weights; returns the learning rate."""
        at, recipe = self.progress.epoch * self.steps + step, self.recipe
        rate = self.rate(at)
        self._set_rate(rate, at)
        weight = self.counted.weight(torch.from_numpy(self.train.targets[places]))
        short = None
        try:
            total = self._gradients(x.to(self.device), y.to(self.device), weight, len(places), at)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            short = error.with_traceback(None)  # its frames hold the tensors of the pass that failed
        if short is not None:
            largest = max(rows.stop - rows.start for rows in self._parts(len(places)))
            attempt = self._try_size if self.group.size == 1 else None  # the others would wait inside their step
            raise explain_memory(attempt, largest, recipe.batch_size) from short
        if recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.model)
        self.check_loss()
        self.pending = (total, step, places)
        self.progress.weight_sum += weight
        return rate

    def _gradients(self, x: Tensor, y: Tensor, weight: float, count: int, at: int) -> Tensor:
        """Fill the gradients of the step's mean loss; returns the summed loss of all processes."""
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        done = 0
        for part in self._parts(count):
            rows = slice(done, done + part.stop - part.start)
            done = rows.stop
            set_dropout_state(self.model, integer_seed(self.seed, "dropout", self.fold, at), part.start, count)
            loss = self._forward(x[rows], y[rows])
            # gradients are averaged over processes, so each counts as often as there are processes
            (loss * (self.group.size / weight)).backward()
            total += loss.detach()
        return self.group.sum(total)

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            out = self.network(x)
        if not isinstance(out, tuple):
            return self.loss.sum(out, y)
        return self.loss.sum(out[0], y) + self.recipe.aux_weight * self.loss.sum(out[1], y)

    def _set_rate(self, rate: float, at: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
            if self.recipe.schedule == "one_cycle" and "betas" in group:
                group["betas"] = (one_cycle_beta1(at, self.recipe.epochs * self.steps), group["betas"][1])

    def _scheduled(self, at: int) -> float:
        recipe, total = self.recipe, self.recipe.epochs * self.steps
        return learning_rate(at, total_steps=total, steps_per_epoch=self.steps, kind=recipe.schedule,
                             peak=recipe.learning_rate, factor=recipe.step_factor,
                             every_epochs=recipe.step_epochs)  # fmt: skip

    def check_loss(self) -> None:
        """Add the last step's loss, one step late so that a GPU is not waited for; refuse one that is not finite."""
        if self.pending is None:
            return
        (total, step, places), self.pending = self.pending, None
        value = float(total)
        if not np.isfinite(value):
            tiles = ", ".join(self.store.tile_ids[int(i)] for i in self.train.indices[places][:4])
            raise ModelError(f"The loss is {value} in fold {self.fold}, epoch {self.progress.epoch + 1}, "
                             f"step {step + 1} (tiles {tiles} …)",
                             fix="Lower learning_rate, or look at those tiles")  # fmt: skip
        self.progress.loss_sum += value

    def last_loss(self) -> float:
        """Mean loss of the step just made, finite or not."""
        if self.pending is None:
            return float("nan")
        (total, _, places), self.pending = self.pending, None
        return float(total) / self.counted.weight(torch.from_numpy(self.train.targets[places]))

    def _try_size(self, size: int) -> None:
        """One forward and backward pass of `size` black tiles: raises when memory is too small for it."""
        side = min(self.recipe.crop_px, self.store.side_px)
        self.optimiser.zero_grad(set_to_none=True)
        y = torch.zeros(size, len(self.model.config.targets), device=self.device)
        set_dropout_state(self.model, 0, 0, size)
        self._forward(torch.zeros(size, 3, side, side, device=self.device), y).backward()

    def _judged(self) -> TileNetwork:
        """The weights that validation judges: the moving average where there is one."""
        if self.ema is None:
            return self.model
        shadow = build_network(self.model.config, pretrained=False).to(self.device)
        self.ema.copy_to(shadow)
        return shadow

    def _validate(self) -> float:
        assert self.valid is not None
        valid, model = self.valid, self._judged()
        mine = valid.indices[self.group.part(len(valid.indices))]
        scores = score_arrays(model, lambda i: self.store.read(mine[list(i)]), len(mine), device=str(self.device),
                              precision=self.recipe.precision)  # fmt: skip
        everything = np.concatenate(self.group.gather(scores))
        usable = self.loss.usable.cpu().numpy()
        return patient_log_loss(everything, valid.targets, valid.patients, usable)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a resumed run needs, by group."""
        found: dict[str, dict[str, Tensor]] = {"model": dict(self.model.state_dict())}
        if self.ema is not None:
            found["ema"] = self.ema.state_dict()["shadow"]
        return {**found, "best": self.best} if self.best else found

    def resume(self, state: State) -> None:
        """Take over what a stopped run saved."""
        self.progress = state.progress
        self.model.load_state_dict(state.tensors["model"])
        state.restore(self.optimiser)
        if self.ema is not None:
            updates = self.progress.epoch * self.steps + self.progress.step
            self.ema.load_state_dict({"updates": updates, "shadow": state.tensors["ema"]})
        self.best = state.tensors.get("best", {})

    def result(self) -> Trained:
        """The weights to use, and the others."""
        kept: dict[str, dict[str, Tensor]] = {"last": _copied(self.model.state_dict())}
        if self.ema is not None:
            kept["ema"] = _copied(self._judged().state_dict())
        if self.best:
            kept["best"] = self.best
        chosen = kept.pop("best" if self.best else "ema" if self.ema is not None else "last")
        model = build_network(self.model.config, pretrained=False)
        model.load_state_dict(chosen)
        model.loaded = self.model.loaded
        return Trained(model.eval(), self.progress, kept)


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}


def _augmentation(recipe: TrainConfig) -> CropFlipTurn | DeepPathDistortion:
    if recipe.augmentation == "deeppath":
        return DeepPathDistortion(recipe.crop_px)
    return CropFlipTurn(recipe.crop_px, recipe.stain_jitter)


def _check(train: Part, valid: Part | None, recipe: TrainConfig, fold: int) -> None:
    if len(train.indices) == 0 or not trainable_targets(train.targets).any():
        what = f"Fold {fold} has no target with both classes among its {len(train.indices)} training tiles"
        raise SmallCohortError(what, fix="Give more patients, or other targets")
    if recipe.patience and valid is None:
        raise ParameterError(f"Fold {fold} has no validation patients, so training cannot be stopped early",
                             fix="Set patience to 0, or valid_share above 0")  # fmt: skip


_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed for lack of memory (on a CPU it raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def explain_memory(attempt: Callable[[int], None] | None, failed: int, batch_size: int) -> ModelError:
    """The error to raise, after halving the batch until one pass fits.

    Parameters
    ----------
    attempt : callable, or None
        Runs one pass of so many tiles; raises when memory is too small. None where no attempt can be made.
    failed : tiles in one pass that did not fit
    batch_size : tiles of a whole step, as the recipe has it
    """
    what = f"Memory is too small for {failed} tiles in one pass"
    if attempt is None:
        return ModelError(what, got=f"batch_size {batch_size}", fix="Halve batch_size, or double accumulate")
    fits = _largest(attempt, failed // 2)
    if not fits:
        return ModelError(what, got=f"batch_size {batch_size}; not even one tile fits",
                          fix="Lower crop_px or kernels, or take a machine with more memory")  # fmt: skip
    parts = -(-failed // fits)
    return ModelError(what, got=f"batch_size {batch_size}", expected=f"at most {fits} tiles in one pass",
                      fix=f"Set accumulate to {parts} times what it is (batch normalization then sees a part), "
                          f"or batch_size to {fits}")  # fmt: skip


def _largest(attempt: Callable[[int], None], size: int) -> int:
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
        else:
            return size
    return 0
