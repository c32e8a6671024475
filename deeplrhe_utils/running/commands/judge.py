"""``deeplrhe judge``: any pipeline's answers on a synthetic cohort, held against its truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, say


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "judge",
        help="what any pipeline found of a synthetic cohort's truth",
        description="Hold scores, maps, masks and tiles of any pipeline against what `deeplrhe synth` planted: tables, "
        "sentences and a page. docs/judge.md has the formats.",
    )
    add = parser.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS", help="CSV, Parquet, DeepPATH's list, GeoJSON, TIFF, a folder")
    add("--truth", type=Path, required=True, metavar="DIR", help="the cohort, as `deeplrhe synth` wrote it")
    add("--maps", type=Path, default=None, metavar="PATH", help="tile scores, where PREDICTIONS has patients or slides")
    add("--masks", type=Path, default=None, metavar="DIR", help="what was flagged or kept: SLIDE+KIND.png, GeoJSON")
    add("--tiles", type=Path, default=None, metavar="DIR", help="normalized tiles: SLIDE/*.png")
    add("--raw-tiles", type=Path, default=None, metavar="DIR", help="the same tiles before")
    add("--classes", type=Path, default=None, metavar="FILE", help="DeepPATH's class names, one per line: genes")
    add("--tile-um", type=float, default=256.0, metavar="µm", help="side of tiles named by column and row (256)")
    add("--min-positives", type=int, default=3, metavar="N", help="least patients in each class (default: 3)")
    add("--out", type=Path, default=Path("judged"), metavar="DIR", help="folder of the results (default: judged)")


def run(options: argparse.Namespace) -> int:
    """Judge; 1 if no AUC could be estimated."""
    from deeplrhe_utils.running.page.judged import JudgeOptions, judge_answers

    found = judge_answers(options.predictions, options.out, as_options(JudgeOptions, options), say)
    return OK if (found["status"] == "estimated").any() else FAILED
