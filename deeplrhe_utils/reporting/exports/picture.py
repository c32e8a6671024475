"""Heat maps as pictures with scale bar and colour bar (PNG, SVG), and their scores as a table (Parquet).

The map is not drawn through a plotting library's resampling: its pixels are copied, and the files say where they lie.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import atomic_path, write_text
from deeplrhe_utils.core.text import said, xml_text
from deeplrhe_utils.reporting.heatmaps.bands import Frame, colour_map
from deeplrhe_utils.reporting.heatmaps.scores import PLACE

READABLE_PX: Final = 480
"""Smaller maps are enlarged in PNGs, by a whole factor, until their larger side has this."""
_MARGIN_PX: Final = {"left": 20, "top": 44, "right": 110, "bottom": 56}
_SVG: Final = "http://www.w3.org/2000/svg"
_UNITS: Final = {"tile_id": "name", "x_l0_px": "level-0 px", "y_l0_px": "level-0 px", "size_l0_px": "level-0 px"}


def scale_bar_um(width_um: float) -> float:
    """Length of a scale bar [µm]: the largest 1, 2 or 5 × 10ⁿ that is at most a quarter of the width.

    >>> scale_bar_um(25_000), scale_bar_um(900)
    (5000.0, 200.0)
    """
    quarter = width_um / 4
    ten = 10.0 ** math.floor(math.log10(quarter))
    return max(ten * m for m in (1, 2, 5) if ten * m <= quarter * (1 + 1e-9))


def length_text(length_um: float) -> str:
    """A length with the unit people read it in."""
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def write_png(
    path: Path, overlaid: NDArray[np.uint8], frame: Frame, *, gene: str, slide_id: str = "", palette: str = "paper",
    label: str = "probability", scored_by: str = "",
) -> Path:  # fmt: skip
    """Write a map with title, scale bar and colour bar.

    Parameters
    ----------
    overlaid : (rows, columns, 3), uint8: the coloured map, over the slide or alone, of the frame's shape
    gene, slide_id : for the title; any text
    palette : of the colour bar, as the map was coloured
    label : what the colours mean
    scored_by : which network gave the scores, below the title

    Returns Path: `path`. The PNG's text chunks tell where the map lies in it: pixel (left + k · column, top + k · row)
    is the corner of map pixel (row, column), k is ``enlarged``.
    """
    if overlaid.shape != (*frame.shape, 3) or overlaid.dtype != np.uint8:
        raise InputError("An overlay does not fit its frame", got=f"{overlaid.dtype} {overlaid.shape}",
                         expected=f"uint8 {(*frame.shape, 3)}")  # fmt: skip
    k = max(1, READABLE_PX // max(frame.shape))
    page = _page(frame, k, f"{said(gene)}  {said(slide_id)}", palette, label, scored_by)
    left, top = _MARGIN_PX["left"], _MARGIN_PX["top"]
    page[top : top + k * frame.rows, left : left + k * frame.columns] = overlaid.repeat(k, axis=0).repeat(k, axis=1)
    facts = PngImagePlugin.PngInfo()
    for name, value in {"left_px": left, "top_px": top, "enlarged": k, "step_x_l0_px": frame.step_x,
                        "step_y_l0_px": frame.step_y, "mpp_l0": frame.mpp}.items():  # fmt: skip
        facts.add_text(name, repr(float(value)))
    with atomic_path(path) as part:
        Image.fromarray(page).save(part, "PNG", pnginfo=facts)
    return path


def _page(frame: Frame, k: int, title: str, palette: str, label: str, scored_by: str) -> NDArray[np.uint8]:
    """A white page with everything but the map."""
    width = k * frame.columns + _MARGIN_PX["left"] + _MARGIN_PX["right"]
    height = k * frame.rows + _MARGIN_PX["top"] + _MARGIN_PX["bottom"]
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    bar = figure.add_axes((1 - 84 / width, _MARGIN_PX["bottom"] / height, 14 / width, k * frame.rows / height))
    colours = matplotlib.colors.ListedColormap(colour_map(np.linspace(0, 1, 256), palette) / 255.0)
    figure.colorbar(matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), colours), cax=bar)
    bar.set_ylabel(said(label), parse_math=False)
    figure.text(_MARGIN_PX["left"] / width, 1 - 28 / height, title, fontsize=9, parse_math=False)
    room = round((width - _MARGIN_PX["left"]) / 4.9)  # letters of this size
    figure.text(_MARGIN_PX["left"] / width, 1 - 40 / height, said(scored_by, room), fontsize=6, parse_math=False)
    um = scale_bar_um(frame.columns * frame.step_x * frame.mpp)
    length = um / (frame.step_x * frame.mpp) * k / width
    at = _MARGIN_PX["left"] / width
    figure.add_artist(matplotlib.lines.Line2D([at, at + length], [38 / height] * 2, color="black", lw=3,
                                              solid_capstyle="butt"))  # fmt: skip
    figure.text(at, 14 / height, length_text(um), fontsize=9, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()


def write_svg(
    path: Path, overlaid: NDArray[np.uint8], frame: Frame, windows: pd.DataFrame, *, gene: str, slide_id: str = "",
    palette: str = "paper", scored_by: str = "",
) -> Path:  # fmt: skip
    """Write a map as SVG whose user units are level-0 pixels: picture, windows with their scores, both bars.

    Parameters
    ----------
    overlaid : (rows, columns, 3), uint8: the coloured map of the frame's shape; it is embedded without loss
    windows : tile_id, x_l0_px, y_l0_px, size_l0_px, score (null where none): outlines with a tooltip
    gene, slide_id, palette, scored_by
        As for :func:`write_png`.

    Returns Path: `path`.
    """
    unit = max(frame.width_l0_px, frame.height_l0_px) / 40  # size of text
    height = frame.height_l0_px + 8 * unit
    root = ElementTree.Element("svg", {"xmlns": _SVG, "viewBox": f"0 {-3 * unit:g} {frame.width_l0_px} {height:g}",
                                       "width": "900", "font-family": "sans-serif"})  # fmt: skip
    _text(root, 0, -unit, unit, f"{gene}  {slide_id}")
    _text(root, 0, 0, unit, f"Units are level-0 pixels of the full canvas. {scored_by}".strip(), tag="desc")
    done, data = cv2.imencode(".png", cv2.cvtColor(overlaid, cv2.COLOR_RGB2BGR))
    if not done:
        raise InputError("A map could not be encoded as PNG", got=overlaid.shape)
    ElementTree.SubElement(root, "image", {
        "x": "0", "y": "0", "width": repr(float(frame.columns * frame.step_x)),
        "height": repr(float(frame.rows * frame.step_y)), "preserveAspectRatio": "none",
        "style": "image-rendering:pixelated",
        "href": "data:image/png;base64," + base64.b64encode(data.tobytes()).decode(),
    })  # fmt: skip
    _add_windows(root, windows, unit)
    _add_bars(root, frame, unit, palette)
    return write_text(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")


def _text(parent: ElementTree.Element, x: float, y: float, unit: float, text: str, tag: str = "text") -> None:
    place = {"x": f"{x:g}", "y": f"{y:g}", "font-size": f"{unit:g}"} if tag == "text" else {}
    ElementTree.SubElement(parent, tag, place).text = xml_text(text)


def _add_windows(root: ElementTree.Element, windows: pd.DataFrame, unit: float) -> None:
    group = ElementTree.SubElement(root, "g", {"id": "windows", "fill": "none", "pointer-events": "all",
                                               "stroke": "#444", "stroke-width": f"{unit / 40:g}"})  # fmt: skip
    for row in windows.to_dict("records"):
        score = "not scored" if row["score"] != row["score"] else f"{float(row['score']):.3f}"
        box = ElementTree.SubElement(group, "rect", {
            "x": repr(float(row["x_l0_px"])), "y": repr(float(row["y_l0_px"])),
            "width": repr(float(row["size_l0_px"])), "height": repr(float(row["size_l0_px"])),
        })  # fmt: skip
        ElementTree.SubElement(box, "title").text = xml_text(f"{row['tile_id']}: {score}")


def _add_bars(root: ElementTree.Element, frame: Frame, unit: float, palette: str) -> None:
    um, below = scale_bar_um(frame.width_l0_px * frame.mpp), frame.height_l0_px + unit
    bar = {"id": "scale-bar", "x": "0", "y": f"{below:g}", "width": repr(um / frame.mpp), "height": f"{unit / 4:g}"}
    ElementTree.SubElement(root, "rect", bar)
    _text(root, 0, below + 1.6 * unit, unit, length_text(um))
    left, width = frame.width_l0_px * 0.55, frame.width_l0_px * 0.4
    for i, colour in enumerate(colour_map(np.linspace(0, 1, 64), palette)):
        step = {"x": f"{left + width * i / 64:g}", "y": f"{below:g}", "width": f"{width / 64 * 1.02:g}"}
        fill = "#" + bytes(colour).hex()
        ElementTree.SubElement(root, "rect", {**step, "height": f"{unit:g}", "fill": fill})
    for value, at in zip((0.0, 1.0), (left, left + width), strict=True):
        _text(root, at, below + 2.2 * unit, unit, f"{value:g}")


def write_scores(
    table: pd.DataFrame, path: Path, frame: Frame, *, slide_id: str, about: Mapping[str, Any] | None = None
) -> Path:
    """Write window scores as Parquet with units in the metadata of its columns.

    Parameters
    ----------
    table : tile_id, x_l0_px, y_l0_px, size_l0_px and one column per gene (or ``score``), null where not scored
    frame : the slide's size and resolution are written to the file's metadata (key ``deeplrhe``, JSON)
    about : more facts, that JSON can hold

    Returns Path: `path`.

    Raises InputError: a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if missing := [c for c in PLACE if c not in table.columns]:
        raise InputError("A score table lacks columns", got=", ".join(map(said, table.columns)),
                         expected=", ".join(missing))  # fmt: skip
    made = pa.Table.from_pandas(table, preserve_index=False)
    fields = [
        f.with_metadata({"unit": _UNITS.get(f.name, "probability 0 to 1, null: not scored")}) for f in made.schema
    ]
    facts = {"slide_id": slide_id, "width_l0_px": frame.width_l0_px, "height_l0_px": frame.height_l0_px,
             "mpp": frame.mpp, "frame": "level-0 pixels of OpenSlide's full canvas", **(about or {})}  # fmt: skip
    schema = pa.schema(fields, metadata={"deeplrhe": json.dumps(facts, sort_keys=True, allow_nan=False)})
    with atomic_path(path) as part:
        pq.write_table(made.cast(schema), part)
    return path
