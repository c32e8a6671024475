"""Stored tiles: the pixels that were put in, any of them alone; a sentence where the file is not what it should be."""

import io
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.slides.pixels import read_pixels
from deeplrhe_utils.slides.screening import ScreenRules, screen_slide
from deeplrhe_utils.slides.store import ENCODINGS, JPEG, PNG, Pictures, PictureWriter, decode, encode, pictures_path
from deeplrhe_utils.slides.tiling import TilingRules, tile_slide
from tests.tiff_slides import tissue_like, write_jpeg_slide

MANY = 150  # more than two batches of 64
COLUMNS = {
    "tile_id": pa.string(), "x_l0_px": pa.int64(), "y_l0_px": pa.int64(), "size_l0_px": pa.float64(),
    "image": pa.large_binary(),
}  # fmt: skip


def noise(number, side=20):
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def write(path, pictures, encoding=PNG, about=None):
    with PictureWriter(path, encoding, about) as writer:
        for number, pixels in enumerate(pictures):
            writer.add(f"s_{number}_0", 7 * number, 11, 40.5, pixels)
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return write(folder / "s.arrow", map(noise, range(MANY)), about={"slide_id": "s", "mpp": "0.5", "tile_px": "20"})


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3))))
def test_a_png_is_bit_for_bit_what_was_put_in_whatever_its_shape(pixels):
    found = decode(encode(pixels, PNG), PNG)
    assert found.dtype == np.uint8 and np.array_equal(found, pixels)


def test_a_jpeg_is_within_about_a_grey_level_and_its_colours_are_not_swapped():
    pixels = tissue_like(256, 256)
    found = decode(encode(pixels, JPEG), JPEG)
    assert found.shape == pixels.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - pixels).mean() < 2  # the picture is harder for JPEG than tissue
    colours = np.repeat(np.array([[250, 10, 60], [10, 200, 90]], np.uint8), 32, axis=0)[:, None].repeat(64, 1)
    for encoding, most in ((PNG, 0), (JPEG, 6)):
        assert np.abs(decode(encode(colours, encoding), encoding)[[8, 56]].astype(int) - colours[[8, 56]]).max() <= most


def test_chroma_is_stored_at_full_size():
    with Image.open(io.BytesIO(encode(tissue_like(64, 64), JPEG))) as image:
        assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_views_that_are_not_contiguous_are_stored_as_they_look(encoding):
    whole = tissue_like(96, 96)
    for view in (whole[10:42, 20:60], whole[::2, ::3], whole[::-1], whole.swapaxes(0, 1)):
        assert encode(view, encoding) == encode(np.ascontiguousarray(view), encoding)


def test_any_tile_is_read_alone_and_in_any_order_from_any_batch(many):
    pictures = Pictures(many)
    assert len(pictures) == MANY and pictures.tile_ids == [f"s_{i}_0" for i in range(MANY)]
    assert pictures.encoding == PNG
    order = np.random.default_rng(0).permutation(MANY)
    for number in order[:20]:
        (alone,) = Pictures(many).read([f"s_{number}_0"])
        assert np.array_equal(alone, noise(number))
    together = pictures.read(f"s_{number}_0" for number in order)
    assert all(np.array_equal(tile, noise(number)) for tile, number in zip(together, order, strict=True))
    twice = pictures.read(["s_64_0", "s_63_0", "s_64_0"])  # both sides of the border of two batches
    assert [np.array_equal(tile, noise(n)) for tile, n in zip(twice, (64, 63, 64), strict=True)] == [True] * 3
    assert pictures.read([]) == []


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 129])
def test_every_row_is_kept_at_the_border_of_a_batch(tmp_path, n):
    pictures = Pictures(write(tmp_path / "p.arrow", [noise(i, 4) for i in range(n)]))
    assert pictures.tile_ids == [f"s_{i}_0" for i in range(n)]
    assert all(np.array_equal(p, noise(i, 4)) for i, p in enumerate(pictures.read(pictures.tile_ids)))
    with pa.OSFile(str(pictures.path)) as source:  # what is held in memory while writing is a batch
        file = pa.ipc.open_file(source)
        assert [file.get_batch(i).num_rows for i in range(file.num_record_batches)] == [64] * (n // 64) + [n % 64] * (
            n % 64 > 0
        )


