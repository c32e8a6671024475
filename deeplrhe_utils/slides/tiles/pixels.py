"""Pixels of the tiles table, whatever they come from: whole slides or folders of tiles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import InputError, SlideError
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.reading.reader import Slide

if TYPE_CHECKING:
    import pandas as pd


_OPENCV: Final = threading.Lock()
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Let OpenCV use one thread: how it divides an image among threads changes last bits, and so bytes.

    The setting belongs to the process, so whoever holds it is alone, even in a process of several threads.
    """
    with _OPENCV:
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            cv2.setNumThreads(before)


def open_row(slide: Mapping[str, Any]) -> Slide:
    """Open the slide of one row of the slides table (absolute `path`) at the resolution the row states, if any."""
    import pandas as pd

    mpp = slide.get("mpp")
    return Slide(Path(slide["path"]), mpp=None if mpp is None or pd.isna(mpp) else float(mpp))


def squares_of(tiles: pd.DataFrame) -> list[Square]:
    """Where the tiles of a table TILES lie, in its order."""
    return [Square(int(row.x_l0_px), int(row.y_l0_px), float(row.size_l0_px)) for row in tiles.itertuples()]


def read_pixels(slide: dict[str, Any], tiles: pd.DataFrame, side_px: int) -> list[NDArray[np.uint8]]:
    """Tiles of one slide, in the order of `tiles`.

    Parameters
    ----------
    slide : the slide's row of the slides table with an absolute `path`
    tiles : rows of the tiles table, all of this slide; rows with a `path` are image files of their own
    side_px : side of a tile read from a slide [px]; larger image files are shrunk to it

    Returns list of uint8 RGB (H, W, 3).
    Raises SlideError: a tile cannot be decoded. InputError: an image file cannot be read.
    """
    if tiles["path"].notna().any():
        return [shrink(read_image(Path(path)), side_px) for path in tiles["path"]]
    with open_row(slide) as opened:
        return [_decoded(tile) for tile in opened.read_tiles(squares_of(tiles), side_px)]


def _decoded(tile: NDArray[np.uint8] | SlideError) -> NDArray[np.uint8]:
    if isinstance(tile, SlideError):
        raise tile
    return tile


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(read, items)``, one item ahead: the next is read in a thread while the caller works on this one.

    Decoding leaves Python's lock, so reading and arithmetic overlap. Order is kept; an error reaches the caller when
    its item's turn comes. At most two results are in memory.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        waiting: Future[Result] | None = None
        for item in items:
            following = pool.submit(read, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def peek(slide: Mapping[str, Any], tiles: pd.DataFrame, side_px: int = 128) -> list[NDArray[np.uint8]]:
    """Small pictures of a slide's tiles, for contact sheets; one that cannot be decoded is a cross.

    Parameters
    ----------
    slide : the slide's row of the slides table with an absolute `path`
    tiles : rows of the tiles table, all of this slide
    side_px : side of a picture [px]

    Returns list of uint8 RGB (side_px, side_px, 3).
    """
    with open_row(slide) as opened:
        found = opened.read_tiles(squares_of(tiles), side_px)
        return [_cross(side_px) if isinstance(tile, SlideError) else tile for tile in found]


def _cross(side_px: int) -> NDArray[np.uint8]:
    picture = np.full((side_px, side_px, 3), 255, np.uint8)
    for ends in (((0, 0), (side_px, side_px)), ((side_px, 0), (0, side_px))):
        cv2.line(picture, *ends, (200, 0, 0), 2, cv2.LINE_AA)
    return picture


def read_group(source: dict[str, dict[str, Any]], side_px: int, tiles: pd.DataFrame) -> list[NDArray[np.uint8]]:
    """:func:`read_pixels` of the slide that `tiles` belongs to, looked up in `source` (slide_id → row)."""
    return read_pixels(source[str(tiles["slide_id"].iloc[0])], tiles, side_px)


def read_image(path: Path) -> NDArray[np.uint8]:
    """A whole image file as uint8 RGB (H, W, 3)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(
            f"The tile {path} cannot be read ({error})", fix="Restore the file, or run from notebook 01 again"
        ) from error


def shrink(tile: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Area-average a square tile down to `side_px`; a smaller tile is returned as it is."""
    if tile.shape[0] <= side_px:
        return tile
    return np.asarray(cv2.resize(tile, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)
