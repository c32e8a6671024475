"""What the SVS writer writes, two independent readers (OpenSlide, tiffslide) read alike."""

from itertools import product

import cv2
import numpy as np
import openslide
import pytest
from tiffslide import TiffSlide

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.synthetic.paint import svs
from deeplrhe_utils.synthetic.paint.svs import HEADER_BYTES, TILE_SIZE_PX, SvsWriter, aperio_description, tile_grid

SIZES = [(1000, 700), (500, 350), (250, 175)]
DESCRIPTION = aperio_description(*SIZES[0], quality=90, mpp=0.2527, power=40)


def picture(width, height, seed=0):
    """Smooth colours without any symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def tiles(level, image):
    """(level, column, row, JPEG) of every tile."""
    columns, rows = tile_grid(image.shape[1], image.shape[0])
    bottom, right = rows * TILE_SIZE_PX - image.shape[0], columns * TILE_SIZE_PX - image.shape[1]
    padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    for row, column in product(range(rows), range(columns)):
        y, x = row * TILE_SIZE_PX, column * TILE_SIZE_PX
        bgr = padded[y : y + TILE_SIZE_PX, x : x + TILE_SIZE_PX, ::-1]
        yield level, column, row, cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


LEVELS = [picture(*size, seed) for seed, size in enumerate(SIZES)]  # other pixels on every level
TILES = [tile for level, image in enumerate(LEVELS) for tile in tiles(level, image)]
ASSOCIATED = {"label": picture(387, 463, 7), "macro": picture(641, 301, 8), "thumbnail": picture(512, 358, 9)}


def write(path, *, calls=TILES, description=DESCRIPTION, associated=ASSOCIATED, sizes=SIZES, **options):
    with SvsWriter(path, sizes, description, **options) as writer:
        for name, image in associated.items():
            writer.add_image(name, image)
        for call in calls:
            writer.put(*call)
    return path


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("svs") / "a.svs", mpp=0.2527)


def region(slide, location, level, size):
    return np.asarray(slide.read_region(location, level, size).convert("RGB")).astype(int)


def whole_levels(path):
    with openslide.OpenSlide(path) as slide:
        return [region(slide, (0, 0), level, size) for level, size in enumerate(slide.level_dimensions)]


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - b).mean()


def test_every_level_holds_its_own_pixels_with_properties_of_an_aperio_slide(slide_path):
    with openslide.OpenSlide(slide_path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.2527
        assert slide.properties["openslide.objective-power"] == "40"
        assert float(slide.properties["tiff.XResolution"]) == pytest.approx(1e4 / 0.2527, abs=1e-3)
        assert slide.dimensions == SIZES[0] and slide.level_dimensions == tuple(SIZES)
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
    for image, found in zip(LEVELS, whole_levels(slide_path), strict=True):
        assert found.shape == image.shape and difference(found, image) < 2
        assert difference(found[-20:, -20:], image[-20:, -20:]) < 3


def test_associated_images_have_their_names_and_colours(slide_path):
    with openslide.OpenSlide(slide_path) as slide, TiffSlide(slide_path) as other:
        assert set(slide.associated_images) == set(other.associated_images) == set(ASSOCIATED)
        for name, image in ASSOCIATED.items():
            found = np.asarray(slide.associated_images[name].convert("RGB")).astype(int)
            assert difference(found, image) < 2 and difference(other.associated_images[name], found) == 0
        label = slide.associated_images["label"].convert("RGB")
        assert (np.asarray(label) == ASSOCIATED["label"]).all()  # without loss


def test_directories_stand_in_the_order_of_aperio_files(slide_path):
    with TiffSlide(slide_path) as slide:
        pages = list(slide.ts_tifffile.pages)
    assert [page.is_tiled for page in pages] == [True, False, True, True, False, False]
    assert [int(page.subfiletype) for page in pages] == [0, 0, 0, 0, 1, 9]
    second_lines = [page.description.split("\r\n")[1].split("|")[0] for page in pages]
    size = "1000x700 [0,0 1000x700] (256x256) JPEG/RGB Q=90"
    assert second_lines == [size, "1000x700 -> 512x358 - ", size, size, "label 387x463", "macro 641x301"]


def test_tiles_in_any_order_give_the_same_pixels_and_the_same_calls_the_same_bytes(slide_path, tmp_path):
    shuffled = [TILES[i] for i in np.random.default_rng(1).permutation(len(TILES))]
    assert [level for level, *_ in shuffled] != sorted(level for level, *_ in shuffled)
    path = write(tmp_path / "b.svs", calls=shuffled, mpp=0.2527)
    for expected, found in zip(whole_levels(slide_path), whole_levels(path), strict=True):
        np.testing.assert_array_equal(found, expected)
    again = write(tmp_path / "c.svs", associated=dict(reversed(ASSOCIATED.items())), mpp=0.2527)
    assert again.read_bytes() == slide_path.read_bytes()
    assert DESCRIPTION.encode() in again.read_bytes()[:HEADER_BYTES]


def test_a_big_tiff_holds_the_same_slide(slide_path, tmp_path):
    path = write(tmp_path / "b.svs", mpp=0.2527, big=True)
    assert path.read_bytes()[:4] == b"II+\0" and slide_path.read_bytes()[:4] == b"II*\0"
    with openslide.OpenSlide(path) as big, openslide.OpenSlide(slide_path) as slide, TiffSlide(path) as other:
        assert dict(big.properties) == dict(slide.properties)
        assert set(big.associated_images) == set(ASSOCIATED)
        assert other.level_dimensions == tuple(SIZES)
        assert difference(region(other, (0, 0), 1, SIZES[1]), region(big, (0, 0), 1, SIZES[1])) < 1
    for expected, found in zip(whole_levels(slide_path), whole_levels(path), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_classic_file_that_grows_too_large_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(svs, "_CLASSIC_LIMIT", 20_000)
    with pytest.raises(SlideError, match=r"4 GB.*big=True"):
        write(tmp_path / "a.svs")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a.svs", big=True)


def test_resolution_and_power_may_be_missing_and_one_level_of_less_than_a_tile_is_a_slide(tmp_path):
    path = write(tmp_path / "a.svs", description=aperio_description(*SIZES[0], quality=90), associated={})
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio" and not slide.associated_images
        assert not {"openslide.mpp-x", "openslide.objective-power", "tiff.XResolution"} & set(slide.properties)
        assert slide.level_dimensions == tuple(SIZES)
    image = LEVELS[0][:91, :37]
    path = write(tmp_path / "a.svs", calls=tiles(0, image), sizes=[(37, 91)], associated={"thumbnail": image})
    assert tile_grid(37, 91) == (1, 1) and difference(whole_levels(path)[0], image) < 2
    with TiffSlide(path) as slide:
        assert slide.dimensions == (37, 91) and set(slide.associated_images) == {"thumbnail"}


def test_missing_tiles_are_counted_and_the_first_is_named(tmp_path):
    calls = [c for c in TILES if c[:3] not in {(1, 1, 0), (1, 0, 1)}]
    with pytest.raises(SlideError, match=r"a\.svs lacks tiles on level 1, .*column 1, row 0.*Got: 2 tiles.*: 4"):
        write(tmp_path / "a.svs", calls=calls)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "message"), [
    (TILES[5], "put twice: a.svs, level 0, column 1, row 1"),
    ((0, 4, 0, TILES[0][3]), "no such tile: a.svs, level 0, column 4, row 0"), ((2, 0, 1, TILES[0][3]), "no such tile"),
    ((0, -1, 0, TILES[0][3]), "no such tile"), ((3, 0, 0, TILES[0][3]), "no such tile"),
    ((-1, 0, 0, TILES[0][3]), "no such tile"),
])  # fmt: skip
def test_a_tile_put_twice_or_outside_is_refused_at_once(tmp_path, call, message):
    with pytest.raises(SlideError, match=message), SvsWriter(tmp_path / "a.svs", SIZES, DESCRIPTION) as writer:
        for earlier in TILES:
            writer.put(*earlier)
        writer.put(*call)
        pytest.fail("the tile was taken")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_inside_the_block_leaves_an_older_file_as_it_was(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), SvsWriter(tmp_path / "a.svs", SIZES, DESCRIPTION) as writer:
        writer.put(*TILES[0])
        raise KeyboardInterrupt
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.svs", b"older")]


def test_the_description_tells_the_crop_and_further_fields_in_order(tmp_path):
    fields = {"Left": 25.691574, "ScanScope ID": "SYNT0003", "StripeWidth": 2040}
    text = aperio_description(
        46000, 32914, quality=70, mpp=0.499, power=20, scanned=(0, 100, 46920, 33014), fields=fields, note="Recipe = 1f"
    )
    assert text.split("\r\n")[1] == (
        "46920x33014 [0,100 46000x32914] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.499|OriginalWidth = 46920"
        "|OriginalHeight = 33014|Left = 25.691574|ScanScope ID = SYNT0003|StripeWidth = 2040|Recipe = 1f"
    )
    with openslide.OpenSlide(write(tmp_path / "a.svs", description=text)) as slide:
        told = {k.removeprefix("aperio."): v for k, v in slide.properties.items() if k.startswith("aperio.")}
    numbers = {"AppMag": "20", "MPP": "0.499", "OriginalWidth": "46920", "OriginalHeight": "33014"}
    assert told == {k: str(v) for k, v in fields.items()} | numbers | {"Recipe": "1f"}