def test_other_programs_open_the_file_and_find_the_documented_columns_and_metadata(many):
    frame = pd.read_feather(many)
    assert list(frame.columns) == list(COLUMNS) and len(frame) == MANY
    assert frame["x_l0_px"].tolist() == [7 * i for i in range(MANY)] and (frame["y_l0_px"] == 11).all()
    assert (frame["size_l0_px"] == 40.5).all() and frame["x_l0_px"].dtype == np.int64
    for number in (0, 100):
        with Image.open(io.BytesIO(frame["image"][number])) as image:
            assert image.format == "PNG" and np.array_equal(np.asarray(image), noise(number))
    schema = pyarrow.feather.read_table(many, memory_map=True).schema
    assert {field.name: field.type for field in schema} == COLUMNS
    assert schema.metadata == {b"encoding": b"png", b"slide_id": b"s", b"mpp": b"0.5", b"tile_px": b"20"}


def test_what_the_caller_says_about_the_file_is_kept_beside_the_true_encoding(tmp_path):
    path = write(tmp_path / "p.arrow", [tissue_like(32, 32)], JPEG, {"slide_id": "Größe 🫁", "note": ""})
    with pa.OSFile(str(path)) as source:
        metadata = pa.ipc.open_file(source).schema.metadata
    assert metadata[b"encoding"] == b"jpeg" and metadata[b"slide_id"].decode() == "Größe 🫁"
    assert Pictures(path).stream("s_0_0")[:2] == b"\xff\xd8"


def test_one_tile_of_a_large_file_is_read_without_loading_the_file(tmp_path):
    tile = noise(0, 180)
    stream_bytes = len(encode(tile, PNG))
    path = tmp_path / "large.arrow"
    with PictureWriter(path, PNG) as writer:
        for number in range(200):
            writer.add(f"t{number}", 0, 0, 1.0, tile)
    size = path.stat().st_size
    assert size > 200 * stream_bytes > 15_000_000
    before = pa.total_allocated_bytes()
    pictures = Pictures(path)
    for name in ("t199", "t3"):
        assert np.array_equal(pictures.read([name])[0], tile)
    assert pa.total_allocated_bytes() - before < 200_000
    with pa.OSFile(str(path)) as source:  # the counter does see a file that is loaded
        loaded = pa.ipc.open_file(source).read_all()
        assert pa.total_allocated_bytes() - before > 0.9 * size
        assert loaded.num_rows == 200


def test_a_tile_that_is_not_in_the_file_is_named_with_the_file_and_the_next_move(many):
    pictures = Pictures(many)
    with pytest.raises(InputError, match=r"s\.arrow hold no tile s_999_0.*notebook 03"):
        pictures.read(["s_0_0", "s_999_0"])
    assert np.array_equal(pictures.read(["s_1_0"])[0], noise(1)), "the file stays usable"


def foreign_text(path, _):
    path.write_text("tile_id,image\na,b\n")


def foreign_feather(path, _):
    pd.DataFrame({"tile_id": ["s_0_0"], "image": [b"x"]}).to_feather(path)


def foreign_parquet(path, _):
    pd.DataFrame({"tile_id": ["s_0_0"], "image": [b"x"]}).to_parquet(path)


def arrow_without_tiles(path, _):
    table = pa.table({"tile": ["s_0_0"]}).replace_schema_metadata({"encoding": "png"})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def missing(path, _):
    assert not path.exists()


def a_folder(path, _):
    path.mkdir()


def empty(path, _):
    path.touch()


def zeros(path, whole):
    path.write_bytes(bytes(len(whole)))


def head_lost(path, whole):
    path.write_bytes(whole[100:])


