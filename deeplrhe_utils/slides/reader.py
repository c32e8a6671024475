"""Open a slide, know its resolution, read tiles and thumbnails.

OpenSlide is asked first; plain images (JPEG, PNG, TIFF) that it does not claim are read by Pillow, so
that a field of view can stand in for a slide. Every length that goes in or comes out names its frame:
``_l0_px`` are level-0 pixels, origin top left, x to the right, y down.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError, SlideError
from deeplrhe_utils.slides.opening import READ_ERRORS, Handle, open_handle, resolution_of, vendor_of

Rgb = NDArray[np.uint8]

_LEVEL_TOLERANCE: Final = 1.001  # Aperio's "4" is 4.0002 where sizes do not divide
_BAND_PX: Final = 8_000_000


class Slide:
    """An open slide with a known resolution; a context manager.

    Parameters
    ----------
    path : Path
        The file.
    mpp : float, optional
        Level-0 resolution [µm/px] to believe instead of the file's.

    Attributes
    ----------
    path : Path
        The file.
    dimensions : (width_l0_px, height_l0_px)
        Level-0 size.
    mpp : float
        Level-0 resolution [µm/px].
    mpp_source : str
        ``metadata``, ``objective``, ``tiff-tags`` or ``override``.
    vendor : str
        OpenSlide's vendor, or ``image``.

    Raises
    ------
    SlideError
        See :func:`~deeplrhe_utils.slides.opening.open_handle`.
    MissingMppError
        See :func:`~deeplrhe_utils.slides.opening.resolution_of`.
    """

    def __init__(self, path: Path | str, mpp: float | None = None) -> None:
        self.path = Path(path)
        self._handle: Handle = open_handle(self.path)
        try:
            self.mpp, self.mpp_source = resolution_of(self._handle, self.path.name, mpp)
        except SlideError:
            self._handle.close()
            raise
        width, height = self._handle.dimensions
        self.dimensions: tuple[int, int] = (int(width), int(height))
        self.vendor = vendor_of(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def quickhash(self) -> str | None:
        """OpenSlide's hash that all files of one slide share; None for plain images and some formats."""
        return self._handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)

    def close(self) -> None:
        """Release the file."""
        self._handle.close()

    def read_tile(self, x_l0_px: int, y_l0_px: int, size_l0_px: float, out_px: int) -> Rgb:
        """Read a square and resample it by area averaging.

        The coarsest level that is at least as fine as the result is read, chosen by resolution, never
        by index. What the scanner left out (transparent) becomes white.

        Parameters
        ----------
        x_l0_px, y_l0_px : int
            Top left corner [level-0 px].
        size_l0_px : float
            Side [level-0 px]; may be fractional, the read is rounded to whole pixels of its level.
        out_px : int
            Side of the result [px].

        Returns
        -------
        ndarray, shape (out_px, out_px, 3), uint8
            RGB.

        Raises
        ------
        ParameterError
            The square is empty or reaches over the slide's edge.
        SlideError
            The pixels cannot be decoded; the slide stays usable for other tiles.
        """
        self._check_inside(x_l0_px, y_l0_px, size_l0_px, out_px)
        level, down = self._level_for(size_l0_px / out_px)
        wide, high = self._handle.level_dimensions[level]
        side = max(1, round(size_l0_px / down))
        # Level sizes are rounded down by scanners: never ask for the pixel that is not there.
        size = (max(1, min(side, wide - int(x_l0_px / down))), max(1, min(side, high - int(y_l0_px / down))))
        pixels = self._read((int(x_l0_px), int(y_l0_px)), level, size)
        return _resized(pixels, (out_px, out_px))

    def thumbnail(self, max_px: int = 1024) -> Rgb:
        """The whole slide, longer side at most `max_px`, read in bands so that memory stays small.

        Returns
        -------
        ndarray, shape (height, width, 3), uint8
            RGB; never larger than level 0.

        Raises
        ------
        SlideError
            The pixels cannot be decoded.
        """
        if max_px < 1:
            raise ParameterError("A thumbnail needs at least one pixel", got=max_px)
        factor = max(1.0, max(self.dimensions) / max_px)
        level, down = self._level_for(factor)
        wide, high = self._handle.level_dimensions[level]
        out_w, out_h = (max(1, round(d / factor)) for d in self.dimensions)
        out = np.empty((out_h, out_w, 3), np.uint8)
        rows_per_band = max(1, int(_BAND_PX / (wide * high / out_h)))
        for first in range(0, out_h, rows_per_band):
            last = min(out_h, first + rows_per_band)
            top, bottom = round(first * high / out_h), max(round(last * high / out_h), 1)
            pixels = self._read((0, round(top * down)), level, (wide, max(1, bottom - top)))
            out[first:last] = _resized(pixels, (out_w, last - first))
        return out

    def _check_inside(self, x: int, y: int, size: float, out_px: int) -> None:
        width, height = self.dimensions
        slack = 1e-6 * max(width, height)
        inside = x >= 0 and y >= 0 and x + size <= width + slack and y + size <= height + slack
        if not inside or size <= 0 or out_px < 1:
            raise ParameterError(
                f"A tile of slide {self.path.name} is empty or outside the slide",
                got=f"x={x}, y={y}, size={size:g} level-0 px, out={out_px} px",
                expected=f"a square inside {width} × {height} level-0 px",
            )

    def _level_for(self, downsample: float) -> tuple[int, float]:
        """Coarsest level at least as fine as `downsample`, and its own downsample."""
        levels = list(enumerate(self._handle.level_downsamples))
        fine = [(i, d) for i, d in levels if d <= downsample * _LEVEL_TOLERANCE] or levels[:1]
        return max(fine, key=lambda pair: pair[1])

    def _read(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Rgb:
        try:
            rgba = np.asarray(self._handle.read_region(corner, level, size))
        except READ_ERRORS as error:
            self._reopen()
            raise SlideError(
                f"Slide {self.path.name} cannot be decoded at x={corner[0]}, y={corner[1]} ({error})"
            ) from error
        return _on_white(rgba)

    def _reopen(self) -> None:
        """After an error OpenSlide refuses every further read of the same handle: take a new one."""
        self._handle.close()
        self._handle = open_handle(self.path)


def _on_white(rgba: Rgb) -> Rgb:
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)  # type: ignore[return-value]
    weight = alpha[..., None].astype(np.uint16)
    mixed = rgba[..., :3].astype(np.uint16) * weight + np.uint16(255) * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)


def _resized(pixels: Rgb, size: tuple[int, int]) -> Rgb:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
