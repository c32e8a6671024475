"""Contact sheets: many slides and their heat maps on pages, as PNG and as one PDF.

A page is drawn when its slides have come, so no more than one page of pictures is in memory. Pictures are copied into
the page pixel by pixel; the PDF holds the same pages as JPEG. The same calls give the same bytes.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.files import atomic_path, safe_name, sha256_text
from deeplrhe_utils.core.text import said
from deeplrhe_utils.learning.scoring.heat import DAMAGED, THUMBNAIL_PX
from deeplrhe_utils.reporting.exports.picture import length_text, scale_bar_um
from deeplrhe_utils.reporting.heatmaps.bands import AS_SCORED, PALETTES, Frame, Scale, colour_map, heat_map, overlay
from deeplrhe_utils.slides.tiles.pixels import open_row

ORDER: Final = "mutated first, then by mean score"
"""What the pages say of :func:`sheet_order`."""
_STATUS: Final = {1: "mutated", 0: "wild type"}
_QUALITY: Final = 90


class Sheets(NamedTuple):
    """``pages``: PNG files in order. ``pdf``: the same in one file. ``ledger``: DataFrame, a row per cell.

    Columns of the ledger: page, row, column (from 1), slide_id, name (as it is printed), map (whether one was drawn),
    reason (why not).
    """

    pages: list[Path]
    pdf: Path
    ledger: pd.DataFrame


def label_text(status: object) -> str:
    """A patient's label in words: 1 ``mutated``, 0 ``wild type``, null ``not profiled``.

    >>> label_text(1), label_text(None)
    ('mutated', 'not profiled')
    """
    return "not profiled" if pd.isna(status) else _STATUS[int(status)]  # type: ignore[call-overload]


def sheet_order(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of `slide_summary`, mutated first, then by score and name.

    Patients that were not profiled come last, as slides without a score do among those of their label. ParameterError
    for a summary without labels.
    """
    if "label" not in summary.columns:
        raise ParameterError("Slides cannot be put in this order", got="a summary without labels",
                             fix="Give the labels to slide_summary")  # fmt: skip
    keys, rising = ["label", "mean", "slide_id"], [False, False, True]
    return summary.sort_values(keys, ascending=rising, na_position="last", ignore_index=True)


def read_thumbnail(rows: Mapping[str, Mapping[str, Any]], slide_id: str, max_px: int = THUMBNAIL_PX) -> NDArray:
    """A slide's thumbnail from its file; `rows`: slide_id → row of table SLIDES with an absolute `path`.

    Returns uint8 RGB (h, w, 3): longer side at most `max_px`; places that cannot be decoded are red.

    Raises SlideError: the file is missing or cannot be read.
    """
    with open_row(rows[slide_id]) as slide:
        return slide.thumbnail(max_px, damaged=DAMAGED)


def sheet_cells(
    ordered: pd.DataFrame, windows: pd.DataFrame, slides: pd.DataFrame, gene: str,
    picture_of: Callable[[str], NDArray[np.uint8] | None],
) -> Iterator[Cell]:  # fmt: skip
    """One cell per slide of a summary, made when it is asked for.

    Parameters
    ----------
    ordered : of :func:`sheet_order`
    windows, slides : what the summary was made of
    gene : a column of `windows`
    picture_of : slide_id → uint8 RGB (h, w, 3) of the whole slide, or None where there is none: ``thumbnails.get`` of
        pictures in memory, or :func:`read_thumbnail`. What it cannot read is told in the cell.

    Yields Cell: in the order of `ordered`; where no map can be drawn, its `reason` is not empty.
    """
    parts = {str(name): part for name, part in windows.groupby("slide_id", sort=False)}
    rows = slides.drop_duplicates("slide_id").set_index("slide_id").to_dict("index")
    for one in ordered.to_dict("records"):
        name = str(one["slide_id"])
        picture, reason = None, str(one["note"]) if not one["n_scored"] else ""
        try:
            picture = picture_of(name)
        except CompendiumError as error:
            reason = str(error)
        if picture is None:
            reason = reason or "there is no picture of the slide"
        yield _cell(one, rows[name], parts.get(name), gene, picture, reason)


