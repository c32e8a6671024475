"""What can go wrong between a service and a disk: each fault as the stand-in commits it, and what must come of it."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.stand_ins.gdc import Fault, Handler, Offered

SIZE = 300_000
LARGE = 3_000_000
TIMEOUT_S = 0.4


@dataclass(frozen=True)
class Case:
    """A fault of the service on one file; `times` 0 is always."""

    name: str
    fault: Callable[[Handler, Offered, int], bool]
    times: int
    outcome: str
    said: str = ""
    requests: int = 0

    def on(self, file_id: str) -> Fault:
        """The fault, on one file, as often as it shall happen."""
        left = [self.times]

        def commit(handler: Handler, file: Offered, start: int) -> bool:
            if file.file_id != file_id or (self.times and not left[0]):
                return False
            left[0] -= 1
            return self.fault(handler, file, start)

        return commit

    @property
    def manner(self) -> str:
        return {0: "always", 1: "once"}.get(self.times, f"{self.times} times")


def status(code: int, **headers: str) -> Fault:
    def fault(handler: Handler, _file: Offered, _start: int) -> bool:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.json({"message": f"stand-in says {code}"}, code, told)
        return True

    return fault


def says(code: int, words: str) -> Fault:
    """A good beginning, then a refusal whose words speak of another status."""

    def fault(handler: Handler, file: Offered, start: int) -> bool:
        if not start:
            return cut(0.5)(handler, file, 0)
        handler.json({"message": words}, code)
        return True

    return fault


def after_date(handler: Handler, file: Offered, start: int) -> bool:
    """A pause until a date, from a service whose clock is years off."""
    dates = {"Retry-After": "Wed, 01 Jan 2003 00:00:01 GMT", "Date": "Wed, 01 Jan 2003 00:00:00 GMT"}
    handler.json({"message": "later"}, 503, dates)
    return True


def cut(share: float) -> Fault:
    """A reset after a part of what was asked for."""

    def fault(handler: Handler, file: Offered, start: int) -> bool:
        handler.serve(file, start, upto=start + int((file.size - start) * share) + (share > 0))
        time.sleep(0.05)
        handler.reset()
        return True

    return fault


def cut_then_nothing(handler: Handler, file: Offered, start: int) -> bool:
    """A good beginning, and nothing more ever."""
    return cut(0.0 if start else 0.7)(handler, file, start)


def stall(handler: Handler, file: Offered, start: int) -> bool:
    handler.serve(file, start, upto=start + (1000 if not start else 0))
    handler.wfile.flush()
    time.sleep(2 * TIMEOUT_S)
    handler.close_connection = True
    return True


def whole_body(handler: Handler, file: Offered, start: int) -> bool:
    """A range is answered with 200 and everything."""
    handler.serve(file, 0)
    return True


def cut_then_whole(handler: Handler, file: Offered, start: int) -> bool:
    return cut(0.6)(handler, file, 0) if not start else whole_body(handler, file, start)


def length(change: int) -> Fault:
    def fault(handler: Handler, file: Offered, start: int) -> bool:
        handler.serve(file, start, length=file.size - start + change)
        handler.close_connection = True
        return True

    return fault


def without_md5(handler: Handler, file: Offered, start: int) -> bool:
    handler.serve(file, start, headers={"Content-Md5": ""})
    return True


def other_md5(handler: Handler, file: Offered, start: int) -> bool:
    handler.serve(file, start, headers={"Content-Md5": "0" * 32})
    return True


def damaged(handler: Handler, file: Offered, start: int) -> bool:
    content = bytearray(file.bytes())
    content[len(content) // 2] ^= 1
    handler.serve(file, start, content=bytes(content))
    return True


def truncated_gzip(handler: Handler, file: Offered, start: int) -> bool:
    body = gzip.compress(file.bytes())[: file.size // 2]
    handler.serve(file, 0, content=body, headers={"Content-Encoding": "gzip"})
    return True


def html(handler: Handler, file: Offered, start: int) -> bool:
    handler.serve(file, 0, content=b"<html>Down for maintenance</html>", headers={"Content-Type": "text/html"})
    return True


def html_as_data(handler: Handler, file: Offered, start: int) -> bool:
    """The same page, announced as the data it is not, in the length of the file."""
    handler.serve(file, 0, content=b"<html>Down for maintenance</html>".ljust(file.size))
    return True


def longer(handler: Handler, file: Offered, start: int) -> bool:
    handler.serve(file, 0, content=file.bytes() + b"more", headers={"Content-Length": ""})
    handler.close_connection = True
    return True


def wrong_range(handler: Handler, file: Offered, start: int) -> bool:
    """Bytes from elsewhere in the file."""
    if not start:
        return cut(0.5)(handler, file, 0)
    other = {"Content-Range": f"bytes 0-{file.size - start - 1}/{file.size}"}
    handler.serve(file, start, headers=other)
    return True


def long_range(handler: Handler, file: Offered, start: int) -> bool:
    """A number that no program may read."""
    if not start:
        return cut(0.5)(handler, file, 0)
    handler.serve(file, start, headers={"Content-Range": f"bytes {'9' * 5000}-{file.size - 1}/{file.size}"})
    return True


def no_such_range(handler: Handler, file: Offered, start: int) -> bool:
    return cut(0.5)(handler, file, 0) if not start else status(416)(handler, file, start)


def in_a_circle(handler: Handler, file: Offered, start: int) -> bool:
    return status(302, Location=f"/data/{file.file_id}")(handler, file, start)


def elsewhere(handler: Handler, file: Offered, start: int) -> bool:
    return status(302, Location=f"http://localhost:{handler.stand_in.port}/data/{file.file_id}")(handler, file, start)


def other_door(handler: Handler, file: Offered, start: int) -> bool:
    """The same host, encrypted, but at a port of its own: it may belong to somebody else."""
    return status(302, Location=f"https://127.0.0.1:{handler.stand_in.port + 1}/data/x")(handler, file, start)


DONE, GONE_ON, FAILED = "verified", "resumed", "failed"
CASES = (
    Case("503", status(503), 3, DONE, "HTTP 503", 4),
    Case("503", status(503), 0, FAILED, "HTTP 503: stand-in says 503", 4),
    Case("504", status(504), 3, DONE, "HTTP 504", 4),
    Case("429 with Retry-After in seconds", status(429, Retry_After="1"), 1, DONE, "HTTP 429", 2),
    Case("503 with Retry-After as a date, by a clock years off", after_date, 1, DONE, "HTTP 503", 2),
    Case("503 with Retry-After as no date", status(503, Retry_After="Fri, 32 Dec 99999 00:00:00 GMT"), 1, DONE, "503",
         2),
    Case("503 with Retry-After of 5,000 digits", status(503, Retry_After="9" * 5000), 0, FAILED, "asks to come back",
         1),
    Case("503 with Retry-After of a day", status(503, Retry_After="86400"), 0, FAILED, "asks to come back in 86400", 1),
    Case("reset before the first byte", cut(0.0), 1, DONE, "", 2),
    Case("reset after a third of the bytes", cut(0.33), 1, DONE, "", 2),
    Case("reset after a third of what is left", cut(0.33), 0, DONE, "failures", 0),
    Case("reset after a good beginning, then before every byte", cut_then_nothing, 0, FAILED, "4 failures in a row", 4),
    Case("stall for longer than the time-out", stall, 2, DONE, "", 3),
    Case("stall for longer than the time-out", stall, 0, FAILED, "Timeout", 0),
    Case("a range is answered with 200 and the whole body", cut_then_whole, 2, DONE, "", 2),
    Case("Content-Length is too large", length(+10), 1, DONE, "announced", 2),
    Case("Content-Length is too small", length(-10), 1, DONE, "announced", 2),
    Case("Content-Length is too large", length(+10), 0, FAILED, "{longer} bytes were announced, and {size} expected",
         3), Case("Content-Md5 is missing", without_md5, 0, DONE, "", 1),
    Case("Content-Md5 is another than the manifest's", other_md5, 0, FAILED, "the service says that the MD5 is 0000",
         3), Case("one bit of the content is wrong", damaged, 1, DONE, "the MD5 is", 2),
    Case("one bit of the content is wrong", damaged, 0, FAILED, "the MD5 is", 3),
    Case("truncated gzip", truncated_gzip, 1, DONE, "gzip", 2),
    Case("HTML page with status 200", html, 1, DONE, "a page of type text/html", 2),
    Case("HTML page with status 200", html, 0, FAILED, "a page of type text/html", 3),
    Case("HTML page announced as the data", html_as_data, 1, DONE, "the MD5 is", 2),
    Case("more bytes than the manifest says", longer, 1, DONE, "longer", 2),
    Case("206 with other bytes than asked for", wrong_range, 2, DONE, "asked for bytes from {middle},", 3),
    Case("206 with a position of 5,000 digits", long_range, 2, DONE, "asked for bytes from {middle},", 3),
    Case("400 that speaks of HTTP 416", says(400, "not HTTP 416"), 0, FAILED, "HTTP 400", 2),
    Case("416 to a range that exists", no_such_range, 2, DONE, "no bytes after", 3),
    Case("403, not tried again", status(403), 0, FAILED, "HTTP 403", 1),
    Case("401, not tried again", status(401), 0, FAILED, "HTTP 401", 1),
    Case("redirects in a circle", in_a_circle, 0, FAILED, "redirects in a circle", 6),
    Case("redirect to another port, encrypted", other_door, 0, FAILED, "redirects to another host", 1),
    Case("redirect to another host", elsewhere, 0, FAILED, "redirects to another host", 1),
)  # fmt: skip
