"""Three classical colour normalizations behind one interface: what DCGMM is compared with.

Source: Reinhard et al. 2001, Macenko et al. 2009, Vahadane et al. 2016, written from the papers. In all three,
statistics are per slide, pooled over the tissue pixels of its tiles (ours: maps per tile draw a grid, and the share
of glass must not move a percentile). Optical density is natural, 0 at white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import GLASS_DENSITY, GLASS_SOFTNESS, density_to_rgb, optical_density

_Tile = NDArray[np.uint8]
_Floats = NDArray[np.float64]

CLASSICAL_TISSUE_DENSITY: Final = 0.15
"""Mean optical density above which a pixel is tissue: Macenko's β, for all three alike."""
STEP: Final = 2
"""Every n-th pixel of each axis counts for the statistics [px]."""
_PERCENTILE: Final = 1.0
"""Macenko's percentile of the angles at which one stain lies, the other at 100 minus it [%]."""
SPARSITY: Final = 0.02
"""Vahadane's λ, the authors' [optical density]; more of it draws the two stains together."""
_SAMPLE_PX: Final = 20_000
"""Most pixels, evenly spaced, for Vahadane's vectors."""
ROUNDS: Final = 500
MINIMUM_SD: Final = 0.1
"""Spread of L*, a* or b* below which there is none to match; stained tissue has 1 and more."""
MINIMUM_ANGLE_DEG: Final = 2.0
"""Angle below which two stains are one; haematoxylin and eosin are some 20° to 40° apart."""
MINIMUM_STRENGTH: Final = 0.05
"""99th percentile of a stain's amount below which it is absent [optical density]."""
_TOLERANCE: Final = 1e-6
_HAEMATOXYLIN_EOSIN: Final = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))


@dataclass(frozen=True)
class SlideColours:
    """What one method knows of one slide's colours.

    Attributes
    ----------
    method : name of the method
    colours : float64, (3,) or (2, 3)
        Reinhard: mean L*, a*, b* of tissue. Else the colours of haematoxylin and eosin, in this order: optical
        densities of red, green and blue, unit length.
    strengths : float64, (3,) or (2,)
        Reinhard: standard deviations of L*, a*, b*. Else the 99th percentile of each stain's amount over tissue
        [optical density].
    tissue_px : tissue pixels of the tiles [px]
    """

    method: str
    colours: _Floats
    strengths: _Floats
    tissue_px: float

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; the method's ``read`` is the inverse."""
        return vars(self) | {"colours": self.colours.tolist(), "strengths": self.strengths.tolist()}


