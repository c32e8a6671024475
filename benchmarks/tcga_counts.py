"""Counts of mutated and profiled TCGA lung patients by gene, diagnosis, hospital code, sex and smoking.

Writes ``data/reference/tcga_lung_counts.csv``, which notebooks 12 and 13 read, and ``tcga_lung_smoking.csv``. Counts
are facts; some codes have one patient only. Run it again when cBioPortal's calls change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _harness import SHARED_DATA

from deeplrhe_utils.acquisition.clinical_file import read_clinical
from deeplrhe_utils.acquisition.labels.mutation_files import read_mutations
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.evaluation.audits.diagnosis import count_calls, patient_strata

GENES = ("TP53", "EGFR", "STK11", "KRAS", "POLE", "POLD1", "PBRM1", "DNMT3A", "SETBP1", "FAT1", "KEAP1", "LRP1B",
         "FAT4", "NF1")  # fmt: skip
"""The paper's eight and DeepPATH's ten."""
CALLS = "tables/cbioportal_luad_lusc_mutations_by_gene.tsv"
CLINICAL = "tables/rtcga_clinical/tcga_lung_clinical_2015-11-01.tsv"


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
