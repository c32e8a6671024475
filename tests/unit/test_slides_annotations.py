"""Outlines survive a round trip, are repaired with a note, are found and recognised, and give exact fractions."""

import gzip
import json
import pickle

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from deeplrhe_utils.core.errors import AnnotationError, ParameterError
from deeplrhe_utils.slides.outlines import find
from deeplrhe_utils.slides.outlines import regions as regions_module
from deeplrhe_utils.slides.outlines.find import (
    ANNOTATION_ENDINGS,
    check_no_nuclei,
    find_annotation,
    is_tumour,
    read_annotation,
    told_classes,
    tumour_fraction,
    tumour_fractions,
    tumour_outline,
)
from deeplrhe_utils.slides.outlines.geojson import read_geojson, write_geojson
from deeplrhe_utils.slides.outlines.regions import Region


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
    lambda f: {"type": "FeatureCollection", "features": [f]}, lambda f: f, lambda f: [f], lambda f: f["geometry"],
])  # fmt: skip
def test_the_shapes_that_qupath_writes_are_read(tmp_path, wrap):
    path = tmp_path / "a.geojson"
    path.write_text("\ufeff" + json.dumps(wrap(feature(SQUARE))), encoding="utf-8")
    assert read_geojson(path)[0].geometry.area == 100


def test_tumour_classes_are_found_and_others_refused_and_no_class_counts_only_alone():
    regions = [Region(box(0, 0, 1, 1), "TUMOUR: invasive"), Region(box(5, 5, 6, 6), "Necrosis")]
    assert tumour_outline(regions).area == 1
    with pytest.raises(AnnotationError, match="Necrosis"):
        tumour_outline(regions[1:])
    assert tumour_outline([Region(box(0, 0, 2, 1))]).area == 2
    bare, named = Region(box(0, 0, 2, 1)), Region(box(5, 5, 6, 6), "_0")
    assert tumour_outline([bare]).area == 2 and tumour_outline([bare, named]).area == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(-50, 150), st.integers(-50, 150), st.integers(1, 80))
def test_fractions_of_a_square_outline_are_exact(x, y, size):
    def overlap(a):
        return max(0, min(100, a + size) - max(0, a))

    assert tumour_fraction(box(0, 0, 100, 100), x, y, size) == pytest.approx(overlap(x) * overlap(y) / size**2)


def holed(rng, whole):
    """Discs or squares less others: holes and parts; on whole pixels lines and corners touch those of the grid."""

    def shapes(n, low, high):
        if whole:
            corners = rng.integers(0, 20, (n, 2)) * 5
            return shapely.union_all([box(*c, *(c + rng.integers(low, high, 2) * 5)) for c in corners])
        return shapely.union_all([Point(*rng.uniform(0, 100, 2)).buffer(rng.uniform(low, high)) for _ in range(n)])

    return shapes(8, 2, 8).difference(shapes(10, 1, 4)) if whole else shapes(8, 5, 25).difference(shapes(12, 1, 8))


def by_intersection(outline, x, y, size):
    return [outline.intersection(box(a, b, a + s, b + s)).area / s**2 for a, b, s in zip(x, y, size, strict=True)]


def test_fractions_of_many_squares_are_those_of_their_intersections():
    kinds = set()
    for seed in range(60):
        outline = holed(rng := np.random.default_rng(seed), seed % 2 == 0)
        side = float(rng.choice([5, 7, 10, 20, 5.1]))
        x, y = (one.ravel() for one in np.meshgrid(*[np.arange(-10, 120, side)] * 2))
        size = np.full(len(x), side) if seed % 3 else rng.integers(1, 40, len(x)).astype(float)
        found = tumour_fractions(outline, x, y, size)
        np.testing.assert_allclose(found, by_intersection(outline, x, y, size), atol=1e-6)
        assert found.dtype == np.float64 and found.min() == 0 and found.max() <= 1
        kinds |= {outline.geom_type, *("hole" for part in shapely.get_parts(outline) if part.interiors)}
    assert kinds >= {"MultiPolygon", "hole"}


def test_a_square_whose_clip_is_the_wrong_side_is_intersected():
    """GEOS 3.14 clips this outline, with corners on those of the square, to the rest of the square."""
    (rng := np.random.default_rng(336)).integers(0, 4)
    points = rng.integers(0, 30, (int(rng.integers(4, 40)), 2)) * 4
    outline = shapely.union_all([p for p in shapely.get_parts(shapely.make_valid(Polygon(points))) if p.area > 0])
    assert tumour_fraction(outline, 10, 85, 5) == pytest.approx(0.865)


