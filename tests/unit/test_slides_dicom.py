"""DICOM slides as the Imaging Data Commons converts them: colours of JPEG 2000, and files that are TIFF as well."""

import io
import struct

import numpy as np
import openslide
import pytest
from PIL import Image

import tests.dicom_slides as dicom_slides
from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding.jpeg_stream import stream_prefix
from deeplrhe_utils.slides.decoding.tiff_index import read_tiled_directories
from deeplrhe_utils.slides.reading.dicom import dual_levels, hides_ycbcr
from deeplrhe_utils.slides.reading.reader import Slide
from tests.dicom_slides import write_series
from tests.tiff_slides import tissue_like

SIDE = 300
JFIF = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]


@pytest.fixture(scope="module")
def picture():
    """Two tiles by two, with edges that are no whole tiles."""
    return tissue_like(480, 500, 3)


def without_transform(tile, *_):
    """A lossless codestream of YCbCr without a colour transform, as it lies in Aperio's files (33003)."""
    out = io.BytesIO()
    ycc = np.rint(tile @ np.transpose(JFIF) + (0, 128, 128)).clip(0, 255).astype(np.uint8)
    Image.fromarray(ycc).save(out, "JPEG2000", no_jp2=True, irreversible=False, mct=0)
    return out.getvalue() + (b"\0" if out.tell() % 2 else b"")


def shown(path):
    with Slide(path) as slide:
        return slide.read_tile(90, 70, SIDE, SIDE).astype(int), slide.reader


@pytest.mark.parametrize(("form", "photometric", "most"), [
    ("raw", "RGB", 0), ("lossless", "RGB", 0), ("lossless", "YBR_RCT", 0), ("j2k", "YBR_ICT", 6), ("j2k", "RGB", 6),
])  # fmt: skip
def test_jpeg_2000_that_says_its_transform_has_the_colours_of_the_picture(tmp_path, picture, form, photometric, most):
    first, *_ = write_series(tmp_path, picture, ["a.dcm", "b.dcm"], form=form, photometric=photometric)
    pixels, reader = shown(first)
    assert np.abs(pixels - picture[70 : 70 + SIDE, 90 : 90 + SIDE]).max() <= most
    assert "YCbCr" not in reader and not hides_ycbcr(first)


def test_ycbcr_that_jpeg_2000_does_not_confess_is_shown_in_the_colours_of_the_picture(tmp_path, picture, monkeypatch):
    """OpenSlide 4.0.1 shows the stored numbers as RGB (openslide#772), tens of grey levels off."""
    monkeypatch.setattr(dicom_slides, "encoded", without_transform)
    first, second = write_series(tmp_path, picture, ["a.dcm", "b.dcm"], form="j2k", photometric="YBR_ICT")
    truth = picture[70 : 70 + SIDE, 90 : 90 + SIDE].astype(int)
    pixels, reader = shown(first)
    assert hides_ycbcr(first) and reader == "openslide (format dicom, YCbCr converted)"
    assert np.abs(pixels - truth).max() <= 1 and np.abs((pixels - truth).mean((0, 1))).max() < 0.1
    with openslide.OpenSlide(str(first)) as handle:
        bare = np.asarray(handle.read_region((90, 70), 0, (SIDE, SIDE)))[..., :3].astype(int)
    assert np.abs(bare - truth).mean() > 20
    with Slide(first) as slide:  # the glass beyond the picture, a coarser level, the overview
        assert slide.downsamples == (1.0, 2.0)
        assert np.abs(slide.thumbnail(250).astype(int).mean((0, 1)) - picture.mean((0, 1))).max() < 2
    monkeypatch.undo()
    data, _ = dicom_slides.dicom_bytes(np.asarray(Image.fromarray(picture).reduce(2)), form="j2k", number=2, mpp=1.0,
                                       photometric="YBR_ICT", resampled=True)  # fmt: skip
    second.write_bytes(data)
    with pytest.raises(SlideError, match="Some levels"):
        Slide(first)


def wrapped(source, place, photometric, dual=False):
    """The tiles of a real slide's level 0 in DICOM, byte by byte, as the Imaging Data Commons' converter does it."""
    with source.open("rb") as stream:
        directory = read_tiled_directories(stream.fileno())[0]
        read = [(stream.seek(int(at)), stream.read(int(size)))[1]
                for at, size in zip(directory.offsets, directory.counts, strict=True)]  # fmt: skip
    prefix = stream_prefix(directory) if directory.compression == 7 else b""
    joined = [prefix + data[2:] if prefix else data for data in read]
    frames = [data + b"\0" * (len(data) % 2) for data in joined]
    empty = np.broadcast_to(np.uint8(0), (directory.height, directory.width, 3))
    data, places = dicom_slides.dicom_bytes(
        empty, form="jpeg" if prefix else "j2k", photometric=photometric, frames=frames, tile=directory.tile_width
    )
    size = (directory.width, directory.height, directory.tile_width)
    place.write_bytes(dicom_slides.as_tiff_too(data, places, *size) if dual else data)
    return place


