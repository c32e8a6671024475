"""The fast path: levels of tiled JPEG, read tile by tile without OpenSlide.

Compressed tiles are fetched by their index, joined with the JPEG tables of their directory and decoded by
libjpeg-turbo straight into RGB (`slides.decoding.jpeg_stream`), each native tile once per
:class:`DecodedBand`. Nothing is guessed: a level is served only if exactly one directory of the file has its size and
holds 8-bit RGB or YCbCr as JPEG; :attr:`JpegLevels.why_not` says why others are left to OpenSlide.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding import tiff_index
from deeplrhe_utils.slides.decoding.jpeg_stream import decode_tile, stream_prefix
from deeplrhe_utils.slides.decoding.sampling import Box, Rgb

VENDORS: Final = ("aperio", "generic-tiff")
CACHE_BYTES: Final = 128_000_000
"""Decoded tiles kept for neighbours, at most; a row of native tiles of a very wide slide fits."""
MAX_TILE_BYTES: Final = 64_000_000


@dataclass(frozen=True)
class _Level:
    """A level that the fast path serves: its directory, what goes before each tile's stream, and the open file."""

    directory: tiff_index.TiledDirectory
    prefix: bytes
    descriptor: int

    def columns(self, box: Box) -> range:
        """Native tiles across that the box touches."""
        return range(box.left // self.directory.tile_width, -(-(box.left + box.width) // self.directory.tile_width))

    def rows(self, box: Box) -> range:
        """Native tiles down that the box touches."""
        return range(box.top // self.directory.tile_height, -(-(box.top + box.height) // self.directory.tile_height))


Key = tuple[int, int, int, int]  # level, scale, column, row
_Stored = tuple[tiff_index.TiledDirectory, int]  # and the open file that holds it


class JpegLevels:
    """Decoder of the JPEG levels of one slide; owns a file descriptor for each file.

    Parameters
    ----------
    paths : the slide's file; of a DICOM series that is TIFF as well, all that hold a level
    level_sizes : sequence of (width, height); sizes of OpenSlide's levels [px]
    missing : ``missing(box)`` gives the pixels of a tile that is not stored (sparse files), as OpenSlide shows them

    Attributes
    ----------
    levels : level number → :class:`_Level`, for the levels that are served
    why_not : why a level is not served, empty when all are

    Raises TiffIndexError, OSError: the file's index cannot be read.
    """

    def __init__(
        self, paths: Sequence[Path], level_sizes: Sequence[tuple[int, int]], missing: Callable[[Box], Rgb]
    ) -> None:  # fmt: skip
        self.name = paths[0].name
        self._missing = missing
        self._descriptors: list[int] = []
        found: list[_Stored] = []
        try:
            for path in paths:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
                self._descriptors.append(descriptor)
                found += [(one, descriptor) for one in tiff_index.read_tiled_directories(descriptor)]
            self.levels, self.why_not = _match(found, level_sizes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def serves(self, box: Box) -> bool:
        """Whether the box can be decoded at its scale."""
        level = self.levels.get(box.level)
        if level is None:
            return False
        return level.directory.tile_width % box.scale == 0 and level.directory.tile_height % box.scale == 0

    def read(self, box: Box, band: DecodedBand) -> Rgb:
        """Pixels of a box that :meth:`serves` allows, reduced by its scale.

        Returns ndarray, shape (box.height / scale, box.width / scale, 3), uint8.
        Raises SlideError: a native tile is damaged or is not what the index says; named by column and row.
        """
        level, s = self.levels[box.level], box.scale
        wide, high = level.directory.tile_width // s, level.directory.tile_height // s
        left, top = box.left // s, box.top // s
        out = np.empty((box.height // s, box.width // s, 3), np.uint8)
        for row in level.rows(box):
            y0, y1 = max(row * high, top), min((row + 1) * high, top + out.shape[0])
            for column in level.columns(box):
                x0, x1 = max(column * wide, left), min((column + 1) * wide, left + out.shape[1])
                tile = band.get((box.level, s, column, row), self._decode)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = tile[
                    y0 - row * high : y1 - row * high, x0 - column * wide : x1 - column * wide
                ]
        return out

    def keys(self, box: Box) -> list[Key]:
        """Native tiles that a box needs."""
        level = self.levels[box.level]
        return [(box.level, box.scale, column, row) for row in level.rows(box) for column in level.columns(box)]

    def _decode(self, key: Key) -> Rgb:
        number, scale, column, row = key
        level = self.levels[number]
        directory = level.directory
        index = row * directory.columns + column
        count = int(directory.counts[index])
        if count == 0:
            return self._not_stored(number, scale, column, row)
        data = self._fetch(level.descriptor, int(directory.offsets[index]), count, key)
        try:
            return decode_tile(directory, level.prefix, data, scale)
        except ValueError as error:
            raise SlideError(_where(self.name, key, str(error)), fix="Copy or download it again") from error

    def _fetch(self, descriptor: int, offset: int, count: int, key: Key) -> bytes:
        # The bound comes before the read: a size of 4 GB in a damaged index must not be allocated.
        data = tiff_index.read_at(descriptor, count, offset) if count <= MAX_TILE_BYTES else b""
        if len(data) != count:
            what = f"{len(data)} of {count} bytes could be read at byte {offset}"
            raise SlideError(_where(self.name, key, what), fix="Copy or download it again")
        return data

    def _not_stored(self, number: int, scale: int, column: int, row: int) -> Rgb:
        """A tile that the scanner left out, padded to the size of a stored one where it hangs over the edge."""
        d = self.levels[number].directory
        left, top = column * d.tile_width, row * d.tile_height
        width, height = (min(a, b) // scale * scale for a, b in
                         ((d.tile_width, d.width - left), (d.tile_height, d.height - top)))  # fmt: skip
        tile = np.full((d.tile_height // scale, d.tile_width // scale, 3), 255, np.uint8)
        if width and height:
            tile[: height // scale, : width // scale] = self._missing(Box(number, scale, left, top, width, height))
        return tile


class DecodedBand:
    """Decoded native tiles, kept for exactly as long as a planned read still needs them.

    Parameters
    ----------
    uses : every native tile that will be asked for, as often as it will be
    """

    def __init__(self, uses: Iterable[Key] = ()) -> None:
        self._left = Counter(uses)
        self._tiles: dict[Key, Rgb] = {}
        self._bytes = 0

    def get(self, key: Key, decode: Callable[[Key], Rgb]) -> Rgb:
        """The tile, decoded if it is not held."""
        tile = self._tiles.get(key)
        if tile is None:
            tile = decode(key)
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > CACHE_BYTES:  # the oldest goes, and is decoded again if it is still needed
                self._drop(next(iter(self._tiles)))
        return tile

    def finish(self, uses: Iterable[Key]) -> None:
        """Count planned uses as done, whether they succeeded or not, and forget what nobody needs any more."""
        for key in uses:
            self._left[key] -= 1
            if self._left[key] <= 0:
                del self._left[key]
                if key in self._tiles:
                    self._drop(key)

    def _drop(self, key: Key) -> None:
        self._bytes -= self._tiles.pop(key).nbytes


def _match(stored: list[_Stored], level_sizes: Sequence[tuple[int, int]]) -> tuple[dict[int, _Level], str]:
    """The directory of each of OpenSlide's levels, found by its size, and why some have none."""
    levels, reasons, sparse = {}, [], False
    for number, size in enumerate(level_sizes):
        held = [(d, file) for d, file in stored if (d.width, d.height) == tuple(size)]
        same = [d for d, _ in held]
        # What covers a missing tile in a coarser level is rubbish in known files: OpenSlide draws it anew.
        reason = "tiles are missing in a finer level" if sparse else _unusual(same)
        sparse = sparse or any(not d.counts.all() for d in same)
        if not reason:
            try:
                levels[number] = _Level(same[0], stream_prefix(same[0]), held[0][1])
            except ValueError:
                reason = "damaged JPEG tables"
        if reason:
            reasons.append(reason)
    return levels, "; ".join(dict.fromkeys(reasons))


def _unusual(same: list[tiff_index.TiledDirectory]) -> str:
    """Why a level's directory is left to OpenSlide."""
    if len(same) != 1:
        return f"{len(same)} tiled directories of a level's size"
    one = same[0]
    if one.compression != tiff_index.JPEG:
        return f"compression {one.compression}"
    if not one.eight_bit_rgb or one.photometric not in (tiff_index.PHOTOMETRIC_RGB, tiff_index.PHOTOMETRIC_YCBCR):
        return "pixels that are not 8-bit RGB or YCbCr"
    return ""


def _where(name: str, key: Key, what: str) -> str:
    level, _, column, row = key
    return f"Slide {name} cannot be decoded: level {level}, native tile at column {column}, row {row}: {what}"