def _cell(
    one: Mapping[Any, Any], slide: Mapping[Any, Any], own: pd.DataFrame | None, gene: str,
    picture: NDArray[np.uint8] | None, reason: str,
) -> Cell:  # fmt: skip
    label = label_text(one["label"]) if "label" in one else ""
    mpp = None if pd.isna(slide["mpp"]) else float(slide["mpp"])
    sides = [0 if pd.isna(slide[c]) else int(slide[c]) for c in ("width_l0_px", "height_l0_px")]
    heat = None
    if picture is not None and own is not None and not reason:
        try:
            # the map does not depend on the resolution, so it can be drawn where none is known
            frame = Frame.fit(sides[0], sides[1], mpp or 1.0, picture.shape[:2])
            heat = heat_map(own, own[gene].to_numpy(float, na_value=np.nan), frame).mean
        except CompendiumError as error:
            reason = str(error)
    mean = None if pd.isna(one["mean"]) else float(one["mean"])
    return Cell(str(one["slide_id"]), picture, heat, (sides[0], sides[1]), mpp, label, mean, int(one["n_scored"]),
                reason)  # fmt: skip


def write_sheets(
    cells: Iterable[Cell], folder: Path, *, gene: str, total: int, look: Look | None = None, scored_by: str = ""
) -> Sheets:
    """Draw slides on pages.

    Parameters
    ----------
    cells : taken a page at a time, in order (:func:`sheet_cells`)
    folder : ``contact_sheet_<gene>_001.png`` … and ``contact_sheet_<gene>.pdf`` are written here; pages of a longer
        sheet of the same gene that was here before are removed
    gene : for the titles; any text
    total : how many slides there are; each gets a cell
    look : colours
    scored_by : which network gave the scores, below the title

    Raises InputError: there is no slide, one comes twice, or there are more or fewer than `total`; a map does not fit
    its picture.
    """
    look, stem = look or Look(), f"contact_sheet_{safe_name(gene)}"
    pages: list[Path] = []
    ledger: list[dict[str, Any]] = []
    left, pdf = iter(cells), folder / f"{stem}.pdf"
    with atomic_path(pdf) as part:
        while page := list(islice(left, ROWS * _COLUMNS)):
            first, number = len(ledger) + 1, len(pages) + 1
            ledger += [_entry(cell, number, i) for i, cell in enumerate(page)]
            _check_count(ledger, total)
            title = f"{short_name(gene, 60)}  ·  slides {first} to {len(ledger)} of {total}  ·  {ORDER}"
            image = Image.fromarray(draw_page(page, look, title, scored_by))
            pages.append(folder / f"{stem}_{number:03d}.png")
            with atomic_path(pages[-1]) as png:
                image.save(png, "PNG")
            facts = {} if number > 1 else {"title": f"Contact sheet of {said(gene)}"}
            image.save(part, "PDF", append=number > 1, resolution=DPI, quality=_QUALITY, subsampling=0,
                       creationDate=None, modDate=None, **facts)  # fmt: skip
        _check_count(ledger, total, complete=True)
    _remove_older(folder, stem, len(pages))
    return Sheets(pages, pdf, pd.DataFrame(ledger))


def _entry(cell: Cell, page: int, place: int) -> dict[str, Any]:
    row, column = divmod(place, _COLUMNS)
    return {"page": page, "row": row + 1, "column": column + 1, "slide_id": cell.slide_id,
            "name": "".join(name_lines(cell.slide_id)), "map": cell.heat is not None,
            "reason": cell.reason}  # fmt: skip


def _check_count(ledger: list[dict[str, Any]], total: int, complete: bool = False) -> None:
    names = [row["slide_id"] for row in ledger]
    if len(set(names)) < len(names):
        again = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError("A slide comes twice on a contact sheet", got=said(again))
    if not total or len(names) > total or (complete and len(names) < total):
        raise InputError("A contact sheet has a cell for every slide", got=f"{len(names)} cells", expected=f"{total}")


def _remove_older(folder: Path, stem: str, last: int) -> None:
    ours = re.compile(re.escape(stem) + r"_(\d{3,})\.png")
    for path in folder.iterdir():
        if (found := ours.fullmatch(path.name)) and int(found[1]) > last:
            path.unlink()


