"""Requests to web services: patient with what passes, at once honest about what does not.

Source: ours. Which answers pass and which do not follows the GDC's and cBioPortal's documented behaviour.
"""

from __future__ import annotations

import email.utils
import json
import random
import socket
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import httpx
import tenacity

import deeplrhe_utils
from deeplrhe_utils.core.errors import ParameterError, ServiceError

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOST_REDIRECTS: Final = 5
_WRONG_ANSWERS: Final = 3
_LONGEST_CONNECT_S: Final = 10.0  # nothing can interrupt it
_LONGEST_PAUSE_S: Final = 1e9
_SHOWN: Final = 160
_LARGEST_ANSWER: Final = 1 << 30  # bytes: a study's mutations are a tenth of it
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Patience:
    """How long a service is waited for.

    Parameters
    ----------
    attempts : failures in a row, without anything new arriving, after which we give up
    first_wait_s, longest_wait_s : the wait before the second attempt doubles up to the longest [s]; a random part is
        added, so that many clients do not return at the same moment
    longest_retry_after_s : a service that asks for a longer pause (``Retry-After``) is not waited for [s]
    timeout_s : to connect (10 s at most), and for the next byte to arrive [s]
    """

    attempts: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    longest_retry_after_s: float = 900.0
    timeout_s: float = 60.0


class Passing(Exception):
    """Something that may be gone at the next attempt; `after_s` is what the service asked for [s]."""

    def __init__(self, what: str, after_s: float | None = None) -> None:
        super().__init__(what)
        self.after_s = after_s


class NoAnswer(Passing):
    """An answer in another form than asked for: a page of something else, or one that was cut short."""


