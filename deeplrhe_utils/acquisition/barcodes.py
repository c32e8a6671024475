"""TCGA barcodes: which patient, sample and slide a name stands for, decided in one place.

Source: the GDC's documentation of TCGA barcodes. Their second field is a code of a hospital *and* a project: every
code holds one diagnosis: a site is therefore the hospital, by `data/reference/hospitals.csv`. Of a sample's code the
first digit tells tumour (0) from normal (1); slides are DX (diagnostic, formalin-fixed) or TS, MS, BS (top, middle,
bottom of a frozen sample).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from deeplrhe_utils.core.paths import REFERENCE_DATA

if TYPE_CHECKING:
    import pandas as pd

_BARCODE: Final = re.compile(r"([A-Z0-9]{4}-([A-Z0-9]{2})-[A-Z0-9]{4})(?:-([0-9]{2})[A-Z]?)?(?![A-Z0-9])")
_SLIDE: Final = re.compile(r"-(DX|TS|BS|MS)[A-Z0-9]*(?![A-Z0-9])")


class SlideName(NamedTuple):
    """What a name tells; None where it does not. `site_id` is the hospital behind a TCGA `site_code`, where known."""

    patient_id: str | None = None
    site_id: str | None = None
    sample_code: str | None = None
    slide_type: str | None = None
    site_code: str | None = None

    @property
    def sample_type(self) -> str | None:
        """``frozen`` or ``diagnostic``."""
        return None if self.slide_type is None else "diagnostic" if self.slide_type == "DX" else "frozen"


@cache
def hospitals() -> dict[str, tuple[str, str]]:
    """TCGA code of a lung project → hospital that gave the tissue, project; one hospital has a code per project."""
    with (REFERENCE_DATA / "hospitals.csv").open(encoding="utf-8", newline="") as stream:
        return {row["code"]: (row["hospital"], row["project"]) for row in csv.DictReader(stream)}


def parse_name(name: str) -> SlideName:
    """Fields of the barcode with which a name begins; ``tcga-`` may be written small.

    >>> parse_name("TCGA-05-4244-01A-01-BS1.90f043f6-e8d5-4cfd-b4e7-84207bc499a6.svs")
    SlideName(patient_id='TCGA-05-4244', site_id='Indivumed', sample_code='01', slide_type='BS', site_code='05')
    >>> parse_name("tcga-05-4244-11").sample_code, parse_name("CMU-1-Small-Region.svs").patient_id
    ('11', None)
    """
    name = name.upper() if name[:5].lower() == "tcga-" else name
    match = _BARCODE.match(name)
    if match is None:
        return SlideName()
    slide = _SLIDE.search(name, match.end())
    code = match[2] if name.startswith("TCGA-") else None
    site = hospitals().get(code, (code, ""))[0] if code else match[2]
    return SlideName(match[1], site, match[3], slide and slide[1], code)


def patient_of(name: str) -> str:
    """The patient of a barcode of any length; another name as it is.

    >>> patient_of("TCGA-21-5784-01Z-00-DX1"), patient_of("tcga-21-5784"), patient_of("case 7")
    ('TCGA-21-5784', 'TCGA-21-5784', 'case 7')
    """
    return parse_name(name).patient_id or name


def sample_of(name: str) -> str:
    """The sample (patient and two digits) of a barcode that tells it; another name as it is.

    >>> sample_of("TCGA-05-4244-01A-01D-1105-08"), sample_of("P7_T1")
    ('TCGA-05-4244-01', 'P7_T1')
    """
    told = parse_name(name)
    return f"{told.patient_id}-{told.sample_code}" if told.sample_code else name


def person_of(unit: str) -> str:
    """The patient behind a unit of prediction: of a TCGA sample (patient and two digits) the patient, else the unit.

    >>> person_of("TCGA-05-4244-11"), person_of("TCGA-05-4244"), person_of("TCGA-05-4244-01Z-00-DX1_3_4")
    ('TCGA-05-4244', 'TCGA-05-4244', 'TCGA-05-4244-01Z-00-DX1_3_4')
    """
    return patient_of(unit) if unit == sample_of(unit) else unit


def patients_of(names: pd.Series) -> pd.Series:
    """The patients behind a column of names: TCGA barcodes are cut, whatever else has their form is left."""
    return names.map({name: tcga_patient_of(name) for name in names.unique()}).astype("string")


def tcga_patient_of(name: str) -> str:
    """The patient of a TCGA barcode of any length; any other name as it is."""
    return patient_of(name) if name[:5].upper() == "TCGA-" else name


def patients_note(names: Iterable[str], column: str) -> list[str]:
    """A sentence, if names given as patients are barcodes of something smaller, or not in capitals."""
    if not (longer := sorted({name for name in names if tcga_patient_of(name) != name})):
        return []
    count = len({tcga_patient_of(name) for name in longer})
    return [f"{len(longer)} names in {column} are TCGA barcodes of more than the patient, or not in capitals, such as "
            f"{longer[0]}: they count as {count} patients."]  # fmt: skip