@pytest.mark.parametrize("make", [
    foreign_text, foreign_feather, foreign_parquet, arrow_without_tiles, missing, a_folder, empty, zeros, head_lost,
])  # fmt: skip
def test_a_file_that_is_no_such_table_is_named_with_the_next_move(tmp_path, many, make):
    path = tmp_path / "other.arrow"
    make(path, many.read_bytes())
    with pytest.raises(InputError, match=r"other\.arrow cannot be read \(.+\)\. Run notebook 03 again\."):
        Pictures(path)


def test_a_file_cut_anywhere_is_refused(tmp_path, many):
    whole = many.read_bytes()
    path = tmp_path / "cut.arrow"
    lengths = {1, 5, 8, 9, len(whole) - 1, len(whole) - 7, len(whole) - 11}
    lengths |= {int(share * len(whole)) for share in np.linspace(0.01, 0.999, 40)}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.arrow.*notebook 03"):
            Pictures(path)


def test_an_unknown_encoding_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ParameterError, match=r"webp.*png or jpeg"):
        PictureWriter(tmp_path / "folder" / "p.arrow", "webp")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt(), InputError("stop")], ids=repr)
@pytest.mark.parametrize("added", [0, 3, 70])  # before, within and after the first batch
def test_nothing_lies_under_the_final_name_when_the_block_raises(tmp_path, error, added):
    def fail(path):
        with PictureWriter(path, PNG) as writer:
            for number in range(added):
                writer.add(f"t{number}", 0, 0, 1.0, noise(number, 4))
            assert not path.exists() or path.stat().st_size == size_before
            raise error

    size_before = -1
    with pytest.raises(type(error)) as told:
        fail(tmp_path / "p.arrow")
    assert told.value is error and not list(tmp_path.iterdir())
    complete = write(tmp_path / "p.arrow", [noise(9)])
    size_before, bytes_before = complete.stat().st_size, complete.read_bytes()
    with pytest.raises(type(error)):
        fail(complete)
    assert complete.read_bytes() == bytes_before, "the file of the run before is still whole"
    assert [p.name for p in tmp_path.iterdir()] == ["p.arrow"]


