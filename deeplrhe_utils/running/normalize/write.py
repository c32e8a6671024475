"""What ``deeplrhe normalize`` writes: tiles as PNG, or whole slides as OME-TIFF; complete under its name, or not there.

Whole slides stream by in bands. A band is normalized in pieces that see 32 px of their surroundings, which is as far as
a network looks: the pieces are those of the whole picture, and no seam can show.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import InputError, SlideError, StainError
from deeplrhe_utils.core.files import full_disk_told, path_text
from deeplrhe_utils.core.tables.foreign import read_foreign, write_sheet
from deeplrhe_utils.core.text import Item, on_one_line, told
from deeplrhe_utils.running.normalize.sources import (
    NormalizeOptions,
    Picture,
    PictureFolder,
    SlideFile,
    many_pages,
    read_picture,
)
from deeplrhe_utils.running.normalize.tissue import Examined, WholeFrame
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.files.ome_tiff import write_ome_tiff
from deeplrhe_utils.slides.quality.stains import foreign_tile
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.pixels import read_ahead
from deeplrhe_utils.stain.methods.normalize import Plan

_MARGIN_PX: Final = 32
"""Context on each side of a piece [px]; a multiple of 8, the coarsest grid of a network."""
BAND_PX: Final = 512
"""Height of a band, and width of a piece, about [px]."""
DEFAULT_QUALITY: Final = 90
EACH_TILE: Final = {"per": "tile"}
"""Record of a plan that measures every tile by itself (the profile "paper")."""
TILES_TABLE: Final = "tiles.csv"
_PALE: Final = 4  # a piece is pale when the means of its cells of so many px are
_GREYS: Final = 64  # of the brightest greys it is tried out from which on a map changes nothing
_NEVER: Final = 256
_PNG: Final = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # 6 takes longer for 2 %


class Written(NamedTuple):
    """How much was written, in words and tiles (None of a whole slide), and what should be known about it."""

    what: str
    n_tiles: int | None
    notes: list[str]


def write_normalized_tiles(source: SlideFile, examined: Examined, plan: Plan, folder: Path) -> Written:
    """Normalize the tiles of a slide into a folder of PNG files with a table ``tiles.csv``.

    Parameters
    ----------
    source, examined : the slide and its tiles
    folder : replaced as a whole

    Raises SlideError: no tile can be decoded, or the file was changed meanwhile. RunError: the disk is full.
    """
    rows: list[dict[str, Any]] = []
    with atomic_folder(folder) as part, source.open() as slide:
        found = slide.read_tiles(examined.squares, examined.side_px)
        read = read_ahead(lambda _: next(found), range(len(examined.squares)))

        def painted() -> Iterator[tuple[Path, Picture]]:
            for square, tile in zip(_told(source.name, examined.squares), read, strict=True):
                if not isinstance(tile, SlideError):
                    rows.append(_row(square, examined.mpp))
                    yield part / rows[-1]["file"], plan(tile)

        write_behind(_write_png, painted())
        slide.check_unchanged()
        lost = len(examined.squares) - len(rows)
        if lost and not rows:
            raise SlideError(f"No tile of slide {source.path.name} can be decoded", fix="Copy or download it again")
        write_normalized_table(part / TILES_TABLE, rows, ("file", "x_l0_px", "y_l0_px", "size_l0_px", "mpp"))
    notes = [f"{lost} of {len(examined.squares)} tiles cannot be decoded and are missing"] if lost else []
    return Written(f"{len(rows)} tiles", len(rows), notes)


def _told(name: str, parts: Sequence[Item]) -> Iterator[Item]:
    """The parts of a slide, with how far it is where they take long: the paper's network needs a second a tile."""
    return told(f"parts of {on_one_line(name)} written", parts)


def _row(square: Square, mpp: float) -> dict[str, Any]:
    x, y, size = square
    name = f"x{x:07d}_y{y:07d}.png"
    return {"file": name, "x_l0_px": x, "y_l0_px": y, "size_l0_px": f"{size:.10g}", "mpp": f"{mpp:.10g}"}


