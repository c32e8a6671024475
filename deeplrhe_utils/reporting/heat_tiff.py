"""Maps as pyramidal OME-TIFF: scores in one channel, or an RGB overlay; written while their bands stream by.

Pixel (row, column) of the full image is map pixel (row, column) of a :class:`~deeplrhe_utils.reporting.heatmaps.Frame`:
its upper left corner lies at level-0 pixel (column · step_x, row · step_y) of OpenSlide's full canvas, and the
resolution in the file is the map's, mpp · step.

Source: OME-TIFF 6 and OME schema 2016-06 (lower levels are SubIFDs of the full image), TIFF 6.0. OpenSlide follows no
SubIFDs and reads no float: it opens the overlay and the map of bytes, with one level. The same calls give the same
bytes; the UUID is made of the pixels and the text.
"""

from __future__ import annotations

import hashlib
import html
import tempfile
import uuid
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

import deeplrhe_utils
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import atomic_path
from deeplrhe_utils.reporting.heat_pyramid import TILE_PX, Level, Pixels, level_sizes, stream, xml_text
from deeplrhe_utils.reporting.heatmaps import Band, Frame

SMALLEST_LEVEL_PX: Final = 512
"""Levels are added to a TIFF until the larger side is at most this."""
KINDS: Final = ("float32", "uint8")
UNMEASURED: Final = {"float32": "NaN is not measured", "uint8": "0 is not measured; score = (value − 1) / 254"}
_CLASSIC_BYTES: Final = 1 << 31
_DEFLATE_LEVEL: Final = 2
_SOFTWARE: Final = f"DeepLRHE compendium {deeplrhe_utils.__version__}"
_OME: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_score_tiff(
    path: Path, bands: Iterable[Band | Pixels], frame: Frame, *, name: str, kind: str = "float32",
    about: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a map as a single-channel pyramidal OME-TIFF.

    Parameters
    ----------
    path : target, by convention ``*.ome.tiff``; it appears when it is complete
    bands : of :class:`~deeplrhe_utils.reporting.heatmaps.Band` (their mean is written) or of arrays (rows, columns),
        from the top; NaN where nothing was measured
    frame : where the map lies; bands must add up to its shape
    name : name of the image, any text; characters that XML forbids are replaced
    kind : ``float32``: scores as they are, NaN where not measured. ``uint8``: 0 where not measured, and 1 to 255 for
        scores 0 to 1 in steps of 1/254. A pixel of a lower level is the mean of those of its four that were measured.
    about : facts for the file's annotations, such as gene and model

    Returns Path: `path`.

    Raises ParameterError: no such kind, or a score outside 0 to 1 for ``uint8``. SlideError: the bands do not add up to
    the frame. RunError: the disk is full.
    """
    if kind not in KINDS:
        raise ParameterError("A score map cannot be of this kind", got=kind, expected=" | ".join(KINDS))
    rows = (np.asarray(band.mean if isinstance(band, Band) else band, np.float32) for band in bands)
    facts = {"values": UNMEASURED[kind], **_place(frame), **(about or {})}
    return _write_tiff(path, rows, frame, _Format(kind, 1, _as_bytes if kind == "uint8" else _as_is), name, facts)


def write_overlay_tiff(
    path: Path, strips: Iterable[NDArray[np.uint8]], frame: Frame, *, name: str, about: Mapping[str, str] | None = None
) -> Path:
    """Write an RGB overlay as a pyramidal OME-TIFF without loss; `strips` are uint8 (rows, columns, 3), from the top.

    Other parameters, result and errors are those of :func:`write_score_tiff`.
    """
    facts = {"values": "sRGB", **_place(frame), **(about or {})}
    return _write_tiff(path, strips, frame, _Format("uint8", 3, _as_is), name, facts)


@dataclass(frozen=True)
class _Format:
    """Sample type and count of a TIFF, and how the values of a band become its samples."""

    dtype: str
    samples: int
    encode: Callable[[Pixels], Pixels]


def _as_is(pixels: Pixels) -> Pixels:
    return pixels


def _as_bytes(scores: Pixels) -> Pixels:
    known = ~np.isnan(scores)
    if known.any() and not (scores[known].min() >= 0 and scores[known].max() <= 1):
        raise ParameterError("A score does not fit into a byte", got=f"{scores[known].min()} to {scores[known].max()}",
                             expected="0 to 1", fix="Write it as float32")  # fmt: skip
    return np.where(known, np.rint(np.where(known, scores, 0) * 254) + 1, 0).astype(np.uint8)


class _Spool:
    """Encoded tiles of one level, in a temporary file until their directory can be written; and their hash."""

    def __init__(self, file: IO[bytes], form: _Format) -> None:
        self._file, self._form = file, form
        self._lengths, self.digest = array("Q"), hashlib.sha256()

    def take(self, band: Pixels) -> None:
        for tile in _tiles_of(self._form.encode(band)):
            self.digest.update(tile.tobytes())
            data = zlib.compress(_differences(tile), _DEFLATE_LEVEL)
            self._file.write(data)
            self._lengths.append(len(data))

    def tiles(self) -> Iterator[bytes]:
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)


def _tiles_of(band: Pixels) -> Iterator[Pixels]:
    """Tiles of a row; beyond the edge the last column and row are repeated."""
    for left in range(0, band.shape[1], TILE_PX):
        tile = band[:, left : left + TILE_PX]
        lacking = [(0, TILE_PX - n) for n in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
        yield np.pad(tile, lacking, mode="edge")


def _differences(tile: Pixels) -> bytes:
    """uint8 as differences to the left neighbour (TIFF's predictor 2), float32 as it is."""
    if tile.dtype != np.uint8:
        return tile.astype("<f4").tobytes()
    change = tile.copy()
    change[:, 1:] -= tile[:, :-1]
    return change.tobytes()


def _write_tiff(
    path: Path, strips: Iterable[Pixels], frame: Frame, form: _Format, name: str, facts: Mapping[str, str]
) -> Path:
    path = Path(path)
    sizes = [s for s in level_sizes(frame.columns, frame.rows) if max(s) > SMALLEST_LEVEL_PX // 2]
    sizes = sizes or [(frame.columns, frame.rows)]
    depth = (3,) if form.samples == 3 else ()
    dtype = np.uint8 if form.samples == 3 else np.float32  # lower levels are averaged as scores, then made bytes
    with atomic_path(path) as part, ExitStack() as stack:
        spools = [_Spool(stack.enter_context(tempfile.TemporaryFile(dir=path.parent)), form) for _ in sizes]
        levels = [Level(size[0], dtype, depth, spool.take) for size, spool in zip(sizes, spools, strict=True)]
        stream(strips, frame, levels)
        text = _ome_xml(name, frame, form, facts)
        big = sum(w * h for w, h in sizes) * form.samples * np.dtype(form.dtype).itemsize > _CLASSIC_BYTES
        with tifffile.TiffWriter(part, bigtiff=big, byteorder="<", ome=False, shaped=False) as writer:
            for k, (size, spool) in enumerate(zip(sizes, spools, strict=True)):
                own = {"subfiletype": 1} if k else _of_first(text, spools[0], len(sizes) - 1)
                writer.write(spool.tiles(), shape=(size[1], size[0], *depth), **_tags(form, frame, 2**k), **own)
    return path


def _of_first(text: str, spool: _Spool, lower: int) -> dict[str, Any]:
    """What the full image has besides: the OME-XML, with the UUID of this content, and room for lower levels."""
    spool.digest.update(text.encode())
    made = uuid.uuid5(uuid.NAMESPACE_OID, spool.digest.hexdigest())
    return {"description": text.replace(_NO_UUID, str(made)).encode(), "subifds": lower}


def _tags(form: _Format, frame: Frame, scale: int) -> dict[str, Any]:
    per_cm = tuple(1e4 / (frame.mpp * step * scale) for step in (frame.step_x, frame.step_y))
    return {
        "dtype": np.dtype(form.dtype), "tile": (TILE_PX, TILE_PX), "compression": "adobe_deflate",
        "predictor": form.dtype == "uint8", "photometric": "rgb" if form.samples == 3 else "minisblack",
        "planarconfig": "contig" if form.samples == 3 else None, "resolution": per_cm, "resolutionunit": "centimeter",
        "metadata": None, "software": _SOFTWARE,
    }  # fmt: skip


_NO_UUID: Final = "00000000-0000-0000-0000-000000000000"


def _place(frame: Frame) -> dict[str, str]:
    return {
        "frame": "level-0 pixels of OpenSlide's full canvas; the map begins at 0, 0",
        "step_x_l0_px": repr(float(frame.step_x)), "step_y_l0_px": repr(float(frame.step_y)),
        "slide_width_l0_px": str(frame.width_l0_px), "slide_height_l0_px": str(frame.height_l0_px),
        "slide_mpp": repr(float(frame.mpp)),
    }  # fmt: skip


def _escaped(text: str) -> str:
    return html.escape(xml_text(text), quote=True)


def _ome_xml(name: str, frame: Frame, form: _Format, facts: Mapping[str, str]) -> str:
    said = "".join(f'<M K="{_escaped(key)}">{_escaped(value)}</M>' for key, value in sorted(facts.items()))
    sides = zip("XY", (frame.step_x, frame.step_y), strict=True)
    physical = " ".join(f'PhysicalSize{a}="{frame.mpp * s!r}" PhysicalSize{a}Unit="µm"' for a, s in sides)
    kind = "float" if form.dtype == "float32" else form.dtype
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{_OME}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" UUID="urn:uuid:{_NO_UUID}" '
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd" Creator="{_SOFTWARE}">'
        f'<Image ID="Image:0" Name="{_escaped(name)}"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind}" '
        f'Interleaved="true" BigEndian="false" SizeX="{frame.columns}" SizeY="{frame.rows}" SizeC="{form.samples}" '
        f'SizeZ="1" SizeT="1" {physical}><Channel ID="Channel:0:0" SamplesPerPixel="{form.samples}"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels><AnnotationRef ID="Annotation:0"/></Image><StructuredAnnotations>'
        f'<MapAnnotation ID="Annotation:0"><Value>{said}</Value></MapAnnotation></StructuredAnnotations></OME>'
    )
