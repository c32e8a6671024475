"""Where things lie on a synthetic section: tissue, tumour, glands, nests, alveoli, vessels, a bronchus; as soft masks.

Masks are drawn at a quarter of the canvas and enlarged where they are used: soft edges, little memory. Outlines
are shapes in canvas px, so that the truth is a shape and not a smear. Glands, nests and alveoli are cells of a
wavy mosaic; everything inside one follows from the distance to its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.affinity import rotate, translate
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.synthetic.paint.nuclei import hexagonal_points

Map = NDArray[np.float32]

COARSE: Final = 4  # canvas px per mask px
SUBCLONE_SHARE: Final = 0.6  # of the tumour outline; where an effect of kind "region" acts
LINING_UM: Final = 11.0  # depth of the row of nuclei on the basement membrane; scattered nuclei begin behind it
_EPITHELIUM_UM: Final = 18.0  # from basement membrane to lumen
_FAR: Final = 1e3  # [µm]


@dataclass(frozen=True)
class SectionRegions:
    """Maps of a quarter of the canvas, float32, soft masks in [0, 1] unless said otherwise, and outlines.

    Attributes
    ----------
    tissue, tumour, subclone : the section, its tumour, and the part of the tumour where regional effects act
    nest : tumour epithelium; necrosis : dead parts of it; keratin : squamous pearls
    open_space : glands' lumina, vessels, clefts, air
    depth : way from the basement membrane into tumour epithelium [µm], negative outside
    scattered : epithelium whose nuclei lie anywhere, and not in a row: all that is deeper in solid nests
    bronchus : the same way into the epithelium of a bronchus [µm]
    pink, blue : eosin and haematoxylin of muscle, keratin, pleura and cartilage, on top of everything else
    blood, soot : how densely red cells and pigment lie
    outline, tumour_outline, subclone_outline : shapely geometry [canvas px]; empty without tumour
    """

    tissue: Map
    tumour: Map
    subclone: Map
    nest: Map
    necrosis: Map
    keratin: Map
    open_space: Map
    depth: Map
    scattered: Map
    bronchus: Map
    pink: Map
    blue: Map
    blood: Map
    soot: Map
    outline: BaseGeometry
    tumour_outline: BaseGeometry
    subclone_outline: BaseGeometry

    @classmethod
    def glass(cls, shape: tuple[int, int]) -> SectionRegions:
        """Nothing at all."""
        outlines = 3
        maps = len(fields(cls)) - outlines
        return cls(*[np.zeros(shape, np.float32)] * maps, *[Polygon()] * outlines)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> Map:
    """Smooth noise of zero mean and about unit variance.

    Parameters
    ----------
    shape : (height, width); size of the result [px]
    scale_px : distance over which values change [px]
    """
    coarse = rng.standard_normal((int(shape[0] / scale_px) + 4, int(shape[1] / scale_px) + 4), dtype=np.float32)
    step = int(np.ceil(scale_px))
    full = np.asarray(cv2.resize(coarse, None, fx=scale_px, fy=scale_px, interpolation=cv2.INTER_CUBIC), np.float32)
    field = full[step : step + shape[0], step : step + shape[1]]
    return np.ascontiguousarray(field) * np.float32(1.35)  # cubic enlargement loses about half the variance


def soft_ramp(values: Map, low: float, high: float) -> Map:
    """Linear step from 0 at `low` to 1 at `high`, clipped."""
    return np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)


def blob(rng: np.random.Generator, width: float, height: float, share: float, roughness: float) -> NDArray[np.float64]:
    """A smooth closed outline around the centre that covers `share` of a rectangle, or less to stay inside it.

    Returns ndarray, shape (192, 2): (x, y) in the rectangle's units.
    """
    angle = np.linspace(0, 2 * np.pi, 192, endpoint=False)
    radius = (np.abs(np.cos(angle)) ** 3.4 + np.abs(np.sin(angle)) ** 3.4) ** (-1 / 3.4)
    for order in range(2, 12):
        radius *= 1 + roughness / order * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    unit = np.stack([np.cos(angle) * radius * width, np.sin(angle) * radius * height], axis=1)
    area = 0.5 * abs(np.sum(unit[:, 0] * np.roll(unit[:, 1], 1) - unit[:, 1] * np.roll(unit[:, 0], 1)))
    unit *= np.sqrt(share * width * height / area)
    size = np.array([width, height])
    return unit * np.minimum(1, 0.485 * size / np.abs(unit).max(axis=0)) + size / 2


def section_outline(rng: np.random.Generator, width: float, height: float, mpp: float, form: str) -> BaseGeometry:
    """The outline of the tissue on a canvas [px]: of one piece, or of several.

    Parameters
    ----------
    form : ``resection`` (one large piece), ``wedge`` (one with a straight cut), ``biopsy`` (one to three cores, 0.8 to
        1.2 mm wide where there is room) or ``pieces`` (three to six)
    """
    if form == "biopsy":
        return _cores(rng, width, height, mpp)
    if form == "pieces":
        columns, rows = (3, 2) if rng.random() < 0.4 else (2, 2)
        wide, high = width / columns, height / rows
        places = rng.permutation(columns * rows)[: rng.integers(3, columns * rows + 1)]
        return shapely.union_all([
            translate(Polygon(blob(rng, wide, high, rng.uniform(0.6, 0.78), 0.12)).buffer(0),
                      place % columns * wide, place // columns * high)
            for place in places
        ])  # fmt: skip
    piece = Polygon(blob(rng, width, height, rng.uniform(0.76, 0.85), 0.10)).buffer(0)
    if form == "wedge":
        side = shapely.box(0, 0, width, height * rng.uniform(0.80, 0.88))
        piece = piece.intersection(rotate(side, rng.uniform(-6, 6), origin=(width / 2, height / 2)))
    return piece


def _cores(rng: np.random.Generator, width: float, height: float, mpp: float) -> BaseGeometry:
    """Cores along the longer side, slightly bent, of uneven width."""
    long, short = max(width, height), min(width, height)
    n = min(int(rng.integers(1, 4)), max(1, int(short * mpp / 400)))
    wide = min(rng.uniform(800, 1200) / mpp, 0.3 * long, 0.84 * short / n)
    cores = []
    for i in range(n):
        along = np.linspace(long * rng.uniform(0.03, 0.12), long * rng.uniform(0.80, 0.97), 48)
        waves = np.sin(np.outer((2, 3, 5, 9, 14), along / long * np.pi) + rng.uniform(0, 7, (5, 1)))
        middle = (i + 0.5) * short / n + 0.03 * short / n * waves[:2].sum(axis=0)
        taper = np.sqrt(1.02 - np.linspace(-1, 1, 48) ** 16)
        half = wide / 2 * (1 + 0.04 * waves[2:].sum(axis=0)) * np.minimum(1, taper)
        ring = np.vstack([np.stack([along, middle - half], 1), np.stack([along, middle + half], 1)[::-1]])
        cores.append(Polygon(ring if width >= height else ring[:, ::-1]).buffer(0))
    return shapely.intersection(shapely.union_all(cores), shapely.box(4, 4, width - 4, height - 4))


def tumour_islands(rng: np.random.Generator, rim: Map, um: float, share: float, within: BaseGeometry) -> BaseGeometry:
    """Islands of tumour that cover `share` of the tissue, however it is shaped; one per about 2.5 mm² of them.

    Parameters
    ----------
    rim : distance to the tissue's edge [µm], 0 outside, on the coarse grid
    um : side of its pixels [µm]
    within : outline of the tissue [canvas px]
    """
    step = 2 if min(rim.shape) > 200 else 1  # the line is smooth: every second pixel tells it
    rim, um = rim[::step, ::step], um * step
    y, x = np.nonzero(rim)
    wanted, values = within.area * share, np.full(len(y), -np.inf, np.float32)
    n = 1 + min(int(len(y) * um**2 * share / 2.5e6), 5)
    radius = np.sqrt(share * len(y) / np.pi / n)
    order = rng.permutation(len(y))
    deep = order[rim[y[order], x[order]] > 0.6 * rim.max()]
    for i in deep[np.linspace(0, len(deep) - 1, n).astype(int)]:
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
        u, v = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ [x - x[i], y - y[i]]
        np.maximum(values, -np.hypot(u / stretch, v * stretch) / radius, out=values, casting="unsafe")
    for part, size in ((0.28, 0.7), (0.11, 0.25)):
        values += np.float32(part) * smooth_noise(rng, rim.shape, max(size * radius, 2))[y, x]
    mask, area, drawn = np.zeros(rim.shape, np.uint8), share * len(y), Polygon()
    for _ in range(3):  # what is lost at edges and with crumbs is made up for
        cut = np.partition(values, -1 - min(round(area), len(y) - 1))[-1 - min(round(area), len(y) - 1)]
        mask[y, x] = values > cut
        drawn = _shape_of(mask, 0.8 * radius, COARSE * step).intersection(within)
        area *= wanted / max(drawn.area, 1.0)
    for _ in range(5):  # a hole that closed, or a crumb too much
        drawn = drawn.buffer((wanted - drawn.area) / max(drawn.length, 1.0), join_style="mitre").intersection(within)
    return areas_of(drawn)


def areas_of(shape: BaseGeometry) -> BaseGeometry:
    """A geometry without the points and lines in which shapes that were cut may touch."""
    parts = list(getattr(shape, "geoms", [shape]))
    areas = [part for part in parts if isinstance(part, Polygon)]
    return shape if len(areas) == len(parts) else shapely.union_all(areas)


def _shape_of(mask: NDArray[np.uint8], least: float, px: int) -> BaseGeometry:
    """Outlines of the parts of a mask (`px` canvas px a pixel), without holes and those shorter than `least` [px]."""
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    least = min(max(8.0, least), max(map(len, contours)) - 1)
    parts = []
    for ring in (c[:, 0].astype(float) for c in contours if len(c) > least):
        smooth = np.mean([np.roll(ring, k, axis=0) for k in range(-2, 3)], axis=0)
        parts.append(Polygon((smooth[:: max(1, min(3, len(ring) // 40))] + 0.5) * px).buffer(px / 2))
    return shapely.union_all(parts)


def wavy_part(rng: np.random.Generator, outline: BaseGeometry, share: float) -> BaseGeometry:
    """The part of an outline on one side of a wavy line in a random direction.

    Parameters
    ----------
    outline : shapely geometry
    share : area of the part / area of the outline, reached within 0.2 %
    """
    angle, reach = rng.uniform(0, 2 * np.pi), float(np.hypot(*np.ptp(np.reshape(outline.bounds, (2, 2)), axis=0)))
    along = np.linspace(-reach, reach, 65)
    waves = np.zeros(65)
    for k in (1, 2, 3):
        waves += reach * 0.05 / k * rng.normal() * np.sin(np.pi * k * along / reach + rng.uniform(0, 7))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array(outline.centroid.coords[0])

    def part(offset: float) -> BaseGeometry:
        edge = np.stack([along, waves + offset], axis=1)
        corners = np.array([[reach, -3 * reach], [-reach, -3 * reach]])
        return shapely.intersection(outline, shapely.make_valid(Polygon(np.vstack([edge, corners]) @ turn.T + centre)))

    low, high = -reach, reach
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if part(middle).area < share * outline.area else (low, middle)
    return areas_of(part((low + high) / 2))


def mask_of(
    outline: BaseGeometry,
    shape: tuple[int, int],
    *,
    px: float = COARSE,
    origin: tuple[int, int] = (0, 0),
    soft_px: float = 2.0,
) -> Map:
    """A geometry as a soft mask in [0, 1].

    Parameters
    ----------
    outline : shapely geometry; in canvas px; other parts than polygons are left out
    shape : (height, width); of the mask [mask px]
    px : canvas px per mask px; by default a quarter of the canvas
    origin : (x, y); corner of the mask [canvas px]
    soft_px : width of the edge: Gaussian standard deviation [mask px]
    """
    mask = np.zeros(shape, np.uint8)
    areas = areas_of(outline)
    for polygon in getattr(areas, "geoms", [areas]):
        if not polygon.is_empty:
            rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
            cv2.fillPoly(mask, [np.round((ring - origin) / px * 16).astype(np.int32) for ring in rings], 255, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), soft_px).astype(np.float32) / np.float32(255)


def mosaic(
    rng: np.random.Generator, shape: tuple[int, int], spacing_px: float, warp_px: float
) -> tuple[NDArray[np.int64], Map, NDArray[np.float64]]:
    """A wavy mosaic: cell of each pixel, distance to the border [px], and the cells' centres (x, y), shape (n, 2)."""
    height, width = shape
    centres = hexagonal_points(rng, width, height, spacing_px, 0.24)
    centres = centres[rng.random(len(centres)) < 0.88]  # a missing one leaves its neighbours larger
    centres = centres if len(centres) else np.array([[width / 2, height / 2]])
    column, row = centres.astype(int).T
    free = np.ones(shape, np.uint8)
    free[row, column] = 0
    labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    own = np.zeros(int(labels.max()) + 1, np.float32)
    own[labels[row, column]] = np.arange(len(centres))
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for axis in (x, y):  # a wave, and ripples on it
        for k in (0.4, 0.12):
            axis += np.float32(warp_px * k) * smooth_noise(rng, shape, max(spacing_px * k, 2))
    wavy = cv2.remap(own[labels], x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
    inside = np.ones(shape, np.uint8)
    inside[:, 1:] &= wavy[:, 1:] == wavy[:, :-1]
    inside[1:] &= wavy[1:] == wavy[:-1]
    blur = max(spacing_px * 0.05, 0.8)  # rounds corners; at a border it adds 0.8 × its width
    distance = cv2.GaussianBlur(cv2.distanceTransform(inside, cv2.DIST_L2, 5), (0, 0), blur) - np.float32(0.8 * blur)
    return wavy.astype(np.int64), np.asarray(distance, np.float32), centres


def distance_um(inside: NDArray[np.bool_], um: float) -> Map:
    """Distance [µm] to the nearest pixel outside, 0 there."""
    if inside.all():
        return np.full(inside.shape, _FAR, np.float32)
    return np.asarray(cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5), np.float32) * np.float32(um)


