"""Exports: conventions of the programs that read them, equal bytes, names that stay in their folder, bad input."""

import csv
import json
import re
import uuid
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ParameterError, SlideError
from deeplrhe_utils.core.files import safe_name, sha256_file
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.reporting.exports import interop
from deeplrhe_utils.reporting.exports import picture as heat_picture
from deeplrhe_utils.reporting.exports.export import (
    FORMATS,
    INDEX,
    ExportFolder,
    MapStyle,
    SlideMap,
    export_map,
    map_stem,
)
from deeplrhe_utils.reporting.exports.pyramid import (
    halved,
    level_sizes,
    read_deep_zoom,
    write_deep_zoom,
    write_overlay_tiff,
    write_score_tiff,
)
from deeplrhe_utils.reporting.heatmaps.bands import Frame, heat_bands, heat_map
from deeplrhe_utils.reporting.heatmaps.contours import Contour, map_contours, window_contours
from deeplrhe_utils.reporting.heatmaps.scores import GeneWindows
from deeplrhe_utils.slides.outlines.find import read_annotation
from deeplrhe_utils.slides.tiles.grid import make_grid

DEMO = Path(__file__).resolve().parents[2] / "reports" / "demo"
HOSTILE = ["../../etc/passwd", "<script>alert('x')</script>", "a\0b\x01", "x" * 300, "", "..", "Lunge Ö/1", "=SUM(A1)",
           "-rf", "a+b", "𝔊 & \"quotes\""]  # fmt: skip


def small_map(slide_id="s", gene="TP53", folds=1, **more):
    tiles = make_grid(700, 500, 0.5, 0.5, 100)
    tiles = tiles.assign(tile_id=[f"{slide_id}_{i}" for i in range(len(tiles))])
    scores = generator(5, "small").random((len(tiles), folds))
    scores[::3] = np.nan
    table = tiles[["tile_id", "x_l0_px", "y_l0_px", "size_l0_px"]].assign(score=scores.mean(axis=1))
    windows = GeneWindows(table, scores, list(range(folds)), pd.DataFrame())
    return SlideMap(windows, Frame.at(700, 500, 0.5, 2.5), slide_id, gene, **more)


def test_equal_input_gives_equal_bytes_and_other_content_another_uuid(tmp_path):
    first, again = (export_map(small_map(folds=2), ExportFolder(tmp_path / name), "s") for name in "ab")
    assert [p.name for p in first] == [p.name for p in again] and len(first) == len(FORMATS)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    a, b = (sorted((tmp_path / n / "s+TP53_files").rglob("*.jpg")) for n in "ab")
    assert a and [f.read_bytes() for f in a] == [f.read_bytes() for f in b]

    frame = Frame.at(100, 100, 0.5, 5.0)
    said = []
    for name, value in (("n", 0.5), ("n", 0.5), ("n", 0.25), ("m", 0.5)):
        path = write_score_tiff(tmp_path / "u.ome.tiff", [np.full(frame.shape, value)], frame, name=name)
        said.append(re.search(r'UUID="urn:uuid:([0-9a-f-]+)"', tifffile.TiffFile(path).ome_metadata)[1])
    assert said[0] == said[1] and len(set(said)) == 3
    assert all(uuid.UUID(text).version == 5 for text in said)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_scores_survive_with_what_was_not_measured(kind, tmp_path):
    scores = generator(6, "kinds").random((301, 407)).astype(np.float32)
    scores[100:140, 30:90] = np.nan
    scores[0, :3] = 0, 1, np.nan
    frame = Frame.fit(4070, 3010, 0.25, scores.shape)
    bands = np.array_split(scores, [1, 7, 290])
    path = write_score_tiff(tmp_path / "a.ome.tiff", bands, frame, name="x", kind=kind, about={"gene": "<TP53>"})
    with tifffile.TiffFile(path) as file:
        stored = file.asarray()
        facts = {m.get("K"): m.text for m in ElementTree.fromstring(file.ome_metadata).iter() if m.tag.endswith("}M")}
    assert stored.dtype == kind and facts["gene"] == "<TP53>" and "not measured" in facts["values"]
    if kind == "float32":
        np.testing.assert_array_equal(stored, scores)
    else:
        assert ((stored == 0) == np.isnan(scores)).all()
        assert np.nanmax(np.abs((stored - 1.0) / 254 - scores)[stored > 0]) <= 0.5 / 254 + 1e-6


