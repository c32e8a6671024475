"""A stand-in for the GDC's API on loopback: searches, versions, data with ranges, and faults on demand.

Answers have the form of those recorded in the GDC's API guide. Whoever wants to rehearse the whole route runs it with
``python -m tests.stand_ins.rehearsal``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Fault = Callable[["Handler", "Offered", int], bool]
"""``fault(handler, file, first byte asked for)``: True if it has answered."""
PIECE = 1 << 16


@dataclass
class Offered:
    """A file on offer: its content in memory, or a path."""

    file_id: str
    file_name: str
    content: bytes | Path
    case: str = ""
    project: str = "TCGA-LUAD"
    strategy: str = "Diagnostic Slide"
    access: str = "open"
    md5: str = ""
    part: int = 0  # bytes of the parts in which a bucket took it; 0: in one piece

    def __post_init__(self):
        self.md5 = self.md5 or hashlib.md5(self.bytes()).hexdigest()
        self.case = self.case or self.file_name[:12]

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def bytes(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @property
    def etag(self) -> str:
        """As S3 makes it."""
        if not self.part:
            return hashlib.md5(self.bytes()).hexdigest()
        parts = [self.bytes()[i : i + self.part] for i in range(0, self.size, self.part)]
        return f"{hashlib.md5(b''.join(hashlib.md5(p).digest() for p in parts)).hexdigest()}-{len(parts)}"

    def hit(self) -> dict[str, Any]:
        """As the endpoint ``files`` describes it."""
        return {
            "id": self.file_id, "file_id": self.file_id, "file_name": self.file_name, "file_size": self.size,
            "md5sum": self.md5, "access": self.access, "state": "released", "data_format": "SVS",
            "data_type": "Slide Image", "experimental_strategy": self.strategy,
            "cases": [{"submitter_id": self.case, "project": {"project_id": self.project}}],
        }  # fmt: skip

    def row(self) -> tuple[str, str, str, int, str]:
        return (self.file_id, self.file_name, self.md5, self.size, "released")


def offered(name: str, content: bytes | Path, **more: Any) -> Offered:
    """A file with an identifier that follows from its name."""
    return Offered(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), name, content, **more)


@dataclass
class Request:
    """One request for data: which file, from which byte, how it was answered, how many bytes left."""

    file_id: str
    start: int
    status: int = 0
    sent: int = 0


@dataclass
class GdcStandIn:
    """The server; a context manager. `url` is its address, `log` what was asked of ``data``.

    With `strict_versions`, ``files/versions`` answers 404 if one of several identifiers is unknown; `gets` are all
    paths that were asked for with GET. As a `bucket` it knows ``<id>/<name>`` too, refuses what it has not, and
    lists as S3 does, `keys_a_page` at a time.
    """

    files: list[Offered]
    cases: list[dict[str, Any]] = field(default_factory=list)
    newer: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    release: str = "Data Release 0.0 - stand-in"
    token: str = ""
    strict_versions: bool = False
    bucket: bool = False
    keys_a_page: int = 1000
    page_fault: Callable[[Handler], bool] | None = None
    port: int = 0

    def __post_init__(self):
        self.log: list[Request] = []
        self.searches: list[dict[str, Any]] = []
        self.gets: list[str] = []
        self.lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> GdcStandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the port it had before if there was one."""
        handler = type("BoundHandler", (Handler,), {"stand_in": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def file(self, file_id: str, file_name: str = "") -> Offered | None:
        return next((f for f in self.files if f.file_id == file_id and file_name in ("", f.file_name)), None)

    def manifest(self, path: Path) -> Path:
        """Write a manifest of everything on offer."""
        lines = [
            "\t".join(map(str, row))
            for row in [("id", "filename", "md5", "size", "state"), *map(Offered.row, self.files)]
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def sent(self, file_id: str) -> int:
        with self.lock:
            return sum(request.sent for request in self.log if request.file_id == file_id)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what is being tested."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    stand_in: GdcStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for a delayed acknowledgement

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        self.stand_in.gets.append(path)
        if path == "status":
            self.json({"commit": "0", "status": "OK", "tag": "stand-in", "version": 1,
                       "data_release": self.stand_in.release})  # fmt: skip
        elif path.startswith("data/"):
            self.data(path.removeprefix("data/"))
        elif path.startswith("files/versions/"):
            self.versions(path.removeprefix("files/versions/").split(","))
        elif self.stand_in.bucket and not path:
            self.listing(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)))
        elif self.stand_in.bucket and path.count("/") == 1:
            found = self.stand_in.file(*path.split("/"))
            self.data(*path.split("/")) if found is not None else self.json({"message": "AccessDenied"}, 403)
        else:
            self.json({"message": f"no such path: {path}"}, 404)

    def do_HEAD(self) -> None:
        """The head of a part, as HeadObject answers with ``partNumber``."""
        split = urllib.parse.urlsplit(self.path)
        file = self.stand_in.file(*split.path.strip("/").split("/"))
        self.send_response(404 if file is None else 206)
        if file is not None:
            part = int(dict(urllib.parse.parse_qsl(split.query))["partNumber"])
            size = min(file.part or file.size, file.size - (part - 1) * file.part)
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def listing(self, query: dict[str, str]) -> None:
        """ListObjectsV2; a token is the number of the next key."""
        if self.stand_in.page_fault is not None and self.stand_in.page_fault(self):
            return
        keys = sorted((f"{f.file_id}/{f.file_name}", f) for f in self.stand_in.files)
        keys = [(key, f) for key, f in keys if key.startswith(query["prefix"])]
        first = int(query.get("continuation-token", "0"))
        own, more = keys[first : first + self.stand_in.keys_a_page], first + self.stand_in.keys_a_page < len(keys)
        entries = "".join(f"<Contents><Key>{escape(key)}</Key><LastModified>2021-12-31T00:00:00.000Z</LastModified>"
                          f"<ETag>&quot;{f.etag}&quot;</ETag><Size>{f.size}</Size><StorageClass>INTELLIGENT_TIERING"
                          "</StorageClass></Contents>" for key, f in own)  # fmt: skip
        token = f"<NextContinuationToken>{first + len(own)}</NextContinuationToken>" if more else ""
        self.xml('<?xml version="1.0" encoding="UTF-8"?>\n'
                 '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>stand-in</Name>'
                 f"<Prefix>{escape(query['prefix'])}</Prefix>{token}<KeyCount>{len(own)}</KeyCount><MaxKeys>1000"
                 f"</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{entries}</ListBucketResult>")  # fmt: skip

    def xml(self, text: str) -> None:
        """An answer as S3's."""
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.stand_in.page_fault is not None and self.stand_in.page_fault(self):
            return
        path = self.path.strip("/")
        self.stand_in.searches.append(body)
        if path == "files":
            self.page([f.hit() for f in self.stand_in.files], body)
        elif path == "cases":
            self.page([{**case, "id": case["case_id"]} for case in self.stand_in.cases], body)
        else:
            self.json({"message": f"no such path: {path}"}, 404)

    def page(self, hits: list[dict[str, Any]], body: dict[str, Any]) -> None:
        """Pages of ten unless asked otherwise, as at the GDC; in no order unless one is asked for."""
        found = [hit for hit in hits if matches(hit, body["filters"])] if body.get("filters") else hits
        if "sort" in body:
            found = sorted(found, key=lambda hit: str(hit[body["sort"].split(":")[0]]))
        size, start = int(body.get("size", 10)), int(body.get("from", 0))
        own = found[start : start + size]
        fields = {name.split(".")[0] for name in body.get("fields", "").split(",") if name}
        shown = [{k: v for k, v in hit.items() if not fields or k in fields or k == "id"} for hit in own]
        pagination = {"count": len(own), "total": len(found), "size": size, "from": start, "sort": body.get("sort", ""),
                      "page": start // size + 1, "pages": -(-len(found) // size)}  # fmt: skip
        self.json({"data": {"hits": shown, "pagination": pagination}, "warnings": {}})

    def versions(self, ids: list[str]) -> None:
        answer = []
        if self.stand_in.strict_versions and any(
            self.stand_in.file(self.stand_in.newer.get(i, i)) is None for i in ids
        ):
            self.json({"message": "no such file"}, 404)
            return
        for old in ids:
            new = self.stand_in.file(self.stand_in.newer.get(old, old))
            if new is not None:
                answer.append({"id": old, "filename": new.file_name, "version": "1", "latest_id": new.file_id,
                               "latest_filename": new.file_name, "latest_size": new.size})  # fmt: skip
        self.json(answer)

    def data(self, file_id: str, file_name: str = "") -> None:
        """The bytes of one file, or of its end; faults first."""
        file, start = self.stand_in.file(file_id, file_name), self.first_byte()
        request = Request(file_id, start)
        with self.stand_in.lock:
            self.stand_in.log.append(request)
        self.request_ = request
        if file is None:
            self.json({"message": f"file with id {file_id} not found"}, 404)
        elif file.access != "open" and self.headers.get("X-Auth-Token") != self.stand_in.token:
            self.json({"message": "You don't have access to the data: Please specify a X-Auth-Token"}, 403)
        elif not any(fault(self, file, start) for fault in list(self.stand_in.faults)):
            self.serve(file, start)

    def first_byte(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    def serve(self, file: Offered, start: int, *, length: int | None = None, content: bytes | None = None,
              headers: dict[str, str] | None = None, upto: int | None = None) -> None:  # fmt: skip
        """An answer as it should be; with other bytes, headers, a wrong length or an early end on demand."""
        size = file.size if content is None else len(content)
        if start >= size > 0:
            self.json({"message": "range not satisfiable"}, 416)
            return
        self.status(206 if start else 200)
        told = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes",
                "Content-Disposition": f"attachment; filename={file.file_name}",
                "Content-Length": str(size - start if length is None else length), "Content-Md5": file.md5}  # fmt: skip
        if start:
            told["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        for name, value in (told | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.body(file, start, content, size if upto is None else upto)

    def body(self, file: Offered, start: int, content: bytes | None, end: int) -> None:
        if content is None and isinstance(file.content, Path):
            with file.content.open("rb") as stream:
                self.request_.sent += self.connection.sendfile(stream, start, end - start)
            return
        data = memoryview(file.bytes() if content is None else content)[start:end]
        for first in range(0, len(data), PIECE):
            self.wfile.write(data[first : first + PIECE])
            self.request_.sent += len(data[first : first + PIECE])

    def status(self, code: int) -> None:
        self.request_.status = code
        self.send_response(code)

    def json(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        if hasattr(self, "request_"):
            self.request_.status = code
        data = json.dumps(value).encode()
        self.send_response(code)
        told = {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
        for name, text in told.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def reset(self) -> None:
        """Break the connection so that the client sees a reset, not an end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True


def matches(hit: dict[str, Any], condition: dict[str, Any]) -> bool:
    """Whether a hit passes a filter of the GDC's language (and, or, in, =)."""
    content = condition["content"]
    if condition["op"] in ("and", "or"):
        return (all if condition["op"] == "and" else any)(matches(hit, part) for part in content)
    wanted = content["value"] if isinstance(content["value"], list) else [content["value"]]
    return any(str(value) in map(str, wanted) for value in values_of(hit, content["field"].split(".")))


def values_of(value: Any, path: list[str]) -> list[Any]:
    if isinstance(value, list):
        return [found for entry in value for found in values_of(entry, path)]
    if not path:
        return [value]
    return values_of(value[path[0]], path[1:]) if isinstance(value, dict) and path[0] in value else []
