"""Train one fold, or take the finished one; an interrupted one goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ModelError, RunError
from deeplrhe_utils.core.files import sha256_file, sha256_text
from deeplrhe_utils.core.text import Countdown
from deeplrhe_utils.learning.networks.cards import hash_patient, read_card, refuse_leak
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, TileNetwork, build_network, load_model, save_model
from deeplrhe_utils.learning.networks.weights import weights_digest
from deeplrhe_utils.learning.recipes.checkpoints import Stop, load_state, save_state, stop_signal
from deeplrhe_utils.learning.recipes.losses import trainable_targets
from deeplrhe_utils.learning.recipes.processes import ALONE, Group
from deeplrhe_utils.learning.recipes.recipe import TrainConfig, device_of, uses_bfloat16
from deeplrhe_utils.learning.training.trainer import Epoch, Part, Run, Trained

if TYPE_CHECKING:
    from deeplrhe_utils.learning.tiles.store import TileStore


def train_fold(
    store: TileStore,
    train: Part,
    network: NetworkConfig,
    recipe: TrainConfig,
    *,
    seed: int,
    fold: int,
    valid: Part | None = None,
    device: torch.device | None = None,
    report: Callable[[str], None] = print,
    watch: Callable[[Epoch], None] | None = None,
    state_file: Path | None = None,
    fingerprint: str = "",
    group: Group = ALONE,
) -> Trained:
    """Train a network on the tiles of one fold's training patients.

    Parameters
    ----------
    train, valid : training tiles, and tiles of other patients that choose the epoch
    seed, fold : together fix the weights, the order, the augmentation and the dropout
    report, watch : receive one line, and one :class:`Epoch`, per epoch (in the first process)
    state_file, fingerprint : where the state is kept while training, and what it belongs to. None keeps none.
    group : processes that share every step. Their number changes results by rounding only.

    Raises CohortError: no tile, no target with both classes, or validation patients without a known label. ModelError:
    the loss is not finite (the message names fold, epoch, step and tiles), or memory is too small (it names a batch
    size that fits). Stop: the process was told to end; the state is saved.
    """
    run = Run(store, train, network, recipe, seed, fold, valid, device or device_of(), group)
    if state_file is not None and state_file.is_file():
        state = load_state(state_file, fingerprint)
        if state is None:
            report(f"fold {fold}  starts anew: the saved state is damaged, or of other data or parameters")
        else:
            run.resume(state)
            report(f"fold {fold}  goes on in epoch {run.progress.epoch + 1}, step {run.progress.step + 1}")
    with stop_signal(state_file is not None, group) as stopped:
        saver, before = _Saver(run, state_file, fingerprint, stopped), run.progress
        progress = Countdown(f"fold {fold}: steps of training" if group.first else "", run.steps * recipe.epochs,
                             brief=True, done=before.epoch * run.steps + before.step)  # fmt: skip

        def after_step() -> None:
            progress.step()
            saver.due()

        while not run.finished():
            line = run.epoch(after_step)
            if group.first:
                report(str(line))
                if watch is not None:
                    watch(line)
            after_step()
    return run.result()


class _Saver:
    """Saves the state when it is time to, and ends the run when it was told to."""

    def __init__(self, run: Run, file: Path | None, fingerprint: str, stopped: Callable[[], bool]) -> None:
        self.run, self.file, self.fingerprint, self.stopped = run, file, fingerprint, stopped
        self.last = monotonic()

    def due(self) -> None:
        if self.file is None or not self.run.group.first:
            return
        stop = self.stopped()
        if stop or monotonic() - self.last >= self.run.recipe.checkpoint_seconds:
            self.run.check_loss()
            save_state(self.file, self.fingerprint, self.run.progress, self.run.tensors(), self.run.optimiser)
            self.last = monotonic()
        if stop:
            where = f"fold {self.run.fold}, epoch {self.run.progress.epoch + 1}, step {self.run.progress.step}"
            raise Stop(f"Training was told to end after {where}; its state is saved",
                       fix="Give the same command again: it goes on from there")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What a cross-fit trains; attributes as in `cross_fit`."""

    network: NetworkConfig
    recipe: TrainConfig
    seed: int
    view: dict[str, Any]
    stains: dict[int, str]
    device: str = "auto"
    launch: str = ""

    @property
    def arithmetic(self) -> str:
        """How sums are shared: rounding depends on it, so a finished fold of another sharing is not taken.

        Of launched processes only that they were: the command names hosts and job numbers, which change from one part
        of a long training to the next.
        """
        return "launched" if self.launch else f"{torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Fitted:
    """One fold's network: `usable` says which targets it could learn; losses per epoch of training and validation."""

    model: TileNetwork
    usable: NDArray[np.bool_]
    history: list[float]
    valid: list[float]
    model_hash: str


