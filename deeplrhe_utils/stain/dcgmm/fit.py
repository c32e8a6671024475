"""The unsupervised fit of a DCGMM network: a mixture likelihood that keeps its gradients.

Source: Zanjani et al. 2018 (MIDL). What differs from the released objective, and why:

- the log-likelihood is a log-sum-exp. The released one clips the mixture density at 1; after a good fit nearly all
  pixels lie above 1 and give no gradient;
- the start orders components from pale to dark, so that source and reference need no matching, and the fit does not
  begin at the saddle where all components are equal;
- variances have a floor, and components a gentle pull away from emptiness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.core.text import Countdown
from deeplrhe_utils.stain.colour import od_to_hsd, optical_density
from deeplrhe_utils.stain.dcgmm.net import DEFAULT, LEAST_SIDE_PX, DcgmmConfig, DcgmmNet, start_logits, tissue_weight

SIGMA_FLOOR_FIT: Final = 0.03
DENSITY_JITTER: Final = (0.85, 1.18)
BALANCE: Final = 1.0
WARM_SHARE: Final = 0.25
"""Part of the steps in which the paper's network learns to repeat the ordered start (the compact one begins there)."""
_LOG_2PI: Final = float(np.log(2 * np.pi))


def negative_log_likelihood(logits: Tensor, hsd: Tensor, weight: Tensor) -> Tensor:
    """Mean −log Σ_k γ_k N(x; μ_k, diag σ_k²) over tissue, with μ and σ of each image in closed form.

    Parameters
    ----------
    logits : (N, K, H, W)
    hsd : (N, H, W, 3), density already scaled
    weight : (N, H, W), tissue membership in [0, 1]

    Returns
    -------
    Tensor, scalar [nats per pixel]. A stable log-sum-exp: no pixel loses its gradient because the
    density of a peaked Gaussian exceeds 1. Gradients flow through μ and σ.
    """
    n, k = logits.shape[:2]
    log_gamma = torch.log_softmax(logits, dim=1).reshape(n, k, -1)
    x, w = hsd.reshape(n, -1, 3), weight.reshape(n, 1, -1)
    soft = log_gamma.exp() * w
    mass = soft.sum(-1, keepdim=True).clamp_min(1.0)
    mean = soft @ x / mass
    variance = (soft @ x.square() / mass - mean.square()).clamp_min(SIGMA_FLOOR_FIT**2)
    z = (x[:, None] - mean[:, :, None]).square() / variance[:, :, None]
    log_normal = -0.5 * (z + variance.log()[:, :, None] + _LOG_2PI).sum(-1)
    log_likelihood = torch.logsumexp(log_gamma + log_normal, dim=1)
    return -(log_likelihood * w[:, 0]).sum() / w.sum().clamp_min(1.0)


def fit_responsibilities(
    tiles: Sequence[NDArray[np.uint8]],
    scales: Sequence[float],
    config: DcgmmConfig = DEFAULT,
    *,
    steps: int = 300,
    crop_px: int = 0,
    batch: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> tuple[DcgmmNet, list[float]]:
    """Train the shared network once for a cohort, without labels.

    Parameters
    ----------
    tiles : sequence of uint8 RGB (H, W, 3)
        Two dozen are enough. Give training patients' tiles only: the fit sees pixels.
    scales : density scale of the slide of each tile [optical density]
    steps, crop_px, batch, learning_rate, seed
        Optimiser steps; side of the random crops [px] (0: three eighths of a tile, 192 px at most); crops per step;
        peak of Adam's one-cycle rate; seed.

    Returns net, loss trace [nats per pixel]. A long fit prints how far it is.

    Raises StainError: no tiles, a tile without a usable scale, or a loss that is not finite.
    """
    _check(tiles, scales)
    if steps < 1:
        raise StainError("The DCGMM fit needs steps", got=steps, expected="1 or more")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to set
        torch.manual_seed(integer_seed(seed, "dcgmm-weights"))
        net = DcgmmNet(config)
    random = generator(seed, "dcgmm-crops")
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=learning_rate, total_steps=steps)
    prepared = [od_to_hsd(optical_density(torch.from_numpy(np.require(t, requirements=["C", "W"])))) for t in tiles]
    warm = round(WARM_SHARE * steps) if config.network == "paper" else 0
    trace, progress = [], Countdown("steps of the DCGMM fit", steps, brief=True)
    for step in range(steps):
        crops, tissue, own = _crops(prepared, scales, config, crop_px, batch, random)
        logits = net(crops[..., 0][:, None])
        loss = negative_log_likelihood(logits, crops, tissue)
        target = _start_error(logits, crops, own) if step < warm else loss + _balance(logits, tissue)
        optimiser.zero_grad(set_to_none=True)
        target.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress.step()
        trace.append(float(loss.detach()))
        if not np.isfinite(trace[-1]):
            raise StainError(f"The DCGMM fit diverged at step {step + 1} of {steps}", got=trace[-1],
                             fix="Lower learning_rate")  # fmt: skip
    return net.eval(), trace


