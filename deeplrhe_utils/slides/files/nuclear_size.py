"""An estimate of a slide's resolution from the size of its nuclei: offered to the user, never applied.

Haematoxylin absorbs red light, eosin hardly does, so nuclei are dark discs of about one size in the red channel. A disc
answers a Laplacian of Gaussian most where its diameter is 2√2 σ (Lindeberg, Int J Comput Vision 30:79, 1998). In every
field, the scale is sought at which the answers, to the fourth power (few strong ones count, much weak texture does
not), are greatest; the nuclei's diameter in pixels follows, and the resolution from the diameter that nuclei had on
slides of known resolution. Nothing but Gaussian scales enters, so that a picture of half the size gives twice the
micrometres per pixel.

How far to trust it: nuclei differ between tissues. The interval comes from six slides of six patients, five lung
tumours and one skin; another organ, a stain without haematoxylin or a smear may lie outside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.quality.stains import HE, stain_of
from deeplrhe_utils.slides.reading.reader import Slide

CALIBRATION_UM: Final = (5.08, 5.93, 4.68, 4.62, 5.03, 4.45)
"""Nuclear diameter by :func:`estimate_slide` on real slides of known resolution [µm]: TCGA-21-5784, -21-5786, -38-6178,
-44-2665, -50-5931 (lung, 40×, MoNuSeg fields; 0.2468 or 0.2527 µm/px) and CMU-1 (skin, 20×, 0.499 µm/px)."""
CONFIDENCE: Final = 0.98
CONVENTIONAL: Final = {40: (0.22, 0.28), 20: (0.44, 0.56), 10: (0.88, 1.12)}
"""Resolutions of real scanners that are called by an objective power [µm/px]."""
MIN_NUCLEI: Final = 50

_FIELD_PX: Final = 512
_SMALLEST_FIELD_PX: Final = 96
_MAX_FIELDS: Final = 24
_THUMBNAIL_PX: Final = 1024
_TISSUE_DENSITY: Final = 0.12  # mean optical density (natural logarithm) from which a pixel is not glass
_MIN_TISSUE: Final = 0.5  # share of a field
_INK_DENSITY: Final = 1.5  # red absorbance that nuclei seldom pass, but ink, folds and carbon do: cut there
_MIN_RESPONSE: Final = 0.02
_MIN_CONTRAST: Final = 0.12  # median answer of the nuclei; 0.19 was the least on slides with visible nuclei
_STEP: Final = 2**0.25  # ratio of two neighbouring scales
_POWER: Final = 4
_DIAMETER_PER_SIGMA: Final = 2 * np.sqrt(2)
_UNKNOWN_MPP: Final = 0.5  # a slide cannot be opened without a resolution; no number here depends on its value

_Rgb = NDArray[np.uint8]
Gray = NDArray[np.float32]


class FieldSize(NamedTuple):
    """Nuclei of one field: diameter [px], and how many were counted."""

    diameter_px: float
    n_nuclei: int


class MppEstimate(NamedTuple):
    """A resolution as nuclei suggest it.

    Attributes
    ----------
    mpp, low, high : estimate and its interval [µm/px]: where 98 of 100 slides like those of the calibration lie, if
        their logarithms are normal. With one slide left out at a time, all 6 lay inside, at 0.25, 0.35, 0.5 and 1
        µm/px; the estimates were wrong by a factor of 1.09 (median) and 1.25 (worst).
    diameter_px : diameter of the nuclei [level-0 px]
    n_nuclei, n_fields : what it rests on
    objective : conventional power, where the interval touches the range of that one only
    """

    mpp: float
    low: float
    high: float
    diameter_px: float
    n_nuclei: int
    n_fields: int
    objective: int | None

    def sentence(self) -> str:
        """One line for a table."""
        fits = f"fits {self.objective}× only" if self.objective else "cannot tell which objective"
        return (
            f"estimate {self.mpp:.2f} [{self.low:.2f}–{self.high:.2f}] µm/px from {self.n_nuclei} nuclei in "
            f"{self.n_fields} field{'s' * (self.n_fields != 1)}, {fits}; give it in mpp_csv if you believe it"
        )


def estimate_slide(path: Path) -> MppEstimate | None:
    """Estimate the level-0 resolution of a slide or plain image from its nuclei; what the file tells is not read.

    Returns MppEstimate or None: none with fewer than :data:`MIN_NUCLEI` nuclei, none that stand out, or no H&E: letters
    have sizes, too.
    Raises SlideError: the file cannot be opened, or not even a thumbnail can be decoded.
    """
    with Slide(path, mpp=_UNKNOWN_MPP) as slide:
        side = min(_FIELD_PX, *slide.dimensions)
        if side < _SMALLEST_FIELD_PX:
            return None
        places = _places(slide, side)
        if stain_of(slide).kind != HE:
            return None
        fields = (_read(slide, x, y, side) for x, y in places)
        diameter, n_nuclei, n_fields = _summarise(measure_field(f) for f in fields if f is not None)
    if n_nuclei < MIN_NUCLEI:
        return None
    mpp, low, high = size_interval(CALIBRATION_UM, diameter)
    return MppEstimate(mpp, low, high, diameter, n_nuclei, n_fields, objective_of(low, high))


def doubt_of(path: Path, mpp: float) -> str:
    """A sentence where the nuclei contradict a resolution that somebody gave [µm/px]; "" where they do not."""
    found = estimate_slide(path)
    if found is None or found.low <= mpp <= found.high:
        return ""
    return (f"{mpp:.4g} µm/px was given, but {found.n_nuclei} nuclei say {found.mpp:.2f} "
            f"[{found.low:.2f}–{found.high:.2f}]")  # fmt: skip


def size_interval(calibration_um: Sequence[float], diameter_px: float) -> tuple[float, float, float]:
    """Resolution and its prediction interval for a further slide [µm/px].

    Logarithms of the diameters are taken as normal; with n slides the interval is the mean ± t · s · √(1 + 1/n).

    >>> [round(v, 3) for v in size_interval((5.0, 5.0, 4.0, 4.0), 10.0)]
    [0.447, 0.233, 0.86]
    """
    logs = np.log(calibration_um)
    n = len(logs)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / n)
    centre = logs.mean() - np.log(diameter_px)
    return float(np.exp(centre)), float(np.exp(centre - half)), float(np.exp(centre + half))


def objective_of(low: float, high: float) -> int | None:
    """The only conventional objective power whose resolutions meet an interval [µm/px]; None for none or several.

    >>> objective_of(0.19, 0.33), objective_of(0.25, 0.46)
    (40, None)
    """
    met = [power for power, (least, most) in CONVENTIONAL.items() if low <= most and high >= least]
    return met[0] if len(met) == 1 else None


def measure_field(pixels: _Rgb) -> FieldSize | None:
    """Size of the nuclei in one field.

    Parameters
    ----------
    pixels : ndarray, shape (height, width, 3), uint8; RGB, some hundred pixels a side

    Returns FieldSize or None: none where half of it is glass, or where no scale between 3 px and a sixth of the field
    stands out.
    """
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    if (density.mean(2) > _TISSUE_DENSITY).mean() < _MIN_TISSUE:
        return None
    largest = max(min(pixels.shape[:2]) / 6 / _DIAMETER_PER_SIGMA, 4.0)
    sigmas, answers = _scale_space(np.minimum(density[..., 0], _INK_DENSITY), largest)
    energy = np.array([np.mean(np.maximum(a, 0) ** _POWER) for a in answers])
    best = _highest_peak(energy)
    if best is None:
        return None
    n_nuclei, contrast = _count(answers[best])
    shift = _vertex(np.log(energy[best - 1 : best + 2]))
    diameter = _DIAMETER_PER_SIGMA * sigmas[best] * _STEP**shift
    return FieldSize(float(diameter), n_nuclei) if contrast >= _MIN_CONTRAST else None


def _scale_space(absorbance: Gray, largest: float) -> tuple[list[float], list[Gray]]:
    """Differences of Gaussians (positive on dark discs) at scales from one pixel to `largest` [px].

    Coarse scales are computed on halved pictures: the same numbers for a fraction of the time.
    """
    picture, blurred, half, sigma = absorbance, 0.0, 1, 1.0
    sigmas: list[float] = []
    answers: list[Gray] = []
    previous: Gray | None = None
    while sigma <= largest * _STEP:
        if sigma / half > 8:
            picture, half = _halved(picture), half * 2
            previous = None if previous is None else _halved(previous)
        more = np.sqrt(sigma**2 - blurred**2) / half
        blur = cv2.GaussianBlur(picture, (0, 0), more, borderType=cv2.BORDER_REFLECT_101)
        picture, blurred = np.asarray(blur, np.float32), sigma
        if previous is not None:
            sigmas.append(sigma / np.sqrt(_STEP))
            answers.append((previous - picture) / (_STEP - 1))
        previous, sigma = picture, sigma * _STEP
    return sigmas, answers


def _halved(picture: Gray) -> Gray:
    size = (max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _highest_peak(energy: NDArray[np.floating]) -> int | None:
    """Index of the highest inner maximum; the ends are no sizes, only where the search stopped."""
    inner = [i for i in range(1, len(energy) - 1) if energy[i - 1] < energy[i] >= energy[i + 1] and energy[i - 1] > 0]
    return max(inner, key=lambda i: energy[i]) if inner else None


def _vertex(three: NDArray[np.floating]) -> float:
    """Where the parabola through three values has its maximum, in steps from the middle one."""
    bend = three[0] - 2 * three[1] + three[2]
    return float(0.5 * (three[0] - three[2]) / bend) if bend < 0 else 0.0


def _count(answer: Gray) -> tuple[int, float]:
    """Number of nuclei (maxima above Otsu's threshold of all maxima) and their median answer."""
    peaks = answer[(answer == cv2.dilate(answer, np.ones((3, 3), np.uint8))) & (answer > _MIN_RESPONSE)]
    if not len(peaks):
        return 0, 0.0
    top = float(peaks.max())
    cut = cv2.threshold((peaks / top * 255).astype(np.uint8)[None], 0, 255, cv2.THRESH_OTSU)[0] / 255 * top
    strong = peaks[peaks > cut]
    return len(strong), float(np.median(strong)) if len(strong) else 0.0


def _summarise(found: Iterable[FieldSize | None]) -> tuple[float, int, int]:
    """Median diameter of the fields, weighted by their nuclei [px], number of nuclei and of fields."""
    fields = sorted(f for f in found if f is not None and f.n_nuclei)
    if not fields:
        return float("nan"), 0, 0
    weights = np.cumsum([f.n_nuclei for f in fields])
    middle = weights - 0.5 * np.array([f.n_nuclei for f in fields])
    median = np.exp(np.interp(weights[-1] / 2, middle, np.log([f.diameter_px for f in fields])))
    return float(median), int(weights[-1]), len(fields)


def _starts(length: int, side: int) -> NDArray[np.int64]:
    return np.linspace(0, length - side, max(1, round(length / side))).astype(np.int64)


def _places(slide: Slide, side: int) -> list[tuple[int, int]]:
    """Corners of fields of tissue [level-0 px]; of many, some of the half that absorbs most red, evenly spread."""
    lefts, tops = (_starts(length, side) for length in slide.dimensions)
    density = -np.log((slide.thumbnail(_THUMBNAIL_PX).astype(np.float32) + 1) / 256)
    size = (len(lefts), len(tops))
    tissue = cv2.resize((density.mean(2) > _TISSUE_DENSITY).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    red = cv2.resize(density[..., 0], size, interpolation=cv2.INTER_AREA)
    wanted = tissue >= _MIN_TISSUE
    if wanted.sum() > _MAX_FIELDS:
        wanted &= red >= np.median(red[wanted])
    rows, columns = np.nonzero(wanted)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_MAX_FIELDS, len(rows))).astype(int))
    return [(int(lefts[columns[i]]), int(tops[rows[i]])) for i in chosen]


def _read(slide: Slide, x: int, y: int, side: int) -> _Rgb | None:
    """One field; None where it cannot be decoded, for others may be."""
    try:
        return slide.read_tile(x, y, side, side)
    except SlideError:
        return None
