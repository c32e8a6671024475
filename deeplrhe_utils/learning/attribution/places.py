"""Where a network's last feature map lies on a tile: which layer it is, and where its cells are centred.

A cell of a feature map is centred on its receptive field, not on an even share of the tile: after four padded
convolutions of stride 2, cell i of 16 sees pixels around 16 · i, and spreading the map evenly would move it by
7.5 px to the right and down. The strides and paddings that ran are followed instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplrhe_utils.core.errors import InputError, ModelError
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork
from deeplrhe_utils.learning.recipes.scoring import ready_network

FOLLOWED: Final = "centres of the receptive fields"
EVEN: Final = "evenly, because the strides could not be followed: may be shifted by up to half a cell"
_SLIDING: Final = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class FeatureMap:
    """The last feature map of a network, for tiles of one size.

    Attributes
    ----------
    layer : name of the module that gives it
    cells : (rows, columns)
    centres_y, centres_x : pixel of the tile that each row and column is centred on, float64 [tile px, from 0]
    placed : how the centres were found
    """

    layer: str
    cells: tuple[int, int]
    centres_y: NDArray[np.float64]
    centres_x: NDArray[np.float64]
    placed: str

    def spread(self, values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Values of the cells (rows, columns) on the tile's pixels (height, width): linear between centres."""
        down, across = _weights(self.centres_y, height), _weights(self.centres_x, width)
        return (down @ values.astype(np.float64) @ across.T).astype(np.float32)


@dataclass
class _Step:
    """A layer that slides over a map, as it ran: sizes (rows, columns) before and after."""

    before: tuple[int, int]
    after: tuple[int, int]
    layer: Any


def find_feature_map(network: nn.Module, inputs: Tensor) -> FeatureMap:
    """The last module whose output has rows and columns (more than one of each).

    Parameters
    ----------
    network : in evaluation mode. Its ``side_px``, if it has one, is the side that it resizes tiles to.
    inputs : float (1, 3, H, W) in [0, 1]: one tile; the map may lie elsewhere for tiles of another size

    Raises ModelError: the network works on tokens (a transformer or mixer) or never has such a map.
    """
    if name := next((type(m).__name__ for m in network.modules() if "attention" in type(m).__name__.lower()), ""):
        _refuse(name)
    steps: list[_Step] = []
    found: list[tuple[str, tuple[int, int], int]] = []
    tokens: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def saw(layer: nn.Module, given: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or isinstance(layer, nn.AdaptiveAvgPool2d):
                return  # adaptive pooling is a summary of the map, not the map
            if isinstance(layer, _SLIDING):
                steps.append(_Step(_size(given[0]), _size(output), layer))
            if output.ndim == 4 and min(output.shape[2:]) > 1:
                found.append((name, _size(output), len(steps)))
                tokens.clear()
            elif output.ndim == 3:
                tokens.append(type(layer).__name__)

        return saw

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if tokens:
        _refuse(tokens[0])
    if not found:
        raise ModelError("Grad-CAM needs a convolutional feature map, and this network has none",
                         fix="Set attribution_tiles to 0, or take another architecture")  # fmt: skip
    layer, cells, count = found[-1]
    side = getattr(network, "side_px", None)
    return _place(layer, cells, steps[:count], _size(inputs), (side, side) if side else _size(inputs))


def _refuse(what: str) -> None:
    raise ModelError("Grad-CAM needs a convolutional feature map, and this network works on tokens", got=what,
                     expected="a convolutional network: deeplrhe, resnet18, inception_v3 …",
                     fix="Set attribution_tiles to 0, or take one of these")  # fmt: skip


def _size(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])


def _place(
    layer: str, cells: tuple[int, int], steps: list[_Step], tile: tuple[int, int], seen: tuple[int, int]
) -> FeatureMap:
    axes = [_centres(seen[i], cells[i], steps, i) for i in (0, 1)]
    followed = all(axis is not None for axis in axes)
    centres = [axis if axis is not None and followed else _even(seen[i], cells[i]) for i, axis in enumerate(axes)]
    y, x = ((centres[i] + 0.5) * tile[i] / seen[i] - 0.5 for i in (0, 1))
    return FeatureMap(layer, cells, y, x, FOLLOWED if followed else EVEN)


def _centres(size: int, cells: int, steps: list[_Step], axis: int) -> NDArray[np.float64] | None:
    """Centres [px that the network sees]; None when the layers seen do not explain the size of the map.

    Of parallel branches, which end in maps of one size, the first layer that leaves the present size is followed.
    """
    jump, offset = 1.0, 0.0
    for step in steps:
        if step.before[axis] == size != step.after[axis]:
            side, stride, pad = _window(step, axis)
            offset += ((side - 1) / 2 - pad) * jump
            jump, size = jump * stride, step.after[axis]
    return np.asarray(offset + jump * np.arange(cells), np.float64) if size == cells else None


def _window(step: _Step, axis: int) -> tuple[int, int, int]:
    """Side of the window with its gaps, stride, and padding in front [px of the layer's input]."""
    kernel, stride, dilation = (_pair(getattr(step.layer, name, 1))[axis]
                                for name in ("kernel_size", "stride", "dilation"))  # fmt: skip
    side = (kernel - 1) * dilation + 1
    if type(step.layer).__name__.endswith("Same"):  # TensorFlow's padding, which timm adds when it runs
        return side, stride, max((step.after[axis] - 1) * stride + side - step.before[axis], 0) // 2
    pad = step.layer.padding
    return side, stride, 0 if isinstance(pad, str) else _pair(pad)[axis]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _even(size: int, cells: int) -> NDArray[np.float64]:
    return np.asarray((np.arange(cells) + 0.5) * size / cells - 0.5)


def _weights(centres: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Weight of each cell at each pixel, (size, cells); beyond the outer centres the outer cell's value goes on."""
    pixels = np.arange(size)
    return np.stack([np.interp(pixels, centres, one) for one in np.eye(len(centres))], axis=1)


_LEAST_PX: Final = 32
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
        self.network = ready_network(network if own else copy.deepcopy(network), str(self.device)).requires_grad_(False)
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
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < _LEAST_PX:
        raise InputError(f"{name} cannot be explained", got=f"{kind}, shape {tuple(shape)}",
                         expected=f"uint8, shape (h, w, 3), sides of {_LEAST_PX} px or more",
                         fix="Give tiles as the tile store holds them")  # fmt: skip
