"""Write a slide as a pyramidal OME-TIFF while its pixels stream by: nothing larger than a few strips is held.

Full resolution goes to the file tile by tile. Each lower level is averaged from the one above on the way and waits,
compressed, in a temporary file, because its directory belongs behind the full image.

Source: OME-TIFF 6 (lower levels are SubIFDs of the full image, largest first, marked as reduced images, and outside
the chain of directories), TIFF 6.0, TIFF Technical Note 2 (JPEG in TIFF).

OpenSlide does not follow SubIFDs: it reads such a file as ``generic-tiff`` with one level. QuPath, Bio-Formats and
tifffile show all levels.
"""

from __future__ import annotations

import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

import deeplrhe_utils
from deeplrhe_utils.core.errors import ParameterError, SlideError
from deeplrhe_utils.core.files import atomic_path
from deeplrhe_utils.core.text import escaped, xml_text
from deeplrhe_utils.slides.decoding.sampling import Rgb, reduce_whole

_SMALLEST_LEVEL_PX: Final = 1024
"""Levels are added until the larger side is at most this."""
_MAX_SIDE_PX: Final = 2_000_000
_CLASSIC_BYTES: Final = 1 << 31
"""Pixels beyond which BigTIFF is written: half of what classic TIFF can address (noise grows when compressed)."""
_DEFLATE_LEVEL: Final = 3  # 6 takes twice as long for 2 %
_BLACK_AND_WHITE: Final = (532, 5, 6, (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1), False)
"""ReferenceBlackWhite of YCbCr as JPEG has it: TIFF 6.0 requires the tag."""
SOFTWARE: Final = f"DeepLRHE compendium {deeplrhe_utils.__version__}"
_OME: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"

Encoder = Callable[[Rgb], bytes]


def write_ome_tiff(
    path: Path,
    strips: Iterable[NDArray[np.uint8]],
    *,
    width_px: int,
    height_px: int,
    mpp: float,
    name: str,
    tile_px: int = 512,
    quality: int | None = 90,
    levels: int | None = None,
) -> Path:
    """Write a tiled pyramid; the file appears under its name only when it is complete.

    The same calls give the same bytes.

    Parameters
    ----------
    path : target, by convention ``*.ome.tiff``
    strips : iterable of ndarray, shape (h, width_px, 3), uint8; RGB of the whole width, from the top; each h a multiple
        of `tile_px`, except the last strip's
    width_px, height_px : size of the full image [px]
    mpp : resolution of the full image [µm/px], 0.01 to 1000
    name : name of the image, any text; characters that XML forbids are replaced
    tile_px : side of the tiles [px]; a multiple of 16
    quality : JPEG quality, 1 to 100 (YCbCr, colour at full resolution); None is deflate, without loss
    levels : number of levels with the full image, each half of the one above, rounded down. None: until the larger side
        is at most :data:`_SMALLEST_LEVEL_PX`.

    Raises ParameterError: an image of another size, or too small for so many levels. SlideError: the
    strips do not add up to the height. RunError: the disk is full.

    Pixels beyond the right and lower edge repeat the last one. A level of odd size loses its last column or row
    in the next. An exception, also one of `strips`, leaves no file behind.
    """
    sizes = _level_sizes(width_px, height_px, levels)
    path = Path(path)
    with atomic_path(path) as part, ExitStack() as stack:
        encode = deflated if quality is None else _jpeg(quality)
        spools = [Spool(stack.enter_context(tempfile.TemporaryFile(dir=path.parent))) for _ in sizes[1:]]

        def sink(spool: Spool, band: Rgb) -> None:
            for tile in padded_tiles(band, tile_px):
                spool.add(encode(tile))

        places = zip(sizes[1:], spools, strict=True)
        reduced = linked(
            [PyramidLevel((tile_px, s[0], 3), np.uint8, partial(sink, spool), _half) for s, spool in places]
        )
        source = iter(strips)
        big = sum(width * height for width, height in sizes) * 3 > _CLASSIC_BYTES
        with tifffile.TiffWriter(part, bigtiff=big, byteorder="<", ome=False, shaped=False) as writer:
            full = _full_tiles(source, sizes[0], tile_px, encode, reduced)
            common: dict[str, Any] = _tags(tile_px, quality)
            text = ome_xml(name, sizes[0], (mpp, mpp)).encode()
            writer.write(full, **common, **_of_level(sizes, 0, mpp), subifds=len(reduced), description=text)
            if (extra := next(source, None)) is not None:  # asked for: what the source does at its end must happen
                raise SlideError("There are more strips than the slide has rows", got=extra.shape)
            for level in reduced[:1]:
                level.finish()
            for number, spool in enumerate(spools, start=1):
                writer.write(spool.tiles(), **common, **_of_level(sizes, number, mpp), subfiletype=1)
        if quality is not None:
            _call_it_jpeg(part)
    return path


