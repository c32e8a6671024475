"""From variants and samples to labels: mutated, wild type and not profiled are three things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.acquisition.labels.variants import VariantRule, judge
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS
from deeplrhe_utils.core.text import shortened

VARIANT_COLUMNS: Final = ("sample_id", "patient_id", "gene", "protein_change", "variant_class", "origin")
PROFILED_COLUMNS: Final = ("sample_id", "patient_id", "gene", "profiled")
BETWEEN_CHANGES: Final = " | "
"""Stands between the variants of a patient in the column `variant_class`."""


@dataclass(frozen=True)
class Calls:
    """Labels, and everything that happened on the way to them.

    Attributes
    ----------
    labels : table LABELS. `variant_class` lists what made it 1 as "class; protein change", divided by `` | ``:
        ``Missense_Mutation; L858R | In_Frame_Del; E746_A750del``. Where a change alone does not tell the class, the
        possible ones stand together: ``Frame_Shift_Del/Frame_Shift_Ins; K139Rfs*31``.
    notes : sentences for the report: the rule, what was left out and how much of it
    conflicts : a row per sample of a patient and gene whose samples disagree: patient_id, gene, sample_id, status
    ledger : kind (variant, sample), fate, n: every variant and every sample has exactly one fate
    form : which source or file format it was
    """

    labels: pd.DataFrame
    conflicts: pd.DataFrame
    ledger: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    form: str = ""


def call_patients(
    variants: pd.DataFrame, profiled: pd.DataFrame, rule: VariantRule, source: str, *, form: str = ""
) -> Calls:
    """Labels of patients from the variants and the profiled genes of their samples.

    A sample is 1 with a counted variant; else null with a variant that cannot be judged, and where the gene was not
    profiled; else 0. A patient is 1 if any sample is, else 0 if any is, else null; samples that disagree are listed.
    A variant in a sample that is not said to be profiled is believed (1), and counted in a note.

    Parameters
    ----------
    variants : `VARIANT_COLUMNS`; genes that `profiled` does not name are counted and left out
    profiled : `PROFILED_COLUMNS`: a row per sample and gene
    source, form : where it came from, for the table and for the notes

    Returns a label for every patient × gene of `profiled`, and for patients that only `variants` names.
    Raises LabelError: a sample of two patients, a sample and gene listed twice, no samples at all; see `judge`.
    """
    _check_profiled(profiled, source)
    genes = list(dict.fromkeys(profiled["gene"]))
    asked = variants[variants["gene"].isin(genes)].reset_index(drop=True)
    samples = _samples(asked, profiled, genes)
    _check_owners(asked, samples, source)
    taken = _taken(samples["sample_id"].unique(), rule)
    mine = asked[asked["sample_id"].isin(taken)]
    verdicts = judge(mine, rule)
    judged = mine.assign(counts=verdicts["counts"], fate=verdicts["fate"])
    status = _sample_status(samples[samples["sample_id"].isin(taken)], judged)
    labels = _patients(status, judged, samples, source)
    conflicts = _conflicts(status)
    ledger = _ledger(len(variants) - len(asked), len(asked) - len(mine), judged, samples, taken)
    notes = [rule.sentence(), *_notes(samples, taken, judged, conflicts, rule)]
    return Calls(labels, conflicts, ledger, notes, form)


def _check_profiled(profiled: pd.DataFrame, source: str) -> None:
    if profiled.empty:
        raise LabelError(f"{source} names no samples", expected="at least one sample and one gene")
    owners = profiled.groupby("sample_id")["patient_id"].nunique()
    if len(torn := owners[owners > 1]):
        raise LabelError(f"{source}: sample {torn.index[0]} belongs to {torn.iloc[0]} patients")
    if len(twice := profiled[profiled.duplicated(["sample_id", "gene"])]):
        first = twice.iloc[0]
        raise LabelError(f"{source} lists {first['sample_id']} twice for {first['gene']}", got=f"{len(twice)} rows",
                         fix="Read one study at a time")  # fmt: skip


def _check_owners(asked: pd.DataFrame, samples: pd.DataFrame, source: str) -> None:
    owner = samples.drop_duplicates("sample_id").set_index("sample_id")["patient_id"]
    wrong = asked[asked["patient_id"].to_numpy() != owner.reindex(asked["sample_id"]).to_numpy()]
    if len(wrong):
        first = wrong.iloc[0]
        what = f"{source}: sample {first['sample_id']} belongs to {owner[first['sample_id']]}"
        raise LabelError(f"{what}, but one of its variants to another patient", got=first["patient_id"])


def _samples(asked: pd.DataFrame, profiled: pd.DataFrame, genes: list[str]) -> pd.DataFrame:
    """`profiled` with the samples that only the variants name, whose other genes nobody vouches for."""
    strangers = sorted(set(asked["sample_id"]) - set(profiled["sample_id"]))
    owner = asked.drop_duplicates("sample_id").set_index("sample_id")["patient_id"]
    rows = [(sample, owner[sample], gene, False) for sample in strangers for gene in genes]
    extra = pd.DataFrame(rows, columns=list(PROFILED_COLUMNS))
    every = pd.concat([profiled[list(PROFILED_COLUMNS)], extra]) if strangers else profiled[list(PROFILED_COLUMNS)]
    return every.astype({"profiled": "bool"}).reset_index(drop=True)


def _taken(samples: Iterable[str], rule: VariantRule) -> set[str]:
    codes = {sample: parse_name(sample).sample_code for sample in samples}
    return {s for s, code in codes.items() if not rule.sample_codes or code is None or code in rule.sample_codes}


def _sample_status(samples: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """sample_id, patient_id, gene, status (Int64)."""
    key = ["sample_id", "gene"]
    counted = set(judged.loc[judged["counts"].eq(True).fillna(False), key].itertuples(index=False, name=None))
    unclear = set(judged.loc[judged["counts"].isna(), key].itertuples(index=False, name=None))
    pairs = list(samples[key].itertuples(index=False, name=None))
    values = [
        1 if pair in counted else None if pair in unclear or not profiled else 0
        for pair, profiled in zip(pairs, samples["profiled"], strict=True)
    ]
    return samples[["sample_id", "patient_id", "gene"]].assign(status=pd.array(values, dtype="Int64"))


def _patients(status: pd.DataFrame, judged: pd.DataFrame, samples: pd.DataFrame, source: str) -> pd.DataFrame:
    """Table LABELS in the order of `samples`; who has left-out samples only is null."""
    key = ["patient_id", "gene"]
    best = status.groupby(key, sort=False)["status"].max().reset_index()
    frame = samples[key].drop_duplicates().merge(best, on=key, how="left")
    seen = judged[judged["counts"].eq(True).fillna(False)]
    changes = seen["protein_change"].fillna("")
    text = seen["variant_class"] + ("; " + changes).where(changes.ne(""), "")
    listed = seen[key].assign(text=text).drop_duplicates().groupby(key)["text"].agg(BETWEEN_CHANGES.join)
    frame = frame.merge(listed.rename("variant_class").reset_index(), on=key, how="left")
    return conform(frame.assign(source=source), LABELS)


def _conflicts(status: pd.DataFrame) -> pd.DataFrame:
    """Samples of patients who are mutated in one sample and wild type in another."""
    spread = status.groupby(["patient_id", "gene"])["status"].transform("nunique")
    return status.loc[spread > 1, ["patient_id", "gene", "sample_id", "status"]].sort_values(
        ["patient_id", "gene", "sample_id"], ignore_index=True
    )


def _ledger(other: int, left_out: int, judged: pd.DataFrame, samples: pd.DataFrame, taken: set[str]) -> pd.DataFrame:
    names = samples["sample_id"].unique()
    rows = [("variant", "gene not asked for", other), ("variant", "sample left out by the rule", left_out)]
    rows += [("variant", str(fate), int(n)) for fate, n in judged["fate"].value_counts().sort_index().items()]
    rows += [("sample", "used", len(taken)), ("sample", "left out by the rule", len(names) - len(taken))]
    return pd.DataFrame([row for row in rows if row[2]], columns=["kind", "fate", "n"])


def _notes(
    samples: pd.DataFrame, taken: set[str], judged: pd.DataFrame, conflicts: pd.DataFrame, rule: VariantRule
) -> list[str]:
    names = sorted(samples["sample_id"].unique())
    left = [s for s in names if s not in taken]
    bare = [s for s in names if parse_name(s).sample_code is None]
    only = sorted(set(samples["patient_id"]) - set(samples.loc[samples["sample_id"].isin(taken), "patient_id"]))
    unclear = judged[judged["counts"].isna()]
    against = sorted(set(judged.merge(samples[~samples["profiled"]], on=["sample_id", "gene"])["sample_id"]))
    torn = conflicts.drop_duplicates(["patient_id", "gene"])
    found = [
        (left, f"samples are left out by their code ({shortened(left)})"),
        (only, f"patients have left-out samples only and no status ({shortened(only)})"),
        (bare if rule.sample_codes else [], f"samples carry no sample code and are taken as they are ({_few(bare)})"),
        (against, f"samples have variants of genes not said to be profiled ({shortened(against)}); mutated stays 1"),
        (unclear.index, f"variants cannot be judged; without another one the status is null ({_reasons(unclear)})"),
        (torn.index, f"patient × gene pairs differ between samples ({_few(torn['patient_id'])}); any mutation counts"),
    ]
    return [f"{len(group)} {text}." for group, text in found if len(group)]


def _few(names: Iterable[str]) -> str:
    return shortened(list(dict.fromkeys(names)), 3)


def _reasons(unclear: pd.DataFrame) -> str:
    return shortened([f"{fate}: {n}" for fate, n in unclear["fate"].value_counts().items()], 10)


def all_profiled(samples: Sequence[str], patients: Sequence[str], genes: Sequence[str]) -> pd.DataFrame:
    """`PROFILED_COLUMNS` of samples in which every gene was profiled, as in whole exomes."""
    rows = [(s, p, g, True) for s, p in zip(samples, patients, strict=True) for g in genes]
    return pd.DataFrame(rows, columns=list(PROFILED_COLUMNS))


def no_variants() -> pd.DataFrame:
    """An empty table with `VARIANT_COLUMNS`."""
    return pd.DataFrame(columns=list(VARIANT_COLUMNS), dtype="object")
