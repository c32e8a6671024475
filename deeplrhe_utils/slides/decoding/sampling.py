"""How a square of a slide becomes a tile: which level, which JPEG scale, which pixels, and how they are averaged.

One rule for every reader, so that two readers of the same slide can be held against each other:

1. The *level* is the coarsest one that is at least as fine as the result, chosen by resolution.
2. The *scale* (1, 2, 4 or 8) is how much each block of the level may be averaged at once before the rest.
   Averaging in two steps is the same as averaging in one only when the second step is a whole number, or so
   large that the difference drowns: measured on six fields, mean |difference| of 8-bit values is below 0.3
   when the rest is whole or at least four times the scale, and up to 2.4 when it is, say, 1.1. Where neither
   holds the scale is 1: exactness comes first.
3. The *box* is the square in level pixels, its corner and side rounded to multiples of the scale: the
   displacement is at most half a pixel of the result.
4. The rest is averaged over areas. Within 5 % of a whole number k the average over k × k pixels is sampled
   linearly between pixel corners, where that average is, to within the 5 %, piecewise linear; it is twice as
   fast as averaging over fractions of pixels and differs from it by 0.4 grey levels on average (0.25 of it
   from rounding once more), at most 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]

SCALES: Final = (8, 4, 2)
_LEVEL_TOLERANCE: Final = 1.001  # Aperio's "4" is 4.0002 where sizes do not divide
_WHOLE: Final = 1e-3
_LARGE_REST: Final = 4
_NEAR_WHOLE: Final = 0.05


class Square(NamedTuple):
    """A square of a slide: its top left corner and side [level-0 px]; the side may be fractional."""

    x_l0_px: int
    y_l0_px: int
    size_l0_px: float


class Strip(NamedTuple):
    """A horizontal strip of a slide.

    ``pixels`` : RGB, uint8, (rows, columns, 3). ``step_l0_px``, ``top_l0_px`` : level-0 pixels per pixel, and where it
    begins [level-0 px]. ``lost`` : bool, (rows, columns), what could not be decoded and is white.
    """

    pixels: Rgb
    step_l0_px: float
    top_l0_px: float
    lost: NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """Pixels of one level, and the scale at which they may be decoded.

    Attributes
    ----------
    scale : 1, 2, 4 or 8; left, top, width and height are multiples of it
    left, top, width, height : place and size [px of the level]
    """

    level: int
    scale: int
    left: int
    top: int
    width: int
    height: int


def choose(downsamples: Sequence[float], factor: float) -> tuple[int, int]:
    """Level and scale for a result whose pixels are `factor` level-0 pixels wide.

    >>> choose([1.0, 4.0, 16.0], 2.0), choose([1.0, 4.0, 16.0], 8.0), choose([1.0, 4.0, 16.0], 1.98)
    ((0, 2), (1, 2), (0, 1))
    """
    fine = [i for i, down in enumerate(downsamples) if down <= factor * _LEVEL_TOLERANCE] or [0]
    level = max(fine, key=lambda i: downsamples[i])
    return level, scale_for(factor / downsamples[level])


def scale_for(rest: float) -> int:
    """Largest scale at which pixels `rest` times finer than the result may be decoded."""
    for scale in SCALES:
        left = rest / scale
        whole = round(left) >= 1 and abs(left - round(left)) <= _WHOLE * left
        if whole or left >= _LARGE_REST * scale:
            return scale
    return 1


def box_of(
    level: int, scale: int, down: float, level_size: tuple[int, int], place: tuple[float, float, float, float]
) -> Box:
    """The box of a rectangle.

    Parameters
    ----------
    level, scale : from :func:`choose`
    down : level-0 pixels per pixel of the level
    level_size : (width, height); size of the level [px]; the box is kept inside it
    place : (x, y, width, height); the rectangle [level-0 px]
    """
    scale = scale if min(level_size) >= scale else 1
    starts, lengths = [], []
    for start, length, size in zip(place[:2], place[2:], level_size, strict=True):
        wanted = max(scale, scale * round(length / down / scale))
        # Scanners round level sizes down: the last pixel may not be there, and the box is moved before it is cut.
        first = max(0, min(scale * round(start / down / scale), (size - wanted) // scale * scale))
        starts.append(first)
        lengths.append(min(wanted, (size - first) // scale * scale))
    return Box(level, scale, starts[0], starts[1], lengths[0], lengths[1])


def reduce_whole(pixels: Rgb, scale: int) -> Rgb:
    """Average blocks of scale × scale pixels; sides are multiples of the scale."""
    if scale == 1:
        return pixels
    size = pixels.shape[1] // scale, pixels.shape[0] // scale
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def resample(pixels: Rgb, width: int, height: int) -> Rgb:
    """Average over areas to (height, width); the module's text says how.

    Pixels that are coarser than the result are interpolated linearly.

    Parameters
    ----------
    pixels : ndarray, shape (H, W, 3), uint8; RGB
    width, height : size of the result [px]

    Returns ndarray, shape (height, width, 3), uint8.
    """
    if (pixels.shape[1], pixels.shape[0]) == (width, height):
        return pixels
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    if min(across, down) < 1:
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    whole = round(across)
    fractional = across != whole or down != whole
    if fractional and whole >= 2 and max(abs(across - whole), abs(down - whole)) <= _NEAR_WHOLE * whole:
        return _near_whole(pixels, width, height, whole)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _near_whole(pixels: Rgb, width: int, height: int, whole: int) -> Rgb:
    mean = cv2.blur(pixels, (whole, whole), borderType=cv2.BORDER_REPLICATE)
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    # OpenCV's box of even side ends at its pixel: its centre is the pixel's upper left corner.
    half = 0.5 if whole % 2 == 0 else 0.0
    to_source = np.array([[across, 0, (across - 1) / 2 + half], [0, down, (down - 1) / 2 + half]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(mean, to_source, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def on_white(rgba: NDArray[np.uint8]) -> Rgb:
    """Lay RGBA (H, W, 4), uint8, on white; RGB (H, W, 3), uint8."""
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    weight = alpha[..., None].astype(np.uint16)
    mixed = rgba[..., :3].astype(np.uint16) * weight + np.uint16(255) * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)