DPI: Final = 150
PAGE_PX: Final = (1754, 1240)
"""Width and height of a page: A4, landscape."""
_MARGIN_PX: Final = {"left": 36, "top": 72, "right": 130, "bottom": 30}
GAP_PX: Final = 20
TEXT_PX: Final = 106
"""Height of the text below the pictures of a cell."""
ROWS: Final = 4
_COLUMNS: Final = 4
_LINE_PX: Final = 19
_BETWEEN_PX: Final = 6
_LEAST_ROOM_PX: Final = 60
_BAR_PX: Final = 230
_NAME_LINES: Final = 2
_MONO: Final = "DejaVu Sans Mono"
_SANS: Final = "DejaVu Sans"
_NAME_PT: Final = 6.5
_LETTER_PX: Final = _NAME_PT / 72 * DPI * 0.6021  # every letter of the font is this wide
_GREY: Final = "0.35"
CELL_PX: Final = (
    (PAGE_PX[0] - _MARGIN_PX["left"] - _MARGIN_PX["right"]) // _COLUMNS,
    (PAGE_PX[1] - _MARGIN_PX["top"] - _MARGIN_PX["bottom"]) // ROWS,
)
"""Width and height of a cell."""
BOX_PX: Final = ((CELL_PX[0] - GAP_PX - _BETWEEN_PX) // 2, CELL_PX[1] - GAP_PX - TEXT_PX)
"""Width and height of the room for one picture; the map lies at the right of the slide."""
LETTERS: Final = int((CELL_PX[0] - GAP_PX) / _LETTER_PX)
"""Letters in a line of a cell."""


@cache
def _letters() -> frozenset[int]:
    """Letters that both fonts have."""
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in (_MONO, _SANS))
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))


def plain_text(name: str) -> str:
    r"""A name as it can be printed and told from every other: what has no letter of its own is escaped.

    >>> plain_text("S 1\n"), plain_text("a\\b"), plain_text("ä "), plain_text("\u202ex")
    ('S 1\\n', 'a\\\\b', 'ä\\x20', '\\u202ex')
    """

    def shown(letter: str) -> str:
        clear = letter.isprintable() and letter != "\\" and ord(letter) in _letters()
        return letter if clear and not unicodedata.combining(letter) else letter.encode("unicode_escape").decode()

    core = name.strip(" ")
    before = name.index(core) if core else len(name)
    after = len(name) - before - len(core)
    return r"\x20" * before + "".join(shown(letter) for letter in core) + r"\x20" * after


def short_name(name: str, most: int) -> str:
    """A name of at most `most` letters: the whole of it, or its beginning and eight digits of its SHA-256.

    >>> short_name("TCGA-05-4244", 12), short_name("TCGA-05-4244", 11) == short_name("TCGA-05-4245", 11)
    ('TCGA-05-4244', False)
    """
    return name if len(name) <= most else f"{name[: most - 10]}…~{sha256_text(name)[:8]}"


class Cell(NamedTuple):
    """One slide of a contact sheet.

    ``slide_id``. ``picture``: uint8 RGB (h, w, 3) of the whole slide, or None. ``heat``: mean score, (h, w), NaN where
    nothing was measured, or None. ``size_l0_px``: (width, height) of the slide [level-0 px], 0 where unknown.
    ``mpp``: its resolution [µm/px], or None. ``label``: of the patient, in words; "" prints none. ``mean``: of the
    scores [0–1], or None. ``n_scored``: windows. ``reason``: why there is no map, "" where there is one.
    """

    slide_id: str
    picture: NDArray[np.uint8] | None
    heat: NDArray[np.floating] | None
    size_l0_px: tuple[int, int]
    mpp: float | None
    label: str = ""
    mean: float | None = None
    n_scored: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Look:
    """Colours of the maps; ParameterError for a palette that is none, or an opacity outside [0, 1]."""

    palette: str = "paper"
    opacity: float = 0.5
    scale: Scale = AS_SCORED

    def __post_init__(self) -> None:
        if self.palette not in PALETTES or not 0 <= self.opacity <= 1:
            raise ParameterError("A contact sheet cannot have these colours", got=f"{self.palette}, {self.opacity}",
                                 expected=f"{' | '.join(PALETTES)}, opacity 0 to 1")  # fmt: skip