def test_only_squares_across_the_line_are_clipped_and_a_bad_clip_is_not_believed(monkeypatch):
    outline, calls = Point(50, 50).buffer(33.3), []
    x, y, size = (one.ravel() for one in np.meshgrid(np.arange(0, 100, 10.0), np.arange(0, 100, 10.0), 10.0))
    truth = by_intersection(outline, x, y, size)
    across = {(a, b) for a, b, share in zip(x, y, truth, strict=True) if 0 < share < 1}

    def invalid(outline, *bounds):
        calls.append(bounds[:2])
        return Polygon([(0, 0), (9, 9), (9, 0), (0, 9)])

    def broken(outline, *bounds):
        raise shapely.GEOSException("TopologyException")

    for bad in (invalid, broken):
        monkeypatch.setattr(find.shapely, "clip_by_rect", bad)
        np.testing.assert_allclose(tumour_fractions(outline, x, y, size), truth, atol=1e-6)
    assert calls and set(calls) <= across


def test_fractions_of_no_squares_of_one_size_and_of_no_area():
    assert tumour_fractions(box(0, 0, 9, 9), [], [], []).shape == (0,)
    assert tumour_fractions(box(0, 0, 10, 5), [0, 5, 30], [0, 0, 0], 10).tolist() == [0.5, 0.25, 0.0]
    assert tumour_fractions(Polygon(), [0, 5], [0, 0], 10).tolist() == [0.0, 0.0]


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


