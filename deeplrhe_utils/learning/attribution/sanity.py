"""Does an attribution show what the network learned? Its weights are made random, and the maps must change.

Source: Adebayo 2018, "Sanity Checks for Saliency Maps", cascading randomization: the classifier gets random weights,
then the block below it as well, and so on down to the first convolution. A map that stays as it was when nothing is
left of the training shows the tile (its edges, its dark places), not the network.

Random weights are those of an untrained network of the same configuration. Ours: batch normalization of the random
layers measures its statistics anew on the tiles, because those of the trained weights would silence or blow up the
signal, and such a network would fail or pass for the wrong reason.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.learning.attribution.maps import CAM, GRADIENTS, Attribution, Cam, cam_of, sum_gradients
from deeplrhe_utils.learning.attribution.places import Probe
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork
from deeplrhe_utils.learning.recipes.scoring import as_input

_Map = NDArray[np.float32]
DRAWS: Final = 2
"""Random networks."""
STAGES: Final = 5
"""Most stages: with more blocks, they take several each. The first is the classifier alone, the last all."""
_STEPS: Final = 4
"""Gradients per map of a random network: with 4 the demo network's own maps keep 0.95 of their ranks (stage 0)."""
CALIBRATION_TILES: Final = 8
"""Most tiles that batch normalization of random layers is measured on."""


@dataclass(frozen=True)
class SanityCheck:
    """What became of the maps when weights were made random.

    Attributes
    ----------
    table : a row per method × stage × draw × tile. ``method``; ``stage``: blocks randomized, 0 is the network as it was
        given; ``block``: the last of them; ``layers``: weight matrices and kernels randomized; ``draw``; ``tile``: its
        place in the list; ``spearman``: rank correlation with the given network's map, signed values; ``spearman_abs``:
        the same of absolute values; ``ssim``: structural similarity of the maps, each divided by its largest absolute
        value. Null where a map is constant. Grad-CAM is compared cell by cell, before negative evidence is cut off. At
        stage 0 integrated gradients are compared with those of 4 gradients, as the random ones are: what lies
        below 1 is the price of the short way.
    random : for each tile, integrated gradients of a network that is random throughout, float32 (h, w)
    random_cam : for each tile, its Grad-CAM, float32 (h, w), ≥ 0
    blocks : names of the blocks, from the classifier down
    """

    table: pd.DataFrame
    random: list[_Map]
    random_cam: list[_Map]
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """Part of a network that is randomized at once: its name, and the names of its tensors."""

    name: str
    tensors: tuple[str, ...]


def sanity_check(
    network: TileNetwork, tiles: Sequence[NDArray[np.uint8]], found: Sequence[Attribution], *, seed: int
) -> SanityCheck:
    """Randomize the network from the classifier down and compare each tile's maps with what they were.

    Parameters
    ----------
    network : not changed
    tiles : sequence of uint8 RGB (h, w, 3), all of one size
    found : what `attribute` gave for these tiles; all for one target
    seed : of the random weights, with the number of the draw

    Raises ModelError: as for `attribute`.
    """
    given = Probe(network, found[0].target)
    inputs = torch.cat([as_input(np.array(tile[None])) for tile in tiles]).to(given.device)
    blocks = blocks_of(given.network, inputs[:1])
    counts = np.unique(np.linspace(1, len(blocks), min(STAGES, len(blocks))).round().astype(int)).tolist()
    before = _ranked([(one.integrated.map, one.cam) for one in found])
    rows = _rows(before, _maps(given, tiles), {"stage": 0, "block": "", "layers": 0, "draw": 0})
    shown: list[tuple[_Map, Cam]] = []
    for draw in range(DRAWS):
        for place, probe in _cascade(given, blocks, counts, inputs[:CALIBRATION_TILES], seed, draw):
            maps = _maps(probe, tiles)
            shown = maps if draw == 0 else shown  # of the first draw the last stage stays
            rows += _rows(before, maps, {**place, "draw": draw})
    table = pd.DataFrame(rows).sort_values(["method", "stage", "draw", "tile"], kind="stable", ignore_index=True)
    return SanityCheck(table, [one for one, _ in shown], [cam.map for _, cam in shown], tuple(b.name for b in blocks))


