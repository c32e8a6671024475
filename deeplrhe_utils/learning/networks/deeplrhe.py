"""Networks that score tiles: DeepLRHE's own, and published ones with a new last layer.

Source of DeepLRHE: sections "Convolutional Neural Network" and "Residual Network". The paper gives 32 first-stage
n × n kernels, ReLU, pooling, two-layer residual blocks with batch normalization, a fully connected layer and an
output layer; depth, strides and n are ours and are parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ModelError
from deeplrhe_utils.core.files import atomic_path, sha256_file
from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.learning.networks.backbones import BatchDropout, build_backbone, draw_truncated
from deeplrhe_utils.learning.networks.cards import TILE_NETWORK, hash_patient, read_file, refuse_leak
from deeplrhe_utils.learning.networks.cards import read_card as read_card
from deeplrhe_utils.learning.networks.pointwise import guard_pointwise
from deeplrhe_utils.learning.networks.weights import Loaded, load_weights, shown_name


@dataclass(frozen=True)
class NetworkConfig:
    """What network to build.

    Attributes
    ----------
    targets : names of the outputs (genes, or tissue classes)
    head : "sigmoid" (several targets may hold at once) or "softmax" (exactly one holds)
    kernels, kernel_size : of deeplrhe: first-stage kernels (paper: 32) and their side n [px] (3, 5 or 7)
    stages, blocks : of deeplrhe: resolutions after the first pooling, and residual blocks at each
    residual, batch_norm : of deeplrhe: switches for the paper's two claims
    architecture : "deeplrhe", "inception_v3", another classifier of torchvision, or "timm/<name>"
    weights : what training starts from: "none", "imagenet" or a file (.safetensors, .pth)
    dropout : share of the features dropped before the classifier, in training
    """

    targets: tuple[str, ...]
    head: str = "sigmoid"
    kernels: int = 32
    kernel_size: int = 7
    stages: int = 3
    blocks: int = 1
    residual: bool = True
    batch_norm: bool = True
    architecture: str = "deeplrhe"
    weights: str = "none"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for own in fields(self)[1:]:
            value, kind = getattr(self, own.name), type(own.default)
            if not (type(value) is kind or (kind is float and type(value) is int)):
                raise ModelError(f"Illegal {own.name} of a network", got=repr(value)[:80], expected=kind.__name__)
        if not (0 < self.kernels <= 4096 and 0 < self.stages <= 8 and 0 < self.blocks <= 64):
            raise ModelError("Illegal size of a network", got=f"{self.kernels} kernels, {self.stages} stages, "
                             f"{self.blocks} blocks", expected="1 to 4096, 8 and 64")  # fmt: skip
        if self.kernel_size not in (3, 5, 7):
            raise ModelError("Illegal kernel size", got=self.kernel_size, expected="3, 5 or 7")
        if self.head not in ("sigmoid", "softmax"):
            raise ModelError("Illegal output head", got=self.head, expected="sigmoid or softmax")
        if not 0 <= self.dropout < 1:
            raise ModelError("Illegal dropout", got=self.dropout, expected="a share from 0 to below 1")


class TileNetwork(nn.Module):
    """A network that scores tiles, float (N, 3, H, W) in [0, 1] → logits (N, T).

    Attributes
    ----------
    feature_dim : width D of :meth:`features`
    side_px : side that tiles are resized to inside [px]; None takes them as they are
    trunk : what weights from elsewhere can fill
    classifiers : names inside `trunk` of layers that they must not fill
    loaded : what was filled, by :func:`build_network`
    """

    config: NetworkConfig
    classify: nn.Module
    dropout: nn.Module
    feature_dim: int
    side_px: int | None = None
    classifiers: tuple[str, ...] = ("classify",)
    loaded: Loaded = Loaded()

    @property
    def trunk(self) -> nn.Module:
        """The module whose parameter names weights from elsewhere use."""
        return self

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (N, D), before dropout and classifier."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        """Logits (N, T); Inception v3 in training: (logits, auxiliary logits)."""
        raise NotImplementedError

    def _logits(self, features: Tensor) -> Tensor:
        """Float32 whatever the features are: in bfloat16 many scores would tie."""
        with torch.autocast(features.device.type, enabled=False):
            return self.classify(self.dropout(features.float()))


def _dropout(share: float) -> nn.Module:
    return BatchDropout(share) if share else nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut: C[l+2] = σ(B[l+2] + C[l]).

    With both weights and biases of the second convolution at zero, B[l+2] = 0 and the output is σ(C[l]) = C[l]
    for C[l] ≥ 0: the identity that the paper states (its printed indices are garbled). Where the number of
    channels or the resolution changes, the shortcut is a 1 × 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, residual: bool, batch_norm: bool) -> None:
        super().__init__()
        self.residual = residual
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        out = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(out + self.shortcut(x) if self.residual else out)


class DeepLrhe(TileNetwork):
    """The paper's CNN + ResNet classifier. Input: (N, 3, H, W) float32, uint8 values / 255; output: logits (N, T)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        n, width = config.kernel_size, config.kernels
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, n, 2, n // 2, bias=not config.batch_norm),
            nn.BatchNorm2d(width) if config.batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(config.stages):
            outputs = width * (stage + 1)
            for block in range(config.blocks):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(inputs, outputs, stride, config.residual, config.batch_norm))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.dropout = _dropout(config.dropout)
        self.classify = nn.Linear(inputs, len(config.targets))
        self.feature_dim = inputs

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (N, D) of tiles (N, 3, H, W); any H, W ≥ 32 (global average pooling)."""
        return self.blocks(self.stem((x - 0.7) / 0.2)).mean((2, 3), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, T) of tiles (N, 3, H, W); any H, W ≥ 32."""
        return self._logits(self.features(x))


