"""How a picture of tissue looks, in numbers: to compare synthetic fields with real ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

JPEG_QUALITY: Final = 75
_PERCENTILES: Final = (5, 25, 50, 75, 95)
_TISSUE_DENSITY: Final = 0.08  # mean optical density above which a pixel is tissue


def tissue_colours(field: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Optical density (log10, n × 3) and hue (degrees, n) of a field's tissue pixels.

    Parameters
    ----------
    field : ndarray, shape (height, width, 3), uint8
        RGB.
    """
    density = -np.log10((field.reshape(-1, 3).astype(np.float32) + 1) / 256)
    hue = 2.0 * cv2.cvtColor(field, cv2.COLOR_RGB2HSV).reshape(-1, 3)[:, 0].astype(np.float32)
    tissue = density.mean(axis=1) > _TISSUE_DENSITY
    return density[tissue], hue[tissue]


def jpeg_bytes_per_pixel(field: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> float:
    """Size of a field as JPEG (4:2:0) per pixel [bytes]: how much detail and noise it holds."""
    bgr = cv2.cvtColor(field, cv2.COLOR_RGB2BGR)
    return len(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]) / (field.shape[0] * field.shape[1])


def describe_field(name: str, field: NDArray[np.uint8]) -> dict[str, object]:
    """One row of :func:`describe_fields`."""
    density, hue = tissue_colours(field)
    row: dict[str, object] = {"field": name, "tissue_share": len(hue) / (field.shape[0] * field.shape[1])}
    for channel, values in zip(("red", "green", "blue"), density.T, strict=True):
        row |= {
            f"od_{channel}_p{p}": float(v)
            for p, v in zip(_PERCENTILES, np.percentile(values, _PERCENTILES), strict=True)
        }
    turned = (hue + 180) % 360 - 180  # purple to red, without a jump at red
    row |= {f"hue_p{p}": float(v) for p, v in zip(_PERCENTILES, np.percentile(turned, _PERCENTILES), strict=True)}
    grey = field.astype(np.float32).mean(axis=2)
    row["detail"] = float(cv2.Laplacian(grey, cv2.CV_32F).std())
    return row | {"jpeg_bytes_per_px": jpeg_bytes_per_pixel(field)}


def describe_fields(fields: Iterable[tuple[str, NDArray[np.uint8]]]) -> pd.DataFrame:
    """One row per field: share of tissue, percentiles of optical density and hue of tissue, detail, JPEG size.

    Parameters
    ----------
    fields : iterable of (name, uint8 RGB)
        All at one resolution, or the rows cannot be compared.

    Returns
    -------
    DataFrame
        field, tissue_share [0–1], od_<channel>_p5 … p95 (log10), hue_p5 … p95 [degrees, −180 to 180, red is 0],
        detail (standard deviation of the Laplacian of grey) [grey levels], jpeg_bytes_per_px.
    """
    import pandas as pd

    return pd.DataFrame([describe_field(name, field) for name, field in fields])


def outline_areas(outlines: Iterable[NDArray[np.float64]], mpp: float) -> NDArray[np.float64]:
    """Areas [µm²] of closed outlines given as (n, 2) vertices [px]; those of fewer than three are left out."""
    areas = []
    for ring in outlines:
        if len(ring) >= 3:
            x, y = ring[:, 0], ring[:, 1]
            areas.append(0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) * mpp**2)
    return np.array(areas)
