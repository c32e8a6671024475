"""Small pictures of nuclei in stroma beside a band of glass, as laboratories stain them, and a network fitted on them.

Tests share the pictures and the seconds that the fit takes: nobody writes into either.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from deeplrhe_utils.stain.colour import CHROMA_EPSILON, SQRT3, density_to_rgb
from deeplrhe_utils.stain.dcgmm.fit import fit_responsibilities
from deeplrhe_utils.stain.dcgmm.method import Dcgmm
from deeplrhe_utils.stain.dcgmm.net import DEFAULT, DcgmmConfig, DcgmmNet
from deeplrhe_utils.stain.dcgmm.statistics import density_scale

SIDE, GLASS_PX = 192, 40
GLASS = np.arange(SIDE)[None].repeat(SIDE, 0) >= SIDE - GLASS_PX
QUICK = {"steps": 100, "crop_px": 96, "batch": 4, "learning_rate": 5e-3, "seed": 3}
# haematoxylin, eosin, thickness
STAINS = {
    "lab 1": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), 1.0),
    "lab 2": ((0.55, 0.78, 0.30), (0.10, 0.96, 0.24), 1.3),
    "lab 3": ((0.72, 0.62, 0.32), (0.05, 0.97, 0.05), 0.75),
}


def hsd_to_od(hsd: np.ndarray) -> np.ndarray:
    """Optical density of (D, cx, cy), (..., 3)."""
    density, red, half = hsd[..., 0], *(hsd[..., i] * (hsd[..., 0] + CHROMA_EPSILON) for i in (1, 2))
    half = half * (SQRT3 / 2)
    return np.stack([density + red, density - red / 2 + half, density - red / 2 - half], axis=-1)


def clip_gamut(hsd: np.ndarray) -> np.ndarray:
    """(D, cx, cy) no channel of which is brighter than white: density is kept, hue gives way."""
    density = np.maximum(hsd[..., 0], 0.0)
    rho = density / (density + CHROMA_EPSILON)
    cx = np.clip(hsd[..., 1], -rho, 2 * rho)
    limit = (2 * rho - cx) / SQRT3
    return np.stack([density, cx, np.clip(hsd[..., 2], -limit, limit)], axis=-1)


def smooth(random: np.random.Generator, sigma: float, side: int = SIDE) -> np.ndarray:
    """Noise of unit SD with structure of one size."""
    field = cv2.GaussianBlur(random.standard_normal((side, side)).astype(np.float32), (0, 0), sigma)
    return (field - field.mean()) / field.std()


def amounts(seed: int = 0) -> np.ndarray:
    """Haematoxylin and eosin per pixel, (H, W, 2): some 60 soft nuclei in textured stroma, none on the glass."""
    random = np.random.default_rng(seed)
    nuclei = np.zeros((SIDE, SIDE), np.float32)
    for x, y in random.uniform(6, SIDE - 6, (90, 2)):
        cv2.ellipse(nuclei, (int(x), int(y)), (int(random.integers(4, 8)), 5), float(random.uniform(0, 180)), 0, 360,
                    float(random.uniform(0.7, 1.1)), -1)  # fmt: skip
    nuclei = cv2.GaussianBlur(nuclei, (0, 0), 0.8) * (1 + 0.12 * smooth(random, 1.5))
    eosin = np.clip(0.55 + 0.15 * smooth(random, 6) + 0.06 * smooth(random, 1.2), 0.02, None)
    both = np.stack([np.clip(nuclei, 0, None) * 1.3 + 0.05, eosin * (1 - 0.5 * np.clip(nuclei, 0, 1))], axis=-1)
    both[GLASS] = 0
    return both


def painted(lab: str = "lab 1", seed: int = 0, light: tuple[float, float, float] = (0.03, 0.03, 0.03)) -> np.ndarray:
    """One tile, uint8 RGB (192, 192, 3); `light` is the optical density of the glass."""
    haematoxylin, eosin, thickness = STAINS[lab]
    noise = np.random.default_rng(1000 + seed).normal(0, 0.004, (SIDE, SIDE, 3))
    od = thickness * amounts(seed) @ np.array([haematoxylin, eosin]) + light + noise
    return density_to_rgb(np.clip(od, 0, None).astype(np.float32))


@cache
def slides(n: int = 3) -> dict[str, list[np.ndarray]]:
    """`n` tiles of every laboratory, no two with the same tissue."""
    return {lab: [painted(lab, 10 * i + j) for j in range(n)] for i, lab in enumerate(STAINS)}


@cache
def fitted() -> Dcgmm:
    """The default method, fitted on all laboratories."""
    return Dcgmm(quick_fit(*training())[0])


def quick_fit(tiles: Sequence[np.ndarray], scales: Sequence[float], config: DcgmmConfig = DEFAULT, **recipe):
    """A fit of a second or two: small crops at a high rate, enough for the convolutions to have their say."""
    return fit_responsibilities(tiles, scales, config, **{**QUICK, **recipe})


def training() -> tuple[list[np.ndarray], list[float]]:
    """All tiles of :func:`slides` and the density scale of each one's slide."""
    tiles = [tile for slide in slides().values() for tile in slide]
    return tiles, [density_scale(slide) for slide in slides().values() for _ in slide]


def net() -> DcgmmNet:
    """The network of :func:`fitted`."""
    return fitted().net


def levels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Absolute difference in grey levels."""
    return np.abs(first.astype(int) - second.astype(int))
