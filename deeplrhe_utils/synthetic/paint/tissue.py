"""Draw tissue: haematoxylin and eosin density of one section.

Lengths are in µm and become pixels by the resolution, so that a nucleus has the same size on every scanner.
Densities are dimensionless: 1 is a well-stained tumour nucleus (haematoxylin) or dense collagen (eosin).
Nuclei are drawn at the resolution of the scan; cytoplasm and stroma, which hold no finer detail here, on a canvas of
about 0.5 µm/px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.synthetic.paint.nuclei import DENSITY_UNIT, Nuclei, add_chromatin, hexagonal_points, stamp
from deeplrhe_utils.synthetic.paint.regions import (
    COARSE,
    Map,
    SectionRegions,
    draw_regions,
    smooth_noise,
    soft_ramp,
)

Streams = Callable[[str], np.random.Generator]

TUMOUR_DENSITY_PER_MM2: Final = 6500.0  # inside nests; real fields of the same organ: 6,000–7,000 over all cells
TUMOUR_AREA_UM2: Final = 58.0  # wild type, 8.6 µm across; real outlines: medians of 16–52 µm² over all cells
LYMPHOCYTE_SHARE: Final = 0.22  # of tumour cells plus lymphocytes, at factor 1
CHROMATIN_CONTRAST: Final = 0.12  # relative, of detail below 1 µm, at factor 1; exists at 40× only
_BAND_ROWS: Final = 64  # full-size maps are made in bands of rows that stay in the processor's cache


@dataclass(frozen=True)
class TissueRecipe:
    """What one section looks like.

    Attributes
    ----------
    width_px, height_px : canvas [px], multiples of 4
    mpp : canvas resolution [µm/px]
    scale : scan px per canvas px: 1 at 20×, 2 at 40×
    tumour_share : area of the tumour outline / area of the canvas [0–1]
    subtype : ``adenocarcinoma``, ``squamous`` or ``normal``
    frozen : frozen-like: ice-crystal clefts
    nuclear_area, nuclear_density, lymphocyte_share, chromatin_texture : factors on the constants of this module.
        `nuclear_area` acts inside the subclone only.
    """

    width_px: int
    height_px: int
    mpp: float
    scale: int
    tumour_share: float
    subtype: str
    frozen: bool
    nuclear_area: float = 1.0
    nuclear_density: float = 1.0
    lymphocyte_share: float = 1.0
    chromatin_texture: float = 1.0


@dataclass(frozen=True)
class Tissue:
    """One section, ready for artefacts and light.

    Attributes
    ----------
    nuclei : uint16, shape (height · scale, width · scale); haematoxylin of nuclei in 1 / ``DENSITY_UNIT``, at scan
        resolution
    haematoxylin, eosin : uint16, shape (height, width); everything else, in the same unit, on the canvas
    tumour_nuclei, lymphocytes : what was drawn; the truth is counted from these
    cell_room : bool, a quarter of the canvas Where tumour nuclei may lie; nuclear density is counted per area of it
    """

    nuclei: NDArray[np.uint16]
    haematoxylin: NDArray[np.uint16]
    eosin: NDArray[np.uint16]
    regions: SectionRegions
    tumour_nuclei: Nuclei
    lymphocytes: Nuclei
    cell_room: NDArray[np.bool_]


def draw_tissue(recipe: TissueRecipe, streams: Streams) -> Tissue:
    """Draw one section.

    Parameters
    ----------
    recipe : size, regions and attribute factors
    streams : ``streams(name)`` gives an independent random generator; separate streams keep the regions of a section
        the same whatever its effects are
    """
    regions = draw_regions(
        recipe.width_px, recipe.height_px, recipe.mpp, tumour_share=recipe.tumour_share, subtype=recipe.subtype,
        frozen=recipe.frozen, rng=streams("regions"),
    )  # fmt: skip
    haematoxylin, eosin, direction = _background_densities(recipe, regions, streams("background"))
    room = (regions.nest > 0.5) & (regions.wall < 0.7) & (np.maximum(regions.keratin, regions.necrosis) < 0.5)
    tumour = _tumour_nuclei(recipe, regions, room, streams("tumour nuclei"))
    lymphocytes = _lymphocytes(recipe, regions, len(tumour.x_px), streams("lymphocytes"))
    nuclei = np.zeros((recipe.height_px * recipe.scale, recipe.width_px * recipe.scale), np.uint16)
    stamp(nuclei, tumour, recipe.mpp, recipe.scale, streams("tumour stamps"))
    if recipe.scale > 1:
        add_chromatin(nuclei, CHROMATIN_CONTRAST * recipe.chromatin_texture)
    for kind in (lymphocytes, _fibroblasts(recipe, regions, direction, streams("fibroblasts")),
                 _pyknotic(recipe, regions, streams("pyknotic"))):  # fmt: skip
        stamp(nuclei, kind, recipe.mpp, recipe.scale, streams(f"{kind.kind} stamps"))
    return Tissue(nuclei, haematoxylin, eosin, regions, tumour, lymphocytes, room)


def glass(recipe: TissueRecipe) -> Tissue:
    """A section without anything on it."""
    shape = (recipe.height_px // COARSE, recipe.width_px // COARSE)
    zero, small = np.zeros((recipe.height_px, recipe.width_px), np.uint16), np.zeros(shape, np.float32)
    regions = SectionRegions(small, small, small, small, small, small, small, small, Polygon(), Polygon())
    none = _no_nuclei("tumour")
    nuclei = np.zeros((recipe.height_px * recipe.scale, recipe.width_px * recipe.scale), np.uint16)
    return Tissue(nuclei, zero, zero.copy(), regions, none, none, small > 0)


def _no_nuclei(kind: str) -> Nuclei:
    return Nuclei(kind, *(np.zeros(0) for _ in range(6)))


def enlarge_rows(image: Map, top: int, bottom: int, factor: int) -> Map:
    """Rows `top` to `bottom` of an image enlarged by an integer factor, equal to enlarging it whole.

    Parameters
    ----------
    image : ndarray, shape (height, width) or (height, width, channels), float32 Small image
    top, bottom : rows of the enlarged image
    factor : at least 1
    """
    if factor == 1:
        return image[top:bottom]
    first, last = max(top // factor - 2, 0), min(-(-bottom // factor) + 2, image.shape[0])
    size = (image.shape[1] * factor, (last - first) * factor)
    large = np.asarray(cv2.resize(image[first:last], size, interpolation=cv2.INTER_LINEAR), np.float32)
    return large[top - first * factor : bottom - first * factor]


def _background_densities(
    recipe: TissueRecipe, regions: SectionRegions, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], Map]:
    """Cytoplasm, collagen, keratin, necrosis and open spaces before any nucleus; direction of the fibres [rad]."""
    shape = regions.nest.shape
    solid = regions.tissue * (1 - regions.open_space)
    patch = 1 + np.float32(0.13) * smooth_noise(rng, shape, 20)
    loose = np.float32(0.8) + np.float32(0.22) * smooth_noise(rng, shape, 45 / recipe.mpp / COARSE)
    shift = smooth_noise(rng, shape, 130 / recipe.mpp / COARSE) * np.float32(48 / recipe.mpp)
    shift += np.float32(rng.uniform(0, 512))  # sections see different rows of the shared texture
    apical = np.float32(0.75) + np.float32(0.25) * (1 - regions.wall)  # paler towards a lumen
    texture, grain = _fibre_texture(recipe.mpp), _grain(recipe.mpp)
    coarse = np.dstack([regions.nest, solid, patch * apical, loose, regions.keratin, regions.necrosis, shift])
    haematoxylin = np.empty((recipe.height_px, recipe.width_px), np.uint16)
    eosin = np.empty_like(haematoxylin)
    for top in range(0, recipe.height_px, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, recipe.height_px)
        nest, firm, uneven, dense, keratin, dead, bend = np.moveaxis(enlarge_rows(coarse, top, bottom, COARSE), 2, 0)
        fibre = _fibres(texture, bend, top)
        speckle = _repeated(grain, top, bottom, recipe.width_px) * firm
        stroma = (np.float32(0.12) + np.float32(0.36) * fibre) * dense
        cytoplasm = np.float32(0.30) * uneven + np.float32(0.25) * keratin + np.float32(0.12) * dead
        speckle *= np.float32(DENSITY_UNIT)
        eosin[top:bottom] = np.maximum((stroma + nest * (cytoplasm - stroma)) * speckle, 0)
        haematoxylin[top:bottom] = np.maximum((np.float32(0.035) + np.float32(0.10) * nest) * speckle * uneven, 0)
    slope_y, slope_x = np.gradient(shift, COARSE)
    return haematoxylin, eosin, np.arctan2(-slope_x, slope_y + 1).astype(np.float32)


@lru_cache(maxsize=8)
def _fibre_texture(mpp: float) -> Map:
    """Horizontal streaks of two widths, periodic, in [0, 1], shape (512, 512); every slide shares them."""
    rng = generator(0, "fibre texture")
    texture = np.zeros((512, 512), np.float32)
    for length_um, width_um, weight in ((9, 0.55, 0.6), (18, 1.6, 0.8)):
        grain = rng.standard_normal((512, 512), dtype=np.float32)
        texture += np.float32(weight) * _periodic_blur(grain, length_um / mpp, width_um / mpp)
    return soft_ramp(texture, -1.8, 2.0)


@lru_cache(maxsize=8)
def _grain(mpp: float) -> Map:
    """Granular cytoplasm from fine to vacuole-sized, periodic, about 1, shape (512, 512); every slide shares it."""
    rng = generator(0, "grain")
    total = np.ones((512, 512), np.float32)
    for size_um, amplitude in ((0.8, 0.27), (2.5, 0.21), (7.0, 0.16)):
        grain = rng.standard_normal((512, 512), dtype=np.float32)
        total += np.float32(amplitude) * _periodic_blur(grain, size_um / mpp, size_um / mpp)
    return np.clip(total, 0.15, 2)


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


def at_points(mask: NDArray[Any], points: NDArray[np.float64]) -> NDArray[Any]:
    """Values of a coarse mask at canvas points (x, y)."""
    column = np.clip((points[:, 0] / COARSE).astype(int), 0, mask.shape[1] - 1)
    row = np.clip((points[:, 1] / COARSE).astype(int), 0, mask.shape[0] - 1)
    return mask[row, column]


def _tumour_nuclei(
    recipe: TissueRecipe, regions: SectionRegions, room: NDArray[np.bool_], rng: np.random.Generator
) -> Nuclei:
    spacing_um = np.sqrt(2e6 / np.sqrt(3) / (TUMOUR_DENSITY_PER_MM2 * recipe.nuclear_density))
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, spacing_um / recipe.mpp, 0.24)
    points = points[at_points(room, points)]
    n = len(points)
    factor = np.where(at_points(regions.subclone, points) > 0.5, recipe.nuclear_area, 1.0)
    area = TUMOUR_AREA_UM2 * factor * np.exp(rng.normal(0, 0.28, n))
    angle = rng.uniform(0, np.pi, n)
    darkness = np.clip(rng.normal(0.80, 0.13, n), 0.45, 1.25)
    return Nuclei("tumour", points[:, 0], points[:, 1], area, rng.uniform(1.05, 1.6, n), angle, darkness)


def _lymphocytes(recipe: TissueRecipe, regions: SectionRegions, n_tumour: int, rng: np.random.Generator) -> Nuclei:
    """As many as the share of lymphocytes asks for; mostly in clusters in the stroma of the tumour."""
    share = min(0.6, LYMPHOCYTE_SHARE * recipe.lymphocyte_share)
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 7.6 / recipe.mpp, 0.3)
    cluster = np.exp(1.3 * smooth_noise(rng, regions.nest.shape, 60 / recipe.mpp / COARSE)) + np.float32(0.15)
    free = regions.tissue * (1 - regions.open_space) * (1 - np.float32(0.93) * regions.nest)
    weight = at_points(cluster * free * (np.float32(0.12) + regions.tumour), points).astype(np.float64)
    weight[weight < 1e-3] = 0
    wanted = min(round(share / (1 - share) * n_tumour), int((weight > 0).sum()))
    # Exponential keys give a weighted draw without replacement in one sort (Efraimidis and Spirakis 2006).
    keys = rng.exponential(size=len(points)) / np.maximum(weight, 1e-12)
    points = points[np.sort(np.argsort(keys, kind="stable")[:wanted])]
    n = len(points)
    area, angle = 26.0 * np.exp(rng.normal(0, 0.15, n)), rng.uniform(0, np.pi, n)
    darkness = np.clip(rng.normal(1.15, 0.12, n), 0.8, 1.5)
    return Nuclei("lymphocyte", points[:, 0], points[:, 1], area, rng.uniform(1.0, 1.2, n), angle, darkness)


def _fibroblasts(recipe: TissueRecipe, regions: SectionRegions, direction: Map, rng: np.random.Generator) -> Nuclei:
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 23 / recipe.mpp, 0.4)
    stroma = regions.tissue * (1 - regions.nest) * (1 - regions.open_space)
    points = points[at_points(stroma, points) > rng.uniform(0.3, 1.0, len(points))]
    n = len(points)
    angle = at_points(direction, points) + rng.normal(0, 0.18, n)
    area = 24.0 * np.exp(rng.normal(0, 0.3, n))
    darkness = np.clip(rng.normal(0.85, 0.15, n), 0.4, 1.3)
    return Nuclei("fibroblast", points[:, 0], points[:, 1], area, rng.uniform(2.2, 4.5, n), angle, darkness)


def _pyknotic(recipe: TissueRecipe, regions: SectionRegions, rng: np.random.Generator) -> Nuclei:
    """Shrunken dark nuclei and their dust in necrosis."""
    if not regions.necrosis.any():
        return _no_nuclei("pyknotic")
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 15 / recipe.mpp, 0.5)
    points = points[at_points(regions.necrosis, points) > rng.uniform(0.4, 1.0, len(points))]
    n = len(points)
    area, angle = 7.0 * np.exp(rng.normal(0, 0.7, n)), rng.uniform(0, np.pi, n)
    darkness = np.clip(rng.normal(1.0, 0.25, n), 0.4, 1.5)
    return Nuclei("pyknotic", points[:, 0], points[:, 1], area, rng.uniform(1.0, 1.8, n), angle, darkness)
