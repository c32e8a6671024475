"""Atomic files, hashes, safe names, and whose a folder is.

A file under its final name is always complete. Commands write into folders that are new or marked as their own, and
into no others.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from deeplrhe_utils.core.errors import InputError, ModelError, ParameterError, RunError

MARKER: Final = ".deeplrhe.json"
"""Names the commands that write into a folder; whoever removes it takes the folder out of our hands."""
_LOCK: Final = ".lock"
_NOBODYS: Final = frozenset({MARKER, _LOCK, ".DS_Store", "Thumbs.db", "desktop.ini"})
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


def refuse_not_finite(tensors: Mapping[str, Any], path: Path | str) -> None:
    """Raise :class:`ModelError` when a tensor (of torch or NumPy) of `path` holds NaN, or more than float32 can."""
    for name, tensor in tensors.items():
        values = tensor.float() if hasattr(tensor, "is_floating_point") else tensor.astype("float32")
        if not bool((values - values == 0).all()):
            raise ModelError(f"The weights in {path} are not finite", got=f"NaN or infinity in {name}",
                             fix="Train again, or give another file: no score of it would mean anything")  # fmt: skip


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
        with full_disk_told(path, "stages"):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def full_disk_told(path: Path, kept: str) -> Iterator[None]:
    """A full disk becomes a :class:`RunError` that says so; `kept` is what the same command will find finished."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        fix = f"Free some space, then repeat the same command: finished {kept} are kept"
        raise RunError(f"The disk is full while writing {path}", fix=fix) from error


def write_text(path: Path | str, text: str) -> Path:
    """Write UTF-8 text atomically; return the path."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
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


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def path_text(path: Path | str) -> str:
    """A name or path as text that every file can hold: what is no Unicode is escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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


def check_writable(root: Path) -> None:
    """Create `root` and prove that a file can be written there.

    Raises InputError: when the folder cannot be created or written.
    """
    probe = root / f".probe.{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"The output folder {root} cannot be written",
            got=error.strerror or str(error),
            expected="a folder in which files can be created",
            fix="Give another folder with --out DIR (in a notebook: the parameter run_dir)",
        ) from error


def claim(folder: Path, command: str, names: Collection[str] | None = None, *, known: bool = False) -> None:
    """Mark a folder as one that `command` writes into, and deletes from; make it if it is missing.

    Parameters
    ----------
    names : the only entries that will be written; other files may lie beside them. None: any, so nothing else may be
        there.
    known : an older record shows that the command has written here

    Raises ParameterError: the folder holds what the command has not written, and nothing has been touched.
    InputError: it cannot be written.
    """
    marked = _marked(folder)
    if command not in marked and not known and folder.is_dir():
        there = (p.name for p in folder.iterdir() if p.name not in _NOBODYS or p.is_dir())
        ours = None if names is None else {name.casefold() for name in names}
        strangers = sorted(name for name in there if ours is None or name.casefold() in ours)
        if strangers:
            rest = ", …" if len(strangers) > 3 else ""
            raise ParameterError(f"{folder} holds files that `deeplrhe {command}` has not written",
                                 got=", ".join(strangers[:3]) + rest, fix="Choose another --out",
                                 expected="a new or empty folder, or one of an earlier call")  # fmt: skip
    check_writable(folder)
    if command not in marked:
        write_json(folder / MARKER, {"commands": sorted({*marked, command})})


def _marked(folder: Path) -> set[str]:
    try:
        return set(read_json(folder / MARKER)["commands"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


@contextmanager
def held(folder: Path, command: str, names: Collection[str] | None = None, *, known: bool = False) -> Iterator[None]:
    """A folder that was claimed (:func:`claim`) and that no other process writes to meanwhile.

    Raises, besides, RunError: another process holds it.
    """
    claim(folder, command, names, known=known)
    with sole(folder, f"Another process writes to {folder} (`deeplrhe {command}`)", "choose another --out"):
        yield


@contextmanager
def sole(folder: Path, taken: str, otherwise: str, name: str = _LOCK) -> Iterator[None]:
    """Nobody else at work here.

    Parameters
    ----------
    taken, otherwise : what to say where another process is, and what to do instead of waiting for it
    name : of the lock, a file in the folder

    Raises RunError: another process is, or the file system cannot lock.
    """
    try:
        lock = locked(folder, name)
    except Timeout as error:
        raise RunError(taken, fix=f"Wait for it, or {otherwise}") from error
    try:
        yield
    finally:
        lock.release()


def locked(folder: Path, name: str = _LOCK) -> FileLock:
    """The folder's lock, taken; a killed process loses it with its life.

    Raises Timeout: another process has it. RunError: the file system cannot lock.
    """
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        what = f"The folder {folder} cannot be locked (some network file systems have no locks)"
        raise RunError(what, got=error, fix="Give a folder on a local disk with --out DIR") from error
    return lock


def check_new_file(path: Path) -> None:
    """Refuse to write over a file, before anything is computed; its folder is made.

    Raises ParameterError: something is there. InputError: its folder cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise ParameterError(f"{path} exists, and nothing is written over", fix="Give another --out, or remove it")
    check_writable(path.parent)
