"""Bytes and text of annotation files."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Final

from deeplrhe_utils.core.errors import AnnotationError

LARGEST_FILE_BYTES: Final = 256 * 2**20
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_ENCODINGS: Final = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252"})


def read_bytes(path: Path) -> bytes:
    """Read an annotation file.

    Raises AnnotationError: the file is missing, unreadable, empty or larger than :data:`LARGEST_FILE_BYTES`.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise AnnotationError(
                f"Annotation {path.name} is too large to be read",
                got=f"{size} bytes",
                expected=f"at most {LARGEST_FILE_BYTES} bytes",
                fix="Export fewer objects: tumour outlines, not every nucleus",
            )
        data = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"Annotation {path} cannot be read ({error})", fix="Check the path") from error
    if not data.strip():
        raise AnnotationError(f"Annotation {path.name} is empty", fix="Export it again")
    return data


def to_text(data: bytes, name: str) -> str:
    """Decode a text file by its byte order mark, its NUL bytes (UTF-16) or its XML declaration; else as UTF-8.

    Raises AnnotationError: the bytes are not text in that encoding, or the encoding is none of UTF-8, UTF-16, ASCII,
    Latin-1, Latin-9 and Windows-1252.
    """
    encoding = _encoding(data, name)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"Annotation {name} is not text ({error})", expected=f"text in {encoding}", fix="Export it again"
        ) from error


def _encoding(data: bytes, name: str) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in data[:2]:
        return "utf-16-be" if data.startswith(b"\0") else "utf-16-le"
    declared = _DECLARED.match(data[:200])
    if declared is None:
        return "utf-8"
    written = declared[1].decode("ascii")
    try:
        known = codecs.lookup(written).name
    except LookupError:
        known = written
    if known not in _ENCODINGS:
        raise AnnotationError(
            f"Annotation {name} declares an encoding that its bytes are not in, or that is not supported",
            got=written,
            expected="UTF-8, UTF-16, ASCII, ISO-8859-1, ISO-8859-15 or windows-1252",
            fix="Save it as UTF-8",
        )
    return known
