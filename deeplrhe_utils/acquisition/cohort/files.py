"""Cohort files: a cohort as signed JSON, with the tables that other steps read beside it.

``cohort.json`` holds rule, seed, release, sources, genes, the flow, and every chosen file with its MD5; it can be
published alone. Labels are not in it: they stand in ``cohort-labels.csv`` (what ``labels_csv`` reads), clinical data
in ``cohort-clinical.csv``, what to download in ``manifest.txt``, the flow in ``flow.csv``, every other file with its
reason in ``excluded.csv``. The JSON holds the SHA-256 of each, so that none can be exchanged unseen.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.acquisition.cohort.build import FLOW_COLUMNS, STRATA_COLUMNS, Cohort, check_flow
from deeplrhe_utils.acquisition.cohort.rules import CohortRule
from deeplrhe_utils.acquisition.labels.labels import read_labels, wide_labels
from deeplrhe_utils.acquisition.services.manifest import write_manifest
from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import sha256_file, write_json
from deeplrhe_utils.core.signing import changed_parts, read_document, signed
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign, write_sheet
from deeplrhe_utils.core.tables.schemas import CLINICAL, SLIDE_FILES

_KIND: Final = "deeplrhe cohort"
_VERSION: Final = 1
LABELS_CSV, CLINICAL_CSV, FLOW_CSV = "cohort-labels.csv", "cohort-clinical.csv", "flow.csv"
EXCLUDED_CSV, MANIFEST = "excluded.csv", "manifest.txt"
BESIDE: Final = (LABELS_CSV, CLINICAL_CSV, FLOW_CSV, EXCLUDED_CSV, MANIFEST)
"""Names of the files beside a cohort file."""
_PARTS: Final = ("kind", "version", "rule", "release", "source", "genes", "files", "flow", "strata", "notes", "tables",
                 "digests", "signature")  # fmt: skip
_COLUMNS: Final = [column.name for column in SLIDE_FILES.columns]


def is_cohort_file(path: Path) -> bool:
    """Whether a file says that it is a cohort file, intact or not."""
    try:
        read_document(path, _KIND, _VERSION, ())
    except InputError:
        return False
    return True


def save_cohort(
    path: Path, cohort: Cohort, *, release: str, source: Mapping[str, Any], manifest: pd.DataFrame | None = None
) -> str:
    """Write a cohort file and the tables beside it; the same cohort gives the same bytes.

    Parameters
    ----------
    path : the JSON; the others get the names :data:`BESIDE` in its folder
    release : data release of the service, or that none is stated
    source : where files, labels and clinical data came from, such as names and SHA-256 of tables, or addresses and
        query
    manifest : files to download, where a slide has several (id, filename, md5, size); the chosen ones otherwise

    Returns the signature (`signed`).
    Raises ParameterError: another cohort, or something else, stands in one of the files. InputError: a file name that
    no manifest can hold.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_standing(path, cohort, release, source)
    # Everything is made aside first: a name that no manifest can hold must not leave half a cohort behind.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cohort-") as aside:
        for name, frame in _frames(cohort).items():
            write_sheet(frame, Path(aside) / name)
        write_manifest(Path(aside) / MANIFEST, cohort.chosen if manifest is None else manifest)
        tables = {name: sha256_file(Path(aside) / name) for name in BESIDE}
        _check_room(path, tables)
        for name in BESIDE:
            (Path(aside) / name).replace(path.parent / name)
    document = signed(_facts(cohort, release, source) | {"tables": tables})
    write_json(path, document)
    return str(document["signature"])


