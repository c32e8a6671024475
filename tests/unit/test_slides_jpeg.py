"""Two readers of one slide give the same pixels; what the direct one cannot do it leaves to OpenSlide, and says so."""

import gc
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding import jpeg_tiles
from deeplrhe_utils.slides.decoding.jpeg_stream import _header_and_body
from deeplrhe_utils.slides.decoding.sampling import Square, box_of, choose, resample, scale_for
from deeplrhe_utils.slides.reading.reader import Slide
from tests.tiff_slides import tissue_like, write_jpeg_slide

PICTURE = tissue_like(1300, 1100)
FULL, HALF, QUARTER, EIGHTH = (1024, 1024), (1024, 512), (1024, 256), (1024, 128)
MEAN_LIMIT = 0.5  # grey levels, at reduced scale


def both(path, **options):
    return Slide(path, mpp=0.25, **options), Slide(path, mpp=0.25, fast=False)


def mean_difference(a, b):
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize(("kind", "reader"), [
    ({}, "jpeg"), ({"rgb": True}, "jpeg"), ({"subsampling": (1, 1)}, "jpeg"), ({"subsampling": (2, 1)}, "jpeg"),
    ({"tile": 240, "quality": 30}, "jpeg"), ({"levels": (1, 4)}, "jpeg"), ({"levels": (1, 2), "aperio": False}, "jpeg"),
    ({"bigtiff": True, "levels": (1, 2, 4)}, "jpeg"), ({"missing": (2, 7)}, "jpeg"),
    ({"missing": (2, 7), "aperio": False}, "jpeg"),
    ({"missing": (2,), "levels": (1, 2)}, "jpeg and openslide (tiles are missing in a finer level)"),
], ids=str)  # fmt: skip
def test_both_readers_agree_on_every_kind_of_jpeg_slide(tmp_path, kind, reader):
    ours, theirs = both(write_jpeg_slide(tmp_path / "slide.svs", PICTURE, **kind))
    assert (ours.reader, theirs.reader) == (reader, "openslide (asked for)")
    for x, y in ((0, 0), (32, 64), (76, 276)):  # the last one ends at the slide's edge, in padded tiles
        assert np.array_equal(ours.read_tile(x, y, *FULL), theirs.read_tile(x, y, *FULL)), "full scale, bit for bit"
        for size in (HALF, QUARTER, EIGHTH):
            assert mean_difference(ours.read_tile(x, y, *size), theirs.read_tile(x, y, *size)) <= MEAN_LIMIT
    assert mean_difference(ours.thumbnail(200), theirs.thumbnail(200)) <= MEAN_LIMIT
    for factor in (1, 2, 4.1, 8):
        mine, yours = ours.read_band(100, 700, factor), theirs.read_band(100, 700, factor)
        assert mine[1:3] == yours[1:3] and mean_difference(mine.pixels, yours.pixels) <= MEAN_LIMIT


@pytest.mark.parametrize(
    "before", [b"", b"\xff\xfe\x00\x06\xff\xda\x00\x00", b"\xff"], ids=["plain", "in a comment", "fill"]
)
def test_where_the_scan_of_a_tile_begins_is_not_mistaken(before):
    """The two bytes that begin a scan may stand in a comment, and a fill byte before any marker."""
    picture = np.ascontiguousarray(PICTURE[:64, :64])
    stream = simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling="444")
    at = stream.index(b"\xff\xda" if before == b"\xff" else b"\xff\xdb")
    frame, body = _header_and_body(stream[:at] + before + stream[at:])
    assert (frame.height, frame.width, frame.largest_scale) == (64, 64, 8)
    assert np.array_equal(simplejpeg.decode_jpeg(b"\xff\xd8" + body), simplejpeg.decode_jpeg(stream))


def test_a_reduced_read_shows_the_picture_that_was_stored(tmp_path):
    """Against the pixels themselves, so that two wrong readers cannot agree."""
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE, quality=95, subsampling=(1, 1))
    with Slide(path, mpp=0.25) as slide:
        half = slide.read_tile(64, 128, 1024, 512)
    expected = PICTURE[128:1152, 64:1088].reshape(512, 2, 512, 2, 3).mean((1, 3))
    assert mean_difference(half, expected) < 1.5


def real_slides(folder: Path):
    return sorted(p for p in (folder / "slides").iterdir() if p.suffix in (".svs", ".tiff", ".tif", ".dcm"))


