"""``deeplrhe external``: what one run learned, tried on the patients of another."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, quiet_threads, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "external",
        help="try what one run learned, frozen, on the patients of another, and back again",
        description="AUC with interval and null, loss of AUC, calibration slope, O/E, net benefit, and how many "
        "patients such a validation needs; all patients and adenocarcinomas. docs/external.md tells more.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="REPORT", help="run folder whose networks and probes are tried")
    add("--on", dest="other", type=Path, required=True, metavar="REPORT",
        help="run folder of the other cohort; its notebooks 01 to 04 suffice")  # fmt: skip
    add("--out", type=Path, default=Path("external"), metavar="DIR", help="folder of the results (default: external)")
    for name, default, what in (
        ("min-positives", 5, "least patients in each class"), ("folds", 5, "folds for the probe's own probabilities"),
        ("repeats", 10, "divisions that are averaged"), ("workers", 0, "processes; 0: one per core"),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")
    add("--seed", type=seed, default=1, metavar="N", help="default: 1")


def run(options: argparse.Namespace) -> int:
    """Try; 1 if no AUC could be estimated."""
    quiet_threads()
    from deeplrhe_utils.running.jobs.external import ExternalOptions, external

    found = external(options.model, options.other, options.out, as_options(ExternalOptions, options), say)
    return OK if (found["status"] == "estimated").any() else FAILED
