"""A fixed bank of label-free numbers of a tile: stain, nuclei and texture, in micrometres and optical density.

Nothing here is learned, so a reader on top of it can be refitted to hundreds of exchanged labels while the features
stay what they are. Haematoxylin and eosin are separated by Ruifrok's fixed vectors (Ruifrok & Johnston 2001); nuclei
are what stands out in red light, which eosin hardly absorbs (Otsu 1979 within the tile), divided at the necks (each
pixel to the nearest peak of the distance transform). It is a cheap segmentation: it counts and measures well enough to
compare tiles, not to diagnose a nucleus.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from deeplrhe_utils.stain.colour import GLASS_DENSITY, od_to_hsd, optical_density

_Rgb = NDArray[np.uint8]
_Gray = NDArray[np.float32]
_Floats = NDArray[np.float64]

SCALES_UM: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Standard deviations of the Gaussians between which texture is measured [µm]."""
FEATURES: Final[dict[str, str]] = {
    "tissue_share": "share of pixels denser than glass",
    "h_mean": "mean haematoxylin of tissue [optical density]",
    "h_sd": "its standard deviation",
    "h_p95": "its 95th percentile",
    "e_mean": "mean eosin of tissue [optical density]",
    "e_sd": "its standard deviation",
    "e_p95": "its 95th percentile",
    "h_e_correlation": "correlation of the two over tissue",
    "cx_mean": "mean red chroma of tissue (HSD)",
    "cx_sd": "its standard deviation",
    "cy_mean": "mean green–blue chroma of tissue (HSD)",
    "cy_sd": "its standard deviation",
    "nuclei_per_mm2": "nuclei per mm² of tissue, as log(1 + n)",
    "nuclear_share": "share of tissue that is nucleus",
    "round_mean": "mean of minor by major axis of nuclei",
    "round_sd": "its standard deviation",
    "spindle_share": "share of nuclei whose minor axis is less than half the major one",
    "nuclear_h": "mean haematoxylin of nuclei [optical density]",
    "nuclear_h_sd": "standard deviation of the same between nuclei",
    "large_per_mm2": "large round nuclei per mm² of tissue, as log(1 + n)",
    "small_per_mm2": "small round nuclei, as lymphocytes have, per mm² of tissue, as log(1 + n)",
    "small_share": "small round nuclei by all round ones",
    "area_mean": "mean area of large round nuclei [log µm²]",
    "area_sd": "its standard deviation",
    "area_median": "its median",
    "area_p90": "its 90th percentile",
    "large_round": "mean of minor by major axis of large round nuclei",
    "large_h": "their mean haematoxylin [optical density]",
    "chromatin": "standard deviation of haematoxylin inside them, divided by its mean: mean over nuclei",
    "chromatin_sd": "standard deviation of the same between nuclei",
    "neighbour_mean": "distance of large round nuclei to the nearest other [log µm], mean",
    "neighbour_sd": "its standard deviation",
    "nest_share": "share of tissue that is nest: large round nuclei crowd there",
    "nest_large_per_mm2": "large round nuclei per mm² of nest, as log(1 + n)",
    "nest_nuclear_share": "share of nests that is nucleus",
    "nest_small_share": "small by all round nuclei in nests",
    **{f"h_band_{a:g}_{b:g}": f"haematoxylin between {a:g} and {b:g} µm: log standard deviation over tissue"
       for a, b in pairwise(SCALES_UM)},
    **{f"e_band_{a:g}_{b:g}": f"eosin between {a:g} and {b:g} µm: log standard deviation over tissue"
       for a, b in pairwise(SCALES_UM)},
    "coherence": "how parallel structures are over 8 µm: mean anisotropy of the structure tensor in [0, 1]",
}  # fmt: skip
"""Name → definition, in the order of the columns."""

