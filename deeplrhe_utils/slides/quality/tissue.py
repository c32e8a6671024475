"""Tissue or glass: the white level of a slide's glass, the background of a survey, shares per tile.

Source: Coudray et al. 2018 and the papers of its time drop tiles by the share of pixels brighter than a grey value of
220. That presumes white glass. Ours: optical density relative to the slide's own glass. The grey value stays an option.
Calibration of the cuts, and limits: docs/quality-filter.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError

GLASS_FALLBACK: Final = 245.0
"""White level taken where a picture shows no glass [0–255]; between the 237 and 248 of our slides' glass."""
MIN_GLASS_SHARE: Final = 0.002
"""Share of a thumbnail that must look like glass before its level is believed [0–1]."""
DENSITY_CUT: Final = 0.045
"""Mean optical density (log10, over the channels, relative to the glass) below which a place is background."""
SHADE_CUT: Final = 0.20
"""The same for places that are colourless and even: shadow, dirt out of focus, vignetting."""
_SHADE_TINT: Final = 0.02  # greatest difference of density between channels that still counts as colourless
_SHADE_EVEN: Final = 0.03  # greatest range of density within 3 × 3 survey px that still counts as even
_GLASS_TINT: Final = 0.06  # the same for glass, which may be slightly yellow
_GLASS_RANGE: Final = 6  # grey levels within 3 × 3 px of a thumbnail
_GLASS_DARKEST: Final = 150  # grey value
_GLASS_PEAK: Final = 4  # grey levels to either side of the commonest
_FILL_WHITE: Final = 254  # all channels from here on: what a scanner leaves out, or an overexposed glass
_FILL_BLACK: Final = 8  # all channels up to here: the other thing that a scanner leaves out
CLEAN_UM: Final = 6.0
"""Things narrower than about this are taken out of a survey's background mask [µm]."""

_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class BackgroundRules:
    """What a survey takes for glass.

    Attributes
    ----------
    background_method : {"density", "intensity"}; by optical density relative to the glass, or by the cut of the paper's
        time, a grey value
    density_cut : mean optical density below which a place is background [log10]; for ``density``
    shade_cut : the same for colourless, even places [log10]; for ``density``
    intensity_cut : grey value (R + G + B) / 3 from which a place is background [0–255]; for ``intensity``
    clean_um : width of the clean-up of the mask [µm]; below 2.5 survey px nothing is cleaned
    """

    background_method: Literal["density", "intensity"] = "density"
    density_cut: float = DENSITY_CUT
    shade_cut: float = SHADE_CUT
    intensity_cut: float = 220.0
    clean_um: float = CLEAN_UM


class SlideGlass(NamedTuple):
    """White level of a slide: what the scanner sees where nothing is.

    ``level``, ndarray, shape (3,), float64, is R, G, B in [0, 255]; ``found`` is False where the picture showed no
    glass and the level is a fallback.
    """

    level: NDArray[np.float64]
    found: bool


def glass_level(thumbnail: NDArray[np.uint8]) -> SlideGlass:
    """White level of the glass, from a picture of the whole slide.

    Glass is even, nearly colourless and bright; its level is the commonest grey value of such places. Pure white
    (what many scanners write where they did not scan) is taken only where nothing else looks like glass.

    Parameters
    ----------
    thumbnail : ndarray, shape (height, width, 3), uint8; RGB of the whole slide, of any resolution from about 2 µm/px
        upward

    Returns level and whether it was found.
    """
    pixels = np.ascontiguousarray(thumbnail)
    even = cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2) <= _GLASS_RANGE
    least, greatest = pixels.min(axis=2), pixels.max(axis=2)
    tint = np.log10((greatest + 1.0) / (least + 1.0))
    bright = even & (least >= _GLASS_DARKEST) & (tint <= _GLASS_TINT)
    fill = bright & (least >= _FILL_WHITE)
    for candidates in (bright & ~fill, fill):
        if candidates.mean() >= MIN_GLASS_SHARE:
            return SlideGlass(_commonest(pixels[candidates]), True)
    return SlideGlass(np.full(3, GLASS_FALLBACK), False)