def _level_sizes(width: int, height: int, levels: int | None) -> list[tuple[int, int]]:
    if not (1 <= width <= _MAX_SIDE_PX and 1 <= height <= _MAX_SIDE_PX):
        raise ParameterError(
            "A slide of this size cannot be written",
            got=f"{width} × {height} px",
            expected=f"1 to {_MAX_SIDE_PX} a side",
        )
    if levels is None:
        levels = 1
        while max(width, height) >> (levels - 1) > _SMALLEST_LEVEL_PX and min(width, height) >> levels:
            levels += 1
    most = min(width, height).bit_length()
    if not 1 <= levels <= most:
        raise ParameterError(
            f"An image of {width} × {height} px cannot have so many levels", got=levels, expected=f"1 to {most}"
        )
    return [(width >> k, height >> k) for k in range(levels)]


class Spool:
    """Encoded tiles that wait in a temporary file until their directory can be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lengths = file, array("Q")

    def add(self, tile: bytes) -> None:
        """Take the next tile."""
        self._file.write(tile)
        self._lengths.append(len(tile))

    def tiles(self) -> Iterator[bytes]:
        """All tiles, in order."""
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)


class PyramidLevel:
    """One level: collects rows until a row of tiles is full, hands that on, and its half to the level below.

    Parameters
    ----------
    shape : of a row of tiles: (rows, columns), and the samples of a pixel where there are several
    sink : takes rows of tiles, the last of which may be lower; it must not keep them
    halve : rows of this level to those of the level below
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, sink: Callable[[NDArray[Any]], None],
        halve: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> None:  # fmt: skip
        self._rows = np.empty(shape, dtype)
        self._filled, self._sink, self._halve = 0, sink, halve
        self.below: PyramidLevel | None = None

    def fits(self, rows: NDArray[Any]) -> bool:
        """Whether rows have the width, depth and type of this level."""
        return rows.shape[1:] == self._rows.shape[1:] and rows.dtype == self._rows.dtype

    def take(self, rows: NDArray[Any]) -> None:
        """Collect rows, of any number."""
        while len(rows):
            room = rows[: len(self._rows) - self._filled]
            self._rows[self._filled : self._filled + len(room)] = room
            self._filled += len(room)
            rows = rows[len(room) :]
            if self._filled == len(self._rows):
                self._pass_on()

    def finish(self) -> None:
        """Hand on what is left, here and below."""
        if self._filled:
            self._pass_on()
        if self.below is not None:
            self.below.finish()

    def _pass_on(self) -> None:
        band, self._filled = self._rows[: self._filled], 0
        self._sink(band)
        if self.below is not None:
            self.below.take(self._halve(band))


def linked(levels: list[PyramidLevel]) -> list[PyramidLevel]:
    """The same levels, the largest first, each with the next one below it."""
    for level, below in pairwise(levels):
        level.below = below
    return levels


def _half(rows: Rgb) -> Rgb:
    """Averages of 2 × 2 pixels, without an odd last row and column."""
    height, width = (n // 2 * 2 for n in rows.shape[:2])
    return reduce_whole(rows[:height, :width], 2) if height else rows[:0]


def _full_tiles(
    strips: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    tile_px: int,
    encode: Encoder,
    levels: Sequence[PyramidLevel],
) -> Iterator[bytes]:
    """Encoded tiles of the full image, row by row; the lower levels are fed on the way."""
    top, number = 0, 0
    for strip in strips:
        # Before the tiles are handed out: nobody asks for more than the last one, and what follows would not run.
        for y in range(0, len(strip), tile_px):
            for level in levels[:1]:
                level.take(_half(strip[y : y + tile_px]))
        for y in range(0, len(strip), tile_px):
            yield from map(encode, padded_tiles(strip[y : y + tile_px], tile_px))
        top, number = top + len(strip), number + 1
        del strip  # the next is made before the name is bound again: two would be alive
        if top == size[1]:
            return
    raise SlideError("The strips of a slide end too early", got=f"{top} rows in {number}", expected=f"{size[1]} rows")


def padded_tiles(band: NDArray[Any], tile_px: int) -> Iterator[NDArray[Any]]:
    """A band of at most `tile_px` rows as tiles; the last column and row are repeated beyond the edge."""
    for left in range(0, band.shape[1], tile_px):
        tile = band[:, left : left + tile_px]
        lacking = [(0, tile_px - n) for n in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
        yield np.pad(tile, lacking, mode="edge") if tile.shape[:2] != (tile_px, tile_px) else tile


def _jpeg(quality: int) -> Encoder:
    def encode(tile: Rgb) -> bytes:
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(tile), quality, "RGB", "444"))

    return encode


