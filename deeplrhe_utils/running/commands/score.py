"""``deeplrhe score``: AUCs from a table of scores."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, listed_names, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "score",
        help="AUCs and their like, with intervals, from a table of scores, whoever made them",
        description="Read a CSV (patient_id, label, score; optionally gene, slide_id, tile_id, fold) or what DeepPATH, "
        "STAMP, CLAM or Slideflow write; write auc.csv, figures and a page. docs/scoring.md tells more.",
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="table of scores; one per fold, or their folder")
    add("--out", type=Path, default=Path("scored"), metavar="DIR", help="folder of the results (default: scored)")
    add("--task", default="", choices=("classification", "regression", "survival"), help="classes (default), values "
        "(columns value, score) or times (time, event, score)")  # fmt: skip
    add("--higher-is", default="risk", choices=("risk", "survival"), help="what a higher score means (default: risk)")
    add("--times", type=_times, default=(), metavar="T,…", help="of the AUC of survival (default: quartiles of events)")
    add("--unit", default="patient", metavar="UNIT", help="patient (default), slide, tile or all")
    add("--rule", default="mean", metavar="RULE", help='of tiles: mean (default), "positive share" or top')
    add("--labels", type=Path, default=None, metavar="FILE", help="patient_id and a column per gene, instead")
    add(
        "--classes",
        type=Path,
        default=None,
        metavar="FILE",
        help="names of DeepPATH's, CLAM's or Slideflow's classes, one per line",
    )
    add("--columns", default="", metavar="OURS=THEIRS,…", help="such as label=outcome,score=ndka")
    add("--positive", default="", metavar="VALUE", help="label, class or event that counts as 1")
    add("--negative", type=listed_names, default=(), metavar="VALUE,…", help="labels that count as 0, if several do")
    add("--rows", default="", choices=("slide", "tile"), help="what a row is, where no column names it")
    add(
        "--genes",
        type=listed_names,
        default=(),
        metavar="GENE,…",
        help="columns of --labels (default: named like genes)",
    )
    add(
        "--any-scale",
        action="store_true",
        help="take scores outside 0 to 1, or on another scale than the values: they are ranked",
    )
    add("--min-positives", type=int, default=5, metavar="N", help="least patients in each class (default: 5)")
    add("--resamples", type=int, default=2000, metavar="N", help="draws of the bootstrap (default: 2000)")
    add("--seed", type=seed, default=0, metavar="N", help="default: 0")


def _times(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as cause:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of times, such as 12,24,36") from cause


def run(options: argparse.Namespace) -> int:
    """Score; 1 if no AUC could be estimated."""
    from deeplrhe_utils.running.jobs.score import ScoreOptions, score

    found = score(options.files, options.out, as_options(ScoreOptions, options), say)
    return OK if (found["status"] == "estimated").any() else FAILED
