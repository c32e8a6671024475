"""Tags that say how a picture lies in its file: honoured, or refused by name with advice that helps."""

import struct

import numpy as np
import pytest
import tifffile

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.files.inventory import open_and_test, scan_slides
from deeplrhe_utils.slides.reading.dicom import NEEDED_TAGS, missing_tags
from deeplrhe_utils.slides.reading.opening import advice, open_handle
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.reading.resolution import resolution_evidence, resolution_note, resolution_of
from tests.tiff_slides import tissue_like

PICTURE = tissue_like(80, 100)
TILED = {"tile": (64, 64), "photometric": "rgb", "metadata": None}


def write(path, *pages, **how):
    with tifffile.TiffWriter(path) as writer:
        for page in pages or (PICTURE,):
            writer.write(page, **(TILED | how))
    return path


@pytest.mark.parametrize("orientation", [0, 1, *range(2, 9)])
@pytest.mark.parametrize("how", [{}, {"compression": "lzw"}, {"compression": "jpeg"}, {"tile": None}])
def test_a_turned_picture_is_refused_by_name(tmp_path, orientation, how):
    path = write(tmp_path / "a.tif", extratags=[(274, "H", 1, orientation, True)], **how)
    if orientation < 2:
        with Slide(path, 0.5) as slide:
            assert np.abs(slide.read_tile(0, 0, 64, 64).astype(int) - PICTURE[:64, :64]).mean() < 8
        return
    with pytest.raises(SlideError, match=rf"a\.tif is stored turned or mirrored \(TIFF orientation {orientation}\)"):
        open_handle(path)


