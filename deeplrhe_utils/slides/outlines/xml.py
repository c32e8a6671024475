"""Outlines in XML: Aperio ImageScope and ASAP (CAMELYON).

The file is read as a stream of elements and never as a tree, so that a large file costs its corners and
nothing else. Document types are refused before the parser sees them: they are of no use here, and entities
declared in one can blow up to any size or fetch other files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from xml.parsers import expat

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.slides.outlines.regions import (
    Exclusion,
    Region,
    Regions,
    joined,
    joined_outline,
    some_area,
    subtract,
)

ELLIPSE_CORNERS: Final = 180  # an ellipse loses 0.02 % of its area
EXCLUSION_GROUPS: Final = frozenset({"_2", "exclusion", "exclude"})
DEEPEST_NESTING: Final = 64
_FORBIDDEN = re.compile(r"<!(?:DOCTYPE|ENTITY)")


class _Tags(NamedTuple):
    """What a format calls a layer, an outline in it, and a corner of that."""

    layer: str
    shape: str
    corner: str


_FORMATS: Final = {
    "Annotations": _Tags("Annotation", "Region", "Vertex"),  # ImageScope
    "ASAP_Annotations": _Tags("Annotations", "Annotation", "Coordinate"),
}


@dataclass
class _Shape:
    attributes: dict[str, str]
    line: int
    corners: list[tuple[float, float]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)


@dataclass
class _Layer:
    attributes: dict[str, str]
    labels: list[dict[str, str]] = field(default_factory=list)
    shapes: list[_Shape] = field(default_factory=list)


def regions_from_xml(text: str, name: str) -> Regions:
    """Regions of an ImageScope or ASAP document, in file order, at least one; which one it is, the root element tells.

    Aperio ImageScope (root ``Annotations``)
        Class: the layer's Name; else the first Value, else the first Name (but ``Description``) among the
        layer's Attributes; else the region's Text. Name of the region: its Text. Region Type 0 or absent is a
        polygon; 1 a rectangle (four corners, or two opposite ones); 2 an ellipse, given by its bounding
        corners and turned into a polygon of :data:`ELLIPSE_CORNERS` corners; 3, 4 and 5 (arrows, rulers) have
        no area and are left out. ``NegativeROA="1"`` regions are cut out of the regions of their own layer.
        A negative region that meets none there, but one of another layer, is an error: it would silently do
        nothing. MicronsPerPixel is not used: coordinates are pixels.
    ASAP (root ``ASAP_Annotations``)
        Class: PartOfGroup (``None`` is no class). Type Polygon; Rectangle; Spline is read as the polygon of
        its points; Dot, PointSet and Measurement have no area and are left out. Corners are sorted by Order.
        A group inside another is the class ``outer: inner``. Groups ``_2``, ``Exclusion`` and ``Exclude`` (in any
        case), and ``normal`` in a file with a group ``metastases``, are cut out of the regions of all groups, with
        the groups inside them, and are no regions themselves (CAMELYON16 and 17).

    How areas are cut, and that islands in holes stay, says
    `subtract`. Outlines without an area (stray clicks) are
    left out. Everything left out is listed in ``left_out``.

    Parameters
    ----------
    text : the document, decoded; coordinates are level-0 px
    name : name of the file, for errors

    Raises AnnotationError: not XML, a document type, another root, elements out of place, a coordinate that is no
    finite number, an unknown type, no area.
    """
    if forbidden := _FORBIDDEN.search(text):
        raise AnnotationError(
            f"Annotation {name} is refused: it declares a document type or entities, which can be an attack",
            got=text[forbidden.start() :][:40],
            expected="plain elements",
            fix="Export it again from ImageScope or ASAP",
        )
    collector = _Collector(name)
    collector.parse(text)
    read_layers = _imagescope if collector.root == "Annotations" else _asap
    regions, left_out = read_layers(collector.layers, name, collector.parents)
    return some_area(regions, left_out, name)


class _Collector:
    """Layers, outlines and corners of a document, as the parser meets them."""

    def __init__(self, name: str) -> None:
        self.name, self.root = name, ""
        self.layers: list[_Layer] = []
        self.parents: dict[str, str] = {}
        self._path: list[str] = []
        self._tags = _Tags("", "", "")
        self._parser = expat.ParserCreate(encoding="utf-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def parse(self, text: str) -> None:
        try:
            self._parser.Parse(text.encode("utf-8"), True)
        except (expat.ExpatError, UnicodeEncodeError) as error:
            raise AnnotationError(
                f"Annotation {self.name} is not XML, or only part of it ({error})", fix="Export it again"
            ) from error

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path:
            self._choose(tag)
        elif len(self._path) >= DEEPEST_NESTING:
            raise self._error("elements are nested too deeply", tag, f"at most {DEEPEST_NESTING} levels")
        elif tag == self._tags.layer and len(self._path) == 1:
            self.layers.append(_Layer(attributes))
        elif tag == self._tags.shape:
            self._require(self._tags.shape not in self._path[1:], tag, self._tags.layer)
            self.layers[-1].shapes.append(_Shape(attributes, self._parser.CurrentLineNumber))
        elif tag == self._tags.corner:
            self._require(self._tags.shape in self._path[1:], tag, self._tags.shape)
            self._add_corner(attributes)
        elif tag == "Attribute" and self._path[1:] == [self._tags.layer, "Attributes"]:
            self.layers[-1].labels.append(attributes)
        elif tag == "Group" and self.root == "ASAP_Annotations":
            self.parents[attributes.get("Name", "").strip()] = attributes.get("PartOfGroup", "").strip()
        self._path.append(tag)

    def _end(self, tag: str) -> None:
        self._path.pop()

    def _choose(self, tag: str) -> None:
        if tag not in _FORMATS:
            known = "Annotations (ImageScope) or ASAP_Annotations (ASAP)"
            raise self._error("the XML is of neither ImageScope nor ASAP", f"the root element {tag}", known)
        self.root, self._tags = tag, _FORMATS[tag]

    def _require(self, right: bool, tag: str, parent: str) -> None:
        if not right or self._path[1:2] != [self._tags.layer]:
            raise self._error("an element is out of place", tag, f"{tag} inside of {parent}")

    def _add_corner(self, attributes: dict[str, str]) -> None:
        shape = self.layers[-1].shapes[-1]
        try:
            shape.corners.append((float(attributes["X"]), float(attributes["Y"])))
        except (KeyError, ValueError) as error:
            raise self._error("a corner is not a pair of numbers", attributes, 'X="12.5" Y="7"') from error
        shape.order.append(attributes.get("Order", ""))

    def _error(self, what: str, got: object, expected: str) -> AnnotationError:
        where = f"Annotation {self.name}, line {self._parser.CurrentLineNumber}"
        return AnnotationError(f"{where}: {what}", got=got, expected=expected, fix="Export it again")


def _imagescope(layers: Sequence[_Layer], name: str, _: Mapping[str, str]) -> tuple[list[Region], list[str]]:
    left_out: list[str] = []
    drawn = [_imagescope_layer(layer, name, left_out) for layer in layers]
    everything = shapely.STRtree([region.geometry for regions, _ in drawn for region in regions])
    kept: list[Region] = []
    for regions, holes in drawn:
        cut = subtract(regions, holes)
        for hole in cut.idle:
            if len(everything.query(hole.geometry, predicate="intersects")):
                raise AnnotationError(
                    f"Annotation {name}, {hole.name}: it meets no region of its own layer, but one of another",
                    expected="negative regions in the layer of the regions that they cut",
                    fix="Move it to that layer in ImageScope, or delete it",
                )
        kept += cut.regions
        left_out += cut.left_out()
    return kept, left_out


def _imagescope_layer(layer: _Layer, name: str, left_out: list[str]) -> tuple[list[Region], list[Exclusion]]:
    regions, holes = [], []
    layer_class = _layer_class(layer)
    for shape in layer.shapes:
        called = f"region {shape.attributes.get('Id', '?')} (line {shape.line})"
        where = f"Annotation {name}, {called}"
        negative = _is_negative(shape, where)
        drawn = _imagescope_area(shape, where)
        if isinstance(drawn, str):
            left_out.append(f"R{called[1:]}: {drawn}")
        elif negative:
            holes.append(Exclusion(f"Negative {called}", drawn[0]))
        else:
            text = shape.attributes.get("Text", "").strip()
            regions.append(Region(drawn[0], layer_class or text, text, drawn[1]))
    return regions, holes


def _layer_class(layer: _Layer) -> str:
    values = [label.get("Value", "").strip() for label in layer.labels]
    names = [label.get("Name", "").strip() for label in layer.labels]
    named = [n for n in names if n.lower() != "description"]  # ImageScope's own name of an empty field
    return next((c for c in [layer.attributes.get("Name", "").strip(), *values, *named] if c), "")


def _is_negative(shape: _Shape, where: str) -> bool:
    value = shape.attributes.get("NegativeROA", "0").strip().lower()
    if value not in {"", "0", "false", "1", "true"}:
        raise AnnotationError(f"{where}: NegativeROA is unknown", got=repr(value), expected="0 or 1")
    return value in {"1", "true"}


def _imagescope_area(shape: _Shape, where: str) -> tuple[BaseGeometry, str] | str:
    """Area and note of a region, or why it has none."""
    kind = shape.attributes.get("Type", "0").strip()
    if kind in {"3", "4", "5"}:
        return f"an arrow or ruler (type {kind}) has no area"
    if kind == "1":
        return _area(_rectangle(shape.corners), "", where)
    if kind == "2" and len(shape.corners) <= 4:
        return _area(_ellipse(shape.corners), f"ellipse drawn with {ELLIPSE_CORNERS} corners", where)
    if kind in {"0", "2"}:
        return _area(shape.corners, "", where)
    raise AnnotationError(f"{where}: the type is unknown", got=kind, expected="0 polygon, 1 rectangle, 2 ellipse")


def _area(corners: Sequence[tuple[float, float]], note: str, where: str) -> tuple[BaseGeometry, str] | str:
    geometry, repair = joined_outline(corners, where)
    return f"{len(corners)} corner(s) enclose no area" if geometry.is_empty else (geometry, joined(note, repair))


def _rectangle(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(corners) != 2:
        return corners
    (x0, y0), (x1, y1) = corners
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _ellipse(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners on the ellipse that fills the corners' bounding box, from its rightmost point on."""
    if len(corners) < 2:
        return corners
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    angles = 2 * np.pi * np.arange(ELLIPSE_CORNERS) / ELLIPSE_CORNERS
    points = (low + high) / 2 + (high - low) / 2 * np.column_stack([np.cos(angles), np.sin(angles)])
    return [(float(x), float(y)) for x, y in points]


