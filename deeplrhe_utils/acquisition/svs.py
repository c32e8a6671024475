"""A small, byte-deterministic writer of Aperio-style SVS files (pyramidal tiled JPEG TIFF)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.core.files import atomic_path

TILE_SIZE_PX: Final = 256
HEADER_BYTES: Final = 4096  # header and descriptions lie within these first bytes
_CLASSIC_LIMIT: Final = 2**32 - 2**20
_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_FORMAT: Final = {_SHORT: "H", _LONG: "I", _RATIONAL: "II", _ASCII: "s"}


@dataclass(frozen=True)
class SvsLevel:
    """One pyramid level: its size [px] and its JPEG tiles in row-major order.

    Tiles are complete JPEG streams (YCbCr, 4:2:0) of 256 × 256 px, edge tiles padded. The iterable
    is consumed when the level is written, so a level may be made while the one before it is written.
    """

    width_px: int
    height_px: int
    tiles: Iterable[bytes]


def aperio_description(
    width_px: int, height_px: int, *, quality: int, mpp: float | None, power: float | None, note: str = ""
) -> str:
    """The ImageDescription by which readers recognise an Aperio slide.

    Parameters
    ----------
    width_px, height_px : int
        Level-0 size [px].
    quality : int
        JPEG quality, 1–100.
    mpp : float or None
        Level-0 resolution [µm/px]; left out when None.
    power : float or None
        Objective power; left out when None.
    note : str
        Extra ``key = value`` fields, joined by ``|``.

    Returns
    -------
    str
        ASCII text beginning with ``Aperio Image Library``; no date, so that bytes repeat.
    """
    size = f"{width_px}x{height_px} [0,0 {width_px}x{height_px}] ({TILE_SIZE_PX}x{TILE_SIZE_PX})"
    fields = [f"Aperio Image Library v12.0.0 (synthetic)\r\n{size} JPEG/RGB Q={quality}"]
    fields += [f"AppMag = {power:g}"] if power is not None else []
    fields += [f"MPP = {mpp:.6g}"] if mpp is not None else []
    fields += [note] if note else []
    return "|".join(fields)


def write_svs(path: Path, levels: Sequence[SvsLevel], description: str, mpp: float | None = None) -> Path:
    """Write a pyramidal tiled JPEG TIFF that OpenSlide opens as vendor ``aperio``.

    Parameters
    ----------
    path : Path
        Target; written atomically.
    levels : sequence of SvsLevel
        From full resolution down.
    description : str
        See :func:`aperio_description`; stored in the first :data:`HEADER_BYTES` bytes.
    mpp : float, optional
        Level-0 resolution [µm/px] for the TIFF resolution tags; absent tags when None.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    SlideError
        A level got the wrong number of tiles, or the file would pass the 4 GB of classic TIFF.
    """
    text = description.encode("ascii") + b"\0"
    if len(text) > HEADER_BYTES - 64:
        raise SlideError(f"The description of {path.name} is too long", got=len(text), expected="< 4,000 bytes")
    with atomic_path(path) as part, open(part, "wb") as stream:
        stream.write(b"II*\0" + struct.pack("<I", 0))
        stream.write(text + b"\0" * (len(text) % 2))
        stored = [_write_tiles(stream, level, path.name) for level in levels]
        link = 4
        for index, (level, (offsets, counts)) in enumerate(zip(levels, stored, strict=True)):
            level_mpp = None if mpp is None else mpp * levels[0].width_px / level.width_px
            entries = _entries(level, offsets, counts, len(text), index, level_mpp)
            link = _write_directory(stream, entries, link)
    return path


def _write_tiles(stream: BinaryIO, level: SvsLevel, name: str) -> tuple[list[int], list[int]]:
    offsets, counts = [], []
    for tile in level.tiles:
        offsets.append(stream.tell())
        counts.append(len(tile))
        stream.write(tile + b"\0" * (len(tile) % 2))
        if stream.tell() > _CLASSIC_LIMIT:
            raise SlideError(f"{name} passes the 4 GB of a classic TIFF", fix="Plan a smaller slide")
    across, down = -(-level.width_px // TILE_SIZE_PX), -(-level.height_px // TILE_SIZE_PX)
    if len(offsets) != across * down:
        raise SlideError(
            f"A level of {name} got the wrong number of tiles", got=len(offsets), expected=str(across * down)
        )
    return offsets, counts


def _entries(
    level: SvsLevel, offsets: list[int], counts: list[int], text_bytes: int, index: int, mpp: float | None
) -> list[tuple[int, int, list[int]]]:
    """TIFF fields (tag, type, values) of one level, sorted by tag as the format demands."""
    entries = [
        (254, _LONG, [0]),
        (256, _LONG, [level.width_px]),
        (257, _LONG, [level.height_px]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [7]),  # JPEG
        (262, _SHORT, [6]),  # YCbCr
        (270, _ASCII, [8, text_bytes]),  # the one description, right behind the header
        (277, _SHORT, [3]),
        (284, _SHORT, [1]),
        (322, _SHORT, [TILE_SIZE_PX]),
        (323, _SHORT, [TILE_SIZE_PX]),
        (324, _LONG, offsets),
        (325, _LONG, counts),
        (530, _SHORT, [2, 2]),
    ]
    if mpp is not None:
        per_cm = [round(1e4 / mpp * 1000), 1000]
        entries += [(282, _RATIONAL, per_cm), (283, _RATIONAL, per_cm), (296, _SHORT, [3])]
    if index:  # reduced-resolution image
        entries[0] = (254, _LONG, [1])
    return sorted(entries)


def _write_directory(stream: BinaryIO, entries: list[tuple[int, int, list[int]]], link: int) -> int:
    """Append one directory, point `link` at it and return the place of its own link."""
    records = [_record(stream, *entry) for entry in entries]
    start = stream.tell()
    stream.write(struct.pack("<H", len(records)) + b"".join(records) + struct.pack("<I", 0))
    end = stream.tell()
    stream.seek(link)
    stream.write(struct.pack("<I", start))
    stream.seek(end)
    return end - 4


def _record(stream: BinaryIO, tag: int, kind: int, values: list[int]) -> bytes:
    if kind == _ASCII:
        offset, count = values
        return struct.pack("<HHII", tag, kind, count, offset)
    code = _FORMAT[kind][0]
    data = struct.pack(f"<{len(values)}{code}", *values)
    count = len(values) // 2 if kind == _RATIONAL else len(values)
    if len(data) <= 4:
        return struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    offset = stream.tell()
    stream.write(data + b"\0" * (len(data) % 2))
    return struct.pack("<HHII", tag, kind, count, offset)
