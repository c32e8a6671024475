"""From two sets of colour statistics to a colour map: one affine map per component.

Source: Zanjani et al. 2018 for the diagonal map; the full map is the optimal transport between two Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import density_to_rgb
from deeplrhe_utils.stain.dcgmm.net import DEFAULT, DcgmmConfig
from deeplrhe_utils.stain.dcgmm.statistics import MINIMUM_SHARE, ColourStatistics

SINGLE_STAIN: Final = 0.05
"""Least :func:`chroma_spread` of two stains: real H&E has 0.08 and more, haematoxylin alone about 0.02."""
DARK_GLASS: Final = 0.09
"""Optical density, in the darkest channel, from which a slide's glass would be mapped in part as if it were tissue."""
_NO_WHITE: Final = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ColourMap:
    """An affine map of (D, cx, cy) per component, and what it was made for.

    Attributes
    ----------
    net : digest of the network it belongs to
    scale : density scale of the source [optical density]
    matrix, offset : float64, (K, 3, 3) and (K, 3): x' = Σ_k γ_k (matrix_k x + offset_k)
    white_in, white_out : optical density of the glass of source and reference, (3,); zeros leave glass as it is
    identity : source and reference are the same: pixels are copied
    note : "" or why the map is not what was asked for
    gaps : float64, (2, 3): grey values of the source's glass, where it is so dark that it could pass for tissue, and
        what is added to its gaps to give them the reference's (0 where that shows no glass); else zeros
    """

    net: str
    scale: float
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    white_in: tuple[float, float, float] = _NO_WHITE
    white_out: tuple[float, float, float] = _NO_WHITE
    identity: bool = False
    note: str = ""
    gaps: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 3)))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "net": self.net, "scale": self.scale, "identity": self.identity, "note": self.note,
            "white_in": list(self.white_in), "white_out": list(self.white_out),
            "matrix": self.matrix.tolist(), "offset": self.offset.tolist(), "gaps": self.gaps.tolist(),
        }  # fmt: skip


def map_to(
    source: ColourStatistics, reference: ColourStatistics, config: DcgmmConfig = DEFAULT, *, white: bool = False
) -> ColourMap:
    """The colour map that carries `source` onto `reference`, component by component.

    Parameters
    ----------
    source, reference : from the same network
    config : its covariance: "full" is the optimal transport between the two Gaussians, A = S^-½ (S^½ T S^½)^½ S^-½;
        "diagonal" is the paper's (x − μ)/σ · σ' + μ'
    white : the statistics were collected with the glass taken off: give the result the reference's glass

    A component that holds less than 1 % of the pixels of either side takes the share-weighted mean of the others'
    maps: its own moments say nothing. A source of one chroma (a single stain) gets a map of
    density alone: there is no second stain to match, and matching would paint one.

    Raises StainError: statistics of different networks; no component with enough pixels on both sides; glass unknown.
    """
    if source.net != reference.net:
        raise StainError("Source and reference were measured with different networks",
                         got=f"{source.net} and {reference.net}", fix="Collect both with one network")  # fmt: skip
    k = source.weight.size
    white_in, white_out = _whites(source, reference) if white else (_NO_WHITE, _NO_WHITE)
    if source.to_json() == reference.to_json():
        return ColourMap(
            source.net, source.scale, np.tile(np.eye(3), (k, 1, 1)), np.zeros((k, 3)), white_in, white_out, True
        )
    trusted = np.minimum(source.shares(), reference.shares()) >= MINIMUM_SHARE
    if not trusted.any():
        raise StainError("No component holds 1 % of the pixels of both source and reference",
                         got=f"shares {source.shares().round(3)} and {reference.shares().round(3)}",
                         fix="Choose another reference, or fit the network on tiles like these")  # fmt: skip
    single = chroma_spread(source) < SINGLE_STAIN <= chroma_spread(reference)
    pairs = zip(source.covariances(), reference.covariances(), strict=True)
    matrix = np.stack([_density_only(s, t, config) if single else _affine(s, t, config) for s, t in pairs])
    goal = reference.means().copy()
    if single:
        goal[:, 1:] = source.means()[:, 1:]
    offset = goal - np.einsum("kij,kj->ki", matrix, source.means())
    share = np.where(trusted, source.shares(), 0.0) / source.shares()[trusted].sum()
    matrix[~trusted], offset[~trusted] = np.einsum("k,kij->ij", share, matrix), share @ offset
    note = "single stain: only density is matched" if single else ""
    gaps = _gaps(source, reference) if config.glass and not white else np.zeros((2, 3))
    return ColourMap(source.net, source.scale, matrix, offset, white_in, white_out, False, note, gaps)


def chroma_spread(statistics: ColourStatistics) -> float:
    """Standard deviation of chroma over the tissue (both coordinates): near 0 where there is one stain only."""
    total = statistics.weight.sum()
    mean = statistics.first.sum(axis=0)[1:] / total
    square = np.diag(statistics.second.sum(axis=0))[1:] / total
    return float(np.sqrt(np.maximum(square - mean**2, 0.0).sum()))


def _whites(source: ColourStatistics, reference: ColourStatistics) -> list[Any]:
    found = [side.glass.white for side in (source, reference)]
    if found[0] is None or found[1] is None:
        raise StainError("The white level is unknown: too little glass",
                         got=f"{source.glass.share:.2%} and {reference.glass.share:.2%} of glass", expected="1 %",
                         fix="Leave the white level alone for all slides")  # fmt: skip
    return [tuple(found[0].tolist()), tuple(found[1].tolist())]


def _gaps(source: ColourStatistics, reference: ColourStatistics) -> NDArray[np.float64]:
    """The source's glass and its way to the reference's, where it is dark or tinted; see `ColourMap.gaps`."""
    if (own := source.glass.white) is None or own.max() < DARK_GLASS:
        return np.zeros((2, 3))
    goal = own if reference.glass.white is None else reference.glass.white
    grey, wanted = (density_to_rgb(one).astype(np.float64) for one in (own, goal))
    return np.stack([grey, wanted - grey])


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


def _ratio(source: NDArray[np.float64], target: NDArray[np.float64], config: DcgmmConfig) -> NDArray[np.float64]:
    ratio = np.sqrt(np.diag(target) / np.diag(source))
    return np.clip(ratio, 1 / config.scale_limit, config.scale_limit) if config.scale_limit else ratio


def _density_only(source: NDArray[np.float64], target: NDArray[np.float64], config: DcgmmConfig) -> Any:
    return np.diag([_ratio(source, target, config)[0], 1.0, 1.0])


def _affine(source: NDArray[np.float64], target: NDArray[np.float64], config: DcgmmConfig) -> NDArray[np.float64]:
    if config.covariance == "diagonal":
        return np.diag(_ratio(source, target, config))
    root = _root(source)
    inverse = np.linalg.inv(root)
    return np.asarray(inverse @ _root(root @ target @ root) @ inverse)
