"""Figures of the synthetic cohort's own page: plates of fields, and distributions beside those of real tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deeplrhe_utils.reporting.figures import PALETTE

DPI: Final = 100
_GAP_PX, _HEAD_PX, _TITLE_PX = 6, 24, 16  # between panels, above a row, above a panel
_BARS_UM: Final = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_REAL, _SYNTHETIC = PALETTE[1], PALETTE[0]
OUTLINES: Final = {
    "Tumor": ("#ffd000", "-"),
    "Subclone": ("#00d080", "-"),
    "delivered": ("#000000", "--"),
    "artefact": ("#ffd000", "-"),
}
"""Colour and line of an outline on a plate, by what it encloses; the part with regional effects is tinted, too."""
_TINTED: Final = "Subclone"


@dataclass(frozen=True)
class Panel:
    """One picture of a plate, shown pixel by pixel.

    Attributes
    ----------
    image : uint8 RGB
    mpp : resolution of the picture [µm/px]; a bar shows it
    outlines : sequence of (name, ring)
        Names are those of :data:`OUTLINES`; rings are (n, 2) points (x, y) [px of the picture], closed.
    """

    image: NDArray[np.uint8]
    title: str
    mpp: float
    outlines: Sequence[tuple[str, NDArray[np.float64]]] = field(default=())


def plate(rows: Sequence[tuple[str, Sequence[Panel]]]) -> Figure:
    """Rows of pictures under a heading each (or none).

    Saved at its own dpi, a pixel of a picture is a pixel of the file.
    """
    widths = [sum(p.image.shape[1] + _GAP_PX for p in panels) + _GAP_PX for _, panels in rows]
    heads = [_HEAD_PX if heading else 0 for heading, _ in rows]
    heights = [
        max(p.image.shape[0] for p in panels) + h + _TITLE_PX for h, (_, panels) in zip(heads, rows, strict=True)
    ]
    width, height = max(widths), sum(heights) + _GAP_PX
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    top = 0
    for (heading, panels), head, step in zip(rows, heads, heights, strict=True):
        figure.text(_GAP_PX / width, 1 - (top + _HEAD_PX - 6) / height, heading, fontsize=9, fontweight="bold")
        left = _GAP_PX
        for panel in panels:
            high, wide = panel.image.shape[:2]
            bottom = top + head + _TITLE_PX + high
            axes = figure.add_axes((left / width, 1 - bottom / height, wide / width, high / height))
            _picture(axes, panel)
            figure.text(left / width, 1 - (bottom - high - 4) / height, panel.title, fontsize=8)
            left += wide + _GAP_PX
        top += step
    return figure


def _picture(axes: Axes, panel: Panel) -> None:
    high, wide = panel.image.shape[:2]
    axes.imshow(panel.image, interpolation="none", aspect="auto")
    for name, ring in panel.outlines:
        colour, line = OUTLINES[name]
        axes.plot(ring[:, 0], ring[:, 1], ls=line, lw=1.8, color=colour)
        if name == _TINTED:
            axes.fill(ring[:, 0], ring[:, 1], color=colour, alpha=0.14, lw=0)
    bar_um = max((b for b in _BARS_UM if b / panel.mpp <= wide / 3), default=_BARS_UM[0])
    length = bar_um / panel.mpp
    axes.add_patch(Rectangle((wide - length - 14, high - 22), length + 8, 18, color="white", alpha=0.8, lw=0))
    axes.plot([wide - length - 10, wide - 10], [high - 8, high - 8], color="black", lw=2, solid_capstyle="butt")
    axes.text(wide - 10 - length / 2, high - 11, f"{bar_um} µm", ha="center", va="bottom", fontsize=6)
    axes.set_axis_off()
    axes.set_xlim(-0.5, wide - 0.5)
    axes.set_ylim(high - 0.5, -0.5)


@dataclass(frozen=True)
class Curves:
    """A panel of curves.

    Attributes
    ----------
    real : field, x, value: one line per field
    synthetic : x, low, middle, high: a band and a line
    title, label : above the panel, and below its axis
    by_ratio : whether x is drawn by ratio
    limits : (low, high), optional: ends of the axis
    """

    real: pd.DataFrame
    synthetic: pd.DataFrame
    title: str
    label: str
    by_ratio: bool = False
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Points:
    """A panel of one value per field, in two columns: real with `real_median`, synthetic with `synthetic_median`."""

    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]
    real_median: float
    synthetic_median: float
    title: str
    label: str


def distributions(grid: Sequence[Sequence[Curves | Points]]) -> Figure:
    """Real fields as lines (or points) beside synthetic ones as a band with its median (or points)."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.75)
    figure = Figure(figsize=(9.4, 2.25 * len(grid) + 0.3), dpi=DPI, layout="constrained")
    every = figure.subplots(len(grid), max(map(len, grid)), squeeze=False)
    for row, panels in zip(every, grid, strict=True):
        for axes in row[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(row, panels, strict=False):
            if isinstance(panel, Curves):
                _curves(axes, panel)
            else:
                _points(axes, panel)
            axes.set_title(panel.title, fontsize=9)
            axes.set_ylim(bottom=0)
    sns.despine(figure)
    first = every[0][0]
    handles = [
        first.plot([], [], color=_REAL, lw=1.2, label="real field")[0],
        first.plot([], [], color=_SYNTHETIC, lw=2, label="synthetic fields, median")[0],
        first.fill_between([], [], [], color=_SYNTHETIC, alpha=0.25, lw=0, label="synthetic fields, 5 to 95 %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _curves(axes: Axes, panel: Curves) -> None:
    band = panel.synthetic
    axes.fill_between(band["x"], band["low"], band["high"], color=_SYNTHETIC, alpha=0.25, lw=0)
    axes.plot(band["x"], band["middle"], color=_SYNTHETIC, lw=2)
    for _, one in panel.real.groupby("field"):
        axes.plot(one["x"], one["value"], color=_REAL, lw=1.0)
    if panel.by_ratio:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlim(panel.limits)
    axes.set_xlabel(panel.label, fontsize=8)


def _points(axes: Axes, panel: Points) -> None:
    columns = ((panel.real, panel.real_median, _REAL), (panel.synthetic, panel.synthetic_median, _SYNTHETIC))
    for centre, (values, median, colour) in enumerate(columns):
        spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(centre + spread, values, ls="", marker="o", ms=3.5, color=colour, alpha=0.8)
        axes.plot([centre - 0.32, centre + 0.32], [median, median], color=colour, lw=2)
    axes.set_xticks([0, 1], ["real", "synthetic"])
    axes.set_xlim(-0.6, 1.6)
    axes.set_xlabel(panel.label, fontsize=8)
