"""The viewer in JupyterLab: a slide with its heat map, windows to click, outlines to draw.

Why not ``jupyter-islide`` (MIT, 0.7.6, one author, 60 kB): it opens slide files alone, so a run whose slides are
elsewhere would show nothing; a click says nothing to Python; an overlay is one picture
for the whole slide. anywidget (MIT) carries OpenSeadragon instead, which the report page uses, too; plotly's live
figures need anywidget as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.text import escaped
from deeplrhe_utils.reporting.explorer.views import Pixels, SlideView, colour_ramp, neighbours
from deeplrhe_utils.reporting.explorer.windows import SIDE_PX, framed_window
from deeplrhe_utils.reporting.heatmaps.bands import PALETTES
from deeplrhe_utils.reporting.viewer.outlines import outline_rings, save_outline
from deeplrhe_utils.reporting.viewer.widgets import ANY, sheet, to_png

if TYPE_CHECKING:
    from ipywidgets import Widget


def window_facts(windows: pd.DataFrame, place: int, genes: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """What there is to say of a window: per gene its score, its rank, and the mean of the windows around it.

    Parameters
    ----------
    windows : of one slide (`SlideView`)
    place : row number
    genes : columns of scores

    Returns list of (gene, score, rank, mean of neighbours), as text; "–" where nothing was scored.
    """
    around, rows = neighbours(windows, place), []
    for gene in genes:
        own = windows[gene].to_numpy(float)
        if np.isnan(own[place]):
            rows.append((gene, "–", "–", "–"))
            continue
        scored = own[~np.isnan(own)]
        rank = f"{1 + int((scored > own[place]).sum())} of {len(scored)}"
        beside = own[around][~np.isnan(own[around])]
        mean = f"{beside.mean():.3f} (n = {len(beside)})" if len(beside) else "–"
        rows.append((gene, f"{own[place]:.3f}", rank, mean))
    return rows


def window_picture(view: SlideView, pixels: Pixels, place: int) -> NDArray[np.uint8]:
    """A window beside its surroundings, in which it is framed: (h, w, 3), uint8 RGB."""
    x, y, side = (float(view.windows[name].iloc[place]) for name in ("x_l0_px", "y_l0_px", "size_l0_px"))
    return sheet([pixels.region(x, y, side, SIDE_PX), framed_window(view, pixels, place)], columns=2)


class Explorer:
    """Slides, heat maps, windows and outlines, held together; shown by its `widget`.

    Parameters
    ----------
    views : what can be shown; at least one
    genes : targets with scores
    outlines_dir : where drawn outlines are saved as ``<slide_id>.geojson``; give it to notebook 01 as
        ``annotations_dir``, and notebook 02 cuts tiles inside them
    known, tumour_classes : slide_id → the annotation file that the run already has; its classes that are the tumour
    palette, opacity : how the map looks at first

    Attributes
    ----------
    widget : put it last in a cell
    canvas : the picture
    menus : ``fold``, ``slide``, ``gene``, ``palette``, ``opacity``, ``threshold``: widgets with a `value`
    view : what is shown now

    Raises InputError: there is no slide or no gene to show.
    """

    def __init__(
        self, views: Sequence[SlideView], genes: Sequence[str], *, outlines_dir: Path,
        known: Mapping[str, Path] | None = None, palette: str = "paper", opacity: float = 0.5,
        tumour_classes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        from deeplrhe_utils.reporting.viewer.canvas import SlideCanvas

        if not views or not genes:
            raise InputError("There is nothing to explore", got=f"{len(views)} slides, {len(genes)} genes",
                             fix="Run notebook 07 first")  # fmt: skip
        self._views, self._genes = {view.slide_id: view for view in views}, list(genes)
        self._outlines_dir, self._known = Path(outlines_dir), dict(known or {})
        self.tumour_classes = tuple(tumour_classes)
        self._pixels: Pixels | None = None
        self._drawn: dict[str, list[Any]] = {}
        self.view = views[0]
        self.canvas: Any = SlideCanvas(ramp=colour_ramp(palette), opacity=opacity)
        folds = sorted({view.fold for view in views if view.fold})
        self._layout = Layout(self.canvas, [ANY, *folds], list(self._views), self._genes, palette, opacity)
        self.menus: Mapping[str, Any] = self._layout.menus
        self._wire()
        self._open(self.view)

    @property
    def widget(self) -> Widget:
        """Everything in one box."""
        return self._layout.box

    def _wire(self) -> None:
        self.menus["fold"].observe(lambda change: self._of_fold(change["new"]), names="value")
        self.menus["slide"].observe(lambda change: self._open(self._views[change["new"]]), names="value")
        self.menus["gene"].observe(lambda change: self._of_gene(change["new"]), names="value")
        self.menus["palette"].observe(
            lambda change: setattr(self.canvas, "ramp", colour_ramp(change["new"])), names="value"
        )
        self.canvas.observe(lambda change: self._chosen(change["new"]), names="chosen")
        self.canvas.observe(lambda change: self._drawn.update({self.view.slide_id: change["new"]}), names="rings")
        self._layout.undo.on_click(lambda _: setattr(self.canvas, "rings", self.canvas.rings[:-1]))
        self._layout.save.on_click(lambda _: self._saved())

    def _of_fold(self, fold: str) -> None:
        names = [name for name, view in self._views.items() if fold in (ANY, view.fold)]
        self.menus["slide"].options = names  # chooses the first of them when the one shown is not among them

    def _of_gene(self, gene: str) -> None:
        self.canvas.score(self.view, gene)
        self._chosen(self.canvas.chosen)

    def _open(self, view: SlideView) -> None:
        self._close_pixels()
        notes = [f"patient {view.patient_id}", f"scored by the network of fold {view.fold}" if view.fold else "",
                 "" if view.path else "the slide is not on this machine: its thumbnail is shown"]  # fmt: skip
        try:
            self._pixels = Pixels(view)
        except CompendiumError as error:
            notes.append(f"its thumbnail is shown, because: {error}")
            self._pixels = Pixels(view.from_thumbnail())
        self.view = view
        self.canvas.show(view, self._pixels, str(self.menus["gene"].value), self._drawn.get(view.slide_id, ()))
        notes.append(self._show_known(view))
        self._layout.tell("; ".join(note for note in notes if note))
        self._layout.describe("Click a window to see it, its scores and its surroundings.")

    def _show_known(self, view: SlideView) -> str:
        path = self._known.get(view.slide_id)
        if path is None or not path.is_file():
            return ""
        try:
            self.canvas.known = outline_rings(path, (view.width_l0_px, view.height_l0_px), self.tumour_classes)
        except CompendiumError as error:
            return f"its annotation is not shown: {error}"
        return "the tumour as annotated is outlined in green"

    def _chosen(self, place: int) -> None:
        if not 0 <= place < len(self.view.windows) or self._pixels is None:
            self._layout.describe("No window was scored there.")
            return
        row = self.view.windows.iloc[place]
        x, y, side = (f"{row[name]:.0f}" for name in ("x_l0_px", "y_l0_px", "size_l0_px"))
        head = f"Window {row['tile_id']}: x {x}, y {y}, side {side} level-0 px"
        facts = window_facts(self.view.windows, place, self._genes)
        try:
            picture = to_png(window_picture(self.view, self._pixels, place))
        except CompendiumError as error:
            head, picture = f"{head}. {error}", b""
        self._layout.describe(head, facts, str(self.menus["gene"].value), picture)

    def choose(self, tile_id: str) -> None:
        """Show a window, wherever it is: its slide is opened and the view moves there.

        Raises ParameterError: no slide has such a window.
        """
        for name, view in self._views.items():
            found = np.flatnonzero((view.windows["tile_id"] == tile_id).to_numpy())
            if len(found):
                self.menus["fold"].value = ANY
                self.menus["slide"].value = name
                row = view.windows.iloc[int(found[0])]
                half = float(row["size_l0_px"]) / 2
                self.canvas.centre = [float(row["x_l0_px"]) + half, float(row["y_l0_px"]) + half]
                self.canvas.chosen = int(found[0])
                return
        raise ParameterError(f"No slide of the viewer has a window {tile_id!r}", got=f"{len(self._views)} slides")

    def save(self) -> Path:
        """Write the outlines drawn on the slide that is shown; see :func:`.outlines.save_outline`."""
        size = self.view.width_l0_px, self.view.height_l0_px
        path, note = save_outline(self.canvas.rings, self._outlines_dir, self.view.slide_id, size)
        self._layout.tell(f"Saved: {path.name}" + (f" ({note})" if note else ""))
        return path

    def _saved(self) -> None:
        try:
            self.save()
        except CompendiumError as error:
            self._layout.tell(str(error))
        except OSError as error:
            self._layout.tell(f"The outline could not be saved ({error.strerror}).")

    def close(self) -> None:
        """Release the slide and the widgets."""
        self._close_pixels()
        self.canvas.close()
        self.widget.close()

    def _close_pixels(self) -> None:
        if self._pixels is not None:
            self._pixels.close()
            self._pixels = None


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
        self, canvas: Any, folds: Sequence[str], slides: Sequence[str], genes: Sequence[str], palette: str,
        opacity: float,
    ) -> None:  # fmt: skip
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
        self._told.value = escaped(words)

    def describe(self, words: str, facts: Facts = (), gene: str = "", picture: bytes = b"") -> None:
        """The chosen window: a line, a table of its scores with `gene` in bold, and a PNG."""
        rows = "".join(_row(row, row[0] == gene) for row in facts)
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("target", "score", "rank", "around"))
        self._head.value = escaped(words) + (f"<table><tr>{head}</tr>{rows}</table>" if facts else "")
        self._picture.value, self._picture.layout.display = picture, "" if picture else "none"


def _row(cells: Sequence[str], strong: bool) -> str:
    weight = "bold" if strong else "normal"
    shown = "".join(f"<td style='padding:0 12px 0 0;font-weight:{weight}'>{escaped(cell)}</td>" for cell in cells)
    return f"<tr>{shown}</tr>"
