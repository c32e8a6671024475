"""Mutation calls of TCGA patients from files that others published: cBioPortal's table by gene, DeepPATH's labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.labels import BARCODE
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.schemas import LABELS
from deeplrhe_utils.core.tables import conform

NOT_SEQUENCED: Final = "NS"
WILD_TYPE: Final = "WT"
SYNONYMOUS: Final = "="
"""Last character of a change that leaves the protein as it is; such a change does not make a patient mutated."""


def read_calls(path: Path, genes: Sequence[str] = (), studies: Sequence[str] = ()) -> pd.DataFrame:
    """Read cBioPortal's download "mutations by gene": a row per sample, a column per gene.

    Parameters
    ----------
    path : Path
        Tab-separated: STUDY_ID, SAMPLE_ID, genes. ``WT`` is wild type, ``NS`` not sequenced; else one or more
        changes, divided by spaces.
    genes, studies : sequence of str
        To keep; empty keeps all.

    Returns
    -------
    DataFrame
        Table LABELS: 1 where a change is not synonymous, 0 for WT and for synonymous changes alone, null for NS;
        `variant_class` holds the changes as given. A patient's samples are joined: 1 if any is, else 0 if any is.

    Raises
    ------
    LabelError
        No such file, missing columns, genes or studies; a sample without a TCGA barcode; an empty cell.
    """
    table = _table(path)
    if lost := [c for c in ("STUDY_ID", "SAMPLE_ID", *genes) if c not in table]:
        raise LabelError(f"{path} lacks columns", got=", ".join(lost), expected="STUDY_ID, SAMPLE_ID and genes")
    if unknown := sorted(set(studies) - set(table["STUDY_ID"])):
        raise LabelError(f"{path} has no such study", got=", ".join(unknown),
                         expected=", ".join(sorted(table["STUDY_ID"].unique())))  # fmt: skip
    table = table[table["STUDY_ID"].isin(studies)] if studies else table
    own = list(genes) or [c for c in table.columns if c not in ("STUDY_ID", "SAMPLE_ID")]
    long = table.assign(patient_id=_patients(table["SAMPLE_ID"], path)).melt("patient_id", own, "gene", "call")
    if (empty := long["call"].eq("")).any():
        raise LabelError(f"{path}: an empty call", got=long.loc[empty, ["patient_id", "gene"]].iloc[0].tolist(),
                         expected=f"{WILD_TYPE}, {NOT_SEQUENCED} or a change")  # fmt: skip
    long["status"] = long["call"].map(call_status).astype("Int64")
    joined = long.sort_values("status", ascending=False, kind="stable").groupby(["patient_id", "gene"], sort=False)
    frame = joined.agg(status=("status", "max"), variant_class=("call", "first")).reset_index()
    frame["variant_class"] = frame["variant_class"].where(frame["status"].eq(1))
    return conform(frame.assign(source=Path(path).name), LABELS)


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


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", dtype="string", keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as cause:
        raise LabelError(f"{path} cannot be read ({cause})", expected="a tab-separated table") from cause


def _patients(samples: Iterable[str], path: Path) -> list[str]:
    found = [BARCODE.match(str(sample)) for sample in samples]
    if wrong := [str(s) for s, match in zip(samples, found, strict=True) if match is None]:
        raise LabelError(f"{path}: {len(wrong)} samples have no TCGA barcode", got=", ".join(wrong[:3]))
    return [match.group(1) for match in found if match is not None]