@dataclass(frozen=True)
class ColourPair:
    """A slide (`source`) and the reference whose colours it is given (`target`), measured with the same method."""

    source: SlideColours
    target: SlideColours

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers of both."""
        return {"source": self.source.to_json(), "target": self.target.to_json()}


@dataclass(frozen=True)
class _Baseline:
    """What the three methods have in common."""

    name: ClassVar[str]
    shape: ClassVar[tuple[int, ...]]

    def measure(self, tiles: Sequence[_Tile]) -> SlideColours:
        """Statistics of one slide from its tiles, uint8 RGB (H, W, 3), whose sizes may differ.

        Raises StainError: no tissue in any tile; or tissue of one colour, of one stain, or grey; or an array that is no
        RGB tile.
        """
        seen = [_checked(tile)[::STEP, ::STEP].reshape(-1, 3) for tile in tiles]
        found = [pixels[optical_density(pixels).mean(axis=1) > CLASSICAL_TISSUE_DENSITY] for pixels in seen]
        tissue = np.concatenate([np.empty((0, 3), np.uint8), *found])
        if not len(tissue):
            raise StainError(
                "No tissue was found, so the colours of the slide cannot be measured",
                got=f"no pixel above a mean optical density of {CLASSICAL_TISSUE_DENSITY} in {len(seen)} tiles",
                expected="stained tissue",
                fix="Give tiles that hold tissue (see notebook 02)",
            )
        return self._refuse(SlideColours(self.name, *self._statistics(tissue), float(len(tissue) * STEP**2)))

    def read(self, record: dict[str, Any]) -> SlideColours:
        """Inverse of ``to_json``; a record that is damaged, of another method, or useless is a StainError."""
        try:
            method, tissue_px = record["method"], float(record["tissue_px"])
            colours, strengths = (np.asarray(record[key], dtype=np.float64) for key in ("colours", "strengths"))
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        if method != self.name or colours.shape != self.shape or strengths.shape != self.shape[:1]:
            raise self._damaged(f"method {method}, shapes {colours.shape} and {strengths.shape}")
        if not np.isfinite([*colours.flat, *strengths, tissue_px]).all() or tissue_px <= 0:
            raise self._damaged("numbers that are not finite, or no tissue")
        return self._refuse(SlideColours(method, colours, strengths, tissue_px))

    def map_to(self, source: SlideColours, reference: SlideColours) -> ColourPair:
        """The map that gives `source` the colours of `reference`, both of this method."""
        return ColourPair(source, reference)

    def _damaged(self, got: str) -> StainError:
        return StainError(
            f"A record of colour statistics is damaged or not of the method {self.name}",
            got=got,
            expected=f"method {self.name}, colours {self.shape}, strengths {self.shape[:1]}, tissue_px",
            fix="Measure the slide again",
        )

    def _statistics(self, tissue: _Tile) -> tuple[_Floats, _Floats]:
        """Colours and strengths of tissue pixels, uint8 RGB (N, 3)."""
        raise NotImplementedError

    def _refuse(self, found: SlideColours) -> SlideColours:
        """The statistics, unless nothing can be mapped with them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reinhard(_Baseline):
    """Match mean and spread of the colour, channel by channel.

    Source: Reinhard 2001, which matches lαβ of photographs; CIE L*a*b* over tissue is what the field has made of
    it. Glass passes through softly (ours: it would else be shifted by as much as the tissue).
    """

    name: ClassVar[str] = "reinhard"
    shape: ClassVar[tuple[int, ...]] = (3,)

    def apply(self, stain_map: ColourPair, tile: _Tile) -> _Tile:
        """Normalize one uint8 RGB tile (H, W, 3); colours outside sRGB are clipped; deterministic."""
        source, target = stain_map.source, stain_map.target
        scale = target.strengths / source.strengths
        offset = target.colours - scale * source.colours
        lab = _to_lab(_checked(tile)) * scale.astype(np.float32) + offset.astype(np.float32)
        mapped = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255
        excess = (optical_density(tile).mean(axis=-1, keepdims=True) - GLASS_DENSITY) / GLASS_SOFTNESS
        tissue = 1 / (1 + np.exp(-np.clip(excess, -30, 30)))
        return np.rint(tissue * mapped + (1 - tissue) * tile).astype(np.uint8)

    def _statistics(self, tissue: _Tile) -> tuple[_Floats, _Floats]:
        lab = _to_lab(tissue[None])[0].astype(np.float64)
        return lab.mean(axis=0), lab.std(axis=0)

    def _refuse(self, found: SlideColours) -> SlideColours:
        if found.strengths.min() < MINIMUM_SD:
            raise StainError(
                "The tissue has one colour, or none, so its spread cannot be matched",
                got=f"standard deviations of L*, a* and b*: {np.round(found.strengths, 3).tolist()}",
                expected=f"at least {MINIMUM_SD} each",
                fix="Give colour tiles of stained tissue",
            )
        return found


