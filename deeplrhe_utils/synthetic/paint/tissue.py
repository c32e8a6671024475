"""Draw tissue: haematoxylin and eosin density of one section.

Lengths are in µm and become pixels by the resolution, so that a nucleus has the same size on every scanner.
Densities are dimensionless: 1 is a well-stained tumour nucleus (haematoxylin) or dense collagen (eosin).
Nuclei are drawn at the resolution of the scan; cytoplasm and stroma, which hold no finer detail here, on a canvas of
about 0.5 µm/px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

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

TUMOUR_DENSITY_PER_MM2: Final = 7200.0  # inside nests; real fields of the same organ: 6,200–13,400 over all cells
TUMOUR_AREA_UM2: Final = 48.0  # wild type, 7.8 µm across; real outlines: medians of 16–52 µm² over all cells
LYMPHOCYTE_SHARE: Final = 0.22  # of tumour cells plus lymphocytes, at factor 1
CHROMATIN_CONTRAST: Final = 0.10  # relative, of detail below 1 µm, at factor 1; exists at 40× only
_BAND_ROWS: Final = 64  # full-size maps are made in bands of rows that stay in the processor's cache


@dataclass(frozen=True)
class TissueRecipe:
    """What one section looks like.

    Attributes
    ----------
    width_px, height_px : canvas [px], multiples of 4
    mpp : canvas resolution [µm/px]
    scale : scan px per canvas px: 1 at 20×, 2 at 40×
    tumour_share : area of the tumour outline / area of the section's outline [0–1]
    subtype : ``adenocarcinoma``, ``squamous`` or ``normal``
    form : ``resection``, ``wedge``, ``biopsy`` or ``pieces``
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
    form: str
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
    haematoxylin, eosin, blood, soot : uint16, shape (height, width); everything else, in the same unit, on the canvas:
        two stains, red cells and pigment
    tumour_nuclei, lymphocytes : what was drawn; the truth is counted from these
    cell_room : bool, a quarter of the canvas Where tumour nuclei may lie; nuclear density is counted per area of it
    """

    nuclei: NDArray[np.uint16]
    haematoxylin: NDArray[np.uint16]
    eosin: NDArray[np.uint16]
    blood: NDArray[np.uint16]
    soot: NDArray[np.uint16]
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
        form=recipe.form, frozen=recipe.frozen, rng=streams("regions"),
    )  # fmt: skip
    dead = np.maximum(regions.keratin, regions.necrosis)
    room = (regions.nest > 0.5) & (regions.open_space < 0.5) & (dead < 0.5)
    tumour = _tumour_nuclei(recipe, regions, room, streams("tumour nuclei"))
    lymphocytes = _lymphocytes(recipe, regions, len(tumour.x_px), streams("lymphocytes"))
    lining = _lining(recipe, regions, streams("lining"))
    cells = _cells(recipe, [tumour, *lining], streams("cells"))
    haematoxylin, eosin, soot, direction = _background_densities(recipe, regions, cells, streams("background"))
    others = [lymphocytes, *lining, _fibroblasts(recipe, regions, direction, streams("fibroblasts")),
              _pyknotic(recipe, regions, streams("pyknotic"))]  # fmt: skip
    macrophages = _macrophages(recipe, regions, streams("macrophages"))
    sooty = min(0.5, 12 * float(regions.soot.mean()))  # they carry as much pigment as the tissue does
    for target, share in ((eosin, 0.34), (soot, sooty)):
        body = replace(macrophages, kind="cytoplasm", area_um2=5 * macrophages.area_um2,
                       darkness=share * macrophages.darkness)  # fmt: skip
        stamp(target, body, recipe.mpp, 1, streams("cytoplasm stamps"))
    blood = np.zeros_like(eosin)
    stamp(blood, _red_cells(recipe, regions, streams("red cells")), recipe.mpp, 1, streams("red cell stamps"))
    nuclei = np.zeros((recipe.height_px * recipe.scale, recipe.width_px * recipe.scale), np.uint16)
    stamp(nuclei, tumour, recipe.mpp, recipe.scale, streams("tumour stamps"))
    if recipe.scale > 1:
        add_chromatin(nuclei, CHROMATIN_CONTRAST * recipe.chromatin_texture)
    for i, kind in enumerate([*others, macrophages]):
        stamp(nuclei, kind, recipe.mpp, recipe.scale, streams(f"{kind.kind} stamps {i}"))
    return Tissue(nuclei, haematoxylin, eosin, blood, soot, regions, tumour, lymphocytes, room)


def glass(recipe: TissueRecipe) -> Tissue:
    """A section without anything on it."""
    shape = (recipe.height_px // COARSE, recipe.width_px // COARSE)
    zero, none = np.zeros((recipe.height_px, recipe.width_px), np.uint16), _no_nuclei("tumour")
    nuclei = np.zeros((recipe.height_px * recipe.scale, recipe.width_px * recipe.scale), np.uint16)
    others = zero.copy(), zero.copy(), zero.copy()
    return Tissue(nuclei, zero, *others, SectionRegions.glass(shape), none, none, np.zeros(shape, bool))


def _no_nuclei(kind: str) -> Nuclei:
    return Nuclei(kind, *(np.zeros(0) for _ in range(6)))


def enlarge_rows(image: NDArray[Any], top: int, bottom: int, factor: int) -> Map:
    """Rows `top` to `bottom` of an image enlarged by an integer factor, equal to enlarging it whole.

    Parameters
    ----------
    image : ndarray, shape (height, width) or (height, width, channels), float32 or uint8; small image
    top, bottom : rows of the enlarged image
    factor : at least 1
    """
    if factor == 1:
        return image[top:bottom]
    first, last = max(top // factor - 2, 0), min(-(-bottom // factor) + 2, image.shape[0])
    size = (image.shape[1] * factor, (last - first) * factor)
    large = np.asarray(cv2.resize(image[first:last], size, interpolation=cv2.INTER_LINEAR), np.float32)
    return large[top - first * factor : bottom - first * factor]


def _cells(recipe: TissueRecipe, kinds: list[Nuclei], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Borders between epithelial cells, and a tone for each of them, on half the canvas, shape (height, width, 2).

    A cell is what lies nearest to its nucleus.
    """
    height, width, rows, margin = recipe.height_px // 2, recipe.width_px // 2, 256, 24
    column, row = (np.concatenate([getattr(k, name) for k in kinds]).astype(int) // 2 for name in ("x_px", "y_px"))
    column, row = np.minimum(column, width - 1), np.minimum(row, height - 1)
    tone = np.clip(rng.normal(128, 40, len(row)), 0, 255).astype(np.uint8)
    cells = np.zeros((height, width, 2), np.uint8)
    for top in range(0, height if len(row) else 0, rows):  # in strips: labels are large
        first, last = max(top - margin, 0), min(top + rows + margin, height)
        here = (row >= first) & (row < last)
        if not here.any():
            continue
        place, free = (row[here] - first, column[here]), np.ones((last - first, width), np.uint8)
        free[place] = 0
        label = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)[1]
        tones = np.zeros(int(label.max()) + 1, np.uint8)
        tones[label[place]] = tone[here]
        border = np.zeros(label.shape, np.uint8)
        border[:, 1:] = np.where(label[:, 1:] != label[:, :-1], 255, 0)
        border[1:] |= np.where(label[1:] != label[:-1], 255, 0).astype(np.uint8)
        inner = np.s_[top - first : top - first + rows]
        soft = cv2.GaussianBlur(border, (3, 3), 0.6)
        end = min(top + rows, height)
        cells[top:end, :, 0], cells[top:end, :, 1] = soft[inner], tones[label][inner]
    return cells


