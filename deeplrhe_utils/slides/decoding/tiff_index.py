"""Where the compressed tiles of a TIFF lie: a reader of tile indexes that trusts nothing it reads.

Only what the fast path needs is parsed: the tiled directories of classic and BigTIFF files, either byte
order. Every offset and count is held against the size of the file before anything is allocated, cycles of
directories are refused, and nothing is memory-mapped (a file that shrinks would kill the process).

Source: TIFF 6.0 (Adobe 1992), TIFF Technical Note 2 (JPEG in TIFF), the BigTIFF design (libtiff).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DIRECTORIES: Final = 512
MAX_TAGS: Final = 4096
MAX_TILES: Final = 20_000_000
MAX_TILE_SIDE_PX: Final = 4096
MAX_JPEG_TABLES: Final = 1 << 20

JPEG: Final = 7
PHOTOMETRIC_RGB, PHOTOMETRIC_YCBCR = 2, 6

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _OFFSETS, _COUNTS, _TABLES = 277, 284, 322, 323, 324, 325, 347
_WANTED: Final = frozenset(
    {_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_LENGTH}
    | {_OFFSETS, _COUNTS, _TABLES}
)
_NUMPY: Final = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}


class TiffIndexError(ValueError):
    """The file is no TIFF, or its index contradicts itself or the size of the file."""


@dataclass(frozen=True)
class TiledDirectory:
    """One tiled directory of a TIFF.

    Attributes
    ----------
    width, height : size of the image [px]
    tile_width, tile_height : size of a tile [px]
    compression, photometric : TIFF codes
    eight_bit_rgb : three samples of eight bits, stored together
    offsets, counts : ndarray of uint64, shape (tiles down · tiles across,); first byte and number of bytes of each
        tile, row by row; a count of 0 is a tile that is not stored
    jpeg_tables : abbreviated JPEG stream with the quantization and Huffman tables; empty where tiles carry their own
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    compression: int
    photometric: int
    eight_bit_rgb: bool
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    jpeg_tables: bytes

    @property
    def columns(self) -> int:
        """Tiles across."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Tiles down."""
        return -(-self.height // self.tile_height)


class PictureLayout(NamedTuple):
    """What a directory of a TIFF says of its picture: size [px], TIFF codes of orientation and compression."""

    width: int
    height: int
    orientation: int
    compression: int


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes of an open file from `offset` on, whatever its position."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows; a descriptor is never shared between threads here
    return os.read(descriptor, length)


def read_tiled_directories(descriptor: int) -> list[TiledDirectory]:
    """Read the tiled directories of an open TIFF in file order.

    Parameters
    ----------
    descriptor : file descriptor open for reading; its position is neither used nor changed

    Raises TiffIndexError: no TIFF, or an index that cannot be true. OSError: the file cannot be read.
    """
    return _Reader(descriptor).directories()


def read_layouts(descriptor: int) -> list[PictureLayout]:
    """Size, orientation and compression of every picture of an open TIFF in file order, tiled or not.

    Parameters and errors are those of :func:`read_tiled_directories`.
    """
    return _Reader(descriptor).layouts()


class _Reader:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        head = read_at(descriptor, 16, 0)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 8 else 0
        if version not in (42, 43) or (version == 43 and len(head) < 16):
            raise TiffIndexError("no TIFF header")
        self.order: str = order or "<"
        self.big = version == 43
        self.first = self._unpack("Q", head[8:16]) if self.big else self._unpack("I", head[4:8])

    def _unpack(self, code: str, data: bytes) -> int:
        return int(struct.unpack(f"{self.order}{code}", data)[0])

    def _bytes(self, offset: int, length: int, what: str) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TiffIndexError(f"{what} would lie at bytes {offset} to {offset + length} of {self.size}")
        data = read_at(self.descriptor, length, offset)
        if len(data) != length:
            raise TiffIndexError(f"{what} ends early: {len(data)} of {length} bytes")
        return data

    def directories(self) -> list[TiledDirectory]:
        return [self._tiled(tags) for tags in self._chain() if _TILE_WIDTH in tags and _OFFSETS in tags]

    def layouts(self) -> list[PictureLayout]:
        defaults = {_WIDTH: 0, _LENGTH: 0, _ORIENTATION: 1, _COMPRESSION: 1}
        return [PictureLayout(*(self._number(tags, tag, d) for tag, d in defaults.items())) for tags in self._chain()]

    def _chain(self) -> Iterator[dict[int, bytes]]:
        seen, offset = set(), self.first
        while offset:
            if offset in seen:
                raise TiffIndexError(f"the directory at byte {offset} follows itself")
            seen.add(offset)
            if len(seen) > MAX_DIRECTORIES:
                raise TiffIndexError(f"more than {MAX_DIRECTORIES} directories")
            tags, offset = self._directory(offset)
            yield tags

    def _directory(self, offset: int) -> tuple[dict[int, bytes], int]:
        """Raw entries of the wanted tags, and where the next directory begins."""
        head, entry, tail = (8, 20, 8) if self.big else (2, 12, 4)
        count = self._unpack("Q" if self.big else "H", self._bytes(offset, head, "a directory"))
        if count > MAX_TAGS:
            raise TiffIndexError(f"a directory claims {count} tags")
        body = self._bytes(offset + head, count * entry + tail, "a directory")
        tags = {}
        for i in range(count):
            raw = body[i * entry : (i + 1) * entry]
            if (tag := self._unpack("H", raw[:2])) in _WANTED:
                tags[tag] = raw
        return tags, self._unpack("Q" if self.big else "I", body[count * entry :])

    def _values(self, tags: dict[int, bytes], tag: int, limit: int) -> NDArray[np.uint64]:
        """Values of one tag, at most `limit` of them; empty where it is absent."""
        raw = tags.get(tag)
        if raw is None:
            return np.empty(0, np.uint64)
        kind = self._unpack("H", raw[2:4])
        count = self._unpack("Q" if self.big else "I", raw[4:12] if self.big else raw[4:8])
        if kind not in _NUMPY or count > limit:
            raise TiffIndexError(f"tag {tag} claims {count} values of type {kind}, at most {limit} are possible")
        dtype = np.dtype(self.order + _NUMPY[kind])
        inline = raw[12:] if self.big else raw[8:]
        length = count * dtype.itemsize
        if length > len(inline):
            inline = self._bytes(self._unpack("Q" if self.big else "I", inline), length, f"tag {tag}")
        return np.frombuffer(inline[:length], dtype).astype(np.uint64)

    def _number(self, tags: dict[int, bytes], tag: int, default: int = 0) -> int:
        values = self._values(tags, tag, 16)
        return int(values[0]) if len(values) else default

    def _tiled(self, tags: dict[int, bytes]) -> TiledDirectory:
        width, height = self._number(tags, _WIDTH), self._number(tags, _LENGTH)
        tile_width, tile_height = self._number(tags, _TILE_WIDTH), self._number(tags, _TILE_LENGTH)
        if min(width, height, tile_width, tile_height) < 1 or max(tile_width, tile_height) > MAX_TILE_SIDE_PX:
            raise TiffIndexError(f"{width} × {height} px in tiles of {tile_width} × {tile_height} px")
        samples, planar = self._number(tags, _SAMPLES, 1), self._number(tags, _PLANAR, 1)
        bits = self._values(tags, _BITS, 16)
        expected = -(-width // tile_width) * -(-height // tile_height) * (samples if planar == 2 else 1)
        if not 1 <= expected <= MAX_TILES:
            raise TiffIndexError(f"{expected} tiles")
        offsets, counts = (self._values(tags, tag, expected) for tag in (_OFFSETS, _COUNTS))
        if not len(offsets) == len(counts) == expected:
            raise TiffIndexError(f"{len(offsets)} offsets and {len(counts)} sizes for {expected} tiles")
        tables = self._values(tags, _TABLES, MAX_JPEG_TABLES).astype(np.uint8).tobytes()
        return TiledDirectory(
            width, height, tile_width, tile_height,
            self._number(tags, _COMPRESSION, 1), self._number(tags, _PHOTOMETRIC, -1),
            samples == 3 and planar == 1 and len(bits) == 3 and bool((bits == 8).all()),
            offsets, counts, tables,
        )  # fmt: skip
