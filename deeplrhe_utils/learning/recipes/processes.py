"""One training in several processes: who has which part of a step, and statistics over all of it.

Source: ours. `torchrun` starts the processes; gradients are averaged by DistributedDataParallel. Batch normalization
is taken over the whole step, or the result would depend on the number of processes; torch's SyncBatchNorm refuses
tensors that are not on a GPU, so the layer for it is ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deeplrhe_utils.core.errors import ParameterError


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with `count` threads of torch: rounding, and so what is chosen, depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Group:
    """One process among those that train together: its number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Its share of `count` items; shares differ by at most one."""
        edges = [count * r // self.size for r in range(self.size + 1)]
        return slice(edges[self.rank], edges[self.rank + 1])

    def sum(self, value: Tensor) -> Tensor:
        """Everybody's values added up, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = Group()


@contextmanager
def started_group(device: str = "auto") -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that `torchrun` started: NCCL with one GPU each, or gloo on the CPU.

    Raises ParameterError: this process was not started by torchrun, or there are more processes on this machine than
    GPUs.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ParameterError("This process belongs to no group", fix="Start it with torchrun --nproc-per-node N -m …")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda and local >= torch.cuda.device_count():
        raise ParameterError(f"Process {local} on this machine has no GPU", got=f"{torch.cuda.device_count()} GPUs",
                             fix="Give --nproc-per-node as many as there are GPUs, or device cpu")  # fmt: skip
    place = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size()), place
    finally:
        dist.destroy_process_group()


def shared(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """The model as the group trains it: gradients averaged, batch normalization over everybody's tiles.

    `model` itself keeps its parameters and names; only its batch normalization computes differently from here on.
    """
    if group.size == 1:
        return model
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            _known(layer)
            layer.forward = _GroupNorm(layer)  # type: ignore[assignment,method-assign]
    where = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=where, broadcast_buffers=False)


_FOLLOWERS = ("drop", "act")
"""What timm puts into its batch normalization, in this order."""


def _known(layer: nn.BatchNorm2d) -> None:
    """Raise where a kind of batch normalization does more than we know of."""
    if type(layer) is not nn.BatchNorm2d and not all(hasattr(layer, name) for name in _FOLLOWERS):
        raise ParameterError("This kind of batch normalization cannot be shared among processes",
                             got=type(layer).__name__, expected="BatchNorm2d, or timm's BatchNormAct2d",
                             fix="Train in one process: leave launch empty")  # fmt: skip


class _GroupNorm:
    """Forward of a BatchNorm2d whose statistics, in training, are those of all processes (works with gloo and NCCL)."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training:
            return type(layer).forward(layer, x)
        mean, variance, count = _moments(x.detach())
        with torch.no_grad():
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked += 1
            momentum = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.lerp_(mean, momentum)
            layer.running_var.lerp_(variance * count / (count - 1).clamp_min(1), momentum)
        inverse = (variance + layer.eps).rsqrt()
        out = _Normalize.apply(x, layer.weight, layer.bias, mean, inverse, variance, count, layer.eps)
        for follower in _FOLLOWERS:
            out = getattr(layer, follower, nn.Identity())(out)
        return out


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over (N, C, H, W) of all processes, and the number of values."""
    local = x.numel() // max(1, x.shape[1])
    mean, variance = _own_moments(x)
    sums = torch.cat([mean * local, (variance + mean**2) * local, mean.new_tensor([local])])
    # in double, because E[x²] - E[x]² loses digits
    sums = sums.double()
    dist.all_reduce(sums)
    count, channels = sums[-1], len(mean)
    mean64 = sums[:channels] / count
    variance64 = (sums[channels:-1] / count - mean64**2).clamp_min(0)
    return mean64.float(), variance64.float(), count.float()


def _own_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,), float32, of this process's values."""
    if x.device.type == "cpu":  # the kernel behind torch's own layer: twenty times faster than var_mean over channels
        unused = torch.zeros(x.shape[1])  # without float32 averages to update it would answer in bfloat16
        mean, variance = torch.ops.aten.batch_norm_update_stats(x, unused, unused.clone(), 1.0)
        return mean, variance
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, variance


class _Normalize(torch.autograd.Function):
    """(x - mean) · inverse · weight + bias with the group's moments, and the gradient through them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, variance: Tensor,
        count: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.eps = eps
        return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, mean, inverse, count = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        local = x.numel() // max(1, x.shape[1])
        # the local formula is a fused kernel; what it lacks is the others' two sums per channel
        dx, dw, db = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        both = torch.stack([db, dw]).double()
        dist.all_reduce(both)
        lack_mean = db.double() / local - both[0] / count.double()
        lack_slope = dw.double() / local - both[1] / count.double()
        scale = weight.double() * inverse.double()
        slope = scale * lack_slope * inverse.double()
        offset = scale * lack_mean - slope * mean.double()
        shape = (1, -1, 1, 1)
        dx = dx + (x * slope.view(shape).to(x.dtype) + offset.view(shape).to(x.dtype))
        return dx, dw, db, None, None, None, None, None
