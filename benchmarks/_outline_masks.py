"""Which pixels of a tile are nuclei, stroma and glass, by somebody's outlines of its nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.evaluation.quality.stain_masks import EDGE_KERNEL, Mask, Tile, smoothed_density

_SUBPIXEL_BITS: Final = 4  # outlines are drawn to 1/16 px


def outline_masks(tile: Tile, polygons: Sequence[ArrayLike]) -> dict[str, Mask]:
    """Nuclei as somebody outlined them, stroma as the tissue around, glass as :func:`neutral_masks` finds it.

    Parameters
    ----------
    tile : uint8, (H, W, 3): the source tile
    polygons : sequence of float, (n, 2)
        Outlines of *all* nuclei, x before y [px of the tile; the middle of its first pixel is (0.5, 0.5)]. They may
        overlap and leave the tile; none at all says that there are no nuclei.

    Returns dict of str to bool (H, W): ``nuclei``: inside an outline or on it; ``stroma``: tissue more than 3 px away
    from all nuclei; ``glass``, as far from them; ``tissue``: nuclei and all that is dense enough.

    Raises StainError: no uint8 RGB image; an outline is not a list of three or more finite points.
    """
    _, tissue, glass = smoothed_density(tile)
    filled = np.zeros(tissue.shape, np.uint8)
    for number, polygon in enumerate(polygons):
        # one by one: drawn together, pixels inside of two outlines would be outside
        cv2.fillPoly(filled, [_corners(polygon, number)], 1, shift=_SUBPIXEL_BITS)
    nuclei, away = filled > 0, cv2.dilate(filled, EDGE_KERNEL) == 0
    return {"nuclei": nuclei, "stroma": tissue & away, "glass": glass & away, "tissue": tissue | nuclei}


def _corners(polygon: ArrayLike, number: int) -> NDArray[np.int32]:
    points = np.asarray(polygon, float)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise StainError(
            f"Outline {number} is not a polygon", got=f"shape {points.shape}", expected="three or more finite (x, y)"
        )
    # the drawing counts from the middle of the first pixel, outlines from its corner
    return np.rint((points - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
