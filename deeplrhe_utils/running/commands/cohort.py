"""``deeplrhe cohort``: which slides of TCGA or CPTAC are studied."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import OK, Commands, as_options, listed_names, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "cohort",
        help="choose TCGA or CPTAC lung slides, with labels and clinical data",
        description="Choose slides of the GDC, or of the Imaging Data Commons (IDC), by a declared rule, with labels "
        "of cBioPortal, and write a signed cohort file, a manifest to download, labels, clinical data, and who was "
        "left out and why.",
    )
    add = parser.add_argument
    add("rule", metavar="RULE", help="paper (180 slides), coudray, coudray-luad, smallest, all, cptac, cptac-all")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--genes", type=listed_names, default=(), metavar="GENE[,GENE]", help="default: the paper's eight")
    add("--seed", type=seed, default=None, metavar="N", help="of the draw (default: 1, as in notebook 01)")
    add("--n", type=int, default=None, metavar="N", help="slides (default: the rule's)")
    add("--drivers", type=Path, default=None, metavar="FILE", help="gene,protein_change: only these changes count")
    add("--gdc", default="https://api.gdc.cancer.gov", metavar="URL", help="default: the GDC")
    add("--index", type=Path, default=None, metavar="FILE", help="cptac: index of the IDC; default: fetched once")
    add("--bucket", default="https://idc-open-data.s3.amazonaws.com", metavar="URL", help="cptac: the IDC's bucket")
    add("--cbioportal", default="https://www.cbioportal.org/api", metavar="URL", help="default: cBioPortal")


def run(options: argparse.Namespace) -> int:
    """Ask the services, choose, and write."""
    from deeplrhe_utils.running.jobs.cohort import CohortOptions, cohort

    cohort(as_options(CohortOptions, options), say)
    return OK
