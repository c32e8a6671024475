"""Manifests: which files to fetch, in the format of the GDC's transfer tool (of 2017 and of today)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import shortened

_COLUMNS: Final = ("id", "filename", "md5", "size", "state")
_NEEDED: Final = _COLUMNS[:4]
MD5: Final = re.compile(r"[0-9a-f]{32}")
_CHECKSUM: Final = re.compile(MD5.pattern + r"(-[1-9][0-9]{0,4}x[1-9][0-9]{0,11})?")  # of parts, as `PartsDigest` says
SERIES_ENDING: Final = ".dcm"
"""Ending of the files of which several, a DICOM series, share one id: they lie in one folder."""
UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]*")
LONGEST_NAME: Final = 200
_ENDINGS: Final = (".part", ".partial", ".", " ")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest.

    Parameters
    ----------
    path : tab-separated, with a header that has at least id, filename, md5 and size (in any order, other columns are
        ignored); with or without a byte order mark; lines end with LF, CRLF or CR

    Returns id, filename, md5 (lower case), size [bytes], state (empty if the file has none), a row per file in the
    order of the file; the files of a DICOM series share one id. Repeated equal rows are merged;
    ``frame.attrs["repeated"]`` counts them. Names are as the file gives them: see :func:`name_problem`.
    Raises InputError: not there, not UTF-8 text, empty, without files, lacking a column, a row of another length, a
    size or MD5 that is none, rows of one id that contradict each other. The line is named.
    """
    frame = read_foreign(path, InputError, separator="\t", columns=_NEEDED, optional=("state",))
    frame = frame.rename_axis("line").reset_index()
    return _checked(frame if "state" in frame else frame.assign(state=""), Path(path))


def _checked(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    frame["id"], frame["md5"] = frame["id"].str.lower(), frame["md5"].str.lower()
    wrong = (
        ("size", ~frame["size"].str.fullmatch(r"[0-9]{1,15}"), "bytes"),
        ("md5", ~frame["md5"].str.fullmatch(_CHECKSUM), "32 hexadecimal digits"),
        ("id", frame["id"].eq(""), "a UUID"),
    )
    for column, bad, expected in wrong:
        if bad.any():
            row = frame[bad].iloc[0]
            got = repr(row[column][:80])
            raise InputError(f"{path}, line {row['line']}: no {column}", got=got, expected=expected)
    frame["size"] = frame["size"].astype("int64")
    merged = frame.drop_duplicates(["id", "filename", "md5", "size"])
    file = merged["filename"].where(merged["filename"].str.endswith(SERIES_ENDING), "")
    if (again := (merged["id"] + "/" + file).duplicated()).any():
        row = merged[again].iloc[0]
        raise InputError(f"{path}, line {row['line']}: id {row['id'][:40]} was listed with other values before")
    found = merged[list(_COLUMNS)].reset_index(drop=True)
    found.attrs["repeated"] = len(frame) - len(merged)
    return found


def name_problem(file_id: str, file_name: str) -> str:
    """Why id and name of a listed file must not become a path, or an empty text.

    Names come from others and could point anywhere; only plain ones are used.

    >>> name_problem("0000b231-7c05-4e2e-8c9e-6d0675bfbb34", "TCGA-55-8514-01A-01-TS1.svs")
    ''
    >>> name_problem("0000b231-7c05-4e2e-8c9e-6d0675bfbb34", "../TS1.svs")
    "the name '../TS1.svs' is no plain file name"
    """
    if not UUID.fullmatch(file_id):
        return f"the id {file_id[:60]!r} is no UUID"
    if len(file_name) > LONGEST_NAME:
        return f"the name has {len(file_name)} characters, and {LONGEST_NAME} are the most"
    if not _NAME.fullmatch(file_name) or file_name.lower().endswith(_ENDINGS):
        return f"the name {file_name[:60]!r} is no plain file name"
    return ""


def quoted(text: str) -> str:
    """The beginning of a text that must not become a path, as no program takes it for a path or a formula."""
    return repr(text[:80])


def write_manifest(path: Path, files: pd.DataFrame) -> Path:
    """Write a manifest that the GDC's transfer tool and :func:`read_manifest` take.

    Parameters
    ----------
    files : columns id, filename, md5, size and, if there is one, state; or table SLIDE_FILES

    Raises InputError: a name that would break the table, or must not become a path (the first ones are named).
    """
    names = {"file_id": "id", "file_name": "filename", "bytes": "size"}
    frame = files.rename(columns=names).assign(state=files.get("state", "released"))
    problems = [p for i, n in zip(frame["id"], frame["filename"], strict=True) if (p := name_problem(str(i), str(n)))]
    if problems:
        raise InputError(f"{path} is not written: {len(problems)} files cannot be listed", got=shortened(problems))
    lines = ["\t".join(map(str, row)) for row in frame[list(_COLUMNS)].itertuples(index=False)]
    return write_text(path, "\n".join(["\t".join(_COLUMNS), *lines]) + "\n")
