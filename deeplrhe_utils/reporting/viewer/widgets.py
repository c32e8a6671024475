"""Widgets for JupyterLab: choose a slide, a gene and a reason, and see the tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.text import escaped
from deeplrhe_utils.slides.tiles.pixels import peek

if TYPE_CHECKING:
    from ipywidgets import Widget

ANY = "any"
NOT_PROFILED = "not profiled"
_STATUS = {1: "mutated", 0: "wild type"}
_SIDE_PX = 112
_COLUMNS, _MOST, _GAP_PX = 8, 32, 4


def sheet(pictures: Sequence[NDArray[np.uint8]], columns: int = _COLUMNS) -> NDArray[np.uint8]:
    """Square pictures (side, side, 3), uint8, of one size, row by row on white; an empty list gives a white strip."""
    side = pictures[0].shape[0] if pictures else _SIDE_PX // 4
    rows = max(1, -(-len(pictures) // columns))
    page = np.full((rows * (side + _GAP_PX), columns * (side + _GAP_PX), 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        y, x = (part * (side + _GAP_PX) for part in divmod(number, columns))
        page[y : y + side, x : x + side] = picture
    return page


def choose_tiles(
    tiles: pd.DataFrame,
    labels: pd.DataFrame,
    slide_id: str = ANY,
    gene: str = ANY,
    status: str = ANY,
    reason: str = ANY,
) -> pd.DataFrame:
    """Rows of the tiles table of one slide, of patients of one status of a gene, of one outcome (``kept`` or a reason).

    Parameters
    ----------
    tiles, labels : tables TILES (or candidates) and LABELS
    slide_id, gene, status, reason : what to keep; ``any`` keeps all. `status` is ``mutated``, ``wild type`` or ``not
        profiled``, of `gene`; a patient without a status of the gene is not profiled, whether there is a row of LABELS
        or not.

    Returns DataFrame: rows of `tiles`, in their order.
    """
    chosen = tiles if slide_id == ANY else tiles[tiles["slide_id"] == slide_id]
    if status != ANY:
        own = labels[(labels["gene"] == gene) & labels["status"].notna()]
        profiled = chosen["patient_id"].isin(own["patient_id"])
        asked = chosen["patient_id"].isin(own.loc[own["status"].map(_STATUS) == status, "patient_id"])
        chosen = chosen[~profiled if status == NOT_PROFILED else asked]
    return chosen if reason == ANY else chosen[chosen["reason"].fillna("kept") == reason]


def page_of(chosen: pd.DataFrame, by_id: Mapping[str, Mapping[str, Any]], page: int) -> NDArray[np.uint8]:
    """The `page`-th contact sheet (from 0) of chosen tiles, in their order: RGB, uint8."""
    part = chosen.iloc[page * _MOST : (page + 1) * _MOST].reset_index(drop=True)
    pictures: dict[int, NDArray[np.uint8]] = {}
    for slide_id, own in part.groupby("slide_id", sort=False):  # a slide is opened once
        pictures |= zip(own.index, peek(by_id[str(slide_id)], own, _SIDE_PX), strict=True)
    return sheet([pictures[place] for place in sorted(pictures)])


def tile_explorer(by_id: Mapping[str, Mapping[str, Any]], tiles: pd.DataFrame, labels: pd.DataFrame) -> Widget:
    """Slide, gene, status and reason → tiles, read from the slides on demand; a status needs a gene.

    Parameters
    ----------
    by_id : slide_id → row of table SLIDES with an absolute `path`
    tiles, labels : tables TILES (or candidates) and LABELS
    """
    import ipywidgets

    def menu(name: str, values: Sequence[str]) -> Any:
        return ipywidgets.Dropdown(options=[ANY, *values], description=name)

    outcomes = sorted(tiles["reason"].fillna("kept").unique())
    menus = {
        "slide_id": menu("slide", sorted(tiles["slide_id"].unique())),
        "gene": menu("gene", sorted(labels["gene"].unique())),
        "status": menu("status", [*_STATUS.values(), NOT_PROFILED]),
        "reason": menu("outcome", outcomes),
    }
    page = ipywidgets.BoundedIntText(value=0, min=0, max=0, description="page")
    told, picture = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def show(change: Mapping[str, Any] | None = None) -> None:
        menus["status"].disabled = menus["gene"].value == ANY
        if menus["status"].disabled and menus["status"].value != ANY:
            menus["status"].value = ANY  # calls this again
            return
        chosen = choose_tiles(tiles, labels, **{name: one.value for name, one in menus.items()})
        if change is None or change["owner"] is not page:
            page.max = max(0, -(-len(chosen) // _MOST) - 1)
        told.value = f"{len(chosen)} tiles of {chosen['slide_id'].nunique()} slides, page {page.value} of {page.max}"
        picture.value = to_png(page_of(chosen, by_id, page.value))

    for one in (*menus.values(), page):
        one.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox(list(menus.values())), page, told, picture])


def question_explorer(asked: Mapping[str, Mapping[str, str]]) -> Widget:
    """A question, a slider, the answer: nothing is computed while somebody drags.

    Parameters
    ----------
    asked : question → (value of the slider → answer)
    """
    import ipywidgets

    which = ipywidgets.Dropdown(options=list(asked), description="question", layout={"width": "max-content"})
    value = ipywidgets.SelectionSlider(options=list(asked[which.value]), description="value", layout={"width": "30em"})
    answer = ipywidgets.HTML()

    def tell(_: Any = None) -> None:
        answer.value = escaped(asked[which.value].get(value.value, ""))

    def ask(_: Any) -> None:
        value.options = list(asked[which.value])
        tell()

    which.observe(ask, names="value")
    value.observe(tell, names="value")
    tell()
    return ipywidgets.VBox([which, value, answer])


def to_png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (height, width, 3), uint8 RGB, as a PNG stream."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
