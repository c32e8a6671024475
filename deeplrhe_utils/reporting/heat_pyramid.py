"""Pyramids written while an image streams by: levels of half the size each, and Deep Zoom of an overlay.

Pixel (row, column) of the full image is map pixel (row, column) of a :class:`~deeplrhe_utils.reporting.heatmaps.Frame`.
Level k has sides ⌈side / 2^k⌉, and each of its pixels covers 2^k × 2^k of the full image's.

Source: Deep Zoom as described by Microsoft (schema 2008). The same calls give the same bytes.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError, RunError, SlideError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.reporting.heatmaps import Frame

Pixels = NDArray[Any]
TILE_PX: Final = 256
MOST_PIXELS: Final = 100_000_000
"""Largest picture that :func:`read_deep_zoom` holds in memory (300 MB)."""
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FACTS: Final = re.compile(r'(TileSize|Overlap|Format|Width|Height)="(\w+)"')
_TILE_FILE: Final = re.compile(r"\d+/\d+_\d+\.(jpg|png)")


def xml_text(text: str) -> str:
    """Text without the characters that XML forbids; what is left still needs escaping."""
    return _NOT_XML.sub("\ufffd", text)


def write_deep_zoom(
    path: Path, strips: Iterable[NDArray[np.uint8]], frame: Frame, *, encoding: str = "jpeg", quality: int = 90
) -> Path:
    """Write an RGB overlay as Deep Zoom: ``NAME.dzi`` and the folder ``NAME_files`` beside it.

    Parameters
    ----------
    path : target, ``*.dzi``; a folder of that name is replaced when the new one is complete
    strips : uint8 (rows, columns, 3), from the top
    encoding : ``jpeg`` (colour at full resolution) or ``png``
    quality : of JPEG, 1 to 100

    Returns Path: `path`.
    """
    if encoding not in ("jpeg", "png") or not 1 <= quality <= 100:
        raise ParameterError("Deep Zoom cannot be written so", got=f"{encoding}, quality {quality}",
                             expected="jpeg | png, quality 1 to 100")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes, ending = level_sizes(frame.columns, frame.rows), "jpg" if encoding == "jpeg" else "png"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".dzi-") as work:
        folders = [Path(work) / "tiles" / str(len(sizes) - 1 - k) for k in range(len(sizes))]
        sinks = [_picture_sink(folder, ending, quality) for folder in folders]
        levels = [Level(size[0], np.uint8, (3,), sink) for size, sink in zip(sizes, sinks, strict=True)]
        stream(strips, frame, levels)
        _replace(Path(work) / "tiles", path)
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
        f'TileSize="{TILE_PX}" Overlap="0" Format="{ending}"><Size Width="{frame.columns}" Height="{frame.rows}"/>'
        "</Image>\n"
    )
    return write_text(path, text)


def deep_zoom_facts(path: Path) -> dict[str, str]:
    """TileSize, Overlap, Format, Width and Height of a Deep Zoom file, of any writer.

    Raises InputError: it says something else, or cannot be read.
    """
    try:
        found = dict(_FACTS.findall(path.read_text(encoding="utf-8")[:2000]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    numbers = [found.get(name, "") for name in ("TileSize", "Overlap", "Width", "Height")]
    whole = all(re.fullmatch(r"\d{1,7}", number) for number in numbers)
    if not whole or found.get("Format") not in ("jpg", "jpeg", "png"):
        raise InputError(f"{path} describes no Deep Zoom picture", fix="Write it again with notebook 07")
    return found


def read_deep_zoom(path: Path) -> NDArray[np.uint8]:
    """The full picture of a file that :func:`write_deep_zoom` wrote, (height, width, 3) uint8 RGB.

    Raises InputError: the picture is damaged, of another writer, or larger than :data:`MOST_PIXELS`.
    """
    facts = deep_zoom_facts(path)
    width, height = int(facts["Width"]), int(facts["Height"])
    if facts["TileSize"] != str(TILE_PX) or facts["Overlap"] != "0" or not 0 < width * height <= MOST_PIXELS:
        got = f"{width} × {height} px, tiles of {facts['TileSize']} px"
        raise InputError(f"{path} is not read into memory", got=got,
                         expected=f"at most {MOST_PIXELS} px, tiles of {TILE_PX} px without overlap")  # fmt: skip
    folder = path.with_name(f"{path.stem}_files") / str(len(level_sizes(width, height)) - 1)
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            tile = cv2.imread(str(folder / f"{left // TILE_PX}_{top // TILE_PX}.{facts['Format']}"))
            place = picture[top : top + TILE_PX, left : left + TILE_PX]
            if tile is None or tile.shape != place.shape:
                raise InputError(f"A tile of {path} is missing or damaged", got=f"column {left // TILE_PX}, row "
                                 f"{top // TILE_PX}", fix="Write it again with notebook 07")  # fmt: skip
            place[:] = cv2.cvtColor(tile, cv2.COLOR_BGR2RGB)
    return picture


def _replace(tiles: Path, path: Path) -> None:
    """Move finished tiles beside `path`, where nothing or an earlier Deep Zoom image may stand."""
    target = path.with_name(f"{path.stem}_files")
    if target.exists():
        files = [f.relative_to(target).as_posix() for f in target.rglob("*") if not f.is_dir()]
        if strange := [name for name in files if not _TILE_FILE.fullmatch(name)]:
            raise InputError(f"{target} is not a Deep Zoom folder, so it is not replaced", got=strange[0],
                             fix="Move it away, or write elsewhere")  # fmt: skip
        shutil.rmtree(target)
    tiles.replace(target)


def level_sizes(columns: int, rows: int) -> list[tuple[int, int]]:
    """(width, height) [px] of the levels of a Deep Zoom image, the full one first and a single pixel last."""
    count = math.ceil(math.log2(max(columns, rows))) + 1 if max(columns, rows) > 1 else 1
    return [(-(-columns >> k), -(-rows >> k)) for k in range(count)]


def halved(pixels: Pixels) -> Pixels:
    """Average 2 × 2 pixels, of scores (NaN is left out) or of uint8 colours (rounded); an odd last one stands alone."""
    odd = [(0, n % 2) for n in pixels.shape[:2]] + [(0, 0)] * (pixels.ndim - 2)
    whole = np.pad(pixels, odd, mode="edge")
    four = np.stack([whole[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    if pixels.dtype == np.uint8:
        return np.asarray((four.sum(axis=0, dtype=np.uint16) + 2) >> 2, np.uint8)
    known = ~np.isnan(four)
    number = known.sum(axis=0)
    total = np.where(known, four, 0).sum(axis=0, dtype=np.float64)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


class Level:
    """One level: collects rows until a row of tiles is full, hands that on, and its half to the level below."""

    def __init__(self, columns: int, dtype: Any, depth: tuple[int, ...], sink: Callable[[Pixels], None]) -> None:
        self._rows = np.empty((TILE_PX, columns, *depth), dtype)
        self._filled, self._sink = 0, sink
        self.below: Level | None = None

    def fits(self, rows: Pixels) -> bool:
        """Whether rows have the width, depth and type of this level."""
        return rows.shape[1:] == self._rows.shape[1:] and rows.dtype == self._rows.dtype

    def take(self, rows: Pixels) -> None:
        """Collect rows, of any number."""
        while len(rows):
            room = rows[: TILE_PX - self._filled]
            self._rows[self._filled : self._filled + len(room)] = room
            self._filled += len(room)
            rows = rows[len(room) :]
            if self._filled == TILE_PX:
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
            self.below.take(halved(band))


def stream(strips: Iterable[Pixels], frame: Frame, levels: list[Level]) -> None:
    """Feed all rows of an image to its first level, and by it to the others.

    Raises SlideError: a strip has another shape or type, or the strips do not add up to the frame.
    """
    for level, below in pairwise(levels):
        level.below = below
    top = 0
    for strip in strips:
        if not levels[0].fits(strip) or top + len(strip) > frame.rows:
            raise SlideError(f"A band of a map does not fit, from row {top} on", got=f"{strip.dtype} {strip.shape}",
                             expected=f"at most {frame.rows - top} rows of {frame.columns} px")  # fmt: skip
        levels[0].take(strip)
        top += len(strip)
    if top != frame.rows:
        raise SlideError("The bands of a map end too early", got=f"{top} rows", expected=f"{frame.rows} rows")
    levels[0].finish()


def _picture_sink(folder: Path, ending: str, quality: int) -> Callable[[Pixels], None]:
    """Writes each row of tiles of a Deep Zoom level as ``column_row.ending``; tiles at the edge are smaller."""
    folder.mkdir(parents=True)
    number = 0

    def take(band: Pixels) -> None:
        nonlocal number
        for column, left in enumerate(range(0, band.shape[1], TILE_PX)):
            tile = np.ascontiguousarray(band[:, left : left + TILE_PX])
            (folder / f"{column}_{number}.{ending}").write_bytes(_picture(tile, ending, quality))
        number += 1

    return take


def _picture(tile: NDArray[np.uint8], ending: str, quality: int) -> bytes:
    if ending == "jpg":
        return bytes(simplejpeg.encode_jpeg(tile, quality, "RGB", "444"))
    done, data = cv2.imencode(".png", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))
    if not done:
        raise RunError("A tile could not be encoded as PNG", got=tile.shape)
    return data.tobytes()
