"""Gradients at every level of instructions that the processor has, with the allocator's checks on, against float64."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

# level of oneDNN, level of ATen, the flag that a processor must show for both
LEVELS = {
    "SSE41": ("default", "sse4_1"),
    "AVX2": ("avx2", "avx2"),
    "AVX512_CORE": ("avx512", "avx512dq"),
    "DEFAULT": ("", ""),
}
# what a process does with each level: prints a line per network, so that a crash shows where it happened
SCRIPT = '''
import itertools, sys
import torch
from torch import nn
from deeplrhe_utils.learning.rivals.mil import GatedAttention, MilConfig
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network
from deeplrhe_utils.learning.networks.pointwise import guard_pointwise
from deeplrhe_utils.stain.dcgmm.net import DcgmmConfig, DcgmmNet

def off(ours, exact):
    """Largest difference, in shares of the largest value."""
    pairs = zip(ours, exact, strict=True)
    return float(torch.stack([(a.double() - b).abs().max() / b.abs().max().clamp(min=1e-6) for a, b in pairs]).max())

def gradients(network, x):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    network.zero_grad()
    out = network.features(x) if hasattr(network, "features") else network(x)  # logits are float32 by design
    (out[0] if isinstance(out, tuple) else out).square().sum().backward()
    return [x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]

def check(name, make, shape, bound, plain=None):
    print(name, shape, flush=True)
    torch.manual_seed(0)
    network = make()
    exact = (plain or make)().double()
    exact.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in network.state_dict().items()})
    x = torch.rand(shape)
    if len(shape) == 4 and shape[1] > 1:
        network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if plain and not torch.is_autocast_enabled("cpu"):
        unguarded = plain().to(memory_format=torch.channels_last)
        unguarded.load_state_dict(network.state_dict())
        with torch.no_grad():  # its forward pass is sound
            apart = off([network(x)], [unguarded(x).double()])
        assert apart < 1e-6, f"{name} {shape}: forward passes differ by {apart:.2g} of the largest"
    error = off(gradients(network, x), gradients(exact, x.double().contiguous()))
    assert error < bound, f"{name} {shape}: gradients are off by {error:.2g} of the largest"

def layer(inputs, outputs, stride):
    def plain():
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))
    def guarded():
        network = plain()
        guard_pointwise(network)
        return network
    return guarded, plain

for threads, counts in ((1, (1, 2, 3, 4, 7, 8, 11, 15, 16, 24)), (2, (1, 5, 14))):
    torch.set_num_threads(threads)
    for inputs, stride in itertools.product(counts, (2, 3)):
        for side, outputs, batch in ((12, 16, 2), (96, 2, 2), (24, 8, 32)):
            guarded, plain = layer(inputs, outputs, stride)
            check(f"1 x 1, {inputs} channels, stride {stride}", guarded, (batch, inputs, side, side), 1e-4, plain)
torch.set_num_threads(1)
for inputs in (1, 4, 9, 15) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ():
    with torch.autocast("cpu", torch.bfloat16):
        guarded, plain = layer(inputs, 24, 2)
        check(f"bfloat16, {inputs} channels", guarded, (2, inputs, 96, 96), 5e-2, plain)
for kernels, stages, crop in ((1, 2, 64), (4, 2, 64), (4, 3, 128), (7, 2, 128), (12, 3, 64), (15, 2, 128), (32, 3, 64)):
    config = NetworkConfig(("A", "B"), kernels=kernels, kernel_size=3, stages=stages)
    check(f"deeplrhe, {kernels} kernels, {stages} stages", lambda: build_network(config), (4, 3, crop, crop), 2e-2)
for name in ("resnet18", "timm/mobileone_s0"):
    config = NetworkConfig(("A",), architecture=name)
    check(name, lambda: build_network(config).eval(), (2, 3, 64, 64), 2e-2)
for kind in ("compact", "paper"):
    check(f"DCGMM {kind}", lambda: DcgmmNet(DcgmmConfig(network=kind)), (2, 1, 64, 64), 2e-2)


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = GatedAttention(5, 2, MilConfig(embed=7, dropout=0.0))

    def forward(self, x):
        return self.network(x, torch.ones(x.shape[:2], dtype=torch.bool))

check("attention MIL", Bags, (3, 9, 5), 1e-3)
print("finished")
'''


def has(level: str) -> bool:
    if not level or platform.machine() != "x86_64":
        return not level
    return level in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("level", LEVELS)
def test_gradients_are_right_and_memory_whole_at_every_level_of_instructions(level):
    aten, flag = LEVELS[level]
    if not has(flag):
        pytest.skip(f"this processor has no {flag}")
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.perturb=165"}
    levels = {"ONEDNN_MAX_CPU_ISA": level} | ({"ATEN_CPU_CAPABILITY": aten} if aten else {})
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | checks | levels, text=True,
                          capture_output=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-1500:]}"
    assert done.stdout.endswith("finished\n")
    assert "cannot be preloaded" not in done.stderr or platform.libc_ver()[0] != "glibc", "nothing watched the memory"
