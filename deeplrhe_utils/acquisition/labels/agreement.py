"""Two sources of mutation labels side by side: where they agree, and on whom they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS

AGREEMENT_KINDS: Final = (
    "both_mutated", "first_only", "second_only", "both_wild_type", "null_in_first", "null_in_second", "null_in_both",
    "patient_only_in_first", "patient_only_in_second",
)  # fmt: skip
"""What can be said of a patient and gene; each pair is exactly one."""


def label_agreement(first: pd.DataFrame, second: pd.DataFrame, genes: Sequence[str] = ()) -> pd.DataFrame:
    """How two sources agree, gene by gene.

    Parameters
    ----------
    first, second : tables LABELS
    genes : empty takes those that both name, in the first's order

    Returns a row per gene: `AGREEMENT_KINDS` counted in patients, `patients` (their sum: everybody whom either
    source lists for the gene), `agreeing` (share of those with a status in both on which they agree [0–1]; null
    without any), `kappa` (Cohen's, of the same patients; null where chance alone would agree).
    Raises LabelError: no gene, or a gene asked for, is in both.
    """
    pairs = _pairs(first, second, genes)
    counts = pd.crosstab(pairs["gene"], pairs["kind"]).reindex(columns=list(AGREEMENT_KINDS), fill_value=0)
    table = counts.reindex(list(dict.fromkeys(pairs["gene"]))).astype("Int64")
    table["patients"] = table.sum(axis=1)
    same = table["both_mutated"] + table["both_wild_type"]
    known = same + table["first_only"] + table["second_only"]
    known = known.where(known > 0)
    table["agreeing"] = (same / known).astype("Float64")
    one, two = ((table["both_mutated"] + table[side]) / known for side in ("first_only", "second_only"))
    chance = one * two + (1 - one) * (1 - two)
    table["kappa"] = ((table["agreeing"] - chance) / (1 - chance).where(chance < 1)).astype("Float64")
    return table.rename_axis(columns=None).reset_index()


def _pairs(first: pd.DataFrame, second: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """A row per gene and patient of either source: both statuses and the kind."""
    left, right = conform(first, LABELS), conform(second, LABELS)
    shared = [gene for gene in dict.fromkeys(left["gene"]) if gene in set(right["gene"])]
    wanted = list(dict.fromkeys(genes)) or shared
    if missing := [gene for gene in wanted if gene not in shared]:
        raise LabelError("Genes are not in both sources", got=", ".join(missing), expected=", ".join(shared) or "any")
    if not wanted:
        raise LabelError("The two sources share no gene", got=f"{_some(left)} and {_some(right)}")
    columns = ["gene", "patient_id", "status", "variant_class"]
    pairs = left[left["gene"].isin(wanted)][columns].merge(
        right[right["gene"].isin(wanted)][columns], on=["gene", "patient_id"], how="outer",
        suffixes=("_first", "_second"), indicator=True,
    )  # fmt: skip
    statuses = zip(pairs["_merge"], pairs["status_first"], pairs["status_second"], strict=True)
    pairs["kind"] = [_kind(str(side), one, two) for side, one, two in statuses]
    pairs["gene"] = pd.Categorical(pairs["gene"], categories=wanted, ordered=True)
    return pairs.sort_values(["gene", "patient_id"], ignore_index=True).astype({"gene": "string"})


def _some(labels: pd.DataFrame) -> str:
    return ", ".join(labels["gene"].unique()[:5])


def _kind(side: str, one: Any, two: Any) -> str:
    if side != "both":
        return "patient_only_in_first" if side == "left_only" else "patient_only_in_second"
    if pd.isna(one) or pd.isna(two):
        return (
            "null_in_both" if pd.isna(one) and pd.isna(two) else "null_in_first" if pd.isna(one) else "null_in_second"
        )
    names = {(1, 1): "both_mutated", (1, 0): "first_only", (0, 1): "second_only", (0, 0): "both_wild_type"}
    return names[int(one), int(two)]
