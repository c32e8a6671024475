"""Tile indexes of TIFF files: what tifffile finds, in every layout; and a sentence for everything else."""

import os
import struct

import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deeplrhe_utils.slides.decoding import tiff_index
from deeplrhe_utils.slides.decoding.tiff_index import TiffIndexError, read_tiled_directories
from deeplrhe_utils.slides.reading.reader import Slide
from tests.tiff_slides import tissue_like, write_jpeg_slide

PICTURE = tissue_like(530, 410)  # no multiple of a tile
KINDS = [(big, order) for big in (False, True) for order in "<>"]


def index_of(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_tiled_directories(descriptor)
    finally:
        os.close(descriptor)


def index_of_bytes(path, data):
    path.write_bytes(data)
    return index_of(path)


@pytest.mark.parametrize(("bigtiff", "byteorder"), KINDS)
@pytest.mark.parametrize(("levels", "tile"), [((1,), 256), ((1, 2, 4), 112)])
def test_the_index_is_the_one_that_tifffile_reads(tmp_path, bigtiff, byteorder, levels, tile):
    path = write_jpeg_slide(
        tmp_path / "a.svs", PICTURE, bigtiff=bigtiff, byteorder=byteorder, levels=levels, tile=tile, missing=(1,)
    )
    found = index_of(path)
    with tifffile.TiffFile(path) as reference:
        assert reference.byteorder == byteorder and reference.is_bigtiff == bigtiff
        pages = list(reference.pages)
        assert len(found) == len(pages) == len(levels)
        for one, page in zip(found, pages, strict=True):
            assert (one.width, one.height) == (page.imagewidth, page.imagelength)
            assert (one.tile_width, one.tile_height) == (page.tilewidth, page.tilelength) == (tile, tile)
            assert (one.compression, one.photometric) == (page.compression, page.photometric) == (7, 6)
            assert one.offsets.dtype == one.counts.dtype == np.uint64
            assert one.offsets.tolist() == list(page.dataoffsets) and one.counts.tolist() == list(page.databytecounts)
            assert one.columns * one.rows == len(one.offsets) and one.eight_bit_rgb
            assert one.jpeg_tables == b"", "each tile carries its own"
        assert found[0].counts[1] == 0 and found[0].counts[0] > 0
        # And these are the bytes of the tiles.
        start, count = int(found[0].offsets[0]), int(found[0].counts[0])
        assert path.read_bytes()[start : start + 2] == b"\xff\xd8" and start + count <= path.stat().st_size


def segments(stream):
    """The tables of a JPEG stream and all else before the scan; and the rest."""
    tables, others, start = b"", b"", 2
    while stream[start + 1] != 0xDA:
        end = start + 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
        if stream[start + 1] in (0xDB, 0xC4):
            tables += stream[start:end]
        elif not 0xE0 <= stream[start + 1] <= 0xEF:
            others += stream[start:end]
        start = end
    return tables, others + stream[start:]


def write_abbreviated(path, pixels, bigtiff=False, byteorder="<"):
    """A TIFF whose tiles share the tables of their directory, as scanners write them."""
    streams = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[y : y + 128, x : x + 128]), 80, colorsubsampling="420")
        for y in range(0, pixels.shape[0], 128) for x in range(0, pixels.shape[1], 128)
    ]  # fmt: skip
    parts = [segments(stream) for stream in streams]
    assert len({tables for tables, _ in parts}) == 1
    shared = b"\xff\xd8" + parts[0][0] + b"\xff\xd9"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(
            iter([b"\xff\xd8" + rest for _, rest in parts]), shape=pixels.shape, dtype=np.uint8, tile=(128, 128),
            photometric="ycbcr", subsampling=(2, 2), compression="jpeg", metadata=None,
            extratags=[(347, 7, len(shared), shared, True)],
        )  # fmt: skip
    return path, shared


@pytest.mark.parametrize(("bigtiff", "byteorder"), KINDS)
def test_shared_tables_are_found_and_tiles_are_decoded_with_them(tmp_path, bigtiff, byteorder):
    pixels = tissue_like(256, 384)
    path, shared = write_abbreviated(tmp_path / "a.tif", pixels, bigtiff, byteorder)
    (one,) = index_of(path)
    with tifffile.TiffFile(path) as reference:
        assert one.jpeg_tables == reference.pages[0].jpegtables == shared
        assert one.offsets.tolist() == list(reference.pages[0].dataoffsets)
    with Slide(path, mpp=0.25) as ours, Slide(path, mpp=0.25, fast=False) as theirs:
        # OpenSlide 4.0 takes no classic TIFF of that byte order for a slide: Pillow reads it then.
        assert ours.reader == ("openslide (format image)" if (bigtiff, byteorder) == (False, ">") else "jpeg")
        assert np.array_equal(ours.read_tile(0, 0, 256, 256), theirs.read_tile(0, 0, 256, 256))
        assert np.abs(ours.read_tile(128, 0, 256, 256).astype(int) - pixels[:, 128:]).mean() < 6