def deflated(tile: NDArray[np.uint8]) -> bytes:
    """Differences to the left neighbour, modulo 256 (TIFF's predictor 2), deflated."""
    differences = tile.copy()
    differences[:, 1:] -= tile[:, :-1]
    return zlib.compress(differences.tobytes(), _DEFLATE_LEVEL)


def _tags(tile_px: int, quality: int | None) -> dict[str, Any]:
    """What all levels have in common, as arguments of tifffile; for JPEG see :func:`_call_it_jpeg`."""
    own: dict[str, Any] = {"predictor": True} if quality is None else {"extratags": [_BLACK_AND_WHITE]}
    return own | {
        "compression": "adobe_deflate", "photometric": "rgb", "planarconfig": "contig", "tile": (tile_px, tile_px),
        "dtype": np.uint8, "resolutionunit": "centimeter", "metadata": None, "software": SOFTWARE,
    }  # fmt: skip


def _of_level(sizes: Sequence[tuple[int, int]], number: int, mpp: float) -> dict[str, Any]:
    """Shape and resolution of one level, as arguments of tifffile."""
    width, height = sizes[number]
    per_cm = 1e4 / (mpp * 2**number)
    return {"shape": (height, width, 3), "resolution": (per_cm, per_cm)}


def _call_it_jpeg(path: Path) -> None:
    """Rename deflated RGB, as which the JPEG tiles were announced, to JPEG in YCbCr.

    tifffile would demand its optional codecs for the name JPEG alone, although the tiles come encoded; and would write
    YCbCrSubSampling, which must not be there. Bio-Formats (and so QuPath) takes 1, 1 for a sign that nobody has
    converted the tiles to RGB yet, and does it once more: pink slides, mean error 43 grey levels. Without the tag, as
    in its own files, every reader asks the JPEG stream.
    """
    with tifffile.TiffFile(path, mode="r+") as file:
        full = file.pages.first
        for page in (full, *(full.pages or ())):
            tags = page.aspage().tags
            tags["Compression"].overwrite(int(tifffile.COMPRESSION.JPEG))
            tags["PhotometricInterpretation"].overwrite(int(tifffile.PHOTOMETRIC.YCBCR))


def ome_xml(
    name: str, size: tuple[int, int], mpp: tuple[float, float], *, samples: int = 3, kind: str = "uint8",
    uuid: str = "", facts: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """OME-XML of one image of (columns, rows) px and `mpp` across and down [µm/px].

    Parameters
    ----------
    kind : OME's name of the sample type
    uuid : of the file, where files of one name may differ
    facts : annotations
    """
    said = "".join(f'<M K="{_xml(key)}">{_xml(value)}</M>' for key, value in sorted((facts or {}).items()))
    noted = ("", "") if not said else (
        '<AnnotationRef ID="Annotation:0"/>', "<StructuredAnnotations>"
        f'<MapAnnotation ID="Annotation:0"><Value>{said}</Value></MapAnnotation></StructuredAnnotations>',
    )  # fmt: skip
    sides = zip("XY", mpp, strict=True)
    physical = " ".join(f'PhysicalSize{a}="{float(side)!r}" PhysicalSize{a}Unit="µm"' for a, side in sides)
    bits, own = (f'SignificantBits="{8 if kind == "uint8" else 32}" ', f'UUID="urn:uuid:{uuid}" ' if uuid else "")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{_OME}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" {own}'
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd" Creator="{SOFTWARE}">'
        f'<Image ID="Image:0" Name="{_xml(name)}"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind}" {bits}'
        f'Interleaved="true" BigEndian="false" SizeX="{size[0]}" SizeY="{size[1]}" SizeC="{samples}" '
        f'SizeZ="1" SizeT="1" {physical}><Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/>'
        f'<TiffData IFD="0" PlaneCount="1"/></Pixels>{noted[0]}</Image>{noted[1]}</OME>'
    )


def _xml(text: str) -> str:
    return escaped(xml_text(text))
