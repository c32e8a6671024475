"""Felt-pen ink: found on glass and on tissue, and never in real tissue without a pen."""

import cv2
import numpy as np
import pytest

from deeplrhe_utils.slides.quality.pen import pen_mask
from deeplrhe_utils.slides.quality.tissue import SlideGlass
from deeplrhe_utils.slides.reading.reader import Slide

INKS = {
    "blue": (0.95, 0.55, 0.10),
    "green": (0.85, 0.30, 0.75),
    "black": (0.8, 0.8, 0.8),
    "red": (0.08, 0.90, 0.72),
}  # optical density, RGB
GLASS, PINK, PURPLE = (240, 240, 240), (214, 150, 190), (150, 100, 170)
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)  # Ruifrok and Johnston 2001
SIDE = 256
every_ink = pytest.mark.parametrize("ink", INKS)


def flat(colour, side=SIDE):
    return np.full((side, side, 3), colour, np.uint8)


def stained(stain, strength):
    return flat(np.rint(240 * 10.0 ** (-strength * np.array(stain))))


def painted(tile, ink, strength=0.8, where=slice(None)):
    """`tile` with ink over the columns `where`, after Beer and Lambert."""
    light = tile.astype(float)
    light[:, where] *= 10.0 ** (-strength * np.array(ink))
    return np.rint(light).astype(np.uint8)


def pen_fraction(tile, mpp=0.5):
    return float(pen_mask(tile, mpp).mean())


def folded(tile):
    """Two layers of the same tissue: the density doubles."""
    return np.rint(tile.astype(float) ** 2 / 255).astype(np.uint8)


@every_ink
@pytest.mark.parametrize("under", [GLASS, PINK, PURPLE])
def test_a_stroke_is_found_where_it_is(ink, under):
    mask = pen_mask(painted(flat(under), INKS[ink], 0.8, slice(0, 200)))
    assert mask.shape == (SIDE, SIDE) and mask.dtype == bool
    assert mask[:, :196].all() and not mask[:, 204:].any()


@pytest.mark.parametrize("colour", [GLASS, PINK, PURPLE, (255, 255, 255), (200, 90, 120), (225, 215, 180)])
def test_flat_colours_without_ink_are_not_ink(colour):
    assert pen_fraction(flat(colour)) == 0.0


@pytest.mark.parametrize("hue", [(1.0, 0.55, 0.15), (1.0, 0.4, 0.4), (1.0, 0.75, 0.3), (1.0, 1.0, 0.4)])
@pytest.mark.parametrize("strength", [0.2, 0.3, 0.42, 0.5])
def test_pale_ink_must_be_clearly_blue_or_green(hue, strength):
    mask = pen_mask(stained(hue, strength))
    clear = hue[1] * 1.5 < hue[0]
    assert mask.all() == mask.any() == (strength >= (0.25 if clear else 0.45))


@pytest.mark.parametrize("stain", [HAEMATOXYLIN, EOSIN, np.add(HAEMATOXYLIN, EOSIN) / 2])
@pytest.mark.parametrize("strength", [0.3, 1.2])
def test_thick_stain_is_not_ink(stain, strength):
    assert pen_fraction(stained(stain, strength)) == 0.0


def test_red_ink_alone_can_be_left_out_and_neither_erythrocytes_nor_black_are_ink():
    for ink, od in INKS.items():
        stroke = painted(flat(PINK), od, 1.0)
        assert pen_mask(stroke).all() and pen_mask(stroke, red=False).all() == (ink != "red"), ink
    for od in ((0.05, 0.46, 0.21), (0.06, 0.41, 0.26), (0.08, 0.76, 0.34)):
        assert pen_fraction(stained(od, 1.0)) == 0.0
    assert pen_fraction(flat((0, 0, 0))) == 0.0 and pen_fraction(flat((30, 30, 30))) == 1.0


