"""Heat maps: tile scores written to the pixels they came from, registered to level 0.

Source: DeepLRHE section "Heat Map Generation": scan with a 512 × 512 window, write the window's result to its
pixels, average where windows overlap, red for high and blue for low. Without overlap the average changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

PALETTES = {"paper": "RdBu_r", "perceptual": "viridis"}


def accumulate(
    tiles: pd.DataFrame, scores: NDArray[np.float64], width_l0_px: int, height_l0_px: int, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Mean score of the windows that cover each pixel of a map.

    Parameters
    ----------
    tiles : DataFrame
        Columns x_l0_px, y_l0_px, size_l0_px: the windows [level-0 px].
    scores : (n,)
        One score per window; NaN windows are left out.
    width_l0_px, height_l0_px : int
        The slide [level-0 px].
    shape : (height, width)
        The map [px]; it spans the whole slide.

    Returns
    -------
    float64 (height, width), NaN where nothing was measured. A map pixel takes a window's score when its
    centre lies inside the window, so the map is never displaced by more than half a map pixel.
    """
    height, width = shape
    total, count = np.zeros(shape), np.zeros(shape)
    step_x, step_y = width_l0_px / width, height_l0_px / height
    for x, y, size, score in zip(tiles["x_l0_px"], tiles["y_l0_px"], tiles["size_l0_px"], scores, strict=True):
        if np.isnan(score):
            continue
        if x < 0 or y < 0 or x + size > width_l0_px + 1 or y + size > height_l0_px + 1:
            raise InputError("A scored window lies outside its slide", got=f"x={x}, y={y}, size={size} level-0 px",
                             expected=f"inside {width_l0_px} × {height_l0_px}")  # fmt: skip
        rows = slice(_first_centre(y, step_y), _first_centre(y + size, step_y))
        columns = slice(_first_centre(x, step_x), _first_centre(x + size, step_x))
        total[rows, columns] += score
        count[rows, columns] += 1
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def _first_centre(edge_l0_px: float, step: float) -> int:
    """Index of the first map pixel whose centre is at or beyond an edge."""
    return int(np.ceil(float(edge_l0_px) / step - 0.5))


def overlay(
    thumbnail: NDArray[np.uint8], heat: NDArray[np.float64], *, palette: str = "paper", opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Blend a map with a thumbnail of the same shape, (h, w, 3) uint8; unmeasured pixels stay as they are."""
    if palette not in PALETTES:
        raise InputError("Unknown palette", got=palette, expected=" | ".join(PALETTES))
    colours = matplotlib.colormaps[PALETTES[palette]](np.nan_to_num(heat, nan=0.5))[..., :3] * 255.0
    alpha = np.where(np.isnan(heat), 0.0, opacity)[..., None]
    return np.asarray(np.rint(thumbnail * (1 - alpha) + colours * alpha)).astype(np.uint8)
