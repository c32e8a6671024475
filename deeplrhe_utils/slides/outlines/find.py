"""Outlines drawn by a pathologist, or a mask: any known format in, regions in level-0 pixels out.

Frame of all coordinates: level-0 pixels of the slide, origin top left, x to the right, y down. Formats and their
rules are told by `regions_from_json` (QuPath GeoJSON, CAMELYON
JSON), `regions_from_xml` (ImageScope, ASAP) and
`regions_from_mask` (label images).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from typing import Final

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError, ParameterError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.slides.outlines.geojson import read_geojson, regions_from_json, write_geojson
from deeplrhe_utils.slides.outlines.masks import regions_from_mask
from deeplrhe_utils.slides.outlines.regions import Region, Regions, moved, read_bytes, to_text
from deeplrhe_utils.slides.outlines.xml import regions_from_xml

__all__ = [
    "ANNOTATION_ENDINGS",
    "Region",
    "Regions",
    "annotated_slides",
    "find_annotation",
    "is_tumour",
    "read_annotation",
    "read_geojson",
    "tumour_fraction",
    "tumour_fractions",
    "tumour_outline",
    "write_geojson",
]

ANNOTATION_ENDINGS: Final = (
    ".geojson", ".json", ".xml", ".mask.png", ".mask.tif", ".mask.tiff", "-mask.png", "-mask.tif", "-mask.tiff"
)  # fmt: skip
_TOUCH_PX: Final = 1e-6  # closer than this, a corner lies on a line [level-0 px]
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CAMELYON16_TUMOUR: Final = frozenset({"_0", "_1"})
_TUMOUR = re.compile("tumo|metasta")
_NO_TUMOUR = re.compile(
    r"(?<![a-z])(?:(?:non|no|not|without|peri|extra)[\W_]*(?:tumo|metasta)|(?:normal|adjacent|free)(?![a-z]))"
)


def find_annotation(folder: Path, slide_id: str) -> Path | None:
    """The annotation of a slide in a folder.

    Parameters
    ----------
    folder : where to look; sub-folders are not searched
    slide_id : name of the slide, without folder and suffix

    Returns ``<slide_id>`` with one of :data:`ANNOTATION_ENDINGS`, as written there. If several are there and their
    bytes are the same, the first in that order; None if none is there.
    Raises AnnotationError: there are several, and they differ: nobody can tell which one is meant.
    """
    # not Path.is_file, which raises an error where a longer name than the slide's is too long for the file system
    found = [path for ending in ANNOTATION_ENDINGS if isfile(path := folder / f"{slide_id}{ending}")]  # noqa: PTH113
    if len(found) > 1 and len({sha256_file(path) for path in found}) > 1:
        raise AnnotationError(
            f"Slide {slide_id} has several annotations in {folder}",
            got=", ".join(path.name for path in found),
            expected="one",
            fix="Keep the one that counts and move the others away",
        )
    return found[0] if found else None


def annotated_slides(folder: Path) -> set[str]:
    """slide_ids that the annotation files of a folder belong to, by their names (:func:`find_annotation`)."""
    files = [path.name for path in folder.iterdir() if path.is_file()]
    return {name.removesuffix(end) for name in files for end in ANNOTATION_ENDINGS if name.endswith(end)}


def read_annotation(
    path: Path,
    *,
    offset_l0_px: tuple[float, float] = (0, 0),
    slide_px: tuple[int, int] | None = None,
) -> Regions:
    """Read an annotation of any known format, which the content tells and not the suffix.

    Known are QuPath GeoJSON, CAMELYON JSON, Aperio ImageScope XML, ASAP XML, and label images (PNG, TIFF) of
    the whole slide. Every outline is checked and, where its lines cross, repaired with a note; what has no area
    is left out and listed in ``left_out`` of the result.

    Parameters
    ----------
    path : the file; text in UTF-8, or UTF-16 with a byte order mark or an XML declaration
    offset_l0_px : (x, y); added to all coordinates [level-0 px]: for annotations in a frame other than the slide's,
        such as that of the scanned bounds (OpenSlide's ``bounds-x``, ``bounds-y``)
    slide_px : (width, height); size of the slide [level-0 px]; a mask cannot be read without it, other formats do not
        use it

    Returns a list of Region in file order, at least one [level-0 px].
    Raises AnnotationError: the file cannot be read, is empty, too large or of no known format; an outline is malformed;
    there is no area; a mask does not fit the slide, or `slide_px` is missing. ParameterError: the
    offset is not finite, or the size of a slide not positive.
    """
    if not all(math.isfinite(value) for value in offset_l0_px):
        raise ParameterError("The offset of annotations is not finite", got=offset_l0_px, expected="(x, y) in pixels")
    regions = _read(path, slide_px)
    if any(offset_l0_px):
        shifted = [moved(r, offset_l0_px, f"Annotation {path.name}, region {i}") for i, r in enumerate(regions)]
        regions = Regions(shifted, regions.left_out)
    return regions


def _read(path: Path, slide_px: tuple[int, int] | None) -> Regions:
    data = read_bytes(path)
    if data.startswith(_PICTURES):
        if slide_px is None:
            raise AnnotationError(
                f"Annotation {path.name} is an image: a mask, which says nothing without the size of its slide",
                expected="slide_px, the width and height of the slide in level-0 pixels",
            )
        return regions_from_mask(data, path.name, slide_px)
    text = to_text(data, path.name)
    first = text.lstrip()[:1]
    if first == "<":
        return regions_from_xml(text, path.name)
    if first in {"{", "["}:
        return regions_from_json(text, path.name)
    raise AnnotationError(
        f"Annotation {path.name} is of no known format",
        got=f"a file that begins with {text[:20]!r}",
        expected="QuPath GeoJSON, CAMELYON JSON, ImageScope XML, ASAP XML, or a PNG or TIFF mask",
        fix="Export it from QuPath as GeoJSON",
    )


def is_tumour(classification: str) -> bool:
    """Whether the name of a class means tumour.

    It does if it contains ``tumo`` or ``metasta`` (Tumor, tumour, Tumor: invasive, metastases) in any case, or
    is ``_0`` or ``_1`` (CAMELYON16); unless it denies it: non-, no, not, without, peri- or extra- right
    before that, or the word normal, adjacent or free.

    >>> [is_tumour(c) for c in ("Tumor: invasive", "_1", "non-tumour", "Normal adjacent to tumor", "Stroma")]
    [True, True, False, False, False]
    """
    name = classification.strip().lower()
    return name in _CAMELYON16_TUMOUR or (bool(_TUMOUR.search(name)) and not _NO_TUMOUR.search(name))


def tumour_outline(regions: Sequence[Region]) -> BaseGeometry:
    """Union of the tumour regions.

    Regions count whose class means tumour (:func:`is_tumour`). If no region has a class (layers without a name,
    group ``None``), all count; if some have, regions without one do not.

    Parameters
    ----------
    regions : outlines [level-0 px]

    Returns shapely geometry: polygon or MultiPolygon [level-0 px].
    Raises AnnotationError: there are classes, and none is a tumour.
    """
    named = [r for r in regions if r.classification]
    chosen = [r for r in named if is_tumour(r.classification)] if named else list(regions)
    if not chosen:
        present = ", ".join(sorted({r.classification for r in named})) or "no regions"
        raise AnnotationError("No annotated region is a tumour", got=present,
                              expected="a class whose name contains tumo")  # fmt: skip
    return shapely.union_all([r.geometry for r in chosen])


def tumour_fractions(
    outline: BaseGeometry, x_l0_px: ArrayLike, y_l0_px: ArrayLike, size_l0_px: ArrayLike
) -> NDArray[np.float64]:
    """Shares of squares that lie inside an outline.

    Parameters
    ----------
    outline : shapely geometry; area [level-0 px]; it is prepared, which speeds up later questions to it and changes
        nothing else
    x_l0_px, y_l0_px, size_l0_px : array_like, shape (n,) or scalar; top left corners and sides of the squares [level-0
        px]

    Returns ndarray, shape (n,): in [0, 1].

    >>> tumour_fractions(shapely.box(0, 0, 10, 5), [0, 20, 2], [0, 0, 2], [10, 10, 2]).tolist()
    [0.5, 0.0, 1.0]
    """
    x, y, size = (np.atleast_1d(np.asarray(one, float)) for one in (x_l0_px, y_l0_px, size_l0_px))
    squares = np.asarray(shapely.box(*np.broadcast_arrays(x, y, x + size, y + size)))
    shapely.prepare(outline)
    inside = shapely.contains(outline, squares)
    across = np.flatnonzero(~(inside | shapely.disjoint(outline, squares)))
    found = inside.astype(np.float64)
    found[across] = np.minimum(1.0, _common_areas(outline, squares[across]) / shapely.area(squares[across]))
    return found


def _common_areas(outline: BaseGeometry, squares: NDArray[np.object_]) -> NDArray[np.float64]:
    """Areas that squares share with an outline [px²].

    Clipping is many times faster than intersection, but may give an invalid area, or a wrong one (the rest of the
    square) where a corner of one lies on a line of the other; these squares are intersected.
    """
    corners = shapely.points(shapely.get_coordinates(outline))
    touched = np.zeros(len(squares), bool)
    touched[shapely.STRtree(corners).query(shapely.boundary(squares), "dwithin", distance=_TOUCH_PX)[0]] = True
    lines = shapely.boundary(outline)
    shapely.prepare(lines)
    own = shapely.points(shapely.get_coordinates(squares)).reshape(len(squares), 5)
    touched |= shapely.dwithin(lines, own, _TOUCH_PX).any(axis=1)
    shared = [square.intersection(outline) if on else _clipped(outline, square)
              for square, on in zip(squares, touched, strict=True)]  # fmt: skip
    return np.asarray(shapely.area(shared), np.float64)


def _clipped(outline: BaseGeometry, square: BaseGeometry) -> BaseGeometry:
    try:
        clipped = shapely.clip_by_rect(outline, *square.bounds)
    except shapely.GEOSException:
        return square.intersection(outline)
    return clipped if clipped.is_valid else square.intersection(outline)


def tumour_fraction(outline: BaseGeometry, x_l0_px: float, y_l0_px: float, size_l0_px: float) -> float:
    """:func:`tumour_fractions` of one square.

    >>> tumour_fraction(shapely.box(0, 0, 10, 5), 0, 0, 10)
    0.5
    """
    return float(tumour_fractions(outline, x_l0_px, y_l0_px, size_l0_px)[0])