def _background_densities(
    recipe: TissueRecipe, regions: SectionRegions, cells: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16], Map]:
    """Cytoplasm, collagen, muscle, keratin, necrosis, pigment before any nucleus; direction of the fibres [rad]."""
    shape = regions.nest.shape
    solid = regions.tissue * (1 - regions.open_space)
    patch = 1 + np.float32(0.13) * smooth_noise(rng, shape, 20)
    loose = np.float32(0.8) + np.float32(0.22) * smooth_noise(rng, shape, 45 / recipe.mpp / COARSE)
    loose *= 1 - regions.keratin
    shift = smooth_noise(rng, shape, 130 / recipe.mpp / COARSE) * np.float32(48 / recipe.mpp)
    shift += np.float32(rng.uniform(0, 512))  # sections see different rows of the shared texture
    airy = np.asarray(cv2.GaussianBlur(regions.open_space, (0, 0), 10 / recipe.mpp / COARSE), np.float32)
    septa = np.float32(0.7) * soft_ramp(airy, 0.25, 0.5) * (1 - regions.tumour)  # no collagen to speak of
    soft_cells = regions.nest * (1 - np.float32(0.85) * regions.keratin)
    epithelium = np.maximum.reduce([soft_cells, soft_ramp(regions.bronchus, -0.5, 1.5), septa]) * solid
    pink = regions.pink + np.float32(0.12) * regions.necrosis
    texture, grain, granules = _fibre_texture(recipe.mpp), _grain(recipe.mpp), _granules(recipe.mpp)
    coarse = np.dstack([epithelium, solid, patch, loose, pink, regions.blue, regions.soot, shift])
    borders = np.float32((0.46 if recipe.subtype == "squamous" else 0.32) / 255)
    haematoxylin = np.empty((recipe.height_px, recipe.width_px), np.uint16)
    eosin, soot = np.empty_like(haematoxylin), np.zeros_like(haematoxylin)
    for top in range(0, recipe.height_px, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, recipe.height_px)
        bands = np.moveaxis(enlarge_rows(coarse, top, bottom, COARSE), 2, 0)
        nest, firm, uneven, dense, extra, blue, pigment, bend = bands
        border, tone = np.moveaxis(enlarge_rows(cells, top, bottom, 2), 2, 0)
        fibre = _fibres(texture, bend, top)
        speckle = _repeated(grain, top, bottom, recipe.width_px) * (firm * np.float32(DENSITY_UNIT))
        stroma = (np.float32(0.05) + np.float32(0.43) * fibre) * dense
        tone = np.float32(0.75) + tone * np.float32(0.5 / 255)
        cytoplasm = (np.float32(0.24) * tone + borders * border) * uneven
        eosin[top:bottom] = np.maximum((stroma + nest * (cytoplasm - stroma) + extra) * speckle, 0)
        basic = np.float32(0.03) + np.float32(0.075) * nest * tone + blue
        haematoxylin[top:bottom] = np.maximum(basic * speckle * uneven, 0)
        if pigment.any():
            soot[top:bottom] = pigment * _repeated(granules, top, bottom, recipe.width_px) * np.float32(DENSITY_UNIT)
    slope_y, slope_x = np.gradient(shift, COARSE)
    return haematoxylin, eosin, soot, np.arctan2(-slope_x, slope_y + 1).astype(np.float32)


