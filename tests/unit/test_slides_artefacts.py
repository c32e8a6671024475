"""Folds, bubbles and the survey: planted ones are found where they are, and dark tissue is not a fold."""

import cv2
import numpy as np
import pytest

from deeplrhe_utils.slides.quality.artefacts import SurveyRules, artefact_masks, bubble_mask, fold_mask
from deeplrhe_utils.slides.quality.blocks import disc
from deeplrhe_utils.slides.quality.tissue import SlideGlass, background_mask, glass_level, shares
from deeplrhe_utils.slides.reading.reader import Slide

MPP, SIDE = 2.0, 500  # 1 mm
GLASS = SlideGlass(np.array([242.0, 240.0, 238.0]), True)
EOSIN, HAEMATOXYLIN = np.array((0.12, 0.45, 0.22)), np.array((0.45, 0.50, 0.22))  # optical density, RGB
BLUE, SHADE = np.array((0.95, 0.55, 0.10)), np.ones(3)


def tissue(mpp=MPP, side=SIDE, seed=0):
    """Optical density of eosin with nuclei of 8 µm, float32."""
    rng = np.random.default_rng(seed)
    nuclei = np.zeros((side, side), np.float32)
    for x, y in rng.integers(0, side, (round(1e-3 * (side * mpp) ** 2), 2)):
        cv2.circle(nuclei, (int(x), int(y)), max(1, round(4 / mpp)), 1, -1)
    cloud = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 20 / mpp)
    eosin = 0.6 + 0.05 * cloud / cloud.std()
    return (eosin[..., None] * EOSIN + 0.5 * nuclei[..., None] * HAEMATOXYLIN).astype(np.float32)


