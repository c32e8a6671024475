"""Where a network's last feature map lies on a tile: which layer it is, and where its cells are centred.

A cell of a feature map is centred on its receptive field, not on an even share of the tile: after four padded
convolutions of stride 2, cell i of 16 sees pixels around 16 · i, and spreading the map evenly would move it by
7.5 px to the right and down. The strides and paddings that ran are followed instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ModelError

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
                         fix="Use integrated gradients alone, or another architecture")  # fmt: skip
    layer, cells, count = found[-1]
    side = getattr(network, "side_px", None)
    return _place(layer, cells, steps[:count], _size(inputs), (side, side) if side else _size(inputs))


def _refuse(what: str) -> None:
    raise ModelError("Grad-CAM needs a convolutional feature map, and this network works on tokens", got=what,
                     expected="a convolutional network: deeplrhe, resnet18, inception_v3 …",
                     fix="Use integrated gradients alone")  # fmt: skip


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
