"""How a picture of tissue looks, in numbers, and plates and curves of them: synthetic fields beside real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deeplrhe_utils.reporting.figures.style import PALETTE

JPEG_QUALITY: Final = 75
DETAIL_SIZES_UM: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Widths of stripes at which :func:`detail_curves` measures contrast [µm]."""
_LIGHT_PERCENT: Final = 85
_ROUNDING: Final = 0.02  # 0.5029 µm/px counts as 0.5
_PERCENTILES: Final = (5, 25, 50, 75, 95)
_TISSUE_DENSITY: Final = 0.08  # mean optical density above which a pixel is tissue
_CHANNELS: Final = ("red", "green", "blue")
_DENSITY_BINS: Final = np.linspace(0.0, 1.6, 65)
_HUE_BINS: Final = np.linspace(-181.0, 179.0, 91)  # hue is even: no value lies on an edge
_AREA_BINS: Final = np.geomspace(2.0, 400.0, 33)
_SIGMA_PER_SIZE: Final = 0.306  # stripes of width w pass the difference of Gaussians of 0.306 w and 0.612 w best


def tissue_colours(field: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Optical density (log10, n × 3) and hue (degrees, n) of a field's tissue pixels.

    Hue runs from −180 to 180 with red at 0, so that it goes from purple to red without a jump.

    Parameters
    ----------
    field : ndarray, shape (height, width, 3), uint8: RGB
    """
    density = -np.log10((field.reshape(-1, 3).astype(np.float32) + 1) / 256)
    hue = 2.0 * cv2.cvtColor(field, cv2.COLOR_RGB2HSV).reshape(-1, 3)[:, 0].astype(np.float32)
    tissue = density.mean(axis=1) > _TISSUE_DENSITY
    return density[tissue], (hue[tissue] + 180) % 360 - 180


def jpeg_bytes_per_pixel(field: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> float:
    """Size of a field as JPEG (4:2:0) per pixel [bytes]: how much detail and noise it holds."""
    bgr = cv2.cvtColor(field, cv2.COLOR_RGB2BGR)
    return len(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]) / (field.shape[0] * field.shape[1])


def describe_field(name: str, field: NDArray[np.uint8]) -> dict[str, object]:
    """One row of :func:`describe_fields`."""
    density, hue = tissue_colours(field)
    row: dict[str, object] = {"field": name, "tissue_share": len(hue) / (field.shape[0] * field.shape[1])}
    for channel, values in zip(_CHANNELS, density.T, strict=True):
        row |= _percentiles(f"od_{channel}", values)
    row |= _percentiles("hue", hue)
    row["detail"] = float(cv2.Laplacian(_grey(field), cv2.CV_32F).std())
    return row | {"jpeg_bytes_per_px": jpeg_bytes_per_pixel(field)}


def _percentiles(name: str, values: NDArray[np.float32]) -> dict[str, float]:
    found = np.percentile(values, _PERCENTILES) if len(values) else np.full(len(_PERCENTILES), np.nan)
    return {f"{name}_p{p}": float(v) for p, v in zip(_PERCENTILES, found, strict=True)}


def _grey(field: NDArray[np.uint8]) -> NDArray[np.float32]:
    return field.astype(np.float32).mean(axis=2)


def describe_fields(fields: Iterable[tuple[str, NDArray[np.uint8]]]) -> pd.DataFrame:
    """One row per field: share of tissue, percentiles of optical density and hue of tissue, detail, JPEG size.

    Parameters
    ----------
    fields : iterable of (name, uint8 RGB): all at one resolution, or the rows cannot be compared

    Returns DataFrame: field, tissue_share [0–1], od_<channel>_p5 … p95 (log10), hue_p5 … p95 [degrees, −180 to 180, red
    is 0], detail (standard deviation of the Laplacian of grey) [grey levels], jpeg_bytes_per_px. Percentiles are NaN in
    a field without tissue.
    """
    return pd.DataFrame([describe_field(name, field) for name, field in fields])


def dark_grain(field: NDArray[np.uint8]) -> float:
    """Contrast between neighbouring pixels in the darkest 15 % of a field, which are its nuclei.

    Standard deviation of the Laplacian of optical density in red, relative to the mean density there: what a reader of
    fine chromatin may look at. NaN where those pixels hold no density.

    Parameters
    ----------
    field : ndarray, shape (height, width, 3), uint8: RGB
    """
    density = -np.log10((field[..., 0].astype(np.float32) + 1) / 256)
    smooth = cv2.blur(density, (5, 5))
    dark = smooth >= np.percentile(smooth, _LIGHT_PERCENT)
    mean = float(density[dark].mean())
    return float(cv2.Laplacian(density, cv2.CV_32F)[dark].std()) / mean if mean > 0 else float("nan")


def outline_areas(outlines: Iterable[NDArray[np.float64]], mpp: float) -> NDArray[np.float64]:
    """Areas [µm²] of closed outlines given as (n, 2) vertices [px]; those of fewer than three are left out."""
    areas = []
    for ring in outlines:
        if len(ring) >= 3:
            x, y = (ring - ring[0]).T
            areas.append(0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) * mpp**2)
    return np.array(areas)


def colour_curves(fields: Iterable[tuple[str, NDArray[np.uint8]]]) -> pd.DataFrame:
    """Distributions of optical density and hue over the tissue of each field.

    Parameters
    ----------
    fields : iterable of (name, uint8 RGB)

    Returns DataFrame: field, quantity (od_red, od_green, od_blue, hue), x (middle of a bin), value (share of the
    field's tissue pixels in the bin [0–1]). Density beyond the last bin counts in the last.
    """
    parts = []
    for name, pixels in fields:
        density, hue = tissue_colours(pixels)
        for channel, values in zip(_CHANNELS, density.T, strict=True):
            parts.append(_curve(name, f"od_{channel}", np.minimum(values, _DENSITY_BINS[-1]), _DENSITY_BINS))
        parts.append(_curve(name, "hue", hue, _HUE_BINS))
    return pd.concat(parts, ignore_index=True)


def area_curves(areas: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """Distribution of nuclear area [µm²] in each field, as :func:`colour_curves` (quantity ``area``, bins by ratio)."""
    return pd.concat([_curve(name, "area", values, _AREA_BINS) for name, values in areas.items()], ignore_index=True)


def detail_curves(fields: Iterable[tuple[str, NDArray[np.uint8]]], mpp: float) -> pd.DataFrame:
    """Contrast of grey by size of detail in each field: where a Laplacian gives one number, a curve.

    Parameters
    ----------
    fields : iterable of (name, uint8 RGB)
    mpp : resolution of all of them [µm/px]

    Returns DataFrame: field, quantity (``detail``), x (width of stripes [µm], one of :data:`DETAIL_SIZES_UM`, at least
    two pixels), value (standard deviation of a difference of two Gaussians that passes this width best [grey levels]).
    """
    sizes = [size for size in DETAIL_SIZES_UM if size >= 2 * mpp * (1 - _ROUNDING)]
    rows = []
    for name, pixels in fields:
        grey = _grey(pixels)
        for size in sizes:
            sigma = _SIGMA_PER_SIZE * size / mpp
            fine, coarse = (cv2.GaussianBlur(grey, (0, 0), s) for s in (sigma, 2 * sigma))
            rows.append((name, "detail", size, float((fine - coarse).std())))
    return pd.DataFrame(rows, columns=["field", "quantity", "x", "value"])


def _curve(name: str, quantity: str, values: NDArray[np.floating], edges: NDArray[np.float64]) -> pd.DataFrame:
    middle = np.sqrt(edges[1:] * edges[:-1]) if edges is _AREA_BINS else (edges[1:] + edges[:-1]) / 2
    share = np.histogram(values, edges)[0] / max(len(values), 1)
    return pd.DataFrame({"field": name, "quantity": quantity, "x": middle, "value": share})


def envelope(curves: pd.DataFrame) -> pd.DataFrame:
    """5th percentile, median and 95th percentile over fields, for each quantity and x.

    Parameters
    ----------
    curves : from :func:`colour_curves`, :func:`area_curves` or :func:`detail_curves`

    Returns DataFrame: quantity, x, low, middle, high.
    """
    found = curves.groupby(["quantity", "x"])["value"].quantile([0.05, 0.5, 0.95]).unstack().reset_index()
    return found.set_axis(["quantity", "x", "low", "middle", "high"], axis=1)


def compare(real: pd.DataFrame, synthetic: pd.DataFrame) -> pd.DataFrame:
    """Least, median and largest value over real and over synthetic fields, for every number both tables hold.

    Parameters
    ----------
    real, synthetic : one row per field, such as :func:`describe_fields` gives; columns that are not numbers are left
        out. A NaN counts as not measured.

    Returns DataFrame: quantity, n_real, real_low, real_median, real_high, n_synthetic, synthetic_low, synthetic_median,
    synthetic_high; overlap: share of synthetic fields inside the real range [0–1].
    """
    rows = []
    for quantity in real.select_dtypes("number").columns.intersection(synthetic.columns):
        row: dict[str, object] = {"quantity": quantity}
        sides = {"real": real[quantity].dropna(), "synthetic": synthetic[quantity].dropna()}
        for name, values in sides.items():
            row[f"n_{name}"] = len(values)
            row |= {f"{name}_low": values.min(), f"{name}_median": values.median(), f"{name}_high": values.max()}
        inside = sides["synthetic"].between(sides["real"].min(), sides["real"].max())
        rows.append(row | {"overlap": float(inside.mean())})
    return pd.DataFrame(rows)


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
                _draw_curves(axes, panel)
            else:
                _draw_points(axes, panel)
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


def _draw_curves(axes: Axes, panel: Curves) -> None:
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


def _draw_points(axes: Axes, panel: Points) -> None:
    columns = ((panel.real, panel.real_median, _REAL), (panel.synthetic, panel.synthetic_median, _SYNTHETIC))
    for centre, (values, median, colour) in enumerate(columns):
        spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(centre + spread, values, ls="", marker="o", ms=3.5, color=colour, alpha=0.8)
        axes.plot([centre - 0.32, centre + 0.32], [median, median], color=colour, lw=2)
    axes.set_xticks([0, 1], ["real", "synthetic"])
    axes.set_xlim(-0.6, 1.6)
    axes.set_xlabel(panel.label, fontsize=8)
