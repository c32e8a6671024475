"""Which pixels of a tile a score rests on: integrated gradients and Grad-CAM, for one target.

Sources: Sundararajan 2017, "Axiomatic Attribution for Deep Networks"; Selvaraju 2017, "Grad-CAM". Both explain the
log-odds of the target's probability: the logit of a sigmoid head; of a softmax head the target's logit minus the
logarithm of the summed exponentials of the others, which no constant added to all logits can change. Whether such
maps say anything about the network is a question for :mod:`~deeplrhe_utils.learning.attribution_sanity`.

Networks are never changed: all is done on a copy, in evaluation mode and in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.learning.attribution_places import Probe, check_picture
from deeplrhe_utils.learning.models import TileNetwork
from deeplrhe_utils.learning.scoring import as_input

Tile = NDArray[np.uint8]
Map = NDArray[np.float32]
GRADIENTS, CAM = "integrated gradients", "Grad-CAM"
METHODS: Final = (GRADIENTS, CAM)
BASELINES: Final = ("white", "blur")
NEGLIGIBLE_LOGIT: Final = 0.001
"""Gap that is accepted however small the change is: it moves no probability by more than 0.00025."""
BLUR_SHARE: Final = 1 / 16
"""Standard deviation of the blurred baseline as a share of the tile's side: wider than a nucleus."""


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients of one tile.

    Attributes
    ----------
    map : float32 (h, w), signed, summed over red, green and blue [logit]; with steps → ∞ its sum is the change of the
        log-odds from the baseline to the tile (completeness)
    baseline : "white" or "blur"
    baseline_logit : log-odds of the baseline
    gap : sum of the map minus that change [logit]
    relative_gap : size of the gap by the size of the change, ≥ 0; infinite where nothing changed and the map has a sum
    steps : gradients that were averaged
    complete : whether the relative gap is within the tolerance asked for, or the gap within 0.001 logit
    note : "" or why the map is empty
    """

    map: Map
    baseline: str
    baseline_logit: float
    gap: float
    relative_gap: float
    steps: int
    complete: bool
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

    map: Map
    cells: Map
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
    integrated, cam : the maps; None where the method was not asked for
    """

    target: str
    score: float
    logit: float
    integrated: Integrated | None
    cam: Cam | None


def attribute(
    network: TileNetwork,
    tiles: Sequence[Tile],
    target: str,
    *,
    methods: Sequence[str] = METHODS,
    baseline: str = "white",
    tolerance: float = 0.01,
    most_steps: int = 81,
    batch_size: int = 9,
) -> list[Attribution]:
    """Integrated gradients and Grad-CAM of some tiles; each tile's maps do not depend on the others.

    Parameters
    ----------
    network : not changed; its weights may be on any device
    tiles : sequence of uint8 RGB (h, w, 3)
        As the network was trained on them: normalized, at the stored size; sides of 32 px or more.
    target : one of ``network.config.targets``
    methods : of "integrated gradients" and "Grad-CAM"
    baseline, tolerance, most_steps, batch_size
        As for :func:`integrated_gradients`.

    Returns list of Attribution: one per tile, in order.

    Raises InputError: there is no tile, or one is no uint8 RGB picture. ModelError: unknown target, weights or output
    that are not finite, or Grad-CAM of a network without feature map. ParameterError: unknown method or baseline, or a
    number out of range.
    """
    if unknown := set(methods) - set(METHODS):
        raise ParameterError("There is no such method", got=", ".join(sorted(unknown)), expected=" | ".join(METHODS))
    if not len(tiles):
        raise InputError("There is no tile to explain", fix="Choose at least one")
    for number, tile in enumerate(tiles):
        check_picture(tile, f"Tile {number}")
    limits = _Limits(tolerance, most_steps, batch_size)
    probe = Probe(network, target)
    return [_attribute(probe, tile, methods, baseline, limits) for tile in tiles]


def _attribute(probe: Probe, tile: Tile, methods: Sequence[str], baseline: str, limits: _Limits) -> Attribution:
    inputs = as_input(np.array(tile[None])).to(probe.device)
    logit = float(probe.logits(inputs))
    integrated = _integrated(probe, tile, baseline, limits) if GRADIENTS in methods else None
    cam = cam_of(probe, inputs) if CAM in methods else None
    return Attribution(probe.target, float(expit(logit)), logit, integrated, cam)


def integrated_gradients(
    network: TileNetwork,
    tile: Tile,
    target: str,
    *,
    baseline: str = "white",
    tolerance: float = 0.01,
    most_steps: int = 81,
    batch_size: int = 9,
) -> Integrated:
    """Integrated gradients of one tile: (x − x₀) times the mean gradient on the straight line from x₀ to x.

    Parameters
    ----------
    network, tile, target
        As for :func:`attribute`.
    baseline : ``white``: glass without tissue, 1.0 in every channel. In transmitted light that is what "nothing there"
        looks like, and glass in the tile then gets no attribution; the map explains tissue against no tissue. ``blur``:
        the tile's own blur, which keeps colour and density; the map explains structure alone.
    tolerance : largest relative gap from completeness, above 0 and below 1; a gap of 0.001 logit is always accepted.
        Steps are tripled from 9 until it is met (the midpoint rule: every gradient is used again), or until
        `most_steps`; then the result says so.
    most_steps : 9 or more
    batch_size : gradients at a time: bounds memory; may change the last digit

    Raises InputError, ModelError, ParameterError: as for :func:`attribute`.
    """
    (found,) = attribute(network, [tile], target, methods=(GRADIENTS,), baseline=baseline, tolerance=tolerance,
                         most_steps=most_steps, batch_size=batch_size)  # fmt: skip
    assert found.integrated is not None
    return found.integrated


