"""Is it H&E? Fluorescence, immunohistochemistry, grey, one-stained and empty pictures are told by simple numbers.

Haematoxylin and eosin both absorb green most, in different proportions of red; nothing else that is scanned does all
of: bright glass, coloured tissue, green absorbed most, no brown, two hues. Every cut lies well outside of what the real
H&E pictures at hand show, and inside of what others show: docs/quality-filter.md has both, and what the rule cannot
tell (magenta stains such as PAS look like H&E to it). Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding.sampling import Rgb, Square
from deeplrhe_utils.slides.quality.tissue import SlideGlass, density_over_glass, glass_level
from deeplrhe_utils.slides.reading.reader import Slide

HE, FLUORESCENCE, EMPTY, GREY = "H&E", "fluorescence", "empty", "grey"
BROWN, ONE_STAIN, FOREIGN = "brown stain", "one stain", "other colours"
DARK_GREY: Final = 60  # median grey value of what is not black, where the picture shows no glass [0–255]
DARK_SHARE: Final = 0.5  # of the picture below DARK_GREY
LEAST_TISSUE: Final = 0.0005  # share of the overview
GREY_TINT: Final = 0.08  # median of (greatest − least) / total density; real H&E: 0.16 and more
BROWN_SHARE: Final = 0.08  # of coloured tissue; real H&E: 0.04 and less (brown dye), real DAB: 0.14 and more
GREEN_SHARE: Final = 0.35  # of coloured tissue that absorbs green most; real H&E: 0.41 and more
HUE_SPREAD: Final = 0.03  # of red's part in the density, 5th to 95th percentile; real H&E: 0.04 and more
_DENSE: Final = 0.10  # mean density from which a pixel counts as tissue
_DEEP: Final = 0.15  # from which its brown counts: pale places are brownish in H&E, too
_INK: Final = 1.1  # mean density from which a colourless pixel is ink or print
_FILL: Final = 8  # grey value up to which a scanner may have filled in
_OVERVIEW_PX: Final = 1024
_FIELDS: Final = 32
_FIELD_PX: Final = 96
_FIELD_UM: Final = 96.0
_LEAST_PX: Final = 300  # coloured pixels without which no hue is judged

OTHER_STAIN_ADVICE: Final = (
    "Leave it out, or switch the check off (stain_check=off, --no-stain-check) if you know better"
)


class Stain(NamedTuple):
    """What a picture is, by rule.

    Attributes
    ----------
    kind : :data:`HE` or what it is instead
    tissue : share of the overview that absorbs [0–1]
    tint : median of (greatest − least) / total optical density of tissue; 0 is grey
    brown : share of coloured tissue that absorbs blue most, then green [0–1]
    green : share of coloured tissue that absorbs green most [0–1]
    spread : 5th to 95th percentile of red's part in the density of tissue
    grey : median grey value of what is not black [0–255]
    glass : whether the picture shows bright glass
    """

    kind: str
    tissue: float
    tint: float
    brown: float
    green: float
    spread: float
    grey: float
    glass: bool

    def sentence(self) -> str:
        """What it is and the number that says so."""
        return {
            HE: "looks like H&E",
            FLUORESCENCE: f"bright on dark, as in fluorescence: median grey {self.grey:.0f}, no glass",
            EMPTY: f"no tissue: {self.tissue:.2%} absorbs light in colour (ink and print do not count)",
            GREY: f"grey or print: colours differ by {self.tint:.2f} of the density, H&E by 0.16 and more",
            BROWN: f"brown, as DAB in immunohistochemistry: {self.brown:.0%} of the tissue, H&E 4 % and less",
            ONE_STAIN: f"one stain: hues spread over {self.spread:.3f}, H&E over 0.04 and more",
            FOREIGN: f"other colours than H&E: {self.green:.0%} of the tissue absorbs green most, H&E 41 % and more",
        }[self.kind]


def stain_of(slide: Slide) -> Stain:
    """Judge a slide by an overview and some fields of its tissue at about 1 µm/px.

    Raises SlideError: nothing can be decoded.
    """
    overview = slide.thumbnail(_OVERVIEW_PX, damaged=(255, 255, 255))
    glass = glass_level(overview)
    read = slide.read_tiles(_places(slide, overview, glass), _FIELD_PX)
    fields = [tile for tile in read if not isinstance(tile, SlideError)]
    found = stain_by_rule(overview, fields or [overview], glass)
    if found.kind == EMPTY:
        slide.thumbnail(_OVERVIEW_PX)  # what cannot be decoded is white above: then this is the error that helps
    return found


def check_stain(slide: Slide) -> None:
    """Raise SlideError where a slide is not H&E by :func:`stain_of`."""
    found = stain_of(slide)
    if found.kind != HE:
        raise SlideError(f"Slide {slide.path.name} is not H&E: {found.sentence()}", fix=OTHER_STAIN_ADVICE)


def stain_of_pictures(pictures: Iterable[Rgb]) -> Stain:
    """Judge tiles of one source together, uint8 RGB (height, width, 3) each."""
    small = [cv2.resize(p, (_FIELD_PX, _FIELD_PX), interpolation=cv2.INTER_AREA) for p in pictures]
    whole = np.asarray(np.concatenate(small), np.uint8)
    return stain_by_rule(whole, [whole], glass_level(whole))


def foreign_picture(path: Path) -> str:
    """Why an image file is surely no H&E; "" where it may be."""
    told = foreign_tile(np.asarray(Image.open(path).convert("RGB")))
    return f"The image {path.name} is not H&E: {told}. {OTHER_STAIN_ADVICE}." if told else ""


def foreign_tile(pixels: Rgb) -> str:
    """Why a single tile is surely no H&E; "" where it may be: it may be empty or of one hue."""
    found = stain_of_pictures([pixels])
    return "" if found.kind in (HE, EMPTY, ONE_STAIN) else found.sentence()


def stain_by_rule(overview: Rgb, fields: list[Rgb], glass: SlideGlass) -> Stain:
    """The rule: `overview` of the whole tells light and tissue, `fields` of tissue tell colours."""
    shades = overview.reshape(-1, 3).mean(axis=1)
    lit = shades[overview.reshape(-1, 3).max(axis=1) > _FILL]
    grey = float(np.median(lit)) if len(lit) else 0.0
    tissue = float(_absorbing(overview, glass)[1].mean())
    density, coloured, tint = _colours(fields, glass)
    total = density.sum(axis=1)
    red, green, blue = density[coloured].T if coloured.any() else np.zeros((3, 0))
    brown = float(((blue > 1.1 * green) & (green > red) & (red + green + blue > 3 * _DEEP)).mean()) if len(red) else 0.0
    most = float(((green >= red) & (green >= 0.95 * blue)).mean()) if len(red) else 0.0
    spread = float(np.subtract(*np.percentile((density[:, 0] / total), [95, 5]))) if len(total) else 0.0
    numbers = (tissue, tint, brown, most, spread, grey, glass.found)
    dark = (shades < DARK_GREY).mean() > DARK_SHARE
    unlike = not glass.found and (grey < DARK_GREY / 2 or most < GREEN_SHARE or tint < GREY_TINT)
    if dark and len(lit) and (unlike or _like_brightfield(overview) < 0.5):
        kind = FLUORESCENCE
    elif not len(lit) or tissue < LEAST_TISSUE or not len(total):
        kind = EMPTY
    elif tint < GREY_TINT and brown < BROWN_SHARE:
        kind = GREY
    elif len(red) < _LEAST_PX:
        kind = HE  # too little to tell more
    elif brown > BROWN_SHARE:
        kind = BROWN
    elif most < GREEN_SHARE:
        kind = FOREIGN
    else:
        kind = ONE_STAIN if spread < HUE_SPREAD else HE
    return Stain(kind, *numbers)


def _like_brightfield(overview: Rgb) -> float:
    """Share of what is not dark that is white, or has least green as H&E has; 1 where everything is dark."""
    pixels = overview.reshape(-1, 3).astype(np.int_)
    lit = pixels[pixels.mean(axis=1) >= DARK_GREY]
    white = lit.min(axis=1) > 200
    return float((white | (lit[:, 1] < lit.min(axis=1) + 3) & (np.ptp(lit, axis=1) > 10)).mean()) if len(lit) else 1.0


def _absorbing(picture: Rgb, glass: SlideGlass) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Density of each pixel, and where it is tissue: absorbing, neither filled in black nor ink."""
    density = density_over_glass(picture, glass)
    mean = density.mean(axis=2)
    tint = density.max(axis=2) - density.min(axis=2)
    ink = (mean > _INK) & (tint < GREY_TINT * 3 * mean)
    return density, (mean > _DENSE) & (picture.max(axis=2) > _FILL) & ~ink


