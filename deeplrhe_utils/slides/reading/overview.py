"""Reduced pictures of a whole slide, read piece by piece so that memory stays small and damage stays local."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding.jpeg_tiles import DecodedBand
from deeplrhe_utils.slides.decoding.sampling import Box, Rgb, Strip, box_of, choose, reduce_whole, resample, scale_for
from deeplrhe_utils.slides.reading.pixel_source import PixelSource

_PART_PX = 8_000_000  # pixels of a level that are read at once: 32 MB through OpenSlide

_Part = tuple[int, int, int, int]
"""Left, top, width and height [px of the picture]."""


class Overview:
    """Strips and thumbnails of one slide."""

    def __init__(self, source: PixelSource) -> None:
        self._source = source

    def thumbnail(self, width: int, height: int, damaged: tuple[int, int, int] | None) -> Rgb:
        """The whole slide as (height, width, 3); places that cannot be decoded in a colour, or SlideError."""
        out = np.empty((height, width, 3), np.uint8)
        across, down = self._source.sizes[0][0] / width, self._source.sizes[0][1] / height
        level, scale = choose(self._source.downsamples, max(across, down))

        def fill(left: int, top: int, wide: int, high: int) -> None:
            place = (left * across, top * down, wide * across, high * down)
            out[top : top + high, left : left + wide] = self._place(level, scale, place, wide, high)

        coarse, (tile_w, tile_h) = self._source.downsamples[level], self._source.tile_size(level)
        pitch = tile_w * coarse / across, tile_h * coarse / down
        for part in _parts(width, height, across * down / coarse**2):
            for x, y, w, h in _filled(fill, part, pitch if damaged is not None else None):
                out[y : y + h, x : x + w] = damaged or 0
        return out

    def strip(self, top_l0_px: float, height_l0_px: float, factor: float, *, tolerant: bool) -> Strip:
        """See `Slide.read_band`."""
        level, _ = choose(self._source.downsamples, factor)
        down, (wide, high) = self._source.downsamples[level], self._source.sizes[level]
        whole = max(1, round(factor / down))
        step = whole * down
        first = max(0, int(top_l0_px / step))
        rows = max(0, min(int(np.ceil((top_l0_px + height_l0_px) / step)), high // whole) - first)
        out, lost = np.full((rows, wide // whole, 3), 255, np.uint8), np.zeros((rows, wide // whole), np.bool_)
        scale = scale_for(whole)

        def box(x: int, y: int, w: int, h: int) -> Box:
            return Box(level, scale, x * whole, (first + y) * whole, w * whole, h * whole)

        parts = list(_parts(out.shape[1], rows, whole**2))
        uses = self._source.plan([box(*part) for part in parts])
        band = DecodedBand(key for keys in uses for key in keys)

        def fill(x: int, y: int, w: int, h: int) -> None:
            out[y : y + h, x : x + w] = reduce_whole(self._source.read(box(x, y, w, h), band), whole // scale)

        tile_w, tile_h = self._source.tile_size(level)
        pitch = tile_w / whole, tile_h / whole
        for part, keys in zip(parts, uses, strict=True):
            for x, y, w, h in _filled(fill, part, pitch if tolerant else None, first):
                place = (x * step, (first + y) * step, w * step, h * step)
                lost[y : y + h, x : x + w] = not self._finer(out[y : y + h, x : x + w], place, level, step)
            band.finish(keys)
        return Strip(out, step, first * step, lost)

    def _finer(self, out: Rgb, place: tuple[float, float, float, float], level: int, step: float) -> bool:
        """Whether a damaged place of a coarse level could be filled from level 0."""
        if level == 0:
            return False
        try:
            out[:] = self._place(0, scale_for(step), place, out.shape[1], out.shape[0])
        except SlideError:
            return False
        return True

    def _place(self, level: int, scale: int, place: tuple[float, float, float, float], width: int, height: int) -> Rgb:
        """A rectangle [level-0 px: x, y, width, height] of a level, resampled to (height, width, 3)."""
        box = box_of(level, scale, self._source.downsamples[level], self._source.sizes[level], place)
        return resample(self._source.read(box, None), width, height)


def _parts(width: int, height: int, read: float) -> Iterator[_Part]:
    """Parts that are read at once, row by row; `read` is the number of level pixels per pixel of the picture."""
    rows = max(1, int(_PART_PX / (read * max(width, 1))))
    columns = width if rows > 1 else max(1, int(_PART_PX / read))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, min(columns, width - left), min(rows, height - top)


def _filled(
    fill: Callable[[int, int, int, int], None], part: _Part, pitch: tuple[float, ...] | None, top: int = 0
) -> list[_Part]:
    """Fill a part, native tile by native tile where that fails as a whole; the pieces that could not be filled.

    `pitch` is the width and height of a native tile, and `top` the place of the picture's first row, both in pixels of
    the picture; without a pitch a failure is raised.
    """
    try:
        fill(*part)
    except SlideError:
        if pitch is None:
            raise
        left, first, width, height = part
        across, down = _edges(left, width, pitch[0]), _edges(first + top, height, pitch[1])
        pieces = [(x0, y0 - top, x1 - x0, y1 - y0) for y0, y1 in pairwise(down) for x0, x1 in pairwise(across)]
        return [piece for piece in pieces if not _succeeds(fill, piece)]
    return []


def _succeeds(fill: Callable[[int, int, int, int], None], part: _Part) -> bool:
    try:
        fill(*part)
    except SlideError:
        return False
    return True


def _edges(start: int, length: int, pitch: float) -> list[int]:
    """Where native tiles meet between two places; a pixel that lies on two of them is a piece of its own."""
    inside = np.arange(np.floor(start / pitch), np.ceil((start + length) / pitch) + 1) * pitch
    edges = {start, start + length, *np.floor(inside).astype(int).tolist(), *np.ceil(inside).astype(int).tolist()}
    return sorted(e for e in edges if start <= e <= start + length)
