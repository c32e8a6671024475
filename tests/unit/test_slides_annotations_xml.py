"""ImageScope and ASAP outlines: classes, negative regions, types, order, encodings, and the real files."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.slides.outlines.find import read_annotation, tumour_outline
from deeplrhe_utils.slides.outlines.geojson import read_geojson, write_geojson


def rectangle(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def region(corners, text="", **attributes):
    drawn = {"Id": "1", "Type": "0", "Text": text, "NegativeROA": "0", "InputRegionId": "7"} | attributes
    inside = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    written = " ".join(f'{key}="{value}"' for key, value in drawn.items() if value is not None)
    return f"<Region {written}><Attributes/><Vertices>{inside}</Vertices></Region>"


def layer(*regions, name="", labels=()):
    attributes = "".join(f'<Attribute Name="{n}" Id="0" Value="{v}"/>' for n, v in labels)
    inside = f"<Attributes>{attributes}</Attributes><Regions>{''.join(regions)}</Regions>"
    return f'<Annotation Id="1" Name="{name}">{inside}</Annotation>'


def imagescope(tmp_path, *layers):
    path = tmp_path / "slide.xml"
    path.write_text(f'<Annotations MicronsPerPixel="0">{"".join(layers)}</Annotations>', encoding="utf-8")
    return path


def asap(tmp_path, *annotations, groups={"g": "None"}):  # noqa: B006
    """ASAP file of (group, type, corners); the corners are written backwards, with their order."""
    written = []
    for number, (group, kind, corners) in enumerate(annotations):
        inside = "".join(
            f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in reversed(list(enumerate(corners)))
        )
        written.append(
            f'<Annotation Name="A{number}" Type="{kind}" PartOfGroup="{group}">'
            f"<Coordinates>{inside}</Coordinates></Annotation>"
        )
    path = tmp_path / "slide.xml"
    written_groups = "".join(f'<Group Name="{n}" PartOfGroup="{p}"><Attributes/></Group>' for n, p in groups.items())
    path.write_text(
        '<?xml version="1.0"?><ASAP_Annotations>'
        f"<Annotations>{''.join(written)}</Annotations>"
        f"<AnnotationGroups>{written_groups}</AnnotationGroups></ASAP_Annotations>"
    )
    return path


SQUARE = rectangle(0, 0, 100, 100)


@pytest.mark.parametrize("made, expected", [
    (layer(region(SQUARE, "free text"), name="Tumor", labels=[("Description", "d")]), "Tumor"),
    (layer(region(SQUARE, "free text"), labels=[("Description", ""), ("Grade", "G2")]), "G2"),
    (layer(region(SQUARE, "free text"), labels=[("Description", ""), ("Stroma", "")]), "Stroma"),
    (layer(region(SQUARE, "mitosis"), labels=[("Description", "")]), "mitosis"),
    (layer(region(SQUARE), labels=[("", "")]), ""),
    (layer(region(SQUARE, "A &amp; B &#x2265;")), "A & B ≥"),
])  # fmt: skip
def test_the_class_of_an_imagescope_region(tmp_path, made, expected):
    (found,) = read_annotation(imagescope(tmp_path, made))
    assert found.classification == expected


def test_attributes_of_a_region_are_not_those_of_its_layer(tmp_path):
    drawn = region(SQUARE).replace("<Attributes/>", '<Attributes><Attribute Name="x" Id="0" Value="y"/></Attributes>')
    assert read_annotation(imagescope(tmp_path, layer(drawn)))[0].classification == ""


def test_negative_regions_cut_their_own_layer_only(tmp_path):
    hole = region(rectangle(10, 10, 30, 30), NegativeROA="1")
    crossing = region(rectangle(90, 0, 200, 50), NegativeROA="1")
    first = layer(hole, region(SQUARE), region(rectangle(15, 15, 20, 20)), crossing, name="Tumor")
    regions = read_annotation(imagescope(tmp_path, first, layer(region(SQUARE), name="Stroma")))
    assert [r.geometry.area for r in regions] == [10_000 - 400 - 500, 25, 10_000]
    assert "2 excluded area(s)" in regions[0].note and [r.note for r in regions[1:]] == ["", ""]


def test_a_negative_region_in_the_wrong_layer_is_an_error_and_one_nowhere_is_told(tmp_path):
    hole = region(rectangle(10, 10, 30, 30), NegativeROA="1", Id="9")
    with pytest.raises(AnnotationError, match=r"Negative region 9 \(line 1\).*another"):
        read_annotation(imagescope(tmp_path, layer(region(SQUARE)), layer(hole)))
    away = region(rectangle(500, 10, 530, 30), NegativeROA="1", Id="9")
    regions = read_annotation(imagescope(tmp_path, layer(region(SQUARE), away)))
    assert regions[0].geometry.area == 10_000 and regions.left_out == ["Negative region 9 (line 1) meets no region"]


def test_types_of_imagescope_regions(tmp_path):
    drawn = [
        region(SQUARE, Type=None), region([(0, 0), (30, 10)], Type="1"), region(SQUARE, Type="1"),
        region([(10, 20), (50, 100)], Type="2"), region([(0, 0), (5, 5)], Type="4"), region([(0, 0), (5, 5)], Type="5"),
        region([(3, 3)]), region([]),
    ]  # fmt: skip
    regions = read_annotation(imagescope(tmp_path, layer(*drawn)))
    assert [r.geometry.area for r in regions[:3]] == [10_000, 300, 10_000]
    assert regions[3].geometry.area == pytest.approx(np.pi * 20 * 40, rel=3e-4) and "ellipse" in regions[3].note
    assert regions[3].geometry.bounds == pytest.approx((10, 20, 50, 100))
    assert len(regions) == 4 and len(regions.left_out) == 4 and "type 4" in regions.left_out[0]
    for wrong in (region(SQUARE, Type="9"), region(SQUARE, NegativeROA="maybe")):
        with pytest.raises(AnnotationError, match=r"slide\.xml, region 1 \(line 1\).*unknown"):
            read_annotation(imagescope(tmp_path, layer(wrong)))


def test_asap_groups_types_and_order(tmp_path):
    path = asap(
        tmp_path, ("Tumor", "Polygon", SQUARE), ("None", "Spline", rectangle(0, 0, 10, 10)),
        ("g", "Rectangle", rectangle(0, 0, 5, 5)), ("Tumor", "Dot", [(1, 1)]), ("Tumor", "PointSet", SQUARE),
    )  # fmt: skip
    regions = read_annotation(path)
    assert [(r.name, r.classification, r.geometry.area) for r in regions] == [
        ("A0", "Tumor", 10_000), ("A1", "", 100), ("A2", "g", 25)
    ]  # fmt: skip
    assert "spline" in regions[1].note and len(regions.left_out) == 2
    assert list(regions[0].geometry.exterior.coords) == [*SQUARE, SQUARE[0]]
    assert tumour_outline(regions).area == 10_000


@pytest.mark.parametrize("groups, classification, tumour", [
    ({"G": "Tumor", "Tumor": "None"}, "Tumor: G", True), ({"G": "Inner", "Inner": "Tumor"}, "Tumor: Inner: G", True),
    ({"G": "G"}, "G", False), ({"G": "Stroma", "Stroma": "G"}, "Stroma: G", False), ({"G": ""}, "G", False),
    ({"G": "Exclusion"}, None, False), ({"G": "H", "H": "_2"}, None, False),
])  # fmt: skip
def test_groups_inside_groups_count(tmp_path, groups, classification, tumour):
    path = asap(tmp_path, ("G", "Polygon", SQUARE), ("lepidic", "Polygon", rectangle(500, 0, 510, 10)), groups=groups)
    found = [r.classification for r in read_annotation(path)]
    assert found == [*([classification] if classification else []), "lepidic"]
    assert tumour_outline(read_annotation(path)).area == 100 + 10_000 * tumour


@pytest.mark.parametrize("positive, negative", [
    ("_0", "_2"), ("_1", "_2"), ("Tumor", "Exclusion"), ("None", "exclude"), ("metastases", "normal"),
])  # fmt: skip
def test_exclusion_groups_are_cut_out_and_are_no_regions(tmp_path, positive, negative):
    hole, vanishing = rectangle(10, 10, 20, 30), rectangle(500, 0, 510, 10)
    path = asap(tmp_path, (negative, "Polygon", hole), (positive, "Polygon", SQUARE), (positive, "Polygon", vanishing),
                (negative, "Polygon", rectangle(490, -10, 520, 20)))  # fmt: skip
    regions = read_annotation(path)
    assert [r.geometry.area for r in regions] == [9_800] and len(regions.left_out) == 1
    assert tumour_outline(regions).area == 9_800


def test_normal_is_a_class_where_there_are_no_metastases(tmp_path):
    regions = read_annotation(
        asap(tmp_path, ("Tumor", "Polygon", SQUARE), ("normal", "Polygon", rectangle(1, 1, 5, 5)))
    )
    assert [r.geometry.area for r in regions] == [10_000, 16]


@pytest.mark.parametrize("declared, codec", [
    ("UTF-8", "utf-8"), ("utf-8", "utf-8-sig"), ("UTF-16", "utf-16"), ("UTF-16", "utf-16-le"), ("utf-16", "utf-16-be"),
    ("ISO-8859-1", "latin-1"), ("windows-1252", "cp1252"), ("", "utf-8"), ("", "utf-16"),
])  # fmt: skip
def test_encodings(tmp_path, declared, codec):
    path = imagescope(tmp_path, layer(region(SQUARE, "Größe")))
    declaration = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    path.write_bytes((declaration + path.read_text(encoding="utf-8")).encode(codec))
    assert read_annotation(path)[0].classification == "Größe"


@pytest.mark.parametrize("seed", range(3))
def test_both_formats_survive_geojson_to_the_last_bit(tmp_path, seed):
    """Whatever is drawn: areas with and without exclusions, crossing lines, decimals."""
    rng = np.random.default_rng(seed)
    drawn = [(rng.uniform(0, 1000, 2) + rng.uniform(0, 300, (int(rng.integers(3, 12)), 2))).tolist() for _ in range(8)]
    negative = rng.random(8) < 0.3
    negative[0] = False
    read = [
        read_annotation(
            asap(tmp_path, *(("_2" if n else "Tumor", "Polygon", d) for d, n in zip(drawn, negative, strict=True)))
        ),
        read_annotation(
            imagescope(
                tmp_path, layer(*(region(d, NegativeROA=str(int(n))) for d, n in zip(drawn, negative, strict=True)))
            )
        ),
    ]
    assert [r.geometry for r in read[0]] == [r.geometry for r in read[1]]
    for regions in read:
        assert all(r.geometry.is_valid and r.geometry.area > 0 for r in regions)
        assert read_annotation(write_geojson(regions, tmp_path / "again.geojson")) == regions


def test_asap_and_geojson_of_the_same_polygons_are_equal(shared_data):
    folder = shared_data / "annotations/geojson_xml"
    from_xml, from_json = read_annotation(folder / "tiles.xml"), read_geojson(folder / "tiles.geojson")
    assert len(from_xml) == 136 and from_xml.left_out == []
    assert [r.geometry for r in from_xml] == [r.geometry for r in from_json]  # to the last bit, in the same order
    assert [r.classification for r in from_xml] == [r.classification for r in from_json]
    assert sum(r.geometry.area for r in from_xml) == pytest.approx(13517649.693572698, rel=1e-12)
    one, other = read_annotation(folder / "xml_example.xml"), read_annotation(folder / "geojson_example.geojson")
    assert one[1].geometry == other[1].geometry and one[1].classification == other[1].classification == "unsure"


def test_a_real_imagescope_file_full_of_stray_clicks(shared_data):
    """Of 400 regions, 316 enclose nothing by the shoelace formula either; the others add up to its sum."""
    regions = read_annotation(shared_data / "annotations/deeppath_test.xml")
    assert len(regions) == 84 and len(regions.left_out) == 316
    assert tumour_outline(regions).area == 659_900
    assert sum(r.geometry.area for r in regions) == 659_900


@pytest.mark.parametrize("name, count", [
    ("TCGA-21-5784-01Z-00-DX1", 398), ("TCGA-44-2665-01B-06-BS6", 818),
])  # fmt: skip
def test_real_nuclei_have_the_areas_that_imagescope_wrote(shared_data, name, count):
    path = shared_data / f"monuseg_tcga_lung/{name}.xml"
    regions = read_annotation(path)
    assert len(regions) == count and all(r.geometry.is_valid for r in regions)
    drawn = [e for e in ET.parse(path).getroot().iter("Region") if len(e.findall("Vertices/Vertex")) > 2]
    difference = np.abs(np.array([float(e.get("Area")) for e in drawn]) - [r.geometry.area for r in regions])
    assert len(drawn) == count and np.median(difference) < 0.05 and difference.max() < 11
    assert read_annotation(path, offset_l0_px=(5, 0))[0].geometry.bounds[0] == pytest.approx(
        regions[0].geometry.bounds[0] + 5
    )
