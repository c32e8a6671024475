"""DCGMM colour normalization as a method: measure a slide, make a map to the reference, apply it to tiles.

One small network sees optical density and says which component a pixel is (nuclei, surrounding tissue, background);
closed-form Gaussians in HSD and an affine map per component carry the colour to a reference.

Source: Zanjani et al. 2018 (MIDL), as used in DeepLRHE section "Denoising and Color Normalization". The profile
``PAPER`` keeps the released network and map; ``DEFAULT`` differs in this, and why: density is divided by the slide's
95th percentile (a thick section is no other tissue), statistics are per slide (per-tile maps draw a grid), covariances
are full, responsibilities soft (hard ones draw rims around nuclei), and glass is left alone (moments tint it) or, where
it is dark, given the reference's grey values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from deeplrhe_utils.stain.colour import optical_density
from deeplrhe_utils.stain.dcgmm.checks import check_tiles
from deeplrhe_utils.stain.dcgmm.maps import ColourMap, map_to
from deeplrhe_utils.stain.dcgmm.net import DcgmmNet
from deeplrhe_utils.stain.dcgmm.statistics import ColourStatistics, collect, responsibilities_of
from deeplrhe_utils.stain.dcgmm.transform import StainTransform, apply
from deeplrhe_utils.stain.glass import white_level

_Tile = NDArray[np.uint8]


@dataclass(frozen=True)
class Dcgmm:
    """A fitted network with the verbs of every method of this room: measure, read, map_to, apply.

    Attributes
    ----------
    compiled : as in `StainTransform`
    white : take the glass off every slide and give all the reference's (all or none)
    """

    name: ClassVar[str] = "dcgmm"
    net: DcgmmNet
    compiled: bool = False
    white: bool = False

    @property
    def per(self) -> str:
        """Whose statistics a tile is mapped with: "slide" or "tile"."""
        return self.net.config.per

    def measure(self, tiles: Sequence[_Tile], cohort: ColourStatistics | None = None) -> ColourStatistics:
        """Statistics of one slide from uint8 RGB tiles (H, W, 3), pixels of no colour of `cohort` left out."""
        check_tiles(tiles)
        white = white_level(tiles) if self.white else None
        return collect(self.net, tiles, white=white, cohort=cohort, with_glass=self.white or self.net.config.glass)

    def read(self, record: dict[str, Any]) -> ColourStatistics:
        """Statistics from their JSON record."""
        return ColourStatistics.from_json(record)

    def map_to(self, source: ColourStatistics, reference: ColourStatistics) -> ColourMap:
        """The map from one slide to the reference."""
        return map_to(source, reference, self.net.config, white=self.white)

    def painter(self, stain_map: ColourMap) -> Callable[[_Tile], _Tile]:
        """A function that normalizes tiles with one map."""
        return partial(apply, StainTransform(self.net, stain_map, compiled=self.compiled))

    def apply(self, stain_map: ColourMap, tile: _Tile) -> _Tile:
        """One normalized tile, same layout as given; for many tiles of a slide take :meth:`painter`."""
        return self.painter(stain_map)(tile)


def responsibilities(net: DcgmmNet, scale: float, tile: _Tile) -> NDArray[np.float32]:
    """Component memberships γ of one tile, (K, H, W), for the paper's Figure 2; they sum to 1 over K.

    Parameters
    ----------
    scale : density scale of the tile's slide [optical density]
    tile : uint8 RGB (H, W, 3)
    """
    with torch.inference_mode():
        density = optical_density(torch.from_numpy(np.require(tile, requirements=["C", "W"]))).mean(-1)
        return np.asarray(responsibilities_of(net, density, scale).numpy())
