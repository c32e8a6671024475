"""Open a file as a slide or a plain image."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import openslide
from PIL import Image, UnidentifiedImageError

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding import tiff_index
from deeplrhe_utils.slides.reading import dicom
from deeplrhe_utils.slides.reading.resolution import PLAIN_VENDORS, Handle, number, vendor_of

UNFINISHED: Final = frozenset({".partial", ".part", ".crdownload"})
"""Endings of downloads that are not complete: the GDC's transfer tool, ours and curl's, browsers."""
_MAX_SIDE_PX: Final = 2_000_000
"""The largest slides have some 300,000 px a side; what claims more is damaged."""
PLAIN_IMAGE_LIMIT_PX: Final = 150_000_000  # a plain image is decoded whole: 600 MB at this size
READ_ERRORS: Final = (openslide.OpenSlideError, OSError, ValueError, SyntaxError, MemoryError)
_PLAIN_FORMATS: Final = ("JPEG", "PNG", "TIFF")
_PLAIN_MODES: Final = ("RGB", "RGBA", "L", "P")
_COMMON: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946})
_UNCOMMON: Final = {
    22610: "JPEG XR", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC",
    34892: "lossy JPEG of DNG", 34925: "LZMA", 34926: "Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR",
    50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_CACHE_BYTES: Final = 32_000_000
_shared_cache: openslide.OpenSlideCache | None = None


def open_handle(path: Path) -> Handle:
    """Open a file as a slide or, failing that, as a plain image.

    Parameters
    ----------
    path : any format OpenSlide knows; JPEG, PNG or TIFF otherwise

    Raises SlideError: the file is missing, empty, an unfinished download (which is not opened), unreadable, damaged,
    neither slide nor image, a TIFF whose layout would be misread (:func:`_check_layout`), or a plain image of more than
    :data:`PLAIN_IMAGE_LIMIT_PX` pixels.
    """
    check_finished(path)
    _check_file(path)
    try:
        handle: Handle = _with_shared_cache(_plausible(_reader_of(path)(str(path)), path.name))
    except openslide.OpenSlideUnsupportedFormatError:
        handle = _open_plain_image(path)
    except READ_ERRORS as error:
        raise SlideError(f"Slide {path.name} cannot be opened ({error})", fix=advice(path)) from error
    try:
        _check_layout(path, handle)
    except SlideError:
        handle.close()
        raise
    return handle


class YcbcrSlide(openslide.OpenSlide):
    """A slide whose YCbCr pixels OpenSlide takes for RGB (`dicom.hides_ycbcr`), shown as RGB."""

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """As OpenSlide's own."""
        stored = np.asarray(super().read_region(location, level, size))
        rgb = cv2.cvtColor(stored[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB)  # rounds, where Pillow cuts off
        return Image.fromarray(np.dstack([rgb, stored[..., 3]]))


def _reader_of(path: Path) -> type[openslide.OpenSlide]:
    hidden = {dicom.hides_ycbcr(level) for level in dicom.levels_of(path)}
    if len(hidden) > 1:
        raise SlideError(f"Some levels of slide {path.name} are YCbCr that is not said to be, and some are not",
                         fix="Convert the slide again, all levels alike")  # fmt: skip
    return YcbcrSlide if True in hidden else openslide.OpenSlide


def check_finished(path: Path) -> None:
    """Refuse what is named like an unfinished download (SlideError), unopened."""
    if path.suffix.lower() in UNFINISHED:
        what = f"The file {path.name} is an unfinished download, so it was not opened"
        raise SlideError(what, fix="Repeat the download, which goes on where it ended, or remove the file")


def _layouts(path: Path) -> list[tiff_index.PictureLayout]:
    """Pictures of a TIFF; none where the file is no TIFF, or its index damaged (which others say)."""
    try:
        with open(path, "rb") as stream:
            return tiff_index.read_layouts(stream.fileno())
    except (tiff_index.TiffIndexError, OSError):
        return []


def advice(path: Path, otherwise: str = "Copy or download it again") -> str:
    """What to do with a file that cannot be opened or decoded: by what it lacks, or how it is compressed."""
    if lacking := dicom.missing_tags(path):
        more = " and more" if len(lacking) > 3 else ""
        return (f"Its DICOM header lacks {', '.join(lacking[:3])}{more}: export it again, or set the tag with a DICOM "
                f'editor, such as dcmodify -i "{lacking[0].partition(" ")[0]}=VALUE" FILE')  # fmt: skip
    codes = sorted({layout.compression for layout in _layouts(path)} - _COMMON)
    if codes:
        named = ", ".join(f"{_UNCOMMON.get(code, 'an unknown method')} (TIFF compression {code})" for code in codes)
        return (f"It is compressed with {named}, which cannot be read here: convert it, for example with vips tiffsave "
                "IN OUT.tif --tile --pyramid --compression jpeg, or export it as JPEG or LZW")  # fmt: skip
    return otherwise


def _check_layout(path: Path, handle: Handle) -> None:
    """Refuse a TIFF whose pixels would be shown in wrong places, or whose slide is not what was opened.

    Orientation (tag 274): readers turn each tile in its place. A picture larger than level 0, in a file of no vendor:
    the first one, which readers take, is a macro or label then. Vendors keep their own order.
    """
    sizes = set(handle.level_dimensions)
    width, height = handle.dimensions
    for layout in _layouts(path):
        turned = layout.orientation not in (0, 1)
        if turned and not sizes.isdisjoint({(layout.width, layout.height), (layout.height, layout.width)}):
            raise SlideError(
                f"{path.name} is stored turned or mirrored (TIFF orientation {layout.orientation})",
                expected="orientation 1, top left",
                fix="Convert it, for example with vips autorot IN OUT.tif[tile,pyramid,compression=jpeg]",
            )
        if vendor_of(handle) in PLAIN_VENDORS and layout.width * layout.height > width * height:
            raise SlideError(
                f"{path.name} holds a larger picture than its first, which is probably a macro or label",
                got=f"{width} × {height} px first, then {layout.width} × {layout.height} px",
                expected="the slide as the first picture",
                fix="Export the slide alone, as a pyramidal TIFF",
            )


def _with_shared_cache(handle: openslide.OpenSlide) -> openslide.OpenSlide:
    """OpenSlide's cache is one per handle by default: with hundreds of open slides it would fill the memory."""
    global _shared_cache
    if _shared_cache is None:
        _shared_cache = openslide.OpenSlideCache(_CACHE_BYTES)
    handle.set_cache(_shared_cache)
    return handle


def bounds_of(handle: Handle) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the scanned area [level-0 px]; the whole slide where the format tells none."""
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    told = [number(handle.properties.get(name)) for name in names]
    if any(value is None for value in told):
        return (0, 0, *handle.dimensions)
    x, y, width, height = (int(value) for value in told if value is not None)
    return x, y, width, height


def file_state(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or written to: device, inode, size [bytes], modification time [ns]."""
    try:
        status = path.stat()
    except OSError as error:
        raise SlideError(f"Slide {path} is not there any more ({error.strerror or error})") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _plausible(handle: openslide.OpenSlide, name: str) -> openslide.OpenSlide:
    """The handle, unless its size cannot be true."""
    width, height = handle.dimensions
    if max(width, height) > _MAX_SIDE_PX:
        handle.close()
        raise SlideError(
            f"Slide {name} claims {width} × {height} px",
            expected=f"at most {_MAX_SIDE_PX} a side",
            fix="Copy or download it again",
        )
    return handle


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise SlideError(f"Slide {path} is not there", fix="Check the path")
    try:
        with open(path, "rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SlideError(f"Slide {path.name} cannot be read ({reason})", fix="Check its permissions") from error
    if empty:
        raise SlideError(f"Slide {path.name} is empty", got="0 bytes", fix="Copy or download it again")


def _check_tiff(path: Path) -> None:
    """Refuse a TIFF whose index cannot be true: Pillow would spend minutes on tens of thousands of rubbish tags."""
    with open(path, "rb") as stream:
        if stream.read(2) not in (b"II", b"MM"):
            return
        try:
            tiff_index.read_tiled_directories(stream.fileno())
        except (tiff_index.TiffIndexError, OSError) as error:
            raise SlideError(
                f"{path.name} is no slide that OpenSlide knows, and a damaged TIFF image ({error})", fix=advice(path)
            ) from error


def _open_plain_image(path: Path) -> openslide.ImageSlide:
    _check_tiff(path)
    try:
        with warnings.catch_warnings():
            # Our own limit and errors decide; Pillow's warnings about size or metadata would only repeat them.
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=_PLAIN_FORMATS)
    except UnidentifiedImageError as error:
        raise SlideError(
            f"{path.name} is neither a slide that OpenSlide knows nor a JPEG, PNG or TIFF image",
            fix=advice(path, "Convert it, or remove it from the slides folder"),
        ) from error
    except (*READ_ERRORS, Image.DecompressionBombError) as error:
        raise SlideError(f"Image {path.name} cannot be opened ({error})", fix=advice(path)) from error
    if problem := _plain_image_problem(image):
        image.close()
        raise SlideError(f"Image {path.name} {problem}", fix="Convert it to a tiled pyramidal TIFF of 8-bit RGB")
    return openslide.ImageSlide(image)


def _plain_image_problem(image: Image.Image) -> str:
    if image.width * image.height > PLAIN_IMAGE_LIMIT_PX:
        return f"has {image.width} × {image.height} px, too many for a plain image ({PLAIN_IMAGE_LIMIT_PX:,})"
    if image.mode not in _PLAIN_MODES:
        return f"has the pixel type {image.mode}; {', '.join(_PLAIN_MODES)} can be read"
    return ""