def _asap(layers: Sequence[_Layer], name: str, parents: Mapping[str, str]) -> tuple[list[Region], list[str]]:
    shapes = [shape for layer in layers for shape in layer.shapes]
    groups = [_groups(shape, parents) for shape in shapes]
    excluded = _excluded_groups({group for path in groups for group in path})
    regions, holes, left_out = [], [], []
    for number, (shape, path) in enumerate(zip(shapes, groups, strict=True)):
        label = shape.attributes.get("Name", "").strip()
        called = f"annotation {number} ({label or 'without a name'}, line {shape.line})"
        drawn = _asap_area(shape, f"Annotation {name}, {called}")
        if isinstance(drawn, str):
            left_out.append(f"A{called[1:]}: {drawn}")
        elif excluded & set(path):
            holes.append(Exclusion(f"Excluded {called}", drawn[0]))
        else:
            regions.append(Region(drawn[0], ": ".join(path), label, drawn[1]))
    cut = subtract(regions, holes)
    return cut.regions, left_out + cut.left_out()


def _groups(shape: _Shape, parents: Mapping[str, str]) -> list[str]:
    """Groups that an annotation is part of, outermost first."""
    path: list[str] = []
    group = shape.attributes.get("PartOfGroup", "").strip()
    while group not in ("", "None", *path) and len(path) < DEEPEST_NESTING:
        path.insert(0, group)
        group = parents.get(group, "")
    return path


