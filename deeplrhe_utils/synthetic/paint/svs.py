"""A small, streaming, byte-deterministic writer of Aperio-style SVS files (pyramidal tiled JPEG TIFF)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.core.files import atomic_path

TILE_SIZE_PX: Final = 256
HEADER_BYTES: Final = 4096  # header and description lie within these first bytes
_CLASSIC_LIMIT: Final = 2**32
_LIBRARY: Final = "Aperio Image Library v12.0.0 (synthetic)"
_SUBFILES: Final = {"thumbnail": 0, "label": 1, "macro": 9}  # NewSubfileType; in the order of directories
_ASCII, _SHORT, _LONG, _RATIONAL, _LONG8 = 2, 3, 4, 5, 16
_DTYPES: Final = {_ASCII: "<u1", _SHORT: "<u2", _LONG: "<u4", _RATIONAL: "<u4", _LONG8: "<u8"}
_Fields = dict[int, tuple[int, ArrayLike]]  # tag → TIFF type and values


def tile_grid(width_px: int, height_px: int) -> tuple[int, int]:
    """Columns and rows of 256-px tiles that cover an image of this size [px]; edge tiles reach beyond it."""
    return -(-width_px // TILE_SIZE_PX), -(-height_px // TILE_SIZE_PX)


def aperio_description(
    width_px: int,
    height_px: int,
    *,
    quality: int,
    mpp: float | None = None,
    power: float | None = None,
    scanned: tuple[int, int, int, int] | None = None,
    fields: Mapping[str, str | float] | None = None,
    note: str = "",
) -> str:
    """The ImageDescription by which readers recognise an Aperio slide.

    Parameters
    ----------
    width_px, height_px : level-0 size [px]
    quality : JPEG quality, 1–100
    mpp : level-0 resolution [µm/px]; left out when None
    power : objective power; left out when None
    scanned : (x, y, width, height); place of level 0 in the scanned area, and that area's size [level-0 px]; adds the
        fields ``OriginalWidth`` and ``OriginalHeight``. Without it, level 0 is the whole scanned area.
    fields : more fields, written in order as ``key = value``; OpenSlide tells them as ``aperio.key``
    note : last fields, as text: ``key = value``, joined by ``|``

    Returns ASCII text beginning with ``Aperio Image Library``; no date, so that bytes repeat.
    """
    x, y, all_w, all_h = scanned or (0, 0, width_px, height_px)
    told: list[tuple[str, str | float]] = []
    told += [("AppMag", f"{power:g}")] if power is not None else []
    told += [("MPP", f"{mpp:.6g}")] if mpp is not None else []
    told += [("OriginalWidth", all_w), ("OriginalHeight", all_h)] if scanned else []
    parts = [f"{key} = {value}" for key, value in [*told, *(fields or {}).items()]]
    parts += note.split("|") if note else []
    size = f"{all_w}x{all_h} [{x},{y} {width_px}x{height_px}] ({TILE_SIZE_PX}x{TILE_SIZE_PX})"
    return "|".join([f"{_LIBRARY}\r\n{size} JPEG/RGB Q={quality}", *parts])


class SvsWriter:
    """Write a slide that OpenSlide opens as vendor ``aperio``, tile by tile; a context manager.

    Tiles go to the disk as they come; what stays in memory is 12 bytes for each tile. Leaving the block
    writes the associated images and the directories, in the order of Aperio's own files (level 0, thumbnail,
    lower levels, label, macro), then renames the file onto `path`. An exception leaves nothing behind. The
    same calls give the same bytes; tiles put in another order give the same slide in other bytes.

    Parameters
    ----------
    path : target; written atomically
    level_sizes : sequence of (width_px, height_px); from full resolution down
    description : see :func:`aperio_description`; ASCII, stored in the first :data:`HEADER_BYTES` bytes
    mpp : level-0 resolution [µm/px] for the TIFF resolution tags; absent tags when None
    big : BigTIFF, for files beyond 4 GB

    Raises SlideError: a tile is missing, told twice or outside its level, or the file would pass the 4 GB of classic
    TIFF.
    """

    def __init__(
        self,
        path: Path | str,
        level_sizes: Sequence[tuple[int, int]],
        description: str,
        *,
        mpp: float | None = None,
        big: bool = False,
    ) -> None:
        self.path = Path(path)
        self._sizes = [(int(width), int(height)) for width, height in level_sizes]
        self._mpp, self._big = mpp, big
        self._images: dict[str, NDArray[np.uint8]] = {}
        self._description, self._text = description, description.encode("ascii") + b"\0"
        grids = [tile_grid(*size) for size in self._sizes]
        self._offsets = [np.zeros((rows, columns), np.uint64) for columns, rows in grids]  # 0: not put yet
        self._counts = [np.zeros((rows, columns), np.uint32) for columns, rows in grids]
        self._link = "<Q" if big else "<I"  # how the file writes offsets and counts
        self._end = 0
        self._stream: BinaryIO
        self._open: ExitStack

    def __enter__(self) -> Self:
        header = b"II+\0\x08\0\0\0" if self._big else b"II*\0"
        with ExitStack() as stack:
            part = stack.enter_context(atomic_path(self.path))
            self._stream = stack.enter_context(open(part, "wb"))
            self._append(header + struct.pack(self._link, 0))
            self._places = {self._text: self._append(self._text)}  # stored once, told in several directories
            self._open = stack.pop_all()
        return self

    def put(self, level: int, column: int, row: int, jpeg: bytes) -> None:
        """Store one tile; tiles and levels may come in any order.

        Parameters
        ----------
        level, column, row : place of the tile; columns count from the left, rows from the top
        jpeg : a complete JPEG stream (YCbCr, 4:2:0) of 256 × 256 px, edge tiles padded

        Raises SlideError: the place is outside the slide or taken, or the file would pass the 4 GB of classic TIFF.
        """
        where = f"{self.path.name}, level {level}, column {column}, row {row}"
        columns, rows = tile_grid(*self._sizes[level]) if 0 <= level < len(self._sizes) else (0, 0)
        if not (0 <= column < columns and 0 <= row < rows):
            grids = [tile_grid(*size) for size in self._sizes]
            raise SlideError(f"There is no such tile: {where}", expected=f"columns and rows of the levels: {grids}")
        if self._offsets[level][row, column]:
            raise SlideError(f"A tile was put twice: {where}")
        self._offsets[level][row, column] = self._append(jpeg)
        self._counts[level][row, column] = len(jpeg)

    def add_image(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Add or replace an RGB image: ``thumbnail``, ``label`` (stored without loss) or ``macro``.

        Readers take the second directory for the thumbnail: OpenSlide if it is not tiled, tifffile (and so tiffslide)
        in any case. A slide that tiffslide is to read, and one of a single level with other images, needs a thumbnail.
        """
        self._images[name] = pixels

    def __exit__(self, *problem: Any) -> None:
        if problem[0] is not None:
            self._open.__exit__(*problem)
            return
        with self._open:
            self._check_complete()
            self._write_directories()

    def _check_complete(self) -> None:
        for level, offsets in enumerate(self._offsets):
            missing = np.argwhere(offsets == 0)
            if len(missing):
                row, column = missing[0]
                raise SlideError(
                    f"{self.path.name} lacks tiles on level {level}, the first at column {column}, row {row}",
                    got=f"{offsets.size - len(missing):,} tiles",
                    expected=f"{offsets.size:,}",
                )

    def _write_directories(self) -> None:
        """Write what is left: associated images, the values of all directories, the directories, the first link."""
        levels = [self._level_fields(level) for level in range(len(self._sizes))]
        images = {name: self._associated_fields(name) for name in _SUBFILES if name in self._images}
        thumbnail = [images.pop("thumbnail")] if "thumbnail" in images else []
        directories = [self._records(f) for f in [levels[0], *thumbnail, *levels[1:], *images.values()]]
        first = self._end
        for index, records in enumerate(directories):
            data = struct.pack("<Q" if self._big else "<H", len(records)) + b"".join(records)
            following = self._end + len(data) + struct.calcsize(self._link)
            self._append(data + struct.pack(self._link, following if index + 1 < len(directories) else 0))
        self._stream.seek(8 if self._big else 4)
        self._stream.write(struct.pack(self._link, first))

    def _level_fields(self, level: int) -> _Fields:
        # NewSubfileType is 0 on every level, as Aperio has it: tifffile ends the pyramid at a 1.
        fields = _image_fields(self._sizes[level], self._text, subfile=0, jpeg=True) | {
            322: (_SHORT, [TILE_SIZE_PX]),
            323: (_SHORT, [TILE_SIZE_PX]),
            324: (_LONG8 if self._big else _LONG, self._offsets[level]),
            325: (_LONG, self._counts[level]),
        }
        if self._mpp is not None:
            per_cm = [round(1e7 / self._mpp * self._sizes[level][0] / self._sizes[0][0]), 1000]
            fields |= {282: (_RATIONAL, per_cm), 283: (_RATIONAL, per_cm), 296: (_SHORT, [3])}
        return fields

    def _associated_fields(self, name: str) -> _Fields:
        """Store one associated image as a single strip: the label by deflate, the others as JPEG."""
        pixels = self._images[name]
        height, width = pixels.shape[:2]
        if name == "thumbnail":
            _, bar, rest = self._description.partition("|")
            text = "{}x{} -> {}x{} - {}{}".format(*self._sizes[0], width, height, bar, rest)
        else:
            text = f"{name} {width}x{height}"
        if jpeg := name != "label":
            bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        else:
            data = zlib.compress(np.ascontiguousarray(pixels).tobytes(), 9)
        stored = f"{_LIBRARY}\r\n{text}".encode("ascii") + b"\0"
        return _image_fields((width, height), stored, subfile=_SUBFILES[name], jpeg=jpeg) | {
            273: (_LONG8 if self._big else _LONG, [self._append(data)]),
            278: (_LONG, [height]),
            279: (_LONG, [len(data)]),
        }

    def _records(self, fields: _Fields) -> list[bytes]:
        """Entries of one directory, sorted by tag as the format demands; long values are stored on the way."""
        records, room = [], struct.calcsize(self._link)
        for tag, (kind, values) in sorted(fields.items()):
            array = np.asarray(values).astype(_DTYPES[kind])
            data = array.tobytes()
            count = array.size // 2 if kind == _RATIONAL else array.size
            if len(data) > room:
                place = self._places[data] if data in self._places else self._append(data)
                data = struct.pack(self._link, place)
            records.append(struct.pack("<HH", tag, kind) + struct.pack(self._link, count) + data.ljust(room, b"\0"))
        return records

    def _append(self, data: bytes) -> int:
        """Write at the end, padded to an even length; return the offset."""
        start, self._end = self._end, self._end + len(data) + len(data) % 2
        if not self._big and self._end > _CLASSIC_LIMIT:
            raise SlideError(f"{self.path.name} passes the 4 GB of a classic TIFF", fix="Pass big=True")
        self._stream.write(data + b"\0" * (len(data) % 2))
        return start


def _image_fields(size: tuple[int, int], text: bytes, *, subfile: int, jpeg: bool) -> _Fields:
    """TIFF fields that tiled and stripped RGB images have in common."""
    fields: _Fields = {
        254: (_LONG, [subfile]),
        256: (_LONG, [size[0]]),
        257: (_LONG, [size[1]]),
        258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [7 if jpeg else 8]),  # JPEG or deflate
        262: (_SHORT, [6 if jpeg else 2]),  # YCbCr or RGB
        270: (_ASCII, np.frombuffer(text, np.uint8)),
        277: (_SHORT, [3]),
        284: (_SHORT, [1]),
    }
    return fields | {530: (_SHORT, [2, 2])} if jpeg else fields
