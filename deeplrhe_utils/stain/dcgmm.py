"""DCGMM colour normalization: one small network sees optical density and says which component a pixel is;
closed-form Gaussians in HSD and an affine map per component carry the colour to a reference.

Source: Zanjani et al. 2018 (MIDL), as used in DeepLRHE section "Denoising and Color Normalization"; the network
is in :mod:`deeplrhe_utils.stain.dcgmm_net`. What differs here from the released code, and why: density is divided
by the slide's 95th percentile, statistics are per slide (per-tile maps draw a grid), covariances are full, and
glass is excluded from the statistics and passed through unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import clip_gamut, density_to_rgb, hsd_to_od, od_to_hsd, optical_density
from deeplrhe_utils.stain.dcgmm_net import DcgmmNet, tissue_weight

TISSUE_DENSITY: Final = 0.12
TEMPERATURE: Final = 2.0
SIGMA_FLOOR_STATISTICS: Final = 0.01
MINIMUM_SHARE: Final = 0.01


@dataclass(frozen=True)
class ColourStatistics:
    """What is known of one slide's colours: responsibility-weighted moments of (D, cx, cy), additive.

    Attributes
    ----------
    density_scale : float
        95th percentile of the density of tissue pixels [optical density].
    weight, first, second : float64, (K,), (K, 3), (K, 3, 3)
        Σγ, Σγx and Σγxxᵀ over tissue pixels.
    tissue_px : float
        Sum of tissue weights [px].
    """

    density_scale: float
    weight: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    tissue_px: float

    def __add__(self, other: ColourStatistics) -> ColourStatistics:
        """Pool two slides; the density scale becomes the tissue-weighted mean."""
        total = self.tissue_px + other.tissue_px
        scale = (self.density_scale * self.tissue_px + other.density_scale * other.tissue_px) / total
        return ColourStatistics(
            scale, self.weight + other.weight, self.first + other.first, self.second + other.second, total
        )

    def means(self) -> NDArray[np.float64]:
        """Component means of (D, cx, cy), (K, 3)."""
        return self.first / np.maximum(self.weight, 1e-9)[:, None]

    def covariances(self) -> NDArray[np.float64]:
        """Component covariances, (K, 3, 3), eigenvalues floored at 0.01²."""
        means = self.means()
        raw = self.second / np.maximum(self.weight, 1e-9)[:, None, None] - means[:, :, None] * means[:, None, :]
        values, vectors = np.linalg.eigh(raw)
        values = np.maximum(values, SIGMA_FLOOR_STATISTICS**2)
        return np.asarray((vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1))

    def shares(self) -> NDArray[np.float64]:
        """Share of tissue per component, (K,), sums to 1."""
        return np.asarray(self.weight / max(float(self.weight.sum()), 1e-9))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers (see :meth:`from_json`)."""
        return {
            "density_scale": self.density_scale, "tissue_px": self.tissue_px, "weight": self.weight.tolist(),
            "first": self.first.tolist(), "second": self.second.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ColourStatistics:
        """Inverse of :meth:`to_json`."""
        arrays = {name: np.asarray(record[name], dtype=np.float64) for name in ("weight", "first", "second")}
        return cls(density_scale=record["density_scale"], tissue_px=record["tissue_px"], **arrays)


@dataclass(frozen=True)
class ColourMap:
    """An affine map of (D, cx, cy) per component, and the density scale it was made for.

    ``matrix`` (K, 3, 3) and ``offset`` (K, 3): x' = Σ_k γ_k (matrix_k x + offset_k).
    """

    density_scale: float
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    identity: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "density_scale": self.density_scale, "identity": self.identity,
            "matrix": self.matrix.tolist(), "offset": self.offset.tolist(),
        }  # fmt: skip


def density_scale(tiles: Iterable[NDArray[np.uint8]]) -> float:
    """95th percentile of the density of tissue pixels over uint8 RGB tiles (H, W, 3) [optical density].

    Every second pixel of each axis is taken.
    """
    edges = np.linspace(0.0, 5.6, 2241)
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for tile in tiles:
        density = optical_density(tile[::2, ::2]).mean(axis=-1)
        counts += np.histogram(density[density > TISSUE_DENSITY], bins=edges)[0]
    if counts.sum() == 0:
        raise StainError(
            "No tissue was found, so the density scale is undefined",
            fix="Give tiles that hold tissue (see notebook 02)",
        )
    cumulative = np.cumsum(counts)
    return float(edges[int(np.searchsorted(cumulative, 0.95 * cumulative[-1])) + 1])