def fit_part(
    job: Job,
    store: TileStore,
    parts: Mapping[str, Part],
    file: Path,
    fold: int,
    *,
    quiet: bool = False,
    watch: Callable[[Epoch], None] | None = None,
    group: Group = ALONE,
    finished: bool = False,
) -> Fitted:
    """Train one fold of a job, or take the finished one when pixels, labels, recipe and seed are the same.

    Parameters
    ----------
    parts : tiles of the roles "train", "valid" and "test"; a test patient that was trained on, or chose the epoch, is a
        `LeakError`; the card names them hashed
    file : model file of the fold, written atomically when training ends. While it lasts, ``state/<name>`` beside it is
        what a killed run goes on from; afterwards ``other/`` has the weights that were not chosen, if any.
    quiet : print no line per epoch
    finished : the file must be there already; RunError otherwise
    watch, group : as in :func:`train_fold`
    """
    train, recipe, place, data = parts["train"], job.recipe, device_of(job.device), store.fingerprint()
    valid = parts["valid"] if len(parts["valid"].indices) else None
    told = {**job.view.get("trained_on", {}), "slides": train.slides + parts["valid"].slides}
    view = {**job.view, "trained_on": told, "stain": job.stains.get(fold, "none")}
    # launched processes know their hardware, whoever waits for them does not
    low = recipe.precision if job.launch else uses_bfloat16(recipe.precision, place)
    start = weights_digest(job.network.weights, job.network.architecture)
    facts = [data, *_facts(train), *_facts(valid), asdict(replace(job.network, weights=start)),
             asdict(replace(recipe, checkpoint_seconds=0.0)), low, job.seed, fold, view, job.arithmetic]  # fmt: skip
    fingerprint = sha256_text(json.dumps(facts))
    seen = {*train.patients, *(valid.patients if valid is not None else ())}
    score_patients = sorted(set(parts["test"].patients))
    refuse_leak({"patients": sorted(map(hash_patient, seen))}, score_patients, file.name)
    done_before = group.gather(_finished(file, fingerprint))[0]  # the first process writes, so it decides for all
    if finished and not done_before:
        raise RunError(f"The launched processes left no model of this job in {file}",
                       fix="Look at their output; models of other parameters are not taken")  # fmt: skip
    if not done_before:
        state = file.parent / "state" / file.name
        trained = train_fold(
            store, train, job.network, recipe, seed=job.seed, fold=fold, valid=valid, device=place, watch=watch,
            report=(lambda _: None) if quiet else print, state_file=state, fingerprint=fingerprint, group=group,
        )  # fmt: skip
        if group.first:
            done = trained.progress
            card = {"fingerprint": fingerprint, "fold": fold, "seed": job.seed, "history": done.history,
                    "valid": done.valid, "best_epoch": done.best_epoch, "recipe": asdict(recipe), "data": data,
                    "processes": group.size, "bfloat16": uses_bfloat16(recipe.precision, place),
                    "usable": trainable_targets(train.targets).tolist(),
                    "input_px": store.side_px, **view}  # fmt: skip
            _save(trained, file, seen, card)
            state.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                state.parent.rmdir()
        group.gather(None)  # nobody reads the file before it is there
    model, card = load_model(file, score_patients=score_patients)
    return Fitted(model, np.asarray(card["usable"]), card["history"], card.get("valid", []), sha256_file(file)[:16])


def _facts(part: Part | None) -> list[Any]:
    if part is None:
        return [None]
    return [part.indices.tolist(), np.nan_to_num(part.targets, nan=-1).tolist(), list(part.patients)]


def _finished(file: Path, fingerprint: str) -> bool:
    """Whether `file` is this run's model; one that cannot be read is trained again, and the message says so."""
    if not file.is_file():
        return False
    try:
        return bool(read_card(file).get("fingerprint") == fingerprint)
    except ModelError as error:
        print(f"{error} It is trained again.")
        return False


def _save(trained: Trained, file: Path, patients: set[str], card: dict[str, Any]) -> None:
    for name, weights in trained.others.items():
        if card["valid"] or card["recipe"]["ema"]:
            model = build_network(trained.model.config, pretrained=False)
            model.load_state_dict(weights)
            model.loaded = trained.model.loaded
            other = file.parent / "other" / f"{file.stem}.{name}.safetensors"
            save_model(model, other, trained_on=patients, card={**card, "fingerprint": "", "weights_of": name})
    save_model(trained.model, file, trained_on=patients, card=card)


def tensorboard(folder: Path) -> Callable[[Epoch], None] | None:
    """What writes every epoch's losses and learning rate below `folder`, one run per fold.

    Returns callable, or None where the package tensorboard (extra `tensorboard`) is not installed.
    """
    try:
        import tensorboard  # noqa: F401 (without it torch's writer cannot be imported)
    except ModuleNotFoundError:
        return None
    from torch.utils.tensorboard import SummaryWriter

    def watch(epoch: Epoch) -> None:
        with SummaryWriter(str(folder / f"fold-{epoch.fold}")) as writer:
            writer.add_scalar("loss/training", epoch.loss, epoch.epoch)
            writer.add_scalar("learning rate", epoch.learning_rate, epoch.epoch)
            if epoch.valid is not None:
                writer.add_scalar("loss/validation", epoch.valid, epoch.epoch)

    return watch


def together(*watchers: Callable[[Epoch], None] | None) -> Callable[[Epoch], None] | None:
    """One function that hands every epoch to all `watchers` that are there; None when none is."""
    present = [watch for watch in watchers if watch is not None]

    def watch(epoch: Epoch) -> None:
        for one in present:
            one(epoch)

    return watch if present else None