def _commonest(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Median colour around the commonest grey value."""
    grey = colours.astype(np.float32).mean(axis=1).round().astype(np.int_)
    counts = np.convolve(np.bincount(grey, minlength=256), np.ones(3), mode="same")
    near = np.abs(grey - counts.argmax()) <= _GLASS_PEAK
    return np.asarray(np.median(colours[near], axis=0), np.float64)


def density_over_glass(rgb: NDArray[np.uint8], glass: SlideGlass) -> NDArray[np.float32]:
    """Optical density (log10) of each channel relative to the glass, not below 0.

    Parameters
    ----------
    rgb : ndarray, shape (height, width, 3), uint8

    Returns ndarray, shape (height, width, 3), float32: from 0 (glass) to 2.4 (black).
    """
    return np.asarray(cv2.LUT(np.ascontiguousarray(rgb), _density_table(glass)), np.float32)


def _density_table(glass: SlideGlass) -> NDArray[np.float32]:
    """Optical density of every grey value of every channel: shape (1, 256, 3)."""
    values = np.log10((np.asarray(glass.level)[None] + 1) / (np.arange(256)[:, None] + 1))
    return np.maximum(values, 0).astype(np.float32)[None]


def background_mask(
    rgb: NDArray[np.uint8], *, glass: SlideGlass, mpp: float = 2.0, rules: BackgroundRules | None = None
) -> _Mask:
    """Where there is no tissue, on a survey picture; calibrated at 2 µm/px.

    Parameters
    ----------
    rgb : ndarray, shape (height, width, 3), uint8; survey picture, area averaged
    glass : of the whole slide (:func:`glass_level`)
    mpp : resolution of the survey [µm/px]
    rules : without them the calibrated ones

    Returns ndarray, shape (height, width), bool: true where there is no tissue; black and white fill is background by
    either method.
    """
    rules = rules or BackgroundRules()
    method = rules.background_method
    if method not in ("density", "intensity"):
        raise ParameterError("Unknown way to find background", got=method, expected="density | intensity")
    mask = _pale(rgb, glass, rules) if method == "density" else blank_mask(rgb, rules.intensity_cut)
    mask |= cv2.inRange(np.ascontiguousarray(rgb), (0, 0, 0), (_FILL_BLACK,) * 3) > 0  # 40 times as fast as NumPy's max
    return clean_mask(mask, rules.clean_um / mpp)


def _pale(rgb: NDArray[np.uint8], glass: SlideGlass, rules: BackgroundRules) -> _Mask:
    """Thin, or a colourless even shade."""
    table = _density_table(glass)
    red, green, blue = (np.asarray(cv2.LUT(one, table[0, :, k])) for k, one in enumerate(cv2.split(rgb)))
    total = cv2.add(cv2.add(red, green), blue)
    tint = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    pale = np.asarray(total < 3 * rules.density_cut, np.bool_)
    shade = np.asarray((total < 3 * rules.shade_cut) & (tint < _SHADE_TINT), np.bool_)
    if (shade & ~pale).any():
        span = cv2.morphologyEx(total, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        pale |= shade & (span < 3 * _SHADE_EVEN)
    return pale


def clean_mask(mask: _Mask, width_px: float) -> _Mask:
    """Smooth a mask: single pixels removed, ragged edges filled (edge padding, median, closing).

    Parameters
    ----------
    mask : ndarray, shape (height, width), bool
    width_px : width of the median's and the closing's window [px], rounded to an odd number; below 2.5 nothing is done

    Returns ndarray, shape (height, width), bool.
    """
    side = 2 * round((width_px - 1) / 2) + 1
    if side < 3:
        return mask.copy()
    pad = side + 3  # the window never reaches the picture's edge: what lies beyond is taken to go on as it ends
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    smooth = cv2.medianBlur(padded, side)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, disc)
    return closed[pad:-pad, pad:-pad].astype(bool)


def shares(mask: _Mask, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each box that a mask covers; pixels that a box cuts count by the area inside it.

    Parameters
    ----------
    mask : ndarray, shape (height, width), bool
    boxes : ndarray, shape (n, 4), float; left, top, right, bottom [px of the mask]; parts outside the mask do not
        count, neither as covered nor as area

    Returns ndarray, shape (n,), float64: in [0, 1]; NaN where nothing of the box lies on the mask.

    >>> mask = np.array([[True, False], [False, False]])
    >>> shares(mask, np.array([[0, 0, 2, 2], [0.5, 0, 1.5, 1]]))
    array([0.25, 0.5 ])
    """
    height, width = mask.shape
    table = np.asarray(cv2.integral(np.ascontiguousarray(mask, np.uint8), sdepth=cv2.CV_64F), np.float64)
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    x0, x1 = np.clip(x0, 0, width), np.clip(x1, 0, width)
    y0, y1 = np.clip(y0, 0, height), np.clip(y1, 0, height)
    area = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    covered = _at(table, y1, x1) - _at(table, y0, x1) - _at(table, y1, x0) + _at(table, y0, x0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(area > 0, np.clip(covered / area, 0, 1), np.nan)


def _at(table: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral image between its corners; bilinear is exact, because the mask is constant inside a pixel."""
    top, left = np.minimum(y.astype(int), table.shape[0] - 2), np.minimum(x.astype(int), table.shape[1] - 2)
    down, across = y - top, x - left
    upper = table[top, left] * (1 - across) + table[top, left + 1] * across
    lower = table[top + 1, left] * (1 - across) + table[top + 1, left + 1] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float64)


def blank_mask(tile: NDArray[np.uint8], intensity_cut: float = 220) -> _Mask:
    """Pixels whose grey value (R + G + B) / 3 is at least `intensity_cut`.

    Source: Coudray et al. 2018 (methods): tiles with more than a given share of pixels brighter than 220 are dropped;
    which grey value is meant is not said there, the mean of the channels is ours.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8; RGB
    intensity_cut : grey value [0–255]

    Returns ndarray, shape (height, width), bool: true where blank.
    """
    total = tile[..., 0].astype(np.uint16)
    total += tile[..., 1]
    total += tile[..., 2]
    return total >= 3 * intensity_cut
