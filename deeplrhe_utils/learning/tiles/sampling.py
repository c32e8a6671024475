"""Which tile is shown when: a pure function of seed, fold and epoch, so that a run resumes where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError

BALANCES: Final = ("none", "patient", "class")


def epoch_order(
    random: np.random.Generator,
    targets: NDArray[np.float32],
    patients: Sequence[str] | None = None,
    *,
    balance: str = "none",
    tiles_per_patient: int = 0,
) -> NDArray[np.int64]:
    """Positions of the tiles of one epoch, in order.

    Parameters
    ----------
    targets : float32, (n, T): labels of the training tiles: 1, 0 or NaN
    patients : sequence of n names: whose tile each is; needed for "patient"
    balance : "none": every tile once. "patient": `tiles_per_patient` of each patient, so that nobody is louder for a
        larger slide; who has fewer repeats some. "class": as many draws as tiles, with replacement; where exactly one
        target holds in every row, each is drawn as often; else a tile's weight is the mean over its known targets of
        the inverse frequency of its class, which makes rare positives more frequent, not half of all.

    Returns int64, (m,).
    """
    if balance == "none":
        return random.permutation(len(targets))
    if balance == "class":
        return random.choice(len(targets), len(targets), p=_class_share(targets))
    if balance != "patient" or patients is None or tiles_per_patient < 1:
        raise ParameterError("Balancing cannot be done", got=f"{balance}, {tiles_per_patient} tiles per patient",
                             expected="none, class, or patient with tiles_per_patient of 1 or more")  # fmt: skip
    names = np.asarray(patients)
    chosen = [_some(np.flatnonzero(names == name), tiles_per_patient, random) for name in np.unique(names)]
    return random.permutation(np.concatenate(chosen))


def _some(of: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `of`: all different while there are enough, else each as often as the others, give or take one."""
    rounds = [random.permutation(of) for _ in range(-(-count // len(of)))]
    return np.concatenate(rounds)[:count]


def _class_share(targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability of each tile (n,): the mean over its known targets of 1 / (tiles of the same class)."""
    share = np.zeros(len(targets))
    if targets.shape[1] > 1 and not np.isnan(targets).any() and (targets.sum(1) == 1).all():
        share = (targets / np.maximum(targets.sum(0), 1)).sum(1).astype(np.float64)
        return share / share.sum()
    for column in targets.T:
        for value in (0.0, 1.0):
            same = column == value
            share[same] += 1.0 / max(1, int(same.sum()))
    if not share.any():
        raise ParameterError("No tile has a known label, so classes cannot be balanced")
    return share / share.sum()


def steps_of(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """The epoch cut into steps of nearly equal size, as near to `batch_size` as whole steps allow."""
    return np.array_split(order, steps_in(len(order), batch_size))


def steps_in(count: int, batch_size: int) -> int:
    """Number of steps in an epoch of `count` tiles."""
    return max(1, round(count / batch_size))


def epoch_size(patients: Sequence[str] | None, count: int, balance: str, tiles_per_patient: int) -> int:
    """Tiles shown per epoch by :func:`epoch_order`."""
    return len(set(patients or ())) * tiles_per_patient if balance == "patient" else count
