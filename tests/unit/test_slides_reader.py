"""Slides open with the right resolution, and tiles are the pixels they should be."""

import cv2
import numpy as np
import openslide
import pytest
from PIL import Image

from deeplrhe_utils.core.errors import MissingMppError, ParameterError, SlideError
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.synthetic.paint.svs import SvsWriter, aperio_description


def tiny_svs(path, *, mpp=None, power=None, value=120):
    tile = cv2.imencode(".jpg", np.full((256, 256, 3), value, np.uint8))[1].tobytes()
    description = aperio_description(300, 200, quality=90, mpp=mpp, power=power)
    with SvsWriter(path, [(300, 200)], description) as svs:
        svs.put(0, 0, 0, tile)
        svs.put(0, 1, 0, tile)
    return path


def test_a_slide_without_resolution_says_what_is_missing_and_the_way_out(tmp_path):
    with pytest.raises(MissingMppError, match=r"a\.svs has no microns per pixel.*mpp_csv"):
        Slide(tiny_svs(tmp_path / "a.svs"))
    with pytest.raises(SlideError, match="implausible"):
        Slide(tiny_svs(tmp_path / "a.svs"), mpp=350)


@pytest.mark.parametrize(("mode", "unit", "x", "y", "expected"), [
    ("RGB", 3, 20000, 20000, 0.5), ("RGB", 2, 50800, 50800, 0.5), ("RGB", 3, 28.3, 28.3, MissingMppError),
    ("RGB", 3, 20000, 30000, SlideError), ("I;16", 3, 20000, 20000, SlideError),
])  # fmt: skip
def test_plain_tiff_images_have_the_resolution_of_their_tags(tmp_path, mode, unit, x, y, expected):
    path = tmp_path / "field.tif"
    Image.new(mode, (40, 30)).save(path, tiffinfo={296: unit, 282: float(x), 283: float(y)})
    if isinstance(expected, float):
        with Slide(path) as slide:
            assert (slide.mpp, slide.mpp_source, slide.vendor) == (pytest.approx(expected), "tiff-tags", "image")
    else:
        with pytest.raises(expected):
            Slide(path)


def test_a_huge_plain_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("deeplrhe_utils.slides.reading.opening.PLAIN_IMAGE_LIMIT_PX", 1000)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="40 × 30 px, too many"):
        Slide(tmp_path / "a.png", 0.5)


def test_transparent_pixels_become_white_and_paper_densities_are_not_taken_for_a_scanner(tmp_path):
    Image.new("RGBA", (40, 30), (10, 20, 30, 0)).save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png", 0.5) as slide:
        assert (slide.read_tile(0, 0, 30, 10) == 255).all()
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg", dpi=(50800, 50800))
    with pytest.raises(MissingMppError):
        Slide(tmp_path / "photo.jpg")


@pytest.mark.parametrize("objective", [20, 40])
def test_a_tile_is_the_area_average_of_level_0(slide_factory, objective):
    path = slide_factory(objective)
    side = 128 * objective // 20
    with Slide(path) as slide, openslide.OpenSlide(path) as reference:
        tile = slide.read_tile(4, 6, side, 128)
        pixels = np.asarray(reference.read_region((4, 6), 0, (side, side)).convert("RGB"))
    expected = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
    assert tile.shape == (128, 128, 3) and tile.dtype == np.uint8
    if objective == 20:
        np.testing.assert_array_equal(tile, expected)
    else:  # decoded at half size
        assert np.abs(tile.astype(int) - expected).mean() < 0.5


def test_a_coarse_tile_is_read_from_the_coarse_level_at_the_same_place(slide_factory):
    with Slide(slide_factory(20)) as slide:
        coarse = slide.read_tile(0, 0, 256, 64).astype(int)
        fine = cv2.resize(slide.read_tile(0, 0, 256, 256), (64, 64), interpolation=cv2.INTER_AREA)
        shifted = np.roll(fine, 2, axis=1).astype(int)
        assert np.abs(coarse - fine).mean() < 12  # JPEG of two levels
        assert np.abs(coarse - fine).mean() < 0.7 * np.abs(coarse - shifted).mean()
        assert slide.source_mpp(4.0) == 4 * slide.mpp and slide.source_mpp(3.9) == slide.mpp


@pytest.mark.parametrize("place", [(-1, 0, 64), (0, 0, 10_000), (400, 300, 64), (0, 0, 0)])
def test_a_square_outside_the_slide_is_an_error(slide_factory, place):
    with Slide(slide_factory(20)) as slide, pytest.raises(ParameterError, match="outside the slide"):
        slide.read_tile(*place, 32)


def test_a_thumbnail_shows_the_whole_slide_whatever_its_bands(slide_factory, monkeypatch):
    with Slide(slide_factory(20)) as slide:
        whole = slide.thumbnail(90)
        monkeypatch.setattr("deeplrhe_utils.slides.reading.overview._PART_PX", 1500)
        banded = slide.thumbnail(90)
        assert max(whole.shape[:2]) == 90 and slide.thumbnail(100_000).shape[1::-1] == slide.dimensions
    assert np.abs(whole.astype(int) - banded).mean() < 6
