"""Clinical data of TCGA's patients from TCGA-CDR, the curated table of Liu 2018 (doi 10.1016/j.cell.2018.02.052).

What is not known stays null, and is counted by what the table says instead of a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.labels import BARCODE, read_csv_text, shortened
from deeplrhe_utils.acquisition.tcga_slides import SUBTYPES
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.schemas import CLINICAL
from deeplrhe_utils.core.tables import conform

PLACEHOLDER: Final = re.compile(r"\[[^\]]*\]|--|not reported|unknown", re.IGNORECASE)
"""How TCGA's tables write that a value is not there, such as ``[Not Available]`` or ``[Discrepancy]``."""
OLDEST_YEARS: Final = 120
_STAGE: Final = re.compile(r"(?:stage\s+)?(IV|III|II|I)[ABC]?[0-9]?", re.IGNORECASE)
_PATIENT, _TYPE = "bcr_patient_barcode", "type"
_COLUMNS: Final = {
    "age_years": "age_at_initial_pathologic_diagnosis", "sex": "gender", "histology": _TYPE,
    "stage": "ajcc_pathologic_tumor_stage", "vital_status": "vital_status",
}  # fmt: skip


class Clinical(NamedTuple):
    """What TCGA-CDR tells.

    Attributes
    ----------
    table : table CLINICAL
    unknown : column, said, patients: how often each text stands where there is no value
    projects : patient → project
    notes : the same in sentences
    """

    table: pd.DataFrame
    unknown: pd.DataFrame
    projects: dict[str, str]
    notes: list[str]


def stage_of(text: str) -> str | None:
    """Stage I to IV without its letter; None for anything else, Stage X and 0 included.

    >>> [stage_of(text) for text in ("Stage IIIA", "Stage IB", "IV", "Stage X", "[Discrepancy]", "I/II NOS")]
    ['III', 'I', 'IV', None, None, None]
    """
    match = _STAGE.fullmatch(text.strip())
    return match and match[1].upper()


def age_of(text: str) -> float | None:
    """An age [years] above 0 and at most :data:`OLDEST_YEARS`; None for anything else.

    >>> [age_of(text) for text in ("70.0", "0", "[Not Available]", "")]
    [70.0, None, None, None]
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= OLDEST_YEARS else None


def word_of(value: object, *words: str) -> str | None:
    """`value` in small letters if it is one of `words`, else None.

    >>> word_of("MALE", "female", "male"), word_of(None, "female", "male")
    ('male', None)
    """
    text = str(value).lower()
    return text if text in words else None


def read_cdr(path: Path) -> Clinical:
    """Read TCGA-CDR's rows of lung cancer.

    Parameters
    ----------
    path : Path
        CSV with the columns bcr_patient_barcode, type (LUAD or LUSC), age_at_initial_pathologic_diagnosis, gender,
        ajcc_pathologic_tumor_stage and vital_status; others are ignored.

    Returns
    -------
    Clinical
        Of every row: age at diagnosis [years], sex, histology by the project, stage I to IV, alive or dead at the last
        contact, site from the barcode. Smoking is not in TCGA-CDR: null. `projects` is ``TCGA-LUAD`` or ``TCGA-LUSC``.

    Raises
    ------
    LabelError
        Missing or malformed file, missing columns, a row without a TCGA barcode, a repeated patient, another cancer.
    """
    raw = read_csv_text(Path(path))
    if lost := [c for c in (_PATIENT, *_COLUMNS.values()) if c not in raw]:
        raise LabelError(f"{path} lacks columns", got=", ".join(lost), expected="TCGA-CDR's names")
    patients = _patients(raw[_PATIENT], Path(path))
    projects = {p: f"TCGA-{text}" for p, text in zip(patients, raw[_TYPE], strict=True)}
    if other := sorted(set(projects.values()) - set(SUBTYPES)):
        raise LabelError(f"{path} has rows of other cancers", got=shortened(other), expected=", ".join(SUBTYPES))
    frame = pd.DataFrame({"patient_id": patients, "site_id": [p.split("-")[1] for p in patients]})
    for column, source in _COLUMNS.items():
        frame[column] = [_READERS[column](text) for text in raw[source]]
    unknown = _unknown(frame, raw)
    redacted = [p for p, text in zip(patients, raw.get("Redaction", [""] * len(raw)), strict=True) if text]
    notes = [f"{len(redacted)} patients are marked as redacted: {shortened(redacted)}."] if redacted else []
    return Clinical(conform(frame, CLINICAL), unknown, projects, notes + _sentences(unknown, len(frame)))


def _patients(texts: pd.Series, path: Path) -> list[str]:
    found = [BARCODE.fullmatch(text) for text in texts]
    if wrong := [text for text, match in zip(texts, found, strict=True) if match is None]:
        raise LabelError(f"{path}: {len(wrong)} rows have no TCGA patient", got=shortened([repr(w) for w in wrong], 3))
    if (again := texts.duplicated()).any():
        raise LabelError(f"{path} repeats the patient {texts[again].iloc[0]}")
    return texts.tolist()


_READERS: Final[dict[str, Callable[[str], object]]] = {
    "age_years": age_of, "sex": lambda text: word_of(text, "female", "male"), "stage": stage_of,
    "vital_status": lambda text: word_of(text, "alive", "dead"),
    "histology": lambda text: SUBTYPES.get(f"TCGA-{text}"),
}  # fmt: skip


def _unknown(frame: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    """How often each column is null, by what the file says there."""
    rows = []
    for column, source in _COLUMNS.items():
        said = raw.loc[frame[column].isna().to_numpy(), source].value_counts()
        rows += [(column, str(text), int(count)) for text, count in said.items()]
    return pd.DataFrame(rows, columns=["column", "said", "patients"])


def _sentences(unknown: pd.DataFrame, patients: int) -> list[str]:
    sentences = []
    for column, own in unknown.groupby("column", sort=False):
        said = ", ".join(f"{text or 'empty'} {count}" for text, count in zip(own["said"], own["patients"], strict=True))
        strange = [text for text in own["said"] if text and not PLACEHOLDER.fullmatch(text)]
        sentences.append(f"{column} is not known of {own['patients'].sum()} of {patients} patients ({said})"
                         + (f"; not understood: {shortened(strange, 3)}." if strange else "."))  # fmt: skip
    return sentences
