"""Menus, buttons and texts around the viewer's canvas; every text from data is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets

from deeplrhe_utils.reporting.heatmaps import PALETTES

Facts = Sequence[tuple[str, str, str, str]]


class Layout:
    """The widgets of one viewer.

    Parameters
    ----------
    folds, slides, genes : what the menus offer
    palette, opacity : values at first

    Attributes
    ----------
    menus : dict of widgets with a `value`
    """

    def __init__(
        self,
        canvas: Any,
        folds: Sequence[str],
        slides: Sequence[str],
        genes: Sequence[str],
        palette: str,
        opacity: float,
    ) -> None:
        def menu(name: str, values: Sequence[str]) -> Any:
            return ipywidgets.Dropdown(options=list(values), description=name)

        def slider(name: str, value: float) -> Any:
            return ipywidgets.FloatSlider(value=value, min=0, max=1, step=0.01, description=name)

        self.menus: dict[str, Any] = {
            "fold": menu("fold", folds), "slide": menu("slide", slides), "gene": menu("gene", genes),
            "palette": menu("colours", list(PALETTES)),
            "opacity": slider("opacity", opacity), "threshold": slider("scores from", 0.0),
        }  # fmt: skip
        self.menus["palette"].value = palette
        draw = ipywidgets.ToggleButton(description="Draw the tumour", tooltip="Clicks set corners of an outline")
        self.undo = ipywidgets.Button(description="Remove last", tooltip="Takes the last closed outline back")
        self.save = ipywidgets.Button(description="Save outline", tooltip="Writes <slide>.geojson")
        for name in ("opacity", "threshold"):  # in the browser: no round trip to the kernel
            ipywidgets.jslink((self.menus[name], "value"), (canvas, name))
        ipywidgets.jslink((draw, "value"), (canvas, "drawing"))
        self._told, self._head = ipywidgets.HTML(), ipywidgets.HTML()
        self._picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(display="none"))
        wrapped = ipywidgets.Layout(flex_flow="row wrap")  # on a narrow page menus go on below
        rows = [ipywidgets.HBox([self.menus[name] for name in names], layout=wrapped) for names in
                (("fold", "slide", "gene"), ("palette", "opacity", "threshold"))]  # fmt: skip
        self.box = ipywidgets.VBox(
            [*rows, ipywidgets.HBox([draw, self.undo, self.save]), canvas, self._told, self._head, self._picture]
        )

    def tell(self, words: str) -> None:
        """One line about the slide, or about what was saved."""
        self._told.value = html.escape(words)

    def describe(self, words: str, facts: Facts = (), gene: str = "", picture: bytes = b"") -> None:
        """The chosen window: a line, a table of its scores with `gene` in bold, and a PNG."""
        rows = "".join(_row(row, row[0] == gene) for row in facts)
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("target", "score", "rank", "around"))
        self._head.value = html.escape(words) + (f"<table><tr>{head}</tr>{rows}</table>" if facts else "")
        self._picture.value, self._picture.layout.display = picture, "" if picture else "none"


def _row(cells: Sequence[str], strong: bool) -> str:
    weight = "bold" if strong else "normal"
    shown = "".join(f"<td style='padding:0 12px 0 0;font-weight:{weight}'>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr>{shown}</tr>"
