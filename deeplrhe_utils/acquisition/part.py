"""An unfinished file that is hashed while it grows, and what holds many of them to one pace."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deeplrhe_utils.core.errors import CompendiumError

CHUNK: Final = 1 << 20
_BUFFERS: Final = 8
_SETTLE: Final = 16 * CHUNK
_WINDOW_S: Final = 30.0
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk."""


class Stopped(Exception):
    """The transfer was asked to stop; what has arrived is kept."""


class DiskFullError(CompendiumError):
    """There is no space left for what is being fetched."""


class Part:
    """An unfinished file and the MD5 of what is in it; a context manager.

    Writing and hashing run side by side, over a few buffers that go round: memory does not grow with the file, and a
    slow hash holds the writer back. What is in a buffer is written before the part is left, whatever happens.

    Parameters
    ----------
    path : Path
        Where it lies; made if missing, and hashed on entering if not. A link is refused.
    stop : callable
        Ends that hashing (:class:`Stopped`).
    """

    def __init__(self, path: Path, stop: Callable[[], bool] = lambda: False) -> None:
        self._stop = stop
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
        self._digest = hashlib.md5(usedforsecurity=False)
        self._free: queue.Queue[bytearray] = queue.Queue()
        self._full: queue.Queue[tuple[bytearray, int] | None] = queue.Queue()
        for _ in range(_BUFFERS):
            self._free.put(bytearray(CHUNK))
        self._buffer, self._used, self.size, self._unsettled = self._free.get(), 0, 0, 0
        self._hasher = threading.Thread(target=self._hash, daemon=True)

    def __enter__(self) -> Self:
        self._hasher.start()
        try:
            while count := self._file.readinto(self._buffer):
                if self._stop():
                    raise Stopped
                self._pass_on(count)
                self.size += count
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(value, (DiskFullError, OSError)):
                self._flush()
        finally:
            self._close()

    def _close(self) -> None:
        self._full.put(None)
        self._hasher.join()
        self._file.close()

    def _hash(self) -> None:
        while (work := self._full.get()) is not None:
            buffer, count = work
            self._digest.update(memoryview(buffer)[:count])
            self._free.put(buffer)
            self._full.task_done()

    def _pass_on(self, count: int) -> None:
        self._full.put((self._buffer, count))
        self._buffer, self._used = self._free.get(), 0

    def md5(self) -> str:
        """Hex MD5 of what has been written."""
        self._flush()
        self._full.join()
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append; a full disk becomes :class:`DiskFullError`."""
        left = memoryview(data)
        while left:
            piece = left[: CHUNK - self._used]
            self._buffer[self._used : self._used + len(piece)] = piece
            self._used += len(piece)
            self.size += len(piece)
            left = left[len(piece) :]
            if self._used == CHUNK:
                self._flush()

    def _flush(self) -> None:
        if not self._used:
            return
        left = memoryview(self._buffer)[: self._used]
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError as cause:
            if cause.errno in FULL:
                raise DiskFullError("The disk is full", fix="Free some space, then repeat the same command") from cause
            raise
        self._unsettled += self._used
        if self._unsettled >= _SETTLE and hasattr(os, "posix_fadvise"):
            # The disk begins now, instead of all at once at the end, and the cache is left to others.
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._unsettled = 0
        self._pass_on(self._used)

    def reset(self) -> None:
        """Throw everything away."""
        self._full.join()
        self._file.seek(0)
        self._file.truncate()
        self.size, self._used, self._digest = 0, 0, hashlib.md5(usedforsecurity=False)

    def settle(self) -> None:
        """Ask the system to bring everything to the disk."""
        self._flush()
        os.fsync(self._file.fileno())


class Pace:
    """Counts bytes for everybody, and holds everybody to one rate.

    Parameters
    ----------
    limit : float
        Bytes per second over all transfers; 0 for as fast as it goes.
    stop : threading.Event
        Ends all transfers when set.
    """

    def __init__(self, limit: float = 0.0, stop: threading.Event | None = None) -> None:
        self.limit, self.stop = limit, stop or threading.Event()
        self.received = 0
        self._lock = threading.Lock()
        self._due = time.monotonic()

    def take(self, count: int) -> None:
        """Note `count` bytes; returns when the next ones may be read.

        Raises
        ------
        Stopped
            The transfers were asked to stop.
        """
        with self._lock:
            self.received += count
            now = time.monotonic()
            self._due = max(self._due, now) + (count / self.limit if self.limit else 0.0)
            ahead = self._due - now
        if self.limit and ahead > 0.0:
            self.rest(ahead)
        if self.stop.is_set():
            raise Stopped

    def rest(self, seconds: float) -> None:
        """Sleep, unless the transfers are asked to stop (:class:`Stopped`)."""
        if self.stop.wait(seconds):
            raise Stopped


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
