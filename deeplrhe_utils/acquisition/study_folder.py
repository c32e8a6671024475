"""cBioPortal's study folder: samples, who was sequenced, on which panel, mutations and clinical attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.attributes import clinical_of_attributes
from deeplrhe_utils.acquisition.calls import PROFILED_COLUMNS, Calls, call_patients
from deeplrhe_utils.acquisition.gdc_tables import Table
from deeplrhe_utils.acquisition.labels import patient_of_slide, shortened
from deeplrhe_utils.acquisition.maf import maf_variants, read_tsv_text, table_of
from deeplrhe_utils.acquisition.variants import DEFAULT_RULE, VariantRule
from deeplrhe_utils.core.errors import LabelError

MUTATION_FILES: Final = ("data_mutations.txt", "data_mutations_extended.txt")
WHOLE_EXOME: Final = frozenset({"WES", "WXS", "WGS", "WXS/WGS"})
"""Names that cBioPortal's studies use, in place of a panel, for samples in which every gene was profiled."""
NOT_PROFILED: Final = frozenset({"NA", ""})
_MOST_GENES: Final = 500


def study_folder_calls(folder: Path, genes: Sequence[str] = (), rule: VariantRule = DEFAULT_RULE) -> Calls:
    """Labels from cBioPortal's study folder.

    Read are meta_study.txt, data_mutations.txt (or data_mutations_extended.txt), case_lists/cases_sequenced.txt and,
    where they are there, data_clinical_sample.txt (all samples and their patients) and data_gene_panel_matrix.txt
    with its data_gene_panel_<name>.txt. File names inside the files are not followed.

    Parameters
    ----------
    folder : Path
    genes : sequence of str
        To read; empty reads all that have a mutation.
    rule : VariantRule

    Returns
    -------
    Calls
        Null for samples outside the list of sequenced ones, and for genes that a sample's panel lacks.

    Raises
    ------
    LabelError
        A needed file is missing or damaged; a sequenced sample that the clinical table does not know.
    """
    folder = Path(folder)
    meta = read_meta(folder / "meta_study.txt")
    study = meta.get("cancer_study_identifier") or folder.name
    data = next((folder / name for name in MUTATION_FILES if (folder / name).is_file()), folder / MUTATION_FILES[0])
    variants = maf_variants(read_tsv_text(data), data)
    sequenced = read_case_list(folder / "case_lists" / "cases_sequenced.txt")
    owners, notes = _owners(folder, sequenced)
    variants["patient_id"] = [
        owners.get(s, p) for s, p in zip(variants["sample_id"], variants["patient_id"], strict=True)
    ]
    own = list(dict.fromkeys(genes)) or list(dict.fromkeys(variants["gene"]))
    if len(own) > _MOST_GENES:
        raise LabelError(f"{data} names {len(own)} genes", expected=f"at most {_MOST_GENES}", fix="Name the genes")
    covers, panel_notes = _panels(folder, own)
    rows = [(s, p, g, s in sequenced and covers(s, g)) for s, p in owners.items() for g in own]
    table = pd.DataFrame(rows, columns=list(PROFILED_COLUMNS))
    calls = call_patients(variants, table, rule, study, form="cBioPortal's study folder")
    unsequenced = len(owners) - len(sequenced)
    notes += [f"{unsequenced} samples are not in the list of sequenced ones and have no status."] if unsequenced else []
    return replace(calls, notes=[*calls.notes, *notes, *panel_notes])


def read_meta(path: Path) -> dict[str, str]:
    """Lines ``key: value`` of cBioPortal's meta files and case lists.

    Raises
    ------
    LabelError
        As `read_tsv_text`; a line without a colon.
    """
    found = {}
    for number, line in enumerate(read_tsv_text(path).split("\n"), start=1):
        key, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon:
            raise LabelError(f"{path}, line {number}: no 'key: value'", got=repr(line[:60]))
        found[key.strip()] = value.strip()
    return found


def read_case_list(path: Path) -> set[str]:
    """Samples of one of cBioPortal's case lists.

    Raises
    ------
    LabelError
        As :func:`read_meta`; no samples.
    """
    samples = set(read_meta(path).get("case_list_ids", "").split())
    if not samples:
        raise LabelError(f"{path} lists no samples", expected="case_list_ids: and sample names")
    return samples


