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
from shapely.affinity import rotate
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.synthetic.paint.regions import Map, SectionRegions, distance_um, mask_of, smooth_noise, soft_ramp
from deeplrhe_utils.synthetic.paint.tissue import Streams, Tissue

ARTEFACT_KINDS: Final = ("blur", "pen", "fold", "bubble", "hole", "jpeg", "edge", "hair", "dust")
"""Defocus, felt pen on the cover slip, folded tissue, air under the cover slip, torn tissue, damaged compression, the
edge of the cover slip, a hair, specks of dust."""
_SIZES_UM: Final = {
    "blur": (180, 380),
    "bubble": (110, 240),
    "hole": (60, 150),
    "jpeg": (60, 160),
    "dust": (60, 160),
}  # radius or half side
_WIDTHS_UM: Final = {"pen": (55, 95), "fold": (16, 30), "hair": (2.5, 4.5)}  # half width of the stroke
_PEN_DENSITY: Final = 0.9
_FOLD_UM: Final = 45.0
_SOFT_UM: Final = 35.0  # from the edge of a blurred area to full defocus
_EDGE_UM: Final = 60.0  # width of a cover slip's edge with its shade


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
            if kind == "edge":
                shape = _slip_edge(home, size_px, mpp, rng)
            else:
                shape = _stroke(kind, size_px, mpp, rng) if kind in _WIDTHS_UM else _patch(kind, home, mpp, rng)
            found.append(Artefact(kind, shapely.intersection(shape, frame), _strength(kind, rng)))
    return found


def _strength(kind: str, rng: np.random.Generator) -> float:
    if kind == "jpeg":
        return float(rng.integers(3, 7))
    low, high = {
        "blur": (2.0, 4.0),
        "fold": (0.7, 1.0),
        "bubble": (0.7, 1.0),
        "edge": (0.7, 1.0),
        "hair": (0.7, 1.0),
        "dust": (0.6, 1.0),
    }.get(kind, (1.0, 1.0))
    return round(float(rng.uniform(low, high)), 2)


def _patch(kind: str, home: BaseGeometry, mpp: float, rng: np.random.Generator) -> BaseGeometry:
    """A roundish (blur, hole), round (bubble) or square (jpeg) patch whose centre lies in `home`, or specks (dust)."""
    parts = getattr(home, "geoms", [home])
    part = parts[int(rng.integers(len(parts)))]
    ring, centre = shapely.get_coordinates(part.exterior), np.array(part.representative_point().coords[0])
    centre = centre + (ring[rng.integers(len(ring))] - centre) * rng.uniform(0.0, 0.7)
    radius = rng.uniform(*_SIZES_UM[kind]) / mpp
    if kind == "bubble":
        return Point(*centre).buffer(radius)
    if kind == "dust":
        specks = centre + rng.normal(0, radius / 2, (int(rng.integers(5, 14)), 2))
        return shapely.union_all(shapely.buffer(shapely.points(specks), rng.uniform(3.5, 9, len(specks)) / mpp))
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


def _slip_edge(
    home: BaseGeometry, size_px: tuple[int, int], mpp: float, rng: np.random.Generator
) -> BaseGeometry:  # fmt: skip
    """A straight strip across the section, nearly parallel to one of its sides."""
    x, y = home.representative_point().coords[0] + rng.normal(0, 0.12, 2) * min(size_px)
    reach, half = sum(size_px), _EDGE_UM / mpp / 2
    return rotate(box(x - reach, y - half, x + reach, y + half), 90 * rng.integers(4) + rng.normal(0, 3), origin=(x, y))


def add_artefacts(tissue: Tissue, artefacts: list[Artefact], mpp: float, streams: Streams) -> Overlay:
    """Change the tissue's maps, in place, and return what lies over them. ``jpeg`` is left to the encoder.

    What is out of focus comes last: it blurs ink and dust, too.
    """
    overlay = Overlay(np.zeros(tissue.eosin.shape, np.uint8), np.zeros(tissue.eosin.shape, np.uint8))
    for i, one in sorted(enumerate(artefacts), key=lambda pair: pair[1].kind == "blur"):
        if not one.outline.is_empty and one.kind != "jpeg":
            _change(tissue, overlay, one, mpp, streams(f"texture of artefact {i}"))
    return overlay


def _change(tissue: Tissue, overlay: Overlay, one: Artefact, mpp: float, rng: np.random.Generator) -> None:
    """Apply one artefact inside a window around it."""
    height, width = tissue.eosin.shape
    x0, y0, x1, y1 = one.outline.bounds
    margin = round((_FOLD_UM + 5) / mpp)  # a fold takes its second layer from beside it; the others need less
    left, top = max(int(x0) - margin, 0), max(int(y0) - margin, 0)
    right, bottom = min(int(x1) + margin, width), min(int(y1) + margin, height)
    mask = mask_of(one.outline, (bottom - top, right - left), px=1, origin=(left, top), soft_px=0.8)
    depth = distance_um(mask > 0.5, mpp)  # from the artefact's border inwards
    if one.kind in ("edge", "hair", "dust", "bubble", "fold"):
        _lay_over(overlay.shade[top:bottom, left:right], one.strength * mask * _shade(one, depth, (left, top), mpp))
    if one.kind == "pen":
        _lay_over(overlay.pen[top:bottom, left:right], np.float32(_PEN_DENSITY) * mask * _ink(depth, mpp, rng))
    weight = {"blur": soft_ramp(depth, 0, _SOFT_UM), "edge": mask * soft_ramp(depth, 5, 7) * soft_ramp(depth, 15, 12)}
    if one.kind not in ("pen", "hair", "dust"):
        _change_tissue(tissue, overlay, one, weight.get(one.kind, mask), (left, top), mpp)


