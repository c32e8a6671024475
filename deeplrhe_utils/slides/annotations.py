"""Outlines drawn by a pathologist: QuPath GeoJSON in level-0 pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import box, mapping, shape
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.core.files import write_json

_AREAS = ("Polygon", "MultiPolygon")
_OTHER_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString")


@dataclass(frozen=True)
class Region:
    """One outline.

    Attributes
    ----------
    geometry : shapely geometry
        Polygon or MultiPolygon, valid, with holes [level-0 px].
    classification : str
        Class name as written, empty when there is none.
    name : str
        The region's own name, empty when there is none.
    note : str
        What was repaired, empty when nothing was.
    """

    geometry: BaseGeometry
    classification: str = ""
    name: str = ""
    note: str = ""


def read_geojson(path: Path) -> list[Region]:
    """Read the areas of a QuPath GeoJSON file.

    A Feature, a FeatureCollection, a bare geometry or a list of features are accepted; points and lines
    have no area and are left out. Invalid outlines (self-crossing) are repaired with
    :func:`shapely.make_valid`, which the region's note says.

    Parameters
    ----------
    path : Path
        The file; coordinates are level-0 px.

    Returns
    -------
    list of Region
        In file order, at least one.

    Raises
    ------
    AnnotationError
        The file cannot be read, is empty or not GeoJSON, an outline is malformed, or there is no area.
    """
    document = _load(path)
    regions = [r for i, f in enumerate(_features(document, path)) if (r := _region(f, i, path)) is not None]
    if not regions:
        raise AnnotationError(
            f"Annotation {path.name} holds no area", expected="at least one Polygon or MultiPolygon", fix="Export again"
        )
    return regions


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"Annotation {path} cannot be read ({error})") from error
    if not text.strip():
        raise AnnotationError(f"Annotation {path.name} is empty", fix="Export it again from QuPath")
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnnotationError(
            f"Annotation {path.name} is not JSON ({error})", fix="Export it from QuPath as GeoJSON"
        ) from error


def _features(document: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        document = [document]
    elif isinstance(document, dict) and document.get("type") in (*_AREAS, *_OTHER_GEOMETRIES):
        document = [{"type": "Feature", "geometry": document}]
    if isinstance(document, list) and all(isinstance(f, dict) and f.get("type") == "Feature" for f in document):
        return document
    raise AnnotationError(
        f"Annotation {path.name} is JSON, but not GeoJSON",
        expected="a Feature, a FeatureCollection or a list of features",
        fix="Export it from QuPath as GeoJSON",
    )


def _region(feature: dict[str, Any], index: int, path: Path) -> Region | None:
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind in _OTHER_GEOMETRIES:
        return None
    if kind not in _AREAS:
        raise AnnotationError(
            f"Annotation {path.name}, feature {index}: no area", got=kind, expected=" | ".join(_AREAS)
        )
    try:
        outline = shape(geometry)
        finite = bool(shapely.is_empty(outline)) is False and all(abs(v) < 1e9 for v in outline.bounds)
    except (TypeError, ValueError, IndexError, AttributeError, shapely.errors.ShapelyError) as error:
        raise AnnotationError(f"Annotation {path.name}, feature {index}: malformed outline ({error})") from error
    if not finite:
        raise AnnotationError(f"Annotation {path.name}, feature {index}: the outline is empty or not finite")
    outline, note = _valid(outline)
    if outline.is_empty:
        raise AnnotationError(f"Annotation {path.name}, feature {index}: the outline encloses no area")
    properties = feature.get("properties") or {}
    return Region(outline, _class_name(properties), str(properties.get("name") or ""), note)


def _valid(outline: BaseGeometry) -> tuple[BaseGeometry, str]:
    """A valid area of the same place, and what had to be done."""
    if outline.is_valid:
        return outline, ""
    problem = shapely.is_valid_reason(outline)
    repaired = shapely.make_valid(outline)
    areas = [g for g in getattr(repaired, "geoms", [repaired]) if g.geom_type in _AREAS]
    return shapely.union_all(areas), f"repaired: {problem}"


def _class_name(properties: dict[str, Any]) -> str:
    """Class as QuPath writes it (object with a name, or path of names in older versions)."""
    value = properties.get("classification")
    if isinstance(value, dict):
        value = value.get("name") or value.get("names")
    if isinstance(value, list):
        value = ": ".join(map(str, value))
    return str(value or "")


def tumour_outline(regions: Sequence[Region]) -> BaseGeometry:
    """Union of the tumour regions.

    Regions count whose classification contains ``tumo`` in any case (Tumor, tumour, Tumor: invasive); if no
    region has a classification, all count.

    Returns
    -------
    shapely geometry
        Polygon or MultiPolygon [level-0 px].

    Raises
    ------
    AnnotationError
        There are classes, and none is a tumour.
    """
    named = [r for r in regions if r.classification]
    chosen = [r for r in named if "tumo" in r.classification.lower()] if named else list(regions)
    if not chosen:
        classes = sorted({r.classification for r in named})
        raise AnnotationError(
            "No annotated region is a tumour", got=classes or "no regions", expected="a class whose name contains tumo"
        )
    return shapely.union_all([r.geometry for r in chosen])


def tumour_fraction(outline: BaseGeometry, x_l0_px: float, y_l0_px: float, size_l0_px: float) -> float:
    """Share of a square that lies inside an outline.

    Parameters
    ----------
    outline : shapely geometry
        Area [level-0 px].
    x_l0_px, y_l0_px, size_l0_px : float
        Top left corner and side of the square [level-0 px].

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> tumour_fraction(box(0, 0, 10, 5), 0, 0, 10)
    0.5
    """
    square = box(x_l0_px, y_l0_px, x_l0_px + size_l0_px, y_l0_px + size_l0_px)
    return float(min(1.0, outline.intersection(square).area / square.area))


def write_geojson(regions: Sequence[Region], path: Path) -> Path:
    """Write regions as a QuPath FeatureCollection (level-0 px), atomically; return the path."""
    features = []
    for region in regions:
        properties: dict[str, Any] = {"objectType": "annotation"}
        if region.name:
            properties["name"] = region.name
        if region.classification:
            properties["classification"] = {"name": region.classification}
        features.append({"type": "Feature", "geometry": mapping(region.geometry), "properties": properties})
    return write_json(path, {"type": "FeatureCollection", "features": features})
