"""Optical density and HSD: every colour survives, hand-computed values; and where glass is."""

import json

import numpy as np
import pytest
import torch

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain import colour
from deeplrhe_utils.stain.glass import Glass, empty_glass, find_glass, white_level
from tests.stain_tiles import GLASS, hsd_to_od, painted

SQRT3 = np.sqrt(3)


def every_colour(first_red, reds=16):
    """All colours with so many values of red, (reds × 256 × 256, 3)."""
    grid = np.meshgrid(np.arange(first_red, first_red + reds), np.arange(256), np.arange(256), indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 3).astype(np.uint8)


def test_every_8_bit_colour_survives_hsd():
    for first_red in range(0, 256, 16):
        rgb = every_colour(first_red)
        hsd = colour.od_to_hsd(colour.optical_density(rgb))
        assert np.array_equal(colour.density_to_rgb(hsd_to_od(hsd)), rgb), f"red from {first_red} on"


def test_numpy_and_torch_give_the_same():
    rgb = np.concatenate([every_colour(first, 1)[::7] for first in (0, 1, 97, 254, 255)])
    ours, theirs = colour.optical_density(rgb), colour.optical_density(torch.from_numpy(rgb))
    for step in (colour.od_to_hsd, lambda x: x):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)
        assert (ours.dtype, theirs.dtype) == (np.float32, torch.float32)
        ours, theirs = step(ours), step(theirs)
    again = colour.density_to_rgb(torch.from_numpy(hsd_to_od(theirs.numpy())))
    assert np.array_equal(again.numpy(), rgb)


def test_density_of_grey_values_by_hand_and_chroma_whatever_the_thickness():
    od = colour.optical_density(np.array([255, 127, 63, 0], np.uint8))
    np.testing.assert_allclose(od, [0, np.log(2), np.log(4), np.log(256)], rtol=1e-6)
    thin, thick = (colour.od_to_hsd(strength * np.array([0.5, 1.2, 0.7])) for strength in (1.0, 2.0))
    np.testing.assert_allclose(thick[1:], thin[1:], rtol=0.03)
    assert thick[0] == pytest.approx(2 * thin[0])


@pytest.mark.parametrize(
    ("od", "hsd"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),  # white: no chroma, not the corner of the triangle
        ((0.3, 0.6, 0.0), (0.3, 0.0, 0.6 / (SQRT3 * 0.33))),
        ((0.9, 0.0, 0.0), (0.3, 0.6 / 0.33, 0.0)),
        ((0.0, 0.05, 0.4), (0.15, -0.15 / 0.18, -0.35 / (SQRT3 * 0.18))),
    ],
)
def test_hsd_of_hand_computed_colours(od, hsd):
    np.testing.assert_allclose(colour.od_to_hsd(np.array(od)), hsd, atol=1e-12)
    np.testing.assert_allclose(hsd_to_od(np.array(hsd)), od, atol=1e-12)


# Glass
def test_glass_is_found_where_it_was_painted_and_one_percent_is_enough():
    tile = painted("lab 1", 3, light=(0.04, 0.02, 0.07))
    found = find_glass(tile)
    assert found.sampled_px == 48 * 48
    assert found.share == pytest.approx(GLASS[::4, ::4].mean(), abs=0.03), "a window of 7 px at the edge sees tissue"
    np.testing.assert_allclose(found.white, (0.04, 0.02, 0.07), atol=0.006)
    np.testing.assert_allclose(white_level([tile]), found.white)
    tile = np.full((400, 400, 3), 120, np.uint8)
    tile[:60, :60] = 240  # 2.25 %, of which the window leaves 57² px
    assert find_glass(tile).white is not None
    tile[36:] = tile[:, 36:] = 120
    assert 0 < find_glass(tile).share < 0.01 and find_glass(tile).white is None


def test_pale_rough_or_coloured_fields_are_no_glass():
    random = np.random.default_rng(0)
    rough = colour.density_to_rgb(np.abs(random.normal(0.15, 0.05, (64, 64, 1))).repeat(3, 2).astype(np.float32))
    lilac = np.full((64, 64, 3), (228, 180, 228), np.uint8)
    dark = np.full((64, 64, 3), 180, np.uint8)
    for tile in (rough, lilac, dark):
        assert find_glass(tile).share < 0.01 and find_glass(tile).white is None
        with pytest.raises(StainError, match=r"white level .* unknown.*Got: .*Expected: .*Give tiles with some glass"):
            white_level([tile])
    assert find_glass(np.full((64, 64, 3), 230, np.uint8)).share == 1


def test_glass_adds_up_in_any_order_and_survives_json():
    parts = [find_glass(painted("lab 2", seed)) for seed in range(3)]
    whole = parts[0] + parts[1] + parts[2]
    other = parts[2] + (parts[0] + parts[1])
    again = Glass.from_json(json.loads(json.dumps(whole.to_json())))
    for one in (other, again, whole + empty_glass()):
        assert np.array_equal(one.counts, whole.counts) and one.sampled_px == whole.sampled_px
    assert whole.sampled_px == sum(part.sampled_px for part in parts)
    none = Glass.from_json(json.loads(json.dumps(empty_glass().to_json())))
    assert none.counts.shape == (3, 256) and none.white is None and none.share == 0
