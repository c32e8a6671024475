"""Normalize a cohort: survey the slides, choose the reference by a declared rule, map every slide to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import optical_density
from deeplrhe_utils.stain.dcgmm import (
    TISSUE_DENSITY,
    ColourMap,
    ColourStatistics,
    apply,
    collect,
    density_scale,
    map_to,
)
from deeplrhe_utils.stain.dcgmm_net import DcgmmNet

if TYPE_CHECKING:
    import pandas as pd

Tile = NDArray[np.uint8]


def survey(units: Iterable[tuple[str, Sequence[Tile]]]) -> pd.DataFrame:
    """Colour of each unit (slide, or group of tiles) before anything is changed.

    Parameters
    ----------
    units : iterable of (name, uint8 RGB tiles)

    Returns
    -------
    DataFrame
        unit, density_scale, od_red, od_green, od_blue (mean optical density of tissue), tissue_share. Units
        without tissue have nulls.
    """
    import pandas as pd

    rows = []
    for name, tiles in units:
        od = [optical_density(tile[::4, ::4]).reshape(-1, 3) for tile in tiles]
        pixels = np.concatenate(od)
        tissue = pixels[pixels.mean(axis=1) > TISSUE_DENSITY]
        row: dict[str, object] = {"unit": name, "tissue_share": len(tissue) / len(pixels)}
        if len(tissue):
            means = dict(zip(("od_red", "od_green", "od_blue"), tissue.mean(axis=0).tolist(), strict=True))
            row |= {"density_scale": density_scale(tiles), **means}
        rows.append(row)
    columns = ["unit", "density_scale", "od_red", "od_green", "od_blue", "tissue_share"]
    return pd.DataFrame(rows, columns=columns)


def choose_reference(colours: pd.DataFrame) -> str:
    """The unit whose mean optical density is nearest to the cohort's median (the medoid; ties by name).

    The paper's reference was "selected by professional pathologists" and is not published; this rule is ours,
    needs no taste and can be repeated.
    """
    known = colours.dropna(subset=["od_red"]).sort_values("unit")
    if known.empty:
        raise StainError("No slide holds tissue, so there is no reference", fix="Check the tiles of notebook 03")
    od = known[["od_red", "od_green", "od_blue"]].to_numpy(dtype=float)
    distance = np.linalg.norm(od - np.median(od, axis=0), axis=1)
    return str(known["unit"].iloc[int(distance.argmin())])


@dataclass(frozen=True)
class Normalizer:
    """A fitted network, the reference and the cohort's pooled statistics.

    A unit with less than `minimum_tissue_px` of tissue is too thin for statistics of its own; it is mapped with
    the cohort's, and :meth:`plan` says so in its note.
    """

    net: DcgmmNet
    reference: ColourStatistics
    cohort: ColourStatistics
    minimum_tissue_px: float = 50_000.0
    covariance: str = "full"

    def plan(self, tiles: Sequence[Tile]) -> tuple[ColourMap | None, str]:
        """The map of one unit and a note: "own statistics", "cohort statistics", or no map and "no tissue"."""
        try:
            own = collect(self.net, tiles)
        except StainError:
            return None, "no tissue: left unchanged"
        if own.tissue_px < self.minimum_tissue_px:
            return map_to(
                self.cohort, self.reference, covariance=self.covariance
            ), "cohort statistics: too little tissue"
        return map_to(own, self.reference, covariance=self.covariance), "own statistics"

    def normalize(self, tiles: Sequence[Tile]) -> tuple[list[Tile], str]:
        """Normalized tiles and the note of :meth:`plan`."""
        colour_map, note = self.plan(tiles)
        if colour_map is None:
            return list(tiles), note
        return [apply(self.net, colour_map, tile) for tile in tiles], note
