"""Whose a folder is: commands write into folders that are new or marked as their own, and into no others."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from deeplrhe_utils.core.errors import InputError, ParameterError, RunError
from deeplrhe_utils.core.files import read_json, write_json

MARKER: Final = ".deeplrhe.json"
"""Names the commands that write into a folder; whoever removes it takes the folder out of our hands."""
_LOCK: Final = ".lock"
_NOBODYS: Final = frozenset({MARKER, _LOCK, ".DS_Store", "Thumbs.db", "desktop.ini"})


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
        strangers = sorted(name for name in there if names is None or name in names)
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
    try:
        lock = locked(folder)
    except Timeout as error:
        fix = "Wait for it, or choose another --out"
        raise RunError(f"Another process writes to {folder} (`deeplrhe {command}`)", fix=fix) from error
    try:
        yield
    finally:
        lock.release()


def locked(folder: Path) -> FileLock:
    """The folder's lock, taken; a killed process loses it with its life.

    Raises Timeout: another process has it. RunError: the file system cannot lock.
    """
    lock = FileLock(folder / _LOCK)
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
