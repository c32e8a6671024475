"""Glass, background, shares: planted levels come back, on white, grey, yellow and shaded glass."""

import cv2
import numpy as np
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.slides.quality.tissue import (
    GLASS_FALLBACK,
    BackgroundRules,
    SlideGlass,
    background_mask,
    blank_mask,
    clean_mask,
    density_over_glass,
    glass_level,
    shares,
)
from deeplrhe_utils.slides.reading.reader import Slide

INTENSITY = BackgroundRules("intensity")
EOSIN, HAEMATOXYLIN = np.array((0.10, 0.45, 0.20)), np.array((0.55, 0.60, 0.30))  # optical density, RGB
WHITE, GREY, YELLOW = (244, 243, 241), (206, 205, 204), (236, 230, 205)


def picture(glass, strength=0.5, side=200, seed=0):
    """Noisy glass with a disc of tissue (30 % of the side in radius): eosin with dark nuclei; and the disc."""
    rng = np.random.default_rng(seed)
    disc, nuclei = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    cv2.circle(disc, (side // 2, side // 2), round(0.3 * side), 1, -1)
    for x, y in rng.integers(0, side, (side * 2, 2)):
        cv2.circle(nuclei, (int(x), int(y)), 2, 1, -1)
    density = (disc[..., None] * EOSIN + (disc & nuclei)[..., None] * HAEMATOXYLIN) * strength
    light = np.array(glass) * 10.0**-density + rng.normal(0, 0.7, (side, side, 3))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8), disc.astype(bool)


@pytest.mark.parametrize("level", [WHITE, GREY, YELLOW])
def test_the_level_of_the_glass_comes_back(level):
    glass = glass_level(picture(level)[0])
    assert glass.found and np.abs(glass.level - level).max() <= 1.5


def test_fill_of_the_scanner_is_not_taken_for_glass_and_without_glass_the_fallback_is_told():
    rgb, _ = picture(GREY)
    rgb[:, :140], rgb[:25] = 255, 0  # more white than glass
    assert np.abs(glass_level(rgb).level - GREY).max() <= 1.5
    overexposed = np.full((50, 50, 3), 255, np.uint8)
    assert glass_level(overexposed).found and glass_level(overexposed).level.tolist() == [255, 255, 255]
    rng = np.random.default_rng(1)
    tissue = rng.integers(90, 200, (100, 100, 3)).astype(np.uint8)
    glass = glass_level(tissue)
    assert not glass.found and glass.level.tolist() == [GLASS_FALLBACK] * 3
    eosin = np.full((50, 50, 3), (230, 160, 190), np.uint8)  # even and bright, but far from colourless
    assert not glass_level(eosin).found


@pytest.mark.parametrize("level", [WHITE, GREY, YELLOW])
@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("mpp", [2.0, 4.0])
def test_background_by_density_follows_the_planted_outline(level, strength, mpp):
    rgb, disc = picture(level, strength)
    mask = background_mask(rgb, glass=glass_level(rgb), mpp=mpp)
    assert mask.dtype == bool and (mask == ~disc).mean() > 0.99


def test_the_grey_value_fails_on_grey_glass_and_density_does_not():
    rgb, disc = picture(GREY)
    glass = glass_level(rgb)
    assert background_mask(rgb, glass=glass, rules=INTENSITY).mean() == 0.0
    assert (background_mask(rgb, glass=glass) == ~disc).mean() > 0.99
    white, disc = picture(WHITE, 1.0)
    assert (background_mask(white, glass=glass_level(white), rules=INTENSITY) == ~disc).mean() > 0.97


def test_a_colourless_even_shade_is_background_and_pale_eosin_is_not():
    glass = SlideGlass(np.full(3, 240.0), True)
    shade = np.full((60, 60, 3), 185, np.uint8)  # optical density 0.11
    pale = np.rint(240 * 10.0 ** -(0.11 / EOSIN.mean() * EOSIN)).astype(np.uint8) * np.ones((60, 60, 1), np.uint8)
    assert background_mask(shade, glass=glass).all() and not background_mask(pale, glass=glass).any()
    assert not background_mask(shade, glass=glass, rules=BackgroundRules(shade_cut=0)).any()
    assert not background_mask(np.full((60, 60, 3), 120, np.uint8), glass=glass).any()  # grey, but too dense


@pytest.mark.parametrize("method", ["density", "intensity"])
@pytest.mark.parametrize("value", [0, 255])
def test_fill_is_background(method, value):
    fill = np.full((40, 40, 3), value, np.uint8)
    assert background_mask(
        fill, glass=SlideGlass(np.full(3, 240.0), True), rules=BackgroundRules(background_method=method)
    ).all()


def test_cleaning_removes_specks_fills_gaps_and_keeps_the_edge():
    mask = np.zeros((60, 60), bool)
    mask[:, 30:] = True
    dirty = mask.copy()
    dirty[10, 10], dirty[20, 45], dirty[40, 29] = True, False, True
    assert (clean_mask(dirty, 5) == mask).all()
    assert (clean_mask(dirty, 2) == dirty).all() and clean_mask(dirty, 2) is not dirty


def test_optical_density_is_relative_to_the_glass_and_never_negative_and_other_methods_are_refused():
    glass = SlideGlass(np.array([240.0, 230.0, 220.0]), True)
    rgb = np.array([[[240, 230, 220], [255, 255, 255], [23, 22, 21]]], np.uint8)
    density = density_over_glass(rgb, glass)
    assert density[0, 0] == pytest.approx(0, abs=1e-6) and (density[0, 1] == 0).all()
    assert density[0, 2] == pytest.approx(np.log10([241 / 24, 231 / 23, 221 / 22]), abs=1e-5)
    with pytest.raises(ParameterError, match="density"):
        background_mask(
            np.zeros((4, 4, 3), np.uint8), glass=SlideGlass(np.full(3, 240.0), True), rules=BackgroundRules("otsu")
        )


def brute(mask, box, fine=20):
    """Share of a box by sampling `fine` points along each px."""
    height, width = mask.shape
    x = (np.arange(width * fine) + 0.5) / fine
    y = (np.arange(height * fine) + 0.5) / fine
    inside = ((y > box[1]) & (y < box[3]))[:, None] & ((x > box[0]) & (x < box[2]))
    return np.repeat(np.repeat(mask, fine, 0), fine, 1)[inside].mean()


def test_shares_weigh_cut_pixels_by_their_area_also_outside_the_mask():
    rng = np.random.default_rng(2)
    mask = rng.random((23, 31)) < 0.4
    corner = rng.integers(0, 12, (40, 2)) + rng.integers(0, 20, (40, 2)) / 20
    boxes = np.hstack([corner, corner + rng.integers(1, 10, (40, 2)) + rng.integers(0, 20, (40, 2)) / 20])
    assert shares(mask, boxes) == pytest.approx([brute(mask, box) for box in boxes], abs=1e-9)
    mask = np.ones((10, 10), bool)
    got = shares(mask, np.array([[-5, 0, 5, 10], [8, 8, 30, 30], [20, 20, 30, 30], [3, 3, 3, 5]], float))
    assert got[:2].tolist() == [1.0, 1.0] and np.isnan(got[2:]).all()
    assert shares(mask, np.empty((0, 4))).shape == (0,)


def test_the_old_names_are_as_they_were():
    tile = np.array([[[220, 220, 220], [220, 220, 219], [255, 255, 150]]], np.uint8)
    assert blank_mask(tile).tolist() == [[True, False, True]]


def test_real_slides_have_the_tissue_one_sees(shared_data):
    found = {}
    for name in ("CMU-1-Small-Region.svs", "luna_1065626.svs"):
        with Slide(shared_data / "slides" / name) as slide:
            rgb = slide.thumbnail(round(max(slide.dimensions) * slide.mpp / 4))
        glass = glass_level(rgb)
        density, grey = (
            background_mask(rgb, glass=glass, mpp=4, rules=BackgroundRules(m)) for m in ("density", "intensity")
        )
        assert glass.found and (density == grey).mean() > 0.99
        found[name[0]] = 1 - density.mean()
    assert 0.33 < found["C"] < 0.38 and 0.004 < found["l"] < 0.009


def test_grey_alveoli_are_background_by_density_only(shared_data):
    rows = []
    for path in sorted((shared_data / "lc25000" / "lung_n").glob("*.jpeg"))[::40]:
        rgb = cv2.resize(cv2.imread(str(path))[..., ::-1], (56, 56), interpolation=cv2.INTER_AREA)
        glass = glass_level(rgb)
        rows.append(
            [background_mask(rgb, glass=glass, rules=BackgroundRules(m)).mean() for m in ("density", "intensity")]
        )
    density, grey = np.mean(rows, axis=0)
    assert density > 0.3 and grey < 0.05
