"""Widgets without a kernel: the chosen tiles, and no others, are on the page, and a menu changes what is shown."""

import cv2
import numpy as np
import pandas as pd
import pytest
from ipywidgets import BoundedIntText, Dropdown, Image

from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS, TILES
from deeplrhe_utils.reporting.audit_figures.audits import filter_grid
from deeplrhe_utils.reporting.figures.learning import stain_agreement
from deeplrhe_utils.reporting.figures.style import noise_ladder
from deeplrhe_utils.reporting.viewer import widgets
from deeplrhe_utils.reporting.viewer.widgets import ANY, choose_tiles, page_of, sheet, tile_explorer, to_png
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.slides.tiles.pixels import peek
from tests.tiff_slides import overwrite_tile, tissue_like, write_jpeg_slide

SIDE = 112  # of a picture on the page [px]
REASONS = ("background", "noise", "pen")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three slides of two patients, 40, 16 and 4 tiles; rows of SLIDES by name, TILES and LABELS."""
    folder, by_id, parts = tmp_path_factory.mktemp("slides"), {}, []
    sizes = {"s1": ("p1", 1024, 640), "s2": ("p2", 512, 512), "s3": ("p1", 256, 256)}
    for seed, (name, (patient, width, height)) in enumerate(sizes.items()):
        path = write_jpeg_slide(folder / f"{name}.svs", tissue_like(height, width, seed))
        by_id[name] = {"slide_id": name, "patient_id": patient, "path": str(path), "mpp": 0.25}
        grid = make_grid(width, height, 0.25, 0.5, 64)
        grid["tile_id"] = [f"{name}_{c}_{r}" for c, r in zip(grid["column"], grid["row"], strict=True)]
        parts.append(grid.assign(slide_id=name, patient_id=patient, kept=True, selected=False))
    tiles = pd.concat(parts, ignore_index=True)
    tiles["reason"] = pd.Series(pd.NA, index=tiles.index, dtype="string")
    for number, reason in enumerate(REASONS):  # every tenth tile, and the next, and the next but one
        tiles.loc[number::10, "reason"] = reason
    tiles["kept"] = tiles["reason"].isna()
    labels = pd.DataFrame(
        [("p1", "TP53", 1), ("p2", "TP53", 0), ("p1", "KRAS", None), ("p2", "KRAS", 1), ("p1", "EGFR", None),
         ("p2", "EGFR", None)],
        columns=["patient_id", "gene", "status"],
    ).assign(source="test")  # fmt: skip
    return by_id, conform(tiles, TILES), conform(labels, LABELS)


@pytest.mark.parametrize(("asked", "slides"), [
    ({}, {"s1", "s2", "s3"}),
    ({"slide_id": "s3"}, {"s3"}),
    ({"slide_id": "gone"}, set()),
    ({"gene": "TP53", "status": "mutated"}, {"s1", "s3"}),
    ({"gene": "TP53", "status": "wild type"}, {"s2"}),
    ({"gene": "TP53", "status": "not profiled"}, set()),
    ({"gene": "KRAS", "status": "not profiled"}, {"s1", "s3"}),
    ({"gene": "KRAS", "status": "wild type"}, set()),
    ({"gene": "EGFR", "status": "not profiled"}, {"s1", "s2", "s3"}),
    ({"gene": "TP53"}, {"s1", "s2", "s3"}),  # a gene without a status says nothing
    ({"slide_id": "s3", "gene": "TP53", "status": "mutated"}, {"s3"}),
    ({"slide_id": "s2", "gene": "TP53", "status": "mutated"}, set()),
], ids=lambda value: str(sorted(value)))  # fmt: skip
@pytest.mark.parametrize("reason", [ANY, "kept", *REASONS, "fold"])
def test_tiles_are_chosen_by_slide_gene_status_and_outcome_together(cohort, asked, slides, reason):
    _, tiles, labels = cohort
    chosen = choose_tiles(tiles, labels, **asked, reason=reason)
    outcome = tiles["reason"].fillna("kept")
    expected = tiles[tiles["slide_id"].isin(slides) & ((reason == ANY) | (outcome == reason))]
    pd.testing.assert_frame_equal(chosen, expected)
    assert (len(chosen) > 0) == bool(slides and (reason in (ANY, "kept") or (reason != "fold" and slides != {"s3"})))


def test_without_labels_or_a_row_of_the_gene_a_patient_is_not_profiled(cohort):
    _, tiles, labels = cohort
    fewer = labels[(labels["patient_id"] != "p1") | (labels["gene"] != "TP53")]
    chosen = {s: choose_tiles(tiles, fewer, gene="TP53", status=s) for s in ("mutated", "wild type", "not profiled")}
    assert {s: set(own["slide_id"]) for s, own in chosen.items()} == {
        "mutated": set(), "wild type": {"s2"}, "not profiled": {"s1", "s3"},
    }  # fmt: skip
    assert sum(map(len, chosen.values())) == len(tiles), "every tile is of one status"
    _, tiles, labels = cohort
    none = labels.iloc[:0]
    assert len(choose_tiles(tiles, none)) == len(tiles)
    assert len(choose_tiles(tiles, none, gene="TP53", status="mutated")) == 0
    assert len(choose_tiles(tiles, none, gene="TP53", status="not profiled")) == len(tiles)


def cell(page, number, side=SIDE, gap=4):
    y, x = number // 8 * (side + gap), number % 8 * (side + gap)
    return page[y : y + side, x : x + side]


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (8, 1), (17, 3)])
def test_a_sheet_holds_its_pictures_row_by_row_on_white(n, rows):
    pictures = [np.full((10, 10, 3), 10 * i, np.uint8) for i in range(n)]
    page = sheet(pictures)
    assert page.shape == (rows * 14, 8 * 14, 3) and page.dtype == np.uint8
    assert all((cell(page, i, 10) == 10 * i).all() for i in range(n))
    covered = np.zeros(page.shape[:2], bool)
    for i in range(n):
        cell(covered, i, 10)[...] = True
    assert (page[~covered] == 255).all() and covered.sum() == 100 * n


def test_columns_an_empty_sheet_and_a_png_of_the_picture():
    pictures = [np.full((6, 6, 3), i, np.uint8) for i in range(5)]
    page = sheet(pictures, columns=2)
    assert page.shape == (30, 20, 3) and (page[20:, 10:] == 255).all() and (page[10:16, 10:16] == 3).all()
    empty = sheet([])
    assert empty.ndim == 3 and min(empty.shape) > 0 and (empty == 255).all()
    picture = tissue_like(40, 60)
    stream = np.frombuffer(to_png(picture), np.uint8)
    assert np.array_equal(cv2.cvtColor(cv2.imdecode(stream, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), picture)


def test_a_page_shows_exactly_the_chosen_tiles_in_their_order(cohort):
    by_id, tiles, labels = cohort
    chosen = choose_tiles(tiles, labels, reason="kept")  # 42 tiles of three slides
    assert len(chosen) == 42
    one_by_one = [peek(by_id[t.slide_id], chosen.loc[[t.Index]], SIDE)[0] for t in chosen.itertuples()]
    assert len({picture.tobytes() for picture in one_by_one}) == 42, "each can be told from the others"
    for page, part in ((0, one_by_one[:32]), (1, one_by_one[32:])):
        assert np.array_equal(page_of(chosen, by_id, page), sheet(part))
    assert (page_of(chosen, by_id, 2) == 255).all(), "after the last page there is nothing"
    assert np.array_equal(page_of(chosen.iloc[::-1], by_id, 0), sheet(one_by_one[::-1][:32]))


def test_rows_of_several_slides_in_turn_keep_their_order_and_each_slide_is_opened_once(cohort, monkeypatch):
    by_id, tiles, _ = cohort
    chosen = tiles.iloc[[0, 41, 1, 57, 42, 2]]
    assert chosen["slide_id"].tolist() == ["s1", "s2", "s1", "s3", "s2", "s1"]
    one_by_one = [peek(by_id[t.slide_id], chosen.loc[[t.Index]], SIDE)[0] for t in chosen.itertuples()]
    opened = []
    monkeypatch.setattr(widgets, "peek", lambda row, own, side: opened.append(row["slide_id"]) or peek(row, own, side))
    page = page_of(chosen, by_id, 0)
    assert len({picture.tobytes() for picture in one_by_one}) == 6
    assert np.array_equal(page, sheet(one_by_one)) and opened == ["s1", "s2", "s3"]


def test_only_the_slides_on_the_page_are_opened(cohort, monkeypatch):
    by_id, tiles, _ = cohort
    opened = []
    monkeypatch.setattr(widgets, "peek", lambda row, own, side: opened.append(row["slide_id"]) or peek(row, own, side))
    for page, expected in ((0, ["s1"]), (1, ["s1", "s2", "s3"])):
        opened.clear()
        page_of(tiles, by_id, page)
        assert opened == expected


def test_a_tile_that_cannot_be_decoded_is_a_cross_among_the_others(cohort, tmp_path):
    by_id, tiles, _ = cohort
    path = write_jpeg_slide(tmp_path / "s3.svs", tissue_like(512, 512, 2), tile=128)
    overwrite_tile(path, 1, lambda stream: bytes(len(stream)))
    own = tiles[tiles["slide_id"] == "s3"]
    page = page_of(own, {"s3": {**by_id["s3"], "path": str(path)}}, 0)
    crosses = [(cell(page, i) == 255).all(axis=2).mean() > 0.9 for i in range(4)]
    assert crosses == [False, True, False, False]
    red = cell(page, 1).astype(int)
    assert (red[0, 0] == (200, 0, 0)).all() and (red[55, 55, 0] - red[55, 55, 1]) > 100


class Explorer:
    """The parts of a widget by what is written beside them."""

    def __init__(self, box):
        self.parts, todo = {}, [box]
        while todo:
            one = todo.pop()
            todo += getattr(one, "children", ())
            name = getattr(one, "description", "") or type(one).__name__
            self.parts[name] = one

    def __getitem__(self, name):
        return self.parts[name]

    @property
    def page(self):
        stream = np.frombuffer(self["Image"].value, np.uint8)
        return cv2.cvtColor(cv2.imdecode(stream, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture
def explorer(cohort):
    return Explorer(tile_explorer(*cohort))


def test_the_menus_offer_what_the_tables_hold(explorer):
    assert {n for n, p in explorer.parts.items() if isinstance(p, Dropdown)} == {"slide", "gene", "status", "outcome"}
    assert explorer["slide"].options == (ANY, "s1", "s2", "s3")
    assert explorer["gene"].options == (ANY, "EGFR", "KRAS", "TP53")
    assert explorer["status"].options == (ANY, "mutated", "wild type", "not profiled")
    assert explorer["outcome"].options == (ANY, "background", "kept", "noise", "pen")
    assert isinstance(explorer["page"], BoundedIntText) and isinstance(explorer["Image"], Image)
    assert explorer["Image"].format == "png"


def test_a_menu_changes_the_tiles_and_the_counts(explorer, cohort):
    by_id, tiles, labels = cohort
    assert explorer["HTML"].value == "60 tiles of 3 slides, page 0 of 1"
    assert np.array_equal(explorer.page, page_of(tiles, by_id, 0))
    seen = [explorer["Image"].value]
    for name, value, told in (
        ("slide", "s2", "16 tiles of 1 slides, page 0 of 0"),
        ("outcome", "noise", "2 tiles of 1 slides, page 0 of 0"),
        ("slide", ANY, "6 tiles of 2 slides, page 0 of 0"),
        ("gene", "TP53", "6 tiles of 2 slides, page 0 of 0"),
        ("status", "wild type", "2 tiles of 1 slides, page 0 of 0"),
        ("status", "mutated", "4 tiles of 1 slides, page 0 of 0"),
        ("status", "not profiled", "0 tiles of 0 slides, page 0 of 0"),
        ("gene", "KRAS", "4 tiles of 1 slides, page 0 of 0"),
        ("outcome", ANY, "44 tiles of 2 slides, page 0 of 1"),
    ):
        explorer[name].value = value
        counts = [int(word) for word in told.replace(",", "").split() if word.isdigit()]
        own = choose_tiles(
            tiles, labels, explorer["slide"].value, explorer["gene"].value, explorer["status"].value,
            explorer["outcome"].value,
        )  # fmt: skip
        assert [len(own), own["slide_id"].nunique()] == counts[:2], "the test counts as the table does"
        assert explorer["HTML"].value == told
        assert np.array_equal(explorer.page, page_of(own, by_id, 0))
        seen.append(explorer["Image"].value)
    assert seen[0] != seen[1] != seen[2] != seen[3] == seen[4] != seen[5] != seen[6] != seen[7] != seen[8] != seen[9]


def test_the_status_can_be_chosen_only_with_a_gene(explorer):
    status, gene, told = explorer["status"], explorer["gene"], explorer["HTML"]
    assert status.disabled
    gene.value = "TP53"
    assert not status.disabled and told.value.startswith("60 tiles")
    status.value = "wild type"
    assert told.value.startswith("16 tiles of 1 slides")
    gene.value = ANY
    assert status.disabled and status.value == ANY and told.value == "60 tiles of 3 slides, page 0 of 1"
    status.value = "mutated"  # as a program could, though the menu is grey
    assert status.value == ANY and told.value.startswith("60 tiles")


def test_pages_are_turned_and_a_shorter_choice_goes_back_to_its_last_page(explorer, cohort):
    by_id, tiles, _ = cohort
    first = explorer["Image"].value
    explorer["page"].value = 1
    assert explorer["HTML"].value == "60 tiles of 3 slides, page 1 of 1" and explorer["Image"].value != first
    assert np.array_equal(explorer.page, page_of(tiles, by_id, 1))
    explorer["page"].value = 7  # there is none
    assert explorer["page"].value == 1
    explorer["slide"].value = "s3"
    assert explorer["page"].value == explorer["page"].max == 0
    assert explorer["HTML"].value == "4 tiles of 1 slides, page 0 of 0"
    assert np.array_equal(explorer.page, page_of(tiles[tiles["slide_id"] == "s3"], by_id, 0))
    explorer["slide"].value = ANY
    assert explorer["page"].max == 1 and explorer["Image"].value == first


def test_the_last_page_is_full_where_the_number_divides(cohort):
    by_id, tiles, labels = cohort
    for n, last in ((31, 0), (32, 0), (33, 1), (0, 0)):
        one = Explorer(tile_explorer(by_id, tiles.iloc[:n], labels))
        assert one["page"].max == last
        assert one["HTML"].value == f"{n} tiles of {tiles.iloc[:n]['slide_id'].nunique()} slides, page 0 of {last}"


@pytest.mark.parametrize("kinds", [{"blur": 3}, {"blur": 3, "fold": 2, "jpeg": 3}])
def test_the_figure_of_the_filter_prints_every_share_with_its_strength(kinds):
    rows = [{"kind": k, "strength": s + 1.0, "sensitivity": 0.3 * s, "false_alarms": 0.05, "n": 10 * (k != "jpeg")}
            for k, steps in kinds.items() for s in range(steps)]  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[table["n"] == 0, ["sensitivity", "false_alarms"]] = np.nan
    left, right = filter_grid(table).axes
    assert [t.get_text() for t in left.texts][:3] == ["0.00\n1 µm", "0.30\n2 µm", "0.60\n3 µm"]
    assert [t.get_text().replace("\nnot judged", "") for t in left.get_yticklabels()] == list(kinds)
    assert len(left.texts) == sum(steps for kind, steps in kinds.items() if kind != "jpeg"), "nan is no share"
    assert {t.get_text() for t in right.texts} == {"0.05"}


@pytest.mark.parametrize(("ratios", "fates"), [((0.1, 0.75, 0.9), "kkd"), ((0.8, 0.9), "dd"), ((), "")])
def test_the_ladder_marks_the_cut_between_what_stays_and_what_goes(ratios, fates):
    tiles = [np.full((8, 8, 3), 200, np.uint8)] * len(ratios)
    figure = noise_ladder(tiles, tiles, ratios, np.array(ratios), 0.75)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split("\n")[1][0] for title in titles] == list(fates)
    marks = [text for axes in figure.axes for text in axes.texts if text.arrow_patch is not None]
    assert len(marks) == (len(set(fates)) == 2)


def test_what_agreement_costs_is_a_third_panel_where_methods_were_judged():
    colours = pd.DataFrame({"red": [1.0, 2.0], "blue": [2.0, 1.0], "site": ["a", "b"]})
    methods = pd.DataFrame({"cs": [1.0, 0.9], "wasserstein": [4.0, 1.0]}, pd.Index(["none", "DCGMM"], name="method"))
    for rows, panels in ((methods, 3), (pd.DataFrame(), 2)):
        figure = stain_agreement(colours, colours, rows)
        figure.canvas.draw()
        assert len(figure.axes) == panels
