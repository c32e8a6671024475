"""A network that is asked for the gradients of one target, on a copy of its own."""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from deeplrhe_utils.core.errors import InputError, ModelError
from deeplrhe_utils.learning.attribution_places import FeatureMap, find_feature_map
from deeplrhe_utils.learning.models import TileNetwork
from deeplrhe_utils.learning.scoring import ready

LEAST_PX: Final = 32
"""Smallest side of a tile that the networks take [px]."""


class Probe:
    """A network made ready to be asked for the gradients of one target.

    Parameters
    ----------
    network : copied unless `own`
    own : the network may be changed: it goes to evaluation mode and its weights ask for no gradients

    Raises ModelError: the target is unknown, a weight is not finite, or a softmax over one class has nothing to
    explain.
    """

    def __init__(self, network: TileNetwork, target: str, own: bool = False) -> None:
        names = network.config.targets
        if target not in names:
            raise ModelError("The network does not score this target", got=target, expected=" | ".join(names))
        if network.config.head == "softmax" and len(names) < 2:
            raise ModelError("A softmax over one class is always 1: there is nothing to explain", got=target)
        for name, tensor in network.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"The weights {name} are not finite", fix="Train again, or give another model file")
        self.target, self.index = target, names.index(target)
        self.device = next(network.parameters()).device
        self.network = ready(network if own else copy.deepcopy(network), str(self.device)).requires_grad_(False)
        self._maps: dict[tuple[int, ...], FeatureMap] = {}

    def like(self, network: TileNetwork) -> Probe:
        """A probe of a network of the same layers, on the same device, which may be changed."""
        probe = Probe(network, self.target, own=True)
        probe._maps = self._maps
        return probe

    def log_odds(self, logits: Tensor) -> Tensor:
        """Log-odds (N,) of the target's probability, of logits (N, T)."""
        own = logits[:, self.index]
        if self.network.config.head == "sigmoid":
            return own
        others = [i for i in range(logits.shape[1]) if i != self.index]
        return own - logits[:, others].logsumexp(1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Log-odds (N,) of inputs (N, 3, H, W), without gradients."""
        with torch.no_grad():
            return self._finite(self.log_odds(self.network(inputs)))

    def gradients(self, inputs: Tensor) -> Tensor:
        """Gradient of the log-odds of each input with respect to it, of the inputs' shape."""
        leaf = inputs.detach().requires_grad_()
        logits = self._finite(self.log_odds(self.network(leaf)))
        if not logits.requires_grad:  # a network whose output does not depend on its input
            return torch.zeros_like(leaf)
        found = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0]
        return torch.zeros_like(leaf) if found is None else found

    def feature_map(self, inputs: Tensor) -> FeatureMap:
        """Where the last feature map lies on tiles of this size; looked for once per size."""
        shape = tuple(inputs.shape[2:])
        if shape not in self._maps:
            self._maps[shape] = find_feature_map(self.network, inputs[:1])
        return self._maps[shape]

    def activations(self, inputs: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """Feature map of one input (C, rows, columns) at `layer`, and the log-odds' gradient with respect to it."""
        kept: list[Tensor] = []

        def cut(_: Any, __: Any, output: Tensor) -> Tensor:
            kept[:] = [output.detach().requires_grad_()]
            return kept[0].clone()  # later layers may work in place

        hook = self.network.get_submodule(layer).register_forward_hook(cut)
        try:
            logit = self._finite(self.log_odds(self.network(inputs)))
        finally:
            hook.remove()
        slope = torch.autograd.grad(logit.sum(), kept[0], allow_unused=True)[0] if logit.requires_grad else None
        return kept[0].detach()[0], torch.zeros_like(kept[0])[0] if slope is None else slope[0]

    def _finite(self, logits: Tensor) -> Tensor:
        if not bool(torch.isfinite(logits).all()):
            raise ModelError("The network's output is not finite", got=logits.detach().flatten()[:3].tolist(),
                             fix="Its weights are too large for float32: train again")  # fmt: skip
        return logits


def check_picture(tile: Any, name: str = "The tile") -> None:
    """Raise :class:`InputError` unless `tile` is a uint8 RGB picture (h, w, 3) with sides of 32 px or more."""
    shape: tuple[int, ...] = getattr(tile, "shape", ())
    kind = getattr(tile, "dtype", type(tile).__name__)
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < LEAST_PX:
        raise InputError(f"{name} cannot be explained", got=f"{kind}, shape {tuple(shape)}",
                         expected=f"uint8, shape (h, w, 3), sides of {LEAST_PX} px or more",
                         fix="Give tiles as the tile store holds them")  # fmt: skip
