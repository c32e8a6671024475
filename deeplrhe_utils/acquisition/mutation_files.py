"""Mutation labels from files: a MAF, cBioPortal's study folder or its table by gene, DeepPATH's list of labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.calls import (
    PROFILED_COLUMNS,
    Calls,
    all_profiled,
    call_patients,
    sample_code,
    sample_of_barcode,
)
from deeplrhe_utils.acquisition.labels import BARCODE, patient_of_slide, shortened
from deeplrhe_utils.acquisition.maf import MAF_COLUMNS, maf_variants, read_tsv_text
from deeplrhe_utils.acquisition.study_folder import study_folder_calls
from deeplrhe_utils.acquisition.tcga_tables import BY_GENE_COLUMNS, by_gene_calls, read_deeppath_labels
from deeplrhe_utils.acquisition.variants import DEFAULT_RULE, NON_SILENT, VariantRule
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.schemas import LABELS
from deeplrhe_utils.core.tables import conform

FORMATS: Final = (
    "a MAF (.maf, .maf.gz), cBioPortal's study folder, its table of mutations by gene, or DeepPATH's labels_r3.txt"
)
_MOST_GENES: Final = 500


def read_mutations(
    path: Path,
    genes: Sequence[str] = (),
    rule: VariantRule = DEFAULT_RULE,
    *,
    profiled: Collection[str] | None = None,
) -> Calls:
    """Read mutation labels from a file or folder, whichever of the known formats it is.

    Parameters
    ----------
    path : Path
        One of `FORMATS`; UTF-8 with or without a byte order mark, lines ending in LF, CRLF or CR.
    genes : sequence of str
        To read; empty reads all that the file names.
    rule : VariantRule
        Not applicable to DeepPATH's list, which states no classes: only the default is accepted there.
    profiled : collection of str, optional
        Patients or samples that were profiled for every gene asked: who is listed and has no variant is 0, who is
        not listed is null unless mutated. For a MAF and for DeepPATH's list, which cannot tell wild type from not
        profiled; the other formats tell themselves.

    Returns
    -------
    Calls
        `form` says which format it was.

    Raises
    ------
    LabelError
        A missing, empty, truncated or unreadable file; none of the formats; columns or genes that are not there;
        `profiled` where the format tells itself.
    """
    path = Path(path)
    if path.is_dir():
        _refuse_profiled(profiled, path)
        return study_folder_calls(path, genes, rule)
    text = read_tsv_text(path)
    header = text.split("\n", 1)[0].split("\t")
    if {*MAF_COLUMNS} & {*header}:
        return _maf_calls(text, path, genes, rule, profiled)
    if {*BY_GENE_COLUMNS} & {*header}:
        _refuse_profiled(profiled, path)
        return by_gene_calls(path, genes, (), rule)
    if len(header) == 2 and BARCODE.match(header[0]):
        return _deeppath_calls(path, genes, rule, profiled)
    raise LabelError(
        f"{path} is in none of the known formats", got=f"first line {header[:4]!r}"[:160], expected=FORMATS
    )


def _refuse_profiled(profiled: Collection[str] | None, path: Path) -> None:
    if profiled is not None:
        raise LabelError(f"{path} tells itself who was profiled", fix="Leave out the list of profiled patients")


def _maf_calls(
    text: str, path: Path, genes: Sequence[str], rule: VariantRule, profiled: Collection[str] | None
) -> Calls:
    variants = maf_variants(text, path)
    own = list(dict.fromkeys(genes)) or list(dict.fromkeys(variants["gene"]))
    if len(own) > _MOST_GENES:
        raise LabelError(f"{path} names {len(own)} genes", expected=f"at most {_MOST_GENES}", fix="Name the genes")
    named = variants.drop_duplicates("sample_id")
    absent = [gene for gene in own if gene not in set(variants["gene"])]
    if profiled is None:
        table = all_profiled(list(named["sample_id"]), list(named["patient_id"]), own)
        table["profiled"] &= ~table["gene"].isin(absent)
        notes = [_MAF_ALONE.format(n=named["patient_id"].nunique())]
        notes += [f"No variant of {', '.join(absent)} in the file: nobody has a status there."] if absent else []
    else:
        table = _profiled_table(named, own, list(dict.fromkeys(profiled)), path)
        notes = [f"{len(set(profiled))} names are given as profiled for every gene asked."]
        notes += [f"No variant of {', '.join(absent)} in the file: the profiled are wild type there."] if absent else []
    calls = call_patients(variants, table, rule, path.name, form="a MAF")
    return replace(calls, notes=[*calls.notes, *notes])


_MAF_ALONE: Final = (
    "A MAF lists variants only: labels are those of the {n} patients it names, for whom an unlisted gene counts as "
    "wild type; patients without any listed variant are absent, and who was not profiled cannot be told."
)


def _profiled_table(named: pd.DataFrame, genes: list[str], profiled: list[str], path: Path) -> pd.DataFrame:
    """`PROFILED_COLUMNS`: the MAF's samples and the listed ones, each once."""
    if not profiled:
        raise LabelError(f"{path}: the list of profiled patients is empty")
    owner = dict(zip(named["sample_id"], named["patient_id"], strict=True))
    by_patient = named.groupby("patient_id")["sample_id"].agg(list).to_dict()
    yes: dict[str, str] = {}
    for name in profiled:
        patient = patient_of_slide(name)
        mine = by_patient.get(patient, [])
        exact = [s for s in mine if s == sample_of_barcode(name) or sample_code(s) is None]
        group = exact if sample_code(name) else mine
        yes |= {sample: patient for sample in group or [sample_of_barcode(name)]}
    rows = [(s, p, gene, s in yes) for s, p in {**owner, **yes}.items() for gene in genes]
    return pd.DataFrame(rows, columns=list(PROFILED_COLUMNS))


