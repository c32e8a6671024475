"""``deeplrhe run``: the notebooks of a profile."""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.running.commands import OK, Commands


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser("run", help="run the notebooks of a profile", description="Run a profile's notebooks.")
    add = parser.add_argument
    add("profile", metavar="PROFILE", help="see `deeplrhe profiles`")
    add("--from", dest="first", default="", metavar="NN", help="first stage")
    add("--to", dest="last", default="", metavar="NN", help="last stage")
    add("--only", default="", metavar="NN[,NN]", help="only these stages")
    add("-p", dest="parameters", action="append", default=[], metavar="[NN.]NAME=VALUE", help="set a parameter")
    add("--out", type=Path, default=None, metavar="DIR", help="run folder (default: reports/PROFILE)")
    add("--fresh", action="store_true", help="delete what earlier runs of these stages left, then run")
    add("--lanes", type=int, default=0, metavar="N", help="stages at a time, of 08 to 12 (default: as fit)")
    add("--list", action="store_true", help="show stages and parameters, start nothing")


def run(options: argparse.Namespace) -> int:
    """Run the stages, or list them; `options` also has `arguments` (what was typed) and `where` (Places or None)."""
    from deeplrhe_utils.running.machine.provenance import shown_path
    from deeplrhe_utils.running.plan.plan import Request
    from deeplrhe_utils.running.runner.pipeline import Pipeline, Places

    only = tuple(text.strip() for text in options.only.split(",") if text.strip())
    request = Request(tuple(options.parameters), options.first, options.last, only)
    command = resume_command(options.arguments)
    pipeline = Pipeline(options.profile, request, options.out, options.fresh, command, options.where or Places(),
                        max(0, options.lanes))  # fmt: skip
    if options.list:
        print(pipeline.listing())
        return OK
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        page = pipeline.run()
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(f"Report: {shown_path(page, places.REPOSITORY)}")
    return OK


def resume_command(arguments: Sequence[str]) -> str:
    """What was typed, without ``--fresh``, ready to be typed again.

    >>> resume_command(["run", "demo", "--fresh", "-p", "gene=TP53 x"])
    "python -m deeplrhe_utils run demo -p 'gene=TP53 x'"
    """
    return shlex.join(["python", "-m", "deeplrhe_utils", *(word for word in arguments if word != "--fresh")])


def terminate(*_: Any) -> None:
    """SIGTERM as an exception."""
    from deeplrhe_utils.running.runner.pipeline import Terminated

    raise Terminated
