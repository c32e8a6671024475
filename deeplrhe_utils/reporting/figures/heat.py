"""The paper's map and a finer one side by side, with how far networks differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from deeplrhe_utils.core.text import said
from deeplrhe_utils.reporting.exports.export import SlideMap
from deeplrhe_utils.reporting.exports.picture import length_text, scale_bar_um
from deeplrhe_utils.reporting.figures.style import new_figure
from deeplrhe_utils.reporting.heatmaps.bands import PALETTES, UNCERTAINTY, colour_map

SD_LIMIT: Final = 0.25
"""Upper end of the scale of standard deviations; two networks at 0.25 and 0.6 give that."""


@dataclass(frozen=True)
class Compared:
    """One slide's row of :func:`finer_maps`: the paper's map and a finer one, both over the same picture."""

    paper: SlideMap
    finer: SlideMap


def finer_maps(rows: Sequence[Compared]) -> Figure:
    """A row per slide: slide with scale bar, the paper's map, the finer map, standard deviation over networks.

    Where fewer than two networks scored a pixel, no standard deviation is drawn; if that is so everywhere, the panel
    says it.
    """
    figure = new_figure(10.5, 1.95 * len(rows) + 0.8)
    grid = figure.subplots(len(rows) + 1, 4, squeeze=False, height_ratios=[*[1.0] * len(rows), 0.06])
    for line, row in zip(grid, rows, strict=False):
        picture = row.finer.picture
        _panel(line[0], np.full((*row.finer.frame.shape, 3), 255, np.uint8) if picture is None else picture)
        _scale_bar(line[0], row.finer)
        _panel(line[1], row.paper.overlaid())
        _panel(line[2], row.finer.overlaid())
        _uncertainty(line[3], row.finer)
        line[0].set_ylabel(said(row.finer.slide_id, 28), fontsize=6)
    for axes, title in zip(grid[0], _titles(rows), strict=True):
        axes.set_title(title, fontsize=9)
    grid[-1][0].axis("off")
    scales = [(PALETTES["paper"], 1.0, "score"), (PALETTES["perceptual"], 1.0, "score"),
              (UNCERTAINTY, SD_LIMIT, "standard deviation")]  # fmt: skip
    for place, one in enumerate((rows[0].paper, rows[0].finer) if rows else ()):
        scales[place] = (PALETTES[one.style.palette], 1.0, f"score, {one.style.opacity:.0%} opaque on the slide")
    for axes, (palette, limit, label) in zip(grid[-1][1:], scales, strict=True):
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, limit), palette)
        ends = "max" if limit < 1 else "neither"
        bar = figure.colorbar(scale, cax=axes, orientation="horizontal", extend=ends)
        bar.set_label(label, fontsize=9)
        bar.set_ticks([0, limit / 2, limit])
    return figure


def _titles(rows: Sequence[Compared]) -> list[str]:
    finer = rows[0].finer if rows else None
    networks = max((len(row.finer.windows.folds) for row in rows), default=0)
    denser = any(len(row.finer.windows.table) > len(row.paper.windows.table) for row in rows)
    how = f"finer ({finer.style.weights if finer else ''} weights)" if denser else "the same windows, mean of networks"
    return ["slide", "the paper's recipe", how, f"spread of {networks} network{'s' * (networks != 1)}"]


def _panel(axes: matplotlib.axes.Axes, image: NDArray[np.uint8]) -> None:
    axes.imshow(image, interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])


def _uncertainty(axes: matplotlib.axes.Axes, one: SlideMap) -> None:
    sd = np.concatenate([band.sd for band in one.bands()])
    if np.isnan(sd).all():
        _panel(axes, np.full((*one.frame.shape, 3), 255, np.uint8))
        axes.text(
            0.5, 0.5, "not measured:\none network", transform=axes.transAxes, ha="center", va="center", fontsize=9
        )
        return
    _panel(axes, colour_map(sd, "uncertainty", 0.0, SD_LIMIT))
    axes.set_xlabel(f"largest {np.nanmax(sd):.2f}", fontsize=7, labelpad=1)


def _scale_bar(axes: matplotlib.axes.Axes, one: SlideMap) -> None:
    frame = one.frame
    um = scale_bar_um(frame.columns * frame.step_x * frame.mpp)
    length, y = um / (frame.step_x * frame.mpp), frame.rows * 0.95
    axes.plot([frame.columns * 0.04, frame.columns * 0.04 + length], [y, y], color="black", lw=2, solid_capstyle="butt")
    text = axes.text(frame.columns * 0.04, frame.rows * 0.92, length_text(um), fontsize=7, va="bottom")
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
