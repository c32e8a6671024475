"""Masks and measures of colour normalization: hand-computed values, invariants, and real fields with outlines."""

import importlib.util
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy import stats

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.evaluation.quality import stain_masks as masks
from deeplrhe_utils.evaluation.quality import stain_metrics as metrics
from deeplrhe_utils.evaluation.quality.stain_metrics import RUIFROK, assess, planted_residual, planted_versions
from deeplrhe_utils.slides.outlines.find import read_annotation
from deeplrhe_utils.stain.colour import density_to_rgb, optical_density
from deeplrhe_utils.stain.methods.baselines import Reinhard
from deeplrhe_utils.stain.methods.normalize import Normalizer

_SPEC = importlib.util.spec_from_file_location("_outline_masks", REPOSITORY / "benchmarks" / "_outline_masks.py")
outlined = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(outlined)
H, E = RUIFROK / np.linalg.norm(RUIFROK, axis=1, keepdims=True)
SIDE = 160


def flat(value, shape=(20, 20)):
    return np.full((*shape, 3), value, np.uint8)


def everywhere(tile):
    return np.ones(tile.shape[:-1], bool)


def discs(centres, radius=9):
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    for x, y in centres:
        cv2.circle(drawn, (x, y), radius, 1, -1)
    return drawn > 0


NUCLEI = discs([(30, 30), (70, 30), (30, 80), (70, 80), (30, 130), (70, 130)])
GLASS = np.arange(SIDE)[None].repeat(SIDE, 0) >= 120


def painted(strength=1.0, noise=0.03, seed=0, extra=None, eosin=0.5):
    """Nuclei in eosin with a strip of glass at the right, the same places for every strength."""
    od = np.where(GLASS[..., None], 0.02, strength * eosin * E)
    od[NUCLEI] += strength * 1.2 * H
    if extra is not None:
        od[extra] += strength * 2.2 * E
    return density_to_rgb(od + np.random.default_rng(seed).normal(0, noise, (SIDE, SIDE, 1)))


# Masks
def test_the_neutral_rule_finds_what_was_painted():
    found = masks.neutral_masks(painted())
    core, near = (
        cv2.erode(NUCLEI.astype(np.uint8), np.ones((5, 5))),
        cv2.dilate(NUCLEI.astype(np.uint8), np.ones((5, 5))),
    )
    assert found["nuclei"][core > 0].all() and not found["nuclei"][near == 0].any()
    assert found["stroma"][(near == 0) & ~GLASS & (np.arange(SIDE) < 116)].all() and not found["stroma"][NUCLEI].any()
    assert found["glass"][:, 126:].all() and not found["glass"][:, :123].any(), "3 px of its edge must not count"
    assert not sum(found[name].astype(int) for name in masks.CLASSES).max() > 1, "classes share a pixel"
    between = found["tissue"] & ~found["nuclei"] & ~found["stroma"]
    assert 0 < between.sum() < 1500 and not found["tissue"][:, 124:].any()
    assert not (between & ((near == 0) | (core > 0))).any(), "the band that belongs to neither lies on the rims"


def test_dense_eosin_is_no_nucleus_and_two_flat_colours_leave_no_class_empty():
    """Red blood cells are as dense as nuclei: only the red channel tells them apart."""
    blood = discs([(100, 30), (100, 80)])
    tile = painted(extra=blood)
    density = optical_density(tile).mean(axis=2)
    assert density[blood].mean() > density[NUCLEI].mean()
    found = masks.neutral_masks(tile)
    assert not found["nuclei"][blood].any() and found["nuclei"][NUCLEI].mean() > 0.8
    od = np.full((SIDE, SIDE, 3), 0.4)
    od[:, :80] = 1.2
    found = masks.neutral_masks(density_to_rgb(od))
    assert found["nuclei"][:, :77].all() and found["stroma"][:, 83:].all()