def _facts(cohort: Cohort, release: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": _KIND, "version": _VERSION, "rule": json.loads(json.dumps(asdict(cohort.rule))), "release": release,
        "source": dict(source), "genes": list(cohort.rule.genes), "files": _rows(cohort.chosen),
        "flow": _rows(cohort.flow), "strata": _rows(cohort.strata), "notes": list(cohort.notes),
    }  # fmt: skip


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as JSON, without nulls of its own kind."""
    return list(json.loads(frame.to_json(orient="records"))) if len(frame) else []


def _frames(cohort: Cohort) -> dict[str, pd.DataFrame]:
    wide = wide_labels(cohort.labels, cohort.rule.genes)
    excluded = cohort.files[~cohort.files["in_cohort"]].drop(columns="in_cohort")
    return {LABELS_CSV: wide, CLINICAL_CSV: cohort.clinical, FLOW_CSV: cohort.flow, EXCLUDED_CSV: excluded}


def _check_standing(path: Path, cohort: Cohort, release: str, source: Mapping[str, Any]) -> None:
    """Refuse to write over another cohort; the same one may stand."""
    if not path.exists():
        return
    try:
        standing = {
            key: value
            for key, value in read_document(path, _KIND, _VERSION, _PARTS).items()
            if key not in ("digests", "signature", "tables")
        }
    except InputError as cause:
        raise ParameterError(f"{path} exists and is no cohort file", fix="Give another folder, or remove it") from cause
    if standing != json.loads(json.dumps(_facts(cohort, release, source))):
        rule = standing["rule"]
        raise ParameterError(f"Another cohort stands in {path}", fix="Give another folder, or remove it",
                             got=f"rule {rule.get('name')} with seed {rule.get('seed')}")  # fmt: skip


def _check_room(path: Path, tables: Mapping[str, str]) -> None:
    """Refuse to write over files that no cohort file claims, unless an interrupted attempt left just these."""
    if path.exists():
        return
    for name, digest in tables.items():
        if (standing := path.parent / name).exists() and not (standing.is_file() and sha256_file(standing) == digest):
            raise ParameterError(f"{standing} exists and is not of this cohort", fix="Give another folder")


def read_cohort_files(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The chosen files of a cohort file, and what else it says; no other file is needed.

    Returns
    -------
    files : table SLIDE_FILES
    facts : rule, release, source, genes, flow, strata, notes, tables (SHA-256 by name), signature

    Raises InputError: the file is missing, is no cohort file, is of another version or was edited (the parts are
    named).
    """
    document = read_document(Path(path), _KIND, _VERSION, _PARTS)
    if changed := changed_parts(document):
        raise InputError(f"The cohort file {path} was edited after it was signed", fix="Ask for the original",
                         got=f"other content in: {', '.join(changed)}")  # fmt: skip
    return conform(pd.DataFrame(document["files"], columns=_COLUMNS), SLIDE_FILES), document


def read_cohort(path: Path) -> Cohort:
    """Read a cohort file with the tables beside it.

    Returns the one that was written, except that its labels name the CSV as their source and have no variant classes.
    Raises InputError: as :func:`read_cohort_files`; or a table beside it is missing or was edited.
    """
    path = Path(path)
    chosen, facts = read_cohort_files(path)
    for name in BESIDE:
        if not (path.parent / name).is_file():
            raise InputError(f"The cohort file {path} lacks {name} beside it", fix="Copy the whole folder")
        if sha256_file(path.parent / name) != facts["tables"].get(name):
            raise InputError(f"{path.parent / name} is not what the cohort file was signed with",
                             fix="Ask for the original, or choose the cohort again")  # fmt: skip
    rule = _rule(facts["rule"])
    flow = pd.DataFrame(facts["flow"], columns=list(FLOW_COLUMNS))
    strata = pd.DataFrame(facts["strata"], columns=[*rule.strata, *STRATA_COLUMNS])
    labels = read_labels(path.parent / LABELS_CSV, facts["genes"]) if facts["genes"] else pd.DataFrame()
    clinical = conform(_csv(path.parent / CLINICAL_CSV), CLINICAL)
    files = _all_files(chosen, _csv(path.parent / EXCLUDED_CSV))
    return Cohort(rule, files, check_flow(flow), strata, labels, clinical, list(facts["notes"]))


def _csv(path: Path) -> pd.DataFrame:
    """A table as it was written: texts, empty cells as nulls."""
    table = read_foreign(path, InputError, may_be_empty=True).reset_index(drop=True)
    return table.mask(table.eq(""))


def _all_files(chosen: pd.DataFrame, excluded: pd.DataFrame) -> pd.DataFrame:
    others = conform(excluded[_COLUMNS], SLIDE_FILES).assign(in_cohort=False, reason=excluded["reason"])
    mine = chosen.assign(in_cohort=True, reason=pd.array([pd.NA] * len(chosen), "string"))
    return pd.concat([mine, others]).sort_values(["file_name", "file_id"], ignore_index=True)


def _rule(stored: Mapping[str, Any]) -> CohortRule:
    known = {field.name for field in fields(CohortRule)}
    if strange := sorted(set(stored) - known):
        raise InputError("The cohort's rule says what this version does not know", got=", ".join(strange))
    values: dict[str, Any] = {k: tuple(map(_frozen, v)) if isinstance(v, list) else v for k, v in stored.items()}
    return CohortRule(**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
