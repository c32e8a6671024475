"""Many files from a service into one folder: parallel, resumable, each verified, each with a row that says how it went.

The folder is laid out as by the GDC's transfer tool, ``<out>/<id>/<file name>``, so either can continue the other's.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.download_folder import DownloadFolder
from deeplrhe_utils.acquisition.manifest import name_problem
from deeplrhe_utils.acquisition.part import DiskFullError, Pace, Stopped
from deeplrhe_utils.acquisition.transfer import Fetched, Wanted, fetch
from deeplrhe_utils.acquisition.web import Service
from deeplrhe_utils.core.errors import CompendiumError, ServiceError
from deeplrhe_utils.core.files import write_text

REPORT: Final = "download.csv"
DONE: Final = ("verified", "resumed", "present")
MARGIN: Final = 64 << 20
"""Bytes of the disk that are left alone."""
_WINDOW_S: Final = 30.0
_REPORT_EVERY_S: Final = 5.0


@dataclass
class Row:
    """What happened to one file of the manifest.

    `status` is ``verified`` (fetched now), ``resumed`` (the same, continued from an unfinished file), ``present`` (was
    there already), ``failed``, or ``unfinished`` (stopped before its turn or its end).
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
    path: str = ""


@dataclass(frozen=True)
class Settings:
    """How to download.

    Parameters
    ----------
    jobs : int
        Transfers at one time.
    limit_rate : float
        Bytes per second over all of them; 0 for as fast as it goes.
    recheck : bool
        Hash files once more that are known to be verified.
    progress_s : float
        Seconds between two lines of progress; 0 for none.
    """

    jobs: int = 4
    limit_rate: float = 0.0
    recheck: bool = False
    progress_s: float = 15.0


def download(
    manifest: pd.DataFrame,
    out: Path,
    service: Service,
    settings: Settings = Settings(),
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Fetch every file of a manifest, or say why not; the report is also written to ``<out>/download.csv``.

    A file under its own name is complete and has the MD5 of the manifest. Unfinished ones are hidden files that end
    in ``.part`` and are continued by the next call. A verified file is never fetched again.

    Parameters
    ----------
    manifest : DataFrame
        As from :func:`~deeplrhe_utils.acquisition.manifest.read_manifest`.
    out : Path
        Folder; made if missing. One download at a time.
    service : Service
        The GDC, or what speaks like it: ``data/<id>``.
    settings : Settings
    say : callable
        Takes lines of progress.

    Returns
    -------
    DataFrame
        A row (:class:`Row`) per file, in the order of the manifest.

    Raises
    ------
    DiskFullError
        What is missing does not fit on the disk; nothing was begun.
    RunError, InputError
        Another download works in the folder, or it cannot be written.
    KeyboardInterrupt
        After the report was written.
    """
    with DownloadFolder(out, recheck=settings.recheck) as folder:
        job = _Job(folder, service, Pace(settings.limit_rate), manifest)
        job.report()
        job.check_space()
        _work(job, settings, say)
        return job.report()


class _Job:
    """One call of :func:`download`: its rows, and how one of them is done."""

    def __init__(self, folder: DownloadFolder, service: Service, pace: Pace, manifest: pd.DataFrame) -> None:
        self.folder, self.service, self.pace = folder, service, pace
        listed = zip(*(manifest[c] for c in ("id", "filename", "md5", "size")), strict=True)
        self.wanted = [Wanted(str(i), str(n), str(m), int(s)) for i, n, m, s in listed]
        self.rows = [Row(w.file_id, w.file_name, w.size, w.md5) for w in self.wanted]
        for row in self.rows:
            row.reason = name_problem(row.id, row.filename)
            if row.reason:  # written as text that no program takes for a path or a formula
                row.status, row.id, row.filename = "failed", repr(row.id[:80]), repr(row.filename[:80])
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
                f"{amount(missing)} are missing in {self.folder.out}, and {amount(free)} are free on its disk",
                expected=f"{amount(missing + MARGIN)} free", fix="Free some space, or name another folder",
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
        except (CompendiumError, OSError) as cause:
            row.status, row.reason = "failed", _reason(cause)

    def _do(self, row: Row, wanted: Wanted) -> None:
        note = self.folder.prepare(wanted, self.pace.stop.is_set)
        if note is None:
            row.status = "present"
        else:
            if wanted.size - self.folder.here(wanted) > shutil.disk_usage(self.folder.out).free:
                raise DiskFullError("The disk is full", fix="Free some space, then repeat the same command")
            done = fetch(self.service, wanted, self.folder.part(wanted), self.pace)
            self.folder.finish(wanted)
            row.status, row.reason = _told(done, note)
            row.kept_bytes, row.received_bytes, row.failures = done.kept, done.received, done.failures
        row.path = str(self.folder.place(wanted).relative_to(self.folder.out))

    def report(self) -> pd.DataFrame:
        frame = pd.DataFrame([asdict(row) for row in self.rows])
        write_text(self.folder.out / REPORT, frame.to_csv(index=False))
        return frame


def _told(done: Fetched, note: str) -> tuple[str, str]:
    reasons = [note] if note else []
    reasons += [f"after {done.failures} failures, the last: {done.last}"] if done.failures else []
    return ("resumed" if done.kept else "verified"), "; ".join(reasons)


def _reason(cause: Exception) -> str:
    stale = isinstance(cause, ServiceError) and "HTTP 404" in str(cause)
    return " ".join(str(cause).split()) + (" The id may be stale: repeat with --repair." if stale else "")


def _work(job: _Job, settings: Settings, say: Callable[[str], None]) -> None:
    """All open rows, `jobs` at a time; Ctrl-C stops them at their next piece, and is raised again at the end."""
    meter = Meter(job.pace, job.missing(), len(job.rows))
    with ThreadPoolExecutor(max(1, settings.jobs), thread_name_prefix="download") as pool:
        waiting: set[Future[None]] = {pool.submit(job.do, number) for number in job.open_rows()}
        try:
            _watch(waiting, job, meter, settings.progress_s, say)
        except BaseException:
            job.pace.stop.set()
            wait(waiting)
            job.report()
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
            job.report()
            written = now


class Meter:
    """Rate over the last half minute and the time that is left, by a clock that never jumps.

    Parameters
    ----------
    pace : Pace
        Counts what arrives.
    missing : int
        Bytes to come at the start.
    files : int
        Files of the manifest.
    """

    def __init__(self, pace: Pace, missing: int, files: int) -> None:
        self.pace, self.missing, self.files = pace, missing, files
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), pace.received)])

    def line(self, finished: int) -> str:
        """One line of progress."""
        now, received = time.monotonic(), self.pace.received
        self._seen.append((now, received))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        (then, before), left = self._seen[0], max(0, self.missing - received)
        rate = (received - before) / (now - then) if now > then else 0.0
        eta = duration(left / rate) + " left" if rate else "waiting"
        return (
            f"{finished} of {self.files} files, {amount(received)} of {amount(self.missing)}, {amount(rate)}/s, {eta}"
        )


def amount(count: float) -> str:
    """Bytes in a readable unit.

    >>> amount(412_000_000_000), amount(999)
    ('412 GB', '999 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds in readable units.

    >>> duration(59), duration(3700), duration(200_000)
    ('59 s', '1 h 2 min', '2 d 8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def parse_rate(text: str) -> float:
    """Bytes per second from a text such as ``10M``, as curl's ``--limit-rate`` takes it (units of 1,024).

    >>> parse_rate("500k"), parse_rate("")
    (512000.0, 0.0)

    Raises
    ------
    ValueError
        It is no such text.
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