def _colours(fields: list[Rgb], glass: SlideGlass) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Densities of tissue in the fields (n, 3), which of them are coloured, and the median tint."""
    parts = []
    for field in fields:
        density, tissue = _absorbing(np.asarray(cv2.blur(field, (2, 2)), np.uint8), glass)
        parts.append(density[tissue])
    density = np.concatenate(parts)
    if not len(density):
        return density, np.zeros(0, np.bool_), 0.0
    tint = (density.max(axis=1) - density.min(axis=1)) / density.sum(axis=1)
    return density, tint > GREY_TINT, float(np.median(tint))


def _places(slide: Slide, overview: Rgb, glass: SlideGlass) -> list[Square]:
    """Squares of about 96 µm on tissue, evenly spread [level-0 px]; none where the overview shows no tissue."""
    width, height = slide.dimensions
    side = min(max(_FIELD_PX, round(_FIELD_UM / slide.mpp)), width, height)
    scale = overview.shape[1] / width
    window = max(1, round(side * scale))
    share = cv2.blur(_absorbing(overview, glass)[1].astype(np.float32), (window, window))
    rows, columns = np.nonzero(share > max(0.5 * float(share.max()), 0.02))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_FIELDS, len(rows))).round().astype(int))
    corners = [(columns[i] / scale - side / 2, rows[i] / scale - side / 2) for i in chosen]
    return [Square(int(np.clip(x, 0, width - side)), int(np.clip(y, 0, height - side)), side) for x, y in corners]