def write_pictures(source: PictureFolder, plan: Plan, folder: Path, stain_check: bool = True) -> Written:
    """Normalize every picture of a tile folder into a folder of PNG files; ``tiles.csv`` tells which is which.

    Pictures that are not H&E are left out, and counted.

    Raises InputError: a picture cannot be read or normalized; it is named. RunError: the disk is full.
    """
    foreign: list[str] = []
    rows = [{"file": source.target(file), "source": path_text(file.name)}
            for file in source.files]  # fmt: skip
    with atomic_folder(folder) as part:

        def painted() -> Iterator[tuple[Path, Picture]]:
            for row, picture in zip(_told(source.name, rows), read_ahead(read_picture, source.files), strict=True):
                if stain_check and foreign_tile(picture):
                    foreign.append(row["source"])
                    continue
                try:
                    yield part / row["file"], plan(picture)
                except StainError as error:
                    raise InputError(f"Tile {row['source']} of {source.name}: {error}") from error

        write_behind(_write_png, painted())
        kept = [row for row in rows if row["source"] not in foreign]
        write_normalized_table(part / TILES_TABLE, kept, ("file", "source"))
    pages = sum(map(many_pages, source.files))
    notes = [f"{pages} of {len(rows)} pictures hold several pages, of which the first is read"] if pages else []
    if foreign:
        notes.append(f"{len(foreign)} of {len(rows)} pictures are not H&E and left out, such as {foreign[0]}")
    return Written(f"{len(kept)} tiles", len(kept), notes)


