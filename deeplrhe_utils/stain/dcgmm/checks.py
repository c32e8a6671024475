"""Is this an H&E picture at all? Asked of every slide before its colours are matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import od_to_hsd, optical_density
from deeplrhe_utils.stain.dcgmm.statistics import TISSUE_DENSITY
from deeplrhe_utils.stain.dcgmm.transform import check_tile

GREY_SPREAD: Final = 4
GREY_SHARE: Final = 0.99
ODD_SHARE: Final = 0.25
LEAST_CY: Final = 0.05
LARGEST_CX: Final = 0.9
TILE_SHARE: Final = 0.02
_TILE_PX: Final = 5_000
_STEP: Final = 4


def check_tiles(tiles: Sequence[NDArray[np.uint8]]) -> None:
    """Raise :class:`StainError` unless all tiles are uint8 RGB (H, W, 3): floats would give figures, wrong ones."""
    for tile in tiles:
        if check_tile(tile):
            raise StainError("Colours are measured with the channels last", got=f"shape {tile.shape}",
                             expected="(H, W, 3)", fix="Transpose the tile: tile.transpose(1, 2, 0)")  # fmt: skip


def tissue_px(tile: NDArray[np.uint8]) -> float:
    """Pixels of a uint8 RGB tile (H, W, 3) denser than 0.12, counted on every fourth pixel of each axis [px]."""
    density = optical_density(tile[::_STEP, ::_STEP]).mean(axis=-1)
    return float((density > TISSUE_DENSITY).sum()) * _STEP**2


def has_tissue(tile: NDArray[np.uint8]) -> bool:
    """Whether a tile holds enough tissue to tell colours: at least 2 % of it, and 5,000 px (or half a small tile)."""
    area = tile.shape[0] * tile.shape[1]
    return tissue_px(tile) >= max(TILE_SHARE * area, min(_TILE_PX, area / 2))


def check_colours(tiles: Sequence[NDArray[np.uint8]], name: str = "this slide") -> list[str]:
    """Warnings about the colours of a slide's tissue.

    Parameters
    ----------
    tiles : sequence of uint8 RGB (H, W, 3)
    name : for the message

    Returns list of str: empty, or a sentence: hues that H&E does not have (brown of an immunostain, ink, cyan) over
    more than a quarter of the tissue. Not an error, because yellow and blue lamps do that to real H&E too (one in
    twelve fields of LC25000), and the normalization is there to undo it.

    Raises StainError: greyscale: there is no hue to match.
    """
    px = np.concatenate([tile[::_STEP, ::_STEP].reshape(-1, 3) for tile in tiles])
    od = optical_density(px)
    tissue = od.mean(axis=1) > TISSUE_DENSITY
    if not tissue.any():
        return []
    values = px[tissue].astype(np.int16)
    grey = float((values.max(axis=1) - values.min(axis=1) < GREY_SPREAD).mean())
    if grey >= GREY_SHARE:
        raise StainError(f"{name} is not an H&E image: its tissue is grey", got=f"{grey:.1%} of the tissue without hue",
                         expected=f"less than {GREY_SHARE:.0%}", fix="Give the colour image")  # fmt: skip
    hsd = od_to_hsd(od[tissue])
    odd = float(((hsd[:, 2] < LEAST_CY) | (hsd[:, 1] > LARGEST_CX)).mean())
    return [f"{odd:.0%} of the tissue has hues unusual for H&E"] if odd > ODD_SHARE else []