@every_ink
def test_the_colour_of_the_glass_is_taken_into_account(ink):
    glass = np.array([200, 190, 165])
    clean, inked = flat(glass), flat(np.rint(glass * 10.0 ** -(1.0 * np.array(INKS[ink]))))
    pale = flat(np.rint(glass * 10.0 ** -(0.22 * np.array(INKS[ink]))))
    light = SlideGlass(glass.astype(float), True)
    assert pen_mask(inked, glass=light).all() and not pen_mask(clean, glass=light).any()
    assert not pen_mask(pale, glass=light).any()


@every_ink
def test_what_is_narrower_than_forty_micrometres_is_not_ink(ink):
    tile = flat(PINK)
    dots = np.zeros((SIDE, SIDE), np.uint8)
    for x in range(16, SIDE, 32):  # dots of 10 µm, as black as ink: lymphocytes, pigment
        for y in range(16, SIDE, 32):
            cv2.circle(dots, (x, y), 10, 1, -1)
    tile[dots == 1] = painted(flat(GLASS), INKS[ink], 1.2)[0, 0]
    assert pen_fraction(tile) == 0.0
    assert pen_fraction(painted(flat(PINK), INKS[ink], 1.2, slice(100, 160))) == 0.0  # 30 µm
    assert pen_fraction(painted(flat(PINK), INKS[ink], 1.2, slice(80, 180))) == pytest.approx(100 / SIDE, abs=0.02)


@every_ink
def test_the_share_does_not_depend_on_resolution_or_tile_size(ink):
    for mpp, side in ((0.25, 512), (0.5, 256), (1.0, 128), (4.0, 32), (0.37, 301)):
        tile = painted(flat(PINK, side), INKS[ink], 1.0, slice(0, round(0.6 * side)))
        assert pen_fraction(tile, mpp) == pytest.approx(0.6, abs=0.04), mpp
    assert pen_mask(painted(flat(PINK, 301)[:97], INKS[ink], 1.0), 0.37).shape == (97, 301)
    assert pen_mask(flat(PINK, 1), 0.5).shape == (1, 1)


@pytest.fixture(scope="module")
def real_tiles(shared_data):
    """(tile, µm/px) of real H&E without a pen: five fields, two places of CMU-1, four tiles of each LC25000 class."""
    found = []
    for path in sorted((shared_data / "monuseg_tcga_lung").glob("*.tif")):
        with Slide(path, mpp=0.25) as slide:
            found.append((slide.read_tile(0, 0, 1000, 1000), 0.25))
    with Slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:  # dark keratin; dense epithelium
        found += [(slide.read_tile(x, y, 512, 512), 0.5) for x, y in ((1200, 1000), (900, 1900))]
    for name in ("lung_n", "lung_aca", "lung_scc"):
        for path in sorted((shared_data / "lc25000" / name).glob("*.jpeg"))[::195][:4]:
            found.append((cv2.imread(str(path))[..., ::-1], 0.5))
    return found


def test_real_tissue_is_not_ink_even_folded_or_blurred(real_tiles):
    for tile, mpp in real_tiles:
        blurred = cv2.GaussianBlur(tile, (0, 0), 4 / mpp)
        assert pen_fraction(tile, mpp) == 0.0 and pen_fraction(blurred, mpp) == 0.0
    folds = [pen_fraction(folded(tile), mpp) for tile, mpp in real_tiles]
    assert np.mean(folds[:7]) < 0.005 and np.mean(folds) < 0.02  # the last twelve, of LC25000, are bluish


@every_ink
def test_ink_painted_on_real_tissue_is_found(real_tiles, ink):
    rng = np.random.default_rng(3)
    found, beside = [], []
    for tile, mpp in real_tiles:
        stroke = slice(0, min(round(120 / mpp), tile.shape[1]))
        for strength in (0.8, 1.2):
            od = np.array(INKS[ink]) * rng.uniform(0.85, 1.15, 3)
            mask = pen_mask(painted(tile, od, strength, stroke), mpp)
            found.append(mask[:, stroke].mean())
            beside.append(mask[:, stroke.stop :].mean() if stroke.stop < tile.shape[1] else 0.0)
    assert np.mean(found) > (0.93 if ink == "red" else 0.95) and np.mean(beside) < 0.02
