"""What this machine has, and what each profile needs."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.running.profiles import Profile, load_profile, profile_names
from deeplrhe_utils.running.provenance import cpu_model, gpu_name, memory_limit_bytes, usable_cores, versions

_GB = 1e9


def examine(out: Path, profiles: Path = places.PROFILES) -> str:
    """Versions, OpenSlide, GPU, cores, memory and free disk, then every profile's needs against them.

    Parameters
    ----------
    out : Path
        Where a run would be kept; its disk is the one that counts.
    profiles : Path
        Folder of the profiles.
    """
    machine = measure(out)
    lines = ["Machine", *_rows(_machine_rows(machine)), "", "Versions", *_rows(_version_rows()), "", "Profiles"]
    lines += [_profile_line(name, profiles, machine) for name in profile_names(profiles)]
    return "\n".join(lines)


def measure(out: Path) -> dict[str, Any]:
    """Cores, memory [GB], free disk at `out` [GB] and GPU."""
    folder = out.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return {
        "cores": usable_cores(),
        "memory_gb": memory_limit_bytes() / _GB,
        "disk_gb": shutil.disk_usage(folder).free / _GB,
        "gpu": gpu_name() or _torch_gpu(),
    }


def _machine_rows(machine: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("platform", platform.platform()),
        ("processor", f"{cpu_model()}, {machine['cores']} cores"),
        ("memory", f"{machine['memory_gb']:.1f} GB"),
        ("free disk", f"{machine['disk_gb']:.1f} GB"),
        ("GPU", machine["gpu"] or "none"),
    ]


def _version_rows() -> list[tuple[str, str]]:
    rows = [(name, version or "NOT INSTALLED") for name, version in versions().items()]
    return [*rows, ("OpenSlide library", openslide_version()), ("torch and torchvision", torch_state())]


def openslide_version() -> str:
    """Version of the OpenSlide library, or why it does not load."""
    try:
        import openslide
    except (ImportError, OSError) as error:
        return f"DOES NOT LOAD: {error}"
    return str(openslide.__library_version__)


def torch_state() -> str:
    """Whether torch and torchvision import together (builds from two indexes do not)."""
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        return f"DO NOT LOAD: {error}. Install both from one index"
    device = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "CPU"
    return f"{torch.__version__} and {torchvision.__version__} load, on {device}"


def _torch_gpu() -> str | None:
    try:
        import torch
    except (ImportError, OSError):
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return "Apple MPS" if torch.backends.mps.is_available() else None


def _profile_line(name: str, folder: Path, machine: dict[str, Any]) -> str:
    try:
        profile = load_profile(name, folder)
    except CompendiumError as error:
        return f"  {name:<12} BROKEN: {error}"
    return f"  {name:<12} {needs(profile, machine)}"


def needs(profile: Profile, machine: dict[str, Any]) -> str:
    """What a profile needs, each need marked ok or short.

    >>> needs(Profile("smoke", "t", "synthetic", expect={"disk_gb": 1}), {"disk_gb": 0.5, "gpu": None})
    'disk 1 GB SHORT (0.5 GB)'
    """
    expect, parts = profile.expect, []
    for key, label in (("memory_gb", "memory"), ("disk_gb", "disk")):
        if key in expect:
            short = expect[key] > machine[key]
            parts.append(f"{label} {expect[key]:g} GB " + (f"SHORT ({machine[key]:.1f} GB)" if short else "ok"))
    if "seconds" in expect:
        minutes = expect["seconds"] / 60
        parts.append(f"about {minutes:.0f} min" if minutes < 120 else f"about {minutes / 60:.0f} h")
    if "gpu" in expect:
        short = expect["gpu"] == "recommended" and not machine["gpu"]
        parts.append(f"GPU {expect['gpu']}" + (" SHORT (none)" if short else " ok"))
    parts += [f"-p {key}=… ({meaning})" for key, meaning in profile.required.items()]
    if profile.missing:
        parts.append(f"cannot run yet: {profile.missing}")
    return ", ".join(parts) or "nothing declared"


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<24} {value}" for name, value in rows]
