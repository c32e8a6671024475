"""The paper's map and a finer one side by side, with how far networks differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.text import said
from deeplrhe_utils.reporting.exports.export import MapStyle, SlideMap
from deeplrhe_utils.reporting.exports.picture import length_text, scale_bar_um
from deeplrhe_utils.reporting.figures.style import PALETTE, draw_grid, new_figure
from deeplrhe_utils.reporting.heatmaps.bands import PALETTES, UNCERTAINTY, Frame, Scale, colour_map

SD_LIMIT: Final = 0.25
"""Upper end of the scale of standard deviations; two networks at 0.25 and 0.6 give that."""


@dataclass(frozen=True)
class Compared:
    """One slide's row of :func:`finer_maps`: the paper's map and a finer one, both over the same picture."""

    paper: SlideMap
    finer: SlideMap


def finer_maps(rows: Sequence[Compared]) -> Figure:
    """A row per slide: slide with scale bar, the paper's map, the finer map, standard deviation over networks.

    Both maps have outlines at their style's thresholds.
    Where fewer than two networks scored a pixel, no standard deviation is drawn; if that is so everywhere, the panel
    says it.
    """
    figure = new_figure(7.0, 1.35 * len(rows) + 0.8)
    grid = figure.subplots(len(rows) + 1, 4, squeeze=False, height_ratios=[*[1.0] * len(rows), 0.06])
    for line, row in zip(grid, rows, strict=False):
        picture = row.finer.picture
        _panel(line[0], np.full((*row.finer.frame.shape, 3), 255, np.uint8) if picture is None else picture)
        _scale_bar(line[0], row.finer)
        for axes, one in ((line[1], row.paper), (line[2], row.finer)):
            _panel(axes, one.overlaid())
            _outlines(axes, one)
        _uncertainty(line[3], row.finer)
        line[0].set_ylabel(said(row.finer.slide_id, 14), fontsize=7)
    for axes, title in zip(grid[0], _titles(rows), strict=True):
        axes.set_title(title, fontsize=8)
    grid[-1][0].axis("off")
    styles = [one.style for one in (rows[0].paper, rows[0].finer)] if rows else [MapStyle(), MapStyle()]
    for axes, style in zip(grid[-1][1:], styles, strict=False):
        colour_bar(figure, axes, style.palette, style.scale, orientation="horizontal")
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, SD_LIMIT), UNCERTAINTY)
    bar = figure.colorbar(scale, cax=grid[-1][3], orientation="horizontal", extend="max")
    bar.set_label("standard deviation", fontsize=8)
    bar.set_ticks([0, SD_LIMIT])
    bar.ax.tick_params(labelsize=8)
    return figure


def colour_bar(figure: Figure, axes: Axes, palette: str, scale: Scale, **options: Any) -> None:
    """A colour bar of a map; `options` of `Figure.colorbar`."""
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(cmap=PALETTES[palette]), cax=axes, **options)
    bar.set_ticks(list(scale.ticks), labels=list(scale.ticks.values()))
    bar.set_label(scale.label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def map_steps(one: SlideMap, *, tile_px: int) -> Figure:
    """Figure 7: A probability image, B the window scan (`tile_px` [px]), C value ↔ colour, D heat map."""
    figure = new_figure(6.6, 4.6)
    (a, b), (c, d) = figure.subplots(2, 2)
    _panel(a, one.mean(), cmap="gray", vmin=0, vmax=1)
    _panel(b, np.full((*one.frame.shape, 3), 255, np.uint8) if one.picture is None else one.picture)
    draw_grid(b, b.images[0].get_array(), one.windows.table.assign(kept=True, reason=None), one.frame.width_l0_px)
    c.axis("off")
    bar = c.inset_axes((0.05, 0.45, 0.9, 0.12))
    colour_bar(figure, bar, one.style.palette, one.style.scale, orientation="horizontal")
    _panel(d, one.overlaid())
    _outlines(d, one)
    first, second = f"A  probability of {said(one.gene, 20)} mutation", f"B  {tile_px} × {tile_px} windows"
    titles = (first, second, "C  colours", "D  heat map")
    for axes, title in zip((a, b, c, d), titles, strict=True):
        axes.set_title(title, fontsize=9)
    return figure


def overview(
    one: SlideMap, tile: NDArray[np.uint8], normalized: NDArray[np.uint8], losses: Mapping[str, Sequence[float]],
    outline: BaseGeometry | None = None,
) -> Figure:  # fmt: skip
    """Figure 1: slide with the tumour's `outline` [level-0 px], tile, normalized tile, training, heat map.

    `losses` are those of each epoch, by network.
    """
    figure = new_figure(7.0, 3.0)
    grid = figure.add_gridspec(2, 3, width_ratios=(2.6, 1, 1), wspace=0.12, hspace=0.12)
    slide, a_tile, normal, heat, train = (figure.add_subplot(grid[place]) for place in
                                          ((slice(None), 0), (0, 1), (0, 2), (1, 1), (1, 2)))  # fmt: skip
    for axes, image in ((slide, one.picture), (a_tile, tile), (normal, normalized), (heat, one.overlaid())):
        _panel(axes, np.full((*one.frame.shape, 3), 255, np.uint8) if image is None else image)
    _scale_bar(slide, one)
    if outline is not None:
        _rings(slide, outline, one.frame, color=PALETTE[0], lw=1.6, ls="--")
    for name, values in losses.items():
        train.plot(range(1, len(values) + 1), values, lw=1, label=said(name, 12))
    if not losses:
        train.text(0.5, 0.5, "not stored here", transform=train.transAxes, ha="center", fontsize=8)
    train.set_xlabel("epoch", fontsize=8)
    train.tick_params(labelsize=7)
    sns.despine(ax=train)
    titles = ("A  slide, tumour outlined", "B  tile", "C  normalized", "E  heat map", "D  training loss")
    for axes, title in zip((slide, a_tile, normal, heat, train), titles, strict=True):
        axes.set_title(title, fontsize=9)
    ways = (((slide, 1.02, 0.8), (a_tile, -0.04, 0.5)), ((a_tile, 1.04, 0.5), (normal, -0.04, 0.5)),
            ((normal, 0.5, -0.04), (train, 0.5, 1.25)), ((train, -0.35, 0.5), (heat, 1.04, 0.5)))  # fmt: skip
    for (first, x, y), (second, u, v) in ways:
        figure.add_artist(ConnectionPatch((x, y), (u, v), first.transAxes, second.transAxes, arrowstyle="-|>",
                                          mutation_scale=11, color="0.3"))  # fmt: skip
    return figure


def _outlines(axes: Axes, one: SlideMap) -> None:
    for contour in one.contours():
        _rings(axes, contour.geometry, one.frame, color="black", lw=0.9)


def _rings(axes: Axes, shape: BaseGeometry, frame: Frame, **look: Any) -> None:
    """Outlines of polygons [level-0 px] on a map; the view stays."""
    view = axes.axis()
    for part in getattr(shape, "geoms", [shape]):
        for ring in (part.exterior, *part.interiors):
            axes.plot(*(np.asarray(ring.coords) / (frame.step_x, frame.step_y) - 0.5).T, **look)
    axes.axis(view)


def _titles(rows: Sequence[Compared]) -> list[str]:
    finer = rows[0].finer if rows else None
    networks = max((len(row.finer.windows.folds) for row in rows), default=0)
    denser = any(len(row.finer.windows.table) > len(row.paper.windows.table) for row in rows)
    how = f"finer ({finer.style.weights if finer else ''} weights)" if denser else "mean of networks"
    return ["slide", "the paper's recipe", how, f"spread, {networks} network{'s' * (networks != 1)}"]


def _panel(axes: Axes, image: NDArray[Any], **options: Any) -> None:
    axes.imshow(image, interpolation="none", **options)
    axes.set_xticks([])
    axes.set_yticks([])


def _uncertainty(axes: Axes, one: SlideMap) -> None:
    sd = np.concatenate([band.sd for band in one.bands()])
    if np.isnan(sd).all():
        _panel(axes, np.full((*one.frame.shape, 3), 255, np.uint8))
        axes.text(
            0.5, 0.5, "not measured:\none network", transform=axes.transAxes, ha="center", va="center", fontsize=9
        )
        return
    _panel(axes, colour_map(sd, "uncertainty", 0.0, SD_LIMIT))
    axes.set_xlabel(f"largest {np.nanmax(sd):.2f}", fontsize=7, labelpad=1)


def _scale_bar(axes: Axes, one: SlideMap) -> None:
    frame = one.frame
    um = scale_bar_um(frame.columns * frame.step_x * frame.mpp)
    length, y = um / (frame.step_x * frame.mpp), frame.rows * 0.95
    axes.plot([frame.columns * 0.04, frame.columns * 0.04 + length], [y, y], color="black", lw=2, solid_capstyle="butt")
    text = axes.text(frame.columns * 0.04, frame.rows * 0.92, length_text(um), fontsize=7, va="bottom")
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
