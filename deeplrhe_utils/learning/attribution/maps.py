"""Which pixels of a tile a score rests on: integrated gradients and Grad-CAM, for one target.

Sources: Sundararajan 2017, "Axiomatic Attribution for Deep Networks"; Selvaraju 2017, "Grad-CAM". Both explain the
log-odds of the target's probability: the logit of a sigmoid head; of a softmax head the target's logit minus the
logarithm of the summed exponentials of the others, which no constant added to all logits can change. Whether such
maps say anything about the network is a question for `learning.attribution.sanity`.

Networks are never changed: all is done on a copy, in evaluation mode and in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.learning.attribution.places import Probe, check_picture
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork
from deeplrhe_utils.learning.recipes.scoring import as_input

_Tile = NDArray[np.uint8]
_Map = NDArray[np.float32]
GRADIENTS, CAM = "integrated gradients", "Grad-CAM"
TOLERANCE: Final = 0.01
"""Largest relative gap from completeness."""
MOST_STEPS: Final = 81
BATCH: Final = 9
"""Gradients at a time: bounds memory; may change the last digit."""
NEGLIGIBLE_LOGIT: Final = 0.001
"""Gap that is accepted however small the change is: it moves no probability by more than 0.00025."""


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients of one tile.

    Attributes
    ----------
    map : float32 (h, w), signed, summed over red, green and blue [logit]; with steps → ∞ its sum is the change of the
        log-odds from the baseline to the tile (completeness)
    baseline_logit : log-odds of white
    gap : sum of the map minus that change [logit]
    relative_gap : size of the gap by the size of the change, ≥ 0; infinite where nothing changed and the map has a sum
    steps : gradients that were averaged
    complete : whether the relative gap is within the tolerance, or the gap within 0.001 logit
    note : "" or why the map is empty
    """

    map: _Map
    baseline_logit: float
    gap: float
    relative_gap: float
    steps: int
    note: str = ""


@dataclass(frozen=True)
class Cam:
    """Grad-CAM of one tile.

    Attributes
    ----------
    map : float32 (h, w), ≥ 0: evidence for the target, linear between the cells' centres [logit]
    cells : float32 (rows, columns), signed, before negative evidence is cut off [logit]
    layer : module whose output was weighted
    placed : how the cells were placed on the tile
    note : "" or why the map is empty
    """

    map: _Map
    cells: _Map
    layer: str
    placed: str
    note: str = ""


@dataclass(frozen=True)
class Attribution:
    """What one target's score of one tile rests on.

    Attributes
    ----------
    target : name of the target
    score : probability [0–1], computed in float32
    logit : its log-odds
    integrated, cam : the maps
    """

    target: str
    score: float
    logit: float
    integrated: Integrated
    cam: Cam


def attribute(network: TileNetwork, tiles: Sequence[_Tile], target: str) -> list[Attribution]:
    """Integrated gradients and Grad-CAM of some tiles; each tile's maps do not depend on the others.

    Integrated gradients go from white to the tile: 1.0 in every channel, glass without tissue, is what "nothing there"
    looks like in transmitted light, so glass in the tile gets nothing.

    Parameters
    ----------
    network : not changed; its weights may be on any device
    tiles : sequence of uint8 RGB (h, w, 3)
        As the network was trained on them: normalized, at the stored size; sides of 32 px or more.
    target : one of ``network.config.targets``

    Returns list of Attribution: one per tile, in order.

    Raises InputError: there is no tile, or one is no uint8 RGB picture. ModelError: unknown target, weights or output
    that are not finite, or a network without feature map.
    """
    if not len(tiles):
        raise InputError("There is no tile to explain", fix="Choose at least one")
    for number, tile in enumerate(tiles):
        check_picture(tile, f"Tile {number}")
    probe = Probe(network, target)
    return [_attribute(probe, tile) for tile in tiles]


def _attribute(probe: Probe, tile: _Tile) -> Attribution:
    inputs = as_input(np.array(tile[None])).to(probe.device)
    logit = float(probe.logits(inputs))
    return Attribution(probe.target, float(expit(logit)), logit, integrated_of(probe, inputs), cam_of(probe, inputs))


def sum_gradients(probe: Probe, start: Tensor, end: Tensor, fractions: NDArray[np.float64]) -> Tensor:
    """Sum of the gradients, float64 (3, h, w), at `fractions` (n,) of the way from `start` to `end` (1, 3, h, w)."""
    total = torch.zeros(start.shape[1:], dtype=torch.float64, device=start.device)
    for first in range(0, len(fractions), BATCH):
        part = torch.as_tensor(fractions[first : first + BATCH], dtype=torch.float32, device=start.device)
        points = start + (end - start) * part.view(-1, 1, 1, 1)
        points = points.contiguous(memory_format=torch.channels_last)
        total += probe.gradients(points).sum(0, dtype=torch.float64)
    return total


def integrated_of(probe: Probe, end: Tensor) -> Integrated:
    """Integrated gradients of one input (1, 3, h, w).

    Midpoint rule: steps are tripled from 9 until the sum is complete, and every gradient is used again.
    """
    start = torch.ones_like(end)
    low, high = float(probe.logits(start)), float(probe.logits(end))
    change, steps = high - low, 9
    total = sum_gradients(probe, start, end, (np.arange(steps) + 0.5) / steps)
    while True:
        found = ((end - start)[0] * (total / steps)).sum(0)
        gap = float(found.sum()) - change
        relative = abs(gap) / abs(change) if change else (0.0 if gap == 0 else float("inf"))
        if relative <= TOLERANCE or abs(gap) <= NEGLIGIBLE_LOGIT or 3 * steps > MOST_STEPS:
            break
        steps *= 3
        new = np.flatnonzero(np.arange(steps) % 3 != 1)  # the others were the midpoints before
        total += sum_gradients(probe, start, end, (new + 0.5) / steps)
    picture = found.to(torch.float32).cpu().numpy()
    equal = "The tile equals its baseline: there is nothing to attribute"
    constant = "No pixel changes the score between baseline and tile: the network is constant here"
    note = "" if picture.any() else equal if torch.equal(start, end) else constant
    return Integrated(picture, low, gap, relative, steps, note)


def cam_of(probe: Probe, inputs: Tensor) -> Cam:
    """Grad-CAM of one input (1, 3, h, w): channels weighted by their mean gradient."""
    where = probe.feature_map(inputs)
    values, slopes = probe.activations(inputs, where.layer)
    cells = torch.einsum("c,cij->ij", slopes.mean((1, 2)), values).cpu().numpy()
    positive = where.spread(np.maximum(cells, 0), int(inputs.shape[2]), int(inputs.shape[3]))
    note = "" if positive.any() else "No cell speaks for the target" if cells.any() else "The network is constant here"
    return Cam(positive, cells, where.layer, where.placed, note)
