"""Noise: the blank and the blurred share of a tile; and the share under felt-pen ink.

Source: Yang 2021 (S0), denoising: a tile's noise ratio is (blank + blurred area) / total area. How blank
and blurred are found is ours.

Blank: grey value at or above the intensity cut, after OpenCV clean-up of the mask (edge padding, median
filter, closing: the paper's smoothing and edge filling). The pixels themselves are never changed.

Blurred: in blocks of 32 µm, over tissue only, the *sharpness*, the variance of the Laplacian of the
Gaussian-smoothed (0.5 µm) optical density divided by the variance of that density. The smoothing takes
away sensor noise, which would look sharp; the division takes away the strength of the stain.

Calibration of :data:`BLUR_CUT` (at 0.5 µm/px; sharpness × 1000, 1st – 50th – 99th percentile of blocks):

==========================  ======================  ======================  =====================
Blocks                      as scanned              Gaussian blur 1 µm      Gaussian blur 2 µm
==========================  ======================  ======================  =====================
five TCGA lung fields       37 – 97 – 204           4.5 – 15 – 31           0.8 – 3.0 – 7.4
CMU-1-Small-Region          31 – 106 – 230          3.2 – 15 – 40           0.4 – 2.5 – 6.5
==========================  ======================  ======================  =====================

The cut of 12 keeps every percentile of sharp blocks by a factor of 2.5 and catches all blur from 2 µm on;
of 1 µm blur it catches about a third of the blocks.

Ink (not in the paper; ours): what is dark over 40 µm and has a colour that haematoxylin and eosin do not
give. A closing of the light with a square of 40 µm takes away every dark thing that is narrower, single
and crowded nuclei too, and under ink it leaves the palest tissue, so that the ink's own colour remains.
There, in optical density (log10), two rules:

- blue and green: red at least 0.45 and not below green; haematoxylin and eosin take more green than red;
- black: every channel at least 0.45 and the least at least 0.65 of the greatest; dark H&E is not neutral.

Calibration on real H&E with bands of ink, 100 – 200 µm wide, painted as light × 10^(−s·ink), ink (R, G, B)
= blue (0.95, 0.55, 0.10), green (0.85, 0.30, 0.75), black (0.8, 0.8, 0.8), each channel ± 15 %. Share of
inked pixels found, on tissue / on glass, and of the pixels beside the band that are called ink:

======  ==============  ==============  ==============  ==============  ===========
Ink     s = 0.6         s = 0.8         s = 1.0         s = 1.2         beside
======  ==============  ==============  ==============  ==============  ===========
blue    0.991 / 0.991   0.995 / 0.992   0.995 / 0.993   0.994 / 0.995   below 0.4 %
green   0.992 / 0.992   0.995 / 0.991   0.996 / 0.995   0.996 / 0.993   below 0.6 %
black   0.874 / 0.991   0.992 / 0.993   0.995 / 0.992   0.995 / 0.995   below 0.4 %
======  ==============  ==============  ==============  ==============  ===========

False alarms, in % of the pixels of real tiles without pen; also with doubled density (as in a fold) and
blurred by 4 µm:

=============================  ==========  ========  =======  ================
Tiles                          as scanned  doubled   blurred  doubled, blurred
=============================  ==========  ========  =======  ================
five TCGA lung fields          0           0         0        0
CMU-1-Small-Region (20)        0           0.15      0        2.0
LC25000 normal (795)           0           0         0        0
LC25000 adenocarcinoma (780)   0           0         0        0
LC25000 squamous (792)         0           0         0        0.02
=============================  ==========  ========  =======  ================

The false alarms of CMU-1 are dark keratin; flecks of a real green dye there are narrower than 40 µm.

Limits: no real pen was at hand. Missed are marks narrower than 40 µm (half of that at the tile's edge) or
paler than 0.45, and blues so dark that they take more green than red; black areas outside the scanned
region count as ink. Red pen is not looked for: eosin and blood take up to 0.86 as much blue as green (99th
percentile of the reddest field), near a red ink's, and no test image holds a lake of blood wider than 40 µm
on which false alarms could be counted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.slides.tissue import blank_mask

PEN_WIDTH_UM: Final = 40.0
"""Dark things narrower than this are not ink; the stroke of a felt pen is wider than 100 µm."""
_PEN_CELL_UM: Final = 2.0
_PEN_DENSITY: Final = 0.45  # optical density (log10) from which a place is dark enough for ink
_PEN_NEUTRAL: Final = 0.65  # least / greatest density of the three channels under black ink
BLUR_CUT: Final = 0.012
"""Sharpness below which a block counts as blurred (dimensionless)."""
BLOCK_UM: Final = 32.0
_SMOOTHING_UM: Final = 0.5
_REFERENCE_MPP: Final = 0.5
_MIN_TISSUE_SHARE: Final = 0.25  # of a block; less tissue says too little about focus
_DENSITY_FLOOR: Final = 1e-4  # variance of optical density that noise alone reaches
CLEAN, BLANK, BLURRED = 0, 1, 2


class Noise(NamedTuple):
    """Noise of one tile: shares in [0, 1].

    ``blank_fraction`` of all pixels, ``blur_fraction`` of the tissue pixels of blocks with enough tissue,
    ``ratio`` = (blank + blurred area) / total area.
    """

    blank_fraction: float
    blur_fraction: float
    ratio: float


def clean_blank_mask(tile: NDArray[np.uint8], intensity_cut: float = 220) -> NDArray[np.bool_]:
    """Blank pixels after clean-up: single pixels removed, ragged edges filled.

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
    pad = 8
    mask = blank_mask(tile, intensity_cut).astype(np.uint8)
    padded = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    smooth = cv2.medianBlur(padded, 5)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, disc)
    return closed[pad:-pad, pad:-pad].astype(bool)


