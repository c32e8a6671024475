"""Files for other programs, in level-0 pixels: tile scores and outlines for QuPath, ImageScope and DeepPATH's scripts.

Frame: OpenSlide's full canvas, unless `origin_l0_px` says otherwise. QuPath counts from the corner of the scanned area
where a format tells one (openslide.bounds-x, bounds-y: MIRAX, Hamamatsu, Leica) and it was opened by OpenSlide; then
hand over ``slide.bounds_l0_px[:2]``. Opened by Bio-Formats, and in formats without bounds (Aperio SVS, TIFF), both
frames are one.

Source: QuPath's reader of GeoJSON since 0.4 (objectType, classification with name and colour, measurements as an
object, isLocked); Aperio ImageScope XML; DeepPATH, 03_postprocessing/0f_HeatMap_nClasses_Overall.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely.geometry import mapping

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.tables.foreign import guarded
from deeplrhe_utils.core.text import said, xml_text
from deeplrhe_utils.reporting.heatmaps.bands import colour_map
from deeplrhe_utils.reporting.heatmaps.contours import Contour

_PLACE: Final = ("tile_id", "x_l0_px", "y_l0_px", "size_l0_px")
_DIAMETERS: Final = (500, 1000, 2000, 3000, 4000, 5000)


def write_qupath(
    tiles: pd.DataFrame, path: Path, *, origin_l0_px: tuple[int, int] = (0, 0),
    colour_by: str = "", palette: str = "perceptual", scored_by: str = "", measure: str = "probability",
) -> Path:  # fmt: skip
    """Write tiles with measurements as a QuPath feature collection (drag it onto the slide in QuPath).

    Parameters
    ----------
    tiles : columns tile_id, x_l0_px, y_l0_px, size_l0_px, and one column per gene with scores (NaN is left out)
    origin_l0_px : (x, y): corner that QuPath counts from [level-0 px]; see the module
    colour_by : gene whose score gives each object its colour; objects without a score get none
    palette : see `colour_map`
    scored_by : which network gave the scores, for the file (``scoredBy``)
    measure : what the scores are; measurements are called "GENE measure"

    Raises InputError: a column is missing or holds no finite numbers, or nobody scored `colour_by`.
    """
    genes = [c for c in tiles.columns if c not in _PLACE]
    _check_table(tiles, genes, colour_by)
    features = [_feature(row, genes, origin_l0_px, measure) for row in tiles.to_dict("records")]
    if colour_by:
        scores = tiles[colour_by].to_numpy(float, na_value=np.nan)
        for feature, score, colour in zip(features, scores, colour_map(scores, palette).tolist(), strict=True):
            if not math.isnan(score):
                feature["properties"] |= {"color": colour}
    return _write_features(features, path, origin_l0_px, {"scoredBy": scored_by} if scored_by else {})


def _check_table(tiles: pd.DataFrame, genes: list[Any], colour_by: str) -> None:
    if missing := [c for c in _PLACE if c not in tiles.columns]:
        raise InputError("Tiles lack columns that say where they are", got=", ".join(map(str, tiles.columns)),
                         expected=", ".join(missing))  # fmt: skip
    if colour_by and colour_by not in genes:
        raise InputError(f"Nobody scored {said(colour_by)}", expected=", ".join(said(g) for g in genes))
    for name in (*_PLACE[1:], *genes):
        try:
            values = tiles[name].to_numpy(float, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise InputError(f"Column {said(name)} holds no numbers, so it is no measurement ({said(error)})",
                             fix="Leave it out of the table") from error  # fmt: skip
        if np.isinf(values).any() or (name in _PLACE and np.isnan(values).any()):
            raise InputError(f"Column {said(name)} holds a value that is no number", expected="finite numbers")


def _feature(row: dict[str, Any], genes: list[str], origin: tuple[int, int], measure: str) -> dict[str, Any]:
    x, y, size = float(row["x_l0_px"]) - origin[0], float(row["y_l0_px"]) - origin[1], float(row["size_l0_px"])
    ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
    measured = {f"{gene} {measure}": float(row[gene]) for gene in genes if row[gene] == row[gene]}
    properties = {"objectType": "tile", "name": str(row["tile_id"]), "measurements": measured}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def write_qupath_contours(
    contours: Sequence[Contour], path: Path, *, gene: str, mpp: float, origin_l0_px: tuple[int, int] = (0, 0),
    palette: str = "perceptual", scored_by: str = "",
) -> Path:  # fmt: skip
    """Write outlines as locked QuPath annotations: one MultiPolygon per threshold, with class, colour and area.

    Thresholds that are reached nowhere have no outline; the file names them (``emptyThresholds``, which QuPath skips).

    Parameters
    ----------
    contours : of one gene
    mpp : resolution of level 0 [µm/px], for areas [mm²]
    origin_l0_px, palette, scored_by
        As for :func:`write_qupath`.
    """
    features = []
    for contour in contours:
        if contour.geometry.is_empty:
            continue
        name = f"{gene} ≥ {contour.threshold:g}"
        colour = colour_map(np.array([contour.threshold]), palette)[0].tolist()
        measured = {"threshold": contour.threshold, "area mm²": contour.geometry.area * (mpp / 1000) ** 2}
        properties = {"objectType": "annotation", "name": name, "classification": {"name": name, "color": colour},
                      "isLocked": True, "measurements": measured}  # fmt: skip
        moved = [[[[px - origin_l0_px[0], py - origin_l0_px[1]] for px, py in ring] for ring in polygon]
                 for polygon in mapping(contour.geometry)["coordinates"]]  # fmt: skip
        features.append({"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": moved},
                         "properties": properties})  # fmt: skip
    empty = [c.threshold for c in contours if c.geometry.is_empty]
    more = {"emptyThresholds": empty, "scoredBy": scored_by}
    return _write_features(features, path, origin_l0_px, {name: value for name, value in more.items() if value})


def _write_features(
    features: list[dict[str, Any]], path: Path, origin: tuple[int, int], more: dict[str, Any] | None = None
) -> Path:
    """Write a collection; where it does not count from the canvas' corner, the file says from which level-0 pixel."""
    collection = {"type": "FeatureCollection", "features": features, **(more or {})}
    if origin != (0, 0):
        collection["originLevel0Px"] = list(origin)
    return write_text(path, json.dumps(collection, allow_nan=False, separators=(",", ":")) + "\n")


