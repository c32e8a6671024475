"""Sums over the blocks of a tile; coarser cells of a picture; and the damage that strong JPEG compression does.

JPEG works on blocks of 8 × 8 px of the scan. Compressed strongly, each keeps little more than its mean, and the blocks'
edges stand out: neighbouring pixels differ more across an edge than inside. This is measured in windows of 64 px, along
rows and along columns, with the grid's place taken from the tile itself; a window is damaged where both directions show
an *excess* (grey levels across less inside) and a *ratio* (across over inside) above the cuts. The excess alone would
fire on outlines that lie on the grid, the ratio alone on glass and blur. Calibration: docs/quality-filter.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_PX: Final = 8
"""Side of a block of JPEG [px of the scan]."""
JPEG_EXCESS: Final = 3.0
"""Mean difference across block edges less that inside blocks from which a window is damaged [grey levels]."""
JPEG_RATIO: Final = 1.25
"""The first over the second, likewise."""
WINDOW_PX: Final = 64
"""Side of the windows [px of the tile]; 32 µm at 0.5 µm/px."""
_LARGEST_STEP: Final = 20  # differences above count as this many grey levels: one outline must not decide a window
_QUIET: Final = 0.3  # grey levels added on both sides of the ratio
_DOUBT: Final = 1.0  # excess below which a window says nothing about where the grid lies [grey levels]
_CLEAR: Final = 4.0  # excess above this counts no more [grey levels]
LEAST_BLOCK_PX: Final = 3.5
"""Narrower blocks cannot be told from texture [px of the tile]."""

_Map = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def starts(length: int, step: int) -> NDArray[np.int_]:
    """First pixels of blocks of `step` px along a side of `length` px.

    A rest of less than half a block joins its neighbour; there is always one block.
    """
    return np.arange(0, max(length - step // 2, 1), step)


def mean_grey(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(R + G + B) / 3 of a tile (height, width, 3), uint8, to within a grey level.

    Rounded twice, because that is three times as fast as a matrix product.
    """
    red, green, blue = cv2.split(tile)
    return np.asarray(cv2.addWeighted(cv2.addWeighted(red, 0.5, green, 0.5, 0), 2 / 3, blue, 1 / 3, 0), np.uint8)


def block_sums(values: _Map, step: int) -> _Map:
    """Sum of `values` over blocks of `step` px (:func:`starts`).

    Parameters
    ----------
    values : ndarray, shape (height, width), float32
    step : side of a block [px]

    Returns ndarray, shape (blocks down, blocks across), float32.
    """
    rows = _row_sums(values, step)
    return np.asarray(np.add.reduceat(rows, starts(values.shape[1], step), axis=1), np.float32)


def _row_sums(values: _Map, step: int) -> _Map:
    """Sums down the rows of each band of blocks, shape (bands, width)."""
    first = starts(values.shape[0], step)
    # Not by a product of matrices: its threads would compete with those of the other worker processes.
    bands = [cv2.reduce(part, 0, cv2.REDUCE_SUM) for part in np.split(values, first[1:])]
    return np.asarray(np.concatenate(bands), np.float32)


def spread_blocks(blocks: _Mask, shape: tuple[int, ...], step: int) -> _Mask:
    """The pixels of blocks: the inverse of :func:`block_sums` for masks.

    Parameters
    ----------
    blocks : ndarray, shape (blocks down, blocks across), bool
    shape : (height, width, …); of the tile [px]
    step : side of a block [px]

    Returns ndarray, shape (height, width), bool.
    """
    down, across = (np.searchsorted(starts(n, step), np.arange(n), side="right") - 1 for n in shape[:2])
    return np.asarray(blocks[np.ix_(down, across)], np.bool_)


def disc(width_um: float, mpp: float) -> NDArray[np.uint8]:
    """A disc for morphology, of `width_um` [µm] on a picture of `mpp` [µm/px]: uint8, an odd number of px wide."""
    side = 2 * round(width_um / mpp / 2) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def to_cells(picture: NDArray[np.uint8], mpp: float, cell_um: float) -> tuple[NDArray[np.uint8], float]:
    """A picture (height, width, 3) of `mpp` [µm/px] in cells of about `cell_um`, and their width [µm]."""
    factor = max(cell_um / mpp, 1.0)
    size = max(1, round(picture.shape[1] / factor)), max(1, round(picture.shape[0] / factor))
    if size == (picture.shape[1], picture.shape[0]):
        return picture, mpp
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), mpp * factor


