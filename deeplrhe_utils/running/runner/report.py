"""``run.json``: what was run, with what, on what, how long, and what came out."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

import deeplrhe_utils
from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.core.files import read_json, write_json
from deeplrhe_utils.running.machine.provenance import (
    cpu_model,
    git_state,
    hardware,
    library_versions,
    shown_path,
    usable_cores,
)
from deeplrhe_utils.running.plan.plan import Planned
from deeplrhe_utils.running.plan.profiles import Profile
from deeplrhe_utils.running.stage.state import Record

_UNFINISHED = {"failed", "stopped", "running", "waiting"}


def tree_memory_bytes(pid: int | None = None) -> int:
    """Memory of a process and all its descendants [bytes].

    Proportional set size where the kernel tells it (Linux), so pages shared between workers count
    once; resident set size elsewhere.
    """
    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid or os.getpid())
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                total += _one(process)
    return total


def _one(process: psutil.Process) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)


@dataclass
class Peak:
    """Running maximum of :func:`tree_memory_bytes`."""

    bytes: int = 0

    def sample(self) -> int:
        """Take one sample and return it [bytes]."""
        now_used = tree_memory_bytes()
        self.bytes = max(self.bytes, now_used)
        return now_used


@dataclass
class Report:
    """The growing ``run.json`` of one run; saved after every stage."""

    root: Path
    repository: Path
    peak: Peak = field(default_factory=Peak)
    content: dict[str, Any] = field(default_factory=dict)

    def start(self, profile: Profile, command: str, plan: list[Planned]) -> None:
        """Fill in everything that is known before the first stage."""
        self.content = {
            "profile": profile.name,
            "title": profile.title,
            "command": command,
            "git": git_state(self.repository),
            "package_version": deeplrhe_utils.__version__,
            "versions": library_versions(),
            "hardware": hardware(),
            "determinism": "on" if plan[0].held else "off",
            "started": now(),
            "status": "running",
            "stages": {p.stage.name: {"status": "waiting", "parameters": self.shown(p.values)} for p in plan},
        }
        self.save()

    def stage(self, name: str, status: str, record: Record | None = None, **more: Any) -> None:
        """Set a stage's status, and what its record says if there is one."""
        entry = self.content["stages"][name]
        entry.update(more, status=status)
        if record is not None:
            entry.update(
                seconds=record.seconds,
                peak_memory_bytes=record.peak_memory_bytes,
                parameters=record.parameters,
                inputs=record.inputs,
                outputs=record.outputs,
                finished=record.finished,
                commit=record.commit,
            )

    def commit(self) -> str:
        """The repository's commit when the run began, with "+" if files differed from it; "" outside git."""
        git = self.content["git"]
        return f"{git['commit']}{'+' * bool(git['dirty'])}" if git["commit"] else ""

    def save(self) -> None:
        """Write ``run.json``."""
        self.content["peak_memory_bytes"] = self.peak.bytes
        write_json(self.root / "run.json", self.content)

    def finish(self) -> None:
        """Write the final state; a full disk must not hide the error that matters."""
        found = {stage["status"] for stage in self.content["stages"].values()}
        status = "failed" if found & _UNFINISHED else "stale" if "stale" in found else "finished"
        self.content.update(finished=now(), status=status)
        try:
            self.save()
        except (OSError, CompendiumError) as error:
            print(f"run.json could not be written: {error}", flush=True)

    def shown(self, values: dict[str, Any]) -> dict[str, Any]:
        """Parameters as they are reported: without the run folder, paths relative inside the repository."""
        return {
            name: shown_path(value, self.repository) if isinstance(value, str) and value.startswith(os.sep) else value
            for name, value in values.items()
            if name != "run_dir"
        }


def earlier_seconds(profile: str, *reports: Path) -> dict[str, float]:
    """Seconds that each stage of a profile took last on this machine, from the ``run.json`` of finished stages."""
    found: dict[str, float] = {}
    here = (cpu_model(), usable_cores())
    for path in sorted(filter(Path.is_file, dict.fromkeys(reports)), key=lambda path: path.stat().st_mtime):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            told = read_json(path)
            if told["profile"] == profile and (told["hardware"]["cpu"], told["hardware"]["cores"]) == here:
                stages = told["stages"].items()
                found |= {name: float(s["seconds"]) for name, s in stages if s.get("outputs") and s.get("seconds")}
    return found


def now() -> str:
    """The time in UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
