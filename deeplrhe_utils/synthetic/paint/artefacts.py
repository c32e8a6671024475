"""What goes wrong between the operating room and the scan, with the outline of where it went wrong.

Each artefact is a shape in canvas px, kept as truth, and a change of the density maps inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, Point, Polygon, box
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.synthetic.paint.regions import SectionRegions, mask_of
from deeplrhe_utils.synthetic.paint.tissue import Streams, Tissue

ARTEFACT_KINDS: Final = ("blur", "pen", "fold", "bubble", "hole", "jpeg")
"""Defocus, felt pen on the cover slip, folded tissue, air under the cover slip, torn tissue, damaged compression."""
_SIZES_UM: Final = {
    "blur": (180, 380),
    "bubble": (110, 240),
    "hole": (60, 150),
    "jpeg": (60, 160),
}  # radius or half side
_WIDTHS_UM: Final = {"pen": (55, 95), "fold": (16, 30)}  # half width of the stroke
_PEN_DENSITY: Final = 0.9
_FOLD_UM: Final = 45.0
_RIM_UM: Final = 14.0  # dark edge of a bubble


@dataclass(frozen=True)
class Artefact:
    """One artefact: what it is, where [canvas px], and how strong.

    `strength` is the defocus in µm (standard deviation) for blur, the JPEG quality for jpeg, and the share of the full
    effect [0–1] for the others.
    """

    kind: str
    outline: BaseGeometry
    strength: float


@dataclass(frozen=True)
class Overlay:
    """What lies over the tissue, uint8 maps on the canvas (255 = unit optical density): ink, and neutral shade."""

    pen: NDArray[np.uint8]
    shade: NDArray[np.uint8]


def place_artefacts(
    counts: Mapping[str, int], regions: SectionRegions, size_px: tuple[int, int], mpp: float, streams: Streams
) -> list[Artefact]:
    """Draw places, shapes and strengths.

    Parameters
    ----------
    counts : number of each of :data:`ARTEFACT_KINDS`
    regions : artefacts other than pen lie on the tumour, or on the section where there is none
    size_px : (width, height); canvas [px]
    mpp : canvas resolution [µm/px]
    streams : ``streams(name)`` gives a random generator; each artefact has its own, so that one more changes no other
    """
    frame = box(0, 0, *size_px)
    home = regions.tumour_outline if not regions.tumour_outline.is_empty else frame.buffer(-0.15 * min(size_px))
    found = []
    for kind in ARTEFACT_KINDS:
        for i in range(int(counts.get(kind, 0))):
            rng = streams(f"{kind} {i}")
            shape = _stroke(kind, size_px, mpp, rng) if kind in _WIDTHS_UM else _patch(kind, home, mpp, rng)
            found.append(Artefact(kind, shapely.intersection(shape, frame), _strength(kind, rng)))
    return found


def _strength(kind: str, rng: np.random.Generator) -> float:
    if kind == "jpeg":
        return float(rng.integers(3, 7))
    low, high = {"blur": (2.0, 4.0), "fold": (0.7, 1.0), "bubble": (0.7, 1.0)}.get(kind, (1.0, 1.0))
    return round(float(rng.uniform(low, high)), 2)


def _patch(kind: str, home: BaseGeometry, mpp: float, rng: np.random.Generator) -> BaseGeometry:
    """A roundish (blur, hole), round (bubble) or square (jpeg) patch whose centre lies in `home`."""
    ring = shapely.get_coordinates(getattr(home, "exterior", home))
    centre = np.array(home.centroid.coords[0])
    centre = centre + (ring[rng.integers(len(ring))] - centre) * rng.uniform(0.0, 0.7)
    radius = rng.uniform(*_SIZES_UM[kind]) / mpp
    if kind == "bubble":
        return Point(*centre).buffer(radius)
    if kind == "jpeg":  # on the grid of 16 px that JPEG with halved chroma works on
        corners = np.round(np.array([centre - radius, centre + radius]) / 16) * 16
        return box(*corners.ravel())
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    wobble = np.ones(72)
    for k in (2, 3, 4, 5, 7):
        wobble += 0.16 / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 7))
    return Polygon(centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * (radius * wobble)[:, None]).buffer(0)


def _stroke(kind: str, size_px: tuple[int, int], mpp: float, rng: np.random.Generator) -> BaseGeometry:
    """A curved line with a width."""
    start = rng.uniform(0.15, 0.85, 2) * size_px
    reach = min(max(size_px), 4000 / mpp * 0.5)  # on a large slide a stroke is still a stroke
    joints = np.cumsum(np.vstack([start, rng.normal(0, 0.11, (5, 2)) * reach]), axis=0)
    for _ in range(3):  # Chaikin's corner cutting: a hand draws curves
        near, far = joints[:-1] * 0.75 + joints[1:] * 0.25, joints[:-1] * 0.25 + joints[1:] * 0.75
        joints = np.stack([near, far], axis=1).reshape(-1, 2)
    return LineString(joints).buffer(rng.uniform(*_WIDTHS_UM[kind]) / mpp)


def add_artefacts(tissue: Tissue, artefacts: list[Artefact], mpp: float) -> Overlay:
    """Change the tissue's maps, in place, and return what lies over them. ``jpeg`` is left to the encoder."""
    overlay = Overlay(np.zeros(tissue.eosin.shape, np.uint8), np.zeros(tissue.eosin.shape, np.uint8))
    for one in artefacts:
        if one.outline.is_empty or one.kind == "jpeg":
            continue
        if one.kind == "pen":
            ink = mask_of(one.outline, overlay.pen.shape, px=1) * (255 * _PEN_DENSITY)
            np.maximum(overlay.pen, ink, out=overlay.pen, casting="unsafe")
        else:
            _change(tissue, overlay, one, mpp)
    return overlay


