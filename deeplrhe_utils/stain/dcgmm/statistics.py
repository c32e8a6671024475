"""Colour statistics of a slide: responsibility-weighted moments of (D, cx, cy), additive over tiles.

Source: Zanjani et al. 2018 (the M-step), taken over a slide instead of over a tile: a tile of stroma does not hold the
classes it would be matched on, and maps that change from tile to tile draw a grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import od_to_hsd, optical_density
from deeplrhe_utils.stain.dcgmm.net import DcgmmNet, tissue_weight
from deeplrhe_utils.stain.glass import Glass, empty_glass, find_glass

TISSUE_DENSITY: Final = 0.12
SIGMA_FLOOR: Final = 0.01
MINIMUM_SHARE: Final = 0.01
SCALE_QUANTILE: Final = 0.95
FOREIGN_DISTANCE: Final = 25.0
"""Squared Mahalanobis distance to every component of the cohort beyond which a pixel is no stained tissue (ink)."""
_BIN: Final = 0.005
_BINS: Final = 1120


@dataclass(frozen=True)
class ColourStatistics:
    """What is known of one slide's colours.

    Attributes
    ----------
    net : digest of the network whose responsibilities weighted the moments
    scale : what density was divided by for that network [optical density]
    weight, first, second : float64, (K,), (K, 3), (K, 3, 3): σγ, Σγx and Σγxxᵀ of x = (D, cx, cy), D not scaled
    density : int64, (1120,): histogram of the density of tissue pixels, bins of 0.005 from 0
    tissue_px, foreign_px : sum of tissue weights; pixels left out because the cohort has no such colour [px]
    """

    net: str
    scale: float
    weight: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    density: NDArray[np.int64]
    tissue_px: float
    foreign_px: float = 0.0
    glass: Glass = field(default_factory=empty_glass)

    def means(self) -> NDArray[np.float64]:
        """Component means of (D, cx, cy), (K, 3)."""
        return self.first / np.maximum(self.weight, 1e-9)[:, None]

    def covariances(self) -> NDArray[np.float64]:
        """Component covariances, (K, 3, 3), eigenvalues floored at 0.01²."""
        means = self.means()
        raw = self.second / np.maximum(self.weight, 1e-9)[:, None, None] - means[:, :, None] * means[:, None, :]
        values, vectors = np.linalg.eigh(raw)
        values = np.maximum(values, SIGMA_FLOOR**2)
        return np.asarray((vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1))

    def shares(self) -> NDArray[np.float64]:
        """Share of tissue per component, (K,), sums to 1."""
        return np.asarray(self.weight / max(float(self.weight.sum()), 1e-9))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers (see :meth:`from_json`)."""
        filled = np.flatnonzero(self.density)
        last = int(filled[-1]) + 1 if len(filled) else 0
        return {
            "net": self.net, "scale": self.scale, "tissue_px": self.tissue_px, "foreign_px": self.foreign_px,
            "weight": self.weight.tolist(), "first": self.first.tolist(), "second": self.second.tolist(),
            "density": self.density[:last].tolist(), "glass": self.glass.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ColourStatistics:
        """Inverse of :meth:`to_json`; a record that lacks something or holds no numbers is a :class:`StainError`."""
        try:
            weight, first, second = (np.asarray(record[name], np.float64) for name in ("weight", "first", "second"))
            density = np.zeros(_BINS, np.int64)
            density[: len(record["density"])] = record["density"]
            made = cls(str(record["net"]), float(record["scale"]), weight, first, second, density,
                       float(record["tissue_px"]), float(record["foreign_px"]),
                       Glass.from_json(record["glass"]))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise StainError(f"A record of colour statistics is damaged ({type(error).__name__}: {error})",
                             fix="Collect the statistics again") from error  # fmt: skip
        k = made.weight.size
        if made.first.shape != (k, 3) or made.second.shape != (k, 3, 3) or not np.isfinite(made.second).all():
            raise StainError("A record of colour statistics has the wrong shape or values that are not finite",
                             got=f"{made.first.shape}, {made.second.shape}", expected=f"({k}, 3), ({k}, 3, 3)",
                             fix="Collect the statistics again")  # fmt: skip
        return made


def quantile(density: NDArray[np.int64], share: float = SCALE_QUANTILE) -> float:
    """Density below which `share` of a histogram's pixels lie, linear within its bin [optical density]."""
    total = np.concatenate([[0], np.cumsum(density)])
    if total[-1] == 0:
        raise StainError("No tissue was found, so the density scale is undefined", got="no pixel denser than "
                         f"{TISSUE_DENSITY}", fix="Give tiles that hold tissue (see notebook 02)")  # fmt: skip
    rank = share * total[-1]
    bin_ = int(np.searchsorted(total, rank, side="left")) - 1
    return float((bin_ + (rank - total[bin_]) / density[bin_]) * _BIN)


def density_histogram(tiles: Iterable[NDArray[np.uint8]], white: NDArray[np.float64] | None = None) -> Any:
    """Histogram of tissue density over uint8 RGB tiles (H, W, 3), every second pixel of each axis; additive.

    Parameters
    ----------
    white : (3,), optional: optical density of the glass, subtracted first

    Returns int64, (1120,), bins of 0.005 from 0.
    """
    counts = np.zeros(_BINS, np.int64)
    for tile in tiles:
        od = optical_density(tile[::2, ::2])
        density = (od if white is None else np.maximum(od - white.astype(np.float32), 0.0)).mean(axis=-1)
        tissue = density[density > TISSUE_DENSITY]
        counts += np.bincount(np.minimum((tissue / _BIN).astype(np.int64), _BINS - 1), minlength=_BINS)
    return counts


def density_scale(tiles: Iterable[NDArray[np.uint8]]) -> float:
    """95th percentile of the density of tissue pixels over uint8 RGB tiles (H, W, 3) [optical density]."""
    return quantile(density_histogram(tiles))


def collect(
    net: DcgmmNet,
    tiles: Sequence[NDArray[np.uint8]],
    *,
    scale: float | None = None,
    white: NDArray[np.float64] | None = None,
    cohort: ColourStatistics | None = None,
    with_glass: bool = False,
    pixel_step: int = 2,
) -> ColourStatistics:
    """Colour statistics of one slide from its tiles.

    Parameters
    ----------
    tiles : sequence of uint8 RGB (H, W, 3)
        Tissue tiles of one slide: 32 give the slide's own figures, 8 come within about one ΔE of them.
    scale : density scale of the slide, when these tiles are only a part of it; default: theirs
    white : (3,), optional: optical density of the slide's glass, subtracted from every pixel
    cohort : pixels far from every colour of the cohort (ink) are left out and counted
    with_glass : look for glass and its colour, too (needed to know gaps, and to correct the white level)
    pixel_step : take every n-th pixel of each axis for the moments [px]

    Raises StainError: no tissue in any tile.
    """
    histogram = density_histogram(tiles, white)
    scale = quantile(histogram) if scale is None else scale
    k = net.components
    glass = sum((find_glass(tile) for tile in tiles), empty_glass()) if with_glass else empty_glass()
    nothing = (np.zeros(k), np.zeros((k, 3)), np.zeros((k, 3, 3)))
    total = ColourStatistics(net.digest(), scale, *nothing, histogram, 0.0, glass=glass)
    for tile in tiles:
        total = _add_tile(total, net, tile, white, cohort, pixel_step)
    return total


def _add_tile(
    total: ColourStatistics,
    net: DcgmmNet,
    tile: NDArray[np.uint8],
    white: NDArray[np.float64] | None,
    cohort: ColourStatistics | None,
    step: int,
) -> ColourStatistics:
    k, every = net.components, slice(None, None, step)
    with torch.inference_mode():
        od = _less_white(optical_density(torch.from_numpy(np.ascontiguousarray(tile[every, every]))), white)
        density = None if net.layers is None else _density_of(tile, white)
        gamma = _responsibilities(net, density, od.mean(-1), total.scale, step).reshape(k, -1)
        x = od_to_hsd(od).reshape(-1, 3)
        tissue = tissue_weight(x[:, 0])
        use = tissue if net.config.glass else torch.ones_like(tissue)
        foreign = torch.zeros_like(tissue) if cohort is None else _foreign(x, total.scale, cohort) * tissue
        soft = (gamma * (use * (foreign == 0))).double().numpy()
    values = x.double().numpy()
    # one product for all moments: columns are 1, x and the six different products x_i x_j
    rows, columns = np.triu_indices(3)
    table = soft @ np.concatenate([np.ones((len(values), 1)), values, values[:, rows] * values[:, columns]], axis=1)
    second = np.zeros((k, 3, 3))
    second[:, rows, columns] = second[:, columns, rows] = table[:, 4:]
    return replace(
        total, weight=total.weight + table[:, 0], first=total.first + table[:, 1:4], second=total.second + second,
        tissue_px=total.tissue_px + float(tissue.sum()) * step**2,
        foreign_px=total.foreign_px + float(foreign.sum()) * step**2,
    )  # fmt: skip


def _less_white(od: torch.Tensor, white: NDArray[np.float64] | None) -> torch.Tensor:
    return od if white is None else (od - torch.from_numpy(white).to(od.dtype)).clamp_min(0.0)


def _density_of(tile: NDArray[np.uint8], white: NDArray[np.float64] | None) -> torch.Tensor:
    return _less_white(optical_density(torch.from_numpy(np.require(tile, requirements=["C", "W"]))), white).mean(-1)


def _responsibilities(
    net: DcgmmNet, density: torch.Tensor | None, sampled: torch.Tensor, scale: float, step: int = 1
) -> torch.Tensor:
    """γ, (K, h, w), of every `step`-th pixel: the convolutions see all of `density`, the rest only what is sampled."""
    scale = scale if net.config.scaled else 1.0
    logits = 0.0 if net.own is None else net.own(sampled[None, None] / scale)[0]
    if density is not None:
        spread = net.spread(density[None, None] / scale)
        assert spread is not None
        logits = logits + spread[0, :, ::step, ::step]
    assert isinstance(logits, torch.Tensor)
    return torch.softmax(logits / net.config.temperature, dim=0)


def responsibilities_of(net: DcgmmNet, density: torch.Tensor, scale: float) -> torch.Tensor:
    """γ, (K, H, W), of optical density (H, W), at the network's temperature; sums to 1 over K."""
    return _responsibilities(net, None if net.layers is None else density, density, scale)


def _foreign(x: torch.Tensor, scale: float, cohort: ColourStatistics) -> torch.Tensor:
    """Pixels (n, 3) far from all components; density is brought to the cohort's scale, because slides differ in it."""
    brought = x * torch.tensor([cohort.scale / scale, 1.0, 1.0], dtype=x.dtype)
    near = torch.full((len(x),), np.inf, dtype=x.dtype)
    for mean, inverse in zip(cohort.means(), np.linalg.inv(cohort.covariances()), strict=True):
        # the Cholesky factor turns the Mahalanobis distance into a plain one
        root = torch.from_numpy(np.linalg.cholesky(inverse)).to(x.dtype)
        away = (brought - torch.from_numpy(mean).to(x.dtype)) @ root
        near = torch.minimum(near, away.square().sum(1))
    return (near > FOREIGN_DISTANCE).to(x.dtype)
