"""Tables that others wrote, read without guessing; and ours written so that a spreadsheet runs nothing of them."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core.errors import InputError, LabelError
from deeplrhe_utils.core.files import write_text

if TYPE_CHECKING:
    import pandas as pd

_MOST_BYTES: Final = 4 << 30
_GZIP: Final = b"\x1f\x8b"
_NO_TEXT: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "an Excel workbook or a zip archive",
                   b"\xd0\xcf\x11\xe0": "an old Excel workbook", b"PAR1": "Parquet"}  # fmt: skip
_NO_TABLE: Final = ("<!doctype", "<html", "<?xml", "<head", "{", "[")
_SEPARATORS: Final = {",": "commas", "\t": "tabs"}
_BLOCK: Final = 10_000
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")


def read_foreign(
    path: Path, error: type[InputError] = LabelError, *, separator: str = ",", columns: Sequence[str] = (),
    optional: Sequence[str] = (), may_be_empty: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Read a table as stripped text; the index is the line of the file in which each row begins.

    UTF-8 with or without a byte order mark, plain or gzip, any line ends. Lines without content, and comments (``#``)
    before the header, are skipped. A column without a name is called ``(column 1)``; without content too, it is left
    out. Cells of CSV files are as they were before :func:`guarded`.

    Parameters
    ----------
    columns, optional : which to read, the former in any case; others may then repeat names. Empty: all.
    may_be_empty : whether a header may stand alone

    Raises `error`: as :func:`foreign_text`; an empty table, another separator, a lacking or repeated column, a row
    that is not as long as the header.
    """
    import pandas as pd

    path = Path(path)
    rows = foreign_records(foreign_text(path, error), path, error, separator)
    head, header = next((row for row in rows if not row[1][0].startswith("#")), (0, [""]))
    if not head:
        raise error(f"{path} is empty", expected="a header and at least one row")
    if len(header) == 1 and (other := re.search(r"[,;\t|]", header[0])):
        raise error(f"{path} divides its cells by {other[0]!r}", expected=_SEPARATORS[separator],
                    fix=f"Save it as CSV with {_SEPARATORS[separator]}")  # fmt: skip
    if separator == ",":
        header = [unguarded(name) for name in header]
    names = [name or f"(column {place})" for place, name in enumerate(header, start=1)]
    if missing := [name for name in columns if name not in names]:
        raise error(f"{path} lacks columns {', '.join(missing)}", got=", ".join(names)[:200],
                    expected=", ".join(columns))  # fmt: skip
    keep = [i for i, name in enumerate(names) if not columns or name in {*columns, *optional}]
    wanted = [names[i] for i in keep]
    if again := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise error(f"{path}, line {head}: repeated column name", got=", ".join(again), expected="each column once")
    lines: list[int] = []
    parts = []
    while block := list(islice(rows, _BLOCK)):
        for line, cells in block:
            as_long(cells, len(header), path, line, error)
            lines.append(line)
        body = [[cells[i] for i in keep] for _, cells in block]
        parts.append(pd.DataFrame(body, columns=wanted, dtype="string"))
    if not parts and not may_be_empty:
        raise error(f"{path} has a header and no rows", got=", ".join(names)[:200])
    table = pd.concat(parts or [pd.DataFrame(columns=wanted, dtype="string")], ignore_index=True).set_axis(lines)
    if separator == ",":
        for name in table:
            if (quoted := table[name].str.startswith("'")).any():
                table[name] = table[name].mask(quoted, table[name].map(unguarded))
    blank = [name for name, own in zip(names, header, strict=True) if not own and name in table]
    table = table.drop(columns=[name for name in blank if table[name].eq("").all()])
    return table[[*columns, *(c for c in optional if c in table)]] if columns else table


def read_foreign_parquet(path: Path, error: type[InputError] = LabelError) -> pd.DataFrame:
    """Columns of a Parquet file as they are stored, whatever pandas noted in it; the index counts rows from 1.

    Raises `error`: no such file, damage, nothing in it, types that have no place in a table.
    """
    import pyarrow.parquet

    try:
        table: pd.DataFrame = pyarrow.parquet.read_table(path).to_pandas(ignore_metadata=True)
    except (OSError, ValueError, LookupError, NotImplementedError) as cause:
        raise error(f"{path} cannot be read as Parquet ({str(cause)[:80]})", fix="Fetch it again") from cause
    if table.empty:
        raise error(f"{path} is empty", expected="at least one row")
    return table.set_axis(range(1, len(table) + 1))


