"""Heat maps: tile scores written to the pixels they came from, registered to level 0.

Source: DeepLRHE section "Heat Map Generation": scan with a 512 × 512 window, write the window's result to its
pixels, average where windows overlap, red for high and blue for low. Without overlap the average changes nothing.

:func:`accumulate` draws on a thumbnail; :func:`heat_bands` does the same for slides of any size, in bands, and can
weight windows and tell how far folds or seeds differ. All places are level-0 pixels of OpenSlide's full canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError

PALETTES = {"paper": "RdBu_r", "perceptual": "viridis"}
UNCERTAINTY: Final = "magma"
"""Colours of standard deviations: another scale than scores have, so that the two are not taken for each other."""


def accumulate(
    tiles: pd.DataFrame, scores: NDArray[np.float64], width_l0_px: int, height_l0_px: int, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Mean score of the windows that cover each pixel of a map.

    Parameters
    ----------
    tiles : columns x_l0_px, y_l0_px, size_l0_px: the windows [level-0 px]
    scores : (n,): one score per window; NaN windows are left out
    width_l0_px, height_l0_px : the slide [level-0 px]
    shape : (height, width): the map [px]; it spans the whole slide

    Returns
    -------
    float64 (height, width), NaN where nothing was measured. A map pixel takes a window's score when its
    centre lies inside the window, so the map is never displaced by more than half a map pixel.
    """
    height, width = shape
    total, count = np.zeros(shape), np.zeros(shape)
    step_x, step_y = width_l0_px / width, height_l0_px / height
    for x, y, size, score in zip(tiles["x_l0_px"], tiles["y_l0_px"], tiles["size_l0_px"], scores, strict=True):
        if np.isnan(score):
            continue
        if x < 0 or y < 0 or x + size > width_l0_px + 1 or y + size > height_l0_px + 1:
            raise InputError("A scored window lies outside its slide", got=f"x={x}, y={y}, size={size} level-0 px",
                             expected=f"inside {width_l0_px} × {height_l0_px}")  # fmt: skip
        rows = slice(_first_centre(y, step_y), _first_centre(y + size, step_y))
        columns = slice(_first_centre(x, step_x), _first_centre(x + size, step_x))
        total[rows, columns] += score
        count[rows, columns] += 1
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def _first_centre(edge_l0_px: float, step: float) -> int:
    """Index of the first map pixel whose centre is at or beyond an edge."""
    return int(np.ceil(float(edge_l0_px) / step - 0.5))


