"""Outlines drawn in the viewer: saved as QuPath GeoJSON where notebook 02 looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import shapely
from shapely.geometry import Polygon

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.slides.outlines.find import find_annotation, read_annotation, tumour_outline
from deeplrhe_utils.slides.outlines.geojson import write_geojson
from deeplrhe_utils.slides.outlines.regions import Region, checked_area

CLASS: Final = "Tumor"
_DRAWN: Final = "Drawn in the compendium's viewer"
_LONGEST_NAME: Final = 200
_FORBIDDEN: Final = frozenset('/\\:*?"<>|')

Ring = Sequence[Sequence[float]]


def outline_file(folder: Path, slide_id: str) -> Path:
    """``<slide_id>.geojson`` in a folder: the name that :func:`find_annotation` looks for.

    Raises AnnotationError: the name of the slide is no file name: it could lead out of the folder, or to no file at
    all.
    """
    odd = any(letter in _FORBIDDEN or ord(letter) < 32 for letter in slide_id)
    if not slide_id.strip() or odd or slide_id.startswith(".") or len(slide_id.encode("utf-8")) > _LONGEST_NAME:
        raise AnnotationError("The name of the slide cannot be the name of a file, so its outline cannot be saved",
                              got=repr(slide_id[:80]), fix="Rename the slide, and run notebook 01 again")  # fmt: skip
    return folder / f"{slide_id}.geojson"


def save_outline(rings: Sequence[Ring], folder: Path, slide_id: str, size_l0_px: tuple[int, int]) -> tuple[Path, str]:
    """Write the outline of a tumour.

    Parameters
    ----------
    rings : sequence of rings
        Closed polygons as lists of (x, y) [level-0 px]. Lines that cross are repaired, and what reaches over the
        slide's edge is cut; a note in the file says so.
    folder : the ``annotations_dir`` of notebook 02
    slide_id : name of the slide
    size_l0_px : (width, height): the slide [level-0 px]

    Returns (Path, str): the file, and what was repaired ("" when nothing was). The class is ``Tumor``, one region per
    ring.

    Raises AnnotationError: there is no ring with an area inside the slide; the slide's name is no file name; or the
    folder has an annotation of this slide that was not drawn here, which is never overwritten.
    """
    target = outline_file(folder, slide_id)
    present = find_annotation(folder, slide_id)
    if present is not None and (present != target or not _ours(present)):
        raise AnnotationError(f"Slide {slide_id} has an annotation that was not drawn here", got=present.name,
                              fix="Move it away, or choose another folder")  # fmt: skip
    regions = [_region(ring, number, size_l0_px) for number, ring in enumerate(rings, 1)]
    if not regions:
        raise AnnotationError(
            f"No outline was drawn on slide {slide_id}", fix="Click at least three corners, then close"
        )
    write_geojson(regions, target)
    read_annotation(target)  # what notebook 02 does; better to fail here than there
    notes = [region.note.removeprefix(_DRAWN).strip("; ") for region in regions]
    return target, "; ".join(note for note in notes if note)


def _region(ring: Ring, number: int, size_l0_px: tuple[int, int]) -> Region:
    where = f"Outline {number}"
    points = [(float(x), float(y)) for x, y in ring]
    if len(points) < 3:
        raise AnnotationError(f"{where} has no area", got=f"{len(points)} corners", expected="at least three")
    area, repair = checked_area(Polygon(points), where)
    inside, cut = checked_area(shapely.intersection(area, shapely.box(0, 0, *size_l0_px)), where)
    if inside.is_empty or inside.area == 0:
        raise AnnotationError(f"{where} has no area inside the slide", got=f"{len(points)} corners")
    lost = "" if shapely.equals(area, inside) else "cut at the edge of the slide"
    return Region(inside, CLASS, f"outline {number}", "; ".join(part for part in (_DRAWN, repair, cut, lost) if part))


def _ours(path: Path) -> bool:
    return all(region.note.startswith(_DRAWN) for region in read_annotation(path))


def outline_rings(
    path: Path, size_l0_px: tuple[int, int], tumour_classes: Sequence[str] = ()
) -> list[list[list[float]]]:
    """Rings of the tumour in an annotation file, holes among them: lists of [x, y] [level-0 px].

    Raises AnnotationError: the file cannot be read, or shows no tumour.
    """
    area = tumour_outline(read_annotation(path, slide_px=size_l0_px, tumour_classes=tumour_classes))
    rings = [ring for part in shapely.get_parts(area) for ring in (part.exterior, *part.interiors)]
    return [shapely.get_coordinates(ring).round(2).tolist() for ring in rings]
