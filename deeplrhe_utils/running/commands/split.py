"""``deeplrhe split``: labelled patients divided into folds, as a signed file; and audits of anybody's splits."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, listed_names, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "split",
        help="divide labelled patients into folds; or audit a split of any origin",
        description="Divide patients (or whole sites; slides and tiles as exhibits) into folds or into train, valid "
        "and test, balanced for all genes, and write a signed file that can be shared. With --audit: read a split "
        "(signed, Patho-Bench, CLAM, or tables of train, val and test) and say what it does; exit code 1 when a "
        "patient of the test side also trains or validates. docs/splits.md tells more.",
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="LABELS.csv (patient_id,gene,status, or patient_id and a "
        "column per gene); with --audit a split: a file, a folder, or the tables of train, val and test")  # fmt: skip
    add("--audit", action="store_true", help="judge a split instead of making one")
    add("--labels", type=Path, metavar="CSV", help="with --audit: slide_id or patient_id, and labels")
    add("--scheme", default="patient", choices=("tile", "slide", "patient", "site"), help="what is never divided")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--folds", type=int, default=None, metavar="N", help="folds (default: 2)")
    parts.add_argument("--shares", default="", metavar="70/15/15", help="train, valid and test instead of folds")
    add("--sites", default="", metavar="FILE_OR_COLUMN", help="patient_id,site_id, or a column (default: barcodes)")
    add("--genes", type=listed_names, default=(), metavar="GENE[,GENE]", help="columns (default: named like genes)")
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")
    add(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="default: LABELS-SCHEME-split.json; with --audit a folder",
    )
    add("--format", dest="layout", default="signed", choices=("signed", "pathobench", "clam"), help="what is written")
    add("--hashed", action="store_true", help="write salted hashes instead of names; the salt stands in the file")


def run(options: argparse.Namespace) -> int:
    """Divide, tell the balance, and write; or audit: 1 if a patient is on both sides."""
    from deeplrhe_utils.core.errors import ParameterError
    from deeplrhe_utils.running.jobs.split import SplitOptions, audit_split_files, split

    asked = as_options(SplitOptions, options)
    if options.audit:
        return FAILED if audit_split_files(options.files, options.labels, asked, say) else OK
    if len(options.files) > 1 or options.labels:
        raise ParameterError("One table of labels is divided; several files and --labels go with --audit")
    split(options.files[0], asked, say)
    return OK
