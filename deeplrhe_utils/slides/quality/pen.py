"""Felt-pen ink on a tile or on a survey picture: blue, green, black and red.

Not in the paper; ours. Ink is what is dark over 40 µm and has a colour that haematoxylin and eosin do not give. A
closing of the light with a square of 40 µm takes away every dark thing that is narrower, single and crowded nuclei
too, and under ink it leaves the palest tissue, so that the ink's own colour remains. There, in optical density
(log10), three rules:

- blue and green: red at least 0.45 and not below green; haematoxylin and eosin take more green than red. Pale ink, red
  at least 0.25, must take half as much again of red as of green: so does no tissue, in focus or out of it;
- black: every channel at least 0.45 and the least at least 0.65 of the greatest; dark H&E is not neutral;
- red: green and blue at least 0.45, blue at least 0.55 of green, red at most 0.45 of green; eosin takes little blue.

Calibration and limits: docs/quality-filter.md.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.slides.quality.tissue import SlideGlass, density_over_glass

PEN_WIDTH_UM: Final = 40.0
"""Dark things narrower than this are not ink [µm]; the stroke of a felt pen is wider than 100 µm."""
PEN_DENSITY: Final = 0.45
"""Optical density (log10) from which a place is dark enough for ink."""
_PALE: Final = 5 / 9  # of the cut: density of red from which pale blue and green ink is looked for
_PALE_HUE: Final = 1.5  # red / green density under pale blue and green ink, at least
_CELL_UM: Final = 2.0
_NEUTRAL: Final = 0.65  # least / greatest density of the three channels under black ink
_RED_LIGHT: Final = 0.45  # red / green density under red ink, at most
_RED_BLUE: Final = 0.55  # blue / green density under red ink, at least
_USUAL_GLASS: Final = 245.0  # white level for which the cuts hold; densities are relative to 256 × level / this
_FILL: Final = 8  # grey value up to which a place is what the scanner left out, not black ink

_Mask = NDArray[np.bool_]


def pen_mask(
    tile: NDArray[np.uint8],
    mpp: float = 0.5,
    *,
    red: bool = True,
    glass: SlideGlass | None = None,
    density: float = PEN_DENSITY,
) -> _Mask:
    """Pixels under blue, green, black or red felt pen, on glass or on tissue (ours).

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8; RGB
    mpp : resolution of the tile or survey [µm/px]; up to 4
    red : look for red ink, too
    glass : white level of the slide; without it that of a usual slide, 245
    density : optical density from which a place is dark enough for ink [log10]; 5/9 of it for pale blue and green

    Returns ndarray, shape (height, width), bool: true under ink, in steps of 2 µm.
    """
    height, width = tile.shape[:2]
    cell = max(_CELL_UM, mpp)
    size = max(1, round(width * mpp / cell)), max(1, round(height * mpp / cell))
    small = tile if size == (width, height) else cv2.resize(tile, size, interpolation=cv2.INTER_AREA)
    side = 2 * round(PEN_WIDTH_UM / cell / 2) + 1
    wide = np.asarray(cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)), np.uint8)
    level = np.full(3, _USUAL_GLASS) if glass is None else np.asarray(glass.level)
    light = SlideGlass(256 * level / _USUAL_GLASS - 1, True)
    ink = _is_ink(density_over_glass(wide, light), density, red) & (wide.max(axis=2) > _FILL)
    return cv2.resize(ink.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _is_ink(density: NDArray[np.float32], cut: float, with_red: bool) -> _Mask:
    """The rules for ink, on optical density (log10), shape (height, width, 3)."""
    red, green, blue = cv2.split(density)
    least, greatest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    ink = (red >= cut) & (red >= green)
    ink |= (red >= _PALE * cut) & (red >= _PALE_HUE * green)
    ink |= (least >= cut) & (least >= _NEUTRAL * greatest)
    if with_red:
        ink |= (green >= cut) & (blue >= cut) & (blue >= _RED_BLUE * green) & (red <= _RED_LIGHT * green)
    return np.asarray(ink, np.bool_)
