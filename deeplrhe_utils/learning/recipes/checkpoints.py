"""The state of a training run, in one safetensors file: stopped at any step, it goes on as if it had not been.

Random draws are functions of seed, fold, epoch and step, so the counters are the state of the sampler and of all
random generators; the rest is weights, the optimiser's moments, the moving average and the best weights so far.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from deeplrhe_utils.core.errors import CompendiumError, ModelError
from deeplrhe_utils.core.files import atomic_path
from deeplrhe_utils.learning.networks.cards import read_file
from deeplrhe_utils.learning.recipes.processes import Group

_KIND: Final = "training-state"


@dataclass
class Progress:
    """Where a run is: counters and what was measured.

    Attributes
    ----------
    epoch, step : epochs finished, and steps finished in the one under way
    loss_sum, weight_sum : of the epoch under way
    history, valid : mean training loss per epoch; validation loss per epoch
    best_epoch : epoch (from 0) of the lowest validation loss; -1 before the first
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    history: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    best_epoch: int = -1


def save_state(
    file: Path,
    fingerprint: str,
    progress: Progress,
    tensors: Mapping[str, Mapping[str, Tensor]],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write the state atomically.

    Parameters
    ----------
    fingerprint : of data, labels, network and recipe; a state of another run is not resumed
    tensors : group → name → tensor: "model", and "ema" and "best" where there are any
    """
    flat = {f"{group}/{name}": tensor.contiguous().cpu() for group, part in tensors.items()
            for name, tensor in part.items()}  # fmt: skip
    scalars: dict[str, float] = {}
    for index, slots in optimiser.state_dict()["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                flat[f"optimiser/{index}/{name}"] = value.contiguous().cpu()
            elif value is not None:
                scalars[f"{index}/{name}"] = value
    card = {"kind": _KIND, "fingerprint": fingerprint, "progress": asdict(progress), "optimiser": scalars}
    with atomic_path(file) as part_file:
        part_file.write_bytes(save(flat, metadata={"card": json.dumps(card)}))


@dataclass(frozen=True)
class State:
    """What :func:`load_state` found: `tensors` by group, and the optimiser's slots by parameter number."""

    progress: Progress
    tensors: dict[str, dict[str, Tensor]]
    slots: dict[int, dict[str, Any]]

    def restore(self, optimiser: torch.optim.Optimizer) -> None:
        """Put the slots back; what the recipe fixes (rates, groups) stays the optimiser's own."""
        whole = optimiser.state_dict()
        optimiser.load_state_dict({"state": self.slots, "param_groups": whole["param_groups"]})


def load_state(file: Path, fingerprint: str) -> State | None:
    """The state to go on from, or None: there is none, it is of another run, or it cannot be read."""
    try:
        card, flat = read_file(file, "state of training", _KIND, "pt")
    except ModelError:
        return None
    if card.get("fingerprint") != fingerprint:
        return None
    tensors: dict[str, dict[str, Tensor]] = {}
    slots: dict[int, dict[str, Any]] = {}
    for key, tensor in flat.items():
        group, _, name = key.partition("/")
        if group == "optimiser":
            index, _, slot = name.partition("/")
            slots.setdefault(int(index), {})[slot] = tensor
        else:
            tensors.setdefault(group, {})[name] = tensor
    for key, value in card["optimiser"].items():
        index, _, slot = key.partition("/")
        slots.setdefault(int(index), {})[slot] = value
    return State(Progress(**card["progress"]), tensors, slots)


class Stop(CompendiumError):
    """Training was told to end, and saved its state."""


_CAME: Final = threading.Event()


@contextmanager
def stop_signal(wanted: bool, group: Group) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; the former handler is put back afterwards.

    Only the first process of a group listens. The others ignore the signal: were they to leave, the first would wait
    for them in the middle of a step that it then cannot save.
    """
    if not wanted:
        yield lambda: False
        return
    if threading.current_thread() is not threading.main_thread():
        yield _CAME.is_set  # the main thread listens for all
        return
    _CAME.clear()

    def note(_number: int, _frame: Any) -> None:
        _CAME.set()

    former = signal.signal(signal.SIGTERM, note if group.first else signal.SIG_IGN)
    try:
        yield _CAME.is_set
    except BaseException:
        _CAME.set()  # an interrupt, or a fold that failed: those beside it save their state and leave, too
        raise
    finally:
        signal.signal(signal.SIGTERM, former)