STAIN: Final = tuple(list(FEATURES)[1:12])
"""Columns of stain and chroma: what a tile whose pixels were shuffled still has."""
_HE: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], np.float64)
_UNMIX: Final = np.linalg.pinv(_HE / np.linalg.norm(_HE, axis=1, keepdims=True)).astype(np.float32)
_LEAST_TISSUE: Final = 0.01  # share of a tile
_SMOOTH_UM: Final = 0.6
_GROUND_UM: Final = 12.0  # what is wider than this is ground, not a nucleus
_LEAST_CONTRAST: Final = 0.08  # optical density: below it Otsu divides noise, not nuclei from ground
_PEAK_UM: Final = 0.7
_APART_UM: Final = 2.0  # centres of two nuclei
_LEAST_UM2: Final = 10.0
_LARGEST_UM2: Final = 400.0
_LARGE_UM2: Final = 30.0
_SMALL_UM2: Final = 32.0
_NEST_UM: Final = 12.0
_NEST_SHARE: Final = 0.12


def tile_bank(tile: _Rgb, mpp: float) -> _Floats:
    """The bank of one tile.

    Parameters
    ----------
    tile : uint8 RGB (H, W, 3)
    mpp : its resolution [µm/px]; up to 1 µm/px nuclei are resolved

    Returns (len(FEATURES),): in the order of :data:`FEATURES`; what a tile without tissue or nuclei cannot have is 0.
    """
    od = optical_density(tile)
    h, e = np.moveaxis(np.maximum(od @ _UNMIX, 0.0), -1, 0)
    hsd = od_to_hsd(od)
    tissue = cv2.blur(hsd[..., 0], (3, 3)) > GLASS_DENSITY
    if tissue.mean() < _LEAST_TISSUE:
        return np.zeros(len(FEATURES))
    found = {"tissue_share": float(tissue.mean()), "h_e_correlation": _correlation(h[tissue], e[tissue])}
    for name, values in (("h", h[tissue]), ("e", e[tissue])):
        found |= {f"{name}_mean": values.mean(), f"{name}_sd": values.std(), f"{name}_p95": np.quantile(values, 0.95)}
    for name, values in (("cx", hsd[..., 1][tissue]), ("cy", hsd[..., 2][tissue])):
        found |= {f"{name}_mean": values.mean(), f"{name}_sd": values.std()}
    found |= _bands("h", h, tissue, mpp) | _bands("e", e, tissue, mpp) | _nuclear(od[..., 0], h, tissue, mpp)
    found["coherence"] = _coherence(h, tissue, mpp)
    return np.nan_to_num(np.array([found.get(name, 0.0) for name in FEATURES], np.float64))


def _correlation(a: _Gray, b: _Gray) -> float:
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 1e-9 else 0.0


def _blurred(image: _Gray, sigma_um: float, mpp: float) -> _Gray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_um / mpp, borderType=cv2.BORDER_REFLECT_101))


def _bands(name: str, image: _Gray, tissue: NDArray[np.bool_], mpp: float) -> dict[str, float]:
    levels = [_blurred(image, s, mpp) for s in SCALES_UM]
    return {f"{name}_band_{a:g}_{b:g}": float(np.log((fine - coarse)[tissue].std() + 1e-4))
            for (a, b), (fine, coarse) in zip(pairwise(SCALES_UM), pairwise(levels), strict=True)}  # fmt: skip


