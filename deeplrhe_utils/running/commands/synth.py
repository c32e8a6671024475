"""``deeplrhe synth``: a synthetic cohort with its truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import OK, Commands, seed
from deeplrhe_utils.running.machine.provenance import usable_cores


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "synth", help="write a synthetic cohort with its truth", description="Write synthetic slides and their truth."
    )
    add = parser.add_argument
    add("preset", metavar="PRESET", help="smoke, demo, paper (180 large slides) or stress (one huge one)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the cohort; resumed if it exists")
    add("--seed", type=seed, default=None, metavar="N", help="default: the preset's")
    add("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter, or GENE=d")
    add("--workers", type=int, default=0, metavar="N", help="processes (default: one per core)")
    add("--scheduler", default="", metavar="ADDRESS", help="a running Dask scheduler")


def run(options: argparse.Namespace) -> int:
    """Write the cohort."""
    from deeplrhe_utils.running.jobs.synth import make_spec, sentence, write_synthetic_cohort

    spec = make_spec(options.preset, options.parameters, options.seed)
    plan = write_synthetic_cohort(
        spec, options.out, workers=options.workers or usable_cores(), scheduler=options.scheduler
    )
    print(sentence(plan, options.out))
    return OK
