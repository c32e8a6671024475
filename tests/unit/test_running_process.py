"""The same bytes at every level of instructions that the processor offers, if a process was started held."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.paths import NOTEBOOKS, PROFILES, REPOSITORY
from deeplrhe_utils.running.machine import provenance
from deeplrhe_utils.running.machine.process import LEVEL_HELD, STEADY, is_held
from deeplrhe_utils.running.plan.closure import Sources
from deeplrhe_utils.running.plan.notebooks import find_stages
from deeplrhe_utils.running.plan.plan import Request, describe_plan, make_plan
from deeplrhe_utils.running.plan.profiles import load_profile
from deeplrhe_utils.running.runner.kernel import Execution
from deeplrhe_utils.running.stage.state import stage_key

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64 processors")

# a little of everything that numbers come from, and the levels that the libraries say they are at
SCRIPT = """
import json, sys
import cv2, numpy as np, torch
from scipy import linalg, ndimage
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network
from deeplrhe_utils.learning.recipes.recipe import uses_bfloat16
from deeplrhe_utils.learning.recipes.scoring import score_arrays
from deeplrhe_utils.stain.dcgmm.fit import fit_responsibilities
torch.set_num_threads(2)
AVX512_SKX = 256  # as OpenCV counts
random, found = np.random.default_rng(0), {}
image = random.integers(0, 256, (97, 131, 3), dtype=np.uint8)
shares, matrix = image.astype(np.float32) / 255, random.normal(size=(97, 61))
found["filters"] = cv2.GaussianBlur(cv2.exp(shares), (0, 0), 1.7)
found["colours"] = cv2.transform(cv2.log(shares + 1), matrix[:3, :3])
found["sizes"] = cv2.resize(image, (211, 143), interpolation=cv2.INTER_CUBIC)
found["numpy"] = np.exp(matrix) + np.arctan2(matrix, matrix[::-1]) + np.log(np.abs(matrix))
found["order"] = np.argsort(matrix.ravel().round(1))
found["ridge"] = linalg.solve(matrix.T @ matrix + np.eye(61), matrix.T @ matrix[:, :2], assume_a="pos")
found["softmax"] = torch.from_numpy(matrix).float().softmax(1).numpy()
found["smoothed"] = ndimage.gaussian_filter(matrix, 2)
torch.manual_seed(0)
network = build_network(NetworkConfig(("A", "B"), kernels=16, stages=2)).to(memory_format=torch.channels_last)
optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
crops = torch.rand(8, 3, 64, 64).to(memory_format=torch.channels_last)
for _ in range(3):
    optimiser.zero_grad()
    network(crops).square().mean().backward()
    optimiser.step()
found["weights"] = torch.cat([p.detach().flatten() for p in network.parameters()]).numpy()
tiles = random.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
found["scores"] = score_arrays(network, lambda i: tiles[list(i)], 4)
found["stain fit"] = np.array(fit_responsibilities(list(tiles), [1.0] * 4, steps=4, crop_px=48)[1])
from numpy._core._multiarray_umath import __cpu_features__ as features
levels = {"torch": torch.backends.cpu.get_cpu_capability(), "opencv": cv2.checkHardwareSupport(AVX512_SKX),
          "numpy": any(has for name, has in features.items() if name in ("X86_V4", "AVX512_SKX")),
          "bfloat16": uses_bfloat16("auto", torch.device("cpu"))}
np.savez(sys.argv[1], **found)
print(json.dumps(levels))
"""
TOLERANCE = 1e-4
"""By how much results of another level may differ, in shares of the largest value: three steps of training amplify."""


def numbers(folder: Path, name: str, **more: str) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """What the script computes under further variables, and the levels of the libraries there."""
    own = {name: value for name, value in os.environ.items() if name not in LEVEL_HELD}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder / f"{name}.npz")], text=True, capture_output=True,
                          env=own | STEADY | more, timeout=300)  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return dict(np.load(folder / f"{name}.npz")), json.loads(done.stdout)


def test_a_held_process_gives_the_same_bytes_where_instructions_are_hidden(tmp_path):
    held, levels = numbers(tmp_path, "held", **LEVEL_HELD)
    assert levels == {"torch": "AVX2", "opencv": False, "numpy": False, "bfloat16": False}
    hidden = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ"}
    again, _ = numbers(tmp_path, "again", **LEVEL_HELD, **hidden)
    assert {n for n in held if held[n].tobytes() != again[n].tobytes()} == set()
    native, _ = numbers(tmp_path, "native")
    for name in held.keys() - {"order"}:  # equal values may stand in any order
        apart = np.abs(held[name].astype(float) - native[name]).max() / np.abs(held[name]).max()
        assert apart < TOLERANCE, f"{name}: {apart:.2g} apart"


def test_the_command_starts_held_processes(monkeypatch):
    ask = ("import os; from deeplrhe_utils.running.machine.process import STEADY, is_held; "
           "print(is_held(), STEADY.items() <= os.environ.items())")  # fmt: skip
    command = [sys.executable, "-m", "deeplrhe_utils.running.machine.process", sys.executable, "-c", ask]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["True", "True"]
    for name, value in LEVEL_HELD.items():
        monkeypatch.setenv(name, value)
    assert is_held()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    assert not is_held()


@pytest.mark.parametrize(("profile", "typed", "expected"), [
    ("smoke", (), True), ("demo", (), True), ("smoke", ("determinism=off",), False), ("slides", (), False),
    ("slides", ("determinism=on",), True), ("smoke", ("05.determinism=off",), "Unknown parameter"),
    ("smoke", ("determinism=maybe",), "on | off"),
])  # fmt: skip
def test_determinism_is_a_parameter_of_the_whole_run(profile, typed, expected, tmp_path):
    def plan():
        stages = find_stages(NOTEBOOKS)
        return make_plan(load_profile(profile, PROFILES), stages, Request(typed), REPOSITORY, demand=False)

    if isinstance(expected, str):
        with pytest.raises(ParameterError, match=re.escape(expected)):
            plan()
        return
    planned = plan()
    assert {one.held for one in planned} == {expected}
    listed = describe_plan(planned, load_profile(profile, PROFILES))
    assert f"determinism: on | off = {'on' if expected else 'off'!r}" in listed
    own = Execution(tmp_path, tmp_path, {}, tmp_path, tmp_path, held=expected).environment(tmp_path)
    assert STEADY.items() <= own.items() and (LEVEL_HELD.items() <= own.items()) == expected
    sources = Sources(REPOSITORY / "deeplrhe_utils")
    keys = {stage_key(replace(planned[0], held=held), sources, {}, {}) for held in (True, False)}
    assert len(keys) == 2, "a result of one level would be taken for one of the other"


@pytest.mark.parametrize(("files", "cores"), [
    ({}, 4), ({"cpu.max": "max 100000"}, 4), ({"cpu.max": "150000 100000"}, 2), ({"cpu.max": "900000 100000"}, 4),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
], ids=str)  # fmt: skip
def test_a_containers_share_of_time_counts_as_its_cores(tmp_path, monkeypatch, files, cores):
    """Binder shows all cores of its machine and gives the time of one."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(provenance, "CGROUPS", tmp_path)
    monkeypatch.setattr(provenance.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert provenance.usable_cores() == cores