def _change(tissue: Tissue, overlay: Overlay, one: Artefact, mpp: float) -> None:
    """Apply one artefact inside a window around it."""
    height, width = tissue.eosin.shape
    x0, y0, x1, y1 = one.outline.bounds
    margin = round((_FOLD_UM + 5) / mpp)  # a fold takes its second layer from beside it; the others need less
    left, top = max(int(x0) - margin, 0), max(int(y0) - margin, 0)
    right, bottom = min(int(x1) + margin, width), min(int(y1) + margin, height)
    mask = mask_of(one.outline, (bottom - top, right - left), px=1, origin=(left, top))
    scale = tissue.nuclei.shape[0] // height
    for target, factor in ((tissue.haematoxylin, 1), (tissue.eosin, 1), (tissue.nuclei, scale)):
        window = target[top * factor : bottom * factor, left * factor : right * factor]
        soft = np.asarray(cv2.resize(mask, (window.shape[1], window.shape[0])), np.float32)
        changed = _changed(window, one, factor / mpp)
        for rows in (slice(i, i + 256) for i in range(0, len(window), 256)):  # in strips: windows can be large
            before = window[rows].astype(np.float32)
            window[rows] = (before + soft[rows] * (changed[rows] - before)).astype(np.uint16)
    if one.kind == "bubble":
        shade = overlay.shade[top:bottom, left:right]
        ring = one.outline.difference(one.outline.buffer(-_RIM_UM / mpp))
        rim = mask_of(ring, (bottom - top, right - left), px=1, origin=(left, top), soft_px=3.0)
        np.maximum(shade, rim * (150 * one.strength), out=shade, casting="unsafe")


def _changed(window: NDArray[np.uint16], one: Artefact, px_per_um: float) -> NDArray[np.uint16]:
    """What a window of density would look like if the artefact filled it."""
    if one.kind == "blur":
        return np.asarray(cv2.GaussianBlur(window, (0, 0), one.strength * px_per_um), np.uint16)
    if one.kind == "fold":  # a second layer of the tissue beside it
        shifted = np.roll(window, round(_FOLD_UM * px_per_um), axis=1)
        return np.asarray(cv2.addWeighted(window, 1.0, shifted, one.strength, 0), np.uint16)
    if one.kind == "bubble":  # light bends at the air: slightly out of focus and pale
        soft = cv2.GaussianBlur(window, (0, 0), 1.0 * px_per_um)
        return np.asarray(cv2.addWeighted(soft, 1 - 0.25 * one.strength, soft, 0.0, 0), np.uint16)
    return np.zeros_like(window)
