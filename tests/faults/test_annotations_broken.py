"""Broken and hostile annotation files are refused by name, quickly, and with what to do."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplrhe_utils.core.errors import AnnotationError
from deeplrhe_utils.slides.outlines import regions
from deeplrhe_utils.slides.outlines.find import read_annotation
from deeplrhe_utils.slides.outlines.geojson import read_geojson

VERTICES = '<Vertex X="0" Y="0"/><Vertex X="9" Y="0"/><Vertex X="9" Y="9"/>'


def imagescope(vertices=VERTICES, before=""):
    region = f"<Region Id='4'><Vertices>{vertices}</Vertices></Region>"
    return f"{before}<Annotations><Annotation><Regions>{region}</Regions></Annotation></Annotations>"


def asap(coordinates, kind="Polygon"):
    annotation = f"<Annotation Name='n' Type='{kind}'><Coordinates>{coordinates}</Coordinates></Annotation>"
    return f"<ASAP_Annotations><Annotations>{annotation}</Annotations></ASAP_Annotations>"


def refuse(tmp_path, content, match, reader=read_annotation, **options):
    path = tmp_path / "outline.any"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(AnnotationError, match=match) as caught:
        reader(path, **options)
    assert "outline.any" in str(caught.value)
    return str(caught.value)


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))


@pytest.mark.parametrize("prolog, text", [
    (f'<!DOCTYPE Annotations [<!ENTITY l0 "ha">{LAUGHS}]>', "&l11;"),
    (f'<!DOCTYPE Annotations [<!ENTITY a "{"a" * 100_000}">]>', "&a;" * 100_000),
    ('<!DOCTYPE Annotations [<!ENTITY x SYSTEM "file:///etc/hostname">]>', "&x;"),
    ('<!DOCTYPE Annotations SYSTEM "http://127.0.0.1:9/x.dtd">', ""),
    ('<!DOCTYPE Annotations [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]>', ""),
    ("<!DOCTYPE Annotations>", ""),
], ids=["billion laughs", "quadratic", "external", "external type", "parameter entity", "bare"])  # fmt: skip
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_document_types_are_refused_before_anything_is_expanded(tmp_path, prolog, text, codec):
    content = imagescope(VERTICES + text, f'<?xml version="1.0"?>\n{prolog}').encode(codec)
    refuse(tmp_path, content, "document type or entities")


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_truncated_xml_is_refused(tmp_path, cut):
    refuse(tmp_path, imagescope()[:cut], "not XML, or only part")


@pytest.mark.parametrize("cut", [1, 60, -1])
def test_truncated_json_is_refused(tmp_path, cut):
    text = json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]})
    refuse(tmp_path, text[:cut], "not JSON")


@pytest.mark.parametrize("content, match", [
    (b"", "empty"), (b" \n\t ", "empty"), (b"\xef\xbb\xbf", "no known format"), (b"\xff\xfe", "no known format"),
    (b"slide,x,y\n1,2,3\n", "no known format.*slide,x,y"), (b"PK\x03\x04\xff\xff\xff", "not text"),
    (b"\xff\xd8\xff\xe0 a JPEG", "not text"), ("{\"type\": \"Größe\"}".encode("latin-1"), "not text"),
    ("<Annotations>Größe</Annotations>".encode("latin-1"), "not text"),
    (b'<?xml version="1.0" encoding="UTF-16"?><Annotations/>', "declares an encoding.*UTF-16"),
    (b'<?xml version="1.0" encoding="cp037"?><Annotations/>', "declares an encoding.*cp037"),
    (b'<?xml version="1.0" encoding="klingon"?><Annotations/>', "declares an encoding.*klingon"),
    (b"<Annotations/>", "no area"), (b"<ASAP_Annotations/>", "no area"), (b"<annotations/>", "neither.*annotations"),
    (b"<html><body/></html>", "neither ImageScope nor ASAP.*html"), (b"<a:Annotations/>", "neither"),
    (b"<Annotations><Region/></Annotations>", "out of place"),
    (b"<Annotations><Vertex X='1' Y='2'/></Annotations>", "out of place"),
    (b"<Annotations><x><Annotation><Region/></Annotation></x></Annotations>", "out of place"),
    (b"<Annotations><x><Annotation><Attributes><Attribute/></Attributes></Annotation></x></Annotations>", "no area"),
    (b"<ASAP_Annotations><Coordinate X='1' Y='2'/></ASAP_Annotations>", "out of place"),
    (b"[]", "no area"), (b"{}", "not GeoJSON"), (b"[null]", "not GeoJSON"), (b'{"positive": 5}', "not a list"),
    (b'{"positive": [5]}', "not a list"), (b'{"positive": [{}]}', "no list of vertices"),
    (b'{"negative": []}', "no area"), (imagescope("&x;"), "not XML"),
    (imagescope(VERTICES + "\n<Vertex X='5'/>"), "line 2: a corner is not a pair"),
])  # fmt: skip
def test_files_that_are_something_else_are_refused(tmp_path, content, match):
    refuse(tmp_path, content, match)


@pytest.mark.parametrize("x", ["NaN", "inf", "-Infinity", "1e10", "1e999", "12,5", "", "x", "0x10"])
def test_coordinates_are_finite_numbers(tmp_path, x):
    refuse(tmp_path, imagescope(VERTICES + f"<Vertex X='{x}' Y='1'/>"), r"line 1: a corner|region 4 .*not finite")
    points = "".join(f"<Coordinate Order='{i}' X='{x}' Y='{i}'/>" for i in range(4))
    refuse(tmp_path, asap(points), r"line 1: a corner|annotation 0 .*not finite")


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e10", "1e999", '"x"', "null", "[1]", "1" * 400, "1" * 5000]
)
def test_numbers_of_json_are_finite(tmp_path, value):
    ring = f"[[0, 0], [{value}, 5], [9, 9], [0, 0]]"
    match = "Feature 0.*(malformed|not finite)|not JSON"
    refuse(tmp_path, f'{{"type": "Polygon", "coordinates": [{ring}]}}', match)
    refuse(
        tmp_path,
        f'{{"positive": [{{"name": "", "vertices": {ring}}}]}}',
        "positive outline 0.*(malformed|not finite)|not JSON",
    )


@pytest.mark.parametrize("content", [
    imagescope('<Vertex X="0" Y="0"/><Vertex X="9" Y="0"/>'), imagescope(""), imagescope('<Vertex X="0" Y="0"/>' * 50),
    asap("<Coordinate Order='0' X='1' Y='1'/><Coordinate Order='1' X='5' Y='9'/>"), asap("", "Dot"),
    '{"positive": [{"name": "", "vertices": [[0, 0], [4, 5]]}]}', '{"positive": [{"name": "", "vertices": []}]}',
    '{"type": "Polygon"}', '{"type": "Polygon", "coordinates": [[[0, 0], [4, 5]]]}',
    '{"type": "Polygon", "coordinates": []}',
])  # fmt: skip
def test_two_corners_are_no_outline(tmp_path, content):
    refuse(tmp_path, content, "no area|malformed")


def test_crossing_lines_are_repaired_with_a_note(tmp_path):
    bow = [(0, 0), (10, 10), (10, 0), (0, 10)]
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in bow)
    coordinates = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(bow))
    lists = ({"positive": [{"vertices": bow}]}, {"type": "Polygon", "coordinates": [[*bow, bow[0]]]})
    for content in (imagescope(vertices), asap(coordinates), *map(json.dumps, lists)):
        (tmp_path / "a").write_text(content)
        (region,) = read_annotation(tmp_path / "a")
        assert region.geometry.is_valid and region.geometry.area == 50 and "Self-intersection" in region.note


@pytest.mark.parametrize(
    "orders, match",
    [(("0", "1", "1"), "same Order"), (("0", "", "2"), "whole number"), (("a", "b", "c"), "whole number")],
)
def test_the_order_of_corners_is_clear(tmp_path, orders, match):
    refuse(
        tmp_path, asap("".join(f"<Coordinate Order='{o}' X='{i}' Y='{i * i}'/>" for i, o in enumerate(orders))), match
    )


@pytest.mark.parametrize("kind", ["Circle", ""])
def test_unknown_asap_types_are_refused(tmp_path, kind):
    refuse(
        tmp_path, asap("<Coordinate Order='0' X='1' Y='1'/>", kind), r"annotation 0 \(n, line 1\): the type is unknown"
    )


def test_deep_nesting_is_refused(tmp_path):
    refuse(tmp_path, "[" * 100_000, "not JSON")
    refuse(tmp_path, '{"a":' * 100_000, "not JSON")
    refuse(tmp_path, "[" * 100_000 + "]" * 100_000, "not JSON", read_geojson)
    deep = "[" * 500 + "]" * 500
    refuse(tmp_path, f'{{"type": "Polygon", "coordinates": {deep}}}', "malformed|enclose|no area|empty")
    refuse(tmp_path, f'{{"positive": [{{"vertices": {deep}}}]}}', "malformed|no area")
    refuse(tmp_path, "<Annotations>" + "<a>" * 100_000 + "</a>" * 100_000 + "</Annotations>", "nested too deeply")


def test_large_missing_files_and_folders_are_refused(tmp_path, monkeypatch):
    for path in (tmp_path / "absent.xml", tmp_path):
        with pytest.raises(AnnotationError, match="cannot be read"):
            read_annotation(path)
    monkeypatch.setattr(regions, "LARGEST_FILE_BYTES", 10)
    refuse(tmp_path, "[" + " " * 20 + "]", "too large.*22 bytes")


def png(width, height, data=b""):
    """A PNG that claims a size, whatever its data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_mask_bombs_are_refused_before_they_are_decoded(tmp_path, side):
    refuse(tmp_path, png(side, side, b"\0" * 1_000_000), "too large|exceeds limit", slide_px=(side, side))