def draw_regions(
    width_px: int,
    height_px: int,
    mpp: float,
    *,
    tumour_share: float,
    subtype: str,
    form: str,
    frozen: bool,
    rng: np.random.Generator,
) -> SectionRegions:
    """Draw the regions of one section.

    Parameters
    ----------
    width_px, height_px : canvas [px], multiples of 4
    mpp : canvas resolution [µm/px]
    tumour_share : area of the tumour outline / area of the section's outline [0–1]; not used for normal lung
    subtype : ``adenocarcinoma`` (glands), ``squamous`` (nests with keratin) or ``normal`` (alveoli)
    form : see :func:`section_outline`
    frozen : ice-crystal clefts
    rng : the section's stream for regions
    """
    shape, um = (height_px // COARSE, width_px // COARSE), mpp * COARSE
    outline = section_outline(rng, width_px, height_px, mpp, form)
    tissue = mask_of(outline, shape, soft_px=1)
    rim = distance_um(tissue > 0.5, um)
    normal = subtype == "normal"
    ill = Polygon() if normal else tumour_islands(rng, rim, um, tumour_share, outline)
    part = Polygon() if normal else wavy_part(rng, ill, SUBCLONE_SHARE)
    tumour = mask_of(ill, shape)
    beside = distance_um(tumour < 0.5, um)
    vessel, wall, filled = _vessels(rng, shape, um, rim)
    bronchus, pink, blue = _bronchus(
        rng, shape, um, np.minimum(rim, beside), 0.4 if form in ("resection", "wedge") else 0.15
    )
    depth, lumen, solid = _epithelium(rng, shape, um, subtype)
    ragged = np.clip(9 + 10 * smooth_noise(rng, shape, 45 / um), 2, 40)  # stroma between the outline and the first nest
    front = distance_um(tumour > 0.5, um) - ragged
    depth = np.minimum(np.minimum(depth, front), wall - np.float32(4))
    nest = soft_ramp(depth, -0.5, 1.5) * tumour
    uneven = smooth_noise(rng, shape, 70 / um)
    cleft = soft_ramp(np.abs(depth + np.float32(2)), 2.5, 1.0) * soft_ramp(uneven, 0.7, 1.1) * tumour
    lumen = soft_ramp(depth - lumen, -0.5, 1.0) * nest
    alveoli, bled = _alveoli(rng, shape, um, normal)
    alveoli *= soft_ramp(beside, 6, 30) * soft_ramp(wall, 3, 8) * soft_ramp(-bronchus, 55, 80)
    if form in ("resection", "wedge"):
        alveoli *= soft_ramp(rim, 12, 20)  # pleura
    hollow = np.maximum(soft_ramp(-vessel, 0, 1.5), soft_ramp(bronchus, _EPITHELIUM_UM - 1, _EPITHELIUM_UM + 1))
    open_space = np.maximum.reduce([np.float32(0.9) * cleft, lumen, alveoli, hollow])
    if frozen:
        ice = soft_ramp(np.abs(smooth_noise(rng, shape, 9 / um)), 0.10, 0.02)
        ice *= np.float32(0.8) * soft_ramp(smooth_noise(rng, shape, 120 / um), 0.2, 0.8)
        open_space = np.maximum(open_space, ice)
    whole = nest * (1 - open_space)
    necrosis = whole * solid * soft_ramp(depth, 42, 60) * soft_ramp(smooth_noise(rng, shape, 320 / um), 0.5, 0.9)
    keratin, lamellae = _pearls(rng, shape, um, depth if subtype == "squamous" else np.zeros((0, 0), np.float32))
    keratin = keratin * whole * (1 - necrosis)
    pink += keratin * (np.float32(0.34) + np.float32(0.24) * lamellae)
    pink += np.float32(0.20) * soft_ramp(vessel, 0, 2) * soft_ramp(wall, 1, -1)
    if form == "wedge":  # pleura, but for the side of the cut
        away = np.linspace(1, 0, shape[0], dtype=np.float32)[:, None]
        pink += np.float32(0.25) * soft_ramp(rim, 24, 18) * soft_ramp(away, 0.28, 0.34)
    bleeding = np.float32(0.5) * soft_ramp(smooth_noise(rng, shape, 90 / um), 1.5, 2.2) * lumen
    stroma = tissue * (1 - nest) * (1 - open_space)
    capillaries = stroma * soft_ramp(smooth_noise(rng, shape, 16 / um), 1.7, 1.9) * soft_ramp(-bronchus, 0, 12)
    soot = soft_ramp(smooth_noise(rng, shape, 22 / um) + smooth_noise(rng, shape, 220 / um), rng.uniform(2.2, 3.4), 4.0)
    return SectionRegions(
        tissue=tissue,
        tumour=tumour,
        subclone=mask_of(part, shape),
        nest=nest,
        necrosis=necrosis,
        keratin=keratin,
        open_space=open_space,
        depth=depth,
        scattered=solid * soft_ramp(depth, LINING_UM, LINING_UM + 0.5),
        bronchus=bronchus,
        pink=pink * tissue,
        blue=blue * tissue,
        blood=np.maximum.reduce([filled * hollow, bled * alveoli, bleeding, np.float32(0.8) * capillaries]) * tissue,
        soot=soot * stroma,
        outline=outline,
        tumour_outline=ill,
        subclone_outline=part,
    )


def _epithelium(rng: np.random.Generator, shape: tuple[int, int], um: float, subtype: str) -> tuple[Map, Map, Map]:
    """Depth in tumour epithelium [µm]; the depth at which its lumen begins; whether it is solid.

    A cell of the mosaic is a gland with a lumen (acinar), a papilla (its core is stroma, its lumen around it) or solid.
    """
    squamous = subtype == "squamous"
    cell, border, centres = mosaic(
        rng, shape, (210 if squamous else rng.uniform(95, 130)) / um, (70 if squamous else 34) / um
    )
    border *= np.float32(um)
    gap = np.clip(2 + (5 if squamous else 3) * smooth_noise(rng, shape, 150 / um), 0.8, 30)
    depth = border - gap
    if squamous:
        return depth, np.full(shape, _FAR, np.float32), np.ones(shape, np.float32)
    mood = smooth_noise(rng, shape, 300 / um)[centres[:, 1].astype(int), centres[:, 0].astype(int)]
    mood = mood + 0.4 * rng.standard_normal(len(centres)) + rng.normal(0, 0.5)
    peak = np.zeros(len(centres), np.float32)
    np.maximum.at(peak, cell.ravel(), border.ravel())
    solid, papilla = (mood < -0.9)[cell], ((mood > 0.9) & (peak > 26))[cell]
    thick = (_EPITHELIUM_UM * np.exp(0.1 * rng.standard_normal(len(centres))))[cell].astype(np.float32)
    thick = np.where(papilla, np.float32(0.8) * thick, thick)
    depth = np.where(papilla, np.float32(2) + thick - border, depth)
    return depth, np.where(solid, np.float32(_FAR), thick), solid.astype(np.float32)


def _discs(
    rng: np.random.Generator, shape: tuple[int, int], um: float, places: NDArray[np.int64], radius_um: Iterator[float],
    margin_um: float,
) -> Iterator[tuple[Any, Map, float]]:  # fmt: skip
    """Window, distance [µm] and radius of discs, slightly squeezed, around places (row, column)."""
    for (row, column), radius in zip(places, radius_um, strict=False):
        reach = int((1.5 * radius + margin_um) / um) + 2
        top, left = max(row - reach, 0), max(column - reach, 0)
        window = np.s_[top : min(row + reach, shape[0]), left : min(column + reach, shape[1])]
        y, x = (v.astype(np.float32) * np.float32(um) for v in np.ogrid[window])
        y, x, angle, squeeze = y - row * um, x - column * um, rng.uniform(0, np.pi), rng.uniform(1.0, 1.4)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        yield window, np.asarray(np.hypot(u / squeeze, v * squeeze), np.float32), radius


def _vessels(rng: np.random.Generator, shape: tuple[int, int], um: float, rim: Map) -> tuple[Map, Map, Map]:
    """Distance to the inside and to the outside of the nearest vessel's wall [µm, negative inside], share of blood."""
    inside, outside = (np.full(shape, _FAR, np.float32) for _ in range(2))
    blood = np.zeros(shape, np.float32)
    y, x = np.nonzero(rim > 25)
    n = rng.poisson(9e-6 * len(y) * um**2)
    chosen = rng.integers(0, max(len(y), 1), n)
    sizes = np.clip(rng.lognormal(2.5, 0.55, n), 6, 60)
    for window, distance, radius in _discs(rng, shape, um, np.stack([y[chosen], x[chosen]], 1), iter(sizes), 40):
        muscle = 2.5 + radius * rng.uniform(0.12, 0.5)
        np.minimum(inside[window], distance - radius, out=inside[window])
        np.minimum(outside[window], distance - radius - muscle, out=outside[window])
        blood[window] = np.where(distance < radius, np.float32(rng.choice([0.0, 0.5, 0.95, 0.95])), blood[window])
    return inside, outside, blood


def _bronchus(
    rng: np.random.Generator, shape: tuple[int, int], um: float, room: Map, chance: float
) -> tuple[Map, Map, Map]:
    """One bronchus where there is room [µm]: depth in its epithelium, eosin of muscle, haematoxylin of cartilage."""
    depth, pink, blue = np.full(shape, -_FAR, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    widest, radius, drawn = float(room.max()) - 30, rng.uniform(80, 260), rng.random() < chance
    folds, phase = rng.permutation(np.arange(3, 14))[:4, None, None], rng.uniform(0, 7, (4, 1, 1))
    if not drawn or widest < 80:
        return depth, pink, blue
    radius = min(radius, widest)
    y, x = np.nonzero(room >= radius + 29)
    i = int(rng.integers(len(y)))
    row, column = np.ogrid[: shape[0], : shape[1]]
    dy, dx = (row - y[i]).astype(np.float32) * np.float32(um), (column - x[i]).astype(np.float32) * np.float32(um)
    angle = np.arctan2(dy, dx)
    edge = 1 + 0.06 * np.sin(folds * angle + phase).sum(axis=0)
    beyond = np.hypot(dy, dx) - np.float32(0.75 * radius) * edge  # way outwards from the basement membrane
    depth = -np.asarray(beyond, np.float32)
    pink = np.float32(0.20) * soft_ramp(beyond, 8, 12) * soft_ramp(beyond, 32, 26)
    if radius > 130:
        plate = soft_ramp(np.cos(2 * angle + np.float32(phase[0, 0, 0])), 0.1, 0.3)
        blue = np.float32(0.22) * plate * soft_ramp(beyond, 40, 44) * soft_ramp(beyond, 75, 70)
    return depth, np.asarray(pink, np.float32), np.asarray(blue, np.float32)


def _alveoli(rng: np.random.Generator, shape: tuple[int, int], um: float, everywhere: bool) -> tuple[Map, Map]:
    """Air, the inside of closed cells with thin walls, but where the lung is fibrous; and red cells in some of them."""
    cell, border, centres = mosaic(rng, shape, rng.uniform(110, 170) / um, 45 / um)
    wall = np.clip(1.0 + 0.6 * smooth_noise(rng, shape, 60 / um), 0.5, 5)
    air = soft_ramp(border * np.float32(um) - wall, -0.3, 0.7)
    fibrous = smooth_noise(rng, shape, 260 / um)[centres[:, 1].astype(int), centres[:, 0].astype(int)]
    bled = rng.choice(np.array([0.0, 0.01, 0.2, 0.85], np.float32), len(centres), p=[0.6, 0.34, 0.03, 0.03])
    return air * ((fibrous > -0.9) | everywhere)[cell], air * bled[cell]


def _pearls(rng: np.random.Generator, shape: tuple[int, int], um: float, depth: Map) -> tuple[Map, Map]:
    """Keratin pearls deep in nests, and their concentric lamellae in [-1, 1]."""
    keratin, lamellae = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    y, x = np.nonzero(depth > 30)
    n = rng.poisson(4e-5 * len(y) * um**2)
    chosen = rng.integers(0, max(len(y), 1), n)
    bend = np.float32(5) * smooth_noise(rng, shape, 30 / um)
    sizes = rng.uniform(16, 50, n)
    for window, distance, radius in _discs(rng, shape, um, np.stack([y[chosen], x[chosen]], 1), iter(sizes), 12):
        way = distance + bend[window]
        pearl = soft_ramp(way, radius + 3, radius - 3)
        first = pearl > keratin[window]
        lamellae[window] = np.where(first, np.sin(way * np.float32(2 * np.pi / 8)), lamellae[window])
        keratin[window] = np.maximum(keratin[window], pearl)
    return keratin, lamellae