@pytest.mark.parametrize("strength", [0.6, 1.6])
def test_pale_and_dark_stains_give_the_same_nuclei(strength):
    found = [masks.neutral_masks(painted(s, noise=0, eosin=1.0))["nuclei"] for s in (1.0, strength)]
    assert (found[0] ^ found[1]).sum() <= 0.05 * found[0].sum()


def test_tiles_without_tissue_or_without_nuclei_have_empty_masks():
    glass = masks.neutral_masks(flat(250, (64, 64)))
    assert glass["glass"].all() and not any(glass[name].any() for name in ("nuclei", "stroma", "tissue"))
    speck = flat(250, (128, 128))
    speck[:40, :40] = 120
    few = masks.neutral_masks(speck)
    assert few["glass"].any() and not any(few[name].any() for name in ("nuclei", "stroma", "tissue"))
    speck[:50, :50] = 120
    assert masks.neutral_masks(speck)["tissue"].sum() > masks.LEAST_TISSUE_PX
    noise = density_to_rgb(0.6 * E + np.random.default_rng(0).normal(0, 0.1, (SIDE, SIDE, 1)))
    found = masks.neutral_masks(noise)
    assert found["tissue"].all() and not found["nuclei"].any() and not found["stroma"].any()


def test_outlines_become_masks_x_before_y():
    tile = painted()
    square = np.array([[40.0, 50], [60, 50], [60, 62], [40, 62]])
    to_the_right, on_glass, outside = (square + np.array(by) for by in ((10, 0), (90, 0), (-1000, 0)))
    found = outlined.outline_masks(tile, [square, to_the_right, outside])
    rows, columns = np.nonzero(found["nuclei"])
    assert found["nuclei"][50:62, 40:70].all(), "two outlines that overlap must not cancel"
    assert rows.min() >= 49 and rows.max() <= 62 and columns.min() >= 39 and columns.max() <= 70
    assert not found["stroma"][47:65, 37:73].any() and found["stroma"][66:68, 40:70].all()
    neutral = masks.neutral_masks(tile)
    assert np.array_equal(found["glass"], neutral["glass"])
    assert np.array_equal(found["tissue"], neutral["tissue"]), "all outlines lie in tissue"
    found = outlined.outline_masks(tile, [on_glass])
    assert found["tissue"][55, 140] and not found["glass"][47:65, 127:153].any() and found["glass"][67, 140]
    assert not outlined.outline_masks(tile, [])["nuclei"].any()


@pytest.mark.parametrize("wrong", [[[1, 2], [3, 4]], [[1, 2, 3]] * 3, [[0, 0], [1, np.nan], [2, 2]], [1, 2, 3]])
def test_an_outline_that_is_none_is_named(wrong):
    with pytest.raises(StainError, match="Outline 1 is not a polygon"):
        outlined.outline_masks(painted(), [[[0, 0], [9, 0], [9, 9]], wrong])


@pytest.mark.parametrize(
    "tile", [np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9), np.uint8), np.zeros(3, np.uint8)]
)
def test_other_arrays_than_rgb_are_refused(tile):
    for function in (masks.neutral_masks, metrics.lab, planted_versions, lambda t: metrics.structure([t], [t])):
        with pytest.raises(StainError, match="uint8 RGB"):
            function(tile)


def test_masks_must_fit():
    tile = painted()
    assert np.array_equal(masks.masked(tile, NUCLEI), tile[NUCLEI])
    with pytest.raises(StainError, match="does not fit"):
        metrics.nmi(tile, NUCLEI[:-1])
    with pytest.raises(StainError, match="does not fit"):
        metrics.nmi(tile, NUCLEI.astype(np.uint8))
    with pytest.raises(StainError, match=r"\(H, W, 3\)"):
        masks.neutral_masks(tile.reshape(-1, 3))


