"""Describe the colours of a cohort and choose its reference by a rule that anyone can repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import optical_density
from deeplrhe_utils.stain.dcgmm.statistics import TISSUE_DENSITY, density_scale

_Tile = NDArray[np.uint8]
REFERENCE_PX: Final = 50_000.0
"""Least tissue of a reference [px]."""
_STEP: Final = 4


@dataclass(frozen=True)
class SlideColour:
    """Colour of a slide before anything is changed.

    Attributes
    ----------
    tissue_share : share of sampled pixels denser than 0.12, in [0, 1]
    scale : 95th percentile of tissue density, NaN without tissue [optical density]
    mean : float64, (3,), mean optical density of tissue in red, green, blue; NaN without tissue
    tissue_px : tissue in the tiles looked at [px]
    """

    tissue_share: float
    scale: float
    mean: NDArray[np.float64]
    tissue_px: float = 0.0


def slide_colour(tiles: Sequence[_Tile]) -> SlideColour:
    """Colour of one slide from uint8 RGB tiles (H, W, 3); one without tiles has no tissue."""
    parts = [optical_density(tile[::_STEP, ::_STEP]).reshape(-1, 3) for tile in tiles]
    pixels = np.concatenate([np.empty((0, 3), np.float32), *parts])
    tissue = pixels[pixels.mean(axis=1) > TISSUE_DENSITY]
    if not len(tissue):
        return SlideColour(0.0, np.nan, np.full(3, np.nan))
    mean, seen_px = tissue.mean(axis=0, dtype=np.float64), float(len(tissue) * _STEP**2)
    return SlideColour(len(tissue) / len(pixels), density_scale(tiles), mean, seen_px)


def survey_colours(slides: Mapping[str, Sequence[_Tile]]) -> dict[str, SlideColour]:
    """:func:`slide_colour` of every slide."""
    return {name: slide_colour(tiles) for name, tiles in slides.items()}


def choose_reference(colours: Mapping[str, SlideColour], rank: int = 0) -> str:
    """The slide whose mean optical density is nearest to the cohort's median (the medoid; ties by name).

    The paper's reference was "selected by professional pathologists" and is not published; this rule needs no taste
    and can be repeated.

    Parameters
    ----------
    colours : name → SlideColour
    rank : 0 the nearest, 1 the next …, −1 the farthest: other references, to see how much the choice matters

    Raises StainError: no slide holds tissue, or there are not so many.
    """
    known = sorted(name for name, colour in colours.items() if np.isfinite(colour.mean).all())
    # a slide with a scrap of tissue may lie in the middle by chance and could not be matched to
    known = [name for name in known if colours[name].tissue_px >= REFERENCE_PX] or known
    if not -len(known) <= rank < len(known):
        raise StainError("No slide holds tissue, so there is no reference" if not known else "There are fewer slides",
                         got=f"{len(known)} slides with tissue", fix="Check the tiles of notebook 03")  # fmt: skip
    od = np.stack([colours[name].mean for name in known])
    order = np.argsort(np.linalg.norm(od - np.median(od, axis=0), axis=1), kind="stable")
    return known[int(order[rank])]


def spread_references(colours: Mapping[str, SlideColour]) -> dict[str, str]:
    """Slides with enough tissue, near to the cohort's median and far from it: nearest, half-way, farthest → name."""
    inside = {name: colour for name, colour in colours.items() if colour.tissue_px >= REFERENCE_PX}
    ranks = {"nearest": 0, "half-way": len(inside) // 2, "farthest": len(inside) - 1} if inside else {}
    return {place: choose_reference(inside, rank) for place, rank in ranks.items()}
