"""Folds and air bubbles on a survey picture; and the survey itself: the masks of a band of a slide in one call.

Neither is in the paper; both are ours. *Folds*: in cells of 8 µm, the density that fills a disc of 32 µm (so that
nuclei are gone) is compared with that of the tissue around and beside: what is long and narrow must be darker, what is
darker still, and in every channel, may have any shape. *Bubbles*: in cells of 4 µm, a rim is darker than what lies
beside it in all channels alike, narrow, and runs along a closed convex line, or along what the picture's edge leaves of
it. Calibration and limits: docs/quality-filter.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.slides.quality.blocks import connected_components, disc, is_long, to_cells, to_pixels, touched
from deeplrhe_utils.slides.quality.pen import PEN_DENSITY, pen_mask
from deeplrhe_utils.slides.quality.tissue import DENSITY_CUT, BackgroundRules, SlideGlass, density_over_glass

CONTEXT_UM: Final = 512.0
"""Margin around a band that its masks need to see [µm]: the width of a bubble, the surroundings of a fold."""
SURVEY_MPP: Final = 2.0
"""Resolution at which tissue is told from glass [µm/px]."""
ARTEFACT_MPP: Final = 4.0
"""Resolution at which ink, folds and bubbles are looked for [µm/px]: as good as 2, the calibration (0.92 and
0.98 of 90 inked and 43 bubbled tiles against 0.91 and 0.98, cohort of seed 7), in a third of the time."""
FOLD_RATIO: Final = 1.8
"""Density of a fold over that of the tissue around it (green channel) from which a fold is begun."""
FOLD_GROWN: Final = 1.5
"""The same down to which a begun fold goes on."""
FOLD_HUE: Final = 1.2
"""The least ratio over the three channels; a dark stain darkens one channel, a second layer all."""
FOLD_THICK: Final = 1.06
"""The least ratio over the channels, in multiples of the first, from which a fold may have any shape."""
FOLD_WIDTH_UM: Final = (32.0, 120.0)
"""Width of a fold [µm]: narrower things are cells and fibres, wider ones dark tissue, unless they are thick."""
FOLD_LENGTH_UM: Final = 100.0
"""Least length of a fold [µm]."""
FOLD_LONG: Final = 2.0
"""Least length over width of a fold."""
FOLD_BESIDE: Final = 1.3
"""Density of a fold over that of nine tenths of what lies 16 to 56 µm beside it."""
_FOLD_CELL_UM: Final = 8.0
_FOLD_AROUND_UM: Final = 400.0  # standard deviation of the neighbourhood a fold is compared with
_BESIDE_UM: Final = (16.0, 56.0)
_BESIDE_SHARE: Final = 0.9
_BESIDE_LEAST: Final = 0.2  # a ratio below this is glass, and beside glass everything is dark
_MARGIN_UM: Final = 24.0  # what is left around a dark area that is too wide, and no fold either
_FLOOR: Final = 0.02  # optical density added on both sides of a ratio, so that noise on glass is no fold
RIM_DENSITY: Final = 0.12
"""Neutral optical density by which the rim of a bubble exceeds what lies beside it."""
RIM_NEUTRAL: Final = 0.7
"""Least over greatest excess of the three channels in a rim; haematoxylin and eosin have less than 0.5."""
RIM_WIDTH_UM: Final = 40.0
"""Rims are narrower than this [µm]."""
BUBBLE_RADIUS_UM: Final = (40.0, 1500.0)
"""Radius of a disc of a bubble's area [µm]."""
_BUBBLE_CELL_UM: Final = 4.0
_RIM_GAP_UM: Final = 32.0
_RIM_REACH_UM: Final = 28.0  # a rim lies no deeper than this inside its hull
_SPECK_UM2: Final = 400.0
_HOLLOW: Final = 0.7  # area of a rim over that of its hull, at most
_SOLIDITY: Final = 0.9  # of a hole in a rim: area over that of its hull
_ALONG: Final = 0.85  # share of a component that must lie along its hull
_COVERED: Final = 0.7  # share of the hull that must be covered; half a ring and its chord give 0.6

_Mask = NDArray[np.bool_]
_Map = NDArray[np.float32]
_Bytes = NDArray[np.uint8]