def _deeppath_calls(
    path: Path, genes: Sequence[str], rule: VariantRule, profiled: Collection[str] | None
) -> Calls:  # fmt: skip
    if rule.classes != NON_SILENT or rule.unclear or rule.drivers is not None or rule.annotated_drivers:
        raise LabelError(f"{path} states no variant classes, so another rule cannot be applied", got=rule.sentence(),
                         expected=DEFAULT_RULE.sentence())  # fmt: skip
    listed = read_deeppath_labels(path)
    own = list(dict.fromkeys(genes)) or list(dict.fromkeys(listed["gene"]))
    known = {patient_of_slide(name) for name in profiled or ()}
    patients = list(dict.fromkeys([*listed["patient_id"], *sorted(known)]))
    grid = pd.MultiIndex.from_product([patients, own], names=["patient_id", "gene"]).to_frame(index=False)
    frame = grid.merge(listed[["patient_id", "gene", "status"]], how="left", on=["patient_id", "gene"])
    absent = [gene for gene in own if gene not in set(listed["gene"])]
    inside = frame["patient_id"].isin(known) if profiled is not None else frame["gene"].notna()
    frame["status"] = frame["status"].fillna(0).where(frame["status"].eq(1) | (inside & ~frame["gene"].isin(absent)))
    labels = conform(frame.assign(source=path.name), LABELS)
    pairs, used = int(listed["status"].sum()), int(labels["status"].eq(1).sum())
    fates = [("listed mutation", "counted", used), ("listed mutation", "gene not asked for", pairs - used)]
    ledger = pd.DataFrame([row for row in fates if row[2]], columns=["kind", "fate", "n"])
    notes = [_DEEPPATH_ALONE.format(n=listed["patient_id"].nunique())] if profiled is None else [
        f"{len(known)} patients are given as profiled; listed mutations of others stay 1, their other genes are null."
    ]  # fmt: skip
    notes += [f"The list does not name {shortened(absent)}: nobody has a status there."] if absent else []
    no_conflicts = pd.DataFrame(columns=["patient_id", "gene", "sample_id", "status"])
    return Calls(labels, no_conflicts, ledger, notes, "DeepPATH's list of labels")


_DEEPPATH_ALONE: Final = (
    "DeepPATH's list names mutated genes only: an unlisted gene of its {n} patients counts as wild type, as DeepPATH "
    "does; patients without any listed mutation are absent, and who was not profiled cannot be told."
)
