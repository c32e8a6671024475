"""The paper's shortcut algebra, checked on the block that is trained."""

from __future__ import annotations

import torch
from torch import nn

from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.learning.models import ResidualBlock


def identity_gap(channels: int = 32, side_px: int = 16, seed: int = 0) -> float:
    """How far a residual block is from the identity when its second convolution is zero.

    With W[l+2] = 0 and A[l+2] = 0 the paper's block is C[l+2] = σ(C[l]) = C[l] for C[l] ≥ 0.

    Parameters
    ----------
    channels, side_px : of the input, whose values are random and not negative

    Returns float: largest absolute difference between input and output, with and without batch normalization: 0 if the
    algebra holds. Source: Yang 2021, *Residual Network*, with the printed indices put right.
    """
    random = torch.Generator().manual_seed(integer_seed(seed, "identity"))
    x = torch.rand((2, channels, side_px, side_px), generator=random)
    gap = 0.0
    for batch_norm in (True, False):
        block = ResidualBlock(channels, channels, 1, residual=True, batch_norm=batch_norm).eval()
        for module in (block.second, block.norm2):
            for weight in module.parameters():
                nn.init.zeros_(weight)
        with torch.no_grad():
            gap = max(gap, float((block(x) - x).abs().max()))
    return gap
