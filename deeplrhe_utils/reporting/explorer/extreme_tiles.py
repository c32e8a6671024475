"""The windows with the highest and the lowest scores for a gene, each beside its slide with its place marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.text import said
from deeplrhe_utils.reporting.exports.contact_sheet import label_text, plain_text, short_name
from deeplrhe_utils.reporting.exports.picture import length_text, scale_bar_um
from deeplrhe_utils.reporting.figures.style import PALETTE, new_figure

SIDES: Final = {"top": "highest scores", "bottom": "lowest scores"}
_MARKS: Final = {"mutated": "■", "wild type": "□", "not profiled": "?"}
_SMALL: Final = 0.08
"""A window narrower than this share of its slide gets a ring, or it would not be found."""
_LETTERS: Final = 32
_SIDE_IN: Final = 1.45
_CELL_IN: Final = (3.1, 2.2)
_TITLE_IN: Final = 0.3
_HALO: Final = patheffects.withStroke(linewidth=2.5, foreground="white")


def wanted(chosen: pd.DataFrame, tiles: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Which pictures :func:`extreme_figure` shows: read these tiles, and a thumbnail of each slide.

    Parameters
    ----------
    chosen : ``table`` of `extreme_tiles`
    tiles : table TILES

    Returns dict: slide_id → its rows of `tiles`, as `peek` and
    `read_pixels` take them; slides in the order of `chosen`.

    Raises InputError: a chosen tile is not in the table.
    """
    rows = tiles[tiles["tile_id"].isin(chosen["tile_id"])]
    if len(lost := chosen.loc[~chosen["tile_id"].isin(rows["tile_id"]), "tile_id"]):
        raise InputError("A chosen tile is not in the tiles table", got=said(lost.iloc[0]),
                         fix="Take both tables of one run")  # fmt: skip
    return {str(name): rows[rows["slide_id"] == name] for name in chosen["slide_id"].drop_duplicates()}


def extreme_figure(
    chosen: pd.DataFrame, pictures: Mapping[str, NDArray[np.uint8]], thumbnails: Mapping[str, NDArray[np.uint8]],
    sizes: Mapping[str, tuple[int, int]], *, gene: str, columns: int = 4,
) -> Figure:  # fmt: skip
    """Rows of the highest windows, then rows of the lowest.

    Parameters
    ----------
    chosen : ``table`` of `extreme_tiles`
    pictures : tile_id → uint8 RGB (h, w, 3). A tile without one is an empty place that says so.
    thumbnails : slide_id → uint8 RGB (h, w, 3) of the whole slide; the same holds
    sizes : slide_id → (width, height) of the slide [level-0 px]
    gene : for the title; any text
    columns : windows side by side

    Returns Figure: under each window its score, its patient's label (if `chosen` has it), its patient and its tile_id,
    shortened so that no two have the same text. The place is framed on the thumbnail, and ringed where it is small.

    Raises InputError: there is nothing to show, or a window lies outside its slide.
    """
    if chosen.empty:
        raise InputError(f"There is no window of {said(gene)} to show")
    lines = [(side, part) for side in SIDES for part in _rows(chosen[chosen["side"] == side], columns)]
    figure = new_figure(_CELL_IN[0] * columns, _CELL_IN[1] * len(lines) + _TITLE_IN)
    figure.set_layout_engine("none")  # places are given, so that all windows have one size
    _write(figure, 0.05, 0.05, short_name(plain_text(gene), _LETTERS), size=11)
    above = ""
    for i, (side, part) in enumerate(lines):
        top = _TITLE_IN + i * _CELL_IN[1]
        if side != above:
            _write(figure, 0.05, top, SIDES[side], size=9, weight="bold")
        above = side
        for place, row in enumerate(part.to_dict("records")):
            left, name = 0.05 + place * _CELL_IN[0], str(row["slide_id"])
            _draw_tile(_axes(figure, left, top + 0.2), row, pictures.get(str(row["tile_id"])))
            _caption(figure, left, top + 0.25 + _SIDE_IN, row)
            _draw_place(_axes(figure, left + _SIDE_IN + 0.06, top + 0.2), row, thumbnails.get(name), sizes[name])
    return figure


def _axes(figure: Figure, left_in: float, top_in: float) -> Axes:
    """A square place for a picture, which lies at its top left."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left_in / width, 1 - (top_in + _SIDE_IN) / height, _SIDE_IN / width, _SIDE_IN / height))
    axes.set(xticks=[], yticks=[], anchor="NW")
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="0.5")
    return axes


def _write(figure: Figure, left_in: float, top_in: float, text: str, **more: Any) -> None:
    width, height = figure.get_size_inches()
    figure.text(left_in / width, 1 - top_in / height, text, va="top", **more)


def _rows(part: pd.DataFrame, columns: int) -> Iterator[pd.DataFrame]:
    for first in range(0, len(part), columns):
        yield part.iloc[first : first + columns]


def _draw_tile(axes: Axes, row: Mapping[Any, Any], picture: NDArray[np.uint8] | None) -> None:
    if picture is None:
        _nothing(axes, "no picture\nof the tile")
        return
    axes.imshow(picture, interpolation="none", extent=(0, 1, 1, 0))
    if np.isfinite(row["size_um"]):
        _scale_bar(axes, float(row["size_um"]))


def _caption(figure: Figure, left_in: float, top_in: float, row: Mapping[Any, Any]) -> None:
    text = [f"{row['rank']}.  score {row['score']:.3f}", *([_label(row["label"])] if "label" in row else [])]
    _write(figure, left_in, top_in, "   ".join(text), size=7.5)
    for i, column in enumerate(("patient_id", "tile_id")):
        name = short_name(plain_text(str(row[column])), _LETTERS)
        _write(figure, left_in, top_in + 0.15 + 0.13 * i, name, size=7, family="DejaVu Sans Mono")


def _label(status: object) -> str:
    text = label_text(status)
    return f"{_MARKS[text]} {text}"


def _scale_bar(axes: Axes, size_um: float) -> None:
    um = scale_bar_um(size_um)
    axes.plot([0.05, 0.05 + um / size_um], [0.95, 0.95], color="black", lw=2.5, solid_capstyle="butt",
              path_effects=[_HALO])  # fmt: skip
    axes.text(0.05, 0.92, length_text(um), fontsize=6, va="bottom", path_effects=[_HALO])


def _draw_place(axes: Axes, row: Mapping[Any, Any], picture: NDArray[np.uint8] | None, size: tuple[int, int]) -> None:
    x, y, side = (float(row[c]) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    if not (x >= 0 and y >= 0 and side > 0 and x + side <= size[0] + 1 and y + side <= size[1] + 1):
        raise InputError(f"Tile {said(row['tile_id'])} lies outside its slide", got=f"x={x:g}, y={y:g}, size={side:g}",
                         expected=f"inside {size[0]} × {size[1]} level-0 px")  # fmt: skip
    if picture is None:
        _nothing(axes, "no picture\nof the slide")
        return
    axes.imshow(picture, interpolation="none", extent=(0, size[0], size[1], 0))
    for colour, width in (("white", 3.0), ("black", 1.2)):
        axes.add_patch(Rectangle((x, y), side, side, fill=False, ec=colour, lw=width))
    if side < _SMALL * max(size):
        axes.plot(x + side / 2, y + side / 2, "o", ms=13, mfc="none", mec=PALETTE[1], mew=1.6, path_effects=[_HALO],
                  clip_on=False)  # fmt: skip


def _nothing(axes: Axes, text: str) -> None:
    axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", facecolor="0.95")
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.35")
