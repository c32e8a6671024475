"""Optimisers, learning rates as functions of the step, and the moving average of the weights.

A rate is a function of the step and not an object with a state, so that a run which is resumed needs none.
Source: TensorFlow 1 for RMSpropTF, "step" and Ema (DeepPATH was trained with them); torch for "one_cycle".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from deeplrhe_utils.core.errors import ParameterError

OPTIMISERS: Final = ("adamw", "rmsprop_tf", "sgd")
SCHEDULES: Final = ("one_cycle", "cosine", "step", "constant")

_RISE, _DIV, _FINAL = 0.3, 25.0, 1e4  # OneCycleLR's defaults: pct_start, div_factor, final_div_factor
_BETA_LOW, _BETA_HIGH = 0.85, 0.95
_WARM_UP = 0.05


class RMSpropTF(torch.optim.Optimizer):
    """TensorFlow 1's tf.train.RMSPropOptimizer, not centred.

    ms ← decay · ms + (1 - decay) · g²; mom ← momentum · mom + lr · g / √(ms + epsilon); w ← w - mom. The mean square
    starts at one and epsilon is inside the root; torch's RMSprop starts at zero, has it outside and multiplies the
    rate in later, which with epsilon 1.0 is another method.

    Parameters
    ----------
    params : parameters or groups
    lr : learning rate
    decay, momentum, epsilon : DeepPATH's are 0.9, 0.9 and 1.0
    weight_decay : added to the gradient times the weight (the gradient of TF-slim's l2_regularizer, wd/2 · ‖w‖²)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        slots = {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(params, slots)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients as they are."""
        for group in self.param_groups:
            self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        grads: list[Tensor] = [p.grad for p in params]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))  # noqa: SLF001
        squares, moments = self._slots(params)
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, grads, grads, 1 - group["decay"])
        roots = torch._foreach_add(squares, group["epsilon"])  # noqa: SLF001
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_addcdiv_(moments, grads, roots, group["lr"])
        torch._foreach_sub_(params, moments)

    def _slots(self, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        for p in params:
            if not self.state[p]:
                self.state[p]["mean_square"] = torch.ones_like(p, memory_format=torch.preserve_format)
                self.state[p]["momentum"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p]["mean_square"] for p in params], [self.state[p]["momentum"] for p in params]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of trainable parameters: kernels and matrices, decayed; biases and norms, not (as TF-slim)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimiser(name: str, params: Iterable[Any], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """An optimiser by its name in a recipe.

    Parameters
    ----------
    name : "adamw" (betas 0.9 and 0.999), "rmsprop_tf" (decay and momentum 0.9, epsilon 1.0) or "sgd" (Nesterov, 0.9)
    params : parameters, or groups; a group's own weight decay stands
    lr, weight_decay : AdamW's decay is taken apart from the gradient, the others' is added to it

    Raises ParameterError: another name.
    """
    if name == "adamw":
        return torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)
    if name == "rmsprop_tf":
        return RMSpropTF(params, lr, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    raise ParameterError("Illegal optimiser", got=name, expected=" or ".join(OPTIMISERS))


def learning_rate(
    step: int,
    *,
    total_steps: int,
    steps_per_epoch: int,
    kind: str,
    peak: float,
    factor: float = 0.16,
    every_epochs: float = 30.0,
) -> float:
    """Learning rate of one step.

    Parameters
    ----------
    step : from 0 to `total_steps` - 1, over all epochs
    kind : "one_cycle": torch's OneCycleLR with its defaults. "cosine": a linear rise over 5 % of all steps,
        then a cosine to 0. "step": × `factor` after every `every_epochs` epochs, in stairs (DeepPATH: 0.16 and
        30). "constant".
    peak : highest rate

    Raises ParameterError: another kind.
    """
    if kind == "one_cycle":
        return _one_cycle(step, total_steps, (peak / _DIV, peak, peak / _DIV / _FINAL))
    if kind == "cosine":
        return peak * _warm_cosine(step, total_steps)
    if kind == "step":
        return float(peak * factor ** (step // max(1, round(every_epochs * steps_per_epoch))))
    if kind == "constant":
        return peak
    raise ParameterError("Illegal schedule", got=kind, expected=" or ".join(SCHEDULES))


def one_cycle_beta1(step: int, total_steps: int) -> float:
    """The first beta (or momentum) that OneCycleLR sets beside its rate: 0.95 → 0.85 → 0.95."""
    return _one_cycle(step, total_steps, (_BETA_HIGH, _BETA_LOW, _BETA_HIGH))


def _one_cycle(step: int, total: int, values: tuple[float, float, float]) -> float:
    """From the first value to the second in 30 % of the steps and to the third in the rest, along cosines."""
    turn = _RISE * total - 1
    if step <= turn:
        return _cosine(values[0], values[1], step / turn if turn else 1.0)
    return _cosine(values[1], values[2], (step - turn) / (total - 1 - turn))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def _warm_cosine(step: int, total: int) -> float:
    rise = round(_WARM_UP * total)
    if step < rise:
        return (step + 1) / rise
    return _cosine(1.0, 0.0, (step - rise) / (total - rise))


class Ema:
    """Moving average of all floating parameters and buffers, as TensorFlow 1 with num_updates.

    The decay of update t (from 0) is min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten.

    Parameters
    ----------
    model : the average starts at its weights
    decay : DeepPATH: 0.9999
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._shadow = {name: tensor.detach().clone() for name, tensor in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights, after an optimiser's step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = _floating(model)
        torch._foreach_lerp_(list(self._shadow.values()), [now[name] for name in self._shadow], 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the average into a model; its counters stay as they are."""
        now = _floating(model)
        for name, tensor in self._shadow.items():
            now[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """``{"updates": int, "shadow": {name: tensor}}``; the tensors are the average's own, not copies."""
        return {"updates": self.updates, "shadow": dict(self._shadow)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, which is of this network."""
        for name, tensor in self._shadow.items():
            tensor.copy_(state["shadow"][name])
        self.updates = int(state["updates"])


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
