"""The folder of a download: where a file lies, whether it is verified, and that nobody else works there."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from deeplrhe_utils.acquisition.part import FULL, DiskFullError
from deeplrhe_utils.acquisition.transfer import Wanted, checked
from deeplrhe_utils.core.errors import InputError, RunError

_LOCK: Final = ".download.lock"
_JOURNAL: Final = ".verified.jsonl"


class DownloadFolder:
    """``<out>/<id>/<file name>``, and a journal of what was verified; a context manager that holds the folder.

    A file counts as verified without hashing it again only if the journal names its MD5, and its size and time of
    change are those that it had then. A damaged journal costs time, never correctness.

    Parameters
    ----------
    out : made if missing
    recheck : believe nothing: hash every file

    Raises InputError: the folder cannot be made or written, or its journal or lock is a link or no file. RunError: on
    entering: another download works in it.
    """

    def __init__(self, out: Path, *, recheck: bool = False) -> None:
        try:
            self.out = Path(out).resolve()
            self.out.mkdir(parents=True, exist_ok=True)
            for name in (_JOURNAL, _LOCK):
                _check_own(self.out / name)
            with open(self.out / _JOURNAL, "ab", opener=_not_a_link):
                pass
        except (OSError, RuntimeError) as cause:  # the latter for links in a circle
            raise InputError(f"The folder {out} cannot be written ({cause})", fix="Name another folder") from cause
        self._lock = FileLock(self.out / _LOCK, timeout=0)
        self._mutex = threading.Lock()
        self._known: dict[str, Any] = {}
        self._recheck = recheck

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except Timeout as cause:
            raise RunError(
                f"Another download works in {self.out}", fix="Wait for it, or name another folder"
            ) from cause
        except OSError as cause:
            raise InputError(f"The folder {self.out} cannot be locked ({cause})", fix="Name another folder") from cause
        self._known = {} if self._recheck else _journal(self.out / _JOURNAL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def saving(self, name: str) -> Iterator[Path]:
        """The path of a report in the folder, to be written atomically.

        Raises DiskFullError, InputError: it could not be written; what was fetched is as it was.
        """
        path = self.out / name
        try:
            yield path
        except (RunError, OSError) as cause:
            reason = cause.__cause__ if isinstance(cause, RunError) else cause
            if isinstance(reason, OSError) and reason.errno in FULL:
                raise DiskFullError(
                    f"{path} could not be written, as the disk is full: it may be missing or out of date",
                    fix="Free some space, then repeat the same command: verified files are not fetched again",
                ) from cause
            raise InputError(f"{path} cannot be written ({cause})", fix="Move what lies there away") from cause

    def place(self, wanted: Wanted) -> Path:
        """Where the finished file lies."""
        return self.out / wanted.file_id / wanted.file_name

    def part(self, wanted: Wanted) -> Path:
        """Where the unfinished file lies."""
        return self.out / wanted.file_id / f".{wanted.file_name}.part"

    def here(self, wanted: Wanted) -> int:
        """Bytes of the file that are here, finished or not; at most its size."""
        with contextlib.suppress(OSError):
            return min(wanted.size, self.place(wanted).stat().st_size)
        with contextlib.suppress(OSError):
            return min(wanted.size, self.part(wanted).stat().st_size)
        return 0

    def prepare(self, wanted: Wanted, stop: Callable[[], bool]) -> str | None:
        """None if the verified file is here; else make ready to fetch it, and say what was found in its place.

        A shorter file under the final name becomes the unfinished one; any other is set aside under a hidden name
        until the right one is here.

        Raises InputError: something else than a folder and a regular file lies there; or a file that was verified
        against another manifest, which is never thrown away.
        """
        final, folder = self.place(wanted), self.out / wanted.file_id
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise InputError(f"{folder} is no folder of its own", fix="Move it away")
        folder.mkdir(exist_ok=True)
        if not final.exists() and not final.is_symlink():
            return ""
        known = self._known.get(wanted.file_id)
        if not final.is_symlink() and known == _state(final, wanted):
            return None
        if known and not final.is_symlink() and known == {**_state(final, wanted), "md5": known.get("md5")}:
            raise InputError(
                f"Another content of {final.name} was verified here before", got=f"MD5 {known['md5']}",
                expected=wanted.md5, fix="Fetch into another folder, or move that file away",
            )  # fmt: skip
        if not (wrong := checked(final, wanted, stop)):
            self._record(wanted)
            return None
        shorter = final.stat().st_size < wanted.size
        final.replace(self.part(wanted) if shorter and not self.part(wanted).exists() else _aside(final))
        return f"the file that was here was not the one listed: {wrong}"

    def finish(self, wanted: Wanted) -> None:
        """Give the fetched file its name, for good."""
        final = self.place(wanted)
        self.part(wanted).replace(final)
        _settle(final.parent)
        _aside(final).unlink(missing_ok=True)
        self._record(wanted)

    def _record(self, wanted: Wanted) -> None:
        line = json.dumps({"id": wanted.file_id, **_state(self.place(wanted), wanted)})
        with self._mutex, open(self.out / _JOURNAL, "a", encoding="utf-8", opener=_not_a_link) as stream:
            stream.write(f"\n{line}\n")  # a line of its own, even after one that was cut short


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.wrong")


def _state(final: Path, wanted: Wanted) -> dict[str, Any]:
    found = final.stat()
    return {"name": wanted.file_name, "md5": wanted.md5, "bytes": found.st_size, "changed_ns": found.st_mtime_ns}


def _check_own(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is a link, or no file", fix="Move it away")


def _not_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)


def _journal(path: Path) -> dict[str, Any]:
    """The last entry of every id; lines that cannot be read are left out."""
    known = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            entry = json.loads(line)
            known[entry.pop("id")] = entry
    return known


def _settle(folder: Path) -> None:
    """Bring a rename to the disk, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
