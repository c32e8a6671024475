"""Contact sheets: many slides and their heat maps on pages, as PNG and as one PDF.

A page is drawn when its slides have come, so no more than one page of pictures is in memory. Pictures are copied into
the page pixel by pixel; the PDF holds the same pages as JPEG. The same calls give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.files import atomic_path, safe_name
from deeplrhe_utils.learning.heat import DAMAGED, THUMBNAIL_PX
from deeplrhe_utils.reporting.heat_scores import said
from deeplrhe_utils.reporting.heatmaps import Frame, heat_map
from deeplrhe_utils.reporting.sheet_page import COLUMNS, DPI, ROWS, Cell, Look, draw_page, name_lines, short_name
from deeplrhe_utils.slides.pixels import open_row

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
    """Rows of :func:`deeplrhe_utils.evaluation.slide_reading.slide_summary`, mutated first, then by score and name.

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


def write_sheets(cells: Iterable[Cell], folder: Path, *, gene: str, total: int, look: Look | None = None) -> Sheets:
    """Draw slides on pages.

    Parameters
    ----------
    cells : taken a page at a time, in order (:func:`sheet_cells`)
    folder : ``contact_sheet_<gene>_001.png`` … and ``contact_sheet_<gene>.pdf`` are written here; pages of a longer
        sheet of the same gene that was here before are removed
    gene : for the titles; any text
    total : how many slides there are; each gets a cell
    look : colours

    Raises InputError: there is no slide, one comes twice, or there are more or fewer than `total`; a map does not fit
    its picture.
    """
    look, stem = look or Look(), f"contact_sheet_{safe_name(gene)}"
    pages: list[Path] = []
    ledger: list[dict[str, Any]] = []
    left, pdf = iter(cells), folder / f"{stem}.pdf"
    with atomic_path(pdf) as part:
        while page := list(islice(left, ROWS * COLUMNS)):
            first, number = len(ledger) + 1, len(pages) + 1
            ledger += [_entry(cell, number, i) for i, cell in enumerate(page)]
            _check_count(ledger, total)
            title = f"{short_name(gene, 60)}  ·  slides {first} to {len(ledger)} of {total}  ·  {ORDER}"
            image = Image.fromarray(draw_page(page, look, title))
            pages.append(_write_png(image, folder / f"{stem}_{number:03d}.png"))
            facts = {} if number > 1 else {"title": f"Contact sheet of {said(gene)}"}
            image.save(part, "PDF", append=number > 1, resolution=DPI, quality=_QUALITY, subsampling=0,
                       creationDate=None, modDate=None, **facts)  # fmt: skip
        _check_count(ledger, total, complete=True)
    _remove_older(folder, stem, len(pages))
    return Sheets(pages, pdf, pd.DataFrame(ledger))


def _entry(cell: Cell, page: int, place: int) -> dict[str, Any]:
    row, column = divmod(place, COLUMNS)
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


def _write_png(image: Image.Image, path: Path) -> Path:
    with atomic_path(path) as part:
        image.save(part, "PNG")
    return path


def _remove_older(folder: Path, stem: str, last: int) -> None:
    ours = re.compile(re.escape(stem) + r"_(\d{3,})\.png")
    for path in folder.iterdir():
        if (found := ours.fullmatch(path.name)) and int(found[1]) > last:
            path.unlink()
