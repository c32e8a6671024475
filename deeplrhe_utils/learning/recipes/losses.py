"""Losses that ignore unknown labels, and whose mean is taken over a whole step however it is divided.

Source: DeepLRHE, "Adjustment of Hyperparameters", tunes the loss function without naming candidates; ours are
cross-entropy, class-weighted cross-entropy and focal loss (Lin 2017). Label smoothing 0.1 and the weight 0.4 of the
auxiliary head are DeepPATH's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deeplrhe_utils.core.errors import LabelError, ParameterError

LOSSES: Final = ("bce", "weighted_bce", "focal")
_GAMMA: Final = 2.0  # exponent of the focal loss


def trainable_targets(targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which columns of (n, T) labels (1, 0, NaN) hold both classes, so that a fold can learn them."""
    return np.asarray((np.nansum(targets == 1, axis=0) > 0) & (np.nansum(targets == 0, axis=0) > 0))


@dataclass(frozen=True)
class Loss:
    """Sum of a batch's losses; divide by :meth:`weight` of the whole step for its mean.

    Attributes
    ----------
    kind : "bce", "weighted_bce" (positives weighted by negatives / positives) or "focal"; softmax heads always take
        cross-entropy, with "focal" its focal form
    head : "sigmoid" or "softmax"
    usable : bool (T,): targets with both classes in training; others add nothing
    positive_weight : float32 (T,)
    smoothing : share of the label that is spread evenly over the classes (sigmoid: towards 0.5)
    """

    kind: str
    head: str
    usable: Tensor
    positive_weight: Tensor
    smoothing: float = 0.0

    def known(self, targets: Tensor) -> Tensor:
        """Bool (n, T): labels that take part."""
        return ~targets.isnan() & self.usable

    def weight(self, targets: Tensor) -> float:
        """How many terms the mean of a step is taken over: tiles (softmax) or known labels (sigmoid), at least 1."""
        return float(len(targets)) if self.head == "softmax" else max(1.0, float(self.known(targets).sum()))

    def sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar float32: sum over the batch's known labels; logits and targets are (n, T)."""
        logits = logits.float()
        if self.head == "softmax":
            return self._softmax(logits, targets)
        truth = targets.nan_to_num(0.0)
        goal = truth * (1 - self.smoothing) + 0.5 * self.smoothing
        weight = self.positive_weight if self.kind == "weighted_bce" else None
        raw = F.binary_cross_entropy_with_logits(logits, goal, pos_weight=weight, reduction="none")
        if self.kind == "focal":
            probability = logits.sigmoid()
            raw = raw * (truth * (1 - probability) + (1 - truth) * probability) ** _GAMMA
        return (raw * self.known(targets)).sum()

    def _softmax(self, logits: Tensor, targets: Tensor) -> Tensor:
        truth = targets.argmax(1)
        raw = F.cross_entropy(logits, truth, label_smoothing=self.smoothing, reduction="none")
        if self.kind == "focal":
            raw = raw * (1 - logits.softmax(1).gather(1, truth[:, None])[:, 0]) ** _GAMMA
        return raw.sum()


def make_loss(kind: str, head: str, targets: NDArray[np.float32], *, ceiling: float, smoothing: float = 0.0) -> Loss:
    """The loss for a fold's training labels (n, T) of 1, 0 and NaN.

    Parameters
    ----------
    ceiling : largest class weight of "weighted_bce". Uncapped, the rarest gene, which teaches least, is the loudest.
    """
    if head == "softmax":
        _check_classes(kind, targets)
    positive, negative = np.nansum(targets == 1, axis=0), np.nansum(targets == 0, axis=0)
    weight = np.clip(negative / np.maximum(positive, 1), 1.0, ceiling).astype(np.float32)
    usable = torch.from_numpy(trainable_targets(targets))
    return Loss(kind, head, usable, torch.from_numpy(weight), smoothing)


def _check_classes(kind: str, targets: NDArray[np.float32]) -> None:
    if kind == "weighted_bce":
        raise ParameterError("A softmax head has no positives to weigh", got=kind, expected="bce or focal")
    wrong = np.flatnonzero(~(np.nansum(targets, axis=1) == 1) | np.isnan(targets).any(axis=1))
    if len(wrong):
        raise LabelError(f"{len(wrong)} of {len(targets)} training tiles do not have exactly one class",
                         got=targets[wrong[0]].tolist(), expected="one 1 and zeros, nothing missing",
                         fix="Complete the labels, or set head to sigmoid")  # fmt: skip


def on_device(loss: Loss, device: torch.device) -> Loss:
    """The same loss with its tensors on `device`."""
    return replace(loss, usable=loss.usable.to(device), positive_weight=loss.positive_weight.to(device))