def write_normalized_slide(
    source: SlideFile, examined: Examined, plan: Plan, path: Path, options: NormalizeOptions
) -> Written:
    """Normalize a whole slide into a pyramidal OME-TIFF; places without tissue are passed through.

    Raises SlideError: the slide cannot be opened, or was changed meanwhile. RunError: the disk is full.
    """
    frame = examined.frame
    assert frame is not None
    quality = None if options.lossless else options.quality or DEFAULT_QUALITY
    rows = options.tile_px * max(1, BAND_PX // options.tile_px)
    with source.open() as slide:
        bands = _Bands(slide, frame, rows)
        strips = _painted_bands(bands, plan) if plan.changes else bands.all()
        write_ome_tiff(
            path, strips, width_px=frame.width_px, height_px=frame.height_px, mpp=frame.mpp, name=source.name,
            tile_px=options.tile_px, quality=quality,
        )  # fmt: skip
    share = bands.lost_px / (frame.width_px * frame.height_px)
    notes = [f"{share:.2%} of the slide cannot be decoded and is white"] if share else []
    if plan.record == EACH_TILE:
        notes.append("statistics of each piece: seams can show")
    return Written(f"{frame.width_px} × {frame.height_px} px at {frame.mpp:.4g} µm/px", None, notes)


@dataclass
class _Bands:
    """The whole width of a slide, `rows` at a time [px of the frame]; counts what cannot be decoded."""

    slide: Slide
    frame: WholeFrame
    rows: int
    lost_px: int = 0

    def all(self) -> Iterator[Picture]:
        """All bands from the top, one read ahead; the slide must not change meanwhile."""
        tops = range(0, self.frame.height_px, self.rows)
        for _, band in zip(_told(self.slide.path.stem, tops), read_ahead(self._read, tops), strict=True):
            yield band
        self.slide.check_unchanged()

    def _read(self, top: int) -> Picture:
        step, rows = self.frame.step_l0_px, min(self.rows, self.frame.height_px - top)
        # A quarter of a pixel inside: sizes of levels are not exact, and a band must not begin a row too early.
        strip = self.slide.read_band((top + 0.25) * step, (rows - 0.5) * step, step, tolerant=True)
        if strip.pixels.shape != (rows, self.frame.width_px, 3):
            raise SlideError(f"A band of slide {self.slide.path.name} has another size", got=strip.pixels.shape,
                             expected=f"{rows} × {self.frame.width_px} px")  # fmt: skip
        self.lost_px += int(strip.lost.sum())
        return strip.pixels


def _painted_bands(bands: _Bands, plan: Plan) -> Iterator[Picture]:
    """Normalized bands; each sees the last rows of the one above and the first of the one below."""
    pale_from = pale_level(plan)
    source = bands.all()
    band = next(source)
    above = band[:0]
    while True:
        below = next(source, band[:0])
        yield _painted(above, band, below[:_MARGIN_PX], plan, bands.rows, pale_from)
        if not len(below):
            return
        above, band = band[-_MARGIN_PX:].copy(), below


def _painted(above: Picture, band: Picture, below: Picture, plan: Plan, side: int, pale_from: int) -> Picture:
    """One band, normalized in pieces of `side` px; beyond the slide its last pixels go on."""
    out = np.empty_like(band)
    width = band.shape[1]
    for left in range(0, width, side):
        core = slice(left, min(left + side, width))
        if _is_pale(band[:, core], pale_from):
            out[:, core] = band[:, core]
            continue
        first, last = max(0, left - _MARGIN_PX), min(width, left + side + _MARGIN_PX)
        seen = np.concatenate([part[:, first:last] for part in (above, band, below)])
        over, before = _MARGIN_PX - len(above), _MARGIN_PX - (left - first)
        full = side + 2 * _MARGIN_PX  # always: another size would be compiled anew
        rest = full - over - len(seen), full - before - seen.shape[1]
        padded = cv2.copyMakeBorder(seen, over, rest[0], before, rest[1], cv2.BORDER_REPLICATE)
        new = plan(np.asarray(padded, np.uint8))
        out[:, core] = new[_MARGIN_PX : _MARGIN_PX + len(band), _MARGIN_PX : _MARGIN_PX + core.stop - left]
    return out


def pale_level(plan: Plan) -> int:
    """The grey value from which on a plan changes no grey by more than one level: such places need not be painted.

    256 where it changes white itself (a white level is taken off), or judges every tile by itself.
    """
    if plan.record == EACH_TILE:
        return _NEVER
    greys = np.arange(256 - _GREYS, 256, dtype=np.uint8)
    picture = np.repeat(np.repeat(greys, _MARGIN_PX)[None, :, None], 2 * _MARGIN_PX, axis=0).repeat(3, axis=2)
    change = np.abs(plan(picture).astype(int) - picture).max(axis=(0, 2)).reshape(_GREYS, -1).max(axis=1)
    changed = np.flatnonzero(change > 1)
    return int(greys[0]) if not len(changed) else int(greys[changed[-1]]) + 1


def _is_pale(piece: Picture, level: int) -> bool:
    """Whether every cell of 4 × 4 px of a piece is at least that bright in all channels."""
    if level >= _NEVER:
        return False
    size = max(1, piece.shape[1] // _PALE), max(1, piece.shape[0] // _PALE)
    return int(cv2.resize(piece, size, interpolation=cv2.INTER_AREA).min()) >= level


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; put it in its place if the block succeeds, else remove it.

    Raises InputError: `folder` holds files that its table does not list, and they would be lost.
    """
    _check_own(folder)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.part{end}") for end in ("", "-old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with full_disk_told(folder, "slides"):
            yield part
            if folder.exists():
                folder.replace(old)
            part.replace(folder)
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _check_own(folder: Path) -> None:
    if not folder.exists():
        return
    listed = {TILES_TABLE}
    with suppress(InputError):
        listed |= set(read_foreign(folder / TILES_TABLE, InputError, columns=["file"])["file"])
    if strangers := sorted({path.name for path in folder.iterdir()} - listed):
        raise InputError(f"{folder} holds files that this command has not written", got=strangers[0],
                         fix="Move them away, or choose another --out")  # fmt: skip


def remove_leftovers(target: Path) -> None:
    """Remove what a killed process left of a result, file or folder."""
    stem = target.stem if target.suffix in (".csv", ".tif") else target.name
    for left in target.parent.glob(f".{glob.escape(stem)}.*.part*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_behind(write: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Write items in order, each in a thread while the next is made; the first error ends it."""
    with ThreadPoolExecutor(1, thread_name_prefix="write-behind") as pool:
        waiting: Future[None] | None = None
        for item in items:
            if waiting is not None:
                waiting.result()
            waiting = pool.submit(write, item)
        if waiting is not None:
            waiting.result()


def _write_png(item: tuple[Path, Picture]) -> None:
    path, tile = item
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), _PNG)[1].tobytes())


def write_normalized_table(path: Path, rows: Iterable[dict[str, Any]], names: Sequence[str]) -> None:
    """Write rows as CSV (`write_sheet`)."""
    write_sheet(pd.DataFrame(list(rows), columns=list(names), dtype="object"), path)
