"""Random changes of training tiles: drawn for a whole step at once, applied to any part of it.

Draws are numbers per tile. Every process draws for the whole step and applies its own part, so that the tiles do not
depend on how many processes share it; a tile is changed on its own, so neither do its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_UNIT: Final = np.arange(256, dtype=np.float32) / np.float32(255)
_EPSILON: Final = np.float32(1 / 255)  # keeps the density of black finite
_LOG: Final = np.log((_UNIT + _EPSILON) / (1 + _EPSILON))  # minus the optical density: white is 0
_TURNS: Final = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
_BIAS: Final = 0.2  # of the jitter: glass must stay white
_TRIES: Final = 100
_COLOUR: Final = ("brightness", "saturation", "hue", "contrast", "contrast_first")


def _stain_basis() -> NDArray[np.float64]:
    """Rows: unit optical densities (R, G, B) of haematoxylin, eosin and what is neither.

    Source: Ruifrok and Johnston 2001, Table 1; the third is orthogonal to both, as they do for two stains.
    """
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    basis = np.vstack([stains, np.cross(*stains)])
    unit: NDArray[np.float64] = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    return unit


_BASIS: Final = _stain_basis()


def draws_of(**values: Any) -> np.recarray:
    """A record per tile from arrays whose first axis is the tile: ``draws.top[i]``, ``draws[2:5].top``."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    draws = np.recarray(len(next(iter(arrays.values()))), kinds)
    for name, array in arrays.items():
        draws[name] = array
    return draws


@dataclass(frozen=True)
class CropFlipTurn:
    """A random crop, one of its eight orientations, and jitter of its stains.

    Attributes
    ----------
    crop_px : side of the crop [px]; a smaller tile is taken whole
    stain_jitter : half-width of the factor on each stain's density, drawn around 1; 0 leaves colours exactly alone.
        A fifth of it is the half-width of what is added. Source: Tellez 2018 (IEEE TMI 37:2126), who use 0.05.
    """

    crop_px: int = 128
    stain_jitter: float = 0.0

    def draw(self, count: int, height: int, width: int, random: np.random.Generator) -> np.recarray:
        """Numbers for `count` tiles of `height` × `width` [px]; as many are drawn with jitter as without."""
        side = min(self.crop_px, height, width)
        jitter = self.stain_jitter
        return draws_of(
            top=random.integers(0, height - side + 1, count),
            left=random.integers(0, width - side + 1, count),
            turn=random.integers(0, 4, count),
            flip=random.random(count) < 0.5,
            gain=1 + jitter * random.uniform(-1, 1, (count, 3)),
            bias=_BIAS * jitter * random.uniform(-1, 1, (count, 3)),
        )  # fmt: skip

    def apply(self, tiles: NDArray[np.uint8], draws: np.recarray) -> Tensor:
        """uint8 RGB (n, H, W, 3) → float32 (n, 3, side, side) in [0, 1], channels last in memory."""
        side = min(self.crop_px, *tiles.shape[1:3])
        out = np.empty((len(tiles), side, side, 3), np.float32)
        jitter = self.stain_jitter > 0
        changes = _colour_changes(draws.gain, draws.bias) if jitter else []
        for i, tile in enumerate(tiles):
            top, left = int(draws.top[i]), int(draws.left[i])
            crop = _turned(tile[top : top + side, left : left + side], int(draws.turn[i]), bool(draws.flip[i]))
            cv2.LUT(crop, _LOG if jitter else _UNIT, out[i])
            if jitter:
                cv2.transform(out[i], changes[i], out[i])
        values = torch.from_numpy(out)
        if jitter:
            values.exp_().sub_(float(_EPSILON)).clamp_(0, 1)
        return values.permute(0, 3, 1, 2)


def _turned(crop: NDArray[np.uint8], turn: int, flip: bool) -> NDArray[Any]:
    """`crop` turned by `turn` quarters counter-clockwise, then flipped upside down."""
    turned = cv2.rotate(crop, _TURNS[turn]) if turn else crop
    return cv2.flip(turned, 0) if flip else turned


