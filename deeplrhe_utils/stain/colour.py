"""Optical density and the hue–saturation–density space (HSD, van der Laak 2000).

All functions take NumPy arrays or torch tensors with the channel as the *last* axis and return the
same kind. Density is the mean optical density of the three channels; ``cx`` and ``cy`` carry hue and
saturation and do not change when a stain is merely thicker, which is why a mixture in HSD separates
stain *type* from stain *amount*.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, Final

import numpy as np

CHROMA_EPSILON: Final = 0.03
"""Added to the density before dividing: pure white gets chroma 0 instead of the red corner of the triangle."""
SQRT3: Final = sqrt(3.0)
GLASS_DENSITY: Final = 0.10
"""Optical density at which a pixel is half glass, half tissue; methods leave what is paler alone."""
GLASS_SOFTNESS: Final = 0.015
GAP_LEVELS: Final = 32.0
"""Grey levels below the glass, in the darkest channel, at which a pixel is half gap, half tissue."""
GAP_SOFTNESS: Final = 6.0


def _log(values: Any) -> Any:
    return values.log() if hasattr(values, "log") else np.log(values)


def _exp(values: Any) -> Any:
    return values.exp() if hasattr(values, "exp") else np.exp(values)


def _stack(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray | np.generic):  # the latter from a single colour, (3,)
        return np.stack(parts, axis=-1)
    import torch

    return torch.stack(list(parts), dim=-1)


def _float32(values: Any) -> Any:
    return values.astype(np.float32) if isinstance(values, np.ndarray) else values.float()


def optical_density(rgb: Any) -> Any:
    """Optical density −ln((v + 1) / 256) of 8-bit values.

    Parameters
    ----------
    rgb : uint8 array or tensor, (..., 3)

    Returns
    -------
    float32, same shape, in [0, 5.55]: 0 at 255, finite at 0. The offset of one grey level makes the
    8-bit round trip exact; the released DCGMM code maps 0 to a density of 36 instead.
    """
    return -_log((_float32(rgb) + 1.0) / 256.0)


def density_to_rgb(od: Any) -> Any:
    """8-bit values of an optical density (inverse of :func:`optical_density`), rounded and clipped to 0–255."""
    values = _exp(-od) * 256.0 - 1.0
    if isinstance(values, np.ndarray):
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    import torch

    return values.round().clamp(0, 255).to(torch.uint8)


def od_to_hsd(od: Any) -> Any:
    """(D, cx, cy) of an optical density.

    D = (R + G + B) / 3, cx = (R − D) / (D + ε), cy = (G − B) / (√3 (D + ε)), with ε = 0.03.

    Parameters
    ----------
    od : float array or tensor, (..., 3)

    Returns
    -------
    float, (..., 3): density, then the two chroma coordinates, which lie in van der Laak's triangle where no channel
    is brighter than white.
    """
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    density = (red + green + blue) / 3.0
    scale = density + CHROMA_EPSILON
    return _stack([density, (red - density) / scale, (green - blue) / (SQRT3 * scale)])
