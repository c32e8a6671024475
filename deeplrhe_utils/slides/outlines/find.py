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
from pathlib import Path
from typing import Final

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError, ParameterError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.slides.outlines.geojson import read_geojson as read_geojson
from deeplrhe_utils.slides.outlines.geojson import regions_from_json
from deeplrhe_utils.slides.outlines.masks import regions_from_mask
from deeplrhe_utils.slides.outlines.regions import Region, Regions, moved, read_bytes, to_text
from deeplrhe_utils.slides.outlines.xml import regions_from_xml

ANNOTATION_ENDINGS: Final = (
    ".geojson", ".json", ".xml", ".mask.png", ".mask.tif", ".mask.tiff", "-mask.png", "-mask.tif", "-mask.tiff"
)  # fmt: skip
_PACKED: Final = ".gz"
_SLIDE_ENDING = re.compile(
    r"\.(?:svs|tiff?|ndpi|mrxs|scn|bif|dcm|svslide|vms|vmu|czi|qptiff|btf|jpe?g|png)", re.IGNORECASE
)
_TOUCH_PX: Final = 1e-6  # closer than this, a corner lies on a line [level-0 px]
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CAMELYON16_TUMOUR: Final = frozenset({"_0", "_1"})
_TUMOUR = re.compile(
    r"tumou?r|metasta|[ck]ar[cz]inom|cancer|krebs|malignan|neoplas|肿瘤|腫瘍|癌|"
    r"\b(?:tum|adeno|luad|lusc|n?sclc|scc|lepidic|acinar|(?:micro)?papillary|solid|cribriform)\b"
)
_DENIED = re.compile(
    r"(?:non|peri|extra)[\W_]*(?=tumou?r|metasta|cancer|carcinom|malignan|neoplas)|"
    r"\b(?:no|not|without|in(?![\W_]+situ)|within|near|around|beside|outside|free of|negative for|absence of)[\W_]+"
    r"(?:\w+[\W_]+){0,3}?(?=tumou?r|metasta|cancer|carcinom|malignan|neoplas)|"
    r"\b(?:normal|benign|adjacent|associated|free|tils?|immune|vessels?)\b|"
    r"stroma|lymphocyt|macrophag|inflamm|necro|fibro|ha?emorrh|hyperplas|metaplas"
)
_FEWEST_NUCLEI: Final = 20
_NUCLEUS_UM2: Final = 200.0  # nuclei of lung tissue have 20 to 150 µm², giant ones 300; a tile has 65 000
_NO_NUCLEUS_UM2: Final = 2_000.0  # 50 µm across


def annotation_names(file_name: str) -> tuple[str, ...]:
    """The slide_ids that an annotation's file name may mean; none where it ends like no annotation.

    Endings are those of :data:`ANNOTATION_ENDINGS` in any case, also packed (``.gz``); the slide's own may stand
    before it.

    >>> annotation_names("S1.tif.GeoJSON.gz"), annotation_names("S1-mask.png"), annotation_names("S1.csv")
    (('S1.tif', 'S1'), ('S1',), ())
    """
    bare = file_name[: -len(_PACKED)] if file_name.lower().endswith(_PACKED) else file_name
    ending = next((end for end in ANNOTATION_ENDINGS if bare.lower().endswith(end)), "")
    name = bare[: len(bare) - len(ending)]
    short = Path(name).stem if _SLIDE_ENDING.fullmatch(Path(name).suffix) else name
    return () if not ending or not name else (name,) if short == name else (name, short)


def find_annotation(folder: Path, slide_id: str) -> Path | None:
    """The annotation of a slide in a folder.

    Parameters
    ----------
    folder : where to look; sub-folders are not searched
    slide_id : name of the slide, without folder and suffix

    Returns the file whose name means the slide (:func:`annotation_names`). If several do and their bytes are the same,
    the first in the order of :data:`ANNOTATION_ENDINGS`; None if none does.
    Raises AnnotationError: there are several, and they differ: nobody can tell which one is meant.
    """
    names = [path.name for path in folder.iterdir() if path.name.startswith(slide_id)] if folder.is_dir() else []
    found = [folder / name for name in names if slide_id in annotation_names(name) and (folder / name).is_file()]
    found.sort(key=lambda path: (*(not path.name.lower().endswith(end) for end in ANNOTATION_ENDINGS), path.name))
    if len(found) > 1 and len({sha256_file(path) for path in found}) > 1:
        raise AnnotationError(
            f"Slide {slide_id} has several annotations in {folder}",
            got=", ".join(path.name for path in found),
            expected="one",
            fix="Keep the one that counts and move the others away",
        )
    return found[0] if found else None


