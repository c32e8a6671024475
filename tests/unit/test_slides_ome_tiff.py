"""OME-TIFF pyramids: what other readers see, whatever the size; nothing left behind by what goes wrong."""

import errno
import subprocess
import sys
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from deeplrhe_utils.core.errors import ParameterError, RunError, SlideError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.slides.files import ome_tiff
from deeplrhe_utils.slides.files.ome_tiff import write_ome_tiff
from deeplrhe_utils.slides.reading.reader import Slide
from tests.tiff_slides import tissue_like

WIDTH, HEIGHT, TILE, MPP = 1403, 1178, 128, 0.2527
PICTURE = tissue_like(HEIGHT, WIDTH)
QUALITIES = [90, None]
JPEG_ERROR = 6.0  # mean |difference| at quality 90, more on lower levels of noise; swapped or pink colours give 40


def strips_of(pixels, rows=TILE):
    return (pixels[top : top + rows] for top in range(0, len(pixels), rows))


def write(path, pixels=PICTURE, *, rows=TILE, **options):
    size = {"height_px": pixels.shape[0], "width_px": pixels.shape[1]}
    options = {"mpp": MPP, "name": "slide", "tile_px": TILE} | size | options
    return write_ome_tiff(path, strips_of(pixels, rows), **options)


def pyramid(pixels, levels):
    """Each level the rounded mean of 2 × 2 pixels of the one above."""
    found = [pixels]
    while len(found) < levels:
        above = found[-1].astype(int)
        height, width = above.shape[0] // 2, above.shape[1] // 2
        blocks = above[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
        found.append(((blocks.sum((1, 3)) + 2) // 4).astype(np.uint8))
    return found


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - b)


def assert_alike(found, wanted, quality):
    assert found.shape == wanted.shape
    if quality is None:
        assert np.array_equal(found, wanted)
    else:
        assert difference(found, wanted).mean() < JPEG_ERROR
        assert np.abs(found.mean((0, 1)) - wanted.mean((0, 1))).max() < 2


@pytest.fixture(scope="module", params=QUALITIES, ids=["jpeg", "deflate"])
def written(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ome") / "slide.ome.tiff"
    return write(path, quality=request.param, levels=4, name='TCGA <1> & "é"'), request.param


def test_tifffile_sees_one_image_with_levels(written):
    path, quality = written
    with tifffile.TiffFile(path) as file:
        assert file.is_ome and not file.is_bigtiff and len(file.pages) == len(file.series) == 1
        assert not file.series[0].is_multifile and file.series[0].axes == "YXS"
        for level, wanted in zip(file.series[0].levels, pyramid(PICTURE, 4), strict=True):
            assert_alike(level.asarray(), wanted, quality)


def test_the_directories_are_as_the_format_wants_them(written):
    path, quality = written
    with tifffile.TiffFile(path) as file:
        full = file.pages[0]
        pages = [full, *full.pages]
        assert [p.imagewidth for p in pages] == [1403, 701, 350, 175]
        assert list(full.subifds) == [p.offset for p in full.pages]
        assert [int(p.subfiletype) for p in pages] == [0, 1, 1, 1]
        for number, page in enumerate(pages):
            assert (page.tilewidth, page.tilelength) == (TILE, TILE)
            assert int(page.compression) == (8 if quality is None else 7)
            assert int(page.photometric) == (2 if quality is None else 6)
            assert ("ReferenceBlackWhite" in page.tags) == (quality is not None)
            assert "YCbCrSubSampling" not in page.tags  # with it Bio-Formats shows pink
            assert int(page.predictor) == (2 if quality is None else 1)
            across, down = page.tags["XResolution"].value, page.tags["YResolution"].value
            assert across == down and int(page.tags["ResolutionUnit"].value) == 3
            assert 1e4 / (across[0] / across[1]) == pytest.approx(MPP * 2**number, rel=1e-9)


def test_the_metadata_tell_size_resolution_and_name(written):
    path, _ = written
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata)  # our own file
    ome = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
    image = root.find(f"{ome}Image")
    assert image.get("Name") == 'TCGA <1> & "é"'
    told = image.find(f"{ome}Pixels").attrib
    assert {k: told[k] for k in ("SizeX", "SizeY", "SizeC", "SizeZ", "SizeT", "Type")} == {
        "SizeX": "1403", "SizeY": "1178", "SizeC": "3", "SizeZ": "1", "SizeT": "1", "Type": "uint8",
    }  # fmt: skip
    assert (told["PhysicalSizeX"], told["PhysicalSizeY"]) == ("0.2527", "0.2527")
    assert (told["PhysicalSizeXUnit"], told["PhysicalSizeYUnit"]) == ("µm", "µm")
    assert image.find(f"{ome}Pixels/{ome}Channel").get("SamplesPerPixel") == "3"
    assert image.find(f"{ome}Pixels/{ome}TiffData").attrib == {"IFD": "0", "PlaneCount": "1"}


@pytest.mark.parametrize(
    ("name", "seen"),
    [("a{0}%s", "a{0}%s"), ("'\"&<>]]>", "'\"&<>]]>"), ("lung \x00\x01\ud800", "lung ���"), ("", ""), ("肺🫁", "肺🫁")],
)
def test_any_name_can_be_written(tmp_path, name, seen):
    path = write(tmp_path / "a.ome.tiff", PICTURE[:64, :64], name=name)
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    assert root[0].get("Name") == seen


def test_openslide_reads_full_resolution(written):
    """It does not follow SubIFDs: one level, resolution from the TIFF tags."""
    path, quality = written
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((WIDTH, HEIGHT),)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(MPP)
        assert_alike(np.asarray(slide.read_region((0, 0), 0, (WIDTH, HEIGHT)))[..., :3], PICTURE, quality)


def test_tiffslide_reads_all_levels(written):
    path, quality = written
    with tiffslide.TiffSlide(path) as slide:
        assert slide.level_dimensions == ((1403, 1178), (701, 589), (350, 294), (175, 147))
        assert slide.properties["tiffslide.mpp-x"] == pytest.approx(MPP)
        seen = np.asarray(slide.read_region((0, 0), 2, (350, 294)))
        assert_alike(seen, pyramid(PICTURE, 3)[2], quality)


def test_our_reader_opens_it(written):
    path, quality = written
    with Slide(path) as slide:
        assert slide.dimensions == (WIDTH, HEIGHT)
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(MPP), "tiff-tags")
        assert slide.resolution_note is None
        assert slide.reader == ("openslide (compression 8)" if quality is None else "jpeg")
        assert_alike(slide.read_tile(1000, 700, 300, 300), PICTURE[700:1000, 1000:1300], quality)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize(
    ("width", "height", "levels"),
    [(1, 1, 1), (TILE, TILE, 3), (TILE + 1, TILE - 1, 2), (3, 515, 2), (601, 4 * TILE + 1, 5)],
)  # fmt: skip
def test_every_size_can_be_written(tmp_path, width, height, levels, quality):
    pixels = PICTURE[:height, :width]
    path = write(tmp_path / "a.ome.tiff", pixels, levels=levels, quality=quality)
    with tifffile.TiffFile(path) as file:
        for level, wanted in zip(file.series[0].levels, pyramid(pixels, levels), strict=True):
            found = level.asarray().reshape(wanted.shape)  # tifffile drops axes of length 1
            if quality is None:
                assert np.array_equal(found, wanted)
            else:
                assert difference(found, wanted).mean() < 2 * JPEG_ERROR
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (width, height)


@pytest.mark.parametrize(("size", "levels"), [((1024, 1024), 1), ((1025, 300), 2), ((4097, 2500), 3), ((1, 9000), 1)])
def test_levels_are_added_until_the_larger_side_is_small(tmp_path, size, levels):
    path = write(tmp_path / "a.ome.tiff", np.full((size[1], size[0], 3), 200, np.uint8))
    with tifffile.TiffFile(path) as file:
        assert len(file.series[0].levels) == levels


def test_the_same_pixels_give_the_same_bytes_however_they_come(tmp_path):
    paths = [write(tmp_path / f"{rows}.ome.tiff", rows=rows) for rows in (TILE, 2 * TILE, 5 * TILE, HEIGHT)]
    paths.append(write(tmp_path / "again.ome.tiff"))
    assert len({sha256_file(path) for path in paths}) == 1
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


def test_large_images_become_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(ome_tiff, "_CLASSIC_BYTES", WIDTH * HEIGHT * 3)
    path = write(tmp_path / "a.ome.tiff", levels=2)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        for level, wanted in zip(file.series[0].levels, pyramid(PICTURE, 2), strict=True):
            assert_alike(level.asarray(), wanted, 90)
    with Slide(path) as slide:
        assert (slide.dimensions, slide.reader) == ((WIDTH, HEIGHT), "jpeg")


def test_optional_codecs_are_not_needed(tmp_path):
    code = f"""
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from deeplrhe_utils.slides.files.ome_tiff import write_ome_tiff
for quality in (90, None):
    pixels = np.full((300, 300, 3), (200, 100, 150), np.uint8)
    write_ome_tiff(r"{tmp_path}/%s.ome.tiff" % quality, [pixels], width_px=300, height_px=300, mpp=0.5, name="a",
                   quality=quality, levels=3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for quality in QUALITIES:
        with tifffile.TiffFile(tmp_path / f"{quality}.ome.tiff") as file:
            for level in file.series[0].levels:
                assert difference(level.asarray(), (200, 100, 150)).max() <= (0 if quality is None else 2)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize(
    ("count", "said"), [(0, "end too early.*0 rows in 0"), (1, "end too early.*128 rows in 1.*256"), (3, "more strips")]
)
def test_strips_that_do_not_add_up_are_told_and_leave_nothing(tmp_path, count, said, levels):
    with pytest.raises(SlideError, match=said):
        write_ome_tiff(
            tmp_path / "new" / "a.ome.tiff", [PICTURE[:TILE]] * count, width_px=WIDTH, height_px=2 * TILE, mpp=MPP,
            name="a", tile_px=TILE, levels=levels,
        )  # fmt: skip
    assert list(tmp_path.rglob("*.*")) == []


def failing(error, after):
    yield from (PICTURE[k * TILE : (k + 1) * TILE] for k in range(after))
    raise error


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(errno.ENOSPC, "No space left on device"), RunError), (SlideError("damaged"), SlideError),
     (KeyboardInterrupt(), KeyboardInterrupt), (ZeroDivisionError(), ZeroDivisionError)],
)  # fmt: skip
def test_an_exception_on_the_way_leaves_what_was_there(tmp_path, error, seen, after):
    path = tmp_path / "a.ome.tiff"
    path.write_text("an older one")
    with pytest.raises(seen):
        write_ome_tiff(path, failing(error, after), width_px=WIDTH, height_px=HEIGHT, mpp=MPP, name="a", tile_px=TILE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.tiff"]
    assert path.read_text() == "an older one"


def test_a_full_disk_under_the_lower_levels_is_told(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ome_tiff.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(RunError, match="disk is full"):
        write(tmp_path / "a.ome.tiff", levels=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"width_px": 0}, {"height_px": -1}, {"width_px": 3_000_000}, {"levels": 0}, {"levels": 12}], ids=str
)
def test_wrong_sizes_are_told_before_anything_is_read(tmp_path, wrong):
    def strips():
        raise AssertionError("was asked for pixels")
        yield

    options = {"width_px": WIDTH, "height_px": HEIGHT, "mpp": MPP, "name": "a"} | wrong
    with pytest.raises(ParameterError) as told:
        write_ome_tiff(tmp_path / "a.ome.tiff", strips(), **options)
    assert told.value.got is not None and told.value.expected
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_height(tmp_path):
    def peak(count):
        tracemalloc.start()
        write_ome_tiff(
            tmp_path / "a.ome.tiff", (np.full((TILE, WIDTH, 3), 200, np.uint8) for _ in range(count)),
            width_px=WIDTH, height_px=count * TILE, mpp=MPP, name="a", tile_px=TILE, levels=4,
        )  # fmt: skip
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    few, many = peak(4), peak(40)
    assert many < few + 200_000  # a strip has 540,000 bytes
    assert many < 5 * TILE * WIDTH * 3
