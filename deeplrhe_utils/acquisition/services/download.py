"""Many files from a service into one folder: parallel, resumable, each verified, each with a row that says how it went.

The folder is laid out as by the GDC's transfer tool, ``<out>/<id>/<file name>``, so either can continue the other's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import pandas as pd
from filelock import FileLock, Timeout

from deeplrhe_utils.acquisition.services.manifest import name_problem, quoted
from deeplrhe_utils.acquisition.services.transfer import (
    FULL,
    DiskFullError,
    Fetched,
    Meter,
    Pace,
    Stopped,
    Wanted,
    checked,
    fetch_file,
)
from deeplrhe_utils.acquisition.services.web import Service
from deeplrhe_utils.core.errors import CompendiumError, InputError, RunError, ServiceError
from deeplrhe_utils.core.files import claim
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import human_size

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
            claim(self.out, "download", _REPORTS, known=(self.out / _JOURNAL).is_file())
            for name in (_JOURNAL, _LOCK):
                _check_own(self.out / name)
            with open(self.out / _JOURNAL, "ab", opener=_not_a_link):
                pass
        except (OSError, RuntimeError) as cause:  # the latter for links in a circle
            raise InputError(f"The folder {out} cannot be written ({cause})", fix="Name another folder") from cause
        self._lock = FileLock(self.out / _LOCK, timeout=0)
        self._mutex = threading.Lock()
        self._known: dict[tuple[str, str], Any] = {}
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

    def __exit__(self, *_: object) -> None:
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
        known = self._known.get((wanted.file_id, wanted.file_name))
        if not final.is_symlink() and known == _state(final, wanted):
            return None
        if known and not final.is_symlink() and known == {**_state(final, wanted), "md5": known.get("md5")}:
            raise InputError(
                f"Another content of {final.name} was verified here before", got=f"{wanted.kind} {known['md5']}",
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
        if (wanted.file_id, wanted.file_name) in self._known:  # else nobody knows whose the file was that lay here
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


def _journal(path: Path) -> dict[tuple[str, str], Any]:
    """The last entry of every id and name; lines that cannot be read are left out."""
    known = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            entry = json.loads(line)
            known[entry.pop("id"), entry["name"]] = entry
    return known


def _settle(folder: Path) -> None:
    """Bring a rename to the disk, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


REPORT: Final = "download.csv"
_REPORTS: Final = (REPORT, "repairs.csv", "manifest-repaired.txt")
DONE: Final = ("verified", "resumed", "present")
MARGIN: Final = 64 << 20
"""Bytes of the disk that are left alone."""
_REPORT_EVERY_S: Final = 5.0


@dataclass
class _Row:
    """What happened to one file of the manifest.

    `status` is ``verified`` (fetched now), ``resumed`` (the same, continued from an unfinished file), ``present`` (was
    there already), ``failed``, or ``unfinished`` (stopped before its turn or its end). Bytes and failures are counted
    whatever became of it. `http_status` is that of a refusal, 404 for an id that the service does not know; else 0.
    `source` is the host that served the end of the file.
    """

    id: str
    filename: str
    bytes: int
    md5: str
    status: str = "unfinished"
    reason: str = ""
    kept_bytes: int = 0
    received_bytes: int = 0
    failures: int = 0
    http_status: int = 0
    path: str = ""
    source: str = ""


@dataclass(frozen=True)
class TransferOptions:
    """How to download.

    Parameters
    ----------
    jobs : transfers at one time
    limit_rate : bytes per second over all of them; 0 for as fast as it goes
    recheck : hash files once more that are known to be verified
    progress_s : seconds between two lines of progress; 0 for none
    """

    jobs: int = 4
    limit_rate: float = 0.0
    recheck: bool = False
    progress_s: float = 15.0


