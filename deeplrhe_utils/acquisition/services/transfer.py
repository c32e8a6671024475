"""One file from a service to the disk: in pieces if need be, hashed while it is written, never half under its name.

Source: ours. Ranges after RFC 9110; the ``/data`` endpoint as the GDC's API guide describes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, Self

import httpx
import tenacity

from deeplrhe_utils.acquisition.services.web import Passing, Service, shown
from deeplrhe_utils.core.errors import CompendiumError, InputError, ServiceError
from deeplrhe_utils.core.text import duration, human_size

CHUNK: Final = 1 << 20
_WINDOW_S: Final = 30.0
_GIT: Final = 40  # hexadecimal digits of a SHA-1
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk."""


class Stopped(Exception):
    """The transfer was asked to stop; what has arrived is kept."""


class DiskFullError(CompendiumError):
    """There is no space left for what is being fetched."""


_md5 = partial(hashlib.md5, usedforsecurity=False)


class Digest(Protocol):
    """What a checksum is made with, as `hashlib` makes it."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The checksum of all bytes so far."""


class PartsDigest:
    """The ETag of an object that S3 took in parts: MD5 of the parts' MD5s, their number, and here their size [bytes].

    >>> digest = PartsDigest(5); digest.update(b"123456789012"); digest.hexdigest()
    '8d9a5a64ffcc95ac08a7c4f1d47105a4-3x5'
    """

    def __init__(self, part: int) -> None:
        self._part, self._done, self._number = part, _md5(), 0
        self._now, self._left = _md5(), part

    def update(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        left = memoryview(data)
        while left:
            piece, left = left[: self._left], left[self._left :]
            self._now.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._done.update(self._now.digest())
                self._number, self._now, self._left = self._number + 1, _md5(), self._part

    def hexdigest(self) -> str:
        """The checksum of all bytes so far."""
        whole, begun = self._done.copy(), self._left < self._part
        if begun:
            whole.update(self._now.digest())
        return f"{whole.hexdigest()}-{self._number + begun}x{self._part}"


@dataclass(frozen=True)
class Wanted:
    """A file as a list describes it: id, name, checksum and size [bytes].

    The checksum `md5` is lower-case hex: an MD5; of 40 digits what Git calls a blob; or what :class:`PartsDigest` says.
    """

    file_id: str
    file_name: str
    md5: str
    size: int

    def fresh(self) -> Digest:
        """The hash that the checksum is of, before any byte."""
        if "x" in self.md5:
            return PartsDigest(int(self.md5.partition("x")[2]))
        if len(self.md5) != _GIT:
            return _md5()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)

    @property
    def kind(self) -> str:
        """What the checksum is, in words."""
        if "x" in self.md5:
            return "MD5 of the parts' MD5s"
        return "Git SHA-1" if len(self.md5) == _GIT else "MD5"


class PartFile:
    """An unfinished file and the checksum of what is in it; a context manager.

    Parameters
    ----------
    path : where it lies; made if missing, and hashed on entering if not; a link is refused
    stop : ends that hashing (:class:`Stopped`)
    fresh : makes the hash; MD5 unless said otherwise
    """

    def __init__(
        self, path: Path, stop: Callable[[], bool] = lambda: False, fresh: Callable[[], Digest] = _md5
    ) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
        self._stop, self._fresh, self._digest, self.size = stop, fresh, fresh(), 0

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

    def checksum(self) -> str:
        """Hex digest of what has been written."""
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
        self.size, self._digest = 0, self._fresh()

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


_WRONG_ANSWERS: Final = 3
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_PAGES: Final = ("text/html", "application/json", "text/plain")


class WrongAnswer(Passing):
    """An answer that is not the file: tried again, but not often, because it costs a whole file each time."""


@dataclass
class Fetched:
    """What it took so far: bytes kept from before, bytes received now, failures and the last one's words."""

    kept: int = 0
    received: int = 0
    failures: int = 0
    last: str = ""


@dataclass
class _Tally:
    """Failures in a row without anything new, and answers that were not the file."""

    part: PartFile
    attempts: int
    failures: int = 0
    wrong: int = 0
    best: int = 0
    asked_s: float | None = None
    done: Fetched = field(default_factory=Fetched)

    def note(self, cause: Passing) -> None:
        self.failures = 1 if self.part.size > self.best else self.failures + 1
        self.best = max(self.best, self.part.size)
        self.wrong += isinstance(cause, WrongAnswer)
        self.asked_s = cause.after_s
        self.done.failures += 1
        self.done.last = str(cause)

    def spent(self, _: tenacity.RetryCallState) -> bool:
        return self.failures >= self.attempts or self.wrong >= _WRONG_ANSWERS


