"""What the GDC answers, as our tables: slide files and clinical data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.clinical import OLDEST_YEARS, PLACEHOLDER, stage_of, word_of
from deeplrhe_utils.acquisition.labels import shortened
from deeplrhe_utils.acquisition.tcga_slides import SUBTYPES, add_fields, notes_of
from deeplrhe_utils.core.errors import ServiceError
from deeplrhe_utils.core.schemas import CLINICAL
from deeplrhe_utils.core.tables import conform

_DAYS_PER_YEAR: Final = 365.25
_SMOKING: Final = {
    "lifelong non-smoker": "never",
    "current smoker": "current",
    "smoker at diagnosis": "current",
    "current reformed smoker": "former",
}
"""First words of the GDC's smoking status, and ours; the codes of older releases are not guessed at."""


class Table(NamedTuple):
    """A table, and a sentence for everything that is not as it should be."""

    table: pd.DataFrame
    notes: list[str]


def slide_files(hits: Iterable[Mapping[str, Any]]) -> Table:
    """Hits of the endpoint ``files`` as table SLIDE_FILES.

    The patient is that of the file's name; the project is that of the case. Where the two name other patients, the
    file is listed in the notes.

    Raises
    ------
    ServiceError
        A hit lacks name, size or MD5.
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
    return Table(files, (notes if strangers else []) + notes_of(files))


def clinical(cases: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> Table:
    """Hits of the endpoint ``cases`` as table CLINICAL.

    Age [years] is the age at diagnosis in days over 365.25. Of several diagnoses the primary one counts
    (``classification_of_tumor``), else the first by its submitter_id.

    Parameters
    ----------
    cases : iterable of mapping
        With demographic, diagnoses, exposures and project.
    wanted : iterable of str
        Patients that were asked for; those without a case are named in the notes.
    """
    rows = [_patient(case) for case in cases]
    frame = pd.DataFrame(rows, columns=[c.name for c in CLINICAL.columns])
    missing = sorted(set(wanted) - set(frame["patient_id"]))
    notes = [f"The GDC has no case of {len(missing)} patients: {shortened(missing)}."] if missing else []
    if len(frame):
        empty = {name: int(frame[name].isna().sum()) for name in frame.columns[2:]}
        told = ", ".join(f"{name} {count}" for name, count in empty.items() if count)
        notes += [f"Clinical values that the GDC does not give, of {len(frame)} patients: {told}."] if told else []
    return Table(conform(frame.sort_values("patient_id"), CLINICAL), notes)


def _patient(case: Mapping[str, Any]) -> dict[str, Any]:
    patient = str(case["submitter_id"])
    person, diagnosis = case.get("demographic") or {}, _diagnosis(case.get("diagnoses") or [])
    smoked = {_smoking(exposure) for exposure in case.get("exposures") or []} - {None}
    days = diagnosis.get("age_at_diagnosis")
    return {
        "patient_id": patient,
        "site_id": patient.split("-")[1] if patient.count("-") == 2 else None,
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
    if value is None or (isinstance(value, str) and PLACEHOLDER.fullmatch(value)):
        return None
    return read(value)