def test_a_picture_that_cannot_be_encoded_costs_the_file_and_not_the_program(tmp_path):
    with pytest.raises(Exception), PictureWriter(tmp_path / "p.arrow", PNG) as writer:  # noqa: B017
        writer.add("t0", 0, 0, 1.0, noise(0))
        writer.add("t1", 0, 0, 1.0, np.zeros((0, 0, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=0, max_size=200), st.text(min_size=0, max_size=200))
def test_every_slide_name_gives_a_plain_file_name_of_its_own(tmp_path_factory, one, other):
    folder = tmp_path_factory.getbasetemp()
    path = pictures_path(folder, one)
    assert path.parent == folder and path.name.isascii() and path.suffix == ".arrow"
    assert len(path.name) < 200 and not path.name.startswith(".") and not set(path.name) & set('/\\:*?"<>| \n\0')
    assert one == other or path != pictures_path(folder, other)


@pytest.mark.parametrize("name", ["Größe µm", "🫁", "../../etc/passwd", "a/b", "two\nlines", "..", "x" * 300, "肺-1"])
def test_tiles_of_oddly_named_slides_are_found_again(tmp_path, name):
    path = pictures_path(tmp_path, name)
    with PictureWriter(path, PNG, {"slide_id": name}) as writer:
        writer.add(f"{name}_0_0", 0, 0, 1.0, noise(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert np.array_equal(Pictures(path).read([f"{name}_0_0"])[0], noise(3))


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    """A slide with fractional tile sides, its screened tiles, and their pixels in both encodings."""
    folder = tmp_path_factory.mktemp("slide")
    path = write_jpeg_slide(folder / "Größe 1.svs", tissue_like(1024, 1300))
    row = {"slide_id": path.stem, "patient_id": "p", "path": str(path), "mpp": 0.2527, "annotation": None}
    candidates = tile_slide(row, TilingRules(tile_px=96))
    for encoding in ENCODINGS:
        tiles = screen_slide(
            row, candidates, ScreenRules(tile_px=96), pictures_dir=folder / encoding, encoding=encoding
        )
    return row, tiles[tiles["kept"]], folder


def test_kept_pixels_are_what_reading_the_slide_gives(screened):
    row, tiles, folder = screened
    mixed = tiles.sample(frac=1, random_state=2)
    assert len(mixed) > 10
    from_slide = read_pixels(row, mixed, 96)
    stored = read_pixels(row, mixed, 96, pictures_dir=folder / PNG)
    assert all(np.array_equal(a, b) for a, b in zip(stored, from_slide, strict=True))
    assert not np.array_equal(stored[0], stored[1])
    lossy = read_pixels(row, mixed, 96, pictures_dir=folder / JPEG)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(lossy, from_slide, strict=True)) < 2.5
    sizes = [pictures_path(folder / encoding, row["slide_id"]).stat().st_size for encoding in (JPEG, PNG)]
    assert sizes[0] < sizes[1]


def test_kept_pixels_are_read_although_the_slide_has_gone(screened):
    row, tiles, folder = screened
    gone = {**row, "path": "/nowhere/slide.svs"}
    (tile,) = read_pixels(gone, tiles.iloc[[4]], 96, pictures_dir=folder / PNG)
    assert np.array_equal(tile, read_pixels(row, tiles.iloc[[4]], 96)[0])
    with pytest.raises(InputError, match=r"cannot be read.*notebook 03"):
        read_pixels({**row, "slide_id": "other"}, tiles, 96, pictures_dir=folder / PNG)


def test_the_file_tells_the_slide_the_side_and_the_resolution(screened):
    row, tiles, folder = screened
    path = pictures_path(folder / PNG, row["slide_id"])
    with pa.OSFile(str(path)) as source:
        metadata = pa.ipc.open_file(source).schema.metadata
    assert metadata == {b"encoding": b"png", b"slide_id": "Größe 1".encode(), b"tile_px": b"96", b"mpp": b"0.5"}
    frame = pd.read_feather(path)
    for column in ("tile_id", "x_l0_px", "y_l0_px", "size_l0_px"):
        assert frame[column].tolist() == tiles[column].tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_damaged_image_in_the_file_is_an_input_error_that_names_the_file(tmp_path, encoding):
    path = write(tmp_path / "p.arrow", [tissue_like(64, 64)], encoding)
    data, stream = path.read_bytes(), Pictures(path).stream("s_0_0")
    half = len(stream) // 2
    path.write_bytes(data.replace(stream, stream[:half] + bytes(len(stream) - half)))
    with pytest.raises(InputError, match=r"p\.arrow.*notebook 03"):
        Pictures(path).read(["s_0_0"])


@pytest.mark.parametrize("columns", [{"tile_id": ["s_0_0"]}, {"tile_id": ["s_0_0"], "image": pa.nulls(1, pa.binary())}])
def test_a_table_without_images_is_an_input_error(tmp_path, columns):
    table = pa.table(columns).replace_schema_metadata({"encoding": "png"})
    with pa.OSFile(str(tmp_path / "p.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"p\.arrow.*notebook 03"):
        Pictures(tmp_path / "p.arrow").read(["s_0_0"])


def test_a_damaged_index_of_names_does_not_kill_the_program(tmp_path):
    path = write(tmp_path / "p.arrow", [noise(n) for n in range(3)])
    offsets = struct.pack("<4i", 0, 5, 10, 15)  # where each tile's name begins
    data = path.read_bytes()
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<4i", 0, 5, -2_000_000_000, 15)))
    code = (
        "import sys; from pathlib import Path; from deeplrhe_utils.core.errors import InputError\n"
        "from deeplrhe_utils.slides.store import Pictures\n"
        "try: Pictures(Path(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=100)
    assert told.returncode == 0 and "p.arrow cannot be read" in told.stdout  # now: a signal ends the program
