"""The command line: ``python -m deeplrhe_utils`` and the console script ``deeplrhe``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, ParameterError
from deeplrhe_utils.running.arguments import build_parser

if TYPE_CHECKING:
    from deeplrhe_utils.running.pipeline import Places

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None, where: Places | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: the process's.
    where : Places, optional
        Other folders than the repository's own, for `run`.

    Returns
    -------
    int
        0 success, 1 the run failed, 2 usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed what was wrong
        return int(stop.code or 0)
    if not options.command:
        parser.print_help()
        return OK
    try:
        return _dispatch(options, arguments, where)
    except CompendiumError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return USAGE if isinstance(error, ParameterError) else FAILED
    except KeyboardInterrupt as stop:
        return TERMINATED if type(stop).__name__ == "Terminated" else INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        return FAILED


def _dispatch(options: argparse.Namespace, arguments: list[str], where: Places | None) -> int:
    if options.command == "profiles":
        return _profiles()
    if options.command == "doctor":
        return _doctor(options)
    if options.command == "synth":
        return _synth(options)
    if options.command == "normalize":
        return _normalize(options)
    if options.command == "predict":
        return _predict(options)
    if options.command == "score":
        return _score(options)
    if options.command == "split":
        return _split(options)
    if options.command == "cohort":
        return _cohort(options)
    if options.command == "download":
        return _download(options)
    return _run(options, arguments, where)


def _doctor(options: argparse.Namespace) -> int:
    from deeplrhe_utils.running.doctor import examine, examine_slides

    if not options.slides:
        if options.mpp_csv or options.csv or options.no_estimate:
            raise ParameterError("--mpp-csv, --csv and --no-estimate are about slides", fix="Name slides or a folder")
        print(examine(options.out or places.REPORTS))
        return OK
    text, good = examine_slides(options.slides, options.mpp_csv, options.csv, estimate=not options.no_estimate)
    _say(text)
    return OK if good else FAILED


def _say(text: str) -> None:
    """Print at once; a terminal that lacks a character of a file name must not stop us."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _normalize(options: argparse.Namespace) -> int:
    import dataclasses
    import os

    # Before torch is loaded: threads that spin while they wait make a busy machine many times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from deeplrhe_utils.running.restain import any_failed, normalize
    from deeplrhe_utils.running.restain_recipe import Recipe

    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
    rows = normalize(options.paths, options.out, recipe, _say)
    return FAILED if any_failed(rows) else OK


def _predict(options: argparse.Namespace) -> int:
    import dataclasses
    import os

    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as for normalize
    from deeplrhe_utils.running.predict import Settings, all_scored, predict

    settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
    return OK if all_scored(predict(options.slides, options.model, options.out, settings, _say)) else FAILED


def _score(options: argparse.Namespace) -> int:
    import dataclasses

    from deeplrhe_utils.running.score import Wish, score

    wish = Wish(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)})
    found = score(options.file, options.out, wish, _say)
    return OK if (found["status"] == "estimated").any() else FAILED


def _split(options: argparse.Namespace) -> int:
    import dataclasses

    from deeplrhe_utils.running.split import Wish, split

    split(
        options.labels, Wish(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)}), _say
    )
    return OK


def _cohort(options: argparse.Namespace) -> int:
    import dataclasses

    from deeplrhe_utils.running.cohort import Wish, cohort

    cohort(Wish(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)}), _say)
    return OK


def _download(options: argparse.Namespace) -> int:
    import dataclasses

    from deeplrhe_utils.running.download import Wish, fetch_manifest, succeeded

    wish = Wish(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)})
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return OK if succeeded(fetch_manifest(wish, _say)) else FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _synth(options: argparse.Namespace) -> int:
    import os

    from deeplrhe_utils.running.synth import make_spec, sentence, write_cohort

    spec = make_spec(options.preset, options.parameters, options.seed)
    plan = write_cohort(spec, options.out, workers=options.workers or os.cpu_count() or 1, scheduler=options.scheduler)
    print(sentence(plan, options.out))
    return OK


def _profiles() -> int:
    from deeplrhe_utils.running.profiles import load_profile, profile_names

    for name in profile_names(places.PROFILES):
        profile = load_profile(name, places.PROFILES)
        print(f"{name:<12} {profile.title}")
    return OK


def _run(options: argparse.Namespace, arguments: list[str], where: Places | None) -> int:
    from deeplrhe_utils.running.pipeline import Pipeline, Places
    from deeplrhe_utils.running.plan import Request

    only = tuple(text.strip() for text in options.only.split(",") if text.strip())
    request = Request(tuple(options.parameters), options.first, options.last, only)
    command = resume_command(arguments)
    pipeline = Pipeline(options.profile, request, options.out, options.fresh, command, where or Places())
    if options.list:
        print(pipeline.listing())
        return OK
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        page = pipeline.run()
    finally:
        signal.signal(signal.SIGTERM, previous)
    from deeplrhe_utils.running.provenance import shown_path

    print(f"Report: {shown_path(page, places.REPOSITORY)}")
    return OK


def resume_command(arguments: Sequence[str]) -> str:
    """What was typed, without ``--fresh``, ready to be typed again.

    >>> resume_command(["run", "demo", "--fresh", "-p", "gene=TP53 x"])
    "python -m deeplrhe_utils run demo -p 'gene=TP53 x'"
    """
    return shlex.join(["python", "-m", "deeplrhe_utils", *(word for word in arguments if word != "--fresh")])


def _terminate(*_: Any) -> None:
    from deeplrhe_utils.running.pipeline import Terminated

    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
