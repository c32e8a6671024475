"""The paper's tuning protocol, run by Optuna: range test, four-dimensional grid, then coarse to fine.

Source: DeepLRHE, "Adjustment of Hyperparameters": number of kernels, number of layers, batch size and loss function on
a four-dimensional grid under two-fold cross-validation; learning rate and regularization from coarse to fine. The
paper gives no ranges and reports the folds that chose; :func:`select` is that flat selection. Run inside the training
half of an outer fold, the same function is the honest, nested one.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, ModelError, ParameterError, SmallCohortError
from deeplrhe_utils.core.files import safe_name, sha256_text, sole, to_json
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.losses import trainable_targets
from deeplrhe_utils.learning.recipes.processes import torch_threads
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.recipes.scoring import patient_means, score_arrays
from deeplrhe_utils.learning.rivals.ranges import RangeTest, range_test
from deeplrhe_utils.learning.tiles.store import TileStore
from deeplrhe_utils.learning.training.fold import train_fold
from deeplrhe_utils.learning.training.launch import fold_parts
from deeplrhe_utils.learning.training.trainer import Part

GRID: Final = ("kernels", "stages", "batch_size", "loss")
_START: Final = 0.1  # learning rate of the grid, as a share of the range test's threshold


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes
    ----------
    kernels, stages, batch_size, loss : values of the grid's four dimensions ("layers" are stages of residual blocks)
    coarse : learning rates of the coarse search, as shares of the threshold
    decays : weight decays of the coarse search
    fine : factors around the coarse winner, for learning rate and for weight decay
    """

    kernels: tuple[int, ...]
    stages: tuple[int, ...]
    batch_size: tuple[int, ...]
    loss: tuple[str, ...]
    coarse: tuple[float, ...] = (0.03, 0.3)
    decays: tuple[float, ...] = (1e-3, 1e-1)
    fine: tuple[float, ...] = (0.5, 2.0)

    def grid(self) -> dict[str, list[Any]]:
        """The four dimensions, in the paper's order."""
        return {name: sorted(set(getattr(self, name))) for name in GRID}


@dataclass
class Selection:
    """What a search chose.

    Attributes
    ----------
    parameters : fields of network and recipe
    value : the winner's mean AUC, on the folds that chose it
    scores : the winner's held-out patient scores (see `Outcome`)
    trace : a row per trial: scope, phase, the parameters, value (null when it diverged), fold values, note
    """

    parameters: dict[str, Any]
    value: float
    scores: pd.DataFrame
    trace: pd.DataFrame
    ranges: RangeTest