def collect(net: DcgmmNet, tiles: Sequence[NDArray[np.uint8]], pixel_step: int = 2) -> ColourStatistics:
    """Colour statistics of one slide from its tiles.

    Parameters
    ----------
    net : DcgmmNet
    tiles : sequence of uint8 RGB (H, W, 3)
        Tissue tiles of one slide; 8 to 32 are enough.
    pixel_step : int
        Take every n-th pixel of each axis for the moments [px].

    Raises
    ------
    StainError
        No tissue in any tile.
    """
    scale = density_scale(tiles)
    k = net.components
    weight, first, second = np.zeros(k), np.zeros((k, 3)), np.zeros((k, 3, 3))
    tissue_px = 0.0
    with torch.inference_mode():
        for tile in tiles:
            hsd = od_to_hsd(optical_density(torch.from_numpy(tile)))
            gamma = torch.softmax(net(hsd[None, None, ..., 0] / scale)[0] / TEMPERATURE, dim=0)
            tissue = tissue_weight(hsd[..., 0])[::pixel_step, ::pixel_step]
            soft = (gamma[:, ::pixel_step, ::pixel_step] * tissue).reshape(k, -1).double()
            x = hsd[::pixel_step, ::pixel_step].reshape(-1, 3).double()
            weight += soft.sum(1).numpy()
            first += (soft @ x).numpy()
            second += torch.einsum("kn,ni,nj->kij", soft, x, x).numpy()
            tissue_px += float(tissue.sum()) * pixel_step**2
    return ColourStatistics(scale, weight, first, second, tissue_px)


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


def map_to(source: ColourStatistics, reference: ColourStatistics, *, covariance: str = "full") -> ColourMap:
    """The colour map that carries `source` onto `reference`, component by component.

    Parameters
    ----------
    source, reference : ColourStatistics
        From the same network.
    covariance : {"full", "diagonal"}
        "full" is the Monge map between the two Gaussians, A = S^-½ (S^½ T S^½)^½ S^-½; "diagonal" is the
        paper's (x − μ)/σ · σ' + μ', with σ'/σ limited to [1/3, 3].

    Notes
    -----
    A component that holds less than 1 % of the tissue of either side takes the share-weighted mean of the
    others' maps: its own moments say nothing.
    """
    if source.weight.shape != reference.weight.shape:
        raise StainError(
            "Source and reference were measured with different networks",
            got=f"{source.weight.size} and {reference.weight.size} components",
        )
    if source.to_json() == reference.to_json():
        k = source.weight.size
        return ColourMap(source.density_scale, np.tile(np.eye(3), (k, 1, 1)), np.zeros((k, 3)), identity=True)
    matrices = np.stack(
        [_affine(s, t, covariance) for s, t in zip(source.covariances(), reference.covariances(), strict=True)]
    )
    offsets = reference.means() - np.einsum("kij,kj->ki", matrices, source.means())
    shares = np.minimum(source.shares(), reference.shares())
    empty = shares < MINIMUM_SHARE
    if empty.any() and not empty.all():
        trusted = np.where(empty, 0.0, shares) / shares[~empty].sum()
        matrices[empty] = np.einsum("k,kij->ij", trusted, matrices)
        offsets[empty] = trusted @ offsets
    return ColourMap(source.density_scale, matrices, offsets)


def _affine(source: NDArray[np.float64], target: NDArray[np.float64], covariance: str) -> NDArray[np.float64]:
    if covariance == "diagonal":
        ratio = np.sqrt(np.diag(target) / np.diag(source))
        return np.diag(np.clip(ratio, 1 / 3, 3))
    if covariance != "full":
        raise StainError("Unknown covariance", got=covariance, expected="full or diagonal")
    root = _square_root(source)
    inverse = np.linalg.inv(root)
    return np.asarray(inverse @ _square_root(root @ target @ root) @ inverse)


def apply(net: DcgmmNet, colour_map: ColourMap, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Normalize one uint8 RGB tile (H, W, 3); glass passes through; deterministic, no state."""
    if colour_map.identity:
        return tile.copy()
    with torch.inference_mode():
        od = optical_density(torch.from_numpy(np.ascontiguousarray(tile)))
        hsd = od_to_hsd(od)
        gamma = torch.softmax(net(hsd[None, None, ..., 0] / colour_map.density_scale)[0] / TEMPERATURE, dim=0)
        # one (H·W, K) × (K, 12) product gives every pixel its own blended affine map
        table = np.concatenate([colour_map.matrix.reshape(-1, 9), colour_map.offset], axis=1)
        blended = gamma.permute(1, 2, 0) @ torch.from_numpy(table).float()
        mapped = (blended[..., :9].unflatten(-1, (3, 3)) * hsd[..., None, :]).sum(-1) + blended[..., 9:]
        new_od = hsd_to_od(clip_gamut(mapped)).clamp_min(0.0)
        tissue = tissue_weight(hsd[..., 0])[..., None]
        return np.asarray(density_to_rgb(tissue * new_od + (1.0 - tissue) * od).numpy())


def responsibilities(net: DcgmmNet, scale: float, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Component memberships γ of one tile, (K, H, W), for the paper's Figure 2; they sum to 1 over K."""
    with torch.inference_mode():
        density = optical_density(torch.from_numpy(np.ascontiguousarray(tile))).mean(-1)
        return np.asarray(torch.softmax(net(density[None, None] / scale)[0] / TEMPERATURE, dim=0).numpy())
