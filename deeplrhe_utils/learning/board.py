"""Curves for TensorBoard, when it is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deeplrhe_utils.learning.trainer import Epoch


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
