"""What the explorer shows without a kernel: the surest windows in their framed_window, and scores inside outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.reporting.explorer.views import Pixels, SlideView, neighbours
from deeplrhe_utils.reporting.heatmaps.bands import accumulate, overlay
from deeplrhe_utils.slides.outlines.find import find_annotation, read_annotation, tumour_fractions, tumour_outline

SIDE_PX: Final = 224
AROUND: Final = 3
"""The surroundings of a window are so many windows wide."""
_INSIDE: Final = 0.5
"""A window counts as inside an outline from this share of its area on."""
NO_OUTLINE: Final = "none"
_ENDS: Final = 2


class Rows(NamedTuple):
    """Pictures, one row per slide: heat map, highest windows, lowest windows; and the titles of the rows."""

    pictures: list[list[NDArray[np.uint8]]]
    titles: list[str]


def framed_window(view: SlideView, pixels: Pixels, place: int) -> NDArray[np.uint8]:
    """A window framed in what lies around it, :data:`AROUND` windows wide: (224, 224, 3), uint8 RGB.

    Raises SlideError: the pixels cannot be decoded.
    """
    x, y, side = (float(view.windows[name].iloc[place]) for name in ("x_l0_px", "y_l0_px", "size_l0_px"))
    margin = side * (AROUND - 1) / 2
    picture = pixels.region(x - margin, y - margin, AROUND * side, SIDE_PX).copy()
    first, last = SIDE_PX // AROUND, (AROUND - 1) * SIDE_PX // AROUND
    for colour, width in (((255, 255, 255), 4), ((17, 17, 17), 2)):
        cv2.rectangle(picture, (first, first), (last, last), colour, width)
    return picture


def window_rows(views: Sequence[SlideView], gene: str, *, palette: str = "paper", opacity: float = 0.5) -> Rows:
    """Heat map, two highest and two lowest windows of each slide.

    Parameters
    ----------
    gene : a column of their windows. A slide without a score for it is left out.
    palette, opacity : of the heat map

    Returns Rows: windows of equal score come in the order of the table; none is shown twice.
    """
    pictures, titles = [], []
    for view in views:
        scores = view.windows[gene].to_numpy(float)
        order = [int(i) for i in np.argsort(-scores, kind="stable") if not np.isnan(scores[i])]
        if order:
            chosen = order[:_ENDS] + order[_ENDS:][-_ENDS:]
            pictures.append([heat_square(view, scores, palette, opacity), *_pictures(view, chosen)])
            titles.append(view.slide_id)
    return Rows(pictures, titles)


def _pictures(view: SlideView, chosen: Sequence[int]) -> list[NDArray[np.uint8]]:
    with Pixels(view) as pixels:
        return [framed_window(view, pixels, place) for place in chosen]


def heat_square(view: SlideView, scores: NDArray[np.float64], palette: str, opacity: float) -> NDArray[np.uint8]:
    """The slide's heat map over its thumbnail, centred on a white square: uint8 RGB."""
    high, wide = view.thumbnail.shape[:2]
    heat = accumulate(view.windows, scores, view.width_l0_px, view.height_l0_px, (high, wide))
    side = max(high, wide)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - high) // 2, (side - wide) // 2
    square[top : top + high, left : left + wide] = overlay(view.thumbnail, heat, palette=palette, opacity=opacity)
    return square


def inside_outline(
    views: Sequence[SlideView], gene: str, drawn: Path, given: Mapping[str, Path], tumour_classes: Sequence[str] = ()
) -> pd.DataFrame:
    """Scores inside and outside the tumour's outline.

    Parameters
    ----------
    gene : a column of their windows, or "" for none
    drawn : folder of outlines drawn in the viewer; they come before those that are given
    given : slide_id → annotation file
    tumour_classes : classes of the given files that are the tumour (`is_tumour`)

    Returns DataFrame: slide_id, outline (file name, or :data:`NO_OUTLINE`), n_inside, n_outside, mean_inside,
    mean_outside (null where there is nothing to average), note (why an outline that is there could not be used). One
    row per view.
    """
    columns = ["slide_id", "outline", "n_inside", "n_outside", "mean_inside", "mean_outside", "note"]
    return pd.DataFrame([_compared(view, gene, drawn, given, tumour_classes) for view in views], columns=columns)


def _compared(
    view: SlideView, gene: str, drawn: Path, given: Mapping[str, Path], tumour_classes: Sequence[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"slide_id": view.slide_id, "outline": NO_OUTLINE, "note": ""}
    try:
        own = find_annotation(drawn, view.slide_id)
        path = own or given.get(view.slide_id)
        if path is None or not path.is_file():
            return row
        size, classes = (view.width_l0_px, view.height_l0_px), () if own else tumour_classes
        outline = tumour_outline(read_annotation(path, slide_px=size, tumour_classes=classes))
    except CompendiumError as error:
        return {**row, "note": str(error)}
    place = (view.windows[name] for name in ("x_l0_px", "y_l0_px", "size_l0_px"))
    inside = tumour_fractions(outline, *place) >= _INSIDE
    scores = view.windows[gene].to_numpy(float) if gene in view.windows else np.full(len(inside), np.nan)
    sides = {"inside": scores[inside], "outside": scores[~inside]}
    counts = {f"n_{name}": len(own) for name, own in sides.items()}
    means = {f"mean_{name}": np.nanmean(own) if (~np.isnan(own)).any() else np.nan for name, own in sides.items()}
    return {**row, "outline": path.name, **counts, **means}


def window_points(views: Sequence[SlideView], gene: str) -> pd.DataFrame:
    """Every scored window with the mean score of the windows that touch it.

    Parameters
    ----------
    gene : a column of their windows

    Returns DataFrame: slide_id, tile_id, score, around (null where no neighbour was scored), in the order of the
    slides. Windows without a score are left out; ``attrs["unscored"]`` says how many.
    """
    parts, unscored = [], 0
    for view in views:
        own = view.windows[gene].to_numpy(float) if gene in view.windows else np.full(len(view.windows), np.nan)
        around = [(int(i), neighbours(view.windows, int(i))) for i in np.flatnonzero(~np.isnan(own))]
        names = view.windows["tile_id"].astype(str).to_numpy()
        rows = [(view.slide_id, names[i], own[i], _mean(own[beside])) for i, beside in around]
        parts += rows
        unscored += len(own) - len(rows)
    points = pd.DataFrame(parts, columns=["slide_id", "tile_id", "score", "around"])
    points.attrs["unscored"] = unscored
    return points


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
