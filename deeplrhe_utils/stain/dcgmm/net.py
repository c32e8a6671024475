"""The DCGMM networks: from optical density to the responsibility of each mixture component.

Source: Zanjani et al. 2018 (MIDL), as used in DeepLRHE section "Denoising and Color Normalization". Written from the
method's description. Three networks share one contract, so that one code path serves all:

``compact``
    ours: convolutions at a quarter of the resolution plus a quadratic in the pixel's own density;
``paper``
    the layers of the released code: 501,796 weights at K = 4, full resolution, no quadratic;
``density``
    the quadratic alone, 3 K parameters: what is left of the method without its convolutions (the control).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ModelError, StainError
from deeplrhe_utils.core.files import atomic_path, refuse_not_finite, sha256_text
from deeplrhe_utils.stain.colour import CHROMA_EPSILON, GLASS_DENSITY, GLASS_SOFTNESS

NETWORKS: Final = ("compact", "paper", "density")
COVARIANCES: Final = ("full", "diagonal")
CENTRES: Final = (0.06, 1.0)
WIDTH: Final = 0.25
LEAST_SIDE_PX: Final = 32
_REDUCTION: Final = 4
_MULTIPLE: Final = 8
_CHANNELS: Final = 16


@dataclass(frozen=True)
class DcgmmConfig:
    """What kind of DCGMM. :data:`DEFAULT` and :data:`PAPER` are the two named profiles, :data:`DENSITY` the control.

    Attributes
    ----------
    network : {"compact", "paper", "density"}
    components : K, at least 2 (figures of the papers: 3; released code: 4)
    scaled : divide the network's input by the slide's 95th percentile of tissue density
    covariance : {"full", "diagonal"}, of the Gaussians when colours are mapped (the fit's are always diagonal)
    scale_limit : largest σ'/σ (and its inverse the least) of the diagonal map; 0 sets no limit
    temperature : softens responsibilities when statistics are taken and maps are applied
    glass : leave glass out of the statistics and pass it through
    per : {"slide", "tile"}, whose statistics a tile is mapped with
    """

    network: str = "compact"
    components: int = 4
    scaled: bool = True
    covariance: str = "full"
    scale_limit: float = 3.0
    temperature: float = 2.0
    glass: bool = True
    per: str = "slide"

    def __post_init__(self) -> None:
        legal = {"network": NETWORKS, "covariance": COVARIANCES, "per": ("slide", "tile")}
        for name, choices in legal.items():
            if getattr(self, name) not in choices:
                raise StainError(f"Unknown {name} of a DCGMM", got=getattr(self, name), expected=" or ".join(choices))
        if self.components < 2 or self.temperature <= 0 or (self.scale_limit and self.scale_limit < 1):
            raise StainError("A DCGMM needs 2 components, a positive temperature and a limit of 1 or more",
                             got=asdict(self), fix="Leave out what you do not mean to change")  # fmt: skip


DEFAULT: Final = DcgmmConfig()
PAPER: Final = DcgmmConfig("paper", 4, False, "diagonal", 0.0, 1.0, False, "tile")
DENSITY: Final = DcgmmConfig("density")


class _Quadratic(nn.Module):
    """a_k D + q_k D² + o_k, started as K Gaussians of width 0.25 whose centres rise from pale to dark."""

    def __init__(self, components: int) -> None:
        super().__init__()
        centres = torch.linspace(*CENTRES, components)
        self.square = nn.Parameter(torch.full((components,), -0.5 / WIDTH**2))
        self.slope = nn.Parameter(centres / WIDTH**2)
        self.offset = nn.Parameter(-0.5 * (centres / WIDTH) ** 2)

    def forward(self, density: Tensor) -> Tensor:
        """(N, K, H, W) of density (N, 1, H, W)."""
        a, q, o = (p.view(1, -1, 1, 1) for p in (self.slope, self.square, self.offset))
        return torch.addcmul(o, density, torch.addcmul(a, q, density))


class _CoarseLayers(nn.Module):
    """Density pooled to a quarter in, K logits at a quarter out; the last layer starts at zero."""

    def __init__(self, components: int) -> None:
        super().__init__()
        half, c = _CHANNELS // 2, _CHANNELS
        self.encode = nn.Sequential(nn.Conv2d(1, half, 3, padding=1), nn.ReLU(),
                                    nn.Conv2d(half, c, 3, padding=1), nn.ReLU())  # fmt: skip
        self.deep = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU())
        last = nn.Conv2d(c, components, 1)
        self.decode = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, K, h, w) of pooled density (N, 1, h, w), h and w even."""
        coarse = self.encode(pooled)
        deep = F.interpolate(self.deep(F.max_pool2d(coarse, 2)), scale_factor=2.0, mode="nearest")
        return self.decode(deep)


def _paper_layers(components: int) -> nn.Sequential:
    """The released network, layer by layer; He's initialisation, because σ = 0.02 leaves it at its saddle."""
    pool, up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0, mode="nearest")
    plan: list[int | tuple[int, int, int] | nn.Module] = [
        (1, 32, 3), (32, 64, 3), pool, (64, 64, 3), (64, 128, 3), pool, (128, 128, 3), up, (128, 128, 3), up,
        (128, 64, 3), (64, 32, 1),
    ]  # fmt: skip
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, tuple):
            layers += [nn.Conv2d(step[0], step[1], step[2], padding=step[2] // 2), nn.ReLU()]
        elif isinstance(step, nn.Module):
            layers.append(step)
    layers.append(nn.Conv2d(32, components, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class DcgmmNet(nn.Module):
    """Responsibilities from density.

    ``forward`` takes density (N, 1, H, W), float32 (divided by the slide's scale when the configuration says so), and
    returns logits (N, K, H, W). Any H and W: the picture is continued by its border up to a multiple of 8.
    """

    def __init__(self, config: DcgmmConfig = DEFAULT) -> None:
        super().__init__()
        self.config = config
        k = config.components
        self.layers = {"compact": _CoarseLayers, "paper": _paper_layers, "density": lambda _: None}[config.network](k)
        for layer in self.modules():
            # a third faster with channels last in memory; with one channel in, that would take a slow path
            if isinstance(layer, nn.Conv2d) and layer.in_channels > 1:
                layer.to(memory_format=torch.channels_last)
        self.own = None if config.network == "paper" else _Quadratic(k)
        self._digest = ""

    @property
    def components(self) -> int:
        """Number of mixture components K."""
        return self.config.components

    @property
    def weights(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())

    def coarse(self, density: Tensor, scale: float = 1.0) -> tuple[Tensor, int]:
        """What the convolutions say, (N, K, h, w), and how many pixels of density a pixel of it is wide.

        Density (N, 1, H, W) is continued by its border first, so h and w cover a little more than H and W. It is
        divided by `scale` after pooling, where that costs a sixteenth.
        """
        assert self.layers is not None
        bottom, right = -density.shape[-2] % _MULTIPLE, -density.shape[-1] % _MULTIPLE
        padded = F.pad(density, (0, right, 0, bottom), mode="replicate") if bottom or right else density
        factor = 1 if self.own is None else _REDUCTION
        pooled = padded if factor == 1 else F.avg_pool2d(padded, factor)
        return self.layers(pooled if scale == 1.0 else pooled / scale), factor

    def spread(self, density: Tensor) -> Tensor | None:
        """What the convolutions say, at full resolution, (N, K, H, W); None where there are none."""
        if self.layers is None:
            return None
        logits, factor = self.coarse(density)
        if factor > 1:
            logits = logits.contiguous()
            logits = F.interpolate(logits, scale_factor=float(factor), mode="bilinear", align_corners=False)
        return logits[..., : density.shape[-2], : density.shape[-1]]

    def forward(self, density: Tensor) -> Tensor:
        """Logits (N, K, H, W) of density (N, 1, H, W)."""
        spread = self.spread(density)
        if self.own is None:
            assert spread is not None
            return spread
        own = self.own(density)
        return own if spread is None else own + spread

    def digest(self) -> str:
        """Sixteen hex digits over configuration and weights: says which network statistics and maps belong to."""
        if not self._digest or self.training:
            parts = [json.dumps(asdict(self.config), sort_keys=True)]
            parts += [f"{n}:{p.detach().cpu().numpy().tobytes().hex()}" for n, p in sorted(self.state_dict().items())]
            self._digest = sha256_text("\n".join(parts))[:16]
        return self._digest


def start_logits(density: Tensor, components: int) -> Tensor:
    """K Gaussians of scaled density (N, 1, H, W) as logits: the start that orders components from pale to dark."""
    with torch.no_grad():
        return _Quadratic(components).to(density.device)(density)


def tissue_weight(density: Tensor) -> Tensor:
    """Soft tissue membership of optical density: 0 on glass, 1 on tissue (exponent clamped against overflow)."""
    return torch.sigmoid(((density - GLASS_DENSITY) / GLASS_SOFTNESS).clamp(-30.0, 30.0))


def save_net(net: DcgmmNet, path: Path) -> Path:
    """Write the network as safetensors, atomically; return the path."""
    config = {"kind": "dcgmm", "epsilon": CHROMA_EPSILON, **asdict(net.config)}
    with atomic_path(path) as part:
        weights = {name: value.contiguous() for name, value in net.state_dict().items()}
        part.write_bytes(save(weights, metadata={"config": json.dumps(config, sort_keys=True)}))
    return path


def load_net(path: Path) -> DcgmmNet:
    """Read a network written by :func:`save_net`; a missing, damaged or foreign file is a :class:`ModelError`."""
    try:
        with safe_open(path, framework="pt") as stream:
            config = json.loads((stream.metadata() or {}).get("config", "{}"))
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"The stain network {path} cannot be read ({error})", fix="Run notebook 04 again") from error
    refuse_not_finite(weights, path)
    kind, epsilon = config.pop("kind", None), config.pop("epsilon", None)
    if kind != "dcgmm" or epsilon != CHROMA_EPSILON:
        raise ModelError(f"{path} is not a DCGMM network of this version", got=f"kind {kind}, ε {epsilon}",
                         expected=f"kind dcgmm, ε {CHROMA_EPSILON}", fix="Give the file notebook 04 wrote")  # fmt: skip
    try:
        net = DcgmmNet(DcgmmConfig(**config))
        net.load_state_dict(weights)
    except (StainError, RuntimeError, TypeError) as error:
        raise ModelError(f"{path} does not hold the weights that its configuration promises ({error})",
                         fix="Run notebook 04 again") from error  # fmt: skip
    return net.eval()