@lru_cache(maxsize=8)
def _granules(mpp: float) -> Map:
    """Black grains of about 1 µm, periodic, in [0, 1], shape (512, 512); every slide shares them."""
    grain = generator(0, "granules").standard_normal((512, 512), dtype=np.float32)
    return soft_ramp(_periodic_blur(grain, 0.7 / mpp, 0.7 / mpp), 0.7, 1.5)


@lru_cache(maxsize=8)
def _fibre_texture(mpp: float) -> Map:
    """Horizontal streaks of three widths, periodic, in [0, 1], shape (513, 513); every slide shares them."""
    rng = generator(0, "fibre texture")
    texture = np.zeros((512, 512), np.float32)
    for length_um, width_um, weight in ((9, 0.55, 0.45), (18, 1.6, 0.6), (30, 4.5, 0.7)):
        grain = rng.standard_normal((512, 512), dtype=np.float32)
        texture += np.float32(weight) * _periodic_blur(grain, length_um / mpp, width_um / mpp)
    whole = cv2.copyMakeBorder(soft_ramp(texture, -1.1, 1.5), 0, 1, 0, 1, cv2.BORDER_WRAP)
    return np.asarray(whole, np.float32)


@lru_cache(maxsize=8)
def _grain(mpp: float) -> Map:
    """Granular cytoplasm from fine to vacuole-sized, periodic, about 1, shape (512, 512); every slide shares it."""
    rng = generator(0, "grain")
    total = np.ones((512, 512), np.float32)
    for size_um, amplitude in ((0.8, 0.27), (2.0, 0.20), (6.0, 0.07)):
        grain = rng.standard_normal((512, 512), dtype=np.float32)
        total += np.float32(amplitude) * _periodic_blur(grain, size_um / mpp, size_um / mpp)
    drops = rng.standard_normal((512, 512), dtype=np.float32)
    total *= 1 - np.float32(0.75) * soft_ramp(_periodic_blur(drops, 1.7 / mpp, 1.7 / mpp), 1.3, 1.9)  # vacuoles
    return np.clip(total, 0.08, 2)


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
    down -= 512 * np.floor(down * np.float32(1 / 512))  # OpenCV's own wrapping takes six times as long
    along = np.ascontiguousarray(np.broadcast_to(np.arange(width, dtype=np.float32) % 512, bend.shape))
    return np.asarray(cv2.remap(texture, along, down, cv2.INTER_LINEAR), np.float32)


