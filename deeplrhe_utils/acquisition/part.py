"""An unfinished file that is hashed while it grows, and what holds many of them to one pace."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deeplrhe_utils.core.errors import CompendiumError

CHUNK: Final = 1 << 20
_BUFFERS: Final = 8
_SETTLE: Final = 16 * CHUNK


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
        Where it lies; made if missing, and hashed if not. A link is refused.
    """

    def __init__(self, path: Path) -> None:
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
        while count := self._file.readinto(self._buffer):
            self._pass_on(count)
            self.size += count
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(value, (DiskFullError, OSError)):
                self._flush()
        finally:
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
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
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
