"""The NCI Genomic Data Commons: which files and patients there are, and where a file of an old list went.

Source: the GDC API guide (endpoints ``status``, ``files``, ``cases``, ``files/versions``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.acquisition.services.manifest import UUID
from deeplrhe_utils.acquisition.services.tcga_slides import SUBTYPES, add_fields, notes_of
from deeplrhe_utils.acquisition.services.web import Service, shown
from deeplrhe_utils.core.errors import InputError, ServiceError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import CLINICAL
from deeplrhe_utils.core.text import UNKNOWN_WORD, shortened

GDC_ENDPOINT: Final = "https://api.gdc.cancer.gov"
TCGA_BUCKET: Final = "https://tcga-2-open.s3.amazonaws.com"
"""TCGA's open files on AWS, under the GDC's identifiers, names and MD5; it may lag behind the GDC."""
BUCKET_FILES: Final = "{id}/{name}"
PAGE: Final = 500
_BATCH: Final = 200
_IN_AN_ADDRESS: Final = 40  # identifiers of 37 characters: long addresses are refused
_WALKS: Final = 3
_DAYS_PER_YEAR: Final = 365.25
_SMOKING: Final = {
    "lifelong non-smoker": "never", "current smoker": "current", "smoker at diagnosis": "current",
    "current reformed smoker": "former",
}  # fmt: skip
"""First words of the GDC's smoking status, and ours; the codes of older releases are not guessed at."""
OLDEST_YEARS: Final = 120
_STAGE: Final = re.compile(r"(?:stage\s+)?(IV|III|II|I)[ABC]?[0-9]?", re.IGNORECASE)


class Noted(NamedTuple):
    """A table, and a sentence for everything that is not as it should be."""

    table: pd.DataFrame
    notes: list[str]


def read_query(path: Path) -> dict[str, Any]:
    """A query that lies in a file, with the date and the data release it was made for.

    Raises InputError: not there, no JSON, or without endpoint, filters, fields, date or data_release.
    """
    try:
        query = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise InputError(f"The query {path} cannot be read ({cause})") from cause
    needed = ("endpoint", "filters", "fields", "date", "data_release")
    if not isinstance(query, dict) or not set(needed) <= set(query):
        raise InputError(f"The query {path} is incomplete", got=shown(json.dumps(query)), expected=", ".join(needed))
    return query


class Gdc:
    """The GDC's API.

    Parameters
    ----------
    service : at :data:`GDC_ENDPOINT`, or at what speaks like it
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
        query : endpoint (``files`` or ``cases``), filters, fields; optionally expand

        Raises ServiceError: refused, no pages where pages should be, or a listing that never held still.
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
        found = slide_files(self.search(query))
        self.notes += found.notes
        return found.table

    def clinical(self, patients: Sequence[str]) -> pd.DataFrame:
        """Table CLINICAL of these patients; what is missing goes into `notes`."""
        cases: list[dict[str, Any]] = []
        for batch in _batches(patients, _BATCH):
            filters = {"op": "in", "content": {"field": "submitter_id", "value": batch}}
            expand = ("demographic", "diagnoses", "exposures", "project")
            cases += self.search({"endpoint": "cases", "filters": filters, "fields": (), "expand": expand})
        found = clinical(cases, patients)
        self.notes += found.notes
        return found.table

    def files(self, field: str, values: Sequence[str]) -> list[dict[str, Any]]:
        """The files of today whose `field` (``file_id`` or ``file_name``) has one of these values.

        Returns id, file_id, file_name, file_size, md5sum, state, access.
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

        Raises ServiceError: refused otherwise, or an answer of another form.
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


