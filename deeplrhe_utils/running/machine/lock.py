"""One run per folder: who holds it, and which processes a killed run left behind."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from deeplrhe_utils.core.errors import RunError
from deeplrhe_utils.core.files import claim, locked, read_json, write_json

RUNNER_PID = "DEEPLRHE_RUNNER_PID"  # in a kernel's environment: the runner that started it
RUN_FOLDER = "DEEPLRHE_RUN_FOLDER"  # in a kernel's environment: the folder it writes to
RUN_STAGE = "DEEPLRHE_RUN_STAGE"  # in a kernel's environment: the stage it executes
_HOLDER = ".runner.json"
_SAME_PROCESS_S = 2.0  # creation times of one process agree within clock ticks


def claim_run(root: Path) -> None:
    """Mark `root` as a run folder (:func:`.files.claim`); one that holds a ``run.json`` of ours is taken as well."""
    try:
        report = read_json(root / "run.json")
    except (OSError, ValueError):
        report = None
    claim(root, "run", known=isinstance(report, dict) and {"profile", "package_version", "stages"} <= set(report))


def holder(root: Path) -> int | None:
    """Process id of the live runner that works in `root`, or None."""
    state = _state(root)
    return state.get("pid") if _alive(state) else None


def check_free(root: Path) -> None:
    """Refuse to work in `root` while another live runner does (the kernel's own runner is no stranger).

    Raises RunError: when another runner holds the folder.
    """
    pid = holder(root)
    if pid is not None and str(pid) != os.environ.get(RUNNER_PID) and pid != os.getpid():
        raise _taken(root, pid)


@dataclass
class RunLock:
    """Exclusive hold on a run folder; a killed process loses it with its life.

    Parameters
    ----------
    command : what was typed; shown by nothing, kept for a person who looks
    """

    root: Path
    command: str = ""
    killed: list[int] = field(default_factory=list)
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: FileLock | None = None
    _lanes: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> RunLock:
        """Take the folder and end the leftovers of a killed run.

        Raises ParameterError: when the folder is not ours (:func:`claim_run`). InputError: when it cannot be written.
        RunError: when another runner holds it.
        """
        claim_run(self.root)
        try:
            self._lock = locked(self.root)
        except Timeout:
            raise _taken(self.root, _state(self.root).get("pid")) from None
        self.killed = end_leftovers(self.root)
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder."""
        (self.root / _HOLDER).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def kernel(self, stage: str, pid: int | None) -> None:
        """Record the kernel that works on a stage (None: it has ended)."""
        with self._lanes:
            self.kernels = {name: one for name, one in self.kernels.items() if name != stage}
            if pid is not None:
                self.kernels[stage] = _identity(pid)
            self._write()

    def _write(self) -> None:
        told = {"command": self.command, "folder": str(self.root.resolve()), "kernels": self.kernels}
        write_json(self.root / _HOLDER, {**_identity(os.getpid()), **told})


def end_leftovers(root: Path, stage: str = "") -> list[int]:
    """Kill the recorded kernels of a dead run of `root`, and whatever else carries the run's mark.

    Only call while holding the lock: then every other process that works for this folder is an orphan.
    With `stage`, only what this runner's finished or killed kernel of that stage left behind is ended.

    Returns process ids that were killed.
    """
    state = _state(root)
    copied = state.get("folder", str(root.resolve())) != str(root.resolve())  # then the kernel works for another folder
    kernels = {} if copied else state.get("kernels") or {}
    found = {p.pid: p for p in _marked(root, stage)}
    found |= {k["pid"]: psutil.Process(k["pid"]) for name, k in kernels.items() if stage in ("", name) and _alive(k)}
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(found.values()), timeout=5)
    return sorted(found)


def end_tree(pid: int, grace_s: float = 0.0) -> None:
    """End a process and all its descendants: asked first, if there is a grace, so that training saves its state."""
    try:
        parent = psutil.Process(pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.Error:
        return
    if grace_s:
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, family = psutil.wait_procs(family, timeout=grace_s)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _marked(root: Path, stage: str) -> list[psutil.Process]:
    mark, own, found = str(root.resolve()), os.getpid(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            ours = environ.get(RUNNER_PID) == str(own)
            orphan = environ.get(RUN_STAGE) == stage if ours else not stage
            if process.pid != own and environ.get(RUN_FOLDER) == mark and orphan:
                found.append(process)
    ancestors = {p.pid for p in psutil.Process().parents()}  # a run started from inside a notebook of the same folder
    return [p for p in found if p.pid not in ancestors]


def _state(root: Path) -> dict[str, Any]:
    try:
        state = read_json(root / _HOLDER)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _identity(pid: int) -> dict[str, Any]:
    try:
        return {"pid": pid, "created": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "created": 0.0}


def _alive(identity: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(identity["pid"])
        same = abs(process.create_time() - identity["created"]) < _SAME_PROCESS_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _taken(root: Path, pid: int | None) -> RunError:
    who = f"process {pid}" if pid else "another process"
    return RunError(
        f"The run folder {root} is in use by {who}",
        expected="one run per folder",
        fix=f"Wait for it, stop it (kill {pid or 'its process id'}), or give another folder with --out DIR",
    )