def overlay(
    thumbnail: NDArray[np.uint8], heat: NDArray[np.float64], *, palette: str = "paper", opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Blend a map with a thumbnail of the same shape, (h, w, 3) uint8; unmeasured pixels stay as they are."""
    if palette not in PALETTES:
        raise InputError("Unknown palette", got=palette, expected=" | ".join(PALETTES))
    colours = matplotlib.colormaps[PALETTES[palette]](np.nan_to_num(heat, nan=0.5))[..., :3] * 255.0
    alpha = np.where(np.isnan(heat), 0.0, opacity)[..., None]
    return np.asarray(np.rint(thumbnail * (1 - alpha) + colours * alpha)).astype(np.uint8)


@dataclass(frozen=True)
class Scale:
    """Where on a palette a score lies, 0 to 1: as it is, or, with a `base`, by its odds against those of the base.

    Attributes
    ----------
    base : probability in the palette's middle, in (0, 1); None: scores as they are
    factor : odds at the palette's end, in those of the base; 1/factor at its beginning
    """

    base: float | None = None
    factor: float = 4.0

    @classmethod
    def around(cls, scores: NDArray[np.floating], known: NDArray[np.floating]) -> Self:
        """The scale of a gene over a whole run.

        Parameters
        ----------
        scores : of all windows, NaN where none
        known : labels 0 and 1; their mean is the base, or, where they are of one kind or none, the mean score

        The ends are the power of two, 2 to 64, that 95 % of the scores stay within. Without a base: scores as they are.
        """
        seen = scores[np.isfinite(scores)]
        means = [float(x.mean()) for x in (known[np.isfinite(known)], seen) if len(x) and 0 < x.mean() < 1]
        if not means or not len(seen):
            return cls()
        far = float(np.quantile(np.abs(_log_odds(seen) - _log_odds(means[0])), 0.95)) / math.log(2)
        return cls(means[0], 2.0 ** min(max(math.ceil(far), 1), 6))

    def place(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Places of scores, clipped to [0, 1] against a base; NaN stays."""
        values = np.asarray(scores, float)
        if self.base is None:
            return values
        return np.clip(0.5 + (_log_odds(values) - _log_odds(self.base)) / (2 * math.log(self.factor)), 0, 1)

    def score(self, odds: float) -> float:
        """The score whose odds are `odds` times the base's; without a base 0.5."""
        return 0.5 if self.base is None else odds * self.base / (1 - self.base + odds * self.base)

    @property
    def ticks(self) -> dict[float, str]:
        """Place → its name on a colour bar."""
        return {0: "0", 0.5: "0.5", 1: "1"} if self.base is None else {
            0: f"1/{self.factor:g} ×", 0.5: "1 ×", 1: f"{self.factor:g} ×"}  # fmt: skip

    @property
    def label(self) -> str:
        """What the places mean."""
        return "score" if self.base is None else f"odds, in those of {self.base:.2f}"


AS_SCORED: Final = Scale()
"""Scores from 0 to 1."""


def _log_odds(scores: Any) -> NDArray[np.float64]:
    inside = np.clip(np.asarray(scores, float), 1e-6, 1 - 1e-6)
    return np.log(inside) - np.log1p(-inside)


@dataclass(frozen=True)
class Frame:
    """Where a map lies on its slide: map pixel (row, column) covers step × step level-0 pixels from the top left.

    Attributes
    ----------
    width_l0_px, height_l0_px : the slide [level-0 px]: OpenSlide's full canvas, not the scanned part of it
    mpp : resolution of level 0 [µm/px]
    columns, rows : the map [px]
    step_x, step_y : level-0 pixels per map pixel
    """

    width_l0_px: int
    height_l0_px: int
    mpp: float
    columns: int
    rows: int
    step_x: float
    step_y: float

    def __post_init__(self) -> None:
        if min(self.width_l0_px, self.height_l0_px, self.columns, self.rows) < 1:
            got = f"{self.width_l0_px} × {self.height_l0_px} level-0 px, {self.columns} × {self.rows} map px"
            raise InputError("A slide and its map have at least one pixel", got=got)
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise InputError("A heat map needs the resolution of its slide", got=self.mpp, expected="µm/px above 0")

    @classmethod
    def at(cls, width_l0_px: int, height_l0_px: int, mpp: float, map_mpp: float) -> Self:
        """A map whose pixels are a whole number of level-0 pixels wide, as near to `map_mpp` [µm/px] as that allows.

        Pixels are never wider than the slide. The last column and row may reach over the slide's edge.
        """
        if not (math.isfinite(map_mpp) and map_mpp > 0):
            raise ParameterError("The resolution of a heat map is out of range", got=map_mpp, expected="µm/px above 0")
        step = max(1, min(round(map_mpp / mpp) if mpp > 0 else 1, width_l0_px, height_l0_px))
        return cls(width_l0_px, height_l0_px, mpp, -(-width_l0_px // step), -(-height_l0_px // step), step, step)

    @classmethod
    def fit(cls, width_l0_px: int, height_l0_px: int, mpp: float, shape: tuple[int, int]) -> Self:
        """A map of `shape` (rows, columns) [px] that spans the whole slide, such as over a thumbnail."""
        rows, columns = shape
        step_x, step_y = width_l0_px / max(columns, 1), height_l0_px / max(rows, 1)
        return cls(width_l0_px, height_l0_px, mpp, columns, rows, step_x, step_y)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) [px]."""
        return self.rows, self.columns


class Band(NamedTuple):
    """Some rows of a map.

    ``top_px`` : first row. ``mean`` : score, float32 (rows, columns), NaN where nothing was measured. ``sd`` : standard
    deviation over folds or seeds, the same shape, NaN where fewer than two gave a score. ``windows`` : uint32, how many
    windows cover the pixel (of the fold or seed with most).
    """

    top_px: int
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    windows: NDArray[np.uint32]


def heat_bands(
    tiles: pd.DataFrame, scores: NDArray[np.float64], frame: Frame, *, weights: str = "uniform", band_px: int = 256
) -> Iterator[Band]:
    """Map of window scores in bands from the top: memory does not grow with the height of the slide.

    Parameters
    ----------
    tiles : columns x_l0_px, y_l0_px, size_l0_px: the windows [level-0 px], in any order, overlapping or not
    scores : (n,) or (n, k): probability [0–1] of each window, by each of k folds or seeds; NaN where it was not scored
    weights : ``uniform``: the paper's mean of the windows that cover a pixel. ``triangular``, ``gaussian``: windows
        count most at their centre, so that overlapping windows leave no steps; the same where windows do not overlap.
    band_px : rows of a band

    Yields Band: rows in order, each once. The mean over folds is that of the maps of those that scored the pixel.

    Raises InputError: a window is not inside the slide, a size is not positive, a score is no probability, or map
    pixels are wider than the windows, so that some would vanish.

    A map pixel takes part in a window when its centre lies inside, as in :func:`accumulate`. Weights are separable,
    so the windows of one height are summed along x first, and each sum is spread along y.
    Source: ours; the paper averages without weights.
    """
    if weights not in WEIGHTS:
        raise ParameterError("There are no such window weights", got=weights, expected=" | ".join(WEIGHTS))
    values = _checked_scores(scores, len(tiles))
    check_windows(tiles, frame)
    groups = _groups(tiles, frame)
    for top in range(0, frame.rows, band_px):
        below = min(top + band_px, frame.rows)
        here = [g for g in groups if g.first < below and g.last > top]
        yield _band(here, values, frame, WEIGHTS[weights], top, below)


def heat_map(tiles: pd.DataFrame, scores: NDArray[np.float64], frame: Frame, *, weights: str = "uniform") -> Band:
    """The whole map at once, for maps of screen size; parameters and errors as :func:`heat_bands`."""
    return next(heat_bands(tiles, scores, frame, weights=weights, band_px=frame.rows))


def check_windows(tiles: pd.DataFrame, frame: Frame) -> None:
    """Raise :class:`InputError` unless every window lies inside the slide and is wider than a map pixel."""
    x, y, size = (tiles[c].to_numpy(float, na_value=np.nan) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    inside = (x >= 0) & (y >= 0) & (size > 0)
    inside &= (x + size <= frame.width_l0_px + 1) & (y + size <= frame.height_l0_px + 1)  # False for NaN, too
    if not inside.all():
        i = int(np.flatnonzero(~inside)[0])
        got = f"x={x[i]:g}, y={y[i]:g}, size={size[i]:g} level-0 px ({int((~inside).sum())} of {len(x)} windows)"
        raise InputError("A scored window lies outside its slide", got=got,
                         expected=f"inside {frame.width_l0_px} × {frame.height_l0_px}",
                         fix="Take the tiles table and the slide of one run")  # fmt: skip
    widest = max(frame.step_x, frame.step_y)
    if len(size) and size.min() < widest:
        raise InputError("Map pixels are wider than the windows: windows would vanish between them",
                         got=f"windows of {size.min():g}, pixels of {widest:g} level-0 px",
                         fix="Draw the map at a finer resolution")  # fmt: skip


def _checked_scores(scores: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    if len(values) != n:
        raise InputError("Scores and windows are not of one number", got=f"{values.shape} scores", expected=f"{n}")
    wrong = ~np.isnan(values) & ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise InputError("A score is no probability", got=values[wrong][0], expected="0 to 1, or NaN where not scored")
    return values


class _Group(NamedTuple):
    """Windows of one height and size: their map rows [first, last), and along x their places in the table."""

    first: int
    last: int
    y: float
    size: float
    x: NDArray[np.float64]
    members: NDArray[np.intp]


def _groups(tiles: pd.DataFrame, frame: Frame) -> list[_Group]:
    x, y, size = (tiles[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    order = np.lexsort((x, size, y))
    ends = np.flatnonzero((np.diff(y[order]) != 0) | (np.diff(size[order]) != 0)) + 1
    found = []
    for members in np.split(order, ends) if len(order) else []:
        top, side = y[members[0]], size[members[0]]
        first, last = _first_centre(top, frame.step_y), _first_centre(top + side, frame.step_y)
        found.append(_Group(first, min(last, frame.rows), top, side, x[members], members))
    return found


Weight = Callable[[NDArray[Any]], NDArray[np.float64]]
"""Weight of a pixel, given its distance from the window's centre in sides of the window (−0.5 to 0.5)."""
WEIGHTS: Final[dict[str, Weight]] = {
    "uniform": lambda u: np.ones(u.shape),
    "triangular": lambda u: np.maximum(1 - 2 * np.abs(u), 1e-3),  # never 0: what was measured is never bare
    "gaussian": lambda u: np.exp(-0.5 * (6 * u) ** 2),  # the side is six standard deviations
}


def _profile(group: _Group, frame: Frame, weight: Weight) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray]:
    """Along x: map column, weight and window (its place in the group) of every pixel of every window."""
    edges = np.stack([group.x, group.x + group.size]) / frame.step_x - 0.5
    first, last = np.ceil(edges).astype(np.intp)
    last = np.minimum(last, frame.columns)
    column = first[:, None] + np.arange(max(int((last - first).max()), 0))
    inside = column < last[:, None]
    u = ((column + 0.5) * frame.step_x - group.x[:, None]) / group.size - 0.5
    window = np.broadcast_to(np.arange(len(group.x))[:, None], column.shape)
    return column[inside], weight(u[inside]), window[inside]


def _band(
    groups: list[_Group], values: NDArray[np.float64], frame: Frame, weight: Weight, top: int, below: int
) -> Band:
    shape = (below - top, frame.columns)
    maps = [(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.uint32)) for _ in range(values.shape[1])]
    for group in groups:
        rows = np.arange(max(group.first, top), min(group.last, below))
        down = weight(((rows + 0.5) * frame.step_y - group.y) / group.size - 0.5)[:, None]
        column, across, window = _profile(group, frame, weight)
        if not len(column):
            continue
        left, span = int(column.min()), int(column.max()) + 1 - int(column.min())
        for k, (total, norm, count) in enumerate(maps):
            score = values[group.members, k][window]
            known = ~np.isnan(score)
            place, w = column[known] - left, across[known]
            part = slice(rows[0] - top, rows[-1] + 1 - top), slice(left, left + span)
            total[part] += down * np.bincount(place, w * score[known], span)
            norm[part] += down * np.bincount(place, w, span)
            count[part] += np.bincount(place, minlength=span).astype(np.uint32)
    return _over_folds(maps, top)