def download(
    manifest: pd.DataFrame,
    out: Path,
    service: Service,
    options: TransferOptions = TransferOptions(),
    say: Callable[[str], None] = print,
    spare: Sequence[Service] = (),
) -> pd.DataFrame:
    """Fetch every file of a manifest, or say why not; the report is also written to ``<out>/download.csv``.

    A file under its own name is complete and has the checksum that is listed. Unfinished ones are hidden files that end
    in ``.part`` and are continued by the next call. A verified file is never fetched again.

    Parameters
    ----------
    manifest : as from `read_manifest`
    out : folder; made if missing. One download at a time.
    service : the GDC, or what tells where else a file lies (`Service.place_of`)
    say : takes lines of progress
    spare : asked in turn, file by file, where the one before refuses or its patience ends; unfinished files go on

    Returns a row (:class:`_Row`) per file, in the order of the manifest.
    Raises DiskFullError: what is missing does not fit on the disk; nothing was begun. RunError, InputError: another
    download works in the folder, or it cannot be written. KeyboardInterrupt: after the report was written.
    """
    with DownloadFolder(out, recheck=options.recheck) as folder:
        return download_into(folder, manifest, service, options, say, spare=spare)


def download_into(
    folder: DownloadFolder,
    manifest: pd.DataFrame,
    service: Service,
    options: TransferOptions,
    say: Callable[[str], None],
    ended: Callable[[pd.DataFrame], None] = lambda _: None,
    spare: Sequence[Service] = (),
) -> pd.DataFrame:
    """:func:`download` into a folder that is held already.

    Parameters
    ----------
    ended : takes the report however the work ended, also after Ctrl-C, and when the report cannot be written

    Raises DiskFullError, InputError, KeyboardInterrupt: as there; also when the report cannot be written at the end.
    """
    job = _Job(folder, (service, *spare), Pace(options.limit_rate), manifest)
    job.report()
    job.check_space()
    try:
        _work(job, options, say)
    except BaseException:
        with contextlib.suppress(CompendiumError):
            job.report()
        ended(job.frame())
        raise
    ended(job.frame())
    return job.report()


class _Job:
    """One call of :func:`download`: its rows, and how one of them is done."""

    def __init__(
        self, folder: DownloadFolder, services: Sequence[Service], pace: Pace, manifest: pd.DataFrame
    ) -> None:  # fmt: skip
        self.folder, self.services, self.pace = folder, services, pace
        listed = zip(*(manifest[c] for c in ("id", "filename", "md5", "size")), strict=True)
        self.wanted = [Wanted(str(i), str(n), str(m), int(s)) for i, n, m, s in listed]
        self.rows = [_Row(w.file_id, w.file_name, w.size, w.md5) for w in self.wanted]
        for row in self.rows:
            row.reason = name_problem(row.id, row.filename)
            if row.reason:  # written as text that no program takes for a path or a formula
                row.status, row.id, row.filename = "failed", quoted(row.id), quoted(row.filename)
        self.full = threading.Event()

    def open_rows(self) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row.status == "unfinished"]

    def missing(self) -> int:
        """Bytes that are still to come."""
        return sum(self.wanted[i].size - self.folder.here(self.wanted[i]) for i in self.open_rows())

    def check_space(self) -> None:
        missing, free = self.missing(), shutil.disk_usage(self.folder.out).free
        if missing and missing + MARGIN > free:
            raise DiskFullError(
                f"{human_size(missing)} are missing in {self.folder.out}, and {human_size(free)} are free on its disk",
                expected=f"{human_size(missing + MARGIN)} free", fix="Free some space, or name another folder",
            )  # fmt: skip

    def do(self, number: int) -> None:
        """Bring one row to its end; never raises."""
        row, wanted = self.rows[number], self.wanted[number]
        try:
            if self.pace.stop.is_set():
                raise Stopped
            if self.full.is_set():
                raise DiskFullError("The disk is full", fix="Free some space, then repeat the same command")
            self._do(row, wanted)
        except Stopped:
            row.reason = "stopped before its end"
        except DiskFullError as cause:
            self.full.set()
            row.status, row.reason = "failed", str(cause)
        except Exception as cause:  # one file must not end the others
            self._fail(row, cause)

    def _fail(self, row: _Row, cause: Exception) -> None:
        if self.pace.stop.is_set() and not isinstance(cause, CompendiumError):
            row.reason = "stopped before its end"
            return
        if isinstance(cause, OSError) and cause.errno in FULL:
            self.full.set()
        known = isinstance(cause, CompendiumError | OSError)
        row.status = "failed"
        row.reason = " ".join((str(cause) if known else f"{type(cause).__name__}: {cause}").split())
        row.http_status = (cause.status or 0) if isinstance(cause, ServiceError) else 0

    def _do(self, row: _Row, wanted: Wanted) -> None:
        note = self.folder.prepare(wanted, self.pace.stop.is_set)
        if note is None:
            row.status = "present"
        else:
            if wanted.size - self.folder.here(wanted) > shutil.disk_usage(self.folder.out).free:
                raise DiskFullError("The disk is full", fix="Free some space, then repeat the same command")
            done = Fetched(kept=self.folder.here(wanted))
            try:
                refused = self._fetch(row, wanted, done)
            finally:
                row.kept_bytes, row.received_bytes, row.failures = done.kept, done.received, done.failures
            self.folder.finish(wanted)
            row.status, row.reason = _told(done, note, refused)
        row.path = str(self.folder.place(wanted).relative_to(self.folder.out))

    def _fetch(self, row: _Row, wanted: Wanted, done: Fetched) -> list[str]:
        """From the first service that has the file; what the others said. Whatever is here already is continued."""
        refused: list[str] = []
        kept = done.kept
        for service in self.services:
            try:
                fetch_file(service, wanted, self.folder.part(wanted), self.pace, done)
                done.kept = min(done.kept, kept)
                row.source = service.host
                return refused
            except ServiceError as cause:
                refused.append(f"not from {service.host}: {cause}")
                if service is self.services[-1]:
                    if len(refused) > 1:
                        raise ServiceError("; ".join(refused), status=cause.status) from cause
                    raise
        raise AssertionError("there is a service")

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame([asdict(row) for row in self.rows])

    def report(self) -> pd.DataFrame:
        frame = self.frame()
        with self.folder.saving(REPORT) as path:
            write_sheet(frame, path)
        return frame