def test_the_orientation_of_another_picture_of_the_file_does_not_matter(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(PICTURE, **TILED)
        writer.write(PICTURE[:20, :30], photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    open_handle(tmp_path / "a.tif").close()


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_a_file_whose_first_picture_is_smaller_is_refused(tmp_path, tile):
    path = write(tmp_path / "a.ome.tif", PICTURE[:40, :50], PICTURE, tile=tile)
    with pytest.raises(SlideError, match=r"larger picture than its first.*50 × 40 px first, then 100 × 80 px"):
        open_handle(path)
    open_handle(write(tmp_path / "b.tif", PICTURE, PICTURE[:40, :50], tile=tile)).close()


OME = (
    '<?xml version="1.0" encoding="UTF-8"?><{ns}OME {xmlns}="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    "{first}<{ns}Image><{ns}Pixels PhysicalSizeX={q}{x}{q} PhysicalSizeXUnit={q}{unit}{q} SizeX={q}{w}{q} "
    "SizeY={q}80{q} PhysicalSizeY={q}{x}{q} PhysicalSizeYUnit={q}{unit}{q}/></{ns}Image></{ns}OME>"
)


def ome(x="0.5", unit="µm", *, q='"', ns="", first="", w=100):
    return OME.format(x=x, unit=unit, q=q, ns=ns, first=first, w=w, xmlns=f"xmlns:{ns[:-1]}" if ns else "xmlns")


def examined(path):
    with open_handle(path) as handle:
        return resolution_of(handle, path.name), resolution_note(resolution_evidence(handle))


MACRO = '<Image Name="macro"><Pixels PhysicalSizeX="8" PhysicalSizeY="8" SizeX="10" SizeY="8"/></Image>'


@pytest.mark.parametrize("tile", [(64, 64), None])
@pytest.mark.parametrize("text", [
    ome(), ome(unit="&#181;m"), ome(unit="&#xB5;m"), ome(unit="μm"), ome(unit="um"), ome(unit="micrometer"),
    ome("500", "nm"), ome("0.0005", "mm"), ome("5e-7", "m"), ome("5000", "Å"), ome("5000", "\u212b"),
    ome("1.96850394e-5", "in"), ome(q="'"), ome(ns="OME:"), ome(first=MACRO), ome().encode("latin-1"),
    ome() + " not closed <a", "ImageJ=1.53t\nunit=micron\n", "ImageJ=1.53t\nimages=1\nunit=\\u00B5m\nloop=false\n",
])  # fmt: skip
def test_units_of_every_spelling_are_read(tmp_path, text, tile):
    text = text.encode("utf-8") if isinstance(text, str) else text
    tags = {"resolution": (2, 2), "resolutionunit": "NONE"} if b"ImageJ" in text else {}
    found, note = examined(write(tmp_path / "a.tif", description=text, tile=tile, **tags))
    assert (found.mpp, found.source, note) == (pytest.approx(0.5, rel=1e-3), "metadata", None)


@pytest.mark.parametrize("text", [
    ome("1", "pixel"), ome("1", "reference frame"), ome(unit="Mm"), ome("x"),
    ome().replace("?>", "?><!DOCTYPE OME>"),
    ome(unit="&u;").replace("?>", '?><!DOCTYPE OME [<!ENTITY u "mm">]>').replace("0.5", "0.0005"),
    "<a>PhysicalSizeX</a>", "<OME", ome()[:150],
    "ImageJ=1.53t\nunit=pixel\n", "unit=micron",
])  # fmt: skip
def test_what_is_no_length_is_no_resolution(tmp_path, text):
    path = write(tmp_path / "a.tif", description=text.encode(), resolution=(2, 2), resolutionunit="NONE")
    with pytest.raises(SlideError, match="no microns per pixel"):
        examined(path)


def test_a_description_of_another_picture_is_not_used_and_told(tmp_path):
    path = write(
        tmp_path / "a.tif", description=ome(w=1000).encode(), resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
    )
    found, note = examined(path)
    assert found.source == "tiff-tags" and "OME-XML: of 1000 × 80 px, but the picture has 100 × 80 px" in note


def test_pages_that_are_not_read_are_told(tmp_path):
    pages = write(tmp_path / "a.tif", PICTURE, PICTURE, PICTURE, tile=None, resolution=(2e4, 2e4), resolutionunit=3)
    assert "holds 3 pages, of which the first is read" in examined(pages)[1]
    assert "3 pages" in scan_slides(tmp_path)["resolution_note"].iloc[0]


@pytest.mark.parametrize(
    ("code", "word"),
    [(50001, "WebP"), (50002, "JPEG XL"), (34925, "LZMA"), (34712, "JPEG 2000"), (52479, "an unknown method")],
)
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_advice_names_the_compression(tmp_path, code, word, tile):
    path = write(tmp_path / "a.tif", tile=tile)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(code)
    with pytest.raises(SlideError) as caught:
        open_and_test(path, 0.5)
    assert f"{word} (TIFF compression {code})" in str(caught.value) and "convert it" in str(caught.value)
    assert "download it again" not in str(caught.value)


def end_of(data, place):
    """Where an element of a DICOM file ends; sequences of undefined length are walked through."""
    long = data[place + 4 : place + 6] in (b"OB", b"OW", b"OF", b"SQ", b"UC", b"UN", b"UR", b"UT")
    (length,) = struct.unpack_from("<I" if long else "<H", data, place + (8 if long else 6))
    place += 12 if long else 8
    if length != 0xFFFFFFFF:
        return place + length
    while (item := struct.unpack_from("<HHI", data, place))[:2] == (0xFFFE, 0xE000):
        place += 8 + (item[2] if item[2] != 0xFFFFFFFF else 0)
        while item[2] == 0xFFFFFFFF and struct.unpack_from("<HH", data, place) != (0xFFFE, 0xE00D):
            place = end_of(data, place)
        place += 8 if item[2] == 0xFFFFFFFF else 0
    return place + 8


def elements(data):
    """Tag, first and last byte of every element of a DICOM file."""
    place = 132
    while place < len(data):
        end = end_of(data, place)
        yield struct.unpack_from("<HH", data, place), place, end
        place = end


def test_a_dicom_file_that_lacks_one_tag_names_it(tmp_path, shared_data):
    data = (shared_data / "slides/openslide_python_boxes_0.dcm").read_bytes()
    places = {tag: (start, end) for tag, start, end in elements(data)}
    assert set(NEEDED_TAGS) <= set(places)
    path = tmp_path / "a.dcm"
    for (group, number), word in NEEDED_TAGS.items():
        start, end = places[group, number]
        path.write_bytes(data[:start] + data[end:])
        with pytest.raises(SlideError) as caught:
            open_handle(path)
        assert f"lacks ({group:04x},{number:04x}) {word}: " in str(caught.value) and "dcmodify" in str(caught.value)
    path.write_bytes(data)
    assert missing_tags(path) == [] and advice(path) == "Copy or download it again"
    open_handle(path).close()