def seen(density, seed=1):
    light = GLASS.level * 10.0**-density + np.random.default_rng(seed).normal(0, 0.7, density.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def line(width_um, mpp=MPP, side=SIDE, points=((0.1, 0.3), (0.45, 0.5), (0.9, 0.45))):
    mask = np.zeros((side, side), np.uint8)
    cv2.polylines(mask, [np.rint(np.array(points) * side).astype(np.int32)], False, 1, round(width_um / mpp))
    return mask.astype(bool)


def ring(radius_um, rim_um=14, centre=(0.5, 0.5), mpp=MPP, side=SIDE):
    """A disc, and its rim."""
    y, x = np.mgrid[0:side, 0:side]
    away = np.hypot(x - centre[0] * side, y - centre[1] * side) * mpp
    return away <= radius_um, (away <= radius_um) & (away > radius_um - rim_um)


def test_a_second_layer_is_a_fold_at_both_scales():
    for mpp, side in ((2.0, 500), (4.0, 250)):
        density, where = tissue(mpp, side), line(50, mpp, side)
        density[where] *= 2
        found = fold_mask(seen(density), mpp, GLASS)
        assert found.dtype == bool and found.shape == where.shape
        assert found[where].mean() > 0.7
        assert found[~cv2.dilate(where.astype(np.uint8), disc(60, mpp)).astype(bool)].sum() == 0
    assert not fold_mask(seen(tissue()), MPP, GLASS).any()


@pytest.mark.parametrize("layers", [3, 4])
@pytest.mark.parametrize("points", [((0.1, 0.3), (0.9, 0.45)), ((0.5, 0.5), (0.53, 0.5))])
def test_three_layers_are_a_fold_of_any_shape(layers, points):
    density, where = tissue(), line(130, points=points)
    density[where] *= layers
    found = fold_mask(seen(density), MPP, GLASS)
    assert found[where].mean() > 0.6
    assert not found[~cv2.dilate(where.astype(np.uint8), disc(60, MPP)).astype(bool)].any()
    assert not fold_mask(seen(density), MPP, GLASS, exclude=np.ones(where.shape, bool)).any()


def test_a_fold_is_no_wide_short_thin_stained_or_excluded_place():
    for where in (line(200), line(60, points=((0.5, 0.5), (0.53, 0.5))), line(8)):
        density = tissue()
        density[where] *= 1.8
        assert not fold_mask(seen(density), MPP, GLASS).any()
    where = line(60)
    density = tissue()
    density[where] += 0.5 * np.array((0.0, 0.5, 0.05))  # keratin: eosin alone
    assert not fold_mask(seen(density), MPP, GLASS).any()
    density, where = tissue(), line(50)
    density[where] *= 2
    assert not fold_mask(seen(density), MPP, GLASS, exclude=np.ones(where.shape, bool)).any()
    assert fold_mask(seen(density), MPP, GLASS, exclude=np.zeros(where.shape, bool))[where].mean() > 0.7


def test_the_dark_edge_of_a_dark_nest_is_not_a_fold():
    """Darkest where it borders on pale stroma, hardly paler inside."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    density = tissue()
    nest = np.hypot(x - 0.5, y - 0.5) < 0.3
    edge = nest & (np.hypot(x - 0.5, y - 0.5) > 0.27)
    density[nest] *= 1.8
    density[edge] *= 1.1
    assert fold_mask(seen(density), MPP, GLASS).mean() < 0.01


@pytest.mark.parametrize("radius_um", [60, 150, 300])
@pytest.mark.parametrize("mpp", [2.0, 4.0])
def test_a_neutral_ring_is_a_bubble_with_all_that_is_in_it(radius_um, mpp):
    side = round(1000 / mpp)
    density = tissue(mpp, side)
    inside, rim = ring(radius_um, mpp=mpp, side=side)
    density[rim] += 0.4 * SHADE.astype(np.float32)
    found = bubble_mask(seen(density), mpp, GLASS)
    assert found[inside].mean() > 0.97 and found.sum() < 1.2 * inside.sum()


def test_a_bubble_on_glass_broken_cut_by_the_edge_or_touching_another_is_a_bubble():
    density = np.zeros((SIDE, SIDE, 3), np.float32)
    inside, rim = ring(200)
    broken = rim & ~ring(60, centre=(0.7, 0.5))[0]  # a gap of 120 µm
    for mask in (rim, broken):
        assert bubble_mask(seen(density + 0.4 * mask[..., None]), MPP, GLASS)[inside].mean() > 0.9
    inside, rim = ring(200, centre=(0.05, 0.5))
    assert bubble_mask(seen(tissue() + 0.4 * rim[..., None]), MPP, GLASS)[inside].mean() > 0.9
    (one, rim_one), (two, rim_two) = ring(150, centre=(0.35, 0.5)), ring(120, centre=(0.35 + 0.262, 0.5))
    found = bubble_mask(seen(tissue() + 0.4 * (rim_one | rim_two)[..., None]), MPP, GLASS)
    assert found[one].mean() > 0.75 and found[two].mean() > 0.75


def test_a_gland_a_line_a_speck_and_a_dot_are_not_bubbles():
    _, rim = ring(150)
    gland = tissue() + rim[..., None] * HAEMATOXYLIN  # a ring of nuclei is not neutral
    hair = tissue() + 0.5 * line(14)[..., None]
    bar = tissue() + 0.5 * line(30, points=((0.3, 0.5), (0.5, 0.52)))[..., None]
    net = tissue()
    for k in range(150, 301, 30):  # meshes of 46 µm
        net[k - 3 : k + 4, 147:304] += 0.5
        net[147:304, k - 3 : k + 4] += 0.5
    speck = tissue() + 0.5 * ring(25)[0][..., None]
    dot = tissue() + 0.5 * ring(120)[0][..., None]  # dark, neutral and round, but no ring: ink
    for density in (tissue(), gland, hair, bar, net, speck, dot):
        assert not bubble_mask(seen(density.astype(np.float32)), MPP, GLASS).any()


def test_ink_and_bubbles_are_not_called_folds():
    stroke, (_, rim) = line(110), ring(100, centre=(0.25, 0.8))
    density = tissue() + 0.9 * stroke[..., None] * BLUE + 0.4 * rim[..., None]
    masks = artefact_masks(seen(density.astype(np.float32)), MPP, GLASS)
    assert set(masks) == {"pen", "fold", "bubble"} and not masks["fold"].any()
    assert masks["pen"][stroke].mean() > 0.9 and masks["bubble"][rim].mean() > 0.9


def test_a_survey_names_every_mask_and_obeys_its_rules():
    density = tissue()
    density[:, :100] = 0
    red = line(110, points=((0.4, 0.5), (0.9, 0.5)))
    rgb = seen((density + red[..., None] * np.array((0.08, 0.9, 0.72))).astype(np.float32))
    masks = {"background": background_mask(rgb, glass=GLASS, mpp=MPP), **artefact_masks(rgb, MPP, GLASS)}
    assert set(masks) == {"background", "pen", "fold", "bubble"}
    assert all(mask.shape == (SIDE, SIDE) and mask.dtype == bool for mask in masks.values())
    assert masks["background"][:, :98].all() and not masks["background"][:, 102:].any()
    assert masks["pen"][red].mean() > 0.9
    assert not artefact_masks(rgb, MPP, GLASS, SurveyRules(red_pen=False))["pen"].any()
    assert not artefact_masks(rgb, MPP, GLASS, SurveyRules(pen_density=1.5))["pen"].any()
    assert not background_mask(
        rgb, glass=GLASS, mpp=MPP, rules=SurveyRules(background_method="intensity", intensity_cut=250)
    ).any()
    boxes = np.array([[0, 0, 100, 500], [100, 0, 500, 500]], float)
    assert shares(masks["background"], boxes) == pytest.approx([1, 0], abs=0.02)


def test_a_picture_of_a_few_pixels_is_no_trouble():
    for shape in ((1, 1, 3), (3, 40, 3), (40, 3, 3)):
        picture = np.full(shape, 150, np.uint8)
        masks = {"background": background_mask(picture, glass=GLASS, mpp=MPP), **artefact_masks(picture, MPP, GLASS)}
        assert all(mask.shape == shape[:2] for mask in masks.values())


def test_real_slides_without_artefacts_have_next_to_none(shared_data):
    called = {}
    for name in ("CMU-1-Small-Region.svs", "luna_1065626.svs"):
        with Slide(shared_data / "slides" / name) as slide:
            rgb = slide.thumbnail(round(max(slide.dimensions) * slide.mpp / 4))
        called[name[0]] = {kind: mask.mean() for kind, mask in artefact_masks(rgb, 4.0, glass_level(rgb)).items()}
    assert called["l"] == {"pen": 0.0, "fold": 0.0, "bubble": 0.0}
    assert called["C"]["pen"] == called["C"]["bubble"] == 0.0 and called["C"]["fold"] < 0.015
