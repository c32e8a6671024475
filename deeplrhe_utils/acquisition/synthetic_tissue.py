"""Draw tissue: maps of haematoxylin and eosin density on a canvas of about 0.5 µm/px.

Lengths are in µm and become pixels by the canvas resolution, so that a nucleus has the same size on
every scanner. Densities are dimensionless: 1 is a well-stained tumour nucleus (haematoxylin) or dense
collagen (eosin).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.synthetic_nuclei import Nuclei, hexagonal_points, stamp
from deeplrhe_utils.core.seeds import generator

Map = NDArray[np.float32]

TUMOUR_DENSITY_PER_MM2: Final = 5200.0  # inside nests; real fields of the same organ: 6,000–7,000 over all cells
TUMOUR_AREA_UM2: Final = 58.0  # wild type, 8.6 µm across; real outlines: medians of 16–52 µm² over all cells
LYMPHOCYTE_SHARE: Final = 0.22  # of tumour cells plus lymphocytes, at factor 1
_BAND_ROWS: Final = 256  # full-size maps are made in bands of rows: memory stays at two maps
_COARSE: Final = 4  # region masks are made at a quarter of the canvas and enlarged: soft edges, little memory


@dataclass(frozen=True)
class TissueRecipe:
    """What one slide's tissue looks like.

    Attributes
    ----------
    width_px, height_px : int
        Canvas size [px], multiples of 4.
    mpp : float
        Canvas resolution [µm/px].
    tumour_share : float
        Area of the tumour outline / area of the canvas [0–1].
    subtype : str
        ``adenocarcinoma`` (glands with lumina) or ``squamous`` (solid nests with keratin).
    frozen : bool
        Frozen-like: ice-crystal clefts.
    nuclear_area, nuclear_density, lymphocyte_share : float
        Factors on the constants of this module.
    """

    width_px: int
    height_px: int
    mpp: float
    tumour_share: float
    subtype: str
    frozen: bool
    nuclear_area: float = 1.0
    nuclear_density: float = 1.0
    lymphocyte_share: float = 1.0


@dataclass(frozen=True)
class Tissue:
    """Density maps (float32, shape (height, width)) and the tumour outline, shape (n, 2), (x, y) [canvas px]."""

    haematoxylin: Map
    eosin: Map
    outline: NDArray[np.float64]


@dataclass(frozen=True)
class _Regions:
    """Soft masks in [0, 1] at a quarter of the canvas."""

    tissue: Map
    tumour: Map
    nest: Map
    open_space: Map
    keratin: Map


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> Map:
    """Smooth noise of zero mean and about unit variance.

    Parameters
    ----------
    rng : numpy Generator
        Source of randomness.
    shape : (height, width)
        Size of the result [px].
    scale_px : float
        Distance over which values change [px].
    """
    coarse = rng.standard_normal((int(shape[0] / scale_px) + 4, int(shape[1] / scale_px) + 4), dtype=np.float32)
    step = int(np.ceil(scale_px))
    full = np.asarray(cv2.resize(coarse, None, fx=scale_px, fy=scale_px, interpolation=cv2.INTER_CUBIC), np.float32)
    field = full[step : step + shape[0], step : step + shape[1]]
    return np.ascontiguousarray(field) * np.float32(1.35)  # cubic enlargement loses about half the variance


def ramp(values: Map, low: float, high: float) -> Map:
    """Linear step from 0 at `low` to 1 at `high`, clipped."""
    return np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)


def blob(rng: np.random.Generator, width: float, height: float, share: float, roughness: float) -> NDArray[np.float64]:
    """A smooth closed outline around the centre that covers `share` of a rectangle.

    Returns
    -------
    ndarray, shape (192, 2)
        (x, y) in the rectangle's units; never outside it by construction of the later clipping.
    """
    angle = np.linspace(0, 2 * np.pi, 192, endpoint=False)
    radius = (np.abs(np.cos(angle)) ** 3.4 + np.abs(np.sin(angle)) ** 3.4) ** (-1 / 3.4)
    for order in range(2, 7):
        radius *= 1 + roughness / order * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    unit = np.stack([np.cos(angle) * radius * width, np.sin(angle) * radius * height], axis=1)
    area = 0.5 * abs(np.sum(unit[:, 0] * np.roll(unit[:, 1], 1) - unit[:, 1] * np.roll(unit[:, 0], 1)))
    unit *= np.sqrt(share * width * height / area)
    centre = np.array([width, height]) / 2
    return np.clip(unit, -0.485 * 2 * centre, 0.485 * 2 * centre) + centre


def draw_tissue(recipe: TissueRecipe, rng: np.random.Generator) -> Tissue:
    """Draw one slide's tissue.

    Parameters
    ----------
    recipe : TissueRecipe
        Size, region and attribute factors.
    rng : numpy Generator
        The slide's own stream.

    Returns
    -------
    Tissue
        Densities and tumour outline.
    """
    outline = blob(rng, recipe.width_px, recipe.height_px, recipe.tumour_share, 0.07)
    around = blob(rng, recipe.width_px, recipe.height_px, 0.87, 0.05)
    regions = _draw_regions(recipe, outline, around, rng)
    haematoxylin, eosin, direction = _background_densities(recipe, regions, rng)
    for nuclei in _place_nuclei(recipe, regions, direction, rng):
        stamp(haematoxylin, nuclei, recipe.mpp, rng)
    for top in range(0, recipe.height_px, _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        # Chromatin displaces the stained protein.
        eosin[rows] *= 1 - np.float32(0.45) * ramp(haematoxylin[rows], 0.3, 0.9)
    return Tissue(haematoxylin, eosin, outline)


def _mask(outline: NDArray[np.float64], shape: tuple[int, int]) -> Map:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(outline / _COARSE).astype(np.int32)], 255)
    return cv2.GaussianBlur(mask, (0, 0), 2).astype(np.float32) / np.float32(255)


def _draw_regions(
    recipe: TissueRecipe,
    outline: NDArray[np.float64],
    around: NDArray[np.float64],
    rng: np.random.Generator,
) -> _Regions:
    """Tissue, tumour nests, open spaces (lumina, clefts, alveoli) and keratin."""
    shape = (recipe.height_px // _COARSE, recipe.width_px // _COARSE)
    unit = 1 / (recipe.mpp * _COARSE)  # coarse px per µm
    tumour = _mask(outline, shape)
    tissue = np.maximum(_mask(around, shape), tumour)
    architecture = smooth_noise(rng, shape, 95 * unit) + np.float32(0.45) * smooth_noise(rng, shape, 35 * unit)
    nest = ramp(architecture, -0.52, -0.42) * tumour
    cleft = ramp(np.abs(architecture + np.float32(0.62)), 0.09, 0.03) * ramp(
        smooth_noise(rng, shape, 70 * unit), 0.2, 0.6
    )
    holes = smooth_noise(rng, shape, 26 * unit)
    lumen_cut = 1.25 if recipe.subtype == "adenocarcinoma" else 2.2
    lumen = ramp(holes, lumen_cut, lumen_cut + 0.15) * ramp(architecture, 0.0, 0.15) * tumour
    keratin = ramp(smooth_noise(rng, shape, 45 * unit), 1.15, 1.6) * nest * (recipe.subtype == "squamous")
    open_space = np.maximum(np.maximum(cleft * tumour * np.float32(0.9), lumen), _alveoli(shape, tumour, unit, rng))
    if recipe.frozen:
        ice = ramp(np.abs(smooth_noise(rng, shape, 9 * unit)), 0.10, 0.02) * ramp(
            smooth_noise(rng, shape, 120 * unit), 0.2, 0.8
        )
        open_space = np.maximum(open_space, ice * np.float32(0.8))
    return _Regions(tissue, tumour, nest, open_space, keratin.astype(np.float32))


def _alveoli(shape: tuple[int, int], tumour: Map, unit: float, rng: np.random.Generator) -> Map:
    """Air spaces of normal lung outside the tumour: what lies between thin septa."""
    septa = np.minimum(np.abs(smooth_noise(rng, shape, 60 * unit)), np.abs(smooth_noise(rng, shape, 75 * unit)))
    where = ramp(smooth_noise(rng, shape, 260 * unit), -0.5, 0.0) * ramp(tumour, 0.35, 0.0)
    return ramp(septa, 0.10, 0.18) * where


def enlarge_rows(image: Map, top: int, bottom: int, factor: int) -> Map:
    """Rows `top` to `bottom` of an image enlarged by an integer factor, equal to enlarging it whole.

    Parameters
    ----------
    image : ndarray, shape (height, width) or (height, width, channels), float32
        Small image.
    top, bottom : int
        Rows of the enlarged image.
    factor : int
        At least 1.
    """
    if factor == 1:
        return image[top:bottom]
    first, last = max(top // factor - 2, 0), min(-(-bottom // factor) + 2, image.shape[0])
    size = (image.shape[1] * factor, (last - first) * factor)
    large = np.asarray(cv2.resize(image[first:last], size, interpolation=cv2.INTER_LINEAR), np.float32)
    return large[top - first * factor : bottom - first * factor]


def _background_densities(recipe: TissueRecipe, regions: _Regions, rng: np.random.Generator) -> tuple[Map, Map, Map]:
    """Cytoplasm, collagen, keratin and open spaces before any nucleus; the direction of the fibres [rad]."""
    shape = regions.nest.shape
    solid = regions.tissue * (1 - regions.open_space)
    patch = 1 + np.float32(0.13) * smooth_noise(rng, shape, 20)
    loose = np.float32(0.8) + np.float32(0.22) * smooth_noise(rng, shape, 45 / recipe.mpp / _COARSE)
    shift = smooth_noise(rng, shape, 130 / recipe.mpp / _COARSE) * np.float32(48 / recipe.mpp)
    shift += np.float32(rng.uniform(0, 512))  # slides see different rows of the shared texture
    texture, grain = _fibre_texture(recipe.mpp), _grain(recipe.mpp)
    coarse = np.dstack([regions.nest, solid, patch, loose, regions.keratin, shift])
    haematoxylin = np.empty((recipe.height_px, recipe.width_px), np.float32)
    eosin = np.empty_like(haematoxylin)
    for top in range(0, recipe.height_px, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, recipe.height_px)
        nest, firm, uneven, dense, keratin, bend = np.moveaxis(enlarge_rows(coarse, top, bottom, _COARSE), 2, 0)
        fibre = _fibres(texture, bend, top)
        speckle = _repeated(grain, top, bottom, recipe.width_px) * firm
        stroma = (np.float32(0.12) + np.float32(0.36) * fibre) * dense
        cytoplasm = np.float32(0.30) * uneven + np.float32(0.25) * keratin
        eosin[top:bottom] = (stroma + nest * (cytoplasm - stroma)) * speckle
        haematoxylin[top:bottom] = (np.float32(0.035) + np.float32(0.10) * nest) * speckle * uneven
    slope_y, slope_x = np.gradient(shift, _COARSE)
    return haematoxylin, eosin, np.arctan2(-slope_x, slope_y + 1).astype(np.float32)


@lru_cache(maxsize=8)
def _fibre_texture(mpp: float) -> Map:
    """Horizontal streaks of two widths, periodic, in [0, 1], shape (512, 512); every slide shares them."""
    rng = generator(0, "fibre texture")
    texture = np.zeros((512, 512), np.float32)
    for length_um, width_um, weight in ((9, 0.55, 0.6), (18, 1.6, 0.8)):
        grain = rng.standard_normal((512, 512), dtype=np.float32)
        texture += np.float32(weight) * _periodic_blur(grain, length_um / mpp, width_um / mpp)
    return ramp(texture, -1.8, 2.0)


@lru_cache(maxsize=8)
def _grain(mpp: float) -> Map:
    """Granular cytoplasm, fine and coarse, periodic, about 1, shape (512, 512); every slide shares it."""
    rng = generator(0, "grain")
    sizes = (0.8 / mpp, 3 / mpp)
    fine, coarse = (_periodic_blur(rng.standard_normal((512, 512), dtype=np.float32), s, s) for s in sizes)
    return np.clip(1 + np.float32(0.14) * fine + np.float32(0.10) * coarse, 0.2, 2)


def _periodic_blur(grain: Map, sigma_x: float, sigma_y: float) -> Map:
    """Gaussian blur with wrapped edges, scaled to unit variance."""
    tiled = np.tile(grain, (3, 3))
    blurred = np.asarray(cv2.GaussianBlur(tiled, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y), np.float32)
    side = grain.shape[0]
    middle = blurred[side : 2 * side, side : 2 * side]
    return np.ascontiguousarray(middle / np.float32(middle.std()))


def _fibres(texture: Map, bend: Map, top: int) -> Map:
    """Wavy collagen in [0, 1] of one band: streaks displaced by `bend` run along ``y + bend``."""
    height, width = bend.shape
    down = bend + np.arange(top, top + height, dtype=np.float32)[:, None]
    along = np.ascontiguousarray(np.broadcast_to(np.arange(width, dtype=np.float32), bend.shape))
    fibre = cv2.remap(texture, along, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(fibre, np.float32)


def _repeated(patch: Map, top: int, bottom: int, width: int) -> Map:
    """Rows `top` to `bottom` of a patch repeated in both directions, which no eye finds at this scale."""
    rows = np.arange(top, bottom) % patch.shape[0]
    return np.tile(patch[rows], (1, -(-width // patch.shape[1])))[:, :width]


def _at(mask: Map, points: NDArray[np.float64]) -> Map:
    """Values of a coarse mask at canvas points (x, y)."""
    column = np.clip((points[:, 0] / _COARSE).astype(int), 0, mask.shape[1] - 1)
    row = np.clip((points[:, 1] / _COARSE).astype(int), 0, mask.shape[0] - 1)
    return mask[row, column]


def _place_nuclei(recipe: TissueRecipe, regions: _Regions, direction: Map, rng: np.random.Generator) -> list[Nuclei]:
    """Fibroblasts, lymphocytes, septal cells and tumour cells, in drawing order."""
    tumour = _tumour_nuclei(recipe, regions, rng)
    lymphocytes = _lymphocytes(recipe, regions, len(tumour.x_px), rng)
    return [_fibroblasts(recipe, regions, direction, rng), lymphocytes, tumour]


def _tumour_nuclei(recipe: TissueRecipe, regions: _Regions, rng: np.random.Generator) -> Nuclei:
    spacing_um = np.sqrt(2e6 / np.sqrt(3) / (TUMOUR_DENSITY_PER_MM2 * recipe.nuclear_density))
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, spacing_um / recipe.mpp, 0.24)
    cell = (_at(regions.nest, points) > 0.6) & (_at(regions.open_space, points) < 0.3)
    points = points[cell & (_at(regions.keratin, points) < 0.5)]
    n = len(points)
    area = TUMOUR_AREA_UM2 * recipe.nuclear_area * np.exp(rng.normal(0, 0.28, n))
    angle = rng.uniform(0, np.pi, n)
    darkness = np.clip(rng.normal(0.80, 0.13, n), 0.45, 1.25)
    return Nuclei("tumour", points[:, 0], points[:, 1], area, rng.uniform(1.05, 1.6, n), angle, darkness)


def _lymphocytes(recipe: TissueRecipe, regions: _Regions, n_tumour: int, rng: np.random.Generator) -> Nuclei:
    """As many as the share of lymphocytes asks for; mostly in clusters in the stroma of the tumour."""
    share = min(0.6, LYMPHOCYTE_SHARE * recipe.lymphocyte_share)
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 7.6 / recipe.mpp, 0.3)
    unit = 1 / (recipe.mpp * _COARSE)
    cluster = np.exp(1.3 * smooth_noise(rng, regions.nest.shape, 60 * unit)) + np.float32(0.15)
    free = regions.tissue * (1 - regions.open_space) * (1 - np.float32(0.93) * regions.nest)
    weight = (_at(cluster * free * (np.float32(0.12) + regions.tumour), points)).astype(np.float64)
    weight[weight < 1e-3] = 0
    wanted = min(round(share / (1 - share) * n_tumour), int((weight > 0).sum()))
    # Exponential keys give a weighted draw without replacement in one sort (Efraimidis and Spirakis 2006).
    keys = rng.exponential(size=len(points)) / np.maximum(weight, 1e-12)
    points = points[np.sort(np.argsort(keys, kind="stable")[:wanted])]
    n = len(points)
    area = 26.0 * np.exp(rng.normal(0, 0.15, n))
    return Nuclei(
        "lymphocyte",
        points[:, 0],
        points[:, 1],
        area,
        rng.uniform(1.0, 1.2, n),
        rng.uniform(0, np.pi, n),
        np.clip(rng.normal(1.15, 0.12, n), 0.8, 1.5),
    )


def _fibroblasts(recipe: TissueRecipe, regions: _Regions, direction: Map, rng: np.random.Generator) -> Nuclei:
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 23 / recipe.mpp, 0.4)
    stroma = regions.tissue * (1 - regions.nest) * (1 - regions.open_space)
    points = points[_at(stroma, points) > rng.uniform(0.3, 1.0, len(points))]
    n = len(points)
    angle = _at(direction, points) + rng.normal(0, 0.18, n)
    area = 24.0 * np.exp(rng.normal(0, 0.3, n))
    darkness = np.clip(rng.normal(0.85, 0.15, n), 0.4, 1.3)
    return Nuclei("fibroblast", points[:, 0], points[:, 1], area, rng.uniform(2.2, 4.5, n), angle, darkness)