def write(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_points_and_lines_are_left_out_and_listed(tmp_path):
    features = [feature({"type": "Point", "coordinates": [1, 2]}), feature(SQUARE), feature(SQUARE | {"z": 1})]
    regions = read_annotation(write(tmp_path / "a.geojson", features))
    assert len(regions) == 2 and regions.left_out == ["Feature 0: a Point has no area"]
    again = pickle.loads(pickle.dumps(regions))
    assert again == regions and again.left_out == regions.left_out


@pytest.mark.parametrize("classification, expected", [
    ({"name": "Tumor"}, "Tumor"), ({"names": ["Tumor", "invasive"]}, "Tumor: invasive"), (["A", "B"], "A: B"),
    ("Tumor", "Tumor"), (None, ""), ({}, ""), ({"name": None, "color": [1, 2, 3]}, ""),
])  # fmt: skip
def test_classes_as_qupath_ever_wrote_them(tmp_path, classification, expected):
    assert (
        read_geojson(write(tmp_path / "a.json", feature(SQUARE, classification=classification)))[0].classification
        == expected
    )


@pytest.mark.parametrize("properties", [None, [], "text", {"metadata": [1]}, {"metadata": {"note": None}}])
def test_properties_of_any_kind_do_no_harm(tmp_path, properties):
    document = {"type": "Feature", "geometry": SQUARE, "properties": properties}
    (region,) = read_geojson(write(tmp_path / "a.json", document))
    assert region == Region(Polygon(SQUARE["coordinates"][0]))


CAMELYON = {
    "positive": [
        {"name": "big", "vertices": [[0, 0], [100, 0], [100, 100], [0, 100]]},
        {"name": "island", "vertices": [[30, 30], [40, 30], [40, 40], [30, 40]]},
        {"name": "apart", "vertices": [[200, 0], [210, 0], [210, 10]]},
        {"name": "click", "vertices": [[5, 5], [6, 6]]},
    ],
    "negative": [
        {"name": "hole", "vertices": [[20, 20], [50, 20], [50, 50], [20, 50]]},
        {"name": "nothing", "vertices": [[500, 20], [510, 20], [510, 50]]},
    ],
}


def test_camelyon_lists_have_holes_and_islands_and_exclusions_that_lie_in_none(tmp_path):
    regions = read_annotation(write(tmp_path / "a.json", CAMELYON))
    assert [(r.name, r.geometry.area) for r in regions] == [("big", 9100), ("island", 100), ("apart", 50)]
    assert {r.classification for r in regions} == {"Tumor"} and "1 excluded area" in regions[0].note
    assert regions.left_out == ["Positive outline 3 encloses no area", "Negative outline nothing meets no region"]
    assert tumour_outline(regions).area == 9250
    document = {"positive": CAMELYON["positive"][1:3], "negative": CAMELYON["negative"][:1]}
    regions = read_annotation(write(tmp_path / "a.json", document))
    assert [r.name for r in regions] == ["apart"]
    assert regions.left_out == ["Region 0 island lies entirely in excluded areas"]
    twice = {
        "positive": CAMELYON["positive"][:1] * 2,
        "negative": [{"vertices": [[0, 0], [100, 0], [100, 99.5], [0, 99.5]]}],
    }
    assert [r.geometry.area for r in read_annotation(write(tmp_path / "a.json", twice))] == [50, 50]


def test_the_content_tells_the_format_and_not_the_suffix(tmp_path):
    assert len(read_annotation(write(tmp_path / "a.xml", "\n " + json.dumps(feature(SQUARE))))) == 1
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"):
        (tmp_path / "b.json").write_bytes(json.dumps(feature(SQUARE, name="Größe")).encode(encoding))
        assert read_annotation(tmp_path / "b.json")[0].name == "Größe"


def test_an_offset_moves_everything(tmp_path):
    path = write(tmp_path / "a.json", CAMELYON)
    moved = read_annotation(path, offset_l0_px=(1000, -7.5))
    for before, after in zip(read_annotation(path), moved, strict=True):
        assert np.subtract(after.geometry.bounds, before.geometry.bounds).tolist() == [1000, -7.5, 1000, -7.5]
        assert after.geometry.area == before.geometry.area and after.name == before.name
    with pytest.raises(ParameterError, match="nan"):
        read_annotation(path, offset_l0_px=(float("nan"), 0))


@pytest.mark.parametrize("name, expected", [
    ("Tumor", True), ("tumour", True), ("Tumor: Negative", True), ("INVASIVE TUMOUR", True), ("Metastases", True),
    ("_0", True), ("_1", True), ("abnormal tumor", True), ("Adenocarcinoma", True), ("LUAD", True), ("Acinar", True),
    ("Non-small cell carcinoma", True), ("Infiltrating carcinoma in situ, metastatic", True), ("TUM", True),
    ("Plattenepithelkarzinom", True), ("Non-mucinous adenocarcinoma", True), ("Residual tumor", True),
    ("Tumor-infiltrating lymphocytes", False), ("TILs in tumor", False), ("Tumor-associated stroma", False),
    ("tumor_stroma", False), ("No residual tumor", False), ("no evidence of any carcinoma", False),
    ("Benign neoplasm", False), ("non-neoplastic", False), ("tumor necrosis", False), ("Vessels within tumor", False),
    ("Squamous metaplasia", False), ("adenoma", False), ("no_tumor", False),
    ("_2", False), ("non-tumor", False), ("Non_tumour", False), ("nontumoral", False), ("no tumor", False),
    ("peritumoral stroma", False), ("Normal adjacent to tumour", False), ("tumour-free", False), ("normal", False),
    ("Other", False), ("", False), ("positive", False),
])  # fmt: skip
def test_the_rule_of_what_a_tumour_is_called(name, expected):
    assert is_tumour(name) is expected


def random_regions(rng):
    """Regions with holes, several parts, classes, names, notes and coordinates that decimals cannot write."""
    regions = []
    for index in range(int(rng.integers(1, 6))):
        corner, size = rng.uniform(-1e5, 1e5, 2), rng.uniform(10, 1e4, 2)
        outer = box(*corner, *(corner + size))
        hole = box(*(corner + size * rng.uniform(0.1, 0.4, 2)), *(corner + size * rng.uniform(0.5, 0.9, 2)))
        other = box(*(corner + size * 1.5), *(corner + size * 2))
        geometry = [outer, outer.difference(hole), MultiPolygon([outer.difference(hole), other])][int(rng.integers(3))]
        words = ["", "Tumor", "Größe: ≥ 5 µm", 'quote " and \\']
        regions.append(Region(geometry, *(words[int(rng.integers(4))] for _ in range(3))))
        assert geometry.is_valid, index
    return regions


@pytest.mark.parametrize("seed", range(3))
def test_any_regions_survive_geojson_to_the_last_bit(tmp_path, seed):
    regions = random_regions(np.random.default_rng(seed))
    assert read_annotation(write_geojson(regions, tmp_path / "a.geojson")) == regions


@pytest.mark.parametrize("seed", range(3))
def test_random_lines_become_valid_areas_or_are_refused(tmp_path, seed):
    rng = np.random.default_rng(seed)
    ring = rng.integers(0, 12, (int(rng.integers(3, 30)), 2)).tolist()
    path = write(tmp_path / "a.json", {"positive": [{"name": "", "vertices": ring}]})
    try:
        (region,) = read_annotation(path)
    except AnnotationError as error:
        assert "enclose" in str(error) and Polygon(ring).buffer(0).area == 0
    else:
        assert region.geometry.is_valid and region.geometry.area > 0
        assert read_annotation(write_geojson([region], path)) == [region]


def test_a_line_drawn_round_twice_says_what_is_lost(tmp_path):
    angle = np.linspace(0, 4 * np.pi, 201)
    radius = 100 + np.sin(7.3 * angle)
    ring = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]).tolist()
    (region,) = read_annotation(write(tmp_path / "a.json", {"positive": [{"name": "", "vertices": ring}]}))
    assert "98% of the area is enclosed twice" in region.note


