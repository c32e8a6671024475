"""Felt-pen ink on a tile or on a survey picture: blue, green, black and red.

Not in the paper; ours. Ink is what is dark over 40 µm and has a colour that haematoxylin and eosin do not give. A
closing of the light with a square of 40 µm takes away every dark thing that is narrower, single and crowded nuclei
too, and under ink it leaves the palest tissue, so that the ink's own colour remains. There, in optical density
(log10), three rules:

- blue and green: red at least 0.45 and not below green; haematoxylin and eosin take more green than red;
- black: every channel at least 0.45 and the least at least 0.65 of the greatest; dark H&E is not neutral;
- red: green and blue at least 0.45, blue at least 0.55 of green, red at most 0.45 of green; eosin takes little blue.

Calibration on real H&E (five TCGA fields, CMU-1, 42 tiles of LC25000) with bands of ink, 100 – 200 µm wide, painted
as light × 10^(−s·ink), ink (R, G, B) = blue (0.95, 0.55, 0.10), green (0.85, 0.30, 0.75), black (0.8, 0.8, 0.8), red
(0.08, 0.90, 0.72), each channel ± 15 %. Share of inked pixels found, on tissue / on glass, and of the pixels beside
the band that are called ink:

======  ==============  ==============  ==============  ==============  ======
Ink     s = 0.6         s = 0.8         s = 1.0         s = 1.2         beside
======  ==============  ==============  ==============  ==============  ======
blue    0.995 / 1.000   0.997 / 1.000   0.997 / 1.000   0.998 / 1.000   1.1 %
green   0.990 / 1.000   0.997 / 1.000   0.997 / 1.000   0.998 / 1.000   0.4 %
black   0.851 / 0.783   0.991 / 1.000   0.998 / 1.000   0.997 / 1.000   0.7 %
red     0.587 / 0.483   0.997 / 1.000   0.980 / 1.000   0.993 / 1.000   0.5 %
======  ==============  ==============  ==============  ==============  ======

False alarms, in % of the pixels of real tiles without pen; also with doubled density (as in a fold) and blurred by
4 µm. LC25000 tells no resolution; 0.5 µm/px was taken, and 1 µm/px gave 0 as scanned, too:

=============================  ==========  ========  =======  ================
Tiles                          as scanned  doubled   blurred  doubled, blurred
=============================  ==========  ========  =======  ================
five TCGA lung fields          0           0         0        5.3
CMU-1-Small-Region (14)        0           0.26      0        2.9
LC25000 normal (795)           0           0         0        0
LC25000 adenocarcinoma (780)   0           0         0        0.37
LC25000 squamous (792)         0           0.11      0        0.06
=============================  ==========  ========  =======  ================

Doubled was done first, blurred then. Without red ink, doubled: CMU-1 0.21, the others the same. Blood: no picture holds
a lake of it wider than 40 µm. Of the single red pixels there (erythrocytes, mostly) 0.3 % of CMU-1, 0.7 % of LC25000
normal and none of the others meet the rule for red, so a lake of them should not either; of doubled ones 9 % (normal),
54 % (TCGA) and 81 % (CMU-1) do: a fold in blood may be called red ink. ``red=False`` leaves the rule out.

On 180 synthetic slides (seed 7) at 2 µm/px: 97.5 % of 163 tiles with 5 % or more of ink are seen (2 % or more called),
found / true area 0.93; of 3,403 clean tiles none. The same at 4 µm/px.

Limits: no real pen was at hand. Missed are marks narrower than 40 µm (half of that at the picture's edge) or paler than
0.45, and blues so dark that they take more green than red. Black ink below a grey value of 8 counts as what the scanner
left out.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.slides.tissue import Glass, optical_density

PEN_WIDTH_UM: Final = 40.0
"""Dark things narrower than this are not ink [µm]; the stroke of a felt pen is wider than 100 µm."""
PEN_DENSITY: Final = 0.45
"""Optical density (log10) from which a place is dark enough for ink."""
_CELL_UM: Final = 2.0
_NEUTRAL: Final = 0.65  # least / greatest density of the three channels under black ink
_RED_LIGHT: Final = 0.45  # red / green density under red ink, at most
_RED_BLUE: Final = 0.55  # blue / green density under red ink, at least
_USUAL_GLASS: Final = 245.0  # white level for which the cuts hold; densities are relative to 256 × level / this
_FILL: Final = 8  # grey value up to which a place is what the scanner left out, not black ink

Mask = NDArray[np.bool_]


def pen_mask(
    tile: NDArray[np.uint8],
    mpp: float = 0.5,
    *,
    red: bool = True,
    glass: Glass | None = None,
    density: float = PEN_DENSITY,
    width_um: float = PEN_WIDTH_UM,
) -> Mask:
    """Pixels under blue, green, black or red felt pen, on glass or on tissue (see the module's text; ours).

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8
        RGB.
    mpp : float
        Resolution of the tile or survey [µm/px]; up to 4.
    red : bool
        Look for red ink, too.
    glass : Glass, optional
        White level of the slide; without it that of a usual slide, 245.
    density : float
        Optical density from which a place is dark enough for ink [log10].
    width_um : float
        Dark things narrower than this are not ink [µm].

    Returns
    -------
    ndarray, shape (height, width), bool
        True under ink, in steps of 2 µm.
    """
    height, width = tile.shape[:2]
    cell = max(_CELL_UM, mpp)
    size = max(1, round(width * mpp / cell)), max(1, round(height * mpp / cell))
    small = tile if size == (width, height) else cv2.resize(tile, size, interpolation=cv2.INTER_AREA)
    side = 2 * round(width_um / cell / 2) + 1
    wide = np.asarray(cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)), np.uint8)
    level = np.full(3, _USUAL_GLASS) if glass is None else np.asarray(glass.level)
    light = Glass(256 * level / _USUAL_GLASS - 1, True)
    ink = _is_ink(optical_density(wide, light), density, red) & (wide.max(axis=2) > _FILL)
    return cv2.resize(ink.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _is_ink(density: NDArray[np.float32], cut: float, with_red: bool) -> Mask:
    """The rules for ink, on optical density (log10), shape (height, width, 3)."""
    red, green, blue = cv2.split(density)
    least, greatest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    ink = (red >= cut) & (red >= green)
    ink |= (least >= cut) & (least >= _NEUTRAL * greatest)
    if with_red:
        ink |= (green >= cut) & (blue >= cut) & (blue >= _RED_BLUE * green) & (red <= _RED_LIGHT * green)
    return np.asarray(ink, np.bool_)


def pen_fraction(tile: NDArray[np.uint8], mpp: float = 0.5, *, red: bool = True, glass: Glass | None = None) -> float:
    """Share of a tile under felt-pen ink, in [0, 1] (see :func:`pen_mask`)."""
    return float(pen_mask(tile, mpp, red=red, glass=glass).mean())
