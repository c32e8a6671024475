"""Noise: the blank and the blurred share of a tile; and what smoothing of the pixels would do to it.

Source: Yang 2021 (S0), denoising: a tile's noise ratio is (blank + blurred area) / total area. How blank and blurred
are found is ours. Blank: grey value at or above the intensity cut, after OpenCV clean-up of the mask (edge padding,
median filter, closing: the paper's smoothing and edge filling); the pixels themselves are never changed. Blurred: in
blocks of 32 µm, over tissue only, by the *sharpness*, the variance of the Laplacian of the Gaussian-smoothed (0.5 µm:
sensor noise would look sharp) optical density, divided by the variance of that density (the strength of the stain).
Calibration: docs/quality-filter.md.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.slides.quality.blocks import block_sums, mean_grey, spread_blocks
from deeplrhe_utils.slides.quality.tissue import blank_mask, clean_mask

BLUR_CUT: Final = 0.012
"""Sharpness below which a block counts as blurred (dimensionless)."""
BLOCK_UM: Final = 32.0
"""Side of the blocks in which blur is judged [µm]."""
_SMOOTHING_UM: Final = 0.5
_REFERENCE_MPP: Final = 0.5
_MIN_TISSUE_SHARE: Final = 0.25  # of a block; less tissue says too little about focus
_DENSITY_FLOOR: Final = 1e-4  # variance of optical density that noise alone reaches
_CLEAN_PX: Final = 5  # width of the clean-up of the blank mask [px of the tile]
_DENSITY: Final = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)  # of each grey value
_FILTER_UM: Final = 1.0  # standard deviation of the filter of `smooth_pixels`
_TOLERANCE: Final = 5  # change of a channel that does not count as one [grey levels]
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
    tile : ndarray, shape (height, width, 3), uint8; RGB
    intensity_cut : grey value [0–255]

    Returns ndarray, shape (height, width), bool: true where blank.
    """
    return clean_mask(blank_mask(tile, intensity_cut), _CLEAN_PX)