class BackboneNetwork(TileNetwork):
    """A published network with a new last layer; see `learning.networks.backbones`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        backbone = build_backbone(config.architecture, len(config.targets))
        self.config, self.body = config, backbone.body
        self.feature_dim, self.side_px, self.classifiers = backbone.feature_dim, backbone.side_px, backbone.classifiers
        self.dropout = _dropout(config.dropout)
        self.classify = nn.Linear(backbone.feature_dim, len(config.targets))
        if backbone.head_std:
            draw_truncated(self.classify, backbone.head_std)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        self._statistics = backbone.statistics

    @property
    def trunk(self) -> nn.Module:
        """The published network, under its own names."""
        return self.body

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (N, D) of tiles (N, 3, H, W)."""
        out = self._run(x)
        return out if isinstance(out, Tensor) else out[0]

    def forward(self, x: Tensor) -> Any:
        """Logits (N, T) of tiles (N, 3, H, W); Inception v3 in training: (logits, auxiliary logits)."""
        out = self._run(x)
        if isinstance(out, Tensor):
            return self._logits(out)
        return self._logits(out[0]), out[1]

    def _run(self, x: Tensor) -> Any:
        if self.side_px and x.shape[2:] != (self.side_px, self.side_px):
            side = (self.side_px, self.side_px)
            x = nn.functional.interpolate(x, side, mode="bilinear", align_corners=False, antialias=True)
        x = (x - self.mean) / self.std
        if self._statistics is None or not self.training:
            return self.body(x)
        before = self._statistics.copy()
        out = self.body(x)
        self._statistics.settle(before)
        return out


def build_network(config: NetworkConfig, *, pretrained: bool = True) -> TileNetwork:
    """The network that `config` describes, in training mode.

    Parameters
    ----------
    pretrained : fill it with ``config.weights``; False leaves the random weights (torch's global generator), for files
        whose weights come after

    Raises ModelError: unknown architecture, or weights that are absent, damaged or of another network.
    """
    network = DeepLrhe(config) if config.architecture == "deeplrhe" else BackboneNetwork(config)
    guard_pointwise(network)
    if pretrained:
        network.loaded = load_weights(network, config.weights)
    return network


def layer_table(model: nn.Module, input_px: int) -> list[tuple[str, str, tuple[int, ...], int]]:
    """(name, kind, output shape, weights) of every leaf layer for one tile of `input_px`: data of Figures 3 and 4."""
    rows: list[tuple[str, str, tuple[int, ...], int]] = []
    hooks = []
    for name, layer in model.named_modules():
        if not list(layer.children()) and not isinstance(layer, nn.Identity):

            def record(layer: nn.Module, _: Any, output: Tensor, name: str = name) -> None:
                shape = tuple(output.shape[1:])
                rows.append((name, type(layer).__name__, shape, sum(p.numel() for p in layer.parameters())))

            hooks.append(layer.register_forward_hook(record))
    model.eval()
    with torch.inference_mode():
        model(torch.zeros(1, 3, input_px, input_px))
    for hook in hooks:
        hook.remove()
    return rows


