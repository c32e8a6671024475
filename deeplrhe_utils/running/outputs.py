"""What a stage says it wrote: the list that the record and the runner share."""

from __future__ import annotations

from pathlib import Path


def outputs_file(root: Path, number: str) -> Path:
    """Where a stage lists its outputs."""
    return root / "stages" / f"{number}.outputs.json"


def expand(root: Path, declared: list[str]) -> list[str]:
    """Declared files and folders as one sorted list of files (POSIX, relative to `root`)."""
    files: set[str] = set()
    for name in declared:
        path = root / name
        found = path.rglob("*") if path.is_dir() else [path]
        files |= {f.relative_to(root).as_posix() for f in found if f.is_file() and ".part" not in f.suffixes}
    return sorted(files)
