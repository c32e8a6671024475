"""Mutation calls of TCGA patients from files that others published: cBioPortal's table by gene, DeepPATH's labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.calls import PROFILED_COLUMNS, VARIANT_COLUMNS, Calls, call_patients
from deeplrhe_utils.acquisition.labels import BARCODE
from deeplrhe_utils.acquisition.maf import read_tsv_text, table_of
from deeplrhe_utils.acquisition.variants import DEFAULT_RULE, VariantRule, classes_of_change
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.schemas import LABELS
from deeplrhe_utils.core.tables import conform

BY_GENE_COLUMNS: Final = ("STUDY_ID", "SAMPLE_ID")
NOT_SEQUENCED: Final = "NS"
WILD_TYPE: Final = "WT"
SYNONYMOUS: Final = "="
"""Last character of a change that leaves the protein as it is; such a change does not make a patient mutated."""


def read_calls(path: Path, genes: Sequence[str] = (), studies: Sequence[str] = ()) -> pd.DataFrame:
    """Read cBioPortal's download "mutations by gene", all samples of a patient joined.

    Returns
    -------
    DataFrame
        Table LABELS as :func:`by_gene_calls` makes it with the nine non-silent classes and all samples.

    Raises
    ------
    LabelError
        As :func:`by_gene_calls`.
    """
    return by_gene_calls(path, genes, studies, VariantRule(sample_codes=())).labels


def by_gene_calls(
    path: Path, genes: Sequence[str] = (), studies: Sequence[str] = (), rule: VariantRule = DEFAULT_RULE
) -> Calls:
    """Read cBioPortal's download "mutations by gene": a row per sample, a column per gene.

    Parameters
    ----------
    path : Path
        Tab-separated: STUDY_ID, SAMPLE_ID, genes. ``WT`` is wild type, ``NS`` not sequenced; else one or more
        changes, divided by spaces.
    genes, studies : sequence of str
        To keep; empty keeps all.
    rule : VariantRule
        Classes are read off the changes (`classes_of_change`). A change that ends in ``=`` does not count unless the
        rule names ``Synonymous_Change``: the notes say for how many patients that decides.

    Returns
    -------
    Calls
        1 where a change counts, 0 for WT and for changes that do not count alone, null for NS.

    Raises
    ------
    LabelError
        As `read_tsv_text` and `table_of` (missing columns and genes); no such study; a sample without a TCGA barcode
        or given twice; an empty cell, WT or NS beside a change; a change whose class cannot be told, unless the rule
        allows it.
    """
    text = read_tsv_text(Path(path))
    header = text.split("\n", 1)[0].split("\t")
    own = list(dict.fromkeys(genes)) or [c for c in header if c not in BY_GENE_COLUMNS]
    table = table_of(text, Path(path), (*BY_GENE_COLUMNS, *own))
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
    return each.assign(variant_class=classes, driver=None, origin=None)[[*VARIANT_COLUMNS]].reset_index(drop=True)


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


def call_status(call: str) -> int | None:
    """1 for a change of the protein, 0 for none, None for not sequenced.

    >>> [call_status(text) for text in ("WT", "NS", "L858R", "T125=", "T125= R158L")]
    [0, None, 1, 0, 1]
    """
    if call == NOT_SEQUENCED:
        return None
    return int(any(change != WILD_TYPE and not change.endswith(SYNONYMOUS) for change in call.split()))


def read_deeppath_labels(path: Path) -> pd.DataFrame:
    """Read DeepPATH's ``labels_r3.txt``: a line per patient and mutated gene, in lines that end with CR alone.

    Returns
    -------
    DataFrame
        Table LABELS of every patient and gene that the file names. A pair that is not listed counts as 0, as in
        DeepPATH, which cannot tell wild type from not profiled; patients without any listed mutation are absent.

    Raises
    ------
    LabelError
        No such file, a line that is no pair of barcode and gene.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise LabelError(f"{path} cannot be read ({cause})", expected="DeepPATH's labels_r3.txt") from cause
    lines = [line.split("\t") for line in re.split(r"[\r\n]+", text) if line.strip()]
    if wrong := [i for i, cells in enumerate(lines, start=1) if len(cells) != 2]:
        raise LabelError(f"{path}, line {wrong[0]}: not a barcode and a gene", got=lines[wrong[0] - 1])
    frame = pd.DataFrame(lines, columns=["sample", "gene"])
    frame["patient_id"] = _patients(frame["sample"], path)
    wide = pd.crosstab(frame["patient_id"], frame["gene"]).clip(upper=1)
    long = wide.stack().rename("status").reset_index()
    return conform(long.astype({"status": "Int64"}).assign(source=Path(path).name), LABELS)


def _patients(samples: Iterable[str], path: Path) -> list[str]:
    found = [BARCODE.match(str(sample)) for sample in samples]
    if wrong := [str(s) for s, match in zip(samples, found, strict=True) if match is None]:
        raise LabelError(f"{path}: {len(wrong)} samples have no TCGA barcode", got=", ".join(wrong[:3]))
    return [match.group(1) for match in found if match is not None]
