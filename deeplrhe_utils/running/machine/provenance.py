"""Where results come from: commit, versions, hardware."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import psutil

CGROUPS: Final = Path("/sys/fs/cgroup")

LIBRARIES = (
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "torch",
    "torchvision",
    "openslide-python",
    "openslide-bin",
    "opencv-python-headless",
    "matplotlib",
    "dask",
    "distributed",
    "papermill",
    "ipykernel",
    "jupyterlab",
)


def git_state(repository: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; nulls where git or the history is absent."""
    commit = _git(repository, "rev-parse", "HEAD")
    changed = _git(repository, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "dirty": bool(changed) if commit else None}


def _git(repository: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def library_versions() -> dict[str, str | None]:
    """Version of Python, this package and the libraries results depend on; null when not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Platform, processor, cores this process may use, memory [bytes] and GPU."""
    return {
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory_limit_bytes(),
        "gpu": gpu_name(),
    }


def usable_cores() -> int:
    """Cores this process may run on: of its affinity, or a container's smaller share of time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # cgroups of version 2, of version 1; "max" or −1 is no limit
            quota, period = " ".join((CGROUPS / name).read_text(encoding="ascii") for name in names).split()
            if int(quota) > 0:
                cores = min(cores, math.ceil(int(quota) / int(period)))
    return cores


def memory_limit_bytes() -> int:
    """Memory this process may use [bytes]: the machine's, or a container's smaller limit."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int((CGROUPS / name).read_text(encoding="ascii")))
    return total


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    """Name of the first NVIDIA GPU, or None; asks the driver, so torch is not loaded."""
    if not shutil.which("nvidia-smi"):
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip().splitlines()[0]
    return None


def shown_path(path: Path | str, repository: Path) -> str:
    """`path` relative to the repository when inside it, else as it is."""
    absolute = Path(os.path.normpath(Path.cwd() / path))
    return absolute.relative_to(repository).as_posix() if absolute.is_relative_to(repository) else str(absolute)
