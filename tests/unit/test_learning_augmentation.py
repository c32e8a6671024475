"""Random changes of tiles: reproducible, the same in parts as whole, and harmless where they must be."""

import cv2
import numpy as np
import pytest
import torch

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.learning.tiles import augmentation
from deeplrhe_utils.learning.tiles.augmentation import CropFlipTurn, DeepPathDistortion

PINK, PURPLE = (230, 150, 190), (110, 60, 140)


def tissue(count=6, side=64, seed=0):
    """Tiles of two stains and some noise, uint8 (count, side, side, 3)."""
    random = np.random.default_rng(seed)
    nuclei = random.random((count, side, side, 1)) < 0.3
    colours = np.where(nuclei, PURPLE, PINK) + random.integers(-15, 16, (count, side, side, 3))
    return colours.astype(np.uint8)


def as_unit(tiles):
    return torch.from_numpy(tiles.copy()).permute(0, 3, 1, 2).float().div(255)


BOTH = pytest.mark.parametrize(
    ("change", "side"),
    [(CropFlipTurn(48), 48), (CropFlipTurn(48, 0.05), 48), (DeepPathDistortion(75), 75)],
    ids=["geometry", "jitter", "deeppath"],
)


@BOTH
def test_shape_range_and_memory(change, side):
    tiles = tissue()
    out = change.apply(tiles, change.draw(6, 64, 64, generator(1, "a")))
    assert out.shape == (6, 3, side, side) and out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert not torch.equal(out[0], out[1])


@BOTH
def test_the_generator_fixes_everything_and_parts_equal_the_whole(change, side):
    tiles = tissue(7)
    draws = change.draw(7, 64, 64, generator(1, "a"))
    whole = change.apply(tiles, draws)
    assert torch.equal(change.apply(tiles, change.draw(7, 64, 64, generator(1, "a"))), whole)
    assert not torch.equal(change.apply(tiles, change.draw(7, 64, 64, generator(2, "a"))), whole)
    for part in (slice(0, 1), slice(1, 4), slice(4, 7), slice(3, 3)):
        assert len(draws[part]) == part.stop - part.start
        assert torch.equal(change.apply(tiles[part], draws[part]), whole[part])


@BOTH
def test_tiles_of_a_read_only_map_stay_as_they_are(change, side, tmp_path):
    np.save(tmp_path / "t.npy", tissue(3))
    tiles = np.load(tmp_path / "t.npy", mmap_mode="r")
    change.apply(tiles, change.draw(3, 64, 64, generator(0)))
    assert np.array_equal(tiles, tissue(3))


def test_without_jitter_only_the_geometry_changes():
    tiles, change = tissue(40), CropFlipTurn(48)
    draws = change.draw(40, 64, 64, generator(3))
    out = change.apply(tiles, draws)
    for i, tile in enumerate(tiles):
        top, left = draws.top[i], draws.left[i]
        crop = np.rot90(tile[top : top + 48, left : left + 48], draws.turn[i])
        crop = crop[::-1] if draws.flip[i] else crop
        assert torch.equal(out[i], as_unit(crop[None])[0])
    assert {(int(t), bool(f)) for t, f in zip(draws.turn, draws.flip, strict=True)} == {
        (t, f) for t in range(4) for f in (False, True)
    }
    assert draws.top.min() == 0 and draws.top.max() == 16  # both edges are reached


def test_jitter_moves_colours_and_leaves_geometry():
    tiles = tissue(5)
    plain, jittered = CropFlipTurn(48), CropFlipTurn(48, 0.05)
    a = plain.apply(tiles, plain.draw(5, 64, 64, generator(4)))
    b = jittered.apply(tiles, jittered.draw(5, 64, 64, generator(4)))
    assert 0.002 < float((a - b).abs().mean()) < 0.05
    for x, y in zip(a, b, strict=True):
        assert np.corrcoef(x.flatten(), y.flatten())[0, 1] > 0.98


def test_jitter_is_what_its_formula_says():
    """One colour by hand: density into stains, times gain, plus bias, and back."""
    tiles = np.full((1, 8, 8, 3), (150, 80, 170), np.uint8)
    change = CropFlipTurn(8, 0.3)
    draws = change.draw(1, 8, 8, generator(5))
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    basis = np.array([v / np.linalg.norm(v) for v in (haematoxylin, eosin, np.cross(haematoxylin, eosin))])
    small = 1 / 255
    density = -np.log((np.array([150, 80, 170]) / 255 + small) / (1 + small))
    stains = np.linalg.solve(basis.T, density) * draws.gain[0] + draws.bias[0]
    expected = np.clip(np.exp(-stains @ basis) * (1 + small) - small, 0, 1)
    np.testing.assert_allclose(change.apply(tiles, draws)[0, :, 0, 0], expected, atol=2e-6)


