"""Planted windows come back where they were, from every export, read by other programs' readers.

Vectors (GeoJSON, ImageScope XML, SVG, Parquet, DeepPATH's tile names) to one level-0 pixel; pictures to a map pixel.
"""

import base64
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import openslide
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from PIL import Image

from deeplrhe_utils.evaluation.auc.deeppath import read_stats, write_stats
from deeplrhe_utils.reporting.exports.export import FORMATS, ExportFolder, MapStyle, SlideMap, export_map
from deeplrhe_utils.reporting.heatmaps.bands import Frame
from deeplrhe_utils.reporting.heatmaps.contours import map_contours
from deeplrhe_utils.reporting.heatmaps.scores import GeneWindows
from deeplrhe_utils.slides.tiles.grid import make_grid

SLIDES = {
    "40x, 0.2527": (8447, 5611, 0.2527, 0, "cover"),
    "20x, 0.499, overlapping": (4097, 2999, 0.499, 128, "cover"),
    "0.1213, fractional": (12_345, 9_871, 0.1213, 0, "inside"),
}  # fmt: skip
OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
SVG = "{http://www.w3.org/2000/svg}"
ORIGIN = np.array([1234, 77, 1234, 77])
SCORES = np.array([0.95, 0.85, 0.75, 0.65, 0.55])


