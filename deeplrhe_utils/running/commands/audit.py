"""``deeplrhe audit features``: a referee for vectors that others made."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import OK, Commands, as_options, listed_names, quiet_threads, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "audit",
        help="audit vectors of slides: complete, of one encoder, what they tell of labels and of sites",
        description="Read vectors of TRIDENT, CLAM, STAMP, AtlasPatch, or of a table, and write one page and one JSON: "
        "completeness, encoder and licence, AUCs beside their nulls, site. docs/referee.md tells more.",
    )
    add = parser.add_argument
    add("what", choices=("features",), help="what is audited")
    add("path", type=Path, metavar="DIR", help="folder or file of vectors")
    add("--labels", type=Path, required=True, metavar="CSV", help="patient_id or slide_id, and a column per gene")
    add("--out", type=Path, default=Path("audited"), metavar="DIR", help="folder of the results (default: audited)")
    add("--clinical", type=Path, default=None, metavar="CSV", help="clinical table with hospital and diagnosis")
    add("--splits", type=Path, default=None, metavar="FILE", help="a split that is audited, too")
    add("--slides", type=Path, default=None, metavar="DIR", help="the slides, to check places and draw maps")
    add("--encoder", default="", metavar="NAME", help="which encoder of an AtlasPatch file")
    add("--patches", type=Path, default=None, metavar="DIR", help="CLAM's patch files, which know the scale")
    add("--genes", type=listed_names, default=(), metavar="GENE,…", help="columns of --labels (default: like genes)")
    add("--variables", type=listed_names, default=("age_years", "sex", "smoking", "stage"), metavar="COLUMN,…",
        help="the clinical record (default: age_years,sex,smoking,stage)")  # fmt: skip
    for name, default, what in (
        ("folds", 5, "folds of the patients"), ("repeats", 5, "divisions that are averaged"),
        ("draws", 200, "exchanges of labels"), ("attention-draws", 19, "the same of attention MIL; 0: leave it out"),
        ("tiles", 128, "vectors of a slide that attention MIL sees"), ("maps", 0, "slides whose attention is drawn"),
        ("min-positives", 10, "least patients in each class"),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")


def run(options: argparse.Namespace) -> int:
    """Audit; 0 whatever was found."""
    quiet_threads()
    from deeplrhe_utils.running.jobs.audit import AuditOptions, audit_features

    audit_features(options.path, options.out, as_options(AuditOptions, options), say)
    return OK