def fetch_file(service: Service, wanted: Wanted, place: Path, pace: Pace, done: Fetched | None = None) -> Fetched:
    """Fetch a file until what lies at `place` has the size and checksum that are wanted.

    What lies at `place` already is continued, and hashed once to that end. A service that ignores ranges is read
    from the start again, but what is on the disk is kept until then. Nothing but the checksum decides.

    Parameters
    ----------
    place : the unfinished file; the caller renames it
    done : kept up to date while it goes on, so that it is also right when an error ends it

    Raises ServiceError: refused (401, 403, 404, a redirect elsewhere), or the patience is at its end: the last reason
    is given. DiskFullError, Stopped, OSError: the unfinished file stays, and can be continued.
    """
    done = Fetched() if done is None else done
    with PartFile(place, pace.stop.is_set, wanted.fresh) as part:
        if part.size > wanted.size:
            part.reset()
        done.kept = part.size
        tally = _Tally(part, service.patience.attempts, best=part.size, done=done)

        def attempt() -> None:
            try:
                _continue(service, wanted, part, pace, done)
            except Passing as cause:
                if pace.stop.is_set():  # the connection was broken on purpose
                    raise Stopped from cause
                tally.note(cause)
                raise

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing),
            stop=tally.spent,
            wait=lambda _: service.pause(tally.failures, tally.asked_s),
            sleep=pace.rest,
            reraise=True,
        )
        try:
            tries(attempt)
        except Passing as cause:
            wrong = f"{tally.wrong} wrong answers" if tally.wrong >= _WRONG_ANSWERS else ""
            times = wrong or f"{tally.failures} failures in a row"
            raise ServiceError(f"{wanted.file_name} could not be fetched", got=f"{times}; the last: {cause}") from cause
        part.settle()
    return done


def _continue(service: Service, wanted: Wanted, part: PartFile, pace: Pace, done: Fetched) -> None:
    """One attempt: from what is there to the end; raises Passing unless the checksum is right then."""
    if part.size < wanted.size:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
        with _answer(service, wanted, headers, part, done) as response:
            skip = _skip(response, wanted, part)
            for data in response.iter_raw():
                done.received += len(data)
                fresh, skip = data[skip:], max(0, skip - len(data))
                if part.size + len(fresh) > wanted.size:
                    raise WrongAnswer(f"the answer is longer than the {wanted.size} bytes of the manifest")
                part.write(fresh)
                pace.take(len(data))
    if part.size < wanted.size:
        raise Passing(f"the connection ended at byte {part.size} of {wanted.size}")
    if (found := part.checksum()) != wanted.md5:
        _discard(part, done)
        raise WrongAnswer(f"the {wanted.kind} is {found}, and {wanted.md5} was expected")


def _discard(part: PartFile, done: Fetched) -> None:
    part.reset()
    done.kept = 0  # nothing of it is in the file that comes of this


@contextmanager
def _answer(
    service: Service, wanted: Wanted, headers: dict[str, str], part: PartFile, done: Fetched
) -> Iterator[httpx.Response]:
    """The answer to a request for data; 416 (nothing there to continue) means that we hold something else."""
    try:
        with service.stream("GET", service.place_of(wanted.file_id, wanted.file_name), headers) as response:
            yield response
    except ServiceError as cause:
        if cause.status != 416 or not part.size:
            raise
        _discard(part, done)
        raise WrongAnswer("the service has no bytes after those that are here") from cause


def _skip(response: httpx.Response, wanted: Wanted, part: PartFile) -> int:
    """How many bytes of the body are here already; raises WrongAnswer if it cannot be the file."""
    start = 0
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        start = int(found[1]) if found else -1
        if not found or start != part.size or found[3] not in ("*", str(wanted.size)):
            got = shown(response.headers.get("Content-Range", ""))
            raise WrongAnswer(f"asked for bytes from {part.size}, got {got!r}")
    _check_headers(response, wanted, wanted.size - start)
    return part.size - start


def _check_headers(response: httpx.Response, wanted: Wanted, expected: int) -> None:
    """What the head of an answer tells before its body is believed."""
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in _PAGES and not wanted.file_name.lower().endswith((".html", ".json", ".txt")):
        raise WrongAnswer(f"a page of type {kind} came instead of the file")
    if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise WrongAnswer(f"the answer is encoded as {shown(coding)}, which was not asked for")
    length = response.headers.get("Content-Length", "")
    if _LENGTH.fullmatch(length) and int(length) != expected:
        raise WrongAnswer(f"{int(length)} bytes were announced, and {expected} expected")
    said = response.headers.get("Content-Md5", "").strip().lower()
    if len(said) == len(wanted.md5) and said != wanted.md5:
        raise WrongAnswer(f"the service says that the MD5 is {shown(said)}, and the manifest {wanted.md5}")


def checked(path: Path, wanted: Wanted, stop: Callable[[], bool] = lambda: False) -> str:
    """Why a file is not the one wanted, or an empty text if its size and checksum are right.

    Raises Stopped: `stop` said so between two pieces. InputError: it is no regular file.
    """
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is no regular file", fix="Move it away")
    if (size := path.stat().st_size) != wanted.size:
        return f"it has {size} bytes instead of {wanted.size}"
    digest = wanted.fresh()
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            if stop():
                raise Stopped
    found = digest.hexdigest()
    return "" if found == wanted.md5 else f"its {wanted.kind} is {found} instead of {wanted.md5}"