@pytest.mark.parametrize(
    "content", [png(50, 50, b"\0\1"), png(50, 50)[:40], b"II*\0\x08\0\0\0\xff\xff", b"\x89PNG\r\n\x1a\n", b"MM\0*"]
)
def test_broken_masks_are_refused(tmp_path, content):
    refuse(tmp_path, content, "cannot be read", slide_px=(50, 50))


def image(path, pixels, **options):
    Image.fromarray(pixels).save(path, format=options.pop("format", "PNG"), **options)
    return path.read_bytes()


def test_images_that_are_no_masks_are_refused(tmp_path):
    place = tmp_path / "image"
    blank = np.zeros((20, 20), np.uint8)
    page = [Image.fromarray(blank)]
    for content, match in (
        (image(place, np.zeros((20, 20, 3), np.uint8)), "channels.*RGB"),
        (image(place, blank.astype(np.float32), format="TIFF"), "channels.*mode F"),
        (image(place, blank, format="TIFF", save_all=True, append_images=page), "several pages.*2"),
        (image(place, blank), "no area.*no pixel"),
        (image(place, np.ones((20, 40), np.uint8)), "does not fit"),
    ):
        refuse(tmp_path, content, match, slide_px=(200, 200))


SEEDS = (
    imagescope().encode(), asap("<Coordinate Order='0' X='0' Y='1'/>" + "<Coordinate Order='1' X='5' Y='1'/>").encode(),
    b'{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}, '
    b'"properties": {"classification": {"name": "Tumor"}}}',
    b'{"positive": [{"name": "a", "vertices": [[0, 0], [9, 0], [9, 9]]}], "negative": [{"vertices": [[1, 1]]}]}',
)  # fmt: skip
WORDS = (b"NaN", b"1e999", b"null", b"[", b"]", b"{}", b'"', b"<", b"&x;", b"\0", b"\xff", b"9" * 30, b"type", b"true")


@pytest.mark.parametrize("seed", range(3))
def test_mutilated_files_are_read_or_refused_but_never_crash(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "outline.any"
    for _ in range(40):
        content = bytearray(SEEDS[rng.integers(len(SEEDS))])
        for _ in range(int(rng.integers(1, 5))):
            start = int(rng.integers(len(content)))
            stop = start + int(rng.integers(0, 12))
            content[start:stop] = WORDS[rng.integers(len(WORDS))] if rng.random() < 0.6 else b""
        path.write_bytes(content)
        try:
            assert all(region.geometry.is_valid and region.geometry.area > 0 for region in read_annotation(path))
        except AnnotationError as error:
            assert "outline.any" in str(error)
