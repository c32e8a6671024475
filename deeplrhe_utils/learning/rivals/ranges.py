"""Learning-rate range test: without regularization, on a few tiles, the rate grows until the loss stops falling.

Source: DeepLRHE, "Adjustment of Hyperparameters": the regularization coefficient is set to 0, and a small sample gives
the threshold of the learning rate. How it is read off is ours (Smith 2017).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ModelError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.losses import trainable_targets
from deeplrhe_utils.learning.recipes.recipe import TrainConfig, device_of
from deeplrhe_utils.learning.tiles.store import TileStore
from deeplrhe_utils.learning.training.trainer import Part, Run

_STEPS: Final = 40
LOWEST: Final = 1e-5
HIGHEST: Final = 1.0
_KEPT: Final = 0.7  # of the running mean, at each step
_STEP_OF_NOISE: Final = 0.954  # median |difference| of two normal values, in their standard deviations
_CLEARLY: Final = 3.0  # standard deviations of the smoothed loss above its lowest value
_SETTLED: Final = 4  # steps until the running mean is one: the first values are as noisy as the loss itself


@dataclass(frozen=True)
class RangeTest:
    """Rates that were tried, the loss at each (smoothed, NaN after it diverged) and the threshold read off."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    threshold: float


def range_test(
    store: TileStore, train: Part, network: NetworkConfig, recipe: TrainConfig, *, seed: int, tiles: int = 64
) -> RangeTest:
    """Train 40 steps with a rate that grows geometrically from 1e-5 to 1; weight decay is 0.

    Parameters
    ----------
    tiles : size of the small sample, drawn once (see :func:`draw_sample`)

    Returns RangeTest: its threshold is the last rate before the loss has risen for good (:func:`last_before_rise`).

    Raises ModelError: the loss was never finite. CohortError: no target has both classes in `train`.
    """
    random = generator(seed, "range-test")
    chosen = draw_sample(train.targets, tiles, random)
    sample = Part(train.indices[chosen], train.targets[chosen], [train.patients[i] for i in chosen])
    plain = replace(recipe, weight_decay=0.0, schedule="constant", clip_norm=0.0, ema=0.0, balance="none", patience=0)
    run = Run(store, sample, network, plain, seed, 0, None, device_of("auto"))
    rates = np.geomspace(LOWEST, HIGHEST, _STEPS)
    run.rate = lambda at: float(rates[at])
    losses = np.full(_STEPS, np.nan)
    run.model.train()
    for at in range(_STEPS):
        places = random.permutation(len(sample.indices))[: recipe.batch_size]
        x, y = run.load(at, places)
        run.step(at, x, y, places)
        losses[at] = run.last_loss()
        if not np.isfinite(losses[at]) or losses[at] > 10 * np.nanmin(losses[: at + 1]):
            losses[at] = np.nan
            break
    smooth = _smoothed(losses)
    if not np.isfinite(smooth).any():
        raise ModelError("The loss is not finite even at the lowest rate of the range test", got=f"rate {LOWEST:g}",
                         fix="Lower the lowest rate")  # fmt: skip
    return RangeTest(rates, smooth, float(rates[last_before_rise(losses, smooth)]))


def last_before_rise(losses: NDArray[np.float64], smooth: NDArray[np.float64]) -> int:
    """Place of the last smoothed loss that noise alone can lift from the lowest one.

    Parameters
    ----------
    losses, smooth : (n,), raw and smoothed; NaN after the loss diverged

    The lowest of so many noisy values is anywhere on a flat stretch; where it ends is not. The noise is the median
    change from step to step, which few steps of a fall or a rise do not move.
    """
    steps = np.abs(np.diff(losses[np.isfinite(losses)]))
    noise = float(np.median(steps)) / _STEP_OF_NOISE if len(steps) else 0.0
    allowed = _CLEARLY * noise * np.sqrt((1 - _KEPT) / (1 + _KEPT))
    settled = smooth[_SETTLED:] if np.isfinite(smooth[_SETTLED:]).any() else smooth
    return int(np.flatnonzero(smooth <= np.nanmin(settled) + allowed)[-1])


def draw_sample(targets: NDArray[np.float32], size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Places of a small sample, ascending, that holds both classes of a target: else there is nothing to learn.

    Parameters
    ----------
    targets : float32 (n, T): labels of the tiles: 1, 0 or NaN
    size : at least 2; less is returned where there are fewer tiles

    Returns Positive and negative tiles in turn of the target whose rarer class is largest, then others at random.
    """
    order = random.permutation(len(targets))
    if trainable_targets(targets).any():
        rarer = np.minimum((targets == 1).sum(axis=0), (targets == 0).sum(axis=0))
        truth = targets[order, int(rarer.argmax())]
        pairs = np.stack([order[truth == 1][: rarer.max()], order[truth == 0][: rarer.max()]], axis=1).ravel()
        order = np.concatenate([pairs, order[~np.isin(order, pairs)]])
    return np.sort(order[:size])


def _smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean, corrected for its start."""
    smooth, mean = np.full(len(losses), np.nan), 0.0
    for at, loss in enumerate(losses[np.isfinite(losses)]):
        mean = _KEPT * mean + (1 - _KEPT) * loss
        smooth[at] = mean / (1 - _KEPT ** (at + 1))
    return smooth
