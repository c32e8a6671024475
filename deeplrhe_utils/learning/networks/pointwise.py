"""Strided 1 × 1 convolutions of few channels, computed by another road, because oneDNN's own corrupts memory.

Seen in oneDNN 3.12.0 and 3.13.3 (PyTorch 2.13.0 and 2.15.0), github.com/uxlfoundation/oneDNN/issues/6035: for the
weights' gradient of a 1 × 1 convolution with a stride, without padding and in one group, the pixels that count are
collected in a workspace. With channels last in memory and fewer input channels than a kernel takes at once (8 with
AVX2, 16 with AVX-512, in float32 and bfloat16), the workspace is addressed as if the channels were filled up, and is
overrun: wrong gradients, a crash, an endless loop, or nothing that one sees. Only instruction sets before AVX2 are
free of it.

A 1 × 1 convolution with stride s is one with stride 1 on every s-th pixel, and that needs no workspace. So every such
layer takes this road, on every machine and device: results do not depend on the processor, and forward passes agree
to rounding. The guard can go when the oldest PyTorch that pyproject.toml allows is free of the fault; until then
``tests/unit/test_learning_dispatch.py`` fails without it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from torch import nn

CHANNELS_AT_ONCE: Final = 16  # of oneDNN's kernels with AVX-512; with AVX2 it is 8


def guard_pointwise(network: nn.Module) -> None:
    """Give each layer concerned a stride of 1 and every s-th pixel as its input; names and weights stay."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and _is_concerned(layer):
            layer.register_forward_pre_hook(partial(_every, stride=layer.stride))
            layer.stride = (1, 1)


def _is_concerned(layer: nn.Conv2d) -> bool:
    """Whether oneDNN may take the faulty road for this layer."""
    plain = layer.kernel_size == (1, 1) and layer.groups == 1 and layer.padding in ((0, 0), "valid")
    return plain and max(layer.stride) > 1 and layer.in_channels < CHANNELS_AT_ONCE


def _every(_: nn.Module, given: tuple[Any, ...], stride: tuple[int, ...]) -> tuple[Any, ...]:
    return (given[0][..., :: stride[0], :: stride[1]], *given[1:])