def _coherence(h: _Gray, tissue: NDArray[np.bool_], mpp: float) -> float:
    fine = _blurred(h, 1.0, mpp)
    dx, dy = (cv2.Sobel(fine, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (_blurred(p, 8.0, mpp) for p in (dx * dx, dy * dy, dx * dy))
    return float((np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-8))[tissue].mean())


def nuclei_of(red: _Gray, tissue: NDArray[np.bool_], mpp: float) -> NDArray[np.int32]:
    """Nuclei as labels (H, W) from 1 on, 0 elsewhere, from the optical density of red (H, W)."""
    smooth = _blurred(red, _SMOOTH_UM, mpp)
    lifted = np.maximum(smooth - _blurred(smooth, _GROUND_UM, mpp), 0.0)
    top = float(np.quantile(lifted[tissue], 0.995)) + 1e-6
    scaled = np.clip(lifted * (255 / top), 0, 255).astype(np.uint8)
    cut, _ = cv2.threshold(scaled[tissue].reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = (scaled > cut) & tissue
    if not mask.any() or cut * top / 255 < _LEAST_CONTRAST:
        return np.zeros(red.shape, np.int32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    peaks = cv2.GaussianBlur(distance, (0, 0), max(0.5, _PEAK_UM / mpp))
    reach = 2 * max(1, round(_APART_UM / mpp)) + 1
    highest = cv2.dilate(peaks, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    away = ((peaks < highest) | ~mask).astype(np.uint8)
    _, cells = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    return np.where(mask, cells, 0).astype(np.int32)


def _nuclear(red: _Gray, h: _Gray, tissue: NDArray[np.bool_], mpp: float) -> dict[str, float]:
    labels = nuclei_of(red, tissue, mpp)
    y, x = np.nonzero(labels)
    which = labels[y, x]
    pixels = np.bincount(which)[1:].astype(np.float64)
    real = (pixels * mpp**2 >= _LEAST_UM2) & (pixels * mpp**2 <= _LARGEST_UM2)
    if not real.any():
        return {}

    def mean_of(values: NDArray[Any]) -> _Floats:
        return np.asarray(np.bincount(which, values.astype(np.float64))[1:][real] / pixels[real])

    square_mm = (mpp / 1000) ** 2
    column, row, dark = mean_of(x), mean_of(y), mean_of(h[y, x])
    xx, yy, xy = mean_of(x * x) - column**2, mean_of(y * y) - row**2, mean_of(x * y) - column * row
    long, spread = xx + yy + 1e-6, np.hypot(xx - yy, 2 * xy)
    roundness = np.sqrt(np.maximum(long - spread, 0) / (long + spread))
    inside = np.sqrt(np.maximum(mean_of(h[y, x] ** 2) - dark**2, 0)) / (dark + 1e-6)
    area = pixels[real] * mpp**2
    is_large = (area >= _LARGE_UM2) & (roundness > 0.5)
    is_small = (area < _SMALL_UM2) & (roundness > 0.7) & (dark > np.median(dark))
    found = {
        "nuclei_per_mm2": np.log1p(len(area) / (tissue.sum() * square_mm)),
        "nuclear_share": pixels[real].sum() / tissue.sum(),
        "round_mean": roundness.mean(), "round_sd": roundness.std(), "spindle_share": (roundness < 0.5).mean(),
        "nuclear_h": dark.mean(), "nuclear_h_sd": dark.std(),
        "large_per_mm2": np.log1p(is_large.sum() / (tissue.sum() * square_mm)),
        "small_per_mm2": np.log1p(is_small.sum() / (tissue.sum() * square_mm)),
        "small_share": _share_of(is_small, is_large),
    }  # fmt: skip
    if is_large.sum() > 1:
        size = np.log(area[is_large])
        places = np.column_stack([column, row])
        near = np.log(cKDTree(places[is_large]).query(places[is_large], k=2)[0][:, 1] * mpp + 1e-6)
        found |= {
            "area_mean": size.mean(), "area_sd": size.std(), "area_median": np.median(size),
            "area_p90": np.quantile(size, 0.9), "large_round": roundness[is_large].mean(),
            "large_h": dark[is_large].mean(), "chromatin": inside[is_large].mean(),
            "chromatin_sd": inside[is_large].std(), "neighbour_mean": near.mean(), "neighbour_sd": near.std(),
        }  # fmt: skip
        large = np.isin(labels, np.flatnonzero(real)[is_large] + 1).astype(np.float32)
        nest = (_blurred(large, _NEST_UM, mpp) > _NEST_SHARE) & tissue
        within = nest[np.rint(row).astype(int), np.rint(column).astype(int)]
        if nest.any():
            found |= {
                "nest_share": nest.sum() / tissue.sum(),
                "nest_large_per_mm2": np.log1p((within & is_large).sum() / (nest.sum() * square_mm)),
                "nest_nuclear_share": (nest & (labels > 0)).sum() / nest.sum(),
                "nest_small_share": _share_of(within & is_small, within & is_large),
            }
    return {name: float(value) for name, value in found.items()}


def _share_of(small: NDArray[np.bool_], large: NDArray[np.bool_]) -> float:
    """Small by all round nuclei, drawn half a nucleus towards one half: two of two say less than twenty of twenty."""
    return float((small.sum() + 0.5) / (small.sum() + large.sum() + 1))
