"""What all readers of annotations share: regions, checks and repair of outlines, areas that are cut out."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError

LARGEST_FILE_BYTES: Final = 256 * 2**20
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_ENCODINGS: Final = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252"})


def read_bytes(path: Path) -> bytes:
    """Read an annotation file; one that gzip has packed is unpacked.

    Raises AnnotationError: the file is missing, unreadable, empty or larger than :data:`LARGEST_FILE_BYTES`, packed or
    unpacked.
    """
    try:
        data = path.read_bytes() if (size := path.stat().st_size) <= LARGEST_FILE_BYTES else b""
        if data.startswith(b"\x1f\x8b"):
            data = zlib.decompressobj(wbits=31).decompress(data, LARGEST_FILE_BYTES + 1)
        if max(size, len(data)) > LARGEST_FILE_BYTES:
            raise AnnotationError(
                f"Annotation {path.name} is too large to be read",
                got=f"{max(size, len(data))} bytes or more",
                expected=f"at most {LARGEST_FILE_BYTES} bytes",
                fix="Export fewer objects: tumour outlines, not every nucleus",
            )
    except (OSError, zlib.error) as error:
        raise AnnotationError(f"Annotation {path} cannot be read ({error})", fix="Check the path") from error
    if not data.strip():
        raise AnnotationError(f"Annotation {path.name} is empty", fix="Export it again")
    return data


def to_text(data: bytes, name: str) -> str:
    """Decode a text file by its byte order mark, its NUL bytes (UTF-16) or its XML declaration; else as UTF-8.

    Raises AnnotationError: the bytes are not text in that encoding, or the encoding is none of UTF-8, UTF-16, ASCII,
    Latin-1, Latin-9 and Windows-1252.
    """
    encoding = _encoding(data, name)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"Annotation {name} is not text ({error})", expected=f"text in {encoding}", fix="Export it again"
        ) from error


def _encoding(data: bytes, name: str) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in data[:2]:
        return "utf-16-be" if data.startswith(b"\0") else "utf-16-le"
    declared = _DECLARED.match(data[:200])
    if declared is None:
        return "utf-8"
    written = declared[1].decode("ascii")
    try:
        known = codecs.lookup(written).name
    except LookupError:
        known = written
    if known not in _ENCODINGS:
        raise AnnotationError(
            f"Annotation {name} declares an encoding that its bytes are not in, or that is not supported",
            got=written,
            expected="UTF-8, UTF-16, ASCII, ISO-8859-1, ISO-8859-15 or windows-1252",
            fix="Save it as UTF-8",
        )
    return known


AREAS: Final = ("Polygon", "MultiPolygon")
LARGEST_COORDINATE_PX: Final = 1e9  # a slide has some 200 000 px a side: beyond this, it is no pixel
HOST: Final = 0.5
WORTH_TELLING: Final = 0.01
ISLAND: Final = 0.99  # not 1: a hand-drawn island may touch the edge of its hole


@dataclass(frozen=True)
class Region:
    """One outline.

    Attributes
    ----------
    geometry : shapely geometry; polygon or MultiPolygon, valid, with holes [level-0 px]
    classification : class name as written, empty when there is none
    name : the region's own name, empty when there is none
    note : what was repaired, approximated or subtracted, empty when nothing was
    """

    geometry: BaseGeometry
    classification: str = ""
    name: str = ""
    note: str = ""


class Exclusion(NamedTuple):
    """An area that is cut out of regions: what messages call it, and where it is [level-0 px]."""

    name: str
    geometry: BaseGeometry


class Regions(list[Region]):
    """The regions of one file, in file order: a list that also says what the file holds besides.

    Parameters
    ----------
    left_out : one sentence for every element that is no area (points, rulers, stray clicks) or did not count
    tumour_classes : classes that are the tumour, as the user names them; empty where words decide (`is_tumour`)

    Attributes
    ----------
    left_out, tumour_classes : see above; not part of a comparison with ``==``
    """

    def __init__(
        self, regions: Iterable[Region] = (), left_out: Iterable[str] = (), tumour_classes: Iterable[str] = ()
    ) -> None:
        super().__init__(regions)
        self.left_out, self.tumour_classes = list(left_out), tuple(tumour_classes)


def some_area(regions: Sequence[Region], left_out: Sequence[str], name: str) -> Regions:
    """The regions of a file.

    Parameters
    ----------
    regions, left_out : as for :class:`Regions`
    name : name of the file, for the error

    Raises AnnotationError: there is none; the error tells what was left out.
    """
    if regions:
        return Regions(regions, left_out)
    more = f" (and {len(left_out) - 3} more)" if len(left_out) > 3 else ""
    raise AnnotationError(
        f"Annotation {name} holds no area",
        got="; ".join(left_out[:3]) + more if left_out else None,
        expected="at least one Polygon or MultiPolygon",
        fix="Export it again",
    )


def joined_outline(corners: Any, where: str) -> tuple[BaseGeometry, str]:
    """Area inside a closed line.

    Parameters
    ----------
    corners : sequence of (x, y); corners in order, the first repeated at the end or not [level-0 px]
    where : file and element, for the error

    Returns (geometry, note): as :func:`checked_area`; empty if there are fewer than three corners or they lie on one
    line.
    Raises AnnotationError: a corner is not a pair of finite numbers of at most :data:`LARGEST_COORDINATE_PX`.
    """
    try:
        points = np.array(corners, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{where}: malformed outline ({error})", expected="pairs of numbers") from error
    if points.size and (points.ndim != 2 or points.shape[1] not in (2, 3)):
        raise AnnotationError(
            f"{where}: malformed outline", got=f"an array of shape {points.shape}", expected="pairs of numbers"
        )
    check_numbers(points, where)
    return checked_area(shapely.Polygon(points[:, :2]), where) if len(points) > 2 else (shapely.Polygon(), "")


def checked_area(outline: BaseGeometry, where: str) -> tuple[BaseGeometry, str]:
    """A valid area of the same place, and what had to be done.

    Parameters
    ----------
    outline : shapely geometry; polygon or MultiPolygon [level-0 px]
    where : file and element, for the error

    Returns (geometry, note): polygon or MultiPolygon; empty if nothing encloses an area. Self-crossing lines are
    repaired with :func:`shapely.make_valid`: what they enclose an even number of times is outside. The note says so,
    and how much of the area that is if it is more than 1 %: a line drawn round twice encloses nothing.
    Raises AnnotationError: a coordinate is not finite or too large.
    """
    outline = shapely.force_2d(outline)
    check_numbers(shapely.get_coordinates(outline), where)
    if outline.is_valid:
        return outline, ""
    problem = shapely.is_valid_reason(outline)
    repaired = shapely.make_valid(outline)
    areas = [g for g in getattr(repaired, "geoms", [repaired]) if g.geom_type in AREAS]
    area = shapely.union_all(areas)
    return area, f"repaired: {problem}{_lost(outline, area)}"


def _lost(drawn: BaseGeometry, repaired: BaseGeometry) -> str:
    """How much of what a line without holes encloses is outside after repair, if it is worth telling."""
    if drawn.geom_type != "Polygon" or len(drawn.interiors):
        return ""
    enclosed = sum(face.area for face in shapely.polygonize([shapely.union_all([drawn.exterior])]).geoms)
    lost = 1 - repaired.area / enclosed if enclosed else 0.0
    return f"; {lost:.0%} of the area is enclosed twice and counts as outside" if lost > WORTH_TELLING else ""


def check_numbers(coordinates: np.ndarray, where: str) -> None:
    """Refuse coordinates that are not finite or larger than :data:`LARGEST_COORDINATE_PX` (AnnotationError)."""
    wrong = coordinates[~(np.abs(coordinates) <= LARGEST_COORDINATE_PX)]
    if wrong.size:
        raise AnnotationError(
            f"{where}: the outline is not finite, or absurdly large",
            got=wrong[0],
            expected=f"pixels of -{LARGEST_COORDINATE_PX:g} to {LARGEST_COORDINATE_PX:g}",
        )


def moved(region: Region, offset_l0_px: tuple[float, float], where: str) -> Region:
    """The region in another frame.

    Parameters
    ----------
    offset_l0_px : (x, y); what is added to its coordinates [level-0 px]
    where : file and element, for the error

    Raises AnnotationError: the region leaves the range of coordinates.
    """
    shifted = shapely.transform(region.geometry, lambda points: points + np.asarray(offset_l0_px, dtype=float))
    geometry, note = checked_area(shifted, where)
    return replace(region, geometry=geometry, note=joined(region.note, note))


def joined(*notes: str) -> str:
    """The notes that are not empty, as one."""
    return "; ".join(note for note in notes if note)


class Cut(NamedTuple):
    """What :func:`subtract` leaves: regions, the names of those that vanished, the exclusions without effect."""

    regions: list[Region]
    vanished: list[str]
    idle: list[Exclusion]

    def left_out(self) -> list[str]:
        """One sentence for everything that is gone or did nothing."""
        gone = [f"{name} lies entirely in excluded areas" for name in self.vanished]
        return gone + [f"{hole.name} meets no region" for hole in self.idle]


def subtract(regions: Sequence[Region], exclusions: Sequence[Exclusion]) -> Cut:
    """Cut exclusions out of regions.

    An exclusion cuts every region that it overlaps, but islands. An island is a region drawn inside a hole
    of a larger one: 99 % (:data:`ISLAND`) of it lie in the exclusion, and more than half (:data:`HOST`) of the
    exclusion lies in a region larger than the island. Islands stay whole. Regions under an exclusion that
    lies in no region are cut like all others, so they vanish. The order does not matter.

    Parameters
    ----------
    exclusions : what is cut out

    Returns Cut: what remains, with a note where something was cut.
    """
    tree = shapely.STRtree([region.geometry for region in regions])
    cuts: dict[int, list[BaseGeometry]] = {}
    idle = []
    for exclusion in exclusions:
        victims = _victims(regions, exclusion.geometry, tree)
        for index in victims:
            cuts.setdefault(index, []).append(exclusion.geometry)
        if not victims:
            idle.append(exclusion)
    remaining, vanished = [], []
    for index, region in enumerate(regions):
        left = _without(region, cuts[index]) if index in cuts else region
        if left.geometry.is_empty:
            vanished.append(f"Region {index} {region.name}".strip())
        else:
            remaining.append(left)
    return Cut(remaining, vanished, idle)


def _without(region: Region, holes: list[BaseGeometry]) -> Region:
    geometry = shapely.difference(region.geometry, shapely.union_all(holes))
    return replace(region, geometry=geometry, note=joined(region.note, f"{len(holes)} excluded area(s) cut out"))


def _victims(regions: Sequence[Region], hole: BaseGeometry, tree: shapely.STRtree) -> list[int]:
    """Indices of the regions that an exclusion cuts."""
    near = sorted(int(index) for index in tree.query(hole, predicate="intersects"))
    area = {index: regions[index].geometry.area for index in near}
    shared = {index: regions[index].geometry.intersection(hole).area for index in near}
    largest_host = max((area[index] for index in near if shared[index] > HOST * hole.area), default=0.0)
    islands = {index for index in near if shared[index] >= ISLAND * area[index] and area[index] < largest_host}
    return [index for index in near if shared[index] > 0 and index not in islands]
