"""Where a picture is glass, and what colour the glass has (the white level).

Source: ours. The naive rule "the brightest 1 %" takes pale lilac tissue for glass on solid fields, so glass must be
pale, grey and flat at once; where nothing is, the answer is that nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import optical_density

LARGEST_DENSITY: Final = 0.30
LARGEST_CHROMA: Final = 0.12
LARGEST_ROUGHNESS: Final = 0.012
ROUGHNESS_PX: Final = 7
LEAST_SHARE: Final = 0.01
_STEP: Final = 4


@dataclass(frozen=True)
class Glass:
    """Grey values of the glass of a slide, additive over tiles.

    Attributes
    ----------
    counts : int64, (3, 256): histogram of the red, green and blue values of glass pixels
    sampled_px : pixels looked at, glass or not
    """

    counts: NDArray[np.int64]
    sampled_px: int

    def __add__(self, other: Glass) -> Glass:
        """Pool two parts of one slide."""
        return Glass(self.counts + other.counts, self.sampled_px + other.sampled_px)

    @property
    def share(self) -> float:
        """Share of the sampled pixels that is glass, in [0, 1]."""
        return float(self.counts[0].sum() / max(self.sampled_px, 1))

    @property
    def white(self) -> NDArray[np.float64] | None:
        """Optical density of the glass per channel, (3,); None below 1 % of glass, where a mode means nothing."""
        if self.share < LEAST_SHARE:
            return None
        return np.asarray(optical_density(self.counts.argmax(axis=1)), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers: the histograms from the first grey value that occurs."""
        filled = np.flatnonzero(self.counts.any(axis=0))
        first = int(filled[0]) if len(filled) else 256
        return {"first": first, "counts": self.counts[:, first:].tolist(), "sampled_px": self.sampled_px}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Glass:
        """Inverse of :meth:`to_json`."""
        counts = np.zeros((3, 256), np.int64)
        given = np.asarray(record["counts"], dtype=np.int64).reshape(3, -1)
        counts[:, int(record["first"]) :] = given
        return cls(counts, int(record["sampled_px"]))


def empty_glass() -> Glass:
    """Nothing seen yet."""
    return Glass(np.zeros((3, 256), np.int64), 0)


def find_glass(tile: NDArray[np.uint8]) -> Glass:
    """Glass of one uint8 RGB tile (H, W, 3): pale (D < 0.30), grey (|OD − D| < 0.12) and flat (7 × 7 SD of D < 0.012).

    Every fourth pixel of each axis is judged.
    """
    od = np.asarray(optical_density(tile))
    density = od.mean(axis=-1)
    window = (ROUGHNESS_PX, ROUGHNESS_PX)
    mean, square = cv2.blur(density, window), cv2.blur(density * density, window)
    rough = np.sqrt(np.maximum(square - mean * mean, 0.0))
    grid = (slice(None, None, _STEP), slice(None, None, _STEP))
    grey = np.abs(od[grid] - density[grid][..., None]).max(axis=-1) < LARGEST_CHROMA
    glass = (density[grid] < LARGEST_DENSITY) & grey & (rough[grid] < LARGEST_ROUGHNESS)
    counts = np.stack([np.bincount(tile[grid][..., c][glass], minlength=256) for c in range(3)])
    return Glass(counts.astype(np.int64), int(glass.size))


def white_level(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Optical density of the glass of one slide, (3,).

    Correct the white level of all slides of a cohort or of none: correcting some makes colours disagree more. So a
    slide without glass is an error here, not a slide left as it is.

    Raises StainError: less than 1 % of the sampled pixels is glass.
    """
    glass = sum((find_glass(tile) for tile in tiles), empty_glass())
    if (white := glass.white) is None:
        raise StainError("The white level of a slide is unknown", got=f"{glass.share:.2%} of glass",
                         expected=f"at least {LEAST_SHARE:.0%}",
                         fix="Give tiles with some glass, or leave the white level alone for all slides")  # fmt: skip
    return white
