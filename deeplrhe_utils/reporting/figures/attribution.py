"""Figures of attributions: what a score rests on, tile by tile, beside the same of a network with random weights."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deeplrhe_utils.learning.attribution.maps import CAM, GRADIENTS, Attribution
from deeplrhe_utils.reporting.figures.style import new_figure
from deeplrhe_utils.reporting.heatmaps.bands import PALETTES
from deeplrhe_utils.slides.quality.blocks import block_sums

if TYPE_CHECKING:
    from deeplrhe_utils.learning.attribution.sanity import SanityCheck

    Map = NDArray[np.float32]

SUMMED_PX: Final = 4
"""Integrated gradients are drawn summed over squares of this side [tile px]: single pixels cannot be seen."""
CLIPPED_PERCENT: Final = 0.5
"""Share of the squares of a row that are drawn in the end colours: single ones would make the rest pale."""
OPAQUE: Final = 0.8
"""Opacity of Grad-CAM where it is highest."""
RANDOM: Final = ",\nrandom weights"
_PANEL: Final = 1.35


def attribution_rows(
    tiles: Sequence[NDArray[np.uint8]], found: Sequence[Attribution], places: Sequence[str], sanity: SanityCheck
) -> Figure:
    """A row per tile: tile, integrated gradients, Grad-CAM, and both again of a network with random weights.

    Parameters
    ----------
    tiles : sequence of uint8 RGB (h, w, 3)
    found : of these tiles
    places : where each tile is, for the line above its row; any text
    sanity : of these tiles; gives the columns with random weights

    The numbers below the panels say what the end colours mean. Each map has its own: an untrained network's logits are
    of another size, and on a shared scale a map that has not changed would look empty. Grad-CAM is the more opaque the
    higher it is.
    """
    figure = new_figure(_PANEL * 5 + 0.2, (_PANEL + 0.5) * len(tiles))
    strips = np.ravel(figure.subfigures(len(tiles), 1, squeeze=False))
    rows = zip(strips, tiles, found, places, sanity.random, sanity.random_cam, strict=True)
    for strip, tile, one, place, random, random_cam in rows:
        panels = strip.subplots(1, 5)
        line = f"{one.target} score {one.score:.3f} · {textwrap.shorten(place, 110, placeholder=' …')}"
        strip.suptitle(line, fontsize=8, x=0.01, ha="left")
        _picture(panels[0], tile, f"tile, {tile.shape[1]} × {tile.shape[0]} px")
        _gradients(panels[1], one.integrated.map)
        _cam(panels[2], tile, one.cam.map)
        _gradients(panels[3], random, RANDOM)
        _cam(panels[4], tile, random_cam, RANDOM)
    return figure


def _gradients(axes: Axes, values: Map, suffix: str = "") -> None:
    summed = block_sums(values, SUMMED_PX)
    end = float(np.percentile(np.abs(summed), 100 - CLIPPED_PERCENT)) or 1.0
    text = f"{GRADIENTS}{suffix}\n±{end:.2g} logit\nper {SUMMED_PX} × {SUMMED_PX} px"
    _picture(axes, summed, text, cmap=PALETTES["paper"], vmin=-end, vmax=end)


def _cam(axes: Axes, tile: NDArray[np.uint8], values: Map, suffix: str = "") -> None:
    end = float(values.max()) or 1.0
    _picture(axes, tile, f"{CAM}{suffix}\n0 to {end:.2g} logit per cell")
    opacity = OPAQUE * np.clip(values / end, 0, 1)
    axes.imshow(values, cmap=PALETTES["perceptual"], vmin=0, vmax=end, alpha=opacity, interpolation="none")


def _picture(axes: Axes, image: NDArray[Any], text: str, **options: Any) -> None:
    axes.imshow(image, interpolation="none", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(text, fontsize=7)
    for side in axes.spines.values():
        side.set_color("0.8")
