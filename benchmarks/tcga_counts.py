"""Counts of mutated and profiled TCGA lung patients by gene, diagnosis, hospital code, sex and smoking.

Writes ``data/reference/tcga_lung_counts.csv`` and ``tcga_lung_smoking.csv`` from a table of labels (`deeplrhe labels`)
and a clinical table. Counts are facts; no row is a patient. Run it when cBioPortal's calls change:

    deeplrhe labels data_mutations_by_gene.tsv --genes TP53,EGFR,… --out labels.csv
    python benchmarks/tcga_counts.py labels.csv clinical.tsv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.acquisition.clinical_file import read_clinical
from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.evaluation.audits.diagnosis import count_calls, patient_strata


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("clinical", type=Path)
    options = parser.parse_args()
    labels, clinical = read_labels(options.labels), read_clinical(options.clinical)
    strata = patient_strata(labels["patient_id"].unique(), clinical)
    write_sheet(count_calls(labels, strata, ("histology", "site_code")), REFERENCE_DATA / "tcga_lung_counts.csv")
    smoked = count_calls(labels, strata, ("histology", "sex", "smoking"))
    write_sheet(smoked, REFERENCE_DATA / "tcga_lung_smoking.csv")


if __name__ == "__main__":
    main()