def _told(done: Fetched, note: str, refused: Sequence[str]) -> tuple[str, str]:
    reasons = [*([note] if note else []), *refused]
    reasons += [f"after {done.failures} failures, the last: {done.last}"] if done.failures else []
    return ("resumed" if done.kept else "verified"), "; ".join(reasons)


def _work(job: _Job, options: TransferOptions, say: Callable[[str], None]) -> None:
    """All open rows, `jobs` at a time; Ctrl-C breaks their connections, and is raised again when they have ended."""
    meter = Meter(job.pace, job.missing(), len(job.rows))
    with ThreadPoolExecutor(max(1, options.jobs), thread_name_prefix="download") as pool:
        waiting: set[Future[None]] = {pool.submit(job.do, number) for number in job.open_rows()}
        try:
            _watch(waiting, job, meter, options.progress_s, say)
        except BaseException as cause:
            job.pace.stop.set()
            for service in job.services:
                service.abort()
            if isinstance(cause, KeyboardInterrupt):
                say("Stopping …")
            wait(waiting)
            raise


def _watch(waiting: set[Future[None]], job: _Job, meter: Meter, every_s: float, say: Callable[[str], None]) -> None:
    told = written = time.monotonic()
    while waiting:
        finished, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
        now = time.monotonic()
        if every_s and now - told >= every_s:
            say(meter.line(sum(row.status != "unfinished" for row in job.rows)))
            told = now
        if finished and now - written >= _REPORT_EVERY_S:
            with contextlib.suppress(DiskFullError):  # the last one says so
                job.report()
            written = now


def parse_rate(text: str) -> float:
    """Bytes per second from a text such as ``10M``, as curl's ``--limit-rate`` takes it (units of 1,024).

    >>> parse_rate("500k"), parse_rate("")
    (512000.0, 0.0)

    Raises ValueError: it is no such text.
    """
    if not text:
        return 0.0
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1].lower(), 0)
    value = float(text[:-1] if factor else text) * (factor or 1)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def all_done(rows: Iterable[str]) -> bool:
    """Whether every status says that the file is here and verified."""
    return all(status in DONE for status in rows)
