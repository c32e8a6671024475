"""Networks of others behind one door: torchvision's classifiers by name, timm's by ``timm/<name>``.

A backbone is the network without its last layer, with the standardization its input needs. Source of the settings of
Inception v3: DeepPATH, ``01_training/xClasses/inception`` (TF-slim): truncated normal weights, decay of the batch
statistics 0.9997, epsilon 0.001, input (x - 0.5) · 2.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ModelError

TIMM: Final = "timm/"
EXAMPLES: Final = ("deeplrhe", "inception_v3", "resnet18", "resnet50", "timm/tf_efficientnet_lite0")

_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Final = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # (x - 0.5) · 2: how TF-slim's networks were trained
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "inception_v3": {"aux_logits": True, "transform_input": False, "init_weights": False, "dropout": 0.0},
    "googlenet": {"aux_logits": False, "transform_input": False, "init_weights": True},
}
_OLD_HEADS: Final = {"inception_v3": ("AuxLogits.fc",), "googlenet": ("aux1", "aux2")}


class BatchDropout(nn.Module):
    """Dropout whose mask is drawn for a whole step, so that it does not depend on who computes which tiles.

    Attributes
    ----------
    share : share of the values dropped; the others are divided by 1 - share
    seed : of this step's mask, drawn on the CPU; None takes torch's own generator
    start, total : the rows given are rows `start` … of a step of `total`; 0 means that they are all
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.seed: int | None = None
        self.start, self.total = 0, 0

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → the same shape; the identity in evaluation."""
        if not self.training or not self.share:
            return x
        start, total = (self.start, self.total) if self.total else (0, len(x))
        if start + len(x) > total:
            raise ModelError("Dropout was told of fewer tiles than it got", got=f"{start} + {len(x)} of {total}",
                             fix="Call set_dropout_state before each part of a step")  # fmt: skip
        random = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        kept = torch.rand((total, *x.shape[1:]), generator=random)[start : start + len(x)] >= self.share
        return x * kept.to(x) / (1 - self.share)


def set_dropout_state(model: nn.Module, seed: int | None, start: int = 0, total: int = 0) -> None:
    """Tell every :class:`BatchDropout` in `model` which rows of which step come next."""
    for layer in model.modules():
        if isinstance(layer, BatchDropout):
            layer.seed, layer.start, layer.total = seed, start, total


class SlowStatistics:
    """Moving averages of a network's batch statistics, as TensorFlow's assign_moving_average takes them (zero_debias).

    Torch's own average with a decay of 0.9997 keeps its start value for thousands of steps. Here the layers' momentum
    is 1, so that a step leaves its own statistics in them, and :meth:`settle` averages these with what was there.
    """

    def __init__(self, body: nn.Module, decay: float) -> None:
        self.decay = decay
        self.layers = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
        for layer in self.layers:
            layer.momentum = 1.0

    def _tensors(self) -> list[Tensor]:
        return [t for m in self.layers for t in (m.running_mean, m.running_var) if t is not None]

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def copy(self) -> list[Tensor]:
        """The averages as they are, before a step."""
        return [t.clone() for t in self._tensors()]

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    @torch.no_grad()
    def settle(self, before: list[Tensor]) -> None:
        """Replace a step's own statistics by their average with those `before` it."""
        steps = self.layers[0].num_batches_tracked
        assert steps is not None
        now = self._tensors()
        torch._foreach_lerp_(before, now, (1 - self.decay) / (1 - self.decay ** int(steps)))
        # through .data, because backward holds these tensors and would refuse; in training it does not read them
        torch._foreach_copy_([t.data for t in now], before)


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, and how it wants to be fed.

    Attributes
    ----------
    body : standardized float (N, 3, H, W) → (N, feature_dim); Inception v3 in training → (features, auxiliary logits)
    feature_dim : width of the features
    side_px : side that tiles must have [px]; None takes any
    mean, std : of the input, per channel, for values in [0, 1]
    classifiers : layers of the complete network that weights from elsewhere must not fill
    statistics : what averages the batch statistics; None leaves that to torch
    head_std : standard deviation of the classifier's first weights; 0 leaves them to torch
    """

    body: nn.Module
    feature_dim: int
    side_px: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifiers: tuple[str, ...]
    statistics: SlowStatistics | None = None
    head_std: float = 0.0


def build_backbone(name: str, outputs: int) -> Backbone:
    """Build the network `name` with random weights; nothing is downloaded.

    Parameters
    ----------
    name : a classifier of torchvision, or ``timm/<name>``
    outputs : number of targets: width of Inception's auxiliary head

    Raises ModelError: no such network, one whose classifier cannot be found, or timm is not installed.
    """
    if name.startswith(TIMM):
        return _timm(name)
    backbone = _torchvision(name)
    return _as_published(backbone, outputs) if name == "inception_v3" else backbone


def _torchvision(name: str) -> Backbone:
    from torchvision import models

    names = models.list_models(models)
    if name not in names:
        _unknown(name, names)
    body = models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    head, width = _cut_classifier(body, name)
    _still(body)
    mean, std = _HALF if name in ("inception_v3", "googlenet") else _IMAGENET
    side = 299 if name == "inception_v3" else 224 if name.startswith(("vit_", "maxvit_")) else None
    return Backbone(body, width, side, mean, std, (head, *_OLD_HEADS.get(name, ())))


def _timm(name: str) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"The network {name} needs the package timm, which is not installed",
                         fix="Run `pip install 'deeplrhe-compendium[transfer]'`") from error  # fmt: skip
    short = name.removeprefix(TIMM)
    if not timm.is_model(short):  # names of a hub, which would be fetched, are no models either
        _unknown(name, [TIMM + other for other in timm.list_models()])
    body: Any = timm.create_model(short, pretrained=False, num_classes=0)
    settings: dict[str, Any] = body.pretrained_cfg
    heads = settings.get("classifier") or ()
    side = int(settings["input_size"][-1]) if settings.get("fixed_input_size") else None
    width = int(getattr(body, "head_hidden_size", None) or body.num_features)
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    return Backbone(body, width, side, mean, std, (heads,) if isinstance(heads, str) else tuple(heads))


def _unknown(name: str, known: list[str]) -> NoReturn:
    near = difflib.get_close_matches(name, [*EXAMPLES, *known], n=3)
    raise ModelError(f"There is no network {name}", got=name,
                     expected=", ".join(dict.fromkeys([*near, *EXAMPLES])) + ", another classifier of torchvision "
                     "or timm/<name>", fix="Choose one of these as architecture")  # fmt: skip


def _cut_classifier(body: nn.Module, name: str) -> tuple[str, int]:
    """Replace the last linear layer by nothing; return its name and the width of what enters it."""
    layers = [(where, layer) for where, layer in body.named_modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1][1].out_features != 1000:
        raise ModelError(f"The classifier of {name} cannot be found", expected="a linear layer at the end",
                         fix="Choose another architecture, for example resnet18")  # fmt: skip
    where, layer = layers[-1]
    parent, _, child = where.rpartition(".")
    setattr(body.get_submodule(parent), child, nn.Identity())
    return where, layer.in_features


def _still(body: nn.Module) -> None:
    """Switch off the network's own random layers: their draws would depend on who shares a batch."""
    from torchvision.ops import StochasticDepth

    for layer in body.modules():
        if isinstance(layer, (nn.Dropout, StochasticDepth)):
            layer.p = 0.0
        elif isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0


def _as_published(backbone: Backbone, outputs: int) -> Backbone:
    """Inception v3 with an auxiliary head of our width and TF-slim's first weights."""
    body = backbone.body
    body.get_submodule("AuxLogits").fc = nn.Linear(768, outputs)
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d):
            draw_truncated(layer, 0.1)
    draw_truncated(body.get_submodule("AuxLogits.conv1.conv"), 0.01)
    draw_truncated(body.get_submodule("AuxLogits.fc"), 0.001)
    where = (backbone.feature_dim, backbone.side_px, backbone.mean, backbone.std, backbone.classifiers)
    return Backbone(body, *where, statistics=SlowStatistics(body, 0.9997), head_std=0.01)


def draw_truncated(layer: nn.Module, std: float) -> None:
    """Fill a layer as TensorFlow's truncated_normal_initializer: redrawn beyond two standard deviations; bias zero."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
