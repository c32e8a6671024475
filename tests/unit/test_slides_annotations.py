"""Outlines survive a round trip, are repaired with a note, and give exact fractions."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.slides.annotations import Region, read_geojson, tumour_fraction, tumour_outline, write_geojson


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}


def test_holes_parts_and_classes_survive_a_round_trip(tmp_path):
    ring = Polygon([(0, 0), (20, 0), (20, 20), (0, 20)], [[(5, 5), (5, 15), (15, 15), (15, 5)]])
    regions = [Region(ring, "Tumor", "a"), Region(MultiPolygon([box(30, 0, 40, 10), box(50, 0, 55, 5)]), "Stroma")]
    again = read_geojson(write_geojson(regions, tmp_path / "a.geojson"))
    assert [r.classification for r in again] == ["Tumor", "Stroma"] and again[0].name == "a"
    assert all(a.geometry.equals(b.geometry) for a, b in zip(again, regions, strict=True))
    assert tumour_outline(again).area == 300


@pytest.mark.parametrize("wrap", [
    lambda f: {"type": "FeatureCollection", "features": [f]},
    lambda f: f,
    lambda f: [f],
    lambda f: f["geometry"],
])  # fmt: skip
def test_the_shapes_that_qupath_writes_are_read(tmp_path, wrap):
    path = tmp_path / "a.geojson"
    path.write_text("\ufeff" + json.dumps(wrap(feature(SQUARE))), encoding="utf-8")
    assert read_geojson(path)[0].geometry.area == 100


def test_a_self_crossing_outline_is_repaired_with_a_note(tmp_path):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    (tmp_path / "a.geojson").write_text(json.dumps(feature(bow)))
    region = read_geojson(tmp_path / "a.geojson")[0]
    assert region.geometry.is_valid and region.geometry.area == 50 and "Self-intersection" in region.note


def test_tumour_classes_are_found_and_others_refused():
    regions = [Region(box(0, 0, 1, 1), "TUMOUR: invasive"), Region(box(5, 5, 6, 6), "Necrosis")]
    assert tumour_outline(regions).area == 1
    with pytest.raises(AnnotationError, match="Necrosis"):
        tumour_outline(regions[1:])
    assert tumour_outline([Region(box(0, 0, 2, 1))]).area == 2


@settings(max_examples=50, deadline=None)
@given(st.integers(-50, 150), st.integers(-50, 150), st.integers(1, 80))
def test_fractions_of_a_square_outline_are_exact(x, y, size):
    def overlap(a):
        return max(0, min(100, a + size) - max(0, a))

    assert tumour_fraction(box(0, 0, 100, 100), x, y, size) == pytest.approx(overlap(x) * overlap(y) / size**2)


@pytest.mark.parametrize("text", [
    "", "   ", "not json", "[1, 2]", "{}", '{"type": "FeatureCollection"}', "<xml/>", "null",
    '{"type": "FeatureCollection", "features": []}',
    json.dumps(feature({"type": "Polygon", "coordinates": []})),
    json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})),
    json.dumps(feature({"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 2], ["a", 0]]]})),
    json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]})),
    json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1e400, 5], [9, 9], [0, 0]]]})),
    json.dumps(feature({"type": "Circle"})), json.dumps(feature(None)),
    json.dumps(feature({"type": "Point", "coordinates": [1, 2]})), "[" * 100_000,
])  # fmt: skip
def test_empty_and_foreign_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "outline.geojson"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=r"outline\.geojson"):
        read_geojson(path)


def test_real_annotations_are_read(shared_data):
    folder = shared_data / "annotations"
    assert len(read_geojson(folder / "geojson_xml/tiles.geojson")) == 136
    assert read_geojson(folder / "qupath05.geojson")
    assert tumour_outline(read_geojson(folder / "CMU-1-Small-Region.geojson")).area == 2 * 821**2