def test_glass_stays_nearly_white_and_hue_stays_near():
    change = CropFlipTurn(32, 0.05)
    draws = change.draw(200, 32, 32, generator(6))
    white = change.apply(np.full((200, 32, 32, 3), 255, np.uint8), draws)
    assert float(white.min()) > 0.97
    tiles = tissue(200, 32)
    after = change.apply(tiles, draws).permute(0, 2, 3, 1).contiguous().numpy()
    hue = lambda x: cv2.cvtColor(x.mean((0, 1), dtype=np.float32)[None, None], cv2.COLOR_RGB2HSV)[0, 0, 0]  # noqa: E731
    moved = np.array([hue(a) - hue(b / np.float32(255)) for a, b in zip(after, tiles, strict=True)])
    assert 1 < moved.std() < 10 and abs(moved).max() < 25  # degrees of 360


def test_a_tile_smaller_than_the_crop_or_that_no_box_fits_is_taken_whole():
    tiles, change = tissue(4, 40), CropFlipTurn(128, 0.05)
    out = change.apply(tiles, change.draw(4, 40, 40, generator(0)))
    assert out.shape == (4, 3, 40, 40)
    assert DeepPathDistortion().draw(3, 4, 400, generator(0)).box.tolist() == [[0, 0, 4, 400]] * 3


@pytest.mark.parametrize(("height", "width"), [(512, 512), (299, 512), (40, 33)])
def test_deeppath_boxes_lie_inside_and_keep_their_limits(height, width):
    boxes = DeepPathDistortion().draw(3000, height, width, generator(7)).box
    top, left, high, wide = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + high <= height).all() and (left + wide <= width).all()
    share = high * wide / (height * width)
    assert share.min() >= 0.1 and share.max() <= 1
    if height == width == 512:
        assert ((wide / high > 0.74) & (wide / high < 1.34)).all()
        assert share.min() < 0.12 and share.max() > 0.9 and 0.3 < share.mean() < 0.6


def neutral(**changes):
    """Draws that change nothing but what is named."""
    values = {"box": [[0, 0, 64, 64]], "mirror": [False], "brightness": [0.0], "saturation": [1.0], "hue": [0.0],
              "contrast": [1.0], "contrast_first": [False], **changes}  # fmt: skip
    return augmentation.draws_of(**values)


def test_deeppath_colour_steps_are_tensorflows():
    tiles, change = tissue(1), DeepPathDistortion(64)
    x = as_unit(tiles)
    close = lambda out, expected: torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)  # noqa: E731
    close(change.apply(tiles, neutral()), x)
    close(change.apply(tiles, neutral(mirror=[True])), x.flip(3))
    close(change.apply(tiles, neutral(brightness=[-0.1])), (x - 0.1).clamp(0, 1))
    mean = x.mean((2, 3), keepdim=True)
    close(change.apply(tiles, neutral(contrast=[0.5])), (x - mean) * 0.5 + mean)
    hsv = cv2.cvtColor(x[0].permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2HSV)
    for name, factor, channel in (("saturation", 1.5, 1), ("saturation", 0.5, 1), ("hue", 0.2, 0), ("hue", -0.2, 0)):
        new = hsv.copy()
        new[..., channel] = (new[..., 0] + 360 * factor) % 360 if name == "hue" else np.clip(new[..., 1] * factor, 0, 1)
        expected = torch.from_numpy(cv2.cvtColor(new, cv2.COLOR_HSV2RGB)).permute(2, 0, 1)[None]
        torch.testing.assert_close(change.apply(tiles, neutral(**{name: [factor]})), expected, atol=1e-4, rtol=0)


def test_deeppath_has_two_orders_of_colour():
    draws = DeepPathDistortion().draw(200, 64, 64, generator(8))
    assert 60 < draws.contrast_first.sum() < 140 and 60 < draws.mirror.sum() < 140
    tiles, change = tissue(1), DeepPathDistortion(64)
    both = [change.apply(tiles, neutral(contrast=[1.5], saturation=[0.5], contrast_first=[f])) for f in (False, True)]
    assert not torch.allclose(*both, atol=1e-3)