def _maps(probe: Probe, tiles: Sequence[NDArray[np.uint8]]) -> list[tuple[_Map, Cam]]:
    """Integrated gradients and Grad-CAM of each tile."""
    found = []
    for tile in tiles:
        end = as_input(np.array(tile[None])).to(probe.device)
        start = torch.ones_like(end)
        total = sum_gradients(probe, start, end, (np.arange(_STEPS) + 0.5) / _STEPS)
        gradients = ((end - start)[0] * (total / _STEPS)).sum(0).float().cpu().numpy()
        found.append((gradients, cam_of(probe, end)))
    return found


def _ranked(maps: Sequence[tuple[_Map, Cam]]) -> list[dict[str, Ranked]]:
    return [{GRADIENTS: Ranked(one), CAM: Ranked(cam.cells)} for one, cam in maps]


def _rows(
    before: list[dict[str, Ranked]], after: list[tuple[_Map, Cam]], place: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        {"method": method, **place, "tile": number, **alike(was, new[method])}
        for number, (old, new) in enumerate(zip(before, _ranked(after), strict=True))
        for method, was in old.items()
    ]


def blocks_of(network: TileNetwork, inputs: Tensor) -> list[Block]:
    """Blocks of a network from the classifier down, in the reverse of the order in which they run.

    A block is a child of the network or of its trunk; a sequence of composite children gives a block for each. What
    holds no kernel or matrix (batch normalization) belongs to the block before it, and tensors of no block to the last.
    Modules that do not run in evaluation (auxiliary heads) are in none.
    """
    parts = dict(_parts(network, network, ""))
    order: list[str] = []
    hooks = [part.register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name, part in parts.items()]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    state = network.state_dict()
    own = {name: tuple(t for t in state if t.startswith(f"{name}.")) for name in parts}
    blocks: list[Block] = []
    for name in dict.fromkeys(order):
        if blocks and not any(state[t].ndim > 1 for t in own[name]):
            blocks[-1] = Block(blocks[-1].name, blocks[-1].tensors + own[name])
        else:
            blocks.append(Block(name, own[name]))
    taken = {t for tensors in own.values() for t in tensors}
    blocks[0] = Block(blocks[0].name, blocks[0].tensors + tuple(t for t in state if t not in taken))
    return blocks[::-1]