def outlined_field(shared_data, name):
    path = shared_data / "monuseg_tcga_lung" / f"{name}.tif"
    tile = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    areas = [part for r in read_annotation(path.with_suffix(".xml")) for part in shapely.get_parts(r.geometry)]
    return tile, [shapely.get_coordinates(area.exterior) for area in areas]


@pytest.mark.parametrize("name", ["TCGA-21-5784-01Z-00-DX1", "TCGA-44-2665-01B-06-BS6"])
def test_real_outlines_are_nuclei_and_the_neutral_rule_agrees(shared_data, name):
    tile, outlines = outlined_field(shared_data, name)
    drawn, ruled = outlined.outline_masks(tile, outlines), masks.neutral_masks(tile)
    grey = tile.mean(axis=2)
    difference = grey[drawn["stroma"]].mean() - grey[drawn["nuclei"]].mean()
    precision, chance = drawn["nuclei"][ruled["nuclei"]].mean(), drawn["nuclei"].mean()
    recall, share = ruled["nuclei"][drawn["nuclei"]].mean(), ruled["nuclei"].mean()
    assert difference > 30
    assert precision > 1.8 * chance and recall > 1.8 * share
    assert precision > 0.65, "the rule's nuclei must be nuclei; that it misses the pale ones is known"
    turned = outlined.outline_masks(tile, [outline[:, ::-1] for outline in outlines])["nuclei"]
    assert turned[ruled["nuclei"]].mean() < 1.2 * chance, "with y before x there is nothing but chance"


# Agreement
def ramp(values):
    """Grey pixels (n, 3)."""
    return np.repeat(np.asarray(values, np.uint8)[:, None], 3, axis=1)


def test_nmi_by_hand_and_unknown_of_too_few_or_black_pixels():
    values = np.arange(1, 201)
    tile = ramp(values)
    assert metrics.nmi(tile, everywhere(tile)) == pytest.approx(100.5 / 190.05, rel=1e-6)
    tile[:, 0] += 30
    tile[:, 1] -= 1
    assert metrics.nmi(tile, everywhere(tile)) == pytest.approx((100.5 + 29 / 3) / (190.05 + 29 / 3), rel=1e-6)
    more = np.concatenate([tile, ramp([255] * 400)])
    assert metrics.nmi(more, np.arange(600) < 200) == metrics.nmi(tile, everywhere(tile))
    tile = ramp(np.arange(1, 201))
    assert np.isnan(metrics.nmi(tile, np.arange(200) < 199))
    assert np.isnan(metrics.nmi(flat(0), everywhere(flat(0))))


def test_spread_is_that_of_numpy_without_nan():
    values = np.random.default_rng(0).uniform(0.5, 1, 20)
    sd, cv = metrics.colour_spread([*values, np.nan])
    assert sd == pytest.approx(np.std(values, ddof=1)) and cv == pytest.approx(np.std(values, ddof=1) / values.mean())
    assert metrics.colour_spread([1.0, 3.0]) == pytest.approx((2**0.5, 2**0.5 / 2))
    assert np.isnan(metrics.colour_spread([0.7, np.nan])).all() and np.isnan(metrics.colour_spread([])).all()
    assert metrics.colour_spread([-1.0, 1.0])[0] == pytest.approx(2**0.5)
    assert np.isnan(metrics.colour_spread([-1.0, 1.0])[1])