@dataclass
class Searcher:
    """Runs trials in `workers` processes and remembers them in `folder`, so that a killed search goes on.

    Attributes
    ----------
    folder : receives Optuna's journal and the trials' patient scores
    workers : trials at a time. Each has its own threads (:attr:`Study.threads`), so results do not depend on it.
    """

    folder: Path
    workers: int = 1
    ran: int = field(default=0, init=False)
    _pool: ProcessPoolExecutor | None = field(default=None, init=False, repr=False)

    def grid(self, study: Study, name: str, values: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]) -> _Trials:
        """Every point of a grid, each once; what an earlier, killed search finished is not run again.

        Parameters
        ----------
        name : of this search; with the study's data it names the Optuna study
        values : parameter → its values
        fixed : parameters that all points share

        Raises RunError: another process is searching in the same folder.
        """
        grid = {key: list(options) for key, options in values.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = str(self.folder / "optuna.journal")
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
        full = f"{name}-{_digest(study, grid, fixed)}"
        # two searches would take each other's running trials for killed ones
        with sole(self.folder, f"Another process is searching in {self.folder}", "give another folder"):
            record = optuna.create_study(storage=storage, study_name=full, direction="maximize", load_if_exists=True,
                                         sampler=optuna.samplers.RandomSampler(seed=study.seed))  # fmt: skip
            trials = _Trials(record, grid, dict(fixed), self.folder / safe_name(full))
            self._run(study, trials, trials.take_up(), name)
        return trials

    def _run(self, study: Study, trials: _Trials, todo: int, name: str) -> None:
        waiting: dict[Future[Outcome], optuna.Trial] = {}
        while todo or waiting:
            while todo and len(waiting) < max(1, self.workers):
                trial, parameters = trials.ask()
                waiting[self._submit(study, parameters)] = trial
                todo -= 1
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                trial = waiting.pop(done)
                outcome = done.result()
                trials.tell(trial, outcome)
                self.ran += 1
                print(f"{name}  {_told(trial.params)}  {outcome.note or f'{outcome.value:.3f}'}", flush=True)

    def _submit(self, study: Study, parameters: Mapping[str, Any]) -> Future[Outcome]:
        """Start a trial: in a process that stays for the next ones, or in this one when one is enough."""
        if self.workers <= 1:
            future: Future[Outcome] = Future()
            future.set_result(evaluate(study, parameters))
            return future
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a forked child would inherit torch's threads in any state
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context)
        return self._pool.submit(evaluate, study, parameters)

    def close(self) -> None:
        """End the processes; the next trial would start new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


@dataclass
class _Trials:
    """One Optuna study over a grid."""

    record: optuna.Study
    grid: dict[str, list[Any]]
    fixed: dict[str, Any]
    folder: Path

    def take_up(self) -> int:
        """Queue every point that is not finished, those that a killed process left running too; how many there are.

        The points are queued because Optuna's own grid sampler ends a study by an exception when it is asked from
        outside, and counts a trial that was killed as done. Points that a killed process left queued stay queued.
        """
        for trial in self.record.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.record.tell(trial.number, state=TrialState.FAIL)
        waiting = self.record.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        queued = [trial.system_attrs["fixed_params"] for trial in waiting]
        done = [trial.params for trial in self.finished()]
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        todo = [point for point in points if point not in done]
        for point in todo:
            if point not in queued:
                self.record.enqueue_trial(point)
        return len(todo)

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        trial = self.record.ask()
        return trial, {**self.fixed, **{k: trial.suggest_categorical(k, v) for k, v in self.grid.items()}}

    def tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Remember an outcome; one without a value (it diverged) is a failed trial with a note."""
        self.folder.mkdir(parents=True, exist_ok=True)
        outcome.scores.to_parquet(self._file(trial.number), index=False)
        trial.set_user_attr("folds", list(outcome.folds))
        trial.set_user_attr("note", outcome.note)  # last: a failed trial with a note is taken for finished
        if outcome.note:
            self.record.tell(trial, state=TrialState.FAIL)
        else:
            self.record.tell(trial, outcome.value)

    def finished(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that ended, by a value or by diverging, in the order of their parameters (not of their ends).

        A trial that was killed is failed too, but has no note.
        """
        ended = self.record.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        done = [trial for trial in ended if trial.state == TrialState.COMPLETE or trial.user_attrs.get("note")]
        return sorted(done, key=lambda t: [self.grid[k].index(t.params[k]) for k in self.grid])

    def best(self) -> optuna.trial.FrozenTrial:
        """The highest value; of equals the first in the grid. One without a value only where all diverged."""
        return max(self.finished(), key=_rank)

    def scores(self, trial: optuna.trial.FrozenTrial) -> pd.DataFrame:
        return pd.read_parquet(self._file(trial.number))

    def rows(self, scope: str, phase: str) -> pd.DataFrame:
        rows = [{"scope": scope, "phase": phase, **self.fixed, **t.params,
                 "value": float("nan") if t.value is None else t.value,
                 "folds": ", ".join(f"{v:.3f}" for v in t.user_attrs["folds"]), "note": t.user_attrs["note"]}
                for t in self.finished()]  # fmt: skip
        return pd.DataFrame(rows)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.parquet"


def select(searcher: Searcher, study: Study, space: Space, scope: str, *, range_tiles: int = 64) -> Selection:
    """The whole protocol on one set of folds.

    Parameters
    ----------
    scope : name of the patients it may see ("flat", or an outer fold); names the studies and the rows of the trace

    Raises CohortError: no trial gave a value. ParameterError: the space holds one loss twice: under a softmax head
    "weighted_bce" is "bce".
    """
    if study.network.head == "softmax" and "weighted_bce" in space.loss:
        raise ParameterError("A softmax head takes cross-entropy or its focal form, so a trial would be repeated",
                             got="loss weighted_bce", fix="Leave weighted_bce out of the losses")  # fmt: skip
    fold = int(study.splits["fold"].min())
    parts = fold_parts(study.tiles, study.targets, study.splits, fold, study.use)
    network, recipe = configured(study, {})
    store = open_store(study, fold)
    with torch_threads(study.threads):
        ranges = range_test(store, parts["train"], network, recipe, seed=study.seed, tiles=range_tiles)
    top = ranges.threshold
    start = {"learning_rate": _rounded(_START * top), "weight_decay": study.recipe.weight_decay}
    first = searcher.grid(study, f"{scope}-grid", space.grid(), start)
    shape = {**first.best().params}
    coarse = {"learning_rate": [_rounded(share * top) for share in space.coarse], "weight_decay": list(space.decays)}
    second = searcher.grid(study, f"{scope}-coarse", coarse, shape)
    centre = second.best().params
    fine = {key: [_rounded(centre[key] * factor) for factor in space.fine] for key in centre}
    third = searcher.grid(study, f"{scope}-fine", fine, shape)
    phases = {"grid": first, "coarse": second, "fine": third}
    trace = pd.concat([trials.rows(scope, phase) for phase, trials in phases.items()], ignore_index=True)
    winner = max(phases.values(), key=lambda trials: _rank(trials.best()))
    best = winner.best()
    if best.value is None:
        raise CohortError(f"Every trial of the search over {scope} diverged", got=best.user_attrs["note"],
                          fix="Lower the shares of the learning rate")  # fmt: skip
    return Selection({**winner.fixed, **best.params}, best.value, winner.scores(best), trace, ranges)


def nested(
    searcher: Searcher, study: Study, space: Space, inner: Mapping[int, pd.DataFrame], *, range_tiles: int = 64
) -> tuple[Outcome, dict[int, Selection]]:
    """Select inside each outer fold's training patients, train the choice on them, score the held-out patients.

    Parameters
    ----------
    study : its `splits` are the outer folds
    inner : outer fold → splits of its training patients

    Returns Outcome over the outer folds, and what each chose.

    Raises ParameterError: inner folds contain a patient that the outer fold tests. ModelError: the choice of an outer
    fold diverged on all of its training patients.
    """
    values, rows, chosen = [], [], {}
    for fold, own in inner.items():
        outer = study.splits[study.splits["fold"] == fold]
        if leaked := set(own["unit_id"]) & set(outer.loc[outer["role"] == "test", "unit_id"]):
            raise ParameterError(f"Inner folds of outer fold {fold} hold {len(leaked)} of its test patients")
        inside = replace(study, splits=own, stores={int(f): study.stores[fold] for f in own["fold"].unique()})
        chosen[fold] = select(searcher, inside, space, f"outer-{fold}", range_tiles=range_tiles)
        trials = searcher.grid(replace(study, splits=outer), f"outer-{fold}-test", {"epochs": [study.recipe.epochs]},
                               chosen[fold].parameters)  # fmt: skip
        best = trials.best()
        if best.value is None:
            raise ModelError(f"What outer fold {fold} chose diverged when trained on all of its training patients",
                             got=best.user_attrs["note"], fix="Lower the shares of the learning rate")  # fmt: skip
        values.append(best.value)
        rows.append(trials.scores(best))
    return Outcome(float(np.mean(values)), tuple(values), pd.concat(rows, ignore_index=True)), chosen


def _rank(trial: optuna.trial.FrozenTrial) -> float:
    """To choose by: a trial that diverged is below every AUC, also below 0."""
    return -1.0 if trial.value is None else trial.value


def _rounded(value: float) -> float:
    """Two significant digits: enough to choose by, and short enough to read."""
    return float(f"{value:.2g}")


def _told(parameters: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in parameters.items())


def _digest(study: Study, grid: Mapping[str, Any], fixed: Mapping[str, Any]) -> str:
    """Identifies data, folds, recipe and grid: a search over anything else is another study."""
    facts = {"splits": study.splits[["fold", "unit_id", "role"]].to_csv(index=False), "use": study.use.tolist(),
             "stores": {str(f): open_store(study, f).fingerprint() for f in sorted(set(study.splits["fold"].tolist()))},
             "targets": np.nan_to_num(study.targets, nan=-1).tolist(), "network": repr(study.network),
             "recipe": repr(study.recipe), "seed": study.seed, "threads": study.threads,
             "grid": dict(grid), "fixed": dict(fixed)}  # fmt: skip
    return sha256_text(to_json(facts))[:12]


@dataclass(frozen=True)
class Study:
    """What all trials of one search share; small enough to be sent to another process.

    Attributes
    ----------
    stores : fold → folder of that fold's tiles
    tiles : tile_id, slide_id, patient_id of the selected tiles, in the stores' order
    targets : float32 (n_tiles, T)
    splits : columns fold, unit_id, role: the folds that this search is judged by
    use : bool (n_tiles,): tiles that take part
    network, recipe : what a trial starts from; its parameters replace some fields
    seed, threads : of every trial, so that the number of workers changes nothing
    """

    stores: Mapping[int, Path]
    tiles: pd.DataFrame
    targets: NDArray[np.float32]
    splits: pd.DataFrame
    use: NDArray[np.bool_]
    network: NetworkConfig
    recipe: TrainConfig
    seed: int
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes
    ----------
    value : mean over folds and targets of the patient-level AUC on held-out patients; NaN where none can be had
    folds : the same per fold
    scores : patient_id, gene, fold, score: held-out patients, mean over their tiles; null for a gene that the fold
        could not learn
    note : why there is no value ("" when there is one)
    """

    value: float
    folds: tuple[float, ...]
    scores: pd.DataFrame = field(repr=False)
    note: str = ""


def configured(study: Study, parameters: Mapping[str, Any]) -> tuple[NetworkConfig, TrainConfig]:
    """Network and recipe of a trial: fields of either, by name."""
    names = set(NetworkConfig.__dataclass_fields__)
    network = replace(study.network, **{k: v for k, v in parameters.items() if k in names})
    return network, replace(study.recipe, **{k: v for k, v in parameters.items() if k not in names})


def evaluate(study: Study, parameters: Mapping[str, Any]) -> Outcome:
    """Train and score the study's folds with these parameters; a run that diverges has no value, and says so."""
    network, recipe = configured(study, parameters)
    try:
        with torch_threads(study.threads):
            parts = [_one_fold(study, network, recipe, f) for f in sorted(study.splits["fold"].unique().tolist())]
    except ModelError as error:
        return Outcome(float("nan"), (), pd.DataFrame(columns=["patient_id", "gene", "fold", "score"]), str(error))
    values = tuple(value for value, _ in parts)
    return Outcome(float(np.mean(values)), values, pd.concat([rows for _, rows in parts], ignore_index=True))


@lru_cache(maxsize=4)
def _store(folder: Path, tiles: tuple[tuple[str, str], ...]) -> TileStore:
    return TileStore(folder, pd.DataFrame(tiles, columns=["tile_id", "slide_id"]))


def open_store(study: Study, fold: int) -> TileStore:
    """The tiles of a fold; kept open between the trials of a process."""
    names = study.tiles[["tile_id", "slide_id"]].itertuples(index=False, name=None)
    return _store(study.stores[fold], tuple(names))


def _one_fold(study: Study, network: NetworkConfig, recipe: TrainConfig, fold: int) -> tuple[float, pd.DataFrame]:
    parts = fold_parts(study.tiles, study.targets, study.splits, fold, study.use)
    store = open_store(study, fold)
    trained = train_fold(store, parts["train"], network, recipe, seed=study.seed, fold=fold, report=lambda _: None)
    at = parts["test"].indices
    scores = score_arrays(trained.model, lambda i: store.read(at[list(i)]), len(at), precision=recipe.precision)
    usable = trainable_targets(parts["train"].targets)
    if not np.isfinite(scores).all():
        raise ModelError(f"The network of fold {fold} gives scores that are not finite")
    rows = patient_scores(parts["test"], scores, network.targets, fold, usable)
    return macro_auc(parts["test"], scores, usable, fold), rows


def patient_scores(
    part: Part, scores: NDArray[np.float32], genes: tuple[str, ...], fold: int, usable: NDArray[np.bool_]
) -> pd.DataFrame:
    """patient_id, gene, fold, score: the mean over each patient's tiles, null for genes that are not `usable`."""
    frame = pd.DataFrame(np.where(usable, scores.astype(np.float64), np.nan), columns=list(genes))
    mean = frame.groupby(np.asarray(part.patients)).mean()
    rows = mean.rename_axis("patient_id").reset_index().melt("patient_id", var_name="gene", value_name="score")
    return rows.assign(fold=fold)


def macro_auc(part: Part, scores: NDArray[np.float32], usable: NDArray[np.bool_], fold: int) -> float:
    """Mean patient-level AUC over the targets that were learned and have both classes here.

    Raises CohortError: there is no such target.
    """
    mean, truth = patient_means(scores, part.targets, part.patients)
    found = []
    for column in np.flatnonzero(usable):
        known = ~np.isnan(truth[:, column])
        if len(np.unique(truth[known, column])) == 2:
            found.append(roc_auc_score(truth[known, column], mean[known, column]))
    if not found:
        raise SmallCohortError(f"No target has both classes on both sides of fold {fold}, so trials cannot be compared",
                          fix="Search over commoner genes, or give more patients")  # fmt: skip
    return float(np.mean(found))