def compared(first, second, side=512):
    """Largest difference of two slides in three places."""
    with first, second:
        assert first.dimensions == second.dimensions
        width, height = first.dimensions
        places = [(0, 0), ((width - side) // 2, (height - side) // 2), (width - side, height - side)]
        return max(np.abs(first.read_tile(*at, side, side).astype(int) - second.read_tile(*at, side, side)).max()
                   for at in places)  # fmt: skip


def test_a_real_slide_of_jpeg_2000_has_its_colours_as_dicom_too(tmp_path, shared_data):
    """Aperio's 33003, whose chroma is subsampled: the case of openslide#772."""
    source = shared_data / "slides" / "luna_1065626.svs"
    path = wrapped(source, tmp_path / "a.dcm", "YBR_ICT")
    assert hides_ycbcr(path) and compared(Slide(source, 0.5, fast=False), Slide(path)) <= 1


def test_a_real_slide_of_jpeg_is_read_through_its_tiff_face(tmp_path, shared_data):
    source = shared_data / "slides" / "CMU-1-Small-Region.svs"
    path = wrapped(source, tmp_path / "a.dcm", "RGB", dual=True)
    assert Slide(path).reader == "jpeg" and compared(Slide(source), Slide(path)) == 0
    assert compared(Slide(path, fast=False), Slide(path)) == 0


def test_a_damaged_codestream_or_header_says_nothing_of_colours(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(dicom_slides, "encoded", without_transform)
    (path,) = write_series(tmp_path, picture, ["a.dcm"], form="j2k", photometric="YBR_ICT")
    whole = path.read_bytes()
    pixels = whole.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    for size in (60, 140, 400, pixels + 2, pixels + 8, pixels + 14, pixels + 24, pixels + 30):
        path.write_bytes(whole[:size])
        assert not hides_ycbcr(path)
    random = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(whole)
        for at in random.integers(0, pixels + 120, 3):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        assert hides_ycbcr(path) in (True, False)
    assert not hides_ycbcr(tmp_path / "nowhere.dcm")


def test_dual_files_are_read_through_their_tiff_face_to_the_same_pixels(tmp_path, picture):
    first, second = write_series(tmp_path / "dual", picture, ["a.dcm", "b.dcm"], dual=True)
    (alone,) = write_series(tmp_path / "alone", picture, ["a.dcm"])
    assert dual_levels(first) == [first, second] and not dual_levels(alone)
    with Slide(first) as fast, Slide(first, fast=False) as slow:
        assert fast.reader == "jpeg" and slow.reader == "openslide (asked for)" and fast.downsamples == (1.0, 2.0)
        for size in (SIDE, 4 * 64, 2 * 200):
            direct, other = (slide.read_tile(16, 32, size, size // 2).astype(int) for slide in (fast, slow))
            assert np.abs(direct - other).mean() < 0.5
        assert (fast.read_tile(90, 70, SIDE, SIDE) == slow.read_tile(90, 70, SIDE, SIDE)).all()
    assert shown(alone)[1] == "openslide (format dicom)"


def test_a_dual_file_whose_faces_differ_is_left_to_openslide(tmp_path, picture):
    first, second = write_series(tmp_path, picture, ["a.dcm", "b.dcm"], dual=True)
    whole = first.read_bytes()
    table = struct.pack("<HHI", 324, 4, 4)
    at = struct.unpack_from("<I", whole, whole.index(table) + 8)[0]
    places = struct.unpack_from("<4I", whole, at)
    first.write_bytes(whole[:at] + struct.pack("<4I", *places[::-1]) + whole[at + 16 :])
    pixels, reader = shown(first)
    assert reader.startswith("openslide (TIFF and DICOM")
    assert np.abs(pixels - picture[70 : 70 + SIDE, 90 : 90 + SIDE]).mean() < 3
    first.write_bytes(b"II*\0" + b"\xff" * 4 + whole[8:])
    assert shown(first)[1].startswith("openslide (its index:")
    first.write_bytes(whole[:8] + whole[8:])
    second.write_bytes(bytes(8) + second.read_bytes()[8:])  # one level of two is DICOM alone
    assert shown(first)[1] == "openslide (format dicom)"
