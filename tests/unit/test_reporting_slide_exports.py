"""All files of one slide: where they lie, that nothing of others is lost, and the pictures of several networks."""

import json
from dataclasses import replace

import numpy as np
import openslide
import pandas as pd
import pytest
import shapely
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ParameterError, SlideError
from deeplrhe_utils.reporting.exports.export import ExportFolder, MapStyle, SlideMap, export_slide
from deeplrhe_utils.reporting.figures.heat import Compared, finer_maps, map_steps, overview
from deeplrhe_utils.reporting.heatmaps.bands import Frame, Scale, colour_map
from deeplrhe_utils.reporting.heatmaps.scores import networks_in, windows_in
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.between import windows_between
from deeplrhe_utils.slides.tiles.grid import make_grid
from tests.tiff_slides import tissue_like, write_jpeg_slide

WIDTH, HEIGHT = 1501, 997
FORMATS = [".contours.geojson", ".png", ".dzi", ".sd.ome.tiff"]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = write_jpeg_slide(tmp_path_factory.mktemp("slide") / "a.svs", tissue_like(HEIGHT, WIDTH), levels=(1, 4))
    return {"slide_id": "a", "patient_id": "P", "path": str(path), "mpp": 0.25}


@pytest.fixture
def dense():
    tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 128, "a")
    tiles["tile_id"] = [f"a_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)]
    both = pd.concat([tiles.assign(on_grid=True), windows_between(tiles, 2).assign(on_grid=False)], ignore_index=True)
    x = both["x_l0_px"] / WIDTH
    by_one, by_two = (both.assign(slide_id="a", network=k, TP53=x * 0.9 + 0.05 * k, KRAS=np.nan) for k in (1, 2))
    return pd.concat([by_one, by_two], ignore_index=True)


def tiles_of(dense):
    return dense[dense["on_grid"] & (dense["network"] == 1)].drop(columns=["on_grid", "network", "column", "row"])


def map_of(dense, **style):
    frame = Frame.fit(WIDTH, HEIGHT, 0.25, (40, 60))
    return SlideMap(
        networks_in(dense, "a", "TP53"), frame, "a", "TP53", style=MapStyle("gaussian", "perceptual", **style)
    )


def test_everything_is_written_and_drawn_at_its_own_size(slide, dense, tmp_path):
    folder = ExportFolder(tmp_path)
    tiles = tiles_of(dense)
    written = export_slide(slide, tiles, ["TP53", "KRAS"], map_of(dense), folder, FORMATS, map_px=300, deep_zoom_px=700)
    assert [p.name for p in written] == [
        "a.geojson", *[f"a+TP53{ending}" for ending in FORMATS], "a-slide.dzi", "a+TP53_files", "a-slide_files",
    ]  # fmt: skip
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert len(features) == len(tiles) and "KRAS" not in features[0]["properties"]["measurements"]
    zoom = sorted((tmp_path / "a-slide_files").iterdir(), key=lambda p: int(p.name))[-1]
    picture = Image.new("RGB", (700, round(700 * HEIGHT / WIDTH)))
    for tile in zoom.iterdir():
        column, row = map(int, tile.stem.split("_"))
        picture.paste(Image.open(tile), (256 * column, 256 * row))
    with openslide.OpenSlide(slide["path"]) as opened:
        expected = opened.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB").resize(picture.size, Image.BOX)
    assert np.abs(np.asarray(picture, float) - np.asarray(expected, float)).mean() < 6
    again = export_slide(slide, tiles, ["TP53", "KRAS"], map_of(dense), folder, FORMATS, map_px=300, deep_zoom_px=700)
    assert again == written


def test_every_file_with_room_for_it_says_which_network_scored(slide, dense, tmp_path):
    words, folder = "Network m, trained on SYNTHETIC slides", ExportFolder(tmp_path)
    told = [f for f in FORMATS if f not in (".dzi", ".deeppath.csv")]
    export_slide(slide, tiles_of(dense), ["TP53"], map_of(dense), folder, [*told, ".png"], map_px=300, scored_by=words)
    for name in ("a.geojson", *(f"a+TP53{ending}" for ending in told if ending != ".png")):
        assert words.encode() in (tmp_path / name).read_bytes(), name
    shown = (tmp_path / "a+TP53.png").read_bytes()
    export_slide(slide, tiles_of(dense), [], map_of(dense), folder, [".png"], map_px=300)
    assert (tmp_path / "a+TP53.png").read_bytes() != shown


def test_qupath_counts_from_the_scanned_area(slide, dense, tmp_path, monkeypatch):
    monkeypatch.setattr(Slide, "bounds_l0_px", property(lambda _: (100, 200, 1300, 700)))
    export_slide(
        slide, tiles_of(dense), ["TP53"], map_of(dense), ExportFolder(tmp_path), [".contours.geojson"], map_px=300
    )
    corners = []
    for name in ("a.geojson", "a+TP53.contours.geojson"):
        for feature in json.loads((tmp_path / name).read_text())["features"]:
            corners.append(
                np.concatenate([np.reshape(ring, (-1, 2)) for ring in flat(feature["geometry"]["coordinates"])])
            )
    first = corners[0].min(axis=0)
    assert tuple(first) == (-100, -200) and np.concatenate(corners).max() <= WIDTH - 100


def flat(nested):
    return [nested] if np.ndim(nested[0]) == 1 else [ring for part in nested for ring in flat(part)]


def test_a_file_that_was_edited_is_not_replaced(slide, dense, tmp_path):
    asked = (slide, tiles_of(dense), ["TP53"], None, ExportFolder(tmp_path), FORMATS)
    assert [p.name for p in export_slide(*asked, map_px=300)] == ["a.geojson"]
    (tmp_path / "a.geojson").write_text("drawn by a pathologist")
    with pytest.raises(InputError, match="not replaced"):
        export_slide(*asked, map_px=300)
    assert (tmp_path / "a.geojson").read_text() == "drawn by a pathologist"
    with pytest.raises(ParameterError, match="at least one pixel"):
        export_slide(*asked, map_px=0)
    with pytest.raises((SlideError, InputError)):
        export_slide({**slide, "path": "none.svs"}, *asked[1:], map_px=300)


def test_scores_of_networks_become_folds(dense):
    both = networks_in(dense, "a", "TP53")
    assert both.folds == [1, 2] and both.scores.shape == (dense["tile_id"].nunique(), 2)
    assert np.allclose(both.table["score"], both.scores.mean(axis=1))
    for gene in ("KRAS", "EGFR", "slide_id"):
        with pytest.raises(InputError, match="Nobody scored"):
            networks_in(dense, "a", gene)
    with pytest.raises(InputError, match="no slide"):
        networks_in(dense, "b", "TP53")
    with pytest.raises(InputError, match="twice"):
        networks_in(pd.concat([dense, dense]), "a", "TP53")


def test_the_figure_shows_the_spread_or_says_that_there_is_none(dense):
    frame = Frame.fit(WIDTH, HEIGHT, 0.25, (40, 60))
    paper = SlideMap(windows_in(tiles_of(dense), "a", "TP53"), frame, "a", "TP53")
    alone = SlideMap(networks_in(dense.query("network == 1"), "a", "TP53"), frame, "a", "TP53")
    panels = {}
    for name, finer in (("two", map_of(dense)), ("one", alone)):
        axes = finer_maps([Compared(paper, finer)]).axes[3]
        panels[name] = (np.asarray(axes.images[0].get_array()), " ".join(t.get_text() for t in axes.texts))
    assert "not measured" in panels["one"][1] and not panels["two"][1]
    assert (panels["one"][0] == 255).all() and (panels["two"][0] != 255).any()
    assert finer_maps([]).axes


def test_maps_are_coloured_by_odds_in_figures_and_by_scores_in_exports(dense):
    plain = map_of(dense)
    scale = Scale(0.2, 4.0)
    odds = replace(plain, style=replace(plain.style, palette="paper", scale=scale, thresholds=(scale.score(2.0),)))
    assert (plain.overlaid() != odds.overlaid()).any()
    place = scale.place(odds.mean())
    assert (odds.overlaid() == colour_map(place, "paper")).all(), "without a picture the colours are the palette's"
    steps = map_steps(odds, tile_px=512)
    assert ["1/4 ×", "1 ×", "4 ×"] in [[t.get_text() for t in axes.get_xticklabels()] for axes in steps.findobj(Axes)]
    tile = np.zeros((8, 8, 3), np.uint8)
    for outline, lines in ((None, 1), (shapely.box(0, 0, 50, 50), 2)):
        first = overview(odds, tile, tile, {"fold 0": [0.7, 0.6]}, outline).axes[0]
        assert len(first.lines) == lines, "scale bar, and the outline where there is one"
    assert "not stored here" in [t.get_text() for t in overview(odds, tile, tile, {}).findobj(Text)]