@pytest.mark.parametrize(("bigtiff", "byteorder"), KINDS)
def test_a_single_tile_and_small_numbers_lie_inside_the_entry_itself(tmp_path, bigtiff, byteorder):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(PICTURE[:60, :50], tile=(64, 64), photometric="rgb", compression="deflate")
    (one,) = index_of(path)
    with tifffile.TiffFile(path) as reference:
        page = reference.pages[0]
        assert (one.offsets.tolist(), one.counts.tolist()) == (list(page.dataoffsets), list(page.databytecounts))
        assert (one.compression, one.photometric) == (page.compression, page.photometric)
    assert (one.columns, one.rows, one.jpeg_tables) == (1, 1, b"") and one.compression != tiff_index.JPEG


@pytest.mark.parametrize(("pixels", "options", "rgb"), [
    (PICTURE, {"photometric": "rgb"}, True),
    (PICTURE[..., 0], {"photometric": "minisblack"}, False),
    (PICTURE.astype(np.uint16), {"photometric": "rgb"}, False),
    (np.dstack([PICTURE, PICTURE[..., :1]]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, False),
    (np.moveaxis(PICTURE, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, False),
])  # fmt: skip
@pytest.mark.parametrize("byteorder", "<>")
def test_only_three_bytes_stored_together_are_eight_bit_rgb(tmp_path, pixels, options, rgb, byteorder):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, tile=(128, 128), byteorder=byteorder, metadata=None, **options)
    (one,) = index_of(path)
    with tifffile.TiffFile(path) as reference:
        page = reference.pages[0]
        assert one.offsets.tolist() == list(page.dataoffsets) and one.counts.tolist() == list(page.databytecounts)
    assert one.eight_bit_rgb == rgb and (one.columns, one.rows) == (4, 5)
    assert len(one.offsets) == 20 * (3 if "planarconfig" in options else 1)


def test_directories_without_tiles_are_passed_over(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(PICTURE[:40, :40], photometric="rgb", metadata=None)  # strips
        writer.write(PICTURE, tile=(256, 256), photometric="rgb", metadata=None)
        writer.write(PICTURE[:30, :30], photometric="rgb", metadata=None)
    (one,) = index_of(path)
    assert (one.width, one.height) == (410, 530)
    tifffile.imwrite(path, PICTURE, photometric="rgb")
    assert index_of(path) == []


def test_the_position_of_the_file_is_neither_used_nor_changed(tmp_path):
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE)
    expected = index_of(path)
    with open(path, "rb") as stream:
        stream.seek(1234)
        found = read_tiled_directories(stream.fileno())
        assert stream.tell() == 1234
    assert found[0].offsets.tolist() == expected[0].offsets.tolist()


def test_a_pipe_or_a_closed_file_is_an_error_and_not_a_crash(tmp_path):
    read, write = os.pipe()
    with pytest.raises((OSError, TiffIndexError)):
        read_tiled_directories(read)
    os.close(read)
    os.close(write)
    with pytest.raises(OSError):
        read_tiled_directories(read)


@pytest.mark.parametrize("data", [
    b"", b"I", b"II", b"II*\0", b"II*\0\0\0\0", b"MM\0+\0\x08\0\0", b"II+\0\x08\0\0\0", b"II*\x01\x08\0\0\0",
    b"IM*\0\x08\0\0\0", b"II\0*\x08\0\0\0", b"\x89PNG\r\n\x1a\n" + bytes(20), b"\0" * 100,
])  # fmt: skip
def test_what_is_no_tiff_is_called_so(tmp_path, data):
    with pytest.raises(TiffIndexError, match="no TIFF header"):
        index_of_bytes(tmp_path / "a.tif", data)


def test_a_tiff_without_any_directory_has_none_and_far_offsets_are_kept_whole(tmp_path):
    for data in (b"II*\0\0\0\0\0", b"MM\0*\0\0\0\0", b"II+\0\x08\0\0\0" + bytes(8)):
        assert index_of_bytes(tmp_path / "a.tif", data) == []
    far = [2**32 + 5, 2**40, 2**63, 2**64 - 1, 0, 1]
    (one,) = index_of_bytes(tmp_path / "a.tif", handmade(big=True, t324=("Q", far)))
    assert one.offsets.tolist() == far


TYPES = {"H": 3, "I": 4, "Q": 16}


def handmade(order="<", big=False, tables=b"", **changes):
    """A TIFF of one directory of 300 × 200 px in 128 px tiles, tags as changed; {tag: (code, values)}."""
    tags = {
        256: ("H", [300]), 257: ("H", [200]), 258: ("H", [8, 8, 8]), 259: ("H", [7]), 262: ("H", [6]), 277: ("H", [3]),
        284: ("H", [1]), 322: ("H", [128]), 323: ("H", [128]), 324: ("I", [1000 + i for i in range(6)]),
        325: ("H", [1] * 6),
    }  # fmt: skip
    tags |= {int(tag[1:]): value for tag, value in changes.items()}
    word, count_code, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    start = 16 if big else 8
    entries, extra = b"", b""
    after = start + struct.calcsize(order + count_code) + len(tags) * (20 if big else 12) + size
    for tag, (code, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(data) > size:
            place = after + len(extra)
            extra, data = extra + data, struct.pack(order + word, place)
        entries += struct.pack(f"{order}HH{word}", tag, TYPES[code], len(values)) + data.ljust(size, b"\0")
    mark = {"<": b"II", ">": b"MM"}[order]
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    return head + struct.pack(order + count_code, len(tags)) + entries + bytes(size) + extra


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("code", "HIQ")
def test_offsets_and_counts_of_every_width_of_number_are_read(tmp_path, order, big, code):
    data = handmade(order, big, t324=(code, [9, 8, 7, 6, 5, 65535]), t325=(code, [1, 2, 3, 4, 5, 0]))
    (one,) = index_of_bytes(tmp_path / "a.tif", data)
    assert one.offsets.tolist() == [9, 8, 7, 6, 5, 65535] and one.counts.tolist() == [1, 2, 3, 4, 5, 0]
    assert (one.width, one.height, one.columns, one.rows) == (300, 200, 3, 2)
    assert (one.compression, one.photometric, one.eight_bit_rgb) == (7, 6, True)


@pytest.mark.parametrize(("changes", "says"), [
    ({"t322": ("H", [0])}, "tiles of 0 × 128 px"), ({"t256": ("H", [0])}, "0 × 200 px"),
    ({"t322": ("I", [4097])}, "tiles of 4097 × 128"), ({"t323": ("I", [2**32 - 1])}, "tiles of 128 × 4294967295"),
    ({"t256": ("I", [2**31]), "t257": ("I", [2**31])}, "tiles"),
    ({"t324": ("I", [1] * 5)}, "5 offsets and 6 sizes for 6 tiles"),
    ({"t325": ("I", [1] * 5)}, "6 offsets and 5 sizes for 6 tiles"),
    ({"t324": ("I", [1] * 7)}, "tag 324 claims 7 values of type 4, at most 6"),
    ({"t325": ("I", [1] * 7)}, "tag 325 claims 7 values"), ({"t258": ("H", [8] * 17)}, "tag 258 claims 17 values"),
    ({"t277": ("H", [0]), "t284": ("H", [2])}, "0 tiles"),
    ({"t277": ("H", [3]), "t284": ("H", [2])}, "at most 18|6 offsets and 6 sizes for 18 tiles"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("big", [False, True])
def test_numbers_that_contradict_each_other_are_refused_with_the_numbers(tmp_path, changes, says, big):
    with pytest.raises(TiffIndexError, match=says):
        index_of_bytes(tmp_path / "a.tif", handmade(big=big, **changes))


def test_a_directory_whose_size_or_sizes_are_missing_is_refused(tmp_path):
    renamed = handmade().replace(struct.pack("<H", 325) + b"\x03\0", struct.pack("<H", 326) + b"\x03\0")
    with pytest.raises(TiffIndexError, match="6 offsets and 0 sizes"):
        index_of_bytes(tmp_path / "a.tif", renamed)
    wide = handmade().replace(struct.pack("<HH", 256, 3), struct.pack("<HH", 255, 3))
    with pytest.raises(TiffIndexError, match="0 × 200 px"):
        index_of_bytes(tmp_path / "a.tif", wide)
    typed = handmade().replace(struct.pack("<HH", 322, 3), struct.pack("<HH", 322, 2))  # text
    with pytest.raises(TiffIndexError, match="tag 322 claims 1 values of type 2"):
        index_of_bytes(tmp_path / "a.tif", typed)


@pytest.mark.parametrize(("limit", "value", "says"), [
    ("MAX_TILES", 5, "6 tiles"), ("MAX_TAGS", 10, "claims 11 tags"), ("MAX_TILE_SIDE_PX", 127, "128 × 128 px"),
])  # fmt: skip
def test_each_limit_holds_and_the_limit_itself_is_allowed(tmp_path, monkeypatch, limit, value, says):
    monkeypatch.setattr(tiff_index, limit, value)
    with pytest.raises(TiffIndexError, match=says):
        index_of_bytes(tmp_path / "a.tif", handmade())
    monkeypatch.setattr(tiff_index, limit, value + 1)
    assert len(index_of_bytes(tmp_path / "a.tif", handmade())) == 1


def test_tables_of_jpeg_are_limited(tmp_path, monkeypatch):
    path, shared = write_abbreviated(tmp_path / "a.tif", tissue_like(128, 256))
    (one,) = index_of(path)
    monkeypatch.setattr(tiff_index, "MAX_JPEG_TABLES", len(one.jpeg_tables))
    assert index_of(path)[0].jpeg_tables == one.jpeg_tables == shared
    monkeypatch.setattr(tiff_index, "MAX_JPEG_TABLES", len(one.jpeg_tables) - 1)
    with pytest.raises(TiffIndexError, match="tag 347 claims"):
        index_of(path)


def chain(directories):
    """A TIFF of that many empty directories, one after the other."""
    data = b"II*\0\x08\0\0\0"
    for number in range(1, directories + 1):
        following = 8 + 6 * number if number < directories else 0
        data += struct.pack("<HI", 0, following)
    return data


def test_a_long_chain_of_directories_is_followed_up_to_the_limit_and_no_further(tmp_path):
    assert index_of_bytes(tmp_path / "a.tif", chain(tiff_index.MAX_DIRECTORIES)) == []
    with pytest.raises(TiffIndexError, match="more than 512 directories"):
        index_of_bytes(tmp_path / "a.tif", chain(tiff_index.MAX_DIRECTORIES + 1))
    looped = chain(5)[:-4] + struct.pack("<I", 8 + 6 * 2)
    with pytest.raises(TiffIndexError, match="byte 20 follows itself"):
        index_of_bytes(tmp_path / "a.tif", looped)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Valid files of all four layouts, small enough to be damaged everywhere."""
    folder = tmp_path_factory.mktemp("tiff")
    return folder, [
        write_jpeg_slide(
            folder / "good.svs", tissue_like(64, 48), bigtiff=big, byteorder=order, levels=(1, 2), tile=16
        ).read_bytes()
        for big, order in KINDS
    ]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_gives_its_index_or_a_sentence(files, data):
    folder, whole = files[0], data.draw(st.sampled_from(files[1]))
    length = data.draw(st.integers(0, len(whole) - 1))
    try:
        found = index_of_bytes(folder / "cut.tif", whole[:length])
    except TiffIndexError:
        return
    expected = index_of_bytes(folder / "whole.tif", whole)
    assert [one.offsets.tolist() for one in found] == [one.offsets.tolist() for one in expected]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_file_changed_anywhere_gives_an_index_that_agrees_with_itself_or_a_sentence(files, data):
    folder, whole = files[0], bytearray(data.draw(st.sampled_from(files[1])))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    check_self_consistent(folder / "changed.tif", bytes(whole))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"]), st.binary(max_size=300))
@example(b"II*\0", b"\xff" * 300)
@example(b"II+\0\x08\0\0\0", b"\xff" * 300)
def test_rubbish_behind_a_header_gives_a_sentence(tmp_path_factory, head, rest):
    check_self_consistent(tmp_path_factory.getbasetemp() / "rubbish.tif", head + rest)


def check_self_consistent(path, data):
    try:
        found = index_of_bytes(path, data)
    except TiffIndexError as error:
        assert str(error)
        return
    for one in found:
        assert len(one.offsets) == len(one.counts) > 0 and len(one.offsets) % (one.columns * one.rows) == 0
        assert 1 <= min(one.tile_width, one.tile_height) <= max(one.tile_width, one.tile_height) <= 4096
        assert len(one.jpeg_tables) <= len(data)
