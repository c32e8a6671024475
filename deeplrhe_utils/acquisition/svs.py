"""A small, streaming, byte-deterministic writer of Aperio-style SVS files (pyramidal tiled JPEG TIFF)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeplrhe_utils.core.errors import ParameterError, SlideError
from deeplrhe_utils.core.files import atomic_path

TILE_SIZE_PX: Final = 256
HEADER_BYTES: Final = 4096  # header and description lie within these first bytes
_CLASSIC_LIMIT: Final = 2**32
_LONGEST_TEXT: Final = HEADER_BYTES - 64
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
    Raises ParameterError: level 0 is not inside the scanned area; a field is without key, or told twice, or holds a
    ``|``; the text is not ASCII or too long.
    """
    x, y, all_w, all_h = scanned or (0, 0, width_px, height_px)
    if x < 0 or y < 0 or x + width_px > all_w or y + height_px > all_h:
        raise ParameterError(
            "Level 0 must lie inside the scanned area", got=f"{width_px}x{height_px} px and scanned={scanned}"
        )
    told: list[tuple[str, str | float]] = []
    told += [("AppMag", f"{power:g}")] if power is not None else []
    told += [("MPP", f"{mpp:.6g}")] if mpp is not None else []
    told += [("OriginalWidth", all_w), ("OriginalHeight", all_h)] if scanned else []
    parts = [f"{key} = {value}" for key, value in [*told, *(fields or {}).items()]]
    parts += note.split("|") if note else []
    keys = [part.partition("=")[0].strip() for part in parts]
    wrong = [p for p, k in zip(parts, keys, strict=True) if not k or "=" not in p or "|" in p or keys.count(k) > 1]
    if wrong:
        raise ParameterError(
            "Readers would misread the fields of a slide description",
            got=wrong,
            expected="key = value, each key once, no | inside",
        )
    size = f"{all_w}x{all_h} [{x},{y} {width_px}x{height_px}] ({TILE_SIZE_PX}x{TILE_SIZE_PX})"
    text = "|".join([f"{_LIBRARY}\r\n{size} JPEG/RGB Q={quality}", *parts])
    _encoded(text)
    return text


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
    description : see :func:`aperio_description`; stored in the first :data:`HEADER_BYTES` bytes
    mpp : level-0 resolution [µm/px] for the TIFF resolution tags; absent tags when None
    associated : mapping of str to ndarray, shape (height, width, 3), uint8, optional RGB images ``thumbnail``,
        ``label`` (stored without loss) and ``macro``. Readers take the second directory for the thumbnail: OpenSlide if
        it is not tiled, tifffile (and so tiffslide) in any case. A slide that tiffslide is to read therefore needs a
        thumbnail.
    big : BigTIFF, for files beyond 4 GB

    Raises ParameterError: a level is empty or not smaller than the one before it, the description is not ASCII or too
    long, the resolution is no number that TIFF can hold, or an associated image has another name or shape. SlideError:
    a tile is missing, told twice or outside its level, or the file would pass the 4 GB of classic TIFF.
    """

    def __init__(
        self,
        path: Path | str,
        level_sizes: Sequence[tuple[int, int]],
        description: str,
        *,
        mpp: float | None = None,
        associated: Mapping[str, NDArray[np.uint8]] | None = None,
        big: bool = False,
    ) -> None:
        self.path = Path(path)
        self._sizes = [(int(width), int(height)) for width, height in level_sizes]
        self._mpp, self._images, self._big = mpp, dict(associated or {}), big
        self._description, self._text = description, _encoded(description)
        _check_sizes(self._sizes)
        _check_images(self._images, len(self._sizes))
        if mpp is not None and not 0.01 <= mpp <= 1000:
            raise ParameterError("The resolution of a slide is out of range", got=mpp, expected="0.01 to 1000 µm/px")
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

        Raises SlideError: the place is outside the slide or taken, the bytes are no JPEG stream, or the file would pass
        the 4 GB of classic TIFF.
        """
        where = f"{self.path.name}, level {level}, column {column}, row {row}"
        columns, rows = tile_grid(*self._sizes[level]) if 0 <= level < len(self._sizes) else (0, 0)
        if not (0 <= column < columns and 0 <= row < rows):
            grids = [tile_grid(*size) for size in self._sizes]
            raise SlideError(f"There is no such tile: {where}", expected=f"columns and rows of the levels: {grids}")
        if self._offsets[level][row, column]:
            raise SlideError(f"A tile was put twice: {where}")
        if not jpeg.startswith(b"\xff\xd8"):
            raise SlideError(f"A tile is not a JPEG stream: {where}", got=jpeg[:8])
        self._offsets[level][row, column] = self._append(jpeg)
        self._counts[level][row, column] = len(jpeg)

    def add_image(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Add or replace an associated image, as in `associated`; a picture of the slide is known only at its end."""
        _check_images({**self._images, name: pixels}, len(self._sizes))
        self._images[name] = pixels

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
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


def _encoded(text: str) -> bytes:
    """A description as TIFF holds it, checked to be ASCII and to fit behind the header."""
    odd = sorted({c for c in text if not (" " <= c <= "~" or c in "\r\n")})
    if odd:
        raise ParameterError("A slide description must be ASCII", got="".join(odd), fix="Leave these characters out")
    if len(text) > _LONGEST_TEXT:
        raise ParameterError(
            "A slide description is too long", got=f"{len(text):,} characters", expected=f"at most {_LONGEST_TEXT:,}"
        )
    return text.encode("ascii") + b"\0"


def _check_sizes(sizes: list[tuple[int, int]]) -> None:
    shrinking = all(b[0] <= a[0] and b[1] <= a[1] and a != b for a, b in pairwise(sizes))
    if not sizes or min(min(size) for size in sizes) < 1 or not shrinking:
        raise ParameterError(
            "The levels of a slide must become smaller",
            got=sizes,
            expected="one or more (width, height), largest first",
        )


def _check_images(images: dict[str, NDArray[np.uint8]], n_levels: int) -> None:
    if unknown := sorted(set(images) - set(_SUBFILES)):
        raise ParameterError("A slide has no such associated image", got=unknown, expected=", ".join(_SUBFILES))
    for name, pixels in images.items():
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            got = f"{pixels.dtype}, shape {pixels.shape}"
            raise ParameterError(f"The {name} of a slide must be RGB", got=got, expected="uint8, (height, width, 3)")
    if n_levels == 1 and images and "thumbnail" not in images:
        raise ParameterError(
            "A slide of one level with associated images needs a thumbnail",
            got=sorted(images),
            fix="Add one: OpenSlide takes the second directory for it",
        )
