"""The recipe of one training run, and the published one of DeepPATH.

Source: DeepLRHE, "Adjustment of Hyperparameters", names loss, batch size and learning rate as tuned but gives no
values: the defaults are ours. DEEPPATH is what the code of Coudray 2018 does, which the blog's "learning rate 0.1,
weight decay 0.9" is not: 0.9 is the decay of RMSProp's running mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.learning.recipes.losses import LOSSES
from deeplrhe_utils.learning.tiles.sampling import BALANCES

_CHOICES: Final = {
    "loss": LOSSES,
    "balance": BALANCES,
    "optimiser": ("adamw", "rmsprop_tf", "sgd"),
    "schedule": ("one_cycle", "cosine", "step", "constant"),
    "augmentation": ("crop_flip_turn", "deeppath"),
    "precision": ("auto", "bfloat16", "float32"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Recipe of one training run.

    Attributes
    ----------
    epochs, batch_size : passes over the training tiles, tiles per step (over all processes)
    learning_rate, weight_decay : peak of the schedule; decay as the optimiser takes it
    crop_px : side of the random crop used in training [stored px]; scoring sees the whole tile
    max_positive_weight : ceiling of the class weight (negatives / positives) of "weighted_bce"
    loss : "bce", "weighted_bce" or "focal"; a softmax head takes cross-entropy, or its focal form
    label_smoothing, aux_weight : of the labels, and of the auxiliary head's loss (Inception v3)
    optimiser : "adamw", "rmsprop_tf" (epsilon inside the root, 1.0) or "sgd"
    schedule : "one_cycle" (AdamW's first beta cycles with it), "cosine", "constant" or "step" (× `step_factor` every
        `step_epochs` epochs)
    augmentation, stain_jitter : "crop_flip_turn" with jitter of both stains' densities, or "deeppath"
    precision : "bfloat16" or "float32" arithmetic of convolutions; "auto" takes bfloat16 where hardware multiplies it
    accumulate : parts that a step is divided into to save memory; batch normalization then sees one part at a time
    clip_norm : largest norm of a step's gradient; 0 does not clip
    ema : decay of the weights' moving average, which is then what is kept; 0 keeps the last weights
    balance, tiles_per_patient : see `epoch_order`
    patience : epochs without a better validation loss after which training stops; 0 runs to the end. With validation
        patients the best epoch's weights are kept, whatever `patience` is.
    compile : let torch.compile fuse the network (worth it on a GPU; needs a C++ compiler on a CPU)
    checkpoint_seconds : least time between two saves of the state to resume from [s]; 0 saves after every step
    """

    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    crop_px: int = 128
    max_positive_weight: float = 10.0
    loss: str = "bce"
    label_smoothing: float = 0.0
    aux_weight: float = 0.4
    optimiser: str = "adamw"
    schedule: str = "one_cycle"
    step_epochs: float = 30.0
    step_factor: float = 0.16
    augmentation: str = "crop_flip_turn"
    stain_jitter: float = 0.0
    precision: str = "auto"
    accumulate: int = 1
    clip_norm: float = 5.0
    ema: float = 0.0
    balance: str = "none"
    tiles_per_patient: int = 0
    patience: int = 0
    compile: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, legal in _CHOICES.items():
            if getattr(self, name) not in legal:
                raise ParameterError(f"Illegal {name}", got=getattr(self, name), expected=" or ".join(legal))
        if self.stain_jitter and self.augmentation == "deeppath":
            raise ParameterError("DeepPATH's augmentation has colour changes of its own", got=self.stain_jitter,
                                 expected="stain_jitter of 0")  # fmt: skip
        for name in ("epochs", "batch_size", "accumulate", "crop_px"):
            if getattr(self, name) < 1:
                raise ParameterError(f"Illegal {name}", got=getattr(self, name), expected="1 or more")
        if (self.balance == "patient") != (self.tiles_per_patient > 0):
            raise ParameterError("Balancing patients and tiles_per_patient go together",
                                 got=f"balance {self.balance}, tiles_per_patient {self.tiles_per_patient}",
                                 expected="patient and 1 or more, or another balance and 0")  # fmt: skip


DEEPPATH: Final = TrainConfig(
    epochs=100, batch_size=400, learning_rate=0.1, weight_decay=4e-5, label_smoothing=0.1, optimiser="rmsprop_tf",
    schedule="step", augmentation="deeppath", crop_px=299, clip_norm=0.0, ema=0.9999,
)  # fmt: skip
"""Coudray 2018 from scratch: 400 tiles a step; 230,001 steps over 923,893 tiles were about 100 epochs."""

DEEPPATH_NETWORK: Final[dict[str, Any]] = {"architecture": "inception_v3", "dropout": 0.2}
"""What goes with it in `NetworkConfig`: dropout keeps 0.8."""


def device_of(name: str = "auto") -> torch.device:
    """Torch device: "auto" takes CUDA when it is there, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def scoring_precision(precision: str) -> str:
    """Arithmetic of scores: float32, unless bfloat16 was asked for by name; "auto" must not let machines differ."""
    return "bfloat16" if precision == "bfloat16" else "float32"


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether convolutions run in bfloat16: asked for, or "auto" on hardware that multiplies it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