def fold_mask(
    rgb: NDArray[np.uint8], mpp: float, glass: SlideGlass, rules: SurveyRules | None = None, *,
    exclude: _Mask | None = None,
) -> _Mask:  # fmt: skip
    """Folded tissue: about twice as dense as what lies around it in every channel, or long, narrow and dense (ours).

    Parameters
    ----------
    rgb : ndarray, shape (height, width, 3), uint8; survey picture, area averaged; calibrated at 2 µm/px, worked on in
        cells of 8 µm
    mpp : resolution of the survey [µm/px], up to 8
    glass : of the whole slide
    rules : fold_ratio and fold_grown: density over that of the surroundings from which a fold is begun, and down to
        which it goes on
    exclude : ndarray, shape (height, width), bool; what is dark for another reason: ink, rims of bubbles

    Returns ndarray, shape (height, width), bool: true in folds, in steps of 8 µm.
    """
    rules = rules or SurveyRules()
    cells, cell = to_cells(rgb, mpp, _FOLD_CELL_UM)
    density = density_over_glass(cells, glass)
    floor = [_lasting(density[..., i], cell) for i in range(3)]
    least, green = _contrast(floor, cell)
    weak = ((green >= rules.fold_grown) & (least >= FOLD_HUE)).astype(np.uint8)
    thick = (least >= FOLD_THICK * rules.fold_ratio).astype(np.uint8)
    if exclude is not None:
        other = touched(exclude, weak.shape)
        weak[other] = thick[other] = 0
    wide = cv2.morphologyEx(weak, cv2.MORPH_OPEN, disc(FOLD_WIDTH_UM[1], cell))
    weak[cv2.dilate(wide, disc(_MARGIN_UM, cell)) > 0] = 0
    for window, part in connected_components(weak, FOLD_LENGTH_UM, _BESIDE_UM[1], cell):
        seed = np.count_nonzero(part & (green[window] >= rules.fold_ratio)) * cell**2 >= FOLD_WIDTH_UM[0] ** 2
        if seed and is_long(part, FOLD_LENGTH_UM, FOLD_LONG, cell) and _stands_out(part, green[window], cell):
            thick[window][part] = 1
    return to_pixels(thick, rgb.shape)


def _lasting(density: _Map, cell: float) -> _Map:
    """Density that fills a disc of the least width of a fold: nuclei and fibres are gone."""
    smooth = cv2.GaussianBlur(density, (0, 0), 1.0)
    return np.asarray(cv2.morphologyEx(smooth, cv2.MORPH_OPEN, disc(FOLD_WIDTH_UM[0], cell)), np.float32)


def _contrast(floor: list[_Map], cell: float) -> tuple[_Map, _Map]:
    """Density over that of the tissue around: the least of the channels, and green."""
    tissue = np.asarray(np.mean(floor, axis=0) > DENSITY_CUT, np.float32)
    sigma = _FOLD_AROUND_UM / cell
    weight = cv2.GaussianBlur(tissue, (0, 0), sigma) + np.float32(1e-3)
    ratios = [(one + _FLOOR) / (cv2.GaussianBlur(one * tissue, (0, 0), sigma) / weight + _FLOOR) for one in floor]
    return np.minimum(np.minimum(ratios[0], ratios[1]), ratios[2]).astype(np.float32), ratios[1].astype(np.float32)


def _stands_out(part: _Mask, ratio: _Map, cell: float) -> bool:
    """Whether a component is denser than nearly everything beside it."""
    near, far = (cv2.dilate(part.astype(np.uint8), disc(2 * one, cell)) for one in _BESIDE_UM)
    ring = ratio[(far > 0) & (near == 0)]
    if not ring.size:
        return False
    return bool(ratio[part].mean() >= FOLD_BESIDE * max(float(np.quantile(ring, _BESIDE_SHARE)), _BESIDE_LEAST))


def bubble_mask(
    rgb: NDArray[np.uint8],
    mpp: float,
    glass: SlideGlass,
    *,
    rim_density: float = RIM_DENSITY,
    rim_neutral: float = RIM_NEUTRAL,
) -> _Mask:
    """Air under the cover slip, with its rim (ours).

    Parameters
    ----------
    rgb, mpp, glass : as for :func:`fold_mask`; worked on in cells of 4 µm, so up to 4 µm/px
    rim_density : density by which a rim exceeds what lies beside it, in every channel [log10]
    rim_neutral : least over greatest such excess of the channels [0–1]

    Returns ndarray, shape (height, width), bool: true under bubbles, in steps of 4 µm.
    """
    cells, cell = to_cells(rgb, mpp, _BUBBLE_CELL_UM)
    found = np.zeros(cells.shape[:2], np.uint8)
    for hull in _rings(_rim(density_over_glass(cells, glass), cell, rim_density, rim_neutral), cell):
        cv2.fillConvexPoly(found, hull, 1)
    return to_pixels(found, rgb.shape)


def _rim(density: _Map, cell: float, excess: float, neutral: float) -> _Bytes:
    """Narrow, dark, colourless, and not a speck: what no stain is."""
    narrow = density - cv2.morphologyEx(density, cv2.MORPH_OPEN, disc(RIM_WIDTH_UM, cell))
    red, green, blue = cv2.split(narrow)
    least, greatest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    rim = ((least >= excess) & (least >= neutral * greatest)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rim, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] * cell**2 >= _SPECK_UM2
    large[0] = False
    return np.asarray(large[labels], np.uint8)


