"""Memory of the whole process tree, sampled while a stage runs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil


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
        """Take one sample; return the peak so far [bytes]."""
        self.bytes = max(self.bytes, tree_memory_bytes())
        return self.bytes
