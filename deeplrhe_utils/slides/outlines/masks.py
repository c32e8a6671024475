"""Outlines from mask images: label images of a whole slide, traced exactly along the edges of their pixels."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import AnnotationError, ParameterError
from deeplrhe_utils.slides.outlines.regions import Region, Regions, checked_area, some_area

LARGEST_MASK_PX: Final = 2**26  # a slide of 200 000 × 80 000 px at a downsample of 16
LARGEST_CORNERS: Final = 4_000_000
MOST_LABELS: Final = 64
_MODES: Final = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_EIGHT_BIT: Final = ("L", "P")
PICTURE_ERRORS: Final = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error,
    MemoryError, Image.DecompressionBombError,
)  # fmt: skip


def regions_from_mask(data: bytes, name: str, slide_px: tuple[int, int]) -> Regions:
    """The region of a label image that covers the whole slide: every value but 0 is inside.

    The pixels' edges become the outline: nothing is smoothed, holes are kept, and the area is the number of pixels
    times the area of one. Pixels that share an edge are connected (4-connectivity); pixels that meet in a corner only
    are two parts, and holes that meet so are two holes. The mask is laid over the whole slide, so that a pixel measures
    width / columns by height / rows; where the slide's size is no multiple of the mask's, this is within one mask pixel
    of any other way to lay it.

    Parameters
    ----------
    data : a PNG or TIFF of one page and one channel: black and white, grey, palette (the indices count), 16 or 32 bit
    name : of the file, for errors
    slide_px : (width, height) [level-0 px]

    Returns one region of no class, of as many parts as there are [level-0 px].
    Raises AnnotationError: no PNG or TIFF, several pages or channels, more than :data:`LARGEST_MASK_PX` pixels, more
    than :data:`LARGEST_CORNERS` corners (noise), more than :data:`MOST_LABELS` values in 8 bits (a picture or a
    smoothed mask), another aspect than the slide or more pixels than it, no pixel inside. ParameterError: the size is
    not positive.
    """
    if min(slide_px) < 1:
        raise ParameterError(f"Annotation {name}: a mask needs a slide of a size", got=f"size {slide_px}")
    labels, mode = _labels(data, name)
    scale = mask_scale(labels.shape, slide_px, name)
    _check_labels(labels, mode, name)
    if not labels.any():
        return some_area([], ["no pixel other than 0"], name)
    outline = shapely.transform(trace_edges(labels != 0, name), lambda points: points * scale)
    geometry, note = checked_area(outline, f"Mask {name}")
    return Regions([Region(geometry, note=note)])


def _check_labels(labels: NDArray[Any], mode: str, name: str) -> None:
    """Refuse pictures and smoothed masks, whose every pixel would be inside."""
    if mode in _EIGHT_BIT and (present := np.count_nonzero(np.bincount(labels.ravel()))) > MOST_LABELS:
        raise AnnotationError(
            f"Mask {name} is a picture or a smoothed mask, not labels", got=f"{present} values",
            expected=f"at most {MOST_LABELS} values", fix="Threshold it",
        )  # fmt: skip


def _labels(data: bytes, name: str) -> tuple[NDArray[Any], str]:
    """The pixel values, and Pillow's mode."""
    try:
        with warnings.catch_warnings():
            # Our own limit and errors decide; Pillow's warnings about size or metadata would only repeat them.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
                _check_image(image, name)
                return np.asarray(image), image.mode
    except PICTURE_ERRORS as error:
        raise AnnotationError(
            f"Mask {name} cannot be read ({error})", expected="a PNG or TIFF image", fix="Export it again"
        ) from error


def _check_image(image: Image.Image, name: str) -> None:
    """Refuse what must not, or cannot, be decoded."""
    width, height = image.size
    if width * height > LARGEST_MASK_PX:
        raise AnnotationError(
            f"Mask {name} is too large",
            got=f"{width} × {height} px",
            expected=f"at most {LARGEST_MASK_PX} px",
            fix="Export it at a larger downsample",
        )
    if (pages := getattr(image, "n_frames", 1)) != 1:
        raise AnnotationError(f"Mask {name} has several pages", got=pages, expected="one", fix="Export one resolution")
    if image.mode not in _MODES:
        raise AnnotationError(
            f"Mask {name} has several channels, or none of labels",
            got=f"mode {image.mode}",
            expected="one channel of whole numbers",
            fix="Export it as a label image",
        )


def mask_scale(shape: tuple[int, ...], slide_px: tuple[int, int], name: str) -> NDArray[np.float64]:
    """Size of a pixel, in x and y [level-0 px], of a mask of `shape` (rows, columns) that covers the whole slide.

    A mask of downsample d has between width / d - 1 and width / d + 1 columns, however it was rounded, and the
    like of rows. The aspect is wrong if no d does for both.
    """
    mask_px = np.array(shape[::-1], dtype=float)
    slide = np.array(slide_px, dtype=float)
    least, most = slide / (mask_px + 1), slide / np.maximum(mask_px - 1, 1e-9)
    if (mask_px > slide).any() or least.max() >= most.min():
        scales = slide / mask_px
        raise AnnotationError(
            f"Mask {name} does not fit its slide",
            got=f"{mask_px[0]:.0f} × {mask_px[1]:.0f} px: a downsample of {scales[0]:.4g} in x, {scales[1]:.4g} in y",
            expected=f"the aspect of the slide, {slide_px[0]} × {slide_px[1]} px, and no more pixels",
            fix="Export a mask of the whole slide",
        )
    return slide / mask_px


def trace_edges(inside: NDArray[np.bool_], name: str = "") -> shapely.Polygon | shapely.MultiPolygon:
    """Exact outline of the pixels inside, along their edges.

    Parameters
    ----------
    inside : (h, w) bool array; the mask; at least one pixel is inside
    name : name of the file, for the error

    Returns valid, one polygon for every 4-connected part, with its holes [mask px]; pixel (row, column) covers [column,
    column + 1] × [row, row + 1]. The area is the number of pixels.
    Raises AnnotationError: the outline has more than :data:`LARGEST_CORNERS` corners.

    >>> trace_edges(np.array([[True, True]])).area
    2.0
    """
    padded = np.pad(inside, 1).astype(np.uint8)
    around = padded[:-1, :-1] + padded[:-1, 1:] + padded[1:, :-1] + padded[1:, 1:]
    # Where two pixels meet in a vertex only, two corners do.
    n_corners = around % 2 + 2 * ((around == 2) & (padded[:-1, :-1] == padded[1:, 1:]))
    corners = np.repeat(np.argwhere(n_corners), n_corners[n_corners > 0], axis=0)
    if len(corners) > LARGEST_CORNERS:
        raise AnnotationError(
            f"Mask {name} is too ragged: it looks like noise",
            got=f"{len(corners)} corners",
            expected=f"at most {LARGEST_CORNERS}",
            fix="Smooth it or export it at a larger downsample",
        )
    y, x = corners.T
    # Along a row, corners pair up as the two ends of an edge; so they do along a column.
    ends = [corners[order, ::-1].reshape(-1, 2, 2) for order in (np.lexsort((x, y)), np.lexsort((y, x)))]
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(np.concatenate(ends).astype(float))))
    places = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(int)
    parts = faces[inside[places[:, 1], places[:, 0]]]
    left, top = shapely.bounds(parts)[:, :2].T
    parts = parts[np.lexsort((left, top))]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))