def grad_cam(network: TileNetwork, tile: Tile, target: str) -> Cam:
    """Grad-CAM of one tile on the last module whose output has rows and columns; see :func:`attribute`."""
    (found,) = attribute(network, [tile], target, methods=(CAM,))
    assert found.cam is not None
    return found.cam


@dataclass(frozen=True)
class _Limits:
    tolerance: float
    most_steps: int
    batch_size: int

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ParameterError("Illegal tolerance", got=self.tolerance, expected="above 0 and below 1")
        for name, least in (("most_steps", 9), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ParameterError(f"Illegal {name}", got=getattr(self, name), expected=f"{least} or more")


def block_sums(values: Map, side_px: int) -> Map:
    """Sums over squares of `side_px` (those at the right and lower edge may be smaller): (⌈h / side⌉, ⌈w / side⌉).

    For drawing: single pixels are too small to be seen, and the sum over all of them stays what it was.
    """
    height, width = (-(-n // side_px) * side_px for n in values.shape)
    padded = np.zeros((height, width), np.float32)
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(height // side_px, side_px, width // side_px, side_px).sum((1, 3)))


def baseline_of(tile: Tile, baseline: str) -> Tensor:
    """The picture that integrated gradients start from, float32 (1, 3, h, w) in [0, 1]."""
    if baseline not in BASELINES:
        raise ParameterError("There is no such baseline", got=baseline, expected=" | ".join(BASELINES))
    whole = as_input(np.array(tile[None]))
    if baseline == "white":
        return torch.ones_like(whole)
    blurred = cv2.GaussianBlur(tile.astype(np.float32) / 255, (0, 0), BLUR_SHARE * min(tile.shape[:2]))
    return torch.from_numpy(blurred).permute(2, 0, 1)[None]


def sum_gradients(probe: Probe, start: Tensor, end: Tensor, fractions: NDArray[np.float64], batch: int) -> Tensor:
    """Sum of the gradients, float64 (3, h, w), at `fractions` (n,) of the way from `start` to `end` (1, 3, h, w)."""
    total = torch.zeros(start.shape[1:], dtype=torch.float64, device=start.device)
    for first in range(0, len(fractions), batch):
        part = torch.as_tensor(fractions[first : first + batch], dtype=torch.float32, device=start.device)
        points = start + (end - start) * part.view(-1, 1, 1, 1)
        points = points.contiguous(memory_format=torch.channels_last)
        total += probe.gradients(points).sum(0, dtype=torch.float64)
    return total


def _integrated(probe: Probe, tile: Tile, baseline: str, limits: _Limits) -> Integrated:
    start, end = (x.to(probe.device) for x in (baseline_of(tile, baseline), as_input(np.array(tile[None]))))
    low, high = float(probe.logits(start)), float(probe.logits(end))
    change, steps = high - low, 9
    total = sum_gradients(probe, start, end, (np.arange(steps) + 0.5) / steps, limits.batch_size)
    while True:
        found = ((end - start)[0] * (total / steps)).sum(0)
        gap = float(found.sum()) - change
        relative = abs(gap) / abs(change) if change else (0.0 if gap == 0 else float("inf"))
        complete = relative <= limits.tolerance or abs(gap) <= NEGLIGIBLE_LOGIT
        if complete or 3 * steps > limits.most_steps:
            break
        steps *= 3
        new = np.flatnonzero(np.arange(steps) % 3 != 1)  # the others were the midpoints before
        total += sum_gradients(probe, start, end, (new + 0.5) / steps, limits.batch_size)
    picture = found.to(torch.float32).cpu().numpy()
    note = "" if picture.any() else _why_empty(bool(torch.equal(start, end)))
    return Integrated(picture, baseline, low, gap, relative, steps, complete, note)


def _why_empty(same: bool) -> str:
    if same:
        return "The tile equals its baseline: there is nothing to attribute"
    return "No pixel changes the score between baseline and tile: the network is constant here"


def cam_of(probe: Probe, inputs: Tensor) -> Cam:
    """Grad-CAM of one input (1, 3, h, w): channels weighted by their mean gradient."""
    where = probe.feature_map(inputs)
    values, slopes = probe.activations(inputs, where.layer)
    cells = torch.einsum("c,cij->ij", slopes.mean((1, 2)), values).cpu().numpy()
    positive = where.spread(np.maximum(cells, 0), int(inputs.shape[2]), int(inputs.shape[3]))
    note = "" if positive.any() else "No cell speaks for the target" if cells.any() else "The network is constant here"
    return Cam(positive, cells, where.layer, where.placed, note)