def as_long(
    cells: Sequence[str], length: int, path: Path, line: int, error: type[InputError] = LabelError
) -> None:  # fmt: skip
    """Raise `error`, unless a row has as many cells as its header."""
    if len(cells) != length:
        long = "Name every column; leave row names and separators at the end out"
        short = "Complete the row, or fetch the file again: it may be unfinished"
        raise error(f"{path}, line {line}: {len(cells)} cells", got=" | ".join(cells)[:80],
                    expected=f"{length}, as in the header", fix=long if len(cells) > length else short)  # fmt: skip


def foreign_records(
    text: str, path: Path, error: type[InputError] = LabelError, separator: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Line and stripped cells of each row with content, comments included. Raises `error`: broken quotes."""
    stream = io.StringIO(text, newline="")
    rows = csv.reader(stream, strict=True) if separator == "," else None
    start = 1
    try:
        for row in rows or (line.split(separator) for line in stream):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield start, cells
            start = rows.line_num + 1 if rows else start + 1
    except csv.Error as cause:
        raise error(f"{path}, line {start}: not valid CSV ({cause})", fix="Look for a quotation mark that is not "
                    "closed") from cause  # fmt: skip


def foreign_text(path: Path, error: type[InputError] = LabelError) -> str:
    r"""Text of a file, unpacked where it is gzip, lines ending in ``\n``.

    Raises `error`: no such file, damaged gzip, more than 4 GiB, not UTF-8, a binary file, a web page.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as cause:
        raise error(f"{path} is not there", fix="Check the path") from cause
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise error(f"{path} is a damaged or unfinished gzip file ({cause})", fix="Fetch it again") from cause
    except (OSError, ValueError) as cause:
        raise error(f"{path} cannot be read ({cause})") from cause
    if len(data) > _MOST_BYTES:
        raise error(f"{path} holds more than {_MOST_BYTES >> 30} GiB", expected="a table")
    try:
        if other := next((name for mark, name in _NO_TEXT.items() if data.startswith(mark)), ""):
            raise error(f"{path} is not UTF-8 text but {other}", fix="Save it as CSV UTF-8")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not UTF-8 text ({cause})", fix="Save it as UTF-8") from cause
    if "\0" in text:
        raise error(f"{path} is not a text file", fix="Save it as UTF-8 text")
    if text[:200].lstrip().lower().startswith(_NO_TABLE):
        raise error(f"{path} holds a web page or a service's answer, not a table", got=repr(text[:60]),
                    fix="Fetch the file again")  # fmt: skip
    return text.replace("\r\n", "\n").replace("\r", "\n")


def foreign_lines(path: Path, error: type[InputError] = LabelError) -> list[str]:
    """Names from a file, one per line; blank lines and comments (``#``) are left out. Raises as `foreign_text`."""
    lines = (line.strip() for line in foreign_text(path, error).split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def guarded(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe before ``= + - @``, tab, CR; none before numbers.

    Texts that look guarded get one more, so that :func:`unguarded` gives every original back.

    >>> guarded("=cmd"), guarded("-0.5"), guarded("'=cmd"), unguarded(guarded("'=cmd"))
    ("'=cmd", '-0.5', "''=cmd", "'=cmd")
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The original of a :func:`guarded` text: without the first apostrophe, if ``= + - @``, tab or CR come after."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def write_sheet(frame: pd.DataFrame, path: Path | str) -> Path:
    """Write a table as CSV for any spreadsheet, atomically (UTF-8, LF, shortest digits, texts :func:`guarded`).

    :func:`read_foreign` gives the original texts back; in other programs remove the apostrophe before ``= + - @``.
    """
    shown = frame.rename(columns=_cell)
    for place, kind in enumerate(frame.dtypes):
        if kind.kind == "O":
            shown.isetitem(place, frame.iloc[:, place].astype(object).map(_cell))
    return write_text(path, shown.to_csv(index=False, lineterminator="\n"))


def _cell(value: Any) -> Any:
    return guarded(value) if isinstance(value, str) else value
