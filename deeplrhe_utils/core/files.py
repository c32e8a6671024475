"""Atomic files, hashes and safe names: a file under its final name is always complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deeplrhe_utils.core.errors import RunError

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The temporary name carries the process id, so two writers never share one, and keeps the
    suffix, because writers such as matplotlib choose a format by it. On failure the temporary
    file is removed; a full disk becomes a :class:`RunError` that says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunError(
                f"The disk is full while writing {path}",
                fix="Free some space, then repeat the same command: finished stages are kept",
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> Path:
    """Write UTF-8 text atomically; return the path."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, two spaces, no NaN, ends with a newline."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path | str, value: Any) -> Path:
    """Write canonical JSON atomically; return the path."""
    return write_text(path, to_json(value))


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_file(path: Path | str, chunk: int = 1 << 20) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(chunk):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def safe_name(name: str) -> str:
    """A file name made of `name` that cannot leave its folder; a hash keeps different names apart.

    >>> safe_name("TCGA-05-4244")
    'TCGA-05-4244'
    >>> "/" in safe_name("../etc/passwd")
    False
    """
    cleaned = _UNSAFE.sub("_", name).lstrip(".")[:120]
    if cleaned == name and cleaned:
        return cleaned
    return f"{cleaned}~{sha256_text(name)[:8]}"
