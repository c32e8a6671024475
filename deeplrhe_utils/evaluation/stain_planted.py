"""A stain change of which the truth is known: what normalization has to undo, and how much of it is left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.stain_masks import Mask, Tile, masked, require_rgb
from deeplrhe_utils.evaluation.stain_metrics import LEAST_PX, delta_e
from deeplrhe_utils.stain.colour import density_to_rgb, optical_density

RUIFROK: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Optical density of haematoxylin and eosin in red, green and blue (Ruifrok & Johnston 2001)."""
TURN_DEG: Final = 8.0
"""Most that a version turns a stain's vector [degrees]."""
SCALE: Final = (0.65, 1.5)
"""Least and most of a stain in a version, of what the tile holds."""
ILLUMINANT_OD: Final = 0.06
"""Most that the light of a version adds to a channel [optical density]."""


def planted_versions(tile: Tile, n: int = 5, seed: int = 0) -> list[Tile]:
    """The tile as `n` laboratories might have stained and lit it: what normalization has to undo is then known.

    Optical density is split into haematoxylin and eosin (:data:`RUIFROK`, least squares). In each version either
    vector is turned by up to 8° in a random direction (and kept free of negative absorption), either amount is
    scaled by 0.65–1.5 (even in the logarithm), and an illuminant of 0–0.06 OD per channel is laid over
    everything, glass included. What two stains cannot explain is kept as it is, neither turned nor scaled.

    Parameters
    ----------
    tile : uint8, (..., 3)
    n, seed : version i depends on `seed` and i alone: all tiles of a slide get the same changes

    Returns list of uint8, shape of `tile`: rounded and clipped to 0–255.

    Source: ours. It favours methods whose model is two stains (Macenko): a test not to fail, not the goal.
    """
    stains = RUIFROK / np.linalg.norm(RUIFROK, axis=1, keepdims=True)
    od = optical_density(require_rgb(tile)).astype(np.float64)
    amounts = od @ np.linalg.pinv(stains)
    rest = od - amounts @ stains
    versions = []
    for index in range(n):
        random = generator(seed, "planted stain", index)
        turned = np.stack([_turned(stain, random) for stain in stains])
        scale = np.exp(random.uniform(np.log(SCALE[0]), np.log(SCALE[1]), size=2))
        light = random.uniform(0, ILLUMINANT_OD, size=3)
        versions.append(density_to_rgb((amounts * scale) @ turned + rest + light))
    return versions


def _turned(stain: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """A unit vector at most 8° away from `stain`; cutting negative parts brings it nearer, if anything."""
    aside = random.normal(size=3)
    aside -= (aside @ stain) * stain
    angle = np.radians(TURN_DEG) * random.random()
    turned = np.maximum(np.cos(angle) * stain + np.sin(angle) * aside / np.linalg.norm(aside), 0)
    return np.asarray(turned / np.linalg.norm(turned))


def planted_residual(before: Sequence[Tile], after: Sequence[Tile], mask: Mask) -> float:
    """Share of a planted colour difference that is left: mean pairwise ΔE of versions, after over before.

    Parameters
    ----------
    before, after : sequence of uint8, (..., 3)
        The versions of one tile (:func:`planted_versions`), and each of them normalized.
    mask : bool, (...): pixels that count, tissue for instance; NaN below 200

    Returns float: 0 when all versions came out equal, 1 when nothing was gained.

    Raises StainError: fewer than two versions, unequal numbers or shapes, or versions that did not differ before.
    """
    if len(before) != len(after) or len(before) < 2:
        got = f"{len(before)} before, {len(after)} after"
        raise StainError("A planted stain change needs versions to compare", got=got, expected="2 or more of each")
    if np.count_nonzero(mask) < LEAST_PX:
        return float("nan")
    was, now = _pairwise(before, mask), _pairwise(after, mask)
    if was == 0:
        raise StainError("The versions of the tile were equal before normalization", fix="Use planted_versions")
    return now / was


def _pairwise(versions: Sequence[Tile], mask: Mask) -> float:
    colours = [masked(version, mask) for version in versions]
    return float(np.mean([delta_e(a, b).mean(dtype=np.float64) for a, b in combinations(colours, 2)]))
