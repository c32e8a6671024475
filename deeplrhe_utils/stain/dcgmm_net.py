"""The DCGMM network: responsibilities from optical density, and its unsupervised fit.

Source: Zanjani et al. 2018 (MIDL), as used in DeepLRHE section "Denoising and Color Normalization". Written
from the method's description. What differs from the released code, and why:

- the mixture likelihood is a log-sum-exp without the clip at 1 (which removes almost every gradient);
- components start ordered by density, so source and reference need no matching;
- the network runs at a quarter of the resolution and adds a per-pixel quadratic in density.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ModelError
from deeplrhe_utils.core.files import atomic_path
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.stain.colour import od_to_hsd, optical_density

GLASS_DENSITY: Final = 0.10
GLASS_SOFTNESS: Final = 0.015
SIGMA_FLOOR_FIT: Final = 0.03
_REDUCTION: Final = 4


class DcgmmNet(nn.Module):
    """Responsibilities from scaled optical density.

    ``forward`` takes density (N, 1, H, W), float32, divided by the slide's 95th percentile, and returns
    logits (N, K, H, W). The convolutional part works at a quarter of the resolution; a quadratic in the
    pixel's own density is added, started as K Gaussians whose centres rise from pale to dark.
    """

    def __init__(self, components: int = 4, channels: int = 16) -> None:
        super().__init__()
        half = channels // 2
        self.encode = nn.Sequential(
            nn.Conv2d(1, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, channels, 3, padding=1), nn.ReLU()
        )
        self.deep = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )
        self.decode = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, components, 1)
        )
        last = self.decode[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias) if last.bias is not None else None
        centres, width = torch.linspace(0.06, 1.0, components), 0.25
        self.square = nn.Parameter(torch.full((components,), -0.5 / width**2))
        self.slope = nn.Parameter(centres / width**2)
        self.offset = nn.Parameter(-0.5 * (centres / width) ** 2)

    @property
    def components(self) -> int:
        """Number of mixture components K."""
        return int(self.slope.numel())

    def forward(self, density: Tensor) -> Tensor:
        """Logits (N, K, H, W) of scaled density (N, 1, H, W)."""
        height, width = density.shape[-2:]
        padded = F.pad(density, (0, -width % 8, 0, -height % 8), mode="replicate")
        coarse = self.encode(F.avg_pool2d(padded, _REDUCTION))
        deep = F.interpolate(self.deep(F.max_pool2d(coarse, 2)), scale_factor=2.0, mode="nearest")
        logits = F.interpolate(self.decode(deep), scale_factor=float(_REDUCTION), mode="bilinear", align_corners=False)
        column = (1, -1, 1, 1)
        own = density * (self.slope.view(column) + self.square.view(column) * density) + self.offset.view(column)
        return logits[..., :height, :width] + own


def tissue_weight(density: Tensor) -> Tensor:
    """Soft tissue membership of optical density: 0 on glass, 1 on tissue (exponent clamped against overflow)."""
    return torch.sigmoid(((density - GLASS_DENSITY) / GLASS_SOFTNESS).clamp(-30.0, 30.0))


def negative_log_likelihood(logits: Tensor, hsd: Tensor, weight: Tensor) -> Tensor:
    """Mean −log Σ_k γ_k N(x; μ_k, diag σ_k²) over tissue, per image, with closed-form μ and σ.

    Parameters
    ----------
    logits : (N, K, H, W)
    hsd : (N, H, W, 3), density already scaled
    weight : (N, H, W), tissue membership

    Returns
    -------
    Tensor, scalar [nats per pixel]. A stable log-sum-exp: no pixel loses its gradient because the
    density of a peaked Gaussian exceeds 1.
    """
    n, k = logits.shape[:2]
    log_gamma = torch.log_softmax(logits, dim=1).reshape(n, k, -1)
    x, w = hsd.reshape(n, -1, 3), weight.reshape(n, 1, -1)
    soft = log_gamma.exp() * w
    mass = soft.sum(-1, keepdim=True).clamp_min(1.0)
    mean = soft @ x / mass
    variance = (soft @ x.square() / mass - mean.square()).clamp_min(SIGMA_FLOOR_FIT**2)
    z = (x[:, None] - mean[:, :, None]).square() / variance[:, :, None]
    log_normal = -0.5 * (z + variance.log()[:, :, None] + float(np.log(2 * np.pi))).sum(-1)
    log_likelihood = torch.logsumexp(log_gamma + log_normal, dim=1)
    return -(log_likelihood * w[:, 0]).sum() / w.sum().clamp_min(1.0)


def fit_responsibilities(
    tiles: Sequence[NDArray[np.uint8]],
    scales: Sequence[float],
    *,
    components: int = 4,
    steps: int = 300,
    crop_px: int = 192,
    batch: int = 8,
    seed: int = 0,
) -> tuple[DcgmmNet, list[float]]:
    """Train the shared network once for a cohort, without labels.

    Parameters
    ----------
    tiles : sequence of uint8 RGB (H, W, 3)
    scales : density scale of the slide of each tile [optical density]
    components, steps, crop_px, batch, seed
        K; optimiser steps; side of the random crops [px]; crops per step; seed.

    Returns
    -------
    net, loss trace [nats per pixel]
    """
    torch.manual_seed(integer_seed(seed, "dcgmm-weights"))
    net = DcgmmNet(components)
    random = generator(seed, "dcgmm-crops")
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    prepared = [od_to_hsd(optical_density(torch.from_numpy(np.ascontiguousarray(t)))) for t in tiles]
    trace = []
    for _ in range(steps):
        crops, tissue = _crops(prepared, scales, crop_px, batch, random)
        logits = net(crops[..., 0][:, None])
        share = (torch.softmax(logits, 1) * tissue[:, None]).sum((0, 2, 3)) / tissue.sum().clamp_min(1.0)
        balance = -(share + 1e-3).log().mean()
        loss = negative_log_likelihood(logits, crops, tissue)
        optimiser.zero_grad(set_to_none=True)
        (loss + balance).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        trace.append(float(loss.detach()))
    return net.eval(), trace


def _crops(
    prepared: Sequence[Tensor], scales: Sequence[float], crop_px: int, batch: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random flipped and turned crops (N, h, w, 3) with scaled, jittered density, and their tissue weights."""
    side = min(crop_px, *(min(t.shape[:2]) for t in prepared))
    crops, tissue = [], []
    for index in random.integers(len(prepared), size=batch):
        hsd = prepared[index]
        top, left = (int(random.integers(0, limit - side + 1)) for limit in hsd.shape[:2])
        crop = torch.rot90(hsd[top : top + side, left : left + side], int(random.integers(4)), (0, 1))
        crop = crop.flip(0) if random.random() < 0.5 else crop
        tissue.append(tissue_weight(crop[..., 0]))
        factor = torch.tensor([random.uniform(0.85, 1.18) / scales[index], 1.0, 1.0], dtype=torch.float32)
        crops.append(crop * factor)
    return torch.stack(crops), torch.stack(tissue)


def save_net(net: DcgmmNet, path: Path) -> Path:
    """Write the network as safetensors, atomically; return the path."""
    config = {"kind": "dcgmm", "components": net.components, "channels": net.encode[2].out_channels}
    with atomic_path(path) as part:
        part.write_bytes(save(dict(net.state_dict()), metadata={"config": json.dumps(config, sort_keys=True)}))
    return path


def load_net(path: Path) -> DcgmmNet:
    """Read a network written by :func:`save_net`; a missing, damaged or foreign file is a :class:`ModelError`."""
    try:
        with safe_open(path, framework="pt") as stream:
            config = json.loads((stream.metadata() or {}).get("config", "{}"))
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"The stain network {path} cannot be read ({error})", fix="Run notebook 04 again") from error
    if config.get("kind") != "dcgmm":
        raise ModelError(
            f"{path} is not a DCGMM network", got=config.get("kind"), fix="Give the file notebook 04 wrote"
        )
    net = DcgmmNet(config["components"], config["channels"])
    net.load_state_dict(weights)
    return net.eval()
