"""Clinical data that somebody brings: columns under the names of our table, the GDC's or those of Firehose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name, patients_of
from deeplrhe_utils.acquisition.services.gdc import stage_of, word_of
from deeplrhe_utils.acquisition.services.tcga_slides import tumour_of_site
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.tables.schemas import CLINICAL
from deeplrhe_utils.core.text import UNKNOWN_WORD, counted, shortened

_NAMES: Final = {
    "patient_id": ("patient_id", "bcr_patient_barcode", "submitter_id", "patient"),
    "age_years": ("age_years", "age_at_initial_pathologic_diagnosis", "age"),
    "sex": ("sex", "gender"),
    "stage": ("stage", "pathologic_stage", "ajcc_pathologic_tumor_stage", "ajcc_pathologic_stage"),
    "smoking": ("smoking", "tobacco_smoking_history", "tobacco_smoking_status"),
    "vital_status": ("vital_status",),
    "histology": ("histology",),
    "site_id": ("site_id", "hospital", "site", "tissue_source_site"),
}
"""Column of table CLINICAL → names under which it is found, the first that is there."""
_SMOKING: Final = {"1": "never", "2": "current", "3": "former", "4": "former", "5": "former", "never": "never",
                   "lifelong non-smoker": "never", "non-smoker": "never", "current": "current", "former": "former",
                   "current smoker": "current", "former smoker": "former"}  # fmt: skip


def read_clinical(path: Path) -> pd.DataFrame:
    """Table CLINICAL from a CSV or, by its suffix, TSV; what could not be read is in ``frame.attrs["notes"]``.

    The patient is what a TCGA barcode says, and so is the site: tables of TCGA hold the code, which tells the
    diagnosis. Other patients have the site that the file names. Histology follows from the barcode where the file has
    none. Raises InputError: no patients, a patient twice.
    """
    path = Path(path)
    table = read_foreign(path, InputError, separator="\t" if path.suffix == ".tsv" else ",")
    found = {name: next((c for c in names if c in table), None) for name, names in _NAMES.items()}
    if found["patient_id"] is None:
        raise InputError(f"{path} names no patients", got=", ".join(table.columns[:8]),
                         expected=" or ".join(_NAMES["patient_id"]))  # fmt: skip
    patients = patients_of(table[found["patient_id"]])
    if (again := patients.duplicated()).any():
        raise InputError(f"{path}, line {table.index[again][0]}: patient {patients[again].iloc[0]} stands there twice")
    told = [parse_name(str(patient)) for patient in patients]
    out: dict[str, Any] = {"patient_id": patients, "site_id": [None] * len(told)}
    readers: dict[str, Callable[[str], Any]] = {
        "age_years": _age, "sex": lambda v: word_of(v, "female", "male"), "stage": stage_of, "smoking": _smoked,
        "vital_status": lambda v: word_of(v, "alive", "dead"),
        "histology": lambda v: word_of(v, "normal", "adenocarcinoma", "squamous"),
    }  # fmt: skip
    notes = []
    for name, read in readers.items():
        texts = table[found[name]] if found[name] else pd.Series("", table.index, dtype="string")
        out[name] = [read(text) if text else None for text in texts]
        lost = [text for text, value in zip(texts, out[name], strict=True)
                if text and value is None and not UNKNOWN_WORD.fullmatch(text.casefold())]  # fmt: skip
        if lost:
            notes.append(f"{path.name}, {found[name]}: {counted(len(lost), 'value')} not understood, taken as unknown: "
                         f"{shortened(sorted(set(lost)), 3)}.")  # fmt: skip
    given = table[found["site_id"]] if found["site_id"] else pd.Series("", table.index, dtype="string")
    out["site_id"] = [t.site_id or own or None for own, t in zip(given, told, strict=True)]
    out["histology"] = [h or tumour_of_site(t.site_code) for h, t in zip(out["histology"], told, strict=True)]
    frame = conform(pd.DataFrame(out), CLINICAL)
    frame.attrs["notes"] = notes
    return frame


def _age(text: str) -> float | None:
    try:
        years = float(text)
    except ValueError:
        return None
    return years if 0 < years < 120 else None


def _smoked(text: str) -> str | None:
    """Never, former or current; "reformed" is how TCGA says former."""
    word = text.casefold()
    return "former" if "reformed" in word else _SMOKING.get(word)