def _excluded_groups(groups: set[str]) -> set[str]:
    rule = EXCLUSION_GROUPS | ({"normal"} if "metastases" in {group.lower() for group in groups} else set())
    return {group for group in groups if group.lower() in rule}


def _asap_area(shape: _Shape, where: str) -> tuple[BaseGeometry, str] | str:
    """Area and note of an annotation, or why it has none."""
    kind = shape.attributes.get("Type", "").strip()
    if kind in {"Dot", "PointSet", "Measurement"}:
        return f"a {kind} has no area"
    corners = _in_order(shape, where)
    if kind in {"Polygon", "Spline"}:
        return _area(corners, "spline read as the polygon of its points" if kind == "Spline" else "", where)
    if kind == "Rectangle":
        return _area(_rectangle(corners), "", where)
    raise AnnotationError(f"{where}: the type is unknown", got=kind or "none", expected="Polygon, Spline or Rectangle")


def _in_order(shape: _Shape, where: str) -> list[tuple[float, float]]:
    if not any(shape.order):
        return shape.corners
    try:
        order = [int(text) for text in shape.order]
    except ValueError as error:
        raise AnnotationError(f"{where}: a corner's Order is not a whole number ({error})") from error
    if len(set(order)) < len(order):
        raise AnnotationError(f"{where}: two corners have the same Order", expected="0, 1, 2, …")
    return [corner for _, corner in sorted(zip(order, shape.corners, strict=True))]