def _repeated(patch: Map, top: int, bottom: int, width: int) -> Map:
    """Rows `top` to `bottom` of a patch repeated in both directions, which no eye finds at this scale."""
    rows = np.arange(top, bottom) % patch.shape[0]
    return np.tile(patch[rows], (1, -(-width // patch.shape[1])))[:, :width]


def at_points(mask: NDArray[Any], points: NDArray[np.float64]) -> NDArray[Any]:
    """Values of a coarse mask at canvas points (x, y)."""
    column = np.clip((points[:, 0] / COARSE).astype(int), 0, mask.shape[1] - 1)
    row = np.clip((points[:, 1] / COARSE).astype(int), 0, mask.shape[0] - 1)
    return mask[row, column]


def along(field: Map, level: float, spacing_px: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points at even steps along the lines where a coarse map passes a level, and the direction in which it rises.

    Parameters
    ----------
    field : a quarter of the canvas
    spacing_px : step [canvas px]

    Returns ndarray, shape (n, 3): x, y [canvas px], direction [rad].
    """
    contours = cv2.findContours((field > level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    rings = [np.vstack([c[:, 0], c[:1, 0]]).astype(float) for c in contours if len(c) > 5]
    if not rings:
        return np.zeros((0, 3))
    steps = np.hypot(*np.diff(joined := np.vstack(rings), axis=0).T)
    steps[np.cumsum([len(ring) for ring in rings])[:-1] - 1] = 0  # the way from one ring to the next is no way
    way = np.concatenate([[0], np.cumsum(steps)]) * COARSE
    stops = np.arange(rng.uniform(0, spacing_px), way[-1], spacing_px)
    x, y = (np.interp(stops, way, joined[:, i]) for i in (0, 1))
    smooth = cv2.GaussianBlur(field, (0, 0), 1.0)
    near = np.rint(y).astype(int), np.rint(x).astype(int)
    slope_x, slope_y = (cv2.Sobel(smooth, cv2.CV_32F, *d, scale=1 / 8)[near] for d in ((1, 0), (0, 1)))
    short = level - smooth[near] - slope_x * (x - near[1]) - slope_y * (y - near[0])
    back = np.clip(short / np.maximum(slope_x**2 + slope_y**2, 1e-6), -1.5, 1.5)
    x, y = x + back * slope_x, y + back * slope_y  # pixel steps become a smooth line
    return np.stack([(x + 0.5) * COARSE, (y + 0.5) * COARSE, np.arctan2(slope_y, slope_x)], axis=1).astype(float)


def _tumour_nuclei(
    recipe: TissueRecipe, regions: SectionRegions, room: NDArray[np.bool_], rng: np.random.Generator
) -> Nuclei:
    """A row on every basement membrane, and scattered ones in solid parts; together as dense as planned.

    The row is as close as its kind of tumour has it, and the scattered ones make up the number. Both obey the factor
    on density, so their proportion does not.
    """
    um = recipe.mpp * COARSE
    squamous = recipe.subtype == "squamous"
    line = along(regions.depth, 5.5, 8, rng)
    length = 8 * recipe.mpp * int(at_points(room, line).sum())
    inner = room & (regions.scattered > 0.5)
    wanted, deep = TUMOUR_DENSITY_PER_MM2 / 1e6 * float(room.sum()) * um**2, float(inner.sum()) * um**2
    in_row = min(max(length / (7.5 if squamous else 9.0), wanted - TUMOUR_DENSITY_PER_MM2 / 1e6 * deep), wanted)
    row_um = length / max(in_row * recipe.nuclear_density, 1)
    row = along(regions.depth, 5.5, row_um / recipe.mpp, rng) if length else np.zeros((0, 3))
    row = row[at_points(room, row)]
    row[:, :2] += rng.normal(0, (0.8 + 0.35 * max(0.0, 9 - row_um)) / recipe.mpp, (len(row), 2))
    density = (wanted - in_row) * recipe.nuclear_density / max(deep, 1)
    spacing_um = np.sqrt(2 / np.sqrt(3) / max(density, 1e-5))
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, spacing_um / recipe.mpp, 0.24)
    points = points[at_points(inner, points)]
    n, k = len(points) + len(row), len(row)
    points = np.vstack([row[:, :2], points])
    factor = np.where(at_points(regions.subclone, points) > 0.5, recipe.nuclear_area, 1.0)
    area = TUMOUR_AREA_UM2 * factor * np.exp(rng.normal(0, 0.28, n))
    angle, elongation = rng.uniform(0, np.pi, n), rng.uniform(1.05, 1.6, n)
    angle[:k] = row[:, 2] + rng.normal(0, 0.2, k)
    elongation[:k] = rng.uniform(*((1.5, 2.3) if squamous else (1.2, 1.9)), k)
    darkness = np.clip(rng.normal(0.72 if squamous else 0.76, 0.13, n), 0.45, 1.25)
    darkness[:k] += 0.08 * squamous
    return Nuclei("tumour", points[:, 0], points[:, 1], area, elongation, angle, darkness)


def _lining(recipe: TissueRecipe, regions: SectionRegions, rng: np.random.Generator) -> list[Nuclei]:
    """Nuclei of a bronchus' epithelium in two rows; flat ones along the walls of alveoli and vessels."""
    rows = [along(regions.bronchus, depth, step / recipe.mpp, rng) for depth, step in ((5, 6.0), (9.5, 7.0))]
    upright = np.vstack(rows)
    flat = along(regions.open_space, 0.35, 15 / recipe.mpp, rng)
    flat = flat[(at_points(regions.nest, flat) < 0.2) & (at_points(regions.tissue, flat) > 0.9)
                & (np.abs(at_points(regions.bronchus, flat)) > 25)]  # fmt: skip
    found = []
    for kind, points, turn, area, shape in (("lining", upright, 0, 34.0, (1.5, 2.4)),
                                            ("fibroblast", flat, np.pi / 2, 22.0, (1.4, 3.6))):  # fmt: skip
        n = len(points)
        place = points[:, :2] + rng.normal(0, 1.0 / recipe.mpp, (n, 2))
        darkness = np.clip(rng.normal(0.85, 0.13, n), 0.4, 1.3)
        size, angle = area * np.exp(rng.normal(0, 0.22, n)), points[:, 2] + turn + rng.normal(0, 0.15, n)
        found.append(Nuclei(kind, place[:, 0], place[:, 1], size, rng.uniform(*shape, n), angle, darkness))
    return found


def _of_kind(
    kind: str, points: NDArray[np.float64], area: tuple[float, float], darkness: tuple[float, float, float, float],
    elongation: tuple[float, float], rng: np.random.Generator, angle: NDArray[np.float64] | None = None,
) -> Nuclei:  # fmt: skip
    """Nuclei at points (n, 2): median and spread of their area [µm²]; mean, spread and limits of their darkness;
    limits of their elongation; turned at random, or as given.
    """
    n = len(points)
    area_um2 = area[0] * np.exp(rng.normal(0, area[1], n))
    angle = rng.uniform(0, np.pi, n) if angle is None else angle
    dark = np.clip(rng.normal(*darkness[:2], n), *darkness[2:])
    return Nuclei(kind, points[:, 0], points[:, 1], area_um2, rng.uniform(*elongation, n), angle, dark)


def _macrophages(recipe: TissueRecipe, regions: SectionRegions, rng: np.random.Generator) -> Nuclei:
    """Round cells in alveoli, here and there in clusters."""
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 17 / recipe.mpp, 0.3)
    crowd = np.exp(1.5 * smooth_noise(rng, regions.nest.shape, 80 / recipe.mpp / COARSE)) * np.float32(0.02)
    air = (regions.open_space > 0.9) & (regions.tissue > 0.9) & (regions.tumour < 0.1) & (regions.bronchus < -20)
    points = points[at_points(crowd * air, points) > rng.random(len(points))]
    return _of_kind("macrophage", points, (30.0, 0.2), (0.8, 0.12, 0.45, 1.2), (1.05, 1.5), rng)


def _red_cells(recipe: TissueRecipe, regions: SectionRegions, rng: np.random.Generator) -> Nuclei:
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 5.4 / recipe.mpp, 0.16)
    points = points[at_points(regions.blood, points) > rng.random(len(points))]
    return _of_kind("red cell", points, (33.0, 0.12), (0.75, 0.08, 0.4, 1.0), (1.0, 1.5), rng)


def _lymphocytes(recipe: TissueRecipe, regions: SectionRegions, n_tumour: int, rng: np.random.Generator) -> Nuclei:
    """As many as the share of lymphocytes asks for; mostly in clusters in the stroma of the tumour."""
    share = min(0.6, LYMPHOCYTE_SHARE * recipe.lymphocyte_share)
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 7.6 / recipe.mpp, 0.3)
    cluster = np.exp(1.3 * smooth_noise(rng, regions.nest.shape, 60 / recipe.mpp / COARSE)) + np.float32(0.15)
    free = regions.tissue * (1 - regions.open_space) * (1 - np.float32(0.93) * regions.nest)
    weight = at_points(cluster * free * (np.float32(0.02) + regions.tumour), points).astype(np.float64)
    weight[weight < 1e-3] = 0
    wanted = min(round(share / (1 - share) * n_tumour), int((weight > 0).sum()))
    # Exponential keys give a weighted draw without replacement in one sort (Efraimidis and Spirakis 2006).
    keys = rng.exponential(size=len(points)) / np.maximum(weight, 1e-12)
    points = points[np.sort(np.argsort(keys, kind="stable")[:wanted])]
    return _of_kind("lymphocyte", points, (26.0, 0.15), (1.15, 0.12, 0.8, 1.5), (1.0, 1.2), rng)


def _fibroblasts(recipe: TissueRecipe, regions: SectionRegions, direction: Map, rng: np.random.Generator) -> Nuclei:
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 17 / recipe.mpp, 0.4)
    stroma = regions.tissue * (1 - regions.nest) * (1 - regions.open_space)
    points = points[at_points(stroma, points) > rng.uniform(0.3, 1.0, len(points))]
    angle = at_points(direction, points) + rng.normal(0, 0.18, len(points))
    return _of_kind("fibroblast", points, (24.0, 0.3), (0.85, 0.15, 0.4, 1.3), (2.2, 4.5), rng, angle)


def _pyknotic(recipe: TissueRecipe, regions: SectionRegions, rng: np.random.Generator) -> Nuclei:
    """Shrunken dark nuclei and their dust in necrosis."""
    if not regions.necrosis.any():
        return _no_nuclei("pyknotic")
    points = hexagonal_points(rng, recipe.width_px, recipe.height_px, 15 / recipe.mpp, 0.5)
    points = points[at_points(regions.necrosis, points) > rng.uniform(0.4, 1.0, len(points))]
    return _of_kind("pyknotic", points, (7.0, 0.7), (1.0, 0.25, 0.4, 1.5), (1.0, 1.8), rng)
