"""The NCI Genomic Data Commons: which files and patients there are, and where a file of an old list went.

Source: the GDC API guide (endpoints ``status``, ``files``, ``cases``, ``files/versions``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.acquisition import gdc_tables
from deeplrhe_utils.acquisition.manifest import UUID
from deeplrhe_utils.acquisition.web import Service, shown
from deeplrhe_utils.core.errors import InputError, ServiceError
from deeplrhe_utils.core.paths import REPOSITORY

ENDPOINT: Final = "https://api.gdc.cancer.gov"
QUERIES: Final = REPOSITORY / "data" / "queries"
PAGE: Final = 500
_BATCH: Final = 200
_IN_AN_ADDRESS: Final = 40  # identifiers of 37 characters: long addresses are refused
_WALKS: Final = 3
_FILTERS: Final = {
    "projects": "cases.project.project_id",
    "sample_types": "cases.samples.sample_type",
    "strategies": "experimental_strategy",
    "access": "access",
}


def read_query(path: Path) -> dict[str, Any]:
    """A query that lies in a file, with the date and the data release it was made for.

    To ask for less (one project, one kind of slide), give it to :func:`narrowed`.

    Raises
    ------
    InputError
        Not there, no JSON, or without endpoint, filters, fields, date or data_release.
    """
    try:
        query = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise InputError(f"The query {path} cannot be read ({cause})") from cause
    needed = ("endpoint", "filters", "fields", "date", "data_release")
    if not isinstance(query, dict) or not set(needed) <= set(query):
        raise InputError(f"The query {path} is incomplete", got=shown(json.dumps(query)), expected=", ".join(needed))
    return query


def narrowed(query: Mapping[str, Any], **values: Sequence[str]) -> dict[str, Any]:
    """A query that asks for less.

    Parameters
    ----------
    query : mapping
    values
        ``projects``, ``sample_types`` (such as "Primary Tumor"), ``strategies`` ("Diagnostic Slide", "Tissue Slide")
        or ``access``: the values that may be. Frozen slides are told apart (TS, MS, BS) by their names only.
    """
    more = [
        {"op": "in", "content": {"field": _FILTERS[name], "value": list(wanted)}} for name, wanted in values.items()
    ]
    return {**query, "filters": {"op": "and", "content": [query["filters"], *more]}}


class Gdc:
    """The GDC's API.

    Parameters
    ----------
    service : Service
        At :data:`ENDPOINT`, or at what speaks like it.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.notes: list[str] = []

    def release(self) -> str:
        """The data release that answers, as the service states it, or the version of its API."""
        status = self.service.get("status")
        if not isinstance(status, dict) or status.get("status") != "OK":
            raise ServiceError(
                f"{self.service.endpoint} is not well", got=shown(json.dumps(status)), expected="status OK"
            )
        return str(status.get("data_release") or f"not stated (API {status.get('tag', 'of unknown version')})")

    def search(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every hit of a query, in the order of its identifiers.

        Pages are sorted by identifier, because the service may otherwise change their order between two of them. A
        listing that changed while it was read is read again.

        Parameters
        ----------
        query : mapping
            endpoint (``files`` or ``cases``), filters, fields; optionally expand.

        Returns
        -------
        list of dict

        Raises
        ------
        ServiceError
            Refused, no pages where pages should be, or a listing that never held still.
        """
        what = ""
        for _ in range(_WALKS):
            hits, total = [], -1
            for page in self._pages(query):
                hits += page["hits"]
                total = int(page["pagination"]["total"])
            found = {hit["id"] for hit in hits}
            if len(hits) == len(found) == total:
                return sorted(hits, key=lambda hit: str(hit["id"]))
            what = f"{len(hits)} hits, {len(found)} different ones, {total} announced"
        raise ServiceError(f"The listing of {query['endpoint']} changed while it was read, {_WALKS} times", got=what)

    def _pages(self, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        key = {"files": "file_id", "cases": "case_id"}[query["endpoint"]]
        start, total = 0, 1
        while start < total:
            body = {"filters": query["filters"], "fields": ",".join(query.get("fields", ())),
                    "expand": ",".join(query.get("expand", ())), "format": "JSON", "sort": f"{key}:asc",
                    "size": str(PAGE), "from": str(start)}  # fmt: skip
            answer = self.service.post(query["endpoint"], {name: value for name, value in body.items() if value})
            try:
                page, warnings = answer["data"], answer.get("warnings") or {}
                total, hits = int(page["pagination"]["total"]), page["hits"]
                if not all(isinstance(hit, dict) and isinstance(hit["id"], str) for hit in hits):
                    raise TypeError("hits")
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
                raise self.other_form(query["endpoint"], answer, "data.hits and data.pagination") from cause
            note = f"The GDC warns: {shown(json.dumps(warnings))}"
            if warnings and note not in self.notes:
                self.notes.append(note)
            yield page
            start += len(hits)
            if not hits:
                return

    def other_form(self, path: str, answer: Any, expected: str) -> ServiceError:
        """What to raise when JSON comes that is not what the GDC's guide describes."""
        what = f"{self.service.endpoint}/{path} answers in another form"
        return ServiceError(what, got=shown(json.dumps(answer)), expected=expected)

    def slide_files(self, query: Mapping[str, Any]) -> pd.DataFrame:
        """The files of a query as table SLIDE_FILES; what is odd about them goes into `notes`."""
        found = gdc_tables.slide_files(self.search(query))
        self.notes += found.notes
        return found.table

    def clinical(self, patients: Sequence[str]) -> pd.DataFrame:
        """Table CLINICAL of these patients; what is missing goes into `notes`."""
        cases: list[dict[str, Any]] = []
        for batch in _batches(patients, _BATCH):
            filters = {"op": "in", "content": {"field": "submitter_id", "value": batch}}
            expand = ("demographic", "diagnoses", "exposures", "project")
            cases += self.search({"endpoint": "cases", "filters": filters, "fields": (), "expand": expand})
        found = gdc_tables.clinical(cases, patients)
        self.notes += found.notes
        return found.table

    def files(self, field: str, values: Sequence[str]) -> list[dict[str, Any]]:
        """The files of today whose `field` (``file_id`` or ``file_name``) has one of these values.

        Returns
        -------
        list of dict
            id, file_id, file_name, file_size, md5sum, state, access.
        """
        fields = ("file_id", "file_name", "file_size", "md5sum", "state", "access")
        found: list[dict[str, Any]] = []
        for batch in _batches(values, _BATCH):
            filters = {"op": "in", "content": {"field": field, "value": batch}}
            found += self.search({"endpoint": "files", "filters": filters, "fields": fields})
        return found

    def latest(self, ids: Sequence[str]) -> dict[str, str]:
        """The id of the newest version of each file, as ``files/versions`` knows it; unknown ones are left out.

        Only UUIDs are asked for, as the others would change the address. A refusal (404) does not say which id of
        several is unknown, so that they are asked for in halves then: two requests per unknown id at worst.

        Raises
        ------
        ServiceError
            Refused otherwise, or an answer of another form.
        """
        found: dict[str, str] = {}
        for batch in _batches((i for i in ids if UUID.fullmatch(i)), _IN_AN_ADDRESS):
            found |= self._versions(batch)
        return {old: found[old] for old in ids if old in found}

    def _versions(self, batch: list[str]) -> dict[str, str]:
        try:
            answer = self.service.get(f"files/versions/{','.join(batch)}")
        except ServiceError as cause:
            if cause.status != 404:
                raise
            half = len(batch) // 2
            return {**self._versions(batch[:half]), **self._versions(batch[half:])} if half else {}
        try:
            entries = [answer] if isinstance(answer, dict) else answer  # the guide shows no answer for one id alone
            pairs = [(entry["id"], entry.get("latest_id") or "") for entry in entries]
            return {str.lower(old): str.lower(new) for old, new in pairs if new}
        except (KeyError, TypeError, AttributeError) as cause:
            raise self.other_form("files/versions", answer, "a list with id and latest_id") from cause


def _batches(values: Iterable[str], most: int) -> Iterator[list[str]]:
    unique = sorted(set(values))
    for start in range(0, len(unique), most):
        yield unique[start : start + most]
