"""Nuclei as stamps: a few textured master shapes, warped to each nucleus' size, eccentricity and angle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.seeds import generator

_SIDE: Final = 48  # master size [px]
_RADIUS: Final = 18.0  # radius of the unit nucleus in a master [px]
_SHAPES: Final = 24  # masters per kind

# Interior density, rim, chromatin clumps (contrast and size in master px), nucleoli: what tells the kinds apart.
_LOOK: Final = {
    "tumour": (0.70, 0.40, 0.26, 2.6, 2),
    "lymphocyte": (0.95, 0.10, 0.22, 3.4, 0),
    "fibroblast": (0.85, 0.15, 0.15, 3.0, 0),
}


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one kind, as equal-length arrays.

    Attributes
    ----------
    kind : str
        ``tumour``, ``lymphocyte`` or ``fibroblast``.
    x_px, y_px : ndarray
        Centres [canvas px].
    area_um2 : ndarray
        Areas [µm²].
    elongation : ndarray
        Long axis / short axis, ≥ 1.
    angle : ndarray
        Direction of the long axis [rad].
    darkness : ndarray
        Haematoxylin density of the body.
    """

    kind: str
    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    area_um2: NDArray[np.float64]
    elongation: NDArray[np.float64]
    angle: NDArray[np.float64]
    darkness: NDArray[np.float64]


def hexagonal_points(
    rng: np.random.Generator, width_px: int, height_px: int, spacing_px: float, jitter: float
) -> NDArray[np.float64]:
    """Points of a jittered hexagonal lattice: crowded like cells, yet seldom on top of each other.

    Parameters
    ----------
    rng : numpy Generator
        Source of randomness.
    width_px, height_px : int
        Extent [px].
    spacing_px : float
        Distance of neighbours [px]; density is ``2 / (√3 · spacing²)``.
    jitter : float
        Standard deviation of the displacement / spacing.

    Returns
    -------
    ndarray, shape (n, 2)
        (x, y) [px], all inside the extent.
    """
    x = np.arange(0, width_px + spacing_px, spacing_px)
    y = np.arange(0, height_px + spacing_px, spacing_px * np.sqrt(3) / 2)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    grid[1::2, :, 0] += spacing_px / 2
    points = grid.reshape(-1, 2) + rng.uniform(0, spacing_px, 2)
    points += rng.normal(0, jitter * spacing_px, points.shape)
    inside = (points >= 0).all(axis=1) & (points[:, 0] < width_px) & (points[:, 1] < height_px)
    return points[inside]


@lru_cache(maxsize=8)
def masters(kind: str) -> NDArray[np.float32]:
    """Master stamps of one kind, shape (24, 48, 48), density of unit darkness, zero outside the nucleus.

    They depend on nothing but their kind: every slide of every cohort shares them.
    """
    rng = generator(0, "nucleus masters", kind)
    return np.stack([_master(kind, rng) for _ in range(_SHAPES)])


def _master(kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    body, rim, contrast, clump_px, nucleoli = _LOOK[kind]
    y, x = np.mgrid[:_SIDE, :_SIDE].astype(np.float32) - np.float32((_SIDE - 1) / 2)
    angle = np.arctan2(y, x)
    wobble = sum(
        rng.normal(0, 0.05 / (order - 1)) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 4, 5)
    )
    distance = np.hypot(x, y) / (_RADIUS * (1 + wobble))
    inside = np.clip((1.0 - distance) * _RADIUS / 1.5 + 0.5, 0, 1)
    chromatin = cv2.GaussianBlur(rng.standard_normal((_SIDE, _SIDE)), (0, 0), clump_px)
    density = body + contrast * chromatin / chromatin.std() + rim * np.clip((distance - 0.72) / 0.2, 0, 1)
    for _ in range(rng.integers(0, nucleoli + 1)):
        cx, cy = rng.uniform(-7, 7, 2)
        density += 0.5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * rng.uniform(1.8, 2.8) ** 2))
    return (np.clip(density, 0.25, 1.7) * inside).astype(np.float32)


def stamp(density: NDArray[np.float32], nuclei: Nuclei, mpp: float, rng: np.random.Generator) -> None:
    """Draw nuclei into a haematoxylin density map, in place; overlaps keep the darker one.

    Parameters
    ----------
    density : ndarray, shape (height, width), float32
        Map to draw into.
    nuclei : Nuclei
        What to draw; stamps reaching over the edge are cut there.
    mpp : float
        Canvas resolution [µm/px].
    rng : numpy Generator
        Chooses the master of each nucleus.
    """
    bank = masters(nuclei.kind)
    which = rng.integers(0, len(bank), len(nuclei.x_px))
    radius = np.sqrt(nuclei.area_um2 / np.pi) / mpp
    long_px = radius * np.sqrt(nuclei.elongation)
    short_px = radius / np.sqrt(nuclei.elongation)
    half = np.ceil(long_px * 1.2).astype(int) + 1
    matrices = _inverse_matrices(nuclei, long_px, short_px, half)
    left = np.floor(nuclei.x_px).astype(int) - half
    top = np.floor(nuclei.y_px).astype(int) - half
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for i, side in enumerate(2 * half + 1):
        patch = cv2.warpAffine(bank[which[i]], matrices[i], (int(side), int(side)), flags=flags)
        patch *= np.float32(nuclei.darkness[i])
        _blend(density, patch, int(left[i]), int(top[i]))


def _inverse_matrices(
    nuclei: Nuclei, long_px: NDArray[np.float64], short_px: NDArray[np.float64], half: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Affine maps from patch pixels to master pixels, shape (n, 2, 3)."""
    cos, sin = np.cos(nuclei.angle), np.sin(nuclei.angle)
    a, b = _RADIUS / long_px, _RADIUS / short_px
    matrices = np.empty((len(cos), 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = a * cos, a * sin
    matrices[:, 1, 0], matrices[:, 1, 1] = -b * sin, b * cos
    centre = np.stack([half + nuclei.x_px % 1, half + nuclei.y_px % 1], axis=1)
    matrices[:, :, 2] = (_SIDE - 1) / 2 - np.einsum("nij,nj->ni", matrices[:, :, :2], centre)
    return matrices


def _blend(density: NDArray[np.float32], patch: NDArray[np.float32], left: int, top: int) -> None:
    height, width = density.shape
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + patch.shape[1], width), min(top + patch.shape[0], height)
    if x0 < x1 and y0 < y1:
        target = density[y0:y1, x0:x1]
        np.maximum(target, patch[y0 - top : y1 - top, x0 - left : x1 - left], out=target)
