"""Text of any origin: small tables read without guessing, and names and numbers made fit for messages and pages."""

from __future__ import annotations

import csv
import gzip
import html
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core.errors import InputError, LabelError

if TYPE_CHECKING:
    import pandas as pd

_MOST_BYTES: Final = 4 << 30
_GZIP: Final = b"\x1f\x8b"
_TABLE: Final = "a tab-separated table"
_NO_TABLE: Final = ("<!doctype", "<html", "<?xml", "<head", "{", "[")


def read_csv_text(path: Path, error: type[InputError] = LabelError) -> pd.DataFrame:
    """Read a CSV as stripped text, cell by cell, without guessing; an empty cell is an empty string.

    UTF-8 with or without a byte order mark; lines end with LF, CRLF or CR alone; rows without content are skipped.

    Raises `error` for a file that is missing, empty, not UTF-8 text or without rows, a repeated or empty header, a row
    of another length (the header is row 1).
    """
    import pandas as pd

    text = _lines(_decoded(path, error), path, error)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except csv.Error as cause:
        raise error(f"{path} is not valid CSV ({cause})") from cause
    header, *body = [row for row in rows if any(row)] or [[]]
    if not header:
        raise error(f"{path} is empty", expected="a header and at least one row")
    if "" in header or len(set(header)) < len(header):
        raise error(f"{path} has an empty or repeated column name", got=",".join(header))
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise error(f"{path}, row {number}: {len(row)} cells", expected=f"{len(header)}, as in the header")
    if not body:
        raise error(f"{path} has a header and no rows", got=",".join(header))
    return pd.DataFrame(body, columns=header, dtype="object")


def read_tsv_text(path: Path, error: type[InputError] = LabelError) -> str:
    r"""Text of a plain or gzip-compressed table, lines ending in ``\n``, leading lines with ``#`` left out.

    Raises `error` for no such file, nothing in it, damaged gzip, more than 4 GiB, not UTF-8, a binary file, a web page.
    """
    text = _lines(_decoded(path, error), path, error).lstrip("\n")
    while text.startswith("#"):
        text = text.partition("\n")[2].lstrip("\n")
    if not text.strip():
        raise error(f"{path} is empty", expected=_TABLE)
    if text[:200].lstrip().lower().startswith(_NO_TABLE):
        raise error(f"{path} holds a web page or a service's answer, not a table", got=repr(text[:60]),
                    fix="Fetch the file again")  # fmt: skip
    return text


def table_of(text: str, path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Columns of a tab-separated table (:func:`read_tsv_text`) as stripped text; `path` is for messages.

    Raises LabelError for columns that are missing or repeated, rows of another length, no rows.
    """
    import pandas as pd

    header = text.split("\n", 1)[0].split("\t")
    if missing := [c for c in columns if c not in header]:
        raise LabelError(f"{path} lacks columns", got=", ".join(missing), expected=", ".join(columns))
    wanted = [c for c in header if c in {*columns, *optional}]
    if len(set(wanted)) < len(wanted):
        raise LabelError(f"{path} repeats a column", got=", ".join(wanted))
    _check_lengths(text, path, len(header))
    keep = sorted(header.index(c) for c in wanted)
    table = pd.read_csv(
        io.StringIO(text), sep="\t", header=None, skiprows=1, names=range(len(header)), usecols=keep, dtype="object",
        keep_default_na=False, quoting=csv.QUOTE_NONE, index_col=False,
    )  # fmt: skip
    frame = pd.DataFrame({header[i]: table[i].str.strip() for i in keep})
    return frame[[*columns, *(c for c in optional if c in frame)]]


def _check_lengths(text: str, path: Path, columns: int) -> None:
    """Every row is as long as the header: a file that was cut off ends in a short one."""
    cells = [line.count("\t") + 1 for line in io.StringIO(text) if line != "\n"][1:]
    if not cells:
        raise LabelError(f"{path} has a header and no rows")
    if wrong := [(number, count) for number, count in enumerate(cells, start=1) if count != columns]:
        raise LabelError(
            f"{path}: {len(wrong)} rows are shorter or longer than the header",
            got=f"{wrong[0][1]} cells in row {wrong[0][0]} of {len(cells)}", expected=f"{columns} cells",
            fix="Fetch the file again: it may be unfinished",
        )  # fmt: skip


def _decoded(path: Path, error: type[InputError]) -> str:
    """The UTF-8 text of a file, unpacked."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as cause:
        raise error(f"{path} is not there", fix="Check the path") from cause
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise error(f"{path} is a damaged or unfinished gzip file ({cause})", fix="Fetch it again") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause})") from cause
    if len(data) > _MOST_BYTES:
        raise error(f"{path} holds more than {_MOST_BYTES >> 30} GiB", expected=_TABLE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not UTF-8 text ({cause})", fix="Save it as UTF-8") from cause


def _lines(text: str, path: Path, error: type[InputError]) -> str:
    if "\0" in text:
        raise error(f"{path} is not a text file", fix="Save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are: for messages."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def counted(n: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "slide"), counted(2, "slide")
    ('1 slide', '2 slides')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def human_size(n_bytes: float) -> str:
    """A size with a readable unit (decimal).

    >>> human_size(1_234_567), human_size(412_000_000_000), human_size(999)
    ('1.2 MB', '412.0 GB', '999 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def on_one_line(text: str) -> str:
    """Text on one line: line breaks, control and direction characters, and backslashes as escapes."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def escaped(value: Any) -> str:
    """`value` as escaped HTML text, fit for attributes.

    >>> escaped("<b>")
    '&lt;b&gt;'
    """
    return html.escape(str(value))
