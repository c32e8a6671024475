"""Open a file as a slide or a plain image, and find its resolution."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import openslide
from PIL import Image, UnidentifiedImageError

from deeplrhe_utils.core.errors import MissingMppError, SlideError
from deeplrhe_utils.core.units import PLAUSIBLE_MPP, mpp_from_objective

Handle = openslide.OpenSlide | openslide.ImageSlide

PLAIN_IMAGE_LIMIT_PX: Final = 150_000_000  # a plain image is decoded whole: 600 MB at this size
MAX_MPP_ANISOTROPY: Final = 0.05
READ_ERRORS: Final = (openslide.OpenSlideError, OSError, ValueError, SyntaxError, MemoryError)
_PLAIN_FORMATS: Final = ("JPEG", "PNG", "TIFF")
_PLAIN_MODES: Final = ("RGB", "RGBA", "L", "P")


class Resolution(NamedTuple):
    """Level-0 resolution [µm/px] and where it came from (``slides.mpp_source``)."""

    mpp: float
    source: str


def open_handle(path: Path) -> Handle:
    """Open a file as a slide or, failing that, as a plain image.

    Parameters
    ----------
    path : Path
        Any format OpenSlide knows; JPEG, PNG or TIFF otherwise.

    Raises
    ------
    SlideError
        The file is missing, empty, unreadable, damaged, neither slide nor image, or a plain image of
        more than :data:`PLAIN_IMAGE_LIMIT_PX` pixels.
    """
    _check_file(path)
    try:
        return openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError:
        return _open_plain_image(path)
    except READ_ERRORS as error:
        raise SlideError(f"Slide {path.name} cannot be opened ({error})", fix="Copy or download it again") from error


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


def _open_plain_image(path: Path) -> openslide.ImageSlide:
    try:
        with warnings.catch_warnings():
            # Our own limit and errors decide; Pillow's warnings about size or metadata would only repeat them.
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=_PLAIN_FORMATS)
    except UnidentifiedImageError as error:
        raise SlideError(
            f"{path.name} is neither a slide that OpenSlide knows nor a JPEG, PNG or TIFF image",
            fix="Convert it, or remove it from the slides folder",
        ) from error
    except (*READ_ERRORS, Image.DecompressionBombError) as error:
        raise SlideError(f"Image {path.name} cannot be opened ({error})") from error
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


def vendor_of(handle: Handle) -> str:
    """OpenSlide's vendor, or ``image`` for plain images."""
    return str(handle.properties.get(openslide.PROPERTY_NAME_VENDOR, "image"))


def resolution_of(handle: Handle, name: str, override: float | None = None) -> Resolution:
    """Find a slide's level-0 resolution.

    Order: `override`; microns per pixel of the metadata (of the TIFF tags, for generic TIFF and plain
    images); objective power by the convention 10 / power. A value outside
    :data:`~deeplrhe_utils.core.units.PLAUSIBLE_MPP` counts as missing, and the error names it.

    Parameters
    ----------
    handle : OpenSlide or ImageSlide
        An open slide.
    name : str
        File name, for messages.
    override : float, optional
        Resolution to believe instead of the file [µm/px].

    Returns
    -------
    Resolution
        Value and source.

    Raises
    ------
    SlideError
        Horizontal and vertical resolution differ by more than 5 %.
    MissingMppError
        No usable resolution.
    """
    if override is not None:
        if not PLAUSIBLE_MPP[0] <= override <= PLAUSIBLE_MPP[1]:
            raise SlideError(f"The resolution given for {name} is implausible", got=override, expected=_range_text())
        return Resolution(float(override), "override")
    x, y = _tagged_mpp(handle)
    refused = ""
    if x is not None and y is not None:
        if PLAUSIBLE_MPP[0] <= min(x, y) and max(x, y) <= PLAUSIBLE_MPP[1]:
            _check_isotropic(x, y, name)
            tagged = vendor_of(handle) in ("generic-tiff", "image")
            return Resolution(x, "tiff-tags" if tagged else "metadata")
        refused = f"; its tags claim {x:g} × {y:g} µm/px, which is not plausible ({_range_text()})"
    power = _number(handle.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    if power is not None and 1 <= power <= 100:
        return Resolution(mpp_from_objective(power), "objective")
    raise MissingMppError(
        f"Slide {name} has no microns per pixel (openslide.mpp-x and objective power are absent{refused}), "
        "so tiling at a given resolution is impossible",
        fix="Give it in a CSV with the columns slide_id,mpp (parameter mpp_csv)",
    )


def _range_text() -> str:
    return f"{PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} µm/px"


def _check_isotropic(x: float, y: float, name: str) -> None:
    if abs(x - y) > MAX_MPP_ANISOTROPY * min(x, y):
        raise SlideError(
            f"Slide {name} has different resolutions across and down",
            got=f"{x:g} × {y:g} µm/px",
            expected="a difference of at most 5 %",
            fix="Give the right value in mpp_csv",
        )


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and np.isfinite(value) else None


def _tagged_mpp(handle: Handle) -> tuple[float | None, float | None]:
    if isinstance(handle, openslide.ImageSlide):
        return _plain_mpp(handle)
    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    x, y = (_number(handle.properties.get(n)) for n in names)
    return x, y


def _plain_mpp(handle: openslide.ImageSlide) -> tuple[float | None, float | None]:
    """TIFF resolution tags of a plain image; JPEG and PNG densities describe paper and are not read."""
    tags = getattr(handle._image, "tag_v2", None)
    micrometres = {2: 25400.0, 3: 10000.0}.get(tags.get(296, 2) if tags else 0)
    if tags is None or micrometres is None:
        return None, None
    per_unit = [_number(str(float(tags[t]))) if t in tags else None for t in (282, 283)]
    x, y = (micrometres / v if v else None for v in per_unit)
    return x, y
