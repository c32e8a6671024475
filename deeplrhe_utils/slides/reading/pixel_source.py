"""The two ways to the pixels of one file, behind one: tiled JPEG decoded directly, everything else by OpenSlide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding.jpeg_tiles import VENDORS, DecodedBand, JpegLevels, Key
from deeplrhe_utils.slides.decoding.sampling import Box, Rgb, on_white, reduce_whole
from deeplrhe_utils.slides.decoding.tiff_index import TiffIndexError
from deeplrhe_utils.slides.reading import dicom
from deeplrhe_utils.slides.reading.opening import READ_ERRORS, YcbcrSlide, advice, open_handle
from deeplrhe_utils.slides.reading.resolution import Handle, vendor_of

_COMPARED_PX = 256


class PixelSource:
    """Pixels of one open file, by level.

    Parameters
    ----------
    fast : whether tiled JPEG may be decoded directly

    Attributes
    ----------
    handle : the open handle; replaced after an error
    sizes : list of (width, height); size of each level [px], finest first
    downsamples : level-0 pixels per pixel of each level
    way : ``jpeg`` when every level is decoded directly, else ``openslide`` or ``jpeg and openslide``, with the reason
        in brackets
    """

    def __init__(self, path: Path, handle: Handle, fast: bool) -> None:
        self.path, self.handle = path, handle
        self.sizes = [(int(w), int(h)) for w, h in handle.level_dimensions]
        self.downsamples = [float(d) for d in handle.level_downsamples]
        self._jpeg: JpegLevels | None = None
        self._broken = ""
        self.way = self._open_jpeg() if fast else "openslide (asked for)"

    def _open_jpeg(self) -> str:
        """Try the direct path; what :attr:`way` says of it."""
        vendor = vendor_of(self.handle)
        if isinstance(self.handle, YcbcrSlide):
            return f"openslide (format {vendor}, YCbCr converted)"
        try:
            dual = dicom.dual_levels(self.path) if vendor == "dicom" else []
            if vendor not in VENDORS and not dual:
                return f"openslide (format {vendor})"
            jpeg = JpegLevels(dual or [self.path], self.sizes, self._openslide)
        except (TiffIndexError, OSError) as error:
            return f"openslide (its index: {error})"
        if not jpeg.levels:
            jpeg.close()
            return f"openslide ({jpeg.why_not})"
        if dual and (differ := self._differs(jpeg)):
            jpeg.close()
            return f"openslide ({differ})"
        self._jpeg = jpeg
        return f"jpeg and openslide ({jpeg.why_not})" if jpeg.why_not else "jpeg"

    def _differs(self, jpeg: JpegLevels) -> str:
        """Why the two faces of a file, TIFF and DICOM, do not show the same, or an empty text.

        Level 0 is compared in its middle, the others at their corner: only there do both ways mean the same pixels.
        """
        for level in jpeg.levels:
            width, height = (min(side, _COMPARED_PX) for side in self.sizes[level])
            left, top = ((whole - _COMPARED_PX) // 2 if level == 0 else 0 for whole in self.sizes[level])
            box = Box(level, 1, max(0, left), max(0, top), width, height)
            try:
                direct, other = jpeg.read(box, DecodedBand()), self._openslide(box)
            except SlideError as error:
                return f"TIFF and DICOM cannot be compared: {error}"
            if np.abs(direct.astype(int) - other).mean() > 1:
                return "TIFF and DICOM differ"
        return ""

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self.handle.close()
        if self._jpeg is not None:
            self._jpeg.close()

    def tile_size(self, level: int) -> tuple[int, int]:
        """Width and height of the native tiles of a level [px]; 256 where the format does not tell."""
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        width, height = (int(self.handle.properties.get(name, 256)) for name in names)
        return width, height

    def plan(self, boxes: Sequence[Box]) -> list[list[Key]]:
        """Native tiles that each box needs, for a `Band`."""
        jpeg = self._jpeg
        return [jpeg.keys(box) if jpeg is not None and jpeg.serves(box) else [] for box in boxes]

    def read(self, box: Box, band: DecodedBand | None = None) -> Rgb:
        """A box, reduced by its scale.

        Parameters
        ----------
        box : what to read
        band : where decoded native tiles are kept between reads that share them

        Returns ndarray, shape (box.height / scale, box.width / scale, 3), uint8.
        Raises SlideError: the pixels cannot be decoded; the source stays usable for other boxes.
        """
        if self._jpeg is not None and self._jpeg.serves(box):
            return self._jpeg.read(box, DecodedBand() if band is None else band)
        return self._openslide(box)

    def _openslide(self, box: Box) -> Rgb:
        if self._broken:
            raise SlideError(self._broken)
        down = self.downsamples[box.level]
        corner = round(box.left * down), round(box.top * down)
        try:
            rgba = np.asarray(self.handle.read_region(corner, box.level, (box.width, box.height)))
        except READ_ERRORS as error:
            told = f"Slide {self.path.name} cannot be decoded at x={corner[0]}, y={corner[1]} ({error})"
            fix = advice(self.path, "") if isinstance(self.handle, openslide.ImageSlide) else ""
            self._recover(told)
            raise SlideError(told, fix=fix) from error
        return reduce_whole(on_white(rgba), box.scale)

    def _recover(self, told: str) -> None:
        """After an error OpenSlide refuses every further read of the same handle, so a new one is taken.

        A plain image is decoded whole: what failed once fails always, and is not tried again.
        """
        if not isinstance(self.handle, openslide.OpenSlide):
            self._broken = told
            return
        try:
            fresh = open_handle(self.path)
        except SlideError as error:
            self._broken = str(error)
            return
        self.handle.close()
        self.handle = fresh