def test_the_annotation_of_a_slide_is_found_by_its_name(tmp_path):
    assert find_annotation(tmp_path, "S.1") is None and find_annotation(tmp_path / "absent", "S.1") is None
    (tmp_path / "S.geojson").write_text("another slide")
    (tmp_path / "S.1.geojson").mkdir()
    assert find_annotation(tmp_path, "S.1") is None
    (tmp_path / "S.1.geojson").rmdir()
    for ending in reversed(ANNOTATION_ENDINGS):
        (tmp_path / f"S.1{ending}").write_text("the same")
        assert find_annotation(tmp_path, "S.1") == tmp_path / f"S.1{ending}"
    (tmp_path / "S.1.xml").write_text("another")
    with pytest.raises(AnnotationError, match=r"S\.1\.geojson.*S\.1\.xml"):
        find_annotation(tmp_path, "S.1")


@pytest.mark.parametrize(
    "name", ["S.1.svs.geojson", "S.1.GeoJSON", "S.1.tif.Json", "S.1.geojson.gz", "S.1.ndpi-MASK.PNG"]
)
def test_endings_in_any_case_packed_and_behind_the_slides_own_are_found(tmp_path, name):
    content = json.dumps(feature(SQUARE)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    found = find_annotation(tmp_path, "S.1")
    assert found == tmp_path / name and read_annotation(found)[0].geometry.area == 100
    assert find_annotation(tmp_path, "S") is None and find_annotation(tmp_path, "s.1") is None


@pytest.mark.parametrize("content, match", [
    (gzip.compress(b"x", mtime=0)[:-9], "not JSON|no known"), (b"\x1f\x8b rubbish", "cannot be read"),
    (gzip.compress(b"[" * 5000, mtime=0), "too large"),
])  # fmt: skip
def test_packed_files_that_are_damaged_or_blow_up_are_refused(tmp_path, monkeypatch, content, match):
    monkeypatch.setattr(regions_module, "LARGEST_FILE_BYTES", 2000)
    (tmp_path / "a.geojson.gz").write_bytes(content)
    with pytest.raises(AnnotationError, match=match):
        read_annotation(tmp_path / "a.geojson.gz")


CELL = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 5], [0, 5], [0, 0]]]}


@pytest.mark.parametrize("other", [
    {"properties": {"objectType": "cell", "classification": {"name": "Tumor"}}},
    {"properties": {"objectType": "tma_core"}},
    {"properties": {"objectType": "detection"}}, {"properties": None, "id": "PathCellObject"},
    {"properties": {}, "id": "TMACoreObject"},
])  # fmt: skip
def test_only_what_qupath_calls_an_annotation_is_a_region(tmp_path, other):
    cell = {"type": "Feature", "geometry": CELL, **other}
    whole = feature(SQUARE, objectType="annotation") | {"id": "PathAnnotationObject"}
    regions = read_annotation(write(tmp_path / "a.geojson", [cell, whole, cell]))
    assert tumour_outline(regions).area == 100 and len(regions.left_out) == 1 and "2 of type" in regions.left_out[0]
    with pytest.raises(AnnotationError, match="2 of type"):
        read_annotation(write(tmp_path / "a.geojson", [cell, cell]))


POINT = {"type": "Point", "coordinates": [1, 1]}


@pytest.mark.parametrize("bad", [
    None, {"type": "Polygon", "coordinates": []}, {"type": "Polygon", "coordinates": [[[5, 5], [9, 9], [5, 5]]]},
    {"type": "Polygon", "coordinates": [[[5, 5]]]}, {"type": "Polygon"}, {"type": "Circle"}, "text", {"type": None},
    {"type": "GeometryCollection", "geometries": []}, {"type": "GeometryCollection", "geometries": [POINT]},
    {"type": "GeometryCollection"}, {"type": "MultiPolygon", "coordinates": [[]]},
    {"type": "Polygon", "coordinates": [[[0, 0], [1e12, 5], [9, 9], [0, 0]]]},
])  # fmt: skip
def test_one_bad_feature_costs_itself_and_is_listed(tmp_path, bad):
    regions = read_annotation(write(tmp_path / "a.geojson", [feature(SQUARE), feature(bad)]))
    assert [r.geometry.area for r in regions] == [100]
    assert len(regions.left_out) == 1 and regions.left_out[0].startswith("Feature 1: ")


