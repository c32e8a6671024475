"""Where the tissue of a slide is, and the tiles its colour statistics come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isqrt
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.running.normalize.sources import (
    OME_TIFF,
    NormalizeOptions,
    Picture,
    PictureFolder,
    SlideFile,
    Source,
    read_picture,
)
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.quality.stains import OTHER_STAIN_ADVICE, check_stain, foreign_tile
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.pixels import squares_of
from deeplrhe_utils.slides.tiles.tiling import MPP_TOLERANCE, TilingRules, tile_slide
from deeplrhe_utils.stain.dcgmm.checks import has_tissue, tissue_px
from deeplrhe_utils.stain.methods.normalize import MINIMUM_TISSUE_PX

SURVEY_TILE_PX: Final = (128, 512)
"""Side of the squares a whole slide's statistics come from, where it is written whole [px of the output]."""
BLOCK_PX: Final = 256
"""Side, about, of the blocks into which pictures are cut where there are too few of them [px]."""
STATISTICS_PX: Final = 1024
"""Of larger tiles the middle gives statistics [px]."""
_READ_AT_MOST: Final = 8  # times the tiles wanted: how many pictures are opened to find tissue


class WholeFrame(NamedTuple):
    """What is written of a whole slide: level-0 px per px, size [px], resolution [µm/px]."""

    step_l0_px: float
    width_px: int
    height_px: int
    mpp: float


class Examined(NamedTuple):
    """Where a slide's tissue is: squares of `side_px` px at `mpp` [µm/px], notes, and the frame of an OME-TIFF."""

    squares: list[Square]
    side_px: int
    mpp: float
    notes: list[str]
    frame: WholeFrame | None


class Readings:
    """Sources as the options look at them; what was found out about a slide is kept."""

    def __init__(self, options: NormalizeOptions) -> None:
        self._options = options
        self._known: dict[Path, Examined] = {}

    def examined(self, source: SlideFile) -> Examined:
        """:func:`_examine`, once for every slide."""
        if source.path not in self._known:
            self._known[source.path] = _examine(source, self._options)
        return self._known[source.path]

    def forget(self, source: Source) -> None:
        """Free what is known of a source that is finished."""
        self._known.pop(source.path, None)

    def tiles(self, source: Source) -> list[Picture]:
        """Tiles that a source's colour statistics come from, uint8 RGB (H, W, 3), the same at every call.

        They are spread evenly over the tissue: as many as the options say, of small pictures as many as hold
        400,000 px of tissue; of a slide that has less, all.

        Raises SlideError, InputError: none of a slide's tiles can be read, or one of its pictures cannot.
        """
        most = self._options.statistics_tiles
        if isinstance(source, PictureFolder):
            return _of_pictures(source, most, self._options.stain_check)
        return self._of_slide(source, most)

    def _of_slide(self, source: SlideFile, most: int) -> list[Picture]:
        examined = self.examined(source)
        squares = [examined.squares[place] for place in spread_places(len(examined.squares), most)]
        with source.open() as slide:
            found = list(slide.read_tiles(squares, examined.side_px))
        failures = [tile for tile in found if isinstance(tile, SlideError)]
        if failures and len(failures) == len(found):
            raise failures[0]
        return [_middle(tile) for tile in found if not isinstance(tile, SlideError)]


def frame_of(slide: Slide, wanted_mpp: float) -> WholeFrame:
    """Size and resolution at which whole pixels of a level are averaged, nearest to the one wanted (0: level 0).

    Raises SlideError: that would be finer than the slide, or nothing would be left of it.
    """
    factor = wanted_mpp / slide.mpp if wanted_mpp else 1.0
    if factor < 1 - MPP_TOLERANCE:
        raise SlideError(f"Slide {slide.path.name} is coarser than the resolution asked for",
                         got=f"{slide.mpp:.4g} µm/px", expected=f"{wanted_mpp:g} or less",
                         fix="Give a larger --mpp, or 0 for its own")  # fmt: skip
    factor = max(factor, 1.0)
    height = slide.dimensions[1]
    tail = slide.read_band(max(0.0, height - 4 * factor), 16 * factor, factor, tolerant=True)
    rows = round(tail.top_l0_px / tail.step_l0_px) + len(tail.pixels)
    if not rows or not tail.pixels.shape[1]:
        raise SlideError(f"Nothing is left of slide {slide.path.name} at {wanted_mpp:g} µm/px",
                         got=f"{slide.dimensions[0]} × {height} px", fix="Give a smaller --mpp")  # fmt: skip
    return WholeFrame(tail.step_l0_px, tail.pixels.shape[1], rows, slide.mpp * tail.step_l0_px)


