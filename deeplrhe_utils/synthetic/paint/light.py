"""From densities to the picture a scanner stores: stain, lamp, camera, noise.

Beer–Lambert: optical density is haematoxylin and eosin density times a stain matrix; transmitted light is the lamp
times ten to the power of minus optical density; the camera's channels overlap a little and are noisy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.synthetic.paint.artefacts import Overlay
from deeplrhe_utils.synthetic.paint.nuclei import DENSITY_UNIT
from deeplrhe_utils.synthetic.paint.regions import Map
from deeplrhe_utils.synthetic.paint.svs import TILE_SIZE_PX
from deeplrhe_utils.synthetic.paint.tissue import Tissue, enlarge_rows

_INKS: Final = ((0.95, 0.55, 0.10), (0.85, 0.30, 0.75), (0.8, 0.8, 0.8), (0.98, 0.62, 0.25))
"""Optical density of blue, green, black and dark blue ink in R, G and B."""
_BLOOD: Final = (0.08, 0.82, 0.70)  # OD of R, G, B: redder than eosin, as haemoglobin takes blue
_SOOT: Final = (0.85, 1.0, 1.15)
_NOISE: Final = 3.6  # grey levels before smoothing; about 2 after
_STRIP_ROWS: Final = 64  # light is computed in strips that stay in the processor's cache
_BASE: Final = ((0.61, 0.71, 0.35), (0.19, 0.86, 0.44))


def stain_matrix(seed: int, site_id: str, slide_id: str) -> NDArray[np.float64]:
    """Optical density (log10) of unit haematoxylin and unit eosin in R, G and B, shape (2, 3).

    Sites scatter widely around the classical vectors (Ruifrok and Johnston 2001; Macenko et al. 2009), slides of a site
    narrowly around their site; vectors have unit length times an intensity.
    """
    site, slide = generator(seed, "site", site_id, "stain"), generator(seed, "stain", slide_id)
    vectors = np.array(_BASE) + site.normal(0, 1, (2, 3)) * [[0.07, 0.05, 0.05], [0.05, 0.04, 0.07]]
    vectors = np.clip(vectors + slide.normal(0, 0.012, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    intensity = np.exp(site.normal(0, 0.20, 2) + slide.normal(0, 0.06, 2))
    return vectors * np.clip(intensity, 0.6, 1.6)[:, None]


def camera_matrix(seed: int, site_id: str) -> NDArray[np.float64]:
    """How a site's camera mixes the three channels of light, shape (3, 3), rows sum to 1 (ours: up to 4 % overlap)."""
    overlap = generator(seed, "site", site_id, "camera").uniform(0.0, 0.04, (3, 3))
    np.fill_diagonal(overlap, 0)
    return overlap + np.diag(1 - overlap.sum(axis=1))


@dataclass(frozen=True)
class Light:
    """Stain, lamp and camera of one slide.

    Attributes
    ----------
    to_log : float32, shape (3, 7); affine map from haematoxylin, eosin, blood, pigment, ink and shade density to the
        natural logarithm of light [0–255]
    camera : float32, shape (3, 3)
    """

    to_log: Map
    camera: Map

    @classmethod
    def of(cls, seed: int, site_id: str, slide_id: str) -> Light:
        """The light of a slide."""
        rng = generator(seed, "lamp", slide_id)
        ink = np.array(_INKS[int(rng.integers(len(_INKS)))]) * np.exp(rng.normal(0, 0.12, 3))  # no two pens are alike
        layers = np.vstack([stain_matrix(seed, site_id, slide_id), _BLOOD, _SOOT, ink, np.full(3, 1.0)])
        lamp = np.log(generator(seed, "lamp", site_id).uniform(238, 247) + rng.normal(0, 1.2, 3))
        to_log = np.hstack([-math.log(10) * layers.T, lamp[:, None]]).astype(np.float32)
        return cls(to_log, camera_matrix(seed, site_id).astype(np.float32))

    def bands(self, tissue: Tissue, overlay: Overlay, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """Rows of the scan from the top, shape (up to 256, width, 3), uint8 RGB.

        Parameters
        ----------
        rng : the section's stream for sensor noise
        """
        height, width = tissue.nuclei.shape
        noise = _noise_strip(rng, width)
        for top in range(0, height, TILE_SIZE_PX):
            band = np.empty((min(TILE_SIZE_PX, height - top), width, 3), np.uint8)
            for start in range(0, len(band), _STRIP_ROWS):
                strip = band[start : start + _STRIP_ROWS]
                light = self._transmitted(*_densities(tissue, overlay, top + start, top + start + len(strip)))
                shifted = np.roll(noise, int(rng.integers(width)), axis=1)[: len(strip)]
                cv2.add(light, shifted, dst=strip, dtype=cv2.CV_8U)
            yield band

    def _transmitted(self, densities: Map, present: list[int]) -> Map:
        """Light [0–255] in R, G and B behind a strip of densities."""
        light = cv2.transform(densities, self.to_log[:, [*present, -1]])
        return np.asarray(cv2.transform(cv2.exp(light, dst=light), self.camera), np.float32)


def _densities(tissue: Tissue, overlay: Overlay, top: int, bottom: int) -> tuple[Map, list[int]]:
    """Scan rows of density: haematoxylin, eosin, and what else there is of blood, pigment, ink and shade; and which."""
    scale = tissue.nuclei.shape[0] // tissue.eosin.shape[0]
    first, last = max(top // scale - 4, 0), min(bottom // scale + 4, tissue.eosin.shape[0])
    unit = np.float32(1 / DENSITY_UNIT)
    maps: list[tuple[NDArray[Any], np.float32]] = [
        *((layer, unit) for layer in (tissue.haematoxylin, tissue.eosin, tissue.blood, tissue.soot)),
        *((layer, np.float32(1 / 255)) for layer in (overlay.pen, overlay.shade)),
    ]
    present = [i for i, (layer, _) in enumerate(maps) if i < 2 or layer[first:last].any()]
    layers = [maps[i][0][first:last].astype(np.float32) * maps[i][1] for i in present]
    densities = enlarge_rows(cv2.merge(layers), top - first * scale, bottom - first * scale, scale)
    nuclei = tissue.nuclei[top:bottom].astype(np.float32) * unit
    np.maximum(nuclei, densities[..., 0], out=nuclei)
    densities[..., 0] = nuclei
    return densities, present


def _noise_strip(rng: np.random.Generator, width: int) -> Map:
    """Sensor noise of about 2 grey levels, slightly correlated as after demosaicking."""
    noise = rng.standard_normal((_STRIP_ROWS, width, 3), dtype=np.float32)
    return np.asarray(cv2.blur(noise, (2, 2)), np.float32) * np.float32(_NOISE)