def test_areas_of_a_collection_are_a_region(tmp_path):
    inner = {"type": "GeometryCollection", "geometries": [CELL, POINT]}
    far = {"type": "Polygon", "coordinates": [[[50, 0], [60, 0], [60, 10], [50, 0]]]}
    document = feature({"type": "GeometryCollection", "geometries": [inner, POINT, far]})
    assert read_annotation(write(tmp_path / "a.geojson", document))[0].geometry.area == 20 + 50


def test_the_user_names_the_classes_of_the_tumour(tmp_path):
    classes = ("Region 1", "Tumor", "Tumor: Acinar", None)
    path = write(tmp_path / "a.geojson", [
        feature(shapely.geometry.mapping(box(100 * i, 0, 100 * i + 10, 1 + i)), classification=c)
        for i, c in enumerate(classes)
    ])  # fmt: skip
    for names, area in (((), 20 + 30), (("region 1 ",), 10), (("acinar", "Region 1"), 40), (("tumor",), 50)):
        assert tumour_outline(read_annotation(path, tumour_classes=names)).area == area
    with pytest.raises(AnnotationError, match=r"\(no class\).*Expected: Stroma.*tumour_classes"):
        tumour_outline(read_annotation(path, tumour_classes=("Stroma",)))
    told = told_classes(read_annotation(path))
    assert told == "classes of the outlines: tumour Tumor, Tumor: Acinar; not tumour (no class), Region 1"
    assert told_classes([Region(box(0, 0, 1, 1), "Tumor")] * 2) == told_classes([Region(box(0, 0, 1, 1))]) == ""


def nuclei(count, side_px):
    return [Region(box(50 * i, 0, 50 * i + side_px, side_px), "Tumor") for i in range(count)]


@pytest.mark.parametrize("regions, mpp, refused", [
    (nuclei(20, 20), 0.25, True), (nuclei(20, 20), 1.0, False), (nuclei(19, 20), 0.25, False),
    ([Region(shapely.MultiPolygon([r.geometry for r in nuclei(40, 30)]))], 0.25, True),
    ([*nuclei(400, 20), Region(box(0, 0, 400, 400), "Tumor")], 0.25, False),
    ([*nuclei(400, 20), Region(box(0, 0, 900, 900), "Stroma")], 0.25, True),
])  # fmt: skip
def test_outlines_of_nuclei_are_no_regions(regions, mpp, refused):
    if not refused:
        return check_no_nuclei(regions, mpp, "a.xml")
    with pytest.raises(AnnotationError, match=r"a\.xml look like nuclei.*median"):
        check_no_nuclei(regions, mpp, "a.xml")


def test_real_outlines_of_nuclei_and_of_regions_are_told_apart(shared_data):
    for path in sorted((shared_data / "monuseg_tcga_lung").glob("*.xml")):
        with pytest.raises(AnnotationError, match="look like nuclei"):
            check_no_nuclei(read_annotation(path), 0.25, path.name)
    drawn = [p for p in (shared_data / "annotations").rglob("*") if p.suffix in (".geojson", ".json", ".xml")]
    for path in drawn:
        check_no_nuclei(read_annotation(path), 0.25, path.name)
    assert len(drawn) > 4


def test_real_annotations_are_read(shared_data):
    folder = shared_data / "annotations"
    squares = read_annotation(folder / "CMU-1-Small-Region.geojson")
    assert len(squares) == 2 and tumour_outline(squares).area == 2 * 821**2
    qupath = read_annotation(folder / "qupath05.geojson")
    assert [(r.name, r.classification) for r in qupath] == [("UT", ""), ("I", ""), ("I", "")]
    assert tumour_outline(qupath).area == 168998
    example = read_annotation(folder / "geojson_xml/geojson_example.geojson")
    assert [r.classification for r in example] == ["artifact", "unsure"] and example[0].geometry.area == 400**2


def test_real_camelyon_outlines_have_holes_and_islands(shared_data):
    regions = read_annotation(shared_data / "annotations/Tumor_110.json")
    assert len(regions) == 21 and regions.left_out == []
    holes = {r.name: len(r.geometry.interiors) for r in regions if r.note}
    assert holes == {"Annotation 0": 6, "Annotation 6": 6, "Annotation 19": 2, "Annotation 33": 7}
    assert regions[0].geometry.area == 568317275.5  # 582679647.5 less its six holes
    islands = {r.name: r.geometry.area for r in regions if r.name in {"Annotation 8", "Annotation 9"}}
    assert islands == {"Annotation 8": 153306.5, "Annotation 9": 29792.0}  # both lie in hole 7
    assert tumour_outline(regions).area == pytest.approx(sum(r.geometry.area for r in regions))
