"""The viewer without a browser: places, pixels, outlines, points, and names that nobody should believe."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
from openslide import OpenSlide

from deeplrhe_utils.core.errors import AnnotationError, InputError, ParameterError, SlideError
from deeplrhe_utils.evaluation.precision import what_if
from deeplrhe_utils.learning.scoring.heat import SlideScores
from deeplrhe_utils.reporting.explorer import figures
from deeplrhe_utils.reporting.explorer.views import (
    OVERLAP_PX,
    TILE_PX,
    Pixels,
    SlideView,
    colour_ramp,
    neighbours,
    overview_jpeg,
    slide_views,
)
from deeplrhe_utils.reporting.explorer.windows import (
    framed_window,
    heat_square,
    inside_outline,
    window_points,
    window_rows,
)
from deeplrhe_utils.reporting.exports.pyramid import write_deep_zoom
from deeplrhe_utils.reporting.heatmaps.bands import Frame, overlay
from deeplrhe_utils.reporting.viewer.outlines import outline_file, outline_rings, save_outline
from deeplrhe_utils.reporting.viewer.viewer import window_facts, window_picture
from deeplrhe_utils.slides.outlines.find import find_annotation, read_annotation, tumour_fraction, tumour_outline
from deeplrhe_utils.slides.outlines.geojson import write_geojson
from deeplrhe_utils.slides.outlines.regions import Region
from tests.tiff_slides import tissue_like, write_jpeg_slide

WIDTH, HEIGHT, SIDE = 1500, 1100, 256  # not whole tiles, on purpose
SQUARE = [[100, 100], [600, 100], [600, 700], [100, 700]]


def grid(columns: int = 5, rows: int = 4, name: str = "s1") -> pd.DataFrame:
    """Windows with the scores 0, 1, … over their number."""
    places = [(c, r) for r in range(rows) for c in range(columns)]
    return pd.DataFrame({
        "tile_id": [f"{name}_{c}_{r}" for c, r in places], "slide_id": name, "x_l0_px": [c * SIDE for c, _ in places],
        "y_l0_px": [r * SIDE for _, r in places], "size_l0_px": float(SIDE),
        "TP53": np.arange(len(places)) / len(places), "KRAS": np.nan,
    })  # fmt: skip


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> SlideView:
    path = tmp_path_factory.mktemp("viewer") / "s1.svs"
    pixels = tissue_like(HEIGHT, WIDTH, 3)
    write_jpeg_slide(path, pixels, levels=(1, 4), quality=95)
    thumbnail = cv2.resize(pixels, (480, 352), interpolation=cv2.INTER_AREA)
    return SlideView("s1", "P1", "0", WIDTH, HEIGHT, 0.25, grid(), thumbnail, path)


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_tiles_of_the_finest_level_put_together_are_the_slide(view):
    with Pixels(view) as pixels, OpenSlide(view.path) as slide:
        assert (*pixels.size, pixels.scale) == (WIDTH, HEIGHT, (1.0, 1.0))
        whole = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for row in range(math.ceil(HEIGHT / TILE_PX)):
            for column in range(math.ceil(WIDTH / TILE_PX)):
                tile = decoded(pixels.tile(math.ceil(math.log2(WIDTH)), column, row))
                x, y = (TILE_PX * place - (OVERLAP_PX if place else 0) for place in (column, row))  # OpenSeadragon's
                whole[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        truth = np.asarray(slide.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB"))
    assert np.abs(whole.astype(int) - truth).mean() < 4, "JPEG alone differs"


def test_a_thumbnail_stands_in_for_a_slide_that_is_away(view):
    with Pixels(view.from_thumbnail()) as pixels:
        assert pixels.size == (480, 352)
        assert pixels.scale == (WIDTH / 480, HEIGHT / 352)
        x, y = 700, 500
        region = pixels.region(x, y, 100, 32)
    place = view.thumbnail[round(y * 352 / HEIGHT) : round((y + 100) * 352 / HEIGHT),
                           round(x * 480 / WIDTH) : round((x + 100) * 480 / WIDTH)]  # fmt: skip
    assert np.abs(region.mean((0, 1)) - place.mean((0, 1))).max() < 3


def test_regions_lie_where_they_are_asked_for_and_are_white_outside(view):
    with Pixels(view) as pixels, OpenSlide(view.path) as slide:
        found = pixels.region(WIDTH - 100, 300, 200, 200)
        truth = np.asarray(slide.read_region((WIDTH - 100, 300), 0, (100, 200)).convert("RGB"))
        framed = framed_window(view, pixels, 7)
        assert window_picture(view, pixels, 7).shape == (228, 456, 3)
    assert np.array_equal(found[:, :100], truth) and (found[:, 100:] == 255).all()
    assert framed.shape == (224, 224, 3) and (framed[74, 74:150] == 17).all(), "the frame"


def test_wrong_tiles_and_damaged_files_are_told(view, tmp_path):
    with Pixels(view) as pixels, pytest.raises(ParameterError, match="no such tile"):
        pixels.tile(99, 0, 0)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"not a slide")
    with pytest.raises(SlideError):
        Pixels(replace(view, path=broken))


def test_neighbours_are_the_eight_around_also_with_a_fractional_pitch():
    windows = grid()
    inner, corner = 7, 0
    assert sorted(neighbours(windows, inner)) == [1, 2, 3, 6, 8, 11, 12, 13]
    assert sorted(neighbours(windows, corner)) == [1, 5, 6]
    size = 512 / 0.2527 * 0.25
    places = (np.arange(20) % 5 * size).round().astype(int), (np.arange(20) // 5 * size).round().astype(int)
    odd = windows.assign(x_l0_px=places[0], y_l0_px=places[1], size_l0_px=size)
    assert [len(neighbours(odd, i)) for i in (0, 2, 7)] == [3, 5, 8]
    far = windows.assign(x_l0_px=windows["x_l0_px"] * 2)
    assert sorted(neighbours(far, inner)) == [2, 12], "windows that do not touch are no neighbours"


def test_facts_of_a_window_and_points_that_count_every_window_once(view):
    told, empty = window_facts(view.windows, 7, ["TP53", "KRAS"])
    around = np.mean([1, 2, 3, 6, 8, 11, 12, 13]) / 20
    assert told == ("TP53", "0.350", "13 of 20", f"{around:.3f} (n = 8)")
    assert empty == ("KRAS", "–", "–", "–")
    holes = replace(view, windows=view.windows.assign(TP53=view.windows["TP53"].where(view.windows.index != 3)))
    points = window_points([view, replace(holes, slide_id="s2")], "TP53")
    assert len(points) + points.attrs["unscored"] == 40 and points.attrs["unscored"] == 1
    assert points.loc[7, "around"] == pytest.approx(np.mean([1, 2, 3, 6, 8, 11, 12, 13]) / 20)
    assert len(window_points([view], "nobody scored it")) == 0


def test_an_outline_comes_back_as_it_was_drawn(tmp_path):
    path, note = save_outline([SQUARE], tmp_path / "new", "s1", (WIDTH, HEIGHT))
    assert note == "" and find_annotation(tmp_path / "new", "s1") == path
    regions = read_annotation(path)
    assert [r.classification for r in regions] == ["Tumor"]
    assert tumour_outline(regions).equals(shapely.Polygon(SQUARE))
    assert tumour_fraction(tumour_outline(regions), 500, 200, 200) == 0.5
    assert shapely.Polygon(outline_rings(path, (WIDTH, HEIGHT))[0]).equals(shapely.Polygon(SQUARE))
    save_outline([SQUARE, [[800, 100], [900, 100], [900, 200]]], path.parent, "s1", (WIDTH, HEIGHT))
    assert len(read_annotation(path)) == 2, "our own file is replaced"


@pytest.mark.parametrize(("ring", "area", "word"), [
    ([[-50, 100], [200, 100], [200, 200], [-50, 200]], 200 * 100, "cut at the edge"),
    ([[0, 0], [100, 100], [100, 0], [0, 100]], 5000, "repaired"),
])  # fmt: skip
def test_odd_outlines_are_mended_and_said(tmp_path, ring, area, word):
    path, note = save_outline([ring], tmp_path, "s1", (WIDTH, HEIGHT))
    assert word in note and tumour_outline(read_annotation(path)).area == pytest.approx(area)


@pytest.mark.parametrize("rings", [
    [], [[[0, 0], [1, 1]]], [[[5, 5], [5, 5], [5, 5]]], [[[-9, -9], [-1, -9], [-1, -1]]],
    [[[0, 0], [float("inf"), 1], [2, 2]]],
])  # fmt: skip
def test_outlines_without_an_area_are_refused(tmp_path, rings):
    with pytest.raises(AnnotationError):
        save_outline(rings, tmp_path, "s1", (WIDTH, HEIGHT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "..", "", " ", ".hidden", "a\0b", "a\\b", "<b>x</b>", "x" * 300, "C:x"]
)
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(AnnotationError, match="cannot be the name of a file"):
        save_outline([SQUARE], tmp_path / "in", name, (WIDTH, HEIGHT))
    assert list(tmp_path.iterdir()) == []


def test_plain_names_are_kept(tmp_path):
    for name in ("TCGA-05-4244-01Z-00-DX1.d4ff32cd-38cf-40ea", "Präparat 12 (rot)"):
        assert outline_file(tmp_path, name).name == f"{name}.geojson"


@pytest.mark.parametrize("name", ["s1.geojson", "s1.xml", "s1.json"])
def test_an_annotation_of_somebody_else_is_never_overwritten(tmp_path, name):
    theirs = tmp_path / name
    write_geojson([Region(shapely.box(0, 0, 10, 10), "Tumor", "by a pathologist")], theirs)
    before = theirs.read_bytes()
    with pytest.raises(AnnotationError, match="not drawn here"):
        save_outline([SQUARE], tmp_path, "s1", (WIDTH, HEIGHT))
    assert theirs.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [name]


def test_scores_inside_and_outside_an_outline(view, tmp_path):
    away = replace(view, slide_id="s2")
    left = [[0, 0], [2 * SIDE, 0], [2 * SIDE, HEIGHT], [0, HEIGHT]]
    given, _ = save_outline([left], tmp_path / "a", "s1", (WIDTH, HEIGHT))
    table = inside_outline([view, away], "TP53", tmp_path / "drawn", {"s1": given}).set_index("slide_id")
    inside = [0, 1, 5, 6, 10, 11, 15, 16]
    assert table.loc["s1", ["n_inside", "n_outside"]].tolist() == [8, 12]
    assert table.loc["s1", "mean_inside"] == pytest.approx(np.mean(inside) / 20)
    assert table.loc["s2", "outline"] == "none" and pd.isna(table.loc["s2", "mean_inside"])
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "s1.geojson").write_text("{}")
    assert "not GeoJSON" in inside_outline([view], "TP53", tmp_path / "drawn", {"s1": given})["note"].iloc[0]


def test_rows_show_the_highest_and_the_lowest_once(view):
    few = replace(view, slide_id="few", windows=view.windows.iloc[:3].reset_index(drop=True))
    none = replace(view, slide_id="none", windows=view.windows.assign(TP53=np.nan))
    rows = window_rows([view, few, none], "TP53")
    assert rows.titles == ["s1", "few"] and [len(row) for row in rows.pictures] == [5, 4]
    with Pixels(view) as pixels:
        expected = [framed_window(view, pixels, i) for i in (19, 18, 1, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(rows.pictures[0][1:], expected, strict=True))
    square = heat_square(view, view.windows["TP53"].to_numpy(), "paper", 1.0)
    assert square.shape == (480, 480, 3) and (square[0] == 255).all() and (square[-1] == 255).all()


def test_the_ramp_is_that_of_the_overlay():
    heat = np.array([[0.0, 0.25, 0.5, 0.9, 1.0]])
    drawn = overlay(np.zeros((1, 5, 3), np.uint8), heat, palette="paper", opacity=1.0)[0]
    assert ["#{:02x}{:02x}{:02x}".format(*c) for c in drawn] == [
        colour_ramp("paper")[min(255, int(v * 256))] for v in heat[0]
    ]
    with pytest.raises(InputError, match="palette"):
        colour_ramp("jet")


def _scores(view: SlideView) -> SlideScores:
    return SlideScores(["TP53"], view.windows, view.windows, {"s1": view.thumbnail}, {"s1": (WIDTH, HEIGHT)})


def _slides(**other) -> pd.DataFrame:
    return pd.DataFrame([{"slide_id": "s1", "patient_id": "P1", "path": "/nowhere/s1.svs", "mpp": 0.25,
                          "width_l0_px": WIDTH, "height_l0_px": HEIGHT, **other}])  # fmt: skip


def test_views_join_scores_and_slides_or_say_what_does_not_fit(view):
    (found,) = slide_views(_scores(view), _slides(), {"P1": "1"})
    assert (found.fold, found.path, found.mpp, len(found.windows)) == ("1", None, 0.25, 20)
    with pytest.raises(InputError, match="do not agree"):
        slide_views(_scores(view), _slides(slide_id="other"), {})
    with pytest.raises(InputError, match="do not agree"):
        slide_views(_scores(view), pd.concat([_slides(), _slides(path="b.svs")]), {})
    with pytest.raises(InputError, match="another size"):
        slide_views(_scores(view), _slides(width_l0_px=WIDTH + 1), {})


def test_a_slide_that_is_elsewhere_is_seen_by_its_deep_zoom_picture(view, tmp_path):
    picture = np.full((HEIGHT // 2, WIDTH // 2, 3), 90, np.uint8)
    frame = Frame.fit(WIDTH, HEIGHT, 0.25, picture.shape[:2])
    write_deep_zoom(tmp_path / "s1-slide.dzi", [picture], frame, encoding="png")
    (seen,), (away,) = (slide_views(_scores(view), _slides(), {}, folder) for folder in (tmp_path, tmp_path / "none"))
    np.testing.assert_array_equal(seen.thumbnail, picture)
    np.testing.assert_array_equal(away.thumbnail, view.thumbnail)


def test_three_questions_are_drawn_of_hostile_and_of_empty_tables(view):
    points = window_points([replace(view, slide_id="_$a$<b>")], "TP53")
    counts = what_if.at_counts(0.5, [0.8])
    no_cut = pd.DataFrame(columns=["cut", "tiles", "patients", "auc", "ci_low", "ci_high"])
    for rows in (points, points.iloc[:0]):
        figure = figures.what_if(what_if.without_highest(rows), no_cut, counts, {"cut": 0.75, "patients": 160})
        figure.canvas.draw()
        assert [len(axes.lines) for axes in figure.axes] == [len(rows) > 0, 1, 2]


class TestExplorer:
    """The widget, in Python alone; what the browser does is in tests/browser."""

    @pytest.fixture(autouse=True)
    def needs_anywidget(self):
        pytest.importorskip("anywidget", reason="anywidget, which the viewer is made with, is not installed")

    @pytest.fixture
    def explorer(self, view, tmp_path):
        from deeplrhe_utils.reporting.viewer.viewer import Explorer

        other = replace(view, slide_id="<i>s2</i>", patient_id="P2", fold="1", path=None,
                        windows=grid(name="<i>s2</i>"))  # fmt: skip
        opened = Explorer([view, other], ["TP53", "KRAS"], outlines_dir=tmp_path / "out")
        yield opened
        opened.close()

    def texts(self, explorer) -> str:
        return " ".join(child.value for child in explorer.widget.children if type(child).__name__ == "HTML")

    def test_it_answers_with_the_tile_that_is_asked_for(self, explorer, monkeypatch):
        sent = []
        monkeypatch.setattr(
            type(explorer.canvas), "send", lambda _, content, buffers=None: sent.append((content, buffers))
        )
        version = explorer.canvas.slide["version"]
        ask = {"kind": "tile", "version": version, "level": 0, "column": 0, "row": 0, "key": "0/0/0"}
        explorer.canvas.answer(None, ask, None)
        assert decoded(sent[-1][1][0]).shape == (1, 1, 3) and sent[-1][0]["key"] == "0/0/0"
        explorer.canvas.answer(None, {**ask, "level": 77}, None)
        assert "no such tile" in sent[-1][0]["problem"] and sent[-1][1] == []
        explorer.canvas.answer(None, {**ask, "level": "../x"}, None)
        assert sent[-1][1] == []
        count = len(sent)
        for other in ({**ask, "version": version + 1}, {"kind": "else"}, "text", None):
            explorer.canvas.answer(None, other, None)
        assert len(sent) == count

    def test_menus_and_clicks(self, explorer, view):
        assert np.frombuffer(explorer.canvas.scores, np.float32) == pytest.approx(view.windows["TP53"])
        explorer.menus["gene"].value = "KRAS"
        assert np.isnan(np.frombuffer(explorer.canvas.scores, np.float32)).all(), "a gene nobody scored is bare"
        explorer.menus["gene"].value = "TP53"
        explorer.canvas.chosen = 7
        assert "Window s1_2_1" in self.texts(explorer) and "0.350" in self.texts(explorer)
        explorer.canvas.chosen = 4000
        assert "No window was scored there" in self.texts(explorer)
        explorer.menus["fold"].value = "1"
        assert explorer.view.patient_id == "P2" and explorer.menus["slide"].options == ("<i>s2</i>",)
        assert "thumbnail is shown" in self.texts(explorer) and "<i>" not in self.texts(explorer)
        explorer.choose("s1_4_3")
        assert (explorer.view.slide_id, explorer.canvas.chosen) == ("s1", 19)
        assert explorer.canvas.centre == [4.5 * SIDE, 3.5 * SIDE]
        with pytest.raises(ParameterError, match="has a window"):
            explorer.choose("nothing")

    def test_outlines_stay_with_their_slide(self, explorer, tmp_path):
        explorer.canvas.rings = [SQUARE]
        explorer.menus["slide"].value = "<i>s2</i>"
        assert explorer.canvas.rings == []
        explorer.menus["slide"].value = "s1"
        assert explorer.canvas.rings == [SQUARE]
        assert json.loads(explorer.save().read_text())["features"][0]["properties"]["classification"]["name"] == "Tumor"

    def test_a_damaged_slide_is_shown_as_its_thumbnail(self, view, tmp_path):
        from deeplrhe_utils.reporting.viewer.viewer import Explorer

        broken = tmp_path / "b.svs"
        broken.write_bytes(b"\0" * 100)
        opened = Explorer([replace(view, path=broken)], ["TP53"], outlines_dir=tmp_path)
        assert "thumbnail is shown, because" in self.texts(opened) and overview_jpeg(view)[:2] == b"\xff\xd8"
        opened.close()
        with pytest.raises(InputError, match="nothing to explore"):
            Explorer([], ["TP53"], outlines_dir=tmp_path)

    def test_a_live_plot_leads_to_its_window(self, view):
        from plotly.callbacks import InputDeviceState, Points

        met = []
        points = window_points([view], "TP53")
        figure = figures.live_agreement(points, "TP53", met.append)
        figure.data[0]._dispatch_on_click(Points([7], [0], [0], "", 0), InputDeviceState())
        assert met == ["s1_2_1"]