def slide_files(hits: Iterable[Mapping[str, Any]]) -> Noted:
    """Hits of the endpoint ``files`` as table SLIDE_FILES.

    The patient is that of the file's name; the project is that of the case. Where the two name other patients, the
    file is listed in the notes.

    Raises ServiceError: a hit lacks name, size or MD5.
    """
    rows, strangers = [], []
    for hit in hits:
        try:
            row = {"file_id": hit["file_id"], "file_name": hit["file_name"], "md5": hit["md5sum"],
                   "bytes": int(hit["file_size"]), "access": hit.get("access")}  # fmt: skip
        except (KeyError, TypeError, ValueError) as cause:
            raise ServiceError(f"A file of the GDC lacks {cause}", got=str(dict(hit))[:160]) from cause
        cases = hit.get("cases") or [{}]
        project, patient = (cases[0].get("project") or {}).get("project_id"), cases[0].get("submitter_id")
        if len(cases) != 1 or (patient and not row["file_name"].startswith(patient)):
            strangers.append(row["file_name"])
        rows.append(row | {"project_id": project})
    columns = ["file_id", "file_name", "md5", "bytes", "access", "project_id"]
    files = add_fields(pd.DataFrame(rows, columns=columns))
    notes = [f"{len(strangers)} files belong to other patients than their names say: {shortened(strangers)}."]
    return Noted(files, (notes if strangers else []) + notes_of(files))


def clinical(cases: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> Noted:
    """Hits of the endpoint ``cases`` as table CLINICAL.

    Age [years] is the age at diagnosis in days over 365.25. Of several diagnoses the primary one counts
    (``classification_of_tumor``), else the first by its submitter_id.

    Parameters
    ----------
    cases : with demographic, diagnoses, exposures and project
    wanted : patients that were asked for; those without a case are named in the notes
    """
    rows = [_patient(case) for case in cases]
    frame = pd.DataFrame(rows, columns=[c.name for c in CLINICAL.columns])
    missing = sorted(set(wanted) - set(frame["patient_id"]))
    notes = [f"The GDC has no case of {len(missing)} patients: {shortened(missing)}."] if missing else []
    if len(frame):
        empty = {name: int(frame[name].isna().sum()) for name in frame.columns[2:]}
        told = ", ".join(f"{name} {count}" for name, count in empty.items() if count)
        notes += [f"Clinical values that the GDC does not give, of {len(frame)} patients: {told}."] if told else []
    return Noted(conform(frame.sort_values("patient_id"), CLINICAL), notes)


def _patient(case: Mapping[str, Any]) -> dict[str, Any]:
    patient = str(case["submitter_id"])
    person, diagnosis = case.get("demographic") or {}, _diagnosis(case.get("diagnoses") or [])
    smoked = {_smoking(exposure) for exposure in case.get("exposures") or []} - {None}
    days = diagnosis.get("age_at_diagnosis")
    return {
        "patient_id": patient,
        "site_id": parse_name(patient).site_id,
        "age_years": _first(days, lambda d: float(d) / _DAYS_PER_YEAR if 0 < float(d) < OLDEST_YEARS * 366 else None),
        "sex": word_of(person.get("sex_at_birth") or person.get("gender"), "female", "male"),
        "histology": SUBTYPES.get((case.get("project") or {}).get("project_id", "")),
        "stage": _first(diagnosis.get("ajcc_pathologic_stage"), stage_of),
        "smoking": smoked.pop() if len(smoked) == 1 else None,
        "vital_status": word_of(person.get("vital_status"), "alive", "dead"),
    }


def _diagnosis(diagnoses: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    ordered = sorted(diagnoses, key=lambda d: str(d.get("submitter_id")))
    primary = [d for d in ordered if str(d.get("classification_of_tumor")).lower() == "primary"]
    return (primary or ordered or [{}])[0]


def _smoking(exposure: Mapping[str, Any]) -> str | None:
    status = str(exposure.get("tobacco_smoking_status") or "").lower()
    return next((ours for theirs, ours in _SMOKING.items() if status.startswith(theirs)), None)


def _first(value: Any, read: Callable[[Any], Any]) -> Any:
    """`value` as read, or None where there is none."""
    if value is None or (isinstance(value, str) and UNKNOWN_WORD.fullmatch(value)):
        return None
    return read(value)


def stage_of(text: str) -> str | None:
    """Stage I to IV without its letter; None for anything else, Stage X and 0 included.

    >>> [stage_of(text) for text in ("Stage IIIA", "Stage IB", "IV", "Stage X", "[Discrepancy]", "I/II NOS")]
    ['III', 'I', 'IV', None, None, None]
    """
    match = _STAGE.fullmatch(text.strip())
    return match and match[1].upper()


def word_of(value: object, *words: str) -> str | None:
    """`value` in small letters if it is one of `words`, else None.

    >>> word_of("MALE", "female", "male"), word_of(None, "female", "male")
    ('male', None)
    """
    text = str(value).lower()
    return text if text in words else None