def sharpness(tile: NDArray[np.uint8], mpp: float, tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Sharpness of each block (see the module's text); NaN where a block has too little tissue.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8; RGB
    mpp : resolution of the tile [µm/px]
    tissue : ndarray, shape (height, width), bool; pixels to look at

    Returns ndarray, shape (blocks down, blocks across), float32: variance of the Laplacian / variance of the optical
    density, at the scale of 0.5 µm/px.
    """
    return _sharpness(mean_grey(tile), mpp, tissue)[0]


def _sharpness(
    grey: NDArray[np.uint8], mpp: float, tissue: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sharpness of each block, and its tissue [px]."""
    first, smooth, weight, spare = _SCRATCH.of(tissue.shape)
    density = cv2.LUT(grey, _DENSITY, dst=first)
    cv2.GaussianBlur(density, (0, 0), _SMOOTHING_UM / mpp, dst=smooth)
    edges, step = cv2.Laplacian(smooth, cv2.CV_32F, dst=first), _step(mpp)
    np.copyto(weight, tissue)
    count = block_sums(weight, step)
    variance, contrast = (_variance(np.asarray(one), weight, count, step, spare) for one in (edges, smooth))
    scale = np.float32((_REFERENCE_MPP / mpp) ** 4)  # a Laplacian is per px²
    values = variance * scale / (contrast + np.float32(_DENSITY_FLOOR))
    full = max(float(count.max(initial=0)), 1.0) if tissue.all() else (BLOCK_UM / mpp) ** 2
    enough = count >= _MIN_TISSUE_SHARE * min(full, tissue.size)
    return np.where(enough, values, np.float32(np.nan)), count


class _Scratch(threading.local):
    """Four float32 maps of the tiles' size, kept from tile to tile: fresh memory costs more than the sums in it."""

    maps: tuple[NDArray[np.float32], ...] = ()

    def of(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], ...]:
        if not self.maps or self.maps[0].shape != shape:
            self.maps = tuple(np.empty(shape, np.float32) for _ in range(4))
        return self.maps


_SCRATCH = _Scratch()


def _step(mpp: float) -> int:
    """Side of a block [px]."""
    return max(8, round(BLOCK_UM / mpp))


def _variance(
    values: NDArray[np.float32],
    weight: NDArray[np.float32],
    count: NDArray[np.float32],
    step: int,
    spare: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Variance over the weighted pixels of each block; `spare` is overwritten."""
    safe = np.maximum(count, 1)
    mean = block_sums(np.asarray(cv2.multiply(values, weight, dst=spare), np.float32), step) / safe
    square = block_sums(np.asarray(cv2.multiply(spare, values, dst=spare), np.float32), step) / safe
    return np.asarray(np.maximum(square - mean**2, 0), np.float32)


def noise_mask(
    tile: NDArray[np.uint8],
    mpp: float = 0.5,
    blur_cut: float = BLUR_CUT,
    *,
    blank: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Which pixels are noise, for figures.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8; RGB
    mpp : resolution of the tile [µm/px]
    blur_cut : sharpness below which a block counts as blurred
    blank : ndarray, shape (height, width), bool; what is blank, where that is known already; without it
        :func:`clean_blank_mask`

    Returns ndarray, shape (height, width), uint8: 0 clean, 1 blank, 2 blurred.
    """
    blank = clean_blank_mask(tile) if blank is None else blank
    blurred = sharpness(tile, mpp, ~blank) < blur_cut  # NaN compares false: not assessable is not blurred
    mask = np.where(spread_blocks(blurred, blank.shape, _step(mpp)), BLURRED, CLEAN).astype(np.uint8)
    mask[blank] = BLANK
    return mask


def noise_ratio(
    tile: NDArray[np.uint8],
    mpp: float = 0.5,
    blur_cut: float = BLUR_CUT,
    *,
    blank: NDArray[np.bool_] | None = None,
    grey: NDArray[np.uint8] | None = None,
) -> Noise:
    """Blank share, blurred share and noise ratio of one tile.

    Parameters are those of :func:`noise_mask`, and `grey`, the tile's
    `mean_grey` where that is known already.

    Returns blank_fraction, blur_fraction, ratio.
    """
    blank = clean_blank_mask(tile) if blank is None else blank
    values, count = _sharpness(mean_grey(tile) if grey is None else grey, mpp, ~blank)
    blurred, tissue = float(count[values < blur_cut].sum()), float(count.sum())
    return Noise(1 - tissue / blank.size, blurred / tissue if tissue else 0.0, 1 - (tissue - blurred) / blank.size)


class Smoothed(NamedTuple):
    """A tile after :func:`smooth_pixels`, and what that did to it.

    ``pixels`` : ndarray, shape (height, width, 3), uint8, RGB. ``sharpness_kept`` : median over blocks of sharpness
    after / before [ratio], NaN without tissue. ``changed_share`` : share of pixels of which a channel changed by more
    than the tolerance [0–1].
    """

    pixels: NDArray[np.uint8]
    sharpness_kept: float
    changed_share: float


def smooth_pixels(tile: NDArray[np.uint8], mpp: float = 0.5) -> Smoothed:
    """The paper's "edge expansion (filling), smoothing filtering and segmentation", done to the pixels.

    Read literally, OpenCV's padding, filter and threshold change the picture that a network is trained on. We do it to
    the mask of what is blank instead; this function is there so that the difference can be measured. Edges are padded
    by repetition, pixels smoothed by a Gaussian, and what is then blank becomes white. Which filter and which
    segmentation were used is not said; these are ours.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8; RGB
    mpp : resolution of the tile [µm/px]

    Returns the pixels, the share of sharpness that is left, the share of pixels that were changed.
    """
    pad = max(1, round(4 * _FILTER_UM / mpp))
    padded = cv2.copyMakeBorder(tile, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(padded, (0, 0), _FILTER_UM / mpp)
    pixels = np.ascontiguousarray(soft[pad:-pad, pad:-pad], np.uint8)
    blank = clean_blank_mask(pixels)
    pixels[blank] = 255
    changed = cv2.absdiff(tile, pixels).max(axis=2) > _TOLERANCE
    return Smoothed(pixels, _kept(tile, pixels, mpp, ~blank), float(changed.mean()))


def _kept(before: NDArray[np.uint8], after: NDArray[np.uint8], mpp: float, tissue: NDArray[np.bool_]) -> float:
    old, new = (sharpness(one, mpp, tissue) for one in (before, after))
    known = np.isfinite(old) & (old > 0)
    return float(np.median(new[known] / old[known])) if known.any() else float("nan")
