"""The canvas of the viewer: OpenSeadragon in a widget that asks the kernel for tiles and tells it what was clicked.

Needs anywidget, which is why nothing but `reporting.viewer.viewer` imports it, and late. Tiles travel
through the kernel's own channel: no port beside Jupyter's is opened, so it works on Binder as it does at home. While
the kernel is busy with a cell, no new tile comes; what is there can still be moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anywidget
import numpy as np
import traitlets

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.reporting.explorer.views import OVERLAP_PX, TILE_PX, Pixels, SlideView, overview_jpeg

_STATIC: Final = Path(__file__).parents[1] / "static"


def _source(*names: str) -> str:
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in names)


def _script() -> str:
    """One module, and OpenSeadragon a name of its own in it: it finds neither the page's loader nor its globals."""
    engine = _source("openseadragon.min.js")
    private = f"const OpenSeadragon = (function (define, module) {{\n{engine}\nreturn OpenSeadragon;\n}}).call({{}});"
    return "\n".join([private, _source("heat_layer.js", "slide_view.js", "viewer.js")])


class SlideCanvas(anywidget.AnyWidget):
    """Slide, heat map and outlines in one view.

    Attributes
    ----------
    opacity, threshold : of the map over the slide [0–1]; windows with a lower score are not drawn
    ramp : 256 colours from score 0 to 1
    drawing : whether clicks set corners of an outline; otherwise they choose windows
    rings, known : list of rings
        Outlines drawn here, and the one that the run already has: lists of [x, y] [level-0 px].
    chosen : number of the chosen window; -1 for none
    centre : [x, y]: setting it moves the view there [level-0 px]
    """

    _esm = _script()
    _css = _source("viewer.css")
    slide: Any = traitlets.Dict({"version": 0}).tag(sync=True)
    overview = traitlets.Bytes(b"").tag(sync=True)
    windows = traitlets.Bytes(b"").tag(sync=True)
    scores = traitlets.Bytes(b"").tag(sync=True)
    ramp = traitlets.List(traitlets.Unicode()).tag(sync=True)
    opacity = traitlets.Float(0.5).tag(sync=True)
    threshold = traitlets.Float(0.0).tag(sync=True)
    drawing = traitlets.Bool(False).tag(sync=True)
    rings: Any = traitlets.List().tag(sync=True)
    known: Any = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)
    centre = traitlets.List(traitlets.Float()).tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._pixels: Pixels | None = None
        self.on_msg(self.answer)

    def show(self, view: SlideView, pixels: Pixels, gene: str, rings: Sequence[Any] = ()) -> None:
        """Show another slide, with the outlines that were drawn on it before [level-0 px]."""
        self._pixels = pixels
        places = view.windows[["x_l0_px", "y_l0_px", "size_l0_px"]].to_numpy(np.float32)
        with self.hold_sync():
            self.rings, self.known, self.chosen = list(rings), [], -1
            self.windows, self.overview = places.tobytes(), overview_jpeg(view)
            self.score(view, gene)
            self.slide = {
                "version": self.slide["version"] + 1, "name": view.slide_id, "width": view.width_l0_px,
                "height": view.height_l0_px, "mpp": view.mpp, "picture": list(pixels.size),
                "tile_px": TILE_PX, "overlap_px": OVERLAP_PX,
            }  # fmt: skip

    def score(self, view: SlideView, gene: str) -> None:
        """Colour the windows by their scores for `gene`; a gene nobody scored leaves the slide bare."""
        own = view.windows[gene] if gene in view.windows else np.full(len(view.windows), np.nan)
        self.scores = np.asarray(own, dtype=float).astype(np.float32).tobytes()

    def answer(self, _: Any, content: Any, __: Any) -> None:
        """Send the tile that the browser asks for, or why it cannot be had; other messages are not ours."""
        if not isinstance(content, dict) or content.get("kind") != "tile" or self._pixels is None:
            return
        if content.get("version") != self.slide["version"]:
            return  # of a slide that is no longer shown
        reply = {"kind": "tile", "version": content["version"], "key": content.get("key")}
        try:
            level, column, row = (int(content[name]) for name in ("level", "column", "row"))
            self.send(reply, [self._pixels.tile(level, column, row)])
        except (CompendiumError, KeyError, TypeError, ValueError) as error:
            self.send({**reply, "problem": str(error)}, [])
