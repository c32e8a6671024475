"""A cross-fit's training in other processes: written to a folder, started by a command such as torchrun.

The processes train the folds' networks and nothing else; whoever started them finds the finished files and scores.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError, RunError
from deeplrhe_utils.core.files import atomic_path, read_json, sole, write_json
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.losses import trainable_targets
from deeplrhe_utils.learning.recipes.processes import Group
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.tiles.store import TileStore
from deeplrhe_utils.learning.training.fold import Job, fit_part
from deeplrhe_utils.learning.training.trainer import Part

ROLES: Final = ("train", "valid", "test")
HELD: Final = "DEEPLRHE_TRAINING_HELD"
"""In a process's environment: whoever started it holds the lock of the models' folder."""
TRAINING_FAILED: Final = "training failed: "
"""How a process that fails begins its last line: torchrun's own report, which follows, does not say why."""


def fold_parts(
    tiles: pd.DataFrame, targets: NDArray[np.float32], splits: pd.DataFrame, fold: int, use: NDArray[np.bool_] | None
) -> dict[str, Part]:
    """The tiles of each role ("train", "valid", "test") of one fold."""
    roles = splits[splits["fold"] == fold].set_index("unit_id")["role"]
    role = tiles["patient_id"].map(roles).fillna("none")
    role = role if use is None else role.where(use, "none")
    places = {name: np.flatnonzero(role == name) for name in ROLES}
    patients = tiles["patient_id"].astype(str).to_numpy()
    slides = {name: tiles["slide_id"].iloc[at].nunique() for name, at in places.items()}
    return {name: Part(at, targets[at], patients[at].tolist(), slides[name]) for name, at in places.items()}


def write_job(
    folder: Path,
    job: Job,
    stores: Mapping[int, TileStore],
    tiles: pd.DataFrame,
    targets: NDArray[np.float32],
    splits: pd.DataFrame,
    use: NDArray[np.bool_] | None,
) -> None:
    """Write a job so that :func:`train_job` finds everything in `folder`; models go beside it."""
    facts = {**asdict(job), "stores": {fold: str(store.folder.resolve()) for fold, store in stores.items()}}
    write_json(folder / "job.json", facts)
    with atomic_path(folder / "tiles.parquet") as part:
        tiles[["tile_id", "slide_id", "patient_id"]].to_parquet(part, index=False)
    with atomic_path(folder / "splits.parquet") as part:
        splits[["fold", "unit_id", "role"]].to_parquet(part, index=False)
    with atomic_path(folder / "targets.npy") as part, part.open("wb") as stream:
        np.save(stream, targets, allow_pickle=False)
    with atomic_path(folder / "use.npy") as part, part.open("wb") as stream:
        np.save(stream, np.ones(len(tiles), bool) if use is None else use, allow_pickle=False)


def train_job(folder: Path, group: Group, device: torch.device) -> None:
    """Train the folds of a written job in this group of processes.

    Raises InputError: `folder` holds no job.
    """
    if not (folder / "job.json").is_file():
        raise InputError(f"There is no training job in {folder}", fix="Run notebook 05 with its parameter launch")
    if group.first and HELD not in os.environ:
        with hold(folder.parent):
            return _train_job(folder, group, device)
    return _train_job(folder, group, device)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep others from training into `folder`.

    Raises RunError: another process does.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)  # the lock lies beside it, so that it is no part of the models
    with sole(
        folder.parent, f"Another process is training into {folder}", "give another folder", f".{folder.name}.lock"
    ):
        yield


def _train_job(folder: Path, group: Group, device: torch.device) -> None:
    facts = read_json(folder / "job.json")
    network = {**facts["network"], "targets": tuple(facts["network"]["targets"])}
    job = Job(NetworkConfig(**network), TrainConfig(**facts["recipe"]), facts["seed"], facts["view"],
              {int(f): s for f, s in facts["stains"].items()}, str(device), facts["launch"])  # fmt: skip
    tiles, splits = pd.read_parquet(folder / "tiles.parquet"), pd.read_parquet(folder / "splits.parquet")
    targets = np.load(folder / "targets.npy", allow_pickle=False)
    use = np.load(folder / "use.npy", allow_pickle=False)
    for fold in sorted(splits["fold"].unique().tolist()):
        parts = fold_parts(tiles, targets, splits, fold, use)
        if trainable_targets(parts["train"].targets).any():
            store = TileStore(Path(facts["stores"][str(fold)]), tiles)
            fit_part(job, store, parts, folder.parent / f"fold-{fold}.safetensors", fold, group=group)


def _pass_on(process: subprocess.Popen[str], last: deque[str], quiet: bool) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        last.append(line)
        if not quiet and line.startswith("fold "):
            print(line, end="", flush=True)


def run_elsewhere(launch: str, folder: Path, *, quiet: bool = False) -> None:
    """Start the job's processes and wait for them, passing on their lines.

    Parameters
    ----------
    launch : ``torchrun …``, alone or behind ``srun`` or ``mpirun``. It is run without a shell; a leading ``torchrun``
        is this Python's.

    Raises RunError: the command does not exist, or ended with an error.
    """
    words = shlex.split(launch)
    if "torchrun" not in words:
        raise ParameterError("Parameter launch does not name torchrun", got=launch,
                             expected="for example: torchrun --standalone --nproc-per-node 2")  # fmt: skip
    at = words.index("torchrun")
    start = [*words[:at], sys.executable, "-m", "torch.distributed.run", *words[at + 1 :]]
    command = [*start, "-m", "deeplrhe_utils.learning.training.worker", str(folder.resolve())]
    last: deque[str] = deque(maxlen=200)
    try:
        environment = {**os.environ, HELD: "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=environment) as process:  # fmt: skip
            try:
                _pass_on(process, last, quiet)
            except BaseException:
                process.terminate()  # torchrun passes it on, and the first process saves its state
                raise
    except OSError as error:
        raise RunError(f"The training processes cannot be started ({error})", got=launch) from error
    if process.returncode:
        said = [line.removeprefix(TRAINING_FAILED) for line in last if line.startswith(TRAINING_FAILED)]
        why = said[0].strip() if said else "the last lines were:\n" + "".join(last)
        raise RunError(f"The training processes ended with status {process.returncode}: {why}", got=launch,
                       fix="Mend that and run again: finished folds and the last saved state are kept")  # fmt: skip