def touched(mask: _Mask, shape: tuple[int, ...]) -> _Mask:
    """Cells, an array of `shape`, of which the finer `mask` covers more than 0.2 %."""
    share = cv2.resize(mask.astype(np.uint8) * 255, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(share > 0, np.bool_)


def to_pixels(cells: NDArray[np.uint8], shape: tuple[int, ...]) -> _Mask:
    """The pixels, an array of `shape`, of cells that are not 0."""
    nearest = cv2.resize(cells, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(nearest != 0, np.bool_)


def connected_components(
    mask: NDArray[np.uint8], length_um: float, margin_um: float, mpp: float
) -> Iterator[tuple[tuple[slice, slice], _Mask]]:
    """Connected parts that may be `length_um` long [µm]: windows with a margin [µm], and the parts in them."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    margin = int(margin_um / mpp) + 2
    for i, (x, y, w, h, _area) in enumerate(stats[1:].tolist(), start=1):
        if np.hypot(w, h) * mpp >= length_um:
            window = slice(max(y - margin, 0), y + h + margin), slice(max(x - margin, 0), x + w + margin)
            yield window, np.asarray(labels[window] == i, np.bool_)


def is_long(part: _Mask, length_um: float, long: float, mpp: float) -> bool:
    """Whether a part's length, its area over its greatest width, reaches `length_um` [µm] and `long` widths."""
    inside = cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 3)
    width = 2 * float(inside.max()) * mpp
    length = np.count_nonzero(part) * mpp**2 / width
    return bool(length >= max(length_um, long * width))


def jpeg_damage(tile: NDArray[np.uint8], block_px: float = JPEG_PX) -> float:
    """Share of a tile's windows in which the blocks of JPEG stand out, in [0, 1] (ours); as for :func:`blockiness`."""
    excess, ratio = blockiness(tile, block_px)
    return float(((excess >= JPEG_EXCESS) & (ratio >= JPEG_RATIO)).mean())


def blockiness(tile: NDArray[np.uint8], block_px: float = JPEG_PX) -> tuple[_Map, _Map]:
    """Excess and ratio of each window, the lesser of both directions, for the grid that stands out most.

    Parameters
    ----------
    tile : ndarray, shape (height, width, 3), uint8; RGB, or its :func:`mean_grey` (height, width)
    block_px : side of a block in this tile [px]: 8 × the slide's / the tile's resolution [µm/px]

    Returns excess, ratio : ndarray, shape (windows down, windows across), float32: grey levels; 1 where nothing stands
    out.
    """
    grey = tile if tile.ndim == 2 else mean_grey(tile)
    across, inside = _edges(grey, float(block_px))
    turned = np.asarray(cv2.transpose(grey), np.uint8)
    down, inside_down = (one.swapaxes(0, 1) for one in _edges(turned, float(block_px)))
    both = np.minimum((across - inside)[..., None], (down - inside_down)[..., None, :])
    strength = np.clip(both - _DOUBT, 0, _CLEAR).mean(axis=(0, 1))
    p, q = np.unravel_index(int(strength.argmax()), strength.shape)  # one grid per tile
    ratios = [(on[..., k] + _QUIET) / (off[..., k] + _QUIET)
              for on, off, k in ((across, inside, p), (down, inside_down, q))]  # fmt: skip
    return np.asarray(both[..., p, q], np.float32), np.asarray(np.minimum(*ratios), np.float32)


def _edges(grey: NDArray[np.uint8], block_px: float) -> tuple[_Map, _Map]:
    """Mean step across block edges and inside blocks along the rows of `grey`, per window and phase of the grid."""
    steps = np.minimum(cv2.absdiff(grey[:, 1:], grey[:, :-1]), _LARGEST_STEP).astype(np.float32)
    on, off = _combs(grey.shape[1], block_px)
    bands = np.diff(starts(grey.shape[0], WINDOW_PX), append=grey.shape[0]).astype(np.float32)
    profile = _row_sums(steps, WINDOW_PX) / bands[:, None]
    across, inside = (profile @ one.reshape(len(one), -1) for one in (on, off))
    shape = len(bands), -1, on.shape[2]
    return across.reshape(shape).astype(np.float32), inside.reshape(shape).astype(np.float32)


@lru_cache(maxsize=16)
def _combs(length: int, block_px: float) -> tuple[_Map, _Map]:
    """Weights that average steps on block edges and well inside blocks, shape (length − 1, windows, phases)."""
    step = 1.0 if block_px > 6 else 0.5
    phases = np.arange(0, block_px - step / 2 + 0.01, step)
    edge = np.arange(1, length)[:, None, None]  # the step between pixel i − 1 and i lies at i
    away = np.abs((edge - phases + block_px / 2) % block_px - block_px / 2)
    window = (np.searchsorted(starts(length, WINDOW_PX), edge, side="right") - 1) == np.arange(
        len(starts(length, WINDOW_PX))
    )[None, :, None]
    on, off = window * (away <= 0.501), window * (away >= 1.0)
    on, off = on / np.maximum(on.sum(axis=0), 1), off / np.maximum(off.sum(axis=0), 1)
    return on.astype(np.float32), off.astype(np.float32)
