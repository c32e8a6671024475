"""Counts of mutated and profiled TCGA lung patients by gene, diagnosis, hospital code, sex and smoking.

Writes ``data/reference/tcga_lung_counts.csv``, which notebooks 12 and 13 read, and ``tcga_lung_smoking.csv``. Counts
are facts; some codes have one patient only. Run it again when cBioPortal's calls change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from _harness import SHARED_DATA

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.acquisition.clinical_file import read_clinical
from deeplrhe_utils.acquisition.labels.mutation_files import read_mutations
from deeplrhe_utils.acquisition.services.tcga_slides import tumour_of_site
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.foreign import write_sheet

GENES = ("TP53", "EGFR", "STK11", "KRAS", "POLE", "POLD1", "PBRM1", "DNMT3A", "SETBP1", "FAT1", "KEAP1", "LRP1B",
         "FAT4", "NF1")  # fmt: skip
"""The paper's eight and DeepPATH's ten."""
CALLS = "tables/cbioportal_luad_lusc_mutations_by_gene.tsv"
CLINICAL = "tables/rtcga_clinical/tcga_lung_clinical_2015-11-01.tsv"


def patient_strata(patients: Iterable[str], clinical: pd.DataFrame | None = None) -> pd.DataFrame:
    """site_code, site_id (hospital), histology of TCGA patients by their barcodes; sex, smoking from `clinical`."""
    told = {str(p): parse_name(str(p)) for p in patients}
    rows = [{"patient_id": p, "site_code": n.site_code, "site_id": n.site_id, "histology": tumour_of_site(n.site_code)}
            for p, n in told.items()]  # fmt: skip
    frame = pd.DataFrame(rows)
    if clinical is None:
        return frame
    return frame.merge(clinical[["patient_id", "sex", "smoking"]], on="patient_id", how="left")


def count_calls(labels: pd.DataFrame, strata: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mutated and profiled patients of every gene in every stratum that has one; an unknown one is called unknown."""
    joined = labels.dropna(subset=["status"]).merge(strata, on="patient_id")
    joined[list(by)] = joined[list(by)].astype("string").fillna("unknown")
    found = joined.groupby(["gene", *by], sort=True)["status"].agg(mutated="sum", profiled="count").reset_index()
    return found.astype({"mutated": "int64", "profiled": "int64"})


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the tables")
    data = parser.parse_args().data
    if not (data / CALLS).is_file():
        raise SystemExit(f"Not counted: {data / CALLS} is not there.")
    labels, clinical = read_mutations(data / CALLS, GENES).labels, read_clinical(data / CLINICAL)
    strata = patient_strata(labels["patient_id"].unique(), clinical)
    for by, name in ((("histology", "site_code"), "counts"), (("histology", "sex", "smoking"), "smoking")):
        write_sheet(count_calls(labels, strata, by), REFERENCE_DATA / f"tcga_lung_{name}.csv")


if __name__ == "__main__":
    main()