def planted(case):
    """Corner windows and one in the middle, each with a score of its own; the others have none."""
    width, height, mpp, stride, edge = SLIDES[case]
    tiles = make_grid(width, height, mpp, 0.5, 512, stride_px=stride, edge=edge)
    tiles = tiles.assign(tile_id=[f"s_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)])
    last_c, last_r = tiles["column"].max(), tiles["row"].max()
    places = [(0, 0), (last_c, 0), (0, last_r), (last_c, last_r), (last_c // 2, last_r // 2)]
    index = [tiles.index[(tiles["column"] == c) & (tiles["row"] == r)][0] for c, r in places]
    tiles["score"] = np.nan
    tiles.loc[index, "score"] = SCORES
    return tiles, tiles.loc[index].reset_index(drop=True), (width, height, mpp)


def boxes_of(hot):
    x, y, size = (hot[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    return np.column_stack([x, y, x + size, y + size])


def slide_map(case, frame=None, **more):
    tiles, hot, (width, height, mpp) = planted(case)
    table = tiles[["tile_id", "x_l0_px", "y_l0_px", "size_l0_px", "score"]]
    windows = GeneWindows(table, table["score"].to_numpy(float)[:, None], [0], pd.DataFrame())
    frame = frame or Frame.at(width, height, mpp, 3.0)
    style = MapStyle(palette="perceptual", thresholds=(0.5, 0.8))
    return SlideMap(windows, frame, "s", "TP53", style=style, **more), hot


@pytest.fixture(scope="module", params=SLIDES)
def exported(request, tmp_path_factory):
    one, hot = slide_map(request.param, origin_l0_px=(1234, 77))
    folder = tmp_path_factory.mktemp("export")
    paths = export_map(one, ExportFolder(folder), "s")
    files = {ending: folder / f"s+TP53{ending}" for ending in FORMATS if ending != ".sd.ome.tiff"}
    assert paths == list(files.values())
    return one, hot, files


def found_boxes(values, step_x, step_y, tolerance=0.02):
    """Bounding boxes [level-0 px] of the pixels of each planted score."""
    found = []
    for score in SCORES:
        y, x = np.nonzero(np.abs(values - score) < tolerance)
        found.append([x.min() * step_x, y.min() * step_y, (x.max() + 1) * step_x, (y.max() + 1) * step_y])
    return np.array(found)


def colours_to_scores(picture):
    """The score of every colour of a picture; white, and what is far from all five, is NaN."""
    from deeplrhe_utils.reporting.heatmaps.bands import colour_map

    palette = colour_map(SCORES, "perceptual").astype(np.int16)
    found = np.full(picture.shape[:2], np.nan)
    for score, colour in zip(SCORES, palette, strict=True):
        found[np.abs(picture - colour).sum(axis=-1) < 24] = score
    return found


def test_geojson_of_tiles(exported):
    one, hot, files = exported
    features = json.loads(files[".tiles.geojson"].read_text(encoding="utf-8"))["features"]
    assert len(features) == len(one.windows.table)
    scored = {f["properties"]["name"]: f for f in features if f["properties"]["measurements"]}
    assert len(scored) == len(hot)
    shapes = [shapely.geometry.shape(scored[name]["geometry"]) for name in hot["tile_id"]]
    found = np.array([s.bounds for s in shapes]) + ORIGIN  # QuPath counts from the scanned area
    np.testing.assert_allclose(found, boxes_of(hot), atol=1e-6)
    said = [scored[name]["properties"]["measurements"]["TP53 probability"] for name in hot["tile_id"]]
    np.testing.assert_allclose(said, hot["score"])


def test_geojson_of_outlines(exported):
    _, hot, files = exported
    document = json.loads(files[".contours.geojson"].read_text(encoding="utf-8"))
    assert document["originLevel0Px"] == [1234, 77]
    for feature, expected in zip(document["features"], (hot, hot[hot["score"] >= 0.8]), strict=True):
        whole = shapely.geometry.shape(feature["geometry"])
        assert whole.geom_type == "MultiPolygon" and whole.is_valid
        found = np.array(sorted(part.bounds for part in whole.geoms)) + ORIGIN
        np.testing.assert_allclose(found, sorted(boxes_of(expected).tolist()), atol=1)


def test_imagescope_xml(exported):
    _, hot, files = exported
    layers = ElementTree.parse(files[".imagescope.xml"]).getroot().findall("Annotation")
    corners = [
        [(float(v.get("X")), float(v.get("Y"))) for v in region.iter("Vertex")] for region in layers[0].iter("Region")
    ]
    found = sorted(shapely.Polygon(ring).bounds for ring in corners)
    np.testing.assert_allclose(found, sorted(boxes_of(hot).tolist()), atol=1)
    assert len(list(layers[1].iter("Region"))) == 2


def test_svg(exported):
    one, hot, files = exported
    root = ElementTree.parse(files[".svg"]).getroot()
    titles = {r.find(f"{SVG}title").text: r for r in root.find(f"{SVG}g").iter(f"{SVG}rect")}
    rows = [titles[f"{row.tile_id}: {row.score:.3f}"] for row in hot.itertuples()]
    x, y, w, h = np.array([[float(r.get(k)) for k in ("x", "y", "width", "height")] for r in rows]).T
    np.testing.assert_allclose(np.column_stack([x, y, x + w, y + h]), boxes_of(hot), atol=1e-6)
    picture = root.find(f"{SVG}image")
    data = base64.b64decode(picture.get("href").split(",")[1])
    values = colours_to_scores(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    step = float(picture.get("width")) / values.shape[1], float(picture.get("height")) / values.shape[0]
    near(found_boxes(values, *step), hot, one.frame)
    bar = next(r for r in root.iter(f"{SVG}rect") if r.get("id") == "scale-bar")
    said = next(t.text for t in root.iter(f"{SVG}text") if t.text.endswith(("µm", "mm")))
    um = float(said.split()[0]) * (1000 if said.endswith("mm") else 1)
    assert float(bar.get("width")) * one.frame.mpp == pytest.approx(um)


def near(found, hot, frame):
    """Edges are displaced by at most half a map pixel."""
    limit = np.array([frame.step_x, frame.step_y] * 2) / 2 + 1e-6
    assert (np.abs(found - boxes_of(hot)) <= limit).all(), found - boxes_of(hot)


def test_parquet(exported):
    one, hot, files = exported
    table = pq.read_table(files[".parquet"])
    assert table.schema.field("x_l0_px").metadata[b"unit"] == b"level-0 px"
    facts = json.loads(table.schema.metadata[b"deeplrhe"])
    assert (facts["width_l0_px"], facts["mpp"]) == (one.frame.width_l0_px, one.frame.mpp)
    rows = [row for row in table.to_pylist() if row["TP53"] is not None and row["TP53"] == row["TP53"]]
    found = {r["tile_id"]: [r["x_l0_px"], r["y_l0_px"], r["size_l0_px"], r["TP53"]] for r in rows}
    expected = hot[["x_l0_px", "y_l0_px", "size_l0_px", "score"]].to_numpy(float)
    np.testing.assert_array_equal([found[name] for name in hot["tile_id"]], expected)
    assert len(found) == len(hot)


@pytest.mark.parametrize("case", SLIDES)
def test_deeppath_tile_names(case, tmp_path):
    _, hot, (width, height, mpp) = planted(case)
    keys = hot[["tile_id", "score"]].assign(slide_id="s", patient_id="p", gene="TP53", fold=0, model_hash="m")
    labels = pd.DataFrame({"patient_id": ["p"], "gene": ["TP53"], "status": [1]}).astype({"status": "Int64"})
    assert write_stats(keys, labels, tmp_path / "out_filename_Stats.txt") == 0
    grid = make_grid(width, height, mpp, 0.5, 512, stride_px=SLIDES[case][3], edge=SLIDES[case][4])
    columns, rows = (grid.drop_duplicates(c).set_index(c)[at] for c, at in (("column", "x_l0_px"), ("row", "y_l0_px")))
    again = read_stats(tmp_path / "out_filename_Stats.txt", ["TP53"]).predictions.set_index("tile_id")["score"]
    for row in hot.itertuples():
        line = next(li for li in (tmp_path / "out_filename_Stats.txt").read_text().splitlines() if row.tile_id in li)
        column, line_row = map(int, re.search(r"_(\d+)_(\d+)\.jpeg", line).groups())
        assert abs(columns[column] - row.x_l0_px) <= 1
        assert abs(rows[line_row] - row.y_l0_px) <= 1
        assert again[row.tile_id] == pytest.approx(row.score)


def levels_of(path):
    with tifffile.TiffFile(path) as file:
        assert file.is_ome and len(file.series) == 1
        xml = ElementTree.fromstring(file.ome_metadata)
        pixels = next(xml.iter(f"{OME}Pixels"))
        resolutions = []
        for page in (file.pages.first, *(file.pages.first.pages or ())):
            tags = page.aspage().tags
            assert tags["ResolutionUnit"].value == 3  # centimetres
            resolutions.append([1e4 * v[1] / v[0] for v in (tags["XResolution"].value, tags["YResolution"].value)])
        return [level.asarray() for level in file.series[0].levels], pixels, np.array(resolutions)


def assert_resolutions(one, pixels, resolutions):
    assert [pixels.get(f"PhysicalSize{a}Unit") for a in "XY"] == ["µm", "µm"]
    declared = [float(pixels.get(f"PhysicalSize{a}")) for a in "XY"]
    np.testing.assert_allclose(declared, [one.frame.mpp * one.frame.step_x, one.frame.mpp * one.frame.step_y])
    np.testing.assert_allclose(resolutions, np.outer(2.0 ** np.arange(len(resolutions)), declared), rtol=1e-6)
    return np.array(declared) / one.frame.mpp


@pytest.mark.parametrize("ending", [".score.ome.tiff", ".score8.ome.tiff"])
def test_ome_tiff_of_scores(exported, ending):
    one, hot, files = exported
    levels, pixels, resolutions = levels_of(files[ending])
    step = assert_resolutions(one, pixels, resolutions)
    assert pixels.get("Type") == ("float" if ending == ".score.ome.tiff" else "uint8") and pixels.get("SizeC") == "1"
    assert len(levels) == 1 + (max(one.frame.shape) > 512)
    for k, stored in enumerate(levels):
        values = stored if stored.dtype == np.float32 else np.where(stored == 0, np.nan, (stored - 1.0) / 254)
        assert values.shape == tuple(-(-n >> k) for n in one.frame.shape)
        found = found_boxes(values, *(step * 2**k), tolerance=0.003)
        assert (np.abs(found - boxes_of(hot)) <= max(step) * (0.5 if k == 0 else 2**k) + 1e-6).all()
    values = levels[0] if levels[0].dtype == np.float32 else np.where(levels[0] == 0, np.nan, levels[0])
    assert (np.isnan(values) == np.isnan(one.mean())).all()


def test_ome_tiff_of_the_overlay_by_tifffile_and_openslide(exported):
    one, hot, files = exported
    levels, pixels, resolutions = levels_of(files[".overlay.ome.tiff"])
    step = assert_resolutions(one, pixels, resolutions)
    near(found_boxes(colours_to_scores(levels[0]), *step), hot, one.frame)
    with openslide.OpenSlide(files[".overlay.ome.tiff"]) as slide:
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(one.frame.mpp * one.frame.step_x, rel=1e-6)
    np.testing.assert_array_equal(read, levels[0])
    np.testing.assert_array_equal(read, one.overlaid())


def test_deep_zoom(exported):
    one, hot, files = exported
    image = ElementTree.parse(files[".dzi"]).getroot()
    ns = "{http://schemas.microsoft.com/deepzoom/2008}"
    tile, size = int(image.get("TileSize")), image.find(f"{ns}Size")
    width, height = int(size.get("Width")), int(size.get("Height"))
    top = int(np.ceil(np.log2(max(width, height))))
    tiles = files[".dzi"].with_name("s+TP53_files")
    assert sorted(int(f.name) for f in tiles.iterdir()) == list(range(top + 1))
    for back in (0, 1):
        w, h = -(-width >> back), -(-height >> back)
        page = Image.new("RGB", (w, h))
        for column in range(-(-w // tile)):
            for row in range(-(-h // tile)):
                part = Image.open(tiles / str(top - back) / f"{column}_{row}.{image.get('Format')}")
                assert part.size == (min(tile, w - column * tile), min(tile, h - row * tile))
                page.paste(part, (column * tile, row * tile))
        values = colours_to_scores(np.asarray(page))
        found = found_boxes(values, one.frame.step_x * 2**back, one.frame.step_y * 2**back)
        assert (np.abs(found - boxes_of(hot)) <= one.frame.step_x * 2**back + 1e-6).all()


def test_png(exported):
    one, hot, files = exported
    with Image.open(files[".png"]) as image:
        facts = {name: float(value) for name, value in image.text.items()}
        page = np.asarray(image.convert("RGB"))
    left, top, k = (int(facts[name]) for name in ("left_px", "top_px", "enlarged"))
    part = page[top : top + k * one.frame.rows, left : left + k * one.frame.columns]
    step = facts["step_x_l0_px"] / k, facts["step_y_l0_px"] / k
    near(found_boxes(colours_to_scores(part), *step), hot, one.frame)
    np.testing.assert_array_equal(part[::k, ::k], one.overlaid())


def test_a_map_over_a_thumbnail_spans_the_slide():
    width, height, mpp = SLIDES["40x, 0.2527"][:3]
    frame = Frame.fit(width, height, mpp, (341, 513))
    one, hot = slide_map("40x, 0.2527", frame)
    near(found_boxes(one.mean(), frame.step_x, frame.step_y), hot, frame)
    outline = map_contours(one.mean(), frame, [0.8])[0].geometry
    found = np.array(sorted(part.bounds for part in outline.geoms))
    expected = np.array(sorted(boxes_of(hot[hot["score"] >= 0.8]).tolist()))
    assert (np.abs(found - expected) <= max(frame.step_x, frame.step_y) / 2 + 1e-6).all()
