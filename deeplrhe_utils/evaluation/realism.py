"""How a picture of tissue looks, in numbers: to compare synthetic fields with real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
    for name, field in fields:
        density, hue = tissue_colours(field)
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
    for name, field in fields:
        grey = _grey(field)
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
