"""The DeepLRHE network: convolutions, residual blocks, batch normalization, one output per gene.

Source: DeepLRHE sections "Convolutional Neural Network" and "Residual Network". The paper gives 32 first-stage
n × n kernels, ReLU, pooling, two-layer residual blocks with batch normalization, a fully connected layer and an
output layer; depth, strides and n are ours and are parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deeplrhe_utils.core.errors import LeakError, ModelError
from deeplrhe_utils.core.files import atomic_path, sha256_file


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of :class:`DeepLrhe`.

    Attributes
    ----------
    targets : names of the outputs (genes, or tissue classes)
    head : "sigmoid" (several targets may hold at once) or "softmax" (exactly one holds)
    kernels, kernel_size : first-stage kernels (paper: 32) and their side n [px] (3, 5 or 7)
    stages, blocks : number of resolutions after the first pooling, and residual blocks at each
    residual, batch_norm : switches for the paper's two claims
    """

    targets: tuple[str, ...]
    head: str = "sigmoid"
    kernels: int = 32
    kernel_size: int = 7
    stages: int = 3
    blocks: int = 1
    residual: bool = True
    batch_norm: bool = True

    def __post_init__(self) -> None:
        if self.kernel_size not in (3, 5, 7):
            raise ModelError("Illegal kernel size", got=self.kernel_size, expected="3, 5 or 7")
        if self.head not in ("sigmoid", "softmax"):
            raise ModelError("Illegal output head", got=self.head, expected="sigmoid or softmax")


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


class DeepLrhe(nn.Module):
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
        self.classify = nn.Linear(inputs, len(config.targets))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, T) of tiles (N, 3, H, W); any H, W ≥ 32 (global average pooling)."""
        features = self.blocks(self.stem((x - 0.7) / 0.2))
        return self.classify(features.mean((2, 3)))


def layer_table(model: nn.Module, input_px: int) -> list[tuple[str, str, int]]:
    """(layer, output shape, weights) of every leaf layer for one tile of `input_px`: the data of Figures 3 and 4."""
    rows: list[tuple[str, str, int]] = []
    hooks = []
    for name, layer in model.named_modules():
        if not list(layer.children()) and not isinstance(layer, nn.Identity):

            def record(layer: nn.Module, _: Any, output: Tensor, name: str = name) -> None:
                shape = " × ".join(map(str, output.shape[1:]))
                rows.append((f"{name}: {type(layer).__name__}", shape, sum(p.numel() for p in layer.parameters())))

            hooks.append(layer.register_forward_hook(record))
    model.eval()
    with torch.inference_mode():
        model(torch.zeros(1, 3, input_px, input_px))
    for hook in hooks:
        hook.remove()
    return rows


def hash_patient(patient_id: str) -> str:
    """First 16 hex characters of SHA-256: lets a model card name its patients without listing them."""
    return hashlib.sha256(patient_id.encode()).hexdigest()[:16]


def save_model(model: DeepLrhe, path: Path, *, trained_on: Iterable[str], card: dict[str, Any]) -> str:
    """Write weights and model card as one safetensors file, atomically.

    Parameters
    ----------
    trained_on : patient identifiers the weights were fitted on (stored hashed)
    card : any further JSON-able facts (fold, seed, trainable targets, input size …)

    Returns
    -------
    str
        First 16 hex characters of the file's SHA-256: the `model_hash` of the predictions table.
    """
    full = {
        **card,
        "kind": "deeplrhe",
        "config": asdict(model.config),
        "patients": sorted(map(hash_patient, trained_on)),
    }
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as part:
        part.write_bytes(save(weights, metadata={"card": json.dumps(full, sort_keys=True)}))
    return sha256_file(path)[:16]


def read_card(path: Path) -> dict[str, Any]:
    """The model card of a file written by :func:`save_model`."""
    try:
        with safe_open(path, framework="pt") as stream:
            card: dict[str, Any] = json.loads((stream.metadata() or {}).get("card", "{}"))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"The model {path} cannot be read ({error})",
            expected="a .safetensors file written by notebook 05",
            fix="Train again with notebook 05, or give another file; pickled checkpoints are never opened",
        ) from error
    if card.get("kind") != "deeplrhe":
        raise ModelError(
            f"{path} holds no DeepLRHE network", got=card.get("kind"), fix="Give a file that notebook 05 wrote"
        )
    return card


def load_model(path: Path, *, score_patients: Sequence[str] = ()) -> tuple[DeepLrhe, dict[str, Any]]:
    """Read a model; refuse it when it was trained on a patient it is asked to score (leak alarm).

    Returns
    -------
    model in evaluation mode, card
    """
    card = read_card(path)
    seen = set(card["patients"])
    if leaked := [p for p in score_patients if hash_patient(p) in seen]:
        raise LeakError(
            f"The model {path.name} was trained on {len(leaked)} patients it is asked to score (first: {leaked[0]})",
            fix="Score them with the fold that held them out",
        )
    config = NetworkConfig(**{**card["config"], "targets": tuple(card["config"]["targets"])})
    model = DeepLrhe(config)
    with safe_open(path, framework="pt") as stream:
        weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit the architecture on their card ({error})") from error
    return model.eval(), card
