"""Published tables of TCGA lung patients: how far sources of labels agree; the paper's words on age and death.

Writes ``data/reference/label_agreement.csv`` (notebook 11) and ``table1_checks.csv`` (notebook 14): counts, means and
intervals, no rows of patients. Tables that are no part of the repository are read from ``--data``; no time is measured.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import SHARED_DATA
from scipy import stats

from deeplrhe_utils.acquisition.labels.agreement import label_agreement
from deeplrhe_utils.acquisition.labels.mutation_files import by_gene_calls, read_mutations
from deeplrhe_utils.core.paths import REFERENCE_DATA

STUDY = "luad_tcga_pan_can_atlas_2018"
KINDS = ["both_mutated", "first_only", "second_only", "both_wild_type"]
CLINICAL = "TCGA-CDR (Liu 2018), patients of TCGA-LUAD and TCGA-LUSC"
AGE = "age_at_initial_pathologic_diagnosis"
OLDER, YOUNGER, MALE = ("adenocarcinoma tends occur at older age", "the overall death is relatively younger",
                        "especially in male")  # fmt: skip


def gigapath_labels(data: Path) -> pd.DataFrame:
    """Table LABELS of prov-gigapath's list: a patient is 1 where any slide's row says so."""
    table = pd.read_csv(data / "splits/gigapath/LUAD-5-gene_TCGA.csv")
    place = list(table.columns)
    genes = place[place.index("PTEN") : place.index("pat_id")]
    each = table.groupby("case_submitter_id")[genes].max().rename_axis("patient_id").reset_index()
    long = each.melt("patient_id", var_name="gene", value_name="status")
    return long.assign(status=long["status"].astype("Int64"), variant_class=pd.NA, source="prov-gigapath")


def agreement(data: Path) -> pd.DataFrame:
    """Per pair of sources and gene: patients with a status in both, how they fall, the share that agrees, and kappa."""
    portal = by_gene_calls(data / "tables/cbioportal_luad_lusc_mutations_by_gene.tsv", (), [STUDY]).labels
    listed, giga = read_mutations(data / "tables/labels_r3.txt").labels, gigapath_labels(data)
    as_lkb1 = portal[portal["gene"] == "STK11"].assign(gene="LKB1")  # the column LKB1 is the gene STK11 once more
    pairs = [("DeepPATH, labels_r3.txt", portal, listed),
             ("prov-gigapath, LUAD-5-gene_TCGA.csv", pd.concat([portal, as_lkb1]), giga)]  # fmt: skip
    found = pd.concat([label_agreement(first, second).assign(second=name) for name, first, second in pairs])
    found.insert(0, "first", f"cBioPortal, {STUDY}")
    found["patients"] = found[KINDS].sum(axis=1)
    found["kappa"] = found["kappa"].round(4) + 0.0  # no minus before a zero
    return found[["first", "second", "gene", "patients", *KINDS, "agreeing", "kappa"]].round(4).reset_index(drop=True)


def mean_age(one: pd.DataFrame, two: pd.DataFrame) -> tuple[float, ...]:
    """Means, patients, difference and Welch's 95 % interval of the age at diagnosis."""
    first, second = one[AGE].dropna(), two[AGE].dropna()
    ends = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    return first.mean(), second.mean(), len(first), len(second), first.mean() - second.mean(), ends.low, ends.high


def share_dead(one: pd.DataFrame, two: pd.DataFrame) -> tuple[float, ...]:
    """Shares, patients, difference and Newcombe's 95 % interval (method 10) of those who are known to be dead."""
    p, n = zip(*(((f["vital_status"] == "Dead").mean(), len(f)) for f in (one, two)), strict=True)
    ends = [stats.binomtest(round(p[i] * n[i]), n[i]).proportion_ci(method="wilson") for i in (0, 1)]
    low = np.hypot(p[0] - ends[0].low, ends[1].high - p[1])
    high = np.hypot(ends[0].high - p[0], p[1] - ends[1].low)
    return p[0], p[1], n[0], n[1], p[0] - p[1], p[0] - p[1] - low, p[0] - p[1] + high


def table1_checks(data: Path) -> pd.DataFrame:
    """Per statement and group of patients: both sides' values, their difference, its interval and the stated sign."""
    table = pd.read_csv(data / "tables/tcga_cdr_luad_lusc_TCGA-CDR.csv")
    of = {"LUAD": table["type"] == "LUAD", "LUSC": table["type"] == "LUSC", "LUAD and LUSC": table["type"] != "",
          "dead": table["vital_status"] == "Dead", "living": table["vital_status"] == "Alive",
          "men": table["gender"] == "MALE", "women": table["gender"] == "FEMALE"}  # fmt: skip
    every = ["LUAD and LUSC", "LUAD", "LUSC"]
    asked = [(OLDER, mean_age, "LUAD", "LUSC", 1, every[:1]), (YOUNGER, mean_age, "dead", "living", -1, every),
             (MALE, share_dead, "men", "women", 1, every)]  # fmt: skip
    rows = []
    for statement, measure, first, second, sign, groups in asked:
        quantity = "mean age [years]" if measure is mean_age else "share dead"
        for group in groups:
            values = measure(table[of[group] & of[first]], table[of[group] & of[second]])
            rows.append((statement, quantity, group, first, second, sign, *values, CLINICAL))
    columns = ["statement", "quantity", "patients", "first", "second", "stated_sign", "first_value", "second_value",
               "first_n", "second_n", "difference", "ci_low", "ci_high", "source"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).round(4)


TABLES = {"label_agreement": agreement, "table1_checks": table1_checks}


def main() -> None:
    """Read the tables, print what was found and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="holds tables/ and splits/")
    data = parser.parse_args().data
    if not (data / "tables").is_dir():
        raise SystemExit(f"Not computed: {data / 'tables'} is not here. Give its parent with --data.")
    for name, make in TABLES.items():
        found = make(data).assign(date=time.strftime("%Y-%m-%d"))
        found.to_csv(REFERENCE_DATA / f"{name}.csv", index=False)
        print(found.to_string(), f"\n{name}.csv written\n")


if __name__ == "__main__":
    main()
