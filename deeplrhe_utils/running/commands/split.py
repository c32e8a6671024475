"""``deeplrhe split``: labelled patients divided into folds, as a signed file."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import OK, Commands, as_options, listed_names, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "split",
        help="divide labelled patients into folds, and sign the list",
        description="Divide patients (or whole sites; slides and tiles as exhibits) into folds or into train, valid "
        "and test, balanced for all genes, and write a signed file that can be shared.",
    )
    add = parser.add_argument
    add("labels", type=Path, metavar="LABELS.csv", help="patient_id,gene,status, or patient_id and a column per gene")
    add("--scheme", default="patient", choices=("tile", "slide", "patient", "site"), help="what is never divided")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--folds", type=int, default=None, metavar="N", help="folds (default: 2)")
    parts.add_argument("--shares", default="", metavar="70/15/15", help="train, valid and test instead of folds")
    add("--sites", default="", metavar="FILE_OR_COLUMN", help="patient_id,site_id, or a column (default: barcodes)")
    add("--genes", type=listed_names, default=(), metavar="GENE[,GENE]", help="columns (default: named like genes)")
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")
    add("--out", type=Path, default=None, metavar="FILE", help="default: LABELS-SCHEME-split.json")
    add("--hashed", action="store_true", help="write salted hashes instead of names; the salt stands in the file")


def run(options: argparse.Namespace) -> int:
    """Divide, tell the balance, and write."""
    from deeplrhe_utils.running.jobs.split import SplitOptions, split

    split(options.labels, as_options(SplitOptions, options), say)
    return OK