def read_annotation(
    path: Path,
    *,
    offset_l0_px: tuple[float, float] = (0, 0),
    slide_px: tuple[int, int] | None = None,
    tumour_classes: Sequence[str] = (),
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
    tumour_classes : classes that are the tumour (:func:`is_tumour`)

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
    regions.tumour_classes = tuple(tumour_classes)
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


def is_tumour(classification: str, tumour_classes: Sequence[str] = ()) -> bool:
    """Whether the name of a class means tumour.

    Where the user names classes, it does if it is one of them, or a part of it between colons is, in any case. Else it
    does if it holds a word for tumour: tumo(u)r, metasta…, …carcinom…, cancer, malignan…, neoplas…, tum, LUAD, LUSC,
    (N)SCLC, SCC, adeno, or a growth pattern of lung adenocarcinoma (lepidic, acinar, (micro)papillary, solid,
    cribriform); or is ``_0`` or ``_1`` (CAMELYON16). It does not if something denies that: non-, peri- or extra-
    before the word; no, not, without, negative for, in, near, outside or the like up to three words before it; or a
    word for another tissue (normal, benign, adjacent, associated, free, stroma, lymphocyt…, TIL, immune, necro…,
    fibro…, vessel and the like).

    >>> [is_tumour(c) for c in ("Adenocarcinoma", "LUAD", "Tumor-associated stroma", "TILs in tumor", "Stroma")]
    [True, True, False, False, False]
    >>> is_tumour("Region 1", ["region 1"]), is_tumour("Tumor", ["region 1"])
    (True, False)
    """
    name = classification.strip().lower()
    if tumour_classes:
        return not {name, *(part.strip() for part in name.split(":"))}.isdisjoint(
            given.strip().lower() for given in tumour_classes
        )
    plain = re.sub(r"non[\W_]*(?=small|mucinous|kerat)", "", name).replace("_", " ")
    return name in _CAMELYON16_TUMOUR or bool(_TUMOUR.search(plain) and not _DENIED.search(plain))


def _tumour_regions(regions: Sequence[Region]) -> list[Region]:
    """The regions of :func:`tumour_outline`."""
    given = getattr(regions, "tumour_classes", ())
    named = [r for r in regions if r.classification]
    return [r for r in named if is_tumour(r.classification, given)] if named else list(regions)


def tumour_outline(regions: Sequence[Region]) -> BaseGeometry:
    """Union of the tumour regions.

    Regions count whose class means tumour (:func:`is_tumour`). If no region has a class (layers without a name,
    group ``None``, masks), all count; if some have, regions without one do not.

    Parameters
    ----------
    regions : outlines [level-0 px]; as :class:`Regions`, with the classes that the user names

    Returns shapely geometry: polygon or MultiPolygon [level-0 px].
    Raises AnnotationError: there are classes, and none is a tumour.
    """
    chosen = _tumour_regions(regions)
    if not chosen:
        present = ", ".join(sorted({r.classification or "(no class)" for r in regions})) or "no regions"
        wanted = ", ".join(getattr(regions, "tumour_classes", ())) or "a class that means tumour, such as Tumor"
        raise AnnotationError("No annotated region is a tumour", got=present, expected=wanted,
                              fix="Name the classes that are the tumour in tumour_classes")  # fmt: skip
    return shapely.union_all([r.geometry for r in chosen])


def told_classes(regions: Sequence[Region]) -> str:
    """Which classes were taken for the tumour, in a sentence; empty where all regions have one class that is."""
    chosen = {r.classification or "(no class)" for r in _tumour_regions(regions)}
    others = {r.classification or "(no class)" for r in regions} - chosen
    if not others and len(chosen) < 2:
        return ""
    return f"classes of the outlines: tumour {', '.join(sorted(chosen))}; not tumour {', '.join(sorted(others)) or '–'}"


def check_no_nuclei(regions: Sequence[Region], mpp: float, name: str) -> None:
    """Refuse outlines of nuclei: where many were drawn, most smaller than a nucleus can be, and none like a region.

    Parameters
    ----------
    mpp : of level 0 [µm/px]
    name : of the file, for the error

    Raises AnnotationError: the tumour is at least :data:`_FEWEST_NUCLEI` outlines with a median area below
    :data:`_NUCLEUS_UM2`, of which none has :data:`_NO_NUCLEUS_UM2`.
    """
    areas = shapely.area(shapely.get_parts([r.geometry for r in _tumour_regions(regions)])) * mpp**2
    if len(areas) < _FEWEST_NUCLEI or np.median(areas) >= _NUCLEUS_UM2 or areas.max() >= _NO_NUCLEUS_UM2:
        return
    raise AnnotationError(
        f"The outlines of {name} look like nuclei, not regions",
        got=f"{len(areas)} areas with a median of {np.median(areas):.0f} µm² (largest {areas.max():.0f})",
        expected=f"outlines of tissue, of {_NO_NUCLEUS_UM2:g} µm² or more",
        fix="Draw the tumour as a region; or move the file away, and all tissue is tiled",
    )


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
    return box_fractions(outline, np.asarray(shapely.box(*np.broadcast_arrays(x, y, x + size, y + size))))


def box_fractions(outline: BaseGeometry, boxes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Shares, in [0, 1], of upright boxes (n,) that lie inside an outline; as :func:`tumour_fractions` of squares."""
    shapely.prepare(outline)
    inside = shapely.contains(outline, boxes)
    across = np.flatnonzero(~(inside | shapely.disjoint(outline, boxes)))
    found = inside.astype(np.float64)
    found[across] = np.minimum(1.0, _common_areas(outline, boxes[across]) / shapely.area(boxes[across]))
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
