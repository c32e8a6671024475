"""Outlines in JSON: QuPath GeoJSON, read and written, and CAMELYON's lists of positive and negative outlines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely
from shapely.geometry import mapping, shape

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.core.files import write_json
from deeplrhe_utils.slides.outlines.regions import (
    AREAS,
    Exclusion,
    Region,
    Regions,
    checked_area,
    joined,
    joined_outline,
    read_bytes,
    some_area,
    subtract,
    to_text,
)

CAMELYON_CLASS: Final = "Tumor"
_NO_AREAS: Final = ("Point", "MultiPoint", "LineString", "MultiLineString")
_OLD_OBJECT: Final = re.compile(r"(?:Path)?(\w+?)Object")
_MALFORMED: Final = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


def read_geojson(path: Path) -> Regions:
    """Read the areas of a QuPath GeoJSON file.

    A Feature, a FeatureCollection, a bare geometry or a list of features are accepted. Features that are no area
    (points, lines, empty or malformed outlines) cost themselves alone, and objects that QuPath does not call an
    annotation (cells, detections, TMA cores) are no regions: ``left_out`` tells. Invalid outlines (self-crossing) are
    repaired with :func:`shapely.make_valid`, which the region's note says.

    Parameters
    ----------
    path : the file; coordinates are level-0 px

    Returns a list of Region in file order, at least one.
    Raises AnnotationError: the file cannot be read, is empty or not GeoJSON, or there is no area.
    """
    return _from_geojson(_load(to_text(read_bytes(path), path.name), path.name), path.name)


def read_objects(path: Path) -> list[tuple[Region, dict[str, Any]]]:
    """Every area of a GeoJSON file with its properties, whatever QuPath calls it (tiles, too); there may be none.

    Raises AnnotationError: as :func:`read_geojson`, and for a feature that is no area.
    """
    found = []
    for index, feature in enumerate(_features(_load(to_text(read_bytes(path), path.name), path.name), path.name)):
        properties = feature.get("properties")
        try:
            found.append((_region(feature), properties if isinstance(properties, dict) else {}))
        except AnnotationError as error:
            raise AnnotationError(f"{path.name}, feature {index}: {error.what}", got=error.got) from error
    return found


def regions_from_json(text: str, name: str) -> Regions:
    """Regions of a text that is GeoJSON or CAMELYON JSON.

    CAMELYON JSON is an object with the lists ``positive`` and ``negative`` of ``{"name", "vertices"}``.
    Its positive outlines get the class ``Tumor``, which is what they are; the negative ones are cut out of
    them (`subtract`). Outlines without an area are left out.

    Parameters
    ----------
    text : the JSON text; coordinates are level-0 px
    name : name of the file, for errors

    Raises AnnotationError: it is neither, an outline of CAMELYON is malformed, or there is no area.
    """
    document = _load(text, name)
    if isinstance(document, dict) and "type" not in document and {"positive", "negative"} & set(document):
        return _from_camelyon(document, name)
    return _from_geojson(document, name)


def _load(text: str, name: str) -> Any:
    if not text.strip():
        raise AnnotationError(f"Annotation {name} is empty", fix="Export it again from QuPath")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise AnnotationError(
            f"Annotation {name} is not JSON ({error})", fix="Export it from QuPath as GeoJSON"
        ) from error


def _from_geojson(document: Any, name: str) -> Regions:
    regions, left_out, others = [], [], Counter[str]()
    for index, feature in enumerate(_features(document, name)):
        if other := _other_object(feature):
            others[other] += 1
            continue
        try:
            regions.append(_region(feature))
        except AnnotationError as error:
            left_out.append(f"Feature {index}: {error.what}" + ("" if error.got is None else f" ({error.got})"))
    no_regions = [f"{count} of type {kind}, not annotation" for kind, count in sorted(others.items())]
    return some_area(regions, no_regions + left_out, name)


def _other_object(feature: dict[str, Any]) -> str:
    """What QuPath calls an object that is no annotation (cell, detection, tile, tma_core); before 0.3 in its id."""
    properties = feature.get("properties")
    told = properties.get("objectType") if isinstance(properties, dict) else None
    if told is None and isinstance(old := feature.get("id"), str) and (match := _OLD_OBJECT.fullmatch(old)):
        told = match[1]
    return "" if told is None or str(told).lower() == "annotation" else str(told)[:40]


def _features(document: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        document = [document]
    elif isinstance(document, dict) and document.get("type") in (*AREAS, *_NO_AREAS, "GeometryCollection"):
        document = [{"type": "Feature", "geometry": document}]
    if isinstance(document, list) and all(isinstance(f, dict) and f.get("type") == "Feature" for f in document):
        return document
    raise AnnotationError(
        f"Annotation {name} is JSON, but not GeoJSON",
        expected="a Feature, a FeatureCollection or a list of features",
        fix="Export it from QuPath as GeoJSON",
    )


def _region(feature: dict[str, Any]) -> Region:
    """The region of a feature; AnnotationError where it is none."""
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind in _NO_AREAS:
        raise AnnotationError(f"a {kind} has no area")
    if kind not in (*AREAS, "GeometryCollection"):
        raise AnnotationError("no area", got=str(kind)[:40])
    try:
        with np.errstate(invalid="ignore"):  # NaN is refused below, by name
            outline = shape(geometry)
    except (*_MALFORMED, shapely.errors.ShapelyError) as error:
        raise AnnotationError(f"malformed outline ({str(error)[:80]})") from error
    if kind == "GeometryCollection":
        parts = shapely.get_parts(outline)
        while any(part.geom_type == kind for part in parts):
            parts = shapely.get_parts(parts)
        outline = shapely.union_all([checked_area(p, "an outline")[0] for p in parts if p.geom_type in AREAS])
    outline, repair = checked_area(outline, "an outline")
    if outline.is_empty:
        raise AnnotationError("the outline encloses no area")
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    metadata = properties.get("metadata")
    note = metadata.get("note") if isinstance(metadata, dict) else ""
    return Region(outline, _class_name(properties), str(properties.get("name") or ""), joined(str(note or ""), repair))


def _class_name(properties: dict[str, Any]) -> str:
    """Class as QuPath writes it (object with a name, or path of names in older versions)."""
    value = properties.get("classification")
    if isinstance(value, dict):
        value = value.get("name") or value.get("names")
    if isinstance(value, list):
        value = ": ".join(map(str, value))
    return str(value or "")


def _from_camelyon(document: dict[str, Any], name: str) -> Regions:
    left_out: list[str] = []
    regions = _camelyon_outlines(document, "positive", name, left_out)
    holes = _camelyon_outlines(document, "negative", name, left_out)
    cut = subtract(regions, [Exclusion(f"Negative outline {hole.name}".strip(), hole.geometry) for hole in holes])
    return some_area(cut.regions, left_out + cut.left_out(), name)


def _camelyon_outlines(document: dict[str, Any], key: str, name: str, left_out: list[str]) -> list[Region]:
    items = document.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise AnnotationError(f"Annotation {name}: {key} is not a list of outlines", got=type(items).__name__)
    found = []
    for index, item in enumerate(items):
        where = f"Annotation {name}, {key} outline {index}"
        if not isinstance(item.get("vertices"), list):
            raise AnnotationError(f"{where} has no list of vertices", expected='{"name": ..., "vertices": [[x, y]]}')
        geometry, note = joined_outline(item["vertices"], where)
        if geometry.is_empty:
            left_out.append(f"{key.capitalize()} outline {index} encloses no area")
        else:
            found.append(Region(geometry, CAMELYON_CLASS, str(item.get("name") or ""), note))
    return found


def write_geojson(regions: Sequence[Region], path: Path) -> Path:
    """Write regions as a QuPath FeatureCollection, atomically.

    Parameters
    ----------
    regions : outlines [level-0 px]; :func:`read_geojson` gives back equal regions: geometry with holes and parts,
        class, name, and note (as QuPath metadata)
    """
    features = []
    for region in regions:
        properties: dict[str, Any] = {"objectType": "annotation"}
        if region.name:
            properties["name"] = region.name
        if region.classification:
            properties["classification"] = {"name": region.classification}
        if region.note:
            properties["metadata"] = {"note": region.note}
        features.append({"type": "Feature", "geometry": mapping(region.geometry), "properties": properties})
    return write_json(path, {"type": "FeatureCollection", "features": features})