def test_both_readers_agree_on_the_real_slides(shared_data):
    for path in real_slides(shared_data):
        ours, theirs = both(path)
        width, height = ours.dimensions
        side = min(1024, width, height) // 16 * 16
        for x, y in ((0, 0), (width - side, height - side), ((width - side) // 2, (height - side) // 3)):
            assert np.array_equal(ours.read_tile(x, y, side, side), theirs.read_tile(x, y, side, side)), path.name
            for down in (2, 4, 8):
                a, b = (s.read_tile(x, y, side, side // down) for s in (ours, theirs))
                assert mean_difference(a, b) <= MEAN_LIMIT, (path.name, down)
        assert mean_difference(ours.thumbnail(300), theirs.thumbnail(300)) <= MEAN_LIMIT
        assert ours.reader.startswith(
            "jpeg" if path.stem.startswith(("CMU", "openslide_python_small")) else "openslide"
        )


def test_many_tiles_at_once_are_the_tiles_one_by_one_and_each_native_tile_is_decoded_once(tmp_path, monkeypatch):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    decoded = []
    once = jpeg_tiles.decode_tile
    monkeypatch.setattr(jpeg_tiles, "decode_tile", lambda *a: decoded.append(1) or once(*a))
    squares = [Square(x, y, 200.5) for y in range(0, 1001, 200) for x in range(0, 801, 200)]
    with Slide(path, mpp=0.25) as slide:
        together = list(slide.read_tiles(squares, 100))
        assert len(decoded) == 4 * 5  # every native tile that the squares touch, although they share most of them
        alone = [slide.read_tile(*square, 100) for square in squares]
        assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
        backwards = list(slide.read_tiles(squares[::-1], 100))
        assert all(np.array_equal(a, b) for a, b in zip(together, backwards[::-1], strict=True))
        monkeypatch.setattr(jpeg_tiles, "CACHE_BYTES", 1)  # no room: slower, and the same
        assert all(np.array_equal(a, b) for a, b in zip(together, slide.read_tiles(squares, 100), strict=True))


def test_many_open_slides_share_one_cache(tmp_path):
    import psutil

    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE, levels=(1, 2))
    process, slides = psutil.Process(), []
    for fast in (True, False):
        gc.collect()
        before = process.memory_info().rss
        slides = [Slide(path, mpp=0.25, fast=fast) for _ in range(40)]
        for slide in slides:
            slide.read_tile(0, 0, 1024, 512)
            slide.read_tile(0, 0, 1024, 1024)
        assert process.memory_info().rss - before < 100e6  # a cache each would be up to 320 MB
        for slide in slides:
            slide.close()


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    with Slide(path, mpp=0.25) as slide:
        slide.check_unchanged()
        write_jpeg_slide(tmp_path / "other.svs", PICTURE[::-1].copy()).replace(path)
        with pytest.raises(SlideError, match="changed or replaced"):
            slide.check_unchanged()
        path.unlink()
        with pytest.raises(SlideError, match="not there any more"):
            slide.check_unchanged()


def test_scale_is_taken_only_where_it_is_as_good_as_averaging():
    assert [scale_for(r) for r in (1, 2, 4, 8, 16, 3, 6)] == [1, 2, 4, 8, 8, 1, 2]
    assert [scale_for(r) for r in (1.979, 2.03, 2.5, 7.9)] == [1, 1, 1, 1], "the rest would be neither whole nor large"
    assert scale_for(16.5) == 2 and scale_for(1000.3) == 8
    assert choose([1.0, 4.0002, 16.001], 4.0) == (1, 1), "Aperio's 4 is 4.0002"
    assert choose([1.0, 4.0, 16.0], 0.5) == (0, 1), "finer than the slide: the slide"


@pytest.mark.parametrize("ratio", [1.979, 2.95, 1.5, 2.0, 0.8])
def test_resampling_is_area_averaging(ratio):
    out = int(900 / ratio)
    side = round(out * ratio)
    exact = area_average(PICTURE[:side, :side].astype(float), out) if ratio >= 1 else None
    found = resample(np.ascontiguousarray(PICTURE[:side, :side]), out, out)
    assert found.shape == (out, out, 3)
    if exact is not None:
        assert mean_difference(found, exact) < MEAN_LIMIT and np.abs(found - exact).max() <= 5


def area_average(pixels, out):
    """By the definition: every result pixel is the mean over its square, with fractions of pixels at its sides."""

    def weights(n):
        step = n / out
        matrix = np.zeros((out, n))
        for i in range(out):
            a, b = i * step, (i + 1) * step
            for j in range(int(a), min(n, int(np.ceil(b)))):
                matrix[i, j] = min(b, j + 1) - max(a, j)
        return matrix / step

    w = weights(pixels.shape[0])
    return np.einsum("ij,jkc,lk->ilc", w, pixels, w, optimize=True)


def test_a_box_at_the_lower_right_edge_is_moved_and_never_reaches_over():
    box = box_of(1, 2, 4.0002, (2988, 2562), (11952 - 1024, 10249 - 1024, 1024, 1024))
    assert box.left + box.width <= 2988 and box.top + box.height <= 2562 and box.width == box.height == 256
    assert box.left % 2 == box.top % 2 == 0
    assert box_of(0, 8, 1.0, (5, 5), (0, 0, 5, 5)).scale == 1, "a slide smaller than the scale is read as it is"