def write_imagescope(contours: Sequence[Contour], path: Path, *, gene: str, mpp: float, scored_by: str = "") -> Path:
    """Write outlines as Aperio ImageScope XML, as DeepPATH does: a layer per threshold, holes as negative regions.

    Coordinates are level-0 pixels of the full canvas; `mpp` [µm/px] and `scored_by` are noted in the file.
    """
    root = ElementTree.Element("Annotations", MicronsPerPixel=repr(float(mpp)))
    if scored_by:
        root.set("ScoredBy", xml_text(scored_by))
    for number, contour in enumerate(contours, start=1):
        red, green, blue = (int(v) for v in colour_map(np.array([contour.threshold]), "perceptual")[0])
        layer = ElementTree.SubElement(
            root, "Annotation", Id=str(number), Name=xml_text(f"{gene} ≥ {contour.threshold:g}"), ReadOnly="0",
            Type="4", Visible="1", LineColor=str(red + (green << 8) + (blue << 16)),
        )  # fmt: skip
        regions = ElementTree.SubElement(layer, "Regions")
        rings = [(ring, hole) for part in contour.geometry.geoms
                 for ring, hole in [(part.exterior, 0), *((inner, 1) for inner in part.interiors)]]  # fmt: skip
        for place, (ring, hole) in enumerate(rings, start=1):
            region = ElementTree.SubElement(regions, "Region", Id=str(place), Type="0", NegativeROA=str(hole))
            vertices = ElementTree.SubElement(region, "Vertices")
            for x, y in ring.coords[:-1]:
                ElementTree.SubElement(vertices, "Vertex", X=repr(float(x)), Y=repr(float(y)), Z="0")
    return write_text(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")


def write_deeppath_areas(contour: Contour, mean: NDArray[np.floating], path: Path, *, slide_id: str) -> Path:
    """Write DeepPATH's heat-map table of a slide (``heatmap_*.csv``, its form for two classes).

    Areas of the first columns are pixels of the map, those of single parts and all diameters level-0 pixels. Parts are
    those of the outline; a diameter is that of the circle of equal area, where DeepPATH fits an ellipse.

    Parameters
    ----------
    contour : what counts as the class
    mean : (rows, columns): the map, NaN where nothing was measured
    """
    known = ~np.isnan(mean)
    inside = int((mean[known] >= contour.threshold).sum())
    areas = [part.area for part in contour.geometry.geoms]
    diameters = [2 * math.sqrt(area / math.pi) for area in areas]
    average = float(mean[known].mean()) if known.any() else 0.0
    fields = {"imageName": _cell(slide_id), "Tumor_area": inside, "Non_tumor_area": int(known.sum()) - inside,
              "tumor_percentage": round(100 * inside / max(int(known.sum()), 1), 2),
              "Tumor_avg_probability": round(100 * average, 2), "Nb_tumors": len(areas)}  # fmt: skip
    fields |= {f"Nb_tumors_{d}px_Dia_or_more": sum(one > d for one in diameters) for d in _DIAMETERS}
    fields |= {"List_of_tumor_diameter": str([round(d, 2) for d in diameters]), "List_of_tumor_areas": str(areas)}
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerows([list(fields), list(fields.values())])
    return write_text(path, stream.getvalue())


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula; control characters escaped."""
    return guarded(said(text, most=200))