def _over_folds(maps: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint32]]], top: int) -> Band:
    """Mean and standard deviation of several maps, each pixel over those that measured it (Welford)."""
    number, mean, squares = (np.zeros(maps[0][0].shape) for _ in range(3))
    windows = np.zeros(maps[0][0].shape, np.uint32)
    for total, norm, count in maps:
        measured = norm > 0
        number += measured
        value = np.divide(total, norm, out=np.zeros_like(total), where=measured)
        difference = np.where(measured, value - mean, 0.0)
        mean += np.divide(difference, number, out=np.zeros_like(mean), where=measured)
        squares += difference * np.where(measured, value - mean, 0.0)
        windows = np.maximum(windows, count)
    sd = np.full(mean.shape, np.nan, np.float32)
    several = number > 1
    sd[several] = np.sqrt(squares[several] / (number[several] - 1))
    return Band(top, np.where(number > 0, mean, np.nan).astype(np.float32), sd, windows)


def colour_map(values: NDArray[Any], palette: str, low: float = 0.0, high: float = 1.0) -> NDArray[np.uint8]:
    """Colours of scores, uint8 (..., 3); values outside [low, high] take the end's colour, NaN is white.

    Palettes are those of :data:`PALETTES` and :data:`UNCERTAINTY`.
    """
    known = PALETTES | {"uncertainty": UNCERTAINTY}
    if palette not in known:
        raise InputError("Unknown palette", got=palette, expected=" | ".join(known))
    place = (np.nan_to_num(np.asarray(values, float), nan=low) - low) / (high - low)
    colours = matplotlib.colormaps[known[palette]](np.clip(place, 0, 1), bytes=True)[..., :3]
    colours[np.isnan(values)] = 255
    return np.asarray(colours, np.uint8)
