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
    "tumour": (0.60, 0.20, 0.27, 2.2, 2),
    "lymphocyte": (0.76, 0.08, 0.18, 3.4, 0),
    "fibroblast": (0.68, 0.12, 0.12, 3.0, 0),
    "pyknotic": (0.84, 0.04, 0.08, 3.0, 0),
    "lining": (0.62, 0.22, 0.16, 2.6, 1),
    "macrophage": (0.66, 0.16, 0.20, 2.8, 1),
    "cytoplasm": (0.80, 0.05, 0.22, 2.2, 0),
    "red cell": (0.62, 0.22, 0.02, 5.0, 0),
}

DENSITY_UNIT: Final = 10_000
"""Stored density of nuclei is the density × this, as uint16: half the memory of float32, finer than any camera."""


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one kind, as equal-length arrays.

    Attributes
    ----------
    kind : a key of ``_LOOK``: ``tumour``, ``lymphocyte`` …; cells without a nucleus are stamped alike
    x_px, y_px : ndarray; centres [canvas px]
    area_um2 : ndarray; areas [µm²]
    elongation : ndarray; long axis / short axis, ≥ 1
    angle : ndarray; direction of the long axis [rad]
    darkness : ndarray; haematoxylin density of the body
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
    width_px, height_px : extent [px]
    spacing_px : distance of neighbours [px]; density is ``2 / (√3 · spacing²)``
    jitter : standard deviation of the displacement / spacing

    Returns ndarray, shape (n, 2): (x, y) [px], all inside the extent.
    """
    x = np.arange(0, width_px + spacing_px, spacing_px)
    y = np.arange(0, height_px + spacing_px, spacing_px * np.sqrt(3) / 2)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    grid[1::2, :, 0] += spacing_px / 2
    points = grid.reshape(-1, 2) + rng.uniform(0, spacing_px, 2)
    points += rng.normal(0, jitter * spacing_px, points.shape)
    inside = (points >= 0).all(axis=1) & (points[:, 0] < width_px) & (points[:, 1] < height_px)
    return points[inside]


@lru_cache(maxsize=16)
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
    inside = np.clip((1.0 - distance) * _RADIUS / 3.5 + 0.5, 0, 1)
    chromatin = cv2.GaussianBlur(rng.standard_normal((_SIDE, _SIDE)), (0, 0), clump_px)
    density = body + contrast * chromatin / chromatin.std() + rim * np.clip((distance - 0.72) / 0.2, 0, 1)
    for _ in range(rng.integers(0, nucleoli + 1)):
        cx, cy = rng.uniform(-7, 7, 2)
        density += 0.5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * rng.uniform(1.8, 2.8) ** 2))
    return (np.clip(density, 0.25, 1.7) * inside).astype(np.float32)


@lru_cache(maxsize=1)
def fine_chromatin() -> NDArray[np.float32]:
    """Noise of unit variance that is gone once neighbouring pixels are averaged in pairs, periodic, shape (1024, 1024).

    Only spatial frequencies that an average over 2 × 2 px weakens to a fifth or less are kept: at 0.25 µm/px detail of
    0.5 to 0.6 µm, which a scan at 0.5 µm/px cannot carry. Every slide shares it.
    """
    spectrum = np.fft.rfft2(generator(0, "fine chromatin").standard_normal((1024, 1024)))
    passed = np.abs(np.cos(np.pi * np.fft.fftfreq(1024))[:, None] * np.cos(np.pi * np.fft.rfftfreq(1024)))
    band = np.fft.irfft2(spectrum * (passed < 0.2), s=(1024, 1024))
    return np.asarray(band / band.std(), np.float32)


def add_chromatin(nuclei: NDArray[np.uint16], contrast: float) -> None:
    """Give every drawn nucleus fine chromatin of a relative `contrast` (standard deviation), in place.

    The mean light through a nucleus is kept (to second order), so that the contrast leaves no trace in brightness once
    its detail has been averaged away.

    Parameters
    ----------
    nuclei : ndarray, shape (height, width), uint16; density in 1 / :data:`DENSITY_UNIT`, at 40×
    contrast : relative standard deviation of density
    """
    texture = fine_chromatin()
    for top in range(0, nuclei.shape[0], 256):
        band = nuclei[top : top + 256]
        density = band.astype(np.float32) * np.float32(1 / DENSITY_UNIT)
        rows = np.arange(top, top + len(band)) % len(texture)
        grain = np.tile(texture[rows], (1, -(-band.shape[1] // texture.shape[1])))[:, : band.shape[1]]
        ripple = np.float32(contrast) * density
        # mean of 10^(-a·x) over x ~ N(0, s) is 10^(ln(10)·a²·s²/2); a = 0.7 is haematoxylin in green
        density += ripple * grain + np.float32(0.5 * np.log(10) * 0.7) * ripple**2
        band[:] = np.clip(density * np.float32(DENSITY_UNIT), 0, 65535).astype(np.uint16)


def stamp(density: NDArray[np.uint16], nuclei: Nuclei, mpp: float, scale: int, rng: np.random.Generator) -> None:
    """Draw nuclei into a map of density, in place; overlaps keep the darker one.

    Parameters
    ----------
    density : ndarray, shape (height · scale, width · scale), uint16; map to draw into, in 1 / :data:`DENSITY_UNIT`
    nuclei : what to draw, placed in canvas px; stamps reaching over the edge are cut there
    mpp : canvas resolution [µm/px]
    scale : map px per canvas px
    rng : chooses the master of each nucleus
    """
    bank = masters(nuclei.kind)
    which = rng.integers(0, len(bank), len(nuclei.x_px))
    x, y = nuclei.x_px * scale + (scale - 1) / 2, nuclei.y_px * scale + (scale - 1) / 2
    radius = np.sqrt(nuclei.area_um2 / np.pi) / mpp * scale
    long_px = radius * np.sqrt(nuclei.elongation)
    short_px = radius / np.sqrt(nuclei.elongation)
    half = np.ceil(long_px * 1.2).astype(int) + 1
    matrices = _inverse_matrices(x, y, nuclei.angle, long_px, short_px, half)
    left = np.floor(x).astype(int) - half
    top = np.floor(y).astype(int) - half
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for i, side in enumerate(2 * half + 1):
        patch = cv2.warpAffine(bank[which[i]], matrices[i], (int(side), int(side)), flags=flags)
        patch *= np.float32(nuclei.darkness[i] * DENSITY_UNIT)
        _blend(density, patch.astype(np.uint16), int(left[i]), int(top[i]))


def _inverse_matrices(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    angle: NDArray[np.float64],
    long_px: NDArray[np.float64],
    short_px: NDArray[np.float64],
    half: NDArray[np.int_],
) -> NDArray[np.float64]:
    """Affine maps from patch pixels to master pixels, shape (n, 2, 3)."""
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = _RADIUS / long_px, _RADIUS / short_px
    matrices = np.empty((len(cos), 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = a * cos, a * sin
    matrices[:, 1, 0], matrices[:, 1, 1] = -b * sin, b * cos
    centre = np.stack([half + x % 1, half + y % 1], axis=1)
    matrices[:, :, 2] = (_SIDE - 1) / 2 - np.einsum("nij,nj->ni", matrices[:, :, :2], centre)
    return matrices


def _blend(density: NDArray[np.uint16], patch: NDArray[np.uint16], left: int, top: int) -> None:
    height, width = density.shape
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + patch.shape[1], width), min(top + patch.shape[0], height)
    if x0 < x1 and y0 < y1:
        target = density[y0:y1, x0:x1]
        np.maximum(target, patch[y0 - top : y1 - top, x0 - left : x1 - left], out=target)
