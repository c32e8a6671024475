"""Where things lie on a synthetic section: tissue, tumour, nests, glands, keratin, necrosis, air; as soft masks.

Masks are drawn at a quarter of the canvas and enlarged where they are used: soft edges, little memory. Outlines
are polygons in canvas px, so that the truth is a shape and not a smear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

Map = NDArray[np.float32]

COARSE: Final = 4  # canvas px per mask px
SUBCLONE_SHARE: Final = 0.6  # of the tumour outline; where an effect of kind "region" acts
_WALL_UM: Final = 4.0  # cytoplasm between a lumen and the first nucleus


@dataclass(frozen=True)
class SectionRegions:
    """Soft masks in [0, 1], float32, a quarter of the canvas, and outlines.

    Attributes
    ----------
    tissue, tumour, subclone : the section, its tumour, and the part of the tumour where regional effects act
    nest : tumour epithelium; necrosis : dead parts of it; keratin : squamous pearls
    open_space : glands' lumina, clefts, air
    wall : 1 next to open space, where epithelium holds no nucleus
    tumour_outline, subclone_outline : shapely geometry [canvas px]; empty without tumour
    """

    tissue: Map
    tumour: Map
    subclone: Map
    nest: Map
    necrosis: Map
    keratin: Map
    open_space: Map
    wall: Map
    tumour_outline: BaseGeometry
    subclone_outline: BaseGeometry


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
    """A smooth closed outline around the centre that covers `share` of a rectangle and stays inside it.

    Returns ndarray, shape (192, 2): (x, y) in the rectangle's units.
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
    return part((low + high) / 2)


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
    for polygon in getattr(outline, "geoms", [outline]):
        if isinstance(polygon, Polygon) and not polygon.is_empty:
            rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
            cv2.fillPoly(mask, [np.round((ring - origin) / px * 16).astype(np.int32) for ring in rings], 255, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), soft_px).astype(np.float32) / np.float32(255)


def draw_regions(
    width_px: int,
    height_px: int,
    mpp: float,
    *,
    tumour_share: float,
    subtype: str,
    frozen: bool,
    rng: np.random.Generator,
) -> SectionRegions:
    """Draw the regions of one section.

    Parameters
    ----------
    width_px, height_px : canvas [px], multiples of 4
    mpp : canvas resolution [µm/px]
    tumour_share : area of the tumour outline / area of the canvas [0–1]; not used for normal lung
    subtype : ``adenocarcinoma`` (glands with lumina), ``squamous`` (solid nests with keratin) or ``normal`` (alveoli)
    frozen : ice-crystal clefts
    rng : the section's stream for regions
    """
    shape, unit = (height_px // COARSE, width_px // COARSE), 1 / (mpp * COARSE)  # mask px per µm
    normal = subtype == "normal"
    outline = Polygon() if normal else Polygon(blob(rng, width_px, height_px, tumour_share, 0.07)).buffer(0)
    part = Polygon() if normal else wavy_part(rng, outline, SUBCLONE_SHARE)
    around = Polygon(blob(rng, width_px, height_px, 0.87, 0.05)).buffer(0)
    tumour = mask_of(outline, shape)
    tissue = np.maximum(mask_of(around, shape), tumour)
    architecture = smooth_noise(rng, shape, 95 * unit) + np.float32(0.45) * smooth_noise(rng, shape, 35 * unit)
    nest_cut = -0.47 if subtype == "adenocarcinoma" else -0.30
    nest = soft_ramp(architecture, nest_cut - 0.05, nest_cut + 0.05) * tumour
    necrosis, keratin = _dead_parts(rng, shape, unit, architecture, subtype)
    open_space = _open_space(rng, shape, unit, architecture - np.float32(nest_cut + 0.47), tumour, subtype)
    if frozen:
        ice = soft_ramp(np.abs(smooth_noise(rng, shape, 9 * unit)), 0.10, 0.02)
        open_space = np.maximum(
            open_space, np.float32(0.8) * ice * soft_ramp(smooth_noise(rng, shape, 120 * unit), 0.2, 0.8)
        )
    wall = soft_ramp(np.asarray(cv2.GaussianBlur(open_space, (0, 0), _WALL_UM * unit), np.float32), 0.06, 0.14)
    solid = nest * (1 - open_space)
    return SectionRegions(
        tissue=tissue,
        tumour=tumour,
        subclone=mask_of(part, shape),
        nest=nest,
        necrosis=necrosis * solid,
        keratin=keratin * solid,
        open_space=open_space,
        wall=wall,
        tumour_outline=outline,
        subclone_outline=part,
    )


def _dead_parts(
    rng: np.random.Generator, shape: tuple[int, int], unit: float, architecture: Map, subtype: str
) -> tuple[Map, Map]:
    """Necrosis in the middle of broad nests; keratin pearls in squamous tumours."""
    where = smooth_noise(rng, shape, 320 * unit)
    necrosis = soft_ramp(architecture, 0.75, 1.05) * soft_ramp(where, 0.7, 1.1)
    pearls = smooth_noise(rng, shape, 45 * unit)
    keratin = soft_ramp(pearls, 1.15, 1.6) * np.float32(subtype == "squamous")
    return necrosis, keratin * (1 - necrosis)


def _open_space(
    rng: np.random.Generator, shape: tuple[int, int], unit: float, architecture: Map, tumour: Map, subtype: str
) -> Map:
    """Lumina of glands, clefts between nests and stroma, alveoli outside the tumour."""
    cleft = soft_ramp(np.abs(architecture + np.float32(0.62)), 0.09, 0.03)
    cleft = cleft * soft_ramp(smooth_noise(rng, shape, 70 * unit), 0.2, 0.6) * tumour * np.float32(0.9)
    holes = smooth_noise(rng, shape, 30 * unit)
    cut = 1.05 if subtype == "adenocarcinoma" else 2.2
    lumen = soft_ramp(holes, cut, cut + 0.15) * soft_ramp(architecture, 0.0, 0.15) * tumour
    septa = np.minimum(np.abs(smooth_noise(rng, shape, 60 * unit)), np.abs(smooth_noise(rng, shape, 75 * unit)))
    lung = soft_ramp(smooth_noise(rng, shape, 260 * unit), -0.5, 0.0) if subtype != "normal" else np.float32(1)
    alveoli = soft_ramp(septa, 0.10, 0.18) * lung * soft_ramp(tumour, 0.35, 0.0)
    return np.maximum(np.maximum(cleft, lumen), alveoli)
