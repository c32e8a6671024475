"""An unfinished file that is hashed while it grows, and what holds many of them to one pace."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.core.text import human_size

CHUNK: Final = 1 << 20
_WINDOW_S: Final = 30.0
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk."""


class Stopped(Exception):
    """The transfer was asked to stop; what has arrived is kept."""


class DiskFullError(CompendiumError):
    """There is no space left for what is being fetched."""


class Part:
    """An unfinished file and the MD5 of what is in it; a context manager.

    Parameters
    ----------
    path : where it lies; made if missing, and hashed on entering if not; a link is refused
    stop : ends that hashing (:class:`Stopped`)
    """

    def __init__(self, path: Path, stop: Callable[[], bool] = lambda: False) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
        self._stop, self._digest, self.size = stop, hashlib.md5(usedforsecurity=False), 0

    def __enter__(self) -> Self:
        while data := self._file.read(CHUNK):
            if self._stop():
                self._file.close()
                raise Stopped
            self._digest.update(data)
            self.size += len(data)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def md5(self) -> str:
        """Hex MD5 of what has been written."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append; a full disk becomes :class:`DiskFullError`."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError as cause:
            if cause.errno in FULL:
                raise DiskFullError("The disk is full", fix="Free some space, then repeat the same command") from cause
            raise
        self._digest.update(data)
        self.size += len(data)

    def reset(self) -> None:
        """Throw everything away."""
        self._file.seek(0)
        self._file.truncate()
        self.size, self._digest = 0, hashlib.md5(usedforsecurity=False)

    def settle(self) -> None:
        """Ask the system to bring everything to the disk."""
        os.fsync(self._file.fileno())


class Pace:
    """Counts bytes for everybody, and holds everybody to one rate.

    Parameters
    ----------
    limit : bytes per second over all transfers; 0 for as fast as it goes
    stop : ends all transfers when set
    """

    def __init__(self, limit: float = 0.0, stop: threading.Event | None = None) -> None:
        self.limit, self.stop = limit, stop or threading.Event()
        self.received = 0
        self._lock = threading.Lock()
        self._due = time.monotonic()

    def take(self, count: int) -> None:
        """Note `count` bytes; returns when the next ones may be read.

        Raises Stopped: the transfers were asked to stop.
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
    pace : counts what arrives
    missing : bytes to come at the start
    files : files of the manifest
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
        come, all_of_it, pace = map(human_size, (received, self.missing, rate))
        return f"{finished} of {self.files} files, {come} of {all_of_it}, {pace}/s, {eta}"


def duration(seconds: float) -> str:
    """Seconds in readable units.

    >>> duration(59), duration(3700), duration(200_000)
    ('59 s', '1 h 1 min', '2 d 8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