def _parts(network: TileNetwork, module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        composite = isinstance(child, nn.Sequential) and any(list(c.children()) for c in child)
        if child is network.trunk or composite:
            yield from _parts(network, child, f"{prefix}{name}.") if child is network.trunk else (
                (f"{prefix}{name}.{inner}", part) for inner, part in child.named_children())  # fmt: skip
        else:
            yield f"{prefix}{name}", child


def _cascade(
    given: Probe, blocks: list[Block], counts: list[int], inputs: Tensor, seed: int, draw: int
) -> Iterator[tuple[dict[str, Any], Probe]]:
    """The network with its uppermost 1, 2 … blocks random: always the same random weights within a draw."""
    work = copy.deepcopy(given.network)
    state, fresh = work.state_dict(), _untrained(work, seed, draw)
    layers, done = 0, 0
    for count in counts:
        for block in blocks[done:count]:
            for tensor in block.tensors:
                state[tensor].copy_(fresh[tensor])
            layers += sum(state[t].ndim > 1 for t in block.tensors)
        done = count
        _measure_norms(work, {t for block in blocks[:count] for t in block.tensors}, inputs)
        yield {"stage": count, "block": blocks[count - 1].name, "layers": layers}, given.like(work)


def _untrained(network: TileNetwork, seed: int, draw: int) -> dict[str, Tensor]:
    """Weights of an untrained network of the same class and configuration; torch's own generator stays as it was."""
    devices = [network_device] if (network_device := next(network.parameters()).device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(integer_seed(seed, "random weights", draw))
        return type(network)(network.config).state_dict()


def _measure_norms(network: nn.Module, tensors: set[str], inputs: Tensor) -> None:
    """Let the batch normalization of the random layers take its statistics from `inputs`, in one pass."""
    norms = [m for name, m in network.named_modules()
             if isinstance(m, nn.modules.batchnorm._BatchNorm) and f"{name}.running_mean" in tensors]  # fmt: skip  # noqa: SLF001
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(inputs)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


BOUND: Final = 0.5
"""Largest rank correlation at full randomization with which a method passes: a quarter of the variance of ranks."""


class Ranked:
    """A map with what every comparison with it needs.

    Attributes
    ----------
    constant : whether all values are the same
    signed, size : ranks of the values and of their absolute values, float64 (n,)
    scaled : the values by the largest absolute one, float64 (h, w)
    """

    def __init__(self, values: _Map) -> None:
        size = np.abs(values)
        self.constant = bool(np.ptp(values) == 0)
        self.signed, self.size = (rankdata(v.ravel()) for v in (values, size))
        self.scaled = values.astype(np.float64) / (float(size.max()) or 1.0)


def similarity(first: _Map, second: _Map) -> dict[str, float]:
    """How alike two maps (h, w) are: ``spearman``, ``spearman_abs`` and ``ssim`` (Wang 2004, of maps by their largest
    absolute value).

    NaN where a map is constant, or where its absolute values are, for the measure that this leaves undefined.
    """
    return alike(Ranked(first), Ranked(second))


def alike(a: Ranked, b: Ranked) -> dict[str, float]:
    """As :func:`similarity`, of maps that are compared several times."""
    if a.constant or b.constant:
        return dict.fromkeys(("spearman", "spearman_abs", "ssim"), float("nan"))
    return {"spearman": _correlation(a.signed, b.signed), "spearman_abs": _correlation(a.size, b.size),
            "ssim": ssim(a.scaled, b.scaled, 2)}  # fmt: skip


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def ssim(a: NDArray[Any], b: NDArray[Any], span: float) -> float:
    """Mean structural similarity (Wang 2004) of two pictures of float32 or float64 whose values span `span`."""
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b, cov = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2, _blur(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return float((alike / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def _blur(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5))


def sanity_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Whether the maps depend on what the network learned: the table of a sanity check, judged at full randomization.

    Returns DataFrame: a row per method and reading (``sign and size``: signed values; ``size alone``: absolute values):
    method, reading, similarity (mean over draws and tiles), largest (of one tile and draw), n, undefined, bound,
    passes, statement (a sentence). What cannot be judged, because every map was constant, does not pass.

    Source: Adebayo 2018 for the comparison, which names no bound; 0.5 is ours.
    """
    last = table[(table["stage"] == table["stage"].max()) & (table["stage"] > 0)]
    rows = []
    for method, part in last.groupby("method", sort=False):
        for reading, column in (("sign and size", "spearman"), ("size alone", "spearman_abs")):
            values = part[column].abs() if column == "spearman" else part[column]
            rows.append({"method": str(method), "reading": reading, **_judged(values, str(method), reading)})
    return pd.DataFrame(rows)


def _judged(values: pd.Series, method: str, reading: str) -> dict[str, Any]:
    mean, undefined = float(values.mean()), int(values.isna().sum())
    passes = bool(mean < BOUND)  # False for NaN, too
    facts = {"similarity": mean, "largest": float(values.max()), "n": len(values), "undefined": undefined}
    counted = f"mean of {len(values) - undefined} comparisons, largest {facts['largest']:.2f}; bound {BOUND:g}"
    if undefined == len(values):
        said = "cannot be judged: in every comparison a map was constant"
    elif passes:
        said = f"passes: with random weights the maps agree with the network's by {mean:.2f} only ({counted})"
    else:
        said = f"FAILS: with random weights the maps still agree with the network's by {mean:.2f} ({counted}), " \
               "so what they show is the tile as much as what was learned"  # fmt: skip
    said += f"; {undefined} of {len(values)} comparisons left out, a map was constant" if undefined else ""
    return {**facts, "bound": BOUND, "passes": passes, "statement": f"{method}, {reading}: {said}."}
