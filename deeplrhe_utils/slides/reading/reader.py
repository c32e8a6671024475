"""Open a slide, know its resolution, read tiles, bands and thumbnails.

OpenSlide is asked first; plain images (JPEG, PNG, TIFF) that it does not claim are read by Pillow, so
that a field of view can stand in for a slide. Levels of tiled JPEG (Aperio SVS, generic tiled TIFF) are then
decoded directly (`slides.decoding.jpeg_tiles`); everything else stays with OpenSlide. Both ways
give the same pixels: bit for bit at full scale, within half a grey level on average at a reduced scale. One
exception is OpenSlide's: inside a level whose sides are not a whole part of level 0's it interpolates between
pixels, because it is asked in level-0 coordinates; the direct way gives the pixels as they are stored.

Every length that goes in or comes out names its frame: ``_l0_px`` are level-0 pixels, origin top left, x to
the right, y down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import openslide

from deeplrhe_utils.core.errors import ParameterError, SlideError
from deeplrhe_utils.slides.decoding.jpeg_tiles import DecodedBand
from deeplrhe_utils.slides.decoding.sampling import Box, Rgb, Square, Strip, box_of, choose, resample
from deeplrhe_utils.slides.reading.opening import (
    bounds_of,
    file_state,
    open_handle,
)
from deeplrhe_utils.slides.reading.overview import Overview
from deeplrhe_utils.slides.reading.pixel_source import PixelSource
from deeplrhe_utils.slides.reading.resolution import resolution_evidence, resolution_note, resolution_of, vendor_of


class Slide:
    """An open slide with a known resolution; a context manager.

    Parameters
    ----------
    mpp : level-0 resolution [µm/px] to believe instead of the file's
    fast : whether levels of tiled JPEG may be decoded directly. False reads everything through OpenSlide.

    Attributes
    ----------
    dimensions : (width_l0_px, height_l0_px); level-0 size
    mpp : level-0 resolution [µm/px]
    mpp_source : ``metadata``, ``objective``, ``tiff-tags`` or ``override``
    vendor : OpenSlide's vendor, or ``image``

    Raises SlideError: see `open_handle`. MissingMppError: see
    `resolution_of`.

    All slides of a process share one cache of decoded tiles (32 MB) in OpenSlide, and what the direct path
    holds is bounded per call, so that many open slides cost little more than one.
    """

    def __init__(self, path: Path | str, mpp: float | None = None, *, fast: bool = True) -> None:
        self.path, self._override = Path(path), mpp
        handle = open_handle(self.path)
        try:
            self._state = file_state(self.path)
            self.mpp, self.mpp_source = resolution_of(handle, self.path.name, mpp)
        except SlideError:
            handle.close()
            raise
        self.dimensions: tuple[int, int] = (int(handle.dimensions[0]), int(handle.dimensions[1]))
        self.vendor = vendor_of(handle)
        self._source = PixelSource(self.path, handle, fast)
        self._overview = Overview(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._source.close()

    @property
    def quickhash(self) -> str | None:
        """OpenSlide's hash that all files of one slide share; None for plain images and some formats."""
        return self._source.handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)

    @property
    def reader(self) -> str:
        """How pixels are read: ``jpeg`` directly, ``openslide``, or both, with the reason in brackets."""
        return self._source.way

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, finest first."""
        return tuple(self._source.downsamples)

    @property
    def bounds_l0_px(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the scanned area [level-0 px]; the whole slide where the format tells none.

        Outlines drawn in programs that show only this area (QuPath) count from its corner.
        """
        return bounds_of(self._source.handle)

    @property
    def resolution_note(self) -> str | None:
        """Where the file contradicts the resolution that is used; None where it does not."""
        return resolution_note(resolution_evidence(self._source.handle, self._override))

    def check_unchanged(self) -> None:
        """Make sure that the file is still the one that was opened.

        Raises SlideError: the file was replaced, changed or removed meanwhile; what was read may mix two slides.
        """
        if file_state(self.path) != self._state:
            raise SlideError(
                f"Slide {self.path.name} was changed or replaced while it was read",
                fix="Let the copy or download end, then run again",
            )

    def read_tile(self, x_l0_px: int, y_l0_px: int, size_l0_px: float, out_px: int) -> Rgb:
        """Read a square and resample it by area averaging (`slides.decoding.sampling`).

        What the scanner left out (transparent) becomes white.

        Parameters
        ----------
        x_l0_px, y_l0_px : top left corner [level-0 px]
        size_l0_px : side [level-0 px]; may be fractional. The read is rounded to the pixels it is made of, by at most
            half a pixel of the result.
        out_px : side of the result [px]

        Returns ndarray, shape (out_px, out_px, 3), uint8: RGB.
        Raises ParameterError: the square is empty or reaches over the slide's edge. SlideError: the pixels cannot be
        decoded; the slide stays usable for other tiles.
        """
        (found,) = self.read_tiles([Square(x_l0_px, y_l0_px, size_l0_px)], out_px)
        if isinstance(found, SlideError):
            raise found
        return found

    def read_tiles(self, squares: Sequence[Square], out_px: int) -> Iterator[Rgb | SlideError]:
        """Read many squares, each native JPEG tile decoded once.

        Parameters
        ----------
        squares : what to read; row by row of the grid is the order in which least is held in memory
        out_px : side of the results [px]

        Yields ndarray, shape (out_px, out_px, 3), uint8, or SlideError: one for every square, in order: its pixels as
        :meth:`read_tile` gives them, or why they cannot be decoded, so that one damaged tile does not cost the others.
        Raises ParameterError: a square is empty or reaches over the slide's edge; before anything is read.
        """
        boxes = [self._box(square, out_px) for square in squares]
        uses = self._source.plan(boxes)
        band = DecodedBand(key for keys in uses for key in keys)
        for box, keys in zip(boxes, uses, strict=True):
            try:
                result: Rgb | SlideError = resample(self._source.read(box, band), out_px, out_px)
            except SlideError as error:
                result = error
            band.finish(keys)
            yield result

    def read_band(self, top_l0_px: float, height_l0_px: float, factor: float, *, tolerant: bool = False) -> Strip:
        """The whole width of the slide between two heights, near a reduced resolution, where that costs least.

        Parameters
        ----------
        top_l0_px, height_l0_px : the band [level-0 px]; cut at the slide's edges
        factor : wanted level-0 pixels per pixel of the result, at least 1
        tolerant : what cannot be decoded at its level is read from level 0, and is white and marked as lost where that
            fails, too; otherwise it is an error

        Returns its pixels, the true level-0 pixels per pixel (the whole multiple of a level's that is nearest to
        `factor`), the height at which it begins, and what is lost. Up to one pixel at the right and lower edge is left
        out.
        Raises SlideError: the pixels cannot be decoded, and it is not `tolerant`.
        """
        return self._overview.strip(top_l0_px, height_l0_px, factor, tolerant=tolerant)

    def thumbnail(self, max_px: int = 1024, damaged: tuple[int, int, int] | None = None) -> Rgb:
        """The whole slide, longer side at most `max_px`, read in parts so that memory stays small.

        Parameters
        ----------
        max_px : longer side [px]
        damaged : (red, green, blue); colour of places that cannot be decoded; without it they are an error

        Returns ndarray, shape (height, width, 3), uint8: RGB; never larger than level 0.
        Raises SlideError: pixels cannot be decoded, and `damaged` is not given.
        """
        factor = max(1.0, max(self.dimensions) / max_px)
        width, height = (max(1, round(d / factor)) for d in self.dimensions)
        return self._overview.thumbnail(width, height, damaged)

    def source_mpp(self, factor: float) -> float:
        """Resolution of the level that is read for `factor` level-0 px per px of the result [µm/px]."""
        return self.mpp * self._source.downsamples[choose(self._source.downsamples, factor)[0]]

    def _box(self, square: Square, out_px: int) -> Box:
        self._check_inside(square, out_px)
        x, y, size = square
        level, scale = choose(self._source.downsamples, size / out_px)
        return box_of(level, scale, self._source.downsamples[level], self._source.sizes[level], (x, y, size, size))

    def _check_inside(self, square: Square, out_px: int) -> None:
        width, height = self.dimensions
        x, y, size = square
        slack = 1e-6 * max(width, height)
        inside = x >= 0 and y >= 0 and x + size <= width + slack and y + size <= height + slack
        if not inside or size <= 0 or out_px < 1:
            raise ParameterError(
                f"A tile of slide {self.path.name} is empty or outside the slide",
                got=f"x={x}, y={y}, size={size:g} level-0 px, out={out_px} px",
                expected=f"a square inside {width} × {height} level-0 px",
            )
