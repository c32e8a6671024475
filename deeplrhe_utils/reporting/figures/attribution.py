"""Figures of attributions: what a score rests on, tile by tile, beside the same of a network with random weights."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError
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
    tiles: Sequence[NDArray[np.uint8]],
    found: Sequence[Attribution],
    places: Sequence[str],
    sanity: SanityCheck | None = None,
) -> Figure:
    """A row per tile: tile, integrated gradients, Grad-CAM, and both again of a network with random weights.

    Parameters
    ----------
    tiles : sequence of uint8 RGB (h, w, 3)
    found : of these tiles; what was not computed has no column
    places : where each tile is, for the line above its row; any text
    sanity : gives the columns with random weights

    Raises InputError: tiles, attributions, places and random maps are not of one number, or there are none.

    The numbers below the panels say what the end colours mean. Each map has its own: an untrained network's logits are
    of another size, and on a shared scale a map that has not changed would look empty. Grad-CAM is the more opaque the
    higher it is.
    """
    if not len(tiles) or len({len(tiles), len(found), len(places)}) > 1:
        got = f"{len(tiles)} tiles, {len(found)} attributions, {len(places)} places"
        raise InputError("Each tile needs its attribution and its place", got=got)
    if sanity and (len(sanity.random) or len(sanity.random_cam)) != len(tiles):
        raise InputError("The maps with random weights are of other tiles", got=len(sanity.random_cam),
                         expected=f"{len(tiles)}", fix="Give the sanity check of these tiles")  # fmt: skip
    methods = [name for name, x in ((GRADIENTS, found[0].integrated), (CAM, found[0].cam)) if x is not None]
    columns = 1 + len(methods) * (1 + (sanity is not None))
    figure = new_figure(_PANEL * columns + 0.2, (_PANEL + 0.5) * len(tiles))
    strips = np.ravel(figure.subfigures(len(tiles), 1, squeeze=False))
    for number, (strip, tile, one, place) in enumerate(zip(strips, tiles, found, places, strict=True)):
        panels = iter(strip.subplots(1, columns, squeeze=False)[0])
        line = f"{one.target} score {one.score:.3f} · {textwrap.shorten(place, 110, placeholder=' …')}"
        strip.suptitle(line, fontsize=8, x=0.01, ha="left")
        _picture(next(panels), tile, f"tile, {tile.shape[1]} × {tile.shape[0]} px")
        for method in methods:
            _draw(next(panels), tile, _map(one, method), method)
        for method in methods if sanity else ():
            _draw(next(panels), tile, _random_map(sanity, method, number), method, RANDOM)
    return figure


def _map(one: Attribution, method: str) -> Map:
    if method == CAM:
        assert one.cam is not None
        return one.cam.map
    assert one.integrated is not None
    return block_sums(one.integrated.map, SUMMED_PX)


def _random_map(sanity: SanityCheck | None, method: str, number: int) -> Map:
    assert sanity is not None
    return sanity.random_cam[number] if method == CAM else block_sums(sanity.random[number], SUMMED_PX)


def _end(values: Map, method: str) -> float:
    """Value of the end colour; 1 for an empty map."""
    share = 0.0 if method == CAM else CLIPPED_PERCENT
    return float(np.percentile(np.abs(values), 100 - share)) or 1.0


def _draw(axes: Axes, tile: NDArray[np.uint8], values: Map, method: str, suffix: str = "") -> None:
    name, end = f"{method}{suffix}", _end(values, method)
    if method == CAM:
        _picture(axes, tile, f"{name}\n0 to {end:.2g} logit per cell")
        opacity = OPAQUE * np.clip(values / end, 0, 1)
        axes.imshow(values, cmap=PALETTES["perceptual"], vmin=0, vmax=end, alpha=opacity, interpolation="none")
    else:
        unit = f"±{end:.2g} logit\nper {SUMMED_PX} × {SUMMED_PX} px"
        _picture(axes, values, f"{name}\n{unit}", cmap=PALETTES["paper"], vmin=-end, vmax=end)


def _picture(axes: Axes, image: NDArray[Any], text: str, **options: Any) -> None:
    axes.imshow(image, interpolation="none", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(text, fontsize=7)
    for side in axes.spines.values():
        side.set_color("0.8")