class Service:
    """A web service under one address; a context manager, safe to share among threads.

    Parameters
    ----------
    endpoint : such as ``https://api.gdc.cancer.gov``
    token : sent as ``X-Auth-Token``, to this service and nobody else
    connections : connections at one time
    sleep : what waits, in seconds
    files : where a file lies, with {id} and {name}; the GDC's ``data/{id}``

    Raises ParameterError: the endpoint is no http(s) address, or the token cannot be sent.
    """

    def __init__(
        self,
        endpoint: str,
        patience: Patience = Patience(),
        *,
        token: str = "",
        connections: int = 8,
        sleep: Callable[[float], None] = time.sleep,
        files: str = "data/{id}",
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.patience, self._sleep, self._files = patience, sleep, files
        _check_address(self.endpoint)
        headers = {"User-Agent": f"deeplrhe-compendium/{deeplrhe_utils.__version__}"}
        if token:
            if not (token.isascii() and token.isprintable()):
                raise ParameterError("The token holds characters that no token has", fix="Check the token file")
            headers["X-Auth-Token"] = token
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(patience.timeout_s, connect=min(patience.timeout_s, _LONGEST_CONNECT_S))
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits)
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._mutex, self._aborted = threading.Lock(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def host(self) -> str:
        """Name of the host, with its port where one is given."""
        return urllib.parse.urlsplit(self.endpoint).netloc

    def place_of(self, file_id: str, file_name: str) -> str:
        """Path of a file below the endpoint."""
        return self._files.format(id=urllib.parse.quote(file_id, safe=""), name=urllib.parse.quote(file_name, safe=""))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def abort(self) -> None:
        """Break all connections, from any thread: requests under way end at once as :class:`Passing`, for good."""
        with self._mutex:
            self._aborted = True
            for connected in self._sockets:
                _break(connected)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Learns from httpcore of every new connection; closing one does not wake a thread that reads from it."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._mutex:
                self._sockets.add(connected := info["return_value"].get_extra_info("socket"))
                if self._aborted:
                    _break(connected)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON answer to GET ``<endpoint>/<path>?<params>``.

        Raises ServiceError: the service refuses (401, 403, 404 and other 4xx), redirects elsewhere, answers no JSON, or
        could not be had within the patience.
        """
        return self._json("GET", path, params, None)

    def post(self, path: str, body: Any, **params: Any) -> Any:
        """The JSON answer to POST of `body` (sent as JSON); see :meth:`get`."""
        return self._json("POST", path, params, body)

    def _json(self, method: str, path: str, params: Mapping[str, Any], body: Any) -> Any:
        content = None if body is None else json.dumps(body).encode("utf-8")
        return self.ask(path, lambda _, answer: json.loads(answer), params, method=method, content=content)

    def ask(
        self, path: str, read: Callable[[httpx.Headers, bytes], _Made], params: Mapping[str, Any], *,
        method: str = "GET", form: str = "JSON", content: bytes | None = None, most: int = _LARGEST_ANSWER,
    ) -> _Made:  # fmt: skip
        """What `read` makes of the head and body of an answer; see :meth:`get`.

        Parameters
        ----------
        read : ValueError says that the answer is not in the `form` that was asked for: it is asked for again, not often
        content : JSON that is sent along
        most : an answer of more bytes is not taken
        """

        def attempt() -> _Made:
            headers = {"Accept": "application/json"} if form == "JSON" else {}
            if content is not None:
                headers["Content-Type"] = "application/json"
            answer = bytearray()
            with self.stream(method, path, headers, params=params, content=content) as response:
                for piece in response.iter_bytes():
                    answer += piece
                    if len(answer) > most:
                        raise NoAnswer(f"more than {most} bytes")
            try:
                return read(response.headers, bytes(answer))
            except (ValueError, RecursionError) as cause:
                kind = shown(response.headers.get("Content-Type", "")) or "of no stated type"
                begins = shown(answer[: 4 * _SHOWN].decode("utf-8", "replace"))
                raise NoAnswer(f"{kind} that begins {begins!r}") from cause

        wrong: list[int] = []

        def spent(state: tenacity.RetryCallState) -> bool:
            if state.outcome and isinstance(state.outcome.exception(), NoAnswer):
                wrong.append(state.attempt_number)
            return state.attempt_number >= self.patience.attempts or len(wrong) >= _WRONG_ANSWERS

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Passing), stop=spent, wait=self.wait, sleep=self._sleep, reraise=True
        )
        try:
            return tries(attempt)
        except NoAnswer as cause:
            raise ServiceError(
                f"{self.endpoint}/{path} does not answer with {form}",
                got=f"{len(wrong)} × {cause}", expected=form,
                fix="Check the address, and whether a page to sign in or a proxy answers in its place",
            ) from cause  # fmt: skip
        except Passing as cause:
            raise ServiceError(
                f"{self.endpoint}/{path} did not answer",
                got=f"{cause} (attempt {self.patience.attempts} of {self.patience.attempts})",
                fix="Repeat the command later",
            ) from cause

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt; for tenacity. See :meth:`pause`."""
        cause = state.outcome.exception() if state.outcome else None
        return self.pause(state.attempt_number, cause.after_s if isinstance(cause, Passing) else None)

    def pause(self, failures: int, asked_s: float | None) -> float:
        """Seconds until the next attempt: longer and longer, with a random part, and never less than asked for.

        Raises ServiceError: the service asks for a longer pause than the patience allows.
        """
        patience = self.patience
        if (asked_s or 0.0) > patience.longest_retry_after_s:
            raise ServiceError(
                f"{self.endpoint} asks to come back in {asked_s:.0f} s",
                expected=f"at most {patience.longest_retry_after_s:.0f} s",
                fix="Repeat the command then",
            )
        doubled = min(patience.longest_wait_s, patience.first_wait_s * 2.0 ** min(failures - 1, 30))
        return max(asked_s or 0.0, doubled + random.uniform(0, patience.first_wait_s))

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
    ) -> Iterator[httpx.Response]:
        """One attempt: an answer with status 2xx whose body has not been read yet.

        Redirects are followed on the same host only, five at most.

        Raises Passing: no connection, a time-out, a body that ends early, statuses 408, 425, 429 and 5xx. ServiceError:
        every other status, a redirect elsewhere or in a circle.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        url = f"{self.endpoint}/{path.lstrip('/')}"
        try:
            request = self._client.build_request(
                method, url, params=given, headers=dict(headers), content=content, extensions={"trace": self._trace}
            )
            response = self._follow(request)
            try:
                _check_status(response, url)
                yield response
            finally:
                response.close()
        except httpx.InvalidURL as cause:
            raise ParameterError(f"{url!r} is no address ({cause})") from cause
        except httpx.HTTPError as cause:
            raise Passing(f"{type(cause).__name__}: {shown(str(cause)) or 'no further word'}") from cause

    def _follow(self, request: httpx.Request) -> httpx.Response:
        start = request.url
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._client.send(request, stream=True)
            if response.next_request is None:
                return response
            response.close()
            request = response.next_request
            if not _same_place(start, request.url):
                raise ServiceError(
                    f"{start} redirects to another host", got=shown(str(request.url)), expected=start.host,
                    fix="If you trust that host, name it as the endpoint",
                )  # fmt: skip
        raise ServiceError(f"{start} redirects in a circle", got=f"more than {_MOST_REDIRECTS} redirects")


def _check_address(endpoint: str) -> None:
    try:
        url = httpx.URL(endpoint)
    except (httpx.InvalidURL, TypeError) as cause:
        raise ParameterError(f"{endpoint!r} is no address ({cause})", expected="https://host") from cause
    if url.scheme not in ("http", "https") or not url.host:
        raise ParameterError(
            f"{endpoint!r} is no address of a web service", expected="https://host or http://host:port"
        )


def _break(connected: socket.socket) -> None:
    with suppress(OSError):  # it may be closed by now
        socket.socket.shutdown(connected, socket.SHUT_RDWR)  # an SSLSocket's own would go on without encryption


def _same_place(first: httpx.URL, then: httpx.URL) -> bool:
    """Same host, and the same door, or the usual safe one instead of the usual open one (their ports are None)."""
    upgraded = (first.scheme, first.port, then.scheme, then.port) == ("http", None, "https", None)
    return first.host == then.host and (upgraded or (first.scheme, first.port) == (then.scheme, then.port))


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    said = _message(response)
    if status in _PASSING:
        raise Passing(f"HTTP {status}{said}", _retry_after(response))
    fix = {401: "Get a new token", 403: "Open-access files need no token; for others, get access and a token"}
    raise ServiceError(f"{url} is refused", got=f"HTTP {status}{said}", fix=fix.get(status, ""), status=status)


def _message(response: httpx.Response) -> str:
    """What an error answer says, in one printable line."""
    try:
        text = next(response.iter_bytes(4096), b"").decode("utf-8", "replace")
    except httpx.HTTPError:
        return ""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        text = str(json.loads(text)["message"])
    return f": {shown(text)}" if text.strip() else ""


def shown(text: str) -> str:
    """One short printable line of what a server sent, which may be anything."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN]).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _retry_after(response: httpx.Response) -> float | None:
    """``Retry-After`` in seconds; a date is compared with the service's own clock, as ours may be wrong."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), _LONGEST_PAUSE_S)
    with suppress(ValueError, TypeError, OverflowError, LookupError):  # a date that is none, or of no year we know
        until, now = (email.utils.parsedate_tz(value) for value in (text, response.headers.get("Date", "")))
        if until is not None and now is not None:
            return max(0.0, float(email.utils.mktime_tz(until) - email.utils.mktime_tz(now)))
    return None
