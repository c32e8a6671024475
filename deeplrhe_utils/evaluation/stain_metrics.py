"""What normalization did: agreement between slides, and structure kept within tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Tile = NDArray[np.uint8]
_C1: Final = (0.01 * 255) ** 2
_C2: Final = (0.03 * 255) ** 2


def mean_colours(colours: pd.DataFrame) -> pd.DataFrame:
    """Mean tissue colour per unit in 0–255 (unit, red, green, blue), from the optical densities of a survey."""
    import pandas as pd

    od = colours.dropna(subset=["od_red"])
    values = {name: 256 * np.exp(-od[f"od_{name}"].to_numpy(dtype=float)) - 1 for name in ("red", "green", "blue")}
    return pd.DataFrame({"unit": od["unit"].to_numpy(), **values})


def _grey(tile: Tile) -> NDArray[np.float32]:
    return np.asarray(tile, dtype=np.float32).mean(axis=2)


def _blur(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5), dtype=np.float32)


def ssim(first: Tile, second: Tile) -> float:
    """Mean structural similarity of the brightness of two uint8 RGB tiles (H, W, 3); 1 means equal.

    Source: Wang 2004, with its 11 × 11 Gaussian window, σ = 1.5.
    """
    a, b = _grey(first), _grey(second)
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b, cov = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2, _blur(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    return float((similarity / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean())


def structure(before: Sequence[Tile], after: Sequence[Tile]) -> dict[str, float]:
    """Mean Pearson correlation and SSIM of brightness over a unit's tiles; a constant tile counts as correlation 1
    when it stayed constant.
    """
    correlations, similarities = [], []
    for old, new in zip(before, after, strict=True):
        a, b = _grey(old), _grey(new)
        constant = a.std() == 0 or b.std() == 0
        correlations.append(float(a.std() == b.std()) if constant else float(np.corrcoef(a.ravel(), b.ravel())[0, 1]))
        similarities.append(ssim(old, new))
    return {"correlation": float(np.mean(correlations)), "ssim": float(np.mean(similarities))}