def _examine(source: SlideFile, options: NormalizeOptions) -> Examined:
    """Find a slide's tissue by the rules of notebook 02 (`tile_slide`).

    Raises SlideError, InputError: the slide cannot be opened, has no resolution, or is smaller than one tile.
    """
    wanted = options.wanted_mpp
    with source.open() as slide:
        frame = frame_of(slide, wanted) if options.format == OME_TIFF else None
        own, note = slide.mpp, slide.resolution_note
        if options.stain_check:
            check_stain(slide)
    mpp = frame.mpp if frame else wanted or own
    notes = [note] if note else []
    if frame and wanted and abs(mpp / wanted - 1) > MPP_TOLERANCE:
        notes.append(f"written at {mpp:.4g} µm/px, the nearest that averages whole pixels")
    side = _survey_side(frame) if frame else options.tile_px
    row = {"slide_id": source.name, "patient_id": source.name, "path": str(source.path), "annotation": None,
           "mpp": source.mpp}  # fmt: skip
    tiles = tile_slide(row, TilingRules(target_mpp=mpp, tile_px=side, edge=options.edge))
    notes += tiles.attrs["notes"]
    if lost := int((tiles["reason"] == "unreadable").sum()):
        notes.append(f"{lost} of {len(tiles)} places cannot be decoded")
    return Examined(squares_of(tiles[tiles["kept"]]), side, mpp, notes, frame)


def _survey_side(frame: WholeFrame) -> int:
    """Side of squares of which 64 and more lie on a slide, but neither tiny ones nor larger than tiles."""
    least, most = SURVEY_TILE_PX
    wanted = min(max(isqrt(frame.width_px * frame.height_px // 64), least), most)
    return max(1, min(wanted, frame.width_px - 1, frame.height_px - 1))  # one less: sizes are not exact in decimals


def spread_places(n: int, most: int) -> list[int]:
    """At most `most` of n places, evenly.

    >>> spread(100, 3), spread(2, 3)
    ([0, 50, 99], [0, 1])
    """
    return sorted({round(float(place)) for place in np.linspace(0, n - 1, min(n, most))}) if n else []


def _middle(tile: Picture) -> Picture:
    top, left = (max(0, (side - STATISTICS_PX) // 2) for side in tile.shape[:2])
    return tile[top : top + STATISTICS_PX, left : left + STATISTICS_PX]


def _of_pictures(source: PictureFolder, most: int, stain_check: bool) -> list[Picture]:
    """Pictures with tissue until there are enough, in an order that is spread at every length."""
    found: list[Picture] = []
    strange: list[str] = []
    tissue = 0.0
    for file in _in_spread_order(source.files)[: _READ_AT_MOST * most]:
        picture = read_picture(file)
        if stain_check and foreign_tile(picture):
            strange.append(file.name)
            continue
        usable = [b for b in _blocks(picture, ceil(most / len(source.files))) if has_tissue(b)]
        found += usable
        tissue += sum(map(tissue_px, usable))
        if len(found) >= most and tissue >= 2 * MINIMUM_TISSUE_PX:
            break
    if strange and len(strange) >= len(found):
        got = f"{len(strange)} of {len(strange) + len(found)} that were looked at, such as {strange[0]}"
        raise SlideError(f"The tiles of {source.name} are not H&E", got=got, fix=OTHER_STAIN_ADVICE)
    return found


def _in_spread_order(files: Sequence[Path]) -> list[Path]:
    """Files by the fractional parts of multiples of the golden ratio."""
    golden = (5**0.5 - 1) / 2
    return [files[i] for i in np.argsort([(i * golden) % 1.0 for i in range(len(files))], kind="stable")]


def _blocks(picture: Picture, wanted: int) -> Iterator[Picture]:
    """The middle of a picture, or, where several parts of it are wanted, so many blocks spread over it."""
    if wanted <= 1:
        yield _middle(picture)
        return
    rows, columns = (max(1, round(side / BLOCK_PX)) for side in picture.shape[:2])
    high, wide = picture.shape[0] // rows, picture.shape[1] // columns
    for place in spread_places(rows * columns, wanted):
        top, left = place // columns * high, place % columns * wide
        yield picture[top : top + high, left : left + wide]
