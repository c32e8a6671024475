"""Units and coordinate frames, as types.

Frames
------
level-0 pixels (``_l0_px``)
    The slide's full-resolution grid; origin top left, x to the right, y down.
tile pixels (``_px``)
    Pixels of a tile after resampling to the target resolution.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NewType

Mpp = NewType("Mpp", float)  # microns per pixel

MPP_AT_1X: Final = 10.0  # field convention: 40x is 0.25, 20x is 0.5 microns per pixel
PLAUSIBLE_MPP: Final = (0.05, 10.0)


def mpp_from_objective(power: float) -> Mpp:
    """Resolution [µm/px] of an objective power by the field's convention (10 / power).

    >>> mpp_from_objective(40)
    0.25
    """
    return Mpp(MPP_AT_1X / power)


def exact_ratio(target_mpp: float, slide_mpp: float) -> Fraction:
    """Level-0 pixels per target pixel as an exact fraction of the two decimal values.

    Decimal text, not binary floats, is what the scanner wrote; a fraction keeps
    ``512 × 0.5 / 0.2527`` free of drift over a hundred thousand pixels.

    >>> exact_ratio(0.5, 0.25)
    Fraction(2, 1)
    """
    return Fraction(repr(float(target_mpp))) / Fraction(repr(float(slide_mpp)))
