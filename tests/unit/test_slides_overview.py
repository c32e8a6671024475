"""Reduced pictures: bounded memory, damage that stays where it is, odd levels, and JPEG headers of every kind."""

import struct

import numpy as np
import pytest
import tifffile

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.quality.survey import survey
from deeplrhe_utils.slides.reading import overview
from deeplrhe_utils.slides.reading.pixel_source import PixelSource
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.grid import make_grid
from tests.tiff_slides import damage, tissue_like, write_jpeg_slide

PICTURE = tissue_like(1303, 1103)


def test_levels_that_do_not_divide_are_read_as_they_are_stored(tmp_path):
    """OpenSlide interpolates here, because 1303 / 4 is no whole number; the direct way does not."""
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE, levels=(1, 4), subsampling=(1, 1))
    with tifffile.TiffFile(path) as tiff:
        stored = tiff.pages[1].asarray()
    with Slide(path, mpp=0.25) as slide, Slide(path, mpp=0.25, fast=False) as other:
        strip = slide.read_band(0, 1303, 4.1)
        down = slide.downsamples[1]
        assert strip.step_l0_px == down != 4.0 and not strip.lost.any()
        np.testing.assert_allclose(strip.pixels.astype(int), stored[: len(strip.pixels)], atol=1)  # two decoders
        tile = slide.read_tile(512, 512, 64 * down, 64)
        x, y = (round(512 / down) for _ in range(2))
        np.testing.assert_allclose(tile.astype(int), stored[y : y + 64, x : x + 64], atol=1)
        assert np.abs(tile.astype(int) - other.read_tile(512, 512, 64 * down, 64)).mean() < 3
        assert np.array_equal(slide.read_tile(5, 7, 300, 300), other.read_tile(5, 7, 300, 300))


@pytest.mark.parametrize("fast", [True, False])
def test_parts_make_no_difference_and_bound_what_is_read_at_once(tmp_path, monkeypatch, fast):
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE)
    asked, read = [], PixelSource.read
    monkeypatch.setattr(PixelSource, "read", lambda self, box, band=None: asked.append(box) or read(self, box, band))
    with Slide(path, mpp=0.25, fast=fast) as slide:
        whole = slide.read_band(100, 1000, 8.0)
        assert len(asked) == 1
        monkeypatch.setattr(overview, "_PART_PX", 100_000)
        asked.clear()
        parts = slide.read_band(100, 1000, 8.0)
    assert len(asked) > 8 and max(box.width * box.height for box in asked) <= 100_000
    assert np.array_equal(whole.pixels, parts.pixels) and whole[1:3] == parts[1:3]


def test_damage_of_a_coarse_level_is_filled_from_the_finest(tmp_path):
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE[:1300, :1100], levels=(1, 4))
    with Slide(path, mpp=0.25) as slide:
        good = slide.read_band(0, 1300, 8.0)
    damage(path, 0, 1)
    with Slide(path, mpp=0.25) as slide:
        with pytest.raises(SlideError, match="level 1, native tile at column 0, row 0"):
            slide.read_band(0, 1300, 8.0)
        mended = slide.read_band(0, 1300, 8.0, tolerant=True)
    assert not mended.lost.any()
    assert np.abs(mended.pixels.astype(int) - good.pixels).mean() < 4  # JPEG of another level
    damage(path, 0)
    with Slide(path, mpp=0.25) as slide:
        lost = slide.read_band(0, 1300, 8.0, tolerant=True)
    assert lost.lost[:128, :128].all() and lost.lost.sum() == 128**2  # the coarse tile, of which a part is lost twice
    assert (lost.pixels[lost.lost] == 255).all() and np.array_equal(lost.pixels[~lost.lost], mended.pixels[~lost.lost])


def test_damage_costs_its_own_tiles_and_not_the_context_of_others(tmp_path):
    """A mask that needs 200 µm of context finds the same far from the damage, although the band holds some."""
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE)

    def masks(rgb, mpp):
        dark, reach = rgb.mean(axis=2) < 150, int(200 / mpp)
        rows = [dark[max(y - reach, 0) : y + reach + 1].mean(axis=0) > 0.3 for y in range(len(dark))]
        return {"near": np.array(rows)}

    grid = make_grid(1103, 1303, 0.25, 0.5, 64)
    found = []
    for damaged in (False, True):
        if damaged:
            damage(path, 4)  # the last column of the first row of native tiles
        with Slide(path, mpp=0.25) as slide:
            found.append(survey(slide, grid, masks, context_um=200, survey_mpp=4.0)["near"])
    hit = (grid["x_l0_px"] + grid["size_l0_px"] > 1024) & (grid["y_l0_px"] < 256)
    assert found[1].isna().tolist() == hit.tolist() and not found[0].isna().any()
    left = grid["x_l0_px"] + grid["size_l0_px"] <= 1024
    assert np.array_equal(found[0][left], found[1][left])


def rewritten(path, change):
    """Let `change(stream)` rewrite every native tile; the new streams go to the end of the file."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        tags = {code: page.tags[code].valueoffset for code in (324, 325)}
        sizes = {code: {4: "<I", 3: "<H"}[page.tags[code].dtype] for code in (324, 325)}
    data = bytearray(path.read_bytes())
    for number, (start, count) in enumerate(places):
        stream = change(bytes(data[start : start + count]))
        for code, value in ((324, len(data)), (325, len(stream))):
            struct.pack_into(sizes[code], data, tags[code] + number * struct.calcsize(sizes[code]), value)
        data += stream
    path.write_bytes(data)
    return path


COMMENT = b"\xff\xfe\x00\x06note"
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ADOBE = {k: b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([k]) for k in (0, 1)}


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("before", [
    COMMENT + JFIF, ADOBE[0], COMMENT + ADOBE[1], b"\xff\xff",
], ids=lambda b: repr(b[:12]))  # fmt: skip
def test_markers_of_every_kind_do_not_change_the_colours(tmp_path, rgb, before):
    """What the TIFF says of the colour coding counts, whatever stands in the streams, as in OpenSlide."""
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE, rgb=rgb)
    with Slide(path, mpp=0.25) as slide:
        expected = slide.read_tile(100, 100, 600, 600)
    rewritten(path, lambda stream: stream[:2] + before + stream[2:])
    with Slide(path, mpp=0.25) as ours, Slide(path, mpp=0.25, fast=False) as theirs:
        assert ours.reader == "jpeg"
        assert np.array_equal(ours.read_tile(100, 100, 600, 600), expected)
        assert np.array_equal(theirs.read_tile(100, 100, 600, 600), expected)


def test_a_stream_that_decodes_with_a_warning_is_damaged(tmp_path):
    """Bytes left over before the end are what desynchronised data gives: libjpeg would go on with wrong pixels."""
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE)
    rewritten(path, lambda stream: stream[:-2] + b"\x12\x34\x56" + stream[-2:])
    with Slide(path, mpp=0.25) as slide, pytest.raises(SlideError, match="extraneous bytes"):
        slide.read_tile(0, 0, 64, 64)