def tensor_steps(model: DeepLrhe, input_px: int) -> list[tuple[str, tuple[int, ...]]]:
    """(what is done, shape of what comes out) for each resolution from the tile to the outputs: Figures 3 and 4."""
    words = {"Conv2d": "convolution", "MaxPool2d": "max pooling", "Linear": "mean,\nfully connected"}
    steps: list[tuple[str, tuple[int, ...]]] = [("tile", (3, input_px, input_px))]
    for path, kind, sizes, _ in layer_table(model, input_px):
        before, now = prod(steps[-1][1][1:]), prod(sizes[1:])
        if now < before:
            steps.append(("" if path.startswith("blocks.") else words[kind], sizes))
        if now <= before:
            block = "\nresidual block" * path.endswith(".second")  # one for each convolution that ends a block
            steps[-1] = ((steps[-1][0] + block).strip(), sizes)
    return steps


def save_model(model: TileNetwork, path: Path, *, trained_on: Iterable[str], card: dict[str, Any]) -> str:
    """Write weights and model card as one safetensors file, atomically.

    Parameters
    ----------
    trained_on : patient identifiers the weights were fitted on (stored hashed)
    card : any further JSON-able facts (fold, seed, trainable targets, input size …)

    Returns str: first 16 hex characters of the file's SHA-256: the `model_hash` of the predictions table.

    Raises ModelError: training started from given weights and ``model.loaded`` does not say which; they, and the
    patients that they saw, go on the card.
    """
    if (model.config.weights == "none") != (model.loaded.source == "none"):
        raise ModelError("It is not known what weights this network started from", got=model.loaded.source,
                         expected=shown_name(model.config.weights), fix="Set model.loaded")  # fmt: skip
    start = asdict(model.loaded)
    patients = sorted({*map(hash_patient, trained_on), *start.pop("patients")})
    config = {**asdict(model.config), "weights": shown_name(model.config.weights)}
    full = {**card, "kind": TILE_NETWORK, "config": config, "patients": patients, "start": start}
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as part:
        part.write_bytes(save(weights, metadata={"card": json.dumps(full, sort_keys=True)}))
    return sha256_file(path)[:16]


def load_model(path: Path, *, score_patients: Sequence[str] = ()) -> tuple[TileNetwork, dict[str, Any]]:
    """Read a model; refuse it when it was trained on a patient it is asked to score (leak alarm).

    Returns model in evaluation mode, card.

    Raises ModelError: the file is damaged, a pickle, or of an architecture that is unknown or does not fit its weights.
    LeakError: a patient of `score_patients` is on the card.
    """
    card, weights = read_file(path, "tile network", TILE_NETWORK, "pt")
    refuse_leak(card, score_patients, path.name)
    try:
        config = NetworkConfig(**{**card["config"], "targets": tuple(card["config"]["targets"])})
    except TypeError as error:
        raise ModelError(f"The card of {path} describes a network this version does not know ({error})",
                         fix="Update the compendium, or train again") from error  # fmt: skip
    try:
        with torch.device("meta"):  # takes no memory, whatever sizes a card claims
            build_network(config, pretrained=False).load_state_dict(weights, assign=True)
        model = build_network(config, pretrained=False)
        model.load_state_dict(weights)
        start = {"left_out": (), **card.get("start", {})}
        model.loaded = Loaded(**{**start, "left_out": tuple(start["left_out"]), "patients": tuple(card["patients"])})
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"The weights in {path} do not fit the architecture on their card ({error})") from error
    return model.eval(), card


def identity_gap(channels: int = 32) -> float:
    """How far a residual block is from the identity when its second convolution is zero.

    With W[l+2] = 0 and A[l+2] = 0 the paper's block is C[l+2] = σ(C[l]) = C[l] for C[l] ≥ 0.

    Returns float: largest absolute difference between input and output, with and without batch normalization: 0 if the
    algebra holds. Source: Yang 2021, *Residual Network*, with the printed indices put right.
    """
    random = torch.Generator().manual_seed(integer_seed(0, "identity"))
    x = torch.rand((2, channels, 16, 16), generator=random)
    gap = 0.0
    for batch_norm in (True, False):
        block = ResidualBlock(channels, channels, 1, residual=True, batch_norm=batch_norm).eval()
        for module in (block.second, block.norm2):
            for weight in module.parameters():
                nn.init.zeros_(weight)
        with torch.no_grad():
            gap = max(gap, float((block(x) - x).abs().max()))
    return gap