@dataclass(frozen=True)
class _TwoStains(_Baseline):
    """What the methods that see tissue as a mixture of two stains have in common."""

    shape: ClassVar[tuple[int, ...]] = (2, 3)

    def apply(self, stain_map: ColourPair, tile: _Tile) -> _Tile:
        """Normalize one uint8 RGB tile (H, W, 3): white stays; what two stains do not explain is lost, as published."""
        source, target = stain_map.source, stain_map.target
        stains = target.colours * (target.strengths / source.strengths)[:, None]
        amounts = self._amounts(optical_density(_checked(tile)).reshape(-1, 3), source.colours.astype(np.float32))
        return np.asarray(density_to_rgb(amounts @ stains.astype(np.float32)).reshape(tile.shape))

    def _statistics(self, tissue: _Tile) -> tuple[_Floats, _Floats]:
        od = optical_density(tissue).astype(np.float64)
        vectors = self._vectors(od)
        vectors = vectors[np.argsort(-vectors[:, 0])]  # haematoxylin absorbs more red than eosin
        _check_angle(vectors)
        return vectors, np.percentile(self._amounts(od, vectors), 99, axis=0)

    def _refuse(self, found: SlideColours) -> SlideColours:
        lengths = np.linalg.norm(found.colours, axis=1)
        if np.abs(lengths - 1).max() > 1e-3:
            raise self._damaged(f"stain vectors of lengths {lengths.round(3).tolist()}")
        _check_angle(found.colours)
        if found.strengths.min() < MINIMUM_STRENGTH:
            told = f"99th percentiles of their amounts: {found.strengths.round(3).tolist()}"
            raise _one_stain(told, f"at least {MINIMUM_STRENGTH} each")
        return found

    def _vectors(self, od: _Floats) -> _Floats:
        """Unit vectors (2, 3) of the two stains, in any order, from the density (N, 3) of tissue pixels."""
        raise NotImplementedError

    def _amounts(self, od: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
        """Amounts (N, 2) of the two stains in a density (N, 3)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Macenko(_TwoStains):
    """Two stains from the plane and the extreme angles of optical density.

    Source: Macenko 2009. Its logarithm is decadic; the implementations in use take the natural one with the same
    β, and so does this. Amounts are least squares and may be negative, as published.
    """

    name: ClassVar[str] = "macenko"

    def _vectors(self, od: _Floats) -> _Floats:
        dense = od[(od > CLASSICAL_TISSUE_DENSITY).all(axis=1)]
        if not len(dense):
            raise _one_stain(
                f"no pixel above an optical density of {CLASSICAL_TISSUE_DENSITY} in every channel", "some"
            )
        plane = np.linalg.eigh(dense.T @ dense)[1][:, :0:-1]
        plane *= np.sign(plane[0, 0])  # the first axis points along the data: angles lie around 0 and never wrap
        along, across = (dense @ plane).T
        angles = np.percentile(np.arctan2(across, along), [_PERCENTILE, 100 - _PERCENTILE])
        return np.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T)

    def _amounts(self, od: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(od @ np.linalg.pinv(vectors))


@dataclass(frozen=True)
class Vahadane(_TwoStains):
    """Two stains by sparse non-negative matrix factorization.

    Source: Vahadane 2016: min ½‖V − CW‖² + λ‖C‖₁ with C, W ≥ 0 and rows of W of unit length, C and W in turn. For
    two stains both steps have a closed form. The start is the haematoxylin and eosin of Ruifrok and Johnston 2001
    (ours: nothing is random).
    """

    name: ClassVar[str] = "vahadane"

    def _vectors(self, od: _Floats) -> _Floats:
        od = od[np.linspace(0, len(od) - 1, min(len(od), _SAMPLE_PX)).astype(int)]
        vectors = np.array(_HAEMATOXYLIN_EOSIN)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for _ in range(ROUNDS):
            before = vectors.copy()
            amounts = nonnegative_amounts(od, vectors, SPARSITY)
            gram, cross = amounts.T @ amounts, amounts.T @ od
            for j in (0, 1):
                wanted = np.maximum(vectors[j] * gram[j, j] + cross[j] - gram[j] @ vectors, 0)
                if (length := np.linalg.norm(wanted)) > 0:
                    vectors[j] = wanted / length
            if np.abs(vectors - before).max() < _TOLERANCE or 1 - vectors[0] @ vectors[1] < _TOLERANCE:
                break
        return vectors

    def _amounts(self, od: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
        return nonnegative_amounts(od, vectors)


def nonnegative_amounts(od: NDArray[Any], vectors: NDArray[Any], sparsity: float = 0.0) -> NDArray[Any]:
    """Amounts of two stains that explain a density best: min ½‖od − c · vectors‖² + λ Σc with c ≥ 0.

    Takes densities (N, 3), unit vectors (2, 3) without negative components that are not parallel, and λ [optical
    density]. Returns (N, 2): both amounts where neither comes out negative, else the better one alone (ours: the
    active sets of two unknowns, written out).
    """
    alone = od @ vectors.T - sparsity
    overlap = vectors[0] @ vectors[1]
    both = (alone - overlap * alone[:, ::-1]) / (1 - overlap**2)
    negative = both < 0
    return np.where(negative.any(axis=1)[:, None], np.where(negative, 0, np.maximum(alone, 0)), both)


def _to_lab(rgb: _Tile) -> NDArray[np.float32]:
    """CIE L*a*b* (D65) of uint8 sRGB (H, W, 3); L* in 0–100."""
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def _checked(tile: _Tile) -> _Tile:
    if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3:
        raise StainError("This is no RGB tile", got=f"{tile.dtype} {tile.shape}", expected="uint8 (H, W, 3)")
    return tile


def _check_angle(vectors: _Floats) -> None:
    angle = float(np.degrees(np.arctan2(np.linalg.norm(np.cross(*vectors)), vectors[0] @ vectors[1])))
    if angle < MINIMUM_ANGLE_DEG:
        raise _one_stain(f"stain vectors {angle:.2f}° apart", f"at least {MINIMUM_ANGLE_DEG}°")


def _one_stain(got: str, expected: str) -> StainError:
    return StainError(
        "The tissue shows one stain, or grey, where two stains were to be told apart",
        got=got,
        expected=expected,
        fix="Give colour tiles of tissue in haematoxylin and eosin",
    )
