"""Which pixels of a tile are nuclei, stroma and glass, judged by nothing that normalizes colours."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import optical_density

Tile = NDArray[np.uint8]
Mask = NDArray[np.bool_]

CLASSES: Final = ("nuclei", "stroma", "glass")
"""The classes that no two of share a pixel; masks carry a fourth name, ``tissue``, for all tissue."""

_GLASS_DENSITY: Final = 0.08
"""Smoothed mean optical density below which a pixel is glass: grey levels above 235. Low on purpose: darker glass is
not found, which costs pixels only, but pale tissue taken for glass would blame a method for colouring it."""
_TISSUE_DENSITY: Final = 0.15
"""Smoothed mean optical density above which a pixel is tissue: grey levels below 219. What lies between glass and
tissue is either thin tissue or dirty glass, and belongs to neither."""
SMOOTHING_PX: Final = 1.0
"""σ of the Gaussian laid over optical densities: takes noise and JPEG ringing, leaves a nucleus of 10 px whole."""
EDGE_PX: Final = 3
"""Glass within this many pixels of other things does not count, nor does stroma this near to an outline: optics
and the hand that drew smear an edge over 2–3 px."""
EDGE_KERNEL: Final = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
_MARGIN: Final = 0.1
"""Share of Otsu's threshold left free on both sides of it: rims of nuclei would tell how sharp a scanner is, not
how it colours. Relative, so that pale and dark stains lose alike."""
LEAST_CONTRAST: Final = 0.15
"""Least difference of the red optical density between what Otsu calls nuclei and the rest. It is 0.27 or more on
300 real lung tiles; Otsu's method cuts a tile without nuclei too, by its noise."""
LEAST_TISSUE_PX: Final = 2000
"""Least tissue for a threshold of its own: ten times what one class needs to be measured."""
_TOP: Final = 0.999  # a speck of dirt would otherwise stretch the histogram that Otsu's method reads


def require_rgb(pixels: Tile) -> Tile:
    """Give back 8-bit RGB pixels, or raise.

    Parameters
    ----------
    pixels : uint8, (..., 3): a tile (H, W, 3) or a list of pixels (n, 3)

    Raises StainError: other type, other number of channels.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[-1] != 3:
        raise StainError(
            "Colours cannot be measured on this array",
            got=f"{pixels.dtype} {pixels.shape}",
            expected="uint8 RGB, channels last: (H, W, 3)",
            fix="Convert the tile to 8-bit RGB without alpha",
        )
    return pixels


def masked(tile: Tile, mask: Mask) -> Tile:
    """The pixels of a tile, uint8 (..., 3), that its mask, bool (...), names: uint8 (n, 3), in row order.

    Raises StainError: the mask is not bool or of another size.
    """
    if mask.dtype != bool or mask.shape != require_rgb(tile).shape[:-1]:
        got = f"{mask.dtype} {mask.shape} for a tile of {tile.shape}"
        raise StainError("A mask does not fit its tile", got=got, expected=f"bool {tile.shape[:-1]}")
    # four times as fast as tile[mask]
    return np.take(np.asarray(tile).reshape(-1, 3), np.flatnonzero(mask), axis=0)


def neutral_masks(tile: Tile) -> dict[str, Mask]:
    """Nuclei, stroma and glass of a tile before normalization, by optical density and Otsu's threshold.

    Haematoxylin absorbs red light and eosin hardly does: nuclei are the tissue whose red optical density lies
    above Otsu's threshold within the tissue, stroma (everything else of tissue, cytoplasm too) what lies below, with
    a margin of 10 % on both sides. The rule is made for H&E at 0.25–0.5 µm/px, and for *source* tiles: masks of the
    normalized ones would move with what is to be measured.

    Parameters
    ----------
    tile : uint8, (H, W, 3)

    Returns dict of str to bool (H, W): ``nuclei``, ``stroma`` and ``glass`` (disjoint), and ``tissue``, which holds
    nuclei, stroma and what lies between them. With less than 2,000 px of tissue all but ``glass`` are empty; without
    two classes in the red (difference below 0.15) ``nuclei`` and ``stroma`` are.

    Raises StainError: no uint8 RGB image.

    Source: ours; the published masks come from the models that they judge. Threshold: Otsu 1979.
    """
    red, tissue, glass = smoothed_density(tile)
    if np.count_nonzero(tissue) < LEAST_TISSUE_PX:
        tissue = np.zeros_like(tissue)
    cut = _otsu(red[tissue])
    nuclei, stroma = tissue & (red > cut * (1 + _MARGIN)), tissue & (red < cut * (1 - _MARGIN))
    return {"nuclei": nuclei, "stroma": stroma, "glass": glass, "tissue": tissue}


def smoothed_density(tile: Tile) -> tuple[NDArray[np.float32], Mask, Mask]:
    """Smoothed red optical density, tissue and glass without its edges."""
    if require_rgb(tile).ndim != 3:
        raise StainError("Masks need an image", got=tile.shape, expected="(H, W, 3)")
    od = np.asarray(cv2.GaussianBlur(optical_density(tile), (0, 0), SMOOTHING_PX), np.float32)
    density = od.mean(axis=2)
    glass = cv2.erode((density < _GLASS_DENSITY).astype(np.uint8), EDGE_KERNEL).astype(bool)
    return od[..., 0], density > _TISSUE_DENSITY, glass


def _otsu(values: NDArray[np.float32]) -> float:
    """Otsu's threshold of red optical densities (n,), or NaN, which nothing is above or below, without contrast."""
    top = float(np.quantile(values, _TOP)) if values.size else 0.0
    if top < LEAST_CONTRAST:
        return float("nan")
    levels = (np.clip(values / top, 0, 1) * 255).astype(np.uint8)
    dark = levels > cv2.threshold(levels[None], 0, 255, cv2.THRESH_OTSU)[0]
    if dark.all() or not dark.any():
        return float("nan")
    high, low = float(values[dark].mean(dtype=np.float64)), float(values[~dark].mean(dtype=np.float64))
    # the middle of the means is where Otsu's threshold lies, but also in a gap of the histogram, where any would do
    return (high + low) / 2 if high - low >= LEAST_CONTRAST else float("nan")