@pytest.mark.parametrize(("rgb", "expected"), [
    ((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (53.24, 80.09, 67.20)),
    ((0, 255, 0), (87.73, -86.18, 83.18)), ((0, 0, 255), (32.30, 79.19, -107.86)), ((119, 119, 119), (50.03, 0, 0)),
    ((2, 2, 2), (0.548, 0, 0)),
])  # fmt: skip
def test_lab_of_known_colours(rgb, expected):
    found = metrics.lab(np.array([rgb], np.uint8))
    assert found.dtype == np.float32 and found.shape == (1, 3)
    np.testing.assert_allclose(found[0], expected, atol=0.02)


def test_delta_e_by_hand():
    assert metrics.delta_e(flat(0), flat(255)) == pytest.approx(np.full((20, 20), 100), abs=1e-3)
    red, green = np.array([[255, 0, 0]], np.uint8), np.array([[0, 255, 0]], np.uint8)
    assert metrics.delta_e(red, green)[0] == pytest.approx(np.hypot(np.hypot(34.49, 166.27), 15.98), abs=0.03)
    with pytest.raises(StainError, match="differ in size"):
        metrics.delta_e(flat(0), flat(0, (20, 21)))


def test_scatter_by_hand():
    black, white = (metrics.mean_lab(flat(v), everywhere(flat(0))) for v in (0, 255))
    assert metrics.scatter([black, white]) == pytest.approx(50, abs=1e-3)
    # 0, 0 and 100: the centroid is 33.3, squares 2 × 33.3² + 66.7², mean 2222
    assert metrics.scatter([black, white, black]) == pytest.approx((20000 / 9) ** 0.5, abs=1e-3)
    few = np.zeros((20, 20), bool)
    few.flat[:199] = True
    unknown = metrics.mean_lab(flat(99), few)
    assert metrics.scatter([black, white, unknown]) == pytest.approx(50, abs=1e-3)
    assert np.isnan(metrics.scatter([black, unknown]))


def cloud(n, seed=0):
    return np.random.default_rng(seed).normal([60, 20, -10], [15, 8, 5], (n, 3)).astype(np.float32)


def distance_of(one, other, seed=0):
    return metrics.slice_distance(*(metrics.colour_slices(x, seed) for x in (one, other)))


def test_a_shift_moves_the_cloud_by_its_mean_projection():
    """Half its length in any direction (the mean of |cos| over the sphere), as nearly as 64 directions cover it."""
    for shift in ([6, 0, 0], [0, 0, -6], [2, -4, 4]):
        for seed in (0, 1, 2):
            distance = distance_of(cloud(3000), cloud(3000) + np.array(shift, np.float32), seed=seed)
            assert distance == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(("n", "m"), [(500, 500), (500, 377), (210, 1000)])
def test_along_a_line_it_is_scipys_distance(n, m):
    random = np.random.default_rng(n)
    first, second = random.normal(50, 10, n), random.gamma(2, 12, m)
    line = np.array([[2, -1, 2]]) / 3
    one = distance_of(0 * line.repeat(n, 0), line.repeat(m, 0))
    found = distance_of(first[:, None] * line, second[:, None] * line) / one
    assert found == pytest.approx(stats.wasserstein_distance(first, second), rel=1e-5)


def test_wasserstein_invariants():
    a, b = cloud(700), cloud(900, seed=1) * np.float32(1.1)
    distance = distance_of(a, b)
    assert distance_of(a, a[::-1]) == 0 and distance > 0.5
    assert distance_of(b, a) == pytest.approx(distance, rel=1e-6)
    assert distance_of(a.repeat(3, 0), b) == pytest.approx(distance, rel=1e-6)
    assert distance_of(a, b) == distance != distance_of(a, b, seed=1)
    assert np.isnan(distance_of(a, b[:0]))


# The planted stain change
def stain_ramp():
    """Pixels of haematoxylin alone (rows 0, 1: two amounts), of eosin alone (2, 3), and white (4)."""
    od = np.stack([0.3 * H, 1.8 * H, 0.3 * E, 1.8 * E, 0 * H])
    return density_to_rgb(od)[None].repeat(30, 0)


def test_planted_versions_keep_to_their_limits():
    tile = stain_ramp()
    angles, scales, light, lowest = [], [], [], []
    for version in planted_versions(tile, n=300, seed=3):
        od, was = optical_density(version[0]), optical_density(tile[0])
        for row, stain in ((0, H), (2, E)):
            change = od[row + 1] - od[row]
            angles.append(np.degrees(np.arccos(change @ stain / np.linalg.norm(change))))
            lowest.append(change.min() / np.linalg.norm(change))
            scales.append(np.linalg.norm(change) / np.linalg.norm(was[row + 1] - was[row]))
        light.append(od[4])
    assert 7 < max(angles) < 8.6 and min(angles) < 2
    assert min(lowest) > -0.02, "a stain does not shine"
    assert 0.63 < min(scales) < 0.68 and 1.45 < max(scales) < 1.53
    assert np.mean(np.log(scales)) == pytest.approx(np.log(0.65 * 1.5) / 2, abs=0.025), "even in the logarithm"
    assert np.min(light) >= 0 and 0.055 < np.max(light) < 0.063
    assert np.ptp(light, axis=1).mean() == pytest.approx(0.03, abs=0.005), "each channel has a light of its own"


def test_what_two_stains_do_not_explain_stays():
    aside = np.cross(H, E)
    aside /= np.linalg.norm(aside)
    od = np.stack([0.6 * H + 0.6 * E, 0.6 * H + 0.6 * E + 0.15 * aside])
    tile = density_to_rgb(od)
    for version in planted_versions(tile, n=8):
        change = np.diff(optical_density(version), axis=0) - np.diff(optical_density(tile), axis=0)
        assert np.abs(change).max() < 0.02


def test_planted_versions_depend_on_seed_and_number_alone():
    tile = painted()
    five = planted_versions(tile)
    assert len(five) == 5 and all(v.dtype == np.uint8 and v.shape == tile.shape for v in five)
    for few, many in zip(planted_versions(tile, n=3), five[:3], strict=True):
        assert np.array_equal(few, many)
    for part, whole in zip(planted_versions(tile[:50]), five, strict=True):
        assert np.array_equal(part, whole[:50]), "all tiles of a slide get the same change"
    assert not any(np.array_equal(a, b) for a, b in pairwise([tile, *five, *planted_versions(tile, seed=1)]))


def test_planted_residual_by_hand():
    versions = planted_versions(painted())
    tissue = ~GLASS
    assert planted_residual(versions, versions, tissue) == 1
    assert planted_residual(versions, [versions[0]] * 5, tissue) == 0
    mask = everywhere(flat(0))
    assert planted_residual([flat(0), flat(255)], [flat(119), flat(255)], mask) == pytest.approx(0.4997, abs=2e-4)
    # pairs: 100, 100, 0 before; 0, 0, 100 × (1 − 0.5003), twice, after
    before, after = [flat(0), flat(255), flat(255)], [flat(119), flat(119), flat(255)]
    assert planted_residual(before, after, mask) == pytest.approx(0.4997, abs=2e-4)
    after = [version.copy() for version in versions]
    for version in after:
        version[GLASS] = 0
    assert planted_residual(versions, after, tissue) == 1, "pixels outside of the mask must not count"


def test_planted_residual_refuses_what_says_nothing():
    versions = planted_versions(painted())
    few = np.zeros((SIDE, SIDE), bool)
    few[0, : 199 - SIDE] = few[1] = True
    assert few.sum() == 199 and np.isnan(planted_residual(versions, versions, few))
    with pytest.raises(StainError, match="were equal before"):
        planted_residual([versions[0]] * 2, versions[:2], ~GLASS)
    for before, after in ((versions[:1], versions[:1]), (versions, versions[:4])):
        with pytest.raises(StainError, match="2 or more of each"):
            planted_residual(before, after, ~GLASS)


# Structure, seams, glass
def noisy(high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, (64, 64, 3), dtype=np.uint8)


def textured(seed=0):
    return np.asarray(cv2.GaussianBlur(noisy(seed=seed), (0, 0), 1.5))


def test_structure_of_equal_tiles_is_complete_and_needs_the_same_tiles():
    kept = metrics.structure([textured(), painted()], [textured(), painted()])
    assert kept == pytest.approx({"correlation": 1, "ssim": 1, "cs": 1, "correlation_p5": 1})
    for before, after in (([], []), ([textured()], []), ([textured()], [textured()] * 2)):
        with pytest.raises(StainError, match="do not correspond"):
            metrics.structure(before, after)
    with pytest.raises(StainError, match="differ in size"):
        metrics.structure([textured()], [textured()[:-1]])


def test_cs_leaves_out_the_wanted_change():
    tile = noisy(200)
    kept = metrics.structure([tile // 2 * 2], [tile // 2 + np.uint8(100)])
    assert kept["cs"] == pytest.approx(1, abs=1e-4) and kept["correlation"] == pytest.approx(1)
    assert kept["ssim"] < 0.8
    turned = metrics.structure([tile], [255 - tile])
    assert turned["cs"] < 0 and turned["correlation"] == pytest.approx(-1)


def test_structure_averages_tiles_and_shows_the_worst():
    tiles = [textured(seed) for seed in range(10)]
    after = [255 - tiles[0], *tiles[1:]]
    kept = metrics.structure(tiles, after)
    assert kept["correlation"] == pytest.approx(0.8)
    assert kept["correlation_p5"] == pytest.approx(np.percentile([-1] + [1] * 9, 5))
    assert kept["ssim"] == pytest.approx(
        np.mean([metrics.structure([a], [b])["ssim"] for a, b in zip(tiles, after, strict=True)])
    )


@pytest.mark.parametrize("level", [9, (80, 81, 84)])
def test_constant_tiles(level):
    """A level of 245 / 3, too, which no binary number meets."""
    still, tile = flat(level, (64, 64)), noisy()
    assert metrics.structure([still], [still + np.uint8(30)])["correlation"] == 1
    assert metrics.structure([still], [still + np.uint8(30)])["cs"] == pytest.approx(1, abs=1e-4)
    for before, after in ((still, tile), (tile, still)):
        kept = metrics.structure([before], [after])
        assert kept["correlation"] == 0 and kept["cs"] < 0.1


def test_seam_error_by_hand():
    same = (textured(), textured())
    assert metrics.seam_error([same]) == {"mean": 0, "worst": 0}
    half = flat(255)
    half[:10] = 0  # half of the pixels differ by 100
    found = metrics.seam_error([same, (flat(255), half), same, same])
    assert found == pytest.approx({"mean": 12.5, "worst": 50}, abs=1e-3)
    with pytest.raises(StainError, match="no overlap"):
        metrics.seam_error([])


def test_glass_change_by_hand():
    before, mask = flat(240), np.zeros((20, 20), bool)
    mask[:15] = True
    after = before.copy()
    after[..., 0] += 3  # one grey level
    after[:1, :, :] = 230  # 20 of 300 px fall by 10
    after[15:] = 0
    found = metrics.glass_change(before, after, mask)
    assert found == pytest.approx({"mean": (280 - 200) / 300, "p99": 10}, abs=1e-5)
    assert metrics.glass_change(after, before, mask)["mean"] == pytest.approx(-80 / 300, abs=1e-5)
    assert metrics.glass_change(before, before, mask) == {"mean": 0, "p99": 0}
    mask[9:] = False
    assert np.isnan(list(metrics.glass_change(before, after, mask).values())).all()


def test_clipped_share_counts_new_clipping_only():
    before = flat(100, (10, 10))
    before[0] = 255
    after = before.copy()
    after[1, :, 2] = 255
    after[2, :5, 0] = 0
    after[0, :3, 1] = 0  # clipped before, at the other end
    before[3, :, 0] = after[3, :, 0] = 255
    after[3, :2, 2] = 255  # another channel of a pixel that was clipped
    assert metrics.clipped_share(before, after) == pytest.approx(0.17)
    assert metrics.clipped_share(before, before) == 0
    assert metrics.clipped_share(after, before) == 0


# The row of the table
def cohort(strengths=(0.8, 1.0, 1.3), tiles=2):
    units = [[painted(s, seed=10 * u + t) for t in range(tiles)] for u, s in enumerate(strengths)]
    return units, [[masks.neutral_masks(tile) for tile in unit] for unit in units]


def reference_of(units, named, index=1):
    return list(zip(units[index], named[index], strict=True))


def test_the_row_is_what_the_single_measures_say(monkeypatch):
    monkeypatch.setattr(metrics, "SAMPLE_PX", 10**6)
    units, named = cohort(tiles=1)
    after = [[planted_versions(unit[0], n=1, seed=i)[0]] for i, unit in enumerate(units)]
    row = assess(units, after, named, reference_of(units, named))
    flat_after, flat_masks = [unit[0] for unit in after], [unit[0] for unit in named]
    for name in ("nuclei", "stroma"):
        sd, cv = metrics.colour_spread([metrics.nmi(t, m[name]) for t, m in zip(flat_after, flat_masks, strict=True)])
        assert (row[f"nmi_{name}_sd"], row[f"nmi_{name}_cv"]) == (sd, cv)
        assert row[f"lab_{name}"] == pytest.approx(
            metrics.scatter([metrics.mean_lab(t, m[name]) for t, m in zip(flat_after, flat_masks, strict=True)])
        )
    clouds = [metrics.lab(t[m["tissue"]]) for t, m in zip(flat_after, flat_masks, strict=True)]
    template = metrics.lab(units[1][0][named[1][0]["tissue"]])
    assert row["wasserstein"] == pytest.approx(np.mean([distance_of(c, template) for c in clouds]))
    befores = [unit[0] for unit in units]
    assert {k: row[k] for k in ("correlation", "ssim", "cs", "correlation_p5")} == metrics.structure(
        befores, flat_after
    )
    triples = list(zip(befores, flat_after, flat_masks, strict=True))
    glass = [metrics.glass_change(a, b, m["glass"]) for a, b, m in triples]
    assert row["glass_mean"] == pytest.approx(np.mean([g["mean"] for g in glass])) and row["glass_mean"] < -1
    assert row["glass_p99"] == pytest.approx(np.mean([g["p99"] for g in glass]))
    assert row["clipped"] == np.mean([metrics.clipped_share(a, b) for a, b, _ in triples])


def test_tiles_of_a_unit_are_pooled():
    units, named = cohort(tiles=1)
    halves = [[unit[0][:80], unit[0][80:]] for unit in units]
    half_masks = [[{k: m[s] for k, m in n[0].items()} for s in (slice(80), slice(80, None))] for n in named]
    reference = reference_of(units, named)
    whole, split = assess(units, units, named, reference), assess(halves, halves, half_masks, reference)
    for name in ("nmi_nuclei_cv", "nmi_stroma_sd", "lab_nuclei", "lab_stroma", "wasserstein", "glass_p99"):
        assert split[name] == pytest.approx(whole[name], rel=1e-6), name


def test_a_sample_is_seeded_and_near_the_whole(monkeypatch):
    units, named = cohort()
    reference = reference_of(units, named)

    def distance(sample_px, seed):
        monkeypatch.setattr(metrics, "SAMPLE_PX", sample_px)
        return assess(units, units, named, reference, seed=seed)["wasserstein"]

    whole, sampled, again, other = (distance(*x) for x in ((10**6, 0), (3000, 0), (3000, 0), (3000, 1)))
    assert sampled == again != other and sampled != whole
    assert sampled == pytest.approx(whole, rel=0.1)
    turned = distance(10**6, 1)
    assert turned != whole and turned == pytest.approx(whole, rel=0.03), "the directions are seeded as well"


def test_units_without_a_class_are_left_out_and_counted():
    units, named = cohort()
    bare = [flat(250, (SIDE, SIDE))] * 2
    with_bare, with_masks = [*units, bare], [*named, [masks.neutral_masks(t) for t in bare]]
    reference = reference_of(units, named)
    row, more = assess(units, units, named, reference), assess(with_bare, with_bare, with_masks, reference)
    assert more["units_nuclei"] == 3 and more["wasserstein"] == row["wasserstein"]
    assert more["nmi_nuclei_cv"] == row["nmi_nuclei_cv"] and more["lab_stroma"] == row["lab_stroma"]
    alone = assess([bare], [bare], with_masks[-1:], reference)
    assert alone["units_stroma"] == 0 and alone["glass_mean"] == 0
    assert np.isnan([alone[k] for k in ("nmi_nuclei_cv", "nmi_stroma_sd", "lab_nuclei", "wasserstein")]).all()


def test_lists_that_do_not_fit_are_named():
    units, named = cohort()
    reference = reference_of(units, named)
    for before, after, mask in ((units, units[:2], named), (units, [*units[:2], units[2][:1]], named), ([], [], []),
                                ([[]], [[]], [[]]), (units, units, named[1:])):  # fmt: skip
        with pytest.raises(StainError, match="do not correspond"):
            assess(before, after, mask, reference)
    without = [[{k: v for k, v in m.items() if k != "stroma"} for m in unit] for unit in named]
    with pytest.raises(StainError, match="no mask of stroma"):
        assess(units, units, without, reference)
    bare = flat(250, (SIDE, SIDE))
    for wrong in ([], [(bare, masks.neutral_masks(bare))]):
        with pytest.raises(StainError, match="reference has too little tissue"):
            assess(units, units, named, wrong)


def test_a_method_is_judged_by_its_slides_versions_and_windows(capsys):
    units, named = cohort()
    slides, goal = {f"S{i}": [*unit, unit[0]] for i, unit in enumerate(units)}, reference_of(units, named)
    row = metrics.judge_method(None, slides, named, goal)
    assert row == {**assess(units, units, named, goal), "planted": 1.0, "seam": 0.0, "left": 0}
    reinhard = Reinhard()
    made = Normalizer(
        reinhard, reinhard.measure(units[1]), reinhard.measure([tile for unit in units for tile in unit]), 1, 0.0
    )
    changed = metrics.judge_method(made, slides | {"S2": [flat(250, (SIDE, SIDE))] * 2}, named, goal)
    assert changed["left"] == 1 and changed["planted"] < 0.8
    table = metrics.judge_references(
        made, {"nearest": "a", "farthest": "b"}, {"a": units[1], "b": units[2]}, slides, named
    )
    assert list(table.index) == ["nearest", "farthest"] and set(metrics.MEASURES) < set(table)
    assert table.loc["nearest", "wasserstein"] == metrics.judge_method(made, slides, named, goal)["wasserstein"]
    glass = {"a": [flat(250, (SIDE, SIDE))] * 2}
    assert metrics.judge_references(made, {"nearest": "a"}, glass, slides, named).empty
    assert "a cannot be a reference" in capsys.readouterr().out


@pytest.mark.parametrize(("deep", "gained"), [((0.1, 1.0, 0.9), 3), ((0.3, 3.0, 0.7), 0), ((0.2, 1.0, 0.8), 1)])
def test_what_convolutions_add_is_counted(deep, gained):
    names = ["nmi_nuclei_cv", "wasserstein", "cs"]
    table = pd.DataFrame([(0.2, 2.0, 0.8), deep], ["density only", "DCGMM"], names)
    told = metrics.told_by_methods(table, 8)
    assert f"improve {gained} of 3" in told and f"matched SSIM {deep[2]:.4f} against 0.8000." in told
    for lacking in (table.iloc[:1], table.assign(cs=np.nan), table.iloc[:0]):
        assert "cannot be compared" in metrics.told_by_methods(lacking, 1)
