"""Tissue or glass: the share of background in a tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def blank_mask(tile: NDArray[np.uint8], intensity_cut: float = 220) -> NDArray[np.bool_]:
    """Pixels whose grey value (R + G + B) / 3 is at least `intensity_cut`.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8
        RGB.
    intensity_cut : float
        Grey value [0–255].

    Returns
    -------
    ndarray, shape (height, width), bool
        True where blank.
    """
    total = tile[..., 0].astype(np.uint16)
    total += tile[..., 1]
    total += tile[..., 2]
    return total >= 3 * intensity_cut


def background_fraction(tile: NDArray[np.uint8], intensity_cut: float = 220) -> float:
    """Share of blank pixels in a tile.

    Source: Coudray et al. 2018 (methods): tiles with more than a given share of pixels brighter than
    220 are dropped; which grey value is meant is not said there, the mean of the channels is ours.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8
        RGB.
    intensity_cut : float
        Grey value [0–255].

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> background_fraction(np.full((4, 4, 3), 255, np.uint8))
    1.0
    """
    return float(np.count_nonzero(blank_mask(tile, intensity_cut)) / (tile.shape[0] * tile.shape[1]))
