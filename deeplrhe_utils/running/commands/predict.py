"""``deeplrhe predict``: scores of slides by a trained network."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, quiet_threads, say


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "predict",
        help="score slides with a trained network, without labels",
        description="Find tissue on slides, and score every tile with a trained network straight from the file; no "
        "tile is written. Slides of patients that the network was trained on are refused. 1 if a slide has no score.",
    )
    add = parser.add_argument
    add("slides", type=Path, metavar="SLIDES", help="a slide, or a folder with all slides below it")
    add("--model", type=Path, required=True, metavar="FILE", help="reports/<run>/models/05/fold-N.safetensors")
    add("--out", type=Path, default=Path("scores"), metavar="DIR", help="folder of the tables (default: scores)")
    add("--mpp", type=float, default=0.5, metavar="X", help="µm/px at which tiles are cut (default: 0.5)")
    add("--edge", choices=("inside", "cover"), default="inside",
        help="squares over the slide's edge: left out, or moved inside (default: inside)")  # fmt: skip
    add("--mpp-csv", type=Path, default=None, metavar="FILE", help="slide_id,mpp that you give")
    add("--workers", type=int, default=0, metavar="N", help="processes (default: one per core)")
    add("--scheduler", default="", metavar="ADDRESS", help="a running Dask scheduler")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU when there is one")
    add("--no-stain-check", dest="stain_check", action="store_false", help="take slides that are not H&E, too")


def run(options: argparse.Namespace) -> int:
    """Score; 1 if a slide has no score."""
    quiet_threads()
    from deeplrhe_utils.running.jobs.predict import PredictOptions, all_scored, predict

    table = predict(options.slides, options.model, options.out, as_options(PredictOptions, options), say)
    return OK if all_scored(table) else FAILED