def _colour_changes(gain: NDArray[np.float64], bias: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    """Per tile the 3 × 4 matrix that takes _LOG of old colours to the logarithm of new ones plus _EPSILON.

    Densities are split into stains, scaled and shifted there, and joined: an affine map of the logarithms.
    """
    split = np.linalg.inv(_BASIS)
    matrix = np.einsum("ks,ns,sc->nck", split, gain, _BASIS)
    offset = np.log1p(_EPSILON) - bias @ _BASIS
    return list(np.concatenate([matrix, offset[:, :, None]], axis=2).astype(np.float32))


@dataclass(frozen=True)
class DeepPathDistortion:
    """What DeepPATH trained with: a distorted box resized to a square, a mirror, and four changes of colour.

    Source: DeepPATH, ``inception/image_processing.py`` (TF-slim), and TensorFlow's sample_distorted_bounding_box,
    random_saturation (in HSV) and random_contrast (around each channel's mean). Two differences: every tile is
    resized bilinearly, where their four threads each had a method of their own, and the resize does not alias. Their
    call asks for a tenth of the tile at least, so the areas from 0.05 to 0.1 that it also names never occur.

    Attributes
    ----------
    side_px : side of the result [px]
    """

    side_px: int = 299

    def draw(self, count: int, height: int, width: int, random: np.random.Generator) -> np.recarray:
        """Numbers for `count` tiles of `height` × `width` [px]."""
        return draws_of(
            box=np.array([_distorted_box(height, width, random) for _ in range(count)], np.int64).reshape(-1, 4),
            mirror=random.random(count) < 0.5,
            brightness=random.uniform(-32 / 255, 32 / 255, count),
            saturation=random.uniform(0.5, 1.5, count),
            hue=random.uniform(-0.2, 0.2, count),
            contrast=random.uniform(0.5, 1.5, count),
            contrast_first=random.random(count) < 0.5,
        )  # fmt: skip

    def apply(self, tiles: NDArray[np.uint8], draws: np.recarray) -> Tensor:
        """uint8 RGB (n, H, W, 3) → float32 (n, 3, side_px, side_px) in [0, 1], channels last in memory."""
        from torchvision.transforms.v2 import functional as F

        side = [self.side_px, self.side_px]
        out = np.empty((len(tiles), *side, 3), np.float32)
        for i, tile in enumerate(tiles):
            top, left, high, wide = draws.box[i].tolist()
            # a copy: the tile may be a read-only map of a file
            box = torch.from_numpy(tile[top : top + high, left : left + wide].copy()).permute(2, 0, 1)[None]
            square = F.resize(box, side, antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
            cv2.LUT(cv2.flip(square, 1) if draws.mirror[i] else square, _UNIT, out[i])
            _distort_colour(out[i], {name: float(draws[name][i]) for name in _COLOUR})
        return torch.from_numpy(out).clamp_(0, 1).permute(0, 3, 1, 2)


def _distorted_box(height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) as TensorFlow draws it: an aspect, then a height among those that fit."""
    for _ in range(_TRIES):
        aspect = random.uniform(0.75, 1.33)
        low = round((0.05 * height * width / aspect) ** 0.5)
        high = min(round((height * width / aspect) ** 0.5), height, int((width + 0.4999) / aspect))
        tall = int(random.integers(min(low, high), high + 1))
        wide = round(tall * aspect)
        if wide <= width and tall * wide >= 0.1 * height * width:
            return int(random.integers(0, height - tall + 1)), int(random.integers(0, width - wide + 1)), tall, wide
    return 0, 0, height, width


def _distort_colour(tile: NDArray[np.float32], draw: Mapping[str, float]) -> None:
    """Change float (h, w, 3) in place by one tile's draws; the result may leave [0, 1]."""
    tile += np.float32(draw["brightness"])
    if draw["contrast_first"]:
        _contrast(tile, draw["contrast"])
    np.maximum(tile, 0, out=tile)
    hsv = cv2.cvtColor(tile, cv2.COLOR_RGB2HSV)  # degrees, and shares
    turn, factor = 360 * draw["hue"], draw["saturation"]
    cv2.transform(hsv, np.array([[1, 0, 0, turn], [0, factor, 0, 0], [0, 0, 1, 0]], np.float32), hsv)
    np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, tile)
    if not draw["contrast_first"]:
        _contrast(tile, draw["contrast"])


def _contrast(tile: NDArray[np.float32], factor: float) -> None:
    """Scale float (h, w, 3) around each channel's mean, in place."""
    shift = np.array(cv2.mean(tile)[:3]) * (1 - factor)
    cv2.transform(tile, np.column_stack([np.eye(3) * factor, shift]).astype(np.float32), tile)