def sharpness(tile: NDArray[np.uint8], mpp: float, tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sharpness of each block (see the module's text); NaN where a block has too little tissue.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8
        RGB.
    mpp : float
        Resolution of the tile [µm/px].
    tissue : ndarray, shape (height, width), bool
        Pixels to look at.

    Returns
    -------
    ndarray, shape (blocks down, blocks across), float64
        Variance of the Laplacian / variance of the optical density, at the scale of 0.5 µm/px.
    """
    grey = cv2.transform(tile, np.full((1, 3), 1 / 3, np.float32)).astype(np.float32)
    density = -cv2.log((grey + 1) / np.float32(256)) / np.float32(np.log(10))
    smooth = np.asarray(cv2.GaussianBlur(density, (0, 0), _SMOOTHING_UM / mpp), np.float32)
    edges = np.asarray(cv2.Laplacian(smooth, cv2.CV_32F), np.float32)
    variance, count = _block_variance(edges, tissue, mpp)
    contrast, _ = _block_variance(smooth, tissue, mpp)
    scale = (_REFERENCE_MPP / mpp) ** 4  # a Laplacian is per px²
    values = variance * scale / (contrast + _DENSITY_FLOOR)
    full = max(count.max(initial=0), 1) if tissue.all() else (BLOCK_UM / mpp) ** 2
    return np.where(count >= _MIN_TISSUE_SHARE * min(full, tissue.size), values, np.nan)


def _starts(length: int, mpp: float) -> NDArray[np.int_]:
    """First pixels of the blocks along one side; a rest of less than half a block joins its neighbour."""
    step = max(8, round(BLOCK_UM / mpp))
    return np.arange(0, max(length - step // 2, 1), step)


def _block_sums(values: NDArray[np.float32], mpp: float) -> NDArray[np.float64]:
    rows = np.add.reduceat(values, _starts(values.shape[0], mpp), axis=0)
    return np.add.reduceat(rows, _starts(values.shape[1], mpp), axis=1).astype(np.float64)


def _block_variance(
    values: NDArray[np.float32], mask: NDArray[np.bool_], mpp: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance over the masked pixels of each block, and their number."""
    weight = mask.astype(np.float32)
    masked = values * weight
    count = _block_sums(weight, mpp)
    safe = np.maximum(count, 1)
    mean = _block_sums(masked, mpp) / safe
    return np.maximum(_block_sums(masked * values, mpp) / safe - mean**2, 0), count


def _blocks_to_pixels(blocks: NDArray[np.bool_], shape: tuple[int, ...], mpp: float) -> NDArray[np.bool_]:
    down = np.searchsorted(_starts(shape[0], mpp), np.arange(shape[0]), side="right") - 1
    across = np.searchsorted(_starts(shape[1], mpp), np.arange(shape[1]), side="right") - 1
    return blocks[np.ix_(down, across)]


def noise_mask(
    tile: NDArray[np.uint8], mpp: float = 0.5, blur_cut: float = BLUR_CUT, intensity_cut: float = 220
) -> NDArray[np.uint8]:
    """Which pixels are noise, for figures.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8
        RGB.
    mpp : float
        Resolution of the tile [µm/px].
    blur_cut : float
        Sharpness below which a block counts as blurred.
    intensity_cut : float
        Grey value from which a pixel counts as blank [0–255].

    Returns
    -------
    ndarray, shape (height, width), uint8
        0 clean, 1 blank, 2 blurred.
    """
    blank = clean_blank_mask(tile, intensity_cut)
    blurred = sharpness(tile, mpp, ~blank) < blur_cut  # NaN compares false: not assessable is not blurred
    mask = np.where(_blocks_to_pixels(blurred, blank.shape, mpp), BLURRED, CLEAN).astype(np.uint8)
    mask[blank] = BLANK
    return mask


def noise_ratio(
    tile: NDArray[np.uint8], mpp: float = 0.5, blur_cut: float = BLUR_CUT, intensity_cut: float = 220
) -> Noise:
    """Blank share, blurred share and noise ratio of one tile.

    Parameters are those of :func:`noise_mask`.

    Returns
    -------
    Noise
        blank_fraction, blur_fraction, ratio.
    """
    mask = noise_mask(tile, mpp, blur_cut, intensity_cut)
    blank, blurred = (float(np.count_nonzero(mask == kind)) for kind in (BLANK, BLURRED))
    tissue = mask.size - blank
    return Noise(blank / mask.size, blurred / tissue if tissue else 0.0, (blank + blurred) / mask.size)


def blur_fraction(tile: NDArray[np.uint8], mpp: float = 0.5, cut: float = BLUR_CUT) -> float:
    """Share of a tile's tissue that lies in blurred blocks, in [0, 1] (see :func:`noise_ratio`)."""
    return noise_ratio(tile, mpp, cut).blur_fraction


def pen_mask(tile: NDArray[np.uint8], mpp: float = 0.5) -> NDArray[np.bool_]:
    """Pixels under blue, green or black felt pen, on glass or on tissue (see the module's text; ours).

    Red pen is not looked for: see the module's text.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8
        RGB.
    mpp : float
        Resolution of the tile [µm/px].

    Returns
    -------
    ndarray, shape (height, width), bool
        True under ink, in steps of 2 µm.
    """
    height, width = tile.shape[:2]
    cell = max(_PEN_CELL_UM, mpp)
    size = max(1, round(width * mpp / cell)), max(1, round(height * mpp / cell))
    small = cv2.resize(tile, size, interpolation=cv2.INTER_AREA)
    side = 2 * round(PEN_WIDTH_UM / cell / 2) + 1
    wide = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    ink = _is_ink(-np.log10((wide.astype(np.float32) + 1) / np.float32(256)))
    return cv2.resize(ink.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _is_ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The two rules for ink, on optical density (log10), shape (..., 3)."""
    red, green = density[..., 0], density[..., 1]
    least, greatest = density.min(axis=-1), density.max(axis=-1)
    coloured = (red >= _PEN_DENSITY) & (red >= green)
    black = (least >= _PEN_DENSITY) & (least >= _PEN_NEUTRAL * greatest)
    return coloured | black


def pen_fraction(tile: NDArray[np.uint8], mpp: float = 0.5) -> float:
    """Share of a tile under felt-pen ink, in [0, 1] (see :func:`pen_mask`)."""
    return float(pen_mask(tile, mpp).mean())