def _rings(rim: _Bytes, cell: float) -> Iterator[NDArray[np.int32]]:
    """Convex hulls of rims that run along them; the picture's edge stands in for the rim that it cuts off."""
    if not rim.any():
        return
    pad = 2 * round(_RIM_GAP_UM / cell)
    closed = cv2.morphologyEx(np.pad(rim, pad), cv2.MORPH_CLOSE, disc(_RIM_GAP_UM, cell))[pad:-pad, pad:-pad]
    n, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    low, high = (np.pi * (one / cell) ** 2 for one in BUBBLE_RADIUS_UM)
    for i in range(1, n):
        x, y, w, h, area = (int(value) for value in stats[i])
        if w * h < low:
            continue
        part = labels[y : y + h, x : x + w] == i
        hull = cv2.convexHull(cv2.findNonZero(part.astype(np.uint8)))
        inner = cv2.contourArea(hull)
        if low <= inner <= high and area <= _HOLLOW * inner and _follows(part, hull, (x, y), rim.shape, cell):
            yield np.asarray(hull + np.array((x, y)), np.int32)
        else:
            yield from (np.asarray(one + np.array((x, y)), np.int32) for one in _holes(part, low, high))


def _holes(part: _Mask, low: float, high: float) -> Iterator[NDArray[np.int32]]:
    """Roundish holes of a component: bubbles that touch, or that something else has stuck to."""
    outlines, tree = cv2.findContours(part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for outline, place in zip(outlines, tree[0], strict=True):
        hull, area = cv2.convexHull(outline), cv2.contourArea(outline)
        inside = place[3] >= 0  # it has a parent
        if inside and low <= area <= high and area >= _SOLIDITY * cv2.contourArea(hull):
            yield np.asarray(hull, np.int32)


def _follows(part: _Mask, hull: NDArray[np.int_], corner: tuple[int, int], shape: tuple[int, ...], cell: float) -> bool:
    """Whether a component lies along its hull, and along most of it."""
    line = cv2.polylines(np.zeros(part.shape, np.uint8), [hull], True, 1) > 0
    rows, columns = (np.arange(n) + first for n, first in zip(part.shape, corner[::-1], strict=True))
    line[np.ix_((rows == 0) | (rows == shape[0] - 1), np.ones(len(columns), bool))] = False
    line[:, (columns == 0) | (columns == shape[1] - 1)] = False
    from_line, from_part = (cv2.distanceTransform((~one).astype(np.uint8), cv2.DIST_L2, 3) for one in (line, part))
    along = (from_line[part] * cell <= _RIM_REACH_UM).mean()
    covered = (from_part[line] * cell <= cell * 1.5).mean() if line.any() else 0.0
    return bool(along >= _ALONG and covered >= _COVERED)


@dataclass(frozen=True)
class SurveyRules(BackgroundRules):
    """Thresholds of a survey; all others are the defaults of the functions.

    Attributes
    ----------
    background_method, density_cut, shade_cut, intensity_cut, clean_um : as for `BackgroundRules`
    red_pen : look for red ink, too
    pen_density : optical density from which ink is looked for [log10]
    fold_ratio, fold_grown, rim_density, rim_neutral : as for :func:`fold_mask` and :func:`bubble_mask`
    """

    red_pen: bool = True
    pen_density: float = PEN_DENSITY
    fold_ratio: float = FOLD_RATIO
    fold_grown: float = FOLD_GROWN
    rim_density: float = RIM_DENSITY
    rim_neutral: float = RIM_NEUTRAL


def artefact_masks(
    rgb: NDArray[np.uint8], mpp: float, glass: SlideGlass, rules: SurveyRules | None = None
) -> dict[str, _Mask]:
    """Ink, folds and bubbles of a picture.

    Parameters
    ----------
    rgb : ndarray, shape (height, width, 3), uint8; survey picture with :data:`CONTEXT_UM` around what is asked for,
        area averaged
    mpp : resolution of the survey [µm/px]; calibrated at 2, checked at 4
    glass : of the whole slide (`glass_level`)
    rules : thresholds; without them the calibrated ones

    Returns ``pen``, ``fold`` and ``bubble``, each ndarray, shape (height, width), bool. Beside ink and bubbles no fold
    is looked for.
    """
    rules = rules or SurveyRules()
    pen = pen_mask(rgb, mpp, red=rules.red_pen, glass=glass, density=rules.pen_density)
    bubble = bubble_mask(rgb, mpp, glass, rim_density=rules.rim_density, rim_neutral=rules.rim_neutral)
    other = cv2.dilate((pen | bubble).astype(np.uint8), disc(2 * _MARGIN_UM, mpp)) > 0
    fold = fold_mask(rgb, mpp, glass, rules, exclude=other)
    return {"pen": pen, "fold": fold, "bubble": bubble}