def test_a_byte_map_of_deviations_beyond_one_is_refused_and_leaves_nothing(tmp_path):
    frame = Frame.fit(10, 10, 0.5, (10, 10))
    with pytest.raises(ParameterError, match="does not fit into a byte"):
        write_score_tiff(tmp_path / "a.ome.tiff", [np.full((10, 10), 1.5)], frame, name="x", kind="uint8")
    with pytest.raises(ParameterError, match=r"float32 \| uint8"):
        write_score_tiff(tmp_path / "a.ome.tiff", [], frame, name="x", kind="int16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strips", [[np.zeros((9, 10))], [np.zeros((11, 10))], [np.zeros((10, 9))], []])
def test_bands_that_do_not_add_up_leave_no_file(strips, tmp_path):
    frame = Frame.fit(10, 10, 0.5, (10, 10))
    with pytest.raises(SlideError):
        write_score_tiff(tmp_path / "a.ome.tiff", strips, frame, name="x")
    colours = [np.zeros((*s.shape, 3), np.uint8) for s in strips]
    for write in (lambda: write_overlay_tiff(tmp_path / "a.ome.tiff", colours, frame, name="x"),
                  lambda: write_deep_zoom(tmp_path / "a.dzi", colours, frame)):  # fmt: skip
        with pytest.raises(SlideError):
            write()
    with pytest.raises(SlideError, match="float64"):
        write_overlay_tiff(tmp_path / "a.ome.tiff", [np.zeros((10, 10, 3))], frame, name="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (1, 1), (1, 8)])
def test_halving_averages_what_was_measured(shape):
    values = generator(7, "halves").random(shape).astype(np.float32)
    values.flat[::4] = np.nan
    rows, columns = -(-shape[0] // 2), -(-shape[1] // 2)
    expected = np.full((rows, columns), np.nan)
    for i in range(rows):
        for j in range(columns):
            part = values[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            if not np.isnan(part).all():
                expected[i, j] = np.nanmean(part.astype(float))
    np.testing.assert_allclose(halved(values), expected, atol=1e-6)
    colours = generator(7, "colours").integers(0, 256, (*shape, 3), dtype=np.uint8)
    small = halved(colours)
    assert small.shape == (rows, columns, 3) and small.dtype == np.uint8
    assert (np.abs(small[0, 0] - colours[:2, :2].mean(axis=(0, 1))) <= 0.5).all()


def test_deep_zoom_without_loss_and_its_levels(tmp_path):
    assert level_sizes(1, 1) == [(1, 1)] and level_sizes(5, 3) == [(5, 3), (3, 2), (2, 1), (1, 1)]
    picture = generator(8, "dzi").integers(0, 256, (300, 515, 3), dtype=np.uint8)
    frame = Frame.fit(515, 300, 0.5, (300, 515))
    write_deep_zoom(tmp_path / "a.dzi", [picture[:7], picture[7:]], frame, encoding="png")
    page = Image.new("RGB", (515, 300))
    for file in (tmp_path / "a_files" / "10").iterdir():
        column, row = map(int, file.stem.split("_"))
        page.paste(Image.open(file), (256 * column, 256 * row))
    np.testing.assert_array_equal(np.asarray(page), picture)
    np.testing.assert_array_equal(read_deep_zoom(tmp_path / "a.dzi"), picture)
    assert {f.name for f in (tmp_path / "a_files" / "0").iterdir()} == {"0_0.png"}
    write_deep_zoom(tmp_path / "a.dzi", [picture], frame)  # ours is replaced, whole
    assert not list(tmp_path.rglob("*.png"))
    with pytest.raises(ParameterError):
        write_deep_zoom(tmp_path / "a.dzi", [picture], frame, encoding="gif")


def test_damaged_and_hostile_deep_zoom_is_not_read(tmp_path):
    frame = Frame.fit(300, 10, 0.5, (10, 300))
    path = write_deep_zoom(tmp_path / "a.dzi", [np.zeros((10, 300, 3), np.uint8)], frame)
    (tmp_path / "a_files" / "9" / "1_0.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="column 1, row 0"):
        read_deep_zoom(path)
    whole = path.read_text()
    for old, new, match in (
        ('Height="10"', 'Height="9999999"', "not read into memory"), ('Width="300"', 'Width="0"', "into memory"),
        ('Format="jpg"', 'Format="exe"', "no Deep Zoom"), ('TileSize="256"', 'TileSize="1"', "into memory"),
        (whole, "", "no Deep Zoom"),
    ):  # fmt: skip
        path.write_text(whole.replace(old, new))
        with pytest.raises(InputError, match=match):
            read_deep_zoom(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_deep_zoom(tmp_path / "none.dzi")


def test_a_folder_of_somebody_else_is_not_replaced_by_deep_zoom(tmp_path):
    (tmp_path / "a_files").mkdir()
    (tmp_path / "a_files" / "thesis.docx").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        write_deep_zoom(tmp_path / "a.dzi", [np.zeros((5, 5, 3), np.uint8)], Frame.fit(5, 5, 0.5, (5, 5)))
    assert (tmp_path / "a_files" / "thesis.docx").read_text() == "mine"
    assert [f.name for f in tmp_path.iterdir()] == ["a_files"]


def test_qupath_conventions(tmp_path):
    one = small_map()
    tiles = one.windows.table.rename(columns={"score": "TP53"}).assign(EGFR=0.5)
    path = interop.write_qupath(tiles, tmp_path / "tiles.geojson", colour_by="TP53")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection" and len(document["features"]) == len(tiles)
    for feature, score in zip(document["features"], tiles["TP53"], strict=True):
        own = feature["properties"]
        assert own["objectType"] == "tile"
        assert ("color" in own) == ("TP53 probability" in own["measurements"]) == (score == score)
        assert own["measurements"]["EGFR probability"] == 0.5
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1] and len(ring) == 5
    with pytest.raises(InputError, match="Nobody scored KRAS"):
        interop.write_qupath(tiles, tmp_path / "x", colour_by="KRAS")


def test_the_committed_demo_is_written_again_byte_for_byte(tmp_path):
    folder = DEMO / "heatmaps"
    windows = pd.read_parquet(folder / "windows.parquet")
    for name, own in windows.groupby("slide_id"):
        told = json.loads((folder / f"{name}.geojson").read_text(encoding="utf-8"))["scoredBy"]
        assert "SYNTHETIC" in told
        path = interop.write_qupath(own.drop(columns="slide_id"), tmp_path / "a.geojson", scored_by=told)
        assert path.read_bytes() == (folder / f"{name}.geojson").read_bytes()


def test_outlines_have_class_colour_area_and_say_what_is_empty(tmp_path):
    one = small_map()
    score = one.windows.table["score"].to_numpy()
    contours = window_contours(one.windows.table, score, [0.5, 0.0, 1.0])
    path = interop.write_qupath_contours(contours, tmp_path / "c.geojson", gene="TP53", mpp=0.5)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["emptyThresholds"] == [1.0]
    for feature, threshold in zip(document["features"], (0.0, 0.5), strict=True):
        own = feature["properties"]
        assert own["isLocked"] is True and own["classification"]["name"] == f"TP53 ≥ {threshold:g}"
        assert len(own["classification"]["color"]) == 3 and all(0 <= c <= 255 for c in own["classification"]["color"])
        area = (score >= threshold).sum() * (100 * 0.5 / 1000) ** 2
        assert own["measurements"] == {"threshold": threshold, "area mm²": pytest.approx(area)}
    regions = read_annotation(path)  # what notebook 02 reads
    assert [r.classification for r in regions] == ["TP53 ≥ 0", "TP53 ≥ 0.5"]
    assert regions[0].geometry.area == pytest.approx((score >= 0).sum() * 1e4)


def test_outlines_of_windows_are_level_sets_of_the_map():
    """Held against the map at full resolution, with overlapping windows, holes and places nobody scored."""
    tiles = make_grid(211, 160, 0.5, 0.5, 40, stride_px=20)
    scores = generator(9, "sets").random(len(tiles))
    scores[::5] = np.nan
    scores[tiles["column"].between(2, 6) & tiles["row"].between(1, 4)] = np.nan  # a hole: nobody scored it
    frame = Frame.fit(211, 160, 0.5, (160, 211))
    mean = heat_map(tiles, scores, frame).mean
    exact = window_contours(tiles, scores, [0.1, 0.6])
    drawn = map_contours(mean, frame, [0.1, 0.6])
    for one, other in zip(exact, drawn, strict=True):
        assert one.threshold == other.threshold and one.geometry.is_valid
        assert one.geometry.symmetric_difference(other.geometry).area == 0
        assert one.geometry.area == (mean >= one.threshold).sum() > 0
    assert any(part.interiors for part in exact[0].geometry.geoms)


def test_neighbours_of_fractional_size_make_one_outline_without_slivers():
    tiles = make_grid(20_000, 9_000, 0.2527, 0.5, 512)
    (whole,) = window_contours(tiles, np.ones(len(tiles)), [0.5])
    assert len(whole.geometry.geoms) == 1 and len(whole.geometry.geoms[0].exterior.coords) == 5
    side = 512 * 0.5 / 0.2527
    assert np.allclose(whole.geometry.bounds, [0, 0, side * (20_000 // side), side * (9_000 // side)], atol=1)


def test_thresholds_windows_without_scores_and_too_many_fields():
    tiles = make_grid(200, 200, 0.5, 0.5, 100)
    (empty,) = window_contours(tiles, np.full(4, np.nan), [0.5])
    assert empty.geometry.is_empty
    for bad in ([1.5], [-0.1], [0.5, 0.5], [float("nan")]):
        with pytest.raises(ParameterError, match="probabilities, each once"):
            window_contours(tiles, np.ones(4), bad)
    rng = generator(1, "scattered")
    scattered = pd.DataFrame({"x_l0_px": rng.random(9000) * 9e4, "y_l0_px": rng.random(9000) * 9e4, "size_l0_px": 64.0})
    with pytest.raises(ParameterError, match="on no grid"):
        window_contours(scattered, np.ones(9000), [0.5])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("slide_id", "s", "Column slide_id holds no numbers"), ("TP53", np.inf, "is no number"),
     ("x_l0_px", np.nan, "x_l0_px holds a value"), ("<b>\n", "x", r"<b>\\n holds no numbers")],
)  # fmt: skip
def test_tables_that_qupath_cannot_take_are_refused(column, value, message, tmp_path):
    tiles = small_map().windows.table.rename(columns={"score": "TP53"})
    tiles[column] = value
    with pytest.raises(InputError, match=message):
        interop.write_qupath(tiles, tmp_path / "a.geojson")
    with pytest.raises(InputError, match="lack columns"):
        interop.write_qupath(tiles.drop(columns="size_l0_px"), tmp_path / "a.geojson")
    assert not list(tmp_path.iterdir())


def test_deeppaths_table_counts_pixels_and_parts(tmp_path):
    frame = Frame.at(400, 200, 0.5, 5.0)
    tiles = make_grid(400, 200, 0.5, 0.5, 100)
    scores = np.array([0.9, 0.1, 0.9, 0.9, 0.2, 0.3, np.nan, 0.9])
    mean = heat_map(tiles, scores, frame).mean
    (contour,) = window_contours(tiles, scores, [0.5])
    path = interop.write_deeppath_areas(contour, mean, tmp_path / "a.csv", slide_id="=cmd()")
    with path.open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["imageName"], row["Tumor_area"], row["Non_tumor_area"]) == ("'=cmd()", "400", "300")
    assert float(row["tumor_percentage"]) == round(400 / 7, 2) and row["Nb_tumors"] == "2"
    assert float(row["Tumor_avg_probability"]) == pytest.approx(100 * np.nanmean(scores), abs=0.01)
    assert sorted(json.loads(row["List_of_tumor_areas"])) == [1e4, 3e4]
    assert json.loads(row["List_of_tumor_diameter"])[0] == pytest.approx(np.sqrt(4e4 / np.pi), abs=0.01)


@pytest.mark.parametrize(("um", "bar"), [(25_000, 5000), (900, 200), (0.25, 0.05), (4, 1), (8, 2), (20, 5)])
def test_scale_bars_are_round(um, bar):
    assert heat_picture.scale_bar_um(um) == pytest.approx(bar)


def test_own_files_are_replaced_and_others_never(tmp_path):
    folder, one = ExportFolder(tmp_path), small_map()
    (path,) = export_map(one, folder, "s", [".parquet"])
    export_map(one, folder, "s", [".parquet"])
    assert json.loads((tmp_path / INDEX).read_text()) == {path.name: sha256_file(path)}
    path.write_bytes(path.read_bytes() + b"edited")
    with pytest.raises(InputError, match="was changed since"):
        export_map(one, folder, "s", [".parquet"])
    (tmp_path / "s+TP53.png").write_text("mine")
    (tmp_path / "s+TP53.svg").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "s+TP53.tiles.geojson").mkdir()
    for ending in (".png", ".svg", ".tiles.geojson"):
        with pytest.raises(InputError, match="not written by this export"):
            export_map(one, folder, "s", [ending])
    assert (tmp_path / "s+TP53.png").read_text() == "mine" and not (tmp_path / "elsewhere").exists()
    for text in ("no json", "[]", '{"a": 1}'):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(InputError, match=r"exports\.json"):
            export_map(one, folder, "s", [".parquet"])


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\0b", INDEX, "EXPORTS.JSON"])
def test_an_export_has_a_plain_name(name, tmp_path):
    with pytest.raises(InputError, match="no name for an export"):
        ExportFolder(tmp_path / "f").write(name, lambda p: p.write_text("x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Glyph")  # no font has all of them
@pytest.mark.parametrize(
    ("slide", "gene"), [*((name, "TP53") for name in HOSTILE), ("s", "../../<b>\0&"), ("", "g" * 300)]
)
def test_hostile_names_become_escaped_text_in_a_plain_file_name(slide, gene, tmp_path):
    stem = safe_name(slide)
    one = small_map(slide, gene)
    folder = tmp_path / "deep" / "inside"
    endings = [".tiles.geojson", ".contours.geojson", ".imagescope.xml", ".score.ome.tiff", ".svg", ".parquet",
               ".png", ".deeppath.csv"]  # fmt: skip
    paths = export_map(one, ExportFolder(folder), stem, endings)
    everything = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert set(everything) == {*paths, folder / INDEX} and all(p.parent == folder for p in everything)
    by = dict(zip(endings, paths, strict=True))
    names = [f["properties"]["name"] for f in json.loads(by[".tiles.geojson"].read_text(encoding="utf-8"))["features"]]
    assert names == one.windows.table["tile_id"].tolist()
    for ending in (".imagescope.xml", ".svg"):
        assert not [
            e for e in ElementTree.parse(by[ending]).iter() if "script" in e.tag.lower() or e.tag.endswith("}b")
        ]
    ElementTree.fromstring(tifffile.TiffFile(by[".score.ome.tiff"]).ome_metadata)


def test_no_two_maps_share_a_file():
    assert len({map_stem(a, b) for a, b in (("x+y", "z"), ("x", "y+z"), ("x", "y"), ("x+y+z", ""))}) == 4


def test_a_slide_of_one_pixel_and_one_without_scores_go_through_every_format(tmp_path):
    table = pd.DataFrame({"tile_id": ["t"], "x_l0_px": [0], "y_l0_px": [0], "size_l0_px": [1.0], "score": [0.7]})
    dot = SlideMap(GeneWindows(table, np.array([[0.7]]), [0], pd.DataFrame()), Frame.at(1, 1, 0.25, 8.0), "dot", "g")
    paths = export_map(dot, ExportFolder(tmp_path), "dot")
    assert tifffile.imread(tmp_path / "dot+g.score.ome.tiff").tolist() == [[pytest.approx(0.7)]]
    bare = small_map("bare")
    blank = GeneWindows(bare.windows.table.assign(score=np.nan), bare.windows.scores * np.nan, [0], pd.DataFrame())
    paths = export_map(SlideMap(blank, bare.frame, "bare", "g"), ExportFolder(tmp_path), "bare")
    assert len(paths) == len(FORMATS) - 1 and np.isnan(tifffile.imread(tmp_path / "bare+g.score.ome.tiff")).all()
    assert (tifffile.imread(tmp_path / "bare+g.overlay.ome.tiff") == 255).all()


def test_uncertainty_is_exported_where_there_are_folds(tmp_path):
    one = small_map(folds=3)
    (path,) = export_map(one, ExportFolder(tmp_path), "s", [".sd.ome.tiff"])
    np.testing.assert_array_equal(tifffile.imread(path), heat_map(one.windows.table, one.windows.scores, one.frame).sd)
    assert export_map(small_map(folds=1), ExportFolder(tmp_path), "s", [".sd.ome.tiff"]) == []


def test_pictures_and_styles_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="picture of a slide does not fit"):
        small_map(picture=np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(ParameterError, match="opacity"):
        small_map(style=MapStyle(opacity=2.0))
    with pytest.raises(InputError, match="column of places"):
        small_map(gene="x_l0_px")
    with pytest.raises(ParameterError, match="no such export"):
        export_map(small_map(), ExportFolder(tmp_path), "s", [".bmp"])
    with pytest.raises(InputError, match="overlay does not fit"):
        heat_picture.write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), small_map().frame, gene="g")
    with pytest.raises(InputError, match="lacks columns"):
        heat_picture.write_scores(pd.DataFrame({"a": [1]}), tmp_path / "a", small_map().frame, slide_id="s")
    assert not list(tmp_path.iterdir())


def test_smooth_maps_are_outlined_along_their_pixels():
    one = small_map(style=MapStyle(weights="gaussian"))
    (contour,) = one.contours()
    assert isinstance(contour, Contour) and contour.geometry.area == pytest.approx((one.mean() >= 0.5).sum() * 25)
    bands = list(heat_bands(one.windows.table, one.windows.scores, one.frame, weights="gaussian", band_px=7))
    np.testing.assert_array_equal(np.concatenate([b.mean for b in bands]), one.mean())