def name_lines(name: str) -> list[str]:
    """A slide's name as it is printed: whole, or shortened so that no other has the same text."""
    text = short_name(plain_text(name), _NAME_LINES * LETTERS)
    return [text[i : i + LETTERS] for i in range(0, len(text), LETTERS)]


def draw_page(cells: Sequence[Cell], look: Look, title: str, scored_by: str = "") -> NDArray[np.uint8]:
    """Draw cells row by row.

    Parameters
    ----------
    cells : at most 16 of them
    title, scored_by : any text; printed as :func:`plain_text` has it

    Returns uint8 RGB (1240, 1754, 3): less high where the last rows are empty.

    Raises InputError: a map and its picture differ in shape, or a picture is not RGB.
    """
    for cell in cells:
        _check(cell)
    width, height = PAGE_PX
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    page = _Page(figure, [])
    page.text(_MARGIN_PX["left"], 26, plain_text(title), size=9, font=_SANS)
    page.text(_MARGIN_PX["left"], 50, said(plain_text(scored_by), 200), size=6.5, font=_SANS)
    _colour_bar(page, look)
    for row in range(-(-len(cells) // _COLUMNS)):
        here = cells[row * _COLUMNS : (row + 1) * _COLUMNS]
        scales = [min(b / s for b, s in zip(BOX_PX, _sides(cell), strict=True)) for cell in here]
        sizes = [_drawn_px(cell, scale) for cell, scale in zip(here, scales, strict=True)]
        room = max(_LEAST_ROOM_PX, *(size[1] for size in sizes))
        for column, (cell, scale, size) in enumerate(zip(here, scales, sizes, strict=True)):
            left, top = _MARGIN_PX["left"] + column * CELL_PX[0], _MARGIN_PX["top"] + row * CELL_PX[1]
            _draw_cell(page, cell, look, (left, top), scale, size, room)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    used = _MARGIN_PX["top"] + -(-len(cells) // _COLUMNS) * CELL_PX[1] + _MARGIN_PX["bottom"]
    high = min(height, max(used, _MARGIN_PX["top"] + _BAR_PX + 3 * _LINE_PX))
    drawn = np.asarray(canvas.buffer_rgba())[:high, :width, :3].copy()
    for left, top, picture in page.pictures:
        drawn[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return drawn


class _Page(NamedTuple):
    """A figure in pixels from the top left, and the pictures that are copied into it when it is drawn."""

    figure: Figure
    pictures: list[tuple[int, int, NDArray[np.uint8]]]

    def text(
        self, left: float, top: float, text: str, *, size: float = _NAME_PT, font: str = _MONO, **more: Any
    ) -> None:
        width, height = PAGE_PX
        self.figure.text(left / width, 1 - top / height, text, fontsize=size, family=font, va="top", parse_math=False,
                         **more)  # fmt: skip

    def box(self, left: float, top: float, width: float, height: float, **more: Any) -> None:
        place, sides = (left / PAGE_PX[0], 1 - (top + height) / PAGE_PX[1]), (width / PAGE_PX[0], height / PAGE_PX[1])
        self.figure.add_artist(Rectangle(place, *sides, transform=self.figure.transFigure, **more))


def _check(cell: Cell) -> None:
    if cell.picture is None:
        return
    shape = cell.picture.shape
    if cell.picture.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not min(shape):
        raise InputError(f"The picture of slide {plain_text(cell.slide_id)[:60]} is not RGB",
                         got=f"{cell.picture.dtype} {shape}", expected="uint8 (h, w, 3)")  # fmt: skip
    if cell.heat is not None and cell.heat.shape != shape[:2]:
        raise InputError(f"The map of slide {plain_text(cell.slide_id)[:60]} does not fit its picture",
                         got=cell.heat.shape, expected=f"{shape[:2]}")  # fmt: skip


def _sides(cell: Cell) -> tuple[float, float]:
    """Width and height of a slide [µm], or of its picture [px] where the resolution is not known."""
    if cell.mpp and min(cell.size_l0_px) > 0:
        return cell.size_l0_px[0] * cell.mpp, cell.size_l0_px[1] * cell.mpp
    return (float(cell.picture.shape[1]), float(cell.picture.shape[0])) if cell.picture is not None else (1.0, 1.0)


def _drawn_px(cell: Cell, scale: float) -> tuple[int, int]:
    """Width and height of a cell's pictures on the page; 0 where it has none."""
    if cell.picture is None:
        return 0, 0
    width, height = (max(1, min(box, round(side * scale))) for box, side in zip(BOX_PX, _sides(cell), strict=True))
    return width, height


def _draw_cell(
    page: _Page, cell: Cell, look: Look, corner: tuple[int, int], scale: float, size: tuple[int, int], room: int
) -> None:
    """One cell; `room` is the height of the highest picture of its row, so that captions stand in a line."""
    left, top = corner
    second = (left + BOX_PX[0] + _BETWEEN_PX, top)
    if cell.picture is None:
        _empty(page, corner, room, "no picture")
    else:
        page.pictures.append((*corner, _resized(cell.picture, *size)))
    if cell.picture is None or cell.heat is None:
        _empty(page, second, room, f"no map: {cell.reason or 'nobody scored this slide'}")
    else:
        shown = overlay(cell.picture, look.scale.place(cell.heat), palette=look.palette, opacity=look.opacity)
        page.pictures.append((*second, _resized(shown, *size)))
    _captions(page, cell, left, second[1] + room + 8, scale)


def _resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Area-averaged where it shrinks, repeated where it grows."""
    smaller = width <= picture.shape[1] and height <= picture.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)


def _empty(page: _Page, corner: tuple[int, int], height: int, text: str) -> None:
    (left, top), width = corner, BOX_PX[0]
    page.box(left, top, width, height, fc="0.95", ec="0.6", lw=0.5, ls=":")
    room = max(1, (height - 12) // _LINE_PX)
    lines = textwrap.wrap(plain_text(text), max(6, int((width - 12) / _LETTER_PX)))
    if len(lines) > room:
        lines = [*lines[: room - 1], f"{lines[room - 1][:-1]}…"]
    for i, line in enumerate(lines):
        page.text(left + 6, top + 6 + i * _LINE_PX, line, color=_GREY)


def _captions(page: _Page, cell: Cell, left: int, top: int, scale: float) -> None:
    if cell.picture is not None and cell.mpp and min(cell.size_l0_px) > 0:
        um = scale_bar_um(cell.size_l0_px[0] * cell.mpp)
        page.box(left, top + 4, um * scale, 4, fc="black", ec="none")
        page.text(left + um * scale + 8, top - 2, length_text(um))
    elif cell.picture is not None:
        page.text(left, top - 2, "no scale bar: resolution unknown", color=_GREY)
    score = "no score" if cell.mean is None else f"mean {cell.mean:.2f} of {cell.n_scored} windows"
    mark = {"mutated": "■ ", "wild type": "□ "}.get(cell.label, "")
    lines = [*name_lines(cell.slide_id), *([mark + plain_text(cell.label)] if cell.label else []), score]
    for i, line in enumerate(lines):
        page.text(left, top + 20 + i * _LINE_PX, line, weight="bold" if line.startswith(("■", "□")) else "normal")


def _colour_bar(page: _Page, look: Look) -> None:
    below = _MARGIN_PX["top"] + _BAR_PX
    axes = page.figure.add_axes((1 - 105 / PAGE_PX[0], 1 - below / PAGE_PX[1], 18 / PAGE_PX[0], _BAR_PX / PAGE_PX[1]))
    colours = matplotlib.colors.ListedColormap(colour_map(np.linspace(0, 1, 256), look.palette) / 255.0)
    bar = page.figure.colorbar(matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), colours), cax=axes)
    bar.set_ticks(list(look.scale.ticks), labels=list(look.scale.ticks.values()))
    bar.set_label(look.scale.label, fontsize=7, family=_SANS)
    bar.ax.tick_params(labelsize=7, labelfontfamily=_SANS)
    lines = ["over the slide,", f"{look.opacity:.0%} opaque"]
    for i, line in enumerate(lines):
        page.text(PAGE_PX[0] - 115, below + 14 + i * _LINE_PX, line, size=6.5, font=_SANS)