def _lay_over(window: NDArray[np.uint8], density: Map) -> None:
    np.maximum(window, np.clip(255 * density, 0, 255), out=window, casting="unsafe")


def _change_tissue(
    tissue: Tissue, overlay: Overlay, one: Artefact, weight: Map, corner: tuple[int, int], mpp: float
) -> None:
    """Blend what a map would look like if the artefact filled it into a window, by weight."""
    (left, top), (height, width) = corner, weight.shape
    scale = tissue.nuclei.shape[0] // tissue.eosin.shape[0]
    maps = [(m, 1) for m in (tissue.haematoxylin, tissue.eosin, tissue.blood, tissue.soot)] + [(tissue.nuclei, scale)]
    for target, factor in maps + [(m, 1) for m in (overlay.pen, overlay.shade) if one.kind == "blur"]:
        window = target[top * factor : (top + height) * factor, left * factor : (left + width) * factor]
        soft = np.asarray(cv2.resize(weight, (window.shape[1], window.shape[0])), np.float32)
        stages = _stages(window, one, factor / mpp)
        for rows in (slice(i, i + 256) for i in range(0, len(window), 256)):  # in strips: windows can be large
            now, share = window[rows].astype(np.float32), soft[rows] * len(stages)
            for stage in stages:  # each takes over from the one before
                now += np.clip(share, 0, 1) * (stage[rows] - now)
                share = share - 1
            window[rows] = now.astype(target.dtype)


def _shade(one: Artefact, depth: Map, corner: tuple[int, int], mpp: float) -> Map:
    """How dark an artefact is [0–1], from the way [µm] from its border inwards."""
    if one.kind == "bubble":  # light is bent away at the border, and again behind a bright line
        return np.float32(0.75) * soft_ramp(depth, 8, 5) + np.float32(0.25) * soft_ramp(np.abs(depth - 13), 2.5, 1)
    if one.kind == "fold":
        return np.float32(0.12) * soft_ramp(depth, 5, 1)
    if one.kind != "edge":  # a hair is lighter along its middle; dust is out of focus
        return soft_ramp(depth, 0, 1) * np.float32(0.7) if one.kind == "hair" else soft_ramp(depth, 0, 4)
    ring = shapely.get_coordinates(shapely.oriented_envelope(one.outline))[:4]
    sides = np.roll(ring, -1, axis=0) - ring
    k = int(np.hypot(*sides.T).argmax())
    normal = np.array([-sides[k, 1], sides[k, 0]]) / np.hypot(*sides[k])
    normal *= np.sign((ring.mean(axis=0) - ring[k]) @ normal)
    row, column = np.ogrid[: depth.shape[0], : depth.shape[1]]
    across = (column + corner[0] - ring[k, 0]) * normal[0] + (row + corner[1] - ring[k, 1]) * normal[1]
    across = np.asarray(across * mpp, np.float32)
    lines = np.float32(0.6) * soft_ramp(np.abs(across - 3), 3, 1.5) + np.float32(0.3) * soft_ramp(
        np.abs(across - 17), 2, 1
    )
    return lines + np.float32(0.12) * soft_ramp(across, 17, 18) * soft_ramp(across, _EDGE_UM, 18)


def _ink(depth: Map, mpp: float, rng: np.random.Generator) -> Map:
    """Ink of a felt pen [0–1]: streaks along the stroke, a dark border, a patchy, saturated core."""
    streak = np.cumsum(rng.normal(0, 1, 256))
    streak = np.convolve(streak - np.convolve(streak, np.ones(15) / 15, "same"), np.ones(3) / 3, "same")
    patchy = smooth_noise(rng, depth.shape, 60 / mpp)
    lane = np.clip(depth + 3 * smooth_noise(rng, depth.shape, 25 / mpp), 0, 255).astype(np.int64)
    ink = 0.80 + 0.11 * (streak / streak.std())[lane] + 0.07 * patchy + 0.2 * soft_ramp(depth, 9, 4)
    fray = soft_ramp(depth - 4 * np.abs(smooth_noise(rng, depth.shape, 6 / mpp)), -1, 1.5)
    return np.asarray(np.clip(ink, 0.64, 1.1) * fray, np.float32)


def _stages(window: NDArray[np.uint16], one: Artefact, px_per_um: float) -> list[NDArray[np.uint16]]:
    """What a window of density would look like if the artefact filled it: half and wholly out of focus, or changed."""
    if one.kind == "blur":
        return [_defocused(window, part * one.strength * px_per_um) for part in (0.5, 1.0)]
    if one.kind == "fold":  # a second layer of the tissue beside it
        shifted = np.roll(window, round(_FOLD_UM * px_per_um), axis=1)
        return [np.asarray(cv2.addWeighted(window, 1.0, shifted, one.strength, 0))]
    if one.kind in ("bubble", "edge"):  # light bends at air and glass: slightly out of focus and pale
        soft = _defocused(window, 1.0 * px_per_um)
        return [
            np.asarray(cv2.addWeighted(soft, 1 - (0.25 if one.kind == "bubble" else 0.5) * one.strength, soft, 0.0, 0))
        ]
    return [np.zeros_like(window)]


def _defocused(window: NDArray[np.uint16], sigma_px: float) -> NDArray[np.uint16]:
    """A Gaussian blur; a wide one is made on a smaller image."""
    shrink = max(1, int(sigma_px / 2.5))
    small = cv2.resize(window, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma_px / shrink)
    return np.asarray(cv2.resize(blurred, (window.shape[1], window.shape[0]), interpolation=cv2.INTER_LINEAR))