def _check(tiles: Sequence[NDArray[np.uint8]], scales: Sequence[float]) -> None:
    if not tiles or len(tiles) != len(scales):
        raise StainError("The DCGMM fit needs tiles and one density scale for each",
                         got=f"{len(tiles)} tiles and {len(scales)} scales")  # fmt: skip
    if min(scales) <= 0 or not np.isfinite(scales).all():
        raise StainError("A density scale is not positive", got=min(scales), fix="Leave out slides without tissue")
    least = min(min(tile.shape[:2]) for tile in tiles)
    if least < LEAST_SIDE_PX:
        raise StainError(
            "A tile is too small for the DCGMM fit", got=f"{least} px", expected=f"{LEAST_SIDE_PX} px or more"
        )


def _balance(logits: Tensor, tissue: Tensor) -> Tensor:
    """Grows as a component empties, so that none is lost in the first steps."""
    share = (torch.softmax(logits, 1) * tissue[:, None]).sum((0, 2, 3)) / tissue.sum().clamp_min(1.0)
    return -BALANCE * (share + 1e-3).log().mean()


def _start_error(logits: Tensor, crops: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy to the ordered start, which is a function of density over the slide's scale."""
    target = start_logits(crops[..., 0][:, None] * own.view(-1, 1, 1, 1), logits.shape[1]).softmax(1)
    return F.cross_entropy(logits, target)


def _crops(
    prepared: Sequence[Tensor],
    scales: Sequence[float],
    config: DcgmmConfig,
    crop_px: int,
    batch: int,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random flipped and turned crops (N, h, w, 3), their tissue weights, and what scales each crop's density.

    The paper's profile sees density as it is; ours divided by the slide's scale and jittered.
    """
    least = min(min(t.shape[:2]) for t in prepared)
    side = min(crop_px or max(LEAST_SIDE_PX, min(192, 3 * least // 8)), least)
    crops, tissue, rest = [], [], []
    for index in random.integers(len(prepared), size=batch):
        hsd = prepared[index]
        top, left = (int(random.integers(0, limit - side + 1)) for limit in hsd.shape[:2])
        crop = torch.rot90(hsd[top : top + side, left : left + side], int(random.integers(4)), (0, 1))
        crop = crop.flip(0) if random.random() < 0.5 else crop
        factor = random.uniform(*DENSITY_JITTER) / scales[index] if config.scaled else 1.0
        tissue.append(tissue_weight(crop[..., 0]) if config.glass else torch.ones_like(crop[..., 0]))
        rest.append(1.0 if config.scaled else 1.0 / scales[index])
        crops.append(crop * torch.tensor([factor, 1.0, 1.0], dtype=torch.float32))
    return torch.stack(crops), torch.stack(tissue), torch.tensor(rest, dtype=torch.float32)
