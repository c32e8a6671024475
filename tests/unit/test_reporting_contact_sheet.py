"""Contact sheets: pixels copied exactly, scales true, every slide a cell, names never mixed up, pages one at a time."""

import gc
import io
import re
import warnings
import weakref
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.tables.slide_reading import slide_summary
from deeplrhe_utils.reporting.exports.contact_sheet import (
    BOX_PX,
    CELL_PX,
    LETTERS,
    Cell,
    Look,
    draw_page,
    label_text,
    name_lines,
    plain_text,
    read_thumbnail,
    sheet_cells,
    sheet_order,
    short_name,
    write_sheets,
)
from deeplrhe_utils.reporting.heatmaps.bands import overlay
from deeplrhe_utils.slides.tiles.grid import make_grid


def solid(colour, width=60, height=40):
    return np.full((height, width, 3), colour, np.uint8)


def cell(name, *, colour=(10, 200, 30), size=(6000, 4000), mpp=0.5, **more):
    picture = solid(colour, size[0] // 100, size[1] // 100)
    heat = np.full(picture.shape[:2], 0.5)
    facts = {"picture": picture, "heat": heat, "size_l0_px": size, "mpp": mpp, "label": "mutated", "mean": 0.5,
             "n_scored": 3}  # fmt: skip
    return Cell(name, **(facts | more))


def extent(page, colour):
    """Rows and columns of pixels of one colour."""
    rows, columns = np.nonzero((page == colour).all(axis=2))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_pictures_are_copied_pixel_by_pixel():
    look = Look(opacity=0.7, palette="perceptual")
    width, height = BOX_PX
    random = generator(1, "page")
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    heat = np.where(random.random((height, width)) < 0.3, np.nan, random.random((height, width)))
    page = draw_page([cell("a"), cell("b", picture=picture, heat=heat, mpp=None)], look, "title")
    expected = overlay(picture, heat, palette="perceptual", opacity=0.7)
    left, top = 36 + CELL_PX[0], 72
    np.testing.assert_array_equal(page[top : top + height, left : left + width], picture)
    np.testing.assert_array_equal(page[top:, left + width + 6 :][:height, :width], expected)


def test_slides_fill_their_place_and_scale_bars_are_true():
    cells = [cell("a", colour=(255, 0, 0), size=(8000, 4000)), cell("b", colour=(0, 0, 255), size=(4000, 4000)),
             cell("c", colour=(0, 255, 0), size=(4000, 2000), mpp=0.25)]  # fmt: skip
    page = draw_page([one._replace(label="") for one in cells], Look(), "")
    found = [extent(page, colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    sides = [(right - left, below - top) for top, below, left, right in found]
    for (_, below, left, right), width_um in zip(found, (4000, 2000, 1000), strict=True):
        dark = (page[below : below + 200, left : left + 100] < 90).all(axis=2)
        um = np.where(dark.all(axis=1), 100, dark.argmin(axis=1)).max()  # the longest line that begins at the left
        um = um * width_um / (right - left)
        expected = {4000: 1000, 2000: 500, 1000: 200}[width_um]
        assert um == pytest.approx(expected, abs=2 * width_um / (right - left)), width_um
    assert sides[0][0] == sides[2][0]  # the same shape fills the same place
    assert sides[1][1] == BOX_PX[1] or sides[1][0] == BOX_PX[0]


def test_a_slide_of_unknown_resolution_has_no_scale_bar_and_does_not_disturb_the_others():
    known = cell("a", colour=(255, 0, 0))
    lost = cell("b", colour=(0, 0, 255), mpp=None)
    alone, both = (draw_page(cells, Look(), "") for cells in ([known], [known, lost]))
    assert extent(alone, (255, 0, 0)) == extent(both, (255, 0, 0))
    _, below, left, right = extent(both, (0, 0, 255))
    assert (both[below + 4 : below + 14, left:right] == 0).all(axis=2).sum(axis=1).max() < 12  # text, but no bar


@pytest.mark.parametrize("size", [(1, 1), (100_000, 100), (100, 100_000)])
def test_slides_of_odd_shapes_are_drawn(size):
    odd = Cell("odd", solid((255, 0, 0), max(1, size[0] // 300), max(1, size[1] // 300)), None, size, 0.25)
    page = draw_page([odd, cell("a")], Look(), "")
    assert (page == (255, 0, 0)).all(axis=2).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="does not fit its picture"):
        draw_page([cell("a", heat=np.zeros((3, 3)))], Look(), "")
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError, match="is not RGB"):
            draw_page([cell("a", picture=wrong)], Look(), "")
    for wrong in ({"palette": "jet"}, {"opacity": 2.0}):
        with pytest.raises(ParameterError):
            Look(**wrong)


HOSTILE = [
    "<b>$x_1$</b>", "$\\frac{", "a\nb", "\u202etxt.exe", "中国", "\x00", "../../x", " a", "a ", "e\u0301", "Ä", "",
]  # fmt: skip


def test_hostile_names_are_printed_plainly_and_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = draw_page([cell(name, label=name, reason=name, heat=None) for name in HOSTILE], Look(), "".join(HOSTILE))
    assert page.shape[2] == 3
    assert plain_text("<b>$x_1$</b>") == "<b>$x_1$</b>" and plain_text("Ä") == "Ä"
    assert len({plain_text(name) for name in HOSTILE}) == len(HOSTILE)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=120), st.text(max_size=120), st.integers(0, 90))
@example("a\\n", "a\n", 0)
@example(" a", "\\x20a", 0)
@example("a", "a\u200b", 0)
def test_no_two_names_are_printed_alike(first, second, common):
    first, second = "x" * common + first, "x" * common + second
    texts = ["".join(name_lines(name)) for name in (first, second)]
    assert (texts[0] == texts[1]) == (first == second)
    assert all(len(text) <= 2 * LETTERS and text.isprintable() for text in texts)


def test_names_are_whole_where_there_is_room():
    tcga = "TCGA-05-4244-01Z-00-DX1.d4ff32cd-38cf-40ea-8213-45c2b100ac01"
    assert "".join(name_lines(tcga)) == tcga
    assert short_name(tcga, 40).startswith("TCGA-05-4244-01Z-00-DX1") and len(short_name(tcga, 40)) == 40


def jpegs(pdf):
    """Pictures of the last revision of a PDF, by its page objects."""
    data = pdf.read_bytes()
    return [
        Image.open(io.BytesIO(part)) for part in re.findall(rb"stream\n(\xff\xd8.*?\xff\xd9)\nendstream", data, re.S)
    ]


def test_pages_come_one_at_a_time_and_the_same_bytes_twice(tmp_path):
    alive = []

    def cells(folder):
        for i in range(33):
            if i % 16 == 0:
                gc.collect()
                assert len(list(folder.glob("*_0*.png"))) == i // 16, "a page is written before the next is asked for"
                assert sum(one() is not None for one in alive) <= 16, "pictures of earlier pages are still in memory"
            made = cell(f"S{i}", colour=(i * 7, 0, 99))
            alive.append(weakref.ref(made.picture))
            yield made
            del made

    found = []
    for name in ("one", "two"):
        alive.clear()
        (tmp_path / name).mkdir()
        found.append(write_sheets(cells(tmp_path / name), tmp_path / name, gene="TP53", total=33))
    first, second = ([p.read_bytes() for p in [*sheets.pages, sheets.pdf]] for sheets in found)
    assert first == second and b"Date" not in first[-1]
    ledger = found[0].ledger
    assert ledger["slide_id"].tolist() == [f"S{i}" for i in range(33)] and ledger["map"].all()
    assert ledger[["page", "row", "column"]].iloc[-1].tolist() == [3, 1, 1]
    assert ledger[["page", "row", "column"]].iloc[5].tolist() == [1, 2, 2]
    pictures = jpegs(found[0].pdf)
    assert len(pictures) == 3 and re.findall(rb"/Count (\d+)", first[-1])[-1] == b"3"
    for jpeg, path in zip(pictures, found[0].pages, strict=True):
        png = np.asarray(Image.open(path)).astype(int)
        assert np.abs(np.asarray(jpeg).astype(int) - png).mean() < 2


def test_every_slide_has_a_cell_or_nothing_is_claimed(tmp_path):
    three = [cell(name) for name in "abc"]
    for cells, total, message in (
        (three, 4, "a cell for every slide"), (three, 2, "a cell for every slide"), ([], 0, "a cell for every slide"),
        ([*three, cell("a")], 4, "comes twice"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            write_sheets(iter(cells), tmp_path, gene="TP53", total=total)
        assert not list(tmp_path.glob("*.pdf"))


def test_names_of_genes_choose_no_folder_and_older_pages_go(tmp_path):
    folder = tmp_path / "sheets"
    write_sheets([cell(f"S{i}") for i in range(17)], folder, gene="../$x", total=17)
    (folder / "contact_sheet_other_009.png").write_bytes(b"mine")
    found = write_sheets([cell("a")], folder, gene="../$x", total=1)
    assert {p.name for p in folder.iterdir()} == {found.pages[0].name, found.pdf.name, "contact_sheet_other_009.png"}
    assert [p.name for p in tmp_path.iterdir()] == ["sheets"]


def summary_of(mean, label=None):
    frame = pd.DataFrame({"slide_id": list("dcba"), "mean": mean})
    return frame if label is None else frame.assign(label=pd.array(label, "Int64"))


def test_orders():
    summary = summary_of([0.5, 0.5, None, 0.9], [1, 0, 1, None])
    assert sheet_order(summary)["slide_id"].tolist() == ["d", "b", "c", "a"]
    assert [label_text(v) for v in summary["label"]] == ["mutated", "wild type", "mutated", "not profiled"]
    with pytest.raises(ParameterError, match="Give the labels"):
        sheet_order(summary_of([1.0] * 4))


def cohort(shared_data):
    """A real slide, one whose file is missing, one without windows, one of unknown resolution, one excluded."""
    row = {"status": "ok", "reason": None, "mpp": 0.499, "width_l0_px": 2220, "height_l0_px": 2967,
           "path": str(shared_data / "slides" / "CMU-1-Small-Region.svs")}  # fmt: skip
    changes = {"real": {}, "lost": {"path": "/nowhere/lost.svs"}, "bare": {}, "scale": {"mpp": None},
               "out": {"status": "excluded", "reason": "no resolution"}}  # fmt: skip
    slides = pd.DataFrame([row | {"slide_id": n, "patient_id": n} | change for n, change in changes.items()])
    grid = make_grid(2220, 2967, 0.5, 0.5, 256)
    parts = [grid.assign(slide_id=n, tile_id=[f"{n}_{i}" for i in range(len(grid))]) for n in ("real", "lost", "scale")]
    windows = pd.concat(parts, ignore_index=True)
    return slides, windows.assign(TP53=generator(3, "scores").random(len(windows)))


def test_a_real_slide_and_four_that_cannot_be_drawn(shared_data, tmp_path):
    slides, windows = cohort(shared_data)
    ordered = slide_summary(windows, slides, "TP53")
    rows = slides.assign(mpp=0.499).set_index("slide_id").to_dict("index")
    cells = list(sheet_cells(ordered, windows, slides, "TP53", partial(read_thumbnail, rows, max_px=300)))
    found = {one.slide_id: one for one in cells}
    assert list(found) == ordered["slide_id"].tolist() and len(found) == 5
    assert max(found["real"].picture.shape) == 300 and found["real"].reason == ""
    assert not np.isnan(found["real"].heat).all() and found["scale"].heat is not None and found["scale"].mpp is None
    np.testing.assert_array_equal(np.isnan(found["real"].heat), np.isnan(found["scale"].heat))
    assert "lost.svs" in found["lost"].reason and found["lost"].picture is None and found["lost"].n_scored
    assert found["bare"].reason == "no window was scored" and found["out"].reason == "no resolution"
    sheets = write_sheets(cells, tmp_path, gene="TP53", total=5)
    assert dict(zip(sheets.ledger["slide_id"], sheets.ledger["map"], strict=True)) == {
        "real": True, "lost": False, "bare": False, "scale": True, "out": False}  # fmt: skip
    assert (sheets.ledger["map"] == (sheets.ledger["reason"] == "")).all()


def test_windows_too_small_for_the_thumbnail_are_told_not_lost():
    slides = pd.DataFrame([{"slide_id": "S", "patient_id": "S", "status": "ok", "reason": None, "mpp": 0.5,
                            "width_l0_px": 4000, "height_l0_px": 4000}])  # fmt: skip
    windows = pd.DataFrame({"slide_id": "S", "tile_id": ["a"], "x_l0_px": 5, "y_l0_px": 5, "size_l0_px": 100.0,
                            "TP53": 0.5})  # fmt: skip
    ordered = slide_summary(windows, slides, "TP53")
    for side, drawn in ((20, False), (80, True)):
        one = next(sheet_cells(ordered, windows, slides, "TP53", {"S": solid((9, 9, 9), side, side)}.get))
        assert (one.heat is not None) == drawn and ("wider than the windows" in one.reason) != drawn
    nobody = next(sheet_cells(ordered, windows, slides, "TP53", {}.get))
    assert nobody.heat is None and nobody.reason == "there is no picture of the slide"