def _owners(folder: Path, sequenced: set[str]) -> tuple[dict[str, str], list[str]]:
    """Patient of every sample of the study."""
    path = folder / "data_clinical_sample.txt"
    if not path.is_file():
        said = f"{path.name} is not there: patients are read off the sample names, samples off the list of sequenced."
        return {s: patient_of_slide(s) for s in sorted(sequenced)}, [said]
    table = table_of(read_tsv_text(path), path, ("PATIENT_ID", "SAMPLE_ID"))
    if (twice := table["SAMPLE_ID"].duplicated()).any():
        raise LabelError(f"{path} lists a sample twice", got=table.loc[twice, "SAMPLE_ID"].iloc[0])
    owners = dict(zip(table["SAMPLE_ID"], table["PATIENT_ID"], strict=True))
    if strange := sorted(sequenced - set(owners)):
        raise LabelError(f"{path} does not know {len(strange)} sequenced samples", got=shortened(strange))
    return owners, []


class _Covers:
    """Whether a sample's panel holds a gene."""

    def __init__(self, panel_of: dict[str, str], genes_of: dict[str, set[str]]) -> None:
        self._panel_of, self._genes_of = panel_of, genes_of

    def __call__(self, sample: str, gene: str) -> bool:
        panel = self._panel_of.get(sample, "NA") if self._panel_of else "WES"
        return panel in WHOLE_EXOME or gene in self._genes_of.get(panel, set())


def _panels(folder: Path, genes: list[str]) -> tuple[_Covers, list[str]]:
    path = folder / "data_gene_panel_matrix.txt"
    if not path.is_file():
        return _Covers({}, {}), []
    table = table_of(read_tsv_text(path), path, ("SAMPLE_ID", "mutations"))
    panel_of = dict(zip(table["SAMPLE_ID"], table["mutations"], strict=True))
    names = sorted(set(panel_of.values()) - WHOLE_EXOME - NOT_PROFILED)
    genes_of = _panel_genes(folder, set(names))
    notes = [_panel_note(name, genes_of.get(name), genes) for name in names]
    return _Covers(panel_of, genes_of), notes


def _panel_note(name: str, held: set[str] | None, genes: list[str]) -> str:
    if held is None:
        return f"No file tells the genes of panel {name}: its samples have no status."
    lacking = [gene for gene in genes if gene not in held]
    return f"Panel {name} lacks {shortened(lacking) if lacking else 'none of the genes'}; lacking genes have no status."


def _panel_genes(folder: Path, names: set[str]) -> dict[str, set[str]]:
    """Genes by panel; the panel is named inside its file, never by a path that a table gives."""
    found = {}
    for path in sorted(
        [*folder.glob("data_gene_panel_*.txt"), *(folder / "gene_panels").glob("data_gene_panel_*.txt")]
    ):
        if path.name == "data_gene_panel_matrix.txt":
            continue
        meta = read_meta(path)
        if meta.get("stable_id") in names:
            found[meta["stable_id"]] = set(meta.get("gene_list", "").split())
    return found


def study_folder_clinical(folder: Path) -> Table:
    """Clinical table of the patients of cBioPortal's study folder.

    Parameters
    ----------
    folder : Path
        With meta_study.txt and data_clinical_patient.txt, whose header lines begin with ``#``.

    Returns
    -------
    Table
        Table CLINICAL and notes, as `clinical_of_attributes` makes them.

    Raises
    ------
    LabelError
        A file is missing or damaged; no PATIENT_ID; a patient listed twice.
    """
    folder = Path(folder)
    path = folder / "data_clinical_patient.txt"
    text = read_tsv_text(path)
    header = text.split("\n", 1)[0].split("\t")
    table = table_of(text, path, ("PATIENT_ID",), [c for c in header if c != "PATIENT_ID"])
    if (twice := table["PATIENT_ID"].duplicated()).any():
        raise LabelError(f"{path} lists a patient twice", got=table.loc[twice, "PATIENT_ID"].iloc[0])
    kind = read_meta(folder / "meta_study.txt").get("type_of_cancer", "")
    return clinical_of_attributes(table.set_index("PATIENT_ID"), kind)
