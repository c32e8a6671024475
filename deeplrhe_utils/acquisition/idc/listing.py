"""Which files a series of the IDC has, from the listing of its bucket: names, sizes and checksums for a manifest.

The index counts a series' files and bytes, and does not name them; the open bucket lists them under
``<crdc_series_uuid>/``. An ETag is the MD5 of a file that was uploaded in one piece; of one uploaded in parts it is the
MD5 of their MD5s, which the size of a part makes checkable: a request for the head of part 1 tells it.
Source: Amazon S3 API reference, ListObjectsV2 and HeadObject.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from xml.etree import ElementTree

import httpx
import pandas as pd

from deeplrhe_utils.acquisition.services.manifest import SERIES_ENDING, name_problem
from deeplrhe_utils.acquisition.services.web import Service
from deeplrhe_utils.core.errors import ServiceError
from deeplrhe_utils.core.text import counted

IDC_BUCKETS: Final = ("https://idc-open-data.s3.amazonaws.com", "https://idc-open-data-cr.s3.amazonaws.com")
_ETAG: Final = re.compile(r'"?([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"?')
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_FORBIDDEN: Final = re.compile(rb"<!(?:DOCTYPE|ENTITY)")  # entities can blow up, or fetch other files
_LARGEST_PAGE: Final = 4 << 20  # bytes; a thousand entries are a tenth of it
_MOST_PAGES: Final = 10
_MANIFEST: Final = ["id", "filename", "md5", "size"]


class _Listed(NamedTuple):
    key: str
    etag: str
    size: str


class SeriesFiles(NamedTuple):
    """`files` as for a manifest (id, filename, md5, size [bytes]), in order; `lost` why a series has none, by id."""

    files: pd.DataFrame
    lost: dict[str, str]

    def fingerprints(self) -> dict[str, str]:
        """MD5 over names, checksums and sizes of each series' files."""
        lines = self.files["filename"] + " " + self.files["md5"] + " " + self.files["size"].astype(str) + "\n"
        texts = lines.groupby(self.files["id"]).agg("".join)
        return {i: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for i, text in texts.items()}


def list_series(bucket: Service, wanted: Mapping[str, tuple[int, int]], jobs: int = 8) -> SeriesFiles:
    """Files of many series.

    Parameters
    ----------
    wanted : number of files and bytes of each series, by ``crdc_series_uuid``, as the index has them
    jobs : requests at one time

    A series that the bucket lists otherwise (withdrawn, cut, or changed) is in `lost`, with the reason, and no file of
    it in `files`.
    Raises ServiceError: the bucket cannot be had, or does not answer as S3 does.
    """
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="listing")
    try:
        answers = list(pool.map(lambda series: _files_of(bucket, series), wanted))
    finally:
        pool.shutdown(cancel_futures=True)  # else a bucket that cannot be had is asked for every series
    rows: list[tuple[str, str, str, int]] = []
    lost: dict[str, str] = {}
    for (series, (count, size)), (found, problem) in zip(wanted.items(), answers, strict=True):
        got = (len(found), sum(row[3] for row in found))
        if not problem and got != (count, size):
            problem = f"{counted(got[0], 'file')} of {got[1]} bytes instead of {count} of {size}"
        if problem:
            lost[series] = problem
        else:
            rows += found
    return SeriesFiles(pd.DataFrame(rows, columns=_MANIFEST).astype({"size": "int64"}), lost)


def _files_of(bucket: Service, series: str) -> tuple[list[tuple[str, str, str, int]], str]:
    """Rows of the manifest, or why there are none."""
    rows = []
    for key, etag, size in sorted(_listed(bucket, series)):
        name, tag = key.removeprefix(f"{series}/"), _ETAG.fullmatch(etag)
        if problem := name_problem(series, name):
            return [], problem
        if not name.endswith(SERIES_ENDING) or tag is None or not _NUMBER.fullmatch(size):
            return [], f"an entry that is no DICOM file with ETag and size: {key[:80]!r}"
        part = _part_size(bucket, key) if tag[2] else 0
        if tag[2] and -(-int(size) // max(1, part)) != int(tag[2]):
            return [], f"{name} was uploaded in {tag[2]} parts, of which the first has {part} of {size} bytes"
        rows.append((series, name, f"{tag[1]}-{tag[2]}x{part}" if tag[2] else tag[1], int(size)))
    return rows, ""


def _listed(bucket: Service, series: str) -> list[_Listed]:
    """Everything under a series' name, page by page."""
    found: list[_Listed] = []
    asked = {"list-type": "2", "prefix": f"{series}/"}
    for _ in range(_MOST_PAGES):
        page, token = bucket.ask("", _page, asked, form="a listing of S3", most=_LARGEST_PAGE)
        found += page
        if not token:
            return found
        asked["continuation-token"] = token
    raise ServiceError(f"{bucket.endpoint} lists series {series} without end", got=f"{_MOST_PAGES} pages")


def _page(_: httpx.Headers, answer: bytes) -> tuple[list[_Listed], str]:
    """Entries of one page, and what to ask for the next one with (empty: it is the last); ValueError: it is none."""
    if _FORBIDDEN.search(answer):
        raise ValueError("a document type")
    try:
        root = ElementTree.fromstring(answer)  # noqa: S314 -- bounded, and without a document type
    except ElementTree.ParseError as cause:
        raise ValueError(str(cause)) from cause
    if not root.tag.endswith("ListBucketResult"):
        raise ValueError(root.tag)
    entries = [_Listed(*(node.findtext(f"{{*}}{name}", "") for name in ("Key", "ETag", "Size")))
               for node in root.findall("{*}Contents")]  # fmt: skip
    token = root.findtext("{*}NextContinuationToken", "")
    if (root.findtext("{*}IsTruncated") == "true") != bool(token):
        raise ValueError("a cut listing")
    return entries, token


def _part_size(bucket: Service, key: str) -> int:
    def length(head: httpx.Headers, _: bytes) -> int:
        return int(head.get("Content-Length", ""))

    return bucket.ask(key, length, {"partNumber": "1"}, method="HEAD", form="the size of a part")
