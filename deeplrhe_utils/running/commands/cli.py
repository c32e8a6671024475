"""The command line: ``python -m deeplrhe_utils`` and the console script ``deeplrhe``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from deeplrhe_utils.core.errors import CompendiumError, ParameterError
from deeplrhe_utils.running.commands import (
    FAILED,
    OK,
    audit,
    cohort,
    convert,
    doctor,
    download,
    external,
    judge,
    labels,
    normalize,
    predict,
    print_anything,
    profiles,
    run,
    score,
    split,
    synth,
)

if TYPE_CHECKING:
    from deeplrhe_utils.running.runner.pipeline import Places

COMMANDS: Final = {
    "run": run, "doctor": doctor, "normalize": normalize, "predict": predict, "score": score, "split": split,
    "audit": audit, "convert": convert, "judge": judge, "external": external, "labels": labels, "cohort": cohort,
    "download": download, "synth": synth, "profiles": profiles,
}  # fmt: skip
USAGE, INTERRUPTED, TERMINATED = 2, 130, 143


def build_parser() -> argparse.ArgumentParser:
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="deeplrhe", description="Run the DeepLRHE compendium: from slides to AUC table, figures and heat maps."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in COMMANDS.values():
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None, where: Places | None = None) -> int:
    """Run one command: `argv`, or the process's arguments; `where` gives `run` other folders than the repository's.

    Returns 0 for success, 1 for a run that failed, 2 for usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    print_anything()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        options = parser.parse_args(arguments, argparse.Namespace(arguments=arguments, where=where))
    except SystemExit as stop:  # argparse has printed what was wrong
        return int(stop.code or 0)
    if not options.command:
        parser.print_help()
        return OK
    try:
        return COMMANDS[options.command].run(options)
    except CompendiumError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return USAGE if isinstance(error, ParameterError) else FAILED
    except KeyboardInterrupt as stop:
        return TERMINATED if type(stop).__name__ == "Terminated" else INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
