"""Mutation labels from files: a MAF of GDC or cBioPortal, cBioPortal's table by gene, DeepPATH's list of labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name, patients_of, sample_of, tcga_patient_of
from deeplrhe_utils.acquisition.labels.calls import (
    PROFILED_COLUMNS,
    VARIANT_COLUMNS,
    Calls,
    all_profiled,
    call_patients,
)
from deeplrhe_utils.acquisition.labels.variants import (
    DEFAULT_RULE,
    NON_SILENT,
    NOT_PASSED,
    VariantRule,
    classes_of_change,
)
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import as_long, foreign_records, foreign_text, read_foreign
from deeplrhe_utils.core.tables.schemas import LABELS
from deeplrhe_utils.core.text import counted, shortened

_FORMATS: Final = (
    "a MAF (.maf, .maf.gz, a folder of them), cBioPortal's table of mutations by gene, or DeepPATH's labels_r3.txt"
)
MAF_COLUMNS: Final = ("Hugo_Symbol", "Tumor_Sample_Barcode", "Variant_Classification")
_OPINIONS: Final = ("Mutation_Status", "FILTER")
PROTEIN_COLUMNS: Final = ("HGVSp_Short", "Protein_Change", "Amino_Acid_Change", "amino_acid_change")
"""Names under which MAFs give the protein change; the first that is there is read."""
_MAF_NAME: Final = re.compile(r"[^.].*\.maf(\.txt|\.tsv)?(\.gz)?", re.IGNORECASE)
_SEQUENCED: Final = re.compile(r"#+\s*sequenced_samples\s*:?(.*)", re.IGNORECASE | re.DOTALL)
"""A MAF's own list of who was sequenced, as cBioPortal's importer takes it."""
BY_GENE_COLUMNS: Final = ("STUDY_ID", "SAMPLE_ID")
NOT_SEQUENCED, WILD_TYPE = "NS", "WT"
SYNONYMOUS: Final = "="
"""Last character of a change that leaves the protein as it is; such a change does not make a patient mutated."""
_MOST_GENES: Final = 500
_MAF_ALONE: Final = (
    "A MAF lists variants only: labels are those of the {n} patients it names, for whom an unlisted gene counts as "
    "wild type; patients without any listed variant are absent, and who was not profiled cannot be told."
)
_DEEPPATH_ALONE: Final = (
    "DeepPATH's list names mutated genes only: an unlisted gene of its {n} patients counts as wild type, as DeepPATH "
    "does; patients without any listed mutation are absent, and who was not profiled cannot be told."
)


def read_mutations(
    path: Path, genes: Sequence[str] = (), rule: VariantRule = DEFAULT_RULE, *, profiled: Collection[str] | None = None
) -> Calls:
    """Read mutation labels from a file, whichever of :data:`_FORMATS` it is; `Calls.form` says which.

    Parameters
    ----------
    path : as `foreign_text` takes it. A MAF may be several, one after the other with their headers, or a folder of
        them (also .gz). Its variants count with FILTER ``PASS``, ``.`` or none.
    genes : to read; empty reads all that the file names
    rule : not applicable to DeepPATH's list, which states no classes
    profiled : patients or samples that were profiled for every gene asked: who is listed and has no variant is 0, who
        is not listed is null unless mutated. For a MAF (default: its ``#sequenced_samples``) and for DeepPATH's list;
        the table by gene tells itself.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_calls(path, genes, rule, profiled)
    text = foreign_text(path)
    header = _header(text, path)
    if {*MAF_COLUMNS} & {*header}:
        return _maf_calls([_maf_rows(text, path)], path, genes, rule, profiled)
    if {*BY_GENE_COLUMNS} & {*header}:
        if profiled is not None:
            raise LabelError(f"{path} tells itself who was profiled", fix="Leave out the list of profiled patients")
        return by_gene_calls(path, genes, (), rule)
    if len(header) == 2 and parse_name(header[0]).patient_id:
        return _deeppath_calls(path, genes, rule, profiled)
    raise LabelError(
        f"{path} is in none of the known formats", got=f"first line {header[:4]!r}"[:160], expected=_FORMATS
    )


def _header(text: str, path: Path) -> list[str]:
    """The first row that is no comment."""
    rows = (cells for _, cells in foreign_records(text, path, separator="\t"))
    if (header := next((cells for cells in rows if not cells[0].startswith("#")), None)) is None:
        raise LabelError(f"{path} is empty", expected=_FORMATS)
    return header


def _folder_calls(
    folder: Path, genes: Sequence[str], rule: VariantRule, profiled: Collection[str] | None
) -> Calls:  # fmt: skip
    """All MAFs below a folder (the GDC delivers one per case) as one table."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    mafs = [path for path in files if _MAF_NAME.fullmatch(path.name)]
    if not mafs:
        raise LabelError(f"{folder} holds no MAF", got=f"{len(files)} files", expected="files *.maf or *.maf.gz")
    calls = _maf_calls([_maf_rows(foreign_text(path), path) for path in mafs], folder, genes, rule, profiled)
    said = (
        f"{counted(len(mafs), 'MAF')} of the folder are read as one; {counted(len(files) - len(mafs), 'other file')}."
    )
    return replace(calls, notes=[said, *calls.notes])


_Rows = tuple[list[tuple[str | None, ...]], list[str]]
"""Rows of a MAF (gene, barcode, class, protein change, status, filter), and who it says was sequenced."""


def _maf_rows(text: str, path: Path) -> _Rows:
    """Rows of a MAF, or of several one after the other: each header begins anew, comments stand anywhere."""
    rows: list[tuple[str | None, ...]] = []
    sequenced: list[str] = []
    header: list[str] = []
    for line, cells in foreign_records(text, path, separator="\t"):
        where = f"{path}, line {line}"
        if cells[0].startswith("#"):
            if told := _SEQUENCED.fullmatch(" ".join(cells)):
                sequenced += re.split(r"[\s,;]+", told[1].strip())
        elif not header or len({*MAF_COLUMNS} & {*cells}) > 1:
            header, own = cells, [c for c in cells if c in (*MAF_COLUMNS, *PROTEIN_COLUMNS, *_OPINIONS)]
            if missing := [c for c in MAF_COLUMNS if c not in header]:
                raise LabelError(
                    f"{where}: a MAF that lacks columns {', '.join(missing)}",
                    got=", ".join(missing),
                    expected=", ".join(MAF_COLUMNS),
                )
            if len(set(own)) < len(own):
                raise LabelError(f"{where}: repeated column name", got=", ".join(own))
            change = next((c for c in PROTEIN_COLUMNS if c in header), "")
            places = [header.index(c) if c in header else None for c in (*MAF_COLUMNS, change, *_OPINIONS)]
        else:
            as_long(cells, len(header), path, line)
            row = tuple(None if place is None else cells[place] for place in places)
            if not (row[0] and row[1]):
                raise LabelError(f"{where}: no gene or no sample", got=" | ".join(cells)[:80])
            rows.append(row)
    return rows, sequenced


def _maf_calls(
    parts: Sequence[_Rows], path: Path, genes: Sequence[str], rule: VariantRule, profiled: Collection[str] | None
) -> Calls:
    """Calls of MAFs that are one delivery; the sample is what the barcode says, FILTER and status decide who counts."""
    columns = ["gene", "sample_id", "variant_class", "protein_change", "origin", "filter"]
    variants = pd.DataFrame([row for rows, _ in parts for row in rows], columns=columns, dtype="object")
    variants["protein_change"] = variants["protein_change"].str.removeprefix("p.")
    variants["patient_id"] = patients_of(variants["sample_id"])
    variants["sample_id"] = variants["sample_id"].map(sample_of)
    sequenced = [sample for _, listed in parts for sample in listed if sample]
    if variants.empty and not sequenced:
        raise LabelError(f"{path} has a header and no rows")
    own = list(dict.fromkeys(genes)) or list(dict.fromkeys(variants["gene"]))
    if len(own) > _MOST_GENES:
        raise LabelError(f"{path} names {len(own)} genes", expected=f"at most {_MOST_GENES}", fix="Name the genes")
    if not own:
        raise LabelError(f"{path} names no gene", fix="Name the genes")
    named = variants.drop_duplicates("sample_id")
    absent = [gene for gene in own if gene not in set(variants["gene"])]
    if profiled is None and not sequenced:
        table = all_profiled(list(named["sample_id"]), list(named["patient_id"]), own)
        table["profiled"] &= ~table["gene"].isin(absent)
        notes = [_MAF_ALONE.format(n=named["patient_id"].nunique())]
        notes += [f"No variant of {', '.join(absent)} in the file: nobody has a status there."] if absent else []
    else:
        listed = list(dict.fromkeys(sequenced if profiled is None else profiled))
        table = _profiled_table(named, own, listed, path)
        notes = [f"{len(listed)} names are {'listed as #sequenced_samples' if profiled is None else 'given'}, and so "
                 "profiled for every gene asked."]  # fmt: skip
        notes += [f"No variant of {', '.join(absent)} in the file: the profiled are wild type there."] if absent else []
    calls = call_patients(variants[[*VARIANT_COLUMNS, "filter"]], table, rule, path.name, form="a MAF")
    failed = calls.ledger[calls.ledger["fate"].str.startswith(NOT_PASSED)]
    if len(failed):
        reasons = [f"{fate.removeprefix(NOT_PASSED)} {n}" for fate, n in zip(failed["fate"], failed["n"], strict=True)]
        notes.append(f"{failed['n'].sum()} variants do not count, because FILTER is not PASS ({shortened(reasons)}).")
    silent = sum(not rows for rows, _ in parts)
    notes += [f"{counted(silent, 'file')} without any variant."] if silent else []
    return replace(calls, notes=[*calls.notes, *notes])


def _profiled_table(named: pd.DataFrame, genes: list[str], profiled: list[str], path: Path) -> pd.DataFrame:
    """`PROFILED_COLUMNS`: the MAF's samples and the listed ones, each once."""
    if not profiled:
        raise LabelError(f"{path}: the list of profiled patients is empty")
    owner = dict(zip(named["sample_id"], named["patient_id"], strict=True))
    by_patient = named.groupby("patient_id")["sample_id"].agg(list).to_dict()
    yes: dict[str, str] = {}
    for name in profiled:
        patient = tcga_patient_of(name)
        mine = by_patient.get(patient, [])
        exact = [s for s in mine if s == sample_of(name) or parse_name(s).sample_code is None]
        group = exact if parse_name(name).sample_code else mine
        yes |= {sample: patient for sample in group or [sample_of(name)]}
    rows = [(s, p, gene, s in yes) for s, p in {**owner, **yes}.items() for gene in genes]
    return pd.DataFrame(rows, columns=list(PROFILED_COLUMNS))


def by_gene_calls(
    path: Path, genes: Sequence[str] = (), studies: Sequence[str] = (), rule: VariantRule = DEFAULT_RULE
) -> Calls:
    """Read cBioPortal's download "mutations by gene": a row per sample, a column per gene; empty selections keep all.

    ``WT`` is wild type (0), ``NS`` not sequenced (null); else one or more changes, divided by spaces, whose classes are
    read off (`classes_of_change`). A change that ends in ``=`` does not count unless the rule names
    ``Synonymous_Change``: the notes say for how many patients that decides.

    Raises LabelError as `read_foreign`, for an unknown study, a sample without a TCGA barcode or given twice, an empty
    cell, WT or NS beside a change.
    """
    names = [c for c in _header(foreign_text(path), path) if c and c not in BY_GENE_COLUMNS]
    own = list(dict.fromkeys(genes)) or names
    table = read_foreign(path, separator="\t", columns=(*BY_GENE_COLUMNS, *own)).reset_index(drop=True)
    if unknown := sorted(set(studies) - set(table["STUDY_ID"])):
        raise LabelError(f"{path} has no such study", got=", ".join(unknown),
                         expected=", ".join(sorted(table["STUDY_ID"].unique())))  # fmt: skip
    table = table[table["STUDY_ID"].isin(studies)] if studies else table
    wide = table.rename(columns={"SAMPLE_ID": "sample_id"}).assign(patient_id=_patients(table["SAMPLE_ID"], path))
    long = wide.melt(["sample_id", "patient_id"], own, "gene", "call")
    long["call"] = long["call"].str.split()
    _check_cells(long, path)
    calls = call_patients(
        _changes(long), long.assign(profiled=[NOT_SEQUENCED not in c for c in long["call"]])[[*PROFILED_COLUMNS]],
        rule, Path(path).name, form="cBioPortal's table of mutations by gene",
    )  # fmt: skip
    return replace(calls, notes=[*calls.notes, *_synonymous_note(calls, long)])


def _check_cells(long: pd.DataFrame, path: Path) -> None:
    for cells, patient, gene in zip(long["call"], long["patient_id"], long["gene"], strict=True):
        if not cells or (len(cells) > 1 and {WILD_TYPE, NOT_SEQUENCED} & set(cells)):
            what = "an empty call" if not cells else "a call that contradicts itself"
            raise LabelError(f"{path}: {what}", got=[patient, gene, " ".join(cells)],
                             expected=f"{WILD_TYPE}, {NOT_SEQUENCED} or a change")  # fmt: skip


def _changes(long: pd.DataFrame) -> pd.DataFrame:
    """`VARIANT_COLUMNS`, a row per change."""
    each = long.explode("call").rename(columns={"call": "protein_change"})
    each = each[~each["protein_change"].isin((WILD_TYPE, NOT_SEQUENCED))]
    classes = [classes_of_change(change) for change in each["protein_change"]]
    return each.assign(variant_class=classes, origin=None)[[*VARIANT_COLUMNS]].reset_index(drop=True)


def _synonymous_note(calls: Calls, long: pd.DataFrame) -> list[str]:
    """Whom the reading of ``=`` decides: wild type here, mutated if such changes alter splicing."""
    ends = [any(c.endswith(SYNONYMOUS) for c in cells) for cells in long["call"]]
    pairs = long.loc[ends, ["patient_id", "gene"]].merge(calls.labels, on=["patient_id", "gene"])
    zero = pairs[pairs["status"].eq(0)].drop_duplicates(["patient_id", "gene"])
    if zero.empty:
        return []
    genes = ", ".join(f"{gene} {n}" for gene, n in zero["gene"].value_counts().items())
    return [
        f"{len(zero)} patient × gene pairs are wild type although a change ending in = is listed ({genes}); "
        "cBioPortal does not load silent variants, so these may alter splicing."
    ]


def _deeppath_calls(
    path: Path, genes: Sequence[str], rule: VariantRule, profiled: Collection[str] | None
) -> Calls:  # fmt: skip
    if rule.classes != NON_SILENT or rule.drivers is not None:
        raise LabelError(f"{path} states no variant classes, so another rule cannot be applied", got=rule.sentence(),
                         expected=DEFAULT_RULE.sentence())  # fmt: skip
    listed = read_deeppath_labels(path)
    own = list(dict.fromkeys(genes)) or list(dict.fromkeys(listed["gene"]))
    known = {tcga_patient_of(name) for name in profiled or ()}
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


def read_deeppath_labels(path: Path) -> pd.DataFrame:
    """Read DeepPATH's ``labels_r3.txt`` as table LABELS: a line per patient and mutated gene.

    A pair that is not listed counts as 0, as in DeepPATH, which cannot tell wild type from not profiled; patients
    without any listed mutation are absent. Raises LabelError for no such file, a line that is no barcode and gene.
    """
    rows = list(foreign_records(foreign_text(path), path, separator="\t"))
    if wrong := [row for row in rows if len(row[1]) != 2]:
        raise LabelError(f"{path}, line {wrong[0][0]}: not a barcode and a gene", got=wrong[0][1])
    frame = pd.DataFrame([cells for _, cells in rows], columns=["sample", "gene"])
    frame["patient_id"] = _patients(frame["sample"], path)
    wide = pd.crosstab(frame["patient_id"], frame["gene"]).clip(upper=1)
    long = wide.stack().rename("status").reset_index()
    return conform(long.astype({"status": "Int64"}).assign(source=Path(path).name), LABELS)


def _patients(samples: Iterable[str], path: Path) -> list[str]:
    found = [parse_name(str(sample)).patient_id for sample in samples]
    if wrong := [str(s) for s, patient in zip(samples, found, strict=True) if patient is None]:
        raise LabelError(f"{path}: {len(wrong)} samples have no TCGA barcode", got=", ".join(wrong[:3]))
    return [patient for patient in found if patient is not None]
